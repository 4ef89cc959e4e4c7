//! The figures of `/metrics` that the core knows. `codec::api::metrics` names them. Start with
//! [`CoreFigures`].
use super::{Health, Role};
use crate::core::histogram::Histogram;
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, Term};
use crate::core::store::{EtcdIndex, Stats};

/// The figures of one machine. Counters count since the process started, unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreFigures {
    /// Its role.
    pub role: Role,
    /// Whether it can serve its clients.
    pub health: Health,
    /// The figures of a member; `None` outside of a cluster.
    pub member: Option<MemberFigures>,
}

/// The figures of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberFigures {
    /// Its public id.
    pub id: PublicId,
    /// Whether it knows a leader, or is one.
    pub has_leader: bool,
    /// How many leaders have come in.
    pub leader_changes: u64,
    /// Whether its disk has little room.
    pub is_disk_low: bool,
    /// Its log.
    pub log: LogFigures,
    /// How many entries wait to be applied for a client here.
    pub pending: u64,
    /// How many requests have failed with error 300.
    pub failed: u64,
    /// The last change of the key space.
    pub etcd_index: EtcdIndex,
    /// The nodes of the key space that take memory.
    pub nodes: u64,
    /// An estimate of the memory of the key space, in bytes.
    pub store_bytes: u64,
    /// The bound on it; `None` without one.
    pub store_bytes_max: Option<u64>,
    /// The counters of the key space. The counters of writes and expirations follow from the log
    /// and count since the key space began.
    pub store: Stats,
    /// How long entries took from append to commit.
    pub commit: Histogram,
    /// How long entries took from commit to application.
    pub apply: Histogram,
    /// The queues in memory, each with its bytes and its bound.
    pub queues: Vec<QueueFigures>,
    /// The standbys that fetched the list of members here lately.
    pub standbys: u64,
    /// The other members that have started.
    pub peers: Vec<PeerFigures>,
}

/// The log of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFigures {
    /// The term.
    pub term: Term,
    /// The first entry in memory.
    pub first: Index,
    /// The last entry.
    pub last: Index,
    /// The last entry that is durable on its disk.
    pub durable: Index,
    /// The last entry that is committed, as far as it knows.
    pub committed: Index,
    /// The last entry that its key space contains.
    pub applied: Index,
    /// The bytes of all records, at least as many as the disk writes for them.
    pub recorded_bytes: u64,
    /// How many bytes of records the disk takes for certain.
    pub free_bytes: u64,
    /// The last entry that the newest snapshot covers.
    pub snapshot: Index,
    /// The size of the newest snapshot on disk, in bytes; 0 without one.
    pub snapshot_bytes: u64,
}

/// A queue in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFigures {
    /// Its name.
    pub name: &'static str,
    /// The bytes in it.
    pub bytes: u64,
    /// Its bound.
    pub bytes_max: u64,
}

/// Another member that has started.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerFigures {
    /// Its public id.
    pub id: PublicId,
    /// Its name.
    pub name: Box<str>,
    /// Whether a link to it is open.
    pub is_linked: bool,
    /// The leader's figures of the member; `None` on a member that does not lead.
    pub progress: Option<PeerProgressFigures>,
}

/// The leader's figures of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgressFigures {
    /// How many entries of the leader's log it lacks.
    pub lag: u64,
    /// The time since the leader heard it, in milliseconds.
    pub silent_ms: u64,
    /// The round trip to it by the last pings, in microseconds; 0 before the first.
    pub round_trip_us: u32,
}
