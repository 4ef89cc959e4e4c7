//! The members as `/v2/members` shows them, and the health of one machine. `codec::api` renders
//! them.
use crate::core::public_id::PublicId;

/// One member as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: PublicId,
    /// Its name; empty until it starts for the first time.
    pub name: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// The client URL that it advertises; `None` until it starts for the first time.
    pub client_url: Option<Box<str>>,
}

/// The members as far as one machine has applied the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberListing {
    /// Sorted by the index of their joins.
    pub members: Vec<MemberInfo>,
    /// The leader; `None` while none is known.
    pub leader: Option<PublicId>,
}

/// Whether a machine can serve its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// A leader that a majority answers, a follower that hears its leader, or a standby whose last
    /// fetch found the cluster.
    Healthy,
    /// A member that has not applied yet all that its cluster had committed.
    Starting,
    /// A leader without the answers of a majority of the voters.
    NoMajority,
    /// A member that hears no leader.
    NoLeader,
    /// A standby whose last fetch has failed.
    NoCluster,
    /// A member that has stopped or is about to leave its cluster.
    Leaving,
}
