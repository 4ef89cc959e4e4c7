//! Tests that this machine cannot run. A test asks for what it needs beyond cargo and a C compiler
//! and ends early where that is missing:
//!
//! ```no_run
//! # use tern_support::skip::{Need, lacks};
//! if lacks(Need::Strace) {
//!     return;
//! }
//! ```
//!
//! The skip is reported in a line on stderr, which the harness does not capture, and kept in
//! `target/skipped.txt`. With `TERN_TESTS=all` in the environment a skip is a failure.
use crate::cgroup::{Cgroup, Limit};
use crate::{folder, test_name};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a test needs of the machine that it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Namespaces of users, mounts and networks, and the programs `unshare`, `mount` and `ip`.
    Namespaces,
    /// A namespace of networks, which the test is in already, and TUN devices in it.
    Tun,
    /// `strace`, and the right to trace a child.
    Strace,
    /// The right to make a cgroup with a limit of memory.
    MemoryLimit,
    /// Root, loop devices and the program that makes this file system: an image is mounted.
    Image(&'static str),
    /// A program in the `PATH`.
    Program(&'static str),
}

impl Need {
    /// What is missing; `None` when the need is met.
    fn missing(self) -> Option<String> {
        match self {
            Need::Namespaces => missing_for_namespaces(),
            Need::Tun => {
                let args = ["tuntap", "add", "dev", "tried", "mode", "tun"];
                let has_tun = succeeds("ip", &args);
                let _ = succeeds("ip", &["link", "del", "tried"]);
                (!has_tun).then(|| "TUN devices (/dev/net/tun)".into())
            }
            Need::Strace => {
                let traced = ["-qq", "-o", "/dev/null", "true"];
                (!succeeds("strace", &traced)).then(|| "strace that can trace a child".into())
            }
            Need::Program(name) => (!is_installed(name)).then(|| format!("the program {name}")),
            Need::MemoryLimit => match Cgroup::new(&[Limit::Memory(1 << 20)]) {
                Some(_) => None,
                None => Some("a cgroup with a limit of memory, which this user may make".into()),
            },
            Need::Image(kind) => {
                if !rustix::process::geteuid().is_root() || crate::namespace::is_inside() {
                    return Some("root, to mount an image".into());
                }
                if !Path::new("/dev/loop-control").exists() {
                    return Some("loop devices".into());
                }
                let mkfs = format!("mkfs.{kind}");
                (!is_installed(&mkfs)).then_some(mkfs)
            }
        }
    }
}

fn missing_for_namespaces() -> Option<String> {
    for program in ["unshare", "mount", "ip"] {
        if !is_installed(program) {
            return Some(format!("the program {program}"));
        }
    }
    match crate::namespace::unshare_flags() {
        Some(_) => None,
        None => Some("a kernel that lets this user make namespaces".into()),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether something is missing here, so that the test must end; the skip is reported.
///
/// # Panics
/// With `TERN_TESTS=all` if the need is not met.
#[must_use]
pub fn lacks(need: Need) -> bool {
    let Some(missing) = need.missing() else {
        return false;
    };
    let test = test_name();
    let is_complete = std::env::var("TERN_TESTS").is_ok_and(|value| value == "all");
    assert!(!is_complete, "{test} needs {missing} (TERN_TESTS=all)");
    let count = record(&test, &missing);
    // Not `eprintln!`: the harness would keep the line back when the test passes.
    let line = format!("skipped: {test} needs {missing} ({count} skipped in this run)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    true
}

/// Appends a line to `target/skipped.txt` and returns how many this run of cargo has there. The
/// first line names the run; the file of an earlier run is begun again.
fn record(test: &str, missing: &str) -> usize {
    let cargo = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let head = format!("run {cargo}\n");
    let path = folder().join("skipped.txt");
    let mut options = File::options();
    options.create(true).read(true).append(true);
    let mut file = options.open(&path).expect("target/skipped.txt opens");
    file.lock().expect("target/skipped.txt can be locked");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is text");
    if !text.starts_with(&head) {
        file.set_len(0).expect("it can be begun again");
        file.rewind().expect("a file has a beginning");
        file.write_all(head.as_bytes()).expect("room for a line");
        text = head;
    }
    let line = format!("{test}: needs {missing}\n");
    file.write_all(line.as_bytes()).expect("room for a line");
    text.lines().count()
}
