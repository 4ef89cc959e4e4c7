//! Three machines with `-forward`: whichever is asked does it, and shows it itself from then on.
use crate::client::{Answer, Conn, until};
use crate::fleet::{cluster, has, leader_of, shows};
use crate::server::Server;
use rustix::process::Signal;

/// A write that is carried out where it is asked for.
fn write(conn: &mut Conn, method: &str, target: &str, body: &str) -> Answer {
    let answer = conn.ask(method, target, body);
    assert!([200, 201].contains(&answer.status()), "{method} {target}: {} {}", answer.status(), answer.text());
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
            let index = write(&mut conn, "PUT", &key, &value).json()["node"]["modifiedIndex"].as_u64();
            for target in [key.clone(), format!("{key}?quorum=true"), format!("{key}?consistent=true")] {
                let answer = conn.ask("GET", &target, "");
                assert_eq!(answer.json()["node"]["value"], round.to_string(), "{target}");
                assert!(Some(answer.head.etcd_index()) >= index);
            }
        }
        let created = write(&mut conn, "POST", "/v2/keys/queue", "value=job").json();
        let name = created["node"]["key"].as_str().expect("a key").to_string();
        assert!(name.ends_with(&created["node"]["createdIndex"].to_string()), "{name}");
        let differs = conn.ask("PUT", &format!("{key}?prevValue=none"), "value=x");
        assert_eq!((differs.status(), &differs.json()["errorCode"]), (412, &101.into()));
        write(&mut conn, "PUT", &format!("{key}?prevValue=19"), "value=x");
        let mortal = write(&mut conn, "PUT", &key, "value=x&ttl=100").json();
        assert_eq!(mortal["node"]["ttl"], 100);
        write(&mut conn, "DELETE", &key, "");
        assert_eq!(conn.ask("GET", &key, "").status(), 404);
        write(&mut conn, "PUT", &key, &format!("value={large}"));
        assert_eq!(conn.ask("GET", &format!("{key}?quorum=true"), "").json()["node"]["value"], large.as_str());
    }
}

#[test]
fn every_machine_takes_everything() {
    let mut servers = cluster(3, &["-forward"]);
    check_all(&servers);
    // What is about the cluster goes to the leader's own ports.
    let leads = leader_of(&servers);
    let follower = &servers[(leads + 1) % 3];
    assert_eq!(follower.peer("DELETE", "/v2/admin/machines/nobody", "").status(), 307);
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
            conn.send(&crate::client::form("PUT", &format!("/v2/keys/c{number}"), &body));
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

/// The leader stands still between a request and its answer: nobody knows, and all agree in the end.
#[test]
fn a_leader_that_stands_still() {
    let args = ["-forward", "-peer-heartbeat-interval=200", "-peer-election-timeout=2000"];
    let servers = cluster(3, &args);
    let leads = leader_of(&servers);
    let follower = &servers[(leads + 1) % 3];
    write(&mut Conn::open(follower.client_at()), "PUT", "/v2/keys/a", "value=one");
    servers[leads].signal(Signal::STOP);
    let (mut writes, mut reads) = (Conn::open(follower.client_at()), Conn::open(follower.client_at()));
    writes.send(&crate::client::form("PUT", "/v2/keys/a", "value=two"));
    reads.send(&crate::client::request("GET", "/v2/keys/a?quorum=true", &[], b""));
    let unknown = writes.answer();
    assert_eq!(unknown.status(), 500);
    assert_eq!((&unknown.json()["errorCode"], &unknown.json()["cause"]), (&300.into(), &"outcome unknown".into()));
    assert_eq!(reads.answer().json()["errorCode"], 301);
    // By now there is another leader.
    until("a write is taken", || {
        let answer = follower.client("PUT", "/v2/keys/b", "value=three");
        (answer.status() < 300).then_some(())
    });
    let value = follower.client("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"].clone();
    servers[leads].signal(Signal::CONT);
    for server in &servers {
        shows(server, "b", "three");
        shows(server, "a", value.as_str().expect("a value"));
    }
}
