//! The runs: episodes by number, and what must hold in each.
use crate::allocator;
use crate::host::{Host, START, incarnation_of, settings};
use crate::messages::{Forger, Part};
use crate::world::{Image, World, forge};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tern::core::machine::*;
use tern::core::raft::PeerId;
use tern_support::durable_disk::DurableDisk;
use tern_support::rng::Rng;

/// Messages of a run, unless `TERN_FUZZ_MESSAGES` says otherwise.
const MESSAGES: u64 = 20_000;
/// Messages of an episode.
const EPISODE_MESSAGES: u64 = 250;
/// Writes must resume this long after the last link of a faulty member has closed, in microseconds.
const RESUME_US_MAX: u64 = 2_000_000;
/// Bytes that an episode may hold at once: the machines and the harness, without the snapshots that
/// were forged.
const HELD_BYTES_MAX: isize = 64 << 20;
/// An id that no member has.
const UNKNOWN: PeerId = PeerId(1 << 50);

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// The disks of a cluster of three, at several moments.
fn images() -> Vec<Image> {
    let mut world = World::default();
    let founder = Host::found();
    let founder_id = founder.id();
    world.hosts.insert(founder_id, founder);
    for number in 2..=3 {
        world.pass(500_000, &mut None);
        let settings = settings(number);
        let join = Op::Join(Join {
            min_version: 2,
            max_version: 2,
            name: settings.name.clone(),
            peer_url: settings.peer_url.clone(),
            client_url: settings.client_url.clone(),
            incarnation: incarnation_of(&settings),
            former: None,
        });
        let host = world.hosts.get_mut(&founder_id).expect("the founder");
        let ticket = host.request(join);
        world.carry_all(&mut None);
        world.pass(200_000, &mut None);
        let host = world.hosts.get_mut(&founder_id).expect("the founder");
        let Some(Outcome::Joined(index)) = host.take_outcome(ticket) else {
            panic!("the machine is admitted");
        };
        let id = PeerId(index.0);
        let now = host.now;
        world.hosts.insert(id, Host::admitted(settings, id, now));
        world.open_links();
        world.pass(500_000, &mut None);
    }
    let mut images = Vec::new();
    for writes in [5, 60, 7] {
        for _ in 0..writes {
            world.write_until(RESUME_US_MAX).expect("a write succeeds");
        }
        world.pass(300_000, &mut None);
        images.push(world.image());
    }
    let voters = world.hosts[&founder_id].machine.configuration().voters();
    assert_eq!(voters.count(), 3, "all are voters");
    let mut lagging = images[2].clone();
    let (last, old) = images[0].last_key_value().expect("three");
    lagging.insert(*last, old.clone());
    images.push(lagging);
    images
}

/// What was run.
#[derive(Default)]
struct Totals {
    messages: u64,
    episodes: u64,
    /// Episodes after which writes had to resume.
    judged: u64,
    /// The slowest of these, in microseconds.
    slowest_us: u64,
}

/// Runs episodes until enough messages are delivered.
fn run(name: &str, episode: impl Fn(&[Image], Rng, &mut World, &mut Totals)) -> Totals {
    let messages_max = number_of("TERN_FUZZ_MESSAGES").unwrap_or(MESSAGES);
    let first_seed = number_of("TERN_FUZZ_SEED").unwrap_or(1);
    let images = images();
    let mut totals = Totals::default();
    while totals.messages < messages_max {
        let seed = first_seed + totals.episodes;
        totals.episodes += 1;
        let mut world = World::default();
        let held = allocator::restart();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            episode(&images, Rng::new(seed), &mut world, &mut totals);
            let grown = allocator::most() - held;
            assert!(grown <= HELD_BYTES_MAX, "memory is bounded: {grown} bytes");
        }));
        if let Err(panic) = outcome {
            eprintln!("the last events, ! before forged messages:");
            for line in &world.trace {
                eprintln!("  {line}");
            }
            for (id, host) in &world.hosts {
                eprintln!("machine {}: {}", id.0, host.brief());
            }
            eprintln!("{name} fails: TERN_FUZZ_SEED={seed} TERN_FUZZ_MESSAGES=1");
            resume_unwind(panic);
        }
    }
    let Totals {
        messages,
        episodes,
        judged,
        slowest_us,
    } = &totals;
    eprintln!(
        "{name}: {messages} messages in {episodes} episodes from seed {first_seed}; writes resumed \
         in {judged}, after {slowest_us} us at most"
    );
    totals
}

/// A faulty member, or an id that is unknown, sends messages amid the traffic of the machines.
fn disturb(world: &mut World, forger: &mut Option<Forger>, froms: &[PeerId], totals: &mut Totals) {
    let mut rng = forger.as_mut().expect("begun").rng.fork();
    let ids: Vec<PeerId> = world.hosts.keys().copied().collect();
    for number in 0..EPISODE_MESSAGES {
        match rng.below(100) {
            0..=9 => drop(world.carry(forger)),
            10..=14 => {
                let us = *rng.pick(&[10_000, 10_000, 50_000, 300_000]);
                world.pass(us, forger);
            }
            15 => {
                if let Some(leader) = world.leader() {
                    leader.write(number);
                    leader.turn();
                }
            }
            16 | 17 => {
                let host = world.hosts.get_mut(rng.pick(&ids)).expect("a host");
                host.acquire();
                host.turn();
            }
            18..=29 => {
                let host = world.hosts.get_mut(rng.pick(&ids)).expect("a host");
                host.settle();
            }
            30..=33 => {
                let host = world.hosts.get_mut(rng.pick(&ids)).expect("a host");
                host.sync_state();
                host.turn();
            }
            _ => {}
        }
        let from = *rng.pick(froms);
        let to = *rng.pick(&ids);
        if from != to && forge(world, forger.as_mut().expect("begun"), from, to) {
            totals.messages += 1;
        }
        check(world);
        if world.hosts.len() < ids.len() {
            return;
        }
    }
}

/// What must hold after each message. A machine that leaves goes: the faulty member's own may, and
/// one whose loss of its place was confirmed. Lies to another machine may have made that one
/// believe it.
fn check(world: &mut World) {
    let faulty = world.faulty;
    world.hosts.retain(|id, host| {
        let may_leave = faulty == Some(*id);
        let Some(alarm) = &host.alarm else {
            return true;
        };
        let may_wipe = host.is_confirmed || host.is_empty();
        let is_wipe = alarm == "Wipe" && may_wipe;
        assert!(may_leave || is_wipe, "machine {}: {alarm}", id.0);
        false
    });
}

/// The faulty member is gone: writes resume, and all machines come back from their disks.
fn recover(world: &mut World, faulty: PeerId, voters: &[PeerId], totals: &mut Totals) {
    world.hosts.remove(&faulty);
    world.faulty = None;
    let ids: Vec<PeerId> = world.hosts.keys().copied().collect();
    for id in &ids {
        world.close_link(*id, faulty);
    }
    let mut must_resume = ids.len() > 1 && !world.is_broken(voters);
    if must_resume {
        let us = world.write_until(RESUME_US_MAX);
        check(world);
        // Messages that were under way may have brought to light what lies had broken.
        must_resume = us.is_some() || !world.is_broken(voters);
        if must_resume {
            let us = us.expect("writes resume");
            totals.judged += 1;
            totals.slowest_us = totals.slowest_us.max(us);
        }
    }
    for host in world.hosts.values() {
        host.check_applied();
    }
    let hosts = std::mem::take(&mut world.hosts);
    for (id, host) in hosts {
        world.hosts.insert(id, host.restart(must_resume));
    }
    world.open_links();
    if must_resume {
        world
            .write_until(2 * RESUME_US_MAX)
            .expect("writes resume after a restart");
    } else {
        world.pass(300_000, &mut None);
    }
    check(world);
}

/// All contents of snapshots in the images, for the forger.
fn snapshots(images: &[Image]) -> Vec<(tern::core::raft::SnapshotMeta, Vec<u8>)> {
    let disks = images.iter().flat_map(|image| image.values());
    disks.flat_map(|disk| disk.snapshots.clone()).collect()
}

fn three(images: &[Image], mut rng: Rng, world: &mut World, totals: &mut Totals) {
    let image = rng.pick(images);
    let hosts = (1..).zip(image.values());
    let hosts = hosts.map(|(number, disk)| Host::start(settings(number), disk.clone(), START));
    *world = World::of(hosts.collect());
    let voters: Vec<PeerId> = image.keys().copied().collect();
    let faulty = match rng.below(10) {
        0 => UNKNOWN,
        _ => *rng.pick(&voters),
    };
    let part = *rng.pick(&[Part::Any, Part::Follower]);
    let mut forger = Some(Forger::new(rng.fork(), part, snapshots(images)));
    if rng.percent(70) {
        world.pass(600_000, &mut None);
    }
    world.faulty = Some(faulty);
    if rng.percent(50) {
        world.hosts.remove(&faulty);
    }
    disturb(world, &mut forger, &[faulty], totals);
    recover(world, faulty, &voters, totals);
}

/// One machine of a cluster, with forged messages of all others.
fn alone(images: &[Image], mut rng: Rng, world: &mut World, totals: &mut Totals) {
    let image = rng.pick(images);
    let ids: Vec<PeerId> = image.keys().copied().collect();
    let own = *rng.pick(&ids);
    let mut disk = image[&own].clone();
    let is_new = rng.percent(15);
    if is_new {
        disk = DurableDisk::of(own);
    } else if rng.percent(30) {
        let first = disk.snapshots.last().map_or(0, |(meta, _)| meta.index.0);
        for _ in 0..rng.range(1, 4) {
            if first < disk.log.last() {
                let index = rng.range(first + 1, disk.log.last());
                disk.log.damage(index, rng.below(9) as u32);
            }
        }
    }
    let number = 1 + ids.iter().position(|id| *id == own).expect("one of them") as u64;
    *world = World::of(vec![Host::start(settings(number), disk, START)]);
    let froms: Vec<PeerId> = ids.iter().copied().filter(|id| *id != own).collect();
    let froms = [&froms[..], &froms[..], &[UNKNOWN]].concat();
    world.faulty = Some(froms[0]);
    let part = *rng.pick(&[Part::Any, Part::Any, Part::Follower]);
    let mut forger = Some(Forger::new(rng.fork(), part, snapshots(images)));
    disturb(world, &mut forger, &froms, totals);
    recover(world, froms[0], &ids, totals);
}

#[test]
fn one_machine_among_forged_messages() {
    run("one machine", alone);
}

#[test]
fn three_machines_with_a_faulty_member() {
    let Totals {
        episodes, judged, ..
    } = run("three machines", three);
    // A few episodes may all be of the kind that is not judged.
    assert!(
        episodes < 100 || judged * 4 >= episodes,
        "writes had to resume in {judged} of {episodes} episodes only"
    );
}
