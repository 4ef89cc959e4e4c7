//! Snapshots on the receiving side (thesis 5.1): chunks come in, the owner installs the snapshot,
//! and the log continues after it. The sending side is in `snapshot`.
//!
//! Each chunk that is in order is passed to the owner (`RaftOutput::chunks`). The next one is asked
//! for once the owner has reported it (`Raft::on_chunk_received`). Chunks have no checksum of their
//! own: the frames of a link have one, and so has each part of the snapshot file. After the last
//! chunk the owner verifies the whole snapshot, restores its state and puts it in place durably, then
//! reports it (`Raft::on_installed`). The acknowledgement waits until the record that starts the log
//! after the snapshot is durable too. Start reading at `Raft::on_install_snapshot`.
use super::Raft;
use super::message::{Index, PeerId, Persist, Rpc, SnapshotMeta, Term};
use crate::core::timer::Now;

/// A chunk, in order, of a snapshot that a peer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The snapshot.
    pub meta: SnapshotMeta,
    /// The place of `data` in the snapshot, in bytes. 0 starts a new file; else the chunk follows
    /// the one before it.
    pub offset: u64,
    /// The bytes.
    pub data: Box<[u8]>,
    /// Whether this is the last chunk. If so, the owner installs the snapshot and answers with
    /// `Raft::on_installed`, not with `Raft::on_chunk_received`.
    pub done: bool,
}

/// Most chunks that wait for the owner. A transfer has one at most, so another sender that begins
/// meanwhile need not wait.
const UNREPORTED_MAX: usize = 2;

/// The snapshot that a peer sends to this member; one at a time.
#[derive(Default)]
pub struct Incoming {
    /// `None` if none is sent.
    snapshot: Option<IncomingSnapshot>,
    /// How many chunks were passed to the owner that it has not reported; at most `UNREPORTED_MAX`.
    /// It reports each once, in order.
    unreported: usize,
}

/// How far a snapshot from a peer is.
struct IncomingSnapshot {
    /// The sender.
    from: PeerId,
    /// The snapshot.
    meta: SnapshotMeta,
    /// The first byte that is missing. All bytes before it are with the owner.
    offset: u64,
    /// Whether the owner has all bytes and installs them.
    is_complete: bool,
    /// When the last chunk arrived, or was reported, in microseconds of the monotonic clock.
    heard_us: u64,
}

impl Incoming {
    /// Whether the owner installs a snapshot.
    pub fn is_installing(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|s| s.is_complete)
    }

    /// Whether another peer than `from` sends a snapshot, and was heard within `patience_us`
    /// microseconds.
    fn is_sent_by_other(&self, from: PeerId, patience_us: u64, now_us: u64) -> bool {
        let is_other = |s: &IncomingSnapshot| s.from != from && now_us <= s.heard_us + patience_us;
        self.snapshot.as_ref().is_some_and(is_other)
    }

    /// The bytes of the snapshot that is being received; 0 without one.
    pub fn received_bytes(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |known| known.offset)
    }

    /// The first missing byte of the snapshot `meta` from `from`: 0 unless it is the one that is
    /// sent now.
    fn missing_from(&self, from: PeerId, meta: &SnapshotMeta) -> u64 {
        match &self.snapshot {
            Some(known) if known.from == from && known.meta == *meta => known.offset,
            _ => 0,
        }
    }

    /// Whether a chunk from `from` comes too early: the owner has not reported the one before it.
    /// The chunk is dropped. If it is of the transfer that is under way, the report asks for it
    /// again; otherwise its sender repeats it.
    fn is_owner_behind(&self, from: PeerId, meta: &SnapshotMeta) -> bool {
        let is_same = |known: &IncomingSnapshot| known.from == from && known.meta == *meta;
        let unreported_max = if self.snapshot.as_ref().is_some_and(is_same) {
            1
        } else {
            UNREPORTED_MAX
        };
        self.unreported >= unreported_max
    }

    /// A chunk was passed to the owner; the next one starts at `snapshot.offset`.
    fn on_chunk(&mut self, snapshot: IncomingSnapshot) {
        self.snapshot = Some(snapshot);
        self.unreported += 1;
    }

    /// The owner has written the oldest chunk that it had. Returns the transfer whose next chunk it
    /// takes; `None` while it has others, and if no further chunk is wanted.
    fn on_received(&mut self, now_us: u64) -> Option<&IncomingSnapshot> {
        self.on_reported();
        let known = self.snapshot.as_mut().filter(|s| !s.is_complete)?;
        known.heard_us = now_us;
        (self.unreported == 0).then_some(known)
    }

    /// The owner has reported the oldest chunk that it had.
    fn on_reported(&mut self) {
        self.unreported = self.unreported.saturating_sub(1);
    }

    /// The installation of `meta` has ended. Returns the sender. `None` if its transfer is not known
    /// any more: the owner has refused an earlier snapshot meanwhile (`take_refused`).
    fn take_installed(&mut self, meta: &SnapshotMeta) -> Option<PeerId> {
        self.on_reported();
        let snapshot = self
            .snapshot
            .take_if(|s| s.is_complete && s.meta == *meta)?;
        Some(snapshot.from)
    }

    /// The owner has dropped a chunk, and with it the snapshot. Returns the sender and the last entry
    /// of the snapshot that is being sent; `None` if none is, because the owner has dropped another
    /// chunk of it before.
    ///
    /// The dropped chunk may be of an earlier snapshot than the one that is sent now. Then this one is
    /// sent again from its first byte nevertheless.
    fn take_refused(&mut self) -> Option<(PeerId, Index)> {
        self.on_reported();
        let snapshot = self.snapshot.take()?;
        Some((snapshot.from, snapshot.meta.index))
    }

    /// This member leads from now on: it needs no snapshot.
    pub fn on_become_leader(&mut self) {
        self.snapshot = None;
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, own_id: PeerId, leads: bool) {
        assert!(self.unreported <= UNREPORTED_MAX, "chunks have a bound");
        if let Some(snapshot) = &self.snapshot {
            assert!(!leads, "a leader needs no snapshot");
            assert_ne!(snapshot.from, own_id, "a peer sends a snapshot");
        }
    }
}

impl Raft {
    /// A chunk of a snapshot arrived, from the leader of the current term, or from a member that
    /// helps to repair this log (`Term::NONE`).
    pub(super) fn on_install_snapshot(&mut self, from: PeerId, term: Term, rpc: Rpc) {
        let Rpc::InstallSnapshot {
            meta,
            offset,
            done,
            data,
        } = rpc
        else {
            unreachable!("dispatched by kind");
        };
        let index = meta.index;
        let is_leader = term != Term::NONE;
        if is_leader {
            self.on_leader_contact(from);
        }
        if self.is_mute() || !self.lacks(index) {
            self.acknowledge_again();
            return;
        }
        let is_early = self.incoming.is_owner_behind(from, &meta);
        if is_early || !self.accepts_snapshot_from(from, is_leader, index) {
            return;
        }
        let expected = self.incoming.missing_from(from, &meta);
        if offset != expected {
            self.request_chunk(from, index, expected);
            return;
        }
        let next = offset + data.len() as u64;
        self.incoming.on_chunk(IncomingSnapshot {
            from,
            meta: meta.clone(),
            offset: next,
            is_complete: done,
            heard_us: self.now_us,
        });
        self.out.chunks.push(Chunk {
            meta,
            offset,
            data,
            done,
        });
    }

    /// Whether a needed snapshot is taken from `from` now.
    /// - None is taken while another one is being installed.
    /// - A member that does not lead may only repair damage, and not interrupt another transfer.
    ///   The leader may.
    fn accepts_snapshot_from(&self, from: PeerId, is_leader: bool, index: Index) -> bool {
        if self.incoming.is_installing() {
            return false;
        }
        let patience_us = self.answer_patience_us();
        let is_busy = self
            .incoming
            .is_sent_by_other(from, patience_us, self.now_us);
        is_leader || (self.covers_damage(index) && !is_busy)
    }

    fn request_chunk(&mut self, from: PeerId, index: Index, offset: u64) {
        self.send(from, Rpc::SnapshotReply { index, offset });
    }

    /// The owner has written a chunk that is not the last one. The next one is asked for only now, so
    /// that a slow disk holds the sender back.
    pub fn on_chunk_received(&mut self, now: Now) {
        self.on_input(now);
        if let Some(known) = self.incoming.on_received(now.mono_us) {
            let (from, index, offset) = (known.from, known.meta.index, known.offset);
            self.request_chunk(from, index, offset);
        }
        self.check_invariants();
    }

    /// The owner has installed the snapshot `meta` durably and restored its state from it.
    ///
    /// If the log on the disk has no room for the record of it, the log stays as it is, and the
    /// snapshot is offered again. Until then a restart would use it, which is as good.
    pub fn on_installed(&mut self, now: Now, meta: SnapshotMeta) {
        self.on_input(now);
        let from = self.incoming.take_installed(&meta);
        if self.lacks(meta.index) {
            self.maybe_install(from, meta);
        }
        self.check_invariants();
    }

    /// The snapshot did not verify, and the owner has dropped it. It is sent again.
    pub fn on_snapshot_unusable(&mut self, now: Now) {
        self.on_input(now);
        if let Some((from, index)) = self.incoming.take_refused() {
            self.request_chunk(from, index, 0);
        }
        self.check_invariants();
    }

    /// The disk has no room for the snapshot, and the owner has dropped what it had of it.
    pub fn on_no_room_for_snapshot(&mut self, now: Now) {
        self.on_input(now);
        if let Some((from, index)) = self.incoming.take_refused() {
            self.send(from, Rpc::SnapshotRefused { index });
        }
        self.check_invariants();
    }

    fn maybe_install(&mut self, from: Option<PeerId>, meta: SnapshotMeta) -> bool {
        if !self.has_room_for_snapshot(&meta) {
            let index = meta.index;
            if let Some(from) = from {
                self.send(from, Rpc::SnapshotRefused { index });
            }
            return false;
        }
        self.install(meta);
        true
    }

    /// Whether a snapshot that ends at `index` brings anything. Entries of another leader may have
    /// come while it was sent.
    fn lacks(&self, index: Index) -> bool {
        index > self.log.commit_index() || self.covers_damage(index)
    }

    /// Whether a snapshot that ends at `index` replaces a damaged entry.
    fn covers_damage(&self, index: Index) -> bool {
        self.log.first_damaged().is_some_and(|first| first <= index)
    }

    /// Continues the log after the installed snapshot. The entries after it stay only if the log
    /// has the last entry of the snapshot: then all entries before it are the same (thesis 5.1).
    fn install(&mut self, meta: SnapshotMeta) {
        let SnapshotMeta { index, term, .. } = meta;
        let is_in_log = index > self.log.start() && index <= self.log.last_index();
        let is_same = self.log.term_at(index) == Some(term);
        let keep_tail = is_in_log && is_same;
        if term > self.current_term {
            // Only a snapshot of a member that does not lead can be of a later term.
            self.become_follower(term, None);
        }
        let lsn = self.persist(Persist::Installed {
            meta: meta.clone(),
            keep_tail,
        });
        self.log.install(index, term, keep_tail, lsn);
        self.marks.on_marked(index);
        let configuration = meta.configuration.clone();
        // The later configurations were derived from entries that may be damaged.
        self.membership.on_install(index, configuration);
        self.rebuild_configurations(index.next());
        self.snapshots.on_durable(meta);
        if !keep_tail {
            self.leader_match.on_truncate(index.next());
        }
        self.leader_match.on_verified(index);
        self.send_fetches();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index: Index(index),
            ..SnapshotMeta::default()
        }
    }

    fn incoming(is_complete: bool) -> Incoming {
        let mut incoming = Incoming::default();
        incoming.on_chunk(IncomingSnapshot {
            from: PeerId(2),
            meta: meta(9),
            offset: 8,
            is_complete,
            heard_us: 100,
        });
        incoming
    }

    #[test]
    fn a_transfer_continues_only_with_its_sender_and_snapshot() {
        let incoming = incoming(false);
        assert_eq!(incoming.missing_from(PeerId(2), &meta(9)), 8);
        assert_eq!(incoming.missing_from(PeerId(3), &meta(9)), 0);
        assert_eq!(incoming.missing_from(PeerId(2), &meta(10)), 0);
        assert!(!incoming.is_installing());
    }

    #[test]
    fn a_silent_sender_may_be_replaced() {
        let incoming = incoming(false);
        assert!(incoming.is_sent_by_other(PeerId(3), 50, 150));
        assert!(!incoming.is_sent_by_other(PeerId(3), 50, 151));
        assert!(!incoming.is_sent_by_other(PeerId(2), 50, 100));
    }

    /// A slow disk holds a sender back; another sender may begin meanwhile.
    #[test]
    fn the_next_chunk_waits_for_the_report_of_the_one_before() {
        let mut incoming = incoming(false);
        assert!(incoming.is_owner_behind(PeerId(2), &meta(9)));
        assert!(!incoming.is_owner_behind(PeerId(3), &meta(10)));
        incoming.on_chunk(IncomingSnapshot {
            from: PeerId(3),
            meta: meta(10),
            offset: 5,
            is_complete: false,
            heard_us: 200,
        });
        assert!(incoming.is_owner_behind(PeerId(2), &meta(9)));
        assert!(incoming.on_received(300).is_none(), "it was of the former");
        assert!(incoming.is_owner_behind(PeerId(3), &meta(10)));
        let known = incoming.on_received(300).expect("the next one is wanted");
        assert_eq!((known.from, known.offset), (PeerId(3), 5));
        assert!(!incoming.is_owner_behind(PeerId(3), &meta(10)));
    }

    #[test]
    fn a_complete_snapshot_is_installed_once() {
        let mut incoming = incoming(true);
        assert!(incoming.is_installing());
        assert_eq!(incoming.take_installed(&meta(8)), None);
        assert_eq!(incoming.take_installed(&meta(9)), Some(PeerId(2)));
        assert_eq!(incoming.take_installed(&meta(9)), None);
        assert!(!incoming.is_installing());
    }
}
