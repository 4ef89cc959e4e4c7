//! Linearizable reads without log entries: ReadIndex (thesis 6.4). No clock is trusted.
//!
//! A read waits until this leader has committed in its own term, then for a round of heartbeats
//! that was sent after it came and that a majority of voters has answered. One round at a time,
//! shared by all that wait.
use super::fault::RaftFault;
use super::{Index, Raft, ReadId};

/// The reads of a leader that wait.
#[derive(Default)]
pub struct Reads {
    /// Not in a round yet.
    waiting: Vec<ReadId>,
    /// In the round that is under way, with the commit index when it began.
    asked: Vec<(ReadId, Index)>,
    /// How many rounds have begun; rises for ever, so that no old answer fits a new one.
    rounds: u64,
}

impl Reads {
    /// The present round; every heartbeat has one, and 0 marks what is none.
    pub fn round(&self) -> u64 {
        self.rounds + 1
    }
}

impl Raft {
    pub(super) fn start_read(&mut self, id: ReadId) {
        if self.has(RaftFault::ReadWithoutRound) {
            return self.out.reads.push((id, self.commit_index));
        }
        self.reads.waiting.push(id);
        self.release_reads();
    }

    /// The lone voter needs no round; it waits only for its first commit.
    pub(super) fn release_reads(&mut self) {
        if !self.may_read() || !self.is_lone_voter() {
            return;
        }
        for id in self.reads.waiting.drain(..) {
            self.out.reads.push((id, self.commit_index));
        }
    }

    /// Before it has committed in its own term a leader may not know the commit index (6.4, step
    /// 1).
    fn may_read(&self) -> bool {
        self.commit_index >= self.nop || self.has(RaftFault::ReadBeforeNop)
    }

    /// Starts a round for the reads that have gathered, unless one is under way.
    pub(super) fn maybe_start_round(&mut self) {
        if self.reads.waiting.is_empty() || !self.reads.asked.is_empty() || !self.may_read() {
            return;
        }
        let commit = self.commit_index;
        let reads = &mut self.reads;
        reads.rounds += 1;
        reads
            .asked
            .extend(reads.waiting.drain(..).map(|id| (id, commit)));
        self.send_heartbeats();
        self.maybe_finish_reads();
    }

    /// The round is answered by a majority: this was the leader when it was sent.
    pub(super) fn maybe_finish_reads(&mut self) {
        let round = self.reads.round();
        if !self.reads.asked.is_empty() && self.is_majority(|p| p.round >= round) {
            self.out.reads.append(&mut self.reads.asked);
        }
    }

    /// Leadership is lost: nothing can be said of the reads that wait.
    pub(super) fn fail_reads(&mut self) {
        let asked = self.reads.asked.drain(..).map(|(id, _)| id);
        self.out.failed_reads.extend(asked);
        self.out.failed_reads.append(&mut self.reads.waiting);
    }
}
