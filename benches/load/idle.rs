//! The cost of idle clusters, without any client request: bytes and wake-ups a second.
//!
//! `cargo bench --bench idle` prints a table for 3, 5 and 9 machines with default settings, 20 s
//! each. `-- --seconds 20`, `--machines 3,5,9`. Each machine has a network namespace of its own.
//! Bytes are the Ethernet frames sent by all machines, by the counters of their devices. Wake-ups
//! are voluntary context switches of all threads. Start reading at `main`.
mod flags;

use flags::{numbers, read_flags};
use std::process::Command;
use std::time::Duration;
use tern_support::fleet::{leader_of, put, shows};
use tern_support::namespace;
use tern_support::net::Net;
use tern_support::server::Server;

/// How long a cluster is left alone before it is measured: until its heartbeats and pings are those
/// of an idle one.
const SETTLE: Duration = Duration::from_secs(6);

struct Settings {
    duration: Duration,
    machines: Vec<usize>,
}

/// The bytes sent by one machine, and its wake-ups, since its start.
#[derive(Clone, Copy)]
struct Cost {
    bytes: u64,
    wakeups: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !namespace::enter_program(&args) {
        return;
    }
    let settings = parse();
    println!(
        "| machines | bytes/s, all | wake-ups/s, leader | wake-ups/s, a follower | wake-ups/s, all |"
    );
    println!("|---|---|---|---|---|");
    let most = settings.machines.iter().copied().max();
    let net = Net::start(most.expect("a number of machines"));
    for count in settings.machines {
        row(&net, count, settings.duration);
    }
}

fn parse() -> Settings {
    let mut settings = Settings {
        duration: Duration::from_secs(20),
        machines: vec![3, 5, 9],
    };
    for (flag, value) in read_flags(&["--seconds", "--machines"]) {
        match flag.as_str() {
            "--seconds" => {
                settings.duration = Duration::from_secs(value.parse().expect("a number"));
            }
            _ => settings.machines = numbers(&value),
        }
    }
    settings
}

/// Measures a cluster of its own, and prints its row.
fn row(net: &Net, count: usize, duration: Duration) {
    let servers = net.cluster_of(count, &[]);
    put(&servers, "first", "one");
    for server in &servers {
        shows(server, "first", "one");
    }
    let leads = leader_of(&servers);
    std::thread::sleep(SETTLE);
    let before: Vec<Cost> = servers.iter().map(cost).collect();
    std::thread::sleep(duration);
    let after: Vec<Cost> = servers.iter().map(cost).collect();
    let seconds = duration.as_secs_f64();
    let wakeups = |at: usize| (after[at].wakeups - before[at].wakeups) as f64 / seconds;
    let all = 0..count;
    let total: f64 = all.clone().map(wakeups).sum();
    let bytes: u64 = all.map(|at| after[at].bytes - before[at].bytes).sum();
    println!(
        "| {count} | {:.0} | {:.1} | {:.1} | {total:.1} |",
        bytes as f64 / seconds,
        wakeups(leads),
        (total - wakeups(leads)) / (count - 1) as f64,
    );
}

fn cost(server: &Server) -> Cost {
    Cost {
        bytes: sent_bytes(server),
        wakeups: voluntary_switches(server.pid()),
    }
}

/// The bytes that the device of a machine's namespace has sent.
fn sent_bytes(server: &Server) -> u64 {
    let namespace = server.namespace.as_deref().expect("it has its own");
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", namespace, "cat", "/proc/net/dev"]);
    let output = ip.output().expect("ip, of iproute2");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, counters) = lines.find(|(name, _)| name.trim() == "eth0").expect("eth0");
    // The eight counters of received data come first.
    let sent = counters.split_whitespace().nth(8).expect("a counter");
    sent.parse().expect("a number")
}

/// How often the threads of a process gave the processor up, in all.
fn voluntary_switches(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut switches = 0;
    for thread in threads {
        let status = thread.expect("an entry").path().join("status");
        let text = std::fs::read_to_string(status).unwrap_or_default();
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += count.map_or(0, |count| count.trim().parse().expect("a number"));
    }
    switches
}
