//! The key space: a tree of nodes that changes only by applying commands, its watchers, its history.

use crate::command::{Command, KeyPath};
use crate::error::Error;

mod event;

pub use event::{Action, EtcdIndex, Event, ListItem, View};

/// A watcher's number, chosen by who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// An event and who waits for it; the event is told once, whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// The watchers that it reaches, in ascending order. One that is not a stream is forgotten with it.
    pub watchers: Vec<WatcherId>,
}

/// How much of the past is kept for watchers: events, and bytes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    pub events: usize,
    pub bytes: usize,
}

/// What a watcher that registers, or asks for more of the past, finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It waits; it will be named in notices.
    Waiting,
    /// Events from the past, never none. A long poll is answered by the one in it, and is not registered. A stream
    /// asks again with `backlog` when it has told them, until it is `Waiting`; no notice names it before.
    Backlog(Vec<Event>),
    /// A stream whose next events have left the history before it asked for them: it is forgotten; cut it off.
    Cleared,
}

/// How far a listing has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// There is more: ask again, in any later turn.
    More,
    /// That was all; the listing holds nothing any more.
    Done,
    /// Nothing yet: another has the key space frozen. Ask again in a later turn.
    Wait,
    /// Nothing was listed: the node went away while the listing waited.
    Failed(Error),
    /// The key space changed too much while it was held frozen: what was listed so far is all there will be.
    GivenUp,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more.
    More,
    /// That was all.
    Done,
    /// It held too much of the past and was given up; begin anew.
    GivenUp,
}

/// A listing in progress: a cursor over the key space as it was when the first page was listed. Must be given back with
/// `end`, unless `page` said `Done`, `Failed` or `GivenUp`.
#[derive(Debug)]
pub struct Listing {}

/// The key space.
pub struct Store {}

impl Store {
    /// An empty key space at index 0.
    pub fn new(_limits: HistoryLimits) -> Store {
        todo!()
    }
    /// The etcd index.
    pub fn index(&self) -> EtcdIndex {
        todo!()
    }
    /// Applies a command on the key space (`Set` to `CompareAndDelete`; any other panics); an error leaves the key space
    /// as it was.
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
    /// Sets `path` as a view of the cluster (`/_etcd/…`), with its event; parents are made, and what a client has put in
    /// the way gives way. `action` is `Create`, `Set` or `Update` with a value, or `Delete` without.
    pub fn set_view(&mut self, _action: Action, _path: &KeyPath, _value: Option<&str>) -> Event {
        todo!()
    }
    /// Starts reading: the node and what is below it, a part at a time. Counts as a get.
    pub fn get(&mut self, _path: &KeyPath, _recursive: bool) -> Result<Listing, Error> {
        todo!()
    }
    /// Starts reading everything from the root, hidden nodes too; the key space stays frozen until `end`, so that
    /// `history` tells of the same moment. Counts as nothing.
    pub fn get_all(&mut self) -> Listing {
        todo!()
    }
    /// The next at most `max` items (and not many more than 256 KiB), appended to `items`. A listing that needs a second
    /// page freezes the key space as of its first. `Done` of a `get_all` keeps it frozen until `end`.
    pub fn page(
        &mut self,
        _listing: &mut Listing,
        _max: usize,
        _items: &mut Vec<ListItem>,
    ) -> Page {
        todo!()
    }
    /// The event history of the moment that a `get_all` shows, oldest first, its etcd index, and the counters.
    pub fn history(&self, _listing: &Listing) -> (Vec<Event>, EtcdIndex, Stats) {
        todo!()
    }
    /// Gives a listing up, or back.
    pub fn end(&mut self, _listing: Listing) {
        todo!()
    }
    /// Begins a snapshot of this very moment. False: something else has the key space frozen; ask again in a later turn
    /// (the snapshot is next in line).
    pub fn snapshot_begin(&mut self) -> bool {
        todo!()
    }
    /// Appends about `bytes` more of the snapshot (at most one node or event more) to `out`.
    pub fn snapshot_chunk(&mut self, _bytes: usize, _out: &mut Vec<u8>) -> Step {
        todo!()
    }
    /// Gives the snapshot up; no effect when there is none.
    pub fn snapshot_abandon(&mut self) {
        todo!()
    }
    /// A number that is equal on all machines at equal applied index: the nodes, the history, the index, the counters of
    /// writes. Walks over everything.
    pub fn state_hash(&self) -> u64 {
        todo!()
    }
    /// Registers a watcher. `since` 0 is the next event. Error 401 when it is older than the history.
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
    /// The next events from the past for a stream that was given a backlog.
    pub fn backlog(&mut self, _id: WatcherId) -> Watched {
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
    /// The counters, and how many watchers there are.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// Frees at most 1,000 nodes of deleted subtrees; true when more is left.
    pub fn free_some(&mut self) -> bool {
        todo!()
    }
}

/// Bytes that are no snapshot, or a damaged one; the text says where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot(pub String);

/// A key space that is being read back from a snapshot's bytes.
pub struct Restore {}

impl Restore {
    /// Starts with nothing.
    pub fn new(_limits: HistoryLimits) -> Restore {
        todo!()
    }
    /// Takes the next bytes, however they are cut.
    pub fn chunk(&mut self, _bytes: &[u8]) -> Result<(), BadSnapshot> {
        todo!()
    }
    /// The key space, if the snapshot was whole.
    pub fn finish(self) -> Result<Store, BadSnapshot> {
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
