//! `-forward` on a standby: short requests are sent to the leader over HTTP, and its answers are
//! given back as they are.
//!
//! The client is redirected instead if the request is a watch or takes long, or comes from another
//! tern: that one follows redirects, and two standbys must not send a request to each other for
//! ever. Start reading at [`forward`].
use super::Routed;
use super::ask::{Ask, FORM};
use super::render::{AnswerKind, Shape, redirect};
use crate::codec::http::Method;
use crate::codec::http::call::HttpCall;

/// How long the leader may take, in milliseconds. After 5 s it answers by itself that an outcome is
/// unknown.
const TIMEOUT_MS: u64 = 7_000;

/// The call to the leader in place of this machine; `None` if the client is to be redirected.
pub(super) fn forward(ask: &Ask, leader_url: &str) -> Option<Routed> {
    let request = ask.request;
    if request.from_tern || takes_long(ask) {
        return None;
    }
    let method = match request.method {
        // The answer to a HEAD announces the length of a body that does not come.
        Method::Get | Method::Head => Method::Get,
        Method::Put | Method::Post | Method::Delete => request.method,
        Method::Options | Method::Other => return None,
    };
    let content_type = if request.body.is_empty() {
        ""
    } else if ask.is_form() {
        FORM
    } else {
        return None;
    };
    let target = redirect::target_of(&request.path, request.query);
    let call = HttpCall {
        method,
        url: format!("{leader_url}{target}").into(),
        content_type,
        body: request.body.into(),
        timeout_ms: TIMEOUT_MS,
    };
    let kind = AnswerKind::Proxied {
        leader_url: leader_url.into(),
    };
    Some(Routed::Proxy {
        call: Box::new(call),
        shape: Shape::new(kind, request, ask.cors),
    })
}

fn takes_long(ask: &Ask) -> bool {
    let path = &*ask.request.path;
    if path == "/v2/speedTest" || path == "/v2/migration/snapshot" {
        return true;
    }
    if path.starts_with("/v1/watch/") {
        return true;
    }
    path.starts_with("/v2/keys/") && ask.query().is_ok_and(|query| query.flag("wait"))
}
