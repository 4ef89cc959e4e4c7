//! The figures of `/v2/stats/self` and `/v2/stats/leader`: appends sent and received, and the time
//! until each was acknowledged.
//!
//! Sizes are estimates (`Message::append_bytes`); no message is encoded for them. Start with
//! [`Statistics`].
use crate::core::error::Code;
use crate::core::public_id::PublicId;
use crate::core::raft::{Member, Message, PeerId};
use crate::core::seam::{FollowerStats, Outcome};
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// A rate covers this many of the last appends.
const RATE_APPENDS: usize = 200;
/// There is no rate once the last append is older than this, in microseconds.
const IDLE_US_MAX: u64 = 1_000_000;

/// The appends in one direction, sent or received.
#[derive(Default)]
pub struct AppendTraffic {
    count: u64,
    /// The last appends, oldest first, at most `RATE_APPENDS`: the time in microseconds of the
    /// monotonic clock, and the bytes.
    last: VecDeque<(u64, usize)>,
    /// The sum of the bytes in `last`.
    last_bytes: usize,
}

/// Appends and bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AppendRate {
    /// Appends per second. The interface of etcd calls them packages.
    pub packages: f64,
    /// Bytes per second.
    pub bytes: f64,
}

impl AppendTraffic {
    /// How many appends were sent or received since the start.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The rate of the last appends. `None` if the last append is older than `IDLE_US_MAX`, or if
    /// all came in the same microsecond.
    pub fn rate(&self, now: Now) -> Option<AppendRate> {
        let (first_us, _) = self.last.front()?;
        let (last_us, _) = self.last.back()?;
        if now.mono_us.saturating_sub(*last_us) > IDLE_US_MAX || last_us == first_us {
            return None;
        }
        let seconds = (last_us - first_us) as f64 / 1e6;
        Some(AppendRate {
            packages: self.last.len() as f64 / seconds,
            bytes: self.last_bytes as f64 / seconds,
        })
    }

    fn add(&mut self, now: Now, bytes: usize) {
        self.count += 1;
        if self.last.len() == RATE_APPENDS
            && let Some((_, oldest_bytes)) = self.last.pop_front()
        {
            self.last_bytes -= oldest_bytes;
        }
        self.last_bytes += bytes;
        self.last.push_back((now.mono_us, bytes));
    }
}

/// The latency of the appends to one follower. Kept as sums, so its size does not grow.
#[derive(Clone, Copy, Default)]
struct AppendLatency {
    /// The time between the last acknowledged append and its acknowledgement.
    current_us: u64,
    sum_us: f64,
    sum_of_squares: f64,
    minimum_us: u64,
    maximum_us: u64,
    /// How many appends were acknowledged.
    success: u64,
    /// How many appends were refused.
    fail: u64,
}

impl AppendLatency {
    fn on_acknowledged(&mut self, took_us: u64) {
        if self.success == 0 {
            self.minimum_us = took_us;
        }
        self.success += 1;
        self.current_us = took_us;
        self.sum_us += took_us as f64;
        self.sum_of_squares += (took_us as f64) * (took_us as f64);
        self.minimum_us = self.minimum_us.min(took_us);
        self.maximum_us = self.maximum_us.max(took_us);
    }

    fn on_refused(&mut self) {
        self.fail += 1;
    }

    fn to_stats(self, name: &str, id: PublicId) -> FollowerStats {
        let count = self.success.max(1) as f64;
        let average_us = self.sum_us / count;
        // Rounding may leave the difference slightly negative.
        let variance = (self.sum_of_squares / count - average_us * average_us).max(0.0);
        FollowerStats {
            name: name.into(),
            id,
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

/// The counters of one member.
#[derive(Default)]
pub struct Statistics {
    received: AppendTraffic,
    sent: AppendTraffic,
    /// The followers of the present leadership. A removed follower stays until the leadership ends.
    followers: BTreeMap<PeerId, AppendLatency>,
    /// Requests that were answered with error 300.
    failed: u64,
}

impl Statistics {
    /// A request is answered.
    pub fn on_answer(&mut self, outcome: &Outcome) {
        let has_failed =
            matches!(outcome, Outcome::Failed(error) if error.code == Code::RaftInternal);
        self.failed += u64::from(has_failed);
    }

    /// How many requests were answered with error 300.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// A message was received.
    pub fn on_received(&mut self, now: Now, message: &Message) {
        if let Some(bytes) = message.append_bytes() {
            self.received.add(now, bytes);
        }
    }

    /// A message is sent.
    pub fn on_sent(&mut self, now: Now, message: &Message) {
        if let Some(bytes) = message.append_bytes() {
            self.sent.add(now, bytes);
        }
    }

    /// The follower `to` acknowledged an append after `took_us` microseconds, or rejected it
    /// (`None`).
    pub fn on_round_trip(&mut self, to: PeerId, took_us: Option<u64>) {
        let latency = self.followers.entry(to).or_default();
        match took_us {
            Some(took_us) => latency.on_acknowledged(took_us),
            None => latency.on_refused(),
        }
    }

    /// The role, the term or the leader has changed: the figures of followers start anew.
    pub fn on_leadership_change(&mut self) {
        self.followers.clear();
    }

    /// The appends received.
    pub fn received(&self) -> &AppendTraffic {
        &self.received
    }

    /// The appends sent.
    pub fn sent(&self) -> &AppendTraffic {
        &self.sent
    }

    /// The figures of one member, whose public id is `id`.
    pub fn follower(&self, member: &Member, id: PublicId) -> FollowerStats {
        let latency = self.followers.get(&member.id).copied();
        latency.unwrap_or_default().to_stats(&member.name, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        let wall_ns = 0;
        Now { mono_us, wall_ns }
    }

    #[test]
    fn a_rate_covers_the_last_appends_and_ends_when_idle() {
        let mut traffic = AppendTraffic::default();
        assert_eq!(traffic.rate(at(0)), None);
        for number in 0..=RATE_APPENDS as u64 {
            traffic.add(at(number * 10_000), 30);
        }
        let rate = traffic.rate(at(2_000_000)).expect("it is not idle");
        assert!((rate.packages - 200.0 / 1.99).abs() < 1e-9);
        assert!((rate.bytes - rate.packages * 30.0).abs() < 1e-6);
        assert_eq!(traffic.rate(at(3_000_001)), None);
        assert_eq!(traffic.count(), RATE_APPENDS as u64 + 1);
    }

    #[test]
    fn latencies_are_summed_up() {
        let mut latency = AppendLatency::default();
        latency.on_acknowledged(1_000);
        latency.on_refused();
        latency.on_acknowledged(3_000);
        let stats = latency.to_stats("a", PublicId::of_member(1, PeerId(2)));
        assert_eq!((stats.success, stats.fail), (2, 1));
        assert_eq!((stats.minimum_ms, stats.maximum_ms), (1.0, 3.0));
        assert_eq!((stats.average_ms, stats.deviation_ms), (2.0, 1.0));
    }
}
