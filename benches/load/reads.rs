//! Linearizable reads beside plain ones on the leader of three machines: alternating runs against
//! one cluster.
//!
//! A linearizable read takes a round trip to a follower. The followers share the cores of this host
//! with the leader and with this program, so their work counts too.
use crate::cluster::Cluster;
use crate::driver::{Load, Mode, fill, run};
use crate::table::alternate;
use crate::{Kind, proc};
use std::time::Duration;

const MODES: [Mode; 2] = [Mode::LinearizableGet, Mode::Get];

/// Measures and prints the table, with three rows for each count of connections.
pub fn report(rounds: usize, connections: &[usize], duration: Duration) {
    let cluster = Cluster::start(Kind::Tern);
    let leader = cluster.leader();
    let load = Load {
        address: cluster.members[leader].client,
        mode: Mode::Put,
        connections: 64,
        duration,
        requests_max: u64::MAX,
        value_bytes: 64,
        keys: 10_000,
    };
    fill(&load).expect("the keys are set");
    let mut rows = Vec::new();
    for n in connections {
        rows.push(format!("GET, {n} connections: requests a second"));
        rows.push(format!("GET, {n} connections: p99, us"));
        rows.push(format!(
            "GET, {n} connections: CPU of all three, us a request"
        ));
    }
    let names = ["linearizable", "plain"];
    alternate(&names, rounds, &rows, |i| {
        let mut figures = Vec::new();
        for &connections in connections {
            let load = Load {
                mode: MODES[i],
                connections,
                ..load
            };
            let before = cpu_seconds(&cluster);
            let report = run(&load).unwrap_or_else(|e| panic!("{:?}: {e}", MODES[i]));
            figures.push(report.per_second());
            figures.push(report.latency.value_at_quantile(0.99) as f64);
            let cpu = cpu_seconds(&cluster) - before;
            figures.push(cpu * 1e6 / report.requests as f64);
        }
        figures
    });
    assert_eq!(cluster.leader(), leader, "the leader has stayed");
}

/// The processor time of all machines so far.
fn cpu_seconds(cluster: &Cluster) -> f64 {
    let times = cluster.pids().into_iter().map(proc::cpu_time);
    times.map(|t| t.expect("it runs").as_secs_f64()).sum()
}
