//! All HTTP connections that other processes open to this machine: clients, administrators, other
//! machines.
//!
//! Owns the connections (`conn`), their shared buffers and memory budget (`buffers`), the tickets,
//! and the count of requests that a standby proxies. The reactor calls the methods in the order of
//! its phases: `accept`, `fill`, `decode`, `fire_timers`, `answer`, `deliver`, `flush`, `reap`.
//! Must not decide anything about keys: `codec::api` routes a request and the machine answers it.
//! Start with `decode` and `answer`.
use super::buffers::{Budget, Buffers};
use super::conn::Conn;
use super::deadlines::{
    ANSWERS_BYTES_A_TURN_MAX, OUT_HIGH_WATER_BYTES, READS_A_TURN_MAX, Timeouts,
};
use super::outgoing_call::EndedCall;
use super::output::{SharedBytes, SharedTotal};
use super::slots::{PoolKind, SlotId};
use super::sockets::{Pool, Settled};
use super::transport::Transport;
use crate::codec::api::{
    self, ApiSettings, Context, FileGet, Mode, Port, ProxyOutcome, Rendition, Routed, SharedValue,
};
use crate::codec::http::call::HttpCall;
use crate::codec::http::{Date, Limits, Parsed, Request, Response, ResponseMode};
use crate::codec::peer::hello::PATH;
use crate::core::machine::{Answer, Delivery, Indexes, Machine, Op, Ticket};
use crate::core::timer::Now;
use crate::shell::disk::Disk;
use mio::Registry;
use mio::event::Event;
use std::ops::Range;

/// Most client requests that a standby proxies at a time. Further ones are redirected.
const PROXIED_MAX: usize = 256;
/// Most bytes of the bodies of proxied requests together. A single request may be longer.
const PROXIED_BYTES_MAX: usize = 4 << 20;
/// A ticket is a slot's number, followed by a serial number of this many bits.
const SERIAL_BITS: u32 = 40;

/// A request on the peer port to turn the connection into a link.
pub struct UpgradeRequest {
    /// The connection that the request came in on.
    pub conn: SlotId,
    /// Header `Upgrade`.
    pub protocol: Box<str>,
    /// Header `Tern-Hello`.
    pub hello: Box<str>,
}

/// The requests that a standby proxies to the leader.
#[derive(Default)]
struct ProxiedRequests {
    /// How many are under way; at most `PROXIED_MAX`.
    count: usize,
    /// Bytes of the bodies of the requests under way.
    bytes: usize,
    /// The calls that are not started yet; taken by `Clients::take_proxy_calls` in the same turn.
    calls: Vec<(Ticket, HttpCall)>,
}

/// The connections and their shared state.
pub struct Clients {
    conns: Pool<Conn>,

    buffers: Buffers,

    budget: Budget,

    /// Set when the connections exceed the budget; cleared once `Budget::has_room`. While it is
    /// set, only connections that hold nothing are read.
    over_budget: bool,

    /// The serial number of the last request. Rises by one with each request that the machine
    /// answers or a standby proxies, and wraps at `SERIAL_BITS`.
    serial: u64,

    /// Bytes that `decode` rendered in this turn.
    rendered: usize,

    /// Reads that may start in a turn: `READS_A_TURN_MAX`, fewer while their answers are large.
    reads_max: usize,

    /// The requests for a link of this turn; taken by `take_upgrades`.
    upgrades: Vec<UpgradeRequest>,

    proxied: ProxiedRequests,

    settings: ApiSettings,

    /// The `Date` header of this turn.
    date: Date,

    limits: Limits,

    timeouts: Timeouts,

    /// Most connections at a time, see `listener::connections_max`.
    connections_max: usize,
}

impl Clients {
    /// No connections yet.
    pub fn new(
        settings: ApiSettings,
        limits: Limits,
        timeouts: Timeouts,
        connections_max: usize,
    ) -> Clients {
        Clients {
            conns: Pool::new(PoolKind::Clients),
            buffers: Buffers::default(),
            budget: Budget::default(),
            over_budget: false,
            serial: 0,
            rendered: 0,
            reads_max: READS_A_TURN_MAX,
            upgrades: Vec::new(),
            proxied: ProxiedRequests::default(),
            settings,
            date: Date::default(),
            limits,
            timeouts,
            connections_max,
        }
    }

    /// Whether one more connection may be accepted.
    pub fn has_room(&self) -> bool {
        self.conns.len() < self.connections_max
    }

    /// Phase 2: adds an accepted connection.
    pub fn accept(&mut self, registry: &Registry, transport: Transport, port: Port, now: Now) {
        let id = self
            .conns
            .insert_with(|id| Conn::new(id, port, transport, now.mono_us));
        let token = self.conns.token(id);
        let conn = self.conns.get_mut(id).expect("it was just inserted");
        conn.register(registry, token);
    }

    /// Phase 1: the poll has reported an event of one of the connections.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(conn) = self.conns.wake_for(event) {
            conn.on_event(event);
        }
    }

    /// Phase 2: reads from the ready connections that have room for input.
    pub fn fill(&mut self) {
        for place in 0..self.conns.ready_len() {
            if let Some(conn) = self.conns.ready_at(place)
                && conn.wants_input(self.over_budget)
            {
                conn.fill(self.over_budget, &mut self.buffers);
            }
        }
    }

    /// Phase 3: starts the complete requests of the ready connections.
    pub fn decode(&mut self, machine: &mut Machine, now: Now) {
        self.date.set(now.wall_ns);
        let context = context(&self.settings, &self.date, now, machine.indexes());
        let mut dispatcher = Dispatcher {
            machine,
            context: &context,
            limits: &self.limits,
            buffers: &mut self.buffers,
            serial: &mut self.serial,
            upgrades: &mut self.upgrades,
            proxied: &mut self.proxied,
            reads_left: self.reads_max,
            shared: self.budget.shared(),
            rendered: &mut self.rendered,
        };
        for place in 0..self.conns.ready_len() {
            if let Some(conn) = self.conns.ready_at(place) {
                dispatcher.serve(conn);
            }
        }
    }

    /// The serial number of the last request. It has risen if further requests have arrived.
    pub fn last_serial(&self) -> u64 {
        self.serial
    }

    /// Phase 3: the requests for a link. Each is answered by `detach` or `refuse` in the same turn.
    pub fn take_upgrades(&mut self) -> Vec<UpgradeRequest> {
        std::mem::take(&mut self.upgrades)
    }

    /// Phase 3: the calls of proxied requests. The caller starts them now.
    pub fn take_proxy_calls(&mut self) -> Vec<(Ticket, HttpCall)> {
        std::mem::take(&mut self.proxied.calls)
    }

    /// Phase 3: the call of the proxied request with this ticket has ended. Renders its outcome.
    pub fn on_proxied(
        &mut self,
        ticket: Ticket,
        ended: EndedCall,
        machine: &mut Machine,
        now: Now,
    ) {
        self.proxied.count -= 1;
        self.proxied.bytes -= ended.body_bytes();
        let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
            return;
        };
        self.date.set(now.wall_ns);
        let context = context(&self.settings, &self.date, now, machine.indexes());
        let outcome = ended.into_proxy_outcome();
        let next = conn.render(&mut self.buffers, |shape, out| {
            shape.proxied(outcome, &context, out)
        });
        follow(conn, next, ticket, machine, now);
    }

    /// Phase 3: removes a connection that becomes a link. Returns its socket, and the input after
    /// the request.
    pub fn detach(&mut self, id: SlotId) -> Option<(Transport, Vec<u8>)> {
        let mut conn = self.conns.remove(id)?;
        conn.uncount(&mut self.budget);
        Some(conn.into_parts())
    }

    /// The IP address that a connection came from, for the log; empty if it has ended.
    pub fn source(&mut self, id: SlotId) -> String {
        let conn = self.conns.get_mut(id);
        conn.and_then(Conn::source)
            .map_or(String::new(), |ip| ip.to_string())
    }

    /// Phase 3: answers a request for a link with a refusal, and closes the connection.
    pub fn refuse(&mut self, id: SlotId, response: &Response) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.send(response, ResponseMode::CLOSE, &self.date, &mut self.buffers);
        }
    }

    /// Phase 5: refuses the request or closes the connection where a deadline has passed.
    pub fn fire_timers(&mut self, now: Now) {
        let (date, buffers) = (&self.date, &mut self.buffers);
        self.conns
            .expire(now.mono_us, |conn| conn.expire(now.mono_us, date, buffers));
    }

    /// Phase 8: renders the answers of the machine.
    pub fn answer(
        &mut self,
        answers: &mut Vec<Answer>,
        machine: &mut Machine,
        disk: &Disk,
        now: Now,
    ) {
        let mut rendered = std::mem::take(&mut self.rendered);
        for answer in answers.drain(..) {
            let Some(conn) = wake_for_ticket(&mut self.conns, answer.ticket) else {
                continue;
            };
            let context = context(&self.settings, &self.date, now, answer.at);
            let next = if conn.is_export() {
                export(conn, disk, &answer, &context, &mut self.buffers)
            } else {
                let total = self.budget.shared();
                conn.render_sharing(&mut self.buffers, total, |shape, out, values| {
                    shape.render_sharing(&answer, &context, out, values)
                })
            };
            follow(conn, next, answer.ticket, machine, now);
            rendered += conn.out_bytes();
            if conn.out_bytes() > OUT_HIGH_WATER_BYTES {
                // Written at once, so that many large answers never stand in memory together.
                conn.flush(&mut self.buffers);
                conn.recount(&mut self.budget);
                self.enforce_budget();
            }
        }
        self.reads_max = if rendered > ANSWERS_BYTES_A_TURN_MAX {
            (self.reads_max / 2).max(1)
        } else {
            (self.reads_max * 2).min(READS_A_TURN_MAX)
        };
    }

    /// Phase 8: queues events for their watchers.
    pub fn deliver(&mut self, events: &mut Vec<Delivery>, machine: &mut Machine, now: Now) {
        for delivery in events.drain(..) {
            self.deliver_event(&delivery, machine, now);
        }
    }

    /// Queues one event for its watchers. It is rendered once, and the bytes that several watchers
    /// send are allocated once.
    fn deliver_event(&mut self, delivery: &Delivery, machine: &mut Machine, now: Now) {
        let at = Indexes {
            etcd: delivery.etcd,
            ..machine.indexes()
        };
        let context = context(&self.settings, &self.date, now, at);
        let rendition = Rendition::new(delivery, &context);
        let mut pieces = Vec::new();
        for &(ticket, ends) in &delivery.tickets {
            let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
                continue;
            };
            let delivered = conn.render(&mut self.buffers, |shape, out| {
                shape.deliver(delivery, &rendition, ends, &context, out)
            });
            if delivery.tickets.len() == 1 {
                conn.append(&mut self.buffers, &rendition.bytes[delivered.shared]);
            } else {
                let total = self.budget.shared();
                let bytes = &rendition.bytes;
                conn.push(shared_piece(&mut pieces, bytes, delivered.shared, total));
            }
            conn.append(&mut self.buffers, delivered.tail);
            follow(conn, delivered.next, ticket, machine, now);
        }
    }

    /// Phase 9: writes the output of each connection whose socket takes it.
    pub fn flush(&mut self) {
        for place in 0..self.conns.ready_len() {
            if let Some(conn) = self.conns.ready_at(place) {
                conn.flush(&mut self.buffers);
            }
        }
    }

    /// Phase 10: drops the connections that have ended, and sets interest and timers of the others.
    /// Returns whether the machine got an input.
    pub fn reap(&mut self, registry: &Registry, machine: &mut Machine, now: Now) -> bool {
        let mut ended = Vec::new();
        self.conns.settle(&mut ended, |id, conn| {
            if conn.settle(now.mono_us, &self.timeouts, &mut self.buffers) {
                return Settled::Ended;
            }
            let token = id.token(PoolKind::Clients);
            if conn.update_interest(registry, token).is_err() {
                return Settled::Ended;
            }
            conn.recount(&mut self.budget);
            Settled::Keep {
                deadline_us: conn.deadline_us(),
                ready: conn.has_work(self.over_budget),
            }
        });
        let mut has_input = false;
        for id in ended {
            let mut conn = self.conns.remove(id).expect("it has just ended");
            conn.uncount(&mut self.budget);
            if let Some(ticket) = conn.ticket() {
                machine.on_request(now, ticket, Op::ClientClosed);
                has_input = true;
            }
        }
        self.enforce_budget();
        has_input
    }

    /// Enforces the memory budget. Above it, reading pauses and the slowest clients are closed.
    /// Once there is room again, the connections that were not read are listed as ready.
    fn enforce_budget(&mut self) {
        if self.budget.is_over() {
            if !self.over_budget {
                log::warn!(
                    "client connections hold {} bytes: pausing reads, closing the slowest clients",
                    self.budget.bytes()
                );
            }
            self.over_budget = true;
            self.close_slowest();
        } else if self.over_budget && self.budget.has_room() {
            self.over_budget = false;
            self.conns.wake_where(|conn| conn.has_work(false));
        }
    }

    /// Closes clients whose sockets take no output, those with the most unread output first, until
    /// enough is freed to resume reading.
    fn close_slowest(&mut self) {
        let slow = self.conns.iter_mut().filter(|(_, c)| c.is_blocked());
        let mut slow: Vec<(usize, SlotId)> = slow.map(|(id, c)| (c.out_bytes(), id)).collect();
        slow.sort_unstable_by(|a, b| b.cmp(a));
        let mut excess = self.budget.excess();
        for (bytes, id) in slow {
            if excess == 0 {
                return;
            }
            let conn = self.conns.wake(id).expect("it was just listed");
            log::debug!("closing a client connection with {bytes} bytes of unread output");
            excess = excess.saturating_sub(conn.held_bytes());
            conn.kill();
        }
    }

    /// Whether a connection has something to do without any event.
    pub fn has_work(&self) -> bool {
        self.conns.has_work()
    }

    /// When the next timer fires, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.conns.next_deadline()
    }

    /// Whether all requests except watches are answered, and all answers written.
    pub fn is_quiet(&mut self) -> bool {
        let mut all = self.conns.iter_mut();
        all.all(|(_, c)| c.out_bytes() == 0 && (c.ticket().is_none() || c.is_watcher()))
    }
}

/// The connection whose request in flight has this ticket. Lists it as ready.
fn wake_for_ticket(conns: &mut Pool<Conn>, ticket: Ticket) -> Option<&mut Conn> {
    let id = conns.id_at((ticket.0 >> SERIAL_BITS) as usize)?;
    if !conns.get_mut(id)?.waits_for(ticket) {
        return None;
    }
    conns.wake(id)
}

/// The shared part of the bytes of an event, as one allocation for all watchers that send the same
/// range. `pieces` holds the allocations of this event so far.
fn shared_piece(
    pieces: &mut Vec<(Range<usize>, SharedBytes)>,
    bytes: &[u8],
    range: Range<usize>,
    total: &SharedTotal,
) -> SharedBytes {
    if let Some((_, piece)) = pieces.iter().find(|(known, _)| *known == range) {
        return piece.clone();
    }
    let piece = SharedBytes::new(bytes[range.clone()].into(), total);
    pieces.push((range, piece.clone()));
    piece
}

/// The context that answers are rendered in. Only routing depends on the mode
/// (`Dispatcher::serve`), so it is fixed here.
fn context<'a>(settings: &'a ApiSettings, date: &'a Date, now: Now, at: Indexes) -> Context<'a> {
    Context {
        settings,
        date,
        now,
        at,
        mode: Mode::Member,
    }
}

/// Starts the requests of one turn.
struct Dispatcher<'a, 'c> {
    machine: &'a mut Machine,
    context: &'a Context<'c>,
    limits: &'a Limits,
    buffers: &'a mut Buffers,
    serial: &'a mut u64,
    upgrades: &'a mut Vec<UpgradeRequest>,
    proxied: &'a mut ProxiedRequests,
    /// Reads that may still start in this turn.
    reads_left: usize,
    /// The counter of the values that answers share with the store.
    shared: &'a SharedTotal,
    /// Bytes rendered in this turn.
    rendered: &'a mut usize,
}

impl Dispatcher<'_, '_> {
    /// Starts the next request of a connection, and answers those before it that `codec::api`
    /// answers by itself.
    fn serve(&mut self, conn: &mut Conn) {
        if self.reads_left == 0 && (conn.may_start_read() || conn.wants_more()) {
            return;
        }
        if conn.wants_more()
            && let Some(ticket) = conn.take_more()
        {
            self.reads_left -= 1;
            let op = Op::ContinueListing;
            self.machine.on_request(self.context.now, ticket, op);
        }
        let (id, port) = (conn.id(), conn.port());
        loop {
            let (consumed, request) = match conn.next(self.limits) {
                None => return,
                Some(Parsed::NeedMore {
                    consumed,
                    continue_100,
                }) => return conn.on_incomplete(consumed, continue_100),
                Some(Parsed::Reject(reject)) => {
                    return conn.reject(reject, self.context.date, self.buffers);
                }
                Some(Parsed::Request { consumed, request }) => (consumed, request),
            };
            let is_peer = mode(self.machine) == Mode::Member;
            if is_peer
                && let Some(get) = FileGet::new(port, &request, self.context)
                && let Some((at, file)) = self.machine.get_file(get.key())
            {
                let context = Context {
                    at,
                    ..*self.context
                };
                let mut rendered = self.buffers.take();
                let mut values = Vec::new();
                let keep_alive = get.render(file, &context, &mut rendered, &mut values);
                conn.consume(consumed);
                return self.send_file(conn, rendered, values, keep_alive);
            }
            if is_peer && asks_for_link(port, &request) {
                self.upgrades.push(UpgradeRequest {
                    conn: id,
                    protocol: request.upgrade.unwrap_or("").into(),
                    hello: request.hello.unwrap_or("").into(),
                });
                return conn.consume(consumed);
            }
            let context = Context {
                mode: mode(self.machine),
                ..*self.context
            };
            let response_mode = request.response_mode();
            let routed = api::route(port, &request, &context);
            conn.consume(consumed);
            match routed {
                Routed::Answer(response) => {
                    conn.send(&response, response_mode, self.context.date, self.buffers);
                }
                Routed::ToMachine { op, shape } => return self.ask(conn, op, shape),
                Routed::Proxy { call, shape } => return self.proxy(conn, *call, shape),
            }
        }
    }

    /// Sends the answer to a GET of a file that was rendered without the machine's queue. It counts
    /// like any other request.
    fn send_file(
        &mut self,
        conn: &mut Conn,
        rendered: Vec<u8>,
        values: Vec<SharedValue>,
        keep_alive: bool,
    ) {
        self.reads_left = self.reads_left.saturating_sub(1);
        self.raise_serial();
        conn.send_rendered(&rendered, values, keep_alive, self.buffers, self.shared);
        self.buffers.give(rendered);
        *self.rendered += conn.out_bytes();
        if conn.out_bytes() > OUT_HIGH_WATER_BYTES {
            conn.flush(self.buffers);
        }
    }

    fn raise_serial(&mut self) {
        *self.serial = (*self.serial + 1) & ((1 << SERIAL_BITS) - 1);
    }

    /// Hands a request to the machine.
    fn ask(&mut self, conn: &mut Conn, op: Op, shape: api::Shape) {
        if matches!(op, Op::Get { .. }) {
            self.reads_left = self.reads_left.saturating_sub(1);
        }
        let now = self.context.now;
        let ticket = self.start(conn, shape, matches!(op, Op::Watch { .. }));
        let answer_now = match &op {
            Op::Query(query) => self.machine.query(now, query),
            _ => None,
        };
        let Some(outcome) = answer_now else {
            return self.machine.on_request(now, ticket, op);
        };
        let at = self.machine.indexes();
        let answer = Answer {
            ticket,
            at,
            outcome,
        };
        let context = context(self.context.settings, self.context.date, now, at);
        let next = conn.render(self.buffers, |shape, out| {
            shape.render(&answer, &context, out)
        });
        follow(conn, next, ticket, self.machine, now);
    }

    /// Gives a request its ticket. It is in flight from now on.
    fn start(&mut self, conn: &mut Conn, shape: api::Shape, is_watch: bool) -> Ticket {
        self.raise_serial();
        let ticket = Ticket((conn.id().index() as u64) << SERIAL_BITS | *self.serial);
        conn.start(ticket, shape, is_watch);
        ticket
    }

    /// Proxies a request to the leader, or redirects the client if too many are under way.
    fn proxy(&mut self, conn: &mut Conn, call: HttpCall, shape: api::Shape) {
        let ticket = self.start(conn, shape, false);
        let proxied = &mut *self.proxied;
        let bytes = proxied.bytes + call.body.len();
        let is_full = proxied.count == PROXIED_MAX;
        if is_full || (proxied.bytes > 0 && bytes > PROXIED_BYTES_MAX) {
            let context = self.context;
            let next = conn.render(self.buffers, |shape, out| {
                shape.proxied(ProxyOutcome::Failed { sent: false }, context, out)
            });
            return follow(conn, next, ticket, self.machine, context.now);
        }
        proxied.count += 1;
        proxied.bytes = bytes;
        proxied.calls.push((ticket, call));
    }
}

/// The mode for routing: a member answers requests itself, a standby proxies or redirects them.
fn mode(machine: &Machine) -> Mode<'_> {
    match machine.standby() {
        Some(leader_url) => Mode::Standby { leader_url },
        None => Mode::Member,
    }
}

fn asks_for_link(port: Port, request: &Request) -> bool {
    let is_raft = request
        .upgrade
        .is_some_and(|upgrade| upgrade.starts_with("tern-raft/"));
    port == Port::Peer && is_raft && request.path == PATH
}

/// Carries out the next step of a connection after `codec::api` has rendered something.
fn follow(conn: &mut Conn, next: api::Next, ticket: Ticket, machine: &mut Machine, now: Now) {
    match next {
        api::Next::Wait => {}
        api::Next::ContinueListing => conn.on_more(),
        api::Next::Done {
            keep_alive,
            client_closed,
        } => {
            conn.finish(keep_alive);
            if client_closed {
                machine.on_request(now, ticket, Op::ClientClosed);
            }
        }
        api::Next::Abort => conn.kill(),
        api::Next::Save { .. } => unreachable!("`export` handles it"),
    }
}

/// Appends a part of an answer to a file in the data directory. Once the file is complete or has
/// failed, the client gets a report in place of the answer.
fn export(
    conn: &mut Conn,
    disk: &Disk,
    answer: &Answer,
    context: &Context,
    buffers: &mut Buffers,
) -> api::Next {
    let mut text = Vec::new();
    let next = conn.shape_mut().render(answer, context, &mut text);
    let begun = conn.take_export();
    if let api::Next::Done { .. } = next {
        // The machine has refused the request. The text goes to the client, and there is no file.
        conn.append(buffers, &text);
        return next;
    }
    let export = match begun {
        Some(export) => Ok(export),
        None => disk.export(),
    };
    let appended = export.and_then(|export| export.append(&text));
    let result = match (next, appended) {
        (api::Next::Save { raft }, Ok(export)) => export.finish(raft),
        (_, Ok(export)) => {
            conn.put_export(export);
            return next;
        }
        (_, Err(e)) => Err(e),
    };
    let saved = result.as_ref().copied().map_err(String::as_str);
    conn.render(buffers, |shape, out| shape.saved(saved, context, out))
}
