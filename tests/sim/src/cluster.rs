//! The simulated world: hosts with a machine and a disk each, the queue of what is to happen, and
//! the turn that carries one machine's outputs out and looks at them.
//!
//! Everything that a seed does happens in `World::step`, one input at a time; `finish_turn` is the
//! simulator's version of the reactor's turn, with every check of one machine at its end. Clients
//! stand in `clients.rs`, faults in `nemesis.rs`.
use super::calls::{Calling, Leg};
use super::checks::{Contact, Seen, check_changes, check_send, describe, lost_entries};
use super::clients::Client;
use super::disk::{Disk, Held, Image, Lies, Snapshot, file_of, pieces};
use super::duties::Duties;
use super::http::{Conn, Front};
use super::net::Net;
use super::params::Params;
use super::queue::Queue;
use super::trace::Trace;
use super::truth::{Checked, MemLog, Truth, Violation, violation};
use super::watch::Watcher;
use std::collections::BTreeMap;
use tern::core::command::{self, Command};
use tern::core::machine::*;
use tern::core::raft::{self, Index, Message, PeerId, Persist, Rpc};
use tern::core::replica::HISTORY_BYTES_MAX;
use tern::core::store::{HistoryLimits, Restore, Store};
use tern::core::timer::Now;
use tern_support::linear::Call;
use tern_support::rng::Rng;

/// Time zero of every wall clock, in nanoseconds since the Unix epoch.
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// A process that runs.
pub struct Running {
    pub core: Machine,
    pub disk: Disk,
    /// The machine's log as it sees it.
    pub log: MemLog,
    pub seen: Seen,
    /// Where the log ended after the last turn.
    ended: u64,
    pub contact: Contact,
    duties: Duties,
    pub mono_off_us: u64,
    wake_us: u64,
}

/// What stands in a slot.
pub enum Place {
    /// No machine yet.
    Empty,
    Up(Box<Running>),
    Down(Image),
}

pub struct Host {
    pub place: Place,
    /// Rises with each process.
    pub epoch: u64,
    pub paused_until_us: u64,
    pub wall_off_ns: i64,
    pub slow_until_us: u64,
    pub full: bool,
    /// An old copy of the data directory.
    pub copy: Option<Image>,
    pub lies: Lies,
    /// How often it has been given another address.
    pub moves: u64,
    /// It has lost data: under which id, and how far the log was committed then.
    pub wound: Option<(u64, u64)>,
    pub started_us: u64,
    pub front: Front,
}

/// What may happen.
pub enum Ev {
    Deliver {
        slot: usize,
        to: u64,
        from: u64,
        bytes: Box<[u8]>,
    },
    Synced {
        slot: usize,
        epoch: u64,
        took_us: u64,
    },
    Saved {
        slot: usize,
        epoch: u64,
    },
    Received {
        slot: usize,
        epoch: u64,
    },
    Piece {
        slot: usize,
        epoch: u64,
        to: u64,
        index: u64,
        offset: u64,
    },
    Wake {
        slot: usize,
        epoch: u64,
    },
    Turn {
        slot: usize,
        epoch: u64,
    },
    Link {
        slot: usize,
        epoch: u64,
        peer: u64,
        up: bool,
    },
    Think {
        client: usize,
    },
    Timeout {
        client: usize,
        seq: u64,
    },
    Again {
        client: usize,
        seq: u64,
    },
    Ask {
        slot: usize,
        epoch: u64,
        ticket: Ticket,
        op: Box<Op>,
    },
    Call {
        key: u64,
        leg: Leg,
    },
    Start {
        slot: usize,
    },
    Blow,
    Look,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    Client(usize),
    /// Another machine, by the number of its call.
    Call(u64),
    Admin,
}

/// What one seed came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub elections: u64,
    pub installs: u64,
    pub snapshots: u64,
    pub changes: u64,
    pub crashes: u64,
    pub commits: u64,
    pub answers: u64,
    /// Of those, how many were rendered and read again.
    pub raw: u64,
    pub reads: u64,
    pub repairs: u64,
    pub losses: u64,
    pub watched: u64,
    pub calls: u64,
    /// How often a machine became a standby, or a standby a member.
    pub switches: u64,
    /// From the healing until all were equal, in thousandths of an election timeout.
    pub converged_milli: u64,
    /// From the healing until the cluster had its size and all others were standbys, in
    /// milliseconds.
    pub settled_ms: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.elections += other.elections;
        self.installs += other.installs;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
        self.crashes += other.crashes;
        self.commits += other.commits;
        self.answers += other.answers;
        self.raw += other.raw;
        self.reads += other.reads;
        self.repairs += other.repairs;
        self.losses += other.losses;
        self.watched += other.watched;
        self.calls += other.calls;
        self.switches += other.switches;
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first members come together.
    Setup,
    Faults,
    Healing,
    Done,
}

/// What is planted, if anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plant {
    #[cfg(feature = "faults")]
    pub raft: Option<raft::fault::RaftFault>,
    #[cfg(feature = "faults")]
    pub duties: Option<tern::core::machine::fault::Fault>,
    #[cfg(feature = "faults")]
    pub store: Option<tern::core::store::fault::StoreFault>,
    pub lies: Lies,
}

pub struct World {
    pub p: Params,
    pub rng: Rng,
    pub now_us: u64,
    pub queue: Queue<Ev>,
    pub net: Net,
    pub hosts: Vec<Host>,
    /// The slot of each id that was ever given.
    pub ids: BTreeMap<u64, usize>,
    pub truth: Truth,
    pub clients: Vec<Client>,
    pub watchers: BTreeMap<u64, Watcher>,
    pub tickets: BTreeMap<u64, (Asker, usize)>,
    pub ticket: u64,
    /// By ticket: the requests that were sent as bytes.
    pub conns: BTreeMap<u64, Conn>,
    /// The calls that machines have under way.
    pub callings: BTreeMap<u64, Calling>,
    pub last_call: u64,
    /// By register: the history.
    pub calls: Vec<Vec<Call>>,
    /// Calls and returns are numbered by it.
    pub clock: u64,
    /// The highest etcd index that a completed write has told.
    pub told_etcd: u64,
    pub fresh: u32,
    pub trace: Trace,
    pub counts: Counts,
    pub phase: Phase,
    pub phase_since_us: u64,
    /// While healing: since when the members should become equal, and whether they have.
    pub equal_since_us: u64,
    pub was_equal: bool,
    pub redial_us: u64,
    /// What was waited for since the healing, each until when (thousandths of an election
    /// timeout).
    pub waits: Vec<(String, u64)>,
    pub violation: Option<Violation>,
    pub plant: Plant,
    /// Whom a vote went to in this turn.
    voted_for: Option<u64>,
    scratch: Vec<u8>,
    fx: Effects,
}

pub fn name_of(slot: usize) -> Box<str> {
    format!("m{slot}").into()
}

pub fn client_url(slot: usize) -> Box<str> {
    format!("http://m{slot}:4001").into()
}

pub fn peer_url(slot: usize, moves: u64) -> Box<str> {
    format!("http://m{slot}:{}", 7_001 + moves).into()
}

/// The slot that a URL points to.
pub fn slot_of(url: &str) -> Option<usize> {
    url.strip_prefix("http://m")?
        .split(':')
        .next()?
        .parse()
        .ok()
}

impl World {
    pub fn new(seed: u64, plant: Plant, loud: bool) -> World {
        let mut rng = Rng::new(seed);
        let p = Params::draw(&mut rng);
        World::with(p, rng, plant, loud)
    }

    /// A world with these parameters.
    pub fn with(p: Params, mut rng: Rng, plant: Plant, loud: bool) -> World {
        let slots = p.machines + p.spare;
        let hosts = (0..slots).map(|slot| Host {
            place: Place::Empty,
            epoch: 0,
            paused_until_us: 0,
            wall_off_ns: rng.below(2_000_000_000) as i64 - 1_000_000_000,
            slow_until_us: 0,
            full: false,
            copy: None,
            lies: plant.lies,
            moves: 0,
            wound: None,
            started_us: 0,
            front: Front::new(name_of(slot), client_url(slot), peer_url(slot, 0)),
        });
        let hosts = hosts.collect();
        let mut world = World {
            net: Net::new(p.net.healed(), slots),
            clients: (0..p.clients).map(|_| Client::new(&p)).collect(),
            calls: vec![Vec::new(); p.keys],
            p,
            rng,
            now_us: 0,
            queue: Queue::new(),
            hosts,
            ids: BTreeMap::new(),
            truth: Truth::default(),
            watchers: BTreeMap::new(),
            tickets: BTreeMap::new(),
            ticket: 0,
            conns: BTreeMap::new(),
            callings: BTreeMap::new(),
            last_call: 0,
            clock: 0,
            told_etcd: 0,
            fresh: 0,
            trace: Trace::new(loud),
            counts: Counts::default(),
            phase: Phase::Setup,
            phase_since_us: 0,
            equal_since_us: 0,
            was_equal: false,
            redial_us: 0,
            waits: Vec::new(),
            violation: None,
            plant,
            voted_for: None,
            scratch: Vec::new(),
            fx: Effects::default(),
        };
        world.found();
        for slot in 1..world.p.machines {
            world.begin_join(slot, 1_000 * slot as u64);
        }
        for client in 0..world.clients.len() {
            world.queue.push(10_000, Ev::Think { client });
        }
        world.queue.push(1_000, Ev::Look);
        world
    }

    pub fn settings(&self, slot: usize) -> Settings {
        Settings {
            name: name_of(slot),
            client_url: client_url(slot),
            peer_url: peer_url(slot, self.hosts[slot].moves),
            heartbeat_ms: self.p.heartbeat_ms,
            election_ms: self.p.election_ms,
            snapshot_count: self.p.snapshot_count,
            snapshots: true,
            cluster: tern::core::command::ClusterConfig {
                active_size: self.p.active_size,
                remove_delay_ms: self.p.remove_delay_ms,
                sync_interval_ms: self.p.sync_interval_ms,
            },
            history_events: self.p.history_events,
            forward: self.p.forward,
        }
    }

    /// The first machine makes the cluster.
    fn found(&mut self) {
        let incarnation = self.rng.next_u64() | 1;
        let founding = Machine::bootstrap(&self.settings(0), incarnation, self.rng.next_u64());
        let meta = founding.meta;
        self.truth.found(&meta);
        self.ids.insert(founding.id.0, 0);
        let mut image = Image {
            term: founding.term,
            id: founding.id,
            incarnation,
            first: meta.index.0 + 1,
            ..Image::default()
        };
        image.snapshots.push(Snapshot {
            meta,
            bytes: file_of(&founding.chunks),
            in_use: true,
        });
        self.hosts[0].place = Place::Down(image);
        self.start(0);
    }

    pub fn begin_join(&mut self, slot: usize, after_us: u64) {
        self.hosts[slot].place = Place::Down(self.blank());
        self.hosts[slot].copy = None;
        self.queue.push(self.now_us + after_us, Ev::Start { slot });
    }

    /// A data directory that holds nothing but its number.
    fn blank(&mut self) -> Image {
        Image {
            incarnation: self.rng.next_u64() | 1,
            first: 1,
            ..Image::default()
        }
    }

    /// Where and how a machine looks for the cluster: what its command line says.
    fn search(&self) -> Search {
        let peers = (0..self.p.machines).map(|s| peer_url(s, self.hosts[s].moves));
        Search {
            peers: peers.collect(),
            attempts_max: self.p.attempts_max,
            pause_ms: Some(self.p.pause_ms),
            ..Search::default()
        }
    }

    pub fn up(&self, slot: usize) -> Option<&Running> {
        match &self.hosts[slot].place {
            Place::Up(run) => Some(run),
            _ => None,
        }
    }

    /// Whether there is anybody to be asked at its ports.
    pub fn listens(&self, slot: usize) -> bool {
        self.up(slot).is_some_and(|r| r.core.listens())
    }

    pub fn is_up(&self, slot: usize) -> bool {
        self.up(slot).is_some()
    }

    /// The leader of the highest term among those that run.
    pub fn leader(&self) -> Option<usize> {
        let leaders = (0..self.hosts.len()).filter(|s| self.up(*s).is_some_and(|r| r.seen.leads));
        leaders.max_by_key(|s| self.up(*s).map(|r| r.seen.term))
    }

    pub fn now_of(&self, slot: usize, mono_off_us: u64) -> Now {
        let wall = WALL_NS as i64 + self.now_us as i64 * 1_000 + self.hosts[slot].wall_off_ns;
        Now {
            mono_us: self.now_us + mono_off_us,
            wall_ns: wall as u64,
        }
    }

    pub fn fail(&mut self, what: Checked) {
        if let Err(found) = what
            && self.violation.is_none()
        {
            self.violation = Some(found);
        }
    }

    // -- processes

    /// A machine starts from what its disk holds.
    pub fn start(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Down(image) = place else {
            self.hosts[slot].place = place;
            return;
        };
        self.hosts[slot].epoch += 1;
        self.hosts[slot].started_us = self.now_us;
        let mono_off_us = self.rng.below(1_000_000_000);
        let now = self.now_of(slot, mono_off_us);
        let seed = self.rng.next_u64();
        let log = MemLog::of(&image);
        self.trace
            .note(slot, "start", image.id.0, image.last(), image.commit);
        let disk = Disk::new(image, self.hosts[slot].lies);
        let wounded = self.hosts[slot].wound.is_some();
        let found = self.truth.on_found(&disk.image, wounded);
        self.fail(found);
        if self.violation.is_some() {
            return;
        }
        let core = self.recover(slot, &disk.image, seed, now);
        let log_end = log.last();
        let mut run = Box::new(Running {
            core,
            disk,
            log,
            seen: Seen::default(),
            ended: log_end,
            contact: Contact::default(),
            duties: Duties::default(),
            mono_off_us,
            wake_us: u64::MAX,
        });
        run.seen = seen_of(&run.core);
        let (from, to) = (run.log.base + 1, run.seen.commit);
        let started = self.check_commit(slot, &run, "durable-commit", (from, to));
        self.fail(started);
        let (commit, last) = (run.disk.image.commit, run.disk.image.last());
        if run.disk.image.faulty == 0 && run.seen.applied < commit.min(last) {
            let text = format!(
                "machine m{slot} starts at {} though its log says {commit}",
                run.seen.applied
            );
            self.fail(violation("starts-behind", text));
        }
        let id = run.seen.id;
        self.hosts[slot].place = Place::Up(run);
        self.finish_turn(slot);
        if id != 0 {
            self.tell_links(slot, id, true);
        }
    }

    fn recover(&self, slot: usize, image: &Image, seed: u64, now: Now) -> Machine {
        let newest = image.newest();
        let behind = newest.map_or(0, |s| s.meta.index.0);
        let entries = image.recs.iter().filter(|r| r.entry.index.0 > behind);
        let recovered = Recovered {
            term: image.term,
            vote: image.vote,
            id: image.id,
            incarnation: image.incarnation,
            snapshot: newest.map(|s| (s.meta.clone(), self.restore(s))),
            snapshot_bytes: newest.map_or(0, |s| s.bytes.len() as u64),
            entries: entries.map(|r| r.entry.clone()).collect(),
            commit: Index(image.commit),
        };
        let known = image
            .standby
            .iter()
            .flat_map(|info| &info.cluster)
            .map(|m| m.peer_url.clone());
        let (settings, search) = (
            self.settings(slot),
            Search {
                known: known.collect(),
                ..self.search()
            },
        );
        let standby = image.standby.clone().filter(|info| info.running);
        #[cfg_attr(not(feature = "faults"), allow(unused_mut))]
        let mut core = match standby {
            Some(info) if image.id.0 == 0 => {
                Machine::stand_by(settings, recovered, info, search, seed, now)
            }
            _ if image.id.0 == 0 => Machine::find(settings, recovered, search, seed, now),
            _ => {
                let mut core = Machine::recover(settings, recovered, seed, now);
                core.look_around(search);
                core
            }
        };
        #[cfg(feature = "faults")]
        {
            core.plant(self.plant.raft);
            core.plant_in_duties(self.plant.duties);
            core.plant_in_store(self.plant.store);
        }
        core
    }

    /// The key space that a snapshot file holds.
    fn restore(&self, snapshot: &Snapshot) -> Store {
        let limits = HistoryLimits {
            events: self.p.history_events,
            bytes: HISTORY_BYTES_MAX,
        };
        let mut restore = Restore::new(limits);
        for piece in pieces(&snapshot.bytes) {
            restore
                .chunk(piece)
                .expect("the disk keeps snapshots as they are");
        }
        restore.finish().expect("the disk keeps snapshots whole")
    }

    /// Every other machine sees its link to this one open or break.
    fn tell_links(&mut self, slot: usize, id: u64, up: bool) {
        for other in (0..self.hosts.len()).filter(|o| *o != slot) {
            let Some(peer) = self.up(other).map(|r| r.seen.id).filter(|p| *p != 0) else {
                continue;
            };
            if self.rng.chance(300_000) {
                continue;
            }
            let at = self.now_us + self.rng.range(50, 2_000);
            let epoch = self.hosts[other].epoch;
            self.queue.push(
                at,
                Ev::Link {
                    slot: other,
                    epoch,
                    peer: id,
                    up,
                },
            );
            if up {
                let epoch = self.hosts[slot].epoch;
                self.queue.push(
                    at,
                    Ev::Link {
                        slot,
                        epoch,
                        peer,
                        up,
                    },
                );
            }
        }
    }

    /// The process is gone; its disk keeps what a crash leaves.
    pub fn crash(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(run) = place else {
            self.hosts[slot].place = place;
            return;
        };
        self.counts.crashes += 1;
        let id = run.seen.id;
        let image = run.disk.crash(&mut self.rng);
        self.trace
            .note(slot, "crash", id, image.last(), image.commit);
        self.hosts[slot].place = Place::Down(image);
        self.hosts[slot].epoch += 1;
        self.hosts[slot].paused_until_us = 0;
        self.lose_tickets(slot);
        self.lose_calls(slot);
        if id != 0 {
            self.tell_links(slot, id, false);
        }
    }

    // -- what happens

    /// The next thing happens. False when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some((time_us, ev)) = self.queue.pop() else {
            return false;
        };
        self.now_us = self.now_us.max(time_us);
        self.trace.time_us = self.now_us;
        self.counts.events += 1;
        if let Some(slot) = self.held_up(&ev) {
            let late = u64::from(matches!(ev, Ev::Wake { .. }));
            let until = self.hosts[slot].paused_until_us + late;
            self.queue.push(until, ev);
            return true;
        }
        match ev {
            Ev::Deliver {
                slot,
                to,
                from,
                bytes,
            } => self.on_deliver(slot, to, from, &bytes),
            Ev::Synced {
                slot,
                epoch,
                took_us,
            } => self.input(slot, epoch, |_, run, now| {
                let lsn = run.disk.end_sync();
                run.core.on_synced(now, lsn, took_us);
            }),
            Ev::Saved { slot, epoch } => self.input(slot, epoch, |world, run, now| {
                let (index, bytes, older) = run.disk.end_snapshot();
                world.counts.snapshots += 1;
                world
                    .trace
                    .note(slot, "snapshot saved", index.0, bytes, older.0);
                run.core.on_snapshot(
                    now,
                    SnapshotIn::Saved {
                        index,
                        bytes,
                        older,
                    },
                );
            }),
            Ev::Received { slot, epoch } => self.input(slot, epoch, World::on_received),
            Ev::Piece {
                slot,
                epoch,
                to,
                index,
                offset,
            } => self.input(slot, epoch, |world, run, now| {
                let bytes_max = 400 + world.rng.index(4_000) + 4 * world.p.big_bytes;
                let data = run.disk.read_snapshot(Index(index), offset, bytes_max);
                let read = data.as_ref().map_or(0, |d| d.0.len() as u64);
                world.trace.note(slot, "read snapshot", index, offset, read);
                let (to, index) = (PeerId(to), Index(index));
                run.core.on_snapshot(
                    now,
                    SnapshotIn::Read {
                        to,
                        index,
                        offset,
                        data,
                    },
                );
            }),
            Ev::Wake { slot, epoch } => self.input(slot, epoch, |world, run, now| {
                if run.wake_us <= world.now_us {
                    run.wake_us = u64::MAX;
                    run.core.on_time(now);
                }
            }),
            Ev::Turn { slot, epoch } => self.input(slot, epoch, |_, _, _| {}),
            Ev::Link {
                slot,
                epoch,
                peer,
                up,
            } => self.input(slot, epoch, |_, run, now| {
                let state = if up { LinkState::Up } else { LinkState::Closed };
                run.core.on_link(now, PeerId(peer), state);
            }),
            Ev::Think { client } => self.on_think(client),
            Ev::Timeout { client, seq } => self.on_timeout(client, seq),
            Ev::Again { client, seq } => self.on_again(client, seq),
            Ev::Ask {
                slot,
                epoch,
                ticket,
                op,
            } => {
                self.input(slot, epoch, |_, run, now| {
                    run.core.on_request(now, ticket, *op)
                });
            }
            Ev::Call { key, leg } => self.on_call(key, leg),
            Ev::Start { slot } => self.start(slot),
            Ev::Blow => self.on_blow(),
            Ev::Look => self.on_look(),
        }
        true
    }

    /// The slot whose pause holds this up.
    fn held_up(&self, ev: &Ev) -> Option<usize> {
        let (Ev::Deliver { slot, .. }
        | Ev::Synced { slot, .. }
        | Ev::Saved { slot, .. }
        | Ev::Received { slot, .. }
        | Ev::Piece { slot, .. }
        | Ev::Wake { slot, .. }
        | Ev::Turn { slot, .. }
        | Ev::Link { slot, .. }) = ev
        else {
            return None;
        };
        (self.hosts[*slot].paused_until_us > self.now_us).then_some(*slot)
    }

    /// One input to a process, if it is still the same one, and its turn.
    pub fn input(
        &mut self,
        slot: usize,
        epoch: u64,
        give: impl FnOnce(&mut World, &mut Running, Now),
    ) {
        if self.hosts[slot].epoch != epoch {
            return;
        }
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(mut run) = place else {
            self.hosts[slot].place = place;
            return;
        };
        let now = self.now_of(slot, run.mono_off_us);
        give(self, &mut run, now);
        self.hosts[slot].place = Place::Up(run);
        self.finish_turn(slot);
    }

    fn on_received(&mut self, run: &mut Running, now: Now) {
        let Some(snapshot) = run.disk.end_receive() else {
            return;
        };
        let (meta, bytes) = (snapshot.meta.clone(), snapshot.bytes.len() as u64);
        let store = Box::new(self.restore(snapshot));
        self.truth.on_replaced(run.seen.id, meta.index.0);
        self.counts.installs += 1;
        run.core
            .on_snapshot(now, SnapshotIn::Installed { meta, store, bytes });
    }

    fn on_deliver(&mut self, slot: usize, to: u64, from: u64, bytes: &[u8]) {
        let Some(before) = self.up(slot).map(|r| r.seen).filter(|s| s.id == to) else {
            return;
        };
        let message = tern::codec::peer::wire::decode(bytes).expect("it was encoded by a machine");
        let (what, a, b) = describe(&message);
        self.trace.note(slot, what, from, a, b);
        let epoch = self.hosts[slot].epoch;
        let call = matches!(message.rpc, Rpc::RequestVote { .. });
        let lost = lost_entries(&message);
        let (own_term, mut other_term) = (message.term.0, 0);
        self.input(slot, epoch, |world, run, now| {
            run.contact
                .on_message(world.now_us, from, &message, &run.seen, &world.truth);
            run.core.on_message(now, PeerId(from), message);
            // Messages that are there already are taken in the same turn.
            while let Some((_, Ev::Deliver { slot: next, .. })) =
                world.queue.peek().filter(|(time, _)| *time <= world.now_us)
            {
                if *next != slot {
                    break;
                }
                other_term = world.take_along(run, now).max(other_term);
            }
        });
        let removed = self.truth.removed.get(&from).copied();
        if call && self.voted_for == Some(from) && removed.is_some_and(|at| at <= before.applied) {
            let text = format!("m{slot} answers {from}, which it knows to be removed, with a vote");
            self.fail(violation("removed-is-heard", text));
        }
        if let Some((term, acked)) = lost
            && let Some(run) = self
                .up(slot)
                .filter(|r| r.seen.id == to && r.seen.term == term)
            && acked > run.log.last()
        {
            let text =
                format!("m{slot} goes on after it is told that it lost entries up to {acked}");
            self.fail(violation("amnesia-unseen", text));
        }
        if let Some(after) = self.up(slot).map(|r| r.seen)
            && removed.is_some_and(|at| at <= before.applied)
            && after.term > before.term
            && !after.leads
            && own_term >= after.term
            && other_term < after.term
        {
            let text = format!(
                "removed {from} raises the term of m{slot} from {} to {}",
                before.term, after.term
            );
            self.fail(violation("removed-raises-term", text));
        }
    }

    /// Gives the message's term.
    fn take_along(&mut self, run: &mut Running, now: Now) -> u64 {
        let Some((
            _,
            Ev::Deliver {
                slot,
                to,
                from,
                bytes,
            },
        )) = self.queue.pop()
        else {
            unreachable!("it was looked at");
        };
        self.counts.events += 1;
        if to != run.seen.id {
            return 0;
        }
        let message = tern::codec::peer::wire::decode(&bytes).expect("it was encoded by a machine");
        let (what, a, b) = describe(&message);
        self.trace.note(slot, what, from, a, b);
        run.contact
            .on_message(self.now_us, from, &message, &run.seen, &self.truth);
        let term = message.term.0;
        run.core.on_message(now, PeerId(from), message);
        term
    }

    // -- the turn

    /// Carries out what the machine left, starts a sync, looks at everything.
    pub fn finish_turn(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.hosts[slot].place, Place::Empty);
        let Place::Up(mut run) = place else {
            unreachable!("only a running machine has turns");
        };
        let now = self.now_of(slot, run.mono_off_us);
        let mut fx = std::mem::take(&mut self.fx);
        self.voted_for = None;
        let (mut stopped, mut let_in, before) = (false, None, run.seen.id);
        for _ in 0..2 {
            fx.clear();
            run.core.advance(now, &mut fx);
            let_in = fx.let_in.or(let_in);
            let done = self.carry_out(slot, &mut run, &mut fx);
            self.fail(done);
            stopped |= fx.stopped || fx.failed.is_some();
            self.maybe_sync(slot, &mut run);
        }
        self.fx = fx;
        run.ended = run.log.last();
        run.contact.end_turn();
        let due = run.core.next_deadline();
        if due != u64::MAX {
            let at = due.saturating_sub(run.mono_off_us).max(self.now_us);
            if at < run.wake_us {
                run.wake_us = at;
                let epoch = self.hosts[slot].epoch;
                self.queue.push(at, Ev::Wake { slot, epoch });
            }
        }
        if run.core.wants_turn() {
            let epoch = self.hosts[slot].epoch;
            // A slice of work takes its time, and others go on meanwhile.
            let at = self.now_us + self.rng.range(1, 400 + self.p.big_bytes as u64 / 4);
            self.queue.push(at, Ev::Turn { slot, epoch });
        }
        self.hosts[slot].place = Place::Up(run);
        if before != 0 && self.up(slot).is_some_and(|r| r.seen.id != before) {
            self.tell_links(slot, before, false);
        }
        if let Some(id) = let_in {
            self.tell_links(slot, id.0, true);
        }
        if stopped {
            self.crash(slot);
            let down_us = if self.phase == Phase::Faults {
                self.p.down_us_max
            } else {
                5_000
            };
            let at = self.now_us + self.rng.range(1_000, down_us);
            self.queue.push(at, Ev::Start { slot });
        }
    }

    fn maybe_sync(&mut self, slot: usize, run: &mut Running) {
        if !run.disk.start_sync() {
            return;
        }
        let p = &self.p;
        let mut took = self.rng.range(p.sync_us_min, p.sync_us_max);
        if self.phase == Phase::Faults {
            if self.rng.chance(p.slow_ppm) {
                took += self.rng.below(p.slow_us_max);
            }
            if self.hosts[slot].slow_until_us > self.now_us {
                took += self.rng.below(p.election_ms * 500);
            }
        }
        let epoch = self.hosts[slot].epoch;
        self.queue.push(
            self.now_us + took,
            Ev::Synced {
                slot,
                epoch,
                took_us: took,
            },
        );
    }

    fn carry_out(&mut self, slot: usize, run: &mut Running, fx: &mut Effects) -> Checked {
        self.change_mode(slot, run, fx);
        for out in fx.snapshot.drain(..) {
            self.carry_snapshot(slot, run, out);
        }
        let who = run.seen.id;
        let mut changed = false;
        for op in &fx.persist {
            match op {
                Persist::State { .. } => {}
                Persist::Append { entries, .. } => {
                    let changes = entries.iter().filter(|e| self.note_change(slot, e));
                    changed |= changes.count() > 0;
                    self.truth.on_cut(who, entries);
                    self.truth
                        .on_appended(who, &mut run.log, run.seen.commit, entries)?;
                }
                Persist::Installed { meta, keep_tail } => {
                    run.log.install(meta.index.0, meta.term.0, *keep_tail);
                }
                Persist::Release { through } => {
                    let term = run.log.term(through.0).unwrap_or(run.log.base_term);
                    run.log.rebase(through.0, term);
                }
                Persist::Repair(entry) => {
                    self.counts.repairs += 1;
                    self.truth.on_repaired(who, entry)?;
                }
            }
        }
        if !fx.wipe {
            run.disk.append(&mut fx.persist, fx.lsn);
        }
        let before = run.seen;
        run.seen = seen_of(&run.core);
        if changed && run.seen.leads {
            check_changes(run)?;
        }
        self.look(slot, run, &before, fx)?;
        let times = (
            &self.p,
            self.now_us,
            self.heard_us_max() + self.p.down_us_max,
        );
        run.duties
            .check(times, &run.contact.answers, &run.core, &fx.facts)?;
        for (to, message) in fx.send.drain(..) {
            let sent = check_send(&run.disk.image, &self.truth, who, to, &message);
            sent.map_err(|mut found| {
                let members = run.core.configuration().members.iter();
                let members: Vec<_> = members.map(|m| (m.id.0, m.voter)).collect();
                found.text += &format!(
                    " ({:?}, log to {}, members {members:?})",
                    run.seen,
                    run.log.last()
                );
                found
            })?;
            run.contact
                .check_lease(&self.p, self.now_us, &run.seen, to.0, &message)?;
            self.truth.on_sent(who, &message);
            if matches!(message.rpc, Rpc::Vote { .. }) {
                self.voted_for = Some(to.0);
            }
            self.send(slot, who, to, &message);
        }
        for call in fx.calls.drain(..) {
            self.start_call(slot, call);
        }
        for answer in fx.answers.drain(..) {
            self.on_answer(slot, answer)?;
        }
        let lies = self.plant.lies;
        if lies.events_swapped {
            fx.events.reverse();
        }
        for delivery in fx.events.drain(..) {
            let struck = (lies.event_lost || lies.event_twice) && self.rng.chance(20_000);
            if struck && lies.event_lost {
                continue;
            }
            self.on_delivery(slot, &delivery)?;
            if struck {
                self.on_delivery(slot, &delivery)?;
            }
        }
        if fx.wipe {
            let told = fx.facts.iter().any(|f| matches!(f, Fact::Removed)) && run.log.last() != 0;
            if told && !self.truth.removed.contains_key(&who) {
                let text = format!("m{slot} takes itself for removed, and {who} is a member");
                return violation("false-removal", text);
            }
            return self.start_over(slot, run);
        }
        Ok(())
    }

    /// What must be durable before all else: as whom this machine was let in, that it is a standby
    /// or none any more.
    fn change_mode(&mut self, slot: usize, run: &mut Running, fx: &mut Effects) {
        if let Some(id) = fx.let_in {
            self.counts.switches +=
                u64::from(run.disk.image.standby.as_ref().is_some_and(|s| s.running));
            self.trace.note(slot, "let in", id.0, 0, 0);
            run.disk.image.id = id;
            self.ids.insert(id.0, slot);
        }
        if let Some(info) = fx.standby.take() {
            let began = info.running && !run.disk.image.standby.as_ref().is_some_and(|s| s.running);
            if began {
                self.counts.switches += 1;
                self.trace.note(
                    slot,
                    "stands by",
                    run.seen.id,
                    u64::from(fx.removed),
                    info.cluster.len() as u64,
                );
            }
            run.disk.image.standby = Some(info);
        }
        if fx.wipe {
            fx.snapshot.clear();
        }
        if let Some(why) = &fx.failed {
            self.trace.note(slot, "gives up", why.len() as u64, 0, 0);
        }
    }

    /// What this machine holds is of no use any more: its log is wiped, and its directory gets a
    /// new number.
    fn start_over(&mut self, slot: usize, run: &mut Running) -> Checked {
        let blank = Image {
            standby: run.disk.image.standby.take(),
            ..self.blank()
        };
        let incarnation = blank.incarnation;
        let now = self.now_of(slot, run.mono_off_us);
        run.disk = Disk::new(blank, self.hosts[slot].lies);
        run.log = MemLog::default();
        run.core.on_wiped(now, incarnation);
        run.seen = seen_of(&run.core);
        run.wake_us = u64::MAX;
        // Whatever is under way is that of the former life.
        self.hosts[slot].epoch += 1;
        self.hosts[slot].copy = None;
        let open = self.tickets.values().filter(|t| t.1 == slot).count();
        let watch = self
            .watchers
            .values()
            .filter(|w| w.slot == slot && !w.has_ended())
            .count();
        if open + watch > 0 {
            let text = format!(
                "m{slot} becomes a standby and leaves {open} requests and {watch} watchers unanswered"
            );
            return violation("switch-leaves-request", text);
        }
        Ok(())
    }

    /// Changes of membership are worth a line of the trace.
    fn note_change(&mut self, slot: usize, entry: &raft::Entry) -> bool {
        let raft::EntryBody::Good(bytes) = &entry.body else {
            return false;
        };
        if !command::is_membership(bytes) {
            return false;
        }
        let (what, id) = match command::decode(bytes) {
            Ok(Command::Join { replaces, .. }) => ("appends join", replaces),
            Ok(Command::Promote { id }) => ("appends promote", id),
            Ok(Command::Remove { id }) => ("appends remove", id),
            _ => return false,
        };
        self.trace.note(slot, what, entry.index.0, entry.term.0, id);
        true
    }

    fn carry_snapshot(&mut self, slot: usize, run: &mut Running, out: SnapshotOut) {
        let epoch = self.hosts[slot].epoch;
        let soon = self.now_us + self.rng.range(self.p.sync_us_min, self.p.sync_us_max * 3);
        match out {
            SnapshotOut::Begin(meta) => run.disk.begin_snapshot(meta),
            SnapshotOut::Chunk(piece) => run.disk.snapshot_chunk(&piece),
            SnapshotOut::Finish => {
                run.disk.finish_snapshot();
                self.queue.push(soon, Ev::Saved { slot, epoch });
            }
            SnapshotOut::Abandon => run.disk.abandon_snapshot(),
            SnapshotOut::Read { to, index, offset } => {
                let (to, index) = (to.0, index.0);
                self.queue.push(
                    soon,
                    Ev::Piece {
                        slot,
                        epoch,
                        to,
                        index,
                        offset,
                    },
                );
            }
            SnapshotOut::Receive {
                meta,
                offset,
                data,
                done,
            } => {
                if run.disk.receive(meta, offset, &data, done) {
                    self.queue.push(soon, Ev::Received { slot, epoch });
                }
            }
        }
    }

    /// Looks at what the machine shows of itself now; only at what changed.
    fn look(&mut self, slot: usize, run: &mut Running, before: &Seen, fx: &Effects) -> Checked {
        let seen = run.seen;
        if seen == *before {
            return Ok(());
        }
        seen.check_after(before)?;
        if seen.commit > before.commit {
            let promised = fx.answers.iter().any(|a| is_promise(&a.outcome));
            let check = if promised {
                "durable-answer"
            } else {
                "durable-commit"
            };
            self.check_commit(slot, run, check, (before.commit + 1, seen.commit))?;
        }
        if seen.leads && before.leads && seen.term == before.term && seen.commit > before.commit {
            // Thesis 3.6.2: a leader commits entries of its own term by counting, older ones only
            // with them.
            let term = run.log.term(seen.commit);
            if term != Some(seen.term) {
                let text = format!(
                    "m{slot} commits {} of term {term:?} in term {}",
                    seen.commit, seen.term
                );
                return violation("commit-of-own-term", text);
            }
        }
        if seen.leads && (!before.leads || seen.term != before.term) {
            self.trace
                .note(slot, "leads", seen.term, run.log.last(), seen.commit);
            self.truth.on_leader(seen.id, seen.term, &run.log)?;
        }
        if seen.applied > before.applied {
            let state = seen
                .applied
                .is_multiple_of(4)
                .then(|| run.core.store().state_hash());
            self.truth
                .on_applied(seen.id, seen.applied, seen.etcd, state)?;
        }
        Ok(())
    }

    fn check_commit(
        &mut self,
        slot: usize,
        run: &Running,
        check: &'static str,
        range: (u64, u64),
    ) -> Checked {
        // Every configuration that was in force in this turn: it may have changed between two
        // commits.
        let mut sets: Vec<Vec<u64>> = Vec::new();
        for index in run.ended.min(run.log.last())..=run.log.last() {
            let voters = run.core.raft().configuration_at(Index(index)).voters();
            if !sets
                .last()
                .is_some_and(|s| voters.map(|v| v.0).eq(s.iter().copied()))
            {
                let voters = run.core.raft().configuration_at(Index(index)).voters();
                sets.push(voters.map(|v| v.0).collect());
            }
        }
        let World {
            truth, hosts, ids, ..
        } = self;
        let held = |voter: u64, index: u64| {
            let at = *ids.get(&voter).unwrap_or(&usize::MAX);
            let image = match hosts.get(at).map(|h| &h.place) {
                _ if at == slot => &run.disk.image,
                Some(Place::Up(other)) => &other.disk.image,
                Some(Place::Down(image)) => image,
                Some(Place::Empty) | None => return Held::Never,
            };
            if image.id.0 == voter {
                image.held(index)
            } else {
                Held::Never
            }
        };
        let committed = truth.committed();
        truth.on_commit(check, run.seen.id, &run.log, range, &sets, held)?;
        self.counts.commits = self.truth.committed();
        if self.truth.committed() > committed {
            for other in (0..self.hosts.len()).filter(|o| *o != slot) {
                if let Some(leader) = self.up(other).filter(|r| r.seen.leads) {
                    self.truth
                        .check_complete(leader.seen.id, leader.seen.term, &leader.log)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, slot: usize, from: u64, to: PeerId, message: &Message) {
        let Some(target) = self.ids.get(&to.0).copied() else {
            return;
        };
        self.scratch.clear();
        tern::codec::peer::wire::encode(message, &mut self.scratch);
        if let Rpc::Fetched {
            found: raft::FetchResult::Body(_),
            ..
        } = &message.rpc
            && self.phase == Phase::Faults
            && self.rng.chance(200_000)
        {
            // A peer's memory is no better than its disk: a body that does not match must not be
            // taken.
            *self.scratch.last_mut().expect("a message has bytes") ^= 0x55;
        }
        self.trace.hash.add_bytes(&self.scratch);
        let times = self.net.route(&mut self.rng, self.now_us, slot, target);
        for time in times.into_iter().flatten() {
            let time = match self.p.batch_us {
                0 => time,
                batch => time.next_multiple_of(batch),
            };
            let bytes = self.scratch.as_slice().into();
            self.queue.push(
                time,
                Ev::Deliver {
                    slot: target,
                    to: to.0,
                    from,
                    bytes,
                },
            );
        }
    }
}

/// What a machine shows of itself.
fn seen_of(core: &Machine) -> Seen {
    let raft = core.raft();
    Seen {
        id: core.id().0,
        term: raft.term().0,
        commit: raft.committed().0,
        applied: core.applied().0,
        etcd: core.store().index().0,
        leader: raft.leader().map_or(0, |id| id.0),
        leads: core.role() == Role::Leader,
    }
}

/// Whether an answer promises that something was done.
pub fn is_promise(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Event(_) | Outcome::Joined(_) | Outcome::Removed | Outcome::Config(_)
    )
}
