//! The recorded answers of etcd 3.4's v2 interface, replayed under `-compat 2`, on fresh servers each
//! scenario.
//!
//! Every step is sent, in order. An answer must be the recorded one
//! (`recordings_2x::differences`), or, for the steps named in `tern.jsonl`, tern's own, which that
//! file holds with the reason. A pause of the recording is kept where a ttl runs out in it; what is
//! asked after it is asked until the answer is there. Start with [`replay`].
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tern_support::alone::alone;
use tern_support::client::{Answer, Conn, Head, attempts, request, until};
use tern_support::recordings_2x::{Own2x, Step2x, differences, own, steps};
use tern_support::server::Server;

/// Most steps that may be answered otherwise than by etcd. The steps that the recordings mark do not
/// count: there etcd itself is at fault, or loses data. More than a third of the others is about
/// authentication, which tern does not have.
const OWN_MAX: usize = 58;
/// Each scenario begins with this index, so that servers with another first index can be compared.
const FIRST_INDEX: u64 = 20;
/// The longest pause in a scenario of several machines.
const PAUSE: Duration = Duration::from_millis(300);
/// The id that stands for a member that is not there.
const NO_ID: &str = "abcabcabcabcabc";

/// A step that was sent and whose answer comes later.
struct Pending {
    step: Step2x,
    conn: Conn,
    head: Head,
}

/// A scenario under way.
struct Replay {
    /// Machine 1, 2, 3 … of the recording; the last one may not have been started.
    servers: Vec<Server>,
    /// Ids by their names in the recording: `node1`, `cluster`.
    ids: BTreeMap<String, String>,
    own: BTreeMap<String, Own2x>,
    pending: Vec<Pending>,
    differences: Vec<String>,
    /// The steps whose own answer is also the recorded one.
    needless: Vec<String>,
    compared: usize,
    /// The longest time between two steps, pauses left out.
    longest_gap: Duration,
}

impl Replay {
    fn new(scenario: &str, args: &[&str]) -> Replay {
        let args: Vec<&str> = ["-compat", "2"].iter().chain(args).copied().collect();
        let mut servers = vec![Server::start(&args)];
        if scenario == "cluster-of-three" {
            for name in ["node2", "node3", "node4"] {
                let ports = servers.iter().map(|s| format!("127.0.0.1:{}", s.peer_port));
                let peers = ports.collect::<Vec<_>>().join(",");
                let args: Vec<&str> = args.iter().copied().chain(["-peers", &peers]).collect();
                servers.push(Server::prepare_as(name, &args));
            }
            for server in &mut servers[1..3] {
                server.run();
            }
        }
        let mut replay = Replay {
            servers,
            ids: BTreeMap::new(),
            own: own(),
            pending: Vec::new(),
            differences: Vec::new(),
            needless: Vec::new(),
            compared: 0,
            longest_gap: Duration::ZERO,
        };
        replay.learn();
        replay.rebase(FIRST_INDEX);
        replay
    }

    /// Asks for the ids of the cluster and of its members.
    fn learn(&mut self) {
        let running = self.running().len();
        let answer = until("all are members", || {
            let answer = self.servers[0].client("GET", "/v2/members", "");
            let count = answer.json()["members"].as_array()?.len();
            (count == running).then_some(answer)
        });
        let cluster = answer.head.header("X-Etcd-Cluster-Id").expect("an id");
        self.ids.insert("cluster".into(), cluster.into());
        let json = answer.json();
        for member in json["members"].as_array().expect("a list") {
            let text = |name: &str| member[name].as_str().expect("a text").to_string();
            self.ids.insert(text("name"), text("id"));
        }
    }

    fn running(&self) -> Vec<&Server> {
        self.servers.iter().filter(|s| s.is_started()).collect()
    }

    fn server(&self, step: &Step2x) -> &Server {
        &self.servers[usize::from(step.port % 10) - 1]
    }

    /// Recorded addresses and ids as those of these servers.
    fn here(&self, text: &str) -> String {
        let mut text = self.swap_ports(text, true);
        for (name, id) in &self.ids {
            text = text.replace(&format!("{{{name}}}"), id);
        }
        for name in ["added1", "added2", "node1", "node2", "node3", "node4"] {
            text = text.replace(&format!("{{{name}}}"), NO_ID);
        }
        text
    }

    /// Addresses and ids of these servers as the recorded ones.
    fn there(&self, text: &str) -> String {
        let mut text = self.swap_ports(text, false);
        for (name, id) in &self.ids {
            text = text.replace(id, &format!("{{{name}}}"));
        }
        text
    }

    /// In two passes: a port put in may begin like one that is replaced.
    fn swap_ports(&self, text: &str, to_here: bool) -> String {
        let mut text = text.to_string();
        for pass in 0..2 {
            for (machine, server) in (1u16..).zip(&self.servers) {
                for (recorded, own) in [
                    (4000 + machine, server.client_port),
                    (7000 + machine, server.peer_port),
                ] {
                    let (from, to) = if to_here {
                        (recorded, own)
                    } else {
                        (own, recorded)
                    };
                    let marked = format!("127.0.0.1:<{recorded}>");
                    text = match pass {
                        0 => text.replace(&format!("127.0.0.1:{from}"), &marked),
                        _ => text.replace(&marked, &format!("127.0.0.1:{to}")),
                    };
                }
            }
        }
        text
    }

    fn answer_there(&self, answer: &Answer) -> Answer {
        let mut answer = answer.clone();
        let body = String::from_utf8_lossy(&answer.body);
        let text = squeezed(&self.there(&body));
        answer.body = in_order(&text).into_bytes();
        for (_, value) in &mut answer.head.headers {
            *value = self.there(value);
        }
        answer
    }

    fn send(&self, step: &Step2x) -> Conn {
        let body = match &step.body_fill {
            Some((prefix, text, count)) => format!("{prefix}{}", text.repeat(*count)),
            None => self.here(step.body.as_deref().unwrap_or_default()),
        };
        let is_host = |name: &str| name.eq_ignore_ascii_case("Host");
        let headers = step.headers.iter().filter(|(name, _)| !is_host(name));
        let headers: Vec<(&str, &str)> = headers.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut conn = Conn::open(self.server(step).client_at());
        let target = self.here(&step.target);
        let mut bytes = request(&step.method, &target, &headers, body.as_bytes());
        if let Some((_, host)) = step.headers.iter().find(|(name, _)| is_host(name)) {
            let text = String::from_utf8(bytes).expect("text");
            bytes = text
                .replacen("Host: tern", &format!("Host: {host}"), 1)
                .into_bytes();
        }
        conn.send(&bytes);
        conn
    }

    fn run(&mut self, scenario: &str) {
        let mut last = Instant::now();
        for step in steps(scenario) {
            if step.settle {
                self.settle();
                last = Instant::now();
            }
            let gap = last.elapsed();
            let mut waits = scenario == "cluster-of-three";
            for what in &step.before {
                waits |= what.starts_with("sleep");
                self.prepare(what);
            }
            self.longest_gap = self.longest_gap.max(gap);
            last = Instant::now();
            if step.background || step.unfinished {
                self.start(step);
            } else {
                let may_wait = waits && step.method == "GET";
                self.whole(&step, may_wait);
                if may_wait {
                    last = Instant::now();
                }
            }
        }
        self.settle();
    }

    /// What happens before a step.
    fn prepare(&mut self, what: &str) {
        let words: Vec<&str> = what.split(' ').collect();
        let machine = || words[1].parse::<usize>().expect("a machine") - 1;
        match words[0] {
            "sleep" => {
                let seconds = Duration::from_secs_f64(words[1].parse().expect("seconds"));
                // Where a ttl runs out, a watch ends with it. In the other pauses etcd's machines agree.
                let pause = if self.servers.len() > 1 {
                    seconds.min(PAUSE)
                } else {
                    seconds
                };
                std::thread::sleep(pause);
            }
            "rebase" => self.rebase(words[1].parse().expect("an index")),
            "fill" => {
                let mut conn = Conn::open(self.servers[0].client_at());
                for value in 0..words[1].parse().expect("a count") {
                    let target = format!("/v2/keys/{}", words[2]);
                    conn.ask("PUT", &target, &format!("value={value}"));
                }
            }
            "kill" => self.servers[machine()].kill(),
            "restart" => self.servers[machine()].run(),
            "join" => {
                self.servers[machine()].run();
                self.until_equal();
            }
            "gone" => self.servers[machine()].kill(),
            other => panic!("{other} is unknown"),
        }
    }

    fn index(server: &Server) -> u64 {
        let answer = server.client("GET", "/v2/keys/_fill", "");
        answer.head.etcd_index()
    }

    /// Writes a hidden key until the index is `to` on every machine.
    fn rebase(&self, to: u64) {
        let first = self.running()[0];
        loop {
            let at = Replay::index(first);
            assert!(at <= to, "the index is {at} already, not {to}");
            if at == to {
                break;
            }
            first.client("PUT", "/v2/keys/_fill", &format!("value={at}"));
        }
        self.until_equal();
    }

    fn until_equal(&self) {
        let running = self.running();
        let index = Replay::index(running[0]);
        for server in running {
            until("it has caught up", || {
                (Replay::index(server) >= index).then_some(())
            });
        }
    }

    /// A step that is answered before the next one is sent. With `waits` it is repeated until its
    /// answer is as expected, or it has had time enough.
    fn whole(&mut self, step: &Step2x, waits: bool) {
        let ask = || self.send(step).try_answer(step.method == "HEAD");
        let is_same = |answer: &Option<Answer>| {
            let answer = answer.as_ref();
            answer.is_none_or(|answer| self.differences_of(step, answer, false).is_empty())
        };
        let answer = attempts(ask, |answer| !waits || is_same(answer));
        let Some(answer) = answer else {
            let text = format!("{}: closed without an answer", step.id);
            return self.differences.push(text);
        };
        self.capture(step, &answer);
        self.compare(step, &answer, false);
        let own = self.own.get(&step.id);
        for (method, target, body) in own.iter().flat_map(|own| &own.then) {
            Conn::open(self.server(step).client_at()).ask(method, target, body);
        }
    }

    fn capture(&mut self, step: &Step2x, answer: &Answer) {
        let Some(name) = &step.capture else {
            return;
        };
        if let Some(id) = answer.json()["id"].as_str() {
            self.ids.insert(name.clone(), id.into());
        }
    }

    fn differences_of(&self, step: &Step2x, answer: &Answer, any_index: bool) -> Vec<String> {
        let own = self.own.get(&step.id);
        let mut loose = step.loose.clone();
        loose.extend(own.iter().flat_map(|own| own.loose.clone()));
        if any_index {
            loose.push("X-Etcd-Index".into());
        }
        let sorted = step.target.contains("sorted=true");
        let there = self.answer_there(answer);
        let recorded = differences(&step.expect, &there, &loose, sorted);
        match own {
            Some(own) => differences(&own.expect, &there, &loose, sorted),
            None => recorded,
        }
    }

    fn compare(&mut self, step: &Step2x, answer: &Answer, any_index: bool) {
        self.compared += 1;
        let found = self.differences_of(step, answer, any_index);
        for difference in found {
            let text = format!("{} ({}): {difference}", step.id, step.desc);
            self.differences.push(text);
        }
        let sorted = step.target.contains("sorted=true");
        let there = self.answer_there(answer);
        if self.own.contains_key(&step.id)
            && differences(&step.expect, &there, &step.loose, sorted).is_empty()
        {
            self.needless.push(step.id.clone());
        }
    }

    /// A step whose answer comes later. Its head must come at once.
    fn start(&mut self, step: Step2x) {
        let mut conn = self.send(&step);
        match conn.head() {
            Some(head) => self.pending.push(Pending { step, conn, head }),
            None => self.differences.push(format!("{}: no head", step.id)),
        }
    }

    /// Waits until all that was sent has been answered; what stays open is looked at and given up.
    fn settle(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            let Pending {
                step,
                mut conn,
                head,
            } = pending;
            let body = if step.unfinished {
                self.open_body(&step, &mut conn)
            } else {
                conn.body(&head, false).unwrap_or_default()
            };
            self.compare(&step, &Answer { head, body }, true);
        }
    }

    /// The body so far of an answer that the recording shows unfinished. As many events must have
    /// come as there, and nothing more; if tern differs there, the answer may have ended.
    fn open_body(&mut self, step: &Step2x, conn: &mut Conn) -> Vec<u8> {
        let own = self.own.get(&step.id);
        let expect = own.map_or(&step.expect, |own| &own.expect);
        let events = expect.body.iter().flat_map(|body| body.lines()).count();
        let mut body = Vec::new();
        for _ in 0..events {
            body.extend(conn.chunk().unwrap_or_default());
        }
        // One thread serves all: what it had for this connection has left before it answers
        // another.
        self.server(step).client("GET", "/version", "");
        let may_end = own.is_some();
        let has_ended = |conn: &mut Conn| conn.chunk() == Some(Vec::new());
        let is_as_told = conn.is_quiet() || (may_end && has_ended(conn));
        if !is_as_told {
            let text = format!("{}: more came than recorded", step.id);
            self.differences.push(text);
        }
        body
    }
}

/// A list of URLs in their order: they are sorted as they are here, not as they were recorded.
fn in_order(text: &str) -> String {
    let mut urls: Vec<&str> = text.split(", ").collect();
    if text.starts_with("http://") {
        urls.sort_unstable();
    }
    urls.join(", ")
}

/// A run of more than 4,095 equal characters as `{x*4096}`, as the recordings have it.
fn squeezed(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(1 << 16));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut count = 1;
        while chars.next_if_eq(&c).is_some() {
            count += 1;
        }
        if count > 4_095 {
            out.push_str(&format!("{{{c}*{count}}}"));
        } else {
            out.extend(std::iter::repeat_n(c, count));
        }
    }
    out
}

/// A node that lives one second expires in the middle of steps that were recorded within it: a run
/// in which this process was held up between two steps proves nothing and is repeated.
const GAP_MAX: Duration = Duration::from_millis(300);

fn replay(scenario: &str, args: &[&str]) {
    for attempt in 1.. {
        let mut replay = Replay::new(scenario, args);
        replay.run(scenario);
        assert_eq!(replay.compared, steps(scenario).len());
        if replay.differences.is_empty() {
            assert!(replay.needless.is_empty(), "{:?}", replay.needless);
            return;
        }
        let held_up = replay.longest_gap > GAP_MAX && attempt < 5;
        assert!(
            held_up,
            "{} differences:\n{}",
            replay.differences.len(),
            replay.differences.join("\n")
        );
    }
}

/// The scenarios with the flags of their servers.
const SCENARIOS: [(&str, &[&str]); 12] = [
    ("keys", &[]),
    ("conditions", &[]),
    ("dirs", &[]),
    ("ttl", &[]),
    ("no-value", &[]),
    ("watch", &[]),
    ("members", &[]),
    ("endpoints", &[]),
    ("auth", &[]),
    ("cors-default", &["-cors=*"]),
    (
        "cors-origins",
        &["-cors=http://a.example:8080,http://b.example:8080"],
    ),
    ("cluster-of-three", &[]),
];

fn replay_named(name: &str) {
    let (_, args) = SCENARIOS.iter().find(|(n, _)| *n == name).expect("listed");
    replay(name, args);
}

/// Each mark stands for a step of a scenario and has a reason, and there are not too many.
#[test]
fn marks_are_few_and_have_reasons() {
    let mut ids = BTreeMap::new();
    for (scenario, _) in SCENARIOS {
        let all = steps(scenario).into_iter();
        ids.extend(all.map(|step| (step.id, step.deviates.is_some())));
    }
    assert_eq!(ids.len(), 905);
    let own = own();
    let others = own.keys().filter(|id| ids.get(*id) == Some(&false));
    let others = others.count();
    assert!(others <= OWN_MAX, "{others} steps differ");
    for (id, own) in own {
        assert!(ids.contains_key(&id), "{id} is no step");
        assert!(own.why.len() > 10, "{id} has no reason");
    }
}

#[test]
fn keys() {
    replay_named("keys");
}

#[test]
fn conditions() {
    replay_named("conditions");
}

#[test]
fn dirs() {
    replay_named("dirs");
}

#[test]
fn ttl() {
    replay_named("ttl");
}

#[test]
fn no_value() {
    replay_named("no-value");
}

#[test]
fn watch() {
    replay_named("watch");
}

#[test]
fn members() {
    replay_named("members");
}

#[test]
fn endpoints() {
    replay_named("endpoints");
}

#[test]
fn auth() {
    replay_named("auth");
}

#[test]
fn cors() {
    replay_named("cors-default");
    replay_named("cors-origins");
}

#[test]
fn cluster_of_three() {
    let _alone = alone();
    replay_named("cluster-of-three");
}
