//! Machines with `-forward`: whichever is asked does it, and shows it itself from then on; a
//! standby passes it on.
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tern_support::client::{Answer, Conn, form, request, until};
use tern_support::fleet::{at_of, cluster, has, leader_of, prepare, shows};
use tern_support::server::Server;

/// A write that is carried out where it is asked for.
fn write(conn: &mut Conn, method: &str, target: &str, body: &str) -> Answer {
    let answer = conn.ask(method, target, body);
    assert!(
        [200, 201].contains(&answer.status()),
        "{method} {target}: {} {}",
        answer.status(),
        answer.text()
    );
    answer
}

/// Everything about keys is done at every machine, and seen there at once.
fn check_all(servers: &[Server]) {
    let large = "x".repeat(1 << 20);
    for (number, server) in servers.iter().enumerate() {
        let mut conn = Conn::open(server.client_at());
        let key = format!("/v2/keys/m{number}");
        for round in 0..20 {
            let value = format!("value={round}");
            let index =
                write(&mut conn, "PUT", &key, &value).json()["node"]["modifiedIndex"].as_u64();
            for target in [
                key.clone(),
                format!("{key}?quorum=true"),
                format!("{key}?consistent=true"),
            ] {
                let answer = conn.ask("GET", &target, "");
                assert_eq!(
                    answer.json()["node"]["value"],
                    round.to_string(),
                    "{target}"
                );
                assert!(Some(answer.head.etcd_index()) >= index);
            }
        }
        let created = write(&mut conn, "POST", "/v2/keys/queue", "value=job").json();
        let name = created["node"]["key"].as_str().expect("a key").to_string();
        assert!(
            name.ends_with(&created["node"]["createdIndex"].to_string()),
            "{name}"
        );
        let differs = conn.ask("PUT", &format!("{key}?prevValue=none"), "value=x");
        assert_eq!(
            (differs.status(), &differs.json()["errorCode"]),
            (412, &101.into())
        );
        write(&mut conn, "PUT", &format!("{key}?prevValue=19"), "value=x");
        let mortal = write(&mut conn, "PUT", &key, "value=x&ttl=100").json();
        assert_eq!(mortal["node"]["ttl"], 100);
        write(&mut conn, "DELETE", &key, "");
        assert_eq!(conn.ask("GET", &key, "").status(), 404);
        write(&mut conn, "PUT", &key, &format!("value={large}"));
        assert_eq!(
            conn.ask("GET", &format!("{key}?quorum=true"), "").json()["node"]["value"],
            large.as_str()
        );
    }
}

#[test]
fn every_machine_takes_everything() {
    let mut servers = cluster(3, &["-forward"]);
    check_all(&servers);
    // What is about the cluster goes to the leader's own ports.
    let leads = leader_of(&servers);
    let follower = &servers[(leads + 1) % 3];
    assert_eq!(
        follower
            .peer("DELETE", "/v2/admin/machines/nobody", "")
            .status(),
        307
    );
    assert_eq!(follower.client("GET", "/v2/speedTest", "").status(), 307);
    // Another leader is asked from then on.
    servers[leads].kill();
    let follower = &servers[(leads + 1) % 3];
    until("a write is taken", || {
        let answer = follower.client("PUT", "/v2/keys/a", "value=two");
        (answer.status() < 300).then_some(())
    });
    assert!(has(follower, "a", "two"));
    servers[leads].run();
    check_all(&servers);
}

/// Many connections to one follower, each reading what it wrote.
#[test]
fn many_clients_of_one_follower() {
    let servers = cluster(3, &["-compat=2"]);
    let follower = &servers[(leader_of(&servers) + 1) % 3];
    let mut conns: Vec<Conn> = (0..64).map(|_| Conn::open(follower.client_at())).collect();
    for round in 0..20 {
        for (number, conn) in conns.iter_mut().enumerate() {
            let body = format!("value={round}");
            conn.send(&form("PUT", &format!("/v2/keys/c{number}"), &body));
        }
        for conn in &mut conns {
            let answer = conn.answer();
            assert!(answer.status() < 300, "{}", answer.text());
        }
        for (number, conn) in conns.iter_mut().enumerate() {
            let answer = conn.ask("GET", &format!("/v2/keys/c{number}"), "");
            assert_eq!(answer.json()["node"]["value"], round.to_string());
        }
    }
}

/// The leader is stopped between a request and its answer: its outcome is unknown, and all agree in
/// the end.
#[test]
fn a_leader_that_stands_still() {
    let args = [
        "-forward",
        "-peer-heartbeat-interval=200",
        "-peer-election-timeout=2000",
    ];
    let servers = cluster(3, &args);
    let leads = leader_of(&servers);
    let follower = &servers[(leads + 1) % 3];
    write(
        &mut Conn::open(follower.client_at()),
        "PUT",
        "/v2/keys/a",
        "value=one",
    );
    servers[leads].signal(Signal::STOP);
    let (mut writes, mut reads) = (
        Conn::open(follower.client_at()),
        Conn::open(follower.client_at()),
    );
    writes.send(&form("PUT", "/v2/keys/a", "value=two"));
    reads.send(&request("GET", "/v2/keys/a?quorum=true", &[], b""));
    let unknown = writes.answer();
    assert_eq!(unknown.status(), 500);
    assert_eq!(
        (&unknown.json()["errorCode"], &unknown.json()["cause"]),
        (&300.into(), &"outcome unknown".into())
    );
    assert_eq!(reads.answer().json()["errorCode"], 301);
    // By now there is another leader.
    until("a write is taken", || {
        let answer = follower.client("PUT", "/v2/keys/b", "value=three");
        (answer.status() < 300).then_some(())
    });
    let value =
        follower.client("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"].clone();
    servers[leads].signal(Signal::CONT);
    for server in &servers {
        shows(server, "b", "three");
        shows(server, "a", value.as_str().expect("a value"));
    }
}

/// A leader is stopped as it should be while clients of a follower write: each write is taken, by
/// the one or the other. What is on its way when the link breaks may be unknown; nothing is
/// refused.
#[test]
fn a_leader_that_hands_over() {
    let mut servers = cluster(3, &["-forward"]);
    for round in 0..4 {
        let leads = leader_of(&servers);
        let follower = servers[(leads + 1) % 3].client_at();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (key, stop) = (format!("/v2/keys/{round}-{writer}"), &stop);
                scope.spawn(move || {
                    let mut conn = Conn::open(follower);
                    for _ in (0..20_000).take_while(|_| !stop.load(Relaxed)) {
                        let answer = conn.ask("PUT", &key, "value=v");
                        let unknown = || answer.json()["cause"] == "outcome unknown";
                        assert!(answer.status() < 300 || unknown(), "{}", answer.text());
                    }
                });
            }
            (0..4).for_each(|writer| shows(&servers[leads], &format!("{round}-{writer}"), "v"));
            let ended = servers[leads].terminate();
            servers[leads].run();
            stop.store(true, Relaxed);
            assert!(ended.success());
        });
    }
}

/// Three machines and a standby, all with `-forward`.
fn with_standby() -> (Vec<Server>, Server) {
    let mut args = vec![
        "-forward",
        "-cluster-active-size=3",
        "-cluster-sync-interval=1",
    ];
    args.extend([
        "-peer-heartbeat-interval=200",
        "-peer-election-timeout=2000",
    ]);
    let servers = cluster(3, &args);
    let mut standby = prepare(4, &[servers[0].peer_port], &["-forward"]);
    standby.run();
    assert_eq!(
        standby.peer("GET", "/name", "").status(),
        404,
        "it is a standby"
    );
    (servers, standby)
}

#[test]
fn a_standby_passes_short_requests_on() {
    let (servers, standby) = with_standby();
    check_through(&standby);
    let leads = leader_of(&servers);
    let mut conn = Conn::open(standby.client_at());
    for target in ["/v2/keys/a?wait=true", "/v1/watch/a", "/v2/speedTest"] {
        let answer = conn.ask("GET", target, "");
        assert_eq!(answer.status(), 307, "{target}");
        assert_eq!(
            at_of(answer.head.header("Location").expect("a location")),
            servers[leads].client_at()
        );
    }
    // Another tern follows redirects itself.
    conn.send(&request(
        "GET",
        "/v2/keys/",
        &[("User-Agent", "tern/0")],
        b"",
    ));
    assert_eq!(conn.answer().status(), 307);
    // What is too long to be passed through can be had from the leader itself.
    let large = "x".repeat(1 << 20);
    for number in 0..3 {
        write(
            &mut conn,
            "PUT",
            &format!("/v2/keys/large/{number}"),
            &format!("value={large}"),
        );
    }
    assert_eq!(conn.ask("GET", "/v2/keys/large", "").status(), 307);
    // More at once than it passes on: the others are sent to the leader.
    let mut conns: Vec<Conn> = (0..400).map(|_| Conn::open(standby.client_at())).collect();
    for (number, conn) in conns.iter_mut().enumerate() {
        conn.send(&form("PUT", &format!("/v2/keys/many/{number}"), "value=x"));
    }
    let status = conns.iter_mut().map(|conn| conn.answer().status());
    let (done, sent_on): (Vec<u16>, Vec<u16>) =
        status.partition(|status| [200, 201].contains(status));
    assert!(
        done.len() >= 256 && sent_on.iter().all(|status| *status == 307),
        "{sent_on:?}"
    );
    assert_eq!(
        standby.peer("GET", "/name", "").status(),
        404,
        "it is a standby still"
    );
}

fn check_through(standby: &Server) {
    let mut conn = Conn::open(standby.client_at());
    let set = write(&mut conn, "PUT", "/v2/keys/a", "value=one");
    let index = set.json()["node"]["modifiedIndex"]
        .as_u64()
        .expect("an index");
    assert_eq!(set.head.etcd_index(), index);
    assert!(set.head.header("X-Raft-Term").is_some());
    assert_eq!(set.head.header("Content-Type"), Some("application/json"));
    for target in [
        "/v2/keys/a",
        "/v2/keys/a?quorum=true",
        "/v2/keys/?recursive=true&sorted=true",
    ] {
        let answer = conn.ask("GET", target, "");
        assert!(
            answer.status() == 200 && answer.text().contains("one"),
            "{target}: {}",
            answer.text()
        );
    }
    let missing = conn.ask("GET", "/v2/keys/missing", "");
    assert_eq!(
        (missing.status(), &missing.json()["errorCode"]),
        (404, &100.into())
    );
    let differs = conn.ask("PUT", "/v2/keys/a", "value=x&prevValue=none");
    assert_eq!(
        (differs.status(), &differs.json()["cause"]),
        (412, &"[none != one]".into())
    );
    conn.send(&request("HEAD", "/v2/keys/a", &[], b""));
    let head = conn.head().expect("a head");
    assert_eq!(
        (head.status, head.header("Content-Length").is_some()),
        (200, true)
    );
    write(&mut conn, "POST", "/v2/keys/queue", "value=job");
    write(&mut conn, "DELETE", "/v2/keys/a", "");
    assert_eq!(
        conn.ask("GET", "/v2/machines", "")
            .text()
            .split(", ")
            .count(),
        3
    );
}

/// The leader takes the request and stands still; and one that is gone is followed by another.
#[test]
fn a_standby_whose_leader_stands_still() {
    let (mut servers, standby) = with_standby();
    let leads = leader_of(&servers);
    servers[leads].signal(Signal::STOP);
    let (mut writes, mut reads) = (
        Conn::open(standby.client_at()),
        Conn::open(standby.client_at()),
    );
    writes.send(&form("PUT", "/v2/keys/a", "value=two"));
    reads.send(&request("GET", "/v2/keys/a?quorum=true", &[], b""));
    assert_eq!(reads.answer().status(), 307);
    let unknown = writes.answer();
    assert_eq!(
        (unknown.status(), &unknown.json()["cause"]),
        (500, &"outcome unknown".into())
    );
    until("the standby asks another leader", || {
        let answer = standby.client("PUT", "/v2/keys/b", "value=three");
        (answer.status() < 300).then_some(())
    });
    servers[leads].kill();
    check_through(&standby);
}
