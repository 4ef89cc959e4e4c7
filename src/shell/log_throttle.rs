//! Keeps a fault that goes on from filling the log.
//!
//! What the core reports about a peer has a back-off of its own, in `core::peers`. Start with
//! [`LogThrottle::is_due`].
use crate::core::timer::Now;

/// A line is due at most once in this time, in microseconds.
const PERIOD_US: u64 = 30_000_000;

/// When one kind of line is logged.
#[derive(Default)]
pub struct LogThrottle {
    /// When the last line was due, in microseconds of the monotonic clock; `None` before.
    last_us: Option<u64>,
    /// How often the fault has occurred since, without a line.
    suppressed: u64,
}

impl LogThrottle {
    /// The fault has occurred. Returns how often it has occurred without a line since the last one,
    /// if a line is due now.
    pub fn is_due(&mut self, now: Now) -> Option<u64> {
        let is_recent = |last_us| now.mono_us < last_us + PERIOD_US;
        if self.last_us.is_some_and(is_recent) {
            self.suppressed += 1;
            return None;
        }
        self.last_us = Some(now.mono_us);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_what_was_suppressed_before_it() {
        let mut throttle = LogThrottle::default();
        let mut at = |mono_us| {
            throttle.is_due(Now {
                mono_us,
                wall_ns: 0,
            })
        };
        assert_eq!(at(5), Some(0));
        assert_eq!(at(6), None);
        assert_eq!(at(PERIOD_US + 4), None);
        assert_eq!(at(PERIOD_US + 5), Some(2));
        assert_eq!(at(3 * PERIOD_US), Some(0));
    }
}
