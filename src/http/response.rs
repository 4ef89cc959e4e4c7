//! Answers to bytes: status line, headers, and a body of known length or in chunks.
//!
//! `Response` is what the interface renders and the connection writes. Start with `Response::encode`.
use super::request::{Reject, Version};

/// What an answer's framing depends on, kept from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub version: Version,
    /// Whether the client lets the connection go on.
    pub keep_alive: bool,
    /// HEAD: the head as for GET, never a body.
    pub head_only: bool,
}

/// An answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it; `Content-Length` tells how much.
    Full(Vec<u8>),
    /// It follows piece by piece: `Framing::chunk` for each, `Framing::end` after the last.
    Stream,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Not sent when empty.
    pub content_type: &'static str,
    /// Further headers, in this order.
    pub headers: Vec<(&'static str, Box<str>)>,
    pub body: Body,
}

/// `Content-Type` of JSON answers.
pub const JSON: &str = "application/json";
/// `Content-Type` of text answers.
pub const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    /// An answer with a whole body.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response {
            status,
            content_type,
            headers: Vec::new(),
            body: Body::Full(body.into()),
        }
    }

    /// An answer whose body follows in pieces.
    pub fn stream(status: u16, content_type: &'static str) -> Response {
        Response {
            status,
            content_type,
            headers: Vec::new(),
            body: Body::Stream,
        }
    }

    /// Adds a header. Control characters in a value are sent as spaces.
    pub fn with(mut self, name: &'static str, value: impl Into<Box<str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer to a refused request.
    pub fn reject(reject: Reject) -> Response {
        Response::new(reject.status, TEXT, reject.text)
    }

    /// Appends the answer to `out`; the framing returned writes the pieces of a `Body::Stream` and says whether the
    /// connection goes on when the answer has left.
    pub fn encode(&self, reply: Reply, date: &Date, out: &mut Vec<u8>) -> Framing {
        let _ = (reply, date, out);
        unimplemented!("lands next")
    }
}

/// How an answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// False: close when the answer has left.
    pub keep_alive: bool,
}

impl Framing {
    /// Appends one piece of the body.
    pub fn chunk(self, piece: &[u8], out: &mut Vec<u8>) {
        let _ = (piece, out);
        unimplemented!("lands next")
    }

    /// Appends what follows the last piece.
    pub fn end(self, out: &mut Vec<u8>) {
        let _ = out;
        unimplemented!("lands next")
    }
}

/// `HTTP/1.1 100 Continue`, to be sent when `NeedMore` says so.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The `Date` header, formatted once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// The date of a time in nanoseconds since the Unix epoch.
    pub fn new(wall_ns: u64) -> Date {
        let mut date = Date::default();
        date.set(wall_ns);
        date
    }

    /// Moves on to a new time; formats only when the second has changed.
    pub fn set(&mut self, wall_ns: u64) {
        let second = wall_ns / 1_000_000_000;
        if second != self.second || self.text.is_empty() {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            self.text = httpdate::fmt_http_date(time);
            self.second = second;
        }
    }

    /// As the header carries it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
