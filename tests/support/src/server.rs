//! A tern process: free ports, a directory of its own, ended by its process id.
use crate::binary;
use crate::client::{Answer, Conn, until};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A machine that may run, with what it needs to run again.
pub struct Server {
    pub name: String,
    /// Its directory; the data directory is below it.
    pub home: tempfile::TempDir,
    /// What both ports are bound to and advertised on.
    pub host: Ipv4Addr,
    pub client_port: u16,
    pub peer_port: u16,
    /// The network namespace that it runs in.
    pub namespace: Option<String>,
    /// Further arguments; each run takes them.
    pub args: Vec<String>,
    /// A command of the shell in the process before it starts: `ulimit -n 80`.
    pub before: Option<String>,
    pub syncs: Syncs,
    child: Option<Child>,
}

/// How the syncs of the process behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    Real,
    /// `strace` answers them with success.
    LeftOut,
    /// `strace` holds each up for so many milliseconds, and the thread with it: a slow disk.
    Slow(u64),
}

/// The ports of servers. They are below those that the system gives to connections and for port 0,
/// so no other socket takes a port whose server does not listen yet, or not at the moment.
const PORTS: Range<u16> = 10_000..32_000;

/// A free port that was not handed out before: the server that holds it may not listen yet.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Test binaries that run side by side begin at different ports.
    let first = std::process::id().wrapping_mul(7_919);
    loop {
        let place = first.wrapping_add(COUNT.fetch_add(1, Relaxed)) % PORTS.len() as u32;
        let port = PORTS.start + place as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The command that runs the binary under test, without settings from this environment.
pub fn tern() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command
}

/// All system calls that sync.
const SYNCS: &str = "fsync,fdatasync,msync,sync_file_range";

/// The arguments of `strace` that change these calls.
fn inject(calls: &str, injected: &str) -> [String; 4] {
    [
        "-e".into(),
        format!("trace={calls}"),
        "-e".into(),
        format!("inject={calls}:{injected}"),
    ]
}

/// A `strace` that changes the syncs of a process that runs. Dropped, it leaves the process alone.
pub struct ChangedSyncs(Child);

impl Drop for ChangedSyncs {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // It lets go of the process and ends.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Syncs {
    fn command(self) -> Command {
        let injected = match self {
            Syncs::Real => return tern(),
            Syncs::LeftOut => "retval=0".to_string(),
            Syncs::Slow(ms) => format!("delay_enter={}", ms * 1000),
        };
        let mut strace = Command::new("strace");
        // -D: the server stays this process's child.
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"]);
        strace.args(inject(SYNCS, &injected)).arg(binary());
        strace
    }
}

impl Server {
    /// A machine of its own cluster, running and ready.
    pub fn start(args: &[&str]) -> Server {
        let mut server = Server::prepare(args);
        server.run();
        server
    }

    /// A machine that does not run yet.
    pub fn prepare(args: &[&str]) -> Server {
        Server::prepare_as("node1", args)
    }

    /// The same with another name.
    pub fn prepare_as(name: &str, args: &[&str]) -> Server {
        let home = tempfile::tempdir().expect("a directory");
        let (client_port, peer_port) = (free_port(), free_port());
        Server {
            name: name.to_string(),
            home,
            host: Ipv4Addr::LOCALHOST,
            client_port,
            peer_port,
            namespace: None,
            args: args.iter().map(|arg| arg.to_string()).collect(),
            before: None,
            syncs: Syncs::Real,
            child: None,
        }
    }

    /// Where clients reach it.
    pub fn client_at(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.client_port))
    }

    /// Where peers reach it.
    pub fn peer_at(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.peer_port))
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The finished snapshot files of its data directory, oldest first.
    pub fn snapshots(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data_dir().join("snapshot")).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|e| e == "snap"))
            .collect();
        paths.sort();
        paths
    }

    /// Where stdout and stderr of all runs go.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.home.path().join(name));
        read("log").unwrap_or_default()
    }

    /// Waits until a line of the log contains the text.
    pub fn wait_for_log(&self, text: &str) {
        until(&format!("the log says: {text}"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// The command that runs it on this data directory.
    pub fn command(&self, data_dir: &Path) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("a log file");
        let mut command = match &self.before {
            None => match &self.namespace {
                None => self.syncs.command(),
                Some(namespace) => {
                    let mut ip = Command::new("ip");
                    ip.args(["netns", "exec", namespace]).arg(binary());
                    ip
                }
            },
            Some(before) => {
                let mut shell = Command::new("sh");
                let script = format!("{before} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(binary());
                shell
            }
        };
        command
            .args(["-name", &self.name])
            .args(["-addr", &self.client_at().to_string()])
            .args(["-peer-addr", &self.peer_at().to_string()])
            .arg("-data-dir")
            .arg(data_dir)
            .args(&self.args)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        command
    }

    /// Starts it and waits until it serves.
    pub fn run(&mut self) {
        self.run_on(&self.data_dir());
    }

    /// The same with another data directory.
    pub fn run_on(&mut self, data_dir: &Path) {
        self.run_until(data_dir, |answer| {
            answer.status() == 200 && answer.head.etcd_index() >= 2
        });
    }

    /// Starts it; false when it ends instead of serving.
    pub fn try_run_on(&mut self, data_dir: &Path) -> bool {
        self.try_run_until(data_dir, |answer| answer.status() == 200)
    }

    fn run_until(&mut self, data_dir: &Path, is_ready: impl Fn(&Answer) -> bool) {
        let serves = self.try_run_until(data_dir, is_ready);
        assert!(serves, "it ended: {}", self.log());
    }

    fn try_run_until(&mut self, data_dir: &Path, is_ready: impl Fn(&Answer) -> bool) -> bool {
        self.spawn_on(data_dir);
        self.wait_until(is_ready)
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        self.spawn_on(&self.data_dir());
    }

    fn spawn_on(&mut self, data_dir: &Path) {
        assert!(self.child.is_none(), "it runs already");
        let child = self.command(data_dir).spawn().expect("the binary starts");
        self.child = Some(child);
    }

    /// Waits until it serves.
    pub fn wait(&mut self) {
        let serves = self.wait_until(|answer| answer.status() == 200);
        assert!(serves, "it ended: {}", self.log());
    }

    fn wait_until(&mut self, is_ready: impl Fn(&Answer) -> bool) -> bool {
        until("the server is ready or has ended", || {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("a child").is_some() {
                self.child = None;
                return Some(false);
            }
            let answer = self.probe()?;
            is_ready(&answer).then_some(true)
        })
    }

    /// The answer to a client once both ports listen.
    fn probe(&self) -> Option<Answer> {
        Conn::try_open(self.peer_at())?;
        Conn::try_open(self.client_at())?.try_ask("HEAD", "/v2/keys/", "")
    }

    /// One request to the client port on a connection of its own.
    pub fn client(&self, method: &str, target: &str, body: &str) -> Answer {
        Conn::open(self.client_at()).ask(method, target, body)
    }

    /// One request to the peer port on a connection of its own.
    pub fn peer(&self, method: &str, target: &str, body: &str) -> Answer {
        Conn::open(self.peer_at()).ask(method, target, body)
    }

    /// Whether it was started and not ended since.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// From now on its syncs are changed as the option `inject` of `strace` says: `error=EIO`.
    pub fn change_syncs(&self, injected: &str) -> ChangedSyncs {
        self.change_calls(SYNCS, injected)
    }

    /// From now on these system calls are changed as the option `inject` of `strace` says. `fsync`:
    /// the syncs of folders.
    pub fn change_calls(&self, calls: &str, injected: &str) -> ChangedSyncs {
        let told = self.home.path().join("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-p", &self.pid().to_string()]);
        strace.args(inject(calls, injected));
        strace.stderr(File::create(&told).expect("a file"));
        let strace = ChangedSyncs(strace.spawn().expect("strace starts"));
        until("strace is attached", || {
            let text = std::fs::read_to_string(&told).ok()?;
            text.contains("attached").then_some(())
        });
        strace
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child that runs");
        child.wait().expect("a child");
    }

    /// A signal by its number.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("a child that runs");
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        until("it has ended", || child.try_wait().expect("a child"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
    }
}
