//! Histories of real clusters: clients read and write a few keys through the leader while leaders
//! are killed and stopped; their answers must be those of one register a key (the simulator's
//! checker).
//!
//! Only linearizable reads take part. What is refused as not carried out is left out, so a refusal
//! that was carried out after all shows; what is left open may have happened or not.
//! `TERN_HISTORY_S` sets the seconds.
use crate::observers;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tern_support::alone::alone;
use tern_support::client::{Answer, Conn, form, request, until, within};
use tern_support::fleet::{NERVOUS, TOO_LONG, at_of, cluster, follow};
use tern_support::linear::{Act, Call, Res, Value, Verdict, check, smallest};
use tern_support::rng::Rng;
use tern_support::server::Server;

/// What all clients share.
struct Shared {
    machines: Vec<SocketAddr>,
    /// Logical time: orders calls and returns as real time does, and never gives two the same.
    clock: AtomicU64,
    /// The next value; none is written twice.
    value: AtomicU32,
    operations: AtomicU64,
    calls: Mutex<BTreeMap<u64, Vec<Call>>>,
    stop: AtomicBool,
}

/// Operations on one key before the next key's turn: keeps the histories short.
const OPERATIONS_A_KEY: u64 = 200;
const CLIENTS: usize = 5;
/// How long a client waits: longer than an election, shorter than a stopped leader stays stopped.
const PATIENCE: Duration = Duration::from_millis(900);

/// What became of a request.
enum Asked {
    Answered(Answer),
    /// Sent, and no answer came.
    Open,
    /// The connection was refused.
    NotSent,
}

/// What a client knows of an operation.
enum Told {
    Res(Res),
    /// Not carried out, for certain.
    Refused,
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// How many operations have a known result.
    fn answered(&self) -> usize {
        let calls = self.calls.lock().expect("no thread panics");
        let calls = calls.values().flatten();
        calls.filter(|call| call.res != Res::Unknown).count()
    }

    /// One request, sent on to wherever it is redirected.
    fn ask(&self, machine: usize, bytes: &[u8]) -> Asked {
        let mut at = self.machines[machine % self.machines.len()];
        loop {
            let Some(mut conn) = Conn::impatient(at, PATIENCE) else {
                return Asked::NotSent;
            };
            let sent = conn.try_send(bytes);
            let answer = if sent { conn.try_answer(false) } else { None };
            let Some(answer) = answer else {
                return Asked::Open;
            };
            if answer.status() != 307 {
                return Asked::Answered(answer);
            }
            at = at_of(answer.head.header("Location").expect("a location"));
        }
    }
}

fn value_of(node: &serde_json::Value) -> Option<Value> {
    node["value"]
        .as_str()
        .map(|value| value.parse().expect("a number"))
}

fn told(act: Act, asked: &Asked) -> Told {
    let answer = match asked {
        Asked::Answered(answer) => answer,
        Asked::Open => return Told::Res(Res::Unknown),
        Asked::NotSent => return Told::Refused,
    };
    let json = answer.json();
    Told::Res(match (answer.status(), json["errorCode"].as_u64(), act) {
        (200, None, Act::Get) => Res::Value(value_of(&json["node"])),
        (404, Some(100), Act::Get) => Res::Value(None),
        (200 | 201, None, _) => Res::Done(value_of(&json["prevNode"])),
        (412, Some(105), _) => Res::Exists,
        (412, Some(101), _) => Res::Differs,
        (404, Some(100), _) => Res::Missing,
        (500, Some(300), _) if json["cause"] == "outcome unknown" => Res::Unknown,
        // Also of a standby that knows no leader.
        (500, Some(300 | 301), _) | (400, Some(402), _) => return Told::Refused,
        other => panic!("{other:?}: {}", answer.text()),
    })
}

fn bytes(act: Act, target: &str) -> Vec<u8> {
    match act {
        Act::Get => request("GET", &format!("{target}?quorum=true"), &[], b""),
        Act::Set(value) => form("PUT", target, &format!("value={value}")),
        Act::Create(value) => form("PUT", target, &format!("value={value}&prevExist=false")),
        Act::Update(value) => form("PUT", target, &format!("value={value}&prevExist=true")),
        Act::Swap { from, to } => form("PUT", target, &format!("value={to}&prevValue={from}")),
        Act::Delete => request("DELETE", target, &[], b""),
        Act::CompareDelete { from } => {
            request("DELETE", &format!("{target}?prevValue={from}"), &[], b"")
        }
    }
}

/// One client: one operation after another.
fn client(shared: &Shared, seed: u64) {
    let mut rng = Rng::new(seed);
    // The value it saw last, and of which key.
    let mut seen = (0, 0);
    while !shared.stop.load(Ordering::Relaxed) {
        let key = shared.operations.fetch_add(1, Ordering::Relaxed) / OPERATIONS_A_KEY;
        let value = shared.value.fetch_add(1, Ordering::Relaxed);
        let from = if seen.0 == key { seen.1 } else { 0 };
        let act = match rng.next_u64() % 10 {
            0..4 => Act::Get,
            4 | 5 => Act::Set(value),
            6 => Act::Create(value),
            7 => Act::Swap { from, to: value },
            8 => Act::Update(value),
            _ if rng.next_u64().is_multiple_of(2) => Act::Delete,
            _ => Act::CompareDelete { from },
        };
        let called = shared.now();
        let bytes = bytes(act, &format!("/v2/keys/h/{key}"));
        let asked = shared.ask(rng.next_u64() as usize, &bytes);
        let returned = shared.now();
        let Told::Res(res) = told(act, &asked) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        match (act, res) {
            (Act::Get, Res::Unknown) => continue,
            (_, Res::Value(Some(value))) => seen = (key, value),
            _ => {}
        }
        let index = match &asked {
            Asked::Answered(answer) => answer.head.header("X-Etcd-Index"),
            Asked::Open | Asked::NotSent => None,
        };
        let index = index.and_then(|index| index.parse().ok());
        let call = Call {
            act,
            res,
            called,
            returned: if res == Res::Unknown {
                u64::MAX
            } else {
                returned
            },
            hint: index.unwrap_or(u64::MAX),
        };
        let mut calls = shared.calls.lock().expect("no thread panics");
        calls.entry(key).or_default().push(call);
    }
}

/// Ends the clients, also when a test fails in their midst.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn leader(servers: &[Server]) -> usize {
    until("there is a leader", || {
        servers.iter().position(|server| {
            let conn = Conn::impatient(server.client_at(), PATIENCE);
            let answer = conn.and_then(|mut conn| conn.try_ask("GET", "/v2/stats/self", ""));
            answer
                .is_some_and(|answer| answer.status() == 200 && answer.json()["state"] == "leader")
        })
    })
}

/// One disturbance: a leader or a follower is killed and started, or stopped for longer than an
/// election takes and continued: it wakes as a leader that does not know that it has been deposed.
fn disturb(servers: &mut [Server], rng: &mut Rng) {
    let leader = leader(servers);
    let other = (leader + 1 + rng.next_u64() as usize % 2) % 3;
    let machine = if rng.next_u64().is_multiple_of(3) {
        other
    } else {
        leader
    };
    if rng.next_u64().is_multiple_of(2) {
        servers[machine].kill();
        std::thread::sleep(Duration::from_millis(rng.next_u64() % 600));
        servers[machine].run();
    } else {
        servers[machine].signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(400 + rng.next_u64() % 1_200));
        servers[machine].signal(Signal::CONT);
    }
}

/// Ends the observers when a test fails in their midst.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// The index of a last write, when the clients have stopped.
fn end(servers: &[Server]) -> u64 {
    until("the last write is acknowledged", || {
        let mut answers = servers
            .iter()
            .filter_map(|s| follow(s.client_at(), "PUT", "/v2/keys/h/end", "value=0"));
        answers
            .find(|a| a.status() < 300)
            .map(|a| a.head.etcd_index())
    })
}

/// Runs clients against the machines while they are disturbed, and has what the clients were told
/// checked. Goes on until at least that many operations were answered.
pub fn record(
    servers: &mut [Server],
    least: usize,
    mut disturb: impl FnMut(&mut [Server], &mut Rng),
) {
    let seconds = std::env::var("TERN_HISTORY_S").map_or(8, |n| n.parse().expect("a number"));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let shared = Shared {
        machines: servers.iter().map(Server::client_at).collect(),
        clock: AtomicU64::new(1),
        value: AtomicU32::new(1),
        operations: AtomicU64::new(0),
        calls: Mutex::new(BTreeMap::new()),
        stop: AtomicBool::new(false),
    };
    let (first, last) = (
        observers::index(shared.machines[0]) + 1,
        AtomicU64::new(u64::MAX),
    );
    let told = std::thread::scope(|scope| {
        let _stop = Stop(&shared.stop);
        let _end = End(&last);
        let watch = |at: &SocketAddr| {
            let (at, last) = (*at, &last);
            scope.spawn(move || observers::observe(at, first, last))
        };
        let watchers: Vec<_> = shared.machines.iter().map(watch).collect();
        for number in 0..CLIENTS as u64 {
            let shared = &shared;
            scope.spawn(move || client(shared, seed * 100 + number));
        }
        let mut rng = Rng::new(seed);
        let (start, least_time) = (Instant::now(), Duration::from_secs(seconds));
        within(TOO_LONG + least_time, "enough is answered", || {
            std::thread::sleep(Duration::from_millis(rng.next_u64() % 800));
            disturb(servers, &mut rng);
            let is_over = start.elapsed() >= least_time && shared.answered() >= least;
            is_over.then_some(())
        });
        shared.stop.store(true, Ordering::Relaxed);
        last.store(end(servers), Ordering::Relaxed);
        let told = watchers
            .into_iter()
            .map(|watcher| watcher.join().expect("a watcher"));
        told.collect::<Vec<_>>()
    });
    let events = observers::check(&told);
    let calls = shared.calls.into_inner().expect("no thread panics");
    let (mut known, mut open) = (0, 0);
    for (key, calls) in &calls {
        known += calls.iter().filter(|call| call.res != Res::Unknown).count();
        match check(calls, 20_000_000) {
            Verdict::Linearizable => {}
            Verdict::Open => open += 1,
            Verdict::Violation => panic!("seed {seed}: key {key}:{}", smallest(calls)),
        }
    }
    println!(
        "{} keys, {known} operations, {open} given up; {events} events",
        calls.len()
    );
    assert!(
        open * 10 <= calls.len(),
        "{open} of {} histories were too hard",
        calls.len()
    );
}

#[test]
fn histories_are_linearizable() {
    let _alone = alone();
    let mut servers = cluster(3, &["-snapshot-count=300", NERVOUS]);
    record(&mut servers, 300, disturb);
}

/// The same through whichever machine: followers do what only the leader can.
#[test]
fn histories_through_followers_are_linearizable() {
    let _alone = alone();
    let mut servers = cluster(3, &["-snapshot-count=300", NERVOUS, "-forward"]);
    record(&mut servers, 300, disturb);
}
