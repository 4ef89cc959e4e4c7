//! A client's request that this machine passes on over HTTP: the machine to send it to, and the
//! next step after each result.
//!
//! - A request that no leader has taken is held and sent again, to another member each time, until
//!   a leader takes it or its time is up.
//! - A read is sent again after any failure, unless its client has received a part of the response.
//! - A write that was sent completely and has no answer is never sent again: its outcome is
//!   unknown.
//!
//! Must not know calls or connections. Start with [`ProxiedRequest::on_result`].
use super::{Machine, MachineMode, Outside};
use crate::core::timer::Now;

/// How long a request may be held, in microseconds.
const HOLD_US_MAX: u64 = 5_000_000;
/// The pause before a request is sent again, in microseconds.
const PAUSE_US: u64 = 50_000;

/// The result of one attempt to pass a request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyResult {
    /// There is an answer for the client.
    Answered,
    /// The machine that was asked has not taken the request: it does not lead, and knows no leader.
    NotTaken,
    /// The whole request was not sent.
    NotSent,
    /// The whole request was sent, and there is no answer.
    NotAnswered,
}

/// The next step after a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyStep {
    /// The result is for the client.
    Finish,
    /// The request is sent again at this time, in microseconds of the monotonic clock.
    SendAt(u64),
}

/// A request that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedRequest {
    is_read: bool,
    /// Until when it may be sent again, in microseconds of the monotonic clock.
    due_us: u64,
    /// How many attempts have ended.
    attempts: u32,
    /// The client has received a part of the response.
    has_begun: bool,
}

impl ProxiedRequest {
    /// A request that has just arrived.
    pub fn new(now: Now, is_read: bool) -> ProxiedRequest {
        ProxiedRequest {
            is_read,
            due_us: now.mono_us + HOLD_US_MAX,
            attempts: 0,
            has_begun: false,
        }
    }

    /// A read that has just arrived, and is sent once.
    pub fn once() -> ProxiedRequest {
        ProxiedRequest {
            is_read: true,
            due_us: 0,
            attempts: 0,
            has_begun: false,
        }
    }

    /// The client has received a part of the response.
    pub fn on_part(&mut self) {
        self.has_begun = true;
    }

    /// An attempt has ended.
    pub fn on_result(&mut self, now: Now, result: ProxyResult) -> ProxyStep {
        self.attempts = self.attempts.saturating_add(1);
        let may_repeat = match result {
            ProxyResult::Answered => false,
            ProxyResult::NotTaken | ProxyResult::NotSent => true,
            ProxyResult::NotAnswered => self.is_read,
        };
        let may_repeat = may_repeat && !self.has_begun;
        let at_us = now.mono_us + PAUSE_US;
        if may_repeat && at_us < self.due_us {
            return ProxyStep::SendAt(at_us);
        }
        ProxyStep::Finish
    }
}

impl Machine {
    /// The client URL at which a request is tried next: that of the leader first, then those of the
    /// other members, in turn. `None` if none is known.
    pub fn proxy_url(&self, request: &ProxiedRequest) -> Option<&str> {
        match &self.mode {
            MachineMode::Outside(Outside::Standby(standby)) => standby.client_url(request.attempts),
            MachineMode::Outside(_) => None,
            MachineMode::Member(_) => self.leader_client_url(),
        }
    }

    /// A request found no leader: a standby looks for it soon.
    pub fn on_leader_missed(&mut self, now: Now) {
        if let MachineMode::Outside(Outside::Standby(standby)) = &mut self.mode {
            standby.hurry(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        let wall_ns = 0;
        Now { mono_us, wall_ns }
    }

    #[test]
    fn protocol_26_a_write_that_may_have_happened_is_not_sent_again() {
        let mut write = ProxiedRequest::new(at(0), false);
        for result in [ProxyResult::NotTaken, ProxyResult::NotSent] {
            let step = write.on_result(at(7), result);
            assert_eq!(step, ProxyStep::SendAt(7 + PAUSE_US));
        }
        for result in [ProxyResult::Answered, ProxyResult::NotAnswered] {
            assert_eq!(write.on_result(at(7), result), ProxyStep::Finish);
        }
    }

    #[test]
    fn protocol_26_a_read_is_sent_again_until_its_time_is_up() {
        let mut read = ProxiedRequest::new(at(0), true);
        let unanswered = ProxyResult::NotAnswered;
        let step = read.on_result(at(9), unanswered);
        assert_eq!(step, ProxyStep::SendAt(9 + PAUSE_US));
        assert_eq!(
            read.on_result(at(HOLD_US_MAX - PAUSE_US), unanswered),
            ProxyStep::Finish
        );
    }

    #[test]
    fn protocol_26_a_watch_whose_client_has_received_a_part_is_not_sent_again() {
        let mut watch = ProxiedRequest::new(at(0), true);
        let step = watch.on_result(at(9), ProxyResult::NotTaken);
        assert_eq!(step, ProxyStep::SendAt(9 + PAUSE_US));
        watch.on_part();
        let step = watch.on_result(at(9), ProxyResult::NotAnswered);
        assert_eq!(step, ProxyStep::Finish);
    }
}
