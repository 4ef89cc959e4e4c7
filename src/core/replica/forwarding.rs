//! `-forward`: a follower forwards writes and linearizable reads to the leader, and answers its
//! client itself.
//!
//! A write:
//! 1. The follower sends the command over its link to the leader. A ttl in it counts from when the
//!    leader takes it.
//! 2. The leader appends the command together with its origin: the follower's process and the
//!    number of the request.
//! 3. The follower answers its client when it applies an entry with that origin.
//!
//! A read: the leader proves by a round of heartbeats that it leads, and replies with its commit
//! index. The follower reads its own state once that index is applied. A watch is a read that goes
//! on.
//!
//! A write happens at most once, for these reasons:
//! - The leader accepts each number once. So the follower may send a write again with its number,
//!   when its link to the leader opens anew.
//! - A leader takes a write only in the term in which it was sent. Once the follower has applied an
//!   entry of a later term, every entry of the earlier one is applied or will never be (Leader
//!   Completeness, thesis 3.6). A write whose entry was not among them did not happen, and goes to
//!   the next leader with another number.
//! - A leader that refuses a write as not taken has remembered its number, and takes no copy.
//!
//! A former leader does the same with the writes that it has proposed for its own clients and that
//! another leader's entries have replaced.
//!
//! While no leader is known, its process is gone, or it has refused, requests are held for the next
//! one. So they are while the leader may lack the entries that this log needs next. A machine that
//! does not lead never passes a forwarded request on. A read changes nothing: it is sent again
//! whenever its answer may be lost.
//!
//! Start with `Replica::forward` (the follower) and `Replica::on_forward` (the leader).
use super::Replica;
use super::pending::{Ending, Forwarded, SentTo};
use super::propose::WriteRefusal;
use crate::core::command::{self, Command, Origin};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::peers::ProcessChange;
use crate::core::raft::{Index, Message, PeerId, RaftRole, ReadId, Rpc, Term};
use crate::core::seam::{Op, Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most forwarded requests pending at a time; further ones are refused.
const REQUESTS_MAX: usize = 16_384;
/// Most bytes of commands that were sent to the leader and are pending; further ones are held. A
/// single longer command is sent. The queue of a link has room for twice as much.
const SENT_BYTES_MAX: usize = 4 << 20;

/// Most reads of followers that this leader proves at a time. A correct follower forwards at most
/// `REQUESTS_MAX`.
const PROOFS_MAX: usize = 4 * REQUESTS_MAX;

/// How long nothing is sent to a leader that has refused a request as not taken, in microseconds:
/// it hands over, or too much of its log is not committed yet.
const REFUSAL_US: u64 = 50_000;
/// If it refuses again and again, each pause is twice as long as the one before, up to this: all that
/// waits is sent to it again after each.
const REFUSAL_US_MAX: u64 = 500_000;

/// How many processes of one member have a replay window at a time.
const PROCESSES_MAX: usize = 4;
/// The width of a replay window: how many numbers up to the highest are tracked one by one.
const WINDOW_BITS: u64 = 64;

/// The cause with which a member refuses a request that it has not taken, because it does not lead
/// or takes no command now. The follower holds the request.
const NOT_TAKEN: &str = "not taken";

/// The anti-replay window of one process (RFC 4303 section 3.4.3): which of its last numbers were
/// accepted.
#[derive(Default)]
struct ReplayWindow {
    /// The random number of the process.
    process: u64,
    /// The highest number accepted so far.
    highest: u64,
    /// Bit `n` is set if the number `highest - n` was accepted.
    mask: u64,
}

impl ReplayWindow {
    /// Accepts a number. Returns false if it was accepted before, or lies below the window.
    fn accept(&mut self, number: u64) -> bool {
        if number > self.highest {
            let rise = number - self.highest;
            self.mask = if rise < WINDOW_BITS {
                self.mask << rise
            } else {
                0
            };
            self.highest = number;
        }
        let distance = self.highest - number;
        if distance >= WINDOW_BITS {
            return false;
        }
        let bit = 1 << distance;
        let is_new = self.mask & bit == 0;
        self.mask |= bit;
        is_new
    }
}

/// The replay windows of the last processes of one member, the newest last; at most
/// `PROCESSES_MAX`.
///
/// One window is not enough. Process numbers are random, so a late message of a former process
/// looks like the first one of a new process. It must not drop the window of the present process.
#[derive(Default)]
struct ReplayWindows(VecDeque<ReplayWindow>);

impl ReplayWindows {
    /// Whether this process has a window.
    fn has(&self, process: u64) -> bool {
        self.0.iter().any(|window| window.process == process)
    }

    /// Accepts a request. Returns false if its number was accepted before, or lies below the window
    /// of its process.
    fn accept(&mut self, id: Origin) -> bool {
        for window in &mut self.0 {
            if window.process == id.process {
                return window.accept(id.number);
            }
        }
        if self.0.len() == PROCESSES_MAX {
            self.0.pop_front();
        }
        let mut window = ReplayWindow {
            process: id.process,
            ..ReplayWindow::default()
        };
        let is_new = window.accept(id.number);
        self.0.push_back(window);
        is_new
    }
}

/// A leader has refused a request as not taken.
#[derive(Clone, Copy)]
struct Refusal {
    leader: PeerId,
    /// Its term; this machine may not have heard of it yet.
    term: Term,
    /// Until when nothing is sent to it, in microseconds of the monotonic clock.
    until_us: u64,
}

/// The last pause after a refusal.
#[derive(Clone, Copy)]
struct Pause {
    /// Its length in microseconds.
    us: u64,
    /// Its end, in microseconds of the monotonic clock.
    until_us: u64,
}

/// The state of both sides of forwarding. The follower's pending requests are in `Pending`.
pub struct Forwarding {
    /// The random number of this process. Replies to another process of this member are dropped.
    process: u64,
    /// The number of the last request that this process forwarded; 0 before the first.
    last_number: u64,
    /// The members whose process is gone, as far as the links tell: nothing is sent to them.
    gone: BTreeSet<PeerId>,
    /// The last refusal; `None` once its time is over.
    refusal: Option<Refusal>,
    /// The last pause after a refusal of any leader. `None` before the first.
    pause: Option<Pause>,
    /// The term of the last entry that was applied here.
    applied_term: Term,
    /// The replay windows of each member that has forwarded requests to this one.
    windows: BTreeMap<PeerId, ReplayWindows>,
    /// The reads by which this leader proves to a follower that it leads: the follower, and its
    /// request.
    proofs: BTreeMap<ReadId, (PeerId, Origin)>,
    /// The term on the disk when this process started. A former process may have accepted a request
    /// of this term or an earlier one.
    start_term: Term,
}

impl Forwarding {
    /// No request was sent or accepted; `process` is a random number.
    pub fn new(process: u64, start_term: Term) -> Forwarding {
        Forwarding {
            process,
            last_number: 0,
            gone: BTreeSet::new(),
            refusal: None,
            pause: None,
            applied_term: Term(0),
            windows: BTreeMap::new(),
            proofs: BTreeMap::new(),
            start_term,
        }
    }

    /// A leader has refused a request: until when nothing is sent to it, in microseconds of the
    /// monotonic clock. All that was sent before a pause may be refused during it.
    fn pause_until(&mut self, now: Now) -> u64 {
        let us = match self.pause {
            Some(last) if now.mono_us < last.until_us => return last.until_us,
            Some(last) if now.mono_us < last.until_us + REFUSAL_US_MAX => {
                (2 * last.us).min(REFUSAL_US_MAX)
            }
            _ => REFUSAL_US,
        };
        let until_us = now.mono_us + us;
        self.pause = Some(Pause { us, until_us });
        until_us
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// When requests may be sent again to a leader that has refused one, in microseconds of the
    /// monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.refusal.map(|refusal| refusal.until_us)
    }
}

/// The follower: sends requests and handles the replies.
impl Replica {
    /// Whether requests of this ticket go to the leader. Requests of conversations do on every
    /// member: they began while this one led, or with `-forward`.
    fn forwards(&self, ticket: Ticket) -> bool {
        let forwards = self.settings.forward || self.locks.contains(ticket);
        forwards && self.has_joined()
    }

    /// Whether this machine forwards a linearizable read, or holds it until there is a leader.
    pub(super) fn forwards_read(&self, ticket: Ticket) -> bool {
        let is_leader = self.raft.leader() == Some(self.raft.id());
        !is_leader && self.forwards(ticket)
    }

    /// As `forwards_read`, for a write. A leader that hands over holds it for the next one.
    pub fn forwards_write(&self, ticket: Ticket) -> bool {
        let is_leader = self.raft.leader() == Some(self.raft.id());
        let leads = is_leader && !self.raft.leaves_writes_to_next_leader();
        !leads && self.forwards(ticket)
    }

    /// The leader to send to now. `None`: requests are held. A member that may have to catch up by a
    /// snapshot sends nothing: the snapshot would hide the outcome of its writes.
    fn receiver(&self) -> Option<PeerId> {
        let leader = self.raft.leader()?;
        if !self.raft.is_continued_by_leader() {
            return None;
        }
        let forwarding = &self.forwarding;
        let term = self.raft.term();
        let refuses = |r: Refusal| r.leader == leader && r.term >= term;
        let is_closed =
            forwarding.gone.contains(&leader) || forwarding.refusal.is_some_and(refuses);
        (leader != self.raft.id() && !is_closed).then_some(leader)
    }

    /// Sends a request to the leader, or holds it until one takes requests; at the longest until
    /// `due_us`. It waits behind the requests that are held already: `forward_held` sends all.
    pub(super) fn forward(&mut self, ticket: Ticket, op: Op, due_us: u64) {
        let bytes_max = self.forwarded_bytes_max();
        let Some(request) = self.admit(ticket, op, "", due_us, bytes_max) else {
            return;
        };
        match self.receiver() {
            Some(leader) if !self.pending.has_held() && self.may_send(&request) => {
                self.send_request(leader, ticket, request);
            }
            _ => self.pending.add_forwarded(ticket, request),
        }
    }

    /// Most bytes of forwarded and held commands that are pending on a member that does not lead. A
    /// former leader may hold as many as a leader.
    pub(super) fn forwarded_bytes_max(&self) -> usize {
        let bytes_max = self.settings.memory.held_bytes_max;
        bytes_max.max(SENT_BYTES_MAX)
    }

    /// Whether a request may be sent beside those that are on their way.
    fn may_send(&self, request: &Forwarded) -> bool {
        let (bytes, sent_bytes) = (request.bytes, self.pending.sent_bytes());
        bytes == 0 || sent_bytes == 0 || sent_bytes + bytes <= SENT_BYTES_MAX
    }

    /// Sends a request to the leader, and waits for the answer.
    fn send_request(&mut self, leader: PeerId, ticket: Ticket, mut request: Forwarded) {
        let number = self.forwarding.next_number();
        let term = self.raft.term();
        let rpc = self.message_of(number, &request.op);
        self.send(leader, rpc);
        request.sent = Some(SentTo {
            number,
            leader,
            term,
        });
        self.pending.add_forwarded(ticket, request);
    }

    /// This leader does not take a client's write now: holds it until it does, at the longest until
    /// `due_us`. If it never does, the client is told the `cause`.
    pub(super) fn hold_until_taken(
        &mut self,
        ticket: Ticket,
        command: Command,
        cause: &'static str,
        due_us: u64,
    ) {
        let bytes_max = self.settings.memory.held_bytes_max;
        if let Some(request) = self.admit(ticket, Op::Write(command), cause, due_us, bytes_max) {
            self.pending.add_forwarded(ticket, request);
        }
    }

    /// Gives a new request the place behind all others. Refuses it with its `cause` if too many are
    /// pending, or if the commands would have more than `bytes_max`: reads take few.
    fn admit(
        &mut self,
        ticket: Ticket,
        op: Op,
        cause: &'static str,
        due_us: u64,
        bytes_max: usize,
    ) -> Option<Forwarded> {
        let bytes = match &op {
            Op::Write(command) => command::encoded_len(command),
            _ => 0,
        };
        let pending_bytes = self.pending.forwarded_bytes();
        let is_too_long = bytes > 0 && pending_bytes > 0 && pending_bytes + bytes > bytes_max;
        if is_too_long || self.pending.forwarded_count() >= REQUESTS_MAX {
            self.answer(ticket, forward_failure(&op, cause));
            return None;
        }
        Some(Forwarded {
            place: self.pending.next_place(),
            sent: None,
            op,
            bytes,
            due_us,
            cause,
        })
    }

    /// The message that forwards a request.
    fn message_of(&self, number: u64, op: &Op) -> Rpc {
        let command = match op {
            Op::Write(command) => Some(encode(command)),
            _ => None,
        };
        let process = self.forwarding.process;
        Rpc::Forward {
            process,
            number,
            command,
        }
    }

    /// If a leader takes requests, sends it the held ones. If this machine leads, carries them out.
    pub(super) fn forward_held(&mut self, now: Now) {
        let refusal = self.forwarding.refusal;
        self.forwarding.refusal = refusal.filter(|refusal| refusal.until_us > now.mono_us);
        if !self.pending.has_held() {
            return;
        }
        let is_leader = self.raft.leader() == Some(self.raft.id());
        let leads = is_leader && !self.raft.leaves_writes_to_next_leader();
        if !leads && self.receiver().is_none() {
            return;
        }
        let mut takes_values = true;
        let mut takes_deletions = true;
        for ticket in self.pending.held() {
            // A request that is due is given up in this turn.
            let request = self.pending.forwarded_of(ticket);
            let Some(request) = request.filter(|request| request.due_us > now.mono_us) else {
                continue;
            };
            let is_value = match &request.op {
                Op::Write(command) => command.content().is_some(),
                _ => false,
            };
            let is_deletion = !is_value && matches!(request.op, Op::Write(_));
            let waits = is_value && !takes_values || is_deletion && !takes_deletions;
            if !waits && !self.try_held(now, ticket) {
                // A leader may still take deletions, as in `write_until`. Another leader is sent no
                // write: later ones would keep off a long one for ever.
                takes_values = false;
                takes_deletions &= is_value && leads;
            }
        }
    }

    /// Tries a held request: sends it to the leader, or carries it out. Returns whether the next
    /// write may be tried. A request that is held on keeps its place, and no bound is asked.
    fn try_held(&mut self, now: Now, ticket: Ticket) -> bool {
        let is_leader = self.raft.leader() == Some(self.raft.id());
        let is_sent = !is_leader && self.forwards(ticket);
        let request = self.pending.forwarded_of(ticket).expect("it is held");
        if is_sent && !self.may_send(request) {
            return false;
        }
        let mut request = self.pending.take_forwarded(ticket).expect("it is held");
        if is_sent {
            let leader = self.receiver().expect("looked at before");
            self.send_request(leader, ticket, request);
            return true;
        }
        let due_us = request.due_us;
        let command = match request.op {
            Op::Write(command) => command,
            op => {
                self.read_until(now, ticket, op, due_us);
                return true;
            }
        };
        if let Some((command, cause)) = self.propose_write(now, ticket, command, due_us) {
            request.op = Op::Write(command);
            request.cause = cause;
            self.pending.add_forwarded(ticket, request);
            return false;
        }
        true
    }

    /// Holds a request that was sent: it did not happen, or it is a read. A copy that is still under
    /// way, or a late reply, belongs to the number with which it was sent.
    fn hold(&mut self, ticket: Ticket) {
        if let Some(mut request) = self.pending.take_forwarded(ticket) {
            request.sent = None;
            self.pending.add_forwarded(ticket, request);
        }
    }

    /// Holds the reads for which another leader has to answer.
    pub(super) fn hold_reads_of_former_leader(&mut self) {
        let leader = self.raft.leader();
        for (ticket, sent) in self.pending.sent_reads() {
            if leader != Some(sent.leader) {
                self.hold(ticket);
            }
        }
    }

    /// An entry of `term` was applied. The writes that were sent in earlier terms and are pending did
    /// not happen: a write that happened was answered when it was applied.
    pub(super) fn on_term_applied(&mut self, term: Term) {
        if term <= self.forwarding.applied_term {
            return;
        }
        self.forwarding.applied_term = term;
        for (ticket, sent) in self.pending.sent_writes() {
            if sent.term < term {
                self.hold(ticket);
            }
        }
    }

    /// The committed entry at `index` is about to be applied. If its term is the first of a later
    /// leader, the writes that this member has proposed before for its own clients, and not applied,
    /// will never be committed, by the argument above. If it forwards, they go to the next leader.
    pub(super) fn hold_replaced_writes(&mut self, index: Index) {
        let term = self.raft.entry(index).map(|entry| entry.term);
        let Some(term) = term.filter(|term| *term > self.forwarding.applied_term) else {
            return;
        };
        for write in self.pending.writes_before(term) {
            if !self.forwards(write.ticket) {
                continue;
            }
            let command = self.proposed.remove(write.index, write.term);
            if let Some(mut command) = command
                && let Some(due_us) = self.pending.take_proposal(write.ticket)
            {
                if let Some(lease) = command.lease_mut() {
                    lease.give_back();
                }
                self.forward(write.ticket, Op::Write(command), due_us);
            }
        }
    }

    /// The leader has taken a forwarded request: its next refusal is the first one again.
    pub(super) fn on_taken(&mut self) {
        self.forwarding.pause = None;
    }

    /// The ticket of the client whose forwarded write has this origin.
    pub(super) fn forwarded_from(&self, origin: Origin) -> Option<Ticket> {
        if origin.process != self.forwarding.process {
            return None;
        }
        self.pending.sent_with(origin.number)
    }

    /// The ticket of the client whose forwarded write is this entry. All members see the numbers of a
    /// process in the log. So the command is compared, too: a faulty member that has used a number of
    /// this process had another command appended, and its event is no answer to this one's client.
    pub(super) fn forwarder_of(&self, origin: Origin, command: &Command) -> Option<Ticket> {
        let ticket = self.forwarded_from(origin)?;
        match &self.pending.forwarded_of(ticket)?.op {
            Op::Write(asked) if asked.is_taken_as(command) => Some(ticket),
            _ => None,
        }
    }

    /// A snapshot has replaced entries that were not applied here: the writes that were sent may be
    /// among them.
    pub(super) fn give_up_sent_writes(&mut self) {
        for (ticket, _) in self.pending.sent_writes() {
            self.leave(ticket, Ending::GivenUp);
        }
    }

    /// A process of `peer` opened a link, or is gone.
    /// - Gone: its reads are held, and so is whatever comes.
    /// - Up: the writes that were sent to it are sent again, with their numbers: some may have been
    ///   lost with a former link.
    pub(super) fn on_leader_link(&mut self, peer: PeerId, change: ProcessChange) {
        match change {
            ProcessChange::Gone => {
                self.forwarding.gone.insert(peer);
                for (ticket, sent) in self.pending.sent_reads() {
                    if sent.leader == peer {
                        self.hold(ticket);
                    }
                }
            }
            ProcessChange::Up => {
                self.forwarding.gone.remove(&peer);
                self.send_again(peer);
            }
            ProcessChange::Ended | ProcessChange::RoundTrip { .. } => {}
        }
    }

    fn send_again(&mut self, to: PeerId) {
        let term = self.raft.term();
        let mut again = Vec::new();
        for (ticket, sent) in self.pending.sent_writes() {
            if (sent.leader, sent.term) == (to, term)
                && let Some(request) = self.pending.forwarded_of(ticket)
            {
                again.push(self.message_of(sent.number, &request.op));
            }
        }
        for rpc in again {
            self.send(to, rpc);
        }
    }

    /// The outcome of a forwarded request that is given up. A write that was sent may have
    /// happened.
    pub(super) fn outcome_of_given_up_forward(&self, request: &Forwarded) -> Outcome {
        let is_sent = request.sent.is_some();
        let cause = if is_sent {
            OUTCOME_UNKNOWN
        } else {
            request.cause
        };
        forward_failure(&request.op, cause)
    }

    /// `from` replied, with the index that a read has to wait for or with the cause of a refusal. A
    /// reply to another process, or to a request that is no longer pending, is dropped.
    pub(super) fn on_forwarded(
        &mut self,
        now: Now,
        from: PeerId,
        term: Term,
        id: Origin,
        reply: Result<Index, Box<str>>,
    ) {
        let Some(ticket) = self.forwarded_from(id) else {
            return;
        };
        let request = self.pending.forwarded_of(ticket);
        let request = request.expect("found by its number");
        if request.sent.is_none_or(|sent| sent.leader != from) {
            return;
        }
        let is_write = matches!(request.op, Op::Write(_));
        match reply {
            // A write is answered when its entry is applied.
            Ok(_) if is_write => {}
            Ok(index) => self.on_proved(ticket, index),
            Err(cause) if *cause == *NOT_TAKEN => {
                let leader = from;
                let until_us = self.forwarding.pause_until(now);
                self.forwarding.refusal = Some(Refusal {
                    leader,
                    term,
                    until_us,
                });
                self.hold(ticket);
            }
            Err(cause) => {
                let outcome = forward_failure(&request.op, &cause);
                self.finish(ticket, outcome);
            }
        }
    }

    /// The leader has proved that it led when its commit index was `index`.
    fn on_proved(&mut self, ticket: Ticket, index: Index) {
        self.on_taken();
        if let Some(request) = self.pending.take_forwarded(ticket) {
            let due_us = request.due_us;
            self.pending
                .add_confirmed_read(ticket, due_us, request.op, index);
        }
    }
}

/// The outcome of a request that was forwarded without success.
/// - A read: no leader. It changed nothing.
/// - A write: error 300. Without a cause it did not happen, so the client may repeat it.
fn forward_failure(op: &Op, cause: &str) -> Outcome {
    match op {
        Op::Write(_) => Outcome::Failed(Error::new(Code::RaftInternal, cause)),
        _ => Outcome::Failed(Error::new(Code::LeaderElect, "")),
    }
}

/// The leader: accepts each request once, and replies.
impl Replica {
    /// A follower forwards a command, or asks for a proof of leadership (no command). A command
    /// that is taken gets no reply: the follower sees its entry.
    pub(super) fn on_forward(
        &mut self,
        now: Now,
        from: PeerId,
        term: Term,
        id: Origin,
        command: Option<Box<[u8]>>,
    ) {
        let is_member = self.raft.configuration().get(from).is_some();
        if !is_member || self.is_process_of_another(from, id.process) {
            return;
        }
        let windows = self.forwarding.windows.entry(from).or_default();
        if !windows.accept(id) {
            return;
        }
        let leads = term == self.raft.term() && self.raft.role() == RaftRole::Leader;
        match command {
            None if leads => self.start_proof(now, from, id),
            None => self.reply(from, id, Err(NOT_TAKEN.into())),
            Some(body) if leads => {
                if let Err(cause) = self.append_forwarded(now, id, &body) {
                    self.reply(from, id, Err(cause));
                }
            }
            // A former process of this member may have taken it: the applied entries will tell.
            Some(_) if term <= self.forwarding.start_term || term > self.raft.term() => {}
            Some(_) => self.reply(from, id, Err(NOT_TAKEN.into())),
        }
    }

    /// Whether a process is this one, or another member than `from` has forwarded with its number
    /// before. A copy of a member's number would take the place of its own request.
    fn is_process_of_another(&self, from: PeerId, process: u64) -> bool {
        let members = self.raft.configuration();
        let mut known = self.forwarding.windows.iter();
        process == self.forwarding.process
            || known.any(|(id, windows)| {
                *id != from && windows.has(process) && members.get(*id).is_some()
            })
    }

    /// Appends the command of a follower's client, with its origin.
    fn append_forwarded(&mut self, now: Now, id: Origin, body: &[u8]) -> Result<(), Box<str>> {
        let is_plain = command::origin(body).is_none();
        let command = command::decode(body).ok();
        let command = command.filter(|command| is_plain && command.is_write());
        let command = command.ok_or("not a write")?;
        self.maybe_hand_over_full(now);
        match self.append_write(now, command, Some(id)) {
            Ok(_) => Ok(()),
            Err(WriteRefusal::Final(Outcome::Failed(error))) if !error.cause.is_empty() => {
                Err(error.cause)
            }
            // The follower holds it, and sends it again.
            Err(_) => Err(NOT_TAKEN.into()),
        }
    }

    /// Starts a read that proves to `from` that this machine leads.
    fn start_proof(&mut self, now: Now, from: PeerId, id: Origin) {
        if self.forwarding.proofs.len() >= PROOFS_MAX {
            return self.reply(from, id, Err("too many reads wait".into()));
        }
        let read_id = self.pending.next_read_id();
        match self.raft.read(now, read_id) {
            Ok(()) => {
                self.forwarding.proofs.insert(read_id, (from, id));
            }
            Err(_) => self.reply(from, id, Err(NOT_TAKEN.into())),
        }
    }

    /// Raft has confirmed a read with its read index, or failed it (`None`). Without effect unless
    /// the read is a proof for a follower.
    pub(super) fn on_proof(&mut self, read_id: ReadId, read_index: Option<Index>) {
        if let Some((to, id)) = self.forwarding.proofs.remove(&read_id) {
            self.reply(to, id, read_index.ok_or_else(|| NOT_TAKEN.into()));
        }
    }

    /// This machine stops serving: refuses the pending proofs.
    pub(super) fn fail_proofs(&mut self) {
        for (to, id) in std::mem::take(&mut self.forwarding.proofs).into_values() {
            self.reply(to, id, Err(NOT_TAKEN.into()));
        }
    }

    fn reply(&mut self, to: PeerId, id: Origin, answer: Result<Index, Box<str>>) {
        let rpc = Rpc::Forwarded {
            process: id.process,
            number: id.number,
            answer,
        };
        self.send(to, rpc);
    }

    /// Sends a message in this member's term.
    fn send(&mut self, to: PeerId, rpc: Rpc) {
        let term = self.raft.term();
        self.outputs.send.push((to, Message { term, rpc }));
    }
}

/// Encodes a command for the leader.
fn encode(command: &Command) -> Box<[u8]> {
    let mut body = Vec::new();
    command::encode(command, &mut body);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_become_longer_while_a_leader_goes_on_refusing() {
        let mut forwarding = Forwarding::new(1, Term(1));
        let mut pause_until = |ms: u64| {
            let now = Now {
                mono_us: ms * 1_000,
                wall_ns: 0,
            };
            forwarding.pause_until(now) / 1_000
        };
        assert_eq!(pause_until(0), 50);
        assert_eq!(pause_until(30), 50, "sent before the pause");
        assert_eq!([pause_until(60), pause_until(170)], [160, 370]);
        assert_eq!([pause_until(400), pause_until(900)], [800, 1_400]);
        assert_eq!(pause_until(2_000), 2_050, "it took requests meanwhile");
    }

    fn accept(windows: &mut ReplayWindows, process: u64, number: u64) -> bool {
        windows.accept(Origin { process, number })
    }

    #[test]
    fn each_number_of_a_process_is_accepted_once() {
        let mut windows = ReplayWindows::default();
        for number in [1, 3, 2] {
            assert!(accept(&mut windows, 7, number));
        }
        for number in [1, 2, 3] {
            assert!(!accept(&mut windows, 7, number));
        }
        assert!(accept(&mut windows, 7, 66));
        assert!(accept(&mut windows, 7, 4));
        assert!(!accept(&mut windows, 7, 2), "below the window");
        assert!(accept(&mut windows, 7, 200));
        assert!(accept(&mut windows, 7, 137));
        assert!(!accept(&mut windows, 7, 136), "below the window");
    }

    #[test]
    fn processes_have_numbers_of_their_own() {
        let mut windows = ReplayWindows::default();
        assert!(accept(&mut windows, 7, 200));
        assert!(accept(&mut windows, 8, 1));
        assert!(accept(&mut windows, 8, u64::MAX));
        // A late message of the former process.
        assert!(accept(&mut windows, 7, 199));
        assert!(!accept(&mut windows, 7, 200));
        assert!(!accept(&mut windows, 8, u64::MAX));
    }

    #[test]
    fn the_processes_of_a_member_are_bounded() {
        let mut windows = ReplayWindows::default();
        for process in 9..100 {
            assert!(accept(&mut windows, process, 1));
            assert!(!accept(&mut windows, process, 1));
        }
        assert_eq!(windows.0.len(), PROCESSES_MAX);
    }
}
