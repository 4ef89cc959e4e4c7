//! The event loop: one thread, one poll, one turn after the other.
//!
//! Carries what comes from sockets, disk, clock and signals into the machine and what the machine
//! leaves back out; decides nothing about keys or raft. Start with `Reactor::turn`: each of its
//! lines is one phase, and their order is the design. Readiness is edge-triggered, so what is not
//! drained is remembered (`Clients`' ready list).

pub use super::deadlines::Timeouts;
pub use super::listener::{Bound, connections_max};

use super::clients::Clients;
use super::connect::Caller;
use super::http_calls::{CallOrigin, Callers, Calls};
use super::links::Links;
use super::listener::Listener;
use super::log_lines;
use super::resolver::Names;
use super::slots::Kind;
use crate::codec::api::{Port, Site};
use crate::codec::cluster_api;
use crate::codec::http::response::TEXT;
use crate::codec::http::url::Url;
use crate::codec::http::{Limits, Response};
use crate::codec::peer::hello::{HelloRefusal, REFUSED};
use crate::core::machine::{Effects, Machine};
use crate::core::timer::Now;
use crate::shell::clock::Clock;
use crate::shell::config::{Config, Tls};
use crate::shell::disk::Disk;
use crate::shell::logger;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use std::io;
use std::time::Duration;

/// Tokens that no slot has: a slot's generation has 31 bits.
const SIGNALS: Token = Token(usize::MAX);
const CLIENT_PORT: Token = Token(usize::MAX - 1);
const PEER_PORT: Token = Token(usize::MAX - 2);
const NAMES: Token = Token(usize::MAX - 3);
/// Events taken from the poll at once; more stay with it for the next turn.
const EVENTS_A_TURN: usize = 512;
/// Portions that a link may bring in one turn, which syncs once for all of them.
const PORTIONS_A_TURN: usize = 4;
/// After a stop signal the process ends even if the core has not finished.
const STOP_US_MAX: u64 = 1_000_000;
/// So many turns in a row may pass without the machine's timers because peers have more to say.
const DEAF_TURNS_MAX: u32 = 8;
/// From this duration of a sync on it pays to wait for those who were just answered: they come back
/// with the next request, and would else find the next sync begun and wait for two.
const SLOW_SYNC_US: u64 = 1_000;
/// They are waited for this part of the last sync at most, and never so long that it counts as
/// silence among peers.
const GATHERING_PART: u64 = 8;
const GATHERING_US_MAX: u64 = 5_000;
/// Lines that stdout did not take are offered again after this time.
const LOG_RETRY_US: u64 = 100_000;

/// How the process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Stopped as asked.
    Stopped,
    /// A second signal: at once.
    Aborted,
    /// It cannot go on: a sentence for the user.
    Failed(Box<str>),
    /// The machine starts again, as the first of its cluster.
    Found,
}

/// The loop and all that it carries between.
pub struct Reactor {
    poll: Poll,
    events: Events,
    signals: Signals,
    /// Taken, and not listened on before the machine has something to say.
    ports: Option<([Bound; 2], [Tls; 2])>,
    /// The clients' and the peers'; none before that.
    listeners: Vec<Listener>,
    clock: Clock,
    /// When the sync under way began.
    sync_since_us: Option<u64>,
    /// How long the last sync took, until those are answered whose requests it held.
    slow_us: u64,
    /// How many of them are expected back at once.
    expected: u64,
    now: Now,
    clients: Clients,
    links: Links,
    calls: Calls,
    names: Names,
    /// Turns in a row that have left something of the peers unread.
    deaf_turns: u32,
    machine: Machine,
    disk: Disk,
    effects: Effects,
    /// When a stop was asked for.
    stop_us: Option<u64>,
    /// A second signal came.
    aborted: bool,
    /// The machine cannot go on as it is.
    end: Option<End>,
    log_is_behind: bool,
    /// The machine was told something after it was last asked what follows: no waiting before it
    /// is asked again.
    unheard: bool,
}

impl Reactor {
    /// Listens on both ports. The error is a sentence for the user.
    pub fn new(
        config: &Config,
        ports: [Bound; 2],
        clock: Clock,
        disk: Disk,
        machine: Machine,
    ) -> Result<Reactor, String> {
        let said = |e: io::Error| format!("cannot watch sockets: {e}");
        let poll = Poll::new().map_err(said)?;
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(said)?;
        let registry = poll.registry();
        registry
            .register(&mut signals, SIGNALS, Interest::READABLE)
            .map_err(said)?;
        let waker = Waker::new(registry, NAMES).map_err(said)?;
        let process = crate::shell::disk::random().map_err(said)?;
        let now = clock.now();
        let tls = [config.tls.clone(), config.peer_tls.clone()];
        let mut reactor = Reactor {
            poll,
            events: Events::with_capacity(EVENTS_A_TURN),
            signals,
            ports: Some((ports, tls)),
            listeners: Vec::new(),
            clock,
            sync_since_us: None,
            slow_us: 0,
            expected: 0,
            now,
            clients: clients(config),
            links: links(config, process),
            calls: Calls::new(callers(config)),
            names: Names::new(waker),
            deaf_turns: 0,
            machine,
            disk,
            effects: Effects::default(),
            stop_us: None,
            aborted: false,
            end: None,
            log_is_behind: false,
            unheard: true,
        };
        reactor.maybe_listen()?;
        Ok(reactor)
    }

    /// Opens the ports once the machine has something to say there.
    fn maybe_listen(&mut self) -> Result<(), String> {
        if !self.machine.listens() {
            return Ok(());
        }
        let Some(([client, peer], [tls, peer_tls])) = self.ports.take() else {
            return Ok(());
        };
        self.listeners = vec![
            Listener::new(Port::Client, CLIENT_PORT, client.listen()?, &tls)?,
            Listener::new(Port::Peer, PEER_PORT, peer.listen()?, &peer_tls)?,
        ];
        for listener in &mut self.listeners {
            listener
                .register(self.poll.registry())
                .map_err(|e| format!("cannot watch sockets: {e}"))?;
        }
        let [client, peer] = self.addresses().map_err(|e| e.to_string())?;
        let version = crate::VERSION;
        log::info!("tern: ready, version {version}, clients on {client}, peers on {peer}");
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(())
    }

    /// Where the clients' and the peers' port really are (port 0 lets the system choose).
    pub fn addresses(&self) -> io::Result<[std::net::SocketAddr; 2]> {
        let address = |listener: Option<&Listener>| match listener {
            Some(listener) => listener.address(),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        Ok([
            address(self.listeners.first())?,
            address(self.listeners.get(1))?,
        ])
    }

    /// Turns until a signal ends it.
    pub fn run(mut self) -> End {
        while !self.is_done() {
            self.turn();
        }
        if self.aborted {
            return End::Aborted;
        }
        self.disk.close();
        self.end.unwrap_or(End::Stopped)
    }

    /// One turn; the order of its phases is the design.
    fn turn(&mut self) {
        self.poll_events();
        self.accept_and_fill();
        self.decode_inputs();
        self.gather();
        self.poll_sync();
        self.fire_timers();
        self.replicate();
        self.start_sync();
        self.respond();
        self.flush_and_reap();
    }

    /// 1. Waits for readiness or the next deadline; reads the clock once.
    fn poll_events(&mut self) {
        let timeout = self.timeout();
        self.poll_for(timeout);
    }

    fn poll_for(&mut self, timeout: Option<Duration>) {
        if let Err(e) = self.poll.poll(&mut self.events, timeout) {
            assert!(e.kind() == io::ErrorKind::Interrupted, "epoll: {e}");
        }
        self.now = self.clock.now();
        logger::set_time(self.now.wall_ns);
        for event in &self.events {
            match event.token() {
                SIGNALS => {
                    for signal in self.signals.pending() {
                        log::info!("signal {signal}: stopping");
                        self.aborted |= self.stop_us.is_some();
                        self.stop_us.get_or_insert(self.now.mono_us);
                        self.machine.on_stop(self.now);
                    }
                }
                CLIENT_PORT | PEER_PORT => {
                    let mut listeners = self.listeners.iter_mut();
                    let listener = listeners.find(|g| g.token == event.token());
                    listener.expect("each port has its listener").ready = true;
                }
                NAMES => {
                    if self.names.collect(self.now.mono_us) {
                        self.links.on_names(self.now);
                        self.calls.on_names();
                    }
                }
                token => match Kind::of(token) {
                    Kind::Client => self.clients.on_event(event),
                    Kind::Link => self.links.on_event(event),
                    Kind::Call => self.calls.on_event(event),
                },
            }
        }
    }

    /// 2. Lets connections in and reads from those that have something to say. Links to peers come
    ///    first, and all that they bring goes to the machine at once, so that votes and heartbeats
    ///    never wait behind clients. Who catches up takes portion after portion through phase 6.
    fn accept_and_fill(&mut self) {
        self.links.fill(&mut self.machine, self.now);
        for _ in 1..PORTIONS_A_TURN {
            if !self.links.has_unread() {
                break;
            }
            self.replicate();
            self.links.fill(&mut self.machine, self.now);
        }
        for listener in &mut self.listeners {
            listener.accept(self.poll.registry(), &mut self.clients, self.now);
        }
        self.clients.fill();
    }

    /// 3. Bytes to inputs of the machine.
    fn decode_inputs(&mut self) {
        let registry = self.poll.registry();
        for ended in self.calls.work(registry, &mut self.names, self.now) {
            match &ended.origin {
                CallOrigin::Client(ticket) => {
                    let ticket = *ticket;
                    self.clients
                        .on_passed(ticket, ended, &mut self.machine, self.now);
                }
                CallOrigin::Machine { id, question } => {
                    let reply = cluster_api::reply(question, ended.reply);
                    self.machine.on_reply(self.now, *id, reply);
                }
            }
        }
        self.clients.decode(&mut self.machine, self.now);
        for (ticket, call) in self.clients.take_passed() {
            self.calls.start(CallOrigin::Client(ticket), call, self.now);
        }
        for visit in self.clients.take_visits() {
            match self.links.welcome(&visit, self.now) {
                Ok(hellos) => {
                    let parts = self.clients.detach(visit.conn);
                    let parts = parts.expect("it has just been served");
                    let registry = self.poll.registry();
                    self.links
                        .accept(registry, parts, hellos, &mut self.machine, self.now);
                }
                Err(refusal) => self.clients.refuse(visit.conn, &refused(refusal)),
            }
        }
    }

    /// Behind a slow sync: waits a moment for those who were just answered, so that one sync serves
    /// all. Who has come in the meantime is here already.
    fn gather(&mut self) {
        let expected = std::mem::take(&mut self.expected);
        if expected == 0 {
            return;
        }
        let enough = self.clients.requests() + expected;
        let until_us = self.now.mono_us
            + (std::mem::take(&mut self.slow_us) / GATHERING_PART).min(GATHERING_US_MAX);
        while self.clients.requests() < enough && self.now.mono_us < until_us {
            self.poll_for(Some(Duration::from_micros(until_us - self.now.mono_us)));
            self.accept_and_fill();
            self.decode_inputs();
        }
    }

    /// 4. What the disk has made durable since.
    fn poll_sync(&mut self) {
        if let Some(lsn) = self.disk.poll_sync(self.now.mono_us) {
            // Not everything that becomes durable needs a sync.
            let since_us = self.sync_since_us.take().unwrap_or(self.now.mono_us);
            let took_us = self.now.mono_us - since_us;
            self.machine.on_synced(self.now, lsn, took_us);
        }
        if let Some(space) = self.disk.poll_space(self.now.mono_us) {
            self.machine.on_space(self.now, space);
        }
    }

    /// 5. What is due. Here, after all that has come was read: a stall of our own never looks like
    ///    a dead leader.
    fn fire_timers(&mut self) {
        let unread = self.links.has_unread() || self.events.iter().count() == EVENTS_A_TURN;
        self.deaf_turns = if unread { self.deaf_turns + 1 } else { 0 };
        let may_fire = !unread || self.deaf_turns > DEAF_TURNS_MAX;
        if may_fire && self.machine.next_deadline() <= self.now.mono_us {
            self.machine.on_time(self.now);
        }
        let registry = self.poll.registry();
        self.links.fire_timers(registry, &mut self.names, self.now);
        self.clients.fire_timers(self.now);
    }

    /// 6. To the disk what has to be durable, to the peers what need not wait for that: it leaves
    ///    before the own sync, so that the disks work at the same time.
    fn replicate(&mut self) {
        self.machine.advance(self.now, &mut self.effects);
        self.carry();
        self.links.flush();
    }

    /// 7. One sync for everything appended so far. It may complete here or in a later turn. One
    ///    that has blocked has taken time, and how much is what peers must know: it decides what
    ///    silence means.
    fn start_sync(&mut self) {
        let since_us = self.now.mono_us;
        if self.disk.start_sync(since_us) {
            self.sync_since_us = Some(since_us);
            self.now = self.clock.now();
            let took_us = self.now.mono_us - since_us;
            self.slow_us = if took_us >= SLOW_SYNC_US { took_us } else { 0 };
        }
        self.poll_sync();
    }

    /// 8. Answers and events to output buffers.
    fn respond(&mut self) {
        self.machine.advance(self.now, &mut self.effects);
        self.carry();
        let effects = &mut self.effects;
        self.expected = if self.slow_us > 0 {
            effects.answers.len() as u64
        } else {
            0
        };
        self.clients.answer(
            &mut effects.answers,
            &mut self.machine,
            &self.disk,
            self.now,
        );
        self.clients
            .deliver(&mut effects.events, &mut self.machine, self.now);
    }

    /// 9. Output buffers to sockets; then closes, frees, and finds out whether there is work left.
    fn flush_and_reap(&mut self) {
        self.links.flush();
        self.unheard |= self.links.reap(&mut self.machine, self.now);
        self.clients.flush();
        self.unheard |= self
            .clients
            .reap(self.poll.registry(), &mut self.machine, self.now);
        self.log_is_behind = !logger::flush();
    }

    /// Carries out what the machine has left for disk, peers and log.
    fn carry(&mut self) {
        let effects = &mut self.effects;
        self.unheard = false;
        // First: all the rest of a new member rests on it.
        if let Some(id) = effects.let_in.take() {
            self.disk.keep_id(id);
        }
        if let Some(info) = effects.standby.take() {
            self.disk.keep_standby(&info, effects.wipe);
        }
        if effects.wipe {
            effects.persist.clear();
            effects.snapshot.clear();
        }
        self.disk.append(&mut effects.persist, effects.lsn);
        for out in effects.snapshot.drain(..) {
            if let Some(saved) = self.disk.snapshot(out) {
                self.machine.on_snapshot(self.now, saved);
                self.unheard = true;
            }
        }
        let changed = std::mem::take(&mut effects.members_changed);
        if changed {
            let cluster = self.machine.cluster();
            let members = self.machine.configuration();
            if !members.members.is_empty() {
                self.disk.keep_configuration(cluster, members);
            }
        }
        self.links.send(&mut effects.send);
        self.links.follow(&self.machine, changed, self.now);
        for call in effects.calls.drain(..) {
            let request = cluster_api::request(&call);
            let origin = CallOrigin::Machine {
                id: call.id,
                question: call.question,
            };
            self.calls.start(origin, request, self.now);
        }
        for fact in effects.facts.drain(..) {
            log_lines::log(self.machine.name(), &fact);
        }
        if std::mem::take(&mut effects.wipe) {
            let incarnation = self.disk.start_over();
            self.machine.on_wiped(self.now, incarnation);
            self.unheard = true;
        }
        let failed = effects.failed.take();
        if std::mem::take(&mut effects.found) {
            self.end = Some(End::Found);
        }
        let failed = failed.or_else(|| self.maybe_listen().err().map(Into::into));
        if let Some(text) = failed {
            self.end = Some(End::Failed(text));
        }
    }

    /// How long the poll may wait; `None`: for an event.
    fn timeout(&self) -> Option<Duration> {
        let wants = self.clients.has_work()
            || self.links.has_work()
            || self.calls.has_work()
            || self.disk.has_work()
            || self.machine.wants_turn();
        if wants || self.unheard || self.expected > 0 {
            return Some(Duration::ZERO);
        }
        let mut next_us = self.machine.next_deadline();
        next_us = next_us.min(self.clients.next_deadline());
        next_us = next_us.min(self.links.next_deadline());
        next_us = next_us.min(self.calls.next_deadline());
        next_us = next_us.min(self.disk.next_deadline());
        if let Some(stop_us) = self.stop_us {
            next_us = next_us.min(stop_us + STOP_US_MAX);
        }
        for listener in &self.listeners {
            next_us = next_us.min(listener.next_us(&self.clients));
        }
        if self.log_is_behind {
            next_us = next_us.min(self.now.mono_us + LOG_RETRY_US);
        }
        if next_us == u64::MAX {
            return None;
        }
        Some(Duration::from_micros(
            next_us.saturating_sub(self.now.mono_us),
        ))
    }

    fn is_done(&mut self) -> bool {
        if self.end.is_some() {
            return true;
        }
        let Some(stop_us) = self.stop_us else {
            return false;
        };
        let late = self.now.mono_us >= stop_us + STOP_US_MAX;
        self.aborted || late || (self.effects.stopped && self.clients.is_quiet())
    }
}

/// The answer to a hello that is not welcome; the reason is for the other side's log.
fn refused(refusal: HelloRefusal) -> Response {
    let status = match refusal {
        HelloRefusal::Malformed => 400,
        HelloRefusal::Version => 426,
        HelloRefusal::NoMember => 503,
        HelloRefusal::OtherCluster
        | HelloRefusal::NotMe
        | HelloRefusal::MySelf
        | HelloRefusal::OtherData
        | HelloRefusal::Twice
        | HelloRefusal::TooMany => 409,
    };
    let why = refusal.to_string();
    let response = Response::new(status, TEXT, format!("{why}\n"));
    response.with(REFUSED, why)
}

fn links(config: &Config, process: u64) -> Links {
    let caller = Caller::new(&config.peer_tls);
    Links::new(&config.name, config.election_ms, process, caller)
}

fn callers(config: &Config) -> Callers {
    let discovery = config.discovery.as_deref().and_then(Url::parse);
    Callers {
        peers: Caller::new(&config.peer_tls),
        clients: Caller::new(&config.tls),
        world: Caller::new(&Tls::default()),
        discovery: discovery.map_or("", |url| url.authority).to_string(),
    }
}

fn clients(config: &Config) -> Clients {
    let site = Site {
        name: config.name.as_str().into(),
        client_url: config.client_url().into(),
        peer_url: config.peer_url().into(),
        cors: config.cors.iter().map(|o| o.as_str().into()).collect(),
        compat_2: config.compat_2,
        forward: config.forward,
    };
    let limits = Limits {
        body_bytes_max: config.request_bytes_max,
        ..Limits::default()
    };
    let timeouts = Timeouts {
        read_us: config.read_timeout_ms.saturating_mul(1_000),
        write_us: config.write_timeout_ms.saturating_mul(1_000),
    };
    Clients::new(site, limits, timeouts, connections_max())
}
