//! Membership (thesis chapter 4): the configurations in the log, what a change leads to, and which
//! change may be appended.
//!
//! A configuration takes effect when its entry is appended, and its effect ends when the entry is
//! truncated (thesis 4.1). A member's id is the index of its Join. So no list of removed members is
//! needed: an id at or below the applied index that is absent from the applied configuration was
//! removed. The configuration lists only the members that were removed for good, because their
//! machines are not admitted again. Start reading at [`Membership`], then [`Configuration::after`] and
//! `Raft::check_change`.
use super::message::{BARRED_MAX, BarredMember, Configuration, Entry, EntryBody, Index, Member};
use super::message::{Message, PeerId, Rpc, Term};
use super::{Progress, ProposalRefusal, Raft, RaftNotice, RaftRole};
use crate::core::command::{self, Command};
use crate::core::timer::Now;

/// Most entries that a learner may lack when it becomes a voter. A leader sends more than that
/// within one round trip, so the new voter delays no commit by more (thesis 4.2.1). On a long line it
/// always lacks the entries of the last round trip: there a short round of catching up counts.
const PROMOTE_LAG_MAX: u64 = 64;

/// The relation of an id to the cluster, as far as this member has applied the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberStanding {
    /// The applied configuration has it.
    Member,
    /// The applied configuration does not have it, but its Join is applied.
    Removed,
    /// Its Join may be past the applied entries.
    Unknown,
}

/// What is wrong with a change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfitChange {
    /// There is no such member.
    NotAMember,
    /// No voter would be left.
    LastVoter,
    /// The member to be promoted is a voter.
    NotALearner,
    /// Another member has the name, and the Join does not replace it or must not.
    NameTaken,
}

impl Configuration {
    /// The configuration after the entry at `index`; `None` if its command does not change the
    /// membership.
    ///
    /// A Join adds a learner, with two exceptions:
    /// - it names a member: it updates the URLs of that member (and its incarnation, unless that is
    ///   0);
    /// - it replaces a member (`replaces`): that member goes first. It has the same name, or its
    ///   machine had not started until this Join ([`Member::has_started`]).
    pub fn after(&self, index: Index, command: &Command) -> Option<Configuration> {
        // Asked for each entry: the copy is made for the few that change something.
        let changes = matches!(
            command,
            Command::Join { .. } | Command::Promote { .. } | Command::Remove { .. }
        );
        if !changes {
            return None;
        }
        let mut members = self.members.clone();
        let mut barred = self.barred.clone();
        match command {
            Command::Join {
                name,
                peer_url,
                client_url,
                incarnation,
                replaces,
            } => {
                let replaced = members.iter().find(|m| Some(m.id.0) == *replaces);
                let expected = replaced.filter(|m| !m.has_started());
                let added_as = expected.map(Member::listed_id);
                members.retain(|m| Some(m.id.0) != *replaces);
                let known = members.iter().position(|m| m.name == *name);
                let at = known.unwrap_or(members.len());
                if known.is_none() {
                    members.push(Member {
                        id: PeerId(index.0),
                        name: name.clone(),
                        added_as,
                        ..Member::default()
                    });
                }
                let member = &mut members[at];
                member.peer_url = peer_url.clone();
                member.client_url = client_url.clone();
                if *incarnation != 0 {
                    member.incarnation = *incarnation;
                }
            }
            Command::Promote { id } => {
                let member = members.iter_mut().find(|m| m.id.0 == *id)?;
                member.voter = true;
            }
            Command::Remove { id, for_good } => {
                let removed = self.get(PeerId(*id)).filter(|_| *for_good);
                barred.extend(removed.map(|member| BarredMember {
                    id: member.id,
                    incarnation: member.incarnation,
                }));
                barred.drain(..barred.len().saturating_sub(BARRED_MAX));
                members.retain(|m| m.id.0 != *id);
            }
            _ => return None,
        }
        Some(Configuration { members, barred })
    }

    /// What is wrong with `command` as a change of this configuration that the member `own_id`
    /// proposes. `None` also if the command does not change the membership.
    fn unfit(&self, command: &Command, own_id: PeerId) -> Option<UnfitChange> {
        match command {
            Command::Join {
                name,
                incarnation,
                replaces,
                ..
            } => {
                let fits = match self.by_name(name) {
                    None => replaces.is_none_or(|id| self.awaits_start(PeerId(id))),
                    Some(member) => match *replaces {
                        None => member.is_same_directory(*incarnation),
                        Some(id) => member.id.0 == id && member.id != own_id,
                    },
                };
                (!fits).then_some(UnfitChange::NameTaken)
            }
            Command::Promote { id } => match self.get(PeerId(*id)) {
                None => Some(UnfitChange::NotAMember),
                Some(member) if member.voter => Some(UnfitChange::NotALearner),
                Some(_) => None,
            },
            Command::Remove { id, .. } => match self.get(PeerId(*id)) {
                None => Some(UnfitChange::NotAMember),
                Some(_) => None,
            },
            _ => None,
        }
    }
}

impl Configuration {
    /// Whether `id` is a member whose machine has not started yet.
    fn awaits_start(&self, id: PeerId) -> bool {
        self.get(id).is_some_and(|member| !member.has_started())
    }
}

impl Member {
    /// Whether a Join with this incarnation may come from this member's data directory: the numbers
    /// are equal, or one of them is unknown (0).
    fn is_same_directory(&self, incarnation: u64) -> bool {
        incarnation == 0 || self.incarnation == 0 || self.incarnation == incarnation
    }
}

/// The configurations that entries of the log lead to.
pub struct Membership {
    /// Each configuration with the index of the entry that it is in force from, in order. The first
    /// one is that of a snapshot or of an entry that was in the log once; each later one derives
    /// from the one before it. Never empty.
    ///
    /// Changes with the log: an append adds one, a truncation removes those of its entries.
    history: Vec<(Index, Configuration)>,

    /// The last change of voters that was appended since this member became leader. The next one
    /// waits until it is committed.
    voter_change: Option<Index>,
}

impl Membership {
    /// The configuration as of `index`, from a snapshot.
    pub fn new(index: Index, configuration: Configuration) -> Membership {
        Membership {
            history: vec![(index, configuration)],
            voter_change: None,
        }
    }

    /// The latest configuration, committed or not. It is the one in force (thesis 4.1).
    pub fn latest(&self) -> &Configuration {
        let (_, configuration) = self.history.last().expect("never empty");
        configuration
    }

    /// The entry that the latest configuration is in force from.
    pub fn latest_index(&self) -> Index {
        let (index, _) = self.history.last().expect("never empty");
        *index
    }

    /// The configuration as of `index`; the oldest known one if `index` is before that.
    pub fn at(&self, index: Index) -> &Configuration {
        let after = self.history.partition_point(|(at, _)| *at <= index);
        let (_, configuration) = &self.history[after.saturating_sub(1)];
        configuration
    }

    /// All known configurations, each with the entry that it is in force from, in order.
    pub fn history(&self) -> impl Iterator<Item = (Index, &Configuration)> {
        self.history.iter().map(|(index, c)| (*index, c))
    }

    /// Whether a change of voters that was appended in this leadership is not committed yet.
    fn has_open_voter_change(&self, commit: Index) -> bool {
        self.voter_change.is_some_and(|change| change > commit)
    }

    /// This member leads from now on. A change of voters by an earlier leader needs no memory: it
    /// is before this leader's no-op, which must commit before any change (`Raft::check_order`).
    pub fn on_become_leader(&mut self) {
        self.voter_change = None;
    }

    /// An entry is appended. Returns whether it changes the configuration.
    pub fn on_append(&mut self, entry: &Entry) -> bool {
        let Some(next) = self.after_entry(entry) else {
            return false;
        };
        if !next.voters().eq(self.latest().voters()) {
            self.voter_change = Some(entry.index);
        }
        self.history.push((entry.index, next));
        true
    }

    /// The configuration that an entry after all others leads to, if it changes the membership. The
    /// command of a damaged entry is unknown, so it changes nothing until it is repaired.
    fn after_entry(&self, entry: &Entry) -> Option<Configuration> {
        let EntryBody::Good(bytes) = &entry.body else {
            return None;
        };
        if !command::is_membership(bytes) {
            return None;
        }
        let command = command::decode(bytes).expect("an entry was encoded by a member");
        self.latest().after(entry.index, &command)
    }

    /// The entries from `from` on are truncated.
    pub fn on_truncate(&mut self, from: Index) {
        self.history.retain(|(index, _)| *index < from);
    }

    /// Derives the configurations from `from` on again. `entries` are all entries from there on.
    pub fn rebuild<'a>(&mut self, from: Index, entries: impl Iterator<Item = &'a Entry>) {
        self.history.retain(|(index, _)| *index < from);
        for entry in entries {
            if let Some(next) = self.after_entry(entry) {
                self.history.push((entry.index, next));
            }
        }
    }

    /// Begins again with the configuration of a snapshot that ends at `index`.
    pub fn on_install(&mut self, index: Index, configuration: Configuration) {
        self.history = vec![(index, configuration)];
    }

    /// Forgets the configurations that ended at or before `needed`.
    pub fn trim(&mut self, needed: Index) {
        let after = self.history.partition_point(|(at, _)| *at <= needed);
        self.history.drain(..after.saturating_sub(1));
    }

    /// Part of `Raft::check_invariants`. `last` is the last entry of the log.
    pub fn check_invariants(&self, last: Index) {
        assert!(self.latest_index() <= last, "a configuration is in the log");
        let Configuration { members, barred } = self.latest();
        assert!(members.is_sorted_by_key(|m| m.id), "members are sorted");
        assert!(barred.len() <= BARRED_MAX, "the oldest ones are dropped");
        if cfg!(debug_assertions) {
            let in_order = self.history.is_sorted_by_key(|(index, _)| *index);
            assert!(in_order, "configurations are in the order of the log");
        }
    }
}

/// Configurations and standings.
impl Raft {
    /// The latest configuration in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        self.membership.latest()
    }

    /// The configuration as of `index`; the oldest known one if `index` is before that.
    pub fn configuration_at(&self, index: Index) -> &Configuration {
        self.membership.at(index)
    }

    /// The configuration as of the commit index.
    pub(super) fn committed_configuration(&self) -> &Configuration {
        self.membership.at(self.log.commit_index())
    }

    /// The relation of `id` to the cluster. It is `Unknown` until the Join of `id` has been applied
    /// here.
    pub fn standing(&self, id: PeerId) -> MemberStanding {
        let applied = self.log.applied();
        if self.membership.at(applied).get(id).is_some() {
            return MemberStanding::Member;
        }
        if id.0 <= applied.0 {
            return MemberStanding::Removed;
        }
        MemberStanding::Unknown
    }

    /// The notice for a removed member that opens a link; `None` for any other id.
    pub fn removal_notice(&self, id: PeerId) -> Option<Message> {
        if self.standing(id) != MemberStanding::Removed {
            return None;
        }
        Some(Message {
            term: Term::REMOVED,
            rpc: Rpc::Removed {
                cluster: self.snapshots.newest().cluster,
                id,
            },
        })
    }

    /// Sends a notice of removal. It passes the gate at once: it depends on applied entries only,
    /// not on this member's term.
    pub(super) fn send_removed(&mut self, to: PeerId) {
        let notice = self.removal_notice(to);
        self.out.messages.extend(notice.map(|n| (to, n)));
    }

    /// A peer sent a notice of removal. It counts only if it is for this member of this cluster. A
    /// new member knows its id but not its cluster.
    pub(super) fn on_removed(&mut self, by: PeerId, term: Term, cluster: u64, id: PeerId) {
        let own_cluster = self.snapshots.newest().cluster;
        let is_own_cluster = own_cluster == 0 || own_cluster == cluster;
        if is_own_cluster && id == self.id && term == Term::REMOVED {
            self.report(RaftNotice::Removed { by, cluster });
        }
    }
}

/// What a leader knows of the reachability of members.
impl Raft {
    /// Whether this leader hears the member, or cannot tell yet because it has led for less than an
    /// election timeout.
    pub fn is_heard(&self, now: Now, id: PeerId) -> bool {
        let peer = self.tracker.get(id);
        id == self.id || peer.is_some_and(|p| !self.is_silent(p, now.mono_us))
    }

    /// Whether the member has answered this leader, the last time within an election timeout.
    pub fn is_answering(&self, now: Now, id: PeerId) -> bool {
        let peer = self.tracker.get(id);
        let answers = |p: &Progress| p.has_answered() && !self.is_silent(p, now.mono_us);
        id == self.id || peer.is_some_and(answers)
    }

    /// Whether this member leads, and a majority of the voters answers it.
    pub fn majority_heard(&self, now: Now) -> bool {
        self.is_majority_answering(now, None)
    }

    /// Whether this member leads, and a majority of the voters would still answer it if `id` were
    /// removed.
    pub fn can_remove(&self, now: Now, id: PeerId) -> bool {
        self.is_majority_answering(now, Some(id))
    }

    fn is_majority_answering(&self, now: Now, without: Option<PeerId>) -> bool {
        if self.role != RaftRole::Leader {
            return false;
        }
        let mut voters = 0;
        let mut answering = 0;
        for voter in self.configuration().voters() {
            if Some(voter) == without {
                continue;
            }
            voters += 1;
            if self.is_answering(now, voter) {
                answering += 1;
            }
        }
        answering > voters / 2
    }
}

/// Changes by the leader.
impl Raft {
    /// Whether `command` may be appended now, if it changes the membership. It is checked against
    /// the latest configuration, so it never fails when it is applied.
    pub(super) fn check_change(&self, command: &Command) -> Result<(), ProposalRefusal> {
        if let Some(unfit) = self.configuration().unfit(command, self.id) {
            return Err(ProposalRefusal::Unfit(unfit));
        }
        let next_index = self.log.last_index().next();
        match self.configuration().after(next_index, command) {
            Some(next) => self.check_order(&next),
            None => Ok(()),
        }
    }

    /// Whether the configuration `next` may follow the latest one now. Two rules keep majorities of
    /// any two configurations overlapping (thesis 4.1):
    /// - One change of voters at a time: the next waits until the last one is committed.
    /// - No change before this leader's no-op is committed. Otherwise two leaders could each have
    ///   appended a change to the same configuration (the correction of 2015,
    ///   <https://groups.google.com/g/raft-dev/c/t4xj6dJTP6E>).
    fn check_order(&self, next: &Configuration) -> Result<(), ProposalRefusal> {
        if next.voters().next().is_none() {
            return Err(ProposalRefusal::Unfit(UnfitChange::LastVoter));
        }
        let commit = self.log.commit_index();
        let has_committed = self.leader_state.has_committed(commit);
        let changes_voters = !next.voters().eq(self.configuration().voters());
        let is_second = changes_voters && self.membership.has_open_voter_change(commit);
        if has_committed && !is_second {
            Ok(())
        } else {
            Err(ProposalRefusal::Busy)
        }
    }

    /// The configuration changed while this member leads: its view of the peers follows.
    pub(super) fn refresh_peers(&mut self) {
        let next = self.log.last_index().next();
        let index = self.membership.latest_index();
        let configuration = self.membership.latest();
        self.tracker
            .refresh(index, configuration, self.id, next, self.now_us);
    }

    /// The commit index of this leader rose: removals may be committed, this leader's own included.
    /// The committed configuration decides and not the latest: a Join may follow the removal.
    pub(super) fn on_change_committed(&mut self) {
        self.tracker.on_commit(self.log.commit_index(), self.now_us);
        if self.committed_configuration().get(self.id).is_none() {
            self.leave();
        }
    }

    /// This leader's own removal is committed. It passes the commit index on, lets the best voter
    /// campaign at once and steps down (thesis 4.2.2).
    fn leave(&mut self) {
        self.send_appends(usize::MAX);
        if let Some(successor) = self.best_successor() {
            self.send(successor, Rpc::TimeoutNow);
        }
        self.become_follower(self.current_term, None);
    }

    /// Promotes a learner that has caught up and has its own Join. It has caught up when it lacks few
    /// entries, or when a round of catching up took no longer than the leader waits for an answer.
    pub(super) fn maybe_promote(&mut self, id: PeerId) -> bool {
        let last = self.log.last_index();
        let round_trip_us = self.round_trips.of(id);
        let now_us = self.now_us;
        let is_ready = self.tracker.get_mut(id).is_some_and(|peer| {
            let is_learner = !peer.is_voter() && !peer.is_leaving();
            if !is_learner || !peer.is_replicating() || peer.matched() < Index(id.0) {
                return false;
            }
            let round_us_max = self.election.patience_us(peer.sync_us(), round_trip_us);
            let lacks_few = peer.matched().0 + PROMOTE_LAG_MAX >= last.0;
            peer.ends_short_round(last, round_us_max, now_us) || lacks_few
        });
        let command = Command::Promote { id: id.0 };
        let may_append = self.may_propose(&command).is_ok() && self.check_change(&command).is_ok();
        if !is_ready || !may_append || !self.has_duty_room() {
            return false;
        }
        self.append_command(&command);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(name: &str, incarnation: u64, replaces: Option<u64>) -> Command {
        Command::Join {
            name: name.into(),
            peer_url: "http://peer".into(),
            client_url: "http://client".into(),
            incarnation,
            replaces,
        }
    }

    fn entry(index: u64, command: &Command) -> Entry {
        let mut bytes = Vec::new();
        command::encode(command, &mut bytes);
        Entry {
            term: Term(1),
            index: Index(index),
            body: EntryBody::Good(bytes.into()),
        }
    }

    /// Member 1, a voter, and member 2, a learner.
    fn membership() -> Membership {
        let mut membership = Membership::new(Index(0), Configuration::default());
        membership.on_append(&entry(1, &join("n1", 11, None)));
        membership.on_append(&entry(2, &join("n2", 22, None)));
        membership.on_append(&entry(3, &Command::Promote { id: 1 }));
        membership
    }

    #[test]
    fn a_truncation_takes_a_configuration_back() {
        let mut membership = membership();
        let remove = Command::Remove {
            id: 2,
            for_good: true,
        };
        membership.on_append(&entry(4, &remove));
        assert!(membership.latest().get(PeerId(2)).is_none());
        membership.on_truncate(Index(4));
        assert!(membership.latest().get(PeerId(2)).is_some());
        assert_eq!(membership.latest_index(), Index(3));
        membership.check_invariants(Index(3));
    }

    #[test]
    fn the_configuration_of_an_index_is_the_last_one_before_it() {
        let membership = membership();
        assert_eq!(membership.at(Index(1)).members.len(), 1);
        assert!(!membership.at(Index(2)).is_voter(PeerId(1)));
        assert!(membership.at(Index(9)).is_voter(PeerId(1)));
    }

    #[test]
    fn trimming_keeps_the_configuration_in_force() {
        let mut membership = membership();
        membership.trim(Index(2));
        assert_eq!(membership.history().count(), 2);
        assert_eq!(membership.at(Index(2)).members.len(), 2);
    }

    #[test]
    fn a_change_of_voters_is_open_until_it_is_committed() {
        let mut membership = membership();
        assert!(membership.has_open_voter_change(Index(2)));
        assert!(!membership.has_open_voter_change(Index(3)));
        membership.on_become_leader();
        assert!(!membership.has_open_voter_change(Index(2)));
    }

    #[test]
    fn a_name_belongs_to_one_data_directory() {
        let membership = membership();
        let latest = membership.latest();
        let own_id = PeerId(1);
        let taken = Some(UnfitChange::NameTaken);
        assert_eq!(latest.unfit(&join("n2", 22, None), own_id), None);
        assert_eq!(latest.unfit(&join("n2", 0, None), own_id), None);
        assert_eq!(latest.unfit(&join("n2", 23, None), own_id), taken);
        assert_eq!(latest.unfit(&join("n2", 23, Some(2)), own_id), None);
        assert_eq!(latest.unfit(&join("n1", 12, Some(1)), own_id), taken);
        assert_eq!(latest.unfit(&join("n3", 33, Some(2)), own_id), taken);
    }
}
