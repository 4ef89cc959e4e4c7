//! A running tern: free ports, a directory of its own, ended by its id.
use crate::client::{Answer, Conn, until};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A machine that may run, with what it needs to run again.
pub struct Server {
    /// Its directory; the data directory is below it.
    pub home: tempfile::TempDir,
    pub client_port: u16,
    pub peer_port: u16,
    /// Further arguments; each run takes them.
    pub args: Vec<String>,
    /// What the shell's `ulimit` is to set before it starts.
    pub ulimit: Option<&'static str>,
    child: Option<Child>,
}

/// Two ports that nobody listens on.
fn free_ports() -> (u16, u16) {
    let bind = || TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let (one, two) = (bind(), bind());
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    (port(&one), port(&two))
}

/// The binary under test.
pub fn tern() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command
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
        let home = tempfile::tempdir().expect("a directory");
        let (client_port, peer_port) = free_ports();
        Server {
            home,
            client_port,
            peer_port,
            args: args.iter().map(|arg| arg.to_string()).collect(),
            ulimit: None,
            child: None,
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Where stdout and stderr of all runs go.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.home.path().join(name));
        read("log").unwrap_or_default()
    }

    /// The command that runs it on this data directory.
    pub fn command(&self, data_dir: &Path) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("a log file");
        let mut command = match self.ulimit {
            None => tern(),
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script, env!("CARGO_BIN_EXE_tern")]);
                shell
            }
        };
        command
            .args(["-name", "node1"])
            .args(["-addr", &format!("127.0.0.1:{}", self.client_port)])
            .args(["-peer-addr", &format!("127.0.0.1:{}", self.peer_port)])
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
        assert!(self.child.is_none(), "it runs already");
        let child = self.command(data_dir).spawn().expect("the binary starts");
        self.child = Some(child);
        until("the server is ready", || {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("a child") {
                self.child = None;
                panic!("it ended with {status}: {}", self.log());
            }
            self.is_ready().then_some(())
        });
    }

    fn is_ready(&self) -> bool {
        let listens = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !listens(self.client_port) || !listens(self.peer_port) {
            return false;
        }
        let answer = self.client("HEAD", "/v2/keys/", "");
        answer.status() == 200 && answer.head.etcd_index() >= 2
    }

    /// One request to the client port on a connection of its own.
    pub fn client(&self, method: &str, target: &str, body: &str) -> Answer {
        Conn::open(self.client_port).ask(method, target, body)
    }

    /// One request to the peer port on a connection of its own.
    pub fn peer(&self, method: &str, target: &str, body: &str) -> Answer {
        Conn::open(self.peer_port).ask(method, target, body)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
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
