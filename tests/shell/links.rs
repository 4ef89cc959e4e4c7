//! Three machines in one process that talk over real sockets, and raw sockets that say hello to
//! them.
//!
//! Each machine has its own reactor, directory and thread; they are given a common beginning with
//! all three as members, so that nothing but the links is needed. They end with the process.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tern::codec::http::upgrade;
use tern::codec::peer::frame::{self, FrameContent, Frames};
use tern::codec::peer::hello;
use tern::core::machine::{Machine, Recovered};
use tern::core::peers::{Hello, HelloRefusal};
use tern::core::raft::{
    Configuration, Entry, EntryBody, FetchResult, Index, Member, Message, PeerId, Rpc, Term,
};
use tern::core::store::{HistoryLimits, Restore, Store};
use tern::shell::clock::Clock;
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::Disk;
use tern::shell::reactor::{BoundPort, Reactor};
use tern_support::client::{self, Conn, form, request, until};

pub const CLUSTER: u64 = 0xc1;

/// One machine's ports.
#[derive(Clone, Copy)]
pub struct Ports {
    pub client: u16,
    pub peer: u16,
    election_ms: u32,
    /// Peers speak TLS to each other.
    tls: bool,
}

fn config(number: usize, ports: Ports, dir: &std::path::Path) -> Config {
    let mut args: Vec<String> = [
        "-name".into(),
        format!("m{number}"),
        "-addr".into(),
        format!("127.0.0.1:{}", ports.client),
        "-peer-addr".into(),
        format!("127.0.0.1:{}", ports.peer),
        "-data-dir".into(),
        dir.to_str().expect("a path").into(),
        "-peer-election-timeout".into(),
        ports.election_ms.to_string(),
    ]
    .into();
    for (flag, name) in [
        ("-peer-ca-file", "authority.pem"),
        ("-peer-cert-file", "machine.pem"),
        ("-peer-key-file", "machine.key"),
    ] {
        if ports.tls {
            let root = env!("CARGO_MANIFEST_DIR");
            args.extend([flag.into(), format!("{root}/tests/testdata/tls/{name}")]);
        }
    }
    match config::parse(&ProcessInputs::of_args(&args))
        .unwrap_or_else(|usage| panic!("{}", usage.0))
    {
        Start::Run(config) => *config,
        Start::Print(text) => panic!("{text}"),
    }
}

impl Ports {
    fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

fn member(number: u64, ports: Ports) -> Member {
    Member {
        id: PeerId(number),
        name: format!("m{number}").into(),
        peer_url: format!("{}://127.0.0.1:{}", ports.scheme(), ports.peer).into(),
        client_url: format!("http://127.0.0.1:{}", ports.client).into(),
        incarnation: number * 1000,
        voter: true,
        added_as: None,
    }
}

/// The key space that all begin with.
fn store(founder: &Config) -> Store {
    let founding = Machine::bootstrap(&founder.settings(), 1000, 5);
    let mut restore = Restore::new(HistoryLimits {
        events: 1000,
        bytes: 16 << 20,
    });
    for chunk in &founding.chunks {
        restore.chunk(chunk).expect("a good snapshot");
    }
    restore.finish().expect("a whole snapshot")
}

fn run(number: u64, bounds: [BoundPort; 2], all: Vec<Ports>) {
    let dir = tempfile::tempdir().expect("a directory");
    let at = number as usize - 1;
    let config = config(at + 1, all[at], &dir.path().join("data"));
    let founder = self::config(1, all[0], dir.path());
    let (disk, found) = Disk::open(&config).expect("a new directory");
    let (mut meta, _) = found.snapshot.expect("it has founded a cluster");
    meta.cluster = CLUSTER;
    let members = all.iter().zip(1..).map(|(ports, n)| member(n, *ports));
    meta.configuration = Configuration {
        members: members.collect(),
        barred: Vec::new(),
    };
    let clock = Clock::new();
    let recovered = Recovered {
        id: Some(PeerId(number)),
        incarnation: number * 1000,
        snapshot: Some((meta, store(&founder))),
        ..found
    };
    let machine = Machine::recover(config.settings(), recovered, number, clock.now());
    let reactor = Reactor::new(&config, bounds, clock, disk, machine).expect("it listens");
    reactor.run(|| {});
}

/// The machines of this process, once for all tests: they run beside each other.
static MACHINES: LazyLock<Vec<Ports>> = LazyLock::new(|| start(false, 3, 1_000));

/// Starts the first `count` of three machines without TLS.
pub fn start_some(count: usize, election_ms: u32) -> Vec<Ports> {
    start(false, count, election_ms)
}

fn start(tls: bool, count: usize, election_ms: u32) -> Vec<Ports> {
    let bind = || BoundPort::new("127.0.0.1:0").expect("a free port");
    let bounds: Vec<[BoundPort; 2]> = (0..3).map(|_| [bind(), bind()]).collect();
    let port = |bound: &BoundPort| bound.address().expect("bound").port();
    let ports = |[client, peer]: &[BoundPort; 2]| Ports {
        client: port(client),
        peer: port(peer),
        election_ms,
        tls,
    };
    let all: Vec<Ports> = bounds.iter().map(ports).collect();
    for (bounds, number) in bounds.into_iter().take(count).zip(1..) {
        let all = all.clone();
        std::thread::spawn(move || run(number, bounds, all));
    }
    all
}

pub fn ask(port: u16, bytes: &[u8]) -> Option<client::Answer> {
    let mut conn = Conn::try_open(port)?;
    conn.send(bytes);
    Some(conn.answer())
}

/// The number of the leader, from 1, as all of them see it.
fn leader() -> usize {
    leader_of(&MACHINES)
}

/// The number of the leader, from 1, as these see it.
pub fn leader_of(machines: &[Ports]) -> usize {
    until("all know the same leader", || {
        let leaders: Option<Vec<String>> = machines
            .iter()
            .map(|m| {
                let answer = ask(m.client, &request("GET", "/v2/leader", &[], b""))?;
                (answer.status() == 200).then(|| answer.text().to_string())
            })
            .collect();
        let leaders = leaders?;
        let place = |url: &str| {
            let mut all = machines.iter();
            all.position(|m| url.ends_with(&format!(":{}", m.peer)))
        };
        let same = leaders.windows(2).all(|pair| pair[0] == pair[1]);
        same.then(|| place(&leaders[0]).expect("one of them") + 1)
    })
}

pub fn put(port: u16, key: &str, value: &str) -> client::Answer {
    let bytes = form("PUT", &format!("/v2/keys/{key}"), &format!("value={value}"));
    ask(port, &bytes).expect("it listens")
}

pub fn get(port: u16, key: &str) -> client::Answer {
    let bytes = request("GET", &format!("/v2/keys/{key}"), &[], b"");
    ask(port, &bytes).expect("it listens")
}

#[test]
fn a_write_reaches_all_and_followers_point_to_the_leader() {
    let leader = leader();
    let at = |number: usize| MACHINES[number - 1];
    for (key, bytes) in [("small", 10), ("large", 1_000_000)] {
        let value = "v".repeat(bytes);
        let answer = put(at(leader).client, key, &value);
        assert_eq!(answer.status(), 201, "{}", answer.text());
        for machine in MACHINES.iter() {
            until("it has it", || {
                let answer = get(machine.client, key);
                (answer.status() == 200 && answer.text().contains(&value)).then_some(())
            });
        }
    }
    let follower = leader % 3 + 1;
    let answer = put(at(follower).client, "elsewhere", "x");
    assert_eq!(answer.status(), 307);
    let there = format!("http://127.0.0.1:{}/v2/keys/elsewhere", at(leader).client);
    assert_eq!(answer.head.header("Location"), Some(there.as_str()));
    let stats = ask(
        at(leader).client,
        &request("GET", "/v2/stats/leader", &[], b""),
    );
    let stats = stats.expect("it listens").json();
    assert_eq!(stats["followers"].as_object().expect("followers").len(), 2);
}

// -- raw sockets

fn hello(from: u64, to: usize) -> Hello {
    hello_at(&MACHINES, from, to)
}

/// The hello of the member `from` for the machine `to`.
pub fn hello_at(all: &[Ports], from: u64, to: usize) -> Hello {
    let ports = all.get(from as usize - 1).unwrap_or(&all[0]);
    let listed = member(from, *ports);
    Hello {
        from: PeerId(from),
        to: Some(PeerId(to as u64)),
        process: 0xabcdef,
        incarnation: from * 1000,
        cluster: Some(CLUSTER),
        receiver_incarnation: None,
        name: "stranger".into(),
        peer_url: listed.peer_url,
        client_url: listed.client_url,
    }
}

/// A link of the test's own.
pub struct Wire {
    pub stream: TcpStream,
    /// The machine has closed the link.
    pub has_ended: bool,
    input: Vec<u8>,
    frames: Frames,
}

impl Wire {
    fn open(to: usize, asks: &[u8]) -> (Wire, upgrade::UpgradeAnswer) {
        Wire::open_at(MACHINES[to - 1].peer, asks)
    }

    /// A connection to a peer port.
    pub fn connect(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port));
        let stream = stream.expect("it listens");
        let limit = Some(client::DEADLINE);
        stream.set_read_timeout(limit).expect("a socket option");
        Wire {
            stream,
            has_ended: false,
            input: Vec::new(),
            frames: Frames::default(),
        }
    }

    /// Asks for a link at a peer port.
    pub fn open_at(port: u16, asks: &[u8]) -> (Wire, upgrade::UpgradeAnswer) {
        let mut wire = Wire::connect(port);
        wire.stream.write_all(asks).expect("it reads");
        loop {
            if let Some((used, answer)) = upgrade::parse(&wire.input).expect("HTTP") {
                wire.input.drain(..used);
                return (wire, answer);
            }
            assert!(wire.fill(), "an answer before the end");
        }
    }

    fn say_hello(to: usize, hello: &Hello) -> (Wire, upgrade::UpgradeAnswer) {
        Wire::open(to, &upgrade::request("tern", &hello::encode(hello)))
    }

    /// From now on `ready` does not wait.
    pub fn poll_soon(&mut self) {
        let limit = Some(std::time::Duration::from_millis(1));
        self.stream
            .set_read_timeout(limit)
            .expect("a socket option");
    }

    /// A message that has arrived, if there is one. After `poll_soon` only.
    pub fn ready(&mut self) -> Option<Message> {
        loop {
            while let Some((used, taken)) = self.frames.take(&self.input).expect("frames") {
                self.input.drain(..used);
                if let FrameContent::Message(message) = taken {
                    return Some(message);
                }
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.has_ended = true,
                Ok(count) => {
                    self.input.extend_from_slice(&chunk[..count]);
                    continue;
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.has_ended = true,
            }
            return None;
        }
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.input.extend_from_slice(&chunk[..count]);
                count > 0
            }
            Err(e) => {
                assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
                false
            }
        }
    }

    /// The next message; `None`: the link was closed.
    fn next(&mut self) -> Option<Message> {
        loop {
            while let Some((used, taken)) = self.frames.take(&self.input).expect("frames") {
                self.input.drain(..used);
                if let FrameContent::Message(message) = taken {
                    return Some(message);
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        frame::put_urgent(message, &mut bytes).expect("short");
        self.stream.write_all(&bytes).expect("it reads");
    }
}

fn request_vote(term: u64) -> Message {
    Message {
        term: Term(term),
        rpc: Rpc::RequestVote {
            pre: false,
            hand_over: false,
            last_index: Index(1 << 40),
            last_term: Term(1 << 30),
        },
    }
}

#[cfg(feature = "tls")]
#[test]
fn links_over_tls() {
    let machines = start(true, 3, 1_000);
    let leader = leader_of(&machines);
    let value = "v".repeat(1_000_000);
    let answer = put(machines[leader - 1].client, "large", &value);
    assert_eq!(answer.status(), 201, "{}", answer.text());
    for machine in &machines {
        until("it has it", || {
            let answer = get(machine.client, "large");
            (answer.status() == 200 && answer.text().contains(&value)).then_some(())
        });
    }
}

#[test]
fn refused_hellos_get_the_reason() {
    let leader = leader();
    let assert_refused = |hello: &Hello, refusal: HelloRefusal| {
        let (mut wire, answer) = Wire::say_hello(leader, hello);
        while wire.fill() {}
        let is_denied = refusal == HelloRefusal::Denied;
        assert_eq!(answer.status, if is_denied { 403 } else { 409 });
        assert_eq!(answer.refused, Some(hello::encode_refusal(&refusal)));
    };
    let peer = leader % 3 + 1;
    let good = || hello(peer as u64, leader);
    // A stranger learns nothing but this, whatever else is wrong.
    let mut other = good();
    (other.cluster, other.incarnation) = (Some(9), 7);
    assert_refused(&other, HelloRefusal::Denied);
    other.to = Some(PeerId(peer as u64));
    assert_refused(&other, HelloRefusal::Denied);
    let mut other = good();
    other.to = Some(PeerId(peer as u64));
    assert_refused(&other, HelloRefusal::NotMe);
    let mut other = good();
    other.incarnation = 7;
    assert_refused(&other, HelloRefusal::OtherData);
    assert_refused(&hello(leader as u64, leader), HelloRefusal::MySelf);
    until("its link is open, a second process is refused", || {
        let (_, answer) = Wire::say_hello(leader, &good());
        let url = member(peer as u64, MACHINES[peer - 1]).peer_url;
        let refused = answer.refused.unwrap_or_default();
        (refused == format!("twice; {url}")).then_some(())
    });
    let asks = upgrade::request("tern", "rubbish");
    let (_, answer) = Wire::open(leader, &asks);
    assert_eq!(answer.status, 400);
    let asks = String::from_utf8(upgrade::request("tern", &hello::encode(&good()))).expect("text");
    let (_, answer) = Wire::open(
        leader,
        asks.replace(hello::PROTOCOL, "tern-raft/1").as_bytes(),
    );
    assert_eq!(answer.status, 426);
}

#[test]
fn a_removed_member_gets_a_notice_and_an_unknown_one_is_refused() {
    let leader = leader();
    for value in 0..8 {
        put(MACHINES[leader - 1].client, "more", &value.to_string());
    }
    // The index of an entry that is no join.
    let (mut wire, answer) = Wire::say_hello(leader, &hello(5, leader));
    assert_eq!(answer.status, 101);
    let notice = Message {
        term: Term::REMOVED,
        rpc: Rpc::Removed {
            cluster: CLUSTER,
            id: PeerId(5),
        },
    };
    assert_eq!(wire.next(), Some(notice));
    assert_eq!(wire.next(), None, "then it is closed");

    let before = get(MACHINES[leader - 1].client, "more");
    let (mut wire, answer) = Wire::say_hello(leader, &hello(1 << 40, leader));
    assert_eq!(answer.status, 101);
    wire.send(&request_vote(1 << 20));
    let denied = wire.next().expect("an answer");
    let no = Rpc::Vote {
        pre: false,
        granted: false,
        reading: None,
    };
    // The voter's reading of the cluster clock aside.
    let mut denied = denied.rpc;
    if let Rpc::Vote { reading, .. } = &mut denied {
        *reading = None;
    }
    assert_eq!(denied, no);
    let after = get(MACHINES[leader - 1].client, "more");
    let term = |a: &client::Answer| a.head.header("X-Raft-Term").map(str::to_string);
    assert_eq!(term(&before), term(&after), "no member campaigned");
}

#[test]
fn rubbish_ends_the_link_and_nothing_else() {
    let leader = leader();
    let (mut wire, _) = Wire::say_hello(leader, &hello((1 << 40) + 1, leader));
    wire.stream.write_all(&[0xff; 64]).expect("it reads");
    assert_eq!(wire.next(), None);
    let (mut wire, _) = Wire::say_hello(leader, &hello((1 << 40) + 2, leader));
    let entry = Entry {
        term: Term(1),
        index: Index(9),
        body: EntryBody::Good([0xff; 9].into()),
    };
    let mut bytes = Vec::new();
    let rpc = Rpc::AppendEntries {
        prev_index: Index(8),
        prev_term: Term(1),
        commit: Index(0),
        acked: Index(0),
        round: None,
        sync_us: 0,
        round_trip_us: 0,
        pause_us: 0,
        clock_ns: 0,
        held_bytes: None,
        entries: vec![entry],
    };
    let term = Term(1);
    frame::put_urgent(&Message { term, rpc }, &mut bytes).expect("short");
    // The message without its end, with a good checksum.
    let mut cut = Vec::new();
    frame::put_piece(&bytes[frame::HEAD_BYTES..bytes.len() - 3], 0, &mut cut);
    wire.stream.write_all(&cut).expect("it reads");
    assert_eq!(wire.next(), None);
    assert_eq!(put(MACHINES[leader - 1].client, "after", "x").status(), 201);
}

/// A client that asks for a hundred megabytes and reads nothing delays no other, and a vote passes
/// what waits for it.
#[test]
fn a_client_that_does_not_read_delays_no_other() {
    let leader = leader();
    let large = put(MACHINES[leader - 1].client, "big", &"v".repeat(1_000_000));
    let number = |name| {
        let value = large.head.header(name).expect("a header");
        value.parse::<u64>().expect("a number")
    };
    let (mut wire, _) = Wire::say_hello(leader, &hello((1 << 40) + 3, leader));
    let last = number("X-Raft-Index");
    // Other tests write beside this one: the entry is one of the last.
    let asked: Vec<u64> = (0..400).map(|i| last - i % 4).collect();
    for index in &asked {
        wire.send(&Message {
            term: Term(1),
            rpc: Rpc::Fetch {
                index: Index(*index),
                term: Term(number("X-Raft-Term")),
            },
        });
    }
    let answer = put(MACHINES[leader - 1].client, "meanwhile", "x");
    assert_eq!(answer.status(), 201);
    let mut bodies = 0;
    wire.send(&request_vote(1));
    let granted = until("its last question is answered", || match wire.next()?.rpc {
        Rpc::Fetched {
            found: FetchResult::Body(body),
            ..
        } => {
            bodies += usize::from(body.len() > 1_000_000);
            None
        }
        Rpc::Vote { granted, .. } if bodies > 0 => Some(granted),
        Rpc::Vote { .. } => {
            wire.send(&request_vote(1));
            None
        }
        _ => None,
    });
    assert!(!granted);
    assert!((1..100).contains(&bodies), "{bodies} of 100 came before it");
}

/// Members that flood their links with the shortest frames, and read nothing, delay no client and no
/// other peer: writes are acknowledged meanwhile, and the leader stays. The third member is known,
/// so nothing ends its flood; the others come until their budgets are used up.
#[test]
fn members_that_flood_delay_no_other() {
    let machines = start_some(2, 1_000);
    let leader = leader_of(&machines[..2]);
    let port = machines[leader - 1].client;
    let term = get(port, "").head.header("X-Raft-Term").map(str::to_string);
    let mut flood = Vec::new();
    while flood.len() < 64 * 1024 {
        frame::put_ping(&mut flood);
        frame::put_urgent(&request_vote(0), &mut flood).expect("short");
    }
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for from in [3, (1 << 40) + 10, (1 << 40) + 11, (1 << 40) + 12] {
            let hello = hello::encode(&hello_at(&machines, from, leader));
            let (flood, ends, peer) = (&flood, &ends, machines[leader - 1].peer);
            scope.spawn(move || {
                let asks = upgrade::request("tern", &hello);
                let (mut wire, answer) = Wire::open_at(peer, &asks);
                assert_eq!(answer.status, 101);
                while !ends.load(Ordering::Relaxed) && wire.stream.write_all(flood).is_ok() {}
            });
        }
        for number in 0..100 {
            let answer = put(port, &format!("beside/{number}"), "x");
            assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
        }
        ends.store(true, Ordering::Relaxed);
    });
    let after = get(port, "").head.header("X-Raft-Term").map(str::to_string);
    assert_eq!(term, after, "no election");
}
