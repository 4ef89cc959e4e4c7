//! Faults of the key space that tests plant, to show that the checks catch them.
//!
//! They exist only with the cargo feature `faults`, which no released binary has: without it
//! `Store::has` is false at compile time.

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The last of the watchers that an event reaches does not receive it.
    EventLost,
    /// An event is delivered twice.
    EventTwice,
    /// A stream that has caught up with the history misses the next event.
    StreamGap,
    /// A compare-and-swap succeeds whatever its conditions.
    CompareIgnored,
    /// A create replaces a file.
    CreateReplaces,
    /// A write that fails raises the etcd index.
    FailureCounts,
    /// A snapshot holds the later form of a node that is changed while it is written.
    SnapshotOfLater,
    /// A snapshot omits the history.
    HistoryForgotten,
    /// A restored key space does not know which nodes expire.
    ExpirationsForgotten,
}

impl StoreFault {
    /// All of them.
    pub const ALL: [StoreFault; 9] = [
        StoreFault::EventLost,
        StoreFault::EventTwice,
        StoreFault::StreamGap,
        StoreFault::CompareIgnored,
        StoreFault::CreateReplaces,
        StoreFault::FailureCounts,
        StoreFault::SnapshotOfLater,
        StoreFault::HistoryForgotten,
        StoreFault::ExpirationsForgotten,
    ];
}
