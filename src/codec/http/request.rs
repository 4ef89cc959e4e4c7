//! Requests from a connection's input (RFC 9112), under strict rules of framing.
//!
//! [`Parser::parse`] is called with all unconsumed input whenever more has arrived. It remembers
//! its position, so that no byte is scanned twice, and its result does not depend on how the input
//! was cut into reads. An ambiguous request is refused and its connection closed: two programs that
//! frame a request differently let one user's bytes become another's request (request smuggling,
//! RFC 9112 section 11.2).
//!
//! Start reading at [`Parser::parse`].
use super::body::{BodyFault, BodyLength, Chunked};
use super::head::{HEADERS_MAX, Scan, is_named};
use super::message::{Method, ResponseMode, Version};
use super::reject::{self, Reject};
use crate::core::escape;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The bounds of one request. They limit the memory that a client can make the parser use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of request line and headers, the empty line included. A longer head is refused
    /// with 431, as is one of more than 100 headers.
    pub head_bytes_max: usize,
    /// Most bytes of the decoded body. A longer one is refused with 413.
    pub body_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes_max: 16 * 1024,
            body_bytes_max: 2 * 1024 * 1024,
        }
    }
}

/// A whole request. It borrows from the connection's input or from the parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The decoded path, not cleaned. It starts with `/`, or is the `*` of `OPTIONS *`. A byte that
    /// is not UTF-8 has become U+FFFD.
    pub path: Cow<'a, str>,
    /// The query as it was sent, without its `?`; `None` if there was no `?`.
    pub query: Option<&'a str>,
    /// The protocol version.
    pub version: Version,
    /// Whether the connection stays open after the response (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// Header `Host`. `Some` if the version is 1.1 (RFC 9112 section 3.2).
    pub host: Option<&'a str>,
    /// Header `Content-Type`.
    pub content_type: Option<&'a str>,
    /// Header `Origin`.
    pub origin: Option<&'a str>,
    /// Header `Upgrade`, if `Connection` names it (RFC 9110 section 7.8).
    pub upgrade: Option<&'a str>,
    /// Header `Tern-Hello`: the sender's side of a new link between peers.
    pub hello: Option<&'a str>,
    /// Header `X-Tern-Standby`: the standby that fetches the list of members.
    pub standby: Option<&'a str>,
    /// Whether the sender is a tern (header `User-Agent`).
    pub from_tern: bool,
    /// The decoded body; empty without one.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// The choices of this request about the framing of its response.
    pub fn response_mode(&self) -> ResponseMode {
        ResponseMode {
            version: self.version,
            keep_alive: self.keep_alive,
            head_only: self.method == Method::Head,
        }
    }
}

/// The result of `Parser::parse`.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The request is not whole yet. Drop the consumed bytes, read more, and call again.
    NeedMore {
        /// Bytes to drop from the front of the input.
        consumed: usize,
        /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 section
        /// 10.1.1). True at most once for each request.
        continue_100: bool,
    },
    /// A whole request. Once it is routed, drop the consumed bytes and call `reset`. To route it
    /// later, call `leave`.
    Request {
        /// Bytes to drop from the front of the input.
        consumed: usize,
        /// The request.
        request: Request<'a>,
    },
    /// The request is refused. Send this and close the connection.
    Reject(Reject),
}

/// How much of a request has arrived. The connection's deadline depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestStage {
    /// No byte but empty lines: an old client may send one after a body.
    Idle,
    /// A part of the head.
    Head,
    /// The head and a part of the body.
    Body {
        /// Bytes of the body so far; decoded ones, if it is chunked.
        received: u64,
    },
}

/// The part of the request that the parser waits for.
#[derive(Debug, Default)]
enum ParsePhase {
    /// The end of the head.
    #[default]
    Head,
    /// The end of a body of known length. Head and body stay in the input until then: the places
    /// of the head and of the end of the body.
    Fixed { head: Range<usize>, end: usize },
    /// The end of a chunked body. Its head is in `Parser::head`.
    Chunked(Chunked),
}

/// The parser of one connection's requests.
#[derive(Debug, Default)]
pub struct Parser {
    /// The scan for the end of the head.
    scan: Scan,
    phase: ParsePhase,
    /// The head of a chunked request, whose chunks are consumed as they arrive; else empty.
    head: Vec<u8>,
    /// Bytes of the body at the last call; 0 while the head is not whole.
    received: u64,
}

/// The result of `Parser::step`. `Parser::parse` assembles a chunked request from it, because that
/// request borrows from the parser.
enum ParseStep<'a> {
    /// The request is not whole.
    More { consumed: usize },
    /// A whole request with a body of known length, or without one.
    Fixed {
        head: RequestHead<'a>,
        body: &'a [u8],
        consumed: usize,
    },
    /// A whole request whose body is in `ParsePhase::Chunked`.
    Chunked { consumed: usize },
}

impl Parser {
    /// A parser before its first request.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Parses all unconsumed input of the connection. After a `Reject` it must not be called again,
    /// after a `Request` only once `reset` or `leave` was called.
    pub fn parse<'a>(&'a mut self, input: &'a [u8], limits: &Limits) -> Parsed<'a> {
        let mut continue_100 = false;
        let step = match self.step(input, limits, &mut continue_100) {
            Ok(step) => step,
            Err(reject) => return Parsed::Reject(reject),
        };
        match step {
            ParseStep::More { consumed } => Parsed::NeedMore {
                consumed,
                continue_100,
            },
            ParseStep::Fixed {
                head,
                body,
                consumed,
            } => Parsed::Request {
                consumed,
                request: head.with_body(body),
            },
            ParseStep::Chunked { consumed } => {
                let ParsePhase::Chunked(body) = &self.phase else {
                    unreachable!("the step is of a chunked body");
                };
                let head = RequestHead::parse(&self.head).expect("parsed before its body");
                Parsed::Request {
                    consumed,
                    request: head.with_body(body.bytes()),
                }
            }
        }
    }

    /// Prepares for the next request. Frees the memory of a chunked body.
    pub fn reset(&mut self) {
        *self = Parser::default();
    }

    /// Keeps the whole request that `parse` has returned with `consumed` for the next call of
    /// `parse`. Returns how many bytes to drop from the front of the input before it. The head and
    /// the earlier chunks of a chunked request are not in the input any more, so they stay here.
    #[must_use]
    pub fn leave(&mut self, consumed: usize) -> usize {
        if let ParsePhase::Chunked(_) = self.phase {
            return consumed;
        }
        self.reset();
        0
    }

    /// The beginning of the present request, of which `input` is the unconsumed part: of a chunked
    /// one its head, else the input.
    pub fn beginning<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        match self.phase {
            ParsePhase::Chunked(_) => &self.head,
            ParsePhase::Head | ParsePhase::Fixed { .. } => input,
        }
    }

    /// Bytes of the present request that are not in the input any more: head and body of a chunked
    /// one, else 0.
    pub fn kept_bytes(&self) -> usize {
        match &self.phase {
            ParsePhase::Chunked(body) => self.head.len() + body.bytes().len(),
            ParsePhase::Head | ParsePhase::Fixed { .. } => 0,
        }
    }

    /// The length that the input must reach for the present request, if its body has a known length
    /// and was not whole at the last call of `parse`.
    pub fn wanted_input_len(&self) -> Option<usize> {
        match self.phase {
            ParsePhase::Fixed { end, .. } => Some(end),
            ParsePhase::Head | ParsePhase::Chunked(_) => None,
        }
    }

    /// How much of a request had arrived at the last call of `parse`.
    pub fn stage(&self) -> RequestStage {
        match self.phase {
            ParsePhase::Head if self.scan.has_begun() => RequestStage::Head,
            ParsePhase::Head => RequestStage::Idle,
            ParsePhase::Fixed { .. } | ParsePhase::Chunked(_) => RequestStage::Body {
                received: self.received,
            },
        }
    }

    fn step<'a>(
        &mut self,
        input: &'a [u8],
        limits: &Limits,
        continue_100: &mut bool,
    ) -> Result<ParseStep<'a>, Reject> {
        match &mut self.phase {
            ParsePhase::Head => self.on_head(input, limits, continue_100),
            ParsePhase::Fixed { head, end } => {
                self.received = (input.len() - head.end) as u64;
                if input.len() < *end {
                    return Ok(ParseStep::More { consumed: 0 });
                }
                let body = &input[head.end..*end];
                let consumed = *end;
                let head =
                    RequestHead::parse(&input[head.clone()]).expect("parsed before its body");
                Ok(ParseStep::Fixed {
                    head,
                    body,
                    consumed,
                })
            }
            ParsePhase::Chunked(_) => self.on_chunks(input, 0, limits),
        }
    }

    fn on_head<'a>(
        &mut self,
        input: &'a [u8],
        limits: &Limits,
        continue_100: &mut bool,
    ) -> Result<ParseStep<'a>, Reject> {
        let Some(range) = self.scan.head(input, limits.head_bytes_max)? else {
            let consumed = self.scan.take_empty_lines();
            return Ok(ParseStep::More { consumed });
        };
        let head = RequestHead::parse(&input[range.clone()])?;
        let received = input.len() - range.end;
        self.received = received as u64;
        *continue_100 = head.expects_continue && received == 0;
        match head.length {
            BodyLength::Chunked => {
                self.head.extend_from_slice(&input[range.clone()]);
                self.phase = ParsePhase::Chunked(Chunked::default());
                self.on_chunks(input, range.end, limits)
            }
            BodyLength::Unspecified | BodyLength::Fixed(0) => Ok(ParseStep::Fixed {
                head,
                body: b"",
                consumed: range.end,
            }),
            BodyLength::Fixed(length) if length > limits.body_bytes_max => {
                Err(BodyFault::TooLarge.into())
            }
            BodyLength::Fixed(length) => {
                let length = usize::try_from(length).map_err(|_| BodyFault::TooLarge)?;
                let end = range.end + length;
                if received >= length {
                    return Ok(ParseStep::Fixed {
                        head,
                        body: &input[range.end..end],
                        consumed: end,
                    });
                }
                self.phase = ParsePhase::Fixed { head: range, end };
                Ok(ParseStep::More { consumed: 0 })
            }
        }
    }

    /// Decodes the chunks that start at `from`.
    fn on_chunks<'a>(
        &mut self,
        input: &'a [u8],
        from: usize,
        limits: &Limits,
    ) -> Result<ParseStep<'a>, Reject> {
        let ParsePhase::Chunked(chunked) = &mut self.phase else {
            unreachable!("called in this phase only");
        };
        let consumed = from + chunked.decode(&input[from..], limits.body_bytes_max)?;
        self.received = chunked.bytes().len() as u64;
        if chunked.is_whole() {
            Ok(ParseStep::Chunked { consumed })
        } else {
            Ok(ParseStep::More { consumed })
        }
    }
}

/// Header `Origin` of the request at the start of the input, which may be malformed.
pub fn origin_of(input: &[u8]) -> Option<&str> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut space);
    parsed.parse(input).ok()?;
    let mut headers = parsed.headers.iter();
    let origin = headers.find(|header| is_named(header, "origin"))?;
    Some(text(origin.value))
}

/// A parsed head.
struct RequestHead<'a> {
    request: Request<'a>,
    length: BodyLength,
    expects_continue: bool,
}

impl<'a> RequestHead<'a> {
    fn parse(bytes: &'a [u8]) -> Result<RequestHead<'a>, Reject> {
        // Not initialized: that would write 3 KiB for each request.
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut space) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(reject::BAD_REQUEST),
            Err(httparse::Error::TooManyHeaders) => return Err(reject::TOO_MANY_HEADERS),
            Err(httparse::Error::Version) if bytes == HTTP_2_PREFACE => {
                return Err(Reject::HTTP_2);
            }
            Err(httparse::Error::Version) if names_a_version(bytes) => return Err(reject::VERSION),
            Err(_) => return Err(reject::BAD_REQUEST),
        }
        let version = match parsed.version {
            Some(0) => Version::Http10,
            _ => Version::Http11,
        };
        let length = BodyLength::of(parsed.headers)?;
        // HTTP/1.0 has no transfer codings (RFC 9112 section 6.1).
        if length == BodyLength::Chunked && version == Version::Http10 {
            return Err(reject::CHUNKED_IN_1_0);
        }
        let target = RequestTarget::parse(parsed.path.ok_or(reject::BAD_REQUEST)?, parsed.method)?;
        let path = escape::decode(target.path.as_bytes(), false);
        let request = Request {
            method: Method::parse(parsed.method.ok_or(reject::BAD_REQUEST)?),
            path: path.map_err(|_| reject::BAD_REQUEST)?,
            query: target.query,
            version,
            keep_alive: false,
            host: None,
            content_type: None,
            origin: None,
            upgrade: None,
            hello: None,
            standby: None,
            from_tern: false,
            body: b"",
        };
        let mut head = RequestHead {
            request,
            length,
            expects_continue: false,
        };
        head.read_headers(parsed.headers)?;
        Ok(head)
    }

    /// Reads the headers that tern knows. Of several with one name, the first one counts. Two
    /// `Host` headers are refused (RFC 9112 section 3.2).
    fn read_headers(&mut self, headers: &[httparse::Header<'a>]) -> Result<(), Reject> {
        let request = &mut self.request;
        let mut connection = ConnectionOptions::default();
        for header in headers {
            let is = |name: &str| is_named(header, name);
            if is("host") {
                if request.host.replace(host(header.value)?).is_some() {
                    return Err(reject::TWO_HOSTS);
                }
            } else if is("content-type") {
                request.content_type = request.content_type.or(Some(text(header.value)));
            } else if is("origin") {
                request.origin = request.origin.or(Some(text(header.value)));
            } else if is("connection") {
                connection.read(header.value);
            } else if is("upgrade") {
                request.upgrade = request.upgrade.or(Some(text(header.value)));
            } else if is("tern-hello") {
                request.hello = request.hello.or(Some(text(header.value)));
            } else if is("x-tern-standby") {
                request.standby = request.standby.or(Some(text(header.value)));
            } else if is("expect") && request.version == Version::Http11 {
                // RFC 9110 section 10.1.1: HTTP/1.0 has no expectations.
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(reject::EXPECTATION);
                }
                self.expects_continue = true;
            } else if is("user-agent") {
                request.from_tern = header.value.starts_with(b"tern/");
            }
        }
        request.upgrade = request.upgrade.filter(|_| connection.upgrade);
        request.keep_alive = connection.keeps_open(request.version);
        if request.version == Version::Http11 && request.host.is_none() {
            return Err(reject::NO_HOST);
        }
        Ok(())
    }

    fn with_body(self, body: &'a [u8]) -> Request<'a> {
        Request {
            body,
            ..self.request
        }
    }
}

/// The options of all `Connection` headers (RFC 9110 section 7.6.1).
#[derive(Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl ConnectionOptions {
    fn read(&mut self, value: &[u8]) {
        for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// Whether the connection stays open (RFC 9112 section 9.3).
    fn keeps_open(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// A request target, without scheme and authority (RFC 9112 section 3.2).
struct RequestTarget<'a> {
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> RequestTarget<'a> {
    fn parse(target: &'a str, method: Option<&str>) -> Result<RequestTarget<'a>, Reject> {
        // asterisk-form (RFC 9112 section 3.2.4)
        if target == "*" && method == Some("OPTIONS") {
            return Ok(RequestTarget {
                path: target,
                query: None,
            });
        }
        let local = if target.starts_with('/') {
            target
        } else {
            without_authority(target)?
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(RequestTarget { path, query })
    }
}

/// The part after the authority of a target in absolute-form (RFC 9112 section 3.2.2).
fn without_authority(target: &str) -> Result<&str, Reject> {
    let (scheme, rest) = target.split_once("://").ok_or(reject::BAD_REQUEST)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(reject::BAD_REQUEST);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, local) = rest.split_at(end);
    match host(authority.as_bytes()) {
        Ok(host) if !host.is_empty() => Ok(local),
        _ => Err(reject::BAD_REQUEST),
    }
}

/// The head at the front of the preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Whether the first line is a request line with another version of HTTP.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or(b"");
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    match words[..] {
        [_, _, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]] => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

/// The value of `Host`, or the authority of an absolute target (RFC 9110 section 7.2). It may be
/// empty.
fn host(value: &[u8]) -> Result<&str, Reject> {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b);
    match std::str::from_utf8(value) {
        Ok(host) if value.iter().all(fits) => Ok(host),
        _ => Err(reject::BAD_HOST),
    }
}

/// A header's value as text. A value that is not UTF-8 counts as empty: tern knows no such value.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("")
}
