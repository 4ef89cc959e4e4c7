//! Every value that crosses between the shell and the core.
//!
//! Inputs are the arguments of `Machine`'s methods: requests, replies to calls, results of work on
//! snapshot files. Outputs gather in [`Outputs`]. Start there.
mod calls;
mod cluster;
mod facts;
mod figures;
mod locks;
mod members;
mod outputs;
mod requests;
mod snapshots;
mod stats;

pub use calls::{
    Attendance, Call, CallAnswer, CallId, CallRefusal, ClusterRoom, FormerPlace, Introduction,
    MemberPlace, Question, RefusalReason, Reply,
};
pub use cluster::{
    ClusterStatus, ClusterView, LogStatus, MachineStatus, MemberCondition, MemberProgress,
    MemberStatus, ModeName, StandbyStatus, StandbyVisitor,
};
pub use facts::{Fact, PlaceDoubt};
pub use figures::{
    CoreFigures, LogFigures, MemberFigures, PeerFigures, PeerProgressFigures, QueueFigures,
};
pub use locks::{LockHolder, LockOutcome, LockPlace, LockRequest};
pub use members::{Health, MemberInfo, MemberListing};
pub use outputs::{Order, Outputs};
pub use requests::{
    Answer, Delivery, Indexes, Join, MachineInfo, Migrated, Op, Outcome, Query, Role, Ticket,
};
pub use snapshots::{SnapshotIn, SnapshotOut};
pub use stats::{FollowerStats, LeaderStats, SelfStats};

use crate::core::command::ClusterConfig;
use crate::core::memory::MemoryBounds;
use crate::core::raft::room::FREE_BYTES_MAX;
use crate::core::raft::{Entry, Index, PeerId, SnapshotMeta, Term};
use crate::core::store::Store;

/// The part of the configuration that the core needs; the same as long as the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This machine's name.
    pub name: Box<str>,
    /// The client URL that it advertises, `http://host:port`.
    pub client_url: Box<str>,
    /// The peer URL that it advertises, `http://host:port`.
    pub peer_url: Box<str>,
    /// The time between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The election timeout, in milliseconds. Each member draws between this and twice this.
    pub election_ms: u64,
    /// A snapshot is due after this many entries.
    pub snapshot_count: u64,
    /// False: snapshots are only made when the disk has little room.
    pub snapshots: bool,
    /// The cluster config that a new cluster starts with.
    pub cluster: ClusterConfig,
    /// How many events are kept for watchers that ask for past ones.
    pub history_events: usize,
    /// The leader refuses client writes that would make the key space larger than this, in bytes as
    /// `Store::bytes` counts them. `None`: no bound.
    pub store_bytes_max: Option<u64>,
    /// The bounds of memory besides the key space.
    pub memory: MemoryBounds,
    /// Forward writes and linearizable reads to the leader, instead of redirecting clients.
    pub forward: bool,
}

/// The content of the data directory at start.
pub struct Recovered {
    /// The term that was recorded last.
    pub term: Term,
    /// The candidate that has this machine's vote in that term.
    pub vote: Option<PeerId>,
    /// This machine's id in its cluster; `None` if it is not a member.
    pub id: Option<PeerId>,
    /// The random number of the data directory.
    pub incarnation: u64,
    /// The head of the newest snapshot and the key space that it contains; `None` without one.
    pub snapshot: Option<(SnapshotMeta, Store)>,
    /// The size of that snapshot on disk, in bytes; 0 without one.
    pub snapshot_bytes: u64,
    /// The entries after the snapshot.
    pub entries: Vec<Entry>,
    /// The highest commit index that the log has recorded.
    pub commit: Index,
    /// How many bytes of records the log is sure to have room for. The core hands no record over
    /// before it knows that: a repair, for example, can be due at once.
    pub free_bytes: u64,
}

impl Recovered {
    /// The content of a directory that holds only its number and, for a member that was just
    /// admitted, the id.
    pub fn nothing(id: Option<PeerId>, incarnation: u64) -> Recovered {
        Recovered {
            term: Term(0),
            vote: None,
            id,
            incarnation,
            snapshot: None,
            snapshot_bytes: 0,
            entries: Vec::new(),
            commit: Index(0),
            free_bytes: FREE_BYTES_MAX,
        }
    }
}

/// The content of the file `standby_info`: the cluster that this machine is a standby of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyInfo {
    /// This machine is a standby now. False once it was admitted: then only the addresses in the
    /// file are used.
    pub running: bool,
    /// The members as last listed, the leader marked.
    pub cluster: Vec<MachineInfo>,
    /// The time between two fetches of the list, in milliseconds; 0 before it is known.
    pub sync_interval_ms: u64,
    /// The last place that this machine had in a cluster; `None` if it was never a member.
    pub former: Option<FormerPlace>,
    /// This machine was removed for good from its cluster: it does not ask to join.
    pub is_barred: bool,
}

/// The room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Too little for client writes.
    Low,
    /// Enough.
    Ok,
}

/// The first state of a new cluster: snapshot zero, which contains the founder's own Join. The
/// shell makes the term (without a vote) and then the snapshot durable before it calls
/// `Machine::recover`. Doing so twice is harmless.
pub struct Founding {
    /// The founder's id.
    pub id: PeerId,
    /// The term to record.
    pub term: Term,
    /// The head of the snapshot.
    pub meta: SnapshotMeta,
    /// Its content, in the pieces that [`SnapshotOut::Chunk`] has for later snapshots.
    pub chunks: Vec<Vec<u8>>,
}
