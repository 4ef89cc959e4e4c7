//! Writes flat listings as nested JSON. The machine lists nodes in path order with their depth, in
//! pages. The nodes whose brackets are open are kept in a vector: nothing recurses, so a deep tree
//! cannot overflow the call stack.
//!
//! Start reading at `NodeTree::item`. `migration_rest` writes the end of the migration document.
use super::json::{Ttl, event, node_head, node_tail, number, raw, string, time};
use super::stats;
use crate::codec::api::Context;
use crate::core::seam::Migrated;
use crate::core::store::{EtcdIndex, ListItem};

/// A node that was written except for its end: more children may follow.
#[derive(Clone, Copy, Debug)]
struct OpenNode {
    dir: bool,
    modified: EtcdIndex,
    created: EtcdIndex,
    has_children: bool,
}

/// The document that a tree is part of.
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
    document: Document,
    /// The root has no key, as in etcd 2.x.
    is_root_nameless: bool,
    /// The open nodes above `innermost`, the root first. Empty for a file, so that its answer needs
    /// no allocation.
    ancestors: Vec<OpenNode>,
    /// The open node that was written last.
    innermost: Option<OpenNode>,
}

impl NodeTree {
    /// The answer to a GET.
    pub fn nodes(context: &Context) -> NodeTree {
        NodeTree {
            is_root_nameless: context.settings.compat_2,
            ..NodeTree::new(Document::Nodes)
        }
    }

    /// The key space part of the migration document.
    pub fn migration() -> NodeTree {
        NodeTree::new(Document::Migration)
    }

    fn new(document: Document) -> NodeTree {
        NodeTree {
            document,
            is_root_nameless: false,
            ancestors: Vec::new(),
            innermost: None,
        }
    }

    /// How many nodes are open.
    fn depth(&self) -> usize {
        self.ancestors.len() + usize::from(self.innermost.is_some())
    }

    /// Appends the next node of the list.
    ///
    /// # Panics
    ///
    /// If the node's parent is not open: the list is in path order.
    pub fn item(&mut self, item: &ListItem, now_ns: u64, out: &mut Vec<u8>) {
        let depth = item.depth as usize;
        assert!(depth <= self.depth(), "a parent comes before its children");
        self.close(depth, out);
        match (&mut self.innermost, self.document) {
            (None, Document::Nodes) => raw("{\"action\":\"get\",\"node\":", out),
            (None, Document::Migration) => raw("{\"Root\":", out),
            (Some(parent), document) => {
                let first = match document {
                    Document::Nodes => ",\"nodes\":[",
                    Document::Migration => "",
                };
                raw(if parent.has_children { "," } else { first }, out);
                parent.has_children = true;
            }
        }
        let view = &item.view;
        match self.document {
            Document::Nodes if self.is_root_nameless && &*view.key == "/" => {
                raw("{\"dir\":true", out);
            }
            Document::Nodes => node_head(view.borrowed(), Ttl::LeftAt(now_ns), out),
            Document::Migration => migration_head(item, out),
        }
        let node = OpenNode {
            dir: view.dir,
            modified: view.modified,
            created: view.created,
            has_children: false,
        };
        if let Some(parent) = self.innermost.replace(node) {
            self.ancestors.push(parent);
        }
    }

    /// Appends the brackets of all open nodes.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.close(0, out);
        if self.document == Document::Nodes {
            out.push(b'}');
        }
    }

    /// Closes the innermost nodes until `depth` are open.
    fn close(&mut self, depth: usize, out: &mut Vec<u8>) {
        while self.depth() > depth {
            let parent = self.ancestors.pop();
            let node = std::mem::replace(&mut self.innermost, parent);
            let node = node.expect("a node is open");
            match (self.document, node.dir) {
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
}

fn migration_head(item: &ListItem, out: &mut Vec<u8>) {
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

/// Appends the rest of the migration document after the key space: the history as the ring of 0.4,
/// the oldest event in front, unused places `null`. The document stays open for a checksum.
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
    raw(",\"CurrentVersion\":2", out);
}
