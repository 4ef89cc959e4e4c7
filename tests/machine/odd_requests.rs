//! Whatever clients, operators and machines ask for, all members take the entries that follow from it.
//! A command that followers refuse stops the cluster for good once it is in the log.
use super::cluster::cluster;
use super::rig::*;
use serde_json::json;
use tern::codec::api::{self, ApiSettings, Context, Mode, Port, Routed};
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::peers::Hello;
use tern::core::raft::PeerId;
use tern_support::rng::Rng;

/// A join may wait its turn for so long, in microseconds.
const TURN_US: u64 = 300_000;

fn add(url: &str) -> Op {
    Op::MemberAdd {
        peer_urls: vec![url.into()],
    }
}

/// A write succeeds only if the other voter takes all entries up to it.
fn assert_writes_go_on(cluster: &mut Cluster, after: &str) {
    let leader = cluster.leader();
    let ticket = cluster.at(leader).ask(set("/foo", "bar"));
    cluster.settle();
    let answers = cluster.at(leader).take_answers(ticket);
    let is_done = matches!(answers[..], [Outcome::Event(_)]);
    assert!(is_done, "after {after}: {answers:?}");
}

/// Host and port stand for the name of a machine that has not started, and a name is shorter than a
/// host may be.
#[test]
fn a_machine_whose_host_is_longer_than_a_name_is_added_and_starts() {
    let mut cluster = cluster(2, settings(1));
    let leader = cluster.leader();
    let host = "h".repeat(130);
    let late = Settings {
        peer_url: format!("http://{host}:7001").into(),
        client_url: format!("http://{host}:4001").into(),
        ..settings(3)
    };
    let added = cluster.done(leader, add(&late.peer_url));
    assert!(matches!(added, Outcome::MemberAdded(_)), "{added:?}");
    assert_writes_go_on(&mut cluster, "a long host");
    let Outcome::Joined(index) = cluster.done(leader, join(&late, 3)) else {
        panic!("its place was made");
    };
    let now = cluster.at(leader).now;
    let late = Rig::let_in(late, PeerId(index.0), now);
    cluster.rigs.insert(PeerId(index.0), late);
    cluster.pass(SECOND_US);
    let voters = cluster.at(leader).machine.configuration().voters();
    assert_eq!(voters.count(), 3, "the newcomer takes the log");
}

/// A string that may be a host, a port, a URL or a name, or nearly one.
fn word(rng: &mut Rng) -> String {
    let words = [
        "",
        ".",
        "..",
        "h",
        "10.0.0.9",
        "[::1]",
        "[fe80::9]",
        "[fe80::1%eth0]",
        "é",
        "a b",
        "u@h",
        "a/b",
        "\u{202e}x",
        "h\r\nX: y",
        "h:1",
        "\0",
        "node1",
        "node2",
        "-",
        "%41",
    ];
    if rng.percent(60) {
        return (*rng.pick(&words)).into();
    }
    let letters = [1, 63, 122, 123, 124, 127, 128, 129, 253, 300, 504, 505, 600];
    rng.pick(&["n", "é"]).repeat(*rng.pick(&letters))
}

fn url(rng: &mut Rng) -> String {
    let scheme = *rng.pick(&[
        "http://", "http://", "http://", "https://", "HTTP://", "ftp://", "",
    ]);
    let ports = [
        ":1", ":7001", ":65535", "", ":", ":0", ":00001", ":65536", ":+1", ":x",
    ];
    let tail = match rng.below(4) {
        0 => *rng.pick(&["/", "/x", "?a", "#", " "]),
        _ => "",
    };
    format!("{scheme}{}{}{tail}", word(rng), rng.pick(&ports))
}

fn number(rng: &mut Rng) -> serde_json::Value {
    let numbers = [-1.0, 0.0, 0.5, 3.0, 9.0, 1e4, 4_294_967_296.0, 1e18, 1e300];
    match rng.below(3) {
        0 => json!(*rng.pick(&numbers)),
        1 => json!(rng.next_u64() >> rng.below(64)),
        _ => json!("x"),
    }
}

/// A request: port, method, target and body.
fn request(rng: &mut Rng, members: &[MemberInfo]) -> (Port, &'static str, String, String) {
    let form = |rng: &mut Rng| format!("value=x&ttl={}", number(rng));
    match rng.below(8) {
        0..=2 => {
            let urls = [url(rng)];
            let body = json!({ "peerURLs": urls }).to_string();
            (Port::Client, "POST", "/v2/members".into(), body)
        }
        3 => {
            let target = format!("/v2/members/{}", rng.pick(members).id);
            let body = json!({ "peerURLs": [url(rng)] }).to_string();
            (Port::Client, "PUT", target, body)
        }
        4 | 5 => {
            let body = json!({
                "minVersion": 2, "maxVersion": 2,
                "name": word(rng), "raftURL": url(rng), "etcdURL": url(rng),
                "incarnation": rng.next_u64() >> rng.below(64),
            });
            (Port::Peer, "PUT", "/join".into(), body.to_string())
        }
        6 => {
            let body = json!({
                "activeSize": number(rng), "removeDelay": number(rng), "syncInterval": number(rng),
            });
            let target = "/v2/admin/config".into();
            (Port::Peer, "PUT", target, body.to_string())
        }
        _ => {
            let (method, target) = match rng.below(2) {
                0 => ("PUT", "/v2/keys/ttl".into()),
                _ => ("POST", format!("/mod/v2/lock/{}", rng.next_u64())),
            };
            (Port::Client, method, target, form(rng))
        }
    }
}

/// The operation of a request; `None` if it is refused before it comes to the machine, with a text.
fn routed(rig: &Rig, (port, method, target, body): &(Port, &str, String, String)) -> Option<Op> {
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "application/x-www-form-urlencoded"
    };
    let bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: tern\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let settings = ApiSettings {
        name: rig.settings.name.clone(),
        client_url: rig.settings.client_url.clone(),
        peer_url: rig.settings.peer_url.clone(),
        cors: Vec::new(),
        compat_2: false,
        forward: false,
        trace: false,
    };
    let context = Context {
        settings: &settings,
        date: &Date::default(),
        now: rig.now,
        shown_ns: rig.now.wall_ns,
        at: rig.machine.indexes(),
        cluster_id: None,
        leader_url: None,
        mode: Mode::Member,
    };
    let mut parser = Parser::new();
    let Parsed::Request { request, .. } = parser.parse(bytes.as_bytes(), &Limits::default()) else {
        panic!("a whole request: {bytes}");
    };
    match api::route(*port, &request, &context) {
        Routed::ToMachine { op, .. } => Some(op),
        Routed::Answer(response) => {
            let says_why = response.status >= 400 && response.body.len() > 10;
            assert!(says_why, "{} to {bytes}", response.status);
            None
        }
        _ => panic!("this machine answers {bytes}"),
    }
}

fn members(cluster: &mut Cluster) -> Vec<MemberInfo> {
    let leader = cluster.leader();
    match cluster.done(leader, Op::Query(Query::Members)) {
        Outcome::Members(listing) => listing.members,
        other => panic!("{other:?}"),
    }
}

/// The outcome of a request that may wait for its turn.
fn outcome(cluster: &mut Cluster, op: Op) -> Outcome {
    let leader = cluster.leader();
    let ticket = cluster.at(leader).ask(op);
    for _ in 0..20 {
        cluster.settle();
        if let Some(outcome) = cluster.at(leader).take_answers(ticket).pop() {
            return outcome;
        }
        cluster.pass(TURN_US);
    }
    panic!("a request is answered");
}

fn usual_config() -> Op {
    Op::ConfigPut {
        active_size: Some(9.0),
        remove_delay_s: Some(1_800.0),
        sync_interval_s: Some(5.0),
    }
}

/// A member shows odd addresses in the hello of a link.
fn show_addresses(cluster: &mut Cluster, rng: &mut Rng, member: PeerId) -> bool {
    let leader = cluster.leader();
    let hello = Hello {
        from: member,
        to: Some(leader),
        process: 9,
        incarnation: 2,
        name: settings(2).name,
        peer_url: url(rng).into(),
        client_url: url(rng).into(),
        ..Hello::default()
    };
    let rig = cluster.at(leader);
    let is_admitted = rig.machine.on_hello(rig.now, &hello, "10.0.0.9").is_ok();
    cluster.pass(TURN_US);
    assert_writes_go_on(cluster, &format!("{hello:?}"));
    is_admitted
}

#[test]
fn no_request_and_no_hello_leads_to_an_entry_that_other_members_refuse() {
    let (mut admitted, mut shown) = (0, 0);
    for seed in 1..=8 {
        let mut rng = Rng::new(seed);
        let mut cluster = cluster(2, settings(1));
        let other = cluster.ids()[1];
        for round in 0..120 {
            let listed = members(&mut cluster);
            let asked = request(&mut rng, &listed);
            let leader = cluster.leader();
            if let Some(op) = routed(cluster.at(leader), &asked) {
                match outcome(&mut cluster, op) {
                    Outcome::Failed(error) => {
                        let is_full = error.code == Code::NoMorePeer;
                        assert!(is_full || !error.cause.is_empty(), "{error:?} to {asked:?}");
                    }
                    Outcome::Joined(_) | Outcome::MemberAdded(_) => admitted += 1,
                    // A small cluster would remove the other voter.
                    Outcome::Config(_) => drop(outcome(&mut cluster, usual_config())),
                    _ => {}
                }
            }
            assert_writes_go_on(&mut cluster, &format!("{asked:?}"));
            if round % 10 == 9 {
                shown += u32::from(show_addresses(&mut cluster, &mut rng, other));
                for added in members(&mut cluster).split_off(2) {
                    let gone = outcome(&mut cluster, Op::MemberRemove { id: added.id });
                    assert!(matches!(gone, Outcome::Removed | Outcome::MemberGone));
                }
            }
        }
    }
    assert!(admitted > 20 && shown > 20, "{admitted}, {shown}");
}
