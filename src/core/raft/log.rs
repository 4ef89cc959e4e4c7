//! The log as memory holds it: all entries after the last released one (thesis 3.5, 5).
//!
//! The log knows which entries are durable, committed and applied, and which ones this machine's
//! disk has damaged. It decides nothing: what to append, truncate or release is decided in
//! `replication`, `following`, `snapshot` and `repair`. Start reading at [`Log`].
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::message::{Entry, EntryBody, Index, Lsn, Term};
use crate::core::allocator::join_freed_blocks;

/// In debug builds the sizes of the entries are added up after each input while the log is at most
/// this long; a longer log would make tests slow.
const SUMMED_ENTRIES_MAX: usize = 100;

/// An estimate of the memory of an entry besides its body, in bytes.
pub const ENTRY_BYTES: u64 = 96;

/// Most entries that are released at once: well below a millisecond.
const RELEASED_MAX: usize = 4000;

/// Entries are released at once until these have more bytes.
const RELEASED_BYTES_MAX: usize = 16 << 20;

/// How far the repair of a damaged entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RepairState {
    /// The body is missing.
    Missing,
    /// The body is back in memory. It is durable with this record.
    Repaired(Lsn),
}

/// The entries in memory, at consecutive indexes.
///
/// The order of the marks: `start` and `applied` are at most `commit`, and `commit` is at most the
/// last index. Nothing orders `durable()` and `commit`: an entry that is durable on a majority is
/// committed, even if it is not durable here. `applied` is before `start` between the installation
/// of a snapshot and the owner's report that it has restored its state.
pub struct Log {
    /// The last entry that is not held: a snapshot covers it and all entries before it, or they were
    /// applied while this member was alone.
    start: Index,
    /// The term of the entry at `start`.
    start_term: Term,
    /// All entries up to here are to be released; `start` follows, a portion at a time. At most
    /// `commit`. Only rises.
    release_to: Index,
    /// The entries after `start`; their terms never fall.
    entries: VecDeque<Entry>,
    /// The sum of the sizes of all bodies in `entries`, in bytes.
    bytes: usize,
    /// The former entries of each installed snapshot, until they are freed, a portion at a time.
    replaced: Vec<VecDeque<Entry>>,
    /// All entries up to here are in the log on the disk, damaged ones included. Moves forward with
    /// syncs and back with truncation.
    stable: Index,
    /// The records that are not durable yet, each with the last entry that becomes stable with it.
    /// In order of their numbers.
    pending: VecDeque<(Lsn, Index)>,
    /// The entries found damaged at the start whose repair is not durable yet. Never grows.
    damaged: BTreeMap<Index, RepairState>,
    /// All entries up to here are committed. Only rises.
    commit: Index,
    /// The owner has applied all entries up to here. Only rises.
    applied: Index,
}

impl Log {
    /// The log that the disk holds: all of it is durable. `commit` may lie outside of it.
    ///
    /// # Panics
    ///
    /// If `entries` are not at consecutive indexes after `start`. Recovery has checked that.
    pub fn new(start: Index, start_term: Term, entries: Vec<Entry>, commit: Index) -> Log {
        let mut damaged = BTreeMap::new();
        let mut bytes = 0;
        let mut last = start;
        for entry in &entries {
            assert_eq!(entry.index, last.next(), "recovered entries have no gaps");
            if matches!(entry.body, EntryBody::Faulty { .. }) {
                damaged.insert(entry.index, RepairState::Missing);
            }
            bytes += entry.size();
            last = entry.index;
        }
        Log {
            start,
            start_term,
            release_to: start,
            bytes,
            entries: entries.into(),
            replaced: Vec::new(),
            stable: last,
            pending: VecDeque::new(),
            damaged,
            commit: commit.max(start).min(last),
            applied: start,
        }
    }

    // -- what it holds

    /// The last entry that is not held.
    pub fn start(&self) -> Index {
        self.start
    }

    /// The last entry, durable or not.
    pub fn last_index(&self) -> Index {
        Index(self.start.0 + self.entries.len() as u64)
    }

    /// The term of the last entry.
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.start_term, |e| e.term)
    }

    /// An estimate of the memory of all entries held, in bytes. Those that a snapshot has replaced do
    /// not count.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes as u64 + self.entries.len() as u64 * ENTRY_BYTES
    }

    /// The term of the entry at `index`; `None` before `start()` and after `last_index()`.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start {
            return Some(self.start_term);
        }
        self.get(index).map(|e| e.term)
    }

    /// The entry at `index`; `None` up to `start()` and after `last_index()`.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.start.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The entries from `from` to `to` for one message: as many as `bytes_max` bytes of bodies
    /// allow, but at least one if there is one.
    pub fn slice(&self, from: Index, to: Index, bytes_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut at = from;
        while let Some(entry) = self.get(at) {
            bytes += entry.size();
            let is_full = !entries.is_empty() && bytes > bytes_max;
            if at > to || is_full {
                break;
            }
            entries.push(entry.clone());
            at = at.next();
        }
        entries
    }

    /// All entries from `from` on, in order; all that are held if `from` is before them.
    pub fn iter_from(&self, from: Index) -> impl Iterator<Item = &Entry> {
        let skip = from.0.saturating_sub(self.start.0 + 1);
        self.entries.iter().skip(skip as usize)
    }

    /// Where a log that has an entry of term `term` at `index` can agree with this one: the last
    /// entry here at or before `index` whose term is at most `term` (thesis 3.5, the last
    /// paragraphs). If that entry is not held any more, the last index that is not held, with
    /// term 0.
    pub fn find_conflict(&self, index: Index, term: Term) -> (Index, Term) {
        let mut at = index.min(self.last_index());
        while let Some(found) = self.term_at(at) {
            if found <= term || at == Index(0) {
                return (at, found);
            }
            at = at.prev();
        }
        (at, Term(0))
    }

    // -- durable, committed, applied

    /// All entries up to here are durable and intact: this member may acknowledge them.
    pub fn durable(&self) -> Index {
        match self.first_damaged() {
            Some(first) => self.stable.min(first.prev()),
            None => self.stable,
        }
    }

    /// The commit index.
    pub fn commit_index(&self) -> Index {
        self.commit
    }

    /// The commit mark that the log on the disk may hold: the highest committed index whose entry
    /// of the very same term is in the log file.
    ///
    /// Entries past `stable` do not count. Until their records are written, the log file may hold
    /// entries of another term in their place, and after a restart the mark would make those
    /// committed.
    pub fn commit_mark(&self) -> Index {
        self.commit.min(self.stable.max(self.start))
    }

    /// All entries up to `index` are committed. Does nothing if more are.
    pub fn commit_to(&mut self, index: Index) {
        self.commit = self.commit.max(index);
    }

    /// The owner has applied all entries up to here.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The owner has applied all entries up to `index`.
    ///
    /// # Panics
    ///
    /// If they are not all committed.
    pub fn on_applied(&mut self, index: Index) {
        assert!(index <= self.commit, "only committed entries are applied");
        self.applied = self.applied.max(index);
    }

    /// All records up to `lsn` are durable.
    pub fn on_synced(&mut self, lsn: Lsn) {
        while let Some((record, index)) = self.pending.front() {
            if *record > lsn {
                break;
            }
            self.stable = self.stable.max(*index);
            self.pending.pop_front();
        }
        self.damaged.retain(|_, damage| match damage {
            RepairState::Missing => true,
            RepairState::Repaired(record) => *record > lsn,
        });
    }

    // -- changes

    /// Appends an entry that is part of the record `lsn`.
    ///
    /// # Panics
    ///
    /// If its index is not the next one, or its term is before the last term.
    pub fn append(&mut self, entry: Entry, lsn: Lsn) {
        assert_eq!(entry.index, self.last_index().next(), "the log has no gaps");
        assert!(entry.term >= self.last_term(), "terms never fall");
        match self.pending.back_mut() {
            Some((last, index)) if *last == lsn => *index = entry.index,
            _ => self.pending.push_back((lsn, entry.index)),
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Removes all entries from `from` on. On the disk they are replaced by the next append.
    ///
    /// # Panics
    ///
    /// If one of them is committed.
    pub fn truncate(&mut self, from: Index) {
        assert!(from > self.commit, "a committed entry is never truncated");
        let kept = (from.0 - self.start.0 - 1) as usize;
        for entry in self.entries.drain(kept..) {
            self.bytes -= entry.size();
        }
        self.stable = self.stable.min(from.prev());
        for (_, index) in &mut self.pending {
            *index = (*index).min(from.prev());
        }
        self.damaged.split_off(&from);
    }

    /// Forgets all entries up to `through`, which memory need not hold: a portion now, the others by
    /// `release_some`.
    ///
    /// # Panics
    ///
    /// If `through` is after the last entry.
    pub fn release(&mut self, through: Index) {
        assert!(
            through <= self.last_index(),
            "only held entries are released"
        );
        self.release_to = self.release_to.max(through);
        self.release_some();
    }

    /// Frees the next portion of the entries that are to be released, or that a snapshot has
    /// replaced.
    pub fn release_some(&mut self) {
        if !self.wants_release() {
            return;
        }
        if self.start < self.release_to {
            self.release_portion();
        } else {
            self.free_replaced();
        }
        join_freed_blocks();
    }

    fn release_portion(&mut self) {
        let bytes_left = self.bytes.saturating_sub(RELEASED_BYTES_MAX);
        for _ in 0..RELEASED_MAX {
            self.release_first();
            if self.start == self.release_to {
                self.entries.shrink_to(2 * self.entries.len());
                return;
            }
            if self.bytes < bytes_left {
                return;
            }
        }
    }

    fn free_replaced(&mut self) {
        let Some(former) = self.replaced.last_mut() else {
            return;
        };
        let mut bytes = 0;
        for _ in 0..RELEASED_MAX {
            let Some(entry) = former.pop_front() else {
                self.replaced.pop();
                return;
            };
            bytes += entry.size();
            if bytes > RELEASED_BYTES_MAX {
                return;
            }
        }
    }

    /// Whether `release_some` has work to do.
    pub fn wants_release(&self) -> bool {
        self.start < self.release_to || !self.replaced.is_empty()
    }

    /// Whether the entries after `index` are held and none of them is to be released.
    pub fn keeps_after(&self, index: Index) -> bool {
        self.release_to <= index
    }

    fn release_first(&mut self) {
        let entry = self.entries.pop_front().expect("start is before the last");
        self.bytes -= entry.size();
        self.start = entry.index;
        self.start_term = entry.term;
    }

    /// Forgets the oldest entries up to `through`, which memory need not hold, as long as all that are
    /// held take more than `bytes_kept`.
    pub fn shrink(&mut self, through: Index, bytes_kept: u64) {
        let mut bytes = self.memory_bytes();
        let mut end = self.start;
        for entry in &self.entries {
            if bytes <= bytes_kept || entry.index > through {
                break;
            }
            bytes -= entry.size() as u64 + ENTRY_BYTES;
            end = entry.index;
        }
        if end > self.start {
            self.release(end);
        }
    }

    /// Continues after the snapshot that ends with the entry (`index`, `term`) and that is
    /// installed with the record `lsn`. The entries after it stay only if `keep_tail`. All entries
    /// up to `index` are committed, since a snapshot holds committed entries only. The entries that go
    /// are freed by `release_some`.
    pub fn install(&mut self, index: Index, term: Term, keep_tail: bool, lsn: Lsn) {
        let tail = if keep_tail {
            let covered = index.0.saturating_sub(self.start.0) as usize;
            self.damaged = self.damaged.split_off(&index.next());
            self.entries.split_off(covered)
        } else {
            self.pending.clear();
            self.stable = Index(0);
            self.damaged.clear();
            VecDeque::new()
        };
        self.bytes = tail.iter().map(Entry::size).sum();
        let former = std::mem::replace(&mut self.entries, tail);
        self.replaced.push(former);
        self.start = index;
        self.start_term = term;
        self.release_to = self.release_to.max(self.start);
        self.pending.push_back((lsn, index));
        self.commit_to(index);
    }

    // -- damage

    /// The first entry that is damaged, or whose repair is not durable yet.
    pub fn first_damaged(&self) -> Option<Index> {
        self.damaged.keys().next().copied()
    }

    /// The entries whose bodies are missing, in order.
    pub fn missing(&self) -> impl Iterator<Item = Index> {
        self.damaged
            .iter()
            .filter(|(_, damage)| **damage == RepairState::Missing)
            .map(|(index, _)| *index)
    }

    /// Puts the missing body of the entry at `index` back. It is durable with the record `lsn`.
    ///
    /// # Panics
    ///
    /// If no body is missing there.
    pub fn repair(&mut self, index: Index, body: Arc<[u8]>, lsn: Lsn) {
        let damage = self.damaged.insert(index, RepairState::Repaired(lsn));
        assert_eq!(
            damage,
            Some(RepairState::Missing),
            "only a missing body is put back"
        );
        let entry = &mut self.entries[(index.0 - self.start.0 - 1) as usize];
        entry.body = EntryBody::Good(body);
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self) {
        let last = self.last_index();
        assert!(self.start <= self.release_to, "the start follows");
        assert!(self.release_to <= self.commit, "a snapshot is committed");
        assert!(self.applied <= self.commit, "an applied entry is committed");
        assert!(self.commit <= last, "a committed entry is in the log");
        assert!(self.stable <= last, "a durable entry is in the log");
        assert!(self.last_term() >= self.start_term, "terms never fall");
        if let Some((_, index)) = self.pending.back() {
            assert!(*index <= last, "a pending entry is in the log");
        }
        if let Some((first, _)) = self.damaged.first_key_value() {
            assert!(*first > self.start, "a snapshot has no damaged entries");
        }
        if let Some((end, _)) = self.damaged.last_key_value() {
            assert!(*end <= last, "a damaged entry is in the log");
        }
        if let Some(entry) = self.entries.back() {
            assert_eq!(entry.index, last, "the log has no gaps");
        }
        if cfg!(debug_assertions) && self.entries.len() <= SUMMED_ENTRIES_MAX {
            let bytes: usize = self.entries.iter().map(Entry::size).sum();
            assert_eq!(bytes, self.bytes, "the sizes add up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            body: EntryBody::Good([0; 10].into()),
        }
    }

    /// Entries of these terms after index 4.
    fn log(terms: &[u64]) -> Log {
        let mut entries = Vec::new();
        for (at, term) in terms.iter().enumerate() {
            entries.push(entry(5 + at as u64, *term));
        }
        Log::new(Index(4), Term(1), entries, Index(0))
    }

    #[test]
    fn an_entry_is_durable_with_its_record() {
        let mut log = log(&[1, 1]);
        log.append(entry(7, 2), Lsn(1));
        log.append(entry(8, 2), Lsn(2));
        assert_eq!(log.durable(), Index(6));
        log.on_synced(Lsn(1));
        assert_eq!(log.durable(), Index(7));
        log.check_invariants();
    }

    #[test]
    fn the_commit_mark_covers_entries_in_the_log_file_only() {
        let mut log = log(&[1, 1]);
        log.truncate(Index(6));
        log.append(entry(6, 3), Lsn(1));
        log.append(entry(7, 3), Lsn(1));
        log.commit_to(Index(7));
        assert_eq!(log.commit_mark(), Index(5));
        log.on_synced(Lsn(1));
        assert_eq!(log.commit_mark(), Index(7));
    }

    #[test]
    fn a_truncated_entry_is_not_durable() {
        let mut log = log(&[1, 1]);
        log.append(entry(7, 2), Lsn(1));
        log.truncate(Index(6));
        log.append(entry(6, 3), Lsn(2));
        log.on_synced(Lsn(1));
        assert_eq!(log.durable(), Index(5));
        log.on_synced(Lsn(2));
        assert_eq!(log.durable(), Index(6));
        log.check_invariants();
    }

    #[test]
    fn a_repair_counts_once_it_is_durable() {
        let mut entries = vec![entry(5, 1), entry(6, 1)];
        entries[0].body = EntryBody::Faulty {
            len: 10,
            seed: 0,
            crc: 0,
        };
        let mut log = Log::new(Index(4), Term(1), entries, Index(6));
        assert_eq!(log.missing().collect::<Vec<_>>(), [Index(5)]);
        log.repair(Index(5), [0; 10].into(), Lsn(1));
        assert_eq!(log.missing().next(), None);
        assert_eq!(log.durable(), Index(4));
        log.on_synced(Lsn(1));
        assert_eq!(log.durable(), Index(6));
        log.check_invariants();
    }

    #[test]
    fn a_conflict_is_searched_a_term_at_a_time() {
        let log = log(&[1, 3, 3, 5]);
        assert_eq!(log.find_conflict(Index(9), Term(4)), (Index(7), Term(3)));
        assert_eq!(log.find_conflict(Index(7), Term(2)), (Index(5), Term(1)));
        assert_eq!(log.find_conflict(Index(5), Term(0)), (Index(3), Term(0)));
    }

    #[test]
    fn a_slice_has_at_least_one_entry() {
        let log = log(&[1, 1, 1]);
        assert_eq!(log.slice(Index(5), Index(7), 1).len(), 1);
        assert_eq!(log.slice(Index(5), Index(7), 20).len(), 2);
        assert_eq!(log.slice(Index(5), Index(6), 100).len(), 2);
        assert!(log.slice(Index(8), Index(9), 100).is_empty());
    }

    #[test]
    fn a_log_that_takes_much_is_shrunk() {
        let mut log = log(&[1, 1, 1, 1]);
        log.commit_to(Index(7));
        let each = 10 + ENTRY_BYTES;
        assert_eq!(log.memory_bytes(), 4 * each);
        log.shrink(Index(7), 4 * each);
        assert_eq!(log.start(), Index(4));
        log.shrink(Index(7), 3 * each - 1);
        assert_eq!(log.start(), Index(6));
        // No snapshot covers the last one.
        log.shrink(Index(7), 0);
        assert_eq!((log.start(), log.memory_bytes()), (Index(7), each));
        log.check_invariants();
    }

    #[test]
    fn a_long_log_is_released_a_portion_at_a_time() {
        let mut log = log(&vec![1; 3 * RELEASED_MAX]);
        let last = log.last_index();
        log.commit_to(last);
        log.release(last.prev());
        for portion in 1..=2 {
            assert_eq!(log.start(), Index(4 + portion * RELEASED_MAX as u64));
            assert!(
                !log.keeps_after(log.start()),
                "the next ones are to be released"
            );
            assert!(log.wants_release());
            log.release_some();
        }
        assert_eq!((log.start(), log.last_index()), (last.prev(), last));
        assert!(!log.wants_release());
        assert!(log.entries.capacity() < RELEASED_MAX);
        log.release_some();
        assert_eq!(log.start(), last.prev());
        log.check_invariants();
    }

    #[test]
    fn a_log_that_a_snapshot_replaces_is_freed_a_portion_at_a_time() {
        for keep_tail in [true, false] {
            let mut log = log(&[]);
            let body: Arc<[u8]> = vec![7; 10].into();
            let last = 4 + 3 * RELEASED_MAX as u64;
            for index in 5..=last {
                let entry = Entry {
                    body: EntryBody::Good(body.clone()),
                    ..entry(index, 1)
                };
                log.append(entry, Lsn(index));
            }
            log.on_synced(Lsn(last));
            log.install(Index(last - 1), Term(1), keep_tail, Lsn(last + 1));
            assert_eq!(log.start(), Index(last - 1));
            let kept = usize::from(keep_tail);
            assert_eq!(log.last_index(), Index(last - 1 + kept as u64));
            let mut held = Arc::strong_count(&body) - 1;
            assert_eq!(held, 3 * RELEASED_MAX, "nothing is freed at once");
            while log.wants_release() {
                log.release_some();
                let left = Arc::strong_count(&body) - 1;
                assert!(held - left <= RELEASED_MAX, "{held} {left}");
                held = left;
                log.check_invariants();
            }
            assert_eq!(held, kept);
        }
    }

    #[test]
    fn a_portion_of_large_entries_is_short() {
        let mut log = log(&[]);
        let body: Arc<[u8]> = vec![0; 6 << 20].into();
        for index in 5..11 {
            let large = Entry {
                body: EntryBody::Good(body.clone()),
                ..entry(index, 1)
            };
            log.append(large, Lsn(index));
        }
        log.on_synced(Lsn(10));
        log.commit_to(Index(10));
        log.release(Index(10));
        assert_eq!(log.start(), Index(7), "18 MiB");
        log.release_some();
        assert_eq!(log.start(), Index(10));
    }

    #[test]
    fn an_installed_snapshot_keeps_the_tail_or_drops_it() {
        let mut log = log(&[1, 1, 1]);
        log.install(Index(6), Term(1), true, Lsn(1));
        assert_eq!((log.start(), log.last_index()), (Index(6), Index(7)));
        log.check_invariants();
        log.install(Index(9), Term(2), false, Lsn(2));
        assert_eq!((log.start(), log.last_index()), (Index(9), Index(9)));
        log.check_invariants();
    }
}
