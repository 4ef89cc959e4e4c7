//! Raft as in Ongaro's thesis, "Consensus: Bridging Theory and Practice" (2014): elections,
//! replication, membership changes, linearizable reads, snapshots; and the repair of damaged logs.
//!
//! [`Raft`] is one member. It takes inputs and leaves outputs ([`RaftOutput`]), and knows neither
//! the key space nor the network nor the disk. Time comes with the inputs.
//!
//! # Parts
//!
//! `Raft` is assembled from parts. The fields of a part are private to its file, its inputs are
//! methods. A rule for which the state of one part suffices is a method of that part. A rule that
//! spans parts is a method of `Raft`, in the file that the rule belongs to.
//!
//! | part | file | holds |
//! |---|---|---|
//! | `TermBudget` | `term_budget` | how far messages may raise the term |
//! | `Log` | `log` | entries; which are durable, committed, applied, damaged |
//! | `CommitMarks` | `marks` | how far the disk knows the log to be committed |
//! | `Membership` | `membership` | the configurations of the log |
//! | `Election` | `election` | timers, votes, the lease |
//! | `ClusterClock` | `clock` | the reading of the cluster clock |
//! | `Gate` | `gate` | messages that wait for term and vote to be durable |
//! | `LogRoom` | `room` | how many bytes the disk still takes, and how many wait for a sync |
//! | `RoundTrips` | `round_trips` | how long the links to the peers take |
//! | `LeaderMatch` | `following` | a follower: how far its log is the leader's |
//! | `LostTail` | `lost_tail` | a follower: a leader's claim that entries are lost |
//! | `Tracker` | `tracker`, `progress` | a leader: the progress of each peer |
//! | `LeaderState` | `replication` | a leader: its no-op, heartbeats, uncommitted bytes |
//! | `Reads` | `reads` | a leader: reads to be confirmed |
//! | `Handover` | `handover` | a leader: the hand-over of leadership |
//! | `OwnSnapshots` | `snapshot` | the newest snapshot, and what is released |
//! | `Incoming` | `install` | the snapshot that a peer sends |
//! | `Repair` | `repair` | the repair of damaged entries |
//!
//! This file has what spans all of them: the inputs, the rules of terms (`admit`, the only place
//! that follows terms), the changes of role, the outputs and the invariants. Start reading at
//! [`Raft`], then [`Raft::on_message`].
//!
//! # Durability
//!
//! Raft hands the disk two sequences, and assumes nothing about when either is durable, nor about
//! which comes first:
//! - terms and votes, in [`RaftOutput::state`], durable with `Raft::on_state_synced`;
//! - records of the log, in [`RaftOutput::persist`], durable with `Raft::on_synced`.
//!
//! What depends on one of them waits:
//! - a message for the term and the vote that it is sent with (`gate`);
//! - an acknowledgement, and the leader's own share of a majority, for the entries
//!   (`Log::durable`);
//! - a candidate's own vote for itself (`Raft::maybe_count_own_vote`).
mod clock;
mod election;
mod following;
mod gate;
mod handover;
mod install;
mod log;
mod lost_tail;
mod marks;
mod membership;
pub mod message;
mod progress;
mod reads;
mod repair;
mod replication;
pub mod room;
mod round_trips;
mod snapshot;
pub mod snapshot_head;
mod sync_times;
mod term_budget;
mod tracker;
mod usage;
mod violation;

pub use install::Chunk;
pub use log::ENTRY_BYTES;
pub use membership::{MemberStanding, UnfitChange};
pub use message::*;
pub use progress::{Progress, ProgressState};
pub use room::BODY_BYTES_MAX;
pub use round_trips::{ROUND_TRIP_US_MAX, allowance_us};
pub use snapshot::ChunkWanted;
pub use violation::{MEMBERS_MAX, Violation};

use crate::core::cluster_time::Stamp;
use crate::core::command::{Command, Origin};
use crate::core::memory::MemoryBounds;
use crate::core::timer::{Now, earliest};
use clock::ClusterClock;
use election::Election;
use following::LeaderMatch;
use gate::Gate;
use handover::Handover;
use install::Incoming;
use log::Log;
use lost_tail::LostTail;
use marks::CommitMarks;
use membership::Membership;
use reads::Reads;
use repair::Repair;
use replication::LeaderState;
use room::LogRoom;
use round_trips::RoundTrips;
use snapshot::OwnSnapshots;
use term_budget::TermBudget;
use tracker::Tracker;

/// The settings of a member.
pub struct RaftConfig {
    /// This member's id.
    pub id: PeerId,
    /// The interval of heartbeats in milliseconds; 0 counts as 1.
    pub heartbeat_ms: u64,
    /// The election timeout in milliseconds; 0 counts as 1.
    pub election_ms: u64,
    /// The bounds of memory.
    pub memory: MemoryBounds,
    /// Seeds the random part of timeouts.
    pub seed: u64,
}

/// The state that recovery found on the disk.
pub struct RaftState {
    /// The last term that was stored.
    pub term: Term,
    /// The vote in that term.
    pub vote: Option<PeerId>,
    /// The newest snapshot; the default one if there is none.
    pub snapshot: SnapshotMeta,
    /// The entries after the snapshot, at consecutive indexes.
    pub entries: Vec<Entry>,
    /// A commit index that was stored. It may lie outside of the entries.
    pub commit: Index,
    /// The latest stamp in the snapshot.
    pub stamp: Option<Stamp>,
    /// How many bytes of records the log on the disk takes for certain.
    pub free_bytes: u64,
}

/// Why a proposal or a read was refused. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// This member does not lead, or hands its leadership over. Has the leader if one is known.
    NotLeader(Option<PeerId>),
    /// Too many bytes are not committed or not synced here, or another change of membership is not
    /// committed. Try later.
    Busy,
    /// The log on the disk has no room for the entry now. More was asked for.
    NoRoom,
    /// The change of membership is wrong.
    Unfit(UnfitChange),
    /// The other members would not take the command ([`Command::is_sound`]).
    Unsound,
}

/// A linearizable read; the number is the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// A peer's claim about this member. It may be false: the owner asks whether it is true, and leaves
/// the cluster only then. Each message that says it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftNotice {
    /// This member was removed. The own log may not have the removal.
    Removed {
        /// The peer.
        by: PeerId,
        /// The number of the cluster; this member's own unless that is not known yet.
        cluster: u64,
    },
    /// This member has acknowledged entries to the leader that are not in the log (`lost_tail`):
    /// then the disk holds an old copy of the data, and it has to join again as a new member.
    LostTail {
        /// The leader.
        by: PeerId,
    },
}

/// An irregular heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatReport {
    /// A peer has not answered this leader's heartbeats.
    Missed {
        /// The peer.
        id: PeerId,
        /// The number of missed heartbeats since the peer was heard.
        count: u64,
    },
    /// The leader's heartbeat came so late that this follower nearly campaigned.
    Late {
        /// The leader.
        id: PeerId,
        /// The time since the leader was heard before, in microseconds.
        after_us: u64,
    },
}

/// The outputs of a member. The owner takes them with `Raft::take_output` and empties them.
#[derive(Default)]
pub struct RaftOutput {
    /// The newest term and vote for the disk, if they have changed.
    pub state: Option<HardState>,
    /// Records for the log on the disk. Each takes the next `Lsn`.
    pub persist: Vec<Persist>,
    /// The room in the log, in bytes, that an entry needs which was not taken. The owner makes it
    /// if the disk allows, and reports by `Raft::on_room`.
    pub wanted_room_bytes: Option<u64>,
    /// Messages for the links. All may leave at once.
    pub messages: Vec<(PeerId, Message)>,
    /// Reads that may be answered once the entries up to the index are applied.
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that cannot be answered, because this member does not lead any more.
    pub failed_reads: Vec<ReadId>,
    /// Chunks of this machine's snapshot to read; answered with `Raft::on_chunk`.
    pub chunks_wanted: Vec<ChunkWanted>,
    /// Chunks of a snapshot from a peer, checked and in order. Each is answered once, in order:
    /// with `Raft::on_chunk_received`, or the last one of a snapshot with `Raft::on_installed`. A
    /// chunk that the owner drops is answered with `Raft::on_snapshot_unusable` or
    /// `Raft::on_no_room_for_snapshot`.
    pub chunks: Vec<Chunk>,
    /// The claims of peers about this member.
    pub notices: Vec<RaftNotice>,
    /// Messages that no correct peer sends. They were dropped; the owner closes the link.
    pub violations: Vec<(PeerId, Violation)>,
    /// For each reply to an append or heartbeat: the peer and the round trip in microseconds,
    /// `None` if the append was rejected.
    pub round_trips: Vec<(PeerId, Option<u64>)>,
}

/// The role of a member (thesis 3.3, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// One member of the cluster.
///
/// Term, vote, role and leader are changed in this file only. Each part is changed by its own
/// methods only. Each input sets `now_us`, and each rule may add outputs.
pub struct Raft {
    /// This member's id. Never changes.
    id: PeerId,

    /// The configured interval of heartbeats in microseconds; at least 1 ms. Never changes.
    heartbeat_interval_us: u64,

    /// The bounds of memory. Never changes.
    memory: MemoryBounds,

    /// The time of the current input, in microseconds of the monotonic clock.
    now_us: u64,

    /// The wall clock at the current input, in nanoseconds since the Unix epoch.
    wall_ns: u64,

    // -- term and role
    /// The latest term that this member knows. Only rises. Changed by `set_term`, which makes it
    /// durable.
    current_term: Term,

    /// The candidate that has this member's vote in the current term. Set at most once in a term.
    /// Changed by `set_term`.
    voted_for: Option<PeerId>,

    /// By how much messages may raise the term. Changes with it.
    term_budget: TermBudget,

    /// Changed by the `become_...` functions.
    role: RaftRole,

    /// The leader of the current term while it is known and not missed. On a leader itself.
    leader: Option<PeerId>,

    // -- parts of every member
    log: Log,
    membership: Membership,
    election: Election,
    clock: ClusterClock,
    gate: Gate,
    marks: CommitMarks,
    room: LogRoom,
    round_trips: RoundTrips,
    snapshots: OwnSnapshots,
    incoming: Incoming,
    repair: Repair,

    // -- the parts of a follower
    leader_match: LeaderMatch,
    lost_tail: LostTail,

    // -- parts of a leader
    tracker: Tracker,
    leader_state: LeaderState,
    reads: Reads,
    handover: Handover,

    // -- outputs
    /// What the owner has not taken yet.
    out: RaftOutput,

    /// Irregular heartbeats that the owner has not taken yet. At most one for each message or timer
    /// of a turn.
    heartbeat_reports: Vec<HeartbeatReport>,
}

impl Raft {
    /// Starts a member with the state on its disk. A lone voter campaigns at once.
    ///
    /// # Panics
    ///
    /// If the entries do not follow the snapshot without gaps, or are of later terms than the
    /// stored one. Recovery has checked that.
    pub fn new(config: RaftConfig, state: RaftState, now: Now) -> Raft {
        let RaftState {
            term,
            vote,
            snapshot,
            entries,
            commit,
            stamp,
            free_bytes,
        } = state;
        let log = Log::new(snapshot.index, snapshot.term, entries, commit);
        let start_term = term.max(snapshot.term);
        assert!(start_term >= log.last_term(), "the term is stored first");
        let election_us = config.election_ms.max(1) * 1000;
        let seed = config.seed ^ config.id.0.rotate_left(32);
        let mut raft = Raft {
            id: config.id,
            heartbeat_interval_us: config.heartbeat_ms.max(1) * 1000,
            memory: config.memory,
            now_us: now.mono_us,
            wall_ns: now.wall_ns,
            current_term: term,
            voted_for: vote,
            term_budget: TermBudget::new(now.mono_us),
            role: RaftRole::Follower,
            leader: None,
            membership: Membership::new(snapshot.index, snapshot.configuration.clone()),
            election: Election::new(election_us, seed, now.mono_us),
            clock: ClusterClock::new(stamp),
            gate: Gate::default(),
            marks: CommitMarks::new(log.commit_index()),
            room: LogRoom::new(free_bytes, config.memory.uncommitted_bytes_max as u64),
            round_trips: RoundTrips::default(),
            snapshots: OwnSnapshots::new(snapshot),
            incoming: Incoming::default(),
            repair: Repair::new(start_term),
            leader_match: LeaderMatch::new(log.commit_index()),
            lost_tail: LostTail::default(),
            tracker: Tracker::default(),
            leader_state: LeaderState::default(),
            reads: Reads::new(),
            handover: Handover::default(),
            out: RaftOutput::default(),
            heartbeat_reports: Vec::new(),
            log,
        };
        if term < start_term {
            // The process ended after it had stored the leader's snapshot and before the leader's
            // term. No vote was sent in that term.
            raft.set_term(start_term, None);
        }
        raft.rebuild_configurations(raft.log.start().next());
        raft.restart_election_timer();
        raft.start_repair();
        if raft.may_campaign() && raft.is_lone_voter() {
            raft.become_candidate(false);
        }
        raft.check_invariants();
        raft
    }

    /// An input begins.
    fn on_input(&mut self, now: Now) {
        self.now_us = now.mono_us;
        self.wall_ns = now.wall_ns;
    }

    /// Appends a command to the log of this leader. It is committed once `committed()` reaches its
    /// index while the entry there still has its term.
    ///
    /// # Errors
    ///
    /// [`ProposalRefusal`]; nothing is appended.
    pub fn propose(
        &mut self,
        now: Now,
        command: &Command,
    ) -> Result<(Index, Term), ProposalRefusal> {
        self.propose_from(now, command, None)
    }

    /// As `propose`, with the origin of a command that a follower has forwarded.
    ///
    /// # Errors
    ///
    /// [`ProposalRefusal`]; nothing is appended.
    pub fn propose_from(
        &mut self,
        now: Now,
        command: &Command,
        origin: Option<Origin>,
    ) -> Result<(Index, Term), ProposalRefusal> {
        self.on_input(now);
        self.may_propose(command)?;
        self.check_change(command)?;
        let index = self.maybe_append_command(command, origin);
        let index = index.ok_or(ProposalRefusal::NoRoom)?;
        self.check_invariants();
        Ok((index, self.current_term))
    }

    /// Starts a linearizable read (thesis 6.4). It ends in `RaftOutput::reads` or
    /// `RaftOutput::failed_reads`.
    ///
    /// # Errors
    ///
    /// [`ProposalRefusal::NotLeader`]; [`ProposalRefusal::Busy`] if too many reads are not answered.
    pub fn read(&mut self, now: Now, id: ReadId) -> Result<(), ProposalRefusal> {
        self.on_input(now);
        if self.role != RaftRole::Leader {
            return Err(ProposalRefusal::NotLeader(self.leader));
        }
        let started = self.start_read(id);
        self.check_invariants();
        started
    }

    /// A message arrived over the link to `from`.
    pub fn on_message(&mut self, now: Now, from: PeerId, message: Message) {
        self.on_input(now);
        if let Some(violation) = self.violation_of(from, &message) {
            self.refuse(from, violation);
        } else if from != self.id && self.admit(from, &message) {
            self.dispatch(from, message);
        }
        self.check_invariants();
    }

    /// A part of a longer message of `from` arrived, so its process runs. On a slow line one append
    /// can take longer than an election timeout, and heartbeats wait behind it.
    pub fn on_partial_message(&mut self, now: Now, from: PeerId) {
        self.on_input(now);
        if self.role == RaftRole::Follower && self.leader == Some(from) {
            self.on_leader_contact(from);
        } else if let Some(peer) = self.tracker.get_mut(from) {
            peer.on_heard(self.now_us);
        }
        self.check_invariants();
    }

    /// The term and vote `seq`, or a later one, is durable. The sync took `took_us` microseconds.
    /// Says nothing of the log.
    ///
    /// # Panics
    ///
    /// If `seq` was not handed out.
    pub fn on_state_synced(&mut self, now: Now, seq: StateSeq, took_us: u64) {
        self.on_input(now);
        self.election.on_synced(self.now_us, took_us);
        self.gate.on_state_synced(seq, &mut self.out.messages);
        if self.role == RaftRole::Candidate {
            self.maybe_count_own_vote();
        }
        self.check_invariants();
    }

    /// All records of the log up to `lsn` are durable. The sync took `took_us` microseconds. Says
    /// nothing of term and vote.
    ///
    /// # Panics
    ///
    /// If `lsn` was not handed out.
    pub fn on_synced(&mut self, now: Now, lsn: Lsn, took_us: u64) {
        assert!(
            lsn <= self.gate.last_record(),
            "only a record that exists is durable"
        );
        self.on_input(now);
        self.election.on_synced(self.now_us, took_us);
        self.on_log_synced(lsn);
        self.check_invariants();
    }

    fn on_log_synced(&mut self, lsn: Lsn) {
        self.log.on_synced(lsn);
        self.room.on_synced(lsn);
        self.maybe_mark_again();
        match self.role {
            RaftRole::Leader => {
                self.maybe_commit();
            }
            RaftRole::Follower => self.acknowledge(),
            RaftRole::PreCandidate | RaftRole::Candidate => {}
        }
    }

    /// Time has passed; see `next_deadline`.
    pub fn on_time(&mut self, now: Now) {
        self.on_input(now);
        if self.role == RaftRole::Leader {
            self.maybe_heartbeat();
            self.maybe_release_covered();
        } else if self.election.is_due(self.now_us) {
            self.on_election_timeout();
        }
        self.maybe_send_fetches();
        self.maybe_mark();
        self.check_invariants();
    }

    /// The owner has applied all entries up to `index`; `stamp` is the latest one in them.
    ///
    /// # Panics
    ///
    /// If they are not all committed.
    pub fn on_applied(&mut self, index: Index, stamp: Option<Stamp>) {
        self.on_log_applied(index);
        self.clock.on_applied(stamp);
        self.check_invariants();
    }
}

/// The rules of terms, for all messages (thesis 3.3).
impl Raft {
    /// Applies the rules of terms to a message, before anything else. Returns whether the message
    /// is to be handled.
    ///
    /// In this order:
    /// 1. A notice of removal is no message of a term.
    /// 2. Some messages are outside of terms.
    /// 3. A removed member gets a notice and cannot raise the term.
    /// 4. A vote request under a live lease is denied and cannot raise the term (thesis 4.2.3).
    /// 5. A message of an older term is refused.
    /// 6. A message of a later term raises the term. It makes this member a follower.
    fn admit(&mut self, from: PeerId, message: &Message) -> bool {
        if let Rpc::Removed { cluster, id } = message.rpc {
            self.on_removed(from, message.term, cluster, id);
            return false;
        }
        if message.is_outside_terms() {
            return true;
        }
        if message.term == Term::REMOVED {
            return false;
        }
        if self.is_from_removed(from, message) {
            self.send_removed(from);
            return false;
        }
        if self.is_denied_by_lease(from, message) {
            let pre = matches!(message.rpc, Rpc::RequestVote { pre: true, .. });
            self.send_vote(from, pre, false, self.current_term);
            return false;
        }
        if message.term < self.current_term {
            self.refuse_stale(from, &message.rpc);
            return false;
        }
        if message.term > self.current_term && !self.has_tentative_term(&message.rpc) {
            let is_from_leader = message.rpc.is_from_leader();
            if is_from_leader {
                // The lease starts here, and not when an earlier leader was heard.
                self.election.on_leader_heard(self.now_us);
            }
            self.become_follower(message.term, is_from_leader.then_some(from));
        }
        true
    }

    /// Whether a message is from a removed member, and is a call or would raise the term. A reply
    /// of the current term is still handled: while this leader sends a removed member its removal,
    /// the replies tell how far that is.
    fn is_from_removed(&self, from: PeerId, message: &Message) -> bool {
        let is_harmful = message.rpc.is_call() || message.term > self.current_term;
        is_harmful && self.standing(from) == MemberStanding::Removed
    }

    /// Whether a vote request is denied because a leader was heard recently. Not if that leader
    /// asked for the campaign, and not if that leader itself campaigns in a later term: then it
    /// does not lead any more, whenever it was heard.
    fn is_denied_by_lease(&self, from: PeerId, message: &Message) -> bool {
        let Rpc::RequestVote { pre, hand_over, .. } = message.rpc else {
            return false;
        };
        // A campaign that the leader asked for begins without a pre-vote.
        let hand_over = hand_over && !pre;
        let is_of_former_leader = self.leader == Some(from) && message.term > self.current_term;
        !hand_over && self.is_lease_live() && !is_of_former_leader
    }

    /// Whether the term of a message may never begin, so it does not count: a pre-vote and its
    /// grant carry the term in which the candidate would campaign (thesis 9.6).
    fn has_tentative_term(&self, rpc: &Rpc) -> bool {
        match rpc {
            Rpc::RequestVote { pre, .. } => *pre,
            Rpc::Vote { pre, granted, .. } => *pre && *granted,
            _ => false,
        }
    }

    /// Tells the sender of a call of an older term the current term.
    fn refuse_stale(&mut self, from: PeerId, rpc: &Rpc) {
        match rpc {
            Rpc::RequestVote { pre, .. } => self.send_vote(from, *pre, false, self.current_term),
            Rpc::AppendEntries { .. } | Rpc::InstallSnapshot { .. } => {
                self.send_append_reply(from, None, AppendAnswer::Stale);
            }
            _ => {}
        }
    }

    /// Passes an admitted message to the file that handles it.
    fn dispatch(&mut self, from: PeerId, message: Message) {
        let term = message.term;
        match message.rpc {
            Rpc::RequestVote {
                pre,
                last_index,
                last_term,
                ..
            } => self.on_request_vote(from, term, pre, last_index, last_term),
            Rpc::Vote {
                pre,
                granted,
                reading,
            } => self.on_vote(from, pre, granted, reading),
            Rpc::AppendEntries { .. } => self.on_append_entries(from, message.rpc),
            Rpc::AppendReply {
                round,
                sync_us,
                free_bytes,
                answer,
            } => self.on_append_reply(from, round, (sync_us, free_bytes), answer),
            Rpc::InstallSnapshot { .. } => self.on_install_snapshot(from, term, message.rpc),
            Rpc::SnapshotReply { index, offset } => self.on_snapshot_reply(from, index, offset),
            Rpc::SnapshotRefused { index } => self.on_snapshot_refused(from, index),
            Rpc::TimeoutNow => self.on_timeout_now(from),
            Rpc::Fetch { index, term } => self.on_fetch(from, index, term),
            Rpc::Fetched {
                index,
                term: entry_term,
                found,
            } => self.on_fetched(from, term, index, entry_term, found),
            Rpc::Removed { .. } => unreachable!("handled by `admit`"),
            Rpc::Forward { .. } | Rpc::Forwarded { .. } => {
                unreachable!("handled by the replica")
            }
        }
    }
}

/// Changes of term and role.
impl Raft {
    /// Follows `leader` in `term`, or waits for a leader of that term.
    ///
    /// # Panics
    ///
    /// If `term` is before the current one.
    fn become_follower(&mut self, term: Term, leader: Option<PeerId>) {
        assert!(term >= self.current_term, "terms never fall");
        if term > self.current_term {
            self.set_term(term, None);
        }
        let former_role = self.role;
        self.role = RaftRole::Follower;
        self.leader = leader;
        self.election.clear_votes();
        if former_role == RaftRole::Leader {
            self.tracker.clear();
            self.heartbeat_reports.clear();
            self.leader_state.end();
            self.handover.cancel();
            self.fail_reads();
        }
        if former_role != RaftRole::Follower || leader.is_some() {
            self.restart_election_timer();
        }
    }

    /// Asks whether this member would be elected (thesis 9.6). The term does not rise.
    fn become_pre_candidate(&mut self) {
        self.role = RaftRole::PreCandidate;
        self.leader = None;
        self.election.clear_votes();
        self.election.add_vote(self.id);
        self.restart_election_timer();
        if !self.maybe_win() {
            self.request_votes(true, false);
        }
    }

    /// Campaigns in the next term (thesis 3.4). `hand_over`: the leader asked for it.
    fn become_candidate(&mut self, hand_over: bool) {
        self.role = RaftRole::Candidate;
        self.leader = None;
        self.election.clear_votes();
        self.clock.on_become_candidate();
        self.set_term(self.current_term.next(), Some(self.id));
        self.restart_election_timer();
        self.request_votes(false, hand_over);
        self.maybe_count_own_vote();
    }

    /// Leads the current term. Appends a no-op, because entries of earlier terms are committed only
    /// together with one of this term (thesis 3.6.2, 6.4).
    ///
    /// # Panics
    ///
    /// If this member is not a candidate.
    fn become_leader(&mut self) {
        assert_eq!(self.role, RaftRole::Candidate, "a leader is elected");
        self.role = RaftRole::Leader;
        self.leader = Some(self.id);
        self.election.on_become_leader();
        self.incoming.on_become_leader();
        self.repair.on_become_leader();
        self.membership.on_become_leader();
        self.start_clock();
        let no_op = self.log.last_index().next();
        let interval_us = self.heartbeat_interval_us;
        self.leader_state.begin(no_op, interval_us, self.now_us);
        self.refresh_peers();
        self.append_command(&Command::Nop);
        self.maybe_commit();
    }

    /// Sets the term and the vote and hands them to the disk. No message leaves before they are
    /// durable (`gate`).
    fn set_term(&mut self, term: Term, vote: Option<PeerId>) {
        assert!(term < Term::REMOVED, "a notice of removal has no term");
        if term > self.current_term {
            self.leader_match = LeaderMatch::new(self.log.commit_index());
            let rise = term.0 - self.current_term.0;
            self.term_budget.on_rise(rise, self.now_us);
        }
        self.current_term = term;
        self.voted_for = vote;
        let seq = self.gate.number_state();
        self.out.state = Some(HardState { seq, term, vote });
    }

    /// Derives the configurations from `from` on again.
    fn rebuild_configurations(&mut self, from: Index) {
        self.membership.rebuild(from, self.log.iter_from(from));
    }
}

/// Outputs.
impl Raft {
    /// Hands a record of the log to the disk. Returns its number.
    fn persist(&mut self, record: Persist) -> Lsn {
        self.consume_room(&record);
        self.out.persist.push(record);
        self.gate.number_record()
    }

    /// Sends an RPC in the current term.
    fn send(&mut self, to: PeerId, rpc: Rpc) {
        self.send_in(to, self.current_term, rpc);
    }

    /// Sends an RPC in `term`, once the current term and vote are durable.
    fn send_in(&mut self, to: PeerId, term: Term, rpc: Rpc) {
        let message = Message { term, rpc };
        self.out.messages.extend(self.gate.pass(to, message));
    }

    /// Reports a peer's claim about this member, unless the owner has yet to take the same.
    fn report(&mut self, notice: RaftNotice) {
        if !self.out.notices.contains(&notice) {
            self.out.notices.push(notice);
        }
    }

    /// Moves all outputs to `out`, which must be empty. A leader sends its appends now.
    pub fn take_output(&mut self, out: &mut RaftOutput) {
        self.log.release_some();
        self.replicate();
        self.room
            .on_handed(self.gate.last_record(), &self.out.persist);
        std::mem::swap(out, &mut self.out);
    }

    /// Takes the irregular heartbeats since the last call.
    pub fn take_heartbeat_reports(&mut self) -> Vec<HeartbeatReport> {
        std::mem::take(&mut self.heartbeat_reports)
    }

    /// The earliest time at which `on_time` has something to do, in microseconds of the monotonic
    /// clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let role_us = match self.role {
            RaftRole::Leader if self.tracker.is_empty() => None,
            RaftRole::Leader => self.leader_state.deadline_us(),
            RaftRole::Follower | RaftRole::PreCandidate | RaftRole::Candidate => {
                self.election.deadline_us()
            }
        };
        let mark_us = self.marks.deadline_us();
        earliest(&[role_us, self.repair.next_deadline(), mark_us])
    }
}

/// The state as its owner sees it.
impl Raft {
    /// This member's role.
    pub fn role(&self) -> RaftRole {
        self.role
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.current_term
    }

    /// The leader of the current term, while it is known and not missed.
    pub fn leader(&self) -> Option<PeerId> {
        self.leader
    }

    /// This member's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The last entry that may be applied: the commit index, or the entry before the first damaged
    /// one.
    pub fn committed(&self) -> Index {
        let commit = self.log.commit_index();
        match self.first_damaged() {
            Some(first) => commit.min(first.prev()),
            None => commit,
        }
    }

    /// The last entry in the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// All entries up to here are durable and intact on this member. The owner may save a snapshot
    /// only up to here: if it put a later one in place and the machine crashed, the log on the disk
    /// could end before the snapshot, with entries that conflict with it.
    pub fn durable(&self) -> Index {
        self.log.durable()
    }

    /// The progress of this member by the messages of peers: the last entry with its term, and the
    /// bytes of the snapshot that is being received. A message that changes none of it has led
    /// nowhere.
    pub fn progress(&self) -> (Index, Term, u64) {
        let bytes = self.incoming.received_bytes();
        (self.log.last_index(), self.log.last_term(), bytes)
    }

    /// The number of the last record of the log that was handed to the disk.
    pub fn lsn(&self) -> Lsn {
        self.gate.last_record()
    }

    /// An entry, if memory still holds it.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(index)
    }

    /// The progress of a peer of this leader; `None` on any other member.
    pub fn peer(&self, id: PeerId) -> Option<&Progress> {
        self.tracker.get(id)
    }

    /// The first damaged entry: it is neither applied nor acknowledged, and a member that has one
    /// does not campaign (`repair`).
    fn first_damaged(&self) -> Option<Index> {
        self.log.first_damaged()
    }

    /// Closes each input. Takes constant time, except for a step for each peer.
    fn check_invariants(&self) {
        let leads = self.role == RaftRole::Leader;
        let last = self.log.last_index();
        self.log.check_invariants();
        self.membership.check_invariants(last);
        let follows = !leads && self.leader.is_some();
        self.election.check_invariants(self.role, follows);
        self.clock.check_invariants(leads);
        self.gate.check_invariants();
        self.marks.check_invariants();
        self.round_trips.check_invariants();
        self.leader_match.check_invariants(last);
        self.tracker.check_invariants(last);
        self.leader_state.check_invariants(leads, last);
        self.reads.check_invariants(leads);
        self.snapshots.check_invariants(&self.log);
        self.incoming.check_invariants(self.id, leads);
        self.repair.check_invariants(self.id, self.role, &self.log);
        assert!(
            self.current_term >= self.log.last_term(),
            "no entry is of a later term"
        );
        let is_own_leader = self.leader == Some(self.id);
        assert_eq!(leads, is_own_leader, "a leader follows itself only");
        assert!(leads || self.tracker.is_empty(), "only a leader has peers");
        assert!(
            leads || !self.handover.is_pending(),
            "only a leader hands over"
        );
    }
}
