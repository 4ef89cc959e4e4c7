//! One link: a connection to a peer that carries raft messages.
//!
//! A link that this machine has dialled carries messages to the peer. The one that the peer has
//! dialled brings the peer's messages, and takes ours only while there is no other. Which peer has
//! which link, and when to dial again, is decided in `core::peers`. Start with `fill` and `flush`.
use super::link_queue::LinkQueue;
use super::sockets::{Output, Socket};
use super::transport::Transport;
use crate::codec::http::upgrade;
use crate::codec::peer::frame::{FrameContent, Frames};
use crate::codec::peer::hello;
use crate::core::peers::{Hello, HelloRefusal, LinkEvent, LinkId};
use crate::core::raft::Message;
use mio::event::Event;
use mio::{Registry, Token};
use std::io;

/// How many bytes are read at once.
const READ_BYTES: usize = 32 * 1024;
/// The cost of a frame in addition to its bytes, in bytes of the share of a turn: decoding and
/// handling a short message takes as long as reading this many bytes, about half a microsecond.
const FRAME_COST: usize = 1024;
/// While the pieces of a long message arrive, a sign that this process runs is sent at this interval.
/// On a slow line the message may take longer than its sender waits for an answer.
const ALIVE_US: u64 = 20_000;

/// How far a link is in its life. It only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkStage {
    /// The TCP connection is being made.
    Connecting,
    /// Our hello is queued or sent, and not yet answered.
    Asking,
    /// Messages may be exchanged.
    Open,
    /// It closes once the queued bytes have been written.
    Closing,
    /// It is dropped at the end of this turn.
    Dead,
}

/// An arrival on a link.
pub enum LinkInput {
    /// The peer has accepted our hello, and has answered with its own.
    Hello(Hello),
    /// The peer has refused our hello; `None`: with an unknown code.
    Refused(Option<HelloRefusal>),
    /// A raft message.
    Message(Message),
    /// A piece of a longer message, or a sign that the peer receives one: its process is alive.
    Contact,
    /// A ping.
    Ping,
    /// The answer to a ping.
    Pong {
        /// The peer's process stood still before it answered.
        stood_still: bool,
    },
}

/// One connection to a peer.
pub struct Link {
    /// Names it for the core.
    id: LinkId,

    stage: LinkStage,

    socket: Socket<LinkQueue>,

    /// The request that carries our hello; empty once it is queued, and on a link that the peer has
    /// dialled.
    request: Vec<u8>,

    /// The message whose pieces are arriving.
    frames: Frames,

    /// The share of a turn was spent before all frames of the input were decoded.
    has_frames: bool,

    /// How many bytes have arrived since the core was told last.
    heard_bytes: u64,

    /// When the last sign that this process runs was queued, in microseconds of the monotonic clock.
    told_alive_us: Option<u64>,

    /// How it ends, for the core. `None` before it is closing or dead.
    end: Option<LinkEvent>,
}

/// The event of a dial that has failed.
pub fn failed_dial(error: &io::Error) -> LinkEvent {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return LinkEvent::NotListening;
    }
    LinkEvent::Closed(error.to_string().into())
}

impl Link {
    /// A link whose connection to `host` is being made; `hello` follows then.
    pub fn dial(id: LinkId, transport: Transport, host: &str, hello: &Hello) -> Link {
        Link {
            id,
            stage: LinkStage::Connecting,
            socket: Socket::connecting(transport),
            request: upgrade::request(host, &hello::encode(hello)),
            frames: Frames::default(),
            has_frames: false,
            heard_bytes: 0,
            told_alive_us: None,
            end: None,
        }
    }

    /// A link that a peer has dialled and that was admitted. `parts`: the socket, and the input
    /// behind the peer's hello. `hello` is the answer.
    pub fn accept(id: LinkId, parts: (Transport, Vec<u8>), hello: &Hello) -> Link {
        let mut socket: Socket<LinkQueue> = Socket::taken_over(parts);
        let granted = upgrade::granted(&hello::encode(hello));
        socket.output_mut().push_raw(&granted);
        Link {
            id,
            stage: LinkStage::Open,
            socket,
            request: Vec::new(),
            frames: Frames::default(),
            has_frames: false,
            heard_bytes: 0,
            told_alive_us: None,
            end: None,
        }
    }

    /// Registers a dialled link with the poll.
    ///
    /// # Errors
    /// The poll's; the link is of no use then.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register_for_both(registry, token)
    }

    /// Changes the token of a link that was a client connection before. If that fails, the link is
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

    /// Its name for the core.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Whether the TCP connection is being made and the poll has reported an event.
    pub fn is_connecting(&self) -> bool {
        self.stage == LinkStage::Connecting && !self.socket.awaits_first_event()
    }

    /// Whether it is to be dropped.
    pub fn is_dead(&self) -> bool {
        self.stage == LinkStage::Dead
    }

    /// Takes how it ends, for the core; `None` before it is closing or dead.
    pub fn take_end(&mut self) -> Option<LinkEvent> {
        self.end.take()
    }

    /// How many bytes have arrived since the last call.
    pub fn take_heard_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.heard_bytes)
    }

    // -- inputs

    /// The poll has reported an event of the socket.
    pub fn on_event(&mut self, event: &Event) {
        self.socket.on_event(event);
    }

    /// The poll has reported an event while the TCP connection is being made: if it has been made,
    /// sends our hello.
    pub fn on_connected(&mut self) {
        match self.socket.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                self.stage = LinkStage::Asking;
                let request = std::mem::take(&mut self.request);
                self.socket.output_mut().push_raw(&request);
            }
            Err(e) => self.end_with(failed_dial(&e)),
        }
    }

    /// Whether bytes may have arrived, or frames wait in the input.
    pub fn wants_input(&self) -> bool {
        let is_read = matches!(
            self.stage,
            LinkStage::Asking | LinkStage::Open | LinkStage::Closing
        );
        is_read && (self.has_frames || self.socket.may_read())
    }

    /// Reads until the bytes and their frames have cost `share` (see `FRAME_COST`), and hands each
    /// event to `on_event`. One read and one frame may exceed the share; the other frames of the
    /// read wait for the next turns. Returns the cost.
    pub fn fill(
        &mut self,
        share: usize,
        now_us: u64,
        mut on_event: impl FnMut(&mut Link, LinkInput),
    ) -> usize {
        let mut cost = 0;
        if !self.socket.input().is_empty() {
            cost += self.decode(share, now_us, &mut on_event);
        }
        while self.wants_input() && cost < share {
            match self.socket.read(READ_BYTES) {
                Ok(0) if self.socket.is_ended() => self.fail("closed by the peer"),
                Ok(0) => {}
                Ok(count) => {
                    self.heard_bytes += count as u64;
                    cost += count;
                    cost += self.decode(share.saturating_sub(cost), now_us, &mut on_event);
                }
                Err(e) => self.fail(e),
            }
        }
        cost
    }

    /// Bytes of a message of which not all has arrived.
    pub fn unfinished_bytes(&self) -> usize {
        self.frames.held()
    }

    /// Decodes the frames that are complete and consumes them, until they have cost `share`: at least
    /// one. Returns their cost.
    fn decode(
        &mut self,
        share: usize,
        now_us: u64,
        on_event: &mut impl FnMut(&mut Link, LinkInput),
    ) -> usize {
        let mut input = self.socket.take_input();
        let mut at = 0;
        let mut cost = 0;
        self.has_frames = false;
        if self.stage == LinkStage::Asking {
            at = self.decode_answer(&input, on_event);
        }
        while matches!(self.stage, LinkStage::Open | LinkStage::Closing) {
            if cost > 0 && cost >= share {
                self.has_frames = true;
                break;
            }
            match self.frames.take(&input[at..]) {
                Ok(None) => break,
                Ok(Some((used, content))) => {
                    at += used;
                    cost += FRAME_COST;
                    self.on_frame(content, now_us, on_event);
                }
                Err(fault) => self.fail(fault.0),
            }
        }
        input.drain(..at);
        self.socket.put_input(input);
        cost
    }

    fn on_frame(
        &mut self,
        content: FrameContent,
        now_us: u64,
        on_event: &mut impl FnMut(&mut Link, LinkInput),
    ) {
        match content {
            FrameContent::Message(message) => on_event(self, LinkInput::Message(message)),
            FrameContent::Piece => {
                self.maybe_tell_alive(now_us);
                on_event(self, LinkInput::Contact);
            }
            FrameContent::Ping => on_event(self, LinkInput::Ping),
            FrameContent::Pong { stood_still } => on_event(self, LinkInput::Pong { stood_still }),
            FrameContent::Alive => on_event(self, LinkInput::Contact),
        }
    }

    /// Decodes the answer to our hello. Returns its length in bytes; 0 while it is incomplete.
    fn decode_answer(
        &mut self,
        input: &[u8],
        on_event: &mut impl FnMut(&mut Link, LinkInput),
    ) -> usize {
        let (used, answer) = match upgrade::parse(input) {
            Ok(None) => return 0,
            Ok(Some(found)) => found,
            Err(fault) => {
                self.fail(fault.0);
                return 0;
            }
        };
        let hello = answer.hello.as_deref().and_then(hello::parse);
        match (answer.status, answer.refused, hello) {
            (101, _, Some(hello)) => {
                self.stage = LinkStage::Open;
                on_event(self, LinkInput::Hello(hello));
            }
            (_, Some(code), _) => {
                on_event(self, LinkInput::Refused(hello::parse_refusal(&code)));
                self.fail("the hello was refused");
            }
            (status, None, _) => self.fail(format_args!(
                "status {status}: not a peer port of tern, or that of a standby"
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

    /// Queues a sign that this process runs if the last one was queued long enough ago. Returns
    /// whether it did.
    fn maybe_tell_alive(&mut self, now_us: u64) -> bool {
        let next_us = self.told_alive_us.map_or(0, |at_us| at_us + ALIVE_US);
        if now_us < next_us {
            return false;
        }
        self.told_alive_us = Some(now_us);
        self.socket.output_mut().push_alive();
        true
    }

    /// Queues a ping.
    pub fn ping(&mut self) {
        self.socket.output_mut().push_ping();
    }

    /// Queues the answer to a ping. `stood_still`: this process stood still before it.
    pub fn pong(&mut self, stood_still: bool) {
        self.socket.output_mut().push_pong(stood_still);
    }

    /// Whether the queue holds bytes that the socket may take.
    pub fn wants_flush(&self) -> bool {
        let is_written = matches!(
            self.stage,
            LinkStage::Asking | LinkStage::Open | LinkStage::Closing
        );
        is_written && self.socket.may_write()
    }

    /// Writes until the queue is empty, the socket takes no more, or `bytes_max` bytes are written.
    pub fn flush(&mut self, bytes_max: usize) {
        if matches!(self.stage, LinkStage::Connecting | LinkStage::Dead) {
            return;
        }
        if let Err(e) = self.socket.flush_some(bytes_max, drop) {
            self.fail(e);
        }
        if self.stage == LinkStage::Closing && self.socket.output().is_empty() {
            self.socket.end_writing();
            self.stage = LinkStage::Dead;
        }
    }

    /// Closes the link once the queued bytes have been written; at once if it is not open.
    pub fn close(&mut self, why: &str) {
        if self.stage == LinkStage::Open {
            self.stage = LinkStage::Closing;
            self.end = Some(LinkEvent::Closed(why.into()));
        } else {
            self.fail(why);
        }
    }

    /// Drops the link at the end of the turn.
    pub fn fail(&mut self, why: impl std::fmt::Display) {
        self.end_with(LinkEvent::Closed(why.to_string().into()));
    }

    fn end_with(&mut self, end: LinkEvent) {
        if self.stage != LinkStage::Dead {
            self.stage = LinkStage::Dead;
            self.end = Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::peer::frame;
    use crate::shell::transport::accepted_pair;
    use std::io::Write;

    /// The shortest frames are pings; a read brings thousands of them.
    #[test]
    fn a_flood_of_frames_costs_a_turn_no_more_than_its_share_and_one_read() {
        const SHARE: usize = 64 * 1024;
        let (transport, mut other) = accepted_pair();
        let parts = (transport, Vec::new());
        let mut link = Link::accept(LinkId(1), parts, &Hello::default());
        let mut pings = Vec::new();
        while pings.len() < 2 * READ_BYTES {
            frame::put_ping(&mut pings);
        }
        other.write_all(&pings).expect("the socket takes them");
        let mut turns = 0;
        let mut frames = 0;
        while frames < pings.len() / frame::HEAD_BYTES {
            assert!(link.wants_input(), "{frames} frames");
            let cost = link.fill(SHARE, 1, |_, _| frames += 1);
            assert!(cost <= SHARE + READ_BYTES + FRAME_COST, "{cost}");
            assert!(!link.is_dead());
            turns += 1;
        }
        assert_eq!(link.take_heard_bytes(), pings.len() as u64);
        let turns_min = FRAME_COST * frames / (SHARE + READ_BYTES);
        assert!(turns >= turns_min, "{turns} turns for {frames} frames");
    }
}
