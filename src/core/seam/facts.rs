//! Facts: what the core reports to the operator. The core writes no log; the shell gives each fact
//! its level and its words (`shell::log_lines`).
use crate::core::command::ClusterConfig;
use crate::core::peers::LinkReport;
use crate::core::raft::{Index, PeerId, Term};

/// A peer's claim about this member's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceDoubt {
    /// The name of the peer; empty if it is not known.
    pub by: Box<str>,
    /// Its peer URL; empty if it is not known.
    pub address: Box<str>,
    /// True: this member was removed. False: it has lost entries.
    pub is_removal: bool,
}

/// Something that is worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// This member leads.
    BecameLeader {
        /// The term of the leadership.
        term: Term,
    },
    /// No voter of the majority has heard a leader since its process started, so this leader has
    /// asked its wall clock how long all were down.
    ClockBridged {
        /// By how much the cluster clock went on, in milliseconds.
        by_ms: u64,
    },
    /// This member follows, and has learned of the leader.
    BecameFollower {
        /// The leader's term.
        term: Term,
        /// The leader's name; empty if the configuration does not name it.
        leader: Box<str>,
    },
    /// This member campaigns; the pre-vote has succeeded.
    BecameCandidate {
        /// The term that it campaigns for.
        term: Term,
    },
    /// A snapshot of the own key space has begun.
    SnapshotStarted {
        /// The last entry that it covers.
        index: Index,
    },
    /// The own snapshot is durable.
    SnapshotSaved {
        /// The last entry that it covers.
        index: Index,
        /// Its size on disk, in bytes.
        bytes: u64,
    },
    /// The own snapshot was given up: it had to keep too much memory for the writes meanwhile, or
    /// the disk has no room.
    SnapshotAbandoned {
        /// The last entry that it would have covered.
        index: Index,
        /// How long the next one waits at least, in microseconds.
        pause_us: u64,
    },
    /// A write was refused because the disks of a majority have no room for it. Reported again only
    /// after a write was taken.
    NoRoomForWrites,
    /// After `NoRoomForWrites` a write was taken.
    RoomForWrites,
    /// A write was refused because the key space has no room for it. Reported again only after the
    /// key space had room.
    StoreFull {
        /// The size of the key space, in bytes.
        bytes: u64,
        /// Its bound.
        bytes_max: u64,
    },
    /// The key space was full and has room again.
    StoreHasRoom,
    /// A snapshot of the leader has replaced the key space.
    SnapshotInstalled {
        /// The last entry that it covers.
        index: Index,
    },
    /// A machine has joined the cluster. Like the two facts below, it is not reported for entries
    /// that were committed before this process started or this machine joined.
    MemberJoined {
        /// The member's name.
        name: Box<str>,
        /// Its peer URL.
        peer_url: Box<str>,
    },
    /// A member has been removed from the cluster.
    MemberRemoved {
        /// The member's name.
        name: Box<str>,
        /// Its peer URL.
        peer_url: Box<str>,
    },
    /// The cluster config has changed.
    ConfigChanged {
        /// The config that is in force now.
        config: ClusterConfig,
    },
    /// This member was removed from its cluster.
    Removed,
    /// This machine was removed from its cluster for good. It does not ask to join again.
    Barred,
    /// The data directory of this member is an old copy: the cluster knows of acknowledgements that
    /// it does not contain. The member leaves.
    Amnesia,
    /// A peer says that this member was removed, or has lost entries. Others are asked.
    PlaceDoubted(PlaceDoubt),
    /// No other machine has confirmed that this member was removed, or has lost entries.
    PlaceKept {
        /// Whether the leader lists this member.
        is_listed: bool,
    },
    /// An attempt to find the cluster has failed. Reported when the reason changes.
    SearchFailed {
        /// The reasons of all machines that were asked.
        why: Box<str>,
        /// The time to the next attempt, in milliseconds.
        pause_ms: u64,
    },
    /// These machines of the list have not answered, so the cluster cannot begin (`-bootstrap`).
    /// Reported when they change.
    BootstrapWaits {
        /// Their peer URLs.
        urls: Box<str>,
    },
    /// The machines of the list were not all started with the same list, or the list is wrong, so
    /// the cluster cannot begin. Reported when the reason changes.
    BootstrapDiffers {
        /// The machines and the difference.
        why: Box<str>,
    },
    /// The discovery service has refused this machine's registration. It is tried again.
    NotRegistered {
        /// The service and the reason.
        why: Box<str>,
    },
    /// The cluster has admitted this machine.
    Admitted {
        /// The id that it has as a member.
        id: PeerId,
    },
    /// The cluster has no place for this machine, which becomes a standby.
    Refused {
        /// The machine that was asked, and its reason.
        why: Box<str>,
    },
    /// This machine was a standby when it was stopped, and goes on as one.
    StandbyResumed,
    /// A standby could not fetch the members, or was refused. Reported when the reason changes.
    StandbyRefused {
        /// The machine that was asked, and the reason.
        why: Box<str>,
    },
    /// A machine of the cluster does not list this member.
    Unlisted,
    /// At the address of a machine of this cluster, a machine of another one has answered.
    OtherCluster {
        /// The address.
        why: Box<str>,
    },
    /// The leader removes a member.
    RemovalProposed {
        /// The member's name.
        peer: Box<str>,
        /// How long it was silent, in milliseconds.
        silent_ms: u64,
        /// True: there are more members than the active size. False: the member was silent for the
        /// removal delay.
        too_many: bool,
    },
    /// Peers miss heartbeats.
    HeartbeatsMissed {
        /// The name of each peer, and how many heartbeats it has missed since it was heard.
        peers: Vec<(Box<str>, u64)>,
        /// No missed heartbeats of these peers are reported for this time, in seconds.
        backoff_s: u64,
    },
    /// A heartbeat of the leader arrived shortly before this member would have campaigned.
    HeartbeatLate {
        /// The leader's name.
        peer: Box<str>,
        /// The time since the previous one, in milliseconds.
        after_ms: u64,
    },
    /// No leader has been known for long.
    Leaderless {
        /// How many voters the configuration has; 0: no data of the cluster has arrived yet.
        voters: usize,
    },
    /// The disk has little room: client writes are refused.
    DiskLow,
    /// The disk has room again.
    DiskOk,
    /// A link to a peer was opened, has failed or was refused, or a stranger's hello was.
    Link(LinkReport),
}
