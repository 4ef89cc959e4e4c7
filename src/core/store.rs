//! The key space: a tree of nodes, the history of its changes, and its watchers.
//!
//! It changes only by applying commands or by restoring a snapshot. It is deterministic: it reads
//! no clock, and ttls and the present time are part of the commands. Nothing recurses over
//! the tree, and everything that may take long is done in portions: listings by `page`, snapshots
//! by `snapshot_chunk`, expiration by `expire`, freeing of removed directories by `free_some`.
//!
//! - `node` is the tree, `node_id`, `children` and `child` its parts, `path` relates paths;
//!   `ttl` is the index of expirations.
//! - `write`, `expire` and `cluster_view` are the commands, made from the changes of `edit`;
//!   `growth` tells beforehand how many bytes a command adds.
//! - `history` and `watch` say which watchers an event reaches.
//! - `freeze`, `walk`, `listing`, `snapshot` read a key space that changes meanwhile; `restore`
//!   builds a key space from a snapshot; `reclaim` frees removed directories,
//!   `discard` a whole key space.
//!
//! Start with `Store::apply`.
use crate::core::cluster_time::ClusterTime;
use crate::core::command::{Command, KeyPath};
use crate::core::error::{Code, Error};

mod child;
mod children;
mod cluster_view;
mod discard;
mod edit;
mod event;
mod expire;
mod freeze;
mod growth;
mod history;
mod listing;
mod node;
mod node_id;
mod path;
mod reclaim;
mod restore;
mod snapshot;
mod stats;
mod ttl;
mod walk;
mod watch;
mod write;

pub use discard::Discarded;
pub use event::{Action, EtcdIndex, Event, ListItem, ValueRef, View, ViewRef};
use freeze::Freezer;
pub use growth::growth_max;
use history::History;
pub use history::HistoryLimits;
pub use listing::{Listing, Page};
use node::{KeyTree, Lookup};
pub use path::{depth_of, is_within};
use reclaim::Reclaim;
pub use restore::{BadSnapshot, Restore};
use snapshot::SnapshotWriter;
pub use snapshot::{PlainNode, SnapshotStep};
use stats::Operation;
pub use stats::Stats;
use ttl::Ttl;
pub use watch::WatcherId;
use watch::{Watcher, Watchers};

/// Most events of the history in one reply to a stream.
const BACKLOG_EVENTS_MAX: usize = 64;
/// Most bytes of these events, by `Event::weight`, unless the first one alone exceeds it.
const BACKLOG_BYTES_MAX: usize = 256 << 10;

/// An event and the watchers that receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The event.
    pub event: Event,
    /// The watchers that it reaches, in ascending order, never none; each with whether it ends with
    /// the event and is removed: it is no stream.
    pub watchers: Vec<(WatcherId, bool)>,
}

/// The reply to a watcher that registers, or to a stream that asks for more of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchReply {
    /// Nothing yet. It is registered, and later notifications name it.
    Waiting,
    /// Events of the history, never none. A long poll is given one and is not registered. A stream
    /// asks again with `backlog` once it has sent them, until it is `Waiting`; no notification
    /// names it before.
    Backlog(Vec<Event>),
    /// The next events of this stream have left the history before it asked. It is not registered
    /// any more: end it.
    Cleared,
}

/// The key space.
pub struct Store {
    /// The etcd index; rises by one with each change.
    index: u64,
    /// All nodes, including removed ones that are not freed yet.
    tree: KeyTree,
    /// The time by the stamps of the applied commands.
    time: ClusterTime,
    /// The nodes that expire. It may hold descendants of removed directories.
    ttl: Ttl,
    /// The last events; none is newer than `index`.
    history: History,
    watchers: Watchers,
    /// Events of the changes since the last `take_notifications`, with the watchers that they
    /// reach; oldest first.
    notifications: Vec<Notification>,
    stats: Stats,
    /// Removed nodes that are still to be freed.
    reclaim: Reclaim,
    /// The moments that listings and the snapshot read.
    freezer: Freezer,
    /// The snapshot that is being written. Its freeze may have been given up.
    snapshot: Option<SnapshotWriter>,
    /// The bytes of all nodes that were listed; wraps.
    listed_bytes: u64,
    /// A text that the replica keeps with the key space; no client sees it.
    note: Box<str>,
}

impl Store {
    /// An empty key space at etcd index 0.
    pub fn new(limits: HistoryLimits) -> Store {
        Store {
            index: 0,
            tree: KeyTree::new(),
            time: ClusterTime::default(),
            ttl: Ttl::default(),
            history: History::new(limits),
            watchers: Watchers::default(),
            notifications: Vec::new(),
            stats: Stats::default(),
            reclaim: Reclaim::default(),
            freezer: Freezer::default(),
            snapshot: None,
            listed_bytes: 0,
            note: "".into(),
        }
    }

    /// The copies for listings and the snapshot may take this many bytes.
    pub fn bound_copies(&mut self, bytes: usize) {
        self.freezer.bound(bytes);
    }

    /// The etcd index.
    pub fn index(&self) -> EtcdIndex {
        EtcdIndex(self.index)
    }

    /// The number of nodes that take memory: the root, the nodes of the tree, and the removed ones
    /// that are still to be freed.
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    /// An estimate of the memory of the key space in bytes. Nodes below a removed directory count
    /// until they are freed; copies for readers do not count: `freeze` bounds them. It depends on the
    /// turns of this machine, so no command may depend on it.
    pub fn bytes(&self) -> u64 {
        self.tree.bytes()
    }

    /// The bytes of the copies for listings and the snapshot: with more than `bound_copies` allows,
    /// one of them is given up.
    pub fn copied_bytes(&self) -> u64 {
        self.freezer.bytes()
    }

    /// The value of the file at a path, for this machine's own use. Not counted as a get.
    pub fn value(&self, path: &KeyPath) -> Option<&str> {
        let id = self.tree.find(path).ok()?;
        match self.tree.node(id).value()? {
            ValueRef::Short(value) => Some(value),
            ValueRef::Shared(value) => Some(value),
        }
    }

    /// Reads the file at a clean path and counts a get. `None` if there is no file: nothing is
    /// counted, and `get` has the answer.
    pub fn get_file<'a>(&'a mut self, path: &'a str) -> Option<ViewRef<'a>> {
        let Lookup::Node { id, .. } = self.tree.look_up_clean(path) else {
            return None;
        };
        let node = self.tree.node(id);
        if node.is_dir() {
            return None;
        }
        self.stats.count(Operation::Get, true);
        Some(node.view_ref(path).shown(&self.time))
    }

    /// The time by the stamps of the applied commands.
    pub fn time(&self) -> &ClusterTime {
        &self.time
    }

    /// The text that the replica keeps with the key space; empty in a new one.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Replaces the text that the replica keeps with the key space. It must follow from the log. It
    /// is part of snapshots, and no client sees or changes it.
    pub fn set_note(&mut self, note: &str) {
        self.note = note.into();
    }

    /// The bytes of the events that are kept.
    pub fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// The counters, with the number of watchers.
    pub fn stats(&self) -> Stats {
        Stats {
            watchers: self.watchers.len() as u64,
            ..self.stats
        }
    }
}

// -- changes
impl Store {
    /// Applies a command on the key space: `Set` to `CompareAndDelete`.
    ///
    /// # Errors
    ///
    /// The command is refused, and the key space is as before.
    ///
    /// # Panics
    ///
    /// If it is another command.
    pub fn apply(&mut self, command: &Command) -> Result<Event, Error> {
        if let Some(stamp) = command.stamp() {
            self.time.on_stamp(stamp);
        }
        let (operation, outcome) = self.dispatch(command);
        self.stats.count(operation, outcome.is_ok());
        outcome
    }

    /// Raises the etcd index for a change that has passed all checks.
    fn raise_index(&mut self) {
        self.index += 1;
    }

    /// Ends a change: its event enters the history and reaches the watchers.
    fn publish(
        &mut self,
        action: Action,
        node: View,
        ttl_s: Option<i64>,
        prev: Option<View>,
    ) -> Event {
        let event = self.shown_event(action, node, ttl_s, prev);
        self.record(&event);
        self.settle();
        event
    }

    /// Ends a change in place. A refresh enters no history and reaches no watcher.
    fn publish_change(
        &mut self,
        action: Action,
        node: View,
        ttl_s: Option<i64>,
        prev: View,
        refresh: bool,
    ) -> Event {
        if !refresh {
            return self.publish(action, node, ttl_s, Some(prev));
        }
        self.settle();
        self.shown_event(action, node, ttl_s, Some(prev))
    }

    /// An event of nodes as the tree has them. It keeps the expirations that it shows now.
    fn shown_event(
        &self,
        action: Action,
        node: View,
        ttl_s: Option<i64>,
        prev: Option<View>,
    ) -> Event {
        Event {
            action,
            node: node.shown(&self.time),
            ttl_s,
            prev: prev.map(|prev| prev.shown(&self.time)),
        }
    }

    fn record(&mut self, event: &Event) {
        assert_eq!(event.index().0, self.index, "an event has the etcd index");
        let watchers = self.watchers.take_reached(event);
        if !watchers.is_empty() {
            self.notifications.push(Notification {
                event: event.clone(),
                watchers,
            });
        }
        let freezer = &mut self.freezer;
        self.history
            .push(event.clone(), |evicted| freezer.keep_event(evicted));
    }

    /// Ends each change: drops copies that no freeze needs any more, gives up a freeze if too much
    /// is kept, and drops entries of removed nodes from the front of the index of expirations.
    fn settle(&mut self) {
        self.freezer.trim();
        self.reclaim.add_all(self.freezer.take_dropped());
        self.purge_ttl();
    }

    /// Drops and frees a bounded number of copies and removed nodes. Returns whether there is more to
    /// do.
    pub fn free_some(&mut self) -> bool {
        self.freezer.drop_some();
        self.reclaim.add_all(self.freezer.take_dropped());
        self.reclaim.free_some(&mut self.tree, &mut self.ttl);
        // Nodes that a freeze keeps are freed after it, and their descendants may be in the index
        // of expirations until then.
        if self.reclaim.is_empty() && self.freezer.is_empty() {
            self.ttl.set_stale(false);
        }
        self.purge_ttl();
        self.wants_free()
    }

    /// Whether `free_some` has work to do.
    pub fn wants_free(&self) -> bool {
        !self.reclaim.is_empty() || self.ttl.is_blocked() || self.freezer.has_garbage()
    }
}

// -- watchers
impl Store {
    /// Registers a watcher of the events from the etcd index `since` on; `None` and 0 mean the next
    /// event.
    ///
    /// # Errors
    ///
    /// 401: `since` is older than the history.
    pub fn watch(
        &mut self,
        id: WatcherId,
        path: &KeyPath,
        recursive: bool,
        stream: bool,
        since: Option<u64>,
    ) -> Result<WatchReply, Error> {
        let next = self.index + 1;
        let since = since.filter(|since| *since > 0).unwrap_or(next);
        let start = self.history.start();
        if since < start {
            let cause = format!("the requested history has been cleared [{start}/{since}]");
            return Err(Error::new(Code::EventIndexCleared, cause));
        }
        let watcher = Watcher::new(path.as_str(), recursive, stream);
        let past = self.past_events(&watcher, since);
        let Some(last) = past.last() else {
            self.watchers.add_live(id, watcher, since.max(next));
            return Ok(WatchReply::Waiting);
        };
        if stream {
            let next_unread = last.index().0 + 1;
            self.watchers.add_reading(id, watcher, next_unread);
        }
        Ok(WatchReply::Backlog(past))
    }

    /// The next events of the history for a stream that was given a `Backlog`.
    pub fn backlog(&mut self, id: WatcherId) -> WatchReply {
        let Some(watcher) = self.watchers.get(id) else {
            return WatchReply::Cleared;
        };
        let Some(next_unread) = watcher.next_unread() else {
            return WatchReply::Waiting;
        };
        if next_unread < self.history.start() {
            self.watchers.remove(id);
            return WatchReply::Cleared;
        }
        let past = self.past_events(watcher, next_unread);
        let Some(last) = past.last() else {
            self.watchers.become_live(id, self.index + 1);
            return WatchReply::Waiting;
        };
        self.watchers.advance(id, last.index().0 + 1);
        WatchReply::Backlog(past)
    }

    /// The events of the history that a watcher receives from an index on: at most one for a long
    /// poll, a bounded number for a stream.
    fn past_events(&self, watcher: &Watcher, since: u64) -> Vec<Event> {
        let events_max = if watcher.is_stream() {
            BACKLOG_EVENTS_MAX
        } else {
            1
        };
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        for event in self.history.since(since) {
            if !watcher.wants(event) {
                continue;
            }
            bytes += event.weight();
            if !events.is_empty() && bytes > BACKLOG_BYTES_MAX {
                break;
            }
            events.push(event.clone());
            if events.len() == events_max {
                break;
            }
        }
        events
    }

    /// Removes a watcher; nothing to do if it is gone already.
    pub fn unwatch(&mut self, id: WatcherId) {
        self.watchers.remove(id);
    }

    /// Moves the notifications since the last call into `out`, oldest first.
    pub fn take_notifications(&mut self, out: &mut Vec<Notification>) {
        out.append(&mut self.notifications);
    }
}

// -- snapshots
impl Store {
    /// Begins a snapshot of this moment.
    ///
    /// # Panics
    ///
    /// If a snapshot is being written.
    pub fn snapshot_begin(&mut self) {
        assert!(self.snapshot.is_none(), "one snapshot at a time");
        let start = self.history.start();
        let token = self.freezer.begin_snapshot(self.index, start);
        self.snapshot = Some(SnapshotWriter::new(token, self.encode_head()));
    }

    /// Appends about `bytes` more of the snapshot to `out`; the last node or event may exceed that.
    ///
    /// # Panics
    ///
    /// If no snapshot was begun.
    pub fn snapshot_chunk(&mut self, bytes: usize, out: &mut Vec<u8>) -> SnapshotStep {
        let writer = self.snapshot.as_mut().expect("a snapshot was begun");
        if self.freezer.get(writer.token()).is_none() {
            self.snapshot = None;
            return SnapshotStep::GivenUp;
        }
        if !writer.write(&self.tree, &self.history, &mut self.freezer, bytes, out) {
            return SnapshotStep::More;
        }
        self.snapshot_abandon();
        SnapshotStep::Done
    }

    /// Ends the snapshot, done or not; nothing to do if there is none.
    pub fn snapshot_abandon(&mut self) {
        if let Some(writer) = self.snapshot.take() {
            self.freezer.end(writer.token());
        }
    }

    /// A hash that is equal on all machines at an equal applied index: over the nodes, the history,
    /// the etcd index, the time, the counters of writes and the note. Reads everything.
    pub fn state_hash(&self) -> u64 {
        snapshot::hash_records(self.encode_head(), &self.history, &self.tree)
    }

    fn encode_head(&self) -> Vec<u8> {
        snapshot::encode_head(
            self.index,
            self.history.start(),
            &self.time,
            &self.stats.replicated(),
            &self.note,
        )
    }

    /// Sets what the head of a snapshot holds, in an empty key space.
    fn restore_head(
        &mut self,
        index: u64,
        history_start: u64,
        time: ClusterTime,
        stats: Stats,
        note: &str,
    ) {
        self.index = index;
        self.time = time;
        self.history.start_at(history_start);
        self.stats = stats;
        self.note = note.into();
    }
}
