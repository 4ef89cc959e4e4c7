//! Writes with snapshots beside writes without any: `cargo bench --bench versus -- --snapshots 100000`,
//! with the number of keys. `--pairs 7 --seconds 3` are the defaults.
//!
//! A run first sets all keys. The last row is the number of snapshots: a run without any was too
//! short to say something. Start with `report`.
use crate::driver::{Load, Mode, fill, run};
use crate::proc;
use crate::table::alternate;
use std::time::Duration;
use tern_support::server::Server;

/// Connections that write.
const CONNECTIONS: usize = 64;

/// Prints the table of writes with snapshots and without, on a machine with this many keys.
pub fn report(keys: usize, pairs: usize, duration: Duration) {
    let rows = [
        "PUT/s",
        "p50, us",
        "p99, us",
        "server CPU, us a request",
        "snapshots",
    ];
    let rows = rows.map(String::from);
    alternate(&["with snapshots", "without"], pairs, &rows, |i| {
        let args: &[&str] = if i == 0 { &[] } else { &["-snapshot=false"] };
        measure(args, keys, duration)
    });
}

fn measure(args: &[&str], keys: usize, duration: Duration) -> Vec<f64> {
    let server = Server::start(args);
    let load = Load {
        keys,
        ..Load::of(server.client_at(), Mode::Put, CONNECTIONS, duration)
    };
    fill(&load).expect("each write succeeds");
    let snapshots_before = saved(&server);
    let cpu_before = proc::cpu_time(server.pid()).expect("it runs");
    let report = run(&load).expect("each write succeeds");
    let cpu = proc::cpu_time(server.pid()).expect("it runs") - cpu_before;
    vec![
        report.per_second(),
        report.latency.value_at_quantile(0.5) as f64,
        report.latency.value_at_quantile(0.99) as f64,
        cpu.as_secs_f64() * 1e6 / report.requests as f64,
        (saved(&server) - snapshots_before) as f64,
    ]
}

/// How many snapshots the machine has saved so far.
fn saved(server: &Server) -> usize {
    server.log().matches("snapshot of index").count()
}
