//! Signals other than those that end a process that serves.
use rustix::process::Signal;
use std::net::TcpListener;
use tern_support::client::until;
use tern_support::fleet::{cluster, leader_of};
use tern_support::server::Server;

/// SIGUSR1 logs the state of the machine and a line for each peer, and changes nothing else.
#[test]
fn sigusr1_logs_the_state() {
    let servers = cluster(3, &[]);
    let leader = &servers[leader_of(&servers)];
    leader.signal(Signal::USR1);
    until("a line for each peer", || {
        let log = leader.log();
        let others = servers.iter().filter(|server| server.name != leader.name);
        let mut lines = others.map(|server| format!("state of {} (http://", server.name));
        let all = lines.all(|line| log.contains(&line));
        (all && log.contains("state: leader in term")).then_some(())
    });
    let log = leader.log();
    let line = log.lines().find(|line| line.contains("behind by"));
    assert!(line.is_some_and(|line| line.contains("heard")), "{log}");
    assert!(log.contains("0 watchers"), "{log}");
    assert_eq!(leader.client("GET", "/version", "").status(), 200);
}

/// SIGHUP without certificates changes nothing.
#[test]
fn sighup_without_certificates() {
    let mut server = Server::start(&[]);
    server.signal(Signal::HUP);
    server.wait_for_log("no certificate is set");
    assert_eq!(server.client("GET", "/version", "").status(), 200);
    assert!(server.terminate().success());
}

/// Waits until the process has changed what SIGTERM does to it.
fn heeds_sigterm(server: &Server) {
    let bit = 1 << (Signal::TERM.as_raw() - 1);
    until("SIGTERM does not end it at once", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).ok()?;
        let masks = status.lines().filter_map(|line| {
            let mask = line
                .strip_prefix("SigBlk:")
                .or(line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        });
        (masks.fold(0, |all, mask| all | mask) & bit != 0).then_some(())
    });
}

/// SIGTERM ends a machine that waits for its port, and one that looks for its cluster.
#[test]
fn sigterm_during_the_start() {
    let mut waits = Server::prepare(&[]);
    let taken = TcpListener::bind(waits.client_at()).expect("a free port");
    waits.spawn();
    heeds_sigterm(&waits);
    assert!(waits.terminate().success(), "{}", waits.log());
    drop(taken);

    let mut seeks = Server::prepare(&["-peers=127.0.0.1:1", "-max-retry-attempts=0"]);
    seeks.spawn();
    seeks.wait_for_log("no cluster found");
    assert!(seeks.terminate().success(), "{}", seeks.log());
}

/// A machine that misses its leader names the members to which it has no link, and a machine that
/// is given a client port for a peer port is told so.
#[test]
fn missing_members_and_mistaken_ports_are_named() {
    let mut servers = cluster(2, &[]);
    servers[1].kill();
    until("the missing member is named", || {
        let log = servers[0].log();
        log.contains("no link to node2 (http://").then_some(())
    });
    let client_port = format!("-peers=127.0.0.1:{}", servers[0].client_port);
    let mut mistaken = Server::prepare_as("node3", &[&client_port, "-max-retry-attempts=1"]);
    mistaken.spawn();
    assert!(!mistaken.ended().success());
    let log = mistaken.log();
    assert!(log.contains("a client port answers there"), "{log}");
}

/// `-compat 2`: a client changes how much is logged, as in etcd 2.x.
#[test]
fn a_client_sets_the_level_of_the_log() {
    let server = Server::start(&["-compat", "2"]);
    let set = |level: &str| {
        let body = format!("{{\"Level\":\"{level}\"}}");
        server.client("PUT", "/config/local/log", &body).status()
    };
    let configure = |size: u32| {
        let body = format!("{{\"activeSize\":{size}}}");
        let answer = server.peer("PUT", "/v2/admin/config", &body);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    assert_eq!((set("ERROR"), set("SOME")), (204, 400));
    configure(5);
    assert_eq!(set("info"), 204);
    configure(7);
    server.wait_for_log("cluster config: active size 7");
    let metrics = server.client("GET", "/metrics", "");
    let text = metrics.text();
    for (result, count) in [("success", 2), ("refused", 1)] {
        let line =
            format!("tern_requests_answered_total{{kind=\"other\",result=\"{result}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(!server.log().contains("active size 5"), "{}", server.log());
    server.wait_for_log("a client has set the level of the log to ERROR");
}
