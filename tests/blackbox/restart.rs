//! kill -9 under load, and ends that are asked for: nothing that was acknowledged is lost.
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tern_support::client::{Conn, request, until};
use tern_support::fleet::{cluster, put, shows};
use tern_support::server::Server;

/// An acknowledged write: value and index by key.
type Acked = BTreeMap<String, (String, u64)>;

/// Writes until the server is gone; hands back what was acknowledged.
fn write(port: u16, name: &str, count: &AtomicUsize) -> Acked {
    let mut acked = Acked::new();
    let mut conn = Conn::open(port);
    for number in 0.. {
        let (key, value) = (format!("/load/{name}-{number}"), format!("{name}{number}"));
        let target = format!("/v2/keys{key}");
        let Some(answer) = conn.try_ask("PUT", &target, &format!("value={value}")) else {
            break;
        };
        assert_eq!(answer.status(), 201, "{}", answer.text());
        acked.insert(key, (value, answer.head.etcd_index()));
        count.fetch_add(1, Ordering::Relaxed);
    }
    acked
}

/// Follows all events from an index on, through restarts, until it is past the last index; hands
/// back their indexes.
fn follow(port: u16, first: u64, last: &AtomicU64) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let next = seen.last().map_or(first, |index| index + 1);
        if next > last.load(Ordering::Relaxed) {
            return seen;
        }
        let Some(mut conn) = Conn::try_open(port) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let target = format!("/v2/keys/load?wait=true&recursive=true&stream=true&waitIndex={next}");
        let Some(head) = conn
            .try_send(&request("GET", &target, &[], b""))
            .then(|| conn.head())
        else {
            continue;
        };
        let Some(head) = head else {
            continue;
        };
        assert_eq!(head.status, 200);
        while seen
            .last()
            .is_none_or(|index| *index < last.load(Ordering::Relaxed))
        {
            let Some(event) = conn.event() else {
                break;
            };
            seen.push(event["node"]["modifiedIndex"].as_u64().expect("an index"));
        }
    }
}

const WRITERS: usize = 4;
const WRITES_A_ROUND: usize = 300;

/// A server killed again and again in the middle of writes loses none that it acknowledged, never
/// counts an index twice, and watchers that go on from their index see every event once.
/// `TERN_KILLS` sets how often.
#[test]
fn killed_under_load() {
    let rounds = std::env::var("TERN_KILLS").map_or(6, |n| n.parse().expect("a number"));
    let mut server = Server::start(&["-snapshot-count", "500"]);
    let port = server.client_port;
    let last = AtomicU64::new(u64::MAX);
    let mut acked = Acked::new();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| follow(port, 3, &last));
        for round in 0..rounds {
            let count = AtomicUsize::new(0);
            let names: Vec<String> = (0..WRITERS).map(|w| format!("r{round}w{w}")).collect();
            std::thread::scope(|scope| {
                let count = &count;
                let start = |name: &String| {
                    let name = name.clone();
                    scope.spawn(move || write(port, &name, count))
                };
                let writers: Vec<_> = names.iter().map(start).collect();
                until("enough is written", || {
                    (count.load(Ordering::Relaxed) >= WRITES_A_ROUND).then_some(())
                });
                server.kill();
                for writer in writers {
                    acked.extend(writer.join().expect("a writer"));
                }
            });
            server.run();
            all_there(&server, &acked);
        }
        let end = server.client("PUT", "/v2/keys/load/last", "value=v");
        let end = end.head.etcd_index();
        last.store(end, Ordering::Relaxed);
        // The follower may have seen that one before it could know that it is the last.
        server.client("PUT", "/v2/keys/load/one-more", "value=v");
        let mut seen = follower.join().expect("the follower");
        seen.truncate(end as usize - 2);
        let all: Vec<u64> = (3..=end).collect();
        assert_eq!(seen, all);
    });
    assert!(acked.len() >= rounds * WRITES_A_ROUND);
}

fn all_there(server: &Server, acked: &Acked) {
    let mut conn = Conn::open(server.client_port);
    for (key, (value, index)) in acked {
        let answer = conn.ask("GET", &format!("/v2/keys{key}"), "");
        assert_eq!(answer.status(), 200, "{key} is lost");
        let node = &answer.json()["node"];
        assert_eq!(node["value"], **value, "{key}");
        assert_eq!(node["modifiedIndex"], *index, "{key}");
    }
}

/// Everything that answers show of a node survives: ttl, hidden nodes, directories, indexes,
/// history, the cluster's config.
#[test]
fn what_a_restart_keeps() {
    for snapshots in [false, true] {
        let count = if snapshots { "10" } else { "10000" };
        let mut server = Server::start(&["-snapshot-count", count]);
        let mut conn = Conn::open(server.client_port);
        conn.ask("PUT", "/v2/keys/a/b", "value=one");
        conn.ask("PUT", "/v2/keys/a/b", "value=two");
        conn.ask("PUT", "/v2/keys/a/ttl", "value=t&ttl=10000");
        conn.ask("PUT", "/v2/keys/a/_hidden", "value=h");
        conn.ask("PUT", "/v2/keys/dir", "dir=true");
        conn.ask("POST", "/v2/keys/queue", "value=q");
        conn.ask("DELETE", "/v2/keys/a/b", "");
        server.peer(
            "PUT",
            "/v2/admin/config",
            r#"{"activeSize":5,"removeDelay":2.5}"#,
        );
        for number in 0..100 {
            conn.ask("PUT", "/v2/keys/n", &format!("value={number}"));
        }
        let state = |server: &Server| {
            let get = |target: &str| server.client("GET", target, "");
            let listed = get("/v2/keys/?recursive=true&sorted=true");
            let expiration = get("/v2/keys/a/ttl").json()["node"]["expiration"].to_string();
            let mut tree = listed.json();
            tern_support::recordings::comparable(&mut tree, true);
            (
                tree,
                listed.head.etcd_index(),
                expiration,
                get("/v2/keys/a/_hidden").text().to_string(),
                get("/v2/keys/_etcd?recursive=true&sorted=true")
                    .text()
                    .to_string(),
                get("/v2/keys/a/b?wait=true&waitIndex=4").text().to_string(),
                server
                    .peer("GET", "/v2/admin/config", "")
                    .text()
                    .to_string(),
            )
        };
        let before = state(&server);
        server.kill();
        server.run();
        assert_eq!(state(&server), before);
        assert!(server.terminate().success());
        server.run();
        assert_eq!(state(&server), before);
    }
}

/// After an outage of all, each machine alone shows no older state than it had shown. A state that
/// was read is marked on the disk after a tenth of a second and one sync.
#[test]
fn protocol_06_alone_after_an_outage() {
    let mut servers = cluster(3, &[]);
    for number in 0..10 {
        put(&servers, "a", &number.to_string());
    }
    let mut shown = Vec::new();
    for server in &servers {
        shows(server, "a", "9");
        let answer = server.client("GET", "/v2/keys/a", "");
        shown.push(answer.head.etcd_index());
    }
    std::thread::sleep(Duration::from_secs(2));
    for server in &mut servers {
        server.kill();
    }
    for (server, shown) in servers.iter_mut().zip(shown) {
        server.run();
        let answer = server.client("GET", "/v2/keys/a", "");
        assert_eq!(answer.json()["node"]["value"], "9", "{}", server.name);
        assert!(answer.head.etcd_index() >= shown, "{}", server.name);
        server.kill();
    }
}

/// What came due while the machine was down expires after its start.
#[test]
fn expired_while_down() {
    let mut server = Server::start(&[]);
    server.client("PUT", "/v2/keys/e", "value=v&ttl=1");
    server.kill();
    std::thread::sleep(Duration::from_millis(1_100));
    server.run();
    until("it has expired", || {
        (server.client("GET", "/v2/keys/e", "").status() == 404).then_some(())
    });
}

/// SIGTERM and SIGINT end it with exit code 0; waiting clients are answered.
#[test]
fn ends_that_are_asked_for() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[]);
        let mut conn = Conn::open(server.client_port);
        conn.ask("PUT", "/v2/keys/k", "value=v");
        let mut poll = Conn::watch(server.client_port, "/v2/keys/k?wait=true");
        server.signal(signal);
        let status = server.ended();
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(poll.chunk().is_none_or(|chunk| chunk.is_empty()));
        server.run();
        assert_eq!(server.client("GET", "/v2/keys/k", "").status(), 200);
    }
}

/// `-f` starts afresh on the same directory.
#[test]
fn force() {
    let mut server = Server::start(&[]);
    server.client("PUT", "/v2/keys/k", "value=v");
    server.kill();
    server.args.push("-f".into());
    server.run();
    assert_eq!(server.client("GET", "/v2/keys/k", "").status(), 404);
    assert_eq!(
        server
            .client("PUT", "/v2/keys/k", "value=v")
            .head
            .etcd_index(),
        3
    );
}

/// While nothing happens nothing is written, not even a byte.
#[test]
fn idle() {
    let server = Server::start(&[]);
    server.client("PUT", "/v2/keys/k", "value=v&ttl=1000");
    let mut watch = Conn::watch(server.client_port, "/v2/keys/k?wait=true");
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("it runs");
        let lines = io
            .lines()
            .filter(|line| line.contains("write_bytes") || line.contains("wchar"));
        lines.map(str::to_string).collect::<Vec<_>>()
    };
    // The answer to the watch may still be on its way when its head is here.
    let before = until("it has written all", || {
        let before = written();
        std::thread::sleep(Duration::from_millis(500));
        (written() == before).then_some(before)
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(written(), before);
    assert!(watch.is_quiet());
}
