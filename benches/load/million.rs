//! A million keys: the longest turn of the loop for each piece of work on all of them, their memory,
//! and the time of a restart.
//!
//! `cargo bench --bench million` prints two tables and takes two minutes; `-- --keys 1000000` is the
//! default. Values have 64 bytes. A turn is measured in processor time, by the machine's own report,
//! so that other work on this host does not count.
//!
//! - memory: after all keys were written, and after a restart.
//! - listing: all keys, recursively, to one client.
//! - snapshot: beside 64 writers.
//! - install: a second machine joins. It receives the snapshot, which the first one sends.
//! - deletion: of the folder with all keys, on both machines.
//! - expiry: all keys are due in one moment. The machine was stopped by a signal meanwhile.
//!
//! Start reading at `main`.
#[allow(dead_code)]
mod driver;
#[allow(dead_code)]
mod flags;
mod longest_turn;
#[allow(dead_code)]
mod proc;

use driver::{Load, Mode, fill, fill_expiring, run};
use flags::read_flags;
use longest_turn::longest_turn;
use proc::cpu_time;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tern_support::client::{Conn, within};
use tern_support::fleet::{prepare, put, shows};
use tern_support::server::Server;
use tern_support::usage::memory_bytes;

/// Connections that write.
const CONNECTIONS: usize = 64;
/// Writes between two looks for a new snapshot.
const WRITES: u64 = 20_000;
/// The longest wait for a piece of work.
const PATIENCE: Duration = Duration::from_secs(300);
/// The length of a value.
const VALUE_BYTES: usize = 64;
/// The folder of the driver's keys.
const FOLDER: &str = "/v2/keys/load";

fn main() {
    let mut keys = 1_000_000;
    for (_, value) in read_flags(&["--keys"]) {
        keys = value.parse().expect("a number");
    }
    let begun = Instant::now();
    let mut servers = vec![prepare(1, &[], &["-v"])];
    servers[0].run();
    let load = load(&servers[0], keys);
    fill(&load).expect("each write succeeds");
    let filled_in = begun.elapsed();
    sizes(&mut servers[0]);
    println!("\n| work on {keys} keys | longest turn, ms | of it, us | took, s |");
    println!("|---|---|---|---|");
    row("listing", &mut servers, |servers| list(&servers[0], keys));
    row("snapshot", &mut servers, |servers| {
        write_until_saved(&servers[0], &load);
    });
    row("install", &mut servers, join);
    row("deletion", &mut servers, |servers| delete(servers));
    drop(servers);
    expiry(keys, filled_in);
}

fn load(server: &Server, keys: usize) -> Load {
    Load {
        keys,
        value_bytes: VALUE_BYTES,
        ..Load::of(server.client_at(), Mode::Put, CONNECTIONS, PATIENCE)
    }
}

/// Prints the memory of the keys and the time of a restart.
fn sizes(server: &mut Server) {
    let written = memory_bytes(server.pid(), "VmRSS");
    server.terminate();
    let begun = Instant::now();
    server.run();
    let restart = begun.elapsed();
    // What the start has freed is given back after the first turns.
    std::thread::sleep(Duration::from_secs(1));
    let restarted = memory_bytes(server.pid(), "VmRSS");
    println!("| resident, just written, MB | after a restart, MB | restart, s |");
    println!("|---|---|---|");
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "| {:.0} | {:.0} | {:.2} |",
        mb(written),
        mb(restarted),
        restart.as_secs_f64()
    );
}

/// Prints the longest turn of any machine during this work.
fn row(name: &str, servers: &mut Vec<Server>, work: impl FnOnce(&mut Vec<Server>)) {
    for server in servers.iter() {
        longest_turn(server);
    }
    let begun = Instant::now();
    work(servers);
    let took = begun.elapsed().as_secs_f64();
    let turns = servers.iter().map(longest_turn);
    let (us, phases) = turns.max().expect("a machine");
    println!("| {name} | {:.1} | {phases} | {took:.1} |", us as f64 / 1e3);
}

/// Reads all keys and drops them.
fn list(server: &Server, keys: usize) {
    let mut stream = TcpStream::connect(server.client_at()).expect("it listens");
    let request =
        format!("GET {FOLDER}?recursive=true HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer).expect("an answer") {
            0 => break,
            count => bytes += count,
        }
    }
    assert!(bytes > keys * VALUE_BYTES, "{bytes} bytes are not all keys");
}

/// A second machine joins, and has all keys.
fn join(servers: &mut Vec<Server>) {
    let mut second = prepare(2, &[servers[0].peer_port], &["-v"]);
    second.run();
    put(servers, "joined", "1");
    servers.push(second);
    shows(&servers[1], "joined", "1");
    servers[1].wait_for_log("from a peer installed");
}

fn write_until_saved(server: &Server, load: &Load) {
    let saved = || server.log().matches("snapshot of index").count();
    let before = saved();
    let some = Load {
        requests_max: WRITES,
        ..*load
    };
    while saved() == before {
        run(&some).expect("each write succeeds");
    }
}

/// Deletes the folder and waits until every machine has freed it.
fn delete(servers: &[Server]) {
    let deleted = servers[0].client("DELETE", &format!("{FOLDER}?recursive=true"), "");
    assert_eq!(deleted.status(), 200);
    for server in servers {
        within(PATIENCE, "the keys are gone", || {
            (server.client("GET", FOLDER, "").status() == 404).then_some(())
        });
    }
    settle(servers);
}

/// Waits until the machines have nothing to do: removed nodes are freed bit by bit.
fn settle(servers: &[Server]) {
    let used = || -> Duration {
        let used = servers.iter().map(|server| cpu_time(server.pid()));
        used.map(|used| used.expect("it runs")).sum()
    };
    within(PATIENCE, "they have nothing to do", || {
        let before = used();
        std::thread::sleep(Duration::from_millis(500));
        (used() - before < Duration::from_millis(50)).then_some(())
    });
}

/// The row of the expiry. Writing the keys takes about `fill_time`; none expires before all are
/// written.
fn expiry(keys: usize, fill_time: Duration) {
    let ttl = 2 * fill_time + Duration::from_secs(10);
    let mut servers = vec![Server::start(&["-v"])];
    fill_expiring(&load(&servers[0], keys), ttl.as_secs()).expect("each write succeeds");
    row("expiry", &mut servers, |servers| {
        let server = &servers[0];
        server.signal(Signal::STOP);
        std::thread::sleep(ttl);
        server.signal(Signal::CONT);
        let mut conn = Conn::open(server.client_at());
        within(PATIENCE, "all keys have expired", || {
            let stats = conn.ask("GET", "/v2/stats/store", "").json();
            (stats["expireCount"] == keys).then_some(())
        });
        settle(servers);
    });
}
