//! The cluster clock: nanoseconds on the scale of Unix time that move with elapsed time only.
//!
//! It begins at the founder's wall clock. The leader reads it as a base plus its monotonic clock,
//! stamps the commands that need a time, and sends its reading with each append. A follower takes
//! the largest of (reading minus own monotonic clock at receipt) of the last minute: the reading
//! that was delayed least. So it is behind the leader by the shortest delay of the link, and never
//! ahead.
//!
//! # The start of a leadership
//!
//! The clock must not go back, nor stand still between two leaders. So each vote carries a reading
//! of the voter with the term of its leader, and a new leader starts from the largest of
//! - the readings of its votes, and its own, that are of the term of its last entry;
//! - if there is none, those of a later term;
//! - the stamps in its log and its snapshot.
//!
//! A lease ends early if the clock of a new leader is ahead of the clock that stamped it. The
//! leader of the last entry had all earlier entries. So its clock was not ahead of the clocks of
//! their leaders, and its readings are not either. A reading of another leader may be ahead:
//! - one of an earlier term, if the term of the last entry began with an outage (see below);
//! - one of a later term, if that leader did not have the last entry. It may have started from a
//!   reading that was less delayed, and is then ahead by the difference of two delays. A wall clock
//!   can be wrong by years, so such a reading counts before a wall clock.
//!
//! So a member keeps a reading of each former leader whose entry may be the last one of a candidate.
//!
//! A member that has heard no leader since it started has no reading: a value that it heard before
//! may be days old.
//!
//! # After an outage of all
//!
//! If none of the majority has a reading, a wall clock is asked: the clock goes on from the last
//! stamp, which has both clocks, by the time that has passed on the own wall clock since. A wall
//! clock that shows a time before tern existed is not believed: boards without a battery start in
//! 1970. Then the clock goes on from the last stamp, and leases last longer by the outage.
//!
//! Start reading at [`ClusterClock::reading_ns`], then [`ClusterClock::on_become_leader`].
use std::collections::VecDeque;

use super::Raft;
use super::message::{EntryBody, LeaderReading, Term};
use crate::core::cluster_time::{Stamp, TIME_NS_MAX};
use crate::core::command;
use crate::core::timer::Now;

/// Readings of a leader count for this long, in microseconds: the monotonic clocks of two machines
/// drift apart.
const READINGS_US: u64 = 60_000_000;

/// Readings within this time count as one, to bound their number. In microseconds.
const STEP_US: u64 = 1_000_000;

/// Most former leaders of which a reading is kept. Each leader appends an entry at once, so a member
/// that hears several soon has an entry of one, and drops the readings of those before it.
const FORMER_MAX: usize = 16;

/// No wall clock that shows an earlier time is believed: 2025-01-01, in nanoseconds since the Unix
/// epoch.
const BELIEVED_WALL_NS_MIN: u64 = 1_735_689_600_000_000_000;

/// The cluster clock as the difference to the own monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Base(i64);

impl Base {
    /// The cluster clock shows `cluster_ns` now.
    fn new(cluster_ns: u64, now_us: u64) -> Base {
        let mono_ns = now_us.saturating_mul(1_000).min(TIME_NS_MAX);
        Base(cluster_ns.min(TIME_NS_MAX) as i64 - mono_ns as i64)
    }

    /// The reading of the cluster clock now.
    fn at(self, now_us: u64) -> u64 {
        let mono_ns = now_us.saturating_mul(1_000).min(TIME_NS_MAX);
        mono_ns.saturating_add_signed(self.0).min(TIME_NS_MAX)
    }
}

/// The readings of one leader.
#[derive(Default)]
struct Readings {
    /// The term that it led.
    term: Term,
    /// The maxima of a sliding minute (monotonic queue), oldest first, each with the time of its
    /// receipt in microseconds of the monotonic clock.
    largest: VecDeque<(u64, Base)>,
}

impl Readings {
    /// The leader of `term` showed `base` at `now_us`.
    fn new(term: Term, base: Base, now_us: u64) -> Readings {
        let largest = VecDeque::from([(now_us, base)]);
        Readings { term, largest }
    }

    fn add(&mut self, base: Base, now_us: u64) {
        while self.largest.back().is_some_and(|(_, last)| *last <= base) {
            self.largest.pop_back();
        }
        let is_within_step = |(at_us, _): &(u64, Base)| now_us < at_us + STEP_US;
        if !self.largest.back().is_some_and(is_within_step) {
            self.largest.push_back((now_us, base));
        }
        while self.largest.len() > 1 && self.largest[0].0 + READINGS_US < now_us {
            self.largest.pop_front();
        }
    }

    /// The largest one, which was delayed least.
    fn base(&self) -> Option<Base> {
        self.largest.front().map(|(_, base)| *base)
    }
}

/// The cluster clock as a member knows it.
#[derive(Default)]
pub struct ClusterClock {
    /// The readings of the latest leader. On a leader the one that it started from. Empty if no
    /// leader was heard since this process started.
    latest: Readings,
    /// The largest reading of each leader before `latest`, in order of terms; at most `FORMER_MAX`.
    /// Leaders before that of the last entry in this log are dropped: no candidate with an earlier
    /// last entry gets a vote here.
    former: VecDeque<(Term, Base)>,
    /// The readings that came with the votes of the present campaign.
    voted: Vec<(Term, Base)>,
    /// The latest stamp that is applied. The clock never shows less.
    last: Option<Stamp>,
    /// How many nanoseconds a wall clock has added after an outage of all. `None` unless this
    /// member leads and no member of its majority had a reading. Taken by the owner.
    outage_ns: Option<u64>,
}

impl ClusterClock {
    /// A member whose snapshot has `last` as its latest stamp. No leader was heard.
    pub fn new(last: Option<Stamp>) -> ClusterClock {
        ClusterClock {
            last,
            ..ClusterClock::default()
        }
    }

    /// The reading of the cluster clock now, in nanoseconds, at least 1. `None` if this member has
    /// heard no leader since its process started.
    pub fn reading_ns(&self, now_us: u64) -> Option<u64> {
        let base = self.latest.base()?;
        Some(self.shown_ns(base, now_us))
    }

    /// What the clock shows with `base`.
    fn shown_ns(&self, base: Base, now_us: u64) -> u64 {
        let last_ns = self.last.map_or(0, |last| last.cluster_ns);
        base.at(now_us).max(last_ns).max(1)
    }

    /// The reading for the vote for a candidate whose last entry is of `last_term`: of the leader of
    /// that term if this member has heard it, else of the latest one. `None` if it has heard none.
    pub fn reading_for(&self, last_term: Term, now_us: u64) -> Option<LeaderReading> {
        let (term, base) = self.base_for(last_term)?;
        let clock_ns = self.shown_ns(base, now_us);
        Some(LeaderReading { term, clock_ns })
    }

    fn base_for(&self, last_term: Term) -> Option<(Term, Base)> {
        let mut former = self.former.iter().copied();
        let of_last_entry = former.find(|(term, _)| *term == last_term);
        let latest = || Some((self.latest.term, self.latest.base()?));
        of_last_entry.or_else(latest)
    }

    /// The latest stamp that is applied.
    pub fn last(&self) -> Option<Stamp> {
        self.last
    }

    /// All entries with a stamp up to `last` are applied, or are in the snapshot that was
    /// installed.
    pub fn on_applied(&mut self, last: Option<Stamp>) {
        self.last = last;
    }

    /// The leader of `term` showed `cluster_ns` when it sent an append. `last_term` is the term of
    /// the last entry in the log before that append.
    pub fn on_leader_reading(&mut self, term: Term, last_term: Term, cluster_ns: u64, now_us: u64) {
        let base = Base::new(cluster_ns, now_us);
        if term == self.latest.term {
            self.latest.add(base, now_us);
        } else {
            self.on_next_leader(last_term, Readings::new(term, base, now_us));
        }
    }

    /// Another leader was heard, or this member begins to lead: `latest` becomes the last of
    /// `former`.
    fn on_next_leader(&mut self, last_term: Term, readings: Readings) {
        let former = std::mem::replace(&mut self.latest, readings);
        if let Some(base) = former.base() {
            self.former.push_back((former.term, base));
        }
        self.former.retain(|(term, _)| *term >= last_term);
        if self.former.len() > FORMER_MAX {
            // The first one is most often that of the last entry.
            self.former.remove(1);
        }
    }

    /// A campaign begins: votes of an earlier one do not count.
    pub fn on_become_candidate(&mut self) {
        self.voted.clear();
    }

    /// A vote in this campaign came with the voter's reading.
    pub fn on_vote(&mut self, reading: LeaderReading, now_us: u64) {
        let base = Base::new(reading.clock_ns, now_us);
        self.voted.push((reading.term, base));
    }

    /// This member begins to lead `term`. The last entry in its log is of `last_term`; `in_log` is
    /// the latest stamp of the entries that are not applied yet.
    pub fn on_become_leader(
        &mut self,
        term: Term,
        last_term: Term,
        in_log: Option<Stamp>,
        now: Now,
    ) {
        let known = self.start_base(last_term);
        let last = [self.last, in_log].into_iter().flatten();
        let last = last.max_by_key(|stamp| stamp.cluster_ns);
        let last_ns = last.map_or(0, |stamp| stamp.cluster_ns);
        let start_ns = match known {
            Some(base) => base.at(now.mono_us).max(last_ns),
            None => after_outage(last, now.wall_ns),
        };
        let is_bridged = known.is_none() && last.is_some();
        self.outage_ns = is_bridged.then_some(start_ns - last_ns);
        let base = Base::new(start_ns, now.mono_us);
        self.on_next_leader(last_term, Readings::new(term, base, now.mono_us));
    }

    /// The reading to start a leadership from, by the rules at the top of this file. Empties `voted`.
    fn start_base(&mut self, last_term: Term) -> Option<Base> {
        let own = self.base_for(last_term);
        let readings = self.voted.drain(..).chain(own);
        let since = readings.filter(|(term, _)| *term >= last_term);
        let (_, base) = since.max_by_key(|(term, base)| (*term == last_term, *base))?;
        Some(base)
    }

    /// By how many nanoseconds this leader has let the clock go on after an outage of all; once.
    fn take_outage_ns(&mut self) -> Option<u64> {
        self.outage_ns.take()
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, leads: bool) {
        let steps_max = (READINGS_US / STEP_US + 2) as usize;
        assert!(
            self.latest.largest.len() <= steps_max,
            "one reading in a step"
        );
        assert!(self.former.len() <= FORMER_MAX, "former leaders");
        let terms = self.former.iter().map(|(term, _)| *term);
        let terms = terms.chain([self.latest.term]);
        assert!(terms.is_sorted(), "later leaders come later");
        assert!(
            !leads || self.latest.largest.len() == 1,
            "a leader knows the time"
        );
    }
}

impl Raft {
    /// The reading of the cluster clock at `now`, in nanoseconds. A member that has heard no leader
    /// since its process started knows the latest stamp that it has applied; `None` without one.
    pub fn cluster_ns(&self, now: Now) -> Option<u64> {
        let reading = self.clock.reading_ns(now.mono_us);
        reading.or(self.clock.last().map(|last| last.cluster_ns))
    }

    /// By how many nanoseconds this leader has let the cluster clock go on after an outage of all
    /// members, as its wall clock says. `None` if there was none; given once.
    pub fn take_outage_ns(&mut self) -> Option<u64> {
        self.clock.take_outage_ns()
    }

    /// This member begins to lead.
    pub(super) fn start_clock(&mut self) {
        let in_log = self.latest_stamp_in_log();
        let now = Now {
            mono_us: self.now_us,
            wall_ns: self.wall_ns,
        };
        let last_term = self.log.last_term();
        self.clock
            .on_become_leader(self.current_term, last_term, in_log, now);
    }

    /// The latest stamp of the entries that are not applied yet.
    fn latest_stamp_in_log(&self) -> Option<Stamp> {
        let mut latest: Option<Stamp> = None;
        for entry in self.log.iter_from(self.log.applied().next()) {
            let EntryBody::Good(body) = &entry.body else {
                continue;
            };
            let stamp = command::decode(body)
                .ok()
                .and_then(|command| command.stamp());
            latest = latest
                .into_iter()
                .chain(stamp)
                .max_by_key(|stamp| stamp.cluster_ns);
        }
        latest
    }
}

/// The time of the cluster clock after an outage of all members: the last stamp and the time that
/// has passed on the own wall clock since. Without a stamp the cluster is new, and its clock begins
/// at the wall clock.
fn after_outage(last: Option<Stamp>, wall_ns: u64) -> u64 {
    let Some(last) = last else {
        return wall_ns;
    };
    let is_believed = last.wall_ns.min(wall_ns) >= BELIEVED_WALL_NS_MIN;
    let moved_ns = if is_believed {
        wall_ns.saturating_sub(last.wall_ns)
    } else {
        0
    };
    last.cluster_ns.saturating_add(moved_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S_NS: u64 = 1_000_000_000;
    const S_US: u64 = 1_000_000;

    fn follower(last: Option<Stamp>) -> ClusterClock {
        ClusterClock::new(last)
    }

    #[test]
    fn the_least_delayed_reading_of_the_last_minute_counts() {
        let mut clock = follower(None);
        assert_eq!(clock.reading_ns(0), None);
        let late_s = [3, 1, 2, 2];
        for (at_s, late_s) in (10..).zip(late_s) {
            clock.on_leader_reading(Term(1), Term(1), (100 + at_s - late_s) * S_NS, at_s * S_US);
        }
        assert_eq!(clock.reading_ns(20 * S_US), Some(119 * S_NS));
        // The first of the later ones that are as large.
        clock.on_leader_reading(Term(1), Term(1), (100 + 90 - 3) * S_NS, 90 * S_US);
        assert_eq!(clock.reading_ns(90 * S_US), Some(187 * S_NS));
        clock.check_invariants(false);
    }

    #[test]
    fn readings_are_bounded() {
        let mut clock = follower(None);
        for at in 0..100_000 {
            // Each one is smaller than the one before.
            let term = Term(1 + at / 1_000);
            clock.on_leader_reading(term, Term(1), 1_000 * S_NS, at * 10_000);
            clock.check_invariants(false);
        }
    }

    fn now(mono_us: u64, wall_ns: u64) -> Now {
        Now { mono_us, wall_ns }
    }

    fn reading(term: u64, s: u64) -> LeaderReading {
        LeaderReading {
            term: Term(term),
            clock_ns: s * S_NS,
        }
    }

    /// What a new leader's clock shows at 0, if the votes came with these readings. Its last entry
    /// is of term 5.
    fn start_s(mut clock: ClusterClock, votes: &[LeaderReading]) -> u64 {
        clock.on_become_candidate();
        for vote in votes {
            clock.on_vote(*vote, 0);
        }
        clock.on_become_leader(Term(9), Term(5), None, now(0, 7_000 * S_NS));
        clock.check_invariants(true);
        clock.reading_ns(0).expect("a leader knows the time") / S_NS
    }

    #[test]
    fn protocol_19_a_new_leader_goes_on_from_the_largest_reading_of_the_leader_of_its_last_entry() {
        let heard = |terms: &[(u64, u64)]| {
            let mut clock = follower(Some(Stamp::new(50 * S_NS, 0)));
            for (term, s) in terms {
                clock.on_leader_reading(Term(*term), Term(5), s * S_NS, 0);
            }
            clock
        };
        let votes = [reading(5, 80), reading(5, 90), reading(8, 95)];
        assert_eq!(start_s(heard(&[]), &votes), 90);
        assert_eq!(start_s(heard(&[(5, 91)]), &votes), 91);
        assert_eq!(
            start_s(heard(&[(4, 93), (5, 92), (6, 99), (8, 98)]), &votes),
            92
        );
        assert_eq!(start_s(heard(&[(6, 99)]), &votes), 90);
        assert_eq!(
            start_s(heard(&[(6, 94)]), &votes[2..]),
            95,
            "only later ones"
        );
        assert_eq!(
            start_s(heard(&[(4, 99)]), &[reading(4, 99)]),
            50,
            "an earlier one does not count"
        );
    }

    #[test]
    fn protocol_19_a_vote_has_the_reading_that_suits_the_candidates_last_entry() {
        let mut clock = follower(None);
        assert_eq!(clock.reading_for(Term(0), 0), None);
        for term in [4, 5, 7, 8] {
            clock.check_invariants(false);
            clock.on_leader_reading(Term(term), Term(5), term * S_NS, 0);
        }
        let term_for = |last_term| {
            let reading = clock.reading_for(Term(last_term), 0)?;
            assert_eq!(reading.clock_ns, reading.term.0 * S_NS);
            Some(reading.term.0)
        };
        assert_eq!(term_for(5), Some(5));
        assert_eq!(term_for(6), Some(8));
        assert_eq!(term_for(7), Some(7), "this log has no entry of it");
        assert_eq!(term_for(8), Some(8));
        assert_eq!(term_for(9), Some(8));
    }

    #[test]
    fn a_stamp_in_the_log_is_a_floor() {
        let mut clock = follower(None);
        clock.on_leader_reading(Term(1), Term(1), 10 * S_NS, 0);
        let in_log = Some(Stamp::new(40 * S_NS, 0));
        clock.on_become_leader(Term(2), Term(1), in_log, now(S_US, 0));
        assert_eq!(clock.reading_ns(2 * S_US), Some(41 * S_NS));
    }

    #[test]
    fn an_outage_lasts_as_long_as_a_believed_wall_clock_says() {
        let wall_ns = BELIEVED_WALL_NS_MIN;
        let last = |wall_ns| Some(Stamp::new(9 * S_NS, wall_ns));
        assert_eq!(after_outage(last(wall_ns), wall_ns + S_NS), 10 * S_NS);
        assert_eq!(after_outage(last(wall_ns + S_NS), wall_ns), 9 * S_NS);
        assert_eq!(after_outage(last(5), wall_ns), 9 * S_NS, "it began in 1970");
        assert_eq!(after_outage(last(wall_ns), 5), 9 * S_NS, "it is in 1970");
        assert_eq!(after_outage(None, 5), 5, "a new cluster");
    }
}
