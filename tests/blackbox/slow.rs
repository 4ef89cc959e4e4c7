//! Three machines whose disks are slow: each sync takes longer than an election timeout. No
//! follower takes a leader that waits for its disk for dead, and what is acknowledged stays. Start
//! with `survives`.
use tern_support::client::until;
use tern_support::fleet::{ask, leader, leader_of, prepare, put, shows, term};
use tern_support::server::{Server, Syncs};
use tern_support::skip::{Need, lacks};

/// Milliseconds; the election timeout is 200.
const SYNC_MS: u64 = 300;
/// They take longer than a machine remembers the slow syncs of its start.
const WRITES: usize = 80;

fn slow_cluster(syncs: [Syncs; 3]) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for (number, syncs) in (1..).zip(syncs) {
        let peers: Vec<u16> = servers.first().map(|s| s.peer_port).into_iter().collect();
        let mut server = prepare(number, &peers, &[]);
        server.syncs = syncs;
        server.run();
        servers.push(server);
    }
    servers
}

/// Writes on, one after the other, with the same leader in the same term; then the leader dies, and
/// the others go on.
fn survives(syncs: [Syncs; 3]) {
    let mut servers = slow_cluster(syncs);
    put(&servers, "first", "one");
    for server in &servers {
        shows(server, "first", "one");
    }
    let leads = leader_of(&servers);
    let first = term(&servers[leads]).expect("a leader answers");
    for number in 0..WRITES {
        let answer = servers[leads].client("PUT", &format!("/v2/keys/k{number}"), "value=v");
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    let last = format!("k{}", WRITES - 1);
    for server in &servers {
        shows(server, &last, "v");
        assert_eq!(term(server), Some(first), "no machine has campaigned");
    }
    assert_eq!(leader_of(&servers), leads);
    servers[leads].kill();
    let others: Vec<&Server> = servers.iter().filter(|s| s.is_started()).collect();
    leader(&others);
    until("the others take writes", || {
        others.iter().find(|s| {
            ask(s.client_at(), "PUT", "/v2/keys/last", "value=v").is_some_and(|a| a.status() < 300)
        })
    });
    for server in others {
        shows(server, &last, "v");
        shows(server, "last", "v");
    }
}

/// - A disk that takes long while the thread goes on: heartbeats keep their time.
/// - Disks that hold the thread up, all about the same time.
/// - A leader that falls silent in each of its syncs: its followers know for how long, and wait
///   longer.
///
/// The clusters wait for their disks most of the time, so they run side by side.
#[test]
fn syncs_that_take_longer_than_an_election() {
    let mut clusters = vec![[Syncs::Late(SYNC_MS); 3]];
    if !lacks(Need::Strace) {
        clusters.push([Syncs::Blocking(SYNC_MS); 3]);
        clusters.push([Syncs::Blocking(SYNC_MS), Syncs::Real, Syncs::Real]);
    }
    std::thread::scope(|scope| {
        for syncs in clusters {
            let name = format!("{syncs:?}");
            let cluster = std::thread::Builder::new().name(name);
            let cluster = cluster.spawn_scoped(scope, move || survives(syncs));
            cluster.expect("a thread");
        }
    });
}
