//! Membership and leadership: a leader that removes itself, peers that die in turn, addresses from
//! a file or from a service that redirects, and what a change of leaders must not lose.
use rustix::process::Signal;
use std::time::Duration;
use tern_support::client::{Conn, until};
use tern_support::copy_folder;
use tern_support::fleet::{
    Mode, ask, cluster, follow, followed, has, leader, leader_of, listed, lists, mode, prepare,
    put, settled, shows, shows_all, term,
};
use tern_support::rng::Rng;
use tern_support::server::Server;

/// The leader is asked on its own peer port to let go of itself: it answers first, and another
/// leads at once.
#[test]
fn a_leader_removed_through_its_own_port() {
    let mut servers = cluster(3, &["-cluster-sync-interval=3"]);
    for (method, path) in [("DELETE", "/remove/"), ("DELETE", "/v2/admin/machines/")] {
        put(&servers, "a", path);
        let leads = leader_of(&servers);
        let before = term(&servers[leads]).expect("a term");
        let answer = servers[leads].peer(method, &format!("{path}{}", servers[leads].name), "");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let mut removed = servers.remove(leads);
        let new = leader_of(&servers);
        put(&servers, "a", "again");
        lists(&servers[new], servers.len());
        assert!(!listed(&servers[new]).contains_key(&removed.name));
        let after = term(&servers[new]).expect("a term");
        assert!(
            (before + 1..=before + 2).contains(&after),
            "term {before} to {after}: it hands over"
        );
        until("the removed machine redirects", || {
            let answer = ask(removed.client_at(), "GET", "/v2/keys/a", "")?;
            (answer.status() == 307).then_some(())
        });
        removed.kill();
    }
    assert_eq!(servers.len(), 1);
    let alone = followed(
        servers[0].peer_at(),
        "DELETE",
        &format!("/remove/{}", servers[0].name),
        "",
    );
    assert_ne!(alone.status(), 200, "the last one cannot be removed");
    put(&servers, "a", "last");
}

/// Each of five is killed in turn, in an order that differs from run to run, and comes back before
/// the next one goes.
#[test]
fn peers_that_die_in_turn() {
    let mut servers = cluster(5, &["-snapshot-count=50"]);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut written = 0;
    for _ in 0..8 {
        let dies = rng.next_u64() as usize % 5;
        servers[dies].kill();
        for _ in 0..20 {
            written += 1;
            put(&servers, &format!("key{written}"), &format!("v{written}"));
        }
        servers[dies].run();
    }
    shows_all(&servers, written);
    let (peers, standbys) = until("they agree", || settled(&servers));
    assert_eq!((peers.len(), standbys.len()), (5, 0));
}

/// All are killed when the beginning of their logs is gone, and come back from their snapshots.
#[test]
fn all_machines_die_with_snapshots() {
    let mut servers = cluster(3, &["-snapshot-count=20"]);
    for round in 0..3 {
        for number in 0..100 {
            put(
                &servers,
                &format!("key{number}"),
                &format!("v{round}-{number}"),
            );
        }
        until("all have saved one", || {
            let has_saved = |server: &Server| server.snapshots().len() == 2;
            servers.iter().all(has_saved).then_some(())
        });
        servers.iter_mut().for_each(Server::kill);
        servers.iter_mut().for_each(Server::spawn);
        servers.iter_mut().for_each(Server::wait);
        leader_of(&servers);
        for server in &servers {
            for number in 0..100 {
                shows(
                    server,
                    &format!("key{number}"),
                    &format!("v{round}-{number}"),
                );
            }
        }
    }
}

/// Peers from a file, one a line or by commas, with a scheme or without.
#[test]
fn peers_from_a_file() {
    let mut servers = cluster(1, &[]);
    for (number, text) in [
        (2, "127.0.0.1:1\n127.0.0.1:PORT\n"),
        (3, "127.0.0.1:1,http://127.0.0.1:PORT"),
    ] {
        let mut server = prepare(number, &[], &[]);
        let path = server.home.path().join("peers");
        std::fs::write(
            &path,
            text.replace("PORT", &servers[0].peer_port.to_string()),
        )
        .expect("room");
        server.args.push(format!("-peers-file={}", path.display()));
        server.run();
        servers.push(server);
    }
    put(&servers, "a", "v");
    servers.iter().for_each(|server| shows(server, "a", "v"));
}

/// A discovery service of three machines, asked at one that follows: what it redirects is sent on.
#[test]
fn a_discovery_service_that_redirects() {
    let service = cluster(3, &[]);
    let follower = (leader_of(&service) + 1) % 3;
    let flag = format!(
        "-discovery=http://{}/v2/keys/found",
        service[follower].client_at()
    );
    let mut servers: Vec<Server> = (1..=3)
        .map(|number| prepare(number, &[], &[&flag]))
        .collect();
    servers.iter_mut().for_each(Server::spawn);
    servers.iter_mut().for_each(Server::wait);
    put(&servers, "a", "v");
    servers.iter().for_each(|server| shows(server, "a", "v"));
    lists(&servers[0], 3);
}

/// A ttl runs out on all machines, also under another leader; one that was renewed through another
/// leader does not.
#[test]
fn ttls_and_a_leader_that_dies() {
    let mut servers = cluster(3, &[]);
    let mut watch = Conn::watch(
        servers[2].client_at(),
        "/v2/keys/short?wait=true&stream=true",
    );
    put(&servers, "long", "v&ttl=1000");
    put(&servers, "short", "v&ttl=5");
    put(&servers, "renewed", "v&ttl=5");
    assert_eq!(watch.event().expect("an event")["action"], "set");
    let dies = leader_of(&servers[..]);
    assert_ne!(dies, 2, "no machine had a reason to campaign");
    servers[dies].kill();
    let rest: Vec<&Server> = (0..3)
        .filter(|place| *place != dies)
        .map(|place| &servers[place])
        .collect();
    leader(&rest);
    until("it is renewed", || {
        let answer = follow(
            rest[0].client_at(),
            "PUT",
            "/v2/keys/renewed",
            "value=v&ttl=1000",
        )?;
        (answer.status() < 300).then_some(())
    });
    let event = watch.event().expect("an event");
    assert_eq!(event["action"], "expire");
    servers[dies].run();
    for server in &servers {
        until("it has run out", || {
            (!has(server, "short", "v")).then_some(())
        });
        assert!(
            has(server, "renewed", "v") && has(server, "long", "v"),
            "{}",
            server.name
        );
    }
}

/// A peer that dies is spoken of at once and then ever less often, let go after the removal delay,
/// and when the next of two dies, that is said to be the end of removals.
#[test]
fn what_the_log_says_of_silent_peers() {
    let mut servers = cluster(3, &["-cluster-remove-delay=4"]);
    let leads = leader_of(&servers);
    let said = |servers: &[Server], text: &str| {
        until(text, || {
            servers.iter().any(|s| s.log().contains(text)).then_some(())
        });
    };
    let mut dead = servers.remove((leads + 1) % 3);
    dead.kill();
    let timed_out = format!(
        ": warning: heartbeat time out peer=\"{}\" missed=",
        dead.name
    );
    said(&servers, &format!("{timed_out}1 backoff=\"2s\""));
    said(&servers, &format!("removing {}", dead.name));
    until("it is listed no more", || {
        (!listed(&servers[0]).contains_key(&dead.name)).then_some(())
    });
    let lines = |s: &Server| s.log().lines().filter(|l| l.contains(&timed_out)).count();
    let count: usize = servers.iter().map(lines).sum();
    assert!((2..20).contains(&count), "{count} lines of 80 heartbeats");
    let mut last = servers.remove(0);
    last.kill();
    said(&servers, "no leader: one of two voters is not heard");
}

/// A machine learns of its removal from its own log, and no other machine is there to confirm it: it
/// keeps its data and asks on. Once the others are back it is wiped, and joins as a new member.
#[test]
fn protocol_13_a_removal_that_no_machine_confirms_wipes_nothing() {
    let mut servers = cluster(3, &["-cluster-sync-interval=1"]);
    put(&servers, "a", "one");
    shows(&servers[2], "a", "one");
    servers[2].signal(Signal::STOP);
    let removed = followed(servers[0].peer_port, "DELETE", "/remove/node3", "");
    assert_eq!(removed.status(), 200);
    lists(&servers[1], 2);
    // The leader's next heartbeat tells the removed machine too that its removal is committed.
    std::thread::sleep(Duration::from_millis(500));
    servers[0].kill();
    servers[1].kill();
    servers[2].signal(Signal::CONT);
    servers[2].wait_for_log("Its data is kept");
    assert_eq!(servers[2].client("GET", "/v2/keys/a", "").status(), 307);
    // Started again, it asks again.
    servers[2].kill();
    servers[2].spawn();
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        !servers[2].log().contains("are deleted"),
        "{}",
        servers[2].log()
    );
    servers[0].spawn();
    servers[1].spawn();
    servers[0].wait();
    servers[1].wait();
    servers[2].wait_for_log("are deleted");
    shows(&servers[2], "a", "one");
    lists(&servers[0], 3);
}

/// A machine that was removed for good stays a standby, over restarts, and over a log that was put
/// back from a copy. With an empty data directory it is another machine, and joins.
#[test]
fn protocol_15_a_machine_that_was_removed_for_good_stays_outside() {
    let mut servers = cluster(3, &["-cluster-sync-interval=1"]);
    lists(&servers[0], 3);
    servers[2].kill();
    let copy = servers[2].data_dir().with_extension("copy");
    copy_folder(&servers[2].data_dir(), &copy);
    servers[2].run();
    let target = format!("/v2/admin/machines/{}", servers[2].name);
    let answer = followed(
        servers[1].peer_at(),
        "DELETE",
        &format!("{target}?rejoin=never"),
        "",
    );
    assert_eq!(answer.status(), 400);
    let answer = followed(
        servers[1].peer_at(),
        "DELETE",
        &format!("{target}?rejoin=false"),
        "",
    );
    assert_eq!(answer.status(), 200);
    stays_outside(&servers, 1);
    servers[2].kill();
    servers[2].spawn();
    stays_outside(&servers, 2);
    // The directory of the member, restored.
    servers[2].kill();
    std::fs::remove_dir_all(servers[2].data_dir()).expect("removed");
    copy_folder(&copy, &servers[2].data_dir());
    servers[2].spawn();
    stays_outside(&servers, 3);
    servers[2].kill();
    std::fs::remove_dir_all(servers[2].data_dir()).expect("removed");
    servers[2].run();
    lists(&servers[0], 3);
}

/// The third machine has logged `lines` times in all that it was removed for good, and stays a standby
/// for three sync intervals.
fn stays_outside(servers: &[Server], lines: usize) {
    let outside = &servers[2];
    until("it is a standby that does not ask", || {
        let said = outside.log().matches("does not ask to join").count();
        (said >= lines).then_some(())
    });
    lists(&servers[0], 2);
    let asked = std::time::Instant::now();
    while asked.elapsed() < Duration::from_secs(3) {
        assert_eq!(listed(&servers[0]).len(), 2);
        std::thread::sleep(Duration::from_millis(200));
    }
    until("it redirects", || {
        matches!(mode(outside)?, Mode::Standby { to: Some(_) }).then_some(())
    });
}
