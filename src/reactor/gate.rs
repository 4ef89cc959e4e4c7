//! One listening socket: accepts clients while there is room, and never spins when there is none.
//!
//! What comes through a gate with a certificate is wrapped in TLS before anybody reads from it.
use super::clients::Clients;
#[cfg(feature = "tls")]
use super::tls;
use super::transport::Transport;
use crate::api::Port;
use crate::config::Tls;
use crate::timer::Now;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;

/// Connections accepted in one turn and port, so that a flood of them does not hold up those who
/// are in.
const ACCEPTS_A_TURN: usize = 64;
/// Out of descriptors or memory: how long nobody is accepted.
const PAUSE_US: u64 = 100_000;

/// A listening socket.
pub struct Gate {
    pub port: Port,
    pub token: Token,
    listener: TcpListener,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
    /// There may be somebody to accept.
    pub ready: bool,
    /// Nobody is accepted before this time.
    paused_until_us: u64,
}

impl Gate {
    /// A gate through which nobody has come yet. The error says what is wrong with the files of
    /// `files`.
    pub fn new(
        port: Port,
        token: Token,
        listener: TcpListener,
        files: &Tls,
    ) -> Result<Gate, String> {
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
        Ok(Gate {
            port,
            token,
            listener,
            #[cfg(feature = "tls")]
            tls,
            ready: false,
            paused_until_us: 0,
        })
    }

    /// Lets the poll tell of whoever knocks.
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
            if !self.ready || !clients.has_room() || now.mono_us < self.paused_until_us {
                return;
            }
            let accepted = self.listener.accept();
            match accepted.and_then(|(stream, _)| self.wrap(stream)) {
                Ok(transport) => clients.accept(registry, transport, self.port, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready = false,
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

    /// When it can accept again without being told by the poll; `u64::MAX`: it waits for the poll,
    /// or for room.
    pub fn next_us(&self, clients: &Clients) -> u64 {
        match self.ready && clients.has_room() {
            true => self.paused_until_us,
            false => u64::MAX,
        }
    }
}
