//! Watches: the past and the present without a gap, readers that are slow, clients that go.
use tern_support::client::{Conn, form, request, until};
use tern_support::server::Server;
use tern_support::usage::memory_bytes;

fn watchers(server: &Server) -> u64 {
    let stats = server.client("GET", "/v2/stats/store", "").json();
    stats["watchers"].as_u64().expect("a count")
}

fn set(conn: &mut Conn, key: &str, value: &str) -> u64 {
    let answer = conn.ask("PUT", &format!("/v2/keys/{key}"), &format!("value={value}"));
    assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
    answer.head.etcd_index()
}

fn index(event: &serde_json::Value) -> u64 {
    event["node"]["modifiedIndex"].as_u64().expect("an index")
}

/// A stream that starts in the past, while writes go on, sees each event once and in order.
#[test]
fn from_the_past_into_the_present() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    let first = set(&mut conn, "w/0", "v");
    for number in 1..900 {
        set(&mut conn, &format!("w/{number}"), "v");
    }
    let target = format!("/v2/keys/w?wait=true&recursive=true&stream=true&waitIndex={first}");
    let mut stream = Conn::watch(server.client_port, &target);
    for number in 900..1_800 {
        set(&mut conn, &format!("w/{number}"), "v");
    }
    for expected in first..first + 1_800 {
        assert_eq!(index(&stream.event().expect("it goes on")), expected);
    }
    assert!(stream.is_quiet());
}

/// One event reaches every watcher.
#[test]
fn many_wait_for_one() {
    let server = Server::start(&[]);
    let target = "/v2/keys/m?wait=true";
    let mut polls: Vec<Conn> = (0..200)
        .map(|_| Conn::watch(server.client_port, target))
        .collect();
    assert_eq!(watchers(&server), 200);
    let at = set(&mut Conn::open(server.client_port), "m", "v");
    for poll in &mut polls {
        assert_eq!(index(&poll.event().expect("the event")), at);
        assert_eq!(poll.chunk().expect("the end"), b"");
    }
    assert_eq!(watchers(&server), 0);
    // A long poll's connection goes on.
    assert_eq!(polls[0].ask("GET", "/v2/keys/m", "").status(), 200);
}

/// HEAD with `wait` is answered at once.
#[test]
fn head_does_not_wait() {
    let server = Server::start(&[]);
    let answer = server.client("HEAD", "/v2/keys/h?wait=true", "");
    assert_eq!(answer.status(), 200);
    assert!(answer.head.header("X-Etcd-Index").is_some());
    assert_eq!(watchers(&server), 0);
}

/// HTTP/1.0 has no chunks: the body ends with the connection.
#[test]
fn http_1_0() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    conn.send(b"GET /v2/keys/o?wait=true HTTP/1.0\r\n\r\n");
    let head = conn.head().expect("a head at once");
    assert_eq!(head.header("Transfer-Encoding"), None);
    let at = set(&mut Conn::open(server.client_port), "o", "v");
    let body = conn.body(&head, false).expect("a body");
    let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(index(&event), at);
}

/// A client that goes away frees its watcher.
#[test]
fn a_client_goes() {
    let server = Server::start(&[]);
    let targets = [
        "/v2/keys/g?wait=true",
        "/v2/keys/g?wait=true&stream=true",
        "/v1/watch/g",
    ];
    let mut conns = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        let mut conn = Conn::open(server.client_port);
        conn.send(&request("GET", target, &[], b""));
        conns.push(conn);
        until("it waits", || {
            (watchers(&server) == number as u64 + 1).then_some(())
        });
    }
    drop(conns);
    until("all are freed", || (watchers(&server) == 0).then_some(()));
}

fn resident_kib(server: &Server) -> u64 {
    memory_bytes(server.pid(), "VmRSS") / 1024
}

/// A client that does not read is cut off; the memory it costs has a bound, and others are served
/// meanwhile.
#[test]
fn a_slow_reader() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    let slow = Conn::watch(server.client_port, "/v2/keys/s?wait=true&stream=true");
    rustix::net::sockopt::set_socket_recv_buffer_size(slow.stream(), 16 * 1024)
        .expect("a socket option");
    assert_eq!(watchers(&server), 1);
    let value = "v".repeat(128 * 1024);
    let mut sent = 0;
    while watchers(&server) == 1 {
        set(&mut conn, "s", &value);
        sent += value.len();
        assert!(sent < 64 << 20, "the slow reader was never cut off");
    }
    assert!(sent > 1 << 20, "cut off too soon");
    assert!(
        resident_kib(&server) < 128 << 10,
        "{} KiB",
        resident_kib(&server)
    );
    assert_eq!(conn.ask("GET", "/v2/keys/s", "").status(), 200);
}

/// A failed write, a hidden node and a GET wake no watcher above.
#[test]
fn no_watcher_is_woken() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    set(&mut conn, "n/k", "v");
    let target = "/v2/keys/?wait=true&recursive=true&stream=true";
    let mut stream = Conn::watch(server.client_port, target);
    for (method, target, body) in [
        ("PUT", "/v2/keys/n/k", "value=w&prevValue=x"),
        ("PUT", "/v2/keys/n", "value=w"),
        ("DELETE", "/v2/keys/none", ""),
        ("GET", "/v2/keys/n/k?quorum=true", ""),
        ("PUT", "/v2/keys/n/_hidden", "value=w"),
        ("PUT", "/v2/keys/_hidden/k", "value=w"),
    ] {
        conn.ask(method, target, body);
    }
    assert!(stream.is_quiet());
    let at = set(&mut conn, "n/k", "w");
    assert_eq!(index(&stream.event().expect("the set")), at);
}

/// The history is bounded: an older index gets an error that names the oldest.
#[test]
fn a_history_of_ten() {
    let server = Server::start(&["-watch-history", "10"]);
    let mut conn = Conn::open(server.client_port);
    let first = set(&mut conn, "k", "v");
    for _ in 0..20 {
        set(&mut conn, "k", "v");
    }
    let old = conn.ask(
        "GET",
        &format!("/v2/keys/k?wait=true&waitIndex={first}"),
        "",
    );
    assert_eq!(old.status(), 400);
    assert_eq!(old.json()["errorCode"], 401);
    let cause = format!(
        "the requested history has been cleared [{}/{first}]",
        first + 11
    );
    assert_eq!(old.json()["cause"], cause);
    let kept = conn.ask(
        "GET",
        &format!("/v2/keys/k?wait=true&waitIndex={}", first + 11),
        "",
    );
    assert_eq!(index(&kept.json()), first + 11);
}

/// A watch does not hold up what is pipelined on other connections, and what is pipelined behind it
/// is answered after.
#[test]
fn pipelined_behind_a_watch() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    let mut both = request("GET", "/v2/keys/p?wait=true", &[], b"");
    both.extend(form("PUT", "/v2/keys/q", "value=behind"));
    conn.send(&both);
    let head = conn.head().expect("the watch's head");
    assert_eq!(server.client("GET", "/v2/keys/q", "").status(), 404);
    set(&mut Conn::open(server.client_port), "p", "v");
    conn.body(&head, false).expect("the watch's event");
    assert_eq!(conn.answer().status(), 201);
    assert_eq!(server.client("GET", "/v2/keys/q", "").status(), 200);
}

/// Hundreds of clients that do not read, and big events: what they share is held once, who falls
/// behind is cut off, and a client that reads is served all the while.
#[test]
fn many_slow_readers() {
    let server = Server::start(&[]);
    let slow: Vec<Conn> = (0..600)
        .map(|_| {
            let conn = Conn::watch(
                server.client_port,
                "/v2/keys/s?wait=true&recursive=true&stream=true",
            );
            rustix::net::sockopt::set_socket_recv_buffer_size(conn.stream(), 4 * 1024)
                .expect("a socket option");
            conn
        })
        .collect();
    let mut reader = Conn::watch(
        server.client_port,
        "/v2/keys/s?wait=true&recursive=true&stream=true",
    );
    let mut conn = Conn::open(server.client_port);
    let value = "v".repeat(64 * 1024);
    let mut most = 0;
    for number in 0..150 {
        let at = set(&mut conn, &format!("s/{}", number % 10), &value);
        let event = reader.event().expect("it reads");
        assert_eq!(index(&event), at);
        most = most.max(resident_kib(&server));
    }
    assert!(most < 256 << 10, "{most} KiB");
    until("the slow ones are cut off", || {
        set(&mut conn, "s/more", &value);
        reader.event().expect("it reads");
        (watchers(&server) == 1).then_some(())
    });
    drop(slow);
}
