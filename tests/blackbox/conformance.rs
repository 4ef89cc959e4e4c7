//! The recorded answers of etcd 0.4.9, replayed on a fresh server each scenario.
//!
//! Every step is sent, in order. An answer must be the recorded one (`record::differences`), or,
//! for the steps named in `tern.jsonl`, tern's own, which that file holds with the reason. Pauses
//! of the recording are replaced by asking until the condition holds that they waited for.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tern_support::client::{Answer, Conn, Head, attempts, form, request, until};
use tern_support::recordings::{Expected, Own, Step, differences, own, same_body, steps};
use tern_support::server::Server;

/// A step that was sent and whose answer comes later.
struct Pending {
    step: Step,
    conn: Conn,
    head: Option<Head>,
}

/// A scenario under way.
struct Replay {
    /// Machine 1, 2, 3 … of the recording.
    servers: Vec<Server>,
    /// For the steps that are sent apart; started for the first one.
    apart: Option<Server>,
    own: BTreeMap<String, Own>,
    pending: Vec<Pending>,
    /// Connections of steps that were given up: they stay open, as a client's would that does not
    /// read on.
    given_up: Vec<Conn>,
    /// Plain requests that the recording sent beside others: sent when the others have been
    /// answered.
    late: Vec<Step>,
    differences: Vec<String>,
    /// The longest time between two steps, waits on purpose left out.
    longest_gap: Duration,
    compared: usize,
}

fn is_wait(step: &Step) -> bool {
    ["/v1/watch/", "/mod/v2/lock/"]
        .iter()
        .any(|start| step.target.starts_with(start))
        || step.target.contains("wait=true")
}

fn is_sorted(step: &Step) -> bool {
    step.target.to_ascii_lowercase().contains("sorted=true")
}

impl Replay {
    fn new(args: &[&str]) -> Replay {
        Replay {
            servers: vec![Server::start(args)],
            apart: None,
            own: own(),
            pending: Vec::new(),
            given_up: Vec::new(),
            late: Vec::new(),
            differences: Vec::new(),
            longest_gap: Duration::ZERO,
            compared: 0,
        }
    }

    /// The recording's addresses as these servers'. In two passes: a port put in may begin like a
    /// recorded one.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_string();
        for pass in 0..2 {
            for (machine, server) in (1u16..).zip(&self.servers) {
                for (there, here) in [(4000, server.client_port), (7000, server.peer_port)] {
                    for colon in [":", "%3A"] {
                        let recorded = format!("127.0.0.1{colon}{}", there + machine);
                        let marked = format!("127.0.0.1{colon}<{}>", there + machine);
                        let (from, to) = match pass {
                            0 => (recorded, marked),
                            _ => (marked, format!("127.0.0.1{colon}{here}")),
                        };
                        text = text.replace(&from, &to);
                    }
                }
            }
        }
        text
    }

    /// What a step's answer is to be, and whether its body counts.
    fn expected(&self, step: &Step) -> (Expected, bool) {
        let own = self.own.get(&step.id);
        let expect = own.map_or(&step.expect, |own| &own.expect);
        let headers = expect.headers.iter();
        let here = Expected {
            status: expect.status,
            headers: headers
                .map(|(name, value)| (name.clone(), self.here(value)))
                .collect(),
            body: self.here(&expect.body),
        };
        (here, own.is_none_or(|own| !own.any_body))
    }

    fn bytes(&self, step: &Step) -> Vec<u8> {
        if let Some(raw) = &step.raw {
            return raw
                .chars()
                .map(|c| u8::try_from(c).expect("latin-1"))
                .collect();
        }
        let headers = step.headers.iter();
        let headers: Vec<(&str, &str)> = headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let body = self.here(&step.body);
        request(&step.method, &step.target, &headers, body.as_bytes())
    }

    fn send(&self, step: &Step) -> Conn {
        let is_apart = self.own.get(&step.id).is_some_and(|own| own.apart);
        let apart = self.apart.as_ref().filter(|_| is_apart);
        let server = apart.unwrap_or(&self.servers[usize::from(step.port % 10) - 1]);
        let port = if step.port < 7000 {
            server.client_port
        } else {
            server.peer_port
        };
        let mut conn = Conn::open(port);
        conn.send(&self.bytes(step));
        conn
    }

    fn run(&mut self, scenario: &str) {
        let mut filled = false;
        let mut last = Instant::now();
        for step in steps(scenario) {
            assert!(
                !step.deviates || self.own.contains_key(&step.id),
                "{}: tern's own answer is missing in tern.jsonl",
                step.id
            );
            if step.settle {
                self.settle();
                last = Instant::now();
            }
            if step.desc == "waitIndex outdated: 401" && !filled {
                self.fill();
                filled = true;
            }
            self.longest_gap = self.longest_gap.max(last.elapsed());
            self.step(step);
            last = Instant::now();
        }
        self.settle();
    }

    fn step(&mut self, step: Step) {
        if step.background && !is_wait(&step) {
            self.late.push(step);
        } else if step.background || step.unfinished {
            self.start(step);
        } else {
            self.whole(&step);
        }
    }

    fn fill(&self) {
        let mut conn = Conn::open(self.servers[0].client_port);
        for value in 0..1_100 {
            let answer = conn.ask("PUT", "/v2/keys/fill", &format!("value={value}"));
            assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
        }
    }

    /// A step that is answered before the next one is sent.
    fn whole(&mut self, step: &Step) {
        if self.own.get(&step.id).is_some_and(|own| own.apart) {
            self.apart.get_or_insert_with(|| Server::start(&[]));
        }
        let (expect, _) = self.expected(step);
        let waits = ["after ttl", "expired", "index moved"];
        let answer = if waits.iter().any(|start| step.desc.starts_with(start)) {
            until(&step.id, || {
                let answer = self.ask(step)?;
                (Some(answer.status()) == expect.status).then_some(answer)
            })
        } else {
            let Some(answer) = self.ask(step) else {
                self.differences
                    .push(format!("{}: closed without an answer", step.id));
                return;
            };
            answer
        };
        self.compare(step, &answer);
        let after = self.own.get(&step.id).map(|own| own.then.clone());
        for (method, target, body) in after.unwrap_or_default() {
            let mut conn = Conn::open(self.servers[0].client_port);
            conn.send(&form(&method, &target, &body));
            let answer = conn.answer();
            assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
        }
    }

    /// Repeats a step until its answer is the recorded one, or until it has had time enough.
    fn until_same(&self, step: &Step) {
        let (expect, _) = self.expected(step);
        let is_same = |answer: &Option<Answer>| {
            let mut answer = answer.iter();
            answer.any(|a| differences(&expect, a, is_sorted(step), false).is_empty())
        };
        attempts(|| self.ask(step), is_same);
    }

    fn ask(&self, step: &Step) -> Option<Answer> {
        self.send(step).try_answer(step.method == "HEAD")
    }

    fn compare(&mut self, step: &Step, answer: &Answer) {
        self.compared += 1;
        let (mut expect, body_counts) = self.expected(step);
        if !body_counts {
            expect.body = String::from_utf8_lossy(&answer.body).into_owned();
        }
        let found = differences(&expect, answer, is_sorted(step), step.background);
        for difference in found {
            self.differences
                .push(format!("{} ({}): {difference}", step.id, step.desc));
        }
        let body = String::from_utf8_lossy(&answer.body);
        if body.contains("prevNode") && body.contains("\"expiration\":\"0001-") {
            self.differences
                .push(format!("{}: expiration of year 1: {body}", step.id));
        }
    }

    /// A step whose answer comes later: it counts as sent when its head has come, or, as a v1 watch
    /// has none before its event, when the server tells of one watcher more.
    fn start(&mut self, step: Step) {
        let watchers = |server: &Server| {
            server.client("GET", "/v2/stats/store", "").json()["watchers"].as_u64()
        };
        let before = watchers(&self.servers[0]);
        let mut conn = self.send(&step);
        // A watch of v1 and a wait for a lock have no head before the event.
        let head = if !step.target.contains("wait=true") {
            until(&step.id, || {
                (watchers(&self.servers[0]) > before).then_some(())
            });
            None
        } else {
            Some(conn.head().expect("a head"))
        };
        self.pending.push(Pending { step, conn, head });
    }

    /// Waits until all that was sent has been answered; what stays open is looked at and given up.
    fn settle(&mut self) {
        let late = std::mem::take(&mut self.late);
        for pending in std::mem::take(&mut self.pending) {
            if pending.step.unfinished {
                self.give_up(pending);
            } else {
                self.finish(pending);
            }
        }
        for step in late {
            self.whole(&step);
        }
    }

    fn finish(&mut self, mut pending: Pending) {
        let head = pending.head.take().or_else(|| pending.conn.head());
        let Some(head) = head else {
            self.differences
                .push(format!("{}: closed without an answer", pending.step.id));
            return;
        };
        let body = pending.conn.body(&head, false).unwrap_or_default();
        self.compare(&pending.step, &Answer { head, body });
    }

    /// An answer that the recording shows unfinished: its head and the chunks that had come must be
    /// the same, and nothing more may come.
    fn give_up(&mut self, mut pending: Pending) {
        let step = &pending.step;
        let (expect, _) = self.expected(step);
        let mut expected_chunks = expect.body.as_str();
        let mut found = Vec::new();
        while let Some((size, rest)) = expected_chunks.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a chunk's size");
            let chunk = pending.conn.chunk().expect("a chunk");
            let (expected, rest) = rest.split_at(size);
            if !same_body(expected, &chunk, true) {
                let chunk = String::from_utf8_lossy(&chunk);
                found.push(format!("chunk {chunk:?} is not {expected:?}"));
            }
            expected_chunks = rest.strip_prefix("\r\n").expect("a chunk's end");
        }
        // One thread serves all: what it had for this connection has left before it answers
        // another.
        self.servers[0].client("GET", "/version", "");
        if !pending.conn.is_quiet() {
            found.push("more came than recorded".to_string());
        }
        match pending.head.take() {
            Some(head) => {
                let body = expect.body.clone().into_bytes();
                found.extend(differences(&expect, &Answer { head, body }, true, true));
            }
            None if expect.status.is_some() => found.push("no head".to_string()),
            None => {}
        }
        self.compared += 1;
        let prefix = format!("{} ({})", step.id, step.desc);
        self.differences
            .extend(found.into_iter().map(|what| format!("{prefix}: {what}")));
        self.given_up.push(pending.conn);
    }
}

/// A node that lives one second expires in the middle of steps that were recorded within it: a run
/// in which this process was held up between two steps proves nothing and is repeated.
const GAP_MAX: Duration = Duration::from_millis(300);

fn replay(scenario: &str, args: &[&str]) {
    for attempt in 1.. {
        let mut replay = Replay::new(args);
        replay.run(scenario);
        assert!(replay.compared > 0, "{scenario} has steps");
        if replay.differences.is_empty() {
            return;
        }
        let held_up = replay.longest_gap > GAP_MAX && attempt < 5;
        assert!(
            held_up,
            "{} of {} answers differ:\n{}",
            replay.differences.len(),
            replay.compared,
            replay.differences.join("\n")
        );
    }
}

#[test]
fn keys_basic() {
    replay("keys-basic", &[]);
}

#[test]
fn forms() {
    replay("forms", &[]);
}

#[test]
fn dirs_hidden_inorder() {
    replay("dirs-hidden-inorder", &[]);
}

#[test]
fn compare_and_swap_delete() {
    replay("compare-and-swap-delete", &[]);
}

#[test]
fn ttl_expiry() {
    replay("ttl-expiry", &[]);
}

#[test]
fn watch() {
    replay("watch", &[]);
}

#[test]
fn endpoints() {
    replay("endpoints", &[]);
}

#[test]
fn v1() {
    replay("v1", &[]);
}

#[test]
fn cors_origin() {
    replay("cors-origin", &["-cors=http://a.example,http://b.example"]);
}

#[test]
fn cors_star() {
    replay("cors-star", &["-cors=*"]);
}

#[test]
fn peer_port() {
    replay("peer-port", &[]);
}

/// The lock and leader modules, and the dashboard. Step 11, the request that waits, was recorded
/// before step 5.
#[test]
fn modules() {
    let mut steps = steps("modules");
    let waits = steps.iter().position(|step| step.id == "modules/011");
    let waits = steps.remove(waits.expect("it is recorded"));
    let before = steps.iter().position(|step| step.id == "modules/005");
    steps.insert(before.expect("it is recorded"), waits);
    let mut replay = Replay::new(&[]);
    for step in steps {
        if step.settle {
            replay.settle();
        }
        replay.step(step);
    }
    assert_eq!(replay.compared, 32);
    let found = replay.differences;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// From here on chance decides which machine is removed or elected, and machines are killed in
/// between.
const BY_CHANCE: std::ops::RangeInclusive<u32> = 103..=152;

fn joiner(others: &[Server], name: &str) -> Server {
    let peers: Vec<String> = others
        .iter()
        .map(|s| format!("127.0.0.1:{}", s.peer_port))
        .collect();
    Server::prepare_as(name, &["-peers", &peers.join(",")])
}

/// Three machines, and one more. What one does the others learn a moment later: a GET is repeated
/// until it has the recorded answer.
#[test]
fn cluster_of_three() {
    let mut replay = Replay::new(&[]);
    for name in ["node2", "node3"] {
        let mut server = joiner(&replay.servers, name);
        server.run();
        replay.servers.push(server);
    }
    for step in steps("cluster-of-three") {
        let (_, number) = step.id.rsplit_once('/').expect("scenario/number");
        let number: u32 = number.parse().expect("a number");
        if BY_CHANCE.contains(&number) {
            continue;
        }
        if number == 78 {
            // The fourth, for which there is no room.
            let mut server = joiner(&replay.servers, "node4");
            server.spawn();
            until("it listens", || Conn::try_open(server.peer_port));
            replay.servers.push(server);
        }
        if step.settle {
            replay.settle();
        }
        if number == 66 {
            // A client that followed the redirect.
            let answer = replay.servers[0].client("PUT", "/v2/keys/foo", "value=followed");
            assert_eq!(answer.status(), 200);
        }
        if step.method == "GET" && !step.background && !step.unfinished {
            replay.until_same(&step);
        }
        replay.step(step);
    }
    replay.settle();
    assert!(replay.compared > 90, "{} steps", replay.compared);
    let found = &replay.differences;
    assert!(
        found.is_empty(),
        "{} answers differ:\n{}",
        found.len(),
        found.join("\n")
    );
}
