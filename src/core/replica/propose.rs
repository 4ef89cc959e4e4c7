//! Proposals: what changes the key space or the cluster goes into the log, or is refused.
//!
//! A refusal before anything was appended is error 300 without a cause, or a redirect to the
//! leader. Start with `Replica::write`, then `Replica::change_members`.
use super::Replica;
use super::forwarding::Destination;
use super::pending::{MemberChange, PROPOSAL_US_MAX, Proposal, Purpose, Waiting};
use super::registry;
use crate::core::command::{ClusterConfig, Command};
use crate::core::error::{Code, Error};
use crate::core::raft::{Index, Member, PeerId, ProposalRefusal, RaftRole, Term, UnfitChange};
use crate::core::seam::{Join, Op, Outcome, Ticket};
use crate::core::timer::Now;

/// The cause when a removal would leave no majority of voters that answer.
const NO_MAJORITY: &str = "too few of the other voters answer";
/// The cause when the disk has no room for client writes.
const DISK_FULL: &str = "disk full";

/// Writes.
impl Replica {
    /// Puts a command on the key space into the log, here or through the leader.
    pub(super) fn write(&mut self, now: Now, ticket: Ticket, command: Command) {
        if let Destination::Leader { to } = self.destination() {
            return self.forward(now, ticket, to, Op::Write(command));
        }
        match self.append_write(now, command) {
            Ok((index, term)) => {
                self.wait_for_entry(now, ticket, index, term, Purpose::Write);
            }
            Err(outcome) => self.answer(ticket, outcome),
        }
    }

    /// Appends a client's command, unless the disk has no room for it.
    ///
    /// # Errors
    ///
    /// What the client is answered if nothing was appended.
    pub(super) fn append_write(
        &mut self,
        now: Now,
        command: Command,
    ) -> Result<(Index, Term), Outcome> {
        if self.is_disk_low && self.raft.role() == RaftRole::Leader {
            return Err(Outcome::Failed(Error::new(Code::RaftInternal, DISK_FULL)));
        }
        match self.raft.propose(now, &command) {
            Ok((index, term)) => {
                self.proposed.add(index, term, command);
                Ok((index, term))
            }
            Err(refusal) => Err(self.outcome_of_refusal(refusal)),
        }
    }

    /// The request of `ticket` was appended: it waits until the entry is applied.
    fn wait_for_entry(
        &mut self,
        now: Now,
        ticket: Ticket,
        index: Index,
        term: Term,
        purpose: Purpose,
    ) {
        let proposal = Proposal {
            ticket,
            index,
            term,
            purpose,
        };
        self.pending
            .add_proposal(now.mono_us + PROPOSAL_US_MAX, proposal);
    }

    /// Appends a command of the leader's own; no client waits for it. `None` if raft refuses.
    pub fn propose_own(&mut self, now: Now, command: &Command) -> Option<Index> {
        self.raft.propose(now, command).ok().map(|(index, _)| index)
    }

    /// What a client is answered about a proposal that raft refused.
    fn outcome_of_refusal(&self, refusal: ProposalRefusal) -> Outcome {
        let failed = |code, cause: &str| Outcome::Failed(Error::new(code, cause));
        match refusal {
            ProposalRefusal::NotLeader(leader) => self
                .redirect(leader)
                .unwrap_or_else(|| failed(Code::RaftInternal, "")),
            ProposalRefusal::Busy => failed(Code::RaftInternal, ""),
            ProposalRefusal::Unfit(UnfitChange::NotAMember) => failed(Code::KeyNotFound, ""),
            ProposalRefusal::Unfit(UnfitChange::LastVoter) => {
                failed(Code::RaftInternal, "the last voter cannot be removed")
            }
            ProposalRefusal::Unfit(UnfitChange::NotALearner) => {
                failed(Code::RaftInternal, "not a learner")
            }
            ProposalRefusal::Unfit(UnfitChange::NameTaken) => failed(Code::PeerAddressExists, ""),
        }
    }

    /// A redirect to a member, unless it is this machine or unknown.
    pub(super) fn redirect(&self, leader: Option<PeerId>) -> Option<Outcome> {
        let leader = leader.filter(|id| *id != self.raft.id())?;
        let member = self.raft.configuration().get(leader)?;
        Some(Outcome::Redirect {
            client_url: member.client_url.clone(),
            peer_url: member.peer_url.clone(),
        })
    }

    /// A redirect to the present leader; error 300 if it is this machine or unknown.
    pub(super) fn redirect_or_fail(&self) -> Outcome {
        self.outcome_of_refusal(ProposalRefusal::NotLeader(self.raft.leader()))
    }

    /// Answers with a redirect to the present leader; with error 300 if it is this machine or
    /// unknown.
    pub fn redirect_to_leader(&mut self, ticket: Ticket) {
        let outcome = self.redirect_or_fail();
        self.answer(ticket, outcome);
    }
}

/// The cluster config.
impl Replica {
    /// Changes the fields that are given, on top of what is proposed already: of two changes at the
    /// same time both count.
    pub(super) fn put_config(
        &mut self,
        now: Now,
        ticket: Ticket,
        active_size: Option<f64>,
        remove_delay_s: Option<f64>,
        sync_interval_s: Option<f64>,
    ) {
        let newest = self.newest_config();
        let config = registry::config_with(newest, active_size, remove_delay_s, sync_interval_s);
        match self.raft.propose(now, &Command::SetConfig(config)) {
            Ok((index, term)) => {
                self.config.on_proposed(term, config);
                self.wait_for_entry(now, ticket, index, term, Purpose::Config);
            }
            Err(refusal) => {
                let outcome = self.outcome_of_refusal(refusal);
                self.answer(ticket, outcome);
            }
        }
    }

    /// The config that this leadership has proposed last, else the one in force.
    fn newest_config(&self) -> ClusterConfig {
        let proposed = self.config.proposed_in(self.raft.term());
        proposed.unwrap_or_else(|| self.config())
    }

    /// The config in force, or the one that a new cluster will get.
    pub fn config(&self) -> ClusterConfig {
        let first = self.settings.cluster;
        let in_force = self.config.in_force();
        in_force.unwrap_or_else(|| registry::config_with(first, None, None, None))
    }

    /// The leader of a new cluster proposes its first config, once in its term.
    pub fn maybe_found(&mut self, now: Now) -> bool {
        let term = self.raft.term();
        let is_proposed = self.config.proposed_in(term).is_some();
        if self.config.in_force().is_some() || is_proposed || !self.leads() {
            return false;
        }
        let config = self.config();
        let index = self.propose_own(now, &Command::SetConfig(config));
        if index.is_some() {
            self.config.on_proposed(term, config);
        }
        index.is_some()
    }
}

/// Membership.
impl Replica {
    /// A leader that was started with other addresses than the cluster knows proposes them itself;
    /// a follower joins again for that. Returns whether nothing is left to do.
    pub fn maybe_move(&mut self, now: Now) -> bool {
        if !self.leads() {
            return false;
        }
        let configuration = self.raft.configuration();
        let Some(own) = configuration.get(self.raft.id()) else {
            return true;
        };
        let client_url = &self.settings.client_url;
        let peer_url = &self.settings.peer_url;
        let others = configuration.members.iter().filter(|m| m.id != own.id);
        let is_taken = others.clone().any(|m| m.peer_url == *peer_url);
        let is_same = own.client_url == *client_url && own.peer_url == *peer_url;
        if is_taken || is_same {
            return true;
        }
        let command = Command::Join {
            name: own.name.clone(),
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
            incarnation: own.incarnation,
            replaces: None,
        };
        self.propose_own(now, &command).is_some()
    }

    /// A machine joins or is removed. While raft is busy with another change this one waits.
    pub(super) fn change_members(&mut self, now: Now, ticket: Ticket, change: MemberChange) {
        let due_us = now.mono_us + PROPOSAL_US_MAX;
        self.pending.add_member_change(ticket, due_us, change);
        self.maybe_change_members(now, ticket);
    }

    /// Tries all changes of membership that wait, in the order in which they came.
    pub(super) fn retry_member_changes(&mut self, now: Now) {
        for ticket in self.pending.member_changes() {
            self.maybe_change_members(now, ticket);
        }
    }

    /// Proposes a change of membership that waits, or refuses it. Returns false if it still waits.
    fn maybe_change_members(&mut self, now: Now, ticket: Ticket) -> bool {
        if self.raft.role() != RaftRole::Leader {
            self.finish(ticket, self.redirect_or_fail());
            return true;
        }
        let Some(Waiting::MemberChange(change)) = self.pending.get(ticket) else {
            return true;
        };
        let made = match &**change {
            MemberChange::Join(join) => self.join_command(now, join),
            MemberChange::Remove(name) => self.remove_command(now, name),
        };
        let (command, purpose) = match made {
            Ok(made) => made,
            Err(error) => {
                self.finish(ticket, Outcome::Failed(error));
                return true;
            }
        };
        match self.raft.propose(now, &command) {
            Ok((index, term)) => {
                self.pending.take(ticket);
                self.wait_for_entry(now, ticket, index, term, purpose);
            }
            Err(ProposalRefusal::Busy) => return false,
            Err(refusal) => self.finish(ticket, self.outcome_of_refusal(refusal)),
        }
        true
    }

    fn join_command(&self, now: Now, join: &Join) -> Result<(Command, Purpose), Error> {
        let members = self.raft.configuration();
        let is_heard = |member: &Member| self.raft.is_heard(now, member.id);
        let command = registry::join(members, &self.newest_config(), join, is_heard)?;
        Ok((command, Purpose::Join))
    }

    /// A removal takes effect when it is appended. One that leaves no majority of voters that
    /// answer would never commit, nor would any entry after it.
    fn remove_command(&self, now: Now, name: &str) -> Result<(Command, Purpose), Error> {
        let configuration = self.raft.configuration();
        let Some(member) = configuration.by_name(name) else {
            return Err(Error::new(Code::KeyNotFound, name));
        };
        // The last voter is refused by raft itself, with a cause of its own.
        let is_last_voter = configuration.voters().eq([member.id]);
        if !is_last_voter && !self.raft.can_remove(now, member.id) {
            return Err(Error::new(Code::RaftInternal, NO_MAJORITY));
        }
        let command = Command::Remove { id: member.id.0 };
        Ok((command, Purpose::Remove))
    }
}
