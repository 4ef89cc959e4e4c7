//! The wait for further requests before a slow sync, so that one sync covers them all; pure.
//!
//! Clients that were just answered often send their next request at once. If the next sync begins
//! before those requests arrive, each of them waits for two syncs. So after a slow sync the loop
//! waits briefly for as many requests as it has answered. The wait is the timeout of the poll, and
//! a turn inside it ends before the disk is touched. Start with `on_answers` and `maybe_wait`.

/// A sync is slow if it takes at least this long, in microseconds. After a shorter one a wait costs
/// more than it saves.
const SLOW_SYNC_US: u64 = 1_000;
/// The wait is at most the duration of the last sync divided by this.
const SYNC_DIVISOR: u64 = 8;
/// The wait is at most this long, in microseconds, because no timer of the machine fires meanwhile.
const WAIT_US_MAX: u64 = 5_000;

/// Whether the loop waits for requests, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GatherState {
    /// The loop does not wait.
    #[default]
    Idle,
    /// The last turn sent `answers` answers. The wait begins in the next turn, after the requests
    /// that have arrived meanwhile are decoded.
    Due { answers: u64 },
    /// The loop waits for the request with the serial number `last_serial`, or until `until_us` in
    /// microseconds of the monotonic clock.
    Waiting { last_serial: u64, until_us: u64 },
}

/// The wait, and the sync that causes it.
#[derive(Debug, Default)]
pub struct Gathering {
    state: GatherState,
    /// The duration of the last sync in microseconds, if it was slow. Cleared when a wait begins,
    /// so each slow sync causes at most one wait.
    slow_sync_us: Option<u64>,
}

impl Gathering {
    /// A sync took `took_us` microseconds.
    pub fn on_sync(&mut self, took_us: u64) {
        self.slow_sync_us = (took_us >= SLOW_SYNC_US).then_some(took_us);
    }

    /// The turn has sent `answers` answers.
    pub fn on_answers(&mut self, answers: usize) {
        self.state = GatherState::Idle;
        if self.slow_sync_us.is_some() && answers > 0 {
            self.state = GatherState::Due {
                answers: answers as u64,
            };
        }
    }

    /// Whether to end the turn here and wait for further requests. `serial` is the serial number of
    /// the last request that has arrived.
    pub fn maybe_wait(&mut self, serial: u64, now_us: u64) -> bool {
        if let GatherState::Due { answers } = self.state
            && let Some(sync_us) = self.slow_sync_us.take()
        {
            self.state = GatherState::Waiting {
                last_serial: serial + answers,
                until_us: now_us + (sync_us / SYNC_DIVISOR).min(WAIT_US_MAX),
            };
        }
        match self.state {
            GatherState::Waiting {
                last_serial,
                until_us,
            } => serial < last_serial && now_us < until_us,
            GatherState::Idle | GatherState::Due { .. } => false,
        }
    }

    /// The timeout of the poll in microseconds while a wait is due or running; `None` otherwise.
    pub fn timeout_us(&self, now_us: u64) -> Option<u64> {
        match self.state {
            GatherState::Idle => None,
            GatherState::Due { .. } => Some(0),
            GatherState::Waiting { until_us, .. } => Some(until_us.saturating_sub(now_us)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_sync_causes_no_wait() {
        let mut gathering = Gathering::default();
        gathering.on_sync(SLOW_SYNC_US - 1);
        gathering.on_answers(9);
        assert_eq!(gathering.timeout_us(0), None);
        assert!(!gathering.maybe_wait(0, 0));
    }

    #[test]
    fn a_slow_sync_causes_one_wait() {
        let mut gathering = Gathering::default();
        gathering.on_sync(8_000);
        gathering.on_answers(0);
        assert_eq!(gathering.timeout_us(100), None, "nothing was answered");
        gathering.on_answers(2);
        assert_eq!(gathering.timeout_us(100), Some(0));
        assert!(gathering.maybe_wait(10, 100));
        assert_eq!(gathering.timeout_us(300), Some(800));
        assert!(
            gathering.maybe_wait(11, 300),
            "one more request is expected"
        );
        assert!(!gathering.maybe_wait(12, 400), "all requests have arrived");
        assert!(!gathering.maybe_wait(10, 1_100), "the deadline has passed");
        gathering.on_answers(2);
        assert_eq!(gathering.timeout_us(1_200), None);
        gathering.on_sync(1_000_000);
        gathering.on_answers(1);
        assert!(gathering.maybe_wait(12, 0));
        assert_eq!(gathering.timeout_us(0), Some(WAIT_US_MAX));
    }
}
