//! Disks that are slow, or fail. Each sync takes longer than an election timeout, and neither reads
//! nor heartbeats wait for one: no follower takes a leader that waits for its disk for dead, and what
//! is acknowledged stays. Start with `survives`.
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tern_support::client::{Conn, request, until};
use tern_support::fleet::{ask, leader, leader_of, prepare, put, shows, term, votes};
use tern_support::server::{Server, Syncs};
use tern_support::skip::{Need, lacks};

/// Milliseconds.
const SYNC_MS: u64 = 500;
/// A little shorter than a sync: a busy processor does not reach it.
const ELECTION_TIMEOUT: &str = "-peer-election-timeout=400";
/// They take longer than a machine remembers the slow syncs of its start.
const WRITES: usize = 44;
/// A read takes a fraction of a millisecond. So many between two writes show that reads do not wait
/// for the disk, however busy this machine is.
const READS_MIN: usize = 20;

fn slow_cluster(syncs: [Syncs; 3]) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for (number, syncs) in (1..).zip(syncs) {
        let peers: Vec<u16> = servers.first().map(|s| s.peer_port).into_iter().collect();
        let mut server = prepare(number, &peers, &[ELECTION_TIMEOUT]);
        server.syncs = syncs;
        server.run();
        servers.push(server);
    }
    votes(&servers[0], 3);
    servers
}

/// Writes on, one after the other, with the same leader in the same term; then the leader dies, and
/// the others go on.
fn survives(syncs: [Syncs; 3]) {
    let mut servers = slow_cluster(syncs);
    put(&servers, "first", "one");
    for server in &servers {
        shows(server, "first", "one");
    }
    let leads = leader_of(&servers);
    let first = term(&servers[leads]).expect("a leader answers");
    for number in 0..WRITES {
        let answer = servers[leads].client("PUT", &format!("/v2/keys/k{number}"), "value=v");
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    let last = format!("k{}", WRITES - 1);
    for server in &servers {
        shows(server, &last, "v");
        assert_eq!(term(server), Some(first), "no machine has campaigned");
    }
    assert_eq!(leader_of(&servers), leads);
    servers[leads].kill();
    let others: Vec<&Server> = servers.iter().filter(|s| s.is_started()).collect();
    leader(&others);
    until("the others take writes", || {
        others.iter().find(|s| {
            ask(s.client_at(), "PUT", "/v2/keys/last", "value=v").is_some_and(|a| a.status() < 300)
        })
    });
    for server in others {
        shows(server, &last, "v");
        shows(server, "last", "v");
    }
}

/// The clusters wait for their disks most of the time, so they run side by side.
#[test]
fn syncs_that_take_longer_than_an_election() {
    if lacks(Need::Strace) {
        return;
    }
    let clusters = [
        [Syncs::Slow(SYNC_MS); 3],
        [Syncs::Slow(SYNC_MS), Syncs::Real, Syncs::Real],
    ];
    std::thread::scope(|scope| {
        for syncs in clusters {
            let name = format!("{syncs:?}");
            let cluster = std::thread::Builder::new().name(name);
            let cluster = cluster.spawn_scoped(scope, move || survives(syncs));
            cluster.expect("a thread");
        }
    });
}

/// While a write waits for its sync, many reads of other clients are answered.
#[test]
fn reads_do_not_wait_for_a_sync() {
    if lacks(Need::Strace) {
        return;
    }
    let mut server = Server::prepare(&[]);
    server.syncs = Syncs::Slow(SYNC_MS);
    server.run();
    let written = AtomicUsize::new(0);
    let reads = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut conn = Conn::open(server.client_at());
            for _ in 0..8 {
                assert!(conn.ask("PUT", "/v2/keys/a", "value=v").status() < 300);
                written.fetch_add(1, Relaxed);
            }
        });
        let mut conn = Conn::open(server.client_at());
        let mut reads = vec![0; 9];
        loop {
            let write = written.load(Relaxed);
            reads[write] += 1;
            if write == 8 {
                return reads;
            }
            conn.ask("GET", "/v2/keys/", "");
        }
    });
    // The first sync may be the one that shows the disk to be slow: it holds the reads up.
    let during = &reads[2..8];
    assert!(
        during.iter().all(|count| *count >= READS_MIN),
        "reads between two writes: {reads:?}"
    );
}

/// While an export is written to the data directory, many reads of other clients are answered. A
/// second export, which would have the same file, is refused.
#[test]
fn reads_do_not_wait_for_an_export() {
    if lacks(Need::Strace) {
        return;
    }
    let mut server = Server::prepare(&[]);
    server.syncs = Syncs::Slow(SYNC_MS);
    server.run();
    let value = format!("value={}", "v".repeat(300_000));
    for key in ["a", "b"] {
        let answer = server.client("PUT", &format!("/v2/keys/{key}"), &value);
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    let target = "/v2/migration/snapshot?disk=true";
    let mut exporter = Conn::open(server.client_at());
    exporter.send(&request("GET", target, &[], b""));
    until("the file is made", || {
        server.data_dir().join("migrate.tmp").exists().then_some(())
    });
    let second = server.client("GET", target, "");
    assert_eq!(second.status(), 500, "{}", second.text());
    assert!(
        second.text().contains("another export"),
        "{}",
        second.text()
    );
    let mut conn = Conn::open(server.client_at());
    let mut reads = 0;
    while exporter.is_quiet() {
        assert_eq!(conn.ask("GET", "/v2/keys/missing", "").status(), 404);
        reads += 1;
    }
    assert!(reads >= READS_MIN, "reads beside the export: {reads}");
    assert_eq!(exporter.answer().status(), 200);
    let entries = std::fs::read_dir(server.data_dir()).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let exports = names.filter(|name| name.to_string_lossy().ends_with("-migrate.snap"));
    assert_eq!(exports.count(), 1);
    // The one that was refused has left nothing behind: a later one is written.
    assert_eq!(server.client("GET", target, "").status(), 200);
}

/// A sync that fails ends the process, whether it runs in place or was handed over: the bytes on
/// the disk are unknown.
#[test]
fn a_sync_that_fails_ends_the_process() {
    if lacks(Need::Strace) {
        return;
    }
    for is_slow in [false, true] {
        let mut server = Server::start(&[]);
        if is_slow {
            // From a long sync on, syncs are handed over for a minute.
            let slow = server.change_syncs("delay_enter=100000");
            assert_eq!(
                server.client("PUT", "/v2/keys/slow", "value=v").status(),
                201
            );
            drop(slow);
        }
        let failing = server.change_syncs("error=EIO");
        let mut conn = Conn::open(server.client_at());
        let answer = conn.try_ask("PUT", "/v2/keys/lost", "value=v");
        assert!(
            answer.is_none_or(|answer| answer.status() >= 300),
            "nothing is acknowledged that is not durable"
        );
        assert_eq!(server.ended().code(), Some(1));
        drop(failing);
        let log = server.log();
        assert!(log.contains("nothing more can be acknowledged"), "{log}");
        // The write itself may be in the file: only its sync has failed.
        server.run();
    }
}
