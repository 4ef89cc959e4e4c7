//! A disk that fills up: writes are refused, reads go on, writes resume when there is room.
use std::path::Path;
use tern_support::client::{Conn, until};
use tern_support::fleet::{Mode, follow, has, mode, prepare, put};
use tern_support::namespace;
use tern_support::server::Server;

/// Takes all the room that is left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("a file");
    let block = vec![1; 64 * 1024];
    while file.write_all(&block).is_ok() {}
}

#[test]
fn a_full_disk() {
    if !namespace::enter() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let disk = namespace::mount(home.path(), 64);
    let data_dir = disk.join("data");
    // `-snapshot false`: the log may grow, so that it is the disk that ends it.
    let mut server = Server::prepare(&[
        "-snapshot=false",
        "-max-request-bytes=1048576",
        "-segment-bytes=8388608",
    ]);
    server.run_on(&data_dir);
    let mut conn = Conn::open(server.client_port);
    let filler = disk.join("filler");
    fill(&filler);
    let value = format!("value={}", "v".repeat(64 * 1024));
    let mut acked = Vec::new();
    let refused = loop {
        let key = format!("/v2/keys/full/{}", acked.len());
        let answer = conn.ask("PUT", &key, &value);
        if answer.status() != 201 {
            break answer;
        }
        acked.push(key);
        assert!(acked.len() < 1_000, "64 MB went onto a full disk");
    };
    assert_eq!(refused.status(), 500);
    let error = refused.json();
    assert_eq!(error["errorCode"], 300);
    assert_eq!(error["cause"], "disk full");
    assert!(!acked.is_empty());
    let there = |conn: &mut Conn| {
        acked
            .iter()
            .all(|key| conn.ask("GET", key, "").status() == 200)
    };
    assert!(there(&mut conn), "reads go on");
    assert_eq!(
        conn.ask("GET", "/v2/keys/full?quorum=true", "").status(),
        200
    );
    std::fs::remove_file(&filler).expect("the filler");
    until("writes resume", || {
        (conn.ask("PUT", "/v2/keys/again", "value=v").status() < 300).then_some(())
    });
    assert!(there(&mut conn));
    server.kill();
    server.run_on(&data_dir);
    let mut conn = Conn::open(server.client_port);
    assert!(there(&mut conn), "nothing that was acknowledged is lost");
    assert_eq!(conn.ask("GET", "/v2/keys/again", "").status(), 200);
    drop(server);
}

/// A disk on which the log never has room: the log says so once, and nothing else does, as the machine
/// is healthy. It takes writes after all if it gets room.
#[test]
fn a_disk_that_is_too_small_is_reported() {
    if !namespace::enter() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let disk = namespace::mount(home.path(), 12);
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![1; 8 << 20]).expect("a file");
    let mut server = Server::prepare(&[]);
    server.run_on(&disk.join("data"));
    let mut conn = Conn::open(server.client_port);
    for _ in 0..3 {
        let refused = conn.ask("PUT", "/v2/keys/a", "value=b");
        assert_eq!(refused.status(), 500);
        assert_eq!(refused.json()["cause"], "disk full");
    }
    let line = "writes are refused, cause `disk full`";
    assert_eq!(server.log().matches(line).count(), 1);
    std::fs::remove_file(&filler).expect("the filler");
    until("writes are taken", || {
        (conn.ask("PUT", "/v2/keys/a", "value=b").status() < 300).then_some(())
    });
    server.wait_for_log("writes are taken again");
}

fn stands_by(server: &Server) {
    until("it stands by", || {
        matches!(mode(server), Some(Mode::Standby { to: Some(_) })).then_some(())
    });
}

/// A full disk has no room for the file that makes a machine a standby. The machine frees room for
/// it. An older snapshot or a spare segment is what can be freed.
#[test]
fn a_member_is_removed_on_a_full_disk() {
    if !namespace::enter() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let disk = namespace::mount(home.path(), 80);
    let mut servers = Vec::new();
    for number in 1..=3 {
        let peers: Vec<u16> = servers.iter().map(|s: &Server| s.peer_port).collect();
        let mut server = prepare(number, &peers, &["-cluster-sync-interval=3600"]);
        if number == 3 {
            std::os::unix::fs::symlink(&disk, server.data_dir()).expect("nothing is there");
        }
        server.run();
        servers.push(server);
    }
    put(&servers, "a", "v");
    fill(&disk.join("filler"));
    let removes = || {
        follow(
            servers[0].peer_at(),
            "DELETE",
            "/v2/admin/machines/node3",
            "",
        )
    };
    until("it is removed", || {
        removes().filter(|answer| answer.status() == 200)
    });
    stands_by(&servers[2]);
    assert!(
        servers[2]
            .log()
            .contains("removing older snapshots and spare log segments"),
        "{}",
        servers[2].log()
    );
    // What it has written holds: it comes up as a standby, not as the member that it was.
    servers[2].kill();
    servers[2].spawn();
    stands_by(&servers[2]);
    assert!(
        servers[2].log().contains("standby, as before"),
        "{}",
        servers[2].log()
    );
    put(&servers[..2], "a", "again");
}

/// A member takes every entry that the leader commits, whatever its own settings are: an entry that
/// is longer than its segments gets a segment of its own size.
#[test]
fn a_member_with_small_segments_takes_long_entries() {
    let small = ["-max-request-bytes=1024", "-segment-bytes=139264"];
    let mut servers = Vec::new();
    for number in 1..=3 {
        let peers: Vec<u16> = servers.iter().map(|s: &Server| s.peer_port).collect();
        let args: &[&str] = if number == 3 { &small } else { &[] };
        let mut server = prepare(number, &peers, args);
        server.run();
        servers.push(server);
    }
    let value = "v".repeat(1 << 20);
    for key in ["a", "b", "c"] {
        put(&servers, key, &value);
    }
    let holds = |server: &Server| has(server, "c", &value);
    until("the member has them", || holds(&servers[2]).then_some(()));
    servers[2].kill();
    servers[2].spawn();
    until("it has them again", || holds(&servers[2]).then_some(()));
}

/// A snapshot that is longer than the limit of the process for files (`ulimit -f`) is one that the
/// disk has no room for.
#[test]
fn a_snapshot_beyond_the_limit_for_files_is_given_up() {
    let mut server = Server::prepare(&[
        "-segment-bytes=1048576",
        "-max-request-bytes=131072",
        "-snapshot-count=50",
    ]);
    // 8 or 16 MiB: the unit depends on the shell.
    server.before = Some("ulimit -f 16384".into());
    server.run();
    let mut conn = Conn::open(server.client_port);
    let value = format!("value={}", "v".repeat(64 * 1024));
    for number in 0..300 {
        let answer = conn.ask("PUT", &format!("/v2/keys/{number}"), &value);
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    until("a snapshot is given up", || {
        server
            .log()
            .contains("no room for a snapshot")
            .then_some(())
    });
    assert_eq!(conn.ask("PUT", "/v2/keys/0", &value).status(), 200);
    server.terminate();
}
