//! `cargo bench --bench slow_disk -- --seconds 3 --delays 0,3,10,100,300,500`: one machine on a disk
//! whose syncs take so many milliseconds longer. `strace` delays each sync, which holds up only the
//! thread that makes it.
//!
//! The table has PUT over 64 connections, and GET over 16 with and without 16 writers beside them:
//! reads must not wait for a sync.
#[allow(dead_code)]
mod driver;
mod flags;

use driver::{Load, Mode, Report, fill, run};
use flags::{numbers, read_flags};
use std::time::Duration;
use tern_support::server::{Server, Syncs};

/// Connections that write alone.
const PUT_CONNECTIONS: usize = 64;
/// Connections that read, and those that write beside them.
const MIXED_CONNECTIONS: usize = 16;
/// The keys that are read and written.
const KEYS: usize = 1_000;

fn main() {
    let mut seconds = 3.0;
    let mut delays = vec![0, 3, 10, 100, 300, 500];
    for (flag, value) in read_flags(&["--seconds", "--delays"]) {
        match flag.as_str() {
            "--seconds" => seconds = value.parse().expect("a number"),
            _ => delays = numbers(&value),
        }
    }
    println!(
        "| sync, ms more | PUT/s | p50, ms | GET/s | p50, ms | p99, ms | GET/s beside writers | p50, ms | p99, ms | PUT/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for delay_ms in delays {
        row(delay_ms, Duration::from_secs_f64(seconds));
    }
}

fn row(delay_ms: u64, duration: Duration) {
    let mut server = Server::prepare(&[]);
    server.syncs = match delay_ms {
        0 => Syncs::Real,
        _ => Syncs::Slow(delay_ms),
    };
    server.run();
    let load = |mode, connections| Load {
        address: server.client_at(),
        mode,
        connections,
        duration,
        requests_max: u64::MAX,
        value_bytes: 64,
        keys: KEYS,
    };
    let get = load(Mode::Get, MIXED_CONNECTIONS);
    let full = fill(&load(Mode::Put, 256));
    full.expect("each write succeeds");
    let put = done(&load(Mode::Put, PUT_CONNECTIONS));
    let alone = done(&get);
    let (beside, writers) = std::thread::scope(|scope| {
        let writers = load(Mode::Put, MIXED_CONNECTIONS);
        let writers = scope.spawn(move || done(&writers));
        let beside = done(&get);
        (beside, writers.join().expect("no thread panics"))
    });
    println!(
        "| {delay_ms} | {:.0} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} |",
        put.per_second(),
        ms(&put, 0.5),
        alone.per_second(),
        ms(&alone, 0.5),
        ms(&alone, 0.99),
        beside.per_second(),
        ms(&beside, 0.5),
        ms(&beside, 0.99),
        writers.per_second(),
    );
}

fn done(load: &Load) -> Report {
    run(load).expect("each request succeeds")
}

fn ms(report: &Report, quantile: f64) -> f64 {
    report.latency.value_at_quantile(quantile) as f64 / 1e3
}
