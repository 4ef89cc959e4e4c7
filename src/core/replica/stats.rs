//! What `/v2/stats/self` and `/v2/stats/leader` count: append entries sent and received, and how
//! long they took.
//!
//! Start with `Figures`.
use crate::core::raft::{Configuration, Message, PeerId};
use crate::core::seam::FollowerStats;
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Rates are taken over this many packages (BEHAVIOUR: statistics).
const PACKAGES: usize = 200;
/// A rate whose last package is older than this is not told.
const IDLE_US: u64 = 1_000_000;

/// Packages of one direction.
#[derive(Default)]
pub struct Flow {
    pub count: u64,
    /// When each of the last ones passed, and its bytes.
    last: VecDeque<(u64, usize)>,
    bytes: usize,
}

/// Packages and bytes in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub packages: f64,
    pub bytes: f64,
}

impl Flow {
    fn add(&mut self, now: Now, bytes: usize) {
        self.count += 1;
        if self.last.len() == PACKAGES {
            let (_, bytes) = self.last.pop_front().expect("it is full");
            self.bytes -= bytes;
        }
        self.bytes += bytes;
        self.last.push_back((now.mono_us, bytes));
    }

    pub fn rate(&self, now: Now) -> Option<Rate> {
        let (first_us, _) = self.last.front()?;
        let (last_us, _) = self.last.back()?;
        if now.mono_us.saturating_sub(*last_us) > IDLE_US || last_us == first_us {
            return None;
        }
        let seconds = (last_us - first_us) as f64 / 1e6;
        Some(Rate {
            packages: self.last.len() as f64 / seconds,
            bytes: self.bytes as f64 / seconds,
        })
    }
}

/// The latency to one follower: sums, so that nothing grows.
#[derive(Clone, Copy, Default)]
struct Latency {
    current_us: u64,
    sum_us: f64,
    squares: f64,
    minimum_us: u64,
    maximum_us: u64,
    success: u64,
    fail: u64,
}

impl Latency {
    fn add(&mut self, took_us: Option<u64>) {
        let Some(took_us) = took_us else {
            self.fail += 1;
            return;
        };
        if self.success == 0 {
            self.minimum_us = took_us;
        }
        self.success += 1;
        self.current_us = took_us;
        self.sum_us += took_us as f64;
        self.squares += (took_us as f64) * (took_us as f64);
        self.minimum_us = self.minimum_us.min(took_us);
        self.maximum_us = self.maximum_us.max(took_us);
    }

    fn told(&self, name: &str) -> FollowerStats {
        let count = self.success.max(1) as f64;
        let average_us = self.sum_us / count;
        let variance = (self.squares / count - average_us * average_us).max(0.0);
        FollowerStats {
            name: name.into(),
            current_ms: self.current_us as f64 / 1e3,
            average_ms: average_us / 1e3,
            deviation_ms: variance.sqrt() / 1e3,
            minimum_ms: self.minimum_us as f64 / 1e3,
            maximum_ms: self.maximum_us as f64 / 1e3,
            success: self.success,
            fail: self.fail,
        }
    }
}

/// What one machine counts.
#[derive(Default)]
pub struct Figures {
    pub received: Flow,
    pub sent: Flow,
    followers: BTreeMap<PeerId, Latency>,
}

impl Figures {
    pub fn on_received(&mut self, now: Now, message: &Message) {
        if let Some(bytes) = message.append_bytes() {
            self.received.add(now, bytes);
        }
    }

    pub fn on_sent(&mut self, now: Now, message: &Message) {
        if let Some(bytes) = message.append_bytes() {
            self.sent.add(now, bytes);
        }
    }

    /// An append was acknowledged after so long, or refused.
    pub fn on_round_trip(&mut self, to: PeerId, took_us: Option<u64>) {
        self.followers.entry(to).or_default().add(took_us);
    }

    /// A new leadership counts anew.
    pub fn on_new_leader(&mut self) {
        self.followers.clear();
    }

    /// The members but this one, in order of name.
    pub fn followers(&self, members: &Configuration, own: PeerId) -> Vec<FollowerStats> {
        let others = members.members.iter().filter(|m| m.id != own);
        let mut told: Vec<FollowerStats> = others
            .map(|m| {
                let latency = self.followers.get(&m.id).copied().unwrap_or_default();
                latency.told(&m.name)
            })
            .collect();
        told.sort_by(|a, b| a.name.cmp(&b.name));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_last_packages_and_end_when_idle() {
        let mut flow = Flow::default();
        let at = |mono_us| Now {
            mono_us,
            wall_ns: 0,
        };
        assert_eq!(flow.rate(at(0)), None);
        for package in 0..=PACKAGES as u64 {
            flow.add(at(package * 10_000), 30);
        }
        let rate = flow.rate(at(2_000_000)).expect("not idle");
        assert!((rate.packages - 200.0 / 1.99).abs() < 1e-9);
        assert!((rate.bytes - rate.packages * 30.0).abs() < 1e-6);
        assert_eq!(flow.rate(at(3_000_001)), None);
        assert_eq!(flow.count, PACKAGES as u64 + 1);
    }

    #[test]
    fn latency_is_summed_up() {
        let mut latency = Latency::default();
        for took_us in [Some(1_000), None, Some(3_000)] {
            latency.add(took_us);
        }
        let told = latency.told("a");
        assert_eq!((told.success, told.fail), (2, 1));
        assert_eq!((told.minimum_ms, told.maximum_ms), (1.0, 3.0));
        assert_eq!((told.average_ms, told.deviation_ms), (2.0, 1.0));
    }
}
