//! The attacks of the table of fairness: unfair clients, run by a process of their own.
//!
//! Each kind of attack is one entry of `ATTACKS`; peers that flood their links are in `floods`.
//! Start with `run`.
use super::floods;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tern_support::client::{Conn, form, request};
use tern_support::server::Server;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// The connections that write keys.
const FILLERS: usize = 32;
/// The rate of a steady slow reader.
const SLOW_BYTES_A_SECOND: usize = 200_000;

/// Writes the keys that an attack needs.
type Prepare = fn(&Server);
/// Attacks a machine until it is told to end.
type Run = fn(&Target);

/// The machine that is attacked.
pub struct Target {
    /// Its client port.
    pub client: SocketAddr,
    /// Its peer port.
    pub peer: SocketAddr,
    ends: AtomicBool,
}

impl Target {
    /// Whether the attack is over.
    pub fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Tells the bench that all attackers are there.
    pub fn report_ready(&self) {
        println!("ready");
    }
}

/// One kind of unfair clients.
pub struct Attack {
    pub name: &'static str,
    /// The argument of `ulimit` for the machines.
    pub ulimit: Option<&'static str>,
    /// Flags of the machines.
    pub args: &'static [&'static str],
    pub prepare: Prepare,
    run: Run,
}

const fn attack(name: &'static str, prepare: Prepare, run: Run) -> Attack {
    Attack {
        name,
        ulimit: None,
        args: &[],
        prepare,
        run,
    }
}

/// Flags of machines that may use 64 MB.
const LITTLE_MEMORY: &[&str] = &["-max-memory=67108864"];

/// Flags of machines that speak TLS to each other.
const PEER_TLS: &[&str] = &[
    concat!(
        "-peer-ca-file=",
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testdata/tls/authority.pem"
    ),
    concat!(
        "-peer-cert-file=",
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testdata/tls/machine.pem"
    ),
    concat!(
        "-peer-key-file=",
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testdata/tls/machine.key"
    ),
];

pub const ATTACKS: [Attack; 13] = [
    attack(
        "50 listings of 20,000 nodes, unread",
        fill_wide,
        unread_listings,
    ),
    attack("100 bodies of 2 MB, unfinished", |_| {}, unfinished_bodies),
    Attack {
        ulimit: Some("-n 256"),
        ..attack(
            "330 idle connections, 256 descriptors",
            |_| {},
            |target| hold(target, 330, b""),
        )
    },
    attack(
        "5,000 unfinished heads",
        |_| {},
        |target| hold(target, 5_000, b"GET /version HTTP/1.1\r\nHost: "),
    ),
    attack(
        "1 MiB events, 5,000 watchers, unread",
        |_| {},
        |target| watch_without_reading(target, 1 << 20, 500),
    ),
    attack(
        "small events, 5,000 watchers, unread",
        |_| {},
        |target| watch_without_reading(target, 100, 100),
    ),
    Attack {
        args: LITTLE_MEMORY,
        ..attack(
            "6 links that flood",
            |_| {},
            |target| floods::run(target, 6),
        )
    },
    Attack {
        args: LITTLE_MEMORY,
        ..attack("30 links that flood", floods::make_room, |target| {
            floods::run(target, 30)
        })
    },
    Attack {
        args: PEER_TLS,
        ..attack("TLS handshakes that never end", |_| {}, floods::handshakes)
    },
    attack(
        "64 connections, GET of 1 MiB values",
        |server| fill(server.client_at(), "/large", 4, 1 << 20),
        large_values,
    ),
    attack("50 readers at 200 kB/s", fill_wide, slow_readers),
    attack(
        "4 listings of 1,200 values at depth 1,021",
        fill_deep,
        deep_listings,
    ),
    attack("deep creations, 16 connections", |_| {}, deep_creations),
];

/// Attacks until stdin is closed. `args` are the client port and the peer port of the machine.
pub fn run(name: &str, mut args: impl Iterator<Item = String>) {
    let mut address = || args.next().and_then(|text| text.parse().ok());
    let target = Target {
        client: address().expect("an address"),
        peer: address().expect("an address"),
        ends: AtomicBool::new(false),
    };
    let attack = ATTACKS.iter().find(|attack| attack.name == name);
    let attack = attack.expect("a known attack");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            target.ends.store(true, Ordering::Relaxed);
        });
        (attack.run)(&target);
    });
}

// -- keys

/// Puts keys with values of so many bytes, over several connections.
fn fill_all(at: SocketAddr, keys: &[String], bytes: usize) {
    let body = format!("value={}", "x".repeat(bytes));
    let body = &body;
    std::thread::scope(|scope| {
        for some in keys.chunks(keys.len().div_ceil(FILLERS)) {
            scope.spawn(move || {
                let mut conn = Conn::open(at);
                for key in some {
                    let answer = conn.ask("PUT", &format!("/v2/keys{key}"), body);
                    assert!(
                        answer.status() < 300,
                        "the leader has changed: busy machine"
                    );
                }
            });
        }
    });
}

/// Puts `files` files of `bytes` bytes below `dir`.
pub fn fill(at: SocketAddr, dir: &str, files: usize, bytes: usize) {
    let keys = (0..files).map(|number| format!("{dir}/{number:05}"));
    fill_all(at, &keys.collect::<Vec<_>>(), bytes);
}

fn fill_wide(server: &Server) {
    fill(server.client_at(), "/wide", 20_000, 100);
}

/// 1,200 values of 2 KB, each below 1,020 directories of its own.
fn fill_deep(server: &Server) {
    let below = "/d".repeat(1_019);
    let keys = (0..1_200).map(|number| format!("/deep/{number}{below}/value"));
    fill_all(server.client_at(), &keys.collect::<Vec<_>>(), 2_000);
}

// -- clients

fn asked(at: SocketAddr, bytes: &[u8]) -> Option<Conn> {
    let mut conn = Conn::impatient(at, PATIENCE)?;
    conn.try_send(bytes).then_some(conn)
}

/// Opens connections that send `bytes` and then nothing, again whenever one is closed.
fn hold(target: &Target, count: usize, bytes: &[u8]) {
    let open = || asked(target.client, bytes);
    let mut conns: Vec<Option<Conn>> = (0..count).map(|_| open()).collect();
    target.report_ready();
    while !target.ends() {
        for conn in &mut conns {
            if conn.as_mut().is_none_or(|conn| !conn.is_quiet()) {
                *conn = open();
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn unread_listings(target: &Target) {
    let list = request("GET", "/v2/keys/wide?recursive=true", &[], b"");
    let ask = || asked(target.client, &list);
    let mut conns: Vec<Conn> = (0..50).filter_map(|_| ask()).collect();
    target.report_ready();
    while !target.ends() {
        // One after the other gives up and asks again.
        conns.remove(0);
        conns.extend(ask());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn unfinished_bodies(target: &Target) {
    let length = 2_000_000;
    let head = format!(
        "PUT /v2/keys/big HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: {length}\r\n\r\nvalue="
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length - "value=".len() - 1, b'x');
    hold(target, 100, &bytes);
}

/// 5,000 watchers of a key that is set to values of `bytes` bytes again and again.
fn watch_without_reading(target: &Target, bytes: usize, pause_ms: u64) {
    let watch = request("GET", "/v2/keys/watched?wait=true&stream=true", &[], b"");
    let watchers: Vec<TcpStream> = (0..5_000)
        .filter_map(|_| {
            let conn = asked(target.client, &watch)?;
            conn.stream().try_clone().ok()
        })
        .collect();
    target.report_ready();
    let body = format!("value={}", "x".repeat(bytes));
    let put = form("PUT", "/v2/keys/watched", &body);
    let Some(mut writer) = Conn::impatient(target.client, PATIENCE) else {
        return;
    };
    while !target.ends() {
        writer.try_exchange(&put);
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    drop(watchers);
}

/// Connections that read all they get, as fast as they can.
fn readers(target: &Target, count: usize, request: &[u8]) {
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                let mut conn = Conn::impatient(target.client, PATIENCE);
                while !target.ends() {
                    let answer = conn.as_mut().and_then(|conn| conn.try_exchange(request));
                    assert!(answer.is_some_and(|a| a.status() == 200), "all of it comes");
                }
            });
        }
        target.report_ready();
    });
}

fn large_values(target: &Target) {
    let get = request("GET", "/v2/keys/large/00001", &[], b"");
    readers(target, 64, &get);
}

/// Listings of which each has more than 1.3 GB. An answer is not kept.
fn deep_listings(target: &Target) {
    let list = request("GET", "/v2/keys/deep?recursive=true", &[], b"");
    let pace = |_: usize| Duration::ZERO;
    stream(target, 4, &list, pace);
}

fn slow_readers(target: &Target) {
    let list = request("GET", "/v2/keys/wide?recursive=true", &[], b"");
    let pace = |bytes| Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_A_SECOND as f64);
    stream(target, 50, &list, pace);
}

/// Connections that ask for a long answer and wait after each read for `pace` of its bytes. None of
/// them may be cut.
fn stream(target: &Target, count: usize, list: &[u8], pace: fn(usize) -> Duration) {
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                let conn = asked(target.client, list).expect("it is accepted");
                let mut stream = conn.stream();
                let mut part = vec![0; 64 * 1024];
                while !target.ends() {
                    let count = stream.read(&mut part).expect("it is not cut");
                    assert!(count > 0, "it is not cut");
                    std::thread::sleep(pace(count));
                }
            });
        }
        target.report_ready();
    });
}

/// Each request creates 1,020 directories.
fn deep_creations(target: &Target) {
    std::thread::scope(|scope| {
        for client in 0..16 {
            scope.spawn(move || {
                let mut conn = Conn::open(target.client);
                let below = "/d".repeat(1_019);
                for number in 0.. {
                    if target.ends() {
                        break;
                    }
                    let key = format!("/v2/keys/new/{client}-{}{below}/v", number % 50);
                    conn.try_exchange(&form("PUT", &key, "value=1"));
                    let dir = format!("/v2/keys/new/{client}-{}?recursive=true", number % 50);
                    conn.try_exchange(&form("DELETE", &dir, ""));
                }
            });
        }
        target.report_ready();
    });
}
