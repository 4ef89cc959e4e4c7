//! One member's replica: raft, the key space that its log produces, and the pending requests.
//!
//! This is the only place that knows both raft and the store. Must not know modes, sockets or
//! files: the owner is `machine`. A write on the leader takes these steps:
//!
//! 1. `on_request` (`requests`) proposes the command (`propose`), and the ticket waits in
//!    `pending`.
//! 2. `on_synced` and `on_message` let raft commit the entry.
//! 3. `advance` applies the entry (`apply`). The ticket leaves `pending` with its answer.
//! 4. `collect` gathers the outputs of raft and the store; the owner takes them by `outputs_mut`.
//!
//! The other parts:
//! - `reads`, `listings`: reads and watches of the applied key space.
//! - `locks`, `conversation`: the lock module, made of reads, watches and writes.
//! - `forwarding`: forwards to the leader the requests that only the leader can serve (`-forward`).
//! - `registry`: the views `/_etcd/machines` and `/_etcd/config`, and the rules for joins.
//! - `snapshotting`: snapshots, which release the log.
//! - `leadership`, `stats`, `speed_test`: the data of redirects, `/v2/stats` and `/v2/speedTest`.
//! - `overview`, `standbys`: the data of `/v2/cluster`.
//! - `figures`, `entry_times`: the data that only `/metrics` shows.
//! - `proposed`: commands proposed here, so that their entries are not decoded again.
//!
//! Start with [`Replica::on_request`] and [`Replica::advance`].
mod apply;
mod conversation;
mod entry_times;
mod figures;
mod forwarding;
mod join_pace;
mod leadership;
mod listings;
mod locks;
mod members;
mod overview;
mod pending;
mod propose;
mod proposed;
mod reads;
pub mod registry;
mod requests;
mod snapshotting;
mod speed_test;
mod standbys;
mod stats;

use crate::core::cluster_time::Stamp;
use crate::core::command::Origin;
use crate::core::peers::ProcessChange;
use crate::core::raft::{
    Configuration, HeartbeatReport, Index, Lsn, Message, PeerId, Raft, RaftConfig, RaftNotice,
    RaftOutput, RaftRole, RaftState, Rpc, StateSeq, Term, Violation,
};
use crate::core::seam::{
    Answer, Fact, Indexes, Order, Outcome, Outputs, Recovered, Role, Settings, SnapshotOut, Space,
    Ticket,
};
use crate::core::store::{Discarded, HistoryLimits, Notification, Store};
use crate::core::timer::{Now, earliest};
use join_pace::JoinPace;

/// One member's replica.
pub struct Replica {
    settings: Settings,
    raft: Raft,
    store: Store,
    /// The last entry that the key space contains; only rises.
    applied: Index,
    /// The commit index on the disk when this process started; never changes. No request is
    /// answered before it is applied: a former process may have shown that state.
    recovered: Index,
    /// When this process started, in nanoseconds since the Unix epoch.
    start_ns: u64,
    /// The removal of this machine is applied. Never reset.
    is_removed: bool,
    /// How fast joins are appended.
    join_pace: JoinPace,
    /// The last turn has left confirmed reads to the next one.
    has_ready_reads: bool,
    /// The key spaces that snapshots of a leader have replaced, until they are freed.
    discarded: Vec<Discarded>,
    /// Claims of peers about this member, not taken yet.
    claims: Vec<RaftNotice>,
    /// The disk has little room, by the last `on_space`. Snapshots are due at once and not paced.
    /// Writes are refused by `lacks_room`.
    is_disk_low: bool,
    /// The log on the disk can get longer, as far as is known.
    log_can_grow: bool,
    /// A write was refused for want of room on the disks of a majority, and none was taken since.
    lacked_room: bool,
    /// A write was refused for want of room in the key space, which has not shrunk since.
    is_store_full: bool,
    /// The configuration that was last reported by `Order::FollowMembers`.
    reported_configuration: Configuration,

    // -- parts
    leadership: leadership::Leadership,
    config: registry::ConfigState,
    pending: pending::Pending,
    locks: locks::Conversations,
    proposed: proposed::ProposedCommands,
    forwarding: forwarding::Forwarding,
    snapshotting: snapshotting::Snapshotting,
    statistics: stats::Statistics,
    entry_times: entry_times::EntryTimes,
    removed: members::RemovedMembers,
    standbys: standbys::Standbys,

    // -- outputs
    /// Peer URLs at which members say they are now; to be dialled.
    hints: Vec<Box<str>>,
    /// A file of the applied state was shown to a client since the last `collect`, without an
    /// answer in `outputs`.
    has_shown_file: bool,
    /// Raft's outputs on their way to `outputs`; empty between turns, kept for its memory.
    raft_output: RaftOutput,
    /// The store's events on their way to `outputs`; empty between turns, kept for its memory.
    store_notifications: Vec<Notification>,
    /// Outputs since the owner last took them by `outputs_mut`.
    outputs: Outputs,
}

impl Replica {
    /// Starts from the recovered snapshot and log, and applies every entry that the disk recorded
    /// as committed. `seed` is random: election timeouts and the ids of forwarded requests derive
    /// from it.
    ///
    /// # Panics
    ///
    /// If `recovered` breaks an invariant of the log, or a committed entry does not decode.
    pub fn new(settings: Settings, recovered: Recovered, seed: u64, now: Now) -> Replica {
        let limits = HistoryLimits {
            events: settings.history_events,
            bytes: settings.memory.history_bytes,
        };
        let empty = || (Default::default(), Store::new(limits));
        let (meta, mut store) = recovered.snapshot.unwrap_or_else(empty);
        store.bound_copies(settings.memory.copies_bytes);
        let applied = meta.index;
        let config = RaftConfig {
            id: recovered.id.expect("only a member has a replica"),
            heartbeat_ms: settings.heartbeat_ms,
            election_ms: settings.election_ms,
            memory: settings.memory,
            seed,
        };
        let state = RaftState {
            term: recovered.term,
            vote: recovered.vote,
            snapshot: meta,
            entries: recovered.entries,
            commit: recovered.commit,
            stamp: store.time().last(),
            free_bytes: recovered.free_bytes,
        };
        let raft = Raft::new(config, state, now);
        let term = raft.term();
        let entry_times = entry_times::EntryTimes::new(raft.last_index(), raft.committed());
        let mut replica = Replica {
            settings,
            raft,
            store,
            applied,
            recovered: recovered.commit,
            start_ns: now.wall_ns,
            is_removed: false,
            join_pace: JoinPace::new(now.mono_us),
            has_ready_reads: false,
            discarded: Vec::new(),
            claims: Vec::new(),
            is_disk_low: false,
            log_can_grow: true,
            lacked_room: false,
            is_store_full: false,
            reported_configuration: Configuration::default(),
            leadership: leadership::Leadership::new(now, term),
            config: registry::ConfigState::default(),
            pending: pending::Pending::default(),
            locks: locks::Conversations::default(),
            proposed: proposed::ProposedCommands::default(),
            forwarding: forwarding::Forwarding::new(seed, recovered.term),
            snapshotting: snapshotting::Snapshotting::new(recovered.snapshot_bytes),
            statistics: stats::Statistics::default(),
            entry_times,
            has_shown_file: false,
            removed: members::RemovedMembers::default(),
            standbys: standbys::Standbys::default(),
            hints: Vec::new(),
            raft_output: RaftOutput::default(),
            store_notifications: Vec::new(),
            outputs: Outputs::default(),
        };
        replica.restore_config();
        while replica.apply_committed() {}
        // A former process has reported these entries.
        replica.outputs.facts.clear();
        replica
    }
}

/// Inputs. Two more are in other files: `on_request` in `requests`, `on_snapshot` in
/// `snapshotting`.
impl Replica {
    /// A message came in over the link to `from`.
    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.statistics.on_received(now, &message);
        let term = message.term;
        match message.rpc {
            Rpc::Forward {
                process,
                number,
                command,
            } => {
                let id = Origin { process, number };
                self.on_forward(now, from, term, id, command);
            }
            Rpc::Forwarded {
                process,
                number,
                answer,
            } => {
                let id = Origin { process, number };
                self.on_forwarded(now, from, term, id, answer);
            }
            rpc => {
                let message = Message { term, rpc };
                if self.has_other_name(&message) {
                    return self.raft.refuse(from, Violation::OwnName);
                }
                self.raft.on_message(now, from, message);
            }
        }
    }

    /// Whether a message of a peer gives this member another name than that of its settings. A
    /// member that is in its own log has the name of the log.
    fn has_other_name(&self, message: &Message) -> bool {
        let own_id = self.raft.id();
        if self.raft.configuration().get(own_id).is_some() {
            return false;
        }
        let name = message.name_of(own_id);
        name.is_some_and(|name| name != self.settings.name)
    }

    /// A piece of a longer message came in over the link to `from`.
    pub fn on_contact(&mut self, now: Now, from: PeerId) {
        self.raft.on_partial_message(now, from);
    }

    /// A process of `peer` opened a link, is gone, has ended, or has answered a ping. A removed
    /// member that connects is sent the notice of its removal.
    pub fn on_link(&mut self, now: Now, peer: PeerId, change: ProcessChange) {
        match change {
            ProcessChange::RoundTrip { round_trip_us } => {
                return self.raft.on_round_trip(now, peer, round_trip_us);
            }
            ProcessChange::Ended => return self.raft.on_process_ended(now, peer),
            ProcessChange::Up | ProcessChange::Gone => {}
        }
        self.raft.on_link(now, peer, change == ProcessChange::Up);
        self.on_leader_link(peer, change);
        if change == ProcessChange::Up
            && let Some(notice) = self.raft.removal_notice(peer)
        {
            self.outputs.send.push((peer, notice));
        }
    }

    /// The term and vote `seq` is durable, by a sync of `took_us` microseconds.
    pub fn on_state_synced(&mut self, now: Now, seq: StateSeq, took_us: u64) {
        self.raft.on_state_synced(now, seq, took_us);
    }

    /// All records of the log up to `lsn` are durable, by a sync of `took_us` microseconds.
    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        self.raft.on_synced(now, lsn, took_us);
    }

    /// The time of `next_deadline` has come. Requests expire in `advance`.
    pub fn on_time(&mut self, now: Now) {
        self.raft.on_time(now);
    }

    /// The disk has little room, or enough again. A leader whose disk becomes low hands over.
    pub fn on_space(&mut self, now: Now, space: Space) {
        let is_low = space == Space::Low;
        if is_low == self.is_disk_low {
            return;
        }
        self.is_disk_low = is_low;
        if is_low {
            self.outputs.facts.push(Fact::DiskLow);
            self.hand_over(now);
        } else {
            self.outputs.facts.push(Fact::DiskOk);
        }
    }

    /// Whether the log on the disk can get longer.
    pub fn on_log_growth(&mut self, can_grow: bool) {
        self.log_can_grow = can_grow;
    }

    /// The log on the disk takes `free_bytes` bytes for certain, besides all that it was handed.
    pub fn on_room(&mut self, free_bytes: u64) {
        self.raft.on_room(free_bytes);
    }

    /// Starts to hand over leadership. Returns false if this member does not lead, or if no other
    /// voter can take over.
    pub fn hand_over(&mut self, now: Now) -> bool {
        self.raft.hand_over(now, None)
    }

    /// This machine stops serving: ends all pending requests, and refuses the proofs of leadership
    /// that followers wait for.
    pub fn close(&mut self) {
        self.deliver_events();
        for ticket in self.pending.tickets() {
            self.leave(ticket, pending::Ending::GivenUp);
        }
        self.end_conversations();
        self.fail_proofs();
    }
}

/// Outputs.
impl Replica {
    /// Applies committed entries, and does one turn's share of the work that takes several turns.
    pub fn advance(&mut self, now: Now) {
        self.maybe_report_role(now);
        let (last, committed) = (self.raft.last_index(), self.raft.committed());
        self.entry_times.on_turn(now, last, committed);
        self.apply_committed();
        self.entry_times.on_applied(now, self.applied);
        self.forward_held(now);
        self.retry_member_changes(now);
        self.continue_speed_tests(now);
        self.expire_pending(now);
        self.continue_locks(now);
        self.continue_snapshot(now);
        if self.store.wants_free() {
            self.store.free_some();
        }
        if let Some(discarded) = self.discarded.last_mut()
            && !discarded.free_some()
        {
            self.discarded.pop();
        }
        self.report_store_room();
    }

    /// Gathers the outputs of raft and the store for `outputs_mut`.
    pub fn collect(&mut self, now: Now) {
        self.raft.take_output(&mut self.raft_output);
        self.take_reads();
        self.serve_ready_reads(now);
        self.take_chunks();
        self.take_round_trips();
        self.claims.append(&mut self.raft_output.notices);
        self.deliver_events();
        self.report_members();
        let has_shown_file = std::mem::take(&mut self.has_shown_file);
        let has_answered = !self.outputs.answers.is_empty() || !self.outputs.events.is_empty();
        if has_shown_file || has_answered {
            self.raft.on_shown(now, self.applied);
        }
        for (_, message) in &self.raft_output.messages {
            self.statistics.on_sent(now, message);
        }
        let state = self.raft_output.state.take();
        self.outputs.state = state.or(self.outputs.state);
        let wanted_bytes = self.raft_output.wanted_room_bytes.take();
        self.outputs.wanted_room_bytes = self.outputs.wanted_room_bytes.max(wanted_bytes);
        self.outputs.persist.append(&mut self.raft_output.persist);
        self.outputs.send.append(&mut self.raft_output.messages);
        self.outputs.lsn = self.raft.lsn();
    }

    /// The outputs since the owner last emptied them. The owner takes them, and may add its own.
    pub fn outputs_mut(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    /// The peer URLs at which members say they are now, since the last call.
    pub fn take_hints(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.hints)
    }

    /// The reports about heartbeats since the last call.
    pub fn take_heartbeat_reports(&mut self) -> Vec<HeartbeatReport> {
        self.raft.take_heartbeat_reports()
    }

    /// Answers a ticket as of the present indexes. The answer goes to the conversation of the
    /// ticket, if there is one, else to the client.
    pub fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        let at = self.indexes();
        if self.locks.contains(ticket) {
            return self.locks.add_outcome(ticket, outcome, at.etcd);
        }
        self.statistics.on_answer(&outcome);
        self.outputs.answers.push(Answer {
            ticket,
            at,
            outcome,
        });
    }

    /// Passes on raft's requests to read snapshot chunks for other members, and the chunks received
    /// from the leader.
    fn take_chunks(&mut self) {
        for wanted in self.raft_output.chunks_wanted.drain(..) {
            self.outputs.snapshot.push(SnapshotOut::Read {
                to: wanted.to,
                index: wanted.index,
                offset: wanted.offset,
            });
        }
        for chunk in self.raft_output.chunks.drain(..) {
            self.outputs.snapshot.push(SnapshotOut::Receive {
                meta: chunk.meta,
                offset: chunk.offset,
                data: chunk.data,
                done: chunk.done,
            });
        }
    }

    fn take_round_trips(&mut self) {
        for (to, took_us) in self.raft_output.round_trips.drain(..) {
            self.statistics.on_round_trip(to, took_us);
        }
    }

    /// The claims of peers about this member since the last call.
    pub fn take_claims(&mut self) -> Vec<RaftNotice> {
        std::mem::take(&mut self.claims)
    }

    /// The messages since the last call that no correct peer sends; they were dropped.
    pub fn take_violations(&mut self) -> Vec<(PeerId, Violation)> {
        std::mem::take(&mut self.raft_output.violations)
    }

    /// The removal of this machine was applied.
    fn become_removed(&mut self) {
        self.is_removed = true;
    }

    fn report_members(&mut self) {
        if *self.raft.configuration() != self.reported_configuration {
            self.reported_configuration = self.raft.configuration().clone();
            self.outputs.orders.push(Order::FollowMembers);
        }
    }

    /// Reports a change of role, term or leader.
    fn maybe_report_role(&mut self, now: Now) -> bool {
        let own_id = self.raft.id();
        let role = self.raft.role();
        let term = self.raft.term();
        let leader = self.raft.leader();
        let change = self.leadership.update(now, own_id, role, term, leader);
        let Some(change) = change else {
            return false;
        };
        match role {
            RaftRole::Leader => self.report_leadership(term),
            RaftRole::Candidate => self.outputs.facts.push(Fact::BecameCandidate { term }),
            RaftRole::Follower if change.is_new_leader => {
                let leader = self.leader_name();
                let fact = Fact::BecameFollower { term, leader };
                self.outputs.facts.push(fact);
            }
            RaftRole::Follower | RaftRole::PreCandidate => {}
        }
        if role != RaftRole::Leader {
            // The next leader reports for itself.
            self.lacked_room = false;
        }
        self.statistics.on_leadership_change();
        self.hold_reads_of_former_leader();
        true
    }

    fn report_leadership(&mut self, term: Term) {
        self.outputs.facts.push(Fact::BecameLeader { term });
        if let Some(outage_ns) = self.raft.take_outage_ns() {
            let by_ms = outage_ns / 1_000_000;
            self.outputs.facts.push(Fact::ClockBridged { by_ms });
        }
    }

    /// Replaces the key space by the leader's snapshot, which contains the entries up to `applied`.
    fn replace_store(&mut self, store: Store, applied: Index) {
        let former = std::mem::replace(&mut self.store, store);
        self.discarded.push(Discarded::new(former));
        let copies_bytes = self.settings.memory.copies_bytes;
        self.store.bound_copies(copies_bytes);
        self.applied = applied;
        self.entry_times.on_snapshot(applied);
        self.raft.on_applied(applied, self.store.time().last());
        self.restore_config();
    }
}

/// State, for the owner.
impl Replica {
    /// Whether `advance` has more work now, without any input.
    pub fn wants_turn(&self) -> bool {
        self.applied < self.raft.committed()
            || self.has_ready_reads
            || !self.claims.is_empty()
            || self.raft.wants_appends()
            || self.raft.wants_chunks()
            || self.raft.wants_release()
            || self.awaits_slices()
            || self.store.wants_free()
            || !self.discarded.is_empty()
            || self.pending.has_speed_test_room()
            || self.locks.wants_turn()
    }

    /// The reading of the cluster clock, in nanoseconds; the wall clock while this member knows no
    /// time of the cluster.
    pub fn cluster_ns(&self, now: Now) -> u64 {
        self.raft.cluster_ns(now).unwrap_or(now.wall_ns)
    }

    /// The present moment, by the cluster clock and by the own wall clock.
    pub fn stamp(&self, now: Now) -> Stamp {
        Stamp::new(self.cluster_ns(now), now.wall_ns)
    }

    /// The time from which the rest of a ttl is counted, in nanoseconds since the Unix epoch.
    pub fn shown_ns(&self, now: Now) -> u64 {
        self.store.time().shown_ns(self.cluster_ns(now))
    }

    /// When `on_time` and `advance` have something to do, in microseconds of the monotonic clock.
    /// `None`: nothing waits for time.
    pub fn next_deadline(&self) -> Option<u64> {
        let pending_us = self.pending.next_deadline();
        let join_us = self.join_pace.free_us();
        let join_us = join_us.filter(|_| self.pending.has_member_changes());
        let forward_us = self.forwarding.next_deadline();
        earliest(&[
            pending_us,
            join_us,
            forward_us,
            self.snapshotting.next_deadline(),
            self.raft.next_deadline(),
        ])
    }

    /// Whether this machine may serve clients:
    /// - it has applied what it had recorded as committed before the start, so that it never shows
    ///   an older state than before,
    /// - a leader is known, and its commit index is applied here (`Raft::known_commit`),
    /// - if it leads: the cluster has its first config.
    pub fn is_ready(&self) -> bool {
        let is_leader = self.raft.role() == RaftRole::Leader;
        let has_config = self.config.in_force().is_some();
        self.has_recovered() && self.has_applied_known_commit() && (has_config || !is_leader)
    }

    /// Whether all entries are applied that the disk had recorded as committed before the start.
    pub fn has_recovered(&self) -> bool {
        self.applied >= self.recovered
    }

    /// Whether this member leads and has applied all entries of former leaders.
    pub fn leads(&self) -> bool {
        self.raft.role() == RaftRole::Leader && self.has_applied_known_commit()
    }

    fn has_applied_known_commit(&self) -> bool {
        let known = self.raft.known_commit();
        known.is_some_and(|commit| self.applied >= commit)
    }

    /// Whether another member leads.
    pub fn follows(&self) -> bool {
        self.raft.leader().is_some_and(|id| id != self.raft.id())
    }

    /// The role of this member, as the interface shows it.
    pub fn role(&self) -> Role {
        match self.raft.role() {
            RaftRole::Leader => Role::Leader,
            RaftRole::Follower => Role::Follower,
            RaftRole::PreCandidate | RaftRole::Candidate => Role::Candidate,
        }
    }

    /// The present indexes.
    pub fn indexes(&self) -> Indexes {
        Indexes {
            etcd: self.store.index(),
            commit: self.raft.committed(),
            term: self.raft.term(),
        }
    }

    /// The settings of this machine; they never change.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there was a leader since the start; it may have been this member.
    pub fn had_leader(&self) -> bool {
        self.leadership.had_leader()
    }

    /// Since when no leader is known, in microseconds of the monotonic clock: since the start, or
    /// since the last leader was given up. `None` if a leader is known, or was at the last
    /// `advance`.
    pub fn leaderless_us(&self) -> Option<u64> {
        match self.raft.leader() {
            Some(_) => None,
            None => self.leadership.leaderless_since_us(),
        }
    }

    /// Whether the removal of this machine is applied here.
    pub fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// This member's raft.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The key space as of `applied`.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Ends the replica and keeps its key space.
    pub fn into_store(self) -> Store {
        self.store
    }

    /// The last entry that the key space contains.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Whether the disk has little room.
    pub fn is_disk_low(&self) -> bool {
        self.is_disk_low
    }

    /// Whether no proposal and no forwarded request is pending.
    pub fn is_idle(&self) -> bool {
        self.pending.is_idle()
    }

    /// A redirect to the last leader other than this machine, if it is still a member.
    pub fn last_leader(&self) -> Option<Outcome> {
        self.redirect(self.leadership.last_other_leader())
    }

    /// A member's name; empty if there is no such member.
    pub fn name_of(&self, id: PeerId) -> Box<str> {
        match self.raft.configuration().get(id) {
            Some(member) => member.name.clone(),
            None => "".into(),
        }
    }

    /// The leader's name; empty if there is none.
    fn leader_name(&self) -> Box<str> {
        match self.raft.leader() {
            Some(id) => self.name_of(id),
            None => "".into(),
        }
    }

    /// Checks the invariants that span raft and the pending requests; O(1). Called after each
    /// input.
    ///
    /// # Panics
    ///
    /// If an invariant is broken.
    pub fn check_invariants(&self) {
        assert!(
            self.applied <= self.raft.committed(),
            "only committed entries are applied"
        );
        self.pending.check_invariants(self.applied);
    }
}
