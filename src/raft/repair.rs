//! Entries that this machine's disk has damaged: got back from the peers by (index, term), outside of terms.
//!
//! Until they are back nothing past them is applied or acknowledged, and this member does not campaign; it still votes,
//! by its full log. A damaged entry that cannot have been committed is cut. Start reading at `start_repair`.
use super::fault::Fault;
use super::progress::Progress;
use super::{Body, Configuration, Entry, Found, Index, PeerId, Persist, Raft, RaftRole, Rpc, Term};
use crate::command::{self, Command};
use std::collections::BTreeSet;

/// How many entries are asked for at a time.
const ASKED_MAX: usize = 32;

/// How long a Promote or a Remove is at most: a byte and an id.
const CHANGE_BYTES_MAX: usize = 11;

/// What is under way.
pub struct Repair {
    /// When to ask again; `u64::MAX` when nothing is damaged.
    pub due_us: u64,
    /// The term on the disk at start: no leader of a later one can count what this member acknowledged before.
    term: Term,
    /// Who says that it never had which entry, and whether it is past `term`, so that no leader of that brings it there.
    never: Vec<(Index, PeerId, bool)>,
    /// The leader has a damaged entry only in its snapshot.
    pub behind_leader: bool,
}

impl Default for Repair {
    fn default() -> Self {
        Repair { due_us: u64::MAX, term: Term(0), never: Vec::new(), behind_leader: false }
    }
}

impl Raft {
    pub(super) fn start_repair(&mut self) {
        self.repair.term = self.current_term;
        self.guess_changes();
        self.ask_for_missing();
    }

    /// A change of voters is little more than an id, so that the checksum tells whether a damaged entry is one: without
    /// that nobody could say who is needed to know of the entry.
    fn guess_changes(&mut self) {
        let short = |i: &Index| self.log.get(*i).is_some_and(|e| e.size() <= CHANGE_BYTES_MAX);
        let missing: Vec<Index> = self.log.missing().filter(short).collect();
        let joins: Vec<u64> = self.log.missing().map(|i| i.0).collect();
        let known = self.configurations.iter().flat_map(|(_, c)| &c.members).map(|m| m.id.0);
        // A damaged join makes a member too.
        let ids: BTreeSet<u64> = known.chain(joins).collect();
        for index in missing {
            let term = self.log.term_at(index).expect("a damaged entry is here");
            for id in &ids {
                for command in [Command::Promote { id: *id }, Command::Remove { id: *id }] {
                    let mut bytes = Vec::new();
                    command::encode(&command, &mut bytes);
                    self.maybe_repair(Entry { term, index, body: Body::Good(bytes.into()) });
                }
            }
        }
    }

    /// Asks everyone for the first entries whose bodies are missing.
    pub(super) fn ask_for_missing(&mut self) {
        let missing: Vec<Index> = self.log.missing().take(ASKED_MAX).collect();
        self.repair.due_us = match missing.is_empty() {
            true => u64::MAX,
            false => self.now_us + self.election_us,
        };
        // Those too whose removal may not be committed: they may have it, and `is_nowhere` must hear them. And the leader,
        // whose join may be what is damaged.
        let members = self.open_configurations().flat_map(|c| &c.members).map(|m| m.id);
        let mut others: BTreeSet<PeerId> = members.chain([self.leader]).collect();
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

    /// A peer asks: whatever the terms, the entry of an index and a term is one and the same everywhere.
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

    /// The damaged entry of a peer is behind the snapshot here, and there may be no leader to hand that over, since the
    /// peer's log may be the best one: so anyone does, one peer at a time, outside of terms (what is in a snapshot is
    /// committed, whoever sends it).
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

    pub(super) fn on_fetched(&mut self, from: PeerId, term: Term, entry: (Index, Term), found: Found) {
        let (index, entry_term) = entry;
        let here = self.log.get(index).filter(|e| e.term == entry_term);
        let Some(Entry { body: Body::Faulty { .. }, .. }) = here else {
            return;
        };
        match found {
            Found::Body(bytes) => self.maybe_repair(Entry { term: entry_term, index, body: Body::Good(bytes) }),
            Found::Never => self.on_never(from, term, index),
            Found::Behind => self.repair.behind_leader |= from == self.leader,
            Found::Damaged => {}
        }
    }

    /// Takes a body if the entry here is damaged and its checksum says that this was it.
    pub(super) fn maybe_repair(&mut self, entry: Entry) {
        let Some(Entry { body: Body::Faulty { len, seed, crc }, .. }) = self.log.get(entry.index) else {
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
        self.repair.never.retain(|(index, _, _)| *index != entry.index);
        if self.log.missing().next().is_none() {
            self.repair.due_us = u64::MAX;
            self.repair.behind_leader = false;
        }
    }

    fn on_never(&mut self, from: PeerId, term: Term, index: Index) {
        // Which voters there are is known as far as the first damaged entry.
        let first = self.log.missing().next() == Some(index);
        if !first || index <= self.commit_index || self.leader != PeerId::NONE {
            return;
        }
        let never = &mut self.repair.never;
        never.retain(|(at, id, _)| (*at, *id) != (index, from));
        never.push((index, from, term > self.repair.term));
        if self.is_nowhere(index) || self.has(Fault::CutByOne) {
            self.cut(index);
            self.repair.never.clear();
            self.ask_for_missing();
        } else if self.is_refused(index, false) && self.current_term <= self.repair.term {
            // Said by enough, but not past every term in which it was acknowledged here: the next answers will be.
            self.become_follower(Term(self.current_term.0 + 1), PeerId::NONE);
        }
    }

    /// The configurations that may be in force: the last that is known to be committed, and those behind it.
    fn open_configurations(&self) -> impl Iterator<Item = &Configuration> {
        let open = self.configurations.iter().rev();
        let open = open.take_while(|(at, _)| *at > self.commit_index);
        open.map(|(_, c)| c).chain([self.committed_configuration()])
    }

    /// Enough voters without this member never had the entry, or nobody else did: it was not committed. That must stay
    /// so: a leader that has it and counts what this member acknowledged before its restart could still bring it to those
    /// who said no. So these must be past every such leader's term; and nobody else means all who were voters since the
    /// last commit known here, since one that is being removed may still lead.
    fn is_nowhere(&self, index: Index) -> bool {
        let mut others = self.open_configurations().flat_map(Configuration::voters);
        let nobody = others.all(|id| id == self.id || self.has_said_never(index, id, false));
        self.is_refused(index, true) || (nobody && self.is_refused(index, false))
    }

    fn has_said_never(&self, index: Index, id: PeerId, past: bool) -> bool {
        self.repair.never.iter().any(|n| (n.0, n.1) == (index, id) && n.2 >= past)
    }

    /// Whether those who never had the entry keep it from a majority in each configuration under which it could be
    /// committed: whoever has the entry has all before it, so none that was over by then counts. A majority of them does,
    /// also when a change that is not known here adds a voter. Of two voters the other does: another voter could only be
    /// added by this member, whose disk has that first (`maybe_commit`) and knows it even if it is damaged; learners, who
    /// may be gone for good, need not be asked.
    fn is_refused(&self, index: Index, past: bool) -> bool {
        let later = self.configurations.iter().filter(|(at, _)| *at >= index).map(|(_, c)| c);
        let mut all = later.chain([self.configuration_at(index.prev())]);
        all.all(|c| {
            let pair = c.voters().count() == 2 && c.is_voter(self.id);
            let said = c.voters().filter(|v| self.has_said_never(index, *v, past)).count();
            said >= if pair { 1 } else { c.majority() }
        })
    }
}
