//! The hand-over of leadership to another member (thesis 3.10).
//!
//! The leader stops taking proposals, brings the target up to date and tells it to campaign at once.
//! If the target does not lead within a timeout, the leader goes on. Start reading at
//! `Raft::hand_over`.
use super::message::{PeerId, Rpc};
use super::{Raft, RaftRole};
use crate::core::timer::Now;

/// A hand-over that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// The next leader.
    target: PeerId,
    /// When the leader gives up, in microseconds of the monotonic clock.
    deadline_us: u64,
    /// Whether the target was told to campaign.
    is_told: bool,
}

impl Raft {
    /// Starts to hand the leadership over to the voter `to`, or to the best voter. Returns whether
    /// it did: this member must lead, and there must be such a voter.
    pub fn hand_over(&mut self, now: Now, to: Option<PeerId>) -> bool {
        self.now_us = now.mono_us;
        let target = match to {
            Some(id) => self.successor(id),
            None => self.best_successor(),
        };
        let Some(target) = target else {
            return false;
        };
        if self.role != RaftRole::Leader {
            return false;
        }
        self.handover = Some(Handover {
            target,
            deadline_us: self.now_us + self.disk_patience_us(),
            is_told: false,
        });
        self.maybe_hand_over();
        self.check_invariants();
        true
    }

    /// Whether proposals are refused because another member is about to lead.
    pub fn is_handing_over(&self) -> bool {
        self.handover.is_some()
    }

    /// `id` if it is another voter.
    fn successor(&self, id: PeerId) -> Option<PeerId> {
        let peer = self.tracker.get(id)?;
        peer.is_voter().then_some(id)
    }

    /// The voter with the longest log, from those that answer if any does. Of equals the one with
    /// the highest id.
    pub(super) fn best_successor(&self) -> Option<PeerId> {
        let best = self.tracker.voters().max_by_key(|peer| {
            let answers = !self.is_silent(peer, self.now_us) && peer.has_answered();
            (answers, peer.matched())
        })?;
        Some(best.id())
    }

    /// Tells the target to campaign once it has the whole log, and gives up at the deadline. Returns
    /// whether it told the target.
    pub(super) fn maybe_hand_over(&mut self) -> bool {
        let Some(handover) = &mut self.handover else {
            return false;
        };
        if self.now_us >= handover.deadline_us {
            self.handover = None;
            return false;
        }
        let last = self.log.last_index();
        let is_ready = self
            .tracker
            .get(handover.target)
            .is_some_and(|peer| peer.is_voter() && peer.matched() == last);
        if handover.is_told || !is_ready {
            return false;
        }
        handover.is_told = true;
        let target = handover.target;
        self.send(target, Rpc::TimeoutNow);
        true
    }

    /// The leader tells this member to campaign. No pre-vote is needed, and its vote requests
    /// overrule the leases that the old leader still has.
    pub(super) fn on_timeout_now(&mut self, from: PeerId) {
        let is_follower = self.role == RaftRole::Follower && self.leader == Some(from);
        if is_follower && self.may_campaign() {
            self.become_candidate(true);
        }
    }
}
