//! The key space as it was at one moment: what a long listing or a snapshot reads while commands
//! are applied.
//!
//! A freeze copies nothing when it begins. From then on:
//! - A node that was created later is left out by its `created` index.
//! - A node that is changed in place is copied first (`saved`).
//! - A node that is taken out of its directory is kept, with its descendants (`removed`).
//!
//! Only what the reader has yet to read is kept, and the freeze is given up when that weighs too
//! much. There is one freeze at a time; other readers queue. Start with `Freezer` and
//! `Freeze::save`.
use super::event::{Event, ValueRef};
use super::node::{Children, Node, NodeId};
use super::path::{depth_of, is_below, is_within, name_of, traversal_order};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A freeze that keeps more bytes than this is given up: its reader is too slow for the writers.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// An estimate of what a kept node takes beside its value.
const KEPT_NODE_BYTES: usize = 128;

/// Names a freeze, so that a reader notices when its own has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreezeToken(u64);

/// The place of a listing in the queue for the next freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace(u64);

/// The freeze, if there is one, and the readers that wait for the next.
#[derive(Default)]
pub struct Freezer {
    freeze: Option<Freeze>,
    /// The last number given to a token or a place in the queue; only rises.
    last_number: u64,
    /// Listings in order of arrival; bounded by the number of connections.
    waiting: VecDeque<QueuePlace>,
    /// A snapshot comes next, before all listings.
    snapshot_waits: bool,
}

impl Freezer {
    /// A token for a freeze that is about to begin.
    pub fn new_token(&mut self) -> FreezeToken {
        self.last_number += 1;
        FreezeToken(self.last_number)
    }

    /// Whether a listing that does not queue may freeze now.
    pub fn is_free(&self) -> bool {
        self.waiting.is_empty() && self.is_free_for_listings()
    }

    /// Whether a listing that queues may freeze now.
    pub fn is_next(&self, place: QueuePlace) -> bool {
        self.waiting.front() == Some(&place) && self.is_free_for_listings()
    }

    fn is_free_for_listings(&self) -> bool {
        self.freeze.is_none() && !self.snapshot_waits
    }

    /// Puts a listing at the end of the queue.
    pub fn queue(&mut self) -> QueuePlace {
        self.last_number += 1;
        let place = QueuePlace(self.last_number);
        self.waiting.push_back(place);
        place
    }

    /// Takes a listing out of the queue.
    pub fn leave_queue(&mut self, place: QueuePlace) {
        self.waiting.retain(|waiting| *waiting != place);
    }

    /// Whether a snapshot comes next.
    pub fn set_snapshot_waits(&mut self, waits: bool) {
        self.snapshot_waits = waits;
    }

    /// Begins a freeze.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn begin(&mut self, freeze: Freeze) {
        assert!(self.freeze.is_none(), "one freeze at a time");
        self.freeze = Some(freeze);
    }

    /// The freeze, whatever its token.
    pub fn current(&self) -> Option<&Freeze> {
        self.freeze.as_ref()
    }

    /// The freeze, whatever its token, to keep in it what is about to change.
    pub fn current_mut(&mut self) -> Option<&mut Freeze> {
        self.freeze.as_mut()
    }

    /// The freeze of this token; `None` once it has ended.
    pub fn get(&self, token: FreezeToken) -> Option<&Freeze> {
        self.freeze.as_ref().filter(|freeze| freeze.token == token)
    }

    /// The freeze of this token, for its reader; `None` once it has ended.
    pub fn get_mut(&mut self, token: FreezeToken) -> Option<&mut Freeze> {
        self.freeze.as_mut().filter(|freeze| freeze.token == token)
    }

    /// Ends the freeze, if there is one. The kept nodes, with their depths, are to be freed.
    pub fn end(&mut self) -> Vec<(NodeId, u32)> {
        match self.freeze.take() {
            Some(freeze) => freeze.removed_nodes,
            None => Vec::new(),
        }
    }
}

/// The content of a node before it was changed in place.
#[derive(Debug)]
pub struct SavedNode {
    value: Option<Arc<str>>,
    expires_ns: Option<u64>,
    modified: u64,
}

impl SavedNode {
    /// A file's value.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        self.value.as_ref().map(ValueRef::Shared)
    }

    /// When it expired, in nanoseconds since the Unix epoch.
    pub fn expires_ns(&self) -> Option<u64> {
        self.expires_ns
    }

    /// The etcd index of the last change before.
    pub fn modified(&self) -> u64 {
        self.modified
    }
}

/// The events that have left the history during a freeze and that its reader has yet to read.
struct EvictedEvents {
    /// The next index to read.
    next: u64,
    /// Oldest first, all at or after `next`.
    events: VecDeque<Event>,
}

/// The key space as of one etcd index.
pub struct Freeze {
    token: FreezeToken,
    /// The etcd index of the moment.
    at: u64,
    /// The reader reads this path and its descendants.
    scope: Box<str>,
    /// The last path that was read. No node at or before it, in traversal order, is kept any more;
    /// empty before the first.
    cursor: Box<str>,
    /// The nodes that were changed in place since, as they were.
    saved: BTreeMap<NodeId, SavedNode>,
    /// The nodes that were taken out of a directory since, by that directory.
    removed: BTreeMap<NodeId, Children>,
    /// The same nodes with their depths, to be freed in the end.
    removed_nodes: Vec<(NodeId, u32)>,
    /// `None` if the reader wants no events or has read them all.
    evicted: Option<EvictedEvents>,
    /// An estimate of the memory of `saved`, `removed` and `evicted`; only rises.
    bytes: usize,
}

impl Freeze {
    /// The key space as of the etcd index `at`, for a reader of `scope` and its descendants. With
    /// `events_from` it also reads the history from that index on.
    pub fn new(token: FreezeToken, at: u64, scope: &str, events_from: Option<u64>) -> Freeze {
        Freeze {
            token,
            at,
            scope: scope.into(),
            cursor: Box::default(),
            saved: BTreeMap::new(),
            removed: BTreeMap::new(),
            removed_nodes: Vec::new(),
            evicted: events_from.map(|next| EvictedEvents {
                next,
                events: VecDeque::new(),
            }),
            bytes: 0,
        }
    }

    /// The etcd index of the moment.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether a node existed at the moment.
    pub fn includes(&self, node: &Node) -> bool {
        node.created() <= self.at
    }

    /// The reader has read the nodes up to `path`.
    pub fn advance(&mut self, path: &str) {
        self.cursor = path.into();
    }

    /// The reader has read the events before the index `next`.
    pub fn advance_events(&mut self, next: u64) {
        let Some(evicted) = &mut self.evicted else {
            return;
        };
        evicted.next = next;
        while evicted.events.front().is_some_and(|e| e.index().0 < next) {
            evicted.events.pop_front();
        }
    }

    /// The reader has read all events.
    pub fn end_events(&mut self) {
        self.evicted = None;
    }

    /// The events that the reader has yet to read and that the history no longer holds.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.evicted.iter().flat_map(|evicted| &evicted.events)
    }

    /// Keeps an event that leaves the history, if the reader has yet to read it.
    pub fn keep_event(&mut self, event: Event) {
        let index = event.index().0;
        if let Some(evicted) = &mut self.evicted
            && (evicted.next..=self.at).contains(&index)
        {
            self.bytes += event.weight();
            evicted.events.push_back(event);
        }
    }

    /// Saves a node that is about to be changed in place, if the reader has yet to read it.
    pub fn save(&mut self, id: NodeId, node: &Node, path: &str) {
        let is_unread = is_within(path, &self.scope) && traversal_order(path, &self.cursor).is_gt();
        if !self.includes(node) || !is_unread || self.saved.contains_key(&id) {
            return;
        }
        self.bytes += kept_bytes(node);
        let saved = SavedNode {
            value: node.value().map(ValueRef::to_shared),
            expires_ns: node.expires_ns(),
            modified: node.modified(),
        };
        self.saved.insert(id, saved);
    }

    /// Keeps a node that was taken out of the directory `dir`, with its descendants, if the reader
    /// has yet to read any of them. Returns whether it is kept; then it is freed after the freeze.
    pub fn keep(&mut self, dir: NodeId, id: NodeId, node: &Node, path: &str) -> bool {
        let is_in_scope = is_within(path, &self.scope) || is_below(&self.scope, path);
        let is_unread =
            traversal_order(path, &self.cursor).is_gt() || is_within(&self.cursor, path);
        if !self.includes(node) || !is_in_scope || !is_unread {
            return false;
        }
        self.bytes += kept_bytes(node);
        let siblings = self.removed.entry(dir).or_default();
        let before = siblings.insert(name_of(path).into(), id);
        assert!(
            before.is_none(),
            "later nodes of this name are newer than the freeze"
        );
        self.removed_nodes.push((id, depth_of(path)));
        true
    }

    /// The nodes that were taken out of the directory `dir` since.
    pub fn removed_from(&self, dir: NodeId) -> Option<&Children> {
        self.removed.get(&dir)
    }

    /// The content of a node at the moment, if it was changed in place since.
    pub fn saved(&self, id: NodeId) -> Option<&SavedNode> {
        self.saved.get(&id)
    }

    /// Whether it keeps more than it may.
    pub fn is_too_large(&self) -> bool {
        self.bytes > KEPT_BYTES_MAX
    }
}

fn kept_bytes(node: &Node) -> usize {
    KEPT_NODE_BYTES + node.value().map_or(0, |value| value.len())
}
