//! The snapshots of a running machine: its own in the making, one coming from the leader, and the two kept.
//!
//! A disk without room is reported to the core, which begins anew later; any other failure ends the process.
use super::snapfile::{self, Reader, Unusable, Writer};
use super::{die, or_die};
use crate::machine::{SnapshotIn, SnapshotOut};
use crate::raft::{Index, SnapshotMeta};
use crate::store::{HistoryLimits, Restore, Store};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many snapshots are kept: the log is released up to the older one only, so that damage to the newer loses nothing.
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
            Err(e) => return self.failed(e),
        }
        None
    }

    fn chunk(&mut self, bytes: &[u8]) -> Option<SnapshotIn> {
        // Without a writer it has failed and the core has been told; what it had in hand still comes.
        let result = self.writing.as_mut()?.append(bytes);
        result.err().and_then(|e| self.failed(e))
    }

    fn finish(&mut self) -> Option<SnapshotIn> {
        let writer = self.writing.take()?;
        let index = writer.index;
        let bytes = match writer.finish() {
            Ok(bytes) => bytes,
            Err(e) => return self.failed(e),
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
    fn failed(&mut self, error: io::Error) -> Option<SnapshotIn> {
        self.writing = None;
        if !is_full(&error) {
            die(&format_args!("writing a snapshot: {error}"));
        }
        log::warn!("no room for a snapshot: {error}");
        or_die(snapfile::prune(&self.data_dir, KEPT));
        Some(SnapshotIn::Failed)
    }

    /// Counts a new file as the newest and drops the one that is not needed any more.
    fn keep(&mut self, index: Index) {
        self.kept.retain(|i| *i != index);
        self.kept.insert(0, index);
        for old in self.kept.drain(KEPT.min(self.kept.len())..) {
            let removed = fs::remove_file(snapfile::file_of(&self.data_dir, old));
            if let Err(e) = removed {
                log::warn!("the old snapshot of index {} stays: {e}", old.0);
            }
        }
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
        let path = snapfile::folder(&self.data_dir).join("receive.tmp");
        if offset == 0 {
            self.receiving = Some(or_die(File::create(&path)));
        }
        let Some(file) = &self.receiving else {
            return Some(SnapshotIn::Refused);
        };
        match file
            .write_all_at(data, offset)
            .and_then(|()| file.sync_data())
        {
            Ok(()) => {}
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
        or_die(fs::remove_file(path));
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
    let said =
        |e: crate::store::BadSnapshot| Unusable::Damaged(format!("{}: {}", path.display(), e.0));
    while let Some(chunk) = reader.next()? {
        restore.chunk(&chunk).map_err(said)?;
    }
    let store = restore.finish().map_err(said)?;
    Ok((reader.meta, store))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
