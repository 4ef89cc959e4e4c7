//! Attacks on the peer port: members whose links flood, and TLS handshakes that never end.
//!
//! A flooding member has joined like any other, is never caught up and so stays without a vote. It
//! reads nothing that it is sent. Start with `run`.
use super::attacks::Target;
use rustls::pki_types::ServerName;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tern::codec::http::upgrade;
use tern::codec::peer::{frame, hello};
use tern::core::peers::Hello;
use tern::core::raft::{Message, PeerId, Rpc, Term};
use tern_support::client::{Conn, request, until};
use tern_support::server::Server;

/// The bytes that a flooding member writes at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Lets the cluster take 30 members more.
pub fn make_room(server: &Server) {
    let answer = server.peer("PUT", "/v2/admin/config", "{\"activeSize\":40}");
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// Joins as the member `flood{number}`. Returns its id.
fn join(peer: SocketAddr, number: u64) -> u64 {
    let url = |port: u64| format!("http://127.0.0.1:{}", port + 2 * number);
    let body = serde_json::json!({
        "minVersion": 2,
        "maxVersion": 2,
        "name": format!("flood{number}"),
        "raftURL": url(1),
        "etcdURL": url(2),
        "incarnation": 1_000 + number,
    });
    let body = body.to_string();
    let json = [("Content-Type", "application/json")];
    let bytes = request("PUT", "/join", &json, body.as_bytes());
    until("it may join", || {
        let mut conn = Conn::impatient(peer, Duration::from_secs(5))?;
        let answer = conn.try_exchange(&bytes)?;
        if answer.status() != 200 {
            eprintln!("join: {}", answer.text());
            std::thread::sleep(Duration::from_millis(100));
            return None;
        }
        Some(uvarint(&answer.body))
    })
}

fn uvarint(bytes: &[u8]) -> u64 {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0);
    let bytes = &bytes[..=length.expect("a number")];
    let sevens = bytes.iter().rev();
    sevens.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
}

/// Opens the link of a member; `None` if it is refused.
fn open(peer: SocketAddr, number: u64, id: u64) -> Option<TcpStream> {
    let hello = Hello {
        from: PeerId(id),
        process: number + 1,
        incarnation: 1_000 + number,
        name: format!("flood{number}").into(),
        peer_url: format!("http://127.0.0.1:{}", 1 + 2 * number).into(),
        client_url: format!("http://127.0.0.1:{}", 2 + 2 * number).into(),
        ..Hello::default()
    };
    let mut stream = TcpStream::connect(peer).ok()?;
    let asks = upgrade::request("tern", &hello::encode(&hello));
    stream.write_all(&asks).ok()?;
    let mut input = Vec::new();
    loop {
        if let Some((_, answer)) = upgrade::parse(&input).ok()? {
            if answer.status != 101 {
                eprintln!("hello: {:?}", answer.refused);
            }
            return (answer.status == 101).then_some(stream);
        }
        let mut part = [0; 1024];
        let count = stream.read(&mut part).ok()?;
        if count == 0 {
            return None;
        }
        input.extend_from_slice(&part[..count]);
    }
}

/// Frames as short as they come: pings, and votes of a term long past.
fn batch() -> Vec<u8> {
    let vote = Message {
        term: Term(0),
        rpc: Rpc::Vote {
            pre: false,
            granted: false,
            reading: None,
        },
    };
    let mut bytes = Vec::new();
    while bytes.len() < BATCH_BYTES {
        frame::put_ping(&mut bytes);
        frame::put_urgent(&vote, &mut bytes).expect("a short message");
    }
    bytes
}

/// `count` members flood the machine.
pub fn run(target: &Target, count: u64) {
    let ids: Vec<u64> = (0..count).map(|number| join(target.peer, number)).collect();
    let batch = batch();
    std::thread::scope(|scope| {
        for (number, id) in (0..count).zip(ids) {
            let batch = &batch;
            scope.spawn(move || {
                while !target.ends() {
                    let Some(mut stream) = open(target.peer, number, id) else {
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    };
                    let limit = Some(Duration::from_millis(200));
                    stream.set_write_timeout(limit).expect("a socket option");
                    while write(&mut stream, batch, target) {}
                }
            });
        }
        target.report_ready();
    });
}

/// Writes all of it, also to a machine that reads it slowly. Returns false once the link is closed
/// or the attack is over.
fn write(stream: &mut TcpStream, mut bytes: &[u8], target: &Target) -> bool {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !target.ends() => {}
            Err(_) => return false,
        }
    }
    !target.ends()
}

/// The first message of a TLS client.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("tern").expect("a name");
    let session = rustls::ClientConnection::new(Arc::new(config), name);
    let mut bytes = Vec::new();
    let mut session = session.expect("a session");
    session.write_tls(&mut bytes).expect("a vector takes all");
    bytes
}

/// Clients that begin TLS handshakes, let the machine sign its answer, and do not go on.
pub fn handshakes(target: &Target) {
    let hello = client_hello();
    let open = || {
        let mut stream = TcpStream::connect(target.peer).ok()?;
        stream.write_all(&hello).ok()?;
        Some(stream)
    };
    let mut streams: Vec<TcpStream> = (0..32).filter_map(|_| open()).collect();
    target.report_ready();
    while !target.ends() {
        // Five thousand a second.
        for _ in 0..5 {
            if !streams.is_empty() {
                streams.remove(0);
            }
            streams.extend(open());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
