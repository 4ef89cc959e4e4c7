//! The key space as of earlier moments, for listings and snapshots that read while commands are
//! applied.
//!
//! A freeze is the right to read one moment. It copies nothing when it begins. From then on:
//! - A node that was created later is left out by its `created` index.
//! - A node that is changed in place is copied first (`save`).
//! - A node that is taken out of its directory is kept, with its descendants (`keep`).
//!
//! A copy says until which etcd index it was the present state, so one copy serves all freezes from
//! before. Therefore freezes are not limited in number, and none waits for another. What all of
//! them together keep is limited in bytes: beyond that, listings are given up, the oldest first.
//! Start with `Freezer` and `Freezer::save`.
use super::event::{Event, ValueRef};
use super::node::Node;
use super::node_id::NodeId;
use super::path::{depth_of, is_below, is_within, name_of, traversal_order};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// The bound of all copies, in bytes, until the owner sets another.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// An estimate of what a kept node takes beside its value.
const KEPT_NODE_BYTES: usize = 192;
/// With more freezes than this, a change is kept without asking whether one of them has yet to read
/// the node. Bounds the cost of a write.
const FREEZES_ASKED_MAX: usize = 16;
/// Most copies that are dropped at once: well below a millisecond.
const DROPPED_MAX: usize = 1000;

/// Names a freeze, so that a reader notices when its own has ended. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FreezeToken(u64);

/// All freezes, and the copies that are kept for them.
pub struct Freezer {
    /// While more bytes than this are kept, the oldest listing is given up: its reader is too slow
    /// for the writers. A snapshot is given up once it alone needs more.
    kept_bytes_max: usize,
    /// The freezes, oldest first: a later one has no smaller index.
    freezes: BTreeMap<FreezeToken, Freeze>,
    /// The number of the last token; only rises.
    last_number: u64,
    /// The freeze of the snapshot that is being written.
    snapshot: Option<FreezeToken>,
    /// The contents of nodes before they were changed in place, oldest first.
    saved: BTreeMap<NodeId, VecDeque<SavedNode>>,
    /// The nodes that were taken out of a directory, by directory and name, oldest first.
    removed: BTreeMap<NodeId, BTreeMap<Box<str>, VecDeque<RemovedNode>>>,
    /// One record for each entry of `saved` and `removed`, in the order in which they are dropped:
    /// `until` ascends.
    kept: VecDeque<Kept>,
    /// The sum of `Kept::bytes`.
    kept_bytes: usize,
    /// How many bytes were kept since the snapshot began because it has yet to read them.
    snapshot_bytes: usize,
    /// The freezes whose readers have yet to read events: the snapshot and whole listings. An event
    /// that leaves the history is judged by the newest of them alone.
    event_readers: BTreeMap<FreezeToken, EventReader>,
    /// The events that have left the history and that a freeze may have yet to read, oldest first.
    evicted: VecDeque<Event>,
    /// The sum of the weights of `evicted`.
    evicted_bytes: usize,
    /// Nodes that no freeze needs any more, with their depths. `take_dropped` hands them out.
    dropped: Vec<(NodeId, u32)>,
}

/// The moment of one reader.
struct Freeze {
    /// The etcd index of the moment.
    at: u64,
    /// The reader reads this path and its descendants.
    scope: Box<str>,
    /// The last path that was read; empty before the first.
    cursor: Box<str>,
}

/// The events that a freeze has yet to read.
struct EventReader {
    /// The etcd index of the freeze: the last event to read.
    at: u64,
    /// The etcd index from which on no event was read.
    next: u64,
}

/// The content of a node before it was changed in place.
#[derive(Debug)]
pub struct SavedNode {
    value: Option<Arc<str>>,
    expires_ns: Option<u64>,
    modified: u64,
    /// The etcd index of the change.
    until: u64,
}

/// A node that was taken out of its directory.
struct RemovedNode {
    id: NodeId,
    created: u64,
    /// The etcd index of the removal.
    until: u64,
}

/// The order in which copies are dropped.
struct Kept {
    /// The freezes at or after this etcd index do not need it.
    until: u64,
    bytes: usize,
    place: KeptPlace,
}

/// Where a copy is.
enum KeptPlace {
    /// The first one of this node in `Freezer::saved`.
    Saved(NodeId),
    /// The first one of this name in `Freezer::removed`.
    Removed {
        dir: NodeId,
        name: Box<str>,
        depth: u32,
    },
}

/// The key space as one freeze reads it.
#[derive(Clone, Copy)]
pub struct FrozenMoment<'a> {
    freezer: &'a Freezer,
    at: u64,
    /// The etcd index from which on its reader has read no event.
    next_event: u64,
}

impl SavedNode {
    /// A file's value.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        self.value.as_ref().map(ValueRef::Shared)
    }

    /// When it expired, in nanoseconds of the cluster clock.
    pub fn expires_ns(&self) -> Option<u64> {
        self.expires_ns
    }

    /// The etcd index of the last change before.
    pub fn modified(&self) -> u64 {
        self.modified
    }
}

impl Freeze {
    /// Whether it has yet to read the node at `path`.
    fn reads(&self, path: &str) -> bool {
        is_within(path, &self.scope) && traversal_order(path, &self.cursor).is_gt()
    }

    /// Whether it has yet to read the node at `path` or a descendant of it.
    fn reads_within(&self, path: &str) -> bool {
        let is_in_scope = is_within(path, &self.scope) || is_below(&self.scope, path);
        let is_unread =
            traversal_order(path, &self.cursor).is_gt() || is_within(&self.cursor, path);
        is_in_scope && is_unread
    }
}

impl<'a> FrozenMoment<'a> {
    /// The etcd index of the moment.
    pub fn at(self) -> u64 {
        self.at
    }

    /// Whether a node existed at the moment.
    pub fn includes(self, node: &Node) -> bool {
        node.created() <= self.at
    }

    /// The content of a node at the moment, if it was changed in place since.
    pub fn saved(self, id: NodeId) -> Option<&'a SavedNode> {
        let copies = self.freezer.saved.get(&id)?;
        copies.iter().find(|copy| copy.until > self.at)
    }

    /// The nodes after the name `after` that were taken out of the directory `dir` since, in order.
    pub fn removed_after(
        self,
        dir: NodeId,
        after: &'a str,
    ) -> impl Iterator<Item = (&'a str, NodeId)> {
        let range = (Excluded(after), Unbounded);
        let names = self.freezer.removed.get(&dir).into_iter();
        let names = names.flat_map(move |names| names.range::<str, _>(range));
        names.filter_map(move |(name, nodes)| {
            let mut nodes = nodes.iter();
            let node = nodes.find(|node| node.created <= self.at && self.at < node.until)?;
            Some((&**name, node.id))
        })
    }

    /// The events up to the moment that have left the history since, oldest first, from `next` on. Those
    /// that left it before the moment may be kept for another reader, and are none of this one's.
    pub fn evicted_events(self, next: u64) -> impl Iterator<Item = &'a Event> {
        let next = next.max(self.next_event);
        let skip = self
            .freezer
            .evicted
            .partition_point(|event| event.index().0 < next);
        let events = self.freezer.evicted.range(skip..);
        events.take_while(move |event| event.index().0 <= self.at)
    }
}

/// No freeze yet.
impl Default for Freezer {
    fn default() -> Freezer {
        Freezer {
            kept_bytes_max: KEPT_BYTES_MAX,
            freezes: BTreeMap::new(),
            last_number: 0,
            snapshot: None,
            saved: BTreeMap::new(),
            removed: BTreeMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            snapshot_bytes: 0,
            event_readers: BTreeMap::new(),
            evicted: VecDeque::new(),
            evicted_bytes: 0,
            dropped: Vec::new(),
        }
    }
}

/// Freezes.
impl Freezer {
    /// No more than `bytes` are kept from now on.
    pub fn bound(&mut self, bytes: usize) {
        self.kept_bytes_max = bytes;
    }

    /// Begins a freeze at the present etcd index `at`, for a reader of `scope` and its descendants
    /// that has read the nodes up to `cursor`. With `next_event` it also reads the history from
    /// that index on.
    pub fn begin(
        &mut self,
        at: u64,
        scope: &str,
        cursor: &str,
        next_event: Option<u64>,
    ) -> FreezeToken {
        self.last_number += 1;
        let token = FreezeToken(self.last_number);
        let freeze = Freeze {
            at,
            scope: scope.into(),
            cursor: cursor.into(),
        };
        self.freezes.insert(token, freeze);
        if let Some(next) = next_event {
            self.event_readers.insert(token, EventReader { at, next });
        }
        token
    }

    /// Begins the freeze of a snapshot.
    pub fn begin_snapshot(&mut self, at: u64, next_event: u64) -> FreezeToken {
        let token = self.begin(at, "/", "", Some(next_event));
        self.snapshot = Some(token);
        self.snapshot_bytes = 0;
        token
    }

    /// The bytes that `kept_bytes_max` bounds: the events, and the larger of the copies kept now and
    /// the copies made for the snapshot since it began.
    pub fn bytes(&self) -> u64 {
        (self.kept_bytes.max(self.snapshot_bytes) + self.evicted_bytes) as u64
    }

    /// Whether there is no freeze.
    pub fn is_idle(&self) -> bool {
        self.freezes.is_empty()
    }

    /// Whether there is no freeze, and nothing left to drop.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.kept.is_empty() && self.dropped.is_empty()
    }

    /// The moment of this freeze; `None` once it has ended.
    pub fn get(&self, token: FreezeToken) -> Option<FrozenMoment<'_>> {
        let freeze = self.freezes.get(&token)?;
        let reader = self.event_readers.get(&token);
        Some(FrozenMoment {
            freezer: self,
            at: freeze.at,
            next_event: reader.map_or(u64::MAX, |reader| reader.next),
        })
    }

    /// The reader has read the nodes up to `path`.
    pub fn advance(&mut self, token: FreezeToken, path: &str) {
        if let Some(freeze) = self.freezes.get_mut(&token) {
            freeze.cursor = path.into();
        }
    }

    /// The reader has read the events before the index `next`; `None`: all of them.
    pub fn advance_events(&mut self, token: FreezeToken, next: Option<u64>) {
        let Some(reader) = self.event_readers.get_mut(&token) else {
            return;
        };
        match next {
            Some(next) => reader.next = next,
            None => _ = self.event_readers.remove(&token),
        }
        self.drop_events();
    }

    /// Ends a freeze; nothing to do if it has ended. Copies that it alone needed are dropped by and
    /// by.
    pub fn end(&mut self, token: FreezeToken) {
        self.snapshot.take_if(|snapshot| *snapshot == token);
        self.freezes.remove(&token);
        if self.event_readers.remove(&token).is_some() {
            self.drop_events();
        }
    }
}

/// Copies.
impl Freezer {
    /// Keeps an event that leaves the history, if it is of the moment of a freeze whose reader has
    /// yet to read events. The newest of these freezes has the latest moment.
    pub fn keep_event(&mut self, event: Event) {
        let newest = self.event_readers.last_key_value();
        if newest.is_some_and(|(_, newest)| event.index().0 <= newest.at) {
            self.evicted_bytes += event.weight();
            self.evicted.push_back(event);
        }
    }

    /// Saves a node before the change in place of the etcd index `until`, if a freeze has yet to
    /// read it.
    pub fn save(&mut self, id: NodeId, node: &Node, path: &str, until: u64) {
        let copies = self.saved.get(&id);
        let last = copies.and_then(|copies| copies.back());
        let since = last.map_or(0, |copy| copy.until).max(node.created());
        let bytes = kept_bytes(node);
        if !self.is_needed(since, bytes, |freeze| freeze.reads(path)) {
            return;
        }
        let copy = SavedNode {
            value: node.value().map(ValueRef::to_shared),
            expires_ns: node.expires_ns(),
            modified: node.modified(),
            until,
        };
        self.saved.entry(id).or_default().push_back(copy);
        self.record(Kept {
            until,
            bytes,
            place: KeptPlace::Saved(id),
        });
    }

    /// Keeps a node that the change of the etcd index `until` takes out of the directory `dir`,
    /// with its descendants, if a freeze has yet to read any of them. Returns whether it is kept.
    /// Then `take_dropped` returns it later.
    pub fn keep(&mut self, dir: NodeId, id: NodeId, node: &Node, path: &str, until: u64) -> bool {
        let created = node.created();
        let bytes = kept_bytes(node);
        if !self.is_needed(created, bytes, |freeze| freeze.reads_within(path)) {
            return false;
        }
        let name: Box<str> = name_of(path).into();
        let names = self.removed.entry(dir).or_default();
        names
            .entry(name.clone())
            .or_default()
            .push_back(RemovedNode { id, created, until });
        self.record(Kept {
            until,
            bytes,
            place: KeptPlace::Removed {
                dir,
                name,
                depth: depth_of(path),
            },
        });
        true
    }

    /// Whether a freeze needs a state that began at the etcd index `since`, has `bytes` bytes and
    /// is `unread`. The bytes count for the snapshot if it does.
    fn is_needed(&mut self, since: u64, bytes: usize, unread: impl Fn(&Freeze) -> bool) -> bool {
        let needs = |freeze: &Freeze| freeze.at >= since && unread(freeze);
        let snapshot = self.snapshot.and_then(|token| self.freezes.get(&token));
        if snapshot.is_some_and(needs) {
            self.snapshot_bytes += bytes;
            return true;
        }
        let newest = self.freezes.last_key_value();
        if newest.is_none_or(|(_, newest)| newest.at < since) {
            return false;
        }
        self.freezes.len() > FREEZES_ASKED_MAX || self.freezes.values().any(needs)
    }

    fn record(&mut self, kept: Kept) {
        let last = self.kept.back();
        assert!(
            last.is_none_or(|last| last.until <= kept.until),
            "the etcd index rises"
        );
        self.kept_bytes += kept.bytes;
        self.kept.push_back(kept);
    }

    /// Ends each change: drops some copies that no freeze needs any more, and gives up a freeze if
    /// too much is kept.
    pub fn trim(&mut self) {
        if self.kept_bytes + self.evicted_bytes > self.kept_bytes_max && !self.has_garbage() {
            self.give_up_one();
        }
        self.drop_some();
    }

    /// Gives up the oldest listing. Gives up the snapshot if the copies are for it.
    fn give_up_one(&mut self) {
        let mut tokens = self.freezes.keys().copied();
        if let Some(oldest) = tokens.find(|token| Some(*token) != self.snapshot) {
            return self.end(oldest);
        }
        if let Some(snapshot) = self.snapshot
            && self.snapshot_bytes + self.evicted_bytes > self.kept_bytes_max
        {
            self.end(snapshot);
        }
    }

    /// Whether there is a copy that no freeze needs.
    pub fn has_garbage(&self) -> bool {
        let Some(first) = self.kept.front() else {
            return !self.dropped.is_empty();
        };
        let oldest = self.freezes.first_key_value();
        oldest.is_none_or(|(_, freeze)| freeze.at >= first.until) || !self.dropped.is_empty()
    }

    /// Drops at most `DROPPED_MAX` copies that no freeze needs.
    pub fn drop_some(&mut self) {
        let oldest = self.freezes.first_key_value();
        let oldest_at = oldest.map(|(_, freeze)| freeze.at);
        for _ in 0..DROPPED_MAX {
            let Some(kept) = self.kept.front() else {
                return;
            };
            if oldest_at.is_some_and(|at| at < kept.until) {
                return;
            }
            let kept = self.kept.pop_front().expect("looked at above");
            self.kept_bytes -= kept.bytes;
            self.drop_copy(kept.place);
        }
    }

    fn drop_copy(&mut self, place: KeptPlace) {
        match place {
            KeptPlace::Saved(id) => {
                let copies = self.saved.get_mut(&id).expect("recorded in `kept`");
                copies.pop_front();
                if copies.is_empty() {
                    self.saved.remove(&id);
                }
            }
            KeptPlace::Removed { dir, name, depth } => {
                let names = self.removed.get_mut(&dir).expect("recorded in `kept`");
                let nodes = names.get_mut(&*name).expect("recorded in `kept`");
                let node = nodes.pop_front().expect("recorded in `kept`");
                if nodes.is_empty() {
                    names.remove(&*name);
                }
                if names.is_empty() {
                    self.removed.remove(&dir);
                }
                self.dropped.push((node.id, depth));
            }
        }
    }

    /// Drops the evicted events that no freeze has yet to read.
    fn drop_events(&mut self) {
        let next = self.event_readers.values().map(|reader| reader.next).min();
        while let Some(event) = self.evicted.front()
            && next.is_none_or(|next| event.index().0 < next)
        {
            self.evicted_bytes -= event.weight();
            self.evicted.pop_front();
        }
    }

    /// The kept nodes that no freeze needs any more, with their depths. The caller frees them.
    pub fn take_dropped(&mut self) -> Vec<(NodeId, u32)> {
        std::mem::take(&mut self.dropped)
    }
}

fn kept_bytes(node: &Node) -> usize {
    KEPT_NODE_BYTES + node.value().map_or(0, |value| value.len())
}
