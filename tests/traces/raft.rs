//! Traces of raft: a handful of members, the messages between them, their disks and their clock,
//! all moved by command.
//!
//! A script has one command a line; what it leads to stands indented beneath. Nothing happens by
//! itself: messages wait until `deliver`, writes until `sync`, timers until `time` or `timeout`.
//! Whatever the script, each step is checked: one leader a term, the same entry at an index
//! everywhere once it is committed, commits only on a majority of synced disks. Start reading at
//! `World::command`.
mod damage;
mod events;
mod output;
mod text;

use events::selected;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use tern::codec::peer::wire;
use tern::core::command::{self, Command, KeyPath, Origin};
use tern::core::raft::room::FREE_BYTES_MAX;
use tern::core::raft::{
    AppendAnswer, Configuration, Entry, EntryBody, FetchResult, HardState, Index, Lsn, Member,
    Message, PeerId, Persist, ProposalRefusal, Raft, RaftConfig, RaftNotice, RaftOutput, RaftRole,
    RaftState, ReadId, Rpc, SnapshotMeta, Term,
};
use tern::core::timer::Now;
use tern_support::durable::DurableLog;
use text::{hard_state, message, persist, refusal, shown};

/// Bytes of one piece of a snapshot.
const CHUNK: usize = 8;
const CLUSTER: u64 = 7;
/// The seed of the checksum that a damaged body is reported with.
const DAMAGE_SEED: u32 = 11;

/// Runs a script: its text with what each command leads to beneath it.
pub fn run(script: &str) -> String {
    let mut world = World::default();
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
    log: DurableLog,
    snapshot: SnapshotMeta,
    bytes: Vec<u8>,
}

impl Disk {
    fn write(&mut self, what: Persist) {
        if let Persist::Installed { meta, .. } = &what {
            self.snapshot = meta.clone();
        }
        self.log.check_order(&what);
        self.log.apply(what);
    }

    fn holds(&self, index: Index, term: Term) -> bool {
        let record = self.log.get(index.0);
        self.snapshot.index >= index || record.is_some_and(|r| r.entry.term == term)
    }
}

/// One member.
struct Node {
    raft: Option<Raft>,
    disk: Disk,
    /// Term and vote, written and not synced: lost in a crash.
    unsynced_state: Option<HardState>,
    /// When the first of them came.
    unsynced_state_us: u64,
    /// Records of the log, written and not synced: lost in a crash.
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
        added_as: None,
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
        lease: None,
    }
}

fn join(name: &str, incarnation: u64, replaces: Option<u64>) -> Command {
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
            "fresh" => self.start(number(&words, 1), Disk::default(), FREE_BYTES_MAX),
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
            "restart" => self.restart(&words),
            "save" => self.with(number(&words, 1), |n| n.saved = Some(n.disk.clone())),
            "restore" => self.with(number(&words, 1), |n| {
                n.disk = n.saved.clone().expect("saved")
            }),
            "damage" => self.damage(&words),
            "show" => self.show(number(&words, 1)),
            "refuse" => self.refuse(&words),
            "room" => self.room(number(&words, 1), number(&words, 2)),
            "install" => self.install(number(&words, 1), words.get(2) != Some(&"bad")),
            "snapshot" => self.snapshot(&words),
            "notice" => self.notice(&words),
            "claim" => self.claim(&words),
            "log" => self.show_log(number(&words, 1)),
            "state" => self.show_states(),
            "disk" => self.show_disk(number(&words, 1)),
            "members" => self.show_members(number(&words, 1)),
            _ => self.ask(&words),
        }
    }

    /// What a client, an operator or the replica asks of one member.
    fn ask(&mut self, words: &[&str]) {
        let (now, id) = (self.now(), number(words, 1));
        let said = self.raft(id, |raft| match words[0] {
            "propose" => {
                let keys = words[2..].iter();
                let said: Vec<_> = keys.map(|k| shown(raft.propose(now, &set(k)))).collect();
                said.join(", ")
            }
            "forward" => {
                let origin = Origin {
                    process: 1,
                    number: 1,
                };
                shown(raft.propose_from(now, &set(words[2]), Some(origin)))
            }
            "join" => {
                let incarnation =
                    option(words, "dir").map_or(500, |v| v.parse().expect("a number"));
                let replaces = option(words, "replaces").map(|v| v.parse().expect("a number"));
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
                    for_good: words.get(3) == Some(&"for-good"),
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
            "clients" => {
                let is_served = raft.has_majority_with_room(false);
                let is_full = raft.is_full_leader();
                format!("takes clients' entries: {is_served}, should hand over: {is_full}")
            }
            "can_remove" => format!("{}", raft.can_remove(now, PeerId(number(words, 2)))),
            "known" => match raft.known_commit() {
                None => "knows no commit index of the cluster".to_string(),
                Some(index) => format!("knows that {} is committed", index.0),
            },
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
        let mut log = DurableLog::after(count);
        log.term = Term(value("term", last));
        log.vote = option(words, "vote").map(|v| PeerId(v.parse().expect("a number")));
        log.commit = Index(value("commit", count));
        log.append(entries.collect());
        for index in option(words, "damaged").map(numbers).unwrap_or_default() {
            log.damage(index, DAMAGE_SEED);
        }
        let disk = Disk {
            log,
            snapshot: SnapshotMeta {
                cluster: CLUSTER,
                index: Index(count),
                term: Term(1),
                configuration: Configuration {
                    members,
                    ..Configuration::default()
                },
            },
            bytes: format!("snapshot {count}").into(),
        };
        let id = number(words, 1);
        self.start(id, disk, FREE_BYTES_MAX);
    }

    /// Starts a member whose log takes so many bytes.
    fn start(&mut self, id: u64, mut disk: Disk, free_bytes: u64) {
        disk.snapshot.cluster = CLUSTER;
        if disk.log.last() < disk.snapshot.index.0 {
            // The snapshot was durable before the entries that it holds.
            disk.log.start_after(disk.snapshot.index.0);
        }
        let config = RaftConfig {
            id: PeerId(id),
            heartbeat_ms: 50,
            election_ms: 200,
            memory: Default::default(),
            seed: id,
        };
        let state = RaftState {
            term: disk.log.term,
            vote: disk.log.vote,
            snapshot: disk.snapshot.clone(),
            entries: disk.log.entries_after(disk.snapshot.index.0),
            commit: disk.log.commit,
            stamp: None,
            free_bytes,
        };
        let raft = Raft::new(config, state, self.now());
        let saved = self.nodes.remove(&id).and_then(|n| n.saved);
        self.nodes.insert(
            id,
            Node {
                raft: Some(raft),
                applied: disk.snapshot.index,
                disk,
                unsynced_state: None,
                unsynced_state_us: 0,
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
}
