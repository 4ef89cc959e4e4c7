//! Bugs that can be planted in the leader's duties, to show that the checks catch them.
//!
//! They exist only with the cargo feature `faults`, which no released binary has. Without it
//! `Caretaker::has` is false at compile time, and the branches vanish.

crate::core::raft::fault::faults! {
    DutyFault:
    /// The member to remove is drawn at random, and removed even if no majority is left.
    RemovalUnchecked,
    /// Voters are removed before learners.
    VotersFirst,
    /// The leader may remove itself.
    LeaderRemoved,
    /// Removals for the active size follow each other without a pause.
    NoRemovalPause,
    /// A peer that is heard is removed all the same.
    ContactIgnored,
}
