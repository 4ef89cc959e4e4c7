//! All client and admin connections: which have something to do, what they ask, what they may hold.
//!
//! The reactor's phases call the methods in their order: `accept`, `fill`, `decode`,
//! `fire_timers`, `answer`, `deliver`, `flush`, `reap`. Must not decide anything about keys: a
//! request is routed by `codec::api` and answered by the machine. Start with `decode` and `answer`.
use super::buffers::{Budget, Buffers};
use super::conn::Conn;
use super::deadlines::{ANSWERS_BYTES_A_TURN, OUT_MARK_BYTES, READS_A_TURN, Timeouts};
use super::outgoing_call::EndedCall;
use super::output::{SharedBytes, SharedTotal};
use super::slots::{PoolKind, SlotId};
use super::sockets::{Pool, Settled};
use super::transport::Transport;
use crate::codec::api::{
    self, Context, FileGet, Mode, Port, ProxyOutcome, Rendition, Routed, SharedValue, Site,
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

/// The most client requests that a standby passes on at a time. Further ones are redirected.
const PASSED_MAX: usize = 256;
/// The most bytes of their bodies together. One request alone may be longer.
const PASSED_BYTES_MAX: usize = 4 << 20;
/// A ticket is a slot's number, followed by a serial number of this many bits.
const SERIAL_BITS: u32 = 40;

/// A request on the peer port that the connection become a link.
pub struct UpgradeRequest {
    /// The connection.
    pub conn: SlotId,
    /// Header `Upgrade`.
    pub protocol: Box<str>,
    /// Header `Tern-Hello`.
    pub hello: Box<str>,
}

/// The requests that a standby passes on to the leader.
#[derive(Default)]
struct PassedRequests {
    /// How many are under way; at most `PASSED_MAX`.
    count: usize,
    /// Bytes of their bodies.
    bytes: usize,
    /// Those that have not been started yet; taken by `Clients::take_passed` in the same turn.
    calls: Vec<(Ticket, HttpCall)>,
}

/// The connections and what they share.
pub struct Clients {
    conns: Pool<Conn>,

    buffers: Buffers,

    budget: Budget,

    /// The budget was exceeded, and `Budget::has_room` has not held since.
    tight: bool,

    /// The serial number of the last ticket; rises by one with each request that reaches the
    /// machine or is passed on, and wraps after `SERIAL_BITS`.
    serial: u64,

    /// Bytes that `decode` rendered in this turn.
    rendered: usize,

    /// Reads that may start in a turn: `READS_A_TURN`, fewer while their answers are large.
    reads_max: usize,

    /// Requests for a link that arrived in this turn; taken by `take_upgrades`.
    upgrades: Vec<UpgradeRequest>,

    passed: PassedRequests,

    site: Site,

    /// The `Date` header of this turn.
    date: Date,

    limits: Limits,

    timeouts: Timeouts,

    /// The bound on the number of connections, by the descriptors of this process.
    connections_max: usize,
}

impl Clients {
    /// No connections yet.
    pub fn new(site: Site, limits: Limits, timeouts: Timeouts, connections_max: usize) -> Clients {
        Clients {
            conns: Pool::new(PoolKind::Clients),
            buffers: Buffers::default(),
            budget: Budget::default(),
            tight: false,
            serial: 0,
            rendered: 0,
            reads_max: READS_A_TURN,
            upgrades: Vec::new(),
            passed: PassedRequests::default(),
            site,
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

    /// Phase 2: takes a new connection in.
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

    /// Phase 2: reads from each connection that has bytes and may take them.
    pub fn fill(&mut self) {
        for place in 0..self.conns.ready_len() {
            if let Some(conn) = self.conns.ready_at(place)
                && conn.wants_input(self.tight)
            {
                conn.fill(self.tight, &mut self.buffers);
            }
        }
    }

    /// Phase 3: starts the requests that are complete.
    pub fn decode(&mut self, machine: &mut Machine, now: Now) {
        self.date.set(now.wall_ns);
        let context = context(&self.site, &self.date, now, machine.indexes());
        let mut dispatcher = Dispatcher {
            machine,
            context: &context,
            limits: &self.limits,
            buffers: &mut self.buffers,
            serial: &mut self.serial,
            upgrades: &mut self.upgrades,
            passed: &mut self.passed,
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

    /// The serial number of the last request, for telling whether further ones have arrived.
    pub fn requests(&self) -> u64 {
        self.serial
    }

    /// Phase 3: the requests for a link. Each is answered by `detach` or `refuse` in the same turn.
    pub fn take_upgrades(&mut self) -> Vec<UpgradeRequest> {
        std::mem::take(&mut self.upgrades)
    }

    /// Phase 3: the calls that pass client requests on, to be started now.
    pub fn take_passed(&mut self) -> Vec<(Ticket, HttpCall)> {
        std::mem::take(&mut self.passed.calls)
    }

    /// Phase 3: the call that passed on the request with this ticket has ended.
    pub fn on_passed(&mut self, ticket: Ticket, ended: EndedCall, machine: &mut Machine, now: Now) {
        self.passed.count -= 1;
        self.passed.bytes -= ended.body_bytes();
        let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
            return;
        };
        self.date.set(now.wall_ns);
        let context = context(&self.site, &self.date, now, machine.indexes());
        let passed = ended.into_passed();
        let next = conn.render(&mut self.buffers, |shape, out| {
            shape.proxied(passed, &context, out)
        });
        follow(conn, next, ticket, machine, now);
    }

    /// Phase 3: gives a connection up that becomes a link: its socket, and the input behind the
    /// request.
    pub fn detach(&mut self, id: SlotId) -> Option<(Transport, Vec<u8>)> {
        let mut conn = self.conns.remove(id)?;
        conn.uncount(&mut self.budget);
        Some(conn.into_parts())
    }

    /// Phase 3: refuses a request for a link, and closes.
    pub fn refuse(&mut self, id: SlotId, response: &Response) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.send(response, ResponseMode::CLOSE, &self.date, &mut self.buffers);
        }
    }

    /// Phase 5: refuses or closes the connections whose deadline has passed.
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
            let context = context(&self.site, &self.date, now, answer.at);
            let next = if conn.exports() {
                export(conn, disk, &answer, &context, &mut self.buffers)
            } else {
                let total = self.budget.shared();
                conn.render_sharing(&mut self.buffers, total, |shape, out, values| {
                    shape.render_sharing(&answer, &context, out, values)
                })
            };
            follow(conn, next, answer.ticket, machine, now);
            rendered += conn.out_bytes();
            if conn.out_bytes() > OUT_MARK_BYTES {
                // Written at once, so that many large answers never stand in memory together.
                conn.flush(&mut self.buffers);
                conn.recount(&mut self.budget);
                self.keep_budget();
            }
        }
        self.reads_max = if rendered > ANSWERS_BYTES_A_TURN {
            (self.reads_max / 2).max(1)
        } else {
            (self.reads_max * 2).min(READS_A_TURN)
        };
    }

    /// Phase 8: queues events for their watchers. Each event is rendered once.
    pub fn deliver(&mut self, events: &mut Vec<Delivery>, machine: &mut Machine, now: Now) {
        for delivery in events.drain(..) {
            let at = Indexes {
                etcd: delivery.etcd,
                ..machine.indexes()
            };
            let context = context(&self.site, &self.date, now, at);
            let rendition = Rendition::new(&delivery, &context);
            let mut pieces: Vec<(Range<usize>, SharedBytes)> = Vec::new();
            for &(ticket, ends) in &delivery.tickets {
                let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
                    continue;
                };
                let delivered = conn.render(&mut self.buffers, |shape, out| {
                    shape.deliver(&delivery, &rendition, ends, &context, out)
                });
                let range = delivered.shared;
                let bytes = &rendition.bytes[range.clone()];
                if delivery.tickets.len() == 1 {
                    conn.append(&mut self.buffers, bytes);
                } else {
                    let known = pieces.iter().find(|(known, _)| *known == range);
                    let piece = match known {
                        Some((_, piece)) => piece.clone(),
                        None => {
                            let piece = SharedBytes::new(bytes.into(), self.budget.shared());
                            pieces.push((range, piece.clone()));
                            piece
                        }
                    };
                    conn.push(piece);
                }
                conn.append(&mut self.buffers, delivered.tail);
                follow(conn, delivered.next, ticket, machine, now);
            }
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
                ready: conn.has_work(self.tight),
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
        self.keep_budget();
        has_input
    }

    /// Above the budget, reading pauses and the slowest clients are closed. Once there is room
    /// again, the connections that were not read are looked at.
    fn keep_budget(&mut self) {
        if self.budget.is_over() {
            if !self.tight {
                log::warn!(
                    "client connections hold {} bytes: reading pauses, the slowest clients are closed",
                    self.budget.bytes()
                );
            }
            self.tight = true;
            self.close_slowest();
        } else if self.tight && self.budget.has_room() {
            self.tight = false;
            self.conns.wake_where(|conn| conn.has_work(false));
        }
    }

    /// Closes the clients with the most unread output, watchers or not, until there is room.
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
            log::debug!("closing a client that has left {bytes} bytes unread");
            excess = excess.saturating_sub(conn.held_bytes());
            conn.kill();
        }
    }

    /// Whether a connection can go on without any event.
    pub fn has_work(&self) -> bool {
        self.conns.has_work()
    }

    /// When the next connection may be late, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.conns.next_deadline()
    }

    /// Whether every request but watches has been answered, and every answer written.
    pub fn is_quiet(&mut self) -> bool {
        let mut all = self.conns.iter_mut();
        all.all(|(_, c)| c.out_bytes() == 0 && (c.ticket().is_none() || c.is_watcher()))
    }
}

/// The connection whose request in flight has this ticket; it is listed as ready.
fn wake_for_ticket(conns: &mut Pool<Conn>, ticket: Ticket) -> Option<&mut Conn> {
    let id = conns.id_at((ticket.0 >> SERIAL_BITS) as usize)?;
    if !conns.get_mut(id)?.waits_for(ticket) {
        return None;
    }
    conns.wake(id)
}

/// What surrounds an answer. The answers of the machine are rendered alike in each of its modes.
fn context<'a>(site: &'a Site, date: &'a Date, now: Now, at: Indexes) -> Context<'a> {
    Context {
        site,
        date,
        now,
        at,
        mode: Mode::Peer,
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
    passed: &'a mut PassedRequests,
    /// Reads that may still start in this turn.
    reads_left: usize,
    /// Counts the values that answers refer to.
    shared: &'a SharedTotal,
    /// Bytes that were rendered so far.
    rendered: &'a mut usize,
}

impl Dispatcher<'_, '_> {
    /// Starts the next request of a connection. Requests that `codec::api` answers by itself are
    /// answered here, one after the other.
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
            let is_peer = mode(self.machine) == Mode::Peer;
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
                Routed::Ask { op, shape } => return self.ask(conn, op, shape),
                Routed::Proxy { call, shape } => return self.pass(conn, *call, shape),
            }
        }
    }

    /// Sends the answer to a GET of a file, which was rendered at once. It counts like a request
    /// that the machine is asked.
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
        if conn.out_bytes() > OUT_MARK_BYTES {
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
        let context = context(self.context.site, self.context.date, now, at);
        let next = conn.render(self.buffers, |shape, out| {
            shape.render(&answer, &context, out)
        });
        follow(conn, next, ticket, self.machine, now);
    }

    /// Draws a ticket for a request, which is in flight from now on.
    fn start(&mut self, conn: &mut Conn, shape: api::Shape, is_watch: bool) -> Ticket {
        self.raise_serial();
        let ticket = Ticket((conn.id().index() as u64) << SERIAL_BITS | *self.serial);
        conn.start(ticket, shape, is_watch);
        ticket
    }

    /// Passes a request on to the leader, or redirects the client when too many are under way.
    fn pass(&mut self, conn: &mut Conn, call: HttpCall, shape: api::Shape) {
        let ticket = self.start(conn, shape, false);
        let passed = &mut *self.passed;
        let bytes = passed.bytes + call.body.len();
        let is_full = passed.count == PASSED_MAX;
        if is_full || (passed.bytes > 0 && bytes > PASSED_BYTES_MAX) {
            let context = self.context;
            let next = conn.render(self.buffers, |shape, out| {
                shape.proxied(ProxyOutcome::Failed { sent: false }, context, out)
            });
            return follow(conn, next, ticket, self.machine, context.now);
        }
        passed.count += 1;
        passed.bytes = bytes;
        passed.calls.push((ticket, call));
    }
}

/// Whether this machine answers requests itself, or points to the leader.
fn mode(machine: &Machine) -> Mode<'_> {
    match machine.standby() {
        Some(leader_url) => Mode::Standby { leader_url },
        None => Mode::Peer,
    }
}

fn asks_for_link(port: Port, request: &Request) -> bool {
    let is_raft = request
        .upgrade
        .is_some_and(|upgrade| upgrade.starts_with("tern-raft/"));
    port == Port::Peer && is_raft && request.path == PATH
}

/// Carries out what `codec::api` says is next for the connection.
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

/// Writes an answer to a file in the data directory, and reports to the client once the file is
/// complete or has failed.
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
        // The machine has refused. The text is for the client, and there will be no file.
        conn.append(buffers, &text);
        return next;
    }
    let export = match begun {
        Some(export) => Ok(export),
        None => disk.export(),
    };
    let export = export.and_then(|export| export.append(&text));
    let result = match (next, export) {
        (api::Next::Save { raft }, Ok(export)) => export.finish(raft),
        (_, Ok(export)) => {
            conn.put_export(export);
            return next;
        }
        (_, Err(e)) => Err(e),
    };
    let saved = match &result {
        Ok(()) => Ok(()),
        Err(e) => Err(e.as_str()),
    };
    conn.render(buffers, |shape, out| shape.saved(saved, context, out))
}
