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
/// Most watches that are passed on at a time, besides those requests. Further ones are redirected.
/// Each takes a connection to the leader.
const WATCHES_MAX: usize = 1_024;
/// Most calls that a turn makes for requests that were held, and most watches that it ends after a
/// change of the leader. Each takes a connection that is opened or closed.
const CALLS_A_TURN_MAX: usize = 32;
/// Most bytes of the bodies of all requests together. A single request may be longer.
pub const PROXIED_BYTES_MAX: usize = 4 << 20;

/// One request that is passed on.
struct OpenRequest {
    request: ProxiedRequest,
    body_bytes: usize,
    is_watch: bool,
    /// The value of `ProxiedRequests::leaders` when it was sent; `None` while it is held.
    sent_to: Option<u64>,
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
    /// Most watches, by the descriptors that are free; 0 before the first `bound_watches`.
    watches_max: usize,
    /// Bytes of the bodies of the open requests.
    bytes: usize,
    /// The client URL of the last leader that `follow_leader` has noted; `None` before, and while
    /// this machine is no standby.
    leader_url: Option<Box<str>>,
    /// How often `leader_url` was replaced.
    leaders: u64,
    /// There may be watches that were sent to a former leader.
    has_moved_watches: bool,
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
            self.watches >= WATCHES_MAX.min(self.watches_max)
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
                sent_to: None,
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

    /// Bounds the watches: as many further ones may begin as there are free `descriptors`.
    pub fn bound_watches(&mut self, descriptors: usize) {
        self.watches_max = self.watches + descriptors;
    }

    /// Notes the leader. It replaces the noted one if another machine leads, or if this machine is a
    /// standby no longer. `standby` is the result of `Machine::standby`. While no leader is known, the
    /// noted one stays.
    pub fn follow_leader(&mut self, standby: Option<Option<&str>>) {
        let leader_url = match standby {
            None => None,
            Some(None) => return,
            Some(Some(url)) => Some(url),
        };
        if self.leader_url.as_deref() != leader_url {
            self.leader_url = leader_url.map(Box::from);
            self.leaders += 1;
            self.has_moved_watches = true;
        }
    }

    /// Some of the watches that were sent to a former leader; the caller ends them. One that is held
    /// goes to the machine that leads then.
    pub fn moved_watches(&mut self) -> Vec<Ticket> {
        if !self.has_moved_watches {
            return Vec::new();
        }
        let has_moved = |open: &OpenRequest| {
            let sent_to = open.sent_to.filter(|_| open.is_watch);
            sent_to.is_some_and(|leader| leader < self.leaders)
        };
        let moved = self.open.iter().filter(|(_, open)| has_moved(open));
        let moved = moved.map(|(ticket, _)| *ticket).take(CALLS_A_TURN_MAX);
        let moved: Vec<Ticket> = moved.collect();
        self.has_moved_watches = moved.len() == CALLS_A_TURN_MAX;
        moved
    }

    /// Whether `moved_watches` may have further ones.
    pub fn has_moved_watches(&self) -> bool {
        self.has_moved_watches
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
        if let Some(open) = self.open.get_mut(&ticket) {
            open.sent_to = None;
        }
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

    /// Takes the calls that are due, up to a bound, with the URL of the machine to ask before the
    /// target; `None`: no machine is known.
    pub fn take_due(
        &mut self,
        now: Now,
        machine: &Machine,
    ) -> Vec<(Ticket, Option<Box<str>>, HttpCall)> {
        let is_due = |held: &mut HeldCall| held.at_us <= now.mono_us;
        let mut due = Vec::new();
        for held in self.held.extract_if(.., is_due).take(CALLS_A_TURN_MAX) {
            let open = self.open.get_mut(&held.ticket);
            let url = open.and_then(|open| {
                open.sent_to = Some(self.leaders);
                machine.proxy_url(&open.request)
            });
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
        proxied.bound_watches(WATCHES_MAX);
        for (number, is_watch) in [(1, false), (2, true), (3, true), (4, true)] {
            let request = ProxiedRequest::new(now, true);
            assert!(proxied.add(now, Ticket(number), request, put(0), is_watch));
        }
        let send = |proxied: &mut ProxiedRequests, ticket| {
            let open = proxied.open.get_mut(&Ticket(ticket)).expect("it is open");
            open.sent_to = Some(proxied.leaders);
        };
        for ticket in [1, 2, 3] {
            send(&mut proxied, ticket);
        }
        proxied.on_part(Ticket(2));
        // The first leader that is known may be another one than the machine that was asked.
        proxied.follow_leader(Some(None));
        assert_eq!(proxied.moved_watches(), []);
        for leader in [Some(Some("http://a")), Some(Some("http://b")), None] {
            proxied.follow_leader(leader);
            assert_eq!(proxied.moved_watches(), [Ticket(2), Ticket(3)]);
            assert!(!proxied.has_moved_watches());
            for ticket in [1, 2, 3] {
                send(&mut proxied, ticket);
            }
            for same in [leader, Some(None)] {
                proxied.follow_leader(same);
                assert_eq!(proxied.moved_watches(), []);
            }
        }
        proxied.follow_leader(Some(Some("http://c")));
        let call = put(0);
        proxied.hold(Ticket(2), 9, call);
        assert_eq!(proxied.moved_watches(), [Ticket(3)]);
    }

    #[test]
    fn a_turn_ends_a_bounded_number_of_watches() {
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let mut proxied = ProxiedRequests::default();
        proxied.bound_watches(WATCHES_MAX);
        let mut left = WATCHES_MAX;
        for number in 0..left as u64 {
            let request = ProxiedRequest::new(now, true);
            assert!(proxied.add(now, Ticket(number), request, put(0), true));
            let open = proxied.open.get_mut(&Ticket(number)).expect("it is open");
            open.sent_to = Some(0);
        }
        proxied.follow_leader(Some(Some("http://a")));
        while proxied.has_moved_watches() {
            let moved = proxied.moved_watches();
            assert!(moved.len() <= CALLS_A_TURN_MAX);
            left -= moved.len();
            moved.iter().for_each(|ticket| proxied.remove(*ticket));
        }
        assert_eq!((left, proxied.watches()), (0, 0));
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
        let mut number = 1_000;
        for (descriptors, admitted) in [(0, 0), (7, 7), (4_000, WATCHES_MAX - 7), (4_000, 0)] {
            proxied.bound_watches(descriptors);
            let watches = (0..4_000).filter(|_| {
                number += 1;
                let request = ProxiedRequest::new(now, true);
                proxied.add(now, Ticket(number), request, put(0), true)
            });
            assert_eq!(watches.count(), admitted, "{descriptors} descriptors");
        }
        proxied.remove(Ticket(5_001));
        assert_eq!(proxied.watches(), WATCHES_MAX - 1);
        assert_eq!(proxied.next_deadline(), Some(1));
    }
}
