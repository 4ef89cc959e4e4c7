//! The two listening ports, and the bound on client connections.
//!
//! A port is bound (`BoundPort`) before the log is read, so that a busy port is reported at once.
//! It is listened on only when the machine can answer. Until then the kernel refuses a client,
//! instead of leaving it without an answer. A `Listener` accepts connections while there is room,
//! and wraps each in TLS if its port has a certificate. Start with `BoundPort::new` and
//! `Listener::accept`.
use super::clients::Clients;
#[cfg(feature = "tls")]
use super::tls;
use super::transport::Transport;
use crate::codec::api::Port;
use crate::core::peers::Episode;
use crate::core::timer::Now;
use crate::shell::clock;
use crate::shell::config::{Config, TlsFiles};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

/// How long binding is retried while the port is in use, in milliseconds. A former process may be
/// about to exit.
const BUSY_MS_MAX: u64 = 2_000;
/// The pause between two attempts to bind, in milliseconds.
const BUSY_PAUSE_MS: u64 = 50;
/// Most connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1_024;
/// TCP keepalive of clients: the time without data before the first probe. Keepalive ends the
/// connection of a watcher whose machine has vanished.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(75);
/// TCP keepalive of clients: the time between two probes.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);
/// TCP keepalive of clients: the connection fails after this many unanswered probes.
const KEEPALIVE_PROBES: u32 = 5;
/// Most connections that one port accepts in one turn. A flood of connections does not delay the
/// connected clients.
const ACCEPTS_A_TURN: usize = 16;
/// The pause after a failure to accept, in microseconds. The usual cause is a lack of descriptors
/// or memory.
const PAUSE_US: u64 = 100_000;
/// While the peer port has no room, an idle connection is closed this often, in microseconds.
const MAKE_ROOM_EVERY_US: u64 = 1_000;

/// A port that is bound and not listened on.
pub struct BoundPort {
    socket: OwnedFd,
    /// The configured `host:port`, for error texts.
    host_port: String,
}

impl BoundPort {
    /// Binds `host_port`, in the form `host:port`. Blocks while the port is in use, at most for
    /// `BUSY_MS_MAX`.
    ///
    /// # Errors
    /// The host has no address, or the port cannot be bound; with a sentence for the user.
    pub fn new(host_port: &str) -> Result<BoundPort, String> {
        let resolved = host_port.to_socket_addrs();
        let address = resolved
            .map_err(|e| format!("cannot resolve the address {host_port} to listen on: {e}"))?
            // Like Go: a client of etcd expects `localhost` to be 127.0.0.1.
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| format!("the address {host_port} to listen on has no IP address"))?;
        let socket =
            retry_while_in_use(|| bind(address)).map_err(|e| listen_error(host_port, &e))?;
        Ok(BoundPort {
            socket,
            host_port: host_port.to_string(),
        })
    }

    /// The address of the port. For port 0 the system has chosen a port.
    ///
    /// # Errors
    /// The system call fails.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.socket)?;
        SocketAddr::try_from(address).map_err(|e| io::Error::from_raw_os_error(e.raw_os_error()))
    }

    /// Starts to listen. From now on clients can connect.
    ///
    /// # Errors
    /// The system call fails; with a sentence for the user.
    pub fn listen(self) -> Result<TcpListener, String> {
        retry_while_in_use(|| Ok(rustix::net::listen(&self.socket, BACKLOG)?))
            .map_err(|e| listen_error(&self.host_port, &e))?;
        let listener = std::net::TcpListener::from(self.socket);
        Ok(TcpListener::from_std(listener))
    }
}

fn listen_error(host_port: &str, error: &io::Error) -> String {
    let next = match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "This host has no such address: -bind-addr and -peer-bind-addr choose one that it has"
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need privileges: -addr, -peer-addr, -bind-addr and -peer-bind-addr \
             choose other ports"
        }
        _ => {
            "Is another tern or etcd running? -addr, -peer-addr, -bind-addr and -peer-bind-addr \
             choose other ports"
        }
    };
    format!("cannot listen on {host_port}: {error}. {next}")
}

/// Checks the files of both ports before the data directory is touched: a start that fails for a
/// wrong certificate leaves no new cluster behind.
///
/// # Errors
/// A file is unusable; with a sentence for the user.
pub fn check_tls(config: &Config) -> Result<(), String> {
    #[cfg(not(feature = "tls"))]
    let _ = config;
    #[cfg(feature = "tls")]
    for files in [&config.tls, &config.peer_tls] {
        if let (Some(cert), Some(key)) = (&files.cert_file, &files.key_file) {
            tls::checked_config(cert, key, files.ca_file.as_deref())?;
        }
    }
    Ok(())
}

/// Calls `attempt` until it returns something else than `AddrInUse`, at most for `BUSY_MS_MAX`.
fn retry_while_in_use<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut waited_ms = 0;
    loop {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && waited_ms < BUSY_MS_MAX => {
                clock::pause(BUSY_PAUSE_MS);
                waited_ms += BUSY_PAUSE_MS;
            }
            other => return other,
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::net::socket_with(family, SocketType::STREAM, flags, None) {
        // The kernel has no IPv6: listen on all interfaces with IPv4.
        Err(Errno::AFNOSUPPORT) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            return bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
        }
        made => made?,
    };
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Accepted sockets inherit these options, which saves system calls for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// A listening socket.
pub struct Listener {
    /// Which of the two ports this is.
    port: Port,
    token: Token,
    listener: TcpListener,
    /// Whether connections are encrypted.
    has_tls: bool,
    /// The files of `tls`.
    #[cfg(feature = "tls")]
    files: Arc<TlsFiles>,
    /// The configuration of TLS sessions; `None`: connections are plain.
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
    /// A connection may wait to be accepted. Set by an event, cleared when none waits.
    is_ready: bool,
    /// Nothing is accepted before this time, in microseconds of the monotonic clock; 0 without a
    /// failure.
    paused_until_us: u64,
    /// Limits the log lines about failures to accept.
    failed: Episode,
}

impl Listener {
    /// A listener whose connections show the certificate of `files`, if there is one.
    ///
    /// # Errors
    /// A file is unusable, or this build has no TLS; with a sentence for the user.
    pub fn new(
        port: Port,
        token: Token,
        listener: TcpListener,
        files: &TlsFiles,
        now: Now,
    ) -> Result<Listener, String> {
        #[cfg(feature = "tls")]
        let tls = server_config(files, now)?;
        #[cfg(not(feature = "tls"))]
        let _ = now;
        #[cfg(not(feature = "tls"))]
        if files.is_on() {
            return Err("this build of tern has no TLS: -cert-file needs the feature `tls`".into());
        }
        Ok(Listener {
            port,
            token,
            listener,
            has_tls: files.is_on(),
            #[cfg(feature = "tls")]
            files: Arc::new(files.clone()),
            #[cfg(feature = "tls")]
            tls,
            is_ready: false,
            paused_until_us: 0,
            failed: Episode::default(),
        })
    }

    /// Reads the certificate again for later connections and logs the files. On failure the
    /// former one stays in use.
    pub fn reload(&mut self, now: Now) {
        #[cfg(not(feature = "tls"))]
        let _ = now;
        #[cfg(feature = "tls")]
        match server_config(&self.files, now) {
            Ok(None) => log::info!("{}: no certificate is set", self.port_name()),
            Ok(tls) => {
                self.tls = tls;
                log::info!(
                    "{}: read {} again; new connections get its certificate",
                    self.port_name(),
                    self.files.names()
                );
            }
            Err(e) => log::error!(
                "{}: cannot read the certificate again: {e}. The former one stays in use",
                self.port_name()
            ),
        }
    }

    fn port_name(&self) -> &'static str {
        match self.port {
            Port::Client => "client port",
            Port::Peer => "peer port",
        }
    }

    /// The token of its registration with the poll.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The poll has reported a connection to accept.
    pub fn on_event(&mut self) {
        self.is_ready = true;
    }

    /// Registers the listener with the poll.
    ///
    /// # Errors
    /// The poll refuses.
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.listener, self.token, Interest::READABLE)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system call fails.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether other machines reach the port without TLS.
    pub fn is_exposed(&self) -> bool {
        let is_local = self.address().is_ok_and(|a| a.ip().is_loopback());
        !self.has_tls && !is_local
    }

    /// Phase 2: accepts the waiting connections, up to a bound and while there is room. The poll is
    /// edge-triggered, so `is_ready` stays set while more may wait.
    pub fn accept(&mut self, registry: &Registry, clients: &mut Clients, now: Now) {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.is_ready || now.mono_us < self.paused_until_us {
                return;
            }
            if !clients.has_room(self.port) {
                if self.port == Port::Peer {
                    clients.make_room_for_peer(now);
                    self.paused_until_us = now.mono_us + MAKE_ROOM_EVERY_US;
                }
                return;
            }
            let accepted = self.listener.accept();
            match accepted.and_then(|(stream, _)| self.wrap(stream)) {
                Ok(transport) => clients.accept(registry, transport, self.port, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                // The client has closed already. Others may wait.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => self.on_failure(&e, now),
            }
        }
    }

    /// Accepting failed: pauses, and logs the failure unless [`Episode`] suppresses the line.
    fn on_failure(&mut self, error: &io::Error, now: Now) {
        self.paused_until_us = now.mono_us + PAUSE_US;
        let Some(suppressed) = self.failed.is_due(now.mono_us) else {
            return;
        };
        let port = self.port_name();
        log::warn!(
            "{port}: cannot accept connections: {error}. Trying again every 0.1 s ({suppressed} \
             failures since the last line)"
        );
    }

    #[cfg(feature = "tls")]
    fn wrap(&self, stream: TcpStream) -> io::Result<Transport> {
        match &self.tls {
            Some(config) => Transport::accept_tls(stream, config, &self.files),
            None => Ok(Transport::Plain(stream)),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn wrap(&self, stream: TcpStream) -> io::Result<Transport> {
        Ok(Transport::Plain(stream))
    }

    /// When the listener can accept again without an event, in microseconds of the monotonic clock.
    /// `None`: it waits for an event, or for a client to close its connection.
    pub fn next_accept_us(&self, clients: &Clients) -> Option<u64> {
        let may_accept = self.port == Port::Peer || clients.has_room(self.port);
        (self.is_ready && may_accept).then_some(self.paused_until_us)
    }
}

/// The configuration of TLS sessions; `None` without a certificate.
#[cfg(feature = "tls")]
fn server_config(files: &TlsFiles, now: Now) -> Result<Option<Arc<rustls::ServerConfig>>, String> {
    match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            tls::server_config(cert, key, files.ca_file.as_deref(), now.wall_ns).map(Some)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_not_listened_on_until_asked() {
        let bound = BoundPort::new("127.0.0.1:0").expect("any port");
        let address = bound.address().expect("bound");
        let early = std::net::TcpStream::connect(address);
        assert_eq!(
            early.expect_err("refused").kind(),
            io::ErrorKind::ConnectionRefused
        );
        let listener = bound.listen().expect("listens");
        assert_eq!(listener.local_addr().expect("bound"), address);
        std::net::TcpStream::connect(address).expect("accepted by the kernel");
    }
}
