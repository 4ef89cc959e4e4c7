//! The snapshot files of a running machine: the one being written, the one being received from a
//! leader, and the finished ones that are kept.
//!
//! All calls here may block on the device. So they run in a [`SnapshotTask`], which takes these files
//! along into another thread. A full disk is reported to the core, which starts the snapshot again
//! later. Every other failure is final and must end the process.
//!
//! Must not look into a key space: that of a leader's snapshot only passes through. Start with
//! [`SnapshotTask::run`], then `SnapshotFiles::make`.
use super::DiskFailure;
use super::files::{self, DataDir};
use super::snapfile::{self, SnapshotFileWriter};
use crate::core::machine::SnapshotIn;
use crate::core::raft::{Index, PeerId, SnapshotMeta};
use crate::core::store::Store;
use std::io;
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};
use wal::os::is_out_of_room;

/// How many snapshots are kept. The log is released only up to the older one, so that damage to the
/// newer one loses nothing.
pub const KEPT: usize = 2;
/// The longest piece of a snapshot that is read for a peer at once, in bytes.
const PIECE_BYTES_MAX: u64 = 256 * 1024;
/// The name of the leader's snapshot until it is whole.
const INCOMING: &str = "receive.tmp";

/// One step of a task.
pub enum SnapshotFileStep {
    /// A new file of an own snapshot is made.
    Begin(SnapshotMeta),
    /// A chunk of the own snapshot is appended.
    Append(Vec<u8>),
    /// The own snapshot gets its name, durably.
    Finish,
    /// The file of the own snapshot is removed.
    Abandon,
    /// A piece of a kept snapshot is read for a peer.
    Read {
        /// The peer.
        to: PeerId,
        /// The last entry that the snapshot covers.
        index: Index,
        /// Where the piece begins in the file, in bytes.
        offset: u64,
    },
    /// A piece of the leader's snapshot is written and synced.
    Receive(SnapshotPiece),
    /// The file of the leader's snapshot is removed.
    DropReceived,
}

impl SnapshotFileStep {
    /// Whether it syncs for certain. An appended chunk is synced with others.
    pub fn syncs(&self) -> bool {
        matches!(
            self,
            SnapshotFileStep::Finish | SnapshotFileStep::Receive(_)
        )
    }

    /// The length of the chunk that it appends, in bytes.
    pub fn chunk_bytes(&self) -> usize {
        match self {
            SnapshotFileStep::Append(chunk) => chunk.len(),
            _ => 0,
        }
    }

    /// Whether it reads a piece for this peer.
    pub fn reads_for(&self, peer: PeerId) -> bool {
        matches!(self, SnapshotFileStep::Read { to, .. } if *to == peer)
    }
}

/// A piece of the leader's snapshot.
pub struct SnapshotPiece {
    /// The snapshot's head.
    pub meta: SnapshotMeta,
    /// Where the piece belongs in the file, in bytes; 0 starts a new file.
    pub offset: u64,
    /// The bytes.
    pub data: Box<[u8]>,
    /// With the last piece, the key space of the snapshot: the file gets its name, durably.
    pub store: Option<Box<Store>>,
}

/// A report to the core, if there is one, or a failure that must end the process.
type Carried = Result<Option<SnapshotIn>, DiskFailure>;

/// Steps that are handed over, with the files that they work on.
///
/// The caller runs it in another thread and gives it back (`Disk::take_back_snapshots`). If it is
/// dropped, its files are closed, and no further task can run.
pub struct SnapshotTask<F: FileSystem> {
    files: SnapshotFiles<F>,
    /// The steps that were not made, in order.
    steps: Vec<SnapshotFileStep>,
    /// Whether a step appends a chunk; never changes.
    has_chunks: bool,
    /// The reports to the core, in order.
    reports: Vec<SnapshotIn>,
    /// How it ended; `None` before it has run.
    result: Option<Result<(), DiskFailure>>,
}

impl<F: FileSystem> SnapshotTask<F> {
    /// A task that has not run.
    pub fn new(files: SnapshotFiles<F>, steps: Vec<SnapshotFileStep>) -> SnapshotTask<F> {
        let is_chunk = |step: &SnapshotFileStep| matches!(step, SnapshotFileStep::Append(_));
        SnapshotTask {
            files,
            has_chunks: steps.iter().any(is_chunk),
            steps,
            reports: Vec::new(),
            result: None,
        }
    }

    /// Makes the steps, in order, until one fails. They may block for as long as the device takes.
    pub fn run(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        self.result = Some(self.make(steps));
    }

    fn make(&mut self, steps: Vec<SnapshotFileStep>) -> Result<(), DiskFailure> {
        for step in steps {
            let report = self.files.make(step)?;
            self.reports.extend(report);
        }
        Ok(())
    }

    /// Whether a step has appended a chunk, or has tried to.
    pub fn has_chunks(&self) -> bool {
        self.has_chunks
    }

    /// The files, and the reports to the core in order.
    ///
    /// # Errors
    ///
    /// A system call failed, and not for want of room.
    ///
    /// # Panics
    ///
    /// If it has not run.
    pub fn into_parts(self) -> Result<(SnapshotFiles<F>, Vec<SnapshotIn>), DiskFailure> {
        self.result.expect("a task runs before it is taken back")?;
        Ok((self.files, self.reports))
    }
}

/// The snapshot files in use.
pub struct SnapshotFiles<F: FileSystem> {
    data_dir: DataDir<F>,
    /// The indexes of the snapshots that are kept, newest first; at most [`KEPT`].
    kept: Vec<Index>,
    /// The snapshot that this machine is writing. `None` also after it failed, until the core
    /// begins the next one.
    writing: Option<SnapshotFileWriter<F>>,
    /// The snapshot that a leader is sending. `None` before its first piece, and after it was
    /// dropped.
    incoming: Option<F::File>,
    /// The key spaces of snapshots that the disk had no room for, until they are taken.
    unused: Vec<Store>,
}

impl<F: FileSystem> SnapshotFiles<F> {
    /// `kept` are the indexes that recovery found, newest first.
    pub fn new(data_dir: &DataDir<F>, kept: Vec<Index>) -> SnapshotFiles<F> {
        SnapshotFiles {
            data_dir: data_dir.clone(),
            kept,
            writing: None,
            incoming: None,
            unused: Vec::new(),
        }
    }

    /// Takes the key spaces of snapshots that the disk had no room for.
    pub fn take_unused(&mut self) -> Vec<Store> {
        std::mem::take(&mut self.unused)
    }

    /// Makes a step. Returns the report to the core, if there is one.
    fn make(&mut self, step: SnapshotFileStep) -> Carried {
        match step {
            SnapshotFileStep::Begin(meta) => self.begin(&meta),
            SnapshotFileStep::Append(bytes) => self.append(&bytes),
            SnapshotFileStep::Finish => self.finish(),
            SnapshotFileStep::Abandon => {
                self.abandon()?;
                Ok(None)
            }
            SnapshotFileStep::Read { to, index, offset } => {
                let data = self.read(index, offset)?;
                Ok(Some(SnapshotIn::Read {
                    to,
                    index,
                    offset,
                    data,
                }))
            }
            SnapshotFileStep::Receive(piece) => self.receive(piece),
            SnapshotFileStep::DropReceived => {
                self.drop_received()?;
                Ok(None)
            }
        }
    }

    fn begin(&mut self, meta: &SnapshotMeta) -> Carried {
        assert!(self.writing.is_none(), "one snapshot is written at a time");
        match self.create(meta) {
            Ok(writer) => {
                self.writing = Some(writer);
                Ok(None)
            }
            Err(e) => self.fail(meta.index, &e),
        }
    }

    /// Makes the file of a snapshot, with room for a longer one than the newest: the log must not take
    /// it, since without another snapshot nothing of the log is released. If there is no such room, the
    /// older snapshot gives way.
    fn create(&mut self, meta: &SnapshotMeta) -> io::Result<SnapshotFileWriter<F>> {
        let length = |newest: &Index| {
            let path = snapfile::file_of(&self.data_dir, *newest);
            self.data_dir.fs().open(&path, Access::Read)?.length()
        };
        // An estimate: if the file cannot be opened, there is none.
        let newest = self.kept.first().map(length);
        let newest_bytes = newest.and_then(io::Result::ok).unwrap_or(0);
        let bytes = newest_bytes + newest_bytes / 4;
        let mut writer = SnapshotFileWriter::new(&self.data_dir, meta, bytes);
        if is_full(&writer) && self.kept.len() > 1 {
            self.remove_older()?;
            writer = SnapshotFileWriter::new(&self.data_dir, meta, bytes);
        }
        if is_full(&writer) {
            // This one may be shorter.
            writer = SnapshotFileWriter::new(&self.data_dir, meta, 0);
        }
        writer
    }

    fn append(&mut self, bytes: &[u8]) -> Carried {
        // Without a writer the snapshot has failed and that was reported. Chunks that the core made
        // before the report still arrive.
        let Some(writer) = &mut self.writing else {
            return Ok(None);
        };
        let index = writer.index();
        match writer.append(bytes) {
            Ok(()) => Ok(None),
            Err(e) => self.fail(index, &e),
        }
    }

    fn finish(&mut self) -> Carried {
        let Some(writer) = self.writing.take() else {
            return Ok(None);
        };
        let index = writer.index();
        let bytes = match writer.finish() {
            Ok(bytes) => bytes,
            Err(e) => return self.fail(index, &e),
        };
        self.keep(index);
        // The other kept one may be a leader's, and newer than this one.
        let older = self.kept.get(1).copied().unwrap_or_default().min(index);
        Ok(Some(SnapshotIn::Saved {
            index,
            bytes,
            older,
        }))
    }

    fn abandon(&mut self) -> io::Result<()> {
        match self.writing.take() {
            Some(writer) => writer.abandon(),
            None => Ok(()),
        }
    }

    /// Removes a snapshot that could not be written, and the older one, so that the next attempt has more
    /// room. A full disk may have room again later; any other error is final.
    fn fail(&mut self, index: Index, error: &io::Error) -> Carried {
        self.writing = None;
        if !is_out_of_room(error) {
            return Err(DiskFailure(format!("writing a snapshot: {error}")));
        }
        log::warn!("no room for a snapshot: {error}. The log grows until one can be written");
        self.remove(&snapfile::unfinished(&self.data_dir, index))?;
        self.remove_older()?;
        Ok(Some(SnapshotIn::Failed { index }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.data_dir.fs().remove(path)
    }

    /// Adds a whole snapshot to those that are kept, and removes the oldest one.
    fn keep(&mut self, index: Index) {
        self.kept.retain(|i| *i != index);
        self.kept.push(index);
        self.kept.sort_by(|a, b| b.cmp(a));
        for old in self.kept.split_off(KEPT.min(self.kept.len())) {
            if let Err(e) = self.remove(&snapfile::file_of(&self.data_dir, old)) {
                log::warn!("cannot remove the old snapshot of index {}: {e}", old.0);
            }
        }
    }

    /// Removes all snapshots except the newest, and unfinished ones.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn keep_newest_only(&mut self) -> io::Result<()> {
        self.abandon()?;
        if self.incoming.is_some() {
            self.drop_received()?;
        }
        self.remove_older()
    }

    /// Removes all finished snapshots except the newest.
    fn remove_older(&mut self) -> io::Result<()> {
        for index in self.kept.split_off(1.min(self.kept.len())) {
            log::warn!(
                "the disk is full: removing the older snapshot of index {}",
                index.0
            );
            self.remove(&snapfile::file_of(&self.data_dir, index))?;
        }
        Ok(())
    }

    /// A piece of the file of a kept snapshot, and whether it is the last one. `None`: the snapshot
    /// was removed.
    fn read(&self, index: Index, offset: u64) -> io::Result<Option<(Box<[u8]>, bool)>> {
        if !self.kept.contains(&index) {
            return Ok(None);
        }
        let path = snapfile::file_of(&self.data_dir, index);
        let file = self.data_dir.fs().open(&path, Access::Read)?;
        let length = file.length()?;
        let bytes = length.saturating_sub(offset).min(PIECE_BYTES_MAX);
        let mut piece = vec![0; bytes as usize];
        if file.read_at(&mut piece, offset)? < piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((piece.into(), offset + bytes == length)))
    }

    /// Writes a piece of the leader's snapshot. The last one makes the snapshot durable under its
    /// final name.
    fn receive(&mut self, piece: SnapshotPiece) -> Carried {
        let path = incoming_path(&self.data_dir);
        let written = self.write_piece(&piece, &path);
        let file = match written {
            Ok(file) => file,
            Err(e) if is_out_of_room(&e) => {
                log::warn!("no room for the leader's snapshot: {e}. It will be offered again");
                self.unused.extend(piece.store.map(|store| *store));
                self.remove(&path)?;
                return Ok(Some(SnapshotIn::NoRoom));
            }
            Err(e) => return Err(DiskFailure(format!("{}: {e}", path.display()))),
        };
        match piece.store {
            Some(store) => self.install(&file, piece.meta, store),
            None => {
                self.incoming = Some(file);
                Ok(Some(SnapshotIn::Received))
            }
        }
    }

    /// Writes a piece and syncs it. Returns the file.
    ///
    /// # Panics
    ///
    /// If a piece that starts no file follows none.
    fn write_piece(&mut self, piece: &SnapshotPiece, path: &Path) -> io::Result<F::File> {
        let former = self.incoming.take();
        let file = match piece.offset {
            0 => self.data_dir.fs().create(path)?,
            _ => former.expect("a piece follows the one before it"),
        };
        file.write_at(&piece.data, piece.offset)?;
        file.sync()?;
        Ok(file)
    }

    /// Makes the leader's snapshot, which is whole and synced, durable under its final name.
    fn install(&mut self, file: &F::File, meta: SnapshotMeta, store: Box<Store>) -> Carried {
        let bytes = file.length()?;
        let dir = &self.data_dir;
        let place = snapfile::file_of(dir, meta.index);
        dir.fs().rename(&incoming_path(dir), &place)?;
        files::sync_folder(dir.fs(), &snapfile::folder(dir))?;
        self.keep(meta.index);
        Ok(Some(SnapshotIn::Installed { meta, store, bytes }))
    }

    fn drop_received(&mut self) -> io::Result<()> {
        self.incoming = None;
        self.remove(&incoming_path(&self.data_dir))
    }
}

fn is_full<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(is_out_of_room)
}

/// The path of the leader's snapshot until it is whole.
pub fn incoming_path<F: FileSystem>(data_dir: &DataDir<F>) -> PathBuf {
    snapfile::folder(data_dir).join(INCOMING)
}
