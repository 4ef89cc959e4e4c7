//! The catalogue of faults that the simulated world plays: each must be caught by one of the checks
//! that run for every seed anyway.
//!
//! The disk lies, or what leaves the core is changed on its way. Faults of the core itself are
//! changes of its text (`tests/sim/mutations`), which the program `planted` makes. Start at
//! `catalogue`.
use super::cluster::Plant;
use super::run::{Options, run};
use std::time::Duration;

/// Name, what goes wrong, and how it is planted.
type Row = (&'static str, &'static str, fn(&mut Plant));

const ROWS: [Row; 20] = [
    (
        "DiskSyncNotDone",
        "a sync is reported before it is made",
        |p| p.lies.no_sync = true,
    ),
    (
        "DiskStateNotWritten",
        "term and vote are not written",
        |p| p.lies.no_state = true,
    ),
    (
        "DiskDirectoryNotSynced",
        "a snapshot's file is gone after a crash",
        |p| p.lies.no_directory = true,
    ),
    (
        "DiskBatchCutShort",
        "only the first entry of a batch is written",
        |p| p.lies.short_batch = true,
    ),
    (
        "DiskTailComesBack",
        "a truncation is forgotten by the disk",
        |p| p.lies.stale_tail = true,
    ),
    (
        "DiskRepairForgotten",
        "a repaired body is not written",
        |p| p.lies.no_repair = true,
    ),
    (
        "DiskSnapshotOfAnother",
        "a snapshot has the content of the one before it",
        |p| p.lies.old_snapshot = true,
    ),
    (
        "DiskMarkForgotten",
        "a commit mark of its own is not written",
        |p| p.lies.no_mark = true,
    ),
    (
        "MarkEmpty",
        "a commit mark of its own covers nothing",
        |p| p.lies.mark_empty = true,
    ),
    (
        "DiskTailLost",
        "a power cut takes the last durable entry",
        |p| p.lies.tail_lost = true,
    ),
    (
        "DiskStateLost",
        "a power cut takes the newest term and vote",
        |p| p.lies.state_lost = true,
    ),
    (
        "IncarnationKept",
        "a wiped directory keeps its number",
        |p| p.lies.incarnation_kept = true,
    ),
    ("EventLost", "an event does not reach its watchers", |p| {
        p.seam.event_lost = true
    }),
    ("EventTwice", "an event reaches its watchers twice", |p| {
        p.seam.event_twice = true
    }),
    (
        "EventsSwapped",
        "the events of a turn leave in reverse",
        |p| p.seam.events_swapped = true,
    ),
    (
        "StateSyncedEarly",
        "term and vote are reported durable when their sync begins",
        |p| p.seam.state_early = true,
    ),
    (
        "AnswersSwapped",
        "two answers of a turn go to each other's clients",
        |p| p.seam.answers_swapped = true,
    ),
    (
        "WriteTwice",
        "a write of a client is given to the machine twice",
        |p| p.seam.write_twice = true,
    ),
    (
        "SenderMistaken",
        "a message counts as another member's",
        |p| p.seam.sender_mistaken = true,
    ),
    (
        "TimersLate",
        "a machine's timers fire five seconds late",
        |p| p.seam.timers_late = true,
    ),
];

/// One fault.
pub struct Tampering {
    pub name: &'static str,
    /// What goes wrong, in a few words.
    pub meaning: &'static str,
    pub plant: Plant,
}

/// Every fault.
pub fn catalogue() -> Vec<Tampering> {
    let planted = ROWS.iter().map(|(name, meaning, set)| {
        let mut plant = Plant::default();
        set(&mut plant);
        Tampering {
            name,
            meaning,
            plant,
        }
    });
    planted.collect()
}

/// What became of one fault.
pub struct Caught {
    pub name: String,
    /// Check, seed, events of that seed; `None`: not caught.
    pub by: Option<(&'static str, u64, u64)>,
    pub seeds: u64,
    pub took: Duration,
}

impl Caught {
    pub fn row(&self) -> String {
        let took = self.took.as_secs_f64();
        match &self.by {
            Some((check, seed, events)) => {
                format!(
                    "| {} | {check} | {seed} | {events} | {took:.1} s |",
                    self.name
                )
            }
            None => format!(
                "| {} | not caught in {} seeds | | | {took:.1} s |",
                self.name, self.seeds
            ),
        }
    }
}

/// Runs seeds with a fault until a check fails, within a number of seeds and a time.
pub fn hunt(
    name: &str,
    plant: Plant,
    options: &Options,
    seeds: std::ops::Range<u64>,
    limit: Duration,
) -> Caught {
    let start = cpu_time();
    let options = Options { plant, ..*options };
    let mut caught = Caught {
        name: name.to_string(),
        by: None,
        seeds: 0,
        took: Duration::ZERO,
    };
    for seed in seeds {
        caught.seeds += 1;
        let report = run(seed, &options);
        if let Some(failure) = report.failure {
            caught.by = Some((failure.violation.check, seed, report.counts.events));
            break;
        }
        if cpu_time() - start > limit {
            break;
        }
    }
    caught.took = cpu_time() - start;
    caught
}

/// What this process has used of the processor: other processes do not make it longer.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
