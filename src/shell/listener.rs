//! Listening sockets and the number of descriptors this process may hold.
//!
//! A port is taken (`Bound`) before the log is read, so that a busy one is reported at once, and
//! listened on only when there is something to serve: until then a client is refused rather than
//! left waiting. A `Listener` accepts clients while there is room, and never spins when there is
//! none. A connection that comes through a listener with a certificate is wrapped in TLS before
//! anything reads from it.
use super::clients::Clients;
#[cfg(feature = "tls")]
use super::tls;
use super::transport::Transport;
use crate::codec::api::Port;
use crate::core::timer::Now;
use crate::shell::clock;
use crate::shell::config::Tls;
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

/// How long a port that is still held is tried again: a predecessor may be dying.
const BUSY_MS_MAX: u64 = 2_000;
const BUSY_PAUSE_MS: u64 = 50;
/// Connections that the kernel may finish ahead of `accept`.
const BACKLOG: i32 = 1_024;
/// A watcher may wait for ever, but not for a client whose machine has vanished: the kernel asks
/// after so long, so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(75);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 5;
/// Descriptors that clients are never given: links to peers, calls, log, snapshots, the poll, the
/// standard streams.
const RESERVE: u64 = 64;
/// With a small limit the reserve is a quarter of it.
const RESERVE_SHARE: u64 = 4;

/// A port that is taken, but not listened on yet.
pub struct Bound {
    socket: OwnedFd,
    text: String,
}

impl Bound {
    /// Takes `host:port`; tries again for 2 s while somebody else holds it. The error is a sentence
    /// for the user.
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

    /// Where that is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.socket)?;
        SocketAddr::try_from(address).map_err(|e| io::Error::from_raw_os_error(e.raw_os_error()))
    }

    /// Lets clients connect.
    pub fn listen(self) -> Result<mio::net::TcpListener, String> {
        retry(|| Ok(rustix::net::listen(&self.socket, BACKLOG)?))
            .map_err(|e| busy(&self.text, &e))?;
        let listener = std::net::TcpListener::from(self.socket);
        Ok(mio::net::TcpListener::from_std(listener))
    }
}

fn busy(addr: &str, error: &io::Error) -> String {
    format!(
        "cannot listen on {addr}: {error}. Is another tern or etcd running? -addr, -peer-addr, -bind-addr and \
         -peer-bind-addr choose other ports"
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
        // A kernel without IPv6: all interfaces are those of IPv4.
        Err(Errno::AFNOSUPPORT) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            return bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
        }
        made => made?,
    };
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Accepted sockets inherit these, which spares system calls for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Raises the soft limit of open files to the hard one and says how many connections clients may
/// hold.
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
    // `None` is no limit; a slot's number has 24 bits in a ticket.
    let files = now.unwrap_or(1 << 20).min(1 << 20);
    (files - RESERVE.min(files / RESERVE_SHARE)) as usize
}

/// Connections accepted in one turn and port, so that a flood of them does not hold up those who
/// are in.
const ACCEPTS_A_TURN: usize = 64;
/// Out of descriptors or memory: how long nobody is accepted.
const PAUSE_US: u64 = 100_000;

/// A listening socket.
pub struct Listener {
    /// The port that its connections come in by.
    port: Port,
    token: Token,
    listener: TcpListener,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
    /// A connection may wait to be accepted. Set by the poll's event, cleared when there is none.
    is_ready: bool,
    /// After a failure nothing is accepted before this time, in microseconds of the monotonic
    /// clock.
    paused_until_us: u64,
}

impl Listener {
    /// A listener through which nobody has come yet. The error says what is wrong with the files of
    /// `files`.
    pub fn new(
        port: Port,
        token: Token,
        listener: TcpListener,
        files: &Tls,
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
    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.listener, self.token, Interest::READABLE)
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts who waits, to a bound and while there is room. The edge is told once: `ready`
    /// remembers the rest.
    pub fn accept(&mut self, registry: &Registry, clients: &mut Clients, now: Now) {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.is_ready || !clients.has_room() || now.mono_us < self.paused_until_us {
                return;
            }
            let accepted = self.listener.accept();
            match accepted.and_then(|(stream, _)| self.wrap(stream)) {
                Ok(transport) => clients.accept(registry, transport, self.port, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                // Who has gone again already is not our trouble; the next one may be behind it.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    log::warn!("cannot accept connections: {e}");
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
        let address = rustix::net::getsockname(&bound.socket).expect("bound");
        let address: SocketAddr = address.try_into().expect("an internet address");
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
