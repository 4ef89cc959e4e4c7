//! Network namespaces: each machine has one of its own, on a bridge, and the network between them
//! can lose what passes in either direction. Needs root and `ip`. The tests themselves reach every
//! machine all the time.
use crate::client::until;
use crate::server::Server;
use std::net::Ipv4Addr;
use std::process::Command;

fn try_ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.expect("ip, of iproute2");
    let text = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("ip {args}: {text}"))
}

fn ip(args: &str) {
    try_ip(args).expect("the network is changed");
}

/// What the network loses of what passes between one machine and the others.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Sent,
    Received,
    All,
}

/// A network that ends with this.
pub struct Net {
    /// In the names of devices and namespaces, and in the addresses.
    number: u8,
    count: usize,
    /// What is lost: from, to.
    lost: Vec<(usize, usize)>,
}

impl Net {
    pub fn start(count: usize) -> Net {
        let mut number = (std::process::id() % 250) as u8;
        let mut tries = 0..250;
        until("a number is free", || {
            tries.next().expect("one of them is free");
            number = (number + 1) % 250;
            try_ip(&format!("link add tern{number} type bridge")).ok()
        });
        let net = Net {
            number,
            count,
            lost: Vec::new(),
        };
        ip(&format!("addr add 10.213.{number}.254/24 dev tern{number}"));
        ip(&format!("link set tern{number} up"));
        for at in 0..count {
            let (name, address) = (net.name(at), net.address(at));
            ip(&format!("netns add {name}"));
            ip(&format!(
                "link add {name} type veth peer name eth0 netns {name}"
            ));
            ip(&format!("link set {name} master tern{number} up"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        net
    }

    fn name(&self, at: usize) -> String {
        format!("tern{}m{at}", self.number)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, at as u8 + 1)
    }

    /// That many machines of one cluster, one in each namespace, running.
    pub fn cluster(&self, args: &[&str]) -> Vec<Server> {
        let mut servers: Vec<Server> = Vec::new();
        for at in 0..self.count {
            let mut server = Server::prepare_as(&format!("node{}", at + 1), args);
            (server.host, server.client_port, server.peer_port) = (self.address(at), 4001, 7001);
            server.namespace = Some(self.name(at));
            server.args.push("-retry-interval=0.2".to_string());
            let peers: Vec<String> = servers.iter().map(|s| s.peer_at().to_string()).collect();
            if at > 0 {
                server.args.push(format!("-peers={}", peers.join(",")));
            }
            server.run();
            servers.push(server);
        }
        servers
    }

    /// Begins to lose what one sends another.
    pub fn lose(&mut self, from: usize, to: usize) {
        if from != to && !self.lost.contains(&(from, to)) {
            ip(&format!(
                "-n {} route add blackhole {}/32",
                self.name(from),
                self.address(to)
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
                self.name(from),
                self.address(to)
            ));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for at in 0..self.count {
            let _ = try_ip(&format!("link del {}", self.name(at)));
            let _ = try_ip(&format!("netns del {}", self.name(at)));
        }
        let _ = try_ip(&format!("link del tern{}", self.number));
    }
}
