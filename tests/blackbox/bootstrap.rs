//! `-bootstrap`: the same command on every machine begins one cluster.
use std::time::Duration;
use tern_support::client::until;
use tern_support::fleet::{Mode, ask, leader_of, mode, put, settled, shows};
use tern_support::rng::Rng;
use tern_support::server::Server;

/// Machines with one list, none of them started.
fn prepare(count: usize) -> Vec<Server> {
    let named = |number: usize| Server::prepare_as(&format!("node{number}"), &[]);
    let mut servers: Vec<Server> = (1..=count).map(named).collect();
    let list: Vec<String> = servers.iter().map(|s| s.peer_at().to_string()).collect();
    for server in &mut servers {
        server.args.push("-bootstrap".to_string());
        server.args.push(format!("-peers={}", list.join(",")));
    }
    servers
}

fn has_no_data(server: &Server) -> bool {
    server.snapshots().is_empty()
}

/// The machines start in random order, with pauses, and some are killed on the way.
#[test]
fn protocol_16_one_cluster_begins_in_whatever_order_the_machines_start() {
    let starts = std::env::var("BOOTSTRAP_STARTS").ok();
    let starts = starts.map_or(10, |text| text.parse().expect("a number"));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for start in 0..starts {
        begins_as_one(if start % 2 == 0 { 3 } else { 5 }, &mut rng);
    }
}

fn begins_as_one(count: usize, rng: &mut Rng) {
    let mut servers = prepare(count);
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        order.swap(place, rng.index(place + 1));
    }
    for (started, place) in order.iter().enumerate() {
        servers[*place].spawn();
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        if rng.percent(30) {
            let killed = order[rng.index(started + 1)];
            servers[killed].kill();
            std::thread::sleep(Duration::from_millis(rng.below(300)));
            servers[killed].spawn();
        }
    }
    let (peers, standbys) = until("they agree", || settled(&servers));
    assert_eq!((peers.len(), standbys.len()), (count, 0));
    let founders = servers.iter().filter(|server| {
        let log = server.log();
        log.contains("is the first of its cluster and founds it")
    });
    assert_eq!(founders.count(), 1, "one machine founds the cluster");
    put(&servers, "a", "b");
    for server in &servers {
        shows(server, "a", "b");
    }
}

/// A machine that lost its disk joins the cluster again, though it is the first of the list, and
/// waits while the others are down. With data the flag has no effect.
#[test]
fn protocol_16_a_machine_that_lost_its_disk_founds_no_second_cluster() {
    let mut servers = prepare(3);
    let mut order: Vec<usize> = (0..3).collect();
    order.sort_by_key(|place| servers[*place].peer_at().to_string());
    servers.iter_mut().for_each(Server::spawn);
    let (peers, _) = until("they agree", || settled(&servers));
    assert_eq!(peers.len(), 3);
    put(&servers, "a", "b");
    servers.iter_mut().for_each(Server::kill);
    let first = order[0];
    std::fs::remove_dir_all(servers[first].data_dir()).expect("removed");
    servers[first].spawn();
    let waits = |server: &Server| {
        let answer = ask(server.peer_at(), "GET", "/v2/admin/bootstrap", "")?;
        (answer.json()["waiting"] == true).then_some(())
    };
    until("it waits", || waits(&servers[first]));
    until("it names the others", || {
        let log = servers[first].log();
        let named = |place: &usize| log.contains(&servers[*place].peer_at().to_string());
        (log.contains("-bootstrap: waiting for") && order[1..].iter().all(named)).then_some(())
    });
    servers[order[1]].spawn();
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        has_no_data(&servers[first]),
        "it founds nothing beside a member"
    );
    servers[order[2]].spawn();
    until("all are members again", || {
        settled(&servers).filter(|s| s.0.len() == 3)
    });
    shows(&servers[first], "a", "b");
    let leads = leader_of(&servers);
    let Some(Mode::Peer { members }) = mode(&servers[leads]) else {
        panic!("the leader is a member");
    };
    assert_eq!(members.len(), 3);
}

/// A machine that is stopped while it waits says that it stops, and not that it serves.
#[test]
fn protocol_16_a_machine_that_waits_is_never_ready() {
    let mut servers = prepare(2);
    servers[0].spawn();
    until("it waits", || {
        let log = servers[0].log();
        log.contains("-bootstrap: waiting for").then_some(())
    });
    assert!(servers[0].terminate().success());
    assert!(!servers[0].log().contains("ready"), "{}", servers[0].log());
}

/// Lists that differ: no machine founds, and one that is answered with another list logs it.
#[test]
fn protocol_16_lists_that_differ_are_an_error() {
    let mut servers = prepare(2);
    let list = format!("-peers={},127.0.0.1:1", servers[1].peer_at());
    servers[1].args.push(list);
    servers.iter_mut().for_each(Server::spawn);
    let says = |server: &Server| server.log().contains("was started with another list");
    until("the first one names the other", || {
        says(&servers[0]).then_some(())
    });
    assert!(servers.iter().all(has_no_data));
}
