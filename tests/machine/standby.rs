//! Standby mode by hand: what it asks when, where it sends clients, how it comes to it and how it
//! ends.
use super::rig::*;
use super::stand::*;
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::raft::{Message, PeerId, Rpc, Term};
use tern::core::timer::Now;

/// The machines at once and every interval; to join exactly one interval after the beginning, then
/// with every fetch.
#[test]
fn the_first_request_to_join_comes_after_one_interval() {
    let mut stand = Stand::again(&["a", "b"]);
    assert_eq!(stand.machine.role(), Role::Standby);
    assert!(stand.machine.listens());
    assert_eq!(stand.fetch("a", &list(&["a", "b"]), SIZE_5S), 0);
    stand.rests();
    for round in 1..=3 {
        assert_eq!(
            stand.fetch("a", &list(&["a", "b"]), SIZE_5S),
            round * INTERVAL_US
        );
        let call = stand.asks("a");
        assert_eq!(
            stand.now.mono_us,
            stand.began_us + round * INTERVAL_US,
            "in the same moment"
        );
        let body: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON");
        assert_eq!(
            (&body["name"], &body["incarnation"]),
            (&"node3".into(), &77.into())
        );
        stand.tell(
            &call,
            500,
            "tern/0.1.0",
            br#"{"errorCode":300,"message":"x","cause":""}"#,
        );
        stand.rests();
    }
    assert_eq!(
        stand.facts.len(),
        2,
        "the same failure is reported once: {:?}",
        stand.facts
    );
}

#[test]
fn a_changed_interval_counts_from_the_next_fetch() {
    let mut stand = Stand::again(&["a"]);
    let two = SIZE_5S.replace("\"syncInterval\":5", "\"syncInterval\":2");
    assert_eq!(stand.fetch("a", &list(&["a"]), FULL), 0);
    assert_eq!(
        stand.fetch("a", &list(&["a", "b", "c"]), &FULL.replace(":5}", ":2}")),
        INTERVAL_US
    );
    assert_eq!(
        stand.fetch("a", &list(&["a", "b"]), &two),
        INTERVAL_US + 2 * SECOND_US
    );
    stand.asks("a");
    let told: Vec<u64> = stand.saved.iter().map(|i| i.sync_interval_ms).collect();
    assert_eq!(
        told,
        [5_000, 5_000, 2_000, 2_000],
        "saved when something is new, and only then"
    );
}

#[test]
fn no_room_no_request_unless_the_list_names_it() {
    let mut stand = Stand::again(&["a"]);
    for round in 0..3 {
        assert_eq!(
            stand.fetch("a", &list(&["a", "b", "c"]), FULL),
            round * INTERVAL_US
        );
        stand.rests();
    }
    stand.fetch("a", &list(&["a", "b", "c", "node3"]), FULL);
    let call = stand.asks("a");
    // 12 in groups of seven bits.
    stand.tell(&call, 200, "tern/0.1.0", &[12]);
    stand.turn();
    assert_eq!(stand.ordered.let_in, Some(PeerId(12)));
    let last = stand.saved.last().expect("saved");
    assert!(!last.running && last.cluster.len() == 4);
    assert_eq!(
        (stand.machine.id(), stand.machine.standby()),
        (Some(PeerId(12)), None)
    );
    assert!(
        stand.facts.ends_with(&[Fact::Admitted { id: PeerId(12) }]),
        "{:?}",
        stand.facts
    );
}

/// The leader first, then the other members, then the peers of the command line; each once, and
/// never itself.
#[test]
fn the_machines_that_a_standby_asks() {
    let mut stand = Stand::again(&["a", "node3", "b"]);
    // Its own URLs under another name.
    let info = StandbyInfo {
        running: true,
        cluster: vec![MachineInfo {
            peer_url: settings(3).peer_url,
            client_url: settings(3).client_url,
            ..members(&["x"]).remove(0)
        }],
        sync_interval_ms: 5_000,
        ..StandbyInfo::default()
    };
    let now = stand.now;
    let mut alone = Stand::of(
        Machine::stand_by(
            settings(3),
            Recovered::nothing(None, 77),
            info,
            Search::default(),
            5,
            now,
        ),
        now,
    );
    alone.machine.on_time(alone.now);
    assert_eq!(alone.turn(), []);
    assert!(
        matches!(&alone.facts[1], Fact::StandbyRefused { why } if why.contains("no other machine"))
    );

    for peer in ["a", "node3", "b", "spare"] {
        let call = match peer {
            "a" => stand.next(Method::Get, "http://a:7001/v2/admin/machines"),
            peer => stand.calls(
                Method::Get,
                &format!("http://{peer}:7001/v2/admin/machines"),
            ),
        };
        match peer {
            "a" => stand.fail(&call),
            // A standby, one that knows no leader, and one that makes no sense.
            "node3" => {
                stand.tell(&call, 404, "tern/0.1.0", b"");
                let call = stand.calls(Method::Get, "http://node3:7001/v2/cluster");
                stand.answer(&call, &standby_document(&["b"]));
            }
            "b" => stand.answer(&call, &list(&["b"]).replace("leader", "follower")),
            _ => stand.answer(&call, "junk"),
        }
    }
    let call = stand.calls(Method::Get, "http://spare:7001/v2/cluster");
    stand.answer(&call, "no document");
    stand.rests();
    let told = stand.facts.last();
    assert!(
        matches!(told, Some(Fact::StandbyRefused { why }) if why.starts_with("http://spare:7001: ")),
        "{told:?}"
    );
    assert_eq!(
        stand.redirect(),
        Outcome::Redirect {
            client_url: "http://a:4001".into(),
            peer_url: "http://a:7001".into()
        }
    );
    // No machine has answered: the next try is at the interval.
    assert_eq!(next_deadline(&stand.machine), stand.began_us + INTERVAL_US);
}

/// All machines that it knows are standbys themselves: they point to their leader, which this
/// machine does not know.
#[test]
fn standbys_show_the_way() {
    let mut stand = Stand::again(&["a", "b"]);
    stand.machine.on_time(stand.now);
    for (peer, names) in [("a", vec![]), ("b", vec!["c"])] {
        let list = format!("http://{peer}:7001/v2/admin/machines");
        let call = stand.calls(Method::Get, &list);
        stand.tell(&call, 404, "tern/0.1.0", b"");
        let call = stand.calls(Method::Get, &format!("http://{peer}:7001/v2/cluster"));
        stand.answer(&call, &standby_document(&names));
    }
    let call = stand.calls(Method::Get, "http://c:7001/v2/admin/machines");
    stand.answer(&call, &list(&["c", "d"]));
    let call = stand.calls(Method::Get, "http://c:7001/v2/admin/config");
    stand.answer(&call, SIZE_5S);
    stand.rests();
    assert_eq!(stand.machine.standby(), Some(Some("http://c:4001")));
    stand.fetch("c", &list(&["c", "d"]), SIZE_5S);
    stand.asks("c");
}

/// 402 while it knows no leader, or only itself; then it asks soon again, and still joins not
/// before its time.
#[test]
fn where_clients_are_sent() {
    for itself in [false, true] {
        let mut stand = Stand::again(&["a", "b"]);
        let mut cluster = members(&["node3", "b"]);
        cluster[0].client_url = settings(3).client_url;
        if !itself {
            cluster[0] = MachineInfo {
                state: Role::Follower,
                ..cluster[1].clone()
            };
        }
        let info = StandbyInfo {
            running: true,
            cluster,
            sync_interval_ms: 5_000,
            ..StandbyInfo::default()
        };
        stand.machine = Machine::stand_by(
            settings(3),
            Recovered::nothing(None, 77),
            info,
            Search::default(),
            5,
            stand.now,
        );
        assert!(
            matches!(stand.redirect(), Outcome::Failed(e) if e.code == tern::core::error::Code::StandbyInternal)
        );
        assert_eq!(stand.machine.standby(), Some(None));
        let first = if itself { "node3" } else { "b" };
        let call = stand.next(
            Method::Get,
            &format!("http://{first}:7001/v2/admin/machines"),
        );
        stand.fail(&call);
        if itself {
            let call = stand.calls(Method::Get, "http://b:7001/v2/admin/machines");
            stand.fail(&call);
        }
        stand.rests();
        assert_eq!(stand.fetch(first, &list(&["c", "b"]), SIZE_5S), 500_000);
        stand.rests();
        assert_eq!(stand.machine.standby(), Some(Some("http://c:4001")));
        assert_eq!(stand.fetch("c", &list(&["c", "b"]), SIZE_5S), INTERVAL_US);
        stand.asks("c");
    }
}

#[test]
fn what_is_not_tern_is_never_asked() {
    let mut stand = Stand::again(&["a"]);
    for _ in 0..3 {
        let call = stand.next(Method::Get, "http://a:7001/v2/admin/machines");
        stand.tell(&call, 200, "", list(&["a", "node3"]).as_bytes());
        let call = stand.calls(Method::Get, "http://a:7001/v2/admin/config");
        stand.tell(&call, 200, "", SIZE_5S.as_bytes());
        stand.rests();
        assert_eq!(stand.machine.standby(), Some(Some("http://a:4001")));
    }
}

#[test]
fn another_store_version_is_not_asked_either() {
    let mut stand = Stand::again(&["a"]);
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    let call = stand.calls(Method::Get, "http://a:7001/version");
    stand.answer(&call, "3");
    stand.rests();
    assert!(
        matches!(stand.facts.last(), Some(Fact::StandbyRefused { why }) if why.contains("version 3"))
    );
}

/// Removed in the middle of its life: it is saved first, then all is wiped, and a new number asks
/// one interval later.
#[test]
fn a_removed_member() {
    let mut stand = Stand::removed(true);
    assert!(stand.facts.contains(&Fact::Removed) && stand.saved.len() == 1);
    assert_eq!(stand.saved[0].cluster.len(), 1);
    assert_eq!((stand.machine.id(), stand.machine.cluster()), (None, 0));
    assert_eq!(
        stand.machine.indexes(),
        Indexes::default(),
        "nothing of the former life"
    );
    assert_eq!(stand.machine.timers(), 1);
    assert_eq!(stand.machine.standby(), Some(Some("http://127.0.0.1:4001")));
    stand.began_us = stand.now.mono_us;
    let url = "http://127.0.0.1:7001";
    for round in 0..2 {
        let call = stand.next(Method::Get, &format!("{url}/v2/admin/machines"));
        let listed = list(&["a"]).replace("http://a:7001", url);
        stand.answer(&call, &listed);
        let call = stand.calls(Method::Get, &format!("{url}/v2/admin/config"));
        stand.answer(&call, SIZE_5S);
        assert_eq!(stand.now.mono_us - stand.began_us, round * INTERVAL_US);
    }
    let call = stand.calls(Method::Get, &format!("{url}/version"));
    stand.answer(&call, "2");
    let call = stand.calls(Method::Put, &format!("{url}/join"));
    let body: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON");
    assert_eq!(body["incarnation"], 78);
    stand.tell(&call, 200, "tern/0.1.0", &[20]);
    stand.turn();
    assert_eq!(
        (stand.ordered.let_in, stand.machine.id()),
        (Some(PeerId(20)), Some(PeerId(20)))
    );
    assert_eq!(stand.machine.raft().expect("a member").term(), Term(0));
}

/// Told so when it comes up, it asks at once; refused, it waits like any other.
#[test]
fn a_member_that_was_removed_while_it_was_away() {
    let asked = |stand: &mut Stand, config: &str| {
        let url = "http://127.0.0.1:7001";
        let call = stand.next(Method::Get, &format!("{url}/v2/admin/machines"));
        stand.answer(&call, &list(&["a"]).replace("http://a:7001", url));
        let call = stand.calls(Method::Get, &format!("{url}/v2/admin/config"));
        stand.answer(&call, config);
        stand.now.mono_us - stand.began_us
    };
    let mut stand = Stand::removed(false);
    assert!(stand.facts.contains(&Fact::Removed));
    assert_eq!(stand.machine.standby(), Some(None), "it knows no leader");
    assert_eq!(asked(&mut stand, SIZE_5S), 0);
    let call = stand.calls(Method::Get, "http://127.0.0.1:7001/version");
    stand.answer(&call, "2");
    stand.calls(Method::Put, "http://127.0.0.1:7001/join");
    // The same, and there is no room.
    let mut stand = Stand::removed(false);
    assert_eq!(asked(&mut stand, &FULL.replace(":3,", ":1,")), 0);
    stand.rests();
    assert_eq!(asked(&mut stand, SIZE_5S), INTERVAL_US);
    stand.calls(Method::Get, "http://127.0.0.1:7001/version");
}

/// A reply to a call of a former mode is none to one of this mode.
#[test]
fn late_replies_are_ignored() {
    let mut stand = Stand::again(&["a"]);
    let first = stand.next(Method::Get, "http://a:7001/v2/admin/machines");
    assert!(first.id > CallId(1 << 32), "{:?}", first.id);
    stand
        .machine
        .on_reply(stand.now, CallId(1), Reply::Failed { why: "late".into() });
    stand.rests();
    stand.answer(&first, &list(&["a"]));
    let second = stand.calls(Method::Get, "http://a:7001/v2/admin/config");
    stand.answer(&first, &list(&["b"]));
    stand.rests();
    stand.answer(&second, SIZE_5S);
    assert_eq!(stand.machine.standby(), Some(Some("http://a:4001")));
}

/// Stopped, it stays a standby for the next start; and what comes later changes nothing.
#[test]
fn stopping_a_standby() {
    let mut stand = Stand::again(&["a"]);
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    let call = stand.asks("a");
    stand.machine.on_stop(stand.now);
    stand.turn();
    assert!(stand.ordered.stopped);
    stand.tell(&call, 200, "tern/0.1.0", &[12]);
    stand.turn();
    assert_eq!(stand.ordered.let_in, None);
    assert!(stand.saved.iter().all(|i| i.running));
    assert!(matches!(stand.redirect(), Outcome::Redirect { .. }));
}

/// A hundred times there and back: each mode has as many timers as the first time, and each life a
/// number of its own.
#[test]
fn no_timer_of_a_former_mode_is_left() {
    let mut stand = Stand::again(&["a"]);
    for round in 0..100u8 {
        assert_eq!(stand.machine.timers(), 1, "the next fetch");
        stand.began_us = stand.now.mono_us;
        // A machine that starts removed asks at once, if there is room; it knows the last leader.
        assert_eq!(stand.fetch("a", &list(&["a", "b", "c"]), FULL), 0);
        stand.rests();
        assert_eq!(stand.fetch("a", &list(&["a", "b"]), SIZE_5S), INTERVAL_US);
        let call = stand.asks("a");
        let id = PeerId(u64::from(round) + 10);
        stand.tell(&call, 200, "tern/0.1.0", &[round + 10]);
        stand.turn();
        assert_eq!(
            (stand.machine.id(), stand.machine.role()),
            (Some(id), Role::Follower)
        );
        assert_eq!(
            stand.machine.timers(),
            2,
            "one to report that there is no leader, one to ask because no data arrives"
        );
        let before = stand.saved.len();
        let notice = Message {
            term: Term::REMOVED,
            rpc: Rpc::Removed { cluster: 5, id },
        };
        stand.machine.on_message(stand.now, PeerId(1), notice);
        // An old notice is none for the next life.
        let late = Message {
            term: Term::REMOVED,
            rpc: Rpc::Removed {
                cluster: 5,
                id: PeerId(9),
            },
        };
        stand.machine.on_message(stand.now, PeerId(1), late);
        stand.turn();
        stand.turn();
        assert_eq!(
            (stand.saved.len(), stand.machine.role()),
            (before + 1, Role::Standby)
        );
    }
}

/// A discovery service learns of a standby at every start, as of a member.
#[test]
fn a_standby_registers() {
    let now = Now {
        mono_us: 1_000_000,
        wall_ns: EPOCH_NS,
    };
    let info = StandbyInfo {
        running: true,
        cluster: members(&["a"]),
        sync_interval_ms: 5_000,
        ..StandbyInfo::default()
    };
    let search = Search {
        discovery: Some("http://d/v2/keys/c".into()),
        ..Search::default()
    };
    let mut stand = Stand::of(
        Machine::stand_by(
            settings(3),
            Recovered::nothing(None, 77),
            info,
            search,
            5,
            now,
        ),
        now,
    );
    stand.machine.on_time(now);
    let calls = stand.turn();
    assert!(
        calls
            .iter()
            .any(|c| c.method == Method::Put && &*c.url == "http://d/v2/keys/c/node3"),
        "{calls:?}"
    );
    assert!(
        calls
            .iter()
            .any(|c| &*c.url == "http://a:7001/v2/admin/machines"),
        "{calls:?}"
    );
}
