//! The lock module over sockets: clients that contend, vanish, and lose their server.
use serde_json::Value;
use tern_support::alone::alone;
use tern_support::client::{Conn, form, until};
use tern_support::fleet;
use tern_support::server::Server;

const LOCK: &str = "/mod/v2/lock/l";

/// A connection that waits for the lock.
fn wait(server: &Server, body: &str) -> Conn {
    let mut conn = Conn::open(server.client_at());
    conn.send(&form("POST", LOCK, body));
    conn
}

/// How many places the queue of the lock has.
fn places(server: &Server) -> usize {
    let answer = server.client("GET", "/v2/keys/_etcd/mod/lock/l", "");
    let nodes = answer.json()["node"]["nodes"].as_array().map(Vec::len);
    nodes.unwrap_or(0)
}

fn until_places(server: &Server, count: usize) {
    until("the queue has that many places", || {
        (places(server) == count).then_some(())
    });
}

/// The name of the next place; for a lock that is held.
fn acquired(conn: &mut Conn) -> u64 {
    let answer = conn.answer();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text().parse().expect("an index")
}

#[test]
fn the_lock_goes_round_in_the_order_of_the_queue() {
    let server = Server::start(&[]);
    let mut held = acquired(&mut wait(&server, "ttl=60"));
    let mut waiters = Vec::new();
    for count in 2..8 {
        waiters.push(wait(&server, "ttl=60"));
        until_places(&server, count);
    }
    for waiter in &mut waiters {
        assert!(waiter.is_quiet());
        let answer = server.client("DELETE", &format!("{LOCK}?index={held}"), "");
        assert_eq!(answer.status(), 200);
        let next = acquired(waiter);
        assert!(next > held);
        held = next;
    }
}

/// Each segment may be a directory to create, and acquisitions do not take turns as deep writes do.
#[test]
fn a_deep_name_is_refused() {
    let server = Server::start(&[]);
    let at = |segments: usize| format!("/mod/v2/lock{}", "/d".repeat(segments));
    assert_eq!(server.client("POST", &at(32), "ttl=60").status(), 200);
    let refused = server.client("POST", &at(33), "ttl=60");
    assert_eq!(refused.status(), 414);
    assert!(refused.text().contains("32 segments"), "{}", refused.text());
    let leader = at(33).replace("lock", "leader");
    assert_eq!(server.client("PUT", &leader, "name=n&ttl=60").status(), 414);
}

#[test]
fn a_waiter_that_closes_its_connection_leaves_the_queue() {
    let server = Server::start(&[]);
    let held = acquired(&mut wait(&server, "ttl=60"));
    let waiters: Vec<Conn> = (0..20).map(|_| wait(&server, "ttl=60")).collect();
    until_places(&server, 21);
    drop(waiters);
    until_places(&server, 1);
    server.client("DELETE", &format!("{LOCK}?index={held}"), "");
    until_places(&server, 0);
    let stats = server.client("GET", "/v2/stats/store", "").json();
    assert_eq!(stats["watchers"], Value::from(0));
}

#[test]
fn the_lock_of_a_holder_that_died_goes_to_the_next() {
    let server = Server::start(&[]);
    acquired(&mut wait(&server, "ttl=1"));
    acquired(&mut wait(&server, "ttl=60"));
    assert_eq!(places(&server), 1);
}

/// The clients of a killed leader ask another machine with the same value and find their places.
/// The client of a machine that forwards goes on to wait. At last each of them holds the lock.
#[test]
fn waiters_survive_a_killed_leader() {
    let _alone = alone();
    let mut servers = fleet::cluster(3, &["-forward"]);
    let held = acquired(&mut wait(&servers[1], "ttl=60&value=holder"));
    let mut orphan = wait(&servers[0], "ttl=30&value=orphan");
    until_places(&servers[1], 2);
    let mut patient = wait(&servers[1], "ttl=30&value=patient");
    until_places(&servers[1], 3);
    servers[0].kill();
    assert!(orphan.try_answer(false).is_none(), "its server is gone");
    fleet::put(&servers[1..], "there", "is a leader");
    let mut orphan = wait(&servers[2], "ttl=30&value=orphan");
    let released = servers[2].client("DELETE", &format!("{LOCK}?index={held}"), "");
    assert_eq!(released.status(), 200, "{}", released.text());
    let second = acquired(&mut orphan);
    assert!(patient.is_quiet());
    assert_eq!(places(&servers[2]), 2, "the orphan has its place back");
    let released = servers[2].client("DELETE", &format!("{LOCK}?value=orphan"), "");
    assert_eq!(released.status(), 200);
    assert!(acquired(&mut patient) > second);
}
