//! The v1 interface: requests on `/v1/keys/…` and `/v1/watch/…`, and their flat answers.
//!
//! It differs from v2 in that a value must not be empty, that a set with `prevValue` is called
//! `testAndSet`, that an error of a watch tells only its key, and that no answer carries indexes in
//! its head.
use super::json::{self, expiry, number, raw, string};
use super::render::AnswerKind;
use super::{Ask, Routed};
use crate::codec::http::Method;
use crate::core::command::{Command, Naming};
use crate::core::error::{Code, Error};
use crate::core::seam::Op;
use crate::core::store::{Action, Event, ListItem, View};

/// GET: a file, or the children of a directory.
pub fn get(ask: &Ask) -> Routed {
    let read = || -> Result<Routed, Routed> {
        let path = ask.key()?;
        let linearizable = ask.query()?.flag("consistent");
        let op = Op::Get {
            path,
            recursive: false,
            linearizable,
        };
        Ok(ask.machine(op, AnswerKind::V1Get(V1Listing::default())))
    };
    read().unwrap_or_else(|answer| answer)
}

/// PUT and POST: set, or test and set; an empty `prevValue` means that the key must be new.
pub fn put(ask: &Ask) -> Routed {
    let write = || -> Result<Routed, Routed> {
        let path = ask.key()?;
        let form = ask.form()?;
        let Some(value) = form.get("value").filter(|v| !v.is_empty()) else {
            return Err(ask.fail(Error::new(Code::ValueRequired, "Set")));
        };
        let value = Some(value.into());
        let expires_ns = ask.expires(&form, "Set")?;
        let command = match form.get("prevValue") {
            None => Command::Set {
                path,
                value,
                expires_ns,
            },
            Some("") => Command::Create {
                path,
                value,
                expires_ns,
                naming: Naming::Given,
            },
            Some(prev_value) => Command::CompareAndSwap {
                path,
                value,
                expires_ns,
                prev_value: Some(prev_value.into()),
                prev_index: 0,
                or_create: false,
                refresh: false,
            },
        };
        Ok(ask.machine(Op::Write(command), AnswerKind::V1Event))
    };
    write().unwrap_or_else(|answer| answer)
}

/// DELETE: a file.
pub fn delete(ask: &Ask) -> Routed {
    let command = |path| Command::Delete {
        path,
        dir: false,
        recursive: false,
    };
    match ask.key() {
        Ok(path) => ask.machine(Op::Write(command(path)), AnswerKind::V1Event),
        Err(answer) => answer,
    }
}

/// GET waits for the next event at the key, POST from `index` on.
pub fn watch(ask: &Ask) -> Routed {
    let register = || -> Result<Routed, Routed> {
        let path = ask.key()?;
        let since = match ask.request.method {
            Method::Post => Some(ask.index(ask.form()?.get("index"), "Watch From Index")?),
            _ => None,
        };
        if ask.request.method == Method::Head {
            return Ok(ask.empty(200));
        }
        let key: Box<str> = path.as_str().into();
        let op = Op::Watch {
            path,
            recursive: false,
            stream: false,
            since: since.filter(|since| *since > 0),
            on_leader: false,
        };
        Ok(ask.machine(op, AnswerKind::V1Watch { key }))
    };
    register().unwrap_or_else(|answer| answer)
}

/// What a file's answer holds beside action, key and index.
#[derive(Default)]
struct Fields<'a> {
    dir: bool,
    prev_value: Option<&'a str>,
    value: Option<&'a str>,
    is_new: bool,
    expires_ns: Option<u64>,
}

fn object(action: &str, view: &View, fields: &Fields, index: u64, now_ns: u64, out: &mut Vec<u8>) {
    raw("{\"action\":\"", out);
    raw(action, out);
    raw("\",\"key\":", out);
    string(&view.key, out);
    if fields.dir {
        raw(",\"dir\":true", out);
    }
    if let Some(value) = fields.prev_value {
        raw(",\"prevValue\":", out);
        string(value, out);
    }
    if let Some(value) = fields.value {
        raw(",\"value\":", out);
        string(value, out);
    }
    if fields.is_new {
        raw(",\"newKey\":true", out);
    }
    expiry(fields.expires_ns, false, now_ns, out);
    number(",\"index\":", index, out);
    out.push(b'}');
}

/// Appends an event; one on a directory is an empty list.
pub fn event(event: &Event, index: u64, now_ns: u64, out: &mut Vec<u8>) {
    if event.node.dir {
        return raw("[]", out);
    }
    let action = match event.action {
        Action::CompareAndSwap | Action::Create => "testAndSet",
        other => json::action(other),
    };
    let prev_value = event.prev.as_ref().and_then(|prev| prev.value.as_deref());
    let fields = Fields {
        prev_value,
        value: event.node.value.as_deref(),
        is_new: event.action == Action::Set && prev_value.is_none(),
        expires_ns: event.node.expires_ns,
        dir: false,
    };
    object(action, &event.node, &fields, index, now_ns, out);
}

/// The answer to a GET, page by page: a file as an object, a directory as the list of its children.
#[derive(Debug, Default)]
pub struct V1Listing {
    /// The index that all of it tells; set with the first page of a directory.
    index: Option<u64>,
    has_children: bool,
}

impl V1Listing {
    /// Appends the next page.
    pub fn page(
        &mut self,
        items: &[ListItem],
        last: bool,
        index: u64,
        now_ns: u64,
        out: &mut Vec<u8>,
    ) {
        for item in items {
            let view = &item.view;
            if item.depth == 0 && !view.dir {
                let fields = Fields {
                    value: view.value.as_deref(),
                    expires_ns: view.expires_ns,
                    ..Fields::default()
                };
                return object("get", view, &fields, index, now_ns, out);
            }
            if item.depth == 0 {
                self.index = Some(index);
                out.push(b'[');
                continue;
            }
            raw(if self.has_children { "," } else { "" }, out);
            self.has_children = true;
            let fields = Fields {
                dir: view.dir,
                value: view.value.as_deref(),
                ..Fields::default()
            };
            let index = self.index.unwrap_or(index);
            object("get", view, &fields, index, now_ns, out);
        }
        if last {
            out.push(b']');
        }
    }
}
