//! Progress bars on stderr, and only where a person sees them: if stderr is a terminal.
//!
//! Start with [`bytes`] or [`steps`].
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::Duration;

/// How often a bar is drawn at most, a second.
const DRAWN_HZ: u8 = 10;
/// The time after which a bar that stands still is drawn again.
const TICK: Duration = Duration::from_millis(250);

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(DRAWN_HZ)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(length, target);
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("a template of this file"));
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// A bar for bytes whose number is not known beforehand.
pub fn bytes(what: &'static str) -> ProgressBar {
    let bar = bar(None, "{msg}  {bytes}  {bytes_per_sec}  {elapsed_precise}");
    bar.set_message(what);
    bar
}

/// A bar for so many things.
pub fn steps(what: &'static str, length: u64) -> ProgressBar {
    let template = "{msg}  [{bar:30}]  {pos} of {len}  {per_sec}  {eta} left";
    let bar = bar(Some(length), template);
    bar.set_message(what);
    bar
}
