//! Finding the cluster by hand: the calls, and the effect of each answer.
use super::rig::*;
use super::seeker::*;
use super::stand::{list, standby_document};
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::raft::PeerId;

#[test]
fn it_is_admitted_and_becomes_that_member() {
    let mut seeker = Seeker::new(&PEERS, 3);
    assert!(!seeker.machine.listens());
    assert_eq!(seeker.machine.id(), None);
    let id = seeker.reach_the_join();
    // The index is written in groups of seven bits, in eight bytes.
    let body = [0xac, 0x02, 0, 0, 0, 0, 0, 0];
    seeker.respond(id, 200, "tern/0.1.0", &body);
    assert_eq!(seeker.call(), None);
    assert_eq!(seeker.ordered.let_in, Some(PeerId(300)));
    assert!(seeker.machine.listens());
    assert_eq!(seeker.machine.id(), Some(PeerId(300)));
    // A late word changes nothing.
    seeker.respond(id, 200, "tern/0.1.0", &[7]);
    seeker.call();
    assert_eq!(seeker.ordered.let_in, None);
}

#[test]
fn peers_are_asked_in_turn_and_attempts_are_counted() {
    let mut seeker = Seeker::new(&PEERS, 2);
    for attempt in 1..=2 {
        let id = seeker.gets("http://a:7001/version");
        seeker.fail(id);
        let id = seeker.gets("http://b:7001/version");
        // Another call's answer is none of this one.
        seeker.answer(CallId(9_999), 200, "2");
        assert_eq!(seeker.call(), None);
        seeker.answer(id, 500, "");
        let id = seeker.gets("http://b:7001/v2/cluster");
        seeker.answer(id, 200, &standby_document(&[]));
        if attempt == 1 {
            assert_eq!(seeker.call(), None, "it pauses");
            assert_eq!(seeker.ordered.failed, None);
            let due_us = seeker.now.mono_us + SECOND_US;
            assert_eq!(next_deadline(&seeker.machine), due_us);
            seeker.now.mono_us = due_us;
        }
    }
    let text = seeker.failed();
    assert!(text.contains("after 2 attempts"), "{text}");
    assert!(text.contains("http://a:7001: nobody listens"), "{text}");
    assert!(text.contains("http://b:7001: it is no member"), "{text}");
}

/// All machines that it was told of are standbys, or do not answer. A standby refuses each question
/// of a joiner, and names the leader, or a former one that is a standby as well.
#[test]
fn standbys_show_the_way_to_a_machine_that_joins() {
    let mut seeker = Seeker::new(&PEERS, 1);
    let id = seeker.gets("http://a:7001/version");
    seeker.fail(id);
    for (standby, leader) in [("b", "c"), ("c", "d")] {
        let id = seeker.gets(&format!("http://{standby}:7001/version"));
        seeker.answer(id, 404, "404 page not found\n");
        let id = seeker.gets(&format!("http://{standby}:7001/v2/cluster"));
        seeker.answer(id, 200, &standby_document(&[leader]));
    }
    let id = seeker.gets("http://d:7001/version");
    seeker.answer(id, 200, "2");
    let id = seeker.gets("http://d:7001/v2/admin/machines");
    seeker.answer(id, 200, &list(&["d"]));
    let id = seeker.gets("http://d:7001/v2/admin/config");
    seeker.answer(id, 200, SIZE);
    let call = seeker.asks(Method::Put, "http://d:7001/join");
    seeker.respond(call.id, 200, "tern/0.1.0", &[7]);
    assert_eq!(seeker.call(), None);
    assert_eq!(seeker.ordered.let_in, Some(PeerId(7)));
}

/// A round ends, whatever the machines name: each of these says that another one leads.
#[test]
fn a_round_follows_a_bounded_number_of_names() {
    let mut seeker = Seeker::new(&["http://n0:7001"], 1);
    let mut asked = 0;
    while let Some(call) = seeker.call() {
        if call.url.ends_with("/version") {
            seeker.answer(call.id, 404, "");
            continue;
        }
        asked += 1;
        let next = format!("n{asked}");
        seeker.answer(call.id, 200, &standby_document(&[&next]));
    }
    assert_eq!(asked, 17);
    assert!(seeker.ordered.failed.is_some());
}

#[test]
fn a_list_that_names_only_this_machine_is_none() {
    let mut seeker = Seeker::new(&["http://127.0.0.1:7003"], 0);
    let text = seeker.failed();
    assert!(text.contains("names no other machine"), "{text}");
}

#[test]
fn attempts_without_end_pause_between_two_and_four_seconds() {
    let mut seeker = Seeker::new(&PEERS[..1], 0);
    for _ in 0..20 {
        let id = seeker.gets("http://a:7001/version");
        seeker.fail(id);
        assert_eq!(seeker.call(), None);
        assert_eq!(seeker.ordered.failed, None);
        seeker.now.mono_us = next_deadline(&seeker.machine);
    }
}

/// It became a standby of the cluster in `LIST`, for this reason.
fn stands_by(seeker: &mut Seeker) -> String {
    // The known machines are asked at once, and no other.
    seeker.gets("http://a:7001/v2/admin/machines");
    let info = seeker.ordered.standby.take().expect("it is saved");
    assert!(info.running && info.cluster.len() == 1 && &*info.cluster[0].name == "a");
    assert!(!seeker.ordered.wipe, "there is nothing to wipe");
    assert_eq!(seeker.machine.standby(), Some(Some("http://a:4001")));
    assert!(seeker.machine.listens() && seeker.machine.role() == Role::Standby);
    let facts = std::mem::take(&mut seeker.effects.facts);
    match &facts[..] {
        [Fact::Refused { why }] => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_tern_is_never_asked_to_let_it_in() {
    for server in ["", "etcd/2.3"] {
        let mut seeker = Seeker::new(&PEERS[..1], 1);
        let id = seeker.gets("http://a:7001/version");
        seeker.respond(id, 200, server, b"2");
        let id = seeker.gets("http://a:7001/v2/admin/machines");
        seeker.respond(id, 200, server, LIST.as_bytes());
        assert!(stands_by(&mut seeker).contains("not tern"));
        // A peer without a list of its cluster is skipped.
        let mut seeker = Seeker::new(&PEERS[..1], 1);
        let id = seeker.gets("http://a:7001/version");
        seeker.respond(id, 200, server, b"2");
        let id = seeker.gets("http://a:7001/v2/admin/machines");
        seeker.respond(id, 404, server, b"");
        assert!(seeker.failed().contains("404"));
    }
}

#[test]
fn another_version_and_a_full_cluster_make_a_standby() {
    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.gets("http://a:7001/version");
    seeker.answer(id, 200, "3");
    let id = seeker.gets("http://a:7001/v2/admin/machines");
    seeker.answer(id, 200, LIST);
    assert!(stands_by(&mut seeker).contains("store version 3"));

    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.gets("http://a:7001/version");
    seeker.answer(id, 200, "2");
    let id = seeker.gets("http://a:7001/v2/admin/machines");
    seeker.answer(id, 200, LIST);
    let id = seeker.gets("http://a:7001/v2/admin/config");
    seeker.answer(id, 200, r#"{"activeSize":1}"#);
    assert!(stands_by(&mut seeker).contains("full (1 machines)"));

    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.reach_the_join();
    seeker.answer(
        id,
        400,
        r#"{"errorCode":103,"message":"Reached the max","cause":""}"#,
    );
    assert!(stands_by(&mut seeker).contains("error 103"));
}

#[test]
fn full_counts_only_from_a_machine_that_knows_a_leader() {
    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.gets("http://a:7001/version");
    seeker.answer(id, 200, "2");
    let id = seeker.gets("http://a:7001/v2/admin/machines");
    seeker.answer(id, 200, &LIST.replace("leader", "follower"));
    seeker.gets("http://b:7001/version");
}

#[test]
fn a_taken_address_is_a_failed_attempt() {
    let mut seeker = Seeker::new(&PEERS[..1], 1);
    let id = seeker.reach_the_join();
    let body = r#"{"errorCode":109,"message":"Peer address has existed","cause":"x"}"#;
    seeker.answer(id, 400, body);
    let text = seeker.failed();
    assert!(text.contains("error 109"), "{text}");
}

/// A listed name goes straight to the join: a full cluster has room for its own members.
#[test]
fn a_listed_machine_asks_for_no_room() {
    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.gets("http://a:7001/version");
    seeker.answer(id, 200, "2");
    let id = seeker.gets("http://a:7001/v2/admin/machines");
    seeker.answer(id, 200, &LIST.replace("\"a\"", "\"node3\""));
    seeker.asks(Method::Put, "http://a:7001/join");
}

#[test]
fn stopping_while_it_looks() {
    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.reach_the_join();
    seeker.machine.on_stop(seeker.now);
    assert_eq!(seeker.call(), None);
    assert!(seeker.ordered.stopped);
    seeker.respond(id, 200, "tern/0.1.0", &[5]);
    seeker.call();
    assert_eq!(seeker.ordered.let_in, None);
}

/// Refusals that answer another question than the one that was asked say nothing: a machine that
/// joins has no place to lose.
#[test]
fn refusals_of_a_place_do_not_end_a_search_that_joins() {
    for cause in [
        "that member was removed",
        "that member has lost entries that it acknowledged",
    ] {
        let body = format!(r#"{{"errorCode":300,"message":"m","cause":"{cause}","index":1}}"#);
        let mut seeker = Seeker::new(&PEERS, 0);
        for path in ["version", "v2/cluster"] {
            let id = seeker.gets(&format!("http://a:7001/{path}"));
            seeker.answer(id, 500, &body);
        }
        let version = seeker.gets("http://b:7001/version");
        seeker.answer(version, 200, "2");
        let list = seeker.gets("http://b:7001/v2/admin/machines");
        seeker.answer(list, 500, &body);
        let leader = seeker.gets("http://b:7001/v2/cluster");
        seeker.answer(leader, 500, &body);
        assert!(seeker.call().is_none(), "it pauses before the next attempt");
    }
}
