//! `/mod/v2/lock/{name}` and `/mod/v2/leader/{name}`: the modules of etcd 0.4.
//!
//! A lock is a queue of places below `/_etcd/mod/lock/{name}`; the core keeps it
//! (`core::replica`). The election of a leader is a lock: its value is the name of the candidate.
//! Parameters are checked in the order of 0.4, and the errors about them have the index 0. Start
//! with [`lock`].
use super::Routed;
use super::exchange::{Exchange, Handled, Parameters, number};
use super::render::{AnswerKind, LockField, redirect};
use crate::codec::http::response::{JSON, TEXT};
use crate::codec::http::{Method, Response};
use crate::core::cluster_time::{Lease, TTL_S_MAX};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::seam::{LockPlace, LockRequest, Op};

/// The directory of all locks. It is hidden from listings of the directories above.
const LOCKS: &str = "/_etcd/mod/lock";

/// Most segments of a lock's name. Each may be a directory to create, and every later entry of the
/// log waits for them. Writes to deep keys take turns (`shell::deep_writes`), which acquisitions do
/// not: an acquisition may last for hours.
const NAME_SEGMENTS_MAX: usize = 32;

/// The ttl, in seconds, of a place that waits for a lock without a ttl. If its machine dies it is in
/// the way for so long.
const WAITER_TTL_S: i64 = 30;

/// `/mod/v2/lock/{name}`
pub fn lock(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Post => {
            let form = exchange.form()?;
            let value = form.get("value").unwrap_or_default();
            acquire(exchange, &form, value)
        }
        Method::Put => renew(exchange),
        Method::Delete => release(exchange),
        _ => {
            let query = exchange.query()?;
            let field = match query.get("field") {
                None | Some("" | "value") => LockField::Value,
                Some("index") => LockField::Index,
                Some(_) => return Err(refusal(Code::InvalidField, "Get")),
            };
            show(exchange, field)
        }
    }
}

/// `/mod/v2/leader/{name}`
pub fn leader(exchange: &Exchange) -> Handled {
    match exchange.request.method {
        Method::Put => {
            let form = exchange.form()?;
            let name = candidate(&form, "Set")?;
            acquire(exchange, &form, name)
        }
        Method::Delete => {
            let query = exchange.query()?;
            let place = LockPlace::Value(candidate(&query, "Delete")?.into());
            release_place(exchange, place)
        }
        _ => show(exchange, LockField::Value),
    }
}

/// `/mod` leads nowhere, as in 0.4.
pub fn root(_: &Exchange) -> Handled {
    Ok(Routed::Answer(redirect::moved("/", false)))
}

fn acquire(exchange: &Exchange, form: &Parameters, value: &str) -> Handled {
    let timeout_us = match form.get("timeout").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let seconds = number(text).ok_or_else(|| refusal(Code::TimeoutNaN, "Acquire"))?;
            Some(seconds.min(TTL_S_MAX as u64) * 1_000_000)
        }
    };
    let ttl_s = ttl_s(form, "Acquire")?;
    let wait_s = match ttl_s {
        0 => WAITER_TTL_S,
        ttl_s => ttl_s,
    };
    let request = LockRequest::Acquire {
        lock: path(exchange)?,
        value: value.into(),
        lease: lease_of(ttl_s),
        wait: Lease::of_seconds(wait_s),
        wait_us: wait_s as u64 * 1_000_000,
        timeout_us,
    };
    ask(exchange, request, LockField::Value, "Acquire")
}

fn renew(exchange: &Exchange) -> Handled {
    let form = exchange.form()?;
    let ttl_s = ttl_s(&form, "Renew")?;
    let index = form.get("index").filter(|text| !text.is_empty());
    let value = form.get("value").filter(|text| !text.is_empty());
    let place = match (index, value) {
        (Some(index), _) => place_at(index, "Renew")?,
        (None, Some(value)) => LockPlace::Value(value.into()),
        (None, None) => return Err(refusal(Code::IndexOrValueRequired, "Renew")),
    };
    let request = LockRequest::Renew {
        lock: path(exchange)?,
        place,
        lease: lease_of(ttl_s),
    };
    ask(exchange, request, LockField::Value, "Renew")
}

fn release(exchange: &Exchange) -> Handled {
    let query = exchange.query()?;
    let index = query.get("index").filter(|text| !text.is_empty());
    let value = query.get("value").filter(|text| !text.is_empty());
    let place = match (index, value) {
        (Some(_), Some(_)) => return Err(refusal(Code::IndexValueMutex, "Release")),
        (Some(index), None) => place_at(index, "Release")?,
        (None, Some(value)) => LockPlace::Value(value.into()),
        (None, None) => return Err(refusal(Code::IndexOrValueRequired, "Release")),
    };
    release_place(exchange, place)
}

fn release_place(exchange: &Exchange, place: LockPlace) -> Handled {
    let lock = path(exchange)?;
    let request = LockRequest::Release { lock, place };
    ask(exchange, request, LockField::Value, "Release")
}

fn show(exchange: &Exchange, field: LockField) -> Handled {
    let lock = path(exchange)?;
    ask(exchange, LockRequest::Show { lock }, field, "Get")
}

fn ask(
    exchange: &Exchange,
    request: LockRequest,
    field: LockField,
    cause: &'static str,
) -> Handled {
    let op = Op::Lock(Box::new(request));
    exchange.to_machine(op, AnswerKind::Lock { field, cause })
}

/// The directory of the lock that the path names.
fn path(exchange: &Exchange) -> Result<KeyPath, Response> {
    if exchange.rest.chars().all(|c| c == '/') {
        return Err(Response::new(404, TEXT, super::NOT_FOUND));
    }
    let mut segments = exchange.rest.split('/').filter(|s| !s.is_empty());
    if segments.nth(NAME_SEGMENTS_MAX).is_some() {
        let text = "414 Request-URI Too Long: the name of a lock has at most 32 segments";
        return Err(Response::new(414, TEXT, text));
    }
    exchange.key_below(LOCKS)
}

/// The ttl in seconds; 0: until it is released.
fn ttl_s(form: &Parameters, cause: &str) -> Result<i64, Response> {
    let ttl_s = form.get("ttl").and_then(|text| text.parse().ok());
    ttl_s
        .filter(|ttl_s| (0..=TTL_S_MAX).contains(ttl_s))
        .ok_or_else(|| refusal(Code::TtlNaN, cause))
}

fn lease_of(ttl_s: i64) -> Option<Lease> {
    (ttl_s > 0).then(|| Lease::of_seconds(ttl_s))
}

fn place_at(index: &str, cause: &str) -> Result<LockPlace, Response> {
    let index = number(index).ok_or_else(|| refusal(Code::IndexNaN, cause))?;
    Ok(LockPlace::Index(index))
}

/// The name of the candidate.
fn candidate<'a>(parameters: &'a Parameters, cause: &str) -> Result<&'a str, Response> {
    let name = parameters.get("name").filter(|name| !name.is_empty());
    name.ok_or_else(|| refusal(Code::NameRequired, cause))
}

/// An error about the request itself. The modules know no index.
fn refusal(code: Code, cause: &str) -> Response {
    let body = super::render::lock_error(&Error::new(code, cause));
    Response::new(code.status(), JSON, body).with("X-Etcd-Index", "0")
}
