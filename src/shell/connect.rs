//! Outgoing connections, plain or as the client of a TLS session.
//!
//! The certificates to trust are read when they are first needed: most clusters never need them.
//! Start with `Connector::connect`.
use super::transport::Transport;
use crate::codec::http::url::Url;
use crate::shell::config::TlsFiles;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;

/// Makes connections that all show the same certificate and trust the same authority.
pub struct Connector {
    /// The certificate to show and the authority to trust.
    #[cfg(feature = "tls")]
    files: Arc<TlsFiles>,
    /// Built from `files` when the first TLS connection begins; `None` before.
    #[cfg(feature = "tls")]
    config: Option<Arc<rustls::ClientConfig>>,
}

impl Connector {
    /// A connector that shows the certificate of `files`, if it has one. It trusts the authority of
    /// `files`; without one, the authorities that the system trusts.
    pub fn new(files: &TlsFiles) -> Connector {
        #[cfg(not(feature = "tls"))]
        let _ = files;
        Connector {
            #[cfg(feature = "tls")]
            files: Arc::new(files.clone()),
            #[cfg(feature = "tls")]
            config: None,
        }
    }

    /// Reads the files again for later connections, if any were made. On failure the former
    /// certificates stay in use.
    ///
    /// # Errors
    /// A file is unusable; the text names it.
    pub fn reload(&mut self) -> Result<(), String> {
        #[cfg(feature = "tls")]
        if self.config.is_some() {
            self.config = Some(super::tls::client_config(&self.files)?);
        }
        Ok(())
    }

    /// Begins a connection to `address`, one of the addresses of the host of `url`.
    ///
    /// # Errors
    /// The system refuses the connection at once, or a certificate file is unusable.
    pub fn connect(&mut self, url: &Url, address: SocketAddr) -> io::Result<Transport> {
        if url.secure {
            return self.connect_tls(url, address);
        }
        TcpStream::connect(address).map(Transport::Plain)
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
        Transport::connect_tls(TcpStream::connect(address)?, config, name, &self.files)
    }

    #[cfg(not(feature = "tls"))]
    fn connect_tls(&mut self, _: &Url, _: SocketAddr) -> io::Result<Transport> {
        Err(io::Error::other("this build of tern has no TLS"))
    }
}
