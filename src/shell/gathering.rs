//! The wait for further requests before a slow sync, so that one sync serves them all; pure.
//!
//! Clients that were just answered often send their next request at once. A sync that begins before
//! those requests arrive makes each of them wait for two syncs. So behind a slow sync the loop
//! waits briefly: the deadline is the poll's timeout, and turns that only gather end before the
//! disk is touched. Start with `on_answers` and `maybe_wait`.

/// From this duration of a sync on, in microseconds, the wait pays.
const SLOW_SYNC_US: u64 = 1_000;
/// The wait is at most this part of the last sync, …
const SYNC_PART: u64 = 8;
/// … and at most this long, so that no peer takes it for silence.
const WAIT_US_MAX: u64 = 5_000;

/// Whether the loop gathers requests, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GatherState {
    /// It does not.
    #[default]
    Idle,
    /// So many clients were answered in the last turn. The wait begins once the requests that have
    /// arrived meanwhile are decoded.
    Due { answers: u64 },
    /// It waits.
    Waiting {
        /// For the request with this serial number, …
        request: u64,
        /// … or until this time, in microseconds of the monotonic clock.
        until_us: u64,
    },
}

/// The state of the wait.
#[derive(Debug, Default)]
pub struct Gathering {
    state: GatherState,
    /// How long the last sync took if it was slow, in microseconds. Cleared when a wait begins:
    /// each slow sync causes at most one.
    slow_sync_us: Option<u64>,
}

impl Gathering {
    /// A sync has taken this long.
    pub fn on_sync(&mut self, took_us: u64) {
        self.slow_sync_us = (took_us >= SLOW_SYNC_US).then_some(took_us);
    }

    /// The end of a turn that has answered so many requests.
    pub fn on_answers(&mut self, answers: usize) {
        self.state = GatherState::Idle;
        if self.slow_sync_us.is_some() && answers > 0 {
            self.state = GatherState::Due {
                answers: answers as u64,
            };
        }
    }

    /// Waits for further requests if clients were just answered after a slow sync. Returns whether
    /// it does: then the turn ends here. `requests` is the serial number of the last request that
    /// has arrived.
    pub fn maybe_wait(&mut self, requests: u64, now_us: u64) -> bool {
        if let GatherState::Due { answers } = self.state
            && let Some(sync_us) = self.slow_sync_us.take()
        {
            self.state = GatherState::Waiting {
                request: requests + answers,
                until_us: now_us + (sync_us / SYNC_PART).min(WAIT_US_MAX),
            };
        }
        match self.state {
            GatherState::Waiting { request, until_us } if requests < request => now_us < until_us,
            _ => false,
        }
    }

    /// The timeout of the poll, in microseconds, if the wait decides about it.
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
        assert!(gathering.maybe_wait(11, 300), "one more is expected");
        assert!(!gathering.maybe_wait(12, 400), "all have come");
        assert!(!gathering.maybe_wait(10, 1_100), "the time is over");
        gathering.on_answers(2);
        assert_eq!(gathering.timeout_us(1_200), None);
        gathering.on_sync(1_000_000);
        gathering.on_answers(1);
        assert!(gathering.maybe_wait(12, 0));
        assert_eq!(gathering.timeout_us(0), Some(WAIT_US_MAX));
    }
}
