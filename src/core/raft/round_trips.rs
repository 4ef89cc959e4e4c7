//! The round trips of this member's links, as far as timeouts depend on them, and the opening and
//! loss of links.
//!
//! `core::peers` measures each link by pings and reports the second slowest round trip of the last
//! 20 s. A timeout that waits for an answer over a link is longer by three times that figure
//! ([`allowance_us`]): a packet that was lost is sent again after about one more round trip, or
//! after two when the repetition was lost as well.
//!
//! A follower and its leader wait for each other over the same link. So the leader tells its figure
//! in each append, and the follower uses that one instead of its own: it misses the leader after the
//! time after which the leader misses it.
use super::Raft;
use super::message::PeerId;
use crate::core::timer::Now;

/// A slower round trip does not lengthen timeouts any further, in microseconds.
pub const ROUND_TRIP_US_MAX: u32 = 1_000_000;

/// An answer is given this many slow round trips beyond the other parts of its timeout.
const ROUND_TRIPS: u64 = 3;

/// How much longer an answer may take over a link whose slow round trips take `round_trip_us`, in
/// microseconds; at most 3 s.
pub fn allowance_us(round_trip_us: u32) -> u64 {
    ROUND_TRIPS * u64::from(round_trip_us.min(ROUND_TRIP_US_MAX))
}

/// The figures of the links that are open.
#[derive(Default)]
pub struct RoundTrips {
    /// The peer, and its second slowest recent round trip in microseconds. In order of id.
    figures: Vec<(PeerId, u32)>,
}

impl RoundTrips {
    /// The link to `id` has the figure `round_trip_us` now.
    pub fn set(&mut self, id: PeerId, round_trip_us: u32) {
        let round_trip_us = round_trip_us.min(ROUND_TRIP_US_MAX);
        match self.figures.binary_search_by_key(&id, |(peer, _)| *peer) {
            Ok(at) => self.figures[at].1 = round_trip_us,
            Err(at) => self.figures.insert(at, (id, round_trip_us)),
        }
    }

    /// The link to `id` is closed: no answer comes over it.
    pub fn on_link_lost(&mut self, id: PeerId) {
        self.figures.retain(|(peer, _)| *peer != id);
    }

    /// The figure of the link to `id` in microseconds; 0 if none is known.
    pub fn of(&self, id: PeerId) -> u32 {
        match self.figures.binary_search_by_key(&id, |(peer, _)| *peer) {
            Ok(at) => self.figures[at].1,
            Err(_) => 0,
        }
    }

    /// The largest figure of the links to the members that `counts` accepts, in microseconds.
    pub fn slowest_us(&self, counts: impl Fn(PeerId) -> bool) -> u32 {
        let counting = self.figures.iter().filter(|(peer, _)| counts(*peer));
        counting.map(|(_, figure)| *figure).max().unwrap_or(0)
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self) {
        let is_capped = |(_, figure): &(PeerId, u32)| *figure <= ROUND_TRIP_US_MAX;
        assert!(self.figures.iter().all(is_capped), "a figure is capped");
    }
}

impl Raft {
    /// The second slowest recent round trip of the link to a member is `round_trip_us` now.
    pub fn on_round_trip(&mut self, now: Now, id: PeerId, round_trip_us: u32) {
        self.on_input(now);
        self.round_trips.set(id, round_trip_us);
        self.check_invariants();
    }

    /// The link to a member opened (`is_up`), or broke. When it breaks, messages on the way may be
    /// lost and the process of the member may be gone, so neither its disk nor the link is waited
    /// for.
    pub fn on_link(&mut self, now: Now, id: PeerId, is_up: bool) {
        self.on_input(now);
        self.repair.on_link(self.now_us);
        if !is_up {
            self.round_trips.on_link_lost(id);
        }
        let waits_for_former = self.leader.is_none() && self.election.waits_for_former(id);
        if !is_up && (self.leader == Some(id) || waits_for_former) {
            let round_trip_us = self.voters_round_trip_us();
            self.election
                .on_leader_link_lost(round_trip_us, self.now_us);
        }
        if let Some(peer) = self.tracker.get_mut(id) {
            peer.on_link(is_up, self.now_us);
        }
        self.check_invariants();
    }

    /// The process of a member has ended. If it led, it is missed at once: this member denies no vote
    /// because of it any more, and campaigns soon. Its pre-vote finds out whether a majority misses
    /// the leader: a follower that is wrong deposes no leader (PROTOCOL 24).
    pub fn on_process_ended(&mut self, now: Now, id: PeerId) {
        self.on_input(now);
        if self.leader == Some(id) {
            self.become_follower(self.current_term, None);
            let round_trip_us = self.voters_round_trip_us();
            self.election.on_leader_ended(round_trip_us, self.now_us);
        }
        self.check_invariants();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_23_the_allowance_is_three_round_trips_and_at_most_three_seconds() {
        assert_eq!(allowance_us(0), 0);
        assert_eq!(allowance_us(300_000), 900_000);
        assert_eq!(allowance_us(u32::MAX), 3_000_000);
        let mut trips = RoundTrips::default();
        trips.set(PeerId(2), u32::MAX);
        trips.check_invariants();
        assert_eq!(trips.of(PeerId(2)), ROUND_TRIP_US_MAX);
    }

    #[test]
    fn protocol_23_a_closed_link_has_no_figure() {
        let mut trips = RoundTrips::default();
        trips.set(PeerId(3), 700);
        trips.set(PeerId(2), 900);
        trips.on_link_lost(PeerId(2));
        assert_eq!(trips.of(PeerId(2)), 0);
        assert_eq!(trips.slowest_us(|_| true), 700);
        assert_eq!(trips.slowest_us(|id| id != PeerId(3)), 0);
    }
}
