//! The counters of `/v2/stats/store`.
//!
//! Counters of writes follow from the log: they are equal on all machines and are part of a
//! snapshot. Counters of reads and watchers belong to this machine alone.

/// The counters: operations since the key space began (writes) or since this process started
/// (reads).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads of a node that exists.
    pub gets_success: u64,
    /// Reads that failed.
    pub gets_fail: u64,
    /// Unconditional writes.
    pub sets_success: u64,
    /// Unconditional writes that failed.
    pub sets_fail: u64,
    /// Removals.
    pub delete_success: u64,
    /// Removals that failed.
    pub delete_fail: u64,
    /// Changes in place.
    pub update_success: u64,
    /// Changes in place that failed.
    pub update_fail: u64,
    /// Creations.
    pub create_success: u64,
    /// Creations that failed.
    pub create_fail: u64,
    /// Swaps whose conditions held.
    pub compare_and_swap_success: u64,
    /// Swaps that failed.
    pub compare_and_swap_fail: u64,
    /// Conditional removals whose conditions held.
    pub compare_and_delete_success: u64,
    /// Conditional removals that failed.
    pub compare_and_delete_fail: u64,
    /// Nodes that expired.
    pub expire_count: u64,
    /// Watchers that are registered now.
    pub watchers: u64,
}

/// The number of counters that are equal on all machines.
pub(super) const REPLICATED: usize = 13;

impl Stats {
    /// Counts one operation by its outcome.
    pub(super) fn count(&mut self, operation: Operation, success: bool) {
        let (successes, failures) = match operation {
            Operation::Get => (&mut self.gets_success, &mut self.gets_fail),
            Operation::Set => (&mut self.sets_success, &mut self.sets_fail),
            Operation::Delete => (&mut self.delete_success, &mut self.delete_fail),
            Operation::Update => (&mut self.update_success, &mut self.update_fail),
            Operation::Create => (&mut self.create_success, &mut self.create_fail),
            Operation::CompareAndSwap => (
                &mut self.compare_and_swap_success,
                &mut self.compare_and_swap_fail,
            ),
            Operation::CompareAndDelete => (
                &mut self.compare_and_delete_success,
                &mut self.compare_and_delete_fail,
            ),
        };
        let counter = if success { successes } else { failures };
        *counter += 1;
    }

    /// Counts a node that expired.
    pub(super) fn count_expired(&mut self) {
        self.expire_count += 1;
    }

    /// The counters that are equal on all machines, in the order of the snapshot format.
    pub(super) fn replicated(&self) -> [u64; REPLICATED] {
        let mut copy = *self;
        copy.replicated_mut().map(|counter| *counter)
    }

    /// Counters as a snapshot holds them; those of this machine start at 0.
    pub(super) fn from_replicated(counters: [u64; REPLICATED]) -> Stats {
        let mut stats = Stats::default();
        for (counter, restored) in stats.replicated_mut().into_iter().zip(counters) {
            *counter = restored;
        }
        stats
    }

    /// The order is part of the snapshot format.
    fn replicated_mut(&mut self) -> [&mut u64; REPLICATED] {
        [
            &mut self.sets_success,
            &mut self.sets_fail,
            &mut self.delete_success,
            &mut self.delete_fail,
            &mut self.update_success,
            &mut self.update_fail,
            &mut self.create_success,
            &mut self.create_fail,
            &mut self.compare_and_swap_success,
            &mut self.compare_and_swap_fail,
            &mut self.compare_and_delete_success,
            &mut self.compare_and_delete_fail,
            &mut self.expire_count,
        ]
    }
}

/// The operations that are counted by success and failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Set,
    Delete,
    Update,
    Create,
    CompareAndSwap,
    CompareAndDelete,
}
