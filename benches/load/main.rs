//! Load runner: drives any server with the v2 interface by its URL and prints throughput, latency
//! and, given the server's process id, its CPU time per request.
//!
//! `cargo bench --bench load -- --url http://127.0.0.1:4001 --mode put --connections 64 --seconds 10 --pid 1234`
#[allow(dead_code)]
mod driver;
#[allow(dead_code)]
mod proc;

use driver::{Load, Mode, fill, run};
use proc::cpu_time;
use std::net::ToSocketAddrs;
use std::time::Duration;

const USAGE: &str =
    "usage: load --url http://HOST:PORT [--mode put|get|linearizable-get|watch] [--connections 1,16,64,256] [--seconds 5]
            [--requests N] [--value-bytes 64] [--keys 10000] [--pid SERVER,SERVER...]";

struct Args {
    load: Load,
    connections: Vec<usize>,
    pids: Vec<u32>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut url = String::new();
    let (mut mode, mut seconds, mut requests_max, mut value_bytes, mut keys) =
        (Mode::Put, 5.0, u64::MAX, 64, 10_000);
    let (mut connections, mut pids) = (vec![1, 16, 64, 256], vec![]);
    while let Some(flag) = args.next() {
        if flag == "--bench" {
            continue; // cargo adds it
        }
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        let bad = |_| format!("{flag}: not a number: {value}");
        match flag.as_str() {
            "--url" => url = value.clone(),
            "--mode" => {
                mode = match value.as_str() {
                    "put" => Mode::Put,
                    "get" => Mode::Get,
                    "linearizable-get" => Mode::LinearizableGet,
                    "watch" => Mode::Watch,
                    other => {
                        return Err(format!(
                            "--mode: put, get, linearizable-get or watch, not {other}"
                        ));
                    }
                }
            }
            "--connections" => connections = list(&value)?,
            "--pid" => pids = list(&value)?,
            "--seconds" => {
                seconds = value
                    .parse()
                    .map_err(|_| format!("{flag}: not a number: {value}"))?
            }
            "--requests" => requests_max = value.parse().map_err(bad)?,
            "--value-bytes" => value_bytes = value.parse().map_err(bad)?,
            "--keys" => keys = value.parse().map_err(bad)?,
            other => return Err(format!("unknown flag {other}")),
        }
    }
    let host = url
        .strip_prefix("http://")
        .ok_or("--url http://HOST:PORT is needed")?
        .trim_end_matches('/');
    let address = host
        .to_socket_addrs()
        .map_err(|e| format!("{host}: {e}"))?
        .next()
        .ok_or("no such host")?;
    let duration = Duration::from_secs_f64(seconds);
    Ok(Args {
        load: Load {
            address,
            mode,
            connections: 0,
            duration,
            requests_max,
            value_bytes,
            keys,
        },
        connections,
        pids,
    })
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split(',')
        .map(|t| t.parse().map_err(|_| format!("not a number: {t}")))
        .collect()
}

fn main() {
    let args = parse(std::env::args().skip(1)).unwrap_or_else(|why| {
        eprintln!("{why}\n{USAGE}");
        std::process::exit(2);
    });
    println!(
        "{:>5} {:>5} {:>10} {:>9} {:>9} {:>9} {:>10}",
        "mode", "conns", "per s", "p50 us", "p99 us", "p99.9 us", "cpu us/req"
    );
    for &connections in &args.connections {
        let load = Load {
            connections,
            ..args.load
        };
        let used = |pids: &[u32]| {
            pids.iter()
                .map(|&p| cpu_time(p).expect("--pid names a process"))
                .sum::<Duration>()
        };
        let fail = |e| {
            eprintln!("load: {e}");
            std::process::exit(1);
        };
        if matches!(load.mode, Mode::Get | Mode::LinearizableGet) {
            fill(&load).unwrap_or_else(fail);
        }
        let before = used(&args.pids);
        let report = run(&load).unwrap_or_else(fail);
        let cpu = (used(&args.pids) - before).as_secs_f64() * 1e6 / report.requests as f64;
        let at = |q| report.latency.value_at_quantile(q);
        println!(
            "{:>5} {:>5} {:>10.0} {:>9} {:>9} {:>9} {:>10}",
            format!("{:?}", load.mode).to_lowercase(),
            connections,
            report.per_second(),
            at(0.5),
            at(0.99),
            at(0.999),
            if args.pids.is_empty() {
                "-".into()
            } else {
                format!("{cpu:.1}")
            }
        );
    }
}
