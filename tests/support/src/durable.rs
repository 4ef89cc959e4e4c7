//! The one interpreter of what the core hands to the disk: a log as it would be found after a power
//! failure. The simulator, the machine on a virtual clock and raft's traces build their disks from
//! it.
//!
//! It keeps the contract of the real log: entries stand at consecutive indexes, an append cuts what
//! stands from its first index on, a release removes a beginning. Start at `DurableLog::apply`.
use crate::rng::hash_bytes;
use std::collections::VecDeque;
use tern::core::raft::{Entry, EntryBody, HardState, Index, PeerId, Persist, Term};

/// A durable entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub entry: Entry,
    /// The hash of the body as it was before any damage; 0 when it never was whole here.
    pub hash: u64,
}

impl Record {
    fn new(entry: Entry) -> Record {
        let hash = body_hash(&entry.body).unwrap_or(0);
        Record { entry, hash }
    }

    /// Whether the body can be read.
    pub fn is_good(&self) -> bool {
        matches!(self.entry.body, EntryBody::Good(_))
    }
}

/// The hash of an entry's body; a damaged one has none that could be compared.
pub fn body_hash(body: &EntryBody) -> Option<u64> {
    match body {
        EntryBody::Good(bytes) => Some(hash_bytes(bytes)),
        EntryBody::Faulty { .. } => None,
    }
}

/// What recovery reports of a body that is damaged: its length and a checksum.
pub fn faulty(body: &[u8], seed: u32) -> EntryBody {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(body);
    EntryBody::Faulty {
        len: body.len() as u32,
        seed,
        crc: hasher.finalize(),
    }
}

/// A durable log with term, vote and commit mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableLog {
    pub term: Term,
    pub vote: Option<PeerId>,
    /// The highest commit index that was written.
    pub commit: Index,
    /// The index of the first record, or where it would stand; at least 1.
    first: u64,
    records: VecDeque<Record>,
    /// How many records have a damaged body.
    damaged: usize,
}

impl Default for DurableLog {
    fn default() -> DurableLog {
        DurableLog::after(0)
    }
}

impl DurableLog {
    /// An empty log that goes on after this index.
    pub fn after(index: u64) -> DurableLog {
        DurableLog {
            term: Term(0),
            vote: None,
            commit: Index(0),
            first: index + 1,
            records: VecDeque::new(),
            damaged: 0,
        }
    }

    /// The index of the first record, or where it would stand.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index of the last record; the one before `first` when there is none.
    pub fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    pub fn get(&self, index: u64) -> Option<&Record> {
        let at = index.checked_sub(self.first)?;
        self.records.get(at as usize)
    }

    /// The entries behind a snapshot that ends at this index.
    pub fn entries_after(&self, index: u64) -> Vec<Entry> {
        let records = self.records.iter().map(|r| &r.entry);
        records.filter(|e| e.index.0 > index).cloned().collect()
    }

    /// Whether no body is damaged.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0
    }

    /// Makes a term and vote durable.
    pub fn save_state(&mut self, state: HardState) {
        self.term = state.term;
        self.vote = state.vote;
    }

    /// Checks what the disk owes the core before it writes a record.
    ///
    /// # Panics
    /// When the record is of a term that is not durable: after a crash the log would be ahead of
    /// the term. When a mark covers entries that are not written: others may follow in their place.
    pub fn check_order(&self, op: &Persist) {
        if let Persist::Append { commit, .. } | Persist::Mark { commit } = op {
            assert!(commit.0 <= self.last(), "a mark does not overtake entries");
        }
        assert!(
            op.term().is_none_or(|term| term <= self.term),
            "the term is durable before the entries: {:?} with {op:?}",
            self.term
        );
    }

    /// Carries out one record of the core's.
    pub fn apply(&mut self, op: Persist) {
        match op {
            Persist::Append { entries, commit } => {
                self.append(entries);
                self.commit = self.commit.max(commit);
            }
            Persist::Mark { commit } => {
                self.commit = self.commit.max(commit);
            }
            Persist::Installed { meta, keep_tail } => self.install(meta.index.0, keep_tail),
            Persist::Release { through } => self.release(through.0),
            Persist::Repair(entry) => self.repair(entry),
        }
    }

    /// Appends entries in place of what stands from the first of them on.
    ///
    /// # Panics
    /// When they leave a gap, or begin before the log does.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(from) = entries.first().map(|e| e.index.0) else {
            return;
        };
        let (first, end) = (self.first, self.last() + 1);
        assert!(
            (first..=end).contains(&from),
            "entry {from} is not in {first}..={end}"
        );
        self.truncate(from);
        for (at, entry) in (from..).zip(entries) {
            assert_eq!(entry.index.0, at, "entries stand at consecutive indexes");
            self.damaged += usize::from(matches!(entry.body, EntryBody::Faulty { .. }));
            self.records.push_back(Record::new(entry));
        }
    }

    /// Removes the records from this index on and returns them.
    pub fn truncate(&mut self, from: u64) -> Vec<Record> {
        let at = from.saturating_sub(self.first) as usize;
        let gone = self.records.split_off(at.min(self.records.len()));
        self.damaged -= gone.iter().filter(|r| !r.is_good()).count();
        gone.into()
    }

    /// Puts records back that were removed, behind the others: a disk whose truncation did not
    /// last.
    pub fn put_back(&mut self, records: Vec<Record>) {
        self.damaged += records.iter().filter(|r| !r.is_good()).count();
        self.records.extend(records);
    }

    /// A snapshot up to `index` takes the place of the log, or only of its beginning.
    pub fn install(&mut self, index: u64, keep_tail: bool) {
        if keep_tail {
            self.release(index);
        } else {
            self.clear();
        }
        if self.records.is_empty() {
            self.first = index + 1;
        }
        self.commit = self.commit.max(Index(index));
    }

    /// Forgets all records and goes on after this index; term, vote and commit mark stay.
    pub fn start_after(&mut self, index: u64) {
        self.clear();
        self.first = index + 1;
    }

    fn clear(&mut self) {
        self.records.clear();
        self.damaged = 0;
    }

    fn release(&mut self, through: u64) {
        while self.first <= through
            && let Some(gone) = self.records.pop_front()
        {
            self.damaged -= usize::from(!gone.is_good());
            self.first += 1;
        }
    }

    fn repair(&mut self, entry: Entry) {
        let Some(at) = entry.index.0.checked_sub(self.first) else {
            return;
        };
        if let Some(record) = self.records.get_mut(at as usize)
            && record.entry.term == entry.term
            && !record.is_good()
        {
            record.entry = entry;
            self.damaged -= 1;
        }
    }

    /// Damages the body of one entry, unless it is damaged already.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn damage(&mut self, index: u64, seed: u32) {
        let at = index.checked_sub(self.first).expect("an entry of the log");
        let record = &mut self.records[at as usize];
        if let EntryBody::Good(bytes) = &record.entry.body {
            record.entry.body = faulty(bytes, seed);
            self.damaged += 1;
        }
    }
}
