//! The cluster clock: ttls among wall clocks that are wrong, corrected or far apart.
use super::cluster::cluster;
use super::rig::*;
use tern::core::cluster_time::{Lease, Stamp};
use tern::core::command::{Command, KeyPath};
use tern::core::machine::*;
use tern::core::raft::PeerId;
use tern::core::seam::Fact;

const SECOND_NS: u64 = 1_000_000_000;
const YEAR_NS: u64 = 365 * 86_400 * SECOND_NS;

/// When the file at a path expires, as it is shown.
fn shown_ns(rig: &mut Rig, path: &str) -> u64 {
    let outcome = rig.done(get(path));
    let Outcome::Page { items, .. } = outcome else {
        panic!("{outcome:?}");
    };
    items[0].view.expires_ns.expect("it expires")
}

/// A client keeps the file at a path for another `ttl_ms`.
fn refresh_for(path: &str, ttl_ms: u64) -> Op {
    Op::Write(Command::Update {
        path: KeyPath::new(path),
        value: None,
        lease: Some(Lease::new(ttl_ms as i64 * 1_000_000, Stamp::default())),
        refresh: true,
    })
}

/// The machine alone, restarted after `down_s` seconds, with its wall clock set to `wall_ns`.
fn restart_at(rig: Rig, down_s: u64, wall_ns: u64) -> Rig {
    let mut rig = rig;
    rig.now.mono_us += down_s * SECOND_US;
    rig.now.wall_ns = wall_ns;
    let mut rig = rig.restart();
    rig.settle();
    rig
}

/// A board that starts in 1970 and is corrected later.
#[test]
fn protocol_18_a_corrected_wall_clock_ends_no_lease() {
    let mut rig = Rig::serving(settings(1));
    rig.now.wall_ns = 5 * SECOND_NS;
    rig.done(set_for("/lease", 10_000));
    rig.pass(5 * SECOND_US);
    rig.now.wall_ns += 56 * YEAR_NS;
    rig.pass(5 * SECOND_US - 1);
    assert!(rig.value("/lease").is_some(), "five seconds are left");
    rig.now.wall_ns -= 56 * YEAR_NS;
    rig.pass(1);
    assert_eq!(rig.value("/lease"), None, "ten seconds have passed");
}

#[test]
fn protocol_19_a_failover_to_a_wall_clock_an_hour_ahead_ends_no_lease() {
    let (mut cluster, ids) = three();
    cluster.at(ids[1]).now.wall_ns += 3_600 * SECOND_NS;
    cluster.at(ids[2]).now.wall_ns -= 3_600 * SECOND_NS;
    cluster.done(ids[0], set_for("/lease", 60_000));
    cluster.pass(20 * SECOND_US);
    cluster.rigs.remove(&ids[0]);
    cluster.pass(20 * SECOND_US);
    let leader = cluster.leader();
    assert!(
        cluster.at(leader).value("/lease").is_some(),
        "20 s are left"
    );
    cluster.pass(21 * SECOND_US);
    assert_eq!(cluster.at(leader).value("/lease"), None);
}

/// The leader restarts while another machine is down. Only the third, which has no room to lead, has
/// heard a leader since it started.
#[test]
fn protocol_19_a_restarted_leader_takes_the_reading_of_a_voter() {
    let (mut cluster, ids) = three();
    cluster.done(ids[0], set_for("/lease", 60_000));
    cluster.pass(30 * SECOND_US);
    cluster.rigs.remove(&ids[1]);
    let mut rig = cluster.rigs.remove(&ids[0]).expect("a member");
    rig.now.wall_ns = 0;
    cluster.rigs.insert(ids[0], rig.restart());
    cluster.at(ids[2]).machine.on_room(0);
    cluster.pass(2 * SECOND_US);
    assert_eq!(cluster.leader(), ids[0]);
    cluster.at(ids[2]).machine.on_room(1 << 30);
    let bridged = |fact: &Fact| matches!(fact, Fact::ClockBridged { .. });
    assert!(!cluster.at(ids[0]).facts.iter().any(bridged));
    cluster.pass(27 * SECOND_US);
    assert!(cluster.at(ids[0]).value("/lease").is_some());
    cluster.pass(3 * SECOND_US);
    assert_eq!(cluster.at(ids[0]).value("/lease"), None);
}

/// The reading of a voter that heard only leaders before the candidate's last entry may be ahead of
/// the clock by which later leases were taken.
#[test]
fn protocol_19_a_reading_of_an_older_leadership_does_not_count() {
    let (mut cluster, ids) = three();
    // The third machine is cut off and keeps the clock. The two others lose 30 s of it: they restart
    // with wall clocks that are not believed.
    cluster.cut = vec![ids[2]];
    for id in [ids[0], ids[1]] {
        let mut rig = cluster.rigs.remove(&id).expect("a member");
        rig.now.wall_ns = 0;
        cluster.rigs.insert(id, rig);
    }
    cluster.pass(30 * SECOND_US);
    for id in [ids[0], ids[1]] {
        let rig = cluster.rigs.remove(&id).expect("a member");
        cluster.rigs.insert(id, rig.restart());
    }
    cluster.pass(2 * SECOND_US);
    let leader = cluster.leader();
    cluster.done(leader, set_for("/lease", 20_000));
    // One of them goes on with the third, and has restarted: its majority has only the old reading.
    let other = if leader == ids[0] { ids[1] } else { ids[0] };
    cluster.rigs.remove(&leader);
    let rig = cluster.rigs.remove(&other).expect("a member");
    cluster.rigs.insert(other, rig.restart());
    cluster.at(ids[2]).machine.on_room(0);
    cluster.cut.clear();
    cluster.pass(2 * SECOND_US);
    assert_eq!(cluster.leader(), other);
    cluster.at(ids[2]).machine.on_room(1 << 30);
    cluster.pass(10 * SECOND_US);
    assert!(cluster.at(other).value("/lease").is_some(), "8 s are left");
}

#[test]
fn protocol_20_an_outage_lasts_as_long_as_the_wall_clock_says() {
    let mut rig = Rig::serving(settings(1));
    rig.done(set_for("/lease", 60_000));
    let wall_ns = rig.now.wall_ns;
    let mut rig = restart_at(rig, 20, wall_ns + 20 * SECOND_NS);
    let bridged = |fact: &Fact| matches!(fact, Fact::ClockBridged { by_ms: 20_000 });
    assert!(rig.facts.iter().any(bridged), "{:?}", rig.facts);
    rig.pass(39 * SECOND_US);
    assert!(rig.value("/lease").is_some());
    rig.pass(2 * SECOND_US);
    assert_eq!(rig.value("/lease"), None);
}

/// A board without a battery starts in 1970, is stopped for ten seconds, and comes back with the
/// right time; or the other way round.
#[test]
fn protocol_20_a_wall_clock_before_tern_existed_is_not_believed() {
    for (before_ns, after_ns) in [(5 * SECOND_NS, EPOCH_NS), (EPOCH_NS, 5 * SECOND_NS)] {
        let mut rig = Rig::serving(settings(1));
        rig.now.wall_ns = before_ns;
        rig.done(set_for("/lease", 60_000));
        let mut rig = restart_at(rig, 10, after_ns);
        rig.pass(59 * SECOND_US);
        assert!(
            rig.value("/lease").is_some(),
            "the outage counts as nothing"
        );
        rig.pass(2 * SECOND_US);
        assert_eq!(rig.value("/lease"), None);
    }
}

#[test]
fn protocol_21_expirations_are_shown_by_the_wall_clock() {
    let mut rig = Rig::serving(settings(1));
    rig.done(set_for("/lease", 600_000));
    let first_ns = shown_ns(&mut rig, "/lease");
    assert_eq!(first_ns, rig.now.wall_ns + 600 * SECOND_NS);
    // A step below two seconds changes nothing, and writes nothing.
    rig.now.wall_ns += SECOND_NS;
    let entries = rig.disk.log.records().count();
    rig.pass(70 * SECOND_US);
    assert_eq!(shown_ns(&mut rig, "/lease"), first_ns);
    assert_eq!(rig.disk.log.records().count(), entries);
    // A larger one is followed within a minute, by one entry.
    rig.now.wall_ns += YEAR_NS;
    rig.pass(60 * SECOND_US);
    let moved_ns = shown_ns(&mut rig, "/lease");
    assert_eq!(moved_ns, first_ns + SECOND_NS + YEAR_NS);
    assert_eq!(rig.disk.log.records().count(), entries + 1);
    // A command with a ttl is shown rightly at once.
    rig.now.wall_ns -= YEAR_NS;
    rig.done(set_for("/other", 1_000));
    assert_eq!(shown_ns(&mut rig, "/lease"), first_ns + SECOND_NS);
}

/// Events keep the expiration with which they were made.
#[test]
fn protocol_21_an_event_of_the_history_keeps_its_expiration() {
    let mut rig = Rig::serving(settings(1));
    let made = match rig.done(set_for("/lease", 600_000)) {
        Outcome::Event(event) => event,
        other => panic!("{other:?}"),
    };
    rig.now.wall_ns += YEAR_NS;
    rig.done(set_for("/other", 1_000));
    let since = Some(made.node.modified.0);
    match rig.done(watch("/lease", false, since)) {
        Outcome::Backlog { events, .. } => assert_eq!(events, [made]),
        other => panic!("{other:?}"),
    }
}

/// Leaders that are cut off, and followed by others with other wall clocks. A lease lasts for its time
/// after the leader took the request, or after its refresh, and longer by no more than the time
/// without a leader.
#[test]
fn protocol_22_a_lease_lasts_for_its_time_among_changes_of_the_leader() {
    const LEASE_US: u64 = 20 * SECOND_US;
    const LONGER_US: u64 = LEASE_US + SECOND_US / 2;
    const CUT_US: u64 = 3 * SECOND_US;
    const REFRESHED_AT_US: u64 = 8 * SECOND_US;
    let (mut cluster, ids) = three();
    cluster.at(ids[1]).now.wall_ns += 3_600 * SECOND_NS;
    cluster.at(ids[2]).now.wall_ns = 5 * SECOND_NS;
    let start_us = cluster.at(ids[0]).now.mono_us;
    let leases = [
        ("/set", LEASE_US),
        ("/longer", LONGER_US),
        ("/refreshed", LEASE_US),
    ];
    for (path, lease_us) in leases {
        cluster.done(ids[0], set_for(path, lease_us / 1_000));
    }
    cluster.pass(REFRESHED_AT_US);
    cluster.done(ids[0], refresh_for("/refreshed", LEASE_US / 1_000));
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.cut = vec![leader];
        cluster.pass(CUT_US);
        cluster.cut.clear();
        cluster.pass(SECOND_US);
        assert_ne!(cluster.leader(), leader);
    }
    let refreshed_us = REFRESHED_AT_US + LEASE_US;
    let ends = [
        ("/set", LEASE_US),
        ("/longer", LONGER_US),
        ("/refreshed", refreshed_us),
    ];
    for (path, end_us) in ends {
        let leader = cluster.leader();
        while cluster.at(leader).value(path).is_some() {
            cluster.pass(50_000);
        }
        let lasted_us = cluster.at(ids[0]).now.mono_us - start_us;
        let range = end_us..end_us + 2 * CUT_US;
        assert!(range.contains(&lasted_us), "{path}: {lasted_us} us");
    }
}

fn three() -> (Cluster, Vec<PeerId>) {
    let cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    (cluster, ids)
}
