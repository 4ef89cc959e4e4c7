//! `-forward`: a follower forwards what only the leader can do, and answers its client itself.
//!
//! 1. The follower sends a command, or asks for a proof of leadership on behalf of a read. The
//!    expiration in a command counts from now, so that the leader's clock decides.
//! 2. The leader appends the command, or confirms that it leads, and replies with the log index.
//! 3. From there on the follower treats the request as its own: a proposal at that index, or a
//!    read of that index.
//!
//! A request takes one hop and is sent again only after the leader refused it. A link may repeat or
//! lose messages, so each request has a number and the leader takes each number once. While there
//! is no leader, or the leader hands over, requests are held for the next one. Start with
//! `Replica::forward`.
use super::Replica;
use super::pending::{Ending, Forwarded, PROPOSAL_US_MAX, Proposal, Purpose};
use crate::core::command::{self, Command};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::raft::fault::RaftFault;
use crate::core::raft::{Index, Message, PeerId, RaftRole, ReadId, Rpc, Term};
use crate::core::seam::{Op, Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Most requests that may wait for the leader at a time; more are refused.
const REQUESTS_MAX: usize = 16_384;
/// Most bytes of commands that may wait for the leader at a time; a longer command is sent if it is
/// alone. The queue of a link has room for twice as much.
const BYTES_MAX: usize = 4 << 20;

/// How many processes of one member are remembered.
const PROCESSES_MAX: usize = 4;
/// How many numbers of one process, up to the highest, are told apart.
const WINDOW_BITS: u64 = 64;

/// The cause by which a leader that does not lead refuses a request, which another leader may take.
const NOT_LEADING: &str = "not leading";

/// Where a request that only the leader can carry out goes.
pub enum Destination {
    /// It is handled here: this machine leads, or does not forward.
    Here,
    /// It is forwarded to the leader.
    Leader {
        /// The leader; `None` while there is none, and the request is held.
        to: Option<PeerId>,
    },
}

/// Names a forwarded request among all requests of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardId {
    /// The random number of the process that sent it.
    pub process: u64,
    /// Rises from request to request of that process.
    pub number: u64,
}

/// Which numbers of one process were taken: the highest, and a bit for each of the 64 numbers up to
/// it (as in RFC 4303, section 3.4.3).
#[derive(Default)]
struct TakenNumbers {
    process: u64,
    highest: u64,
    mask: u64,
}

impl TakenNumbers {
    /// Takes a number; false if it was taken before or is too far below the highest to tell.
    fn take(&mut self, number: u64) -> bool {
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

/// The last processes of one member, the newest last; at most `PROCESSES_MAX`.
///
/// Several, because process numbers are random: a late message of a former process cannot be told
/// from the first one of a new process, and must not make this member forget the present one.
#[derive(Default)]
struct Processes(VecDeque<TakenNumbers>);

impl Processes {
    /// Takes a number of a process; false if it was taken before or is too old to tell.
    fn take(&mut self, id: ForwardId) -> bool {
        for taken in &mut self.0 {
            if taken.process == id.process {
                return taken.take(id.number);
            }
        }
        if self.0.len() == PROCESSES_MAX {
            self.0.pop_front();
        }
        let mut taken = TakenNumbers {
            process: id.process,
            ..TakenNumbers::default()
        };
        let is_new = taken.take(id.number);
        self.0.push_back(taken);
        is_new
    }
}

/// What both sides of forwarding remember. The follower's requests are in `Pending`.
pub struct Forwarding {
    /// A random number of this process: replies to a former process of this member are dropped.
    process: u64,
    /// The number of the last request of this process.
    last_number: u64,
    /// The numbers taken from each member that has sent requests.
    taken: BTreeMap<PeerId, Processes>,
    /// The reads by which this leader proves to a follower that it leads.
    proofs: BTreeMap<ReadId, (PeerId, ForwardId)>,
    /// The term on the disk when this process started. A request of this term or an earlier one
    /// may have been taken by a former process, so its outcome is unknown.
    start_term: Term,
}

impl Forwarding {
    /// Nothing is sent and nothing is taken; `process` is a random number.
    pub fn new(process: u64, start_term: Term) -> Forwarding {
        Forwarding {
            process,
            last_number: 0,
            taken: BTreeMap::new(),
            proofs: BTreeMap::new(),
            start_term,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// The follower: sends requests and takes the replies.
impl Replica {
    /// Where a request goes that only the leader can carry out.
    pub(super) fn destination(&self) -> Destination {
        let leader = self.raft.leader();
        let is_leader = leader == Some(self.raft.id());
        if !self.settings.forward || is_leader || !self.has_joined() {
            return Destination::Here;
        }
        Destination::Leader { to: leader }
    }

    /// Sends a request to the leader `to`, or holds it until there is one.
    pub(super) fn forward(&mut self, now: Now, ticket: Ticket, to: Option<PeerId>, op: Op) {
        self.forward_until(now, ticket, to, op, now.mono_us + PROPOSAL_US_MAX);
    }

    fn forward_until(&mut self, now: Now, ticket: Ticket, to: Option<PeerId>, op: Op, due_us: u64) {
        let command = match &op {
            Op::Write(command) => Some(encode_relative(now, command.clone())),
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

    /// A leader is known: forwards to it what was held, or carries it out if it is this machine.
    pub(super) fn forward_held(&mut self, now: Now) {
        if self.raft.leader().is_none() {
            return;
        }
        for ticket in self.pending.forwarded_to(None) {
            let Some(request) = self.pending.take_forwarded(ticket) else {
                continue;
            };
            match (self.destination(), request.op) {
                (Destination::Leader { to }, op) => {
                    self.forward_until(now, ticket, to, op, request.due_us);
                }
                (Destination::Here, Op::Write(command)) => self.write(now, ticket, command),
                (Destination::Here, op) => self.read(now, ticket, op),
            }
        }
    }

    /// The outcome of a request that was forwarded `to` without success. A read changes nothing, so
    /// its client is told only that there is no leader. A held write was sent nowhere, so its
    /// client may repeat it.
    pub(super) fn forward_failure(&self, op: &Op, to: Option<PeerId>, cause: &str) -> Outcome {
        let is_write = matches!(op, Op::Write(_));
        if !is_write {
            return Outcome::Failed(Error::new(Code::LeaderElect, ""));
        }
        if to.is_none() || self.raft.has(RaftFault::ForwardDenied) {
            return Outcome::Failed(Error::new(Code::RaftInternal, ""));
        }
        Outcome::Failed(Error::new(Code::RaftInternal, cause))
    }

    /// `from` replied: in `term`, with an index or with the cause of a refusal.
    pub(super) fn on_forwarded(
        &mut self,
        now: Now,
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
            Ok(index) => self.on_forward_taken(ticket, index, term),
            Err(cause) if *cause == *NOT_LEADING => self.forward_again(now, ticket, from),
            Err(cause) => {
                let outcome = self.forward_failure(&request.op, request.to, &cause);
                self.finish(ticket, outcome);
            }
        }
    }

    /// The leader appended the command at `index`, or has proved that it led when its commit index
    /// was `index`.
    fn on_forward_taken(&mut self, ticket: Ticket, index: Index, term: Term) {
        let Some(request) = self.pending.take_forwarded(ticket) else {
            return;
        };
        let due_us = request.due_us;
        match request.op {
            Op::Write(_) if index <= self.applied || self.pending.has_proposal(index, term) => {
                // The reply was slower than the entry, whose event is no longer known; or the
                // leader named the entry of another request.
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

    /// `refused_by` does not lead and will never take the request: forwards it to another leader.
    fn forward_again(&mut self, now: Now, ticket: Ticket, refused_by: PeerId) {
        let Some(request) = self.pending.take_forwarded(ticket) else {
            return;
        };
        let to = match self.destination() {
            Destination::Leader { to } => to.filter(|to| *to != refused_by),
            Destination::Here => None,
        };
        self.forward_until(now, ticket, to, request.op, request.due_us);
    }

    /// The link to a member closed: it replies to nothing that was sent to it.
    pub(super) fn give_up_forwarded_to(&mut self, to: PeerId) {
        for ticket in self.pending.forwarded_to(Some(to)) {
            self.leave(ticket, Ending::GivenUp);
        }
    }
}

/// The leader: takes requests, each once, and replies.
impl Replica {
    /// A follower forwards a command, or asks for a proof of leadership. A request is refused only
    /// if no copy of it can have been taken before.
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
        let is_new = self.forwarding.taken.entry(from).or_default().take(id);
        if !is_new && !self.raft.has(RaftFault::ForwardTwice) {
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
            None if self.raft.has(RaftFault::ForwardUnproven) => self.reply(from, id, Ok(Index(0))),
            None => self.start_proof(now, from, id),
        }
    }

    /// Appends the command of a follower's client.
    fn append_forwarded(&mut self, now: Now, body: &[u8]) -> Result<Index, Box<str>> {
        let command = command::decode(body).ok().filter(Command::is_write);
        let mut command = command.ok_or("not a write")?;
        if let Some(expires_ns) = command.expires_mut() {
            *expires_ns = expires_ns.saturating_add(now.wall_ns);
        }
        match self.append_write(now, command) {
            Ok((index, _)) => Ok(index),
            Err(Outcome::Failed(error)) => Err(error.cause),
            Err(_) => Err("".into()),
        }
    }

    /// Starts a read that proves to `from` that this machine leads.
    fn start_proof(&mut self, now: Now, from: PeerId, id: ForwardId) {
        let read_id = self.pending.next_read_id();
        match self.raft.read(now, read_id) {
            Ok(()) => {
                self.forwarding.proofs.insert(read_id, (from, id));
            }
            Err(_) => self.reply(from, id, Err(NOT_LEADING.into())),
        }
    }

    /// Raft has confirmed a read, with its read index, or failed it (`None`). No effect unless it
    /// proves something to a follower.
    pub(super) fn on_proof(&mut self, read_id: ReadId, read_index: Option<Index>) {
        if let Some((to, id)) = self.forwarding.proofs.remove(&read_id) {
            self.reply(to, id, read_index.ok_or_else(|| NOT_LEADING.into()));
        }
    }

    /// This machine stops serving: refuses the proofs that followers wait for.
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
        self.effects.send.push((to, Message { term, rpc }));
    }
}

/// A command for the leader: its expiration counts from now.
fn encode_relative(now: Now, mut command: Command) -> Box<[u8]> {
    if let Some(expires_ns) = command.expires_mut() {
        *expires_ns = expires_ns.saturating_sub(now.wall_ns);
    }
    let mut body = Vec::new();
    command::encode(&command, &mut body);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(processes: &mut Processes, process: u64, number: u64) -> bool {
        processes.take(ForwardId { process, number })
    }

    #[test]
    fn each_number_of_a_process_is_taken_once() {
        let mut processes = Processes::default();
        for number in [1, 3, 2] {
            assert!(take(&mut processes, 7, number));
        }
        for number in [1, 2, 3] {
            assert!(!take(&mut processes, 7, number));
        }
        assert!(take(&mut processes, 7, 66));
        assert!(take(&mut processes, 7, 4));
        assert!(!take(&mut processes, 7, 2), "below the window");
        assert!(take(&mut processes, 7, 200));
        assert!(take(&mut processes, 7, 137));
        assert!(!take(&mut processes, 7, 136), "below the window");
    }

    #[test]
    fn processes_have_numbers_of_their_own() {
        let mut processes = Processes::default();
        assert!(take(&mut processes, 7, 200));
        assert!(take(&mut processes, 8, 1));
        assert!(take(&mut processes, 8, u64::MAX));
        // A late message of the former process.
        assert!(take(&mut processes, 7, 199));
        assert!(!take(&mut processes, 7, 200));
        assert!(!take(&mut processes, 8, u64::MAX));
    }

    #[test]
    fn the_processes_of_a_member_are_bounded() {
        let mut processes = Processes::default();
        for process in 9..100 {
            assert!(take(&mut processes, process, 1));
            assert!(!take(&mut processes, process, 1));
        }
        assert_eq!(processes.0.len(), PROCESSES_MAX);
    }
}
