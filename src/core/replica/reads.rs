//! Clients that read: listings a page at a time, linearizable reads, watchers.
//!
//! What a ticket holds (a watcher, a cursor over a frozen key space, a read that waits for its
//! round) is kept here and freed by `forget`. Start with `Replica::list`, then `Replica::read` and
//! `Replica::watch`.
use super::Replica;
use super::forwarding::NOT_LEADING;
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::raft::{Index, PeerId, ProposalRefusal, ReadId};
use crate::core::seam::{Delivery, Migrated, Op, Outcome, Ticket};
use crate::core::store::{Listing, Page, WatchReply, WatcherId};
use crate::core::timer::Now;
use std::collections::{BTreeMap, VecDeque};

/// Nodes in one page: what a turn has time for.
const PAGE_NODES_MAX: usize = 1_000;
/// How long a listing may hold the key space frozen, or wait for that.
const LISTING_US_MAX: u64 = 60_000_000;

/// Who waits for a proof that this machine leads, or led.
pub enum Reader {
    /// A client: what is done then.
    Client(Ticket, Op),
    /// A follower, which has passed a request with these numbers on.
    Member(PeerId, (u64, u64)),
}

/// A linearizable read on its way.
struct Read {
    id: ReadId,
    reader: Reader,
    /// Once the round is answered: the index that must be applied first.
    at: Option<Index>,
    /// `u64::MAX` for one that ends with this machine's leadership.
    due_us: u64,
}

/// A listing that is not done.
struct Open {
    listing: Listing,
    due_us: u64,
    /// The raft index of its first page.
    raft: Index,
    /// Its client has asked for a page that could not be had yet.
    wanted: bool,
    /// For the migration document, which wants the history after the last page.
    migrate: bool,
    done: bool,
}

/// What readers hold. Bounded by the number of connections.
#[derive(Default)]
pub struct Readers {
    /// Whether the watcher is a stream.
    watchers: BTreeMap<Ticket, bool>,
    open: BTreeMap<Ticket, Open>,
    /// In the order of their ids.
    reads: VecDeque<Read>,
    last_read: u64,
}

impl Readers {
    /// When the next listing or read is given up.
    pub fn next_deadline(&self) -> u64 {
        let open = self.open.values().map(|o| o.due_us);
        let reads = self.reads.iter().map(|r| r.due_us);
        open.chain(reads).min().unwrap_or(u64::MAX)
    }

    pub fn check_invariants(&self) {
        let (watchers, open) = (&self.watchers, &self.open);
        assert!(
            !open.keys().any(|t| watchers.contains_key(t)),
            "a ticket holds one thing"
        );
    }
}

// -- listings
impl Replica {
    /// Reads from what is applied here.
    pub fn list(&mut self, now: Now, ticket: Ticket, path: &KeyPath, recursive: bool) {
        match self.store.get(path, recursive) {
            Ok(listing) => self.next_page(now, ticket, Open::new(now, listing, false)),
            Err(error) => self.answer(ticket, Outcome::Failed(error)),
        }
    }

    /// Begins to list everything, for the migration document.
    pub fn migrate(&mut self, now: Now, ticket: Ticket) {
        let listing = self.store.get_all();
        self.next_page(now, ticket, Open::new(now, listing, true));
    }

    /// The client has taken what it was given and asks for more.
    pub fn more(&mut self, now: Now, ticket: Ticket) {
        if let Some(open) = self.readers.open.remove(&ticket) {
            self.next_page(now, ticket, open);
        } else if self.readers.watchers.contains_key(&ticket) {
            let found = self.store.backlog(WatcherId(ticket.0));
            self.tell_backlog(ticket, found);
        }
    }

    fn next_page(&mut self, now: Now, ticket: Ticket, mut open: Open) {
        if open.done {
            return self.finish_migration(ticket, open);
        }
        let mut items = Vec::new();
        let page = self
            .store
            .page(&mut open.listing, PAGE_NODES_MAX, &mut items);
        match page {
            Page::Done if !open.migrate => {
                self.answer(ticket, Outcome::Page { items, last: true });
            }
            Page::Done | Page::More => {
                open.done = page == Page::Done;
                open.wanted = false;
                if open.raft == Index(0) {
                    (open.raft, open.due_us) = (self.applied, now.mono_us + LISTING_US_MAX);
                }
                let last = open.done;
                self.readers.open.insert(ticket, open);
                self.answer(ticket, Outcome::Page { items, last });
            }
            Page::Wait => {
                open.wanted = true;
                self.readers.open.insert(ticket, open);
            }
            Page::Failed(error) => self.answer(ticket, Outcome::Failed(error)),
            Page::GivenUp => self.answer(ticket, given_up()),
        }
    }

    fn finish_migration(&mut self, ticket: Ticket, open: Open) {
        let history = self.store.history(&open.listing);
        self.store.end(open.listing);
        let Some((events, etcd, stats)) = history else {
            return self.answer(ticket, given_up());
        };
        let capacity = self.settings.history_events;
        let rest = Migrated {
            etcd,
            raft: open.raft,
            events,
            capacity,
            stats,
        };
        self.answer(ticket, Outcome::Migrated(Box::new(rest)));
    }

    /// Goes on with listings that waited for the key space, and gives up those that took too long.
    /// What one of them lets go of another may have been waiting for.
    pub(super) fn serve_listings(&mut self, now: Now) {
        while !self.readers.open.is_empty() && self.serve_waiting(now) {}
    }

    /// Whether any got on.
    fn serve_waiting(&mut self, now: Now) -> bool {
        let open = self.readers.open.iter();
        let due = open.filter(|(_, o)| o.wanted || o.due_us <= now.mono_us);
        let due: Vec<Ticket> = due.map(|(ticket, _)| *ticket).collect();
        let mut served = false;
        for ticket in due {
            let open = self.readers.open.remove(&ticket).expect("listed above");
            if open.due_us <= now.mono_us {
                self.store.end(open.listing);
                self.answer(ticket, given_up());
            } else {
                self.next_page(now, ticket, open);
            }
            let waits = self.readers.open.get(&ticket).is_some_and(|o| o.wanted);
            served |= !waits;
        }
        served
    }
}

impl Open {
    fn new(now: Now, listing: Listing, migrate: bool) -> Open {
        Open {
            listing,
            due_us: now.mono_us + LISTING_US_MAX,
            raft: Index(0),
            wanted: false,
            migrate,
            done: false,
        }
    }
}

fn given_up() -> Outcome {
    Outcome::Failed(Error::new(Code::RaftInternal, "listing given up"))
}

// -- linearizable reads
impl Replica {
    /// Does this once the leader has proved that it leads, and everything up to then is applied
    /// here.
    pub fn read(&mut self, now: Now, ticket: Ticket, then: Op) {
        match self.leader_to_ask() {
            Some(leader) => self.pass_on(now, ticket, leader, then),
            None => self.prove(now, Reader::Client(ticket, then)),
        }
    }

    /// Proves that this machine leads.
    pub(super) fn prove(&mut self, now: Now, reader: Reader) {
        let id = ReadId(self.readers.last_read + 1);
        match (self.raft.read(now, id), reader) {
            (Ok(()), reader) => self.wait_to_read(reader, None, u64::MAX),
            (Err(refusal), Reader::Client(ticket, _)) => self.refuse_read(ticket, refusal),
            (Err(_), reader) => self.fail_read(reader),
        }
    }

    pub(super) fn wait_to_read(&mut self, reader: Reader, at: Option<Index>, due_us: u64) {
        self.readers.last_read += 1;
        let id = ReadId(self.readers.last_read);
        self.readers.reads.push_back(Read {
            id,
            reader,
            at,
            due_us,
        });
    }

    fn refuse_read(&mut self, ticket: Ticket, refusal: ProposalRefusal) {
        let outcome = match refusal {
            ProposalRefusal::NotLeader(leader) => self.redirect(leader),
            ProposalRefusal::Busy | ProposalRefusal::Unfit(_) => None,
        };
        let none = Outcome::Failed(Error::new(Code::LeaderElect, ""));
        self.answer(ticket, outcome.unwrap_or(none));
    }

    /// Raft has answered for some reads, or lost the leadership they were asked of.
    pub(super) fn take_reads(&mut self) {
        let mut confirmed = std::mem::take(&mut self.out.reads);
        for (id, index) in confirmed.drain(..) {
            let found = self.readers.reads.binary_search_by_key(&id, |r| r.id);
            let Ok(at) = found else {
                continue;
            };
            match self.readers.reads[at].reader {
                Reader::Client(..) => self.readers.reads[at].at = Some(index),
                Reader::Member(to, id) => {
                    self.readers.reads.remove(at);
                    self.reply(to, id, Ok(index));
                }
            }
        }
        self.out.reads = confirmed;
        let mut failed = std::mem::take(&mut self.out.failed_reads);
        for id in failed.drain(..) {
            if let Ok(at) = self.readers.reads.binary_search_by_key(&id, |r| r.id) {
                let read = self.readers.reads.remove(at).expect("found above");
                self.fail_read(read.reader);
            }
        }
        self.out.failed_reads = failed;
    }

    /// Carries out the reads whose index is applied, and gives up those that took too long.
    pub(super) fn serve_reads(&mut self, now: Now) {
        let mut at = 0;
        while let Some(read) = self.readers.reads.get(at) {
            let ready = read.at.is_some_and(|index| index <= self.applied);
            if !ready && read.due_us > now.mono_us {
                at += 1;
                continue;
            }
            let read = self.readers.reads.remove(at).expect("looked at above");
            match read.reader {
                Reader::Client(ticket, op) if ready => self.on_request(now, ticket, op),
                reader => self.fail_read(reader),
            }
        }
    }
}

// -- watchers
impl Replica {
    /// Registers a watcher, or answers it from the history.
    pub fn watch(
        &mut self,
        ticket: Ticket,
        path: &KeyPath,
        recursive: bool,
        stream: bool,
        since: Option<u64>,
    ) {
        let id = WatcherId(ticket.0);
        match self.store.watch(id, path, recursive, stream, since) {
            Ok(WatchReply::Backlog(events)) if !stream => {
                self.answer(ticket, Outcome::Backlog { events, done: true });
            }
            Ok(WatchReply::Waiting) => {
                self.readers.watchers.insert(ticket, stream);
                self.answer(ticket, Outcome::Watching);
            }
            Ok(found) => {
                self.readers.watchers.insert(ticket, stream);
                self.tell_backlog(ticket, found);
            }
            Err(error) => self.answer(ticket, Outcome::Failed(error)),
        }
    }

    fn tell_backlog(&mut self, ticket: Ticket, found: WatchReply) {
        let events = match found {
            WatchReply::Waiting => Vec::new(),
            WatchReply::Backlog(events) => events,
            WatchReply::Cleared => {
                self.readers.watchers.remove(&ticket);
                return self.answer(ticket, Outcome::WatchEnd);
            }
        };
        let done = false;
        self.answer(ticket, Outcome::Backlog { events, done });
    }

    /// Hands out what watchers wait for; a long poll ends with its event.
    pub(super) fn deliver(&mut self) {
        self.store.take_notifications(&mut self.notices);
        for notice in self.notices.drain(..) {
            let mut tickets = Vec::with_capacity(notice.watchers.len());
            for id in notice.watchers {
                let ticket = Ticket(id.0);
                let stream = self.readers.watchers.get(&ticket).copied();
                let stream = stream.expect("the store's watchers are known here");
                if !stream {
                    self.readers.watchers.remove(&ticket);
                }
                tickets.push((ticket, !stream));
            }
            self.effects.events.push(Delivery {
                etcd: notice.event.node.modified,
                event: notice.event,
                tickets,
            });
        }
    }

    /// The key space is replaced, or served here no longer: every watcher's body ends, every
    /// listing breaks off.
    pub(super) fn end_readers(&mut self) {
        self.deliver();
        let watchers = std::mem::take(&mut self.readers.watchers);
        for ticket in watchers.into_keys() {
            self.store.unwatch(WatcherId(ticket.0));
            self.answer(ticket, Outcome::WatchEnd);
        }
        for (ticket, open) in std::mem::take(&mut self.readers.open) {
            self.store.end(open.listing);
            self.answer(ticket, given_up());
        }
    }

    /// Fails the reads that wait for a round: this machine serves no more.
    pub(super) fn fail_reads(&mut self) {
        for read in std::mem::take(&mut self.readers.reads) {
            self.fail_read(read.reader);
        }
    }

    fn fail_read(&mut self, reader: Reader) {
        match reader {
            Reader::Client(ticket, _) => {
                let error = Error::new(Code::LeaderElect, "");
                self.answer(ticket, Outcome::Failed(error));
            }
            Reader::Member(to, id) => self.reply(to, id, Err(NOT_LEADING.into())),
        }
    }

    /// Frees what a ticket holds as a reader; whether it held anything.
    pub(super) fn forget_reader(&mut self, ticket: Ticket) -> bool {
        if self.readers.watchers.remove(&ticket).is_some() {
            self.store.unwatch(WatcherId(ticket.0));
            return true;
        }
        if let Some(open) = self.readers.open.remove(&ticket) {
            self.store.end(open.listing);
            return true;
        }
        let before = self.readers.reads.len();
        self.readers
            .reads
            .retain(|r| !matches!(r.reader, Reader::Client(reads, _) if reads == ticket));
        self.readers.reads.len() < before
    }
}
