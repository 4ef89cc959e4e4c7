//! How long a cluster of three machines with default settings is without a leader.
//!
//! `cargo bench --bench failover` prints a table: the time to the next acknowledged write after
//! `kill -9` of the leader, without keys and with a million, and after the leader falls silent
//! (stopped by a signal, or cut off from the network). `-- --rounds 50` is the default; cuts take
//! 21 s each, so a fifth of the rounds is run. `--only kill` (or `stop`, `cut`) runs one part,
//! `--keys 0,1000000` are the numbers of keys.
//!
//! After a kill, the time begins when a client sees its connection to the leader close: until then
//! the kernel frees the memory of the process, which the column "to close" shows. Each machine has
//! a network namespace of its own. Start reading at `main`.
#[allow(dead_code)]
mod driver;
mod flags;

use driver::{Load, Mode, fill};
use flags::{numbers, read_flags};
use rustix::process::Signal;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tern_support::client::{Conn, until};
use tern_support::fleet::{at_of, has, leader_of, put};
use tern_support::namespace;
use tern_support::net::{Loss, Net};
use tern_support::server::Server;

/// How long a client waits for an answer before it asks again.
const IMPATIENCE: Duration = Duration::from_millis(50);
/// Longest wait for a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two rounds, so that all vote and the round trips are measured.
const SETTLE: Duration = Duration::from_millis(700);
/// The same where links were cut: the members have measured round trips as long as the cut, wait
/// longer for each other because of them, and forget them after 20 s.
const SETTLE_AFTER_CUT: Duration = Duration::from_secs(21);
/// One of so many rounds is run where links are cut.
const CUT_SHARE: usize = 5;

/// How the leader fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Kill,
    Stop,
    Cut,
}

const FAILURES: [(Failure, &str); 3] = [
    (Failure::Kill, "kill"),
    (Failure::Stop, "stop"),
    (Failure::Cut, "cut"),
];

/// The times of one round, in milliseconds.
struct Took {
    /// From the signal until a client's connection is closed.
    to_close: f64,
    /// From then (if the leader was killed) or from the failure to the next acknowledged write.
    to_write: f64,
}

struct Settings {
    rounds: usize,
    keys: Vec<usize>,
    only: String,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !namespace::enter_program(&args) {
        return;
    }
    let settings = parse();
    println!("| the leader | keys | rounds | to close, ms | median, ms | 90 %, ms | longest, ms |");
    println!("|---|---|---|---|---|---|---|");
    let mut net = Net::start(3);
    for (failure, name) in FAILURES {
        if !name.contains(&settings.only) {
            continue;
        }
        let counts = if failure == Failure::Kill {
            settings.keys.as_slice()
        } else {
            &[0]
        };
        for keys in counts {
            let mut servers = net.cluster(&[]);
            fill_keys(&servers, *keys);
            let (count, pause) = match failure {
                Failure::Kill | Failure::Stop => (settings.rounds, SETTLE),
                Failure::Cut => (settings.rounds.div_ceil(CUT_SHARE), SETTLE_AFTER_CUT),
            };
            let rounds = (0..count).map(|round| {
                settle(&servers, round);
                std::thread::sleep(pause);
                fail(&mut net, &mut servers, failure)
            });
            print_row(name, *keys, &rounds.collect::<Vec<Took>>());
        }
    }
}

fn parse() -> Settings {
    let mut settings = Settings {
        rounds: 50,
        keys: vec![0, 1_000_000],
        only: String::new(),
    };
    for (flag, value) in read_flags(&["--rounds", "--keys", "--only"]) {
        match flag.as_str() {
            "--rounds" => settings.rounds = value.parse().expect("a number"),
            "--only" => settings.only = value,
            _ => settings.keys = numbers(&value),
        }
    }
    settings
}

fn print_row(name: &str, keys: usize, rounds: &[Took]) {
    let sorted = |of: fn(&Took) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (closed, written) = (sorted(|took| took.to_close), sorted(|took| took.to_write));
    let count = rounds.len();
    println!(
        "| {name} | {keys} | {count} | {:.1} | {:.1} | {:.1} | {:.1} |",
        closed[count / 2],
        written[count / 2],
        written[count * 9 / 10],
        written[count - 1],
    );
}

fn fill_keys(servers: &[Server], keys: usize) {
    if keys == 0 {
        return;
    }
    let load = Load {
        address: servers[leader_of(servers)].client_at(),
        mode: Mode::Put,
        connections: 64,
        duration: Duration::ZERO,
        requests_max: 0,
        value_bytes: 64,
        keys,
    };
    fill(&load).expect("the leader takes all keys");
}

/// Writes a value and waits until every machine shows it, so that a round begins with followers
/// that have caught up.
fn settle(servers: &[Server], round: usize) {
    let value = format!("round {round}");
    put(servers, "settled", &value);
    for server in servers {
        until("a machine has caught up", || {
            has(server, "settled", &value).then_some(())
        });
    }
}

/// Writes to one machine until it acknowledges, and reports the time. It does not follow a redirect
/// to the leader that has failed.
fn write_until_acknowledged(
    at: SocketAddr,
    failed: SocketAddr,
    done: &AtomicBool,
    acknowledged: &Sender<Instant>,
) {
    let mut target = at;
    let mut conn = None;
    while !done.load(Ordering::Relaxed) {
        let open = conn.take().or_else(|| Conn::impatient(target, IMPATIENCE));
        let answer = open.and_then(|mut open| {
            let answer = open.try_ask("PUT", "/v2/keys/failover", "value=x")?;
            Some((open, answer))
        });
        match answer {
            Some((_, answer)) if answer.status() < 300 => {
                let _ = acknowledged.send(Instant::now());
                return;
            }
            Some((open, answer)) => {
                let to = answer.head.header("Location").map(at_of);
                match to.filter(|to| *to != failed) {
                    Some(to) => target = to,
                    None => conn = Some(open),
                }
            }
            None => target = at,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The leader fails, with one client at each of the others, and is started again.
fn fail(net: &mut Net, servers: &mut [Server], failure: Failure) -> Took {
    let leader = leader_of(servers);
    let failed = servers[leader].client_at();
    let mut idle = TcpStream::connect(failed).expect("the leader listens");
    let (sender, receiver) = channel();
    let done = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        let begun = Instant::now();
        match failure {
            Failure::Kill => servers[leader].signal(Signal::KILL),
            Failure::Stop => servers[leader].signal(Signal::STOP),
            Failure::Cut => net.cut_off(leader, Loss::All),
        }
        for server in servers.iter().filter(|s| s.client_at() != failed) {
            let (at, sender, done) = (server.client_at(), sender.clone(), &done);
            scope.spawn(move || write_until_acknowledged(at, failed, done, &sender));
        }
        let mut from = begun;
        if failure == Failure::Kill {
            // Ends with an error if the kernel resets it.
            let _ = idle.read(&mut [0]);
            from = Instant::now();
        }
        let written = receiver.recv_timeout(PATIENCE).expect("a new leader");
        done.store(true, Ordering::Relaxed);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Took {
            to_close: ms(from - begun),
            to_write: ms(written.saturating_duration_since(from)),
        }
    });
    match failure {
        Failure::Kill => {
            servers[leader].kill();
            servers[leader].run();
        }
        Failure::Stop => servers[leader].signal(Signal::CONT),
        Failure::Cut => net.heal(),
    }
    took
}
