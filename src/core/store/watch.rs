//! Who waits for what: watchers by path, found for an event by walking its path upwards.
//!
//! An event reaches those who wait at its path; those who wait recursively above it, unless a
//! hidden name (`_…`) lies between; and, when it removes a directory, everyone who waits below.
//! Start with `reached`.
use super::event::Event;
use super::history::is_below;
use super::{WatcherId, history};
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// `from` of a stream that still reads the history: no event reaches it.
const BEHIND: u64 = u64::MAX;

/// One who waits.
#[derive(Debug)]
pub struct Watcher {
    pub path: Box<str>,
    pub recursive: bool,
    pub stream: bool,
    /// A stream that still reads the history: the next index it has not seen.
    pub behind: Option<u64>,
}

/// Those who wait at one path, each with the first index that it waits for.
#[derive(Default)]
struct AtPath {
    exact: BTreeMap<WatcherId, u64>,
    recursive: BTreeMap<WatcherId, u64>,
}

impl AtPath {
    fn side(&mut self, recursive: bool) -> &mut BTreeMap<WatcherId, u64> {
        match recursive {
            true => &mut self.recursive,
            false => &mut self.exact,
        }
    }
}

/// All who wait. Bounded by the number of connections.
#[derive(Default)]
pub struct Watchers {
    all: BTreeMap<WatcherId, Watcher>,
    by_path: BTreeMap<Box<str>, AtPath>,
}

impl Watchers {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn get(&self, id: WatcherId) -> Option<&Watcher> {
        self.all.get(&id)
    }

    /// Takes a watcher in that waits for events from index `since` on.
    pub fn add(&mut self, id: WatcherId, watcher: Watcher, since: u64) {
        let from = watcher.behind.map_or(since, |_| BEHIND);
        let at_path = self.by_path.entry(watcher.path.clone()).or_default();
        at_path.side(watcher.recursive).insert(id, from);
        let before = self.all.insert(id, watcher);
        assert!(before.is_none(), "a watcher's number is its own");
    }

    /// A stream has read the history up to `index`; with `live` it has caught up, and waits for
    /// what comes after.
    pub fn advance(&mut self, id: WatcherId, index: u64, live: bool) {
        let watcher = self.all.get_mut(&id).expect("only who waits reads");
        watcher.behind = (!live).then_some(index + 1);
        if live {
            let at_path = self
                .by_path
                .get_mut(&watcher.path)
                .expect("it is registered");
            at_path.side(watcher.recursive).insert(id, index + 1);
        }
    }

    /// Forgets a watcher; false when there was none.
    pub fn remove(&mut self, id: WatcherId) -> bool {
        let Some(watcher) = self.all.remove(&id) else {
            return false;
        };
        let at_path = self
            .by_path
            .get_mut(&watcher.path)
            .expect("it was registered");
        at_path.side(watcher.recursive).remove(&id);
        if at_path.exact.is_empty() && at_path.recursive.is_empty() {
            self.by_path.remove(&watcher.path);
        }
        true
    }

    /// Whom an event reaches, in ascending order; those who waited for one event only are
    /// forgotten.
    pub fn reached(&mut self, event: &Event) -> Vec<WatcherId> {
        let mut reached = Vec::new();
        if self.all.is_empty() {
            return reached;
        }
        let index = event.index().0;
        let mut add = |side: &BTreeMap<WatcherId, u64>| {
            reached.extend(
                side.iter()
                    .filter(|(_, from)| **from <= index)
                    .map(|(id, _)| *id),
            );
        };
        let key = &*event.node.key;
        if let Some(at_path) = self.by_path.get(key) {
            add(&at_path.exact);
            add(&at_path.recursive);
        }
        for above in visible_above(key) {
            if let Some(at_path) = self.by_path.get(above) {
                add(&at_path.recursive);
            }
        }
        if event.removes_directory() {
            let below = [key, "/"].concat();
            let range = self.by_path.range::<str, _>((Included(&*below), Unbounded));
            for (_, at_path) in range.take_while(|(path, _)| is_below(path, key)) {
                add(&at_path.exact);
                add(&at_path.recursive);
            }
        }
        reached.sort_unstable();
        for id in &reached {
            if !self.all[id].stream {
                self.remove(*id);
            }
        }
        reached
    }
}

impl Watcher {
    /// Whether an event from the past is for it.
    pub fn is_told(&self, event: &Event) -> bool {
        history::concerns(event, &self.path, self.recursive)
    }
}

/// The paths above `key` from which it can be seen, deepest first: up to the first hidden name.
fn visible_above(key: &str) -> impl Iterator<Item = &str> {
    let mut rest = if key == "/" { "" } else { key };
    std::iter::from_fn(move || {
        let (above, name) = rest.rsplit_once('/')?;
        if name.starts_with('_') {
            rest = "";
            return None;
        }
        rest = above;
        Some(if above.is_empty() { "/" } else { above })
    })
}

#[cfg(test)]
mod tests {
    use super::visible_above;

    #[test]
    fn hidden_names_end_the_view_from_above() {
        let above = |key| visible_above(key).collect::<Vec<_>>();
        assert_eq!(above("/a/b/c"), ["/a/b", "/a", "/"]);
        assert_eq!(above("/a/_b/c"), ["/a/_b"]);
        assert_eq!(above("/_a"), [] as [&str; 0]);
        assert_eq!(above("/"), [] as [&str; 0]);
    }
}
