//! How long this machine's disk takes to sync, as far as timeouts depend on it.
//!
//! Members tell each other the value in each append and reply. A timeout that waits for an answer
//! is at least three times the slowest disk on the way (`Election::patience_us`).

/// A window lasts this long, in microseconds.
const WINDOW_US: u64 = 10_000_000;

/// The second slowest sync of the last 10 to 20 seconds.
///
/// The second slowest and not the slowest: one sync may be slow because the process was stopped in
/// the middle of it, or the device stalled once. That predicts nothing, but would lengthen the wait
/// for a dead leader to three times that sync.
#[derive(Default)]
pub struct SyncTimes {
    /// When the present window began, in microseconds of the monotonic clock.
    window_start_us: u64,
    /// The second slowest sync of the window before the present one, in microseconds; 0 if that
    /// window is more than one window length in the past.
    previous_us: u64,
    /// The slowest sync of the present window, in microseconds; at most `SyncTimes::SYNC_US_MAX`.
    slowest_us: u64,
    /// The second slowest one; at most `slowest_us`.
    second_us: u64,
}

impl SyncTimes {
    /// A slower sync does not lengthen timeouts any further, in microseconds.
    pub const SYNC_US_MAX: u64 = 10_000_000;

    /// A sync that took `took_us` has ended.
    pub fn record(&mut self, now_us: u64, took_us: u64) {
        if now_us >= self.window_start_us.saturating_add(WINDOW_US) {
            let is_stale = now_us >= self.window_start_us.saturating_add(2 * WINDOW_US);
            self.previous_us = if is_stale { 0 } else { self.second_us };
            self.slowest_us = 0;
            self.second_us = 0;
            self.window_start_us = now_us;
        }
        let took_us = took_us.min(SyncTimes::SYNC_US_MAX);
        self.second_us = self.second_us.max(took_us.min(self.slowest_us));
        self.slowest_us = self.slowest_us.max(took_us);
    }

    /// The second slowest sync, in microseconds; at most 10 seconds.
    pub fn second_slowest_us(&self) -> u32 {
        let second_us = self.previous_us.max(self.second_us);
        u32::try_from(second_us).expect("at most SYNC_US_MAX")
    }

    /// Part of `Election::check_invariants`.
    pub fn check_invariants(&self) {
        assert!(self.second_us <= self.slowest_us, "the order of syncs");
        assert!(
            self.slowest_us <= SyncTimes::SYNC_US_MAX,
            "a sync is capped"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sync_does_not_count() {
        let mut syncs = SyncTimes::default();
        syncs.record(0, 900);
        assert_eq!(syncs.second_slowest_us(), 0);
        syncs.record(1, 300);
        syncs.record(2, 100);
        assert_eq!(syncs.second_slowest_us(), 300);
    }

    #[test]
    fn a_window_is_kept_for_one_more() {
        let mut syncs = SyncTimes::default();
        syncs.record(0, 900);
        syncs.record(0, 800);
        syncs.record(WINDOW_US, 10);
        assert_eq!(syncs.second_slowest_us(), 800);
        syncs.record(2 * WINDOW_US, 10);
        assert_eq!(syncs.second_slowest_us(), 0);
    }

    #[test]
    fn a_sync_is_capped() {
        let mut syncs = SyncTimes::default();
        syncs.record(0, u64::MAX);
        syncs.record(0, u64::MAX);
        assert_eq!(u64::from(syncs.second_slowest_us()), SyncTimes::SYNC_US_MAX);
    }
}
