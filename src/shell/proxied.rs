//! The requests that are passed on over HTTP: under way as calls, or held until the next attempt.
//!
//! `core::machine::proxying` decides the next step after each attempt. The requests are bounded in
//! number and bytes; `Dispatcher::proxy` admits them, and `Clients` takes the calls that are due.
//! Start with [`ProxiedRequests::add`].
use crate::codec::http::call::HttpCall;
use crate::core::machine::{Machine, ProxiedRequest, ProxyResult, ProxyStep, Ticket};
use crate::core::timer::Now;
use std::collections::{BTreeMap, BTreeSet};

/// Most requests that are passed on at a time. Further ones are redirected.
const PROXIED_MAX: usize = 256;
/// Most watches that are passed on at a time, besides those requests. Further ones are redirected.
/// Each takes a connection to the leader.
const WATCHES_MAX: usize = 1_024;
/// Most bytes of the bodies of all requests together. A single request may be longer.
pub const PROXIED_BYTES_MAX: usize = 4 << 20;

/// One request that is passed on.
struct OpenRequest {
    request: ProxiedRequest,
    body_bytes: usize,
    is_watch: bool,
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
    /// At most `WATCHES_MAX` watches and `PROXIED_MAX` other requests.
    open: BTreeMap<Ticket, OpenRequest>,
    /// How many of the open requests are watches.
    watches: usize,
    /// Bytes of the bodies of the open requests.
    bytes: usize,
    /// The last leader's client URL that `has_moved` was told; `None` before, and while this
    /// machine is no standby.
    leader_url: Option<Box<str>>,
    /// The open requests that are not under way; new ones are due at once.
    held: Vec<HeldCall>,
}

impl ProxiedRequests {
    /// Adds a request. The URL of `call` is the target alone. `is_watch`: it waits for events.
    /// Returns false if there is no room.
    pub fn add(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: ProxiedRequest,
        call: HttpCall,
        is_watch: bool,
    ) -> bool {
        let body_bytes = call.body.len();
        let is_too_long = self.bytes > 0 && self.bytes + body_bytes > PROXIED_BYTES_MAX;
        let is_full = if is_watch {
            self.watches == WATCHES_MAX
        } else {
            self.open.len() - self.watches == PROXIED_MAX
        };
        if is_too_long || is_full {
            return false;
        }
        self.bytes += body_bytes;
        self.watches += usize::from(is_watch);
        self.open.insert(
            ticket,
            OpenRequest {
                request,
                body_bytes,
                is_watch,
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

    /// How many watches are passed on.
    pub fn watches(&self) -> usize {
        self.watches
    }

    /// Whether this is a watch that is passed on.
    pub fn is_watch(&self, ticket: Ticket) -> bool {
        self.open.get(&ticket).is_some_and(|open| open.is_watch)
    }

    /// The client of a watch receives a part of the response.
    pub fn on_part(&mut self, ticket: Ticket) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.request.on_part();
        }
    }

    /// Notes the leader, and returns whether the noted one is replaced: another machine leads, or
    /// this machine is a standby no longer. `standby` is the result of `Machine::standby`. While no
    /// leader is known, the noted one stays.
    pub fn has_moved(&mut self, standby: Option<Option<&str>>) -> bool {
        let leader_url = match standby {
            None => None,
            Some(None) => return false,
            Some(Some(url)) => Some(url),
        };
        if self.leader_url.as_deref() == leader_url {
            return false;
        }
        self.leader_url = leader_url.map(Box::from);
        true
    }

    /// The watches that were sent to a machine. One that is held goes to the machine that leads then.
    pub fn watches_under_way(&self) -> Vec<Ticket> {
        let held: BTreeSet<Ticket> = self.held.iter().map(|held| held.ticket).collect();
        let watches = self.open.iter().filter(|(_, open)| open.is_watch);
        let tickets = watches.map(|(ticket, _)| *ticket);
        tickets.filter(|ticket| !held.contains(ticket)).collect()
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
            self.watches -= usize::from(open.is_watch);
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
    fn a_move_concerns_each_watch_that_was_sent_begun_or_not() {
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let mut proxied = ProxiedRequests::default();
        for (number, is_watch) in [(1, false), (2, true), (3, true), (4, true)] {
            let request = ProxiedRequest::new(now, true);
            assert!(proxied.add(now, Ticket(number), request, put(0), is_watch));
        }
        proxied.held.retain(|held| held.ticket == Ticket(4));
        proxied.on_part(Ticket(2));
        assert_eq!(proxied.watches_under_way(), [Ticket(2), Ticket(3)]);
        // The first leader that is known may be another one than the machine that was asked.
        assert!(!proxied.has_moved(Some(None)));
        for leader in [Some(Some("http://a")), Some(Some("http://b")), None] {
            assert!(proxied.has_moved(leader));
            assert!(!proxied.has_moved(leader) && !proxied.has_moved(Some(None)));
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
            proxied.add(now, Ticket(ticket), request, put(bytes), false)
        };
        assert!(add(&mut proxied, 1, 5 << 20), "a single one");
        assert!(!add(&mut proxied, 2, 1));
        proxied.remove(Ticket(1));
        let count = (0..1000).filter(|n| add(&mut proxied, *n, 1));
        assert_eq!(count.count(), PROXIED_MAX);
        let watches = (1_000..4_000).filter(|number| {
            let request = ProxiedRequest::new(now, true);
            proxied.add(now, Ticket(*number), request, put(0), true)
        });
        assert_eq!(watches.count(), WATCHES_MAX);
        proxied.remove(Ticket(1_000));
        assert_eq!(proxied.watches(), WATCHES_MAX - 1);
        assert_eq!(proxied.next_deadline(), Some(1));
    }
}
