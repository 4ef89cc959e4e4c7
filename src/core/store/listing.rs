//! Listings: a node and what is below it, a page at a time, all of one moment.
//!
//! What fits into one page is read as it stands. What does not freezes the key space when its first
//! page is read; if another has it frozen, the listing queues and begins when its turn comes. Start
//! with `Store::page`.
use super::event::{EtcdIndex, Event, ListItem};
use super::freeze::Freeze;
use super::node::{NodeId, Tree};
use super::stats::{Counted, Stats};
use super::walk::Walk;
use super::{Listing, Page, Progress, Store};
use crate::core::command::KeyPath;
use crate::core::error::Error;
use std::collections::VecDeque;

/// A page holds about this many bytes; one node may take it past that.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// About what a listed node costs beside its key and value.
const ITEM_BYTES: usize = 128;

/// Who has the key space frozen, and who waits to.
#[derive(Default)]
pub(super) struct Freezer {
    pub freeze: Option<Freeze>,
    tokens: u64,
    /// Listings in order of arrival; bounded by the number of connections.
    waiting: VecDeque<u64>,
    /// A snapshot is next, before any of them.
    pub snapshot_waits: bool,
}

impl Freezer {
    pub fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Whether a listing may freeze now: `turn` is its number in the queue, if it queues.
    fn is_free(&self, turn: Option<u64>) -> bool {
        let first = match turn {
            Some(turn) => self.waiting.front() == Some(&turn),
            None => self.waiting.is_empty(),
        };
        first && self.freeze.is_none() && !self.snapshot_waits
    }
}

impl Store {
    /// Starts reading: the node and what is below it, a part at a time. Counts as a get.
    pub fn get(&mut self, path: &KeyPath, recursive: bool) -> Result<Listing, Error> {
        let found = self.tree.find(path);
        self.stats.count(Counted::Get, found.is_ok());
        Ok(Listing {
            path: path.clone(),
            recursive,
            all: false,
            progress: Progress::Found(found?, self.index),
        })
    }

    /// Starts reading everything from the root, hidden nodes too; the key space stays frozen until
    /// `end`, so that `history` tells of the same moment. Counts as nothing.
    pub fn get_all(&mut self) -> Listing {
        Listing {
            path: KeyPath::new("/"),
            recursive: true,
            all: true,
            progress: self.queue(),
        }
    }

    /// The next at most `max` items (and about 256 KiB), appended to `items`. A listing that needs
    /// a second page freezes the key space as of its first. `Done` of a `get_all` keeps it
    /// frozen until `end`.
    pub fn page(&mut self, listing: &mut Listing, max: usize, items: &mut Vec<ListItem>) -> Page {
        match &mut listing.progress {
            Progress::Found(id, index) if *index == self.index => {
                let id = *id;
                self.first_page(listing, id, max, items)
            }
            Progress::Found(..) => match self.tree.find(&listing.path) {
                Ok(id) => self.first_page(listing, id, max, items),
                Err(error) => Page::Failed(error),
            },
            Progress::Queued(turn) if self.freezer.is_free(Some(*turn)) => {
                self.freezer.waiting.pop_front();
                match self.tree.find(&listing.path) {
                    Ok(id) => self.first_page(listing, id, max, items),
                    Err(error) => Page::Failed(error),
                }
            }
            Progress::Queued(_) => Page::Wait,
            Progress::Frozen(token, walk) => match &mut self.freezer.freeze {
                Some(freeze) if freeze.token == *token => {
                    let done = fill(walk, &self.tree, freeze, max, items);
                    self.after_page(listing, done)
                }
                Some(_) | None => Page::GivenUp,
            },
        }
    }

    /// Lists from the beginning, and freezes if that does not end it.
    fn first_page(
        &mut self,
        listing: &mut Listing,
        id: NodeId,
        max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        let before = items.len();
        let path = listing.path.as_str();
        let view = self.tree.node(id).view(path);
        items.push(ListItem { depth: 0, view });
        if !self.tree.node(id).is_dir() {
            return Page::Done;
        }
        let mut walk = Walk::below(id, path, &self.tree, listing.recursive, listing.all);
        let events_from = listing.all.then_some(self.history.start());
        let token = self.freezer.token();
        let mut freeze = Freeze::new(token, self.index, path, events_from);
        let done = fill(
            &mut walk,
            &self.tree,
            &mut freeze,
            max.saturating_sub(1),
            items,
        );
        if done && !listing.all {
            return Page::Done;
        }
        if !self.freezer.is_free(None) && !matches!(listing.progress, Progress::Queued(_)) {
            items.truncate(before);
            listing.progress = self.queue();
            return Page::Wait;
        }
        assert!(self.freezer.freeze.is_none(), "one freeze at a time");
        self.freezer.freeze = Some(freeze);
        listing.progress = Progress::Frozen(token, walk);
        self.after_page(listing, done)
    }

    fn after_page(&mut self, listing: &Listing, done: bool) -> Page {
        if done && !listing.all {
            self.thaw();
        }
        if done { Page::Done } else { Page::More }
    }

    fn queue(&mut self) -> Progress {
        let turn = self.freezer.token();
        self.freezer.waiting.push_back(turn);
        Progress::Queued(turn)
    }

    /// The event history of the moment that a `get_all` shows, oldest first, its etcd index, and
    /// the counters. `None` when the key space is not frozen for that listing any more.
    pub fn history(&self, listing: &Listing) -> Option<(Vec<Event>, EtcdIndex, Stats)> {
        let Progress::Frozen(token, _) = listing.progress else {
            return None;
        };
        let freeze = self.freezer.freeze.as_ref()?;
        if freeze.token != token {
            return None;
        }
        let kept = self
            .history
            .since(0)
            .take_while(|e| e.index().0 <= freeze.at);
        let events = freeze.events().chain(kept).cloned().collect();
        Some((events, EtcdIndex(freeze.at), self.stats()))
    }

    /// Gives a listing up, or back.
    pub fn end(&mut self, listing: Listing) {
        match listing.progress {
            Progress::Found(..) => {}
            Progress::Queued(turn) => self.freezer.waiting.retain(|t| *t != turn),
            Progress::Frozen(token, _) => {
                if self
                    .freezer
                    .freeze
                    .as_ref()
                    .is_some_and(|f| f.token == token)
                {
                    self.thaw();
                }
            }
        }
    }

    /// Ends the freeze; what it kept is to be freed.
    pub(super) fn thaw(&mut self) {
        let freeze = self
            .freezer
            .freeze
            .take()
            .expect("only what is frozen thaws");
        self.freeing.extend(freeze.into_removed());
    }
}

/// Lists as much as a page takes; true when nothing is left.
fn fill(
    walk: &mut Walk,
    tree: &Tree,
    freeze: &mut Freeze,
    max: usize,
    items: &mut Vec<ListItem>,
) -> bool {
    let (mut room, mut bytes) = (max, 0);
    if room == 0 {
        return walk.is_done();
    }
    let done = walk.run(tree, Some(freeze), |found| {
        let view = found.view();
        bytes += ITEM_BYTES + view.key.len() + view.value.as_ref().map_or(0, |v| v.len());
        room -= 1;
        items.push(ListItem {
            depth: found.depth,
            view,
        });
        room > 0 && bytes < PAGE_BYTES_MAX
    });
    if let Some(last) = items.last() {
        freeze.advance(&last.view.key);
    }
    done
}
