//! The discovery service: a directory of any etcd's key space in which the machines of a new
//! cluster find each other.
//!
//! What is asked of it and what its answers mean, as pure functions, and the registration that a
//! member keeps alive. Who asks what when is the finder's. Start with `Registrar`.
use crate::codec::http::Method;
use crate::core::escape;
use crate::core::seam::{Call, CallId, Reply};
use crate::core::timer::Now;
use serde::Deserialize;

/// How long a question to the service may take.
const ASK_MS: u64 = 5_000;
/// How long a registration lives unless it is refreshed …
const TTL_S: u64 = 604_800;
/// … which happens after this time.
const REFRESH_US: u64 = TTL_S / 8 * 1_000_000;
/// A registration that failed is tried again after this time.
const RETRY_US: u64 = 60_000_000;
/// Apart from the numbers of the finder's calls, and from those of the shell.
const CALL: CallId = CallId(1 << 62);
/// Error codes of 0.4 (BEHAVIOUR: errors).
const NODE_EXISTS: u64 = 105;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    error_code: u64,
    #[serde(default)]
    message: String,
    node: Option<Node>,
}

#[derive(Deserialize)]
struct Node {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    nodes: Vec<Node>,
}

const FORM: &str = "application/x-www-form-urlencoded";

fn call(id: CallId, method: Method, url: String, body: String) -> Call {
    Call {
        id,
        method,
        url: url.into(),
        content_type: if body.is_empty() { "" } else { FORM },
        body: body.into_bytes().into(),
        timeout_ms: ASK_MS,
    }
}

/// Registers this machine.
pub fn register(id: CallId, service: &str, name: &str, peer_url: &str) -> Call {
    let url = format!("{service}/{}", escape::path(name));
    let body = format!("value={}&ttl={TTL_S}", escape::query(peer_url));
    call(id, Method::Put, url, body)
}

/// Takes the lead: whoever succeeds starts the cluster.
pub fn take_lead(id: CallId, service: &str) -> Call {
    let url = format!("{service}/_state?prevExist=false");
    call(id, Method::Put, url, "value=started".into())
}

/// Asks for all that are registered.
pub fn list(id: CallId, service: &str) -> Call {
    call(
        id,
        Method::Get,
        format!("{service}?recursive=true"),
        String::new(),
    )
}

fn parse(status: u16, body: &[u8]) -> Result<Answer, String> {
    serde_json::from_slice(body).map_err(|_| format!("status {status} and no JSON"))
}

fn failed(answer: &Answer) -> String {
    format!("error {}: {}", answer.error_code, answer.message)
}

/// Whether the registration was taken.
pub fn registered(status: u16, body: &[u8]) -> Result<(), String> {
    match parse(status, body)? {
        answer if answer.node.is_some() => Ok(()),
        answer => Err(failed(&answer)),
    }
}

/// Whether this machine is the first.
pub fn leads(status: u16, body: &[u8]) -> Result<bool, String> {
    match parse(status, body)? {
        answer if answer.node.is_some() => Ok(true),
        answer if answer.error_code == NODE_EXISTS => Ok(false),
        answer => Err(failed(&answer)),
    }
}

/// The peer URLs of those that are registered; `scheme` for values without one.
pub fn peers(status: u16, body: &[u8], scheme: &str) -> Result<Vec<Box<str>>, String> {
    let answer = parse(status, body)?;
    let Some(node) = answer.node else {
        return Err(failed(&answer));
    };
    let hidden = |n: &Node| n.key.rsplit('/').next().unwrap_or("").starts_with('_');
    let machines = node
        .nodes
        .into_iter()
        .filter(|n| !hidden(n) && !n.value.is_empty());
    let url = |n: Node| match n.value.contains("://") {
        true => n.value.trim_end_matches('/').into(),
        false => format!("{scheme}://{}", n.value).into(),
    };
    Ok(machines.map(url).collect())
}

/// Keeps a member registered.
pub struct Registrar {
    service: Box<str>,
    name: Box<str>,
    peer_url: Box<str>,
    due_us: u64,
    wanted: bool,
}

impl Registrar {
    /// Registers at once.
    pub fn new(service: Box<str>, name: Box<str>, peer_url: Box<str>) -> Registrar {
        Registrar {
            service,
            name,
            peer_url,
            due_us: 0,
            wanted: false,
        }
    }

    /// A refresh is due.
    pub fn on_time(&mut self, now: Now) {
        if now.mono_us >= self.due_us {
            self.wanted = true;
            self.due_us = now.mono_us + REFRESH_US;
        }
    }

    /// What became of it, if it was this call: why it failed.
    pub fn on_reply(&mut self, now: Now, id: CallId, reply: &Reply) -> Option<String> {
        if id != CALL {
            return None;
        }
        let why = match reply {
            Reply::Failed { why } => why.to_string(),
            Reply::Answered { status, body, .. } => registered(*status, body).err()?,
        };
        self.due_us = now.mono_us + RETRY_US;
        Some(format!("{}: {why}", self.service))
    }

    /// The call to make now.
    pub fn take_call(&mut self) -> Option<Call> {
        let wanted = std::mem::take(&mut self.wanted);
        wanted.then(|| register(CALL, &self.service, &self.name, &self.peer_url))
    }

    /// When `on_time` has something to do.
    pub fn next_deadline(&self) -> u64 {
        self.due_us
    }
}
