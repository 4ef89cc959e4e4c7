//! The cluster clock beside the true time.
//!
//! The clock may stand still while there is no leader, and it may be slow by what was delayed. It
//! must never run ahead: between two stamps in the committed log it moves by no more than the time
//! that passed between the two appends. So no lease ends before its ttl is over since a leader took
//! the request. The one exception is an outage of all members, of which only wall clocks tell; here
//! they step by years. Start at `Times::on_committed`.
use super::truth::{Checked, violation};
use tern::core::cluster_time::Stamp;

/// Readings are rounded to microseconds.
const ROUNDING_NS: u64 = 1_000;

/// The last stamp that was committed, and what happened since.
#[derive(Default)]
pub struct Times {
    /// When its entry was first appended, and the stamp.
    last: Option<(u64, Stamp)>,
    /// When a leader last asked its wall clock how long all were down.
    bridged_us: Option<u64>,
}

impl Times {
    /// A new leader has found no reading of the clock in its majority.
    pub fn on_bridged(&mut self, now_us: u64) {
        self.bridged_us = Some(now_us);
    }

    /// The entry at `index` is committed; it was first appended at `appended_us`.
    pub fn on_committed(&mut self, index: u64, appended_us: u64, stamp: Stamp) -> Checked {
        let before = self.last.replace((appended_us, stamp));
        let Some((before_us, before)) = before else {
            return Ok(());
        };
        let is_bridged = self.bridged_us.is_some_and(|us| us >= before_us);
        if stamp.cluster_ns < before.cluster_ns {
            let text = format!("entry {index}: {stamp:?} after {before:?}");
            return violation("clock-goes-back", text);
        }
        let moved_ns = stamp.cluster_ns - before.cluster_ns;
        let passed_ns = (appended_us - before_us) * 1_000;
        if !is_bridged && moved_ns > passed_ns + ROUNDING_NS {
            let text = format!("entry {index}: by {moved_ns} ns in {passed_ns} ns");
            return violation("clock-runs-ahead", text);
        }
        Ok(())
    }
}
