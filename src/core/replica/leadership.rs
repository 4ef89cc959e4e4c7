//! The history of leadership that this member has seen.
//!
//! Raft keeps only the present state. This part remembers earlier states: when the present leader
//! became known, since when no leader is known, and which other member led last. Start with
//! [`Leadership::update`].
use crate::core::raft::{PeerId, RaftRole, Term};
use crate::core::timer::Now;

/// The role and the leader as of the last `update`, and what is kept of earlier ones.
pub struct Leadership {
    role: RaftRole,
    term: Term,
    leader: Option<PeerId>,
    /// When the present leader became known, or the last one if there is none: wall-clock time in
    /// nanoseconds since the Unix epoch. The start, before the first.
    leader_since_ns: u64,
    /// The last leader other than this member.
    last_other_leader: Option<PeerId>,
    /// How many leaders have come in since the start. The same leader in another term counts again.
    leaders: u64,
    /// Whether there was a leader since the start; it may have been this member.
    had_leader: bool,
    /// The time of the last change at which a leader was known, before it or after it; the start,
    /// before the first. In microseconds of the monotonic clock.
    last_led_us: u64,
}

/// A change of role, term or leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadershipChange {
    /// Another leader is known, or the same one in another term.
    pub is_new_leader: bool,
}

impl Leadership {
    /// A follower in `term` without a leader.
    pub fn new(now: Now, term: Term) -> Leadership {
        Leadership {
            role: RaftRole::Follower,
            term,
            leader: None,
            leader_since_ns: now.wall_ns,
            last_other_leader: None,
            leaders: 0,
            had_leader: false,
            last_led_us: now.mono_us,
        }
    }

    /// Takes over raft's state. Returns `None` if nothing has changed since the last call.
    pub fn update(
        &mut self,
        now: Now,
        own_id: PeerId,
        role: RaftRole,
        term: Term,
        leader: Option<PeerId>,
    ) -> Option<LeadershipChange> {
        if (role, term, leader) == (self.role, self.term, self.leader) {
            return None;
        }
        let is_new_leader = leader.is_some() && (leader, term) != (self.leader, self.term);
        self.leaders += u64::from(is_new_leader);
        if leader.is_some() && leader != self.leader {
            self.leader_since_ns = now.wall_ns;
        }
        if leader.is_some() && leader != Some(own_id) {
            self.last_other_leader = leader;
        }
        if leader.is_some() || self.leader.is_some() {
            self.had_leader = true;
            self.last_led_us = now.mono_us;
        }
        self.role = role;
        self.term = term;
        self.leader = leader;
        Some(LeadershipChange { is_new_leader })
    }

    /// When the present leader became known, in nanoseconds since the Unix epoch.
    pub fn leader_since_ns(&self) -> u64 {
        self.leader_since_ns
    }

    /// The last leader other than this member.
    pub fn last_other_leader(&self) -> Option<PeerId> {
        self.last_other_leader
    }

    /// How many leaders have come in since the start.
    pub fn leaders(&self) -> u64 {
        self.leaders
    }

    /// Whether there was a leader since the start; it may have been this member.
    pub fn had_leader(&self) -> bool {
        self.had_leader
    }

    /// Since when no leader is known, in microseconds of the monotonic clock: since the start, or
    /// since the last leader was given up. `None` if a leader is known.
    pub fn leaderless_since_us(&self) -> Option<u64> {
        self.leader.is_none().then_some(self.last_led_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_ID: PeerId = PeerId(1);

    fn at(mono_us: u64) -> Now {
        let wall_ns = mono_us * 1_000;
        Now { mono_us, wall_ns }
    }

    fn follow(leadership: &mut Leadership, mono_us: u64, term: u64, leader: Option<u64>) -> bool {
        let role = RaftRole::Follower;
        let leader = leader.map(PeerId);
        let change = leadership.update(at(mono_us), OWN_ID, role, Term(term), leader);
        change.is_some_and(|change| change.is_new_leader)
    }

    #[test]
    fn a_lost_leader_is_remembered() {
        let mut leadership = Leadership::new(at(5), Term(1));
        assert_eq!(leadership.leaderless_since_us(), Some(5));
        assert!(follow(&mut leadership, 10, 2, Some(2)));
        assert_eq!(leadership.leaderless_since_us(), None);
        assert!(!follow(&mut leadership, 30, 2, None));
        assert_eq!(leadership.leaderless_since_us(), Some(30));
        assert_eq!(leadership.last_other_leader(), Some(PeerId(2)));
        assert_eq!(leadership.leader_since_ns(), 10_000);
        assert!(leadership.had_leader());
    }

    #[test]
    fn a_leader_of_another_term_is_new() {
        let mut leadership = Leadership::new(at(5), Term(1));
        assert!(follow(&mut leadership, 10, 2, Some(2)));
        assert!(!follow(&mut leadership, 20, 2, Some(2)), "no change");
        assert!(follow(&mut leadership, 30, 3, Some(2)));
        assert_eq!(leadership.leader_since_ns(), 10_000, "the same machine");
    }
}
