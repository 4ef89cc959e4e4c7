//! Raft as in Ongaro's thesis: elections, replication, membership, reads, snapshots.
//!
//! A value that takes inputs and leaves outputs; it knows neither the key space nor the network nor the disk. All that
//! rests on a synced log (votes, append replies, the leader's own count) is withheld here until `on_synced`.
pub mod message;

pub use message::*;

use crate::command::Command;
use crate::timer::Now;

/// What raft is started with.
pub struct RaftConfig {
    pub id: PeerId,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub seed: u64,
}

/// What raft finds on the disk: see `machine::Recovered`.
pub struct RaftState {
    pub term: Term,
    pub vote: PeerId,
    pub snapshot: SnapshotMeta,
    pub entries: Vec<Entry>,
    pub commit: Index,
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not the leader, or a leader that is handing over; the leader's id, or 0.
    NotLeader(PeerId),
    /// Too much is in flight; try later.
    Busy,
}

/// A linearizable read that waits, numbered by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// What raft leaves for its owner, cleared by it.
#[derive(Default)]
pub struct Output {
    /// For the disk; each takes the next Lsn, from 1 on.
    pub persist: Vec<Persist>,
    /// For the links, all of it free to leave now.
    pub messages: Vec<(PeerId, Message)>,
    /// Reads that may be answered once this index is applied.
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that failed because leadership was lost.
    pub failed_reads: Vec<ReadId>,
}

/// One member's raft.
pub struct Raft {}

/// A member's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

impl Raft {
    pub fn new(_config: RaftConfig, _state: RaftState, _now: Now) -> Raft {
        todo!()
    }
    // -- inputs
    /// Append a command as the leader; it is committed once `committed()` reaches its index in the same term.
    pub fn propose(&mut self, _now: Now, _command: &Command) -> Result<(Index, Term), Refusal> {
        todo!()
    }
    /// Ask for a linearizable read (thesis 6.4): comes back in `Output::reads` or `failed_reads`.
    pub fn read(&mut self, _now: Now, _id: ReadId) -> Result<(), Refusal> {
        todo!()
    }
    pub fn on_message(&mut self, _now: Now, _from: PeerId, _message: Message) {
        todo!()
    }
    /// Everything up to this Lsn is durable.
    pub fn on_synced(&mut self, _now: Now, _lsn: Lsn) {
        todo!()
    }
    pub fn on_time(&mut self, _now: Now) {
        todo!()
    }
    /// The owner has applied everything up to here.
    pub fn on_applied(&mut self, _index: Index) {
        todo!()
    }
    /// A snapshot of the applied state at this index is durable; entries up to `release` may be forgotten.
    pub fn on_snapshot_saved(&mut self, _index: Index, _release: Index) {
        todo!()
    }
    // -- outputs
    /// Moves what has gathered into `out`.
    pub fn take_output(&mut self, _out: &mut Output) {
        todo!()
    }
    /// The earliest time (`mono_us`) at which `on_time` has something to do.
    pub fn next_deadline(&self) -> u64 {
        todo!()
    }
    // -- what it is
    pub fn role(&self) -> RaftRole {
        todo!()
    }
    pub fn term(&self) -> Term {
        todo!()
    }
    /// The present leader, or 0.
    pub fn leader(&self) -> PeerId {
        todo!()
    }
    pub fn id(&self) -> PeerId {
        todo!()
    }
    /// The commit index; entries up to it may be applied.
    pub fn committed(&self) -> Index {
        todo!()
    }
    /// The last Lsn handed out.
    pub fn lsn(&self) -> Lsn {
        todo!()
    }
    /// The latest configuration in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        todo!()
    }
    /// An entry that the log in memory still holds.
    pub fn entry(&self, _index: Index) -> Option<&Entry> {
        todo!()
    }
    /// What a snapshot of the state applied at `index` is headed by.
    pub fn snapshot_meta(&self, _index: Index) -> SnapshotMeta {
        todo!()
    }
}
