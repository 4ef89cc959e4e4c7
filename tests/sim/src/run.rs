//! One seed from beginning to end, and its report.
use super::cluster::{Phase, Plant, World};
use super::counts::Counts;
use super::cycles;
use super::params::Params;
use super::truth::{Checked, Violation, violation};
use super::workload::{register_of, value_of};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tern_support::linear::{self, Act, Call, Res, Verdict};
use tern_support::rng::Rng;

/// Steps of search that one register's history may take.
const STEPS_MAX: u64 = 3_000_000;

/// How to run seeds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub events: u64,
    pub plant: Plant,
    pub loud: bool,
}

/// What a seed came to.
pub struct Report {
    pub seed: u64,
    pub counts: Counts,
    pub hash: u64,
    /// What the healing waited for, and until when, in thousandths of an election timeout.
    pub waits: Vec<(String, u64)>,
    /// The election timeout and the length of the lines, and whether values have the largest length.
    pub pace: String,
    pub failure: Option<Failure>,
}

pub struct Failure {
    pub violation: Violation,
    pub params: String,
    pub last: Vec<String>,
}

impl Failure {
    /// What is printed: the check, the parameters, the last happenings, and the line that does it
    /// again.
    pub fn tell(&self, seed: u64) -> String {
        let Violation { check, text } = &self.violation;
        let last = self.last.join("\n");
        format!(
            "{last}\n{}\nseed {seed}: {check}: {text}\ncargo run --profile sim -p tern-sim -- --seeds {seed}..{}",
            self.params,
            seed + 1
        )
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Report {
    let world = World::new(seed, options.plant, options.loud);
    watched(seed, world, |world| drive(world, options.events))
}

/// Runs cycles of removal and return.
pub fn run_cycles(seed: u64, options: &Options, cycles: u64) -> Report {
    let mut rng = Rng::new(seed);
    let p = cycles::calm(Params::draw(&mut rng));
    let world = World::with(p, rng, options.plant, options.loud);
    watched(seed, world, |world| {
        cycles::drive(world, cycles);
        check_the_whole(world);
    })
}

fn watched(seed: u64, mut world: World, drive: impl FnOnce(&mut World)) -> Report {
    let ran = catch_unwind(AssertUnwindSafe(|| drive(&mut world)));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        world.fail(violation("panic", text.unwrap_or_default()));
    }
    world.counts.elections = world.truth.elections();
    world.counts.changes = world.truth.membership_changes;
    world.counts.is_quick = world.p.net.line_us == 0 && world.p.longest_ppm == 0;
    world.counts.longest = world.truth.longest_commits;
    let failure = world.violation.take().map(|violation| Failure {
        violation,
        params: format!("{:?}", world.p),
        last: world.trace.last().map(|l| l.to_string()).collect(),
    });
    Report {
        seed,
        counts: world.counts,
        hash: world.trace.hash.0,
        waits: world.waits,
        pace: format!(
            "election {} ms, lines of {} ms{}",
            world.p.election_ms,
            world.p.net.line_us / 1_000,
            if world.p.longest_ppm > 0 {
                ", longest values"
            } else {
                ""
            },
        ),
        failure,
    }
}

fn drive(world: &mut World, events: u64) {
    while world.violation.is_none() && world.phase != Phase::Done {
        let over = world.counts.events >= events;
        if over && world.phase == Phase::Faults {
            world.heal();
        }
        if !world.step() {
            world.fail(violation("liveness", "nothing is left to happen".into()));
        }
    }
    check_the_whole(world);
}

fn check_the_whole(world: &mut World) {
    if world.violation.is_none() {
        let last = world.check_watchers();
        world.fail(last);
        let last = check_histories(world);
        world.fail(last);
    }
}

/// Every register's history is linearizable.
fn check_histories(world: &mut World) -> Checked {
    let mut written = BTreeMap::new();
    for told in &world.truth.model.events {
        let value = told.event.node.value.as_deref().and_then(value_of);
        if let Some(value) = value
            && register_of(&told.event.node.key).is_some()
        {
            written.insert(value, told.event.node.modified.0);
        }
    }
    for (key, calls) in world.calls.iter().enumerate() {
        let calls: Vec<Call> = calls.iter().filter_map(|c| settle(c, &written)).collect();
        world.trace.hash.add(linear::hash(&calls));
        match linear::check(&calls, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Violation => {
                let text = format!(
                    "the {} operations on r{key} have no order: {}",
                    calls.len(),
                    linear::smallest(&calls)
                );
                return violation("linearizability", text);
            }
            Verdict::Open => {
                return violation(
                    "linearizability-open",
                    format!("r{key}: {} operations", calls.len()),
                );
            }
        }
    }
    Ok(())
}

/// A write without an answer whose value was never committed did not happen: all logs are equal
/// now. One that was committed happened where its event says, which only guides the search.
fn settle(call: &Call, written: &BTreeMap<u32, u64>) -> Option<Call> {
    if call.called == u64::MAX {
        return None;
    }
    if call.res != Res::Unknown {
        return Some(*call);
    }
    let value = match call.act {
        Act::Get => return None,
        Act::Set(v) | Act::Create(v) | Act::Update(v) | Act::Swap { to: v, .. } => v,
        Act::Delete | Act::CompareDelete { .. } => return Some(*call),
    };
    written.get(&value).map(|etcd| Call {
        hint: etcd * 2,
        ..*call
    })
}
