//! What no correct peer sends: each message is checked here before it changes anything.
//!
//! A peer that runs other code, or whose memory is faulty, can send any message that decodes. Raft's
//! own rules rest on facts about correct peers, and its assertions state them. So these facts are
//! compared with the message first, and a message that contradicts one is a [`Violation`]: it is
//! dropped as a whole, and the owner closes the link (`RaftOutput::violations`).
//!
//! Only facts that hold whatever messages were lost, repeated or overtaken are checked:
//!
//! 1. *Terms.* Terms rise by one with each campaign, so none comes near 2^62, and none lies far past
//!    the term of another member (`term_budget`). A leader's term is at least 1.
//! 2. *One leader a term* (thesis 3.4). A call of the current term from a second leader, or to the
//!    leader itself, is impossible.
//! 3. *Leader completeness* (thesis 3.6.3). The leader of the current or a later term has every entry
//!    that this member knows to be committed. Its appends and snapshots never hold another one in
//!    the place of such an entry.
//! 4. *Entries are commands*; those on the cluster, ttls and readings of the clock are within
//!    bounds. A body that does not decode would end the process when it is applied, and again after
//!    each restart. The same holds for the members in the head of a snapshot, which are the effect
//!    of such commands.
//! 5. *Replies follow requests.* A reply of the current term acknowledges no entry past this leader's
//!    log and no round of heartbeats that was not started.
//!
//! A peer that lies within these limits can make an election necessary, or confirm what it does not
//! have. Raft tolerates crashes, not lies: see SECURITY.md.
//!
//! Start reading at `Raft::violation_of`.
use super::message::{
    AppendAnswer, BARRED_MAX, Configuration, Entry, EntryBody, Index, Member, Message, PeerId, Rpc,
    SnapshotMeta, Term,
};
use super::room::BODY_BYTES_MAX;
use super::{Raft, RaftRole};
use crate::core::cluster_time::TIME_NS_MAX;
use crate::core::command::{self, Command};
use crate::core::identity;
use std::collections::BTreeSet;
use std::fmt;

/// No term is later than this. A cluster with a campaign each millisecond needs 146 million years
/// for it.
const TERM_MAX: u64 = 1 << 62;

/// No entry is at a later index than this. A log that grows by a million entries a second needs 73
/// thousand years for it.
const INDEX_MAX: u64 = 1 << 61;

/// No entry is further past the end of a log than this: half a year of a million entries a second.
const INDEX_LEAP_MAX: u64 = 1 << 44;

/// No cluster has more members. With the longest names and URLs they fit a record of the log.
pub const MEMBERS_MAX: usize = 8_192;

/// The fact about correct peers that a message contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The term is out of reach.
    Term(Term),
    /// Another member leads the current term.
    SecondLeader(Term),
    /// An append or a snapshot has another entry in the place of a committed one.
    CommittedEntry(Index),
    /// The body of an entry is no command that a member can have appended.
    Command(Index),
    /// The terms of the entries fall, or one is later than the leader's term.
    EntryTerm(Index),
    /// The index of an entry is out of reach.
    EntryIndex(Index),
    /// A snapshot is of another cluster, ends before the first entry, or has members to which no
    /// log can lead.
    SnapshotHead,
    /// A message gives this member another name than its own.
    OwnName,
    /// A reply acknowledges an entry that this leader does not have.
    Acknowledgement(Index),
    /// Its reading of the cluster clock is out of reach.
    Clock(u64),
    /// A reply answers a round of heartbeats that was not started.
    Round(u64),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Violation::Term(term) => write!(f, "its term {} is out of reach", term.0),
            Violation::SecondLeader(term) => {
                write!(f, "it claims to lead term {}, which has a leader", term.0)
            }
            Violation::CommittedEntry(index) => {
                write!(f, "it replaces the committed entry {}", index.0)
            }
            Violation::Command(index) => write!(f, "entry {} is not a command", index.0),
            Violation::EntryTerm(index) => {
                write!(f, "the term of entry {} is out of order", index.0)
            }
            Violation::EntryIndex(index) => write!(f, "its index {} is out of reach", index.0),
            Violation::SnapshotHead => f.write_str("the head of its snapshot is wrong"),
            Violation::OwnName => f.write_str("it gives this machine another name"),
            Violation::Acknowledgement(index) => {
                write!(f, "it acknowledges entry {}, which was not sent", index.0)
            }
            Violation::Clock(clock_ns) => {
                write!(f, "it reads {clock_ns} ns from the cluster clock")
            }
            Violation::Round(round) => {
                write!(f, "it answers heartbeat round {round}, which was not sent")
            }
        }
    }
}

impl Raft {
    /// A peer sent a message that no correct peer sends: nothing else becomes of it.
    pub fn refuse(&mut self, from: PeerId, violation: Violation) {
        self.out.violations.push((from, violation));
    }

    /// The fact that a message of `from` contradicts, if any. Changes nothing.
    pub(super) fn violation_of(&self, from: PeerId, message: &Message) -> Option<Violation> {
        let Message { term, rpc } = message;
        if *term == Term::REMOVED {
            return None;
        }
        let is_leaders = matches!(rpc, Rpc::AppendEntries { .. } | Rpc::TimeoutNow);
        if *term > self.term_max() || (is_leaders && *term == Term::NONE) {
            return Some(Violation::Term(*term));
        }
        match rpc {
            Rpc::AppendEntries {
                prev_index,
                prev_term,
                clock_ns,
                entries,
                ..
            } => self
                .second_leader(from, *term)
                .or_else(|| wrong_clock(*clock_ns))
                .or_else(|| self.wrong_append(*term, *prev_index, *prev_term, entries)),
            Rpc::InstallSnapshot { meta, .. } => self
                .second_leader(from, *term)
                .or_else(|| self.wrong_snapshot(*term, meta)),
            Rpc::TimeoutNow => self.second_leader(from, *term),
            Rpc::Vote {
                reading: Some(reading),
                ..
            } if reading.term > *term => Some(Violation::Term(reading.term)),
            Rpc::Vote { reading, .. } => reading.and_then(|reading| wrong_clock(reading.clock_ns)),
            Rpc::AppendReply { round, answer, .. } if *term == self.current_term => {
                self.wrong_reply(*round, answer)
            }
            _ => None,
        }
    }

    /// Fact 1: the latest term that a correct peer can have reached. A new member knows no term.
    fn term_max(&self) -> Term {
        if self.current_term == Term::NONE {
            return Term(TERM_MAX);
        }
        let left = self.term_budget.left(self.now_us);
        Term(TERM_MAX.min(self.current_term.0.saturating_add(left)))
    }

    /// The last index that another log can have reached. A new member knows none.
    fn index_max(&self) -> Index {
        let last = self.log.last_index();
        if last == Index(0) {
            return Index(INDEX_MAX);
        }
        Index(INDEX_MAX.min(last.0.saturating_add(INDEX_LEAP_MAX)))
    }

    /// Fact 2. A snapshot of a member that helps to repair this log is sent without a term.
    fn second_leader(&self, from: PeerId, term: Term) -> Option<Violation> {
        if term != self.current_term || term == Term::NONE {
            return None;
        }
        let is_other = self.leader.is_some_and(|leader| leader != from);
        let is_second = is_other || self.role == RaftRole::Leader;
        is_second.then_some(Violation::SecondLeader(term))
    }

    /// Facts 3 and 4 for an append. One of an older term is refused without looking at its entries,
    /// which its leader may have lost since.
    fn wrong_append(
        &self,
        term: Term,
        prev_index: Index,
        prev_term: Term,
        entries: &[Entry],
    ) -> Option<Violation> {
        if term < self.current_term {
            return None;
        }
        if self.is_other_committed(prev_index, prev_term) {
            return Some(Violation::CommittedEntry(prev_index));
        }
        if prev_index > self.index_max() {
            return Some(Violation::EntryIndex(prev_index));
        }
        let mut last_term = prev_term;
        for entry in entries {
            if entry.term < last_term || entry.term > term {
                return Some(Violation::EntryTerm(entry.index));
            }
            last_term = entry.term;
            if self.is_other_committed(entry.index, entry.term) {
                return Some(Violation::CommittedEntry(entry.index));
            }
            let EntryBody::Good(body) = &entry.body else {
                return Some(Violation::Command(entry.index));
            };
            if !is_command(body) {
                return Some(Violation::Command(entry.index));
            }
        }
        None
    }

    /// Whether this log has a committed entry at `index` whose term is not `term`.
    fn is_other_committed(&self, index: Index, term: Term) -> bool {
        // A heartbeat to a peer whose log cannot be compared starts at index 0, which all logs share.
        if index == Index(0) || index > self.log.commit_index() {
            return false;
        }
        self.log.term_at(index).is_some_and(|known| known != term)
    }

    /// Facts 3 and 4 for a snapshot. A member that does not lead sends committed entries as well.
    fn wrong_snapshot(&self, term: Term, meta: &SnapshotMeta) -> Option<Violation> {
        let cluster = self.snapshots.newest().cluster;
        let is_other_cluster = cluster != 0 && meta.cluster != cluster;
        if is_other_cluster || !self.can_have_members(meta) {
            return Some(Violation::SnapshotHead);
        }
        if meta.index > self.index_max() {
            return Some(Violation::EntryIndex(meta.index));
        }
        if meta.term > self.term_max() || (term != Term::NONE && meta.term > term) {
            return Some(Violation::EntryTerm(meta.index));
        }
        let is_current = term == Term::NONE || term >= self.current_term;
        let is_other = is_current && self.is_other_committed(meta.index, meta.term);
        is_other.then_some(Violation::CommittedEntry(meta.index))
    }

    /// Fact 4 for the members of a snapshot. A member's id is the index of its Join. Names are
    /// unique, and a member keeps its name. An uncommitted Join here proves nothing: another one may
    /// have been committed at its index.
    fn can_have_members(&self, meta: &SnapshotMeta) -> bool {
        let Configuration { members, barred } = &meta.configuration;
        if members.len() > MEMBERS_MAX || barred.len() > BARRED_MAX {
            return false;
        }
        let mut names = BTreeSet::new();
        for member in members {
            let Member {
                id,
                name,
                peer_url,
                client_url,
                ..
            } = member;
            let is_known_otherwise = self
                .committed_configuration()
                .get(*id)
                .is_some_and(|known| known.name != *name);
            let has_id = *id != PeerId::NONE && id.0 <= meta.index.0;
            let has_urls = identity::is_url(peer_url) && identity::is_url(client_url);
            let is_sound = has_id && has_urls && identity::is_name(name) && names.insert(name);
            if !is_sound || is_known_otherwise {
                return false;
            }
        }
        let can_bar = |id: PeerId| {
            id != PeerId::NONE && id.0 <= meta.index.0 && meta.configuration.get(id).is_none()
        };
        barred.iter().all(|member| can_bar(member.id))
            && meta.configuration.voters().next().is_some()
    }

    /// Fact 5.
    fn wrong_reply(&self, round: Option<u64>, answer: &AppendAnswer) -> Option<Violation> {
        if self.role != RaftRole::Leader {
            return None;
        }
        if let Some(round) = round.filter(|round| *round > self.reads.newest_round()) {
            return Some(Violation::Round(round));
        }
        let AppendAnswer::Accepted {
            verified, matched, ..
        } = answer
        else {
            return None;
        };
        let last = (*verified).max(*matched);
        (last > self.log.last_index()).then_some(Violation::Acknowledgement(last))
    }
}

impl Message {
    /// The name that this message gives to the member `id`, in the head of a snapshot or in the
    /// member's Join.
    pub fn name_of(&self, id: PeerId) -> Option<Box<str>> {
        match &self.rpc {
            Rpc::InstallSnapshot { meta, .. } => {
                let member = meta.configuration.get(id)?;
                Some(member.name.clone())
            }
            Rpc::AppendEntries { entries, .. } => {
                let entry = entries.iter().find(|entry| entry.index.0 == id.0)?;
                let EntryBody::Good(body) = &entry.body else {
                    return None;
                };
                match command::decode(body) {
                    Ok(Command::Join { name, .. }) => Some(name),
                    Ok(_) | Err(_) => None,
                }
            }
            _ => None,
        }
    }
}

/// Fact 4 for the cluster clock.
fn wrong_clock(clock_ns: u64) -> Option<Violation> {
    (clock_ns > TIME_NS_MAX).then_some(Violation::Clock(clock_ns))
}

/// Whether a correct member can have appended an entry with this body.
pub(super) fn is_command(body: &[u8]) -> bool {
    let is_sound = || command::decode(body).is_ok_and(|command| command.is_sound());
    body.len() as u64 <= BODY_BYTES_MAX && (command::is_lasting_set(body) || is_sound())
}

#[cfg(test)]
mod tests {
    use super::super::{RaftConfig, RaftState};
    use super::*;
    use crate::core::command::ClusterConfig;
    use crate::core::raft::message::FetchResult;
    use crate::core::timer::Now;

    const NOW: Now = Now {
        mono_us: 1_000_000,
        wall_ns: 0,
    };

    fn body(command: &Command) -> EntryBody {
        let mut bytes = Vec::new();
        command::encode(command, &mut bytes);
        EntryBody::Good(bytes.into())
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            body: body(&Command::Nop),
        }
    }

    fn member(id: u64) -> Member {
        Member {
            id: PeerId(id),
            name: format!("n{id}").into(),
            peer_url: "http://n:1".into(),
            client_url: "http://n:2".into(),
            voter: true,
            ..Member::default()
        }
    }

    fn members() -> Configuration {
        Configuration {
            members: vec![member(1), member(2), member(3)],
            barred: Vec::new(),
        }
    }

    fn meta(index: u64, term: u64) -> SnapshotMeta {
        SnapshotMeta {
            cluster: 7,
            index: Index(index),
            term: Term(term),
            configuration: members(),
        }
    }

    /// Member 1 of three in term 5, with entries 4 and 5 of term 3 and 6 of term 5 after the snapshot
    /// of entry 3. Entries up to 5 are committed.
    fn raft() -> Raft {
        let config = RaftConfig {
            id: PeerId(1),
            heartbeat_ms: 50,
            election_ms: 200,
            memory: Default::default(),
            seed: 1,
        };
        let state = RaftState {
            term: Term(5),
            vote: None,
            snapshot: meta(3, 2),
            entries: vec![entry(4, 3), entry(5, 3), entry(6, 5)],
            commit: Index(5),
            stamp: None,
            free_bytes: crate::core::raft::room::FREE_BYTES_MAX,
        };
        Raft::new(config, state, NOW)
    }

    fn append(term: u64, prev: (u64, u64), entries: Vec<Entry>) -> Message {
        Message {
            term: Term(term),
            rpc: Rpc::AppendEntries {
                prev_index: Index(prev.0),
                prev_term: Term(prev.1),
                commit: Index(5),
                acked: Index(0),
                round: None,
                sync_us: 0,
                round_trip_us: 0,
                pause_us: 0,
                clock_ns: 0,
                held_bytes: None,
                entries,
            },
        }
    }

    fn snapshot(term: u64, meta: SnapshotMeta) -> Message {
        Message {
            term: Term(term),
            rpc: Rpc::InstallSnapshot {
                meta,
                offset: 0,
                done: false,
                data: Box::default(),
            },
        }
    }

    /// Handles the message and returns the violation that was reported, after asserting that a
    /// violation changed nothing.
    fn handle(raft: &mut Raft, from: u64, message: Message) -> Option<Violation> {
        raft.out.persist.clear();
        raft.out.messages.clear();
        let before = (raft.term(), raft.last_index(), raft.leader(), raft.role());
        raft.on_message(NOW, PeerId(from), message);
        let found = raft.out.violations.pop().map(|(_, violation)| violation);
        let after = (raft.term(), raft.last_index(), raft.leader(), raft.role());
        if found.is_some() {
            assert_eq!(before, after, "a violation changes nothing");
            assert!(raft.out.persist.is_empty() && raft.out.messages.is_empty());
        }
        found
    }

    #[test]
    fn an_append_never_replaces_a_committed_entry() {
        let cases = [
            (append(5, (4, 3), vec![entry(5, 4)]), 5),
            (append(6, (4, 2), vec![]), 4),
            (append(6, (5, 4), vec![entry(6, 6)]), 5),
            (append(6, (3, 1), vec![]), 3),
            (append(6, (2, 2), vec![entry(3, 2), entry(4, 4)]), 4),
        ];
        for (message, index) in cases {
            let found = handle(&mut raft(), 2, message);
            assert_eq!(found, Some(Violation::CommittedEntry(Index(index))));
        }
        let replaces_the_uncommitted = append(6, (5, 3), vec![entry(6, 6)]);
        assert_eq!(handle(&mut raft(), 2, replaces_the_uncommitted), None);
    }

    #[test]
    fn a_command_on_the_cluster_is_within_bounds() {
        let join = |name: &str, url: &str| Command::Join {
            name: name.into(),
            peer_url: url.into(),
            client_url: "http://n:2".into(),
            incarnation: 1,
            replaces: None,
        };
        let config = ClusterConfig {
            sync_interval_ms: 0,
            ..ClusterConfig::default()
        };
        for command in [
            join("a/b", "http://n:1"),
            join("n4", "http://n:1/x"),
            Command::Remove {
                id: 0,
                for_good: false,
            },
            Command::SetConfig(config),
        ] {
            let mut unsound = entry(7, 5);
            unsound.body = body(&command);
            let found = handle(&mut raft(), 2, append(5, (6, 5), vec![unsound]));
            assert_eq!(found, Some(Violation::Command(Index(7))), "{command:?}");
        }
        let mut sound = entry(7, 5);
        sound.body = body(&join("n4", "http://n:1"));
        assert_eq!(handle(&mut raft(), 2, append(5, (6, 5), vec![sound])), None);
    }

    #[test]
    fn members_of_a_snapshot_follow_from_a_log() {
        let head = |change: fn(&mut Vec<Member>)| {
            let mut meta = meta(9, 5);
            change(&mut meta.configuration.members);
            meta
        };
        for meta in [
            head(|members| members.clear()),
            head(|members| members[2].id = PeerId(10)),
            head(|members| members[2].id = PeerId(9)),
            head(|members| members[1].name = "n3".into()),
            head(|members| members[1].name = "..".into()),
            head(|members| members[1].peer_url = "http://n:1\r\n".into()),
            head(|members| members.iter_mut().for_each(|m| m.voter = false)),
        ] {
            let found = handle(&mut raft(), 2, snapshot(5, meta.clone()));
            let is_new_id = meta.configuration.get(PeerId(9)).is_some();
            let expected = (!is_new_id).then_some(Violation::SnapshotHead);
            assert_eq!(found, expected, "{meta:?}");
        }
    }

    #[test]
    fn a_snapshot_may_have_another_join_than_an_uncommitted_one() {
        let mut raft = raft();
        let mut join = entry(7, 5);
        join.body = body(&Command::Join {
            name: "lost".into(),
            peer_url: "http://n:1".into(),
            client_url: "http://n:2".into(),
            incarnation: 1,
            replaces: None,
        });
        assert_eq!(handle(&mut raft, 2, append(5, (6, 5), vec![join])), None);
        assert!(raft.configuration().get(PeerId(7)).is_some());
        let mut meta = meta(9, 6);
        meta.configuration.members.push(member(7));
        assert_eq!(handle(&mut raft, 3, snapshot(6, meta)), None);
    }

    #[test]
    fn an_index_out_of_reach_is_refused() {
        let far = 6 + INDEX_LEAP_MAX + 1;
        let found = handle(&mut raft(), 2, append(5, (far, 5), vec![]));
        assert_eq!(found, Some(Violation::EntryIndex(Index(far))));
        let found = handle(&mut raft(), 2, snapshot(5, meta(far, 5)));
        assert_eq!(found, Some(Violation::EntryIndex(Index(far))));
    }

    #[test]
    fn a_leader_has_a_term() {
        let found = handle(&mut raft(), 2, append(0, (6, 5), vec![]));
        assert_eq!(found, Some(Violation::Term(Term::NONE)));
    }

    #[test]
    fn an_append_of_an_older_term_is_only_refused() {
        let old = append(4, (4, 3), vec![entry(5, 4)]);
        assert_eq!(handle(&mut raft(), 2, old), None);
    }

    #[test]
    fn entries_are_commands_of_rising_terms() {
        let mut garbage = entry(7, 5);
        garbage.body = EntryBody::Good(vec![0xff, 1].into());
        let found = handle(&mut raft(), 2, append(5, (6, 5), vec![garbage]));
        assert_eq!(found, Some(Violation::Command(Index(7))));
        let falling = append(6, (6, 5), vec![entry(7, 6), entry(8, 5)]);
        let found = handle(&mut raft(), 2, falling);
        assert_eq!(found, Some(Violation::EntryTerm(Index(8))));
        let late = append(5, (6, 5), vec![entry(7, 6)]);
        let found = handle(&mut raft(), 2, late);
        assert_eq!(found, Some(Violation::EntryTerm(Index(7))));
    }

    #[test]
    fn a_term_has_one_leader() {
        let mut raft = raft();
        assert_eq!(handle(&mut raft, 2, append(5, (6, 5), vec![])), None);
        let second = Some(Violation::SecondLeader(Term(5)));
        assert_eq!(handle(&mut raft, 3, append(5, (6, 5), vec![])), second);
        assert_eq!(handle(&mut raft, 3, snapshot(5, meta(9, 5))), second);
        let timeout_now = Message {
            term: Term(5),
            rpc: Rpc::TimeoutNow,
        };
        assert_eq!(handle(&mut raft, 3, timeout_now), second);
        assert_eq!(handle(&mut raft, 3, append(6, (6, 5), vec![])), None);
    }

    #[test]
    fn a_term_out_of_reach_is_refused_in_every_message() {
        let far = 5 + (1 << 40) + 1;
        for term in [far, TERM_MAX + 1] {
            let vote = Message {
                term: Term(term),
                rpc: Rpc::Vote {
                    pre: false,
                    granted: false,
                    reading: None,
                },
            };
            let fetched = Message {
                term: Term(term),
                rpc: Rpc::Fetched {
                    index: Index(4),
                    term: Term(3),
                    found: FetchResult::NeverStored,
                },
            };
            for message in [vote, fetched, append(term, (6, 5), vec![])] {
                let found = handle(&mut raft(), 2, message);
                assert_eq!(found, Some(Violation::Term(Term(term))));
            }
        }
    }

    #[test]
    fn a_snapshot_is_of_this_cluster_and_of_committed_entries() {
        let mut other = meta(9, 5);
        other.cluster = 8;
        let mut empty = meta(9, 5);
        empty.configuration.members.clear();
        for head in [other, empty, meta(0, 0)] {
            let found = handle(&mut raft(), 2, snapshot(5, head));
            assert_eq!(found, Some(Violation::SnapshotHead));
        }
        for term in [0, 5] {
            let found = handle(&mut raft(), 2, snapshot(term, meta(5, 4)));
            assert_eq!(found, Some(Violation::CommittedEntry(Index(5))));
        }
        let found = handle(&mut raft(), 2, snapshot(5, meta(9, 6)));
        assert_eq!(found, Some(Violation::EntryTerm(Index(9))));
        assert_eq!(handle(&mut raft(), 2, snapshot(5, meta(9, 5))), None);
    }

    #[test]
    fn a_reply_speaks_of_what_was_sent() {
        let mut raft = raft();
        raft.become_candidate(false);
        raft.become_leader();
        let reply = |round, verified, matched| Message {
            term: Term(6),
            rpc: Rpc::AppendReply {
                round,
                sync_us: 0,
                free_bytes: 0,
                answer: AppendAnswer::Accepted {
                    verified: Index(verified),
                    matched: Index(matched),
                    want_snapshot: false,
                },
            },
        };
        let found = handle(&mut raft, 2, reply(None, 8, 3));
        assert_eq!(found, Some(Violation::Acknowledgement(Index(8))));
        let found = handle(&mut raft, 2, reply(Some(2), 7, 7));
        assert_eq!(found, Some(Violation::Round(2)));
        assert_eq!(handle(&mut raft, 2, reply(Some(1), 7, 6)), None);
    }
}
