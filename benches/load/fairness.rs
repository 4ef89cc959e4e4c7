//! The cost of unfair clients and peers to the others: for each attack the latencies of an ordinary
//! client and of heartbeats, beside the same figures of the same cluster without the attack.
//!
//! `cargo bench --bench fairness` prints a table and takes about ten minutes; `-- --rounds 5
//! --seconds 3` are the defaults, `-- --only NAME` makes the rows whose name contains NAME. Three
//! machines on this host; attackers and ordinary clients talk to the leader. Phases with and
//! without the attack alternate. A p99 is the median over the rounds, "worst" and the longest turn
//! are maxima.
//!
//! The figures describe the server, not the host:
//! - The leader has a core of its own. Followers, ordinary clients and attackers share another one.
//!   The attackers are processes of their own at nice 10.
//! - From each latency of a client the time is subtracted for which the client, the leader, and for
//!   a PUT the luckier follower, was runnable and had no core (`cores`). The column "leader without
//!   a core" is the leader's share of it in the attacked phases. With more than a few percent the
//!   host was busy, and latencies of heartbeats, from which nothing is subtracted, say little.
//! - The leader itself reports the longest turn of its loop in processor time, and the time of each
//!   of its phases (SIGUSR1 with `-v`). On a virtual machine this includes the time for which the
//!   host had taken the core. The column "taken by the host" has the most of that in one round.
//!
//! Start reading at `round`; the attacks stand in `attacks`.
mod attacks;
mod cores;
mod floods;
mod longest_turn;
#[allow(dead_code)]
mod proc;

use attacks::{ATTACKS, Attack};
use cores::RunQueue;
use hdrhistogram::Histogram;
use longest_turn::longest_turn;
use proc::cpu_time;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tern_support::client::{Conn, form, request, until};
use tern_support::fleet::{leader_of, prepare, term};
use tern_support::server::Server;
use tern_support::usage::memory_bytes;

/// How long an ordinary client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause after an attack, in which the server closes the connections that are left of it.
const SETTLE: Duration = Duration::from_millis(1_000);
/// The core of the leader, and that of all others.
const CORES: [usize; 2] = [0, 1];

/// Latencies in microseconds.
struct Latencies {
    /// A GET or a PUT of an ordinary client.
    client: Histogram<u64>,
    /// A listing of 1,100 nodes.
    listing: Histogram<u64>,
    /// A heartbeat of the leader, until its answer.
    heartbeat: Histogram<u64>,
}

/// The figures of one round.
struct Round {
    idle: Latencies,
    attacked: Latencies,
    longest_turn_us: u64,
    /// The phases of the longest turn.
    phases: String,
    elections: u64,
    /// The most memory of the leader beyond that of the idle phase.
    grown_bytes: u64,
    /// The most resident memory of the leader.
    peak_bytes: u64,
    /// The part of the time for which the leader had no core.
    waited: f64,
    /// The time for which the host had taken the leader's core.
    stolen: Duration,
    /// The processor time of the attackers for each second.
    attackers_cpu: f64,
}

fn main() {
    let (mut rounds, mut seconds, mut only) = (5, 3.0, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--bench" {
            continue; // cargo adds it
        }
        let value = args.next().unwrap_or_default();
        let number = || value.parse::<f64>().expect("a number");
        match flag.as_str() {
            "--rounds" => rounds = number() as usize,
            "--seconds" => seconds = number(),
            "--only" => only = value,
            "--attack" => return attacks::run(&value, args),
            other => panic!("unknown flag {other}: --rounds, --seconds, --only"),
        }
    }
    raise_descriptors();
    if !cores::pin(std::process::id(), CORES[1]) {
        println!("The processes share all cores: `taskset` failed.\n");
    }
    println!(
        "| attack | client p99, ms: idle, attacked, ratio | worst | listing p99 | worst | heartbeat \
         p99 | worst | longest turn | of it, us | elections | memory, MB: \
         grown, most, -max-memory | attackers' CPU | leader \
         without a core | taken by the host, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(&only)) {
        let (memory_max, rounds) = measure(attack, rounds, seconds);
        print_row(attack.name, memory_max, &rounds);
    }
}

fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
}

/// Starts a cluster and measures it, idle and attacked in turn. Returns the memory that the leader may
/// use, in bytes, and the rounds.
fn measure(attack: &Attack, rounds: usize, seconds: f64) -> (u64, Vec<Round>) {
    let servers = start(attack);
    let place = leader_of(&servers);
    let pids: Vec<u32> = servers.iter().map(Server::pid).collect();
    cores::pin(pids[place], CORES[0]);
    let leader = &servers[place];
    attacks::fill(leader.client_at(), "/ordinary", 1_100, 100);
    (attack.prepare)(leader);
    let followers = pids.iter().filter(|pid| **pid != pids[place]);
    let mut ordinary = Ordinary::connect(leader, followers.copied().collect());
    let duration = Duration::from_secs_f64(seconds);
    let rounds = (0..rounds).map(|_| round(attack, leader, &mut ordinary, duration));
    (memory_max(leader), rounds.collect())
}

/// The memory that a machine may use, in bytes.
fn memory_max(server: &Server) -> u64 {
    let answer = server.client("GET", "/metrics", "");
    let mut lines = answer.text().lines();
    let bytes = lines.find_map(|line| line.strip_prefix("tern_memory_bytes_max "));
    let bytes = bytes.and_then(|text| text.parse::<f64>().ok());
    bytes.expect("a figure") as u64
}

/// The term of a leader. Before it has one, an answer says 0.
fn term_of(leader: &Server) -> u64 {
    until("the leader has a term", || {
        term(leader).filter(|term| *term > 0)
    })
}

fn start(attack: &Attack) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for number in 1..=3 {
        let peers: Vec<u16> = servers.last().map(|s| s.peer_port).into_iter().collect();
        let mut args = vec!["-v"];
        args.extend(attack.args);
        let mut server = prepare(number, &peers, &args);
        server.before = attack.ulimit.map(|limit| format!("ulimit {limit}"));
        server.run();
        servers.push(server);
    }
    servers
}

fn round(attack: &Attack, leader: &Server, ordinary: &mut Ordinary, duration: Duration) -> Round {
    let pid = leader.pid();
    let before = term_of(leader);
    cores::reset_peak(pid);
    let idle = ordinary.measure(|| std::thread::sleep(duration));
    let idle_bytes = memory_bytes(pid, "VmHWM");
    longest_turn(leader);
    let (run_queue, started) = (RunQueue::of(pid), Instant::now());
    let waited = run_queue.waited();
    let stolen = cores::stolen(CORES[0]);
    let mut attackers = attack.begin(leader);
    let attacked = ordinary.measure(|| {
        wait_for_line(&mut attackers);
        std::thread::sleep(duration);
    });
    let took = started.elapsed().as_secs_f64();
    let waited = run_queue.waited() - waited;
    let stolen = cores::stolen(CORES[0]) - stolen;
    let attackers_cpu = cpu_time(attackers.id()).unwrap_or_default();
    let peak_bytes = memory_bytes(pid, "VmHWM");
    drop(attackers.stdin.take());
    let ended = attackers.wait().expect("a child");
    assert!(ended.success(), "{}: {ended}", attack.name);
    std::thread::sleep(SETTLE);
    let (longest_turn_us, phases) = longest_turn(leader);
    Round {
        idle,
        attacked,
        longest_turn_us,
        phases,
        elections: term_of(leader) - before,
        grown_bytes: peak_bytes.saturating_sub(idle_bytes),
        peak_bytes,
        waited: waited.as_secs_f64() / took,
        stolen,
        attackers_cpu: attackers_cpu.as_secs_f64() / took,
    }
}

impl Attack {
    /// Starts a process with the attackers. They go on until its stdin is closed.
    fn begin(&self, leader: &Server) -> Child {
        let program = std::env::current_exe().expect("a path");
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(program);
        command.args(["--attack", self.name]);
        command.arg(leader.client_at().to_string());
        command.arg(leader.peer_at().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("it starts")
    }
}

/// Waits until the attackers say that they are all there, or have ended.
fn wait_for_line(attackers: &mut Child) {
    let stdout = attackers.stdout.take().expect("a pipe");
    let mut line = String::new();
    let _ = BufReader::new(stdout).read_line(&mut line);
}

// -- the ordinary clients

/// The ordinary clients. They are connected before the attack begins.
struct Ordinary {
    client: Conn,
    listing: Conn,
    heartbeat: Conn,
    leader: u32,
    followers: Vec<u32>,
}

impl Ordinary {
    fn connect(leader: &Server, followers: Vec<u32>) -> Ordinary {
        let at: SocketAddr = leader.client_at();
        let open = || Conn::impatient(at, PATIENCE).expect("the port is listened on");
        Ordinary {
            client: open(),
            listing: open(),
            heartbeat: open(),
            leader: leader.pid(),
            followers,
        }
    }

    /// Measures until `wait` returns.
    fn measure(&mut self, wait: impl FnOnce()) -> Latencies {
        let end = AtomicBool::new(false);
        let (leader, followers) = (self.leader, &self.followers);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let put = form("PUT", "/v2/keys/mine", "value=1");
                let get = request("GET", "/v2/keys/ordinary/00007", &[], b"");
                let requests: [(&[u8], &[u32]); 2] = [(&put, followers), (&get, &[])];
                repeat(&mut self.client, &end, 1, leader, &requests)
            });
            let listing = scope.spawn(|| {
                let list = request("GET", "/v2/keys/ordinary", &[], b"");
                repeat(&mut self.listing, &end, 100, leader, &[(&list, &[])])
            });
            let heartbeat = scope.spawn(|| heartbeats(&mut self.heartbeat, &end));
            wait();
            end.store(true, Ordering::Relaxed);
            Latencies {
                client: client.join().expect("it ends"),
                listing: listing.join().expect("it ends"),
                heartbeat: heartbeat.join().expect("it ends"),
            }
        })
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

/// Sends the requests in turn until `end`, with a pause of `pause_ms` after each. With each request
/// come the followers of which one takes part in the answer.
fn repeat(
    conn: &mut Conn,
    end: &AtomicBool,
    pause_ms: u64,
    leader: u32,
    requests: &[(&[u8], &[u32])],
) -> Histogram<u64> {
    let mut latency = histogram();
    let always = [RunQueue::of_this_thread(), RunQueue::of(leader)];
    let steps: Vec<(&[u8], Vec<RunQueue>)> = requests
        .iter()
        .map(|(bytes, pids)| (*bytes, pids.iter().map(|pid| RunQueue::of(*pid)).collect()))
        .collect();
    for (bytes, either) in steps.iter().cycle() {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let queues: Vec<&RunQueue> = always.iter().chain(either).collect();
        let before: Vec<Duration> = queues.iter().map(|queue| queue.waited()).collect();
        let sent = Instant::now();
        // After an election the answer is a redirect; elections are counted.
        conn.try_exchange(bytes).expect("it is served");
        let took = sent.elapsed();
        let waits = queues.iter().zip(before);
        let waits: Vec<Duration> = waits
            .map(|(queue, before)| queue.waited() - before)
            .collect();
        let of_followers = waits[2..].iter().min().copied().unwrap_or_default();
        let net = took.saturating_sub(waits[0] + waits[1] + of_followers);
        latency.record(net.as_micros() as u64).expect("it grows");
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    latency
}

/// The latencies of heartbeats that the leader reports of its followers.
fn heartbeats(conn: &mut Conn, end: &AtomicBool) -> Histogram<u64> {
    let mut latency = histogram();
    while !end.load(Ordering::Relaxed) {
        let answer = conn.ask("GET", "/v2/stats/leader", "");
        if answer.status() != 200 {
            break;
        }
        let answer = answer.json();
        let followers = answer["followers"].as_object().expect("followers");
        let real = followers.iter().filter(|(name, _)| !name.contains("flood"));
        for (_, follower) in real {
            let ms = follower["latency"]["current"].as_f64().expect("a number");
            let us = (ms * 1_000.0) as u64;
            latency.record(us).expect("the histogram grows");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    latency
}

// -- the table

fn print_row(name: &str, memory_max: u64, rounds: &[Round]) {
    let p99 = |of: &dyn Fn(&Round) -> &Histogram<u64>| {
        median(rounds.iter().map(|r| of(r).value_at_quantile(0.99)))
    };
    let worst = |of: &dyn Fn(&Round) -> &Histogram<u64>| {
        let worst = rounds.iter().map(|r| of(r).max()).max();
        worst.expect("a round") as f64
    };
    let idle = p99(&|r| &r.idle.client);
    let attacked = p99(&|r| &r.attacked.client);
    let pair = |of: fn(&Latencies) -> &Histogram<u64>| {
        let idle = p99(&|r| of(&r.idle));
        let attacked = p99(&|r| of(&r.attacked));
        format!("{}, {}", ms(idle), ms(attacked))
    };
    let longest = rounds.iter().max_by_key(|r| r.longest_turn_us);
    let longest = longest.expect("a round");
    let stolen = rounds.iter().map(|r| r.stolen).max();
    let elections: u64 = rounds.iter().map(|r| r.elections).sum();
    let memory = [
        rounds.iter().map(|r| r.grown_bytes).max(),
        rounds.iter().map(|r| r.peak_bytes).max(),
        Some(memory_max),
    ];
    let memory = memory.map(|bytes| (bytes.expect("a round") >> 20).to_string());
    println!(
        "| {name} | {}, {}, {:.1} | {} | {} | {} | {} | {} | {} | {} | {elections} | {} | {:.0} % | {:.0} % | {} |",
        ms(idle),
        ms(attacked),
        attacked / idle,
        ms(worst(&|r| &r.attacked.client)),
        pair(|l| &l.listing),
        ms(worst(&|r| &r.attacked.listing)),
        pair(|l| &l.heartbeat),
        ms(worst(&|r| &r.attacked.heartbeat)),
        ms(longest.longest_turn_us as f64),
        longest.phases,
        memory.join(", "),
        100.0 * mean(rounds.iter().map(|r| r.attackers_cpu)),
        100.0 * mean(rounds.iter().map(|r| r.waited)),
        stolen.expect("a round").as_millis(),
    );
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn median(values: impl Iterator<Item = u64>) -> f64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2] as f64
}

fn ms(us: f64) -> String {
    format!("{:.2}", us / 1_000.0)
}
