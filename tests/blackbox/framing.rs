//! HTTP over real sockets: pipelining, cuts, keep-alive, 100-continue, what is refused.
use tern_support::client::{Answer, Conn, form, request};
use tern_support::server::Server;

/// Answers come in the order of the requests, whatever they ask.
#[test]
fn pipelining() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    let mut batch = Vec::new();
    for number in 0..300 {
        batch.extend(form(
            "PUT",
            &format!("/v2/keys/p/{number}"),
            &format!("value={number}"),
        ));
        batch.extend(request("GET", &format!("/v2/keys/p/{number}"), &[], b""));
        batch.extend(request("GET", "/version", &[], b""));
        batch.extend(request("GET", "/none", &[], b""));
    }
    conn.send(&batch);
    for number in 0..300 {
        assert_eq!(conn.answer().status(), 201);
        assert_eq!(conn.answer().json()["node"]["value"], number.to_string());
        assert_eq!(conn.answer().text(), "etcd 0.4.9");
        assert_eq!(conn.answer().status(), 404);
    }
}

/// However the bytes are cut into packets, the answer is the same.
#[test]
fn byte_by_byte() {
    let server = Server::start(&[]);
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Transfer-Encoding", "chunked"),
    ];
    for bytes in [
        form("PUT", "/v2/keys/b", "value=v"),
        request("PUT", "/v2/keys/b", &headers, b"value=v"),
    ] {
        let mut conn = Conn::open(server.client_port);
        for byte in &bytes {
            conn.send(&[*byte]);
        }
        assert_eq!(conn.answer().json()["node"]["value"], "v");
    }
}

fn raw(server: &Server, bytes: &str) -> (Answer, bool) {
    let mut conn = Conn::open(server.client_port);
    conn.send(bytes.as_bytes());
    let answer = conn.answer();
    conn.send(b"");
    let again = conn.try_ask("GET", "/version", "");
    (answer, again.is_some())
}

/// Whether a connection goes on is the client's word, and 1.0's default is that it does not.
#[test]
fn keep_alive() {
    let server = Server::start(&[]);
    for (head, goes_on) in [
        ("HTTP/1.1\r\nHost: x\r\n", true),
        ("HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", false),
        ("HTTP/1.0\r\n", false),
        ("HTTP/1.0\r\nConnection: keep-alive\r\n", true),
    ] {
        let (answer, went_on) = raw(&server, &format!("GET /version {head}\r\n"));
        assert_eq!((answer.text(), went_on), ("etcd 0.4.9", goes_on), "{head}");
    }
}

/// The body is asked for when it is wanted, and not when the request is refused.
#[test]
fn expect_100_continue() {
    let server = Server::start(&[]);
    let head = |length: usize| {
        format!(
            "PUT /v2/keys/c HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut conn = Conn::open(server.client_port);
    conn.send(head(7).as_bytes());
    assert_eq!(conn.head().expect("a head").status, 100);
    conn.send(b"value=v");
    assert_eq!(conn.answer().status(), 201);
    let mut refused = Conn::open(server.client_port);
    refused.send(head(100 << 20).as_bytes());
    assert_eq!(refused.head().expect("a head").status, 413);
}

/// What is not beyond doubt is refused, the connection is closed, and nothing of what followed is
/// carried out.
#[test]
fn refused() {
    let server = Server::start(&[]);
    let smuggled = "PUT /v2/keys/smuggled?value=v HTTP/1.1\r\nHost: x\r\n\r\n";
    for (request, status) in [
        ("garbage\r\n\r\n", 400),
        ("GET /version HTTP/1.1\r\n\r\n", 400),
        ("GET /version HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("GET /version HTTP/1.1\nHost: x\n\n", 400),
        ("GET /v2/keys/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
        ),
        (
            "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
            400,
        ),
        (
            "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
        ),
        (
            "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        ("GET /version HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ] {
        let (answer, went_on) = raw(&server, &format!("{request}{smuggled}"));
        assert_eq!((answer.status(), went_on), (status, false), "{request:?}");
    }
    assert_eq!(server.client("GET", "/v2/keys/smuggled", "").status(), 404);
}

/// Half-open requests and idle connections delay no other client.
#[test]
fn many_half_open_requests() {
    let server = Server::start(&[]);
    let mut half: Vec<Conn> = (0..500).map(|_| Conn::open(server.client_port)).collect();
    for conn in &mut half {
        conn.send(b"PUT /v2/keys/half HTTP/1.1\r\nHost: x\r\nContent-Le");
    }
    for _ in 0..100 {
        assert_eq!(server.client("GET", "/version", "").status(), 200);
    }
    half[499].send(b"ngth: 0\r\n\r\n");
    assert_eq!(half[499].answer().status(), 201);
}
