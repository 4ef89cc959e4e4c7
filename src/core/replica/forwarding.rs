//! `-forward`: a follower forwards writes and linearizable reads to the leader, and answers its
//! client itself.
//!
//! 1. The follower sends the command of a write, or asks for a proof of leadership for a read. A
//!    ttl in a command counts from when the leader takes it.
//! 2. The leader appends the command, or confirms by a round of heartbeats that it leads. It
//!    replies with the index of the entry, or with its commit index.
//! 3. From then on the follower treats the request as its own: a proposal at that index, or a read
//!    with that read index.
//!
//! A request is never forwarded twice, except after the receiver has refused it. A link may repeat
//! or lose messages, so each request has a number and the leader accepts each number once. While
//! no leader is known, or the leader hands over, requests are held for the next leader.
//!
//! Start with `Replica::forward` (the follower) and `Replica::on_forward` (the leader).
use super::Replica;
use super::pending::{Ending, Forwarded, PROPOSAL_US_MAX, Proposal, Purpose};
use crate::core::command::{self, Command};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::raft::{Index, Message, PeerId, RaftRole, ReadId, Rpc, Term};
use crate::core::seam::{Op, Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Most forwarded requests pending at a time; further ones are refused.
const REQUESTS_MAX: usize = 16_384;
/// Most bytes of forwarded commands pending at a time. A single longer command is accepted. The
/// queue of a link has room for twice as much.
const BYTES_MAX: usize = 4 << 20;

/// Most reads of followers that this leader proves at a time. A correct follower forwards at most
/// `REQUESTS_MAX`.
const PROOFS_MAX: usize = 4 * REQUESTS_MAX;

/// How many processes of one member have a replay window at a time.
const PROCESSES_MAX: usize = 4;
/// The width of a replay window: how many numbers up to the highest are tracked one by one.
const WINDOW_BITS: u64 = 64;

/// The cause with which a member that does not lead refuses a request. The follower may forward the
/// request to another leader.
const NOT_LEADING: &str = "not leading";

/// Where a request that only the leader can carry out goes.
pub enum Destination {
    /// This machine handles it, because it leads or does not forward.
    Here,
    /// This machine forwards it to the leader.
    Leader {
        /// The leader. `None` while no leader is known: the request is held.
        to: Option<PeerId>,
    },
}

/// The identity of a forwarded request among all requests of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardId {
    /// The random number of the sending process.
    pub process: u64,
    /// Rises by one with each request of that process.
    pub number: u64,
}

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
    /// Accepts a request. Returns false if its number was accepted before, or lies below the window
    /// of its process.
    fn accept(&mut self, id: ForwardId) -> bool {
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

/// The state of both sides of forwarding. The follower's pending requests are in `Pending`.
pub struct Forwarding {
    /// The random number of this process. Replies to another process of this member are dropped.
    process: u64,
    /// The number of the last request that this process forwarded; 0 before the first.
    last_number: u64,
    /// The replay windows of each member that has forwarded requests to this one.
    windows: BTreeMap<PeerId, ReplayWindows>,
    /// The reads by which this leader proves to a follower that it leads: the follower, and its
    /// request.
    proofs: BTreeMap<ReadId, (PeerId, ForwardId)>,
    /// The term on the disk when this process started. A former process may have accepted a request
    /// of this term or an earlier one, so the outcome of such a request is unknown.
    start_term: Term,
}

impl Forwarding {
    /// No request was sent or accepted; `process` is a random number.
    pub fn new(process: u64, start_term: Term) -> Forwarding {
        Forwarding {
            process,
            last_number: 0,
            windows: BTreeMap::new(),
            proofs: BTreeMap::new(),
            start_term,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// The follower: sends requests and handles the replies.
impl Replica {
    /// Where a request that only the leader can carry out goes now. The writes of a conversation are
    /// forwarded on every member: it began while this one led, or with `-forward`.
    pub(super) fn destination(&self, ticket: Ticket) -> Destination {
        let leader = self.raft.leader();
        let is_leader = leader == Some(self.raft.id());
        let forwards = self.settings.forward || self.locks.contains(ticket);
        if !forwards || is_leader || !self.has_joined() {
            return Destination::Here;
        }
        Destination::Leader { to: leader }
    }

    /// Sends a request to the leader `to`, or holds it until there is one.
    pub(super) fn forward(&mut self, now: Now, ticket: Ticket, to: Option<PeerId>, op: Op) {
        self.forward_until(ticket, to, op, now.mono_us + PROPOSAL_US_MAX);
    }

    fn forward_until(&mut self, ticket: Ticket, to: Option<PeerId>, op: Op, due_us: u64) {
        let command = match &op {
            Op::Write(command) => Some(encode(command)),
            _ => None,
        };
        let bytes = command.as_ref().map_or(0, |command| command.len());
        if self.is_forwarding_full(bytes) {
            let outcome = self.forward_failure(&op, to, "");
            return self.answer(ticket, outcome);
        }
        let number = self.forwarding.next_number();
        let request = Forwarded {
            number,
            to,
            op,
            bytes,
            due_us,
        };
        self.pending.add_forwarded(ticket, request);
        if let Some(to) = to {
            let process = self.forwarding.process;
            let rpc = Rpc::Forward {
                process,
                number,
                command,
            };
            self.send(to, rpc);
        }
    }

    /// Whether another command of this length has no room.
    fn is_forwarding_full(&self, bytes: usize) -> bool {
        let waiting_bytes = self.pending.forwarded_bytes();
        let is_too_long = waiting_bytes > 0 && waiting_bytes + bytes > BYTES_MAX;
        is_too_long || self.pending.forwarded_count() >= REQUESTS_MAX
    }

    /// If a leader is known, forwards the held requests to it. If this machine leads, carries them
    /// out.
    pub(super) fn forward_held(&mut self, now: Now) {
        if self.raft.leader().is_none() {
            return;
        }
        for ticket in self.pending.forwarded_to(None) {
            let Some(request) = self.pending.take_forwarded(ticket) else {
                continue;
            };
            match (self.destination(ticket), request.op) {
                (Destination::Leader { to }, op) => {
                    self.forward_until(ticket, to, op, request.due_us);
                }
                (Destination::Here, Op::Write(command)) => self.write(now, ticket, command),
                (Destination::Here, op) => self.read(now, ticket, op),
            }
        }
    }

    /// The outcome of a request that was forwarded to `to` without success:
    /// - A read: no leader. It changed nothing.
    /// - A held write: error 300 without a cause. It was not sent, so the client may repeat it.
    /// - A write that was sent: error 300 with `cause`.
    pub(super) fn forward_failure(&self, op: &Op, to: Option<PeerId>, cause: &str) -> Outcome {
        let is_write = matches!(op, Op::Write(_));
        if !is_write {
            return Outcome::Failed(Error::new(Code::LeaderElect, ""));
        }
        if to.is_none() {
            return Outcome::Failed(Error::new(Code::RaftInternal, ""));
        }
        Outcome::Failed(Error::new(Code::RaftInternal, cause))
    }

    /// `from` replied in `term`, with an index or with the cause of a refusal. A reply to another
    /// process, or to a request that is no longer pending, is dropped.
    pub(super) fn on_forwarded(
        &mut self,
        from: PeerId,
        term: Term,
        id: ForwardId,
        reply: Result<Index, Box<str>>,
    ) {
        if id.process != self.forwarding.process {
            return;
        }
        let Some((ticket, request)) = self.pending.forwarded(id.number) else {
            return;
        };
        if request.to != Some(from) {
            return;
        }
        match reply {
            Ok(index) => self.on_forward_accepted(ticket, index, term),
            Err(cause) if *cause == *NOT_LEADING => self.forward_again(ticket, from),
            Err(cause) => {
                let outcome = self.forward_failure(&request.op, request.to, &cause);
                self.finish(ticket, outcome);
            }
        }
    }

    /// The leader appended the command at `index` in `term`, or proved that it led when its commit
    /// index was `index`.
    fn on_forward_accepted(&mut self, ticket: Ticket, index: Index, term: Term) {
        let Some(request) = self.pending.take_forwarded(ticket) else {
            return;
        };
        let due_us = request.due_us;
        match request.op {
            Op::Write(_) if index <= self.applied || self.pending.has_proposal(index, term) => {
                // The entry was applied before the reply came, and its event is no longer known.
                // Or the reply names the entry of another request.
                let outcome = Outcome::Failed(Error::new(Code::RaftInternal, OUTCOME_UNKNOWN));
                self.answer(ticket, outcome);
            }
            Op::Write(_) => {
                let proposal = Proposal {
                    ticket,
                    index,
                    term,
                    purpose: Purpose::Write,
                };
                self.pending.add_proposal(due_us, proposal);
            }
            op => self.pending.add_confirmed_read(ticket, due_us, op, index),
        }
    }

    /// `refused_by` does not lead and has not accepted the request: forwards it to another leader,
    /// or holds it.
    fn forward_again(&mut self, ticket: Ticket, refused_by: PeerId) {
        let Some(request) = self.pending.take_forwarded(ticket) else {
            return;
        };
        let to = match self.destination(ticket) {
            Destination::Leader { to } => to.filter(|to| *to != refused_by),
            Destination::Here => None,
        };
        self.forward_until(ticket, to, request.op, request.due_us);
    }

    /// The link to `to` closed, so no reply to the requests sent to it will come.
    pub(super) fn give_up_forwarded_to(&mut self, to: PeerId) {
        for ticket in self.pending.forwarded_to(Some(to)) {
            self.leave(ticket, Ending::GivenUp);
        }
    }
}

/// The leader: accepts each request once, and replies.
impl Replica {
    /// A follower forwards a command, or asks for a proof of leadership (no command). The cause
    /// `NOT_LEADING` makes the follower send the request again, so it is given only if this member
    /// cannot have accepted a copy before.
    pub(super) fn on_forward(
        &mut self,
        now: Now,
        from: PeerId,
        term: Term,
        id: ForwardId,
        command: Option<Box<[u8]>>,
    ) {
        if self.raft.configuration().get(from).is_none() {
            return;
        }
        let windows = self.forwarding.windows.entry(from).or_default();
        if !windows.accept(id) {
            return;
        }
        if term <= self.forwarding.start_term || term > self.raft.term() {
            return self.reply(from, id, Err(OUTCOME_UNKNOWN.into()));
        }
        if term < self.raft.term() || self.raft.role() != RaftRole::Leader {
            return self.reply(from, id, Err(NOT_LEADING.into()));
        }
        match command {
            Some(_) if self.raft.is_handing_over() => self.reply(from, id, Err(NOT_LEADING.into())),
            Some(body) => {
                let reply = self.append_forwarded(now, &body);
                self.reply(from, id, reply);
            }
            None => self.start_proof(now, from, id),
        }
    }

    /// Appends the command of a follower's client.
    fn append_forwarded(&mut self, now: Now, body: &[u8]) -> Result<Index, Box<str>> {
        let command = command::decode(body).ok().filter(Command::is_write);
        match self.append_write(now, command.ok_or("not a write")?) {
            Ok((index, _)) => Ok(index),
            Err(Outcome::Failed(error)) => Err(error.cause),
            Err(_) => Err("".into()),
        }
    }

    /// Starts a read that proves to `from` that this machine leads.
    fn start_proof(&mut self, now: Now, from: PeerId, id: ForwardId) {
        if self.forwarding.proofs.len() >= PROOFS_MAX {
            return self.reply(from, id, Err("too many reads wait".into()));
        }
        let read_id = self.pending.next_read_id();
        match self.raft.read(now, read_id) {
            Ok(()) => {
                self.forwarding.proofs.insert(read_id, (from, id));
            }
            Err(_) => self.reply(from, id, Err(NOT_LEADING.into())),
        }
    }

    /// Raft has confirmed a read with its read index, or failed it (`None`). Without effect unless
    /// the read is a proof for a follower.
    pub(super) fn on_proof(&mut self, read_id: ReadId, read_index: Option<Index>) {
        if let Some((to, id)) = self.forwarding.proofs.remove(&read_id) {
            self.reply(to, id, read_index.ok_or_else(|| NOT_LEADING.into()));
        }
    }

    /// This machine stops serving: refuses the pending proofs.
    pub(super) fn fail_proofs(&mut self) {
        for (to, id) in std::mem::take(&mut self.forwarding.proofs).into_values() {
            self.reply(to, id, Err(NOT_LEADING.into()));
        }
    }

    fn reply(&mut self, to: PeerId, id: ForwardId, answer: Result<Index, Box<str>>) {
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

    fn accept(windows: &mut ReplayWindows, process: u64, number: u64) -> bool {
        windows.accept(ForwardId { process, number })
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
