//! The client's side of HTTP: requests that tern sends, and the parser of their responses.
//!
//! A connection serves one request and closes after it. Responses are parsed as strictly as
//! requests: an ambiguous response fails the call.
//!
//! Start reading at [`ResponseParser::parse`].
use super::body::{BodyLength, Chunked};
use super::head::{HEADERS_MAX, Scan};
use std::ops::Range;

/// Most bytes of a response's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a response's body: a list of machines, a directory of a discovery service, a value
/// that a standby forwards.
pub const BODY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Most bytes of the body of a response to a client's write, and of one chunk for a watch: an event.
/// It holds the new value and the one before, and an escaped byte takes up to six.
pub const WRITE_BODY_BYTES_MAX: u64 = 24 * 1024 * 1024;
/// Most bytes of a response to a watch that is not taken by chunks: an error. Nothing counts the memory
/// of these responses, so the client of a longer one is redirected.
const WATCH_ERROR_BYTES_MAX: u64 = 64 * 1024;
/// Most interim responses (1xx) before the final one.
const INTERIM_MAX: usize = 8;

/// The headers of the leader's response that a standby returns to its client.
const PROXIED_HEADERS: [&str; 6] = [
    "Content-Type",
    "Location",
    "X-Etcd-Cluster-Id",
    "X-Etcd-Index",
    "X-Raft-Index",
    "X-Raft-Term",
];

/// A request that tern sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest<'a> {
    /// `GET`, `PUT` …
    pub method: &'a str,
    /// `host:port`.
    pub host: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    /// Header `Content-Type`; empty: the header is not sent.
    pub content_type: &'a str,
    /// One more header, with its value.
    pub header: Option<(&'static str, &'a str)>,
    /// The body; may be empty.
    pub body: &'a [u8],
}

impl CallRequest<'_> {
    /// The request as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: tern/{}\r\nConnection: close\r\n",
            self.method,
            self.target,
            self.host,
            crate::VERSION
        );
        if !self.content_type.is_empty() {
            head.push_str(&format!("Content-Type: {}\r\n", self.content_type));
        }
        if let Some((name, value)) = self.header {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || !matches!(self.method, "GET" | "HEAD" | "DELETE") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body);
        bytes
    }
}

/// A whole response to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallResponse {
    /// The status; never an interim one (1xx).
    pub status: u16,
    /// Header `Location`.
    pub location: Option<String>,
    /// Header `Server`.
    pub server: Option<String>,
    /// The headers that a standby returns to its client.
    pub proxied_headers: Vec<(&'static str, String)>,
    /// The decoded body.
    pub body: Vec<u8>,
}

/// A part of the response to a watch, which is passed on as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponsePart {
    /// The headers that a standby returns to its client, with the first part only.
    pub proxied_headers: Option<Vec<(&'static str, String)>>,
    /// The data of one chunk, or of a part of it; may be empty.
    pub body: Vec<u8>,
    /// The chunk goes on with the next part: the data so far is the beginning of an event.
    pub is_unfinished: bool,
    /// How many bytes at the start of the input this part has used up: framing, and the head before
    /// the first one. The caller removes them from the input.
    pub consumed: usize,
}

/// The fault of a response, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFault(pub &'static str);

impl CallFault {
    /// The body is longer than its bound.
    const TOO_LONG: CallFault = CallFault("over-long body");
    /// A body in chunks is longer than its bound, or its framing is malformed.
    const CHUNKS: CallFault = CallFault("malformed or over-long chunked body");

    /// Whether the response may be longer than its bound.
    pub fn is_too_long(self) -> bool {
        self == CallFault::TOO_LONG || self == CallFault::CHUNKS
    }
}

/// The parser of the response to one request.
#[derive(Debug)]
pub struct ResponseParser {
    /// Most bytes of the body.
    body_bytes_max: u64,
    /// The scan for the end of the present head.
    scan: Scan,
    /// Where the present head starts in the input: after the interim responses.
    start: usize,
    /// Interim responses so far; at most `INTERIM_MAX`.
    interim: usize,
    /// The caller takes the chunks of a response with status 200 one by one.
    by_chunks: bool,
    /// A part was taken.
    has_begun: bool,
    phase: ResponsePhase,
}

/// The part of the response that the parser waits for.
#[derive(Debug, Default)]
enum ResponsePhase {
    /// The end of the head.
    #[default]
    Head,
    /// The end of a body of known length, at this place of the input.
    Fixed {
        head: CallResponse,
        body: Range<usize>,
    },
    /// The end of a chunked body. The input is decoded up to `at`.
    Chunked {
        head: CallResponse,
        at: usize,
        body: Chunked,
    },
    /// The end of the connection. The body starts at `from`.
    UntilClose { head: CallResponse, from: usize },
    /// The response was returned.
    Done,
}

impl ResponseParser {
    /// A parser of a response whose body has at most `body_bytes_max` bytes.
    pub fn new(body_bytes_max: u64) -> ResponseParser {
        ResponseParser {
            body_bytes_max,
            scan: Scan::default(),
            start: 0,
            interim: 0,
            by_chunks: false,
            has_begun: false,
            phase: ResponsePhase::Head,
        }
    }

    /// A parser for a watch: `take_part` takes the chunks of a chunked response with status 200 one
    /// by one, and any other response comes as a whole. A chunk has at most `body_bytes_max` bytes, the
    /// body of another response `WATCH_ERROR_BYTES_MAX`.
    pub fn by_chunks(body_bytes_max: u64) -> ResponseParser {
        ResponseParser {
            by_chunks: true,
            ..ResponseParser::new(body_bytes_max)
        }
    }

    /// A parser of the response at the next hop of a redirect.
    pub fn again(&self) -> ResponseParser {
        ResponseParser {
            by_chunks: self.by_chunks,
            ..ResponseParser::new(self.body_bytes_max)
        }
    }

    /// The bound of a body that is returned as a whole, in bytes.
    fn whole_bytes_max(&self) -> u64 {
        if self.by_chunks {
            self.body_bytes_max.min(WATCH_ERROR_BYTES_MAX)
        } else {
            self.body_bytes_max
        }
    }

    /// The bound of the body, or of one chunk for a watch, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.body_bytes_max
    }

    /// Looks at `input`: all bytes since the request was sent, without those that parts have used
    /// up. `end`: the other side has closed its direction. `None` if the response is not whole yet;
    /// of a response in parts, call `take_part` then, and `parse` again after each part.
    ///
    /// # Errors
    ///
    /// If the response is malformed or too long, or ends early.
    pub fn parse(&mut self, input: &[u8], end: bool) -> Result<Option<CallResponse>, CallFault> {
        if let ResponsePhase::Head = self.phase {
            self.on_head(input)?;
        }
        let whole_bytes_max = self.whole_bytes_max();
        if let ResponsePhase::Chunked { head, at, body } = &mut self.phase {
            let rest = &input[*at..];
            let is_in_parts = self.by_chunks && head.status == 200;
            let taken = if is_in_parts {
                body.decode_chunk(rest, self.body_bytes_max)
            } else {
                body.decode(rest, whole_bytes_max)
            };
            *at += taken.map_err(|_| CallFault::CHUNKS)?;
            if *at < input.len() && is_in_parts && !body.is_whole() {
                return Ok(None);
            }
        }
        let whole = match &self.phase {
            ResponsePhase::Fixed { body, .. } => input.len() >= body.end,
            ResponsePhase::Chunked { body, .. } => body.is_whole(),
            ResponsePhase::UntilClose { from, .. }
                if (input.len() - from) as u64 > whole_bytes_max =>
            {
                return Err(CallFault::TOO_LONG);
            }
            ResponsePhase::UntilClose { .. } => end,
            ResponsePhase::Head | ResponsePhase::Done => false,
        };
        if whole {
            return Ok(self.take(input));
        }
        if end {
            return Err(CallFault("closed before the response was whole"));
        }
        Ok(None)
    }

    /// Takes the data that `parse` has decoded, at most the rest of one chunk. The first part has
    /// the head, and may have no data. `None` if there is nothing new.
    pub fn take_part(&mut self) -> Option<ResponsePart> {
        let ResponsePhase::Chunked { head, at, body } = &mut self.phase else {
            return None;
        };
        let is_first = !self.has_begun;
        if !self.by_chunks || head.status != 200 || (body.bytes().is_empty() && !is_first) {
            return None;
        }
        self.has_begun = true;
        let headers = std::mem::take(&mut head.proxied_headers);
        Some(ResponsePart {
            proxied_headers: is_first.then_some(headers),
            is_unfinished: body.is_inside_chunk() && !body.bytes().is_empty(),
            body: body.take_bytes(),
            consumed: std::mem::take(at),
        })
    }

    fn take(&mut self, input: &[u8]) -> Option<CallResponse> {
        let (head, body) = match std::mem::replace(&mut self.phase, ResponsePhase::Done) {
            ResponsePhase::Fixed { head, body } => (head, input[body].to_vec()),
            ResponsePhase::Chunked { head, body, .. } => (head, body.into_bytes()),
            ResponsePhase::UntilClose { head, from } => (head, input[from..].to_vec()),
            ResponsePhase::Head | ResponsePhase::Done => return None,
        };
        Some(CallResponse { body, ..head })
    }

    /// Looks for the head of the final response. Skips interim ones (RFC 9110 section 15.2).
    fn on_head(&mut self, input: &[u8]) -> Result<(), CallFault> {
        loop {
            let found = self.scan.head(&input[self.start..], HEAD_BYTES_MAX);
            let Some(range) = found.map_err(|_| CallFault("malformed or over-long head"))? else {
                return Ok(());
            };
            let (head, length) = parse_head(&input[self.start..][range.clone()])?;
            let from = self.start + range.end;
            if (100..200).contains(&head.status) {
                self.interim += 1;
                if head.status == 101 || self.interim > INTERIM_MAX {
                    return Err(CallFault("unexpected interim response"));
                }
                self.start = from;
                self.scan = Scan::default();
                continue;
            }
            self.phase = match length {
                // These have no body (RFC 9112 section 6.3, rule 1).
                _ if matches!(head.status, 204 | 304) => ResponsePhase::Fixed {
                    head,
                    body: from..from,
                },
                BodyLength::Fixed(length) if length > self.whole_bytes_max() => {
                    return Err(CallFault::TOO_LONG);
                }
                BodyLength::Fixed(length) => ResponsePhase::Fixed {
                    head,
                    body: from..from + length as usize,
                },
                BodyLength::Chunked => ResponsePhase::Chunked {
                    head,
                    at: from,
                    body: Chunked::default(),
                },
                BodyLength::Unspecified => ResponsePhase::UntilClose { head, from },
            };
            return Ok(());
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<(CallResponse, BodyLength), CallFault> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut space);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(CallFault("malformed head")),
    }
    let length = BodyLength::of(parsed.headers);
    let length = length.map_err(|_| CallFault("doubtful length of the body"))?;
    let header = |name: &str| {
        let found = parsed
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).into_owned())
    };
    let head = CallResponse {
        status: parsed.code.ok_or(CallFault("malformed head"))?,
        location: header("location"),
        server: header("server"),
        proxied_headers: PROXIED_HEADERS
            .iter()
            .filter_map(|name| Some((*name, header(name)?)))
            .collect(),
        body: Vec::new(),
    };
    Ok((head, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a watcher receives of `bytes` if they arrive cut at `cut`: the chunks or parts of chunks,
    /// and the rest of the body.
    fn received(bytes: &[u8], cut: usize) -> (Vec<Vec<u8>>, CallResponse) {
        let mut parser = ResponseParser::by_chunks(100);
        let (mut input, mut parts) = (Vec::new(), Vec::new());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            input.extend_from_slice(piece);
            loop {
                if let Some(response) = parser.parse(&input, false).expect("well-formed") {
                    return (parts, response);
                }
                let Some(part) = parser.take_part() else {
                    break;
                };
                assert_eq!(part.proxied_headers.is_some(), parts.is_empty());
                input.drain(..part.consumed);
                parts.push(part.body);
                let ends_chunk = [&b""[..], b"one", b"onetwo"].contains(&&*parts.concat());
                assert_eq!(part.is_unfinished, !ends_chunk, "{parts:?}");
            }
        }
        panic!("the response is whole");
    }

    #[test]
    fn chunks_are_taken_one_by_one_wherever_the_response_is_cut() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("{head}3\r\none\r\n3;x=y\r\ntwo\r\n0\r\n\r\n");
        let (whole, _) = received(text.as_bytes(), text.len());
        assert_eq!(whole, [b"one".to_vec(), b"two".to_vec()]);
        for cut in 0..text.len() {
            let (parts, last) = received(text.as_bytes(), cut);
            assert_eq!([parts.concat(), last.body].concat(), b"onetwo");
        }
    }

    #[test]
    fn a_response_to_a_watch_is_short_or_comes_by_chunks() {
        let body = "x".repeat(64 * 1024 + 1);
        for length in ["", "Content-Length: 65537\r\n"] {
            let text = format!("HTTP/1.1 200 OK\r\n{length}\r\n{body}");
            let mut watch = ResponseParser::by_chunks(WRITE_BODY_BYTES_MAX);
            let result = watch.parse(text.as_bytes(), true);
            assert_eq!(result, Err(CallFault::TOO_LONG));
            let mut read = ResponseParser::new(BODY_BYTES_MAX);
            let response = read.parse(text.as_bytes(), true).expect("not too long");
            assert_eq!(response.expect("whole").body.len(), body.len());
        }
    }

    #[test]
    fn any_other_response_comes_as_a_whole() {
        for status in ["204 No Content", "400 Bad Request", "200 OK"] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            for cut in 0..text.len() {
                let (parts, last) = received(text.as_bytes(), cut);
                assert!(parts.is_empty() && last.body.is_empty());
            }
        }
    }
}
