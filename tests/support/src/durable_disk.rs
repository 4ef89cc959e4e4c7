//! The disk of a machine without a shell: its log and its snapshots, as a restart finds them. The
//! machine on a virtual clock and the machines among forged messages have one each.
//!
//! The files of the real disk code are not here; the simulator has that code itself. Start at
//! `DurableDisk::on_snapshot_output`.
use crate::durable::DurableLog;
use tern::core::command;
use tern::core::machine::{Founding, Recovered, SnapshotIn, SnapshotOut};
use tern::core::raft::room::FREE_BYTES_MAX;
use tern::core::raft::snapshot_head::{decode_meta, encode_meta};
use tern::core::raft::{EntryBody, Index, PeerId, SnapshotMeta};
use tern::core::store::{HistoryLimits, Restore, Store};

/// Bytes of a piece of a snapshot.
const PIECE_BYTES: usize = 500;
/// The bounds of the history in a key space that is read from a snapshot.
const HISTORY: HistoryLimits = HistoryLimits {
    events: 1000,
    bytes: 16 << 20,
};

/// The durable state of a machine, and the snapshots that are being written and received.
#[derive(Clone, Default)]
pub struct DurableDisk {
    pub id: PeerId,
    pub log: DurableLog,
    /// Oldest first, at most two.
    pub snapshots: Vec<(SnapshotMeta, Vec<u8>)>,
    writing: Option<(SnapshotMeta, Vec<u8>)>,
    receiving: Vec<u8>,
}

impl DurableDisk {
    /// A disk that holds nothing but the machine's id.
    pub fn of(id: PeerId) -> DurableDisk {
        DurableDisk {
            id,
            ..DurableDisk::default()
        }
    }

    /// The disk of a founder.
    pub fn of_founder(founding: Founding) -> DurableDisk {
        let mut log = DurableLog::after(founding.meta.index.0);
        log.term = founding.term;
        DurableDisk {
            id: founding.id,
            log,
            snapshots: vec![(founding.meta, founding.chunks.concat())],
            ..DurableDisk::default()
        }
    }

    /// The state that a start reads, through the codecs of the disk. A snapshot that is being written
    /// is lost.
    ///
    /// # Panics
    ///
    /// If something on the disk cannot be read.
    pub fn recover(&mut self, incarnation: u64) -> Recovered {
        self.writing = None;
        let snapshot = self.snapshots.last().map(|(meta, bytes)| {
            let mut head = Vec::new();
            encode_meta(meta, &mut head);
            let read = decode_meta(&head).expect("a stored head can be read");
            assert_eq!(read.0, *meta, "a stored head is read back");
            (read.0, restore(bytes).expect("a stored snapshot is read"))
        });
        for record in self.log.records() {
            if let EntryBody::Good(body) = &record.entry.body {
                command::decode(body).expect("a stored entry can be read");
            }
        }
        let start = snapshot.as_ref().map_or(0, |(meta, _)| meta.index.0);
        Recovered {
            term: self.log.term,
            vote: self.log.vote,
            id: Some(self.id),
            incarnation,
            snapshot_bytes: self.snapshots.last().map_or(0, |(_, b)| b.len() as u64),
            snapshot,
            entries: self.log.entries_after(start),
            commit: self.log.commit,
            free_bytes: FREE_BYTES_MAX,
        }
    }

    /// Carries out an output for the snapshot files. Returns the report to the core, if there is one.
    ///
    /// # Panics
    ///
    /// If the core writes a snapshot that it has not begun, or leaves a gap in one that it receives.
    pub fn on_snapshot_output(&mut self, output: SnapshotOut) -> Option<SnapshotIn> {
        match output {
            SnapshotOut::Begin(meta) => self.writing = Some((meta, Vec::new())),
            SnapshotOut::Chunk(bytes) => {
                self.writing.as_mut().expect("begun").1.extend(bytes);
                return Some(SnapshotIn::Written { waiting_bytes: 0 });
            }
            SnapshotOut::Finish => return Some(self.finish_snapshot()),
            SnapshotOut::Abandon => self.writing = None,
            SnapshotOut::Read { to, index, offset } => return Some(self.read(to, index, offset)),
            SnapshotOut::Receive {
                meta,
                offset,
                data,
                done,
            } => {
                self.receiving.truncate(offset as usize);
                assert_eq!(self.receiving.len() as u64, offset, "pieces leave no gap");
                self.receiving.extend(data);
                if !done {
                    return Some(SnapshotIn::Received);
                }
                return Some(self.install(meta));
            }
        }
        None
    }

    /// The disk has no room for the snapshot that was begun. Returns its index.
    ///
    /// # Panics
    ///
    /// If none was begun.
    pub fn abandon_snapshot(&mut self) -> Index {
        self.writing.take().expect("begun").0.index
    }

    /// The snapshot that was begun is whole; the two newest are kept.
    fn finish_snapshot(&mut self) -> SnapshotIn {
        let whole = self.writing.take().expect("begun");
        let index = whole.0.index;
        let bytes = whole.1.len() as u64;
        self.snapshots.push(whole);
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
        SnapshotIn::Saved {
            index,
            bytes,
            older: self.snapshots[0].0.index,
        }
    }

    /// The snapshot that was received replaces all others, if it can be read.
    fn install(&mut self, meta: SnapshotMeta) -> SnapshotIn {
        let content = std::mem::take(&mut self.receiving);
        let Some(store) = restore(&content) else {
            return SnapshotIn::Refused;
        };
        let bytes = content.len() as u64;
        self.snapshots = vec![(meta.clone(), content)];
        SnapshotIn::Installed {
            meta,
            store: Box::new(store),
            bytes,
        }
    }

    fn read(&self, to: PeerId, index: Index, offset: u64) -> SnapshotIn {
        let found = self.snapshots.iter().find(|(meta, _)| meta.index == index);
        let rest = found.and_then(|(_, bytes)| bytes.get(usize::try_from(offset).ok()?..));
        let data = rest.map(|rest| {
            let piece = &rest[..rest.len().min(PIECE_BYTES)];
            (piece.into(), piece.len() == rest.len())
        });
        SnapshotIn::Read {
            to,
            index,
            offset,
            data,
        }
    }
}

/// The key space of a snapshot; `None` if it is damaged.
pub fn restore(bytes: &[u8]) -> Option<Store> {
    let mut restore = Restore::new(HISTORY);
    // Cut anyhow: the file's reader knows nothing of the content.
    for piece in bytes.chunks(1000) {
        restore.chunk(piece).ok()?;
    }
    restore.finish().ok()
}
