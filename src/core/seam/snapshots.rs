//! Snapshot files: the work that the core orders, and its results.
use crate::core::raft::{Index, PeerId, SnapshotMeta};
use crate::core::store::Store;

/// Work on snapshot files, in order. At most one own snapshot and one received one are unfinished.
///
/// The first order about an own snapshot for which the disk has no room is answered by
/// [`SnapshotIn::Failed`]. The later orders about that snapshot then have no effect and no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOut {
    /// Start a new file of an own snapshot with this head.
    Begin(SnapshotMeta),
    /// Append to the unfinished file. [`SnapshotIn::Written`] says how many bytes still wait.
    Chunk(Vec<u8>),
    /// The unfinished file is complete: sync it, rename it, sync the directory, then answer with
    /// [`SnapshotIn::Saved`].
    Finish,
    /// Delete the unfinished file.
    Abandon,
    /// Read a piece of a kept snapshot for a peer; the shell chooses its length. Answered by
    /// [`SnapshotIn::Read`].
    Read {
        /// The peer.
        to: PeerId,
        /// The last entry that the snapshot covers, which names it.
        index: Index,
        /// Where the piece begins in the file, in bytes.
        offset: u64,
    },
    /// Write a piece of the leader's snapshot to a temporary file. Answered by exactly one report:
    /// [`SnapshotIn::Received`], [`SnapshotIn::Installed`], [`SnapshotIn::Refused`] or
    /// [`SnapshotIn::NoRoom`].
    Receive {
        /// The snapshot's head.
        meta: SnapshotMeta,
        /// Where the piece belongs in the file, in bytes; 0 starts a new file.
        offset: u64,
        /// The piece.
        data: Box<[u8]>,
        /// It is the last piece: verify the whole, restore the key space from it, sync, rename,
        /// sync the directory, then answer.
        done: bool,
    },
}

/// The results of work on snapshot files.
pub enum SnapshotIn {
    /// Chunks of the own snapshot are in its file.
    Written {
        /// How many bytes of chunks still wait.
        waiting_bytes: u64,
    },
    /// The own snapshot is durable.
    Saved {
        /// The last entry that it covers.
        index: Index,
        /// Its size on disk, in bytes.
        bytes: u64,
        /// The last entry that the older kept snapshot covers. The log must keep later ones.
        older: Index,
    },
    /// The own snapshot could not be written, for lack of room. Its file is deleted; the older
    /// snapshots stay.
    Failed {
        /// The last entry that it would cover.
        index: Index,
    },
    /// The piece that [`SnapshotOut::Read`] asked for.
    Read {
        /// The peer.
        to: PeerId,
        /// The last entry that the snapshot covers.
        index: Index,
        /// Where the piece begins in the file, in bytes.
        offset: u64,
        /// The piece, and whether it is the last one. `None`: the snapshot was deleted.
        data: Option<(Box<[u8]>, bool)>,
    },
    /// The piece is in the file, and another one follows.
    Received,
    /// The leader's snapshot is durable.
    Installed {
        /// Its head.
        meta: SnapshotMeta,
        /// The key space that it contains.
        store: Box<Store>,
        /// Its size on disk, in bytes.
        bytes: u64,
    },
    /// The leader's snapshot did not verify. The leader sends it again.
    Refused,
    /// The disk has no room for the leader's snapshot. The leader offers it again.
    NoRoom,
}
