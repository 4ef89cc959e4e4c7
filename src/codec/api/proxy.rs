//! `-forward` over HTTP: a standby sends short requests to the leader and returns its response
//! unchanged. A follower does so with changes of members; what it forwards about keys takes its link
//! to the leader.
//!
//! Two kinds of requests are redirected instead:
//! - watches and other requests that take long;
//! - requests from another tern, which follows redirects itself. Two standbys that take each other
//!   for the leader would otherwise forward a request in a circle.
//!
//! Start reading at [`forward`].
use super::Routed;
use super::exchange::{Exchange, FORM};
use super::render::{AnswerKind, Shape, redirect};
use crate::codec::http::Method;
use crate::codec::http::call::HttpCall;
use crate::codec::http::response::JSON;

/// How long the leader may take, in milliseconds. It must exceed the 5 s after which the leader
/// itself answers that the outcome is unknown.
const TIMEOUT_MS: u64 = 7_000;

/// The call that forwards the request to the leader; `None` if the client is to be redirected.
pub(super) fn forward(exchange: &Exchange, leader_url: &str) -> Option<Routed> {
    let request = exchange.request;
    if request.from_tern || takes_long(exchange) {
        return None;
    }
    let method = match request.method {
        // The response to a HEAD announces a body that does not follow. The parser would wait for
        // it.
        Method::Get | Method::Head => Method::Get,
        Method::Put | Method::Post | Method::Delete => request.method,
        Method::Options | Method::Other => return None,
    };
    let content_type = if request.body.is_empty() {
        ""
    } else if exchange.is_form() {
        FORM
    } else if exchange.is_json() {
        JSON
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
        shape: Shape::new(kind, request, exchange.cors),
    })
}

fn takes_long(exchange: &Exchange) -> bool {
    let path = &*exchange.request.path;
    if path == "/v2/speedTest" || path == "/v2/migration/snapshot" {
        return true;
    }
    if path.starts_with("/v1/watch/") {
        return true;
    }
    let method = exchange.request.method;
    if path.starts_with("/mod/v2/lock/") && method == Method::Post
        || path.starts_with("/mod/v2/leader/") && method == Method::Put
    {
        return true;
    }
    path.starts_with("/v2/keys/") && exchange.query().is_ok_and(|query| query.flag("wait"))
}
