//! All HTTP connections that other processes open to this machine: clients, administrators, other
//! machines.
//!
//! Owns the connections (`conn`), their shared buffers and memory budget (`buffers`), the tickets,
//! and the count of requests that a standby proxies. The reactor calls the methods in the order of
//! its phases: `accept`, `fill`, `decode`, `fire_timers`, `answer`, `flush`, `deliver`, `reap`.
//! Must not decide anything about keys: `codec::api` routes a request and the machine answers it.
//! Start with `decode` and `answer`.
use super::buffers::{BUFFER_BYTES, Budget, Buffers};
use super::conn::Conn;
use super::deadlines::{CLOSE_BYTES_MIN, CLOSED_BYTES_A_TURN_MAX, OUT_HIGH_WATER_BYTES, Timeouts};
use super::deep_writes::{DeepWrites, LogProgress};
use super::deliveries::{Deliveries, PartialDelivery, TurnShare};
use super::descriptors::ConnectionsMax;
use super::dispatcher::{Dispatcher, SERIAL_BITS, UpgradeRequest, context, follow};
use super::http_calls;
use super::meters::{Meters, ProcessBounds};
use super::outgoing_call::{CallOrigin, EndedCall};
use super::output::SharedTotal;
use super::pool::{Pool, Settled};
use super::proxied::ProxiedRequests;
use super::slots::{PoolKind, SlotId};
use super::status_lines::ShellStatus;
use super::storage::Storage;
use super::transport::Transport;
use super::turn_budget::{Lane, SMALL_ANSWER_BYTES, TurnBudget};
use super::turn_times::Turn;
use crate::codec::api::{self, ApiSettings, Context, Port, status_of};
use crate::codec::http::call::HttpCall;
use crate::codec::http::{Date, Limits, Response, ResponseMode};
use crate::core::machine::{
    Answer, Delivery, Indexes, Machine, Op, Outcome, ProxyResult, ProxyStep, Ticket,
};
use crate::core::timer::{Now, earliest};
use mio::Registry;
use mio::event::Event;
use std::collections::VecDeque;

/// A connection to the peer port is closed for another one only if it has waited for a request for
/// this time, in microseconds.
const PEER_IDLE_US_MIN: u64 = 100_000;

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

    /// The work that is left for this turn.
    turn: TurnBudget,

    /// The requests for a link of this turn; taken by `take_upgrades`.
    upgrades: Vec<UpgradeRequest>,

    proxied: ProxiedRequests,

    /// The proxied watches that have ended here while their calls may be under way; taken by
    /// `take_cancelled`.
    cancelled: Vec<Ticket>,

    /// The proxied watches whose calls were paused and are to go on; taken by `take_resumed`.
    resumed: Vec<Ticket>,

    /// The events that have not reached all of their watchers.
    deliveries: Deliveries,

    /// The answers to watches whose time is over, of this turn.
    new_timed_out: Vec<Answer>,

    /// Those of all turns, oldest first, each with the number of events that it waits for: a watch may
    /// have had one of them, and its client goes on after the index of the answer.
    timed_out: VecDeque<(u64, Answer)>,

    deep_writes: DeepWrites,

    /// The connections that came in on the peer port. They are few: the port has a small reserve of
    /// descriptors.
    peer_port_conns: Vec<SlotId>,

    settings: ApiSettings,

    meters: Meters,

    /// A client of the v3 interface was reported. It is reported once.
    has_warned_of_v3: bool,

    /// The `Date` header of this turn.
    date: Date,

    limits: Limits,

    timeouts: Timeouts,

    /// Most connections at a time.
    connections_max: ConnectionsMax,
}

impl Clients {
    /// No connections yet.
    pub fn new(
        settings: ApiSettings,
        limits: Limits,
        timeouts: Timeouts,
        bounds: ProcessBounds,
    ) -> Clients {
        Clients {
            conns: Pool::new(PoolKind::Clients),
            buffers: Buffers::default(),
            budget: Budget::new(bounds.client_bytes),
            over_budget: false,
            serial: 0,
            turn: TurnBudget::default(),
            upgrades: Vec::new(),
            proxied: ProxiedRequests::default(),
            cancelled: Vec::new(),
            resumed: Vec::new(),
            deliveries: Deliveries::default(),
            new_timed_out: Vec::new(),
            timed_out: VecDeque::new(),
            deep_writes: DeepWrites::default(),
            peer_port_conns: Vec::new(),
            settings,
            meters: Meters::new(bounds),
            has_warned_of_v3: false,
            date: Date::default(),
            limits,
            timeouts,
            connections_max: bounds.connections,
        }
    }

    /// Whether one more connection may be accepted on this port. Each port has its own bound, so
    /// that clients cannot shut peers out.
    pub fn has_room(&self, port: Port) -> bool {
        match port {
            Port::Client => {
                self.client_port_conns() + self.call_descriptors()
                    < self.connections_max.client_port
            }
            Port::Peer => self.peer_port_conns.len() < self.connections_max.peer_port,
        }
    }

    fn client_port_conns(&self) -> usize {
        self.conns.len() - self.peer_port_conns.len()
    }

    /// The descriptors that calls for clients take besides the connections of the clients: one for
    /// each proxied watch, and those of the other proxied requests, which are kept free for them.
    fn call_descriptors(&self) -> usize {
        let others = if self.settings.forward {
            // With few descriptors, fewer are under way at a time than may be.
            http_calls::OPEN_MAX.min(self.connections_max.client_port / 2)
        } else {
            0
        };
        self.proxied.watches() + others
    }

    /// Phase 2: the peer port has no room for a connection that waits. Closes the one there that has
    /// waited longest for a request, so that idle connections cannot shut peers out. It is removed
    /// at the end of the turn.
    pub fn make_room_for_peer(&mut self, now: Now) {
        let idle = self.peer_port_conns.iter().filter_map(|id| {
            let idle_us = self.conns.get_mut(*id)?.idle_us(now.mono_us)?;
            (idle_us >= PEER_IDLE_US_MIN).then_some((idle_us, *id))
        });
        if let Some((_, id)) = idle.max()
            && let Some(conn) = self.conns.wake(id)
        {
            log::debug!("peer port: closing an idle connection to accept another one");
            conn.kill();
        }
    }

    /// Phase 2: adds an accepted connection.
    pub fn accept(&mut self, registry: &Registry, transport: Transport, port: Port, now: Now) {
        let id = self
            .conns
            .insert_with(|id| Conn::new(id, port, transport, now.mono_us));
        let token = self.conns.token(id);
        let conn = self.conns.get_mut(id).expect("it was just inserted");
        conn.register(registry, token);
        if port == Port::Peer {
            self.peer_port_conns.push(id);
        }
    }

    /// Phase 1: the poll has reported an event of one of the connections.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(conn) = self.conns.wake_for(event) {
            conn.on_event(event);
        }
    }

    /// Phase 2: reads from the ready connections that have room for input, up to a bound. A new
    /// request is read in any case.
    pub fn fill(&mut self) {
        self.turn = self.turn.next();
        for place in 0..self.conns.ready_len() {
            let lane = Lane::of(self.conns.is_carried(place));
            let Some(conn) = self.conns.ready_at(place) else {
                continue;
            };
            if !conn.wants_input(self.over_budget) {
                continue;
            }
            let left = self.turn.read.left(lane);
            let begins = lane == Lane::Fresh && conn.input_bytes() == 0;
            let bytes_max = if begins { left.max(BUFFER_BYTES) } else { left };
            let is_left_out =
                bytes_max == 0 || (conn.is_handshaking() && self.turn.handshakes.is_spent(lane));
            if is_left_out {
                self.conns.defer(place);
                continue;
            }
            if conn.is_handshaking() {
                self.turn.handshakes.spend(lane, 1);
            }
            let bytes = conn.fill(bytes_max, self.over_budget, &mut self.buffers);
            self.turn.read.spend(lane, bytes);
        }
    }

    /// Phase 3: starts the complete requests of the ready connections.
    pub fn decode(&mut self, machine: &mut Machine, now: Now) {
        self.date.set(now.wall_ns);
        let context = context(&self.settings, &self.date, now, machine, machine.indexes());
        let status = self.status(Turn::default());
        let taken = self.client_port_conns() + self.call_descriptors();
        let descriptors = self.connections_max.client_port.saturating_sub(taken);
        self.proxied.bound_watches(descriptors);
        let mut dispatcher = Dispatcher {
            machine,
            context: &context,
            limits: &self.limits,
            buffers: &mut self.buffers,
            serial: &mut self.serial,
            upgrades: &mut self.upgrades,
            proxied: &mut self.proxied,
            budget: &mut self.turn,
            holds_writes: self.deliveries.are_late(),
            deep_writes: &mut self.deep_writes,
            shared: self.budget.shared(),
            meters: &mut self.meters,
            status,
            has_warned_of_v3: &mut self.has_warned_of_v3,
        };
        for place in 0..self.conns.ready_len() {
            let lane = Lane::of(self.conns.is_carried(place));
            if let Some(conn) = self.conns.ready_at(place)
                && !dispatcher.serve(conn, lane)
            {
                self.conns.defer(place);
            }
        }
    }

    /// Whether a long request was started in this turn.
    pub fn has_started_long(&self) -> bool {
        self.turn.has_started_long()
    }

    /// The counters for `/metrics`.
    pub fn meters_mut(&mut self) -> &mut Meters {
        &mut self.meters
    }

    /// Phase 3: the requests for a link. Each is answered by `detach` or `refuse` in the same turn.
    pub fn take_upgrades(&mut self) -> Vec<UpgradeRequest> {
        std::mem::take(&mut self.upgrades)
    }

    /// Phase 3: removes a connection that becomes a link. Returns its socket, and the input after
    /// the request.
    pub fn detach(&mut self, id: SlotId) -> Option<(Transport, Vec<u8>)> {
        let mut conn = self.conns.remove(id)?;
        conn.uncount(&mut self.budget);
        self.peer_port_conns.retain(|other| *other != id);
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
        storage: &mut Storage,
        now: Now,
    ) {
        for answer in answers.drain(..) {
            if matches!(answer.outcome, Outcome::WatchTimedOut) {
                self.new_timed_out.push(answer);
                continue;
            }
            let Some(conn) = wake_for_ticket(&mut self.conns, answer.ticket) else {
                continue;
            };
            let status = status_of(&answer.outcome);
            conn.measure(status, now, self.meters.requests_mut());
            let context = context(&self.settings, &self.date, now, machine, answer.at);
            let next = if conn.is_export() {
                export(conn, storage, &answer, &context, &mut self.buffers)
            } else {
                let total = self.budget.shared();
                render(conn, &answer, &context, &mut self.buffers, total)
            };
            follow(conn, next, answer.ticket, machine, now);
            let left = self.turn.write.left(Lane::Fresh);
            if conn.out_bytes() > OUT_HIGH_WATER_BYTES && left > 0 {
                // Written at once, so that many large answers never stand in memory together.
                let written = conn.flush(left, &mut self.buffers);
                self.turn.write.spend(Lane::Fresh, written);
                conn.recount(&mut self.budget);
                self.enforce_budget(now);
            }
        }
    }

    /// Phase 4: goes on with the answers that are written to files, where a part is written. Once the
    /// file is complete and durable, or has failed, the client gets a report in place of the answer.
    pub fn on_exported(&mut self, storage: &mut Storage, machine: &mut Machine, now: Now) {
        while let Some(export) = storage.take_export() {
            let ticket = export.ticket();
            let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
                // The storage removes its file.
                continue;
            };
            let saved = match export.result() {
                Ok(false) => {
                    conn.put_export(export);
                    follow(conn, api::Next::ContinueListing, ticket, machine, now);
                    continue;
                }
                Ok(true) => Ok(()),
                Err(e) => Err(e),
            };
            let at = machine.indexes();
            let context = context(&self.settings, &self.date, now, machine, at);
            let next = conn.render(&mut self.buffers, |shape, out| {
                shape.saved(saved, &context, out)
            });
            follow(conn, next, ticket, machine, now);
        }
    }

    /// Phase 10: sends events to their watchers, a bounded number of watchers a turn.
    pub fn deliver(&mut self, events: &mut Vec<Delivery>, machine: &mut Machine, now: Now) {
        self.deliveries.add(events);
        // Before `added` is read: no answer waits for an event that is cut.
        for ticket in self.deliveries.take_excess() {
            if let Some(conn) = wake_for_ticket(&mut self.conns, ticket) {
                conn.kill();
            }
        }
        let added = self.deliveries.added();
        let timed_out = self.new_timed_out.drain(..);
        self.timed_out
            .extend(timed_out.map(|answer| (added, answer)));
        let mut share = TurnShare::default();
        if let Some(ticket) = self.deliveries.take_unwritten() {
            self.write_events(ticket, &mut share);
        }
        while !share.is_spent()
            && let Some(mut partial) = self.deliveries.take()
        {
            self.deliver_some(&mut partial, &mut share, machine, now);
            self.deliveries.put(partial);
        }
        self.end_timed_out(machine, now);
    }

    /// Answers the watches whose time is over, and whose events have reached all watchers.
    fn end_timed_out(&mut self, machine: &mut Machine, now: Now) {
        let ended = self.deliveries.ended();
        while let Some((events, _)) = self.timed_out.front()
            && *events <= ended
            && let Some((_, answer)) = self.timed_out.pop_front()
        {
            let Some(conn) = wake_for_ticket(&mut self.conns, answer.ticket) else {
                continue;
            };
            let status = status_of(&answer.outcome);
            conn.measure(status, now, self.meters.requests_mut());
            let context = context(&self.settings, &self.date, now, machine, answer.at);
            let total = self.budget.shared();
            let next = render(conn, &answer, &context, &mut self.buffers, total);
            follow(conn, next, answer.ticket, machine, now);
        }
    }

    /// Writes the events of one watcher, as many bytes as the share of the turn allows.
    fn write_events(&mut self, ticket: Ticket, share: &mut TurnShare) {
        let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
            return;
        };
        share.spend(conn.flush(share.bytes_left(), &mut self.buffers));
        if conn.wants_flush() {
            self.deliveries.set_unwritten(ticket);
        }
    }

    /// Sends one event to some of its watchers. It is rendered once, and the bytes that several
    /// watchers send are allocated once.
    fn deliver_some(
        &mut self,
        partial: &mut PartialDelivery,
        share: &mut TurnShare,
        machine: &mut Machine,
        now: Now,
    ) {
        let at = Indexes {
            etcd: partial.delivery().etcd,
            ..machine.indexes()
        };
        let context = context(&self.settings, &self.date, now, machine, at);
        partial.render(&context);
        while !share.is_spent()
            && let Some((ticket, ends)) = partial.next_watcher()
        {
            let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
                continue;
            };
            let (delivery, rendition) = (partial.delivery(), partial.rendition());
            let delivered = conn.render(&mut self.buffers, |shape, out| {
                shape.deliver(delivery, rendition, ends, &context, out)
            });
            match partial.shared_piece(&delivered.shared, self.budget.shared()) {
                Some(piece) => conn.push(piece),
                None => {
                    let bytes = &partial.rendition().bytes[delivered.shared];
                    conn.append(&mut self.buffers, bytes);
                }
            }
            conn.append(&mut self.buffers, delivered.tail);
            let written = conn.flush(share.bytes_left(), &mut self.buffers);
            share.spend(written);
            if conn.wants_flush() && conn.is_watcher() {
                self.deliveries.set_unwritten(ticket);
            }
            follow(conn, delivered.next, ticket, machine, now);
        }
    }

    /// Phase 9: writes the output of each connection whose socket takes it, up to a bound. A small
    /// answer is written in any case.
    pub fn flush(&mut self) {
        for place in 0..self.conns.ready_len() {
            let lane = Lane::of(self.conns.is_carried(place));
            let Some(conn) = self.conns.ready_at(place) else {
                continue;
            };
            let left = self.turn.write.left(lane);
            if left > 0 || conn.out_bytes() <= SMALL_ANSWER_BYTES {
                let bytes_max = left.max(SMALL_ANSWER_BYTES);
                let written = conn.flush(bytes_max, &mut self.buffers);
                self.turn.write.spend(lane, written);
            } else if conn.wants_flush() {
                self.conns.defer(place);
            }
        }
    }

    /// Phase 11: drops the connections that have ended, and sets interest and timers of the others.
    /// Returns whether the machine got an input.
    pub fn reap(&mut self, registry: &Registry, machine: &mut Machine, now: Now) -> bool {
        let mut ended = Vec::new();
        let mut closed_bytes = 0;
        self.conns.settle(&mut ended, |id, conn| {
            let token = id.token(PoolKind::Clients);
            self.resumed.extend(conn.maybe_resume());
            let has_ended = conn.settle(now.mono_us, &self.timeouts, &mut self.buffers)
                || conn.update_interest(registry, token).is_err();
            conn.recount(&mut self.budget);
            if has_ended && closed_bytes < CLOSED_BYTES_A_TURN_MAX {
                closed_bytes += conn.held_bytes().max(CLOSE_BYTES_MIN);
                return Settled::Ended;
            }
            if has_ended {
                return Settled::Keep {
                    deadline_us: None,
                    ready: true,
                };
            }
            Settled::Keep {
                deadline_us: conn.deadline_us(),
                ready: conn.has_work(self.over_budget),
            }
        });
        let mut has_input = false;
        for id in ended {
            let mut conn = self.conns.remove(id).expect("it has just ended");
            conn.uncount(&mut self.budget);
            if conn.port() == Port::Peer {
                self.peer_port_conns.retain(|other| *other != id);
            }
            if let Some(ticket) = conn.ticket() {
                if self.proxied.is_watch(ticket) {
                    self.proxied.remove(ticket);
                    self.cancelled.push(ticket);
                }
                machine.on_request(now, ticket, Op::ClientClosed);
                has_input = true;
            }
        }
        self.enforce_budget(now);
        self.resume_deep_write(machine);
        has_input
    }

    /// If no write to a deep path is under way, lists the connection whose deep write is next.
    fn resume_deep_write(&mut self, machine: &Machine) {
        let conns = &mut self.conns;
        let is_in_flight = |ticket| {
            let id = conn_of(conns, ticket);
            let conn = id.and_then(|id| conns.get_mut(id));
            conn.is_some_and(|conn| conn.waits_for(ticket))
        };
        let log = LogProgress::of(machine);
        if !self.deep_writes.may_resume(log, is_in_flight) {
            return;
        }
        while let Some(id) = self.deep_writes.take_next() {
            if let Some(conn) = self.conns.wake(id) {
                return conn.resume();
            }
        }
    }

    /// Enforces the memory budget. Above it, the slowest clients are closed, and reading pauses if
    /// that does not make room. Once there is room again, the connections that were not read are
    /// listed as ready.
    fn enforce_budget(&mut self, now: Now) {
        if self.budget.is_over() {
            self.budget.log_once(now);
            self.close_slowest(now);
            self.over_budget = !self.budget.has_room();
        } else if self.over_budget && self.budget.has_room() {
            self.over_budget = false;
            self.conns.wake_where(|conn| conn.has_work(false));
        }
    }

    /// Closes clients that do not read their output, and refuses requests whose bodies are not
    /// complete or that are held, until enough is freed to resume reading. Those that hold the most for the longest
    /// come first: an attacker pays for each byte, and a small request that arrives in two packets
    /// is served whatever others hold.
    fn close_slowest(&mut self, now: Now) {
        let costs = self.conns.iter_mut();
        let costs = costs.map(|(id, conn)| (conn.cost(now.mono_us), id));
        let mut costs: Vec<(u128, SlotId)> = costs.filter(|(cost, _)| *cost > 0).collect();
        costs.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in costs {
            if self.budget.has_room() {
                return;
            }
            let conn = self.conns.wake(id).expect("it was just listed");
            log::debug!(
                "closing a client connection that holds {} bytes and has {} bytes unread",
                conn.held_bytes(),
                conn.out_bytes()
            );
            conn.make_room(&self.date, &mut self.buffers);
            conn.recount(&mut self.budget);
        }
    }

    /// Whether there is something to do without any event.
    pub fn has_work(&self) -> bool {
        self.conns.has_work() || !self.deliveries.is_empty() || self.proxied.has_moved_watches()
    }

    /// The figures for a report of the state.
    pub fn status(&self, longest_turn: Turn) -> ShellStatus {
        ShellStatus {
            client_conns: self.client_port_conns(),
            peer_conns: self.peer_port_conns.len(),
            held_bytes: self.budget.bytes(),
            waiting_events: self.deliveries.len(),
            longest_turn,
        }
    }

    /// When the next timer fires, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        earliest(&[self.conns.next_deadline(), self.proxied.next_deadline()])
    }

    /// Whether all requests except watches are answered, and all answers written.
    pub fn is_quiet(&mut self) -> bool {
        let mut all = self.conns.iter_mut();
        self.deliveries.is_empty()
            && all.all(|(_, c)| c.out_bytes() == 0 && (c.ticket().is_none() || c.is_watcher()))
    }
}

/// The connection in the slot of this ticket, whichever request it has in flight.
fn conn_of(conns: &Pool<Conn>, ticket: Ticket) -> Option<SlotId> {
    conns.id_at((ticket.0 >> SERIAL_BITS) as usize)
}

/// Renders an answer to the output of its connection.
#[inline(never)]
fn render(
    conn: &mut Conn,
    answer: &Answer,
    context: &Context,
    buffers: &mut Buffers,
    total: &SharedTotal,
) -> api::Next {
    conn.render_sharing(buffers, total, |shape, out, values| {
        shape.render_sharing(answer, context, out, values)
    })
}

/// The connection whose request in flight has this ticket. Lists it as ready.
fn wake_for_ticket(conns: &mut Pool<Conn>, ticket: Ticket) -> Option<&mut Conn> {
    let id = conn_of(conns, ticket)?;
    if !conns.get_mut(id)?.waits_for(ticket) {
        return None;
    }
    conns.wake(id)
}

/// Hands a part of an answer over to the thread that writes exports; `Clients::on_exported` follows
/// it up. If no export can begin, the client gets a report in place of the answer.
fn export(
    conn: &mut Conn,
    storage: &mut Storage,
    answer: &Answer,
    context: &Context,
    buffers: &mut Buffers,
) -> api::Next {
    let mut text = Vec::new();
    let next = conn.shape_mut().render(answer, context, &mut text);
    if let api::Next::Done { .. } = next {
        // The machine has refused the request. The text goes to the client, and there is no file.
        conn.append(buffers, &text);
        return next;
    }
    let raft = match next {
        api::Next::Save { raft } => Some(raft),
        _ => None,
    };
    let begun = match conn.take_export() {
        Some(export) => Ok(export),
        None => storage.begin_export(answer.ticket),
    };
    match begun {
        Ok(mut export) => {
            export.set_piece(text, raft);
            storage.write_export(export);
            api::Next::Wait
        }
        Err(e) => conn.render(buffers, |shape, out| shape.saved(Err(&e), context, out)),
    }
}

mod proxying;
#[cfg(test)]
mod turn_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::api::{Mode, Routed, Shape, route};
    use crate::codec::http::{Parsed, Parser};
    use crate::shell::transport::accepted_pair;

    pub fn settings() -> ApiSettings {
        ApiSettings {
            name: "n1".into(),
            client_url: "http://n1:4001".into(),
            peer_url: "http://n1:7001".into(),
            cors: Vec::new(),
            compat_2: false,
            forward: false,
            trace: false,
        }
    }

    /// The shape of the answer to some request.
    pub fn shape() -> Shape {
        let settings = settings();
        let mut parser = Parser::new();
        let Parsed::Request { request, .. } = parser.parse(
            b"DELETE /v2/keys/a HTTP/1.1\r\nHost: n1\r\n\r\n",
            &Limits::default(),
        ) else {
            panic!("it is a request");
        };
        let now = Now {
            mono_us: 0,
            wall_ns: 0,
        };
        let date = Date::new(0);
        let context = Context {
            settings: &settings,
            date: &date,
            now,
            shown_ns: 0,
            at: Indexes::default(),
            cluster_id: None,
            mode: Mode::Member,
            leader_url: None,
        };
        match route(Port::Client, &request, &context) {
            Routed::ToMachine { shape, .. } => shape,
            other => panic!("a machine answers it: {other:?}"),
        }
    }

    /// A refusal amid its answer would garble it, and the machine would keep the watcher.
    #[test]
    fn a_watcher_gives_way_without_a_word_and_keeps_its_ticket_to_the_end() {
        let (transport, _other) = accepted_pair();
        let mut conns = Pool::new(PoolKind::Clients);
        let id = conns.insert_with(|id| Conn::new(id, Port::Client, transport, 0));
        let conn = conns.get_mut(id).expect("it was just inserted");
        conn.start(Ticket(1), shape(), true, None);
        conn.make_room(&Date::new(0), &mut Buffers::default());
        assert_eq!((conn.ticket(), conn.out_bytes()), (Some(Ticket(1)), 0));
        assert!(!conn.waits_for(Ticket(1)));
    }

    #[test]
    fn an_answer_reaches_the_request_with_its_ticket_and_no_other() {
        let (transport, _other) = accepted_pair();
        let mut conns = Pool::new(PoolKind::Clients);
        let id = conns.insert_with(|id| Conn::new(id, Port::Client, transport, 0));
        let ticket = |serial| Ticket((id.index() as u64) << SERIAL_BITS | serial);
        assert!(wake_for_ticket(&mut conns, ticket(1)).is_none());
        let conn = conns.get_mut(id).expect("it was just inserted");
        conn.start(ticket(2), shape(), false, None);
        assert!(wake_for_ticket(&mut conns, ticket(1)).is_none());
        assert!(wake_for_ticket(&mut conns, ticket(2)).is_some());
        conns.remove(id);
        assert!(wake_for_ticket(&mut conns, ticket(2)).is_none());
    }
}
