//! The bytes of one connection, plain or encrypted: what `conn` reads from and writes to.
//!
//! Both kinds behave like a non-blocking socket: `WouldBlock` says wait for the poll, 0 bytes read says the peer has
//! closed. It knows nothing of HTTP. The handshake happens inside `read`; `wants_write` tells whether something still
//! has to leave although nobody has written anything.
use mio::net::TcpStream;
use std::io::{self, Read, Write};
#[cfg(feature = "tls")]
use std::sync::Arc;

/// One connection's bytes.
pub enum Transport {
    /// As they are.
    Plain(TcpStream),
    /// Through TLS, as its server.
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
}

/// A TLS session and the socket beneath it.
#[cfg(feature = "tls")]
pub struct Tls {
    socket: TcpStream,
    session: rustls::ServerConnection,
}

impl Transport {
    /// The socket, to register it with the poll or to set its options.
    pub fn socket(&mut self) -> &mut TcpStream {
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
        Ok(Transport::Tls(Box::new(Tls { socket, session })))
    }

    /// Reads what has arrived. Errors: `WouldBlock`, or the connection has failed (a TLS alert has been sent then).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.read(buffer),
        }
    }

    /// Writes as much as the socket takes. Errors: `WouldBlock`, or the connection has failed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.write(bytes),
        }
    }

    /// Sends what the session itself has to say (handshake, alerts); true while more of it waits for the socket.
    pub fn wants_write(&mut self) -> io::Result<bool> {
        match self {
            Transport::Plain(_) => Ok(false),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.send_pending(),
        }
    }

    /// Says goodbye (TLS close_notify) and ends the sending side.
    pub fn shut_down(&mut self) {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = self {
            tls.session.send_close_notify();
            // A peer that has gone cannot be told; the socket is closed either way.
            let _ = tls.send_pending();
        }
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }
}

#[cfg(feature = "tls")]
impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The peer left without close_notify: for HTTP, whose messages know their end, it has just closed.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let taken = self.session.process_new_packets();
            // The answer to a handshake message, or the alert that says what was wrong with it.
            let sent = self.send_pending();
            taken.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            sent?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.session.writer().write(bytes)?;
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
