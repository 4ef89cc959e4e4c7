//! Settings as checked values: what is wrong names the setting, its value and what is expected.
//!
//! Start with `Checked::config`, which puts the whole configuration together.
use super::flags;
use super::sources::{Sources, Value};
use super::{Config, Source, Tls, Usage, Verbosity};
use crate::core::command::ClusterConfig;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The longest name of a machine, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The longest span a setting may have: 100 years, in seconds.
const SECONDS_MAX: f64 = 100.0 * 365.25 * 86_400.0;
/// A record may fill so much of a segment: a quarter.
const RECORDS_PER_SEGMENT_MIN: u64 = 4;
/// What a record may be longer than the body of the request it comes from: the query, the key, what
/// decoding adds to bytes that are no text, its own frame.
const RECORD_EXTRA_BYTES: u64 = 32 * 1024;
/// Segments are made of whole pages.
const PAGE_BYTES: u64 = 4_096;

/// The sources, read with checks.
pub struct Checked<'a> {
    pub sources: Sources<'a>,
    pub warnings: Vec<String>,
}

impl Checked<'_> {
    /// The whole configuration.
    pub fn config(&mut self, source: &Source) -> Result<Config, Usage> {
        let name = self.name(source.host_name)?;
        let data_dir = self.path("data-dir");
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));
        let addr = self.address("addr", "127.0.0.1:4001")?;
        let peer_addr = self.address("peer-addr", "127.0.0.1:7001")?;
        let bind_addr = self.bind_address("bind-addr", &addr)?;
        let peer_bind_addr = self.bind_address("peer-bind-addr", &peer_addr)?;
        let (heartbeat_ms, election_ms) = self.raft_times()?;
        let (request_bytes_max, segment_bytes) = self.sizes()?;
        let compat_2 = self.word("compat", ["0.4", "2"])? == "2";
        self.tell_ignored();
        Ok(Config {
            name,
            data_dir,
            addr,
            bind_addr,
            peer_addr,
            peer_bind_addr,
            peers: self.peers(source)?,
            discovery: self.discovery()?,
            force: self.switch("f", false)? || self.switch("force", false)?,
            tls: self.tls("ca-file", "cert-file", "key-file")?,
            peer_tls: self.tls("peer-ca-file", "peer-cert-file", "peer-key-file")?,
            cors: self.cors()?,
            read_timeout_ms: self.millis("http-read-timeout", 0.001)?.unwrap_or(300_000),
            write_timeout_ms: self.millis("http-write-timeout", 0.001)?.unwrap_or(300_000),
            max_retry_attempts: self.number("max-retry-attempts", 3, 0..=1_000_000)? as u32,
            retry_interval_ms: self.millis("retry-interval", 0.0)?,
            heartbeat_ms,
            election_ms,
            snapshots: self.switch("snapshot", true)?,
            snapshot_count: self.number("snapshot-count", 10_000, 1..=1_000_000_000)?,
            cluster: self.cluster()?,
            verbosity: self.verbosity()?,
            log_json: self.word("log-format", ["text", "json"])? == "json",
            trace: self.word("trace", ["", "*"])? == "*",
            forward: self.switch("forward", compat_2)?,
            compat_2,
            watch_history: self.number("watch-history", 1_000, 1..=1_000_000)? as usize,
            request_bytes_max,
            segment_bytes,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    fn text(&self, name: &'static str) -> Option<Value> {
        self.sources.get(name).filter(|v| !v.text.is_empty())
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(|v| PathBuf::from(v.text))
    }

    fn name(&self, host_name: &str) -> Result<String, Usage> {
        let default = Value {
            text: host_name.to_string(),
            origin: "the host's name, which is the default of -name".to_string(),
            rank: usize::MAX,
            from_env: false,
        };
        let value = self.text("name").unwrap_or(default);
        let name = &value.text;
        let bad = name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || name == "."
            || name == ".."
            || name.chars().any(|c| c == '/' || c.is_control());
        match bad {
            true => Err(wrong(
                &value,
                "a name of at most 255 bytes without slashes, such as node0",
            )),
            false => Ok(value.text),
        }
    }

    fn number(
        &self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Usage> {
        let Some(value) = self.sources.get(name) else {
            return Ok(default);
        };
        match value.text.parse::<u64>() {
            Ok(number) if range.contains(&number) => Ok(number),
            Ok(_) | Err(_) => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(wrong(&value, &expected))
            }
        }
    }

    /// A setting in seconds, as milliseconds.
    fn millis(&self, name: &'static str, least_s: f64) -> Result<Option<u64>, Usage> {
        let Some(value) = self.sources.get(name) else {
            return Ok(None);
        };
        match value.text.parse::<f64>() {
            Ok(seconds) if (least_s..=SECONDS_MAX).contains(&seconds) => {
                Ok(Some((seconds * 1_000.0).round() as u64))
            }
            Ok(_) | Err(_) if least_s > 0.0 => {
                Err(wrong(&value, "seconds, more than 0, such as 2.5"))
            }
            Ok(_) | Err(_) => Err(wrong(&value, "seconds, not below 0, such as 2.5")),
        }
    }

    fn switch(&self, name: &'static str, default: bool) -> Result<bool, Usage> {
        let Some(value) = self.sources.get(name) else {
            return Ok(default);
        };
        if value.from_env {
            return Ok(!matches!(value.text.as_str(), "0" | "false"));
        }
        flags::to_bool(&value.text).ok_or_else(|| wrong(&value, "true or false"))
    }

    /// A setting that is one of two words; the first is the default.
    fn word(&self, name: &'static str, words: [&'static str; 2]) -> Result<&'static str, Usage> {
        let Some(value) = self.sources.get(name) else {
            return Ok(words[0]);
        };
        let found = words.iter().find(|w| **w == value.text);
        found.copied().ok_or_else(|| {
            let named: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
            wrong(&value, &named.join(" or "))
        })
    }

    fn raft_times(&self) -> Result<(u64, u64), Usage> {
        let heartbeat = self.number("peer-heartbeat-interval", 50, 1..=60_000)?;
        let election = self.number("peer-election-timeout", 200, 2..=600_000)?;
        if election <= heartbeat {
            return Err(Usage(format!(
                "-peer-election-timeout {election} is not longer than -peer-heartbeat-interval {heartbeat}: \
                 expected several heartbeats to fit into one election timeout, such as 50 and 200"
            )));
        }
        Ok((heartbeat, election))
    }

    fn sizes(&self) -> Result<(u64, u64), Usage> {
        let request = self.number("max-request-bytes", 2 << 20, 1_024..=64 << 20)?;
        let segment = self.number("segment-bytes", 16 << 20, 64 << 10..=1 << 30)?;
        let least = RECORDS_PER_SEGMENT_MIN * (request + RECORD_EXTRA_BYTES);
        let least = least.next_multiple_of(PAGE_BYTES);
        if segment < least {
            return Err(Usage(format!(
                "-segment-bytes {segment} is too small for -max-request-bytes {request}: expected at least {least}, \
                 so that a segment holds four of the largest records"
            )));
        }
        if !segment.is_multiple_of(PAGE_BYTES) {
            return Err(Usage(format!(
                "-segment-bytes {segment} is wrong: expected a multiple of {PAGE_BYTES}"
            )));
        }
        Ok((request, segment))
    }

    fn verbosity(&self) -> Result<Verbosity, Usage> {
        let levels = [
            ("vvv", Verbosity::VeryVeryVerbose),
            ("vv", Verbosity::VeryVerbose),
            ("v", Verbosity::Verbose),
        ];
        for (name, level) in levels {
            if self.switch(name, false)? {
                return Ok(level);
            }
        }
        Ok(Verbosity::Normal)
    }

    /// 0.4 takes a value below the least for the least, so old command lines have some.
    fn cluster(&mut self) -> Result<ClusterConfig, Usage> {
        let default = ClusterConfig::default();
        let size = self.number(
            "cluster-active-size",
            u64::from(default.active_size),
            0..=10_000,
        )?;
        let delay = self.millis("cluster-remove-delay", 0.0)?;
        let interval = self.millis("cluster-sync-interval", 0.0)?;
        Ok(ClusterConfig {
            active_size: self.at_least("cluster-active-size", size, 3, 1) as u32,
            remove_delay_ms: self.at_least(
                "cluster-remove-delay",
                delay.unwrap_or(default.remove_delay_ms),
                2_000,
                1_000,
            ),
            sync_interval_ms: self.at_least(
                "cluster-sync-interval",
                interval.unwrap_or(default.sync_interval_ms),
                1_000,
                1_000,
            ),
        })
    }

    fn at_least(&mut self, name: &'static str, number: u64, least: u64, unit: u64) -> u64 {
        if number < least {
            let origin = self.sources.get(name).map_or(String::new(), |v| v.origin);
            let least = least / unit;
            self.warnings
                .push(format!("{origin} is below the least, {least} is used"));
        }
        number.max(least)
    }

    fn tell_ignored(&mut self) {
        for flag in flags::all().filter(|f| f.kind == flags::Kind::Ignored) {
            if let Some(value) = self.text(flag.name) {
                self.warnings
                    .push(format!("{} does nothing in tern", value.origin));
            }
        }
    }

    fn tls(&self, ca: &'static str, cert: &'static str, key: &'static str) -> Result<Tls, Usage> {
        let given = [ca, cert, key].map(|name| self.text(name));
        let missing = match &given {
            [_, Some(value), None] => Some((value, key)),
            [_, None, Some(value)] | [Some(value), None, None] => Some((value, cert)),
            [_, Some(_), Some(_)] | [None, None, None] => None,
        };
        if let Some((value, other)) = missing {
            return Err(Usage(format!(
                "{} is given without -{other}: TLS needs -{cert} and -{key} together",
                value.origin
            )));
        }
        let [ca_file, cert_file, key_file] = given.map(|v| v.map(|v| PathBuf::from(v.text)));
        Ok(Tls {
            ca_file,
            cert_file,
            key_file,
        })
    }

    fn cors(&self) -> Result<Vec<String>, Usage> {
        let Some(value) = self.text("cors") else {
            return Ok(Vec::new());
        };
        let origins = list(&value.text);
        match origins.iter().all(|o| o == "*" || o.contains("://")) {
            true => Ok(origins),
            false => Err(wrong(
                &value,
                "origins with their scheme, such as http://a.example, or *",
            )),
        }
    }

    fn discovery(&self) -> Result<Option<String>, Usage> {
        let Some(value) = self.text("discovery") else {
            return Ok(None);
        };
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| value.text.strip_prefix(scheme));
        let host = rest.and_then(|r| r.split('/').next());
        match host.is_some_and(|h| !h.is_empty()) && !value.text.contains(char::is_whitespace) {
            true => Ok(Some(value.text.trim_end_matches('/').to_string())),
            false => Err(wrong(
                &value,
                "a URL with its scheme, such as http://discovery.example/v2/keys/cluster",
            )),
        }
    }

    /// The list of `-peers`, or of `-peers-file` where that is as near or nearer to the command
    /// line.
    fn peers(&self, source: &Source) -> Result<Vec<String>, Usage> {
        let (direct, file) = (self.text("peers"), self.text("peers-file"));
        let rank = |v: &Option<Value>| v.as_ref().map_or(usize::MAX, |v| v.rank);
        let value = match file {
            Some(file) if file.rank <= rank(&direct) => {
                let text =
                    (source.read)(&file.text).and_then(|t| t.ok_or("there is no such file".into()));
                let text = text.map_err(|why| {
                    Usage(format!("{}: cannot read {}: {why}", file.origin, file.text))
                })?;
                Value { text, ..file }
            }
            Some(_) | None => match direct {
                Some(direct) => direct,
                None => return Ok(Vec::new()),
            },
        };
        let mut peers = Vec::new();
        for peer in list(&value.text) {
            let bare = ["http://", "https://"]
                .iter()
                .find_map(|scheme| peer.strip_prefix(scheme))
                .unwrap_or(&peer)
                .trim_end_matches('/');
            let value = Value {
                text: bare.to_string(),
                ..value.clone()
            };
            split_port(bare)
                .ok_or_else(|| wrong(&value, "host:port of each peer, such as 10.0.0.1:7001"))?;
            peers.push(bare.to_string());
        }
        Ok(peers)
    }

    /// An advertised address: host and port, no scheme.
    fn address(&self, name: &'static str, default: &str) -> Result<String, Usage> {
        let Some(value) = self.sources.get(name) else {
            return Ok(default.to_string());
        };
        match split_port(&value.text) {
            Some(_) => Ok(value.text),
            None => Err(wrong(
                &value,
                &format!("host:port without a scheme, such as {default}"),
            )),
        }
    }

    /// An address to listen on; what it leaves open is taken from the advertised one.
    fn bind_address(&self, name: &'static str, advertised: &str) -> Result<String, Usage> {
        let (_, port) = split_port(advertised).expect("it was checked");
        let Some(value) = self.text(name) else {
            return Ok(format!("[::]:{port}"));
        };
        let text = value.text.as_str();
        if split_port(text).is_some() {
            return Ok(value.text);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let is_v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        match is_v6 {
            true => Ok(format!("[{bare}]:{port}")),
            false if is_host(text) && !text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(format!("{text}:{port}"))
            }
            false => Err(wrong(
                &value,
                "host or host:port, such as 0.0.0.0; a port alone does not do",
            )),
        }
    }
}

/// Host and port of `host:port`, `[v6]:port`.
fn split_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| is_number)?;
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    fits.then_some((host, port))
}

/// A host name or an IPv4 address.
fn is_host(host: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !host.is_empty() && host.bytes().all(fits)
}

fn list(text: &str) -> Vec<String> {
    let items = text.split([',', '\n', '\r']).map(str::trim);
    let items = items.filter(|i| !i.is_empty());
    items.map(str::to_string).collect()
}

fn wrong(value: &Value, expected: &str) -> Usage {
    Usage(format!(
        "{}: \"{}\" is wrong: expected {expected}",
        value.origin, value.text
    ))
}
