//! Flags, environment and files to one `Config`; pure: the caller hands in what it has read.
//!
//! Precedence: flags, then `ETCD_*` variables, then the files, then defaults. Nothing here reads a
//! clock, the environment or a file. Start with `parse`; `flags` is the table of all settings,
//! `sources` finds a setting's value, `checked` says what is wrong with it.
mod checked;
mod flags;
mod sources;

use crate::VERSION;
use crate::core::command::ClusterConfig;
use crate::core::machine::{Search, Settings};
use checked::Checked;
use sources::Sources;
use std::path::PathBuf;

/// What the process was started with.
pub struct Source<'a> {
    /// The command line without the program's name.
    pub args: &'a [String],
    /// The environment: a variable's value.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's text; `Ok(None)` when there is no such file, `Err` tells why it cannot be read.
    pub read: &'a dyn Fn(&str) -> Result<Option<String>, String>,
    /// The name of this host, the default of `-name`.
    pub host_name: &'a str,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Run with this.
    Run(Box<Config>),
    /// Print this to stdout and exit 0 (`-h`, `-version`).
    Print(String),
}

/// What is wrong with the configuration: print it to stderr, point to `tern -h`, exit 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(pub String);

/// Certificate, key and the authority that clients must be signed by; paths of PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// Whether the port speaks TLS.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Normal,
    Verbose,
    VeryVerbose,
    VeryVeryVerbose,
}

/// Everything that can be set from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Advertised `host:port` for clients.
    pub addr: String,
    /// `host:port` to listen on; `0.0.0.0` or `[::]` for all interfaces.
    pub bind_addr: String,
    /// Advertised `host:port` for peers.
    pub peer_addr: String,
    pub peer_bind_addr: String,
    /// `host:port` of machines to ask for the cluster, without a scheme; a list that names only
    /// this machine still means "join".
    pub peers: Vec<String>,
    pub discovery: Option<String>,
    /// Wipe the data directory first.
    pub force: bool,
    pub tls: Tls,
    pub peer_tls: Tls,
    /// Allowed origins; `*` allows all.
    pub cors: Vec<String>,
    pub read_timeout_ms: u64,
    pub write_timeout_ms: u64,
    /// 0: for ever.
    pub max_retry_attempts: u32,
    /// `None`: random between 2 and 4 s.
    pub retry_interval_ms: Option<u64>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    /// False: snapshots only to spare the disk when it must.
    pub snapshots: bool,
    pub snapshot_count: u64,
    pub cluster: ClusterConfig,
    pub verbosity: Verbosity,
    /// Log lines as JSON.
    pub log_json: bool,
    /// Serve `/debug/metrics`.
    pub trace: bool,
    /// A follower passes writes and linearizable reads on to the leader.
    pub forward: bool,
    /// The 2.x flavour of the interface.
    pub compat_2: bool,
    /// Events kept for watchers that ask for the past.
    pub watch_history: usize,
    /// The longest request body, in bytes.
    pub request_bytes_max: u64,
    /// The size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// What to say in the log once it runs: deprecated names, keys without meaning.
    pub warnings: Vec<String>,
}

impl Config {
    /// The client URL this machine advertises.
    pub fn client_url(&self) -> String {
        url(&self.tls, &self.addr)
    }

    /// The peer URL this machine advertises.
    pub fn peer_url(&self) -> String {
        url(&self.peer_tls, &self.peer_addr)
    }

    /// Whether the configuration names machines to join, rather than a cluster to found.
    pub fn names_a_cluster(&self) -> bool {
        !self.peers.is_empty() || self.discovery.is_some()
    }

    /// What the core needs to know.
    pub fn settings(&self) -> Settings {
        Settings {
            name: self.name.as_str().into(),
            client_url: self.client_url().into(),
            peer_url: self.peer_url().into(),
            heartbeat_ms: self.heartbeat_ms,
            election_ms: self.election_ms,
            snapshot_count: self.snapshot_count,
            snapshots: self.snapshots,
            cluster: self.cluster,
            history_events: self.watch_history,
            forward: self.forward,
        }
    }

    /// Where to look for the cluster.
    pub fn search(&self) -> Search {
        let peers = self.peers.iter();
        Search {
            known: Vec::new(),
            discovery: self.discovery.as_deref().map(Into::into),
            peers: peers.map(|p| url(&self.peer_tls, p).into()).collect(),
            attempts_max: self.max_retry_attempts,
            pause_ms: self.retry_interval_ms,
        }
    }
}

fn url(tls: &Tls, addr: &str) -> String {
    let scheme = if tls.is_on() { "https" } else { "http" };
    format!("{scheme}://{addr}")
}

/// Reads the configuration.
pub fn parse(source: &Source) -> Result<Start, Usage> {
    let given = flags::read(source.args)?;
    let asks = |name: &str| {
        given
            .values
            .get(name)
            .is_some_and(|v| flags::to_bool(v) != Some(false))
    };
    if asks("h") || asks("help") {
        return Ok(Start::Print(flags::help()));
    }
    if asks("version") {
        return Ok(Start::Print(format!("tern {VERSION}\n")));
    }
    let mut warnings = Vec::new();
    let sources = Sources::read(source, given, &mut warnings)?;
    let mut settings = Checked { sources, warnings };
    let config = settings.config(source)?;
    Ok(Start::Run(Box::new(config)))
}
