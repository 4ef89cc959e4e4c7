//! Tests that mount file systems or change networks do so in namespaces of their own, where they
//! are root. Nothing outside is changed, nothing stays behind when a test fails, and no right is
//! needed where the kernel lets users make namespaces.
//!
//! A process with several threads, such as the harness, cannot move. So the test starts itself
//! again: `unshare` runs the same binary with the name of this one test.
use crate::skip::{Need, lacks, succeeds};
use crate::test_name;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set in the environment of the child.
const INSIDE: &str = "TERN_TEST_INSIDE";

/// Whether this process runs in namespaces of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// How `unshare` must be called here: root needs no namespace of users, others do. `None` when both
/// fail.
pub(crate) fn unshare_flags() -> Option<&'static str> {
    ["-nm", "-Urnm"]
        .into_iter()
        .find(|flags| succeeds("unshare", &[flags, "true"]))
}

/// Runs the calling test in namespaces of its own: true there, so that the test goes on; false in
/// the process that the harness started, where the test has been run, or skipped, and must return.
///
/// # Panics
/// When the test fails inside.
#[must_use]
pub fn enter() -> bool {
    if is_inside() {
        return true;
    }
    if lacks(Need::Namespaces) {
        return false;
    }
    let test = test_name();
    let mut command = inside();
    command.args([&test, "--exact", "--nocapture"]);
    let output = command.output().expect("unshare starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{stdout}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespaces");
    assert!(stdout.contains("1 passed"), "{test} was not found inside");
    false
}

/// Runs this program with the same arguments in namespaces of its own: true there; false in the
/// process that was started first, where it has been run.
///
/// # Panics
/// When this machine makes no namespaces.
#[must_use]
pub fn enter_program(args: &[String]) -> bool {
    if is_inside() {
        return true;
    }
    let status = inside().args(args).status().expect("unshare starts");
    assert!(status.success(), "it failed in its namespaces");
    false
}

/// The command that runs this program in namespaces of its own.
fn inside() -> Command {
    let flags = unshare_flags().expect("a kernel that lets this user make namespaces");
    // `ip netns` keeps its names below /run.
    let script = "ip link set lo up && mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-c", script]);
    command.arg(std::env::current_exe().expect("the path of this program"));
    command.env(INSIDE, "1").stdin(Stdio::null());
    command
}

/// Mounts a file system of so many MiB, held in memory, as `disk` below `home`. It ends with the
/// namespaces of the test, so call `enter` first.
pub fn mount(home: &Path, mib: u32) -> PathBuf {
    assert!(is_inside(), "a test mounts only in namespaces of its own");
    let path = home.join("disk");
    std::fs::create_dir(&path).expect("a directory");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
    let output = mount.arg(&path).output().expect("mount, of util-linux");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mount: {text}");
    path
}
