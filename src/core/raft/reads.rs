//! Linearizable reads without log entries: ReadIndex (thesis 6.4). No clock is trusted.
//!
//! A read is answered in three steps:
//! 1. It waits until this leader has committed an entry of its own term. Before that the leader may
//!    not know the commit index.
//! 2. It joins a round of heartbeats that is sent after the read arrived, and takes the commit
//!    index of that moment. Reads that arrive in one turn share a round.
//! 3. Once a majority of voters has answered the round, this member was still the leader when the
//!    round was sent. The read is answered when the owner has applied that commit index.
//!
//! Rounds overlap: a read that arrives waits neither for the answers to an earlier round nor for
//! other reads, so it takes one round trip. Each round has its own commit index. A lone voter needs
//! no round. Start reading at [`Reads`].
use std::collections::VecDeque;

use super::message::Index;
use super::{ProposalRefusal, Raft, ReadId};

/// Most rounds under way at a time. Each costs a message to every peer and its reply. On a line so
/// slow that four turns begin within its round trip, further reads share the next round.
const ROUNDS_MAX: usize = 4;

/// Most reads that are not answered. While a new leader cannot commit its first entry, because the
/// disks of a majority are full, no read is, and the requests that give up leave theirs here.
const READS_MAX: usize = 1 << 18;

/// A round of heartbeats under way.
struct Round {
    /// Its number, which the heartbeats carry and the replies repeat.
    number: u64,
    /// The commit index when the round began: the read index of its reads.
    commit: Index,
    /// How many reads belong to it. At least 1.
    reads: usize,
}

/// The reads that a leader has not answered yet. Empty unless this member leads.
pub struct Reads {
    /// The reads that have not joined a round.
    waiting: Vec<ReadId>,
    /// The rounds under way, oldest first; at most `ROUNDS_MAX`. Their numbers and their commit
    /// indexes rise.
    rounds: VecDeque<Round>,
    /// The reads that wait for `rounds`, in the order of the rounds.
    confirming: VecDeque<ReadId>,
    /// The number of the newest round. At least 1 and only rises, also from one leadership to the
    /// next, so a late reply to an old heartbeat confirms no new read.
    newest: u64,
}

impl Reads {
    /// No reads; the first heartbeats belong to round 1.
    pub fn new() -> Reads {
        Reads {
            waiting: Vec::new(),
            rounds: VecDeque::new(),
            confirming: VecDeque::new(),
            newest: 1,
        }
    }

    /// The round that each heartbeat carries now.
    pub fn newest_round(&self) -> u64 {
        self.newest
    }

    /// Whether a further read has to be refused.
    fn is_full(&self) -> bool {
        self.waiting.len() + self.confirming.len() >= READS_MAX
    }

    /// A read arrived.
    fn push(&mut self, id: ReadId) {
        self.waiting.push(id);
    }

    /// Starts a round for all waiting reads if there are any, unless `ROUNDS_MAX` rounds are under
    /// way. Returns whether it did.
    fn maybe_start_round(&mut self, commit: Index) -> bool {
        if self.waiting.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return false;
        }
        self.newest += 1;
        self.rounds.push_back(Round {
            number: self.newest,
            commit,
            reads: self.waiting.len(),
        });
        self.confirming.extend(self.waiting.drain(..));
        true
    }

    /// The number of the oldest round under way.
    fn oldest_round(&self) -> Option<u64> {
        self.rounds.front().map(|round| round.number)
    }

    /// The oldest round is confirmed: moves its reads to `out`.
    ///
    /// # Panics
    ///
    /// If no round is under way.
    fn finish_oldest_round(&mut self, out: &mut Vec<(ReadId, Index)>) {
        let round = self.rounds.pop_front().expect("a round is under way");
        for id in self.confirming.drain(..round.reads) {
            out.push((id, round.commit));
        }
    }

    /// Moves the reads that have not joined a round to `out`: they need none.
    fn finish_waiting(&mut self, commit: Index, out: &mut Vec<(ReadId, Index)>) {
        for id in self.waiting.drain(..) {
            out.push((id, commit));
        }
    }

    /// Moves all reads to `out`: this member does not lead any more.
    fn fail_all(&mut self, out: &mut Vec<ReadId>) {
        self.rounds.clear();
        out.extend(self.confirming.drain(..));
        out.append(&mut self.waiting);
    }

    /// Part of `Raft::check_invariants`; O(1), as there are few rounds.
    pub fn check_invariants(&self, leads: bool) {
        let is_empty = self.waiting.is_empty() && self.confirming.is_empty();
        assert!(leads || is_empty, "only a leader answers reads");
        assert!(self.newest > 0, "each heartbeat has a round");
        assert!(self.rounds.len() <= ROUNDS_MAX, "rounds are bounded");
        let unanswered = self.waiting.len() + self.confirming.len();
        assert!(unanswered <= READS_MAX, "reads are bounded");
        let reads: usize = self.rounds.iter().map(|round| round.reads).sum();
        assert_eq!(
            reads,
            self.confirming.len(),
            "a read that confirms has a round"
        );
        let last = self.rounds.back().map(|round| round.number);
        assert!(
            last.is_none_or(|last| last == self.newest),
            "the newest heartbeats carry the last round"
        );
    }
}

/// The rules that span parts.
impl Raft {
    /// A linearizable read arrived at this leader.
    pub(super) fn start_read(&mut self, id: ReadId) -> Result<(), ProposalRefusal> {
        if self.reads.is_full() {
            return Err(ProposalRefusal::Busy);
        }
        self.reads.push(id);
        self.maybe_finish_without_round();
        Ok(())
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
        self.on_active();
        self.send_heartbeats();
        self.maybe_finish_reads();
        true
    }

    /// Answers the reads of each round that a majority of voters has answered (step 3). Returns
    /// whether there was one.
    ///
    /// An answer to a later round counts for the earlier ones: this member was still the leader
    /// when that later heartbeat left. Learners do not count.
    pub(super) fn maybe_finish_reads(&mut self) -> bool {
        let mut has_finished = false;
        while let Some(round) = self.reads.oldest_round()
            && self.is_confirmed(round)
        {
            self.reads.finish_oldest_round(&mut self.out.reads);
            has_finished = true;
        }
        has_finished
    }

    /// Whether a majority of voters has answered this round or a later one.
    fn is_confirmed(&self, round: u64) -> bool {
        self.is_majority(|peer| peer.round() >= round)
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
    fn protocol_25_each_round_has_its_reads_and_its_commit_index() {
        let mut reads = Reads::new();
        reads.push(ReadId(1));
        assert!(reads.maybe_start_round(Index(5)));
        assert!(!reads.maybe_start_round(Index(5)), "no read waits");
        reads.push(ReadId(2));
        reads.push(ReadId(3));
        assert!(reads.maybe_start_round(Index(6)));
        assert_eq!((reads.oldest_round(), reads.newest_round()), (Some(2), 3));
        reads.check_invariants(true);
        let mut done = Vec::new();
        reads.finish_oldest_round(&mut done);
        assert_eq!(done, [(ReadId(1), Index(5))]);
        reads.finish_oldest_round(&mut done);
        assert_eq!(done[1..], [(ReadId(2), Index(6)), (ReadId(3), Index(6))]);
        assert_eq!(reads.oldest_round(), None);
    }

    #[test]
    fn protocol_25_reads_beyond_the_bound_share_the_next_round() {
        let mut reads = Reads::new();
        for id in 1..=4 {
            reads.push(ReadId(id));
            assert!(reads.maybe_start_round(Index(id)));
        }
        for id in 5..=6 {
            reads.push(ReadId(id));
            assert!(!reads.maybe_start_round(Index(id)));
        }
        let mut done = Vec::new();
        reads.finish_oldest_round(&mut done);
        assert!(reads.maybe_start_round(Index(7)));
        while reads.oldest_round().is_some() {
            reads.finish_oldest_round(&mut done);
        }
        assert_eq!(done[4..], [(ReadId(5), Index(7)), (ReadId(6), Index(7))]);
    }

    #[test]
    fn lost_leadership_fails_all_reads() {
        let mut reads = Reads::new();
        for id in 1..=2 {
            reads.push(ReadId(id));
            reads.maybe_start_round(Index(5));
        }
        reads.push(ReadId(3));
        let mut failed = Vec::new();
        reads.fail_all(&mut failed);
        assert_eq!(failed, [ReadId(1), ReadId(2), ReadId(3)]);
        reads.check_invariants(false);
    }

    #[test]
    fn reads_that_nothing_answers_are_bounded() {
        let mut reads = Reads::new();
        for id in 0..READS_MAX as u64 {
            assert!(!reads.is_full());
            reads.push(ReadId(id));
        }
        assert!(reads.is_full());
        assert!(reads.maybe_start_round(Index(7)));
        assert!(reads.is_full(), "a read in a round counts");
        reads.finish_oldest_round(&mut Vec::new());
        assert!(!reads.is_full());
        reads.check_invariants(true);
    }
}
