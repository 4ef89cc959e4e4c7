//! Snapshots: writing this member's own, reading chunks of it for other members, and installing
//! the leader's.
//!
//! This member's snapshot freezes the key space and is written in slices. Client writes go on
//! meanwhile, so no slice is written before it is due: a snapshot takes a small share of the loop and
//! of the disk. Start with [`Snapshotting`] and `Replica::continue_snapshot`.
use super::Replica;
use super::pending::Ending;
use crate::core::raft::{ChunkWanted, ENTRY_BYTES, Index, SnapshotMeta};
use crate::core::seam::{Fact, SnapshotIn, SnapshotOut};
use crate::core::store::{Discarded, SnapshotStep, Store};
use crate::core::timer::Now;

/// The bytes of one slice, the unit in which the key space is encoded. The last item of a slice may
/// exceed them.
const SLICE_BYTES: usize = 32 << 10;
/// Spare capacity of a slice's buffer for the item that exceeds `SLICE_BYTES`.
const SLICE_SLACK_BYTES: usize = 4096;
/// Most bytes encoded by one `advance`; the last slice may exceed them.
const TURN_BYTES_MAX: u64 = 1 << 20;
/// No slice is encoded while this many bytes of slices wait for the disk.
const UNWRITTEN_BYTES_MAX: u64 = 1 << 20;
/// The bytes of a snapshot that are due in each millisecond, even if nothing is written meanwhile.
/// They take 50 us: a twentieth of the loop.
const BYTES_PER_MS: u64 = 16 << 10;
/// The pause after a snapshot that the disk had no room for, in microseconds.
const NO_ROOM_PAUSE_US: u64 = 60_000_000;
/// The pause after a snapshot whose copies took too much memory, in microseconds.
const GIVEN_UP_PAUSE_US: u64 = 1_000_000;
/// The longest pause while a peer can be sent no other snapshot, or the log takes no values until the
/// next one, in microseconds.
const AWAITED_PAUSE_US: u64 = 5_000_000;

/// The progress of this member's own snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotStage {
    /// No snapshot is due.
    Idle,
    /// The slices of the snapshot at this index are being encoded and handed to the disk.
    Writing(Index),
    /// All slices are handed to the disk, but the log is not durable up to the snapshot's index. If
    /// the snapshot were finished now, a crash could leave it followed by entries of a former leader.
    Written(Index),
    /// The disk makes the snapshot durable.
    Syncing(Index),
}

impl SnapshotStage {
    /// The index of the snapshot under way.
    fn index(self) -> Option<Index> {
        match self {
            SnapshotStage::Idle => None,
            SnapshotStage::Writing(index)
            | SnapshotStage::Written(index)
            | SnapshotStage::Syncing(index) => Some(index),
        }
    }
}

/// When a snapshot is due, and its progress.
pub struct Snapshotting {
    stage: SnapshotStage,
    /// How many entries were applied since the last snapshot began. Raised by a failed snapshot,
    /// see `on_failed`.
    entries: u64,
    /// An estimate of the memory that these entries take in the log.
    log_bytes: u64,
    /// An estimate of the memory that all entries take that no saved snapshot covers. A restart reads
    /// them, though a lone machine does not hold them.
    unsaved_bytes: u64,
    /// The part of `unsaved_bytes` that the snapshot under way covers.
    begun_bytes: u64,
    /// The size of the last snapshot on disk; 0 before the first.
    last_bytes: u64,
    /// How many bytes of the snapshot under way are encoded.
    encoded_bytes: u64,
    /// How many bytes of slices wait for the disk, those of abandoned snapshots included.
    unwritten_bytes: u64,
    /// When the snapshot under way began, in microseconds of the monotonic clock.
    begun_us: u64,
    /// No snapshot begins before this time, in microseconds of the monotonic clock. `None` without a
    /// failure, and once the time has come.
    not_before_us: Option<u64>,
}

impl Snapshotting {
    /// No snapshot is under way. The snapshot on disk has `last_bytes`; 0 without one.
    pub fn new(last_bytes: u64) -> Snapshotting {
        Snapshotting {
            stage: SnapshotStage::Idle,
            entries: 0,
            log_bytes: 0,
            unsaved_bytes: 0,
            begun_bytes: 0,
            last_bytes,
            encoded_bytes: 0,
            unwritten_bytes: 0,
            begun_us: 0,
            not_before_us: None,
        }
    }

    /// The size of the newest snapshot on disk, in bytes; 0 without one.
    pub fn last_bytes(&self) -> u64 {
        self.last_bytes
    }

    /// An entry of this size was applied.
    pub fn on_applied(&mut self, bytes: usize) {
        self.entries += 1;
        self.log_bytes += bytes as u64 + ENTRY_BYTES;
        self.unsaved_bytes += bytes as u64 + ENTRY_BYTES;
    }

    /// When the next slice is due at the latest, or the pause after a failure ends, in microseconds of
    /// the monotonic clock. `None` if there is nothing to encode, and while too much waits for the
    /// disk.
    pub fn next_deadline(&self) -> Option<u64> {
        match self.stage {
            SnapshotStage::Idle => self.not_before_us,
            SnapshotStage::Writing(_) if !self.is_disk_behind() => {
                Some(self.begun_us + self.encoded_bytes.div_ceil(BYTES_PER_MS) * 1000)
            }
            _ => None,
        }
    }

    /// Whether as many slices wait for the disk as may.
    fn is_disk_behind(&self) -> bool {
        self.unwritten_bytes >= UNWRITTEN_BYTES_MAX
    }

    /// Whether the next slice is due: by the time, or because fewer bytes are encoded than
    /// `wanted_bytes` (`MemoryBounds::snapshot_bytes_due`).
    fn is_slice_due(&self, now: Now, wanted_bytes: u64) -> bool {
        let by_time = self.next_deadline().is_some_and(|us| us <= now.mono_us);
        by_time || self.encoded_bytes < wanted_bytes
    }

    /// The key space is frozen at `index`.
    fn on_begun(&mut self, now: Now, index: Index) {
        self.stage = SnapshotStage::Writing(index);
        self.entries = 0;
        self.log_bytes = 0;
        self.begun_bytes = self.unsaved_bytes;
        self.encoded_bytes = 0;
        self.begun_us = now.mono_us;
    }

    /// The snapshot under way is durable, and has this size.
    fn on_saved(&mut self, bytes: u64) {
        self.stage = SnapshotStage::Idle;
        self.last_bytes = bytes;
        self.unsaved_bytes -= self.begun_bytes;
    }

    /// The snapshot under way failed. Another one is due at once, because the log is as long as
    /// before; it waits for `pause_us`.
    fn on_failed(&mut self, now: Now, snapshot_count: u64, pause_us: u64) {
        self.stage = SnapshotStage::Idle;
        self.not_before_us = Some(now.mono_us + pause_us);
        self.entries += snapshot_count;
        self.log_bytes = self.unsaved_bytes;
    }

    /// Whether the disk lately had no room for a snapshot.
    pub fn is_kept_off(&self, now: Now) -> bool {
        let is_later = |us| now.mono_us + GIVEN_UP_PAUSE_US < us;
        self.not_before_us.is_some_and(is_later)
    }
}

/// This member's own snapshot.
impl Replica {
    /// Begins a snapshot if one is due, and continues the one under way.
    pub(super) fn continue_snapshot(&mut self, now: Now) {
        let is_awaited = self.raft.must_snapshot_for_peer() || self.is_log_full();
        if let Some(us) = &mut self.snapshotting.not_before_us
            && is_awaited
        {
            *us = (*us).min(now.mono_us + AWAITED_PAUSE_US);
        }
        self.snapshotting
            .not_before_us
            .take_if(|us| *us <= now.mono_us);
        if self.snapshotting.stage == SnapshotStage::Idle && self.is_snapshot_due(now) {
            self.begin_snapshot(now);
        }
        self.write_slices(now);
        self.maybe_finish_snapshot();
    }

    /// Whether to begin a snapshot. It is due in each of these cases:
    /// - The log has grown by enough bytes for the size of the key space, or by enough entries and
    ///   bytes for the size of the last snapshot (`MemoryBounds::due_bytes`).
    /// - The disk is nearly full, or the memory of the log is. Only the log can be released.
    /// - A machine joins one that was alone, and needs entries that memory does not hold.
    ///
    /// A due snapshot waits after a failure, and during a transfer, which it would make start over.
    /// It waits for a transfer no longer once the log fills its memory.
    fn is_snapshot_due(&self, now: Now) -> bool {
        let Snapshotting {
            entries,
            log_bytes,
            last_bytes,
            not_before_us,
            ..
        } = self.snapshotting;
        let memory = &self.settings.memory;
        let has_entries = entries >= self.settings.snapshot_count;
        let by_entries = has_entries && log_bytes >= memory.due_bytes_by_count(last_bytes);
        let by_bytes = log_bytes >= memory.due_bytes(self.store.bytes(), last_bytes);
        let by_length = (by_entries || by_bytes) && self.settings.snapshots;
        let for_space = self.is_disk_low && entries > 0;
        // The last snapshot may still release what fills the log.
        let is_log_full = self.is_log_full() && !self.raft.wants_release();
        let for_memory = is_log_full && log_bytes >= memory.due_bytes_min;
        let is_due = by_length || for_space || for_memory || self.raft.must_snapshot_for_peer();
        if not_before_us.is_some() || !is_due {
            return false;
        }
        log_bytes > memory.log_bytes_max || !self.is_sending_snapshot(now)
    }

    /// Whether the newest snapshot is being sent to a member that was heard within an election
    /// timeout.
    fn is_sending_snapshot(&self, now: Now) -> bool {
        for member in &self.raft.configuration().members {
            let progress = self.raft.peer(member.id);
            let is_sent = progress.is_some_and(|p| p.kept_snapshot_index(now.mono_us).is_some());
            if is_sent && self.raft.is_heard(now, member.id) {
                return true;
            }
        }
        false
    }

    fn begin_snapshot(&mut self, now: Now) {
        self.store.snapshot_begin();
        let meta = self.raft.begin_snapshot(self.applied);
        let index = meta.index;
        self.snapshotting.on_begun(now, index);
        self.outputs.facts.push(Fact::SnapshotStarted { index });
        self.outputs.snapshot.push(SnapshotOut::Begin(meta));
    }

    /// Encodes the slices of the snapshot under way that are due, at most `TURN_BYTES_MAX`.
    fn write_slices(&mut self, now: Now) {
        let end_bytes = self.snapshotting.encoded_bytes + TURN_BYTES_MAX;
        while let SnapshotStage::Writing(index) = self.snapshotting.stage {
            let is_due = self.awaits_slices() || self.is_slice_due(now);
            let is_over = self.snapshotting.encoded_bytes >= end_bytes;
            if !is_due || is_over || self.snapshotting.is_disk_behind() {
                break;
            }
            self.write_slice(now, index);
        }
    }

    /// Whether the snapshot under way has a slice that is to be written now.
    fn is_slice_due(&self, now: Now) -> bool {
        let live_bytes = self.store.bytes() + self.store.history_bytes() as u64;
        let log_bytes = self.snapshotting.log_bytes;
        let copied_bytes = self.store.copied_bytes();
        let memory = &self.settings.memory;
        let wanted_bytes = memory.snapshot_bytes_due(live_bytes, log_bytes, copied_bytes);
        self.snapshotting.is_slice_due(now, wanted_bytes)
    }

    /// Whether a snapshot is being written, and clients' writes are refused until it has released
    /// the log, or a machine that joins waits for it. Then it is not paced: in the first case the log
    /// does not grow, and that is what the pace follows. But it waits for the disk.
    pub(super) fn awaits_slices(&self) -> bool {
        let is_writing = matches!(self.snapshotting.stage, SnapshotStage::Writing(_));
        is_writing
            && !self.snapshotting.is_disk_behind()
            && (self.is_disk_low || self.is_log_full() || self.raft.must_snapshot_for_peer())
    }

    /// An estimate of the memory of the log, in bytes: as it is, or as a restart would read it.
    pub(super) fn log_bytes(&self) -> u64 {
        let unsaved_bytes = self.snapshotting.unsaved_bytes;
        unsaved_bytes.max(self.raft.log_memory_bytes())
    }

    /// Whether the log fills the memory that it may use. The next snapshot releases it, but for the
    /// entries after a snapshot that is being sent: a slow transfer would exhaust the memory. Then
    /// no values are proposed. Deletions, expiry and changes of membership take little.
    pub(super) fn is_log_full(&self) -> bool {
        self.log_bytes() > self.settings.memory.log_bytes_max
    }

    /// Whether the snapshot under way may end too late: the memory that is left to the log until then
    /// is less than `uncommitted_bytes_max`, or the copies for the snapshot fill three quarters of
    /// theirs. Then the owner waits for the snapshot files, so that writes take longer, but are not
    /// held, and the snapshot need not begin anew.
    pub fn is_snapshot_late(&self) -> bool {
        let memory = &self.settings.memory;
        let bytes_max = memory.log_bytes_max;
        let early_bytes = bytes_max.saturating_sub(memory.uncommitted_bytes_max as u64);
        let is_log_long = self.log_bytes() > early_bytes;
        match self.snapshotting.stage {
            SnapshotStage::Idle => false,
            SnapshotStage::Writing(_) => is_log_long || self.has_many_copies(),
            SnapshotStage::Written(_) | SnapshotStage::Syncing(_) => is_log_long,
        }
    }

    fn has_many_copies(&self) -> bool {
        let copies_bytes = self.settings.memory.copies_bytes as u64;
        self.store.copied_bytes() > copies_bytes / 4 * 3
    }

    fn write_slice(&mut self, now: Now, index: Index) {
        let mut slice = Vec::with_capacity(SLICE_BYTES + SLICE_SLACK_BYTES);
        let step = self.store.snapshot_chunk(SLICE_BYTES, &mut slice);
        if step == SnapshotStep::GivenUp {
            self.outputs.snapshot.push(SnapshotOut::Abandon);
            return self.give_up_snapshot(now, index, GIVEN_UP_PAUSE_US);
        }
        self.snapshotting.encoded_bytes += slice.len() as u64;
        self.snapshotting.unwritten_bytes += slice.len() as u64;
        if !slice.is_empty() {
            self.outputs.snapshot.push(SnapshotOut::Chunk(slice));
        }
        if step == SnapshotStep::Done {
            self.snapshotting.stage = SnapshotStage::Written(index);
        }
    }

    /// Tells the disk to finish the snapshot once the log is durable up to its index.
    fn maybe_finish_snapshot(&mut self) -> bool {
        let SnapshotStage::Written(index) = self.snapshotting.stage else {
            return false;
        };
        if self.raft.durable() < index {
            return false;
        }
        self.snapshotting.stage = SnapshotStage::Syncing(index);
        self.outputs.snapshot.push(SnapshotOut::Finish);
        true
    }

    fn give_up_snapshot(&mut self, now: Now, index: Index, pause_us: u64) {
        let snapshot_count = self.settings.snapshot_count;
        self.snapshotting.on_failed(now, snapshot_count, pause_us);
        self.outputs
            .facts
            .push(Fact::SnapshotAbandoned { index, pause_us });
    }
}

/// Reports of the disk.
impl Replica {
    /// The disk reports on a snapshot: this member's own, or the leader's.
    pub fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        match input {
            SnapshotIn::Written { waiting_bytes } => {
                self.snapshotting.unwritten_bytes = waiting_bytes;
            }
            SnapshotIn::Saved {
                index,
                bytes,
                older,
            } => self.on_snapshot_saved(index, bytes, older),
            SnapshotIn::Failed { index } => self.on_snapshot_failed(now, index),
            SnapshotIn::Read {
                to,
                index,
                offset,
                data,
            } => {
                let wanted = ChunkWanted { to, index, offset };
                self.raft.on_chunk(now, wanted, data);
            }
            SnapshotIn::Received => self.raft.on_chunk_received(now),
            SnapshotIn::Installed { meta, store, bytes } => {
                self.on_snapshot_installed(now, meta, *store, bytes);
            }
            SnapshotIn::Refused => self.raft.on_snapshot_unusable(now),
            SnapshotIn::NoRoom => self.raft.on_no_room_for_snapshot(now),
        }
    }

    /// This member's snapshot at `index` is durable, and the one before it is at `older`. Without
    /// effect if the leader's snapshot was installed meanwhile.
    fn on_snapshot_saved(&mut self, index: Index, bytes: u64, older: Index) {
        self.outputs
            .facts
            .push(Fact::SnapshotSaved { index, bytes });
        if self.snapshotting.stage == SnapshotStage::Syncing(index) {
            self.snapshotting.on_saved(bytes);
            self.raft.on_snapshot_saved(index, older);
        }
    }

    /// The disk could not write this member's snapshot at `index`. Without effect if that was given
    /// up meanwhile.
    fn on_snapshot_failed(&mut self, now: Now, index: Index) {
        if self.snapshotting.stage.index() == Some(index) {
            self.store.snapshot_abandon();
            self.give_up_snapshot(now, index, NO_ROOM_PAUSE_US);
        }
    }

    /// The leader's snapshot is durable. It replaces the key space, unless this member has applied
    /// entries up to its index or further meanwhile.
    fn on_snapshot_installed(&mut self, now: Now, meta: SnapshotMeta, store: Store, bytes: u64) {
        let index = meta.index;
        self.raft.on_installed(now, meta);
        if index <= self.applied || self.raft.snapshot().index != index {
            self.discarded.push(Discarded::new(store));
            return;
        }
        self.end_store_readers();
        for ticket in self.pending.proposed_through(index) {
            self.leave(ticket, Ending::GivenUp);
        }
        self.give_up_sent_writes();
        if let SnapshotStage::Writing(_) | SnapshotStage::Written(_) = self.snapshotting.stage {
            self.outputs.snapshot.push(SnapshotOut::Abandon);
        }
        self.snapshotting = Snapshotting {
            unwritten_bytes: self.snapshotting.unwritten_bytes,
            ..Snapshotting::new(bytes)
        };
        self.replace_store(store, index);
        self.outputs.facts.push(Fact::SnapshotInstalled { index });
    }
}
