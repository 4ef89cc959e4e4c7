//! `-forward` on a standby: short requests are passed on to the leader over HTTP, and its answers
//! given back as they are.
//!
//! Watchers, what takes long, and what another tern asks (it follows redirects, and two standbys
//! must not pass a request to and fro) are sent there instead. Start with `pass`.
use super::render::{AnswerKind, Shape};
use super::{Ask, Routed};
use crate::codec::http::Method;
use crate::codec::http::call::HttpCall;

/// How long the leader may take, in milliseconds: it says itself after 5 s that an outcome is
/// unknown.
const TIMEOUT_MS: u64 = 7_000;
const FORM: &str = "application/x-www-form-urlencoded";

/// What the leader is to be asked in place of this machine; `None`: the client is to ask it itself.
pub(super) fn pass(ask: &Ask, leader_url: &str) -> Option<Routed> {
    let request = ask.request;
    let path = &*request.path;
    let long = path.starts_with("/v1/watch/")
        || ["/v2/speedTest", "/v2/migration/snapshot"].contains(&path);
    let waits = path.starts_with("/v2/keys/") && ask.query().is_ok_and(|query| query.flag("wait"));
    if request.from_tern || long || waits {
        return None;
    }
    let method = match request.method {
        // The answer to a HEAD has the length of a body that does not come.
        Method::Get | Method::Head => Method::Get,
        Method::Put | Method::Post | Method::Delete => request.method,
        Method::Options | Method::Other => return None,
    };
    let content_type = match request.body.is_empty() {
        true => "",
        false if ask.is_form() => FORM,
        false => return None,
    };
    let call = HttpCall {
        method,
        url: format!("{leader_url}{}", ask.target()).into(),
        content_type,
        body: request.body.into(),
        timeout_ms: TIMEOUT_MS,
    };
    let kind = AnswerKind::Proxied {
        leader_url: leader_url.into(),
    };
    let shape = Shape::new(kind, request, ask.target().into(), ask.cors);
    Some(Routed::Pass {
        call: Box::new(call),
        shape: Box::new(shape),
    })
}
