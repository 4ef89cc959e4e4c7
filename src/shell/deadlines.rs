//! How long a client connection may take for each thing it does, and how much may wait in it; pure.
//!
//! These bounds limit what one client can cost the others, so they stand in one place. Start with
//! `ConnDeadline::update`: once a turn it gets what the connection waits for and computes the time
//! by which the wait has to end.
use crate::codec::http::Reject;
use crate::codec::http::request::RequestStage;

/// From the first byte of a request to the end of its head, in microseconds.
const HEAD_US: u64 = 10_000_000;
/// From the end of the head to the end of the body, in microseconds …
const BODY_US: u64 = 30_000_000;
/// … and the body must keep this rate on average, bytes per second, …
const BODY_BYTES_PER_S: u64 = 1024;
/// … to which this much time is added, so that a slow start is no offence.
const BODY_START_US: u64 = 5_000_000;
/// A connection without a request is closed after this time.
const IDLE_US: u64 = 75_000_000;
/// After a refusal, what the client still sends is read and dropped for this time.
const LINGER_US: u64 = 2_000_000;
/// A watcher is slow while its unread output exceeds this, …
const WATCH_SLOW_BYTES: usize = 1024 * 1024;
/// … and is closed once it has been slow for this time.
const WATCH_SLOW_US: u64 = 10_000_000;
/// A watcher whose unread output exceeds this is closed at once.
pub const WATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A client must read each page of a long listing in this time: the listing keeps a frozen view of
/// the key space in memory until its end.
const PAGE_US: u64 = 20_000_000;
/// The next page of a listing is requested while at most this much output is unread.
pub const PAGES_AHEAD_BYTES: usize = 512 * 1024;
/// While the unread output is at least this long, no further request of the connection is read or
/// started.
pub const OUT_MARK_BYTES: usize = 64 * 1024;
/// How many bytes are read ahead while a request is in flight.
pub const AHEAD_BYTES_MAX: usize = 16 * 1024;
/// The most reads of keys that start in one turn. All answers of a turn are rendered before they
/// are written, and the largest values must not stand in memory together. The bound costs one call
/// of the poll for this many reads.
pub const READS_A_TURN: usize = 64;
/// If one turn renders more bytes than this, the next turn starts half as many reads.
pub const ANSWERS_BYTES_A_TURN: usize = 4 * 1024 * 1024;
/// The most bytes that one connection reads in one turn.
pub const READ_BYTES_A_TURN: usize = 64 * 1024;

/// The timeouts that flags set.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Upper bound for the head and for the body of a request, in microseconds.
    pub read_us: u64,
    /// The client must read an answer in this time, in microseconds.
    pub write_us: u64,
}

/// What a connection waits for at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For a request, or the rest of one.
    Request(RequestStage),
    /// For the core to answer. The core has deadlines of its own.
    Core,
    /// For the client to read an answer.
    Write,
    /// For the client to read a page of an answer that has more pages.
    Page,
    /// For an event.
    Watch {
        /// The watcher's unread output, in bytes.
        out: usize,
    },
    /// For the client to close after a refusal.
    Linger,
}

impl Waits {
    /// Whether `self` and `next` are one wait, whose clock runs on.
    fn continues_as(self, next: Waits) -> bool {
        use Waits::{Core, Linger, Page, Request, Watch, Write};
        match (self, next) {
            (Request(a), Request(b)) => std::mem::discriminant(&a) == std::mem::discriminant(&b),
            (Watch { out: a }, Watch { out: b }) => {
                (a > WATCH_SLOW_BYTES) == (b > WATCH_SLOW_BYTES)
            }
            (Core, Core) | (Write, Write) | (Page, Page) | (Linger, Linger) => true,
            (Request(_) | Core | Write | Page | Watch { .. } | Linger, _) => false,
        }
    }
}

/// What a connection waits for, and until when it may.
#[derive(Clone, Copy, Debug)]
pub struct ConnDeadline {
    /// The present wait, as of the last `update`.
    waits: Waits,
    /// When the present wait began, in microseconds of the monotonic clock.
    since_us: u64,
    /// A request, or a page of its answer, has ended since the last `update`. So the next wait is a
    /// new one, even if it is of the same kind.
    is_renewed: bool,
    /// When the present wait must end; `None`: it may last.
    deadline_us: Option<u64>,
}

impl ConnDeadline {
    /// The deadline of a connection that was just accepted.
    pub fn new(now_us: u64) -> ConnDeadline {
        ConnDeadline {
            waits: Waits::Request(RequestStage::Idle),
            since_us: now_us,
            is_renewed: false,
            deadline_us: Some(now_us + IDLE_US),
        }
    }

    /// When the present wait must end, in microseconds of the monotonic clock; `None`: it may last.
    pub fn at_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// A request has been answered, or the next page of its answer has been requested.
    pub fn on_answered(&mut self) {
        self.is_renewed = true;
    }

    /// Once a turn: the connection now waits for `waits`.
    pub fn update(&mut self, waits: Waits, now_us: u64, timeouts: &Timeouts) {
        if self.is_renewed || !self.waits.continues_as(waits) {
            self.since_us = now_us;
        }
        self.is_renewed = false;
        self.waits = waits;
        let allowed_us = match waits {
            Waits::Request(RequestStage::Idle) => Some(IDLE_US),
            Waits::Request(RequestStage::Head) => Some(HEAD_US.min(timeouts.read_us)),
            Waits::Request(RequestStage::Body { received }) => {
                let earned_us =
                    BODY_START_US + received.saturating_mul(1_000_000) / BODY_BYTES_PER_S;
                Some(BODY_US.min(timeouts.read_us).min(earned_us))
            }
            Waits::Core => None,
            Waits::Write => Some(timeouts.write_us),
            Waits::Page => Some(PAGE_US.min(timeouts.write_us)),
            Waits::Watch { out } => (out > WATCH_SLOW_BYTES).then_some(WATCH_SLOW_US),
            Waits::Linger => Some(LINGER_US),
        };
        self.deadline_us = allowed_us.map(|us| self.since_us.saturating_add(us));
    }

    /// The refusal for a client that is late; `None`: the connection is closed without one.
    pub fn late_reject(&self) -> Option<Reject> {
        match self.waits {
            Waits::Request(RequestStage::Head) => Some(Reject::HEAD_TIMEOUT),
            Waits::Request(RequestStage::Body { .. }) => Some(Reject::BODY_TIMEOUT),
            Waits::Request(RequestStage::Idle)
            | Waits::Core
            | Waits::Write
            | Waits::Page
            | Waits::Watch { .. }
            | Waits::Linger => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timeouts = Timeouts {
        read_us: 300_000_000,
        write_us: 300_000_000,
    };
    const S: u64 = 1_000_000;

    #[test]
    fn a_head_that_trickles_is_not_given_more_time() {
        let mut deadline = ConnDeadline::new(0);
        for second in 1..10 {
            deadline.update(Waits::Request(RequestStage::Head), second * S, &T);
            assert_eq!(deadline.at_us(), Some(11 * S));
        }
        assert_eq!(deadline.late_reject(), Some(Reject::HEAD_TIMEOUT));
    }

    #[test]
    fn a_body_must_keep_its_rate_and_end() {
        let mut deadline = ConnDeadline::new(0);
        let body = |received| Waits::Request(RequestStage::Body { received });
        deadline.update(body(0), 0, &T);
        assert_eq!(deadline.at_us(), Some(5 * S));
        deadline.update(body(10 * 1024), 4 * S, &T);
        assert_eq!(deadline.at_us(), Some(15 * S));
        deadline.update(body(1024 * 1024), 14 * S, &T);
        assert_eq!(deadline.at_us(), Some(30 * S));
        assert_eq!(deadline.late_reject(), Some(Reject::BODY_TIMEOUT));
    }

    #[test]
    fn each_request_starts_the_idle_time_anew() {
        let mut deadline = ConnDeadline::new(0);
        let idle = Waits::Request(RequestStage::Idle);
        deadline.update(idle, 10 * S, &T);
        assert_eq!(deadline.at_us(), Some(75 * S));
        deadline.on_answered();
        deadline.update(idle, 20 * S, &T);
        assert_eq!(deadline.at_us(), Some(95 * S));
        assert_eq!(deadline.late_reject(), None);
    }

    #[test]
    fn a_listing_is_taken_page_by_page() {
        let mut deadline = ConnDeadline::new(0);
        deadline.update(Waits::Page, S, &T);
        deadline.update(Waits::Page, 20 * S, &T);
        assert_eq!(deadline.at_us(), Some(21 * S));
        deadline.on_answered();
        deadline.update(Waits::Page, 20 * S, &T);
        assert_eq!(deadline.at_us(), Some(40 * S));
        assert_eq!(deadline.late_reject(), None);
    }

    #[test]
    fn a_watcher_may_wait_but_not_pile_up() {
        let mut deadline = ConnDeadline::new(0);
        deadline.update(Waits::Watch { out: 0 }, S, &T);
        assert_eq!(deadline.at_us(), None);
        let much = WATCH_SLOW_BYTES + 1;
        deadline.update(Waits::Watch { out: much }, 100 * S, &T);
        deadline.update(Waits::Watch { out: much * 2 }, 105 * S, &T);
        assert_eq!(deadline.at_us(), Some(110 * S));
        deadline.update(Waits::Watch { out: 5 }, 109 * S, &T);
        assert_eq!(deadline.at_us(), None);
    }
}
