//! The text of a hello, and of its refusal.
//!
//! A hello travels as one header of an HTTP upgrade, `Tern-Hello: from=2; to=1; process=9c;
//! incarnation=3; cluster=1f; receiver=5; name=b; peer=http%3A%2F%2Fb%3A7001; client=…`, with numbers
//! in hexadecimal. `to`, `cluster` and `receiver` are absent if the sender does not know them.
//! Unknown fields are skipped, so that later versions may add some. A refusal travels as a header
//! with a code: `Tern-Refused: denied`, or `Tern-Refused: twice; http://b:7001`. What the fields
//! mean, and when a hello is refused, is decided in `core::peers`.
use crate::core::escape;
use crate::core::identity::{is_name, is_url};
use crate::core::peers::{Hello, HelloRefusal};
use crate::core::raft::PeerId;
use std::fmt::Write;

/// The name and version of the protocol, in the header `Upgrade`.
pub const PROTOCOL: &str = "tern-raft/6";
/// The header with the hello.
pub const HEADER: &str = "Tern-Hello";
/// The header with the reason of a refusal.
pub const REFUSED: &str = "Tern-Refused";
/// The path of the upgrade request.
pub const PATH: &str = "/raft";

/// The value of the header.
pub fn encode(hello: &Hello) -> String {
    let mut text = format!(
        "from={:x}; process={:x}; incarnation={:x}",
        hello.from.0, hello.process, hello.incarnation
    );
    let to = hello.to.map(|to| to.0);
    let numbers = [
        ("to", to),
        ("cluster", hello.cluster),
        ("receiver", hello.receiver_incarnation),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            write!(text, "; {name}={number:x}").expect("a string takes all");
        }
    }
    let texts = [
        ("name", &hello.name),
        ("peer", &hello.peer_url),
        ("client", &hello.client_url),
    ];
    for (name, value) in texts {
        write!(text, "; {name}={}", escape::query(value)).expect("a string takes all");
    }
    text
}

/// Reads the value of the header; `None` if it is malformed.
pub fn parse(value: &str) -> Option<Hello> {
    const NAMES: [&str; 9] = [
        "from",
        "to",
        "process",
        "incarnation",
        "cluster",
        "receiver",
        "name",
        "peer",
        "client",
    ];
    let mut texts = [None; NAMES.len()];
    for field in value.split(';') {
        let (name, text) = field.trim_ascii().split_once('=')?;
        if let Some(at) = NAMES.iter().position(|n| *n == name)
            && texts[at].replace(text).is_some()
        {
            return None;
        }
    }
    let [
        from,
        to,
        process,
        incarnation,
        cluster,
        receiver,
        name,
        peer,
        client,
    ] = texts;
    Some(Hello {
        from: PeerId(number(from?)?),
        to: optional_number(to)?.map(PeerId),
        process: number(process?)?,
        incarnation: number(incarnation?)?,
        cluster: optional_number(cluster)?,
        receiver_incarnation: optional_number(receiver)?,
        name: text(name?, is_name)?,
        peer_url: text(peer?, is_url)?,
        client_url: text(client?, is_url)?,
    })
}

/// A number that is not 0.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|_| is_plain)?;
    (number != 0).then_some(number)
}

/// `Some(None)` for an absent field; `None` for a malformed one.
fn optional_number(text: Option<&str>) -> Option<Option<u64>> {
    match text {
        None => Some(None),
        Some(text) => number(text).map(Some),
    }
}

/// A name or a URL. A leader proposes the URLs of a hello, so they are judged as those of a request
/// to join are.
fn text(escaped: &str, is_fit: fn(&str) -> bool) -> Option<Box<str>> {
    let text = escape::decode(escaped.as_bytes(), true).ok()?;
    is_fit(&text).then(|| text.into_owned().into())
}

/// The value of the header of a refusal.
pub fn encode_refusal(refusal: &HelloRefusal) -> String {
    match refusal.other_url() {
        Some(url) => format!("{}; {url}", refusal.code()),
        None => refusal.code().to_string(),
    }
}

/// Reads the header of a refusal; `None` for an unknown code.
pub fn parse_refusal(value: &str) -> Option<HelloRefusal> {
    let (code, url) = value.split_once("; ").unwrap_or((value, ""));
    let url = if is_url(url) { url } else { "" };
    HelloRefusal::from_code(code, url)
}
