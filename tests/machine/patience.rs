//! PROTOCOL 23: how long members wait for each other on long lines and slow disks. A `Cluster`
//! delivers at once; the round trips are told to the machines as `peers` would.
use super::rig::*;
use tern::core::machine::*;
use tern::core::peers::ProcessChange;
use tern::core::raft::PeerId;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// The election timeout of a rig.
const ELECTION: u64 = 200 * MS;

fn cluster(count: u16) -> (Cluster, Vec<PeerId>) {
    let cluster = super::cluster::cluster(count, settings(1));
    let ids = cluster.ids();
    (cluster, ids)
}

fn term(cluster: &mut Cluster, id: PeerId) -> u64 {
    cluster.at(id).machine.raft().expect("a member").term().0
}

/// A machine measures its link to another one.
fn measure(cluster: &mut Cluster, at: PeerId, to: PeerId, round_trip_us: u64) {
    let rig = cluster.at(at);
    let round_trip_us = u32::try_from(round_trip_us).expect("a round trip");
    let change = ProcessChange::RoundTrip { round_trip_us };
    rig.machine.on_process(rig.now, to, change);
}

/// A machine measures its links to all others.
fn measure_from(cluster: &mut Cluster, at: PeerId, round_trip_us: u64) {
    for to in cluster.ids().into_iter().filter(|to| *to != at) {
        measure(cluster, at, to, round_trip_us);
    }
}

/// Both ends of all links measure it.
fn measure_all(cluster: &mut Cluster, round_trip_us: u64) {
    for at in cluster.ids() {
        measure_from(cluster, at, round_trip_us);
    }
    // The next heartbeats tell it.
    cluster.pass(100 * MS);
}

/// How long it takes until another machine than `former` leads; at most 20 s.
fn until_led_by_other(cluster: &mut Cluster, former: PeerId) -> u64 {
    for step in 1..400 {
        cluster.pass(50 * MS);
        let leads =
            |(id, rig): (&PeerId, &Rig)| *id != former && rig.machine.role() == Role::Leader;
        if cluster.rigs.iter().any(leads) {
            return step * 50 * MS;
        }
    }
    panic!("no other leader");
}

#[test]
fn protocol_23_leader_and_followers_wait_for_each_other_with_one_figure() {
    let (mut cluster, ids) = cluster(3);
    let leader = cluster.leader();
    // Only the leader measures: the followers use its figure.
    measure_from(&mut cluster, leader, 300 * MS);
    cluster.pass(100 * MS);
    let before = term(&mut cluster, leader);
    cluster.cut = vec![leader];
    cluster.pass(ELECTION + 800 * MS);
    for id in &ids {
        assert_eq!(term(&mut cluster, *id), before, "no machine campaigns yet");
    }
    assert_eq!(cluster.at(leader).machine.role(), Role::Leader);
    let more = until_led_by_other(&mut cluster, leader);
    assert!(more < 3 * SECOND, "{more} us");
    assert_ne!(cluster.at(leader).machine.role(), Role::Leader);
}

#[test]
fn protocol_23_a_round_trip_counts_up_to_a_second() {
    let (mut cluster, _) = cluster(3);
    let leader = cluster.leader();
    measure_all(&mut cluster, 60 * SECOND);
    cluster.cut = vec![leader];
    cluster.pass(3 * SECOND);
    assert_eq!(cluster.at(leader).machine.role(), Role::Leader);
    cluster.pass(ELECTION + 200 * MS);
    assert_ne!(cluster.at(leader).machine.role(), Role::Leader);
    // The spread grows with the round trips as well.
    let took = until_led_by_other(&mut cluster, leader);
    assert!(took < 8 * SECOND, "{took} us");
}

/// The figure becomes smaller while a lease runs: the next heartbeat shortens it.
#[test]
fn protocol_23_a_figure_that_shrinks_shortens_the_lease() {
    let (mut cluster, _) = cluster(3);
    let leader = cluster.leader();
    measure_all(&mut cluster, SECOND);
    measure_all(&mut cluster, 0);
    cluster.cut = vec![leader];
    let took = until_led_by_other(&mut cluster, leader);
    assert!(took < SECOND, "{took} us");
}

/// The link of one follower becomes slow, and the heartbeat that tells it does not arrive: the
/// follower misses the leader before the leader misses the follower, and disturbs nothing.
#[test]
fn protocol_23_a_follower_with_a_stale_figure_raises_no_term() {
    let (mut cluster, ids) = cluster(3);
    let leader = cluster.leader();
    let slow = *ids.iter().find(|id| **id != leader).expect("a follower");
    let before = term(&mut cluster, leader);
    cluster.cut = vec![slow];
    measure(&mut cluster, leader, slow, SECOND);
    cluster.pass(2 * SECOND);
    assert!(
        cluster
            .at(slow)
            .machine
            .raft()
            .expect("a member")
            .leader()
            .is_none()
    );
    cluster.cut.clear();
    cluster.pass(SECOND);
    assert_eq!(cluster.leader(), leader);
    for id in ids {
        assert_eq!(term(&mut cluster, id), before);
    }
}

/// A leader change: the figure of the link to the former leader says nothing of the next one.
#[test]
fn protocol_23_the_figure_of_a_former_leader_ends_with_it() {
    let (mut cluster, _) = cluster(5);
    let leader = cluster.leader();
    measure_from(&mut cluster, leader, SECOND);
    cluster.pass(100 * MS);
    cluster.cut = vec![leader];
    until_led_by_other(&mut cluster, leader);
    let rest = cluster.rigs.iter();
    let next = rest.filter(|(id, rig)| **id != leader && rig.machine.role() == Role::Leader);
    let next = *next.map(|(id, _)| id).next().expect("just seen");
    cluster.pass(100 * MS);
    cluster.rigs.remove(&leader);
    cluster.cut = vec![next];
    let took = until_led_by_other(&mut cluster, next);
    assert!(took < SECOND, "{took} us");
}

/// The process of the leader is gone: nothing is added for its link any more.
#[test]
fn protocol_23_a_closed_link_ends_patience_at_once() {
    let (mut cluster, _) = cluster(3);
    let leader = cluster.leader();
    measure_from(&mut cluster, leader, SECOND);
    cluster.pass(100 * MS);
    cluster.rigs.remove(&leader);
    for rig in cluster.rigs.values_mut() {
        rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
    }
    let took = until_led_by_other(&mut cluster, leader);
    assert!(took < SECOND, "{took} us");
}

/// Machines whose syncs end later than they begin.
struct SlowDisks {
    cluster: Cluster,
    sync_us: u64,
}

impl SlowDisks {
    /// Time passes in steps of 10 ms. A sync ends after its time; records that came meanwhile are in
    /// the next one.
    fn pass_until(&mut self, is_over: impl Fn(&Cluster) -> bool) {
        let mut due: Vec<Option<u64>> = vec![None; self.cluster.rigs.len()];
        for _ in 0..3_000 {
            let mut on_the_way = Vec::new();
            for ((from, rig), due) in self.cluster.rigs.iter_mut().zip(&mut due) {
                rig.now.mono_us += 10 * MS;
                rig.machine.on_time(rig.now);
                rig.turn();
                let has_work = rig.pending_state.is_some() || !rig.pending.is_empty();
                if has_work && due.is_none() {
                    *due = Some(rig.now.mono_us + self.sync_us);
                }
                if due.is_some_and(|due| due <= rig.now.mono_us) {
                    *due = None;
                    rig.sync_after(self.sync_us);
                    rig.turn();
                }
                let sent = rig.sent.drain(..);
                on_the_way.extend(sent.map(|(to, message)| (*from, to, message)));
            }
            for (from, to, message) in on_the_way {
                if let Some(rig) = self.cluster.rigs.get_mut(&to) {
                    rig.machine.on_message(rig.now, from, message);
                }
            }
            if is_over(&self.cluster) {
                return;
            }
        }
        panic!("not in half a minute");
    }
}

/// The candidacies of an election on disks that need so long for a sync, after the leader's death.
///
/// Five machines: the second of two candidates would find a majority for its pre-vote without the
/// first one.
fn candidacies(sync_us: u64, settle_us: u64) -> u64 {
    let (mut cluster, _) = cluster(5);
    let leader = cluster.leader();
    for rig in cluster.rigs.values_mut() {
        rig.sync_after(sync_us);
        rig.sync_after(sync_us);
    }
    cluster.pass(settle_us);
    let before = term(&mut cluster, leader);
    cluster.rigs.remove(&leader);
    for rig in cluster.rigs.values_mut() {
        rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
    }
    let mut slow = SlowDisks { cluster, sync_us };
    let leads = |rig: &Rig| rig.machine.role() == Role::Leader;
    slow.pass_until(|cluster| cluster.rigs.values().any(leads));
    let next = slow.cluster.leader();
    term(&mut slow.cluster, next) - before
}

#[test]
fn an_election_on_slow_disks_takes_one_candidacy_as_a_rule() {
    // Heartbeats draw random numbers, so each of these begins another sequence.
    let rounds = (0..30).map(|round| candidacies(500 * MS, (round + 1) * 50 * MS));
    let rounds: Vec<u64> = rounds.collect();
    let single = rounds.iter().filter(|count| **count == 1).count();
    assert!(single >= 27, "{rounds:?}");
}
