//! `/v2/speedTest`: proposes 10,000 sets of one key, a bounded window of them at a time.
//!
//! Start with `Replica::start_speed_test`, then `Replica::continue_speed_tests`.
use super::Replica;
use crate::core::command::{Command, KeyPath};
use crate::core::raft::{Index, RaftRole, Term};
use crate::core::seam::{Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::VecDeque;

/// How many sets a test makes, as in etcd 0.4.
const SETS: u32 = 10_000;
/// Most sets of one test that are proposed and not applied.
const WINDOW: usize = 256;

/// A speed test under way. At least one set is outstanding between two turns.
#[derive(Debug, Default)]
pub struct SpeedTest {
    /// How many sets were proposed.
    proposed: u32,
    /// The sets that are not applied yet, oldest first; at most `WINDOW`.
    outstanding: VecDeque<OutstandingSet>,
}

/// A proposed set that is not applied yet.
#[derive(Debug)]
struct OutstandingSet {
    index: Index,
    term: Term,
    /// When the outcome counts as unknown, in microseconds of the monotonic clock.
    due_us: u64,
}

impl SpeedTest {
    /// Whether another set may be proposed now.
    pub fn has_room(&self) -> bool {
        self.proposed < SETS && self.outstanding.len() < WINDOW
    }

    /// Whether all sets are applied.
    pub fn is_done(&self) -> bool {
        self.proposed == SETS && self.outstanding.is_empty()
    }

    /// The deadline of the oldest outstanding set, in microseconds of the monotonic clock; `None`
    /// if no set is outstanding.
    pub fn next_deadline(&self) -> Option<u64> {
        self.outstanding.front().map(|set| set.due_us)
    }

    /// Where the outstanding sets were appended.
    pub fn outstanding(&self) -> impl Iterator<Item = (Index, Term)> {
        self.outstanding.iter().map(|set| (set.index, set.term))
    }

    /// A set was appended. Its outcome counts as unknown from `due_us` on, in microseconds of the
    /// monotonic clock.
    pub fn on_proposed(&mut self, index: Index, term: Term, due_us: u64) {
        self.proposed += 1;
        self.outstanding.push_back(OutstandingSet {
            index,
            term,
            due_us,
        });
    }

    /// The oldest outstanding set was applied.
    pub fn on_applied(&mut self) {
        self.outstanding.pop_front();
    }
}

impl Replica {
    /// Starts a speed test on the leader. Any other member redirects to the leader.
    pub(super) fn start_speed_test(&mut self, now: Now, ticket: Ticket) {
        if self.raft.role() != RaftRole::Leader {
            return self.redirect_to_leader(ticket);
        }
        self.pending.add_speed_test(ticket);
        self.continue_speed_tests(now);
    }

    /// Proposes as many sets as the windows of all speed tests allow.
    pub(super) fn continue_speed_tests(&mut self, now: Now) {
        for ticket in self.pending.speed_tests() {
            self.continue_speed_test(now, ticket);
        }
    }

    fn continue_speed_test(&mut self, now: Now, ticket: Ticket) {
        let command = Command::Set {
            path: KeyPath::new("/foo"),
            value: Some("bar".into()),
            lease: None,
        };
        let has_room = |test: &SpeedTest| test.has_room();
        while self.pending.speed_test(ticket).is_some_and(has_room) {
            match self.append_write(now, command.clone(), None) {
                Ok((index, term)) => {
                    self.pending.add_speed_test_set(now, ticket, index, term);
                }
                Err(refusal) => self.finish(ticket, refusal.into_outcome()),
            }
        }
    }

    /// A set was applied with this outcome. The first failure ends the test.
    pub(super) fn on_speed_test_set(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Outcome::Failed(_) = outcome {
            return self.finish(ticket, outcome);
        }
        let test = self.pending.speed_test(ticket);
        if test.is_some_and(SpeedTest::is_done) {
            self.finish(ticket, Outcome::SpeedTest);
        }
    }
}
