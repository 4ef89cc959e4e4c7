//! The limits of a client connection, in time and in bytes; pure.
//!
//! They bound the cost of one client for the others, so they stand in one place. Must not act: a
//! `Conn` closes itself. Start with `ConnDeadline::update`. It is called once a turn with what the
//! connection waits for, and computes when that wait must end.
use crate::codec::http::Reject;
use crate::codec::http::request::RequestStage;

/// From the first byte of a request to the end of its head, in microseconds. A TLS handshake has
/// the same time, from the accept on.
const HEAD_US_MAX: u64 = 10_000_000;
/// From the end of the head to the end of the body, in microseconds.
const BODY_US_MAX: u64 = 30_000_000;
/// The least average rate of a body, in bytes per second.
const BODY_BYTES_PER_S_MIN: u64 = 1024;
/// The time that a body gets in addition to its bytes at the least rate, in microseconds: a slow
/// start is not refused.
const BODY_GRACE_US: u64 = 5_000_000;
/// A connection without a request is closed after this time, in microseconds.
const IDLE_US_MAX: u64 = 75_000_000;
/// After a refusal, the bytes that the client still sends are read and dropped for this time, in
/// microseconds.
const LINGER_US_MAX: u64 = 2_000_000;
/// A client that reads nothing for this time while output waits is closed, in microseconds. There is
/// no bound on an answer as a whole: a client that reads steadily is never closed.
const STALL_US_MAX: u64 = 10_000_000;
/// A watcher may leave up to this many bytes unread for any time.
const WATCH_UNREAD_BYTES: usize = 1024 * 1024;
/// A watcher whose unread output exceeds this many bytes is closed at once.
pub const WATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The kernel's send buffer of a connection with a watcher. Many watchers that read nothing would
/// otherwise take all memory that the kernel has for TCP, and the links to the peers would stall. A
/// watcher over a line of 100 ms still gets a megabyte a second.
pub const WATCH_SEND_BYTES: usize = 128 * 1024;
/// The next page of a listing is requested while at most this many bytes of output are unread.
pub const PAGES_AHEAD_BYTES_MAX: usize = 512 * 1024;
/// While at least this many bytes of output are unread, no further request of the connection is
/// read or started, and no more of the response to a proxied watch is read.
pub const OUT_HIGH_WATER_BYTES: usize = 64 * 1024;
/// Most bytes read ahead while a request is in flight.
pub const AHEAD_BYTES_MAX: usize = 16 * 1024;
/// Most bytes that one connection reads in one turn.
pub const READ_BYTES_A_TURN_MAX: usize = 64 * 1024;
/// Connections that hold this many bytes together are closed in one turn, see `CLOSE_BYTES_MIN`.
/// Closing frees memory, here and in the kernel.
pub const CLOSED_BYTES_A_TURN_MAX: usize = 2 * 1024 * 1024;
/// The least cost of closing a connection, in bytes of `CLOSED_BYTES_A_TURN_MAX`.
pub const CLOSE_BYTES_MIN: usize = 64 * 1024;

/// The timeouts that flags set.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Upper bound for the head and for the body of a request, in microseconds
    /// (`-http-read-timeout`).
    pub read_us: u64,
    /// Upper bound for a client that reads nothing of an answer, in microseconds
    /// (`-http-write-timeout`).
    pub write_us: u64,
}

/// The event that a connection waits for at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnWait {
    /// For the end of the TLS handshake.
    Handshake,
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

impl ConnWait {
    /// Whether `next` is the same wait as `self`, so that its time keeps running.
    fn continues_as(self, next: ConnWait) -> bool {
        use ConnWait::{Core, Handshake, Linger, Page, Request, Watch, Write};
        match (self, next) {
            (Request(a), Request(b)) => std::mem::discriminant(&a) == std::mem::discriminant(&b),
            (Watch { out: a }, Watch { out: b }) => {
                (a > WATCH_UNREAD_BYTES) == (b > WATCH_UNREAD_BYTES)
            }
            (Handshake, Handshake)
            | (Core, Core)
            | (Write | Page, Write | Page)
            | (Linger, Linger) => true,
            (Handshake | Request(_) | Core | Write | Page | Watch { .. } | Linger, _) => false,
        }
    }
}

/// The present wait of a connection, and its deadline.
#[derive(Clone, Copy, Debug)]
pub struct ConnDeadline {
    /// The wait as of the last `update`.
    wait: ConnWait,
    /// When the present wait began, in microseconds of the monotonic clock.
    since_us: u64,
    /// A request was answered, a page of its answer was requested, or the client has read output
    /// since the last `update`. So the next wait is a new one, even if it is of the same kind.
    is_renewed: bool,
    /// When the present wait must end, in microseconds of the monotonic clock; `None` if it has no
    /// limit.
    deadline_us: Option<u64>,
}

impl ConnDeadline {
    /// The deadline of a connection that was just accepted.
    pub fn new(now_us: u64) -> ConnDeadline {
        ConnDeadline {
            wait: ConnWait::Request(RequestStage::Idle),
            since_us: now_us,
            is_renewed: false,
            deadline_us: Some(now_us + IDLE_US_MAX),
        }
    }

    /// When the present wait must end, in microseconds of the monotonic clock; `None` if it has no
    /// limit.
    pub fn at_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// A request has been answered, or the next page of its answer has been requested.
    pub fn on_answered(&mut self) {
        self.is_renewed = true;
    }

    /// The client has read some of the output.
    pub fn on_read(&mut self) {
        self.is_renewed |= self.is_for_output();
    }

    /// Whether the client must read output by the deadline.
    pub fn is_for_output(&self) -> bool {
        matches!(
            self.wait,
            ConnWait::Write | ConnWait::Page | ConnWait::Watch { .. }
        )
    }

    /// How long the present wait has lasted, in microseconds.
    pub fn waited_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.since_us)
    }

    /// The connection now waits for `wait`. Called at the end of each turn that touches it.
    pub fn update(&mut self, wait: ConnWait, now_us: u64, timeouts: &Timeouts) {
        if self.is_renewed || !self.wait.continues_as(wait) {
            self.since_us = now_us;
        }
        self.is_renewed = false;
        self.wait = wait;
        let allowed_us = match wait {
            ConnWait::Handshake => Some(HEAD_US_MAX.min(timeouts.read_us)),
            ConnWait::Request(RequestStage::Idle) => Some(IDLE_US_MAX),
            ConnWait::Request(RequestStage::Head) => Some(HEAD_US_MAX.min(timeouts.read_us)),
            ConnWait::Request(RequestStage::Body { received }) => {
                let earned_us =
                    BODY_GRACE_US + received.saturating_mul(1_000_000) / BODY_BYTES_PER_S_MIN;
                Some(BODY_US_MAX.min(timeouts.read_us).min(earned_us))
            }
            ConnWait::Core => None,
            ConnWait::Write | ConnWait::Page => Some(STALL_US_MAX.min(timeouts.write_us)),
            ConnWait::Watch { out } => (out > WATCH_UNREAD_BYTES).then_some(STALL_US_MAX),
            ConnWait::Linger => Some(LINGER_US_MAX),
        };
        self.deadline_us = allowed_us.map(|us| self.since_us.saturating_add(us));
    }

    /// The refusal for a client that has missed the deadline. `None`: the connection is closed
    /// without an answer.
    pub fn late_reject(&self) -> Option<Reject> {
        match self.wait {
            ConnWait::Request(RequestStage::Head) => Some(Reject::HEAD_TIMEOUT),
            ConnWait::Request(RequestStage::Body { .. }) => Some(Reject::BODY_TIMEOUT),
            ConnWait::Handshake
            | ConnWait::Request(RequestStage::Idle)
            | ConnWait::Core
            | ConnWait::Write
            | ConnWait::Page
            | ConnWait::Watch { .. }
            | ConnWait::Linger => None,
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
            deadline.update(ConnWait::Request(RequestStage::Head), second * S, &T);
            assert_eq!(deadline.at_us(), Some(11 * S));
        }
        assert_eq!(deadline.late_reject(), Some(Reject::HEAD_TIMEOUT));
    }

    #[test]
    fn a_body_must_keep_its_rate_and_end() {
        let mut deadline = ConnDeadline::new(0);
        let body = |received| ConnWait::Request(RequestStage::Body { received });
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
        let idle = ConnWait::Request(RequestStage::Idle);
        deadline.update(idle, 10 * S, &T);
        assert_eq!(deadline.at_us(), Some(75 * S));
        deadline.on_answered();
        deadline.update(idle, 20 * S, &T);
        assert_eq!(deadline.at_us(), Some(95 * S));
        assert_eq!(deadline.late_reject(), None);
    }

    #[test]
    fn a_client_that_reads_is_given_more_time() {
        let mut deadline = ConnDeadline::new(0);
        deadline.update(ConnWait::Page, S, &T);
        deadline.update(ConnWait::Page, 10 * S, &T);
        assert_eq!(deadline.at_us(), Some(11 * S));
        deadline.on_read();
        deadline.update(ConnWait::Write, 10 * S, &T);
        assert_eq!(deadline.at_us(), Some(20 * S));
        deadline.update(ConnWait::Page, 19 * S, &T);
        assert_eq!(deadline.at_us(), Some(20 * S));
        assert_eq!(deadline.late_reject(), None);
    }

    #[test]
    fn a_handshake_has_the_time_of_a_head() {
        let mut deadline = ConnDeadline::new(0);
        deadline.update(ConnWait::Handshake, 0, &T);
        deadline.update(ConnWait::Handshake, 9 * S, &T);
        assert_eq!(deadline.at_us(), Some(10 * S));
        assert_eq!(deadline.late_reject(), None);
    }

    #[test]
    fn a_watcher_may_wait_but_not_pile_up() {
        let mut deadline = ConnDeadline::new(0);
        deadline.update(ConnWait::Watch { out: 0 }, S, &T);
        assert_eq!(deadline.at_us(), None);
        let much = WATCH_UNREAD_BYTES + 1;
        deadline.update(ConnWait::Watch { out: much }, 100 * S, &T);
        deadline.update(ConnWait::Watch { out: much * 2 }, 105 * S, &T);
        assert_eq!(deadline.at_us(), Some(110 * S));
        deadline.on_read();
        deadline.update(ConnWait::Watch { out: much }, 109 * S, &T);
        assert_eq!(deadline.at_us(), Some(119 * S));
        deadline.update(ConnWait::Watch { out: 5 }, 110 * S, &T);
        assert_eq!(deadline.at_us(), None);
    }
}
