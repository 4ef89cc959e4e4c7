//! The cluster as this member sees it, for `GET /v2/cluster`. The leader sees the progress of all
//! members, any other member only whether it has a link to them. Start with
//! [`Replica::cluster_view`].
use super::Replica;
use crate::core::raft::{Index, Member, PeerId, RaftRole};
use crate::core::seam::{
    ClusterView, LogStatus, MemberCondition, MemberProgress, MemberStatus, StandbyStatus,
};
use crate::core::timer::Now;

impl Replica {
    /// The positions in this member's log.
    pub fn log_status(&self) -> LogStatus {
        LogStatus {
            term: self.raft.term(),
            last: self.raft.last_index(),
            durable: self.raft.durable(),
            committed: self.raft.committed(),
            applied: self.applied,
        }
    }

    /// The view of this member. `is_linked` tells whether a link to a member is open.
    pub fn cluster_view(&self, now: Now, is_linked: impl Fn(PeerId) -> bool) -> ClusterView {
        let members = &self.raft.configuration().members;
        let status = |member: &Member| self.member_status(now, member, is_linked(member.id));
        let mut members: Vec<MemberStatus> = members.iter().map(status).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        ClusterView {
            id: self.cluster_id(),
            config: Some(self.config()),
            log: Some(self.log_status()),
            standbys: self.recent_standbys(now),
            members,
        }
    }

    /// The standbys that have fetched the list here. One that was admitted since is none any more.
    fn recent_standbys(&self, now: Now) -> Vec<StandbyStatus> {
        let members = self.raft.configuration();
        let mut standbys = self.standbys.recent(now, self.config().sync_interval_ms);
        standbys.retain(|status| members.by_name(&status.standby.name).is_none());
        standbys
    }

    /// How many standbys there are.
    pub(super) fn standby_count(&self, now: Now) -> u64 {
        self.recent_standbys(now).len() as u64
    }

    fn member_status(&self, now: Now, member: &Member, is_linked: bool) -> MemberStatus {
        let info = self.member_info(member);
        MemberStatus {
            id: Some(info.id),
            name: info.name,
            client_url: info.client_url.unwrap_or_default(),
            peer_url: info.peer_url,
            is_voter: Some(member.voter),
            condition: self.condition(now, member, is_linked),
            progress: self.progress_of(now, member.id),
        }
    }

    fn condition(&self, now: Now, member: &Member, is_linked: bool) -> MemberCondition {
        let id = member.id;
        if self.raft.leader() == Some(id) {
            return MemberCondition::Leader;
        }
        if id == self.raft.id() {
            return MemberCondition::Own;
        }
        if !member.has_started() {
            return MemberCondition::Added;
        }
        let Some(peer) = self.raft.peer(id) else {
            return if is_linked {
                MemberCondition::Linked
            } else {
                MemberCondition::Unlinked
            };
        };
        if !self.raft.is_heard(now, id) {
            MemberCondition::Silent
        } else if peer.is_in_snapshot() {
            MemberCondition::TakesSnapshot
        } else if self.raft.is_out_of_room(peer) {
            MemberCondition::Full
        } else {
            MemberCondition::Follower
        }
    }

    /// The progress of a member, if this one leads.
    pub(super) fn progress_of(&self, now: Now, id: PeerId) -> Option<MemberProgress> {
        if self.raft.role() != RaftRole::Leader {
            return None;
        }
        if id == self.raft.id() {
            return Some(self.progress_to(self.raft.durable(), 0));
        }
        let peer = self.raft.peer(id)?;
        let silent_us = now.mono_us.saturating_sub(peer.heard_us());
        Some(self.progress_to(peer.matched(), silent_us / 1_000))
    }

    fn progress_to(&self, matched: Index, silent_ms: u64) -> MemberProgress {
        MemberProgress {
            matched,
            lag: self.raft.last_index().0.saturating_sub(matched.0),
            silent_ms,
        }
    }
}
