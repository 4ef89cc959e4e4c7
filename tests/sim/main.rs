//! Runs seeds: `cargo run --release --example sim -- --seeds A..B`.
#[path = "lib.rs"]
mod sim;

use sim::Plant;
use sim::run::{Options, run};

fn main() {
    let mut seeds = 0..100;
    let mut options = Options {
        events: 20_000,
        plant: Plant::default(),
        loud: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match &*arg {
            "--seeds" => {
                let text = value();
                let (a, b) = text.split_once("..").expect("A..B");
                seeds = a.parse().expect("a number")..b.parse().expect("a number");
            }
            "--events" => options.events = value().parse().expect("a number"),
            "--trace" => options.loud = true,
            other => panic!("unknown argument {other}"),
        }
    }
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let start = std::time::Instant::now();
    let mut events = 0;
    for seed in seeds {
        let report = run(seed, &options);
        events += report.counts.events;
        if let Some(failure) = report.failure {
            println!(
                "seed {seed}: {}: {}",
                failure.violation.check, failure.violation.text
            );
            println!("{}", failure.params);
            for line in failure.last {
                println!("{line}");
            }
            println!(
                "cargo run --release --example sim -- --seeds {seed}..{}",
                seed + 1
            );
            std::process::exit(1);
        }
        println!("{seed} {:016x} {:?}", report.hash, report.counts);
    }
    let s = start.elapsed().as_secs_f64();
    println!(
        "{events} events in {s:.1} s, {:.0} a second",
        events as f64 / s
    );
}
