//! The discovery service: a directory of any etcd's key space in which the machines of a new
//! cluster find each other.
//!
//! A machine registers under its name, with its peer URL as the value. The first machine that
//! creates the key `_state` founds the cluster; the others join the registered ones. `cluster_api`
//! calls this file for the requests to the directory and for their responses. The functions are
//! pure.
use super::http::call::HttpCall;
use crate::core::error::Code;
use crate::core::escape;
use crate::core::seam::{CallAnswer, CallRefusal, RefusalReason};
use serde::Deserialize;

const FORM: &str = "application/x-www-form-urlencoded";

/// A response of etcd's key space: a node, or an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeysBody {
    #[serde(default)]
    error_code: u64,
    #[serde(default)]
    message: String,
    node: Option<KeysNode>,
}

#[derive(Deserialize)]
struct KeysNode {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    nodes: Vec<KeysNode>,
}

/// Registers a machine under its name for `ttl_s` seconds.
pub(super) fn register(
    directory: &str,
    name: &str,
    peer_url: &str,
    ttl_s: u64,
    timeout_ms: u64,
) -> HttpCall {
    let url = format!("{directory}/{}", escape::path(name));
    let body = format!("value={}&ttl={ttl_s}", escape::query(peer_url));
    HttpCall::put(url, FORM, body, timeout_ms)
}

/// Creates `_state`, which succeeds for one machine only.
pub(super) fn take_lead(directory: &str, timeout_ms: u64) -> HttpCall {
    let url = format!("{directory}/_state?prevExist=false");
    HttpCall::put(url, FORM, "value=started".into(), timeout_ms)
}

/// Lists the registered machines.
pub(super) fn list(directory: &str, timeout_ms: u64) -> HttpCall {
    HttpCall::get(format!("{directory}?recursive=true"), timeout_ms)
}

/// Whether the registration was taken.
pub(super) fn parse_registering(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    let parsed = parse(status, body)?;
    match parsed.node {
        Some(_) => Ok(CallAnswer::Registering),
        None => Err(refused(&parsed)),
    }
}

/// Whether `_state` was created by this machine.
pub(super) fn parse_leads(status: u16, body: &[u8]) -> Result<CallAnswer, CallRefusal> {
    let parsed = parse(status, body)?;
    if parsed.node.is_some() {
        return Ok(CallAnswer::Leads(true));
    }
    if parsed.error_code == Code::KeyExists as u64 {
        return Ok(CallAnswer::Leads(false));
    }
    Err(refused(&parsed))
}

/// The peer URLs of the registered machines; `scheme` completes values that have none.
pub(super) fn parse_registered(
    status: u16,
    body: &[u8],
    scheme: &str,
) -> Result<CallAnswer, CallRefusal> {
    let parsed = parse(status, body)?;
    let Some(directory) = &parsed.node else {
        return Err(refused(&parsed));
    };
    let mut urls: Vec<Box<str>> = Vec::new();
    for node in &directory.nodes {
        // Hidden nodes, `_state` among them, are no registrations.
        let name = node.key.rsplit('/').next().unwrap_or("");
        if name.starts_with('_') || node.value.is_empty() {
            continue;
        }
        if node.value.contains("://") {
            urls.push(node.value.trim_end_matches('/').into());
        } else {
            urls.push(format!("{scheme}://{}", node.value).into());
        }
    }
    Ok(CallAnswer::Registered(urls))
}

fn parse(status: u16, body: &[u8]) -> Result<KeysBody, CallRefusal> {
    serde_json::from_slice(body).map_err(|_| CallRefusal {
        reason: RefusalReason::Other,
        why: format!("status {status} and no JSON").into(),
    })
}

fn refused(parsed: &KeysBody) -> CallRefusal {
    CallRefusal {
        reason: RefusalReason::Other,
        why: format!("error {}: {}", parsed.error_code, parsed.message).into(),
    }
}
