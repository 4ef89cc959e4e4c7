//! Three built binaries on loopback: joining, redirects, leaders that die or stop, restarts,
//! removal, moving.
use crate::start::refused;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use tern_support::client::{Conn, form, request, until};
use tern_support::fleet::{
    Mode, ask, cluster, followed, leader, leader_of, listed, lists, mode, port_of, prepare, put,
    settled, shows, shows_all, votes,
};
use tern_support::server::Server;

/// A machine that is not admitted ends, as it does by default.
const IMPATIENT: &str = "-max-retry-attempts=3";

#[test]
fn three_machines_hold_the_same_and_followers_redirect() {
    let servers = cluster(3, &[]);
    put(&servers[..1], "a", "one");
    for server in &servers {
        shows(server, "a", "one");
    }
    let leads = leader_of(&servers);
    assert_eq!(leads, 0, "no machine had a reason to campaign");
    let follower = &servers[1];
    let to = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    for (method, path, body) in [
        ("PUT", "/v2/keys/a?prevExist=true", "value=two"),
        ("POST", "/v2/keys/dir", "value=two"),
        ("DELETE", "/v2/keys/a", ""),
        ("GET", "/v2/keys/a?consistent=true", ""),
    ] {
        let answer = follower.client(method, path, body);
        assert_eq!(answer.status(), 307, "{method} {path}");
        let location = answer.head.header("Location");
        let leader = to(servers[0].client_port, path);
        assert_eq!(location, Some(leader.as_str()), "{method} {path}");
    }
    for (method, path, body) in [
        ("DELETE", "/remove/nobody", ""),
        ("DELETE", "/v2/admin/machines/nobody", ""),
        ("PUT", "/v2/admin/config", "{}"),
        (
            "PUT",
            "/join",
            "{\"minVersion\":2,\"maxVersion\":2,\"name\":\"x\",\"raftURL\":\"http://x:1\",\"etcdURL\":\"http://x:2\"}",
        ),
    ] {
        let answer = follower.peer(method, path, body);
        assert_eq!(answer.status(), 307, "{method} {path}: {}", answer.text());
        let location = answer.head.header("Location");
        let leader = to(servers[0].peer_port, path);
        assert_eq!(location, Some(leader.as_str()), "{method} {path}");
    }
    let first = listed(&servers[0]);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["node1", "node2", "node3"]);
    for server in &servers {
        assert_eq!(listed(server), first);
        let machines = server.client("GET", "/v2/machines", "");
        let urls: Vec<&str> = machines.text().split(", ").collect();
        assert_eq!(urls.len(), 3);
        assert_eq!(urls[0], to(servers[0].client_port, ""));
        let keys = server.client("GET", "/v2/keys/_etcd/machines", "").json();
        assert_eq!(keys["node"]["nodes"].as_array().expect("a list").len(), 3);
    }
    assert_eq!(follower.client("GET", "/v2/stats/leader", "").status(), 403);
    statistics(&servers);
}

/// The first leads. Heartbeats count, so the figures move without writes.
fn statistics(servers: &[Server]) {
    let stats = |server: &Server, whose: &str| {
        server
            .client("GET", &format!("/v2/stats/{whose}"), "")
            .json()
    };
    let number = |json: &serde_json::Value| json.as_f64().unwrap_or(0.0);
    let before = stats(&servers[0], "leader");
    assert_eq!(before["leader"], "node1");
    until(
        "more appends are acknowledged, and their latencies shown",
        || {
            let now = stats(&servers[0], "leader");
            let moves = |name: &str| {
                let (old, new) = (&before["followers"][name], &now["followers"][name]);
                let more = number(&new["counts"]["success"]) > number(&old["counts"]["success"]);
                let latency = ["current", "average", "minimum", "maximum"]
                    .map(|what| number(&new["latency"][what]));
                more && latency.iter().all(|ms| *ms > 0.0)
                    && latency[2] <= latency[1]
                    && latency[1] <= latency[3]
            };
            (moves("node2") && moves("node3")).then_some(())
        },
    );
    for (server, way) in servers.iter().zip(["send", "recv", "recv"]) {
        until("rates are shown", || {
            let json = stats(server, "self");
            let rate = |what: &str| number(&json[format!("{way}{what}")]);
            let (packages, bytes) = (rate("PkgRate"), rate("BandwidthRate"));
            // The shortest append has 17 bytes.
            (packages > 0.0 && bytes >= 17.0 * packages).then_some(())
        });
    }
}

/// Whoever leads is killed, three times: what was acknowledged is there, on all, and the killed
/// come back.
#[test]
fn a_leader_that_dies() {
    let mut servers = cluster(3, &[]);
    let mut written = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            written += 1;
            put(&servers, &format!("key{written}"), &format!("v{written}"));
        }
        let dies = leader_of(&servers);
        servers[dies].kill();
        let rest: Vec<&Server> = (0..3).filter(|i| *i != dies).map(|i| &servers[i]).collect();
        leader(&rest);
        written += 1;
        put(&servers, &format!("key{written}"), &format!("v{written}"));
        servers[dies].run();
    }
    shows_all(&servers, written);
}

/// All are killed at once and come back with their first command lines, in another order.
#[test]
fn all_machines_die() {
    let mut servers = cluster(3, &[]);
    for number in 0..50 {
        put(&servers, &format!("key{number}"), &format!("v{number}"));
    }
    let before = listed(&servers[0]);
    for server in &mut servers {
        server.kill();
    }
    // Each alone cannot become ready: all start before the test waits for one.
    for server in servers.iter_mut().rev() {
        server.spawn();
    }
    for server in &mut servers {
        server.wait();
    }
    leader_of(&servers);
    put(&servers, "after", "all");
    for server in &servers {
        for number in 0..50 {
            shows(server, &format!("key{number}"), &format!("v{number}"));
        }
        shows(server, "after", "all");
        let places = |of: &BTreeMap<String, (String, String, String)>| -> Vec<(String, String)> {
            of.values().map(|m| (m.1.clone(), m.2.clone())).collect()
        };
        assert_eq!(places(&listed(server)), places(&before));
    }
}

/// One that comes when the beginning of the log is gone gets the snapshot, and comes back from what
/// it holds.
#[test]
fn a_late_joiner() {
    let mut servers = cluster(1, &["-snapshot-count=20"]);
    let mut conn = Conn::open(servers[0].client_port);
    let big = "x".repeat(2_000);
    for number in 0..400 {
        let key = format!("/v2/keys/key{}", number % 100);
        let body = format!("value=v{number}-{big}");
        assert!(conn.ask("PUT", &key, &body).status() < 300);
    }
    until("the log has let go of its beginning", || {
        (servers[0].snapshots().len() == 2).then_some(())
    });
    let mut late = prepare(2, &[servers[0].peer_port], &["-snapshot-count=20"]);
    late.run();
    shows(&late, "key99", &format!("v399-{big}"));
    shows(&late, "key0", &format!("v300-{big}"));
    late.kill();
    late.run();
    servers.push(late);
    put(&servers, "after", "x");
    shows(&servers[1], "after", "x");
    shows(&servers[1], "key99", &format!("v399-{big}"));
}

/// The leader hands over when it is asked to stop, and exits 0; a writer is meanwhile redirected to
/// the next one. (A request that meets the very end of the process finds its connection closed:
/// that is the one retry.)
#[test]
fn a_leader_that_is_stopped() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "one");
    let first = leader_of(&servers);
    let others: Vec<usize> = (0..3).filter(|i| *i != first).collect();
    let (mut port, spare) = (servers[first].client_port, servers[others[0]].client_port);
    servers[first].signal(rustix::process::Signal::TERM);
    let mut number = 0;
    let mut retries = 0;
    while port == servers[first].client_port || number < 200 {
        let conn = Conn::try_open(port);
        let body = format!("value={number}");
        let answer = conn.and_then(|mut c| c.try_ask("PUT", "/v2/keys/a", &body));
        match answer {
            None => {
                assert_eq!(port, servers[first].client_port, "only one machine ends");
                retries += 1;
                port = spare;
            }
            Some(answer) if answer.status() == 307 => {
                port = port_of(answer.head.header("Location").expect("a location"));
            }
            // A machine that has not heard of the new leader yet; it was only asked because a
            // connection was lost.
            Some(answer) if retries > 0 && answer.status() == 500 => {
                assert_eq!(answer.json()["errorCode"], 300);
            }
            Some(answer) => {
                assert!(answer.status() < 300, "write {number}: {}", answer.text());
                number += 1;
            }
        }
    }
    assert!(retries <= 1);
    let status = servers[first].ended();
    assert!(status.success(), "{status}");
    for place in others {
        shows(&servers[place], "a", &(number - 1).to_string());
    }
    servers[first].run();
    shows(&servers[first], "a", &(number - 1).to_string());
}

/// A removed machine sends its clients to the others; started again, it is let in as a new member.
#[test]
fn a_removed_machine_comes_back() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "one");
    let removed = followed(servers[1].peer_port, "DELETE", "/remove/node3", "");
    assert_eq!(removed.status(), 200);
    lists(&servers[0], 2);
    until("the removed machine redirects", || {
        let answer = servers[2].client("GET", "/v2/keys/a", "");
        (answer.status() == 307).then_some(())
    });
    let again = followed(servers[1].peer_port, "DELETE", "/remove/node3", "");
    assert_eq!(again.status(), 404);
    servers[2].kill();
    put(&servers[..2], "a", "two");
    servers[2].run();
    shows(&servers[2], "a", "two");
    lists(&servers[0], 3);
    // It is no less a member than the others: the cluster goes on with it and one of them.
    until("it follows like any other", || {
        put(&servers[..2], "a", "more");
        let stats = servers[0].client("GET", "/v2/stats/leader", "");
        let json = stats.json();
        (json["followers"]["node3"]["counts"]["success"].as_u64() > Some(20)).then_some(())
    });
    votes(&servers[0], 3);
    servers[1].kill();
    put(&servers, "a", "three");
    shows(&servers[2], "a", "three");
}

/// One that was away when it was removed hears of it from its peers, and comes back as a new member
/// as well.
#[test]
fn a_machine_that_is_removed_while_it_is_away() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "one");
    servers[2].kill();
    let removed = followed(servers[1].peer_port, "DELETE", "/remove/node3", "");
    assert_eq!(removed.status(), 200);
    put(&servers[..2], "a", "two");
    servers[2].run();
    shows(&servers[2], "a", "two");
    lists(&servers[0], 3);
}

/// Five machines go on without two of them, one of which led, whichever they are.
#[test]
fn two_of_five_die() {
    let mut servers = cluster(5, &[]);
    let mut written = 0;
    for _ in 0..3 {
        let first = leader_of(&servers);
        let second = (first + 2) % 5;
        servers[first].kill();
        servers[second].kill();
        for _ in 0..20 {
            written += 1;
            put(&servers, &format!("key{written}"), &format!("v{written}"));
        }
        servers[first].spawn();
        servers[second].spawn();
        servers[first].wait();
        servers[second].wait();
    }
    for server in &servers {
        for number in 1..=written {
            shows(server, &format!("key{number}"), &format!("v{number}"));
        }
        lists(server, 5);
    }
    let all = until("they agree", || settled(&servers));
    assert_eq!(all, (vec![0, 1, 2, 3, 4], vec![]));
}

/// A machine whose data is gone is let in again in place of its former self, once that is silent.
#[test]
fn a_machine_that_lost_its_data() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "one");
    servers[2].kill();
    std::fs::remove_dir_all(servers[2].data_dir()).expect("a directory");
    servers[2].run();
    shows(&servers[2], "a", "one");
    lists(&servers[0], 3);
}

/// Machines that are started with other addresses tell the cluster: one that follows, and the one
/// that leads.
#[test]
fn machines_that_move() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "one");
    for moves in [2, leader_of(&servers)] {
        servers[moves].kill();
        let spare = Server::prepare(&[]);
        servers[moves].client_port = spare.client_port;
        servers[moves].peer_port = spare.peer_port;
        servers[moves].run();
        let name = format!("node{}", moves + 1);
        let place = (
            format!("http://127.0.0.1:{}", spare.client_port),
            format!("http://127.0.0.1:{}", spare.peer_port),
        );
        for server in &servers {
            until("the new addresses are listed", || {
                let found = listed(server).remove(&name)?;
                ((found.1, found.2) == place).then_some(())
            });
        }
        leader_of(&servers);
        put(&servers, "a", &name);
        for server in &servers {
            shows(server, "a", &name);
        }
    }
}

/// A machine that is started with the peer address of another member exits.
#[test]
fn an_address_of_another() {
    let mut servers = cluster(3, &[]);
    servers[2].kill();
    let mut taken = servers[2].command(&servers[2].data_dir());
    taken.args(["-peer-addr", &format!("127.0.0.1:{}", servers[1].peer_port)]);
    let bind = format!("127.0.0.1:{}", servers[2].peer_port);
    taken.args(["-peer-bind-addr", &bind]);
    refused(taken, &["node2", "peer address", "-peer-addr"]);
    servers[2].run();
    put(&servers, "a", "one");
    shows(&servers[2], "a", "one");
}

#[test]
fn machines_that_are_not_admitted() {
    let servers = cluster(3, &["-cluster-active-size=3"]);
    let peers = [servers[1].peer_port];
    let mut fourth = prepare(4, &peers, &[]);
    fourth.spawn();
    until("it waits for room", || {
        matches!(mode(&fourth), Some(Mode::Standby { .. })).then_some(())
    });
    until("it listens", || Conn::try_open(fourth.peer_port));
    assert_eq!(fourth.peer("GET", "/v2/admin/machines", "").status(), 404);
    assert_eq!(fourth.client("GET", "/v2/keys/a", "").status(), 307);
    // It asks again, and finds room.
    let config = followed(
        servers[1].peer_port,
        "PUT",
        "/v2/admin/config",
        "{\"activeSize\":4}",
    );
    assert_eq!(config.status(), 200);
    // A name in use is refused to another machine.
    let twin = prepare(2, &peers, &[IMPATIENT]);
    refused(twin.command(&twin.data_dir()), &["attempts", "109"]);
    until("it is admitted", || {
        matches!(mode(&fourth), Some(Mode::Peer { .. })).then_some(())
    });
    lists(&servers[0], 4);
    put(&servers, "a", "one");
    shows(&fourth, "a", "one");
}

/// A machine that is not admitted says what is taken, by which member, and the flag to change.
#[test]
fn a_refused_join_names_its_reason_and_the_flag() {
    let mut servers = cluster(3, &[]);
    let peers = [servers[0].peer_port];
    let taken_by = |server: &Server| format!("http://{}", server.peer_at());
    let twin = prepare(2, &peers, &[IMPATIENT]);
    let reason = ["109", "the name node2", &taken_by(&servers[1]), "-name"];
    refused(twin.command(&twin.data_dir()), &reason);
    // The member is down, and another machine is started at its address.
    servers[1].kill();
    let mut squatter = prepare(4, &peers, &[IMPATIENT]);
    squatter.peer_port = servers[1].peer_port;
    let reason = ["109", &taken_by(&servers[1]), "node2", "-peer-addr"];
    refused(squatter.command(&squatter.data_dir()), &reason);
    // No other machine can dial this one.
    let mut anywhere = prepare(5, &peers, &[IMPATIENT]);
    anywhere.host = Ipv4Addr::UNSPECIFIED;
    let reason = ["cannot reach http://0.0.0.0", "set -peer-addr"];
    refused(anywhere.command(&anywhere.data_dir()), &reason);
}

/// A list that names only this machine still means to join; so does one of machines that are not
/// there.
#[test]
fn no_machine_to_join() {
    let alone = Server::prepare(&["-retry-interval=0.05"]);
    let mut command = alone.command(&alone.data_dir());
    command.arg(format!("-peers=127.0.0.1:{}", alone.peer_port));
    refused(command, &["names no other machine"]);
    let other = Server::prepare(&[]);
    let mut command = alone.command(&alone.data_dir());
    command.arg(format!("-peers=127.0.0.1:{}", other.peer_port));
    refused(command, &["after 3 attempts", &other.peer_port.to_string()]);
    // Nothing was begun in the directory.
    let mut command = alone.command(&alone.data_dir());
    command.arg(format!("-peers=127.0.0.1:{}", other.peer_port));
    command.arg("-max-retry-attempts=1");
    refused(command, &["after 1 attempts"]);
}

/// A cluster of etcd (no `Server: tern`) is asked for its version and its machines and never to let
/// tern in; and no client can connect to a machine that was not admitted.
#[test]
fn a_peer_that_is_not_tern() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let joins = prepare(2, &[port], &[]);
    let ports = [joins.client_port, joins.peer_port];
    let etcd = std::thread::spawn(move || {
        let mut asked = String::new();
        for body in ["2", "[]"] {
            let (mut stream, _) = listener.accept().expect("a visitor");
            for port in ports {
                assert!(Conn::try_open(port).is_none(), "it listens");
            }
            let mut head = [0; 1024];
            let count = stream.read(&mut head).expect("a request");
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).expect("a reader");
            asked += &String::from_utf8_lossy(&head[..count]);
        }
        listener.set_nonblocking(true).expect("a socket option");
        (asked, listener)
    });
    let mut command = joins.command(&joins.data_dir());
    command.arg("-max-retry-attempts=1");
    refused(command, &["knows no leader"]);
    let (asked, listener) = etcd.join().expect("the answering thread");
    assert!(
        asked.starts_with("GET /version ") && asked.contains("GET /v2/admin/machines "),
        "{asked}"
    );
    assert!(listener.accept().is_err(), "it is asked for no more");
}

/// While all of a cluster are down one of its addresses passes to another cluster: whoever comes up
/// believes nothing that is listed there, and keeps what it holds.
#[test]
fn an_address_that_is_another_clusters() {
    let quick = ["-peer-heartbeat-interval=20", "-peer-election-timeout=100"];
    let mut servers = cluster(2, &quick);
    put(&servers, "a", "one");
    shows(&servers[1], "a", "one");
    servers.iter_mut().for_each(Server::kill);
    let mut other = Server::prepare_as("other", &[]);
    other.peer_port = servers[0].peer_port;
    other.run();
    servers[1].spawn();
    servers[1].wait_for_log("is of another cluster");
    // Long enough for a second question, had the first one counted.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let log = servers[1].log();
    assert!(
        !log.contains("standby") && !log.contains("not list"),
        "{log}"
    );
    other.kill();
    servers[0].run();
    shows(&servers[0], "a", "one");
    shows(&servers[1], "a", "one");
    put(&servers, "a", "two");
    lists(&servers[0], 2);
}

/// A cluster of etcd that lists its members: tern is its standby, before and after a restart, and
/// never asks to join.
#[test]
fn a_standby_of_what_is_not_tern() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let list = format!(
        r#"[{{"name":"x","state":"leader","clientURL":"http://x:4001","peerURL":"http://127.0.0.1:{port}"}}]"#
    );
    let etcd = std::thread::spawn(move || {
        let mut asked = Vec::new();
        // Five fetches of a machine that starts three times: the last ones would come with a
        // request to join.
        while asked
            .iter()
            .filter(|a: &&String| a.starts_with("GET /v2/admin/config "))
            .count()
            < 5
        {
            let (mut stream, _) = listener.accept().expect("a visitor");
            let mut head = [0; 1024];
            let count = stream.read(&mut head).expect("a request");
            if count == 0 {
                // The machine was stopped before it had asked.
                continue;
            }
            let request = String::from_utf8_lossy(&head[..count]).into_owned();
            let body = match request.split(' ').nth(1) {
                Some("/v2/admin/machines") => list.as_str(),
                Some("/v2/admin/config") => {
                    r#"{"activeSize":9,"removeDelay":1800,"syncInterval":1}"#
                }
                _ => "2",
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).expect("a reader");
            asked.push(request);
        }
        asked
    });
    let mut tern = prepare(2, &[port], &[]);
    for _ in 0..2 {
        tern.spawn();
        until("it listens", || Conn::try_open(tern.client_port));
        until("it redirects", || {
            let answer = tern.client("PUT", "/v2/keys/a?prevExist=true", "value=x");
            let to = answer.head.header("Location");
            (to == Some("http://x:4001/v2/keys/a?prevExist=true")).then_some(())
        });
        assert_eq!(tern.peer("OPTIONS", "/", "").status(), 404);
        let said = ["not tern", "standby, as before"]
            .iter()
            .any(|text| tern.log().contains(text));
        assert!(said, "{}", tern.log());
        assert!(tern.terminate().success());
    }
    tern.spawn();
    let asked = etcd.join().expect("the answering thread");
    assert!(asked.iter().all(|a| a.starts_with("GET ")), "{asked:?}");
    tern.kill();
    // What a standby knows is not thrown away in silence, and it is no new machine either.
    std::fs::write(tern.data_dir().join("standby_info"), "{\"running\":tr").expect("a directory");
    refused(
        tern.command(&tern.data_dir()),
        &["standby_info is damaged", "-f"],
    );
}

#[test]
fn traced_machines_have_the_page_of_0_4() {
    let server = Server::start(&["-trace=*"]);
    for page in ["/metrics", "/debug/metrics"] {
        let answer = ask(server.client_at(), "GET", page, "").expect("it listens");
        assert_eq!(answer.status(), 200, "{page}");
        assert!(answer.text().contains("tern_raft_term "), "{page}");
    }
}

/// tern as the discovery service of another cluster: the first that comes starts it, the others
/// join.
#[test]
fn machines_that_find_each_other() {
    let mut service = Server::start(&[]);
    let url = format!("http://127.0.0.1:{}/v2/keys/found", service.client_port);
    let flag = format!("-discovery={url}");
    let mut servers: Vec<Server> = Vec::new();
    for number in 1..=3 {
        servers.push(prepare(number, &[], &[&flag]));
    }
    // All at once: one of them takes the lead.
    for server in &mut servers {
        server.spawn();
    }
    for server in &mut servers {
        server.wait();
    }
    put(&servers, "a", "one");
    for server in &servers {
        shows(server, "a", "one");
        lists(server, 3);
    }
    let list = service.client("GET", "/v2/keys/found", "").json();
    let nodes = list["node"]["nodes"].as_array().expect("a list").clone();
    for server in &servers {
        let value = format!("http://127.0.0.1:{}", server.peer_port);
        let node = nodes.iter().find(|n| n["value"] == value.as_str());
        let ttl = node.expect("it is registered")["ttl"].as_i64();
        assert!(ttl > Some(604_000), "{ttl:?}");
    }
    // A machine with a log needs no service.
    servers[2].kill();
    service.kill();
    servers[2].run();
    put(&servers, "a", "two");
    shows(&servers[2], "a", "two");
    // Without a log, peers suffice; without log and peers it cannot start.
    let peers = [servers[0].peer_port];
    let mut fourth = prepare(4, &peers, &[&flag]);
    fourth.run();
    shows(&fourth, "a", "two");
    let fifth = prepare(5, &[], &[&flag, IMPATIENT]);
    refused(
        fifth.command(&fifth.data_dir()),
        &["discovery service", &url],
    );
}

/// A service that accepts connections and never answers, and one that answers without JSON.
#[test]
fn a_discovery_service_that_is_none() {
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = hangs.local_addr().expect("bound").port();
    let flag = format!("-discovery=http://127.0.0.1:{port}/v2/keys/x");
    let alone = prepare(1, &[], &[&flag, IMPATIENT]);
    refused(alone.command(&alone.data_dir()), &["discovery service"]);
    let server = Server::start(&[]);
    let flag = format!("-discovery=http://127.0.0.1:{}/version", server.client_port);
    let alone = prepare(1, &[], &[&flag, IMPATIENT]);
    refused(
        alone.command(&alone.data_dir()),
        &["discovery service", "JSON"],
    );
}

/// A watch on a follower reports writes to the leader.
#[test]
fn a_watch_on_a_follower() {
    let servers = cluster(3, &[]);
    let mut watch = Conn::watch(servers[2].client_port, "/v2/keys/w?wait=true&stream=true");
    for number in 0..10 {
        put(&servers[1..2], "w", &number.to_string());
        let event = watch.event().expect("an event");
        assert_eq!(event["node"]["value"], number.to_string());
    }
    let bytes = form("PUT", "/v2/keys/w", "value=x");
    let mut conn = Conn::open(servers[2].client_port);
    conn.send(&bytes);
    assert_eq!(conn.answer().status(), 307);
    conn.send(&request("GET", "/v2/keys/w", &[], b""));
    assert_eq!(conn.answer().json()["node"]["value"], "9");
}
