//! Log replication on a follower (thesis 3.5): the leader's appends, and what is acknowledged. The
//! leader's side is in `replication`.
//!
//! A follower acknowledges an entry once the entry is in the leader's log (`verified`) and durable
//! here. It answers an append with what is durable at that moment, and again when a sync has made
//! more durable. Start reading at `Raft::on_append_entries`.
use std::ops::Range;

use super::message::{AppendAnswer, Entry, Index, PeerId, Rpc, Term};
use super::room::{ENTRY_RESERVE_BYTES, entry_cost};
use super::{HeartbeatReport, Raft, RaftNotice, RaftRole};

/// A heartbeat is reported as late if the leader was silent for this many tenths of the time after
/// which it is missed: it was nearly missed. The upper end is the longest election timeout.
const LATE_TENTHS: Range<u64> = 8..20;

/// What a follower knows of the log of this term's leader.
pub struct LeaderMatch {
    /// This log and the leader's are the same up to here. At least the commit index when the term
    /// began, since each leader has all committed entries (thesis 3.6.3). Rises within a term,
    /// except when an entry is truncated.
    verified: Index,

    /// Up to here the leader was told that the log is the same and durable. Only rises within a
    /// term.
    acknowledged: Index,

    /// The highest commit index that the leader has sent. May be past this log. Only rises within a
    /// term.
    leader_commit: Index,

    /// After the verified entries this log has another one than the leader, and no room to replace it.
    keeps_other_tail: bool,

    /// The leader's last append continued this log. False in a new term, after an append that was
    /// rejected, and while the leader sends a snapshot: its heartbeats then compare nothing.
    is_continued: bool,
}

impl LeaderMatch {
    /// A new term, with the given commit index here.
    pub fn new(commit: Index) -> LeaderMatch {
        LeaderMatch {
            verified: commit,
            acknowledged: Index(0),
            leader_commit: Index(0),
            keeps_other_tail: false,
            is_continued: false,
        }
    }

    /// This log and the leader's are the same up to here.
    fn verified(&self) -> Index {
        self.verified
    }

    /// The highest commit index that the leader has sent.
    pub fn leader_commit(&self) -> Index {
        self.leader_commit
    }

    /// The leader sent its commit index.
    fn on_leader_commit(&mut self, commit: Index) {
        self.leader_commit = self.leader_commit.max(commit);
    }

    /// The log is the same as the leader's up to `index`.
    pub fn on_verified(&mut self, index: Index) {
        self.verified = self.verified.max(index);
    }

    /// The entries from `from` on are truncated.
    pub fn on_truncate(&mut self, from: Index) {
        self.verified = self.verified.min(from.prev());
        self.keeps_other_tail = false;
    }

    /// The leader is told that the entries up to `matched` are durable here.
    fn on_acknowledge(&mut self, matched: Index) {
        self.acknowledged = self.acknowledged.max(matched);
    }

    /// Part of `Raft::check_invariants`. `last` is the last entry of the log.
    pub fn check_invariants(&self, last: Index) {
        assert!(self.verified <= last, "a verified entry is in the log");
    }
}

impl Raft {
    /// The commit index of the current leader, once the leader has committed an entry of its own
    /// term: no client was answered from an entry past it. `None` if no leader is known, or this
    /// member does not know that index.
    pub fn known_commit(&self) -> Option<Index> {
        self.leader?;
        let known = if self.role == RaftRole::Leader {
            self.log.commit_index()
        } else {
            self.leader_match.leader_commit()
        };
        let is_of_term = self.log.term_at(known) == Some(self.current_term);
        is_of_term.then_some(known)
    }

    /// Whether the leader of this term has the entries that this log needs next. Otherwise it may
    /// send a snapshot.
    pub fn is_continued_by_leader(&self) -> bool {
        self.leader_match.is_continued
    }

    /// The leader of the current term was heard: this member follows it.
    ///
    /// # Panics
    ///
    /// If this member leads the term, or another leader of the term is known.
    pub(super) fn on_leader_contact(&mut self, leader: PeerId) {
        assert_ne!(self.role, RaftRole::Leader, "a term has one leader");
        let is_known = self.leader == Some(leader);
        assert!(is_known || self.leader.is_none(), "a term has one leader");
        let after_us = self.election.leader_silent_us(self.now_us);
        let tenths = after_us * 10 / self.election.leader_patience_us();
        if is_known && LATE_TENTHS.contains(&tenths) {
            let id = leader;
            let report = HeartbeatReport::Late { id, after_us };
            self.heartbeat_reports.push(report);
        }
        self.election.on_leader_heard(self.now_us);
        self.become_follower(self.current_term, Some(leader));
    }

    /// An append of the leader of the current term.
    pub(super) fn on_append_entries(&mut self, from: PeerId, rpc: Rpc) {
        let Rpc::AppendEntries {
            prev_index,
            prev_term,
            commit,
            acked,
            round,
            sync_us,
            round_trip_us,
            pause_us,
            clock_ns,
            held_bytes,
            entries,
        } = rpc
        else {
            unreachable!("dispatched by kind");
        };
        self.election
            .on_leader_figures(from, sync_us, round_trip_us, pause_us);
        self.on_leader_contact(from);
        let last_term = self.log.last_term();
        self.clock
            .on_leader_reading(self.current_term, last_term, clock_ns, self.now_us);
        self.leader_match.on_leader_commit(commit);
        if self.is_tail_lost(from, acked) {
            return;
        }
        // Up to the commit index all logs agree, so there is nothing to compare.
        let is_committed = prev_index <= self.log.commit_index();
        if !is_committed && self.log.term_at(prev_index) != Some(prev_term) {
            self.leader_match.is_continued = false;
            self.reject(from, round, prev_index, prev_term);
            return;
        }
        // A leader that sends a snapshot names index 0, where all logs agree.
        self.leader_match.is_continued = prev_index > Index(0) || !entries.is_empty();
        if let Some(bytes) = held_bytes {
            self.want_room(bytes);
        }
        let sent_end = Index(prev_index.0 + entries.len() as u64);
        let end = self.take_entries(prev_index, entries);
        self.leader_match
            .on_verified(end.max(self.log.commit_index()));
        // An entry past the verified ones may be another one than the leader has committed.
        let known = self.verified_for_commit();
        self.log.commit_to(commit.min(known));
        if round.is_some() || end < sent_end {
            self.accept(from, round);
        } else {
            self.acknowledge();
        }
    }

    /// The leader has an acknowledgement of this member up to `acked`. Returns whether it claims so
    /// that entries are lost (`lost_tail`).
    fn is_tail_lost(&mut self, leader: PeerId, acked: Index) -> bool {
        if acked <= self.log.last_index() {
            self.lost_tail.on_no_claim();
            return false;
        }
        let election_us = self.election.timeout_us();
        self.lost_tail
            .on_claim(self.current_term, self.now_us, election_us);
        self.report(RaftNotice::LostTail { by: leader });
        true
    }

    /// Appends the entries that are not in the log yet. Only an entry that conflicts truncates the
    /// log: an append that is out of date would otherwise remove entries that a later one brought
    /// (thesis 3.5).
    ///
    /// Stops before the first entry that the log on the disk has no room for. Returns the last
    /// entry before that.
    fn take_entries(&mut self, prev: Index, entries: Vec<Entry>) -> Index {
        let mut end = prev;
        for entry in entries {
            let index = entry.index;
            let held_term = self.log.term_at(index);
            if index <= self.log.start() && held_term.is_none() {
                end = index;
                continue;
            }
            if held_term == Some(entry.term) {
                self.maybe_repair(entry);
                end = index;
                continue;
            }
            if !self.takes_body(entry.size()) {
                self.leader_match.keeps_other_tail |= held_term.is_some();
                return end;
            }
            if held_term.is_some() {
                self.truncate(index);
            }
            self.append(entry);
            end = index;
        }
        end
    }

    /// Removes the entries from `from` on, and the configurations that they led to.
    ///
    /// # Panics
    ///
    /// If one of them is committed.
    pub(super) fn truncate(&mut self, from: Index) {
        self.log.truncate(from);
        self.leader_match.on_truncate(from);
        self.membership.on_truncate(from);
    }

    /// The last entry that a commit index of the leader may cover here.
    fn verified_for_commit(&self) -> Index {
        self.leader_match.verified()
    }

    /// The last entry that this member may acknowledge.
    fn durable_for_acknowledgement(&self) -> Index {
        self.leader_match.verified().min(self.log.durable())
    }

    /// The leader's log has an entry (`prev`, `prev_term`) that is not here.
    fn reject(&mut self, to: PeerId, round: Option<u64>, prev: Index, prev_term: Term) {
        let (hint, hint_term) = self.log.find_conflict(prev, prev_term);
        let answer = AppendAnswer::Rejected {
            prev,
            hint,
            hint_term,
        };
        self.send_append_reply(to, round, answer);
    }

    /// Tells the leader up to which entry the log is the same, and durable.
    fn accept(&mut self, to: PeerId, round: Option<u64>) {
        let matched = self.durable_for_acknowledgement();
        self.leader_match.on_acknowledge(matched);
        let answer = AppendAnswer::Accepted {
            verified: self.leader_match.verified(),
            matched,
            want_snapshot: self.wants_snapshot(),
        };
        self.send_append_reply(to, round, answer);
    }

    /// Answers an append, or a snapshot that is not needed.
    pub(super) fn send_append_reply(
        &mut self,
        to: PeerId,
        round: Option<u64>,
        answer: AppendAnswer,
    ) {
        let rpc = Rpc::AppendReply {
            round,
            sync_us: self.election.own_sync_us(),
            free_bytes: self.offered_bytes(),
            answer,
        };
        self.send(to, rpc);
    }

    /// The bytes of entries that the leader may send. An entry that follows the verified ones and is
    /// here already takes no room: the leader finds out that it is the same one by sending it.
    fn offered_bytes(&self) -> u64 {
        let bytes = self.room.offered_bytes();
        match self.log.get(self.leader_match.verified().next()) {
            Some(entry) if bytes > 0 && !self.leader_match.keeps_other_tail => {
                bytes.max(entry_cost(entry) + ENTRY_RESERVE_BYTES)
            }
            _ => bytes,
        }
    }

    /// Tells the leader what is durable if that is more than it was told. Called after a sync.
    pub(super) fn acknowledge(&mut self) {
        if let Some(leader) = self.leader
            && self.durable_for_acknowledgement() > self.leader_match.acknowledged
            && !self.is_mute()
        {
            self.accept(leader, None);
        }
    }

    /// Tells the leader what is durable, also if it was told before: it sends a snapshot that is
    /// not needed.
    pub(super) fn acknowledge_again(&mut self) {
        if let Some(leader) = self.leader
            && leader != self.id
            && !self.is_mute()
        {
            self.leader_match.on_verified(self.log.commit_index());
            self.accept(leader, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_entry_is_not_verified() {
        let mut leader_match = LeaderMatch::new(Index(3));
        leader_match.on_verified(Index(9));
        leader_match.on_verified(Index(7));
        assert_eq!(leader_match.verified(), Index(9));
        leader_match.on_truncate(Index(6));
        assert_eq!(leader_match.verified(), Index(5));
        leader_match.check_invariants(Index(5));
    }
}
