//! Bugs to plant, so that the checks that should catch them can be shown to do so.
//!
//! They exist only with the cargo feature `faults`, which no released binary has: without it
//! `Store::has` is false at compile time and nothing of this is left.
use super::Store;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last of the watchers that an event reaches is not told.
    EventLost,
    /// An event is told twice.
    EventTwice,
    /// A stream that has caught up with the history misses the next event.
    StreamGap,
    /// A compare-and-swap swaps whatever it finds.
    CompareIgnored,
    /// A create takes the place of the file that is there.
    CreateReplaces,
    /// A write that fails raises the index all the same.
    FailureCounts,
    /// A node that changes while a snapshot is written is written as it became.
    SnapshotOfLater,
    /// A snapshot leaves the history out.
    HistoryForgotten,
    /// A restored key space does not know what expires.
    ExpirationsForgotten,
}

impl Fault {
    /// All of them, for those who try each.
    pub const ALL: [Fault; 9] = [
        Fault::EventLost,
        Fault::EventTwice,
        Fault::StreamGap,
        Fault::CompareIgnored,
        Fault::CreateReplaces,
        Fault::FailureCounts,
        Fault::SnapshotOfLater,
        Fault::HistoryForgotten,
        Fault::ExpirationsForgotten,
    ];
}

impl Store {
    /// Plants a bug.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        if fault == Some(Fault::ExpirationsForgotten) {
            self.ttl = super::Ttl::default();
        }
    }

    /// The bug that is planted.
    #[cfg(feature = "faults")]
    pub fn planted(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }
}
