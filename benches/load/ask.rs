//! A client that blocks: one connection, one request at a time, an answer or an error within a
//! given time. Start with `Client::ask`.
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to one machine.
pub struct Client {
    stream: TcpStream,
}

/// What a machine has said.
pub struct Answer {
    pub status: u16,
    /// Where to ask instead, if it said so.
    pub location: Option<SocketAddr>,
    /// The term of raft that the machine is in.
    pub term: Option<u64>,
    pub body: String,
}

impl Client {
    pub fn connect(address: SocketAddr, patience: Duration) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Client { stream })
    }

    /// Sends a whole request and reads the whole answer.
    pub fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request)?;
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => bytes.extend_from_slice(&piece[..n]),
            }
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
        }
    }
}

/// The answer in these bytes, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(Error::other)?;
    let httparse::Status::Complete(body_at) = parsed else {
        return Ok(None);
    };
    let field = |name: &str| {
        let found = head
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| String::from_utf8_lossy(h.value).into_owned())
    };
    let length: usize = field("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let body = &bytes[body_at..];
    let chunked = field("transfer-encoding").is_some();
    let whole = if chunked {
        body.ends_with(b"0\r\n\r\n")
    } else {
        body.len() >= length
    };
    let host = |url: String| url.split("://").nth(1)?.split('/').next()?.parse().ok();
    Ok(whole.then(|| Answer {
        status: head.code.expect("it is complete"),
        location: field("location").and_then(host),
        term: field("x-raft-term").and_then(|t| t.parse().ok()),
        body: String::from_utf8_lossy(body).into_owned(),
    }))
}
