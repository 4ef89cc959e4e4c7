//! Snapshots (thesis 5): releasing the log behind one, and handing one to a member whose entries
//! are gone here.
//!
//! The bytes are the owner's: a leader asks it for a piece (`chunks_wanted`, `on_chunk`) and sends
//! it with its checksum; the receiver passes checked pieces on in order (`chunks`) and starts from
//! the log record that follows their installation (`on_installed`). One piece is under way at a
//! time, so a broken transfer goes on where it stopped.
use super::fault::RaftFault;
use super::progress::{Progress, ProgressState};
use super::{Index, PeerId, Persist, Raft, RaftRole, Rpc, SnapshotMeta, Term};
use crate::core::timer::Now;

/// While a snapshot is sent, the entries behind it stay; proposals wait (`Busy`) beyond this many
/// bytes of log.
const SENDING_LOG_BYTES_MAX: usize = 256 << 20;

/// A piece of this machine's snapshot that a member needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkWanted {
    pub to: PeerId,
    /// Which snapshot.
    pub index: Index,
    /// From which byte on; the owner chooses how much, at most 1 MiB.
    pub offset: u64,
}

/// A checked piece of the snapshot that the leader sends; `offset` 0 begins a new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub meta: SnapshotMeta,
    pub offset: u64,
    pub data: Box<[u8]>,
    /// The last piece: verify the whole, put it in place durably, then `on_installed`.
    pub done: bool,
}

/// A snapshot that is coming in.
pub struct Incoming {
    from: PeerId,
    meta: SnapshotMeta,
    offset: u64,
    /// All of it is with the owner.
    pub(super) done: bool,
    heard_us: u64,
}

// -- the own snapshots
impl Raft {
    /// A snapshot of the applied state at this index is durable; entries up to `release` may be
    /// forgotten (they are in the older of the two kept snapshots). What a snapshot on its way
    /// needs behind it stays, unless its receiver is silent: who was away for long begins anew.
    pub fn on_snapshot_saved(&mut self, index: Index, release: Index) {
        assert!(release <= index, "the older snapshot is the older");
        let whole = self.snapshot.index.max(self.log.durable());
        assert!(index <= whole, "a snapshot holds what is durable");
        if index > self.snapshot.index {
            self.snapshot = self.snapshot_meta(index);
        }
        let sending = self.peers.iter().filter_map(|p| match p.flow {
            ProgressState::Snapshot { index, .. } => {
                (!self.is_silent(p, self.now_us)).then_some(index)
            }
            ProgressState::Probe { .. } | ProgressState::Replicate => None,
        });
        let through = sending.fold(release, Index::min).min(self.last_applied);
        // A lone member has no laggards: memory is not spent on entries for them.
        let alone = self.configuration().members.len() == 1 && self.peers.is_empty();
        let start = if alone { self.snapshot.index } else { through };
        if start > self.log.start() {
            self.log.release(start);
        }
        if through > self.released {
            self.released = through;
            self.persist(Persist::Release { through });
        }
        self.trim_configurations();
        self.check_invariants();
    }

    /// The newest durable snapshot.
    pub fn snapshot(&self) -> &SnapshotMeta {
        &self.snapshot
    }
}

// -- the sender's side: the leader, or whoever was asked for a damaged entry that is behind its
// snapshot (`repair`)
impl Raft {
    /// Asks the owner for the next piece.
    pub(super) fn want_chunk(peer: &mut Progress, now_us: u64, wanted: &mut Vec<ChunkWanted>) {
        if let ProgressState::Snapshot {
            index,
            offset,
            asked_us: 0,
        } = peer.flow
        {
            peer.asked(now_us);
            wanted.push(ChunkWanted {
                to: peer.id,
                index,
                offset,
            });
        }
    }

    /// The owner has read a piece: the bytes and whether they are the last; `None` when that
    /// snapshot is gone.
    pub fn on_chunk(&mut self, now: Now, wanted: ChunkWanted, data: Option<(Box<[u8]>, bool)>) {
        self.now_us = now.mono_us;
        let leads = self.role == RaftRole::Leader;
        let term = if leads { self.current_term } else { Term::NONE };
        let ChunkWanted { to, index, offset } = wanted;
        let at = |flow| matches!(flow, ProgressState::Snapshot { index: i, offset: o, .. } if (i, o) == (index, offset));
        let mut receivers = self.peers.iter_mut().chain(self.repair.helping_mut());
        let Some(peer) = receivers.find(|p| p.id == to && at(p.flow)) else {
            return;
        };
        let Some((data, done)) = data else {
            let newest = index == self.snapshot.index;
            peer.become_snapshot(&self.snapshot);
            if newest {
                // Not at once: it may never be read.
                peer.asked(self.now_us);
            }
            return;
        };
        let rpc = Rpc::InstallSnapshot {
            meta: peer.sending.clone(),
            offset,
            crc: crc32fast::hash(&data),
            done,
            data,
        };
        self.send_in(to, term, rpc);
        self.check_invariants();
    }

    pub(super) fn on_snapshot_reply(&mut self, from: PeerId, of: Index, next: u64) {
        let mut receivers = self.peers.iter_mut().chain(self.repair.helping_mut());
        let Some(peer) = receivers.find(|p| p.id == from) else {
            return;
        };
        peer.hear(self.now_us);
        if matches!(peer.flow, ProgressState::Snapshot { index, .. } if index < self.log.start()) {
            // It was silent meanwhile, and what would have to follow is not here any more.
            return peer.become_snapshot(&self.snapshot);
        }
        if let ProgressState::Snapshot {
            index,
            offset,
            asked_us,
        } = &mut peer.flow
            && *index == of
            && *offset != next
        {
            (*offset, *asked_us) = (next, 0);
        }
    }

    /// Whether a transfer holds more of the log than memory has room for: then clients wait, not
    /// the transfer.
    pub(super) fn is_held_up(&self) -> bool {
        self.log.bytes() > SENDING_LOG_BYTES_MAX && self.peers.iter().any(Progress::is_in_snapshot)
    }

    /// A piece without an answer for an election timeout (or two syncs of that member) is sent
    /// again.
    pub(super) fn retry_chunks(&mut self) {
        for peer in self.peers.iter_mut().chain(self.repair.helping_mut()) {
            let patience_us = self.election_us.max(2 * u64::from(peer.sync_us));
            if let ProgressState::Snapshot { asked_us, .. } = &mut peer.flow
                && *asked_us + patience_us < self.now_us
            {
                *asked_us = 0;
            }
        }
    }
}

// -- the receiver's side
impl Raft {
    pub(super) fn on_install_snapshot(&mut self, from: PeerId, term: Term, rpc: Rpc) {
        let Rpc::InstallSnapshot {
            meta,
            offset,
            crc,
            done,
            data,
        } = rpc
        else {
            unreachable!("dispatched by kind");
        };
        let index = meta.index;
        let leads = term != Term::NONE;
        if leads {
            self.on_contact(from);
        }
        if self.amnesia || !self.lacks(index) {
            return self.acknowledge_again();
        }
        if !leads && !self.is_damaged(index) {
            return;
        }
        let known = self.incoming.as_ref();
        let fresh = |i: &Incoming| self.now_us <= i.heard_us + self.timeout_us();
        let other = known.is_some_and(|i| i.from != from && fresh(i));
        if known.is_some_and(|i| i.done) || (other && !leads) {
            return;
        }
        let fits = known.is_some_and(|i| i.from == from && i.meta == meta);
        let expected = known.filter(|_| fits).map_or(0, |i| i.offset);
        if offset != expected || crc32fast::hash(&data) != crc {
            return self.send(
                from,
                Rpc::SnapshotReply {
                    index,
                    offset: expected,
                },
            );
        }
        let next = offset + data.len() as u64;
        self.incoming = Some(Incoming {
            from,
            meta: meta.clone(),
            offset: next,
            done,
            heard_us: self.now_us,
        });
        self.out.chunks.push(Chunk {
            meta,
            offset,
            data,
            done,
        });
        if !done {
            self.send(
                from,
                Rpc::SnapshotReply {
                    index,
                    offset: next,
                },
            );
        }
    }

    /// The owner has put the snapshot in place durably and restored its state from it; or could not
    /// (`ok` false: it did not verify), then it comes again. The acknowledgement follows the
    /// sync of the log record that is left here.
    pub fn on_installed(&mut self, now: Now, ok: bool) {
        self.now_us = now.mono_us;
        let incoming = self.incoming.take().filter(|i| i.done);
        let Incoming { from, meta, .. } = incoming.expect("only a whole snapshot is installed");
        if !ok {
            self.send(
                from,
                Rpc::SnapshotReply {
                    index: meta.index,
                    offset: 0,
                },
            );
        } else if self.lacks(meta.index) {
            self.install(meta);
        }
        self.check_invariants();
    }

    /// Whether a snapshot up to `index` would bring anything: entries of another leader may have
    /// come meanwhile.
    fn lacks(&self, index: Index) -> bool {
        index > self.commit_index || self.is_damaged(index)
    }

    fn is_damaged(&self, index: Index) -> bool {
        self.log.first_unsound().is_some_and(|first| first <= index)
    }

    /// The rest of the log survives only if its entry at the snapshot's end is the snapshot's last
    /// (5.1).
    fn install(&mut self, meta: SnapshotMeta) {
        let same = self.log.term_at(meta.index) == Some(meta.term);
        let here = meta.index > self.log.start() && meta.index <= self.log.last_index();
        let keep_tail = here && (same || self.has(RaftFault::TailAlwaysKept));
        let (index, term) = (meta.index, meta.term);
        if term > self.current_term {
            // It came from a member that does not lead.
            self.become_follower(term, None);
        }
        self.persist(Persist::Installed {
            meta: meta.clone(),
            keep_tail,
        });
        self.log.install(index, term, keep_tail, self.lsn);
        let kept = self.has(RaftFault::SnapshotWithoutConfiguration);
        let configuration = if kept {
            self.configuration()
        } else {
            &meta.configuration
        }
        .clone();
        // Those behind were made from what damaged entries left of the ones before them.
        self.configurations = vec![(index, configuration)];
        self.rebuild_configurations(index.next());
        self.snapshot = meta;
        self.commit_index = self.commit_index.max(index);
        self.verified = self.verified.max(index);
        self.send_fetches();
        if self.has(RaftFault::InstallBeforeSync) {
            self.log.on_synced(self.lsn);
            self.acknowledge();
        }
    }
}
