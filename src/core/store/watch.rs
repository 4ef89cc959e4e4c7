//! The watchers, by path: which of them an event reaches.
//!
//! A new event reaches
//! - the watchers of its path,
//! - the recursive watchers of the directories above, unless a hidden name (`_…`) lies between,
//! - all watchers below it, if it removes a directory.
//!
//! Start with `Watchers::take_reached`.
use super::event::Event;
use super::history;
use super::path::{is_below, visible_ancestors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};

/// The number of a watcher, chosen by the caller and used once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// The events that a watcher waits for.
#[derive(Debug)]
pub struct Watcher {
    path: Box<str>,
    /// Descendants of `path` too.
    recursive: bool,
    /// It stays after its first event.
    stream: bool,
    /// A stream that still reads the history: the next index to read. `None` once it has caught up,
    /// and for a long poll.
    next_unread: Option<u64>,
}

impl Watcher {
    /// A watcher that has read nothing of the history.
    pub fn new(path: &str, recursive: bool, stream: bool) -> Watcher {
        Watcher {
            path: path.into(),
            recursive,
            stream,
            next_unread: None,
        }
    }

    /// Whether it stays after its first event.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// The next index to read from the history, for a stream that has not caught up.
    pub fn next_unread(&self) -> Option<u64> {
        self.next_unread
    }

    /// Whether it receives an event from the history.
    pub fn wants(&self, event: &Event) -> bool {
        history::concerns(event, &self.path, self.recursive)
    }
}

/// A watcher that new events may reach.
struct LiveWatcher {
    id: WatcherId,
    /// The first index that it waits for.
    since: u64,
    /// A copy of `Watcher::stream`: an event for thousands of watchers looks none of them up.
    stream: bool,
}

/// The live watchers of one path, each kind in the order of the numbers. Most paths have a single
/// one, for which a map would take 200 bytes.
#[derive(Default)]
struct AtPath {
    exact: Vec<LiveWatcher>,
    recursive: Vec<LiveWatcher>,
}

impl AtPath {
    fn of_kind(&mut self, recursive: bool) -> &mut Vec<LiveWatcher> {
        if recursive {
            &mut self.recursive
        } else {
            &mut self.exact
        }
    }

    fn insert(&mut self, recursive: bool, live: LiveWatcher) {
        let watchers = self.of_kind(recursive);
        let at = watchers.partition_point(|other| other.id < live.id);
        if watchers.is_empty() {
            watchers.reserve_exact(1);
        }
        watchers.insert(at, live);
    }

    fn remove(&mut self, recursive: bool, id: WatcherId) {
        let watchers = self.of_kind(recursive);
        if let Ok(at) = watchers.binary_search_by_key(&id, |live| live.id) {
            watchers.remove(at);
        }
    }

    /// Removes the watchers of `ended`, which is sorted.
    fn remove_all(&mut self, ended: &[WatcherId]) {
        for watchers in [&mut self.exact, &mut self.recursive] {
            watchers.retain(|live| ended.binary_search(&live.id).is_err());
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.recursive.is_empty()
    }
}

/// All watchers. Bounded by the number of connections.
#[derive(Default)]
pub struct Watchers {
    all: BTreeMap<WatcherId, Watcher>,
    /// The watchers that new events may reach: all but the streams that still read the history. No
    /// entry is empty.
    live: BTreeMap<Box<str>, AtPath>,
}

impl Watchers {
    /// The number of watchers.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// A watcher by its number.
    pub fn get(&self, id: WatcherId) -> Option<&Watcher> {
        self.all.get(&id)
    }

    /// Adds a watcher that waits for the events from the index `since` on.
    ///
    /// # Panics
    ///
    /// If the number is in use.
    pub fn add_live(&mut self, id: WatcherId, watcher: Watcher, since: u64) {
        self.insert_live(id, &watcher, since);
        let before = self.all.insert(id, watcher);
        assert!(before.is_none(), "the number of a watcher is used once");
    }

    /// Adds a stream whose next index to read from the history is `next_unread`.
    ///
    /// # Panics
    ///
    /// If the number is in use.
    pub fn add_reading(&mut self, id: WatcherId, mut watcher: Watcher, next_unread: u64) {
        watcher.next_unread = Some(next_unread);
        let before = self.all.insert(id, watcher);
        assert!(before.is_none(), "the number of a watcher is used once");
    }

    /// A stream has read the history up to the index before `next_unread`.
    pub fn advance(&mut self, id: WatcherId, next_unread: u64) {
        if let Some(watcher) = self.all.get_mut(&id) {
            watcher.next_unread = Some(next_unread);
        }
    }

    /// A stream has read the whole history. It waits for the events from the index `since` on.
    pub fn become_live(&mut self, id: WatcherId, since: u64) {
        if let Some(mut watcher) = self.all.remove(&id) {
            watcher.next_unread = None;
            self.add_live(id, watcher, since);
        }
    }

    fn insert_live(&mut self, id: WatcherId, watcher: &Watcher, since: u64) {
        let at_path = self.live.entry(watcher.path.clone()).or_default();
        let live = LiveWatcher {
            id,
            since,
            stream: watcher.stream,
        };
        at_path.insert(watcher.recursive, live);
    }

    /// Removes a watcher; nothing to do if it is gone already.
    pub fn remove(&mut self, id: WatcherId) {
        let Some(watcher) = self.all.remove(&id) else {
            return;
        };
        if let Some(at_path) = self.live.get_mut(&watcher.path) {
            at_path.remove(watcher.recursive, id);
            if at_path.is_empty() {
                self.live.remove(&watcher.path);
            }
        }
    }

    /// The watchers that a new event reaches, in ascending order, each with whether it ends with the
    /// event. Those are no streams, and removed.
    pub fn take_reached(&mut self, event: &Event) -> Vec<(WatcherId, bool)> {
        let mut reached = Vec::new();
        if self.all.is_empty() {
            return reached;
        }
        self.collect_reached(event, &mut reached);
        reached.sort_unstable();
        let ended = reached.iter().filter(|(_, ends)| *ends);
        let ended: Vec<WatcherId> = ended.map(|(id, _)| *id).collect();
        self.remove_all(&ended);
        reached
    }

    /// Removes watchers, sorted by number. Each vector of a path is gone through once.
    fn remove_all(&mut self, ended: &[WatcherId]) {
        let mut paths = BTreeSet::new();
        for id in ended {
            paths.extend(self.all.remove(id).map(|watcher| watcher.path));
        }
        for path in &paths {
            let at_path = self.live.get_mut(path).expect("a live watcher's path");
            at_path.remove_all(ended);
            if at_path.is_empty() {
                self.live.remove(path);
            }
        }
    }

    fn collect_reached(&self, event: &Event, reached: &mut Vec<(WatcherId, bool)>) {
        let mut collect = |watchers: &[LiveWatcher]| {
            for live in watchers {
                if live.since <= event.index().0 {
                    reached.push((live.id, !live.stream));
                }
            }
        };
        let key = &*event.node.key;
        if let Some(at_path) = self.live.get(key) {
            collect(&at_path.exact);
            collect(&at_path.recursive);
        }
        for above in visible_ancestors(key) {
            if let Some(at_path) = self.live.get(above) {
                collect(&at_path.recursive);
            }
        }
        if event.removes_directory() {
            let first_below = [key, "/"].concat();
            let range = (Included(&*first_below), Unbounded);
            for (path, at_path) in self.live.range::<str, _>(range) {
                if !is_below(path, key) {
                    break;
                }
                collect(&at_path.exact);
                collect(&at_path.recursive);
            }
        }
    }
}
