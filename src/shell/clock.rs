//! The only reader of clocks.
//!
//! The reactor reads the clock once a turn, and again after a sync, and passes the time on as a
//! [`Now`]. At the end of a turn it reads the processor time of its thread. Must not keep a reading:
//! all other code gets the time as an argument.
//!
//! Elapsed time is `CLOCK_BOOTTIME`, which goes on while the machine is suspended: ttls and timeouts
//! do not last longer because a board slept.
use crate::core::timer::Now;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clock of elapsed time, counted from the start of the process, and the wall clock.
pub struct Clock {
    /// The time since boot when the process started, in microseconds.
    start_us: u64,
}

impl Clock {
    /// Starts to count monotonic time.
    pub fn new() -> Clock {
        Clock {
            start_us: elapsed_us(ClockId::Boottime),
        }
    }

    /// Microseconds of the monotonic clock.
    fn mono_us(&self) -> u64 {
        elapsed_us(ClockId::Boottime).saturating_sub(self.start_us) + 1
    }

    /// The processor time that the calling thread has used, in microseconds.
    pub fn thread_cpu_us(&self) -> u64 {
        elapsed_us(ClockId::ThreadCPUTime)
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

/// The reading of a clock that counts from some start, in microseconds. `Boottime` includes the
/// time for which the machine was suspended.
fn elapsed_us(id: ClockId) -> u64 {
    let read = clock_gettime(id);
    read.tv_sec as u64 * 1_000_000 + read.tv_nsec as u64 / 1_000
}

/// Blocks the thread for `ms` milliseconds. Only for retries at start, before the loop runs.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}
