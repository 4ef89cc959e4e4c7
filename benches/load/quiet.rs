//! A guard: a figure that was taken beside other work says little, so a measurement waits until the
//! machine is quiet, and stops if it does not become quiet.
//!
//! `--busy` switches the guard off. Then only the ratios of alternating runs mean something.
use std::time::{Duration, Instant};

/// The machine is quiet if other processes use at most this part of its processors.
const BUSY_MAX: f64 = 0.10;
/// How long the load of the processors is observed.
const SAMPLE: Duration = Duration::from_millis(500);
/// The wait for a quiet machine ends after this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The jiffies of all processors since the start of the machine: busy ones, and all.
fn jiffies() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = stat.lines().next().unwrap_or("");
    let numbers = line.split_whitespace().skip(1).take(8);
    let numbers: Vec<u64> = numbers.map(|n| n.parse().unwrap_or(0)).collect();
    let all: u64 = numbers.iter().sum();
    // The fourth is idle time, the fifth the wait for disks.
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// The part of the processors that is busy while this program does nothing.
fn busy() -> f64 {
    let before = jiffies();
    std::thread::sleep(SAMPLE);
    let after = jiffies();
    let all = (after.1 - before.1).max(1);
    (after.0 - before.0) as f64 / all as f64
}

/// Waits until the machine is quiet. Ends the program with a sentence if it stays busy.
pub fn wait() {
    let start = Instant::now();
    loop {
        let busy = busy();
        if busy <= BUSY_MAX {
            return;
        }
        let percent = busy * 100.0;
        if start.elapsed() > PATIENCE {
            eprintln!(
                "stopped: other processes use {percent:.0} % of the processors for {} s. Measure on \
                 a quiet machine, or with --busy",
                PATIENCE.as_secs()
            );
            std::process::exit(1);
        }
        eprintln!("  waiting: other processes use {percent:.0} % of the processors");
        std::thread::sleep(Duration::from_secs(2));
    }
}
