//! The requests that are passed on over HTTP: under way as calls, or held until the next attempt.
//!
//! `core::machine::proxying` decides the next step after each attempt. The requests are bounded in
//! number and bytes; `Dispatcher::proxy` admits them, and `Clients` takes the calls that are due.
//! Start with [`ProxiedRequests::add`].
use crate::codec::http::call::HttpCall;
use crate::core::machine::{Machine, ProxiedRequest, ProxyResult, ProxyStep, Ticket};
use crate::core::timer::Now;
use std::collections::BTreeMap;

/// Most requests that are passed on at a time. Further ones are redirected.
const PROXIED_MAX: usize = 256;
/// Most bytes of their bodies together. A single request may be longer.
pub const PROXIED_BYTES_MAX: usize = 4 << 20;

/// One request that is passed on.
struct OpenRequest {
    request: ProxiedRequest,
    body_bytes: usize,
}

/// A call that waits for its time. Its URL is the target alone.
struct HeldCall {
    /// When it is made, in microseconds of the monotonic clock.
    at_us: u64,
    ticket: Ticket,
    call: HttpCall,
}

/// The requests that this machine passes on.
#[derive(Default)]
pub struct ProxiedRequests {
    /// At most `PROXIED_MAX`.
    open: BTreeMap<Ticket, OpenRequest>,
    /// Bytes of the bodies of the open requests.
    bytes: usize,
    /// The open requests that are not under way; new ones are due at once.
    held: Vec<HeldCall>,
}

impl ProxiedRequests {
    /// Adds a request, whose call has the target as its URL. Returns false if there is no room.
    pub fn add(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: ProxiedRequest,
        call: HttpCall,
    ) -> bool {
        let body_bytes = call.body.len();
        let is_too_long = self.bytes > 0 && self.bytes + body_bytes > PROXIED_BYTES_MAX;
        if is_too_long || self.open.len() == PROXIED_MAX {
            return false;
        }
        self.bytes += body_bytes;
        self.open.insert(
            ticket,
            OpenRequest {
                request,
                body_bytes,
            },
        );
        let at_us = now.mono_us;
        self.held.push(HeldCall {
            at_us,
            ticket,
            call,
        });
        true
    }

    /// The bytes of the bodies of all requests.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An attempt has ended. Returns the next step.
    pub fn on_result(&mut self, now: Now, ticket: Ticket, result: ProxyResult) -> ProxyStep {
        match self.open.get_mut(&ticket) {
            Some(open) => open.request.on_result(now, result),
            None => ProxyStep::Finish,
        }
    }

    /// Holds a request until `at_us`; `call` is that of the last attempt.
    pub fn hold(&mut self, ticket: Ticket, at_us: u64, mut call: HttpCall) {
        call.url = target_of(&call.url).into();
        self.held.push(HeldCall {
            at_us,
            ticket,
            call,
        });
    }

    /// A request has ended.
    pub fn remove(&mut self, ticket: Ticket) {
        if let Some(open) = self.open.remove(&ticket) {
            self.bytes -= open.body_bytes;
        }
    }

    /// Takes the calls that are due, with the URL of the machine to ask before the target; `None`:
    /// no machine is known.
    pub fn take_due(
        &mut self,
        now: Now,
        machine: &Machine,
    ) -> Vec<(Ticket, Option<Box<str>>, HttpCall)> {
        let mut due = Vec::new();
        for held in self.held.extract_if(.., |held| held.at_us <= now.mono_us) {
            let open = self.open.get(&held.ticket);
            let url = open.and_then(|open| machine.proxy_url(&open.request));
            due.push((held.ticket, url.map(Box::from), held.call));
        }
        due
    }

    /// When the next call is due, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.held.iter().map(|held| held.at_us).min()
    }
}

/// The target of a URL: path and query. A target alone stays as it is.
fn target_of(url: &str) -> &str {
    if url.starts_with('/') {
        return url;
    }
    let host = url.find("://").map_or(0, |scheme| scheme + "://".len());
    let target = url[host..]
        .find('/')
        .map_or(url.len(), |slash| host + slash);
    &url[target..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: usize) -> HttpCall {
        HttpCall::put("/v2/keys/a".into(), "", "x".repeat(bytes), 1)
    }

    #[test]
    fn targets_stay_the_same() {
        for target in ["/", "/v2/keys/a?x=http://b/c", "/v2/keys/a"] {
            for base in ["", "http://a:1", "https://[::1]:2"] {
                assert_eq!(target_of(&format!("{base}{target}")), target);
            }
        }
    }

    #[test]
    fn requests_are_bounded_in_number_and_bytes() {
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let mut proxied = ProxiedRequests::default();
        let add = |proxied: &mut ProxiedRequests, ticket, bytes| {
            let request = ProxiedRequest::new(now, false);
            proxied.add(now, Ticket(ticket), request, put(bytes))
        };
        assert!(add(&mut proxied, 1, 5 << 20), "a single one");
        assert!(!add(&mut proxied, 2, 1));
        proxied.remove(Ticket(1));
        let count = (0..1000).filter(|n| add(&mut proxied, *n, 1));
        assert_eq!(count.count(), PROXIED_MAX);
        assert_eq!(proxied.next_deadline(), Some(1));
    }
}
