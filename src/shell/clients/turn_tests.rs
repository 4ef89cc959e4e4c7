//! How much work one turn does for many connections: counted, not timed.
use super::tests::settings;
use super::*;
use crate::codec::http::Parsed;
use crate::codec::http::response::TEXT;
use crate::shell::transport::accepted_pair;
use mio::{Events, Poll};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const NOW: Now = Now {
    mono_us: 1,
    wall_ns: 0,
};

/// Clients and the other sides of their connections.
struct Rig {
    clients: Clients,
    poll: Poll,
}

impl Rig {
    fn new() -> Rig {
        let timeouts = Timeouts {
            read_us: 1_000_000,
            write_us: 1_000_000,
        };
        let bounds = ProcessBounds {
            memory_bytes: 1 << 30,
            connections: ConnectionsMax {
                client_port: 1_000,
                peer_port: 1,
            },
            client_bytes: 64 << 20,
        };
        Rig {
            clients: Clients::new(settings(), Limits::default(), timeouts, bounds),
            poll: Poll::new().expect("a poll"),
        }
    }

    /// One more connection; returns its other side.
    fn connect(&mut self) -> TcpStream {
        let (transport, other) = accepted_pair();
        let registry = self.poll.registry();
        self.clients.accept(registry, transport, Port::Client, NOW);
        other
    }

    fn poll(&mut self) {
        let mut events = Events::with_capacity(1_024);
        let limit = Some(Duration::from_millis(100));
        self.poll.poll(&mut events, limit).expect("it polls");
        for event in &events {
            self.clients.on_event(event);
        }
    }

    /// How many bytes each connection has read and not consumed.
    fn input_lengths(&mut self) -> Vec<usize> {
        let all = self.clients.conns.iter_mut();
        all.map(|(_, conn)| conn.input_bytes()).collect()
    }

    /// The same of all together.
    fn input_bytes(&mut self) -> usize {
        self.input_lengths().iter().sum()
    }

    /// How many bytes all connections have still to write.
    fn output_bytes(&mut self) -> usize {
        let all = self.clients.conns.iter_mut();
        all.map(|(_, conn)| conn.out_bytes()).sum()
    }

    /// Lets each connection see that its request is not complete.
    fn decode(&mut self) {
        let limits = &self.clients.limits;
        for (_, conn) in self.clients.conns.iter_mut() {
            if let Some(Parsed::NeedMore { consumed, .. }) = conn.next(limits) {
                conn.on_incomplete(consumed, false);
            }
        }
    }

    /// The end of a turn.
    fn settle(&mut self) {
        let ended = &mut Vec::new();
        self.clients.conns.settle(ended, |_, conn| Settled::Keep {
            deadline_us: None,
            ready: conn.wants_input(false) || conn.wants_flush(),
        });
    }
}

/// The head of a request with a long body, and the beginning of the body.
fn unfinished(bytes: usize) -> Vec<u8> {
    let head = "PUT /v2/keys/a HTTP/1.1\r\nHost: n1\r\nContent-Length: 2000000\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    request.resize(bytes, b'x');
    request
}

#[test]
fn a_turn_reads_a_bounded_amount_and_each_new_request() {
    const SENDERS: usize = 40;
    const BYTES: usize = 60_000;
    let mut rig = Rig::new();
    let mut others: Vec<TcpStream> = (0..SENDERS).map(|_| rig.connect()).collect();
    for other in &mut others {
        other.write_all(&unfinished(BYTES)).expect("it is sent");
    }
    let mut ordinary = rig.connect();
    rig.settle();
    ordinary
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("it is sent");
    rig.poll();
    rig.clients.fill();
    let most = TurnBudget::default().read.left(Lane::Fresh);
    let begun = SENDERS * BUFFER_BYTES;
    assert!(rig.input_bytes() <= most + begun, "{}", rig.input_bytes());
    let is_read = rig.input_lengths().contains(&18);
    assert!(is_read, "the ordinary request is read");
    // The rest comes in later turns, a bounded part in each, until no sender waits.
    let all_bytes = SENDERS * BYTES + 18;
    let mut turns = 0;
    while rig.input_bytes() < all_bytes {
        rig.decode();
        rig.settle();
        let before = rig.input_bytes();
        rig.clients.fill();
        let read = rig.input_bytes() - before;
        assert!(0 < read && read <= most, "turn {turns} reads {read}");
        turns += 1;
    }
    assert!(turns >= SENDERS * BYTES / most / 2, "{turns}");
}

#[test]
fn a_turn_writes_a_bounded_amount_and_each_small_answer() {
    const BYTES: usize = 300_000;
    let mut rig = Rig::new();
    let mut others: Vec<TcpStream> = (0..30).map(|_| rig.connect()).collect();
    let date = Date::default();
    let clients = &mut rig.clients;
    for (number, (_, conn)) in clients.conns.iter_mut().enumerate() {
        let length = if number == 29 { 10 } else { BYTES };
        let response = Response::new(200, TEXT, "x".repeat(length));
        let mode = ResponseMode::CLOSE;
        conn.send(&response, mode, &date, &mut clients.buffers);
    }
    let all = rig.output_bytes();
    let most = TurnBudget::default().write.left(Lane::Fresh);
    rig.clients.flush();
    let written = all - rig.output_bytes();
    assert!((most..=2 * most).contains(&written), "{written}");
    let mut small = String::new();
    others[29]
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket option");
    let mut part = [0; 1_000];
    while !small.ends_with("xxxxxxxxxx") {
        let count = others[29]
            .read(&mut part)
            .expect("the small answer is written");
        small.push_str(std::str::from_utf8(&part[..count]).expect("text"));
    }
    // All others get theirs in later turns.
    for _ in 0..200 {
        rig.settle();
        rig.clients.turn = TurnBudget::default();
        let before = rig.output_bytes();
        rig.clients.flush();
        assert!(before - rig.output_bytes() <= 2 * most);
    }
    assert_eq!(rig.output_bytes(), 0, "the sockets take that much");
}

#[test]
fn a_request_that_does_not_end_holds_what_it_has_sent() {
    let mut rig = Rig::new();
    let mut others: Vec<TcpStream> = (0..200).map(|_| rig.connect()).collect();
    for other in &mut others {
        other
            .write_all(b"GET /version HTTP/1.1\r\nHost: ")
            .expect("it is sent");
    }
    while rig.input_lengths().contains(&0) {
        rig.settle();
        rig.poll();
        rig.clients.fill();
    }
    let clients = &mut rig.clients;
    for (_, conn) in clients.conns.iter_mut() {
        assert!(conn.next(&clients.limits).is_some());
        conn.on_incomplete(0, false);
        assert!(conn.held_bytes() >= BUFFER_BYTES);
        conn.settle(1, &clients.timeouts, &mut clients.buffers);
        assert!(conn.held_bytes() < 100);
    }
    // The rest of the head is read into a whole buffer again.
    others[0].write_all(b"n1\r\n\r\n").expect("it is sent");
    while rig.input_lengths().iter().all(|bytes| *bytes < 30) {
        rig.settle();
        rig.poll();
        rig.clients.fill();
    }
}

#[test]
fn the_buffer_of_a_body_grows_rarely_however_small_the_packets_are() {
    let mut rig = Rig::new();
    let mut other = rig.connect();
    let body = unfinished(500_000);
    let mut sent = 0;
    let mut held = Vec::new();
    for packet in body.chunks(1_000) {
        other.write_all(packet).expect("it is sent");
        sent += packet.len();
        while rig.input_bytes() < sent {
            rig.settle();
            rig.poll();
            rig.clients.fill();
            rig.decode();
        }
        held.extend(rig.clients.conns.iter_mut().map(|(_, c)| c.held_bytes()));
    }
    held.dedup();
    assert!(held.len() <= 6, "{held:?}");
}
