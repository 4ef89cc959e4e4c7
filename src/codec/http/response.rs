//! Writes responses as bytes: status line, headers, and a body of known length or in chunks (RFC
//! 9112 sections 4 and 7.1).
//!
//! [`ResponseHead`] writes directly into a connection's output; [`Response`] is a small response as
//! a value. Start reading at [`ResponseHead::new`].
use super::message::{ResponseMode, Version};
use super::reject::Reject;
use crate::VERSION;
use std::fmt::Write;

/// A response whose body is known as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status, 200 to 599.
    pub status: u16,
    /// Header `Content-Type`; empty: the header is not sent.
    pub content_type: &'static str,
    /// Further headers, in this order.
    pub headers: Vec<(&'static str, Box<str>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// `Content-Type` of JSON.
pub const JSON: &str = "application/json";
/// `Content-Type` of text.
pub const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    /// A response without further headers.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Adds a header. Control characters in a value are sent as spaces.
    pub fn with(mut self, name: &'static str, value: impl Into<Box<str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The response to a refused request.
    pub fn reject(reject: Reject) -> Response {
        Response::new(reject.status, TEXT, reject.text)
    }

    /// Appends the response to `out`. The framing says whether the connection stays open after it.
    pub fn encode(&self, mode: ResponseMode, date: &Date, out: &mut Vec<u8>) -> Framing {
        let mut head = ResponseHead::new(self.status, mode, date, out);
        head.content_type(self.content_type);
        for (name, value) in &self.headers {
            head.header(name, value);
        }
        head.full(|out| out.extend_from_slice(&self.body))
    }
}

/// The head of a response that is being written into `out`.
pub struct ResponseHead<'a> {
    out: &'a mut Vec<u8>,
    mode: ResponseMode,
    /// Whether the status allows neither a body nor a length (RFC 9110 section 6.4.1).
    bodiless: bool,
}

const LINE_END: &[u8] = b"\r\n";

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The most digits of a `u64` in a base of 10 or more.
const DIGITS_MAX: usize = 20;

/// Room for the digits of `Content-Length`, which is known only after the body has been written.
const LENGTH_DIGITS: usize = 10;

impl<'a> ResponseHead<'a> {
    /// Writes the status line and the headers that every response has.
    pub fn new(
        status: u16,
        mode: ResponseMode,
        date: &Date,
        out: &'a mut Vec<u8>,
    ) -> ResponseHead<'a> {
        out.extend_from_slice(match mode.version {
            Version::Http10 => b"HTTP/1.0 ",
            Version::Http11 => b"HTTP/1.1 ",
        });
        push_number(u64::from(status), out);
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\nServer: tern/");
        out.extend_from_slice(VERSION.as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(date.as_str().as_bytes());
        out.extend_from_slice(b"\r\n");
        ResponseHead {
            out,
            mode,
            bodiless: matches!(status, 100..200 | 204 | 304),
        }
    }

    /// Adds `Content-Type`, unless it is empty. tern's own types need no look for control characters.
    pub fn content_type(&mut self, value: &'static str) {
        if !value.is_empty() {
            self.line("Content-Type", value.as_bytes());
        }
    }

    /// Adds a header. Control characters in the value are sent as spaces: a line break would begin
    /// a header that a client chose (RFC 9110 section 5.5).
    pub fn header(&mut self, name: &str, value: &str) {
        self.line(name, value.as_bytes());
        let end = self.out.len() - LINE_END.len();
        let written = &mut self.out[end - value.len()..end];
        for byte in written.iter_mut().filter(|b| b.is_ascii_control()) {
            *byte = b' ';
        }
    }

    /// Adds a header whose value is a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.line(name, digits::<10>(value, &mut [0; DIGITS_MAX]));
    }

    /// Adds a header whose value is a number in hexadecimal digits.
    pub fn hexadecimal(&mut self, name: &str, value: u64) {
        self.line(name, digits::<16>(value, &mut [0; DIGITS_MAX]));
    }

    fn line(&mut self, name: &str, value: &[u8]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(LINE_END);
    }

    /// Ends the head. `write` appends the whole body, whose length is then filled in.
    ///
    /// # Panics
    ///
    /// If the body is 10 GB or longer.
    pub fn full(self, write: impl FnOnce(&mut Vec<u8>)) -> Framing {
        self.full_with(|out| {
            write(out);
            0
        })
        .0
    }

    /// [`ResponseHead::full`] for a body of which `write` leaves parts out. `write` returns the
    /// length of these parts in bytes.
    ///
    /// Filling in the length may shorten the head. Returns by how many bytes it did, which is how
    /// far the body moved towards the start of the output.
    ///
    /// # Panics
    ///
    /// If the body is 10 GB or longer.
    pub fn full_with(self, write: impl FnOnce(&mut Vec<u8>) -> usize) -> (Framing, usize) {
        let framing = Framing {
            keep_alive: self.mode.keep_alive,
            pieces: Pieces::None,
        };
        if self.bodiless {
            self.end(framing);
            return (framing, 0);
        }
        self.out.extend_from_slice(b"Content-Length: ");
        let place = self.out.len();
        self.out.extend_from_slice(&[b'0'; LENGTH_DIGITS]);
        self.out.extend_from_slice(b"\r\n");
        let head_only = self.mode.head_only;
        let out = self.end(framing);
        let body = out.len();
        let left_out = write(out);
        let mut room = [0; DIGITS_MAX];
        let length = digits::<10>((out.len() - body + left_out) as u64, &mut room);
        assert!(length.len() <= LENGTH_DIGITS, "a body is below 10 GB");
        if head_only {
            out.truncate(body);
        }
        let moved = LENGTH_DIGITS - length.len();
        let end = out.len() - moved;
        out[place..place + length.len()].copy_from_slice(length);
        out.copy_within(place + LENGTH_DIGITS.., place + length.len());
        out.truncate(end);
        (framing, moved)
    }

    /// Ends the head. The body follows in pieces: as chunks in HTTP/1.1; in HTTP/1.0 it ends with
    /// the connection (RFC 9112 section 6.3, rule 8).
    pub fn stream(self) -> Framing {
        let pieces = if self.bodiless || self.mode.head_only {
            Pieces::None
        } else if self.mode.version == Version::Http11 {
            self.out
                .extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            Pieces::Chunked
        } else {
            Pieces::UntilClose
        };
        let framing = Framing {
            keep_alive: self.mode.keep_alive && pieces != Pieces::UntilClose,
            pieces,
        };
        self.end(framing);
        framing
    }

    fn end(self, framing: Framing) -> &'a mut Vec<u8> {
        match (framing.keep_alive, self.mode.version) {
            (false, _) => self.out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => self.out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        self.out.extend_from_slice(b"\r\n");
        self.out
    }
}

/// Appends a number in decimal digits.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(digits::<10>(number, &mut [0; DIGITS_MAX]));
}

/// Appends a number in hexadecimal digits, as in the size of a chunk.
pub fn push_hexadecimal(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(digits::<16>(number, &mut [0; DIGITS_MAX]));
}

/// The digits of a number in a base of 10 to 16.
fn digits<const BASE: u64>(mut number: u64, room: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = DIGITS[(number % BASE) as usize];
        number /= BASE;
        if number == 0 {
            return &room[at..];
        }
    }
}

/// How the pieces of a body are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// There is no body, or it was written as a whole.
    None,
    /// As chunks.
    Chunked,
    /// As they are. The body ends with the connection.
    UntilClose,
}

/// How the body of a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    pieces: Pieces,
}

impl Framing {
    /// Appends one piece of the body.
    pub fn chunk(self, piece: &[u8], out: &mut Vec<u8>) {
        match self.pieces {
            // An empty chunk would end the body.
            Pieces::Chunked if !piece.is_empty() => {
                push_hexadecimal(piece.len() as u64, out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Pieces::UntilClose => out.extend_from_slice(piece),
            Pieces::Chunked | Pieces::None => {}
        }
    }

    /// Whether pieces are sent as chunks. A chunk can be made once for many connections.
    pub fn is_chunked(self) -> bool {
        self.pieces == Pieces::Chunked
    }

    /// Appends the end of the body, after the last piece.
    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.last());
    }

    /// The end of the body, after the last piece.
    pub fn last(self) -> &'static [u8] {
        match self.pieces {
            Pieces::Chunked => b"0\r\n\r\n",
            Pieces::UntilClose | Pieces::None => b"",
        }
    }
}

/// The reason phrase of a status (RFC 9110 section 15).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
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
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// The interim response for `Parsed::NeedMore` with `continue_100` (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The `Date` header (RFC 9110 section 6.6.1), formatted once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Date {
    /// Seconds since the Unix epoch.
    second: u64,
    /// `second` as text; its memory is used again.
    text: String,
}

impl Date {
    /// The date of a time in nanoseconds since the Unix epoch.
    pub fn new(wall_ns: u64) -> Date {
        let mut date = Date::default();
        date.set(wall_ns);
        date
    }

    /// Sets the time. Formats it only if the second has changed.
    pub fn set(&mut self, wall_ns: u64) {
        let second = wall_ns / 1_000_000_000;
        if second != self.second || self.text.is_empty() {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            self.text.clear();
            write!(self.text, "{}", httpdate::HttpDate::from(time)).expect("a string takes all");
            self.second = second;
        }
    }

    /// The value of the header.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_OPEN: ResponseMode = ResponseMode {
        version: Version::Http11,
        keep_alive: true,
        head_only: false,
    };

    /// Bytes and whether the connection stays open, without the headers that vary.
    fn text(write: impl FnOnce(&Date, &mut Vec<u8>) -> Framing) -> (String, bool) {
        let mut out = b"before".to_vec();
        let framing = write(&Date::new(0), &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        let version = concat!("Server: tern/", env!("CARGO_PKG_VERSION"), "\r\n");
        let text = text
            .replace(version, "")
            .replace("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "");
        (text, framing.keep_alive)
    }

    fn whole(response: &Response, mode: ResponseMode) -> (String, bool) {
        text(|date, out| response.encode(mode, date, out))
    }

    fn in_pieces(mode: ResponseMode, pieces: &[&[u8]]) -> (String, bool) {
        text(|date, out| {
            let framing = ResponseHead::new(200, mode, date, out).stream();
            for piece in pieces {
                framing.chunk(piece, out);
            }
            framing.end(out);
            framing
        })
    }

    #[test]
    fn a_whole_body_has_its_length() {
        let response = Response::new(200, TEXT, "hello").with("X-A", "b\r\nc");
        let body = "Content-Type: text/plain; charset=utf-8\r\nX-A: b  c\r\nContent-Length: 5\r\n\r\nhello";
        let expected = format!("beforeHTTP/1.1 200 OK\r\n{body}");
        assert_eq!(whole(&response, KEEP_OPEN), (expected, true));
        let long = Response::new(404, "", vec![b'x'; 100_000]);
        let (long, _) = whole(&long, KEEP_OPEN);
        let head = "beforeHTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\n";
        assert_eq!(long, format!("{head}{}", "x".repeat(100_000)));
    }

    #[test]
    fn head_has_a_length_and_no_body() {
        let mode = ResponseMode {
            head_only: true,
            keep_alive: false,
            ..KEEP_OPEN
        };
        let (text, keep_alive) = whole(&Response::new(200, "", "hello"), mode);
        assert!(text.ends_with("OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"));
        assert!(!keep_alive);
    }

    #[test]
    fn pieces_are_chunks_or_end_with_the_connection() {
        let (chunked, _) = in_pieces(KEEP_OPEN, &[b"hello, hello, hello", b"", b"x"]);
        let body = "13\r\nhello, hello, hello\r\n1\r\nx\r\n0\r\n\r\n";
        assert!(chunked.ends_with(&format!("Transfer-Encoding: chunked\r\n\r\n{body}")));
        let old = ResponseMode {
            version: Version::Http10,
            ..KEEP_OPEN
        };
        let expected = "beforeHTTP/1.0 200 OK\r\nConnection: close\r\n\r\nab".to_string();
        assert_eq!(in_pieces(old, &[b"a", b"b"]), (expected, false));
    }

    #[test]
    fn numbers() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 1_000_000, u64::MAX] {
            let (mut ten, mut sixteen) = (Vec::new(), Vec::new());
            push_number(number, &mut ten);
            push_hexadecimal(number, &mut sixteen);
            assert_eq!(ten, number.to_string().as_bytes());
            assert_eq!(sixteen, format!("{number:x}").as_bytes());
        }
    }
}
