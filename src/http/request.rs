//! Requests from a connection's input buffer, under the strict framing rules.
//!
//! `Parser::parse` is called with all unconsumed input whenever more has come; it remembers how far it has looked, so
//! that no byte is scanned twice, and its result does not depend on how the input was cut into reads. Whatever is
//! not beyond doubt is refused and the connection closed: a request that two programs frame differently is how one
//! user's bytes become another's request. Start with `Parser::parse`.
use super::response::Reply;
use std::borrow::Cow;

/// Bounds on one request; a client cannot make the parser hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers with the empty line, in bytes. Beyond: 431.
    pub head_bytes_max: usize,
    /// Beyond: 431.
    pub headers_max: usize,
    /// Decoded body in bytes. Beyond: 413.
    pub body_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes_max: 16 * 1024,
            headers_max: 100,
            body_bytes_max: 2 * 1024 * 1024,
        }
    }
}

/// A request's method; one that tern has no route for is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    Other,
}

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// One whole request; borrows from the connection's input or from the parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: Method,
    /// The decoded path; starts with `/` (or is `*` of `OPTIONS *`), not cleaned. Invalid UTF-8 has become U+FFFD.
    pub path: Cow<'a, str>,
    /// The path as it was sent, for redirects.
    pub raw_path: &'a str,
    /// The query as it was sent, without its `?`; `None` when there was no `?`.
    pub query: Option<&'a str>,
    pub version: Version,
    /// Whether the connection goes on after the answer.
    pub keep_alive: bool,
    pub host: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub origin: Option<&'a str>,
    /// The decoded body, empty when there was none.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// What framing the answer needs to know; kept by the connection while the request is parked.
    pub fn reply(&self) -> Reply {
        Reply {
            version: self.version,
            keep_alive: self.keep_alive,
            head_only: self.method == Method::Head,
        }
    }

    /// The target for a redirect: path and query as they were sent.
    pub fn target(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.raw_path),
            None => self.raw_path.to_string(),
        }
    }
}

/// Why a request is refused. The connection is always closed after the answer: what follows cannot be trusted to
/// start a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub status: u16,
    /// The whole text of the answer's body.
    pub text: &'static str,
}

impl Reject {
    /// The head did not arrive in time.
    pub const HEAD_TIMEOUT: Reject = Reject {
        status: 408,
        text: "408 Request Timeout: the head did not arrive in time",
    };
    /// The body did not arrive in time, or too slowly.
    pub const BODY_TIMEOUT: Reject = Reject {
        status: 408,
        text: "408 Request Timeout: the body did not arrive in time",
    };
}

/// What a call of the parser came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Not whole yet. Drop `consumed` bytes from the front of the input, read more, call again.
    NeedMore {
        consumed: usize,
        /// The client waits for `100 Continue` before it sends the body; told once.
        continue_100: bool,
    },
    /// One request. When it has been dealt with, drop `consumed` bytes and call `reset`.
    Request {
        consumed: usize,
        request: Request<'a>,
    },
    /// Answer this and close.
    Reject(Reject),
}

/// Where a connection stands within a request; deadlines depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No byte of a request has come.
    Idle,
    /// The head has begun.
    Head,
    /// The head is whole, the body is not; so many bytes of the body have come.
    Body { received: u64 },
}

/// The state of one connection's request stream.
#[derive(Debug, Default)]
pub struct Parser {
    head: Vec<u8>,
}

impl Parser {
    /// A parser before its first request.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Looks at the input, which starts where the last `consumed` left off.
    pub fn parse<'a>(&'a mut self, input: &'a [u8], limits: &Limits) -> Progress<'a> {
        let _ = (input, limits, &self.head);
        unimplemented!("lands next")
    }

    /// Ready for the next request; gives back what a large body took.
    pub fn reset(&mut self) {
        self.head = Vec::new();
    }

    /// Where the connection stands; as of the last call of `parse`.
    pub fn stage(&self) -> Stage {
        Stage::Idle
    }
}
