//! What raft says and stores: terms, indexes, entries, the configuration, and the messages between members.

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
    Good(Box<[u8]>),
    /// Damaged on this machine's disk; a body whose crc32 (started from `seed`) is `crc` and whose length is `len`
    /// repairs it.
    Faulty { len: u32, seed: u32, crc: u32 },
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Entries at consecutive indexes; whatever the log held from the first of them on is gone. `commit` is the commit
    /// index known now.
    Append { entries: Vec<Entry>, commit: Index },
    /// A snapshot from the leader has been put in place on this disk: the log goes on from it; entries behind it stay
    /// only if `keep_tail`.
    Installed { meta: SnapshotMeta, keep_tail: bool },
    /// Entries up to and including this one are in the older of the two kept snapshots and may go.
    Release { through: Index },
}

/// What members say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {}
