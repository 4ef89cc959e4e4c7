//! The simulator's part in `cargo test`: a few seeds, and the seeds that once found a fault. Whole
//! ranges are run by the program (`src/main.rs`).
use tern_sim::Plant;
use tern_sim::run::{Options, Report, run, run_cycles};

/// A test build is slow; the program runs 20,000 events a seed, and so do the seeds that found a
/// fault.
const EVENTS: u64 = 4_000;
const EVENTS_FOUND: u64 = 20_000;
const SEEDS: std::ops::Range<u64> = 0..12;

fn options() -> Options {
    Options {
        events: EVENTS,
        plant: Plant::default(),
        loud: false,
    }
}

fn good(seed: u64) -> Report {
    good_for(seed, &options())
}

fn good_for(seed: u64, options: &Options) -> Report {
    let report = run(seed, options);
    if let Some(failure) = &report.failure {
        panic!("{}", failure.tell(seed));
    }
    report
}

#[test]
fn a_few_seeds_run_without_a_violation() {
    let mut commits = 0;
    for seed in SEEDS {
        commits += good(seed).counts.commits;
    }
    assert!(
        commits > 1_000,
        "{commits} commits are too few to mean anything"
    );
}

#[test]
fn seeds_that_once_found_a_fault_find_none() {
    for line in include_str!("../seeds.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
    {
        let seed = line.split(' ').next().expect("split gives one");
        good_for(
            seed.parse().expect("a seed"),
            &Options {
                events: EVENTS_FOUND,
                ..options()
            },
        );
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 100..103 {
        assert_eq!(good(seed).hash, good(seed).hash, "seed {seed}");
    }
}

/// A thousand of them are run by the program: `--seeds 0..1 --cycles 1000`.
#[test]
fn members_are_removed_cut_off_and_come_back() {
    let report = run_cycles(0, &options(), 12);
    if let Some(failure) = &report.failure {
        panic!("{}", failure.tell(0));
    }
    assert_eq!(
        report.counts.switches, 24,
        "each becomes a standby and a member again"
    );
}
