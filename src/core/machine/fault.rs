//! Bugs to plant in the leader's duties, so that the checks that should catch them can be shown to
//! do so.
//!
//! They exist only with the cargo feature `faults`, which no released binary has: without it
//! `Caretaker::has` is false at compile time and nothing of this is left.

crate::core::raft::fault::faults! {
    Fault:
    /// Who goes when there are too many peers is drawn, and whether a majority is left is not asked.
    AnyoneGoes,
    /// Voters go before learners.
    VotersFirst,
    /// The leader is one of those that may have to go.
    LeaderGoes,
    /// One removal follows the other at once.
    SizeInHaste,
    /// Contact does not put the removal off.
    ContactIgnored,
}
