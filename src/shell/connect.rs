//! Connections to others, plain or as a client of TLS.
//!
//! What is trusted is read when it is first needed: most clusters never do. Start with `connect`.
use super::transport::Transport;
use crate::codec::http::url::Url;
use crate::shell::config::Tls;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;

/// Who calls, and whom it trusts.
pub struct Caller {
    #[cfg(feature = "tls")]
    files: Tls,
    #[cfg(feature = "tls")]
    config: Option<Arc<rustls::ClientConfig>>,
}

impl Caller {
    /// Shows the certificate of `files`, if there is one, and trusts its authority, or those of the
    /// system.
    pub fn new(files: &Tls) -> Caller {
        #[cfg(not(feature = "tls"))]
        let _ = files;
        Caller {
            #[cfg(feature = "tls")]
            files: files.clone(),
            #[cfg(feature = "tls")]
            config: None,
        }
    }

    /// Begins a connection to one of the addresses of the host of `url`.
    pub fn connect(&mut self, url: &Url, address: SocketAddr) -> io::Result<Transport> {
        match url.secure {
            false => TcpStream::connect(address).map(Transport::Plain),
            true => self.connect_tls(url, address),
        }
    }

    #[cfg(feature = "tls")]
    fn connect_tls(&mut self, url: &Url, address: SocketAddr) -> io::Result<Transport> {
        let config = match &self.config {
            Some(config) => config.clone(),
            None => {
                let made = super::tls::client_config(&self.files).map_err(io::Error::other)?;
                self.config.insert(made).clone()
            }
        };
        let name = rustls::pki_types::ServerName::try_from(url.host.to_string());
        let name = name.map_err(io::Error::other)?;
        Transport::connect_tls(TcpStream::connect(address)?, config, name)
    }

    #[cfg(not(feature = "tls"))]
    fn connect_tls(&mut self, _: &Url, _: SocketAddr) -> io::Result<Transport> {
        Err(io::Error::other("this build of tern has no TLS"))
    }
}
