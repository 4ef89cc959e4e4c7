//! Requests from a connection's input buffer, under the strict framing rules.
//!
//! `Parser::parse` is called with all unconsumed input whenever more has come; it remembers how far
//! it has looked, so that no byte is scanned twice, and its result does not depend on how the input
//! was cut into reads. Whatever is not beyond doubt is refused and the connection closed: a request
//! that two programs frame differently is how one user's bytes become another's request. Start with
//! `Parser::parse`.
use super::body::{BodyFault, BodyLength, Chunked};
use super::head::{HEADERS_MAX, Scan};
use super::message::{Method, ResponseMode, Version};
use super::reject::{self, Reject};
use crate::core::escape;
use std::borrow::Cow;
use std::ops::Range;

/// Bounds on one request; a client cannot make the parser hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers with the empty line, in bytes. Beyond: 431, as beyond 100 headers.
    pub head_bytes_max: usize,
    /// Decoded body in bytes. Beyond: 413.
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

/// One whole request; borrows from the connection's input or from the parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: Method,
    /// The decoded path; starts with `/` (or is `*` of `OPTIONS *`), not cleaned. Invalid UTF-8
    /// has become U+FFFD.
    pub path: Cow<'a, str>,
    /// The query as it was sent, without its `?`; `None` when there was no `?`.
    pub query: Option<&'a str>,
    pub version: Version,
    /// Whether the connection goes on after the answer.
    pub keep_alive: bool,
    pub host: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub origin: Option<&'a str>,
    /// The protocol that the connection is to go on with (`Connection: upgrade` and `Upgrade`).
    pub upgrade: Option<&'a str>,
    /// `Tern-Hello`: who opens a link between peers.
    pub hello: Option<&'a str>,
    /// Another tern asks (`User-Agent`).
    pub from_tern: bool,
    /// The decoded body, empty when there was none.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// What framing the answer needs to know; kept by the connection while the request is parked.
    pub fn response_mode(&self) -> ResponseMode {
        ResponseMode {
            version: self.version,
            keep_alive: self.keep_alive,
            head_only: self.method == Method::Head,
        }
    }
}

/// What a call of the parser came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
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
pub enum RequestStage {
    /// No byte of a request has come.
    Idle,
    /// The head has begun.
    Head,
    /// The head is whole, the body is not; so many bytes of the body have come.
    Body { received: u64 },
}

/// What the parser waits for.
#[derive(Debug, Default)]
enum ParsePhase {
    #[default]
    Head,
    /// A body of known length; the input holds the head too.
    Fixed { head: Range<usize>, end: usize },
    /// A chunked body; its head has been taken out of the input.
    Chunked(Chunked),
}

/// The state of one connection's request stream.
#[derive(Debug, Default)]
pub struct Parser {
    scan: Scan,
    phase: ParsePhase,
    /// The head of a chunked request.
    head: Vec<u8>,
    /// Bytes of the body that had come at the last call.
    received: u64,
}

/// What one look at the input came to, before a request is made of it.
enum ParseStep<'a> {
    More {
        consumed: usize,
    },
    Fixed {
        head: RequestHead<'a>,
        body: &'a [u8],
        consumed: usize,
    },
    Chunked {
        consumed: usize,
    },
}

impl Parser {
    /// A parser before its first request.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Looks at the input, which starts where the last `consumed` left off. Not to be called after
    /// a `Reject`, nor after a `Request` before `reset`.
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
                    unreachable!("the step said so");
                };
                let head = RequestHead::parse(&self.head).expect("it was parsed when it came");
                Parsed::Request {
                    consumed,
                    request: head.with_body(body.bytes()),
                }
            }
        }
    }

    /// Ready for the next request; gives back what a large body took.
    pub fn reset(&mut self) {
        *self = Parser::default();
    }

    /// The length that the input must reach for a request whose body has a known length and has not
    /// come as a whole; as of the last call of `parse`.
    pub fn wanted_input_len(&self) -> Option<usize> {
        match self.phase {
            ParsePhase::Fixed { end, .. } => Some(end),
            ParsePhase::Head | ParsePhase::Chunked(_) => None,
        }
    }

    /// Where the connection stands; as of the last call of `parse`.
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
                    RequestHead::parse(&input[head.clone()]).expect("it was parsed when it came");
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
            return Ok(ParseStep::More { consumed: 0 });
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
            BodyLength::Unsaid | BodyLength::Fixed(0) => Ok(ParseStep::Fixed {
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

    /// Decodes chunks from `from` on.
    fn on_chunks<'a>(
        &mut self,
        input: &'a [u8],
        from: usize,
        limits: &Limits,
    ) -> Result<ParseStep<'a>, Reject> {
        let ParsePhase::Chunked(chunked) = &mut self.phase else {
            unreachable!("only called in this phase");
        };
        let consumed = from + chunked.decode(&input[from..], limits.body_bytes_max)?;
        self.received = chunked.bytes().len() as u64;
        Ok(match chunked.is_whole() {
            true => ParseStep::Chunked { consumed },
            false => ParseStep::More { consumed },
        })
    }
}

/// A parsed head.
struct RequestHead<'a> {
    request: Request<'a>,
    length: BodyLength,
    expects_continue: bool,
}

impl<'a> RequestHead<'a> {
    fn parse(bytes: &'a [u8]) -> Result<RequestHead<'a>, Reject> {
        let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut space);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(reject::BAD_REQUEST),
            Err(httparse::Error::TooManyHeaders) => return Err(reject::TOO_MANY_HEADERS),
            Err(httparse::Error::Version) if names_a_version(bytes) => return Err(reject::VERSION),
            Err(_) => return Err(reject::BAD_REQUEST),
        }
        let version = match parsed.version {
            Some(0) => Version::Http10,
            _ => Version::Http11,
        };
        let length = BodyLength::of(parsed.headers)?;
        if length == BodyLength::Chunked && version == Version::Http10 {
            return Err(reject::CHUNKED_IN_1_0);
        }
        let target = Target::parse(parsed.path.ok_or(reject::BAD_REQUEST)?, parsed.method)?;
        let mut head = RequestHead {
            request: Request {
                method: Method::parse(parsed.method.ok_or(reject::BAD_REQUEST)?),
                path: escape::decode(target.path.as_bytes(), false)
                    .map_err(|_| reject::BAD_REQUEST)?,
                query: target.query,
                version,
                keep_alive: false,
                host: None,
                content_type: None,
                origin: None,
                upgrade: None,
                hello: None,
                from_tern: false,
                body: b"",
            },
            length,
            expects_continue: false,
        };
        head.read_headers(parsed.headers)?;
        Ok(head)
    }

    fn read_headers(&mut self, headers: &[httparse::Header<'a>]) -> Result<(), Reject> {
        let request = &mut self.request;
        let (mut close, mut keep_alive, mut upgrade) = (false, false, false);
        for header in headers {
            let name = header.name;
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if is("host") {
                if request.host.replace(host(header.value)?).is_some() {
                    return Err(reject::TWO_HOSTS);
                }
            } else if is("content-type") {
                request.content_type = request.content_type.or(Some(text(header.value)));
            } else if is("origin") {
                request.origin = request.origin.or(Some(text(header.value)));
            } else if is("connection") {
                for token in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    close |= token.eq_ignore_ascii_case(b"close");
                    keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            } else if is("upgrade") {
                request.upgrade = request.upgrade.or(Some(text(header.value)));
            } else if is("tern-hello") {
                request.hello = request.hello.or(Some(text(header.value)));
            } else if is("expect") && request.version == Version::Http11 {
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(reject::EXPECTATION);
                }
                self.expects_continue = true;
            } else if is("user-agent") {
                request.from_tern = header.value.starts_with(b"tern/");
            }
        }
        request.upgrade = request.upgrade.filter(|_| upgrade);
        match request.version {
            Version::Http11 if request.host.is_none() => return Err(reject::NO_HOST),
            Version::Http11 => request.keep_alive = !close,
            Version::Http10 => request.keep_alive = keep_alive && !close,
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

/// A request target, without scheme and authority.
struct Target<'a> {
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(target: &'a str, method: Option<&str>) -> Result<Target<'a>, Reject> {
        if target == "*" && method == Some("OPTIONS") {
            return Ok(Target {
                path: target,
                query: None,
            });
        }
        let local = match target.split_once("://") {
            _ if target.starts_with('/') => target,
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                if !host(&rest.as_bytes()[..end]).is_ok_and(|h| !h.is_empty()) {
                    return Err(reject::BAD_REQUEST);
                }
                &rest[end..]
            }
            _ => return Err(reject::BAD_REQUEST),
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { path, query })
    }
}

/// Whether the first line is a request line but for its version, which is one that is not spoken
/// here.
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

/// The value of `Host`, or the authority of an absolute target: may be empty.
fn host(value: &[u8]) -> Result<&str, Reject> {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b);
    match std::str::from_utf8(value) {
        Ok(host) if value.iter().all(fits) => Ok(host),
        _ => Err(reject::BAD_HOST),
    }
}

/// A header's value as text; one that is not is of no known kind, just as an empty one.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("")
}
