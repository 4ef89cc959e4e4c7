//! The key space: a tree of nodes that changes only by applying commands, its watchers, its history.

use crate::command::{Command, KeyPath};
use crate::error::Error;

/// The etcd index: raised by one with every change of the key space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcdIndex(pub u64);

/// A watcher's number, chosen by who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Set,
    Create,
    Update,
    CompareAndSwap,
    Delete,
    CompareAndDelete,
    Expire,
}

/// A node as it is told to a client: no children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its full path.
    pub key: Box<str>,
    /// A file's value; a removed file's view has none.
    pub value: Option<Box<str>>,
    /// A directory.
    pub dir: bool,
    /// When it expires, in nanoseconds since the Unix epoch.
    pub expires_ns: Option<u64>,
    /// The etcd index of its last change.
    pub modified: EtcdIndex,
    /// The etcd index of its creation.
    pub created: EtcdIndex,
}

/// One change of the key space, as clients and watchers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// The node after it.
    pub node: View,
    /// The node before it.
    pub prev: Option<View>,
}

/// One node of a listing; items come in path order, a parent before its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    /// 0 for the node asked for, 1 for its children, and so on.
    pub depth: u32,
    /// The node.
    pub view: View,
}

/// An event and who waits for it; the event is told once, whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// The watchers that it reaches.
    pub watchers: Vec<WatcherId>,
}

/// How much of the past is kept for watchers: events, and bytes of them.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    pub events: usize,
    pub bytes: usize,
}

/// What a watcher that registers finds.
pub enum Watched {
    /// It waits; it will be named in notices.
    Waiting,
    /// Events from the past that answer it at once: one for a long poll, a bounded batch for a stream (then ask again
    /// with `backlog` until it is `Waiting`).
    Backlog(Vec<Event>),
}

/// A listing in progress: a cursor over the key space as it was when it began.
pub struct Listing {}

/// The key space.
pub struct Store {}

impl Store {
    /// An empty key space at index 0.
    pub fn new(_limits: HistoryLimits) -> Store {
        todo!()
    }
    pub fn index(&self) -> EtcdIndex {
        todo!()
    }
    /// Applies a command on the key space (`Set` to `CompareAndDelete`); an error leaves the key space as it was.
    pub fn apply(&mut self, _command: &Command) -> Result<Event, Error> {
        todo!()
    }
    /// Applies `Sync`: lets at most 1,000 nodes expire, in order of expiration; true when more is due.
    pub fn expire(&mut self, _now_ns: u64) -> bool {
        todo!()
    }
    /// When the next node expires, in nanoseconds since the Unix epoch.
    pub fn next_expiry_ns(&self) -> Option<u64> {
        todo!()
    }
    /// Sets `path` as a view of the cluster (`/_etcd/…`), with its event; parents are made.
    pub fn set_view(&mut self, _action: Action, _path: &KeyPath, _value: Option<&str>) -> Event {
        todo!()
    }
    /// Starts reading: the node and what is below it, a part at a time. Counts as a get.
    pub fn get(&mut self, _path: &KeyPath, _recursive: bool) -> Result<Listing, Error> {
        todo!()
    }
    /// The next at most `max` items; true when the listing is done.
    pub fn page(
        &mut self,
        _listing: &mut Listing,
        _max: usize,
        _items: &mut Vec<ListItem>,
    ) -> bool {
        todo!()
    }
    /// Registers a watcher. Error 401 when `since` is older than the history.
    pub fn watch(
        &mut self,
        _id: WatcherId,
        _path: &KeyPath,
        _recursive: bool,
        _stream: bool,
        _since: Option<u64>,
    ) -> Result<Watched, Error> {
        todo!()
    }
    /// Forgets a watcher; no effect when it is gone already.
    pub fn unwatch(&mut self, _id: WatcherId) {
        todo!()
    }
    /// Hands out the notices that have gathered, oldest first.
    pub fn take_notices(&mut self, _out: &mut Vec<Notice>) {
        todo!()
    }
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// Frees at most 1,000 nodes of deleted subtrees; true when more is left.
    pub fn free_some(&mut self) -> bool {
        todo!()
    }
}

/// The counters of `/v2/stats/store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub gets_success: u64,
    pub gets_fail: u64,
    pub sets_success: u64,
    pub sets_fail: u64,
    pub delete_success: u64,
    pub delete_fail: u64,
    pub update_success: u64,
    pub update_fail: u64,
    pub create_success: u64,
    pub create_fail: u64,
    pub compare_and_swap_success: u64,
    pub compare_and_swap_fail: u64,
    pub compare_and_delete_success: u64,
    pub compare_and_delete_fail: u64,
    pub expire_count: u64,
    pub watchers: u64,
}
