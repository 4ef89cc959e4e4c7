//! A leader says that this member has acknowledged entries that its log does not have.
//!
//! The claim is true if the disk was put back to an older state: by a restored backup, or an older
//! image of a virtual machine. The member must not vote then, as a majority may have counted the
//! lost entries, and it has to join again as a new member. The claim is false if the leader is
//! faulty. So a single append wipes nothing:
//!
//! 1. A claim mutes this member: it neither votes nor campaigns, and takes and acknowledges no
//!    entry. The owner asks the leader anew over another connection (`machine::claims`), and wipes
//!    the data only if the answer confirms the claim.
//! 2. A leader of a later term ends it. Such a leader was elected without a vote of the muted
//!    member, or with a vote from before the loss, so it has all committed entries (thesis 3.6.3).
//! 3. An append of the same leader that claims nothing ends it: the acknowledgement that a leader
//!    counts never falls within its term.
//! 4. Otherwise the member is mute for [`MUTE_TIMEOUTS`] election timeouts, once in a term, and
//!    then votes again. An append that claims more than the log has is never taken.
//!
//! The obvious versions are wrong:
//!
//! - *Mute until the claim is confirmed or denied.* Member A of three lies in the first append of a
//!   term and stops. B is mute, so C never gets a majority: one faulty member has stopped the
//!   cluster.
//! - *Not mute before the claim is confirmed.* A and B have committed an entry, C lacks it. The
//!   disk of B is put back, A says so and is cut off before its answer arrives. B votes for C, and
//!   the entry is lost.
//! - *Mute for a time*, without rule 2, could end while the claim is true. With it that takes more
//!   failures than raft tolerates: as long as a majority without this member is up and connected,
//!   it elects a leader within the time, and that leader has the entries. If there is no such
//!   majority, this member, put back, is one failure too many.
//!
//! Traces: `protocol_13_lost_tail_...`. Start reading at [`LostTail::on_claim`].
use super::message::{PeerId, Term};

/// For how many election timeouts a claim mutes this member: enough for an election by the others.
const MUTE_TIMEOUTS: u64 = 5;

/// The claim that is not decided.
struct TailClaim {
    /// The term of the leader that made it.
    term: Term,
    /// Up to this time (microseconds of the monotonic clock) the member is mute.
    mute_until_us: u64,
}

/// The claims of leaders about lost entries.
#[derive(Default)]
pub struct LostTail {
    /// The claim of the latest term with one; `None` once it is known to be false. At most one.
    claim: Option<TailClaim>,
}

impl LostTail {
    /// The leader of `term` claims that entries are lost.
    pub fn on_claim(&mut self, term: Term, now_us: u64, election_us: u64) {
        if self.claim.as_ref().is_some_and(|claim| claim.term == term) {
            return;
        }
        let mute_us = MUTE_TIMEOUTS.saturating_mul(election_us);
        self.claim = Some(TailClaim {
            term,
            mute_until_us: now_us.saturating_add(mute_us),
        });
    }

    /// The leader of the current term has sent an append that claims nothing.
    pub fn on_no_claim(&mut self) {
        self.claim = None;
    }

    /// Whether a claim is not decided.
    pub fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// Whether this member neither votes nor acknowledges.
    pub fn is_mute(&self, now_us: u64) -> bool {
        self.claim
            .as_ref()
            .is_some_and(|claim| now_us < claim.mute_until_us)
    }
}

/// The answer to a member that asks whether a claim is true.
impl super::Raft {
    /// Whether this member leads, and has counted an acknowledgement of the member `id` past
    /// `last`, the end of that member's log.
    pub fn has_lost_entries(&self, id: PeerId, last: super::Index) -> bool {
        self.peer(id).is_some_and(|peer| peer.matched() > last)
    }

    /// Whether a leader claims that this member has lost entries, and it is not decided.
    pub fn is_tail_doubted(&self) -> bool {
        self.lost_tail.is_claimed()
    }

    /// Whether a leader's claim keeps this member from votes and acknowledgements.
    pub fn is_mute(&self) -> bool {
        self.lost_tail.is_mute(self.now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_mutes_once_in_a_term() {
        let mut lost_tail = LostTail::default();
        assert!(!lost_tail.is_mute(0));
        lost_tail.on_claim(Term(3), 100, 200);
        assert!(lost_tail.is_mute(1_099));
        lost_tail.on_claim(Term(3), 1_000, 200);
        assert!(!lost_tail.is_mute(1_100));
        lost_tail.on_claim(Term(3), 2_000, 200);
        assert!(!lost_tail.is_mute(2_000), "the same claim");
        lost_tail.on_claim(Term(4), 3_000, 200);
        assert!(lost_tail.is_mute(3_000));
        lost_tail.on_no_claim();
        assert!(!lost_tail.is_mute(3_000));
    }
}
