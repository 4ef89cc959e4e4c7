//! The cost of unfair clients to the others: for each attack the latencies of an ordinary client
//! and of heartbeats, beside the same figures of the same cluster without the attack.
//!
//! `cargo bench --bench fairness` prints a table; `-- --rounds 5
//! --seconds 3` are the defaults, `-- --only NAME` runs the attacks whose name contains NAME. Three
//! machines on this host; the attackers and the ordinary client talk to the leader. Figures are
//! medians over the rounds, "worst" and the longest turn are maxima. The turns are measured by the
//! leader itself (SIGUSR1). Start reading at `round`; the attacks stand in `ATTACKS`.
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tern_support::client::{Conn, form, request, until};
use tern_support::fleet::{cluster, leader_of, prepare, term};
use tern_support::server::Server;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes the keys that an attack needs.
type Prepare = fn(&Server);
/// Attacks the client port at this address until the flag is set.
type Run = fn(SocketAddr, &AtomicBool);

/// One kind of unfair clients.
struct Attack {
    name: &'static str,
    /// The argument of `ulimit` for the machines.
    ulimit: Option<&'static str>,
    prepare: Prepare,
    run: Run,
}

const ATTACKS: [Attack; 7] = [
    Attack {
        name: "50 listings of 20,000 nodes, unread",
        ulimit: None,
        prepare: fill_wide,
        run: unread_listings,
    },
    Attack {
        name: "100 bodies of 2 MB, unfinished",
        ulimit: None,
        prepare: |_| {},
        run: unfinished_bodies,
    },
    Attack {
        name: "330 idle connections, 256 descriptors",
        ulimit: Some("-n 256"),
        prepare: |_| {},
        run: |at, stop| hold(at, stop, 330, b""),
    },
    Attack {
        name: "1,000 unfinished heads",
        ulimit: None,
        prepare: |_| {},
        run: |at, stop| hold(at, stop, 1_000, b"GET /version HTTP/1.1\r\nHost: "),
    },
    Attack {
        name: "1 MiB events, 5,000 watchers, unread",
        ulimit: None,
        prepare: |_| {},
        run: unread_events,
    },
    Attack {
        name: "small events, 5,000 watchers, unread",
        ulimit: None,
        prepare: |_| {},
        run: small_events,
    },
    Attack {
        name: "4 listings of 200 values at depth 1,021",
        ulimit: None,
        prepare: fill_deep,
        run: deep_listings,
    },
];

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
    elections: u64,
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
            other => panic!("unknown flag {other}: --rounds, --seconds, --only"),
        }
    }
    raise_descriptors();
    println!(
        "| attack | client p99, ms: idle, attacked, ratio | worst | listing p99 | worst | heartbeat p99 | worst | longest turn | elections |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(&only)) {
        let found: Vec<Round> = (0..rounds)
            .map(|_| round(attack, Duration::from_secs_f64(seconds)))
            .collect();
        print_row(attack.name, &found);
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

/// Starts a cluster, measures it idle and attacked.
fn round(attack: &Attack, duration: Duration) -> Round {
    let servers = start(attack.ulimit);
    let leader = &servers[leader_of(&servers)];
    fill(leader, "/ordinary", 1_100, 100);
    (attack.prepare)(leader);
    let mut ordinary = Ordinary::connect(leader.client_at());
    let idle = ordinary.measure(duration);
    let before = term(leader).expect("a leader answers");
    longest_turn_us(leader);
    let stop = AtomicBool::new(false);
    let attacked = std::thread::scope(|scope| {
        scope.spawn(|| (attack.run)(leader.client_at(), &stop));
        std::thread::sleep(Duration::from_millis(500));
        let attacked = ordinary.measure(duration);
        stop.store(true, Ordering::Relaxed);
        attacked
    });
    Round {
        idle,
        attacked,
        longest_turn_us: longest_turn_us(leader),
        elections: term(leader).expect("it answers") - before,
    }
}

fn start(ulimit: Option<&'static str>) -> Vec<Server> {
    if ulimit.is_none() {
        return cluster(3, &[]);
    }
    let mut servers: Vec<Server> = Vec::new();
    for number in 1..=3 {
        let peers: Vec<u16> = servers.last().map(|s| s.peer_port).into_iter().collect();
        let mut server = prepare(number, &peers, &[]);
        server.ulimit = ulimit;
        server.run();
        servers.push(server);
    }
    servers
}

/// The longest turn of the loop since the last call, by the machine's own report.
fn longest_turn_us(server: &Server) -> u64 {
    let reports = |log: &str| log.matches("the longest turn since").count();
    let before = reports(&server.log());
    server.signal(Signal::USR1);
    let log = until("it reports", || {
        let log = server.log();
        (reports(&log) > before).then_some(log)
    });
    let text = log.rsplit("last report took ").next().expect("a report");
    let number = text.split(' ').next().expect("a number");
    number.parse().expect("microseconds")
}

// -- the ordinary clients

/// The ordinary clients. They are connected before the attack begins.
struct Ordinary {
    client: Conn,
    listing: Conn,
    heartbeat: Conn,
}

impl Ordinary {
    fn connect(at: SocketAddr) -> Ordinary {
        let open = || Conn::impatient(at, PATIENCE).expect("the port is listened on");
        Ordinary {
            client: open(),
            listing: open(),
            heartbeat: open(),
        }
    }

    fn measure(&mut self, duration: Duration) -> Latencies {
        let end = Instant::now() + duration;
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let put = form("PUT", "/v2/keys/mine", "value=1");
                let get = request("GET", "/v2/keys/ordinary/00007", &[], b"");
                repeat(&mut self.client, end, 1, &[&put, &get])
            });
            let listing = scope.spawn(|| {
                let list = request("GET", "/v2/keys/ordinary", &[], b"");
                repeat(&mut self.listing, end, 100, &[&list])
            });
            let heartbeat = scope.spawn(|| heartbeats(&mut self.heartbeat, end));
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

/// Sends the requests in turn until `end`, with a pause of `pause_ms` after each.
fn repeat(conn: &mut Conn, end: Instant, pause_ms: u64, requests: &[&[u8]]) -> Histogram<u64> {
    let mut latency = histogram();
    for bytes in requests.iter().cycle() {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        // After an election the answer is a redirect; elections are counted.
        conn.try_exchange(bytes).expect("it is served");
        let us = sent.elapsed().as_micros() as u64;
        latency.record(us).expect("the histogram grows");
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    latency
}

/// The latencies of heartbeats that the leader reports of its followers.
fn heartbeats(conn: &mut Conn, end: Instant) -> Histogram<u64> {
    let mut latency = histogram();
    while Instant::now() < end {
        let answer = conn.ask("GET", "/v2/stats/leader", "");
        if answer.status() != 200 {
            break;
        }
        let answer = answer.json();
        let followers = answer["followers"].as_object().expect("followers");
        for follower in followers.values() {
            let ms = follower["latency"]["current"].as_f64().expect("a number");
            let us = (ms * 1_000.0) as u64;
            latency.record(us).expect("the histogram grows");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    latency
}

// -- the attacks

/// Puts `files` files of `bytes` bytes below `dir`, many requests ahead.
fn fill(server: &Server, dir: &str, files: usize, bytes: usize) {
    let body = format!("value={}", "x".repeat(bytes));
    let mut conn = Conn::open(server.client_at());
    let numbers: Vec<usize> = (0..files).collect();
    for some in numbers.chunks(50) {
        for number in some {
            conn.send(&form("PUT", &format!("/v2/keys{dir}/{number:05}"), &body));
        }
        for _ in some {
            assert!(conn.answer().status() < 300);
        }
    }
}

fn fill_wide(server: &Server) {
    fill(server, "/wide", 20_000, 100);
}

/// 200 values of 2 KB, each below 1,020 directories of its own.
fn fill_deep(server: &Server) {
    let below = "/d".repeat(1_019);
    for number in 0..200 {
        let dir = format!("/deep/{number}{below}");
        fill(server, &dir, 1, 2_000);
    }
}

/// Opens connections that send `bytes` and then nothing, again whenever one is closed.
fn hold(at: SocketAddr, stop: &AtomicBool, count: usize, bytes: &[u8]) {
    let open = || {
        let mut conn = Conn::impatient(at, PATIENCE)?;
        conn.try_send(bytes).then_some(conn)
    };
    let mut conns: Vec<Option<Conn>> = (0..count).map(|_| open()).collect();
    while !stop.load(Ordering::Relaxed) {
        for conn in &mut conns {
            if conn.as_mut().is_none_or(|conn| !conn.is_quiet()) {
                *conn = open();
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn unread_listings(at: SocketAddr, stop: &AtomicBool) {
    let list = request("GET", "/v2/keys/wide?recursive=true", &[], b"");
    let mut conns: Vec<Conn> = (0..50).filter_map(|_| asked(at, &list)).collect();
    while !stop.load(Ordering::Relaxed) {
        // One after the other gives up and asks again.
        conns.remove(0);
        conns.extend(asked(at, &list));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn asked(at: SocketAddr, bytes: &[u8]) -> Option<Conn> {
    let mut conn = Conn::impatient(at, PATIENCE)?;
    conn.try_send(bytes).then_some(conn)
}

fn unfinished_bodies(at: SocketAddr, stop: &AtomicBool) {
    let length = 2_000_000;
    let head = format!(
        "PUT /v2/keys/big HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: {length}\r\n\r\nvalue="
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length - "value=".len() - 1, b'x');
    hold(at, stop, 100, &bytes);
}

fn unread_events(at: SocketAddr, stop: &AtomicBool) {
    watch_without_reading(at, stop, 1 << 20, Duration::from_millis(500));
}

fn small_events(at: SocketAddr, stop: &AtomicBool) {
    watch_without_reading(at, stop, 100, Duration::from_millis(100));
}

/// 5,000 watchers of a key that is set to values of `bytes` bytes again and again.
fn watch_without_reading(at: SocketAddr, stop: &AtomicBool, bytes: usize, pause: Duration) {
    let watch = request("GET", "/v2/keys/watched?wait=true&stream=true", &[], b"");
    let watchers: Vec<TcpStream> = (0..5_000)
        .filter_map(|_| {
            let conn = asked(at, &watch)?;
            conn.stream().try_clone().ok()
        })
        .collect();
    let put = form(
        "PUT",
        "/v2/keys/watched",
        &format!("value={}", "x".repeat(bytes)),
    );
    let Some(mut writer) = Conn::impatient(at, PATIENCE) else {
        return;
    };
    while !stop.load(Ordering::Relaxed) {
        writer.try_exchange(&put);
        std::thread::sleep(pause);
    }
    drop(watchers);
}

fn deep_listings(at: SocketAddr, stop: &AtomicBool) {
    let list = request("GET", "/v2/keys/deep?recursive=true", &[], b"");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let conn = Conn::impatient(at, PATIENCE);
                    let answer = conn.and_then(|mut conn| conn.try_exchange(&list));
                    assert!(answer.is_some_and(|a| a.status() == 200), "all of it comes");
                }
            });
        }
    });
}

// -- the table

fn print_row(name: &str, rounds: &[Round]) {
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
    let turn = rounds.iter().map(|r| r.longest_turn_us).max();
    let elections: u64 = rounds.iter().map(|r| r.elections).sum();
    println!(
        "| {name} | {}, {}, {:.1} | {} | {} | {} | {} | {} | {} | {elections} |",
        ms(idle),
        ms(attacked),
        attacked / idle,
        ms(worst(&|r| &r.attacked.client)),
        pair(|l| &l.listing),
        ms(worst(&|r| &r.attacked.listing)),
        pair(|l| &l.heartbeat),
        ms(worst(&|r| &r.attacked.heartbeat)),
        ms(turn.expect("a round") as f64),
    );
}

fn median(values: impl Iterator<Item = u64>) -> f64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2] as f64
}

fn ms(us: f64) -> String {
    format!("{:.2}", us / 1_000.0)
}
