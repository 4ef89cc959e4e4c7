//! One HTTP connection that another process opened: its input, the request in flight, its output.
//!
//! A connection has one request in flight at a time, so pipelined requests are answered in order.
//! An idle connection holds no buffer. A turn calls the methods in this order: `fill`, `next`,
//! `start`, `render`, `flush`, `settle`. Must not know what a request means: that is for
//! `codec::api` and the machine. Start with `Conn`.
use super::buffers::{BUFFER_BYTES, Budget, Buffers};
use super::deadlines::{self, ConnDeadline, ConnWait, Timeouts};
use super::output::{OutBuffer, SharedBytes, SharedTotal};
use super::slots::SlotId;
use super::sockets::{Output, Socket};
use super::transport::Transport;
use crate::codec::api::{Port, RequestKind, RequestMeters, Shape, SharedValue};
use crate::codec::http::request::{RequestStage, origin_of};
use crate::codec::http::response::CONTINUE;
use crate::codec::http::{Date, Limits, Parsed, Parser, Reject, Response, ResponseMode};
use crate::core::machine::Ticket;
use crate::core::timer::Now;
use crate::shell::disk::Export;
use mio::event::Event;
use mio::{Registry, Token};
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// The input buffer grows at most by this many times the bytes received at once: memory is taken as
/// a body needs it, not as its length announces.
const INPUT_GROWTH_MAX: usize = 4;
/// The beginning of a request of at most this many bytes waits for the rest in a buffer of its own
/// length.
const SMALL_INPUT_BYTES_MAX: usize = 2 * 1024;
/// A connection that holds at most this many bytes is never closed to make room: an ordinary request
/// that arrives in two packets is served, whatever others hold.
const HELD_BYTES_MIN: usize = 1024;

/// The request in flight.
struct ActiveRequest {
    /// Identifies the request to the machine.
    ticket: Ticket,

    /// The form of the answer, and how far it has been rendered.
    shape: Shape,

    /// The file that the answer is written to instead of the client. `None` before its first part,
    /// while a thread writes a part, and for all other requests. Boxed, because it is rare and each
    /// connection has room for it.
    export: Option<Box<Export>>,

    /// The request waits for events, without a deadline. Its unread output is limited.
    is_watch: bool,

    /// The call of this proxied watch is not read until the client has read enough of the output.
    is_paused: bool,

    /// The kind of the request and when it began, in microseconds of the monotonic clock; `None` once
    /// it is counted, and for requests that are not.
    measure: Option<(RequestKind, u64)>,

    /// The machine has more of this answer. The connection asks for it once the client has read
    /// enough of the output.
    has_more: bool,
}

/// The stage of a connection. It only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnStage {
    /// Requests may arrive.
    Open,
    /// The connection closes once the output has been written. With `linger` it becomes `Lingering`
    /// first: closing a socket with unread input resets the connection, and the client would lose
    /// the answer.
    Closing { linger: bool },
    /// The sending side is closed. Further input is read and dropped until the client closes its
    /// side too.
    Lingering,
    /// The connection is dropped at the end of this turn.
    Dead,
}

/// One client connection.
pub struct Conn {
    id: SlotId,

    /// The port that accepted the connection. Admin requests are answered on the peer port only.
    port: Port,

    socket: Socket<OutBuffer>,

    /// How far the first request in the input has been parsed.
    parser: Parser,

    /// The request in flight; `None` between two requests.
    active: Option<ActiveRequest>,

    stage: ConnStage,

    /// The parser has seen all input and found no complete request. Cleared when bytes arrive.
    needs_input: bool,

    /// The next request waits until `resume` is called.
    is_held: bool,

    /// A watch has been in flight, so the kernel's send buffer is bounded. It stays so.
    has_watched: bool,

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
            stage: ConnStage::Open,
            needs_input: true,
            is_held: false,
            has_watched: false,
            counted_bytes: 0,
            deadline: ConnDeadline::new(now_us),
        }
    }

    /// The slot of this connection.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The port that accepted the connection.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Registers the connection with the poll. If that fails, it is dropped at the end of the turn.
    pub fn register(&mut self, registry: &Registry, token: Token) {
        if self.socket.register(registry, token).is_err() {
            self.stage = ConnStage::Dead;
        }
    }

    /// Registers for the events that the connection waits for.
    ///
    /// # Errors
    /// The poll refuses. The caller must drop the connection.
    pub fn update_interest(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.update_interest(registry, token)
    }

    /// The address that it came from; `None` if it has ended.
    pub fn source(&mut self) -> Option<IpAddr> {
        self.socket.source()
    }

    /// Returns the socket, and the input after the last request.
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        self.socket.into_parts()
    }

    // -- input

    /// The poll has reported an event of the socket.
    pub fn on_event(&mut self, event: &Event) {
        self.socket.on_event(event);
        if event.is_error() {
            self.stage = ConnStage::Dead;
        }
    }

    /// Whether the socket may have bytes and the connection has room for them. With `over_budget`
    /// (see `Clients`) only a connection that holds nothing has room.
    pub fn wants_input(&self, over_budget: bool) -> bool {
        let has_room = match (self.stage, &self.active) {
            (ConnStage::Dead, _) => false,
            (ConnStage::Closing { linger }, _) => linger,
            (ConnStage::Lingering, _) => true,
            (ConnStage::Open, Some(_)) => self.socket.input().len() < deadlines::AHEAD_BYTES_MAX,
            (ConnStage::Open, None) => {
                self.needs_input && self.out_bytes() < deadlines::OUT_HIGH_WATER_BYTES
            }
        };
        self.socket.may_read() && has_room && !(over_budget && self.held_bytes() > 0)
    }

    /// Reads the bytes that have arrived, up to `bytes_max` and a bound of its own; `over_budget` as
    /// for `wants_input`. Returns how many bytes were read.
    pub fn fill(&mut self, bytes_max: usize, over_budget: bool, buffers: &mut Buffers) -> usize {
        let own_max = if over_budget {
            BUFFER_BYTES
        } else if self.active.is_some() {
            deadlines::AHEAD_BYTES_MAX
        } else {
            deadlines::READ_BYTES_A_TURN_MAX
        };
        let bytes_max = bytes_max.min(own_max);
        let mut bytes = 0;
        while self.socket.may_read() && self.stage != ConnStage::Dead && bytes < bytes_max {
            self.ensure_buffer(buffers);
            match self.socket.read_some(self.input_room(), bytes_max - bytes) {
                Ok(0) => {}
                Ok(count) => {
                    bytes += count;
                    self.needs_input = false;
                }
                // The TLS session is broken. Linger, so that the client can read the alert.
                Err(e) if e.kind() == ErrorKind::InvalidData && self.stage == ConnStage::Open => {
                    self.stage = ConnStage::Closing { linger: true };
                }
                Err(_) => self.stage = ConnStage::Dead,
            }
            if self.stage != ConnStage::Open {
                self.socket.clear_input();
            }
        }
        bytes
    }

    /// Lends the socket a buffer if it has none, or one that `shrink_input` has cut down.
    fn ensure_buffer(&mut self, buffers: &mut Buffers) {
        if self.socket.input_capacity() < BUFFER_BYTES {
            let mut buffer = buffers.take();
            buffer.extend_from_slice(self.socket.input());
            self.socket.put_input(buffer);
        }
    }

    /// Gives the buffer back if the input is empty, or the beginning of a request for which a small
    /// one will do: a client that does not finish its request holds no more than it has sent.
    fn shrink_input(&mut self, buffers: &mut Buffers) {
        let input = self.socket.input();
        let is_small = self.needs_input && input.len() <= SMALL_INPUT_BYTES_MAX;
        if self.socket.input_capacity() >= BUFFER_BYTES && (input.is_empty() || is_small) {
            let small = input.to_vec();
            buffers.give(self.socket.take_input());
            self.socket.put_input(small);
        }
    }

    /// How many bytes to make room for before a read. While the buffer has room: 1, so that it
    /// does not grow. Else the rest of a long body, so that the buffer grows rarely:
    /// - A multiple of the bytes received bounds it, so that an announced length alone costs no
    ///   memory. For the last growth the bound is doubled, which saves a copy of nearly the whole
    ///   body.
    /// - One byte is added: the read that finds the socket drained needs room too. Without it the
    ///   buffer would double when the body is complete.
    fn input_room(&self) -> usize {
        let received = self.socket.input().len();
        if self.socket.input_capacity() > received {
            return 1;
        }
        let wanted = self.parser.wanted_input_len().unwrap_or(0);
        let missing = wanted.saturating_sub(received);
        let growth_max = received * INPUT_GROWTH_MAX;
        if missing <= 2 * growth_max {
            return missing + 1;
        }
        growth_max + 1
    }

    /// Parses the next request, if one may start. The caller continues with `on_incomplete`,
    /// `consume` or `reject`.
    pub fn next(&mut self, limits: &Limits) -> Option<Parsed<'_>> {
        if !self.may_start() {
            return None;
        }
        Some(self.parser.parse(self.socket.input(), limits))
    }

    /// Whether a request may start and is neither a GET nor a HEAD, judged by its first letter.
    pub fn may_start_write(&self) -> bool {
        !matches!(self.beginning().first(), Some(b'G' | b'H')) && self.may_start()
    }

    /// How long the connection has waited for a complete request, in microseconds; `None` while one
    /// is in flight or output is unread.
    pub fn idle_us(&self, now_us: u64) -> Option<u64> {
        let is_free = self.active.is_none() && !self.is_held;
        let is_idle = is_free && self.socket.output().is_empty();
        is_idle.then(|| self.deadline.waited_us(now_us))
    }

    /// Whether a request may start, if the input holds one.
    fn may_start(&self) -> bool {
        self.stage == ConnStage::Open
            && self.active.is_none()
            && !self.needs_input
            && !self.is_held
            && self.out_bytes() < deadlines::OUT_HIGH_WATER_BYTES
    }

    /// The input holds no complete request. The parser has consumed its first `consumed` bytes.
    /// With `continue_100` the client waits for `100 Continue`.
    pub fn on_incomplete(&mut self, consumed: usize, continue_100: bool) {
        self.needs_input = true;
        self.socket.consume(consumed);
        if continue_100 {
            let out = self.socket.output_mut();
            out.append(Vec::new, |out| out.extend_from_slice(CONTINUE));
        }
    }

    /// Leaves the request that `next` returned with `consumed` to a later turn.
    pub fn leave(&mut self, consumed: usize) {
        let dropped = self.parser.leave(consumed);
        self.socket.consume(dropped);
    }

    /// Leaves the request that `next` returned with `consumed` until `resume` is called.
    pub fn leave_until_resumed(&mut self, consumed: usize) {
        self.leave(consumed);
        self.is_held = true;
    }

    /// The counterpart of `leave_until_resumed`.
    pub fn resume(&mut self) {
        self.is_held = false;
    }

    /// The beginning of the first request that is not in flight. Without the body, if it is chunked.
    pub fn beginning(&self) -> &[u8] {
        self.parser.beginning(self.socket.input())
    }

    /// The bytes that were read and belong to no request in flight.
    pub fn input_bytes(&self) -> usize {
        self.parser.kept_bytes() + self.socket.input().len()
    }

    /// Whether the TLS handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.socket.is_handshaking()
    }

    /// Removes the request that `next` returned from the input; it has `bytes` bytes.
    pub fn consume(&mut self, bytes: usize) {
        self.parser.reset();
        self.socket.consume(bytes);
        self.needs_input = self.socket.input().is_empty();
    }

    /// Header `Origin` of the first request that is not in flight.
    pub fn origin(&self) -> Option<String> {
        origin_of(self.beginning()).map(str::to_string)
    }

    /// Refuses a request that is late, and closes the connection.
    pub fn reject(&mut self, reject: Reject, date: &Date, buffers: &mut Buffers) {
        self.refuse(&Response::reject(reject), date, buffers);
    }

    /// Refuses a request with this response, and closes the connection.
    pub fn refuse(&mut self, response: &Response, date: &Date, buffers: &mut Buffers) {
        self.send(response, ResponseMode::CLOSE, date, buffers);
        self.stage = ConnStage::Closing { linger: true };
        self.is_held = false;
        self.parser.reset();
        self.socket.clear_input();
    }

    // -- the request in flight

    /// A request is in flight from now on. `is_watch`: it waits for events. `measure`: its kind and
    /// its beginning, if it is to be counted.
    pub fn start(
        &mut self,
        ticket: Ticket,
        shape: Shape,
        is_watch: bool,
        measure: Option<(RequestKind, u64)>,
    ) {
        if is_watch && !std::mem::replace(&mut self.has_watched, true) {
            self.socket.bound_send_buffer(deadlines::WATCH_SEND_BYTES);
        }
        self.active = Some(ActiveRequest {
            ticket,
            shape,
            export: None,
            is_watch,
            is_paused: false,
            measure,
            has_more: false,
        });
    }

    /// Counts the request in flight, once: it is answered with `status`, or the first part of its
    /// answer has come.
    pub fn measure(&mut self, status: u16, now: Now, meters: &mut RequestMeters) {
        let measure = self
            .active
            .as_mut()
            .and_then(|active| active.measure.take());
        if let Some((kind, since_us)) = measure {
            meters.on_answered(kind, status, now.mono_us.saturating_sub(since_us));
        }
    }

    /// The ticket of the request in flight.
    pub fn ticket(&self) -> Option<Ticket> {
        self.active.as_ref().map(|active| active.ticket)
    }

    /// Whether the request with this ticket is in flight and can still be answered.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.ticket() == Some(ticket) && self.stage != ConnStage::Dead
    }

    /// Whether the request in flight waits for events.
    pub fn is_watcher(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.is_watch)
    }

    /// Whether the call of this proxied watch is to be paused now: the client has much to read.
    pub fn maybe_pause(&mut self) -> bool {
        let is_behind = self.out_bytes() >= deadlines::OUT_HIGH_WATER_BYTES;
        self.active
            .as_mut()
            .is_some_and(|active| is_behind && !std::mem::replace(&mut active.is_paused, true))
    }

    /// The ticket of the proxied watch whose call goes on now: its client has read enough.
    pub fn maybe_resume(&mut self) -> Option<Ticket> {
        let is_behind = self.out_bytes() >= deadlines::OUT_HIGH_WATER_BYTES;
        let active = self.active.as_mut()?;
        let resumes = !is_behind && std::mem::take(&mut active.is_paused);
        resumes.then_some(active.ticket)
    }

    /// Whether the answer in flight is written to a file instead of the client.
    pub fn is_export(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.shape.to_file())
    }

    /// The form of the answer in flight.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn shape_mut(&mut self) -> &mut Shape {
        &mut self.active_mut().shape
    }

    /// Takes the file that the answer is written to; `None` before its first part.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn take_export(&mut self) -> Option<Box<Export>> {
        self.active_mut().export.take()
    }

    /// The counterpart of `take_export`.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn put_export(&mut self, export: Box<Export>) {
        self.active_mut().export = Some(export);
    }

    fn active_mut(&mut self) -> &mut ActiveRequest {
        let active = self.active.as_mut();
        active.expect("a request is in flight")
    }

    /// The machine has more of the answer in flight.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn on_more(&mut self) {
        self.active_mut().has_more = true;
    }

    /// Whether to ask the machine for more of the answer now.
    pub fn wants_more(&self) -> bool {
        let has_more = self.active.as_ref().is_some_and(|active| active.has_more);
        // A watcher's unread output is limited, so its past events are requested part by part.
        let ahead = if self.is_watcher() {
            0
        } else {
            deadlines::PAGES_AHEAD_BYTES_MAX
        };
        has_more && self.out_bytes() <= ahead && self.stage == ConnStage::Open
    }

    /// The caller asks the machine for more of the answer now. Returns the ticket to ask with.
    pub fn take_more(&mut self) -> Option<Ticket> {
        let active = self.active.as_mut()?;
        active.has_more = false;
        self.deadline.on_answered();
        Some(active.ticket)
    }

    // -- output

    /// Queues a complete answer.
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

    /// Queues a complete answer that is already rendered. `values` are the values that it leaves
    /// out, with their places in `rendered`; `total` counts their bytes.
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

    /// Calls `write` with the form of the answer in flight and the output to append to.
    ///
    /// # Panics
    /// Without a request in flight.
    pub fn render<R>(
        &mut self,
        buffers: &mut Buffers,
        write: impl FnOnce(&mut Shape, &mut Vec<u8>) -> R,
    ) -> R {
        let active = self.active.as_mut().expect("a request is in flight");
        let out = self.socket.output_mut();
        out.append(|| buffers.take(), |out| write(&mut active.shape, out))
    }

    /// Like `render`, for an answer with values that are not copied: `write` leaves them out and
    /// returns their places. `total` counts their bytes.
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

    /// Queues bytes that other connections also send.
    pub fn push(&mut self, shared: SharedBytes) {
        self.socket.output_mut().push(shared);
    }

    /// The answer in flight is complete. The next request may start.
    pub fn finish(&mut self, keep_alive: bool) {
        self.active = None;
        self.deadline.on_answered();
        if !keep_alive && self.stage == ConnStage::Open {
            let linger = self.socket.may_read() || !self.socket.input().is_empty();
            self.stage = ConnStage::Closing { linger };
        }
    }

    /// Writes until the output is empty, the socket takes no more, or `bytes_max` bytes are written.
    /// Returns how many bytes were written.
    pub fn flush(&mut self, bytes_max: usize, buffers: &mut Buffers) -> usize {
        if self.stage == ConnStage::Dead {
            return 0;
        }
        let recycle = |buffer| buffers.give(buffer);
        match self.socket.flush_some(bytes_max, recycle) {
            Ok(0) => 0,
            Ok(written) => {
                self.deadline.on_read();
                written
            }
            Err(_) => {
                self.stage = ConnStage::Dead;
                0
            }
        }
    }

    /// Whether the socket may take output.
    pub fn wants_flush(&self) -> bool {
        self.socket.may_write() && self.stage != ConnStage::Dead
    }

    /// The unread output, in bytes.
    pub fn out_bytes(&self) -> usize {
        self.socket.output().len()
    }

    /// Whether output waits until the socket takes bytes again.
    pub fn is_blocked(&self) -> bool {
        self.socket.is_blocked()
    }

    // -- the end of a turn, and of the connection

    /// If the deadline has passed, refuses the request or drops the connection. A client that has
    /// read anything since is not late.
    pub fn expire(&mut self, now_us: u64, date: &Date, buffers: &mut Buffers) {
        if self.deadline.at_us().is_none_or(|at_us| at_us > now_us) {
            return;
        }
        if self.deadline.is_for_output() {
            self.socket.retry_write();
            if self.flush(BUFFER_BYTES, buffers) > 0 {
                return;
            }
        } else if self.may_start() {
            // A bound of this machine has kept the bytes that have arrived from the parser.
            return;
        }
        match self.deadline.late_reject() {
            Some(reject) if self.stage == ConnStage::Open => self.reject(reject, date, buffers),
            _ => self.stage = ConnStage::Dead,
        }
    }

    /// Ends the turn for this connection: advances its stage, returns an unused input buffer, and
    /// updates the deadline. Returns whether the connection is to be dropped.
    pub fn settle(&mut self, now_us: u64, timeouts: &Timeouts, buffers: &mut Buffers) -> bool {
        self.maybe_close();
        if self.is_finished() || self.is_watcher_over_limit() {
            self.stage = ConnStage::Dead;
        }
        self.shrink_input(buffers);
        self.deadline.update(self.current_wait(), now_us, timeouts);
        self.stage == ConnStage::Dead
    }

    /// Ends a closing connection, or lets it linger, once its output has been written. Returns
    /// whether it did.
    fn maybe_close(&mut self) -> bool {
        let ConnStage::Closing { linger } = self.stage else {
            return false;
        };
        if !self.socket.output().is_empty() {
            return false;
        }
        if linger && !self.socket.is_ended() {
            self.socket.end_writing();
            self.stage = ConnStage::Lingering;
        } else {
            self.socket.send_close_notify();
            self.stage = ConnStage::Dead;
        }
        true
    }

    /// Whether the client has closed its side and expects nothing more. Answers to earlier requests
    /// are still sent to it. A watch has no end of its own, so it ends when the client closes its
    /// side.
    fn is_finished(&self) -> bool {
        if self.is_watcher() {
            return self.socket.is_ended() || self.socket.is_hung_up();
        }
        let is_answered =
            self.active.is_none() && self.needs_input && self.socket.output().is_empty();
        self.socket.is_ended() && (is_answered || self.stage == ConnStage::Lingering)
    }

    /// Whether a watcher exceeds a limit in bytes:
    /// - of unread output,
    /// - of input behind the watch. Reading would have to pause, and the end of the connection
    ///   would go unnoticed.
    fn is_watcher_over_limit(&self) -> bool {
        let ahead_bytes = self.socket.input().len();
        let is_over = self.out_bytes() > deadlines::WATCH_BYTES_MAX
            || ahead_bytes >= deadlines::AHEAD_BYTES_MAX;
        is_over && self.is_watcher()
    }

    /// The event that the connection waits for now.
    fn current_wait(&self) -> ConnWait {
        let out = self.out_bytes();
        match (&self.stage, &self.active) {
            (ConnStage::Lingering, _) => ConnWait::Linger,
            _ if self.socket.is_handshaking() => ConnWait::Handshake,
            (_, Some(active)) if active.is_watch => ConnWait::Watch { out },
            (_, Some(active)) if active.has_more => ConnWait::Page,
            _ if out > 0 => ConnWait::Write,
            (_, Some(_)) => ConnWait::Core,
            (_, None) if self.is_held => ConnWait::Core,
            (_, None) => ConnWait::Request(self.parser.stage()),
        }
    }

    /// When the present wait must end, in microseconds of the monotonic clock.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline.at_us()
    }

    /// Drops input and output at once, to free their memory, and the connection soon.
    pub fn kill(&mut self) {
        self.stage = ConnStage::Dead;
        self.is_held = false;
        self.socket.drop_output();
        self.socket.take_input();
        self.parser.reset();
    }

    /// Frees memory: closes a connection whose client does not read or waits for events, and refuses
    /// a request whose body is not complete, or that is held. A request in flight cannot be refused: its answer may
    /// have begun, and the machine learns of its end only from the end of the connection.
    pub fn make_room(&mut self, date: &Date, buffers: &mut Buffers) {
        if self.is_blocked() || self.active.is_some() || self.stage != ConnStage::Open {
            return self.kill();
        }
        self.reject(Reject::NO_ROOM, date, buffers);
        self.socket.take_input();
    }

    /// The cost of the connection to the others: the bytes that it holds, times how long its client
    /// has not read, its body has not been complete or its request has been held. 0 if it must not be closed to make room: its
    /// request is answered soon, or it holds little.
    pub fn cost(&self, now_us: u64) -> u128 {
        let is_request = self.parser.stage() != RequestStage::Idle;
        let held = if self.stage == ConnStage::Dead {
            0
        } else if self.is_blocked() {
            self.held_bytes().max(self.out_bytes())
        } else if self.is_watcher() || self.is_held || (self.active.is_none() && is_request) {
            self.held_bytes()
        } else {
            0
        };
        if held <= HELD_BYTES_MIN {
            return 0;
        }
        held as u128 * u128::from(self.deadline.waited_us(now_us) + 1)
    }

    /// Whether there is something to do in the next turn without any event; `over_budget` as for
    /// `wants_input`.
    pub fn has_work(&self, over_budget: bool) -> bool {
        self.may_start() || self.wants_input(over_budget) || self.wants_more() || self.wants_flush()
    }

    // -- memory

    /// Bytes of memory that this connection holds alone: input, request body and own output.
    pub fn held_bytes(&self) -> usize {
        let input = self.socket.input_capacity() + self.parser.kept_bytes();
        input + self.socket.output().own()
    }

    /// Updates the count of this connection in `budget`.
    pub fn recount(&mut self, budget: &mut Budget) {
        let held = self.held_bytes();
        budget.change(self.counted_bytes, held);
        self.counted_bytes = held;
    }

    /// Removes the connection, which is being dropped, from the count in `budget`.
    pub fn uncount(&mut self, budget: &mut Budget) {
        budget.change(self.counted_bytes, 0);
        self.counted_bytes = 0;
    }
}
