//! The snapshot files of a running machine: the one being written, the one being received from a
//! leader, and the finished ones that are kept.
//!
//! A full disk is reported to the core, which starts the snapshot again later. Every other failure
//! is returned and must end the process. Start with [`Snapshots::carry_out`].
use super::DiskFailure;
use super::files::{self, DataDir};
use super::snapfile::{self, SnapshotFileWriter, SnapshotParser, Unusable};
use crate::core::machine::{SnapshotIn, SnapshotOut};
use crate::core::raft::{Index, SnapshotMeta};
use crate::core::store::{BadSnapshot, Discarded, HistoryLimits, Restore, Store};
use std::io;
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};

/// How many snapshots are kept. The log is released only up to the older one, so that damage to the
/// newer one loses nothing.
pub const KEPT: usize = 2;
/// The longest piece of a snapshot that is read for a peer at once, in bytes. The loop waits for
/// the read.
const PIECE_BYTES_MAX: u64 = 256 * 1024;
/// The name of the leader's snapshot until it is whole.
const INCOMING: &str = "receive.tmp";

/// The snapshot files in use.
pub struct Snapshots<F: FileSystem> {
    data_dir: DataDir<F>,
    /// Bounds for the event history of a restored store.
    limits: HistoryLimits,
    /// The indexes of the snapshots that are kept, newest first; at most [`KEPT`].
    kept: Vec<Index>,
    /// The snapshot that this machine is writing. `None` also after it failed, until the core
    /// begins the next one.
    writing: Option<SnapshotFileWriter<F>>,
    /// The snapshot that a leader is sending. `None` before its first piece and after a refusal.
    /// While it is `None`, only a piece at offset 0 is accepted.
    receiving: Option<Receiving<F::File>>,
    /// The key spaces of snapshots that were dropped before they were whole, until they are freed.
    discarded: Vec<Discarded>,
}

/// A snapshot from a leader. Each piece is checked and restored when it arrives, so the last one
/// takes no longer than the others.
struct Receiving<T> {
    file: T,
    parser: SnapshotParser,
    restore: Restore,
}

impl<T> Receiving<T> {
    /// Restores the chunks that the next piece of the file completes.
    fn restore_piece(&mut self, piece: &[u8], path: &Path) -> Result<(), Unusable> {
        let restore = &mut self.restore;
        self.parser
            .push(piece, &mut |chunk| restore_chunk(restore, chunk, path))
    }

    /// The key space, after the last piece.
    fn finish(self, meta: &SnapshotMeta, path: &Path) -> Result<(T, Store), Unusable> {
        if self.parser.finish()? != *meta {
            let text = "its head is not the one that was announced".to_string();
            return Err(Unusable::Damaged(text));
        }
        let store = self.restore.finish();
        Ok((self.file, store.map_err(|e| damaged(path, &e))?))
    }
}

fn restore_chunk(restore: &mut Restore, chunk: &[u8], path: &Path) -> Result<(), Unusable> {
    restore.chunk(chunk).map_err(|e| damaged(path, &e))
}

fn damaged(path: &Path, error: &BadSnapshot) -> Unusable {
    Unusable::Damaged(format!("{}: {}", path.display(), error.0))
}

/// A report to the core, if there is one, or a failure that must end the process.
type Carried = Result<Option<SnapshotIn>, DiskFailure>;

impl<F: FileSystem> Snapshots<F> {
    /// `kept` are the indexes that recovery found, newest first.
    pub fn new(data_dir: &DataDir<F>, limits: HistoryLimits, kept: Vec<Index>) -> Snapshots<F> {
        Snapshots {
            data_dir: data_dir.clone(),
            limits,
            kept,
            writing: None,
            receiving: None,
            discarded: Vec::new(),
        }
    }

    /// Bounds for the event history of a restored store.
    pub fn limits(&self) -> HistoryLimits {
        self.limits
    }

    /// Carries out an order of the core. Returns the report to the core, if there is one.
    ///
    /// # Errors
    ///
    /// A system call failed, and not for want of room.
    pub fn carry_out(&mut self, order: SnapshotOut) -> Carried {
        match order {
            SnapshotOut::Begin(meta) => self.begin(&meta),
            SnapshotOut::Chunk(bytes) => self.append(&bytes),
            SnapshotOut::Finish => self.finish(),
            SnapshotOut::Abandon => {
                self.abandon()?;
                Ok(None)
            }
            SnapshotOut::Read { to, index, offset } => {
                let data = self.read(index, offset)?;
                Ok(Some(SnapshotIn::Read {
                    to,
                    index,
                    offset,
                    data,
                }))
            }
            SnapshotOut::Receive {
                meta,
                offset,
                data,
                done,
            } => self.receive(meta, offset, &data, done),
        }
    }

    fn begin(&mut self, meta: &SnapshotMeta) -> Carried {
        assert!(self.writing.is_none(), "one snapshot is written at a time");
        match SnapshotFileWriter::new(&self.data_dir, meta) {
            Ok(writer) => {
                self.writing = Some(writer);
                Ok(None)
            }
            Err(e) => self.fail(meta.index, &e),
        }
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
        let older = self.kept.get(1).copied().unwrap_or_default();
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

    /// Removes a snapshot that could not be written. A full disk may have room again later; any
    /// other error is final.
    fn fail(&mut self, index: Index, error: &io::Error) -> Carried {
        self.writing = None;
        if !files::is_full(error) {
            return Err(DiskFailure(format!("writing a snapshot: {error}")));
        }
        log::warn!("no room for a snapshot: {error}. The log grows until one can be written");
        self.remove(&snapfile::unfinished(&self.data_dir, index))?;
        Ok(Some(SnapshotIn::Failed))
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

    /// Removes all snapshots except the newest, and unfinished ones: a full disk must have room for
    /// `membership` or `standby_info`.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn keep_newest_only(&mut self) -> io::Result<()> {
        self.abandon()?;
        if self.receiving.take().is_some() {
            self.remove(&self.incoming())?;
        }
        for index in self.kept.split_off(1.min(self.kept.len())) {
            self.remove(&snapfile::file_of(&self.data_dir, index))?;
        }
        Ok(())
    }

    /// The path of the leader's snapshot until it is whole.
    fn incoming(&self) -> PathBuf {
        snapfile::folder(&self.data_dir).join(INCOMING)
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

    /// Writes a piece of the leader's snapshot, and restores it; with `done`, installs the whole.
    fn receive(&mut self, meta: SnapshotMeta, offset: u64, data: &[u8], done: bool) -> Carried {
        let path = self.incoming();
        let opened = match (offset, self.receiving.take()) {
            (0, former) => {
                self.discard(former);
                self.begin_receiving(&path, &meta)
            }
            (_, Some(receiving)) => Ok(receiving),
            (_, None) => return Ok(Some(SnapshotIn::Refused)),
        };
        let written = opened.and_then(|receiving| {
            let written = receiving.file.write_at(data, offset);
            match written.and_then(|()| receiving.file.sync()) {
                Ok(()) => Ok(receiving),
                Err(e) => {
                    self.discard(Some(receiving));
                    Err(e)
                }
            }
        });
        let mut receiving = match written {
            Ok(receiving) => receiving,
            Err(e) if files::is_full(&e) => {
                log::warn!("no room for the leader's snapshot: {e}. It will be offered again");
                self.remove(&path)?;
                return Ok(Some(SnapshotIn::NoRoom));
            }
            Err(e) => return Err(DiskFailure(format!("{}: {e}", path.display()))),
        };
        if let Err(unusable) = receiving.restore_piece(data, &path) {
            self.discard(Some(receiving));
            return self.refuse(&path, &unusable.text());
        }
        if !done {
            self.receiving = Some(receiving);
            return Ok(None);
        }
        match receiving.finish(&meta, &path) {
            Ok((file, store)) => self.install(&file, meta, store),
            Err(unusable) => self.refuse(&path, &unusable.text()),
        }
    }

    fn begin_receiving(&self, path: &Path, meta: &SnapshotMeta) -> io::Result<Receiving<F::File>> {
        Ok(Receiving {
            file: self.data_dir.fs().create(path)?,
            parser: SnapshotParser::new(path, meta.index),
            restore: Restore::new(self.limits),
        })
    }

    /// Drops a snapshot that is not whole; its key space is freed bit by bit.
    fn discard(&mut self, receiving: Option<Receiving<F::File>>) {
        if let Some(receiving) = receiving {
            let store = receiving.restore.abandon();
            self.discarded.push(Discarded::new(store));
        }
    }

    /// Frees a part of a key space that was dropped.
    pub fn free_some(&mut self) {
        if let Some(discarded) = self.discarded.last_mut()
            && !discarded.free_some()
        {
            self.discarded.pop();
        }
    }

    fn refuse(&mut self, path: &Path, why: &str) -> Carried {
        log::warn!("the leader's snapshot is refused: {why}. It will be sent again");
        self.remove(path)?;
        Ok(Some(SnapshotIn::Refused))
    }

    /// Makes the leader's snapshot, which is whole, durable under its final name.
    fn install(&mut self, file: &F::File, meta: SnapshotMeta, store: Store) -> Carried {
        file.sync()?;
        let bytes = file.length()?;
        let dir = &self.data_dir;
        let place = snapfile::file_of(dir, meta.index);
        dir.fs().rename(&self.incoming(), &place)?;
        files::sync_folder(dir.fs(), &snapfile::folder(dir))?;
        self.keep(meta.index);
        Ok(Some(SnapshotIn::Installed {
            meta,
            store: Box::new(store),
            bytes,
        }))
    }
}

/// Reads a whole snapshot into a store.
///
/// # Errors
///
/// The file cannot be read, is damaged, or has another format; the sentence names it.
pub fn restore<F: FileSystem>(
    fs: &F,
    path: &Path,
    index: Index,
    limits: HistoryLimits,
) -> Result<(SnapshotMeta, Store), Unusable> {
    let mut restore = Restore::new(limits);
    let meta = snapfile::read_file(fs, path, index, |chunk| {
        restore_chunk(&mut restore, chunk, path)
    })?;
    let store = restore.finish().map_err(|e| damaged(path, &e))?;
    Ok((meta, store))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::{Command, KeyPath};
    use crate::core::machine::{Founding, Machine, Settings};
    use crate::core::raft::{PeerId, Term};
    use crate::core::store::SnapshotStep;
    use std::fs;
    use wal::os::Os;

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
            store_bytes_max: None,
            memory: Default::default(),
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

    fn at(dir: &tempfile::TempDir) -> DataDir<Os> {
        DataDir::new(Os, dir.path())
    }

    fn folder() -> (tempfile::TempDir, Snapshots<Os>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(snapfile::folder(&at(&dir))).expect("made");
        let snapshots = Snapshots::new(&at(&dir), LIMITS, Vec::new());
        (dir, snapshots)
    }

    fn carry_out(snapshots: &mut Snapshots<Os>, order: SnapshotOut) -> Option<SnapshotIn> {
        snapshots.carry_out(order).expect("the disk works")
    }

    fn write(snapshots: &mut Snapshots<Os>, index: u64) -> (u64, Index) {
        let begun = carry_out(snapshots, SnapshotOut::Begin(meta(index)));
        assert!(begun.is_none());
        for chunk in founding().chunks {
            assert!(carry_out(snapshots, SnapshotOut::Chunk(chunk)).is_none());
        }
        match carry_out(snapshots, SnapshotOut::Finish) {
            Some(SnapshotIn::Saved { bytes, older, .. }) => (bytes, older),
            _ => panic!("it is saved"),
        }
    }

    fn piece(from: &mut Snapshots<Os>, index: u64, offset: u64) -> Option<(Box<[u8]>, bool)> {
        let (to, index) = (PeerId(2), Index(index));
        match carry_out(from, SnapshotOut::Read { to, index, offset }) {
            Some(SnapshotIn::Read { data, .. }) => data,
            _ => panic!("a read is answered"),
        }
    }

    #[test]
    fn two_snapshots_are_kept_and_the_older_is_reported() {
        let (dir, mut snapshots) = folder();
        assert_eq!(write(&mut snapshots, 5).1, Index(0));
        assert_eq!(write(&mut snapshots, 9).1, Index(5));
        assert_eq!(write(&mut snapshots, 12).1, Index(9));
        assert_eq!(
            snapfile::list(&at(&dir)).expect("a folder"),
            [Index(12), Index(9)]
        );
        assert!(piece(&mut snapshots, 5, 0).is_none(), "it was removed");
        assert!(carry_out(&mut snapshots, SnapshotOut::Begin(meta(20))).is_none());
        snapshots.keep_newest_only().expect("files can be removed");
        let files = fs::read_dir(snapfile::folder(&at(&dir))).expect("a folder");
        assert_eq!(
            (snapfile::list(&at(&dir)).expect("a folder"), files.count()),
            (vec![Index(12)], 1)
        );
    }

    #[test]
    fn a_snapshot_is_sent_in_pieces_and_installed() {
        let (_dir, mut from) = folder();
        let (size, _) = write(&mut from, 9);
        let (dir, mut to) = folder();
        let (whole, last) = piece(&mut from, 9, 0).expect("it is there");
        assert_eq!((whole.len() as u64, last), (size, true));
        let mut offset = 0;
        for part in whole.chunks(100) {
            let done = offset + part.len() == whole.len();
            let report = carry_out(
                &mut to,
                SnapshotOut::Receive {
                    meta: meta(9),
                    offset: offset as u64,
                    data: part.into(),
                    done,
                },
            );
            offset += part.len();
            match report {
                None => assert!(!done),
                Some(SnapshotIn::Installed {
                    meta: found, bytes, ..
                }) => {
                    assert_eq!((found, bytes), (meta(9), size));
                }
                Some(_) => panic!("it is whole"),
            }
        }
        assert_eq!(snapfile::list(&at(&dir)).expect("a folder"), [Index(9)]);
        // A snapshot of this machine that was begun before and ends after it is the older one.
        assert_eq!(write(&mut to, 7).1, Index(7));
        assert_eq!(to.kept, [Index(9), Index(7)]);
    }

    #[test]
    fn a_damaged_snapshot_is_refused_and_may_be_sent_again() {
        let (_dir, mut from) = folder();
        write(&mut from, 9);
        let (whole, _) = piece(&mut from, 9, 0).expect("it is there");
        let (dir, mut to) = folder();
        let mut receive = |data: &[u8], offset| {
            carry_out(
                &mut to,
                SnapshotOut::Receive {
                    meta: meta(9),
                    offset,
                    data: data.into(),
                    done: true,
                },
            )
        };
        let mut bad = whole.clone();
        bad[whole.len() / 2] ^= 1;
        assert!(matches!(receive(&bad, 0), Some(SnapshotIn::Refused)));
        // Later pieces of a refused snapshot are refused.
        assert!(matches!(receive(&whole[5..], 5), Some(SnapshotIn::Refused)));
        let entries = fs::read_dir(snapfile::folder(&at(&dir))).expect("a folder");
        assert_eq!(entries.count(), 0);
        assert!(matches!(
            receive(&whole, 0),
            Some(SnapshotIn::Installed { .. })
        ));
    }

    /// Each piece is checked and restored when it arrives, so the work is not left to the last one.
    #[test]
    fn damage_is_found_with_the_piece_that_has_it() {
        let (_dir, mut from) = folder();
        let mut store = Store::new(LIMITS);
        for n in 0..500 {
            let command = Command::Set {
                path: KeyPath::new(&format!("/key{n}")),
                value: Some("value".into()),
                lease: None,
            };
            store.apply(&command).expect("it is set");
        }
        store.snapshot_begin();
        assert!(carry_out(&mut from, SnapshotOut::Begin(meta(9))).is_none());
        let mut step = SnapshotStep::More;
        while step == SnapshotStep::More {
            let mut chunk = Vec::new();
            step = store.snapshot_chunk(1000, &mut chunk);
            assert!(carry_out(&mut from, SnapshotOut::Chunk(chunk)).is_none());
        }
        carry_out(&mut from, SnapshotOut::Finish);
        let (whole, _) = piece(&mut from, 9, 0).expect("it is there");
        let (_dir, mut to) = folder();
        let mut receive = |data: &[u8], offset| {
            carry_out(
                &mut to,
                SnapshotOut::Receive {
                    meta: meta(9),
                    offset: offset as u64,
                    data: data.into(),
                    done: offset + data.len() == whole.len(),
                },
            )
        };
        let mut bad = whole.clone();
        bad[5_000] ^= 1;
        assert!(receive(&bad[..4_000], 0).is_none());
        let report = receive(&bad[4_000..8_000], 4_000);
        assert!(matches!(report, Some(SnapshotIn::Refused)));
        let mut offset = 0;
        for part in whole.chunks(3_000) {
            let report = receive(part, offset);
            offset += part.len();
            let is_installed = matches!(report, Some(SnapshotIn::Installed { .. }));
            assert_eq!(is_installed, offset == whole.len());
        }
        while !to.discarded.is_empty() {
            to.free_some();
        }
    }
}
