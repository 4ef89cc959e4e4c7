//! The HTTP request that turns a connection into a link between peers (RFC 9110 section 7.8), and
//! the answers to it. `peer::hello` defines the content of a hello.
use super::client::CallFault;
use super::head::{HEADERS_MAX, Scan};
use crate::VERSION;
use crate::codec::peer::hello::{HEADER, PATH, PROTOCOL, REFUSED};

/// Most bytes of the head of an answer.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// The request to `host` for a link, with the value of the hello.
pub fn request(host: &str, hello: &str) -> Vec<u8> {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tern/{VERSION}\r\nConnection: Upgrade\r\n\
         Upgrade: {PROTOCOL}\r\n{HEADER}: {hello}\r\n\r\n"
    )
    .into_bytes()
}

/// The answer that grants a link. Frames follow it.
pub fn granted(hello: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: tern/{VERSION}\r\nConnection: Upgrade\r\n\
         Upgrade: {PROTOCOL}\r\n{HEADER}: {hello}\r\n\r\n"
    )
    .into_bytes()
}

/// The other side's answer to `request`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeAnswer {
    /// 101 if the link is granted.
    pub status: u16,
    /// Header `Tern-Hello`.
    pub hello: Option<String>,
    /// Header `Tern-Refused`: the reason of a refusal.
    pub refused: Option<String>,
}

/// Reads the head of the answer from `input`. Returns its length in bytes too; `None` if it is not
/// whole yet.
///
/// # Errors
///
/// If the head is malformed or longer than 4 KiB.
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
