//! Drives any server with the v2 interface in a closed loop: each connection sends one request,
//! reads the whole answer, sends the next. One thread, one poll, requests made before the clock
//! starts, answers scanned only for their end, so that the server and not this program is what is
//! measured. Start reading at `run`.
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each connection sets keys of its own share, round and round.
    Put,
    /// Each connection reads keys of its own share, round and round; `fill` sets them first.
    Get,
    /// As `Get`, with linearizable reads.
    LinearizableGet,
    /// Every connection streams one key; one more connection sets it and waits until all have been
    /// told.
    Watch,
    /// As `Put`, with the SET of Redis.
    RedisSet,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub address: SocketAddr,
    pub mode: Mode,
    pub connections: usize,
    pub duration: Duration,
    /// Stop after this many requests, if that is sooner.
    pub requests_max: u64,
    pub value_bytes: usize,
    /// How many keys are used in all.
    pub keys: usize,
}

impl Load {
    /// A run for a time: values of 64 bytes under 10,000 keys.
    pub fn of(address: SocketAddr, mode: Mode, connections: usize, duration: Duration) -> Load {
        Load {
            address,
            mode,
            connections,
            duration,
            requests_max: u64::MAX,
            value_bytes: 64,
            keys: 10_000,
        }
    }
}

/// What came of it. For `Watch` a request is one delivery, and its latency runs from the set's
/// departure.
pub struct Report {
    pub requests: u64,
    pub elapsed: Duration,
    /// Microseconds.
    pub latency: Histogram<u64>,
    /// For `Watch`: when each event reached its first and its last watcher, in microseconds after
    /// the set's departure.
    pub spans: Vec<(f64, f64)>,
}

impl Report {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// Where the end of an answer is known from.
#[derive(Clone, Copy)]
enum Body {
    /// The head is not complete yet.
    Head,
    /// This many bytes of the body are still to come.
    Length(usize),
    /// Chunks; the last bytes seen are kept in `tail`.
    Chunked,
    /// One line: an answer of Redis.
    Line,
}

struct Conn {
    stream: TcpStream,
    requests: Vec<Box<[u8]>>,
    next: usize,
    unsent: usize,
    head: Vec<u8>,
    body: Body,
    tail: [u8; 5],
    sent_at: Instant,
    ok: bool,
}

const CHUNKED_END: [u8; 5] = *b"0\r\n\r\n";

impl Conn {
    fn connect(address: SocketAddr, requests: Vec<Box<[u8]>>) -> Result<Conn> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Conn {
            stream: TcpStream::from_std(stream),
            requests,
            next: 0,
            unsent: 0,
            head: Vec::with_capacity(512),
            body: Body::Head,
            tail: [0; 5],
            sent_at: Instant::now(),
            ok: false,
        })
    }

    fn send(&mut self, now: Instant) -> Result<()> {
        self.sent_at = now;
        self.body = match self.requests[self.next][0] {
            b'*' => Body::Line,
            _ => Body::Head,
        };
        self.tail = [0; 5];
        self.head.clear();
        self.unsent = 0;
        self.push()
    }

    fn push(&mut self) -> Result<()> {
        let request = &self.requests[self.next];
        while self.unsent < request.len() {
            match self.stream.write(&request[self.unsent..]) {
                Ok(n) => self.unsent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads all there is; true when the answer is whole.
    fn pull(&mut self, buffer: &mut [u8]) -> Result<bool> {
        loop {
            match self.pull_once(buffer)? {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => return Ok(false),
            }
        }
    }

    /// Reads once; whether the answer is whole, or `None` when there is nothing to read.
    fn pull_once(&mut self, buffer: &mut [u8]) -> Result<Option<bool>> {
        let Some(n) = read_some(&mut self.stream, buffer)? else {
            return Ok(None);
        };
        let mut bytes = &buffer[..n];
        if let Body::Head = self.body {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = find(&self.head, b"\r\n\r\n") else {
                return Ok(Some(false));
            };
            bytes = &bytes[end + 4 - before..];
            self.ok = self.head.get(9) == Some(&b'2');
            self.body = body_of(&self.head[..end])?;
        }
        match &mut self.body {
            Body::Head => unreachable!("the head is complete"),
            Body::Length(left) => {
                *left = left.saturating_sub(bytes.len());
                Ok(Some(*left == 0))
            }
            Body::Chunked => {
                for &b in &bytes[bytes.len().saturating_sub(5)..] {
                    self.tail.rotate_left(1);
                    self.tail[4] = b;
                }
                Ok(Some(self.tail == CHUNKED_END))
            }
            Body::Line => {
                self.head.extend_from_slice(bytes);
                self.ok = self.head[0] == b'+';
                Ok(Some(self.head.ends_with(b"\r\n")))
            }
        }
    }

    /// Whether the whole answer to the last request was read.
    fn is_answered(&self) -> bool {
        match self.body {
            Body::Head => false,
            Body::Length(left) => left == 0,
            Body::Chunked => self.tail == CHUNKED_END,
            Body::Line => self.head.ends_with(b"\r\n"),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if !self.ok {
            let head = String::from_utf8_lossy(&self.head);
            return Err(Error::other(format!(
                "not a success: {}",
                head.lines().next().unwrap_or("")
            )));
        }
        self.next = (self.next + 1) % self.requests.len();
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn body_of(head: &[u8]) -> Result<Body> {
    for line in head.split(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            return value
                .trim()
                .parse()
                .map(Body::Length)
                .map_err(|_| Error::other("bad Content-Length"));
        }
        if line.starts_with("transfer-encoding:") && line.contains("chunked") {
            return Ok(Body::Chunked);
        }
    }
    Ok(Body::Length(0))
}

/// A PUT of one key.
pub fn put_request(key: &str, value_bytes: usize) -> Box<[u8]> {
    put_form(key, &format!("value={}", "x".repeat(value_bytes)))
}

fn put_form(key: &str, body: &str) -> Box<[u8]> {
    format!(
        "PUT /v2/keys{key} HTTP/1.1\r\nHost: load\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into()
}

/// A GET of one key, with a query or none.
pub fn get_request(key: &str, query: &str) -> Box<[u8]> {
    format!("GET /v2/keys{key}{query} HTTP/1.1\r\nHost: load\r\n\r\n")
        .into_bytes()
        .into()
}

/// A SET of one key of Redis.
fn redis_set(key: &str, value_bytes: usize) -> Box<[u8]> {
    let value = "x".repeat(value_bytes);
    let text = format!(
        "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n",
        key.len()
    );
    text.into_bytes().into()
}

/// The keys that one connection uses.
fn share(load: &Load, connection: usize) -> Vec<String> {
    (connection..load.keys.max(load.connections))
        .step_by(load.connections)
        .map(|k| format!("/load/{k:07}"))
        .collect()
}

/// Runs one load and reports; an answer other than a success ends it with an error.
pub fn run(load: &Load) -> Result<Report> {
    match load.mode {
        Mode::Put => closed_loop(load, false, |key| put_request(key, load.value_bytes)),
        Mode::Get => closed_loop(load, false, |key| get_request(key, "")),
        Mode::LinearizableGet => closed_loop(load, false, |key| get_request(key, "?quorum=true")),
        Mode::Watch => fan_out(load),
        Mode::RedisSet => closed_loop(load, false, |key| redis_set(key, load.value_bytes)),
    }
}

/// Sets every key once, over the same number of connections: what `Get` reads must be there.
pub fn fill(load: &Load) -> Result<Report> {
    fill_by(load, |key| put_request(key, load.value_bytes))
}

/// As `fill`, and each key expires so many seconds after it is set.
pub fn fill_expiring(load: &Load, ttl_s: u64) -> Result<Report> {
    let value = "x".repeat(load.value_bytes);
    let body = format!("value={value}&ttl={ttl_s}");
    fill_by(load, |key| put_form(key, &body))
}

fn fill_by(load: &Load, request: impl Fn(&str) -> Box<[u8]>) -> Result<Report> {
    let once = Load {
        requests_max: u64::MAX,
        duration: Duration::from_secs(600),
        ..*load
    };
    closed_loop(&once, true, request)
}

/// With `each_once` a connection ends with its last key: a server that answers one connection sooner
/// than another would otherwise leave keys of the other out.
fn closed_loop(
    load: &Load,
    each_once: bool,
    request: impl Fn(&str) -> Box<[u8]>,
) -> Result<Report> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let mut conns = Vec::with_capacity(load.connections);
    for i in 0..load.connections {
        let mut conn = Conn::connect(
            load.address,
            share(load, i).iter().map(|k| request(k)).collect(),
        )?;
        poll.registry().register(
            &mut conn.stream,
            Token(i),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        conns.push(conn);
    }
    let mut latency = new_histogram();
    let mut buffer = vec![0; 64 * 1024];
    let start = Instant::now();
    let (mut started, mut requests) = (0, 0);
    for conn in &mut conns {
        if started < load.requests_max {
            started += 1;
            conn.send(Instant::now())?;
        }
    }
    while requests < started {
        poll_some(&mut poll, &mut events)?;
        for event in &events {
            let conn = &mut conns[event.token().0];
            if event.is_writable() && conn.unsent > 0 {
                conn.push()?;
            }
            if event.is_readable() && conn.unsent > 0 && conn.pull(&mut buffer)? {
                conn.finish()?;
                let now = Instant::now();
                record(&mut latency, now - conn.sent_at);
                requests += 1;
                conn.unsent = 0;
                let has_more = !each_once || conn.next != 0;
                if has_more && started < load.requests_max && now - start < load.duration {
                    started += 1;
                    conn.send(now)?;
                }
            }
        }
    }
    Ok(Report {
        requests,
        elapsed: start.elapsed(),
        latency,
        spans: Vec::new(),
    })
}

/// One setter, `connections` streaming watchers of the same key: a round ends when the last of them
/// was told.
fn fan_out(load: &Load) -> Result<Report> {
    let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
    let key = "/load/watched";
    let mut setter = Conn::connect(load.address, vec![put_request(key, load.value_bytes)])?;
    poll.registry().register(
        &mut setter.stream,
        Token(load.connections),
        Interest::READABLE | Interest::WRITABLE,
    )?;
    let mut watchers = Vec::with_capacity(load.connections);
    for i in 0..load.connections {
        let mut conn = Conn::connect(
            load.address,
            vec![get_request(key, "?wait=true&stream=true")],
        )?;
        poll.registry().register(
            &mut conn.stream,
            Token(i),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        conn.send(Instant::now())?;
        watchers.push(conn);
    }
    let mut fan_out = FanOut {
        poll,
        events,
        setter,
        told: vec![false; watchers.len()],
        watchers,
        buffer: vec![0; 256 * 1024],
    };
    // The server sends the head of a watch at once, so the head shows that the watcher is in place.
    fan_out.await_all(b"\r\n\r\n", |_| {})?;
    let (start, mut requests) = (Instant::now(), 0);
    let mut latency = new_histogram();
    let mut spans = Vec::new();
    while start.elapsed() < load.duration && requests < load.requests_max {
        let sent_at = fan_out.set()?;
        let mut times = Vec::with_capacity(load.connections);
        fan_out.await_all(b"\"action\"", |at| times.push(at - sent_at))?;
        fan_out.await_setter()?;
        for took in &times {
            record(&mut latency, *took);
        }
        let us = |took: Option<&Duration>| took.expect("a watcher").as_secs_f64() * 1e6;
        spans.push((us(times.first()), us(times.last())));
        requests += load.connections as u64;
    }
    Ok(Report {
        requests,
        elapsed: start.elapsed(),
        latency,
        spans,
    })
}

/// Watchers of one key, and the connection that sets it.
struct FanOut {
    poll: Poll,
    events: Events,
    setter: Conn,
    watchers: Vec<Conn>,
    /// The watchers that have received the mark of this round.
    told: Vec<bool>,
    buffer: Vec<u8>,
}

impl FanOut {
    /// Sends the set. Returns when.
    fn set(&mut self) -> Result<Instant> {
        self.setter.ok = false;
        self.setter.send(Instant::now())?;
        Ok(self.setter.sent_at)
    }

    /// Reads until each watcher has received `mark`; calls `on_told` with the time for each.
    fn await_all(&mut self, mark: &[u8], mut on_told: impl FnMut(Instant)) -> Result<()> {
        self.told.fill(false);
        let mut waiting = self.watchers.len();
        while waiting > 0 {
            poll_some(&mut self.poll, &mut self.events)?;
            for event in self.events.iter() {
                let i = event.token().0;
                if i == self.watchers.len() {
                    // Its answer may come before the events.
                    self.setter.pull(&mut self.buffer)?;
                    continue;
                }
                while let Some(n) = read_some(&mut self.watchers[i].stream, &mut self.buffer)? {
                    if !self.told[i] && find(&self.buffer[..n], mark).is_some() {
                        self.told[i] = true;
                        waiting -= 1;
                        on_told(Instant::now());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads until the set is answered.
    fn await_setter(&mut self) -> Result<()> {
        while !self.setter.is_answered() {
            poll_some(&mut self.poll, &mut self.events)?;
            self.setter.pull(&mut self.buffer)?;
        }
        self.setter.finish()
    }
}

/// Reads once; `None` if there is nothing to read.
fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(0) => {
            let text = "the server closed the connection";
            Err(Error::new(ErrorKind::UnexpectedEof, text))
        }
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

fn poll_some(poll: &mut Poll, events: &mut Events) -> Result<()> {
    match poll.poll(events, Some(Duration::from_secs(30))) {
        Ok(()) if events.is_empty() => Err(Error::new(ErrorKind::TimedOut, "no answer for 30 s")),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid")
}

fn record(latency: &mut Histogram<u64>, took: Duration) {
    latency.saturating_record(took.as_micros().max(1) as u64);
}
