//! `/v2/keys/…`: which operation a request means.
//!
//! Parameters are checked in 0.4's order (ttl, refresh, conditions), so that a request with several
//! faults is told the same one. A ttl becomes an absolute time here and nowhere else.
use super::listing::NodeTree;
use super::render::AnswerKind;
use super::{Ask, Parameters, Routed};
use crate::codec::http::Method;
use crate::codec::http::response::JSON;
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::{Code, Error};
use crate::core::seam::Op;

/// GET and HEAD: read, or wait for a change.
pub fn get(ask: &Ask) -> Routed {
    read(ask).unwrap_or_else(|answer| answer)
}

fn read(ask: &Ask) -> Result<Routed, Routed> {
    let path = ask.key()?;
    let query = ask.query()?;
    let (quorum, on_leader) = (query.flag("quorum"), query.flag("consistent"));
    let head_only = ask.request.method == Method::Head;
    if query.flag("wait") && !quorum {
        let since = match query.get("waitIndex") {
            None | Some("") => 0,
            given => ask.index(given, "Watch From Index")?,
        };
        if head_only {
            return Ok(ask.with_indexes(200, JSON));
        }
        let op = Op::Watch {
            path,
            recursive: query.flag("recursive"),
            stream: query.flag("stream"),
            since: (since > 0).then_some(since),
            on_leader,
        };
        return Ok(ask.machine(op, AnswerKind::Watch));
    }
    let op = Op::Get {
        path,
        recursive: query.flag("recursive") && !head_only,
        linearizable: quorum || on_leader,
    };
    Ok(ask.machine(op, AnswerKind::Node(NodeTree::nodes())))
}

/// PUT: set, create, update or compare and swap.
pub fn put(ask: &Ask) -> Routed {
    let write = || -> Result<Routed, Routed> {
        let path = ask.key()?;
        let form = ask.form()?;
        let command = put_command(ask, path, &form)?;
        Ok(ask.machine(Op::Write(command), AnswerKind::Event))
    };
    write().unwrap_or_else(|answer| answer)
}

fn put_command(ask: &Ask, path: KeyPath, form: &Parameters) -> Result<Command, Routed> {
    let expires_ns = ask.expires(form, "Update")?;
    let value = form.get("value");
    let refresh = form.flag("refresh");
    if refresh && value.is_some_and(|v| !v.is_empty()) {
        let cause = "A value was given along with refresh";
        return Err(ask.fail(Error::new(Code::RefreshValue, cause)));
    }
    if refresh && expires_ns.is_none() {
        return Err(ask.fail(Error::new(Code::RefreshTtlRequired, "No TTL value set")));
    }
    let prev_exist = form.get("prevExist");
    let must_exist = prev_exist.is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let (prev_value, prev_index) = (form.get("prevValue"), form.get("prevIndex"));
    let has_condition = prev_value.is_some() || prev_index.is_some();
    // A directory has no value, whatever the request says.
    let new_value = || (!form.flag("dir")).then(|| value.unwrap_or_default().into());
    if prev_exist.is_some_and(|v| v.eq_ignore_ascii_case("false")) {
        return Ok(Command::Create {
            path,
            value: new_value(),
            expires_ns,
            naming: Naming::Given,
        });
    }
    if !has_condition && (must_exist || refresh) {
        if value.unwrap_or_default().is_empty() && expires_ns.is_none() {
            return Err(ask.fail(Error::new(Code::ValueOrTtlRequired, "Update")));
        }
        let keeps = refresh || form.flag("dir");
        return Ok(Command::Update {
            path,
            value: value.filter(|_| !keeps).map(Into::into),
            expires_ns,
            refresh,
        });
    }
    if !has_condition && prev_exist.is_none() {
        return Ok(Command::Set {
            path,
            value: new_value(),
            expires_ns,
        });
    }
    let number = match prev_index {
        None => 0,
        given => ask.index(given, "CompareAndSwap")?,
    };
    if prev_value == Some("") {
        return Err(ask.fail(Error::new(Code::PrevValueRequired, "CompareAndSwap")));
    }
    Ok(Command::CompareAndSwap {
        path,
        value: (!refresh).then(|| value.unwrap_or_default().into()),
        expires_ns,
        prev_value: prev_value.map(Into::into),
        prev_index: number,
        or_create: prev_index.is_some() && number == 0 && prev_value.is_none() && !must_exist,
        refresh,
    })
}

/// POST: create a child named by the new index.
pub fn post(ask: &Ask) -> Routed {
    let write = || -> Result<Routed, Routed> {
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
        Ok(ask.machine(Op::Write(command), AnswerKind::Event))
    };
    write().unwrap_or_else(|answer| answer)
}

/// DELETE: remove, or compare and remove; a body says nothing here.
pub fn delete(ask: &Ask) -> Routed {
    let write = || -> Result<Routed, Routed> {
        let path = ask.key()?;
        let query = ask.query()?;
        let (prev_value, prev_index) = (query.get("prevValue"), query.get("prevIndex"));
        let command = if prev_value.is_none() && prev_index.is_none() {
            Command::Delete {
                path,
                dir: query.flag("dir"),
                recursive: query.flag("recursive"),
            }
        } else {
            let number = match prev_index {
                None => 0,
                given => ask.index(given, "CompareAndDelete")?,
            };
            if prev_value == Some("") {
                let error = Error::new(Code::PrevValueRequired, "CompareAndDelete");
                return Err(ask.fail(error));
            }
            Command::CompareAndDelete {
                path,
                prev_value: prev_value.map(Into::into),
                prev_index: number,
            }
        };
        Ok(ask.machine(Op::Write(command), AnswerKind::Event))
    };
    write().unwrap_or_else(|answer| answer)
}
