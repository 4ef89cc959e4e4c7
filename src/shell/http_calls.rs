//! Outgoing HTTP calls: join, machine list, versions, discovery, and what a standby passes on for
//! its clients.
//!
//! The machine leaves them as data and is told what became of each, once, whatever happens. One
//! connection a call and a hop; several calls at once, and the clients' never stand in the way of
//! the machine's own. What a call means is none of this file's business. Start with `work`.
use super::connect::Caller;
use super::resolver::{Found, Names};
use super::slots::{Kind, SlotId, Slots};
use super::transport::{Read, Transport};
use crate::codec::api::ProxyOutcome;
use crate::codec::http::Method;
use crate::codec::http::call::{HttpCall, HttpReply};
use crate::codec::http::client::{CallResponse, ResponseParser};
use crate::codec::http::url::Url;
use crate::core::machine::{CallId, Question, Ticket};
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use mio::event::Event;
use mio::{Interest, Registry};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;

/// Calls of the machine, and of clients, under way at once; others wait, while their time runs.
const OPEN_MAX: usize = 16;
/// Redirects followed in one call.
const REDIRECTS_MAX: usize = 10;
/// An answer with its framing, in bytes: twice what a body may have.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// Between the tries of two addresses of one host, at most: the first may be one that swallows
/// everything.
const ADDRESS_US: u64 = 1_000_000;

/// How far a call is.
enum Stage {
    /// The addresses of its host are being asked for.
    Name,
    Connecting {
        since_us: u64,
    },
    Talking,
}

/// Where a call comes from, and where its reply goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOrigin {
    /// The core asks a question.
    Machine {
        /// The number that the core knows the call by.
        id: CallId,
        /// Tells how the response is to be read.
        question: Question,
    },
    /// A client's request is passed on to the leader.
    Client(Ticket),
}

impl CallOrigin {
    /// The index of its queue and its count of open calls.
    fn lane(&self) -> usize {
        match self {
            CallOrigin::Machine { .. } => 0,
            CallOrigin::Client(_) => 1,
        }
    }

    fn is_client(&self) -> bool {
        matches!(self, CallOrigin::Client(_))
    }

    /// Whether the core no longer waits for this call once it has made the call `later`.
    fn is_void_after(&self, later: CallId) -> bool {
        match self {
            CallOrigin::Machine { id, .. } => id.is_void_after(later),
            CallOrigin::Client(_) => false,
        }
    }
}

/// One call.
struct Calling {
    slot: SlotId,
    origin: CallOrigin,
    call: HttpCall,
    /// Where it is now, after redirects.
    url: String,
    redirects: usize,
    timer: TimerHandle,
    stage: Stage,
    transport: Option<Transport>,
    /// Addresses not tried yet, the next one last.
    addresses: Vec<SocketAddr>,
    trouble: String,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    parser: ResponseParser,
    readable: bool,
    blocked: bool,
    queued: bool,
    /// Headers of the answer that a client gets.
    headers: Vec<(&'static str, String)>,
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Where the reply goes.
    pub origin: CallOrigin,
    /// What came of it.
    pub reply: HttpReply,
    headers: Vec<(&'static str, String)>,
    /// All of the request had left.
    sent: bool,
    /// Of the request.
    pub body_bytes: usize,
}

impl Ended {
    fn of(origin: CallOrigin, call: &HttpCall, reply: HttpReply) -> Ended {
        Ended {
            origin,
            reply,
            headers: Vec::new(),
            sent: false,
            body_bytes: call.body.len(),
        }
    }

    /// For the client whose request it was.
    pub fn into_passed(self) -> ProxyOutcome {
        match self.reply {
            HttpReply::Answered { status, body, .. } => ProxyOutcome::Answered {
                status,
                headers: self.headers,
                body,
            },
            HttpReply::Failed { .. } => ProxyOutcome::Failed { sent: self.sent },
        }
    }
}

enum Timer {
    /// The call's time is over.
    Over(SlotId),
    /// An address has had its time.
    Next(SlotId),
}

/// What a step came to.
enum Step {
    /// It waits for the poll, a name or a timer.
    Wait,
    Again,
    Done(HttpReply),
}

/// Who calls.
pub struct Callers {
    /// For peers: with this machine's certificate, and trusting the peers' authority.
    pub peers: Caller,
    /// For what is passed on to the leader's client port.
    pub clients: Caller,
    /// For the discovery service, which has one that the world trusts.
    pub world: Caller,
    /// `host:port` of the discovery service; empty without one.
    pub discovery: String,
}

impl Callers {
    fn of(&mut self, url: &Url, passed: bool) -> &mut Caller {
        match url.authority == self.discovery {
            _ if passed => &mut self.clients,
            true => &mut self.world,
            false => &mut self.peers,
        }
    }
}

/// What a call needs of others to go on.
struct Tools<'a> {
    registry: &'a Registry,
    names: &'a mut Names,
    timers: &'a mut TimerWheel<Timer>,
    callers: &'a mut Callers,
    now: Now,
}

/// All calls.
pub struct Calls {
    calls: Slots<Calling>,
    /// The machine's own, and those of clients.
    waiting: [VecDeque<(CallOrigin, HttpCall, u64)>; 2],
    open: [usize; 2],
    ready: Vec<SlotId>,
    timers: TimerWheel<Timer>,
    due: Vec<Timer>,
    callers: Callers,
}

impl Calls {
    /// None.
    pub fn new(callers: Callers) -> Calls {
        Calls {
            calls: Slots::new(),
            waiting: Default::default(),
            open: [0; 2],
            ready: Vec::new(),
            timers: TimerWheel::new(),
            due: Vec::new(),
            callers,
        }
    }

    /// Takes a call; its time runs from now.
    pub fn start(&mut self, origin: CallOrigin, call: HttpCall, now: Now) {
        if let CallOrigin::Machine { id, .. } = origin {
            self.drop_void(id);
        }
        let limit_us = call.timeout_ms.saturating_mul(1000);
        let until_us = now.mono_us.saturating_add(limit_us);
        self.waiting[origin.lane()].push_back((origin, call, until_us));
    }

    /// Closes what nobody listens to any more once this call is made.
    fn drop_void(&mut self, later: CallId) {
        self.waiting[0].retain(|(origin, _, _)| !origin.is_void_after(later));
        let mut void: Vec<SlotId> = Vec::new();
        for (slot, calling) in self.calls.iter_mut() {
            if calling.origin.is_void_after(later) {
                void.push(slot);
            }
        }
        for slot in void {
            self.end(slot, HttpReply::Failed { why: "".into() }, &mut Vec::new());
        }
    }

    /// The poll has told of one of them.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(calling) = self.calls.get_mut(SlotId::from_token(event.token())) {
            calling.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            calling.blocked &= !event.is_writable();
            touch(&mut self.ready, calling);
        }
    }

    /// Names have been resolved.
    pub fn on_names(&mut self) {
        for (_, calling) in self.calls.iter_mut() {
            if let Stage::Name = calling.stage {
                touch(&mut self.ready, calling);
            }
        }
    }

    /// Phase 3: everybody who can goes on; gives those that have ended.
    pub fn work(&mut self, registry: &Registry, names: &mut Names, now: Now) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.admit(now, &mut ended);
        self.timers.advance(now.mono_us, &mut self.due);
        for timer in std::mem::take(&mut self.due) {
            let (Timer::Over(slot) | Timer::Next(slot)) = timer;
            let Some(calling) = self.calls.get_mut(slot) else {
                continue;
            };
            match timer {
                Timer::Over(_) => {
                    let why = format!("{}: no answer in time", calling.url);
                    let why = why.into();
                    self.end(slot, HttpReply::Failed { why }, &mut ended);
                }
                Timer::Next(_) => touch(&mut self.ready, calling),
            }
        }
        for slot in std::mem::take(&mut self.ready) {
            let Some(calling) = self.calls.get_mut(slot) else {
                continue;
            };
            calling.queued = false;
            let mut tools = Tools {
                registry,
                names,
                timers: &mut self.timers,
                callers: &mut self.callers,
                now,
            };
            let reply = loop {
                match calling.step(&mut tools) {
                    Step::Again => {}
                    Step::Wait => break None,
                    Step::Done(reply) => break Some(reply),
                }
            };
            if let Some(reply) = reply {
                self.end(slot, reply, &mut ended);
            }
        }
        ended
    }

    /// Starts those that wait, while there is room.
    fn admit(&mut self, now: Now, ended: &mut Vec<Ended>) {
        for whose in [0, 1] {
            while self.open[whose] < OPEN_MAX
                && let Some((origin, call, until_us)) = self.waiting[whose].pop_front()
            {
                if until_us <= now.mono_us {
                    let why = format!("{}: no time left", call.url).into();
                    ended.push(Ended::of(origin, &call, HttpReply::Failed { why }));
                    continue;
                }
                self.open[whose] += 1;
                let timers = &mut self.timers;
                let slot = self.calls.insert_with(|slot| {
                    let timer = timers.schedule(until_us, Timer::Over(slot));
                    Calling::new(slot, origin, call, timer)
                });
                let calling = self.calls.get_mut(slot).expect("just put there");
                touch(&mut self.ready, calling);
            }
        }
    }

    fn end(&mut self, slot: SlotId, reply: HttpReply, ended: &mut Vec<Ended>) {
        let calling = self.calls.remove(slot).expect("it was just looked at");
        self.timers.cancel(calling.timer);
        self.open[calling.origin.lane()] -= 1;
        let sent = !calling.out.is_empty() && calling.sent == calling.out.len();
        ended.push(Ended {
            sent,
            headers: calling.headers,
            ..Ended::of(calling.origin, &calling.call, reply)
        });
    }

    /// Whether somebody can go on without being told by the poll.
    pub fn has_work(&self) -> bool {
        let mut queues = self.waiting.iter().zip(self.open);
        !self.ready.is_empty()
            || queues.any(|(waiting, open)| !waiting.is_empty() && open < OPEN_MAX)
    }

    /// When something is to be done; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        self.timers.next_deadline().unwrap_or(u64::MAX)
    }
}

fn touch(ready: &mut Vec<SlotId>, calling: &mut Calling) {
    if !calling.queued {
        calling.queued = true;
        ready.push(calling.slot);
    }
}

impl Calling {
    fn new(slot: SlotId, origin: CallOrigin, call: HttpCall, timer: TimerHandle) -> Calling {
        Calling {
            slot,
            origin,
            url: call.url.to_string(),
            call,
            redirects: 0,
            timer,
            stage: Stage::Name,
            transport: None,
            addresses: Vec::new(),
            trouble: String::new(),
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            parser: ResponseParser::default(),
            readable: false,
            blocked: true,
            queued: false,
            headers: Vec::new(),
        }
    }

    fn fail(&self, why: impl std::fmt::Display) -> Step {
        let why = format!("{}: {why}", self.url).into();
        Step::Done(HttpReply::Failed { why })
    }

    fn step(&mut self, tools: &mut Tools) -> Step {
        match self.stage {
            Stage::Name => self.resolve(tools),
            Stage::Connecting { since_us } => self.connecting(since_us, tools),
            Stage::Talking => self.talk(),
        }
    }

    /// Finds the addresses and the bytes to send.
    fn resolve(&mut self, tools: &mut Tools) -> Step {
        let Some(url) = Url::parse(&self.url) else {
            return self.fail("not a URL");
        };
        let found = match tools.names.find(url.host, tools.now.mono_us) {
            Found::Wait => return Step::Wait,
            Found::Failed(why) => return self.fail(why),
            Found::Addresses(found) => found,
        };
        let at = |ip| SocketAddr::new(ip, url.port);
        self.addresses = found.into_iter().rev().map(at).collect();
        self.out = self.call.encode(&url);
        self.connect_next(tools)
    }

    /// Tries the next address.
    fn connect_next(&mut self, tools: &mut Tools) -> Step {
        let Some(address) = self.addresses.pop() else {
            return self.fail(&self.trouble);
        };
        (self.sent, self.readable, self.blocked) = (0, false, true);
        self.stage = Stage::Connecting {
            since_us: tools.now.mono_us,
        };
        let token = self.slot.token(Kind::Call);
        let both = Interest::READABLE | Interest::WRITABLE;
        let url = Url::parse(&self.url).expect("it was resolved");
        let caller = tools.callers.of(&url, self.origin.is_client());
        let registered = caller.connect(&url, address).and_then(|mut transport| {
            transport.register_for(tools.registry, token, both)?;
            Ok(transport)
        });
        match registered {
            Ok(transport) => {
                self.transport = Some(transport);
                if !self.addresses.is_empty() {
                    let next = Timer::Next(self.slot);
                    tools.timers.schedule(tools.now.mono_us + ADDRESS_US, next);
                }
                Step::Wait
            }
            Err(e) => {
                self.trouble = e.to_string();
                Step::Again
            }
        }
    }

    fn connecting(&mut self, since_us: u64, tools: &mut Tools) -> Step {
        let Some(transport) = &mut self.transport else {
            return self.connect_next(tools);
        };
        let over = tools.now.mono_us >= since_us + ADDRESS_US && !self.addresses.is_empty();
        if self.blocked && !self.readable && !over {
            return Step::Wait;
        }
        match transport.is_connected() {
            Ok(true) => {
                self.stage = Stage::Talking;
                Step::Again
            }
            Ok(false) if !over => Step::Wait,
            Ok(false) => {
                self.trouble = "no connection in time".into();
                self.transport = None;
                Step::Again
            }
            Err(e) => {
                self.trouble = e.to_string();
                self.transport = None;
                Step::Again
            }
        }
    }

    /// Sends what is left, reads what is there.
    fn talk(&mut self) -> Step {
        let transport = self.transport.as_mut().expect("it is connected");
        while self.sent < self.out.len() && !self.blocked {
            match transport.write(&[IoSlice::new(&self.out[self.sent..])]) {
                Ok((count, blocked)) => (self.sent, self.blocked) = (self.sent + count, blocked),
                // It may have answered before it closed.
                Err(_) => (self.blocked, self.readable) = (true, true),
            }
        }
        let mut end = None;
        while self.readable && end.is_none() {
            self.input.reserve(READ_BYTES);
            match transport.read(&mut self.input) {
                Ok(Read::Bytes { .. }) if self.input.len() > ANSWER_BYTES_MAX => {
                    return self.fail("over-long answer");
                }
                Ok(Read::Bytes { .. }) => {}
                Ok(Read::Blocked) => self.readable = false,
                Ok(Read::End) => end = Some(String::new()),
                Err(e) => end = Some(e.to_string()),
            }
        }
        match transport.flush() {
            Ok(waits) => self.blocked |= waits,
            Err(e) => end = end.or(Some(e.to_string())),
        }
        match (self.parser.parse(&self.input, end.is_some()), end) {
            (Ok(Some(response)), _) => self.on_response(response),
            (Ok(None), None) => Step::Wait,
            (Err(_), Some(why)) if !why.is_empty() => self.fail(why),
            (Ok(None), Some(why)) => self.fail(why),
            (Err(fault), _) => self.fail(fault.0),
        }
    }

    fn on_response(&mut self, response: CallResponse) -> Step {
        let follows = match response.status {
            307 | 308 => true,
            301 | 302 => matches!(self.call.method, Method::Get | Method::Head),
            _ => false,
        };
        if !follows {
            self.headers = response.passed;
            return Step::Done(HttpReply::Answered {
                status: response.status,
                server: response.server.unwrap_or_default().into(),
                body: response.body.into(),
            });
        }
        if self.redirects == REDIRECTS_MAX {
            return self.fail("too many redirects");
        }
        let here = Url::parse(&self.url).expect("it was called");
        let there = response.location.as_deref().and_then(|to| here.join(to));
        let Some(there) = there else {
            return self.fail("a redirect to nowhere");
        };
        self.redirects += 1;
        self.url = there;
        self.stage = Stage::Name;
        self.transport = None;
        self.sent = 0;
        self.input.clear();
        self.parser = ResponseParser::default();
        Step::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token, Waker};
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    const NAMES: Token = Token(usize::MAX);

    /// A server that answers its connections in order, each with the next text, and gives back what
    /// it was sent.
    fn serve(answers: Vec<String>) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("somebody calls");
                let (mut text, mut bytes) = (String::new(), [0; 4096]);
                while !text.ends_with("\r\n\r\n") && !text.ends_with("BODY") {
                    let count = stream.read(&mut bytes).expect("a request");
                    text.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
                }
                asked.push(text);
                // A caller that has heard enough closes early.
                let _ = stream.write_all(answer.as_bytes());
            }
            asked
        });
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
            CallOrigin::Client(_) => panic!("the call of a client"),
        }
    }

    fn call(id: u64, method: Method, url: String) -> (CallOrigin, HttpCall) {
        let put = method == Method::Put;
        let call = HttpCall {
            method,
            url: url.into(),
            content_type: if put { "text/plain" } else { "" },
            body: if put { b"BODY"[..].into() } else { [].into() },
            timeout_ms: 10_000,
        };
        (of_machine(id), call)
    }

    /// Makes calls and waits for all of them; time passes at a second a turn when `late`.
    fn carry_out(list: Vec<(CallOrigin, HttpCall)>, late: bool) -> Vec<(u64, HttpReply)> {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(64);
        let mut names = Names::new(Waker::new(poll.registry(), NAMES).expect("a waker"));
        let caller = || Caller::new(&Default::default());
        let callers = Callers {
            peers: caller(),
            clients: caller(),
            world: caller(),
            discovery: String::new(),
        };
        let (mut calls, mut replies) = (Calls::new(callers), Vec::new());
        let mut now = Now {
            mono_us: 1,
            wall_ns: 0,
        };
        let count = list.len();
        for (origin, call) in list {
            calls.start(origin, call, now);
        }
        while replies.len() < count {
            replies.extend(calls.work(poll.registry(), &mut names, now));
            let wait_ms = if calls.has_work() || replies.len() == count {
                0
            } else {
                20
            };
            poll.poll(&mut events, Some(Duration::from_millis(wait_ms)))
                .expect("it polls");
            for event in &events {
                match event.token() {
                    NAMES if names.collect(now.mono_us) => calls.on_names(),
                    NAMES => {}
                    _ => calls.on_event(event),
                }
            }
            now.mono_us += if late { 1_000_000 } else { 1 };
        }
        assert!(calls.next_deadline() == u64::MAX || calls.calls.len() == 0);
        let mut replies: Vec<(u64, HttpReply)> = replies
            .into_iter()
            .map(|e: Ended| (id_of(&e.origin), e.reply))
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
        let replies = carry_out(vec![call(7, Method::Put, url)], false);
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
        let replies = carry_out(vec![call(1, Method::Get, url)], false);
        assert!(failed(&replies[0].1).ends_with("too many redirects"));
        assert_eq!(server.join().expect("served").len(), 11);
        let (port, server) = serve(vec![moved("ftp://x")]);
        let url = format!("http://127.0.0.1:{port}/");
        let replies = carry_out(vec![call(1, Method::Get, url)], false);
        assert!(failed(&replies[0].1).ends_with("a redirect to nowhere"));
        server.join().expect("served");
    }

    /// One after the other would need forty times the time that is there.
    #[test]
    fn what_hangs_is_given_up_in_time_and_holds_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let silent = listener.local_addr().expect("bound").port();
        let url = format!("http://127.0.0.1:{silent}/");
        let list = (0..40).map(|i| call(i, Method::Get, url.clone()));
        for (_, reply) in carry_out(list.collect(), true) {
            let why = failed(&reply);
            assert!(why.contains("in time") || why.contains("no time"), "{why}");
        }
    }

    /// The machine has begun another search: what it asked before is closed, and told to nobody.
    #[test]
    fn calls_of_a_former_search_are_closed() {
        let poll = Poll::new().expect("a poll");
        let mut names = Names::new(Waker::new(poll.registry(), NAMES).expect("a waker"));
        let caller = || Caller::new(&Default::default());
        let callers = Callers {
            peers: caller(),
            clients: caller(),
            world: caller(),
            discovery: String::new(),
        };
        let mut calls = Calls::new(callers);
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
            assert!(calls.work(poll.registry(), &mut names, now).is_empty());
        }
        let (_, passed) = call(search, Method::Get, url);
        calls.start(CallOrigin::Client(Ticket(search)), passed, now);
        let open: std::collections::BTreeSet<u64> = calls
            .calls
            .iter_mut()
            .map(|(_, c)| id_of(&c.origin))
            .collect();
        assert_eq!(
            (open, calls.open),
            ([registrar, next, next + 1].into(), [3, 0])
        );
    }

    #[test]
    fn what_is_no_answer_is_a_failure() {
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
        for (id, reply) in carry_out(list, false) {
            assert!(!failed(&reply).is_empty(), "{id}");
        }
        server.join().expect("served");
    }

    #[test]
    fn an_error_status_is_an_answer() {
        let (port, server) = serve(vec![full("403 Forbidden", "full")]);
        let url = format!("http://127.0.0.1:{port}/join");
        let replies = carry_out(vec![call(1, Method::Put, url)], false);
        assert_eq!(answered(&replies[0].1), (403, "full"));
        server.join().expect("served");
    }
}
