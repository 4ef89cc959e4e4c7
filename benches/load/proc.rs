//! What `/proc` shows of a process: CPU time, resident memory, bytes written to storage.
use std::io::{Error, Result};
use std::time::Duration;

/// User and system time that a process has used so far, from `/proc`.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .map(|&i| {
            fields
                .get(i)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        })
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    field_of(&format!("/proc/{pid}/status"), "VmRSS:").map(|kib| kib * 1024)
}

/// Bytes that a process has caused to be written to storage.
pub fn written_bytes(pid: u32) -> Result<u64> {
    field_of(&format!("/proc/{pid}/io"), "write_bytes:")
}

fn field_of(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .find_map(|l| {
            l.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| Error::other(format!("{path} has no {name}")))
}
