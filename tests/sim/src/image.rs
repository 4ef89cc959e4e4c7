//! What is durable on the disk of a machine, as the checks see it: `Image`.
//!
//! While a process runs, its image is what the disk owes it: `disk.rs` adds to it what was reported
//! as durable. After a crash it is what the real recovery reads from the simulated file system.
//! Start at `Image::read`.
use std::path::Path;
use tern::core::machine::{Recovered, StandbyInfo};
use tern::core::raft::{Entry, Index, PeerId, SnapshotMeta, Term};
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::Disk;
use tern_support::durable::{DurableLog, Record};
use tern_support::rng::Rng;
use tern_support::sim_fs::SimFs;
use wal::format::{HEADER, RecordKind, SegmentHead, record_bytes};
use wal::fs::FileSystem;
use wal::scan::{RecordWalk, SegmentPiece};

/// The data directory in each simulated file system.
const DATA_DIR: &str = "/data";

/// The real disk code on the simulated file system.
pub type RealDisk = Disk<SimFs>;

/// The settings of a machine, as far as its disk reads them.
pub fn config_of(name: &str) -> Config {
    let args = [
        format!("-name={name}"),
        format!("-data-dir={DATA_DIR}"),
        format!("-addr={name}:4001"),
        format!("-peer-addr={name}:7001"),
    ];
    match config::parse(&ProcessInputs::of_args(&args)) {
        Ok(Start::Run(config)) => Config {
            segment_bytes: wal::SEGMENT_BYTES_MIN,
            ..*config
        },
        other => panic!("a good command line: {other:?}"),
    }
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
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
#[derive(Clone, Debug)]
pub struct Image {
    /// The disk itself.
    pub fs: SimFs,
    pub log: DurableLog,
    pub id: PeerId,
    pub incarnation: u64,
    /// At most two that are in use, the newest last, and one that is not yet in use.
    pub snapshots: Vec<Snapshot>,
    /// The file of standby mode.
    pub standby: Option<StandbyInfo>,
}

impl Image {
    /// An empty disk.
    pub fn blank(rng: &mut Rng) -> Image {
        Image {
            fs: SimFs::new(rng.fork()),
            log: DurableLog::default(),
            id: PeerId::NONE,
            incarnation: 0,
            snapshots: Vec::new(),
            standby: None,
        }
    }

    /// What the real recovery makes of a disk. The disk itself is not changed.
    ///
    /// # Errors
    /// The recovery refuses the disk; with its text.
    pub fn read(fs: &SimFs, config: &Config) -> Result<Image, String> {
        let copy = fs.copy();
        copy.set_room(None);
        let (mut disk, recovered) = RealDisk::open_on(copy, config, true)?;
        Ok(Image::of(fs, &recovered, disk.take_standby()))
    }

    /// What a recovery has found.
    pub fn of(fs: &SimFs, recovered: &Recovered, standby: Option<StandbyInfo>) -> Image {
        let meta = recovered.snapshot.as_ref().map(|(meta, _)| meta.clone());
        let mut log = DurableLog::after(meta.as_ref().map_or(0, |meta| meta.index.0));
        log.term = recovered.term;
        log.vote = recovered.vote;
        log.commit = recovered.commit;
        log.append(recovered.entries.clone());
        let in_use = |meta| Snapshot { meta, in_use: true };
        Image {
            fs: fs.clone(),
            log,
            id: recovered.id.unwrap_or(PeerId::NONE),
            incarnation: recovered.incarnation,
            snapshots: meta.map(in_use).into_iter().collect(),
            standby,
        }
    }

    pub fn newest(&self) -> Option<&Snapshot> {
        self.snapshots.iter().rev().find(|s| s.in_use)
    }

    /// The index of the newest snapshot that is in use; 0 without one.
    pub fn base(&self) -> u64 {
        self.newest().map_or(0, |s| s.meta.index.0)
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
        self.base().max(self.log.last())
    }

    /// The term of the last entry, or of the newest snapshot.
    pub fn last_term(&self) -> Term {
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
        if self.newest().is_some() && index <= self.base() {
            return Held::Behind;
        }
        Held::Never
    }

    /// The entries after the newest snapshot.
    pub fn entries(&self) -> Vec<Entry> {
        self.log.entries_after(self.base())
    }

    /// The record that names a received snapshot is durable.
    pub fn use_snapshot(&mut self, meta: &SnapshotMeta) {
        let is_it = |s: &Snapshot| s.meta.index == meta.index && s.meta.term == meta.term;
        let at = self.snapshots.iter().position(is_it).unwrap_or_else(|| {
            let here = self.snapshots.iter().map(|s| (s.meta.index.0, s.in_use));
            panic!(
                "a snapshot is on the disk before the record that names it: {} in {:?}",
                meta.index.0,
                here.collect::<Vec<_>>()
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

    /// Keeps a snapshot that was made here.
    pub fn keep(&mut self, meta: SnapshotMeta) {
        let is_later = |s: &Snapshot| !s.in_use || s.meta.index > meta.index;
        let at = self.snapshots.iter().position(is_later);
        let at = at.unwrap_or(self.snapshots.len());
        self.snapshots.insert(at, Snapshot { meta, in_use: true });
        while self.snapshots.iter().filter(|s| s.in_use).count() > 2 {
            self.snapshots.remove(0);
        }
    }

    /// How many bytes are free in the newest segment that has a record.
    pub fn tail_room(&self) -> usize {
        let names = self.fs.list(Path::new(DATA_DIR)).unwrap_or_default();
        for name in names.iter().rev().filter(|name| name.ends_with(".log")) {
            let bytes = self.fs.read(&Path::new(DATA_DIR).join(name));
            let bytes = bytes.unwrap_or_default();
            let Ok(head) = SegmentHead::decode(&bytes) else {
                continue;
            };
            let end_of = |piece| match piece {
                SegmentPiece::Record { at, header } => Some(at + record_bytes(header.len as usize)),
                SegmentPiece::NoRecord { .. } => None,
            };
            if let Some(end) = RecordWalk::new(&bytes, &head).filter_map(end_of).last() {
                return bytes.len() - end;
            }
        }
        0
    }

    /// Damages the body of one entry on the disk of a machine that is down. Returns whether recovery
    /// finds the entry, damaged: it may be in the last batch, of which damage looks like a torn
    /// tail, or have no body.
    pub fn damage(&mut self, rng: &mut Rng, config: &Config, index: u64) -> bool {
        let term = match self.log.get(index) {
            Some(record) if record.is_good() => record.entry.term.0,
            Some(_) | None => return false,
        };
        let fs = self.fs.copy();
        let Some((path, at, length)) = find_body(&fs, (index, term)) else {
            return false;
        };
        fs.flip(Path::new(&path), at + rng.below(length), rng.below(8) as u8);
        let Ok(found) = Image::read(&fs, config) else {
            return false;
        };
        let mut damaged = self.damaged();
        damaged.push(index);
        damaged.sort_unstable();
        if found.last() != self.last() || found.damaged() != damaged {
            return false;
        }
        *self = found;
        true
    }

    /// Removes the spare segments, as a log leaves its directory that has gone on in its last spare
    /// on a full disk. What is left of its segment is all the room that it has.
    pub fn remove_spares(&self) {
        let names = self.fs.list(Path::new(DATA_DIR)).unwrap_or_default();
        for name in names.iter().filter(|name| name.ends_with(".spare")) {
            let removed = self.fs.unlink(&Path::new(DATA_DIR).join(name));
            removed.expect("the file is there");
        }
    }

    /// Damages the newest snapshot. Returns whether recovery goes back to the one before: the log
    /// must still reach it.
    pub fn lose_newest_snapshot(&mut self, config: &Config) -> bool {
        let folder = Path::new(DATA_DIR).join("snapshot");
        let names = self.fs.list(&folder).unwrap_or_default();
        let mut names = names.into_iter().filter(|name| name.ends_with(".snap"));
        let Some(newest) = names.next_back() else {
            return false;
        };
        let fs = self.fs.copy();
        fs.flip(&folder.join(newest), 40, 3);
        match Image::read(&fs, config) {
            Ok(found) if found.last() == self.last() && found.base() < self.base() => {
                *self = found;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

/// Where the body of an entry stands that is in the log: its file, its offset there and its length.
fn find_body(fs: &SimFs, (index, term): (u64, u64)) -> Option<(String, u64, u64)> {
    let names = fs.list(Path::new(DATA_DIR)).ok()?;
    for name in names.iter().rev().filter(|name| name.ends_with(".log")) {
        let path = format!("{DATA_DIR}/{name}");
        let bytes = fs.read(Path::new(&path))?;
        let head = SegmentHead::decode(&bytes).ok()?;
        let mut found = None;
        for piece in RecordWalk::new(&bytes, &head) {
            if let SegmentPiece::Record { at, header } = piece
                && header.kind == RecordKind::Entry
                && (header.index, header.term) == (index, term)
                && header.len > 0
            {
                found = Some(((at + HEADER) as u64, u64::from(header.len)));
            }
        }
        if let Some((at, length)) = found {
            return Some((path, at, length));
        }
    }
    None
}

/// The index and term of a snapshot.
pub fn place_of(meta: &SnapshotMeta) -> (Index, Term) {
    (meta.index, meta.term)
}
