//! The bytes of one socket, plain or through TLS.
//!
//! The TLS handshake happens inside `read`. `flush` reports whether bytes of the TLS session wait
//! for the socket, even if the owner has written nothing. Must not know what the bytes mean, and
//! must not keep readiness: that is the part of `Socket`. Start with `Transport::read`.
#[cfg(feature = "tls")]
use crate::shell::config::TlsFiles;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::buffer::spare_capacity;
use std::io::{self, IoSlice, Write};
use std::net::IpAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

/// TCP keepalive of links and proxied watches: the time without data before the first probe.
const KEEP_IDLE: Duration = Duration::from_secs(5);
/// TCP keepalive of links and proxied watches: the time between two probes.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);

/// A non-blocking byte stream.
pub enum Transport {
    /// Unencrypted.
    Plain(TcpStream),
    /// Through a TLS session, as its server or its client.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

/// The result of a read that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes have been read.
    Bytes {
        /// How many; at least one. Through TLS those that the socket gave, if they are more: a
        /// record of one byte is decrypted at the cost of a longer one.
        count: usize,
        /// The socket is empty: the next read would return `Blocked`. Later bytes raise a new
        /// event.
        drained: bool,
    },
    /// The socket is empty.
    Blocked,
    /// The other side has closed its sending side.
    End,
}

impl Transport {
    /// The TCP socket.
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => &mut tls.socket,
        }
    }

    /// Wraps an accepted socket as the server of a TLS session.
    ///
    /// # Errors
    /// The configuration is not usable.
    #[cfg(feature = "tls")]
    pub fn accept_tls(
        socket: TcpStream,
        config: &Arc<rustls::ServerConfig>,
        files: &Arc<TlsFiles>,
    ) -> io::Result<Transport> {
        let session = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let session = session.into();
        Ok(Transport::Tls(Box::new(TlsStream {
            socket,
            session,
            files: files.clone(),
            failed: false,
        })))
    }

    /// Wraps a socket that is being connected as the client of a TLS session with `name`.
    ///
    /// # Errors
    /// The configuration is not usable.
    #[cfg(feature = "tls")]
    pub fn connect_tls(
        socket: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
        files: &Arc<TlsFiles>,
    ) -> io::Result<Transport> {
        let session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Transport::Tls(Box::new(TlsStream {
            socket,
            session: session.into(),
            files: files.clone(),
            failed: false,
        })))
    }

    /// Reads once into the spare capacity of `into`, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The connection is broken. `InvalidData`: the TLS session is broken. Its alert has been sent,
    /// and later reads bypass the session, so that the socket can be drained.
    ///
    /// # Panics
    /// If `into` has no spare capacity, or `bytes_max` is 0.
    pub fn read(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<ReadOutcome> {
        let spare = into.capacity() - into.len();
        let room = spare.min(bytes_max);
        assert!(room > 0, "a read needs room");
        match self {
            Transport::Plain(socket) => loop {
                let result = if room == spare {
                    rustix::io::read(&*socket, spare_capacity(into))
                } else {
                    read_piece(into, room, |piece| rustix::io::read(&*socket, piece))
                };
                return match result {
                    Ok(0) => Ok(ReadOutcome::End),
                    Ok(count) => Ok(ReadOutcome::Bytes {
                        count,
                        drained: count < room,
                    }),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(rustix::io::Errno::AGAIN) => Ok(ReadOutcome::Blocked),
                    Err(e) => Err(e.into()),
                };
            },
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => {
                let mut taken = 0;
                match read_piece(into, room, |piece| tls.read(piece, &mut taken)) {
                    Ok(0) => Ok(ReadOutcome::End),
                    // The session may hold decrypted bytes even if the socket is empty.
                    Ok(count) => Ok(ReadOutcome::Bytes {
                        count: count.max(taken),
                        drained: false,
                    }),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(ReadOutcome::Blocked),
                    Err(e) => Err(e),
                }
            }
        }
    }

    /// Writes as many bytes of `slices` as the socket takes. Returns their number, and whether the
    /// socket takes no more now.
    ///
    /// # Errors
    /// The connection is broken.
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

    /// Sends bytes of the TLS session (handshake, encrypted rest of the output). Returns whether
    /// some of them wait for the socket.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self {
            Transport::Plain(_) => Ok(false),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.send_pending(),
        }
    }

    /// Sends TLS's close_notify and ends the sending side.
    pub fn end_writing(&mut self) {
        self.send_close_notify();
        // Fails if the other side has closed already. The connection ends either way.
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }

    /// Sends TLS's close_notify, so that the other side can tell an end from a cut.
    pub fn send_close_notify(&mut self) {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = self {
            tls.session.send_close_notify();
            // Fails if the other side has closed already. The connection ends either way.
            let _ = tls.send_pending();
        }
    }

    /// Registers the socket with the poll.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.register(self.socket(), token, interest)
    }

    /// Changes the token or the interest of a registered socket.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.reregister(self.socket(), token, interest)
    }

    /// Whether the TLS handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.session.is_handshaking(),
        }
    }

    /// Whether the connection that was begun has been made.
    ///
    /// # Errors
    /// Why it cannot be made.
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

    /// The address of the other side; `None` if the connection has ended.
    pub fn source(&mut self) -> Option<IpAddr> {
        let address = self.socket().peer_addr().ok()?;
        Some(address.ip().to_canonical())
    }

    /// Bounds the bytes that the kernel takes and has not delivered (SO_SNDBUF; Linux doubles it,
    /// for its bookkeeping). Without a bound the kernel lets the buffer grow to megabytes, whether
    /// or not the other side reads.
    pub fn bound_send_buffer(&mut self, bytes: usize) {
        let socket = self.socket();
        // If the system refuses, its own bound holds.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&*socket, bytes);
    }

    /// Bounds the bytes that the kernel takes from the other side before they are read (SO_RCVBUF;
    /// Linux doubles it, for its bookkeeping). Without a bound the kernel lets the buffer grow to
    /// megabytes.
    pub fn bound_receive_buffer(&mut self, bytes: usize) {
        let socket = self.socket();
        // If the system refuses, its own bound holds.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&*socket, bytes);
    }

    /// Sets the options of a connection that lasts: small writes leave at once, keepalive probes
    /// are sent, and the connection fails once sent bytes stay unacknowledged for `patience_ms`,
    /// in milliseconds.
    pub fn keep_alive(&mut self, patience_ms: u64) {
        use rustix::net::sockopt;
        let socket = self.socket();
        // A system may lack an option. Then a lost peer is detected later.
        let _ = sockopt::set_tcp_nodelay(&*socket, true);
        let _ = sockopt::set_socket_keepalive(&*socket, true);
        let _ = sockopt::set_tcp_keepidle(&*socket, KEEP_IDLE);
        let _ = sockopt::set_tcp_keepintvl(&*socket, KEEP_INTERVAL);
        let patience_ms = u32::try_from(patience_ms).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&*socket, patience_ms);
        // Heartbeats are few packets. The third and later repetitions of a lost one are sent at the
        // same interval, not at twice the last one.
        let _ = sockopt::set_tcp_thin_linear_timeouts(&*socket, true);
    }
}

/// A TLS session and the socket beneath it.
#[cfg(feature = "tls")]
pub struct TlsStream {
    socket: TcpStream,
    session: rustls::Connection,
    /// The certificates of this machine, for error texts.
    files: Arc<TlsFiles>,
    /// The session is broken and its alert has been sent. Reads bypass the session from now on, to
    /// drain the socket: closing it with unread input would reset the connection, and the other
    /// side would lose the alert.
    failed: bool,
}

#[cfg(feature = "tls")]
impl TlsStream {
    /// Reads decrypted bytes. Adds to `taken` the bytes that the socket gave for them. The session
    /// refuses many records in sequence without data, so the loop ends.
    fn read(&mut self, buffer: &mut [u8], taken: &mut usize) -> io::Result<usize> {
        use std::io::Read as _;
        if self.failed {
            return self.socket.read(buffer);
        }
        loop {
            match self.session.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The other side closed without close_notify. HTTP messages and frames have their
                // own ends, so this counts as an ordinary end.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let count = self.session.read_tls(&mut self.socket)?;
            if count == 0 {
                return Ok(0);
            }
            *taken += count;
            let processed = self.session.process_new_packets();
            // Sends the answer to a handshake message, or the alert about the failure.
            let sent = self.send_pending();
            self.failed = processed.is_err();
            processed.map_err(|e| {
                let why = super::tls::explain(&e, &self.files);
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?;
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

/// Reads into a piece of `bytes` bytes that `into` grows by; keeps the bytes read. The piece is
/// cleared first, so it should be short.
fn read_piece<E>(
    into: &mut Vec<u8>,
    bytes: usize,
    read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    let from = into.len();
    into.resize(from + bytes, 0);
    let result = read(&mut into[from..]);
    let count = *result.as_ref().unwrap_or(&0);
    into.truncate(from + count);
    result
}

/// An accepted connection, and its other side, which blocks.
#[cfg(test)]
pub fn accepted_pair() -> (Transport, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let other = std::net::TcpStream::connect(address).expect("a connection");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("a socket option");
    (Transport::Plain(TcpStream::from_std(stream)), other)
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use crate::shell::tls::{checked_config, client_config};
    use rustls::ClientConnection;
    use std::path::Path;
    use std::time::Instant;

    /// The two sides of a session, after its handshake.
    fn session() -> (Transport, ClientConnection, std::net::TcpStream) {
        let folder = Path::new("tests/testdata/tls");
        let (cert, key) = (folder.join("machine.pem"), folder.join("machine.key"));
        let files = TlsFiles {
            ca_file: Some(folder.join("authority.pem")),
            ..Default::default()
        };
        let config = client_config(&files).expect("a configuration");
        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(config, name).expect("a session");
        let config = checked_config(&cert, &key, None).expect("a configuration");
        let (plain, mut socket) = accepted_pair();
        let Transport::Plain(stream) = plain else {
            panic!("it has no session");
        };
        let mut server = Transport::accept_tls(stream, &config, &files.into()).expect("a session");
        socket.set_nonblocking(true).expect("a socket option");
        let mut nothing = Vec::with_capacity(1);
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut socket).expect("it is connected");
            }
            server.read(&mut nothing, 1).expect("a handshake");
            // Nothing may have arrived.
            let _ = client.read_tls(&mut socket);
            client.process_new_packets().expect("a handshake");
        }
        socket.set_nonblocking(false).expect("a socket option");
        (server, client, socket)
    }

    /// A turn would decrypt a record for each byte of its share.
    #[test]
    fn records_of_one_byte_count_as_long_as_they_are() {
        const RECORDS: usize = 2_000;
        let (mut server, mut client, mut socket) = session();
        let mut wire_bytes = 0;
        for _ in 0..RECORDS {
            client.writer().write_all(b"x").expect("it has room");
            while client.wants_write() {
                wire_bytes += client.write_tls(&mut socket).expect("it is connected");
            }
        }
        let until = Instant::now() + Duration::from_secs(10);
        let mut input = Vec::with_capacity(16 * 1024);
        let mut counted = 0;
        while input.len() < RECORDS {
            assert!(Instant::now() < until, "{} bytes", input.len());
            let outcome = server.read(&mut input, 16 * 1024 - RECORDS);
            if let ReadOutcome::Bytes { count, .. } = outcome.expect("it is connected") {
                counted += count;
            }
        }
        assert!(counted > wire_bytes / 2, "{counted} of {wire_bytes}");
    }
}
