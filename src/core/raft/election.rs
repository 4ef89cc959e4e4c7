//! Leader election (thesis 3.4, 3.6.1), pre-vote and leases (9.6, 4.2.3), and hand-over (3.10).
//!
//! Who may campaign, who gets a vote, when a leader is missed. Terms themselves are followed in
//! `admit`; becoming leader is in `raft`. Start reading at `on_election_timeout`.
use super::fault::RaftFault;
use super::replication::UNCOMMITTED_BYTES_MAX;
use super::{Index, PeerId, Progress, ProposalRefusal, Raft, RaftRole, Rpc, Term};
use crate::core::random::{SPLITMIX_STEP, splitmix64};
use crate::core::timer::Now;

/// A hand-over in progress: proposals wait until the target leads or the deadline has passed.
pub struct Transfer {
    target: PeerId,
    deadline_us: u64,
    told: bool,
}

impl Raft {
    /// How long somebody may be silent whose slowest sync took `sync_us`, since it may hear and say
    /// nothing meanwhile: the election timeout, or three times that sync.
    pub(super) fn patience_us(&self, sync_us: u32) -> u64 {
        self.election_us.max(3 * u64::from(sync_us))
    }

    /// How long an answer may take that waits for the disks of any who are known here.
    pub(super) fn timeout_us(&self) -> u64 {
        let peers = self.peers.iter().map(|p| p.sync_us).max().unwrap_or(0);
        self.patience_us(self.slowest.worst_us().max(peers).max(self.leader_sync_us))
    }

    /// Draws the next timeout, by up to an election timeout longer than the least, or half of that,
    /// so that votes seldom split (3.4). Votes wait for disks; a leader is missed as soon as
    /// its own disk allows; a pre-vote waits for none.
    pub(super) fn reset_election_timer(&mut self) {
        let voted = self.leader.is_none() && self.voted_for.is_some_and(|id| id != self.id);
        let least_us = match self.role {
            RaftRole::PreCandidate => self.election_us,
            RaftRole::Follower if !voted => self.patience_us(self.leader_sync_us),
            RaftRole::Follower | RaftRole::Candidate | RaftRole::Leader => self.timeout_us(),
        };
        self.election_due = self.draw_due(least_us);
    }

    pub(super) fn draw_due(&mut self, least_us: u64) -> u64 {
        self.now_us + least_us + self.draw() % self.election_us.max(least_us / 2)
    }

    /// The next number of this member's splitmix64 sequence.
    fn draw(&mut self) -> u64 {
        let number = splitmix64(self.random);
        self.random = self.random.wrapping_add(SPLITMIX_STEP);
        number
    }

    /// A leader was heard within an election timeout, or leads here: nobody needs a new one
    /// (4.2.3). A candidate knows of no leader.
    pub(super) fn is_lease_live(&self) -> bool {
        let fresh = self.now_us < self.contact_us + self.patience_us(self.leader_sync_us);
        self.role == RaftRole::Leader || (self.leader.is_some() && fresh)
    }

    /// A voter whose log is whole. One whose removal is merely appended still may (4.2.2); a
    /// learner never does.
    pub(super) fn may_campaign(&self) -> bool {
        let votes = self.configuration().is_voter(self.id)
            || self.committed_configuration().is_voter(self.id);
        let whole = self.log.first_unsound().is_none() || self.has(RaftFault::DamageIgnored);
        let installing = self.incoming.as_ref().is_some_and(|i| i.done);
        votes && whole && !installing && !self.amnesia
    }

    /// Nobody else's vote counts.
    pub(super) fn is_lone_voter(&self) -> bool {
        self.configuration().voters().eq([self.id])
    }

    pub(super) fn on_election_timeout(&mut self) {
        if self.role == RaftRole::Candidate && self.synced < self.state_lsn {
            // The disk is slower than the timeout: a new term would only start the same wait again.
            self.reset_election_timer();
        } else if self.may_campaign() {
            self.become_pre_candidate();
        } else {
            self.become_follower(self.current_term, None);
            self.maybe_advance_term();
            self.reset_election_timer();
        }
    }

    pub(super) fn request_votes(&mut self, pre: bool, hand_over: bool) {
        let term = Term(self.current_term.0 + u64::from(pre));
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        let voters = self.configuration().voters();
        let others: Vec<PeerId> = voters.filter(|id| *id != self.id).collect();
        for to in others {
            let rpc = Rpc::RequestVote {
                pre,
                hand_over,
                last_index,
                last_term,
            };
            self.send_in(to, term, rpc);
        }
    }

    pub(super) fn send_vote(&mut self, to: PeerId, pre: bool, granted: bool, term: Term) {
        let rpc = Rpc::Vote { pre, granted };
        if self.has(RaftFault::VoteBeforeSync) {
            let message = super::Message { term, rpc };
            return self.out.messages.push((to, message));
        }
        self.send_in(to, term, rpc);
    }

    /// The log of the candidate is at least as good as this one: the later last term wins, then the
    /// longer log (3.6.1). The full log counts, damaged entries included, or a committed entry
    /// could be voted away.
    fn is_up_to_date(&self, last: (Term, Index)) -> bool {
        let own = (self.log.last_term(), self.log.last_index());
        if self.has(RaftFault::CompareByLength) {
            return last.1 >= own.1;
        }
        if self.has(RaftFault::CompareByTerm) {
            return last.0 >= own.0;
        }
        last >= own
    }

    /// Leases and terms have been looked at. A candidate that is not in the configuration here gets
    /// its vote like any other (4.2.2): the configuration may be what is missing here.
    pub(super) fn on_request_vote(
        &mut self,
        from: PeerId,
        term: Term,
        pre: bool,
        last: (Term, Index),
    ) {
        let good = self.is_up_to_date(last) && !self.amnesia;
        self.repair.on_candidate(from);
        if pre {
            let later = term > self.current_term;
            let granted = good && later;
            if later && !good && self.role != RaftRole::Candidate && self.may_campaign() {
                // Somebody misses a leader and cannot be it: one with a better log should not wait
                // for long.
                self.election_due = self
                    .election_due
                    .min(self.now_us + self.draw() % self.election_us);
            }
            return self.send_vote(
                from,
                true,
                granted,
                if granted { term } else { self.current_term },
            );
        }
        let free = self.voted_for.is_none_or(|id| id == from) || self.has(RaftFault::VoteTwice);
        let granted = good && free;
        if granted {
            if self.voted_for != Some(from) {
                self.set_term(self.current_term, Some(from));
            }
            self.reset_election_timer();
        }
        self.send_vote(from, false, granted, self.current_term);
    }

    pub(super) fn on_vote(&mut self, from: PeerId, pre: bool, granted: bool) {
        let asked = self.role
            == if pre {
                RaftRole::PreCandidate
            } else {
                RaftRole::Candidate
            };
        if asked && granted && !self.votes.contains(&from) {
            self.votes.push(from);
            self.maybe_win();
        }
    }

    /// The own vote counts once it is durable, like any other.
    pub(super) fn maybe_count_own_vote(&mut self) {
        if self.synced >= self.state_lsn && !self.votes.contains(&self.id) {
            self.votes.push(self.id);
            self.maybe_win();
        }
    }

    pub(super) fn maybe_win(&mut self) -> bool {
        let configuration = self.configuration();
        let votes = self.votes.iter().filter(|v| configuration.is_voter(**v));
        if votes.count() < configuration.majority() {
            return false;
        }
        match self.role {
            RaftRole::PreCandidate => self.become_candidate(false),
            RaftRole::Candidate => self.become_leader(),
            RaftRole::Follower | RaftRole::Leader => unreachable!("only candidates count votes"),
        }
        true
    }

    /// A leader that has not heard a majority for an election timeout cannot commit, and its
    /// clients should look for another one (6.2).
    pub(super) fn maybe_step_down(&mut self) -> bool {
        if self.has(RaftFault::NoCheckQuorum)
            || self.is_majority(|p| !self.is_silent(p, self.now_us))
        {
            return false;
        }
        self.become_follower(self.current_term, None);
        true
    }

    // -- hand-over (3.10)

    /// Starts handing over to `to`, or to the most caught-up voter: proposals are refused until it
    /// leads, or until an election timeout has passed. False when there is nobody to hand over
    /// to.
    pub fn hand_over(&mut self, now: Now, to: Option<PeerId>) -> bool {
        self.now_us = now.mono_us;
        let target = match to {
            Some(id) => self
                .peers
                .iter()
                .find(|p| p.id == id && p.voter)
                .map(|p| p.id),
            None => self.best_successor(),
        };
        let Some(target) = target.filter(|_| self.role == RaftRole::Leader) else {
            return false;
        };
        self.transfer = Some(Transfer {
            target,
            deadline_us: self.now_us + self.timeout_us(),
            told: false,
        });
        self.maybe_hand_over();
        self.check_invariants();
        true
    }

    /// The voter with the longest log among those that answer.
    pub(super) fn best_successor(&self) -> Option<PeerId> {
        let voters = self.peers.iter().filter(|p| p.voter);
        let best =
            voters.max_by_key(|p| (!self.is_silent(p, self.now_us) && p.answered, p.matched));
        best.map(|p| p.id)
    }

    /// Tells the target once it has everything; gives up at the deadline.
    pub(super) fn maybe_hand_over(&mut self) {
        let Some(Transfer {
            target,
            deadline_us,
            told,
        }) = self.transfer
        else {
            return;
        };
        if self.now_us >= deadline_us {
            self.transfer = None;
            return;
        }
        let last = self.log.last_index();
        if !told
            && self
                .peers
                .iter()
                .any(|p| p.id == target && p.voter && p.matched == last)
        {
            self.transfer = Some(Transfer {
                target,
                deadline_us,
                told: true,
            });
            self.send(target, Rpc::TimeoutNow);
        }
    }

    /// Whether proposals are refused until another member leads.
    pub fn is_handing_over(&self) -> bool {
        self.transfer.is_some()
    }

    pub(super) fn may_propose(&self) -> Result<(), ProposalRefusal> {
        if self.role != RaftRole::Leader {
            return Err(ProposalRefusal::NotLeader(self.leader));
        }
        if self.transfer.is_some() {
            return Err(ProposalRefusal::NotLeader(Some(self.id)));
        }
        if self.uncommitted_bytes > UNCOMMITTED_BYTES_MAX || self.is_held_up() {
            return Err(ProposalRefusal::Busy);
        }
        Ok(())
    }

    /// The leader wants this member to take over: no pre-vote, and its votes overrule leases.
    pub(super) fn on_timeout_now(&mut self, from: PeerId) {
        if self.role == RaftRole::Follower && self.leader == Some(from) && self.may_campaign() {
            self.become_candidate(true);
        }
    }

    /// Nothing has come from it since something was sent to it, for longer than its disk may take.
    /// What stalls this machine counts for nothing: then nothing was sent, or the answer was
    /// read before the timers are looked at.
    pub(super) fn is_silent(&self, peer: &Progress, now_us: u64) -> bool {
        now_us > peer.asked_us.saturating_add(self.patience_us(peer.sync_us))
    }

    /// Whether the voters of whom `holds` is true are a majority with this member.
    pub(super) fn is_majority(&self, holds: impl Fn(&Progress) -> bool) -> bool {
        let peers = self.peers.iter().filter(|p| p.voter && holds(p)).count();
        let own = usize::from(self.configuration().is_voter(self.id));
        peers + own >= self.configuration().majority()
    }
}
