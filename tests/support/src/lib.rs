//! What tern's tests share, each thing once.
//!
//! - Processes: `client` shows every byte of HTTP, `server` is a tern process, `fleet` are many of
//!   them, `net` the networks between them, `line` makes these lose and delay packets, `lossy`
//!   measures a cluster on such lines.
//! - Judges: `recordings` has the recorded answers of etcd 0.4.9, `recordings_2x` those of
//!   etcd 3.4, `linear` checks histories.
//! - `durable` is the log of a machine without a shell: the core's records, as a restart would find
//!   them. `durable_disk` is such a log with snapshots.
//! - `sim_fs` is a disk that keeps what was synced: the real log and the real data directory run on
//!   it, through power cuts, errors and lack of room.
//! - `survey` answers what members without a shell ask each other about their place.
//! - `usage` reads the memory and the disk that a process uses, `cgroup` limits both, and
//!   `image` is a disk of its own.
//! - `rng` has random numbers that a seed decides.
//! - `mutations` are planted faults as changes of the program's text.
//! - The harness: `alone` keeps heavy tests from stalling one another, `skip` ends a test that this
//!   machine cannot run, `namespace` gives a test mounts and networks of its own.
use std::path::{Path, PathBuf};

pub mod alone;
pub mod cgroup;
pub mod client;
#[cfg(feature = "core")]
pub mod durable;
#[cfg(feature = "core")]
pub mod durable_disk;
pub mod fleet;
pub mod image;
pub mod line;
pub mod linear;
pub mod lossy;
pub mod mutations;
pub mod namespace;
pub mod net;
pub mod recordings;
pub mod recordings_2x;
pub mod rng;
pub mod server;
pub mod sim_fs;
pub mod skip;
#[cfg(feature = "core")]
pub mod survey;
pub mod usage;

/// Copies a folder with all that is in it.
///
/// # Panics
///
/// If that fails.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("room");
        }
    }
}

/// The folder where the tests keep a lock and a list: that of cargo's output, `target` as a rule, or
/// a temporary one of this user's where that one cannot be written to.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // target/debug/deps/NAME
    let target = test.ancestors().nth(3).expect("cargo's folders");
    if rustix::fs::access(target, rustix::fs::Access::WRITE_OK).is_ok() {
        return target.into();
    }
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("tern-tests-{user}"));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// The binary under test. Cargo builds it before the tests and benchmarks of the package `tern`,
/// and puts it one folder above theirs.
///
/// # Panics
/// When it is not there: the caller belongs to another package.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(Path::parent);
    let binary = folder.expect("cargo's folders").join("tern");
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

/// The name of the calling test, which the harness gives to its thread.
fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().expect("a test has a name").to_string()
}
