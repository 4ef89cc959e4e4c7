//! `/v2/keys/…`: from the parameters of a request to an operation on the key space.
//!
//! Parameters are checked in the order of 0.4 (ttl, refresh, conditions), so that a request with
//! several faults gets the same error. A ttl becomes an absolute time in `Ask::expires` and nowhere
//! else.
use super::ask::{Ask, Handled, Parameters};
use super::render::{AnswerKind, NodeTree};
use crate::codec::http::{Method, Response};
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::Code;
use crate::core::seam::Op;

/// GET and HEAD: read, or wait for a change.
pub fn get(ask: &Ask) -> Handled {
    let path = ask.key()?;
    let query = ask.query()?;
    let quorum = query.flag("quorum");
    let on_leader = query.flag("consistent");
    let head_only = ask.request.method == Method::Head;
    if query.flag("wait") && !quorum {
        let since = match query.get("waitIndex") {
            None | Some("") => 0,
            given => ask.index(given, "Watch From Index")?,
        };
        if head_only {
            return ask.empty_with_indexes();
        }
        let op = Op::Watch {
            path,
            recursive: query.flag("recursive"),
            stream: query.flag("stream"),
            since: (since > 0).then_some(since),
            on_leader,
        };
        return ask.to_machine(op, AnswerKind::Watch);
    }
    let op = Op::Get {
        path,
        recursive: query.flag("recursive") && !head_only,
        linearizable: quorum || on_leader,
    };
    ask.to_machine(op, AnswerKind::Node(NodeTree::nodes()))
}

/// PUT: set, create, update or compare and swap.
pub fn put(ask: &Ask) -> Handled {
    let path = ask.key()?;
    let form = ask.form()?;
    let command = put_command(ask, path, &form)?;
    ask.to_machine(Op::Write(command), AnswerKind::Event)
}

fn put_command(ask: &Ask, path: KeyPath, form: &Parameters) -> Result<Command, Response> {
    let expires_ns = ask.expires(form, "Update")?;
    let value = form.get("value");
    let refresh = form.flag("refresh");
    check_refresh(ask, value, expires_ns, refresh)?;
    // A new directory has no value, whatever the request says.
    let new_value = || (!form.flag("dir")).then(|| value.unwrap_or_default().into());
    let prev_exist = form.get("prevExist");
    if prev_exist.is_some_and(|v| v.eq_ignore_ascii_case("false")) {
        return Ok(Command::Create {
            path,
            value: new_value(),
            expires_ns,
            naming: Naming::Given,
        });
    }
    let has_condition = form.get("prevValue").is_some() || form.get("prevIndex").is_some();
    if has_condition {
        return compare_and_swap(ask, path, form, expires_ns);
    }
    if form.flag("prevExist") || refresh {
        if value.unwrap_or_default().is_empty() && expires_ns.is_none() {
            return Err(ask.error(Code::ValueOrTtlRequired, "Update"));
        }
        return Ok(Command::Update {
            path,
            value: value.filter(|_| !refresh).map(Into::into),
            expires_ns,
            refresh,
        });
    }
    if prev_exist.is_none() {
        return Ok(Command::Set {
            path,
            value: new_value(),
            expires_ns,
        });
    }
    // `prevExist` is neither true nor false: 0.4 takes it for a condition that always holds.
    compare_and_swap(ask, path, form, expires_ns)
}

fn check_refresh(
    ask: &Ask,
    value: Option<&str>,
    expires_ns: Option<u64>,
    refresh: bool,
) -> Result<(), Response> {
    if refresh && value.is_some_and(|v| !v.is_empty()) {
        let cause = "A value was given along with refresh";
        return Err(ask.error(Code::RefreshValue, cause));
    }
    if refresh && expires_ns.is_none() {
        return Err(ask.error(Code::RefreshTtlRequired, "No TTL value set"));
    }
    Ok(())
}

fn compare_and_swap(
    ask: &Ask,
    path: KeyPath,
    form: &Parameters,
    expires_ns: Option<u64>,
) -> Result<Command, Response> {
    let refresh = form.flag("refresh");
    let prev_value = form.get("prevValue");
    let prev_index = form.get("prevIndex");
    let condition = index_condition(ask, prev_index, "CompareAndSwap")?;
    if prev_value == Some("") {
        return Err(ask.error(Code::PrevValueRequired, "CompareAndSwap"));
    }
    // `prevIndex=0` alone is no condition: a missing key is created, as in 2.x.
    let is_unconditional = prev_index.is_some() && condition.is_none() && prev_value.is_none();
    Ok(Command::CompareAndSwap {
        path,
        value: (!refresh).then(|| form.get("value").unwrap_or_default().into()),
        expires_ns,
        prev_value: prev_value.map(Into::into),
        prev_index: condition,
        or_create: is_unconditional && !form.flag("prevExist"),
        refresh,
    })
}

/// The condition of a `prevIndex`; 0 is none.
fn index_condition(
    ask: &Ask,
    prev_index: Option<&str>,
    cause: &str,
) -> Result<Option<u64>, Response> {
    if prev_index.is_none() {
        return Ok(None);
    }
    let index = ask.index(prev_index, cause)?;
    Ok((index != 0).then_some(index))
}

/// POST: create a child named by the new index.
pub fn post(ask: &Ask) -> Handled {
    let path = ask.key()?;
    let form = ask.form()?;
    let expires_ns = ask.expires(&form, "Create")?;
    let value = form.get("value").unwrap_or_default();
    let command = Command::Create {
        path,
        value: (!form.flag("dir")).then(|| value.into()),
        expires_ns,
        naming: if ask.context.site.compat_2 {
            Naming::InOrderPadded
        } else {
            Naming::InOrder
        },
    };
    ask.to_machine(Op::Write(command), AnswerKind::Event)
}

/// DELETE: remove, or compare and remove. A body is ignored.
pub fn delete(ask: &Ask) -> Handled {
    let path = ask.key()?;
    let query = ask.query()?;
    let prev_value = query.get("prevValue");
    let prev_index = query.get("prevIndex");
    if prev_value.is_none() && prev_index.is_none() {
        let command = Command::Delete {
            path,
            dir: query.flag("dir"),
            recursive: query.flag("recursive"),
        };
        return ask.to_machine(Op::Write(command), AnswerKind::Event);
    }
    let condition = index_condition(ask, prev_index, "CompareAndDelete")?;
    if prev_value == Some("") {
        return Err(ask.error(Code::PrevValueRequired, "CompareAndDelete"));
    }
    let command = Command::CompareAndDelete {
        path,
        prev_value: prev_value.map(Into::into),
        prev_index: condition,
    };
    ask.to_machine(Op::Write(command), AnswerKind::Event)
}
