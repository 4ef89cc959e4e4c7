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
    conn.ask("PUT", "/v2/keys/m/1?prevExist=false", "value=v");
    conn.ask("GET", "/v2/keys/none", "");
    conn.ask("GET", "/v2/keys/m/1/below", "");
    let _watcher = Conn::watch(server.client_port, "/v2/keys/m?wait=true");
    let after = metrics(&server);
    let rise = |name: &str| after[name] - before[name];
    assert_eq!(rise("tern_http_requests_total{method=\"PUT\"}"), 11.0);
    // The seven, and this one.
    assert_eq!(rise("tern_http_requests_total{method=\"GET\"}"), 8.0);
    assert_eq!(rise("tern_etcd_index"), 10.0);
    let writes = "tern_store_writes_total{action=\"set\",result=\"success\"}";
    assert_eq!(rise(writes), 10.0);
    assert_eq!(rise("tern_store_nodes"), 11.0, "and the directory");
    assert!(rise("tern_raft_applied_index") >= 10.0);
    assert_eq!(after["tern_watchers"], 1.0);
    assert_eq!(after["tern_is_leader"], 1.0);
    assert_eq!(after["tern_leader_changes_total"], 1.0);
    assert!(after["tern_connections{port=\"client\"}"] >= 2.0);
    let answered = |kind: &str, result: &str| {
        rise(&format!(
            "tern_requests_answered_total{{kind=\"{kind}\",result=\"{result}\"}}"
        ))
    };
    assert_eq!(answered("put", "success"), 10.0);
    assert_eq!(answered("put", "refused"), 1.0);
    assert_eq!(answered("get", "success"), 5.0);
    assert_eq!(answered("get", "refused"), 2.0);
    assert_eq!(answered("watch", "success"), 1.0);
    for (method, code, count) in [("PUT", 412, 1.0), ("GET", 404, 1.0), ("GET", 400, 1.0)] {
        let name = format!("tern_http_errors_total{{method=\"{method}\",code=\"{code}\"}}");
        assert_eq!(after[&name], count, "{name}");
    }
    // The one that is answered now is not among them, and the one before was not among its own.
    assert_eq!(answered("other", "success"), 1.0);
    assert_eq!(
        rise("tern_request_duration_seconds_count{kind=\"put\"}"),
        11.0
    );
    assert!(rise("tern_request_duration_seconds_sum{kind=\"put\"}") > 0.0);
    stages_and_queues(&before, &after);
    assert!(!after.keys().any(|name| name.starts_with("etcd_")));
}

/// The stages of ten writes were timed, and the queues are within their bounds.
fn stages_and_queues(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    let rise = |name: &str| after[name] - before[name];
    for stage in ["sync", "commit", "apply"] {
        let name = format!("tern_{stage}_duration_seconds");
        let count = rise(&format!("{name}_count"));
        assert!(
            count >= 10.0 || stage == "sync" && count >= 1.0,
            "{name}: {count}"
        );
        assert!(after.contains_key(&format!("{name}_bucket{{le=\"+Inf\"}}")));
    }
    assert!(rise("tern_turn_cpu_seconds_count") >= 10.0);
    assert!(rise("tern_log_recorded_bytes_total") >= 10.0 * 80.0);
    assert_eq!(after["tern_healthy"], 1.0);
    assert_eq!(after["tern_log_lines_dropped_total"], 0.0);
    for queue in [
        "log",
        "uncommitted",
        "history",
        "forwarded",
        "clients",
        "proxied",
        "log_lines",
    ] {
        let bytes = after[&format!("tern_queue_bytes{{queue=\"{queue}\"}}")];
        let most = after[&format!("tern_queue_bytes_max{{queue=\"{queue}\"}}")];
        assert!(bytes <= most && most > 0.0, "{queue}: {bytes} of {most}");
    }
    assert!(after["process_resident_memory_bytes"] > 1e6);
}

/// The id of a member under `-compat 2`.
fn id(server: &Server) -> String {
    let own = server.client("GET", "/v2/stats/self", "").json();
    own["id"].as_str().expect("an id").to_string()
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
    assert_eq!(of("tern_role{role=\"standby\"}"), [zero, zero, zero, one]);
    until("the leader has heard the standby", || {
        (of("tern_standbys")[0] == one).then_some(())
    });
    assert_eq!(of("tern_peer_linked{peer=\"node3\"}")[..2], [one, one]);
    let followers = servers[1..3].iter().map(id);
    let (local, followers) = (id(&servers[0]), followers.collect::<Vec<_>>());
    for remote in followers {
        let labels = format!("{{Local=\"{local}\",Remote=\"{remote}\"}}");
        assert_eq!(of(&format!("etcd_network_active_peers{labels}"))[0], one);
    }
    servers[2].kill();
    let mut survivors = servers.iter();
    let leader = survivors.next().expect("the first");
    until("the leader misses the dead one", || {
        let silent_s = metrics(leader)["tern_peer_last_contact_seconds{peer=\"node3\"}"];
        (silent_s > 1.0).then_some(())
    });
    assert_eq!(metrics(leader)["tern_peer_linked{peer=\"node3\"}"], 0.0);
}
