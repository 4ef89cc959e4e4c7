//! Settings as checked values. An error names the setting, its value and what was expected.
//!
//! Start with [`Checked::config`], which puts the whole configuration together.
use super::flags::{self, FlagDefault};
use super::memory::{self, MemoryFigure};
use super::sources::{self, SourceRank, Sources, Value};
use super::{Config, ProcessInputs, TlsFiles, UsageError, Verbosity};
use crate::core::command::ClusterConfig;
use crate::core::identity;
use crate::core::memory::{self as bounds, MEMORY_BYTES_MIN, MemoryBounds};
use crate::core::public_id::PublicId;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The longest time that a setting may have: 100 years, in seconds. Sums of such times do not
/// overflow.
const SECONDS_MAX: f64 = 100.0 * 365.25 * 86_400.0;
/// The least time of a setting that must not be 0: a millisecond, in seconds.
const POSITIVE_S: f64 = 0.001;
/// How much longer a record may be than the body of its request, in bytes. The record also holds
/// the query, the key and a header, and each byte that is not UTF-8 becomes three.
const RECORD_EXTRA_BYTES: u64 = 32 * 1024;
/// The longest request body that may be allowed, in bytes: its record must fit the log.
const REQUEST_BYTES_MAX: u64 = wal::format::BODY_MAX as u64 - RECORD_EXTRA_BYTES;
/// The bounds of the key space that may be set: the view of the cluster under `/_etcd` must fit.
const STORE_BYTES: RangeInclusive<u64> = 65_536..=u64::MAX;
/// The bounds of clients' buffers that may be set.
const CLIENT_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// The bounds of history and log in memory that may be set.
const SHARE_BYTES: RangeInclusive<u64> = 65_536..=1 << 40;

/// The sources of settings, read with checks.
pub struct Checked<'a> {
    /// The inputs that the process was started with.
    pub inputs: &'a ProcessInputs<'a>,
    /// Where values come from.
    pub sources: Sources<'a>,
    /// Sentences for the log, about values that were changed or are ignored.
    pub warnings: Vec<String>,
}

impl Checked<'_> {
    /// The whole configuration.
    ///
    /// # Errors
    ///
    /// A value is wrong.
    pub fn config(&mut self) -> Result<Config, UsageError> {
        let name = self.name()?;
        let data_dir = self.path("data-dir");
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));
        let addr = self.address("addr")?;
        let peer_addr = self.address("peer-addr")?;
        if addr == peer_addr {
            return Err(UsageError(format!(
                "-addr and -peer-addr are both {addr}: expected two addresses that differ, such as \
                 127.0.0.1:4001 and 127.0.0.1:7001"
            )));
        }
        let bind_addr = self.bind_address("bind-addr", &addr)?;
        let peer_bind_addr = self.bind_address("peer-bind-addr", &peer_addr)?;
        let (heartbeat_ms, election_ms) = self.raft_times()?;
        let memory = self.memory()?;
        let request_bytes_max = self.request_bytes_max(&memory)?;
        let segment_bytes = self.segment_bytes(&memory, &data_dir, request_bytes_max)?;
        let memory_bounds = self.memory_bounds(&memory, &data_dir)?;
        let client_bytes = bounds::client_bytes(memory.bytes);
        let client_bytes = self.number_or("max-client-bytes", CLIENT_BYTES, client_bytes)?;
        let store_bytes = bounds::store_bytes(memory.bytes);
        let store_bytes = self.number_or("max-store-bytes", STORE_BYTES, store_bytes)?;
        let compat_2 = self.word("compat", ["0.4", "2"])? == "2";
        self.warn_of_unspecified("addr", "bind-addr", &addr);
        self.warn_of_unspecified("peer-addr", "peer-bind-addr", &peer_addr);
        self.warn_of_ignored();
        Ok(Config {
            name,
            data_dir,
            addr,
            bind_addr,
            peer_addr,
            peer_bind_addr,
            peers: self.peers()?,
            discovery: self.discovery()?,
            bootstrap: self.bootstrap()?,
            force: self.switch("f")? || self.switch("force")?,
            force_new_cluster: self.lost_cluster()?,
            tls: self.tls("ca-file", "cert-file", "key-file")?,
            peer_tls: self.tls("peer-ca-file", "peer-cert-file", "peer-key-file")?,
            cors: self.cors()?,
            read_timeout_ms: parse_seconds(&self.value("http-read-timeout"), POSITIVE_S)?,
            write_timeout_ms: parse_seconds(&self.value("http-write-timeout"), POSITIVE_S)?,
            max_retry_attempts: self.number("max-retry-attempts", 0..=1_000_000)? as u32,
            retry_interval_ms: self.retry_interval_ms()?,
            heartbeat_ms,
            election_ms,
            snapshots: self.switch("snapshot")?,
            snapshot_count: self.number("snapshot-count", 1..=1_000_000_000)?,
            cluster: self.cluster()?,
            verbosity: self.verbosity()?,
            log_json: self.word("log-format", ["text", "json"])? == "json",
            trace: self.trace()?,
            forward: self.switch_if_given("forward")?.unwrap_or(compat_2),
            compat_2,
            watch_history: self.number("watch-history", 1..=1_000_000)? as usize,
            memory,
            memory_bounds,
            store_bytes_max: store_bytes,
            client_bytes_max: usize::try_from(client_bytes).unwrap_or(usize::MAX),
            request_bytes_max,
            segment_bytes,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// The value of a setting, unless it is empty.
    fn text(&self, name: &'static str) -> Option<Value> {
        self.sources.get(name).filter(|v| !v.text.is_empty())
    }

    /// The value of a setting with a fixed default.
    fn value(&self, name: &'static str) -> Value {
        let value = self.sources.get(name);
        value.unwrap_or_else(|| panic!("-{name} has a fixed default"))
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(|v| PathBuf::from(v.text))
    }

    fn name(&self) -> Result<String, UsageError> {
        let value = self.text("name").unwrap_or_else(|| Value {
            text: self.inputs.host_name.to_string(),
            label: "the host's name, which is the default of -name".to_string(),
            rank: SourceRank::Default,
        });
        let name = &value.text;
        if !identity::is_name(name) {
            let expected = "a name of 1 to 128 visible characters without slashes, such as node0";
            return Err(wrong(&value, expected));
        }
        Ok(value.text)
    }

    /// The cluster that `-force-new-cluster` names.
    fn lost_cluster(&self) -> Result<Option<PublicId>, UsageError> {
        let Some(value) = self.text("force-new-cluster") else {
            return Ok(None);
        };
        let expected = "the 16 hexadecimal digits that the log of a machine without a majority names, the first \
             of which is not 0";
        let lost = PublicId::parse(&value.text);
        lost.map(Some).ok_or_else(|| wrong(&value, expected))
    }

    fn number(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<u64, UsageError> {
        let value = self.value(name);
        match value.text.parse::<u64>() {
            Ok(number) if range.contains(&number) => Ok(number),
            Ok(_) | Err(_) => {
                let expected = match (range.start(), range.end()) {
                    (least, &u64::MAX) => format!("a whole number of at least {least}"),
                    (least, most) => format!("a whole number from {least} to {most}"),
                };
                Err(wrong(&value, &expected))
            }
        }
    }

    fn switch_if_given(&self, name: &'static str) -> Result<Option<bool>, UsageError> {
        let Some(value) = self.sources.get(name) else {
            return Ok(None);
        };
        // etcd 0.4 takes every other word in a variable for true.
        if value.rank == SourceRank::Variable {
            let is_false = matches!(value.text.as_str(), "0" | "false");
            return Ok(Some(!is_false));
        }
        match flags::to_bool(&value.text) {
            Some(is_on) => Ok(Some(is_on)),
            None => Err(wrong(&value, "true or false")),
        }
    }

    /// A setting of true or false with a fixed default.
    fn switch(&self, name: &'static str) -> Result<bool, UsageError> {
        let value = self.switch_if_given(name)?;
        Ok(value.unwrap_or_else(|| panic!("-{name} has a fixed default")))
    }

    /// A setting that is one of two words.
    fn word(
        &self,
        name: &'static str,
        words: [&'static str; 2],
    ) -> Result<&'static str, UsageError> {
        let value = self.value(name);
        let found = words.into_iter().find(|word| *word == value.text);
        found.ok_or_else(|| wrong(&value, &words.join(" or ")))
    }

    fn trace(&self) -> Result<bool, UsageError> {
        match self.text("trace") {
            Some(value) if value.text == "*" => Ok(true),
            Some(value) => Err(wrong(&value, "*")),
            None => Ok(false),
        }
    }

    /// `None`: a random time for each round.
    fn retry_interval_ms(&self) -> Result<Option<u64>, UsageError> {
        let value = self.sources.get("retry-interval");
        value.map(|value| parse_seconds(&value, 0.0)).transpose()
    }

    fn raft_times(&self) -> Result<(u64, u64), UsageError> {
        let heartbeat = self.number("peer-heartbeat-interval", 1..=60_000)?;
        let election = self.number("peer-election-timeout", 2..=600_000)?;
        if election <= heartbeat {
            return Err(UsageError(format!(
                "-peer-election-timeout {election} is not longer than -peer-heartbeat-interval \
                 {heartbeat}: expected several heartbeats to fit into one election timeout, such as \
                 50 and 200"
            )));
        }
        Ok((heartbeat, election))
    }

    /// The number of a setting, or `derived` if no source gives it.
    fn number_or(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
        derived: u64,
    ) -> Result<u64, UsageError> {
        if self.text(name).is_none() {
            return Ok(derived);
        }
        self.number(name, range)
    }

    /// The memory that this process may use.
    fn memory(&self) -> Result<MemoryFigure, UsageError> {
        let Some(value) = self.text("max-memory") else {
            return Ok(memory::find(&|path| (self.inputs.read)(path).ok()?));
        };
        Ok(MemoryFigure {
            bytes: self.number("max-memory", MEMORY_BYTES_MIN..=u64::MAX)?,
            source: value.label,
        })
    }

    fn memory_bounds(
        &self,
        memory: &MemoryFigure,
        data_dir: &Path,
    ) -> Result<MemoryBounds, UsageError> {
        let mut derived = MemoryBounds::of(memory.bytes);
        if let Some(disk_bytes) = (self.inputs.disk_bytes)(data_dir) {
            derived = derived.on_disk(disk_bytes);
        }
        let history = derived.history_bytes as u64;
        let history = self.number_or("watch-history-bytes", SHARE_BYTES, history)?;
        let derived = MemoryBounds {
            history_bytes: history as usize,
            ..derived
        };
        if self.text("snapshot-bytes").is_none() {
            return Ok(derived);
        }
        let log = self.number("snapshot-bytes", SHARE_BYTES)?;
        Ok(derived.with_snapshot_after(log))
    }

    /// The longest request body in bytes.
    fn request_bytes_max(&self, memory: &MemoryFigure) -> Result<u64, UsageError> {
        let derived = bounds::request_bytes(memory.bytes);
        self.number_or("max-request-bytes", 1_024..=REQUEST_BYTES_MAX, derived)
    }

    /// The size of a log segment in bytes.
    fn segment_bytes(
        &self,
        memory: &MemoryFigure,
        data_dir: &Path,
        request: u64,
    ) -> Result<u64, UsageError> {
        if self.text("segment-bytes").is_none() {
            let disk_bytes = (self.inputs.disk_bytes)(data_dir);
            return Ok(bounds::segment_bytes(memory.bytes, disk_bytes));
        }
        let bounds = wal::SEGMENT_BYTES_MIN..=wal::SEGMENT_BYTES_MAX;
        let segment = self.number("segment-bytes", bounds)?;
        let page = wal::format::PAGE as u64;
        let least = wal::RECORDS_PER_SEGMENT_MIN as u64 * (request + RECORD_EXTRA_BYTES);
        let least = least.next_multiple_of(page);
        if segment < least {
            return Err(UsageError(format!(
                "-segment-bytes {segment} is too small for -max-request-bytes {request}: expected at \
                 least {least}, so that a segment holds four of the largest records"
            )));
        }
        if !segment.is_multiple_of(page) {
            return Err(UsageError(format!(
                "-segment-bytes {segment} is wrong: expected a multiple of {page}"
            )));
        }
        Ok(segment)
    }

    fn verbosity(&self) -> Result<Verbosity, UsageError> {
        let levels = [
            ("vvv", Verbosity::VeryVeryVerbose),
            ("vv", Verbosity::VeryVerbose),
            ("v", Verbosity::Verbose),
        ];
        for (name, level) in levels {
            if self.switch(name)? {
                return Ok(level);
            }
        }
        Ok(Verbosity::Normal)
    }

    /// The configuration of a new cluster. Like etcd 0.4, a value below the least is raised to it,
    /// with a warning: old command lines have such values.
    fn cluster(&mut self) -> Result<ClusterConfig, UsageError> {
        let size = self.number("cluster-active-size", 0..=10_000)?;
        let delay_ms = parse_seconds(&self.value("cluster-remove-delay"), 0.0)?;
        let interval_ms = parse_seconds(&self.value("cluster-sync-interval"), 0.0)?;
        Ok(ClusterConfig {
            active_size: self.raise("cluster-active-size", size, 3, 1) as u32,
            remove_delay_ms: self.raise("cluster-remove-delay", delay_ms, 2_000, 1_000),
            sync_interval_ms: self.raise("cluster-sync-interval", interval_ms, 1_000, 1_000),
        })
    }

    /// Returns `number`, or `least` with a warning if `number` is smaller. The warning names the
    /// minimum in the unit of the setting: `least / unit`.
    fn raise(&mut self, name: &'static str, number: u64, least: u64, unit: u64) -> u64 {
        if number >= least {
            return number;
        }
        let label = self.value(name).label;
        self.warnings.push(format!(
            "{label} is too small: the minimum, {}, is used",
            least / unit
        ));
        least
    }

    /// No other host can connect to an unspecified address.
    fn warn_of_unspecified(&mut self, name: &'static str, bind: &str, advertised: &str) {
        if identity::is_unspecified(&format!("http://{advertised}")) {
            let label = self.value(name).label;
            self.warnings.push(format!(
                "{label}: {advertised} is advertised to other hosts, and they cannot connect to it. \
                 Name an address of this host; -{bind} says where to listen"
            ));
        }
    }

    fn warn_of_ignored(&mut self) {
        for flag in flags::all().filter(|f| f.kind == flags::FlagKind::Ignored) {
            if let Some(value) = self.text(flag.name) {
                self.warnings
                    .push(format!("{} does nothing in tern", value.label));
            }
        }
    }

    fn tls(
        &self,
        ca: &'static str,
        cert: &'static str,
        key: &'static str,
    ) -> Result<TlsFiles, UsageError> {
        let given = [ca, cert, key].map(|name| self.text(name));
        let missing = match &given {
            [_, Some(value), None] => Some((value, key)),
            [_, None, Some(value)] | [Some(value), None, None] => Some((value, cert)),
            [_, Some(_), Some(_)] | [None, None, None] => None,
        };
        if let Some((value, other)) = missing {
            return Err(UsageError(format!(
                "{} is given without -{other}: TLS needs -{cert} and -{key} together",
                value.label
            )));
        }
        let [ca_file, cert_file, key_file] = given.map(|v| v.map(|v| PathBuf::from(v.text)));
        Ok(TlsFiles {
            ca_file,
            cert_file,
            key_file,
        })
    }

    fn cors(&self) -> Result<Vec<String>, UsageError> {
        let Some(value) = self.text("cors") else {
            return Ok(Vec::new());
        };
        let origins = split_list(&value.text);
        if origins.iter().all(|o| o == "*" || o.contains("://")) {
            return Ok(origins);
        }
        let expected = "origins with their scheme, such as http://a.example, or *";
        Err(wrong(&value, expected))
    }

    fn discovery(&self) -> Result<Option<String>, UsageError> {
        let Some(value) = self.text("discovery") else {
            return Ok(None);
        };
        let rest = strip_scheme(&value.text);
        let host = rest.and_then(|r| r.split('/').next()).unwrap_or("");
        if host.is_empty() || value.text.contains(char::is_whitespace) {
            return Err(wrong(
                &value,
                "a URL with its scheme, such as http://discovery.example/v2/keys/cluster",
            ));
        }
        Ok(Some(value.text.trim_end_matches('/').to_string()))
    }

    /// Whether all machines of the list are started together.
    fn bootstrap(&self) -> Result<bool, UsageError> {
        let is_on = self.switch("bootstrap")?;
        if is_on && self.peers()?.is_empty() {
            let text = "-bootstrap: expected -peers or -peers-file with the peer addresses of all \
                        machines, this one included";
            return Err(UsageError(text.into()));
        }
        if is_on && self.text("discovery").is_some() {
            let text = "-bootstrap and -discovery are both given: expected one of them";
            return Err(UsageError(text.into()));
        }
        Ok(is_on)
    }

    /// The list of `-peers` or of `-peers-file`, whichever has the stronger source. Of two equal
    /// sources, `-peers-file` counts.
    fn peers(&self) -> Result<Vec<String>, UsageError> {
        let direct = self.text("peers");
        let value = match (direct, self.text("peers-file")) {
            (Some(direct), Some(file)) if direct.rank < file.rank => direct,
            (_, Some(file)) => Value {
                text: sources::read_named(self.inputs, &file)?,
                ..file
            },
            (Some(direct), None) => direct,
            (None, None) => return Ok(Vec::new()),
        };
        let expected = "host:port of each peer, such as 10.0.0.1:7001";
        let mut peers = Vec::new();
        for peer in split_list(&value.text) {
            let bare = strip_scheme(&peer).unwrap_or(&peer).trim_end_matches('/');
            if split_port(bare).is_none() {
                let value = Value {
                    text: bare.to_string(),
                    ..value
                };
                return Err(wrong(&value, expected));
            }
            peers.push(bare.to_string());
        }
        // Commas between variables that are not set: without a peer the machine would found a cluster.
        if peers.is_empty() && !value.text.trim().is_empty() {
            return Err(wrong(&value, expected));
        }
        Ok(peers)
    }

    /// An advertised address: host and port, no scheme.
    fn address(&self, name: &'static str) -> Result<String, UsageError> {
        let value = self.value(name);
        let is_address = split_port(&value.text).is_some();
        if is_address && identity::is_url(&format!("http://{}", value.text)) {
            return Ok(value.text);
        }
        let example = match flags::by_name(name).default {
            FlagDefault::Fixed(example) => example,
            FlagDefault::Described(_) | FlagDefault::Nothing => "10.0.0.1:4001",
        };
        let expected = format!("host:port without a scheme, such as {example} or [::1]:4001");
        Err(wrong(&value, &expected))
    }

    /// An address to listen on. A missing port is that of the advertised address. Without a host
    /// tern listens on loopback if a loopback address is advertised, otherwise on all interfaces.
    fn bind_address(&self, name: &'static str, advertised: &str) -> Result<String, UsageError> {
        let (_, port) = split_port(advertised).expect("the advertised address was checked");
        let Some(value) = self.text(name) else {
            if identity::is_loopback(&format!("http://{advertised}")) {
                return Ok(advertised.to_string());
            }
            return Ok(format!("[::]:{port}"));
        };
        let text = value.text.as_str();
        if split_port(text).is_some() {
            return Ok(value.text);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<Ipv6Addr>().is_ok() {
            return Ok(format!("[{bare}]:{port}"));
        }
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        if identity::is_host_name(text) && !is_number {
            return Ok(format!("{text}:{port}"));
        }
        let expected = "host or host:port, such as 0.0.0.0; a port alone is not enough";
        Err(wrong(&value, expected))
    }
}

/// A value in seconds, at least `least_s`, as milliseconds.
fn parse_seconds(value: &Value, least_s: f64) -> Result<u64, UsageError> {
    match value.text.parse::<f64>() {
        Ok(seconds) if (least_s..=SECONDS_MAX).contains(&seconds) => {
            Ok((seconds * 1_000.0).round() as u64)
        }
        Ok(_) | Err(_) if least_s > 0.0 => Err(wrong(value, "seconds, more than 0, such as 2.5")),
        Ok(_) | Err(_) => Err(wrong(value, "seconds, not below 0, such as 2.5")),
    }
}

/// A URL without its scheme; `None` if it has none.
fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
}

/// Host and port of `host:port` or `[v6]:port`.
fn split_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port = port.parse::<u16>().ok()?;
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_address = match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => identity::is_host_name(host),
    };
    is_address.then_some((host, port))
}

/// The items of a list, separated by commas or line ends.
fn split_list(text: &str) -> Vec<String> {
    let items = text.split([',', '\n', '\r']).map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_string)
        .collect()
}

fn wrong(value: &Value, expected: &str) -> UsageError {
    UsageError(format!(
        "{}: \"{}\" is wrong: expected {expected}",
        value.label, value.text
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::config::{self, Start};

    fn defaults() -> Config {
        match config::parse(&ProcessInputs::of_args(&[])) {
            Ok(Start::Run(config)) => *config,
            other => panic!("the defaults are right: {other:?}"),
        }
    }

    /// The table of flags has them as text.
    #[test]
    fn the_defaults_of_flags_are_those_of_core_and_log() {
        assert_eq!(defaults().cluster, ClusterConfig::default());
        assert_eq!(defaults().segment_bytes, wal::SEGMENT_BYTES);
    }

    #[test]
    fn the_bounds_that_the_help_names_are_those_that_are_checked() {
        let help = flags::help();
        for bound in [REQUEST_BYTES_MAX, RECORD_EXTRA_BYTES] {
            assert!(help.contains(&bound.to_string()), "{bound}");
        }
    }
}
