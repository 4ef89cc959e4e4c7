//! Starts the requests of client connections, a bounded number a turn.
//!
//! `codec::api` routes a request. Some it answers by itself; the others go to the machine with a
//! ticket, or to the leader. Must not wait: an answer of the machine comes in a later phase, see
//! `Clients::answer`. Start with `Dispatcher::serve`.
use super::buffers::Buffers;
use super::conn::Conn;
use super::deadlines::{ANSWER_WRITE_BYTES_A_TURN_MAX, OUT_HIGH_WATER_BYTES, READS_OF_A_LISTING};
use super::output::SharedTotal;
use super::proxied::ProxiedRequests;
use super::slots::SlotId;
use crate::codec::api::{
    self, ApiSettings, Context, FileGet, Mode, Port, ProxyOutcome, Routed, SharedValue,
};
use crate::codec::http::call::HttpCall;
use crate::codec::http::{Date, Limits, Parsed, Reject, Request};
use crate::codec::peer::hello::PATH;
use crate::core::machine::{Answer, Indexes, LockRequest, Machine, Op, Ticket};
use crate::core::timer::Now;

/// A ticket is a slot's number, followed by a serial number of this many bits.
pub const SERIAL_BITS: u32 = 40;

/// A request on the peer port to turn the connection into a link.
pub struct UpgradeRequest {
    /// The connection that the request came in on.
    pub conn: SlotId,
    /// Header `Upgrade`.
    pub protocol: Box<str>,
    /// Header `Tern-Hello`.
    pub hello: Box<str>,
}

/// The context that answers are rendered in. Only routing depends on the mode
/// (`Dispatcher::serve`), so it is fixed here.
pub fn context<'a>(
    settings: &'a ApiSettings,
    date: &'a Date,
    now: Now,
    machine: &Machine,
    at: Indexes,
) -> Context<'a> {
    Context {
        settings,
        date,
        now,
        shown_ns: machine.shown_ns(now),
        at,
        cluster_id: machine.cluster_id(),
        mode: Mode::Member,
        leader_url: None,
    }
}

/// The request of a connection to become a link.
fn upgrade_of(conn: SlotId, request: &Request) -> UpgradeRequest {
    UpgradeRequest {
        conn,
        protocol: request.upgrade.unwrap_or("").into(),
        hello: request.hello.unwrap_or("").into(),
    }
}

/// Starts the requests of one turn.
pub struct Dispatcher<'a, 'c> {
    /// Answers the requests.
    pub machine: &'a mut Machine,
    /// The context that answers are rendered in.
    pub context: &'a Context<'c>,
    /// The limits of requests.
    pub limits: &'a Limits,
    /// Spare buffers for answers.
    pub buffers: &'a mut Buffers,
    /// The serial number of the last request, see `SERIAL_BITS`.
    pub serial: &'a mut u64,
    /// The requests for a link.
    pub upgrades: &'a mut Vec<UpgradeRequest>,
    /// The requests that a standby proxies.
    pub proxied: &'a mut ProxiedRequests,
    /// Reads that may still start in this turn.
    pub reads_left: usize,
    /// Pages of listings that may still be asked for in this turn.
    pub pages_left: usize,
    /// No other request starts in this turn: their events would come on top of many that have not
    /// reached their watchers.
    pub holds_writes: bool,
    /// The counter of the values that answers share with the store.
    pub shared: &'a SharedTotal,
    /// Bytes rendered in this turn.
    pub rendered: &'a mut usize,
    /// A client of the v3 interface was reported.
    pub has_warned_of_v3: &'a mut bool,
}

impl Dispatcher<'_, '_> {
    /// Starts the next request of a connection, and answers those before it that `codec::api`
    /// answers by itself.
    pub fn serve(&mut self, conn: &mut Conn) {
        if self.reads_left == 0 && conn.may_start_read() {
            return;
        }
        if self.holds_writes && conn.port() == Port::Client && conn.may_start_write() {
            return;
        }
        if conn.wants_more()
            && self.pages_left > 0
            && let Some(ticket) = conn.take_more()
        {
            self.pages_left -= 1;
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
                Some(Parsed::Reject(reject)) => return self.refuse(conn, reject),
                Some(Parsed::Request { consumed, request }) => (consumed, request),
            };
            let is_member = mode(self.machine) == Mode::Member;
            if is_member
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
            if is_member && asks_for_link(port, &request) {
                self.upgrades.push(upgrade_of(id, &request));
                return conn.consume(consumed);
            }
            let context = Context {
                mode: mode(self.machine),
                leader_url: self.machine.leader_client_url(),
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
            conn.flush(ANSWER_WRITE_BYTES_A_TURN_MAX, self.buffers);
        }
    }

    /// Answers malformed input and closes the connection. Reports the first client that speaks
    /// HTTP/2.
    fn refuse(&mut self, conn: &mut Conn, reject: Reject) {
        if reject == Reject::HTTP_2 && !std::mem::replace(self.has_warned_of_v3, true) {
            log::warn!(
                "a client speaks HTTP/2, as those of etcd's v3 interface do: it was refused; tern \
                 speaks v2, set ETCDCTL_API=2 (logged once)"
            );
        }
        let origin = conn.origin();
        let response = api::refusal(reject, origin.as_deref(), self.context);
        conn.refuse(&response, self.context.date, self.buffers);
    }

    fn raise_serial(&mut self) {
        *self.serial = (*self.serial + 1) & ((1 << SERIAL_BITS) - 1);
    }

    /// Hands a request to the machine.
    fn ask(&mut self, conn: &mut Conn, op: Op, shape: api::Shape) {
        // A file is read by `FileGet`, so this is nearly always a directory.
        if matches!(op, Op::Get { .. }) {
            self.reads_left = self.reads_left.saturating_sub(READS_OF_A_LISTING);
        }
        let now = self.context.now;
        let ticket = self.start(conn, shape, waits_for_events(&op));
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
        let context = Context {
            at,
            ..*self.context
        };
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
        let context = self.context;
        if !self.proxied.add(context.now, ticket, call) {
            let next = conn.render(self.buffers, |shape, out| {
                shape.proxied(ProxyOutcome::Redirected, context, out)
            });
            follow(conn, next, ticket, self.machine, context.now);
        }
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

/// Whether the answer may come at any time, so that the connection is watched for its end.
fn waits_for_events(op: &Op) -> bool {
    match op {
        Op::Watch { .. } => true,
        Op::Lock(request) => matches!(**request, LockRequest::Acquire { .. }),
        _ => false,
    }
}

/// Carries out the next step of a connection after `codec::api` has rendered something.
pub fn follow(conn: &mut Conn, next: api::Next, ticket: Ticket, machine: &mut Machine, now: Now) {
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
