//! Bugs that tests plant, to show that the simulator and the traces detect them.
//!
//! They exist only with the cargo feature `faults`, which no released binary has. Without it
//! `Raft::has` is false at compile time. The last few bugs are the replica's.

/// Declares an enum of bugs with the list of all of them: its name, a colon, the variants.
macro_rules! faults {
    ($fault:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $fault {
            $($(#[$doc])* $name,)*
        }

        impl $fault {
            /// All bugs.
            pub const ALL: &[$fault] = &[$($fault::$name,)*];
        }
    };
}
pub(crate) use faults;

faults! {
    RaftFault:
    /// A leader counts its own entries before they are durable.
    CountBeforeSync,
    /// A follower acknowledges entries before they are durable.
    AckBeforeSync,
    /// The sync of a term and vote counts as one of the log before it.
    StateSyncCoversLog,
    /// Entries are taken whether the log has room for them or not.
    RoomIgnored,
    /// A commit mark covers entries that are not in the log file yet.
    MarkOvertakes,
    /// A vote is sent before it is durable.
    VoteBeforeSync,
    /// A vote is never stored.
    VoteNotStored,
    /// A voter votes for each candidate of a term.
    VoteTwice,
    /// Each append truncates the log after its first entry, without a conflict too.
    TruncateAlways,
    /// A longer log is up-to-date, whatever its last term.
    CompareByLength,
    /// A log with the same last term is up-to-date, whatever its length.
    CompareByTerm,
    /// An entry of an earlier term is committed by counting (thesis figure 3.7).
    CommitOldTerm,
    /// A follower commits up to the leader's commit index, whether its own entries are verified or
    /// not.
    CommitUnverified,
    /// The membership changes before the leader's no-op is committed.
    ChangeBeforeNop,
    /// A change of voters is appended while another one is not committed.
    TwoChanges,
    /// A configuration stays in force when its entry is truncated.
    ChangeNotUndone,
    /// Learners count for commits.
    LearnerCounts,
    /// A voter is removed though the voters that answer are no majority of the remaining ones.
    RemovalUnchecked,
    /// A leader that is being removed counts itself.
    RemovedCounts,
    /// A linearizable read is answered without a heartbeat round.
    ReadWithoutRound,
    /// A linearizable read is answered before the leader's no-op is committed.
    ReadBeforeNop,
    /// The term of a notice of removal is taken for a term.
    NoticeIsTerm,
    /// A sender whose Join is not applied here gets a notice of removal.
    UnknownIsRemoved,
    /// A message of a removed member is handled like any other.
    RemovedIsHeard,
    /// A snapshot is installed without its configuration.
    SnapshotWithoutConfiguration,
    /// Entries after an installed snapshot stay even if they conflict with it.
    TailAlwaysKept,
    /// A snapshot is acknowledged before it is durable.
    InstallBeforeSync,
    /// A member that lost acknowledged entries goes on voting.
    AmnesiaIgnored,
    /// A member with damaged entries applies entries past them and campaigns.
    DamageIgnored,
    /// A peer answers a fetch with any entry at the index, and the body is not verified.
    RepairUnchecked,
    /// A damaged entry is truncated after the disclaimer of one peer.
    CutByOne,
    /// A vote is granted under a live lease.
    LeaseIgnored,
    /// A leader that hears no majority goes on leading.
    NoCheckQuorum,
    /// A pre-vote raises the term.
    PreVoteRaisesTerm,
    /// A forwarded request is proposed each time it arrives.
    ForwardTwice,
    /// A follower answers a linearizable read without the leader's proof.
    ForwardUnproven,
    /// A follower without an answer from the leader reports that the write was not done.
    ForwardDenied,
}
