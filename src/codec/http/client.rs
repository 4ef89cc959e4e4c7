//! The other side: requests that tern sends and the responses to them.
//!
//! One call a connection, which closes after it. Responses are read as strictly as requests: what
//! is not beyond doubt is a fault, and the call has failed. Start with `ResponseParser::parse`.
use super::body::{BodyLength, Chunked};
use super::head::{HEADERS_MAX, Scan};
use std::ops::Range;

/// A response's head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A response's body, in bytes: a list of machines, a directory of a discovery service.
const BODY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Heads with a 1xx status before the real one.
const INTERIM_MAX: usize = 8;

/// The headers of an answer that a standby passes on.
const HEADERS: [&str; 5] = [
    "Content-Type",
    "Location",
    "X-Etcd-Index",
    "X-Raft-Index",
    "X-Raft-Term",
];

/// A request that tern sends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest<'a> {
    /// `GET`, `PUT` …
    pub method: &'a str,
    /// `host:port`.
    pub host: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    /// Not sent when empty.
    pub content_type: &'a str,
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
    pub status: u16,
    /// Header `Location`.
    pub location: Option<String>,
    /// Header `Server`.
    pub server: Option<String>,
    /// Those that a standby passes on, as they are.
    pub passed: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// Why a response is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFault(pub &'static str);

/// The state of one call's response.
#[derive(Debug, Default)]
pub struct ResponseParser {
    scan: Scan,
    /// Where the present head starts: behind the interim ones.
    start: usize,
    interim: usize,
    state: ResponsePhase,
}

#[derive(Debug, Default)]
enum ResponsePhase {
    #[default]
    Head,
    Fixed {
        head: CallResponse,
        body: Range<usize>,
    },
    Chunked {
        head: CallResponse,
        at: usize,
        body: Chunked,
    },
    ToTheEnd {
        head: CallResponse,
        from: usize,
    },
    Done,
}

impl ResponseParser {
    /// Takes all that has come so far since the call was sent; `end`: the other side has closed.
    /// `None`: not whole yet.
    pub fn parse(&mut self, input: &[u8], end: bool) -> Result<Option<CallResponse>, CallFault> {
        if let ResponsePhase::Head = self.state {
            self.on_head(input)?;
        }
        if let ResponsePhase::Chunked { at, body, .. } = &mut self.state {
            let taken = body.decode(&input[*at..], BODY_BYTES_MAX);
            *at += taken.map_err(|_| CallFault("malformed or over-long chunked body"))?;
        }
        let whole = match &self.state {
            ResponsePhase::Fixed { body, .. } => input.len() >= body.end,
            ResponsePhase::Chunked { body, .. } => body.is_whole(),
            ResponsePhase::ToTheEnd { from, .. }
                if (input.len() - from) as u64 > BODY_BYTES_MAX =>
            {
                return Err(CallFault("over-long body"));
            }
            ResponsePhase::ToTheEnd { .. } => end,
            ResponsePhase::Head | ResponsePhase::Done => false,
        };
        match whole {
            true => Ok(self.take(input)),
            false if end => Err(CallFault("closed before the response was whole")),
            false => Ok(None),
        }
    }

    fn take(&mut self, input: &[u8]) -> Option<CallResponse> {
        let (head, body) = match std::mem::replace(&mut self.state, ResponsePhase::Done) {
            ResponsePhase::Fixed { head, body } => (head, input[body].to_vec()),
            ResponsePhase::Chunked { head, body, .. } => (head, body.into_bytes()),
            ResponsePhase::ToTheEnd { head, from } => (head, input[from..].to_vec()),
            ResponsePhase::Head | ResponsePhase::Done => return None,
        };
        Some(CallResponse { body, ..head })
    }

    /// Looks for the head, past interim ones.
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
            self.state = match length {
                _ if matches!(head.status, 204 | 304) => ResponsePhase::Fixed {
                    head,
                    body: from..from,
                },
                BodyLength::Fixed(length) if length > BODY_BYTES_MAX => {
                    return Err(CallFault("over-long body"));
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
                BodyLength::Unsaid => ResponsePhase::ToTheEnd { head, from },
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
        passed: HEADERS
            .iter()
            .filter_map(|name| Some((*name, header(name)?)))
            .collect(),
        body: Vec::new(),
    };
    Ok((head, length))
}
