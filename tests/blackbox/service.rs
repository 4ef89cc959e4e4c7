//! tern as a service of systemd: its reports to the manager, and the unit in `dist`.
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use tern_support::client::DEADLINE;
use tern_support::server::{Server, tern};
use tern_support::skip::{Need, lacks};

/// The exposure of the unit, as `systemd-analyze security` counts it: tenths, of 100.
const EXPOSURE_MAX: &str = "20";

/// The next notification; the deadline's end is a failure.
fn next(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let count = socket.recv(&mut bytes).expect("a notification");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

/// The manager learns that the machine is ready, that its loop turns, and that it stops.
#[test]
fn a_manager_is_told_of_the_start_the_life_and_the_end() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let server = Server::prepare(&[]);
    let mut command = server.command(&server.data_dir());
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "200000");
    let mut child = command.spawn().expect("the binary starts");
    let mut notes = Vec::new();
    while notes.iter().filter(|note| *note == "WATCHDOG=1\n").count() < 5 {
        notes.push(next(&socket));
    }
    assert!(notes.iter().any(|note| note == "READY=1\n"), "{notes:?}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    while next(&socket) != "STOPPING=1\n" {}
    assert!(child.wait().expect("a child").success(), "{}", server.log());
}

/// systemd understands the unit, and little is left to a process that an attacker took over.
#[test]
fn the_unit_is_understood_and_tight() {
    if lacks(Need::Program("systemd-analyze")) {
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/tern.service");
    let text = std::fs::read_to_string(unit).expect("the unit");
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("tern.service");
    // The binary must exist.
    let binary = tern().get_program().to_str().expect("UTF-8").to_string();
    std::fs::write(&path, text.replace("/usr/bin/tern", &binary)).expect("written");
    for check in [
        vec!["verify"],
        vec!["security", "--offline=true", "--threshold", EXPOSURE_MAX],
    ] {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(&check).arg(&path).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{check:?}: {said}");
        assert!(!said.contains("tern.service:"), "{check:?}: {said}");
    }
}
