//! The members as clients see them: public ids, the list, and the health of this machine.
//!
//! Only public ids leave the core here. Start with `Replica::member_listing` and
//! `Replica::health`.
use super::Replica;
use crate::core::error::{Code, Error};
use crate::core::public_id::PublicId;
use crate::core::raft::{Member, PeerId, RaftRole};
use crate::core::seam::{Health, MemberInfo, MemberListing, Outcome};
use crate::core::timer::Now;
use std::collections::VecDeque;

/// How many removed members are remembered.
const REMOVED_MAX: usize = 64;

/// The members that were removed last, as far as this process has applied their removals. It only
/// tells a client that asks for such a member that it was removed: no decision depends on it. Holds
/// the ids that clients know them by.
#[derive(Default)]
pub struct RemovedMembers(VecDeque<PeerId>);

impl RemovedMembers {
    /// The removal of a member was applied.
    pub fn add(&mut self, member: &Member) {
        if self.0.len() == REMOVED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(member.listed_id());
    }
}

impl Replica {
    /// The public id of a member.
    pub(super) fn public_id(&self, member: &Member) -> PublicId {
        self.hashed(member.listed_id())
    }

    /// The public id of the member with this id; `None` if there is none.
    pub(super) fn public_id_of(&self, id: PeerId) -> Option<PublicId> {
        self.raft.configuration().get(id).map(|m| self.public_id(m))
    }

    /// This member's public id.
    pub fn own_public_id(&self) -> PublicId {
        let own = self.raft.id();
        self.public_id_of(own).unwrap_or_else(|| self.hashed(own))
    }

    fn hashed(&self, listed: PeerId) -> PublicId {
        PublicId::of_member(self.raft.snapshot().cluster, listed)
    }

    /// The public id of the cluster; `None` until this member knows its cluster.
    pub fn cluster_id(&self) -> Option<PublicId> {
        let cluster = self.raft.snapshot().cluster;
        (cluster != 0).then(|| PublicId::of_cluster(cluster))
    }

    /// The answer to `Query::Members`.
    pub(super) fn member_listing(&self) -> Outcome {
        if !self.has_joined() || self.cluster_id().is_none() {
            return self.redirect_or_fail();
        }
        let members = self.members().members.iter();
        Outcome::Members(MemberListing {
            members: members.map(|m| self.member_info(m)).collect(),
            leader: self.raft.leader().and_then(|id| self.public_id_of(id)),
        })
    }

    /// A member as clients see it.
    pub(super) fn member_info(&self, member: &Member) -> MemberInfo {
        let has_started = member.has_started();
        MemberInfo {
            id: self.public_id(member),
            name: if has_started {
                member.name.clone()
            } else {
                "".into()
            },
            peer_url: member.peer_url.clone(),
            client_url: has_started.then(|| member.client_url.clone()),
        }
    }

    /// The member with this public id in the latest configuration.
    ///
    /// # Errors
    ///
    /// The answer to the client if there is no such member.
    #[allow(
        clippy::result_large_err,
        reason = "an outcome is what the callers return"
    )]
    pub(super) fn member_by_id(&self, id: PublicId) -> Result<&Member, Outcome> {
        let mut members = self.raft.configuration().members.iter();
        if let Some(member) = members.find(|m| self.public_id(m) == id) {
            return Ok(member);
        }
        let was_removed = self
            .removed
            .0
            .iter()
            .any(|listed| self.hashed(*listed) == id);
        Err(if was_removed {
            Outcome::MemberGone
        } else {
            Outcome::Failed(Error::new(Code::KeyNotFound, id.to_string()))
        })
    }

    /// The client URL of the leader that this member follows; `None` if it leads itself or knows none.
    pub fn leader_client_url(&self) -> Option<&str> {
        let leader = self.raft.leader().filter(|id| *id != self.raft.id())?;
        let member = self.raft.configuration().get(leader)?;
        Some(&member.client_url)
    }

    /// Whether this member can serve its clients.
    pub fn health(&self, now: Now) -> Health {
        match self.raft.role() {
            RaftRole::Leader if self.raft.majority_heard(now) => Health::Healthy,
            RaftRole::Leader => Health::NoMajority,
            RaftRole::Follower if self.raft.hears_leader(now) => Health::Healthy,
            RaftRole::Follower | RaftRole::PreCandidate | RaftRole::Candidate => Health::NoLeader,
        }
    }
}
