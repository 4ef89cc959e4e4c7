//! A member that is said to have lost its place: it asks before it wipes anything.
//!
//! A member must leave, wipe its data and join again as a new member if it was removed, or if its
//! disk holds an old copy of the data. The claim reaches it in three ways, and each may be a lie of
//! a faulty peer, or an error of a peer's memory:
//!
//! - *a notice* of a peer that it was removed;
//! - *a leader's append* that counts more acknowledgements than its log has (`raft::lost_tail`);
//! - *its own log*, where its removal is committed. A faulty leader can have written it there
//!   alone.
//!
//! So each begins a survey ([`Goal::Confirm`]) over connections of its own. The leader is asked
//! first, then the other members, and the claiming peer last: an error of that peer would be in
//! its answer as well. A former member that is a standby now names the leader that it knows. A
//! machine that has applied this member's join, and does not list it, confirms a removal; the
//! leader confirms lost entries. Then the data is wiped. If the leader lists this member, or none
//! confirms, nothing is.
//!
//! Meanwhile the member behaves as follows:
//!
//! - After a notice it goes on, voting included. A removal is committed under a configuration
//!   without the member, whose majorities do not count it, so its votes do no harm. The obvious
//!   version, which mutes it until the survey ends, lets one faulty member of three stop the
//!   cluster: it sends a notice to another one each second.
//! - After an append that counts too much it is mute (`raft::lost_tail`).
//! - With its own removal applied it takes part no more, and redirects clients like a standby. It
//!   keeps its data, and asks until the removal is confirmed.
//!
//! A member that holds no data yet has none to lose: a notice is enough. Start with
//! [`MemberMode::take_claims`].
use super::Common;
use super::finder::{Finder, Goal, Search, SearchOutcome};
use super::member::MemberMode;
use super::standby::JoinFrom;
use crate::core::raft::{Index, PeerId, RaftNotice};
use crate::core::seam::{Fact, MemberPlace, PlaceDoubt};
use crate::core::timer::Now;

/// How many election timeouts pass between two surveys.
const SURVEY_TIMEOUTS: u64 = 2;

impl MemberMode {
    /// Begins a survey if a peer has said that this member has lost its place.
    pub(super) fn take_claims(&mut self, now: Now, common: &mut Common) {
        for claim in self.replica.take_claims() {
            if self.is_running() && !self.is_stopping() {
                self.on_claim(now, claim, common);
            }
        }
    }

    fn on_claim(&mut self, now: Now, claim: RaftNotice, common: &mut Common) {
        if self.has_no_cluster_data() && self.replica.raft().last_index() == Index(0) {
            return self.leave(JoinFrom::Now, Fact::Removed, common);
        }
        let is_asking = self.finder.as_ref().is_some_and(Finder::confirms);
        if is_asking || now.mono_us < self.claims.next_us {
            return;
        }
        let own_cluster = self.replica.raft().snapshot().cluster;
        let last = self.replica.raft().last_index();
        let (by, cluster, asked_last) = match claim {
            RaftNotice::Removed { by, cluster } => (by, cluster, None),
            RaftNotice::LostTail { by } => (by, own_cluster, Some(last)),
        };
        self.claims.asked_last = asked_last;
        let (name, address) = common.peers.name_and_address(by);
        if !self.claims.is_reported {
            let is_removal = matches!(claim, RaftNotice::Removed { .. });
            self.report(Fact::PlaceDoubted(PlaceDoubt {
                by: name,
                address: address.clone(),
                is_removal,
            }));
        }
        self.claims.has_replaced = self.finder.is_some();
        self.ask_others(now, cluster, Some((by, address)), common);
    }

    /// This member's removal is applied here: asks whether others have applied it as well.
    pub(super) fn confirm_removal(&mut self, now: Now, common: &mut Common) {
        let cluster = self.replica.raft().snapshot().cluster;
        self.claims.has_replaced = false;
        self.claims.asked_last = None;
        self.ask_others(now, cluster, None, common);
    }

    /// Begins a survey. The peer that made the claim is asked last, unless it is the leader.
    fn ask_others(
        &mut self,
        now: Now,
        cluster: u64,
        claimant: Option<(PeerId, Box<str>)>,
        common: &mut Common,
    ) {
        let raft = self.replica.raft();
        let leader = raft.leader();
        let claimant_id = claimant.as_ref().map(|(id, _)| *id);
        let mut members: Vec<_> = raft.configuration().members.iter().collect();
        members.retain(|m| m.id != raft.id());
        members.sort_by_key(|m| (Some(m.id) != leader, Some(m.id) == claimant_id));
        let mut known: Vec<Box<str>> = members.iter().map(|m| m.peer_url.clone()).collect();
        known.extend(claimant.map(|(_, address)| address));
        let search = Search {
            known,
            attempts_max: 1,
            discovery: None,
            ..common.search.clone()
        };
        let goal = Goal::Confirm(MemberPlace {
            cluster,
            id: raft.id(),
            last: self.claims.asked_last,
        });
        let last_call = common.next_search();
        let mut finder = Finder::new(
            common.introduction(),
            search,
            goal,
            now.mono_us,
            last_call,
            common.seed,
        );
        let outcome = finder.on_time(now);
        self.finder = Some(finder);
        self.on_search(now, outcome, common);
    }

    /// The outcome of a survey.
    pub(super) fn on_confirm(&mut self, now: Now, outcome: SearchOutcome, common: &mut Common) {
        self.finder = None;
        // Removed while running: as a standby, wait one sync interval before joining. Found removed
        // at start: join at once, because the place was lost unnoticed.
        let join_from = if self.replica.had_leader() {
            JoinFrom::NextInterval
        } else {
            JoinFrom::Now
        };
        match outcome {
            SearchOutcome::Unlisted => self.leave(join_from, Fact::Removed, common),
            SearchOutcome::Barred => self.leave(JoinFrom::Never, Fact::Barred, common),
            SearchOutcome::LostEntries if self.is_tail_as_asked() => {
                self.leave(JoinFrom::Now, Fact::Amnesia, common);
            }
            SearchOutcome::Listed => self.on_unconfirmed(now, true, common),
            _ => self.on_unconfirmed(now, false, common),
        }
    }

    /// Whether the leader's claim of lost entries is not decided, and about the present log.
    fn is_tail_as_asked(&self) -> bool {
        let raft = self.replica.raft();
        raft.is_tail_doubted() && self.claims.asked_last == Some(raft.last_index())
    }

    fn on_unconfirmed(&mut self, now: Now, is_listed: bool, common: &mut Common) {
        self.claims.next_us = now.mono_us + self.timeouts_us(SURVEY_TIMEOUTS);
        let is_new = !std::mem::replace(&mut self.claims.is_reported, true);
        if is_new {
            self.report(Fact::PlaceKept { is_listed });
        }
        if !std::mem::take(&mut self.claims.has_replaced) {
            return;
        }
        if self.has_no_cluster_data() {
            self.schedule_rejoin(now, common);
        } else {
            let last_call = common.next_search();
            self.look(now.mono_us, last_call, common);
        }
    }

    /// When a member that has applied its own removal asks again, in microseconds of the monotonic
    /// clock; `None` while a survey is under way.
    pub(super) fn next_survey_us(&self) -> Option<u64> {
        self.finder.is_none().then_some(self.claims.next_us)
    }
}
