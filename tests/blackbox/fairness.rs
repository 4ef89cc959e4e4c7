//! Clients that do not finish, do not read or do not leave, and their effect on the others.
//! Figures stand in `benches/load/fairness.rs`; here each kind of attack is survived at all.
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;
use tern_support::client::{Conn, form, request, until};
use tern_support::server::Server;
use tern_support::usage::memory_bytes;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

/// Sends the head of a PUT and the first `bytes` bytes of a value of 2,000,000.
fn unfinished_body(server: &Server, bytes: usize) -> Conn {
    let mut conn = Conn::open(server.client_at());
    let length = "value=".len() + 2_000_000;
    let head = format!(
        "PUT /v2/keys/big HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: {length}\r\n\r\nvalue="
    );
    // The server may refuse it before its end.
    let _ = conn.try_send(head.as_bytes()) && conn.try_send(&vec![b'x'; bytes]);
    conn
}

/// 100 bodies of which the last byte never comes hold more than all clients may. They give way, and
/// a request that arrives in two packets is served.
#[test]
fn unfinished_bodies() {
    let server = Server::start(&[]);
    let attackers: Vec<Conn> = (0..100)
        .map(|_| unfinished_body(&server, 1_999_999))
        .collect();
    for number in 0..5 {
        let mut conn = Conn::open(server.client_at());
        let length = "value=12".len();
        let head = format!(
            "PUT /v2/keys/k{number} HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: {length}\r\n\r\nvalue=1"
        );
        conn.send(head.as_bytes());
        std::thread::sleep(Duration::from_millis(100));
        let _more = unfinished_body(&server, 1_999_999);
        conn.send(b"2");
        assert_eq!(conn.answer().status(), 201);
    }
    let refused = |mut conn: Conn| conn.try_answer(false).is_some_and(|a| a.status() == 503);
    assert!(attackers.into_iter().take(40).any(refused), "they are told");
}

/// Clients that are connected and idle take none of the descriptors of the peer port, and idle
/// connections to the peer port give way to others.
#[test]
fn idle_connections() {
    let mut server = Server::prepare(&[]);
    server.before = Some("ulimit -n 256".into());
    server.run();
    let _clients: Vec<Conn> = (0..330).map(|_| Conn::open(server.client_at())).collect();
    assert_eq!(server.peer("GET", "/version", "").status(), 200);
    let _strangers: Vec<Conn> = (0..100).map(|_| Conn::open(server.peer_at())).collect();
    for _ in 0..5 {
        assert_eq!(server.peer("GET", "/version", "").status(), 200);
    }
    let answer = server.peer("GET", "/v2/admin/machines", "");
    assert_eq!(answer.status(), 200);
}

/// Puts files of 8 KB below `/dir`.
fn fill(server: &Server, files: usize) {
    let value = format!("value={}", "x".repeat(8_000));
    let mut conn = Conn::open(server.client_at());
    for number in 0..files {
        let answer = conn.ask("PUT", &format!("/v2/keys/dir/{number:05}"), &value);
        assert_eq!(answer.status(), 201);
    }
}

fn ask_for_listing(server: &Server) -> Conn {
    let mut conn = Conn::open(server.client_at());
    conn.send(&request("GET", "/v2/keys/dir?recursive=true", &[], b""));
    conn
}

/// A listing that its client does not read holds up no other listing.
#[test]
fn unread_listings() {
    let server = Server::start(&[]);
    fill(&server, 1_500);
    let stalled: Vec<Conn> = (0..20).map(|_| ask_for_listing(&server)).collect();
    server.client("PUT", "/v2/keys/dir/00000", "value=changed");
    for _ in 0..3 {
        let answer = server.client("GET", "/v2/keys/dir?recursive=true", "");
        let json = answer.json();
        let nodes = json["node"]["nodes"].as_array().expect("a directory");
        assert_eq!(nodes.len(), 1_500);
        assert_eq!(nodes[0]["value"], "changed");
    }
    drop(stalled);
}

/// A client that reads slowly and steadily gets a listing that takes it many times as long as a
/// client may read nothing; a client that reads nothing is cut.
#[test]
fn slow_and_stalled_readers() {
    let server = Server::start(&["-http-write-timeout", "2"]);
    fill(&server, 1_500);
    let mut slow = ask_for_listing(&server);
    let stalled = ask_for_listing(&server);
    let head = slow.head().expect("a head");
    assert_eq!(head.status, 200);
    let mut bytes = 0;
    let mut part = vec![0; 64 * 1024];
    let mut stream: &TcpStream = slow.stream();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        match stream.read(&mut part).expect("it is not cut") {
            0 => break,
            count => bytes += count,
        }
        if bytes > 12_000_000 {
            break;
        }
    }
    assert!(bytes > 12_000_000, "all of it came: {bytes}");
    let mut stream: &TcpStream = stalled.stream();
    let mut bytes = 0;
    let ended = loop {
        match stream.read(&mut part) {
            Ok(0) => break true,
            Ok(count) => bytes += count,
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended && bytes < 12_000_000, "it was cut: {bytes}");
}

/// A client that reads 200 kB a second for many times as long as a client may read nothing is not
/// cut.
#[test]
fn a_steady_slow_reader() {
    let server = Server::start(&["-http-write-timeout", "2"]);
    fill(&server, 2_500);
    let conn = ask_for_listing(&server);
    let mut stream: &TcpStream = conn.stream();
    let mut part = vec![0; 10_000];
    for _ in 0..160 {
        let count = stream.read(&mut part).expect("it is not cut");
        assert!(count > 0, "it is not cut");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Values at the greatest depth: a listing of them has a hundred times their bytes, and takes a small
/// part of its length in the server's memory, whether it is read or not.
#[test]
fn a_listing_of_deep_values() {
    let server = Server::start(&[]);
    let mut writer = Conn::open(server.client_at());
    let below = "/d".repeat(1_019);
    let body = format!("value={}", "x".repeat(2_000));
    for number in 0..60 {
        let answer = writer.ask("PUT", &format!("/v2/keys/deep/{number}{below}/v"), &body);
        assert_eq!(answer.status(), 201);
    }
    let before = peak_bytes(&server);
    let list = request("GET", "/v2/keys/deep?recursive=true", &[], b"");
    let unread: Vec<Conn> = (0..10)
        .map(|_| {
            let mut conn = Conn::open(server.client_at());
            conn.send(&list);
            conn
        })
        .collect();
    let mut reader = Conn::open(server.client_at());
    reader.send(&list);
    assert_eq!(reader.head().expect("a head").status, 200);
    let mut bytes = 0;
    while let Some(chunk) = reader.chunk()
        && !chunk.is_empty()
    {
        bytes += chunk.len();
    }
    assert!(bytes > 60_000_000, "all of it came: {bytes}");
    let grown = peak_bytes(&server).saturating_sub(before);
    assert!(grown < 40_000_000, "it takes {grown} bytes");
    drop(unread);
}

fn peak_bytes(server: &Server) -> u64 {
    memory_bytes(server.pid(), "VmHWM")
}

/// Heads that do not end hold no more than they have sent. When their time is over, each client is
/// told, and meanwhile others are served.
#[test]
fn unfinished_heads() {
    let server = Server::start(&["-http-read-timeout", "2"]);
    let before = peak_bytes(&server);
    let mut conns: Vec<Conn> = (0..1_500)
        .map(|_| {
            let mut conn = Conn::open(server.client_at());
            conn.send(b"GET /version HTTP/1.1\r\nHost: ");
            conn
        })
        .collect();
    for number in 0..10 {
        let answer = server.client("PUT", &format!("/v2/keys/k{number}"), "value=v");
        assert_eq!(answer.status(), 201);
    }
    let grown = peak_bytes(&server).saturating_sub(before);
    assert!(grown < 6_000_000, "1,500 clients take {grown} bytes");
    for conn in &mut conns {
        assert_eq!(conn.answer().status(), 408);
    }
    assert_eq!(server.client("GET", "/v2/keys/k1", "").status(), 200);
}

/// Many clients that ask for long listings and large values all the time: each gets all of its
/// answers, and so does a client with small requests.
#[test]
fn long_answers() {
    let server = Server::start(&[]);
    fill(&server, 300);
    let large = format!("value={}", "x".repeat(1_000_000));
    assert_eq!(server.client("PUT", "/v2/keys/large", &large).status(), 201);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let mut conn = Conn::open(server.client_at());
                let target = ["/v2/keys/large", "/v2/keys/dir?recursive=true"][number % 2];
                for _ in 0..10 {
                    let answer = conn.ask("GET", target, "");
                    assert!(answer.status() == 200 && answer.body.len() > 1_000_000);
                }
            });
        }
        let mut conn = Conn::open(server.client_at());
        for number in 0..100 {
            let answer = conn.ask("PUT", "/v2/keys/mine", &format!("value={number}"));
            assert!(matches!(answer.status(), 200 | 201));
            let answer = conn.ask("GET", "/v2/keys/mine", "");
            assert_eq!(answer.json()["node"]["value"], number.to_string());
        }
    });
}

/// Events of 1 MiB for many watchers that read nothing: those beyond their bound are cut, a watcher
/// that reads gets each event once and in order, and other clients are served.
#[test]
fn unread_events() {
    let server = Server::start(&[]);
    let target = "/v2/keys/k?wait=true&stream=true";
    let unread: Vec<Conn> = (0..200)
        .map(|_| Conn::watch(server.client_at(), target))
        .collect();
    let mut reader = Conn::watch(server.client_at(), target);
    let value = "x".repeat(1 << 20);
    for number in 0..20 {
        let body = format!("value={number}-{value}");
        let answer = server.client("PUT", "/v2/keys/k", &body);
        assert!(matches!(answer.status(), 200 | 201));
        let event = reader.event().expect("it is not cut");
        let text = event["node"]["value"].as_str().expect("a value");
        assert!(text.starts_with(&format!("{number}-")));
        assert_eq!(server.client("GET", "/v2/keys/k", "").status(), 200);
    }
    until("only the reader is left", || {
        let stats = server.client("GET", "/v2/stats/store", "").json();
        (stats["watchers"] == 1).then_some(())
    });
    drop(unread);
}

/// Many small events for many watchers all arrive, each once and in order.
#[test]
fn many_events_for_many_watchers() {
    let server = Server::start(&[]);
    let target = "/v2/keys/k?wait=true&stream=true";
    let mut watchers: Vec<Conn> = (0..300)
        .map(|_| Conn::watch(server.client_at(), target))
        .collect();
    let mut writer = Conn::open(server.client_at());
    for number in 0..50 {
        writer.ask("PUT", "/v2/keys/k", &format!("value={number}"));
    }
    for watcher in &mut watchers {
        for number in 0..50 {
            let event = watcher.event().expect("an event");
            assert_eq!(event["node"]["value"], number.to_string());
        }
    }
}

/// The answer to a write leaves before its events do, so it never waits for the watchers. On a busy
/// machine the kernel may deliver two packets of different connections in the other order.
#[test]
fn answers_before_events() {
    const ROUNDS: usize = 50;
    let server = Server::start(&[]);
    let target = "/v2/keys/k?wait=true&stream=true";
    let mut watchers: Vec<Conn> = (0..60)
        .map(|_| Conn::watch(server.client_at(), target))
        .collect();
    let mut writer = Conn::open(server.client_at());
    let mut answered_first = 0;
    for number in 0..ROUNDS {
        writer.send(&form("PUT", "/v2/keys/k", &format!("value={number}")));
        watchers[0].event().expect("an event");
        let stream = writer.stream();
        stream.set_nonblocking(true).expect("a socket option");
        let is_there = stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
        stream.set_nonblocking(false).expect("a socket option");
        answered_first += usize::from(is_there);
        assert!(writer.answer().status() < 300);
        for watcher in &mut watchers[1..] {
            watcher.event().expect("an event");
        }
    }
    assert!(answered_first + 2 >= ROUNDS, "{answered_first} of {ROUNDS}");
}

/// Writes to deep paths take turns: each is carried out, however its body was cut into reads, and also
/// after those of clients that have gone.
#[test]
fn deep_writes() {
    let server = Server::start(&[]);
    let below = "/d".repeat(1_000);
    let ask = |number: usize| {
        let mut conn = Conn::open(server.client_at());
        let key = format!("/v2/keys/new/{number}{below}/v");
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Transfer-Encoding", "chunked"),
        ];
        let mut begun = request("PUT", &key, &headers, b"value=1");
        let end = begun.split_off(begun.len() - number % 20);
        conn.send(&begun);
        (conn, end)
    };
    for _ in 0..5 {
        let begun: Vec<(Conn, Vec<u8>)> = (0..32).map(ask).collect();
        assert!(
            server.client("GET", "/version", "").status() < 300,
            "all are read"
        );
        let end = |(mut conn, end): (Conn, Vec<u8>)| {
            conn.send(&end);
            conn
        };
        let mut conns: Vec<Conn> = begun.into_iter().map(end).collect();
        let small = server.client("PUT", "/v2/keys/small", "value=1");
        assert!(small.status() < 300);
        conns.truncate(16);
        for mut conn in conns {
            let answer = conn.answer();
            assert!(answer.status() < 300, "{}", answer.text());
        }
    }
    // So are the writes of the clients that have gone.
    until("all are there", || {
        let answer = server.client("GET", "/v2/keys/new", "");
        let nodes = answer.json()["node"]["nodes"].as_array().map(Vec::len);
        (nodes == Some(32)).then_some(())
    });
}
