//! Listening sockets, and the number of connections that clients may hold.
//!
//! A port is bound (`Bound`) before the log is read, so that a busy port is reported at once. It is
//! listened on only when the machine can answer: until then a client is refused and not left
//! waiting. A `Listener` accepts connections while there is room, and wraps each in TLS if its port
//! has a certificate. Start with `Bound::new` and `Listener::accept`.
use super::clients::Clients;
#[cfg(feature = "tls")]
use super::tls;
use super::transport::Transport;
use crate::codec::api::Port;
use crate::core::timer::Now;
use crate::shell::clock;
use crate::shell::config::TlsFiles;
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

/// How long binding is retried while the port is in use: a former process may be about to exit.
const BUSY_MS_MAX: u64 = 2_000;
/// The pause between two attempts.
const BUSY_PAUSE_MS: u64 = 50;
/// How many connections the kernel may complete before they are accepted.
const BACKLOG: i32 = 1_024;
/// TCP keepalive of clients: the first probe follows after this time without data, …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(75);
/// … further probes at this interval, …
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);
/// … and the connection fails after so many unanswered ones. So a watcher whose machine has
/// vanished does not hold its connection for ever.
const KEEPALIVE_PROBES: u32 = 5;
/// Descriptors kept from clients, for links, calls, log, snapshots, poll and the standard streams.
const RESERVE: u64 = 64;
/// With a small limit of descriptors, the reserve is this part of it.
const RESERVE_PART: u64 = 4;
/// The bound on connections if descriptors have no limit. A ticket has 24 bits for a slot's number.
const CONNECTIONS_MAX: u64 = 1 << 20;
/// The most connections accepted in one turn and port, so that a flood of them does not delay the
/// clients that are connected.
const ACCEPTS_A_TURN: usize = 64;
/// After a failure, for lack of descriptors or memory, nothing is accepted for this time, in
/// microseconds.
const PAUSE_US: u64 = 100_000;

/// A port that is bound and not listened on.
pub struct Bound {
    socket: OwnedFd,
    /// The `host:port` that was asked for, for error texts.
    text: String,
}

impl Bound {
    /// Binds `host:port`, and retries for `BUSY_MS_MAX` while it is in use.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn new(addr: &str) -> Result<Bound, String> {
        let resolved = addr.to_socket_addrs();
        let address = resolved
            .map_err(|e| format!("cannot resolve the address {addr} to listen on: {e}"))?
            .next()
            .ok_or_else(|| format!("the address {addr} to listen on has no IP address"))?;
        let socket = retry(|| bind(address)).map_err(|e| busy(addr, &e))?;
        Ok(Bound {
            socket,
            text: addr.to_string(),
        })
    }

    /// The address that it is bound to; tells which port the system has chosen for port 0.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.socket)?;
        SocketAddr::try_from(address).map_err(|e| io::Error::from_raw_os_error(e.raw_os_error()))
    }

    /// Lets clients connect.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn listen(self) -> Result<mio::net::TcpListener, String> {
        retry(|| Ok(rustix::net::listen(&self.socket, BACKLOG)?))
            .map_err(|e| busy(&self.text, &e))?;
        let listener = std::net::TcpListener::from(self.socket);
        Ok(mio::net::TcpListener::from_std(listener))
    }
}

fn busy(addr: &str, error: &io::Error) -> String {
    format!(
        "cannot listen on {addr}: {error}. Is another tern or etcd running? -addr, -peer-addr, \
         -bind-addr and -peer-bind-addr choose other ports"
    )
}

fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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

/// Raises the soft limit of descriptors to the hard one, and returns how many connections clients
/// may hold.
pub fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = now.unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
    (files - RESERVE.min(files / RESERVE_PART)) as usize
}

/// A listening socket.
pub struct Listener {
    /// The port that its connections come in by.
    port: Port,
    token: Token,
    listener: TcpListener,
    /// What TLS sessions are configured with; `None`: connections are plain.
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
    /// A connection may wait to be accepted. Set by the poll's event, cleared when there is none.
    is_ready: bool,
    /// After a failure nothing is accepted before this time, in microseconds of the monotonic
    /// clock.
    paused_until_us: u64,
}

impl Listener {
    /// A listener whose connections show the certificate of `files`, if there is one.
    ///
    /// # Errors
    /// What is wrong with `files`.
    pub fn new(
        port: Port,
        token: Token,
        listener: TcpListener,
        files: &TlsFiles,
    ) -> Result<Listener, String> {
        #[cfg(feature = "tls")]
        let tls = match (&files.cert_file, &files.key_file) {
            (Some(cert), Some(key)) => {
                Some(tls::server_config(cert, key, files.ca_file.as_deref())?)
            }
            _ => None,
        };
        #[cfg(not(feature = "tls"))]
        if files.is_on() {
            return Err("this build of tern has no TLS: -cert-file needs the feature `tls`".into());
        }
        Ok(Listener {
            port,
            token,
            listener,
            #[cfg(feature = "tls")]
            tls,
            is_ready: false,
            paused_until_us: 0,
        })
    }

    /// The token that it is registered with.
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
    /// The poll's.
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.listener, self.token, Interest::READABLE)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Phase 2: accepts the connections that wait, up to a bound and while there is room. The poll
    /// reports them once, so `is_ready` remembers that more may wait.
    pub fn accept(&mut self, registry: &Registry, clients: &mut Clients, now: Now) {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.is_ready || !clients.has_room() || now.mono_us < self.paused_until_us {
                return;
            }
            let accepted = self.listener.accept();
            match accepted.and_then(|(stream, _)| self.wrap(stream)) {
                Ok(transport) => clients.accept(registry, transport, self.port, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                // This client has closed again already. The next one may wait behind it.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    log::warn!("cannot accept connections: {e}. Next attempt in 0.1 s");
                    self.paused_until_us = now.mono_us + PAUSE_US;
                }
            }
        }
    }

    #[cfg(feature = "tls")]
    fn wrap(&self, stream: TcpStream) -> io::Result<Transport> {
        match &self.tls {
            Some(config) => Transport::accept_tls(stream, config),
            None => Ok(Transport::Plain(stream)),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn wrap(&self, stream: TcpStream) -> io::Result<Transport> {
        Ok(Transport::Plain(stream))
    }

    /// When it can accept again without an event, in microseconds of the monotonic clock. `None`:
    /// it waits for an event, or until a client closes.
    pub fn next_accept_us(&self, clients: &Clients) -> Option<u64> {
        (self.is_ready && clients.has_room()).then_some(self.paused_until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_not_listened_on_until_asked() {
        let bound = Bound::new("127.0.0.1:0").expect("any port");
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

    #[test]
    fn clients_are_never_given_the_reserve() {
        let most = connections_max();
        assert!(most > 0 && most < 1 << 20, "{most}");
    }
}
