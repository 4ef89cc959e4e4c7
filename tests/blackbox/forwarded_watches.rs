//! Watches at a standby with `-forward`: a client gets the same answers as a watcher of the leader.
use crate::forward::with_standby;
use rustix::process::Signal;
use std::io::Read as _;
use std::time::Duration;
use tern_support::alone::alone;
use tern_support::client::{Conn, request, until};
use tern_support::fleet::{at_of, leader_of, put};
use tern_support::server::Server;

/// Most watches that a standby passes on.
const WATCHES_MAX: usize = 1_024;
/// Watches that begin at once. A busy machine accepts these in a second.
const AT_ONCE: usize = 64;

fn set(conn: &mut Conn, key: &str, value: &str) -> u64 {
    let answer = conn.ask("PUT", &format!("/v2/keys/{key}"), &format!("value={value}"));
    assert!(answer.status() < 300, "{}", answer.text());
    index(&answer.json())
}

fn index(event: &serde_json::Value) -> u64 {
    event["node"]["modifiedIndex"].as_u64().expect("an index")
}

fn watchers(server: &Server) -> u64 {
    let stats = server.client("GET", "/v2/stats/store", "").json();
    stats["watchers"].as_u64().expect("a number")
}

/// The next event, which may come in several chunks: it is passed on as it arrives.
fn long_event(conn: &mut Conn) -> serde_json::Value {
    let mut text = Vec::new();
    loop {
        let chunk = conn.chunk().expect("the event goes on");
        assert!(!chunk.is_empty(), "the body ends in an event");
        text.extend(chunk);
        if text.ends_with(b"}}") {
            return serde_json::from_slice(&text).expect("JSON");
        }
    }
}

/// Waits until the standby knows the leader. It redirects requests that it does not pass on.
fn knows_leader(standby: &Server, leader: &Server) {
    until("the standby knows the leader", || {
        let answer = standby.client("HEAD", "/v2/keys/a?wait=true", "");
        let location = answer.head.header("Location")?;
        (at_of(location) == leader.client_at()).then_some(())
    });
}

/// The watch ends without another event, and its connection is closed.
fn ends_empty(mut conn: Conn) {
    assert_eq!(conn.chunk().expect("the end of the body"), b"");
    assert!(conn.head().is_none(), "the connection is closed");
}

#[test]
fn a_standby_passes_watches_on() {
    let (_servers, standby) = with_standby(&["-watch-history=10"]);
    let mut writer = Conn::open(standby.client_at());
    let first = set(&mut writer, "w", "0");
    let mut poll = Conn::open(standby.client_at());
    let mut stream = Conn::watch(
        standby.client_at(),
        "/v2/keys/?wait=true&stream=true&recursive=true",
    );
    for round in 1..4 {
        poll.send(&request("GET", "/v2/keys/w?wait=true", &[], b""));
        let head = poll.head().expect("a head at once");
        assert_eq!(head.status, 200);
        assert!(head.etcd_index() >= first);
        assert!(poll.is_quiet());
        let at = set(&mut writer, "w", &round.to_string());
        for conn in [&mut poll, &mut stream] {
            let event = conn.event().expect("the event");
            assert_eq!(
                (index(&event), &event["node"]["value"]),
                (at, &round.to_string().into())
            );
        }
        assert_eq!(poll.chunk().expect("the end"), b"");
    }
    // From the past: a long poll has its event at once, a stream all of them.
    let target = format!("/v2/keys/w?wait=true&waitIndex={first}");
    assert_eq!(index(&poll.ask("GET", &target, "").json()), first);
    let mut past = Conn::watch(standby.client_at(), &format!("{target}&stream=true"));
    for number in 0..4 {
        assert_eq!(index(&past.event().expect("an event")), first + number);
    }
    // A limited time, and a history that is too short.
    let timed = poll.ask("GET", "/v2/keys/none?wait=true&timeout=1", "");
    assert_eq!(timed.status(), 204);
    assert_eq!(timed.head.etcd_index(), first + 3);
    let long = "x".repeat(1 << 20);
    for _ in 0..12 {
        let at = set(&mut writer, "long", &long);
        let event = long_event(&mut stream);
        assert_eq!(index(&event), at);
        assert_eq!(event["node"]["value"], long.as_str());
    }
    let cleared = poll.ask("GET", &target, "");
    assert_eq!(
        (cleared.status(), &cleared.json()["errorCode"]),
        (400, &401.into())
    );
}

/// More at once than a standby passes on are sent to the leader. A client that goes away frees its
/// watcher there.
#[test]
fn watches_at_a_standby_are_bounded_and_end_with_their_clients() {
    let _alone = alone();
    let (servers, standby) = with_standby(&[
        "-peer-heartbeat-interval=200",
        "-peer-election-timeout=2000",
    ]);
    let leader = &servers[leader_of(&servers)];
    let mut conns: Vec<Conn> = (0..WATCHES_MAX + 50)
        .map(|_| Conn::open(standby.client_at()))
        .collect();
    let mut statuses = Vec::new();
    for some in conns.chunks_mut(AT_ONCE) {
        for conn in &mut *some {
            conn.send(&request("GET", "/v2/keys/m?wait=true", &[], b""));
        }
        let heads = some.iter_mut().map(|conn| conn.head().expect("a head"));
        statuses.extend(heads.map(|head| head.status));
    }
    let passed_on = statuses.iter().filter(|status| **status == 200);
    assert_eq!(passed_on.count(), WATCHES_MAX, "{statuses:?}");
    let redirected = statuses.iter().filter(|status| **status == 307);
    assert_eq!(redirected.count(), 50);
    assert_eq!(watchers(leader), WATCHES_MAX as u64);
    conns.truncate(WATCHES_MAX / 2);
    until("half of the watchers are freed", || {
        (watchers(leader) == WATCHES_MAX as u64 / 2).then_some(())
    });
    let mut writer = Conn::open(standby.client_at());
    let at = set(&mut writer, "m", "v");
    for conn in &mut conns {
        assert_eq!(index(&conn.event().expect("the event")), at);
    }
    assert_eq!(watchers(leader), 0);
    // A client that does not read is cut off.
    let slow = Conn::watch(standby.client_at(), "/v2/keys/s?wait=true&stream=true");
    rustix::net::sockopt::set_socket_recv_buffer_size(slow.stream(), 16 * 1024)
        .expect("a socket option");
    let value = "v".repeat(256 * 1024);
    let mut sent = 0;
    while watchers(leader) == 1 {
        set(&mut writer, "s", &value);
        sent += value.len();
        assert!(sent < 128 << 20, "the slow reader was never cut off");
    }
}

/// Bytes that a machine holds for its clients.
fn held_bytes(server: &Server) -> f64 {
    let figures = server.client("GET", "/metrics", "");
    let name = "tern_queue_bytes{queue=\"clients\"} ";
    let lines = figures.text().lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(name));
    let value = values.next().expect("a figure");
    value.parse().expect("a number")
}

/// What clients of a standby do not read waits at the leader.
#[test]
fn slow_watchers_of_a_standby_take_little_memory_there_and_lose_nothing() {
    let _alone = alone();
    let (_servers, standby) = with_standby(&[]);
    let open = |_| Conn::watch(standby.client_at(), "/v2/keys/s?wait=true&stream=true");
    let mut watches: Vec<Conn> = (0..30).map(open).collect();
    let mut writer = Conn::open(standby.client_at());
    let value = "v".repeat(100 * 1024);
    // Less than a watcher may leave unread for any time.
    let indexes: Vec<u64> = (0..4).map(|_| set(&mut writer, "s", &value)).collect();
    for _ in 0..40 {
        let held = held_bytes(&standby);
        assert!(held < 4e6, "{held} bytes");
        std::thread::sleep(Duration::from_millis(25));
    }
    for watch in &mut watches {
        for at in &indexes {
            assert_eq!(index(&long_event(watch)), *at);
        }
    }
    // More than a watcher may leave unread for ten seconds, read slowly for longer than that.
    let slow = watches.pop().expect("thirty");
    watches.clear();
    for _ in 0..30 {
        set(&mut writer, "s", &value);
    }
    // Each event has the former value too.
    let total = 30 * 2 * value.len();
    let mut part = vec![0; total / 240];
    let mut received = 0;
    while received < total {
        let count = slow.stream().read(&mut part).expect("it is not cut");
        assert!(count > 0, "it is not cut after {received} bytes");
        received += count;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// With few descriptors a standby passes fewer watches on. Other requests always have some.
#[test]
fn calls_of_a_standby_leave_the_reserve_of_descriptors_alone() {
    let (_servers, mut standby) = with_standby(&[]);
    standby.kill();
    standby.before = Some("ulimit -n 256".into());
    standby.run();
    let mut conns: Vec<Conn> = (0..150).map(|_| Conn::open(standby.client_at())).collect();
    // A watch may take the descriptor of a connection that waits to be accepted.
    for conn in &mut conns {
        assert_eq!(conn.ask("GET", "/version", "").status(), 200);
    }
    let mut statuses = Vec::new();
    for some in conns.chunks_mut(AT_ONCE) {
        for conn in &mut *some {
            conn.send(&request("GET", "/v2/keys/d?wait=true", &[], b""));
        }
        let heads = some.iter_mut().map(|conn| conn.head().expect("a head"));
        statuses.extend(heads.map(|head| head.status));
    }
    let passed_on = statuses.iter().filter(|status| **status == 200).count();
    // Clients may have 192 descriptors, and 16 of these are for short requests.
    assert!((1..=192 - 16 - 150).contains(&passed_on), "{statuses:?}");
    let redirected = statuses.iter().filter(|status| **status == 307);
    assert_eq!(redirected.count(), 150 - passed_on);
    drop(conns.split_off(149));
    let mut writer = Conn::open(standby.client_at());
    set(&mut writer, "d", "v");
}

/// A watch ends when its leader dies or stands still, and when the standby becomes a member. Its
/// client asks again, and misses nothing.
#[test]
fn watches_at_a_standby_end_with_the_leader_and_the_mode() {
    let (mut servers, standby) = with_standby(&[]);
    let stream = "/v2/keys/a?wait=true&stream=true";
    for stops in [false, true] {
        let leads = leader_of(&servers);
        knows_leader(&standby, &servers[leads]);
        let watch = Conn::watch(standby.client_at(), stream);
        let mut timed = Conn::open(standby.client_at());
        timed.send(&request(
            "GET",
            "/v2/keys/timed?wait=true&timeout=60",
            &[],
            b"",
        ));
        until("both watch", || {
            (watchers(&servers[leads]) == 2).then_some(())
        });
        let former = servers[leads].client_at();
        if stops {
            servers[leads].signal(Signal::STOP);
        } else {
            servers[leads].kill();
        }
        ends_empty(watch);
        if stops {
            // It has no head yet, so its client learns the present leader.
            let head = timed.head().expect("a redirect");
            assert_eq!(head.status, 307);
            let location = head.header("Location").expect("a location");
            assert_ne!(at_of(location), former);
        }
        let mut again = Conn::watch(standby.client_at(), stream);
        let mut writer = Conn::open(standby.client_at());
        let at = set(&mut writer, "a", "b");
        assert_eq!(index(&again.event().expect("the event")), at);
        if stops {
            servers[leads].signal(Signal::CONT);
        } else {
            servers[leads].run();
        }
    }
    put(&servers, "c", "d");
    let leader = &servers[leader_of(&servers)];
    knows_leader(&standby, leader);
    let watch = Conn::watch(standby.client_at(), stream);
    leader.peer("PUT", "/v2/admin/config", r#"{"activeSize":4}"#);
    ends_empty(watch);
    until("it is a member", || {
        (standby.peer("GET", "/name", "").status() == 200).then_some(())
    });
}
