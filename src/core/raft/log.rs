//! The part of the log that memory holds: everything behind the last snapshot that was released.
//!
//! It knows which of its entries are durable (`stable`, moved by `on_synced`) and which of them
//! this machine's disk has damaged (`unsound`). It never decides anything: what to append, cut or
//! forget is `replication`, `snapshot` and `repair`. Start reading at `Log`.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::message::{Entry, EntryBody, Index, Lsn, Term};

/// The mark of an entry whose body has not come yet.
const MISSING: Lsn = Lsn(u64::MAX);

/// The entries in memory, at consecutive indexes.
pub struct Log {
    /// The entry before the first one held; what is at or before it is in a snapshot.
    start: Index,
    start_term: Term,
    entries: VecDeque<Entry>,
    /// Bytes of their bodies.
    bytes: usize,
    /// Entries up to here are durable, damaged ones included.
    stable: Index,
    /// What becomes durable with which sync, in order.
    pending: VecDeque<(Lsn, Index)>,
    /// Entries that were found damaged: `MISSING` until the body is known, then the sync that puts
    /// it back.
    unsound: BTreeMap<Index, Lsn>,
}

impl Log {
    /// What the disk holds: everything in it is durable.
    pub fn new(start: Index, start_term: Term, entries: Vec<Entry>) -> Log {
        let mut unsound = BTreeMap::new();
        for (entry, at) in entries.iter().zip(start.0 + 1..) {
            assert_eq!(entry.index.0, at, "recovered entries are consecutive");
            if matches!(entry.body, EntryBody::Faulty { .. }) {
                unsound.insert(entry.index, MISSING);
            }
        }
        let stable = Index(start.0 + entries.len() as u64);
        Log {
            start,
            start_term,
            bytes: entries.iter().map(Entry::size).sum(),
            entries: entries.into(),
            stable,
            pending: VecDeque::new(),
            unsound,
        }
    }

    /// The entry before the first one held.
    pub fn start(&self) -> Index {
        self.start
    }

    pub fn last_index(&self) -> Index {
        Index(self.start.0 + self.entries.len() as u64)
    }

    /// The bytes of all bodies held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.start_term, |e| e.term)
    }

    /// The term of an entry, or of the one before the first; `None` outside of that.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start {
            return Some(self.start_term);
        }
        self.get(index).map(|e| e.term)
    }

    pub fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.start.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The entries from `from` on, at least one if there is one, until their bodies exceed
    /// `bytes_max`; none past `to`.
    pub fn slice(&self, from: Index, to: Index, bytes_max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut at = from;
        while let Some(entry) = self.get(at).filter(|e| e.index <= to) {
            bytes += entry.size();
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
            at = at.next();
        }
        entries
    }

    /// Everything from `from` on, in order.
    pub fn iter_from(&self, from: Index) -> impl Iterator<Item = &Entry> {
        let skip = from.0.saturating_sub(self.start.0 + 1);
        self.entries.iter().skip(skip as usize)
    }

    /// Adds an entry that becomes durable with `lsn`.
    pub fn append(&mut self, entry: Entry, lsn: Lsn) {
        assert_eq!(entry.index, self.last_index().next(), "the log has no gaps");
        assert!(entry.term >= self.last_term(), "terms never go back");
        match self.pending.back_mut() {
            Some((last, index)) if *last == lsn => *index = entry.index,
            _ => self.pending.push_back((lsn, entry.index)),
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Drops everything from `from` on: a leader's log says otherwise.
    pub fn truncate(&mut self, from: Index) {
        assert!(
            from > self.start,
            "what is in a snapshot is never taken back"
        );
        let cut = self.entries.split_off((from.0 - self.start.0 - 1) as usize);
        self.bytes -= cut.iter().map(Entry::size).sum::<usize>();
        self.stable = self.stable.min(from.prev());
        for (_, index) in &mut self.pending {
            *index = (*index).min(from.prev());
        }
        self.unsound.split_off(&from);
    }

    /// Everything that was handed out up to `lsn` is durable.
    pub fn on_synced(&mut self, lsn: Lsn) {
        while let Some((_, index)) = self.pending.front().filter(|p| p.0 <= lsn) {
            self.stable = self.stable.max(*index);
            self.pending.pop_front();
        }
        self.unsound.retain(|_, repaired| *repaired > lsn);
    }

    /// Entries up to here are durable and whole: what this member may acknowledge.
    pub fn durable(&self) -> Index {
        self.first_unsound()
            .map_or(self.stable, |first| self.stable.min(first.prev()))
    }

    /// The first entry that is damaged, or whose repair is not durable yet.
    pub fn first_unsound(&self) -> Option<Index> {
        self.unsound.keys().next().copied()
    }

    /// The entries whose bodies are missing, in order.
    pub fn missing(&self) -> impl Iterator<Item = Index> {
        let missing = self.unsound.iter().filter(|(_, lsn)| **lsn == MISSING);
        missing.map(|(index, _)| *index)
    }

    /// Puts a body back, durable with `lsn`; the entry as it now is.
    pub fn repair(&mut self, index: Index, body: Arc<[u8]>, lsn: Lsn) -> Entry {
        let offset = (index.0 - self.start.0 - 1) as usize;
        let mark = self.unsound.insert(index, lsn);
        assert_eq!(mark, Some(MISSING), "only a damaged entry is repaired");
        self.entries[offset].body = EntryBody::Good(body);
        self.entries[offset].clone()
    }

    /// Forgets entries up to and including this one.
    pub fn release(&mut self, through: Index) {
        assert!(through <= self.last_index(), "only what is there goes");
        while self.start < through {
            let entry = self.entries.pop_front().expect("counted above");
            self.bytes -= entry.size();
            self.start = entry.index;
            self.start_term = entry.term;
        }
        self.entries.shrink_to(2 * self.entries.len());
    }

    /// Begins again behind a snapshot that becomes durable with `lsn`.
    pub fn install(&mut self, index: Index, term: Term, keep_tail: bool, lsn: Lsn) {
        if keep_tail {
            self.release(index);
        } else {
            self.entries.clear();
            self.bytes = 0;
            self.pending.clear();
            self.stable = Index(0);
            self.start = index;
        }
        self.start_term = term;
        let tail = self.unsound.split_off(&index.next());
        self.unsound = if keep_tail { tail } else { BTreeMap::new() };
        self.pending.push_back((lsn, index));
    }

    /// The last entry at or before `index` whose term is at most `term` (or whose term is not known
    /// here).
    pub fn find_conflict(&self, index: Index, term: Term) -> (Index, Term) {
        let mut at = index.min(self.last_index());
        while let Some(found) = self.term_at(at) {
            if found <= term || at.0 == 0 {
                return (at, found);
            }
            at = at.prev();
        }
        (at, Term(0))
    }

    /// Closes each input of raft.
    pub fn check_invariants(&self) {
        assert!(self.stable <= self.last_index(), "durable means it is here");
        let pending = self.pending.back();
        assert!(
            pending.is_none_or(|p| p.1 <= self.last_index()),
            "nothing pends that is not here"
        );
        assert!(self.last_term() >= self.start_term, "terms never go back");
    }
}
