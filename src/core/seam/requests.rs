//! Requests of clients and administrators, and their answers. Start with [`Op`].
use super::calls::{Attendance, FormerPlace, MemberPlace};
use super::cluster::{ClusterStatus, StandbyVisitor};
use super::figures::CoreFigures;
use super::locks::{LockOutcome, LockRequest};
use super::members::{Health, MemberInfo, MemberListing};
use super::stats::{LeaderStats, SelfStats};
use crate::core::command::{ClusterConfig, Command, KeyPath};
use crate::core::error::Error;
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, Term};
use crate::core::store::{EtcdIndex, Event, ListItem, Stats};

/// The number of a request that waits for its answer. The shell chooses it, unique among the open
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Read a node, or list a directory. Answer: [`Outcome::Page`]s.
    Get {
        /// The node.
        path: KeyPath,
        /// List all levels below it, not only the first.
        recursive: bool,
        /// The leader confirms that it leads before the answer is read.
        linearizable: bool,
    },
    /// Wait for a change. Answer: [`Outcome::Watching`] or [`Outcome::Backlog`], then deliveries
    /// until the watcher is done.
    Watch {
        /// The node.
        path: KeyPath,
        /// Changes below it count too.
        recursive: bool,
        /// The answer goes on after the first event, until the client closes.
        stream: bool,
        /// The first etcd index of interest, which may be in the past; `None`: from now on.
        since: Option<u64>,
        /// Only the leader may answer (`consistent=true`). Other members redirect.
        on_leader: bool,
        /// The longest time to wait, in microseconds; `None`: without limit. Then the answer ends
        /// with [`Outcome::WatchTimedOut`].
        timeout_us: Option<u64>,
    },
    /// Append a command on the key space to the log. Answer: [`Outcome::Event`].
    Write(Command),
    /// A request to the lock module. Answer: [`Outcome::Lock`].
    Lock(Box<LockRequest>),
    /// A question that needs no waiting. Answer: one outcome that fits it.
    Query(Query),
    /// Set `/foo` 10,000 times. Answer: [`Outcome::SpeedTest`].
    SpeedTest,
    /// Export the key space from the root, hidden nodes included, and the history. Answer:
    /// [`Outcome::Page`]s, and after a further `ContinueListing` [`Outcome::Migrated`].
    Migrate {
        /// The etcd index of the moment that is exported. `None`: the present one. A past moment is
        /// known for a while if an export of it kept it.
        moment: Option<EtcdIndex>,
        /// Keep the moment for a while after the answer, or after the client has gone.
        keeps_moment: bool,
    },
    /// Change the cluster config; absent fields stay. The fraction of the size is dropped, times
    /// are rounded to milliseconds, and values below their minimum are raised to it. Answer:
    /// [`Outcome::Config`] with the config that is in force then.
    ConfigPut {
        /// The most members.
        active_size: Option<f64>,
        /// How long a member may be silent, in seconds.
        remove_delay_s: Option<f64>,
        /// The time between two fetches of a standby, in seconds.
        sync_interval_s: Option<f64>,
    },
    /// Remove a member. Answer: [`Outcome::Removed`].
    MachineRemove {
        /// Its name.
        name: Box<str>,
        /// The machine is not admitted again with the data directory that it has.
        for_good: bool,
    },
    /// Admit a machine that has not started yet, as a learner without a name. It is a member under
    /// its own name once it joins from this address. Answer: [`Outcome::MemberAdded`].
    MemberAdd {
        /// The peer URLs that it will advertise. A member has one; further ones are refused.
        peer_urls: Vec<Box<str>>,
    },
    /// Look for a member at another address. A member that has started proves the address itself;
    /// until then the list shows the former one. Answer: [`Outcome::MemberMoved`].
    MemberMove {
        /// The member.
        id: PublicId,
        /// Its new peer URLs. A member has one; further ones are refused.
        peer_urls: Vec<Box<str>>,
    },
    /// Remove a member. Answer: [`Outcome::Removed`].
    MemberRemove {
        /// The member.
        id: PublicId,
    },
    /// The members, for a standby: this machine remembers for a while that it has asked. Answer:
    /// [`Outcome::MachineList`].
    ListForStandby(StandbyVisitor),
    /// Admit a machine as a member. Answer: [`Outcome::Joined`].
    Join(Join),
    /// The last page or backlog of this ticket has left the output buffer: send the next one.
    ContinueListing,
    /// The client has closed its connection: free what this ticket holds. Has no answer.
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
    /// Whether this machine waits for its cluster to begin (`-bootstrap`). Answered at once in
    /// every mode.
    Bootstrap,
    /// The cluster config in force.
    ConfigGet,
    /// The members.
    MachineList,
    /// The members, if the member that asks is one of them. Error 300 if it is not, or if this
    /// machine cannot tell: it belongs to another cluster, or has not applied the member's join.
    MachinesOf(MemberPlace),
    /// The members with their public ids.
    Members,
    /// Whether this machine can serve its clients.
    Health,
    /// This machine, and the cluster as it sees it; answered in every mode.
    Cluster,
    /// The figures of `/metrics`; answered in every mode.
    Figures,
    /// One member.
    MachineGet {
        /// Its name.
        name: Box<str>,
    },
}

/// A request to join the cluster, as `/join` carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The lowest store version that the machine speaks.
    pub min_version: u64,
    /// The highest store version that the machine speaks.
    pub max_version: u64,
    /// Its name.
    pub name: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
    /// The random number of its data directory; 0 if the request names none.
    pub incarnation: u64,
    /// The place that it had before its data directory was wiped, if the request names one.
    pub former: Option<FormerPlace>,
}

/// The indexes at the head of an answer (`X-Etcd-Index`, `X-Raft-Index`, `X-Raft-Term`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The index of the last change of the key space.
    pub etcd: EtcdIndex,
    /// The commit index of the log.
    pub commit: Index,
    /// The term.
    pub term: Term,
}

/// An answer, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request.
    pub ticket: Ticket,
    /// The indexes when it was answered.
    pub at: Indexes,
    /// The outcome, or a part of it.
    pub outcome: Outcome,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The write was applied.
    Event(Event),
    /// A part of a listing.
    Page {
        /// In the order of the listing.
        items: Vec<ListItem>,
        /// No further part follows; otherwise `ContinueListing` asks for it.
        last: bool,
    },
    /// The watcher waits: the head of the answer can be sent. Events follow as deliveries.
    Watching,
    /// Past events for a watcher that asked for them.
    Backlog {
        /// Oldest first.
        events: Vec<Event>,
        /// The answer ends here (a long poll). Otherwise `ContinueListing` asks for more until a
        /// backlog is empty; from then on events follow as deliveries.
        done: bool,
    },
    /// The rest of the migration document, as of the same moment as its pages.
    Migrated(Box<Migrated>),
    /// The answer to [`Query::Bootstrap`]; `None`: it does not wait.
    Bootstrap(Option<Attendance>),
    /// The watcher's body ends here, without an event.
    WatchEnd,
    /// The time of the watcher is over.
    WatchTimedOut,
    /// [`Op::Lock`].
    Lock(LockOutcome),
    /// The request has failed.
    Failed(Error),
    /// Another machine has to be asked.
    Redirect {
        /// Its client URL, for requests to the client port.
        client_url: Box<str>,
        /// Its peer URL, for requests to the peer port.
        peer_url: Box<str>,
    },
    /// [`Query::Leader`].
    Leader {
        /// The leader's peer URL.
        peer_url: Box<str>,
    },
    /// [`Query::Machines`].
    Machines {
        /// The leader's first.
        client_urls: Vec<Box<str>>,
    },
    /// [`Query::StatsSelf`].
    StatsSelf(Box<SelfStats>),
    /// [`Query::StatsLeader`] on the leader.
    StatsLeader(LeaderStats),
    /// [`Query::StatsStore`].
    StatsStore(Box<Stats>),
    /// [`Query::StatsLeader`] on a machine that does not lead (status 403).
    NotLeader,
    /// The speed test is over.
    SpeedTest,
    /// The cluster config in force.
    Config(ClusterConfig),
    /// [`Query::MachineList`], [`Query::MachinesOf`] and [`Op::ListForStandby`], sorted by name.
    MachineList(Vec<MachineInfo>),
    /// [`Query::MachineGet`].
    Machine(MachineInfo),
    /// [`Query::Members`].
    Members(MemberListing),
    /// [`Query::Health`].
    Health(Health),
    /// [`Query::Cluster`].
    Cluster(Box<ClusterStatus>),
    /// [`Query::Figures`].
    Figures(Box<CoreFigures>),
    /// [`Op::MemberAdd`].
    MemberAdded(MemberInfo),
    /// [`Op::MemberMove`].
    MemberMoved,
    /// The member of [`Op::MemberMove`] or [`Op::MemberRemove`] was removed before.
    MemberGone,
    /// The member was removed.
    Removed,
    /// The machine is a member: the index of its Join, which is its id.
    Joined(Index),
}

/// One line of `/v2/admin/machines`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInfo {
    /// The member's name.
    pub name: Box<str>,
    /// `Leader` or `Follower`.
    pub state: Role,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
}

/// The role of a machine in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A member that leads.
    Leader,
    /// A member that follows, or waits for a leader.
    Follower,
    /// A member that campaigns.
    Candidate,
    /// Not a member.
    Standby,
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
    /// The statistics of the key space.
    pub stats: Stats,
}

/// An event for all tickets that wait for it. The shell renders it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// The etcd index at the event.
    pub etcd: EtcdIndex,
    /// Each ticket, and whether its answer ends with this event (a long poll).
    pub tickets: Vec<(Ticket, bool)>,
}
