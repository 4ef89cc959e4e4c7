//! `/metrics` shows the figures of the machine.
use std::collections::BTreeMap;
use tern_support::client::{Conn, until};
use tern_support::fleet;
use tern_support::server::Server;

/// The values by name, with labels.
fn metrics(server: &Server) -> BTreeMap<String, f64> {
    let answer = server.client("GET", "/metrics", "");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let text = answer.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_string(), value.parse().expect("a number"))
    };
    lines.map(value).collect()
}

#[test]
fn figures_follow_what_happens() {
    let server = Server::start(&[]);
    let before = metrics(&server);
    let mut conn = Conn::open(server.client_port);
    for number in 0..10 {
        conn.ask("PUT", &format!("/v2/keys/m/{number}"), "value=v");
    }
    for _ in 0..5 {
        conn.ask("GET", "/v2/keys/m/1", "");
    }
    let _watcher = Conn::watch(server.client_port, "/v2/keys/m?wait=true");
    let after = metrics(&server);
    let rise = |name: &str| after[name] - before[name];
    assert_eq!(rise("tern_http_requests_total{method=\"PUT\"}"), 10.0);
    // The five, and this one.
    assert_eq!(rise("tern_http_requests_total{method=\"GET\"}"), 6.0);
    assert_eq!(rise("tern_etcd_index"), 10.0);
    let writes = "tern_store_writes_total{action=\"set\",result=\"success\"}";
    assert_eq!(rise(writes), 10.0);
    assert_eq!(rise("tern_store_nodes"), 11.0, "and the directory");
    assert!(rise("tern_raft_applied_index") >= 10.0);
    assert_eq!(after["tern_watchers"], 1.0);
    assert_eq!(after["tern_is_leader"], 1.0);
    assert_eq!(after["tern_leader_changes_total"], 1.0);
    assert!(after["tern_client_connections"] >= 2.0);
    assert!(after["process_resident_memory_bytes"] > 1e6);
    assert!(!after.keys().any(|name| name.starts_with("etcd_")));
}

/// Each machine of a cluster shows its own figures, a standby too.
#[test]
fn every_machine_has_figures() {
    let mut servers = fleet::cluster(3, &["-compat", "2", "-cluster-active-size=3"]);
    let peers: Vec<u16> = servers.iter().map(|s| s.peer_port).collect();
    let mut standby = fleet::prepare(4, &peers, &["-compat", "2"]);
    standby.run();
    servers.push(standby);
    let of = |name: &str| -> Vec<Option<f64>> {
        let figures = servers.iter().map(metrics);
        figures.map(|figures| figures.get(name).copied()).collect()
    };
    let [one, zero] = [Some(1.0), Some(0.0)];
    until("the fourth is a standby", || {
        (of("tern_is_standby")[3] == one).then_some(())
    });
    until("all are up to date", || {
        let lag = |name: &str| of(&format!("tern_peer_lag_entries{{peer=\"{name}\"}}"))[0];
        (lag("node2") == zero && lag("node3") == zero).then_some(())
    });
    assert_eq!(of("etcd_server_has_leader"), [one, one, one, zero]);
    assert_eq!(of("etcd_server_is_leader"), [one, zero, zero, zero]);
    assert_eq!(of("tern_raft_term")[3], None, "it has no log");
}
