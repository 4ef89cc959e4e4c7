//! `/metrics`: the figures of this machine in the text form of Prometheus, version 0.0.4.
//!
//! `table` is all of it: a row has the name and the help text of a metric, and reads it from the
//! figures of core and shell. Under `-compat 2` a row with a name of etcd is served under that name too, for
//! the dashboards of etcd. A new metric is a new row, and a field of [`CoreFigures`] or
//! [`ProcessFigures`]. Start with [`write`].
mod meters;
mod table;

pub use meters::{
    PortFigures, ProcessFigures, RequestKind, RequestMeters, SystemFigures, status_of,
};

use super::exchange::{Exchange, Handled};
use super::render::AnswerKind;
use crate::core::histogram::Histogram;
use crate::core::seam::{CoreFigures, Op, Query};
use std::fmt::Write;

/// The media type of the text form.
pub(super) const TEXT_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures.
struct Figures<'a> {
    core: &'a CoreFigures,
    process: &'a ProcessFigures,
}

/// The kind of a metric, and how it is read.
#[derive(Clone, Copy)]
enum MetricKind {
    /// It only rises while the process runs.
    Counter(ReadSamples),
    /// It rises and falls.
    Gauge(ReadSamples),
    /// How often something took how long, in seconds.
    Durations(ReadHistograms),
}

/// Reads the samples of a metric.
type ReadSamples = fn(&Figures) -> Vec<Sample>;

/// Reads the histograms of a metric, each with its labels.
type ReadHistograms = for<'a> fn(&Figures<'a>) -> Vec<(String, &'a Histogram)>;

/// One value of a metric with its labels, as `name="value",…`; empty without labels.
struct Sample {
    labels: String,
    value: f64,
}

/// A metric.
struct Metric {
    /// `None`: it is served for etcd's dashboards only.
    name: Option<&'static str>,
    /// The name that etcd has for it, and its labels if they are others than ours.
    etcd: Option<(&'static str, Option<ReadSamples>)>,
    help: &'static str,
    kind: MetricKind,
}

/// A label with its value.
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
    format!("{name}=\"{escaped}\"")
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
    for metric in table::TABLE {
        if let Some((name, others)) = metric.etcd.filter(|_| compat_2) {
            let kind = match (metric.kind, others) {
                (MetricKind::Counter(_), Some(read)) => MetricKind::Counter(read),
                (MetricKind::Gauge(_), Some(read)) => MetricKind::Gauge(read),
                (kind, _) => kind,
            };
            family(name, metric.help, kind, &figures, &mut text);
        }
        if let Some(name) = metric.name {
            family(name, metric.help, metric.kind, &figures, &mut text);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a metric: two comments, then a line for each sample. One without samples is left out.
fn family(name: &str, help: &str, kind: MetricKind, figures: &Figures, out: &mut String) {
    match kind {
        MetricKind::Counter(read) => samples(name, help, "counter", &read(figures), out),
        MetricKind::Gauge(read) => samples(name, help, "gauge", &read(figures), out),
        MetricKind::Durations(read) => histograms(name, help, &read(figures), out),
    }
}

/// Appends the comments before a metric. Writing to a `String` does not fail.
fn head(name: &str, help: &str, kind: &str, out: &mut String) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn samples(name: &str, help: &str, kind: &str, samples: &[Sample], out: &mut String) {
    if samples.is_empty() {
        return;
    }
    head(name, help, kind, out);
    for sample in samples {
        let (before, after) = match &*sample.labels {
            "" => ("", ""),
            _ => ("{", "}"),
        };
        let Sample { labels, value } = sample;
        let _ = writeln!(out, "{name}{before}{labels}{after} {value}");
    }
}

fn histograms(name: &str, help: &str, all: &[(String, &Histogram)], out: &mut String) {
    if all.is_empty() {
        return;
    }
    head(name, help, "histogram", out);
    for (labels, histogram) in all {
        let (comma, before, after) = match &**labels {
            "" => ("", "", ""),
            _ => (",", "{", "}"),
        };
        for (bound_s, count) in histogram.buckets() {
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound_s}\"}} {count}"
            );
        }
        let (count, sum_s) = (histogram.count(), histogram.sum_s());
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{before}{labels}{after} {sum_s}");
        let _ = writeln!(out, "{name}_count{before}{labels}{after} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::Method;
    use crate::core::seam::{Health, Role};
    use std::collections::BTreeSet;

    fn text(compat_2: bool) -> String {
        let core = CoreFigures {
            role: Role::Standby,
            health: Health::NoCluster,
            member: None,
        };
        let mut requests = RequestMeters::default();
        requests.on_received(Method::Put);
        requests.on_answered(RequestKind::Put, 307, 300);
        for status in [412, 201, 412] {
            requests.on_answered(RequestKind::Post, status, 300);
        }
        let process = ProcessFigures {
            requests,
            conns: [
                PortFigures {
                    port: "client",
                    conns: 3,
                    conns_max: 9,
                },
                PortFigures::default(),
            ],
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
            "tern_healthy 0",
            "tern_role{role=\"standby\"} 1",
            "tern_connections{port=\"client\"} 3",
            "tern_connections_max{port=\"client\"} 9",
            "tern_http_requests_total{method=\"PUT\"} 1",
            "tern_requests_answered_total{kind=\"put\",result=\"redirected\"} 1",
            "tern_http_errors_total{method=\"POST\",code=\"412\"} 2",
            "tern_request_duration_seconds_bucket{kind=\"put\",le=\"0.00025\"} 0",
            "tern_request_duration_seconds_bucket{kind=\"put\",le=\"0.0005\"} 1",
            "tern_request_duration_seconds_bucket{kind=\"put\",le=\"+Inf\"} 1",
            "tern_request_duration_seconds_sum{kind=\"put\"} 0.0003",
            "tern_sync_duration_seconds_count 0",
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
        for metric in table::TABLE {
            let etcd = metric.etcd.map(|(name, _)| name);
            for name in [metric.name, etcd].into_iter().flatten() {
                assert!(names.insert(name), "{name} stands twice");
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(name.chars().all(is_name), "{name}");
            }
            let Some(name) = metric.name else {
                continue;
            };
            let is_total = name.ends_with("_total");
            let is_counter = matches!(metric.kind, MetricKind::Counter(_));
            assert_eq!(is_total, is_counter, "{name}");
        }
        for line in [
            "etcd_server_is_leader 0",
            "etcd_http_failed_total{method=\"POST\",code=\"412\"} 2",
            "etcd_http_successful_duration_seconds_bucket{method=\"POST\",le=\"0.0005\"} 1",
            "etcd_http_successful_duration_seconds_count{method=\"POST\"} 1",
        ] {
            let text = text(true);
            assert!(text.lines().any(|other| other == line), "{line}:\n{text}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a", "x\"y\\z\n"), "a=\"x\\\"y\\\\z\\n\"");
    }
}
