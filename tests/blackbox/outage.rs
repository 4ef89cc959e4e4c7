//! Three processes under load: leaders that die, a majority that is lost, a machine that lags
//! behind snapshots.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tern_support::client::{Answer, Conn, until};
use tern_support::fleet::{PERSISTENT, votes};
use tern_support::server::Server;

/// Machines of one cluster; the first started it, the others joined.
struct Cluster {
    servers: Vec<Server>,
    runs: Vec<bool>,
}

impl Cluster {
    fn start(args: &[&str]) -> Cluster {
        let mut servers: Vec<Server> = Vec::new();
        for machine in 1..=3 {
            let peers: Vec<String> = servers.iter().map(peer_address).collect();
            let peers = format!("-peers={}", peers.join(","));
            let mut all = args.to_vec();
            all.push(PERSISTENT);
            if machine > 1 {
                all.push(&peers);
            }
            let mut server = Server::prepare_as(&format!("node{machine}"), &all);
            server.run();
            servers.push(server);
        }
        votes(&servers[0], 3);
        Cluster {
            servers,
            runs: vec![true; 3],
        }
    }

    fn kill(&mut self, machine: usize) {
        self.servers[machine].kill();
        self.runs[machine] = false;
    }

    fn run(&mut self, machine: usize) {
        self.servers[machine].run();
        self.runs[machine] = true;
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|machine| self.runs[*machine])
    }

    fn try_leader(&self) -> Option<usize> {
        let leads = |machine: &usize| {
            let stats = self.servers[*machine].client("GET", "/v2/stats/self", "");
            stats.json()["state"] == "leader"
        };
        self.running().find(leads)
    }

    /// The machine that leads, once there is one.
    fn leader(&self) -> usize {
        until("there is a leader", || self.try_leader())
    }

    fn a_follower(&self) -> usize {
        let leader = self.leader();
        self.running()
            .find(|machine| *machine != leader)
            .expect("there is one")
    }

    /// Writes through any machine that accepts it.
    fn put(&self, key: &str, value: &str) -> Answer {
        until("a write is taken", || {
            let leader = self.try_leader()?;
            let answer = self.servers[leader].client("PUT", key, &format!("value={value}"));
            (answer.status() < 300).then_some(answer)
        })
    }

    /// Waits until all that run hold the same, and hands it back.
    fn settled(&self) -> String {
        let state = |machine: usize| {
            let target = "/v2/keys/?recursive=true&sorted=true";
            let answer = self.servers[machine].client("GET", target, "");
            (answer.status() == 200).then(|| (answer.head.etcd_index(), answer.text().to_string()))
        };
        until("all machines hold the same", || {
            let mut states = self.running().map(state);
            let first = states.next()??;
            states
                .all(|state| state.as_ref() == Some(&first))
                .then_some(first.1)
        })
    }
}

fn peer_address(server: &Server) -> String {
    format!("127.0.0.1:{}", server.peer_port)
}

/// What was acknowledged: value by key.
type Acked = BTreeMap<String, String>;

/// Writes to the cluster until `stop` is set, through changes of the leader.
fn write(ports: &[u16], name: usize, acked: &Mutex<Acked>, count: &AtomicUsize, stop: &AtomicBool) {
    let mut at = name;
    let mut conn = None;
    for number in 0.. {
        let (key, value) = (format!("/load/w{name}-{number}"), format!("v{number}"));
        let target = format!("/v2/keys{key}");
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let port = ports[at % ports.len()];
            conn = conn.or_else(|| Conn::try_open(port));
            let answer = conn
                .as_mut()
                .and_then(|conn| conn.try_ask("PUT", &target, &format!("value={value}")));
            match answer {
                Some(answer) if answer.status() < 300 => break,
                _ => {
                    // Dead, a follower, or without a leader: ask the next one.
                    conn = None;
                    at += 1;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        acked.lock().expect("no thread panics").insert(key, value);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the writers, also when a test fails in their midst.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leaders are killed under load and come back: nothing acknowledged is lost, and all machines end
/// up equal.
#[test]
fn leaders_that_die() {
    let mut cluster = Cluster::start(&["-snapshot-count", "200"]);
    let ports: Vec<u16> = cluster.servers.iter().map(|s| s.client_port).collect();
    let (acked, count, stop) = (
        Mutex::new(Acked::new()),
        AtomicUsize::new(0),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for name in 0..3 {
            let (ports, acked, count, stop) = (&ports, &acked, &count, &stop);
            scope.spawn(move || write(ports, name, acked, count, stop));
        }
        for _ in 0..4 {
            let enough = count.load(Ordering::Relaxed) + 150;
            until("more is written", || {
                (count.load(Ordering::Relaxed) >= enough).then_some(())
            });
            let leader = cluster.leader();
            cluster.kill(leader);
            let enough = count.load(Ordering::Relaxed) + 150;
            until("writes go on", || {
                (count.load(Ordering::Relaxed) >= enough).then_some(())
            });
            cluster.run(leader);
        }
    });
    let all = cluster.settled();
    let acked = acked.into_inner().expect("no thread panics");
    assert!(acked.len() >= 1_200);
    for (key, value) in acked {
        let node = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"");
        assert!(all.contains(&node), "{key} is lost");
    }
}

/// One of three is no majority: it steps down, refuses writes and linearizable reads, and still
/// shows what it has.
#[test]
fn without_a_majority() {
    let mut cluster = Cluster::start(&[]);
    cluster.put("/v2/keys/k", "one");
    cluster.settled();
    let leader = cluster.leader();
    let others: Vec<usize> = cluster.running().filter(|m| *m != leader).collect();
    for other in &others {
        cluster.kill(*other);
    }
    let alone = &cluster.servers[leader];
    until("it has stepped down", || {
        let stats = alone.client("GET", "/v2/stats/self", "").json();
        (stats["state"] != "leader" && stats["leaderInfo"]["leader"] == "").then_some(())
    });
    let refused = alone.client("PUT", "/v2/keys/k", "value=two");
    assert_eq!(
        (refused.status(), refused.json()["errorCode"].as_u64()),
        (500, Some(300))
    );
    for target in [
        "/v2/keys/k?quorum=true",
        "/v2/keys/k?consistent=true",
        "/v2/leader",
    ] {
        let refused = alone.client("GET", target, "");
        assert_eq!(
            (refused.status(), refused.json()["errorCode"].as_u64()),
            (500, Some(301)),
            "{target}"
        );
    }
    assert_eq!(
        alone.client("GET", "/v2/keys/k", "").json()["node"]["value"],
        "one"
    );
    cluster.run(others[0]);
    cluster.put("/v2/keys/k", "three");
    assert!(cluster.settled().contains("\"value\":\"three\""));
}

/// A machine that was away for long is sent a snapshot, the history of events with it.
#[test]
fn a_machine_that_lags() {
    let mut cluster = Cluster::start(&["-snapshot-count", "50"]);
    let late = cluster.a_follower();
    let first = cluster.put("/v2/keys/l/first", "v").head.etcd_index();
    cluster.settled();
    cluster.kill(late);
    for number in 0..400 {
        cluster.put(&format!("/v2/keys/l/{}", number % 100), "v");
    }
    cluster.run(late);
    cluster.settled();
    let target = format!(
        "/v2/keys/l?wait=true&recursive=true&waitIndex={}",
        first + 1
    );
    let event = cluster.servers[late].client("GET", &target, "").json();
    assert_eq!(event["node"]["modifiedIndex"].as_u64(), Some(first + 1));
}

/// A watch on a follower sees every event once, through a change of the leader.
#[test]
fn a_watch_on_a_follower() {
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let follower = cluster.a_follower();
    let target = "/v2/keys/w?wait=true&recursive=true&stream=true";
    let mut stream = Conn::watch(cluster.servers[follower].client_port, target);
    for number in 0..100 {
        if number == 50 {
            cluster.kill(leader);
        }
        cluster.put(&format!("/v2/keys/w/{number}"), "v");
    }
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|key| key != "/w/99") {
        let event = stream.event().expect("it goes on");
        let key = event["node"]["key"].as_str().expect("a key").to_string();
        // A write whose fate was open is repeated by the client: it may be there twice.
        if seen.last() != Some(&key) {
            seen.push(key);
        }
    }
    let all: Vec<String> = (0..100).map(|number| format!("/w/{number}")).collect();
    assert_eq!(seen, all);
}
