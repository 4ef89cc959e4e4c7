//! What a leader knows of one peer, and how it sends to it (thesis figure 3.1, 5; the states are
//! those of etcd-io/raft, `tracker/progress.go`).
//!
//! The log that the peer has is uncertain when a leader starts, so it probes; then it sends ahead
//! of the replies; and if the entries that the peer needs are released, it sends its snapshot.
//! Start reading at [`ProgressState`], then [`Progress`].
use std::collections::VecDeque;

use super::message::{Entry, Index, PeerId, SnapshotMeta};
use super::room::{CLIENT_RESERVE_BYTES, ENTRY_RESERVE_BYTES, FREE_BYTES_MAX, entry_cost};
use super::sync_times::SyncTimes;

/// Most appends with entries on the way to one peer.
const IN_FLIGHT_MESSAGES_MAX: usize = 64;

/// A chunk of a snapshot is waited for so many times as long as usual at most.
const CHUNK_WAITS_MAX: u64 = 16;

/// A snapshot that was refused for want of room is offered again after this time, in microseconds.
const OFFER_US: u64 = 500_000;

/// A transfer that has got no further for this time, in microseconds, is stuck. Heartbeats go on
/// while the disk of a receiver hangs, or while it refuses a damaged file: that it is heard says
/// nothing of the transfer. After the last chunk it gets no further either while the receiver installs
/// the snapshot, which takes seconds.
const STUCK_US: u64 = 30_000_000;

/// How entries reach a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// `next` is a guess. One append is sent, and no other before its reply or the next heartbeat.
    Probe {
        /// Whether the append is sent.
        is_sent: bool,
    },
    /// The logs agree up to the entry before `next`. Appends are sent ahead of the replies.
    Replicate,
    /// The peer needs entries that are released here. The snapshot is sent instead.
    Snapshot(SnapshotTransfer),
}

/// The sending of a snapshot, one chunk at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTransfer {
    /// The snapshot. Stays the same when a newer one is saved, so that the transfer does not start
    /// over.
    meta: SnapshotMeta,
    /// The first byte of the chunk that the peer wants.
    offset: u64,
    /// The largest `offset` since the link opened.
    reached: u64,
    /// When that was reached, in microseconds of the monotonic clock.
    reached_us: u64,
    /// When the owner was asked to read that chunk, in microseconds of the monotonic clock. `None`:
    /// not yet, or it is to be asked again.
    asked_us: Option<u64>,
    /// The chunk is waited for so many times as long as usual. Doubles, up to `CHUNK_WAITS_MAX`,
    /// when a peer that is heard has not confirmed it: on a slow line the copies of one chunk would
    /// keep off the next one. Stays for the chunks after it.
    waits: u64,
    /// The peer has no room for the snapshot. It is offered again every `OFFER_US` and keeps no
    /// entries. Ends when the peer wants a later chunk.
    is_refused: bool,
}

impl SnapshotTransfer {
    /// The transfer of `meta` from its first byte on.
    fn new(meta: &SnapshotMeta, now_us: u64) -> SnapshotTransfer {
        SnapshotTransfer {
            meta: meta.clone(),
            offset: 0,
            reached: 0,
            reached_us: now_us,
            asked_us: None,
            waits: 1,
            is_refused: false,
        }
    }

    fn is_stuck(&self, now_us: u64) -> bool {
        now_us > self.reached_us + STUCK_US
    }
}

/// An append with entries that is not acknowledged yet.
struct InFlight {
    /// Its last entry.
    last: Index,
    /// The size of its entries in bytes.
    bytes: usize,
    /// The most bytes that they take in the peer's log on the disk.
    cost_bytes: u64,
    /// When it was sent.
    sent_us: u64,
}

/// A heartbeat whose reply is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimedHeartbeat {
    /// The round that it carries.
    round: u64,
    /// When it was sent, in microseconds of the monotonic clock.
    sent_us: u64,
}

/// The removal of a peer from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaving {
    /// The entry that takes the peer out of the configuration.
    removal: Index,
    /// Until when the peer is still sent entries, in microseconds of the monotonic clock. `None`
    /// until the removal is committed.
    until_us: Option<u64>,
}

/// A learner catches up in rounds: each ends when it has the entries that the leader had when the
/// round began (thesis 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CatchUpRound {
    /// The leader's last entry when the round began.
    goal: Index,
    /// When it began, in microseconds of the monotonic clock.
    since_us: u64,
}

/// One peer as the leader sees it.
///
/// All times are in microseconds of the monotonic clock.
pub struct Progress {
    id: PeerId,

    /// Whether the peer counts for majorities, in the latest configuration.
    is_voter: bool,

    /// The last entry that is durable on the peer, as far as it has acknowledged. Only rises.
    matched: Index,

    /// The first entry of the next append; after `matched`.
    next: Index,

    state: ProgressState,

    /// The highest commit index that an append to the peer carried and that it could use, as it had
    /// the entries.
    commit_sent: Index,

    /// The last heartbeat round that the peer has answered (thesis 6.4).
    round: u64,

    /// When the last message of the peer arrived, or when this progress began.
    heard_us: u64,

    /// When the first message was sent that the peer must answer at once and has not. `None`: it
    /// has answered all.
    awaiting_since_us: Option<u64>,

    /// Whether the peer has answered this leader at all.
    has_answered: bool,

    /// Heartbeats that were sent since the peer was heard.
    unanswered: u64,

    /// The heartbeat whose round trip is measured. `None` until the next one is sent.
    timed_heartbeat: Option<TimedHeartbeat>,

    /// The second slowest recent sync of the peer, as its last reply told, in microseconds.
    sync_us: u32,

    /// The present round, once a learner replicates.
    catch_up: Option<CatchUpRound>,

    /// Set once the latest configuration does not have the peer.
    leaving: Option<Leaving>,

    /// The appends with entries on the way, in order of index. Empty unless replicating.
    in_flight: VecDeque<InFlight>,

    /// The sum of their bytes.
    in_flight_bytes: usize,

    /// The sum of their costs in the log, in bytes.
    in_flight_cost_bytes: u64,

    /// How many bytes the peer's log on the disk still takes, as its last reply told; at most
    /// `FREE_BYTES_MAX`, which also stands before the first reply. 0: the peer is behind its disk.
    free_bytes: u64,
}

impl Progress {
    /// A peer of which nothing is known. Probing begins at `next`.
    pub fn new(id: PeerId, is_voter: bool, next: Index, now_us: u64) -> Progress {
        Progress {
            id,
            is_voter,
            matched: Index(0),
            next,
            state: ProgressState::Probe { is_sent: false },
            commit_sent: Index(0),
            round: 0,
            heard_us: now_us,
            awaiting_since_us: Some(now_us),
            has_answered: false,
            unanswered: 0,
            timed_heartbeat: None,
            sync_us: 0,
            catch_up: None,
            leaving: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            in_flight_cost_bytes: 0,
            free_bytes: FREE_BYTES_MAX,
        }
    }

    // -- what is known

    /// The peer's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Whether the peer counts for majorities.
    pub fn is_voter(&self) -> bool {
        self.is_voter
    }

    /// The last entry that is durable on the peer, as far as it has acknowledged.
    pub fn matched(&self) -> Index {
        self.matched
    }

    /// The first entry of the next append.
    pub fn next(&self) -> Index {
        self.next
    }

    /// How entries reach the peer.
    pub fn state(&self) -> &ProgressState {
        &self.state
    }

    /// Whether appends are sent ahead of the replies.
    pub fn is_replicating(&self) -> bool {
        self.state == ProgressState::Replicate
    }

    /// Whether the peer is sent a snapshot.
    pub fn is_in_snapshot(&self) -> bool {
        self.snapshot_index().is_some()
    }

    /// The last entry of the snapshot that the peer is being sent, unless it has refused it for want
    /// of room or the transfer is stuck. The entries after it are kept.
    pub fn kept_snapshot_index(&self, now_us: u64) -> Option<Index> {
        match &self.state {
            ProgressState::Snapshot(transfer)
                if !transfer.is_refused && !transfer.is_stuck(now_us) =>
            {
                Some(transfer.meta.index)
            }
            _ => None,
        }
    }

    /// The last entry of the snapshot that the peer is sent.
    pub fn snapshot_index(&self) -> Option<Index> {
        match &self.state {
            ProgressState::Snapshot(transfer) => Some(transfer.meta.index),
            ProgressState::Probe { .. } | ProgressState::Replicate => None,
        }
    }

    /// The last heartbeat round that the peer has answered.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// When the last message of the peer arrived, or when this progress began, in microseconds of
    /// the monotonic clock.
    pub fn heard_us(&self) -> u64 {
        self.heard_us
    }

    /// Since when a message that must be answered at once is not answered.
    pub fn awaiting_since_us(&self) -> Option<u64> {
        self.awaiting_since_us
    }

    /// Whether the peer has answered this leader at all.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// The second slowest recent sync of the peer, in microseconds.
    pub fn sync_us(&self) -> u32 {
        self.sync_us
    }

    /// Whether the latest configuration does not have the peer.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the bound on appends in flight is reached. `bytes_max` bounds the bytes of their
    /// entries: the link and its receiver must be able to hold them.
    pub fn is_full(&self, bytes_max: usize) -> bool {
        self.in_flight.len() >= IN_FLIGHT_MESSAGES_MAX || self.in_flight_bytes >= bytes_max
    }

    /// How many bytes the peer's log takes beyond what is on the way to it, in bytes.
    pub fn unclaimed_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.in_flight_cost_bytes)
    }

    /// Whether the peer takes no entries because too many records wait for a sync of its disk. It
    /// will take some soon, so this is no want of room.
    pub fn is_behind_its_disk(&self) -> bool {
        self.free_bytes == 0
    }

    /// Whether the peer's disk has room for entries of clients, as far as it has told.
    pub fn has_client_room(&self) -> bool {
        self.is_behind_its_disk() || self.unclaimed_bytes() >= CLIENT_RESERVE_BYTES
    }

    /// Whether the peer's log has room for one more entry.
    pub fn has_room_for(&self, entry: &Entry) -> bool {
        self.unclaimed_bytes() >= entry_cost(entry) + ENTRY_RESERVE_BYTES
    }

    /// Drops the entries from the first one on that does not fit into the peer's log.
    pub fn keep_what_fits(&self, entries: &mut Vec<Entry>) {
        let mut left = self.unclaimed_bytes().saturating_sub(ENTRY_RESERVE_BYTES);
        let mut count = 0;
        for entry in entries.iter() {
            let Some(rest) = left.checked_sub(entry_cost(entry)) else {
                break;
            };
            left = rest;
            count += 1;
        }
        entries.truncate(count);
    }

    /// Whether the peer has the entries up to some index at or below `commit` but was not sent that
    /// it is committed.
    pub fn lacks_commit(&self, commit: Index) -> bool {
        self.commit_sent < commit.min(self.next.prev())
    }

    /// The last entry that the peer may be sent, of a log that ends at `last` and is committed up
    /// to `commit`. A peer that is leaving is sent committed entries only, and none past its
    /// removal.
    pub fn end(&self, last: Index, commit: Index) -> Index {
        match self.leaving {
            Some(leaving) => commit.min(leaving.removal),
            None => last,
        }
    }

    // -- the configuration

    /// The latest configuration has the peer as a voter or as a learner.
    pub fn set_voter(&mut self, is_voter: bool) {
        self.is_voter = is_voter;
    }

    /// The entry at `removal` takes the peer out of the configuration.
    pub fn on_removal(&mut self, removal: Index) {
        self.is_voter = false;
        if self.leaving.is_none() {
            self.leaving = Some(Leaving {
                removal,
                until_us: None,
            });
        }
    }

    /// The commit index rose to `commit`. If that includes the peer's removal, the peer is sent
    /// entries until `until_us`.
    pub fn on_commit(&mut self, commit: Index, until_us: u64) {
        if let Some(leaving) = &mut self.leaving
            && leaving.removal <= commit
            && leaving.until_us.is_none()
        {
            leaving.until_us = Some(until_us);
        }
    }

    /// Whether the peer is removed, and either has its removal or had the time to get it.
    pub fn has_left(&self, commit: Index, now_us: u64) -> bool {
        let Some(leaving) = self.leaving else {
            return false;
        };
        let is_over = leaving.until_us.is_some_and(|until_us| now_us >= until_us);
        commit >= leaving.removal && (self.matched >= leaving.removal || is_over)
    }

    // -- the link

    /// A message of the peer arrived, or a part of one.
    pub fn on_heard(&mut self, now_us: u64) {
        self.heard_us = now_us;
        self.awaiting_since_us = None;
        self.unanswered = 0;
    }

    /// The link opened (`is_up`) or broke. Messages on the way may be lost, so what was in flight
    /// is sent again. After a break the peer's process may be gone: its disk is not waited for.
    pub fn on_link(&mut self, is_up: bool, now_us: u64) {
        if !is_up {
            self.sync_us = 0;
            self.await_answer(now_us);
        }
        match &mut self.state {
            ProgressState::Snapshot(transfer) => {
                transfer.asked_us = None;
                transfer.waits = 1;
                // A process that has started again begins with the first byte, and gets further.
                transfer.reached = 0;
            }
            ProgressState::Probe { .. } | ProgressState::Replicate => {
                self.become_probe(self.next.min(self.matched.next()));
            }
        }
    }

    /// A message was sent that the peer must answer at once.
    fn await_answer(&mut self, now_us: u64) {
        self.awaiting_since_us.get_or_insert(now_us);
    }

    // -- heartbeats

    /// A heartbeat is due. Returns how many heartbeats the peer has missed since it was heard, if
    /// any.
    ///
    /// The last `on_the_way + 2` do not count: the replies to them may be on the way, and after one
    /// late turn of this process all peers would seem to have missed one.
    pub fn count_heartbeat(&mut self, on_the_way: u64) -> Option<u64> {
        self.unanswered += 1;
        let missed = self.unanswered.saturating_sub(on_the_way + 2);
        (missed > 0).then_some(missed)
    }

    /// A heartbeat of `round` is sent.
    pub fn on_heartbeat_sent(&mut self, round: u64, now_us: u64) {
        let sent_us = now_us;
        self.timed_heartbeat
            .get_or_insert(TimedHeartbeat { round, sent_us });
    }

    /// The peer answered the heartbeat of `round`. Returns the round trip, in microseconds, if that
    /// heartbeat is the measured one. The answer to an earlier round was sent before it arrived.
    pub fn take_heartbeat_round_trip(&mut self, round: u64, now_us: u64) -> Option<u64> {
        let timed = self.timed_heartbeat.take_if(|timed| timed.round <= round)?;
        Some(now_us.saturating_sub(timed.sent_us))
    }

    // -- appends

    /// An append with `entries` is sent whose last entry is at `end`. `commit` is the commit index
    /// that it carries.
    pub fn on_append_sent(&mut self, end: Index, entries: &[Entry], commit: Index, now_us: u64) {
        self.commit_sent = self.commit_sent.max(commit.min(end));
        self.await_answer(now_us);
        if let ProgressState::Probe { is_sent } = &mut self.state {
            // `next` stays: the reply to the probe refers to the entry before it.
            *is_sent = true;
            return;
        }
        if entries.is_empty() {
            return;
        }
        let bytes = entries.iter().map(Entry::size).sum();
        let cost_bytes = entries.iter().map(entry_cost).sum();
        self.next = end.next();
        self.in_flight_bytes += bytes;
        self.in_flight_cost_bytes += cost_bytes;
        self.in_flight.push_back(InFlight {
            last: end,
            bytes,
            cost_bytes,
            sent_us: now_us,
        });
    }

    /// A reply to an append arrived.
    pub fn on_reply(&mut self, round: Option<u64>, sync_us: u32, free_bytes: u64, now_us: u64) {
        self.free_bytes = free_bytes.min(FREE_BYTES_MAX);
        self.on_heard(now_us);
        self.has_answered = true;
        self.sync_us = sync_us.min(SyncTimes::SYNC_US_MAX as u32);
        self.round = self.round.max(round.unwrap_or(0));
    }

    /// The entries up to `matched` are durable on the peer. Returns how long the newest append that
    /// this acknowledges took, in microseconds.
    pub fn on_matched(&mut self, matched: Index, now_us: u64) -> Option<u64> {
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        let mut took_us = None;
        while let Some(append) = self.in_flight.front() {
            if append.last > matched {
                break;
            }
            self.in_flight_bytes -= append.bytes;
            self.in_flight_cost_bytes -= append.cost_bytes;
            took_us = Some(now_us.saturating_sub(append.sent_us));
            self.in_flight.pop_front();
        }
        took_us
    }

    /// Whether a round of catching up is over that took `most_us` at most; the next one begins with
    /// the end of each. `last` is the leader's last entry.
    pub fn ends_short_round(&mut self, last: Index, most_us: u64, now_us: u64) -> bool {
        let ended = self.catch_up.filter(|round| self.matched >= round.goal);
        if self.catch_up.is_none() || ended.is_some() {
            self.catch_up = Some(CatchUpRound {
                goal: last,
                since_us: now_us,
            });
        }
        ended.is_some_and(|round| now_us <= round.since_us + most_us)
    }

    /// Whether a rejection of the append after `prev` is out of date.
    pub fn is_stale_rejection(&self, prev: Index) -> bool {
        match self.state {
            ProgressState::Probe { .. } => prev != self.next.prev(),
            ProgressState::Replicate => prev <= self.matched,
            ProgressState::Snapshot(_) => true,
        }
    }

    // -- states

    /// The logs may agree up to the entry before `next`.
    pub fn become_probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.state = ProgressState::Probe { is_sent: false };
        self.forget_in_flight();
    }

    /// The logs agree up to the entry before `next`.
    pub fn become_replicate(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.state = ProgressState::Replicate;
        self.forget_in_flight();
    }

    /// The peer is sent the snapshot `meta` from its first byte on.
    pub fn become_snapshot(&mut self, meta: &SnapshotMeta, now_us: u64) {
        let mut transfer = SnapshotTransfer::new(meta, now_us);
        if let ProgressState::Snapshot(former) = &self.state
            && former.meta.index == meta.index
        {
            // The same one again gets no further.
            transfer.reached = former.reached;
            transfer.reached_us = former.reached_us;
        }
        self.state = ProgressState::Snapshot(transfer);
        self.forget_in_flight();
    }

    fn forget_in_flight(&mut self) {
        self.timed_heartbeat = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.in_flight_cost_bytes = 0;
    }

    // -- the sending of a snapshot

    /// The chunk that the owner is to read, by snapshot and offset, if it was not asked yet. It
    /// counts as asked from now on.
    pub fn take_wanted_chunk(&mut self, now_us: u64) -> Option<(Index, u64)> {
        let ProgressState::Snapshot(transfer) = &mut self.state else {
            return None;
        };
        if transfer.asked_us.is_some() {
            return None;
        }
        transfer.asked_us = Some(now_us);
        Some((transfer.meta.index, transfer.offset))
    }

    /// Whether the owner is to read a chunk for the peer, and was not asked yet.
    pub fn wants_chunk(&self) -> bool {
        match &self.state {
            ProgressState::Snapshot(transfer) => transfer.asked_us.is_none(),
            ProgressState::Probe { .. } | ProgressState::Replicate => false,
        }
    }

    /// The snapshot that the peer is sent, if it still wants the chunk at `offset` of the snapshot
    /// that ends at `index`.
    pub fn snapshot_of_chunk(&self, index: Index, offset: u64) -> Option<&SnapshotMeta> {
        match &self.state {
            ProgressState::Snapshot(transfer)
                if transfer.meta.index == index && transfer.offset == offset =>
            {
                Some(&transfer.meta)
            }
            _ => None,
        }
    }

    /// The chunk cannot be read now. It is asked for again after a timeout (`retry_chunk`).
    pub fn delay_chunk(&mut self, now_us: u64) {
        if let ProgressState::Snapshot(transfer) = &mut self.state {
            transfer.asked_us = Some(now_us);
        }
    }

    /// The peer wants the chunk at `offset` of the snapshot that ends at `index`.
    pub fn on_chunk_wanted(&mut self, index: Index, offset: u64, now_us: u64) {
        if let ProgressState::Snapshot(transfer) = &mut self.state
            && transfer.meta.index == index
            && transfer.offset != offset
        {
            if offset > transfer.reached {
                transfer.reached = offset;
                transfer.reached_us = now_us;
            }
            transfer.offset = offset;
            transfer.asked_us = None;
            transfer.is_refused = false;
        }
    }

    /// The peer has no room for the snapshot that ends at `index`.
    pub fn on_snapshot_refused(&mut self, index: Index, now_us: u64) {
        if let ProgressState::Snapshot(transfer) = &mut self.state
            && transfer.meta.index == index
        {
            transfer.offset = 0;
            transfer.asked_us = Some(now_us);
            transfer.is_refused = true;
        }
    }

    /// Offers the snapshot `newest` to a peer that had no room for one, `OFFER_US` microseconds
    /// after its refusal or the last offer.
    pub fn maybe_offer_again(&mut self, newest: &SnapshotMeta, now_us: u64) -> bool {
        let ProgressState::Snapshot(transfer) = &mut self.state else {
            return false;
        };
        let is_due = transfer.asked_us.is_some_and(|us| us + OFFER_US <= now_us);
        if !transfer.is_refused || !is_due {
            return false;
        }
        *transfer = SnapshotTransfer::new(newest, now_us);
        transfer.is_refused = true;
        true
    }

    /// Asks the owner again for a chunk that the peer has not confirmed within `patience_us`
    /// microseconds, or a multiple of it after earlier repetitions.
    pub fn retry_chunk(&mut self, patience_us: u64, now_us: u64) {
        if let ProgressState::Snapshot(transfer) = &mut self.state
            && let Some(asked_us) = transfer.asked_us
            && asked_us + patience_us * transfer.waits < now_us
            && !transfer.is_refused
        {
            transfer.asked_us = None;
            if self.heard_us > asked_us {
                transfer.waits = (transfer.waits * 2).min(CHUNK_WAITS_MAX);
            }
        }
    }

    /// Part of `Tracker::check_invariants`. `last` is the last entry of the leader's log.
    pub fn check_invariants(&self, last: Index) {
        assert!(
            self.matched < self.next,
            "a matched entry is not sent again"
        );
        assert!(self.matched <= last, "a peer has no more than its leader");
        assert!(
            self.is_replicating() || self.in_flight.is_empty(),
            "only appends sent ahead are in flight"
        );
        assert!(
            !self.in_flight.is_empty() || self.in_flight_bytes == 0,
            "the bytes in flight are those of appends"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{EntryBody, Term};
    use super::*;

    fn entry(bytes: usize) -> Entry {
        Entry {
            body: EntryBody::Good(vec![0; bytes].into()),
            term: Term(1),
            index: Index(1),
        }
    }

    fn replicating() -> Progress {
        let mut peer = Progress::new(PeerId(2), true, Index(5), 0);
        peer.become_replicate(Index(5));
        peer
    }

    #[test]
    fn a_peer_behind_its_disk_has_room() {
        let mut peer = replicating();
        peer.on_reply(None, 0, 0, 0);
        assert!(peer.is_behind_its_disk() && peer.has_client_room());
        assert!(!peer.has_room_for(&entry(1)));
        peer.on_reply(None, 0, 1, 0);
        assert!(!peer.is_behind_its_disk() && !peer.has_client_room());
    }

    #[test]
    fn a_probe_waits_for_its_reply() {
        let mut peer = Progress::new(PeerId(2), true, Index(5), 0);
        peer.on_append_sent(Index(6), &[entry(20)], Index(0), 1);
        assert_eq!(peer.next(), Index(5));
        assert_eq!(peer.state(), &ProgressState::Probe { is_sent: true });
    }

    #[test]
    fn the_newest_acknowledged_append_is_timed() {
        let mut peer = replicating();
        peer.on_append_sent(Index(6), &[entry(20)], Index(0), 10);
        peer.on_append_sent(Index(8), &[entry(20)], Index(0), 20);
        peer.on_append_sent(Index(9), &[entry(20)], Index(0), 30);
        assert_eq!(peer.on_matched(Index(8), 100), Some(80));
        assert_eq!(peer.in_flight_bytes, 20);
        peer.check_invariants(Index(9));
    }

    #[test]
    fn what_is_on_the_way_uses_the_room_up() {
        let mut peer = replicating();
        peer.on_reply(None, 0, ENTRY_RESERVE_BYTES + 400, 0);
        let mut entries = vec![entry(100), entry(100), entry(100)];
        peer.keep_what_fits(&mut entries);
        assert_eq!(entries.len(), 2);
        peer.on_append_sent(Index(6), &entries, Index(0), 0);
        assert!(!peer.has_room_for(&entry(1)));
        peer.on_matched(Index(6), 1);
        assert!(peer.has_room_for(&entry(1)));
    }

    #[test]
    fn appends_in_flight_are_bounded_by_number_and_by_bytes() {
        let mut peer = replicating();
        peer.on_append_sent(Index(5), &[entry(1000)], Index(0), 0);
        assert!(peer.is_full(1000));
        let mut peer = replicating();
        for index in 5..5 + IN_FLIGHT_MESSAGES_MAX as u64 {
            assert!(!peer.is_full(1000));
            peer.on_append_sent(Index(index), &[entry(1)], Index(0), 0);
        }
        assert!(peer.is_full(1000));
    }

    /// The leader appends more within a round trip than a learner may lack.
    #[test]
    fn a_learner_catches_up_in_rounds() {
        let mut peer = replicating();
        let mut ended = Vec::new();
        for step in 0..10 {
            let last = Index(1_000 * (step + 1));
            peer.on_matched(Index(last.0 - 999), step * 300);
            ended.push(peer.ends_short_round(last, 600, step * 300));
        }
        assert!(!ended[0], "the first one begins");
        assert!(ended[1..].iter().all(|ended| *ended), "{ended:?}");
        assert!(!peer.ends_short_round(Index(20_000), 600, 10_000));
        peer.on_matched(Index(20_000), 20_000);
        assert!(
            !peer.ends_short_round(Index(30_000), 600, 20_000),
            "a long one"
        );
    }

    #[test]
    fn a_round_trip_is_that_of_the_measured_heartbeat() {
        let mut peer = Progress::new(PeerId(2), true, Index(1), 0);
        peer.on_heartbeat_sent(7, 100);
        peer.on_heartbeat_sent(8, 150);
        assert_eq!(peer.take_heartbeat_round_trip(7, 300), Some(200));
        peer.on_heartbeat_sent(9, 310);
        assert_eq!(peer.take_heartbeat_round_trip(8, 320), None);
        assert_eq!(peer.take_heartbeat_round_trip(9, 510), Some(200));
    }

    #[test]
    fn two_heartbeats_may_be_unanswered() {
        let mut peer = replicating();
        assert_eq!(peer.count_heartbeat(0), None);
        assert_eq!(peer.count_heartbeat(0), None);
        assert_eq!(peer.count_heartbeat(0), Some(1));
        peer.on_heard(5);
        assert_eq!(peer.count_heartbeat(0), None);
    }

    #[test]
    fn a_removed_peer_leaves_once_it_has_its_removal_or_after_a_while() {
        let mut peer = replicating();
        peer.on_removal(Index(7));
        assert_eq!(peer.end(Index(9), Index(6)), Index(6));
        assert!(!peer.has_left(Index(6), 1000));
        peer.on_commit(Index(7), 500);
        assert!(!peer.has_left(Index(7), 499));
        assert!(peer.has_left(Index(7), 500));
        peer.on_matched(Index(7), 400);
        assert!(peer.has_left(Index(7), 400));
    }

    /// A snapshot that ends at the fourth entry.
    fn fourth() -> SnapshotMeta {
        SnapshotMeta {
            index: Index(4),
            ..SnapshotMeta::default()
        }
    }

    #[test]
    fn a_transfer_that_gets_no_further_keeps_no_entries() {
        let mut peer = replicating();
        peer.become_snapshot(&fourth(), 0);
        assert_eq!(peer.kept_snapshot_index(STUCK_US), Some(Index(4)));
        assert_eq!(peer.kept_snapshot_index(STUCK_US + 1), None);
        peer.on_chunk_wanted(Index(4), 8, STUCK_US);
        assert_eq!(peer.kept_snapshot_index(2 * STUCK_US), Some(Index(4)));
        // All again, because it was damaged.
        peer.on_chunk_wanted(Index(4), 0, 2 * STUCK_US);
        peer.on_chunk_wanted(Index(4), 8, 2 * STUCK_US);
        peer.become_snapshot(&fourth(), 2 * STUCK_US);
        assert_eq!(peer.kept_snapshot_index(2 * STUCK_US + 1), None);
        peer.on_chunk_wanted(Index(4), 16, 3 * STUCK_US);
        assert_eq!(peer.kept_snapshot_index(4 * STUCK_US), Some(Index(4)));
        // All again, because the process of the peer has started again.
        peer.on_link(false, 4 * STUCK_US);
        peer.on_link(true, 4 * STUCK_US);
        peer.on_chunk_wanted(Index(4), 0, 4 * STUCK_US);
        peer.on_chunk_wanted(Index(4), 8, 5 * STUCK_US);
        assert_eq!(peer.kept_snapshot_index(6 * STUCK_US), Some(Index(4)));
    }

    #[test]
    fn a_chunk_is_asked_for_once_and_again_after_a_timeout() {
        let mut peer = replicating();
        peer.become_snapshot(&fourth(), 0);
        assert_eq!(peer.take_wanted_chunk(10), Some((Index(4), 0)));
        assert_eq!(peer.take_wanted_chunk(11), None);
        peer.retry_chunk(100, 110);
        assert_eq!(peer.take_wanted_chunk(111), None);
        peer.retry_chunk(100, 111);
        assert_eq!(peer.take_wanted_chunk(111), Some((Index(4), 0)));
        peer.on_chunk_wanted(Index(4), 8, 111);
        assert!(peer.snapshot_of_chunk(Index(4), 0).is_none());
        assert_eq!(peer.take_wanted_chunk(112), Some((Index(4), 8)));
    }

    /// Each chunk takes ten times the usual patience. From the third one on none is repeated, until
    /// the link breaks.
    #[test]
    fn chunks_on_a_slow_line_are_not_repeated_for_ever() {
        let mut peer = replicating();
        peer.become_snapshot(&fourth(), 0);
        let mut now_us = 0;
        let mut copies = |peer: &mut Progress| {
            let before = now_us;
            let mut count = 0;
            while now_us < before + 1_000 {
                now_us += 10;
                count += usize::from(peer.take_wanted_chunk(now_us).is_some());
                peer.on_heard(now_us);
                peer.retry_chunk(100, now_us);
            }
            count
        };
        for (chunk, expected) in [4, 2, 1].into_iter().enumerate() {
            assert_eq!(copies(&mut peer), expected, "chunk {chunk}");
            peer.on_chunk_wanted(Index(4), 8 * (chunk as u64 + 1), 0);
        }
        peer.on_link(true, 0);
        assert_eq!(copies(&mut peer), 4, "after the link");
    }
}
