//! The leader's duties on the virtual clock: active size, removal delay, what is reported of
//! heartbeats.
use super::rig::*;
use tern::core::command::ClusterConfig;
use tern::core::machine::*;
use tern::core::raft::PeerId;

/// A cluster of voters whose leader has led for a while, and their ids in order of name.
fn cluster(count: u16, config: ClusterConfig) -> (Cluster, Vec<PeerId>) {
    let founder = Rig::serving(Settings {
        cluster: config,
        ..settings(1)
    });
    let mut cluster = Cluster::of(founder);
    for number in 2..=count {
        cluster.join(number, u64::from(number));
        cluster.pass(500_000);
    }
    let leader = cluster.leader();
    assert_eq!(
        cluster.at(leader).machine.configuration().voters().count(),
        usize::from(count)
    );
    let ids = cluster.ids();
    (cluster, ids)
}

fn config(active_size: u32, remove_delay_s: u64) -> ClusterConfig {
    ClusterConfig {
        active_size,
        remove_delay_ms: remove_delay_s * 1000,
        ..ClusterConfig::default()
    }
}

fn put(cluster: &mut Cluster, active_size: Option<f64>, remove_delay_s: Option<f64>) {
    let leader = cluster.leader();
    let outcome = cluster.done(
        leader,
        Op::ConfigPut {
            active_size,
            remove_delay_s,
            sync_interval_s: None,
        },
    );
    assert!(matches!(outcome, Outcome::Config(_)), "{outcome:?}");
}

/// The members as the leader has them.
fn members(cluster: &mut Cluster) -> Vec<PeerId> {
    let leader = cluster.leader();
    cluster
        .at(leader)
        .machine
        .configuration()
        .members
        .iter()
        .map(|m| m.id)
        .collect()
}

/// What the leader has reported of one kind, by `pick`.
fn reported<T>(rig: &Rig, pick: impl Fn(&Fact) -> Option<T>) -> Vec<T> {
    rig.facts.iter().filter_map(pick).collect()
}

fn missed(fact: &Fact) -> Option<(Vec<(String, u64)>, u64)> {
    match fact {
        Fact::HeartbeatsMissed { peers, backoff_s } => Some((
            peers
                .iter()
                .map(|(name, count)| (name.to_string(), *count))
                .collect(),
            *backoff_s,
        )),
        _ => None,
    }
}

fn let_go(fact: &Fact) -> Option<(String, bool)> {
    match fact {
        Fact::RemovalProposed { peer, too_many, .. } => Some((peer.to_string(), *too_many)),
        _ => None,
    }
}

fn removed(fact: &Fact) -> Option<String> {
    match fact {
        Fact::MemberRemoved { name, .. } => Some(name.to_string()),
        _ => None,
    }
}

#[test]
fn half_an_hour_of_silence_takes_about_120_lines_and_ends_with_one_removal() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    let leader = cluster.leader();
    assert_eq!(
        reported(cluster.at(leader), missed),
        [],
        "nobody was silent yet"
    );
    let first = cluster.at(leader).now.mono_us;
    cluster.cut.push(ids[2]);
    cluster.pass(1_799 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    let lines = reported(cluster.at(leader), missed);
    assert!((100..=130).contains(&lines.len()), "{} lines", lines.len());
    assert_eq!(
        lines.iter().map(|l| l.1).take(6).collect::<Vec<_>>(),
        [2, 4, 8, 15, 15, 15]
    );
    assert!(
        lines
            .iter()
            .all(|(peers, _)| peers.len() == 1 && peers[0].0 == "node3")
    );
    assert_eq!(lines[0].0[0].1, 1);
    // One line after each pause, and nothing is left out of the count: a heartbeat every 50 ms, and
    // every 100 ms when nothing has been sent for a second.
    let counts: Vec<u64> = lines.iter().map(|l| l.0[0].1).collect();
    assert!(counts[1] >= 20 && counts[1] <= 42, "{counts:?}");
    assert!(*counts.last().expect("lines") > 1_799 * 10 - 15 * 10 - 20);
    assert!(
        counts
            .windows(2)
            .skip(3)
            .all(|w| (150..=152).contains(&(w[1] - w[0])))
    );
    cluster.pass(2 * SECOND_US);
    assert_eq!(members(&mut cluster), ids[..2]);
    assert_eq!(
        reported(cluster.at(leader), let_go),
        [("node3".to_string(), false)]
    );
    // Nothing more is reported of it, and it is removed once.
    let lines = reported(cluster.at(leader), missed).len();
    cluster.pass(60 * SECOND_US);
    assert_eq!(reported(cluster.at(leader), missed).len(), lines);
    assert_eq!(reported(cluster.at(leader), removed).len(), 1);
    assert!(cluster.at(leader).now.mono_us > first);
}

#[test]
fn lasting_recovery_resets_the_pauses() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    let leader = cluster.leader();
    for _ in 0..3 {
        cluster.cut = vec![ids[1]];
        cluster.pass(10 * SECOND_US);
        cluster.cut.clear();
        cluster.pass(31 * SECOND_US);
    }
    let lines = reported(cluster.at(leader), missed);
    let pauses: Vec<u64> = lines.iter().map(|l| l.1).collect();
    assert_eq!(pauses, [2, 4, 8].repeat(3));
    assert!(lines.iter().step_by(3).all(|(peers, _)| peers[0].1 == 1));
    assert_eq!(members(&mut cluster), ids);
}

/// A lossy line: each second the peer misses some heartbeats.
#[test]
fn short_recoveries_reset_no_pauses() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    let leader = cluster.leader();
    for _ in 0..30 {
        cluster.cut = vec![ids[1]];
        cluster.pass(SECOND_US / 4);
        cluster.cut.clear();
        cluster.pass(3 * SECOND_US / 4);
    }
    let lines = reported(cluster.at(leader), missed);
    let pauses: Vec<u64> = lines.iter().map(|l| l.1).collect();
    assert_eq!(pauses, [2, 4, 8, 15]);
}

#[test]
fn peers_that_fall_silent_together_share_a_line() {
    let (mut cluster, ids) = cluster(5, config(9, 1800));
    let leader = cluster.leader();
    cluster.cut = ids[3..].to_vec();
    cluster.pass(SECOND_US);
    let lines = reported(cluster.at(leader), missed);
    let both = vec![("node4".to_string(), 1), ("node5".to_string(), 1)];
    assert_eq!(lines, [(both, 2)]);
}

#[test]
fn silence_counts_anew_under_a_new_leader() {
    let (mut cluster, ids) = cluster(3, config(9, 20));
    let leader = cluster.leader();
    cluster.cut = vec![ids[2]];
    cluster.pass(15 * SECOND_US);
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    cluster.settle();
    cluster.rigs.remove(&leader);
    // Two of three cannot be without a majority: the third is back, and the first away.
    cluster.cut.clear();
    cluster.pass(SECOND_US);
    assert_eq!(cluster.leader(), ids[1]);
    cluster.pass(17 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    cluster.pass(3 * SECOND_US);
    assert_eq!(members(&mut cluster), ids[1..]);
}

#[test]
fn a_changed_delay_applies_to_timers_that_run() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    cluster.cut = vec![ids[2]];
    cluster.pass(10 * SECOND_US);
    put(&mut cluster, None, Some(12.0));
    cluster.pass(SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    put(&mut cluster, None, Some(1800.0));
    cluster.pass(10 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    // Less than the silence there was: at once.
    put(&mut cluster, None, Some(5.0));
    cluster.pass(100_000);
    assert_eq!(members(&mut cluster), ids[..2]);
}

#[test]
fn of_nine_with_four_dead_the_five_living_and_two_dead_are_kept() {
    let (mut cluster, ids) = cluster(9, config(9, 60));
    let leader = cluster.leader();
    cluster.cut = ids[5..].to_vec();
    cluster.pass(3 * SECOND_US);
    put(&mut cluster, Some(7.0), None);
    cluster.pass(4 * SECOND_US);
    let left = members(&mut cluster);
    assert_eq!(left.len(), 7);
    assert_eq!(left[..5], ids[..5]);
    cluster.pass(30 * SECOND_US);
    assert_eq!(members(&mut cluster), left);
    // The other two are let go after the removal delay.
    cluster.pass(30 * SECOND_US);
    assert_eq!(members(&mut cluster), ids[..5]);
    assert_eq!(
        reported(cluster.at(leader), let_go)
            .iter()
            .filter(|l| l.1)
            .count(),
        2
    );
    assert_eq!(reported(cluster.at(leader), removed).len(), 4);
    assert!(matches!(
        cluster.done(leader, set("/foo", "on")),
        Outcome::Event(_)
    ));
}

#[test]
fn the_active_size_is_reached_step_by_step_learners_first() {
    let (mut cluster, ids) = cluster(8, config(9, 60));
    let leader = cluster.leader();
    // A ninth that is let in and never comes up stays a learner.
    let Outcome::Joined(learner) = cluster.done(leader, join(&settings(9), 9)) else {
        panic!("there is room");
    };
    assert_eq!(members(&mut cluster).len(), 9);
    cluster.cut = vec![ids[3]];
    cluster.pass(3 * SECOND_US);
    put(&mut cluster, Some(3.0), None);
    for left in (3..9).rev() {
        cluster.pass(950_000);
        assert_eq!(
            members(&mut cluster).len(),
            left + 1,
            "not sooner than a second after the one before"
        );
        cluster.pass(50_000);
        let members = members(&mut cluster);
        assert_eq!(members.len(), left);
        assert!(!members.contains(&PeerId(learner.0)), "a learner first");
        assert_eq!(members.contains(&ids[3]), left == 8, "then the silent one");
        assert!(members.contains(&leader));
    }
    cluster.pass(5 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(reported(cluster.at(leader), removed).len(), 6);
}

#[test]
fn the_removed_member_is_drawn_from_the_seed() {
    let gone: Vec<Vec<String>> = (0..2)
        .map(|_| {
            let (mut cluster, _) = cluster(6, config(9, 60));
            put(&mut cluster, Some(3.0), None);
            cluster.pass(5 * SECOND_US);
            let leader = cluster.leader();
            reported(cluster.at(leader), removed)
        })
        .collect();
    assert_eq!(gone[0].len(), 3);
    assert_eq!(gone[0], gone[1]);
    assert_ne!(gone[0], ["node2", "node3", "node4"]);
}

#[test]
fn no_member_is_removed_while_no_majority_is_heard() {
    let (mut cluster, ids) = cluster(5, config(9, 10));
    let leader = cluster.leader();
    put(&mut cluster, Some(3.0), None);
    cluster.cut = ids[1..].to_vec();
    cluster.pass(60 * SECOND_US);
    let rig = cluster.at(leader);
    assert_eq!(rig.machine.role(), Role::Candidate);
    assert_eq!(rig.machine.configuration().members.len(), 5);
    assert_eq!(reported(rig, let_go), []);
    assert_eq!(
        reported(rig, |f| matches!(f, Fact::Leaderless { voters: 5 })
            .then_some(()))
        .len(),
        1,
        "said once"
    );
}

#[test]
fn of_two_voters_neither_can_be_removed_without_the_other() {
    let (mut cluster, ids) = cluster(2, config(9, 10));
    let leader = cluster.leader();
    cluster.cut = vec![ids[1]];
    cluster.pass(60 * SECOND_US);
    let rig = cluster.at(leader);
    assert_eq!(rig.machine.configuration().members.len(), 2);
    assert_eq!(
        reported(rig, |f| matches!(f, Fact::Leaderless { voters: 2 })
            .then_some(()))
        .len(),
        1,
        "said once"
    );
    // And once more when it happens again.
    cluster.cut.clear();
    cluster.pass(2 * SECOND_US);
    cluster.cut = vec![ids[1]];
    cluster.pass(60 * SECOND_US);
    let rig = cluster.at(leader);
    assert_eq!(
        reported(rig, |f| matches!(f, Fact::Leaderless { voters: 2 })
            .then_some(()))
        .len(),
        2
    );
}

#[test]
fn a_pause_of_the_leader_removes_no_member() {
    let (mut cluster, ids) = cluster(3, config(9, 10));
    let leader = cluster.leader();
    // An answer of one of them arrives first when the leader goes on: it hears a majority, and the
    // other not yet.
    cluster.pass(50_000);
    let rig = cluster.at(leader);
    rig.now.mono_us += 50_000;
    rig.machine.on_time(rig.now);
    rig.settle();
    let beats: Vec<_> = rig.sent.drain(..).collect();
    let (_, beat) = beats
        .into_iter()
        .find(|(to, _)| *to == ids[1])
        .expect("a heartbeat");
    let peer = cluster.at(ids[1]);
    peer.machine.on_message(peer.now, leader, beat);
    peer.settle();
    let answers: Vec<_> = peer.sent.drain(..).collect();
    let rig = cluster.at(leader);
    rig.now.mono_us += 3_600 * SECOND_US;
    for (to, answer) in answers {
        assert_eq!(to, leader);
        rig.machine.on_message(rig.now, ids[1], answer);
    }
    rig.settle();
    assert_eq!(rig.machine.role(), Role::Leader);
    assert_eq!(rig.machine.configuration().members.len(), 3);
    // All come to the same time, and go on as before.
    let now = rig.now;
    for rig in cluster.rigs.values_mut() {
        rig.now = now;
    }
    cluster.pass(5 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    assert_eq!(reported(cluster.at(leader), let_go), []);
    // The delay is counted from the pause on.
    cluster.cut = vec![ids[2]];
    cluster.pass(9 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 3);
    cluster.pass(2 * SECOND_US);
    assert_eq!(members(&mut cluster).len(), 2);
}

#[test]
fn timers_belong_to_the_leader_and_end_with_it() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    let leader = cluster.leader();
    assert_eq!(
        cluster.at(leader).machine.timers(),
        2,
        "a removal delay for each of the others"
    );
    assert_eq!(cluster.at(ids[1]).machine.timers(), 0);
    cluster.done(leader, set_for("/foo", 60_000));
    assert_eq!(
        cluster.at(leader).machine.timers(),
        4,
        "and two for the node that is due"
    );
    cluster.cut = vec![ids[2]];
    cluster.pass(SECOND_US);
    assert_eq!(
        cluster.at(leader).machine.timers(),
        5,
        "and a pause between two lines"
    );
    cluster.cut.clear();
    cluster.pass(4 * SECOND_US);
    assert_eq!(cluster.at(leader).machine.timers(), 4);
    // Removed: nothing waits any more.
    let remove = Op::MachineRemove {
        name: "node1".into(),
        for_good: false,
    };
    assert_eq!(cluster.done(leader, remove), Outcome::Removed);
    cluster.pass(SECOND_US);
    let former = cluster.at(leader);
    assert_eq!(
        (former.machine.timers(), next_deadline(&former.machine)),
        (0, u64::MAX)
    );
    cluster.rigs.remove(&leader);
    let next = cluster.leader();
    assert_eq!(cluster.at(next).machine.timers(), 3);
}

#[test]
fn late_heartbeats_are_reported_ever_less_often() {
    let (mut cluster, ids) = cluster(3, config(9, 1800));
    let late = |fact: &Fact| match fact {
        Fact::HeartbeatLate { peer, after_ms } => Some((peer.to_string(), *after_ms)),
        _ => None,
    };
    for round in 0..20 {
        // An idle leader sends fewer heartbeats.
        cluster.done(ids[0], set("/round", &round.to_string()));
        cluster.pass(50_000);
        cluster.cut = vec![ids[1]];
        cluster.pass(100_000);
        cluster.cut.clear();
        // The next one comes 170 ms after the last that arrived.
        for rig in cluster.rigs.values_mut() {
            rig.now.mono_us += 70_000;
            rig.machine.on_time(rig.now);
        }
        cluster.settle();
        cluster.pass(800_000);
    }
    let reported = reported(cluster.at(ids[1]), late);
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert!(
        reported
            .iter()
            .all(|(peer, ms)| peer == "node1" && *ms == 170),
        "{reported:?}"
    );
}
