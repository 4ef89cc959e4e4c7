//! The only reader of clocks. The reactor reads the clock once a turn and hands the time down as a
//! value.
//!
//! This file keeps no reading for others: whatever needs the time is given a [`Now`].
use crate::core::timer::Now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock, counted from the start of the process, and the wall clock.
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts to count monotonic time.
    pub fn new() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// The time now. Monotonic time is at least 1 microsecond.
    pub fn now(&self) -> Now {
        let mono = self.start.elapsed().as_micros() as u64 + 1;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_us: mono,
            // A wall clock before 1970 counts as the epoch: keys with a ttl then expire by it.
            wall_ns: wall.unwrap_or(Duration::ZERO).as_nanos() as u64,
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// Blocks for `ms` milliseconds. Only for retries at start, before anything is served.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
