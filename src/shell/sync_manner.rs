//! Whether a sync runs in place or is handed over to a thread; pure.
//!
//! A sync in place holds the loop for as long as the device takes. Handing it over costs two wakings
//! of a thread, a large part of a sync of 0.1 ms and little beside one of 3 ms. So the device is
//! watched: syncs are handed over while the latest ones were long on average. A single long sync
//! raises the average at once, and a few short ones lead back: most devices have a long one now and
//! then. After a very long one syncs are handed over for an hour.
//!
//! Start with [`SyncManner::on_sync`].
use crate::shell::disk::Manner;

/// Syncs are handed over while they take at least this long on average, in microseconds.
const LONG_US: u64 = 1_000;
/// A sync of this length raises the average to its own length, in microseconds.
const LONG_ALONE_US: u64 = 2_000;
/// A longer sync counts as one of this length in the average, in microseconds.
const COUNTED_US_MAX: u64 = 4_000;
/// The average moves by this part of the difference with each sync.
const AVERAGE_DIVISOR: u64 = 8;
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
    /// Until when syncs are handed over after a very long one, in microseconds of the monotonic
    /// clock; only rises.
    handed_over_until_us: u64,
}

impl SyncManner {
    /// One sync took `took_us`, and ended at `now_us`.
    pub fn on_sync(&mut self, took_us: u64, now_us: u64) {
        let counted_us = took_us.min(COUNTED_US_MAX);
        let rest_us = self.average_us - self.average_us / AVERAGE_DIVISOR;
        self.average_us = rest_us + counted_us / AVERAGE_DIVISOR;
        if took_us >= LONG_ALONE_US {
            self.average_us = self.average_us.max(counted_us);
        }
        if took_us > VERY_LONG_US {
            self.handed_over_until_us = now_us + VERY_LONG_HANDED_OVER_US;
        }
    }

    /// The manner of a sync that starts now.
    pub fn at(&self, now_us: u64) -> Manner {
        if self.average_us >= LONG_US || now_us < self.handed_over_until_us {
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

    /// How many syncs of `took_us` each are made until the manner is `wanted`; at most 100.
    fn syncs_until(manner: &mut SyncManner, wanted: Manner, took_us: u64) -> u64 {
        let mut syncs = 0;
        while manner.at(START_US) != wanted && syncs < 100 {
            manner.on_sync(took_us, START_US);
            syncs += 1;
        }
        syncs
    }

    #[test]
    fn short_syncs_run_in_place_and_one_that_is_longer_changes_nothing() {
        let mut manner = SyncManner::default();
        for took_us in [100, 100, 100, LONG_ALONE_US - 1, 100, 100, 100] {
            manner.on_sync(took_us, START_US);
            assert_eq!(manner.at(START_US), Manner::InPlace);
        }
    }

    #[test]
    fn syncs_that_are_longer_on_average_are_handed_over() {
        let mut manner = SyncManner::default();
        let syncs = syncs_until(&mut manner, Manner::HandedOver, LONG_ALONE_US);
        assert_eq!(syncs, 1);
        let mut manner = SyncManner::default();
        let syncs = syncs_until(&mut manner, Manner::HandedOver, LONG_US + 100);
        assert!((2..30).contains(&syncs), "after some of them");
    }

    #[test]
    fn a_few_short_syncs_after_a_long_one_lead_back() {
        let mut manner = SyncManner::default();
        manner.on_sync(VERY_LONG_US, START_US);
        let syncs = syncs_until(&mut manner, Manner::InPlace, 100);
        assert!((2..20).contains(&syncs), "{syncs} syncs");
    }

    #[test]
    fn after_a_very_long_sync_an_hour_is_handed_over() {
        let mut manner = SyncManner::default();
        manner.on_sync(VERY_LONG_US + 1, START_US);
        for _ in 0..100 {
            manner.on_sync(100, START_US + 5);
        }
        let end_us = START_US + VERY_LONG_HANDED_OVER_US;
        assert_eq!(manner.at(end_us - 1), Manner::HandedOver);
        assert_eq!(manner.at(end_us), Manner::InPlace);
    }
}
