//! The core of a process, its wait for one, and its peak of memory.
//!
//! A latency that was measured on a busy machine says little about the server. The kernel counts
//! how long each thread was runnable without a core (`/proc/PID/schedstat`). That wait can be
//! subtracted from the latency of a request. Start with `RunQueue`.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The time that one thread was runnable and had no core.
pub struct RunQueue(File);

impl RunQueue {
    /// That of the main thread of a process.
    pub fn of(pid: u32) -> RunQueue {
        RunQueue(File::open(format!("/proc/{pid}/schedstat")).expect("the process runs"))
    }

    /// That of the calling thread.
    pub fn of_this_thread() -> RunQueue {
        RunQueue(File::open("/proc/thread-self/schedstat").expect("this thread runs"))
    }

    /// So far.
    pub fn waited(&self) -> Duration {
        let mut text = [0; 80];
        let length = self.0.read_at(&mut text, 0).expect("the thread runs");
        let text = String::from_utf8_lossy(&text[..length]);
        let waited = text.split_whitespace().nth(1);
        Duration::from_nanos(waited.and_then(|ns| ns.parse().ok()).expect("a number"))
    }
}

/// The time for which the host has taken a core from this virtual machine so far, in units of 10 ms
/// (`steal` of proc_stat(5)). The kernel counts it as processor time of the thread that ran.
pub fn stolen(core: usize) -> Duration {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux");
    let name = format!("cpu{core} ");
    let line = text.lines().find(|line| line.starts_with(&name));
    let ticks = line.and_then(|line| line.split_whitespace().nth(8));
    let ticks: u64 = ticks
        .and_then(|ticks| ticks.parse().ok())
        .expect("a number");
    Duration::from_millis(10 * ticks)
}

/// Keeps all threads of a process on one core. Returns whether that was possible.
pub fn pin(pid: u32, core: usize) -> bool {
    let mut taskset = Command::new("taskset");
    taskset.args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()]);
    let status = taskset.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// From now on the peak (`VmHWM`) begins with the present memory.
pub fn reset_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("an own process");
}
