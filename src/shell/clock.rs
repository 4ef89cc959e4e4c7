//! The only reader of clocks. The reactor reads it once a turn and hands the result down as a
//! value.
//!
//! Must not keep a reading for others: whoever wants the time is given `Now`.
use crate::core::timer::Now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time counted from when this was made, and wall-clock time.
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting.
    pub fn new() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// The time now. Never 0, so that 0 can stand for "never".
    pub fn now(&self) -> Now {
        let mono = self.start.elapsed().as_micros() as u64 + 1;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono_us: mono,
            // A clock before 1970 is broken; ttls then count from the epoch, and nothing else looks
            // at it.
            wall_ns: wall.unwrap_or(Duration::ZERO).as_nanos() as u64,
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// Waits; only for the retries at start, when nothing else is served yet.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
