//! Repair of log entries whose bodies this machine's disk has damaged.
//!
//! # The problem
//!
//! At start the log may hold a record whose header is intact and whose body fails its checksum.
//! The member then knows the entry's index, term, length and checksum, but not its command. It may
//! have acknowledged the entry, and the entry may be committed because of that. Dropping it could
//! lose a committed entry. Keeping it and waiting is safe, but may leave the cluster without a
//! leader. Raft does not cover this; the closest published protocol is "Protocol-Aware Recovery
//! for Consensus-Based Storage" (Alagappan et al., FAST 2018).
//!
//! # The rule
//!
//! While an entry is damaged, this member
//! - neither applies nor acknowledges anything at or past it (`Raft::committed`, `Log::durable`),
//! - does not campaign (`Raft::may_campaign`),
//! - still votes, and compares logs by its full log, damaged entries included. If it compared by
//!   the intact part only, it could elect a leader that lacks a committed entry.
//!
//! # Why each way out is safe
//!
//! 1. *A peer has the body.* Index and term name one entry in the whole cluster (Log Matching,
//!    thesis 3.5). So any peer may answer, in any term. The checksum in the record header tells
//!    whether the bytes are the lost ones.
//! 2. *The body is a Promote or a Remove.* It is short enough to be found by trying each member id
//!    against the checksum, without any peer. Case 5 depends on it.
//! 3. *A peer has the entry only in its snapshot.* A snapshot holds committed entries only, so it
//!    is safe to install from any member in any term. A leader sends it as usual (thesis 5). A peer
//!    that does not lead sends it when it is asked for the entry, because there may never be a
//!    leader: if the damaged log is the most up-to-date one, this member does not campaign, and it
//!    grants its vote to no other.
//! 4. *A leader's append conflicts with the entry.* The entry is truncated like any other
//!    (thesis 3.5, `following`).
//! 5. *There is no leader, and a majority never had the entry.* It is cut. Let E be the first
//!    damaged entry and S the term on the disk at start (`start_term`). A voter *disclaims* E when
//!    it answers that it never had E. The disclaimer is *final* if the voter's term was later than
//!    S. E is cut once a majority has given final disclaimers, in each configuration in which E
//!    could have been committed (`Raft::is_disclaimed`; of two voters, the other one suffices, see
//!    `Repair::is_disclaimed_in`). Then:
//!    - E is not committed. A majority that stored E and the majority that disclaims it would share
//!      a voter. That voter would have had to truncate E for a leader that lacks E, and no leader
//!      lacks a committed entry (Leader Completeness, thesis 3.6.3).
//!    - E cannot become committed by what this member acknowledged before it was restarted. Only a
//!      leader of a term up to S counts that, and the disclaiming voters no longer accept its
//!      appends.
//!    - A leader of a term later than S may still have E and send it again. It counts only what
//!      this member acknowledges after the cut.
//!
//! # What is not covered
//!
//! - Damage on every member that has the entry. None of them campaigns and nothing is made up: an
//!   operator restores a backup. A machine that is the only member refuses to start (`disk`).
//! - A disclaimer from a voter that lost its log, because its data directory was replaced by an
//!   older copy, and that does not know it yet. Together with the damage here, that is a fault of
//!   two disks, and raft assumes that a majority of the disks keep what they stored. A voter that
//!   knows it answers that its log is damaged.
//! - Damage after the start. Bodies are verified when the log is opened; from then on entries are
//!   read from memory.
//! - Of two voters, this one replaced the other (a Join with `replaces`) and committed that alone,
//!   the Join is damaged, and no later batch in the log marks it as committed. A Join is too long
//!   for case 2, so this member still counts the old voter, and its disclaimer cuts the Join.
//!
//! Start reading at [`Repair`], then `Raft::send_fetches` and `Raft::on_fetched`.
use std::collections::{BTreeMap, BTreeSet};

use super::log::Log;
use super::message::{
    Configuration, Entry, EntryBody, FetchResult, Index, PeerId, Persist, Rpc, Term,
};
use super::violation::is_command;
use super::{Progress, Raft, RaftRole};
use crate::core::command::{self, Command};

/// Most entries that one round of fetches asks for. Each peer may answer with all their bodies, so
/// this bounds the answers. Later rounds ask for the rest.
const FETCH_ENTRIES_MAX: usize = 32;

/// Longest encoding of a Promote or a Remove: one byte for the command, up to ten for the id.
const VOTER_CHANGE_BYTES_MAX: usize = 11;

/// A peer's answer that it never had the first damaged entry. The order of the variants matters: a
/// final disclaimer also counts where a provisional one suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disclaimer {
    /// The peer's term was not later than `start_term`. A leader that counts this member's old
    /// acknowledgement may still bring the entry to the peer.
    Provisional,
    /// The peer's term was later than `start_term`. The peer rejects every leader that counts this
    /// member's old acknowledgement.
    Final,
}

/// What a member remembers while it repairs its own log, and the peer whose repair it helps.
/// Which entries are damaged is in [`Log`].
pub struct Repair {
    /// The term on the disk when this process started; never changes.
    ///
    /// Invariant: every acknowledgement of a damaged entry by this member was sent in this term or
    /// an earlier one.
    start_term: Term,

    /// When to send the next round of fetches, in microseconds of the monotonic clock. One election
    /// timeout after the last round; at once when a link opens or breaks.
    ///
    /// Invariant: `Some` while a body is missing. It may stay `Some` after a truncation has removed
    /// the last damaged entry; the next round finds nothing to fetch and clears it.
    next_fetch_us: Option<u64>,

    /// The peers that disclaimed the first damaged entry. A disclaimer may become final, and is
    /// never taken back.
    ///
    /// Not cleared when that entry is repaired: the first damaged index only rises, and a peer that
    /// lacked an entry lacked each later entry of this log as well (Log Matching).
    disclaimers: BTreeMap<PeerId, Disclaimer>,

    /// A leader has released its log up to this index or further, so it can bring a damaged entry
    /// at or before this index only with its snapshot. `None` until a leader answers so; only
    /// rises.
    ///
    /// An index and not a flag: a flag would outlive the entry that it was set for. The member
    /// would go on asking for a snapshot, and a leader that sends a snapshot sends no entries.
    leader_released: Option<Index>,

    /// The last sender of a vote request; `None` before the first. It is sent fetches even if no
    /// configuration here names it: the Join of the only other voter may be the damaged entry.
    last_candidate: Option<PeerId>,

    /// The peer that this member, which does not lead, sends its snapshot to (case 3). One at a
    /// time, to bound the work; replaced by the next one that asks once it falls silent.
    ///
    /// Invariant: its state is `ProgressState::Snapshot`; `None` on a leader, whose snapshots go to
    /// the peers in `tracker`.
    helping: Option<Progress>,
}

impl Repair {
    /// Nothing is fetched yet: `Raft::start_repair` sends the first round.
    pub fn new(start_term: Term) -> Repair {
        Repair {
            start_term,
            next_fetch_us: None,
            disclaimers: BTreeMap::new(),
            leader_released: None,
            last_candidate: None,
            helping: None,
        }
    }

    /// When the next round of fetches is due, in microseconds of the monotonic clock. `None`: there
    /// is nothing to wait for.
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_fetch_us
    }

    /// The peer that is sent this member's snapshot. `snapshot` treats it like a peer of a leader.
    pub fn helping(&self) -> Option<&Progress> {
        self.helping.as_ref()
    }

    /// As `helping`, to change it.
    pub fn helping_mut(&mut self) -> Option<&mut Progress> {
        self.helping.as_mut()
    }

    /// A link opened or broke: a peer may have become reachable, or a fetch may be lost. The next
    /// round is due at once.
    pub fn on_link(&mut self, now_us: u64) {
        if self.next_fetch_us.is_some() {
            self.next_fetch_us = Some(now_us);
        }
    }

    /// A member asked for a vote.
    pub fn on_candidate(&mut self, candidate: PeerId) {
        self.last_candidate = Some(candidate);
    }

    /// This member leads from now on. Its snapshots go to the peers in `tracker`, in its term.
    pub fn on_become_leader(&mut self) {
        self.helping = None;
    }

    /// The leader answered that it has the entry at `index` only in its snapshot.
    fn on_leader_released(&mut self, index: Index) {
        self.leader_released = self.leader_released.max(Some(index));
    }

    /// A peer whose term is `peer_term` disclaimed the first damaged entry.
    fn on_disclaimer(&mut self, from: PeerId, peer_term: Term) {
        let disclaimer = if peer_term > self.start_term {
            Disclaimer::Final
        } else {
            Disclaimer::Provisional
        };
        let known = self.disclaimers.entry(from).or_insert(disclaimer);
        *known = disclaimer.max(*known);
    }

    /// Whether enough voters of `configuration` have given a disclaimer of the kind `at_least` or a
    /// stronger one.
    ///
    /// Enough is a majority. Of an even number of voters one half would keep the entry from being
    /// committed, but `Raft::is_disclaimed` relies on a majority.
    ///
    /// The exception is one of two voters: the other one is enough, or neither could ever lead. It
    /// is not a majority, so a change of voters that is unknown here is ruled out in another way:
    /// - Such a change is the entry itself or stands behind it. The other voter lacks the entry and
    ///   learners do not lead, so only this member can have appended the change.
    /// - A leader counts by a changed configuration only once the change is durable on its own disk
    ///   (`Raft::maybe_commit`). So the change is in this log, and case 2 recovers it if it is
    ///   damaged, unless it is the Join that is not covered.
    fn is_disclaimed_in(
        &self,
        configuration: &Configuration,
        own_id: PeerId,
        at_least: Disclaimer,
    ) -> bool {
        let mut disclaimed = 0;
        for voter in configuration.voters() {
            if let Some(given) = self.disclaimers.get(&voter)
                && *given >= at_least
            {
                disclaimed += 1;
            }
        }
        let is_one_of_two = configuration.is_voter(own_id) && configuration.voters().count() == 2;
        let needed = if is_one_of_two {
            1
        } else {
            configuration.majority()
        };
        disclaimed >= needed
    }

    /// Part of `Raft::check_invariants`.
    pub fn check_invariants(&self, own_id: PeerId, role: RaftRole, log: &Log) {
        let is_scheduled = self.next_fetch_us.is_some();
        assert!(
            is_scheduled || log.missing().next().is_none(),
            "a missing body is fetched"
        );
        assert!(
            !self.disclaimers.contains_key(&own_id),
            "only peers disclaim"
        );
        if let Some(peer) = &self.helping {
            assert!(peer.is_in_snapshot(), "a snapshot is the only help");
            assert_ne!(
                role,
                RaftRole::Leader,
                "a leader sends to its tracked peers only"
            );
        }
    }
}

/// The damaged member: asks for bodies, takes the answers, cuts what cannot be committed.
impl Raft {
    /// Called once, when the log has been recovered and before any other input.
    pub(super) fn start_repair(&mut self) {
        self.recover_voter_changes();
        self.send_fetches();
    }

    /// Recovers each damaged Promote and Remove from its checksum alone (case 2).
    ///
    /// An entry that matches none of them stays damaged and is fetched. One that is neither command
    /// but as short is taken for one with a probability of at most 2 * ids / 2^32.
    fn recover_voter_changes(&mut self) {
        let ids = self.possible_members();
        let mut short = Vec::new();
        for index in self.log.missing() {
            let entry = self.log.get(index).expect("a damaged entry is in the log");
            if entry.size() <= VOTER_CHANGE_BYTES_MAX {
                short.push((index, entry.term));
            }
        }
        for (index, term) in short {
            self.maybe_recover_voter_change(index, term, &ids);
        }
    }

    /// Tries each Promote and Remove as the body of one damaged entry.
    fn maybe_recover_voter_change(
        &mut self,
        index: Index,
        term: Term,
        ids: &BTreeSet<PeerId>,
    ) -> bool {
        for id in ids {
            let id = id.0;
            let removals = [false, true].map(|for_good| Command::Remove { id, for_good });
            for command in removals.into_iter().chain([Command::Promote { id }]) {
                let mut bytes = Vec::new();
                command::encode(&command, &mut bytes);
                let body = EntryBody::Good(bytes.into());
                if self.maybe_repair(Entry { term, index, body }) {
                    return true;
                }
            }
        }
        false
    }

    /// Every id that a Promote or a Remove in this log can name. A member's id is the index of its
    /// Join, so each damaged entry may have made one.
    fn possible_members(&self) -> BTreeSet<PeerId> {
        let mut ids = self.known_members();
        for index in self.log.missing() {
            ids.insert(PeerId(index.0));
        }
        ids
    }

    /// The members of all configurations in the log, those under removal included.
    fn known_members(&self) -> BTreeSet<PeerId> {
        let mut ids = BTreeSet::new();
        for (_, configuration) in self.membership.history() {
            for member in &configuration.members {
                ids.insert(member.id);
            }
        }
        ids
    }

    /// Asks all peers for the first missing bodies, and schedules the next round.
    pub(super) fn send_fetches(&mut self) {
        let missing: Vec<Index> = self.log.missing().take(FETCH_ENTRIES_MAX).collect();
        if missing.is_empty() {
            self.repair.next_fetch_us = None;
            return;
        }
        self.repair.next_fetch_us = Some(self.now_us + self.election.timeout_us());
        let peers = self.fetch_targets();
        for index in missing {
            let term = self
                .log
                .term_at(index)
                .expect("a damaged entry is in the log");
            for to in &peers {
                self.send(*to, Rpc::Fetch { index, term });
            }
        }
    }

    /// The members that may have a body: a member under removal too, and the leader and the last
    /// candidate even if they are unknown, because the damaged entry may be their Join.
    fn fetch_targets(&self) -> BTreeSet<PeerId> {
        let mut targets = self.known_members();
        targets.extend(self.leader);
        targets.extend(self.repair.last_candidate);
        targets.remove(&self.id);
        targets
    }

    /// Sends a round of fetches if one is due. First tries again what needs no peer: there may have
    /// been no room for it.
    pub(super) fn maybe_send_fetches(&mut self) -> bool {
        let is_due = self
            .repair
            .next_fetch_us
            .is_some_and(|at_us| at_us <= self.now_us);
        if is_due {
            self.start_repair();
        }
        is_due
    }

    /// `from`, whose term is `peer_term`, answered a fetch of the entry (`index`, `entry_term`).
    ///
    /// The answer may be late: the entry may be repaired, or another entry may be in its place.
    pub(super) fn on_fetched(
        &mut self,
        from: PeerId,
        peer_term: Term,
        index: Index,
        entry_term: Term,
        found: FetchResult,
    ) {
        let Some(entry) = self.log.get(index) else {
            return;
        };
        if entry.term != entry_term || !matches!(entry.body, EntryBody::Faulty { .. }) {
            return;
        }
        match found {
            // Bytes that match the checksum and are no command were made up to match it. Bytes that
            // do not match may come from memory that is damaged.
            FetchResult::Body(bytes) if !is_command(&bytes) => {}
            FetchResult::Body(bytes) => {
                let body = EntryBody::Good(bytes);
                self.maybe_repair(Entry {
                    term: entry_term,
                    index,
                    body,
                });
            }
            FetchResult::NeverStored => self.on_disclaimer(from, peer_term, index),
            FetchResult::OnlyInSnapshot if Some(from) == self.leader => {
                self.repair.on_leader_released(index)
            }
            // A peer that does not lead now sends its snapshot by itself (`maybe_help`).
            FetchResult::OnlyInSnapshot | FetchResult::Damaged => {}
        }
    }

    /// Puts the body of `entry` into the log if the entry there is damaged and its checksum
    /// matches. The body comes from a fetch, from an append or from `recover_voter_changes`.
    ///
    /// Until the repair is synced the entry still counts as damaged for `Log::durable`: a crash may
    /// come first, so nothing at or past it is applied or acknowledged.
    ///
    /// # Panics
    ///
    /// If the terms of the two entries differ: the callers compare them.
    pub(super) fn maybe_repair(&mut self, entry: Entry) -> bool {
        let Some(damaged) = self.log.get(entry.index) else {
            return false;
        };
        let EntryBody::Faulty { len, seed, crc } = damaged.body else {
            return false;
        };
        let EntryBody::Good(bytes) = entry.body else {
            return false;
        };
        assert_eq!(damaged.term, entry.term, "index and term name an entry");
        let is_same = body_matches(&bytes, len, seed, crc);
        if !is_same {
            return false;
        }
        if !self.room.fits_in_reserve(bytes.len()) {
            // The segments of this member may be too small for the body. It is fetched again.
            self.want_room(bytes.len() as u64);
            return false;
        }
        let repaired = Entry {
            body: EntryBody::Good(bytes.clone()),
            ..entry
        };
        let index = repaired.index;
        let lsn = self.persist(Persist::Repair(repaired));
        self.log.repair(index, bytes, lsn);
        // The body may be a change of membership, from which all later configurations derive.
        self.rebuild_configurations(index);
        if self.log.missing().next().is_none() {
            self.repair.next_fetch_us = None;
        }
        true
    }

    /// Whether the leader can bring the first damaged entry only with its snapshot. Each append
    /// reply carries this to the leader.
    pub(super) fn wants_snapshot(&self) -> bool {
        match (self.log.missing().next(), self.repair.leader_released) {
            (Some(first), Some(through)) => first <= through,
            _ => false,
        }
    }

    /// A peer disclaimed the entry at `index`. Cuts the entry if that completes a majority
    /// (case 5).
    ///
    /// Only the first damaged entry is cut: it may itself be a change of voters, so the
    /// configurations past it are uncertain. Nothing is cut while a leader is known: a leader that
    /// has the entry can send it, and one that lacks the entry truncates it (case 4).
    fn on_disclaimer(&mut self, from: PeerId, peer_term: Term, index: Index) {
        let is_first = self.log.missing().next() == Some(index);
        if !is_first || index <= self.log.commit_index() || self.leader.is_some() {
            return;
        }
        self.repair.on_disclaimer(from, peer_term);
        let can_cut = self.is_disclaimed(index, Disclaimer::Final);
        if can_cut {
            // The term rises first: a leader of term `start_term` still counts the acknowledgement
            // of the entry, and its next append would make this member report
            // `RaftNotice::LostTail`.
            self.become_follower(self.term_after_start(), None);
            self.truncate(index);
            self.send_fetches();
        }
    }

    /// Makes the term later than `start_term` once enough voters have disclaimed the first damaged
    /// entry in any term. The peers whose disclaimers are provisional are sent the new term, so
    /// that their next answers are final.
    ///
    /// Called on an election timeout, so no leader is known. Without this a cluster of two could
    /// wait forever: the other voter's log is shorter, this member denies it every pre-vote, and so
    /// the term never rises.
    pub(super) fn maybe_advance_term(&mut self) -> bool {
        let Some(first) = self.log.missing().next() else {
            return false;
        };
        let is_voter = self.configuration().is_voter(self.id);
        if !is_voter || !self.is_disclaimed(first, Disclaimer::Provisional) {
            return false;
        }
        self.become_follower(self.term_after_start(), None);
        let mut provisional = Vec::new();
        for (peer, disclaimer) in &self.repair.disclaimers {
            if *disclaimer == Disclaimer::Provisional {
                provisional.push(*peer);
            }
        }
        // A denied pre-vote carries the term to the peer, which need not have asked for a vote. A
        // peer that is a learner in its own log never asks, but its Promote may stand behind the
        // entry in this log, and then its disclaimer is needed.
        for peer in provisional {
            self.send_vote(peer, true, false, self.current_term);
        }
        true
    }

    /// The current term if it is later than `start_term`, else the first term that is.
    fn term_after_start(&self) -> Term {
        self.current_term.max(Term(self.repair.start_term.0 + 1))
    }

    /// Whether enough voters have disclaimed the damaged entry at `index`, the first one, in every
    /// configuration in which it could be committed. Learners are not needed; they may be gone for
    /// good.
    ///
    /// The configurations are the one in force just before `index` and all later ones. A member
    /// that stores the entry stores all entries before it, so it never counts by an older one.
    ///
    /// Changes of voters that are unknown here need no disclaimers of their own. They stand past
    /// the end of this log, or they are damaged Joins that replace a voter.
    /// - The first such change leads to a configuration that differs by one voter from a known one.
    ///   Each majority of either shares a voter with each majority of the other (thesis 4.1).
    /// - The second is appended only after the first has committed (`Raft::check_order`). That
    ///   commit would have included the entry, which the point before rules out.
    fn is_disclaimed(&self, index: Index, at_least: Disclaimer) -> bool {
        let before = self.configuration_at(index.prev());
        if !self.repair.is_disclaimed_in(before, self.id, at_least) {
            return false;
        }
        for (at, later) in self.membership.history() {
            if at >= index && !self.repair.is_disclaimed_in(later, self.id, at_least) {
                return false;
            }
        }
        true
    }
}

/// The peer that is asked for a body.
impl Raft {
    /// `from` asks for the body of the entry (`index`, `term`). Answered in every role and term.
    pub(super) fn on_fetch(&mut self, from: PeerId, index: Index, term: Term) {
        let found = self.find_body(index, term);
        if found == FetchResult::OnlyInSnapshot {
            self.maybe_help(from);
        }
        self.send(from, Rpc::Fetched { index, term, found });
    }

    /// What this member can say of the entry (`index`, `term`).
    fn find_body(&self, index: Index, term: Term) -> FetchResult {
        if index <= self.log.start() {
            return FetchResult::OnlyInSnapshot;
        }
        let held = self.log.get(index).filter(|entry| entry.term == term);
        match held.map(|entry| &entry.body) {
            Some(EntryBody::Good(bytes)) => FetchResult::Body(bytes.clone()),
            Some(EntryBody::Faulty { .. }) => FetchResult::Damaged,
            // It may be one of the entries that this member has lost, so this is no disclaimer.
            None if self.is_tail_doubted() => FetchResult::Damaged,
            None => FetchResult::NeverStored,
        }
    }

    /// Starts sending this member's snapshot to `to` (case 3), unless this member leads or helps
    /// another peer that still answers. If `to` is being helped already, its repeated fetch is the
    /// occasion to resend lost chunks; a leader resends them with its heartbeats.
    fn maybe_help(&mut self, to: PeerId) -> bool {
        if self.role == RaftRole::Leader {
            return false;
        }
        if let Some(peer) = &self.repair.helping {
            if peer.id() == to {
                self.retry_chunks();
                return false;
            }
            if peer.heard_us() > self.now_us.saturating_sub(self.answer_patience_us()) {
                return false;
            }
        }
        let Some(snapshot) = self.snapshots.sendable(&self.log) else {
            return false;
        };
        let mut peer = Progress::new(to, false, Index(1), self.now_us);
        peer.become_snapshot(snapshot, self.now_us);
        self.repair.helping = Some(peer);
        true
    }
}

/// Whether `body` has the length and the checksum that the header of a damaged record tells.
///
/// `crc` is a crc32 that starts from `seed`. The seed depends on the place of the record on this
/// disk, so another member's checksum of the same body cannot be compared: its bytes must be sent.
fn body_matches(body: &[u8], len: u32, seed: u32, crc: u32) -> bool {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(body);
    body.len() == len as usize && hasher.finalize() == crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::raft::Member;

    const OWN_ID: PeerId = PeerId(1);

    fn configuration(voters: &[u64]) -> Configuration {
        let mut members = Vec::new();
        for id in voters {
            let id = PeerId(*id);
            members.push(Member {
                id,
                voter: true,
                ..Member::default()
            });
        }
        Configuration {
            members,
            ..Configuration::default()
        }
    }

    #[test]
    fn a_final_disclaimer_is_never_taken_back() {
        let mut repair = Repair::new(Term(5));
        repair.on_disclaimer(PeerId(2), Term(5));
        assert_eq!(repair.disclaimers[&PeerId(2)], Disclaimer::Provisional);
        repair.on_disclaimer(PeerId(2), Term(6));
        repair.on_disclaimer(PeerId(2), Term(5));
        assert_eq!(repair.disclaimers[&PeerId(2)], Disclaimer::Final);
    }

    #[test]
    fn a_majority_disclaims() {
        let mut repair = Repair::new(Term(5));
        let three = configuration(&[1, 2, 3]);
        repair.on_disclaimer(PeerId(2), Term(6));
        assert!(!repair.is_disclaimed_in(&three, OWN_ID, Disclaimer::Final));
        repair.on_disclaimer(PeerId(3), Term(5));
        assert!(repair.is_disclaimed_in(&three, OWN_ID, Disclaimer::Provisional));
        assert!(!repair.is_disclaimed_in(&three, OWN_ID, Disclaimer::Final));
        repair.on_disclaimer(PeerId(3), Term(6));
        assert!(repair.is_disclaimed_in(&three, OWN_ID, Disclaimer::Final));
    }

    #[test]
    fn of_two_voters_the_other_one_suffices() {
        let mut repair = Repair::new(Term(5));
        repair.on_disclaimer(PeerId(2), Term(6));
        assert!(repair.is_disclaimed_in(&configuration(&[1, 2]), OWN_ID, Disclaimer::Final));
        assert!(!repair.is_disclaimed_in(&configuration(&[2, 3]), OWN_ID, Disclaimer::Final));
    }

    #[test]
    fn a_lone_voter_never_cuts() {
        let mut repair = Repair::new(Term(5));
        repair.on_disclaimer(PeerId(2), Term(6));
        assert!(!repair.is_disclaimed_in(&configuration(&[1]), OWN_ID, Disclaimer::Final));
    }

    #[test]
    fn a_link_hastens_a_round_and_starts_none() {
        let mut repair = Repair::new(Term(5));
        repair.on_link(10);
        assert_eq!(repair.next_deadline(), None);
        repair.next_fetch_us = Some(90);
        repair.on_link(10);
        assert_eq!(repair.next_deadline(), Some(10));
    }

    #[test]
    fn a_body_is_known_by_length_and_checksum() {
        let mut hasher = crc32fast::Hasher::new_with_initial(7);
        hasher.update(b"body");
        let crc = hasher.finalize();
        assert!(body_matches(b"body", 4, 7, crc));
        assert!(!body_matches(b"body", 5, 7, crc));
        assert!(!body_matches(b"body", 4, 8, crc));
        assert!(!body_matches(b"bodi", 4, 7, crc));
    }
}
