//! Machines with `-forward`: whichever is asked does it, and shows it itself from then on; a
//! standby passes it on.
use rustix::process::Signal;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tern_support::alone::alone;
use tern_support::client::{Answer, Conn, form, request, until};
use tern_support::fleet::{NERVOUS, at_of, cluster, has, leader_of, prepare, shows};
use tern_support::namespace;
use tern_support::net::{Loss, Net};
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

/// The leader stands still between a request and its answer. Once the next leader has committed an
/// entry, the follower knows whether the request has happened, and sends it again if not.
#[test]
fn a_leader_that_stands_still() {
    let servers = cluster(3, &["-forward"]);
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
    writes.send(&form("PUT", "/v2/keys/a?prevValue=one", "value=two"));
    reads.send(&request("GET", "/v2/keys/a?quorum=true", &[], b""));
    let written = writes.answer();
    assert_eq!(written.status(), 200, "{}", written.text());
    assert_eq!(reads.answer().status(), 200);
    servers[leads].signal(Signal::CONT);
    for server in &servers {
        shows(server, "a", "two");
    }
}

/// How many rounds the tests with disturbances take; `TERN_FORWARD_ROUNDS` for more.
fn rounds(usual: usize) -> usize {
    let given = std::env::var("TERN_FORWARD_ROUNDS").ok();
    given.map_or(usual, |text| text.parse().expect("a number"))
}

/// Requests that come to the followers in the first moments after the leader's death are answered
/// by the next leader.
#[test]
fn what_comes_after_the_leaders_death_is_answered_by_the_next() {
    let mut servers = cluster(3, &["-forward"]);
    for round in 0..rounds(2) {
        let leads = leader_of(&servers);
        let followers = [1, 2].map(|by| servers[(leads + by) % 3].client_at());
        for at in followers {
            write(&mut Conn::open(at), "PUT", "/v2/keys/warm", "value=x");
        }
        servers[leads].kill();
        std::thread::scope(|scope| {
            for (number, at) in followers.into_iter().enumerate() {
                for delay_ms in [0, 20, 50, 100, 150, 200, 300] {
                    scope.spawn(move || {
                        std::thread::sleep(Duration::from_millis(delay_ms));
                        let key = format!("/v2/keys/{round}-{number}-{delay_ms}?prevExist=false");
                        write(&mut Conn::open(at), "PUT", &key, "value=x");
                    });
                }
            }
        });
        servers[leads].run();
    }
}

/// One client writes and reads until it is told to stop. Each write creates another key: if it
/// happened twice, the second time would be answered with 412.
fn writes_and_reads(at: SocketAddr, name: &str, stop: &AtomicBool) -> usize {
    let mut conn = Conn::open(at);
    let mut count = 0;
    while !stop.load(Relaxed) {
        let key = format!("/v2/keys/{name}/{count}");
        write(
            &mut conn,
            "PUT",
            &format!("{key}?prevExist=false"),
            "value=x",
        );
        let read = if count % 2 == 0 { "?quorum=true" } else { "" };
        let answer = conn.ask("GET", &format!("{key}{read}"), "");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        count += 1;
    }
    count
}

/// Leaders are killed, stopped as they should be, and stand still: no request of a client of
/// another machine fails, nothing happens twice, and each client reads its own write.
#[test]
fn no_request_fails_while_leaders_come_and_go() {
    let mut servers = cluster(3, &["-forward", NERVOUS]);
    for round in 0..rounds(3) {
        let leads = leader_of(&servers);
        let followers = [1, 2].map(|by| servers[(leads + by) % 3].client_at());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for number in 0..8 {
                let (stop, at) = (&stop, followers[number % 2]);
                let name = format!("{round}-{number}");
                clients.push(scope.spawn(move || writes_and_reads(at, &name, stop)));
            }
            let leader = &mut servers[leads];
            std::thread::sleep(Duration::from_millis(200));
            match round % 3 {
                0 => leader.kill(),
                1 => assert!(leader.terminate().success()),
                _ => leader.signal(Signal::STOP),
            }
            std::thread::sleep(Duration::from_millis(1_000));
            match round % 3 {
                2 => leader.signal(Signal::CONT),
                _ => leader.run(),
            }
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Relaxed);
            for client in clients {
                let count = client.join().expect("no request failed");
                assert!(count > 0);
            }
        });
    }
}

/// A leader is cut off, cannot send, or is deaf: no request of a client of another machine fails.
/// Each time it is the leader of another cluster: members that have measured a cut as a round trip
/// wait longer for the next leader, and a request waits 5 s at most.
#[test]
fn no_request_fails_while_a_leader_is_cut_off() {
    if !namespace::enter() {
        return;
    }
    let _alone = alone();
    let mut net = Net::start(3);
    let losses = [Loss::All, Loss::Sent, Loss::Received];
    for round in 0..rounds(3) {
        let servers = net.cluster(&["-forward"]);
        let leads = leader_of(&servers);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for number in 0..4 {
                let at = servers[(leads + 1 + number % 2) % 3].client_at();
                let (stop, name) = (&stop, format!("{round}-{number}"));
                clients.push(scope.spawn(move || writes_and_reads(at, &name, stop)));
            }
            std::thread::sleep(Duration::from_millis(200));
            net.cut_off(leads, losses[round % 3]);
            std::thread::sleep(Duration::from_millis(1_500));
            net.heal();
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Relaxed);
            for client in clients {
                client.join().expect("no request failed");
            }
        });
    }
}

/// One client writes until it is told to stop, and goes to the next machine when its connection
/// breaks. Each answer is a success.
fn writes_at_any(all: &[SocketAddr], first: usize, name: &str, stop: &AtomicBool) -> usize {
    let mut place = first;
    let mut conn = Conn::try_open(all[place]);
    let mut count = 0;
    while !stop.load(Relaxed) {
        let key = format!("/v2/keys/{name}/{count}");
        let answer = conn.as_mut().and_then(|open| {
            let create = format!("{key}?prevExist=false");
            open.try_ask("PUT", &create, "value=x")
        });
        match answer {
            Some(answer) => assert_eq!(answer.status(), 201, "{}", answer.text()),
            None => {
                place = (place + 1) % all.len();
                conn = Conn::try_open(all[place]);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        count += 1;
    }
    count
}

/// Each machine in turn is stopped as it should be and started again.
#[test]
fn no_request_fails_but_those_whose_connection_broke_in_a_rolling_restart() {
    let mut servers = cluster(3, &["-forward"]);
    let all: Vec<SocketAddr> = servers.iter().map(Server::client_at).collect();
    for round in 0..rounds(1) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for number in 0..6 {
                let (all, stop) = (&all, &stop);
                let name = format!("{round}-{number}");
                clients.push(scope.spawn(move || writes_at_any(all, number % 3, &name, stop)));
            }
            for server in &mut servers {
                std::thread::sleep(Duration::from_millis(300));
                assert!(server.terminate().success());
                server.run();
            }
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Relaxed);
            for client in clients {
                let count = client.join().expect("no answer was a failure");
                assert!(count > 0);
            }
        });
    }
}

/// A body in chunks, and one that waits for `100 Continue`.
fn check_framings(server: &Server, key: &str) {
    let mut conn = Conn::open(server.client_at());
    let target = format!("/v2/keys/{key}");
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let chunked = [form, ("Transfer-Encoding", "chunked")];
    conn.send(&request("PUT", &target, &chunked, b"value=chunked"));
    assert_eq!(conn.answer().status(), 201);
    assert!(has(server, key, "chunked"));
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: tern\r\nContent-Type: {}\r\nExpect: 100-continue\r\n\
         Content-Length: 14\r\n\r\n",
        form.1
    );
    conn.send(head.as_bytes());
    assert_eq!(conn.head().expect("a head").status, 100);
    conn.send(b"value=expected");
    assert_eq!(conn.answer().status(), 200);
    assert!(has(server, key, "expected"));
}

#[test]
fn bodies_in_chunks_and_after_100_continue_are_forwarded() {
    let (servers, standby) = with_standby(&[
        "-peer-heartbeat-interval=200",
        "-peer-election-timeout=2000",
    ]);
    for (number, server) in servers.iter().enumerate() {
        check_framings(server, &format!("member{number}"));
    }
    check_framings(&standby, "standby");
}

/// A leader is stopped as it should be while clients of a follower write: each write is taken, by
/// the one or the other.
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
                        write(&mut conn, "PUT", &key, "value=v");
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
pub fn with_standby(further: &[&str]) -> (Vec<Server>, Server) {
    let mut args = vec![
        "-forward",
        "-cluster-active-size=3",
        "-cluster-sync-interval=1",
    ];
    args.extend(further);
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
    let (servers, standby) = with_standby(&[
        "-peer-heartbeat-interval=200",
        "-peer-election-timeout=2000",
    ]);
    check_through(&standby);
    let leads = leader_of(&servers);
    let mut conn = Conn::open(standby.client_at());
    for target in ["/v1/watch/a", "/v2/speedTest"] {
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

/// The leader takes the requests and stands still. A read is tried at another machine. A write may
/// have happened.
#[test]
fn a_standby_whose_leader_stands_still() {
    let (mut servers, standby) = with_standby(&[]);
    let leads = leader_of(&servers);
    write(
        &mut Conn::open(standby.client_at()),
        "PUT",
        "/v2/keys/a",
        "value=one",
    );
    servers[leads].signal(Signal::STOP);
    let (mut writes, mut reads) = (
        Conn::open(standby.client_at()),
        Conn::open(standby.client_at()),
    );
    writes.send(&form("PUT", "/v2/keys/b", "value=two"));
    reads.send(&request("GET", "/v2/keys/a?quorum=true", &[], b""));
    let read = reads.answer();
    assert_eq!(read.status(), 200, "{}", read.text());
    let unknown = writes.answer();
    assert_eq!(
        (unknown.status(), &unknown.json()["cause"]),
        (500, &"outcome unknown".into())
    );
    servers[leads].kill();
    check_through(&standby);
}

/// A standby cannot forward a request to a dead leader. The next leader answers it.
#[test]
fn a_standby_whose_leader_dies() {
    let (mut servers, standby) = with_standby(&[]);
    for round in 0..rounds(2) {
        let leads = leader_of(&servers);
        servers[leads].kill();
        std::thread::scope(|scope| {
            for delay_ms in [0, 20, 50, 100, 150, 200, 300] {
                let at = standby.client_at();
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(delay_ms));
                    let key = format!("/v2/keys/{round}-{delay_ms}");
                    let mut conn = Conn::open(at);
                    let create = format!("{key}?prevExist=false");
                    write(&mut conn, "PUT", &create, "value=x");
                    let read = conn.ask("GET", &format!("{key}?quorum=true"), "");
                    assert_eq!(read.status(), 200, "{}", read.text());
                });
            }
        });
        servers[leads].run();
    }
}
