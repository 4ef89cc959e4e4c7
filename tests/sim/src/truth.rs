//! What the observer of the whole cluster knows: every entry that ever was, what is committed, member
//! led when, what the model says. Each check that compares machines with each other or with the
//! past stands here and has a name.
//!
//! All checks look only at what changed. A check that fails leaves a `Violation`; the first one
//! ends the run. Start at `Truth::on_appended` and `Truth::on_commit`.
use super::image::{Held, Image};
use super::model::Model;
use super::params::REQUEST_BYTES_MAX;
use super::promises::Promises;
use super::times::Times;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tern::core::command::Command;
use tern::core::raft::{Entry, EntryBody, SnapshotMeta};
use tern_support::rng::hash_bytes;

/// A longer command has a value of the largest length.
const LONGEST_BYTES_MIN: usize = REQUEST_BYTES_MAX as usize - 100;

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Violation {
    pub check: &'static str,
    pub text: String,
}

pub type Checked = Result<(), Violation>;

pub fn violation(check: &'static str, text: String) -> Checked {
    Err(Violation { check, text })
}

/// An entry that some machine has appended.
struct Known {
    term: u64,
    hash: u64,
    prev_term: u64,
    command: Arc<[u8]>,
    /// When the first machine appended it, in microseconds of the true time.
    appended_us: u64,
}

/// A machine's log as the machine itself sees it, durable or not: terms and hashes alone.
#[derive(Clone, Debug, Default)]
pub struct MemLog {
    /// The entry before the first; its term is known.
    pub base: u64,
    pub base_term: u64,
    pub terms: VecDeque<u64>,
}

impl MemLog {
    pub fn of(image: &Image) -> MemLog {
        let (base, base_term) = image
            .newest()
            .map_or((0, 0), |s| (s.meta.index.0, s.meta.term.0));
        let terms = (base + 1..=image.last()).map(|i| match image.held(i) {
            Held::Entry { term, .. } => term,
            Held::Behind | Held::Never => unreachable!("entries follow the snapshot"),
        });
        MemLog {
            base,
            base_term,
            terms: terms.collect(),
        }
    }

    pub fn last(&self) -> u64 {
        self.base + self.terms.len() as u64
    }

    /// The term at an index; `None` above the end and behind the base.
    pub fn term(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.base)? {
            0 => Some(self.base_term),
            n => self.terms.get(n as usize - 1).copied(),
        }
    }

    pub fn last_term(&self) -> u64 {
        *self.terms.back().unwrap_or(&self.base_term)
    }

    pub fn install(&mut self, index: u64, term: u64, keep_tail: bool) {
        if keep_tail && index <= self.last() {
            self.rebase(index, term);
        } else {
            self.terms.clear();
            (self.base, self.base_term) = (index, term);
        }
    }

    /// Forgets what is at or below `index`.
    pub fn rebase(&mut self, index: u64, term: u64) {
        while self.base < index && self.terms.pop_front().is_some() {
            self.base += 1;
        }
        if self.base == index {
            self.base_term = term;
        }
    }
}

/// A member as the committed log has it.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: u64,
    pub name: Box<str>,
    pub voter: bool,
    /// The number of its data directory.
    pub incarnation: u64,
}

#[derive(Default)]
pub struct Truth {
    /// The true time of the present turn, in microseconds.
    pub now_us: u64,
    /// By index less one: the entries of every term.
    known: Vec<Vec<Known>>,
    /// By index less one: term and hash of what is committed, as shown by a majority of disks.
    committed: Vec<(u64, u64)>,
    /// By index less one: the term of the first machine that knew of the commit. It is that of the
    /// leader that committed the entry, or a later one.
    commit_terms: Vec<u64>,
    /// The etcd index after each committed entry.
    etcd_at: Vec<u64>,
    /// The state hash after some applied entries.
    state_at: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
    pub members: Vec<Member>,
    /// Ids whose removal is committed, and where.
    pub removed: BTreeMap<u64, u64>,
    /// Ids of members that were removed for good: the index of the removal, and the number of the
    /// data directory.
    pub barred: BTreeMap<u64, (u64, u64)>,
    pub model: Model,
    pub views: super::views::Views,
    pub membership_changes: u64,
    /// How many committed commands have a value of the largest length.
    pub longest_commits: u64,
    pub times: Times,
    pub promises: Promises,
    /// As last committed.
    pub active_size: Option<u32>,
}

impl Truth {
    /// A new cluster: its founder's Join is the first entry, known from snapshot zero alone.
    pub fn found(&mut self, meta: &SnapshotMeta) {
        assert!(
            meta.index.0 == 1 && meta.configuration.members.len() == 1,
            "a cluster of one"
        );
        let founder = &meta.configuration.members[0];
        let command = Command::Join {
            name: founder.name.clone(),
            peer_url: founder.peer_url.clone(),
            client_url: founder.client_url.clone(),
            incarnation: founder.incarnation,
            replaces: None,
        };
        self.committed.push((meta.term.0, 0));
        self.commit_terms.push(meta.term.0);
        self.apply(1, &command);
        self.members[0].voter = true;
        self.etcd_at.push(self.model.index());
    }

    pub fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The etcd index after this entry, if it is committed.
    pub fn etcd_after(&self, index: u64) -> Option<u64> {
        let at = index.checked_sub(1)? as usize;
        self.etcd_at.get(at).copied()
    }

    pub fn committed_term(&self, index: u64) -> Option<u64> {
        self.committed
            .get(index.checked_sub(1)? as usize)
            .map(|c| c.0)
    }

    /// The term of the leader that replaces the entries of `log` after an installed snapshot. The
    /// member is in `member_term`.
    ///
    /// If the log has another entry in the place of the snapshot's last one, that is the leader that
    /// committed the last one: every later leader has it. The member may be in an earlier term: a
    /// member that does not lead may have sent the snapshot.
    pub fn cut_term(&self, log: &MemLog, meta: &SnapshotMeta, member_term: u64) -> u64 {
        let (index, term) = (meta.index.0, meta.term.0);
        let differs = log.term(index).is_some_and(|held| held != term);
        if differs && self.committed_term(index) == Some(term) {
            self.commit_terms[index as usize - 1]
        } else {
            member_term
        }
    }

    fn find(&self, index: u64, term: u64) -> Option<&Known> {
        self.known
            .get(index.checked_sub(1)? as usize)?
            .iter()
            .find(|k| k.term == term)
    }

    /// A machine has appended entries to its log: they are the same wherever index and term are the
    /// same, and so is all that stands before them (by induction over the term of the entry
    /// before).
    pub fn on_appended(
        &mut self,
        member: u64,
        log: &mut MemLog,
        commit: u64,
        entries: &[Entry],
    ) -> Checked {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let from = first.index.0;
        if from <= log.base || from > log.last() + 1 {
            return violation(
                "log-gap",
                format!(
                    "machine {member} appends {from} to a log of {}..={}",
                    log.base,
                    log.last()
                ),
            );
        }
        if from <= commit {
            let cut = format!("machine {member} appends {from} though {commit} is committed");
            return violation("committed-entry-cut", cut);
        }
        log.terms.truncate((from - log.base - 1) as usize);
        for entry in entries {
            let (index, term) = (entry.index.0, entry.term.0);
            let prev_term = log.last_term();
            if term < prev_term {
                return violation(
                    "log-terms-fall",
                    format!("machine {member}: {term} behind {prev_term} at {index}"),
                );
            }
            self.learn(member, entry, prev_term)?;
            log.terms.push_back(term);
        }
        Ok(())
    }

    fn learn(&mut self, member: u64, entry: &Entry, prev_term: u64) -> Checked {
        let EntryBody::Good(body) = &entry.body else {
            return Ok(());
        };
        let (index, term, hash) = (entry.index.0, entry.term.0, hash_bytes(body));
        while (self.known.len() as u64) < index {
            self.known.push(Vec::new());
        }
        let known = &mut self.known[index as usize - 1];
        match known.iter().find(|k| k.term == term) {
            None => known.push(Known {
                term,
                hash,
                prev_term,
                command: body.clone(),
                appended_us: self.now_us,
            }),
            Some(k) if k.hash != hash || k.prev_term != prev_term => {
                let text = format!("machine {member} holds another entry {index} of term {term}");
                return violation("log-matching", text);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// What a start finds on a disk: what was acknowledged, and entries that were appended there.
    pub fn on_found(&mut self, image: &Image) -> Checked {
        self.promises.on_found(image)?;
        let member = image.id.0;
        let mut prev_term = None;
        for rec in image.log.records() {
            let (index, term) = (rec.entry.index.0, rec.entry.term.0);
            let known = self.find(index, term);
            let good = matches!(rec.entry.body, EntryBody::Good(_));
            let same = known.is_some_and(|k| {
                (!good || k.hash == rec.hash) && prev_term.is_none_or(|p| p == k.prev_term)
            });
            if !same {
                return violation(
                    "found-entry",
                    format!(
                        "machine {member} finds an entry {index} of term {term} that it never had there"
                    ),
                );
            }
            prev_term = Some(term);
        }
        Ok(())
    }

    /// A repaired body is the one that was damaged.
    pub fn on_repaired(&mut self, member: u64, entry: &Entry) -> Checked {
        let prev_term = self.find(entry.index.0, entry.term.0).map(|k| k.prev_term);
        match prev_term {
            Some(prev_term) => self.learn(member, entry, prev_term),
            None => violation(
                "repair-invents",
                format!(
                    "machine {member} repairs {} with an unknown entry",
                    entry.index.0
                ),
            ),
        }
    }

    /// A machine leads a term: alone, and with all that is committed.
    pub fn on_leader(&mut self, member: u64, term: u64, log: &MemLog) -> Checked {
        match self.leaders.get(&term) {
            Some(other) if *other != member => {
                return violation(
                    "one-leader-a-term",
                    format!("machines {other} and {member} lead term {term}"),
                );
            }
            Some(_) => return Ok(()),
            None => {
                self.leaders.insert(term, member);
            }
        }
        self.check_complete(member, term, log)
    }

    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Leader completeness: what is committed in an older term is in the log of a leader.
    pub fn check_complete(&self, member: u64, term: u64, log: &MemLog) -> Checked {
        let Some((committed_term, _)) = self.committed.last().filter(|c| c.0 < term) else {
            return Ok(());
        };
        let index = self.committed();
        if log.base > index || log.term(index) == Some(*committed_term) {
            return Ok(());
        }
        let text = format!(
            "machine {member} leads term {term} without entry {index} of term {committed_term}: its log ends at {}, term {}",
            log.last(),
            log.last_term()
        );
        violation("leader-completeness", text)
    }

    /// A machine commits all up to `commit`: the same entries as everywhere, and each on a majority
    /// of synced disks at the first such moment. `held` looks at the disk of a voter; `voters` are
    /// one or two sets, as the configuration may have changed in this very turn: one majority
    /// suffices.
    pub fn on_commit(
        &mut self,
        check: &'static str,
        (member, member_term): (u64, u64),
        log: &MemLog,
        range: (u64, u64),
        voters: &[Vec<u64>],
        held: impl Fn(u64, u64) -> Held,
    ) -> Checked {
        let (from, to) = range;
        for index in from.max(log.base + 1)..=to {
            let Some(term) = log.term(index) else {
                return violation(
                    "commit-beyond-log",
                    format!(
                        "machine {member} commits {index}, its log ends at {}",
                        log.last()
                    ),
                );
            };
            if index <= self.committed() {
                if self.committed_term(index) != Some(term) {
                    let text = format!(
                        "machine {member} commits term {term} at {index}, others term {:?}",
                        self.committed_term(index)
                    );
                    return violation("same-command", text);
                }
                continue;
            }
            let on_majority = voters.iter().any(|set| {
                let count = set.iter().filter(|v| match held(**v, index) {
                    Held::Entry { term: t, .. } => t == term,
                    Held::Behind => true,
                    Held::Never => false,
                });
                count.count() > set.len() / 2
            });
            if !on_majority {
                let text = format!(
                    "machine {member}: entry {index} of term {term} is on too few synced disks of {voters:?}"
                );
                return violation(check, text);
            }
            self.commit(index, term)?;
            self.commit_terms.push(member_term);
        }
        if to > self.committed() {
            let text =
                format!("machine {member} commits up to {to}, which no majority was seen to hold");
            return violation(check, text);
        }
        Ok(())
    }

    fn commit(&mut self, index: u64, term: u64) -> Checked {
        assert!(index == self.committed() + 1, "entries commit in order");
        let Some(known) = self.find(index, term) else {
            return violation(
                "commit-invents",
                format!("no machine appended entry {index} of term {term}"),
            );
        };
        let hash = known.hash;
        let Ok(command) = tern::core::command::decode(&known.command) else {
            return violation("entry-codec", format!("entry {index} does not decode"));
        };
        let appended_us = known.appended_us;
        let is_longest = known.command.len() > LONGEST_BYTES_MIN;
        self.longest_commits += u64::from(is_longest);
        self.committed.push((term, hash));
        if let Some(stamp) = command.stamp() {
            self.times.on_committed(index, appended_us, stamp)?;
        }
        self.apply(index, &command);
        self.etcd_at.push(self.model.index());
        Ok(())
    }

    fn apply(&mut self, index: u64, command: &Command) {
        match command {
            Command::Join {
                name,
                replaces,
                incarnation,
                ..
            } => {
                let known = self
                    .members
                    .iter()
                    .any(|m| m.name == *name && Some(m.id) != *replaces);
                if let Some(replaced) = replaces {
                    self.members.retain(|m| m.id != *replaced);
                    self.removed.insert(*replaced, index);
                }
                if !known {
                    self.members.push(Member {
                        id: index,
                        name: name.clone(),
                        voter: false,
                        incarnation: *incarnation,
                    });
                    self.membership_changes += 1;
                }
            }
            Command::Remove { id, for_good } => {
                let member = self.members.iter().find(|m| m.id == *id);
                if let Some(member) = member.filter(|_| *for_good) {
                    self.barred.insert(*id, (index, member.incarnation));
                }
                self.members.retain(|m| m.id != *id);
                self.removed.insert(*id, index);
                self.membership_changes += 1;
            }
            Command::Promote { id } => {
                self.membership_changes += 1;
                for member in self.members.iter_mut().filter(|m| m.id == *id) {
                    member.voter = true;
                }
            }
            Command::SetConfig(config) => self.active_size = Some(config.active_size),
            _ => {}
        }
        self.views.apply(&mut self.model, index, command);
        self.model.apply(command);
    }

    /// A machine has applied everything up to `applied`: its key space is where the model's was,
    /// and the same as that of every other machine that came by.
    pub fn on_applied(
        &mut self,
        member: u64,
        applied: u64,
        etcd: u64,
        state: Option<u64>,
    ) -> Checked {
        if applied == 0 {
            return Ok(());
        }
        if applied > self.committed() {
            return violation(
                "applied-uncommitted",
                format!("machine {member} applied {applied} of {}", self.committed()),
            );
        }
        let want = self.etcd_at[applied as usize - 1];
        if etcd != want {
            return violation(
                "etcd-index",
                format!(
                    "machine {member} is at etcd index {etcd} after {applied}, the model at {want}"
                ),
            );
        }
        let Some(state) = state else {
            return Ok(());
        };
        match self.state_at.get(&applied) {
            Some(other) if *other != state => violation(
                "state-hash",
                format!("machine {member} differs from another after {applied}"),
            ),
            Some(_) => Ok(()),
            None => {
                self.state_at.insert(applied, state);
                Ok(())
            }
        }
    }
}
