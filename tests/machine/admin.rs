//! What operators and joining machines ask of a cluster of one: its config, its members, its joins.
use super::cluster::cluster;
use super::rig::*;
use super::single::failed;
use tern::core::command::ClusterConfig;
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::raft::Index;

#[test]
fn the_config_is_kept_within_its_bounds() {
    let mut rig = Rig::serving(settings(1));
    let mut put = |size, delay, interval| {
        let op = Op::ConfigPut {
            active_size: size,
            remove_delay_s: delay,
            sync_interval_s: interval,
        };
        match rig.done(op) {
            Outcome::Config(c) => (c.active_size, c.remove_delay_ms, c.sync_interval_ms),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(put(Some(5.0), None, None), (5, 1_800_000, 5_000));
    assert_eq!(put(Some(7.0), Some(5.5), Some(2.5)), (7, 5_500, 2_500));
    assert_eq!(put(Some(1.0), None, None), (3, 5_500, 2_500));
    assert_eq!(put(None, Some(0.5), None), (3, 2_000, 2_500));
    assert_eq!(put(None, None, Some(0.1)), (3, 2_000, 1_000));
    assert_eq!(put(Some(5.9), None, None), (5, 2_000, 1_000));
    assert_eq!(put(None, None, None), (5, 2_000, 1_000));
    assert_eq!(rig.machine.indexes().etcd.0, 9, "each raises it");
    let shown = r#"{"activeSize":5,"removeDelay":2,"syncInterval":1}"#;
    assert_eq!(rig.value("/_etcd/config").as_deref(), Some(shown));
    // Two at once both count.
    rig.ask(Op::ConfigPut {
        active_size: Some(4.0),
        remove_delay_s: None,
        sync_interval_s: None,
    });
    rig.ask(Op::ConfigPut {
        active_size: None,
        remove_delay_s: Some(3.0),
        sync_interval_s: None,
    });
    rig.settle();
    let mut rig = rig.restart();
    rig.settle();
    let config = ClusterConfig {
        active_size: 4,
        remove_delay_ms: 3_000,
        sync_interval_ms: 1_000,
    };
    assert_eq!(
        rig.done(Op::Query(Query::ConfigGet)),
        Outcome::Config(config)
    );
}

#[test]
fn a_client_that_writes_to_the_view_of_the_config_changes_the_view_only() {
    let theirs = r#"{"activeSize":30,"removeDelay":7,"syncInterval":9}"#;
    for text in [theirs, "junk"] {
        let mut rig = Rig::serving(Settings {
            snapshot_count: 20,
            ..settings(1)
        });
        rig.done(Op::ConfigPut {
            active_size: Some(4.0),
            remove_delay_s: None,
            sync_interval_s: None,
        });
        rig.put("/_etcd/config", text);
        let config = ClusterConfig {
            active_size: 4,
            ..ClusterConfig::default()
        };
        assert_eq!(
            rig.done(Op::Query(Query::ConfigGet)),
            Outcome::Config(config)
        );
        for n in 0..100 {
            rig.put("/foo", &n.to_string());
        }
        assert!(
            rig.disk.snapshots.len() == 2,
            "the log does not tell it any more"
        );
        let etcd = rig.machine.indexes().etcd;
        let mut rig = rig.restart();
        rig.settle();
        assert_eq!(
            rig.done(Op::Query(Query::ConfigGet)),
            Outcome::Config(config)
        );
        assert_eq!(rig.value("/_etcd/config").as_deref(), Some(text));
        assert_eq!(
            rig.machine.indexes().etcd,
            etcd,
            "no second config is proposed"
        );
    }
}

#[test]
fn questions_about_the_cluster_are_answered() {
    let mut rig = Rig::serving(settings(1));
    let info = MachineInfo {
        name: "node1".into(),
        state: Role::Leader,
        client_url: "http://127.0.0.1:4001".into(),
        peer_url: "http://127.0.0.1:7001".into(),
    };
    assert_eq!(
        rig.done(Op::Query(Query::MachineList)),
        Outcome::MachineList(vec![info.clone()])
    );
    assert_eq!(
        rig.done(Op::Query(Query::MachineGet {
            name: "node1".into()
        })),
        Outcome::Machine(info)
    );
    let none = rig.done(Op::Query(Query::MachineGet {
        name: "none".into(),
    }));
    assert_eq!(none, failed(Code::KeyNotFound, "none"));
    let client_urls = vec!["http://127.0.0.1:4001".into()];
    assert_eq!(
        rig.done(Op::Query(Query::Machines)),
        Outcome::Machines { client_urls }
    );
    let peer_url = "http://127.0.0.1:7001".into();
    assert_eq!(
        rig.done(Op::Query(Query::Leader)),
        Outcome::Leader { peer_url }
    );
    let remove = |name: &str| Op::MachineRemove {
        name: name.into(),
        for_good: false,
    };
    assert_eq!(rig.done(remove("none")), failed(Code::KeyNotFound, "none"));
    let last = failed(Code::RaftInternal, "the last voter cannot be removed");
    assert_eq!(rig.done(remove("node1")), last);
    let Outcome::Members(listing) = rig.done(Op::Query(Query::Members)) else {
        panic!("a member knows the members");
    };
    assert_eq!(&*listing.members[0].name, "node1");
    assert_eq!(listing.leader, Some(listing.members[0].id));
    let stats = LeaderStats {
        leader: "node1".into(),
        leader_id: listing.members[0].id,
        followers: Vec::new(),
    };
    assert_eq!(
        rig.done(Op::Query(Query::StatsLeader)),
        Outcome::StatsLeader(stats)
    );
    match rig.done(Op::Query(Query::StatsSelf)) {
        Outcome::StatsSelf(stats) => {
            assert_eq!((&*stats.leader, stats.state), ("node1", Role::Leader));
            assert_eq!(stats.start_ns, EPOCH_NS);
        }
        other => panic!("{other:?}"),
    }
}

/// A member that was added before it starts is no voter, has no view in the key space, and gives its
/// place, with the id that clients know, to the machine that joins from its address.
#[test]
fn a_machine_takes_the_place_that_was_made_for_it() {
    let mut rig = Rig::serving(settings(1));
    let etcd = rig.machine.indexes().etcd;
    let other = settings(2);
    let add = |peer_url: &str| Op::MemberAdd {
        peer_urls: vec![peer_url.into()],
    };
    let Outcome::MemberAdded(added) = rig.done(add(&other.peer_url)) else {
        panic!("there is room");
    };
    assert_eq!((&*added.name, added.client_url.as_deref()), ("", None));
    assert_eq!(rig.machine.indexes().etcd, etcd, "no view was made");
    let again = rig.done(add(&other.peer_url));
    assert!(matches!(again, Outcome::Failed(e) if e.code == Code::PeerAddressExists));
    let two = Op::MemberAdd {
        peer_urls: vec!["http://a:1".into(), "http://b:1".into()],
    };
    assert!(matches!(rig.done(two), Outcome::Failed(e) if e.code == Code::InvalidForm));
    let both = Settings {
        client_url: other.peer_url.clone(),
        ..other.clone()
    };
    let refused = rig.done(join(&both, 8));
    assert!(matches!(refused, Outcome::Failed(e) if e.code == Code::InvalidForm));
    let mut rig = rig.restart();
    assert!(matches!(rig.done(join(&other, 8)), Outcome::Joined(_)));
    let Outcome::Members(listing) = rig.done(Op::Query(Query::Members)) else {
        panic!("a member knows the members");
    };
    assert_eq!(listing.members.len(), 2);
    let joined = &listing.members[1];
    assert_eq!((joined.id, &*joined.name), (added.id, "node2"));
    assert!(rig.value("/_etcd/machines/node2").is_some());
    let remove = |id| Op::MemberRemove { id };
    assert_eq!(rig.done(remove(added.id)), Outcome::Removed);
    assert_eq!(rig.done(remove(added.id)), Outcome::MemberGone);
}

#[test]
fn joins_are_judged() {
    let mut rig = Rig::serving(settings(1));
    let other = settings(2);
    let taken = Settings {
        peer_url: settings(1).peer_url,
        ..other.clone()
    };
    let is_taken = |outcome: Outcome, texts: &[&str]| match outcome {
        Outcome::Failed(e) if e.code == Code::PeerAddressExists => {
            assert!(texts.iter().all(|text| e.cause.contains(text)), "{e:?}");
        }
        other => panic!("{other:?}"),
    };
    let refused = rig.done(join(&taken, 8));
    is_taken(refused, &["http://127.0.0.1:7001", "node1", "-peer-addr"]);
    let nameless = Settings {
        name: "".into(),
        ..other.clone()
    };
    let refused = rig.done(join(&nameless, 8));
    assert!(matches!(refused, Outcome::Failed(e) if e.code == Code::InvalidForm));
    // The living machine's name from another data directory.
    let refused = rig.done(join(&settings(1), 8));
    is_taken(
        refused,
        &["the name node1", "http://127.0.0.1:7001", "-name"],
    );
    // Its own again: nothing moves.
    assert_eq!(
        rig.done(join(&settings(1), 77)),
        Outcome::Joined(tern::core::raft::Index(1))
    );
    assert_eq!(rig.machine.indexes().etcd.0, 2);
    let moved = Settings {
        client_url: "http://127.0.0.1:9".into(),
        ..settings(1)
    };
    assert_eq!(
        rig.done(join(&moved, 77)),
        Outcome::Joined(tern::core::raft::Index(1))
    );
    // New addresses come by a hello; a request is only a hint.
    assert_eq!(rig.machine.indexes().etcd.0, 2);
    // Members that were let in count, though they never came.
    for number in 2..=9 {
        assert!(matches!(
            rig.done(join(&settings(number), 8)),
            Outcome::Joined(_)
        ));
    }
    rig.pass(SECOND_US);
    assert_eq!(
        rig.done(join(&settings(10), 8)),
        failed(Code::NoMorePeer, "")
    );
    assert!(matches!(
        rig.done(join(&settings(9), 8)),
        Outcome::Joined(_)
    ));
}

/// A join without the number of a data directory may come from any machine.
#[test]
fn protocol_10_a_join_without_an_incarnation_moves_no_address() {
    let mut cluster = cluster(2, settings(1));
    let leader = cluster.leader();
    let before = cluster.at(leader).machine.configuration().clone();
    let moved = Settings {
        peer_url: "http://127.0.0.1:9".into(),
        ..settings(2)
    };
    let outcome = cluster.done(leader, join(&moved, 0));
    assert!(matches!(outcome, Outcome::Failed(e) if e.code == Code::PeerAddressExists));
    cluster.pass(5 * SECOND_US);
    let rig = cluster.at(leader);
    assert_eq!(*rig.machine.configuration(), before);
    assert!(!rig.dialled_urls.contains(&moved.peer_url));
}

/// An address that other machines cannot dial is refused, with the setting to change.
#[test]
fn protocol_14_addresses_that_members_cannot_reach_are_refused() {
    let mut rig = Rig::serving(settings(1));
    let unreachable =
        |rig: &mut Rig, settings: &Settings, setting: &str| match rig.done(join(settings, 8)) {
            Outcome::Failed(e) => {
                assert_eq!(e.code, Code::InvalidForm);
                assert!(e.cause.contains(&format!("set {setting} ")), "{e:?}");
            }
            other => panic!("{other:?}"),
        };
    let at = |peer_url: &str, client_url: &str| Settings {
        peer_url: peer_url.into(),
        client_url: client_url.into(),
        ..settings(2)
    };
    let anywhere = at("http://0.0.0.0:7002", "http://10.0.0.2:4002");
    unreachable(&mut rig, &anywhere, "-peer-addr");
    let anywhere = at("http://10.0.0.2:7002", "http://[::]:4002");
    unreachable(&mut rig, &anywhere, "-addr");
    // All members are on this host.
    let reachable = at("http://10.0.0.2:7002", "http://10.0.0.2:4002");
    assert!(matches!(rig.done(join(&reachable, 8)), Outcome::Joined(_)));
    // A member is on another one now.
    let local = settings(3);
    unreachable(&mut rig, &local, "-peer-addr");
    let local = Settings {
        peer_url: "http://10.0.0.3:7003".into(),
        ..settings(3)
    };
    unreachable(&mut rig, &local, "-addr");
    // Nor does a member move to such an address.
    unreachable(
        &mut rig,
        &at("http://0.0.0.0:7002", "http://10.0.0.2:4002"),
        "-peer-addr",
    );
}

/// Many joins at once: a few are appended, the others wait, and none is refused.
#[test]
fn protocol_14_joins_are_delayed_and_not_refused() {
    let mut rig = Rig::serving(settings(1));
    rig.done(Op::ConfigPut {
        active_size: Some(100.0),
        remove_delay_s: None,
        sync_interval_s: None,
    });
    let mut tickets = Vec::new();
    for number in 2..=22 {
        tickets.push(rig.ask(join(&settings(number), u64::from(number))));
    }
    rig.settle();
    let members = |rig: &Rig| rig.machine.configuration().members.len();
    assert_eq!(members(&rig), 1 + 8);
    rig.pass(SECOND_US);
    assert_eq!(members(&rig), 1 + 8 + 4);
    rig.pass(3 * SECOND_US);
    assert_eq!(members(&rig), 22);
    for ticket in tickets {
        assert!(matches!(rig.answer(ticket), Outcome::Joined(_)));
    }
}

/// A join that is repeated is answered with the member's id by any member that has applied it,
/// without a leader and without an entry.
#[test]
fn protocol_14_a_repeated_join_needs_no_leader() {
    let mut cluster = super::cluster::cluster(3, settings(1));
    let ids = cluster.ids();
    let third = cluster
        .at(ids[0])
        .machine
        .configuration()
        .get(ids[2])
        .expect("a member")
        .clone();
    let repeated = join(&settings(3), third.incarnation);
    for id in &ids {
        let last = cluster
            .at(ids[0])
            .machine
            .raft()
            .expect("a member")
            .last_index();
        assert_eq!(
            cluster.done(*id, repeated.clone()),
            Outcome::Joined(Index(ids[2].0))
        );
        let after = cluster
            .at(ids[0])
            .machine
            .raft()
            .expect("a member")
            .last_index();
        assert_eq!(last, after, "no entry is appended");
    }
    // Another data directory is another machine: only the leader can tell.
    let other = cluster.done(ids[1], join(&settings(3), third.incarnation + 1));
    assert!(matches!(other, Outcome::Redirect { .. }), "{other:?}");
    let rig = cluster.rigs.remove(&ids[1]).expect("the second");
    let mut rig = rig.restart();
    rig.pass(5 * SECOND_US);
    assert!(rig.machine.raft().expect("a member").leader().is_none());
    assert_eq!(rig.done(repeated), Outcome::Joined(Index(ids[2].0)));
}

/// A leader that is cut off does not tell a machine that it is a member: the Join may never be
/// committed, and another machine may get its id.
#[test]
fn protocol_14_a_repeated_join_from_a_new_address_waits_for_the_first() {
    let mut cluster = super::cluster::cluster(3, settings(1));
    let leader = cluster.leader();
    cluster.cut.push(leader);
    let first = cluster.at(leader).ask(join(&settings(4), 4));
    cluster.settle();
    let moved = Settings {
        peer_url: "http://127.0.0.1:7904".into(),
        ..settings(4)
    };
    let again = cluster.at(leader).ask(join(&moved, 4));
    cluster.settle();
    for ticket in [first, again] {
        assert_eq!(cluster.at(leader).take_answers(ticket), []);
    }
    cluster.cut.clear();
    cluster.pass(100_000);
    let id = cluster.at(leader).answer(first);
    assert!(matches!(id, Outcome::Joined(_)), "{id:?}");
    assert_eq!(cluster.at(leader).answer(again), id);
}

/// A member with an old log may not know the leader, and only the leader proposes its new address.
#[test]
fn protocol_10_a_join_from_a_new_address_is_redirected_to_the_leader() {
    let mut cluster = super::cluster::cluster(3, settings(1));
    let ids = cluster.ids();
    let moved = Settings {
        peer_url: "http://127.0.0.1:7903".into(),
        ..settings(3)
    };
    let asked = cluster.done(ids[1], join(&moved, 3));
    assert!(matches!(asked, Outcome::Redirect { .. }), "{asked:?}");
    let asked = cluster.done(ids[0], join(&moved, 3));
    assert_eq!(asked, Outcome::Joined(Index(ids[2].0)));
    // Without a leader the member is answered, and dialled.
    let rig = cluster.rigs.remove(&ids[1]).expect("the second");
    let mut rig = rig.restart();
    rig.pass(5 * SECOND_US);
    assert_eq!(rig.done(join(&moved, 3)), Outcome::Joined(Index(ids[2].0)));
}
