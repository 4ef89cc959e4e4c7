//! Machines, the links between them, and a faulty member among them.
//!
//! Time is virtual, messages take none. A machine that refuses a message has all links to its
//! sender closed; they open again after a pause, as the shell does it.
use crate::host::Host;
use crate::messages::{Forger, View};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use tern::codec::peer::wire;
use tern::core::machine::*;
use tern::core::raft::{Index, Message, PeerId, Raft, Rpc, Term};
use tern_support::durable_disk::DurableDisk;
use tern_support::rng::Rng;
use tern_support::survey;

/// How long a link that was closed stays so, in microseconds.
const PAUSE_US: u64 = 50_000;
/// A step of time.
const STEP_US: u64 = 10_000;
/// Most messages that are remembered for the report of a failure, and for replays.
const TRACE_MAX: usize = 40;
/// Most rounds of messages in one step. Lies can make two machines answer each other without end.
const ROUNDS_MAX: usize = 30;

/// The disks of a cluster at one moment.
pub type Image = BTreeMap<PeerId, DurableDisk>;

/// Some machines.
#[derive(Default)]
pub struct World {
    pub hosts: BTreeMap<PeerId, Host>,
    /// The faulty member: its messages are forged, and its own machine, if it is among the hosts,
    /// sends as well.
    pub faulty: Option<PeerId>,
    /// Links that are closed, lower id first, and until when.
    closed: BTreeMap<(PeerId, PeerId), u64>,
    now_us: u64,
    /// What happened last, for replays and for the report of a failure.
    pub trace: VecDeque<Happened>,
}

/// A message was delivered over a link, or the link was closed.
pub struct Happened {
    from: PeerId,
    to: PeerId,
    is_forged: bool,
    /// `None`: the link was closed.
    message: Option<Message>,
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mark = if self.is_forged { "!" } else { " " };
        write!(f, "{mark} {} -> {}: ", self.from.0, self.to.0)?;
        match &self.message {
            Some(message) => f.write_str(&brief(message)),
            None => f.write_str("closed"),
        }
    }
}

fn pair(a: PeerId, b: PeerId) -> (PeerId, PeerId) {
    (a.min(b), a.max(b))
}

impl World {
    /// Machines that have just started.
    pub fn of(hosts: Vec<Host>) -> World {
        let mut world = World::default();
        for host in hosts {
            world.now_us = host.now.mono_us;
            world.hosts.insert(host.id(), host);
        }
        world.open_links();
        world
    }

    pub fn image(&self) -> Image {
        let disks = self.hosts.iter().map(|(id, host)| (*id, host.disk.clone()));
        disks.collect()
    }

    /// Opens a link between each two machines.
    pub fn open_links(&mut self) {
        let ids: Vec<PeerId> = self.hosts.keys().copied().collect();
        for host in self.hosts.values_mut() {
            for id in &ids {
                if *id != host.id() {
                    host.open_link(*id);
                }
            }
        }
    }

    fn note(&mut self, from: PeerId, to: PeerId, message: Option<Message>) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(Happened {
            from,
            to,
            is_forged: self.faulty == Some(from),
            message,
        });
    }

    /// One of the last messages.
    pub fn replay(&self, rng: &mut Rng) -> Option<Message> {
        let at = rng.index(self.trace.len().max(1));
        self.trace.get(at)?.message.clone()
    }

    /// Delivers a message over the link to `from`, which is opened if need be.
    pub fn deliver(&mut self, from: PeerId, to: PeerId, message: Message) {
        self.note(from, to, Some(message.clone()));
        let Some(host) = self.hosts.get_mut(&to) else {
            return;
        };
        self.closed.remove(&pair(from, to));
        if !host.open_link(from) {
            return;
        }
        host.machine.on_message(host.now, from, message);
        host.turn();
    }

    /// Closes the links that machines want closed.
    fn close_links(&mut self) {
        let mut closed = Vec::new();
        for (id, host) in &mut self.hosts {
            closed.extend(host.closed.drain(..).map(|peer| (*id, peer)));
        }
        for (a, b) in closed {
            self.close_link(a, b);
        }
    }

    pub fn close_link(&mut self, a: PeerId, b: PeerId) {
        self.note(a, b, None);
        self.closed.insert(pair(a, b), self.now_us + PAUSE_US);
        for (own, other) in [(a, b), (b, a)] {
            if let Some(host) = self.hosts.get_mut(&own) {
                host.end_link(other);
                host.settle();
            }
        }
    }

    fn reopen_links(&mut self) {
        let now_us = self.now_us;
        let mut due = Vec::new();
        self.closed.retain(|ids, until_us| {
            let is_due = *until_us <= now_us;
            if is_due {
                due.push(*ids);
            }
            !is_due
        });
        for (a, b) in due {
            for (own, other) in [(a, b), (b, a)] {
                if let Some(host) = self.hosts.get_mut(&own) {
                    host.open_link(other);
                }
            }
        }
    }

    /// Carries the messages that machines have sent. What is for the faulty member goes to the
    /// forger as well. Returns whether there were any.
    pub fn carry(&mut self, forger: &mut Option<Forger>) -> bool {
        let mut under_way = Vec::new();
        for (from, host) in &mut self.hosts {
            under_way.extend(
                host.sent
                    .drain(..)
                    .map(|(to, message)| (*from, to, message)),
            );
        }
        self.close_links();
        let has_answered = self.answer_calls();
        let has_any = has_answered || !under_way.is_empty();
        for (from, to, message) in under_way {
            if self.closed.contains_key(&pair(from, to)) {
                continue;
            }
            if self.faulty == Some(to)
                && let Some(forger) = forger
            {
                forger.on_sent(message.clone());
            }
            let message = through_the_wire(&message).expect("a machine's message can be read");
            self.deliver(from, to, message);
        }
        for host in self.hosts.values_mut() {
            host.settle();
        }
        self.close_links();
        has_any
    }

    /// Answers the machines that ask whether they have their places; other calls fail. Returns
    /// whether there were any.
    fn answer_calls(&mut self) -> bool {
        let mut calls = Vec::new();
        for (id, host) in &mut self.hosts {
            calls.extend(host.calls.drain(..).map(|call| (*id, call)));
        }
        let any = !calls.is_empty();
        for (id, call) in calls {
            let mut others = self.hosts.values().filter(|host| host.id() != id);
            let asked = others.find(|host| host.settings.peer_url == call.base);
            let now = self.hosts[&id].now;
            let reply = match survey::asked_place(&call) {
                Some(place) => survey::reply(&call, place, asked.map(|h| &h.machine), now),
                None => Reply::Failed {
                    why: "not answered here".into(),
                },
            };
            let host = self.hosts.get_mut(&id).expect("it has called");
            host.on_reply(&call, reply);
        }
        any
    }

    /// Carries messages until there are none.
    pub fn carry_all(&mut self, forger: &mut Option<Forger>) {
        for _ in 0..ROUNDS_MAX {
            if !self.carry(forger) {
                return;
            }
        }
    }

    /// Time passes.
    pub fn pass(&mut self, us: u64, forger: &mut Option<Forger>) {
        for _ in 0..us.div_ceil(STEP_US) {
            self.now_us += STEP_US;
            self.reopen_links();
            for host in self.hosts.values_mut() {
                host.pass(STEP_US);
            }
            self.carry_all(forger);
        }
    }

    /// The machine that leads in the latest term.
    pub fn leader(&mut self) -> Option<&mut Host> {
        let leaders = self.hosts.values_mut();
        leaders
            .filter(|host| host.machine.role() == Role::Leader)
            .max_by_key(|host| host.machine.raft().map(Raft::term))
    }

    /// Writes until a write succeeds. Returns how long that took, in microseconds; `None` if it
    /// took longer than `us_max`.
    pub fn write_until(&mut self, us_max: u64) -> Option<u64> {
        let start_us = self.now_us;
        while self.now_us <= start_us + us_max {
            let value = self.now_us;
            if let Some(leader) = self.leader() {
                let ticket = leader.write(value);
                let id = leader.id();
                leader.settle();
                self.carry_all(&mut None);
                let leader = self.hosts.get_mut(&id).expect("it is still there");
                if let Some(Outcome::Event(_)) = leader.take_outcome(ticket) {
                    return Some(self.now_us - start_us);
                }
            }
            self.pass(STEP_US, &mut None);
        }
        None
    }

    /// Whether lies have broken what raft rests on, between the machines that are left. Then writes
    /// may never resume, and no rule of raft could help:
    /// - the voters are others than `voters`,
    /// - two machines have applied different entries, or one whose log could win an election lacks
    ///   an entry that another one has committed.
    pub fn is_broken(&self, voters: &[PeerId]) -> bool {
        let rafts: Vec<&Raft> = self
            .hosts
            .values()
            .filter_map(|h| h.machine.raft())
            .collect();
        let has_other_voters = |raft: &&Raft| {
            let latest = raft.configuration().voters();
            !latest.eq(voters.iter().copied())
        };
        if rafts.len() < self.hosts.len() || rafts.iter().any(has_other_voters) {
            return true;
        }
        for b in self.hosts.values() {
            let votes = rafts.iter().filter(|x| last_of(x) <= last_of(raft_of(b)));
            let can_win = votes.count() > voters.len() / 2;
            if self
                .hosts
                .values()
                .any(|a| differs(a, b) || (can_win && lacks_committed(a, b)))
            {
                return true;
            }
        }
        false
    }
}

fn raft_of(host: &Host) -> &Raft {
    host.machine.raft().expect("a member")
}

/// What votes compare.
fn last_of(raft: &Raft) -> (Term, Index) {
    let last = raft.last_index();
    let term = raft.entry(last).map_or(raft.snapshot().term, |e| e.term);
    (term, last)
}

/// Whether the two have applied different entries, or one has installed a snapshot that the other
/// one contradicts.
fn differs(a: &Host, b: &Host) -> bool {
    let snapshot = raft_of(a).snapshot();
    let known = b.applied.get(&snapshot.index).map(|(term, _)| *term);
    let own = raft_of(b).snapshot();
    let known = known.or((own.index == snapshot.index).then_some(own.term));
    if known.is_some_and(|term| term != snapshot.term) {
        return true;
    }
    let mut common = a.applied.iter();
    common.any(|(index, entry)| b.applied.get(index).is_some_and(|other| other != entry))
}

/// Whether `b` lacks an entry that `a` has committed.
fn lacks_committed(a: &Host, b: &Host) -> bool {
    let (a, b) = (raft_of(a), raft_of(b));
    let term_at = |raft: &Raft, index: Index| match raft.entry(index) {
        Some(entry) => Some(entry.term),
        None if raft.snapshot().index == index => Some(raft.snapshot().term),
        None => None,
    };
    let commit = a.committed();
    commit > b.snapshot().index && term_at(b, commit) != term_at(a, commit)
}

/// A message encoded and decoded; `None` if it cannot be.
pub fn through_the_wire(message: &Message) -> Option<Message> {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    wire::decode(&bytes).ok()
}

/// A message in one line.
fn brief(message: &Message) -> String {
    let mut text = format!("t{} {:?}", message.term.0, message.rpc);
    if let Rpc::InstallSnapshot {
        meta, offset, done, ..
    } = &message.rpc
    {
        text = format!(
            "t{} snapshot {meta:?} at {offset} done {done}",
            message.term.0
        );
    }
    let end = text
        .char_indices()
        .nth(600)
        .map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text
}

/// Forges one message of `from` for the machine `to` and delivers it. Returns whether one was
/// delivered: some cannot be encoded.
pub fn forge(world: &mut World, forger: &mut Forger, from: PeerId, to: PeerId) -> bool {
    let Some(view) = world.hosts.get(&to).and_then(View::of) else {
        return false;
    };
    let replayed = match forger.rng.below(10) {
        0 => world.replay(&mut forger.rng),
        _ => None,
    };
    let drawn = replayed.unwrap_or_else(|| forger.draw(&view));
    let mut bytes = Vec::new();
    wire::encode(&drawn, &mut bytes);
    if forger.rng.percent(8) {
        crate::bodies::mutate(&mut forger.rng, &mut bytes);
    }
    let Ok(message) = wire::decode(&bytes) else {
        return false;
    };
    world.deliver(from, to, message);
    true
}
