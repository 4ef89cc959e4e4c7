//! A directed run: a member is removed and cut off, in either order, stays away for a while, comes
//! back, is told, waits as a standby and joins again; then the next one. All checks of the
//! simulator run beside it; after each cycle the members that stayed are in the term in which they
//! were before. Start at `drive`.
use super::cluster::{Asker, Phase, World, name_of};
use super::net::NetParams;
use super::params::Params;
use super::truth::violation;
use tern::core::machine::Op;

/// A cycle may take so many election timeouts and sync intervals.
const CYCLE_TIMEOUTS: u64 = 200;
const CYCLE_INTERVALS: u64 = 4;

/// A calm cluster of five with a little load: nothing happens to it but the cycles.
pub fn calm(drawn: Params) -> Params {
    let delay_us_min = drawn.net.delay_us_min;
    Params {
        machines: 5,
        spare: 0,
        bootstrap: false,
        heartbeat_ms: 30,
        election_ms: 150,
        active_size: 5,
        remove_delay_ms: 1_800_000,
        sync_interval_ms: 1_000,
        net: NetParams {
            delay_us_min,
            delay_us_max: delay_us_min + 1_000,
            line_us: 0,
            ..drawn.net.healed()
        },
        sync_us_max: drawn.sync_us_min + 500,
        slow_ppm: 0,
        clients: 2,
        think_us_max: 300_000,
        blows: Vec::new(),
        ..drawn
    }
}

/// Runs so many cycles, until a check fails.
pub fn drive(world: &mut World, cycles: u64) {
    wait_for(world, "the cluster", |w| {
        w.phase == Phase::Faults && w.is_settled()
    });
    for cycle in 0..cycles {
        if world.violation.is_some() {
            return;
        }
        one_cycle(world, cycle);
    }
    world.phase = Phase::Done;
}

/// Steps until something is so.
fn wait_for(world: &mut World, what: &str, is_so: impl Fn(&World) -> bool) {
    let p = &world.p;
    let until_us = world.now_us
        + CYCLE_TIMEOUTS * p.election_ms * 1_000
        + CYCLE_INTERVALS * p.sync_interval_ms * 1_000;
    while world.violation.is_none() && !is_so(world) {
        if world.now_us > until_us || !world.step() {
            let text = format!("{what} does not come; {}", world.why_not_equal());
            world.fail(violation("cycle", text));
        }
    }
}

fn pass(world: &mut World, timeouts_milli: u64) {
    let until_us = world.now_us + timeouts_milli * world.p.election_ms;
    while world.violation.is_none() && world.now_us < until_us && world.step() {}
}

fn one_cycle(world: &mut World, cycle: u64) {
    let leader = world.leader().expect("the cluster is settled");
    let others: Vec<usize> = (0..world.hosts.len()).filter(|s| *s != leader).collect();
    let slot = *world.rng.pick(&others);
    let seen = world.up(slot).expect("all run").seen;
    let (id, term) = (seen.id, seen.term);
    world.trace.note(slot, "cycle", cycle, id, term);
    let cut_first = world.rng.chance(600_000);
    if cut_first {
        world.net.cut_off(|other| other == slot);
        let before = world.rng.below(4_000);
        pass(world, before);
    }
    let ticket = world.new_ticket(Asker::Admin, leader);
    let epoch = world.hosts[leader].epoch;
    let op = Op::MachineRemove {
        name: name_of(slot),
        for_good: false,
    };
    world.input(leader, epoch, |_, run, now| {
        run.core.on_request(now, ticket, op)
    });
    if !cut_first {
        // Somewhere between the request and the word of it.
        let us = world.rng.below(30);
        pass(world, us);
        world.net.cut_off(|other| other == slot);
    }
    wait_for(world, "the removal", |w| w.truth.removed.contains_key(&id));
    let away = world.rng.below(20_000);
    pass(world, away / 2);
    if world.rng.chance(300_000) {
        world.crash_for_a_while(slot);
    }
    pass(world, away / 2);
    world.net.mend();
    wait_for(world, "the machine that was removed", |w| {
        w.up(slot)
            .is_some_and(|r| r.seen.id != id && r.seen.id != 0)
            && w.is_settled()
    });
    for other in others
        .iter()
        .copied()
        .chain([leader])
        .filter(|s| *s != slot)
    {
        let now = world.up(other).map_or(0, |r| r.seen.term);
        if now != term {
            let text = format!(
                "m{other} was in term {term} before cycle {cycle}, and is in {now} after it"
            );
            world.fail(violation("cycle-term", text));
        }
    }
}
