//! Answers to bytes: status line, headers, and a body of known length or in chunks.
//!
//! `Response` is what the interface renders and the connection writes. Start with `Response::encode`.
use super::reject::Reject;
use super::request::Version;
use crate::VERSION;

/// What an answer's framing depends on, kept from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub version: Version,
    /// Whether the client lets the connection go on.
    pub keep_alive: bool,
    /// HEAD: the head as for GET, never a body.
    pub head_only: bool,
}

impl Reply {
    /// For an answer to what could not be read as a request.
    pub const CLOSE: Reply = Reply {
        version: Version::Http11,
        keep_alive: false,
        head_only: false,
    };
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
        let bodiless = reply.head_only || matches!(self.status, 100..200 | 204 | 304);
        let pieces = match self.body {
            Body::Full(_) => Pieces::None,
            Body::Stream if bodiless => Pieces::None,
            Body::Stream if reply.version == Version::Http11 => Pieces::Chunked,
            Body::Stream => Pieces::ToTheEnd,
        };
        let framing = Framing {
            keep_alive: reply.keep_alive && pieces != Pieces::ToTheEnd,
            pieces,
        };
        self.encode_head(reply, date, framing, out);
        match &self.body {
            Body::Full(body) if !bodiless => out.extend_from_slice(body),
            Body::Full(_) | Body::Stream => {}
        }
        framing
    }

    fn encode_head(&self, reply: Reply, date: &Date, framing: Framing, out: &mut Vec<u8>) {
        out.extend_from_slice(match reply.version {
            Version::Http10 => b"HTTP/1.0 ",
            Version::Http11 => b"HTTP/1.1 ",
        });
        push_number(u64::from(self.status), out);
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\nServer: tern/");
        out.extend_from_slice(VERSION.as_bytes());
        out.extend_from_slice(b"\r\n");
        push_header("Date", date.as_str(), out);
        if !self.content_type.is_empty() {
            push_header("Content-Type", self.content_type, out);
        }
        for (name, value) in &self.headers {
            push_header(name, value, out);
        }
        match (&self.body, framing.pieces) {
            (Body::Full(body), _) if !matches!(self.status, 100..200 | 204 | 304) => {
                out.extend_from_slice(b"Content-Length: ");
                push_number(body.len() as u64, out);
                out.extend_from_slice(b"\r\n");
            }
            (_, Pieces::Chunked) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            (_, Pieces::None | Pieces::ToTheEnd) => {}
        }
        match (framing.keep_alive, reply.version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn push_header(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    // A line break in a value would begin a header of the client's choice.
    out.extend(
        value
            .bytes()
            .map(|b| if b.is_ascii_control() { b' ' } else { b }),
    );
    out.extend_from_slice(b"\r\n");
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// How the pieces of a body are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// There are none.
    None,
    Chunked,
    /// As they are; the end of the connection is the end of the body.
    ToTheEnd,
}

/// How an answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// False: close when the answer has left.
    pub keep_alive: bool,
    pieces: Pieces,
}

impl Framing {
    /// Appends one piece of the body.
    pub fn chunk(self, piece: &[u8], out: &mut Vec<u8>) {
        match self.pieces {
            // An empty chunk would end the body.
            Pieces::Chunked if !piece.is_empty() => {
                let size = format!("{:x}\r\n", piece.len());
                out.extend_from_slice(size.as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Pieces::ToTheEnd => out.extend_from_slice(piece),
            Pieces::Chunked | Pieces::None => {}
        }
    }

    /// Appends what follows the last piece.
    pub fn end(self, out: &mut Vec<u8>) {
        match self.pieces {
            Pieces::Chunked => out.extend_from_slice(b"0\r\n\r\n"),
            Pieces::ToTheEnd | Pieces::None => {}
        }
    }
}

/// The reason phrase of a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
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
