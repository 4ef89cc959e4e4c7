//! The access of a command to its cluster: the endpoints, the HTTP client and the form of the
//! output.
//!
//! A request goes to the endpoints in order. It goes to the next one only if the one before cannot
//! have carried it out: no connection, or an error that says so. Redirects to the leader are
//! followed. While the cluster has no leader, the request is tried again until `--timeout`.
//! Start with [`Session::ask`].
use crate::endpoints::{Endpoints, PeerCertificates};
use crate::failure::{ExitReason, Failure};
use crate::http::{CtlRequest, HttpAnswer, HttpClient, SendFault};
use crate::output::OutputForm;
use crate::shared_arguments::SharedArguments;
use serde::Deserialize;
use std::time::Duration;
use tern::codec::http::url::Url;
use tern::core::error::{NOT_COMMITTED, OUTCOME_UNKNOWN};
use tern::shell::clock::{self, Clock};
use ureq::Body;
use ureq::http::Response;

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// The pause before the endpoints of a cluster without a leader are asked again, in milliseconds.
const LEADER_PAUSE_MS: u64 = 200;

/// The settings of a command, and its connections.
pub struct Session {
    endpoints: Endpoints,
    peer_certificates: PeerCertificates,
    http: HttpClient,
    output: OutputForm,
    /// How long one request may take, its repetitions included.
    timeout: Duration,
    clock: Clock,
}

/// An error in the form of etcd.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EtcdError {
    error_code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    cause: String,
}

/// An error of `/v2/members` and of pages that are no keys.
#[derive(Clone, Debug, Deserialize)]
struct PlainError {
    message: String,
}

/// Error 300 of etcd: the cluster cannot write, or the fate of a write is unknown.
const RAFT_INTERNAL: u32 = 300;
/// Error 301 of etcd: no leader.
const LEADER_ELECTION: u32 = 301;
/// Error 402 of etcd: a standby knows no leader.
const STANDBY_INTERNAL: u32 = 402;

impl Session {
    /// Reads the settings. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// A setting or a file is wrong.
    pub fn new(arguments: &SharedArguments) -> Result<Session, Failure> {
        let endpoints = Endpoints::find(arguments)?;
        let timeout = Duration::from_secs(arguments.timeout.max(1));
        Ok(Session {
            http: HttpClient::new(&endpoints, timeout)?,
            peer_certificates: PeerCertificates::find(arguments, &endpoints),
            endpoints,
            output: arguments.output,
            timeout,
            clock: Clock::new(),
        })
    }

    /// This session with other machines.
    pub fn with_urls(&self, urls: Vec<String>) -> Session {
        let endpoints = Endpoints {
            urls,
            ..self.endpoints.clone()
        };
        self.with(endpoints, self.http.clone())
    }

    /// This session with peer ports, and the certificates for them.
    ///
    /// # Errors
    ///
    /// A certificate is of no use.
    pub fn with_peers(&self, urls: Vec<String>) -> Result<Session, Failure> {
        let endpoints = self.peer_certificates.at(urls);
        let http = HttpClient::new(&endpoints, self.timeout)?;
        Ok(self.with(endpoints, http))
    }

    fn with(&self, endpoints: Endpoints, http: HttpClient) -> Session {
        Session {
            endpoints,
            peer_certificates: self.peer_certificates.clone(),
            http,
            output: self.output,
            timeout: self.timeout,
            clock: Clock::new(),
        }
    }

    /// The form of the output.
    pub fn output(&self) -> OutputForm {
        self.output
    }

    /// The client URLs, in the order in which they are tried.
    pub fn urls(&self) -> &[String] {
        &self.endpoints.urls
    }

    /// A GET of one machine, and the head of an answer that may be silent as long as a poll. Redirects
    /// are followed.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn open(&self, base: &str, request: &CtlRequest) -> Result<Response<Body>, SendFault> {
        follow_open(base, request, |base, request| self.http.open(base, request))
    }

    /// How long a poll with `open` waits, in seconds.
    pub fn poll_s(&self) -> u64 {
        self.http.poll_s()
    }

    /// A GET of one machine, and the head of a long answer that arrives steadily. Redirects are
    /// followed.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn download(&self, base: &str, request: &CtlRequest) -> Result<Response<Body>, SendFault> {
        follow_open(base, request, |base, request| {
            self.http.download(base, request)
        })
    }

    /// A request to one machine, and its answer. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn call(&self, base: &str, request: &CtlRequest) -> Result<HttpAnswer, SendFault> {
        self.http.call(base, request)
    }

    /// The clock of this process.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A request, and the answer with a status below 300.
    ///
    /// # Errors
    ///
    /// The request was refused, or no endpoint answers it.
    pub fn ask(&self, request: &CtlRequest) -> Result<HttpAnswer, Failure> {
        let answer = self.try_ask(request)?;
        match failure_of(&answer) {
            None => Ok(answer),
            Some(failure) => Err(failure),
        }
    }

    /// A request, and the answer whatever its status.
    ///
    /// # Errors
    ///
    /// No endpoint answers it, or a write was sent and not answered.
    pub fn try_ask(&self, request: &CtlRequest) -> Result<HttpAnswer, Failure> {
        let until_us = self.clock.now().mono_us + self.timeout.as_micros() as u64;
        loop {
            let (answer, faults) = self.ask_each(request)?;
            match answer {
                Some(answer) if !is_without_leader(&answer) => return Ok(answer),
                None if !faults.is_empty() && !faults.iter().any(|(_, fault)| fault.is_stale()) => {
                    return Err(unreachable_all(&faults));
                }
                answer if self.clock.now().mono_us >= until_us => {
                    return answer.ok_or_else(|| unreachable_all(&faults));
                }
                Some(_) | None => clock::pause(LEADER_PAUSE_MS),
            }
        }
    }

    /// One round through the endpoints. Returns the answer of the first that can tell, or that of a
    /// machine without a leader, and the faults of the others.
    fn ask_each(
        &self,
        request: &CtlRequest,
    ) -> Result<(Option<HttpAnswer>, Vec<FaultAt>), Failure> {
        let mut leaderless = None;
        let mut faults = Vec::new();
        for base in &self.endpoints.urls {
            match self.follow(base, request) {
                Ok(answer) if is_without_leader(&answer) => leaderless = Some(answer),
                Ok(answer) => return Ok((Some(answer), faults)),
                Err(EndpointFault::Sent(SendFault::NoAnswer(cause))) if request.is_write() => {
                    return Err(outcome_unknown(base, &cause));
                }
                Err(fault) => faults.push((base.clone(), fault)),
            }
        }
        Ok((leaderless, faults))
    }

    /// One request to one endpoint, and to where it redirects.
    fn follow(&self, base: &str, request: &CtlRequest) -> Result<HttpAnswer, EndpointFault> {
        let mut base = base.to_string();
        let mut request = request.clone();
        for redirects in 0..=REDIRECTS_MAX {
            let answer = self.http.call(&base, &request).map_err(|fault| {
                if redirects > 0 && matches!(fault, SendFault::NotSent(_)) {
                    EndpointFault::LeaderGone(format!("redirects to {base}: {}", fault.text()))
                } else {
                    EndpointFault::Sent(fault)
                }
            })?;
            let location = answer.location.as_deref();
            let Some(location) = location.filter(|_| (300..400).contains(&answer.status)) else {
                return Ok(answer);
            };
            let Some(url) = Url::parse(location) else {
                let text = format!("redirects to {location:?}, which is no URL");
                return Err(EndpointFault::Sent(SendFault::NotSent(text)));
            };
            base = origin_of(&url);
            request.target = url.path();
        }
        let text = format!("more than {REDIRECTS_MAX} redirects");
        Err(EndpointFault::LeaderGone(text))
    }
}

/// Sends a request, and again to where it is redirected.
fn follow_open(
    base: &str,
    request: &CtlRequest,
    send: impl Fn(&str, &CtlRequest) -> Result<Response<Body>, SendFault>,
) -> Result<Response<Body>, SendFault> {
    let mut base = base.to_string();
    let mut request = request.clone();
    for _ in 0..=REDIRECTS_MAX {
        let response = send(&base, &request)?;
        let location = response.headers().get("Location");
        let url = location.and_then(|text| Url::parse(text.to_str().ok()?));
        let Some(url) = url.filter(|_| response.status().is_redirection()) else {
            return Ok(response);
        };
        request.target = url.path();
        base = origin_of(&url);
    }
    let text = format!("more than {REDIRECTS_MAX} redirects");
    Err(SendFault::NotSent(text))
}

/// Scheme, host and port of a URL.
fn origin_of(url: &Url) -> String {
    let scheme = if url.secure { "https" } else { "http" };
    format!("{scheme}://{}", url.authority)
}

/// The URL of an endpoint that gave no answer, and why.
pub type FaultAt = (String, EndpointFault);

/// Why an endpoint gave no answer.
pub enum EndpointFault {
    /// The request failed on its way.
    Sent(SendFault),
    /// The endpoint redirects to a leader that is gone. It will name the next one soon.
    LeaderGone(String),
}

impl EndpointFault {
    fn text(&self) -> &str {
        match self {
            EndpointFault::Sent(fault) => fault.text(),
            EndpointFault::LeaderGone(text) => text,
        }
    }

    fn reason(&self) -> ExitReason {
        match self {
            EndpointFault::Sent(fault) => fault.reason(),
            EndpointFault::LeaderGone(_) => ExitReason::Unavailable,
        }
    }

    /// Whether the same endpoint may answer a little later.
    fn is_stale(&self) -> bool {
        matches!(self, EndpointFault::LeaderGone(_))
    }
}

/// The failure of a request that no endpoint answers.
pub fn unreachable_all(faults: &[FaultAt]) -> Failure {
    let lines = faults
        .iter()
        .map(|(base, fault)| format!("{base}: {}", fault.text()));
    let lines: Vec<String> = lines.collect();
    let reason = faults
        .first()
        .map_or(ExitReason::Unreachable, |(_, f)| f.reason());
    let advice = match reason {
        ExitReason::TlsRefused => {
            ". --ca-file names the authority that signs the servers; a server with -ca-file wants \
             --cert-file and --key-file"
        }
        _ => ". --endpoints names the machines to try",
    };
    let text = format!("no endpoint answers: {}{advice}", lines.join("; "));
    Failure::new(reason, text)
}

fn outcome_unknown(base: &str, cause: &str) -> Failure {
    let text = format!(
        "{base}: the request was sent and not answered ({cause}): it may have been carried out or \
         not. Read before you repeat it"
    );
    Failure::new(ExitReason::OutcomeUnknown, text)
}

/// Whether the answer says that the cluster has no leader at present, or has lost one, and that
/// nothing happened.
fn is_without_leader(answer: &HttpAnswer) -> bool {
    let error = serde_json::from_slice::<EtcdError>(&answer.body);
    let says_so = |error: EtcdError| match error.error_code {
        LEADER_ELECTION => true,
        RAFT_INTERNAL => error.cause.is_empty() || error.cause == NOT_COMMITTED,
        _ => false,
    };
    answer.status >= 400 && error.is_ok_and(says_so)
}

/// The failure that an answer is; `None` if its status says success.
pub fn failure_of(answer: &HttpAnswer) -> Option<Failure> {
    if answer.status < 300 {
        return None;
    }
    let refused = if answer.status < 500 {
        ExitReason::Refused
    } else {
        ExitReason::Unavailable
    };
    if let Ok(error) = serde_json::from_slice::<EtcdError>(&answer.body) {
        return Some(etcd_failure(&error, refused));
    }
    let text = match serde_json::from_slice::<PlainError>(&answer.body) {
        Ok(error) => error.message,
        Err(_) if answer.body.is_empty() => "no reason given".to_string(),
        Err(_) => answer.text(),
    };
    let advice = match answer.status {
        404 => ". Is the endpoint the client port of a machine?",
        _ => "",
    };
    let text = format!("{text} (HTTP status {}){advice}", answer.status);
    Some(Failure::new(refused, text))
}

fn etcd_failure(error: &EtcdError, refused: ExitReason) -> Failure {
    let EtcdError {
        error_code: code,
        message,
        cause,
    } = error;
    let unavailable = ExitReason::Unavailable;
    match (*code, cause.as_str()) {
        (RAFT_INTERNAL, "") | (LEADER_ELECTION, _) => {
            let cause = if cause.is_empty() { "" } else { ": " };
            let text = format!(
                "the cluster has no leader that can serve{cause}{}; nothing was changed. ternctl \
                 cluster status shows which machines answer (error {code})",
                error.cause
            );
            Failure::new(unavailable, text)
        }
        (RAFT_INTERNAL, OUTCOME_UNKNOWN) => {
            let text = format!(
                "the leader was lost: the write may have happened or not. Read before you repeat it \
                 (error {code})"
            );
            Failure::new(ExitReason::OutcomeUnknown, text)
        }
        (RAFT_INTERNAL, cause) => {
            let text = format!("the cluster cannot do it now: {cause} (error {code})");
            Failure::new(unavailable, text)
        }
        (code, cause) => {
            let reason = if code == STANDBY_INTERNAL {
                unavailable
            } else {
                refused
            };
            let colon = if cause.is_empty() { "" } else { ": " };
            let advice = advice(code);
            let text = format!("{message}{colon}{cause} (error {code}){advice}");
            Failure::new(reason, text)
        }
    }
}

/// The next step for the user after an error of etcd.
fn advice(code: u32) -> &'static str {
    match code {
        102 => ". It is a directory: mkdir, rmdir and rm --recursive are for directories",
        105 => ". set replaces a value, mk does not",
        108 => ". rm --recursive removes it with all that is in it",
        _ => "",
    }
}
