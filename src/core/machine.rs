//! This machine: finding its cluster, serving in it as a peer, leaving it.
//!
//! `Machine` is the core as one value. The shell gives it inputs (`on_…`), asks for one batch of
//! outputs (`advance`) and carries them out; `seam` holds the types of both directions. The replica
//! does the work of a peer; here stands what goes round it: when it may begin to answer, the
//! leader's duties (`caretaker`), removal and the end. A machine that is no member looks for its
//! cluster (`finder`) or waits for room (`standby`); `switching` leads from one to the other, any
//! number of times.
mod caretaker;
pub mod fault;
mod finder;
mod registrar;
mod standby;
mod survey;
mod transitions;

pub use super::seam::*;
pub use finder::Search;

use crate::core::error::{Code, Error};
use crate::core::raft::{
    Configuration, Index, Lsn, Member, Message, PeerId, Raft, SnapshotMeta, Term,
};
use crate::core::random::splitmix64;
use crate::core::replica::{HISTORY_BYTES_MAX, Replica, Standing, registry};
use crate::core::store::{Action, HistoryLimits, SnapshotStep, Store};
use crate::core::timer::Now;
use caretaker::Caretaker;
use finder::{Finder, Goal, SearchOutcome};
use registrar::Registrar;
use standby::Standby;

/// How many election timeouts a machine that has come up waits for a leader before it answers from
/// what it has.
const START_TIMEOUTS: u64 = 5;
/// How long a machine that is to stop tries to hand over and to finish.
const STOP_US_MAX: u64 = 1_000_000;

/// The id in a replica that stands still because its machine has none yet: 0 is no leader.
const NOBODY: PeerId = PeerId(u64::MAX);

/// The core of one machine.
pub struct Machine {
    replica: Replica,
    caretaker: Caretaker,
    /// Looks for the cluster, as long as there is somebody to ask.
    finder: Option<Finder>,
    /// Keeps this member registered with a discovery service.
    registrar: Option<Registrar>,
    /// It was started with other addresses than the cluster knows.
    moved: bool,
    /// It was started with a log that does not tell its place.
    is_unplaced: bool,
    /// A machine that knows a leader does not list it.
    is_unlisted: bool,
    /// When it began to ask round last.
    look_us: u64,
    phase: Phase,
    origin: Origin,
    now: Now,
}

/// How far this machine is in its life.
enum Phase {
    /// It is no member yet, and its replica stands still.
    Finding,
    /// It has come up, and may know less than it has told before: requests wait, until the time at
    /// the latest.
    Starting {
        until_us: u64,
        waiting: Vec<(Ticket, Op)>,
    },
    Serving,
    /// It is no member, and waits for room.
    Standby(Box<Standby>),
    /// It hands over and finishes, until the time at the latest.
    Stopping {
        until_us: u64,
        handing_over: bool,
        /// What only a leader can do, until there is a new one.
        waiting: Vec<(Ticket, Op)>,
    },
    /// It has stopped: where its clients are sent.
    Out {
        leader: Option<Outcome>,
    },
}

/// What stays the same from mode to mode.
struct Origin {
    search: Search,
    seed: u64,
    /// The data directory's number, and its term and vote as long as this machine is no member.
    incarnation: u64,
    term: Term,
    vote: Option<PeerId>,
    /// How often it has changed its mode.
    switches: u64,
}

impl Origin {
    fn new(recovered: &Recovered, search: Search, seed: u64) -> Origin {
        let Recovered {
            incarnation,
            term,
            vote,
            ..
        } = *recovered;
        Origin {
            search,
            seed,
            incarnation,
            term,
            vote,
            switches: 0,
        }
    }
}

impl Machine {
    /// The first state of a new cluster whose only member is this machine. `seed` must be as random
    /// as it can be: the cluster's identity is drawn from it.
    pub fn bootstrap(settings: &Settings, incarnation: u64, seed: u64) -> Founding {
        let member = Member {
            id: PeerId(1),
            name: settings.name.clone(),
            peer_url: settings.peer_url.clone(),
            client_url: settings.client_url.clone(),
            incarnation,
            voter: true,
        };
        let mut store = Store::new(HistoryLimits {
            events: settings.history_events,
            bytes: HISTORY_BYTES_MAX,
        });
        let path = registry::machine_path(&settings.name);
        let value = registry::machine_value(&member);
        store.set_view(Action::Create, &path, Some(&value));
        Founding {
            id: member.id,
            term: Term(1),
            meta: SnapshotMeta {
                cluster: splitmix64(seed).max(1),
                index: Index(1),
                term: Term(1),
                configuration: Configuration {
                    members: vec![member],
                },
            },
            chunks: snapshot_of(&mut store),
        }
    }

    /// Takes up what the disk holds. With an `id` and no snapshot this is a member that was just
    /// let in.
    pub fn recover(settings: Settings, recovered: Recovered, seed: u64, now: Now) -> Machine {
        assert!(recovered.id != PeerId::NONE, "only a member has a replica");
        let until_us = now.mono_us + START_TIMEOUTS * settings.election_ms * 1000;
        let origin = Origin::new(&recovered, Search::default(), seed);
        let phase = Phase::Starting {
            until_us,
            waiting: Vec::new(),
        };
        Machine::new(
            Replica::new(settings, recovered, seed, now),
            phase,
            origin,
            now,
        )
    }

    fn new(replica: Replica, phase: Phase, origin: Origin, now: Now) -> Machine {
        Machine {
            replica,
            caretaker: Caretaker::new(origin.seed),
            finder: None,
            registrar: None,
            moved: false,
            is_unplaced: false,
            is_unlisted: false,
            look_us: now.mono_us,
            phase,
            origin,
            now,
        }
    }

    /// A machine without a log that is to join a cluster. It serves nothing and needs no port
    /// before it is let in.
    pub fn find(
        settings: Settings,
        recovered: Recovered,
        search: Search,
        seed: u64,
        now: Now,
    ) -> Machine {
        let mut machine = Machine::outside(settings, recovered, search, seed, now);
        let search = machine.origin.search.clone();
        let finder = Finder::new(machine.introduction(), search, Goal::Join, 0, 0, seed);
        machine.finder = Some(finder);
        machine
    }

    /// A machine that is no member, and does nothing.
    fn outside(
        settings: Settings,
        recovered: Recovered,
        search: Search,
        seed: u64,
        now: Now,
    ) -> Machine {
        assert!(recovered.id == PeerId::NONE, "a member has its place");
        let origin = Origin::new(&recovered, search, seed);
        let nobody = Recovered {
            id: NOBODY,
            ..recovered
        };
        Machine::new(
            Replica::new(settings, nobody, seed, now),
            Phase::Finding,
            origin,
            now,
        )
    }

    /// How it introduces itself.
    fn introduction(&self) -> Introduction {
        let settings = self.replica.settings();
        Introduction {
            name: settings.name.clone(),
            client_url: settings.client_url.clone(),
            peer_url: settings.peer_url.clone(),
            incarnation: self.origin.incarnation,
        }
    }

    /// A machine with a log also asks round whether its place in the cluster is still its own:
    /// first the members that its log knows, then `search`. Call it at most once, before
    /// anything else.
    pub fn look_around(&mut self, search: Search) {
        self.origin.search = search;
        self.register();
        let moved = self.has_moved();
        (self.is_unplaced, self.moved) = (moved.is_none(), moved.unwrap_or(false));
        match self.is_silent() {
            true => self.mind_silence(self.now),
            false => self.finder = Some(self.looking(0, 0)),
        }
    }

    /// Whether its log tells another address of this machine, if it tells any.
    fn has_moved(&self) -> Option<bool> {
        let settings = self.replica.settings();
        let own = self.configuration().get(self.id())?;
        Some((&own.client_url, &own.peer_url) != (&settings.client_url, &settings.peer_url))
    }

    fn register(&mut self) {
        let settings = self.replica.settings();
        let (name, url) = (settings.name.clone(), settings.peer_url.clone());
        let discovery = self.origin.search.discovery.clone();
        self.registrar = discovery.map(|service| Registrar::new(service, name, url));
    }

    // -- inputs

    /// A client or an admin asks; or says `ContinueListing` or `ClientClosed` of an earlier ticket.
    pub fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        self.now = now;
        match &mut self.phase {
            Phase::Starting { waiting, .. } => {
                if op == Op::ClientClosed {
                    waiting.retain(|(waits, _)| *waits != ticket);
                } else {
                    waiting.push((ticket, op));
                }
            }
            Phase::Serving => self.replica.on_request(now, ticket, op),
            Phase::Stopping { .. } => self.while_stopping(now, ticket, op),
            Phase::Finding | Phase::Standby(_) | Phase::Out { .. }
                if matches!(op, Op::ClientClosed | Op::ContinueListing) => {}
            Phase::Finding | Phase::Standby(_) | Phase::Out { .. } => {
                let none = Outcome::Failed(Error::new(Code::StandbyInternal, ""));
                let outcome = self.elsewhere().unwrap_or(none);
                self.replica.answer(ticket, outcome);
            }
        }
        self.replica.check_invariants();
    }

    /// Reads go on to the end; nothing new goes into the log.
    fn while_stopping(&mut self, now: Now, ticket: Ticket, op: Op) {
        match op {
            Op::Write(_)
            | Op::SpeedTest
            | Op::ConfigPut { .. }
            | Op::MachineRemove { .. }
            | Op::Join(_) => match &mut self.phase {
                Phase::Stopping {
                    handing_over: true,
                    waiting,
                    ..
                } if !self.replica.follows() => waiting.push((ticket, op)),
                _ => self.replica.redirect_to_leader(ticket),
            },
            op => {
                if op == Op::ClientClosed
                    && let Phase::Stopping { waiting, .. } = &mut self.phase
                {
                    waiting.retain(|(waits, _)| *waits != ticket);
                }
                self.replica.on_request(now, ticket, op);
            }
        }
    }

    /// A raft message came in over the link to `from`.
    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.now = now;
        if !self.is_out() {
            self.replica.on_message(now, from, message);
            self.replica.check_invariants();
        }
    }

    /// A piece of a longer message came in over the link to `from`: it is there.
    pub fn on_contact(&mut self, now: Now, from: PeerId) {
        self.now = now;
        if !self.is_out() {
            self.replica.on_contact(now, from);
        }
    }

    /// An outgoing call has ended.
    pub fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) {
        self.now = now;
        let registrar = self.registrar.as_mut();
        if let Some(why) = registrar.and_then(|r| r.on_reply(now, id, &reply)) {
            let fact = Fact::NotRegistered { why: why.into() };
            self.replica.effects_mut().facts.push(fact);
        }
        if let Phase::Standby(standby) = &mut self.phase {
            let let_in = standby.on_reply(now, id, reply);
            return let_in.map_or((), |id| self.become_member(now, id));
        }
        let found = self
            .finder
            .as_mut()
            .and_then(|f| f.on_reply(now, id, reply));
        if let Some(why) = self.finder.as_mut().and_then(Finder::take_stranger) {
            self.replica
                .effects_mut()
                .facts
                .push(Fact::OtherCluster { why });
        }
        self.on_outcome(now, found);
    }

    /// The outcome of a search, if it has one.
    fn on_outcome(&mut self, now: Now, outcome: Option<SearchOutcome>) {
        let Some(outcome) = outcome else {
            return;
        };
        let joins = self.finder.as_ref().is_some_and(Finder::joins);
        if !matches!(outcome, SearchOutcome::Retrying { .. }) {
            self.finder = None;
        }
        if joins && !matches!(self.phase, Phase::Finding) {
            return self.on_silence(now, outcome);
        }
        let effects = self.replica.effects_mut();
        match outcome {
            SearchOutcome::Admitted(id) => self.become_member(now, id),
            SearchOutcome::Failed(text) => effects.failed = Some(text),
            SearchOutcome::Retrying { why, pause_ms } => {
                effects.facts.push(Fact::NotFound { why, pause_ms });
            }
            SearchOutcome::First => effects.found = true,
            SearchOutcome::Unlisted => self.on_unlisted(now),
            SearchOutcome::Refused { why, info } => self.become_standby_refused(now, why, info),
            SearchOutcome::Done => {}
        }
    }

    /// A link to a member opened, or its process is gone.
    pub fn on_link(&mut self, now: Now, peer: PeerId, state: LinkState) {
        self.now = now;
        if !self.is_out() {
            self.replica.on_link(now, peer, state);
            self.replica.check_invariants();
        }
    }

    /// Everything up to this Lsn is durable, by a sync that took so long.
    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        self.now = now;
        if !self.is_out() {
            self.replica.on_synced(now, lsn, took_us);
            self.replica.check_invariants();
        }
    }

    /// What became of something in `Effects::snapshot`.
    pub fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        self.now = now;
        if !self.is_out() {
            self.replica.on_snapshot(now, input);
            self.replica.check_invariants();
        }
    }

    /// The disk is filling up, or has room again.
    pub fn on_space(&mut self, now: Now, space: Space) {
        self.now = now;
        // Outside too: the next life begins with it.
        self.replica.on_space(now, space);
        self.replica.check_invariants();
    }

    /// Time has passed: at `next_deadline` at the latest.
    pub fn on_time(&mut self, now: Now) {
        self.now = now;
        if let Some(registrar) = &mut self.registrar {
            registrar.on_time(now);
        }
        if let Phase::Standby(standby) = &mut self.phase {
            standby.on_time(now);
        }
        self.maybe_look(now);
        let found = self.finder.as_mut().and_then(|f| f.on_time(now));
        self.on_outcome(now, found);
        if !self.is_out() {
            self.replica.on_time(now);
            self.replica.check_invariants();
        }
    }

    /// Hand over and finish; `Effects::stopped` says when that is done.
    pub fn on_stop(&mut self, now: Now) {
        self.now = now;
        match self.phase {
            Phase::Stopping { .. } => return,
            Phase::Finding | Phase::Standby(_) | Phase::Out { .. } => {
                self.finder = None;
                self.keep_news();
                let leader = self.elsewhere();
                self.phase = Phase::Out { leader };
                self.replica.effects_mut().stopped = true;
                return;
            }
            Phase::Starting { .. } | Phase::Serving => {}
        }
        let stopping = Phase::Stopping {
            until_us: now.mono_us + STOP_US_MAX,
            handing_over: self.replica.hand_over(now),
            waiting: Vec::new(),
        };
        self.change_phase(stopping);
        self.replica.check_invariants();
    }

    // -- outputs

    /// Applies what is committed, does a slice of what is long, and appends to `effects` what there
    /// is to do.
    pub fn advance(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        if !self.is_out() {
            self.replica.advance(now);
            self.replica.maybe_found(now);
            self.moved = self.moved && !self.replica.maybe_move(now);
            self.caretaker.look_after(now, &mut self.replica);
            self.maybe_serve(now);
            self.maybe_leave(now);
            self.end_silence();
            self.maybe_tell_place(now);
            self.maybe_stop(now);
            self.replica.collect(now);
        }
        if let Some(finder) = &mut self.finder {
            finder.take_calls(&mut self.replica.effects_mut().calls);
        }
        self.keep_news();
        let register = self.registrar.as_mut().and_then(|r| r.take_call());
        self.replica.effects_mut().calls.extend(register);
        self.replica.effects_mut().move_to(effects);
        self.replica.check_invariants();
    }

    /// Begins to answer once this machine knows what the cluster knows; or, without a leader, what
    /// it had shown itself.
    fn maybe_serve(&mut self, now: Now) {
        let Phase::Starting { until_us, .. } = self.phase else {
            return;
        };
        let late = now.mono_us >= until_us && self.replica.has_recovered();
        if late || self.replica.is_ready() {
            self.begin_serving(now);
        }
    }

    fn begin_serving(&mut self, now: Now) {
        if let Phase::Starting { waiting, .. } = std::mem::replace(&mut self.phase, Phase::Serving)
        {
            for (ticket, op) in waiting {
                self.replica.on_request(now, ticket, op);
            }
        }
    }

    /// Everything that waits is answered, or time is up.
    fn maybe_stop(&mut self, now: Now) {
        let Phase::Stopping {
            until_us,
            handing_over,
            waiting,
        } = &mut self.phase
        else {
            return;
        };
        let (until_us, handed) = (*until_us, !*handing_over || self.replica.follows());
        if handed {
            for (ticket, _) in waiting.drain(..) {
                self.replica.redirect_to_leader(ticket);
            }
        }
        if (handed && self.replica.is_idle()) || now.mono_us >= until_us {
            self.go_out();
            self.replica.effects_mut().stopped = true;
        }
    }

    fn go_out(&mut self) {
        self.finder = None;
        self.registrar = None;
        self.caretaker.cancel_all();
        let leader = self.replica.last_leader();
        self.change_phase(Phase::Out { leader });
        self.replica.close();
    }

    /// Refuses what has waited for the former phase: it may not be answered from what this machine
    /// has.
    fn change_phase(&mut self, phase: Phase) {
        let former = std::mem::replace(&mut self.phase, phase);
        if let Phase::Starting { waiting, .. } | Phase::Stopping { waiting, .. } = former {
            for (ticket, _) in waiting {
                self.replica.redirect_to_leader(ticket);
            }
        }
    }

    /// Whether its raft stands still.
    fn is_out(&self) -> bool {
        matches!(
            self.phase,
            Phase::Finding | Phase::Standby(_) | Phase::Out { .. }
        )
    }

    /// There is sliced work left: advance again without waiting.
    pub fn wants_turn(&self) -> bool {
        let leaving = self.replica.standing() != Standing::Member;
        !self.is_out() && (leaving || self.replica.wants_turn())
    }

    /// When `on_time` has something to do, in `mono_us`; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        let finder_us = self.finder.as_ref().map_or_else(
            || self.look_due_us(),
            |f| f.next_deadline().unwrap_or(u64::MAX),
        );
        let registrar = self.registrar.as_ref();
        let finder_us = finder_us.min(registrar.map_or(u64::MAX, |r| r.next_deadline()));
        let phase_us = match self.phase {
            Phase::Starting { until_us, .. } if self.replica.has_recovered() => until_us,
            Phase::Stopping { until_us, .. } => until_us,
            Phase::Starting { .. } | Phase::Serving => u64::MAX,
            Phase::Standby(ref standby) => {
                return finder_us.min(standby.next_deadline().unwrap_or(u64::MAX));
            }
            Phase::Finding | Phase::Out { .. } => return finder_us,
        };
        let duties_us = self.caretaker.next_deadline();
        let phase_us = phase_us.min(finder_us);
        phase_us
            .min(duties_us)
            .min(self.replica.next_deadline().unwrap_or(u64::MAX))
    }

    // -- what it is

    /// How many timers wait, of all that it does beside its raft: none of a mode that it has left.
    pub fn timers(&self) -> usize {
        let finder_us = self
            .finder
            .as_ref()
            .and_then(|f| f.next_deadline())
            .unwrap_or(u64::MAX);
        let registrar_us = self
            .registrar
            .as_ref()
            .map_or(u64::MAX, |r| r.next_deadline());
        let standby_us = match &self.phase {
            Phase::Standby(standby) => standby.next_deadline().unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        let others = [finder_us, registrar_us, standby_us]
            .into_iter()
            .filter(|us| *us != u64::MAX);
        self.caretaker.timers() + others.count()
    }

    /// Whether there is anything to be asked for here: a machine that is no member yet is not
    /// listened for.
    pub fn listens(&self) -> bool {
        !matches!(self.phase, Phase::Finding)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.replica.settings().name
    }

    /// This machine's id in its cluster; 0 while it has none.
    pub fn id(&self) -> PeerId {
        match self.replica.raft().id() {
            NOBODY => PeerId::NONE,
            id => id,
        }
    }

    /// What it is in its cluster now.
    pub fn role(&self) -> Role {
        match self.is_out() {
            true => Role::Standby,
            false => self.replica.role(),
        }
    }

    /// The present indexes.
    pub fn indexes(&self) -> Indexes {
        self.replica.indexes()
    }

    /// The cluster's random identity; 0 before it is known.
    pub fn cluster(&self) -> u64 {
        self.replica.raft().snapshot().cluster
    }

    /// The latest configuration in the log: whom to link to.
    pub fn configuration(&self) -> &Configuration {
        self.replica.raft().configuration()
    }

    /// Whether it answers requests from what it has applied.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// The last entry that the key space holds.
    pub fn applied(&self) -> Index {
        self.replica.applied()
    }

    /// Its raft, to look at.
    pub fn raft(&self) -> &Raft {
        self.replica.raft()
    }

    /// The key space, to look at.
    pub fn store(&self) -> &Store {
        self.replica.store()
    }

    /// Plants a bug.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Option<crate::core::raft::fault::RaftFault>) {
        self.replica.plant(fault);
    }

    /// Plants a bug in the leader's duties.
    #[cfg(feature = "faults")]
    pub fn plant_in_duties(&mut self, fault: Option<fault::Fault>) {
        self.caretaker.plant(fault);
    }

    /// Plants a bug in the key space.
    #[cfg(feature = "faults")]
    pub fn plant_in_store(&mut self, fault: Option<crate::core::store::fault::StoreFault>) {
        self.replica.plant_in_store(fault);
    }
}

/// A key space as the content of a snapshot, all at once: of a new cluster's only.
fn snapshot_of(store: &mut Store) -> Vec<Vec<u8>> {
    let began = store.snapshot_begin();
    assert!(began, "nothing else reads a new key space");
    let mut content = Vec::new();
    while store.snapshot_chunk(1 << 20, &mut content) == SnapshotStep::More {}
    vec![content]
}
