//! Three built binaries in network namespaces of their own, and a network that loses what one of them sends, what it is
//! sent, or both. Needs root and `ip`, for the namespaces; the test itself reaches every machine all the time.
#[path = "blackbox/client.rs"]
#[allow(dead_code)]
mod client;

use client::{Answer, Conn, until};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {text}");
}

/// What the network loses of what passes between one machine and the others.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Sent,
    Received,
    All,
}

struct Net {
    /// In the names of devices and namespaces, and in the addresses.
    number: u32,
    machines: Vec<Child>,
    home: tempfile::TempDir,
}

impl Net {
    fn start() -> Net {
        let number = std::process::id() % 200;
        let mut net = Net { number, machines: Vec::new(), home: tempfile::tempdir().expect("a directory") };
        let bridge = format!("tern{number}");
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add 10.213.{number}.254/24 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        for at in 0..3 {
            let (name, address) = (net.name(at), net.address(at));
            ip(&format!("netns add {name}"));
            ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
            ip(&format!("link set {name} master {bridge} up"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            net.run(at);
        }
        net
    }

    fn name(&self, at: usize) -> String {
        format!("tern{}m{at}", self.number)
    }

    fn address(&self, at: usize) -> String {
        format!("10.213.{}.{}", self.number, at + 1)
    }

    fn run(&mut self, at: usize) {
        let address = self.address(at);
        let mut command = Command::new("ip");
        let binary = env!("CARGO_BIN_EXE_tern");
        command.args(["netns", "exec", &self.name(at), binary]);
        command.args(["-name", &format!("m{at}"), "-data-dir", &format!("m{at}")]);
        command.arg(format!("-addr={address}:4001"));
        command.arg(format!("-peer-addr={address}:7001"));
        if at > 0 {
            command.arg(format!("-peers={}:7001", self.address(0)));
        }
        let log = std::fs::File::create(self.home.path().join(format!("log{at}")));
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(log.expect("a log file"));
        self.machines.push(command.spawn().expect("it starts"));
        until("it serves", || {
            let answer = self.ask(at, "GET", "/v2/keys/", "")?;
            (answer.status() == 200).then_some(())
        });
    }

    /// `None`: no connection, or it broke.
    fn ask(&self, at: usize, method: &str, target: &str, body: &str) -> Option<Answer> {
        let address = format!("{}:4001", self.address(at)).parse();
        let address = address.expect("an address");
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        Conn::over(stream).try_ask(method, target, body)
    }

    /// The leader that all of `among` name, if it is one of them.
    fn leader(&self, among: &[usize]) -> usize {
        until("they know the same leader", || {
            let told = |at: &usize| {
                let answer = self.ask(*at, "GET", "/v2/leader", "")?;
                (answer.status() == 200).then(|| answer.text().to_string())
            };
            let told: Option<Vec<String>> = among.iter().map(told).collect();
            let told = told?;
            let same = told.iter().all(|url| *url == told[0]);
            let url = |at: &&usize| told[0] == format!("http://{}:7001", self.address(**at));
            among.iter().find(url).copied().filter(|_| same)
        })
    }

    fn put(&self, at: usize, key: &str) -> bool {
        let answer = self.ask(at, "PUT", &format!("/v2/keys/{key}"), "value=x");
        answer.is_some_and(|a| matches!(a.status(), 200 | 201))
    }

    fn shows(&self, at: usize, key: &str) -> bool {
        let answer = self.ask(at, "GET", &format!("/v2/keys/{key}"), "");
        answer.is_some_and(|a| a.status() == 200)
    }

    /// Begins (`add`) or ends (`del`) to lose what passes between a machine and the others.
    fn lose(&self, verb: &str, at: usize, loss: Loss) {
        for other in (0..3).filter(|other| *other != at) {
            let route = |from: usize, to: usize| {
                let (name, address) = (self.name(from), self.address(to));
                ip(&format!("-n {name} route {verb} blackhole {address}/32"));
            };
            if let Loss::Sent | Loss::All = loss {
                route(at, other);
            }
            if let Loss::Received | Loss::All = loss {
                route(other, at);
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let _ = machine.kill();
            let _ = machine.wait();
            if std::thread::panicking() {
                let log = self.home.path().join(format!("log{at}"));
                eprintln!("{}", std::fs::read_to_string(log).unwrap_or_default());
            }
        }
        let quietly = |args: String| {
            let _ = Command::new("ip").args(args.split(' ')).output();
        };
        for at in 0..3 {
            quietly(format!("link del {}", self.name(at)));
            quietly(format!("netns del {}", self.name(at)));
        }
        quietly(format!("link del tern{}", self.number));
    }
}

/// The leader acknowledges nothing and answers no linearizable read; the others go on without it; what was acknowledged
/// is everywhere when the network has healed, and what was not is nowhere.
#[test]
fn a_leader_that_is_cut_off() {
    let net = Net::start();
    let mut acknowledged = Vec::new();
    for (round, loss) in [Loss::All, Loss::Sent, Loss::Received].into_iter().enumerate() {
        let old = net.leader(&[0, 1, 2]);
        let key = format!("before{round}");
        assert!(net.put(old, &key));
        acknowledged.push(key);
        net.lose("add", old, loss);
        let rest: Vec<usize> = (0..3).filter(|at| *at != old).collect();
        let new = net.leader(&rest);
        assert_ne!(new, old);
        assert!(!net.put(old, &format!("lost{round}")), "{loss:?}");
        let read = format!("/v2/keys/before{round}?quorum=true");
        let read = net.ask(old, "GET", &read, "").expect("an answer");
        assert_ne!(read.status(), 200, "{loss:?}");
        let key = format!("meanwhile{round}");
        until("the others take a write", || net.put(net.leader(&rest), &key).then_some(()));
        acknowledged.push(key);
        net.lose("del", old, loss);
        for at in 0..3 {
            for key in &acknowledged {
                until("it has all that was acknowledged", || net.shows(at, key).then_some(()));
            }
            assert!(!net.shows(at, &format!("lost{round}")));
        }
    }
}
