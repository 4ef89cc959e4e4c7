//! The key space held as it was: what a long listing or a snapshot reads while writes go on.
//!
//! A node that was created after the freeze began is left out by its index. One that is changed in
//! place is copied first (`saved`), one that is taken out of its directory is kept with all below
//! it (`removed`): only what the reader has yet to see, and given up when it weighs too much. One
//! freeze at a time; others queue.
use super::event::Event;
use super::history::{is_below, is_within};
use super::node::{Children, Node, NodeId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

/// More than this in old forms is too much: the reader is too slow for the writers.
const BYTES_MAX: usize = 16 << 20;
/// About what an old form costs beside its value.
const FORM_BYTES: usize = 128;

/// What a node was before it was changed in place.
#[derive(Debug)]
pub struct Old {
    /// A file's value.
    pub value: Option<Box<str>>,
    pub expires_ns: u64,
    pub modified: u64,
}

/// The key space as of index `at`.
pub struct Freeze {
    /// Tells this freeze from others.
    pub token: u64,
    pub at: u64,
    /// What is being read: this path and all below it.
    scope: Box<str>,
    /// The last path that has been read; nothing at or before it is kept.
    cursor: Box<str>,
    saved: BTreeMap<NodeId, Old>,
    /// By the directory that held them.
    removed: BTreeMap<NodeId, Children>,
    /// Depths of the removed, for when they are freed at last.
    depths: Vec<(NodeId, u32)>,
    /// The events that have left the history since, if the reader wants them: from this index on.
    events: Option<(u64, VecDeque<Event>)>,
    bytes: usize,
}

impl Freeze {
    pub fn new(token: u64, at: u64, scope: &str, events_from: Option<u64>) -> Freeze {
        Freeze {
            token,
            at,
            scope: scope.into(),
            cursor: Box::default(),
            saved: BTreeMap::new(),
            removed: BTreeMap::new(),
            depths: Vec::new(),
            events: events_from.map(|from| (from, VecDeque::new())),
            bytes: 0,
        }
    }

    /// The reader has got to `path`.
    pub fn advance(&mut self, path: &str) {
        self.cursor = path.into();
    }

    /// The reader has the events before index `from`.
    pub fn advance_events(&mut self, from: u64) {
        if let Some((wanted, events)) = &mut self.events {
            *wanted = from;
            while events.front().is_some_and(|e| e.index().0 < from) {
                events.pop_front();
            }
        }
    }

    /// The events of that moment which are no longer in the history.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().flat_map(|(_, events)| events)
    }

    /// An event leaves the history.
    pub fn keep_event(&mut self, event: Event) {
        if let Some((from, events)) = &mut self.events
            && (*from..=self.at).contains(&event.index().0)
        {
            self.bytes += event.weight();
            events.push_back(event);
        }
    }

    /// A node is about to be changed in place.
    pub fn save(&mut self, id: NodeId, node: &Node, path: &str) {
        let ahead = is_within(path, &self.scope) && path_order(path, &self.cursor).is_gt();
        if node.created > self.at || !ahead || self.saved.contains_key(&id) {
            return;
        }
        let value = node.value().map(Box::from);
        self.bytes += FORM_BYTES + node.value().map_or(0, str::len);
        let old = Old {
            value,
            expires_ns: node.expires_ns,
            modified: node.modified,
        };
        self.saved.insert(id, old);
    }

    /// A node has been taken out of directory `dir`; true: it is kept here, with all below it,
    /// until the end.
    pub fn keep(&mut self, dir: NodeId, id: NodeId, node: &Node, path: &str) -> bool {
        let concerned = is_within(path, &self.scope) || is_below(&self.scope, path);
        let ahead = path_order(path, &self.cursor).is_gt() || is_within(&self.cursor, path);
        if node.created > self.at || !concerned || !ahead {
            return false;
        }
        let (name, depth) = (path.rsplit('/').next().expect("a name"), depth_of(path));
        self.bytes += FORM_BYTES + node.value().map_or(0, str::len);
        let before = self.removed.entry(dir).or_default().insert(name.into(), id);
        assert!(
            before.is_none(),
            "what follows under that name is newer than the freeze"
        );
        self.depths.push((id, depth));
        true
    }

    /// What was taken out of directory `dir` since.
    pub fn removed_from(&self, dir: NodeId) -> Option<&Children> {
        self.removed.get(&dir)
    }

    /// What a node was, if it has been changed since.
    pub fn old(&self, id: NodeId) -> Option<&Old> {
        self.saved.get(&id)
    }

    /// It holds more than it may.
    pub fn is_too_much(&self) -> bool {
        self.bytes > BYTES_MAX
    }

    /// Ends it: the kept nodes, with their depths, are to be freed.
    pub fn into_removed(self) -> Vec<(NodeId, u32)> {
        self.depths
    }
}

/// The number of names in a path.
pub fn depth_of(path: &str) -> u32 {
    if path == "/" {
        return 0;
    }
    path.bytes().filter(|b| *b == b'/').count() as u32
}

/// Compares paths name by name, so that what is below a directory follows it before its next
/// sibling does.
fn path_order(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}
