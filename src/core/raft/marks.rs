//! Commit marks in the log on the disk: how far a restarted member knows its log to be committed.
//!
//! A member answers from its applied state. After a restart it applies the entries that its disk has
//! marked as committed, until a leader sends a later commit index. So a mark that lags behind the
//! state shown to a client lets a restarted member show an older state than before.
//!
//! A mark rides on each batch of entries. It covers the entries before the batch, so after the last
//! batch the newest commits are not marked. If no batch follows, a record of its own is written
//! `MARK_US` after the first unmarked commit whose state was shown. So a restarted member shows a
//! state that is older by at most `MARK_US` and one sync than the one it had shown; a linearizable
//! read never does.
//!
//! No mark of its own is written
//! - by a lone voter: its whole log is committed, and it applies all of it before it answers;
//! - if the disk would need another segment for it: the disk drops it then;
//! - while no state of an unmarked commit was shown: an idle member writes nothing.
//!
//! Start reading at [`CommitMarks`].
use super::Raft;
use super::message::{Index, Persist};
use crate::core::timer::Now;
use std::collections::VecDeque;

/// A mark of its own is written this long after the first unmarked commit that was shown, in
/// microseconds.
pub const MARK_US: u64 = 100_000;

/// A state that is shown within this time of an earlier one counts as shown at the earlier time, in
/// microseconds.
const SHOWN_STEP_US: u64 = 10_000;

/// What is marked, and what was shown.
#[derive(Default)]
pub struct CommitMarks {
    /// All entries up to here are marked as committed by records that the disk was handed, or by a
    /// snapshot. Only rises.
    marked: Index,
    /// The states that were shown and are not marked: the last entry of each, and when it was first
    /// shown, in microseconds of the monotonic clock. Both rise, and each index is past `marked`.
    shown: VecDeque<(Index, u64)>,
    /// A mark is due, and either the entries that it is to cover are not durable here yet, or the
    /// log has no room for it. The next sync of the log and the next report of room try again.
    is_put_off: bool,
}

impl CommitMarks {
    /// The disk has a mark up to `marked`.
    pub fn new(marked: Index) -> CommitMarks {
        CommitMarks {
            marked,
            ..CommitMarks::default()
        }
    }

    /// A record with a mark up to `index` was handed to the disk, or a snapshot covers the entries
    /// up to it.
    pub fn on_marked(&mut self, index: Index) {
        self.marked = self.marked.max(index);
        while self.shown.front().is_some_and(|(i, _)| *i <= self.marked) {
            self.shown.pop_front();
        }
        if self.shown.is_empty() {
            self.is_put_off = false;
        }
    }

    /// The state as of `index` is shown to a client.
    fn on_shown(&mut self, index: Index, now_us: u64) {
        if index <= self.marked {
            return;
        }
        match self.shown.back_mut() {
            Some((last, _)) if index <= *last => {}
            Some((last, at_us)) if now_us < *at_us + SHOWN_STEP_US => *last = index,
            _ => self.shown.push_back((index, now_us)),
        }
    }

    /// When a mark of its own is due.
    pub fn deadline_us(&self) -> Option<u64> {
        let (_, shown_us) = self.shown.front()?;
        (!self.is_put_off).then_some(shown_us + MARK_US)
    }

    /// Whether a mark of its own is due.
    fn is_due(&self, now_us: u64) -> bool {
        self.deadline_us().is_some_and(|at_us| at_us <= now_us)
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self) {
        if let Some((first, _)) = self.shown.front() {
            assert!(*first > self.marked, "what is shown here is not marked");
        }
        assert!(
            !self.is_put_off || !self.shown.is_empty(),
            "only a mark that is due is put off"
        );
    }
}

impl Raft {
    /// The state as of the applied entry `index` is shown to a client.
    pub fn on_shown(&mut self, now: Now, index: Index) {
        self.on_input(now);
        if !self.is_lone_voter() {
            self.marks.on_shown(index, self.now_us);
        }
        self.check_invariants();
    }

    /// Writes a mark of its own if one is due. Returns whether it did.
    pub(super) fn maybe_mark(&mut self) -> bool {
        if !self.marks.is_due(self.now_us) {
            return false;
        }
        self.write_mark()
    }

    /// The log was synced, or has more room: a mark that is due may cover more entries now.
    pub(super) fn maybe_mark_again(&mut self) -> bool {
        self.marks.is_put_off && self.write_mark()
    }

    fn write_mark(&mut self) -> bool {
        let commit = self.log.commit_mark();
        let may_write = commit > self.marks.marked && self.room.fits_in_reserve(0);
        if may_write {
            self.persist(Persist::Mark { commit });
            self.marks.on_marked(commit);
        }
        // A commit that is not covered yet waits for the sync of its entries, or for room.
        self.marks.is_put_off = !self.marks.shown.is_empty();
        may_write
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_due_after_the_first_unmarked_state_that_was_shown() {
        let mut marks = CommitMarks::new(Index(5));
        marks.on_shown(Index(5), 0);
        assert_eq!(marks.deadline_us(), None);
        marks.on_shown(Index(6), 1_000);
        marks.on_shown(Index(7), 2_000);
        marks.on_shown(Index(8), 20_000);
        assert_eq!(marks.deadline_us(), Some(1_000 + MARK_US));
        marks.on_marked(Index(7));
        assert_eq!(marks.deadline_us(), Some(20_000 + MARK_US));
        marks.on_marked(Index(9));
        assert_eq!(marks.deadline_us(), None);
        marks.check_invariants();
    }
}
