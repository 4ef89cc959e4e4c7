//! A small HTTP client that shows every byte: heads as they arrive, chunks one by one.
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The longest wait for anything; a test that reaches it fails. A quiet machine needs a small part
/// of it: the rest is for one that is slow, or busy with other work.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// The longest time in which attempts are made; a comparison after it fails.
const ATTEMPTS: Duration = Duration::from_secs(60);

/// Asks again until the condition holds.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, condition).0
}

/// The same with a deadline of its own, and how long it took. A gap in the clock (this process was
/// stopped too) counts as one second.
pub fn within<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let mut waited = Duration::ZERO;
    loop {
        let round = Instant::now();
        let found = condition();
        if found.is_none() {
            assert!(waited < deadline, "waited {waited:?} in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        waited += round.elapsed().min(Duration::from_secs(1));
        if let Some(value) = found {
            return (value, waited);
        }
    }
}

/// Makes attempts until one is good, or until there was time enough. Returns the result of the last
/// one.
pub fn attempts<T>(mut attempt: impl FnMut() -> T, is_good: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let result = attempt();
        if is_good(&result) || start.elapsed() > ATTEMPTS {
            return result;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where a machine listens: a port of this host, or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub SocketAddr);

impl From<u16> for At {
    fn from(port: u16) -> At {
        At(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> At {
        At(address)
    }
}

/// Status and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn etcd_index(&self) -> u64 {
        let index = self.header("X-Etcd-Index").expect("X-Etcd-Index");
        index.parse().expect("a number")
    }

    fn is_chunked(&self) -> bool {
        self.header("Transfer-Encoding") == Some("chunked")
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(text).unwrap_or_else(|bad| panic!("{bad}: {text}"))
    }
}

/// A request's bytes.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: tern\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if headers.contains(&("Transfer-Encoding", "chunked")) {
        bytes.extend_from_slice(format!("\r\n{:x}\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        return bytes;
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a form.
pub fn form(method: &str, target: &str, body: &str) -> Vec<u8> {
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    request(method, target, &headers, body.as_bytes())
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    /// Bytes that arrived and are not parsed yet.
    input: Vec<u8>,
    /// How long to wait before the other side counts as gone. Without it the wait ends with the
    /// deadline, which fails the test.
    patience: Option<Duration>,
}

impl Conn {
    pub fn open(at: impl Into<At>) -> Conn {
        Conn::try_open(at).expect("the server listens")
    }

    /// `None` when nothing listens there.
    pub fn try_open(at: impl Into<At>) -> Option<Conn> {
        let stream = TcpStream::connect_timeout(&at.into().0, DEADLINE).ok()?;
        stream.set_nodelay(true).expect("a socket option");
        Some(Conn::over(stream))
    }

    /// A connection on an open stream.
    pub fn over(stream: TcpStream) -> Conn {
        Conn {
            stream,
            input: Vec::new(),
            patience: None,
        }
    }

    /// A connection that gives up after `patience`.
    pub fn impatient(at: impl Into<At>, patience: Duration) -> Option<Conn> {
        let mut conn = Conn::over(TcpStream::connect_timeout(&at.into().0, patience).ok()?);
        conn.stream.set_nodelay(true).expect("a socket option");
        conn.patience = Some(patience);
        Some(conn)
    }

    /// False when the other side is gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the server takes the request");
    }

    /// Reads more; false at the end, or when the other side is gone.
    fn fill(&mut self) -> bool {
        let patience = self.patience.unwrap_or(DEADLINE);
        self.stream
            .set_read_timeout(Some(patience))
            .expect("a socket option");
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.patience.is_some() => false,
            Err(error) => panic!("no answer: {error}; so far: {:?}", self.so_far()),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }

    /// Whether nothing has come and the other side has not closed.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket option");
        let read = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket option");
        self.input.is_empty() && read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|w| w == b"\r\n") {
                let line = self.input.drain(..end + 2).take(end).collect();
                return Some(String::from_utf8(line).expect("a head is ASCII here"));
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next head; `None` when the other side closes before it.
    pub fn head(&mut self) -> Option<Head> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).expect("a status line");
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_string(), value.to_string()));
        }
        Some(Head {
            status: status.parse().expect("a number"),
            headers,
        })
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.input.len() < count {
            if !self.fill() {
                return None;
            }
        }
        Some(self.input.drain(..count).collect())
    }

    /// The next chunk's content; empty for the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line()?, 16).expect("a chunk's size");
        let content = self.take(size)?;
        assert_eq!(self.take(2)?, b"\r\n");
        Some(content)
    }

    /// The body that follows a head; `None` when it is cut short.
    pub fn body(&mut self, head: &Head, head_only: bool) -> Option<Vec<u8>> {
        if head_only || head.status == 204 {
            return Some(Vec::new());
        }
        if head.is_chunked() {
            let mut body = Vec::new();
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    return Some(body);
                }
                body.extend_from_slice(&chunk);
            }
        }
        if let Some(length) = head.header("Content-Length") {
            return self.take(length.parse().expect("a number"));
        }
        while self.fill() {}
        Some(std::mem::take(&mut self.input))
    }

    /// The next answer; `None` when the other side closes before all of it has come.
    pub fn try_answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut head = self.head()?;
        while head.status == 100 {
            head = self.head()?;
        }
        let body = self.body(&head, head_only)?;
        Some(Answer { head, body })
    }

    /// The next answer.
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    /// Sends the bytes of a request, which is not a HEAD, and reads its answer; `None` when the other
    /// side is gone, or does not answer in time.
    pub fn try_exchange(&mut self, request: &[u8]) -> Option<Answer> {
        if !self.try_send(request) {
            return None;
        }
        self.try_answer(false)
    }

    /// Sends a request and reads its answer; `None` when the other side is gone.
    pub fn try_ask(&mut self, method: &str, target: &str, body: &str) -> Option<Answer> {
        let bytes = if body.is_empty() {
            request(method, target, &[], b"")
        } else {
            form(method, target, body)
        };
        if !self.try_send(&bytes) {
            return None;
        }
        self.try_answer(method == "HEAD")
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, body: &str) -> Answer {
        self.try_ask(method, target, body).expect("an answer")
    }

    /// Starts a watch and reads its head.
    pub fn watch(at: impl Into<At>, target: &str) -> Conn {
        let mut conn = Conn::open(at);
        conn.send(&request("GET", target, &[], b""));
        let head = conn.head().expect("a head");
        assert_eq!(head.status, 200);
        conn
    }

    /// The next event of a stream; `None` when it has ended.
    pub fn event(&mut self) -> Option<serde_json::Value> {
        let chunk = self.chunk()?;
        (!chunk.is_empty()).then(|| serde_json::from_slice(&chunk).expect("JSON"))
    }
}
