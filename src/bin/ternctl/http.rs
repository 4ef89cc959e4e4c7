//! HTTP requests to one machine, through `ureq`.
//!
//! A failure says whether the request may have been carried out: that decides whether the next
//! endpoint may be tried. Start with [`HttpClient::call`].
use crate::endpoints::Endpoints;
use crate::failure::{ExitReason, Failure, file_failed};
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tern::codec::http::response::JSON;
use ureq::http::{Method, Response};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Timeout};

/// The content type of the parameters of a write.
const FORM: &str = "application/x-www-form-urlencoded";
/// The longest time for a connection and its handshake.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long a long answer may stand still before it is taken for broken.
const STALL_MAX: Duration = Duration::from_secs(30);
/// A long poll lasts for this many times `--timeout`.
const POLL_TIMEOUTS: u32 = 6;
/// The longest answer that is held in memory.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A request without the machine that it goes to.
#[derive(Clone, Debug)]
pub struct CtlRequest {
    /// GET, PUT, POST or DELETE.
    pub method: Method,
    /// Path and query, escaped.
    pub target: String,
    /// The content type and the body.
    pub body: Option<(&'static str, String)>,
}

impl CtlRequest {
    /// A request without a body.
    pub fn new(method: Method, target: impl Into<String>) -> CtlRequest {
        CtlRequest {
            method,
            target: target.into(),
            body: None,
        }
    }

    /// A GET.
    pub fn get(target: impl Into<String>) -> CtlRequest {
        CtlRequest::new(Method::GET, target)
    }

    /// With parameters as a form.
    pub fn with_form(mut self, form: String) -> CtlRequest {
        self.body = Some((FORM, form));
        self
    }

    /// With a JSON body.
    pub fn with_json(mut self, json: String) -> CtlRequest {
        self.body = Some((JSON, json));
        self
    }

    /// Whether it may change something, so that it must not be sent twice.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// An answer that was read whole.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// `Location`, of a redirect.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_string()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum SendFault {
    /// The request was not sent; with the cause.
    NotSent(String),
    /// The TLS handshake failed; with the cause.
    Tls(String),
    /// The request was sent, at least in part; with the cause.
    NoAnswer(String),
}

impl SendFault {
    /// The cause.
    pub fn text(&self) -> &str {
        match self {
            SendFault::NotSent(text) | SendFault::Tls(text) | SendFault::NoAnswer(text) => text,
        }
    }

    /// The exit code of a command that had no other chance.
    pub fn reason(&self) -> ExitReason {
        match self {
            SendFault::Tls(_) => ExitReason::TlsRefused,
            SendFault::NotSent(_) | SendFault::NoAnswer(_) => ExitReason::Unreachable,
        }
    }
}

/// Sends requests. Connections are kept for the next one.
#[derive(Clone)]
pub struct HttpClient {
    /// For short answers.
    agent: Agent,
    /// For long polls. A machine that vanishes, or a line that breaks, sends no end: a connection that
    /// is silent for longer than a poll is broken.
    polls: Agent,
    /// How long a poll waits.
    poll: Duration,
    /// For long answers, which may not stand still.
    downloads: Agent,
}

impl HttpClient {
    /// A client with the certificates of these settings. `timeout` is for one answer.
    ///
    /// # Errors
    ///
    /// A certificate or key is of no use.
    pub fn new(endpoints: &Endpoints, timeout: Duration) -> Result<HttpClient, Failure> {
        let tls = tls_config(endpoints)?;
        let common = || {
            Agent::config_builder()
                .tls_config(tls.clone())
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(None)
                .user_agent(concat!("ternctl/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(CONNECT_MAX.min(timeout)))
        };
        let agent = common().timeout_per_call(Some(timeout)).build().new_agent();
        let poll = timeout.saturating_mul(POLL_TIMEOUTS);
        let silence_max = Some(poll.saturating_add(timeout));
        let polls = common().timeout_recv_response(silence_max);
        let downloads = common().timeout_recv_response(Some(timeout));
        Ok(HttpClient {
            agent,
            polls: polls.timeout_per_read(silence_max).build().new_agent(),
            poll,
            downloads: downloads
                .timeout_per_read(Some(STALL_MAX))
                .build()
                .new_agent(),
        })
    }

    /// One request to the machine at `base`, and its whole answer.
    ///
    /// # Errors
    ///
    /// There is no whole answer.
    pub fn call(&self, base: &str, request: &CtlRequest) -> Result<HttpAnswer, SendFault> {
        let response = send(&self.agent, base, request)?;
        read_whole(response)
    }

    /// One request whose answer is long and arrives steadily.
    ///
    /// # Errors
    ///
    /// No head of an answer came.
    pub fn download(&self, base: &str, request: &CtlRequest) -> Result<Response<Body>, SendFault> {
        send(&self.downloads, base, request)
    }

    /// One request whose answer may be silent for as long as a poll.
    ///
    /// # Errors
    ///
    /// No head of an answer came.
    pub fn open(&self, base: &str, request: &CtlRequest) -> Result<Response<Body>, SendFault> {
        send(&self.polls, base, request)
    }

    /// How long a poll waits, in seconds.
    pub fn poll_s(&self) -> u64 {
        self.poll.as_secs()
    }
}

fn send(agent: &Agent, base: &str, request: &CtlRequest) -> Result<Response<Body>, SendFault> {
    let builder = ureq::http::Request::builder()
        .method(request.method.clone())
        .uri(format!("{base}{}", request.target));
    let sent = match &request.body {
        None => {
            let request = builder.body(()).map_err(malformed)?;
            agent.run(request)
        }
        Some((content_type, body)) => {
            let builder = builder.header("Content-Type", *content_type);
            agent.run(builder.body(body.as_str()).map_err(malformed)?)
        }
    };
    sent.map_err(fault_of)
}

fn malformed(error: ureq::http::Error) -> SendFault {
    SendFault::NotSent(error.to_string())
}

/// Reads the body of an answer.
///
/// # Errors
///
/// It did not arrive whole.
pub fn read_whole(response: Response<Body>) -> Result<HttpAnswer, SendFault> {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_string)
    };
    let location = header("Location");
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    Ok(HttpAnswer {
        status,
        location,
        body: body.map_err(|e| SendFault::NoAnswer(e.to_string()))?,
    })
}

/// Classifies the error of a call. The class says whether the request may have reached the server.
fn fault_of(error: ureq::Error) -> SendFault {
    let text = match &error {
        ureq::Error::Timeout(_) => "no answer in time".to_string(),
        ureq::Error::Io(io_error) if speaks_no_tls(io_error) => {
            "the server speaks no TLS at this port: http:// instead of https://".to_string()
        }
        other => other.to_string(),
    };
    match &error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => SendFault::Tls(text),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::BadUri(_) => {
            SendFault::NotSent(text)
        }
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            SendFault::NotSent("no connection in time".to_string())
        }
        ureq::Error::Io(io_error) if tls_error(io_error).is_some() => SendFault::Tls(text),
        ureq::Error::Io(io_error) if is_before_sending(io_error) => SendFault::NotSent(text),
        _ => SendFault::NoAnswer(text),
    }
}

/// The error of the TLS session that an error comes from.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()? as &dyn Error;
    inner.downcast_ref()
}

/// Whether the bytes of the server were no record of TLS.
fn speaks_no_tls(error: &io::Error) -> bool {
    let no_record = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    tls_error(error) == Some(&no_record)
}

fn is_before_sending(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable
    )
}

fn tls_config(endpoints: &Endpoints) -> Result<TlsConfig, Failure> {
    let mut builder = TlsConfig::builder();
    if let Some(path) = &endpoints.ca_file {
        let roots = certificates(path)?;
        builder = builder.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    if let Some((cert_file, key_file)) = &endpoints.pair {
        let chain = certificates(cert_file)?;
        let text = fs::read(key_file).map_err(file_failed(key_file.display()))?;
        let key = PrivateKey::from_pem(&text).map_err(|error| {
            Failure::bad_arguments(format!(
                "--key-file {}: expected a key in PEM form that is not encrypted: {error}",
                key_file.display()
            ))
        })?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(builder.build())
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let text = fs::read(path).map_err(file_failed(path.display()))?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    });
    let found: Vec<Certificate<'static>> = items.collect();
    if found.is_empty() {
        let text = format!("{}: no certificate in PEM form", path.display());
        return Err(Failure::bad_arguments(text));
    }
    Ok(found)
}
