//! `/metrics` and `dist/prometheus` as Prometheus itself reads them.
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tern_support::client::{Conn, until};
use tern_support::fleet::{self, Mode};
use tern_support::server::Server;
use tern_support::skip::{Need, lacks};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/prometheus");

/// Runs promtool; its complaints fail the test.
fn promtool(args: &[&str], input: &[u8]) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(FOLDER).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}{complaints}");
}

#[test]
fn the_rules_are_sound_and_fire_when_they_should() {
    if lacks(Need::Program("promtool")) {
        return;
    }
    promtool(&["check", "rules", "tern.rules.yml"], b"");
    promtool(&["test", "rules", "tern.rules.test.yml"], b"");
    promtool(&["check", "config", "prometheus.yml"], b"");
}

/// Each metric that a rule or the dashboard of Grafana names is served.
#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let servers = fleet::cluster(2, &[]);
    let served = servers[0].client("GET", "/metrics", "");
    let served = served.text();
    let mut names = 0;
    for file in ["tern.rules.yml", "grafana.json"] {
        let path = Path::new(FOLDER).join(file);
        let text = std::fs::read_to_string(path).expect("a file of dist");
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        for word in text.split(|c: char| !is_name(c)) {
            if word.starts_with("tern_") || word.starts_with("process_") {
                names += 1;
                let is_served = served.lines().any(|line| line.starts_with(word));
                assert!(is_served, "{file}: {word} is not served");
            }
        }
    }
    assert!(names > 40, "only {names} names were found");
}

/// A Prometheus that scrapes these machines. Ends with its value.
struct Prometheus {
    child: Child,
    at: SocketAddr,
    _home: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(servers: &[Server]) -> Prometheus {
        let home = tempfile::tempdir().expect("a folder");
        let targets: Vec<String> = servers.iter().map(|s| s.client_at().to_string()).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{FOLDER}/tern.rules.yml]\n\
             scrape_configs: [{{job_name: tern, static_configs: [{{targets: {targets:?}}}]}}]\n"
        );
        let file = home.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!(
            "--storage.tsdb.path={}",
            home.path().join("data").display()
        ));
        command.arg("--web.listen-address=127.0.0.1:0");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let at = loop {
            let line = lines.next().expect("it listens").expect("text");
            if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                break address.trim().parse().expect("an address");
            }
        };
        // Its further lines are read, so that it does not stand still.
        std::thread::spawn(move || lines.for_each(drop));
        Prometheus {
            child,
            at,
            _home: home,
        }
    }

    /// The value of a query with one result.
    fn value(&self, query: &str) -> Option<f64> {
        let target = format!("/api/v1/query?query={query}");
        let answer = Conn::try_open(self.at)?.try_ask("GET", &target, "")?;
        // It says 503 until it has started.
        let json = (answer.status() == 200).then(|| answer.json())?;
        json["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

#[test]
fn prometheus_scrapes_three_machines_and_a_standby() {
    if lacks(Need::Program("prometheus")) || lacks(Need::Program("promtool")) {
        return;
    }
    let mut servers = fleet::cluster(3, &["-cluster-active-size=3"]);
    let peers: Vec<u16> = servers.iter().map(|s| s.peer_port).collect();
    let mut standby = fleet::prepare(4, &peers, &[]);
    standby.spawn();
    until("the fourth is a standby", || match fleet::mode(&standby)? {
        Mode::Standby { to: Some(_) } => Some(()),
        Mode::Standby { to: None } | Mode::Peer { .. } => None,
    });
    servers.push(standby);
    for server in &servers {
        let scraped = server.client("GET", "/metrics", "");
        promtool(&["check", "metrics"], &scraped.body);
    }
    let prometheus = Prometheus::start(&servers);
    for (query, wanted) in [
        ("sum(up)", 4.0),
        ("sum(tern_healthy)", 4.0),
        ("sum(tern_is_leader)", 1.0),
        ("sum(tern_is_standby)", 1.0),
        ("max(tern_standbys)", 1.0),
        ("count(tern_peer_lag_entries)", 2.0),
        ("count(tern_sync_duration_seconds_count)", 4.0),
    ] {
        until(query, || (prometheus.value(query)? == wanted).then_some(()));
    }
    servers[2].kill();
    until("the dead one is noticed", || {
        let pending = prometheus.value("count(ALERTS{alertname=\"TernDown\"})")?;
        (pending == 1.0).then_some(())
    });
}
