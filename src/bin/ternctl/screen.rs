//! The screen of `top`: drawn in place on a terminal, one text after the other elsewhere.
//!
//! On a terminal the alternate screen is used, and keys are read without echo; both end with the
//! value, also when a signal ends the process. Start with [`Screen::open`].
use crate::failure::Failure;
use crate::output::print;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tern::shell::clock::{self, Clock};

/// Takes the alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and gives the screen back.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves the cursor to the first place.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line, and the rest of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// How long to wait for a key before signals are looked at again.
const KEY_WAIT: Duration = Duration::from_millis(50);

pub struct Screen {
    /// The state of the terminal before; `None` if stdin is none.
    former: Option<Termios>,
    is_terminal: bool,
    /// SIGINT or SIGTERM came.
    is_interrupted: Arc<AtomicBool>,
    /// The last text, which stays visible after the end.
    last: RefCell<String>,
    clock: Clock,
}

impl Screen {
    /// Takes the terminal.
    pub fn open() -> Screen {
        let is_terminal = io::stdout().is_terminal();
        let is_interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Fails only for signals that cannot be caught.
            let _ = flag::register(signal, is_interrupted.clone());
        }
        let former = is_terminal.then(without_echo).flatten();
        if is_terminal {
            let _ = print(ENTER);
        }
        Screen {
            former,
            is_terminal,
            is_interrupted,
            last: RefCell::new(String::new()),
            clock: Clock::new(),
        }
    }

    /// Shows a text in place of the last one; on a terminal as much of it as there is room for.
    ///
    /// # Errors
    ///
    /// stdout cannot be written to.
    pub fn draw(&self, text: &str) -> Result<(), Failure> {
        if !self.is_terminal {
            return print(format!("{text}\n"));
        }
        *self.last.borrow_mut() = text.to_string();
        let size = tcgetwinsize(io::stdout()).ok();
        let rows = size.map_or(24, |size| usize::from(size.ws_row).max(2));
        let columns = size.map_or(80, |size| usize::from(size.ws_col).max(20));
        let mut drawn = HOME.to_string();
        for line in text.lines().take(rows - 1) {
            drawn.extend(line.chars().take(columns));
            drawn.push_str(CLEAR_LINE);
            drawn.push_str("\r\n");
        }
        drawn.push_str(CLEAR_BELOW);
        print(drawn)
    }

    /// Waits. Returns whether the user wants to leave: by q, Ctrl-C, or a signal.
    pub fn is_left_within(&self, time: Duration) -> bool {
        let end_us = self.clock.now().mono_us + time.as_micros() as u64;
        loop {
            if self.is_interrupted.load(Ordering::Relaxed) {
                return true;
            }
            let now_us = self.clock.now().mono_us;
            if now_us >= end_us {
                return false;
            }
            let wait = Duration::from_micros(end_us - now_us).min(KEY_WAIT);
            if self.former.is_none() {
                clock::pause(wait.as_millis() as u64 + 1);
            } else if has_key(wait) && is_leaving_key() {
                return true;
            }
        }
    }

    /// Gives the terminal back. Returns the last text, to be left on the screen.
    pub fn close(self) -> String {
        self.last.take()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = print(LEAVE);
        }
        if let Some(former) = &self.former {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, former);
        }
    }
}

/// Lets keys arrive one by one and unseen. Returns the former state.
fn without_echo() -> Option<Termios> {
    let former = tcgetattr(io::stdin()).ok()?;
    let mut changed = former.clone();
    changed.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(io::stdin(), OptionalActions::Now, &changed).ok()?;
    Some(former)
}

fn has_key(wait: Duration) -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec::try_from(wait).ok();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

fn is_leaving_key() -> bool {
    let mut key = [0];
    match rustix::io::read(io::stdin(), &mut key) {
        // The terminal is gone.
        Ok(0) | Err(_) => true,
        Ok(_) => matches!(key[0], b'q' | b'Q'),
    }
}
