//! One member's replica: raft, the key space that its log makes, and the clients that wait for
//! either.
//!
//! It alone knows both raft and the store: proposals go into the log (`asking`) and wait (`parked`)
//! until their entries are committed and carried out (`applying`); reads and watchers (`reading`)
//! look at what is applied; what only the leader can do is passed on to it (`forwarding`);
//! snapshots let the log go (`saving`). Answers and other outputs gather in `effects` until
//! `advance` hands them out. Start there.
mod apply;
mod forwarding;
mod pending;
mod propose;
mod reads;
pub mod registry;
mod requests;
mod snapshotting;
mod speed_test;
mod stats;

use crate::core::command::ClusterConfig;
use crate::core::raft::{
    Configuration, HeartbeatReport, Index, Lsn, Message, PeerId, Raft, RaftConfig, RaftNotice,
    RaftOutput, RaftRole, RaftState, Term,
};
use crate::core::seam::{
    Answer, Effects, Fact, Indexes, LinkState, Outcome, Recovered, Role, Settings, SnapshotOut,
    Space, Ticket,
};
use crate::core::store::{self, HistoryLimits, Store};
use crate::core::timer::Now;

/// Bytes of events that are kept for watchers (BEHAVIOUR: watching).
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// One member's replica.
pub struct Replica {
    settings: Settings,
    raft: Raft,
    store: Store,
    /// The last entry that the key space holds.
    applied: Index,
    /// Entries up to here were committed before the start: nothing is answered before they are
    /// applied.
    recovered: Index,
    /// The cluster config in force; `None` in a new cluster until its first one is applied.
    config: Option<ClusterConfig>,
    /// The newest config that this leadership has proposed.
    proposed: Option<(Term, ClusterConfig)>,
    parked: pending::Parked,
    forwarding: forwarding::Forwarding,
    changes: propose::Changes,
    readers: reads::Readers,
    speed_tests: Vec<speed_test::SpeedTest>,
    saving: snapshotting::Saving,
    disk_low: bool,
    figures: stats::Figures,
    seen: Seen,
    /// When this machine started, in nanoseconds since the Unix epoch.
    start_ns: u64,
    /// The members as they were told last.
    told_members: Configuration,
    /// What raft told of this member.
    standing: Standing,
    out: RaftOutput,
    notices: Vec<store::Notification>,
    effects: Effects,
}

/// Whether this machine belongs to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Member,
    /// Its removal is committed.
    Removed,
    /// Its data is an old copy: it must come back as a new member.
    Amnesiac,
}

/// The role and leader that were told last.
struct Seen {
    role: RaftRole,
    term: Term,
    leader: PeerId,
    leader_ns: u64,
    /// The last leader other than this machine.
    last_leader: PeerId,
    /// There was a leader, be it this machine.
    had_leader: bool,
    /// When there was one last; before the first, the start.
    led_us: u64,
}

impl Replica {
    /// Takes up what the disk holds, and applies what is known to be committed.
    pub fn new(settings: Settings, recovered: Recovered, seed: u64, now: Now) -> Replica {
        let limits = HistoryLimits {
            events: settings.history_events,
            bytes: HISTORY_BYTES_MAX,
        };
        let empty = || (Default::default(), Store::new(limits));
        let (meta, store) = recovered.snapshot.unwrap_or_else(empty);
        let applied = meta.index;
        let config = RaftConfig {
            id: recovered.id,
            heartbeat_ms: settings.heartbeat_ms,
            election_ms: settings.election_ms,
            seed,
        };
        let state = RaftState {
            term: recovered.term,
            vote: Some(recovered.vote).filter(|id| *id != PeerId::NONE),
            snapshot: meta,
            entries: recovered.entries,
            commit: recovered.commit,
        };
        let raft = Raft::new(config, state, now);
        let mut replica = Replica {
            settings,
            told_members: Configuration::default(),
            seen: Seen {
                role: RaftRole::Follower,
                term: raft.term(),
                leader: PeerId::NONE,
                leader_ns: now.wall_ns,
                last_leader: PeerId::NONE,
                had_leader: false,
                led_us: now.mono_us,
            },
            raft,
            store,
            applied,
            recovered: recovered.commit,
            config: None,
            proposed: None,
            parked: Default::default(),
            forwarding: forwarding::Forwarding::new(seed, recovered.term),
            changes: Default::default(),
            readers: Default::default(),
            speed_tests: Vec::new(),
            saving: snapshotting::Saving::new(recovered.snapshot_bytes),
            disk_low: false,
            figures: Default::default(),
            start_ns: now.wall_ns,
            standing: Standing::Member,
            out: RaftOutput::default(),
            notices: Vec::new(),
            effects: Effects::default(),
        };
        replica.config = replica.kept_config();
        while replica.apply_some() {}
        // They were told when they happened.
        replica.effects.facts.clear();
        replica.effects.members_changed = true;
        replica
    }

    // -- inputs

    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.figures.on_received(now, &message);
        self.on_passed(now, from, message);
    }

    pub fn on_contact(&mut self, now: Now, from: PeerId) {
        self.raft.on_piece(now, from);
    }

    /// A link opened or closed; one from a removed member is told so.
    pub fn on_link(&mut self, now: Now, peer: PeerId, state: LinkState) {
        self.raft.on_link(now, peer, state == LinkState::Up);
        if state == LinkState::Closed {
            self.lose_passed(Some(peer));
        }
        if state == LinkState::Up
            && let Some(notice) = self.raft.removal_notice(peer)
        {
            self.effects.send.push((peer, notice));
        }
    }

    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        self.raft.on_synced(now, lsn, took_us);
    }

    pub fn on_time(&mut self, now: Now) {
        self.raft.on_time(now);
    }

    /// With little room a leader hands over; client writes wait for better times.
    pub fn on_space(&mut self, now: Now, space: Space) {
        let low = space == Space::Low;
        if low == self.disk_low {
            return;
        }
        self.disk_low = low;
        let fact = if low { Fact::DiskLow } else { Fact::DiskOk };
        self.effects.facts.push(fact);
        if low {
            self.hand_over(now);
        }
    }

    /// The client went away: frees whatever its ticket holds.
    pub fn forget(&mut self, ticket: Ticket) {
        if self.forget_reader(ticket) {
            return;
        }
        self.parked.forget(ticket);
        self.forwarding.forget(ticket);
        self.changes.forget(ticket);
        self.speed_tests.retain(|t| t.ticket != ticket);
    }

    /// Starts handing over leadership; false when there is nobody to hand it to.
    pub fn hand_over(&mut self, now: Now) -> bool {
        self.raft.hand_over(now, None)
    }

    // -- outputs

    /// Carries out what is committed, then everything that follows from it.
    pub fn advance(&mut self, now: Now) {
        self.look_at_role(now);
        self.apply_some();
        self.retry_changes(now);
        self.pump_speed_tests(now);
        self.expire_proposals(now);
        self.expire_passed(now);
        self.save_some(now);
        self.serve_listings(now);
        if self.store.wants_free() {
            self.store.free_some();
        }
    }

    /// Gathers what raft and the key space leave, for `effects_mut`.
    pub fn collect(&mut self, now: Now) {
        self.raft.take_output(&mut self.out);
        self.take_reads();
        self.serve_reads(now);
        self.take_chunks();
        self.take_notices();
        self.deliver();
        self.tell_members();
        for (_, message) in &self.out.messages {
            self.figures.on_sent(now, message);
        }
        self.effects.persist.append(&mut self.out.persist);
        self.effects.send.append(&mut self.out.messages);
        self.effects.lsn = self.raft.lsn();
    }

    /// The outputs that have gathered.
    pub fn effects_mut(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// Pieces of snapshots, and how appends went.
    fn take_chunks(&mut self) {
        for wanted in self.out.chunks_wanted.drain(..) {
            self.effects.snapshot.push(SnapshotOut::Read {
                to: wanted.to,
                index: wanted.index,
                offset: wanted.offset,
            });
        }
        for chunk in self.out.chunks.drain(..) {
            self.effects.snapshot.push(SnapshotOut::Receive {
                meta: chunk.meta,
                offset: chunk.offset,
                data: chunk.data,
                done: chunk.done,
            });
        }
        for (to, took_us) in self.out.round_trips.drain(..) {
            self.figures.on_round_trip(to, took_us);
        }
    }

    fn take_notices(&mut self) {
        for notice in self.out.notices.drain(..) {
            match notice {
                RaftNotice::Removed => self.standing = Standing::Removed,
                RaftNotice::Amnesia => self.standing = Standing::Amnesiac,
            }
        }
    }

    fn tell_members(&mut self) {
        if *self.raft.configuration() != self.told_members {
            self.told_members = self.raft.configuration().clone();
            self.effects.members_changed = true;
        }
    }

    /// Notes a change of role or leader, and drops what belonged to the former leadership.
    fn look_at_role(&mut self, now: Now) {
        let (role, term, leader) = (
            self.raft.role(),
            self.raft.term(),
            self.raft.leader().unwrap_or(PeerId::NONE),
        );
        let seen = &mut self.seen;
        if (role, term, leader) == (seen.role, seen.term, seen.leader) {
            return;
        }
        let new_leader = leader != PeerId::NONE && (leader, term) != (seen.leader, seen.term);
        if leader != PeerId::NONE && leader != seen.leader {
            seen.leader_ns = now.wall_ns;
        }
        if leader != PeerId::NONE && leader != self.raft.id() {
            seen.last_leader = leader;
        }
        if leader != PeerId::NONE || seen.leader != PeerId::NONE {
            (seen.had_leader, seen.led_us) = (true, now.mono_us);
        }
        (seen.role, seen.term, seen.leader) = (role, term, leader);
        let fact = match role {
            RaftRole::Leader => Some(Fact::BecameLeader { term }),
            RaftRole::Candidate => Some(Fact::BecameCandidate { term }),
            RaftRole::Follower if new_leader => Some(Fact::BecameFollower {
                term,
                leader: self.name_of(leader),
            }),
            RaftRole::Follower | RaftRole::PreCandidate => None,
        };
        self.effects.facts.extend(fact);
        self.figures.on_new_leader();
        self.pass_held(now);
    }

    /// Ends everything that waits here: this machine serves no more.
    pub fn close(&mut self) {
        self.end_readers();
        self.fail_reads();
        let mut lost = Vec::new();
        self.parked.take_all(&mut lost);
        self.tell_lost(lost);
        self.lose_passed(None);
        self.fail_changes();
    }

    // -- what it is

    /// Whether there is work left that waits for nothing.
    pub fn wants_turn(&self) -> bool {
        self.applied < self.raft.committed()
            || self.saving.wants_turn()
            || self.store.wants_free()
            || self.speed_tests.iter().any(|t| t.has_room())
    }

    pub fn next_deadline(&self) -> u64 {
        let own = self.parked.next_deadline();
        let own = own.min(self.readers.next_deadline());
        let own = own
            .min(self.changes.next_deadline())
            .min(self.forwarding.next_deadline());
        own.min(self.raft.next_deadline().unwrap_or(u64::MAX))
    }

    /// Whether what is applied here is what the cluster had committed when this machine came up: an
    /// older state than it had shown before is never shown.
    pub fn is_ready(&self) -> bool {
        let known = self.raft.known_commit();
        self.applied >= self.recovered
            && known.is_some_and(|commit| self.applied >= commit)
            && (self.config.is_some() || self.raft.role() != RaftRole::Leader)
    }

    /// Whether everything that was committed before the start is applied.
    pub fn has_recovered(&self) -> bool {
        self.applied >= self.recovered
    }

    /// Leads, and has applied everything of its predecessors.
    pub fn leads(&self) -> bool {
        let known = self.raft.known_commit();
        self.raft.role() == RaftRole::Leader && known.is_some_and(|commit| self.applied >= commit)
    }

    pub fn role(&self) -> Role {
        match self.raft.role() {
            RaftRole::Leader => Role::Leader,
            RaftRole::Follower => Role::Follower,
            RaftRole::PreCandidate | RaftRole::Candidate => Role::Candidate,
        }
    }

    pub fn indexes(&self) -> Indexes {
        Indexes {
            etcd: self.store.index(),
            commit: self.raft.committed(),
            term: self.raft.term(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it has led or followed since it came up.
    pub fn had_leader(&self) -> bool {
        self.seen.had_leader
    }

    /// Since when no leader is known: this machine's start, or when the last one was given up.
    /// `None`: there is one.
    pub fn leaderless_us(&self) -> Option<u64> {
        // One that is gone since the last `advance` is known there still.
        let leaderless = self.raft.leader().is_none() && self.seen.leader == PeerId::NONE;
        leaderless.then_some(self.seen.led_us)
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn applied(&self) -> Index {
        self.applied
    }

    pub fn is_disk_low(&self) -> bool {
        self.disk_low
    }

    /// Whether no proposal waits, here or at the leader.
    pub fn is_idle(&self) -> bool {
        self.parked.is_empty() && self.forwarding.is_empty()
    }

    /// The last leader other than this machine, as far as it is still known.
    pub fn last_leader(&self) -> Option<Outcome> {
        self.redirect(Some(self.seen.last_leader))
    }

    /// What is there to tell of heartbeats, taken out.
    pub fn take_heartbeat_reports(&mut self) -> Vec<HeartbeatReport> {
        self.raft.take_heartbeat_reports()
    }

    /// A member's name; empty when there is none.
    pub fn name_of(&self, id: PeerId) -> Box<str> {
        let member = self.raft.configuration().get(id);
        member.map_or("", |m| &m.name).into()
    }

    /// Answers a ticket as of now.
    pub fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        let at = self.indexes();
        self.effects.answers.push(Answer {
            ticket,
            at,
            outcome,
        });
    }

    /// Whether another machine leads.
    pub fn follows(&self) -> bool {
        self.raft.leader().is_some_and(|id| id != self.raft.id())
    }

    /// Plants a bug.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Option<crate::core::raft::fault::RaftFault>) {
        self.raft.plant(fault);
    }

    /// Plants a bug in the key space.
    #[cfg(feature = "faults")]
    pub fn plant_in_store(&mut self, fault: Option<crate::core::store::fault::StoreFault>) {
        self.store.plant(fault);
    }

    /// Closes each input.
    pub fn check_invariants(&self) {
        assert!(
            self.applied <= self.raft.committed(),
            "only what is committed applies"
        );
        self.parked.check_invariants(self.applied);
        self.readers.check_invariants();
        self.forwarding.check_invariants();
    }
}
