//! Cut off, removed, healed, let in again, over and over, in networks of their own: a machine that
//! returns never disturbs the others, and learns of its removal once. `TERN_CYCLES` sets how often.
use std::collections::BTreeSet;
use std::time::Duration;
use tern_support::alone::alone;
use tern_support::client::{until, within};
use tern_support::fleet::{QUICK, TOO_LONG, follow, leader, listed, put, settled, shows, term};
use tern_support::namespace;
use tern_support::net::{Loss, Net};
use tern_support::server::Server;

/// How a cycle begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    /// Cut off, then removed by hand.
    CutOff,
    /// Cut off until the leader removes it.
    Silent,
    /// Removed by hand, and cut off at once: it may have heard.
    Removed,
}

fn remove(by: &Server, name: &str) {
    until("it is removed", || {
        let answer = follow(by.peer_at(), "DELETE", &format!("/remove/{name}"), "")?;
        (answer.status() == 200).then_some(())
    });
}

/// How often its log reports its removal.
fn removals(server: &Server) -> usize {
    server
        .log()
        .matches("this machine was removed from its cluster")
        .count()
}

/// The term of all machines that agree on a leader.
fn common_term(servers: &[&Server]) -> u64 {
    leader(servers);
    until("all are in the same term", || {
        let terms: Option<BTreeSet<u64>> = servers.iter().map(|s| term(s)).collect();
        terms.filter(|terms| terms.len() == 1)?.pop_first()
    })
}

#[test]
fn removed_and_admitted_again() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let rounds: usize = std::env::var("TERN_CYCLES").map_or(6, |n| n.parse().expect("a number"));
    let mut net = Net::start(4);
    let servers = net.cluster(&[&QUICK[..], &["-cluster-active-size=4"]].concat());
    let (mut told, mut slowest) = (vec![0; 4], Duration::ZERO);
    for round in 0..rounds {
        let begin = [Begin::CutOff, Begin::Silent, Begin::Removed][round % 3];
        let leads = leader(&servers.iter().collect::<Vec<_>>());
        // Every fourth time it is the leader.
        let goes = (leads + round % 4) % 4;
        let rest: Vec<&Server> = (0..4)
            .filter(|place| *place != goes)
            .map(|place| &servers[place])
            .collect();
        let name = &servers[goes].name;
        if let Begin::Removed = begin {
            remove(rest[0], name);
        }
        net.cut_off(goes, Loss::All);
        let others = until("the others have a leader of their own", || {
            let leads = leader(&rest);
            rest.get(leads).map(|_| common_term(&rest))
        });
        if let Begin::CutOff = begin {
            remove(rest[0], name);
        }
        let alone = || (listed(rest[0]).len() == 3).then_some(());
        within(TOO_LONG, "the leader lets go of it", alone);
        put(&servers, "round", &round.to_string());
        let before = common_term(&rest);
        assert_eq!(
            before, others,
            "{begin:?}: a removal is no reason for an election"
        );
        net.heal();
        let back = || settled(&servers).filter(|(peers, _)| peers.len() == 4);
        let (_, took) = within(TOO_LONG, "it is let in again", back);
        slowest = slowest.max(took);
        shows(&servers[goes], "round", &round.to_string());
        assert_eq!(
            common_term(&servers.iter().collect::<Vec<_>>()),
            before,
            "{begin:?}: a machine that returns disturbs no leader"
        );
        told[goes] += 1;
        for (server, told) in servers.iter().zip(&told) {
            assert_eq!(removals(server), *told, "{}: {begin:?}", server.name);
        }
    }
    println!(
        "figure: {rounds} cycles: let in again after at most {:.1} s, promised 3.0 s",
        slowest.as_secs_f64()
    );
}
