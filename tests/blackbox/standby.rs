//! A cluster that keeps itself at a chosen size: up to fifteen built binaries, those that there is
//! no room for stand by.
//!
//! The intervals are the shortest that are allowed, so that a test takes seconds. How long the
//! cluster took to settle is printed beside what is promised (`figure:`), and only a generous
//! deadline fails a test: the machines share their processors with whatever else runs.
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tern_support::alone::alone;
use tern_support::client::{Conn, request, until, within};
use tern_support::fleet::{
    Mode, QUICK, TOO_LONG, follow, followed, has, leader, listed, mode, prepare, put, settled,
    shows, term, votes,
};
use tern_support::server::Server;

const INTERVAL: Duration = Duration::from_secs(1);
const REMOVE_DELAY: Duration = Duration::from_secs(2);
/// That many machines, started at once: one founds the cluster, the others look for it.
fn start(count: usize, active: usize, args: &[&str]) -> Vec<Server> {
    let active = format!("-cluster-active-size={active}");
    let mut all = QUICK.to_vec();
    all.push(&active);
    all.extend_from_slice(args);
    let mut servers = vec![prepare(1, &[], &all)];
    let founder = [servers[0].peer_port];
    servers.extend((2..=count).map(|number| prepare(number, &founder, &all)));
    servers.iter_mut().for_each(Server::spawn);
    servers
}

/// Waits until there are that many peers, all of them voters, and the others stand by; hands back
/// the places of both.
fn settles(
    servers: &[Server],
    peers: usize,
    what: &str,
    promised: Duration,
) -> (Vec<usize>, Vec<usize>) {
    let settled = || settled(servers).filter(|(found, _)| found.len() == peers);
    let (places, took) = within(
        TOO_LONG,
        &format!("there are {peers} peers: {what}"),
        settled,
    );
    println!(
        "figure: {what}: settled in {:.1} s, promised {:.1} s",
        took.as_secs_f64(),
        promised.as_secs_f64()
    );
    votes(&servers[places.0[0]], peers);
    places
}

/// What a change that lets go of `removed` peers may take.
fn promised(removed: usize) -> Duration {
    2 * INTERVAL + Duration::from_secs(1) * removed as u32
}

/// Changes the cluster config, by way of any peer.
fn configure(servers: &[Server], config: &str) {
    until("the config is changed", || {
        let running = servers.iter().filter(|s| s.is_started());
        let mut answers =
            running.filter_map(|s| follow(s.peer_at(), "PUT", "/v2/admin/config", config));
        answers.find(|a| a.status() == 200).map(drop)
    });
}

/// A write through each machine that runs, standby or not, arrives on all peers.
fn through_everyone(servers: &[Server], peers: &[usize], round: &str) {
    for server in servers.iter().filter(|s| s.is_started()) {
        let key = format!("{round}-{}", server.name);
        until("it leads to where a write is taken", || {
            let answer = follow(
                server.client_at(),
                "PUT",
                &format!("/v2/keys/{key}"),
                "value=v",
            )?;
            (answer.status() < 300).then_some(())
        });
        peers
            .iter()
            .for_each(|place| shows(&servers[*place], &key, "v"));
    }
}

fn names(servers: &[Server], places: &[usize]) -> BTreeSet<String> {
    places
        .iter()
        .map(|place| servers[*place].name.clone())
        .collect()
}

/// The place of the leader among these.
fn leads(servers: &[Server], places: &[usize]) -> usize {
    let peers: Vec<&Server> = places.iter().map(|place| &servers[*place]).collect();
    places[leader(&peers)]
}

/// Fifteen at once settle at nine and six; all take writes; all die and come back.
#[test]
fn fifteen_machines() {
    let _alone = alone();
    let mut servers = start(15, 9, &[]);
    let (peers, _) = settles(&servers, 9, "15 started at once", promised(0));
    through_everyone(&servers, &peers, "first");
    for server in &mut servers {
        server.kill();
    }
    for server in servers.iter_mut().rev() {
        server.spawn();
    }
    let (peers, standbys) = settles(&servers, 9, "15 killed and started", promised(0));
    assert_eq!(standbys.len(), 6);
    for server in &servers {
        peers
            .iter()
            .for_each(|place| shows(&servers[*place], &format!("first-{}", server.name), "v"));
    }
    through_everyone(&servers, &peers, "second");
}

/// The active size goes down and up, in leaps and by steps, and the cluster follows. What was
/// written stays.
#[test]
fn sizes() {
    let _alone = alone();
    let servers = start(15, 9, &[]);
    let (peers, _) = settles(&servers, 9, "15 started at once", promised(0));
    through_everyone(&servers, &peers, "first");
    let mut size = 9;
    for next in [7, 8, 9, 8, 7, 6, 5, 4, 3, 4, 5, 6, 7, 8, 9] {
        configure(&servers, &format!("{{\"activeSize\":{next}}}"));
        let removed = usize::saturating_sub(size, next);
        let what = format!("active size {size} to {next}");
        let (peers, standbys) = settles(&servers, next, &what, promised(removed));
        assert_eq!(standbys.len(), 15 - next);
        put(&servers, &format!("at-{next}"), "v");
        peers
            .iter()
            .for_each(|place| shows(&servers[*place], "first-node1", "v"));
        size = next;
    }
    let (peers, _) = settles(&servers, 9, "nothing was changed", Duration::ZERO);
    through_everyone(&servers, &peers, "last");
}

/// A peer that dies, whether it led or not, is replaced; it stands by when it is back.
#[test]
fn a_peer_that_dies() {
    let mut servers = start(7, 5, &[]);
    let (mut peers, _) = settles(&servers, 5, "7 started at once", promised(0));
    for round in 0..4 {
        let leads = leads(&servers, &peers);
        let dies = if round % 2 == 0 {
            *peers.iter().find(|p| **p != leads).expect("five")
        } else {
            leads
        };
        put(&servers, "round", &round.to_string());
        servers[dies].kill();
        let (replaced, _) = settles(
            &servers,
            5,
            "a dead peer is replaced",
            REMOVE_DELAY + promised(1),
        );
        replaced
            .iter()
            .for_each(|place| shows(&servers[*place], "round", &round.to_string()));
        servers[dies].spawn();
        let (now, standbys) = settles(&servers, 5, "it stands by when it is back", promised(0));
        assert_eq!((&now, standbys.contains(&dies)), (&replaced, true));
        peers = now;
        through_everyone(&servers, &peers, &format!("after{round}"));
    }
}

/// A peer that is stopped is removed and replaced; continued, it learns of its removal, becomes a
/// standby and disturbs no leader.
#[test]
fn a_peer_that_is_stopped() {
    let mut servers = start(7, 5, &[]);
    let (mut peers, _) = settles(&servers, 5, "7 started at once", promised(0));
    for round in 0..4 {
        let leads = leads(&servers, &peers);
        let stops = if round % 2 == 0 {
            *peers.iter().find(|p| **p != leads).expect("five")
        } else {
            leads
        };
        put(&servers, "round", &round.to_string());
        servers[stops].signal(Signal::STOP);
        // The others, without it.
        let stopped = servers.remove(stops);
        let (replaced, _) = settles(
            &servers,
            5,
            "a stopped peer is replaced",
            REMOVE_DELAY + promised(1),
        );
        let before = term(&servers[replaced[0]]);
        let replaced = names(&servers, &replaced);
        stopped.signal(Signal::CONT);
        servers.insert(stops, stopped);
        let (now, standbys) = settles(
            &servers,
            5,
            "it stands by when it is continued",
            promised(0),
        );
        assert!(standbys.contains(&stops));
        assert_eq!(names(&servers, &now), replaced);
        assert_eq!(
            term(&servers[now[0]]),
            before,
            "a removed machine disturbs no leader"
        );
        peers = now;
        through_everyone(&servers, &peers, &format!("after{round}"));
    }
}

/// When all were stopped, none was silent: no member is removed.
#[test]
fn all_are_stopped() {
    let servers = start(3, 3, &[]);
    let (peers, _) = settles(&servers, 3, "3 started at once", promised(0));
    for _ in 0..2 {
        let index = |s: &Server| s.client("GET", "/v2/keys/", "").head.etcd_index();
        let before = until("all have applied the same", || {
            let indexes: BTreeSet<u64> = servers.iter().map(index).collect();
            indexes.first().copied().filter(|_| indexes.len() == 1)
        });
        servers.iter().for_each(|s| s.signal(Signal::STOP));
        std::thread::sleep(2 * REMOVE_DELAY);
        servers.iter().for_each(|s| s.signal(Signal::CONT));
        leads(&servers, &peers);
        std::thread::sleep(REMOVE_DELAY / 2);
        for server in &servers {
            assert_eq!(listed(server).len(), 3);
            assert_eq!(index(server), before, "no member left or came");
        }
    }
}

/// Without a majority no member is removed, however long it lasts.
#[test]
fn a_majority_that_is_away() {
    let mut servers = start(5, 5, &[]);
    settles(&servers, 5, "5 started at once", promised(0));
    put(&servers, "a", "v");
    let before = listed(&servers[0]);
    for server in &mut servers[1..4] {
        server.kill();
    }
    std::thread::sleep(2 * REMOVE_DELAY);
    assert_eq!(listed(&servers[0]).len(), 5);
    for server in &mut servers[1..4] {
        server.spawn();
    }
    settles(&servers, 5, "3 of 5 are back", promised(0));
    let places = |server: &Server| {
        listed(server)
            .into_iter()
            .map(|(name, m)| (name, m.2))
            .collect::<Vec<_>>()
    };
    let was: Vec<(String, String)> = before.into_iter().map(|(name, m)| (name, m.2)).collect();
    assert_eq!(places(&servers[0]), was);
    put(&servers, "a", "w");
}

/// Nine of which four are dead, and the size becomes seven: the dead go first, and the living keep
/// their majority.
#[test]
fn four_of_nine_are_dead() {
    let _alone = alone();
    let mut servers = start(9, 9, &["-cluster-remove-delay=600"]);
    let (peers, _) = settles(&servers, 9, "9 started at once", promised(0));
    let extra: Vec<Server> = (10..=11)
        .map(|number| {
            let mut server = prepare(number, &[servers[0].peer_port], &QUICK);
            server.spawn();
            server
        })
        .collect();
    servers.extend(extra);
    settles(&servers, 9, "2 more stand by", promised(0));
    let leader = leads(&servers, &peers);
    let dead: Vec<usize> = peers
        .iter()
        .copied()
        .filter(|p| *p != leader)
        .take(4)
        .collect();
    dead.iter().for_each(|place| servers[*place].kill());
    let living: BTreeSet<String> = peers
        .iter()
        .filter(|p| !dead.contains(p))
        .map(|p| servers[*p].name.clone())
        .collect();
    configure(&servers, "{\"activeSize\":7}");
    let members = || match mode(&servers[leader]) {
        Some(Mode::Peer { members }) => {
            assert!(
                members.is_superset(&living),
                "{living:?} live, {members:?} are left"
            );
            Some(members)
        }
        _ => None,
    };
    let (left, took) = within(TOO_LONG, "two of the dead are removed", || {
        members().filter(|m| m.len() == 7)
    });
    println!(
        "figure: 9 of which 4 are dead to 7: {:.1} s, promised 4.0 s",
        took.as_secs_f64()
    );
    assert_eq!(left.difference(&living).count(), 2);
    put(&servers[leader..=leader], "a", "v");
    std::thread::sleep(2 * INTERVAL);
    assert_eq!(members(), Some(left), "no more are removed than must be");
    configure(&servers, "{\"removeDelay\":2}");
    let (peers, standbys) = settles(
        &servers,
        7,
        "the other dead are replaced",
        REMOVE_DELAY + promised(2),
    );
    assert_eq!((peers.len(), standbys.len()), (7, 0));
    peers
        .iter()
        .for_each(|place| shows(&servers[*place], "a", "v"));
    dead.iter().for_each(|place| servers[*place].spawn());
    settles(
        &servers,
        7,
        "the dead stand by when they are back",
        promised(0),
    );
}

/// What a standby answers, and what it keeps: it points elsewhere, stands by after a restart, stops
/// cleanly.
#[test]
fn what_a_standby_answers() {
    let mut servers = start(4, 3, &[]);
    let (peers, standbys) = settles(&servers, 3, "4 started at once", promised(0));
    let (leader, standby) = (leads(&servers, &peers), standbys[0]);
    for (method, path) in [
        ("GET", "/v2/keys/a?recursive=true"),
        ("PUT", "/v2/keys/a"),
        ("DELETE", "/v2/keys/a"),
        ("GET", "/v2/machines"),
    ] {
        let body = if method == "PUT" { "value=v" } else { "" };
        let location = format!("http://{}{path}", servers[leader].client_at());
        until("it redirects to the leader", || {
            let answer = servers[standby].client(method, path, body);
            assert_eq!(answer.status(), 307, "{method} {path}");
            (answer.head.header("Location") == Some(&location)).then_some(())
        });
    }
    for path in [
        "/",
        "/version",
        "/join",
        "/raft",
        "/v2/admin/machines",
        "/v2/admin/config",
        "/remove/node1",
    ] {
        assert_eq!(
            servers[standby].peer("GET", path, "").status(),
            404,
            "{path}"
        );
    }
    let info = servers[standby].data_dir().join("standby_info");
    assert!(info.exists());
    for kill in [true, false] {
        if kill {
            servers[standby].kill();
        } else {
            assert!(servers[standby].terminate().success());
        }
        servers[standby].spawn();
        let (_, standbys) = settles(&servers, 3, "it was restarted", Duration::from_secs(1));
        assert_eq!(standbys, [standby]);
        assert!(info.exists());
    }
    // A new machine that is told of the standby alone finds the cluster.
    let only = [servers[standby].peer_port];
    servers.push(prepare(5, &only, &QUICK));
    servers[4].spawn();
    let (_, standbys) = settles(&servers, 3, "a fifth was started", promised(0));
    assert!(standbys.contains(&4));
    // There is room: both join.
    configure(&servers, "{\"activeSize\":5}");
    settles(&servers, 5, "there is room for them", promised(0));
    put(&servers, "a", "v");
    until("it serves", || {
        has(&servers[standby], "a", "v").then_some(())
    });
}

/// A machine that is removed with a watch and requests under way: each gets an answer, a redirect
/// or a clean end; and it comes back by itself, at the earliest one interval later.
#[test]
fn removed_in_the_midst() {
    let servers = start(3, 3, &[]);
    let (peers, _) = settles(&servers, 3, "3 started at once", promised(0));
    let leader = leads(&servers, &peers);
    for place in [(leader + 1) % 3, leader] {
        let server = &servers[place];
        put(&servers, "a", "v");
        shows(server, "a", "v");
        let mut stream = Conn::watch(server.client_at(), "/v2/keys/a?wait=true&stream=true");
        let mut poll = Conn::watch(server.client_at(), "/v2/keys/a?wait=true");
        let mut open = Conn::open(server.client_at());
        assert_eq!(open.ask("GET", "/v2/keys/a", "").status(), 200);
        let since = Instant::now();
        let removed = followed(
            server.peer_at(),
            "DELETE",
            &format!("/remove/{}", server.name),
            "",
        );
        assert_eq!(removed.status(), 200);
        let (_, took) = within(TOO_LONG, "it stands by", || {
            matches!(mode(server), Some(Mode::Standby { .. })).then_some(())
        });
        assert!(stream.event().is_none(), "it ends");
        assert!(poll.chunk().is_none_or(|chunk| chunk.is_empty()), "it ends");
        open.try_send(&request("GET", "/v2/keys/a", &[], b""));
        let answer = open.try_answer(false);
        assert!(answer.is_none_or(|a| matches!(a.status(), 307 | 400)));
        println!("figure: removed to standby: {:.2} s", took.as_secs_f64());
        settles(&servers, 3, "it is back", promised(0));
        let away = since.elapsed();
        println!("removed to back: {:.2} s", away.as_secs_f64());
        assert!(
            away >= INTERVAL.mul_f64(0.9),
            "it asks to join one interval after it was removed, not before"
        );
        shows(server, "a", "v");
    }
}

/// After a full outage the standbys start first and find no machine; then the peers; and the size
/// is the one that was set last, not that of the flags.
#[test]
fn standbys_come_first() {
    let mut servers = start(6, 3, &[]);
    settles(&servers, 3, "6 started at once", promised(0));
    configure(&servers, "{\"activeSize\":4}");
    let (peers, standbys) = settles(&servers, 4, "active size 3 to 4", promised(0));
    put(&servers, "a", "v");
    peers
        .iter()
        .for_each(|place| shows(&servers[*place], "a", "v"));
    // What they know of the cluster is on disk after their next fetch.
    std::thread::sleep(2 * INTERVAL);
    servers.iter_mut().for_each(Server::kill);
    standbys.iter().for_each(|place| servers[*place].spawn());
    for place in &standbys {
        let waits = || matches!(mode(&servers[*place]), Some(Mode::Standby { .. })).then_some(());
        until("it stands by", waits);
    }
    std::thread::sleep(2 * INTERVAL);
    peers.iter().for_each(|place| servers[*place].spawn());
    let (now, _) = settles(&servers, 4, "the peers are back", promised(0));
    assert_eq!(now, peers);
    through_everyone(&servers, &now, "after");
    now.iter()
        .for_each(|place| shows(&servers[*place], "a", "v"));
}

/// Machines that find each other by a discovery service: the one too many stands by, and is
/// registered like the others, again at its next start.
#[test]
fn one_too_many_by_discovery() {
    let service = Server::start(&[]);
    let url = format!("http://{}/v2/keys/found", service.client_at());
    let flag = format!("-discovery={url}");
    let args = [&QUICK[..], &["-cluster-active-size=3", &flag]].concat();
    let mut servers: Vec<Server> = (1..=4).map(|number| prepare(number, &[], &args)).collect();
    servers.iter_mut().for_each(Server::spawn);
    let (peers, standbys) = settles(&servers, 3, "4 by discovery", promised(0));
    through_everyone(&servers, &peers, "first");
    let registered = |server: &Server| {
        let answer = service.client("GET", &format!("/v2/keys/found/{}", server.name), "");
        (answer.status() == 200).then(|| {
            answer.json()["node"]["modifiedIndex"]
                .as_u64()
                .expect("an index")
        })
    };
    for server in &servers {
        until("it is registered", || registered(server).map(drop));
    }
    let standby = standbys[0];
    let before = registered(&servers[standby]);
    servers[standby].kill();
    servers[standby].spawn();
    until("it is registered anew", || {
        (registered(&servers[standby]) > before).then_some(())
    });
    settles(&servers, 3, "it stands by again", promised(0));
}
