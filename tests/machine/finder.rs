//! Finding the cluster by hand: what is asked of whom, what each answer leads to, and what a member
//! asks at start.
use super::rig::*;
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::raft::{Index, PeerId, Term};
use tern::core::timer::Now;

const PEERS: [&str; 2] = ["http://a:7001", "http://b:7001"];
const LIST: &str =
    r#"[{"name":"a","state":"leader","clientURL":"http://a:4001","peerURL":"http://a:7001"}]"#;
const SIZE: &str = r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#;

/// A machine that looks for its cluster, and the clock.
struct Seeker {
    machine: Machine,
    effects: Effects,
    now: Now,
    /// All calls so far.
    asked: Vec<Asked>,
}

fn search(peers: &[&str], attempts_max: u32) -> Search {
    Search {
        known: Vec::new(),
        discovery: None,
        peers: peers.iter().map(|p| (*p).into()).collect(),
        attempts_max,
        pause_ms: Some(1_000),
    }
}

const SERVICE: &str = "http://d/v2/keys/c";

impl Seeker {
    fn new(peers: &[&str], attempts_max: u32) -> Seeker {
        Seeker::with(search(peers, attempts_max))
    }

    /// One with a discovery service.
    fn discovering(peers: &[&str]) -> Seeker {
        Seeker::with(Search {
            discovery: Some(SERVICE.into()),
            ..search(peers, 2)
        })
    }

    fn with(search: Search) -> Seeker {
        let now = Now {
            mono_us: 1_000_000,
            wall_ns: EPOCH_NS,
        };
        let nothing = Recovered::nothing(PeerId::NONE, 77);
        let machine = Machine::find(settings(3), nothing, search, 5, now);
        Seeker {
            machine,
            effects: Effects::default(),
            now,
            asked: Vec::new(),
        }
    }

    /// Lets everything that is due happen; the call that it makes then, if any.
    fn call(&mut self) -> Option<Asked> {
        if self.machine.next_deadline() <= self.now.mono_us {
            self.machine.on_time(self.now);
        }
        self.effects.clear();
        self.machine.advance(self.now, &mut self.effects);
        assert!(self.effects.calls.len() <= 1, "one at a time");
        let asked = Asked::of(&self.effects.calls.pop()?);
        self.asked.push(asked.clone());
        Some(asked)
    }

    /// The call it makes is this one.
    fn asks(&mut self, method: Method, url: &str) -> Asked {
        let call = self.call().expect("a call");
        assert_eq!((call.method, &*call.url), (method, url));
        call
    }

    fn gets(&mut self, url: &str) -> CallId {
        let call = self.asks(Method::Get, url);
        assert!(call.body.is_empty());
        call.id
    }

    fn tell(&mut self, id: CallId, reply: Reply) {
        self.machine.on_reply(self.now, id, reply);
    }

    fn answer(&mut self, id: CallId, status: u16, body: &str) {
        self.respond(id, status, "tern/0.1.0", body.as_bytes());
    }

    /// A call gets this response; one that was never made gets it as the last one.
    fn respond(&mut self, id: CallId, status: u16, server: &str, body: &[u8]) {
        let asked = self.asked.iter().find(|a| a.id == id).or(self.asked.last());
        let reply = asked.expect("a call").reply(status, server, body);
        self.tell(id, reply);
    }

    fn fail(&mut self, id: CallId) {
        let why = "nobody listens".into();
        self.tell(id, Reply::Failed { why });
    }

    /// What it ends with.
    fn failed(&mut self) -> String {
        assert_eq!(self.call(), None);
        let text = self.effects.failed.take();
        assert_eq!(self.machine.next_deadline(), u64::MAX);
        text.expect("it has ended").into()
    }

    /// Past version, machines and config of the first peer.
    fn reach_the_join(&mut self) -> CallId {
        let id = self.gets("http://a:7001/version");
        self.answer(id, 200, "2");
        let id = self.gets("http://a:7001/v2/admin/machines");
        self.answer(id, 200, LIST);
        let id = self.gets("http://a:7001/v2/admin/config");
        self.answer(id, 200, SIZE);
        let call = self.asks(Method::Put, "http://a:7001/join");
        let body: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON");
        let wanted = serde_json::json!({
            "minVersion": 2, "maxVersion": 2, "name": "node3", "incarnation": 77,
            "raftURL": "http://127.0.0.1:7003", "etcdURL": "http://127.0.0.1:4003",
        });
        assert_eq!(body, wanted);
        assert_eq!(call.content_type, "application/json");
        call.id
    }
}

#[test]
fn it_is_let_in_and_becomes_that_member() {
    let mut seeker = Seeker::new(&PEERS, 3);
    assert!(!seeker.machine.listens());
    assert_eq!(seeker.machine.id(), PeerId::NONE);
    let id = seeker.reach_the_join();
    // The index is written in groups of seven bits, in eight bytes.
    let body = [0xac, 0x02, 0, 0, 0, 0, 0, 0];
    seeker.respond(id, 200, "tern/0.1.0", &body);
    assert_eq!(seeker.call(), None);
    assert_eq!(seeker.effects.let_in, Some(PeerId(300)));
    assert!(seeker.effects.members_changed, "the links hear of the id");
    assert!(seeker.machine.listens());
    assert_eq!(seeker.machine.id(), PeerId(300));
    // A late word changes nothing.
    seeker.respond(id, 200, "tern/0.1.0", &[7]);
    seeker.call();
    assert_eq!(seeker.effects.let_in, None);
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
        if attempt == 1 {
            assert_eq!(seeker.call(), None, "it pauses");
            assert_eq!(seeker.effects.failed, None);
            let due_us = seeker.now.mono_us + SECOND_US;
            assert_eq!(seeker.machine.next_deadline(), due_us);
            seeker.now.mono_us = due_us;
        }
    }
    let text = seeker.failed();
    assert!(text.contains("after 2 attempts"), "{text}");
    assert!(text.contains("http://a:7001: nobody listens"), "{text}");
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
        assert_eq!(seeker.effects.failed, None);
        seeker.now.mono_us = seeker.machine.next_deadline();
    }
}

/// It became a standby of the cluster in `LIST`, for this reason.
fn stands_by(seeker: &mut Seeker) -> String {
    // Whom it knows is asked at once; a moment later nothing else is.
    seeker.gets("http://a:7001/v2/admin/machines");
    let info = seeker.effects.standby.take().expect("it is saved");
    assert!(info.running && info.cluster.len() == 1 && &*info.cluster[0].name == "a");
    assert!(!seeker.effects.wipe, "there is nothing to wipe");
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
        // One that tells nothing of its cluster is of no use.
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
fn full_counts_only_from_who_knows_a_leader() {
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

/// A listed name goes straight to the join: a full cluster has room for those it has.
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
    assert!(seeker.effects.stopped);
    seeker.respond(id, 200, "tern/0.1.0", &[5]);
    seeker.call();
    assert_eq!(seeker.effects.let_in, None);
}

/// What an etcd answers to a registration.
const NODE: &str = r#"{"action":"set","node":{"key":"/c/node3","value":"x","ttl":604800}}"#;
const TAKEN: &str = r#"{"errorCode":105,"message":"Key already exists","cause":"/c/_state"}"#;

fn registers(seeker: &mut Seeker) -> CallId {
    let call = seeker.asks(Method::Put, "http://d/v2/keys/c/node3");
    let body = "value=http%3A%2F%2F127.0.0.1%3A7003&ttl=604800";
    assert_eq!(std::str::from_utf8(&call.body), Ok(body));
    assert_eq!(call.content_type, "application/x-www-form-urlencoded");
    call.id
}

#[test]
fn the_first_that_is_discovered_starts_the_cluster() {
    let mut seeker = Seeker::discovering(&[]);
    let id = registers(&mut seeker);
    seeker.answer(id, 201, NODE);
    let call = seeker.asks(Method::Put, "http://d/v2/keys/c/_state?prevExist=false");
    assert_eq!(&*call.body, b"value=started");
    // The service may be any etcd: its answers name no server.
    seeker.respond(call.id, 201, "", NODE.as_bytes());
    assert_eq!(seeker.call(), None);
    assert!(seeker.effects.found && seeker.effects.let_in.is_none());
}

#[test]
fn later_ones_join_those_that_are_registered() {
    let mut seeker = Seeker::discovering(&["http://last:7001"]);
    let id = registers(&mut seeker);
    seeker.answer(id, 200, NODE);
    let call = seeker.asks(Method::Put, "http://d/v2/keys/c/_state?prevExist=false");
    seeker.answer(call.id, 412, TAKEN);
    let id = seeker.gets("http://d/v2/keys/c?recursive=true");
    let list = r#"{"action":"get","node":{"key":"/c","dir":true,"nodes":[
        {"key":"/c/_state","value":"started"},
        {"key":"/c/node3","value":"http://127.0.0.1:7003"},
        {"key":"/c/node1","value":"a:7001"},
        {"key":"/c/node2","value":"http://b:7001/"}]}}"#;
    seeker.answer(id, 200, list);
    for peer in ["a", "b", "last"] {
        let id = seeker.gets(&format!("http://{peer}:7001/version"));
        seeker.fail(id);
    }
    assert_eq!(seeker.call(), None, "it pauses");
    seeker.now.mono_us += SECOND_US;
    // Registered it is; others may have come since.
    seeker.gets("http://d/v2/keys/c?recursive=true");
}

#[test]
fn a_dead_discovery_service() {
    for bad in [None, Some("<html>"), Some(r#"{"errorCode":300}"#)] {
        let mut seeker = Seeker::discovering(&["http://a:7001"]);
        let id = registers(&mut seeker);
        match bad {
            Some(body) => seeker.answer(id, 200, body),
            None => seeker.fail(id),
        }
        seeker.gets("http://a:7001/version");
    }
    let mut seeker = Seeker::discovering(&[]);
    let id = registers(&mut seeker);
    seeker.fail(id);
    let text = seeker.failed();
    assert!(text.contains("discovery service"), "{text}");
}

/// A member registers at once, again after an eighth of the ttl, and a minute after a failure.
#[test]
fn a_member_stays_registered() {
    let mut rig = Rig::found(settings(1));
    let search = Search {
        discovery: Some(SERVICE.into()),
        ..search(&[], 3)
    };
    rig.machine.look_around(search);
    rig.machine.on_time(rig.now);
    rig.turn();
    let registers = |call: &&Asked| &*call.url == "http://d/v2/keys/c/node1";
    let calls: Vec<Asked> = rig.effects.calls.iter().map(Asked::of).collect();
    let list = calls
        .iter()
        .find(|c| &*c.url == "http://d/v2/keys/c?recursive=true");
    let (list, call) = (
        list.expect("asked for others").id,
        calls.iter().find(registers),
    );
    let call = call.expect("registered").clone();
    let id = call.id;
    let gone = || Reply::Failed { why: "gone".into() };
    rig.machine.on_reply(rig.now, list, gone());
    rig.machine.on_reply(rig.now, id, gone());
    rig.settle();
    assert!(
        rig.facts
            .iter()
            .any(|f| matches!(f, Fact::NotRegistered { .. }))
    );
    let mut waits = |us: u64, reply: Reply| {
        rig.now.mono_us += us - 1;
        rig.machine.on_time(rig.now);
        rig.turn();
        let calls: Vec<Asked> = rig.effects.calls.iter().map(Asked::of).collect();
        assert!(!calls.iter().any(|c| registers(&c)), "too early");
        rig.now.mono_us += 1;
        rig.machine.on_time(rig.now);
        rig.turn();
        let calls: Vec<Asked> = rig.effects.calls.iter().map(Asked::of).collect();
        let call = calls.iter().find(registers).expect("due");
        rig.machine.on_reply(rig.now, call.id, reply);
    };
    waits(60 * SECOND_US, call.reply(200, "", NODE.as_bytes()));
    waits(75_600 * SECOND_US, gone());
    waits(60 * SECOND_US, gone());
}

/// One that was let in and has heard nothing yet registers too.
#[test]
fn a_new_member_that_comes_up_registers() {
    let nothing = Recovered::nothing(PeerId(7), 3);
    let now = Now {
        mono_us: 1,
        wall_ns: 0,
    };
    let mut machine = Machine::recover(settings(1), nothing, 1, now);
    machine.look_around(Search {
        discovery: Some(SERVICE.into()),
        ..search(&[], 3)
    });
    machine.on_time(now);
    let mut effects = Effects::default();
    machine.advance(now, &mut effects);
    assert!(
        effects
            .calls
            .iter()
            .map(Asked::of)
            .any(|c| &*c.url == "http://d/v2/keys/c/node1" && c.method == Method::Put)
    );
}

/// A member that has come up, with others in its log, and looks around.
fn member(settings: Settings, peers: &[&str]) -> Rig {
    let mut rig = Rig::found(settings);
    rig.machine.look_around(search(peers, 3));
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
    assert!(rig.effects.calls.is_empty() && rig.effects.failed.is_none());
}

#[test]
fn a_member_whose_address_another_has_does_not_run() {
    let mut rig = member(settings(1), &["http://b:7001"]);
    let call = first_call(&mut rig);
    let list = LIST.replace("http://a:7001", "http://127.0.0.1:7001");
    let reply = call.answered(200, &list);
    rig.machine.on_reply(rig.now, call.id, reply);
    rig.turn();
    let text = rig.effects.failed.take().expect("it has ended");
    assert!(text.contains("belongs to a in the cluster"), "{text}");
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

/// All whom its log knows may be gone themselves: who hears of no leader and is told twice that it
/// is not listed, by who knows one, takes that for its removal. Being told once, or by who knows
/// none, is not enough.
#[test]
fn a_member_that_hears_of_nobody_and_is_not_listed() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    // With two voters neither leads alone.
    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    rig.machine.look_around(search(&["http://b:7001"], 3));
    let ask = |rig: &mut Rig, peer: &str, list: &str| {
        let call = first_call(rig);
        let cluster = rig.machine.cluster();
        let id = rig.machine.id().0;
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
    assert!(rig.removed && rig.effects.wipe && rig.facts.contains(&Fact::Removed));
    assert_eq!(rig.machine.role(), Role::Standby);
}

/// Nobody answers at first, and its log may name none who ever will: it asks again as long as it
/// hears of no leader.
#[test]
fn a_member_that_hears_of_nobody_asks_again() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    rig.machine.look_around(search(&[], 3));
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

/// It need not have come up for that: who ran on while its peers were replaced finds out as well. A
/// leader that is heard meanwhile makes it begin anew.
#[test]
fn a_running_member_that_hears_of_nobody_for_long() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    let mut rig = cluster.rigs.remove(&id).expect("it was let in");
    cluster.at(PeerId(1)).pass(50_000);
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
            assert_eq!(rig.machine.raft().leader(), Some(PeerId(1)));
            rig.pass(SECOND_US);
            assert_eq!(rig.machine.raft().leader(), None);
        }
        asks_nobody_for(&mut rig, 2 * SECOND_US);
        rig.now.mono_us += 2 * SECOND_US;
        is_unlisted(&mut rig);
        assert_eq!(rig.removed, last);
    }
    assert!(rig.effects.wipe && rig.facts.contains(&Fact::Removed));
    assert_eq!(rig.machine.role(), Role::Standby);
}

/// Under whatever name it is started: the list has the one that its log has.
#[test]
fn a_member_with_another_name_asks_again() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    let mut rig = cluster.rigs.remove(&id).expect("it was let in");
    rig.settings.name = "another".into();
    let mut rig = rig.restart();
    rig.machine.look_around(search(&[], 3));
    let mine = settings(2);
    let list = LIST.replace(
        '}',
        r#"},{"name":"node2","clientURL":"CLIENT","peerURL":"PEER"}"#,
    );
    let list = list
        .replace("CLIENT", &mine.client_url)
        .replace("PEER", &mine.peer_url);
    for _ in 0..3 {
        let call = first_call(&mut rig);
        rig.machine
            .on_reply(rig.now, call.id, call.answered(200, &list));
        rig.turn();
        assert!(rig.effects.calls.is_empty() && !rig.facts.contains(&Fact::Unlisted));
        assert_eq!(rig.effects.failed, None);
        rig.now.mono_us += 30 * SECOND_US;
    }
}

/// What another cluster lists, or one that is not tern, says nothing about a place in this one,
/// however often it is asked: an address may have passed to it while all of this cluster are down.
#[test]
fn another_clusters_word_counts_for_nothing() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let id = cluster.join(2, 77);
    cluster.pass(2 * SECOND_US);
    let mut other = cluster.rigs.remove(&PeerId(1)).expect("it was founded");
    let mine = other.machine.cluster();
    let asked = |rig: &mut Rig, cluster: u64, id: u64| rig.done(Op::MachinesOf { cluster, id });
    assert!(matches!(asked(&mut other, mine, id.0), Outcome::MachineList(list) if list.len() == 2));
    let refused = asked(&mut other, mine + 1, id.0);
    assert!(
        matches!(&refused, Outcome::Failed(e) if &*e.cause == tern::core::error::OTHER_CLUSTER)
    );
    // Who is behind a member's join cannot say that it is none.
    let applied = other.machine.applied().0;
    assert!(matches!(
        asked(&mut other, mine, applied),
        Outcome::MachineList(_)
    ));
    assert!(
        matches!(asked(&mut other, mine, applied + 1), Outcome::Failed(e) if e.cause.contains("join"))
    );

    let mut rig = cluster.rigs.remove(&id).expect("it was let in").restart();
    // It has moved: it goes on asking.
    rig.settings.peer_url = "http://moved:7002".into();
    let mut rig = rig.restart();
    rig.machine.look_around(search(&["http://b:7001"], 3));
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

/// A member whose new address is refused asks on without end; why nothing comes of it is said when
/// it is another reason.
#[test]
fn why_a_move_is_refused_is_said_once() {
    let mut rig = Rig::serving(settings(1));
    rig.settings.peer_url = "http://moved:7001".into();
    let mut rig = rig.restart();
    rig.machine.look_around(search(&["http://b:7001"], 3));
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
        .filter(|f| matches!(f, Fact::NotFound { .. }));
    assert_eq!(said.count(), 2, "{:?}", rig.facts);
}

/// Started with other addresses, a lone leader tells them itself, once, and the index rises by one.
#[test]
fn a_leader_that_has_moved() {
    let mut rig = Rig::serving(settings(1));
    let etcd = rig.machine.indexes().etcd.0;
    rig.settings.client_url = "http://elsewhere:4001".into();
    let mut rig = rig.restart();
    rig.machine.look_around(search(&[], 3));
    rig.settle();
    rig.pass(SECOND_US);
    assert_eq!(rig.machine.indexes().etcd.0, etcd + 1);
    let urls = vec!["http://elsewhere:4001".into()];
    let machines = rig.done(Op::Machines);
    assert_eq!(machines, Outcome::Machines { client_urls: urls });
}

/// Let in, stopped before it has heard anything, and started with another address: it tells that as
/// soon as it sees which one the cluster knows.
#[test]
fn a_member_that_has_moved_before_it_knew_its_place() {
    let mut cluster = Cluster {
        rigs: [(PeerId(1), Rig::serving(settings(1)))].into(),
        cut: Vec::new(),
    };
    let Outcome::Joined(Index(id)) = cluster.done(PeerId(1), join(&settings(2), 77)) else {
        panic!("not let in");
    };
    let now = cluster.at(PeerId(1)).now;
    let moved = Settings {
        peer_url: "http://moved:7002".into(),
        ..settings(2)
    };
    let mut rig = Rig::let_in(moved, PeerId(id), now);
    rig.machine.look_around(search(&[], 3));
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
    assert_eq!(rig.called, [url.into()]);
}

/// One that is told at start that it was removed meanwhile gives up what it holds and asks anew.
#[test]
fn a_machine_that_was_removed_comes_up() {
    let mut rig = Rig::serving(settings(1));
    let other = settings(2);
    assert!(matches!(rig.done(join(&other, 2)), Outcome::Joined(_)));
    let let_in = Recovered::nothing(PeerId(7), 3);
    let mut removed = Machine::recover(settings(4), let_in, 1, rig.now);
    let notice = tern::core::raft::Message {
        term: Term::REMOVED,
        rpc: tern::core::raft::Rpc::Removed {
            cluster: 5,
            id: PeerId(7),
        },
    };
    removed.on_message(rig.now, PeerId(1), notice);
    let mut effects = Effects::default();
    removed.advance(rig.now, &mut effects);
    assert!(removed.wants_turn());
    removed.advance(rig.now, &mut effects);
    assert!(effects.removed && effects.wipe);
}
