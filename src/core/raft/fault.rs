//! Bugs to plant, so that the checks that should catch them can be shown to do so.
//!
//! The last few are the replica's. They exist only with the cargo feature `faults`, which no
//! released binary has: without it `Raft::has` is false at compile time.

macro_rules! faults {
    ($fault:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $fault {
            $($(#[$doc])* $name,)*
        }

        impl $fault {
            /// All of them, for those who try each.
            pub const ALL: &[$fault] = &[$($fault::$name,)*];
        }
    };
}
pub(crate) use faults;

faults! {
    RaftFault:
    /// The leader counts its own entries before its disk has them.
    CountBeforeSync,
    /// A follower acknowledges entries before its disk has them.
    AckBeforeSync,
    /// A vote leaves before it is durable.
    VoteBeforeSync,
    /// A vote is never stored.
    VoteNotStored,
    /// Votes for everyone who asks in a term.
    VoteTwice,
    /// Every append cuts the log behind it, whether it conflicts or not.
    TruncateAlways,
    /// Logs are compared by length alone.
    CompareByLength,
    /// Logs are compared by their last term alone.
    CompareByTerm,
    /// An entry of an older term is committed by counting (thesis figure 3.7).
    CommitOldTerm,
    /// A follower takes the leader's commit index, whatever it holds itself.
    CommitUnverified,
    /// A membership change before the leader's own no-op has committed.
    ChangeBeforeNop,
    /// A voter change while another one is under way.
    TwoChanges,
    /// A change of membership survives the truncation of its entry.
    ChangeNotUndone,
    /// Learners count for majorities.
    LearnerCounts,
    /// A voter is removed though the others that answer are no majority of those left.
    RemovalUnchecked,
    /// A leader under removal goes on counting itself.
    RemovedCounts,
    /// A linearizable read without its round of heartbeats.
    ReadWithoutRound,
    /// A linearizable read before the leader has committed in its own term.
    ReadBeforeNop,
    /// The notice of removal is taken for a term.
    NoticeIsTerm,
    /// A sender whose join has not been applied here is told that it was removed.
    UnknownIsRemoved,
    /// A removed sender is answered like any other.
    RemovedIsHeard,
    /// A snapshot is installed without its configuration.
    SnapshotWithoutConfiguration,
    /// The rest of the log survives each snapshot.
    TailAlwaysKept,
    /// A snapshot is acknowledged before it is durable.
    InstallBeforeSync,
    /// A member that lost acknowledged entries goes on voting.
    AmnesiaIgnored,
    /// Damaged entries are passed by: applied past, campaigned with.
    DamageIgnored,
    /// A peer answers with whatever it has at the index, and the body is taken without its checksum.
    RepairUnchecked,
    /// A damaged entry that one peer never had is cut.
    CutByOne,
    /// Votes are given under a live lease.
    LeaseIgnored,
    /// A leader without a majority keeps leading.
    NoCheckQuorum,
    /// A pre-vote raises the term.
    PreVoteRaisesTerm,
    /// A request that a follower has passed on is taken as often as it comes.
    ForwardTwice,
    /// A follower reads without the leader's proof.
    ForwardUnproven,
    /// A follower that gets no answer from the leader says that nothing was done.
    ForwardDenied,
}
