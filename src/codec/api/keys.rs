//! `/v2/keys/…`: from the parameters of a request to an operation on the key space, as etcd 0.4
//! reads them (`keys_2x` is for `-compat 2`).
//!
//! Parameters are checked in the order of 0.4 (ttl, refresh, conditions), so that a request with
//! several faults gets the same error. Only `Exchange::lease` reads a ttl; the leader's stamp makes
//! it a time.
use super::exchange::{Exchange, Handled, Parameters};
use super::render::{AnswerKind, NodeTree};
use crate::codec::http::{Method, Response};
use crate::core::cluster_time::Lease;
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::Code;
use crate::core::seam::Op;

/// GET and HEAD: read, or wait for a change.
pub fn get(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let query = exchange.query()?;
    let quorum = query.flag("quorum");
    let on_leader = query.flag("consistent");
    let head_only = exchange.request.method == Method::Head;
    if query.flag("wait") && !quorum {
        let since = match query.get("waitIndex") {
            None | Some("") => 0,
            given => exchange.index(given, "Watch From Index")?,
        };
        if head_only {
            return exchange.empty_with_indexes();
        }
        let timeout_us = exchange.timeout_us(&query)?;
        let op = Op::Watch {
            path,
            recursive: query.flag("recursive"),
            stream: query.flag("stream"),
            since: (since > 0).then_some(since),
            on_leader,
            timeout_us,
        };
        let has_timeout = timeout_us.is_some();
        return exchange.to_machine(op, AnswerKind::Watch { has_timeout });
    }
    let op = Op::Get {
        path,
        recursive: query.flag("recursive") && !head_only,
        linearizable: quorum || on_leader,
    };
    exchange.to_machine(op, AnswerKind::Node(NodeTree::nodes(exchange.context)))
}

/// PUT: set, create, update or compare and swap.
pub fn put(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = exchange.form()?;
    let command = put_command(exchange, path, &form)?;
    let no_value = form.flag("noValueOnSuccess");
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value })
}

fn put_command(exchange: &Exchange, path: KeyPath, form: &Parameters) -> Result<Command, Response> {
    let lease = exchange.lease(form, "Update")?;
    let value = form.get("value");
    let refresh = form.flag("refresh");
    check_refresh(exchange, value, lease, refresh)?;
    // A new directory has no value, whatever the request says.
    let new_value = || (!form.flag("dir")).then(|| value.unwrap_or_default().into());
    let prev_exist = form.get("prevExist");
    if prev_exist.is_some_and(|v| v.eq_ignore_ascii_case("false")) {
        return Ok(Command::Create {
            path,
            value: new_value(),
            lease,
            naming: Naming::Given,
        });
    }
    let has_condition = form.get("prevValue").is_some() || form.get("prevIndex").is_some();
    if has_condition {
        return compare_and_swap(exchange, path, form, lease);
    }
    if form.flag("prevExist") || refresh {
        if value.unwrap_or_default().is_empty() && lease.is_none() {
            return Err(exchange.error(Code::ValueOrTtlRequired, "Update"));
        }
        return Ok(Command::Update {
            path,
            value: value.filter(|_| !refresh).map(Into::into),
            lease,
            refresh,
        });
    }
    if prev_exist.is_none() {
        return Ok(Command::Set {
            path,
            value: new_value(),
            lease,
        });
    }
    // `prevExist` is neither true nor false: 0.4 takes it for a condition that always holds.
    compare_and_swap(exchange, path, form, lease)
}

fn check_refresh(
    exchange: &Exchange,
    value: Option<&str>,
    lease: Option<Lease>,
    refresh: bool,
) -> Result<(), Response> {
    if refresh && value.is_some_and(|v| !v.is_empty()) {
        let cause = "A value was given along with refresh";
        return Err(exchange.error(Code::RefreshValue, cause));
    }
    if refresh && lease.is_none() {
        return Err(exchange.error(Code::RefreshTtlRequired, "No TTL value set"));
    }
    Ok(())
}

fn compare_and_swap(
    exchange: &Exchange,
    path: KeyPath,
    form: &Parameters,
    lease: Option<Lease>,
) -> Result<Command, Response> {
    let refresh = form.flag("refresh");
    let prev_value = form.get("prevValue");
    let prev_index = form.get("prevIndex");
    let condition = index_condition(exchange, prev_index, "CompareAndSwap")?;
    if prev_value == Some("") {
        return Err(exchange.error(Code::PrevValueRequired, "CompareAndSwap"));
    }
    // `prevIndex=0` alone is no condition: a missing key is created, as in 2.x.
    let is_unconditional = prev_index.is_some() && condition.is_none() && prev_value.is_none();
    Ok(Command::CompareAndSwap {
        path,
        value: (!refresh).then(|| form.get("value").unwrap_or_default().into()),
        lease,
        prev_value: prev_value.map(Into::into),
        prev_index: condition,
        or_create: is_unconditional && !form.flag("prevExist"),
        refresh,
    })
}

/// The condition of a `prevIndex`; 0 is none.
fn index_condition(
    exchange: &Exchange,
    prev_index: Option<&str>,
    cause: &str,
) -> Result<Option<u64>, Response> {
    if prev_index.is_none() {
        return Ok(None);
    }
    let index = exchange.index(prev_index, cause)?;
    Ok((index != 0).then_some(index))
}

/// POST: create a child named by the new index.
pub fn post(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let form = exchange.form()?;
    let lease = exchange.lease(&form, "Create")?;
    let value = form.get("value").unwrap_or_default();
    let command = Command::Create {
        path,
        value: (!form.flag("dir")).then(|| value.into()),
        lease,
        naming: Naming::InOrder,
    };
    let no_value = form.flag("noValueOnSuccess");
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value })
}

/// DELETE: remove, or compare and remove. A body is ignored.
pub fn delete(exchange: &Exchange) -> Handled {
    let path = exchange.key()?;
    let query = exchange.query()?;
    let prev_value = query.get("prevValue");
    let prev_index = query.get("prevIndex");
    if prev_value.is_none() && prev_index.is_none() {
        let command = Command::Delete {
            path,
            dir: query.flag("dir"),
            recursive: query.flag("recursive"),
        };
        return exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value: false });
    }
    let condition = index_condition(exchange, prev_index, "CompareAndDelete")?;
    if prev_value == Some("") {
        return Err(exchange.error(Code::PrevValueRequired, "CompareAndDelete"));
    }
    let command = Command::CompareAndDelete {
        path,
        prev_value: prev_value.map(Into::into),
        prev_index: condition,
    };
    exchange.to_machine(Op::Write(command), AnswerKind::Event { no_value: false })
}
