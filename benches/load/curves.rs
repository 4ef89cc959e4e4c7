//! Scale curves: how tern's figures grow with keys, connections, watchers, the length of values, the
//! number of machines, the length of the log and the time of a sync. Each curve becomes a table and a
//! plot in `benches/curves`.
//!
//! On two quiet cores `cargo bench --bench versus -- --curves all` takes ten minutes, `--curves quick`
//! two: it measures fewer points for a shorter time. Start with `report`.
use crate::cluster::Cluster;
use crate::driver::{Load, Mode, fill, run};
use crate::plot::{Curve, Series};
use crate::table::median;
use crate::{Kind, Server, proc};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tern_support::server::{Server as OwnServer, Syncs};

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
            Extent::All => Duration::from_secs(3),
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

/// Requests a second, p50 and p99 in microseconds, and the processor time of the server a request in
/// microseconds.
fn figures_with_cpu(load: &Load, pid: u32) -> [f64; 4] {
    let before = proc::cpu_time(pid).expect("it runs");
    let report = run(load).unwrap_or_else(|e| panic!("{load:?}: {e}"));
    let cpu = proc::cpu_time(pid).expect("it runs") - before;
    let at = |quantile| report.latency.value_at_quantile(quantile) as f64;
    let cpu_us = cpu.as_secs_f64() * 1e6 / report.requests as f64;
    [report.per_second(), at(0.5), at(0.99), cpu_us]
}

fn megabytes(pid: u32) -> f64 {
    proc::resident_bytes(pid).expect("it runs") as f64 / 1e6
}

/// Measures all curves, prints their tables, and writes tables and plots.
pub fn report(extent: Extent) {
    let folder = PathBuf::from("benches/curves");
    std::fs::create_dir_all(&folder).expect("a folder for the curves");
    let curves = [
        by_keys,
        by_connections,
        by_watchers,
        by_values,
        by_machines,
        by_log_length,
        by_sync_time,
    ];
    let begun = Instant::now();
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
        eprintln!("{name}: after {} s", begun.elapsed().as_secs());
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
        let written_mb = megabytes(server.pid());
        let server = server.restart(Kind::Tern);
        let point = [
            filled.per_second(),
            gets,
            p99,
            written_mb,
            megabytes(server.pid()),
            server.first_answer().as_secs_f64() * 1e3,
        ];
        curve.push(keys, &point);
    }
    curve
}

const KEY_SERIES: [Series; 6] = [
    Series("PUT/s"),
    Series("GET/s"),
    Series("GET p99, us"),
    Series("resident, MB"),
    Series("after a restart, MB"),
    Series("restart, ms"),
];

fn by_connections(extent: Extent) -> Curve {
    let all = [1, 4, 16, 64, 256, 1_000, 4_000, 10_000];
    let series = [
        Series("PUT/s"),
        Series("PUT p50, us"),
        Series("PUT p99, us"),
        Series("CPU a PUT, us"),
        Series("GET/s"),
        Series("GET p50, us"),
        Series("GET p99, us"),
        Series("CPU a GET, us"),
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
            point.extend(figures_with_cpu(&load, server.pid()));
        }
        point.push(megabytes(server.pid()));
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

/// The bytes of all values under way in `by_values`.
const VALUES_BYTES_MAX: usize = 4 << 20;

fn by_values(extent: Extent) -> Curve {
    let all = [16, 256, 4 << 10, 64 << 10, 1 << 20];
    let series = [
        Series("PUT/s"),
        Series("PUT p99, us"),
        Series("CPU a PUT, us"),
        Series("GET/s"),
        Series("GET p99, us"),
        Series("CPU a GET, us"),
    ];
    let mut curve = Curve::new("values", "bytes of a value", &series);
    for value_bytes in extent.points(&all, 1 << 20) {
        let server = Server::start(Kind::Tern);
        let mut point = Vec::new();
        for mode in [Mode::Put, Mode::Get] {
            // A leader refuses values while too many bytes wait for a sync (`core/memory.rs`).
            let connections = (VALUES_BYTES_MAX / value_bytes).clamp(1, 16);
            let load = Load {
                value_bytes,
                keys: 64,
                ..Load::of(server.address(), mode, connections, extent.duration())
            };
            if mode == Mode::Get {
                fill(&load).expect("the keys are set");
            }
            let [each_second, _, p99, cpu_us] = figures_with_cpu(&load, server.pid());
            point.extend([each_second, p99, cpu_us]);
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

/// The time of a restart with so many entries in the log since the last snapshot.
fn by_log_length(extent: Extent) -> Curve {
    let series = [
        Series("PUT/s"),
        Series("resident, MB"),
        Series("after a restart, MB"),
        Series("restart, ms"),
    ];
    let mut curve = Curve::new("log", "entries in the log, of 1,000 keys", &series);
    let all = [1_000, 10_000, 100_000, 1_000_000];
    for entries in extent.points(&all, 100_000) {
        let mut server = OwnServer::start(&["-snapshot=false"]);
        let load = Load {
            keys: 1_000,
            requests_max: entries as u64,
            ..Load::of(server.client_at(), Mode::Put, 64, Duration::MAX)
        };
        let [each_second, ..] = figures(&load);
        let written_mb = megabytes(server.pid());
        server.kill();
        let begun = Instant::now();
        server.run();
        let restart_ms = begun.elapsed().as_secs_f64() * 1e3;
        let restarted_mb = megabytes(server.pid());
        let point = [each_second, written_mb, restarted_mb, restart_ms];
        curve.push(entries, &point);
    }
    curve
}

/// Writes and reads on a disk whose syncs take so many milliseconds longer. `strace` delays each
/// sync, which holds up only the thread that makes it.
fn by_sync_time(extent: Extent) -> Curve {
    let series = [
        Series("PUT/s"),
        Series("PUT p50, us"),
        Series("PUT p99, us"),
        Series("GET/s beside writers"),
        Series("GET p50, us"),
        Series("GET p99, us"),
    ];
    let mut curve = Curve::new("sync", "milliseconds of a sync, more", &series);
    for sync_ms in extent.points(&[0, 3, 10, 30, 100, 300, 500], 10) {
        let mut server = OwnServer::prepare(&[]);
        if sync_ms > 0 {
            server.syncs = Syncs::Slow(sync_ms as u64);
        }
        server.run();
        let load = |mode, connections| Load {
            keys: 1_000,
            ..Load::of(server.client_at(), mode, connections, extent.duration())
        };
        fill(&load(Mode::Put, 256)).expect("the keys are set");
        let mut point = figures(&load(Mode::Put, 64)).to_vec();
        let beside = std::thread::scope(|scope| {
            let writing = load(Mode::Put, 16);
            scope.spawn(move || figures(&writing));
            figures(&load(Mode::Get, 16))
        });
        point.extend(beside);
        curve.push(sync_ms, &point);
    }
    curve
}
