//! Many machines: starts them together, follows redirects, waits until they agree. Owns no test;
//! `server` is one machine, `net` gives each a network of its own.
use crate::client::{Answer, At, Conn, until};
use crate::server::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long an answer may take: a machine may be stopped, or its network gone.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// An election timeout that a busy processor does not reach. A leader whose process has ended is
/// missed at once nevertheless.
pub const CALM: &str = "-peer-election-timeout=1000";
/// tern's own election timeout, for tests in which a leader stands still for about a second.
pub const NERVOUS: &str = "-peer-election-timeout=200";

/// Removal after two seconds, a look at the cluster once a second, and calm elections.
pub const QUICK: [&str; 5] = [
    "-cluster-remove-delay=2",
    "-cluster-sync-interval=1",
    "-peer-heartbeat-interval=100",
    CALM,
    "-max-retry-attempts=0",
];
/// The longest wait of a cluster test; reaching it is a failure, not a figure.
pub const TOO_LONG: Duration = Duration::from_secs(180);

/// A machine joins until it is admitted: the cluster may have no leader at the moment.
pub const PERSISTENT: &str = "-max-retry-attempts=0";

/// A machine by its number that will join through `peers`; not started. Its elections are calm and its
/// joins persistent unless `args` has these flags.
pub fn prepare(number: usize, peers: &[u16], args: &[&str]) -> Server {
    let mut server = Server::prepare_as(&format!("node{number}"), args);
    for usual in [CALM, PERSISTENT] {
        let (name, _) = usual.split_once('=').expect("a flag with its value");
        if !args.iter().any(|arg| arg.starts_with(name)) {
            server.args.push(usual.to_string());
        }
    }
    server.args.push("-retry-interval=0.2".to_string());
    if !peers.is_empty() {
        let peers: Vec<String> = peers.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        server.args.push(format!("-peers={}", peers.join(",")));
    }
    server
}

/// A cluster of that many voters, the later ones through the last before them, which follows.
pub fn cluster(count: usize, args: &[&str]) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for number in 1..=count {
        let peers: Vec<u16> = servers.last().map(|s| s.peer_port).into_iter().collect();
        let mut server = prepare(number, &peers, args);
        server.run();
        servers.push(server);
    }
    votes(&servers[0], count);
    servers
}

/// The address in a URL.
pub fn at_of(url: &str) -> SocketAddr {
    let rest = url.split("://").nth(1).expect("a scheme");
    let address = rest.split('/').next().expect("an address");
    address.parse().expect("an address of numbers")
}

/// Waits until the machine lists that many members. A follower learns of a change after the leader.
pub fn lists(server: &Server, count: usize) {
    until("the machine lists that many members", || {
        (listed(server).len() == count).then_some(())
    });
}

pub fn port_of(url: &str) -> u16 {
    at_of(url).port()
}

/// One request on a connection of its own; `None` when it is not answered in time.
pub fn ask(at: impl Into<At>, method: &str, target: &str, body: &str) -> Option<Answer> {
    Conn::impatient(at, PATIENCE)?.try_ask(method, target, body)
}

/// One request, sent on to where it is redirected; `None` without an answer there in time.
pub fn follow(at: impl Into<At>, method: &str, target: &str, body: &str) -> Option<Answer> {
    follow_with(at.into(), |at| ask(at, method, target, body))
}

/// The same where all machines answer: it waits for them as long as a test waits for anything.
pub fn followed(at: impl Into<At>, method: &str, target: &str, body: &str) -> Answer {
    let ask = |at| Some(Conn::open(at).ask(method, target, body));
    follow_with(at.into(), ask).expect("a few redirects lead to the leader")
}

/// Asks with `ask`, again wherever it is redirected.
fn follow_with(mut at: At, ask: impl Fn(At) -> Option<Answer>) -> Option<Answer> {
    for _ in 0..5 {
        let answer = ask(at)?;
        if answer.status() != 307 {
            return Some(answer);
        }
        at = At(at_of(answer.head.header("Location").expect("a location")));
    }
    None
}

/// Writes through any of the machines until one acknowledges.
pub fn put(servers: &[Server], key: &str, value: &str) {
    let (target, body) = (format!("/v2/keys/{key}"), format!("value={value}"));
    until("a write is acknowledged", || {
        let mut answers = servers
            .iter()
            .filter_map(|s| follow(s.client_at(), "PUT", &target, &body));
        answers.find(|a| a.status() < 300).map(drop)
    });
}

/// Whether the machine itself shows that value.
pub fn has(server: &Server, key: &str, value: &str) -> bool {
    let answer = ask(server.client_at(), "GET", &format!("/v2/keys/{key}"), "");
    answer.is_some_and(|a| a.status() == 200 && a.json()["node"]["value"] == value)
}

/// Waits until the machine itself shows that value.
pub fn shows(server: &Server, key: &str, value: &str) {
    until("the machine shows the value", || {
        has(server, key, value).then_some(())
    });
}

/// Waits until each of them shows `key1` to `keyN` with `v1` to `vN`.
pub fn shows_all(servers: &[Server], written: usize) {
    for server in servers {
        (1..=written).for_each(|n| shows(server, &format!("key{n}"), &format!("v{n}")));
    }
}

/// The machines that one of them lists, by name: their state and both URLs.
pub fn listed(server: &Server) -> BTreeMap<String, (String, String, String)> {
    let list = server.peer("GET", "/v2/admin/machines", "").json();
    let machines = list.as_array().expect("a list").iter();
    let text = |machine: &serde_json::Value, name: &str| {
        machine[name].as_str().expect("a text").to_string()
    };
    let line = |m: &serde_json::Value| {
        let urls = (text(m, "state"), text(m, "clientURL"), text(m, "peerURL"));
        (text(m, "name"), urls)
    };
    machines.map(line).collect()
}

/// The place of the leader that all of `servers` name, if it is one of them.
pub fn try_leader(servers: &[&Server]) -> Option<usize> {
    let mut all = servers.iter().map(|s| {
        let answer = ask(s.client_at(), "GET", "/v2/leader", "")?;
        (answer.status() == 200).then(|| at_of(answer.text()))
    });
    let first = all.next()??;
    let agree = all.all(|at| at == Some(first));
    let place = servers.iter().position(|s| s.peer_at() == first);
    place.filter(|_| agree)
}

/// The place of the leader, once all of them agree on one.
pub fn leader(servers: &[&Server]) -> usize {
    until("all agree on a leader", || try_leader(servers))
}

pub fn leader_of(servers: &[Server]) -> usize {
    leader(&servers.iter().collect::<Vec<_>>())
}

/// Waits until the cluster of a machine has that many voters. Before, one of its first members can
/// be a majority of the voters, and its death leaves a cluster that never has a leader again.
pub fn votes(server: &Server, count: usize) {
    until("every member is a voter", || {
        let answer = ask(server.client_at(), "GET", "/v2/cluster", "")?;
        let document = answer.json();
        let members = document["cluster"]["members"].as_array()?;
        let voters = members.iter().filter(|m| m["kind"] == "voter");
        (voters.count() == count).then_some(())
    });
}

/// The term that a machine is in.
pub fn term(server: &Server) -> Option<u64> {
    let answer = ask(server.client_at(), "GET", "/v2/keys/", "")?;
    answer.head.header("X-Raft-Term")?.parse().ok()
}

/// What a machine is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It serves, and these are the members that it lists.
    Peer { members: BTreeSet<String> },
    /// It redirects: to there, if it knows a leader.
    Standby { to: Option<SocketAddr> },
}

/// `None` when it does not answer, or is neither yet.
pub fn mode(server: &Server) -> Option<Mode> {
    let machines = ask(server.peer_at(), "GET", "/v2/admin/machines", "")?;
    if machines.status() == 200 {
        let json = machines.json();
        let names = json.as_array()?.iter().filter_map(|m| m["name"].as_str());
        return Some(Mode::Peer {
            members: names.map(str::to_string).collect(),
        });
    }
    let answer = ask(server.client_at(), "GET", "/v2/keys/", "")?;
    match (machines.status(), answer.status()) {
        (404, 307) => Some(Mode::Standby {
            to: answer.head.header("Location").map(at_of),
        }),
        (404, 400) if answer.json()["errorCode"] == 402 => Some(Mode::Standby { to: None }),
        _ => None,
    }
}

/// The places of peers and standbys, once every machine that was started is one of the two, the
/// peers list one another and no other machine, agree on a leader, and the standbys point to one of
/// them.
pub fn settled(servers: &[Server]) -> Option<(Vec<usize>, Vec<usize>)> {
    let (mut peers, mut standbys, mut lists, mut targets) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (place, server) in servers.iter().enumerate().filter(|(_, s)| s.is_started()) {
        match mode(server)? {
            Mode::Peer { members } => {
                peers.push(place);
                lists.push(members);
            }
            Mode::Standby { to } => {
                standbys.push(place);
                targets.push(to?);
            }
        }
    }
    let names: BTreeSet<String> = peers
        .iter()
        .map(|place| servers[*place].name.clone())
        .collect();
    let among = |to: &SocketAddr| peers.iter().any(|place| servers[*place].client_at() == *to);
    let agree = lists.iter().all(|list| *list == names) && targets.iter().all(among);
    let all: Vec<&Server> = peers.iter().map(|place| &servers[*place]).collect();
    try_leader(&all).filter(|_| agree)?;
    Some((peers, standbys))
}
