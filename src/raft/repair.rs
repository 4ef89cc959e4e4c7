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
        let missing: Vec<Index> = self.log.missing().collect();
        let known = self.configurations.iter().flat_map(|(_, c)| &c.members).map(|m| m.id.0);
        // A damaged join makes a member too.
        let ids: BTreeSet<u64> = known.chain(missing.iter().map(|m| m.0)).collect();
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
        // Those too whose removal may not be committed: they may have it, and `is_nowhere` must hear them.
        let members = self.open_configurations().flat_map(|c| &c.members);
        let others: BTreeSet<PeerId> = members.map(|m| m.id).filter(|m| *m != self.id).collect();
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
        }
    }

    /// The configurations that may be in force: the last that is known to be committed, and those behind it.
    fn open_configurations(&self) -> impl Iterator<Item = &Configuration> {
        let open = self.configurations.iter().rev();
        let open = open.take_while(|(at, _)| *at > self.commit_index);
        open.map(|(_, c)| c).chain([self.committed_configuration()])
    }

    /// A majority without this member never had the entry, or nobody else did: it was not committed. That must stay so: a
    /// leader that has it and counts what this member acknowledged before its restart could still bring it to those who
    /// said no. So the majority must be of members whose term is past every such leader's; and nobody else means all who
    /// were voters since the last commit known here, since one that is being removed may still lead.
    ///
    /// Learners need not be asked, who may be gone for good: one that helped to commit this entry was promoted behind it,
    /// by this member, whose disk had that promotion first (`maybe_commit`) and knows it even if it is damaged.
    fn is_nowhere(&self, index: Index) -> bool {
        let never = self.repair.never.iter().filter(|n| n.0 == index);
        let said = |id: PeerId, past| never.clone().any(|n| n.1 == id && n.2 >= past);
        let latest = self.configuration();
        let past = latest.voters().filter(|v| said(*v, true)).count();
        let mut others = self.open_configurations().flat_map(Configuration::voters);
        past >= latest.majority() || others.all(|id| id == self.id || said(id, false))
    }
}
