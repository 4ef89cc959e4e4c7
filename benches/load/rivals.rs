//! tern beside other servers and beside the floors, in alternating runs: writes, reads, events.
//! Each claim is a ratio of figures of one run on one machine.
//!
//! A program that is not installed is left out with a line. Start with `report`.
use crate::driver::{Load, Mode, fill, run};
use crate::floors::Floor;
use crate::table::alternate;
use crate::{Kind, command, free_port, proc};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that one column of a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Tern,
    Etcd,
    /// With `appendfsync always`: it syncs before it answers, as tern does.
    Redis,
    /// Answers a constant.
    Nginx,
    Floor(Floor),
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Tern => "tern",
            Subject::Etcd => "etcd",
            Subject::Redis => "Redis",
            Subject::Nginx => "nginx",
            Subject::Floor(_) => "floor",
        }
    }

    /// The command that starts it with its data in this directory.
    fn command(self, directory: &Path, port: u16) -> Command {
        match self {
            Subject::Tern => command(Kind::Tern, directory, port, free_port()),
            Subject::Etcd => command(Kind::Etcd, directory, port, free_port()),
            Subject::Redis => {
                let mut c = Command::new("redis-server");
                c.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                c.args(["--appendonly", "yes", "--appendfsync", "always"]);
                c.args(["--save", "", "--dir"]).arg(directory);
                c
            }
            Subject::Nginx => {
                let path = directory.join("nginx.conf");
                std::fs::write(&path, nginx_settings(directory, port)).expect("it is written");
                let mut c = Command::new("nginx");
                c.arg("-p").arg(directory).arg("-c").arg(path);
                c.args(["-e", "stderr"]);
                c
            }
            Subject::Floor(floor) => {
                let program = std::env::current_exe().expect("this program has a path");
                let mut c = Command::new(program);
                c.args(["--floor", floor.name(), &port.to_string()]);
                c.arg(directory);
                c
            }
        }
    }

    /// The mode of the driver for a PUT to this server.
    fn put(self) -> Mode {
        match self {
            Subject::Redis => Mode::RedisSet,
            _ => Mode::Put,
        }
    }

    /// The program that must be installed; `None` if it is part of this build.
    fn program(self) -> Option<String> {
        match self {
            Subject::Tern | Subject::Floor(_) => None,
            Subject::Etcd => Some(std::env::var("ETCD").unwrap_or("etcd".into())),
            Subject::Redis => Some("redis-server".into()),
            Subject::Nginx => Some("nginx".into()),
        }
    }

    /// Whether its program is installed. Prints a line if it is not.
    fn is_there(self) -> bool {
        let Some(program) = self.program() else {
            return true;
        };
        // Not started to find out: each has another flag that starts no server.
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&folders);
        let is_there = folders.any(|folder| folder.join(&program).is_file());
        if !is_there {
            println!("skipped: {} ({program} is not installed)", self.name());
        }
        is_there
    }
}

fn nginx_settings(directory: &Path, port: u16) -> String {
    let answer = format!(
        r#"{{"action":"get","node":{{"key":"/load/0001234","value":"{}","modifiedIndex":1234,"createdIndex":1234}}}}"#,
        "x".repeat(64)
    );
    let root = directory.display();
    format!(
        "worker_processes 1;\ndaemon off;\npid {root}/pid;\n\
         events {{ worker_connections 20000; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  default_type application/json;\n\
         client_body_temp_path {root}/body;\n  proxy_temp_path {root}/proxy;\n\
         fastcgi_temp_path {root}/fastcgi;\n  uwsgi_temp_path {root}/uwsgi;\n  scgi_temp_path {root}/scgi;\n\
         server {{\n    listen 127.0.0.1:{port};\n\
         location / {{ add_header X-Etcd-Index 10001; add_header X-Raft-Index 10003;\n\
         add_header X-Raft-Term 2; return 200 '{answer}'; }}\n  }}\n}}\n"
    )
}

/// A running server; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A worker of nginx ends with its master only if that is asked to end.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a server on a fresh directory beside the build, on its disk.
    fn start(subject: Subject) -> Running {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("a directory beside the build");
        let port = free_port();
        let child = subject
            .command(directory.path(), port)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{subject:?} does not start: {e}"));
        let running = Running {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _directory: directory,
        };
        let started = Instant::now();
        while !running.answers(subject) {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(60), "{subject:?}: no answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    }

    fn answers(&self, subject: Subject) -> bool {
        if TcpStream::connect(self.address).is_err() {
            return false;
        }
        let probe = Load {
            requests_max: 1,
            ..self.load(subject.put(), 1, Duration::from_secs(1))
        };
        run(&probe).is_ok()
    }

    fn load(&self, mode: Mode, connections: usize, duration: Duration) -> Load {
        Load::of(self.address, mode, connections, duration)
    }

    /// The processor time of the server and its children so far, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let own = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().filter_map(|n| n.parse().ok());
        let all = std::iter::once(own).chain(children);
        let times = all.filter_map(|pid| proc::cpu_time(pid).ok());
        times.map(|time| time.as_secs_f64()).sum()
    }

    /// Requests a second, p99 in microseconds, and the server's processor time a request in
    /// microseconds.
    fn measure(&self, load: &Load) -> [f64; 3] {
        let before = self.cpu_seconds();
        let report = run(load).unwrap_or_else(|e| panic!("{:?}: {e}", load.mode));
        let cpu = self.cpu_seconds() - before;
        [
            report.per_second(),
            report.latency.value_at_quantile(0.99) as f64,
            cpu * 1e6 / report.requests as f64,
        ]
    }
}

/// One table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    Writes,
    Reads,
    Events,
}

impl Area {
    /// The installed servers of this area: tern first, then its rivals and the floor.
    fn subjects(self) -> Vec<Subject> {
        let all = match self {
            Area::Writes => [
                Subject::Tern,
                Subject::Redis,
                Subject::Floor(Floor::Commits),
                Subject::Etcd,
            ]
            .to_vec(),
            Area::Reads => [
                Subject::Tern,
                Subject::Nginx,
                Subject::Floor(Floor::Constant),
                Subject::Etcd,
            ]
            .to_vec(),
            Area::Events => [Subject::Tern, Subject::Floor(Floor::FanOut), Subject::Etcd].to_vec(),
        };
        all.into_iter().filter(|s| s.is_there()).collect()
    }

    fn rows(self, connections: &[usize]) -> Vec<String> {
        let mut rows = Vec::new();
        for n in connections {
            let (what, figures) = match self {
                Area::Writes => (format!("PUT, {n} connections"), REQUEST_FIGURES),
                Area::Reads => (format!("GET, {n} connections"), REQUEST_FIGURES),
                Area::Events => (format!("event to {n} watchers"), EVENT_FIGURES),
            };
            rows.extend(figures.map(|figure| format!("{what}: {figure}")));
        }
        rows
    }

    fn measure(self, subject: Subject, connections: &[usize], duration: Duration) -> Vec<f64> {
        let server = Running::start(subject);
        let mut figures = Vec::new();
        for &n in connections {
            figures.extend(match self {
                Area::Writes => server.measure(&server.load(subject.put(), n, duration)),
                Area::Reads => {
                    let load = server.load(Mode::Get, n, duration);
                    fill(&load).expect("the keys are set");
                    server.measure(&load)
                }
                Area::Events => events(&server, &server.load(Mode::Watch, n, duration)),
            });
        }
        figures
    }
}

const REQUEST_FIGURES: [&str; 3] = ["requests a second", "p99, us", "server CPU, us a request"];
const EVENT_FIGURES: [&str; 3] = [
    "first told, ms",
    "last told, ms",
    "server CPU, us a watcher",
];

/// The medians of when the first and the last watcher was told, in milliseconds, and the server's
/// processor time a watcher in microseconds.
fn events(server: &Running, load: &Load) -> [f64; 3] {
    // The watchers register outside of the measurement: their count is known beforehand.
    let before = server.cpu_seconds();
    let idle = Load {
        requests_max: 0,
        ..*load
    };
    run(&idle).unwrap_or_else(|e| panic!("{:?}: {e}", load.mode));
    let registering = server.cpu_seconds() - before;
    let before = server.cpu_seconds();
    let report = run(load).unwrap_or_else(|e| panic!("{:?}: {e}", load.mode));
    let cpu = server.cpu_seconds() - before - registering;
    let first = report.spans.iter().map(|span| span.0 / 1e3).collect();
    let last = report.spans.iter().map(|span| span.1 / 1e3).collect();
    [
        crate::table::median(first),
        crate::table::median(last),
        cpu * 1e6 / report.requests as f64,
    ]
}

/// Measures and prints the tables of the areas that `which` names: `writes`, `reads`, `events` or
/// `all`. Each subject is measured `rounds` times, with loads of this duration.
pub fn report(which: &str, rounds: usize, duration: Duration, may_be_busy: bool) {
    let areas = [
        ("writes", Area::Writes, vec![1, 16, 64, 256]),
        ("reads", Area::Reads, vec![16, 64, 256]),
        ("events", Area::Events, vec![1_000, 10_000]),
    ];
    for (name, area, connections) in areas {
        if which != name && which != "all" {
            continue;
        }
        let subjects = area.subjects();
        let names: Vec<&str> = subjects.iter().map(|s| s.name()).collect();
        alternate(&names, rounds, &area.rows(&connections), |i| {
            if !may_be_busy {
                crate::quiet::wait();
            }
            area.measure(subjects[i], &connections, duration)
        });
        println!();
    }
}
