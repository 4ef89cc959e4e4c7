//! Which machine is a member: copies of a data directory, members whose addresses change, and
//! machines that have no business at a peer port.
use std::time::{Duration, Instant};
use tern_support::client::{Conn, until};
use tern_support::copy_folder;
use tern_support::fleet::{cluster, leader_of, listed, prepare, put, shows};
use tern_support::server::Server;

/// The peer URL that the list has for a name.
fn listed_url(asked: &Server, name: &str) -> Option<String> {
    listed(asked).get(name).map(|entry| entry.2.clone())
}

/// Waits until each of them shows this value of the key `a`.
fn all_show(servers: &[Server], value: &str) {
    for server in servers {
        shows(server, "a", value);
    }
}

fn peer_url(server: &Server) -> String {
    format!("http://{}", server.peer_at())
}

/// The copy of a member's data directory is started at another address while the original runs: the
/// copy exits, and the original stays the member.
#[test]
fn protocol_09_a_copied_data_directory() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    let name = servers[2].name.clone();
    let mut twin = prepare(3, &[servers[0].peer_port], &[]);
    servers[2].terminate();
    copy_folder(&servers[2].data_dir(), &twin.data_dir());
    servers[2].run();
    all_show(&servers, "1");
    twin.spawn();
    let status = twin.ended();
    assert_eq!(status.code(), Some(1), "{}", twin.log());
    let original = peer_url(&servers[2]);
    assert!(twin.log().contains(&original), "{}", twin.log());
    assert_eq!(listed_url(&servers[0], &name), Some(original));
    put(&servers, "a", "2");
    shows(&servers[2], "a", "2");
    // It wiped nothing.
    assert!(twin.data_dir().join("standby_info").metadata().is_err());
}

/// All machines come back with other addresses, each with a list of the new ones.
#[test]
fn protocol_10_all_addresses_change() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    all_show(&servers, "1");
    let mut moved = Vec::new();
    for server in &mut servers {
        server.terminate();
        let target = prepare(moved.len() + 1, &[], &[]);
        copy_folder(&server.data_dir(), &target.data_dir());
        moved.push(target);
    }
    let ports: Vec<u16> = moved.iter().map(|server| server.peer_port).collect();
    for server in &mut moved {
        let others = ports.iter().filter(|port| **port != server.peer_port);
        let others: Vec<String> = others.map(|port| format!("127.0.0.1:{port}")).collect();
        server.args.push(format!("-peers={}", others.join(",")));
        server.spawn();
    }
    for server in &mut moved {
        server.wait();
    }
    leader_of(&moved);
    put(&moved, "a", "2");
    all_show(&moved, "2");
    until("the list has the new addresses", || {
        let mut all = moved.iter();
        let is_listed = |s: &Server| listed_url(&moved[0], &s.name) == Some(peer_url(s));
        all.all(is_listed).then_some(())
    });
}

/// Two members exchange their addresses, while the third one runs.
#[test]
fn protocol_10_two_members_exchange_their_addresses() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    all_show(&servers, "1");
    let ports = |server: &Server| (server.client_port, server.peer_port);
    let (first, second) = (ports(&servers[1]), ports(&servers[2]));
    servers[1].terminate();
    servers[2].terminate();
    (servers[1].client_port, servers[1].peer_port) = second;
    (servers[2].client_port, servers[2].peer_port) = first;
    for server in &mut servers[1..] {
        server.args.retain(|arg| !arg.starts_with("-peers="));
        server.spawn();
    }
    for server in &mut servers[1..] {
        server.wait();
    }
    put(&servers, "a", "2");
    until("the list has the exchanged addresses", || {
        let mut all = servers.iter();
        let is_listed = |s: &Server| listed_url(&servers[0], &s.name) == Some(peer_url(s));
        all.all(is_listed).then_some(())
    });
    all_show(&servers, "2");
}

/// A machine of another cluster has the address of a member that is gone. The member's cluster dials
/// it, and neither log grows with that.
#[test]
fn protocol_08_a_machine_of_another_cluster_at_a_members_address() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    let gone = servers.pop().expect("three");
    // The member that is left has no leader, and looks for its place again and again.
    let down = servers.pop().expect("two");
    let (client_port, peer_port) = (gone.client_port, gone.peer_port);
    let began = Instant::now();
    drop((gone, down));
    let mut other = Server::prepare_as("other", &[]);
    other.client_port = client_port;
    other.peer_port = peer_port;
    other.run();
    let refusals = |server: &Server| {
        let log = server.log();
        let about = |line: &&str| line.contains("refused") || line.contains("ignoring an address");
        log.lines().filter(about).count()
    };
    until("it has been dialled", || {
        let dialled = servers.iter().all(|server| refusals(server) > 0);
        (dialled && refusals(&other) > 0).then_some(())
    });
    // It is dialled at least once a second, and found by each search, one in two seconds.
    std::thread::sleep(Duration::from_secs(7));
    let logged: Vec<usize> = servers.iter().chain([&other]).map(refusals).collect();
    // Three kinds of lines, each at most once in ten seconds.
    let most = 3 * (1 + began.elapsed().as_secs() as usize / 10);
    assert!(logged.iter().all(|lines| *lines <= most), "{logged:?}");
    assert_eq!(other.client("GET", "/v2/keys/a", "").status(), 404);
}

/// A stranger that keeps asking gets a code and nothing else, and few lines of the log.
#[test]
fn protocol_08_a_stranger_at_the_peer_port() {
    let server = Server::start(&[]);
    let before = server.log().lines().count();
    let hello = "from=7; process=1; incarnation=1; cluster=5; name=%1b%5b2J; \
                 peer=http%3A%2F%2Fa%3A1; client=http%3A%2F%2Fa%3A2";
    for noise in [hello, "rubbish", ""] {
        for _ in 0..100 {
            let mut conn = Conn::open(server.peer_at());
            let request = format!(
                "GET /raft HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tern-raft/6\r\n\
                 Tern-Hello: {noise}\r\n\r\n"
            );
            conn.send(request.as_bytes());
            let answer = conn.answer();
            assert!(matches!(answer.status(), 400 | 403), "{}", answer.text());
            let code = answer.text().trim().to_string();
            assert!(matches!(&*code, "denied" | "malformed"), "{code}");
        }
    }
    let lines = server.log().lines().count() - before;
    assert!(lines <= 3, "{}", server.log());
    assert!(!server.log().contains("[2J"), "a stranger's text");
    assert_eq!(server.client("PUT", "/v2/keys/a", "value=1").status(), 201);
}
