//! All client and admin connections: who is ready, what they ask, what they are answered, what they
//! may hold.
//!
//! The reactor's phases call the methods in their order: `accept`, `fill`, `decode`, `on_late`,
//! `answer`, `deliver`, `flush`, `reap`. Whoever has something to do is on the ready list; a turn
//! looks at nobody else, so that idle connections cost nothing.
use super::conn::{Conn, Flight};
use super::deadlines::{ANSWERS_BYTES_A_TURN, OUT_MARK_BYTES, READS_A_TURN, Timeouts};
use super::http_calls::Ended;
use super::out::Shared;
use super::pool::{Budget, Pool};
use super::slots::{Kind, SlotId, Slots};
use super::transport::Transport;
use crate::codec::api::{self, Context, Mode, Port, ProxyOutcome, Rendition, Routed, Site};
use crate::codec::http::call::HttpCall;
use crate::codec::http::{Date, Limits, Parsed, Request, Response, ResponseMode};
use crate::codec::peer::hello::PATH;
use crate::core::machine::{Answer, Delivery, Indexes, Machine, Op, Ticket};
use crate::core::timer::{Now, TimerWheel};
use crate::shell::disk::Disk;
use mio::Registry;
use mio::event::Event;
use std::ops::Range;

/// Somebody asks on the peer port for the connection to become a link.
pub struct Visit {
    pub conn: SlotId,
    /// Header `Upgrade`.
    pub protocol: Box<str>,
    /// Header `Tern-Hello`.
    pub hello: Box<str>,
}

/// Requests that a standby may have passed on at a time, and bytes of their bodies; one alone may
/// be longer. Further ones are redirected.
const PASSED_MAX: usize = 256;
const PASSED_BYTES_MAX: usize = 4 << 20;

/// A ticket is a slot's number and a serial number of so many bits.
const SERIAL_BITS: u32 = 40;

/// What is passed on to the leader, in place of a standby.
#[derive(Default)]
struct Passing {
    count: usize,
    bytes: usize,
    calls: Vec<(Ticket, HttpCall)>,
}

/// The connections and what they share.
pub struct Clients {
    conns: Slots<Conn>,
    /// Each once; those who have something to do in this turn.
    ready: Vec<SlotId>,
    pool: Pool,
    budget: Budget,
    /// The budget was exceeded and has not been left well behind since: see `Budget`.
    tight: bool,
    timers: TimerWheel<SlotId>,
    due: Vec<SlotId>,
    serial: u64,
    /// Reads that may start in a turn; fewer while their answers are large.
    reads_max: usize,
    visits: Vec<Visit>,
    passing: Passing,
    site: Site,
    date: Date,
    limits: Limits,
    timeouts: Timeouts,
    connections_max: usize,
}

impl Clients {
    /// Nobody yet.
    pub fn new(site: Site, limits: Limits, timeouts: Timeouts, connections_max: usize) -> Clients {
        Clients {
            conns: Slots::new(),
            ready: Vec::new(),
            pool: Pool::default(),
            budget: Budget::default(),
            tight: false,
            timers: TimerWheel::new(),
            due: Vec::new(),
            serial: 0,
            reads_max: READS_A_TURN,
            visits: Vec::new(),
            passing: Passing::default(),
            site,
            date: Date::default(),
            limits,
            timeouts,
            connections_max,
        }
    }

    /// Whether one more may connect.
    pub fn has_room(&self) -> bool {
        self.conns.len() < self.connections_max
    }

    /// Takes a connection in.
    pub fn accept(&mut self, registry: &Registry, transport: Transport, port: Port, now: Now) {
        let id = self
            .conns
            .insert_with(|id| Conn::new(id, port, transport, now.mono_us));
        let conn = self.conns.get_mut(id).expect("it was just put there");
        if conn
            .transport()
            .register(registry, id.token(Kind::Client))
            .is_err()
        {
            conn.kill();
        }
        touch(&mut self.ready, conn);
    }

    /// The poll has told of one of the connections.
    pub fn on_event(&mut self, event: &Event) {
        if let Some(conn) = self.conns.get_mut(SlotId::from_token(event.token())) {
            conn.on_ready(event);
            touch(&mut self.ready, conn);
        }
    }

    /// Phase 2: reads from everybody who is ready.
    pub fn fill(&mut self) {
        for id in &self.ready {
            if let Some(conn) = self.conns.get_mut(*id)
                && conn.wants_input(self.tight)
            {
                conn.fill(self.tight, &mut self.pool);
            }
        }
    }

    /// Phase 3: starts the requests that are whole.
    pub fn decode(&mut self, machine: &mut Machine, now: Now) {
        self.date.set(now.wall_ns);
        let standby = machine.standby().map(|url| url.map(Box::<str>::from));
        let mode = match &standby {
            Some(url) => Mode::Standby {
                leader_url: url.as_deref(),
            },
            None => Mode::Peer,
        };
        let context = Context {
            mode,
            ..context(&self.site, &self.date, now, machine.indexes())
        };
        let mut desk = Desk {
            machine,
            context: &context,
            limits: &self.limits,
            pool: &mut self.pool,
            serial: &mut self.serial,
            visits: &mut self.visits,
            passing: &mut self.passing,
            reads: self.reads_max,
        };
        for id in &self.ready {
            if let Some(conn) = self.conns.get_mut(*id) {
                desk.serve(conn);
            }
        }
    }

    /// How many requests have come so far that the machine was asked.
    pub fn requests(&self) -> u64 {
        self.serial
    }

    /// Phase 3: who wants a link. Each is answered by `detach` or `refuse` before anything else
    /// happens.
    pub fn take_visits(&mut self) -> Vec<Visit> {
        std::mem::take(&mut self.visits)
    }

    /// Phase 3: what is to be asked of the leader in place of this machine.
    pub fn take_passed(&mut self) -> Vec<(Ticket, HttpCall)> {
        std::mem::take(&mut self.passing.calls)
    }

    /// Phase 3: such a call has ended.
    pub fn on_passed(&mut self, ticket: Ticket, ended: Ended, machine: &mut Machine, now: Now) {
        self.passing.count -= 1;
        self.passing.bytes -= ended.body_bytes;
        let Some(conn) = find(&mut self.conns, ticket) else {
            return;
        };
        touch(&mut self.ready, conn);
        self.date.set(now.wall_ns);
        let context = context(&self.site, &self.date, now, machine.indexes());
        let passed = ended.into_passed();
        let next = conn.render(&mut self.pool, |shape, out| {
            shape.passed(passed, &context, out)
        });
        follow(conn, next, ticket, machine, now);
    }

    /// Lets go of a connection: its socket and what was read from it beyond the request.
    pub fn detach(&mut self, id: SlotId) -> Option<(Transport, Vec<u8>)> {
        let conn = self.conns.remove(id)?;
        if let Some((timer, _)) = conn.timer {
            self.timers.cancel(timer);
        }
        self.budget.change(conn.counted, 0);
        Some(conn.into_parts())
    }

    /// Answers who wants a link, and closes.
    pub fn refuse(&mut self, id: SlotId, response: &Response) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.send(response, ResponseMode::CLOSE, &self.date, &mut self.pool);
        }
    }

    /// Phase 5: connections whose time is over.
    pub fn fire_timers(&mut self, now: Now) {
        self.timers.advance(now.mono_us, &mut self.due);
        for id in self.due.drain(..) {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            conn.timer = None;
            if conn.stamps.deadline_us.is_some_and(|at| at <= now.mono_us) {
                conn.on_late(&self.date, &mut self.pool);
            }
            // One that was given more time meanwhile is re-armed at the end of the turn.
            touch(&mut self.ready, conn);
        }
    }

    /// Phase 8: writes what the machine has answered.
    pub fn answer(
        &mut self,
        answers: &mut Vec<Answer>,
        machine: &mut Machine,
        disk: &Disk,
        now: Now,
    ) {
        let mut rendered = 0;
        for answer in answers.drain(..) {
            let Some(conn) = find(&mut self.conns, answer.ticket) else {
                continue;
            };
            touch(&mut self.ready, conn);
            let context = context(&self.site, &self.date, now, answer.at);
            let next = if conn.exports() {
                export(conn, disk, &answer, &context, &mut self.pool)
            } else {
                conn.render(&mut self.pool, |shape, out| {
                    shape.render(&answer, &context, out)
                })
            };
            follow(conn, next, answer.ticket, machine, now);
            rendered += conn.out_bytes();
            if conn.out_bytes() > OUT_MARK_BYTES {
                // At once, so that many large answers never stand here together.
                conn.flush(&mut self.pool);
                recount(conn, &mut self.budget);
                self.keep_budget();
            }
        }
        self.reads_max = match rendered > ANSWERS_BYTES_A_TURN {
            true => (self.reads_max / 2).max(1),
            false => (self.reads_max * 2).min(READS_A_TURN),
        };
    }

    /// Phase 8: hands out events, each rendered once.
    pub fn deliver(&mut self, events: &mut Vec<Delivery>, machine: &mut Machine, now: Now) {
        for delivery in events.drain(..) {
            let at = Indexes {
                etcd: delivery.etcd,
                ..machine.indexes()
            };
            let context = context(&self.site, &self.date, now, at);
            let rendition = Rendition::new(&delivery, &context);
            let mut shared: Vec<(Range<usize>, Shared)> = Vec::new();
            for &(ticket, ends) in &delivery.tickets {
                let Some(conn) = find(&mut self.conns, ticket) else {
                    continue;
                };
                touch(&mut self.ready, conn);
                let told = conn.render(&mut self.pool, |shape, out| {
                    shape.deliver(&delivery, &rendition, ends, &context, out)
                });
                let bytes = &rendition.bytes[told.shared.clone()];
                if delivery.tickets.len() == 1 {
                    conn.append(&mut self.pool, bytes);
                } else {
                    let known = shared.iter().find(|(range, _)| *range == told.shared);
                    let piece = match known {
                        Some((_, piece)) => piece.clone(),
                        None => {
                            let piece = Shared::new(bytes, &self.budget.shared);
                            shared.push((told.shared.clone(), piece.clone()));
                            piece
                        }
                    };
                    conn.push(piece);
                }
                conn.append(&mut self.pool, told.tail);
                follow(conn, told.next, ticket, machine, now);
            }
        }
    }

    /// Phase 9: writes what waits, to whoever takes it.
    pub fn flush(&mut self) {
        for id in &self.ready {
            if let Some(conn) = self.conns.get_mut(*id) {
                conn.flush(&mut self.pool);
            }
        }
    }

    /// Phase 9: drops who is done, asks the poll and the wheel for what the others wait for, and
    /// keeps on the list those who can go on without being told. Whether the machine was told
    /// of anybody who is gone.
    pub fn reap(&mut self, registry: &Registry, machine: &mut Machine, now: Now) -> bool {
        let (mut kept, mut told) = (0, false);
        for i in 0..self.ready.len() {
            let id = self.ready[i];
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            if conn.settle(now.mono_us, &self.timeouts, &mut self.pool)
                || !ask_writable(conn, registry)
            {
                told |= self.drop_conn(id, machine, now);
                continue;
            }
            recount(conn, &mut self.budget);
            arm(conn, &mut self.timers);
            conn.queued = conn.has_work(self.tight);
            if conn.queued {
                self.ready[kept] = id;
                kept += 1;
            }
        }
        self.ready.truncate(kept);
        self.keep_budget();
        told
    }

    fn drop_conn(&mut self, id: SlotId, machine: &mut Machine, now: Now) -> bool {
        let conn = self.conns.remove(id).expect("it was just looked at");
        let told = conn.flight.is_some();
        if let Some(flight) = conn.flight {
            machine.on_request(now, flight.ticket, Op::ClientClosed);
        }
        if let Some((timer, _)) = conn.timer {
            self.timers.cancel(timer);
        }
        self.budget.change(conn.counted, 0);
        told
    }

    /// Above the budget the slowest go; those who were not read from are looked at again when there
    /// is room.
    fn keep_budget(&mut self) {
        if self.budget.is_over() {
            if !self.tight {
                log::warn!(
                    "connections hold {} bytes: reading pauses, slow clients are closed",
                    self.budget.bytes()
                );
            }
            self.tight = true;
            self.cut_off_slowest();
        } else if self.tight && self.budget.has_room() {
            self.tight = false;
            for (_, conn) in self.conns.iter_mut() {
                if conn.has_work(false) {
                    touch(&mut self.ready, conn);
                }
            }
        }
    }

    /// Closes those who leave most unread, watchers or not, until there is room again.
    fn cut_off_slowest(&mut self) {
        let slow = self.conns.iter_mut().filter(|(_, c)| c.is_blocked());
        let mut slow: Vec<(usize, SlotId)> = slow.map(|(id, c)| (c.out_bytes(), id)).collect();
        slow.sort_unstable_by(|a, b| b.cmp(a));
        let mut excess = self.budget.excess();
        for (bytes, id) in slow {
            if excess == 0 {
                return;
            }
            let conn = self.conns.get_mut(id).expect("it was just looked at");
            log::debug!("a client that leaves {bytes} bytes unread is closed");
            excess = excess.saturating_sub(conn.holds());
            conn.kill();
            touch(&mut self.ready, conn);
        }
    }

    /// Whether somebody can go on without being told by the poll.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the next connection may be late.
    pub fn next_deadline(&self) -> u64 {
        self.timers.next_deadline().unwrap_or(u64::MAX)
    }

    /// Whether nobody waits for an answer that is under way.
    pub fn is_quiet(&mut self) -> bool {
        let mut all = self.conns.iter_mut();
        all.all(|(_, c)| c.out_bytes() == 0 && (c.flight.is_none() || c.is_watcher()))
    }
}

fn touch(ready: &mut Vec<SlotId>, conn: &mut Conn) {
    if !conn.queued {
        conn.queued = true;
        ready.push(conn.id);
    }
}

/// Counts anew what a connection holds.
fn recount(conn: &mut Conn, budget: &mut Budget) {
    let holds = conn.holds();
    budget.change(conn.counted, holds);
    conn.counted = holds;
}

/// The connection whose request in flight has this ticket.
fn find(conns: &mut Slots<Conn>, ticket: Ticket) -> Option<&mut Conn> {
    let id = conns.at((ticket.0 >> SERIAL_BITS) as usize)?;
    let conn = conns.get_mut(id)?;
    let flight = conn.flight.as_ref()?;
    (flight.ticket == ticket && !conn.is_dead()).then_some(conn)
}

/// What surrounds an answer: it is the machine's, whatever its mode.
fn context<'a>(site: &'a Site, date: &'a Date, now: Now, at: Indexes) -> Context<'a> {
    Context {
        site,
        date,
        now,
        at,
        mode: Mode::Peer,
    }
}

/// What is needed to start requests.
struct Desk<'a, 'c> {
    machine: &'a mut Machine,
    context: &'a Context<'c>,
    limits: &'a Limits,
    pool: &'a mut Pool,
    serial: &'a mut u64,
    visits: &'a mut Vec<Visit>,
    passing: &'a mut Passing,
    /// So many more reads may start in this turn.
    reads: usize,
}

impl Desk<'_, '_> {
    /// Starts the next request of a connection; those that need nobody are answered on the spot.
    fn serve(&mut self, conn: &mut Conn) {
        if self.reads == 0 && (conn.may_read() || conn.wants_more()) {
            return;
        }
        if conn.wants_more() {
            self.reads -= 1;
            let ticket = conn.take_more().expect("it wants more of something");
            self.machine
                .on_request(self.context.now, ticket, Op::ContinueListing);
        }
        loop {
            let (id, port) = (conn.id, conn.port);
            match conn.next(self.limits) {
                None => return,
                Some(Parsed::NeedMore {
                    consumed,
                    continue_100,
                }) => return conn.starve(consumed, continue_100),
                Some(Parsed::Reject(reject)) => {
                    return conn.reject(reject, self.context.date, self.pool);
                }
                Some(Parsed::Request { consumed, request })
                    if asks_for_link(port, &request) && self.context.mode == Mode::Peer =>
                {
                    let visit = Visit {
                        conn: id,
                        protocol: request.upgrade.unwrap_or("").into(),
                        hello: request.hello.unwrap_or("").into(),
                    };
                    self.visits.push(visit);
                    return conn.consume(consumed);
                }
                Some(Parsed::Request { consumed, request }) => {
                    let reply = request.response_mode();
                    let routed = api::route(port, &request, self.context);
                    conn.consume(consumed);
                    match routed {
                        Routed::Answer(response) => {
                            conn.send(&response, reply, self.context.date, self.pool);
                        }
                        Routed::Ask { op, shape } => return self.ask(conn, op, shape),
                        Routed::Pass { call, shape } => return self.pass(conn, *call, shape),
                    }
                }
            }
        }
    }

    fn ask(&mut self, conn: &mut Conn, op: Op, shape: Box<api::Shape>) {
        if matches!(op, Op::Get { .. }) {
            self.reads = self.reads.saturating_sub(1);
        }
        let ticket = self.take_off(conn, shape, matches!(op, Op::Watch { .. }));
        self.machine.on_request(self.context.now, ticket, op);
    }

    /// The request in flight from now on.
    fn take_off(&mut self, conn: &mut Conn, shape: Box<api::Shape>, watches: bool) -> Ticket {
        *self.serial = (*self.serial + 1) & ((1 << SERIAL_BITS) - 1);
        let ticket = Ticket((conn.id.index() as u64) << SERIAL_BITS | *self.serial);
        conn.flight = Some(Flight {
            ticket,
            shape,
            export: None,
            watches,
            more: false,
        });
        ticket
    }

    /// Asks the leader in place of this machine, or sends the client there when that is too much.
    fn pass(&mut self, conn: &mut Conn, call: HttpCall, shape: Box<api::Shape>) {
        let ticket = self.take_off(conn, shape, false);
        let passing = &mut self.passing;
        let bytes = passing.bytes + call.body.len();
        if passing.count == PASSED_MAX || (passing.bytes > 0 && bytes > PASSED_BYTES_MAX) {
            let (context, sent) = (self.context, false);
            let next = conn.render(self.pool, |shape, out| {
                shape.passed(ProxyOutcome::Failed { sent }, context, out)
            });
            return follow(conn, next, ticket, self.machine, context.now);
        }
        (passing.count, passing.bytes) = (passing.count + 1, bytes);
        passing.calls.push((ticket, call));
    }
}

fn asks_for_link(port: Port, request: &Request) -> bool {
    let raft = request.upgrade.is_some_and(|u| u.starts_with("tern-raft/"));
    port == Port::Peer && raft && request.path == PATH
}

/// Does what the interface says is next.
fn follow(conn: &mut Conn, next: api::Next, ticket: Ticket, machine: &mut Machine, now: Now) {
    match next {
        api::Next::Wait => {}
        api::Next::More => {
            let flight = conn.flight.as_mut().expect("more of something");
            flight.more = true;
        }
        api::Next::Done { keep_alive, gone } => {
            conn.finish(keep_alive);
            if gone {
                machine.on_request(now, ticket, Op::ClientClosed);
            }
        }
        api::Next::Abort => conn.kill(),
        api::Next::Save { .. } => unreachable!("`export` has seen to it"),
    }
}

/// Writes what is rendered into a file in the data directory, and answers when it is whole.
fn export(
    conn: &mut Conn,
    disk: &Disk,
    answer: &Answer,
    context: &Context,
    pool: &mut Pool,
) -> api::Next {
    let flight = conn.flight.as_mut().expect("an answer is for a request");
    let mut text = Vec::new();
    let next = flight.shape.render(answer, context, &mut text);
    if let api::Next::Done { .. } = next {
        // It failed: that is for the client, and there will be no file.
        flight.export = None;
        conn.append(pool, &text);
        return next;
    }
    let mut result = match flight.export.take() {
        Some(export) => Ok(export),
        None => disk.export(),
    };
    result = result.and_then(|export| export.append(&text));
    match next {
        api::Next::Save { raft } => {
            let result = result.and_then(|export| export.finish(raft));
            let said = match &result {
                Ok(()) => Ok(()),
                Err(e) => Err(e.as_str()),
            };
            conn.render(pool, |shape, out| shape.saved(said, context, out))
        }
        other => match result {
            Ok(export) => {
                flight.export = Some(export);
                other
            }
            Err(e) => conn.render(pool, |shape, out| shape.saved(Err(&e), context, out)),
        },
    }
}

/// Asks the poll for writability only while something waits to be written. False when the poll
/// refuses.
fn ask_writable(conn: &mut Conn, registry: &Registry) -> bool {
    let (is, should, token) = (
        conn.asks_writable,
        conn.is_blocked(),
        conn.id.token(Kind::Client),
    );
    if is == should {
        return true;
    }
    conn.asks_writable = should;
    let result = conn.transport().ask_writable(registry, token, should);
    result.is_ok()
}

/// Keeps a timer at or before the connection's deadline. A deadline that moves away costs nothing:
/// the timer fires early and is armed anew.
fn arm(conn: &mut Conn, timers: &mut TimerWheel<SlotId>) {
    let Some(deadline) = conn.stamps.deadline_us else {
        return;
    };
    if let Some((timer, at)) = conn.timer {
        if at <= deadline {
            return;
        }
        timers.cancel(timer);
    }
    conn.timer = Some((timers.schedule(deadline, conn.id), deadline));
}
