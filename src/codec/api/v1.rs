//! `/v1/keys/…` and `/v1/watch/…`: from the parameters of a request to an operation on the key
//! space.
//!
//! v1 differs from v2 in that a value must not be empty, and that a set with `prevValue` is the
//! only condition.
use super::exchange::{Exchange, Handled};
use super::render::{AnswerKind, V1Listing};
use crate::codec::http::Method;
use crate::core::command::{Command, Naming};
use crate::core::error::Code;
use crate::core::seam::Op;

/// GET: a file, or the children of a directory.
pub fn get(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let linearizable = exchange.query()?.flag("consistent");
    let op = Op::Get {
        path,
        recursive: false,
        linearizable,
    };
    exchange.to_machine(op, AnswerKind::V1Get(V1Listing::default()))
}

/// PUT and POST: set, or test and set. An empty `prevValue` means that the key must not exist.
pub fn put(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = exchange.form()?;
    let Some(value) = form.get("value").filter(|v| !v.is_empty()) else {
        return Err(exchange.error(Code::ValueRequired, "Set"));
    };
    let value = Some(value.into());
    let lease = exchange.lease(&form, "Set")?;
    let command = match form.get("prevValue") {
        None => Command::Set { path, value, lease },
        Some("") => Command::Create {
            path,
            value,
            lease,
            naming: Naming::Given,
        },
        Some(prev_value) => Command::CompareAndSwap {
            path,
            value,
            lease,
            prev_value: Some(prev_value.into()),
            prev_index: None,
            or_create: false,
            refresh: false,
        },
    };
    exchange.to_machine(Op::Write(command), AnswerKind::V1Event)
}

/// DELETE: a file.
pub fn delete(exchange: &Exchange) -> Handled {
    let command = Command::Delete {
        path: exchange.key()?,
        dir: false,
        recursive: false,
    };
    exchange.to_machine(Op::Write(command), AnswerKind::V1Event)
}

/// GET waits for the next event at the key, POST for the first one from `index` on.
pub fn watch(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let since = match exchange.request.method {
        Method::Post => exchange.index(exchange.form()?.get("index"), "Watch From Index")?,
        _ => 0,
    };
    if exchange.request.method == Method::Head {
        return exchange.empty(200);
    }
    let key: Box<str> = path.as_str().into();
    let op = Op::Watch {
        path,
        recursive: false,
        stream: false,
        since: (since > 0).then_some(since),
        on_leader: false,
        timeout_us: None,
    };
    exchange.to_machine(op, AnswerKind::V1Watch { key })
}
