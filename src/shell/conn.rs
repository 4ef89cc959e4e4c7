//! One client or admin connection: input and output buffers, the request in flight, deadlines.
//!
//! Knows bytes, requests and readiness; not what a request means (that is `serve`), and not the
//! poll. One request is in flight at a time, so that pipelined ones are answered in order. Start
//! with `fill`, `next`, `flush`: that is the order in which a turn calls them. An idle connection
//! holds no buffer.
use super::deadlines::{self, Stamps, Timeouts, Waits};
use super::out::{Out, SLICES_MAX, Shared};
use super::pool::{BUFFER_BYTES, Pool};
use super::slots::SlotId;
use super::transport::{Read, Transport};
use crate::codec::api::{Port, Shape};
use crate::codec::http::request::RequestStage;
use crate::codec::http::response::CONTINUE;
use crate::codec::http::{Date, Limits, Parsed, Parser, Reject, Response, ResponseMode};
use crate::core::machine::Ticket;
use crate::core::timer::TimerHandle;
use crate::shell::disk::Export;
use std::io::{ErrorKind, IoSlice};

/// A request that waits for its answer, or for the rest of it.
pub struct Flight {
    pub ticket: Ticket,
    /// What the interface remembers of the request.
    pub shape: Box<Shape>,
    /// Where what is rendered goes instead, if it is a file's content.
    pub export: Option<Export>,
    /// A watcher: it may wait for ever, and its output has a limit.
    pub watches: bool,
    /// The core has more of this answer; it is asked for when the output has left.
    pub more: bool,
}

/// Where a connection stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// To be closed when the output has left; with `linger` what the client still sends is read and
    /// dropped, because closing over unread bytes would take the answer away from it.
    Closing {
        linger: bool,
    },
    /// The output has left, the client has been told; waiting for it to close.
    Lingering,
    /// To be dropped in this turn.
    Dead,
}

/// One connection.
pub struct Conn {
    pub id: SlotId,
    pub port: Port,
    transport: Transport,
    input: Vec<u8>,
    parser: Parser,
    out: Out,
    pub flight: Option<Flight>,
    life: Life,
    /// The socket has, or may have, bytes to read.
    readable: bool,
    /// The poll has said that the client closed its side: there is an end to be read.
    hung_up: bool,
    /// That end has been read.
    ended: bool,
    /// The parser has seen all of the input and found no whole request.
    starved: bool,
    /// The socket took less than was offered; a writability event ends it.
    blocked: bool,
    /// The socket did not take something of the TLS session itself.
    session_waits: bool,
    /// The poll tells of writability.
    pub asks_writable: bool,
    /// On the reactor's ready list.
    pub queued: bool,
    /// Bytes in the budget.
    pub counted: usize,
    pub stamps: Stamps,
    /// The timer that stands for the deadline, and when it fires: never later than the deadline.
    pub timer: Option<(TimerHandle, u64)>,
}

impl Conn {
    /// A connection that was just accepted.
    pub fn new(id: SlotId, port: Port, transport: Transport, now_us: u64) -> Conn {
        Conn {
            id,
            port,
            transport,
            input: Vec::new(),
            parser: Parser::new(),
            out: Out::default(),
            flight: None,
            life: Life::Open,
            readable: false,
            hung_up: false,
            ended: false,
            starved: true,
            blocked: false,
            session_waits: false,
            asks_writable: false,
            queued: false,
            counted: 0,
            stamps: Stamps::new(now_us),
            timer: None,
        }
    }

    /// The socket.
    pub fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// The poll has told of the socket.
    pub fn on_ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable();
        self.hung_up |= event.is_read_closed();
        self.blocked &= !event.is_writable();
        if event.is_error() {
            self.life = Life::Dead;
        }
    }

    /// Whether there is something to read and a reason to read it. `tight`: all buffers together
    /// are above their budget, so only a connection that holds nothing yet is read from.
    pub fn wants_input(&self, tight: bool) -> bool {
        let room = match (self.life, &self.flight) {
            (Life::Dead, _) => false,
            (Life::Closing { linger }, _) => linger,
            (Life::Lingering, _) => true,
            (Life::Open, Some(_)) => self.input.len() < deadlines::AHEAD_BYTES_MAX,
            (Life::Open, None) => self.starved && self.out.len() < deadlines::OUT_MARK_BYTES,
        };
        self.readable && !self.ended && room && !(tight && self.holds() > 0)
    }

    /// Reads what is there, to a bound; `tight` as for `wants_input`.
    pub fn fill(&mut self, tight: bool, pool: &mut Pool) {
        let mut budget = match self.flight {
            _ if tight => BUFFER_BYTES,
            Some(_) => deadlines::AHEAD_BYTES_MAX,
            None => deadlines::READ_BYTES_A_TURN,
        };
        while self.readable && !self.ended && self.life != Life::Dead && budget > 0 {
            self.make_room(pool);
            match self.transport.read(&mut self.input) {
                Ok(Read::Bytes { count, drained }) => {
                    budget = budget.saturating_sub(count);
                    self.starved = false;
                    self.readable = !drained || self.hung_up;
                }
                Ok(Read::Blocked) => self.readable = false,
                Ok(Read::End) => self.ended = true,
                // The client is to read the alert.
                Err(e) if e.kind() == ErrorKind::InvalidData && self.life == Life::Open => {
                    self.life = Life::Closing { linger: true };
                }
                Err(_) => self.life = Life::Dead,
            }
            if self.life != Life::Open {
                self.input.clear();
            }
        }
    }

    fn make_room(&mut self, pool: &mut Pool) {
        if self.input.capacity() == 0 {
            self.input = pool.take();
        } else if self.input.len() == self.input.capacity() {
            self.input.reserve(1);
        }
    }

    /// Looks for the next request, if one may start. Followed by `starve`, `consume` or `reject`.
    pub fn next(&mut self, limits: &Limits) -> Option<Parsed<'_>> {
        if !self.may_start() {
            return None;
        }
        Some(self.parser.parse(&self.input, limits))
    }

    /// Whether the next request is one that reads, by its first letter (GET, HEAD).
    pub fn may_read(&self) -> bool {
        matches!(self.input.first(), Some(b'G' | b'H')) && self.may_start()
    }

    /// Whether a request may start, if one has come.
    fn may_start(&self) -> bool {
        self.life == Life::Open
            && self.flight.is_none()
            && !self.starved
            && self.out.len() < deadlines::OUT_MARK_BYTES
    }

    /// The parser has found no whole request and wants more.
    pub fn starve(&mut self, consumed: usize, continue_100: bool) {
        self.starved = true;
        self.input.drain(..consumed);
        if continue_100 {
            self.out
                .append(Vec::new, |out| out.extend_from_slice(CONTINUE));
        }
    }

    /// The request that `next` gave has been dealt with.
    pub fn consume(&mut self, bytes: usize) {
        self.parser.reset();
        if bytes == self.input.len() {
            self.input.clear();
            self.starved = true;
        } else {
            self.input.drain(..bytes);
        }
    }

    /// Refuses what came, or what did not come in time; then closes.
    pub fn reject(&mut self, reject: Reject, date: &Date, pool: &mut Pool) {
        self.send(&Response::reject(reject), ResponseMode::CLOSE, date, pool);
        self.life = Life::Closing { linger: true };
        self.parser.reset();
        self.input.clear();
    }

    /// Queues a whole answer.
    pub fn send(&mut self, response: &Response, reply: ResponseMode, date: &Date, pool: &mut Pool) {
        let framing = self
            .out
            .append(|| pool.take(), |out| response.encode(reply, date, out));
        self.finish(framing.keep_alive);
    }

    /// Lets the interface write the answer in flight.
    pub fn render<R>(
        &mut self,
        pool: &mut Pool,
        write: impl FnOnce(&mut Shape, &mut Vec<u8>) -> R,
    ) -> R {
        let flight = self.flight.as_mut().expect("an answer is for a request");
        self.out
            .append(|| pool.take(), |out| write(&mut flight.shape, out))
    }

    /// Queues a part of the answer in flight.
    pub fn append(&mut self, pool: &mut Pool, bytes: &[u8]) {
        self.out
            .append(|| pool.take(), |out| out.extend_from_slice(bytes));
    }

    /// Queues bytes that others send too.
    pub fn push(&mut self, shared: Shared) {
        self.out.push(shared);
    }

    /// The answer in flight is complete; the next request may start.
    pub fn finish(&mut self, keep_alive: bool) {
        self.flight = None;
        self.stamps.on_answered();
        if !keep_alive && self.life == Life::Open {
            let linger = self.readable || !self.input.is_empty();
            self.life = Life::Closing { linger };
        }
    }

    /// Writes until the socket takes no more.
    pub fn flush(&mut self, pool: &mut Pool) {
        while !self.out.is_empty() && !self.blocked && self.life != Life::Dead {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = self.out.slices(&mut slices);
                self.transport.write(&slices[..count])
            };
            match written {
                Ok((count, blocked)) => {
                    self.blocked = blocked;
                    self.out.advance(count, |buffer| pool.give(buffer));
                }
                Err(_) => self.life = Life::Dead,
            }
        }
        match self.transport.flush() {
            Ok(waits) => self.session_waits = waits,
            Err(_) => self.life = Life::Dead,
        }
    }

    /// Ends the turn for this connection: what follows from what has happened to it. True when it
    /// is to be dropped.
    pub fn settle(&mut self, now_us: u64, timeouts: &Timeouts, pool: &mut Pool) -> bool {
        if let (Life::Closing { linger }, true) = (self.life, self.out.is_empty()) {
            if linger && !self.ended {
                self.transport.end_writing();
                self.life = Life::Lingering;
            } else {
                self.transport.say_goodbye();
                self.life = Life::Dead;
            }
        }
        if self.is_pointless() {
            self.life = Life::Dead;
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            pool.give(std::mem::take(&mut self.input));
        }
        // A watcher's client that sends on and on would have to be left unread, and then nobody
        // would learn that it has gone.
        let (out, ahead) = (self.out.len(), self.input.len());
        let much = out > deadlines::WATCH_BYTES_MAX || ahead >= deadlines::AHEAD_BYTES_MAX;
        if much && self.is_watcher() {
            self.life = Life::Dead;
        }
        self.stamps.update(self.waits(), now_us, timeouts);
        self.life == Life::Dead
    }

    /// Whether the client sends nothing more and has nothing to wait for either. It may want the
    /// answer to what it has sent, but a watcher would wait for ever on nobody's behalf.
    fn is_pointless(&self) -> bool {
        let answered = self.flight.is_none() && self.starved && self.out.is_empty();
        let over = answered || self.life == Life::Lingering;
        (self.ended && over) || (self.is_watcher() && (self.ended || self.hung_up))
    }

    /// Whether the request in flight waits for events.
    pub fn is_watcher(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.watches)
    }

    /// What the connection waits for, as its deadlines see it.
    fn waits(&self) -> Waits {
        match (&self.life, &self.flight) {
            (Life::Lingering, _) => Waits::Linger,
            (_, Some(flight)) if flight.watches => Waits::Watch {
                out: self.out.len(),
            },
            (_, Some(flight)) if flight.more => Waits::Page,
            _ if !self.out.is_empty() => Waits::Write,
            (_, Some(_)) => Waits::Core,
            (_, None) => Waits::Request(self.parser.stage()),
        }
    }

    /// A deadline has passed.
    pub fn on_late(&mut self, date: &Date, pool: &mut Pool) {
        match self.stamps.late_reject() {
            Some(reject) if self.life == Life::Open => self.reject(reject, date, pool),
            _ => self.life = Life::Dead,
        }
    }

    /// The socket, and what was read from it and not consumed.
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        (self.transport, self.input)
    }

    /// Close it, whatever it is doing; what waited to be written is given up at once.
    pub fn kill(&mut self) {
        self.life = Life::Dead;
        self.out = Out::default();
    }

    /// Whether it is to be dropped in this turn.
    pub fn is_dead(&self) -> bool {
        self.life == Life::Dead
    }

    /// Whether what is rendered for the request in flight is a file's content, not for the client.
    pub fn exports(&self) -> bool {
        self.flight.as_ref().is_some_and(|f| f.shape.to_file())
    }

    /// Whether the poll has to tell when the socket takes bytes again.
    pub fn is_blocked(&self) -> bool {
        (self.blocked && !self.out.is_empty()) || self.session_waits
    }

    /// Whether it has something to do in the next turn without any event.
    pub fn has_work(&self, tight: bool) -> bool {
        self.may_start() || self.wants_input(tight) || self.wants_more()
    }

    /// Whether the core is to be asked for the rest of the answer.
    pub fn wants_more(&self) -> bool {
        let more = self.flight.as_ref().is_some_and(|flight| flight.more);
        // Of a watcher's past there is only so much as it takes: its output has a limit.
        let ahead = match self.is_watcher() {
            true => 0,
            false => deadlines::PAGES_AHEAD_BYTES,
        };
        more && self.out.len() <= ahead && self.life == Life::Open
    }

    /// The core is asked for the rest of the answer.
    pub fn take_more(&mut self) -> Option<Ticket> {
        let flight = self.flight.as_mut()?;
        flight.more = false;
        self.stamps.on_answered();
        Some(flight.ticket)
    }

    /// Bytes of memory that this connection alone holds.
    pub fn holds(&self) -> usize {
        let body = match self.parser.stage() {
            RequestStage::Body { received } => received as usize,
            RequestStage::Idle | RequestStage::Head => 0,
        };
        self.input.capacity().max(body) + self.out.own()
    }

    /// What waits to be written.
    pub fn out_bytes(&self) -> usize {
        self.out.len()
    }
}
