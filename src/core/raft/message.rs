//! What raft says and stores: terms, indexes, entries, the configuration, and the messages between
//! members.
//!
//! Plain data: the rules stand in the other files of this folder, the encoding in `wire`. Start
//! reading at `Rpc`.

use std::sync::Arc;

/// A raft term. 2^64-1 is never a term: it is the notice "you have been removed".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A position in the log; the first entry is 1, 0 is before the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A member's id: the index of its committed Join; 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// A number the core gives to what it hands to the disk, rising by one with each `Persist`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader appended it.
    pub term: Term,
    /// Its place.
    pub index: Index,
    /// An encoded command, or what is known of one that the disk has damaged.
    pub body: Body,
}

/// The body of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An encoded `Command`.
    Good(Arc<[u8]>),
    /// Damaged on this machine's disk; a body whose crc32 (started from `seed`) is `crc` and whose
    /// length is `len` repairs it.
    Faulty { len: u32, seed: u32, crc: u32 },
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The index of its Join.
    pub id: PeerId,
    /// Its name, unique in the cluster.
    pub name: Box<str>,
    /// Where its peers reach it.
    pub peer_url: Box<str>,
    /// Where its clients reach it.
    pub client_url: Box<str>,
    /// The random number of its data directory; 0 until it is known.
    pub incarnation: u64,
    /// Counts for majorities; a learner does not.
    pub voter: bool,
}

/// The members, in order of id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Sorted by id.
    pub members: Vec<Member>,
}

/// What names a snapshot: the last entry it holds and the configuration there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The cluster's random identity, drawn when it was created.
    pub cluster: u64,
    /// The last entry that is in the snapshot.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The configuration as of that entry.
    pub configuration: Configuration,
}

/// What the disk is to make durable, in this order; each takes the next `Lsn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Term and vote; durable before anything after it.
    State { term: Term, vote: PeerId },
    /// Entries at consecutive indexes; whatever the log held from the first of them on is gone.
    /// `commit` is the commit index known now.
    Append { entries: Vec<Entry>, commit: Index },
    /// A snapshot from the leader has been put in place on this disk: the log goes on from it;
    /// entries behind it stay only if `keep_tail`.
    Installed { meta: SnapshotMeta, keep_tail: bool },
    /// Entries up to and including this one are in the older of the two kept snapshots and may go.
    Release { through: Index },
    /// The body of a damaged entry, found on a peer, whose checksum is the one in the damaged
    /// record's header: it goes back in its place. Nothing behind it is touched.
    Repair(Entry),
}

impl Term {
    /// The notice "you have been removed"; never a term.
    pub const REMOVED: Term = Term(u64::MAX);
}

impl PeerId {
    /// Nobody: no leader, no vote.
    pub const NONE: PeerId = PeerId(0);
}

impl Index {
    /// The index behind this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Configuration {
    /// The member with this id.
    pub fn get(&self, id: PeerId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |m| m.id).ok()?;
        Some(&self.members[at])
    }

    /// The member of this name.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| &*m.name == name)
    }

    /// Whether this id is a member that counts for majorities.
    pub fn is_voter(&self, id: PeerId) -> bool {
        self.get(id).is_some_and(|m| m.voter)
    }

    /// The ids that count for majorities.
    pub fn voters(&self) -> impl Iterator<Item = PeerId> {
        self.members.iter().filter(|m| m.voter).map(|m| m.id)
    }

    /// How many voters are a majority.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }
}

/// What members say to each other: a term and a remote procedure call of the thesis, or its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term. A pre-vote and its grant carry the term that the candidate would
    /// campaign in, a notice of removal carries `Term::REMOVED`, a fetch and its answer are
    /// outside of terms.
    pub term: Term,
    /// What is said.
    pub rpc: Rpc,
}

/// The calls and replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// Thesis 3.4. `pre`: would you (9.6)? `hand_over`: the old leader wants it, leases do not
    /// count (4.2.3).
    RequestVote {
        pre: bool,
        hand_over: bool,
        last_index: Index,
        last_term: Term,
    },
    Vote {
        pre: bool,
        granted: bool,
    },
    /// Thesis 3.5. A heartbeat has a `round` (not 0), which confirms reads (6.4), and is always
    /// answered; one without entries and round only passes the commit index on.
    AppendEntries {
        prev_index: Index,
        prev_term: Term,
        commit: Index,
        /// What the leader believes that the receiver has made durable; a receiver with less has
        /// lost data.
        acked: Index,
        round: u64,
        /// The sender's slowest recent sync but one (`progress::Slowest`), in microseconds.
        sync_us: u32,
        entries: Vec<Entry>,
    },
    AppendReply {
        round: u64,
        sync_us: u32,
        answer: AppendAnswer,
    },
    /// Thesis 5.1: a piece of the leader's snapshot, whose bytes from `offset` on are `data`.
    InstallSnapshot {
        meta: SnapshotMeta,
        offset: u64,
        /// crc32 of `data`.
        crc: u32,
        done: bool,
        data: Box<[u8]>,
    },
    /// The byte that the receiver of a snapshot wants next.
    SnapshotReply {
        index: Index,
        offset: u64,
    },
    /// Thesis 3.10: campaign now.
    TimeoutNow,
    /// Asks for the body of an entry that is damaged here; answered outside of terms.
    Fetch {
        index: Index,
        term: Term,
    },
    Fetched {
        index: Index,
        term: Term,
        found: Found,
    },
    /// You have been removed; means something only to the member of that cluster with that id.
    Removed {
        cluster: u64,
        id: PeerId,
    },
    /// A follower passes what a client asks for on to the leader of its term: a command, whose
    /// expiration counts from now, or the proof that it leads, for a read. Not raft's: the
    /// replicas keep it among themselves.
    Forward {
        /// Of the sender: a random number of its process, and one that rises with each request.
        process: u64,
        number: u64,
        command: Option<Box<[u8]>>,
    },
    /// What came of it: the index at which the command was appended in this term, or up to which a
    /// reader must have applied; or why not, as the cause of an error.
    Forwarded {
        process: u64,
        number: u64,
        answer: Result<Index, Box<str>>,
    },
}

impl Message {
    /// Whether the rules of terms do not touch it: what repairs a damaged log, where a snapshot
    /// that is not sent by a leader has term 0, and how far a snapshot has come.
    pub fn is_outside_terms(&self) -> bool {
        match self.rpc {
            Rpc::Fetch { .. } | Rpc::Fetched { .. } | Rpc::SnapshotReply { .. } => true,
            Rpc::Forward { .. } | Rpc::Forwarded { .. } => true,
            Rpc::InstallSnapshot { .. } => self.term == Term(0),
            _ => false,
        }
    }
}

impl Rpc {
    /// Whether only the leader of its term sends it.
    pub fn is_from_leader(&self) -> bool {
        matches!(
            self,
            Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } | Rpc::TimeoutNow
        )
    }

    /// Whether a removed member that sends it is told so. (A leader that removes itself says
    /// `TimeoutNow` last.)
    pub fn is_call(&self) -> bool {
        let vote = matches!(self, Rpc::RequestVote { .. });
        vote || (self.is_from_leader() && *self != Rpc::TimeoutNow)
    }
}

/// What became of an AppendEntries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAnswer {
    /// The log matches the leader's up to `verified` and is durable up to `matched`.
    Accepted {
        verified: Index,
        matched: Index,
        /// A damaged entry of this member is behind the leader's snapshot.
        want_snapshot: bool,
    },
    /// No such entry at `prev`; the last that can match is at or before `hint`, with at most this
    /// term.
    Rejected {
        prev: Index,
        hint: Index,
        hint_term: Term,
    },
    /// The sender leads an older term.
    Stale,
}

/// What a member knows of an entry that a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its body.
    Body(Arc<[u8]>),
    /// It is here, but damaged as well.
    Damaged,
    /// It was never here.
    Never,
    /// It is in the snapshot.
    Behind,
}

/// About what an append takes on a link beside its entries, in bytes.
const APPEND_HEAD_BYTES: usize = 24;
/// About what an entry takes on a link beside its body, in bytes.
const ENTRY_HEAD_BYTES: usize = 4;

impl Message {
    /// About how many bytes an append takes on a link, for the statistics; `None` for another
    /// message.
    pub fn append_bytes(&self) -> Option<usize> {
        let Rpc::AppendEntries { entries, .. } = &self.rpc else {
            return None;
        };
        let bodies: usize = entries.iter().map(Entry::size).sum();
        Some(APPEND_HEAD_BYTES + entries.len() * ENTRY_HEAD_BYTES + bodies)
    }
}
