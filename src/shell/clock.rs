//! The only reader of clocks.
//!
//! The reactor reads the clock once a turn, and again after a sync, and passes the time on as a
//! [`Now`]. It reads the monotonic clock once more at the end of a turn, to measure it. Must not keep a reading: all other code gets the time as an argument.
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

    /// Microseconds of the monotonic clock.
    pub fn mono_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }

    /// The present time. Monotonic time starts at 1 microsecond, so that it is never 0.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_us: self.mono_us(),
            // A wall clock before 1970 counts as 1970.
            wall_ns: wall.unwrap_or(Duration::ZERO).as_nanos() as u64,
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// Blocks the thread for `ms` milliseconds. Only for retries at start, before the loop runs.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
