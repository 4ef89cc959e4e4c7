//! Whether a sync runs in place or is handed over to a thread; pure.
//!
//! A sync in place holds the loop for as long as the device takes. Handing it over costs two wakings
//! of a thread, which is a large part of a sync of 0.1 ms and nothing beside one of 3 ms. So the
//! device is watched: as long as its syncs are short they run in place. One that is much longer, or
//! several that are a little longer, show a slow device, and then syncs are handed over for a while.
//! Start with [`SyncManner::on_sync`].
use crate::shell::disk::Manner;

/// Syncs are long if they take at least this long on average, in microseconds.
const LONG_US: u64 = 300;
/// One sync of this length is long by itself, in microseconds. A shorter one may be a thread that
/// waited for a processor.
const LONG_ALONE_US: u64 = 1_000;
/// The average moves by this part of the difference with each sync.
const AVERAGE_DIVISOR: u64 = 8;
/// For how long syncs are handed over after a long one, in microseconds.
const HANDED_OVER_US: u64 = 60_000_000;
/// A sync that takes longer holds up every client and peer noticeably, in microseconds.
const VERY_LONG_US: u64 = 50_000;
/// For how long syncs are handed over after a very long one, in microseconds. A device that is slow
/// now and then must not hold the loop each time that a minute of short syncs has gone by.
const VERY_LONG_HANDED_OVER_US: u64 = 3_600_000_000;

/// The manner of the next sync.
#[derive(Debug, Default)]
pub struct SyncManner {
    /// The moving average of the syncs, in microseconds.
    average_us: u64,
    /// Until when syncs are handed over, in microseconds of the monotonic clock; only rises.
    handed_over_until_us: u64,
}

impl SyncManner {
    /// One sync took `took_us`, and ended at `now_us`.
    pub fn on_sync(&mut self, took_us: u64, now_us: u64) {
        let rest_us = self.average_us - self.average_us / AVERAGE_DIVISOR;
        self.average_us = rest_us + took_us.min(LONG_ALONE_US) / AVERAGE_DIVISOR;
        if took_us < LONG_ALONE_US && self.average_us < LONG_US {
            return;
        }
        let lasts_us = if took_us > VERY_LONG_US {
            VERY_LONG_HANDED_OVER_US
        } else {
            HANDED_OVER_US
        };
        self.handed_over_until_us = self.handed_over_until_us.max(now_us + lasts_us);
    }

    /// The manner of a sync that starts now.
    pub fn at(&self, now_us: u64) -> Manner {
        if now_us < self.handed_over_until_us {
            Manner::HandedOver
        } else {
            Manner::InPlace
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_US: u64 = 1_000_000;

    #[test]
    fn short_syncs_run_in_place_and_one_that_is_a_little_longer_changes_nothing() {
        let mut manner = SyncManner::default();
        for took_us in [100, 100, 100, LONG_ALONE_US - 1, 100, 100, 100] {
            manner.on_sync(took_us, START_US);
            assert_eq!(manner.at(START_US), Manner::InPlace);
        }
    }

    #[test]
    fn syncs_that_are_a_little_longer_on_average_are_handed_over() {
        let mut manner = SyncManner::default();
        let longer = (0..30).take_while(|_| {
            manner.on_sync(LONG_US + 50, START_US);
            manner.at(START_US) == Manner::InPlace
        });
        assert!((2..30).contains(&longer.count()), "after some of them");
    }

    #[test]
    fn after_a_long_sync_a_minute_of_short_ones_is_handed_over() {
        let mut manner = SyncManner::default();
        manner.on_sync(LONG_ALONE_US, START_US);
        manner.on_sync(1, START_US + HANDED_OVER_US / 2);
        assert_eq!(manner.at(START_US + HANDED_OVER_US - 1), Manner::HandedOver);
        assert_eq!(manner.at(START_US + HANDED_OVER_US), Manner::InPlace);
        manner.on_sync(LONG_ALONE_US, START_US + 10);
        assert_eq!(manner.at(START_US + HANDED_OVER_US), Manner::HandedOver);
    }

    #[test]
    fn after_a_very_long_sync_an_hour_is_handed_over() {
        let mut manner = SyncManner::default();
        manner.on_sync(VERY_LONG_US + 1, START_US);
        manner.on_sync(LONG_ALONE_US, START_US + 5);
        let end_us = START_US + VERY_LONG_HANDED_OVER_US;
        assert_eq!(manner.at(end_us - 1), Manner::HandedOver);
        assert_eq!(manner.at(end_us), Manner::InPlace);
    }
}
