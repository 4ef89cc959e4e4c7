//! What each member has promised to others: entries that it acknowledged, votes that it gave.
//!
//! A leader counts an acknowledged entry from then on, and a candidate counts a vote. So the member
//! must keep both over every restart of its own disk. Only a leader of a later term may replace an
//! acknowledged entry. Start at `Promises::on_acknowledged` and `Promises::on_found`.
use super::image::{Held, Image};
use super::truth::{Checked, MemLog, violation};
use std::collections::{BTreeMap, BTreeSet};
use tern::core::raft::{AppendAnswer, Entry, Message, PeerId, Rpc};

/// The entries of an append that was delivered in the present turn.
struct HeardAppend {
    /// The term of the leader.
    term: u64,
    first: u64,
    terms: Vec<u64>,
}

/// The appends that a machine was given in the present turn. They tell which leader replaced an
/// entry: a turn may take messages of several terms.
#[derive(Default)]
pub struct HeardAppends(Vec<HeardAppend>);

impl HeardAppends {
    pub fn on_message(&mut self, message: &Message) {
        let Rpc::AppendEntries { entries, .. } = &message.rpc else {
            return;
        };
        if let Some(first) = entries.first() {
            self.0.push(HeardAppend {
                term: message.term.0,
                first: first.index.0,
                terms: entries.iter().map(|e| e.term.0).collect(),
            });
        }
    }

    pub fn end_turn(&mut self) {
        self.0.clear();
    }

    /// The term of the leader that brought this entry; `None`: no append brought it. Of several the
    /// last.
    pub fn leader_term(&self, entry: &Entry) -> Option<u64> {
        let (index, term) = (entry.index.0, entry.term.0);
        let brings = |heard: &&HeardAppend| {
            let at = index.checked_sub(heard.first).map(|at| at as usize);
            at.and_then(|at| heard.terms.get(at)) == Some(&term)
        };
        self.0.iter().filter(brings).map(|heard| heard.term).max()
    }
}

/// A leader of `term` has replaced the entries from `from` on.
struct Cut {
    term: u64,
    from: u64,
}

/// What one member has acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// The latest term in which it has acknowledged anything, and the last entry in that term.
    term: u64,
    in_term: u64,
    /// The last acknowledged entry that no leader of a later term has replaced, and its term;
    /// `None`: a snapshot covers it.
    last: u64,
    last_term: Option<u64>,
    /// What the present process has replaced. An acknowledgement may leave after the entries were
    /// replaced: in the same turn, or when its term is durable.
    cuts: Vec<Cut>,
}

/// What all members have promised.
#[derive(Default)]
pub struct Promises {
    acknowledged: BTreeMap<u64, Acknowledged>,
    /// The candidate that has a vote, by member, life of its data directory, and term.
    votes: BTreeMap<(u64, u64, u64), u64>,
    /// Members and incarnations whose data was wiped or lost.
    gone_ids: BTreeSet<u64>,
    gone_incarnations: BTreeSet<u64>,
}

impl Promises {
    /// A member sends a message. `log` is its log at the end of the turn, `life` counts how often
    /// its data directory was set back.
    pub fn on_sent(
        &mut self,
        (member, life): (u64, u64),
        to: PeerId,
        log: &MemLog,
        message: &Message,
    ) -> Checked {
        if self.gone_ids.contains(&member) {
            let text = format!("machine {member} sends {message:?}, its data was wiped");
            return violation("returns-after-wipe", text);
        }
        match &message.rpc {
            Rpc::AppendReply {
                answer: AppendAnswer::Accepted { matched, .. },
                ..
            } => self.on_acknowledged(member, log, message.term.0, matched.0),
            Rpc::RequestVote { pre: false, .. } => {
                self.on_vote((member, life, message.term.0), member)
            }
            Rpc::Vote {
                pre: false,
                granted: true,
                ..
            } => self.on_vote((member, life, message.term.0), to.0),
            _ => Ok(()),
        }
    }

    fn on_acknowledged(&mut self, member: u64, log: &MemLog, term: u64, matched: u64) -> Checked {
        let acknowledged = self.acknowledged.entry(member).or_default();
        if term > acknowledged.term {
            (acknowledged.term, acknowledged.in_term) = (term, 0);
        }
        if term == acknowledged.term {
            acknowledged.in_term = acknowledged.in_term.max(matched);
        }
        let later = acknowledged.cuts.iter().filter(|cut| cut.term > term);
        let through = later.map(|cut| cut.from - 1).min();
        let through = through.map_or(matched, |through| through.min(matched));
        if through > log.last() {
            let text = format!(
                "machine {member} acknowledges {through} in term {term}, its log ends at {}",
                log.last()
            );
            return violation("acknowledged-entry-cut", text);
        }
        if through >= acknowledged.last {
            acknowledged.last = through;
            acknowledged.last_term = log.term(through);
        }
        Ok(())
    }

    /// The entries from `from` on are replaced in `log`, by a leader of `term`.
    pub fn on_cut(&mut self, member: u64, log: &MemLog, from: u64, term: u64) -> Checked {
        let Some(acknowledged) = self.acknowledged.get_mut(&member) else {
            return Ok(());
        };
        if from > log.last() {
            return Ok(());
        }
        let (in_term, own) = (acknowledged.in_term, acknowledged.term);
        if term <= own && from <= in_term {
            let text = format!(
                "machine {member} replaces {from} in term {term}, and has acknowledged {in_term} in term {own}"
            );
            return violation("acknowledged-entry-cut", text);
        }
        if acknowledged.last >= from {
            acknowledged.last = from - 1;
            acknowledged.last_term = log.term(from - 1);
        }
        acknowledged.cuts.push(Cut { term, from });
        Ok(())
    }

    /// A start finds what the member has acknowledged.
    pub fn on_found(&mut self, image: &Image) -> Checked {
        let member = image.id.0;
        let Some(acknowledged) = self.acknowledged.get_mut(&member) else {
            return Ok(());
        };
        acknowledged.cuts.clear();
        let is_held = match image.held(acknowledged.last) {
            Held::Entry { term, .. } => acknowledged.last_term.is_none_or(|of| of == term),
            Held::Behind => true,
            Held::Never => acknowledged.last == 0,
        };
        if is_held && image.log.term.0 >= acknowledged.term {
            return Ok(());
        }
        let text = format!(
            "machine {member} has acknowledged {} of term {:?} in term {}, its disk ends at {} in term {}",
            acknowledged.last,
            acknowledged.last_term,
            acknowledged.term,
            image.last(),
            image.log.term.0
        );
        violation("acknowledged-entry-lost", text)
    }

    /// A member gives its vote in a term, over the life of its data directory.
    fn on_vote(&mut self, vote: (u64, u64, u64), candidate: u64) -> Checked {
        let first = *self.votes.entry(vote).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        let (member, _, term) = vote;
        let text = format!("machine {member} votes for {first} and {candidate} in term {term}");
        violation("votes-twice", text)
    }

    /// A member's data directory is set back to an old copy: what it has acknowledged since is not
    /// promised any more.
    pub fn on_set_back(&mut self, member: u64) {
        self.acknowledged.remove(&member);
    }

    /// A member's data directory is wiped or lost: neither its id nor its incarnation returns.
    pub fn on_wiped(&mut self, id: u64, incarnation: u64) {
        if id != 0 {
            self.gone_ids.insert(id);
        }
        self.gone_incarnations.insert(incarnation);
    }

    /// A machine names itself by this incarnation.
    pub fn on_named(&self, id: u64, incarnation: u64) -> Checked {
        if !self.gone_ids.contains(&id) && !self.gone_incarnations.contains(&incarnation) {
            return Ok(());
        }
        let text = format!("{id} calls itself {incarnation}, whose data was wiped");
        violation("returns-after-wipe", text)
    }
}
