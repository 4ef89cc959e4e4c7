//! The snapshots of a running machine: the orders of the core in the order in which they came, and
//! the tasks that carry them out.
//!
//! Work on snapshot files waits for the device. So an order waits here for a [`SnapshotTask`], which
//! the caller runs in another thread; one runs at a time. It runs beside the tasks of the log. The
//! order between the two that safety needs is kept by the core, which gives an order only once the
//! end of what must precede it was reported:
//! - A snapshot is finished once the log is durable up to its index. Otherwise a crash could leave it
//!   followed by entries of a former leader.
//! - Entries are released once a snapshot that covers them is durable.
//! - The record of a leader's snapshot goes to the log once that snapshot is durable.
//!
//! The key space of a leader's snapshot is restored here, in the loop, piece by piece as it arrives:
//! the loop frees it later, so its memory is that of the loop's thread.
//!
//! What waits is bounded by the core, which follows the reports: `SnapshotIn::Written` bounds the
//! chunks of an own snapshot, and one report for each piece bounds those of a leader's snapshot. Of
//! the pieces that are to be read for a peer only the last one waits: the core asks again if the peer
//! does not confirm a piece in time.
//!
//! Start with [`Snapshots::take_order`], then [`Snapshots::start_task`].
use super::DiskFailure;
use super::files::{DataDir, UNSYNCED_BYTES_MAX};
use super::snapfile::{self, SnapshotParser, Unusable};
use super::snapshot_files::{
    SnapshotFileStep, SnapshotFiles, SnapshotPiece, SnapshotTask, incoming_path,
};
use crate::core::machine::{SnapshotIn, SnapshotOut};
use crate::core::raft::{Index, SnapshotMeta};
use crate::core::store::{BadSnapshot, Discarded, HistoryLimits, Restore, Store};
use std::io;
use std::path::{Path, PathBuf};
use wal::fs::FileSystem;

/// The orders that wait, and the files.
pub struct Snapshots<F: FileSystem> {
    /// Bounds for the event history of a restored store.
    limits: HistoryLimits,
    /// The path of the leader's snapshot until it is whole, for texts.
    incoming_path: PathBuf,
    /// The files. `None` while a task has them.
    files: Option<SnapshotFiles<F>>,
    /// The steps that wait for a task, oldest first.
    waiting: Vec<SnapshotFileStep>,
    /// The bytes of the chunks of an own snapshot among them.
    waiting_bytes: u64,
    /// The reports of tasks that were taken back, oldest first, until they are taken.
    reports: Vec<SnapshotIn>,
    /// The snapshot that a leader is sending. `None` before its first piece and after a refusal.
    /// While it is `None`, only a piece at offset 0 is accepted.
    receiving: Option<Receiving>,
    /// The key spaces of snapshots that were dropped before they were installed, until they are
    /// freed.
    discarded: Vec<Discarded>,
}

/// A snapshot from a leader. Each piece is checked and restored when it arrives, so the last one
/// takes no longer than the others.
struct Receiving {
    parser: SnapshotParser,
    restore: Restore,
}

impl Receiving {
    /// Restores the chunks that the next piece of the file completes.
    fn restore_piece(&mut self, piece: &[u8], path: &Path) -> Result<(), Unusable> {
        let restore = &mut self.restore;
        self.parser
            .push(piece, &mut |chunk| restore_chunk(restore, chunk, path))
    }

    /// The key space, after the last piece.
    fn finish(self, meta: &SnapshotMeta, path: &Path) -> Result<Store, Unusable> {
        if self.parser.finish()? != *meta {
            let text = "its head is not the one that was announced".to_string();
            return Err(Unusable::Damaged(text));
        }
        self.restore.finish().map_err(|e| damaged(path, &e))
    }
}

fn restore_chunk(restore: &mut Restore, chunk: &[u8], path: &Path) -> Result<(), Unusable> {
    restore.chunk(chunk).map_err(|e| damaged(path, &e))
}

fn damaged(path: &Path, error: &BadSnapshot) -> Unusable {
    Unusable::Damaged(format!("{}: {}", path.display(), error.0))
}

impl<F: FileSystem> Snapshots<F> {
    /// `kept` are the indexes that recovery found, newest first.
    pub fn new(data_dir: &DataDir<F>, limits: HistoryLimits, kept: Vec<Index>) -> Snapshots<F> {
        Snapshots {
            limits,
            incoming_path: incoming_path(data_dir),
            files: Some(SnapshotFiles::new(data_dir, kept)),
            waiting: Vec::new(),
            waiting_bytes: 0,
            reports: Vec::new(),
            receiving: None,
            discarded: Vec::new(),
        }
    }

    /// Bounds for the event history of a restored store.
    pub fn limits(&self) -> HistoryLimits {
        self.limits
    }

    /// Takes an order of the core for the next task. Returns a report if it is refused at once: a
    /// piece of a leader's snapshot that is damaged.
    pub fn take_order(&mut self, order: SnapshotOut) -> Option<SnapshotIn> {
        let step = match order {
            SnapshotOut::Begin(meta) => SnapshotFileStep::Begin(meta),
            SnapshotOut::Chunk(bytes) => {
                self.waiting_bytes += bytes.len() as u64;
                SnapshotFileStep::Append(bytes)
            }
            SnapshotOut::Finish => SnapshotFileStep::Finish,
            SnapshotOut::Abandon => SnapshotFileStep::Abandon,
            SnapshotOut::Read { to, index, offset } => {
                // While a task takes long, the core asks again.
                self.waiting.retain(|step| !step.reads_for(to));
                SnapshotFileStep::Read { to, index, offset }
            }
            SnapshotOut::Receive {
                meta,
                offset,
                data,
                done,
            } => {
                let piece = SnapshotPiece {
                    meta,
                    offset,
                    data,
                    store: None,
                };
                return self.receive(piece, done);
            }
        };
        self.waiting.push(step);
        None
    }

    /// Restores a piece of the leader's snapshot, which the next task writes. Returns a report if it
    /// is refused.
    fn receive(&mut self, mut piece: SnapshotPiece, done: bool) -> Option<SnapshotIn> {
        let path = &self.incoming_path;
        if piece.offset == 0 {
            let begun = Receiving {
                parser: SnapshotParser::new(path, piece.meta.index),
                restore: Restore::new(self.limits),
            };
            self.drop_receiving();
            self.receiving = Some(begun);
        }
        let Some(receiving) = &mut self.receiving else {
            return Some(SnapshotIn::Refused);
        };
        if let Err(unusable) = receiving.restore_piece(&piece.data, &self.incoming_path) {
            return Some(self.refuse(unusable));
        }
        if let Some(whole) = self.receiving.take_if(|_| done) {
            match whole.finish(&piece.meta, &self.incoming_path) {
                Ok(store) => piece.store = Some(Box::new(store)),
                Err(unusable) => return Some(self.refuse(unusable)),
            }
        }
        self.waiting.push(SnapshotFileStep::Receive(piece));
        None
    }

    fn refuse(&mut self, why: Unusable) -> SnapshotIn {
        let why = why.text();
        log::warn!("the leader's snapshot is refused: {why}. It will be sent again");
        self.drop_receiving();
        self.waiting.push(SnapshotFileStep::DropReceived);
        SnapshotIn::Refused
    }

    /// Drops the leader's snapshot, which is not whole; its key space is freed bit by bit.
    fn drop_receiving(&mut self) {
        if let Some(receiving) = self.receiving.take() {
            let store = receiving.restore.abandon();
            self.discarded.push(Discarded::new(store));
        }
    }

    /// Makes a task of the steps that wait, up to the first one that syncs for certain and at most
    /// `UNSYNCED_BYTES_MAX` bytes of chunks and one more: the loop may wait for the task, and meets
    /// its peers only between two tasks. `None` if no step waits, and while another task is under
    /// way.
    pub fn start_task(&mut self) -> Option<SnapshotTask<F>> {
        if self.waiting.is_empty() {
            return None;
        }
        let files = self.files.take()?;
        let mut bytes = 0;
        let ends = |step: &SnapshotFileStep| {
            bytes += step.chunk_bytes();
            step.syncs() || bytes >= UNSYNCED_BYTES_MAX
        };
        let end = self.waiting.iter().position(ends);
        let end = end.map_or(self.waiting.len(), |last| last + 1);
        let steps = self.waiting.drain(..end).collect();
        self.waiting_bytes -= bytes as u64;
        Some(SnapshotTask::new(files, steps))
    }

    /// Takes back a task that has run.
    ///
    /// # Errors
    ///
    /// A system call of the task failed, and not for want of room.
    pub fn take_back(&mut self, task: SnapshotTask<F>) -> Result<(), DiskFailure> {
        let has_chunks = task.has_chunks();
        let (mut files, reports) = task.into_parts()?;
        for store in files.take_unused() {
            self.discarded.push(Discarded::new(store));
        }
        self.files = Some(files);
        if has_chunks {
            let waiting_bytes = self.waiting_bytes;
            self.reports.push(SnapshotIn::Written { waiting_bytes });
        }
        for report in reports {
            // The core drops the snapshot that is being sent, even if it is not the refused one.
            if matches!(report, SnapshotIn::NoRoom) {
                self.drop_receiving();
            }
            self.reports.push(report);
        }
        Ok(())
    }

    /// Takes the reports of the tasks that were taken back, oldest first.
    pub fn take_reports(&mut self) -> Vec<SnapshotIn> {
        std::mem::take(&mut self.reports)
    }

    /// Whether a task is under way.
    pub fn has_task(&self) -> bool {
        self.files.is_none()
    }

    /// Whether [`Snapshots::start_task`] or [`Snapshots::take_reports`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.reports.is_empty() || (!self.has_task() && !self.waiting.is_empty())
    }

    /// Removes all snapshots except the newest, and unfinished ones: a full disk must have room for
    /// `membership` or `standby_info`. The orders that wait are dropped without a report. So only a
    /// machine that has just been admitted, and has none, and one that is wiped next may call it.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn keep_newest_only(&mut self) -> io::Result<()> {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.drop_receiving();
        let files = self.files.as_mut().expect("no task is under way");
        files.keep_newest_only()
    }

    /// Frees a part of a key space that was dropped.
    pub fn free_some(&mut self) {
        if let Some(discarded) = self.discarded.last_mut()
            && !discarded.free_some()
        {
            self.discarded.pop();
        }
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

    /// Carries out an order. Returns its report, if there is one, but not that of a chunk.
    fn carry_out(snapshots: &mut Snapshots<Os>, order: SnapshotOut) -> Option<SnapshotIn> {
        let refused = snapshots.take_order(order);
        if let Some(mut task) = snapshots.start_task() {
            task.run();
            snapshots.take_back(task).expect("the disk works");
        }
        let is_chunk = |report: &SnapshotIn| matches!(report, SnapshotIn::Written { .. });
        let mut reports = snapshots.take_reports();
        reports.retain(|report| !is_chunk(report));
        assert!(reports.len() <= 1, "an order has one report");
        refused.or(reports.pop())
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
                Some(SnapshotIn::Received) => assert!(!done),
                Some(SnapshotIn::Installed {
                    meta: found, bytes, ..
                }) => {
                    assert_eq!((found, bytes), (meta(9), size));
                }
                _ => panic!("it is whole"),
            }
        }
        assert_eq!(snapfile::list(&at(&dir)).expect("a folder"), [Index(9)]);
        // A snapshot of this machine that was begun before and ends after it is the older one.
        assert_eq!(write(&mut to, 7).1, Index(7));
        assert_eq!(
            snapfile::list(&at(&dir)).expect("a folder"),
            [Index(9), Index(7)]
        );
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
        let report = receive(&bad[..4_000], 0);
        assert!(matches!(report, Some(SnapshotIn::Received)));
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
