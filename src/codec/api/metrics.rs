//! `/metrics`: the figures of this machine in the text form of Prometheus, version 0.0.4.
//!
//! [`TABLE`] is all of it: a row has the name and the help text of a metric, and reads it from the
//! figures of core and shell. Under `-compat 2` a row with a name of etcd is served under that name too, for
//! the dashboards of etcd. A new metric is a new row, and a field of [`CoreFigures`] or
//! [`ProcessFigures`].
use super::exchange::{Exchange, Handled};
use super::render::AnswerKind;
use crate::codec::http::Method;
use crate::core::public_id::PublicId;
use crate::core::seam::{CoreFigures, MemberFigures, Op, Query, Role};
use std::fmt::Write;

/// The media type of the text form.
pub(super) const TEXT_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The methods that requests are counted by. The last one stands for all others.
const COUNTED: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OTHER"];

/// How many requests have come in on the client port, by method. Watches are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts([u64; COUNTED.len()]);

impl RequestCounts {
    /// Counts a request.
    pub fn add(&mut self, method: Method) {
        let place = match method {
            Method::Get => 0,
            Method::Head => 1,
            Method::Put => 2,
            Method::Post => 3,
            Method::Delete => 4,
            Method::Options | Method::Other => 5,
        };
        self.0[place] += 1;
    }
}

/// The figures of the process and of its connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Requests so far.
    pub requests: RequestCounts,
    /// Connections on the client port.
    pub client_conns: usize,
    /// Connections on the peer port that are no links.
    pub peer_conns: usize,
    /// Bytes that these connections hold.
    pub conn_bytes: usize,
    /// The figures that the operating system reports; `None` without them.
    pub system: Option<SystemFigures>,
}

/// The figures of the process that the operating system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SystemFigures {
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// The size of the address space, in bytes.
    pub virtual_bytes: u64,
    /// When the process started, in seconds since the Unix epoch.
    pub start_s: f64,
    /// Processor time, in seconds.
    pub cpu_s: f64,
    /// Open descriptors.
    pub open_files: u64,
    /// The most descriptors; `None`: without limit.
    pub files_max: Option<u64>,
}

/// All figures.
struct Figures<'a> {
    core: &'a CoreFigures,
    process: &'a ProcessFigures,
}

/// The kind of a metric.
#[derive(Clone, Copy)]
enum MetricKind {
    /// It only rises while the process runs.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// One value of a metric with its labels, as `{name="value"}`; empty without labels.
struct Sample {
    labels: String,
    value: f64,
}

/// Reads the samples of a metric.
type ReadSamples = fn(&Figures) -> Vec<Sample>;

/// A metric.
struct Metric {
    name: &'static str,
    /// The name that etcd has for it, and its labels if they are others than ours.
    etcd: Option<(&'static str, Option<ReadSamples>)>,
    kind: MetricKind,
    help: &'static str,
    samples: ReadSamples,
}

/// The samples of a metric without labels.
fn one(value: Option<f64>) -> Vec<Sample> {
    let sample = |value| Sample {
        labels: String::new(),
        value,
    };
    value.map(sample).into_iter().collect()
}

fn labelled(labels: String, value: f64) -> Sample {
    Sample { labels, value }
}

/// The sample of a metric of members.
fn member(figures: &Figures, read: fn(&MemberFigures) -> u64) -> Vec<Sample> {
    let member = figures.core.member.as_ref();
    one(member.map(|member| read(member) as f64))
}

fn system(figures: &Figures, read: fn(&SystemFigures) -> Option<f64>) -> Vec<Sample> {
    one(figures.process.system.as_ref().and_then(read))
}

const fn row(
    name: &'static str,
    etcd: Option<&'static str>,
    kind: MetricKind,
    help: &'static str,
    samples: ReadSamples,
) -> Metric {
    let etcd = match etcd {
        Some(etcd) => Some((etcd, None)),
        None => None,
    };
    Metric {
        name,
        etcd,
        kind,
        help,
        samples,
    }
}

use MetricKind::{Counter, Gauge};

/// All metrics, in the order in which they are written.
const TABLE: &[Metric] = &[
    // -- the cluster
    row(
        "tern_has_leader",
        Some("etcd_server_has_leader"),
        Gauge,
        "1 while this machine knows a leader, else 0.",
        |f| {
            let member = f.core.member.as_ref();
            let has_leader = member.is_some_and(|member| member.has_leader);
            one(Some(f64::from(u8::from(has_leader))))
        },
    ),
    row(
        "tern_is_leader",
        Some("etcd_server_is_leader"),
        Gauge,
        "1 on the leader, else 0.",
        |f| one(Some(f64::from(u8::from(f.core.role == Role::Leader)))),
    ),
    row(
        "tern_is_standby",
        None,
        Gauge,
        "1 on a machine that is not a member, else 0.",
        |f| one(Some(f64::from(u8::from(f.core.role == Role::Standby)))),
    ),
    row(
        "tern_leader_changes_total",
        Some("etcd_server_leader_changes_seen_total"),
        Counter,
        "Leaders that this process has seen come in.",
        |f| member(f, |m| m.leader_changes),
    ),
    row("tern_raft_term", None, Gauge, "The term.", |f| {
        member(f, |m| m.term.0)
    }),
    row(
        "tern_raft_last_index",
        None,
        Gauge,
        "The last entry of the log.",
        |f| member(f, |m| m.last.0),
    ),
    row(
        "tern_raft_durable_index",
        None,
        Gauge,
        "The last entry of the log that is durable on this disk.",
        |f| member(f, |m| m.durable.0),
    ),
    row(
        "tern_raft_committed_index",
        Some("etcd_server_proposals_committed_total"),
        Gauge,
        "The last entry that is committed, as far as this machine knows.",
        |f| member(f, |m| m.committed.0),
    ),
    row(
        "tern_raft_applied_index",
        Some("etcd_server_proposals_applied_total"),
        Gauge,
        "The last entry that the key space of this machine contains.",
        |f| member(f, |m| m.applied.0),
    ),
    row(
        "tern_proposals_pending",
        Some("etcd_server_proposals_pending"),
        Gauge,
        "Writes of this machine's clients that wait to be committed and applied.",
        |f| member(f, |m| m.pending),
    ),
    row(
        "tern_proposals_failed_total",
        Some("etcd_server_proposals_failed_total"),
        Counter,
        "Requests of this machine's clients that failed with error 300.",
        |f| member(f, |m| m.failed),
    ),
    row(
        "tern_peer_lag_entries",
        None,
        Gauge,
        "Entries of the log that a member lacks; only the leader knows.",
        peer_lags,
    ),
    // -- the key space
    row(
        "tern_etcd_index",
        None,
        Gauge,
        "The index of the last change of the key space.",
        |f| member(f, |m| m.etcd_index.0),
    ),
    row(
        "tern_store_nodes",
        None,
        Gauge,
        "Nodes of the key space that take memory.",
        |f| member(f, |m| m.nodes),
    ),
    row(
        "tern_store_bytes",
        None,
        Gauge,
        "An estimate of the memory of the key space.",
        |f| member(f, |m| m.store_bytes),
    ),
    row(
        "tern_watchers",
        Some("etcd_debugging_store_watchers"),
        Gauge,
        "Watchers that wait now.",
        |f| member(f, |m| m.store.watchers),
    ),
    row(
        "tern_expired_total",
        Some("etcd_debugging_store_expires_total"),
        Counter,
        "Nodes that have expired since the key space began.",
        |f| member(f, |m| m.store.expire_count),
    ),
    row(
        "tern_store_reads_total",
        None,
        Counter,
        "Reads of the key space of this machine.",
        |f| operations(f, true),
    ),
    row(
        "tern_store_writes_total",
        None,
        Counter,
        "Writes to the key space since it began.",
        |f| operations(f, false),
    ),
    // -- clients
    row(
        "tern_http_requests_total",
        Some("etcd_http_received_total"),
        Counter,
        "Requests on the client port other than watches.",
        requests,
    ),
    row(
        "tern_client_connections",
        None,
        Gauge,
        "Connections on the client port.",
        |f| one(Some(f.process.client_conns as f64)),
    ),
    row(
        "tern_peer_port_connections",
        None,
        Gauge,
        "Connections on the peer port besides the links between members.",
        |f| one(Some(f.process.peer_conns as f64)),
    ),
    row(
        "tern_connection_bytes",
        None,
        Gauge,
        "Memory of the buffers of all connections.",
        |f| one(Some(f.process.conn_bytes as f64)),
    ),
    // -- the process
    Metric {
        name: "tern_build_info",
        etcd: Some(("etcd_server_version", Some(etcd_version))),
        kind: Gauge,
        help: "1, with the version as a label.",
        samples: |_| vec![labelled(label("version", crate::VERSION), 1.0)],
    },
    Metric {
        name: "tern_member_info",
        etcd: Some(("etcd_server_id", Some(etcd_id))),
        kind: Gauge,
        help: "1, with the id of this member as a label.",
        samples: |f| id_sample(f, "id"),
    },
    row(
        "process_start_time_seconds",
        None,
        Gauge,
        "When the process started, in seconds since the Unix epoch.",
        |f| system(f, |s| Some(s.start_s)),
    ),
    row(
        "process_cpu_seconds_total",
        None,
        Counter,
        "Processor time of the process.",
        |f| system(f, |s| Some(s.cpu_s)),
    ),
    row(
        "process_resident_memory_bytes",
        None,
        Gauge,
        "Resident memory of the process.",
        |f| system(f, |s| Some(s.resident_bytes as f64)),
    ),
    row(
        "process_virtual_memory_bytes",
        None,
        Gauge,
        "Size of the address space of the process.",
        |f| system(f, |s| Some(s.virtual_bytes as f64)),
    ),
    row("process_open_fds", None, Gauge, "Open descriptors.", |f| {
        system(f, |s| Some(s.open_files as f64))
    }),
    row(
        "process_max_fds",
        None,
        Gauge,
        "The most descriptors.",
        |f| system(f, |s| s.files_max.map(|most| most as f64)),
    ),
];

fn label(name: &str, value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    format!("{{{name}=\"{escaped}\"}}")
}

fn peer_lags(figures: &Figures) -> Vec<Sample> {
    let lags = figures.core.member.iter().flat_map(|member| &member.lags);
    lags.map(|lag| labelled(label("peer", &lag.name), lag.entries as f64))
        .collect()
}

fn operations(figures: &Figures, reads: bool) -> Vec<Sample> {
    let Some(member) = &figures.core.member else {
        return Vec::new();
    };
    let s = &member.store;
    let all = [
        ("get", s.gets_success, s.gets_fail),
        ("set", s.sets_success, s.sets_fail),
        ("create", s.create_success, s.create_fail),
        ("update", s.update_success, s.update_fail),
        ("delete", s.delete_success, s.delete_fail),
        (
            "compareAndSwap",
            s.compare_and_swap_success,
            s.compare_and_swap_fail,
        ),
        (
            "compareAndDelete",
            s.compare_and_delete_success,
            s.compare_and_delete_fail,
        ),
    ];
    let mut samples = Vec::new();
    for (action, successes, failures) in all {
        if (action == "get") != reads {
            continue;
        }
        for (result, count) in [("success", successes), ("fail", failures)] {
            let labels = format!("{{action=\"{action}\",result=\"{result}\"}}");
            samples.push(labelled(labels, count as f64));
        }
    }
    samples
}

fn requests(figures: &Figures) -> Vec<Sample> {
    let counts = COUNTED.iter().zip(figures.process.requests.0);
    counts
        .map(|(method, count)| labelled(label("method", method), count as f64))
        .collect()
}

fn etcd_version(_: &Figures) -> Vec<Sample> {
    vec![labelled(label("server_version", super::ETCD_VERSION), 1.0)]
}

fn etcd_id(figures: &Figures) -> Vec<Sample> {
    id_sample(figures, "server_id")
}

fn id_sample(figures: &Figures, name: &str) -> Vec<Sample> {
    let id = figures.core.member.as_ref().map(|member| member.id);
    let sample = |id: PublicId| labelled(label(name, &id.to_string()), 1.0);
    id.map(sample).into_iter().collect()
}

/// GET, HEAD and POST of `/metrics`.
pub fn metrics(exchange: &Exchange) -> Handled {
    exchange.to_machine(Op::Query(Query::Figures), AnswerKind::Metrics)
}

/// Appends all metrics; with `compat_2` also under etcd's names.
pub(super) fn write(
    core: &CoreFigures,
    process: &ProcessFigures,
    compat_2: bool,
    out: &mut Vec<u8>,
) {
    let figures = Figures { core, process };
    let mut text = String::new();
    for metric in TABLE {
        let samples = (metric.samples)(&figures);
        if let Some((name, others)) = metric.etcd.filter(|_| compat_2) {
            let others = others.map(|read| read(&figures));
            family(name, metric, others.as_ref().unwrap_or(&samples), &mut text);
        }
        family(metric.name, metric, &samples, &mut text);
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a metric: two comments, then a line for each sample. One without samples is left out.
fn family(name: &str, metric: &Metric, samples: &[Sample], out: &mut String) {
    if samples.is_empty() {
        return;
    }
    let kind = match metric.kind {
        Counter => "counter",
        Gauge => "gauge",
    };
    // Writing to a `String` does not fail.
    let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
    for sample in samples {
        let _ = writeln!(out, "{name}{} {}", sample.labels, sample.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn text(compat_2: bool) -> String {
        let core = CoreFigures {
            role: Role::Standby,
            member: None,
        };
        let mut requests = RequestCounts::default();
        requests.add(Method::Put);
        let process = ProcessFigures {
            requests,
            client_conns: 3,
            system: Some(SystemFigures {
                cpu_s: 0.25,
                start_s: 1.5e9,
                ..SystemFigures::default()
            }),
            ..ProcessFigures::default()
        };
        let mut out = Vec::new();
        write(&core, &process, compat_2, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_standby_shows_what_it_has() {
        let text = text(false);
        for line in [
            "tern_is_standby 1",
            "tern_has_leader 0",
            "tern_client_connections 3",
            "tern_http_requests_total{method=\"PUT\"} 1",
            "process_cpu_seconds_total 0.25",
            "process_start_time_seconds 1500000000",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}:\n{text}");
        }
        assert!(!text.contains("etcd_"), "{text}");
        assert!(!text.contains("tern_raft_term"), "it has none");
    }

    #[test]
    fn names_are_unique_and_as_prometheus_wants_them() {
        let mut names = BTreeSet::new();
        for metric in TABLE {
            let etcd = metric.etcd.map(|(name, _)| name);
            for name in [Some(metric.name), etcd].into_iter().flatten() {
                assert!(names.insert(name), "{name} stands twice");
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(name.chars().all(is_name), "{name}");
            }
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, matches!(metric.kind, Counter), "{}", metric.name);
        }
        assert!(text(true).contains("\netcd_server_is_leader 0\n"));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a", "x\"y\\z\n"), "{a=\"x\\\"y\\\\z\\n\"}");
    }
}
