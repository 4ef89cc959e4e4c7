//! One raft connection to a peer: its hello, its frames, what waits to be written.
//!
//! Knows bytes, readiness and the state of one socket; which peer has which link, and when to dial
//! again, is decided in `links`. A link that was dialled carries messages to the peer; the one the
//! peer dialled brings its messages, and takes ours only while there is no other. Start with
//! `fill`.
mod queue;

use super::slots::SlotId;
use super::transport::{Read, Transport};
use crate::codec::http::upgrade;
use crate::codec::peer::frame::{FrameContent, Frames};
use crate::codec::peer::hello::{Hello, REFUSED};
use crate::core::raft::{Message, PeerId};
use queue::Queue;
use std::io::IoSlice;

/// What is read at once.
const READ_BYTES: usize = 32 * 1024;
/// What one link may bring at once. The rest comes when that is on its way to the disk, before any
/// timer: until then memory holds its entries twice.
const PORTION_BYTES: usize = 256 << 10;

/// While a long message comes in, its sender is told so often that it does.
const PONG_US: u64 = 20_000;

/// How far a link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The TCP connection is being made.
    Connecting,
    /// We have said hello.
    Asking,
    Open,
    /// It closes when what waits has left.
    Closing,
    Dead,
}

/// What a link has brought.
pub enum Came {
    /// The other side has answered our hello: this is its own.
    Hello(Hello),
    /// A message.
    Message(Message),
    /// A piece of a longer one, or a word that somebody is there.
    Contact,
}

/// One connection.
pub struct Link {
    pub id: SlotId,
    /// The member at the other end, as far as it has said so.
    pub peer: PeerId,
    /// We have dialled it.
    pub dialled: bool,
    pub state: State,
    transport: Transport,
    input: Vec<u8>,
    frames: Frames,
    out: Queue,
    /// The other process's number; 0 until its hello.
    pub process: u64,
    /// When something came last, and when we asked whether somebody is there.
    pub heard_us: u64,
    pub pinged_us: u64,
    ponged_us: u64,
    readable: bool,
    /// The poll has said that the other side is closed: there is an end to be read.
    hung_up: bool,
    blocked: bool,
    /// On the ready list.
    pub queued: bool,
    /// Why it is dead.
    pub trouble: String,
}

impl Link {
    /// A connection that is being made to `peer`.
    pub fn dial(id: SlotId, peer: PeerId, transport: Transport, now_us: u64) -> Link {
        Link {
            id,
            peer,
            dialled: true,
            state: State::Connecting,
            transport,
            input: Vec::new(),
            frames: Frames::default(),
            out: Queue::default(),
            process: 0,
            heard_us: now_us,
            pinged_us: 0,
            ponged_us: 0,
            readable: false,
            hung_up: false,
            blocked: true,
            queued: false,
            trouble: String::new(),
        }
    }

    /// A connection on which a peer has said hello, and what came behind that; it is welcome.
    pub fn accept(
        id: SlotId,
        transport: Transport,
        input: Vec<u8>,
        theirs: &Hello,
        ours: &Hello,
        now_us: u64,
    ) -> Link {
        let mut link = Link::dial(id, theirs.from, transport, now_us);
        link.dialled = false;
        link.state = State::Open;
        link.process = theirs.process;
        link.input = input;
        link.readable = true;
        link.blocked = false;
        link.out.push_raw(&upgrade::granted(&ours.to_string()));
        link
    }

    /// The socket.
    pub fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// The poll has told of the socket.
    pub fn on_ready(&mut self, event: &mio::event::Event) {
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.hung_up;
        self.blocked &= !event.is_writable();
    }

    /// Whether the TCP connection has been made; then the hello goes out.
    pub fn maybe_connect(&mut self, host: &str, hello: &Hello) {
        if self.state != State::Connecting || (self.blocked && !self.readable) {
            return;
        }
        match self.transport.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                self.state = State::Asking;
                self.out
                    .push_raw(&upgrade::request(host, &hello.to_string()));
            }
            Err(e) => self.fail(e),
        }
    }

    /// Whether there is something to read.
    pub fn wants_input(&self) -> bool {
        self.readable && matches!(self.state, State::Asking | State::Open | State::Closing)
    }

    /// Reads all that is there, and hands over what it means.
    pub fn fill(&mut self, now_us: u64, mut each: impl FnMut(&mut Link, Came)) {
        let mut budget = PORTION_BYTES;
        if !self.input.is_empty() {
            self.take_all(&mut each);
        }
        while self.wants_input() && budget > 0 {
            self.input.reserve(READ_BYTES);
            match self.transport.read(&mut self.input) {
                Ok(Read::Bytes { count, drained }) => {
                    self.heard_us = now_us;
                    budget = budget.saturating_sub(count);
                    self.readable = !drained || self.hung_up;
                    self.take_all(&mut each);
                }
                Ok(Read::Blocked) => self.readable = false,
                Ok(Read::End) => self.fail("closed by the other side"),
                Err(e) => self.fail(e),
            }
        }
        if self.input.is_empty() && self.state == State::Dead {
            self.input = Vec::new();
        }
    }

    fn take_all(&mut self, each: &mut impl FnMut(&mut Link, Came)) {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        if self.state == State::Asking {
            at = self.take_answer(&input, each);
        }
        while self.state == State::Open || self.state == State::Closing {
            match self.frames.take(&input[at..]) {
                Ok(None) => break,
                Ok(Some((used, taken))) => {
                    at += used;
                    match taken {
                        FrameContent::Message(message) => each(self, Came::Message(message)),
                        FrameContent::Piece => {
                            self.maybe_pong();
                            each(self, Came::Contact);
                        }
                        FrameContent::Ping => self.out.push_pong(),
                        FrameContent::Pong => each(self, Came::Contact),
                    }
                }
                Err(fault) => self.fail(fault.0),
            }
        }
        self.input = input;
        self.input.drain(..at);
    }

    /// The answer to our hello; gives how many bytes it had.
    fn take_answer(&mut self, input: &[u8], each: &mut impl FnMut(&mut Link, Came)) -> usize {
        let (used, answer) = match upgrade::parse(input) {
            Ok(None) => return 0,
            Ok(Some(found)) => found,
            Err(fault) => {
                self.fail(fault.0);
                return 0;
            }
        };
        let hello = answer.hello.as_deref().and_then(Hello::parse);
        match (answer.status, answer.refused, hello) {
            (101, _, Some(hello)) => {
                self.state = State::Open;
                each(self, Came::Hello(hello));
            }
            (_, Some(why), _) => self.fail(format_args!("refused: {why}")),
            (status, None, _) => self.fail(format_args!(
                "status {status}, and no {REFUSED}: not a tern?"
            )),
        }
        used
    }

    /// Queues a message; false when it is dropped.
    pub fn push(&mut self, message: &Message) -> bool {
        self.state == State::Open && self.out.push(message)
    }

    /// Says that somebody is here while a long message comes in, which may take longer on a slow
    /// line than its sender waits for an answer.
    fn maybe_pong(&mut self) {
        if self.heard_us >= self.ponged_us + PONG_US {
            self.ponged_us = self.heard_us;
            self.out.push_pong();
        }
    }

    /// Asks whether somebody is there.
    pub fn ping(&mut self, now_us: u64) {
        self.pinged_us = now_us;
        self.out.push_ping();
    }

    /// Writes until the socket takes no more.
    pub fn flush(&mut self) {
        while !self.blocked && !matches!(self.state, State::Connecting | State::Dead) {
            let bytes = self.out.next();
            if bytes.is_empty() {
                break;
            }
            match self.transport.write(&[IoSlice::new(bytes)]) {
                Ok((count, blocked)) => {
                    self.blocked = blocked;
                    self.out.advance(count);
                }
                Err(e) => self.fail(e),
            }
        }
        if !matches!(self.state, State::Connecting | State::Dead) {
            match self.transport.flush() {
                Ok(waits) => self.blocked |= waits,
                Err(e) => self.fail(e),
            }
        }
        if self.state == State::Closing && self.out.is_empty() {
            self.transport.end_writing();
            self.state = State::Dead;
        }
    }

    /// Closes it when what waits has left.
    pub fn close(&mut self, why: &str) {
        if self.state == State::Open {
            self.state = State::Closing;
            self.trouble = why.into();
        }
    }

    /// It is of no use any more.
    pub fn fail(&mut self, why: impl std::fmt::Display) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.trouble = why.to_string();
        }
    }
}
