//! The durability gate: messages that wait until the disk has the term and the vote.
//!
//! A message carries the sender's term, and a vote or a campaign promises that this member will not
//! vote for another candidate in that term. If the member forgot the term in a crash, it could
//! break the promise (thesis 3.8, figure 3.1). So a message leaves only once the last record of
//! term and vote is durable. Until then the gate withholds it.
//!
//! What depends on durable *entries* is not withheld here. An acknowledgement or a commit is
//! computed from `Log::durable`, which moves with the same syncs.
//!
//! The gate also numbers the records for the disk. Start reading at [`Gate::pass`].
use std::collections::VecDeque;

use super::message::{Lsn, Message, PeerId};

/// Most messages that the gate withholds. Messages past that are dropped, which raft tolerates
/// like any loss.
const WITHHELD_MAX: usize = 4096;

/// Numbers records and withholds messages.
#[derive(Default)]
pub struct Gate {
    /// The number of the last record that was handed out; 0 before the first.
    last: Lsn,
    /// All records up to this one are durable; at most `last`.
    synced: Lsn,
    /// The last record that holds a term and a vote; at most `last`.
    state: Lsn,
    /// Each message with the record that it waits for, in the order in which they were sent. The
    /// records never fall, and each is later than `synced`.
    withheld: VecDeque<(Lsn, PeerId, Message)>,
}

impl Gate {
    /// The number of the last record that was handed out.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Numbers one more record.
    pub fn number_record(&mut self) -> Lsn {
        self.last = Lsn(self.last.0 + 1);
        self.last
    }

    /// The last record holds the current term and vote.
    pub fn on_state(&mut self) {
        self.state = self.last;
    }

    /// Whether the current term and vote are durable.
    pub fn is_state_durable(&self) -> bool {
        self.synced >= self.state
    }

    /// A message may leave: returns it if the current term and vote are durable, else withholds it.
    pub fn pass(&mut self, to: PeerId, message: Message) -> Option<(PeerId, Message)> {
        if self.is_state_durable() {
            return Some((to, message));
        }
        if self.withheld.len() < WITHHELD_MAX {
            self.withheld.push_back((self.state, to, message));
        }
        None
    }

    /// All records up to `lsn` are durable. Appends the messages that waited for one of them to
    /// `released`.
    ///
    /// # Panics
    ///
    /// If `lsn` was not handed out.
    pub fn on_synced(&mut self, lsn: Lsn, released: &mut Vec<(PeerId, Message)>) {
        assert!(lsn <= self.last, "only a record that exists is durable");
        self.synced = self.synced.max(lsn);
        while let Some((waits_for, _, _)) = self.withheld.front() {
            if *waits_for > lsn {
                return;
            }
            let (_, to, message) = self.withheld.pop_front().expect("looked at above");
            released.push((to, message));
        }
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self) {
        assert!(self.synced <= self.last, "a durable record exists");
        assert!(self.state <= self.last, "the record of the term exists");
        assert!(self.withheld.len() <= WITHHELD_MAX, "the gate is bounded");
        if let Some((waits_for, _, _)) = self.withheld.front() {
            assert!(*waits_for > self.synced, "a message waits for a sync");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Rpc, Term};
    use super::*;

    const TO: PeerId = PeerId(2);

    fn message(term: u64) -> Message {
        Message {
            term: Term(term),
            rpc: Rpc::TimeoutNow,
        }
    }

    #[test]
    fn a_message_waits_for_the_record_of_its_term() {
        let mut gate = Gate::default();
        assert!(gate.pass(TO, message(1)).is_some());
        gate.number_record();
        gate.on_state();
        gate.number_record();
        assert!(gate.pass(TO, message(2)).is_none());
        let mut released = Vec::new();
        gate.on_synced(Lsn(1), &mut released);
        assert_eq!(released, [(TO, message(2))]);
        assert!(gate.pass(TO, message(2)).is_some());
        gate.check_invariants();
    }

    #[test]
    fn a_later_term_is_waited_for_separately() {
        let mut gate = Gate::default();
        for term in [2, 3] {
            gate.number_record();
            gate.on_state();
            assert!(gate.pass(TO, message(term)).is_none());
        }
        let mut released = Vec::new();
        gate.on_synced(Lsn(1), &mut released);
        assert_eq!(released, [(TO, message(2))]);
        assert!(!gate.is_state_durable());
        gate.on_synced(Lsn(2), &mut released);
        assert_eq!(released.len(), 2);
        gate.check_invariants();
    }

    #[test]
    fn withheld_messages_are_bounded() {
        let mut gate = Gate::default();
        gate.number_record();
        gate.on_state();
        for _ in 0..WITHHELD_MAX + 1 {
            gate.pass(TO, message(1));
        }
        gate.check_invariants();
    }
}
