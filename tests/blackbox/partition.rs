//! Machines in networks of their own: cut off, halved, heard one way only, healed. The side with a
//! majority goes on, the other acknowledges nothing and answers no linearizable read; when it
//! heals, all machines hold what was acknowledged, and none what was refused. `TERN_HISTORY_S` sets
//! the seconds of the recorded history.
use crate::histories;
use rustix::process::Signal;
use tern_support::alone::alone;
use tern_support::client::{until, within};
use tern_support::fleet::{TOO_LONG, ask, follow, has, leader, leader_of, settled, shows, term};
use tern_support::namespace;
use tern_support::net::{Loss, Net};
use tern_support::rng::Rng;
use tern_support::server::Server;

/// Elections that do not come of busy processors, for tests in which a term must not rise.
const CALM: [&str; 2] = [
    "-peer-heartbeat-interval=100",
    "-peer-election-timeout=1000",
];

/// What was acknowledged and what was refused so far: keys.
#[derive(Default)]
struct Written {
    acknowledged: Vec<String>,
    refused: Vec<String>,
}

/// What one request to write came to, not sent on: acknowledged or not.
fn try_put(server: &Server, key: &str) -> bool {
    let answer = ask(
        server.client_at(),
        "PUT",
        &format!("/v2/keys/{key}"),
        "value=x",
    );
    answer.is_some_and(|a| matches!(a.status(), 200 | 201))
}

impl Written {
    /// A write through the leader that these agree on, as often as it takes.
    fn put(&mut self, among: &[&Server], key: String) {
        until("a write is acknowledged", || {
            try_put(among[leader(among)], &key).then_some(())
        });
        self.acknowledged.push(key);
    }

    /// This machine acknowledges no write and answers no linearizable read.
    fn refused(&mut self, server: &Server, key: String) {
        assert!(!try_put(server, &key), "{} acknowledged {key}", server.name);
        let read = ask(
            server.client_at(),
            "GET",
            "/v2/keys/before0?quorum=true",
            "",
        );
        assert!(
            read.is_none_or(|a| a.status() >= 300),
            "{} answered a linearizable read",
            server.name
        );
        self.refused.push(key);
    }

    fn check(&self, servers: &[Server]) {
        for server in servers {
            for key in &self.acknowledged {
                shows(server, key, "x");
            }
            for key in &self.refused {
                assert!(!has(server, key, "x"), "{key} was refused and is there");
            }
        }
    }
}

/// All but these.
fn without<'a>(servers: &'a [Server], places: &[usize]) -> Vec<&'a Server> {
    let rest = servers
        .iter()
        .enumerate()
        .filter(|(place, _)| !places.contains(place));
    rest.map(|(_, server)| server).collect()
}

fn named(servers: &[&Server], place: usize, all: &[Server]) -> usize {
    let name = &servers[place].name;
    all.iter()
        .position(|s| s.name == *name)
        .expect("it is one of them")
}

#[test]
fn a_leader_that_is_cut_off() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(3);
    let servers = net.cluster(&[]);
    let mut written = Written::default();
    for (round, loss) in [Loss::All, Loss::Sent, Loss::Received]
        .into_iter()
        .enumerate()
    {
        let old = leader_of(&servers);
        written.put(&[&servers[old]], format!("before{round}"));
        net.cut_off(old, loss);
        let rest = without(&servers, &[old]);
        leader(&rest);
        written.refused(&servers[old], format!("lost{round}"));
        written.put(&rest, format!("meanwhile{round}"));
        net.heal();
        written.check(&servers);
    }
}

/// Two of five are cut off from three: first with the leader among them, then without. Those
/// without a leader do not raise the term of the others while they are away, nor when they are
/// back.
#[test]
fn halves() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(5);
    let servers = net.cluster(&CALM);
    let mut written = Written::default();
    for round in 0..4 {
        let old = leader_of(&servers);
        written.put(&[&servers[old]], format!("before{round}"));
        let shift = if round % 2 == 0 { 0 } else { 1 };
        let minority = [(old + shift) % 5, (old + shift + 2) % 5];
        let before = term(&servers[old]);
        net.split(&minority);
        let rest = without(&servers, &minority);
        until("the smaller side has no leader", || {
            let alone = |place: &usize| {
                let answer = ask(servers[*place].client_at(), "GET", "/v2/leader", "");
                answer.is_some_and(|a| a.status() == 500)
            };
            minority.iter().all(alone).then_some(())
        });
        for place in minority {
            written.refused(&servers[place], format!("lost{round}by{place}"));
        }
        for number in 0..20 {
            written.put(&rest, format!("meanwhile{round}n{number}"));
        }
        let new = named(&rest, leader(&rest), &servers);
        assert!(!minority.contains(&new));
        let meanwhile = term(&servers[new]);
        net.heal();
        written.check(&servers);
        assert_eq!(
            leader_of(&servers),
            new,
            "machines that return disturb no leader"
        );
        assert_eq!(term(&servers[new]), meanwhile);
        if round % 2 == 1 {
            assert_eq!(
                (new, meanwhile),
                (old, before),
                "the larger side kept its leader"
            );
        }
    }
}

/// A follower that loses what it sends, or what it receives, disturbs no leader, and catches up.
#[test]
fn a_follower_heard_one_way() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(3);
    let servers = net.cluster(&[&CALM[..], &["-snapshot-count=50"]].concat());
    let mut written = Written::default();
    for (round, loss) in [Loss::Sent, Loss::Received].into_iter().enumerate() {
        let leads = leader_of(&servers);
        let deaf = (leads + 1) % 3;
        let before = term(&servers[leads]);
        written.put(&[&servers[leads]], format!("before{round}"));
        net.cut_off(deaf, loss);
        let rest = without(&servers, &[deaf]);
        for number in 0..100 {
            written.put(&rest, format!("meanwhile{round}n{number}"));
        }
        std::thread::sleep(std::time::Duration::from_secs(3));
        written.refused(&servers[deaf], format!("lost{round}"));
        net.heal();
        written.check(&servers);
        assert_eq!(leader_of(&servers), leads, "{loss:?}");
        assert_eq!(term(&servers[leads]), before, "{loss:?}");
    }
}

/// Each of five loses what its neighbour sends: any leader reaches a majority, and the cluster goes
/// on.
#[test]
fn a_ring_that_is_open() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(5);
    let servers = net.cluster(&[]);
    let mut written = Written::default();
    written.put(&servers.iter().collect::<Vec<_>>(), "before0".to_string());
    for at in 0..5 {
        net.lose(at, (at + 1) % 5);
    }
    for number in 0..20 {
        let key = format!("meanwhile{number}");
        // They need not agree: two that do not hear each other may not both hear the leader.
        until("a machine accepts a write", || {
            servers.iter().any(|s| try_put(s, &key)).then_some(())
        });
        written.acknowledged.push(key);
    }
    net.heal();
    leader_of(&servers);
    written.check(&servers);
}

/// One disturbance of the network or of a machine, or the end of all that the network loses.
fn disturb(net: &mut Net, servers: &mut [Server], rng: &mut Rng) {
    let count = servers.len();
    let leads = servers.iter().position(|s| {
        let answer = ask(s.client_at(), "GET", "/v2/stats/self", "");
        answer.is_some_and(|a| a.status() == 200 && a.json()["state"] == "leader")
    });
    let any = rng.next_u64() as usize % count;
    let at = if rng.next_u64().is_multiple_of(2) {
        leads.unwrap_or(any)
    } else {
        any
    };
    let loss = [Loss::All, Loss::Sent, Loss::Received][rng.next_u64() as usize % 3];
    match rng.next_u64() % 9 {
        0..3 => net.cut_off(at, loss),
        3 => net.split(&[at, (at + 1 + any) % count]),
        4 => (0..count).for_each(|from| net.lose(from, (from + 1) % count)),
        5 => {
            servers[at].kill();
            std::thread::sleep(std::time::Duration::from_millis(rng.next_u64() % 400));
            servers[at].spawn();
        }
        6 => {
            servers[at].signal(Signal::STOP);
            std::thread::sleep(std::time::Duration::from_millis(
                400 + rng.next_u64() % 1_200,
            ));
            servers[at].signal(Signal::CONT);
        }
        7 => {
            // It comes back by itself.
            let target = format!("/remove/{}", servers[at].name);
            follow(servers[any].peer_at(), "DELETE", &target, "");
        }
        _ => {}
    }
    std::thread::sleep(std::time::Duration::from_millis(
        200 + rng.next_u64() % 1_000,
    ));
    net.heal();
}

#[test]
fn histories_are_linearizable() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(5);
    let mut servers = net.cluster(&["-snapshot-count=50", "-cluster-sync-interval=1"]);
    histories::record(&mut servers, 200, |servers, rng| {
        disturb(&mut net, servers, rng)
    });
    let (peers, _) = within(TOO_LONG, "all are peers again", || {
        settled(&servers).filter(|(peers, _)| peers.len() == 5)
    })
    .0;
    assert_eq!(peers.len(), 5);
}
