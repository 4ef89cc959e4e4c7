//! How much work one turn does for many connections: counted, not timed.
use super::tests::{settings, shape};
use super::*;
use crate::codec::http::Parsed;
use crate::codec::http::response::TEXT;
use crate::core::machine::{Recovered, Settings};
use crate::core::raft::PeerId;
use crate::shell::deliveries::tests::delivery;
use crate::shell::transport::accepted_pair;
use mio::{Events, Poll};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const NOW: Now = Now {
    mono_us: 1,
    wall_ns: 0,
};

/// A second, in microseconds.
const S: u64 = 1_000_000;

/// Clients and the other sides of their connections.
struct Rig {
    clients: Clients,
    poll: Poll,
}

impl Rig {
    fn new() -> Rig {
        Rig::with_bytes(64 << 20)
    }

    /// With so many bytes for all connections.
    fn with_bytes(client_bytes: usize) -> Rig {
        let timeouts = Timeouts {
            read_us: 300 * S,
            write_us: 300 * S,
        };
        let bounds = ProcessBounds {
            memory_bytes: 1 << 30,
            connections: ConnectionsMax {
                client_port: 1_000,
                peer_port: 1,
            },
            client_bytes,
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

    /// Reads until every connection has received all of `bytes` bytes.
    fn read_all(&mut self, bytes: usize) {
        while self.input_lengths().iter().any(|length| *length < bytes) {
            self.decode();
            self.settle();
            self.poll();
            self.clients.fill();
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
            ready: conn.has_work(false),
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

/// Most bytes that the decoder drops of `chunked`: the line with the length, and two line breaks.
const CHUNK_FRAME_BYTES: usize = 11;

/// The head of a chunked PUT, and one chunk of so many bytes: all but the end, `0\r\n\r\n`.
fn chunked(path: &str, bytes: usize) -> Vec<u8> {
    let form = "Content-Type: application/x-www-form-urlencoded";
    let head = format!("Host: n1\r\n{form}\r\nTransfer-Encoding: chunked");
    let mut request = format!("PUT {path} HTTP/1.1\r\n{head}\r\n\r\n{bytes:x}\r\n").into_bytes();
    request.resize(request.len() + bytes, b'G');
    request.extend_from_slice(b"\r\n");
    request
}

/// A member that knows no leader, so that its requests stay in flight.
fn member() -> Machine {
    let settings = Settings {
        name: "n1".into(),
        client_url: "http://n1:4001".into(),
        peer_url: "http://n1:7001".into(),
        heartbeat_ms: 50,
        election_ms: 200,
        snapshot_count: 10_000,
        snapshots: true,
        cluster: Default::default(),
        history_events: 1_000,
        store_bytes_max: None,
        memory: Default::default(),
        forward: false,
    };
    Machine::recover(settings, Recovered::nothing(Some(PeerId(1)), 1), 1, NOW)
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

/// The watch that `request` asks for, which is over in this turn; its connection at the client.
fn watch_that_is_over(rig: &mut Rig, machine: &mut Machine, request: &[u8]) -> (TcpStream, Ticket) {
    let mut other = rig.connect();
    other.write_all(request).expect("it is sent");
    rig.read_all(request.len());
    rig.clients.decode(machine, NOW);
    let (_, conn) = rig.clients.conns.iter_mut().next().expect("it is there");
    let ticket = conn.ticket().expect("it is in flight");
    rig.clients.new_timed_out.push(Answer {
        ticket,
        outcome: Outcome::WatchTimedOut,
        at: machine.indexes(),
    });
    (other, ticket)
}

/// A stream is over in the turn of an event that it has not got yet. The event comes first: its client
/// goes on after the index that the end of the stream tells.
#[test]
fn the_end_of_a_watch_comes_after_its_events() {
    let mut rig = Rig::new();
    let mut machine = member();
    let request = b"GET /v2/keys/a?wait=true&stream=true&timeout=1 HTTP/1.1\r\nHost: n1\r\n\r\n";
    let (mut other, ticket) = watch_that_is_over(&mut rig, &mut machine, request);
    let mut events = vec![delivery(2, &[ticket.0])];
    rig.clients.deliver(&mut events, &mut machine, NOW);
    rig.clients.flush();
    let mut answer = String::new();
    let mut part = [0; 1_000];
    while !answer.ends_with("0\r\n\r\n") {
        let count = other.read(&mut part).expect("the stream ends");
        answer.push_str(std::str::from_utf8(&part[..count]).expect("text"));
    }
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\"modifiedIndex\":2"), "{answer}");
}

/// The queue of events is full in the turn in which a watch is over. Events that are cut never come.
#[test]
fn a_watch_that_is_over_does_not_wait_for_events_that_are_cut() {
    let mut rig = Rig::new();
    let mut machine = member();
    let request = b"GET /v2/keys/a?wait=true&timeout=1 HTTP/1.1\r\nHost: n1\r\n\r\n";
    let (_other, ticket) = watch_that_is_over(&mut rig, &mut machine, request);
    // For a watcher whose connection has ended.
    let mut events: Vec<Delivery> = (0..5_000).map(|n| delivery(n, &[u64::MAX])).collect();
    rig.clients.deliver(&mut events, &mut machine, NOW);
    let (_, conn) = rig.clients.conns.iter_mut().next().expect("it is there");
    assert!(rig.clients.deliveries.is_empty());
    assert!(
        !conn.waits_for(ticket) && conn.out_bytes() > 0,
        "it is answered"
    );
}

/// Its head and its first chunk are not in the input any more when the last bytes arrive.
#[test]
fn a_chunked_request_that_arrives_in_two_reads_is_served_after_it_was_left() {
    let mut rig = Rig::new();
    let mut other = rig.connect();
    let begun = chunked("/v2/keys/a", 7);
    other.write_all(&begun).expect("it is sent");
    rig.read_all(begun.len() - CHUNK_FRAME_BYTES);
    rig.decode();
    other
        .write_all(b"0\r\n\r\nGET /b HTTP/1.1\r\n")
        .expect("it is sent");
    rig.read_all(begun.len() + 17);
    let limits = rig.clients.limits;
    let (_, conn) = rig.clients.conns.iter_mut().next().expect("it is there");
    for _ in 0..2 {
        let Some(Parsed::Request { consumed, request }) = conn.next(&limits) else {
            panic!("it is whole");
        };
        let (path, body) = (request.path.as_ref(), request.body);
        assert_eq!((path, body), ("/v2/keys/a", &b"GGGGGGG"[..]));
        assert!(conn.may_start_write());
        conn.leave_until_resumed(consumed);
        assert_eq!(conn.next(&limits), None, "it waits");
        conn.resume();
    }
    let Some(Parsed::Request { consumed, .. }) = conn.next(&limits) else {
        panic!("it is whole");
    };
    conn.consume(consumed);
    assert_eq!(conn.beginning(), b"GET /b HTTP/1.1\r\n");
}

/// The last read brings only their ends.
#[test]
fn a_turn_starts_one_long_chunked_request_and_the_next_one_none() {
    let mut rig = Rig::new();
    let mut machine = member();
    let mut others: Vec<TcpStream> = (0..2).map(|_| rig.connect()).collect();
    let begun = chunked("/v2/keys/a?value=1", 300_000);
    let mut sent = 0;
    for part in begun.chunks(50_000) {
        for other in &mut others {
            other.write_all(part).expect("it is sent");
        }
        sent += part.len();
        rig.read_all(sent - CHUNK_FRAME_BYTES);
    }
    rig.decode();
    for other in &mut others {
        other.write_all(b"0\r\n\r\n").expect("it is sent");
    }
    rig.settle();
    let is_ready = |rig: &mut Rig| {
        let mut all = rig.clients.conns.iter_mut();
        all.all(|(_, conn)| conn.wants_input(false))
    };
    while !is_ready(&mut rig) {
        rig.poll();
    }
    let mut started = Vec::new();
    for _ in 0..3 {
        rig.clients.fill();
        rig.clients.decode(&mut machine, NOW);
        let in_flight = rig.clients.conns.iter_mut();
        started.push(
            in_flight
                .filter(|(_, conn)| conn.ticket().is_some())
                .count(),
        );
        rig.settle();
    }
    assert_eq!(started, [1, 1, 2]);
}

/// Without a deadline of its own it would be closed once the idle time before it has passed.
#[test]
fn a_whole_request_that_is_held_does_not_run_into_a_deadline() {
    let mut rig = Rig::new();
    let mut other = rig.connect();
    let request = b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n";
    other.write_all(request).expect("it is sent");
    rig.read_all(request.len());
    let clients = &mut rig.clients;
    let (date, timeouts, buffers) = (&clients.date, &clients.timeouts, &mut clients.buffers);
    let (_, conn) = clients.conns.iter_mut().next().expect("it is there");
    let Some(Parsed::Request { consumed, .. }) = conn.next(&clients.limits) else {
        panic!("it is whole");
    };
    conn.leave_until_resumed(consumed);
    conn.settle(74 * S, timeouts, buffers);
    conn.expire(76 * S, date, buffers);
    assert!(!conn.settle(200 * S, timeouts, buffers), "it stays");
    conn.resume();
    assert!(matches!(
        conn.next(&clients.limits),
        Some(Parsed::Request { .. })
    ));
}

#[test]
fn a_body_that_has_arrived_and_is_not_parsed_yet_is_not_late() {
    let mut rig = Rig::new();
    let mut other = rig.connect();
    let head = b"PUT /v2/keys/a HTTP/1.1\r\nHost: n1\r\nContent-Length: 7\r\n\r\nval";
    other.write_all(head).expect("it is sent");
    rig.read_all(head.len());
    rig.decode();
    let clients = &mut rig.clients;
    for (_, conn) in clients.conns.iter_mut() {
        conn.settle(1, &clients.timeouts, &mut clients.buffers);
    }
    other.write_all(b"ue=1").expect("it is sent");
    while rig.input_bytes() < head.len() + 4 {
        rig.poll();
        rig.clients.fill();
    }
    let clients = &mut rig.clients;
    let (date, timeouts, buffers) = (&clients.date, &clients.timeouts, &mut clients.buffers);
    let (_, conn) = clients.conns.iter_mut().next().expect("it is there");
    conn.settle(5 * S, timeouts, buffers);
    conn.expire(6 * S, date, buffers);
    assert_eq!(conn.out_bytes(), 0, "it is not refused");
    assert!(matches!(
        conn.next(&clients.limits),
        Some(Parsed::Request { .. })
    ));
    // One whose rest is still missing is late.
    conn.on_incomplete(0, false);
    conn.expire(6 * S, date, buffers);
    assert!(conn.out_bytes() > 0, "it is refused");
}

#[test]
fn requests_that_are_held_give_way_before_a_small_watcher() {
    const BYTES: usize = 600_000;
    let mut rig = Rig::with_bytes(1 << 20);
    let mut others: Vec<TcpStream> = (0..2).map(|_| rig.connect()).collect();
    let head = format!("PUT /v2/keys/a HTTP/1.1\r\nHost: n1\r\nContent-Length: {BYTES}\r\n\r\n");
    let mut request = head.into_bytes();
    request.resize(request.len() + BYTES, b'x');
    let mut sent = 0;
    for part in request.chunks(50_000) {
        for other in &mut others {
            other.write_all(part).expect("it is sent");
        }
        sent += part.len();
        rig.read_all(sent);
    }
    let _watching = rig.connect();
    let clients = &mut rig.clients;
    let buffers = &mut clients.buffers;
    for (number, (_, conn)) in clients.conns.iter_mut().enumerate() {
        if number == 2 {
            conn.start(Ticket(1), shape(), true, None);
            conn.append(buffers, &[b'x'; 2_048]);
        } else if let Some(Parsed::Request { consumed, .. }) = conn.next(&clients.limits) {
            conn.leave_until_resumed(consumed);
        }
        conn.settle(1, &clients.timeouts, buffers);
        conn.recount(&mut clients.budget);
    }
    assert!(clients.budget.is_over());
    clients.enforce_budget(NOW);
    assert!(clients.budget.has_room() && !clients.over_budget);
    let mut all = clients.conns.iter_mut();
    assert!(
        all.any(|(_, conn)| conn.waits_for(Ticket(1))),
        "the watcher stays"
    );
}
