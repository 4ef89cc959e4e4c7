//! Calls: what this machine asks of other machines and of a discovery service, and the replies.
//!
//! The core chooses the question and the address. `codec::cluster_api` turns a question into an
//! HTTP request, and the response into a reply. Start with [`Question`].
use super::{MachineInfo, StandbyVisitor};
use crate::core::raft::{Index, PeerId};

/// How long a question to a machine may take, in milliseconds.
const ASK_MS: u64 = 3_000;
/// How long a join may take: a leader may hold it for 5 s before it answers.
const JOIN_MS: u64 = 8_000;
/// How long a question to a discovery service may take: it is further away than the peers.
const DISCOVERY_MS: u64 = 5_000;

/// The number of a call that waits for its reply. Bit 62 marks the calls that register this member
/// with a discovery service; all others belong to a search, whose number is in the bits above
/// [`CallId::SEARCH_BITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

impl CallId {
    /// The calls of one search are numbered by this many low bits; the bits above them number the
    /// searches.
    pub const SEARCH_BITS: u32 = 32;

    /// The only call of the registrar. It belongs to no search.
    pub const REGISTRAR: CallId = CallId(1 << 62);

    /// Whether the call `later` belongs to a later search, so that the core no longer waits for the
    /// reply to this call.
    pub fn is_void_after(self, later: CallId) -> bool {
        let search = |id: CallId| id.0 >> CallId::SEARCH_BITS;
        later != CallId::REGISTRAR && search(self) < search(later)
    }
}

/// A call that the shell makes over HTTP. Its [`Reply`] comes through `Machine::on_reply`, exactly
/// once, unless a later call makes it void ([`CallId::is_void_after`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Unique among the calls of this process.
    pub id: CallId,
    /// Where to ask: `http://host:port` of a machine, or the URL of a discovery directory.
    pub base: Box<str>,
    /// The question.
    pub question: Question,
    /// The time from the start of the call to the end of its answer, redirects included, in
    /// milliseconds.
    pub timeout_ms: u64,
}

impl Call {
    /// A call with the timeout of its question.
    pub fn new(id: CallId, base: Box<str>, question: Question) -> Call {
        let timeout_ms = match question {
            Question::Version
            | Question::Machines { .. }
            | Question::MachinesForStandby(_)
            | Question::Config
            | Question::Leader
            | Question::Bootstrap => ASK_MS,
            Question::Join(_) => JOIN_MS,
            Question::Register { .. } | Question::TakeLead | Question::Registered { .. } => {
                DISCOVERY_MS
            }
        };
        Call {
            id,
            base,
            question,
            timeout_ms,
        }
    }
}

/// The question of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Over the peer port: the store version.
    Version,
    /// Over the peer port: the members.
    Machines {
        /// The member that asks. A machine that knows more than its list tells refuses, and so does
        /// one that knows less ([`RefusalReason`]).
        of: Option<MemberPlace>,
    },
    /// Over the peer port: the members, asked by a standby, which names itself.
    MachinesForStandby(StandbyVisitor),
    /// Over the peer port: the cluster config.
    Config,
    /// Over the peer port: whether the machine waits for its cluster to begin (`-bootstrap`).
    Bootstrap,
    /// Over the peer port, of a machine that refuses other questions: the peer URL of the leader
    /// that it knows. A standby answers it.
    Leader,
    /// Over the peer port: admit this machine as a member, or take its new addresses.
    Join(Introduction),
    /// Of a discovery service: list this machine for `ttl_s` seconds.
    Register {
        /// This machine's name, the key of its registration.
        name: Box<str>,
        /// Its peer URL, the value of its registration.
        peer_url: Box<str>,
        /// How long the registration lasts, in seconds.
        ttl_s: u64,
    },
    /// Of a discovery service: whether this machine is the first, which starts the cluster.
    TakeLead,
    /// Of a discovery service: the peer URLs of the registered machines.
    Registered {
        /// The scheme of registered addresses that carry none.
        scheme: Box<str>,
    },
}

impl Question {
    /// Whether a discovery service is asked, not a machine.
    pub fn is_for_discovery(&self) -> bool {
        matches!(
            self,
            Question::Register { .. } | Question::TakeLead | Question::Registered { .. }
        )
    }
}

/// The place of a member that asks whether it still has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberPlace {
    /// The member's cluster.
    pub cluster: u64,
    /// The member's id.
    pub id: PeerId,
    /// The end of its log, if it asks whether it has lost entries.
    pub last: Option<Index>,
}

impl MemberPlace {
    /// A place as a request names it.
    pub fn new(cluster: u64, id: u64, last: Option<u64>) -> MemberPlace {
        MemberPlace {
            cluster,
            id: PeerId(id),
            last: last.map(Index),
        }
    }
}

/// A place in a cluster that a machine once had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerPlace {
    /// The cluster; 0 if the machine was removed before it knew its cluster.
    pub cluster: u64,
    /// The machine's id as a member.
    pub id: PeerId,
}

impl FormerPlace {
    /// A place as a file or a request names it; `None` for the id 0, which no member has.
    pub fn new(cluster: u64, id: u64) -> Option<FormerPlace> {
        let id = PeerId(id);
        (id != PeerId::NONE).then_some(FormerPlace { cluster, id })
    }
}

/// The answer of a machine that waits for its cluster to begin (`-bootstrap`). It has no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendance {
    /// A random number of its process.
    pub number: u64,
    /// The peer URLs of all machines that are to begin together, sorted, each once.
    pub list: Vec<Box<str>>,
}

/// How a machine introduces itself when it asks to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its name.
    pub name: Box<str>,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// The random number of its data directory, which makes a repeated join idempotent.
    pub incarnation: u64,
    /// The place that it had before its data directory was wiped. A new number does not admit a
    /// machine that was removed for good.
    pub former: Option<FormerPlace>,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A complete response arrived.
    Answered {
        /// `None`: tern answered. `Some`: another program did, and this is the name that it gives
        /// itself, empty if it gives none.
        foreign: Option<Box<str>>,
        /// The answer to the question; its variant always fits the question.
        answer: Result<CallAnswer, CallRefusal>,
    },
    /// The host was not reached, no response came in time, or the bytes were not HTTP.
    Failed {
        /// For the log.
        why: Box<str>,
    },
}

/// The answer to a [`Question`], one variant for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallAnswer {
    /// The store version.
    Version(u64),
    /// The members, the leader marked.
    Machines(Vec<MachineInfo>),
    /// The part of the cluster config that concerns machines outside the cluster.
    Config(ClusterRoom),
    /// The number and the list of a machine that waits; `None`: it does not wait.
    Bootstrap(Option<Attendance>),
    /// The leader's peer URL.
    Leader(Box<str>),
    /// The member id that the cluster has given this machine; never [`PeerId::NONE`].
    Joined(PeerId),
    /// The registration was taken.
    Registering,
    /// Whether this machine is the first one of the directory, which starts the cluster.
    Leads(bool),
    /// The peer URLs of the registered machines.
    Registered(Vec<Box<str>>),
}

/// A refusal or an error in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRefusal {
    /// The kind of refusal; the core decides by it.
    pub reason: RefusalReason,
    /// For the log: the path asked and the error or the status.
    pub why: Box<str>,
}

/// The kinds of refusals that lead to different decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The cluster has as many members as its config wants.
    ClusterFull,
    /// The machine asked belongs to another cluster than the one that the question names.
    OtherCluster,
    /// The machine asked has applied the removal of the member that asks.
    Removed,
    /// The machine that asks was removed for good.
    Barred,
    /// The machine asked leads, and counts an acknowledgement of the member that asks past the end
    /// of that member's log.
    LostEntries,
    /// It is a client port that answers.
    ClientPort,
    /// Anything else.
    Other,
}

/// How many machines a cluster wants, and how often its standbys ask for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterRoom {
    /// The most members that the cluster admits.
    pub active_size: u64,
    /// The time between two fetches of a standby, in milliseconds.
    pub sync_interval_ms: u64,
}
