//! Finding the cluster through a discovery service, and staying registered there.
use super::cluster::cluster;
use super::rig::*;
use super::seeker::*;
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::raft::PeerId;
use tern::core::timer::Now;

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
fn the_first_registered_machine_starts_the_cluster() {
    let mut seeker = Seeker::discovering(&[]);
    let id = registers(&mut seeker);
    seeker.answer(id, 201, NODE);
    let call = seeker.asks(Method::Put, "http://d/v2/keys/c/_state?prevExist=false");
    assert_eq!(&*call.body, b"value=started");
    // The service may be any etcd: its answers name no server.
    seeker.respond(call.id, 201, "", NODE.as_bytes());
    assert_eq!(seeker.call(), None);
    assert!(seeker.ordered.found && seeker.ordered.let_in.is_none());
}

#[test]
fn later_machines_join_the_registered_ones() {
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
    rig.machine
        .begin_place_checks(rig.now, search)
        .expect("the name of its log");
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
    let nothing = Recovered::nothing(Some(PeerId(7)), 3);
    let now = Now {
        mono_us: 1,
        wall_ns: 0,
    };
    let mut machine = Machine::recover(settings(1), nothing, 1, now);
    let search = Search {
        discovery: Some(SERVICE.into()),
        ..search(&[], 3)
    };
    let looks = machine.begin_place_checks(now, search);
    assert_eq!(looks, Ok(()));
    machine.on_time(now);
    let mut effects = Outputs::default();
    machine.advance(now, &mut effects);
    assert!(
        effects
            .calls
            .iter()
            .map(Asked::of)
            .any(|c| &*c.url == "http://d/v2/keys/c/node1" && c.method == Method::Put)
    );
}

/// The addresses of all members have changed. Each registers its new one, and dials those that the
/// service lists while no leader is heard.
#[test]
fn protocol_10_a_member_without_a_leader_dials_what_discovery_lists() {
    let mut cluster = cluster(3, settings(1));
    let id = *cluster.rigs.keys().last().expect("a member");
    let rig = cluster.rigs.remove(&id).expect("a member");
    let mut rig = rig.restart();
    let search = Search {
        discovery: Some(SERVICE.into()),
        ..search(&[], 3)
    };
    rig.machine
        .begin_place_checks(rig.now, search)
        .expect("the name of its log");
    rig.machine.on_time(rig.now);
    rig.turn();
    let calls: Vec<Asked> = rig.effects.calls.iter().map(Asked::of).collect();
    let list = calls.iter().find(|c| c.url.ends_with("recursive=true"));
    let list = list.expect("it asks for the registered machines");
    let body = r#"{"action":"get","node":{"key":"/c","dir":true,"nodes":[
        {"key":"/c/_state","value":"started"},
        {"key":"/c/node1","value":"http://moved1:7001"},
        {"key":"/c/node2","value":"http://moved2:7001"},
        {"key":"/c/node3","value":"http://127.0.0.1:7003"}]}}"#;
    let reply = list.reply(200, "", body.as_bytes());
    rig.machine.on_reply(rig.now, list.id, reply);
    rig.turn();
    let is_dialled = |rig: &Rig, url: &str| rig.dialled_urls.iter().any(|u| **u == *url);
    assert!(
        !is_dialled(&rig, "http://moved1:7001"),
        "the listed address comes first"
    );
    rig.pass(SECOND_US);
    for url in [
        &*settings(1).peer_url,
        "http://moved1:7001",
        "http://moved2:7001",
    ] {
        assert!(is_dialled(&rig, url), "{:?}", rig.dialled_urls);
    }
    assert!(!is_dialled(&rig, "http://127.0.0.1:7003"), "its own");
}
