//! `/v2/keys` under `-compat 2`: the parameters as etcd 2.x reads them.
//!
//! etcd 2.x checks every parameter on every method, also where it means nothing, and before it looks
//! at the key. The order of the checks decides which error a request with several faults gets. All
//! of them are in [`KeyForm::parse`]; the handlers after it only choose the command. Numbers have no
//! sign, and booleans are those of Go's `strconv.ParseBool`.
//!
//! Where etcd 2.x would empty a value that a request does not name, tern keeps it.
use super::exchange::{Exchange, Handled, Parameters, number};
use super::render::{AnswerKind, NodeTree};
use crate::codec::http::{Method, Response};
use crate::core::cluster_time::{Lease, TTL_S_MAX};
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::Code;
use crate::core::seam::Op;
use std::sync::Arc;

/// The checked parameters of a request.
struct KeyForm {
    /// `None` if the request names none.
    value: Option<Arc<str>>,
    /// `None` if the request names none; never empty.
    prev_value: Option<Box<str>>,
    /// `None` if it is 0 or not named.
    prev_index: Option<u64>,
    prev_exist: Option<bool>,
    /// `None` if it is 0 or not named.
    wait_index: Option<u64>,
    recursive: bool,
    wait: bool,
    dir: bool,
    quorum: bool,
    stream: bool,
    no_value: bool,
    /// The ttl; `None`: permanent.
    lease: Option<Lease>,
    refresh: bool,
}

impl KeyForm {
    /// Checks the parameters in the order of etcd 2.x.
    ///
    /// # Errors
    ///
    /// The first parameter that is wrong.
    fn parse(exchange: &Exchange, form: &Parameters) -> Result<KeyForm, Response> {
        let flag = |name| quoted_flag(exchange, form, name);
        let prev_index = index(exchange, form, "prevIndex")?;
        let wait_index = index(exchange, form, "waitIndex")?;
        let recursive = flag("recursive")?;
        flag("sorted")?;
        let wait = flag("wait")?;
        let dir = flag("dir")?;
        let quorum = flag("quorum")?;
        let stream = flag("stream")?;
        if wait && exchange.request.method != Method::Get {
            let cause = "\"wait\" can only be used with GET requests";
            return Err(exchange.error(Code::InvalidField, cause));
        }
        if form.get("prevValue") == Some("") {
            let cause = "\"prevValue\" cannot be empty";
            return Err(exchange.error(Code::PrevValueRequired, cause));
        }
        let no_value = flag("noValueOnSuccess")?;
        let lease = lease(exchange, form)?;
        let prev_exist = plain_flag(exchange, form, "prevExist")?;
        let refresh = plain_flag(exchange, form, "refresh")?.unwrap_or(false);
        let has_value = form.get("value").is_some_and(|value| !value.is_empty());
        if refresh && has_value {
            let cause = "A value was provided on a refresh";
            return Err(exchange.error(Code::RefreshValue, cause));
        }
        if refresh && lease.is_none() {
            return Err(exchange.error(Code::RefreshTtlRequired, "No TTL value set"));
        }
        Ok(KeyForm {
            value: form.get("value").map(Arc::from),
            prev_value: form.get("prevValue").map(Box::from),
            prev_index,
            prev_exist,
            wait_index,
            recursive,
            wait,
            dir,
            quorum,
            stream,
            no_value,
            lease,
            refresh,
        })
    }

    /// Whether the request compares the node with a value or an index.
    fn has_condition(&self) -> bool {
        self.prev_value.is_some() || self.prev_index.is_some()
    }

    /// The value that an update gives to a file; `None` leaves the value.
    fn changed_value(&self) -> Option<Arc<str>> {
        let value = self.value.clone().filter(|_| !self.refresh);
        // A directory has no value, so an empty one changes nothing.
        value.filter(|value| !self.dir || !value.is_empty())
    }

    /// The value of a new file; `None` for a directory, whatever the request says.
    fn new_value(&self) -> Option<Arc<str>> {
        let value = || self.value.clone().unwrap_or_default();
        (!self.dir).then(value)
    }
}

/// GET and HEAD: read, or wait for a change.
pub fn get(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let query = exchange.query()?;
    let form = KeyForm::parse(exchange, &query)?;
    let head_only = exchange.request.method == Method::Head;
    if form.wait && !form.quorum {
        let timeout_us = exchange.timeout_us(&query)?;
        let op = Op::Watch {
            path,
            recursive: form.recursive,
            stream: form.stream,
            since: form.wait_index,
            on_leader: false,
            timeout_us,
        };
        let has_timeout = timeout_us.is_some();
        return exchange.to_machine(op, AnswerKind::Watch { has_timeout });
    }
    let op = Op::Get {
        path,
        recursive: form.recursive && !head_only,
        linearizable: form.quorum || query.flag("consistent"),
    };
    exchange.to_machine(op, AnswerKind::Node(NodeTree::nodes(exchange.context)))
}

/// PUT: set, create, update or compare and swap.
pub fn put(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = KeyForm::parse(exchange, &exchange.form()?)?;
    let no_value = form.no_value;
    let command = put_command(path, form);
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value })
}

fn put_command(path: KeyPath, form: KeyForm) -> Command {
    if form.prev_exist == Some(false) {
        return Command::Create {
            path,
            value: form.new_value(),
            lease: form.lease,
            naming: Naming::Given,
        };
    }
    if form.has_condition() {
        let value = form.value.unwrap_or_default();
        return Command::CompareAndSwap {
            path,
            value: (!form.refresh).then_some(value),
            lease: form.lease,
            prev_value: form.prev_value,
            prev_index: form.prev_index,
            or_create: false,
            refresh: form.refresh,
        };
    }
    if form.prev_exist == Some(true) || form.refresh {
        return Command::Update {
            path,
            value: form.changed_value(),
            lease: form.lease,
            refresh: form.refresh,
        };
    }
    Command::Set {
        path,
        value: form.new_value(),
        lease: form.lease,
    }
}

/// POST: create a child named by the new index.
pub fn post(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = KeyForm::parse(exchange, &exchange.form()?)?;
    let no_value = form.no_value;
    let command = Command::Create {
        path,
        value: form.new_value(),
        lease: form.lease,
        naming: Naming::InOrderPadded,
    };
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value })
}

/// DELETE: remove, or compare and remove. A body is ignored, and so is `noValueOnSuccess`.
pub fn delete(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = KeyForm::parse(exchange, &exchange.query()?)?;
    let command = if form.has_condition() {
        Command::CompareAndDelete {
            path,
            prev_value: form.prev_value,
            prev_index: form.prev_index,
        }
    } else {
        Command::Delete {
            path,
            dir: form.dir,
            recursive: form.recursive,
        }
    };
    let no_value = false;
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value })
}

/// A parameter that is an index; `None` if it is 0 or absent.
fn index(exchange: &Exchange, form: &Parameters, name: &str) -> Result<Option<u64>, Response> {
    let Some(text) = form.get(name) else {
        return Ok(None);
    };
    match number(text) {
        Some(index) => Ok((index != 0).then_some(index)),
        None => Err(exchange.error(Code::IndexNaN, &invalid(name))),
    }
}

/// The lease of the node; `None` without a ttl, or with an empty one.
fn lease(exchange: &Exchange, form: &Parameters) -> Result<Option<Lease>, Response> {
    let Some(text) = form.get("ttl").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = number(text).and_then(|seconds| i64::try_from(seconds).ok());
    match seconds {
        Some(seconds) if seconds <= TTL_S_MAX => Ok(Some(Lease::of_seconds(seconds))),
        Some(_) | None => Err(exchange.error(Code::TtlNaN, &invalid("ttl"))),
    }
}

/// A boolean parameter; false if it is absent.
pub(super) fn quoted_flag(
    exchange: &Exchange,
    form: &Parameters,
    name: &str,
) -> Result<bool, Response> {
    let Some(text) = form.get(name) else {
        return Ok(false);
    };
    parse_bool(text).ok_or_else(|| exchange.error(Code::InvalidField, &invalid(name)))
}

/// A boolean parameter whose absence differs from false. etcd 2.x quotes the names of these in no
/// error.
fn plain_flag(
    exchange: &Exchange,
    form: &Parameters,
    name: &str,
) -> Result<Option<bool>, Response> {
    let Some(text) = form.get(name) else {
        return Ok(None);
    };
    match parse_bool(text) {
        Some(flag) => Ok(Some(flag)),
        None => {
            let cause = format!("invalid value for {name}");
            Err(exchange.error(Code::InvalidField, &cause))
        }
    }
}

fn invalid(name: &str) -> String {
    format!("invalid value for \"{name}\"")
}

/// The texts that Go's `strconv.ParseBool` takes.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
