//! Linearizable reads without log entries: ReadIndex (thesis 6.4). No clock is trusted.
//!
//! A read is answered in three steps:
//! 1. It waits until this leader has committed an entry of its own term. Before that the leader may
//!    not know the commit index.
//! 2. It joins a round of heartbeats that is sent after the read arrived, and takes the commit
//!    index of that moment.
//! 3. Once a majority of voters has answered the round, this member was still the leader when the
//!    round was sent. The read is answered when the owner has applied that commit index.
//!
//! One round is under way at a time; all reads that arrive meanwhile share the next one. A lone
//! voter needs no round. Start reading at [`Reads`].
use super::message::Index;
use super::{Raft, ReadId};

/// The reads that a leader has not answered yet. Empty unless this member leads.
pub struct Reads {
    /// The reads that have not joined a round.
    waiting: Vec<ReadId>,
    /// The reads of the round that is under way, each with the commit index when the round began.
    /// Empty if no round is under way.
    confirming: Vec<(ReadId, Index)>,
    /// The number of the current round. At least 1 and only rises, also from one leadership to the
    /// next, so a late reply to an old heartbeat confirms no new read.
    round: u64,
}

impl Reads {
    /// No reads; the first heartbeats belong to round 1.
    pub fn new() -> Reads {
        Reads {
            waiting: Vec::new(),
            confirming: Vec::new(),
            round: 1,
        }
    }

    /// The round that each heartbeat carries now.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// A read arrived.
    fn push(&mut self, id: ReadId) {
        self.waiting.push(id);
    }

    /// Starts a round for all waiting reads if there are any and no round is under way. Returns
    /// whether it did.
    fn maybe_start_round(&mut self, commit: Index) -> bool {
        if self.waiting.is_empty() || self.is_confirming() {
            return false;
        }
        self.round += 1;
        for id in self.waiting.drain(..) {
            self.confirming.push((id, commit));
        }
        true
    }

    /// Whether a round is under way.
    fn is_confirming(&self) -> bool {
        !self.confirming.is_empty()
    }

    /// The round is confirmed: moves its reads to `out`.
    fn finish_round(&mut self, out: &mut Vec<(ReadId, Index)>) {
        out.append(&mut self.confirming);
    }

    /// Moves the reads that have not joined a round to `out`: they need none.
    fn finish_waiting(&mut self, commit: Index, out: &mut Vec<(ReadId, Index)>) {
        for id in self.waiting.drain(..) {
            out.push((id, commit));
        }
    }

    /// Moves all reads to `out`: this member does not lead any more.
    fn fail_all(&mut self, out: &mut Vec<ReadId>) {
        for (id, _) in self.confirming.drain(..) {
            out.push(id);
        }
        out.append(&mut self.waiting);
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, leads: bool) {
        let is_empty = self.waiting.is_empty() && self.confirming.is_empty();
        assert!(leads || is_empty, "only a leader answers reads");
        assert!(self.round > 0, "each heartbeat has a round");
    }
}

/// The rules that span parts.
impl Raft {
    /// A linearizable read arrived at this leader.
    pub(super) fn start_read(&mut self, id: ReadId) {
        self.reads.push(id);
        self.maybe_finish_without_round();
    }

    /// Answers the waiting reads at once if this member is the only voter: its own commit index
    /// needs no confirmation. Returns whether it could.
    pub(super) fn maybe_finish_without_round(&mut self) -> bool {
        let needs_no_round = self.is_lone_voter() && self.may_read();
        if !needs_no_round {
            return false;
        }
        let commit = self.log.commit_index();
        self.reads.finish_waiting(commit, &mut self.out.reads);
        true
    }

    /// Whether this leader knows the commit index (step 1).
    fn may_read(&self) -> bool {
        let commit = self.log.commit_index();
        self.leader_state.has_committed(commit)
    }

    /// Starts a round for the reads that wait (step 2). Returns whether it did.
    pub(super) fn maybe_start_round(&mut self) -> bool {
        let commit = self.log.commit_index();
        if !self.may_read() || !self.reads.maybe_start_round(commit) {
            return false;
        }
        self.send_heartbeats();
        self.maybe_finish_reads();
        true
    }

    /// Answers the reads of the round if a majority has answered it (step 3). Returns whether it
    /// did. Learners do not count.
    pub(super) fn maybe_finish_reads(&mut self) -> bool {
        let round = self.reads.round();
        if !self.reads.is_confirming() || !self.is_majority(|peer| peer.round() >= round) {
            return false;
        }
        self.reads.finish_round(&mut self.out.reads);
        true
    }

    /// This member does not lead any more, so it cannot answer its reads.
    pub(super) fn fail_reads(&mut self) {
        self.reads.fail_all(&mut self.out.failed_reads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_arrive_during_a_round_share_the_next() {
        let mut reads = Reads::new();
        reads.push(ReadId(1));
        assert!(reads.maybe_start_round(Index(5)));
        assert_eq!(reads.round(), 2);
        reads.push(ReadId(2));
        reads.push(ReadId(3));
        assert!(!reads.maybe_start_round(Index(6)));
        let mut done = Vec::new();
        reads.finish_round(&mut done);
        assert_eq!(done, [(ReadId(1), Index(5))]);
        assert!(reads.maybe_start_round(Index(7)));
        reads.finish_round(&mut done);
        assert_eq!(done[1..], [(ReadId(2), Index(7)), (ReadId(3), Index(7))]);
    }

    #[test]
    fn lost_leadership_fails_all_reads() {
        let mut reads = Reads::new();
        reads.push(ReadId(1));
        reads.maybe_start_round(Index(5));
        reads.push(ReadId(2));
        let mut failed = Vec::new();
        reads.fail_all(&mut failed);
        assert_eq!(failed, [ReadId(1), ReadId(2)]);
        reads.check_invariants(false);
    }
}
