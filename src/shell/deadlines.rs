//! How long a connection may take for what it does, and how much may wait in it; pure.
//!
//! The bounds of what one client can cost the others stand here, in one place. Start with
//! `Stamps::update`: once a turn it is told what the connection waits for, and keeps the time by
//! which that has to be over.
use crate::codec::http::Reject;
use crate::codec::http::request::RequestStage;

/// The whole head must have come in this time.
const HEAD_US: u64 = 10_000_000;
/// The whole body must have come in this time …
const BODY_US: u64 = 30_000_000;
/// … and at this rate, after a start for which slow networks are forgiven.
const BODY_BYTES_PER_S: u64 = 1024;
const BODY_START_US: u64 = 5_000_000;
/// A connection without a request is closed after this time.
const IDLE_US: u64 = 75_000_000;
/// After a refusal, how long what the client still sends is read and dropped.
const LINGER_US: u64 = 2_000_000;
/// A watcher that leaves so much unread …
const WATCH_SLOW_BYTES: usize = 1024 * 1024;
/// … for so long, is cut off.
const WATCH_SLOW_US: u64 = 10_000_000;
/// A watcher that leaves so much unread is cut off at once.
pub const WATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A client must take a page of a long listing in this time: a listing holds the key space as it
/// was, and others wait for that.
const PAGE_US: u64 = 20_000_000;
/// While less than this waits to be written, the next page of a listing is asked for.
pub const PAGES_AHEAD_BYTES: usize = 512 * 1024;
/// While more than this waits to be written, no further request of the connection is read or
/// started.
pub const OUT_MARK_BYTES: usize = 64 * 1024;
/// What is read ahead while a request is in flight.
pub const AHEAD_BYTES_MAX: usize = 16 * 1024;
/// Keys read in one turn, at most: answers are rendered before they are written, and the largest
/// values must not stand there together. It costs a call of the poll for so many reads.
pub const READS_A_TURN: usize = 64;
/// What is rendered in one turn, about: when a turn exceeded it, the next one reads half as many
/// keys.
pub const ANSWERS_BYTES_A_TURN: usize = 4 * 1024 * 1024;
/// What one connection may read in one turn.
pub const READ_BYTES_A_TURN: usize = 64 * 1024;

/// What can be set from outside.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Upper bound on head and body, in microseconds.
    pub read_us: u64,
    /// An answer must have left in this time.
    pub write_us: u64,
}

/// What a connection waits for at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A request, or the rest of one.
    Request(RequestStage),
    /// An answer of the core, which has its own deadlines.
    Core,
    /// The client, to take an answer.
    Write,
    /// The client, to take a page of an answer of which there is more.
    Page,
    /// An event; so many bytes wait to be written.
    Watch { out: usize },
    /// The client, to close after a refusal.
    Linger,
}

impl Waits {
    /// Whether both are the same kind of waiting, so that the clock runs on.
    fn goes_on(self, other: Waits) -> bool {
        use Waits::{Core, Linger, Page, Request, Watch, Write};
        match (self, other) {
            (Request(a), Request(b)) => std::mem::discriminant(&a) == std::mem::discriminant(&b),
            (Watch { out: a }, Watch { out: b }) => {
                (a > WATCH_SLOW_BYTES) == (b > WATCH_SLOW_BYTES)
            }
            (Core, Core) | (Write, Write) | (Page, Page) | (Linger, Linger) => true,
            (Request(_) | Core | Write | Page | Watch { .. } | Linger, _) => false,
        }
    }
}

/// Since when a connection waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    waits: Waits,
    since_us: u64,
    /// A request has ended since the last update: the next wait is a new one, even if it is of the
    /// same kind.
    renewed: bool,
    /// When the present wait is over; `None` when it may last.
    pub deadline_us: Option<u64>,
}

impl Stamps {
    /// Of a connection that was just accepted.
    pub fn new(now_us: u64) -> Stamps {
        Stamps {
            waits: Waits::Request(RequestStage::Idle),
            since_us: now_us,
            renewed: false,
            deadline_us: Some(now_us + IDLE_US),
        }
    }

    /// A request has been answered, or a page of the answer taken.
    pub fn on_answered(&mut self) {
        self.renewed = true;
    }

    /// Once a turn: what is waited for now.
    pub fn update(&mut self, waits: Waits, now_us: u64, timeouts: &Timeouts) {
        if self.renewed || !self.waits.goes_on(waits) {
            self.since_us = now_us;
        }
        self.renewed = false;
        self.waits = waits;
        let allowed_us = match waits {
            Waits::Request(RequestStage::Idle) => Some(IDLE_US),
            Waits::Request(RequestStage::Head) => Some(HEAD_US.min(timeouts.read_us)),
            Waits::Request(RequestStage::Body { received }) => {
                let paid_us = BODY_START_US + received.saturating_mul(1_000_000) / BODY_BYTES_PER_S;
                Some(BODY_US.min(timeouts.read_us).min(paid_us))
            }
            Waits::Core => None,
            Waits::Write => Some(timeouts.write_us),
            Waits::Page => Some(PAGE_US.min(timeouts.write_us)),
            Waits::Watch { out } => (out > WATCH_SLOW_BYTES).then_some(WATCH_SLOW_US),
            Waits::Linger => Some(LINGER_US),
        };
        self.deadline_us = allowed_us.map(|us| self.since_us.saturating_add(us));
    }

    /// How a client that is late is answered; `None`: by closing.
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
        let mut stamps = Stamps::new(0);
        for second in 1..10 {
            stamps.update(Waits::Request(RequestStage::Head), second * S, &T);
            assert_eq!(stamps.deadline_us, Some(11 * S));
        }
        assert_eq!(stamps.late_reject(), Some(Reject::HEAD_TIMEOUT));
    }

    #[test]
    fn a_body_must_keep_its_rate_and_end() {
        let mut stamps = Stamps::new(0);
        let body = |received| Waits::Request(RequestStage::Body { received });
        stamps.update(body(0), 0, &T);
        assert_eq!(stamps.deadline_us, Some(5 * S));
        stamps.update(body(10 * 1024), 4 * S, &T);
        assert_eq!(stamps.deadline_us, Some(15 * S));
        stamps.update(body(1024 * 1024), 14 * S, &T);
        assert_eq!(stamps.deadline_us, Some(30 * S));
        assert_eq!(stamps.late_reject(), Some(Reject::BODY_TIMEOUT));
    }

    #[test]
    fn each_request_starts_the_idle_time_anew() {
        let mut stamps = Stamps::new(0);
        let idle = Waits::Request(RequestStage::Idle);
        stamps.update(idle, 10 * S, &T);
        assert_eq!(stamps.deadline_us, Some(75 * S));
        stamps.on_answered();
        stamps.update(idle, 20 * S, &T);
        assert_eq!(stamps.deadline_us, Some(95 * S));
        assert_eq!(stamps.late_reject(), None);
    }

    #[test]
    fn a_listing_is_taken_page_by_page() {
        let mut stamps = Stamps::new(0);
        stamps.update(Waits::Page, S, &T);
        stamps.update(Waits::Page, 20 * S, &T);
        assert_eq!(stamps.deadline_us, Some(21 * S));
        stamps.on_answered();
        stamps.update(Waits::Page, 20 * S, &T);
        assert_eq!(stamps.deadline_us, Some(40 * S));
        assert_eq!(stamps.late_reject(), None);
    }

    #[test]
    fn a_watcher_may_wait_but_not_pile_up() {
        let mut stamps = Stamps::new(0);
        stamps.update(Waits::Watch { out: 0 }, S, &T);
        assert_eq!(stamps.deadline_us, None);
        let much = WATCH_SLOW_BYTES + 1;
        stamps.update(Waits::Watch { out: much }, 100 * S, &T);
        stamps.update(Waits::Watch { out: much * 2 }, 105 * S, &T);
        assert_eq!(stamps.deadline_us, Some(110 * S));
        stamps.update(Waits::Watch { out: 5 }, 109 * S, &T);
        assert_eq!(stamps.deadline_us, None);
    }
}
