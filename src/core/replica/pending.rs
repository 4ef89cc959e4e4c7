//! The table of pending requests: one row for each ticket, with at most one deadline.
//!
//! A row says what its ticket waits for ([`Waiting`]). Beside the table stand indexes, by which an
//! event finds its tickets: an applied entry its proposals, a confirmed read its ticket, a reply of
//! the leader the forwarded request. Only this file changes table and indexes, so they cannot
//! disagree.
//!
//! A row enters by the `add_…` of its kind and leaves by [`Pending::take`]. `Replica::leave` ends a
//! request: it takes the ticket, frees what the row held in the store, and answers the client. The
//! other callers of `take` either turn the wait into another kind, or answer with an event.
//!
//! The number of client connections bounds the table. A speed test has one row, and its window
//! bounds its entries in the index of proposals.
//!
//! Start with [`Waiting`], [`Pending::take`] and `Replica::leave`.
use super::Replica;
use super::listings::{OpenListing, listing_given_up};
use super::speed_test::SpeedTest;
use crate::core::error::{Code, DISK_FULL, Error, OUTCOME_UNKNOWN};
use crate::core::public_id::PublicId;
use crate::core::raft::{Index, PeerId, ReadId, Term};
use crate::core::seam::{Join, Op, Outcome, Ticket};
use crate::core::store::WatcherId;
use crate::core::timer::{Now, TimerHandle, TimerWheel};
use std::collections::{BTreeMap, VecDeque};

/// How long a request that changes the key space or the cluster, or that is forwarded, may wait for
/// its result, in microseconds.
pub const PROPOSAL_US_MAX: u64 = 5_000_000;

/// What a ticket waits for. The large kinds are boxed, so that the rows of proposals, the most
/// frequent kind, stay small.
#[derive(Debug)]
pub enum Waiting {
    /// For its log entry to be applied. If the entry applied at `index` has another term, the
    /// proposal was not committed.
    Proposal {
        /// Where the entry was appended.
        index: Index,
        /// The term in which it was appended.
        term: Term,
    },
    /// For raft to accept a change of membership: it takes one at a time.
    MemberChange(Box<MemberChange>),
    /// For the confirmation of a leader, and then for the read index to be applied.
    Read {
        /// Identifies the read to raft.
        id: ReadId,
        /// The plain (not linearizable) read that is carried out at the end.
        op: Box<Op>,
    },
    /// For the client to take a page, or for the store to freeze the key space.
    Listing(Box<OpenListing>),
    /// For events. The id of the watcher in the store is the ticket's number.
    Watch,
    /// For the leader, to which the request is forwarded.
    Forwarded(Box<Forwarded>),
    /// For the sets of a speed test.
    SpeedTest(Box<SpeedTest>),
}

/// A requested change of membership.
#[derive(Clone, Debug)]
pub enum MemberChange {
    /// A machine joins, or announces other addresses.
    Join(Join),
    /// A machine is removed.
    Remove {
        /// Its name.
        name: Box<str>,
        /// It is not admitted again with the data directory that it has.
        for_good: bool,
    },
    /// A machine that has not started is admitted.
    Add {
        /// Its peer URLs.
        peer_urls: Vec<Box<str>>,
    },
    /// A member is to be found at another address.
    Move {
        /// The member.
        id: PublicId,
        /// Its new peer URLs.
        peer_urls: Vec<Box<str>>,
    },
    /// The member with this id is removed.
    RemoveById(PublicId),
}

/// A forwarded request without a reply yet.
#[derive(Debug)]
pub struct Forwarded {
    /// Its place among the held requests, in the order in which they came. It keeps it, however often
    /// it is sent and held again.
    pub place: u64,
    /// Where it was sent; `None` while it is held until a leader takes requests.
    pub sent: Option<SentTo>,
    /// A write, or a read that is carried out here once the leader has proved that it leads.
    pub op: Op,
    /// The length of the encoded command; 0 for a read.
    pub bytes: usize,
    /// The deadline in microseconds of the monotonic clock. It stays when the request is sent
    /// again.
    pub due_us: u64,
    /// The cause that the client is told if it is still held at the deadline; empty if no leader
    /// took requests.
    pub cause: &'static str,
}

/// Where a forwarded request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentTo {
    /// Identifies the request to the leader. Each sending has another one, except one over a new link
    /// to the same leader. So requests arrive in the order of their numbers: the leader drops a number
    /// that lies far below one that has arrived (`ReplayWindow`).
    pub number: u64,
    /// The leader.
    pub leader: PeerId,
    /// The term in which it was sent; the leader takes it in this term only.
    pub term: Term,
}

/// The purpose of a proposal, which decides the answer once the entry is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client's write: answered with its event.
    Write,
    /// A change of the cluster config: answered with the config.
    Config,
    /// A removal.
    Remove,
    /// A join: answered with the member's id.
    Join,
    /// The admission of a machine that has not started: answered with the member.
    MemberAdd,
    /// Another address of a member that has not started.
    MemberMove,
    /// One of the sets of a speed test.
    SpeedTest,
}

/// A log entry whose application a ticket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The ticket that waits.
    pub ticket: Ticket,
    /// Where the entry was appended.
    pub index: Index,
    /// The term in which it was appended.
    pub term: Term,
    /// Decides the answer.
    pub purpose: Purpose,
}

/// Why a ticket leaves the table.
#[derive(Debug)]
pub enum Ending {
    /// The request has a result, which is the answer.
    Answered(Outcome),
    /// The request gets no result: the deadline passed, the leadership or the link to the leader
    /// was lost, a snapshot replaced the log entry, or the machine stops serving.
    GivenUp,
    /// The client closed its connection. There is no answer; a proposal or a request that was sent to
    /// a leader is carried out nevertheless.
    ClientClosed,
}

/// One row of the table.
struct PendingEntry {
    waiting: Waiting,
    /// The timer of the deadline. `None` for a watch without a limit, and for a speed test without
    /// outstanding sets.
    timer: Option<TimerHandle>,
}

/// A row of the index of linearizable reads.
struct PendingRead {
    ticket: Ticket,
    /// The index that must be applied before the read; `None` until the leader is confirmed.
    read_index: Option<Index>,
    /// Its deadline, in microseconds of the monotonic clock.
    due_us: u64,
}

/// The table of pending requests.
#[derive(Default)]
pub struct Pending {
    entries: BTreeMap<Ticket, PendingEntry>,
    /// The deadlines of the rows. A timer is cancelled when its row leaves the table.
    timers: TimerWheel<Ticket>,
    /// The log entries that tickets wait for: those of `Waiting::Proposal` and the outstanding sets
    /// of speed tests. In order of index and term, so that the next entry to be applied is at the
    /// front. A new one goes to the end, except after a change of leadership.
    ///
    /// Invariant: all indexes are greater than the applied index.
    proposals: VecDeque<Proposal>,
    /// The reads, in the order in which they came.
    reads: BTreeMap<ReadId, PendingRead>,
    /// The last id given to a read; only rises.
    last_read: u64,
    /// The changes of membership, in the order in which they came.
    member_changes: VecDeque<Ticket>,
    /// The requests that were sent to a leader, by `SentTo::number`.
    sent: BTreeMap<u64, Ticket>,
    /// The sum of `Forwarded::bytes` over `sent`.
    sent_bytes: usize,
    /// The held requests, by `Forwarded::place`.
    held: BTreeMap<u64, Ticket>,
    /// The sum of `Forwarded::bytes` over `held`.
    held_bytes: usize,
    /// The last place given to a held request; only rises.
    last_place: u64,
    /// The speed tests, in the order in which they came.
    speed_tests: Vec<Ticket>,
}

impl Pending {
    /// Adds a row.
    ///
    /// # Panics
    ///
    /// If the ticket has a row already: a ticket is one request.
    fn add(&mut self, ticket: Ticket, due_us: Option<u64>, waiting: Waiting) {
        let timer = due_us.map(|due_us| self.timers.schedule(due_us, ticket));
        let entry = PendingEntry { waiting, timer };
        let previous = self.entries.insert(ticket, entry);
        assert!(previous.is_none(), "a ticket waits for one thing");
    }

    /// Removes the row of a ticket, with its timer and its places in the indexes. Returns `None` if
    /// the ticket has no row.
    pub fn take(&mut self, ticket: Ticket) -> Option<Waiting> {
        let entry = self.entries.remove(&ticket)?;
        if let Some(timer) = entry.timer {
            self.timers.cancel(timer);
        }
        match &entry.waiting {
            Waiting::Proposal { index, term } => self.remove_proposal(*index, *term),
            Waiting::MemberChange(_) => self.member_changes.retain(|other| *other != ticket),
            Waiting::Read { id, .. } => {
                self.reads.remove(id);
            }
            Waiting::Listing(_) | Waiting::Watch => {}
            Waiting::Forwarded(request) => {
                match request.sent {
                    Some(sent) => self.sent.remove(&sent.number),
                    None => self.held.remove(&request.place),
                };
                *self.bytes_like(request.sent) -= request.bytes;
            }
            Waiting::SpeedTest(test) => {
                for (index, term) in test.outstanding() {
                    self.remove_proposal(index, term);
                }
                self.speed_tests.retain(|other| *other != ticket);
            }
        }
        Some(entry.waiting)
    }

    /// What a ticket waits for; `None` if it has no row.
    pub fn get(&self, ticket: Ticket) -> Option<&Waiting> {
        let entry = self.entries.get(&ticket)?;
        Some(&entry.waiting)
    }

    /// All tickets of the table, by kind; first those that hold something in the store. The ticket
    /// of a speed test occurs several times, once for each of its outstanding sets.
    pub fn tickets(&self) -> Vec<Ticket> {
        let mut tickets = self.store_readers();
        tickets.extend(self.reads.values().map(|read| read.ticket));
        tickets.extend(self.proposals.iter().map(|proposal| proposal.ticket));
        tickets.extend(self.sent.values().chain(self.held.values()));
        tickets.extend(&self.member_changes);
        tickets.extend(&self.speed_tests);
        tickets
    }

    /// Whether no proposal and no forwarded request is pending.
    pub fn is_idle(&self) -> bool {
        self.proposals.is_empty() && self.forwarded_count() == 0
    }

    /// How many entries and forwarded requests are waited for.
    pub fn writes(&self) -> usize {
        self.proposals.len() + self.forwarded_count()
    }

    /// The earliest deadline in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Whether a deadline has passed.
    pub fn has_due(&mut self, now: Now) -> bool {
        self.timers.is_due(now.mono_us)
    }

    /// The tickets whose deadline has passed, in the order of deadlines. Their rows stay without a
    /// timer: the caller must take them before it adds any.
    pub fn expire(&mut self, now: Now) -> Vec<Ticket> {
        let mut due = Vec::new();
        self.timers.advance(now.mono_us, &mut due);
        due
    }

    /// Part of `Replica::check_invariants`; O(1). `applied` is the applied index.
    ///
    /// # Panics
    ///
    /// If an invariant is broken.
    pub fn check_invariants(&self, applied: Index) {
        let first = self.proposals.front();
        assert!(
            first.is_none_or(|proposal| proposal.index > applied),
            "a proposal whose entry is applied has left the table"
        );
        assert!(
            self.timers.len() <= self.entries.len(),
            "an entry has at most one timer"
        );
        assert!(
            self.forwarded_bytes() == 0 || self.forwarded_count() > 0,
            "the bytes of forwarded requests are released with them"
        );
    }
}

/// Proposals.
impl Pending {
    /// A ticket waits for its entry to be applied.
    pub fn add_proposal(&mut self, due_us: u64, proposal: Proposal) {
        let Proposal { index, term, .. } = proposal;
        let waiting = Waiting::Proposal { index, term };
        self.add(proposal.ticket, Some(due_us), waiting);
        self.insert_proposal(proposal);
    }

    /// The pending proposal of the latest term at this index. All earlier indexes must be applied.
    /// After a change of leadership there may be proposals of several terms at one index; at most
    /// one of them is committed.
    pub fn proposal_at(&self, index: Index) -> Option<Proposal> {
        let front = self.proposals.front()?;
        if front.index != index {
            return None;
        }
        let count = self.proposals.partition_point(|p| p.index <= index);
        Some(self.proposals[count - 1])
    }

    /// The tickets of the proposals up to `index`, in the order of the log. The ticket of a speed
    /// test occurs once for each of its sets.
    pub fn proposed_through(&self, index: Index) -> Vec<Ticket> {
        let through = self.proposals.iter().take_while(|p| p.index <= index);
        through.map(|proposal| proposal.ticket).collect()
    }

    /// The proposed writes of terms before `term`, in the order of the log.
    pub fn writes_before(&self, term: Term) -> Vec<Proposal> {
        let is_wanted = |p: &&Proposal| p.purpose == Purpose::Write && p.term < term;
        self.proposals.iter().filter(is_wanted).copied().collect()
    }

    /// Takes the row of a proposal. Returns its deadline in microseconds of the monotonic clock;
    /// `None` if the ticket does not belong to one.
    pub fn take_proposal(&mut self, ticket: Ticket) -> Option<u64> {
        let entry = self.entries.get(&ticket)?;
        let Waiting::Proposal { .. } = entry.waiting else {
            return None;
        };
        let due_us = self.timers.deadline(entry.timer?)?;
        self.take(ticket);
        Some(due_us)
    }

    fn insert_proposal(&mut self, proposal: Proposal) {
        match self.find_proposal(proposal.index, proposal.term) {
            Ok(_) => unreachable!("an entry is one request"),
            Err(at) => self.proposals.insert(at, proposal),
        }
    }

    fn remove_proposal(&mut self, index: Index, term: Term) {
        if let Ok(at) = self.find_proposal(index, term) {
            self.proposals.remove(at);
        }
    }

    /// The position of a proposal in the queue; `Err` with the position to insert it at.
    fn find_proposal(&self, index: Index, term: Term) -> Result<usize, usize> {
        let wanted = (index, term);
        let place = |proposal: &Proposal| (proposal.index, proposal.term);
        // Nearly always the first one is taken, and a new one is the last.
        match (self.proposals.front(), self.proposals.back()) {
            (Some(first), _) if place(first) == wanted => Ok(0),
            (_, Some(last)) if place(last) < wanted => Err(self.proposals.len()),
            _ => self.proposals.binary_search_by_key(&wanted, place),
        }
    }
}

/// Changes of membership.
impl Pending {
    /// A ticket waits until raft accepts its change.
    pub fn add_member_change(&mut self, ticket: Ticket, due_us: u64, change: MemberChange) {
        self.add(
            ticket,
            Some(due_us),
            Waiting::MemberChange(Box::new(change)),
        );
        self.member_changes.push_back(ticket);
    }

    /// Whether a change of membership waits.
    pub fn has_member_changes(&self) -> bool {
        !self.member_changes.is_empty()
    }

    /// The tickets of the pending changes, in the order in which they came.
    pub fn member_changes(&self) -> Vec<Ticket> {
        self.member_changes.iter().copied().collect()
    }
}

/// Linearizable reads.
impl Pending {
    /// A new id for a read. Ids rise with each call, so the order of ids is the order of reads.
    pub fn next_read_id(&mut self) -> ReadId {
        self.last_read += 1;
        ReadId(self.last_read)
    }

    /// A ticket waits for raft's confirmation that this machine leads.
    pub fn add_read(&mut self, ticket: Ticket, due_us: u64, id: ReadId, op: Op) {
        self.insert_read(ticket, due_us, id, op, None);
    }

    /// The leader of a read is confirmed: the ticket waits for `read_index` to be applied.
    pub fn add_confirmed_read(&mut self, ticket: Ticket, due_us: u64, op: Op, read_index: Index) {
        let id = self.next_read_id();
        self.insert_read(ticket, due_us, id, op, Some(read_index));
    }

    fn insert_read(
        &mut self,
        ticket: Ticket,
        due_us: u64,
        id: ReadId,
        op: Op,
        read_index: Option<Index>,
    ) {
        let op = Box::new(op);
        self.add(ticket, Some(due_us), Waiting::Read { id, op });
        let read = PendingRead {
            ticket,
            read_index,
            due_us,
        };
        self.reads.insert(id, read);
    }

    /// Raft has confirmed a read, with its read index. Returns whether the read is still pending.
    pub fn on_read_confirmed(&mut self, id: ReadId, read_index: Index) -> bool {
        let Some(read) = self.reads.get_mut(&id) else {
            return false;
        };
        read.read_index = Some(read_index);
        true
    }

    /// The ticket of a read and its deadline, if it is still pending.
    pub fn reader(&self, id: ReadId) -> Option<(Ticket, u64)> {
        self.reads.get(&id).map(|read| (read.ticket, read.due_us))
    }

    /// The ticket of the oldest read, if that is confirmed and its read index is applied.
    ///
    /// Reads are confirmed in the order in which they came, and their indexes rise: a later one is
    /// not ready before the oldest one.
    pub fn ready_read(&self, applied: Index) -> Option<Ticket> {
        let (_, oldest) = self.reads.first_key_value()?;
        let is_ready = oldest.read_index.is_some_and(|index| index <= applied);
        is_ready.then_some(oldest.ticket)
    }
}

/// Listings and watches.
impl Pending {
    /// A ticket waits for its client to ask for the next page.
    pub fn add_listing(&mut self, ticket: Ticket, listing: OpenListing) {
        let due_us = listing.due_us();
        self.add(ticket, Some(due_us), Waiting::Listing(Box::new(listing)));
    }

    /// Takes the row of a listing; `None` if the ticket does not belong to a listing.
    pub fn take_listing(&mut self, ticket: Ticket) -> Option<OpenListing> {
        if !matches!(self.get(ticket), Some(Waiting::Listing(_))) {
            return None;
        }
        let Some(Waiting::Listing(listing)) = self.take(ticket) else {
            unreachable!("looked at above");
        };
        Some(*listing)
    }

    /// The ticket of a listing.
    pub fn find_listing(&self, is_wanted: impl Fn(&OpenListing) -> bool) -> Option<Ticket> {
        let mut entries = self.entries.iter();
        let found = entries.find(|(_, entry)| match &entry.waiting {
            Waiting::Listing(listing) => is_wanted(listing),
            _ => false,
        });
        found.map(|(ticket, _)| *ticket)
    }

    /// A ticket waits for events, at the longest until `due_us`.
    pub fn add_watch(&mut self, ticket: Ticket, due_us: Option<u64>) {
        self.add(ticket, due_us, Waiting::Watch);
    }

    /// The tickets that hold something in the store: watches, then listings, each in the order of
    /// their numbers.
    pub fn store_readers(&self) -> Vec<Ticket> {
        let mut watches = Vec::new();
        let mut listings = Vec::new();
        for (ticket, entry) in &self.entries {
            match entry.waiting {
                Waiting::Watch => watches.push(*ticket),
                Waiting::Listing(_) => listings.push(*ticket),
                _ => {}
            }
        }
        watches.append(&mut listings);
        watches
    }
}

/// Forwarded requests.
impl Pending {
    /// The place behind all held requests.
    pub fn next_place(&mut self) -> u64 {
        self.last_place += 1;
        self.last_place
    }

    /// A ticket waits for the reply of the leader, or for a leader.
    pub fn add_forwarded(&mut self, ticket: Ticket, request: Forwarded) {
        match request.sent {
            Some(sent) => self.sent.insert(sent.number, ticket),
            None => self.held.insert(request.place, ticket),
        };
        *self.bytes_like(request.sent) += request.bytes;
        let due_us = Some(request.due_us);
        self.add(ticket, due_us, Waiting::Forwarded(Box::new(request)));
    }

    /// The sum in which a request counts that was sent there, or is held.
    fn bytes_like(&mut self, sent: Option<SentTo>) -> &mut usize {
        match sent {
            Some(_) => &mut self.sent_bytes,
            None => &mut self.held_bytes,
        }
    }

    /// The ticket of the request that was sent with this number, if it is still pending.
    pub fn sent_with(&self, number: u64) -> Option<Ticket> {
        self.sent.get(&number).copied()
    }

    /// Takes the row of a forwarded request; `None` if the ticket does not belong to one.
    pub fn take_forwarded(&mut self, ticket: Ticket) -> Option<Forwarded> {
        if !self.is_forwarded(ticket) {
            return None;
        }
        let Some(Waiting::Forwarded(request)) = self.take(ticket) else {
            unreachable!("looked at above");
        };
        Some(*request)
    }

    /// Whether the request of this ticket is forwarded or held.
    pub fn is_forwarded(&self, ticket: Ticket) -> bool {
        matches!(self.get(ticket), Some(Waiting::Forwarded(_)))
    }

    /// The forwarded request of a ticket.
    pub fn forwarded_of(&self, ticket: Ticket) -> Option<&Forwarded> {
        match self.get(ticket)? {
            Waiting::Forwarded(request) => Some(request),
            _ => None,
        }
    }

    /// Whether a request is held.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// The cause of the last held request; `None` if none is held.
    pub fn held_cause(&self) -> Option<&'static str> {
        let (_, ticket) = self.held.last_key_value()?;
        self.forwarded_of(*ticket).map(|request| request.cause)
    }

    /// The tickets of the held requests, in the order of their places.
    pub fn held(&self) -> Vec<Ticket> {
        self.held.values().copied().collect()
    }

    /// The tickets of the writes that were sent to a leader, in the order of their numbers.
    pub fn sent_writes(&self) -> Vec<(Ticket, SentTo)> {
        self.sent_requests(|op| matches!(op, Op::Write(_)))
    }

    /// The tickets of the reads that were sent to a leader, in the order of their numbers.
    pub fn sent_reads(&self) -> Vec<(Ticket, SentTo)> {
        self.sent_requests(|op| !matches!(op, Op::Write(_)))
    }

    fn sent_requests(&self, is_wanted: impl Fn(&Op) -> bool) -> Vec<(Ticket, SentTo)> {
        let mut found = Vec::new();
        for ticket in self.sent.values() {
            if let Some(request) = self.forwarded_of(*ticket)
                && let Some(sent) = request.sent
                && is_wanted(&request.op)
            {
                found.push((*ticket, sent));
            }
        }
        found
    }

    /// How many sent and held requests are pending.
    pub fn forwarded_count(&self) -> usize {
        self.sent.len() + self.held.len()
    }

    /// The encoded bytes of the commands that were sent.
    pub fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }

    /// The encoded bytes of all their commands.
    pub fn forwarded_bytes(&self) -> usize {
        self.sent_bytes + self.held_bytes
    }
}

/// Speed tests.
impl Pending {
    /// A ticket waits for a speed test, which has proposed no set yet.
    pub fn add_speed_test(&mut self, ticket: Ticket) {
        self.add(ticket, None, Waiting::SpeedTest(Box::default()));
        self.speed_tests.push(ticket);
    }

    /// The tickets of all speed tests, in the order in which they came.
    pub fn speed_tests(&self) -> Vec<Ticket> {
        self.speed_tests.clone()
    }

    /// Whether a speed test may propose another set now.
    pub fn has_speed_test_room(&self) -> bool {
        let mut tests = self.speed_tests.iter();
        tests.any(|ticket| self.speed_test(*ticket).is_some_and(SpeedTest::has_room))
    }

    /// The speed test of a ticket.
    pub fn speed_test(&self, ticket: Ticket) -> Option<&SpeedTest> {
        match self.get(ticket)? {
            Waiting::SpeedTest(test) => Some(test),
            _ => None,
        }
    }

    /// A speed test has proposed a set.
    pub fn add_speed_test_set(&mut self, now: Now, ticket: Ticket, index: Index, term: Term) {
        let purpose = Purpose::SpeedTest;
        let proposal = Proposal {
            ticket,
            index,
            term,
            purpose,
        };
        self.insert_proposal(proposal);
        let due_us = now.mono_us + PROPOSAL_US_MAX;
        self.update_speed_test(ticket, |test| test.on_proposed(index, term, due_us));
    }

    /// A set of a speed test was applied.
    pub fn on_speed_test_set(&mut self, proposal: Proposal) {
        self.remove_proposal(proposal.index, proposal.term);
        self.update_speed_test(proposal.ticket, SpeedTest::on_applied);
    }

    /// Applies `change` to a speed test, and moves its timer if the deadline has changed.
    fn update_speed_test(&mut self, ticket: Ticket, change: impl FnOnce(&mut SpeedTest)) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        let Waiting::SpeedTest(test) = &mut entry.waiting else {
            return;
        };
        let before_us = test.next_deadline();
        change(test);
        let due_us = test.next_deadline();
        if due_us == before_us {
            return;
        }
        if let Some(timer) = entry.timer.take() {
            self.timers.cancel(timer);
        }
        entry.timer = due_us.map(|due_us| self.timers.schedule(due_us, ticket));
    }
}

impl Replica {
    /// Ends a request: takes its row, frees what it holds in the store, and answers the client.
    /// Returns whether the ticket had a row.
    pub(super) fn leave(&mut self, ticket: Ticket, ending: Ending) -> bool {
        let Some(waiting) = self.pending.take(ticket) else {
            return false;
        };
        let has_client = !matches!(&waiting, Waiting::Listing(listing) if !listing.has_client());
        let is_closed = matches!(ending, Ending::ClientClosed);
        let outcome = match ending {
            Ending::Answered(outcome) => Some(outcome),
            Ending::GivenUp if has_client => Some(self.outcome_of_given_up(&waiting)),
            Ending::GivenUp | Ending::ClientClosed => None,
        };
        match waiting {
            Waiting::Listing(listing) if is_closed => self.orphan_listing(ticket, *listing),
            Waiting::Listing(listing) => self.store.end_listing(listing.into_cursor()),
            Waiting::Watch => self.store.unwatch(WatcherId(ticket.0)),
            _ => {}
        }
        if let Some(outcome) = outcome {
            self.answer(ticket, outcome);
        }
        true
    }

    /// A listing has lost its client: keeps its moment for the next one, or ends it.
    pub(super) fn orphan_listing(&mut self, ticket: Ticket, listing: OpenListing) {
        match listing.orphaned() {
            Ok(orphan) => {
                // At most one listing without a client: each keeps in memory all changes since its
                // moment.
                if let Some(former) = self.pending.find_listing(|l| !l.has_client()) {
                    self.leave(former, Ending::GivenUp);
                }
                self.pending.add_listing(ticket, orphan);
            }
            Err(cursor) => self.store.end_listing(cursor),
        }
    }

    /// Ends a request with its result.
    pub(super) fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        self.leave(ticket, Ending::Answered(outcome));
    }

    /// The answer to a request that gets no result (`Ending::GivenUp`).
    fn outcome_of_given_up(&self, waiting: &Waiting) -> Outcome {
        match waiting {
            Waiting::Proposal { .. } | Waiting::SpeedTest(_) => {
                Outcome::Failed(Error::new(Code::RaftInternal, OUTCOME_UNKNOWN))
            }
            Waiting::MemberChange(_) => self.redirect_or_fail(),
            Waiting::Read { .. } => {
                let cause = if self.lacks_room() { DISK_FULL } else { "" };
                Outcome::Failed(Error::new(Code::LeaderElect, cause))
            }
            Waiting::Listing(_) => listing_given_up(),
            Waiting::Watch => Outcome::WatchEnd,
            Waiting::Forwarded(request) => self.outcome_of_given_up_forward(request),
        }
    }

    /// Gives up the requests whose deadline has passed, after everything that ends requests with a
    /// result: reads that are ready are served, and events that were applied in this turn are
    /// delivered. A row of a watcher must not be removed while an event for it is queued in the
    /// store, and a request that gets its result, or a new row with a new deadline, is not due.
    pub(super) fn expire_pending(&mut self, now: Now) {
        if !self.pending.has_due(now) {
            return;
        }
        self.serve_ready_reads(now);
        self.deliver_events();
        for ticket in self.pending.expire(now) {
            let is_watch = matches!(self.pending.get(ticket), Some(Waiting::Watch));
            self.leave(
                ticket,
                if is_watch {
                    Ending::Answered(Outcome::WatchTimedOut)
                } else {
                    Ending::GivenUp
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::KeyPath;

    const MIGRATE: Op = Op::Migrate {
        moment: None,
        keeps_moment: false,
    };

    fn at(mono_us: u64) -> Now {
        let wall_ns = 0;
        Now { mono_us, wall_ns }
    }

    fn proposal(ticket: u64, index: u64, term: u64) -> Proposal {
        Proposal {
            ticket: Ticket(ticket),
            index: Index(index),
            term: Term(term),
            purpose: Purpose::Write,
        }
    }

    fn forwarded(number: u64, to: Option<u64>) -> Forwarded {
        let path = KeyPath::new("/a");
        let sent = |id| SentTo {
            number,
            leader: PeerId(id),
            term: Term(1),
        };
        Forwarded {
            place: number,
            sent: to.map(sent),
            op: Op::Get {
                path,
                recursive: false,
                linearizable: false,
            },
            bytes: 10,
            due_us: 70,
            cause: "",
        }
    }

    fn assert_empty(pending: &Pending) {
        assert!(pending.entries.is_empty());
        assert!(pending.timers.is_empty());
        assert!(pending.proposals.is_empty());
        assert!(pending.reads.is_empty());
        assert!(pending.member_changes.is_empty());
        assert!(pending.sent.is_empty() && pending.held.is_empty());
        assert_eq!((pending.sent_bytes, pending.held_bytes), (0, 0));
        assert!(pending.speed_tests.is_empty());
    }

    #[test]
    fn a_ticket_that_is_taken_leaves_all_indexes() {
        let mut pending = Pending::default();
        pending.add_proposal(50, proposal(1, 8, 2));
        let change = MemberChange::RemoveById(PublicId::of_cluster(1));
        pending.add_member_change(Ticket(2), 50, change);
        let id = pending.next_read_id();
        pending.add_read(Ticket(3), 70, id, MIGRATE);
        pending.add_confirmed_read(Ticket(4), 60, MIGRATE, Index(8));
        pending.add_watch(Ticket(5), None);
        pending.add_forwarded(Ticket(6), forwarded(1, Some(2)));
        pending.add_speed_test(Ticket(7));
        pending.add_speed_test_set(at(0), Ticket(7), Index(9), Term(2));
        for ticket in pending.tickets() {
            pending.take(ticket);
        }
        assert_empty(&pending);
    }

    #[test]
    fn of_several_proposals_at_an_index_the_latest_comes_first() {
        let mut pending = Pending::default();
        pending.add_proposal(50, proposal(1, 8, 3));
        pending.add_proposal(60, proposal(2, 8, 2));
        pending.add_proposal(70, proposal(3, 9, 3));
        assert_eq!(pending.proposal_at(Index(7)), None);
        assert_eq!(pending.proposal_at(Index(8)), Some(proposal(1, 8, 3)));
        pending.take(Ticket(1));
        assert_eq!(pending.proposal_at(Index(8)), Some(proposal(2, 8, 2)));
        assert_eq!(pending.proposed_through(Index(8)), [Ticket(2)]);
    }

    #[test]
    fn deadlines_pass_in_their_order() {
        let mut pending = Pending::default();
        pending.add_forwarded(Ticket(1), forwarded(1, None));
        pending.add_proposal(50, proposal(2, 8, 2));
        pending.add_watch(Ticket(3), None);
        assert_eq!(pending.next_deadline(), Some(50));
        assert_eq!(pending.expire(at(49)), []);
        assert_eq!(pending.expire(at(70)), [Ticket(2), Ticket(1)]);
        assert_eq!(pending.next_deadline(), None);
    }

    #[test]
    fn a_speed_test_has_the_deadline_of_its_oldest_set() {
        let mut pending = Pending::default();
        let ticket = Ticket(1);
        pending.add_speed_test(ticket);
        assert_eq!(pending.next_deadline(), None);
        pending.add_speed_test_set(at(5), ticket, Index(8), Term(2));
        pending.add_speed_test_set(at(7), ticket, Index(9), Term(2));
        assert_eq!(pending.next_deadline(), Some(5 + PROPOSAL_US_MAX));
        let first = pending.proposal_at(Index(8)).expect("it was added");
        pending.on_speed_test_set(first);
        assert_eq!(pending.next_deadline(), Some(7 + PROPOSAL_US_MAX));
    }

    #[test]
    fn held_requests_are_those_sent_to_no_leader() {
        let mut pending = Pending::default();
        pending.add_forwarded(Ticket(1), forwarded(1, Some(2)));
        pending.add_forwarded(Ticket(2), forwarded(2, None));
        pending.add_forwarded(Ticket(3), forwarded(3, Some(3)));
        assert_eq!(pending.held(), [Ticket(2)]);
        let sent: Vec<Ticket> = pending.sent_reads().iter().map(|sent| sent.0).collect();
        assert_eq!(sent, [Ticket(1), Ticket(3)]);
        assert_eq!(pending.sent_writes(), []);
        assert!(pending.take_forwarded(Ticket(1)).is_some());
        assert_eq!(pending.forwarded_count(), 2);
        assert_eq!(pending.forwarded_bytes(), 20);
    }
}
