//! Keeps this member registered with a discovery service, for machines that are started later.
//!
//! It leaves its calls for `advance` and takes their replies. Before this machine is a member, the
//! finder registers it. Start with [`Registrar::on_time`].
use crate::core::seam::{Call, CallId, Question, Reply};
use crate::core::timer::Now;

/// How long a registration lasts unless it is refreshed, in seconds: a week, so that a cluster can
/// be out for some days and still be found.
pub(super) const REGISTRATION_TTL_S: u64 = 604_800;
/// The time from one registration to the next. Several refreshes may fail before the registration
/// expires.
const REFRESH_US: u64 = REGISTRATION_TTL_S / 8 * 1_000_000;
/// The time from a failed registration to the next try.
const RETRY_US: u64 = 60_000_000;

/// The registration of one member.
pub(super) struct Registrar {
    /// The URL of the service's directory.
    service: Box<str>,
    /// The member's name, its key in the directory.
    name: Box<str>,
    /// The peer URL that it is registered with.
    peer_url: Box<str>,
    /// When to register next, in microseconds of the monotonic clock.
    due_us: u64,
    /// A call is due and was not taken yet.
    is_wanted: bool,
}

impl Registrar {
    /// The first registration is due at once.
    pub(super) fn new(service: Box<str>, name: Box<str>, peer_url: Box<str>) -> Registrar {
        Registrar {
            service,
            name,
            peer_url,
            due_us: 0,
            is_wanted: false,
        }
    }

    /// Time has passed: leaves a call if a registration is due.
    pub(super) fn on_time(&mut self, now: Now) {
        if now.mono_us >= self.due_us {
            self.is_wanted = true;
            self.due_us = now.mono_us + REFRESH_US;
        }
    }

    /// A call has ended. Returns why the registration failed, if it was the registrar's call and
    /// did.
    pub(super) fn on_reply(&mut self, now: Now, id: CallId, reply: &Reply) -> Option<String> {
        if id != CallId::REGISTRAR {
            return None;
        }
        let why = match reply {
            Reply::Failed { why } => why,
            Reply::Answered { answer: Ok(_), .. } => return None,
            Reply::Answered {
                answer: Err(refusal),
                ..
            } => &refusal.why,
        };
        self.due_us = now.mono_us + RETRY_US;
        Some(format!("{}: {why}", self.service))
    }

    /// The call to make now, if one is due.
    pub(super) fn take_call(&mut self) -> Option<Call> {
        if !std::mem::take(&mut self.is_wanted) {
            return None;
        }
        let question = Question::Register {
            name: self.name.clone(),
            peer_url: self.peer_url.clone(),
            ttl_s: REGISTRATION_TTL_S,
        };
        Some(Call::new(CallId::REGISTRAR, self.service.clone(), question))
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock.
    pub(super) fn next_deadline(&self) -> u64 {
        self.due_us
    }
}
