//! A network between machines: each has a network namespace of its own, on a bridge, and the network
//! can lose what passes in either direction. The test reaches every machine all the time; it runs
//! in namespaces of its own (`namespace::enter`), and everything here ends with them.
use crate::fleet::{PERSISTENT, votes};
use crate::line::{Line, Lines, open_device};
use crate::server::Server;
use std::net::Ipv4Addr;
use std::process::Command;

/// The bridge that joins all machines to the test.
const BRIDGE: &str = "bridge";
/// The test itself on that bridge.
const TEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 254);

/// Calls `ip`, which has to succeed.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {text}");
}

/// What the network loses of what passes between one machine and the others.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Sent,
    Received,
    All,
}

/// A network of machines, by their numbers from 0.
#[derive(Debug)]
pub struct Net {
    count: usize,
    /// What is lost: from, to.
    lost: Vec<(usize, usize)>,
    /// The lines between the machines, if they are not perfect.
    lines: Option<Lines>,
}

fn name(at: usize) -> String {
    format!("m{at}")
}

fn address(at: usize) -> Ipv4Addr {
    let last = u8::try_from(at + 1).expect("fewer machines than addresses");
    Ipv4Addr::new(10, 213, 0, last)
}

impl Net {
    /// Makes the bridge and that many namespaces.
    pub fn start(count: usize) -> Net {
        ip(&format!("link add {BRIDGE} type bridge"));
        ip(&format!("addr add {TEST_ADDRESS}/24 dev {BRIDGE}"));
        ip(&format!("link set {BRIDGE} up"));
        for at in 0..count {
            let (name, address) = (name(at), address(at));
            ip(&format!("netns add {name}"));
            ip(&format!(
                "link add {name} type veth peer name eth0 netns {name}"
            ));
            ip(&format!("link set {name} master {BRIDGE} up"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        Net {
            count,
            lost: Vec::new(),
            lines: None,
        }
    }

    /// From now on packets between machines travel over such lines. Call it before `lose`.
    pub fn set_line(&mut self, line: Line) {
        let Some(lines) = &self.lines else {
            return self.start_lines(line);
        };
        lines.set(line);
    }

    fn start_lines(&mut self, line: Line) {
        let mut devices = Vec::new();
        for at in 0..self.count {
            let (name, own) = (name(at), address(at));
            let device = format!("line{at}");
            devices.push(open_device(&device));
            ip(&format!("link set {device} netns {name}"));
            ip(&format!("-n {name} link set {device} up"));
            for other in (0..self.count).filter(|other| *other != at) {
                let other = address(other);
                ip(&format!(
                    "-n {name} route add {other}/32 dev {device} src {own}"
                ));
            }
        }
        let count = self.count;
        let place_of = move |to| (0..count).find(|at| address(*at) == to);
        self.lines = Some(Lines::start(devices, line, place_of));
    }

    /// A machine in each namespace, all of one cluster, running.
    pub fn cluster(&self, args: &[&str]) -> Vec<Server> {
        self.cluster_of(self.count, args)
    }

    /// The same in the first `count` namespaces.
    pub fn cluster_of(&self, count: usize, args: &[&str]) -> Vec<Server> {
        let mut servers: Vec<Server> = Vec::new();
        for at in 0..count {
            let mut server = Server::prepare_as(&format!("node{}", at + 1), args);
            server.host = address(at);
            server.client_port = 4001;
            server.peer_port = 7001;
            server.namespace = Some(name(at));
            server.args.push("-retry-interval=0.2".to_string());
            server.args.push(PERSISTENT.to_string());
            let peers: Vec<String> = servers.iter().map(|s| s.peer_at().to_string()).collect();
            if at > 0 {
                server.args.push(format!("-peers={}", peers.join(",")));
            }
            server.run();
            servers.push(server);
        }
        votes(&servers[0], count);
        servers
    }

    /// Begins to lose what one sends another.
    pub fn lose(&mut self, from: usize, to: usize) {
        if from != to && !self.lost.contains(&(from, to)) {
            ip(&format!(
                "-n {} route add blackhole {}/32",
                name(from),
                address(to)
            ));
            self.lost.push((from, to));
        }
    }

    /// Begins to lose what passes between one machine and all others.
    pub fn cut_off(&mut self, at: usize, loss: Loss) {
        for other in 0..self.count {
            if let Loss::Sent | Loss::All = loss {
                self.lose(at, other);
            }
            if let Loss::Received | Loss::All = loss {
                self.lose(other, at);
            }
        }
    }

    /// Begins to lose all that passes between these and the rest.
    pub fn split(&mut self, some: &[usize]) {
        for one in some {
            for other in (0..self.count).filter(|other| !some.contains(other)) {
                self.lose(*one, other);
                self.lose(other, *one);
            }
        }
    }

    /// Nothing is lost any more.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.lost) {
            ip(&format!(
                "-n {} route del blackhole {}/32",
                name(from),
                address(to)
            ));
        }
    }
}
