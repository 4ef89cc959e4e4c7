//! Starts that cannot succeed: each names what is wrong, exits 1 and changes no file.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tern_support::client::DEADLINE;
use tern_support::server::{Server, tern};

/// Runs to its end; a process that does not end by itself is a failure.
fn output(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pid = rustix::process::Pid::from_child(&child);
    let (send, receive) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().expect("a child");
        send.send(()).ok();
        output
    });
    if receive.recv_timeout(DEADLINE).is_err() {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
        panic!("it runs on: {:?}", waiter.join());
    }
    waiter.join().expect("the waiter")
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).expect("UTF-8")
}

/// The command exits 1, and its message contains all of these.
pub fn refused(command: Command, says: &[&str]) {
    let output = output(command);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in says {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn with(args: &[&str]) -> Command {
    let mut command = tern();
    command.args(args);
    command
}

#[test]
fn flags_that_are_wrong() {
    refused(with(&["-none"]), &["none"]);
    refused(with(&["-name"]), &["name"]);
    refused(with(&["-snapshot-count", "many"]), &["snapshot-count"]);
    refused(with(&["-addr", "127.0.0.1"]), &["addr"]);
    refused(with(&["-addr", "http://127.0.0.1:4001"]), &["addr"]);
    refused(with(&["-bind-addr", ":4001"]), &["bind-addr"]);
    refused(with(&["stray"]), &["stray"]);
    refused(with(&["-config", "/none/etcd.conf"]), &["/none/etcd.conf"]);
}

/// Without the variable the machine would begin in another directory.
#[test]
fn settings_that_are_not_utf_8() {
    let latin_1 = OsStr::from_bytes(b"/tmp/donn\xe9es");
    let mut flag = tern();
    flag.arg("-data-dir").arg(latin_1);
    refused(flag, &["/tmp/donn", "UTF-8"]);
    let mut variable = tern();
    variable.env("ETCD_DATA_DIR", latin_1);
    refused(variable, &["ETCD_DATA_DIR", "UTF-8"]);
}

#[test]
fn flags_that_only_print() {
    for flag in ["-version", "--version", "-h", "-help"] {
        let output = output(with(&[flag]));
        assert_eq!(output.status.code(), Some(0), "{flag}");
        assert!(!output.stdout.is_empty(), "{flag}");
    }
    let version = output(with(&["-version"]));
    assert!(text(&version).contains(tern::VERSION));
}

/// A second machine on the same directory waits 2 s for the lock, then reports it and leaves the
/// first alone.
#[test]
fn a_directory_in_use() {
    let server = Server::start(&[]);
    server.client("PUT", "/v2/keys/k", "value=v");
    let other = Server::prepare(&[]);
    let command = other.command(&server.data_dir());
    refused(command, &[&server.data_dir().display().to_string()]);
    assert_eq!(server.client("PUT", "/v2/keys/k", "value=w").status(), 200);
}

#[test]
fn a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut server = Server::prepare(&[]);
    server.client_port = taken.local_addr().expect("bound").port();
    let port = server.client_port.to_string();
    refused(server.command(&server.data_dir()), &[&port]);
}

/// The log knows the member by its name. Another name is refused, and nothing is changed.
#[test]
fn a_name_that_is_not_the_logs() {
    let mut server = Server::prepare_as("first", &[]);
    server.run();
    server.client("PUT", "/v2/keys/k", "value=v");
    server.terminate();
    let data_dir = server.data_dir();
    let renamed = Server::prepare_as("second", &[]);
    refused(renamed.command(&data_dir), &["-name", "first", "second"]);
    server.run();
    let answer = server.client("GET", "/v2/keys/k", "");
    assert_eq!(answer.status(), 200);
}

/// A directory that cannot be made or written: below a file, and on a file system that is read
/// only.
#[test]
fn a_directory_that_cannot_be_written() {
    let server = Server::prepare(&[]);
    let file = server.home.path().join("file");
    std::fs::write(&file, "not a directory").expect("a file");
    let below = file.join("data");
    refused(server.command(&below), &[&below.display().to_string()]);
    assert_eq!(std::fs::read(&file).expect("a file"), b"not a directory");
    refused(server.command(Path::new("/proc/tern")), &["/proc/tern"]);
}

/// What etcd wrote is refused with how to move it, and stays as it is.
#[test]
fn a_directory_of_etcd() {
    let server = Server::prepare(&[]);
    let data_dir = server.data_dir();
    std::fs::create_dir_all(data_dir.join("snapshot")).expect("a folder");
    std::fs::write(data_dir.join("conf"), r#"{"commitIndex":0,"peers":[]}"#).expect("a file");
    std::fs::write(data_dir.join("log"), "0000001a etcd's own").expect("a file");
    refused(
        server.command(&data_dir),
        &[&data_dir.display().to_string(), "etcd"],
    );
    let log = std::fs::read_to_string(data_dir.join("log")).expect("a file");
    assert_eq!(log, "0000001a etcd's own");
}

/// A directory whose files have another format's number is refused, whichever of them it is, and
/// stays as it is. (Only the number is changed, so that checksums are wrong too: that may be told
/// as damage.)
#[test]
fn a_directory_of_another_version() {
    let mut server = Server::start(&[]);
    let mut conn = tern_support::client::Conn::open(server.client_port);
    for _ in 0..50 {
        assert!(conn.ask("PUT", "/v2/keys/k", "value=v").status() < 300);
    }
    assert!(server.terminate().success());
    let mut changed = 0;
    for path in files(&server.data_dir()) {
        let whole = std::fs::read(&path).expect("a file");
        if !whole.starts_with(b"tern ") {
            // A snapshot that cannot be read is no reason to refuse while the log has all.
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy();
        // The number stands behind the eight bytes that say what a file is; `state` has two such
        // pages.
        let mut newer = whole.clone();
        for page in if name == "state" { 0..2 } else { 0..1 } {
            let place = page * 4096 + 8;
            assert_eq!(newer[place..place + 4], 1u32.to_le_bytes(), "{name}");
            newer[place] = 9;
        }
        std::fs::write(&path, &newer).expect("a file");
        refused(server.command(&server.data_dir()), &[&name]);
        let kept = std::fs::read(&path).expect("a file");
        assert!(kept == newer, "{name} was written to");
        std::fs::write(&path, &whole).expect("a file");
        changed += 1;
    }
    assert!(changed >= 2, "a log and a state");
    server.run();
    assert_eq!(server.client("GET", "/v2/keys/k", "").status(), 200);
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut open = vec![directory.to_path_buf()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(path)
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").path()),
            );
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Where in the log a value stands: file and offset.
fn place_of(data_dir: &Path, value: &str) -> (std::path::PathBuf, usize) {
    for path in files(data_dir) {
        let bytes = std::fs::read(&path).expect("a file");
        let found = bytes
            .windows(value.len())
            .position(|window| window == value.as_bytes());
        if let Some(offset) = found {
            return (path, offset);
        }
    }
    panic!("{value} is nowhere below {}", data_dir.display());
}

/// One flipped bit in an acknowledged write: the machine does not start, and names the place.
#[test]
fn a_damaged_log() {
    let mut server = Server::start(&[]);
    let mut conn = tern_support::client::Conn::open(server.client_port);
    for number in 0..200 {
        let body = format!("value=value-number-{number:03}-ends");
        assert!(conn.ask("PUT", "/v2/keys/k", &body).status() < 300);
    }
    server.kill();
    let (path, offset) = place_of(&server.data_dir(), "value-number-100-ends");
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[offset + 3] ^= 0x10;
    std::fs::write(&path, &bytes).expect("a file");
    let name = path
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    refused(
        server.command(&server.data_dir()),
        &[&name, "offset", "entry"],
    );
    bytes[offset + 3] ^= 0x10;
    std::fs::write(&path, &bytes).expect("a file");
    server.run();
    let value = server.client("GET", "/v2/keys/k", "").json();
    assert_eq!(value["node"]["value"], "value-number-199-ends");
}
