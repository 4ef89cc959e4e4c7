//! How fast a leader appends joins.
//!
//! Each join is an entry, a change of the configuration and a new peer to send data to. A script,
//! or a machine that loses its data directory at each start, can ask for any number of them. So a
//! few are appended at once, as when a cluster is set up, and further ones wait for their turn; the
//! machines that ask have nothing to repeat. Start with [`JoinPace::on_time`].

/// How many joins may be appended at once.
const JOINS_AT_ONCE: u32 = 8;

/// The time after which one more may be appended, in microseconds. A request waits for 5 s at most,
/// so 28 machines that ask at once are admitted, and later ones ask again.
const JOIN_US: u64 = 250_000;

/// The joins that this leader may append.
pub struct JoinPace {
    /// How many may be appended at `at_us`; at most `JOINS_AT_ONCE`.
    left: u32,
    /// In microseconds of the monotonic clock.
    at_us: u64,
}

impl JoinPace {
    /// Nothing was appended yet.
    pub fn new(now_us: u64) -> JoinPace {
        JoinPace {
            left: JOINS_AT_ONCE,
            at_us: now_us,
        }
    }

    /// Time has passed. To be called before the methods below.
    pub fn on_time(&mut self, now_us: u64) {
        let gained = now_us.saturating_sub(self.at_us) / JOIN_US;
        if u64::from(self.left) + gained >= u64::from(JOINS_AT_ONCE) {
            *self = JoinPace::new(now_us);
        } else {
            self.left += gained as u32;
            self.at_us += gained * JOIN_US;
        }
    }

    /// Whether a join may be appended now.
    pub fn is_free(&self) -> bool {
        self.left > 0
    }

    /// A join was appended.
    pub fn on_join(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// When the next join may be appended, in microseconds of the monotonic clock; `None`: now.
    pub fn free_us(&self) -> Option<u64> {
        (!self.is_free()).then_some(self.at_us.saturating_add(JOIN_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_joins_at_once_and_then_one_after_the_other() {
        let mut pace = JoinPace::new(7);
        for _ in 0..JOINS_AT_ONCE {
            assert!(pace.is_free() && pace.free_us().is_none());
            pace.on_join();
        }
        pace.on_time(6 + JOIN_US);
        assert!(!pace.is_free());
        assert_eq!(pace.free_us(), Some(7 + JOIN_US));
        pace.on_time(8 + JOIN_US);
        assert!(pace.is_free());
        pace.on_join();
        assert_eq!(pace.free_us(), Some(7 + 2 * JOIN_US), "no time is lost");
        pace.on_time(u64::MAX);
        for _ in 0..JOINS_AT_ONCE {
            assert!(pace.is_free());
            pace.on_join();
        }
        assert!(!pace.is_free(), "the time before adds no more");
    }
}
