//! Memory and disk that a process uses, as the kernel counts them.
use std::path::Path;

/// A figure of `/proc/PID/status` in bytes. `field` is its name there: `VmRSS` is the resident
/// memory, `VmHWM` its peak, `RssAnon` the part that the kernel cannot drop and read again.
///
/// # Panics
///
/// If no such process runs, or the kernel has no such figure in kB.
pub fn memory_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, figure) = lines.find(|(name, _)| *name == field).expect("the field");
    let kib = figure.trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") * 1024
}

/// The disk blocks of all files below a folder, in bytes. A file that is removed meanwhile counts
/// for nothing.
///
/// # Panics
///
/// If a folder cannot be read.
pub fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        bytes += match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => disk_bytes(&path),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        };
    }
    bytes
}
