//! The usage of memory and disk by the log, for operators. No decision depends on it. Start with
//! [`Raft::log_usage`].
use super::message::Index;
use super::{Progress, Raft};

/// The usage of memory and disk by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogUsage {
    /// The first entry in memory. Earlier ones are on the disk only.
    pub first: Index,
    /// The entries in memory, in bytes.
    pub memory_bytes: u64,
    /// The entries that are not committed, in bytes; 0 on a member that does not lead.
    pub uncommitted_bytes: u64,
    /// All records since the start, in bytes, as the core counts them: at least as many as the disk
    /// writes for them.
    pub recorded_bytes: u64,
    /// How many bytes of records the disk takes for certain.
    pub free_bytes: u64,
}

impl Raft {
    /// The present usage of memory and disk by the log.
    pub fn log_usage(&self) -> LogUsage {
        LogUsage {
            first: self.log.start().next(),
            memory_bytes: self.log.memory_bytes(),
            uncommitted_bytes: self.leader_state.uncommitted_bytes(),
            recorded_bytes: self.room.recorded_bytes(),
            free_bytes: self.room.free_bytes(),
        }
    }

    /// The round trip to a peer by the last pings, in microseconds; 0 before the first.
    pub fn round_trip_us(&self, peer: &Progress) -> u32 {
        self.round_trips.of(peer.id())
    }
}
