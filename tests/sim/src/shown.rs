//! What a machine has shown to clients, and what its next start may show.
//!
//! A machine writes a commit mark of its own within 100 ms after it has first shown the state of an
//! unmarked commit, and the mark is durable with its sync. So a start shows at least the last state
//! whose mark was durable. Two checks together say so: a mark is handed to the disk in time, and a
//! start finds every mark that was reported durable. Start at `Shown::on_shown` and
//! `Shown::check_marked`.
use super::truth::{Checked, violation};
use std::collections::VecDeque;
use tern::core::machine::Outcome;
use tern::core::raft::Persist;

/// A mark is handed to the disk so long after the state was shown, and a turn.
const MARK_US: u64 = 100_000 + 1_000;

/// What one process has shown.
#[derive(Default)]
pub struct Shown {
    /// States that are not marked: the last entry of each, and when it was first shown.
    unmarked: VecDeque<(u64, u64)>,
    /// All entries up to here are covered by marks that the disk was handed.
    marked: u64,
    /// Marks that are not durable, each with the number of its record.
    pending: VecDeque<(u64, u64)>,
    /// All entries up to here are covered by marks that are durable.
    durable: u64,
}

impl Shown {
    /// A process whose disk has a mark up to `marked`.
    pub fn new(marked: u64) -> Shown {
        Shown {
            marked,
            durable: marked,
            ..Shown::default()
        }
    }

    /// The disk is handed records; `lsn` is the number of the last one.
    pub fn on_persist(&mut self, records: &[Persist], lsn: u64) {
        for record in records {
            match record {
                Persist::Append { commit, .. } | Persist::Mark { commit } => {
                    self.marked = self.marked.max(commit.0);
                }
                Persist::Installed { meta, .. } => self.marked = self.marked.max(meta.index.0),
                Persist::Release { .. } | Persist::Repair(_) => {}
            }
        }
        if !records.is_empty() {
            self.pending.push_back((lsn, self.marked));
        }
        self.drop_marked();
    }

    /// A snapshot of this machine's own is durable: it covers all entries up to `index`.
    pub fn on_saved(&mut self, index: u64) {
        self.marked = self.marked.max(index);
        self.durable = self.durable.max(index);
        self.drop_marked();
    }

    fn drop_marked(&mut self) {
        while self.unmarked.front().is_some_and(|s| s.0 <= self.marked) {
            self.unmarked.pop_front();
        }
    }

    /// The records up to `lsn` are durable.
    pub fn on_synced(&mut self, lsn: u64) {
        while let Some((record, marked)) = self.pending.front()
            && *record <= lsn
        {
            self.durable = self.durable.max(*marked);
            self.pending.pop_front();
        }
    }

    /// The state as of the applied entry `index` is shown to a client.
    pub fn on_shown(&mut self, index: u64, now_us: u64) {
        let last = self.unmarked.back().map_or(self.marked, |s| s.0);
        if index > last {
            self.unmarked.push_back((index, now_us));
        }
    }

    /// No state stays unmarked for long. `may_mark` says whether a mark can cover an entry: the
    /// entry is durable here.
    pub fn check_marked(&self, id: u64, now_us: u64, may_mark: impl Fn(u64) -> bool) -> Checked {
        let Some((index, shown_us)) = self.unmarked.front() else {
            return Ok(());
        };
        if now_us <= shown_us + MARK_US || !may_mark(*index) {
            return Ok(());
        }
        let text = format!(
            "machine {id} has shown {index} {} us ago, and marks {}",
            now_us - shown_us,
            self.marked
        );
        violation("shown-not-marked", text)
    }

    /// What the next start shows at least.
    pub fn durable(&self) -> u64 {
        self.durable
    }
}

/// Whether an answer shows the state of the key space.
pub fn shows_state(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Event(_) | Outcome::Page { .. } | Outcome::Backlog { .. }
    )
}
