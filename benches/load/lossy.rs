//! The cost of loss and delay between three machines with default settings: elections, writes, gaps,
//! log lines.
//!
//! `cargo bench --bench lossy` prints a table; `-- --seconds 30 --clients 16` are the defaults, `--
//! --only loss` or `-- --only trip` runs one half, `--logs` prints the logs of the machines. It runs
//! in namespaces of its own, where the lines between the machines are TUN devices
//! (`tern_support::line`); clients reach the machines without loss or delay. "asked" is half of the
//! rate at which each write takes one round trip and two syncs; the time of two syncs is measured as
//! that of a write on perfect lines. Start reading at `main`.
use std::time::Duration;
use tern_support::line::Line;
use tern_support::lossy::{Figures, cluster, run};
use tern_support::namespace;
use tern_support::net::Net;

const LOSSES_PERCENT: [u64; 4] = [0, 5, 10, 20];
const ROUND_TRIPS_MS: [u64; 4] = [10, 100, 200, 300];
/// How long a write on perfect lines is measured.
const CALIBRATION: Duration = Duration::from_secs(3);

/// The settings of the command line.
struct Settings {
    duration: Duration,
    clients: usize,
    /// Only lines whose names contain it are measured.
    only: String,
    shows_logs: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !namespace::enter_program(&args) {
        return;
    }
    let settings = parse(args);
    println!("| line | elections | writes/s | asked | longest gap, ms | log lines |");
    println!("|---|---|---|---|---|---|");
    let mut net = Net::start(3);
    for loss_percent in LOSSES_PERCENT {
        let line = Line {
            loss_percent,
            ..Line::default()
        };
        row(&mut net, &format!("{loss_percent} % loss"), line, &settings);
    }
    for round_trip_ms in ROUND_TRIPS_MS {
        let line = Line {
            round_trip: Duration::from_millis(round_trip_ms),
            ..Line::default()
        };
        let name = format!("{round_trip_ms} ms round trip");
        row(&mut net, &name, line, &settings);
    }
}

fn parse(args: Vec<String>) -> Settings {
    let mut settings = Settings {
        duration: Duration::from_secs(30),
        clients: 16,
        only: String::new(),
        shows_logs: false,
    };
    let mut args = args.into_iter().filter(|arg| arg != "--bench");
    while let Some(flag) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match flag.as_str() {
            "--logs" => settings.shows_logs = true,
            "--only" => settings.only = value(),
            "--clients" => settings.clients = value().parse().expect("a number"),
            "--seconds" => {
                settings.duration = Duration::from_secs(value().parse().expect("a number"));
            }
            other => panic!("unknown flag {other}: --seconds, --clients, --only, --logs"),
        }
    }
    settings
}

/// Measures one line with a cluster of its own, and prints its row.
fn row(net: &mut Net, name: &str, line: Line, settings: &Settings) {
    if !name.contains(&settings.only) {
        return;
    }
    let servers = cluster(net, &[]);
    let alone = run(net, &servers, Line::default(), (1, CALIBRATION));
    let syncs = alone.took / alone.writes.max(1) as u32;
    let figures = run(net, &servers, line, (settings.clients, settings.duration));
    let asked = settings.clients as f64 / (line.round_trip + syncs).as_secs_f64() / 2.0;
    print_row(name, &figures, asked);
    if settings.shows_logs {
        for server in &servers {
            eprintln!("{name}: {}\n{}", server.name, server.log());
        }
    }
}

fn print_row(name: &str, figures: &Figures, asked: f64) {
    println!(
        "| {name} | {} | {:.0} | {asked:.0} | {} | {} |",
        figures.elections,
        figures.rate(),
        figures.gap.as_millis(),
        figures.log_lines,
    );
}
