//! This machine: finding its cluster, serving in it as a member, waiting as a standby.
//!
//! [`Machine`] is the core as one value. The shell gives it inputs (`on_…`), takes one batch of
//! outputs a turn (`advance`) and carries it out; `seam` holds the types of both directions.
//!
//! A machine is in one of two modes. Outside of its cluster it looks for it (`finder`) or waits for
//! room (`standby`). As a member it has a replica (`member`), carries out the leader's duties
//! (`caretaker`) and checks that the cluster still lists it (`place`, `claims`). `transitions` changes
//! the mode, any number of times. `forcing` begins a new cluster when the old one is lost. Start with
//! [`Machine::advance`].
mod bootstrap;
mod caretaker;
mod claims;
mod finder;
mod forcing;
mod links;
mod member;
mod place;
mod proxying;
mod registrar;
mod roll_call;
mod standby;
mod status;
mod survey;
mod transitions;

pub use super::seam::*;
pub use bootstrap::FOUNDING_TERM;
pub use finder::Search;
pub use proxying::{ProxiedRequest, ProxyResult, ProxyStep};

use crate::core::error::{Code, Error};
use crate::core::peers::Peers;
use crate::core::public_id::PublicId;
use crate::core::raft::{Configuration, Index, Lsn, Message, PeerId, Raft, StateSeq, Term};
use crate::core::replica::Replica;
use crate::core::store::{Store, ViewRef};
use crate::core::timer::{Now, earliest};
use caretaker::Caretaker;
use finder::{Finder, Goal};
use forcing::Forcing;
use member::MemberMode;
use registrar::Registrar;
use roll_call::RollCall;
use standby::Standby;

/// The core of one machine.
pub struct Machine {
    mode: MachineMode,
    common: Common,
    /// Outputs of this machine outside of its cluster, and of a mode that has ended. In member mode
    /// outputs gather in the replica.
    out: Outputs,
}

/// The mode of a machine.
enum MachineMode {
    Outside(Outside),
    Member(Box<MemberMode>),
}

/// A machine that is not a member of a cluster. It has no log.
enum Outside {
    /// It looks for its cluster, and does not listen on its ports.
    Finding(Box<Finder>),
    /// It was started with `-bootstrap`, and waits for the other machines of the list. It listens
    /// on its peer port.
    Bootstrapping(Box<RollCall>),
    /// Its operator says that its cluster is lost. It asks the other voters, and does not listen.
    Forcing(Box<Forcing>),
    /// It redirects clients, and waits for room.
    Standby(Box<Standby>),
    /// It was stopped.
    Stopped {
        /// The answer to clients; `None` if no leader was known.
        redirect: Option<Outcome>,
    },
}

/// The state that survives a change of mode.
struct Common {
    settings: Settings,
    /// Where to look for the cluster. `known` changes with the members.
    search: Search,
    /// Random; the pauses and choices of this process are drawn from it.
    seed: u64,
    /// The number of the data directory; changes when it is wiped.
    incarnation: u64,
    /// Term and vote of the data directory of a machine that is not a member: the next member
    /// begins with them.
    term: Term,
    vote: Option<PeerId>,
    /// The leader's duties. It has no timers outside, and none on a member whose raft has stopped.
    caretaker: Caretaker,
    /// How many searches have begun, including those of standbys. The ids of calls contain it.
    searches: u64,
    /// The disk has little room.
    is_disk_low: bool,
    /// How many bytes of records the log on the disk is sure to have room for, as last reported.
    free_bytes: u64,
    /// The links to other members.
    peers: Peers,
    /// Keeps this machine registered with a discovery service; `None` without one, and once this
    /// machine is to stop.
    registrar: Option<Registrar>,
}

impl Common {
    fn new(settings: Settings, recovered: &Recovered, search: Search, seed: u64) -> Common {
        Common {
            peers: links::peers(&settings, recovered.incarnation, seed),
            settings,
            search,
            seed,
            incarnation: recovered.incarnation,
            term: recovered.term,
            vote: recovered.vote,
            caretaker: Caretaker::new(seed),
            searches: 0,
            is_disk_low: false,
            free_bytes: recovered.free_bytes,
            registrar: None,
        }
    }

    /// How this machine introduces itself.
    fn introduction(&self) -> Introduction {
        Introduction {
            name: self.settings.name.clone(),
            client_url: self.settings.client_url.clone(),
            peer_url: self.settings.peer_url.clone(),
            incarnation: self.incarnation,
            former: None,
        }
    }

    /// Begins another search. Returns the number before the id of its first call.
    fn next_search(&mut self) -> u64 {
        self.searches += 1;
        self.searches << CallId::SEARCH_BITS
    }

    /// Begins to keep this machine registered, if a discovery service is given.
    fn register(&mut self) {
        let Some(service) = self.search.discovery.clone() else {
            return;
        };
        let name = self.settings.name.clone();
        let peer_url = self.settings.peer_url.clone();
        self.registrar = Some(Registrar::new(service, name, peer_url));
    }
}

impl Machine {
    // -- start

    /// A member with the state that its disk holds. Without a snapshot it was just admitted.
    ///
    /// # Panics
    ///
    /// If `recovered` has no id.
    pub fn recover(settings: Settings, recovered: Recovered, seed: u64, now: Now) -> Machine {
        assert!(recovered.id.is_some(), "a member has an id");
        let common = Common::new(settings.clone(), &recovered, Search::default(), seed);
        let replica = Replica::new(settings, recovered, seed, now);
        Machine {
            mode: MachineMode::Member(Box::new(MemberMode::new(replica, now))),
            common,
            out: Outputs::default(),
        }
    }

    /// From now on a member checks that its cluster still lists it, and under its present
    /// addresses: it asks the members of its log first, then the machines of `search`. To be called
    /// once, before any input.
    ///
    /// # Errors
    ///
    /// If the log gives this member another name than its settings. The machine must not run; the
    /// text says why and what to do.
    ///
    /// # Panics
    ///
    /// If the machine is not a member.
    pub fn begin_place_checks(&mut self, now: Now, search: Search) -> Result<(), Box<str>> {
        self.common.search = search;
        self.common.register();
        match &mut self.mode {
            MachineMode::Member(member) => member.begin_place_checks(now, &mut self.common),
            MachineMode::Outside(_) => unreachable!("only a member has a place"),
        }
    }

    /// A machine without a log that is to join a cluster. It needs no ports before it is admitted.
    ///
    /// # Panics
    ///
    /// If `recovered` has an id.
    pub fn find(settings: Settings, recovered: Recovered, search: Search, seed: u64) -> Machine {
        assert!(recovered.id.is_none(), "a member does not join");
        let common = Common::new(settings, &recovered, search.clone(), seed);
        let finder = Finder::new(common.introduction(), search, Goal::Join, 0, 0, seed);
        Machine {
            mode: MachineMode::Outside(Outside::Finding(Box::new(finder))),
            common,
            out: Outputs::default(),
        }
    }

    // -- inputs

    /// A request of a client or an administrator, or `ContinueListing` or `ClientClosed` for an
    /// earlier ticket.
    pub fn on_request(&mut self, now: Now, ticket: Ticket, op: Op) {
        match &mut self.mode {
            MachineMode::Member(member) => member.on_request(now, ticket, op),
            MachineMode::Outside(outside) => {
                if matches!(op, Op::ClientClosed | Op::ContinueListing) {
                    return;
                }
                let outcome = match op {
                    Op::Query(Query::Bootstrap) => outside.bootstrap(),
                    _ => outside.redirect().unwrap_or_else(refusal),
                };
                let at = self.indexes();
                self.out.answers.push(Answer {
                    ticket,
                    at,
                    outcome,
                });
            }
        }
        self.check_invariants();
    }

    /// Answers a GET of a file at once, without a ticket: the file at a clean path, and the indexes
    /// of the answer. `None` if there is no file, or this machine does not serve now; the request
    /// is then to be asked by `on_request`.
    pub fn get_file<'a>(&'a mut self, path: &'a str) -> Option<(Indexes, ViewRef<'a>)> {
        match &mut self.mode {
            MachineMode::Member(member) => member.get_file(path),
            MachineMode::Outside(_) => None,
        }
    }

    /// A raft message arrived over the link to `from`.
    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        if let MachineMode::Member(member) = &mut self.mode {
            let before = member.replica.raft().progress();
            member.on_message(now, from, message);
            if member.replica.raft().progress() != before {
                self.common.peers.on_progress(from);
            }
        }
        self.check_invariants();
    }

    /// A piece of a longer message arrived over the link to `from`. It shows that the peer is
    /// alive.
    pub fn on_contact(&mut self, now: Now, from: PeerId) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_contact(now, from);
        }
        self.check_invariants();
    }

    /// A call has ended.
    pub fn on_reply(&mut self, now: Now, id: CallId, reply: Reply) {
        if let Some(registrar) = &mut self.common.registrar
            && let Some(why) = registrar.on_reply(now, id, &reply)
        {
            self.report(Fact::NotRegistered { why: why.into() });
        }
        match &mut self.mode {
            MachineMode::Member(member) => member.on_reply(now, id, reply, &mut self.common),
            MachineMode::Outside(Outside::Standby(standby)) => {
                if let Some(id) = standby.on_reply(now, id, reply) {
                    self.become_member(now, id);
                }
            }
            MachineMode::Outside(Outside::Finding(finder)) => {
                let outcome = finder.on_reply(now, id, reply);
                self.on_search(now, outcome);
            }
            MachineMode::Outside(Outside::Bootstrapping(roll_call)) => {
                let outcome = roll_call.on_reply(now, id, reply, &mut self.out.facts);
                self.on_search(now, outcome);
            }
            MachineMode::Outside(Outside::Forcing(_)) => self.on_forcing_reply(id, &reply),
            MachineMode::Outside(Outside::Stopped { .. }) => {}
        }
        self.check_invariants();
    }

    /// The term and vote `seq`, or a later one, is durable, by a sync that took `took_us`. Neither
    /// this nor `on_synced` implies the other.
    pub fn on_state_synced(&mut self, now: Now, seq: StateSeq, took_us: u64) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_state_synced(now, seq, took_us);
        }
        self.check_invariants();
    }

    /// Every record of the log up to `lsn` is durable, by a sync that took `took_us`.
    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_synced(now, lsn, took_us);
        }
        self.check_invariants();
    }

    /// The result of an output in `Outputs::snapshot`.
    pub fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_snapshot(now, input);
        }
        self.check_invariants();
    }

    /// The log on the disk is sure to have room for `free_bytes` bytes of records, besides all
    /// records of the outputs so far. The member takes no entry that does not fit; before the first
    /// report every entry fits. Outside of the cluster the machine remembers it for its next
    /// membership.
    pub fn on_room(&mut self, free_bytes: u64) {
        self.common.free_bytes = free_bytes;
        if let MachineMode::Member(member) = &mut self.mode
            && member.on_room(free_bytes)
        {
            self.common.peers.on_room();
        }
        self.check_invariants();
    }

    /// Whether the log on the disk can get longer. If not, a write that it has no room for is refused
    /// rather than held.
    pub fn on_log_growth(&mut self, can_grow: bool) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_log_growth(can_grow);
        }
    }

    /// The disk is filling up, or has room again. Outside of the cluster the machine remembers it
    /// for its next membership.
    pub fn on_space(&mut self, now: Now, space: Space) {
        let is_low = space == Space::Low;
        let has_changed = std::mem::replace(&mut self.common.is_disk_low, is_low) != is_low;
        match &mut self.mode {
            MachineMode::Member(member) => member.on_space(now, space),
            MachineMode::Outside(_) if has_changed && is_low => self.out.facts.push(Fact::DiskLow),
            MachineMode::Outside(_) if has_changed => self.out.facts.push(Fact::DiskOk),
            MachineMode::Outside(_) => {}
        }
        self.check_invariants();
    }

    /// Time has passed. To be called at `next_deadline` at the latest.
    pub fn on_time(&mut self, now: Now) {
        if let Some(registrar) = &mut self.common.registrar {
            registrar.on_time(now);
        }
        match &mut self.mode {
            MachineMode::Member(member) => member.on_time(now, &mut self.common),
            MachineMode::Outside(Outside::Standby(standby)) => standby.on_time(now),
            MachineMode::Outside(Outside::Finding(finder)) => {
                let outcome = finder.on_time(now);
                self.on_search(now, outcome);
            }
            MachineMode::Outside(Outside::Bootstrapping(roll_call)) => roll_call.on_time(now),
            MachineMode::Outside(Outside::Forcing(_)) => self.on_forcing_time(),
            MachineMode::Outside(Outside::Stopped { .. }) => {}
        }
        self.on_link_time(now);
        self.check_invariants();
    }

    /// The process is to end: hand over and finish. `Order::Stop` says when that is done.
    pub fn on_stop(&mut self, now: Now) {
        self.common.registrar = None;
        match &mut self.mode {
            MachineMode::Member(member) => member.on_stop(now),
            MachineMode::Outside(outside) => {
                let redirect = outside.redirect();
                self.take_standby_outputs();
                self.mode = MachineMode::Outside(Outside::Stopped { redirect });
                self.out.orders.push(Order::Stop);
            }
        }
        self.check_invariants();
    }

    // -- outputs

    /// Applies committed entries, does a slice of longer work, and appends the outputs to
    /// `outputs`.
    pub fn advance(&mut self, now: Now, outputs: &mut Outputs) {
        self.pass_link_changes(now);
        self.maybe_end_superseded(now);
        if let MachineMode::Member(member) = &mut self.mode {
            member.advance(now, &mut self.common);
        }
        self.take_standby_outputs();
        // The outputs of a former mode come first.
        self.out.move_to(outputs);
        match &mut self.mode {
            MachineMode::Member(member) => member.take_outputs(outputs),
            MachineMode::Outside(Outside::Finding(finder)) => finder.take_calls(&mut outputs.calls),
            MachineMode::Outside(Outside::Bootstrapping(roll_call)) => {
                roll_call.take_calls(&mut outputs.calls);
            }
            MachineMode::Outside(Outside::Forcing(forcing)) => {
                forcing.take_calls(&mut outputs.calls);
            }
            MachineMode::Outside(Outside::Standby(_) | Outside::Stopped { .. }) => {}
        }
        if let Some(registrar) = &mut self.common.registrar {
            outputs.calls.extend(registrar.take_call());
        }
        self.follow_place(now, outputs);
        self.check_invariants();
    }

    fn report(&mut self, fact: Fact) {
        match &mut self.mode {
            MachineMode::Member(member) => member.report(fact),
            MachineMode::Outside(_) => self.out.facts.push(fact),
        }
    }

    /// Whether work is left that waits for nothing: `advance` is to be called again at once.
    pub fn wants_turn(&self) -> bool {
        self.member().is_some_and(MemberMode::wants_turn)
    }

    /// Whether the owner is to wait for the snapshot files, because the log fills its memory sooner
    /// than the disk writes the snapshot that will release it.
    pub fn is_snapshot_late(&self) -> bool {
        self.member().is_some_and(MemberMode::is_snapshot_late)
    }

    /// When `on_time` has something to do, in microseconds of the monotonic clock; `None`: never.
    pub fn next_deadline(&self) -> Option<u64> {
        let mode_us = match &self.mode {
            MachineMode::Member(member) => member.next_deadline(&self.common.peers),
            MachineMode::Outside(outside) => outside.next_deadline(),
        };
        let registrar_us = self.common.registrar.as_ref().map(Registrar::next_deadline);
        let duties_us = self.common.caretaker.next_deadline();
        let links_us = self.common.peers.next_deadline();
        earliest(&[mode_us, registrar_us, duties_us, links_us])
    }

    // -- questions

    /// The answer to a question; `None` while a member starts and may know less than it has shown
    /// before: the question waits as a request then.
    pub fn query(&self, now: Now, query: &Query) -> Option<Outcome> {
        match &self.mode {
            _ if *query == Query::Bootstrap => Some(self.bootstrap_state()),
            _ if *query == Query::Health => Some(Outcome::Health(self.health(now))),
            _ if *query == Query::Cluster => {
                Some(Outcome::Cluster(Box::new(self.cluster_status(now))))
            }
            _ if *query == Query::Figures => Some(Outcome::Figures(Box::new(self.figures(now)))),
            MachineMode::Member(member) => member.query(now, query),
            MachineMode::Outside(outside) => Some(outside.redirect().unwrap_or_else(refusal)),
        }
    }

    /// How many timers wait besides those of raft and of the links. A mode that has ended has none.
    pub fn timers(&self) -> usize {
        let mode_timers = match &self.mode {
            MachineMode::Member(member) => member.timers(),
            MachineMode::Outside(outside) => usize::from(outside.next_deadline().is_some()),
        };
        let duty_timers = self.common.caretaker.timers();
        mode_timers + duty_timers + usize::from(self.common.registrar.is_some())
    }

    /// Whether the ports are to be open. A machine that still looks for its cluster cannot answer
    /// requests.
    pub fn listens(&self) -> bool {
        !matches!(
            self.mode,
            MachineMode::Outside(
                Outside::Finding(_) | Outside::Bootstrapping(_) | Outside::Forcing(_)
            )
        )
    }

    /// Whether the peer port is to be open. A machine that waits for its cluster to begin answers
    /// the others of its list.
    pub fn listens_to_peers(&self) -> bool {
        let waits = matches!(self.mode, MachineMode::Outside(Outside::Bootstrapping(_)));
        waits || self.listens()
    }

    /// This machine's name.
    pub fn name(&self) -> &str {
        &self.common.settings.name
    }

    /// This machine's id in its cluster; `None` outside.
    pub fn id(&self) -> Option<PeerId> {
        self.raft().map(Raft::id)
    }

    /// This machine's role in its cluster. A member whose raft has stopped counts as a standby.
    pub fn role(&self) -> Role {
        match self.member() {
            Some(member) if member.is_running() => member.replica.role(),
            Some(_) | None => Role::Standby,
        }
    }

    /// The present indexes.
    pub fn indexes(&self) -> Indexes {
        match &self.mode {
            MachineMode::Member(member) => member.replica.indexes(),
            MachineMode::Outside(_) => Indexes {
                term: self.common.term,
                ..Indexes::default()
            },
        }
    }

    /// The time from which the rest of a ttl is counted, in nanoseconds since the Unix epoch.
    pub fn shown_ns(&self, now: Now) -> u64 {
        match &self.mode {
            MachineMode::Member(member) => member.replica.shown_ns(now),
            MachineMode::Outside(_) => now.wall_ns,
        }
    }

    /// The cluster's random identity; 0 outside, and before a member knows it.
    pub fn cluster(&self) -> u64 {
        self.raft().map_or(0, |raft| raft.snapshot().cluster)
    }

    /// The cluster's public id; `None` outside, and before a member knows its cluster.
    pub fn cluster_id(&self) -> Option<PublicId> {
        self.member().and_then(|member| member.replica.cluster_id())
    }

    /// The client URL of the leader that this member follows; `None` outside, and if it leads itself
    /// or knows no leader.
    pub fn leader_client_url(&self) -> Option<&str> {
        self.member()
            .and_then(|member| member.replica.leader_client_url())
    }

    /// The latest configuration in the log: the members to link to. Empty outside.
    pub fn configuration(&self) -> &Configuration {
        static EMPTY: Configuration = Configuration {
            members: Vec::new(),
            barred: Vec::new(),
        };
        self.raft().map_or(&EMPTY, Raft::configuration)
    }

    /// Whether it answers requests from its applied state.
    pub fn is_serving(&self) -> bool {
        self.member().is_some_and(MemberMode::is_serving)
    }

    /// `Some` if it is a standby: the client URL that it redirects to, if it knows one.
    pub fn standby(&self) -> Option<Option<&str>> {
        match &self.mode {
            MachineMode::Outside(Outside::Standby(standby)) => {
                Some(standby.leader().map(|leader| &*leader.client_url))
            }
            MachineMode::Outside(
                Outside::Finding(_)
                | Outside::Bootstrapping(_)
                | Outside::Forcing(_)
                | Outside::Stopped { .. },
            )
            | MachineMode::Member(_) => None,
        }
    }

    /// The last entry that the key space holds; 0 outside.
    pub fn applied(&self) -> Index {
        self.member()
            .map_or(Index(0), |member| member.replica.applied())
    }

    /// The member's raft; `None` outside.
    pub fn raft(&self) -> Option<&Raft> {
        self.member().map(|member| member.replica.raft())
    }

    /// The member's key space; `None` outside.
    pub fn store(&self) -> Option<&Store> {
        self.member().map(|member| member.replica.store())
    }

    /// The answer to [`Query::Bootstrap`].
    fn bootstrap_state(&self) -> Outcome {
        match &self.mode {
            MachineMode::Outside(outside) => outside.bootstrap(),
            MachineMode::Member(_) => Outcome::Bootstrap(None),
        }
    }

    fn member(&self) -> Option<&MemberMode> {
        match &self.mode {
            MachineMode::Member(member) => Some(member),
            MachineMode::Outside(_) => None,
        }
    }

    /// Called after each input.
    fn check_invariants(&self) {
        if let MachineMode::Member(member) = &self.mode {
            member.check_invariants();
        }
    }
}

/// The answer of a machine that does not serve and knows no leader.
fn refusal() -> Outcome {
    Outcome::Failed(Error::new(Code::StandbyInternal, ""))
}

impl Outside {
    /// Whether its clients can reach the cluster through it.
    fn health(&self) -> Health {
        match self {
            Outside::Standby(standby) if standby.has_found_cluster() => Health::Healthy,
            Outside::Standby(_) => Health::NoCluster,
            Outside::Finding(_)
            | Outside::Bootstrapping(_)
            | Outside::Forcing(_)
            | Outside::Stopped { .. } => Health::Leaving,
        }
    }

    /// The answer to [`Query::Bootstrap`].
    fn bootstrap(&self) -> Outcome {
        match self {
            Outside::Bootstrapping(roll_call) => {
                Outcome::Bootstrap(Some(roll_call.attendance().clone()))
            }
            Outside::Finding(_)
            | Outside::Forcing(_)
            | Outside::Standby(_)
            | Outside::Stopped { .. } => Outcome::Bootstrap(None),
        }
    }

    /// Where clients are sent; `None` while no leader is known.
    fn redirect(&self) -> Option<Outcome> {
        match self {
            Outside::Finding(_) | Outside::Bootstrapping(_) | Outside::Forcing(_) => None,
            Outside::Standby(standby) => standby.leader().map(standby::redirect_to),
            Outside::Stopped { redirect } => redirect.clone(),
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        match self {
            Outside::Finding(finder) => finder.next_deadline(),
            Outside::Bootstrapping(roll_call) => roll_call.next_deadline(),
            Outside::Forcing(forcing) => forcing.next_deadline(),
            Outside::Standby(standby) => standby.next_deadline(),
            Outside::Stopped { .. } => None,
        }
    }
}
