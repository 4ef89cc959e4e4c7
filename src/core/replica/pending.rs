//! Proposals that wait for their entries: who asked for what, and until when.
//!
//! An entry decides what becomes of a proposal when it is applied at the same index: the same term
//! means that it is the one proposed, another that it is not. Who has waited 5 s is told that the
//! outcome is unknown. Start with `Parked`.
use crate::core::raft::{Index, Term};
use crate::core::seam::Ticket;
use std::collections::VecDeque;

/// How long a proposal may stay without an outcome.
pub const PROPOSAL_US_MAX: u64 = 5_000_000;

/// Who is told when the entry is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client's write: answered with its event.
    Write(Ticket),
    Config(Ticket),
    Remove(Ticket),
    /// Answered with the member's id.
    Join(Ticket),
    /// A speed test's set.
    SpeedTest(Ticket),
}

impl Asker {
    pub fn ticket(&self) -> Ticket {
        match *self {
            Asker::Write(ticket)
            | Asker::Config(ticket)
            | Asker::Remove(ticket)
            | Asker::Join(ticket)
            | Asker::SpeedTest(ticket) => ticket,
        }
    }
}

/// One proposal.
#[derive(Clone, Copy, Debug)]
pub struct Proposal {
    pub index: Index,
    pub term: Term,
    pub asker: Asker,
    due_us: u64,
}

/// All that wait. There is at most one a connection, and a bounded window for each speed test.
#[derive(Default)]
pub struct Parked {
    /// Of one leadership, mostly: indexes and deadlines rise.
    queue: VecDeque<Proposal>,
    /// Those from before that would not fit.
    orphans: Vec<Proposal>,
}

impl Parked {
    pub fn push(&mut self, due_us: u64, index: Index, term: Term, asker: Asker) {
        if self
            .queue
            .back()
            .is_some_and(|last| last.index >= index || last.due_us > due_us)
        {
            self.orphans.extend(self.queue.drain(..));
        }
        self.queue.push_back(Proposal {
            index,
            term,
            asker,
            due_us,
        });
    }

    /// Takes one proposal that was made for this index.
    pub fn take(&mut self, index: Index) -> Option<Proposal> {
        if self.queue.front().is_some_and(|p| p.index == index) {
            return self.queue.pop_front();
        }
        if self.orphans.is_empty() {
            return None;
        }
        let at = self.orphans.iter().position(|p| p.index == index)?;
        Some(self.orphans.swap_remove(at))
    }

    /// Takes those whose fate cannot be told any more: overdue ones, and those up to `through`,
    /// whose entries are in a snapshot that came from elsewhere.
    pub fn take_lost(&mut self, now_us: u64, through: Index, out: &mut Vec<Proposal>) {
        let lost = |p: &Proposal| p.due_us <= now_us || p.index <= through;
        while self.queue.front().is_some_and(lost) {
            out.extend(self.queue.pop_front());
        }
        if !self.orphans.is_empty() {
            out.extend(self.orphans.iter().filter(|p| lost(p)));
            self.orphans.retain(|p| !lost(p));
        }
    }

    /// Takes all of them.
    pub fn take_all(&mut self, out: &mut Vec<Proposal>) {
        out.extend(self.queue.drain(..));
        out.append(&mut self.orphans);
    }

    /// The client went away; its proposal is carried out without an answer.
    pub fn forget(&mut self, ticket: Ticket) {
        self.queue.retain(|p| p.asker.ticket() != ticket);
        self.orphans.retain(|p| p.asker.ticket() != ticket);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.orphans.is_empty()
    }

    pub fn next_deadline(&self) -> u64 {
        let first = self.queue.front().map_or(u64::MAX, |p| p.due_us);
        let orphans = self.orphans.iter().map(|p| p.due_us);
        orphans.fold(first, u64::min)
    }

    pub fn check_invariants(&self, applied: Index) {
        let first = self.queue.front();
        assert!(
            first.is_none_or(|p| p.index > applied),
            "what is applied is answered"
        );
    }
}
