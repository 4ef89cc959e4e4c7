//! The recent events, for watchers that ask for an index of the past. Bounded in number and bytes.
//!
//! A refresh raises the etcd index and leaves no event, so the indexes here ascend but may skip.
use super::event::{EtcdIndex, Event};
use super::path::is_below;
use std::collections::VecDeque;

/// The bounds of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most events that are kept.
    pub events: usize,
    /// Most bytes that are kept, counted by `Event::weight`.
    pub bytes: usize,
}

/// The events that are kept.
pub struct History {
    limits: HistoryLimits,
    /// Oldest first; the indexes ascend. Within both limits between two calls.
    events: VecDeque<Event>,
    /// The sum of the weights of `events`.
    bytes: usize,
    /// The first index from which no event has been evicted; only rises.
    start: u64,
}

impl History {
    /// An empty history from index 1 on.
    pub fn new(limits: HistoryLimits) -> History {
        History {
            limits,
            events: VecDeque::new(),
            bytes: 0,
            start: 1,
        }
    }

    /// Continues a history that a snapshot holds from the index `start` on.
    ///
    /// # Panics
    ///
    /// If it holds an event already.
    pub fn start_at(&mut self, start: u64) {
        assert!(self.events.is_empty(), "before its first event");
        self.start = start;
    }

    /// The bytes of all events, counted by `Event::weight`.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The index of the newest event.
    pub fn last(&self) -> Option<u64> {
        Some(self.events.back()?.index().0)
    }

    /// The first index from which no event has been evicted.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Adds the newest event, and calls `evicted` with each event that no longer fits.
    ///
    /// # Panics
    ///
    /// If it is not newer than the last one.
    pub fn push(&mut self, event: Event, mut evicted: impl FnMut(Event)) {
        assert!(
            self.last().is_none_or(|last| last < event.index().0),
            "events come in order"
        );
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let oldest = self.events.pop_front();
            let oldest = oldest.expect("an empty history exceeds no limit");
            self.bytes -= oldest.weight();
            self.start = oldest.index().0 + 1;
            evicted(oldest);
        }
    }

    /// The events from an index on, oldest first.
    pub fn since(&self, index: u64) -> impl Iterator<Item = &Event> {
        let skip = self
            .events
            .partition_point(|event| event.index() < EtcdIndex(index));
        self.events.range(skip..)
    }
}

/// Whether a watcher of `path` receives an event from the history.
///
/// Hidden nodes count here, unlike for a new event. The removal of a directory also reaches the
/// watchers of its descendants.
pub fn concerns(event: &Event, path: &str, recursive: bool) -> bool {
    let key = &*event.node.key;
    key == path
        || recursive && is_below(key, path)
        || event.removes_directory() && is_below(path, key)
}
