//! The recent past, for watchers that ask for it: events in order, at most so many and so many
//! bytes of them.
//!
//! `start` is the index from which on nothing is missing. A refresh raises the index and leaves no
//! event, so indexes in here ascend but may skip.
use super::HistoryLimits;
use super::event::{EtcdIndex, Event};
use std::collections::VecDeque;

/// The events that are kept.
pub struct History {
    limits: HistoryLimits,
    events: VecDeque<Event>,
    bytes: usize,
    start: u64,
}

impl History {
    pub fn new(limits: HistoryLimits) -> History {
        History {
            limits,
            events: VecDeque::new(),
            bytes: 0,
            start: 1,
        }
    }

    /// Continues a history whose first event was, or would have been, of this index.
    pub fn start_at(&mut self, start: u64) {
        assert!(self.events.is_empty(), "before its first event");
        self.start = start;
    }

    /// The newest event's index.
    pub fn last(&self) -> Option<u64> {
        Some(self.events.back()?.index().0)
    }

    /// The first index that has not been cleared.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Adds the newest event and hands out what no longer fits.
    pub fn push(&mut self, event: Event, mut evicted: impl FnMut(Event)) {
        let last = self.events.back().map_or(0, |last| last.index().0);
        assert!(event.index().0 > last, "events come in order");
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let oldest = self
                .events
                .pop_front()
                .expect("limits are not exceeded by nothing");
            self.bytes -= oldest.weight();
            self.start = oldest.index().0 + 1;
            evicted(oldest);
        }
    }

    /// The events from an index on, oldest first.
    pub fn since(&self, index: u64) -> impl Iterator<Item = &Event> {
        let skip = self
            .events
            .partition_point(|e| e.index() < EtcdIndex(index));
        self.events.range(skip..)
    }
}

/// Whether a watcher of `path` is told of an event from the past. Hidden nodes are told too; so is
/// the removal of a directory above `path`.
pub fn concerns(event: &Event, path: &str, recursive: bool) -> bool {
    let key = &*event.node.key;
    key == path
        || recursive && is_below(key, path)
        || event.removes_directory() && is_below(path, key)
}

/// Whether `path` is somewhere below `top`.
pub fn is_below(path: &str, top: &str) -> bool {
    let top = top.strip_suffix('/').unwrap_or(top);
    path.len() > top.len() + 1 && path.as_bytes()[top.len()] == b'/' && path.starts_with(top)
}

/// Whether `path` is `top` or below it.
pub fn is_within(path: &str, top: &str) -> bool {
    path == top || is_below(path, top)
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn below_is_by_segments() {
        assert!(is_below("/a/b", "/a"));
        assert!(is_below("/a", "/"));
        assert!(!is_below("/", "/"));
        assert!(!is_below("/a", "/a"));
        assert!(!is_below("/ab", "/a"));
        assert!(!is_below("/a", "/a/b"));
        assert!(!is_below("/é", "/\u{c3}"));
    }
}
