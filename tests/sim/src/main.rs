//! Runs ranges of seeds and prints the result:
//!
//! ```text
//! cargo run --profile sim -p tern-sim -- --seeds A..B [--events N] [--trace] [--each] [--hashes]
//!     [--slow TIMEOUTS] [--fault NAME]
//! cargo run --profile sim -p tern-sim -- --seeds 0..1 --cycles 1000
//! cargo run --profile sim -p tern-sim -- --faults [--seeds A..B] [--limit SECONDS]
//! cargo run --profile sim -p tern-sim -- --hunt NAME [--seeds A..B] [--limit SECONDS]
//! ```
//!
//! One line a seed with `--each`; with `--slow` the seeds that took longer to become equal, and
//! what they waited for; one line of the ledger at the end. A violation prints the trace of the
//! last happenings, the check and the line that does it again, and ends the run with exit code 1.
//! `--faults` plants each fault of the catalogue in turn and prints what caught it; exit code 1 if
//! one was not. `--hunt` prints what caught the fault that this program was built with, under that
//! name; exit code 1 if nothing did. The program `planted` builds such copies.
use std::time::Duration;
use tern_sim::Plant;
use tern_sim::faults::{catalogue, cpu_time, hunt};
use tern_sim::ledger::Ledger;
use tern_sim::run::{Options, run, run_cycles};

struct Args {
    seeds: std::ops::Range<u64>,
    options: Options,
    /// Print a line for each seed.
    each: bool,
    /// Print only seeds and trace hashes, to be compared between processes.
    hashes: bool,
    /// Print what seeds waited for that took more election timeouts than this to become equal.
    slow: u64,
    /// Cycles of removal and return in place of faults.
    cycles: Option<u64>,
    /// Hunt the whole catalogue.
    faults: bool,
    /// Hunt the fault of this name that the program was built with.
    hunt: Option<String>,
    /// Time for each fault.
    limit: Duration,
}

fn parse() -> Args {
    let mut parsed = Args {
        seeds: 0..100,
        options: Options {
            events: 20_000,
            plant: Plant::default(),
            loud: false,
        },
        each: false,
        hashes: false,
        slow: u64::MAX,
        cycles: None,
        faults: false,
        hunt: None,
        limit: Duration::from_secs(60),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match &*arg {
            "--seeds" => {
                let text = value();
                let (from, to) = text.split_once("..").expect("--seeds A..B");
                parsed.seeds = from.parse().expect("a number")..to.parse().expect("a number");
            }
            "--events" => parsed.options.events = value().parse().expect("a number"),
            "--trace" => parsed.options.loud = true,
            "--each" => parsed.each = true,
            "--hashes" => parsed.hashes = true,
            "--slow" => parsed.slow = value().parse().expect("a number"),
            "--cycles" => parsed.cycles = Some(value().parse().expect("a number")),
            "--faults" => parsed.faults = true,
            "--limit" => parsed.limit = Duration::from_secs(value().parse().expect("seconds")),
            "--hunt" => parsed.hunt = Some(value()),
            "--fault" => {
                let name = value();
                let found = catalogue().into_iter().find(|f| f.name == name);
                parsed.options.plant = found.expect("a fault of the catalogue").plant;
            }
            other => panic!("{other} is not known; see the head of tests/sim/src/main.rs"),
        }
    }
    parsed
}

/// Whether each of the faults was caught.
fn hunt_all(args: &Args) -> bool {
    if cfg!(panic = "abort") {
        panic!("a caught panic must not end the hunt: use --profile sim");
    }
    std::panic::set_hook(Box::new(|_| {}));
    let faults = match &args.hunt {
        Some(name) => vec![(name.clone(), args.options.plant)],
        None => catalogue()
            .into_iter()
            .map(|f| (f.name.to_string(), f.plant))
            .collect(),
    };
    let mut missed = 0;
    for (name, plant) in faults {
        let found = hunt(&name, plant, &args.options, args.seeds.clone(), args.limit);
        println!("{}", found.row());
        missed += usize::from(found.by.is_none());
    }
    missed == 0
}

fn main() {
    let args = parse();
    if args.faults || args.hunt.is_some() {
        let status = if hunt_all(&args) { 0 } else { 1 };
        std::process::exit(status);
    }
    let start = cpu_time();
    let mut ledger = Ledger::new(args.seeds.start);
    for seed in args.seeds.clone() {
        let report = match args.cycles {
            Some(cycles) => run_cycles(seed, &args.options, cycles),
            None => run(seed, &args.options),
        };
        if let Some(failure) = report.failure {
            println!("{}", failure.tell(seed));
            std::process::exit(1);
        }
        if args.hashes {
            println!("{seed} {:016x}", report.hash);
        } else if args.each {
            println!("{seed} {:?}", report.counts);
        }
        if report.counts.converged_milli / 1_000 >= args.slow {
            println!(
                "{seed} converged {} ({}) after {:?}",
                report.counts.converged_milli, report.pace, report.waits
            );
        }
        ledger.add(&report.counts);
    }
    if !args.hashes {
        let seconds = (cpu_time() - start).as_secs_f64();
        println!("{ledger}");
        eprintln!(
            "{:.1} s of one core, {:.0} events a second",
            seconds,
            ledger.total.events as f64 / seconds
        );
    }
}
