//! Listening sockets and the number of descriptors this process may hold.
//!
//! A port is taken (`bind`) before the log is read, so that a busy one is said at once, and
//! listened on only when there is something to serve: until then a client is refused rather than
//! left waiting.
use crate::clock;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
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
