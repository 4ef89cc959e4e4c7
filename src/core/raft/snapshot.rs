//! Snapshots on the sending side (thesis chapter 5): the snapshot of this machine, the release of
//! the log, and the transfer to a peer. The receiving side is in `install`.
//!
//! Raft does not see the bytes of a snapshot. It asks the owner for a chunk
//! (`RaftOutput::chunks_wanted`), gets it (`Raft::on_chunk`) and sends it. One chunk of a transfer is
//! under way at a time, so a transfer that was interrupted continues at the chunk that the receiver
//! wants.
//!
//! A leader sends its snapshot to peers whose entries are released here. A member that does not
//! lead sends its snapshot to a peer that it helps to repair its log (`repair`, case 3). Start
//! reading at [`OwnSnapshots`].
use super::log::Log;
use super::message::{Index, PeerId, Persist, Rpc, SnapshotMeta, Term};
use super::repair::Repair;
use super::round_trips::allowance_us;
use super::tracker::Tracker;
use super::{Progress, Raft, RaftRole};
use crate::core::timer::Now;

/// A chunk is sent again after this many slow syncs of the receiver, or after one election timeout
/// if that is longer.
const CHUNK_PATIENCE_SYNCS: u64 = 2;
/// Most chunks that the owner is asked for in one turn. Many peers may want one in the same turn, and
/// the loop encodes each chunk for its link.
const CHUNKS_AT_ONCE_MAX: usize = 2;

/// The chunk of this machine's snapshot that a peer needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkWanted {
    /// The peer.
    pub to: PeerId,
    /// The last entry of the snapshot.
    pub index: Index,
    /// The first byte of the chunk. The owner chooses the length, at most 1 MiB.
    pub offset: u64,
}

/// The snapshots of this machine.
pub struct OwnSnapshots {
    /// The newest snapshot that is durable here: saved by this machine or installed from a peer.
    /// Its index only rises.
    newest: SnapshotMeta,

    /// The last snapshot that was begun. Memory may not hold its last entry any more when it is saved.
    begun: Option<SnapshotMeta>,

    /// The index of the older of the two kept snapshots. Entries up to it may go.
    older: Index,

    /// The disk was told that it may delete all entries up to here. At most `older`, or the index of
    /// the snapshot that was found at the start. Only rises.
    released: Index,

    /// The receiver of the chunk that the owner was asked for last. Receivers take turns in the order
    /// of their ids, so that a slow one gets its chunks beside fast ones.
    last_receiver: PeerId,
}

impl OwnSnapshots {
    /// The snapshot that was found on the disk, or the default one if there is none.
    pub fn new(newest: SnapshotMeta) -> OwnSnapshots {
        let released = newest.index;
        OwnSnapshots {
            newest,
            begun: None,
            older: released,
            released,
            last_receiver: PeerId(0),
        }
    }

    /// The newest durable snapshot.
    pub fn newest(&self) -> &SnapshotMeta {
        &self.newest
    }

    /// The snapshot for a peer that needs entries which are not in memory. `None` if the entries that
    /// follow it are not all there either: they were released while this member was alone.
    pub fn sendable(&self, log: &Log) -> Option<&SnapshotMeta> {
        Some(&self.newest).filter(|newest| log.keeps_after(newest.index))
    }

    /// A newer snapshot is durable: saved by this machine or installed from a peer.
    pub fn on_durable(&mut self, meta: SnapshotMeta) {
        self.newest = meta;
    }

    /// The disk may delete entries up to `through`. Returns whether that is more than before.
    fn release(&mut self, through: Index) -> bool {
        if through <= self.released {
            return false;
        }
        self.released = through;
        true
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, log: &Log) {
        assert!(
            self.released <= self.newest.index,
            "the disk keeps what no snapshot covers"
        );
        assert!(
            log.start() <= self.newest.index.max(log.applied()),
            "memory keeps what is neither applied nor in a snapshot"
        );
    }
}

/// This machine's snapshots.
impl Raft {
    /// The newest durable snapshot.
    pub fn snapshot(&self) -> &SnapshotMeta {
        self.snapshots.newest()
    }

    /// The owner begins a snapshot of the state as of the applied entry at `index`. Returns its head.
    ///
    /// # Panics
    ///
    /// If `index` is not applied, or before the log.
    pub fn begin_snapshot(&mut self, index: Index) -> SnapshotMeta {
        let newest = self.snapshots.newest();
        if index == newest.index {
            return newest.clone();
        }
        assert!(
            index <= self.log.applied(),
            "a snapshot holds applied entries"
        );
        let meta = SnapshotMeta {
            cluster: newest.cluster,
            index,
            term: self.log.term_at(index).expect("the log reaches back to it"),
            configuration: self.configuration_at(index).clone(),
        };
        self.snapshots.begun = Some(meta.clone());
        meta
    }

    /// The owner has saved a snapshot of the state as of `index` durably. Entries up to `older` may go:
    /// the older of the two kept snapshots covers them.
    ///
    /// # Panics
    ///
    /// If `older` is after `index`, `index` is neither durable nor in a snapshot, or that snapshot is not
    /// the last one that was begun.
    pub fn on_snapshot_saved(&mut self, index: Index, older: Index) {
        assert!(older <= index, "the older snapshot is not newer");
        let durable = self.snapshots.newest().index.max(self.log.durable());
        assert!(index <= durable, "a snapshot holds durable entries");
        if index > self.snapshots.newest().index {
            let begun = self.snapshots.begun.take();
            let meta = begun.filter(|meta| meta.index == index);
            let meta = meta.expect("a snapshot is begun before it is saved");
            self.snapshots.on_durable(meta);
            self.marks.on_marked(index);
        }
        self.snapshots.older = older;
        self.release_covered();
        let needed = self.snapshots.newest().index.min(self.log.applied());
        self.membership.trim(needed);
        self.check_invariants();
    }

    /// Whether this member is the only one of its cluster, and no peer needs its entries.
    fn is_alone(&self) -> bool {
        self.configuration().members.len() == 1 && self.tracker.is_empty()
    }

    /// All entries up to `index` are applied. A lone leader releases them but for the last ones, though
    /// no snapshot covers them yet. Its disk has them, and a machine that joins it gets the next
    /// snapshot ([`Raft::must_snapshot_for_peer`]). One that joins a young cluster finds all entries in
    /// memory.
    pub(super) fn on_log_applied(&mut self, index: Index) {
        self.log.on_applied(index);
        let bytes_kept = self.memory.lone_log_bytes;
        let is_long = self.log.memory_bytes() > 2 * bytes_kept;
        if is_long && self.role == RaftRole::Leader && self.is_alone() {
            let through = self.log.applied().min(self.log.durable());
            self.log.shrink(through, bytes_kept);
        }
    }

    /// Whether a snapshot is due for a peer: this member was alone when it released the entries that
    /// follow its newest one.
    pub fn must_snapshot_for_peer(&self) -> bool {
        !self.tracker.is_empty() && self.snapshots.sendable(&self.log).is_none()
    }

    /// Releases what the snapshots cover if the log is full: a receiver of one may have ended or become
    /// silent or stuck, and a log that does not grow gets no further snapshot.
    pub(super) fn maybe_release_covered(&mut self) {
        if self.is_log_full() {
            self.release_covered();
        }
    }

    /// Releases the entries that the snapshots cover.
    ///
    /// In memory, entries that the newest snapshot covers are kept for followers that are a little
    /// behind, as long as they take little. Entries after a snapshot that is being sent stay, unless
    /// the receiver is silent, has no room for it, or gets no further. Such a peer starts over with a
    /// newer snapshot.
    fn release_covered(&mut self) {
        // Entries after this one are kept for a receiver.
        let mut sending = Index(u64::MAX);
        for peer in self.tracker.iter() {
            if let Some(sent) = peer.kept_snapshot_index(self.now_us)
                && !self.is_silent(peer, self.now_us)
            {
                sending = sending.min(sent);
            }
        }
        let through = self.snapshots.older.min(self.log.applied()).min(sending);
        // A lone member has no peer that may need entries: its memory holds none that the newest
        // snapshot covers. The disk keeps them, in case the newest snapshot is damaged.
        let start = if self.is_alone() {
            self.snapshots.newest().index
        } else {
            through
        };
        if start > self.log.start() {
            self.log.release(start);
        }
        let newest = self.snapshots.newest().index.min(self.log.applied());
        self.log
            .shrink(newest.min(sending), self.memory.log_bytes_kept);
        if self.snapshots.release(through) {
            self.persist(Persist::Release { through });
        }
    }
}

/// The transfer to a peer.
impl Raft {
    /// Asks the owner for the next chunks, at most `CHUNKS_AT_ONCE_MAX`. If more are wanted,
    /// `wants_chunks` says so.
    pub(super) fn request_chunks(&mut self) {
        for _ in 0..CHUNKS_AT_ONCE_MAX {
            let last = self.snapshots.last_receiver;
            let Some(to) = next_receiver(&self.tracker, &self.repair, last) else {
                return;
            };
            let peer = find_receiver(&mut self.tracker, &mut self.repair, to);
            let wanted = peer.and_then(|peer| peer.take_wanted_chunk(self.now_us));
            let (index, offset) = wanted.expect("it wants a chunk");
            let wanted = ChunkWanted { to, index, offset };
            self.out.chunks_wanted.push(wanted);
            self.snapshots.last_receiver = to;
        }
    }

    /// Whether `take_output` has further entries to release.
    pub fn wants_release(&self) -> bool {
        self.log.wants_release()
    }

    /// Whether `take_output` has further chunks to ask for.
    pub fn wants_chunks(&self) -> bool {
        next_receiver(&self.tracker, &self.repair, PeerId(0)).is_some()
    }

    /// The owner has read a chunk: its bytes, and whether it is the last one. `None`: it has that
    /// snapshot no more, or could not read it.
    pub fn on_chunk(&mut self, now: Now, wanted: ChunkWanted, data: Option<(Box<[u8]>, bool)>) {
        self.on_input(now);
        let Some(peer) = find_receiver(&mut self.tracker, &mut self.repair, wanted.to) else {
            return;
        };
        let Some(meta) = peer.snapshot_of_chunk(wanted.index, wanted.offset) else {
            return;
        };
        if let Some((data, done)) = data {
            let rpc = Rpc::InstallSnapshot {
                meta: meta.clone(),
                offset: wanted.offset,
                done,
                data,
            };
            let leads = self.role == RaftRole::Leader;
            let term = if leads { self.current_term } else { Term::NONE };
            self.send_in(wanted.to, term, rpc);
        } else {
            let newest = self.snapshots.newest();
            peer.become_snapshot(newest, self.now_us);
            if wanted.index == newest.index {
                // The newest snapshot cannot be read, perhaps for good. Trying again at once would
                // not end.
                peer.delay_chunk(self.now_us);
            }
        }
        self.check_invariants();
    }

    /// A receiver wants the chunk at `offset` of the snapshot that ends at `index`.
    pub(super) fn on_snapshot_reply(&mut self, from: PeerId, index: Index, offset: u64) {
        let Some(peer) = find_receiver(&mut self.tracker, &mut self.repair, from) else {
            return;
        };
        peer.on_heard(self.now_us);
        let is_outdated = peer
            .snapshot_index()
            .is_some_and(|sending| !self.log.keeps_after(sending));
        if is_outdated {
            // The receiver was silent or stuck, so the entries that would have to follow this snapshot are
            // released, or will be in one of the next turns.
            peer.become_snapshot(self.snapshots.newest(), self.now_us);
        } else {
            peer.on_chunk_wanted(index, offset, self.now_us);
        }
    }

    /// A receiver has no room for the snapshot that ends at `index`.
    pub(super) fn on_snapshot_refused(&mut self, from: PeerId, index: Index) {
        if let Some(peer) = find_receiver(&mut self.tracker, &mut self.repair, from) {
            peer.on_heard(self.now_us);
            peer.on_snapshot_refused(index, self.now_us);
        }
    }

    /// Sends each chunk again that its receiver has not confirmed in time.
    pub(super) fn retry_chunks(&mut self) {
        for peer in receivers(&mut self.tracker, &mut self.repair) {
            let syncs_us = CHUNK_PATIENCE_SYNCS * u64::from(peer.sync_us());
            let line_us = allowance_us(self.round_trips.of(peer.id()));
            let patience_us = self.election.timeout_us().max(syncs_us) + line_us;
            peer.retry_chunk(patience_us, self.now_us);
            peer.maybe_offer_again(self.snapshots.newest(), self.now_us);
        }
    }

    /// An estimate of the memory of the log, in bytes.
    pub fn log_memory_bytes(&self) -> u64 {
        self.log.memory_bytes()
    }

    fn is_log_full(&self) -> bool {
        self.log.memory_bytes() > self.memory.log_bytes_max
    }
}

/// All peers that may be sent a snapshot: those of a leader, or the one that is helped.
fn receivers<'a>(
    tracker: &'a mut Tracker,
    repair: &'a mut Repair,
) -> impl Iterator<Item = &'a mut Progress> {
    tracker.iter_mut().chain(repair.helping_mut())
}

/// The receiver whose turn it is: of those that want a chunk, the one with the lowest id after
/// `last`, else the one with the lowest id.
fn next_receiver(tracker: &Tracker, repair: &Repair, last: PeerId) -> Option<PeerId> {
    let peers = tracker.iter().chain(repair.helping());
    let wanting = peers.filter(|peer| peer.wants_chunk()).map(Progress::id);
    wanting.min_by_key(|id| (*id <= last, *id))
}

fn find_receiver<'a>(
    tracker: &'a mut Tracker,
    repair: &'a mut Repair,
    id: PeerId,
) -> Option<&'a mut Progress> {
    receivers(tracker, repair).find(|peer| peer.id() == id)
}

#[cfg(test)]
mod tests {
    use super::super::message::{Configuration, Member};
    use super::*;

    #[test]
    fn receivers_are_served_in_turn() {
        let mut tracker = Tracker::default();
        let member = |id| Member {
            id: PeerId(id),
            ..Member::default()
        };
        let configuration = Configuration {
            members: (1..=4).map(member).collect(),
            ..Configuration::default()
        };
        tracker.refresh(Index(1), &configuration, PeerId(1), Index(2), 0);
        let mut repair = Repair::new(Term(1));
        let next = |tracker: &Tracker, repair: &Repair, last| {
            next_receiver(tracker, repair, PeerId(last)).map(|id| id.0)
        };
        assert_eq!(next(&tracker, &repair, 0), None, "they are probed");
        for peer in tracker.iter_mut() {
            peer.become_snapshot(&SnapshotMeta::default(), 0);
        }
        let order = [0, 2, 3, 4].map(|last| next(&tracker, &repair, last));
        assert_eq!(order, [Some(2), Some(3), Some(4), Some(2)]);
        let peer = find_receiver(&mut tracker, &mut repair, PeerId(3));
        assert!(peer.is_some_and(|peer| peer.take_wanted_chunk(7).is_some()));
        assert_eq!(next(&tracker, &repair, 2), Some(4), "3 has been asked for");
    }
}
