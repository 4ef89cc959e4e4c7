//! Leader election: timeouts and votes (thesis 3.4, 3.6.1), pre-vote and leases (9.6, 4.2.3),
//! check-quorum (6.2).
//!
//! Decides when a leader is missed, which member may campaign and which candidate gets a vote. The
//! rules of terms stand in `Raft::admit`, the changes of role in `raft`, the hand-over of
//! leadership in `handover`. Start reading at [`Election`], then `Raft::on_election_timeout`.
//!
//! # Timeouts adapt to the disks
//!
//! A vote and an acknowledgement wait for a sync, and on a slow disk a sync takes longer than the
//! configured election timeout. If members did not wait for it, they would elect without end. So
//! each member measures its disk (`sync_times`), tells the value in each append and reply, and
//! waits at least three times the slowest disk that the answer depends on.
//!
//! # Timeouts adapt to the links
//!
//! On a long or lossy line an answer takes longer too. Each of these timeouts adds three times the
//! second slowest round trip of the links that it depends on, at most 3 s (`round_trips`).
//!
//! A leader of an idle cluster sends fewer heartbeats (`replication`), and says so in each: its
//! followers wait as much longer as the next one comes later.
//!
//! No commit and no read rests on these times: commits are counted, reads are confirmed by a round
//! of heartbeats. A follower must keep its word: as long as it denies votes because of its leader,
//! it does not campaign itself, `lease <= timer`. Lease and timer use the figures of the leader's
//! last append, which restarts both. A smaller figure ends the lease earlier; a larger one comes only
//! with such an append. `Election::check_invariants` compares the two.
//!
//! The random part of a timeout grows with both as well: a candidate's requests leave after a sync
//! of its own and need half a round trip. A second candidate within that time would split the votes.
use super::message::{Configuration, Index, LeaderReading, PeerId, Rpc, Term};
use super::round_trips::allowance_us;
use super::sync_times::SyncTimes;
use super::{Progress, Raft, RaftRole};
use crate::core::random::SplitMix64;
use crate::core::timer::Now;

/// An answer that waits for a sync is given this many times the duration of a slow sync.
const SYNC_PATIENCE_FACTOR: u64 = 3;

/// The random part of an election timeout is at least this many times the time that the requests of
/// a candidate need to reach the others. With two followers, three elections of four have one
/// candidate only; `Election::maybe_stand_back` spares most of the others.
const SPREAD_FACTOR: u64 = 4;

/// When the process of the leader has ended, its followers campaign within this time, in
/// microseconds, unless a candidacy needs longer to become known.
const ENDED_SPREAD_US: u64 = 50_000;

/// A member without room skips this many campaigns: the other voters have this many election
/// timeouts to elect a leader.
const DEFERRED_MAX: u8 = 3;

/// The timers of elections and the votes of a campaign.
///
/// All times are in microseconds of the monotonic clock.
pub struct Election {
    /// The configured election timeout; at least 1 ms. Never changes.
    timeout_us: u64,

    /// Draws the random part of timeouts, so that votes seldom split (thesis 3.4).
    random: SplitMix64,

    /// When this member campaigns, or gives a campaign up for the next one. `None` on a leader.
    deadline_us: Option<u64>,

    /// When the leader of this term, or an earlier one, was last heard. Meaningful only while a
    /// leader is known.
    leader_heard_us: u64,

    /// The second slowest recent sync of the leader, as its last append told, in microseconds. 0
    /// after the link to the leader broke: the process of a leader that is gone waits for no disk.
    leader_sync_us: u32,

    /// The second slowest recent round trip between the leader and this member, as the leader's last
    /// append told, in microseconds. 0 after the link to the leader broke.
    leader_round_trip_us: u32,

    /// How much later than usual the next heartbeat of the leader comes, as its last append told, in
    /// microseconds. 0 after the link to the leader broke.
    leader_pause_us: u32,

    /// The leader whose last append set the three figures above.
    figures_of: Option<PeerId>,

    /// How many campaigns this member has skipped for want of room since a leader was heard; at
    /// most `DEFERRED_MAX`.
    deferred: u8,

    /// Whether this member has left the campaign to another pre-candidate since a leader was heard.
    has_stood_back: bool,

    /// The syncs of this machine.
    own_syncs: SyncTimes,

    /// The members that granted their vote, or pre-vote, in this campaign. This member is one of
    /// them once its own vote is durable. Empty unless this member is a candidate.
    votes: Vec<PeerId>,
}

impl Election {
    /// No leader is known and no timer runs: `restart` starts it.
    pub fn new(timeout_us: u64, seed: u64, now_us: u64) -> Election {
        Election {
            timeout_us,
            random: SplitMix64::new(seed),
            deadline_us: None,
            leader_heard_us: now_us,
            leader_sync_us: 0,
            leader_round_trip_us: 0,
            leader_pause_us: 0,
            deferred: 0,
            has_stood_back: false,
            figures_of: None,
            own_syncs: SyncTimes::default(),
            votes: Vec::new(),
        }
    }

    // -- times

    /// The configured election timeout.
    pub fn timeout_us(&self) -> u64 {
        self.timeout_us
    }

    /// How long to wait for an answer of a member whose slow syncs take `sync_us`, over a link whose
    /// slow round trips take `round_trip_us`. During a sync the member may neither read nor write.
    pub fn patience_us(&self, sync_us: u32, round_trip_us: u32) -> u64 {
        let syncs_us = SYNC_PATIENCE_FACTOR * u64::from(sync_us);
        self.timeout_us.max(syncs_us) + allowance_us(round_trip_us)
    }

    /// How long to wait for the leader.
    pub fn leader_patience_us(&self) -> u64 {
        let pause_us = u64::from(self.leader_pause_us).min(self.timeout_us);
        self.patience_us(self.leader_sync_us, self.leader_round_trip_us) + pause_us
    }

    /// How long to wait for an answer that depends on the disks of this member, of the leader and
    /// of peers whose slow syncs take up to `peers_sync_us`, and on links whose slow round trips
    /// take up to `round_trip_us`.
    pub fn answer_patience_us(&self, peers_sync_us: u32, round_trip_us: u32) -> u64 {
        let sync_us = self.own_sync_us().max(peers_sync_us);
        self.patience_us(sync_us.max(self.leader_sync_us), round_trip_us)
    }

    /// The second slowest recent sync of this machine.
    pub fn own_sync_us(&self) -> u32 {
        self.own_syncs.second_slowest_us()
    }

    /// A sync of this machine that took `took_us` has ended.
    pub fn on_synced(&mut self, now_us: u64, took_us: u64) {
        self.own_syncs.record(now_us, took_us);
    }

    // -- the timer

    /// When the election timeout is due; `None` on a leader.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// Whether the election timeout is due.
    pub fn is_due(&self, now_us: u64) -> bool {
        self.deadline_us.is_some_and(|at_us| at_us <= now_us)
    }

    /// Starts the timer anew: it is due after `least_us` and a random time (`draw_deadline`).
    pub fn restart(&mut self, least_us: u64, round_trip_us: u32, now_us: u64) {
        self.deadline_us = Some(self.draw_deadline(least_us, round_trip_us, now_us));
    }

    /// A time `least_us` from now and a random time more. Of the following times the longest is the
    /// limit of the random one: the election timeout, half of `least_us`, and a multiple of the time
    /// that a candidacy of this member needs to become known over links whose slow round trips take
    /// up to `round_trip_us`.
    fn draw_deadline(&mut self, least_us: u64, round_trip_us: u32, now_us: u64) -> u64 {
        let spread_us = self.timeout_us.max(least_us / 2);
        let spread_us = spread_us.max(SPREAD_FACTOR * self.candidacy_us(round_trip_us));
        now_us + least_us + self.random.draw() % spread_us
    }

    /// How long a candidacy may need to become known.
    fn candidacy_us(&self, round_trip_us: u32) -> u64 {
        u64::from(self.own_sync_us()) + u64::from(round_trip_us)
    }

    /// Stops the timer: this member leads.
    fn stop(&mut self) {
        self.deadline_us = None;
    }

    /// Makes the timer due at `at_us` if it would be due later.
    fn bring_forward(&mut self, at_us: u64) {
        if let Some(deadline_us) = &mut self.deadline_us {
            *deadline_us = at_us.min(*deadline_us);
        }
    }

    /// A candidate that cannot win misses the leader: campaign within one election timeout.
    fn hasten(&mut self, now_us: u64) {
        self.deferred = DEFERRED_MAX;
        let at_us = now_us + self.random.draw() % self.timeout_us;
        self.bring_forward(at_us);
    }

    // -- the leader

    /// Skips a campaign because this member has no room. Returns false if it has skipped enough of
    /// them: then no other voter answers, or none of those that answer can win.
    fn maybe_defer(&mut self) -> bool {
        if self.deferred >= DEFERRED_MAX {
            return false;
        }
        self.deferred += 1;
        true
    }

    /// Another member is about to campaign and can win. Its candidacy needs a while to become known:
    /// leaves the campaign to it for `least_us` and a random time, once until a leader is heard. If
    /// that were done each time, a member that reaches only some voters could keep them from
    /// electing another one.
    fn maybe_stand_back(&mut self, least_us: u64, round_trip_us: u32, now_us: u64) -> bool {
        if self.has_stood_back || self.candidacy_us(round_trip_us) == 0 {
            return false;
        }
        self.has_stood_back = true;
        let at_us = self.draw_deadline(least_us, round_trip_us, now_us);
        if let Some(deadline_us) = &mut self.deadline_us {
            *deadline_us = at_us.max(*deadline_us);
        }
        true
    }

    /// The leader was heard, or began to lead.
    pub fn on_leader_heard(&mut self, now_us: u64) {
        self.deferred = 0;
        self.has_stood_back = false;
        self.leader_heard_us = now_us;
    }

    /// An append told how long a slow sync of the leader and a slow round trip to it take, and how
    /// much later than usual the next heartbeat comes. It is also a sign of the leader, so that
    /// the timer is started anew (`Raft::on_leader_contact`).
    pub fn on_leader_figures(
        &mut self,
        leader: PeerId,
        sync_us: u32,
        round_trip_us: u32,
        pause_us: u32,
    ) {
        self.leader_sync_us = sync_us.min(SyncTimes::SYNC_US_MAX as u32);
        self.leader_round_trip_us = round_trip_us;
        self.leader_pause_us = pause_us;
        self.figures_of = Some(leader);
    }

    /// Whether this member waits for the disk of or the link to `id`, which led last and leads no
    /// more.
    pub fn waits_for_former(&self, id: PeerId) -> bool {
        self.figures_of == Some(id) && self.leader_patience_us() > self.timeout_us
    }

    /// The link to the leader broke, so its process may be gone: neither its disk nor the link is
    /// waited for. The slow round trips to the other voters take up to `round_trip_us`.
    pub fn on_leader_link_lost(&mut self, round_trip_us: u32, now_us: u64) {
        self.leader_sync_us = 0;
        self.leader_round_trip_us = 0;
        self.leader_pause_us = 0;
        let at_us = self.draw_deadline(self.timeout_us, round_trip_us, now_us);
        self.bring_forward(at_us);
    }

    /// The process of the leader has ended: campaigns after a random time. Its limit is short, since
    /// all followers learn of the end at once and one of them is to lead soon, and long enough for
    /// a candidacy to become known over links whose slow round trips take up to `round_trip_us`.
    pub fn on_leader_ended(&mut self, round_trip_us: u32, now_us: u64) {
        let spread_us = ENDED_SPREAD_US.max(SPREAD_FACTOR * self.candidacy_us(round_trip_us));
        let at_us = now_us + self.random.draw() % spread_us;
        self.bring_forward(at_us);
    }

    /// How long the leader has been silent.
    pub fn leader_silent_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.leader_heard_us)
    }

    /// Whether the leader was heard so recently that it is not missed.
    pub fn is_leader_fresh(&self, now_us: u64) -> bool {
        now_us < self.leader_heard_us + self.leader_patience_us()
    }

    // -- votes

    /// A campaign begins or ends.
    pub fn clear_votes(&mut self) {
        self.votes.clear();
    }

    /// The campaign is won: this member leads.
    pub fn on_become_leader(&mut self) {
        self.clear_votes();
        self.stop();
    }

    /// A member granted its vote. Returns whether that is new.
    pub fn add_vote(&mut self, from: PeerId) -> bool {
        if self.votes.contains(&from) {
            return false;
        }
        self.votes.push(from);
        true
    }

    /// Whether the votes are a majority in `configuration`. Votes of other members do not count.
    fn is_won(&self, configuration: &Configuration) -> bool {
        let votes = self.votes.iter();
        let counting = votes.filter(|id| configuration.is_voter(**id)).count();
        counting >= configuration.majority()
    }

    /// Part of `Raft::check_invariants`. `follows`: this member follows a leader.
    pub fn check_invariants(&self, role: RaftRole, follows: bool) {
        let leads = role == RaftRole::Leader;
        assert_eq!(leads, self.deadline_us.is_none(), "a leader has no timeout");
        let campaigns = matches!(role, RaftRole::PreCandidate | RaftRole::Candidate);
        assert!(
            campaigns || self.votes.is_empty(),
            "only candidates count votes"
        );
        if let Some(deadline_us) = self.deadline_us.filter(|_| follows) {
            let lease_us = self.leader_heard_us + self.leader_patience_us();
            assert!(lease_us <= deadline_us, "no campaign during the own lease");
        }
        self.own_syncs.check_invariants();
    }
}

/// Timeouts and leases.
impl Raft {
    /// How long an answer may take that depends on the disk of any known member and the link to any
    /// voter.
    pub(super) fn answer_patience_us(&self) -> u64 {
        let sync_us = self.tracker.slowest_sync_us();
        self.election
            .answer_patience_us(sync_us, self.voters_round_trip_us())
    }

    /// The second slowest recent round trip of the slowest open link to a voter, in microseconds.
    pub(super) fn voters_round_trip_us(&self) -> u32 {
        let is_voter = |id| self.configuration().is_voter(id);
        self.round_trips.slowest_us(is_voter)
    }

    /// Starts the election timer anew.
    ///
    /// - A pre-vote waits for the links to the voters and for no disk.
    /// - A follower misses its leader as soon as the leader's disk and the link to it allow.
    /// - A campaign waits for all disks and links, and so does a member that voted for another
    ///   candidate and waits for it to lead.
    pub(super) fn restart_election_timer(&mut self) {
        let voted_for_other = self.voted_for.is_some_and(|id| id != self.id);
        let waits_for_candidate = self.leader.is_none() && voted_for_other;
        let round_trip_us = self.voters_round_trip_us();
        let least_us = match self.role {
            RaftRole::PreCandidate => self.election.patience_us(0, round_trip_us),
            RaftRole::Follower if !waits_for_candidate => self.election.leader_patience_us(),
            RaftRole::Follower | RaftRole::Candidate | RaftRole::Leader => {
                self.answer_patience_us()
            }
        };
        self.election.restart(least_us, round_trip_us, self.now_us);
    }

    /// Whether this member leads or has heard a leader so recently that no other one is needed
    /// (thesis 4.2.3). A candidate knows no leader.
    pub(super) fn is_lease_live(&self) -> bool {
        if self.role == RaftRole::Leader {
            return true;
        }
        self.leader.is_some() && self.election.is_leader_fresh(self.now_us)
    }

    /// Whether this member follows a leader that it has heard so recently that it does not miss it.
    pub fn hears_leader(&self, now: Now) -> bool {
        let is_follower = self.role == RaftRole::Follower && self.leader.is_some();
        is_follower && self.election.is_leader_fresh(now.mono_us)
    }

    /// Whether a peer has left a message unanswered for longer than its disk and the link may take.
    ///
    /// The time counts from the first such message. A stall of this process does not count: during
    /// the stall it sent nothing, and afterwards it reads the answers before it looks at timers.
    pub(super) fn is_silent(&self, peer: &Progress, now_us: u64) -> bool {
        let round_trip_us = self.round_trips.of(peer.id());
        let patience_us = self.election.patience_us(peer.sync_us(), round_trip_us);
        peer.awaiting_since_us()
            .is_some_and(|since_us| now_us > since_us + patience_us)
    }

    /// Whether the voters that `holds` accepts are a majority together with this member.
    pub(super) fn is_majority(&self, holds: impl Fn(&Progress) -> bool) -> bool {
        let mut count = self.tracker.voters().filter(|p| holds(p)).count();
        if self.configuration().is_voter(self.id) {
            count += 1;
        }
        count >= self.configuration().majority()
    }

    /// Steps down if a majority has been silent (check-quorum, thesis 6.2): this leader cannot
    /// commit, and its clients should look for another one. Returns whether it did.
    pub(super) fn maybe_step_down(&mut self) -> bool {
        let has_majority = self.is_majority(|peer| !self.is_silent(peer, self.now_us));
        if has_majority {
            return false;
        }
        self.become_follower(self.current_term, None);
        true
    }
}

/// The candidate.
impl Raft {
    /// Whether this member may campaign. It must
    /// - be a voter, in the latest or in the committed configuration: until its removal is
    ///   committed, the cluster may need it to lead (thesis 4.2.2);
    /// - have an intact log (`repair`) that no snapshot is about to replace;
    /// - not be mute (`lost_tail`);
    /// - have room for the entries of a new leader.
    pub(super) fn may_campaign(&self) -> bool {
        let is_voter = self.configuration().is_voter(self.id)
            || self.committed_configuration().is_voter(self.id);
        let is_intact = self.first_damaged().is_none();
        let is_installing = self.incoming.is_installing();
        let may_lead = is_intact && !is_installing && !self.is_mute();
        is_voter && may_lead && self.has_duty_room()
    }

    /// Whether this member is the only voter.
    pub(super) fn is_lone_voter(&self) -> bool {
        self.configuration().voters().eq([self.id])
    }

    /// No leader was heard, or a campaign was not decided, within the election timeout.
    pub(super) fn on_election_timeout(&mut self) {
        if self.role == RaftRole::Candidate && !self.gate.is_state_durable() {
            // The disk is slower than the timeout. A campaign in a later term would wait for the
            // same disk.
            self.restart_election_timer();
        } else if self.may_campaign() && !self.maybe_defer_campaign() {
            self.become_pre_candidate();
        } else {
            self.become_follower(self.current_term, None);
            self.maybe_advance_term();
            self.restart_election_timer();
        }
    }

    /// A member without room for entries of clients leaves the campaign to the other voters, as
    /// long as one of them may still win. Returns whether it does so now.
    fn maybe_defer_campaign(&mut self) -> bool {
        if self.has_client_room() || self.is_lone_voter() {
            return false;
        }
        self.election.maybe_defer()
    }

    /// Asks all other voters for their votes, or pre-votes (`pre`).
    pub(super) fn request_votes(&mut self, pre: bool, hand_over: bool) {
        let term = if pre {
            self.current_term.next()
        } else {
            self.current_term
        };
        let voters: Vec<PeerId> = self.configuration().voters().collect();
        for to in voters {
            if to == self.id {
                continue;
            }
            let rpc = Rpc::RequestVote {
                pre,
                hand_over,
                last_index: self.log.last_index(),
                last_term: self.log.last_term(),
            };
            self.send_in(to, term, rpc);
        }
    }

    /// A peer answered a vote request.
    pub(super) fn on_vote(
        &mut self,
        from: PeerId,
        pre: bool,
        granted: bool,
        reading: Option<LeaderReading>,
    ) {
        let asking_role = if pre {
            RaftRole::PreCandidate
        } else {
            RaftRole::Candidate
        };
        if self.role == asking_role && granted && self.election.add_vote(from) {
            if let Some(reading) = reading.filter(|_| !pre) {
                self.clock.on_vote(reading, self.now_us);
            }
            self.maybe_win();
        }
    }

    /// Counts this candidate's own vote once it is durable, like any other vote. Returns whether it
    /// did.
    pub(super) fn maybe_count_own_vote(&mut self) -> bool {
        if !self.gate.is_state_durable() || !self.election.add_vote(self.id) {
            return false;
        }
        self.maybe_win();
        true
    }

    /// Campaigns in earnest after a majority of pre-votes, leads after a majority of votes. Returns
    /// whether it did. A candidate whose disk has become full meanwhile gives up: the first entry of
    /// its leadership would not fit.
    pub(super) fn maybe_win(&mut self) -> bool {
        if !self.election.is_won(self.membership.latest()) {
            return false;
        }
        if !self.has_duty_room() {
            self.become_follower(self.current_term, None);
            self.restart_election_timer();
            return false;
        }
        match self.role {
            RaftRole::PreCandidate => self.become_candidate(false),
            RaftRole::Candidate => self.become_leader(),
            RaftRole::Follower | RaftRole::Leader => unreachable!("only candidates count votes"),
        }
        true
    }
}

/// The voter.
impl Raft {
    /// A candidate asks for a vote. Terms and leases are checked (`admit`).
    ///
    /// The candidate need not be in the configuration here (thesis 4.2.2): its Join may be among
    /// the entries that this member lacks.
    pub(super) fn on_request_vote(
        &mut self,
        from: PeerId,
        term: Term,
        pre: bool,
        last_index: Index,
        last_term: Term,
    ) {
        self.repair.on_candidate(from);
        let can_win = self.is_up_to_date(last_index, last_term) && !self.is_mute();
        if pre {
            self.answer_pre_vote(from, term, can_win);
            return;
        }
        let is_free = self.voted_for.is_none_or(|id| id == from);
        let granted = can_win && is_free;
        if granted {
            if self.voted_for != Some(from) {
                self.set_term(self.current_term, Some(from));
            }
            self.restart_election_timer();
        }
        let reading = self.clock.reading_for(last_term, self.now_us);
        let vote = Rpc::Vote {
            pre: false,
            granted,
            reading: reading.filter(|_| granted),
        };
        self.send_in(from, self.current_term, vote);
    }

    /// Answers a pre-vote for `term`. Nothing is promised, so nothing is stored.
    fn answer_pre_vote(&mut self, from: PeerId, term: Term, can_win: bool) {
        let is_later = term > self.current_term;
        if is_later && self.leader == Some(from) {
            // It does not lead any more, so no lease holds.
            self.become_follower(self.current_term, None);
        }
        if is_later && can_win {
            if self.role == RaftRole::Follower {
                let least_us = self.answer_patience_us();
                let round_trip_us = self.voters_round_trip_us();
                self.election
                    .maybe_stand_back(least_us, round_trip_us, self.now_us);
            }
            self.send_vote(from, true, true, term);
            return;
        }
        if is_later && self.role != RaftRole::Candidate && self.may_campaign() {
            // The candidate's log is behind ours, so it cannot win. It misses the leader, so a
            // member with a better log should campaign soon.
            self.election.hasten(self.now_us);
        }
        self.send_vote(from, true, false, self.current_term);
    }

    /// Whether a log that ends with the given entry is at least as up-to-date as this one: the
    /// later last term decides, then the longer log (thesis 3.6.1). Damaged entries count like
    /// others (`repair`).
    fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        if last_term > self.log.last_term() {
            return true;
        }
        let is_same_term = last_term == self.log.last_term();
        let is_as_long = last_index >= self.log.last_index();
        is_same_term && is_as_long
    }

    /// Sends a vote, or a pre-vote (`pre`), in `term`, without a reading of the clock.
    pub(super) fn send_vote(&mut self, to: PeerId, pre: bool, granted: bool, term: Term) {
        let rpc = Rpc::Vote {
            pre,
            granted,
            reading: None,
        };
        self.send_in(to, term, rpc);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Member;
    use super::*;

    const TIMEOUT_US: u64 = 200_000;

    fn election() -> Election {
        Election::new(TIMEOUT_US, 1, 0)
    }

    #[test]
    fn a_timeout_is_random_within_bounds() {
        let mut election = election();
        for _ in 0..100 {
            election.restart(TIMEOUT_US, 0, 7);
            let deadline_us = election.deadline_us().expect("the timer runs");
            assert!((7 + TIMEOUT_US..7 + 2 * TIMEOUT_US).contains(&deadline_us));
        }
    }

    #[test]
    fn a_slow_disk_is_waited_for() {
        let mut election = election();
        assert_eq!(election.patience_us(1, 0), TIMEOUT_US);
        assert_eq!(election.patience_us(300_000, 0), 900_000);
        election.on_leader_figures(PeerId(2), 300_000, 0, 0);
        assert!(election.is_leader_fresh(899_999));
        assert!(!election.is_leader_fresh(900_000));
    }

    #[test]
    fn a_lost_link_ends_the_patience_for_the_leader() {
        let mut election = election();
        election.on_leader_figures(PeerId(2), 10_000_000, u32::MAX, 0);
        election.restart(election.leader_patience_us(), 0, 0);
        election.on_leader_link_lost(0, 5);
        let deadline_us = election.deadline_us().expect("the timer runs");
        assert!(deadline_us < 5 + 2 * TIMEOUT_US);
    }

    #[test]
    fn a_vote_counts_once_and_only_from_a_voter() {
        let mut members = Vec::new();
        for id in 1..=3 {
            members.push(Member {
                id: PeerId(id),
                voter: true,
                ..Member::default()
            });
        }
        let configuration = Configuration {
            members,
            ..Configuration::default()
        };
        let mut election = election();
        assert!(election.add_vote(PeerId(1)));
        assert!(!election.add_vote(PeerId(1)));
        assert!(election.add_vote(PeerId(4)));
        assert!(!election.is_won(&configuration));
        assert!(election.add_vote(PeerId(3)));
        assert!(election.is_won(&configuration));
    }
}
