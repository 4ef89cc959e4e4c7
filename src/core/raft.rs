//! Raft as in Ongaro's thesis: elections, replication, membership, reads, snapshots.
//!
//! A value that takes inputs and leaves outputs; it knows neither the key space nor the network nor
//! the disk. All that rests on a synced log (votes, append replies, the leader's own count) is
//! withheld here until `on_synced`; nothing assumes when that comes. Terms are followed in one
//! place (`admit`), then each call goes to the file that owns its rules. Start reading at `Raft`,
//! then `on_message`.
mod election;
pub mod fault;
mod log;
mod membership;
pub mod message;
mod progress;
mod reads;
mod repair;
mod replication;
mod snapshot;
pub mod snapshot_head;

pub use membership::{MemberStanding, UnfitChange};
pub use message::*;
pub use progress::{HeartbeatReport, Progress};
pub use snapshot::{Chunk, ChunkWanted};

use std::collections::VecDeque;

use crate::core::command::Command;
use crate::core::timer::Now;
use fault::RaftFault;
use log::Log;
use progress::SlowestSync;

/// How many messages may wait for the sync that their term or vote needs; raft outlives the loss of
/// the others.
const GATED_MAX: usize = 4096;

/// What raft is started with.
pub struct RaftConfig {
    pub id: PeerId,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub seed: u64,
}

/// What raft finds on the disk: see `machine::Recovered`.
pub struct RaftState {
    pub term: Term,
    pub vote: Option<PeerId>,
    pub snapshot: SnapshotMeta,
    pub entries: Vec<Entry>,
    pub commit: Index,
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// Not the leader, or a leader that is handing over; the leader, if one is known.
    NotLeader(Option<PeerId>),
    /// Too much is in flight, or another change of membership is; try later.
    Busy,
    /// A change of membership that must not be made.
    Unfit(UnfitChange),
}

/// A linearizable read that waits, numbered by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// What this member learns of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftNotice {
    /// A peer says that this member was removed from the cluster (its own log need not know).
    Removed,
    /// The leader has an acknowledgement of entries that are not here: this is an old copy of its
    /// data. It no longer votes and must come back as a new member.
    Amnesia,
}

/// What raft leaves for its owner, cleared by it.
#[derive(Default)]
pub struct RaftOutput {
    /// For the disk; each takes the next Lsn, from 1 on.
    pub persist: Vec<Persist>,
    /// For the links, all of it free to leave now.
    pub messages: Vec<(PeerId, Message)>,
    /// Reads that may be answered once this index is applied.
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that failed because leadership was lost.
    pub failed_reads: Vec<ReadId>,
    /// Pieces of this machine's snapshot to read, answered by `on_chunk`.
    pub chunks_wanted: Vec<ChunkWanted>,
    /// Pieces of a snapshot that the leader sends, in order and checked, answered by
    /// `on_installed` after the last.
    pub chunks: Vec<Chunk>,
    /// What this member learnt of itself; each is told once.
    pub notices: Vec<RaftNotice>,
    /// How long appends took to be acknowledged, in microseconds; `None`: refused.
    pub round_trips: Vec<(PeerId, Option<u64>)>,
}

/// A member's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// One member's raft.
pub struct Raft {
    id: PeerId,
    heartbeat_us: u64,
    election_us: u64,
    random: u64,
    fault: Option<RaftFault>,

    // -- durable on every member (figure 3.1)
    current_term: Term,
    /// The candidate that has this member's vote in this term.
    voted_for: Option<PeerId>,
    log: Log,
    /// The newest snapshot that is durable here.
    snapshot: SnapshotMeta,
    /// What the disk was last told to let go.
    released: Index,
    /// The configurations in the log and the one before them, each in force from its index on;
    /// never empty.
    configurations: Vec<(Index, Configuration)>,

    // -- volatile on every member
    commit_index: Index,
    last_applied: Index,
    role: RaftRole,
    /// The leader of this term as far as it is known and heard.
    leader: Option<PeerId>,
    /// The time of the present input, in microseconds.
    now_us: u64,
    /// When to look for a new leader; `u64::MAX` on a leader.
    election_due: u64,
    /// When the leader was last heard: a lease until an election timeout later.
    contact_us: u64,
    slowest: SlowestSync,
    /// The leader's slowest recent sync but one, as it tells.
    leader_sync_us: u32,
    /// Acknowledged entries are not here: never vote again.
    amnesia: bool,

    // -- followers
    /// The log is the same as this term's leader's up to here.
    verified: Index,
    /// What this term's leader was told to be durable.
    acked: Index,
    /// The commit index that this term's leader told last.
    told_commit: Index,
    incoming: Option<snapshot::Incoming>,
    repair: repair::Repair,

    // -- candidates
    /// Who has granted its vote, oneself once that is durable.
    votes: Vec<PeerId>,

    // -- leaders
    /// The other members, in order of id, and those that are leaving.
    peers: Vec<Progress>,
    heartbeat_due: u64,
    /// The first entry of this leadership: before it commits no read is answered and no membership
    /// changed.
    nop: Index,
    /// The last change of voters that was appended in this leadership; one at a time.
    voter_change: Index,
    transfer: Option<election::Transfer>,
    reads: reads::Reads,
    uncommitted_bytes: usize,
    scratch: Vec<u8>,
    /// Bounded by what one turn can bring.
    beats: Vec<HeartbeatReport>,

    // -- the gate
    lsn: Lsn,
    synced: Lsn,
    /// The Lsn of the last term and vote: no message leaves in a term that is not durable.
    state_lsn: Lsn,
    gated: VecDeque<(Lsn, PeerId, Message)>,
    out: RaftOutput,
}

impl Raft {
    /// Takes up what the disk holds. A lone voter campaigns at once.
    pub fn new(config: RaftConfig, state: RaftState, now: Now) -> Raft {
        let log = Log::new(state.snapshot.index, state.snapshot.term, state.entries);
        let at_least = state.term.max(state.snapshot.term);
        assert!(at_least >= log.last_term(), "the term is durable first");
        let mut raft = Raft {
            id: config.id,
            heartbeat_us: config.heartbeat_ms.max(1) * 1000,
            election_us: config.election_ms.max(1) * 1000,
            random: config.seed ^ config.id.0.rotate_left(32),
            fault: None,
            current_term: state.term,
            voted_for: state.vote,
            commit_index: state.commit.max(log.start()).min(log.last_index()),
            last_applied: log.start(),
            configurations: vec![(log.start(), state.snapshot.configuration.clone())],
            snapshot: state.snapshot,
            released: log.start(),
            log,
            role: RaftRole::Follower,
            leader: None,
            now_us: now.mono_us,
            election_due: u64::MAX,
            contact_us: 0,
            slowest: SlowestSync::default(),
            leader_sync_us: 0,
            amnesia: false,
            verified: Index(0),
            acked: Index(0),
            told_commit: Index(0),
            incoming: None,
            repair: repair::Repair::new(at_least),
            votes: Vec::new(),
            peers: Vec::new(),
            heartbeat_due: u64::MAX,
            nop: Index(0),
            voter_change: Index(0),
            transfer: None,
            reads: reads::Reads::default(),
            uncommitted_bytes: 0,
            scratch: Vec::new(),
            beats: Vec::new(),
            lsn: Lsn(0),
            synced: Lsn(0),
            state_lsn: Lsn(0),
            gated: VecDeque::new(),
            out: RaftOutput::default(),
        };
        if state.term < at_least {
            // A crash came between the leader's snapshot and the term in which it was sent. No vote
            // had left in that.
            raft.set_term(at_least, None);
        }
        raft.verified = raft.commit_index;
        raft.rebuild_configurations(raft.log.start().next());
        raft.reset_election_timer();
        raft.start_repair();
        if raft.may_campaign() && raft.is_lone_voter() {
            raft.become_candidate(false);
        }
        raft.check_invariants();
        raft
    }

    // -- inputs

    /// Append a command as the leader; it is committed once `committed()` reaches its index in the
    /// same term.
    pub fn propose(
        &mut self,
        now: Now,
        command: &Command,
    ) -> Result<(Index, Term), ProposalRefusal> {
        self.now_us = now.mono_us;
        self.may_propose()?;
        self.check_change(command)?;
        let index = self.append_command(command);
        if self.has(RaftFault::CountBeforeSync) {
            self.maybe_commit();
        }
        self.check_invariants();
        Ok((index, self.current_term))
    }

    /// Ask for a linearizable read (thesis 6.4): comes back in `RaftOutput::reads` or `failed_reads`.
    pub fn read(&mut self, now: Now, id: ReadId) -> Result<(), ProposalRefusal> {
        self.now_us = now.mono_us;
        if self.role != RaftRole::Leader {
            return Err(ProposalRefusal::NotLeader(self.leader));
        }
        self.start_read(id);
        self.check_invariants();
        Ok(())
    }

    /// A message came in over the link to `from`.
    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.now_us = now.mono_us;
        if from != self.id && self.admit(from, &message) {
            self.dispatch(from, message);
        }
        self.check_invariants();
    }

    /// A piece of a longer message of `from` came: its process is there. On a slow line an append
    /// may take longer than an election timeout, and what would say so is queued behind it.
    pub fn on_piece(&mut self, now: Now, from: PeerId) {
        self.now_us = now.mono_us;
        if self.role == RaftRole::Follower && Some(from) == self.leader {
            self.on_contact(from);
        } else if let Some(peer) = self.peers.iter_mut().find(|p| p.id == from) {
            peer.hear(self.now_us);
        }
        self.check_invariants();
    }

    /// The link to a member opened, or broke (`up` false), its process being gone: what was on its
    /// way may be lost. Whoever is gone is missed without the patience for its disk.
    pub fn on_link(&mut self, now: Now, id: PeerId, up: bool) {
        self.now_us = now.mono_us;
        self.repair.on_link(self.now_us);
        if !up && self.leader == Some(id) {
            self.leader_sync_us = 0;
            self.election_due = self.election_due.min(self.draw_due(self.election_us));
        }
        if let Some(peer) = self.peers.iter_mut().find(|p| p.id == id) {
            if !up {
                peer.sync_us = 0;
                peer.on_asked(self.now_us);
            }
            if let progress::ProgressState::Snapshot { asked_us, .. } = &mut peer.flow {
                *asked_us = 0;
            } else {
                peer.become_probe(peer.next.min(peer.matched.next()));
            }
        }
    }

    /// Everything up to this Lsn is durable, by a sync that took so long.
    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        assert!(lsn <= self.lsn, "only what was handed out can be durable");
        self.now_us = now.mono_us;
        self.slowest.record(self.now_us, took_us);
        self.synced = self.synced.max(lsn);
        self.log.on_synced(lsn);
        while self.gated.front().is_some_and(|g| g.0 <= lsn) {
            let (_, to, message) = self.gated.pop_front().expect("looked at above");
            self.out.messages.push((to, message));
        }
        match self.role {
            RaftRole::Candidate => self.maybe_count_own_vote(),
            RaftRole::Leader => self.maybe_commit(),
            RaftRole::Follower => self.acknowledge(),
            RaftRole::PreCandidate => {}
        }
        self.check_invariants();
    }

    /// Timers that are due.
    pub fn on_time(&mut self, now: Now) {
        self.now_us = now.mono_us;
        if self.role == RaftRole::Leader {
            self.maybe_heartbeat();
        } else if self.now_us >= self.election_due {
            self.on_election_timeout();
        }
        self.maybe_send_fetches();
        self.check_invariants();
    }

    /// The owner has applied everything up to here.
    pub fn on_applied(&mut self, index: Index) {
        assert!(index <= self.commit_index, "only what is committed applies");
        self.last_applied = self.last_applied.max(index);
    }
}

// -- terms, once and for all calls (thesis 3.3)
impl Raft {
    /// Follows the rules of terms; whether the message is to be looked at further.
    fn admit(&mut self, from: PeerId, message: &Message) -> bool {
        if let Rpc::Removed { cluster, id } = message.rpc {
            self.on_removed(message.term, cluster, id);
            return false;
        }
        if message.is_outside_terms() {
            return true;
        }
        if message.term == Term::REMOVED {
            return false;
        }
        // What it answers is heard while it is told of its removal, but never raises a term.
        let asks = message.rpc.is_call() || message.term > self.current_term;
        if asks
            && self.standing(from) == MemberStanding::Removed
            && !self.has(RaftFault::RemovedIsHeard)
        {
            self.send_removed(from);
            return false;
        }
        if let Rpc::RequestVote { pre, hand_over, .. } = message.rpc
            && !hand_over
            && self.is_lease_live()
            // A leader that asks for a later term leads no more, whatever was heard from it.
            && !(Some(from) == self.leader && message.term > self.current_term)
            && !self.has(RaftFault::LeaseIgnored)
        {
            self.send_vote(from, pre, false, self.current_term);
            return false;
        }
        if message.term < self.current_term {
            self.refuse_stale(from, &message.rpc);
            return false;
        }
        if message.term > self.current_term && !self.is_only_thought_of(&message.rpc) {
            let leads = message.rpc.is_from_leader();
            if leads {
                // Its silence counts from here, not from what another leader said.
                self.contact_us = self.now_us;
            }
            self.become_follower(message.term, leads.then_some(from));
        }
        true
    }

    /// Pre-votes and their grants carry the term of a campaign that may never be (9.6).
    fn is_only_thought_of(&self, rpc: &Rpc) -> bool {
        match rpc {
            Rpc::RequestVote { pre: true, .. } => !self.has(RaftFault::PreVoteRaisesTerm),
            Rpc::Vote { pre, granted } => *pre && *granted,
            _ => false,
        }
    }

    /// Tells the sender of an older term that there is a newer one.
    fn refuse_stale(&mut self, from: PeerId, rpc: &Rpc) {
        match rpc {
            Rpc::RequestVote { pre, .. } => self.send_vote(from, *pre, false, self.current_term),
            Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } => {
                self.send_append_reply(from, None, AppendAnswer::Stale);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, from: PeerId, message: Message) {
        let term = message.term;
        match message.rpc {
            Rpc::RequestVote {
                pre,
                last_index,
                last_term,
                ..
            } => self.on_request_vote(from, term, pre, (last_term, last_index)),
            Rpc::Vote { pre, granted } => self.on_vote(from, pre, granted),
            Rpc::AppendEntries { .. } => self.on_append_entries(from, message.rpc),
            Rpc::AppendReply {
                round,
                sync_us,
                answer,
            } => self.on_append_reply(from, round, sync_us, answer),
            Rpc::InstallSnapshot { .. } => self.on_install_snapshot(from, term, message.rpc),
            Rpc::SnapshotReply { index, offset } => self.on_snapshot_reply(from, index, offset),
            Rpc::TimeoutNow => self.on_timeout_now(from),
            Rpc::Fetch { index, term } => self.on_fetch(from, index, term),
            Rpc::Fetched {
                index,
                term: at,
                found,
            } => self.on_fetched(from, term, index, at, found),
            Rpc::Removed { .. } => unreachable!("admit keeps notices"),
            Rpc::Forward { .. } | Rpc::Forwarded { .. } => {
                unreachable!("the replica keeps what is passed on")
            }
        }
    }
}

// -- role changes
impl Raft {
    fn become_follower(&mut self, term: Term, leader: Option<PeerId>) {
        assert!(term >= self.current_term, "terms never go back");
        if term > self.current_term {
            self.set_term(term, None);
        }
        let was = self.role;
        self.role = RaftRole::Follower;
        self.leader = leader;
        self.votes.clear();
        if was == RaftRole::Leader {
            self.peers.clear();
            self.beats.clear();
            self.heartbeat_due = u64::MAX;
            self.transfer = None;
            self.uncommitted_bytes = 0;
            self.fail_reads();
        }
        if was != RaftRole::Follower || leader.is_some() {
            self.reset_election_timer();
        }
    }

    fn become_pre_candidate(&mut self) {
        self.role = RaftRole::PreCandidate;
        self.leader = None;
        self.votes = vec![self.id];
        self.reset_election_timer();
        if !self.maybe_win() {
            self.request_votes(true, false);
        }
    }

    fn become_candidate(&mut self, hand_over: bool) {
        self.role = RaftRole::Candidate;
        self.leader = None;
        self.votes.clear();
        self.set_term(Term(self.current_term.0 + 1), Some(self.id));
        self.reset_election_timer();
        self.request_votes(false, hand_over);
        self.maybe_count_own_vote();
    }

    fn become_leader(&mut self) {
        assert_eq!(self.role, RaftRole::Candidate, "votes come first");
        self.role = RaftRole::Leader;
        self.leader = Some(self.id);
        self.votes.clear();
        self.election_due = u64::MAX;
        self.heartbeat_due = self.now_us + self.heartbeat_us;
        self.incoming = None;
        self.repair.on_become_leader();
        self.voter_change = Index(0);
        self.nop = self.log.last_index().next();
        self.uncommitted_bytes = 0;
        self.refresh_peers();
        self.append_command(&Command::Nop);
        self.maybe_commit();
    }

    /// A new term, or a vote in this one: durable before any message rests on it.
    fn set_term(&mut self, term: Term, vote: Option<PeerId>) {
        assert!(
            term < Term::REMOVED || self.has(RaftFault::NoticeIsTerm),
            "a notice is no term"
        );
        if term > self.current_term {
            self.verified = self.commit_index;
            self.acked = Index(0);
            self.told_commit = Index(0);
        }
        (self.current_term, self.voted_for) = (term, vote);
        let vote = if self.has(RaftFault::VoteNotStored) {
            None
        } else {
            vote
        };
        let state = Persist::State { term, vote };
        match self.out.persist.last_mut() {
            Some(last @ Persist::State { .. }) => *last = state,
            _ => self.persist(state),
        }
        self.state_lsn = self.lsn;
    }
}

// -- what leaves
impl Raft {
    fn persist(&mut self, what: Persist) {
        self.lsn.0 += 1;
        self.out.persist.push(what);
    }

    /// Queues an RPC in the present term, behind the sync that makes the term and the vote durable.
    fn send(&mut self, to: PeerId, rpc: Rpc) {
        self.send_in(to, self.current_term, rpc);
    }

    fn send_in(&mut self, to: PeerId, term: Term, rpc: Rpc) {
        let message = Message { term, rpc };
        if self.synced >= self.state_lsn {
            self.out.messages.push((to, message));
        } else if self.gated.len() < GATED_MAX {
            self.gated.push_back((self.state_lsn, to, message));
        }
    }

    /// Moves what has gathered into `out`, which is empty.
    pub fn take_output(&mut self, out: &mut RaftOutput) {
        self.replicate();
        std::mem::swap(out, &mut self.out);
    }

    /// Takes out what there is to tell of heartbeats.
    pub fn take_heartbeat_reports(&mut self) -> Vec<HeartbeatReport> {
        std::mem::take(&mut self.beats)
    }

    /// The earliest time (`mono_us`) at which `on_time` has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> Option<u64> {
        let role = match self.role {
            RaftRole::Leader if self.peers.is_empty() => u64::MAX,
            RaftRole::Leader => self.heartbeat_due,
            RaftRole::Follower | RaftRole::PreCandidate | RaftRole::Candidate => self.election_due,
        };
        let due = role.min(self.repair.next_deadline().unwrap_or(u64::MAX));
        (due != u64::MAX).then_some(due)
    }
}

// -- what it is
impl Raft {
    pub fn role(&self) -> RaftRole {
        self.role
    }

    pub fn term(&self) -> Term {
        self.current_term
    }

    /// The leader of the current term, while one is known.
    pub fn leader(&self) -> Option<PeerId> {
        self.leader
    }

    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The commit index, as far as entries may be applied: never past one that is damaged here.
    pub fn committed(&self) -> Index {
        let damaged = self
            .log
            .first_unsound()
            .filter(|_| !self.has(RaftFault::DamageIgnored));
        damaged.map_or(self.commit_index, |first| {
            self.commit_index.min(first.prev())
        })
    }

    /// The commit index of the present leader, once that has committed in its own term: nothing
    /// past it was ever answered by anyone. `None` while there is no leader, or while this
    /// member does not know it.
    pub fn known_commit(&self) -> Option<Index> {
        let known = if self.role == RaftRole::Leader {
            self.commit_index
        } else {
            self.told_commit
        };
        let led = self.leader.is_some();
        (led && self.log.term_at(known) == Some(self.current_term)).then_some(known)
    }

    /// The last entry in the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The log is durable and whole up to here on this member. Only a snapshot of no more than that
    /// may be put in place: behind another, a crash could leave the rest of a log that is not
    /// the same up to the snapshot.
    pub fn durable(&self) -> Index {
        self.log.durable()
    }

    /// The last Lsn handed out.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The latest configuration in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        &self.configurations.last().expect("never empty").1
    }

    /// An entry that the log in memory still holds.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(index)
    }

    /// Plants a bug.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Option<RaftFault>) {
        self.fault = fault;
    }

    pub(crate) fn has(&self, fault: RaftFault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }

    /// Closes each input.
    fn check_invariants(&self) {
        self.log.check_invariants();
        self.repair.check_invariants(self.id, self.role, &self.log);
        let last = self.log.last_index();
        assert!(
            self.commit_index <= last || self.has(RaftFault::CommitUnverified),
            "committed entries are here"
        );
        assert!(
            self.commit_index >= self.log.start(),
            "a snapshot is committed"
        );
        assert!(
            self.last_applied <= self.commit_index,
            "applied means committed"
        );
        assert!(
            self.current_term >= self.log.last_term(),
            "no entry is newer than the term"
        );
        assert!(
            self.synced <= self.lsn && self.state_lsn <= self.lsn,
            "syncs follow"
        );
        let leads = self.role == RaftRole::Leader;
        assert_eq!(
            leads,
            self.leader == Some(self.id),
            "a leader knows that it leads"
        );
        assert!(leads || self.peers.is_empty(), "progress is a leader's");
        let (index, configuration) = self.configurations.last().expect("never empty");
        assert!(
            *index <= last || self.has(RaftFault::ChangeNotUndone),
            "a configuration is in the log"
        );
        assert!(
            configuration.members.is_sorted_by_key(|m| m.id),
            "members are sorted"
        );
        for peer in &self.peers {
            assert!(peer.matched < peer.next, "next is above what is there");
            assert!(peer.matched <= last, "a member has no more than its leader");
        }
    }
}
