//! The statistics of `/v2/stats`, as values. `codec::api` renders them.
use super::Role;
use crate::core::public_id::PublicId;

/// `/v2/stats/self`.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfStats {
    /// This machine's name.
    pub name: Box<str>,
    /// Its public id.
    pub id: PublicId,
    /// Its role.
    pub state: Role,
    /// When this process started, in nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// The leader's name; empty while none is known.
    pub leader: Box<str>,
    /// The leader's public id; `None` while no leader is known.
    pub leader_id: Option<PublicId>,
    /// Since when it leads, as far as this machine knows, in nanoseconds since the Unix epoch.
    pub leader_start_ns: u64,
    /// The time since then, in nanoseconds.
    pub leader_uptime_ns: u64,
    /// How many appends this process has received.
    pub recv_append_count: u64,
    /// Appends received a second; `None` without recent ones.
    pub recv_pkg_rate: Option<f64>,
    /// Bytes of appends received a second; `None` without recent ones.
    pub recv_bandwidth_rate: Option<f64>,
    /// How many appends this process has sent.
    pub send_append_count: u64,
    /// Appends sent a second; `None` without recent ones.
    pub send_pkg_rate: Option<f64>,
    /// Bytes of appends sent a second; `None` without recent ones.
    pub send_bandwidth_rate: Option<f64>,
}

/// `/v2/stats/leader`.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderStats {
    /// The leader's name.
    pub leader: Box<str>,
    /// The leader's public id.
    pub leader_id: PublicId,
    /// The other members.
    pub followers: Vec<FollowerStats>,
}

/// The appends to one follower since this leader leads.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowerStats {
    /// The follower's name.
    pub name: Box<str>,
    /// Its public id.
    pub id: PublicId,
    /// The last round trip, in milliseconds.
    pub current_ms: f64,
    /// The mean of all round trips, in milliseconds.
    pub average_ms: f64,
    /// Their standard deviation, in milliseconds.
    pub deviation_ms: f64,
    /// The shortest round trip, in milliseconds.
    pub minimum_ms: f64,
    /// The longest round trip, in milliseconds.
    pub maximum_ms: f64,
    /// How many appends were answered.
    pub success: u64,
    /// How many appends were rejected.
    pub fail: u64,
}
