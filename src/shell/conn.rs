//! One client connection: the requests that arrive on it, the one in flight, its answer.
//!
//! A connection has one request in flight at a time, so pipelined requests are answered in order.
//! The methods in the order in which a turn calls them: `fill`, `next`, `start`, `render`, `flush`,
//! `settle`. Must not know what a request means: that is for `codec::api` and the machine. An idle
//! connection holds no buffer.
use super::buffers::{BUFFER_BYTES, Budget, Buffers};
use super::deadlines::{self, ConnDeadline, Timeouts, Waits};
use super::output::{OutBuffer, SharedBytes, SharedTotal};
use super::slots::SlotId;
use super::sockets::{Output, Socket};
use super::transport::Transport;
use crate::codec::api::{Port, Shape, SharedValue};
use crate::codec::http::request::RequestStage;
use crate::codec::http::response::CONTINUE;
use crate::codec::http::{Date, Limits, Parsed, Parser, Reject, Response, ResponseMode};
use crate::core::machine::Ticket;
use crate::shell::disk::Export;
use mio::event::Event;
use mio::{Registry, Token};
use std::io::{self, ErrorKind};

/// The input buffer grows at most this many times at once for the rest of a body.
const INPUT_GROWTH_MAX: usize = 16;

/// The request that a connection waits to be answered.
struct ActiveRequest {
    /// The machine's name for the request.
    ticket: Ticket,

    /// How the answer is to be written, and how far it has come.
    shape: Shape,

    /// The file that the answer goes to instead of the client, once it has begun.
    export: Option<Export>,

    /// The request waits for events. It may wait for ever, and its output has a limit.
    is_watch: bool,

    /// The machine has more of this answer. The rest is requested once the output has been read.
    has_more: bool,
}

/// Where a connection is in its life. It only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Requests may arrive.
    Open,
    /// It closes once the output has been written. With `linger` it becomes `Lingering` first:
    /// closing a socket over unread bytes resets the connection, and the client would lose the
    /// answer.
    Closing { linger: bool },
    /// The sending side is closed. What the client still sends is read and dropped until it closes
    /// too.
    Lingering,
    /// It is dropped at the end of this turn.
    Dead,
}

/// One client connection.
pub struct Conn {
    id: SlotId,

    /// The port that it came in by. Admin requests are answered on the peer port only.
    port: Port,

    socket: Socket<OutBuffer>,

    /// How far the first request in the input has been parsed.
    parser: Parser,

    /// The request in flight. `None`: the next one may start.
    active: Option<ActiveRequest>,

    life: Life,

    /// The parser has seen all of the input and found no whole request. Cleared when bytes arrive.
    needs_input: bool,

    /// The bytes that `Budget` has counted for this connection.
    counted_bytes: usize,

    /// Updated at the end of each turn that touches the connection.
    deadline: ConnDeadline,
}

impl Conn {
    /// A connection that was just accepted.
    pub fn new(id: SlotId, port: Port, transport: Transport, now_us: u64) -> Conn {
        Conn {
            id,
            port,
            socket: Socket::accepted(transport),
            parser: Parser::new(),
            active: None,
            life: Life::Open,
            needs_input: true,
            counted_bytes: 0,
            deadline: ConnDeadline::new(now_us),
        }
    }

    /// The slot of this connection.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The port that it came in by.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Registers it with the poll. If that fails, it is dropped at the end of the turn.
    pub fn register(&mut self, registry: &Registry, token: Token) {
        if self.socket.register(registry, token).is_err() {
            self.life = Life::Dead;
        }
    }

    /// Asks the poll for what the connection waits for.
    ///
    /// # Errors
    /// The poll's; the connection is of no use then.
    pub fn update_interest(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.update_interest(registry, token)
    }

    /// Gives the socket up, with the input behind the last request.
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        self.socket.into_parts()
    }

    // -- input

    /// The poll has reported an event of the socket.
    pub fn on_event(&mut self, event: &Event) {
        self.socket.on_event(event);
        if event.is_error() {
            self.life = Life::Dead;
        }
    }

    /// Whether there may be bytes to read and the connection may take them. With `tight` the
    /// buffers of all connections exceed their budget, and only a connection that holds nothing is
    /// read.
    pub fn wants_input(&self, tight: bool) -> bool {
        let has_room = match (self.life, &self.active) {
            (Life::Dead, _) => false,
            (Life::Closing { linger }, _) => linger,
            (Life::Lingering, _) => true,
            (Life::Open, Some(_)) => self.socket.input().len() < deadlines::AHEAD_BYTES_MAX,
            (Life::Open, None) => self.needs_input && self.out_bytes() < deadlines::OUT_MARK_BYTES,
        };
        self.socket.may_read() && has_room && !(tight && self.held_bytes() > 0)
    }

    /// Reads what has arrived, up to a bound; `tight` as for `wants_input`.
    pub fn fill(&mut self, tight: bool, buffers: &mut Buffers) {
        let mut budget = match self.active {
            _ if tight => BUFFER_BYTES,
            Some(_) => deadlines::AHEAD_BYTES_MAX,
            None => deadlines::READ_BYTES_A_TURN,
        };
        while self.socket.may_read() && self.life != Life::Dead && budget > 0 {
            if self.socket.input_capacity() == 0 {
                self.socket.put_input(buffers.take());
            }
            match self.socket.read(self.input_room()) {
                Ok(0) => {}
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    self.needs_input = false;
                }
                // The TLS session is broken. Linger, so that the client can read the alert.
                Err(e) if e.kind() == ErrorKind::InvalidData && self.life == Life::Open => {
                    self.life = Life::Closing { linger: true };
                }
                Err(_) => self.life = Life::Dead,
            }
            if self.life != Life::Open {
                self.socket.clear_input();
            }
        }
    }

    /// The room to read into: for the rest of a long body at once, so that its bytes are moved
    /// rarely, but in proportion to what has come, so that an announced length alone costs nothing.
    fn input_room(&self) -> usize {
        let received = self.socket.input().len();
        let wanted = self.parser.wanted_input_len().unwrap_or(0);
        let missing = wanted.saturating_sub(received);
        missing.min(received * INPUT_GROWTH_MAX).max(1)
    }

    /// Looks for the next request, if one may start. The caller goes on with `on_incomplete`,
    /// `consume` or `reject`.
    pub fn next(&mut self, limits: &Limits) -> Option<Parsed<'_>> {
        if !self.may_start() {
            return None;
        }
        Some(self.parser.parse(self.socket.input(), limits))
    }

    /// Whether the next request is a GET or a HEAD, going by its first letter.
    pub fn may_start_read(&self) -> bool {
        matches!(self.socket.input().first(), Some(b'G' | b'H')) && self.may_start()
    }

    /// Whether a request may start, if the input holds one.
    fn may_start(&self) -> bool {
        self.life == Life::Open
            && self.active.is_none()
            && !self.needs_input
            && self.out_bytes() < deadlines::OUT_MARK_BYTES
    }

    /// The parser has found no whole request, is done with the first `consumed` bytes, and may want
    /// `100 Continue` to be sent.
    pub fn on_incomplete(&mut self, consumed: usize, continue_100: bool) {
        self.needs_input = true;
        self.socket.consume(consumed);
        if continue_100 {
            let out = self.socket.output_mut();
            out.append(Vec::new, |out| out.extend_from_slice(CONTINUE));
        }
    }

    /// The request that `next` returned, of `bytes`, has been dealt with.
    pub fn consume(&mut self, bytes: usize) {
        self.parser.reset();
        self.socket.consume(bytes);
        self.needs_input = self.socket.input().is_empty();
    }

    /// Refuses the request that arrived, or did not arrive in time; then closes.
    pub fn reject(&mut self, reject: Reject, date: &Date, buffers: &mut Buffers) {
        self.send(
            &Response::reject(reject),
            ResponseMode::CLOSE,
            date,
            buffers,
        );
        self.life = Life::Closing { linger: true };
        self.parser.reset();
        self.socket.clear_input();
    }

    // -- the request in flight

    /// A request is in flight from now on; `is_watch`: it waits for events.
    pub fn start(&mut self, ticket: Ticket, shape: Shape, is_watch: bool) {
        self.active = Some(ActiveRequest {
            ticket,
            shape,
            export: None,
            is_watch,
            has_more: false,
        });
    }

    /// The ticket of the request in flight.
    pub fn ticket(&self) -> Option<Ticket> {
        self.active.as_ref().map(|active| active.ticket)
    }

    /// Whether the request with this ticket is in flight and can still be answered.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.ticket() == Some(ticket) && self.life != Life::Dead
    }

    /// Whether the request in flight waits for events.
    pub fn is_watcher(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.is_watch)
    }

    /// Whether the answer to the request in flight goes to a file, not to the client.
    pub fn exports(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.shape.to_file())
    }

    /// The shape of the answer in flight.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn shape_mut(&mut self) -> &mut Shape {
        &mut self.active_mut().shape
    }

    /// Takes the file that the answer goes to, if it has begun.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn take_export(&mut self) -> Option<Export> {
        self.active_mut().export.take()
    }

    /// The counterpart of `take_export`.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn put_export(&mut self, export: Export) {
        self.active_mut().export = Some(export);
    }

    fn active_mut(&mut self) -> &mut ActiveRequest {
        let active = self.active.as_mut();
        active.expect("an answer is for a request in flight")
    }

    /// The machine has more of the answer in flight.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn on_more(&mut self) {
        self.active_mut().has_more = true;
    }

    /// Whether the rest of the answer may be requested.
    pub fn wants_more(&self) -> bool {
        let has_more = self.active.as_ref().is_some_and(|active| active.has_more);
        // A watcher's output is limited, so its backlog is requested piece by piece.
        let ahead = if self.is_watcher() {
            0
        } else {
            deadlines::PAGES_AHEAD_BYTES
        };
        has_more && self.out_bytes() <= ahead && self.life == Life::Open
    }

    /// The rest of the answer is requested now. Returns the ticket to request it with.
    pub fn take_more(&mut self) -> Option<Ticket> {
        let active = self.active.as_mut()?;
        active.has_more = false;
        self.deadline.on_answered();
        Some(active.ticket)
    }

    // -- output

    /// Queues a whole answer.
    pub fn send(
        &mut self,
        response: &Response,
        mode: ResponseMode,
        date: &Date,
        buffers: &mut Buffers,
    ) {
        let out = self.socket.output_mut();
        let framing = out.append(|| buffers.take(), |out| response.encode(mode, date, out));
        self.finish(framing.keep_alive);
    }

    /// Queues a whole answer that was rendered elsewhere, with the values that it leaves out.
    /// `total` counts those.
    pub fn send_rendered(
        &mut self,
        rendered: &[u8],
        mut values: Vec<SharedValue>,
        keep_alive: bool,
        buffers: &mut Buffers,
        total: &SharedTotal,
    ) {
        let out = self.socket.output_mut();
        let before = out.append(
            || buffers.take(),
            |out| {
                let before = out.len();
                out.extend_from_slice(rendered);
                before
            },
        );
        if !values.is_empty() {
            for value in &mut values {
                value.at += before;
            }
            out.share(values, total);
        }
        self.finish(keep_alive);
    }

    /// Lets `write` append to the output with the shape of the answer in flight.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn render<R>(
        &mut self,
        buffers: &mut Buffers,
        write: impl FnOnce(&mut Shape, &mut Vec<u8>) -> R,
    ) -> R {
        let active = self.active.as_mut();
        let active = active.expect("an answer is for a request in flight");
        let out = self.socket.output_mut();
        out.append(|| buffers.take(), |out| write(&mut active.shape, out))
    }

    /// The same with values that are not copied: `write` leaves them out and says where they
    /// belong. `total` counts them.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn render_sharing<R>(
        &mut self,
        buffers: &mut Buffers,
        total: &SharedTotal,
        write: impl FnOnce(&mut Shape, &mut Vec<u8>, &mut Vec<SharedValue>) -> R,
    ) -> R {
        let mut values = Vec::new();
        let result = self.render(buffers, |shape, out| write(shape, out, &mut values));
        if !values.is_empty() {
            self.socket.output_mut().share(values, total);
        }
        result
    }

    /// Queues bytes of the answer in flight.
    pub fn append(&mut self, buffers: &mut Buffers, bytes: &[u8]) {
        let out = self.socket.output_mut();
        out.append(|| buffers.take(), |out| out.extend_from_slice(bytes));
    }

    /// Queues bytes that other connections send too.
    pub fn push(&mut self, shared: SharedBytes) {
        self.socket.output_mut().push(shared);
    }

    /// The answer in flight is complete. The next request may start.
    pub fn finish(&mut self, keep_alive: bool) {
        self.active = None;
        self.deadline.on_answered();
        if !keep_alive && self.life == Life::Open {
            let linger = self.socket.may_read() || !self.socket.input().is_empty();
            self.life = Life::Closing { linger };
        }
    }

    /// Writes until the output is empty or the socket takes no more.
    pub fn flush(&mut self, buffers: &mut Buffers) {
        if self.life == Life::Dead {
            return;
        }
        if self.socket.flush(|buffer| buffers.give(buffer)).is_err() {
            self.life = Life::Dead;
        }
    }

    /// The unread output, in bytes.
    pub fn out_bytes(&self) -> usize {
        self.socket.output().len()
    }

    /// Whether output waits for the socket to take bytes again.
    pub fn is_blocked(&self) -> bool {
        self.socket.is_blocked()
    }

    // -- the end of a turn, and of the connection

    /// A deadline may have passed: refuses the request or closes.
    pub fn expire(&mut self, now_us: u64, date: &Date, buffers: &mut Buffers) {
        if self.deadline.at_us().is_none_or(|at_us| at_us > now_us) {
            return;
        }
        match self.deadline.late_reject() {
            Some(reject) if self.life == Life::Open => self.reject(reject, date, buffers),
            _ => self.life = Life::Dead,
        }
    }

    /// Ends the turn for this connection: closes it if its time has come, gives an unused buffer
    /// back, and updates the deadline. Returns whether the connection is to be dropped.
    pub fn settle(&mut self, now_us: u64, timeouts: &Timeouts, buffers: &mut Buffers) -> bool {
        self.advance_closing();
        if self.has_no_purpose() || self.is_slow_watcher() {
            self.life = Life::Dead;
        }
        if self.socket.input().is_empty() && self.socket.input_capacity() > 0 {
            buffers.give(self.socket.take_input());
        }
        self.deadline.update(self.waits(), now_us, timeouts);
        self.life == Life::Dead
    }

    /// Closes, or begins to linger, once the output of a closing connection has been written.
    fn advance_closing(&mut self) {
        let Life::Closing { linger } = self.life else {
            return;
        };
        if !self.socket.output().is_empty() {
            return;
        }
        if linger && !self.socket.is_ended() {
            self.socket.end_writing();
            self.life = Life::Lingering;
        } else {
            self.socket.say_goodbye();
            self.life = Life::Dead;
        }
    }

    /// Whether the client has closed its side and waits for nothing. A client that has sent
    /// requests may still read their answers. A watcher has no end of its own, so it ends with the
    /// client's side.
    fn has_no_purpose(&self) -> bool {
        if self.is_watcher() {
            return self.socket.is_ended() || self.socket.is_hung_up();
        }
        let is_answered =
            self.active.is_none() && self.needs_input && self.socket.output().is_empty();
        self.socket.is_ended() && (is_answered || self.life == Life::Lingering)
    }

    /// Whether a watcher leaves too much unread, or sends so much ahead that reading would have to
    /// pause: then the end of the connection would not be noticed.
    fn is_slow_watcher(&self) -> bool {
        let ahead_bytes = self.socket.input().len();
        let is_over = self.out_bytes() > deadlines::WATCH_BYTES_MAX
            || ahead_bytes >= deadlines::AHEAD_BYTES_MAX;
        is_over && self.is_watcher()
    }

    /// What the connection waits for.
    fn waits(&self) -> Waits {
        let out = self.out_bytes();
        match (&self.life, &self.active) {
            (Life::Lingering, _) => Waits::Linger,
            (_, Some(active)) if active.is_watch => Waits::Watch { out },
            (_, Some(active)) if active.has_more => Waits::Page,
            _ if out > 0 => Waits::Write,
            (_, Some(_)) => Waits::Core,
            (_, None) => Waits::Request(self.parser.stage()),
        }
    }

    /// When the present wait must end, in microseconds of the monotonic clock.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline.at_us()
    }

    /// Closes it at the end of the turn. The output is dropped at once, to free its memory.
    pub fn kill(&mut self) {
        self.life = Life::Dead;
        self.socket.drop_output();
    }

    /// Whether it can go on in the next turn without any event; `tight` as for `wants_input`.
    pub fn has_work(&self, tight: bool) -> bool {
        self.may_start() || self.wants_input(tight) || self.wants_more()
    }

    // -- memory

    /// Bytes of memory that this connection alone holds.
    pub fn held_bytes(&self) -> usize {
        let body = match self.parser.stage() {
            RequestStage::Body { received } => received as usize,
            RequestStage::Idle | RequestStage::Head => 0,
        };
        self.socket.input_capacity().max(body) + self.socket.output().own()
    }

    /// Counts anew what the connection holds.
    pub fn recount(&mut self, budget: &mut Budget) {
        let held = self.held_bytes();
        budget.change(self.counted_bytes, held);
        self.counted_bytes = held;
    }

    /// The connection is dropped: it counts no more.
    pub fn uncount(&mut self, budget: &mut Budget) {
        budget.change(self.counted_bytes, 0);
        self.counted_bytes = 0;
    }
}
