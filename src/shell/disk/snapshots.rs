//! The snapshots of a running machine: its own in the making, one coming from the leader, and the
//! two kept.
//!
//! A disk without room is reported to the core, which begins anew later; any other failure ends the
//! process.
use super::snapfile::{self, Reader, Unusable, Writer};
use super::{die, or_die};
use crate::core::machine::{SnapshotIn, SnapshotOut};
use crate::core::raft::{Index, SnapshotMeta};
use crate::core::store::{HistoryLimits, Restore, Store};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many snapshots are kept: the log is released up to the older one only, so that damage to the
/// newer loses nothing.
pub const KEPT: usize = 2;
/// The longest piece of a snapshot that is read for a peer at once.
const PIECE_BYTES_MAX: u64 = 256 * 1024;

/// The snapshot files in use.
pub struct Snapshots {
    data_dir: PathBuf,
    limits: HistoryLimits,
    /// Newest first.
    kept: Vec<Index>,
    writing: Option<Writer>,
    receiving: Option<File>,
}

impl Snapshots {
    /// Those that recovery has found, newest first.
    pub fn new(data_dir: &Path, limits: HistoryLimits, kept: Vec<Index>) -> Snapshots {
        Snapshots {
            data_dir: data_dir.to_path_buf(),
            limits,
            kept,
            writing: None,
            receiving: None,
        }
    }

    pub fn limits(&self) -> HistoryLimits {
        self.limits
    }

    /// Carries out what the core wants; what it is told about it, if anything.
    pub fn carry(&mut self, out: SnapshotOut) -> Option<SnapshotIn> {
        match out {
            SnapshotOut::Begin(meta) => self.begin(&meta),
            SnapshotOut::Chunk(bytes) => self.chunk(&bytes),
            SnapshotOut::Finish => self.finish(),
            SnapshotOut::Abandon => self.abandon(),
            SnapshotOut::Read { to, index, offset } => Some(SnapshotIn::Read {
                to,
                index,
                offset,
                data: self.read(index, offset),
            }),
            SnapshotOut::Receive {
                meta,
                offset,
                data,
                done,
            } => self.receive(meta, offset, &data, done),
        }
    }

    fn begin(&mut self, meta: &SnapshotMeta) -> Option<SnapshotIn> {
        assert!(self.writing.is_none(), "one snapshot at a time");
        match Writer::new(&self.data_dir, meta) {
            Ok(writer) => self.writing = Some(writer),
            Err(e) => return self.failed(meta.index, &e),
        }
        None
    }

    fn chunk(&mut self, bytes: &[u8]) -> Option<SnapshotIn> {
        // Without a writer it has failed and the core has been told; what it had in hand still
        // comes.
        let writer = self.writing.as_mut()?;
        let (index, result) = (writer.index, writer.append(bytes));
        result.err().and_then(|e| self.failed(index, &e))
    }

    fn finish(&mut self) -> Option<SnapshotIn> {
        let writer = self.writing.take()?;
        let index = writer.index;
        let bytes = match writer.finish() {
            Ok(bytes) => bytes,
            Err(e) => return self.failed(index, &e),
        };
        self.keep(index);
        let older = self.kept.get(1).copied().unwrap_or_default();
        Some(SnapshotIn::Saved {
            index,
            bytes,
            older,
        })
    }

    fn abandon(&mut self) -> Option<SnapshotIn> {
        if let Some(writer) = self.writing.take() {
            or_die(writer.abandon());
        }
        None
    }

    /// Nothing of it stays. A disk without room will have some again; nothing else heals.
    fn failed(&mut self, index: Index, error: &io::Error) -> Option<SnapshotIn> {
        self.writing = None;
        if !is_full(error) {
            die(&format_args!("writing a snapshot: {error}"));
        }
        log::warn!("no room for a snapshot: {error}");
        or_die(remove(&snapfile::unfinished(&self.data_dir, index)));
        Some(SnapshotIn::Failed)
    }

    /// Counts a new file among the kept and drops the one that is not needed any more.
    fn keep(&mut self, index: Index) {
        self.kept.retain(|i| *i != index);
        self.kept.push(index);
        self.kept.sort_by(|a, b| b.cmp(a));
        for old in self.kept.drain(KEPT.min(self.kept.len())..) {
            if let Err(e) = remove(&snapfile::file_of(&self.data_dir, old)) {
                log::warn!("the old snapshot of index {} stays: {e}", old.0);
            }
        }
    }

    /// All but the newest go, and what is unfinished: a life that ends needs room for its last
    /// words.
    pub fn give_up(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writing.take() {
            writer.abandon()?;
        }
        if self.receiving.take().is_some() {
            remove(&self.incoming())?;
        }
        let mut older = self.kept.drain(1.min(self.kept.len())..);
        older.try_for_each(|index| remove(&snapfile::file_of(&self.data_dir, index)))
    }

    /// Where the leader's snapshot is put until it is whole.
    fn incoming(&self) -> PathBuf {
        snapfile::folder(&self.data_dir).join("receive.tmp")
    }

    /// A piece of a kept snapshot's file, and whether it is the last.
    fn read(&self, index: Index, offset: u64) -> Option<(Box<[u8]>, bool)> {
        if !self.kept.contains(&index) {
            return None;
        }
        let file = or_die(File::open(snapfile::file_of(&self.data_dir, index)));
        let size = or_die(file.metadata()).len();
        let bytes = size.saturating_sub(offset).min(PIECE_BYTES_MAX);
        let mut piece = vec![0; bytes as usize];
        or_die(file.read_exact_at(&mut piece, offset));
        Some((piece.into(), offset + bytes == size))
    }

    fn receive(
        &mut self,
        meta: SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Option<SnapshotIn> {
        let path = self.incoming();
        let opened = match (offset, self.receiving.take()) {
            (0, _) => File::create(&path),
            (_, Some(file)) => Ok(file),
            (_, None) => return Some(SnapshotIn::Refused),
        };
        let written = opened.and_then(|file| {
            file.write_all_at(data, offset)?;
            file.sync_data()?;
            Ok(file)
        });
        match written {
            Ok(file) => self.receiving = Some(file),
            Err(e) if is_full(&e) => return self.refuse(&path, &e.to_string()),
            Err(e) => die(&format_args!("{}: {e}", path.display())),
        }
        if !done {
            return None;
        }
        match restore(&path, meta.index, self.limits) {
            Ok((found, _)) if found != meta => self.refuse(&path, "its head is another one"),
            Ok((_, store)) => Some(self.install(&path, meta, store)),
            Err(unusable) => self.refuse(&path, &unusable.text()),
        }
    }

    fn refuse(&mut self, path: &Path, why: &str) -> Option<SnapshotIn> {
        log::warn!("the leader's snapshot is refused: {why}");
        self.receiving = None;
        or_die(remove(path));
        Some(SnapshotIn::Refused)
    }

    fn install(&mut self, path: &Path, meta: SnapshotMeta, store: Store) -> SnapshotIn {
        let file = self.receiving.take().expect("it was just written");
        or_die(file.sync_all());
        let bytes = or_die(file.metadata()).len();
        let place = snapfile::file_of(&self.data_dir, meta.index);
        or_die(fs::rename(path, place));
        or_die(snapfile::sync_folder(&snapfile::folder(&self.data_dir)));
        self.keep(meta.index);
        SnapshotIn::Installed {
            meta,
            store: Box::new(store),
            bytes,
        }
    }
}

/// Reads a whole snapshot; the error says which file and what is wrong with it.
pub fn restore(
    path: &Path,
    index: Index,
    limits: HistoryLimits,
) -> Result<(SnapshotMeta, Store), Unusable> {
    let mut reader = Reader::open(path, index)?;
    let mut restore = Restore::new(limits);
    let said = |e: crate::core::store::BadSnapshot| {
        Unusable::Damaged(format!("{}: {}", path.display(), e.0))
    };
    while let Some(chunk) = reader.next()? {
        restore.chunk(&chunk).map_err(said)?;
    }
    let store = restore.finish().map_err(said)?;
    Ok((reader.meta, store))
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::{Founding, Machine, Settings};
    use crate::core::raft::{PeerId, Term};

    const LIMITS: HistoryLimits = HistoryLimits {
        events: 10,
        bytes: 1 << 20,
    };

    fn founding() -> Founding {
        let settings = Settings {
            name: "a".into(),
            client_url: "http://a:4001".into(),
            peer_url: "http://a:7001".into(),
            heartbeat_ms: 50,
            election_ms: 200,
            snapshot_count: 100,
            snapshots: true,
            cluster: Default::default(),
            forward: false,
            history_events: 10,
        };
        Machine::bootstrap(&settings, 7, 8)
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index: Index(index),
            term: Term(index),
            ..founding().meta
        }
    }

    fn folder() -> (tempfile::TempDir, Snapshots) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(snapfile::folder(dir.path())).expect("made");
        let snapshots = Snapshots::new(dir.path(), LIMITS, Vec::new());
        (dir, snapshots)
    }

    fn write(snapshots: &mut Snapshots, index: u64) -> (u64, Index) {
        let begun = snapshots.carry(SnapshotOut::Begin(meta(index)));
        assert!(begun.is_none());
        for chunk in founding().chunks {
            assert!(snapshots.carry(SnapshotOut::Chunk(chunk)).is_none());
        }
        match snapshots.carry(SnapshotOut::Finish) {
            Some(SnapshotIn::Saved { bytes, older, .. }) => (bytes, older),
            _ => panic!("it is saved"),
        }
    }

    fn piece(from: &mut Snapshots, index: u64, offset: u64) -> Option<(Box<[u8]>, bool)> {
        let (to, index) = (PeerId(2), Index(index));
        match from.carry(SnapshotOut::Read { to, index, offset }) {
            Some(SnapshotIn::Read { data, .. }) => data,
            _ => panic!("a read is answered"),
        }
    }

    #[test]
    fn two_are_kept_and_the_older_is_told() {
        let (dir, mut snapshots) = folder();
        assert_eq!(write(&mut snapshots, 5).1, Index(0));
        assert_eq!(write(&mut snapshots, 9).1, Index(5));
        assert_eq!(write(&mut snapshots, 12).1, Index(9));
        assert_eq!(
            snapfile::list(dir.path()).expect("a folder"),
            [Index(12), Index(9)]
        );
        assert!(piece(&mut snapshots, 5, 0).is_none(), "it is gone");
        assert!(snapshots.carry(SnapshotOut::Begin(meta(20))).is_none());
        snapshots.give_up().expect("files can be removed");
        let files = fs::read_dir(snapfile::folder(dir.path())).expect("a folder");
        assert_eq!(
            (snapfile::list(dir.path()).expect("a folder"), files.count()),
            (vec![Index(12)], 1)
        );
    }

    #[test]
    fn one_goes_to_another_machine_in_pieces() {
        let (_dir, mut from) = folder();
        let (size, _) = write(&mut from, 9);
        let (dir, mut to) = folder();
        let (whole, last) = piece(&mut from, 9, 0).expect("it is there");
        assert_eq!((whole.len() as u64, last), (size, true));
        let mut offset = 0;
        for part in whole.chunks(100) {
            let done = offset + part.len() == whole.len();
            let told = to.carry(SnapshotOut::Receive {
                meta: meta(9),
                offset: offset as u64,
                data: part.into(),
                done,
            });
            offset += part.len();
            match told {
                None => assert!(!done),
                Some(SnapshotIn::Installed {
                    meta: found, bytes, ..
                }) => {
                    assert_eq!((found, bytes), (meta(9), size));
                }
                Some(_) => panic!("it is whole"),
            }
        }
        assert_eq!(snapfile::list(dir.path()).expect("a folder"), [Index(9)]);
        // An own one that was begun before and ends after it is the older of the two.
        assert_eq!(write(&mut to, 7).1, Index(7));
        assert_eq!(to.kept, [Index(9), Index(7)]);
    }

    #[test]
    fn a_damaged_one_is_refused_and_comes_again() {
        let (_dir, mut from) = folder();
        write(&mut from, 9);
        let (whole, _) = piece(&mut from, 9, 0).expect("it is there");
        let (dir, mut to) = folder();
        let mut receive = |data: &[u8], offset| {
            to.carry(SnapshotOut::Receive {
                meta: meta(9),
                offset,
                data: data.into(),
                done: true,
            })
        };
        let mut bad = whole.clone();
        bad[whole.len() / 2] ^= 1;
        assert!(matches!(receive(&bad, 0), Some(SnapshotIn::Refused)));
        // The rest of what was refused means nothing.
        assert!(matches!(receive(&whole[5..], 5), Some(SnapshotIn::Refused)));
        let entries = fs::read_dir(snapfile::folder(dir.path())).expect("a folder");
        assert_eq!(entries.count(), 0);
        assert!(matches!(
            receive(&whole, 0),
            Some(SnapshotIn::Installed { .. })
        ));
    }
}
