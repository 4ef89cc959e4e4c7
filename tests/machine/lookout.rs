//! A member that starts looks at the other machines: whether it has moved, was removed, or has
//! another name than its log says.
use super::cluster::cluster;
use super::rig::*;
use super::seeker::*;
use super::stand::standby_document;
use tern::core::machine::*;
use tern::core::peers::{Hello, HelloRefusal, LinkEvent};
use tern::core::raft::{Index, PeerId, Term};

/// A member that has come up, with others in its log, and looks around.
fn member(settings: Settings, peers: &[&str]) -> Rig {
    let mut rig = Rig::found(settings);
    rig.machine
        .begin_place_checks(rig.now, search(peers, 3))
        .expect("the name of its log");
    rig
}

fn first_call(rig: &mut Rig) -> Asked {
    rig.machine.on_time(rig.now);
    rig.turn();
    Asked::of(&rig.effects.calls.pop().expect("a call"))
}

#[test]
fn a_member_looks_around_once() {
    let mut rig = member(settings(1), &["http://127.0.0.1:7001", "http://b:7001"]);
    let call = first_call(&mut rig);
    let cluster = rig.machine.cluster();
    assert_eq!(
        *call.url,
        *format!("http://b:7001/v2/admin/machines?cluster={cluster:x}&id=1")
    );
    let why = "nobody listens".into();
    rig.machine
        .on_reply(rig.now, call.id, Reply::Failed { why });
    rig.settle();
    assert!(rig.machine.is_serving(), "it goes on from its log");
    assert!(rig.effects.calls.is_empty() && rig.ordered.failed.is_none());
}

#[test]
fn a_member_whose_address_another_has_does_not_run() {
    // The second member is started with the peer address of the first one.
    let mut cluster = cluster(2, settings(1));
    let ids = cluster.ids();
    let mut rig = cluster.rigs.remove(&ids[1]).expect("the second member");
    rig.settings.peer_url = settings(1).peer_url;
    let mut rig = rig.restart();
    rig.machine
        .begin_place_checks(rig.now, search(&["http://b:7001"], 3))
        .expect("the name of its log");
    let listed = r#"[{"name":"node1","state":"leader","clientURL":"http://127.0.0.1:4001","peerURL":"http://127.0.0.1:7001"}]"#;
    let call = first_call(&mut rig);
    rig.machine
        .on_reply(rig.now, call.id, call.answered(200, listed));
    rig.turn();
    // The two may have exchanged their addresses.
    assert_eq!(rig.ordered.failed, None);
    // But the first member answers there.
    rig.machine.on_time(rig.now);
    rig.turn();
    let dialled = rig.dialled[0];
    let hello = Hello {
        from: ids[0],
        to: Some(ids[1]),
        process: 9,
        incarnation: 77,
        name: settings(1).name,
        peer_url: settings(1).peer_url,
        client_url: settings(1).client_url,
        ..Hello::default()
    };
    let event = LinkEvent::Opened(Box::new(hello));
    rig.machine.on_link(rig.now, dialled, event);
    rig.now.mono_us += 4 * SECOND_US;
    let call = first_call(&mut rig);
    rig.machine
        .on_reply(rig.now, call.id, call.answered(200, listed));
    rig.turn();
    let text = rig.ordered.failed.take().expect("it has ended");
    assert!(text.contains("belongs to node1 in the cluster"), "{text}");
}

/// A founder and a second voter: neither leads alone. Returns the id of the second one.
fn two() -> (Cluster, PeerId) {
    let mut cluster = Cluster::of(Rig::serving(settings(1)));
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    (cluster, id)
}

/// A list may come from a machine that is behind: it wipes nothing.
#[test]
fn a_member_that_is_not_listed_goes_on() {
    let mut rig = member(settings(1), &["http://b:7001"]);
    let call = first_call(&mut rig);
    let reply = call.answered(200, LIST);
    rig.machine.on_reply(rig.now, call.id, reply);
    rig.settle();
    assert!(rig.facts.contains(&Fact::Unlisted));
    assert!(rig.machine.is_serving() && !rig.removed);
    rig.pass(10 * SECOND_US);
    assert!(
        rig.machine.is_serving() && !rig.removed,
        "a leader has no reason to ask again"
    );
}

/// All members that its log names may be gone themselves. A member without a leader that is twice
/// not listed by a machine that knows a leader takes that for its removal. Once, or by a machine
/// that knows none, is not enough.
#[test]
fn a_member_without_a_leader_that_is_not_listed() {
    let (mut cluster, id) = two();
    // With two voters neither leads alone.
    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    rig.machine
        .begin_place_checks(rig.now, search(&["http://b:7001"], 3))
        .expect("the name of its log");
    let ask = |rig: &mut Rig, peer: &str, list: &str| {
        let call = first_call(rig);
        let cluster = rig.machine.cluster();
        let id = rig.machine.id().expect("a member").0;
        assert_eq!(
            *call.url,
            *format!("{peer}/v2/admin/machines?cluster={cluster:x}&id={id:x}")
        );
        rig.machine
            .on_reply(rig.now, call.id, call.answered(200, list));
    };
    let known = settings(1).peer_url;
    ask(&mut rig, &known, &LIST.replace("leader", "follower"));
    ask(&mut rig, "http://b:7001", LIST);
    rig.turn();
    assert!(rig.facts.contains(&Fact::Unlisted) && !rig.removed);
    rig.machine.on_time(rig.now);
    rig.turn();
    assert!(rig.effects.calls.is_empty(), "it gives its leader time");
    rig.now.mono_us += 4 * SECOND_US;
    ask(&mut rig, &known, LIST);
    rig.turn();
    assert!(rig.removed && rig.ordered.wipe && rig.facts.contains(&Fact::Removed));
    assert_eq!(rig.machine.role(), Role::Standby);
}

/// All members that its log names have become standbys. One of them names the leader, which does not
/// list this member.
#[test]
fn a_member_whose_peers_are_all_standbys() {
    let (mut cluster, id) = two();
    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    rig.machine
        .begin_place_checks(rig.now, search(&[], 3))
        .expect("the name of its log");
    let cluster = rig.machine.cluster();
    let place = format!("v2/admin/machines?cluster={cluster:x}&id={:x}", id.0);
    let standby = settings(1);
    let document = standby_document(&["a"]);
    for is_second in [false, true] {
        let answers = [
            (format!("{}/{place}", standby.peer_url), 404, ""),
            (format!("{}/v2/cluster", standby.peer_url), 200, &document),
            (format!("http://a:7001/{place}"), 200, LIST),
        ];
        for (url, status, body) in answers {
            let call = first_call(&mut rig);
            assert_eq!(*call.url, *url);
            let reply = call.answered(status, body);
            rig.machine.on_reply(rig.now, call.id, reply);
        }
        rig.turn();
        assert_eq!(rig.removed, is_second);
        rig.now.mono_us += 4 * SECOND_US;
    }
}

/// Nobody answers at first, and its log may name none who ever will: it asks again as long as it
/// hears of no leader.
#[test]
fn a_member_without_a_leader_asks_again() {
    let (mut cluster, id) = two();
    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    rig.machine
        .begin_place_checks(rig.now, search(&[], 3))
        .expect("the name of its log");
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let call = first_call(&mut rig);
        assert!(call.url.starts_with(&*settings(1).peer_url), "{}", call.url);
        numbers.push(call.id);
        let why = "nobody listens".into();
        rig.machine
            .on_reply(rig.now, call.id, Reply::Failed { why });
        rig.turn();
        rig.now.mono_us += 29 * SECOND_US;
        rig.machine.on_time(rig.now);
        rig.turn();
        assert!(rig.effects.calls.is_empty() && !rig.removed);
        rig.now.mono_us += SECOND_US;
    }
    numbers.dedup();
    assert_eq!(
        numbers.len(),
        3,
        "late answers to the one are none to the next"
    );
}

/// The same holds without a restart: a member that ran on while its peers were replaced finds out
/// as well. A leader that is heard meanwhile makes it begin anew.
#[test]
fn a_running_member_that_is_long_without_a_leader() {
    let (mut cluster, id) = two();
    let mut rig = cluster.rigs.remove(&id).expect("it was let in");
    cluster.at(PeerId(1)).pass(100_000);
    let (_, beat) = cluster.at(PeerId(1)).sent.pop().expect("a heartbeat");
    let is_unlisted = |rig: &mut Rig| {
        let call = first_call(rig);
        let (peer, cluster) = (settings(1).peer_url, rig.machine.cluster());
        assert_eq!(
            *call.url,
            *format!("{peer}/v2/admin/machines?cluster={cluster:x}&id={:x}", id.0)
        );
        rig.machine
            .on_reply(rig.now, call.id, call.answered(200, LIST));
        rig.turn();
    };
    let asks_nobody_for = |rig: &mut Rig, us: u64| {
        rig.now.mono_us += us;
        rig.machine.on_time(rig.now);
        rig.turn();
        assert!(rig.effects.calls.is_empty() && !rig.removed);
    };
    rig.pass(SECOND_US);
    assert!(rig.machine.is_serving(), "it gives its leader up");
    // From when the leader was heard last it is thirty seconds.
    for (seconds, last) in [(28, false), (24, true)] {
        asks_nobody_for(&mut rig, seconds * SECOND_US);
        rig.now.mono_us += 2 * SECOND_US;
        is_unlisted(&mut rig);
        assert!(rig.facts.contains(&Fact::Unlisted) && !rig.removed);
        if !last {
            rig.machine.on_message(rig.now, PeerId(1), beat.clone());
            rig.turn();
            assert_eq!(
                rig.machine.raft().expect("a member").leader(),
                Some(PeerId(1))
            );
            rig.pass(SECOND_US);
            assert_eq!(rig.machine.raft().expect("a member").leader(), None);
        }
        asks_nobody_for(&mut rig, 2 * SECOND_US);
        rig.now.mono_us += 2 * SECOND_US;
        is_unlisted(&mut rig);
        assert_eq!(rig.removed, last);
    }
    assert!(rig.ordered.wipe && rig.facts.contains(&Fact::Removed));
    assert_eq!(rig.machine.role(), Role::Standby);
}

/// Machines with other ids are at all addresses of the log: no link opens, over which the notice of
/// the removal could arrive. The member asks soon, not only after 150 election timeouts.
#[test]
fn a_member_at_whose_peers_addresses_others_are_learns_of_its_removal() {
    for answer in [HelloRefusal::NotMe, HelloRefusal::NoMember] {
        let mut cluster = cluster(3, settings(1));
        let id = *cluster.rigs.keys().last().expect("a member");
        let mut rig = cluster.rigs.remove(&id).expect("a member").restart();
        rig.machine
            .begin_place_checks(rig.now, search(&[], 3))
            .expect("the name of its log");
        // The look at the start finds no machine.
        for _ in 0..2 {
            let call = first_call(&mut rig);
            let why = "no answer".into();
            rig.machine
                .on_reply(rig.now, call.id, Reply::Failed { why });
        }
        let mut asked = 0;
        let until_us = rig.now.mono_us + 50 * settings(1).election_ms * 1_000;
        while !rig.removed && rig.now.mono_us < until_us {
            rig.now.mono_us += 10_000;
            rig.machine.on_time(rig.now);
            rig.turn();
            let calls: Vec<Asked> = rig.effects.calls.iter().map(Asked::of).collect();
            for link in std::mem::take(&mut rig.dialled) {
                let refused = LinkEvent::Refused(Some(answer.clone()));
                rig.machine.on_link(rig.now, link, refused);
            }
            for call in calls {
                asked += 1;
                rig.machine
                    .on_reply(rig.now, call.id, call.answered(200, LIST));
            }
            rig.sync();
        }
        assert!(rig.removed, "after {asked} answers");
        assert!(rig.facts.contains(&Fact::Removed) && asked >= 2);
    }
}

/// The log knows the member by its name. A machine that is started with another one does not run.
#[test]
fn a_member_with_another_name_is_refused() {
    let (mut cluster, id) = two();
    let mut rig = cluster.rigs.remove(&id).expect("it was let in");
    rig.settings.name = "another".into();
    let mut rig = rig.restart();
    let text = rig.machine.begin_place_checks(rig.now, search(&[], 3));
    let text = text.expect_err("the names differ");
    assert!(text.contains("another") && text.contains("node2"), "{text}");
}

/// A member that holds nothing of its cluster cannot know the name that it was admitted by. What
/// gives it another name may be a lie of one peer: it is refused, and the machine does not end.
#[test]
fn a_new_member_takes_no_other_name() {
    let mut cluster = Cluster::of(Rig::serving(settings(1)));
    let Outcome::Joined(Index(id)) = cluster.done(PeerId(1), join(&settings(2), 77)) else {
        panic!("not admitted");
    };
    let now = cluster.at(PeerId(1)).now;
    let renamed = Settings {
        name: "another".into(),
        ..settings(2)
    };
    let mut rig = Rig::let_in(renamed, PeerId(id), now);
    let looks = rig.machine.begin_place_checks(rig.now, search(&[], 3));
    assert_eq!(looks, Ok(()));
    cluster.rigs.insert(PeerId(id), rig);
    cluster.pass(SECOND_US);
    let rig = cluster.at(PeerId(id));
    assert_eq!(rig.failed, None);
    assert!(rig.machine.configuration().get(PeerId(id)).is_none());
}

/// What another cluster lists, or one that is not tern, is no evidence about this one, however
/// often it is asked: an address may have passed to it while all of this cluster are down.
#[test]
fn lists_of_another_cluster_are_ignored() {
    let (mut cluster, id) = two();
    let mut other = cluster.rigs.remove(&PeerId(1)).expect("it was founded");
    let mine = other.machine.cluster();
    let asked = |rig: &mut Rig, cluster: u64, id: u64| {
        let place = MemberPlace {
            cluster,
            id: PeerId(id),
            last: None,
        };
        rig.done(Op::Query(Query::MachinesOf(place)))
    };
    assert!(matches!(asked(&mut other, mine, id.0), Outcome::MachineList(list) if list.len() == 2));
    let refused = asked(&mut other, mine + 1, id.0);
    assert!(
        matches!(&refused, Outcome::Failed(e) if &*e.cause == tern::core::error::OTHER_CLUSTER)
    );
    // A machine whose log does not reach a member's join cannot tell that it is no member.
    let applied = other.machine.applied().0;
    let removed = asked(&mut other, mine, applied);
    assert!(matches!(&removed, Outcome::Failed(e) if &*e.cause == tern::core::error::WAS_REMOVED));
    assert!(
        matches!(asked(&mut other, mine, applied + 1), Outcome::Failed(e) if e.cause.contains("join"))
    );

    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    // It has moved: it goes on asking.
    rig.settings.peer_url = "http://moved:7002".into();
    let mut rig = rig.restart();
    rig.machine
        .begin_place_checks(rig.now, search(&["http://b:7001"], 3))
        .expect("the name of its log");
    for _ in 0..20 {
        for peer in [settings(1).peer_url, "http://b:7001".into()] {
            let call = first_call(&mut rig);
            assert!(call.url.starts_with(&*peer), "{}", call.url);
            let reply = match &*peer {
                "http://b:7001" => call.reply(200, "etcd", LIST.as_bytes()),
                _ => call.answered(
                    500,
                    r#"{"errorCode":300,"message":"x","cause":"another cluster","index":5}"#,
                ),
            };
            rig.machine.on_reply(rig.now, call.id, reply);
        }
        rig.turn();
        rig.now.mono_us += 10 * SECOND_US;
    }
    assert!(!rig.removed && !rig.facts.contains(&Fact::Unlisted));
    let said = rig
        .facts
        .iter()
        .filter(|f| matches!(f, Fact::OtherCluster { why } if why.contains("127.0.0.1:7001")));
    assert_eq!(said.count(), 1, "{:?}", rig.facts);
}

/// A member whose new address is refused asks on without end; the reason is logged when it is
/// another reason.
#[test]
fn the_reason_of_a_refused_move_is_logged_once() {
    let mut rig = Rig::serving(settings(1));
    rig.settings.peer_url = "http://moved:7001".into();
    let mut rig = rig.restart();
    rig.machine
        .begin_place_checks(rig.now, search(&["http://b:7001"], 3))
        .expect("the name of its log");
    let list = LIST.replace("\"a\"", "\"node1\"");
    for cause in ["one", "one", "one", "other", "other"] {
        let call = first_call(&mut rig);
        rig.machine
            .on_reply(rig.now, call.id, call.answered(200, &list));
        let call = first_call(&mut rig);
        let body = format!(r#"{{"errorCode":109,"message":"x","cause":"{cause}"}}"#);
        rig.machine
            .on_reply(rig.now, call.id, call.answered(400, &body));
        rig.turn();
        rig.now.mono_us += SECOND_US;
    }
    let said = rig
        .facts
        .iter()
        .filter(|f| matches!(f, Fact::SearchFailed { .. }));
    assert_eq!(said.count(), 2, "{:?}", rig.facts);
}

/// Started with other addresses, a lone leader records them itself, once, and the index rises by
/// one.
#[test]
fn a_leader_that_has_moved() {
    let mut rig = Rig::serving(settings(1));
    let etcd = rig.machine.indexes().etcd.0;
    rig.settings.client_url = "http://elsewhere:4001".into();
    let mut rig = rig.restart();
    rig.machine
        .begin_place_checks(rig.now, search(&[], 3))
        .expect("the name of its log");
    rig.settle();
    rig.pass(SECOND_US);
    assert_eq!(rig.machine.indexes().etcd.0, etcd + 1);
    let urls = vec!["http://elsewhere:4001".into()];
    let machines = rig.done(Op::Query(Query::Machines));
    assert_eq!(machines, Outcome::Machines { client_urls: urls });
}

/// Admitted, stopped before any entry arrived, and started with another address: it reports that as
/// soon as it sees which one the cluster knows.
#[test]
fn a_member_that_has_moved_before_it_knew_its_place() {
    let mut cluster = Cluster::of(Rig::serving(settings(1)));
    let Outcome::Joined(Index(id)) = cluster.done(PeerId(1), join(&settings(2), 77)) else {
        panic!("not let in");
    };
    let now = cluster.at(PeerId(1)).now;
    let moved = Settings {
        peer_url: "http://moved:7002".into(),
        ..settings(2)
    };
    let mut rig = Rig::let_in(moved, PeerId(id), now);
    rig.machine
        .begin_place_checks(rig.now, search(&[], 3))
        .expect("the name of its log");
    rig.turn();
    assert!(rig.effects.calls.is_empty());
    cluster.rigs.insert(PeerId(id), rig);
    cluster.pass(SECOND_US);
    let rig = cluster.at(PeerId(id));
    let known = rig
        .machine
        .configuration()
        .get(PeerId(id))
        .map(|m| m.peer_url.clone());
    assert_eq!(known, Some(settings(2).peer_url));
    let url = format!(
        "{}/v2/admin/machines?cluster={:x}&id={id:x}",
        settings(1).peer_url,
        rig.machine.cluster()
    );
    assert_eq!(rig.called[0], url.into());
}

/// Admitted, and moved before any entry arrived. The leader cannot prove itself to it: it dials
/// whichever machine is at the new address, and may not name a number of a data directory to it. So
/// the machine dials the leader, wherever that is now.
#[test]
fn protocol_10_a_member_without_a_log_dials_the_machines_that_its_peer_lists() {
    let mut rig = Rig::let_in(settings(2), PeerId(7), Rig::serving(settings(1)).now);
    rig.machine
        .begin_place_checks(rig.now, search(&["http://a:7001"], 3))
        .expect("no log with another name");
    let call = loop {
        rig.now.mono_us = next_deadline(&rig.machine);
        rig.machine.on_time(rig.now);
        rig.turn();
        if let Some(call) = rig.effects.calls.pop() {
            break Asked::of(&call);
        }
    };
    assert_eq!(&*call.url, "http://a:7001/version");
    rig.machine
        .on_reply(rig.now, call.id, call.answered(200, "2"));
    let call = first_call(&mut rig);
    let listed = r#"[{"name":"c","state":"leader","clientURL":"http://c:4001","peerURL":"http://moved:7001"}]"#;
    rig.machine
        .on_reply(rig.now, call.id, call.answered(200, listed));
    rig.pass(SECOND_US);
    assert!(rig.dialled_urls.contains(&"http://moved:7001".into()));
}

/// A machine that learns at its start that it was removed wipes its log and asks anew.
#[test]
fn a_machine_that_was_removed_comes_up() {
    let mut rig = Rig::serving(settings(1));
    let other = settings(2);
    assert!(matches!(rig.done(join(&other, 2)), Outcome::Joined(_)));
    let let_in = Recovered::nothing(Some(PeerId(7)), 3);
    let mut removed = Machine::recover(settings(4), let_in, 1, rig.now);
    let notice = tern::core::raft::Message {
        term: Term::REMOVED,
        rpc: tern::core::raft::Rpc::Removed {
            cluster: 5,
            id: PeerId(7),
        },
    };
    removed.on_message(rig.now, PeerId(1), notice);
    let mut effects = Outputs::default();
    removed.advance(rig.now, &mut effects);
    assert!(removed.wants_turn());
    removed.advance(rig.now, &mut effects);
    assert!(effects.wipes());
}
