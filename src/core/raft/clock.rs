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
//! The clock must not go back, nor stand still between two leaders. So each vote carries the
//! voter's reading, and a new leader starts from the largest of
//! - the readings of its votes, and its own: none of a member that has heard no leader since it
//!   started, because a value that it heard before may be days old; and none of a leader before
//!   the term of the candidate's last entry, because that term may have begun with an outage (see
//!   below): the older clock may be ahead of it, and leases of that term would end early;
//! - the stamps in its log and its snapshot.
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
use super::message::{EntryBody, Term};
use crate::core::cluster_time::{Stamp, TIME_NS_MAX};
use crate::core::command;
use crate::core::timer::Now;

/// Readings of a leader count for this long, in microseconds: the monotonic clocks of two machines
/// drift apart.
const READINGS_US: u64 = 60_000_000;

/// Readings within this time count as one, to bound their number. In microseconds.
const STEP_US: u64 = 1_000_000;

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

/// The cluster clock as a member knows it.
#[derive(Default)]
pub struct ClusterClock {
    /// The term whose leader gave the readings below.
    term: Term,
    /// The readings of the last minute that are larger than all later ones, oldest first, each
    /// with the time of its receipt in microseconds of the monotonic clock. On a leader the one
    /// that it started from. Empty if no leader was heard since this process started.
    readings: VecDeque<(u64, Base)>,
    /// The largest reading that came with a vote of the present campaign.
    voted: Option<Base>,
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
        let (_, base) = self.readings.front()?;
        let last_ns = self.last.map_or(0, |last| last.cluster_ns);
        Some(base.at(now_us).max(last_ns).max(1))
    }

    /// The reading, if the leader that it comes from led `term` or a later one.
    pub fn reading_since_ns(&self, term: Term, now_us: u64) -> Option<u64> {
        let reading_ns = self.reading_ns(now_us);
        reading_ns.filter(|_| self.term >= term)
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

    /// The leader of `term` showed `cluster_ns` when it sent an append.
    pub fn on_leader_reading(&mut self, term: Term, cluster_ns: u64, now_us: u64) {
        if term != self.term {
            self.term = term;
            self.readings.clear();
        }
        let base = Base::new(cluster_ns, now_us);
        while self.readings.back().is_some_and(|(_, last)| *last <= base) {
            self.readings.pop_back();
        }
        let is_within_step = |(at_us, _): &(u64, Base)| now_us < at_us + STEP_US;
        if !self.readings.back().is_some_and(is_within_step) {
            self.readings.push_back((now_us, base));
        }
        while self.readings.len() > 1 && self.readings[0].0 + READINGS_US < now_us {
            self.readings.pop_front();
        }
    }

    /// A campaign begins: votes of an earlier one do not count.
    pub fn on_become_candidate(&mut self) {
        self.voted = None;
    }

    /// A vote in this campaign came with the voter's reading.
    pub fn on_vote(&mut self, reading_ns: Option<u64>, now_us: u64) {
        let reading = reading_ns.map(|cluster_ns| Base::new(cluster_ns, now_us));
        self.voted = self.voted.max(reading);
    }

    /// This member begins to lead `term`. `in_log` is the latest stamp of the entries that are not
    /// applied yet.
    pub fn on_become_leader(
        &mut self,
        term: Term,
        in_log: Option<Stamp>,
        now_us: u64,
        wall_ns: u64,
    ) {
        let own = self.readings.front().map(|(_, base)| *base);
        let known = own.max(self.voted.take());
        let last = [self.last, in_log].into_iter().flatten();
        let last = last.max_by_key(|stamp| stamp.cluster_ns);
        let last_ns = last.map_or(0, |stamp| stamp.cluster_ns);
        let start_ns = match known {
            Some(base) => base.at(now_us).max(last_ns),
            None => after_outage(last, wall_ns),
        };
        let is_bridged = known.is_none() && last.is_some();
        self.outage_ns = is_bridged.then_some(start_ns - last_ns);
        self.term = term;
        self.readings.clear();
        self.readings
            .push_back((now_us, Base::new(start_ns, now_us)));
    }

    /// By how many nanoseconds this leader has let the clock go on after an outage of all; once.
    fn take_outage_ns(&mut self) -> Option<u64> {
        self.outage_ns.take()
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, leads: bool) {
        let steps_max = (READINGS_US / STEP_US + 2) as usize;
        assert!(self.readings.len() <= steps_max, "one reading in a step");
        assert!(
            !leads || self.readings.len() == 1,
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
        self.clock
            .on_become_leader(self.current_term, in_log, self.now_us, self.wall_ns);
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
            clock.on_leader_reading(Term(1), (100 + at_s - late_s) * S_NS, at_s * S_US);
        }
        assert_eq!(clock.reading_ns(20 * S_US), Some(119 * S_NS));
        // The first of the later ones that are as large.
        clock.on_leader_reading(Term(1), (100 + 90 - 3) * S_NS, 90 * S_US);
        assert_eq!(clock.reading_ns(90 * S_US), Some(187 * S_NS));
        clock.check_invariants(false);
    }

    #[test]
    fn readings_are_bounded() {
        let mut clock = follower(None);
        for at in 0..100_000 {
            // Each one is smaller than the one before.
            clock.on_leader_reading(Term(1), 1_000 * S_NS, at * 10_000);
            clock.check_invariants(false);
        }
    }

    #[test]
    fn a_new_leader_goes_on_from_the_largest_reading_of_its_votes() {
        let stamp = Stamp::new(50 * S_NS, 0);
        let mut clock = follower(Some(stamp));
        clock.on_become_candidate();
        clock.on_vote(None, S_US);
        clock.on_vote(Some(90 * S_NS), S_US);
        clock.on_vote(Some(80 * S_NS), S_US);
        clock.on_become_leader(Term(2), None, 2 * S_US, 7_000 * S_NS);
        assert_eq!(clock.reading_ns(3 * S_US), Some(92 * S_NS));
        clock.check_invariants(true);
    }

    #[test]
    fn a_stamp_in_the_log_is_a_floor() {
        let mut clock = follower(None);
        clock.on_leader_reading(Term(1), 10 * S_NS, 0);
        let in_log = Some(Stamp::new(40 * S_NS, 0));
        clock.on_become_leader(Term(2), in_log, S_US, 0);
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
