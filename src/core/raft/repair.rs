//! Entries that this machine's disk has damaged: got back from the peers by (index, term), outside
//! of terms.
//!
//! Until they are back nothing past them is applied or acknowledged, and this member does not
//! campaign; it still votes, by its full log. A damaged entry that cannot have been committed is
//! cut; to know that, this member may raise the term once. Start reading at `start_repair`.
use super::fault::Fault;
use super::progress::Progress;
use super::{Body, Entry, Found, Index, PeerId, Persist, Raft, RaftRole, Rpc, Term};
use crate::core::command::{self, Command};
use std::collections::{BTreeMap, BTreeSet};

/// How many entries are asked for at a time.
const ASKED_MAX: usize = 32;

/// How long a Promote or a Remove is at most: a byte and an id.
const CHANGE_BYTES_MAX: usize = 11;

/// What is under way.
pub struct Repair {
    /// When to ask again; `u64::MAX` when nothing is damaged.
    pub due_us: u64,
    /// The term on the disk at start: no leader of a later one can count what this member
    /// acknowledged before.
    term: Term,
    /// Who never had the first damaged entry, and so none behind it; true once said in a term past
    /// `term`, to which no leader of that can bring it any more.
    never: BTreeMap<PeerId, bool>,
    /// The leader has damaged entries up to here only in its snapshot.
    behind: Index,
    /// Who asked for a vote last: the join of a voter may be what is damaged, so that this member
    /// does not know it.
    pub candidate: PeerId,
}

impl Default for Repair {
    fn default() -> Self {
        let (term, behind, candidate) = (Term(0), Index(0), PeerId::NONE);
        Repair {
            due_us: u64::MAX,
            term,
            never: BTreeMap::new(),
            behind,
            candidate,
        }
    }
}

impl Raft {
    pub(super) fn start_repair(&mut self) {
        self.repair.term = self.current_term;
        self.guess_changes();
        self.ask_for_missing();
    }

    /// A change of voters is little more than an id (unless a join replaces one), so that the
    /// checksum tells whether a damaged entry is one: without that nobody could say who is
    /// needed to know of the entry.
    fn guess_changes(&mut self) {
        let short = |i: &Index| {
            self.log
                .get(*i)
                .is_some_and(|e| e.size() <= CHANGE_BYTES_MAX)
        };
        let missing: Vec<Index> = self.log.missing().filter(short).collect();
        let joins: Vec<u64> = self.log.missing().map(|i| i.0).collect();
        let known = self
            .configurations
            .iter()
            .flat_map(|(_, c)| &c.members)
            .map(|m| m.id.0);
        // A damaged join makes a member too.
        let ids: BTreeSet<u64> = known.chain(joins).collect();
        for index in missing {
            let term = self.log.term_at(index).expect("a damaged entry is here");
            for id in &ids {
                for command in [Command::Promote { id: *id }, Command::Remove { id: *id }] {
                    let mut bytes = Vec::new();
                    command::encode(&command, &mut bytes);
                    self.maybe_repair(Entry {
                        term,
                        index,
                        body: Body::Good(bytes.into()),
                    });
                }
            }
        }
    }

    /// Asks everyone for the first entries whose bodies are missing.
    pub(super) fn ask_for_missing(&mut self) {
        let missing: Vec<Index> = self.log.missing().take(ASKED_MAX).collect();
        self.repair.due_us = if missing.is_empty() {
            u64::MAX
        } else {
            self.now_us + self.election_us
        };
        // Those too who are being removed: they may have it. And who leads or wants to: its join
        // may be what is damaged.
        let members = self
            .configurations
            .iter()
            .flat_map(|(_, c)| &c.members)
            .map(|m| m.id);
        let mut others: BTreeSet<PeerId> = members
            .chain([self.leader, self.repair.candidate])
            .collect();
        others.retain(|id| ![PeerId::NONE, self.id].contains(id));
        for index in missing {
            let term = self.log.term_at(index).expect("a damaged entry is here");
            for to in &others {
                self.send(*to, Rpc::Fetch { index, term });
            }
        }
    }

    pub(super) fn maybe_ask_again(&mut self) {
        if self.now_us >= self.repair.due_us {
            self.ask_for_missing();
        }
    }

    /// A peer asks: whatever the terms, the entry of an index and a term is one and the same
    /// everywhere.
    pub(super) fn on_fetch(&mut self, from: PeerId, index: Index, term: Term) {
        let found = match self.log.get(index) {
            _ if index <= self.log.start() => Found::Behind,
            Some(e) if e.term == term || self.has(Fault::RepairUnchecked) => match &e.body {
                Body::Good(bytes) => Found::Body(bytes.clone()),
                Body::Faulty { .. } => Found::Damaged,
            },
            Some(_) | None => Found::Never,
        };
        if found == Found::Behind {
            self.maybe_aid(from);
        }
        self.send(from, Rpc::Fetched { index, term, found });
    }

    /// The damaged entry of a peer is behind the snapshot here, and there may be no leader to hand
    /// that over, since the peer's log may be the best one: so anyone does, one peer at a time,
    /// outside of terms (what is in a snapshot is committed, whoever sends it).
    fn maybe_aid(&mut self, to: PeerId) {
        let busy_us = self.now_us.saturating_sub(self.timeout_us());
        match &self.aid {
            _ if self.role == RaftRole::Leader => {}
            Some(aid) if aid.id == to => self.retry_chunks(),
            Some(aid) if aid.heard_us > busy_us => {}
            Some(_) | None => {
                let mut aid = Progress::new(to, false, Index(1), self.now_us);
                aid.become_snapshot(&self.snapshot);
                self.aid = Some(aid);
            }
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        from: PeerId,
        term: Term,
        entry: (Index, Term),
        found: Found,
    ) {
        let (index, entry_term) = entry;
        let here = self.log.get(index).filter(|e| e.term == entry_term);
        let Some(Entry {
            body: Body::Faulty { .. },
            ..
        }) = here
        else {
            return;
        };
        match found {
            Found::Body(bytes) => self.maybe_repair(Entry {
                term: entry_term,
                index,
                body: Body::Good(bytes),
            }),
            Found::Never => self.on_never(from, term, index),
            Found::Behind if from == self.leader => {
                self.repair.behind = self.repair.behind.max(index)
            }
            Found::Behind | Found::Damaged => {}
        }
    }

    /// Takes a body if the entry here is damaged and its checksum says that this was it.
    pub(super) fn maybe_repair(&mut self, entry: Entry) {
        let Some(Entry {
            body: Body::Faulty { len, seed, crc },
            ..
        }) = self.log.get(entry.index)
        else {
            return;
        };
        let Body::Good(bytes) = entry.body else {
            return;
        };
        let mut hasher = crc32fast::Hasher::new_with_initial(*seed);
        hasher.update(&bytes);
        let same = bytes.len() == *len as usize && hasher.finalize() == *crc;
        if !same && !self.has(Fault::RepairUnchecked) {
            return;
        }
        let lsn = super::Lsn(self.lsn.0 + 1);
        let repaired = self.log.repair(entry.index, bytes, lsn);
        self.persist(Persist::Repair(repaired));
        self.rebuild_configurations(entry.index);
        if self.log.missing().next().is_none() {
            self.repair.due_us = u64::MAX;
        }
    }

    /// Only the leader's snapshot has what is damaged here.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.log
            .missing()
            .next()
            .is_some_and(|first| first <= self.repair.behind)
    }

    fn on_never(&mut self, from: PeerId, term: Term, index: Index) {
        // Which voters there are is known as far as the first damaged entry.
        let first = self.log.missing().next() == Some(index);
        if !first || index <= self.commit_index || self.leader != PeerId::NONE {
            return;
        }
        *self.repair.never.entry(from).or_default() |= term > self.repair.term;
        if self.is_refused(index, true) || self.has(Fault::CutByOne) {
            // A leader that counts what was acknowledged here before would take what is cut for
            // lost.
            self.become_follower(self.past_term(), PeerId::NONE);
            self.cut(index);
            self.ask_for_missing();
        }
    }

    fn past_term(&self) -> Term {
        self.current_term.max(Term(self.repair.term.0 + 1))
    }

    /// No leader is in sight. When enough voters never had the first damaged entry, but said so in
    /// a term in which it may have been acknowledged here, this member goes on to a later one
    /// and takes them along by a denial that nobody asked for (a learner would hear of no
    /// other): their next answers count.
    pub(super) fn maybe_go_past(&mut self) {
        let refused = self
            .log
            .missing()
            .next()
            .is_some_and(|first| self.is_refused(first, false));
        if !refused || !self.configuration().is_voter(self.id) {
            return;
        }
        self.become_follower(self.past_term(), PeerId::NONE);
        let early = self.repair.never.iter().filter(|(_, past)| !**past);
        for to in early.map(|(id, _)| *id).collect::<Vec<PeerId>>() {
            self.send_vote(to, true, false, self.current_term);
        }
    }

    /// Whether those who never had the entry keep it from a majority in each configuration under
    /// which it could be committed; for ever, if they are past every term in which it was
    /// acknowledged here: a leader that counts that could still bring it to the others. Whoever
    /// has the entry has all before it, so no configuration that was over by then
    /// counts. A majority of them does: one change of voters that is not known here (behind the end
    /// of this log, or a damaged join that replaces a voter) alters nothing, and the next one
    /// waits for the commit of that. Of two voters the other does: only this member could add a
    /// voter, and its disk has that first (`maybe_commit`) and knows it even if it is damaged.
    /// Learners, who may be gone for good, need not be asked. Not covered: this member alone has
    /// replaced the other voter, and that very join is damaged, in the last batch.
    fn is_refused(&self, index: Index, past: bool) -> bool {
        let later = self
            .configurations
            .iter()
            .filter(|(at, _)| *at >= index)
            .map(|(_, c)| c);
        let mut all = later.chain([self.configuration_at(index.prev())]);
        all.all(|c| {
            let pair = c.voters().count() == 2 && c.is_voter(self.id);
            let said = c
                .voters()
                .filter(|v| self.repair.never.get(v).is_some_and(|n| *n >= past))
                .count();
            said >= if pair { 1 } else { c.majority() }
        })
    }
}
