//! Snapshots: when one is due, writing it in slices, pieces for other members, taking over the
//! leader's.
//!
//! A snapshot freezes the key space and is written a slice a turn while writes go on. Start with
//! `Replica::save_some`.
use super::Replica;
use crate::core::raft::{ChunkWanted, Index, Member, SnapshotMeta};
use crate::core::seam::{Fact, SnapshotIn, SnapshotOut};
use crate::core::store::{SnapshotStep, Store};
use crate::core::timer::Now;

/// Bytes of a slice.
const SLICE_BYTES: usize = 128 << 10;
/// So many bytes of a snapshot are written for each byte that the log grows by meanwhile, or a
/// follower that catches up takes in thousands of entries before it can forget as many …
const PACE: u64 = 4;
/// … but at once no more than this, nor less than a slice: what a turn has time for.
const BYTES_AT_ONCE: u64 = 1 << 20;
/// What an entry takes in the log beside its body, about.
const RECORD_BYTES: u64 = 32;
/// A snapshot waits while an older one is being sent to a member, so that the transfer need not
/// start over; not longer than until the log has so many bytes, since memory holds them.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// So many bytes count like `snapshot_count` entries: memory holds the log, and ten thousand of the
/// largest values would be 20 GB of it.
const LOG_BYTES_DUE: u64 = 64 << 20;
/// How long to wait after a snapshot that came to nothing.
const RETRY_US: u64 = 60_000_000;

/// How far the own snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Due, but something else holds the key space frozen.
    Wanted,
    /// Being written; its index.
    Writing(Index),
    /// Written, while the log itself is not durable so far: a crash would leave a snapshot with the
    /// rest of another leader's log behind it.
    Written(Index),
    /// Handed to the disk whole.
    Syncing(Index),
}

/// What snapshots need to know.
pub struct Saving {
    stage: Stage,
    /// Entries and bytes of the log since the last snapshot.
    entries: u64,
    log_bytes: u64,
    last_bytes: u64,
    /// Bytes of the one being written.
    written_bytes: u64,
    /// Not before this time.
    retry_us: u64,
}

impl Saving {
    pub fn new(last_bytes: u64) -> Saving {
        Saving {
            stage: Stage::Idle,
            entries: 0,
            log_bytes: 0,
            last_bytes,
            written_bytes: 0,
            retry_us: 0,
        }
    }

    /// An entry was applied.
    pub fn count(&mut self, bytes: usize) {
        self.entries += 1;
        self.log_bytes += bytes as u64 + RECORD_BYTES;
    }

    /// Whether there is a slice to write now.
    pub fn wants_turn(&self) -> bool {
        matches!(self.stage, Stage::Writing(_))
    }
}

impl Replica {
    /// Begins a snapshot when one is due, and writes some of the one under way.
    pub(super) fn save_some(&mut self, now: Now) {
        if self.saving.stage == Stage::Idle && self.is_snapshot_due(now) {
            self.saving.stage = Stage::Wanted;
        }
        if self.saving.stage == Stage::Wanted && self.store.snapshot_begin() {
            let meta = self.raft.snapshot_meta(self.applied);
            self.saving.stage = Stage::Writing(meta.index);
            (
                self.saving.entries,
                self.saving.log_bytes,
                self.saving.written_bytes,
            ) = (0, 0, 0);
            let index = meta.index;
            self.effects.facts.push(Fact::SnapshotStarted { index });
            self.effects.snapshot.push(SnapshotOut::Begin(meta));
        }
        let Saving {
            log_bytes,
            written_bytes,
            ..
        } = self.saving;
        let until = (PACE * log_bytes).min(written_bytes + BYTES_AT_ONCE);
        while let Stage::Writing(index) = self.saving.stage {
            self.write_slice(now, index);
            if self.saving.written_bytes >= until {
                break;
            }
        }
        if let Stage::Written(index) = self.saving.stage
            && self.raft.durable() >= index
        {
            self.saving.stage = Stage::Syncing(index);
            self.effects.snapshot.push(SnapshotOut::Finish);
        }
    }

    /// So many entries or bytes have come, and the log is as long as the snapshot that would
    /// replace it; or the disk is full and the log is what can be spared.
    fn is_snapshot_due(&self, now: Now) -> bool {
        let Saving {
            entries,
            log_bytes,
            last_bytes,
            retry_us,
            ..
        } = self.saving;
        let settings = &self.settings;
        let many = entries >= settings.snapshot_count || log_bytes >= LOG_BYTES_DUE;
        let long = many && log_bytes >= last_bytes;
        let spare = self.disk_low && entries > 0;
        let due = (long && settings.snapshots) || spare;
        due && now.mono_us >= retry_us && (log_bytes > LOG_BYTES_MAX || !self.is_sending(now))
    }

    /// Whether a member that is heard is being sent the newest snapshot.
    fn is_sending(&self, now: Now) -> bool {
        let members = self.raft.configuration().members.iter();
        let sent = |m: &Member| self.raft.peer(m.id).is_some_and(|p| p.is_in_snapshot());
        members
            .filter(|m| sent(m))
            .any(|m| self.raft.is_heard(now, m.id))
    }

    fn write_slice(&mut self, now: Now, index: Index) {
        let mut slice = Vec::with_capacity(SLICE_BYTES + 4096);
        let step = self.store.snapshot_chunk(SLICE_BYTES, &mut slice);
        if step == SnapshotStep::GivenUp {
            self.effects.snapshot.push(SnapshotOut::Abandon);
            return self.give_up_saving(now, index);
        }
        self.saving.written_bytes += slice.len() as u64;
        if !slice.is_empty() {
            self.effects.snapshot.push(SnapshotOut::Chunk(slice));
        }
        if step == SnapshotStep::Done {
            self.saving.stage = Stage::Written(index);
        }
    }

    fn give_up_saving(&mut self, now: Now, index: Index) {
        self.saving.stage = Stage::Idle;
        self.saving.retry_us = now.mono_us + RETRY_US;
        // It stays due: what it would have released is still there.
        self.saving.entries += self.settings.snapshot_count;
        self.saving.log_bytes += self.saving.last_bytes;
        self.effects.facts.push(Fact::SnapshotAbandoned { index });
    }

    /// The disk tells of a snapshot, the own or the leader's.
    pub fn on_snapshot(&mut self, now: Now, input: SnapshotIn) {
        match input {
            SnapshotIn::Saved {
                index,
                bytes,
                older,
            } => self.on_saved(index, bytes, older),
            SnapshotIn::Failed => {
                if let Stage::Writing(index) | Stage::Written(index) | Stage::Syncing(index) =
                    self.saving.stage
                {
                    self.store.snapshot_abandon();
                    self.give_up_saving(now, index);
                }
            }
            SnapshotIn::Read {
                to,
                index,
                offset,
                data,
            } => {
                let wanted = ChunkWanted { to, index, offset };
                self.raft.on_chunk(now, wanted, data);
            }
            SnapshotIn::Installed { meta, store, bytes } => self.install(now, meta, *store, bytes),
            SnapshotIn::Refused => self.raft.on_installed(now, false),
        }
    }

    fn on_saved(&mut self, index: Index, bytes: u64, older: Index) {
        self.effects
            .facts
            .push(Fact::SnapshotSaved { index, bytes });
        // The leader's snapshot may have come in between.
        if self.saving.stage == Stage::Syncing(index) {
            self.saving.stage = Stage::Idle;
            self.saving.last_bytes = bytes;
            self.raft.on_snapshot_saved(index, older);
        }
    }

    /// The leader's snapshot is in place: the key space is that of another moment, unless entries
    /// have brought this machine past it meanwhile.
    fn install(&mut self, now: Now, meta: SnapshotMeta, store: Store, bytes: u64) {
        self.raft.on_installed(now, true);
        let index = meta.index;
        if index <= self.applied || self.raft.snapshot().index != index {
            return;
        }
        self.end_readers();
        let mut lost = Vec::new();
        self.parked.take_lost(0, index, &mut lost);
        self.tell_lost(lost);
        if let Stage::Writing(_) | Stage::Written(_) = self.saving.stage {
            self.effects.snapshot.push(SnapshotOut::Abandon);
        }
        self.saving = Saving::new(bytes);
        let old = std::mem::replace(&mut self.store, store);
        #[cfg(feature = "faults")]
        self.store.plant(old.planted());
        drop(old);
        self.applied = index;
        self.raft.on_applied(index);
        self.config = self.kept_config();
        self.effects.facts.push(Fact::SnapshotInstalled { index });
    }
}
