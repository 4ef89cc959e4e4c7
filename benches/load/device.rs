//! `cargo bench --bench device -- --seconds 600`: a device with 32 MB of memory under steady writes.
//! Few keys are written over and over, each row for so many seconds (10 by default). The table shows
//! whether memory or disk grows, and the memory and the time of a start after a kill.
#[allow(dead_code)]
mod flags;

use flags::read_flags;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tern_support::client::Conn;
use tern_support::server::Server;
use tern_support::usage::{disk_bytes, memory_bytes};

/// Connections that write at the same time.
const WRITERS: usize = 8;
/// The keys and the bytes of their values.
const ROWS: [(usize, usize); 4] = [(60_000, 200), (10, 100_000), (50, 10_000), (100, 2_000)];

/// The memory and the disk that a process uses, in bytes.
struct Taken {
    peak: u64,
    resident: u64,
    disk: u64,
}

fn main() {
    let (mut seconds, mut memory) = (10.0, 32 << 20);
    for (flag, value) in read_flags(&["--seconds", "--memory"]) {
        match flag.as_str() {
            "--seconds" => seconds = value.parse().expect("a number"),
            _ => memory = value.parse().expect("a number"),
        }
    }
    println!(
        "| keys | bytes | writes/s | peak, MiB: first tenth, all | resident | disk | peak of a start | start, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (keys, bytes) in ROWS {
        row(keys, bytes, memory, Duration::from_secs_f64(seconds));
    }
}

fn row(keys: usize, bytes: usize, memory: u64, time: Duration) {
    let mut server = Server::start(&[&format!("-max-memory={memory}")]);
    let mut writes = write(&server, 0, keys, bytes, time / 10);
    let first = taken(&server);
    writes += write(&server, writes, keys, bytes, time - time / 10);
    let all = taken(&server);
    server.kill();
    let started = Instant::now();
    server.run();
    let start_ms = started.elapsed().as_millis();
    let after = taken(&server);
    println!(
        "| {keys} | {bytes} | {:.0} | {}, {} | {} | {} | {} | {start_ms} |",
        writes as f64 / time.as_secs_f64(),
        mib(first.peak),
        mib(all.peak),
        mib(all.resident),
        mib(all.disk),
        mib(after.peak)
    );
}

/// Writes for so long, from the number `from` on. Returns how many writes were acknowledged.
fn write(server: &Server, from: usize, keys: usize, bytes: usize, time: Duration) -> usize {
    let port = server.client_port;
    let body = format!("value={}", "v".repeat(bytes));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let (body, stop) = (&body, &stop);
            writers.push(scope.spawn(move || {
                let mut conn = Conn::open(port);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = (from + count * WRITERS + writer) % keys;
                    let target = format!("/v2/keys/k/{key}?noValueOnSuccess=true");
                    let answer = conn.ask("PUT", &target, body);
                    assert!(answer.status() < 300, "{}", answer.text());
                    count += 1;
                }
                count
            }));
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let counts = writers.into_iter().map(|w| w.join().expect("it writes"));
        counts.sum()
    })
}

fn taken(server: &Server) -> Taken {
    Taken {
        peak: memory_bytes(server.pid(), "VmHWM"),
        resident: memory_bytes(server.pid(), "VmRSS"),
        disk: disk_bytes(&server.data_dir()),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
