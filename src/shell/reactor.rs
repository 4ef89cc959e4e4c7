//! The event loop: one thread, one poll, one turn after another.
//!
//! It hands inputs from sockets, disk, clock and signals to the machine, and carries out the
//! machine's outputs. Must not decide anything about keys or raft. Start with `Reactor::turn`: each
//! of its lines is one phase, their order is the design, and no phase calls another. The poll is
//! edge-triggered. A connection that a turn leaves unread or unwritten stays on the ready list of
//! its pool (`pool`).

pub use super::listener::{BoundPort, check_tls};

use super::clients::Clients;
use super::connect::Connector;
use super::deadlines::Timeouts;
use super::descriptors::connections_max;
use super::dispatcher::UpgradeRequest;
use super::http_calls::HttpCalls;
use super::links::Links;
use super::listener::Listener;
use super::log_lines;
use super::meters::ProcessBounds;
use super::outgoing_call::{CallOrigin, Connectors};
use super::resolver::Resolver;
use super::service_manager::ServiceManager;
use super::slots::PoolKind;
use super::status_lines;
use super::storage::Storage;
use super::turn_times::TurnTimes;
use crate::codec::api::{ApiSettings, Port};
use crate::codec::cluster_api;
use crate::codec::http::response::TEXT;
use crate::codec::http::{Limits, Response};
use crate::codec::peer::frame::MESSAGE_BYTES_MAX;
use crate::codec::peer::hello::{REFUSED, encode_refusal};
use crate::core::machine::{Machine, Order, Outputs};
use crate::core::memory::message_bytes;
use crate::core::peers::{HelloRefusal, patience_ms};
use crate::core::timer::{Now, earliest};
use crate::shell::clock::Clock;
use crate::shell::config::{Config, TlsFiles};
use crate::shell::disk::Disk;
use crate::shell::logger;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The tokens of the reactor's own event sources. No slot has one of them, see `slots`.
const SIGNALS: Token = Token(usize::MAX);
const CLIENT_PORT: Token = Token(usize::MAX - 1);
const PEER_PORT: Token = Token(usize::MAX - 2);
/// The threads beside the loop: the resolver's, that of the log, and that of the snapshot files.
const THREADS: Token = Token(usize::MAX - 3);
/// Most events taken from the poll in one turn. Further ones are taken in the next turn. As many new
/// watchers take up to 4 ms, most of it for the first use of memory for their buffers.
const EVENTS_A_TURN: usize = 128;
/// How long the loop runs on after a stop signal for the requests under way, in microseconds.
const STOP_US_MAX: u64 = 1_000_000;
/// Most turns in a row in which unread bytes of peers hold the machine's timers back.
const TURNS_WITHOUT_TIMERS_MAX: u32 = 8;
/// How long after stdout took no more log lines the next write is tried, in microseconds.
const LOG_RETRY_US: u64 = 100_000;

/// How the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// After SIGTERM or SIGINT, with the log synced and closed.
    Stopped,
    /// At once, after a second signal.
    Aborted,
    /// The process cannot continue. Holds a sentence for the user.
    Failed(Box<str>),
    /// The caller must start again and found a cluster: this machine is its first one.
    RestartAsFounder,
    /// The caller must make the data directory that of a new cluster, and start again: the old one
    /// is lost.
    ForceNewCluster,
}

/// A bound port, and the certificates for its connections.
struct ClosedPort {
    bound: BoundPort,
    tls: TlsFiles,
}

/// The event loop and the parts that it connects.
pub struct Reactor {
    poll: Poll,

    /// The events of this turn.
    events: Events,

    signals: Signals,

    /// The client port and the peer port before they are listened on; `None` afterwards.
    closed_ports: [Option<ClosedPort>; 2],

    /// The listeners of the client port and of the peer port; those of `closed_ports` are missing.
    listeners: Vec<Listener>,

    clock: Clock,

    /// The time of this turn. Read once by the poll phase, and again after a sync, which may block.
    now: Now,

    clients: Clients,

    links: Links,

    calls: HttpCalls,

    resolver: Resolver,

    machine: Machine,

    storage: Storage,

    /// The last outputs of the machine; answers stay until the respond phase, events until the
    /// deliver phase.
    outputs: Outputs,

    /// How many turns in a row have left bytes of peers unread. While at most
    /// `TURNS_WITHOUT_TIMERS_MAX`, the machine's timers are held back.
    turns_without_timers: u32,

    /// The machine got an input after its last `advance`. The poll must not wait before the next
    /// one.
    needs_advance: bool,

    /// How many answers this turn has.
    answers: usize,

    /// When the first stop signal came, in microseconds of the monotonic clock; `None` before.
    stop_us: Option<u64>,

    /// The machine has finished the requests that were under way when the stop signal came.
    has_stopped: bool,

    /// A second stop signal came.
    aborted: bool,

    /// Why the loop ends after this turn; `None` while it goes on.
    end: Option<End>,

    /// stdout has not taken all log lines.
    log_is_behind: bool,

    /// How long the turns take.
    turn_times: TurnTimes,

    service_manager: ServiceManager,
}

impl Reactor {
    /// A loop for `machine`, with the client port and the peer port. It listens on them at once if
    /// the machine can answer.
    ///
    /// # Errors
    /// The poll, a signal handler, a port or a certificate does not work; with a sentence for the
    /// user.
    pub fn new(
        config: &Config,
        ports: [BoundPort; 2],
        clock: Clock,
        disk: Disk,
        machine: Machine,
    ) -> Result<Box<Reactor>, String> {
        let poll = Poll::new().map_err(no_poll)?;
        let registry = poll.registry();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(no_poll)?;
        registry
            .register(&mut signals, SIGNALS, Interest::READABLE)
            .map_err(no_poll)?;
        let waker = Arc::new(Waker::new(registry, THREADS).map_err(no_poll)?);
        let storage = Storage::new(disk, waker.clone(), config.heartbeat_ms)?;
        let [client, peer] = ports;
        let closed_ports = [
            Some(ClosedPort {
                bound: client,
                tls: config.tls.clone(),
            }),
            Some(ClosedPort {
                bound: peer,
                tls: config.peer_tls.clone(),
            }),
        ];
        let mut reactor = Box::new(Reactor {
            poll,
            events: Events::with_capacity(EVENTS_A_TURN),
            signals,
            closed_ports,
            listeners: Vec::new(),
            now: clock.now(),
            clock,
            clients: clients(config),
            links: links(config),
            calls: HttpCalls::new(connectors(config)),
            resolver: Resolver::new(waker),
            machine,
            storage,
            outputs: Outputs::default(),
            turns_without_timers: 0,
            needs_advance: true,
            answers: 0,
            stop_us: None,
            has_stopped: false,
            aborted: false,
            end: None,
            log_is_behind: false,
            turn_times: TurnTimes::default(),
            service_manager: ServiceManager::new(),
        });
        reactor.maybe_listen()?;
        Ok(reactor)
    }

    /// Listens on both ports once the machine can answer, and before on the peer port if the machine
    /// waits for its cluster to begin. Returns whether it began to listen on both.
    ///
    /// # Errors
    /// A port or a certificate does not work; with a sentence for the user.
    fn maybe_listen(&mut self) -> Result<bool, String> {
        if self.closed_ports.iter().all(Option::is_none) {
            return Ok(false);
        }
        let [client, peer] = &mut self.closed_ports;
        let peer = peer.take_if(|_| self.machine.listens_to_peers());
        // A machine that stops while it looks for its cluster serves nothing.
        let client = client.take_if(|_| self.stop_us.is_none() && self.machine.listens());
        self.listen(Port::Peer, peer)?;
        if !self.listen(Port::Client, client)? {
            return Ok(false);
        }
        let [client, peer] = self.addresses().map_err(|e| e.to_string())?;
        let version = crate::VERSION;
        log::info!("tern: ready, version {version}, clients on {client}, peers on {peer}");
        if self.listeners.iter().any(Listener::is_exposed) {
            log::info!(
                "a port is open to other machines without TLS: whatever reaches it can read and \
                 change all data (-cert-file, -peer-cert-file, -bind-addr, -peer-bind-addr)"
            );
        }
        self.service_manager.report_ready();
        Ok(true)
    }

    /// Listens on this port, unless there is none to open.
    fn listen(&mut self, port: Port, closed: Option<ClosedPort>) -> Result<bool, String> {
        let Some(ClosedPort { bound, tls }) = closed else {
            return Ok(false);
        };
        let token = match port {
            Port::Client => CLIENT_PORT,
            Port::Peer => PEER_PORT,
        };
        let mut listener = Listener::new(port, token, bound.listen()?, &tls, self.now)?;
        listener.register(self.poll.registry()).map_err(no_poll)?;
        self.listeners.push(listener);
        Ok(true)
    }

    /// The addresses of the client port and of the peer port. They differ from the configured ones
    /// if a port is 0: then the system chooses.
    ///
    /// # Errors
    /// The ports are not listened on yet.
    pub fn addresses(&self) -> io::Result<[std::net::SocketAddr; 2]> {
        let address = |token| {
            let mut listeners = self.listeners.iter();
            match listeners.find(|listener| listener.token() == token) {
                Some(listener) => listener.address(),
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        Ok([address(CLIENT_PORT)?, address(PEER_PORT)?])
    }

    /// Takes turns until the loop ends. Calls `on_listening` after the first turn in which both ports
    /// are listened on.
    pub fn run(mut self: Box<Self>, on_listening: fn()) -> End {
        let mut on_listening = Some(on_listening);
        while !self.is_done() {
            self.turn();
            if let Some(call) = on_listening.take_if(|_| self.listeners.len() == 2) {
                call();
            }
        }
        if self.aborted {
            return End::Aborted;
        }
        self.storage.close();
        let mut signals = self.signals.pending();
        let stops = signals.any(|signal| matches!(signal, SIGTERM | SIGINT));
        end_of(self.end, stops || self.stop_us.is_some())
    }

    fn is_done(&mut self) -> bool {
        if self.end.is_some() || self.aborted {
            return true;
        }
        let Some(stop_us) = self.stop_us else {
            return false;
        };
        let is_late = self.now.mono_us >= stop_us + STOP_US_MAX;
        is_late || (self.has_stopped && self.clients.is_quiet())
    }

    // -- the turn

    /// One turn. The order of the phases is the design.
    fn turn(&mut self) {
        self.phase("poll", Reactor::poll_events);
        self.phase("fill", Reactor::fill);
        self.phase("decode", Reactor::decode);
        self.phase("complete sync", Reactor::complete_sync);
        self.phase("timers", Reactor::fire_timers);
        self.phase("replicate", Reactor::replicate);
        self.phase("sync", Reactor::start_sync);
        self.phase("respond", Reactor::respond);
        self.phase("flush", Reactor::flush);
        self.phase("deliver", Reactor::deliver);
        self.phase("reap", Reactor::reap);
    }

    /// Runs one phase. With `-v` it measures how long the phase takes.
    fn phase(&mut self, name: &'static str, run: fn(&mut Reactor)) {
        run(self);
        if log::log_enabled!(log::Level::Debug) {
            let cpu_us = self.clock.thread_cpu_us();
            self.turn_times.end_phase(name, cpu_us);
        }
    }

    /// Phase 1: waits for an event or the next deadline, reads the clock, and marks the connections
    /// that have events as ready.
    fn poll_events(&mut self) {
        let timeout = self.timeout();
        if let Some(us) = self.turn_times.end(self.clock.thread_cpu_us()) {
            self.clients.meters_mut().on_turn(us);
        }
        if let Err(e) = self.poll.poll(&mut self.events, timeout) {
            assert!(e.kind() == io::ErrorKind::Interrupted, "epoll: {e}");
        }
        self.now = self.clock.now();
        logger::set_time(self.now.wall_ns);
        let mut is_signalled = false;
        for event in &self.events {
            match event.token() {
                SIGNALS => is_signalled = true,
                token @ (CLIENT_PORT | PEER_PORT) => {
                    let mut listeners = self.listeners.iter_mut();
                    let listener = listeners.find(|listener| listener.token() == token);
                    listener.expect("each port has its listener").on_event();
                }
                // A task of the disk that has ended is taken in its phase.
                THREADS => {
                    if self.resolver.collect(self.now.mono_us) {
                        let registry = self.poll.registry();
                        self.links
                            .on_resolved(registry, &mut self.resolver, self.now);
                        self.calls.on_resolved();
                    }
                }
                token => match PoolKind::of(token) {
                    PoolKind::Clients => self.clients.on_event(event),
                    PoolKind::Links => self.links.on_event(event),
                    PoolKind::Calls => self.calls.on_event(event),
                },
            }
        }
        if is_signalled {
            self.on_signals();
        }
    }

    /// Signals came.
    fn on_signals(&mut self) {
        for signal in self.signals.pending().collect::<Vec<_>>() {
            match signal {
                SIGHUP => self.reload_certificates(),
                SIGUSR1 => {
                    let longest = self.turn_times.take_longest();
                    let status = self.clients.status(longest);
                    status_lines::log(&self.machine, &status, self.now);
                }
                _ => self.on_stop_signal(signal),
            }
        }
    }

    /// SIGTERM or SIGINT came. The first one stops the machine, a second one ends the loop at once.
    fn on_stop_signal(&mut self, signal: i32) {
        if self.stop_us.is_none() {
            log::info!("signal {signal}: stopping after the requests under way");
            self.stop_us = Some(self.now.mono_us);
            self.service_manager.report_stopping();
        } else {
            log::info!("signal {signal} again: stopping at once");
            self.aborted = true;
        }
        self.machine.on_stop(self.now);
    }

    /// SIGHUP came: reads the certificates again. Connections that exist keep theirs.
    fn reload_certificates(&mut self) {
        for listener in &mut self.listeners {
            listener.reload(self.now);
        }
        for reloaded in [self.links.reload(), self.calls.reload()] {
            if let Err(e) = reloaded {
                log::error!(
                    "connections to other machines: cannot read the certificate again: {e}. The \
                     former one stays in use"
                );
            }
        }
    }

    /// Phase 2: reads from the sockets, and accepts connections. Links come first and their
    /// messages go to the machine at once, so that votes and heartbeats never wait for clients.
    fn fill(&mut self) {
        self.phase("fill links", |r| r.links.fill(&mut r.machine, r.now));
        self.calls.fill();
        self.phase("accept", Reactor::accept);
        self.clients.fill();
    }

    fn accept(&mut self) {
        let registry = self.poll.registry();
        for listener in &mut self.listeners {
            listener.accept(registry, &mut self.clients, self.now);
        }
    }

    /// Phase 3: turns bytes of calls and clients into inputs of the machine.
    fn decode(&mut self) {
        let registry = self.poll.registry();
        let results = self.calls.work(registry, &mut self.resolver, self.now);
        let paused = self
            .clients
            .on_proxied_parts(results.parts, &self.machine, self.now);
        self.calls.pause_watches(&paused);
        for ended in results.ended {
            match ended.origin {
                CallOrigin::Client { ticket, .. } => {
                    self.clients
                        .on_proxied(ticket, ended, &mut self.machine, self.now);
                }
                CallOrigin::Machine { id, ref question } => {
                    let reply = cluster_api::reply(question, ended.reply);
                    self.machine.on_reply(self.now, id, reply);
                }
            }
        }
        self.clients.decode(&mut self.machine, self.now);
        for (origin, call) in self.clients.take_proxy_calls(&mut self.machine, self.now) {
            self.calls.start(origin, call, self.now);
        }
        self.calls.cancel_watches(&self.clients.take_cancelled());
        for request in self.clients.take_upgrades() {
            self.on_upgrade_request(&request);
        }
    }

    /// A machine asks to turn its connection to the peer port into a link.
    fn on_upgrade_request(&mut self, request: &UpgradeRequest) {
        let source = self.clients.source(request.conn);
        let admitted = self
            .links
            .admit(request, &source, &mut self.machine, self.now);
        self.needs_advance = true;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let response = refusal_response(&refusal);
                return self.clients.refuse(request.conn, &response);
            }
        };
        let parts = self.clients.detach(request.conn);
        let parts = parts.expect("its request was decoded in this turn");
        let registry = self.poll.registry();
        self.links.accept(registry, parts, admitted);
    }

    /// Phase 4: takes back the disk's tasks that have ended, and reports to the machine the records
    /// that are durable since, and the results of work on snapshot files.
    fn complete_sync(&mut self) {
        self.storage.complete_sync(&mut self.machine, self.now);
        self.storage.complete_snapshots(&mut self.machine, self.now);
        self.clients
            .on_exported(&mut self.storage, &mut self.machine, self.now);
        self.count_sync();
    }

    /// Phase 5: fires the timers.
    fn fire_timers(&mut self) {
        let may_fire = self.may_fire_machine_timers();
        let due_us = self.machine.next_deadline();
        if may_fire && due_us.is_some_and(|due_us| due_us <= self.now.mono_us) {
            self.machine.on_time(self.now);
        }
        self.clients.fire_timers(self.now);
        self.service_manager.maybe_report_alive(self.now.mono_us);
    }

    /// Whether the machine's timers may fire in this turn. They are held back while bytes of peers
    /// are unread, so that a leader does not look dead because this process was stalled; but not
    /// for ever.
    fn may_fire_machine_timers(&mut self) -> bool {
        // A full batch of events: the poll may have further ones.
        let is_batch_full = self.events.iter().count() == EVENTS_A_TURN;
        if !self.links.has_unread() && !is_batch_full {
            self.turns_without_timers = 0;
            return true;
        }
        self.turns_without_timers = self.turns_without_timers.saturating_add(1);
        self.turns_without_timers > TURNS_WITHOUT_TIMERS_MAX
    }

    /// Phase 6: appends records to the log, and sends the messages that need not wait for their
    /// sync. A leader's appends leave before its own sync, so that its disk and the disks of its
    /// followers work at the same time.
    fn replicate(&mut self) {
        self.maybe_advance_machine();
        self.links.flush();
        self.calls.flush();
    }

    /// Phase 7: starts one sync for all records appended since the last one. If it is over when it
    /// returns, it is reported at once.
    fn start_sync(&mut self) {
        self.now = self
            .storage
            .start_sync(&mut self.machine, &self.clock, self.now);
        self.count_sync();
    }

    /// Phase 8: renders answers to the output buffers of the clients.
    fn respond(&mut self) {
        self.phase("advance", Reactor::maybe_advance_machine);
        let (outputs, machine) = (&mut self.outputs, &mut self.machine);
        self.answers = outputs.answers.len();
        self.clients
            .answer(&mut outputs.answers, machine, &mut self.storage, self.now);
    }

    /// Phase 9: writes the output buffers to the sockets.
    fn flush(&mut self) {
        self.links.flush();
        self.calls.flush();
        self.clients.flush();
        self.now = self.storage.on_answers(self.answers, &self.clock, self.now);
    }

    /// Phase 10: sends events to their watchers, as many as a turn may. Answers and messages have left
    /// before: they never wait for more than the rest of one turn's events.
    fn deliver(&mut self) {
        self.clients
            .deliver(&mut self.outputs.events, &mut self.machine, self.now);
    }

    /// Phase 11: drops the connections that have ended, sets the timers of the others, and writes
    /// the log lines of the turn.
    fn reap(&mut self) {
        self.needs_advance |= self.links.reap(&mut self.machine, self.now);
        let registry = self.poll.registry();
        self.needs_advance |= self.clients.reap(registry, &mut self.machine, self.now);
        self.calls.resume_watches(&self.clients.take_resumed());
        self.calls.reap();
        self.log_is_behind = !logger::flush();
    }

    // -- helpers of the phases

    /// Counts the sync that has ended, if one has.
    fn count_sync(&mut self) {
        if let Some(took_us) = self.storage.take_sync_us() {
            self.clients.meters_mut().on_sync(took_us);
        }
    }

    /// As `advance_machine`, but a turn that has decoded a long request leaves it to the next one.
    fn maybe_advance_machine(&mut self) {
        if self.clients.has_started_long() {
            self.needs_advance = true;
        } else {
            self.advance_machine();
        }
    }

    /// Lets the machine compute its outputs, and carries out all except answers and events.
    fn advance_machine(&mut self) {
        self.machine.advance(self.now, &mut self.outputs);
        let outputs = &mut self.outputs;
        if outputs.wipes() {
            outputs.state = None;
            outputs.persist.clear();
            outputs.snapshot.clear();
        }
        self.needs_advance = self
            .storage
            .take_outputs(outputs, &mut self.machine, self.now);
        self.links.send(&mut outputs.send, &self.machine);
        let registry = self.poll.registry();
        self.links
            .carry_out(&mut outputs.links, registry, &mut self.resolver, self.now);
        for call in outputs.calls.drain(..) {
            let request = cluster_api::request(&call);
            let origin = CallOrigin::Machine {
                id: call.id,
                question: call.question,
            };
            self.calls.start(origin, request, self.now);
        }
        for fact in outputs.facts.drain(..) {
            log_lines::log(&self.machine, &fact);
        }
        for order in std::mem::take(&mut self.outputs.orders) {
            self.carry_out(order);
        }
        self.storage.report_room(&mut self.machine);
        if let Err(text) = self.maybe_listen() {
            self.end = Some(End::Failed(text.into()));
        }
    }

    /// Carries out an order of the machine.
    fn carry_out(&mut self, order: Order) {
        match order {
            Order::KeepId(id) => self.storage.keep_id(id),
            Order::KeepStandbyInfo { info, gives_up_log } => {
                self.storage.keep_standby(&info, gives_up_log);
            }
            Order::FollowMembers => {
                let members = self.machine.configuration();
                if !members.members.is_empty() {
                    let cluster = self.machine.cluster();
                    self.storage.keep_configuration(cluster, members);
                }
            }
            Order::Wipe => {
                let incarnation = self.storage.start_over();
                self.machine.on_wiped(self.now, incarnation);
                self.needs_advance = true;
            }
            Order::Found => self.end = Some(End::RestartAsFounder),
            Order::ForceNewCluster => self.end = Some(End::ForceNewCluster),
            Order::Fail(text) => self.end = Some(End::Failed(text)),
            Order::Stop => self.has_stopped = true,
        }
    }

    /// How long the poll may wait. `None`: until an event.
    fn timeout(&self) -> Option<Duration> {
        let now_us = self.now.mono_us;
        let has_work = self.clients.has_work()
            || self.links.has_work()
            || self.calls.has_work()
            || self.storage.has_work(now_us)
            || self.machine.wants_turn();
        if has_work || self.needs_advance {
            return Some(Duration::ZERO);
        }
        let due_us = earliest(&[
            self.machine.next_deadline(),
            self.clients.next_deadline(),
            self.calls.next_deadline(),
            self.storage.next_deadline(now_us),
            self.stop_us.map(|stop_us| stop_us + STOP_US_MAX),
            self.log_is_behind.then_some(now_us + LOG_RETRY_US),
            self.service_manager.next_deadline(),
        ]);
        let listeners = self.listeners.iter();
        let accepts = listeners.filter_map(|listener| listener.next_accept_us(&self.clients));
        let next_us = accepts.chain(due_us).min()?;
        Some(Duration::from_micros(next_us.saturating_sub(now_us)))
    }
}

/// How the loop ends. The next start would know nothing of a stop signal, which may have come while
/// the log was closed.
fn end_of(end: Option<End>, is_stopped: bool) -> End {
    match end {
        Some(End::RestartAsFounder | End::ForceNewCluster) if is_stopped => End::Stopped,
        end => end.unwrap_or(End::Stopped),
    }
}

fn no_poll(error: io::Error) -> String {
    format!("cannot watch sockets: {error}")
}

/// The response to a refused hello: a code, which discloses nothing of the cluster.
fn refusal_response(refusal: &HelloRefusal) -> Response {
    let status = match refusal {
        HelloRefusal::Malformed => 400,
        HelloRefusal::Version => 426,
        HelloRefusal::Denied => 403,
        HelloRefusal::NoMember => 503,
        HelloRefusal::NotMe
        | HelloRefusal::MySelf
        | HelloRefusal::OtherData
        | HelloRefusal::Twice { .. }
        | HelloRefusal::AddressUnproved
        | HelloRefusal::Busy
        | HelloRefusal::WentOn => 409,
    };
    let code = encode_refusal(refusal);
    let response = Response::new(status, TEXT, format!("{code}\n"));
    response.with(REFUSED, code)
}

fn links(config: &Config) -> Links {
    let connector = Connector::new(&config.peer_tls);
    let bytes_max = message_bytes(config.memory.bytes, config.request_bytes_max);
    let bytes_max = bytes_max.min(MESSAGE_BYTES_MAX as u64) as usize;
    Links::new(patience_ms(config.election_ms), bytes_max, connector)
}

fn connectors(config: &Config) -> Connectors {
    Connectors {
        peers: Connector::new(&config.peer_tls),
        clients: Connector::new(&config.tls),
        discovery: Connector::new(&TlsFiles::default()),
    }
}

fn clients(config: &Config) -> Clients {
    let settings = ApiSettings {
        name: config.name.as_str().into(),
        client_url: config.client_url().into(),
        peer_url: config.peer_url().into(),
        cors: config.cors.iter().map(|o| o.as_str().into()).collect(),
        compat_2: config.compat_2,
        forward: config.forward,
        trace: config.trace,
    };
    let limits = Limits {
        body_bytes_max: config.request_bytes_max,
        ..Limits::default()
    };
    let timeouts = Timeouts {
        read_us: config.read_timeout_ms.saturating_mul(1_000),
        write_us: config.write_timeout_ms.saturating_mul(1_000),
    };
    let bounds = ProcessBounds {
        memory_bytes: config.memory.bytes,
        connections: connections_max(),
        client_bytes: config.client_bytes_max,
    };
    Clients::new(settings, limits, timeouts, bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_stopped_does_not_start_again() {
        for end in [End::RestartAsFounder, End::ForceNewCluster] {
            assert_eq!(end_of(Some(end.clone()), true), End::Stopped);
            assert_eq!(end_of(Some(end.clone()), false), end);
        }
        let failed = End::Failed("why".into());
        assert_eq!(end_of(Some(failed.clone()), true), failed);
        assert_eq!(end_of(None, true), End::Stopped);
    }
}
