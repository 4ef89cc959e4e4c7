//! How much memory this process may use, if `-max-memory` does not say: the limit of its cgroup, or
//! a quarter of the machine's memory.
//!
//! The files are read through the function that the caller passes. A file that is missing, or has
//! another form, sets no limit. Start with [`find`].
use crate::core::memory::MEMORY_BYTES_MIN;

/// The figure where `/proc` does not have the machine's memory: 1 GiB.
const UNKNOWN_BYTES: u64 = 1 << 30;
/// The part of the machine's memory that is used without a limit.
const MACHINE_PARTS: u64 = 4;

/// The files of the two versions of cgroups: the controllers in `/proc/self/cgroup`, the folder,
/// and the name of the file with the limit.
const CGROUPS: [(&str, &str, &str); 3] = [
    ("", "/sys/fs/cgroup", "memory.max"),
    ("", "/sys/fs/cgroup/unified", "memory.max"),
    ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// The text of a file; `None` if it cannot be read.
type ReadFile<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A figure, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFigure {
    /// The bytes that this process may use.
    pub bytes: u64,
    /// Its source, for the log: the setting, or the file.
    pub source: String,
}

/// The figure without a setting.
pub fn find(read: ReadFile) -> MemoryFigure {
    let machine = machine_bytes(read);
    let limit = cgroup_limit(read);
    // A cgroup without a limit has a number larger than any memory.
    let limit = limit.filter(|limit| machine.is_none_or(|machine| limit.bytes < machine));
    let without_limit = || {
        let (bytes, source) = match machine {
            Some(bytes) => (bytes / MACHINE_PARTS, "a quarter of the machine's memory"),
            None => (UNKNOWN_BYTES, "the machine's memory is unknown"),
        };
        let source = source.into();
        MemoryFigure { bytes, source }
    };
    let figure = limit.unwrap_or_else(without_limit);
    MemoryFigure {
        bytes: figure.bytes.max(MEMORY_BYTES_MIN),
        ..figure
    }
}

/// The memory of the machine in bytes.
fn machine_bytes(read: ReadFile) -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The lowest limit of this process's cgroups and their parents.
fn cgroup_limit(read: ReadFile) -> Option<MemoryFigure> {
    let own = read("/proc/self/cgroup")?;
    let mut lowest: Option<MemoryFigure> = None;
    for (controller, folder, name) in CGROUPS {
        let Some(path) = own.lines().find_map(|line| path_in(line, controller)) else {
            continue;
        };
        for (end, _) in format!("{path}/").match_indices('/') {
            let file = format!("{folder}{}/{name}", &path[..end]);
            let bytes = read(&file).and_then(|text| text.trim().parse().ok());
            let Some(bytes) = bytes else {
                continue;
            };
            if lowest.as_ref().is_none_or(|lowest| bytes < lowest.bytes) {
                let source = format!("the limit in {file}");
                lowest = Some(MemoryFigure { bytes, source });
            }
        }
    }
    lowest
}

/// The path in a line of `/proc/self/cgroup`, `NUMBER:CONTROLLERS:PATH`, if it is of this controller.
/// The root has an empty path.
fn path_in<'a>(line: &'a str, controller: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_it = controllers.split(',').any(|name| name == controller);
    is_it.then_some(path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The figure in MiB and its source, with these files.
    fn found(files: &[(&str, &str)]) -> (u64, String) {
        let read = |path: &str| {
            let mut files = files.iter();
            let file = files.find(|(name, _)| *name == path);
            file.map(|(_, text)| text.to_string())
        };
        let figure = find(&read);
        (figure.bytes / MIB, figure.source)
    }

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemFree: 1 kB\nMemTotal:  8388608 kB\n");

    #[test]
    fn without_a_limit_it_is_a_quarter_of_the_machine() {
        let quarter = "a quarter of the machine's memory".to_string();
        assert_eq!(found(&[MACHINE]), (2048, quarter.clone()));
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a\n"),
            ("/sys/fs/cgroup/a/memory.max", "max\n"),
        ];
        assert_eq!(found(&files), (2048, quarter.clone()));
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "4:cpu,memory:/\n0::/\n"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        assert_eq!(found(&files), (2048, quarter));
        let unknown = "the machine's memory is unknown".to_string();
        assert_eq!(found(&[]), (1024, unknown));
    }

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/memory.max", "33554432\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "67108864\n"),
        ];
        let source = "the limit in /sys/fs/cgroup/a/memory.max".to_string();
        assert_eq!(found(&files), (32, source));
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "4:memory:/c\n"),
            ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1000\n"),
        ];
        let source = "the limit in /sys/fs/cgroup/memory/c/memory.limit_in_bytes".to_string();
        assert_eq!(found(&files), (16, source));
    }
}
