//! Membership (thesis 4): the configurations in the log, what a change does, who is a member, who
//! was removed.
//!
//! A configuration takes effect when its entry is appended and goes with its entry (4.1). A
//! member's id is the index of its Join, so that "removed" needs no list: an id that could be known
//! and is not was removed. Start reading at `Configuration::after`, then `check_change`.
use super::fault::RaftFault;
use super::progress::{Progress, ProgressState};
use super::{
    Configuration, Entry, EntryBody, Index, Member, Message, PeerId, ProposalRefusal, Raft,
    RaftNotice, RaftRole, Rpc, SnapshotMeta, Term,
};
use crate::core::command::{self, Command};
use crate::core::timer::Now;

/// How long a removed member is still told of its removal, once that is committed.
const FAREWELL_US: u64 = 2_000_000;
/// How many entries a learner may lack when it becomes a voter: what one more round trip brings.
const PROMOTE_LAG_MAX: u64 = 64;

/// What an id is, as far as this member has applied the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStanding {
    /// In the applied configuration.
    Member,
    /// Not in it, though its join would have been applied.
    Removed,
    /// Its join may not have come here yet.
    Unknown,
}

/// What is wrong with a change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfitChange {
    /// There is no such member.
    NotAMember,
    /// The cluster would have no voter left.
    LastVoter,
    /// Only a learner is promoted.
    NotALearner,
    /// The name belongs to a member that the command does not replace, or may not replace.
    NameTaken,
}

impl Configuration {
    /// The configuration behind the entry at `index`, if that changes it. A Join of a known name
    /// from the same data directory (0 matches any) only takes over the addresses; `replaces`
    /// puts a learner in the place of a member.
    pub fn after(&self, index: Index, command: &Command) -> Option<Configuration> {
        let mut members = self.members.clone();
        match command {
            Command::Join {
                name,
                peer_url,
                client_url,
                incarnation,
                replaces,
            } => {
                members.retain(|m| m.id.0 != *replaces);
                let at = members
                    .iter()
                    .position(|m| m.name == *name)
                    .unwrap_or(members.len());
                if at == members.len() {
                    members.push(Member {
                        id: PeerId(index.0),
                        name: name.clone(),
                        ..Member::default()
                    });
                }
                let member = &mut members[at];
                (member.peer_url, member.client_url) = (peer_url.clone(), client_url.clone());
                member.incarnation = if *incarnation == 0 {
                    member.incarnation
                } else {
                    *incarnation
                };
            }
            Command::Promote { id } => members.iter_mut().find(|m| m.id.0 == *id)?.voter = true,
            Command::Remove { id } => members.retain(|m| m.id.0 != *id),
            _ => return None,
        }
        Some(Configuration { members })
    }
}

// -- the configurations in the log
impl Raft {
    /// An entry is about to be appended: the configuration it makes is in force from now on.
    pub(super) fn configure(&mut self, entry: &Entry) {
        let Some(next) = self.changed_by(entry) else {
            return;
        };
        let voters = !next.voters().eq(self.configuration().voters());
        self.configurations.push((entry.index, next));
        if self.role == RaftRole::Leader {
            if voters {
                self.voter_change = entry.index;
            }
            self.refresh_peers();
        }
    }

    fn changed_by(&self, entry: &Entry) -> Option<Configuration> {
        let EntryBody::Good(bytes) = &entry.body else {
            return None;
        };
        if !command::is_membership(bytes) {
            return None;
        }
        let command = command::decode(bytes).expect("an entry was encoded by a member");
        self.configuration().after(entry.index, &command)
    }

    /// Reads the configurations in the log anew, from `from` on.
    pub(super) fn rebuild_configurations(&mut self, from: Index) {
        self.configurations.retain(|(index, _)| *index < from);
        let mut at = from;
        while let Some(entry) = self.log.get(at) {
            if let Some(next) = self.changed_by(entry) {
                self.configurations.push((at, next));
            }
            at = at.next();
        }
    }

    /// The configuration that was in force at an index; the oldest one known, for an index before
    /// it.
    pub fn configuration_at(&self, index: Index) -> &Configuration {
        let behind = self.configurations.partition_point(|(at, _)| *at <= index);
        &self.configurations[behind.saturating_sub(1)].1
    }

    pub(super) fn committed_configuration(&self) -> &Configuration {
        self.configuration_at(self.commit_index)
    }

    /// What a snapshot of the state applied at `index` is headed by.
    pub fn snapshot_meta(&self, index: Index) -> SnapshotMeta {
        if index == self.snapshot.index {
            return self.snapshot.clone();
        }
        assert!(
            index <= self.last_applied,
            "a snapshot holds what is applied"
        );
        SnapshotMeta {
            cluster: self.snapshot.cluster,
            index,
            term: self.log.term_at(index).expect("the log begins before it"),
            configuration: self.configuration_at(index).clone(),
        }
    }

    /// Forgets configurations that no snapshot and no question can ask for.
    pub(super) fn trim_configurations(&mut self) {
        let needed = self.snapshot.index.min(self.last_applied);
        let behind = self.configurations.partition_point(|(at, _)| *at <= needed);
        self.configurations.drain(..behind.saturating_sub(1));
    }
}

// -- who is what
impl Raft {
    /// What an id is to this member; never a guess: without the join applied it is `Unknown`.
    pub fn standing(&self, id: PeerId) -> MemberStanding {
        if self.configuration_at(self.last_applied).get(id).is_some() {
            MemberStanding::Member
        } else if id.0 <= self.last_applied.0 || self.has(RaftFault::UnknownIsRemoved) {
            MemberStanding::Removed
        } else {
            MemberStanding::Unknown
        }
    }

    /// What to answer to a removed member that opens a link; `None` for all others.
    pub fn removal_notice(&self, id: PeerId) -> Option<Message> {
        (self.standing(id) == MemberStanding::Removed).then_some(Message {
            term: Term::REMOVED,
            rpc: Rpc::Removed {
                cluster: self.snapshot.cluster,
                id,
            },
        })
    }

    /// Rests on what is committed, so it waits for no sync.
    pub(super) fn send_removed(&mut self, to: PeerId) {
        let notice = self.removal_notice(to);
        self.out.messages.extend(notice.map(|n| (to, n)));
    }

    /// A notice means something only if it is meant for this member of this cluster.
    pub(super) fn on_removed(&mut self, term: Term, cluster: u64, id: PeerId) {
        if self.has(RaftFault::NoticeIsTerm) {
            return self.become_follower(term, None);
        }
        // One that was just let in knows nothing of its cluster but its id, and has nothing to
        // lose.
        let mine = [0, cluster].contains(&self.snapshot.cluster) && id == self.id;
        if mine && term == Term::REMOVED && !self.out.notices.contains(&RaftNotice::Removed) {
            self.out.notices.push(RaftNotice::Removed);
        }
    }

    /// How the leader sees a member; `None` elsewhere.
    pub fn peer(&self, id: PeerId) -> Option<&Progress> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// Whether a member answers this leader, or may still answer: a leadership that is younger than
    /// an election timeout cannot tell.
    pub fn is_heard(&self, now: Now, id: PeerId) -> bool {
        id == self.id
            || self
                .peer(id)
                .is_some_and(|p| !self.is_silent(p, now.mono_us))
    }

    /// Whether this leader hears a majority of the voters.
    pub fn majority_heard(&self, now: Now) -> bool {
        self.can_remove(now, PeerId::NONE)
    }

    /// Whether the voters that this leader hears would still be a majority without this member.
    pub fn can_remove(&self, now: Now, id: PeerId) -> bool {
        let voters = || self.configuration().voters().filter(|v| *v != id);
        let heard = voters().filter(|v| self.is_answering(now, *v));
        let majority =
            heard.count() > voters().count() / 2 || self.has(RaftFault::RemovalUnchecked);
        self.role == RaftRole::Leader && majority
    }

    /// Whether a member has answered this leader, and within an election timeout.
    pub fn is_answering(&self, now: Now, id: PeerId) -> bool {
        id == self.id
            || self
                .peer(id)
                .is_some_and(|p| p.answered && !self.is_silent(p, now.mono_us))
    }
}

// -- changes
impl Raft {
    /// Whether a change may be appended now. It is checked against the latest configuration, so
    /// that it never fails when it is applied.
    pub(super) fn check_change(&self, command: &Command) -> Result<(), ProposalRefusal> {
        let now = self.configuration();
        let unfit = match command {
            Command::Join {
                name,
                incarnation,
                replaces,
                ..
            } => {
                let same =
                    |m: &Member| [0, m.incarnation].contains(incarnation) || m.incarnation == 0;
                let fits = match now.by_name(name) {
                    None => *replaces == 0,
                    Some(m) if *replaces == 0 => same(m),
                    Some(m) => m.id.0 == *replaces && m.id != self.id,
                };
                (!fits).then_some(UnfitChange::NameTaken)
            }
            Command::Promote { id } => match now.get(PeerId(*id)) {
                None => Some(UnfitChange::NotAMember),
                Some(m) => m.voter.then_some(UnfitChange::NotALearner),
            },
            Command::Remove { id } => now
                .get(PeerId(*id))
                .is_none()
                .then_some(UnfitChange::NotAMember),
            _ => return Ok(()),
        };
        unfit.map_or_else(
            || self.check_order(command),
            |why| Err(ProposalRefusal::Unfit(why)),
        )
    }

    /// One change of voters at a time, so that majorities overlap (4.1); and never before this
    /// leader's no-op has committed, or two leaders' changes could be under way (the correction
    /// of 2015).
    fn check_order(&self, command: &Command) -> Result<(), ProposalRefusal> {
        let now = self.configuration();
        let next = now.after(self.log.last_index().next(), command);
        let next = next.expect("a change of membership");
        if next.voters().next().is_none() {
            return Err(ProposalRefusal::Unfit(UnfitChange::LastVoter));
        }
        let early = self.commit_index < self.nop && !self.has(RaftFault::ChangeBeforeNop);
        let second = self.voter_change > self.commit_index && !next.voters().eq(now.voters());
        if early || (second && !self.has(RaftFault::TwoChanges)) {
            Err(ProposalRefusal::Busy)
        } else {
            Ok(())
        }
    }

    /// Makes the leader's view of the others that of the latest configuration. Who is not in it any
    /// more is leaving.
    pub(super) fn refresh_peers(&mut self) {
        let (index, configuration) = self.configurations.last().expect("never empty");
        for peer in &mut self.peers {
            let member = configuration.get(peer.id);
            peer.voter = member.is_some_and(|m| m.voter);
            if member.is_none() && peer.leaving.is_none() {
                peer.leaving = Some((*index, u64::MAX));
            }
        }
        for member in configuration.members.iter().filter(|m| m.id != self.id) {
            if let Err(at) = self.peers.binary_search_by_key(&member.id, |p| p.id) {
                let next = self.log.last_index().next();
                let peer = Progress::new(member.id, member.voter, next, self.now_us);
                self.peers.insert(at, peer);
            }
        }
    }

    /// The leader has committed something: what waits for a change of membership goes on.
    pub(super) fn on_change_committed(&mut self) {
        for peer in &mut self.peers {
            if let Some((remove, until_us @ u64::MAX)) = &mut peer.leaving
                && *remove <= self.commit_index
            {
                *until_us = self.now_us + FAREWELL_US;
            }
        }
        // Not the latest: a join may stand behind the removal.
        if self.committed_configuration().get(self.id).is_none() {
            self.leave();
        }
    }

    /// The leader's own removal has committed: it passes that on, names a successor and leads no
    /// more (4.2.2).
    fn leave(&mut self) {
        self.replicate();
        if let Some(successor) = self.best_successor() {
            self.send(successor, Rpc::TimeoutNow);
        }
        self.become_follower(self.current_term, None);
    }

    /// Lets go of removed members that know it, or that had their time.
    pub(super) fn drop_left(&mut self) {
        let (commit, now_us) = (self.commit_index, self.now_us);
        self.peers.retain(|p| match p.leaving {
            Some((remove, until_us)) => {
                commit < remove || (p.matched < remove && now_us < until_us)
            }
            None => true,
        });
    }

    /// Makes a voter of a learner that has caught up and answers.
    pub(super) fn maybe_promote(&mut self, id: PeerId) {
        let last = self.log.last_index();
        let ready = |p: &&Progress| {
            let caught_up = p.matched.0 + PROMOTE_LAG_MAX >= last.0 && p.matched >= Index(id.0);
            !p.voter && p.leaving.is_none() && caught_up && p.flow == ProgressState::Replicate
        };
        if !self.peers.iter().any(|p| p.id == id && ready(&p)) {
            return;
        }
        let command = Command::Promote { id: id.0 };
        if self.may_propose().is_ok() && self.check_change(&command).is_ok() {
            self.append_command(&command);
        }
    }
}
