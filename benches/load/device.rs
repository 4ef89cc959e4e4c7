//! `cargo bench --bench device -- --seconds 600`: a device with 32 MB of memory, a tenth of a core and a
//! disk of 64 MB under steady writes.
//!
//! The first table: few keys are written over and over, each row for so many seconds (10 by
//! default). It shows whether memory or disk grows, and the memory and the time of a start after a
//! kill. The second one: three such devices whose syncs take 500 ms longer. The leader is killed
//! every 20 seconds, as often as `--kills` says (10 by default). Each acknowledged write must be
//! there at the end; it shows how long the others had no leader.
//!
//! `--only NAME` makes what NAME begins: a row, such as `50 keys`, or `kills`. Needs root, for groups
//! with limits and for mounts. Start reading at `row` and `kills`.
#[allow(dead_code)]
mod flags;

use flags::read_flags;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tern_support::cgroup::{Cgroup, Limit};
use tern_support::client::{Conn, within};
use tern_support::fleet::{leader, prepare, try_leader};
use tern_support::image::Image;
use tern_support::server::{Server, Syncs};
use tern_support::usage::{disk_bytes, memory_bytes};

/// Connections that write at the same time.
const WRITERS: usize = 8;
/// The keys and the bytes of their values.
const ROWS: [(usize, usize); 4] = [(60_000, 200), (10, 100_000), (50, 10_000), (100, 2_000)];
const MEMORY_BYTES: u64 = 32 << 20;
const CPU_PERCENT: u64 = 10;
const DISK_MIB: u64 = 64;
/// How much longer a sync takes while leaders are killed.
const SYNC_MS: u64 = 500;
/// The time from one kill to the next.
const KILL_PERIOD: Duration = Duration::from_secs(20);
/// How long anything may take on a device.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine within the limits of a device.
struct Device {
    /// Before `server`, in whose folder it is: it must be unmounted before the folder is removed.
    disk: Image,
    server: Server,
    _group: Cgroup,
}

impl Device {
    fn new(mut server: Server) -> Device {
        let limits = [Limit::Memory(MEMORY_BYTES), Limit::CpuPercent(CPU_PERCENT)];
        let group = Cgroup::new(&limits).expect("root, and cgroups of memory and processor time");
        server.before = Some(group.join());
        let disk = Image::create("ext4", server.home.path(), DISK_MIB);
        Device {
            disk,
            server,
            _group: group,
        }
    }

    fn run(&mut self) {
        self.server.run_on(&self.disk.data_dir());
    }
}

impl Drop for Device {
    /// The process ends before its disk is unmounted.
    fn drop(&mut self) {
        if self.server.is_started() {
            self.server.kill();
        }
    }
}

/// The memory and the disk that a process uses, in bytes.
struct Taken {
    peak: u64,
    resident: u64,
    disk: u64,
}

fn main() {
    let (mut seconds, mut count, mut only) = (10.0, 10, String::new());
    for (flag, value) in read_flags(&["--seconds", "--kills", "--only"]) {
        match flag.as_str() {
            "--seconds" => seconds = value.parse().expect("a number"),
            "--kills" => count = value.parse().expect("a number"),
            _ => only = value,
        }
    }
    let is_wanted = |name: &str| name.starts_with(&only);
    let rows = ROWS.map(|(keys, bytes)| (format!("{keys} keys"), keys, bytes));
    if rows.iter().any(|(name, _, _)| is_wanted(name)) {
        println!(
            "| keys | bytes | writes/s | peak, MiB: first tenth, all | resident | disk | peak of a start | start, ms |"
        );
        println!("|---|---|---|---|---|---|---|---|");
    }
    for (name, keys, bytes) in rows {
        if is_wanted(&name) {
            row(keys, bytes, Duration::from_secs_f64(seconds));
        }
    }
    if is_wanted("kills") {
        kills(count);
    }
}

fn row(keys: usize, bytes: usize, time: Duration) {
    let mut device = Device::new(Server::prepare(&[]));
    device.run();
    let mut writes = write(&device.server, 0, keys, bytes, time / 10);
    let first = taken(&device);
    writes += write(&device.server, writes, keys, bytes, time - time / 10);
    let all = taken(&device);
    device.server.kill();
    let started = Instant::now();
    device.run();
    let start_ms = started.elapsed().as_millis();
    let after = taken(&device);
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

fn taken(device: &Device) -> Taken {
    let pid = device.server.pid();
    Taken {
        peak: memory_bytes(pid, "VmHWM"),
        resident: memory_bytes(pid, "VmRSS"),
        disk: disk_bytes(&device.disk.data_dir()),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

// -- kills

/// The acknowledged writes to a key.
#[derive(Default)]
struct Acknowledged {
    last: u64,
    count: u64,
}

type Acked = Mutex<BTreeMap<String, Acknowledged>>;

/// Kills the leader of three devices `count` times while clients write.
fn kills(count: usize) {
    let mut devices: Vec<Device> = Vec::new();
    for number in 1..=3 {
        let last = devices.last().map(|device| device.server.peer_port);
        let peers: Vec<u16> = last.into_iter().collect();
        let mut server = prepare(number, &peers, &["-forward"]);
        server.syncs = Syncs::Slow(SYNC_MS);
        let mut device = Device::new(server);
        device.run();
        devices.push(device);
    }
    let ports: Vec<u16> = devices.iter().map(|d| d.server.client_port).collect();
    let (stop, acked) = (AtomicBool::new(false), Acked::default());
    let mut without_ms: Vec<u128> = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (ports, stop, acked) = (&ports, &stop, &acked);
            scope.spawn(move || write_numbers(ports, writer, stop, acked));
        }
        let taken = (0..count).map(|_| kill_leader(&mut devices));
        let taken = taken.collect();
        stop.store(true, Ordering::Relaxed);
        taken
    });
    let acked = acked.into_inner().expect("no thread panics");
    for (key, Acknowledged { last, .. }) in &acked {
        let target = format!("/v2/keys/{key}?quorum=true");
        let answer = devices[0].server.client("GET", &target, "").json();
        let value = answer["node"]["value"].as_str();
        let value = value.and_then(|value| value.parse::<u64>().ok());
        assert!(value >= Some(*last), "{key} is {value:?}, not {last}");
    }
    without_ms.sort_unstable();
    println!(
        "\n{count} kills of the leader, one every {} s, syncs {SYNC_MS} ms longer: the next leader after {} ms \
         (median; {} to {}); {} acknowledged writes, none lost",
        KILL_PERIOD.as_secs(),
        without_ms[count / 2],
        without_ms[0],
        without_ms[count - 1],
        acked.values().map(|key| key.count).sum::<u64>()
    );
}

/// Kills the leader, and starts it again once another one leads. Returns how long that took, in
/// milliseconds.
fn kill_leader(devices: &mut [Device]) -> u128 {
    std::thread::sleep(KILL_PERIOD);
    let servers: Vec<&Server> = devices.iter().map(|device| &device.server).collect();
    let place = leader(&servers);
    devices[place].server.kill();
    let others = devices
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != place);
    let others: Vec<&Server> = others.map(|(_, device)| &device.server).collect();
    let (_, took) = within(PATIENCE, "another one leads", || try_leader(&others));
    devices[place].run();
    took.as_millis()
}

/// Writes rising numbers to a key of its own, at one machine after the other.
fn write_numbers(ports: &[u16], writer: usize, stop: &AtomicBool, acked: &Acked) {
    let key = format!("w{writer}");
    let mut conn = None;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("value={number}");
        let port = ports[number as usize % ports.len()];
        let open = conn.take().or_else(|| Conn::try_open(port));
        let Some(mut open) = open else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if let Some(answer) = open.try_ask("PUT", &format!("/v2/keys/{key}"), &body) {
            if answer.status() < 300 {
                let mut acked = acked.lock().expect("no thread panics");
                let of_key = acked.entry(key.clone()).or_default();
                of_key.last = number;
                of_key.count += 1;
            }
            conn = Some(open);
        }
    }
}
