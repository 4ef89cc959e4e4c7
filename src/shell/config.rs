//! Turns flags, environment variables and files into one checked [`Config`].
//!
//! Flags override `ETCD_*` variables, variables override files, files override defaults. Must not
//! read a clock, the environment or a file itself: the caller passes functions for that
//! ([`ProcessInputs`]). Start with [`parse`]. `flags` is the table of all settings, `sources` finds
//! the value of a setting, `checked` validates it.
mod checked;
mod flags;
mod foreign;
mod memory;
mod sources;

pub use sources::file_keys;

use crate::VERSION;
use crate::core::command::ClusterConfig;
use crate::core::machine::{Search, Settings};
use crate::core::memory::MemoryBounds;
use crate::core::public_id::PublicId;
use checked::Checked;
use memory::MemoryFigure;
use sources::Sources;
use std::path::{Path, PathBuf};

/// The inputs of the configuration: command line, environment, files and host name.
pub struct ProcessInputs<'a> {
    /// The command line without the name of the program.
    pub args: &'a [String],
    /// Returns the value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The names of all environment variables.
    pub variables: &'a [String],
    /// Returns the text of a file; `Ok(None)` if it does not exist, `Err` with the reason if it
    /// cannot be read.
    pub read: &'a dyn Fn(&str) -> Result<Option<String>, String>,
    /// The name of this host, the default of `-name`.
    pub host_name: &'a str,
    /// Returns the size of the file system of a path, which need not exist; `None` if it is unknown.
    pub disk_bytes: &'a dyn Fn(&Path) -> Option<u64>,
}

impl<'a> ProcessInputs<'a> {
    /// A command line alone, on a host that is called `host`: no variables, no files, and file systems
    /// of unknown size.
    pub fn of_args(args: &'a [String]) -> ProcessInputs<'a> {
        ProcessInputs {
            args,
            env: &|_| None,
            variables: &[],
            read: &|_| Ok(None),
            host_name: "host",
            disk_bytes: &|_| None,
        }
    }
}

/// The action that the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Run with this configuration.
    Run(Box<Config>),
    /// Print this text to stdout and exit 0 (`-h`, `-version`).
    Print(String),
}

/// An error in the configuration: a sentence that names the setting, its value and the expected
/// values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

/// The TLS files of one port, all of them PEM. Certificate and key are given together or not at
/// all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that must have signed the certificates of the other side. Only with a
    /// certificate.
    pub ca_file: Option<PathBuf>,
    /// The certificate of this machine.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate.
    pub key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether the port speaks TLS.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }

    /// The files, for a log line.
    pub fn names(&self) -> String {
        let files = [&self.cert_file, &self.key_file, &self.ca_file];
        let names = files.into_iter().flatten();
        let names = names.map(|file| file.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Which events are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Level INFO and above.
    Normal,
    /// Also level DEBUG (`-v`).
    Verbose,
    /// Also level TRACE (`-vv`).
    VeryVerbose,
    /// The same (`-vvv`).
    VeryVeryVerbose,
}

/// All settings, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of this machine: 1 to 255 bytes without slashes and control characters.
    pub name: String,
    /// The directory for log and snapshots.
    pub data_dir: PathBuf,
    /// The advertised client address, `host:port`.
    pub addr: String,
    /// The client address to listen on, `host:port`; `[::]` for all interfaces.
    pub bind_addr: String,
    /// The advertised peer address, `host:port`.
    pub peer_addr: String,
    /// The peer address to listen on, `host:port`.
    pub peer_bind_addr: String,
    /// Peer addresses of machines to join, `host:port` without a scheme. This machine joins even if
    /// the list contains only its own address.
    pub peers: Vec<String>,
    /// The URL of this cluster at a discovery service, without a slash at its end.
    pub discovery: Option<String>,
    /// Whether the machines of `peers` begin a cluster together, this one among them.
    pub bootstrap: bool,
    /// Whether to wipe the data directory first.
    pub force: bool,
    /// The cluster that is lost: its machine goes on alone. `None`: none is.
    pub force_new_cluster: Option<PublicId>,
    /// The TLS files of the client port.
    pub tls: TlsFiles,
    /// The TLS files of the peer port and of connections to peers.
    pub peer_tls: TlsFiles,
    /// The origins that browsers may call from; `*` for all.
    pub cors: Vec<String>,
    /// The longest time that a request may take to arrive, in milliseconds; not 0.
    pub read_timeout_ms: u64,
    /// The longest time that an answer may take to leave, in milliseconds; not 0.
    pub write_timeout_ms: u64,
    /// Rounds of asking the machines to join before tern exits; 0: no limit.
    pub max_retry_attempts: u32,
    /// The pause between two rounds, in milliseconds; `None`: random, 2 to 4 s.
    pub retry_interval_ms: Option<u64>,
    /// The time between two heartbeats, in milliseconds; 1 to 60,000.
    pub heartbeat_ms: u64,
    /// The election timeout in milliseconds, longer than a heartbeat; at most 600,000.
    pub election_ms: u64,
    /// Whether to write snapshots regularly. If `false`, one is written only when the log would
    /// otherwise fill the disk.
    pub snapshots: bool,
    /// Log entries between two snapshots; at least 1.
    pub snapshot_count: u64,
    /// The first cluster config, if this machine founds a cluster.
    pub cluster: ClusterConfig,
    /// Which events are logged.
    pub verbosity: Verbosity,
    /// Whether log lines are JSON objects.
    pub log_json: bool,
    /// Whether to serve `/debug/metrics`.
    pub trace: bool,
    /// Whether this machine forwards requests to the leader instead of redirecting the client: as a
    /// follower writes and linearizable reads, as a standby short requests and watches.
    pub forward: bool,
    /// Whether answers have the form of etcd 2 (`-compat`), not of etcd 0.4.
    pub compat_2: bool,
    /// How many past events are kept for watchers; at least 1.
    pub watch_history: usize,
    /// The memory that this process may use. The bounds that follow are derived from it, unless
    /// their own settings are given.
    pub memory: MemoryFigure,
    /// The bounds of the history, of the log in memory, and of their parts.
    pub memory_bounds: MemoryBounds,
    /// The bound of the key space in bytes.
    pub store_bytes_max: u64,
    /// The buffers of all clients together may hold this many bytes.
    pub client_bytes_max: usize,
    /// The longest request body in bytes; from 1,024 to 16,744,447. Its record must fit the log,
    /// whose records have at most 16 MiB.
    pub request_bytes_max: u64,
    /// The size of a log segment in bytes, within the bounds of `wal::Options`.
    pub segment_bytes: u64,
    /// Warnings for the log: deprecated names, values that were raised, keys that are ignored.
    pub warnings: Vec<String>,
}

impl Config {
    /// The advertised client URL.
    pub fn client_url(&self) -> String {
        url(&self.tls, &self.addr)
    }

    /// The advertised peer URL.
    pub fn peer_url(&self) -> String {
        url(&self.peer_tls, &self.peer_addr)
    }

    /// Whether the configuration names machines to join, rather than a cluster to found.
    pub fn names_a_cluster(&self) -> bool {
        !self.peers.is_empty() || self.discovery.is_some()
    }

    /// The settings of the core.
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
            store_bytes_max: Some(self.store_bytes_max),
            memory: self.memory_bounds,
            forward: self.forward,
        }
    }

    /// The bounds of memory, for a log line.
    pub fn memory_line(&self) -> String {
        let MemoryFigure { bytes, source } = &self.memory;
        let bounds = &self.memory_bounds;
        format!(
            "memory: at most {bytes} bytes ({source}). Of it -max-store-bytes {}, \
             -watch-history-bytes {}, -snapshot-bytes {}, -max-client-bytes {}, -max-request-bytes \
             {}; on the disk -segment-bytes {}",
            self.store_bytes_max,
            bounds.history_bytes,
            bounds.due_bytes_max,
            self.client_bytes_max,
            self.request_bytes_max,
            self.segment_bytes
        )
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

/// The URL of an address, with the scheme of its port.
fn url(tls: &TlsFiles, addr: &str) -> String {
    let scheme = if tls.is_on() { "https" } else { "http" };
    format!("{scheme}://{addr}")
}

/// Parses and checks the configuration.
///
/// # Errors
///
/// The command line, a file or a value is wrong.
pub fn parse(inputs: &ProcessInputs) -> Result<Start, UsageError> {
    let command_line = flags::read(inputs.args)?;
    let is_asked = |name: &str| match command_line.values.get(name) {
        Some(value) => flags::to_bool(value) != Some(false),
        None => false,
    };
    if is_asked("h") || is_asked("help") {
        return Ok(Start::Print(flags::help()));
    }
    if is_asked("version") {
        return Ok(Start::Print(format!("tern {VERSION}\n")));
    }
    let mut warnings = Vec::new();
    let sources = Sources::read(inputs, command_line, &mut warnings)?;
    let mut checked = Checked {
        inputs,
        sources,
        warnings,
    };
    let config = checked.config()?;
    Ok(Start::Run(Box::new(config)))
}
