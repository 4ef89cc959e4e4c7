//! The key space: a tree of nodes that changes only by applying commands, its watchers, its
//! history.
//!
//! Deterministic: what it holds follows from the commands alone, and no clock is read; expirations
//! and the present time come inside commands. Nothing recurses, and whatever may take long is done
//! in parts: listings by `page`, snapshots by `snapshot_chunk`, expiring by `expire`, freeing by
//! `free_some`. Read on in `node` (the tree), `write` (the commands), `watch` and `history`, then
//! `freeze`, `walk` and `listing` (reading a key space that changes), `snapshot` and `restore`.
//! Start with `Store::apply`.
use crate::core::command::{Command, KeyPath};
use crate::core::error::{Code, Error};

mod event;
pub mod fault;
mod freeze;
mod history;
mod listing;
mod node;
mod restore;
mod snapshot;
mod stats;
mod ttl;
mod walk;
mod watch;
mod write;

pub use event::{Action, EtcdIndex, Event, ListItem, View};
use fault::Fault;
use history::History;
use node::{NodeId, Tree};
pub use restore::{BadSnapshot, Restore};
pub use stats::Stats;
use ttl::Ttl;
use walk::Walk;
use watch::{Watcher, Watchers};

/// At most this many nodes of removed directories are freed at once.
const FREE_MAX: usize = 1000;
/// A backlog holds at most this many events, and about this many bytes.
const BACKLOG_EVENTS_MAX: usize = 64;
const BACKLOG_BYTES_MAX: usize = 256 << 10;

/// A watcher's number, chosen by who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// An event and who waits for it; the event is told once, whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// The watchers that it reaches, in ascending order. One that is not a stream is forgotten
    /// with it.
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
    /// Events from the past, never none. A long poll is answered by the one in it, and is not
    /// registered. A stream asks again with `backlog` when it has told them, until it is
    /// `Waiting`; no notice names it before.
    Backlog(Vec<Event>),
    /// A stream whose next events have left the history before it asked for them: it is forgotten;
    /// cut it off.
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
    /// The key space changed too much while it was held frozen: what was listed so far is all there
    /// will be.
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

/// A listing in progress: a cursor over the key space as it was when the first page was listed.
/// Must be given back with `end`, unless `page` said `Done`, `Failed` or `GivenUp`.
#[derive(Debug)]
pub struct Listing {
    path: KeyPath,
    recursive: bool,
    /// Hidden nodes too, and frozen until the end.
    all: bool,
    progress: Progress,
}

/// Where a listing stands.
#[derive(Debug)]
enum Progress {
    /// The node was found when the index was this.
    Found(NodeId, u64),
    /// It waits for its turn to freeze the key space.
    Queued(u64),
    /// It has the freeze with this token.
    Frozen(u64, Walk),
}

/// The key space.
pub struct Store {
    index: u64,
    tree: Tree,
    ttl: Ttl,
    history: History,
    watchers: Watchers,
    notices: Vec<Notice>,
    stats: Stats,
    /// Nodes of removed directories that are still to be freed, with their depths; a node's
    /// children follow it.
    freeing: Vec<(NodeId, u32)>,
    /// The ttl index may name nodes that are gone with a directory above them.
    ttl_is_stale: bool,
    /// Such a node comes first in it.
    ttl_is_blocked: bool,
    freezer: listing::Freezer,
    snapshot: Option<snapshot::Writer>,
    /// What the owner keeps with the key space, out of reach of clients.
    note: Box<str>,
    fault: Option<Fault>,
}

impl Store {
    /// An empty key space at index 0.
    pub fn new(limits: HistoryLimits) -> Store {
        Store {
            index: 0,
            tree: Tree::new(),
            ttl: Ttl::default(),
            history: History::new(limits),
            watchers: Watchers::default(),
            notices: Vec::new(),
            stats: Stats::default(),
            freeing: Vec::new(),
            ttl_is_stale: false,
            ttl_is_blocked: false,
            freezer: listing::Freezer::default(),
            snapshot: None,
            note: "".into(),
            fault: None,
        }
    }

    /// The etcd index.
    pub fn index(&self) -> EtcdIndex {
        EtcdIndex(self.index)
    }

    /// How many nodes take up memory: the root, all that is in the tree, and what is still to be
    /// freed.
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    /// A file's value, for the machine's own use: counts as nothing.
    pub fn value(&self, path: &KeyPath) -> Option<&str> {
        self.tree.node(self.tree.find(path).ok()?).value()
    }

    /// What the owner last kept with the key space; empty in a new one.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Keeps a text of the owner with the key space, in place of the one before: it follows from
    /// the log as nodes do, goes with each snapshot, and no client can see or change it.
    pub fn set_note(&mut self, note: &str) {
        self.note = note.into();
    }

    /// Applies a command on the key space (`Set` to `CompareAndDelete`; any other panics); an error
    /// leaves the key space as it was.
    pub fn apply(&mut self, command: &Command) -> Result<Event, Error> {
        let (counted, outcome) = self.carry_out(command);
        self.stats.count(counted, outcome.is_ok());
        if outcome.is_err() && self.has(Fault::FailureCounts) {
            self.index += 1;
        }
        outcome
    }

    /// When the next node expires, in nanoseconds since the Unix epoch. `None` also while nodes of
    /// removed directories still stand in the way (`free_some` clears it).
    pub fn next_expiry_ns(&self) -> Option<u64> {
        let (_, id) = self.first_due()?;
        Some(self.tree.node(id).expires_ns)
    }

    /// Registers a watcher. `since` 0 is the next event. Error 401 when it is older than the
    /// history.
    pub fn watch(
        &mut self,
        id: WatcherId,
        path: &KeyPath,
        recursive: bool,
        stream: bool,
        since: Option<u64>,
    ) -> Result<Watched, Error> {
        let next = self.index + 1;
        let since = since.filter(|since| *since > 0).unwrap_or(next);
        let start = self.history.start();
        if since < start {
            let cause = format!("the requested history has been cleared [{start}/{since}]");
            return Err(Error::new(Code::EventIndexCleared, cause));
        }
        let mut watcher = Watcher {
            path: path.as_str().into(),
            recursive,
            stream,
            behind: None,
        };
        let past = self.past(&watcher, since);
        if past.is_empty() {
            self.watchers.add(id, watcher, since.max(next));
            return Ok(Watched::Waiting);
        }
        if stream {
            watcher.behind = past.last().map(|last| last.index().0 + 1);
            self.watchers.add(id, watcher, since);
        }
        Ok(Watched::Backlog(past))
    }

    /// The next events from the past for a stream that was given a backlog.
    pub fn backlog(&mut self, id: WatcherId) -> Watched {
        let Some(watcher) = self.watchers.get(id) else {
            return Watched::Cleared;
        };
        let Some(behind) = watcher.behind else {
            return Watched::Waiting;
        };
        if behind < self.history.start() {
            self.watchers.remove(id);
            return Watched::Cleared;
        }
        let past = self.past(watcher, behind);
        match past.last() {
            Some(last) => {
                self.watchers.advance(id, last.index().0, false);
                Watched::Backlog(past)
            }
            None => {
                let gap = u64::from(self.has(Fault::StreamGap));
                self.watchers.advance(id, self.index + gap, true);
                Watched::Waiting
            }
        }
    }

    /// What the history has for a watcher from an index on: one event for a long poll, a batch for
    /// a stream.
    fn past(&self, watcher: &Watcher, since: u64) -> Vec<Event> {
        let max = if watcher.stream {
            BACKLOG_EVENTS_MAX
        } else {
            1
        };
        let mut bytes = 0;
        let told = self.history.since(since).filter(|e| watcher.is_told(e));
        let fits = told.take(max).take_while(|event| {
            let first = bytes == 0;
            bytes += event.weight();
            first || bytes <= BACKLOG_BYTES_MAX
        });
        fits.cloned().collect()
    }

    /// Forgets a watcher; no effect when it is gone already.
    pub fn unwatch(&mut self, id: WatcherId) {
        self.watchers.remove(id);
    }

    /// Hands out the notices that have gathered, oldest first.
    pub fn take_notices(&mut self, out: &mut Vec<Notice>) {
        out.append(&mut self.notices);
    }

    /// The counters, and how many watchers there are.
    pub fn stats(&self) -> Stats {
        Stats {
            watchers: self.watchers.len() as u64,
            ..self.stats
        }
    }

    /// Frees at most 1,000 nodes of deleted subtrees; true when more is left.
    pub fn free_some(&mut self) -> bool {
        let mut left = FREE_MAX;
        while left > 0
            && let Some((id, depth)) = self.freeing.last().copied()
        {
            let child = match self.tree.node(id).is_dir() {
                true => self.tree.children_mut(id).pop_first(),
                false => None,
            };
            match child {
                Some((_, child)) if self.tree.node(child).is_dir() => {
                    self.freeing.push((child, depth + 1));
                }
                Some((_, child)) => {
                    self.free(child, depth + 1);
                    left -= 1;
                }
                None => {
                    self.freeing.pop();
                    self.free(id, depth);
                    left -= 1;
                }
            }
        }
        // What a freeze keeps will be freed after it, and may be in the index until then.
        self.ttl_is_stale &= !self.freeing.is_empty() || self.freezer.freeze.is_some();
        self.purge_ttl();
        self.wants_free()
    }

    /// Whether `free_some` has something to do.
    pub fn wants_free(&self) -> bool {
        !self.freeing.is_empty() || self.ttl_is_blocked
    }

    fn free(&mut self, id: NodeId, depth: u32) {
        let node = self.tree.node(id);
        self.ttl.remove((node.expires_ns, node.created, depth));
        self.tree.release(id);
    }
}
