//! What one client may cost the others: slow requests, many connections, requests without an end.
use tern_support::client::{Conn, until};
use tern_support::server::Server;

/// A server whose slow clients need not be waited for.
fn impatient() -> Server {
    Server::start(&["-http-read-timeout", "0.2"])
}

#[test]
fn a_head_that_does_not_end() {
    let server = impatient();
    let mut conn = Conn::open(server.client_port);
    conn.send(b"GET /version HTTP/1.1\r\nHost:");
    let answer = conn.answer();
    assert_eq!(answer.status(), 408);
    assert!(conn.try_answer(false).is_none(), "it is closed");
}

#[test]
fn a_body_that_does_not_end() {
    let server = impatient();
    for start in [
        "Content-Length: 10\r\n\r\nvalue",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nval",
    ] {
        let mut conn = Conn::open(server.client_port);
        let head = "PUT /v2/keys/k HTTP/1.1\r\nHost: a\r\n";
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        conn.send(format!("{head}{form}{start}").as_bytes());
        assert_eq!(conn.answer().status(), 408);
        assert!(conn.try_answer(false).is_none(), "it is closed");
    }
    assert_eq!(server.client("GET", "/v2/keys/k", "").status(), 404);
}

/// Clients beyond the limit wait, cost nothing, and are served when others leave.
#[test]
fn more_connections_than_descriptors() {
    let mut server = Server::prepare(&[]);
    server.before = Some("ulimit -n 80".into());
    server.run();
    let mut conns: Vec<Conn> = (0..200).map(|_| Conn::open(server.client_port)).collect();
    // 80 less the half that files, poll and listeners need, and 10 for the peer port.
    for conn in &mut conns[..30] {
        assert_eq!(conn.ask("GET", "/version", "").status(), 200);
    }
    assert!(conns[31].is_quiet());
    conns.drain(..30);
    for conn in &mut conns[..30] {
        assert_eq!(conn.ask("GET", "/version", "").status(), 200);
    }
    conns.clear();
    until("it serves as before", || {
        let answer = server.client("PUT", "/v2/keys/k", "value=v");
        matches!(answer.status(), 200 | 201).then_some(())
    });
}

/// The log and the snapshots open files while both ports have all of the connections that they may
/// have.
#[test]
fn more_connections_than_descriptors_on_both_ports() {
    let mut server = Server::prepare(&["-snapshot-count", "200"]);
    server.before = Some("ulimit -n 72".into());
    server.run();
    let mut conn = Conn::open(server.client_port);
    assert_eq!(conn.ask("GET", "/version", "").status(), 200);
    let flood = |port| -> Vec<Conn> { (0..200).map(|_| Conn::open(port)).collect() };
    let _flood = [flood(server.client_port), flood(server.peer_port)];
    let value = format!("value={}", "v".repeat(100_000));
    for _ in 0..500 {
        let status = conn.ask("PUT", "/v2/keys/k", &value).status();
        assert!(matches!(status, 200 | 201), "{status}");
    }
}

/// Behind a watch that waits, a client may send some requests ahead, but not without end.
#[test]
fn more_and_more_behind_a_watch() {
    let server = Server::start(&[]);
    let mut conn = Conn::watch(server.client_port, "/v2/keys/k?wait=true");
    let request = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..10 {
        conn.send(request);
    }
    server.client("PUT", "/v2/keys/k", "value=v");
    assert!(conn.event().is_some());
    let end = conn.chunk();
    assert!(end.is_none_or(|chunk| chunk.is_empty()), "a long poll ends");
    for _ in 0..10 {
        assert_eq!(conn.answer().status(), 200);
    }
    let mut conn = Conn::watch(server.client_port, "/v2/keys/k?wait=true");
    let mut sent = 0;
    while conn.try_send(request) {
        sent += request.len();
        assert!(sent < 64 << 20, "it was never cut off");
    }
    until("its watcher is freed", || {
        let stats = server.client("GET", "/v2/stats/store", "").json();
        (stats["watchers"] == 0).then_some(())
    });
}

/// Writes of browser pages need the server's own origin, or one that `-cors` allows. A refused
/// write changes nothing, and every answer to an allowed origin says that its page may read it.
#[test]
fn origins_of_browser_pages() {
    let server = Server::start(&["-cors", "http://ui.example:8000"]);
    let own = format!("http://{}", server.client_at());
    let host = server.client_at().to_string();
    let ask = |method: &str, target: &str, origin: &str| {
        let mut conn = Conn::open(server.client_at());
        let form = "Content-Type: application/x-www-form-urlencoded";
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{form}");
        conn.send(format!("{head}\r\nContent-Length: 7\r\n\r\nvalue=1").as_bytes());
        conn.answer()
    };
    for origin in ["http://evil.example", "null", "https://127.0.0.1"] {
        for method in ["PUT", "POST", "DELETE"] {
            assert_eq!(ask(method, "/v2/keys/a", origin).status(), 403);
        }
        let read = ask("GET", "/v2/keys/a", origin);
        assert_eq!(read.status(), 404);
        assert_eq!(read.head.header("Access-Control-Allow-Origin"), None);
    }
    assert_eq!(ask("PUT", "/v2/keys/a", &own).status(), 201);
    let allowed = "http://ui.example:8000";
    for (target, status) in [
        ("/v2/keys/a", 200),
        ("/v2/keys/%zz", 400),
        ("/nowhere", 404),
    ] {
        let answer = ask("PUT", target, allowed);
        assert_eq!(answer.status(), status);
        let header = answer.head.header("Access-Control-Allow-Origin");
        assert_eq!(header, Some(allowed), "{target}");
    }
}
