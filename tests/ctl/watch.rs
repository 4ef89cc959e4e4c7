//! `watch` and `exec-watch`: nothing is missed, nothing comes twice, also over the death of a machine.
use crate::run::{at, ended, run, started, ternctl, url};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use tern_support::client::until;
use tern_support::fleet::{self, put};
use tern_support::server::Server;

/// The number of watchers that the machine has.
fn watchers(server: &Server) -> Option<u64> {
    let stats = server.client("GET", "/v2/stats/store", "").json();
    stats["watchers"].as_u64()
}

/// How many watches of the server have ended, with an event or without.
fn polls_ended(server: &Server) -> Option<u64> {
    let metrics = server.client("GET", "/metrics", "");
    let name = "tern_requests_answered_total{kind=\"watch\",result=\"success\"} ";
    let count = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(name));
    count?.parse().ok()
}

fn lines_of(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout)
        .lines()
        .map(|line| line.expect("UTF-8"))
}

#[test]
fn a_watch_prints_the_next_change_or_a_past_one() {
    let server = Server::start(&[]);
    let child = started(at(&server, &["watch", "/a"]));
    until("it watches", || {
        (watchers(&server) == Some(1)).then_some(())
    });
    run(&server, &["set", "/b", "other"]).text();
    run(&server, &["set", "/a", "one"]).text();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.stdout, b"one\n");
    let past = run(&server, &["watch", "-r", "/", "--after-index", "2"]).text();
    let words: Vec<&str> = past.split_whitespace().collect();
    assert_eq!(words[1..], ["set", "/b", "other"]);
}

#[test]
fn a_watch_goes_on_with_the_next_endpoint_and_misses_nothing() {
    let mut servers = fleet::cluster(3, &fleet::QUICK);
    let urls: Vec<String> = servers.iter().map(url).collect();
    let leader = fleet::leader_of(&servers);
    // The watch begins at the machine that is going to die.
    let mut order = urls.clone();
    order.swap(0, leader);
    let mut command = ternctl(&["watch", "-f", "/a"]);
    command.env("TERNCTL_ENDPOINTS", order.join(","));
    let mut child = started(command);
    until("it watches", || {
        (watchers(&servers[leader]) == Some(1)).then_some(())
    });
    let mut lines = lines_of(&mut child);
    for n in 0..50 {
        put(&servers, "a", &format!("v{n}"));
    }
    servers[leader].kill();
    servers.remove(leader);
    for n in 50..100 {
        put(&servers, "a", &format!("v{n}"));
    }
    for n in 0..100 {
        assert_eq!(lines.next(), Some(format!("v{n}")));
    }
    child.kill().expect("it runs");
    child.wait().expect("a child");
}

/// A machine that stands still, or a line that broke without a word, is given up after a poll.
#[test]
fn a_watch_outlives_a_machine_that_vanishes_without_an_end() {
    let servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    let gone = (leader + 1) % 3;
    let mut order: Vec<String> = servers.iter().map(url).collect();
    order.swap(0, gone);
    let mut command = ternctl(&["watch", "-f", "/a", "--timeout", "1"]);
    command.env("TERNCTL_ENDPOINTS", order.join(","));
    let mut child = started(command);
    until("it watches", || {
        (watchers(&servers[gone]) == Some(1)).then_some(())
    });
    let mut lines = lines_of(&mut child);
    servers[gone].signal(Signal::STOP);
    put(&servers[leader..=leader], "a", "1");
    assert_eq!(lines.next().as_deref(), Some("1"));
    servers[gone].signal(Signal::CONT);
    child.kill().expect("it runs");
    child.wait().expect("a child");
}

/// A poll that ends is followed by one from the index of its end on, however many other keys change.
#[test]
fn a_watch_goes_on_after_polls_without_an_event() {
    let server = Server::start(&[]);
    let mut child = started(at(&server, &["watch", "-f", "/a", "--timeout", "1"]));
    let mut lines = lines_of(&mut child);
    for n in 0..2 {
        until("it watches", || {
            (watchers(&server) == Some(1)).then_some(())
        });
        // More than the history holds.
        for _ in 0..1_100 {
            server.client("PUT", "/v2/keys/b", "value=1");
        }
        let before = polls_ended(&server).expect("it is counted");
        until("a poll ends", || {
            (polls_ended(&server)? > before).then_some(())
        });
        until("it watches", || {
            (watchers(&server) == Some(1)).then_some(())
        });
        server.client("PUT", "/v2/keys/a", &format!("value={n}"));
        assert_eq!(lines.next(), Some(n.to_string()));
    }
    child.kill().expect("it runs");
    let output = child.wait_with_output().expect("a child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "", "nothing was missed");
}

/// A watch of `keys` from the first change on that runs a shell script for each one.
fn exec_watch(server: &Server, keys: &[&str], script: &str) -> Command {
    let program = ["--after-index", "2", "--", "sh", "-c", script];
    at(server, &[&["exec-watch"], keys, &program].concat())
}

#[test]
fn a_program_runs_at_each_change() {
    let server = Server::start(&[]);
    let script = "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE; cat; echo; exit 3";
    let mut child = started(exec_watch(&server, &["-r", "/"], script));
    let mut lines = lines_of(&mut child);
    for (key, value) in [("/a", "1"), ("/b", "2")] {
        run(&server, &["set", key, value]).text();
        assert_eq!(lines.next(), Some(format!("set {key} {value}")));
        let json = lines.next().expect("a line");
        assert!(json.contains(&format!("\"key\":\"{key}\"")), "{json}");
    }
    child.kill().expect("it runs");
    child.wait().expect("a child");
    let missing = [
        "exec-watch",
        "/a",
        "--after-index",
        "2",
        "--",
        "/nowhere/program",
    ];
    let ended = ended(at(&server, &missing));
    let text = ended.failed(1);
    assert!(
        text.contains("/nowhere/program cannot be started: "),
        "{text}"
    );
}

/// Linux starts no program with a variable of more than 128 KiB.
#[test]
fn a_value_too_long_for_a_variable_is_on_stdin_only() {
    let server = Server::start(&[]);
    let script = "echo ${#ETCD_WATCH_VALUE}; cat; echo";
    let mut command = exec_watch(&server, &["/a"], script);
    command.env("ETCD_WATCH_VALUE", "that of another event");
    let mut child = started(command);
    let mut lines = lines_of(&mut child);
    let longest = 128 * 1024 - "ETCD_WATCH_VALUE=".len() - 1;
    for (length, in_variable) in [(longest, longest), (longest + 1, 0), (1 << 20, 0), (1, 1)] {
        let value = "v".repeat(length);
        server.client("PUT", "/v2/keys/a", &format!("value={value}"));
        assert_eq!(lines.next(), Some(in_variable.to_string()));
        let json = lines.next().expect("a line");
        assert!(json.contains(&format!("\"value\":\"{value}\"")), "{length}");
    }
    child.kill().expect("it runs");
    child.wait().expect("a child");
}
