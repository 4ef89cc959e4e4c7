//! `-forward` over HTTP: a standby sends short requests and watches to the leader and returns its
//! response unchanged. The response to a watch is returned as it arrives. A follower sends only
//! changes of members this way: its requests about keys take its link to the leader.
//!
//! A request that no leader has taken is held and tried again, see `core::machine::proxying`. Two
//! kinds of requests are redirected instead:
//! - other requests that take long: the migration document, speed tests, locks, the watches of v1;
//! - requests from another tern, which follows redirects itself. Two standbys that take each other
//!   for the leader would otherwise forward a request in a circle.
//!
//! Start reading at [`forward`].
use super::Routed;
use super::exchange::{Exchange, FORM};
use super::keys_2x;
use super::render::{AnswerKind, Shape, redirect};
use crate::codec::http::Method;
use crate::codec::http::call::HttpCall;
use crate::codec::http::response::JSON;
use crate::core::error::Code;
use serde::Deserialize;

/// How long the leader may take for a write, in milliseconds. It must exceed the 5 s after which the
/// leader itself answers that the outcome is unknown.
const TIMEOUT_MS: u64 = 7_000;
/// How long a machine may take for a read before another one is asked, in milliseconds.
const READ_TIMEOUT_MS: u64 = 2_000;

/// The call that forwards the request to the leader; `None` if the client is to be redirected.
/// `leader_url`: the leader's client URL, if one is known.
pub(super) fn forward(exchange: &Exchange, leader_url: Option<&str>) -> Option<Routed> {
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
    let watch = watch_of(exchange);
    let timeout_ms = match (method, watch) {
        (Method::Get, Some(watch)) => watch.head_ms + READ_TIMEOUT_MS,
        (Method::Get, None) => READ_TIMEOUT_MS,
        _ => TIMEOUT_MS,
    };
    let call = HttpCall {
        method,
        url: redirect::target_of(&request.path, request.query).into(),
        content_type,
        header: None,
        body: request.body.into(),
        timeout_ms,
    };
    let kind = AnswerKind::Proxied {
        leader_url: leader_url.map(Box::from),
        is_amid_event: false,
    };
    Some(Routed::Proxy {
        call: Box::new(call),
        shape: Shape::new(kind, request, exchange.cors),
        is_watch: watch.is_some(),
    })
}

/// A request that waits for events.
#[derive(Clone, Copy)]
struct ForwardedWatch {
    /// How long the leader may wait before it sends the head, in milliseconds. With `timeout` it is
    /// all of that time: the status is 204 if no event comes. Else the head comes at once.
    head_ms: u64,
}

/// The watch that the request asks for. Each watch has room for an event, and no budget counts it: so
/// a plain read must not pass for one.
fn watch_of(exchange: &Exchange) -> Option<ForwardedWatch> {
    let query = exchange.query().ok()?;
    let is_get = exchange.request.method == Method::Get;
    if !is_get || !asks_for(exchange, "wait") || asks_for(exchange, "quorum") {
        return None;
    }
    let timeout_us = exchange.timeout_us(&query).ok()?;
    Some(ForwardedWatch {
        head_ms: timeout_us.unwrap_or(0) / 1000,
    })
}

/// Whether a request for a key has this flag, as the handler of the key would read it.
fn asks_for(exchange: &Exchange, flag: &str) -> bool {
    let Ok(query) = exchange.query() else {
        return false;
    };
    if !exchange.request.path.starts_with("/v2/keys") {
        return false;
    }
    if exchange.context.settings.compat_2 {
        return keys_2x::quoted_flag(exchange, &query, flag).unwrap_or(false);
    }
    query.flag(flag)
}

/// The fields of an error that tell whether it may be repeated.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ErrorAnswer {
    error_code: u64,
    cause: String,
}

/// Whether the answer of a machine says that it has not taken the request, because it knows no
/// leader: error 300 without a cause, 301, or 402 of a standby.
pub fn is_not_taken(status: u16, body: &[u8]) -> bool {
    if !matches!(status, 400 | 500) {
        return false;
    }
    let error: ErrorAnswer = serde_json::from_slice(body).unwrap_or_default();
    let is = |code: Code| error.error_code == code as u64;
    let is_repeatable =
        is(Code::RaftInternal) || is(Code::LeaderElect) || is(Code::StandbyInternal);
    is_repeatable && error.cause.is_empty()
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
    // Its answer has no body, which the call would wait for.
    method == Method::Head && asks_for(exchange, "wait")
}
