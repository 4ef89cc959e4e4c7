//! The flat answers of the v1 interface: `{"action":…,"key":…,"value":…,"index":…}`.
//!
//! Their heads have no index headers. A set with `prevValue` is called `testAndSet`.
use super::json::{self, Ttl, expiry, number, raw, string};
use crate::core::store::{Action, Event, ListItem, View};

/// The fields of an answer beside action, key and index.
#[derive(Default)]
struct Fields<'a> {
    dir: bool,
    prev_value: Option<&'a str>,
    value: Option<&'a str>,
    is_new: bool,
    expires_ns: Option<u64>,
}

fn object(action: &str, view: &View, fields: &Fields, index: u64, ttl: Ttl, out: &mut Vec<u8>) {
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
    expiry(fields.expires_ns, ttl, out);
    number(",\"index\":", index, out);
    out.push(b'}');
}

/// Appends an event. An event on a directory is written as an empty list.
pub fn event(event: &Event, index: u64, out: &mut Vec<u8>) {
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
    let ttl = Ttl::Given(event.ttl_s);
    object(action, &event.node, &fields, index, ttl, out);
}

/// The answer to a GET, page by page: a file as an object, a directory as the list of its children.
#[derive(Debug, Default)]
pub struct V1Listing {
    /// The field `index` of all children: the etcd index of the first page. `None` before that
    /// page.
    index: Option<u64>,
    /// Whether a child was written.
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
        let ttl = Ttl::LeftAt(now_ns);
        for item in items {
            let view = &item.view;
            if item.depth == 0 && !view.dir {
                let fields = Fields {
                    value: view.value.as_deref(),
                    expires_ns: view.expires_ns,
                    ..Fields::default()
                };
                return object("get", view, &fields, index, ttl, out);
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
            object("get", view, &fields, index, ttl, out);
        }
        if last {
            out.push(b']');
        }
    }
}
