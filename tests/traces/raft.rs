//! Traces of raft: a handful of members, the messages between them, their disks and their clock,
//! all moved by command.
//!
//! A script has one command a line; what it leads to stands indented beneath. Nothing happens by
//! itself: messages wait until `deliver`, writes until `sync`, timers until `time` or `timeout`.
//! Whatever the script, each step is checked: one leader a term, the same entry at an index
//! everywhere once it is committed, commits only on a majority of synced disks. Start reading at
//! `World::command`.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use tern::codec::peer::wire;
use tern::core::command::{self, Command, KeyPath};
use tern::core::raft::{
    AppendAnswer, Configuration, Entry, EntryBody, FetchResult, Index, Lsn, Member, Message,
    PeerId, Persist, ProposalRefusal, Raft, RaftConfig, RaftNotice, RaftOutput, RaftRole,
    RaftState, ReadId, Rpc, SnapshotMeta, Term,
};
use tern::core::timer::Now;

/// Bytes of one piece of a snapshot.
const CHUNK: usize = 8;
const CLUSTER: u64 = 7;

/// Runs a script: its text with what each command leads to beneath it.
pub fn run(script: &str) -> String {
    play(World::default(), script)
}

fn play(mut world: World, script: &str) -> String {
    let mut out = String::new();
    for line in script.lines().filter(|l| !l.starts_with("    ")) {
        writeln!(out, "{line}").expect("a string takes it");
        if !line.trim().is_empty() && !line.starts_with('#') {
            world.command(line);
            for said in world.trace.drain(..) {
                writeln!(out, "    {said}").expect("a string takes it");
            }
        }
    }
    out
}

/// What one member's disk holds: all of it, and how far it is synced.
#[derive(Clone, Default)]
struct Disk {
    term: Term,
    vote: Option<PeerId>,
    snapshot: SnapshotMeta,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    commit: Index,
}

impl Disk {
    fn write(&mut self, what: &Persist) {
        match what {
            Persist::State { term, vote } => (self.term, self.vote) = (*term, *vote),
            Persist::Append { entries, commit } => {
                let first = entries.first().expect("never empty").index;
                self.entries.retain(|e| e.index < first);
                self.entries.extend(entries.iter().cloned());
                self.commit = self.commit.max(*commit);
            }
            Persist::Installed { meta, keep_tail } => {
                self.entries.retain(|e| *keep_tail && e.index > meta.index);
                self.snapshot = meta.clone();
                self.commit = self.commit.max(meta.index);
            }
            Persist::Release { .. } => {}
            Persist::Repair(entry) => {
                let old = self.entries.iter_mut().find(|e| e.index == entry.index);
                *old.expect("a damaged entry is there") = entry.clone();
            }
        }
    }

    fn holds(&self, index: Index, term: Term) -> bool {
        let there = |e: &Entry| e.index == index && e.term == term;
        self.snapshot.index >= index || self.entries.iter().any(there)
    }
}

/// One member.
struct Node {
    raft: Option<Raft>,
    disk: Disk,
    /// Written, not synced: lost in a crash.
    unsynced: VecDeque<(Lsn, Persist)>,
    /// When the first of them came.
    unsynced_us: u64,
    lsn: u64,
    applied: Index,
    /// The snapshot that is coming in.
    incoming: Vec<u8>,
    installing: Option<SnapshotMeta>,
    shown: String,
    saved: Option<Disk>,
    /// Snapshots that are kept while they are sent.
    older: BTreeMap<Index, Vec<u8>>,
}

#[derive(Default)]
struct World {
    now_us: u64,
    nodes: BTreeMap<u64, Node>,
    queue: VecDeque<(u64, u64, Message)>,
    /// Pairs (from, to) whose messages are lost.
    cut: BTreeSet<(u64, u64)>,
    leaders: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, (Term, EntryBody)>,
    trace: Vec<String>,
    #[cfg(feature = "faults")]
    fault: Option<tern::core::raft::fault::RaftFault>,
}

/// `key=value` of a command line.
fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words
        .iter()
        .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

fn numbers(list: &str) -> Vec<u64> {
    let words = list.split(',').filter(|w| !w.is_empty());
    words.map(|w| w.parse().expect("a number")).collect()
}

fn number(words: &[&str], at: usize) -> u64 {
    let word = words
        .get(at)
        .unwrap_or_else(|| panic!("an argument is missing: {words:?}"));
    word.parse()
        .unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn member(id: u64, voter: bool) -> Member {
    Member {
        id: PeerId(id),
        name: format!("n{id}").into(),
        peer_url: format!("http://n{id}:7001").into(),
        client_url: format!("http://n{id}:4001").into(),
        incarnation: 100 + id,
        voter,
    }
}

fn encoded(command: &Command) -> Box<[u8]> {
    let mut body = Vec::new();
    command::encode(command, &mut body);
    body.into()
}

fn set(key: &str) -> Command {
    Command::Set {
        path: KeyPath::new(key),
        value: Some("v".into()),
        expires_ns: None,
    }
}

fn join(name: &str, incarnation: u64, replaces: u64) -> Command {
    Command::Join {
        name: name.into(),
        peer_url: format!("http://{name}:7001").into(),
        client_url: format!("http://{name}:4001").into(),
        incarnation,
        replaces,
    }
}

impl World {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "nodes" => self.nodes(&words),
            "node" => self.node(&words),
            "fresh" => self.start(number(&words, 1), Disk::default()),
            "time" => self.time(number(&words, 1)),
            "run" => self.run(number(&words, 1)),
            "timeout" => self.timeout(number(&words, 1)),
            "elect" => self.elect(number(&words, 1)),
            "deliver" => self.deliver(&words),
            "drop" => self.queue.retain(|m| !selected(&words, m)),
            "queue" => self.show_queue(),
            "twice" => self.twice(&words),
            "late" => self.late(&words),
            "sync" => self.sync(&words),
            "settle" => self.settle(),
            "cut" | "mend" => self.links(&words),
            "link" => self.link(&words),
            "crash" => self.crash(number(&words, 1)),
            "restart" => self.restart(number(&words, 1)),
            "save" => self.with(number(&words, 1), |n| n.saved = Some(n.disk.clone())),
            "restore" => self.with(number(&words, 1), |n| {
                n.disk = n.saved.clone().expect("saved")
            }),
            "damage" => self.damage(&words),
            "install" => self.install(number(&words, 1), words.get(2) != Some(&"bad")),
            "snapshot" => self.snapshot(&words),
            "notice" => self.notice(&words),
            "log" => self.show_log(number(&words, 1)),
            "state" => self.show_states(),
            "members" => self.show_members(number(&words, 1)),
            _ => self.ask(&words),
        }
    }

    // -- what a client, an operator or the owner asks of one member
    fn ask(&mut self, words: &[&str]) {
        let (now, id) = (self.now(), number(words, 1));
        let said = self.raft(id, |raft| match words[0] {
            "propose" => {
                let keys = words[2..].iter();
                let said: Vec<_> = keys.map(|k| shown(raft.propose(now, &set(k)))).collect();
                said.join(", ")
            }
            "join" => {
                let incarnation =
                    option(words, "dir").map_or(500, |v| v.parse().expect("a number"));
                let replaces =
                    option(words, "replaces").map_or(0, |v| v.parse().expect("a number"));
                shown(raft.propose(now, &join(words[2], incarnation, replaces)))
            }
            "promote" => shown(raft.propose(
                now,
                &Command::Promote {
                    id: number(words, 2),
                },
            )),
            "remove" => shown(raft.propose(
                now,
                &Command::Remove {
                    id: number(words, 2),
                },
            )),
            "read" => match raft.read(now, ReadId(number(words, 2))) {
                Ok(()) => String::new(),
                Err(why) => format!("refused: {}", refusal(why)),
            },
            "handover" => {
                let to = words.get(2).map(|_| PeerId(number(words, 2)));
                format!("handing over: {}", raft.hand_over(now, to))
            }
            "hello" => match raft.removal_notice(PeerId(number(words, 2))) {
                Some(notice) => format!("answers {}", message(&notice)),
                None => format!("lets it in: {:?}", raft.standing(PeerId(number(words, 2)))),
            },
            "can_remove" => format!("{}", raft.can_remove(now, PeerId(number(words, 2)))),
            "deadline" => match raft.next_deadline() {
                None => "never".to_string(),
                Some(_) => "some time".to_string(),
            },
            word => panic!("no such command: {word}"),
        });
        if !said.is_empty() {
            self.trace.push(format!("{id} {said}"));
        }
        self.collect(id);
    }

    /// `nodes 3 [voters=1,2] [log=1,1,2] [term=2]`: members 1 to 3 of one cluster, all with the
    /// same log behind a snapshot that ends with the last Join.
    fn nodes(&mut self, words: &[&str]) {
        for id in 1..=number(words, 1) {
            let id = id.to_string();
            let mut line = vec!["node", id.as_str(), words[1]];
            line.extend(&words[2..]);
            self.node(&line);
        }
    }

    /// `node ID COUNT …`: one of them, which may have a log of its own; `damaged=6,7` are entries
    /// the disk has spoilt.
    fn node(&mut self, words: &[&str]) {
        let count = number(words, 2);
        let voters = option(words, "voters").map(numbers);
        let voter = |id| voters.as_ref().is_none_or(|v| v.contains(&id));
        let members = (1..=count).map(|id| member(id, voter(id))).collect();
        let terms = option(words, "log").map(numbers).unwrap_or_default();
        let first = count + 1;
        let entries = terms.iter().zip(first..).map(|(term, index)| Entry {
            term: Term(*term),
            index: Index(index),
            body: EntryBody::Good(encoded(&set(&format!("/{index}.{term}"))).into()),
        });
        let last = terms.last().copied().unwrap_or(1);
        let value = |key, or: u64| option(words, key).map_or(or, |v| v.parse().expect("a number"));
        let disk = Disk {
            term: Term(value("term", last)),
            vote: option(words, "vote").map(|v| PeerId(v.parse().expect("a number"))),
            snapshot: SnapshotMeta {
                cluster: CLUSTER,
                index: Index(count),
                term: Term(1),
                configuration: Configuration { members },
            },
            bytes: format!("snapshot {count}").into(),
            entries: entries.collect(),
            commit: Index(value("commit", count)),
        };
        let id = number(words, 1);
        let damaged = option(words, "damaged").map(numbers).unwrap_or_default();
        let mut disk = disk;
        damaged.iter().for_each(|index| spoil(&mut disk, *index));
        self.start(id, disk);
    }

    fn start(&mut self, id: u64, mut disk: Disk) {
        disk.snapshot.cluster = CLUSTER;
        let config = RaftConfig {
            id: PeerId(id),
            heartbeat_ms: 50,
            election_ms: 200,
            seed: id,
        };
        let state = RaftState {
            term: disk.term,
            vote: disk.vote,
            snapshot: disk.snapshot.clone(),
            entries: disk
                .entries
                .iter()
                .filter(|e| e.index > disk.snapshot.index)
                .cloned()
                .collect(),
            commit: disk.commit,
        };
        #[cfg_attr(not(feature = "faults"), allow(unused_mut))]
        let mut raft = Raft::new(config, state, self.now());
        #[cfg(feature = "faults")]
        raft.plant(self.fault);
        let saved = self.nodes.remove(&id).and_then(|n| n.saved);
        self.nodes.insert(
            id,
            Node {
                raft: Some(raft),
                applied: disk.snapshot.index,
                disk,
                unsynced: VecDeque::new(),
                unsynced_us: 0,
                lsn: 0,
                incoming: Vec::new(),
                installing: None,
                shown: String::new(),
                saved,
                older: BTreeMap::new(),
            },
        );
        self.collect(id);
    }

    fn now(&self) -> Now {
        Now {
            mono_us: self.now_us,
            wall_ns: 0,
        }
    }

    fn with(&mut self, id: u64, change: impl FnOnce(&mut Node)) {
        change(self.nodes.get_mut(&id).expect("a node"));
    }

    fn raft<T>(&mut self, id: u64, act: impl FnOnce(&mut Raft) -> T) -> T {
        let node = self
            .nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no node {id}"));
        act(node
            .raft
            .as_mut()
            .unwrap_or_else(|| panic!("{id} does not run")))
    }

    fn runs(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.raft.is_some())
    }

    fn ids(&self) -> Vec<u64> {
        self.nodes
            .keys()
            .copied()
            .filter(|id| self.runs(*id))
            .collect()
    }

    // -- time
    fn time(&mut self, ms: u64) {
        let end = self.now_us + ms * 1000;
        loop {
            let due = |id: &u64| {
                let raft = self.nodes[id].raft.as_ref().expect("runs");
                raft.next_deadline().unwrap_or(u64::MAX)
            };
            let next = self.ids().into_iter().min_by_key(due);
            let Some(id) = next.filter(|id| due(id) <= end) else {
                break;
            };
            self.now_us = self.now_us.max(due(&id));
            self.fire(id);
        }
        self.now_us = end;
    }

    /// Time passes, and everything else happens as it should; only what members become is told.
    fn run(&mut self, ms: u64) {
        let end = self.now_us + ms * 1000;
        self.settle();
        while self.now_us < end {
            self.time((end - self.now_us).div_ceil(1000).min(10));
            self.settle();
        }
        let quiet = |said: &String| said.contains('>') || said.contains(" disk: ");
        self.trace.retain(|said| !quiet(said));
    }

    fn timeout(&mut self, id: u64) {
        let due = self.raft(id, |r| r.next_deadline());
        let due = due.unwrap_or_else(|| panic!("{id} waits for nothing"));
        self.now_us = self.now_us.max(due);
        self.fire(id);
    }

    /// One becomes leader and everyone knows it; how is told elsewhere.
    fn elect(&mut self, id: u64) {
        self.timeout(id);
        self.settle();
        self.trace.clear();
        let shown = &self.nodes[&id].shown;
        assert!(shown.starts_with("leader"), "{id} is not elected");
        self.trace.push(format!("{id} {shown}"));
    }

    fn fire(&mut self, id: u64) {
        let now = self.now();
        self.raft(id, |r| r.on_time(now));
        self.collect(id);
    }

    // -- messages
    fn deliver(&mut self, words: &[&str]) {
        for _ in 0..10_000 {
            let Some(at) = self.queue.iter().position(|m| selected(words, m)) else {
                return;
            };
            let (from, to, message) = self.queue.remove(at).expect("found above");
            self.hand(from, to, message);
        }
        panic!("the members never fall silent");
    }

    fn hand(&mut self, from: u64, to: u64, said: Message) {
        if !self.runs(to) {
            self.trace
                .push(format!("{from}>{to} {} (lost)", message(&said)));
            return;
        }
        self.trace.push(format!("{from}>{to} {}", message(&said)));
        let now = self.now();
        self.raft(to, |r| r.on_message(now, PeerId(from), said));
        self.collect(to);
    }

    /// `notice TO CLUSTER ID`: someone says that member ID of a cluster was removed.
    fn notice(&mut self, words: &[&str]) {
        let rpc = Rpc::Removed {
            cluster: number(words, 2),
            id: PeerId(number(words, 3)),
        };
        let term = Term::REMOVED;
        self.hand(0, number(words, 1), Message { term, rpc });
    }

    fn twice(&mut self, words: &[&str]) {
        let again: Vec<_> = self
            .queue
            .iter()
            .filter(|m| selected(words, m))
            .cloned()
            .collect();
        self.queue.extend(again);
    }

    /// The messages go behind all others.
    fn late(&mut self, words: &[&str]) {
        let all = std::mem::take(&mut self.queue);
        let (late, rest) = all.into_iter().partition(|m| selected(words, m));
        self.queue = rest;
        let late: VecDeque<_> = late;
        self.queue.extend(late);
    }

    fn links(&mut self, words: &[&str]) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        let of = |at: usize| match words.get(at) {
            None | Some(&"all") => all.clone(),
            Some(list) => numbers(list),
        };
        for (a, b) in of(1)
            .iter()
            .flat_map(|a| of(2).into_iter().map(|b| (*a, b)))
        {
            let both = words.get(3) != Some(&"oneway");
            let pairs = [Some((a, b)), both.then_some((b, a))];
            for pair in pairs.into_iter().flatten().filter(|(a, b)| a != b) {
                match words[0] {
                    "cut" => self.cut.insert(pair),
                    _ => self.cut.remove(&pair),
                };
            }
        }
        self.queue
            .retain(|(from, to, _)| !self.cut.contains(&(*from, *to)));
    }

    /// `link 2 1 closed`: member 2's link to member 1.
    fn link(&mut self, words: &[&str]) {
        let (id, to, up) = (number(words, 1), PeerId(number(words, 2)), words[3] == "up");
        let now = self.now();
        self.raft(id, |r| r.on_link(now, to, up));
        self.collect(id);
    }

    // -- disks
    fn sync(&mut self, words: &[&str]) {
        let ids = match words.get(1) {
            None | Some(&"all") => self.ids(),
            Some(list) => numbers(list),
        };
        for id in ids {
            let now = self.now();
            let node = self.nodes.get_mut(&id).expect("a node");
            let Some((lsn, _)) = node.unsynced.back() else {
                continue;
            };
            let (lsn, took_us) = (*lsn, now.mono_us - node.unsynced_us);
            for (_, what) in node.unsynced.drain(..) {
                node.disk.write(&what);
            }
            self.raft(id, |r| r.on_synced(now, lsn, took_us));
            self.collect(id);
        }
    }

    fn crash(&mut self, id: u64) {
        self.with(id, |n| {
            n.raft = None;
            n.unsynced.clear();
        });
        self.queue.retain(|(from, _, _)| *from != id);
    }

    fn restart(&mut self, id: u64) {
        let disk = self.nodes[&id].disk.clone();
        self.start(id, disk);
    }

    /// `damage ID INDEX…`: the disk of a stopped member spoils entries.
    fn damage(&mut self, words: &[&str]) {
        let node = self.nodes.get_mut(&number(words, 1)).expect("a node");
        assert!(node.raft.is_none(), "stop it first");
        for index in numbers(words[2]) {
            spoil(&mut node.disk, index);
        }
    }

    /// `snapshot ID [keep=N]`: the member saves a snapshot and forgets all but N entries before it.
    fn snapshot(&mut self, words: &[&str]) {
        let id = number(words, 1);
        let keep = option(words, "keep").map_or(0, |v| v.parse().expect("a number"));
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_mut().expect("runs");
        let index = node.applied;
        if raft.durable() < index {
            let waits = format!("{id} has not synced what the snapshot holds");
            return self.trace.push(waits);
        }
        node.older
            .insert(node.disk.snapshot.index, node.disk.bytes.clone());
        node.disk.snapshot = raft.snapshot_meta(index);
        node.disk.bytes = format!("snapshot of all up to {}", index.0).into();
        raft.on_snapshot_saved(index, Index(index.0.saturating_sub(keep)));
        self.collect(id);
    }

    fn install(&mut self, id: u64, good: bool) {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(meta) = node.installing.take() else {
            return self.trace.push(format!("{id} has nothing to install"));
        };
        if good {
            node.disk.bytes = node.incoming.clone();
            node.applied = meta.index;
        }
        let raft = node.raft.as_mut().expect("runs");
        raft.on_installed(now, good);
        if good {
            raft.on_applied(meta.index);
        }
        self.collect(id);
    }

    /// Everything happens that needs no time.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.sync(&["sync"]);
            self.deliver(&["deliver"]);
            let installing = |n: &Node| n.raft.is_some() && n.installing.is_some();
            let ready: Vec<u64> = self
                .ids()
                .into_iter()
                .filter(|id| installing(&self.nodes[id]))
                .collect();
            ready.iter().for_each(|id| self.install(*id, true));
            let busy = |id: &u64| !self.nodes[id].unsynced.is_empty();
            if ready.is_empty() && self.queue.is_empty() && !self.ids().iter().any(busy) {
                return;
            }
        }
        panic!("the members never settle");
    }

    // -- what a member leaves
    fn collect(&mut self, id: u64) {
        loop {
            let mut out = RaftOutput::default();
            self.raft(id, |r| r.take_output(&mut out));
            self.carry(id, &mut out);
            self.change(id);
            let again = self.apply(id) | self.read_chunks(id, &out);
            self.receive_chunks(id, out);
            if !again {
                break;
            }
        }
        self.check(id);
    }

    fn carry(&mut self, id: u64, out: &mut RaftOutput) {
        let node = self.nodes.get_mut(&id).expect("a node");
        for what in out.persist.drain(..) {
            node.lsn += 1;
            self.trace.push(format!("{id} disk: {}", persist(&what)));
            if node.unsynced.is_empty() {
                node.unsynced_us = self.now_us;
            }
            node.unsynced.push_back((Lsn(node.lsn), what));
        }
        assert_eq!(
            node.raft.as_ref().expect("runs").lsn().0,
            node.lsn,
            "one Lsn a Persist"
        );
        for (to, said) in out.messages.drain(..) {
            let mut bytes = Vec::new();
            wire::encode(&said, &mut bytes);
            assert_eq!(
                wire::decode(&bytes),
                Ok(said.clone()),
                "the wire keeps a message"
            );
            if !self.cut.contains(&(id, to.0)) {
                self.queue.push_back((id, to.0, said));
            }
        }
        for (read, index) in out.reads.drain(..) {
            self.trace
                .push(format!("{id} read {} at {}", read.0, index.0));
        }
        for read in out.failed_reads.drain(..) {
            self.trace.push(format!("{id} read {} failed", read.0));
        }
        for notice in out.notices.drain(..) {
            self.trace.push(match notice {
                RaftNotice::Removed => format!("{id} is told that it was removed"),
                RaftNotice::Amnesia => format!("{id} has lost what it acknowledged"),
            });
        }
    }

    /// Says what a member has become, when that changes.
    fn change(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_ref().expect("runs");
        let role = match raft.role() {
            RaftRole::Follower => match raft.leader() {
                None => "follower of nobody".to_string(),
                Some(leader) => format!("follower of {}", leader.0),
            },
            RaftRole::PreCandidate => "precandidate".to_string(),
            RaftRole::Candidate => "candidate".to_string(),
            RaftRole::Leader => "leader".to_string(),
        };
        let shown = format!("{role}, term {}", raft.term().0);
        if node.shown != shown {
            self.trace.push(format!("{id} {shown}"));
            node.shown = shown;
        }
    }

    fn apply(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let raft = node.raft.as_mut().expect("runs");
        let committed = raft.committed();
        if committed <= node.applied || node.installing.is_some() {
            return false;
        }
        let leads = raft.role() == RaftRole::Leader;
        let (mut applied, mut wrong) = (Vec::new(), Vec::new());
        for index in node.applied.0 + 1..=committed.0 {
            let Some(entry) = raft.entry(Index(index)) else {
                continue;
            };
            let kept = (entry.term, entry.body.clone());
            assert!(
                matches!(kept.1, EntryBody::Good(_)),
                "nothing damaged is applied"
            );
            applied.push(kept.clone());
            if self.committed.entry(index).or_insert(kept.clone()) != &kept {
                wrong.push(index);
            }
        }
        assert!(wrong.is_empty(), "{id} commits something else at {wrong:?}");
        let from = node.applied.0 + 1;
        node.applied = committed;
        raft.on_applied(committed);
        self.trace.push(match from == committed.0 {
            true => format!("{id} applies {from}"),
            false => format!("{id} applies {from}..{}", committed.0),
        });
        if leads && let Some((term, _)) = applied.last() {
            self.check_majority(id, committed, *term);
        }
        true
    }

    /// What a leader commits is on a majority of synced disks.
    fn check_majority(&self, id: u64, index: Index, term: Term) {
        let raft = self.nodes[&id].raft.as_ref().expect("runs");
        let configuration = raft.configuration();
        let holds = |v: &PeerId| {
            self.nodes
                .get(&v.0)
                .is_some_and(|n| n.disk.holds(index, term))
        };
        let on = configuration.voters().filter(holds).count();
        assert!(
            on >= configuration.majority(),
            "{index:?} is committed on {on} disks"
        );
    }

    fn read_chunks(&mut self, id: u64, out: &RaftOutput) -> bool {
        let now = self.now();
        for wanted in &out.chunks_wanted {
            let node = &self.nodes[&id];
            let kept = node.older.get(&wanted.index).unwrap_or(&node.disk.bytes);
            let bytes = kept.clone();
            let from = (wanted.offset as usize).min(bytes.len());
            let to = (from + CHUNK).min(bytes.len());
            let piece = Some((bytes[from..to].into(), to == bytes.len()));
            self.raft(id, |r| r.on_chunk(now, *wanted, piece));
        }
        !out.chunks_wanted.is_empty()
    }

    fn receive_chunks(&mut self, id: u64, out: RaftOutput) {
        let node = self.nodes.get_mut(&id).expect("a node");
        for chunk in out.chunks {
            if chunk.offset == 0 {
                node.incoming.clear();
            }
            assert_eq!(
                chunk.offset,
                node.incoming.len() as u64,
                "pieces come in order"
            );
            node.incoming.extend_from_slice(&chunk.data);
            if chunk.done {
                let text = String::from_utf8_lossy(&node.incoming);
                self.trace.push(format!("{id} has the snapshot {:?}", text));
                node.installing = Some(chunk.meta);
            }
        }
    }

    fn check(&mut self, id: u64) {
        let raft = self.nodes[&id].raft.as_ref().expect("runs");
        if raft.role() == RaftRole::Leader {
            let first = self.leaders.entry(raft.term().0).or_insert(id);
            assert_eq!(*first, id, "two leaders in term {}", raft.term().0);
            for (index, (term, _)) in self.committed.iter().rev().take(5) {
                if *index > raft.snapshot().index.0 && *term < raft.term() {
                    let own = raft.entry(Index(*index)).map(|e| e.term);
                    assert_eq!(
                        own,
                        Some(*term),
                        "leader {id} of term {} lacks {index}",
                        raft.term().0
                    );
                }
            }
        }
    }

    // -- what is there
    fn show_queue(&mut self) {
        for (from, to, said) in &self.queue {
            self.trace.push(format!("{from}>{to} {}", message(said)));
        }
    }

    fn show_log(&mut self, id: u64) {
        let node = &self.nodes[&id];
        let raft = node.raft.as_ref().expect("runs");
        let held = (1..=raft.last_index().0).filter_map(|i| raft.entry(Index(i)));
        let entries: Vec<String> = held.map(entry).collect();
        let text = format!(
            "{id} log behind {}: {}",
            raft.snapshot().index.0,
            entries.join(" ")
        );
        self.trace.push(text.trim_end().to_string());
    }

    fn show_states(&mut self) {
        for (id, node) in &self.nodes {
            let Some(raft) = &node.raft else {
                self.trace.push(format!("{id} stopped"));
                continue;
            };
            let (commit, last) = (raft.committed().0, raft.last_index().0);
            self.trace
                .push(format!("{id} {}, commit {commit}, last {last}", node.shown));
        }
    }

    fn show_members(&mut self, id: u64) {
        let configuration = self.raft(id, |r| r.configuration().clone());
        let members = configuration.members.iter().map(|m| {
            let kind = if m.voter { "voter" } else { "learner" };
            format!("{} {} {kind}", m.id.0, m.name)
        });
        let list: Vec<String> = members.collect();
        let none = list.is_empty().then_some("nobody".to_string());
        self.trace.push(none.unwrap_or(list.join(", ")));
    }
}

fn spoil(disk: &mut Disk, index: u64) {
    let entry = disk
        .entries
        .iter_mut()
        .find(|e| e.index.0 == index)
        .expect("an entry");
    if let EntryBody::Good(bytes) = &entry.body {
        let seed = 11;
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(bytes);
        entry.body = EntryBody::Faulty {
            len: bytes.len() as u32,
            seed,
            crc: hasher.finalize(),
        };
    }
}

/// Whether a message is meant: `WORD [FROM [TO]]`, each a list or `all`.
fn selected(words: &[&str], (from, to, _): &(u64, u64, Message)) -> bool {
    let fits = |at: usize, id: &u64| match words.get(at) {
        None | Some(&"all") => true,
        Some(list) => numbers(list).contains(id),
    };
    fits(1, from) && fits(2, to)
}

fn shown(result: Result<(Index, Term), ProposalRefusal>) -> String {
    match result {
        Ok((index, term)) => format!("appends {}/{}", index.0, term.0),
        Err(why) => format!("refuses: {}", refusal(why)),
    }
}

/// Why raft refused a proposal or a read; the leader that it names, or 0.
fn refusal(why: ProposalRefusal) -> String {
    match why {
        ProposalRefusal::NotLeader(leader) => {
            format!("NotLeader({:?})", leader.unwrap_or(PeerId::NONE))
        }
        _ => format!("{why:?}"),
    }
}

// -- values as text
fn entry(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.index.0, entry.term.0);
    let EntryBody::Good(bytes) = &entry.body else {
        return format!("{place}(damaged)");
    };
    match command::decode(bytes).expect("encoded by a member") {
        Command::Set { .. } => place,
        Command::Nop => format!("{place}(nop)"),
        Command::Join { name, replaces, .. } if replaces != 0 => {
            format!("{place}(join {name} for {replaces})")
        }
        Command::Join { name, .. } => format!("{place}(join {name})"),
        Command::Promote { id } => format!("{place}(promote {id})"),
        Command::Remove { id } => format!("{place}(remove {id})"),
        other => panic!("not in these scripts: {other:?}"),
    }
}

fn persist(what: &Persist) -> String {
    match what {
        Persist::State { term, vote } => {
            format!("term {}, vote {}", term.0, vote.map_or(0, |id| id.0))
        }
        Persist::Append { entries, .. } => {
            let list: Vec<String> = entries.iter().map(entry).collect();
            format!("append {}", list.join(" "))
        }
        Persist::Installed { meta, keep_tail } => {
            let tail = if *keep_tail {
                "keeps its tail"
            } else {
                "drops its tail"
            };
            format!("snapshot {}/{}, {tail}", meta.index.0, meta.term.0)
        }
        Persist::Release { through } => format!("release {}", through.0),
        Persist::Repair(repaired) => format!("repair {}", entry(repaired)),
    }
}

fn message(message: &Message) -> String {
    let rpc = match &message.rpc {
        Rpc::RequestVote {
            pre,
            hand_over,
            last_index,
            last_term,
        } => {
            let kind = if *pre { "prevote?" } else { "vote?" };
            let flag = if *hand_over { " (hand-over)" } else { "" };
            format!("{kind} last {}/{}{flag}", last_index.0, last_term.0)
        }
        Rpc::Vote { pre, granted } => {
            let kind = if *pre { "prevote" } else { "vote" };
            format!("{kind} {}", if *granted { "yes" } else { "no" })
        }
        Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit,
            acked,
            round,
            entries,
            ..
        } => {
            let mut text = format!("append {}/{}", prev_index.0, prev_term.0);
            if !entries.is_empty() {
                let list: Vec<String> = entries.iter().map(entry).collect();
                write!(text, " [{}]", list.join(" ")).expect("a string takes it");
            }
            write!(text, " commit {} acked {}", commit.0, acked.0).expect("a string takes it");
            if let Some(round) = round {
                write!(text, " round {round}").expect("a string takes it");
            }
            text
        }
        Rpc::AppendReply { round, answer, .. } => {
            let mut text = match answer {
                AppendAnswer::Accepted {
                    verified,
                    matched,
                    want_snapshot,
                } => {
                    let want = if *want_snapshot {
                        ", wants a snapshot"
                    } else {
                        ""
                    };
                    format!("same to {} durable to {}{want}", verified.0, matched.0)
                }
                AppendAnswer::Rejected {
                    prev,
                    hint,
                    hint_term,
                } => {
                    format!("differs at {}, try {}/{}", prev.0, hint.0, hint_term.0)
                }
                AppendAnswer::Stale => "stale".to_string(),
            };
            if let Some(round) = round {
                write!(text, " round {round}").expect("a string takes it");
            }
            text
        }
        Rpc::InstallSnapshot {
            meta,
            offset,
            done,
            data,
            ..
        } => {
            let end = if *done { ", the last" } else { "" };
            let (index, term, length) = (meta.index.0, meta.term.0, data.len());
            format!("snapshot {index}/{term} from {offset}, {length} bytes{end}")
        }
        Rpc::SnapshotReply { index, offset } => format!("snapshot {} next {offset}", index.0),
        Rpc::TimeoutNow => "timeout now".to_string(),
        Rpc::Fetch { index, term } => format!("fetch {}/{}", index.0, term.0),
        Rpc::Fetched { index, term, found } => {
            let what = match found {
                FetchResult::Body(_) => "here it is",
                FetchResult::Damaged => "damaged here too",
                FetchResult::NeverStored => "never here",
                FetchResult::OnlyInSnapshot => "behind the snapshot",
            };
            format!("fetched {}/{}: {what}", index.0, term.0)
        }
        Rpc::Removed { id, .. } => format!("{} was removed", id.0),
        Rpc::Forward { .. } | Rpc::Forwarded { .. } => unreachable!("raft sends none"),
    };
    match message.term {
        Term::REMOVED => rpc,
        term => format!("t{} {rpc}", term.0),
    }
}

/// Three members with four entries each, every pattern of good and damaged ones: where an intact
/// copy of each is left, all come back; where one is lost, nobody leads and nothing is made up.
#[test]
fn every_pattern_of_damage() {
    let (mut recovered, mut refused) = (0, 0);
    for pattern in 0..1_u32 << 12 {
        let mut world = World::default();
        for id in 1..=3_u32 {
            let bad = (0..4).filter(|i| pattern >> (4 * (id - 1) + i) & 1 == 1);
            let list: Vec<String> = bad.map(|i| (i + 4).to_string()).collect();
            let line = format!(
                "node {id} 3 log=2,2,2,2 commit=7 damaged={}",
                list.join(",")
            );
            world.command(&line);
        }
        for _ in 0..20 {
            world.command("run 50");
            world.trace.clear();
            if world.nodes.values().all(|n| n.applied >= Index(8)) {
                break;
            }
        }
        let lost = (0..4).any(|i| (0..3).all(|id| pattern >> (4 * id + i) & 1 == 1));
        let leads = |n: &Node| {
            n.raft
                .as_ref()
                .is_some_and(|r| r.role() == RaftRole::Leader)
        };
        let led = world.nodes.values().any(leads);
        assert_eq!(led, !lost, "pattern {pattern:012b}");
        let whole = world.nodes.values().all(|n| n.applied >= Index(8));
        assert_eq!(whole, !lost, "pattern {pattern:012b}");
        if lost { refused += 1 } else { recovered += 1 }
    }
    assert_eq!((recovered, refused), (2401, 1695));
}

/// Each planted bug shows in some script: its trace differs, or a check of it fails.
#[cfg(feature = "faults")]
#[test]
fn every_planted_fault_shows() {
    use tern::core::raft::fault::RaftFault;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces/raft");
    let files = std::fs::read_dir(folder).expect("there are scripts");
    let mut scripts: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    scripts.sort();
    let mut unseen = Vec::new();
    // Those of the replica need its clients: the simulator catches them.
    let replicas = [
        RaftFault::ForwardTwice,
        RaftFault::ForwardUnproven,
        RaftFault::ForwardDenied,
    ];
    for fault in RaftFault::ALL
        .iter()
        .copied()
        .filter(|f| !replicas.contains(f))
    {
        let shows = |path: &std::path::PathBuf| {
            let script = std::fs::read_to_string(path).expect("a script is text");
            let world = World {
                fault: Some(fault),
                ..World::default()
            };
            let told = std::panic::catch_unwind(move || play(world, &script) == script);
            !told.unwrap_or(false)
        };
        let by: Vec<_> = scripts.iter().filter(|path| shows(path)).collect();
        let first = by.first().and_then(|path| path.file_stem());
        println!("{fault:?}: {} scripts, first {first:?}", by.len());
        if by.is_empty() {
            unseen.push(fault);
        }
    }
    assert!(unseen.is_empty(), "no script shows {unseen:?}");
}
