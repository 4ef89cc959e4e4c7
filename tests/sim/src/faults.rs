//! The catalogue of planted faults: each must be caught by one of the checks that run for every
//! seed anyway.
//!
//! Those of raft, of the leader's duties and of the key space are planted there (cargo feature
//! `faults`); faults of the disk and of the shell are played here by the simulated disk, or done to
//! what leaves the core. Start at `catalogue`.
use super::cluster::Plant;
use super::disk::Lies;
use super::run::{Options, run};
use std::time::Duration;

/// Plants one fault of the disk or the shell.
type Lie = fn(&mut Lies);

/// Name and plant of every fault.
pub fn catalogue() -> Vec<(String, Plant)> {
    let lies = |set: Lie| {
        let mut plant = Plant::default();
        set(&mut plant.lies);
        plant
    };
    let mut all: Vec<(String, Plant)> = Vec::new();
    #[cfg(feature = "faults")]
    for fault in tern::core::raft::fault::RaftFault::ALL {
        let plant = Plant {
            raft: Some(*fault),
            ..Plant::default()
        };
        all.push((format!("{fault:?}"), plant));
    }
    #[cfg(feature = "faults")]
    for fault in tern::core::machine::fault::DutyFault::ALL {
        let plant = Plant {
            duties: Some(*fault),
            ..Plant::default()
        };
        all.push((format!("{fault:?}"), plant));
    }
    #[cfg(feature = "faults")]
    for fault in tern::core::store::fault::StoreFault::ALL {
        let plant = Plant {
            store: Some(fault),
            ..Plant::default()
        };
        all.push((format!("Store{fault:?}"), plant));
    }
    let told: [(&str, Lie); 13] = [
        ("DiskSyncNotDone", |l| l.no_sync = true),
        ("DiskStateNotWritten", |l| l.no_state = true),
        ("DiskDirectoryNotSynced", |l| l.no_directory = true),
        ("DiskBatchCutShort", |l| l.short_batch = true),
        ("DiskTailComesBack", |l| l.stale_tail = true),
        ("DiskRepairForgotten", |l| l.no_repair = true),
        ("DiskSnapshotOfAnother", |l| l.old_snapshot = true),
        ("DiskTailLost", |l| l.tail_lost = true),
        ("DiskStateLost", |l| l.state_lost = true),
        ("IncarnationKept", |l| l.incarnation_kept = true),
        ("EventLost", |l| l.event_lost = true),
        ("EventTwice", |l| l.event_twice = true),
        ("EventsSwapped", |l| l.events_swapped = true),
    ];
    all.extend(told.map(|(name, set)| (name.to_string(), lies(set))));
    all
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
