//! The bytes of one accepted socket, plain or through TLS; what to do with them is the connection's
//! affair.
//!
//! It knows nothing of HTTP and remembers no readiness. The handshake happens inside `read`;
//! `flush` tells whether something of the session itself still has to leave although nobody has
//! written anything.
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::buffer::spare_capacity;
use std::io::{self, IoSlice, Write};
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

/// A connection that lasts is asked after this time without a word whether it is still there …
const KEEP_IDLE: Duration = Duration::from_secs(5);
/// … and then so often.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);

/// One connection's bytes.
pub enum Transport {
    /// As they are.
    Plain(TcpStream),
    /// Through TLS, as its server or its client.
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes. `drained`: the socket was empty behind them, so that whatever comes later
    /// raises a new edge and there is no need to read once more just to be told so.
    Bytes { count: usize, drained: bool },
    /// Nothing there.
    Blocked,
    /// The client sends nothing more.
    End,
}

impl Transport {
    /// The socket, to register it with the poll.
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => &mut tls.socket,
        }
    }

    /// Wraps an accepted socket as the server of a TLS session.
    #[cfg(feature = "tls")]
    pub fn accept_tls(
        socket: TcpStream,
        config: &Arc<rustls::ServerConfig>,
    ) -> io::Result<Transport> {
        let session = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let session = session.into();
        Ok(Transport::Tls(Box::new(Tls {
            socket,
            session,
            failed: false,
        })))
    }

    /// Wraps a socket that is being connected as the client of a TLS session with `name`.
    #[cfg(feature = "tls")]
    pub fn connect_tls(
        socket: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
    ) -> io::Result<Transport> {
        let session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Transport::Tls(Box::new(Tls {
            socket,
            session: session.into(),
            failed: false,
        })))
    }

    /// Reads into the spare room of `into`, of which there is some. An error is final; with
    /// `InvalidData` a TLS alert has been sent, and what comes is read without a session.
    pub fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Read> {
        let room = into.capacity() - into.len();
        assert!(room > 0, "a read needs room");
        match self {
            Transport::Plain(socket) => loop {
                return match rustix::io::read(&*socket, spare_capacity(into)) {
                    Ok(0) => Ok(Read::End),
                    Ok(count) => Ok(Read::Bytes {
                        count,
                        drained: count < room,
                    }),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(rustix::io::Errno::AGAIN) => Ok(Read::Blocked),
                    Err(e) => Err(e.into()),
                };
            },
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => {
                let from = into.len();
                into.resize(into.capacity(), 0);
                let result = tls.read(&mut into[from..]);
                into.truncate(from + *result.as_ref().unwrap_or(&0));
                match result {
                    Ok(0) => Ok(Read::End),
                    // The session may hold more, whatever the socket does.
                    Ok(count) => Ok(Read::Bytes {
                        count,
                        drained: false,
                    }),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Read::Blocked),
                    Err(e) => Err(e),
                }
            }
        }
    }

    /// Writes some of it: how much, and whether the socket takes no more now. An error is final.
    pub fn write(&mut self, slices: &[IoSlice]) -> io::Result<(usize, bool)> {
        let result = loop {
            let result = match (&mut *self, slices) {
                (Transport::Plain(socket), [one]) => socket.write(one),
                (Transport::Plain(socket), many) => socket.write_vectored(many),
                #[cfg(feature = "tls")]
                (Transport::Tls(tls), many) => tls.write(many),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => break other,
            }
        };
        match (result, self) {
            (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => Ok((0, true)),
            (Err(e), _) => Err(e),
            (Ok(count), Transport::Plain(_)) => {
                let offered: usize = slices.iter().map(|s| s.len()).sum();
                Ok((count, count < offered))
            }
            #[cfg(feature = "tls")]
            (Ok(count), Transport::Tls(tls)) => Ok((count, tls.session.wants_write())),
        }
    }

    /// Sends what the session itself has to say (handshake, encrypted rest); true while some of it
    /// waits for the socket.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self {
            Transport::Plain(_) => Ok(false),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.send_pending(),
        }
    }

    /// Says goodbye (TLS close_notify) and ends the sending side.
    pub fn end_writing(&mut self) {
        self.say_goodbye();
        // The client may be gone already; then there is nobody to tell.
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }

    /// TLS close_notify, so that the client can tell an end from a cut.
    pub fn say_goodbye(&mut self) {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = self {
            tls.session.send_close_notify();
            // A client that has gone cannot be told; the socket is closed either way.
            let _ = tls.send_pending();
        }
    }

    /// Starts telling the poll's readiness under `token`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.socket(), token, Interest::READABLE)
    }

    /// Starts telling what `interest` says under `token`; for a connection that is being made.
    pub fn register_for(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.register(self.socket(), token, interest)
    }

    /// Whether the connection that was begun has been made; an error is why it cannot be.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        let socket = self.socket();
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// For connections that last: small writes leave at once, and one on which nothing is
    /// acknowledged for `patience_ms` ends with an error.
    pub fn keep_alive(&mut self, patience_ms: u64) {
        use rustix::net::sockopt;
        let socket = self.socket();
        // What the system does not offer is not missed before a cable is cut.
        let _ = sockopt::set_tcp_nodelay(&*socket, true);
        let _ = sockopt::set_socket_keepalive(&*socket, true);
        let _ = sockopt::set_tcp_keepidle(&*socket, KEEP_IDLE);
        let _ = sockopt::set_tcp_keepintvl(&*socket, KEEP_INTERVAL);
        let patience_ms = u32::try_from(patience_ms).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&*socket, patience_ms);
    }

    /// Asks for writability too, or no longer.
    pub fn ask_writable(&mut self, registry: &Registry, token: Token, on: bool) -> io::Result<()> {
        let interest = match on {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.reregister(self.socket(), token, interest)
    }
}

/// A TLS session and the socket beneath it.
#[cfg(feature = "tls")]
pub struct Tls {
    socket: TcpStream,
    session: rustls::Connection,
    /// The session is over, the alert has been sent: what still comes is of no use but to be taken
    /// off the socket.
    failed: bool,
}

#[cfg(feature = "tls")]
impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::io::Read as _;
        if self.failed {
            return self.socket.read(buffer);
        }
        loop {
            match self.session.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The client left without close_notify: for HTTP, whose messages know their end, it
                // has just closed.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let taken = self.session.process_new_packets();
            // The answer to a handshake message, or the alert that says what was wrong with it.
            let sent = self.send_pending();
            self.failed = taken.is_err();
            taken.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            sent?;
        }
    }

    fn write(&mut self, slices: &[IoSlice]) -> io::Result<usize> {
        if self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.session.writer().write_vectored(slices)?;
        self.send_pending()?;
        Ok(taken)
    }

    fn send_pending(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}
