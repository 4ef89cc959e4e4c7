//! The durability gate: messages that wait until the disk has the term and the vote.
//!
//! A message carries the sender's term, and a vote or a campaign promises that this member will not
//! vote for another candidate in that term. If the member forgot the term in a crash, it could
//! break the promise (thesis 3.8, figure 3.1). So a message leaves only once a term and vote at
//! least as late as its own are durable. Until then the gate withholds it.
//!
//! # Two sequences
//!
//! Term and vote are numbered by `StateSeq`, the records of the log by `Lsn`. The disk reports each
//! sequence by itself, and neither implies the other: a later term can be durable while earlier
//! records of the log are not, and such records must not be acknowledged.
//!
//! What depends on durable *entries* is not withheld here. An acknowledgement or a commit is
//! computed from `Log::durable` when it is made, so its mark in the log is durable already, and
//! here it waits for its term only.
//!
//! The gate also hands out the numbers of both sequences. Start reading at [`Gate::pass`].
use std::collections::VecDeque;

use super::message::{Lsn, Message, PeerId, Rpc, StateSeq};

/// Most messages that the gate withholds. Messages past that are dropped, which raft tolerates
/// like any loss.
const WITHHELD_MAX: usize = 4096;

/// Most bytes of snapshots in them. A correct peer asks for one chunk at a time, a faulty one may ask
/// for thousands while a sync is running.
const WITHHELD_CHUNK_BYTES_MAX: usize = 8 << 20;

/// Numbers what goes to the disk, and withholds messages.
#[derive(Default)]
pub struct Gate {
    /// The number of the last record of the log that was handed out; 0 before the first.
    last_record: Lsn,
    /// The number of the last term and vote that was handed out; 0 before the first.
    last_state: StateSeq,
    /// This term and vote, or a later one, is durable; at most `last_state`.
    synced_state: StateSeq,
    /// Each message with the term and vote that it waits for, in the order in which they were sent.
    /// The numbers never fall, and each is later than `synced_state`.
    withheld: VecDeque<(StateSeq, PeerId, Message)>,
    /// The bytes of snapshots in `withheld`; at most `WITHHELD_CHUNK_BYTES_MAX`.
    chunk_bytes: usize,
}

/// The bytes of a snapshot in a message.
fn chunk_bytes_of(message: &Message) -> usize {
    match &message.rpc {
        Rpc::InstallSnapshot { data, .. } => data.len(),
        _ => 0,
    }
}

impl Gate {
    /// The number of the last record of the log that was handed out.
    pub fn last_record(&self) -> Lsn {
        self.last_record
    }

    /// Numbers one more record of the log.
    pub fn number_record(&mut self) -> Lsn {
        self.last_record = Lsn(self.last_record.0 + 1);
        self.last_record
    }

    /// Numbers one more term and vote.
    pub fn number_state(&mut self) -> StateSeq {
        self.last_state = StateSeq(self.last_state.0 + 1);
        self.last_state
    }

    /// Whether the current term and vote are durable.
    pub fn is_state_durable(&self) -> bool {
        self.synced_state == self.last_state
    }

    /// A message may leave: returns it if the current term and vote are durable, else withholds it.
    pub fn pass(&mut self, to: PeerId, message: Message) -> Option<(PeerId, Message)> {
        if self.is_state_durable() {
            return Some((to, message));
        }
        let chunk_bytes = self.chunk_bytes + chunk_bytes_of(&message);
        let has_room = self.withheld.len() < WITHHELD_MAX;
        if has_room && chunk_bytes <= WITHHELD_CHUNK_BYTES_MAX {
            self.chunk_bytes = chunk_bytes;
            self.withheld.push_back((self.last_state, to, message));
        }
        None
    }

    /// The term and vote `seq`, or a later one, is durable. Appends the messages that waited for it
    /// to `released`.
    ///
    /// # Panics
    ///
    /// If `seq` was not handed out.
    pub fn on_state_synced(&mut self, seq: StateSeq, released: &mut Vec<(PeerId, Message)>) {
        assert!(
            seq <= self.last_state,
            "only a state that exists is durable"
        );
        self.synced_state = self.synced_state.max(seq);
        while let Some((waits_for, _, _)) = self.withheld.front() {
            if *waits_for > seq {
                return;
            }
            let (_, to, message) = self.withheld.pop_front().expect("looked at above");
            self.chunk_bytes -= chunk_bytes_of(&message);
            released.push((to, message));
        }
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self) {
        assert!(
            self.synced_state <= self.last_state,
            "a durable state exists"
        );
        assert!(self.withheld.len() <= WITHHELD_MAX, "the gate is bounded");
        assert!(
            self.chunk_bytes <= WITHHELD_CHUNK_BYTES_MAX,
            "the gate is bounded"
        );
        assert!(
            !self.withheld.is_empty() || self.chunk_bytes == 0,
            "the bytes are those of messages"
        );
        if let Some((waits_for, _, _)) = self.withheld.front() {
            assert!(*waits_for > self.synced_state, "a message waits for a sync");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{SnapshotMeta, Term};
    use super::*;

    const TO: PeerId = PeerId(2);

    fn message(term: u64) -> Message {
        Message {
            term: Term(term),
            rpc: Rpc::TimeoutNow,
        }
    }

    #[test]
    fn withheld_chunks_are_bounded_by_their_bytes() {
        let chunk = || Message {
            term: Term(1),
            rpc: Rpc::InstallSnapshot {
                meta: SnapshotMeta::default(),
                offset: 0,
                done: false,
                data: vec![0; WITHHELD_CHUNK_BYTES_MAX / 2].into(),
            },
        };
        let mut gate = Gate::default();
        let seq = gate.number_state();
        for _ in 0..5 {
            gate.pass(TO, chunk());
            gate.check_invariants();
        }
        let mut released = Vec::new();
        gate.on_state_synced(seq, &mut released);
        assert_eq!(released.len(), 2);
        gate.check_invariants();
    }

    #[test]
    fn a_message_waits_for_its_term_and_not_for_the_log() {
        let mut gate = Gate::default();
        assert!(gate.pass(TO, message(1)).is_some());
        gate.number_record();
        gate.number_state();
        gate.number_record();
        assert!(gate.pass(TO, message(2)).is_none());
        let mut released = Vec::new();
        gate.on_state_synced(StateSeq(1), &mut released);
        assert_eq!(released, [(TO, message(2))]);
        assert!(gate.pass(TO, message(2)).is_some());
        gate.check_invariants();
    }

    #[test]
    fn a_later_term_is_waited_for_separately() {
        let mut gate = Gate::default();
        for term in [2, 3] {
            gate.number_state();
            assert!(gate.pass(TO, message(term)).is_none());
        }
        let mut released = Vec::new();
        gate.on_state_synced(StateSeq(1), &mut released);
        assert_eq!(released, [(TO, message(2))]);
        assert!(!gate.is_state_durable());
        gate.on_state_synced(StateSeq(2), &mut released);
        assert_eq!(released.len(), 2);
        gate.check_invariants();
    }

    #[test]
    fn withheld_messages_are_bounded() {
        let mut gate = Gate::default();
        gate.number_state();
        for _ in 0..WITHHELD_MAX + 1 {
            gate.pass(TO, message(1));
        }
        gate.check_invariants();
    }
}
