//! Scale curves: how tern's figures grow with keys, connections, watchers, the length of values and
//! the number of machines. Each curve becomes a table and a plot in `benches/curves`.
//!
//! `cargo bench --bench versus -- --curves all` takes an hour, `--curves quick` minutes: it
//! measures fewer points for a shorter time. Start with `report`.
use crate::cluster::Cluster;
use crate::driver::{Load, Mode, fill, run};
use crate::plot::{Curve, Series};
use crate::table::median;
use crate::{Kind, Server, proc};
use std::path::PathBuf;
use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every point.
    All,
    /// The points of a run that takes minutes.
    Quick,
}

impl Extent {
    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Extent> {
        match name {
            "all" => Some(Extent::All),
            "quick" => Some(Extent::Quick),
            _ => None,
        }
    }

    fn duration(self) -> Duration {
        match self {
            Extent::All => Duration::from_secs(5),
            Extent::Quick => Duration::from_secs(1),
        }
    }

    /// The points to measure: all of them, or in a quick run the ones up to `quick_max`.
    fn points(self, all: &[usize], quick_max: usize) -> Vec<usize> {
        let is_measured = |n: &&usize| self == Extent::All || **n <= quick_max;
        all.iter().filter(is_measured).copied().collect()
    }
}

/// Requests a second, p50 and p99 in microseconds.
fn figures(load: &Load) -> [f64; 3] {
    let report = run(load).unwrap_or_else(|e| panic!("{load:?}: {e}"));
    let at = |quantile| report.latency.value_at_quantile(quantile) as f64;
    [report.per_second(), at(0.5), at(0.99)]
}

/// Measures all curves, prints their tables, and writes tables and plots.
pub fn report(extent: Extent) {
    let folder = PathBuf::from("benches/curves");
    std::fs::create_dir_all(&folder).expect("a folder for the curves");
    let curves = [by_keys, by_connections, by_watchers, by_values, by_machines];
    let mut text = "# Scale curves\n\n`cargo bench --bench versus -- --curves all` (or `quick`) \
                    writes this page and its plots.\n"
        .to_string();
    for measure in curves {
        let curve = measure(extent);
        let table = curve.table();
        println!("{table}");
        let name = curve.file_name();
        std::fs::write(folder.join(&name), curve.svg()).expect("a plot is written");
        text += &format!("\n{table}\n![{}]({name})\n", curve.title());
    }
    std::fs::write(folder.join("README.md"), text).expect("the page is written");
}

fn by_keys(extent: Extent) -> Curve {
    let all = [1_000, 10_000, 100_000, 1_000_000, 3_000_000];
    let mut curve = Curve::new("keys", "keys of 64 bytes", &KEY_SERIES);
    for keys in extent.points(&all, 100_000) {
        let server = Server::start(Kind::Tern);
        let filling = Load {
            keys,
            ..Load::of(server.address(), Mode::Put, 64, Duration::MAX)
        };
        let filled = fill(&filling).expect("the keys are set");
        let reading = Load {
            mode: Mode::Get,
            duration: extent.duration(),
            ..filling
        };
        let [gets, _, p99] = figures(&reading);
        let megabytes = proc::resident_bytes(server.pid()).expect("it runs") as f64 / 1e6;
        let server = server.restart(Kind::Tern);
        let restart_ms = server.first_answer().as_secs_f64() * 1e3;
        let point = [filled.per_second(), gets, p99, megabytes, restart_ms];
        curve.push(keys, &point);
    }
    curve
}

const KEY_SERIES: [Series; 5] = [
    Series("PUT/s"),
    Series("GET/s"),
    Series("GET p99, us"),
    Series("resident, MB"),
    Series("restart, ms"),
];

fn by_connections(extent: Extent) -> Curve {
    let all = [1, 4, 16, 64, 256, 1_000, 4_000, 10_000];
    let series = [
        Series("PUT/s"),
        Series("PUT p50, us"),
        Series("PUT p99, us"),
        Series("GET/s"),
        Series("GET p50, us"),
        Series("GET p99, us"),
        Series("resident, MB"),
    ];
    let mut curve = Curve::new("connections", "connections", &series);
    for n in extent.points(&all, 1_000) {
        let server = Server::start(Kind::Tern);
        let mut point = Vec::new();
        for mode in [Mode::Put, Mode::Get] {
            let load = Load::of(server.address(), mode, n, extent.duration());
            if mode == Mode::Get {
                fill(&load).expect("the keys are set");
            }
            point.extend(figures(&load));
        }
        point.push(proc::resident_bytes(server.pid()).expect("it runs") as f64 / 1e6);
        curve.push(n, &point);
    }
    curve
}

fn by_watchers(extent: Extent) -> Curve {
    let all = [1, 10, 100, 1_000, 10_000, 18_000];
    let series = [Series("first told, ms"), Series("last told, ms")];
    let mut curve = Curve::new("watchers", "watchers of one key", &series);
    for n in extent.points(&all, 1_000) {
        let server = Server::start(Kind::Tern);
        let load = Load::of(server.address(), Mode::Watch, n, extent.duration());
        let report = run(&load).unwrap_or_else(|e| panic!("{load:?}: {e}"));
        let first = report.spans.iter().map(|span| span.0 / 1e3).collect();
        let last = report.spans.iter().map(|span| span.1 / 1e3).collect();
        curve.push(n, &[median(first), median(last)]);
    }
    curve
}

fn by_values(extent: Extent) -> Curve {
    let all = [16, 256, 4 << 10, 64 << 10, 1 << 20];
    let series = [
        Series("PUT/s"),
        Series("PUT p99, us"),
        Series("GET/s"),
        Series("GET p99, us"),
    ];
    let mut curve = Curve::new("values", "bytes of a value", &series);
    for value_bytes in extent.points(&all, 1 << 20) {
        let server = Server::start(Kind::Tern);
        let mut point = Vec::new();
        for mode in [Mode::Put, Mode::Get] {
            let load = Load {
                value_bytes,
                keys: 64,
                ..Load::of(server.address(), mode, 16, extent.duration())
            };
            if mode == Mode::Get {
                fill(&load).expect("the keys are set");
            }
            let [each_second, _, p99] = figures(&load);
            point.extend([each_second, p99]);
        }
        curve.push(value_bytes, &point);
    }
    curve
}

fn by_machines(extent: Extent) -> Curve {
    let series = [
        Series("PUT/s"),
        Series("PUT p99, us"),
        Series("GET/s"),
        Series("linearizable GET/s"),
    ];
    let mut curve = Curve::new("machines", "machines on this host", &series);
    for machines in extent.points(&[1, 3, 5, 9], 3) {
        let cluster = Cluster::start_with(Kind::Tern, machines, &[]);
        let address = cluster.members[cluster.leader()].client;
        let load = |mode| Load::of(address, mode, 64, extent.duration());
        let [puts, _, p99] = figures(&load(Mode::Put));
        fill(&load(Mode::Get)).expect("the keys are set");
        let [gets, ..] = figures(&load(Mode::Get));
        let [linearizable, ..] = figures(&load(Mode::LinearizableGet));
        curve.push(machines, &[puts, p99, gets, linearizable]);
    }
    curve
}
