//! The figures of `/metrics` that the core knows. `codec::api::metrics` names them.
use super::Role;
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, Term};
use crate::core::store::{EtcdIndex, Stats};

/// The figures of one machine. Counters count since the process started, unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreFigures {
    /// Its role.
    pub role: Role,
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
    /// The term.
    pub term: Term,
    /// The last entry of its log.
    pub last: Index,
    /// The last entry that is durable on its disk.
    pub durable: Index,
    /// The last entry that is committed, as far as it knows.
    pub committed: Index,
    /// The last entry that its key space contains.
    pub applied: Index,
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
    /// The counters of the key space. The counters of writes and expirations follow from the log and
    /// count since the key space began.
    pub store: Stats,
    /// The lags of the other members that have started; empty except on the leader.
    pub lags: Vec<PeerLag>,
}

/// How far another member is behind the leader.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerLag {
    /// Its name.
    pub name: Box<str>,
    /// How many entries of the leader's log it lacks.
    pub entries: u64,
}
