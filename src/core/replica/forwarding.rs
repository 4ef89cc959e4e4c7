//! `-forward`: a follower passes what its clients ask for on to the leader, and answers once it has
//! applied it itself.
//!
//! The follower says which command (its expiration counts from now, so that the leader's clock
//! decides), or that it wants to read. The leader appends the command, or proves that it leads, and
//! tells the index; from there on the follower treats the request as its own: it is parked, or
//! answered when that index is applied. One hop, and never sent again but when it was refused;
//! where links lose or repeat messages the leader still takes each request once. While nobody
//! leads, or who does is handing over, requests are held for the next leader. Start with
//! `Replica::pass_on`.
use super::Replica;
use super::pending::{Asker, PROPOSAL_US_MAX};
use super::reads::Reader;
use crate::core::command::{self, Command};
use crate::core::error::{Code, Error, OUTCOME_UNKNOWN};
use crate::core::raft::fault::RaftFault;
use crate::core::raft::{Index, Message, PeerId, RaftRole, Rpc, Term};
use crate::core::seam::{Op, Outcome, Ticket};
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Requests that may be on their way to the leader at a time, and bytes of their commands; one
/// alone may be longer. Beyond that they are refused. The link's queue has room for twice as much.
const REQUESTS_MAX: usize = 16_384;
const BYTES_MAX: usize = 4 << 20;

/// So many processes of one member are remembered.
const PROCESSES_MAX: usize = 4;

/// The cause for a follower whose request another leader may take.
pub const NOT_LEADING: &str = "not leading";

/// A client's request that the leader has not answered yet.
struct Passed {
    ticket: Ticket,
    /// The leader it was sent to; `NONE`: it is held until there is one.
    to: PeerId,
    /// A write, or what is done once the leader has proved that it leads.
    op: Op,
    bytes: usize,
    due_us: u64,
}

/// The numbers taken from one process lately: the highest, and which of the 64 below and with it
/// (as in RFC 4303, 3.4.3).
#[derive(Default)]
struct Taken {
    process: u64,
    highest: u64,
    mask: u64,
}

/// The last processes of one member, the newest last. Their numbers are random, so that one that
/// comes late cannot be told from one that has just begun: what is known of the others must not go
/// with it.
#[derive(Default)]
struct Processes(VecDeque<Taken>);

impl Processes {
    /// Takes a number of a process; false when it was taken before, or is too old to tell.
    fn take(&mut self, process: u64, number: u64) -> bool {
        if let Some(taken) = self.0.iter_mut().find(|t| t.process == process) {
            return taken.take(number);
        }
        if self.0.len() == PROCESSES_MAX {
            self.0.pop_front();
        }
        let mut taken = Taken {
            process,
            ..Taken::default()
        };
        let fresh = taken.take(number);
        self.0.push_back(taken);
        fresh
    }
}

impl Taken {
    fn take(&mut self, number: u64) -> bool {
        if number > self.highest {
            let up = number - self.highest;
            self.mask = if up < 64 { self.mask << up } else { 0 };
            self.highest = number;
        }
        let behind = self.highest - number;
        let bit = if behind < 64 {
            1 << behind
        } else {
            return false;
        };
        let fresh = self.mask & bit == 0;
        self.mask |= bit;
        fresh
    }
}

/// What is passed on, and what was taken from others.
pub struct Forwarding {
    /// A random number of this process: the answers to a former one with the same id are not this
    /// one's.
    process: u64,
    /// Of the last request.
    number: u64,
    /// By number, which is nearly the order of deadlines: what was held before it was sent comes a
    /// little late.
    passed: BTreeMap<u64, Passed>,
    bytes: usize,
    /// One for each member that has asked.
    taken: BTreeMap<PeerId, Processes>,
    /// What came in this term or an earlier one may have been taken by a former process.
    born: Term,
}

impl Forwarding {
    pub fn new(process: u64, born: Term) -> Forwarding {
        Forwarding {
            process,
            number: 0,
            passed: BTreeMap::new(),
            bytes: 0,
            taken: BTreeMap::new(),
            born,
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        let longer = self.bytes + bytes > BYTES_MAX && self.bytes > 0;
        longer || self.passed.len() >= REQUESTS_MAX
    }

    fn insert(&mut self, passed: Passed) -> u64 {
        self.number += 1;
        self.bytes += passed.bytes;
        self.passed.insert(self.number, passed);
        self.number
    }

    fn remove(&mut self, number: u64) -> Option<Passed> {
        let passed = self.passed.remove(&number)?;
        self.bytes -= passed.bytes;
        Some(passed)
    }

    pub fn is_empty(&self) -> bool {
        self.passed.is_empty()
    }

    pub fn next_deadline(&self) -> u64 {
        self.passed
            .first_key_value()
            .map_or(u64::MAX, |(_, p)| p.due_us)
    }

    /// The client went away; what was sent is carried out without an answer.
    pub fn forget(&mut self, ticket: Ticket) {
        let found = self.passed.iter().find(|(_, p)| p.ticket == ticket);
        found
            .map(|(number, _)| *number)
            .and_then(|number| self.remove(number));
    }

    pub fn check_invariants(&self) {
        assert!(
            self.passed.len() <= REQUESTS_MAX,
            "what is on its way is bounded"
        );
        assert!(
            self.bytes <= BYTES_MAX || self.passed.values().filter(|p| p.bytes > 0).count() == 1
        );
    }
}

// -- on the follower
impl Replica {
    /// The leader, if this machine passes on what only that can do; `NONE` while nobody leads.
    pub(super) fn leader_to_ask(&self) -> Option<PeerId> {
        let leader = self.raft.leader().unwrap_or(PeerId::NONE);
        (self.settings.forward && leader != self.raft.id() && self.has_joined()).then_some(leader)
    }

    /// Sends a write to the leader, or asks for a proof and does `op` once it is there. What finds
    /// no leader is held.
    pub(super) fn pass_on(&mut self, now: Now, ticket: Ticket, to: PeerId, op: Op) {
        self.pass(
            now,
            Passed {
                ticket,
                to,
                op,
                bytes: 0,
                due_us: now.mono_us + PROPOSAL_US_MAX,
            },
        );
    }

    fn pass(&mut self, now: Now, mut passed: Passed) {
        let command = match &passed.op {
            Op::Write(command) => Some(encoded(now, command.clone())),
            _ => None,
        };
        passed.bytes = command.as_ref().map_or(0, |c| c.len());
        if self.forwarding.is_full(passed.bytes) {
            return self.refuse_passed(passed, "");
        }
        let (to, process) = (passed.to, self.forwarding.process);
        let number = self.forwarding.insert(passed);
        if to != PeerId::NONE {
            let rpc = Rpc::Forward {
                process,
                number,
                command,
            };
            self.effects.send.push((
                to,
                Message {
                    term: self.raft.term(),
                    rpc,
                },
            ));
        }
    }

    /// There is another leader: it gets what was held.
    pub(super) fn pass_held(&mut self, now: Now) {
        if self.raft.leader().is_none() {
            return;
        }
        let held = self
            .forwarding
            .passed
            .iter()
            .filter(|(_, p)| p.to == PeerId::NONE);
        let held: Vec<u64> = held.map(|(number, _)| *number).collect();
        for number in held {
            let passed = self.forwarding.remove(number).expect("listed above");
            match (self.leader_to_ask(), passed.op) {
                (Some(to), op) => self.pass(now, Passed { to, op, ..passed }),
                (None, Op::Write(command)) => self.write(now, passed.ticket, command),
                (None, op) => self.read(now, passed.ticket, op),
            }
        }
    }

    /// Tells a client that nothing comes of it: of a read nothing more can be said than that there
    /// is no leader.
    fn refuse_passed(&mut self, passed: Passed, cause: &str) {
        let error = match passed.op {
            Op::Write(_) if self.raft.has(RaftFault::ForwardDenied) => {
                Error::new(Code::RaftInternal, "")
            }
            // It is not under way anywhere.
            Op::Write(_) if passed.to == PeerId::NONE => Error::new(Code::RaftInternal, ""),
            Op::Write(_) => Error::new(Code::RaftInternal, cause),
            _ => Error::new(Code::LeaderElect, ""),
        };
        self.answer(passed.ticket, Outcome::Failed(error));
    }

    /// The leader has answered: in this term at this index, or not.
    fn on_forwarded(
        &mut self,
        now: Now,
        from: PeerId,
        term: Term,
        number: u64,
        answer: Result<Index, Box<str>>,
    ) {
        if self
            .forwarding
            .passed
            .get(&number)
            .is_none_or(|p| p.to != from)
        {
            return;
        }
        let passed = self.forwarding.remove(number).expect("looked at above");
        match (answer, passed.op) {
            // Whom it was sent to has not taken it, and never will.
            (Err(cause), op) if *cause == *NOT_LEADING => {
                let to = self
                    .leader_to_ask()
                    .filter(|to| *to != from)
                    .unwrap_or(PeerId::NONE);
                self.pass(now, Passed { op, to, ..passed });
            }
            (Err(cause), op) => self.refuse_passed(Passed { op, ..passed }, &cause),
            // It came after the entry: what that did is not known any more.
            (Ok(index), op @ Op::Write(_)) if index <= self.applied => {
                self.refuse_passed(Passed { op, ..passed }, OUTCOME_UNKNOWN)
            }
            (Ok(index), Op::Write(_)) => {
                self.parked
                    .push(passed.due_us, index, term, Asker::Write(passed.ticket))
            }
            (Ok(index), op) => self.wait_to_read(
                Reader::Client(passed.ticket, op),
                Some(index),
                passed.due_us,
            ),
        }
    }

    /// Nobody will answer what was sent to this machine, or to any.
    pub(super) fn lose_passed(&mut self, to: Option<PeerId>) {
        let lost = self
            .forwarding
            .passed
            .iter()
            .filter(|(_, p)| to.is_none_or(|to| p.to == to));
        let lost: Vec<u64> = lost.map(|(number, _)| *number).collect();
        for number in lost {
            let passed = self.forwarding.remove(number).expect("listed above");
            self.refuse_passed(passed, OUTCOME_UNKNOWN);
        }
    }

    pub(super) fn expire_passed(&mut self, now: Now) {
        while self.forwarding.next_deadline() <= now.mono_us {
            let (number, _) = self
                .forwarding
                .passed
                .first_key_value()
                .expect("it has a deadline");
            let passed = self.forwarding.remove(*number).expect("looked at above");
            self.refuse_passed(passed, OUTCOME_UNKNOWN);
        }
    }
}

/// A command for the leader: its expiration counts from now.
fn encoded(now: Now, mut command: Command) -> Box<[u8]> {
    if let Some(expires_ns) = command.expires_mut() {
        *expires_ns = expires_ns.saturating_sub(now.wall_ns);
    }
    let mut body = Vec::new();
    command::encode(&command, &mut body);
    body.into()
}

// -- on the leader
impl Replica {
    /// What replicas say to each other; everything else is raft's.
    pub(super) fn on_passed(&mut self, now: Now, from: PeerId, message: Message) {
        let term = message.term;
        match message.rpc {
            Rpc::Forward {
                process,
                number,
                command,
            } => self.on_forward(now, from, term, (process, number), command),
            Rpc::Forwarded {
                process,
                number,
                answer,
            } if process == self.forwarding.process => {
                self.on_forwarded(now, from, term, number, answer);
            }
            Rpc::Forwarded { .. } => {}
            rpc => self.raft.on_message(now, from, Message { term, rpc }),
        }
    }

    /// A follower asks. It may be refused only if no copy of its request can have been taken
    /// before.
    fn on_forward(
        &mut self,
        now: Now,
        from: PeerId,
        term: Term,
        id: (u64, u64),
        command: Option<Box<[u8]>>,
    ) {
        if self.raft.configuration().get(from).is_none() {
            return;
        }
        let fresh = self
            .forwarding
            .taken
            .entry(from)
            .or_default()
            .take(id.0, id.1);
        if !fresh && !self.raft.has(RaftFault::ForwardTwice) {
            return;
        }
        if term <= self.forwarding.born || term > self.raft.term() {
            return self.reply(from, id, Err(OUTCOME_UNKNOWN.into()));
        }
        if term < self.raft.term() || self.raft.role() != RaftRole::Leader {
            return self.reply(from, id, Err(NOT_LEADING.into()));
        }
        match command {
            Some(_) if self.raft.is_handing_over() => self.reply(from, id, Err(NOT_LEADING.into())),
            None if self.raft.has(RaftFault::ForwardUnproven) => self.reply(from, id, Ok(Index(0))),
            None => self.prove(now, Reader::Member(from, id)),
            Some(body) => {
                let answer = self.append_for(now, &body);
                self.reply(from, id, answer);
            }
        }
    }

    /// Appends what a client of a follower wants to write.
    fn append_for(&mut self, now: Now, body: &[u8]) -> Result<Index, Box<str>> {
        let command = command::decode(body).ok().filter(Command::is_write);
        let mut command = command.ok_or("not a write")?;
        if let Some(expires_ns) = command.expires_mut() {
            *expires_ns = expires_ns.saturating_add(now.wall_ns);
        }
        match self.append_write(now, &command) {
            Ok((index, _)) => Ok(index),
            Err(Outcome::Failed(error)) => Err(error.cause),
            Err(_) => Err("".into()),
        }
    }

    /// Answers who has passed a request on.
    pub(super) fn reply(
        &mut self,
        to: PeerId,
        (process, number): (u64, u64),
        answer: Result<Index, Box<str>>,
    ) {
        let rpc = Rpc::Forwarded {
            process,
            number,
            answer,
        };
        self.effects.send.push((
            to,
            Message {
                term: self.raft.term(),
                rpc,
            },
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_a_process_is_taken_once() {
        let mut processes = Processes::default();
        let mut take = |process, number| processes.take(process, number);
        assert!(take(7, 1) && !take(7, 1));
        assert!(take(7, 3) && take(7, 2) && !take(7, 2) && !take(7, 3));
        assert!(
            take(7, 66) && !take(7, 3) && take(7, 4) && !take(7, 2),
            "2 is too old to tell"
        );
        assert!(take(7, 200) && take(7, 137) && !take(7, 136));
        assert!(take(8, 1) && !take(8, 1), "another process counts anew");
        assert!(take(8, u64::MAX) && !take(8, u64::MAX));
        assert!(
            !take(7, 200) && take(7, 199),
            "a late message of the former one"
        );
        assert!(
            !take(8, u64::MAX),
            "which makes nothing forgotten of this one"
        );
        assert!((9..100).all(|process| take(process, 1) && !take(process, 1)));
        assert_eq!(processes.0.len(), PROCESSES_MAX);
    }
}
