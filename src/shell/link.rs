//! One link: a connection to a peer that carries raft messages.
//!
//! Each machine sends on the link that it has dialled, and receives on the link that the peer has
//! dialled. Without a link of its own it sends on the peer's. Must not decide when to dial or which
//! link to use: that is the part of `links`. Start with `fill` and `flush`.
use super::link_queue::LinkQueue;
use super::sockets::{Output, Socket};
use super::transport::Transport;
use crate::codec::http::upgrade;
use crate::codec::peer::frame::{FrameContent, Frames};
use crate::codec::peer::hello::{Hello, REFUSED};
use crate::core::raft::{Message, PeerId};
use mio::event::Event;
use mio::{Registry, Token};
use std::io;

/// How many bytes are read at once.
const READ_BYTES: usize = 32 * 1024;
/// Most bytes read from one link in one turn. The turn appends all entries in them to the log and
/// syncs once. The bound limits the delay of timers, and the bytes that are in memory both encoded
/// and decoded.
const READ_BYTES_A_TURN: usize = 1 << 20;
/// While the pieces of a long message arrive, its sender gets a pong at this interval, in
/// microseconds. On a slow line the message may take longer than the sender's patience.
const PONG_US: u64 = 20_000;

/// The stage of a link. It only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkStage {
    /// The TCP connection is being made.
    Connecting,
    /// Our hello is queued or sent, and not yet answered.
    Asking,
    /// Messages are exchanged.
    Open,
    /// The link closes once the queued bytes have been written.
    Closing,
    /// The link is dropped at the end of this turn.
    Dead,
}

/// An input from a link.
pub enum LinkEvent {
    /// The peer has answered our hello with its own.
    Hello(Hello),
    /// A raft message.
    Message(Message),
    /// A piece of a longer message, or a pong. The peer's process is alive.
    Contact,
}

/// One connection to a peer.
pub struct Link {
    /// The id of the peer. On a link that the peer has dialled, the id in its hello.
    peer: PeerId,

    /// This machine has dialled the link.
    is_dialled: bool,

    stage: LinkStage,

    socket: Socket<LinkQueue>,

    /// The decoder of frames, with the pieces of a message that is arriving.
    frames: Frames,

    /// The random number of the peer's process. `None` until its hello has been accepted.
    process: Option<u64>,

    /// When our hello must have been answered; `None` on a link that the peer has dialled. In
    /// microseconds of the monotonic clock, like all times here.
    hello_due_us: Option<u64>,

    /// When bytes arrived last; before the first bytes, when the link was made.
    heard_us: u64,

    /// When a ping was queued last; `None` before the first.
    pinged_us: Option<u64>,

    /// When a pong was queued last for a long message; `None` before the first.
    ponged_us: Option<u64>,

    /// Why the link is closing or dead; empty before.
    trouble: String,

    /// The peer has refused our hello. It will probably refuse the next one too.
    is_refused: bool,
}

impl Link {
    /// A link to `peer` whose connection is being made. The peer has until `hello_due_us` to
    /// answer the hello.
    pub fn dial(peer: PeerId, transport: Transport, now_us: u64, hello_due_us: u64) -> Link {
        Link {
            peer,
            is_dialled: true,
            stage: LinkStage::Connecting,
            socket: Socket::connecting(transport),
            frames: Frames::default(),
            process: None,
            hello_due_us: Some(hello_due_us),
            heard_us: now_us,
            pinged_us: None,
            ponged_us: None,
            trouble: String::new(),
            is_refused: false,
        }
    }

    /// An admitted link that a peer has dialled. `parts`: the socket, and the input after the
    /// peer's hello.
    pub fn accept(parts: (Transport, Vec<u8>), theirs: &Hello, ours: &Hello, now_us: u64) -> Link {
        let mut socket: Socket<LinkQueue> = Socket::taken_over(parts);
        let granted = upgrade::granted(&ours.to_string());
        socket.output_mut().push_raw(&granted);
        Link {
            peer: theirs.from,
            is_dialled: false,
            stage: LinkStage::Open,
            socket,
            frames: Frames::default(),
            process: Some(theirs.process),
            hello_due_us: None,
            heard_us: now_us,
            pinged_us: None,
            ponged_us: None,
            trouble: String::new(),
            is_refused: false,
        }
    }

    /// Registers a dialled link with the poll.
    ///
    /// # Errors
    /// The poll refuses. The caller must drop the link.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register_for_both(registry, token)
    }

    /// Changes the token of a link that was an HTTP connection before. If that fails, the link is
    /// dropped at the end of the turn.
    pub fn reregister(&mut self, registry: &Registry, token: Token) {
        if let Err(e) = self.socket.reregister_for_both(registry, token) {
            self.fail(e);
        }
    }

    /// Sets the socket options of a link, see `Transport::keep_alive`.
    pub fn keep_alive(&mut self, patience_ms: u64) {
        self.socket.keep_alive(patience_ms);
    }

    /// The id of the peer.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether this machine has dialled the link.
    pub fn is_dialled(&self) -> bool {
        self.is_dialled
    }

    /// Whether the TCP connection is being made, and an event has come that may be its end: then
    /// `on_connected` is to be called.
    pub fn is_connecting(&self) -> bool {
        self.stage == LinkStage::Connecting && !self.socket.awaits_first_event()
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        self.stage == LinkStage::Open
    }

    /// Whether the link is to be dropped.
    pub fn is_dead(&self) -> bool {
        self.stage == LinkStage::Dead
    }

    /// The random number of the peer's process; `None` until its hello has been accepted.
    pub fn process(&self) -> Option<u64> {
        self.process
    }

    /// Why the link is closing or dead; empty before.
    pub fn trouble(&self) -> &str {
        &self.trouble
    }

    /// Whether the peer has refused our hello.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// When our hello must have been answered; `None` if none is outstanding.
    pub fn deadline_us(&self) -> Option<u64> {
        match self.stage {
            LinkStage::Connecting | LinkStage::Asking => self.hello_due_us,
            LinkStage::Open | LinkStage::Closing | LinkStage::Dead => None,
        }
    }

    // -- inputs

    /// The poll has reported an event of the socket.
    pub fn on_event(&mut self, event: &Event) {
        self.socket.on_event(event);
    }

    /// An event has come while the TCP connection is being made. Once it is made, queues our hello,
    /// with `host` as the HTTP header `Host`.
    pub fn on_connected(&mut self, host: &str, hello: &Hello) {
        match self.socket.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                self.stage = LinkStage::Asking;
                let request = upgrade::request(host, &hello.to_string());
                self.socket.output_mut().push_raw(&request);
            }
            Err(e) => self.fail(e),
        }
    }

    /// The peer's hello has been accepted.
    pub fn on_accepted(&mut self, process: u64) {
        self.process = Some(process);
    }

    /// Fails the link if the hello was not answered in time.
    pub fn expire(&mut self, now_us: u64) {
        if self.deadline_us().is_some_and(|due_us| due_us <= now_us) {
            self.fail("no answer to the hello in time");
        }
    }

    /// Whether the socket may have bytes and the link reads them.
    pub fn wants_input(&self) -> bool {
        let is_read = matches!(
            self.stage,
            LinkStage::Asking | LinkStage::Open | LinkStage::Closing
        );
        is_read && self.socket.may_read()
    }

    /// Reads the bytes that have arrived, up to a bound, and hands each input to `on_event`.
    pub fn fill(&mut self, now_us: u64, mut on_event: impl FnMut(&mut Link, LinkEvent)) {
        let mut budget = READ_BYTES_A_TURN;
        if !self.socket.input().is_empty() {
            self.decode(&mut on_event);
        }
        while self.wants_input() && budget > 0 {
            match self.socket.read(READ_BYTES) {
                Ok(0) if self.socket.is_ended() => self.fail("closed by the peer"),
                Ok(0) => {}
                Ok(count) => {
                    self.heard_us = now_us;
                    budget = budget.saturating_sub(count);
                    self.decode(&mut on_event);
                }
                Err(e) => self.fail(e),
            }
        }
    }

    /// Decodes the complete frames in the input, and removes them from it.
    fn decode(&mut self, on_event: &mut impl FnMut(&mut Link, LinkEvent)) {
        let mut input = self.socket.take_input();
        let mut at = 0;
        if self.stage == LinkStage::Asking {
            at = self.decode_answer(&input, on_event);
        }
        while matches!(self.stage, LinkStage::Open | LinkStage::Closing) {
            match self.frames.take(&input[at..]) {
                Ok(None) => break,
                Ok(Some((used, content))) => {
                    at += used;
                    self.on_frame(content, on_event);
                }
                Err(fault) => self.fail(fault.0),
            }
        }
        input.drain(..at);
        self.socket.put_input(input);
    }

    fn on_frame(&mut self, content: FrameContent, on_event: &mut impl FnMut(&mut Link, LinkEvent)) {
        match content {
            FrameContent::Message(message) => on_event(self, LinkEvent::Message(message)),
            FrameContent::Piece => {
                self.maybe_pong();
                on_event(self, LinkEvent::Contact);
            }
            FrameContent::Ping => self.socket.output_mut().push_pong(),
            FrameContent::Pong => on_event(self, LinkEvent::Contact),
        }
    }

    /// Decodes the answer to our hello. Returns its length in bytes; 0 while it is incomplete.
    fn decode_answer(
        &mut self,
        input: &[u8],
        on_event: &mut impl FnMut(&mut Link, LinkEvent),
    ) -> usize {
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
                self.stage = LinkStage::Open;
                on_event(self, LinkEvent::Hello(hello));
            }
            (_, Some(why), _) => {
                self.is_refused = true;
                self.fail(format_args!("refused: {why}"));
            }
            (status, None, _) => self.fail(format_args!(
                "status {status} without {REFUSED}: not a peer port of tern"
            )),
        }
        used
    }

    // -- outputs

    /// Queues a message, or drops it if the link is not open or the queue is full.
    pub fn push(&mut self, message: &Message) {
        if self.stage == LinkStage::Open {
            self.socket.output_mut().push(message);
        }
    }

    /// Queues a pong if the last one was queued long enough ago. Returns whether it did.
    fn maybe_pong(&mut self) -> bool {
        let next_us = self.ponged_us.map_or(0, |at_us| at_us + PONG_US);
        if self.heard_us < next_us {
            return false;
        }
        self.ponged_us = Some(self.heard_us);
        self.socket.output_mut().push_pong();
        true
    }

    /// Queues a ping.
    pub fn ping(&mut self, now_us: u64) {
        self.pinged_us = Some(now_us);
        self.socket.output_mut().push_ping();
    }

    /// When the last ping was queued, if nothing has arrived since.
    pub fn unanswered_ping_us(&self) -> Option<u64> {
        self.pinged_us.filter(|at_us| *at_us > self.heard_us)
    }

    /// Writes until the queue is empty or the socket takes no more.
    pub fn flush(&mut self) {
        if matches!(self.stage, LinkStage::Connecting | LinkStage::Dead) {
            return;
        }
        if let Err(e) = self.socket.flush(drop) {
            self.fail(e);
        }
        if self.stage == LinkStage::Closing && self.socket.output().is_empty() {
            self.socket.end_writing();
            self.stage = LinkStage::Dead;
        }
    }

    /// Closes the link once the queued bytes have been written.
    pub fn close(&mut self, why: &str) {
        if self.stage == LinkStage::Open {
            self.stage = LinkStage::Closing;
            self.trouble = why.into();
        }
    }

    /// Drops the link at the end of the turn.
    pub fn fail(&mut self, why: impl std::fmt::Display) {
        if self.stage != LinkStage::Dead {
            self.stage = LinkStage::Dead;
            self.trouble = why.to_string();
        }
    }
}
