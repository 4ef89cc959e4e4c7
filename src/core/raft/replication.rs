//! Log replication (thesis 3.5, 3.6): AppendEntries both ways, the commit index, heartbeats.
//!
//! The leader's side gathers what it has to say and sends it when the owner takes the outputs
//! (`replicate`), so that all proposals of one turn share their messages. The follower's side
//! answers what is durable at once and the rest when it is synced (`acknowledge`). Start reading at
//! `replicate`, then `on_append_entries`.
use super::fault::RaftFault;
use super::progress::{HeartbeatReport, ProgressState};
use super::{
    AppendAnswer, Entry, EntryBody, Index, PeerId, Persist, Raft, RaftNotice, RaftRole, Rpc, Term,
};
use crate::core::command::{self, Command};
use std::ops::Range;

/// Bytes of entries in one message, unless a single entry is larger: a receiver answers between two
/// of them.
const APPEND_BYTES_MAX: usize = 256 << 10;
/// Proposals wait (`Busy`) while more than this is appended and not committed.
pub(super) const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// A leader that is heard again after so much of an election timeout was nearly too late: members
/// wait for twice of one at most.
const LATE_TENTHS: Range<u64> = 8..20;

// -- the leader's side
impl Raft {
    /// Appends a command of this term to the own log.
    pub(super) fn append_command(&mut self, command: &Command) -> Index {
        assert_eq!(self.role, RaftRole::Leader, "only a leader makes entries");
        // Encoded beside, so that the entry takes just what it needs.
        self.scratch.clear();
        command::encode(command, &mut self.scratch);
        let index = self.log.last_index().next();
        self.uncommitted_bytes += self.scratch.len();
        self.append(Entry {
            term: self.current_term,
            index,
            body: EntryBody::Good(self.scratch.as_slice().into()),
        });
        index
    }

    /// Appends one entry and hands it to the disk; entries of one turn share an Lsn.
    fn append(&mut self, entry: Entry) {
        let commit = self.commit_index;
        match self.out.persist.last_mut() {
            Some(Persist::Append {
                entries,
                commit: known,
            }) if entries
                .last()
                .is_some_and(|e| e.index.next() == entry.index) =>
            {
                entries.push(entry.clone());
                *known = commit;
            }
            _ => self.persist(Persist::Append {
                entries: vec![entry.clone()],
                commit,
            }),
        }
        self.configure(&entry);
        self.log.append(entry, self.lsn);
    }

    /// Sends each member what it lacks, as far as its bounds allow.
    pub(super) fn replicate(&mut self) {
        for peer in self.peers.iter_mut().chain(self.repair.helping_mut()) {
            Raft::want_chunk(peer, self.now_us, &mut self.out.chunks_wanted);
        }
        if self.role != RaftRole::Leader {
            return;
        }
        self.maybe_start_round();
        for at in 0..self.peers.len() {
            while self.replicate_to(at) {}
        }
    }

    /// Sends one message to a member if there is something to say; true when there may be more.
    fn replicate_to(&mut self, at: usize) -> bool {
        let peer = &self.peers[at];
        // A member under removal is told nothing that is not committed.
        let end = peer.leaving.map_or(self.log.last_index(), |(remove, _)| {
            self.commit_index.min(remove)
        });
        let news = peer.commit_sent < self.commit_index.min(peer.next.prev());
        let due = match peer.flow {
            ProgressState::Snapshot { .. } => return false,
            ProgressState::Probe { sent } => !sent,
            ProgressState::Replicate => news || (peer.next <= end && !peer.is_full()),
        };
        // Even while nothing may be sent: a window full of lost messages is only found out by a
        // heartbeat that can be compared, and behind a released log there is none.
        if self.log.term_at(peer.next.prev()).is_none() {
            let peer = &mut self.peers[at];
            peer.become_snapshot(&self.snapshot);
            Raft::want_chunk(peer, self.now_us, &mut self.out.chunks_wanted);
            return false;
        }
        if !due {
            return false;
        }
        let entries = if peer.is_full() {
            Vec::new()
        } else {
            self.log.slice(peer.next, end, APPEND_BYTES_MAX)
        };
        let probes = self.peers[at].flow != ProgressState::Replicate;
        let round = probes.then(|| self.reads.round());
        self.send_append(at, entries, round);
        !probes
    }

    /// One AppendEntries to a member, from its `next` on.
    fn send_append(&mut self, at: usize, entries: Vec<Entry>, round: Option<u64>) {
        let now_us = self.now_us;
        let peer = &mut self.peers[at];
        // Index 0 matches on every member: a heartbeat for one whose log cannot be compared now.
        let prev = peer.next.prev();
        let known = self.log.term_at(prev).filter(|_| !peer.is_in_snapshot());
        let (prev_index, prev_term) = known.map_or((Index(0), Term(0)), |term| (prev, term));
        let end = Index(prev_index.0 + entries.len() as u64);
        peer.commit_sent = peer.commit_sent.max(self.commit_index.min(end));
        let probes = matches!(peer.flow, ProgressState::Probe { .. });
        if probes || !entries.is_empty() {
            let bytes = entries.iter().map(Entry::size).sum();
            peer.on_sent(end, bytes, now_us);
        }
        peer.on_asked(now_us);
        let (to, acked) = (peer.id, peer.matched);
        self.send(
            to,
            Rpc::AppendEntries {
                prev_index,
                prev_term,
                commit: self.commit_index,
                acked,
                round,
                sync_us: self.slowest.worst_us(),
                entries,
            },
        );
    }

    /// A heartbeat to every member, with the present round of reads.
    pub(super) fn send_heartbeats(&mut self) {
        let round = Some(self.reads.round());
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            peer.beat_us = if peer.beat_us == 0 {
                self.now_us
            } else {
                peer.beat_us
            };
            self.send_append(at, Vec::new(), round);
        }
    }

    /// The leader's tick: everything of a leader that waits for time is looked at here.
    pub(super) fn maybe_heartbeat(&mut self) {
        if self.now_us < self.heartbeat_due || self.peers.is_empty() {
            return;
        }
        if self.maybe_step_down() {
            return;
        }
        self.heartbeat_due = self.now_us + self.heartbeat_us;
        self.maybe_hand_over();
        self.drop_left();
        self.retry_chunks();
        for peer in self.peers.iter_mut().filter(|p| p.leaving.is_none()) {
            let missed = peer.miss();
            self.beats
                .extend(missed.map(|count| HeartbeatReport::Missed { id: peer.id, count }));
        }
        self.send_heartbeats();
    }

    pub(super) fn on_append_reply(
        &mut self,
        from: PeerId,
        round: Option<u64>,
        sync_us: u32,
        answer: AppendAnswer,
    ) {
        let last = self.log.last_index();
        let now_us = self.now_us;
        let Some(at) = self.peers.iter().position(|p| p.id == from) else {
            return;
        };
        let peer = &mut self.peers[at];
        peer.hear(now_us);
        (peer.answered, peer.sync_us) = (true, sync_us);
        peer.round = peer.round.max(round.unwrap_or(0));
        match answer {
            AppendAnswer::Accepted {
                verified,
                matched,
                want_snapshot,
            } if matched <= last && verified <= last => {
                let beat_us = if round.is_none() {
                    0
                } else {
                    std::mem::take(&mut peer.beat_us)
                };
                let beat = (beat_us != 0).then(|| now_us.saturating_sub(beat_us));
                let took_us = peer.on_matched(matched, now_us).into_iter().chain(beat);
                self.out
                    .round_trips
                    .extend(took_us.map(|us| (from, Some(us))));
                self.on_accepted(at, verified, want_snapshot);
            }
            AppendAnswer::Rejected {
                prev,
                hint,
                hint_term,
            } => self.on_rejected(at, prev, hint, hint_term),
            // An answer beyond the own log can only come from a member that is out of its mind.
            AppendAnswer::Accepted { .. } | AppendAnswer::Stale => {}
        }
        self.maybe_finish_reads();
    }

    fn on_accepted(&mut self, at: usize, verified: Index, want_snapshot: bool) {
        let peer = &mut self.peers[at];
        let id = peer.id;
        match peer.flow {
            ProgressState::Probe { .. } => peer.become_replicate(verified.next()),
            ProgressState::Snapshot { index, .. } if peer.matched >= index && !want_snapshot => {
                peer.become_replicate(verified.next());
            }
            ProgressState::Replicate if want_snapshot => peer.become_snapshot(&self.snapshot),
            ProgressState::Replicate | ProgressState::Snapshot { .. } => {}
        }
        self.maybe_commit();
        self.drop_left();
        self.maybe_promote(id);
        self.maybe_hand_over();
    }

    /// The logs part before `prev`: step back, a term at a time on both sides (3.5, at its end).
    fn on_rejected(&mut self, at: usize, prev: Index, hint: Index, hint_term: Term) {
        let peer = &mut self.peers[at];
        let stale = match peer.flow {
            ProgressState::Probe { .. } => prev != peer.next.prev(),
            ProgressState::Replicate => prev <= peer.matched,
            ProgressState::Snapshot { .. } => true,
        };
        if stale {
            return;
        }
        let (index, _) = self.log.find_conflict(hint, hint_term);
        peer.become_probe(index.min(prev.prev()).next());
        self.out.round_trips.push((peer.id, None));
    }

    /// Commits what is durable on a majority, if it is of this term (3.6.2): an entry of an older
    /// term is committed only by one of this term behind it. A leader under removal is not
    /// among those that count (4.2.2). Voters count once the change that made them such is
    /// durable here: `repair` relies on it.
    pub(super) fn maybe_commit(&mut self) {
        let (changed, _) = self.configurations.last().expect("never empty");
        let known = self.log.durable() >= *changed || self.has(RaftFault::CountBeforeSync);
        if self.role != RaftRole::Leader || !known {
            return;
        }
        let mut durable: Vec<Index> = Vec::with_capacity(self.peers.len() + 1);
        let own = if self.has(RaftFault::CountBeforeSync) {
            self.log.last_index()
        } else {
            self.log.durable()
        };
        let configuration = self.configuration();
        if configuration.is_voter(self.id) || self.has(RaftFault::RemovedCounts) {
            durable.push(own);
        }
        let learners = self.has(RaftFault::LearnerCounts);
        let voters = self.peers.iter().filter(|p| p.voter || learners);
        durable.extend(voters.map(|p| p.matched));
        let majority = configuration.majority();
        if durable.len() < majority {
            return;
        }
        durable.sort_unstable_by(|a, b| b.cmp(a));
        let index = durable[majority - 1];
        let current = self.log.term_at(index) == Some(self.current_term);
        if index > self.commit_index && (current || self.has(RaftFault::CommitOldTerm)) {
            self.on_leader_commit(index);
        }
    }

    fn on_leader_commit(&mut self, index: Index) {
        let committed = self.log.iter_from(self.commit_index.next());
        let own = committed.take_while(|e| e.index <= index);
        let bytes: usize = own.filter(|e| e.index >= self.nop).map(Entry::size).sum();
        self.uncommitted_bytes -= bytes;
        self.commit_index = index;
        self.release_reads();
        self.maybe_finish_reads();
        self.on_change_committed();
    }
}

// -- the follower's side
impl Raft {
    /// A leader of this term was heard.
    pub(super) fn on_contact(&mut self, leader: PeerId) {
        assert_ne!(self.role, RaftRole::Leader, "one leader a term");
        assert!(
            self.leader.is_none_or(|known| known == leader),
            "one leader a term"
        );
        let after_us = self.now_us.saturating_sub(self.contact_us);
        if self.leader == Some(leader)
            && LATE_TENTHS.contains(&(after_us * 10 / self.patience_us(self.leader_sync_us)))
        {
            self.beats.push(HeartbeatReport::Late {
                id: leader,
                after_us,
            });
        }
        self.contact_us = self.now_us;
        self.become_follower(self.current_term, Some(leader));
    }

    pub(super) fn on_append_entries(&mut self, from: PeerId, rpc: Rpc) {
        let Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit,
            acked,
            round,
            sync_us,
            entries,
        } = rpc
        else {
            unreachable!("dispatched by kind");
        };
        self.leader_sync_us = sync_us;
        self.on_contact(from);
        self.told_commit = self.told_commit.max(commit);
        if acked > self.log.last_index() && !self.amnesia && !self.has(RaftFault::AmnesiaIgnored) {
            self.amnesia = true;
            self.out.notices.push(RaftNotice::Amnesia);
        }
        if self.amnesia {
            return;
        }
        let behind = prev_index <= self.commit_index;
        if !behind && self.log.term_at(prev_index) != Some(prev_term) {
            return self.reject(from, round, prev_index, prev_term);
        }
        let end = Index(prev_index.0 + entries.len() as u64);
        self.take_entries(prev_index, entries);
        self.verified = self.verified.max(end).max(self.commit_index);
        let known = if self.has(RaftFault::CommitUnverified) {
            self.log.last_index()
        } else {
            self.verified
        };
        self.commit_index = self.commit_index.max(commit.min(known));
        if round.is_some() || self.has(RaftFault::AckBeforeSync) {
            self.accept(from, round);
        } else {
            self.acknowledge();
        }
    }

    /// Adds what is not here yet; only an entry that conflicts cuts the log, or an old message
    /// would take back what a newer one brought.
    fn take_entries(&mut self, prev: Index, entries: Vec<Entry>) {
        if self.has(RaftFault::TruncateAlways)
            && prev >= self.commit_index
            && prev < self.log.last_index()
        {
            self.cut(prev.next());
        }
        for entry in entries {
            match self.log.term_at(entry.index) {
                None if entry.index <= self.log.start() => {}
                None => self.append(entry),
                Some(term) if term == entry.term => {
                    self.maybe_repair(entry);
                }
                Some(_) => {
                    self.cut(entry.index);
                    self.append(entry);
                }
            }
        }
    }

    /// Drops everything from `from` on. On the disk it goes when the next entry is appended in its
    /// place.
    pub(super) fn cut(&mut self, from: Index) {
        assert!(
            from > self.commit_index,
            "what is committed is never taken back"
        );
        self.log.truncate(from);
        self.verified = self.verified.min(from.prev());
        if !self.has(RaftFault::ChangeNotUndone) {
            self.configurations.retain(|(index, _)| *index < from);
        }
    }

    fn reject(&mut self, to: PeerId, round: Option<u64>, prev: Index, prev_term: Term) {
        let (hint, hint_term) = self.log.find_conflict(prev, prev_term);
        self.send_append_reply(
            to,
            round,
            AppendAnswer::Rejected {
                prev,
                hint,
                hint_term,
            },
        );
    }

    /// Tells the leader how far the log is the same and durable.
    fn accept(&mut self, to: PeerId, round: Option<u64>) {
        let durable = if self.has(RaftFault::AckBeforeSync) {
            self.log.last_index()
        } else {
            self.log.durable()
        };
        let (verified, matched) = (self.verified, self.verified.min(durable));
        self.acked = self.acked.max(matched);
        let want_snapshot = self.wants_snapshot();
        self.send_append_reply(
            to,
            round,
            AppendAnswer::Accepted {
                verified,
                matched,
                want_snapshot,
            },
        );
    }

    pub(super) fn send_append_reply(
        &mut self,
        to: PeerId,
        round: Option<u64>,
        answer: AppendAnswer,
    ) {
        let sync_us = self.slowest.worst_us();
        self.send(
            to,
            Rpc::AppendReply {
                round,
                sync_us,
                answer,
            },
        );
    }

    /// A snapshot that is not needed: the leader is told what is here.
    pub(super) fn acknowledge_again(&mut self) {
        let leader = self.leader.filter(|id| *id != self.id);
        if let Some(leader) = leader
            && !self.amnesia
        {
            self.verified = self.verified.max(self.commit_index);
            self.accept(leader, None);
        }
    }

    /// A sync has ended: the leader is told of what it made durable.
    pub(super) fn acknowledge(&mut self) {
        let durable = self.verified.min(self.log.durable());
        if let Some(leader) = self.leader
            && durable > self.acked
            && !self.amnesia
        {
            self.accept(leader, None);
        }
    }
}
