//! Starts the requests of client connections, a bounded number a turn.
//!
//! `codec::api` routes a request. It answers some requests by itself; the others go to the machine
//! with a ticket, or to the leader. Must not wait: an answer of the machine comes in a later phase,
//! see `Clients::answer`. Start with `Dispatcher::serve`.
use super::buffers::Buffers;
use super::conn::Conn;
use super::deep_writes::{DeepWrites, LogProgress, is_deep_write};
use super::logger;
use super::meters::Meters;
use super::output::SharedTotal;
use super::proxied::{PROXIED_BYTES_MAX, ProxiedRequests};
use super::slots::SlotId;
use super::status_lines::ShellStatus;
use super::turn_budget::{
    FILE_BYTES_MIN, LISTING_BYTES_MIN, Lane, PAGE_BYTES_MIN, REQUEST_BYTES_MIN, SHARED_DIVISOR,
    SMALL_FILE_BYTES, TurnBudget, cost_of_write, is_small_request,
};
use crate::codec::api::{
    self, ApiSettings, Context, FileGet, Mode, Port, ProcessFigures, ProxyOutcome, RequestKind,
    Routed, SharedValue, status_of,
};
use crate::codec::http::call::HttpCall;
use crate::codec::http::{Date, Limits, Method, Parsed, Reject, Request, ResponseMode};
use crate::codec::peer::hello::PATH;
use crate::core::command::KeyPath;
use crate::core::machine::{
    Answer, Indexes, LockRequest, Machine, Op, Outcome, ProxiedRequest, Ticket,
};
use crate::core::store::Store;
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
    /// The work that is left for this turn.
    pub budget: &'a mut TurnBudget,
    /// No write starts in this turn: its event would come on top of many that have not reached
    /// their watchers.
    pub holds_writes: bool,
    /// The writes to deep paths.
    pub deep_writes: &'a mut DeepWrites,
    /// The counter of the values that answers share with the store.
    pub shared: &'a SharedTotal,
    /// The counters for `/metrics`.
    pub meters: &'a mut Meters,
    /// The figures of the connections at the start of this phase.
    pub status: ShellStatus,
    /// A client of the v3 interface was reported.
    pub has_warned_of_v3: &'a mut bool,
}

/// How far `Dispatcher::serve_next` has come with a connection.
enum Served {
    /// A request is answered. The next one may start.
    Answered,
    /// No further request starts: none is complete, or one is in flight.
    Idle,
    /// A request is complete, and a bound of this turn leaves it to a later turn.
    LeftOut,
}

impl Dispatcher<'_, '_> {
    /// Serves the requests of a connection in their order, up to one that the machine answers
    /// later. Returns false if a bound of this turn leaves some of them to a later turn.
    pub fn serve(&mut self, conn: &mut Conn, lane: Lane) -> bool {
        if self.holds_writes && conn.port() == Port::Client && conn.may_start_write() {
            return false;
        }
        if !self.budget.may_start(conn.input_bytes()) {
            return false;
        }
        if conn.wants_more() {
            if self.budget.listings.is_spent(lane) {
                return false;
            }
            if let Some(ticket) = conn.take_more() {
                let op = Op::ContinueListing;
                self.list(lane, ticket, op, PAGE_BYTES_MIN);
            }
        }
        if self.budget.requests.is_spent(lane) {
            // The first request of a connection that is small is served all the same.
            let is_small =
                lane == Lane::Fresh && is_small_request(conn.beginning(), conn.input_bytes());
            return is_small && matches!(self.serve_next(conn, lane), Served::Idle);
        }
        while !self.budget.requests.is_spent(lane) {
            match self.serve_next(conn, lane) {
                Served::Answered => {}
                Served::Idle => return true,
                Served::LeftOut => return false,
            }
        }
        false
    }

    /// Starts one request.
    fn serve_next(&mut self, conn: &mut Conn, lane: Lane) -> Served {
        let (id, port) = (conn.id(), conn.port());
        let (consumed, request) = match conn.next(self.limits) {
            None => return Served::Idle,
            Some(Parsed::NeedMore {
                consumed,
                continue_100,
            }) => {
                conn.on_incomplete(consumed, continue_100);
                return Served::Idle;
            }
            Some(Parsed::Reject(reject)) => {
                self.refuse(conn, reject);
                return Served::Idle;
            }
            Some(Parsed::Request { consumed, request }) => (consumed, request),
        };
        // Earlier reads have consumed the chunks that they brought.
        let bytes = consumed.max(request.body.len());
        let is_member = mode(self.machine) == Mode::Member;
        if is_member && let Some(get) = FileGet::new(port, &request, self.context) {
            if self.must_wait(&get, lane) {
                conn.leave(consumed);
                return Served::LeftOut;
            }
            if let Some((at, file)) = self.machine.get_file(get.key()) {
                let context = Context {
                    at,
                    ..*self.context
                };
                let mut rendered = self.buffers.take();
                let mut values = Vec::new();
                let keep_alive = get.render(file, &context, &mut rendered, &mut values);
                self.consume(conn, consumed, bytes, bytes, lane);
                self.count_file(port);
                self.send_file(conn, rendered, values, keep_alive, lane);
                return Served::Answered;
            }
        }
        if is_member && asks_for_link(port, &request) {
            self.upgrades.push(upgrade_of(id, &request));
            self.consume(conn, consumed, bytes, bytes, lane);
            return Served::Idle;
        }
        let context = Context {
            mode: mode(self.machine),
            leader_url: self.machine.leader_client_url(),
            ..*self.context
        };
        let response_mode = request.response_mode();
        let method = request.method;
        let routed = api::route(port, &request, &context);
        let kind = counted_kind(port, method, &request.path, &routed);
        let cost = cost_of(method, &request.path, bytes);
        if let Routed::ToMachine { op, .. } = &routed
            && let Some(left) = self.maybe_leave(conn, consumed, op, lane)
        {
            return left;
        }
        self.consume(conn, consumed, bytes, cost, lane);
        let is_watch = match &routed {
            Routed::ToMachine { op, .. } => waits_for_events(op),
            Routed::Proxy { is_watch, .. } => *is_watch,
            Routed::Answer(_) | Routed::SetLogLevel { .. } => false,
        };
        if port == Port::Client && !is_watch {
            self.meters.requests_mut().on_received(method);
        }
        self.start_routed(conn, routed, kind, response_mode, lane)
    }

    /// Leaves a listing to a later turn if the share of listings is spent, and a write to a deep path
    /// until the last one is applied.
    fn maybe_leave(
        &mut self,
        conn: &mut Conn,
        consumed: usize,
        op: &Op,
        lane: Lane,
    ) -> Option<Served> {
        if is_listing(op) && self.budget.listings.is_spent(lane) {
            conn.leave(consumed);
            return Some(Served::LeftOut);
        }
        if is_deep_write(op) && !self.deep_writes.may_start() {
            conn.leave_until_resumed(consumed);
            self.deep_writes.wait(conn.id());
            return Some(Served::Idle);
        }
        None
    }

    /// Starts a request that was routed.
    fn start_routed(
        &mut self,
        conn: &mut Conn,
        routed: Routed,
        kind: Option<RequestKind>,
        response_mode: ResponseMode,
        lane: Lane,
    ) -> Served {
        match routed {
            Routed::Answer(response) => {
                if let Some(kind) = kind {
                    let requests = self.meters.requests_mut();
                    requests.on_answered(kind, response.status, 0);
                }
                conn.send(&response, response_mode, self.context.date, self.buffers);
                return Served::Answered;
            }
            Routed::SetLogLevel { level, response } => {
                logger::set_level(level);
                if let Some(kind) = kind {
                    let requests = self.meters.requests_mut();
                    requests.on_answered(kind, response.status, 0);
                }
                conn.send(&response, response_mode, self.context.date, self.buffers);
                return Served::Answered;
            }
            Routed::ToMachine { op, shape } => self.ask(conn, op, shape, kind, lane),
            Routed::Proxy {
                call,
                shape,
                is_watch,
            } => {
                let request = ProxiedRequest::new(self.context.now, call.method == Method::Get);
                let ticket = self.start(conn, shape, is_watch, kind);
                self.proxy(conn, ticket, request, *call, is_watch);
            }
        }
        Served::Idle
    }

    /// Removes the rest of a request that starts now from the input. The request has `bytes` bytes.
    /// `cost` is that of its work, in bytes of `TurnBudget::requests`.
    fn consume(&mut self, conn: &mut Conn, consumed: usize, bytes: usize, cost: usize, lane: Lane) {
        conn.consume(consumed);
        self.budget.on_started(bytes);
        let cost = cost.max(REQUEST_BYTES_MIN);
        self.budget.requests.spend(lane, cost);
    }

    /// Whether the share of files is spent and a file is not small, or its connection queues.
    fn must_wait(&self, get: &FileGet, lane: Lane) -> bool {
        if !self.budget.files.is_spent(lane) {
            return false;
        }
        let store = self.machine.store();
        let value = store.and_then(|store| store.value(&KeyPath::new(get.key())));
        lane == Lane::Carried || value.is_some_and(|value| value.len() > SMALL_FILE_BYTES)
    }

    /// Sends the answer to a GET of a file that was rendered without the machine's queue. It counts
    /// like any other request.
    fn send_file(
        &mut self,
        conn: &mut Conn,
        rendered: Vec<u8>,
        values: Vec<SharedValue>,
        keep_alive: bool,
        lane: Lane,
    ) {
        let shared: usize = values.iter().map(|value| value.value.len()).sum();
        let cost = rendered.len() + shared / SHARED_DIVISOR;
        self.budget.files.spend(lane, cost.max(FILE_BYTES_MIN));
        self.raise_serial();
        conn.send_rendered(&rendered, values, keep_alive, self.buffers, self.shared);
        self.buffers.give(rendered);
    }

    /// Asks the machine for a page of a listing, which counts for at least `bytes_min` bytes.
    fn list(&mut self, lane: Lane, ticket: Ticket, op: Op, bytes_min: usize) {
        let listed = |machine: &Machine| machine.store().map_or(0, Store::listed_bytes);
        let before = listed(self.machine);
        self.machine.on_request(self.context.now, ticket, op);
        let cost = listed(self.machine).wrapping_sub(before) as usize;
        self.budget.listings.spend(lane, cost.max(bytes_min));
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
    fn ask(
        &mut self,
        conn: &mut Conn,
        op: Op,
        mut shape: api::Shape,
        kind: Option<RequestKind>,
        lane: Lane,
    ) {
        let now = self.context.now;
        let answer_now = match &op {
            Op::Query(query) => self.machine.query(now, query),
            _ => None,
        };
        let request = ProxiedRequest::once();
        if let Some(outcome) = &answer_now
            && self.machine.proxy_url(&request).is_some()
            && let Some(call) = shape.ask_leader(outcome)
        {
            let ticket = self.start(conn, shape, false, kind);
            return self.proxy(conn, ticket, request, call, false);
        }
        let ticket = self.start(conn, shape, waits_for_events(&op), kind);
        let Some(outcome) = answer_now else {
            if is_listing(&op) {
                return self.list(lane, ticket, op, LISTING_BYTES_MIN);
            }
            let is_deep = is_deep_write(&op);
            self.machine.on_request(now, ticket, op);
            if is_deep {
                let log = LogProgress::of(self.machine);
                self.deep_writes.on_started(ticket, log);
            }
            return;
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
        let figures = match &answer.outcome {
            Outcome::Figures(core) => Some((core, self.process_figures())),
            _ => None,
        };
        let status = status_of(&answer.outcome);
        conn.measure(status, now, self.meters.requests_mut());
        let next = conn.render(self.buffers, |shape, out| match &figures {
            Some((core, process)) => shape.metrics(core, process, &context, out),
            None => shape.render(&answer, &context, out),
        });
        follow(conn, next, ticket, self.machine, now);
    }

    fn process_figures(&self) -> ProcessFigures {
        let proxied_bytes = self.proxied.bytes();
        self.meters
            .figures(&self.status, proxied_bytes, PROXIED_BYTES_MAX)
    }

    /// Counts a GET of a file that was answered at once.
    fn count_file(&mut self, port: Port) {
        if port == Port::Client {
            let requests = self.meters.requests_mut();
            requests.on_received(Method::Get);
            requests.on_answered(RequestKind::Get, 200, 0);
        }
    }

    /// Gives a request its ticket. It is in flight from now on.
    fn start(
        &mut self,
        conn: &mut Conn,
        shape: api::Shape,
        is_watch: bool,
        kind: Option<RequestKind>,
    ) -> Ticket {
        self.raise_serial();
        let ticket = Ticket((conn.id().index() as u64) << SERIAL_BITS | *self.serial);
        let measure = kind.map(|kind| (kind, self.context.now.mono_us));
        conn.start(ticket, shape, is_watch, measure);
        ticket
    }

    /// Proxies the request in flight to the leader, or redirects the client if too many are under way.
    fn proxy(
        &mut self,
        conn: &mut Conn,
        ticket: Ticket,
        request: ProxiedRequest,
        call: HttpCall,
        is_watch: bool,
    ) {
        let context = self.context;
        let now = context.now;
        if !self.proxied.add(now, ticket, request, call, is_watch) {
            conn.measure(307, now, self.meters.requests_mut());
            let next = conn.render(self.buffers, |shape, out| {
                shape.proxied(ProxyOutcome::Redirected, context, out)
            });
            follow(conn, next, ticket, self.machine, context.now);
        }
    }
}

/// The cost of a request of `bytes` bytes, in bytes of `TurnBudget::requests`.
fn cost_of(method: Method, path: &str, bytes: usize) -> usize {
    match method {
        Method::Get | Method::Head => bytes,
        _ => cost_of_write(bytes, path),
    }
}

/// The kind under which a request is counted; `None` on the peer port, whose requests are not
/// counted.
fn counted_kind(port: Port, method: Method, path: &str, routed: &Routed) -> Option<RequestKind> {
    let kind = match routed {
        Routed::ToMachine { op, .. } => RequestKind::of(method, op),
        Routed::Proxy { is_watch: true, .. } => RequestKind::Watch,
        Routed::Answer(_) | Routed::SetLogLevel { .. } | Routed::Proxy { .. } => {
            RequestKind::of_path(method, path)
        }
    };
    (port == Port::Client).then_some(kind)
}

/// Whether a request may list many nodes. A file is read by `FileGet`, so this is nearly always a
/// directory.
fn is_listing(op: &Op) -> bool {
    matches!(op, Op::Get { .. })
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
