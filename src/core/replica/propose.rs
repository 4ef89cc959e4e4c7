//! Proposals: what clients want to change goes into the log, or is refused.
//!
//! A refusal before anything was appended is error 300 without a cause, or a redirect to the
//! leader. Start with `Replica::write`, then `Replica::change` for membership.
use super::Replica;
use super::pending::{Asker, PROPOSAL_US_MAX, Proposal};
use super::registry;
use crate::core::command::{ClusterConfig, Command};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::raft::{Index, PeerId, ProposalRefusal, RaftRole, Term, UnfitChange};
use crate::core::seam::{Join, Op, Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::VecDeque;

/// The cause when the log has another entry in the place of a proposal.
pub const NOT_COMMITTED: &str = "not committed";
/// The cause when a removal would stop the cluster.
const NO_MAJORITY: &str = "too few of the other voters answer";
/// The cause when there is no room for client writes.
const DISK_FULL: &str = "disk full";

/// A change of membership that somebody asks for.
#[derive(Clone, Debug)]
pub enum Wish {
    Join(Join),
    /// By name.
    Remove(Box<str>),
}

struct Waiting {
    ticket: Ticket,
    wish: Wish,
    due_us: u64,
}

/// Changes of membership that wait until raft takes one again; bounded by the number of
/// connections.
#[derive(Default)]
pub struct Changes {
    queue: VecDeque<Waiting>,
}

impl Changes {
    pub fn forget(&mut self, ticket: Ticket) {
        self.queue.retain(|w| w.ticket != ticket);
    }

    pub fn next_deadline(&self) -> u64 {
        self.queue.front().map_or(u64::MAX, |w| w.due_us)
    }
}

// -- writes
impl Replica {
    /// Puts a command on the key space into the log, here or through the leader.
    pub fn write(&mut self, now: Now, ticket: Ticket, command: Command) {
        if let Some(leader) = self.leader_to_ask() {
            return self.pass_on(now, ticket, leader, Op::Write(command));
        }
        if let Err(outcome) = self.propose_write(now, &command, Asker::Write(ticket)) {
            self.answer(ticket, outcome);
        }
    }

    pub(super) fn propose_write(
        &mut self,
        now: Now,
        command: &Command,
        asker: Asker,
    ) -> Result<(), Outcome> {
        let (index, term) = self.append_write(now, command)?;
        self.parked
            .push(now.mono_us + PROPOSAL_US_MAX, index, term, asker);
        Ok(())
    }

    /// A client's command, which a full disk has no room for.
    pub(super) fn append_write(
        &mut self,
        now: Now,
        command: &Command,
    ) -> Result<(Index, Term), Outcome> {
        if self.disk_low && self.raft.role() == RaftRole::Leader {
            return Err(Outcome::Failed(Error::new(Code::RaftInternal, DISK_FULL)));
        }
        self.raft
            .propose(now, command)
            .map_err(|refusal| self.refused(refusal))
    }

    fn propose(
        &mut self,
        now: Now,
        command: &Command,
        asker: Asker,
    ) -> Result<(), ProposalRefusal> {
        let (index, term) = self.raft.propose(now, command)?;
        self.parked
            .push(now.mono_us + PROPOSAL_US_MAX, index, term, asker);
        Ok(())
    }

    /// The leader's own command, which nobody waits for.
    pub fn propose_own(&mut self, now: Now, command: &Command) -> Option<Index> {
        self.raft.propose(now, command).ok().map(|(index, _)| index)
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, refusal: ProposalRefusal) {
        let outcome = self.refused(refusal);
        self.answer(ticket, outcome);
    }

    /// What is told about a proposal that raft did not take.
    fn refused(&self, refusal: ProposalRefusal) -> Outcome {
        let failed = |code, cause: &str| Outcome::Failed(Error::new(code, cause));
        match refusal {
            ProposalRefusal::NotLeader(leader) => {
                let none = failed(Code::RaftInternal, "");
                self.redirect(leader).unwrap_or(none)
            }
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

    /// To the leader, if it is another machine and known.
    pub(super) fn redirect(&self, leader: Option<PeerId>) -> Option<Outcome> {
        let leader = leader.filter(|id| *id != self.raft.id())?;
        let member = self.raft.configuration().get(leader)?;
        Some(Outcome::Redirect {
            client_url: member.client_url.clone(),
            peer_url: member.peer_url.clone(),
        })
    }

    /// To the present leader; error 300 while there is none.
    pub fn redirect_to_leader(&mut self, ticket: Ticket) {
        self.refuse(ticket, ProposalRefusal::NotLeader(self.raft.leader()));
    }

    /// Tells those who have waited too long.
    pub(super) fn expire_proposals(&mut self, now: Now) {
        if self.parked.next_deadline() <= now.mono_us {
            let mut lost = Vec::new();
            self.parked.take_lost(now.mono_us, Index(0), &mut lost);
            self.tell_lost(lost);
        }
    }

    pub(super) fn tell_lost(&mut self, lost: Vec<Proposal>) {
        for proposal in lost {
            let error = Error::new(Code::RaftInternal, OUTCOME_UNKNOWN);
            self.tell(proposal.asker, Outcome::Failed(error));
        }
    }

    /// Answers who asked for a proposal.
    pub(super) fn tell(&mut self, asker: Asker, outcome: Outcome) {
        match asker {
            Asker::SpeedTest(ticket) => self.on_speed_set(ticket, outcome),
            Asker::Write(ticket)
            | Asker::Config(ticket)
            | Asker::Remove(ticket)
            | Asker::Join(ticket) => self.answer(ticket, outcome),
        }
    }
}

// -- the cluster config
impl Replica {
    /// Changes the fields that are given; on top of what is proposed already, so that two changes
    /// at once both count.
    pub fn put_config(
        &mut self,
        now: Now,
        ticket: Ticket,
        size: Option<f64>,
        delay_s: Option<f64>,
        interval_s: Option<f64>,
    ) {
        let config = registry::config_with(self.newest_config(), size, delay_s, interval_s);
        match self.propose(now, &Command::SetConfig(config), Asker::Config(ticket)) {
            Ok(()) => self.proposed = Some((self.raft.term(), config)),
            Err(refusal) => self.refuse(ticket, refusal),
        }
    }

    fn newest_config(&self) -> ClusterConfig {
        match self.proposed {
            Some((term, config)) if term == self.raft.term() => config,
            Some(_) | None => self.config(),
        }
    }

    /// The config in force, or the one that a new cluster will get.
    pub fn config(&self) -> ClusterConfig {
        let first = self.settings.cluster;
        self.config
            .unwrap_or_else(|| registry::config_with(first, None, None, None))
    }

    /// A new cluster's leader gives it its first config.
    pub fn maybe_found(&mut self, now: Now) {
        let term = self.raft.term();
        let asked = self.proposed.is_some_and(|(of, _)| of == term);
        if self.config.is_some() || asked || !self.leads() {
            return;
        }
        let config = self.config();
        if self.propose_own(now, &Command::SetConfig(config)).is_some() {
            self.proposed = Some((term, config));
        }
    }
}

// -- membership
impl Replica {
    /// A leader that was started with other addresses tells the cluster itself; who follows asks it
    /// to. False as long as it has not come to that.
    pub fn maybe_move(&mut self, now: Now) -> bool {
        if !self.leads() {
            return false;
        }
        let Some(own) = self.raft.configuration().get(self.raft.id()) else {
            return true;
        };
        let (client_url, peer_url) = (&self.settings.client_url, &self.settings.peer_url);
        let others = self
            .raft
            .configuration()
            .members
            .iter()
            .filter(|m| m.id != own.id);
        let taken = others.clone().any(|m| m.peer_url == *peer_url);
        if taken || (&own.client_url, &own.peer_url) == (client_url, peer_url) {
            return true;
        }
        let command = Command::Join {
            name: own.name.clone(),
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
            incarnation: own.incarnation,
            replaces: 0,
        };
        self.propose_own(now, &command).is_some()
    }

    /// A machine joins or leaves. While raft is busy with another change this one waits its turn.
    pub fn change(&mut self, now: Now, ticket: Ticket, wish: Wish) {
        let due_us = now.mono_us + PROPOSAL_US_MAX;
        self.try_change(
            now,
            Waiting {
                ticket,
                wish,
                due_us,
            },
        );
    }

    fn try_change(&mut self, now: Now, waiting: Waiting) {
        let ticket = waiting.ticket;
        if self.raft.role() != RaftRole::Leader {
            return self.redirect_to_leader(ticket);
        }
        let made = match &waiting.wish {
            Wish::Join(join) => self.joining(now, ticket, join),
            Wish::Remove(name) => self.removing(now, ticket, name),
        };
        let (command, asker) = match made {
            Ok(made) => made,
            Err(error) => return self.answer(ticket, Outcome::Failed(error)),
        };
        match self.propose(now, &command, asker) {
            Ok(()) => {}
            Err(ProposalRefusal::Busy) if now.mono_us < waiting.due_us => {
                self.changes.queue.push_back(waiting);
            }
            Err(refusal) => self.refuse(ticket, refusal),
        }
    }

    fn joining(&self, now: Now, ticket: Ticket, join: &Join) -> Result<(Command, Asker), Error> {
        let members = self.raft.configuration();
        let heard = |m: &crate::core::raft::Member| self.raft.is_heard(now, m.id);
        let command = registry::join(members, &self.newest_config(), join, heard)?;
        Ok((command, Asker::Join(ticket)))
    }

    /// A removal takes effect when it is appended: one that leaves no majority of voters that
    /// answer would never commit, nor would anything after it.
    fn removing(&self, now: Now, ticket: Ticket, name: &str) -> Result<(Command, Asker), Error> {
        let configuration = self.raft.configuration();
        let member = configuration.by_name(name);
        let member = member.ok_or_else(|| Error::new(Code::KeyNotFound, name))?;
        if !self.raft.can_remove(now, member.id) && !configuration.voters().eq([member.id]) {
            return Err(Error::new(Code::RaftInternal, NO_MAJORITY));
        }
        let command = Command::Remove { id: member.id.0 };
        Ok((command, Asker::Remove(ticket)))
    }

    pub(super) fn retry_changes(&mut self, now: Now) {
        for waiting in std::mem::take(&mut self.changes.queue) {
            self.try_change(now, waiting);
        }
    }

    pub(super) fn fail_changes(&mut self) {
        for waiting in std::mem::take(&mut self.changes.queue) {
            self.redirect_to_leader(waiting.ticket);
        }
    }
}
