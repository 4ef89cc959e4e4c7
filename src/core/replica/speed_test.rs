//! `/v2/speedTest`: 10,000 sets of one key through the log, a bounded window of them at a time.
use super::Replica;
use super::pending::Asker;
use crate::core::command::{Command, KeyPath};
use crate::core::raft::{ProposalRefusal, RaftRole};
use crate::core::seam::{Outcome, Ticket};
use crate::core::timer::Now;

/// How many sets a test makes, and how many of them are on their way at a time.
const SETS: u32 = 10_000;
const WINDOW: u32 = 256;

/// A test under way.
pub struct SpeedTest {
    pub ticket: Ticket,
    proposed: u32,
    done: u32,
}

impl SpeedTest {
    /// Whether it may propose more at once.
    pub fn has_room(&self) -> bool {
        self.proposed < SETS && self.proposed - self.done < WINDOW
    }
}

impl Replica {
    /// Only the leader can; another redirects.
    pub fn speed_test(&mut self, now: Now, ticket: Ticket) {
        if self.raft.role() != RaftRole::Leader {
            return self.refuse(ticket, ProposalRefusal::NotLeader(self.raft.leader()));
        }
        self.speed_tests.push(SpeedTest {
            ticket,
            proposed: 0,
            done: 0,
        });
        self.pump_speed_tests(now);
    }

    pub(super) fn pump_speed_tests(&mut self, now: Now) {
        if self.speed_tests.is_empty() {
            return;
        }
        let command = Command::Set {
            path: KeyPath::new("/foo"),
            value: Some("bar".into()),
            expires_ns: None,
        };
        for mut test in std::mem::take(&mut self.speed_tests) {
            let mut refused = None;
            while test.has_room() && refused.is_none() {
                let asker = Asker::SpeedTest(test.ticket);
                refused = self.propose_write(now, &command, asker).err();
                test.proposed += 1;
            }
            match refused {
                Some(outcome) => self.answer(test.ticket, outcome),
                None => self.speed_tests.push(test),
            }
        }
    }

    /// A set of a test was carried out, or not.
    pub(super) fn on_speed_set(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(at) = self.speed_tests.iter().position(|t| t.ticket == ticket) else {
            return;
        };
        if let Outcome::Failed(_) = outcome {
            self.speed_tests.swap_remove(at);
            return self.answer(ticket, outcome);
        }
        self.speed_tests[at].done += 1;
        if self.speed_tests[at].done == SETS {
            self.speed_tests.swap_remove(at);
            self.answer(ticket, Outcome::SpeedTest);
        }
    }
}
