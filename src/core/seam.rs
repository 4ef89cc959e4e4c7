//! Every value that crosses between the shell and the core.
mod calls;
mod outputs;

pub use calls::{
    Call, CallAnswer, CallId, CallRefusal, ClusterRoom, Introduction, Question, RefusalReason,
    Reply,
};
pub use outputs::{Order, Outputs};

use crate::core::command::{ClusterConfig, Command, KeyPath};
use crate::core::error::Error;
use crate::core::raft::{Entry, Index, PeerId, SnapshotMeta, Term};
use crate::core::store::{EtcdIndex, Event, ListItem, Store};

/// A request that waits for its answer: chosen by the shell, unique among those open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the core needs to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This machine's name.
    pub name: Box<str>,
    /// The client URL it advertises, `http://host:port`.
    pub client_url: Box<str>,
    /// The peer URL it advertises.
    pub peer_url: Box<str>,
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// The election timeout in milliseconds; each machine draws between this and twice this.
    pub election_ms: u64,
    /// A snapshot is due after this many entries.
    pub snapshot_count: u64,
    /// False: snapshots only when the disk must be spared.
    pub snapshots: bool,
    /// The cluster config that a new cluster starts with.
    pub cluster: ClusterConfig,
    /// How many events are kept for watchers that ask for the past.
    pub history_events: usize,
    /// Pass writes and linearizable reads on to the leader, instead of sending clients there.
    pub forward: bool,
}

/// What a client or an admin asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Read a node, or list a directory. Answer: `Page`s.
    Get {
        path: KeyPath,
        recursive: bool,
        linearizable: bool,
    },
    /// Wait for a change. Answer: `Watching`, then deliveries until the watcher is done.
    Watch {
        path: KeyPath,
        recursive: bool,
        stream: bool,
        since: Option<u64>,
        /// Only the leader may answer (`consistent=true`): elsewhere a redirect.
        on_leader: bool,
    },
    /// Put this into the log (only commands on the key space). Answer: `Event`.
    Write(Command),
    /// A question that needs no waiting; it has one answer.
    Query(Query),
    /// 10,000 sets of `/foo`.
    SpeedTest,
    /// The key space from the root, hidden nodes too, and the history. Answer: `Page`s
    /// (`ContinueListing` asks for the next), then, when `ContinueListing` is asked for after the
    /// last, `Migrated`.
    Migrate,
    /// Fields that are absent stay. The core drops the fraction of the size, rounds times to
    /// milliseconds and raises what is below its least value to it. Answer: `Config` with what
    /// is in force then.
    ConfigPut {
        active_size: Option<f64>,
        remove_delay_s: Option<f64>,
        sync_interval_s: Option<f64>,
    },
    MachineRemove {
        name: Box<str>,
    },
    Join(Join),
    /// The last page or backlog has left the output buffer: send the next one.
    ContinueListing,
    /// The client went away: free whatever this ticket holds. Has no answer.
    ClientClosed,
}

/// A question about the cluster or this machine, answered from what this machine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The leader's peer URL.
    Leader,
    /// The members' client URLs, the leader's first.
    Machines,
    /// The statistics of this machine.
    StatsSelf,
    /// The statistics of the followers; only the leader has them.
    StatsLeader,
    /// The statistics of the key space.
    StatsStore,
    /// The cluster config in force.
    ConfigGet,
    /// The members.
    MachineList,
    /// The members, if this machine can tell whether the member `id` of `cluster` is one of them:
    /// it belongs to that cluster and has applied the member's join. Otherwise error 300.
    MachinesOf {
        /// The cluster's identity.
        cluster: u64,
        /// The member's id.
        id: u64,
    },
    /// One member.
    MachineGet {
        /// Its name.
        name: Box<str>,
    },
}

/// A request to join the cluster, as `/join` carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub min_version: u64,
    pub max_version: u64,
    pub name: Box<str>,
    pub peer_url: Box<str>,
    pub client_url: Box<str>,
    /// The data directory's random number; 0 when the sender told none.
    pub incarnation: u64,
}

/// The indexes that head an answer (`X-Etcd-Index`, `X-Raft-Index`, `X-Raft-Term`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    pub etcd: EtcdIndex,
    pub commit: Index,
    pub term: Term,
}

/// An answer, or a part of one, for a ticket.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub ticket: Ticket,
    pub at: Indexes,
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A write was carried out.
    Event(Box<Event>),
    /// A part of a listing; `ContinueListing` asks for the next unless it is the last.
    Page {
        items: Vec<ListItem>,
        last: bool,
    },
    /// The watcher waits (head of the answer now); what it waits for comes as deliveries.
    Watching,
    /// Past events for a watcher that asked for them, oldest first; with `done` the answer ends
    /// here (a long poll), without it `ContinueListing` asks for the next ones until a batch is
    /// empty: from then on the watcher is live.
    Backlog {
        events: Vec<Event>,
        done: bool,
    },
    /// What follows the key space in the migration document, as of the same moment.
    Migrated(Box<Migrated>),
    /// The watcher's body ends here, with nothing more in it.
    WatchEnd,
    /// It failed.
    Failed(Error),
    /// Another machine must be asked.
    Redirect {
        client_url: Box<str>,
        peer_url: Box<str>,
    },
    Leader {
        peer_url: Box<str>,
    },
    Machines {
        client_urls: Vec<Box<str>>,
    },
    StatsSelf(Box<SelfStats>),
    StatsLeader(LeaderStats),
    StatsStore(Box<crate::core::store::Stats>),
    /// Not the leader, so no leader statistics (403).
    NotLeader,
    SpeedTest,
    Config(ClusterConfig),
    MachineList(Vec<MachineInfo>),
    Machine(MachineInfo),
    Removed,
    Joined(Index),
}

/// One line of `/v2/admin/machines`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInfo {
    pub name: Box<str>,
    pub state: Role,
    pub client_url: Box<str>,
    pub peer_url: Box<str>,
}

/// The rest of the migration document.
#[derive(Clone, Debug, PartialEq)]
pub struct Migrated {
    /// The etcd index of the key space in the pages.
    pub etcd: EtcdIndex,
    /// The raft index of the same moment; it names the file.
    pub raft: Index,
    /// The event history, oldest first.
    pub events: Vec<Event>,
    /// How many events the history may hold.
    pub capacity: usize,
    pub stats: crate::core::store::Stats,
}

/// What a machine is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Standby,
}

/// `/v2/stats/self`.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfStats {
    pub name: Box<str>,
    pub state: Role,
    /// Nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// The leader's name, empty while there is none.
    pub leader: Box<str>,
    pub leader_start_ns: u64,
    pub leader_uptime_ns: u64,
    pub recv_append_count: u64,
    pub recv_pkg_rate: Option<f64>,
    pub recv_bandwidth_rate: Option<f64>,
    pub send_append_count: u64,
    pub send_pkg_rate: Option<f64>,
    pub send_bandwidth_rate: Option<f64>,
}

/// `/v2/stats/leader`.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderStats {
    pub leader: Box<str>,
    pub followers: Vec<FollowerStats>,
}

/// The latency of append entries to one follower, in milliseconds, and how many succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowerStats {
    pub name: Box<str>,
    pub current_ms: f64,
    pub average_ms: f64,
    pub deviation_ms: f64,
    pub minimum_ms: f64,
    pub maximum_ms: f64,
    pub success: u64,
    pub fail: u64,
}

/// An event for every ticket that waits for it: rendered once by the shell, its bytes shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub event: Event,
    /// The etcd index at the event.
    pub etcd: EtcdIndex,
    /// Each with whether its answer ends with this event (a long poll).
    pub tickets: Vec<(Ticket, bool)>,
}

/// What the disk found at start.
pub struct Recovered {
    pub term: Term,
    /// The candidate that has this machine's vote in that term.
    pub vote: Option<PeerId>,
    /// Who this machine is in its cluster; 0 before it has been let in (`Machine::find`).
    pub id: PeerId,
    /// The data directory's random number.
    pub incarnation: u64,
    /// The newest snapshot's head and the key space it holds; `None` in an empty directory.
    pub snapshot: Option<(SnapshotMeta, Store)>,
    /// That snapshot's size on disk; 0 without one.
    pub snapshot_bytes: u64,
    /// The entries behind the snapshot.
    pub entries: Vec<Entry>,
    /// The highest commit index that the log has recorded.
    pub commit: Index,
}

impl Recovered {
    /// Of a directory that holds nothing of its cluster yet, but for the id if it has been let in.
    pub fn nothing(id: PeerId, incarnation: u64) -> Recovered {
        Recovered {
            term: Term(0),
            vote: None,
            id,
            incarnation,
            snapshot: None,
            snapshot_bytes: 0,
            entries: Vec::new(),
            commit: Index(0),
        }
    }
}

/// What a machine keeps on disk of the cluster that it is a standby of: the file `standby_info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyInfo {
    /// It is a standby; false once it has been let in.
    pub running: bool,
    /// The members as it last heard of them, the leader marked.
    pub cluster: Vec<MachineInfo>,
    /// Between two fetches of them, in milliseconds.
    pub sync_interval_ms: u64,
}

/// A link to a peer opened, or its process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Up,
    Closed,
}

/// The disk's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Low,
    Ok,
}

/// What a new cluster begins with: snapshot zero, which holds the founder's own Join. The shell
/// makes `state` (this term, no vote) and then the snapshot durable before it calls
/// `Machine::recover`; doing so twice is harmless.
pub struct Founding {
    /// The founder's id.
    pub id: PeerId,
    /// The term that goes into `state`.
    pub term: Term,
    /// The head of the snapshot.
    pub meta: SnapshotMeta,
    /// Its content, as `SnapshotOut::Chunk` brings it for later ones.
    pub chunks: Vec<Vec<u8>>,
}

/// What the shell is to do about snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOut {
    /// Start a new snapshot file with this head.
    Begin(SnapshotMeta),
    /// Append to it.
    Chunk(Vec<u8>),
    /// It is whole: sync, rename, sync the directory, then `SnapshotIn::Saved`.
    Finish,
    /// Forget the unfinished one.
    Abandon,
    /// Read a piece of the kept snapshot at `index`, from byte `offset` of its file on, at most 1
    /// MiB; then `SnapshotIn::Read`.
    Read {
        to: PeerId,
        index: Index,
        offset: u64,
    },
    /// A piece of the leader's snapshot file, to be put at `offset` of a temporary file; 0 begins a
    /// new one. With `done` verify the whole, sync, rename, sync the directory, restore the key
    /// space from it, then `SnapshotIn::Installed` or `Refused`.
    Receive {
        meta: SnapshotMeta,
        offset: u64,
        data: Box<[u8]>,
        done: bool,
    },
}

/// What the shell tells about snapshots.
pub enum SnapshotIn {
    /// The snapshot up to this entry is durable; `bytes` is its size on disk; entries up to `older`
    /// are in the older kept snapshot.
    Saved {
        index: Index,
        bytes: u64,
        older: Index,
    },
    /// The own snapshot could not be written (no room, say): its file is gone, the older ones stay.
    Failed,
    /// What `SnapshotOut::Read` asked for: the bytes and whether they are the last; `None` when
    /// that snapshot is gone.
    Read {
        to: PeerId,
        index: Index,
        offset: u64,
        data: Option<(Box<[u8]>, bool)>,
    },
    /// The leader's snapshot is in place and durable; this is the key space it holds, and its size
    /// on disk.
    Installed {
        meta: SnapshotMeta,
        store: Box<Store>,
        bytes: u64,
    },
    /// The leader's snapshot did not verify, or could not be written: it comes again.
    Refused,
}

/// Something worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    BecameLeader {
        term: Term,
    },
    BecameFollower {
        term: Term,
        leader: Box<str>,
    },
    BecameCandidate {
        term: Term,
    },
    SnapshotStarted {
        index: Index,
    },
    SnapshotSaved {
        index: Index,
        bytes: u64,
    },
    SnapshotAbandoned {
        index: Index,
    },
    SnapshotInstalled {
        index: Index,
    },
    /// A machine has joined the cluster. Like the two facts below, it is not reported for entries
    /// that were committed before this process started or this machine joined.
    MemberJoined {
        name: Box<str>,
        peer_url: Box<str>,
    },
    /// A member has been removed from the cluster.
    MemberRemoved {
        name: Box<str>,
        peer_url: Box<str>,
    },
    /// The cluster config has changed.
    ConfigChanged {
        config: ClusterConfig,
    },
    Removed,
    Amnesia,
    /// An attempt to find the cluster came to nothing; the next one follows after this time. Told
    /// when it is for another reason than the one before.
    NotFound {
        why: Box<str>,
        pause_ms: u64,
    },
    /// The discovery service did not take this machine's registration; it is tried again.
    NotRegistered {
        why: Box<str>,
    },
    /// The cluster has let this machine in.
    LetIn {
        id: PeerId,
    },
    /// The cluster has no place for this machine: it becomes a standby.
    Refused {
        why: Box<str>,
    },
    /// It was a standby when it was stopped, and is one again.
    StandsByAgain,
    /// A standby has asked for the members, or to be let in, and this came of it; told when it is
    /// something else.
    NotLetIn {
        why: Box<str>,
    },
    /// A machine that was asked does not list this one.
    Unlisted,
    /// Where a machine of its cluster should be there is one of another.
    OtherCluster {
        why: Box<str>,
    },
    /// The leader removes a peer that was silent for so long, or that is one too many.
    LetGo {
        peer: Box<str>,
        silent_ms: u64,
        too_many: bool,
    },
    /// Peers have not answered so many heartbeats since they were heard; no more of it for as long
    /// as `backoff_s`.
    HeartbeatsMissed {
        peers: Vec<(Box<str>, u64)>,
        backoff_s: u64,
    },
    /// The leader's heartbeat came so late that it was nearly given up.
    HeartbeatLate {
        peer: Box<str>,
        after_ms: u64,
    },
    /// For long nobody has led.
    Leaderless {
        voters: usize,
    },
    DiskLow,
    DiskOk,
}
