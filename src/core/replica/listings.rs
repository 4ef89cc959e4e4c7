//! Listings, one page at a time: a GET of a node, and the migration document.
//!
//! A listing with more than one page freezes the moment of its first page, so that all pages show
//! one moment. Start with `Replica::list`.
use super::Replica;
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use crate::core::raft::Index;
use crate::core::seam::{Migrated, Outcome, Ticket};
use crate::core::store::{EtcdIndex, Listing, Page};
use crate::core::timer::Now;

/// Most nodes in one page. Bounds the time that one listing takes in a turn.
const PAGE_NODES_MAX: usize = 500;
/// How long a listing waits for its client to ask for the next page, in microseconds. It has no
/// limit as a whole: a client that reads slowly and steadily gets all of it.
const LISTING_US_MAX: u64 = 60_000_000;

/// A listing whose client has not received all of the answer.
#[derive(Debug)]
pub struct OpenListing {
    /// The position in the store's listing.
    cursor: Listing,
    /// When the listing is given up, in microseconds of the monotonic clock. Set at the start and
    /// again at each page.
    due_us: u64,
    /// The applied index at the first page; `None` before that.
    raft_index: Option<Index>,
    /// The listing is for the migration document. The history follows after the last page.
    is_migration: bool,
    /// The last page was sent. Only a migration stays open after that.
    is_done: bool,
    /// The listing is for a migration that another one may take over (`Op::Migrate`).
    keeps_moment: bool,
    /// Its client has the whole answer, or is gone. It waits only to be taken over.
    has_client: bool,
}

impl OpenListing {
    fn new(now: Now, cursor: Listing, is_migration: bool) -> OpenListing {
        OpenListing {
            cursor,
            due_us: now.mono_us + LISTING_US_MAX,
            raft_index: None,
            is_migration,
            is_done: false,
            keeps_moment: false,
            has_client: true,
        }
    }

    /// The listing without its client, if it is worth keeping for another one.
    pub fn orphaned(mut self) -> Result<OpenListing, Listing> {
        if !self.keeps_moment || !self.has_client || self.raft_index.is_none() {
            return Err(self.cursor);
        }
        self.has_client = false;
        Ok(self)
    }

    /// Whether a client waits for its next page.
    pub fn has_client(&self) -> bool {
        self.has_client
    }

    /// The position in the store's listing.
    pub fn cursor(&self) -> &Listing {
        &self.cursor
    }

    /// When the listing is given up, in microseconds of the monotonic clock.
    pub fn due_us(&self) -> u64 {
        self.due_us
    }

    /// The position in the store's listing, for `Store::end_listing`.
    pub fn into_cursor(self) -> Listing {
        self.cursor
    }

    /// A page was listed and the listing stays open.
    fn on_page(&mut self, now: Now, applied: Index, page: &Page) {
        self.is_done = *page == Page::Done;
        self.raft_index.get_or_insert(applied);
        self.due_us = now.mono_us + LISTING_US_MAX;
    }
}

/// The answer to a listing that missed its deadline, or whose frozen key space the store dropped.
pub fn listing_given_up() -> Outcome {
    Outcome::Failed(Error::new(Code::RaftInternal, "listing given up"))
}

impl Replica {
    /// Starts to list the applied state of `path`.
    pub(super) fn list(&mut self, now: Now, ticket: Ticket, path: &KeyPath, recursive: bool) {
        match self.store.get(path, recursive) {
            Ok(cursor) => self.send_page(now, ticket, OpenListing::new(now, cursor, false)),
            Err(error) => self.answer(ticket, Outcome::Failed(error)),
        }
    }

    /// Starts to list the whole key space, for the migration document: as of `moment`, if that is
    /// the present or kept.
    pub(super) fn list_for_migration(
        &mut self,
        now: Now,
        ticket: Ticket,
        moment: Option<EtcdIndex>,
        keeps_moment: bool,
    ) {
        let kept = moment.and_then(|moment| self.take_kept_moment(moment));
        let listing = match kept {
            Some(kept) => OpenListing {
                keeps_moment,
                raft_index: kept.raft_index,
                ..OpenListing::new(now, kept.cursor.begin_again(), true)
            },
            None if moment.is_none_or(|moment| moment == self.store.index()) => OpenListing {
                keeps_moment,
                ..OpenListing::new(now, self.store.get_all(keeps_moment), true)
            },
            None => {
                let cause = "the key space has changed, and this moment of it is not kept";
                let error = Error::new(Code::EventIndexCleared, cause);
                return self.answer(ticket, Outcome::Failed(error));
            }
        };
        self.send_page(now, ticket, listing);
    }

    /// Takes the listing that keeps this moment. A client that still reads it gets no more: its
    /// connection is broken without the server knowing.
    fn take_kept_moment(&mut self, moment: EtcdIndex) -> Option<OpenListing> {
        let store = &self.store;
        let is_wanted = |l: &OpenListing| store.kept_moment(l.cursor()) == Some(moment);
        let ticket = self.pending.find_listing(is_wanted)?;
        let listing = self.pending.take_listing(ticket)?;
        if listing.has_client() {
            self.answer(ticket, listing_given_up());
        }
        Some(listing)
    }

    /// Lists the next page if the ticket belongs to a listing. Returns whether it does.
    pub(super) fn maybe_continue_listing(&mut self, now: Now, ticket: Ticket) -> bool {
        let Some(listing) = self.pending.take_listing(ticket) else {
            return false;
        };
        self.send_page(now, ticket, listing);
        true
    }

    /// Answers with the next page. The listing stays open unless the answer is complete.
    fn send_page(&mut self, now: Now, ticket: Ticket, mut listing: OpenListing) {
        if listing.is_done {
            return self.finish_migration(ticket, listing);
        }
        let mut items = Vec::new();
        let cursor = &mut listing.cursor;
        let page = self.store.page(cursor, PAGE_NODES_MAX, &mut items);
        match page {
            Page::Done if !listing.is_migration => {
                self.answer(ticket, Outcome::Page { items, last: true });
            }
            Page::Done | Page::More => {
                listing.on_page(now, self.applied, &page);
                let last = listing.is_done;
                self.pending.add_listing(ticket, listing);
                self.answer(ticket, Outcome::Page { items, last });
            }
            Page::Failed(error) => self.answer(ticket, Outcome::Failed(error)),
            Page::GivenUp => self.answer(ticket, listing_given_up()),
        }
    }

    /// Answers with the last part of the migration document: the history and the statistics of the
    /// moment at which the key space was frozen.
    fn finish_migration(&mut self, ticket: Ticket, listing: OpenListing) {
        let raft_index = listing.raft_index.expect("the last page follows a first");
        let history = self.store.history(&listing.cursor);
        self.orphan_listing(ticket, listing);
        let Some((events, etcd, stats)) = history else {
            return self.answer(ticket, listing_given_up());
        };
        let rest = Migrated {
            etcd,
            raft: raft_index,
            events,
            capacity: self.settings.history_events,
            stats,
        };
        self.answer(ticket, Outcome::Migrated(Box::new(rest)));
    }
}
