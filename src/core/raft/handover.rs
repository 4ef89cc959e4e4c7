//! The hand-over of leadership to another member (thesis 3.10).
//!
//! The leader stops taking proposals, brings the target up to date and tells it to campaign at
//! once. If the target does not lead within a timeout, the leader goes on. A leader with a full disk
//! then pauses before its next attempt: expiry and changes of membership come in between. Start
//! reading at `Raft::hand_over`.
use super::message::{PeerId, Rpc};
use super::{Raft, RaftRole};
use crate::core::timer::Now;

/// The hand-over that is under way. Empty unless this member leads.
#[derive(Default)]
pub struct Handover {
    pending: Option<PendingHandover>,
    /// Until when a leader with a full disk starts no other one, in microseconds of the monotonic
    /// clock. Set when one has failed.
    pause_until_us: u64,
}

/// A hand-over to one member.
struct PendingHandover {
    /// The next leader.
    target: PeerId,
    /// When the leader gives up, in microseconds of the monotonic clock.
    deadline_us: u64,
    /// Whether the target was told to campaign. It is told once.
    is_told: bool,
}

impl Handover {
    /// Whether a hand-over is under way.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Starts a hand-over. Replaces one that is under way.
    fn start(&mut self, target: PeerId, deadline_us: u64) {
        self.pending = Some(PendingHandover {
            target,
            deadline_us,
            is_told: false,
        });
    }

    /// Gives up if the deadline has passed, and pauses.
    fn expire(&mut self, now_us: u64, pause_us: u64) {
        if let Some(pending) = &self.pending
            && now_us >= pending.deadline_us
        {
            self.pending = None;
            self.pause_until_us = now_us + pause_us;
        }
    }

    /// The member that is still to be told to campaign.
    fn untold_target(&self) -> Option<PeerId> {
        let pending = self.pending.as_ref()?;
        (!pending.is_told).then_some(pending.target)
    }

    /// The target was told to campaign.
    fn on_told(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.is_told = true;
        }
    }

    /// This member does not lead any more.
    pub fn cancel(&mut self) {
        *self = Handover::default();
    }
}

impl Raft {
    /// Starts to hand the leadership over to the voter `to`, or to the best voter. Returns whether
    /// it did: this member must lead, and there must be such a voter.
    pub fn hand_over(&mut self, now: Now, to: Option<PeerId>) -> bool {
        self.on_input(now);
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
        let deadline_us = self.now_us + self.answer_patience_us();
        self.handover.start(target, deadline_us);
        self.maybe_hand_over();
        self.check_invariants();
        true
    }

    /// Whether proposals are refused because another member is about to lead.
    pub fn is_handing_over(&self) -> bool {
        self.handover.is_pending()
    }

    /// Whether clients' writes are refused or held because another member is about to lead: a
    /// hand-over is under way, or one failed and this leader, whose disk is full, soon tries again.
    pub fn leaves_writes_to_next_leader(&self) -> bool {
        let is_paused = self.now_us < self.handover.pause_until_us;
        self.is_handing_over() || (is_paused && self.is_full_leader())
    }

    /// `id` if it is another voter.
    fn successor(&self, id: PeerId) -> Option<PeerId> {
        let peer = self.tracker.get(id)?;
        peer.is_voter().then_some(id)
    }

    /// The voter with the longest log, from those that answer if any does, and of these from those
    /// with room for entries of clients if any has it. Of equals the one with the highest id.
    pub(super) fn best_successor(&self) -> Option<PeerId> {
        let best = self.tracker.voters().max_by_key(|peer| {
            let answers = !self.is_silent(peer, self.now_us) && peer.has_answered();
            let has_room = peer.has_client_room();
            (answers, has_room, peer.matched())
        })?;
        Some(best.id())
    }

    /// Tells the target to campaign once it has the whole log, and gives up at the deadline.
    /// Returns whether it told the target.
    pub(super) fn maybe_hand_over(&mut self) -> bool {
        self.handover
            .expire(self.now_us, self.heartbeat_interval_us);
        let Some(target) = self.handover.untold_target() else {
            return false;
        };
        let last = self.log.last_index();
        let peer = self.tracker.get(target);
        let is_ready = peer.is_some_and(|p| p.is_voter() && p.matched() == last);
        if !is_ready {
            return false;
        }
        self.handover.on_told();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_told_once() {
        let mut handover = Handover::default();
        handover.start(PeerId(2), 100);
        assert_eq!(handover.untold_target(), Some(PeerId(2)));
        handover.on_told();
        assert_eq!(handover.untold_target(), None);
        assert!(handover.is_pending());
    }

    #[test]
    fn a_hand_over_ends_at_its_deadline() {
        let mut handover = Handover::default();
        handover.start(PeerId(2), 100);
        handover.expire(99, 10);
        assert!(handover.is_pending());
        handover.expire(100, 10);
        assert!(!handover.is_pending());
        assert_eq!(handover.pause_until_us, 110);
    }
}
