//! The values of raft: terms, indexes, entries, configurations, records for the disk, and the
//! messages between members.
//!
//! Plain data without rules: the rules stand in the other files of this folder, the encoding of a
//! message in `codec::peer::wire`, that of a snapshot's head in `snapshot_head`. Start reading at
//! [`Message`] and [`Rpc`].
use std::sync::Arc;

/// A raft term. The first leader's term is 1 or later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A position in the log. The first entry is at 1; 0 is the position before it, where all logs
/// agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A member's id: the index of its committed Join. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// The number of a record for the disk. Rises by one with each [`Persist`], from 1 on in each
/// process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The number of a term and vote for the disk ([`HardState`]). Rises by one with each, from 1 on in
/// each process. A sequence of its own: neither of `StateSeq` and `Lsn` implies the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateSeq(pub u64);

/// One entry of the log. Index and term name one entry in the whole cluster (Log Matching,
/// thesis 3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// Its position in the log.
    pub index: Index,
    /// Its command.
    pub body: EntryBody,
}

/// The body of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// An encoded `Command`, shared by log, links, disk and store.
    Good(Arc<[u8]>),
    /// The bytes were damaged on this machine's disk. The intact record header still tells what
    /// identifies them; see `repair`.
    Faulty {
        /// Length of the body in bytes.
        len: u32,
        /// The value that the crc32 starts from. It depends on the record's place on the disk.
        seed: u32,
        /// The crc32 of the body.
        crc: u32,
    },
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The index of its Join.
    pub id: PeerId,
    /// Unique in the cluster.
    pub name: Box<str>,
    /// URL of its peer port.
    pub peer_url: Box<str>,
    /// URL of its client port.
    pub client_url: Box<str>,
    /// The random number of its data directory; 0 until a Join with a number has been applied.
    pub incarnation: u64,
    /// Whether it counts for majorities. A learner does not (thesis 4.2.1).
    pub voter: bool,
    /// The member that its Join replaced because that one had not started: clients know it under
    /// that id. `None` for a member that was not added before it started.
    pub added_as: Option<PeerId>,
}

impl Member {
    /// Whether the machine has joined from its own data directory. A member that an administrator
    /// has added before its machine starts has no client URL of its own: `client_url` repeats
    /// `peer_url`, which no machine can listen on for both.
    pub fn has_started(&self) -> bool {
        self.client_url != self.peer_url
    }

    /// The id that clients know it by: the index of the Join that admitted it first.
    pub fn listed_id(&self) -> PeerId {
        self.added_as.unwrap_or(self.id)
    }
}

/// Most members that a configuration bars; the oldest one is dropped for a further one.
pub const BARRED_MAX: usize = 64;

/// A member that was removed for good: its machine is not admitted again with the data directory
/// that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarredMember {
    /// The id that it had.
    pub id: PeerId,
    /// The number of the data directory that it had; 0 if it was not known.
    pub incarnation: u64,
}

/// The members of the cluster as of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Sorted by id.
    pub members: Vec<Member>,
    /// The members that were removed for good last, in the order of their removals; at most
    /// [`BARRED_MAX`].
    pub barred: Vec<BarredMember>,
}

/// What identifies a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The cluster's random identity, drawn when the cluster was created; 0 on a new member until
    /// its first snapshot.
    pub cluster: u64,
    /// The last entry that the snapshot covers.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The configuration as of that entry.
    pub configuration: Configuration,
}

/// Term and vote for the disk (thesis figure 3.1, the persistent state without the log). Of several
/// the disk needs the last one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardState {
    /// Its number.
    pub seq: StateSeq,
    /// The current term.
    pub term: Term,
    /// The candidate that has this member's vote in this term.
    pub vote: Option<PeerId>,
}

/// A record for the log on the disk. The disk makes records durable in the order in which they are
/// handed out, and none of a term before a [`HardState`] of at least that term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// New entries. The first one replaces everything that the log on the disk holds from its index
    /// on.
    Append {
        /// At consecutive indexes; never empty.
        entries: Vec<Entry>,
        /// The commit mark: the highest committed index whose entry of the very same term was in
        /// the log file when the last of `entries` was appended. The disk writes it behind all
        /// records appended before.
        commit: Index,
    },
    /// A commit mark of its own, as in `Append`. The disk drops it if it would need another segment.
    Mark {
        /// The commit mark.
        commit: Index,
    },
    /// A snapshot from a peer is in place on this disk. The log starts after it.
    Installed {
        /// The snapshot.
        meta: SnapshotMeta,
        /// Whether entries after the snapshot stay. If not, they conflict with it.
        keep_tail: bool,
    },
    /// Entries up to `through` may be deleted: the older of the two kept snapshots covers them.
    Release {
        /// The last entry that may be deleted.
        through: Index,
    },
    /// The lost body of a damaged entry, verified by the checksum in its record header. Replaces
    /// that one record; the entries after it stay.
    Repair(Entry),
}

impl Persist {
    /// The latest term that the log on the disk has with this record. A [`HardState`] of at least
    /// this term must be durable before the record is written.
    pub fn term(&self) -> Option<Term> {
        match self {
            Persist::Append { entries, .. } => entries.last().map(|entry| entry.term),
            Persist::Installed { meta, .. } => Some(meta.term),
            Persist::Repair(entry) => Some(entry.term),
            Persist::Mark { .. } | Persist::Release { .. } => None,
        }
    }
}

impl Term {
    /// Marks a notice of removal; never the term of a leader.
    pub const REMOVED: Term = Term(u64::MAX);

    /// Marks a snapshot from a member that does not lead; never the term of a leader.
    pub const NONE: Term = Term(0);

    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl PeerId {
    /// No member: an id on the disk and on the wire that stands for none.
    pub const NONE: PeerId = PeerId(0);
}

impl Index {
    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Entry {
    /// Length of the body in bytes, also of a damaged one.
    pub fn size(&self) -> usize {
        self.body.size()
    }
}

impl EntryBody {
    /// Length in bytes, also of a damaged one.
    pub fn size(&self) -> usize {
        match self {
            EntryBody::Good(bytes) => bytes.len(),
            EntryBody::Faulty { len, .. } => *len as usize,
        }
    }
}

impl Configuration {
    /// The member with this id.
    pub fn get(&self, id: PeerId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |m| m.id).ok()?;
        Some(&self.members[at])
    }

    /// The member with this name.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| &*m.name == name)
    }

    /// Whether the member with this id was removed for good.
    pub fn is_barred(&self, id: PeerId) -> bool {
        self.barred.iter().any(|barred| barred.id == id)
    }

    /// Whether the data directory with this number was that of a member which was removed for good.
    pub fn is_directory_barred(&self, incarnation: u64) -> bool {
        incarnation != 0 && self.barred.iter().any(|b| b.incarnation == incarnation)
    }

    /// Whether `id` is a voter.
    pub fn is_voter(&self, id: PeerId) -> bool {
        self.get(id).is_some_and(|m| m.voter)
    }

    /// The ids of the voters, in order.
    pub fn voters(&self) -> impl Iterator<Item = PeerId> {
        self.members.iter().filter(|m| m.voter).map(|m| m.id)
    }

    /// The number of voters that make a majority.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }
}

/// A reading of the cluster clock, as a leader's appends gave it (`clock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderReading {
    /// The term of that leader.
    pub term: Term,
    /// In nanoseconds, at least 1.
    pub clock_ns: u64,
}

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term, with these exceptions:
    /// - a pre-vote and its grant carry the term in which the candidate would campaign (thesis
    ///   9.6);
    /// - a notice of removal carries [`Term::REMOVED`];
    /// - a snapshot from a member that does not lead carries [`Term::NONE`].
    pub term: Term,
    /// The call or reply.
    pub rpc: Rpc,
}

/// The calls and replies between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// A candidate asks for a vote (thesis 3.4). Answered with `Vote`.
    RequestVote {
        /// A pre-vote: would the receiver vote for the sender? Changes nothing at the receiver
        /// (thesis 9.6).
        pre: bool,
        /// The leader asked for this campaign, so leases do not deny the vote (thesis 4.2.3).
        hand_over: bool,
        /// The last entry in the candidate's log.
        last_index: Index,
        /// The term of that entry.
        last_term: Term,
    },
    /// The reply to `RequestVote`.
    Vote {
        /// The reply to a pre-vote.
        pre: bool,
        /// Whether the vote is granted.
        granted: bool,
        /// The voter's reading of the cluster clock (`ClusterClock::reading_for`). `None` in a
        /// refusal and in a pre-vote, and if the voter has heard no leader since its process started.
        reading: Option<LeaderReading>,
    },
    /// The leader replicates entries and passes its commit index on (thesis 3.5). Answered with
    /// `AppendReply` when the entries are durable, or at once if it is a heartbeat.
    AppendEntries {
        /// The entry before `entries`. The receiver rejects the message unless it has that entry.
        prev_index: Index,
        /// The term of that entry.
        prev_term: Term,
        /// The leader's commit index.
        commit: Index,
        /// The last entry that the receiver has acknowledged as durable, as far as the leader
        /// knows. A receiver whose log ends before it has lost data.
        acked: Index,
        /// The number of the heartbeat round; the reply repeats it, which confirms reads
        /// (thesis 6.4). At least 1. `None`: not a heartbeat.
        round: Option<u64>,
        /// The second slowest recent sync of the leader in microseconds (`sync_times`).
        sync_us: u32,
        /// The second slowest recent round trip between the leader and the receiver in microseconds,
        /// as the leader has measured it (`round_trips`).
        round_trip_us: u32,
        /// How much later than after the ordinary interval the next heartbeat comes, in
        /// microseconds.
        pause_us: u32,
        /// The leader's reading of the cluster clock (`clock`), in nanoseconds.
        clock_ns: u64,
        /// The size in bytes of the receiver's next entry, if it is held back because the
        /// receiver's log has no room for it. The receiver tries to make room.
        held_bytes: Option<u64>,
        /// At consecutive indexes; the first is `prev_index` + 1. May be empty.
        entries: Vec<Entry>,
    },
    /// The reply to `AppendEntries`, and to an `InstallSnapshot` that was not needed.
    AppendReply {
        /// The round of the heartbeat that this answers.
        round: Option<u64>,
        /// The second slowest recent sync of the follower in microseconds.
        sync_us: u32,
        /// How many bytes the follower's log on the disk still takes; at most
        /// `room::FREE_BYTES_MAX`. 0: it takes no entries until its disk has synced more.
        free_bytes: u64,
        /// The result.
        answer: AppendAnswer,
    },
    /// One chunk of the sender's snapshot (thesis 5.1). Answered with `SnapshotReply`, and after
    /// the last chunk with `AppendReply`, once the snapshot is installed durably.
    InstallSnapshot {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The place of `data` in the snapshot, in bytes.
        offset: u64,
        /// Whether this is the last chunk.
        done: bool,
        /// The bytes.
        data: Box<[u8]>,
    },
    /// The receiver of a snapshot asks for a chunk.
    SnapshotReply {
        /// The last entry of the snapshot.
        index: Index,
        /// The first byte that is wanted.
        offset: u64,
    },
    /// The receiver of a snapshot has no room for it. The sender offers it again from time to time.
    SnapshotRefused {
        /// The last entry of the snapshot.
        index: Index,
    },
    /// The leader tells the receiver to campaign at once (thesis 3.10). Not answered.
    TimeoutNow,
    /// A member asks for the body of an entry that its disk has damaged. Answered with `Fetched` in
    /// every role and term.
    Fetch {
        /// The damaged entry.
        index: Index,
        /// The term of that entry.
        term: Term,
    },
    /// The reply to `Fetch`.
    Fetched {
        /// The damaged entry.
        index: Index,
        /// The term of that entry.
        term: Term,
        /// What the sender has of it.
        found: FetchResult,
    },
    /// The notice that a member was removed. Valid only for the member `id` of the cluster
    /// `cluster`. Not answered.
    Removed {
        /// The cluster's random identity.
        cluster: u64,
        /// The removed member.
        id: PeerId,
    },
    /// A follower forwards a client's request to the leader of its term. Not part of raft: the
    /// replicas exchange it, see `replica::forwarding`. Answered with `Forwarded`, unless it is a
    /// command that was taken: its log entry is the answer.
    Forward {
        /// A random number of the sender's process.
        process: u64,
        /// The number of the request, which rises with each request of that process.
        number: u64,
        /// The command, whose time to live counts from its arrival. `None`: a read, for which the
        /// receiver is to prove that it leads.
        command: Option<Box<[u8]>>,
    },
    /// The reply to `Forward`.
    Forwarded {
        /// As in `Forward`.
        process: u64,
        /// As in `Forward`.
        number: u64,
        /// For a read the index that the reader must have applied. Else the cause of the error for
        /// the client.
        answer: Result<Index, Box<str>>,
    },
}

impl Message {
    /// Whether the rules of terms (thesis 3.3) do not apply: such a message neither raises the
    /// receiver's term nor is refused for an old one.
    pub fn is_outside_terms(&self) -> bool {
        match self.rpc {
            Rpc::Fetch { .. } | Rpc::Fetched { .. } | Rpc::SnapshotReply { .. } => true,
            Rpc::SnapshotRefused { .. } => true,
            Rpc::Forward { .. } | Rpc::Forwarded { .. } => true,
            Rpc::InstallSnapshot { .. } => self.term == Term::NONE,
            _ => false,
        }
    }

    /// The approximate size on a link in bytes, for the statistics of appends; `None` for any other
    /// message.
    pub fn append_bytes(&self) -> Option<usize> {
        let Rpc::AppendEntries { entries, .. } = &self.rpc else {
            return None;
        };
        let bodies: usize = entries.iter().map(Entry::size).sum();
        Some(APPEND_HEAD_BYTES + entries.len() * ENTRY_HEAD_BYTES + bodies)
    }
}

/// About the size of an append without its entries, in bytes.
const APPEND_HEAD_BYTES: usize = 32;

/// About the size of an entry without its body, in bytes.
const ENTRY_HEAD_BYTES: usize = 4;

impl Rpc {
    /// Whether only the leader of the message's term sends it.
    pub fn is_from_leader(&self) -> bool {
        matches!(
            self,
            Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } | Rpc::TimeoutNow
        )
    }

    /// Whether a removed member that sends it gets a notice of removal. A leader that removes
    /// itself sends `TimeoutNow` last, which must still take effect.
    pub fn is_call(&self) -> bool {
        matches!(
            self,
            Rpc::RequestVote { .. } | Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. }
        )
    }
}

/// The result of an `AppendEntries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAnswer {
    /// The log contained the entry before the message's entries.
    Accepted {
        /// Up to this entry the log is the same as the leader's.
        verified: Index,
        /// Up to this entry it is durable as well; at most `verified`.
        matched: Index,
        /// Whether the first damaged entry of this member is only in the leader's snapshot
        /// (`repair`).
        want_snapshot: bool,
    },
    /// The log does not contain the entry before the message's entries.
    Rejected {
        /// The `prev_index` of the rejected message.
        prev: Index,
        /// The logs can agree at this entry or before it.
        hint: Index,
        /// The term of the entry at `hint`.
        hint_term: Term,
    },
    /// The message is from a leader of an older term.
    Stale,
}

/// What a member has of an entry that a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchResult {
    /// The body of the entry.
    Body(Arc<[u8]>),
    /// The entry, but damaged as well; or a leader says that the member lost entries.
    Damaged,
    /// The entry was never in this member's log, or was truncated.
    NeverStored,
    /// The entry is only in this member's snapshot.
    OnlyInSnapshot,
}
