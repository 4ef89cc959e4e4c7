//! A sample of damaged data directories through the binary: it serves all that it acknowledged, or
//! ends with a sentence that names the file and the next step. `tests/shell/damage.rs` has every
//! case, in one process.
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tern_support::binary;
use tern_support::client::{Conn, until};
use tern_support::copy_folder;
use tern_support::server::Server;

/// The user `nobody`: root may read everything.
const NOBODY: u32 = 65_534;

const KEYS: usize = 320;

/// Writes keys, so that snapshots and several segments exist, and stops.
fn make() -> Server {
    let mut server = Server::start(&[
        "-snapshot-count=100",
        "-max-request-bytes=1024",
        "-segment-bytes=139264",
    ]);
    let mut conn = Conn::open(server.client_port);
    let value = "v".repeat(900);
    for key in 0..KEYS {
        let answer = conn.ask("PUT", &format!("/v2/keys/{key}"), &format!("value={value}"));
        assert_eq!(answer.status(), 201);
    }
    drop(conn);
    assert!(server.terminate().success());
    server
}

/// All files of a data directory.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in [data_dir.to_path_buf(), data_dir.join("snapshot")] {
        let entries = fs::read_dir(folder).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        files.extend(paths.filter(|path| path.is_file()));
    }
    files.sort();
    files
}

type Harm = fn(&Path);

fn cut(path: &Path) {
    let length = fs::metadata(path).expect("a file").len();
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_len(length / 2).expect("cut");
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let last = bytes.iter().rposition(|b| *b != 0).unwrap_or(0);
    bytes[last / 2] ^= 1;
    fs::write(path, bytes).expect("room");
}

fn make_fifo(path: &Path) {
    fs::remove_file(path).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("made");
}

fn make_folder(path: &Path) {
    fs::remove_file(path).expect("removed");
    fs::create_dir(path).expect("made");
}

fn make_dead_link(path: &Path) {
    fs::remove_file(path).expect("removed");
    symlink("nowhere", path).expect("made");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("removed");
}

/// Starts on the directory. It must serve every key, or end with a sentence that has `named`.
fn check(server: &mut Server, data_dir: &Path, named: &str, what: &str) -> bool {
    let before = server.log().len();
    if server.try_run_on(data_dir) {
        for key in 0..KEYS {
            let answer = server.client("GET", &format!("/v2/keys/{key}"), "");
            assert_eq!(answer.status(), 200, "{what}: key {key}");
        }
        server.kill();
        return true;
    }
    let log = server.log();
    let said = &log[before..];
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(said.contains(named), "{what}: {said}");
    let steps = ["estore the directory", "move it away", "start it with -f"];
    let has_step = steps.iter().any(|step| said.contains(step));
    assert!(has_step, "{what}: no next step: {said}");
    false
}

#[test]
fn a_damaged_file_is_named_or_harmless() {
    let mut server = make();
    let whole = server.data_dir();
    let harms: [(&str, Harm); 6] = [
        ("cut", cut),
        ("flipped", flip),
        ("a FIFO", make_fifo),
        ("a folder", make_folder),
        ("a dead link", make_dead_link),
        ("removed", remove),
    ];
    let mut cases = 0;
    let mut served = 0;
    for file in files(&whole) {
        for (name, harm) in harms {
            let data_dir = server.home.path().join(format!("damaged-{cases}"));
            copy_folder(&whole, &data_dir);
            let path = data_dir.join(file.strip_prefix(&whole).expect("in it"));
            harm(&path);
            let what = format!("{} {name}", path.display());
            let named = path.file_name().expect("a name").to_string_lossy();
            // Of a missing file only the place may be known.
            let named = if name == "removed" {
                "damaged-"
            } else {
                &*named
            };
            served += usize::from(check(&mut server, &data_dir, named, &what));
            cases += 1;
        }
    }
    assert!(cases >= 30, "{cases} cases");
    assert!(served > 0 && served < cases, "{served} of {cases} served");
}

/// The binary on this directory, run by a user that is not root.
fn unprivileged(server: &Server, data_dir: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return server.command(data_dir);
    }
    // The folder of the binary may be closed to other users.
    let home = server.home.path();
    let program = home.join("tern");
    if !program.exists() {
        fs::copy(binary(), &program).expect("room");
    }
    for path in [home, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("own");
    }
    let mut owned = files(data_dir);
    owned.extend([data_dir.to_path_buf(), data_dir.join("snapshot")]);
    for path in owned {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let mut command = Command::new(program);
    command
        .args(["-name", &server.name])
        .args(["-addr", &server.client_at().to_string()])
        .args(["-peer-addr", &server.peer_at().to_string()])
        .arg("-data-dir")
        .arg(data_dir)
        .uid(NOBODY)
        .gid(NOBODY);
    command
}

/// A file that the user must not read is named, with what to do. Only an older snapshot and a part
/// of one are not needed.
#[test]
fn an_unreadable_file_is_named() {
    let server = make();
    let whole = server.data_dir();
    let newest = server.snapshots().into_iter().max().expect("a snapshot");
    for file in files(&whole) {
        let data_dir = server.home.path().join("unreadable");
        let _ = fs::remove_dir_all(&data_dir);
        copy_folder(&whole, &data_dir);
        let path = data_dir.join(file.strip_prefix(&whole).expect("in it"));
        let name = path.file_name().expect("a name").to_string_lossy();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("own file");
        let log = fs::File::create(server.home.path().join("said")).expect("made");
        let mut command = unprivileged(&server, &data_dir);
        command
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        // A process that another test starts may still have the new program open for writing.
        let mut child = until("it runs", || command.spawn().ok());
        let read = || fs::read_to_string(server.home.path().join("said")).expect("text");
        let ended = until("it has ended or serves", || {
            let ended = child.try_wait().expect("a child");
            match ended {
                None if read().contains(": ready") => Some(None),
                ended => ended.map(Some),
            }
        });
        let Some(ended) = ended else {
            child.kill().expect("it runs");
            child.wait().expect("it has ended");
            let is_older = file < newest && file.extension() == newest.extension();
            let is_part = file.extension().is_some_and(|kind| kind == "tmp");
            assert!(is_older || is_part, "{name}");
            continue;
        };
        let said = read();
        assert_eq!(ended.code(), Some(1), "{name}: {said}");
        assert!(said.contains(&*name), "{name}: {said}");
        assert!(said.contains("must be able to read"), "{name}: {said}");
    }
}
