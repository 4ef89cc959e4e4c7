//! Three built binaries that find each other with `-peers`, and what happens to their links when a
//! machine is killed, stopped, continued, joins late or is removed.
use rustix::process::Signal;
use tern_support::client::{Answer, Conn, until};
use tern_support::fleet::{PERSISTENT, votes};
use tern_support::server::Server;
use tern_support::usage::memory_bytes;

/// Machines of one cluster.
struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// So many machines; the first one founds the cluster, the others join it.
    fn start(count: usize, args: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            servers: Vec::new(),
        };
        for _ in 0..count {
            cluster.join(args);
        }
        cluster
    }

    /// One more machine, running and a voter.
    fn join(&mut self, args: &[&str]) {
        let name = format!("m{}", self.servers.len() + 1);
        let mut server = Server::prepare_as(&name, args);
        server.args.push(PERSISTENT.to_string());
        if !self.servers.is_empty() {
            let peers = self.servers.iter();
            let peers: Vec<String> = peers
                .map(|s| format!("127.0.0.1:{}", s.peer_port))
                .collect();
            server.args.extend(["-peers".into(), peers.join(",")]);
        }
        server.run();
        self.servers.push(server);
        votes(&self.servers[0], self.servers.len());
    }

    /// The place of the leader, as all of `among` see it.
    fn leader(&self, among: &[usize]) -> usize {
        until("all know the same leader", || {
            let told: Option<Vec<String>> = among.iter().map(|i| self.told_leader(*i)).collect();
            let told = told?;
            if told.windows(2).any(|pair| pair[0] != pair[1]) {
                return None;
            }
            let mut all = self.servers.iter();
            let place = all.position(|s| told[0].ends_with(&format!(":{}", s.peer_port)))?;
            among.contains(&place).then_some(place)
        })
    }

    fn told_leader(&self, at: usize) -> Option<String> {
        let mut conn = Conn::try_open(self.servers[at].client_port)?;
        let answer = conn.try_ask("GET", "/v2/leader", "")?;
        (answer.status() == 200).then(|| answer.text().to_string())
    }

    /// Writes through the leader of `among`, again until it is acknowledged.
    fn put(&self, among: &[usize], key: &str, value: &str) {
        until("it is acknowledged", || {
            let leader = self.leader(among);
            let mut conn = Conn::try_open(self.servers[leader].client_port)?;
            let body = format!("value={value}");
            let answer = conn.try_ask("PUT", &format!("/v2/keys/{key}"), &body)?;
            matches!(answer.status(), 200 | 201).then_some(())
        });
    }

    fn get(&self, at: usize, key: &str) -> Option<Answer> {
        let mut conn = Conn::try_open(self.servers[at].client_port)?;
        let answer = conn.try_ask("GET", &format!("/v2/keys/{key}"), "")?;
        (answer.status() == 200).then_some(answer)
    }

    /// Waits until a machine shows a value.
    fn sees(&self, at: usize, key: &str, value: &str) {
        until("it has the value", || {
            let answer = self.get(at, key)?;
            (answer.json()["node"]["value"] == value).then_some(())
        });
    }

    fn resident_kib(&self, at: usize) -> u64 {
        memory_bytes(self.servers[at].pid(), "VmRSS") / 1024
    }
}

const ALL: [usize; 3] = [0, 1, 2];

fn others(of: usize) -> Vec<usize> {
    ALL.into_iter().filter(|i| *i != of).collect()
}

#[test]
fn a_killed_leader_is_replaced_and_returns() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.put(&ALL, "before", "1");
    let leader = cluster.leader(&ALL);
    cluster.servers[leader].kill();
    cluster.put(&others(leader), "meanwhile", "2");
    cluster.servers[leader].run();
    cluster.put(&ALL, "after", "3");
    for at in ALL {
        for (key, value) in [("before", "1"), ("meanwhile", "2"), ("after", "3")] {
            cluster.sees(at, key, value);
        }
    }
}

#[test]
fn all_killed_come_back_with_everything() {
    let mut cluster = Cluster::start(3, &[]);
    for i in 0..50 {
        cluster.put(&ALL, &format!("k{i}"), &i.to_string());
    }
    for at in ALL {
        cluster.servers[at].kill();
    }
    // None of them can serve before a second one runs.
    let dirs: Vec<_> = cluster.servers.iter().map(|s| s.data_dir()).collect();
    std::thread::scope(|scope| {
        for (server, dir) in cluster.servers.iter_mut().zip(&dirs) {
            scope.spawn(move || assert!(server.try_run_on(dir), "{}", server.log()));
        }
    });
    cluster.put(&ALL, "after", "x");
    for at in ALL {
        for i in 0..50 {
            cluster.sees(at, &format!("k{i}"), &i.to_string());
        }
    }
}

/// Twelve megabytes more than its queue holds go to a follower that reads nothing: the leader drops
/// them and goes on.
#[test]
fn a_stopped_follower_costs_bounded_memory_and_catches_up() {
    let mut cluster = Cluster::start(3, &["-snapshot-count", "20"]);
    let leader = cluster.leader(&ALL);
    let stopped = others(leader)[0];
    let rest = others(stopped);
    let value = "v".repeat(500_000);
    cluster.put(&ALL, "warm", &value);
    cluster.servers[stopped].signal(Signal::STOP);
    let before = cluster.resident_kib(leader);
    for i in 0..80 {
        cluster.put(&rest, "large", &format!("{i}{value}"));
    }
    let after = cluster.resident_kib(leader);
    cluster.servers[stopped].signal(Signal::CONT);
    cluster.put(&ALL, "last", "x");
    cluster.sees(stopped, "last", "x");
    cluster.sees(stopped, "large", &format!("79{value}"));
    let grown_mib = after.saturating_sub(before) / 1024;
    assert!(grown_mib < 100, "{grown_mib} MiB more");
    cluster.servers[stopped].kill();
}

#[test]
fn a_late_joiner_gets_a_snapshot() {
    let mut cluster = Cluster::start(1, &["-snapshot-count", "20"]);
    let value = "v".repeat(300_000);
    for i in 0..30 {
        cluster.put(&[0], &format!("k{i}"), &format!("{i}{value}"));
    }
    cluster.join(&[]);
    cluster.join(&[]);
    for at in ALL {
        cluster.sees(at, "k29", &format!("29{value}"));
    }
    let leader = cluster.leader(&ALL);
    cluster.servers[leader].kill();
    cluster.put(&others(leader), "after", "x");
}

#[test]
fn the_leader_hands_over_when_it_is_asked_to_stop() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.put(&ALL, "a", "1");
    let leader = cluster.leader(&ALL);
    assert!(cluster.servers[leader].terminate().success());
    cluster.put(&others(leader), "b", "2");
    cluster.servers[leader].run();
    cluster.sees(leader, "b", "2");
}
