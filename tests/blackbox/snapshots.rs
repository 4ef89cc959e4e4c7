//! Snapshot files under the built binary: the two that are kept, and what damage to one or to both
//! of them means.
use std::path::Path;
use tern_support::client::{Conn, until};
use tern_support::server::Server;
use tern_support::skip::{Need, lacks};

/// So many writes that begin and end while the folder is synced show that they do not wait for it: one that
/// waits ends when the sync has ended.
const WRITES_MIN: usize = 3;

/// Flips a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).expect("room");
}

fn value(number: u32) -> String {
    format!("the value of {number}")
}

/// A killed server that has written two snapshots after its first, and how many keys it holds.
fn with_snapshots() -> (Server, u32) {
    let server = Server::start(&["-snapshot-count", "50"]);
    let mut conn = Conn::open(server.client_port);
    let first = server.snapshots();
    let mut written = 0;
    until("two snapshots are there", || {
        let body = format!("value={}", value(written).replace(' ', "+"));
        let answer = conn.ask("PUT", &format!("/v2/keys/k{written}"), &body);
        assert_eq!(answer.status(), 201, "{}", answer.text());
        written += 1;
        let now = server.snapshots();
        (now.len() == 2 && !now.contains(&first[0])).then_some(())
    });
    let mut server = server;
    server.kill();
    (server, written)
}

fn all_there(server: &Server, written: u32) {
    let mut conn = Conn::open(server.client_port);
    for number in 0..written {
        let answer = conn.ask("GET", &format!("/v2/keys/k{number}"), "");
        assert_eq!(answer.json()["node"]["value"], value(number));
    }
}

/// The folder of the snapshots is synced slowly: the last call before the oldest one is removed.
#[test]
fn writes_do_not_wait_for_the_end_of_a_snapshot() {
    if lacks(Need::Strace) {
        return;
    }
    let server = Server::start(&["-snapshot-count", "50"]);
    let slow = server.change_calls("fsync", "delay_enter=5000000");
    let mut conn = Conn::open(server.client_port);
    let mut meanwhile = 0;
    until("an old snapshot is removed", || {
        let before = server.snapshots().len();
        let answer = conn.ask("PUT", "/v2/keys/k", "value=v");
        assert!(answer.status() < 300, "{}", answer.text());
        let after = server.snapshots().len();
        meanwhile += usize::from(before == 3 && after == 3);
        (before == 3 && after == 2).then_some(())
    });
    drop(slow);
    assert!(meanwhile >= WRITES_MIN, "{meanwhile} writes");
}

/// The older one and the log hold all that the newest held.
#[test]
fn the_newest_is_damaged() {
    let (mut server, written) = with_snapshots();
    let newest = server.snapshots().pop().expect("there are two");
    damage(&newest);
    server.run();
    all_there(&server, written);
    let name = newest.file_name().expect("a name").to_string_lossy();
    assert!(server.log().contains(&*name), "{}", server.log());
    assert!(newest.with_extension("damaged").exists());
    // It is not in the way of later ones, nor of another restart.
    server.kill();
    server.run();
    all_there(&server, written);
}

/// What is lost is named, and nothing is made up.
#[test]
fn both_are_damaged() {
    let (mut server, _) = with_snapshots();
    let both = server.snapshots();
    both.iter().for_each(|path| damage(path));
    let output = server.command(&server.data_dir()).output();
    let status = output.expect("the binary starts").status;
    assert_eq!(status.code(), Some(1), "{}", server.log());
    for path in &both {
        assert!(server.log().contains(&*path.to_string_lossy()));
        assert!(path.exists(), "nothing is touched");
    }
    server.args.push("-f".into());
    server.run();
    assert_eq!(server.client("GET", "/v2/keys/k1", "").status(), 404);
}

/// A crash in the middle of writing one leaves a file that is never taken for a snapshot.
#[test]
fn an_unfinished_one_is_dropped() {
    let (mut server, written) = with_snapshots();
    let newest = server.snapshots().pop().expect("there are two");
    let unfinished = newest.with_file_name("00000000000000099999.tmp");
    let bytes = std::fs::read(&newest).expect("a file");
    std::fs::write(&unfinished, &bytes[..bytes.len() / 2]).expect("room");
    server.run();
    all_there(&server, written);
    assert!(!unfinished.exists());
}
