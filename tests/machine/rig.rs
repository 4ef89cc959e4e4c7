//! A shell of a few lines round `Machine`: a disk that syncs when the test says so, a clock that
//! stands still, answers that are kept. It checks on the way that nothing leaves the core before
//! the disk has what it rests on.
use std::collections::BTreeMap;
use tern::codec::cluster_api;
use tern::codec::http::Method;
use tern::codec::http::call::HttpReply;
use tern::core::cluster_time::{Lease, Stamp};
use tern::core::command::{Command, KeyPath};
use tern::core::machine::*;
use tern::core::peers::{LinkId, LinkOrder};
use tern::core::raft::{HardState, Lsn, Message, PeerId, Persist};
use tern::core::timer::Now;
use tern_support::durable_disk::DurableDisk;
use tern_support::survey;

pub const SECOND_US: u64 = 1_000_000;
/// 2026-11-24 00:00 UTC.
pub const EPOCH_NS: u64 = 1_795_478_400_000_000_000;

/// One machine, its disk, and everything that it has sent and answered.
pub struct Rig {
    pub machine: Machine,
    pub settings: Settings,
    pub disk: DurableDisk,
    pub now: Now,
    pub effects: Outputs,
    /// The orders of the last turn.
    pub ordered: Ordered,
    /// Term and vote, handed to the disk and not synced.
    pub pending_state: Option<HardState>,
    /// Records of the log, handed to the disk and not synced.
    pub pending: Vec<Persist>,
    lsn: Lsn,
    pub answers: Vec<Answer>,
    pub events: Vec<Delivery>,
    pub facts: Vec<Fact>,
    pub sent: Vec<(PeerId, Message)>,
    /// The URLs it has called.
    pub called: Vec<Box<str>>,
    /// Calls that ask whether it has its place; a `Cluster` answers them.
    pub surveys: Vec<Call>,
    /// The links that it has dialled.
    pub dialled: Vec<LinkId>,
    /// The URLs of those links.
    pub dialled_urls: Vec<Box<str>>,
    /// The disk has no room for snapshots.
    pub snapshots_fail: bool,
    /// The disk is slow: orders about snapshots wait in `late_snapshots`.
    pub snapshots_are_slow: bool,
    late_snapshots: Vec<SnapshotOut>,
    /// Kinds of snapshot outputs, in order.
    pub snapshot_log: Vec<&'static str>,
    pub stopped: bool,
    pub removed: bool,
    /// Why it has ended.
    pub failed: Option<Box<str>>,
    last_ticket: u64,
}

/// When the machine has something to do; the end of time: never.
pub fn next_deadline(machine: &Machine) -> u64 {
    machine.next_deadline().unwrap_or(u64::MAX)
}

pub fn settings(number: u16) -> Settings {
    Settings {
        name: format!("node{number}").into(),
        client_url: format!("http://127.0.0.1:{}", 4000 + number).into(),
        peer_url: format!("http://127.0.0.1:{}", 7000 + number).into(),
        heartbeat_ms: 50,
        election_ms: 200,
        snapshot_count: 10_000,
        snapshots: true,
        cluster: Default::default(),
        history_events: 1000,
        store_bytes_max: None,
        memory: Default::default(),
        forward: false,
    }
}

impl Rig {
    /// A new cluster of one, not advanced yet.
    pub fn found(settings: Settings) -> Rig {
        let founding = Machine::bootstrap(&settings, 77, 5);
        let disk = DurableDisk::of_founder(founding);
        Rig::start(
            settings,
            disk,
            Now {
                mono_us: 1_000_000,
                wall_ns: EPOCH_NS,
            },
        )
    }

    /// A new cluster of one that serves.
    pub fn serving(settings: Settings) -> Rig {
        let mut rig = Rig::found(settings);
        rig.settle();
        assert!(rig.machine.is_serving());
        rig
    }

    /// A new member, with nothing but its id.
    pub fn let_in(settings: Settings, id: PeerId, now: Now) -> Rig {
        Rig::start(settings, DurableDisk::of(id), now)
    }

    pub fn start(settings: Settings, mut disk: DurableDisk, now: Now) -> Rig {
        let recovered = disk.recover(77);
        let seed = u64::from(settings.name.as_bytes()[4]);
        Rig {
            machine: Machine::recover(settings.clone(), recovered, seed, now),
            settings,
            disk,
            now,
            effects: Outputs::default(),
            ordered: Ordered::default(),
            pending_state: None,
            pending: Vec::new(),
            lsn: Lsn(0),
            answers: Vec::new(),
            events: Vec::new(),
            facts: Vec::new(),
            sent: Vec::new(),
            called: Vec::new(),
            surveys: Vec::new(),
            dialled: Vec::new(),
            dialled_urls: Vec::new(),
            snapshots_fail: false,
            snapshots_are_slow: false,
            late_snapshots: Vec::new(),
            snapshot_log: Vec::new(),
            stopped: false,
            removed: false,
            failed: None,
            last_ticket: 0,
        }
    }

    /// Kills the machine and starts it again from what is durable.
    pub fn restart(self) -> Rig {
        Rig::start(self.settings, self.disk, self.now)
    }

    pub fn ask(&mut self, op: Op) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.machine.on_request(self.now, ticket, op);
        ticket
    }

    pub fn again(&mut self, ticket: Ticket, op: Op) {
        self.machine.on_request(self.now, ticket, op);
    }

    /// One `advance`; the disk gets what is for it and syncs nothing.
    pub fn turn(&mut self) {
        self.effects.clear();
        self.machine.advance(self.now, &mut self.effects);
        self.pending_state = self.effects.state.take().or(self.pending_state);
        self.pending.append(&mut self.effects.persist);
        self.lsn = self.effects.lsn;
        self.answers.append(&mut self.effects.answers);
        self.events.append(&mut self.effects.events);
        self.facts.append(&mut self.effects.facts);
        self.sent.append(&mut self.effects.send);
        self.called
            .extend(self.effects.calls.iter().map(|call| Asked::of(call).url));
        let surveys = self.effects.calls.iter();
        let surveys = surveys.filter(|call| survey::asked_place(call).is_some());
        self.surveys.extend(surveys.cloned());
        for order in self.effects.links.drain(..) {
            if let LinkOrder::Dial { link, url, .. } = order {
                self.dialled.push(link);
                self.dialled_urls.push(url);
            }
        }
        self.ordered = Ordered::take(&mut self.effects);
        self.stopped |= self.ordered.stopped;
        self.removed |= self.ordered.wipe;
        if self.ordered.failed.is_some() {
            self.failed.clone_from(&self.ordered.failed);
        }
        self.late_snapshots.append(&mut self.effects.snapshot);
        if !self.snapshots_are_slow {
            for out in std::mem::take(&mut self.late_snapshots) {
                self.on_snapshot_out(out);
            }
        }
        if self.ordered.wipe {
            // The disk keeps its content: a restart stands for a crash before the wipe.
            self.pending_state = None;
            self.pending.clear();
            self.machine.on_wiped(self.now, 78);
        }
    }

    fn on_snapshot_out(&mut self, out: SnapshotOut) {
        let fails = self.snapshots_fail && matches!(out, SnapshotOut::Finish);
        self.snapshot_log.push(match out {
            SnapshotOut::Begin(_) => "begin",
            SnapshotOut::Chunk(_) => "chunk",
            SnapshotOut::Finish if fails => "fail",
            SnapshotOut::Finish => "finish",
            SnapshotOut::Abandon => "abandon",
            SnapshotOut::Read { .. } => "read",
            SnapshotOut::Receive { .. } => "receive",
        });
        if fails {
            let index = self.disk.abandon_snapshot();
            return self
                .machine
                .on_snapshot(self.now, SnapshotIn::Failed { index });
        }
        if let Some(input) = self.disk.on_snapshot_output(out) {
            self.machine.on_snapshot(self.now, input);
        }
    }

    /// The disk has synced everything it was given.
    pub fn sync(&mut self) {
        self.sync_after(0);
    }

    /// The same; it has taken so many microseconds.
    pub fn sync_after(&mut self, took_us: u64) {
        if let Some(state) = self.pending_state.take() {
            self.disk.log.save_state(state);
            self.machine.on_state_synced(self.now, state.seq, took_us);
        }
        for what in std::mem::take(&mut self.pending) {
            self.disk.log.check_order(&what);
            self.disk.log.apply(what);
        }
        self.machine.on_synced(self.now, self.lsn, took_us);
    }

    /// Turns and syncs until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            let has_synced = self.pending_state.is_none() && self.pending.is_empty();
            if has_synced && !self.machine.wants_turn() {
                return;
            }
            self.sync();
        }
        panic!("never at rest");
    }

    /// Time passes, with every deadline on the way.
    pub fn pass(&mut self, us: u64) {
        let end = self.now.mono_us + us;
        loop {
            let next = next_deadline(&self.machine).clamp(self.now.mono_us, end);
            self.now.wall_ns += (next - self.now.mono_us) * 1000;
            self.now.mono_us = next;
            self.machine.on_time(self.now);
            self.settle();
            if next_deadline(&self.machine) > end || next == end {
                break;
            }
        }
        self.now.wall_ns += (end - self.now.mono_us) * 1000;
        self.now.mono_us = end;
    }

    /// Time passes, and the machine has no turn meanwhile.
    pub fn sleep(&mut self, us: u64) {
        self.now.mono_us += us;
        self.now.wall_ns += us * 1000;
    }

    /// The only answer to a ticket.
    pub fn answer(&mut self, ticket: Ticket) -> Outcome {
        let mut told = self.take_answers(ticket);
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0)
    }

    /// All answers to a ticket so far, taken out.
    pub fn take_answers(&mut self, ticket: Ticket) -> Vec<Outcome> {
        let (told, rest) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|a: &Answer| a.ticket == ticket);
        self.answers = rest;
        told.into_iter().map(|a: Answer| a.outcome).collect()
    }

    /// Asks, lets everything happen, and gives the answer.
    pub fn done(&mut self, op: Op) -> Outcome {
        let ticket = self.ask(op);
        self.settle();
        self.answer(ticket)
    }

    pub fn put(&mut self, path: &str, value: &str) -> u64 {
        match self.done(set(path, value)) {
            Outcome::Event(event) => event.node.modified.0,
            other => panic!("{other:?}"),
        }
    }

    /// A file's value.
    pub fn value(&mut self, path: &str) -> Option<String> {
        match self.done(get(path)) {
            Outcome::Page { items, last: true } => {
                Some(items[0].view.value.as_deref().unwrap_or("").to_string())
            }
            Outcome::Failed(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// The events of a long poll or stream, by key and index.
    pub fn delivered(&self, ticket: Ticket) -> Vec<(String, u64)> {
        let mine = self
            .events
            .iter()
            .filter(|d| d.tickets.iter().any(|t| t.0 == ticket));
        mine.map(|d| (d.event.node.key.to_string(), d.etcd.0))
            .collect()
    }
}

/// The orders of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ordered {
    pub let_in: Option<PeerId>,
    pub standby: Option<StandbyInfo>,
    pub wipe: bool,
    pub found: bool,
    pub forces: bool,
    pub failed: Option<Box<str>>,
    pub stopped: bool,
}

impl Ordered {
    /// Takes the orders out of a batch.
    pub fn take(outputs: &mut Outputs) -> Ordered {
        let mut ordered = Ordered::default();
        for order in outputs.orders.drain(..) {
            match order {
                Order::KeepId(id) => ordered.let_in = Some(id),
                Order::KeepStandbyInfo { info, .. } => {
                    assert!(
                        !ordered.wipe,
                        "what a standby knows is saved before the wipe"
                    );
                    ordered.standby = Some(info);
                }
                Order::FollowMembers => {}
                Order::Wipe => ordered.wipe = true,
                Order::Found => ordered.found = true,
                Order::ForceNewCluster => ordered.forces = true,
                Order::Fail(text) => ordered.failed = Some(text),
                Order::Stop => ordered.stopped = true,
            }
        }
        ordered
    }
}

/// A call of the machine as the HTTP request that it becomes. Tests answer it as a server would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub id: CallId,
    question: Question,
    pub method: Method,
    pub url: Box<str>,
    pub content_type: &'static str,
    pub body: Box<[u8]>,
}

impl Asked {
    pub fn of(call: &Call) -> Asked {
        let request = cluster_api::request(call);
        Asked {
            id: call.id,
            question: call.question.clone(),
            method: request.method,
            url: request.url,
            content_type: request.content_type,
            body: request.body,
        }
    }

    /// What a response to it tells the machine.
    pub fn reply(&self, status: u16, server: &str, body: &[u8]) -> Reply {
        let response = HttpReply::Answered {
            status,
            server: server.into(),
            body: body.into(),
        };
        cluster_api::reply(&self.question, response)
    }

    /// What the response of a tern tells the machine.
    pub fn answered(&self, status: u16, body: &str) -> Reply {
        self.reply(status, "tern/0.1.0", body.as_bytes())
    }
}

/// Several machines and what is on its way between them.
pub struct Cluster {
    pub rigs: BTreeMap<PeerId, Rig>,
    /// Nothing comes to these, or from them.
    pub cut: Vec<PeerId>,
}

impl Cluster {
    /// A cluster of this machine alone.
    pub fn of(rig: Rig) -> Cluster {
        Cluster {
            rigs: BTreeMap::from([(rig.machine.id().expect("a member"), rig)]),
            cut: Vec::new(),
        }
    }

    /// Carries messages until no machine sends any.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.round() {
                return;
            }
        }
        panic!("never at rest");
    }

    /// Each machine has its turns, and its messages arrive; false when there were none.
    pub fn round(&mut self) -> bool {
        let mut on_the_way = Vec::new();
        for (from, rig) in &mut self.rigs {
            rig.settle();
            let sent = rig.sent.drain(..);
            on_the_way.extend(sent.map(|(to, message)| (*from, to, message)));
        }
        let any = self.answer_surveys() || !on_the_way.is_empty();
        for (from, to, message) in on_the_way {
            if self.cut.contains(&from) || self.cut.contains(&to) {
                continue;
            }
            if let Some(rig) = self.rigs.get_mut(&to) {
                rig.machine.on_message(rig.now, from, message);
            }
        }
        any
    }

    /// Answers the members that ask whether they have their places. Returns whether there were
    /// any.
    fn answer_surveys(&mut self) -> bool {
        let mut replies = Vec::new();
        for (from, rig) in &mut self.rigs {
            let calls = rig.surveys.drain(..);
            replies.extend(calls.map(|call| (*from, call)));
        }
        let any = !replies.is_empty();
        for (from, call) in replies {
            let place = survey::asked_place(&call).expect("filtered");
            let mut heard = self.rigs.iter().filter(|(id, _)| {
                let is_cut = self.cut.contains(id) || self.cut.contains(&from);
                **id != from && !is_cut
            });
            let asked = heard.find(|(_, rig)| rig.settings.peer_url == call.base);
            let now = self.rigs[&from].now;
            let reply = survey::reply(&call, place, asked.map(|(_, rig)| &rig.machine), now);
            let rig = self.at(from);
            rig.machine.on_reply(now, call.id, reply);
        }
        any
    }

    /// Time passes for all, a heartbeat at a time.
    pub fn pass(&mut self, us: u64) {
        for _ in 0..us.div_ceil(50_000) {
            for rig in self.rigs.values_mut() {
                rig.now.mono_us += 50_000;
                rig.now.wall_ns += 50_000_000;
                rig.machine.on_time(rig.now);
            }
            self.settle();
        }
    }

    /// Its machines, in the order of their ids.
    pub fn ids(&self) -> Vec<PeerId> {
        self.rigs.keys().copied().collect()
    }

    pub fn leader(&self) -> PeerId {
        let leads = |(_, rig): &(&PeerId, &Rig)| rig.machine.role() == Role::Leader;
        let (id, _) = self.rigs.iter().find(leads).expect("a leader");
        *id
    }

    pub fn at(&mut self, id: PeerId) -> &mut Rig {
        self.rigs.get_mut(&id).expect("a machine")
    }

    /// Asks one of them and lets everything happen.
    pub fn done(&mut self, id: PeerId, op: Op) -> Outcome {
        let ticket = self.at(id).ask(op);
        self.settle();
        self.at(id).answer(ticket)
    }

    /// A machine asks the leader to join, and starts.
    pub fn join(&mut self, number: u16, incarnation: u64) -> PeerId {
        let leader = self.leader();
        let settings = Settings {
            forward: self.at(leader).settings.forward,
            ..settings(number)
        };
        let id = match self.done(leader, join(&settings, incarnation)) {
            Outcome::Joined(index) => PeerId(index.0),
            other => panic!("{other:?}"),
        };
        let now = self.at(leader).now;
        self.rigs.insert(id, Rig::let_in(settings, id, now));
        self.settle();
        id
    }
}

pub fn join(settings: &Settings, incarnation: u64) -> Op {
    Op::Join(Join {
        min_version: 2,
        max_version: 2,
        name: settings.name.clone(),
        peer_url: settings.peer_url.clone(),
        client_url: settings.client_url.clone(),
        incarnation,
        former: None,
    })
}

pub fn set(path: &str, value: &str) -> Op {
    Op::Write(Command::Set {
        path: KeyPath::new(path),
        value: Some(value.into()),
        lease: None,
    })
}

pub fn set_for(path: &str, ttl_ms: u64) -> Op {
    Op::Write(Command::Set {
        path: KeyPath::new(path),
        value: Some("mortal".into()),
        // The leader stamps it anew.
        lease: Some(Lease::new(ttl_ms as i64 * 1_000_000, Stamp::default())),
    })
}

pub fn get(path: &str) -> Op {
    read(path, false, false)
}

pub fn read(path: &str, recursive: bool, linearizable: bool) -> Op {
    Op::Get {
        path: KeyPath::new(path),
        recursive,
        linearizable,
    }
}

pub fn watch(path: &str, stream: bool, since: Option<u64>) -> Op {
    Op::Watch {
        path: KeyPath::new(path),
        recursive: true,
        stream,
        since,
        on_leader: false,
        timeout_us: None,
    }
}
