//! All outgoing HTTP calls: join, machine list, version and discovery calls of the machine, and the
//! client requests that a standby proxies.
//!
//! Each call ends exactly once, with a response or a failure. Two kinds end without either: a call
//! of the machine that a later one makes void, and the call of a watch that is cancelled. The
//! calls run in parallel, each on its own connection. The machine's calls, the proxied requests
//! and the proxied watches have separate bounds, so that clients never keep the machine from
//! calling. Must not know the meaning of a call. Start with `start` and `work`; `fill` and `flush`
//! move the bytes.
use super::outgoing_call::{CallOrigin, CallTools, Connectors, EndedCall, OutgoingCall};
use super::pool::{Pool, Settled};
use super::resolver::Resolver;
use super::slots::{PoolKind, SlotId};
use super::turn_budget::{self, Share};
use crate::codec::http::call::HttpCall;
use crate::codec::http::client::ResponsePart;
use crate::core::machine::{CallId, Ticket};
use crate::core::timer::Now;
use mio::Registry;
use mio::event::Event;
use std::collections::{BTreeMap, VecDeque};

/// Most calls of one lane under way at a time. Further ones wait; their time limit runs meanwhile.
pub const OPEN_MAX: usize = 16;
/// Most calls of one lane that begin in one turn. To begin a connection takes tens of microseconds.
const BEGUN_A_TURN_MAX: usize = 32;
/// The bytes of responses to clients that a turn reads, for each lane of the turn: no more than a
/// turn writes to clients.
const READ_BYTES: usize = 128 * 1024;

/// The calls of one kind: those of the machine, the proxied requests, or the proxied watches.
#[derive(Default)]
struct Lane {
    /// The calls that have not begun, oldest first, each with the time when it must have ended in
    /// microseconds of the monotonic clock.
    waiting: VecDeque<(CallOrigin, HttpCall, u64)>,
    /// How many are under way; at most `OPEN_MAX`, unless `is_unbounded`.
    open: usize,
    /// Set for watches: `ProxiedRequests` bounds their number, and a watch that waits for events
    /// must not keep another one from beginning.
    is_unbounded: bool,
}

impl Lane {
    fn may_start(&self) -> bool {
        !self.waiting.is_empty() && (self.is_unbounded || self.open < OPEN_MAX)
    }
}

/// The result of one turn of the calls.
#[derive(Default)]
pub struct CallResults {
    /// The parts of responses to watches, oldest first. The client of a call in `ended` gets its
    /// parts before its end.
    pub parts: Vec<(Ticket, ResponsePart)>,
    /// The calls that have ended.
    pub ended: Vec<EndedCall>,
}

/// All outgoing calls.
pub struct HttpCalls {
    /// The calls under way.
    calls: Pool<OutgoingCall>,
    machine: Lane,
    clients: Lane,
    watches: Lane,
    /// The slots of the watches under way.
    watch_slots: BTreeMap<Ticket, SlotId>,
    connectors: Connectors,
}

impl HttpCalls {
    /// No calls yet.
    pub fn new(connectors: Connectors) -> HttpCalls {
        HttpCalls {
            calls: Pool::new(PoolKind::Calls),
            machine: Lane::default(),
            clients: Lane::default(),
            watches: Lane {
                is_unbounded: true,
                ..Lane::default()
            },
            watch_slots: BTreeMap::new(),
            connectors,
        }
    }

    fn lane_mut(&mut self, origin: &CallOrigin) -> &mut Lane {
        match origin {
            CallOrigin::Machine { .. } => &mut self.machine,
            CallOrigin::Client { is_watch: true, .. } => &mut self.watches,
            CallOrigin::Client { .. } => &mut self.clients,
        }
    }

    /// Reads the certificates for later calls again, see `Connector::reload`.
    ///
    /// # Errors
    /// A file is unusable; the text names it.
    pub fn reload(&mut self) -> Result<(), String> {
        self.connectors.reload()
    }

    /// Queues a call. Its time limit runs from now.
    pub fn start(&mut self, origin: CallOrigin, call: HttpCall, now: Now) {
        if let CallOrigin::Machine { id, .. } = origin {
            self.drop_void_calls(id);
        }
        let limit_us = call.timeout_ms.saturating_mul(1000);
        let until_us = now.mono_us.saturating_add(limit_us);
        let lane = self.lane_mut(&origin);
        lane.waiting.push_back((origin, call, until_us));
    }

    /// Drops the calls whose replies the machine ignores once it makes the call `later`.
    fn drop_void_calls(&mut self, later: CallId) {
        let waiting = &mut self.machine.waiting;
        waiting.retain(|(origin, _, _)| !origin.is_void_after(later));
        let mut void = Vec::new();
        for (slot, call) in self.calls.iter_mut() {
            if call.origin().is_void_after(later) {
                void.push(slot);
            }
        }
        for slot in void {
            self.remove(slot);
        }
    }

    /// Drops the calls of the watches with these tickets, without a result.
    pub fn cancel_watches(&mut self, tickets: &[Ticket]) {
        tickets.iter().for_each(|ticket| self.cancel_watch(*ticket));
    }

    fn cancel_watch(&mut self, ticket: Ticket) {
        if let Some(slot) = self.watch_slots.get(&ticket) {
            self.remove(*slot);
            return;
        }
        let origin = CallOrigin::Client {
            ticket,
            is_watch: true,
        };
        let waiting = &mut self.watches.waiting;
        waiting.retain(|(other, _, _)| *other != origin);
    }

    /// Stops reading the responses to the watches with these tickets: their clients have much output
    /// to read. The machine that was asked finds that its output is not read, and applies its limits.
    pub fn pause_watches(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            if let Some(slot) = self.watch_slots.get(ticket)
                && let Some(call) = self.calls.get_mut(*slot)
            {
                call.set_paused(true);
            }
        }
    }

    /// Goes on reading the responses to these watches.
    pub fn resume_watches(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            if let Some(slot) = self.watch_slots.get(ticket)
                && let Some(call) = self.calls.wake(*slot)
            {
                call.set_paused(false);
            }
        }
    }

    /// Phase 1: the poll has reported an event of one of the calls.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(call) = self.calls.wake_for(event) {
            call.on_event(event);
        }
    }

    /// Phase 1: the resolver has an answer. The calls that wait for a host name try again.
    pub fn on_resolved(&mut self) {
        self.calls.wake_where(|call| call.is_resolving());
    }

    /// Phase 2: reads from each call that has bytes; for clients up to a bound.
    pub fn fill(&mut self) {
        let mut share = Share::new(READ_BYTES);
        for place in 0..self.calls.ready_len() {
            let lane = turn_budget::Lane::of(self.calls.is_carried(place));
            let Some(call) = self.calls.ready_at(place) else {
                continue;
            };
            if let CallOrigin::Machine { .. } = call.origin() {
                call.fill(usize::MAX);
            } else if share.is_spent(lane) {
                self.calls.defer(place);
            } else {
                share.spend(lane, call.fill(share.left(lane)));
            }
        }
    }

    /// Phase 3: begins waiting calls, advances the ready ones, and returns the ended ones and the
    /// parts of responses to watches.
    pub fn work(&mut self, registry: &Registry, resolver: &mut Resolver, now: Now) -> CallResults {
        let mut results = CallResults::default();
        self.begin_waiting(now, &mut results.ended);
        // `advance` checks the time limit.
        self.calls.expire(now.mono_us, |_| {});
        for place in 0..self.calls.ready_len() {
            let Some(call) = self.calls.ready_at(place) else {
                continue;
            };
            let mut tools = CallTools {
                registry,
                resolver,
                connectors: &mut self.connectors,
                now,
            };
            let reply = loop {
                if let Some(reply) = call.advance(&mut tools) {
                    break Some(reply);
                }
                let CallOrigin::Client { ticket, .. } = *call.origin() else {
                    break None;
                };
                match call.take_part() {
                    Some(part) => results.parts.push((ticket, part)),
                    None => break None,
                }
            };
            if let Some(reply) = reply {
                let slot = call.slot();
                let call = self.remove(slot);
                results.ended.push(call.into_ended(reply));
            }
        }
        results
    }

    /// Begins the waiting calls of each lane as long as it has room, up to a bound.
    fn begin_waiting(&mut self, now: Now, ended: &mut Vec<EndedCall>) {
        for lane in [&mut self.machine, &mut self.clients, &mut self.watches] {
            for _ in 0..BEGUN_A_TURN_MAX {
                if !lane.may_start() {
                    break;
                }
                let next = lane.waiting.pop_front();
                let (origin, call, until_us) = next.expect("a lane starts only if a call waits");
                if until_us <= now.mono_us {
                    let why = "too many calls, not begun in time";
                    ended.push(EndedCall::unstarted(origin, call, why));
                    continue;
                }
                lane.open += 1;
                let watch = origin.watch();
                let slot = self
                    .calls
                    .insert_with(|slot| OutgoingCall::new(slot, origin, call, until_us));
                if let Some(ticket) = watch {
                    self.watch_slots.insert(ticket, slot);
                }
            }
        }
    }

    fn remove(&mut self, slot: SlotId) -> OutgoingCall {
        let call = self.calls.remove(slot);
        let call = call.expect("a call is removed once");
        self.lane_mut(call.origin()).open -= 1;
        if let Some(ticket) = call.origin().watch() {
            self.watch_slots.remove(&ticket);
        }
        call
    }

    /// Phases 6 and 9: writes the requests whose sockets take them.
    pub fn flush(&mut self) {
        for place in 0..self.calls.ready_len() {
            if let Some(call) = self.calls.ready_at(place) {
                call.flush();
            }
        }
    }

    /// Phase 11: sets the timers.
    pub fn reap(&mut self) {
        // `work` has removed the calls that have ended.
        let mut ended = Vec::new();
        self.calls.settle(&mut ended, |_, call| Settled::Keep {
            deadline_us: call.deadline_us(),
            ready: call.wants_input(),
        });
    }

    /// Whether a call can begin or advance without any event.
    pub fn has_work(&self) -> bool {
        let lanes = [&self.machine, &self.clients, &self.watches];
        self.calls.has_work() || lanes.iter().any(|lane| lane.may_start())
    }

    /// When the next timer fires, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.calls.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::Method;
    use crate::codec::http::call::HttpReply;
    use crate::core::machine::{Question, Ticket};
    use crate::shell::connect::Connector;
    use mio::{Events, Poll, Token, Waker};
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    const RESOLVER: Token = Token(usize::MAX);

    /// A server that answers each connection with the next text, and returns the requests.
    fn serve(answers: Vec<String>) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a call");
                let (mut text, mut bytes) = (String::new(), [0; 4096]);
                while !text.ends_with("\r\n\r\n") && !text.ends_with("BODY") {
                    let count = stream.read(&mut bytes).expect("a request");
                    text.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
                }
                asked.push(text);
                // Fails if the other side has read enough and closed.
                let _ = stream.write_all(answer.as_bytes());
            }
            asked
        });
        (port, thread)
    }

    /// A server that answers `count` connections with the text, and returns them open.
    fn serve_open(answer: String, count: usize) -> (u16, std::thread::JoinHandle<Vec<TcpStream>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let accept = move |_| {
            let (mut stream, _) = listener.accept().expect("a call");
            stream.write_all(answer.as_bytes()).expect("it is written");
            stream
        };
        let thread = std::thread::spawn(move || (0..count).map(accept).collect());
        (port, thread)
    }

    fn of_machine(id: u64) -> CallOrigin {
        CallOrigin::Machine {
            id: CallId(id),
            question: Question::Version,
        }
    }

    fn id_of(origin: &CallOrigin) -> u64 {
        match origin {
            CallOrigin::Machine { id, .. } => id.0,
            CallOrigin::Client { .. } => panic!("the call of a client"),
        }
    }

    fn call(id: u64, method: Method, url: String) -> (CallOrigin, HttpCall) {
        let put = method == Method::Put;
        let call = HttpCall {
            method,
            url: url.into(),
            content_type: if put { "text/plain" } else { "" },
            header: None,
            body: if put { b"BODY"[..].into() } else { [].into() },
            timeout_ms: 10_000,
        };
        (of_machine(id), call)
    }

    fn resolver(poll: &Poll) -> Resolver {
        let waker = Waker::new(poll.registry(), RESOLVER).expect("a waker");
        Resolver::new(std::sync::Arc::new(waker))
    }

    fn connectors() -> Connectors {
        let connector = || Connector::new(&Default::default());
        Connectors {
            peers: connector(),
            clients: connector(),
            discovery: connector(),
        }
    }

    /// The phases of one turn that concern calls.
    fn turn(
        calls: &mut HttpCalls,
        registry: &Registry,
        resolver: &mut Resolver,
        now: Now,
    ) -> Vec<EndedCall> {
        calls.fill();
        let ended = calls.work(registry, resolver, now).ended;
        calls.flush();
        calls.reap();
        ended
    }

    /// Makes calls and waits for all of them. With `late`, each turn takes a second.
    fn make_all(list: Vec<(CallOrigin, HttpCall)>, late: bool) -> Vec<(u64, HttpReply)> {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(64);
        let mut resolver = resolver(&poll);
        let mut calls = HttpCalls::new(connectors());
        let mut replies = Vec::new();
        let mut now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let count = list.len();
        for (origin, call) in list {
            calls.start(origin, call, now);
        }
        while replies.len() < count {
            replies.extend(turn(&mut calls, poll.registry(), &mut resolver, now));
            let wait_ms = if calls.has_work() || replies.len() == count {
                0
            } else {
                20
            };
            poll.poll(&mut events, Some(Duration::from_millis(wait_ms)))
                .expect("it polls");
            for event in &events {
                match event.token() {
                    RESOLVER if resolver.collect(now.mono_us) => calls.on_resolved(),
                    RESOLVER => {}
                    _ => calls.on_event(event),
                }
            }
            now.mono_us += if late { 1_000_000 } else { 1 };
        }
        assert!(calls.next_deadline().is_none() && calls.calls.len() == 0);
        let mut replies: Vec<(u64, HttpReply)> = replies
            .into_iter()
            .map(|ended: EndedCall| (id_of(&ended.origin), ended.reply))
            .collect();
        replies.sort_by_key(|r| r.0);
        replies
    }

    fn answered(reply: &HttpReply) -> (u16, &str) {
        match reply {
            HttpReply::Answered { status, body, .. } => {
                (*status, std::str::from_utf8(body).expect("text"))
            }
            HttpReply::Failed { why } => panic!("{why}"),
        }
    }

    fn failed(reply: &HttpReply) -> &str {
        match reply {
            HttpReply::Failed { why } => why,
            HttpReply::Answered { status, .. } => panic!("status {status}"),
        }
    }

    fn full(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nServer: tern/9\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    fn moved(to: &str) -> String {
        format!("HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
    }

    #[test]
    fn redirects_keep_method_and_body() {
        let (there, second) = serve(vec![moved("/c"), full("200 OK", "joined")]);
        let (here, first) = serve(vec![moved(&format!("http://localhost:{there}/b?q"))]);
        let url = format!("http://127.0.0.1:{here}/a");
        let replies = make_all(vec![call(7, Method::Put, url)], false);
        assert_eq!(answered(&replies[0].1), (200, "joined"));
        let HttpReply::Answered { server, .. } = &replies[0].1 else {
            unreachable!("it was answered");
        };
        assert_eq!(&**server, "tern/9");
        let asked = [
            first.join().expect("served"),
            second.join().expect("served"),
        ]
        .concat();
        for (text, target) in asked.iter().zip(["/a", "/b?q", "/c"]) {
            assert!(
                text.starts_with(&format!("PUT {target} HTTP/1.1\r\n")),
                "{text}"
            );
            assert!(text.ends_with("\r\n\r\nBODY"), "{text}");
        }
        assert!(
            asked[1].contains(&format!("Host: localhost:{there}\r\n")),
            "{}",
            asked[1]
        );
    }

    #[test]
    fn redirects_have_an_end() {
        let (port, server) = serve((0..11).map(|_| moved("/again")).collect());
        let url = format!("http://127.0.0.1:{port}/again");
        let replies = make_all(vec![call(1, Method::Get, url)], false);
        assert!(failed(&replies[0].1).ends_with("too many redirects"));
        assert_eq!(server.join().expect("served").len(), 11);
        let (port, server) = serve(vec![moved("ftp://x")]);
        let url = format!("http://127.0.0.1:{port}/");
        let replies = make_all(vec![call(1, Method::Get, url)], false);
        assert!(failed(&replies[0].1).ends_with("a redirect without a usable Location"));
        server.join().expect("served");
    }

    /// If the calls ran one after the other, they would take forty times their time limit.
    #[test]
    fn a_call_that_hangs_fails_in_time_and_delays_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let silent = listener.local_addr().expect("bound").port();
        let url = format!("http://127.0.0.1:{silent}/");
        let list = (0..40).map(|i| call(i, Method::Get, url.clone()));
        for (_, reply) in make_all(list.collect(), true) {
            failed(&reply);
        }
    }

    /// The machine has begun another search. The calls of the former one are dropped without a
    /// reply.
    #[test]
    fn calls_of_a_former_search_are_dropped() {
        let poll = Poll::new().expect("a poll");
        let mut resolver = resolver(&poll);
        let mut calls = HttpCalls::new(connectors());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let [search, registrar, next] = [7, 1 << 62, 1 << 32];
        for id in [search, registrar, next, next + 1] {
            let (origin, call) = call(id, Method::Get, url.clone());
            calls.start(origin, call, now);
            assert!(turn(&mut calls, poll.registry(), &mut resolver, now).is_empty());
        }
        let (_, passed) = call(search, Method::Get, url);
        let ticket = Ticket(search);
        let is_watch = false;
        calls.start(CallOrigin::Client { ticket, is_watch }, passed, now);
        let open: std::collections::BTreeSet<u64> = calls
            .calls
            .iter_mut()
            .map(|(_, c)| id_of(c.origin()))
            .collect();
        assert_eq!(
            (open, [calls.machine.open, calls.clients.open]),
            ([registrar, next, next + 1].into(), [3, 0])
        );
    }

    /// Takes turns until `done` accepts the bytes that a turn has brought to watches.
    fn turn_until(
        calls: &mut HttpCalls,
        (poll, resolver): &mut (Poll, Resolver),
        mut done: impl FnMut(usize) -> bool,
    ) {
        let mut events = Events::with_capacity(64);
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        loop {
            calls.fill();
            let results = calls.work(poll.registry(), resolver, now);
            calls.flush();
            calls.reap();
            let bytes = results.parts.iter().map(|(_, part)| part.body.len()).sum();
            if done(bytes) {
                return;
            }
            poll.poll(&mut events, Some(Duration::from_millis(20)))
                .expect("it polls");
            for event in &events {
                calls.on_event(event);
            }
            resolver.collect(now.mono_us);
            calls.on_resolved();
        }
    }

    #[test]
    fn a_paused_watch_is_not_read_and_a_turn_reads_a_bounded_number_of_bytes() {
        const WATCHES: usize = 40;
        const BYTES: usize = 100_000;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = format!("{head}{BYTES:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(BYTES));
        let (port, server) = serve_open(answer, WATCHES);
        let poll = Poll::new().expect("a poll");
        let resolver = resolver(&poll);
        let mut loop_parts = (poll, resolver);
        let mut calls = HttpCalls::new(connectors());
        let tickets: Vec<Ticket> = (0..WATCHES as u64).map(Ticket).collect();
        let now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        for ticket in &tickets {
            let origin = CallOrigin::Client {
                ticket: *ticket,
                is_watch: true,
            };
            let url = format!("http://127.0.0.1:{port}/");
            calls.start(origin, call(0, Method::Get, url).1, now);
        }
        turn_until(&mut calls, &mut loop_parts, |_| true);
        assert_eq!(calls.watches.open, BEGUN_A_TURN_MAX);
        turn_until(&mut calls, &mut loop_parts, |_| true);
        assert_eq!(calls.watches.open, WATCHES);
        calls.pause_watches(&tickets);
        let mut turns = 0;
        turn_until(&mut calls, &mut loop_parts, |bytes| {
            assert_eq!(bytes, 0, "paused");
            turns += 1;
            turns == 20
        });
        calls.resume_watches(&tickets);
        let mut received = 0;
        turn_until(&mut calls, &mut loop_parts, |bytes| {
            assert!(bytes <= 2 * READ_BYTES, "{bytes} bytes in a turn");
            received += bytes;
            received == WATCHES * BYTES
        });
        calls.cancel_watches(&tickets);
        assert_eq!((calls.calls.len(), calls.watch_slots.len()), (0, 0));
        server.join().expect("served");
    }

    #[test]
    fn a_call_without_an_http_answer_fails() {
        let refused = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound").port()
        };
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        let huge = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
        let answers = ["rubbish\r\n\r\n", cut, huge, ""].map(String::from);
        let count = answers.len() as u64;
        let (port, server) = serve(answers.into());
        let list = (0..count).map(|i| call(i, Method::Get, format!("http://127.0.0.1:{port}/")));
        let mut list: Vec<(CallOrigin, HttpCall)> = list.collect();
        list.push(call(
            90,
            Method::Get,
            format!("http://127.0.0.1:{refused}/"),
        ));
        list.push(call(91, Method::Get, "no url".into()));
        list.push(call(92, Method::Get, "http://name.invalid:1/".into()));
        for (id, reply) in make_all(list, false) {
            assert!(!failed(&reply).is_empty(), "{id}");
        }
        server.join().expect("served");
    }

    #[test]
    fn an_error_status_is_an_answer() {
        let (port, server) = serve(vec![full("403 Forbidden", "full")]);
        let url = format!("http://127.0.0.1:{port}/join");
        let replies = make_all(vec![call(1, Method::Put, url)], false);
        assert_eq!(answered(&replies[0].1), (403, "full"));
        server.join().expect("served");
    }
}
