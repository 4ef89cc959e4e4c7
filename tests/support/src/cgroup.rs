//! A group of processes with limits: the kernel kills one of them that needs more memory, and stops
//! them while they have used up their processor time.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The time over which processor time is counted, in microseconds.
const PERIOD_US: u64 = 100_000;

/// What the processes of a group may take together.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Bytes of memory.
    Memory(u64),
    /// Hundredths of a core.
    CpuPercent(u64),
}

/// A cgroup below that of the tests; removed when dropped, after its processes have ended.
pub struct Cgroup {
    /// One for all limits in version 2 of cgroups, one for each in version 1.
    folders: Vec<PathBuf>,
}

impl Limit {
    fn controller(self) -> &'static str {
        match self {
            Limit::Memory(_) => "memory",
            Limit::CpuPercent(_) => "cpu",
        }
    }

    /// The name of the file with the limit, and its text.
    fn file(self, is_v2: bool) -> (&'static str, String) {
        match (self, is_v2) {
            (Limit::Memory(bytes), false) => ("memory.limit_in_bytes", bytes.to_string()),
            (Limit::Memory(bytes), true) => ("memory.max", bytes.to_string()),
            (Limit::CpuPercent(percent), false) => {
                // The period is that of the kernel's default.
                ("cpu.cfs_quota_us", (PERIOD_US * percent / 100).to_string())
            }
            (Limit::CpuPercent(percent), true) => {
                let quota_us = PERIOD_US * percent / 100;
                ("cpu.max", format!("{quota_us} {PERIOD_US}"))
            }
        }
    }
}

/// The folder of a controller for this process, and whether it is that of version 2.
fn folder_of(controller: &str) -> Option<(PathBuf, bool)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in own.lines() {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == controller) {
            let folder = Path::new("/sys/fs/cgroup").join(controller).join(path);
            return Some((folder, false));
        }
        let folder = Path::new("/sys/fs/cgroup").join(path);
        if controllers.is_empty() && folder.join("cgroup.controllers").exists() {
            return Some((folder, true));
        }
    }
    None
}

impl Cgroup {
    /// A new group whose processes keep these limits together; `None` where this process may not
    /// make one.
    pub fn new(limits: &[Limit]) -> Option<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut group = Cgroup {
            folders: Vec::new(),
        };
        for limit in limits {
            let (parent, is_v2) = folder_of(limit.controller())?;
            let folder = parent.join(format!("tern-test-{}-{number}", std::process::id()));
            if !group.folders.contains(&folder) {
                std::fs::create_dir(&folder).ok()?;
                group.folders.push(folder.clone());
            }
            let (file, text) = limit.file(is_v2);
            let file = folder.join(file);
            // Without the controller the new folder lacks the file.
            if !file.exists() {
                return None;
            }
            std::fs::write(file, text).ok()?;
        }
        Some(group)
    }

    /// The command by which a shell joins the group.
    pub fn join(&self) -> String {
        let joins = self.folders.iter();
        let joins = joins.map(|folder| format!("echo $$ > {}/cgroup.procs", folder.display()));
        joins.collect::<Vec<_>>().join(" && ")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Fails while a process is in it, when a test has failed. An empty group does no harm.
            let _ = std::fs::remove_dir(folder);
        }
    }
}
