//! A group of processes with a limit of memory: the kernel kills one of them that needs more.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A cgroup below that of the tests; removed when dropped, after its processes have ended.
pub struct MemoryLimit {
    folder: PathBuf,
}

/// The folder of the memory controller for this process, and the name of the file with the limit,
/// in version 2 or 1 of cgroups.
fn controller() -> Option<(PathBuf, &'static str)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in own.lines() {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            let folder = Path::new("/sys/fs/cgroup/memory").join(path);
            return Some((folder, "memory.limit_in_bytes"));
        }
        let folder = Path::new("/sys/fs/cgroup").join(path);
        if controllers.is_empty() && folder.join("cgroup.controllers").exists() {
            return Some((folder, "memory.max"));
        }
    }
    None
}

impl MemoryLimit {
    /// A new group whose processes may take `bytes` together; `None` where this process may not
    /// make one.
    pub fn new(bytes: u64) -> Option<MemoryLimit> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (parent, file) = controller()?;
        let folder = parent.join(format!("tern-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let group = MemoryLimit { folder };
        let limit = group.folder.join(file);
        // Without the controller the new folder lacks the file.
        if !limit.exists() {
            return None;
        }
        std::fs::write(limit, bytes.to_string()).ok()?;
        Some(group)
    }

    /// The command by which a shell joins the group.
    pub fn join(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.folder.display())
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Fails while a process is in it, when a test has failed. An empty group does no harm.
        let _ = std::fs::remove_dir(&self.folder);
    }
}
