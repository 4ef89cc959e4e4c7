//! Three machines of either kind on this host: load on the leader, the leader killed, the leader
//! asked to stop.
//!
//! Every machine has a data directory of its own beside the build, so all share one disk and the
//! host's cores with this program. Start reading at `report`; what a cluster is stands in
//! `Cluster`.
use crate::driver::{Load, Mode, get_request, put_request, run};
use crate::table::{alternate, median};
use crate::{Kind, free_port, names, probe_disk, proc};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tern_support::client::{Answer, Conn};
use tern_support::fleet::at_of;

const MACHINES: usize = 3;
/// Longest wait for anything a healthy cluster does.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a client that can ask another machine waits for an answer: more than a write takes, less
/// than an election.
const IMPATIENCE: Duration = Duration::from_millis(50);
/// Writers that go on while the leader is asked to stop.
const WRITERS: usize = 4;

pub struct Member {
    pub client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

/// Machines of one kind. A drop ends the processes.
pub struct Cluster {
    kind: Kind,
    directory: tempfile::TempDir,
    pub members: Vec<Member>,
    /// Further arguments of each.
    args: Vec<String>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|m| m.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn ask(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    Conn::impatient(address, Duration::from_secs(1))?.try_exchange(request)
}

/// Where an answer sends its client.
fn location(answer: &Answer) -> Option<SocketAddr> {
    answer.head.header("Location").map(at_of)
}

impl Cluster {
    pub fn start(kind: Kind) -> Cluster {
        Cluster::start_with(kind, MACHINES, &[])
    }

    pub fn start_with(kind: Kind, machines: usize, args: &[&str]) -> Cluster {
        let local = |_| SocketAddr::from(([127, 0, 0, 1], free_port()));
        let members = (0..machines)
            .map(|i| Member {
                client: local(i),
                peer: local(i),
                child: None,
            })
            .collect();
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("a directory beside the build, on its disk");
        let args = args.iter().map(|a| a.to_string()).collect();
        let mut cluster = Cluster {
            kind,
            directory,
            members,
            args,
        };
        for i in 0..machines {
            cluster.run(i);
            if kind.is_tern() {
                // Each joins through the first.
                let client = cluster.members[0].client;
                until("a machine serves", || {
                    ask(client, &get_request("/", "")).filter(|a| a.status() == 200)
                });
            }
        }
        cluster.settle();
        cluster
    }

    fn command(&self, i: usize) -> Command {
        let (client, peer) = (
            self.members[i].client.to_string(),
            self.members[i].peer.to_string(),
        );
        let (name, data) = (
            format!("node{i}"),
            self.directory.path().join(format!("node{i}")),
        );
        match self.kind {
            Kind::Tern | Kind::Former => {
                let mut c = Command::new(self.kind.program());
                c.args([
                    "-name",
                    &name,
                    "-addr",
                    &client,
                    "-peer-addr",
                    &peer,
                    "-data-dir",
                ])
                .arg(data);
                if i > 0 {
                    c.args(["-peers", &self.members[0].peer.to_string()]);
                }
                c.args(&self.args);
                c
            }
            Kind::Etcd => {
                let (url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
                let all = self
                    .members
                    .iter()
                    .enumerate()
                    .map(|(i, m)| format!("node{i}=http://{}", m.peer));
                let mut c = Command::new(std::env::var("ETCD").unwrap_or("etcd".into()));
                c.args([
                    "--enable-v2",
                    "--name",
                    &name,
                    "--listen-client-urls",
                    &url,
                    "--advertise-client-urls",
                    &url,
                ]);
                c.args([
                    "--listen-peer-urls",
                    &peer_url,
                    "--initial-advertise-peer-urls",
                    &peer_url,
                ]);
                c.args([
                    "--initial-cluster",
                    &all.collect::<Vec<_>>().join(","),
                    "--data-dir",
                ])
                .arg(data);
                c
            }
        }
    }

    fn run(&mut self, i: usize) {
        let mut command = self.command(i);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let kind = self.kind;
        self.members[i].child =
            Some(child.unwrap_or_else(|e| panic!("{kind:?} does not start: {e}")));
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members
            .iter()
            .filter_map(|m| m.child.as_ref())
            .map(Child::id)
            .collect()
    }

    /// The machine that reports itself as leader.
    pub fn leader(&self) -> usize {
        let leads = |m: &Member| {
            let answer = ask(
                m.client,
                b"GET /v2/stats/self HTTP/1.1\r\nHost: load\r\n\r\n",
            )?;
            let says = |state: &str| answer.text().contains(&format!("\"state\":\"{state}\""));
            (says("leader") || says("StateLeader")).then_some(())
        };
        until("there is a leader", || {
            let running = |m: &Member| m.child.is_some() && leads(m).is_some();
            self.members.iter().position(running)
        })
    }

    /// Waits until every machine shows what was just written to the leader, and a little longer:
    /// until all vote.
    pub fn settle(&self) {
        // A length that no earlier call has written.
        static CALLS: AtomicUsize = AtomicUsize::new(1);
        let bytes = CALLS.fetch_add(1, Ordering::Relaxed);
        let request = put_request("/settled", bytes);
        until("the leader acknowledges", || {
            let leader = self.leader();
            ask(self.members[leader].client, &request).filter(|a| a.status() < 300)
        });
        let wanted = format!("\"value\":\"{}\"", "x".repeat(bytes));
        for member in &self.members {
            until("a machine has caught up", || {
                ask(member.client, &get_request("/settled", ""))
                    .filter(|a| a.text().contains(&wanted))
            });
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Waits until a machine that was asked to end is gone.
    fn wait_for_end(&mut self, i: usize) {
        let mut child = self.members[i].child.take().expect("it runs");
        child.wait().expect("it ends");
    }

    pub fn signal(&self, i: usize, signal: rustix::process::Signal) {
        let child = self.members[i].child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }
}

// -- load

/// Writes to the machine at `target` of a cluster that `leader` leads. CPU of all three a PUT in
/// microseconds, PUTs a second, p99 in microseconds, resident memory of all three in MB.
fn measure(
    cluster: &Cluster,
    (leader, target): (usize, usize),
    connections: usize,
    duration: Duration,
) -> Vec<f64> {
    let kind = cluster.kind;
    let load = Load {
        address: cluster.members[target].client,
        mode: Mode::Put,
        connections,
        duration,
        requests_max: u64::MAX,
        value_bytes: 64,
        keys: 10_000,
    };
    let used = || -> f64 {
        cluster
            .pids()
            .iter()
            .map(|p| proc::cpu_time(*p).expect("it runs").as_secs_f64())
            .sum()
    };
    let before = used();
    let report = run(&load).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
    let cpu = used() - before;
    assert_eq!(cluster.leader(), leader, "the leader has stayed");
    let resident: u64 = cluster
        .pids()
        .iter()
        .map(|p| proc::resident_bytes(*p).expect("it runs"))
        .sum();
    let p99 = report.latency.value_at_quantile(0.99) as f64;
    vec![
        cpu * 1e6 / report.requests as f64,
        report.per_second(),
        p99,
        resident as f64 / 1e6,
    ]
}

// -- failover

/// Writes to one machine until it acknowledges, and reports the time.
fn write_until_acknowledged(address: SocketAddr, done: &AtomicBool, said: &Sender<Instant>) {
    let request = put_request("/failover", 64);
    while !done.load(Ordering::Relaxed) {
        let mut target = address;
        // Once from the machine asked to where it sends us.
        for _ in 0..2 {
            let conn = Conn::impatient(target, IMPATIENCE);
            let Some(answer) = conn.and_then(|mut conn| conn.try_exchange(&request)) else {
                break;
            };
            if answer.status() < 300 {
                let _ = said.send(Instant::now());
                return;
            }
            let Some(other) = location(&answer) else {
                break;
            };
            target = other;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Milliseconds from `kill -9` of the leader to the next acknowledged write, with one client at
/// each of the others.
fn failover(cluster: &mut Cluster) -> f64 {
    let leader = cluster.leader();
    let others = cluster
        .members
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != leader);
    let others: Vec<SocketAddr> = others.map(|(_, m)| m.client).collect();
    let (sender, receiver) = channel();
    let done = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        cluster.signal(leader, rustix::process::Signal::KILL);
        let killed = Instant::now();
        for address in others {
            let (sender, done) = (sender.clone(), &done);
            scope.spawn(move || write_until_acknowledged(address, done, &sender));
        }
        let acknowledged = receiver
            .recv_timeout(PATIENCE)
            .expect("there is a new leader in time");
        done.store(true, Ordering::Relaxed);
        acknowledged - killed
    });
    cluster.wait_for_end(leader);
    cluster.run(leader);
    cluster.settle();
    took.as_secs_f64() * 1e3
}

// -- hand-over

/// What one writer saw: when each write was acknowledged and how many further attempts it took.
#[derive(Default)]
pub struct Seen {
    pub acknowledged: Vec<Instant>,
    pub retries_max: usize,
}

/// Writes one after the other, and goes where it is sent; without an answer it asks the next
/// machine.
pub fn write_on(
    all: &[SocketAddr],
    first: usize,
    requests: &[Box<[u8]>],
    done: &AtomicBool,
) -> Seen {
    let (mut at, mut seen) = (all[first], Seen::default());
    let mut client = None;
    for request in requests.iter().cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let mut retries = 0;
        loop {
            let open = client
                .take()
                .or_else(|| Conn::impatient(at, Duration::from_secs(2)));
            let answer = open.and_then(|mut conn| {
                let answer = conn.try_exchange(request)?;
                Some((conn, answer))
            });
            match answer {
                Some((conn, answer)) if answer.status() < 300 => {
                    client = Some(conn);
                    break;
                }
                Some((_, answer)) if location(&answer).is_some() => {
                    at = location(&answer).expect("it was there");
                }
                Some(_) | None => {
                    let place = all.iter().position(|a| *a == at).expect("one of them");
                    at = all[(place + 1) % all.len()];
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            retries += 1;
            assert!(retries < 100_000, "a write never succeeds");
        }
        seen.acknowledged.push(Instant::now());
        seen.retries_max = seen.retries_max.max(retries);
    }
    seen
}

/// SIGTERM to the leader under writes: the longest time in milliseconds without an acknowledged
/// write, and the most further attempts that a write took.
fn hand_over(cluster: &mut Cluster) -> (f64, usize) {
    let leader = cluster.leader();
    let all: Vec<SocketAddr> = cluster.members.iter().map(|m| m.client).collect();
    let done = AtomicBool::new(false);
    let (asked, seen) = std::thread::scope(|scope| {
        let writer = |i: usize| {
            let (all, done) = (&all, &done);
            let requests = [put_request(&format!("/hand-over/{i}"), 64)];
            scope.spawn(move || write_on(all, leader, &requests, done))
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        cluster.signal(leader, rustix::process::Signal::TERM);
        std::thread::sleep(Duration::from_millis(if cluster.kind.is_tern() {
            700
        } else {
            3_000
        }));
        done.store(true, Ordering::Relaxed);
        let seen: Vec<Seen> = writers
            .into_iter()
            .map(|w| w.join().expect("it writes"))
            .collect();
        (asked, seen)
    });
    let mut times: Vec<Instant> = seen
        .iter()
        .flat_map(|s| s.acknowledged.iter().copied())
        .collect();
    times.sort_unstable();
    // What came long before is not the hand-over's.
    let from = asked - Duration::from_millis(50);
    let gaps = times
        .windows(2)
        .filter(|w| w[1] >= from)
        .map(|w| w[1] - w[0]);
    let gap = gaps.max().expect("writes go on").as_secs_f64() * 1e3;
    cluster.wait_for_end(leader);
    cluster.run(leader);
    cluster.settle();
    (
        gap,
        seen.iter()
            .map(|s| s.retries_max)
            .max()
            .expect("there are writers"),
    )
}

// -- the report

fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted.first().expect("some"), sorted.last().expect("some"));
    format!("{:.1} ({first:.1} to {last:.1})", median(sorted.clone()))
}

fn print_load(kinds: &[Kind], pairs: usize, connections: usize, duration: Duration) {
    let rows = [
        format!("PUT to the leader, {connections} connections: CPU of all three, us a request"),
        format!("PUT to the leader, {connections} connections: requests a second"),
        format!("PUT to the leader, {connections} connections: p99, us"),
        "resident after that load, all three, MB".into(),
    ];
    alternate(&names(kinds), pairs, &rows, |i| {
        let cluster = Cluster::start(kinds[i]);
        let leader = cluster.leader();
        measure(&cluster, (leader, leader), connections, duration)
    });
}

/// What forwarding costs: all writes go to a follower with `-forward`, or to the leader.
fn print_forwarding(kind: Kind, pairs: usize, connections: usize, duration: Duration) {
    let rows = [
        format!("PUT, {connections} connections: CPU of all three, us a request"),
        format!("PUT, {connections} connections: requests a second"),
        format!("PUT, {connections} connections: p99, us"),
        "resident after that load, all three, MB".into(),
    ];
    println!("\n{kind:?}, PUT to a follower that forwards, beside PUT to the leader:\n");
    let subjects = ["follower", "leader"];
    alternate(&subjects, pairs, &rows, |i| {
        let cluster = Cluster::start_with(kind, MACHINES, &["-forward"]);
        let leader = cluster.leader();
        let targets = [(leader + 1) % MACHINES, leader];
        measure(&cluster, (leader, targets[i]), connections, duration)
    });
    println!();
}

fn print_rounds(kinds: &[Kind], rounds: usize) {
    for &kind in kinds {
        let mut cluster = Cluster::start(kind);
        let took: Vec<f64> = (0..rounds).map(|_| failover(&mut cluster)).collect();
        println!(
            "- {kind:?}: kill -9 of the leader to the next acknowledged write, {rounds} rounds: {} ms",
            spread(&took)
        );
        let mut over = Vec::new();
        let (mut gaps, mut syncs, mut retries) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            let sync_ms = probe_disk() / 1e3;
            let (gap, tried) = hand_over(&mut cluster);
            over.push(gap - 10.0 - 5.0 * sync_ms);
            gaps.push(gap);
            syncs.push(sync_ms);
            retries = retries.max(tried);
        }
        println!(
            "- {kind:?}: SIGTERM to the leader under {WRITERS} writers, {rounds} rounds: longest time without an \
             acknowledged write {} ms; at most {retries} retries a write; a sync {} ms; beyond 10 ms and five syncs: {} ms",
            spread(&gaps),
            spread(&syncs),
            spread(&over)
        );
    }
}

/// Measures and prints what stands in the README.
pub fn report(kinds: &[Kind], pairs: usize, connections: usize, duration: Duration, rounds: usize) {
    if pairs > 0 {
        print_load(kinds, pairs, connections, duration);
        for &kind in kinds.iter().filter(|kind| kind.is_tern()) {
            print_forwarding(kind, pairs, connections, duration);
        }
    }
    if rounds > 0 {
        print_rounds(kinds, rounds);
    }
}
