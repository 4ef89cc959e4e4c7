//! The room in this member's log on the disk.
//!
//! Nothing waits for room. The owner tells how many bytes the log takes for certain
//! (`Raft::on_room`), each record uses some of them up, and what does not fit is not taken:
//! - a follower takes the entries of an append as far as they fit, and each reply tells how many
//!   bytes are free (`following`);
//! - a leader refuses proposals (`replication`);
//! - a repair waits for the next round of fetches (`repair`), and a snapshot is asked for again
//!   (`install`).
//!
//! So the disk never holds records back, and a vote compares the log that is really held.
//!
//! A disk with room may be slower than the records come. So the bytes that wait for a sync are
//! bounded too (`LogRoom::is_behind`). Beyond the bound a leader refuses proposals, and a follower
//! takes no entries and replies that no bytes are free. Start reading at [`LogRoom`].
use std::collections::VecDeque;

use super::message::{Entry, Lsn, Persist, SnapshotMeta};
use super::snapshot_head::encode_meta;
use super::{Progress, Raft, RaftRole};

/// No more free bytes are counted than this: 1 GiB.
pub const FREE_BYTES_MAX: u64 = 1 << 30;

/// Most bytes that a record takes besides the body of its entry or the head of its snapshot: the
/// header, the padding, and the record that ends the batch.
pub const RECORD_EXTRA_BYTES: u64 = 80;

/// Clients' entries are refused while less than this is free beyond what is on the way, so that
/// changes of membership and expiry still fit.
pub const CLIENT_RESERVE_BYTES: u64 = 1 << 20;

/// The longest entry that keeps a cluster going, in bytes.
const DUTY_BYTES_MAX: usize = 4 << 10;

/// The longest body of an entry, in bytes: that of the format of the log.
pub const BODY_BYTES_MAX: u64 = (1 << 24) - 1;

/// Entries are taken only while at least this much stays free: repairs and installed snapshots
/// need it.
pub const ENTRY_RESERVE_BYTES: u64 = 32 << 10;

/// The room in the log on the disk.
pub struct LogRoom {
    /// No entries are taken while records of more bytes are handed to the disk and not synced. A sync
    /// may take any time, so the records that come meanwhile need a bound. Never changes.
    unsynced_bytes_max: u64,
    /// The bytes that records may still use, less than `FREE_BYTES_MAX`. Rises with a report of the
    /// owner, falls with each record. `None`: the owner has reported more.
    bound_bytes: Option<u64>,
    /// The bytes of all records so far.
    recorded_bytes: u64,
    /// Each hand-over of records to the disk that is not synced: the number of its last record, and
    /// the cost of its records in bytes. Oldest first.
    unsynced: VecDeque<(Lsn, u64)>,
    /// The sum of the costs in `unsynced`.
    unsynced_bytes: u64,
}

impl LogRoom {
    /// The disk takes `free_bytes` for certain. At most about `unsynced_bytes_max` bytes wait for a
    /// sync.
    pub fn new(free_bytes: u64, unsynced_bytes_max: u64) -> LogRoom {
        LogRoom {
            unsynced_bytes_max,
            bound_bytes: (free_bytes < FREE_BYTES_MAX).then_some(free_bytes),
            recorded_bytes: 0,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
        }
    }

    /// The owner takes `records` for the disk; the last one has the number `lsn`.
    pub fn on_handed(&mut self, lsn: Lsn, records: &[Persist]) {
        let bytes: u64 = records.iter().map(record_cost).sum();
        if bytes > 0 {
            self.unsynced.push_back((lsn, bytes));
            self.unsynced_bytes += bytes;
        }
    }

    /// The records up to `lsn` are durable.
    pub fn on_synced(&mut self, lsn: Lsn) {
        while let Some((last, bytes)) = self.unsynced.front().copied()
            && last <= lsn
        {
            self.unsynced.pop_front();
            self.unsynced_bytes -= bytes;
        }
    }

    /// Whether so many records wait for a sync that no further entries are taken.
    pub fn is_behind(&self) -> bool {
        self.unsynced_bytes > self.unsynced_bytes_max
    }

    /// The free bytes that a reply tells the leader: 0 while too many records wait for a sync, else
    /// at least 1, because a disk without room is another matter. The acknowledgement after that
    /// sync tells the real number.
    pub fn offered_bytes(&self) -> u64 {
        if self.is_behind() {
            0
        } else {
            self.free_bytes().max(1)
        }
    }

    /// The bytes of all records since the start, as they are counted here.
    pub fn recorded_bytes(&self) -> u64 {
        self.recorded_bytes
    }

    /// The bytes that records may still use; at most `FREE_BYTES_MAX`.
    pub fn free_bytes(&self) -> u64 {
        self.bound_bytes.unwrap_or(FREE_BYTES_MAX)
    }

    /// The disk takes `free_bytes` for certain, besides everything that it was handed.
    /// `not_handed_bytes` is the cost of the records that it was not handed yet.
    fn on_report(&mut self, free_bytes: u64, not_handed_bytes: u64) {
        let left = free_bytes.saturating_sub(not_handed_bytes);
        self.bound_bytes = (left < FREE_BYTES_MAX).then_some(left);
    }

    /// Whether an entry with a body of `bytes` bytes fits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.free_bytes() >= bytes as u64 + RECORD_EXTRA_BYTES + ENTRY_RESERVE_BYTES
    }

    /// Whether a record that cannot be refused for long fits: a repair, or an installed snapshot.
    pub fn fits_in_reserve(&self, bytes: usize) -> bool {
        self.free_bytes() >= bytes as u64 + RECORD_EXTRA_BYTES
    }

    /// A record of `bytes` bytes is handed to the disk.
    fn consume(&mut self, bytes: u64) {
        self.recorded_bytes = self.recorded_bytes.saturating_add(bytes);
        if let Some(left) = &mut self.bound_bytes {
            *left = left.saturating_sub(bytes);
        }
    }
}

/// The most bytes that an entry takes in the log.
pub fn entry_cost(entry: &Entry) -> u64 {
    entry.size() as u64 + RECORD_EXTRA_BYTES
}

/// The most bytes that a record takes in the log.
pub fn record_cost(record: &Persist) -> u64 {
    match record {
        Persist::Append { entries, .. } => entries.iter().map(entry_cost).sum(),
        Persist::Repair(entry) => entry_cost(entry),
        Persist::Installed { meta, .. } => {
            let mut head = Vec::new();
            encode_meta(meta, &mut head);
            head.len() as u64 + RECORD_EXTRA_BYTES
        }
        Persist::Mark { .. } => RECORD_EXTRA_BYTES,
        Persist::Release { .. } => 0,
    }
}

impl Raft {
    /// The log on the disk takes `free_bytes` bytes for certain, besides all records that the owner
    /// has taken so far (`take_output`).
    pub fn on_room(&mut self, free_bytes: u64) {
        let not_handed_bytes = self.out.persist.iter().map(record_cost).sum();
        self.room.on_report(free_bytes, not_handed_bytes);
        self.maybe_mark_again();
        self.check_invariants();
    }

    /// Counts the cost of a record, or of one more entry of a record.
    pub(super) fn consume_room(&mut self, record: &Persist) {
        self.room.consume(record_cost(record));
    }

    pub(super) fn consume_room_of(&mut self, entry: &Entry) {
        self.room.consume(entry_cost(entry));
    }

    /// Whether an entry with a body of `bytes` bytes fits. If not, the owner is asked for the room.
    pub(super) fn has_room_for_body(&mut self, bytes: usize) -> bool {
        if bytes as u64 > BODY_BYTES_MAX {
            return false;
        }
        if self.room.fits(bytes) {
            return true;
        }
        self.want_room(bytes as u64);
        false
    }

    /// Whether this follower takes an entry with a body of `bytes` bytes now.
    pub(super) fn takes_body(&mut self, bytes: usize) -> bool {
        !self.room.is_behind() && self.has_room_for_body(bytes)
    }

    /// Asks the owner for the room of an entry of `bytes` bytes, unless it is there. A peer may
    /// claim any size; no entry is longer than `BODY_BYTES_MAX`.
    pub(super) fn want_room(&mut self, bytes: u64) {
        let bytes = bytes.min(BODY_BYTES_MAX);
        if self.room.fits(bytes as usize) {
            return;
        }
        let wanted = bytes + RECORD_EXTRA_BYTES + ENTRY_RESERVE_BYTES;
        self.out.wanted_room_bytes = self.out.wanted_room_bytes.max(Some(wanted));
    }

    /// Whether the record of an installed snapshot fits.
    pub(super) fn has_room_for_snapshot(&self, meta: &SnapshotMeta) -> bool {
        let mut head = Vec::new();
        encode_meta(meta, &mut head);
        self.room.fits_in_reserve(head.len())
    }

    /// Whether there is room for the entries that keep a cluster going: no-ops, changes of
    /// membership, expiry.
    pub fn has_duty_room(&self) -> bool {
        self.room.fits(DUTY_BYTES_MAX)
    }

    /// Whether this member has room for entries of clients.
    pub fn has_client_room(&self) -> bool {
        self.room.free_bytes() >= CLIENT_RESERVE_BYTES
    }

    /// Whether a peer has answered this leader that it has no room for entries of clients.
    pub fn is_out_of_room(&self, peer: &Progress) -> bool {
        peer.has_answered() && !peer.has_client_room()
    }

    /// Whether this leader and the voters that have room for entries of clients are a majority: a
    /// full disk outside of it costs the cluster nothing.
    ///
    /// A silent voter takes no entries, whatever it reported last. If only the silent voters are
    /// missed, it is not for want of room: this leader then steps down.
    ///
    /// `will_have_room`: this leader has room, or gets some without more than a moment's work.
    pub fn has_majority_with_room(&self, will_have_room: bool) -> bool {
        let is_silent = |peer: &Progress| self.is_silent(peer, self.now_us);
        if !self.is_majority(|peer| !is_silent(peer)) {
            return true;
        }
        let has_room = |peer: &Progress| peer.has_client_room() && !is_silent(peer);
        let mut count = self.tracker.voters().filter(|p| has_room(p)).count();
        let is_voter = self.configuration().is_voter(self.id);
        if is_voter && (will_have_room || self.has_client_room()) {
            count += 1;
        }
        count >= self.configuration().majority()
    }

    /// Whether this member leads a majority that has room, without having room itself: it should
    /// hand over.
    pub fn is_full_leader(&self) -> bool {
        let leads = self.role == RaftRole::Leader;
        leads && !self.has_client_room() && self.has_majority_with_room(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{EntryBody, Index, Term};
    use super::*;

    #[test]
    fn the_disk_is_behind_while_too_much_waits_for_a_sync() {
        let unsynced_bytes_max = 8 << 20;
        let mut room = LogRoom::new(FREE_BYTES_MAX, unsynced_bytes_max);
        let record = |bytes: u64| Persist::Append {
            entries: vec![Entry {
                term: Term(1),
                index: Index(1),
                body: EntryBody::Good(vec![0; bytes as usize].into()),
            }],
            commit: Index(0),
        };
        let half = record(unsynced_bytes_max / 2);
        room.on_handed(Lsn(1), std::slice::from_ref(&half));
        room.on_handed(Lsn(1), &[]);
        assert!(!room.is_behind());
        room.on_handed(Lsn(2), &[half]);
        assert!(room.is_behind());
        assert_eq!(room.offered_bytes(), 0);
        room.on_synced(Lsn(0));
        assert!(room.is_behind());
        room.on_synced(Lsn(1));
        assert!(!room.is_behind());
        assert_eq!(room.offered_bytes(), FREE_BYTES_MAX);
        room.on_synced(Lsn(2));
        assert_eq!(room.unsynced_bytes, 0);
        room.on_report(0, 0);
        assert_eq!(room.offered_bytes(), 1, "no room, and not behind");
    }

    #[test]
    fn what_is_not_handed_to_the_disk_yet_is_not_free() {
        let mut room = LogRoom::new(FREE_BYTES_MAX, 0);
        room.consume(1);
        assert_eq!(room.free_bytes(), FREE_BYTES_MAX);
        room.on_report(100_000, 10_000);
        assert_eq!(room.free_bytes(), 90_000);
        room.consume(50_000);
        assert!(room.fits(40_000 - 80 - (32 << 10)));
        assert!(!room.fits(40_001 - 80 - (32 << 10)));
        assert!(room.fits_in_reserve(39_920));
        assert!(!room.fits_in_reserve(39_921));
        room.on_report(u64::MAX, 0);
        assert_eq!(room.free_bytes(), FREE_BYTES_MAX);
    }
}
