//! tern beside another server on this machine: alternating runs, each on a fresh data directory and
//! preceded by a short probe of the disk, reported as medians and as the median of the ratios pair
//! by pair.
//!
//! `cargo bench --bench versus` measures against Debian's etcd (3.4, with its v2 interface); `--
//! --pairs 7 --seconds 3` are the defaults, `--only tern` leaves the rival out. Prints the table
//! that stands in the README. Other tables:
//! - `--former PATH` compares with another build of tern in place of etcd: `-- --former PATH --pairs
//!   15 --seconds 1` is the check that a change made nothing slower. The bound is the upper end of
//!   the ratio's 95 % interval.
//! - `--rivals all` (or `writes`, `reads`, `events`) adds Redis, nginx and the floors, and waits for
//!   a quiet machine: see `rivals`, `quiet`.
//! - `--cluster` puts three machines against three: see `cluster`.
//! - `--reads` compares linearizable reads with plain ones: see `reads`.
//! - `--curves all` (or `quick`) shows how the figures grow with keys, connections, watchers, values,
//!   machines, the length of the log and the time of a sync: see `curves`.
//! - `--snapshots KEYS` compares writes with snapshots and without: see `snapshots`.
//! - `--soak MINUTES` disturbs five of tern: see `soak`.
//! - `--mappings` shows where the memory of an idle tern is: see `mappings`.
mod cluster;
mod curves;
#[allow(dead_code)]
mod driver;
mod floors;
mod mappings;
mod plot;
mod proc;
mod quiet;
mod reads;
mod rivals;
mod snapshots;
mod soak;
mod table;

use driver::{Load, Mode, fill, run};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use table::{alternate, median};

/// A server under measurement; ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    first_answer: Duration,
    directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The present build.
    Tern,
    /// Another build of tern: `--former PATH`.
    Former,
    Etcd,
}

/// The program of `Kind::Former`.
static FORMER: OnceLock<PathBuf> = OnceLock::new();

impl Kind {
    /// Its column in a table.
    fn name(self) -> &'static str {
        match self {
            Kind::Tern => "tern",
            Kind::Former => "former",
            Kind::Etcd => "etcd",
        }
    }

    fn is_tern(self) -> bool {
        self != Kind::Etcd
    }

    /// The program of a tern.
    fn program(self) -> PathBuf {
        match self {
            Kind::Former => FORMER.get().expect("--former PATH").clone(),
            Kind::Tern | Kind::Etcd => env!("CARGO_BIN_EXE_tern").into(),
        }
    }
}

fn names(kinds: &[Kind]) -> Vec<&'static str> {
    kinds.iter().map(|kind| kind.name()).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
}

fn command(kind: Kind, directory: &Path, client: u16, peer: u16) -> Command {
    let (at, peer_at) = (format!("127.0.0.1:{client}"), format!("127.0.0.1:{peer}"));
    let data = directory.join("data");
    match kind {
        Kind::Tern | Kind::Former => {
            let mut c = Command::new(kind.program());
            c.args([
                "-name",
                "node0",
                "-addr",
                &at,
                "-peer-addr",
                &peer_at,
                "-data-dir",
            ])
            .arg(data);
            c
        }
        Kind::Etcd => {
            let (url, peer_url) = (format!("http://{at}"), format!("http://{peer_at}"));
            let mut c = Command::new(std::env::var("ETCD").unwrap_or("etcd".into()));
            c.args([
                "--enable-v2",
                "--name",
                "node0",
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
                &format!("node0={peer_url}"),
                "--data-dir",
            ])
            .arg(data);
            c
        }
    }
}

impl Server {
    fn start(kind: Kind) -> Server {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("a directory beside the build, on its disk");
        Server::start_in(kind, directory)
    }

    fn start_in(kind: Kind, directory: tempfile::TempDir) -> Server {
        let client = free_port();
        let started = Instant::now();
        let child = command(kind, directory.path(), client, free_port())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{kind:?} does not start: {e}"));
        let address = SocketAddr::from(([127, 0, 0, 1], client));
        let mut server = Server {
            child,
            address,
            first_answer: Duration::ZERO,
            directory,
        };
        let probe = Load {
            keys: 1,
            requests_max: 1,
            ..load(&server, Mode::Put, 1, Duration::from_secs(1))
        };
        while run(&probe).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{kind:?} gives no answer"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        server.first_answer = started.elapsed();
        server
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long the first answer took after the start.
    fn first_answer(&self) -> Duration {
        self.first_answer
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn restart(mut self, kind: Kind) -> Server {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let other = tempfile::tempdir().expect("a directory");
        let directory = std::mem::replace(&mut self.directory, other);
        drop(self);
        Server::start_in(kind, directory)
    }
}

fn load(server: &Server, mode: Mode, connections: usize, duration: Duration) -> Load {
    Load::of(server.address, mode, connections, duration)
}

/// Microseconds that 4 KiB and an fdatasync take on this disk just now, median of 50.
fn probe_disk() -> f64 {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"));
    let mut file = file.expect("a file beside the build");
    let took = (0..50).map(|_| {
        let start = Instant::now();
        file.write_all(&[7; 4096])
            .and_then(|()| file.sync_data())
            .expect("the disk works");
        start.elapsed().as_secs_f64() * 1e6
    });
    median(took.collect())
}

/// Writes 100,000 keys of 64 bytes; the resident memory right after, in MB.
fn filled(server: &Server) -> f64 {
    let load = Load {
        keys: 100_000,
        ..load(server, Mode::Put, 64, Duration::MAX)
    };
    fill(&load).expect("100,000 keys are set");
    proc::resident_bytes(server.pid()).expect("it runs") as f64 / 1e6
}

/// The figures of one run of one server, in the order of `rows`.
fn measure(kind: Kind, connections: &[usize], duration: Duration) -> Vec<f64> {
    let server = Server::start(kind);
    let mut figures = vec![server.first_answer.as_secs_f64() * 1e3];
    figures.push(proc::resident_bytes(server.pid()).expect("it runs") as f64 / 1e6);
    for mode in [Mode::Put, Mode::Get] {
        for &n in connections {
            let load = load(&server, mode, n, duration);
            if mode == Mode::Get {
                fill(&load).expect("the keys are set");
            }
            let before = proc::cpu_time(server.pid()).expect("it runs");
            let report = run(&load).unwrap_or_else(|e| panic!("{kind:?} {mode:?} {n}: {e}"));
            let cpu = proc::cpu_time(server.pid()).expect("it runs") - before;
            figures.push(cpu.as_secs_f64() * 1e6 / report.requests as f64);
            figures.push(report.per_second());
            figures.push(report.latency.value_at_quantile(0.99) as f64);
        }
    }
    for &n in connections {
        let report = run(&load(&server, Mode::Watch, n, duration))
            .unwrap_or_else(|e| panic!("{kind:?} watch {n}: {e}"));
        figures.push(report.per_second());
        figures.push(report.latency.value_at_quantile(0.99) as f64);
    }
    figures.push(filled(&server));
    drop(server);
    figures.push(filled(&Server::start(kind)));
    figures
}

fn rows(connections: &[usize]) -> Vec<String> {
    let mut rows = vec![
        "first answer after start, ms".into(),
        "resident when idle, MB".into(),
    ];
    for mode in ["PUT", "GET"] {
        for n in connections {
            rows.push(format!("{mode}, {n} connections: server CPU, us a request"));
            rows.push(format!("{mode}, {n} connections: requests a second"));
            rows.push(format!("{mode}, {n} connections: p99, us"));
        }
    }
    for n in connections {
        rows.push(format!("stream to {n} watchers: deliveries a second"));
        rows.push(format!("stream to {n} watchers: p99, us"));
    }
    rows.push("resident, 100,000 keys of 64 bytes just written after this load, MB".into());
    rows.push("resident, 100,000 keys of 64 bytes just written after a start, MB".into());
    rows
}

/// Serves as one of the floors: name, port, directory.
fn serve_floor(args: &[String]) {
    let [name, port, directory] = args else {
        panic!("--floor NAME PORT DIRECTORY");
    };
    let floor = floors::Floor::named(name).expect("a floor of that name");
    let port = port.parse().expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let result = floor.serve(address, Path::new(directory));
    result.expect("the floor serves until it is killed");
}

/// Bytes that reached the device under the build directory so far, from `/proc/diskstats`.
fn device_bytes() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata("target")
        .expect("the build directory")
        .dev();
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    let stats = std::fs::read_to_string("/proc/diskstats").expect("/proc");
    let line = stats
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    let line = line
        .into_iter()
        .find(|f| f[0] == major.to_string() && f[1] == minor.to_string());
    line.expect("the device of the build directory is listed")[9]
        .parse::<u64>()
        .expect("a number")
        * 512
}

/// What tern alone must show: device bytes per small sync, before and after a restart, and none
/// while idle.
fn flash(idle: Duration) {
    let mut server = Server::start(Kind::Tern);
    for when in ["", " after a restart"] {
        let puts = Load {
            requests_max: 20_000,
            keys: 100,
            ..load(&server, Mode::Put, 1, Duration::from_secs(60))
        };
        // What others have left to be written is not this server's.
        rustix::fs::sync();
        let before = device_bytes();
        let report = run(&puts).expect("it serves");
        let each = (device_bytes() - before) as f64 / report.requests as f64 / 1024.0;
        println!("KiB to the device per small sync{when}: {each:.2}");
        server = server.restart(Kind::Tern);
    }
    let before = proc::written_bytes(server.pid()).expect("it runs");
    std::thread::sleep(idle);
    let written = proc::written_bytes(server.pid()).expect("it runs") - before;
    println!(
        "bytes written in {} idle seconds: {written}",
        idle.as_secs()
    );
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let value = |flag: &str| {
        args.iter()
            .position(|a| a == flag)
            .map(|i| args[i + 1].clone())
    };
    if let Some(at) = args.iter().position(|a| a == "--floor") {
        return serve_floor(&args[at + 1..]);
    }
    let number =
        |flag: &str, default: f64| value(flag).map_or(default, |v| v.parse().expect("a number"));
    let pairs = number("--pairs", 7.0) as usize;
    let duration = Duration::from_secs_f64(number("--seconds", 3.0));
    let connections: Vec<usize> = value("--connections")
        .unwrap_or("64".into())
        .split(',')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let former = value("--former");
    let kinds = if former.is_some() {
        vec![Kind::Tern, Kind::Former]
    } else if value("--only").is_some() {
        vec![Kind::Tern]
    } else {
        vec![Kind::Tern, Kind::Etcd]
    };
    if let Some(path) = former {
        // Cargo runs benches in the package's folder; a relative path means that.
        FORMER.set(path.into()).expect("set once");
    }
    if let Some(minutes) = value("--soak") {
        return soak::report(minutes.parse().expect("a number"));
    }
    if args.iter().any(|a| a == "--mappings") {
        return mappings::report(&kinds);
    }
    if let Some(which) = value("--rivals") {
        let may_be_busy = args.iter().any(|a| a == "--busy");
        return rivals::report(&which, pairs, duration, may_be_busy);
    }
    if let Some(extent) = value("--curves") {
        let extent = curves::Extent::named(&extent).expect("--curves all, or quick");
        return curves::report(extent);
    }
    if let Some(keys) = value("--snapshots") {
        return snapshots::report(keys.parse().expect("a number"), pairs, duration);
    }
    if args.iter().any(|a| a == "--reads") {
        return reads::report(pairs, &connections, duration);
    }
    if args.iter().any(|a| a == "--cluster") {
        return cluster::report(
            &kinds,
            pairs,
            connections[0],
            duration,
            number("--rounds", 20.0) as usize,
        );
    }
    alternate(&names(&kinds), pairs, &rows(&connections), |i| {
        measure(kinds[i], &connections, duration)
    });
    if FORMER.get().is_none() {
        flash(Duration::from_secs_f64(number("--idle", 30.0)));
    }
}
