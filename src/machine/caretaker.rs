//! The leader's duties: what it does by itself, when it is time.
//!
//! Expiry: when a node is due the leader puts the present time into the log, at most twice a second and not at all while
//! nothing is due; what every machine then drops is decided by that entry alone. Start with `look_after`.
use crate::command::Command;
use crate::raft::Index;
use crate::replica::Replica;
use crate::timer::Now;

/// Between two `sync` commands, unless the first left something over.
const SYNC_US_MIN: u64 = 500_000;

/// What the duties remember.
#[derive(Default)]
pub struct Caretaker {
    /// The `sync` that is not applied yet.
    sync: Option<Index>,
    /// The time that the last one carried.
    sync_ns: u64,
    /// Not before this time the next one.
    sync_due_us: u64,
}

impl Caretaker {
    /// Does what is due.
    pub fn look_after(&mut self, now: Now, replica: &mut Replica) {
        if self.sync.is_some_and(|index| replica.applied() >= index) {
            self.sync = None;
        }
        if !replica.leads() {
            // Another leader may be at it by now; what this one proposed is applied or lost.
            self.sync = None;
            return;
        }
        self.maybe_expire(now, replica);
    }

    fn maybe_expire(&mut self, now: Now, replica: &mut Replica) {
        if self.sync.is_some() || replica.is_disk_low() {
            return;
        }
        let next_ns = replica.store().next_expiry_ns();
        let Some(next_ns) = next_ns.filter(|next_ns| *next_ns <= now.wall_ns) else {
            return;
        };
        // What the last one should have dropped and did not was too much for one.
        let left_over = next_ns <= self.sync_ns;
        if now.mono_us < self.sync_due_us && !left_over {
            return;
        }
        let now_ns = now.wall_ns;
        self.sync = replica.propose_own(now, &Command::Sync { now_ns });
        if self.sync.is_some() {
            self.sync_ns = now_ns;
        }
        self.sync_due_us = now.mono_us + SYNC_US_MIN;
    }

    /// When `look_after` has something to do, in `mono_us`, as far as `now` tells the wall clock.
    pub fn next_deadline(&self, now: Now, replica: &Replica) -> u64 {
        if self.sync.is_some() || replica.is_disk_low() || !replica.leads() {
            return u64::MAX;
        }
        let Some(next_ns) = replica.store().next_expiry_ns() else {
            return u64::MAX;
        };
        let wait_us = next_ns.saturating_sub(now.wall_ns).div_ceil(1000);
        now.mono_us.saturating_add(wait_us).max(self.sync_due_us)
    }
}
