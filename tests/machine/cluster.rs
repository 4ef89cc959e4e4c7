//! Several machines: joining, redirects, a snapshot for a newcomer, removal, handing over.
use super::rig::*;
use tern::core::error::{Code, Error};
use tern::core::machine::*;
use tern::core::raft::{Entry, PeerId, Rpc};

pub fn cluster(count: u16, settings: Settings) -> Cluster {
    let founder = Rig::serving(settings);
    let mut cluster = Cluster::of(founder);
    for number in 2..=count {
        cluster.join(number, u64::from(number));
        cluster.pass(500_000);
    }
    cluster
}

pub fn assert_equal(cluster: &Cluster) {
    let state = |rig: &Rig| {
        (
            rig.machine.applied(),
            rig.machine.store().expect("a member").state_hash(),
        )
    };
    let mut states = cluster.rigs.values().map(state);
    let first = states.next().expect("a machine");
    assert!(states.all(|s| s == first));
}

#[test]
fn three_machines_hold_the_same() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let voters = cluster.at(ids[0]).machine.configuration().voters().count();
    assert_eq!(voters, 3, "learners were promoted");
    assert!(
        matches!(cluster.done(ids[0], set("/foo", "bar")), Outcome::Event(e) if e.node.modified.0 == 5)
    );
    for id in &ids {
        assert_eq!(cluster.at(*id).value("/foo").as_deref(), Some("bar"));
        assert_eq!(cluster.at(*id).machine.indexes().etcd.0, 5);
    }
    assert_equal(&cluster);
    let to_leader = Outcome::Redirect {
        client_url: "http://127.0.0.1:4001".into(),
        peer_url: "http://127.0.0.1:7001".into(),
    };
    assert_eq!(cluster.done(ids[1], set("/foo", "x")), to_leader);
    assert_eq!(cluster.done(ids[2], read("/foo", false, true)), to_leader);
    assert!(matches!(
        cluster.done(ids[0], read("/foo", false, true)),
        Outcome::Page { .. }
    ));
}

#[test]
fn a_newcomer_gets_the_snapshot_and_what_follows() {
    let mut cluster = cluster(
        1,
        Settings {
            snapshot_count: 20,
            ..settings(1)
        },
    );
    let founder = cluster.leader();
    for n in 0..300 {
        cluster.done(founder, set(&format!("/dir/{n}"), &"v".repeat(20)));
    }
    assert!(cluster.at(founder).disk.snapshots.len() == 2);
    let id = cluster.join(2, 2);
    cluster.pass(2_000_000);
    cluster.done(founder, set("/foo", "bar"));
    assert!(cluster.at(id).snapshot_log.contains(&"receive"));
    assert_eq!(
        cluster.at(id).value("/dir/299").as_deref(),
        Some(&*"v".repeat(20))
    );
    assert_equal(&cluster);
    // Watchers of the new member get events like others.
    let poll = cluster.at(id).ask(watch("/foo", false, None));
    cluster.done(founder, set("/foo", "told"));
    assert_eq!(cluster.at(id).delivered(poll).len(), 1);
}

#[test]
fn a_snapshot_on_its_way_is_not_overtaken() {
    let often = Settings {
        snapshot_count: 20,
        ..settings(1)
    };
    let mut cluster = cluster(1, often);
    let founder = cluster.leader();
    for n in 0..300 {
        cluster.done(founder, set(&format!("/dir/{n}"), &"v".repeat(20)));
    }
    let leader = cluster.at(founder);
    let Outcome::Joined(id) = leader.done(join(&settings(2), 2)) else {
        panic!("it is let in");
    };
    let id = PeerId(id.0);
    let newcomer = Rig::let_in(settings(2), id, leader.now);
    cluster.rigs.insert(id, newcomer);
    // A round at a time, with writes that make a snapshot due in between.
    let mut rounds = 0;
    while cluster.at(id).disk.snapshots.is_empty() {
        for n in 0..100 {
            cluster.at(founder).ask(set("/foo", &n.to_string()));
        }
        cluster.round();
        rounds += 1;
        assert!(rounds < 1_000, "it never ends");
    }
    assert!(rounds > 20);
    let sent = cluster.at(id).disk.snapshots[0].0.index;
    cluster.pass(500_000);
    assert_equal(&cluster);
    assert!(cluster.at(founder).disk.snapshots[1].0.index > sent);
}

/// The state that a client has seen is marked as committed soon: a restarted machine does not show
/// an older one. Files that are read at once, without a ticket, count.
#[test]
fn protocol_06_what_was_shown_is_marked_as_committed() {
    let mut cluster = cluster(2, settings(1));
    let leader = cluster.leader();
    let ids = cluster.ids();
    let follower = ids[1];
    cluster.done(leader, set("/foo", "bar"));
    cluster.pass(50_000);
    let applied = cluster.at(follower).machine.applied();
    assert!(cluster.at(follower).disk.log.commit < applied);
    cluster.pass(2_000_000);
    let rig = cluster.at(follower);
    assert!(rig.disk.log.commit < applied, "an idle member writes none");
    assert!(rig.machine.get_file("/foo").is_some());
    cluster.pass(200_000);
    assert!(cluster.at(follower).disk.log.commit >= applied);
}

#[test]
fn a_removed_machine_stops_and_points_to_the_leader() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let poll = cluster.at(ids[2]).ask(watch("/foo", false, None));
    cluster.settle();
    assert_eq!(cluster.at(ids[2]).answer(poll), Outcome::Watching);
    let outcome = cluster.done(
        ids[0],
        Op::MachineRemove {
            name: "node3".into(),
            for_good: false,
        },
    );
    assert_eq!(outcome, Outcome::Removed);
    cluster.pass(500_000);
    let removed = cluster.at(ids[2]);
    assert!(removed.removed);
    assert_eq!(removed.machine.role(), Role::Standby);
    assert_eq!(next_deadline(&removed.machine), u64::MAX);
    assert_eq!(removed.answer(poll), Outcome::WatchEnd);
    assert!(
        matches!(removed.done(get("/foo")), Outcome::Redirect { client_url, .. } if &*client_url == "http://127.0.0.1:4001")
    );
    assert_eq!(cluster.at(ids[0]).value("/_etcd/machines/node3"), None);
}

#[test]
fn a_leader_that_stops_hands_over_first() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let write = cluster.at(leader).ask(set("/foo", "bar"));
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    let late = rig.ask(set("/foo", "late"));
    let gone = rig.ask(set("/foo", "gone"));
    rig.again(gone, Op::ClientClosed);
    cluster.settle();
    let rig = cluster.at(leader);
    assert!(rig.stopped);
    assert!(matches!(rig.answer(write), Outcome::Event(_)));
    // What came in between is not refused: it is sent to the successor.
    let (late, gone) = (rig.answer(late), rig.take_answers(gone));
    assert!(gone.is_empty());
    cluster.rigs.remove(&leader);
    let next = cluster.leader();
    let settings = &cluster.at(next).settings;
    let to_next = Outcome::Redirect {
        client_url: settings.client_url.clone(),
        peer_url: settings.peer_url.clone(),
    };
    assert_eq!(late, to_next);
    assert!(matches!(
        cluster.done(next, set("/foo", "on")),
        Outcome::Event(_)
    ));
}

#[test]
fn a_leader_alone_steps_down_and_its_writes_are_not_lost_silently() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let alone = cluster.rigs.remove(&leader).expect("the leader");
    let mut island = Cluster::of(alone);
    let open = island.at(leader).ask(set("/foo", "open"));
    let open_read = island.at(leader).ask(read("/foo", false, true));
    island.pass(1_000_000);
    assert!(island.at(leader).take_answers(open).is_empty());
    let lost = Outcome::Failed(Error::new(Code::LeaderElect, ""));
    assert_eq!(island.at(leader).answer(open_read), lost);
    let none = Outcome::Failed(Error::new(Code::RaftInternal, ""));
    assert_eq!(island.done(leader, set("/foo", "late")), none);
    assert_eq!(island.done(leader, read("/foo", false, true)), lost);
    // The others go on, and overwrite what was never committed.
    cluster.pass(1_000_000);
    let next = cluster.leader();
    cluster.done(next, set("/foo", "theirs"));
    let mut back = island.rigs.remove(&leader).expect("the former leader");
    back.sent.clear();
    cluster.rigs.insert(leader, back);
    cluster.pass(1_000_000);
    let told = cluster.at(leader).answer(open);
    assert_eq!(
        told,
        Outcome::Failed(Error::new(Code::RaftInternal, "not committed"))
    );
    assert_equal(&cluster);
}

#[test]
fn joins_at_once_are_all_taken() {
    let mut cluster = cluster(1, settings(1));
    let leader = cluster.leader();
    let tickets: Vec<Ticket> = (2..=4)
        .map(|n| cluster.at(leader).ask(join(&settings(n), u64::from(n))))
        .collect();
    cluster.settle();
    for ticket in tickets {
        assert!(matches!(
            cluster.at(leader).answer(ticket),
            Outcome::Joined(_)
        ));
    }
    let leader = cluster.at(leader);
    assert_eq!(leader.machine.configuration().members.len(), 4);
    assert_eq!(leader.machine.indexes().etcd.0, 5);
}

#[test]
fn an_old_copy_of_the_data_comes_back_as_a_new_member() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let old = cluster.at(ids[2]).disk.clone();
    for n in 0..10 {
        cluster.done(ids[0], set("/foo", &n.to_string()));
    }
    let rig = cluster.rigs.remove(&ids[2]).expect("the third");
    let rig = Rig::start(rig.settings.clone(), old, rig.now);
    cluster.rigs.insert(ids[2], rig);
    let early = cluster.at(ids[2]).ask(get("/foo"));
    cluster.pass(1_000_000);
    let rig = cluster.at(ids[2]);
    assert!(rig.removed);
    assert!(rig.facts.contains(&Fact::Amnesia));
    assert!(matches!(rig.answer(early), Outcome::Redirect { .. }));
    // No member hears it any more: its name goes to the new member.
    cluster.rigs.remove(&ids[2]);
    cluster.pass(1_000_000);
    let new = cluster.join(3, 33);
    cluster.pass(1_000_000);
    assert!(new > ids[2]);
    assert_eq!(cluster.at(new).value("/foo").as_deref(), Some("9"));
    let members = cluster.at(new).machine.configuration();
    assert_eq!(members.voters().count(), 3);
    assert!(members.get(ids[2]).is_none());
    assert_equal(&cluster);
}

#[test]
fn a_name_is_not_given_away_while_its_machine_lives() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let outcome = cluster.done(leader, join(&settings(3), 33));
    assert!(matches!(outcome, Outcome::Failed(e) if e.code == Code::PeerAddressExists));
}

#[test]
fn a_removal_that_would_stop_the_cluster_is_refused() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let remove = |n: u16| Op::MachineRemove {
        name: settings(n).name.clone(),
        for_good: false,
    };
    let dead = *cluster.rigs.keys().next_back().expect("three machines");
    cluster.rigs.remove(&dead).expect("the third machine");
    cluster.pass(1_000_000);
    let refused = Outcome::Failed(Error::new(
        Code::RaftInternal,
        "too few of the other voters answer",
    ));
    assert_eq!(cluster.done(leader, remove(2)), refused);
    assert_eq!(cluster.done(leader, remove(1)), refused);
    assert!(matches!(
        cluster.done(leader, set("/foo", "on")),
        Outcome::Event(_)
    ));
    assert_eq!(cluster.done(leader, remove(3)), Outcome::Removed);
}

#[test]
fn a_leader_that_removes_itself_answers_and_leaves() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let remove = Op::MachineRemove {
        name: "node1".into(),
        for_good: false,
    };
    assert_eq!(cluster.done(leader, remove), Outcome::Removed);
    assert!(cluster.at(leader).removed);
    let left = cluster.rigs.remove(&leader).expect("the former leader");
    cluster.pass(500_000);
    let next = cluster.leader();
    let outcome = cluster.done(next, set("/foo", "on"));
    assert!(matches!(outcome, Outcome::Event(_)));
    assert_eq!(cluster.at(next).value("/_etcd/machines/node1"), None);
    // Started again from its disk it learns of the removal and disturbs no leader.
    let term = cluster.at(next).machine.indexes().term;
    cluster.rigs.insert(leader, left.restart());
    cluster.pass(2_000_000);
    assert!(cluster.at(leader).removed);
    assert_eq!(cluster.leader(), next);
    assert_eq!(cluster.at(next).machine.indexes().term, term);
}

/// The bytes of entries that a machine sends in its next turn, to all peers together. The messages
/// stay in `Rig::sent`.
fn sent_in_a_turn(rig: &mut Rig) -> usize {
    let before = rig.sent.len();
    rig.turn();
    rig.sync();
    let appends = rig.sent[before..].iter().map(|(_, message)| {
        let Rpc::AppendEntries { entries, .. } = &message.rpc else {
            return 0;
        };
        entries.iter().map(Entry::size).sum()
    });
    appends.sum()
}

/// Two followers come back, and the leader has megabytes for both. It sends some of it in each turn.
#[test]
fn a_turn_sends_a_bounded_amount_of_entries() {
    const BYTES_MAX: usize = 1 << 20;
    const VALUE_BYTES: usize = 200_000;
    let mut cluster = cluster(5, settings(1));
    let leader = cluster.leader();
    let ids = cluster.ids().into_iter();
    let behind: Vec<PeerId> = ids.filter(|id| *id != leader).take(2).collect();
    cluster.cut.clone_from(&behind);
    for number in 0..10 {
        let write = set(&format!("/{number}"), &"v".repeat(VALUE_BYTES));
        cluster.done(leader, write);
    }
    cluster.cut.clear();
    let applied = cluster.at(leader).machine.applied();
    let mut longest = 0;
    while behind
        .iter()
        .any(|id| cluster.at(*id).machine.applied() < applied)
    {
        for rig in cluster.rigs.values_mut() {
            rig.now.mono_us += 50_000;
            rig.machine.on_time(rig.now);
        }
        let rig = cluster.at(leader);
        longest = longest.max(sent_in_a_turn(rig));
        while rig.machine.wants_turn() {
            longest = longest.max(sent_in_a_turn(rig));
        }
        cluster.round();
    }
    assert!(longest > BYTES_MAX / 2, "{longest} bytes");
    assert!(longest < BYTES_MAX + 2 * VALUE_BYTES, "{longest} bytes");
}
