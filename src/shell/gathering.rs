//! The wait for further requests before a slow sync, so that one sync covers them all; pure.
//!
//! Clients that were just answered often send their next request at once. If the next sync begins
//! before those requests arrive, each of them waits for two syncs, and every other sync serves half
//! of the clients. So after a slow sync the next one waits briefly until as many records have come
//! as the last one had. The wait is a deadline of the poll: everything else goes on. It begins once
//! the answers have left, and anew with each record, as many requests take longer than one.
//! Start with `on_sync`, `on_answers` and `is_waiting`.

/// A sync is slow if it takes at least this long, in microseconds. After a shorter one a wait costs
/// more than it saves.
const SLOW_SYNC_US: u64 = 300;
/// The wait for a further record is at most the duration of the last sync divided by this.
const SYNC_DIVISOR: u64 = 8;
/// The wait for a further record is at most this long, in microseconds: clients that take longer were
/// not waiting.
const PAUSE_US_MAX: u64 = 20_000;
/// The whole wait is at most this many times that for one record.
const PAUSES_MAX: u64 = 4;

/// A slow sync.
#[derive(Clone, Copy, Debug)]
struct SlowSync {
    took_us: u64,
    /// How many records it made durable.
    records: u64,
}

/// The wait of the next sync for further records.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// It ends once this many records were appended since the start.
    expected: u64,
    /// As many were appended when one came last.
    appended: u64,
    /// Without another one it ends at this time, in microseconds of the monotonic clock.
    until_us: u64,
    /// Each record may put off the end by this, in microseconds...
    pause_us: u64,
    /// ...but not past this time.
    end_us: u64,
}

/// The wait, and the sync that causes it.
#[derive(Debug, Default)]
pub struct Gathering {
    /// A slow sync has ended, and the turn has not sent its answers yet. Records that came during the
    /// sync wait until then: if the next sync began with them, the clients that are answered now
    /// would wait for it and for one more, and the clients would stay in two groups for ever.
    is_answering: bool,
    /// The last sync, if it was slow. Taken when a wait begins, so each slow sync causes at most one
    /// wait.
    slow_sync: Option<SlowSync>,
    /// The wait of the next sync; `None` if it begins at once.
    wait: Option<Wait>,
}

impl Gathering {
    /// A sync took `took_us` microseconds and made `records` records durable.
    pub fn on_sync(&mut self, took_us: u64, records: u64) {
        let is_slow = took_us >= SLOW_SYNC_US && records > 0;
        self.slow_sync = is_slow.then_some(SlowSync { took_us, records });
        self.is_answering = is_slow;
    }

    /// Whether [`Gathering::on_answers`] would do something.
    pub fn is_due(&self) -> bool {
        self.slow_sync.is_some() || self.wait.is_some()
    }

    /// The turn has sent `answers` answers, maybe none. `appended` is the number of records that were
    /// appended since the start. At most as many answers as the sync had records are to writes: so
    /// many further records are expected.
    pub fn on_answers(&mut self, answers: usize, appended: u64, now_us: u64) {
        self.is_answering = false;
        if !self.is_waiting(appended, now_us) {
            self.wait = None;
        }
        if let Some(wait) = &mut self.wait
            && wait.appended < appended
        {
            wait.appended = appended;
            wait.until_us = (now_us + wait.pause_us).min(wait.end_us);
        }
        if answers == 0 {
            return;
        }
        if let Some(sync) = self.slow_sync.take() {
            let pause_us = (sync.took_us / SYNC_DIVISOR).min(PAUSE_US_MAX);
            self.wait = Some(Wait {
                expected: appended + sync.records.min(answers as u64),
                appended,
                until_us: now_us + pause_us,
                pause_us,
                end_us: now_us + PAUSES_MAX * pause_us,
            });
        }
    }

    /// Whether the next sync waits, with `appended` records appended since the start.
    pub fn is_waiting(&self, appended: u64, now_us: u64) -> bool {
        let wait = self.wait.as_ref();
        self.is_answering
            || wait.is_some_and(|wait| appended < wait.expected && now_us < wait.until_us)
    }

    /// When the wait ends at the latest, in microseconds of the monotonic clock; `None` without one.
    pub fn deadline(&self, appended: u64, now_us: u64) -> Option<u64> {
        let until_us = self.wait?.until_us;
        self.is_waiting(appended, now_us).then_some(until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_sync_causes_no_wait() {
        let mut gathering = Gathering::default();
        gathering.on_sync(SLOW_SYNC_US - 1, 9);
        gathering.on_answers(9, 20, 0);
        assert_eq!(gathering.deadline(20, 0), None);
    }

    #[test]
    fn what_came_during_a_slow_sync_waits_for_its_answers() {
        let mut gathering = Gathering::default();
        gathering.on_sync(8_000, 2);
        assert!(gathering.is_waiting(13, 100), "no answer has left");
        gathering.on_answers(2, 13, 100);
        assert!(gathering.is_waiting(14, 100), "one more record is expected");
        assert!(!gathering.is_waiting(15, 100), "all records have come");
        gathering.on_sync(8_000, 5);
        gathering.on_answers(0, 15, 200);
        assert!(!gathering.is_waiting(15, 200), "a follower has no clients");
    }

    #[test]
    fn each_record_puts_the_end_off_up_to_four_pauses() {
        let mut gathering = Gathering::default();
        gathering.on_sync(8_000, 9);
        gathering.on_answers(9, 10, 0);
        assert_eq!(gathering.deadline(10, 0), Some(1_000));
        gathering.on_answers(0, 12, 900);
        assert_eq!(gathering.deadline(12, 900), Some(1_900));
        gathering.on_answers(0, 12, 1_800);
        assert_eq!(gathering.deadline(12, 1_800), Some(1_900), "none came");
        gathering.on_answers(0, 13, 1_850);
        gathering.on_answers(0, 14, 2_800);
        gathering.on_answers(0, 15, 3_700);
        assert_eq!(gathering.deadline(15, 3_700), Some(4_000), "four pauses");
        assert!(!gathering.is_waiting(15, 4_000));
    }

    #[test]
    fn a_slow_sync_causes_one_wait_for_as_many_records() {
        let mut gathering = Gathering::default();
        gathering.on_sync(8_000, 2);
        gathering.on_answers(0, 10, 100);
        assert_eq!(gathering.deadline(10, 100), None, "nothing was answered");
        // Three of the answers are to reads.
        gathering.on_answers(5, 10, 100);
        assert_eq!(gathering.deadline(10, 100), Some(1_100));
        assert!(gathering.is_waiting(11, 300), "one more record is expected");
        assert!(!gathering.is_waiting(12, 300), "all records have come");
        assert!(!gathering.is_waiting(10, 1_100), "the deadline has passed");
        gathering.on_answers(2, 12, 1_200);
        assert_eq!(gathering.deadline(12, 1_200), None, "one wait for a sync");
        gathering.on_sync(1_000_000, 1);
        gathering.on_answers(1, 12, 2_000);
        assert_eq!(gathering.deadline(12, 2_000), Some(2_000 + PAUSE_US_MAX));
    }
}
