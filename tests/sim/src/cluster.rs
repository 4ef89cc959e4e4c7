//! The simulated world: hosts with a machine and a disk each, and the queue of what is to happen.
//!
//! Everything that a seed does happens in `World::step`, one input at a time: `turn` gives the input
//! and finishes the machine's turn, `effects` carries its outputs out, `look` checks what it shows,
//! `process` starts and crashes it. Clients stand in `clients.rs`, faults in `nemesis.rs`.
use super::barred::Directory;
use super::calls::{Calling, Leg};
use super::checks::{Contact, Seen, check_changes, check_send, describe, lost_entries};
use super::clients::Client;
use super::copies::CopyRun;
use super::disk::{Disk, Lies};
use super::duties::Duties;
use super::http::{Conn, Front};
use super::image::{Held, Image, RealDisk, config_of};
use super::net::Net;
use super::params::{Params, Tuning};
use super::promises::HeardAppends;
use super::queue::Queue;
use super::shown::{Shown, shows_state};
use super::trace::Trace;
use super::truth::{Checked, MemLog, Truth, Violation, violation};
use super::watch::Watcher;
use super::writes::OpenWrite;
use crate::counts::Counts;
use std::collections::BTreeMap;
use tern::codec::http::url::Url;
use tern::core::command::{self, ClusterConfig, Command};
use tern::core::machine::*;
use tern::core::peers::LinkId;
use tern::core::raft::{self, Index, Message, PeerId, Persist, Rpc};
use tern::core::timer::Now;
use tern::shell::config::Config;
use tern_support::linear::Call;
use tern_support::rng::Rng;

mod effects;
mod links;
mod look;
mod process;
mod turn;

use look::seen_of;
pub use look::{is_promise, voters_at};

impl Host {
    /// A machine that was never started.
    fn new(slot: usize, lies: Lies, p: &Params, rng: &mut Rng) -> Host {
        let tuning = p.draw_tuning(rng);
        Host {
            place: Place::Empty,
            epoch: 0,
            process: 0,
            paused_until_us: 0,
            held_up: Vec::new(),
            wall_off_ns: draw_wall_offset(rng),
            slow_until_us: 0,
            full: false,
            shown: 0,
            copy: None,
            directory: Directory::default(),
            is_founder: false,
            life: 0,
            lies,
            peer_url: peer_url(slot, 0),
            copy_of: None,
            stays_learner: false,
            has_moved: false,
            wound: None,
            started_us: 0,
            front: Front::new(name_of(slot), client_url(slot), peer_url(slot, 0), &tuning),
            tuning,
        }
    }
}

/// By how much a wall clock is off: seconds as a rule, up to 30 years, or as far as 1970.
pub(crate) fn draw_wall_offset(rng: &mut Rng) -> i64 {
    const YEAR_NS: i64 = 365 * 86_400 * 1_000_000_000;
    match rng.below(8) {
        0 => -(WALL_NS as i64),
        1 => rng.below(60) as i64 * YEAR_NS - 30 * YEAR_NS,
        2 => rng.below(7_200_000_000_000) as i64 - 3_600_000_000_000,
        _ => rng.below(20_000_000_000) as i64 - 10_000_000_000,
    }
}

/// Time zero of every wall clock, in nanoseconds since the Unix epoch.
const WALL_NS: u64 = 1_796_000_000_000_000_000;

/// A process that runs.
pub struct Running {
    pub core: Machine,
    pub disk: Disk,
    /// The machine's log as it sees it.
    pub log: MemLog,
    pub seen: Seen,
    shown: Shown,
    /// It leads, and has a node that is due.
    overdue: Option<look::Overdue>,
    service: look::Service,
    rest: look::Rest,
    /// Where the log ended after the last turn.
    ended: u64,
    pub contact: Contact,
    duties: Duties,
    pub mono_off_us: u64,
    wake_us: u64,
    /// The connection of each link.
    links: BTreeMap<LinkId, u64>,
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
    /// Numbers its processes, for connections.
    process: u64,
    pub paused_until_us: u64,
    /// What a pause holds up.
    pub held_up: Vec<Ev>,
    pub wall_off_ns: i64,
    pub slow_until_us: u64,
    pub full: bool,
    /// Its next start shows at least the state as of this entry.
    pub shown: u64,
    /// An old copy of the data directory.
    pub copy: Option<Image>,
    /// The past of the data directory.
    pub directory: Directory,
    /// It founds the cluster at its next start.
    pub is_founder: bool,
    /// How often the data directory was set back to an old copy.
    pub life: u64,
    pub lies: Lies,
    /// The peer URL that its next process gets; another one only while it is down.
    pub peer_url: Box<str>,
    /// The slot of the machine of whose data directory it runs a copy.
    pub copy_of: Option<usize>,
    /// Its disk is full from its admission on: it stays a learner.
    pub stays_learner: bool,
    /// It alone was given another address.
    pub has_moved: bool,
    /// It has lost data: under which id, and how far the log was committed then.
    pub wound: Option<(u64, u64)>,
    pub started_us: u64,
    pub front: Front,
    /// The settings of its present process, or of its next one.
    pub tuning: Tuning,
}

/// What may happen.
pub enum Ev {
    Deliver {
        slot: usize,
        to: u64,
        from: u64,
        connection: u64,
        bytes: Box<[u8]>,
    },
    Synced {
        slot: usize,
        epoch: u64,
        took_us: u64,
    },
    /// A report about a snapshot file.
    Reported {
        slot: usize,
        epoch: u64,
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
        ev: Box<links::LinkEv>,
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
    /// The end of a pause.
    Resume {
        slot: usize,
    },
    Blow,
    Look,
}

/// What waits for an answer.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    Client(usize),
    /// Another machine, by the number of its call.
    Call(u64),
    Admin,
    /// The write through the machine of this slot (`World::begin_writes`).
    Writer(usize),
    /// A linearizable read that checks its round, and how many entries were committed when it was
    /// sent.
    Reader {
        committed: u64,
    },
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first members come together.
    Setup,
    Faults,
    Healing,
    /// A second process of a member runs.
    Copy,
    /// One member went on alone, and the others come back.
    Return,
    /// The others take values.
    Writes,
    Done,
}

/// What is planted, if anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plant {
    /// Of the disk.
    pub lies: Lies,
    /// Of the rest of the shell, and of the network.
    pub seam: Seam,
}

/// What the simulated shell and network do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seam {
    /// Term and vote are reported durable before their sync.
    pub state_early: bool,
    /// Timers fire too late.
    pub timers_late: bool,
    /// Some messages count as those of another member.
    pub sender_mistaken: bool,
    /// Some writes are given to the machine twice.
    pub write_twice: bool,
    /// The first two answers of a turn are exchanged if both are events.
    pub answers_swapped: bool,
    pub event_lost: bool,
    pub event_twice: bool,
    pub events_swapped: bool,
}

pub struct World {
    pub p: Params,
    /// By slot: what the disk code reads of the settings.
    pub configs: Vec<Config>,
    pub rng: Rng,
    pub now_us: u64,
    pub queue: Queue<Ev>,
    pub net: Net,
    pub hosts: Vec<Host>,
    /// How often addresses of machines have changed.
    pub address_changes: u64,
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
    /// The highest etcd index in the answer of a completed write.
    pub told_etcd: u64,
    pub fresh: u32,
    pub trace: Trace,
    pub counts: Counts,
    pub phase: Phase,
    pub phase_since_us: u64,
    /// While healing: since when the members should become equal, and whether they have.
    pub equal_since_us: u64,
    pub was_equal: bool,
    /// By the slot where each began: the writes after the healing that are not acknowledged.
    pub writes: BTreeMap<usize, OpenWrite>,
    /// A second process of a member runs before the seed ends.
    pub ends_with_copy: bool,
    pub copy_run: Option<CopyRun>,
    /// All connections between machines, by their numbers.
    connections: BTreeMap<u64, links::Connection>,
    last_connection: u64,
    /// What was waited for since the healing, each until when (thousandths of an election
    /// timeout).
    pub waits: Vec<(String, u64)>,
    pub violation: Option<Violation>,
    pub plant: Plant,
    heard_appends: HeardAppends,
    /// The receiver of a vote in this turn.
    voted_for: Option<u64>,
    scratch: Vec<u8>,
    fx: Outputs,
}

pub fn name_of(slot: usize) -> Box<str> {
    format!("m{slot}").into()
}

pub fn client_url(slot: usize) -> Box<str> {
    format!("http://m{slot}:4001").into()
}

/// An address that no machine has, as a number of changes (`peer_url`).
pub const NOWHERE: u64 = 999;

/// The peer URL of a slot at first, and after so many changes of addresses.
pub fn peer_url(slot: usize, changes: u64) -> Box<str> {
    format!("http://m{slot}:{}", 7_001 + changes).into()
}

/// The slot that a client URL points to.
pub fn slot_of(url: &str) -> Option<usize> {
    url.strip_prefix("http://m")?
        .split(':')
        .next()?
        .parse()
        .ok()
}

/// What the disk code of a machine reads of its settings.
fn disk_config(p: &Params, slot: usize, tuning: &Tuning) -> Config {
    Config {
        heartbeat_ms: tuning.heartbeat_ms,
        election_ms: tuning.election_ms,
        segment_bytes: tuning.segment_bytes,
        watch_history: p.history_events,
        cluster: cluster_config(p),
        ..config_of(&name_of(slot))
    }
}

fn cluster_config(p: &Params) -> ClusterConfig {
    ClusterConfig {
        active_size: p.active_size,
        remove_delay_ms: p.remove_delay_ms,
        sync_interval_ms: p.sync_interval_ms,
    }
}

impl World {
    pub fn new(seed: u64, plant: Plant, loud: bool) -> World {
        let mut rng = Rng::new(seed);
        let p = Params::draw(&mut rng);
        World::with(p, rng, plant, loud)
    }

    /// The slot of the machine at a client or peer URL; `None`: no machine is at that address now.
    pub fn slot_at(&self, url: &str) -> Option<usize> {
        let base = Url::parse(url).map(|url| format!("http://{}", url.authority))?;
        let mut slots = 0..self.hosts.len();
        slots.find(|slot| *self.hosts[*slot].peer_url == *base || *client_url(*slot) == *base)
    }

    /// A world with these parameters.
    pub fn with(p: Params, mut rng: Rng, plant: Plant, loud: bool) -> World {
        let slots = p.machines + p.spare;
        let hosts = (0..slots).map(|slot| Host::new(slot, plant.lies, &p, &mut rng));
        let hosts: Vec<Host> = hosts.collect();
        let configs = hosts.iter().enumerate();
        let configs = configs.map(|(slot, host)| disk_config(&p, slot, &host.tuning));
        let configs = configs.collect();
        let mut world = World {
            net: Net::new(p.net.healed(), slots),
            clients: (0..p.clients).map(|_| Client::new(&p)).collect(),
            calls: vec![Vec::new(); p.keys],
            p,
            configs,
            rng,
            now_us: 0,
            queue: Queue::new(),
            hosts,
            address_changes: 0,
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
            writes: BTreeMap::new(),
            ends_with_copy: false,
            copy_run: None,
            connections: BTreeMap::new(),
            last_connection: 0,
            waits: Vec::new(),
            violation: None,
            plant,
            heard_appends: HeardAppends::default(),
            voted_for: None,
            scratch: Vec::new(),
            fx: Outputs::default(),
        };
        world.begin();
        for client in 0..world.clients.len() {
            world.queue.push(10_000, Ev::Think { client });
        }
        world.queue.push(1_000, Ev::Look);
        world
    }

    /// A machine's command line may have other settings from this start on.
    pub fn maybe_retune(&mut self, slot: usize) {
        if !self.p.is_unequal || !self.rng.chance(100_000) {
            return;
        }
        let tuning = self.p.draw_tuning(&mut self.rng);
        self.configs[slot] = disk_config(&self.p, slot, &tuning);
        let host = &mut self.hosts[slot];
        host.front = Front::new(
            name_of(slot),
            client_url(slot),
            host.peer_url.clone(),
            &tuning,
        );
        host.tuning = tuning;
    }

    pub fn settings(&self, slot: usize) -> Settings {
        let tuning = &self.hosts[slot].tuning;
        Settings {
            name: name_of(self.hosts[slot].copy_of.unwrap_or(slot)),
            client_url: client_url(slot),
            peer_url: self.hosts[slot].peer_url.clone(),
            heartbeat_ms: tuning.heartbeat_ms,
            election_ms: tuning.election_ms,
            snapshot_count: tuning.snapshot_count,
            snapshots: true,
            cluster: cluster_config(&self.p),
            history_events: self.p.history_events,
            store_bytes_max: None,
            memory: self.p.memory,
            forward: self.p.forward,
        }
    }

    pub fn begin_join(&mut self, slot: usize, after_us: u64) {
        self.hosts[slot].place = Place::Down(Image::blank(&mut self.rng));
        self.hosts[slot].copy = None;
        self.hosts[slot].directory = Directory::default();
        self.hosts[slot].is_founder = false;
        self.hosts[slot].full = false;
        self.hosts[slot].stays_learner = false;
        self.hosts[slot].shown = 0;
        self.queue.push(self.now_us + after_us, Ev::Start { slot });
    }

    /// Where and how a machine looks for the cluster: the settings of its command line.
    fn search(&self, slot: usize) -> Search {
        // The list is complete in two cases:
        // - The operator has given all machines new addresses.
        // - This machine has the address of another one. Without a log, with a list of standbys only,
        //   and listed by no machine, it would never find the cluster.
        let has_swapped = slot_of(&self.hosts[slot].peer_url) != Some(slot);
        let has_complete_list = self.address_changes > 0 || has_swapped;
        let count = if has_complete_list {
            self.hosts.len()
        } else {
            self.p.machines
        };
        let hosts = self.hosts[..count].iter();
        Search {
            peers: hosts.map(|host| host.peer_url.clone()).collect(),
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

    /// Whether its ports answer.
    pub fn listens(&self, slot: usize) -> bool {
        self.up(slot).is_some_and(|r| r.core.listens())
    }

    /// Whether its process stands still: nothing is given to it.
    pub fn is_paused(&self, slot: usize) -> bool {
        self.hosts[slot].paused_until_us > self.now_us
    }

    pub fn is_up(&self, slot: usize) -> bool {
        self.up(slot).is_some()
    }

    /// The running leader of the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leaders = (0..self.hosts.len()).filter(|s| self.up(*s).is_some_and(|r| r.seen.leads));
        leaders.max_by_key(|s| self.up(*s).map(|r| r.seen.term))
    }

    /// What the process of a slot is told of the time.
    pub fn now_of(&self, slot: usize, mono_off_us: u64) -> Now {
        let wall = WALL_NS as i64 + self.now_us as i64 * 1_000 + self.hosts[slot].wall_off_ns;
        Now {
            mono_us: self.now_us + mono_off_us,
            wall_ns: wall.max(0) as u64,
        }
    }

    pub fn fail(&mut self, what: Checked) {
        if let Err(found) = what
            && self.violation.is_none()
        {
            self.violation = Some(found);
        }
    }
}
