//! How long the turns of the loop take.
//!
//! A long turn delays every client and every peer, so no work may hold the loop for more than 10 ms.
//! It measures the processor time of the thread: that is the work of the turn, whatever else
//! the machine does, and the wait in the poll and for a sync is no part of it. Start with
//! `TurnTimes::end`.

/// A turn that takes longer is logged, in microseconds.
const LONG_US: u64 = 10_000;

/// The longest turn.
#[derive(Default)]
pub struct TurnTimes {
    /// The processor time of the thread at the end of the last turn, in microseconds; `None` before
    /// the first.
    last_us: Option<u64>,
    /// The longest turn since the last `take_longest`, in microseconds.
    longest_us: u64,
}

impl TurnTimes {
    /// A turn has ended. The thread has used `cpu_us` of processor time since its start.
    pub fn end(&mut self, cpu_us: u64) {
        let Some(last_us) = self.last_us.replace(cpu_us) else {
            return;
        };
        let took_us = cpu_us.saturating_sub(last_us);
        if took_us > LONG_US {
            log::debug!("a turn of the loop took {} ms", took_us / 1_000);
        }
        self.longest_us = self.longest_us.max(took_us);
    }

    /// The longest turn since the last call, in microseconds.
    pub fn take_longest(&mut self) -> u64 {
        std::mem::take(&mut self.longest_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_kept_until_it_is_taken() {
        let mut times = TurnTimes::default();
        times.end(500);
        times.end(540);
        times.end(590);
        times.end(591);
        assert_eq!(times.take_longest(), 50);
        assert_eq!(times.take_longest(), 0);
    }
}
