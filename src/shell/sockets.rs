//! One socket: transport, input buffer, output and readiness.
//!
//! Client connections, links to peers and outgoing HTTP calls share this type. The poll is
//! edge-triggered: it reports a change once. So the socket keeps the readiness until a read finds
//! the kernel's buffer empty, or a write finds it full. Must not know HTTP, frames or raft. Start
//! with `Socket::read`.
use super::transport::{ReadOutcome, Transport};
use mio::event::Event;
use mio::{Interest, Registry, Token};
use std::io::{self, IoSlice};
use std::net::IpAddr;

/// Most slices in one write.
pub const SLICES_MAX: usize = 32;

/// The output queue of a socket, implemented by its owner's kind.
pub trait Output: Default {
    /// Whether all bytes have been written.
    fn is_empty(&self) -> bool;

    /// Fills `slices` with the bytes to write next. Returns how many slices are filled; 0 only if
    /// nothing is queued.
    fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize;

    /// The first `bytes` of the slices have been written. Returns a buffer that the output no
    /// longer needs.
    fn advance(&mut self, bytes: usize) -> Option<Vec<u8>>;
}

/// A non-blocking socket with its buffers and its readiness.
pub struct Socket<O> {
    transport: Transport,

    /// Bytes that were read and not consumed, oldest first. Without capacity while the owner has
    /// lent no buffer.
    input: Vec<u8>,

    /// Bytes that are queued and not written.
    output: O,

    /// A read may return bytes. Set by an event, cleared when a read has drained the socket. The
    /// next bytes raise a new event.
    readable: bool,

    /// The poll has reported that the other side closed or reset the connection. No further event
    /// comes for the end of the input, so `readable` stays set until the end is read.
    hung_up: bool,

    /// A read has returned the end of the input. There are no reads after it.
    ended: bool,

    /// A write took fewer bytes than were offered. Cleared by the event that the socket is
    /// writable.
    blocked: bool,

    /// Bytes of the TLS session (handshake, encrypted rest of the output) wait until the socket is
    /// writable, even if `output` is empty.
    session_waits: bool,

    /// The socket is registered for events of writability.
    asks_writable: bool,
}

impl<O: Output> Socket<O> {
    /// An accepted socket. It counts as not readable before the first event.
    pub fn accepted(transport: Transport) -> Socket<O> {
        Socket {
            transport,
            input: Vec::new(),
            output: O::default(),
            readable: false,
            hung_up: false,
            ended: false,
            blocked: false,
            session_waits: false,
            asks_writable: false,
        }
    }

    /// A socket whose connection is being made. It is blocked until it is reported writable.
    pub fn connecting(transport: Transport) -> Socket<O> {
        Socket {
            blocked: true,
            ..Socket::accepted(transport)
        }
    }

    /// A connected socket from another owner, with the bytes that were read and not consumed. More
    /// may have arrived, so it counts as readable.
    pub fn taken_over((transport, input): (Transport, Vec<u8>)) -> Socket<O> {
        Socket {
            input,
            readable: true,
            ..Socket::accepted(transport)
        }
    }

    /// Returns the transport and the unconsumed input, for another owner.
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        (self.transport, self.input)
    }

    /// The address of the other side; `None` if the connection has ended.
    pub fn source(&mut self) -> Option<IpAddr> {
        self.transport.source()
    }

    // -- readiness

    /// Registers an accepted socket with the poll, for reading only.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.transport.register(registry, token, Interest::READABLE)
    }

    /// Registers a socket that is being connected, for reading and writing.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn register_for_both(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.asks_writable = true;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.transport.register(registry, token, both)
    }

    /// Changes the token of a socket from another owner, and registers it for reading and writing.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn reregister_for_both(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.asks_writable = true;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.transport.reregister(registry, token, both)
    }

    /// Registers for events of writability while output is blocked, and only then. A socket that
    /// takes all output at once never costs the system call.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn update_interest(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let is_needed = self.is_blocked();
        if self.asks_writable == is_needed {
            return Ok(());
        }
        self.asks_writable = is_needed;
        let mut interest = Interest::READABLE;
        if is_needed {
            interest |= Interest::WRITABLE;
        }
        self.transport.reregister(registry, token, interest)
    }

    /// The poll has reported an event of this socket.
    pub fn on_event(&mut self, event: &Event) {
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.hung_up;
        self.blocked &= !event.is_writable();
    }

    /// Whether a read may return bytes, or the end of the input.
    pub fn may_read(&self) -> bool {
        self.readable && !self.ended
    }

    /// A write has failed, so the connection has ended. Bytes that arrived before can still be
    /// read, although no event will come for them.
    pub fn expect_end(&mut self) {
        self.hung_up = true;
        self.readable = true;
        self.blocked = true;
    }

    /// Whether output waits until the socket is writable.
    pub fn is_blocked(&self) -> bool {
        (self.blocked && !self.output.is_empty()) || self.session_waits
    }

    /// Whether the other side has closed or reset the connection. Unread input may remain.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether the end of the input has been read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the TLS handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.transport.is_handshaking()
    }

    /// Whether no event has come since the connection was begun.
    pub fn awaits_first_event(&self) -> bool {
        self.blocked && !self.readable
    }

    /// Whether a connection that was begun has been made.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        self.transport.is_connected()
    }

    // -- input

    /// Reads once, with room for at least `room` bytes. Returns the number of bytes; 0 if the
    /// socket is drained or has ended. Call it while `may_read`.
    ///
    /// # Errors
    /// See `read_some`.
    pub fn read(&mut self, room: usize) -> io::Result<usize> {
        self.read_some(room, usize::MAX)
    }

    /// Reads like `read`, at most `bytes_max` bytes; at least 1. The input buffer may have room for
    /// megabytes, and the kernel may hold as many.
    ///
    /// # Errors
    /// The connection is broken. `InvalidData`: the TLS session is broken. Its alert has been sent,
    /// and further reads bypass the session.
    pub fn read_some(&mut self, room: usize, bytes_max: usize) -> io::Result<usize> {
        self.input.reserve(room);
        match self.transport.read(&mut self.input, bytes_max)? {
            ReadOutcome::Bytes { count, drained } => {
                self.readable = !drained || self.hung_up;
                Ok(count)
            }
            ReadOutcome::Blocked => {
                self.readable = false;
                Ok(0)
            }
            ReadOutcome::End => {
                self.ended = true;
                Ok(0)
            }
        }
    }

    /// The bytes that were read and not consumed.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// The capacity of the input buffer, in bytes.
    pub fn input_capacity(&self) -> usize {
        self.input.capacity()
    }

    /// Removes the first `bytes` of the input.
    pub fn consume(&mut self, bytes: usize) {
        self.input.drain(..bytes);
    }

    /// Drops the whole input and keeps its buffer.
    pub fn clear_input(&mut self) {
        self.input.clear();
    }

    /// Takes the input with its buffer, so that the owner can change itself while it decodes.
    /// Return it with `put_input`.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// The counterpart of `take_input`. Also lends a buffer to a socket without one.
    pub fn put_input(&mut self, input: Vec<u8>) {
        self.input = input;
    }

    // -- output

    /// The output queue.
    pub fn output(&self) -> &O {
        &self.output
    }

    /// The output queue, to add to.
    pub fn output_mut(&mut self) -> &mut O {
        &mut self.output
    }

    /// Writes until the output is empty or the socket takes no more. `recycle` gets each buffer
    /// that the output no longer needs. The output waits for the end of the TLS handshake, which
    /// `read` completes: call `flush` after each read. A session without keys would only buffer the
    /// output, and takes nothing once its buffer is full.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, recycle: impl FnMut(Vec<u8>)) -> io::Result<()> {
        self.flush_some(usize::MAX, recycle)?;
        Ok(())
    }

    /// Writes like `flush`, at most `bytes_max` bytes. Returns how many bytes were written.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush_some(
        &mut self,
        bytes_max: usize,
        mut recycle: impl FnMut(Vec<u8>),
    ) -> io::Result<usize> {
        let mut total = 0;
        while self.may_write() && total < bytes_max {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.output.slices(&mut slices);
            let mut cut = [IoSlice::new(&[]); SLICES_MAX];
            let offered = cut_slices(&slices[..count], bytes_max - total, &mut cut);
            let (written, blocked) = self.transport.write(offered)?;
            self.blocked = blocked;
            total += written;
            if let Some(buffer) = self.output.advance(written) {
                recycle(buffer);
            }
        }
        self.session_waits = self.transport.flush()?;
        Ok(total)
    }

    /// Whether output can be written without any event.
    pub fn may_write(&self) -> bool {
        !self.blocked && !self.output.is_empty() && !self.is_handshaking()
    }

    /// Lets the next `flush` try a socket that took no more. The poll reports a socket as writable
    /// only once a third of its buffer is free, which takes long with a slow reader.
    pub fn retry_write(&mut self) {
        self.blocked = false;
    }

    /// Drops the output that has not been written.
    pub fn drop_output(&mut self) {
        self.output = O::default();
    }

    /// Closes the sending side, after TLS's close_notify. Reads remain possible.
    pub fn end_writing(&mut self) {
        self.transport.end_writing();
    }

    /// Sends TLS's close_notify, so that the other side can tell an end from a cut.
    pub fn send_close_notify(&mut self) {
        self.transport.send_close_notify();
    }

    /// Bounds what the kernel takes of the output, see `Transport::bound_send_buffer`.
    pub fn bound_send_buffer(&mut self, bytes: usize) {
        self.transport.bound_send_buffer(bytes);
    }

    /// Bounds what the kernel takes of the input, see `Transport::bound_receive_buffer`.
    pub fn bound_receive_buffer(&mut self, bytes: usize) {
        self.transport.bound_receive_buffer(bytes);
    }

    /// Sets the socket options of a connection that lasts, see `Transport::keep_alive`.
    pub fn keep_alive(&mut self, patience_ms: u64) {
        self.transport.keep_alive(patience_ms);
    }
}

/// The first `bytes_max` bytes of the slices. Returns `slices` if they have no more bytes than
/// that, else a part of `cut`, which is filled for it.
fn cut_slices<'a>(
    slices: &'a [IoSlice<'a>],
    bytes_max: usize,
    cut: &'a mut [IoSlice<'a>; SLICES_MAX],
) -> &'a [IoSlice<'a>] {
    let mut left = bytes_max;
    for (place, slice) in slices.iter().enumerate() {
        let bytes = slice.len().min(left);
        cut[place] = IoSlice::new(&slice[..bytes]);
        left -= bytes;
        if bytes < slice.len() {
            return &cut[..place + 1];
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::transport::accepted_pair;
    use mio::{Events, Poll};
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    /// Bytes that are written in one piece.
    #[derive(Default)]
    struct Bytes(Vec<u8>);

    impl Output for Bytes {
        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
            slices[0] = IoSlice::new(&self.0);
            usize::from(!self.0.is_empty())
        }

        fn advance(&mut self, bytes: usize) -> Option<Vec<u8>> {
            self.0.drain(..bytes);
            None
        }
    }

    /// A socket, its other side, and the poll that it is registered with.
    struct Pair {
        socket: Socket<Bytes>,
        other: std::net::TcpStream,
        poll: Poll,
    }

    const TOKEN: Token = Token(1);

    impl Pair {
        fn new() -> Pair {
            let (transport, other) = accepted_pair();
            let poll = Poll::new().expect("a poll");
            let mut socket = Socket::accepted(transport);
            socket
                .register(poll.registry(), TOKEN)
                .expect("it registers");
            Pair {
                socket,
                other,
                poll,
            }
        }

        /// Waits for the next event.
        fn wait(&mut self) {
            let mut events = Events::with_capacity(8);
            let limit = Some(Duration::from_secs(10));
            self.poll.poll(&mut events, limit).expect("it polls");
            assert!(!events.is_empty(), "an event in time");
            for event in &events {
                self.socket.on_event(event);
            }
        }
    }

    #[test]
    fn a_drained_socket_is_read_again_after_the_next_event() {
        let mut pair = Pair::new();
        assert!(!pair.socket.may_read());
        for text in [b"one", b"two"] {
            pair.other.write_all(text).expect("it is written");
            pair.wait();
            assert!(pair.socket.may_read());
            assert_eq!(pair.socket.read(100).expect("bytes"), 3);
            assert!(
                !pair.socket.may_read(),
                "the read was shorter than its room"
            );
        }
        assert_eq!(pair.socket.input(), b"onetwo");
        pair.socket.consume(3);
        assert_eq!(pair.socket.input(), b"two");
    }

    #[test]
    fn a_write_offers_no_more_than_its_bound() {
        let slices = [IoSlice::new(b"one"), IoSlice::new(b"three")];
        let offered = |bytes_max| {
            let mut cut = [IoSlice::new(&[]); SLICES_MAX];
            let offered = cut_slices(&slices, bytes_max, &mut cut);
            offered.iter().map(|slice| slice.len()).collect::<Vec<_>>()
        };
        assert_eq!(offered(100), [3, 5]);
        assert_eq!(offered(8), [3, 5]);
        assert_eq!(offered(7), [3, 4]);
        assert_eq!(offered(2), [2]);
    }

    #[test]
    fn a_read_takes_no_more_than_its_bound() {
        let mut pair = Pair::new();
        pair.other.write_all(&[7; 5_000]).expect("it is written");
        pair.wait();
        while pair.socket.input().len() < 5_000 {
            let before = pair.socket.input().len();
            assert!(pair.socket.may_read(), "bytes are left");
            let count = pair.socket.read_some(1 << 20, 1_000).expect("bytes");
            assert_eq!(pair.socket.input().len(), before + count);
            assert!((1..=1_000).contains(&count), "{count}");
        }
        assert_eq!(pair.socket.input(), [7; 5_000]);
    }

    /// One event reports both, so no further event comes for the end.
    #[test]
    fn the_end_after_the_last_bytes_is_read() {
        let mut pair = Pair::new();
        pair.other.write_all(b"last").expect("it is written");
        pair.other
            .shutdown(std::net::Shutdown::Write)
            .expect("it is connected");
        while !pair.socket.is_hung_up() {
            pair.wait();
        }
        assert_eq!(pair.socket.read(100).expect("bytes"), 4);
        assert!(pair.socket.may_read() && !pair.socket.is_ended());
        assert_eq!(pair.socket.read(100).expect("the end"), 0);
        assert!(pair.socket.is_ended() && !pair.socket.may_read());
    }

    /// A TLS session buffers 64 KiB before its handshake and then takes nothing, so a longer output
    /// must not be offered to it.
    #[cfg(feature = "tls")]
    #[test]
    fn output_waits_for_the_end_of_the_handshake() {
        let files = crate::shell::config::TlsFiles {
            ca_file: Some("tests/testdata/tls/authority.pem".into()),
            ..Default::default()
        };
        let config = crate::shell::tls::client_config(&files).expect("a configuration");
        let (plain, mut other) = accepted_pair();
        let Transport::Plain(stream) = plain else {
            panic!("it has no session");
        };
        let name = "localhost".try_into().expect("a name");
        let transport = Transport::connect_tls(stream, config, name, &files.into());
        let mut socket = Socket::<Bytes>::accepted(transport.expect("a session"));
        socket.output_mut().0 = vec![7; 200_000];
        socket.flush(drop).expect("it is connected");
        assert!(!socket.may_write() && socket.is_handshaking());
        assert_eq!(socket.output().0.len(), 200_000);
        let mut hello = [0];
        other.read_exact(&mut hello).expect("the ClientHello");
        assert_eq!(hello, [22], "a record of the handshake");
    }

    #[test]
    fn blocked_output_is_written_after_the_next_event() {
        const BYTES: usize = 16 << 20;
        let mut pair = Pair::new();
        pair.socket.output_mut().0 = vec![7; BYTES];
        pair.socket.flush(drop).expect("it is connected");
        assert!(pair.socket.is_blocked(), "more than the kernel buffers");
        let registry = pair.poll.registry();
        let result = pair.socket.update_interest(registry, TOKEN);
        result.expect("it is registered");
        let mut other = pair.other.try_clone().expect("a descriptor");
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; BYTES];
            other.read_exact(&mut bytes).expect("all bytes");
        });
        while pair.socket.is_blocked() {
            pair.wait();
            pair.socket.flush(drop).expect("it is connected");
        }
        reader.join().expect("the reader ends");
        assert!(pair.socket.output().is_empty() && !pair.socket.is_blocked());
    }
}
