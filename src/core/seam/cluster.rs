//! The cluster as one machine sees it (`GET /v2/cluster`). `codec::cluster_status` writes it.
use super::{Health, Role};
use crate::core::command::ClusterConfig;
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, Term};

/// A machine, and the cluster as it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// The machine.
    pub machine: MachineStatus,
    /// Whether the machine leads, so that the view is complete.
    pub is_leaders_view: bool,
    /// Its view of the cluster.
    pub view: ClusterView,
}

/// The state of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineStatus {
    /// Its name.
    pub name: Box<str>,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// Its mode.
    pub mode: ModeName,
    /// Its role.
    pub role: Role,
    /// Its public id; `None` outside of a cluster.
    pub id: Option<PublicId>,
    /// Whether it can serve its clients.
    pub health: Health,
    /// Its log; `None` outside of a cluster.
    pub log: Option<LogStatus>,
}

/// The mode of a machine, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeName {
    /// It takes part in its cluster.
    Member,
    /// It waits for room in its cluster.
    Standby,
    /// Neither: it looks for its cluster, waits for it to begin, leaves it, or has stopped.
    Outside,
}

/// The positions in the log of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// The term.
    pub term: Term,
    /// The last entry.
    pub last: Index,
    /// The last entry that is durable on its disk.
    pub durable: Index,
    /// The last entry that is committed, as far as it knows.
    pub committed: Index,
    /// The last entry that its key space contains.
    pub applied: Index,
}

/// A machine's view of its cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// The cluster's public id; `None` while it is not known.
    pub id: Option<PublicId>,
    /// The cluster config in force; `None` while it is not known.
    pub config: Option<ClusterConfig>,
    /// The log of the machine; `None` outside of a cluster.
    pub log: Option<LogStatus>,
    /// The members, sorted by name.
    pub members: Vec<MemberStatus>,
    /// The standbys that fetched the list of members here lately, sorted by name.
    pub standbys: Vec<StandbyStatus>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// Its public id; `None` if a standby tells of it.
    pub id: Option<PublicId>,
    /// Its name; empty until it starts for the first time.
    pub name: Box<str>,
    /// The client URL that it advertises; empty until it starts for the first time.
    pub client_url: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// Whether it counts for majorities; `None` if a standby tells of it.
    pub is_voter: Option<bool>,
    /// Its condition.
    pub condition: MemberCondition,
    /// Its progress; known to the leader alone.
    pub progress: Option<MemberProgress>,
}

/// The condition of a member, as one machine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberCondition {
    /// It leads.
    Leader,
    /// It was admitted before it has started for the first time.
    Added,
    /// The leader hears it.
    Follower,
    /// The leader sends it a snapshot.
    TakesSnapshot,
    /// Its log has no room for entries of clients.
    Full,
    /// The leader has not heard it for an election timeout.
    Silent,
    /// It is the machine itself, which does not lead.
    Own,
    /// A link to it is open.
    Linked,
    /// No link to it is open.
    Unlinked,
    /// A standby was told of it.
    Listed,
}

/// The progress of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// The last entry that is durable there.
    pub matched: Index,
    /// How many entries of the leader's log it lacks.
    pub lag: u64,
    /// The time since the leader heard it, in milliseconds.
    pub silent_ms: u64,
}

/// A standby as it names itself when it fetches the list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyVisitor {
    /// Its name.
    pub name: Box<str>,
    /// The client URL that it advertises, if it tells it.
    pub client_url: Option<Box<str>>,
}

/// A standby that fetched the list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// The standby.
    pub standby: StandbyVisitor,
    /// The time since its last fetch, in milliseconds.
    pub since_ms: u64,
}
