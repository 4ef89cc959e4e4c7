//! Log replication on the leader (thesis 3.5, 3.6): appends to the peers, heartbeats, the commit
//! index. The follower's side is in `following`.
//!
//! What the leader has to send accumulates during a turn and is sent when the owner takes the
//! outputs (`Raft::replicate`), so that all proposals of a turn share their messages. The messages
//! leave before the leader's own sync: it is only one of the copies that a commit counts
//! (thesis 10.2.1). Start reading at `Raft::replicate`, then `Raft::on_append_reply`.
use super::message::{AppendAnswer, Entry, EntryBody, Index, Lsn, PeerId, Persist, Rpc, Term};
use super::round_trips::allowance_us;
use super::{HeartbeatReport, ProgressState, ProposalRefusal, Raft, RaftRole};
use crate::core::command::{self, Command, Origin};
use crate::core::timer::earliest;

/// Most bytes of entries in one message, unless a single entry is larger. The receiver handles
/// other messages between two appends.
const APPEND_BYTES_MAX: usize = 256 << 10;

/// No further append is sent in a turn after this many bytes of entries, to all peers together. To
/// encode them takes about a millisecond. The windows of all peers may have room for many times as
/// much.
const TURN_BYTES_MAX: usize = 1 << 20;

/// A record has room for so many entries at first. Under load a turn has dozens of proposals.
const ENTRIES_EXPECTED: usize = 16;

/// After this time without an append a leader sends heartbeats at twice the interval, in
/// microseconds: an idle cluster costs half the bytes and wake-ups.
const QUIET_US: u64 = 1_000_000;

/// While writes follow each other within this time, a commit index waits for the next append to carry
/// it, at most this long, in microseconds. In a message of its own it would wake each follower twice
/// for the writes of a turn.
const COMMIT_WAIT_US: u64 = 1_000;

/// What a leader keeps besides the progress of its peers.
#[derive(Default)]
pub struct LeaderState {
    /// The no-op that the leader appends when it begins to lead. `None` unless this member leads.
    ///
    /// Until it is committed, the leader may not know the commit index (thesis 6.4): it answers no
    /// read and changes no membership.
    first_entry: Option<Index>,

    /// When the next heartbeat is due, in microseconds of the monotonic clock. `None` unless this
    /// member leads.
    heartbeat_us: Option<u64>,

    /// When this leader last sent anything but a regular heartbeat, in microseconds of the monotonic
    /// clock.
    active_us: u64,

    /// The last heartbeat told the followers that the next one comes after twice the interval.
    is_quiet: bool,

    /// The size of the entries from `first_entry` on that are not committed, in bytes.
    uncommitted_bytes: usize,

    /// The place in the tracker from which on the next turn sends appends. `None` unless the last
    /// turn has left some out.
    unsent_from: Option<usize>,

    /// When this leader last appended an entry, in microseconds of the monotonic clock.
    appended_us: u64,

    /// The last two turns with entries were at most `COMMIT_WAIT_US` apart.
    is_busy: bool,

    /// The last entry that a follower has forwarded. Its client waits until the follower knows that it
    /// is committed.
    forwarded: Index,

    /// When peers are told of the commit index without an append, in microseconds of the monotonic
    /// clock. `None`: at once.
    commit_due_us: Option<u64>,

    /// Scratch memory: a command is encoded here first, so that its body is allocated once and at
    /// its size. Carries nothing from one command to the next.
    scratch: Vec<u8>,
}

impl LeaderState {
    /// This member leads from now on, with the no-op at `first_entry`.
    pub fn begin(&mut self, first_entry: Index, interval_us: u64, now_us: u64) {
        let heartbeat_us = now_us + interval_us;
        self.first_entry = Some(first_entry);
        self.heartbeat_us = Some(heartbeat_us);
        self.active_us = heartbeat_us;
        self.is_quiet = false;
        self.uncommitted_bytes = 0;
        self.appended_us = now_us;
        self.is_busy = false;
    }

    /// This member does not lead any more.
    pub fn end(&mut self) {
        self.first_entry = None;
        self.heartbeat_us = None;
        self.uncommitted_bytes = 0;
        self.unsent_from = None;
        self.commit_due_us = None;
    }

    /// How many bytes of entries are not committed; 0 unless this member leads.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted_bytes as u64
    }

    /// Whether this leader has committed an entry of its own term.
    pub fn has_committed(&self, commit: Index) -> bool {
        self.first_entry.is_some_and(|first| first <= commit)
    }

    /// When the next heartbeat or commit index is due; `None` unless this member leads.
    pub fn deadline_us(&self) -> Option<u64> {
        earliest(&[self.heartbeat_us, self.commit_due_us])
    }

    /// Whether a heartbeat is due.
    fn is_heartbeat_due(&self, now_us: u64) -> bool {
        self.heartbeat_us.is_some_and(|at_us| at_us <= now_us)
    }

    /// Something else than a regular heartbeat is sent: the next heartbeat is due after the ordinary
    /// interval.
    fn on_active(&mut self, interval_us: u64, now_us: u64) {
        self.active_us = now_us;
        if std::mem::take(&mut self.is_quiet) {
            let due_us = self
                .heartbeat_us
                .map(|at_us| at_us.min(now_us + interval_us));
            self.heartbeat_us = due_us;
        }
    }

    /// A heartbeat is due: plans the next one.
    fn plan_heartbeat(&mut self, interval_us: u64, now_us: u64) {
        self.is_quiet = now_us >= self.active_us + QUIET_US;
        let pause_us = self.longer_pause_us(interval_us) + interval_us;
        self.heartbeat_us = Some(now_us + pause_us);
    }

    /// How much longer than the interval the pause between two heartbeats is, in microseconds.
    fn longer_pause_us(&self, interval_us: u64) -> u64 {
        if self.is_quiet { interval_us } else { 0 }
    }

    /// Encodes a command of this leader into a body.
    fn encode(&mut self, command: &Command, origin: Option<Origin>) -> EntryBody {
        self.scratch.clear();
        match origin {
            Some(origin) => command::encode_forwarded(origin, command, &mut self.scratch),
            None => command::encode(command, &mut self.scratch),
        }
        self.uncommitted_bytes += self.scratch.len();
        EntryBody::Good(self.scratch.as_slice().into())
    }

    /// A body is not appended.
    fn forget(&mut self, body: &EntryBody) {
        if let EntryBody::Good(bytes) = body {
            self.uncommitted_bytes -= bytes.len();
        }
    }

    /// Whether proposals have to wait for commits: more bytes of entries than `bytes_max` are not
    /// committed.
    fn is_full(&self, bytes_max: usize) -> bool {
        self.uncommitted_bytes > bytes_max
    }

    /// An entry is appended at `index`, by a follower's client if it `is_forwarded`.
    fn on_append(&mut self, index: Index, is_forwarded: bool, now_us: u64) {
        if now_us != self.appended_us {
            self.is_busy = now_us <= self.appended_us + COMMIT_WAIT_US;
            self.appended_us = now_us;
        }
        if is_forwarded {
            self.forwarded = index;
        }
    }

    /// The commit index rises from `former`: plans when peers are told of it.
    fn plan_commit(&mut self, former: Index, now_us: u64) {
        let waits = self.is_busy && self.forwarded <= former;
        let due_us = if waits {
            now_us + COMMIT_WAIT_US
        } else {
            now_us
        };
        self.commit_due_us = earliest(&[self.commit_due_us, Some(due_us)]);
    }

    /// Whether peers are told of the commit index now, without an append.
    fn is_commit_due(&self, now_us: u64) -> bool {
        self.commit_due_us.is_none_or(|due_us| due_us <= now_us)
    }

    /// `entry` is committed.
    fn on_commit(&mut self, entry: &Entry) {
        if self.first_entry.is_some_and(|first| first <= entry.index) {
            self.uncommitted_bytes -= entry.size();
        }
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, leads: bool, last: Index) {
        assert_eq!(leads, self.first_entry.is_some(), "a leader has its no-op");
        assert_eq!(leads, self.heartbeat_us.is_some(), "a leader has a timer");
        assert!(leads || self.uncommitted_bytes == 0, "only a leader counts");
        if let Some(first) = self.first_entry {
            assert!(first <= last, "the no-op is in the log");
        }
    }
}

/// The leader's own log.
impl Raft {
    /// Whether a command may be appended now.
    ///
    /// All commands of a leader pass here, but for its no-op. One that the followers' check would
    /// refuse (`violation`) must not: once it is in the log, the cluster stops for good.
    ///
    /// The bounds on uncommitted bytes and on bytes that wait for a sync hold for clients' writes
    /// alone. These fill each gap, and would keep expiry and changes of the cluster off, which are
    /// short and few: the owner proposes one `Sync` at a time, and paces joins.
    pub(super) fn may_propose(&self, command: &Command) -> Result<(), ProposalRefusal> {
        if self.role != RaftRole::Leader {
            return Err(ProposalRefusal::NotLeader(self.leader));
        }
        if self.handover.is_pending() {
            return Err(ProposalRefusal::NotLeader(Some(self.id)));
        }
        if !command.is_sound() {
            return Err(ProposalRefusal::Unsound);
        }
        let is_full = self.leader_state.is_full(self.memory.uncommitted_bytes_max);
        if command.is_write() && (is_full || self.room.is_behind()) {
            return Err(ProposalRefusal::Busy);
        }
        Ok(())
    }

    /// Appends a command in this term. Returns its index.
    ///
    /// # Panics
    ///
    /// If this member does not lead.
    pub(super) fn append_command(&mut self, command: &Command) -> Index {
        let body = self.leader_state.encode(command, None);
        self.append_body(body, false)
    }

    /// Appends a command in this term if the log on the disk has room for it. Returns its index.
    ///
    /// # Panics
    ///
    /// If this member does not lead.
    pub(super) fn maybe_append_command(
        &mut self,
        command: &Command,
        origin: Option<Origin>,
    ) -> Option<Index> {
        let body = self.leader_state.encode(command, origin);
        if !self.has_room_for_body(body.size()) {
            self.leader_state.forget(&body);
            return None;
        }
        Some(self.append_body(body, origin.is_some()))
    }

    fn append_body(&mut self, body: EntryBody, is_forwarded: bool) -> Index {
        assert_eq!(self.role, RaftRole::Leader, "only a leader makes entries");
        let index = self.log.last_index().next();
        self.leader_state
            .on_append(index, is_forwarded, self.now_us);
        self.append(Entry {
            term: self.current_term,
            index,
            body,
        });
        index
    }

    /// Appends an entry to the log and to the records for the disk. Consecutive entries of one turn
    /// share a record.
    pub(super) fn append(&mut self, entry: Entry) {
        let lsn = self.persist_entry(&entry);
        let has_changed = self.membership.on_append(&entry);
        if has_changed && self.role == RaftRole::Leader {
            self.refresh_peers();
        }
        self.log.append(entry, lsn);
    }

    /// The commit mark for the log on the disk.
    fn commit_mark(&self) -> Index {
        self.log.commit_mark()
    }

    fn persist_entry(&mut self, entry: &Entry) -> Lsn {
        let mark = self.commit_mark();
        self.marks.on_marked(mark);
        if let Some(Persist::Append { entries, commit }) = self.out.persist.last_mut()
            && let Some(last) = entries.last()
            && last.index.next() == entry.index
        {
            entries.push(entry.clone());
            *commit = mark;
            self.consume_room_of(entry);
            return self.gate.last_record();
        }
        let mut entries = Vec::with_capacity(ENTRIES_EXPECTED);
        entries.push(entry.clone());
        self.persist(Persist::Append {
            entries,
            commit: mark,
        })
    }
}

/// Sending.
impl Raft {
    /// Sends each peer the entries after its last one, as far as its bounds and those of a turn
    /// allow. Called when the owner takes the outputs.
    pub(super) fn replicate(&mut self) {
        if self.role == RaftRole::Leader {
            self.maybe_start_round();
            self.send_appends(TURN_BYTES_MAX);
        }
        self.request_chunks();
    }

    /// Sends each peer the entries after its last one, as far as its bounds allow. After `bytes_max`
    /// bytes of entries the rest is left to the next turn, which begins with the next peer.
    pub(super) fn send_appends(&mut self, bytes_max: usize) {
        let first = self.leader_state.unsent_from.take().unwrap_or(0);
        let peers = self.tracker.len();
        let mut bytes = 0;
        for at in (first..first + peers).map(|place| place % peers) {
            while let Some(sent_bytes) = self.maybe_replicate_to(at) {
                bytes += sent_bytes;
                if bytes >= bytes_max {
                    self.leader_state.unsent_from = Some(at + 1);
                    return;
                }
            }
        }
        let commit = self.log.commit_index();
        let mut peers = self.tracker.iter();
        let lacks_commit = peers.any(|peer| peer.is_replicating() && peer.lacks_commit(commit));
        if !lacks_commit || self.leader_state.is_commit_due(self.now_us) {
            self.leader_state.commit_due_us = None;
        }
    }

    /// Whether `take_output` has further appends to send.
    pub fn wants_appends(&self) -> bool {
        self.leader_state.unsent_from.is_some()
    }

    /// Sends one append to the peer at `at` if there is something to send. Returns how many bytes of
    /// entries it has; `None` if nothing is sent.
    fn maybe_replicate_to(&mut self, at: usize) -> Option<usize> {
        let peer = self.tracker.at(at);
        let commit = self.log.commit_index();
        let end = peer.end(self.log.last_index(), commit);
        let is_probing = match peer.state() {
            ProgressState::Snapshot(_) => return None,
            ProgressState::Probe { .. } => true,
            ProgressState::Replicate => false,
        };
        // Looked at before all else, even if nothing may be sent now. When all appends in flight
        // are lost, only a heartbeat finds out, by comparing the logs; and if the entry to compare
        // is released, a heartbeat cannot.
        if self.log.term_at(peer.next().prev()).is_none() {
            if let Some(snapshot) = self.snapshots.sendable(&self.log) {
                self.tracker
                    .at_mut(at)
                    .become_snapshot(snapshot, self.now_us);
            }
            return None;
        }
        let next = self.log.get(peer.next()).filter(|_| peer.next() <= end);
        let bytes_max = self.memory.in_flight_bytes_max;
        let can_take =
            next.is_some_and(|entry| !peer.is_full(bytes_max) && peer.has_room_for(entry));
        let is_due = match peer.state() {
            ProgressState::Probe { is_sent } => !is_sent,
            _ if can_take => true,
            _ => peer.lacks_commit(commit) && self.leader_state.is_commit_due(self.now_us),
        };
        if !is_due {
            return None;
        }
        let mut entries = Vec::new();
        if can_take {
            let bytes_max = APPEND_BYTES_MAX.min(peer.unclaimed_bytes() as usize);
            entries = self.log.slice(peer.next(), end, bytes_max);
            peer.keep_what_fits(&mut entries);
        }
        let bytes = entries.iter().map(Entry::size).sum();
        let round = is_probing.then(|| self.reads.newest_round());
        self.on_active();
        self.send_append(at, entries, round);
        Some(bytes)
    }

    /// Something else than a regular heartbeat is sent.
    pub(super) fn on_active(&mut self) {
        self.leader_state
            .on_active(self.heartbeat_interval_us, self.now_us);
    }

    /// Sends one append to the peer at `at`, from its next entry on.
    fn send_append(&mut self, at: usize, entries: Vec<Entry>, round: Option<u64>) {
        let peer = self.tracker.at_mut(at);
        let mut prev_index = peer.next().prev();
        let mut prev_term = self.log.term_at(prev_index);
        if peer.is_in_snapshot() || prev_term.is_none() {
            // The logs cannot be compared now. A heartbeat is sent nevertheless: all logs agree at
            // index 0.
            prev_index = Index(0);
            prev_term = Some(Term(0));
        }
        let held_bytes = self.held_bytes(at, &entries);
        let peer = self.tracker.at_mut(at);
        let end = Index(prev_index.0 + entries.len() as u64);
        let commit = self.log.commit_index();
        peer.on_append_sent(end, &entries, commit, self.now_us);
        let to = peer.id();
        let round_trip_us = self.round_trips.of(to);
        let pause_us = self
            .leader_state
            .longer_pause_us(self.heartbeat_interval_us);
        let rpc = Rpc::AppendEntries {
            prev_index,
            prev_term: prev_term.expect("set above"),
            commit,
            acked: peer.matched(),
            round,
            sync_us: self.election.own_sync_us(),
            round_trip_us,
            pause_us: u32::try_from(pause_us).unwrap_or(u32::MAX),
            clock_ns: self.clock.reading_ns(self.now_us).unwrap_or(0),
            held_bytes,
            entries,
        };
        self.send(to, rpc);
    }

    /// The size of the peer's next entry if it is held back for want of room.
    fn held_bytes(&self, at: usize, entries: &[Entry]) -> Option<u64> {
        let peer = self.tracker.at(at);
        if !entries.is_empty() || peer.is_in_snapshot() {
            return None;
        }
        let next = self.log.get(peer.next())?;
        (!peer.has_room_for(next)).then_some(next.size() as u64)
    }

    /// Sends a heartbeat with the current round of reads to each peer.
    pub(super) fn send_heartbeats(&mut self) {
        let round = self.reads.newest_round();
        for at in 0..self.tracker.len() {
            self.tracker
                .at_mut(at)
                .on_heartbeat_sent(round, self.now_us);
            self.send_append(at, Vec::new(), Some(round));
        }
    }

    /// Sends heartbeats if they are due, and does all else that a leader does by time. Returns
    /// whether they were due.
    pub(super) fn maybe_heartbeat(&mut self) -> bool {
        if !self.leader_state.is_heartbeat_due(self.now_us) || self.tracker.is_empty() {
            return false;
        }
        if self.maybe_step_down() {
            return true;
        }
        self.leader_state
            .plan_heartbeat(self.heartbeat_interval_us, self.now_us);
        self.maybe_hand_over();
        self.drop_left();
        self.retry_chunks();
        for peer in self.tracker.iter_mut() {
            if peer.is_leaving() {
                continue;
            }
            let line_us = allowance_us(self.round_trips.of(peer.id()));
            let on_the_way = line_us / self.heartbeat_interval_us;
            if let Some(count) = peer.count_heartbeat(on_the_way) {
                let id = peer.id();
                let report = HeartbeatReport::Missed { id, count };
                self.heartbeat_reports.push(report);
            }
        }
        self.send_heartbeats();
        true
    }

    fn drop_left(&mut self) {
        self.tracker.drop_left(self.log.commit_index(), self.now_us);
    }
}

/// Replies and the commit index.
impl Raft {
    /// A peer answered an append of this term.
    pub(super) fn on_append_reply(
        &mut self,
        from: PeerId,
        round: Option<u64>,
        (sync_us, free_bytes): (u32, u64),
        answer: AppendAnswer,
    ) {
        let last = self.log.last_index();
        let Some(at) = self.tracker.position(from) else {
            return;
        };
        let peer = self.tracker.at_mut(at);
        peer.on_reply(round, sync_us, free_bytes, self.now_us);
        match answer {
            AppendAnswer::Accepted {
                verified,
                matched,
                want_snapshot,
            } if matched <= last && verified <= last => {
                let append_us = peer.on_matched(matched, self.now_us);
                let heartbeat_us =
                    round.and_then(|round| peer.take_heartbeat_round_trip(round, self.now_us));
                for took_us in append_us.into_iter().chain(heartbeat_us) {
                    self.out.round_trips.push((from, Some(took_us)));
                }
                self.on_accepted(at, verified, want_snapshot);
            }
            AppendAnswer::Rejected {
                prev,
                hint,
                hint_term,
            } => self.on_rejected(at, prev, hint, hint_term),
            // An acknowledgement past this leader's log is a protocol violation. It counts as a
            // sign of life only.
            AppendAnswer::Accepted { .. } | AppendAnswer::Stale => {}
        }
        self.maybe_finish_reads();
    }

    /// The peer at `at` has the entries up to `verified`. Its progress is updated already.
    fn on_accepted(&mut self, at: usize, verified: Index, want_snapshot: bool) {
        let peer = self.tracker.at_mut(at);
        let id = peer.id();
        let matched = peer.matched();
        match peer.state() {
            ProgressState::Probe { .. } => peer.become_replicate(verified.next()),
            ProgressState::Snapshot(_) => {
                let is_installed = peer.snapshot_index().is_some_and(|index| matched >= index);
                if is_installed && !want_snapshot {
                    peer.become_replicate(verified.next());
                }
            }
            ProgressState::Replicate if want_snapshot => {
                if let Some(snapshot) = self.snapshots.sendable(&self.log) {
                    peer.become_snapshot(snapshot, self.now_us);
                }
            }
            ProgressState::Replicate => {}
        }
        self.maybe_commit();
        self.drop_left();
        self.maybe_promote(id);
        self.maybe_hand_over();
    }

    /// The peer at `at` does not have the entry at `prev`. The next append probes before it, at the
    /// last entry where the logs can agree: a term at a time on both sides (thesis 3.5, the last
    /// paragraphs).
    fn on_rejected(&mut self, at: usize, prev: Index, hint: Index, hint_term: Term) {
        let peer = self.tracker.at_mut(at);
        if peer.is_stale_rejection(prev) {
            return;
        }
        let (index, _) = self.log.find_conflict(hint, hint_term);
        peer.become_probe(index.min(prev.prev()).next());
        self.out.round_trips.push((peer.id(), None));
    }

    /// Commits the entries that are durable on a majority (thesis 3.6.2). Returns whether it did.
    ///
    /// - Only an entry of the current term is committed by counting. The entries before it are
    ///   committed with it (thesis figure 3.7).
    /// - A leader that is being removed does not count itself (thesis 4.2.2).
    /// - Nothing is counted before the latest configuration is durable here. `repair` relies on it:
    ///   a leader that counts by a configuration has it on its disk.
    pub(super) fn maybe_commit(&mut self) -> bool {
        let own = self.counted();
        if self.role != RaftRole::Leader || own < self.membership.latest_index() {
            return false;
        }
        let Some(index) = self.highest_on_majority(own) else {
            return false;
        };
        let is_of_term = self.log.term_at(index) == Some(self.current_term);
        if index <= self.log.commit_index() || !is_of_term {
            return false;
        }
        self.on_commit(index);
        true
    }

    /// The highest index that is durable on a majority, `own` on this machine.
    ///
    /// The few voters are compared pairwise: this runs for each write, and a list of them to sort
    /// would be an allocation.
    fn highest_on_majority(&self, own: Index) -> Option<Index> {
        let counts_itself = self.configuration().is_voter(self.id);
        let peers = self.tracker.iter();
        let peers = peers.filter(|peer| peer.is_voter());
        let durable = counts_itself.then_some(own).into_iter();
        let durable = durable.chain(peers.map(|peer| peer.matched()));
        let majority = self.configuration().majority();
        let has_majority = |at: &Index| durable.clone().filter(|d| d >= at).count() >= majority;
        durable.clone().filter(has_majority).max()
    }

    /// The last entry that this leader may count as durable on itself.
    fn counted(&self) -> Index {
        self.log.durable()
    }

    fn on_commit(&mut self, index: Index) {
        for entry in self.log.iter_from(self.log.commit_index().next()) {
            if entry.index > index {
                break;
            }
            self.leader_state.on_commit(entry);
        }
        self.leader_state
            .plan_commit(self.log.commit_index(), self.now_us);
        self.log.commit_to(index);
        self.maybe_finish_without_round();
        self.maybe_finish_reads();
        self.on_change_committed();
    }
}
