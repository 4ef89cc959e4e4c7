//! The request that turns a connection into a link between peers, and its answers.
//!
//! Only the few bytes of HTTP that this takes; what a hello says is `raft::hello`'s affair. Start
//! with `request`.
use super::client::CallFault;
use super::head::{HEADERS_MAX, Scan};
use crate::VERSION;
use crate::codec::peer::hello::{HEADER, PATH, PROTOCOL, REFUSED};

/// The head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// Asks `host` for a link.
pub fn request(host: &str, hello: &str) -> Vec<u8> {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tern/{VERSION}\r\nConnection: Upgrade\r\n\
         Upgrade: {PROTOCOL}\r\n{HEADER}: {hello}\r\n\r\n"
    )
    .into_bytes()
}

/// Grants it; frames follow.
pub fn granted(hello: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: tern/{VERSION}\r\nConnection: Upgrade\r\n\
         Upgrade: {PROTOCOL}\r\n{HEADER}: {hello}\r\n\r\n"
    )
    .into_bytes()
}

/// What the other side said to `request`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeAnswer {
    pub status: u16,
    /// `Tern-Hello`.
    pub hello: Option<String>,
    /// `Tern-Refused`: why not.
    pub refused: Option<String>,
}

/// Reads the answer's head and how many bytes it had; `None`: not whole yet.
pub fn parse(input: &[u8]) -> Result<Option<(usize, UpgradeAnswer)>, CallFault> {
    let found = Scan::default().head(input, HEAD_BYTES_MAX);
    let Some(range) = found.map_err(|_| CallFault("malformed or over-long head"))? else {
        return Ok(None);
    };
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut space);
    match parsed.parse(&input[range.clone()]) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(CallFault("malformed head")),
    }
    let header = |name: &str| {
        let mut all = parsed.headers.iter();
        let found = all.find(|h| h.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).into_owned())
    };
    let answer = UpgradeAnswer {
        status: parsed.code.ok_or(CallFault("malformed head"))?,
        hello: header(HEADER),
        refused: header(REFUSED),
    };
    Ok(Some((range.end, answer)))
}
