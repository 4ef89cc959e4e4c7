//! Trees from flat lists: the machine hands out nodes in path order with their depth, in pages;
//! here they become nested JSON, with the open brackets kept in a stack, so that depth costs memory
//! and never the call stack.
//!
//! Start with `NodeTree::item`. `migration` writes the other document that holds the whole key space.
use super::json::{event, node_head, node_tail, number, raw, string, time};
use super::stats;
use crate::core::seam::Migrated;
use crate::core::store::{EtcdIndex, ListItem};

/// A node whose children may still come.
#[derive(Clone, Copy, Debug)]
struct OpenNode {
    dir: bool,
    modified: EtcdIndex,
    created: EtcdIndex,
    has_children: bool,
}

/// In which of the two documents a tree stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    /// `{"action":"get","node":{…}}`
    Nodes,
    /// The migration document: `{"Root":{…}, …}`, with children by name.
    Migration,
}

/// A tree that is being written.
#[derive(Debug)]
pub struct NodeTree {
    form: Document,
    open: Vec<OpenNode>,
}

impl NodeTree {
    /// The answer to a GET.
    pub fn nodes() -> NodeTree {
        NodeTree {
            form: Document::Nodes,
            open: Vec::new(),
        }
    }

    /// The key space part of the migration document.
    pub fn migration() -> NodeTree {
        NodeTree {
            form: Document::Migration,
            open: Vec::new(),
        }
    }

    /// Appends the next node of the list.
    pub fn item(&mut self, item: &ListItem, now_ns: u64, out: &mut Vec<u8>) {
        let depth = item.depth as usize;
        assert!(
            depth <= self.open.len(),
            "a parent comes before its children"
        );
        self.close(depth, out);
        match (self.open.last_mut(), self.form) {
            (None, Document::Nodes) => raw("{\"action\":\"get\",\"node\":", out),
            (None, Document::Migration) => raw("{\"Root\":", out),
            (Some(parent), form) => {
                let first = match form {
                    Document::Nodes => ",\"nodes\":[",
                    Document::Migration => "",
                };
                raw(if parent.has_children { "," } else { first }, out);
                parent.has_children = true;
            }
        }
        let view = &item.view;
        match self.form {
            Document::Nodes => node_head(view, false, now_ns, out),
            Document::Migration => self.migration_head(item, out),
        }
        self.open.push(OpenNode {
            dir: view.dir,
            modified: view.modified,
            created: view.created,
            has_children: false,
        });
    }

    /// Appends the brackets of all that is open.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.close(0, out);
        if self.form == Document::Nodes {
            out.push(b'}');
        }
    }

    fn close(&mut self, depth: usize, out: &mut Vec<u8>) {
        for node in self.open.drain(depth..).rev() {
            match (self.form, node.dir) {
                (Document::Nodes, _) => {
                    if node.has_children {
                        out.push(b']');
                    }
                    node_tail(node.modified, node.created, out);
                }
                (Document::Migration, true) => raw("}}", out),
                (Document::Migration, false) => raw("null}", out),
            }
        }
    }

    fn migration_head(&self, item: &ListItem, out: &mut Vec<u8>) {
        let view = &item.view;
        if item.depth > 0 {
            let name = view.key.rsplit('/').next().expect("split gives one");
            string(name, out);
            out.push(b':');
        }
        raw("{\"Path\":", out);
        string(&view.key, out);
        number(",\"CreatedIndex\":", view.created.0, out);
        number(",\"ModifiedIndex\":", view.modified.0, out);
        raw(",\"ExpireTime\":\"", out);
        match view.expires_ns {
            Some(ns) => time(ns, out),
            None => raw("0001-01-01T00:00:00Z", out),
        }
        raw("\",\"ACL\":\"\",\"Value\":", out);
        string(view.value.as_deref().unwrap_or_default(), out);
        raw(",\"Children\":", out);
        if view.dir {
            out.push(b'{');
        }
    }
}

/// Appends what follows the key space in the migration document: the history as the ring that 0.4
/// keeps it in, its oldest event in front, unused places `null`.
pub fn migration_rest(rest: &Migrated, now_ns: u64, out: &mut Vec<u8>) {
    let size = rest.events.len();
    let capacity = rest.capacity.max(size).max(1);
    raw(
        ",\"WatcherHub\":{\"EventHistory\":{\"Queue\":{\"Events\":[",
        out,
    );
    for place in 0..capacity {
        raw(if place > 0 { "," } else { "" }, out);
        match rest.events.get(place) {
            Some(past) => event(past, now_ns, out),
            None => raw("null", out),
        }
    }
    number("],\"Size\":", size as u64, out);
    number(",\"Front\":0,\"Back\":", (size % capacity) as u64, out);
    number(",\"Capacity\":", capacity as u64, out);
    let index = |past: Option<&crate::core::store::Event>| past.map_or(0, |e| e.node.modified.0);
    number("},\"StartIndex\":", index(rest.events.first()), out);
    number(",\"LastIndex\":", index(rest.events.last()), out);
    number("}},\"CurrentIndex\":", rest.etcd.0, out);
    raw(",\"Stats\":", out);
    stats::store(&rest.stats, out);
    raw(",\"CurrentVersion\":2}", out);
}
