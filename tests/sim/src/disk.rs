//! The simulated disk of one machine: what is durable, what is under way, and what a crash leaves
//! of it.
//!
//! `Image` is what a restart would find if the power failed between two syncs; `Disk` adds what was
//! handed over since. A crash keeps the image and a random beginning of what was being synced, cut
//! anywhere between two entries (that the log recovers exactly such a beginning from torn sectors
//! is shown by the tests of the crate `wal`). A sync never ends in the turn that started it. Damage
//! to single entries becomes `EntryBody::Faulty`, as recovery would report it. Start at `Disk::append`.
use std::collections::VecDeque;
use tern::core::machine::StandbyInfo;
use tern::core::raft::room::record_cost;
use tern::core::raft::{HardState, Index, Lsn, PeerId, Persist, SnapshotMeta, StateSeq, Term};
use tern_support::durable::{DurableLog, Record};
use tern_support::rng::Rng;

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    pub bytes: Vec<u8>,
    /// The log has gone on from it: it was made here, or the record of its installation is
    /// durable.
    pub in_use: bool,
}

/// What of an entry an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Never,
    /// It is in the snapshot.
    Behind,
    Entry {
        term: u64,
        hash: u64,
        good: bool,
    },
}

/// What is durable.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub log: DurableLog,
    pub id: PeerId,
    pub incarnation: u64,
    /// At most two, the newest last, and one that is not yet in use.
    pub snapshots: Vec<Snapshot>,
    /// The file of standby mode.
    pub standby: Option<StandbyInfo>,
}

impl Image {
    pub fn newest(&self) -> Option<&Snapshot> {
        self.snapshots.iter().rev().find(|s| s.in_use)
    }

    /// Whether no entry up to `index` is damaged; those that are in the snapshot do not matter.
    pub fn is_good_to(&self, index: u64) -> bool {
        // Recovery uses the leader's snapshot as soon as it is in place.
        let behind = self
            .snapshots
            .iter()
            .map(|s| s.meta.index.0)
            .max()
            .unwrap_or(0);
        let matters = |r: &&Record| r.entry.index.0 > behind && r.entry.index.0 <= index;
        self.log.is_whole() || self.log.records().filter(matters).all(Record::is_good)
    }

    /// The damaged entries.
    pub fn damaged(&self) -> Vec<u64> {
        let damaged = self.log.records().filter(|r| !r.is_good());
        damaged.map(|r| r.entry.index.0).collect()
    }

    /// The last index that is held in any form.
    pub fn last(&self) -> u64 {
        let behind = self.newest().map_or(0, |s| s.meta.index.0);
        behind.max(self.log.last())
    }

    /// The term of the last entry, or of the newest snapshot.
    fn last_term(&self) -> Term {
        let entry = self.log.get(self.log.last()).map(|r| r.entry.term);
        let snapshot = self.newest().map(|s| s.meta.term);
        entry.or(snapshot).unwrap_or(Term(0))
    }

    pub fn held(&self, index: u64) -> Held {
        if let Some(record) = self.log.get(index) {
            return Held::Entry {
                term: record.entry.term.0,
                hash: record.hash,
                good: record.is_good(),
            };
        }
        match self.newest() {
            Some(s) if index <= s.meta.index.0 => Held::Behind,
            _ => Held::Never,
        }
    }

    fn apply(&mut self, op: Persist) {
        if let Persist::Installed { meta, .. } = &op {
            self.use_snapshot(meta);
        }
        self.log.apply(op);
    }

    /// The record that names a received snapshot is durable.
    fn use_snapshot(&mut self, meta: &SnapshotMeta) {
        let at = self
            .snapshots
            .iter()
            .position(|s| s.meta.index == meta.index && s.meta.term == meta.term);
        let at = at.unwrap_or_else(|| {
            let here: Vec<_> = self
                .snapshots
                .iter()
                .map(|s| (s.meta.index.0, s.in_use))
                .collect();
            panic!(
                "a snapshot is on the disk before the record that names it: {} in {here:?}",
                meta.index.0
            )
        });
        let mut snapshot = self.snapshots.remove(at);
        snapshot.in_use = true;
        // Newer ones stay: one that was received meanwhile, whose record follows, and those that
        // were saved here while the sync of this record took its time. Two are kept, the newest.
        self.snapshots.retain(|s| s.meta.index > meta.index);
        if self.snapshots.iter().filter(|s| s.in_use).count() < 2 {
            self.snapshots.insert(0, snapshot);
        }
    }

    /// The leader's snapshot is in place and the record that says so is not: recovery uses it, and
    /// drops a log that does not lead up to it.
    fn follow_snapshot(&mut self) {
        let behind = self.newest().map_or(0, |s| s.meta.index.0);
        let received = self
            .snapshots
            .iter()
            .filter(|s| !s.in_use && s.meta.index.0 > behind);
        let newest = received
            .max_by_key(|s| s.meta.index)
            .map(|s| s.meta.clone());
        for snapshot in &mut self.snapshots {
            snapshot.in_use |= newest.as_ref() == Some(&snapshot.meta);
        }
        self.snapshots.retain(|s| s.in_use);
        self.snapshots.sort_by_key(|s| s.meta.index);
        let Some(meta) = newest else {
            return;
        };
        let follows = match self.held(meta.index.0) {
            Held::Entry { term, .. } => term == meta.term.0,
            Held::Behind | Held::Never => self.log.is_empty() || self.log.first() > meta.index.0,
        };
        if !follows {
            self.log.start_after(meta.index.0);
        }
    }

    /// A snapshot may be durable before the entries that it holds: then the log goes on behind it.
    fn start_behind_snapshot(&mut self) {
        let behind = self.newest().map_or(0, |s| s.meta.index.0);
        if self.log.last() < behind {
            self.log.start_after(behind);
        }
    }

    /// Damages the body of one entry.
    pub fn damage(&mut self, rng: &mut Rng, index: u64) {
        if self.log.get(index).is_some_and(Record::is_good) {
            self.log.damage(index, rng.next_u64() as u32);
        }
    }

    /// Keeps a snapshot that was made here; the index of the older of the two kept ones.
    fn keep(&mut self, snapshot: Snapshot) -> u64 {
        let at = self
            .snapshots
            .iter()
            .position(|s| !s.in_use || s.meta.index > snapshot.meta.index);
        self.snapshots
            .insert(at.unwrap_or(self.snapshots.len()), snapshot);
        while self.snapshots.iter().filter(|s| s.in_use).count() > 2 {
            self.snapshots.remove(0);
        }
        self.snapshots[0].meta.index.0
    }

    /// The newest snapshot turns out to be damaged: go back to the one before if the log still
    /// reaches it.
    pub fn lose_newest_snapshot(&mut self) -> bool {
        self.snapshots.retain(|s| s.in_use);
        let able = self.snapshots.len() == 2
            && !self.log.is_empty()
            && self.log.first() <= self.snapshots[0].meta.index.0 + 1;
        if able {
            self.snapshots.pop();
        }
        able
    }
}

fn put_piece(file: &mut Vec<u8>, piece: &[u8]) {
    file.extend_from_slice(&(piece.len() as u32).to_le_bytes());
    file.extend_from_slice(piece);
}

/// The pieces that a snapshot file consists of.
pub fn pieces(mut file: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = file.split_first_chunk::<4>() {
        let (piece, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        pieces.push(piece);
        file = rest;
    }
    pieces
}

/// The file of snapshot zero.
pub fn file_of(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for chunk in chunks {
        put_piece(&mut file, chunk);
    }
    file
}

/// Lies of the disk: planted faults of the shell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// A sync is reported that has not been made.
    pub no_sync: bool,
    /// Term and vote are not written.
    pub no_state: bool,
    /// A snapshot's directory entry is not synced: the file is gone after a crash.
    pub no_directory: bool,
    /// Only the first entry of each batch is written.
    pub short_batch: bool,
    /// A truncation is forgotten: old entries come back behind a shorter new end.
    pub stale_tail: bool,
    /// A repaired body is not written.
    pub no_repair: bool,
    /// A snapshot file keeps the content of the one before it.
    pub old_snapshot: bool,
    /// A power cut takes the last durable entry.
    pub tail_lost: bool,
    /// A power cut takes the newest term and vote: the ones before are found.
    pub state_lost: bool,
    // -- not of the disk: what the shell does
    /// A wiped directory keeps its number.
    pub incarnation_kept: bool,
    pub event_lost: bool,
    pub event_twice: bool,
    pub events_swapped: bool,
}

/// A snapshot file that is being written: pieces of this machine's own, each behind its length, or
/// the bytes of the leader's file.
#[derive(Debug)]
struct Writing {
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

pub struct Disk {
    pub image: Image,
    pub lies: Lies,
    /// Term and vote, handed over and not yet durable.
    waiting_state: Option<HardState>,
    /// A running sync makes this term and vote durable.
    syncing_state: Option<HardState>,
    /// The term and vote before the durable ones.
    former_state: (Term, Option<PeerId>),
    /// Handed over, not yet durable.
    waiting: VecDeque<Persist>,
    /// The number of the last operation that is durable, of the last that was reported so, and of
    /// the last that was handed over.
    durable: u64,
    reported: u64,
    last: u64,
    /// How many bytes the log still takes; `None`: any number.
    room: Option<u64>,
    /// A running sync covers up to here.
    syncing: Option<u64>,
    writing: Option<Writing>,
    /// Whole, their syncs under way, in order.
    finishing: VecDeque<Writing>,
    /// The leader's, coming in; the flag says that it is whole and its sync under way.
    receiving: Option<(Writing, bool)>,
}

impl Disk {
    pub fn new(image: Image, lies: Lies) -> Disk {
        Disk {
            image,
            lies,
            waiting_state: None,
            syncing_state: None,
            former_state: (Term(0), None),
            waiting: VecDeque::new(),
            durable: 0,
            reported: 0,
            last: 0,
            room: None,
            syncing: None,
            writing: None,
            finishing: VecDeque::new(),
            receiving: None,
        }
    }

    /// Takes a batch over; `lsn` is the number of its last operation.
    pub fn append(&mut self, ops: &mut Vec<Persist>, lsn: Lsn) {
        self.last += ops.len() as u64;
        assert!(self.last == lsn.0, "operations are numbered without a gap");
        if let Some(room) = &mut self.room {
            let cost = ops.iter().map(record_cost).sum();
            let left = room.checked_sub(cost);
            *room = left.expect("what is handed over fits into the log");
        }
        self.waiting.extend(ops.drain(..));
    }

    /// From now on the log takes this many bytes; `None`: any number.
    pub fn set_room(&mut self, room: Option<u64>) {
        self.room = room;
    }

    /// Takes a term and vote over.
    pub fn save_state(&mut self, state: HardState) {
        self.waiting_state = Some(state);
    }

    /// Starts a sync of term and vote if one waits and none is running.
    pub fn start_state_sync(&mut self) -> bool {
        if self.syncing_state.is_some() {
            return false;
        }
        self.syncing_state = self.waiting_state.take();
        self.syncing_state.is_some()
    }

    /// The running sync of term and vote is over: the number to report to the core.
    pub fn end_state_sync(&mut self) -> StateSeq {
        let state = self.syncing_state.take().expect("a sync was running");
        self.write_state(state);
        state.seq
    }

    fn write_state(&mut self, state: HardState) {
        if !self.lies.no_state {
            self.former_state = (self.image.log.term, self.image.log.vote);
            self.image.log.save_state(state);
        }
    }

    /// Starts a sync of the log if there is something to sync and none is running. It covers the
    /// records whose term is durable.
    pub fn start_sync(&mut self) -> bool {
        if self.syncing.is_some() {
            return false;
        }
        let term = if self.lies.no_state {
            Term(u64::MAX)
        } else {
            self.image.log.term
        };
        let is_durable = |op: &&Persist| op.term().is_none_or(|of| of <= term);
        let count = self.waiting.iter().take_while(is_durable).count() as u64;
        // What an untrue sync has left waiting is reported already.
        let through = self.durable + count;
        if through <= self.reported {
            return false;
        }
        self.syncing = Some(through);
        true
    }

    /// The running sync is over: the Lsn to report to the core.
    pub fn end_sync(&mut self) -> Lsn {
        let through = self.syncing.take().expect("a sync was running");
        self.reported = through;
        if self.lies.no_sync {
            // Reported, but only half of it is there; the rest follows with a later sync.
            let late = (through - self.durable) / 2;
            self.write(through - late);
            return Lsn(through);
        }
        self.write(through);
        Lsn(through)
    }

    fn write(&mut self, through: u64) {
        while self.durable < through {
            let op = self.waiting.pop_front().expect("what is not durable waits");
            self.durable += 1;
            self.write_one(op);
        }
    }

    fn write_one(&mut self, op: Persist) {
        let lies = &self.lies;
        if !(lies.no_state || lies.no_sync || lies.short_batch || lies.no_directory) {
            self.image.log.check_order(&op);
        }
        match op {
            Persist::Repair(_) if self.lies.no_repair => {}
            Persist::Append {
                mut entries,
                commit,
            } if self.lies.short_batch && entries.len() > 1 => {
                entries.truncate(1);
                self.image.apply(Persist::Append { entries, commit });
            }
            Persist::Append { entries, commit } if self.lies.stale_tail => {
                let from = entries.first().map_or(u64::MAX, |e| e.index.0);
                let end = from.saturating_add(entries.len() as u64);
                let old = (end..=self.image.log.last())
                    .filter_map(|index| self.image.log.get(index).cloned())
                    .collect();
                self.image.apply(Persist::Append { entries, commit });
                self.image.log.put_back(old);
            }
            op => self.image.apply(op),
        }
    }

    pub fn begin_snapshot(&mut self, meta: SnapshotMeta) {
        let bytes = Vec::new();
        self.writing = Some(Writing { meta, bytes });
    }

    pub fn snapshot_chunk(&mut self, piece: &[u8]) {
        let file = self.writing.as_mut().expect("a chunk follows a beginning");
        put_piece(&mut file.bytes, piece);
    }

    /// The file is whole: its sync begins, and ends with `end_snapshot`.
    pub fn finish_snapshot(&mut self) {
        let file = self.writing.take().expect("an end follows a beginning");
        self.finishing.push_back(file);
    }

    pub fn abandon_snapshot(&mut self) {
        self.writing = None;
    }

    /// The sync of the finished file is over: its index and size, and the older one's index.
    pub fn end_snapshot(&mut self) -> (Index, u64, Index) {
        let file = self.finishing.pop_front().expect("a file was being synced");
        let (index, size) = (file.meta.index, file.bytes.len() as u64);
        let before = self.image.newest().filter(|_| self.lies.old_snapshot);
        let bytes = before.map_or(file.bytes, |s| s.bytes.clone());
        let older = self.image.keep(Snapshot {
            meta: file.meta,
            bytes,
            in_use: true,
        });
        (index, size, Index(older))
    }

    /// A piece of a kept snapshot, and whether it is the last.
    pub fn read_snapshot(
        &self,
        index: Index,
        offset: u64,
        bytes_max: usize,
    ) -> Option<(Box<[u8]>, bool)> {
        let file = self
            .image
            .snapshots
            .iter()
            .find(|s| s.in_use && s.meta.index == index)?;
        let from = (offset as usize).min(file.bytes.len());
        let to = (from + bytes_max).min(file.bytes.len());
        Some((file.bytes[from..to].into(), to == file.bytes.len()))
    }

    /// A piece of the leader's snapshot; true when it is whole and its sync begins, which
    /// `end_receive` ends.
    pub fn receive(&mut self, meta: SnapshotMeta, offset: u64, data: &[u8], done: bool) -> bool {
        if offset == 0 {
            let bytes = Vec::new();
            self.receiving = Some((Writing { meta, bytes }, false));
        }
        let (file, whole) = self.receiving.as_mut().expect("the first piece is at 0");
        assert!(
            file.bytes.len() as u64 == offset && !*whole,
            "pieces come in order"
        );
        file.bytes.extend_from_slice(data);
        *whole = done;
        done
    }

    /// The leader's snapshot is in place, durable; not yet in use.
    pub fn end_receive(&mut self) -> Option<&Snapshot> {
        let (file, _) = self.receiving.take_if(|r| r.1)?;
        self.image.snapshots.push(Snapshot {
            meta: file.meta,
            bytes: file.bytes,
            in_use: false,
        });
        self.image.snapshots.last()
    }

    /// The process or the machine is gone: what the next start finds.
    pub fn crash(mut self, rng: &mut Rng) -> Image {
        if let Some(state) = self.syncing_state.take()
            && rng.chance(500_000)
        {
            self.write_state(state);
        }
        if let Some(through) = self.syncing {
            let whole = self.durable + rng.below(through - self.durable + 1);
            self.write(whole);
            if whole < through
                && let Some(Persist::Append { mut entries, .. }) = self.waiting.pop_front()
            {
                entries.truncate(rng.index(entries.len() + 1));
                let commit = Index(0);
                self.write_one(Persist::Append { entries, commit });
            }
        }
        self.image.follow_snapshot();
        self.image.start_behind_snapshot();
        if self.lies.tail_lost && !self.image.log.is_empty() {
            self.image.log.truncate(self.image.log.last());
        }
        if self.lies.state_lost && self.former_state.0 >= self.image.last_term() {
            (self.image.log.term, self.image.log.vote) = self.former_state;
        }
        if self.lies.no_directory && self.image.snapshots.len() == 1 && self.image.log.is_empty() {
            self.image.snapshots.clear();
            self.image.log.start_after(0);
        }
        self.image
    }
}
