//! How long the turns of the loop take.
//!
//! A long turn delays every client and every peer, so no work may hold the loop for more than 10 ms.
//! The wait in the poll is not part of a turn. A sync in place is left out: the disk decides how
//! long it takes, and a slow disk is handed over to a thread. Start with `TurnTimes::end`.

/// A turn that takes longer is logged, in microseconds.
const LONG_US: u64 = 10_000;

/// The longest turn.
#[derive(Default)]
pub struct TurnTimes {
    /// When the present turn began, in microseconds of the monotonic clock; `None` before the
    /// first.
    began_us: Option<u64>,
    /// How much of the present turn does not count, in microseconds.
    left_out_us: u64,
    /// The longest turn since the last `take_longest`, in microseconds.
    longest_us: u64,
}

impl TurnTimes {
    /// A turn begins.
    pub fn begin(&mut self, now_us: u64) {
        self.began_us = Some(now_us);
        self.left_out_us = 0;
    }

    /// A part of the present turn does not count.
    pub fn leave_out(&mut self, us: u64) {
        self.left_out_us += us;
    }

    /// The turn ends, and the loop is about to wait.
    pub fn end(&mut self, now_us: u64) {
        let Some(began_us) = self.began_us.take() else {
            return;
        };
        let took_us = now_us.saturating_sub(began_us + self.left_out_us);
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
    fn the_longest_turn_is_kept_without_waits_and_syncs() {
        let mut times = TurnTimes::default();
        times.end(5);
        times.begin(10);
        times.end(40);
        times.begin(1_000);
        times.leave_out(200);
        times.end(1_250);
        times.begin(2_000);
        times.end(2_001);
        assert_eq!(times.take_longest(), 50);
        assert_eq!(times.take_longest(), 0);
    }
}
