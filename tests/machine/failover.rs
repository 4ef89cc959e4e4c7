//! PROTOCOL 24: followers miss a leader as soon as its process has ended, and one follower that is
//! wrong about the end deposes no leader. A `Cluster` delivers messages at once. The tests report
//! the end of a process themselves (`tell_end`); in a machine `peers` detects it from the links.
use super::rig::*;
use tern::core::machine::*;
use tern::core::peers::ProcessChange;
use tern::core::raft::PeerId;

const MS: u64 = 1_000;

/// Machines, the leader among them, and the others.
fn cluster(count: u16) -> (Cluster, PeerId, Vec<PeerId>) {
    let mut cluster = super::cluster::cluster(count, settings(1));
    cluster.pass(500 * MS);
    let leader = cluster.leader();
    let mut others = cluster.ids();
    others.retain(|id| *id != leader);
    (cluster, leader, others)
}

/// A machine loses its link to the leader, and its dial is refused.
fn tell_end(cluster: &mut Cluster, at: PeerId, leader: PeerId) {
    let rig = cluster.at(at);
    rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
    rig.machine
        .on_process(rig.now, leader, ProcessChange::Ended);
}

/// Time passes for all in steps of 2 ms.
fn pass_ms(cluster: &mut Cluster, ms: u64) {
    for _ in 0..ms / 2 {
        for rig in cluster.rigs.values_mut() {
            rig.now.mono_us += 2 * MS;
            rig.now.wall_ns += 2 * MS * 1_000;
            rig.machine.on_time(rig.now);
        }
        cluster.settle();
    }
}

fn has_leader(cluster: &Cluster) -> bool {
    let mut rigs = cluster.rigs.values();
    rigs.any(|rig| rig.machine.role() == Role::Leader)
}

fn term(cluster: &mut Cluster, id: PeerId) -> u64 {
    cluster.at(id).machine.raft().expect("a member").term().0
}

#[test]
fn protocol_24_one_follower_that_misses_a_living_leader_deposes_nobody() {
    for count in [2, 3, 5] {
        let (mut cluster, leader, others) = cluster(count);
        let before = term(&mut cluster, leader);
        for _ in 0..10 {
            tell_end(&mut cluster, others[0], leader);
            pass_ms(&mut cluster, 150);
        }
        assert_eq!(cluster.leader(), leader);
        for id in cluster.ids() {
            assert_eq!(term(&mut cluster, id), before);
            let raft = cluster.at(id).machine.raft().expect("a member");
            assert_eq!(raft.leader(), Some(leader));
        }
    }
}

#[test]
fn protocol_24_a_killed_leader_is_replaced_within_the_random_time() {
    for count in [3, 5] {
        let (mut cluster, leader, others) = cluster(count);
        cluster.rigs.remove(&leader);
        for id in others {
            tell_end(&mut cluster, id, leader);
        }
        pass_ms(&mut cluster, 50);
        assert!(has_leader(&cluster));
    }
}

/// One follower has found out that the leader has ended; the other one has yet to.
#[test]
fn protocol_24_a_candidate_waits_for_the_leases_of_a_majority() {
    let (mut cluster, leader, others) = cluster(3);
    cluster.rigs.remove(&leader);
    tell_end(&mut cluster, others[0], leader);
    pass_ms(&mut cluster, 130);
    assert!(!has_leader(&cluster), "the other one has its lease");
    tell_end(&mut cluster, others[1], leader);
    pass_ms(&mut cluster, 50);
    assert!(has_leader(&cluster));
}

/// Every link of the leader is broken, and each dial of it refused, while its process runs.
#[test]
fn protocol_24_a_leader_without_any_link_is_replaced() {
    let (mut cluster, leader, others) = cluster(3);
    cluster.cut = vec![leader];
    for id in &others {
        tell_end(&mut cluster, *id, leader);
    }
    pass_ms(&mut cluster, 50);
    let leads = |id: &&PeerId| cluster.rigs[*id].machine.role() == Role::Leader;
    assert_eq!(others.iter().filter(leads).count(), 1);
    // It steps down by itself.
    pass_ms(&mut cluster, 300);
    assert_ne!(cluster.at(leader).machine.role(), Role::Leader);
    cluster.cut.clear();
    pass_ms(&mut cluster, 300);
    let next = cluster.leader();
    let raft = cluster.at(leader).machine.raft().expect("a member");
    assert_eq!(raft.leader(), Some(next));
}
