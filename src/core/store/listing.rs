//! Listings: a node and its descendants, a page at a time, all as of one moment.
//!
//! A listing that fits into one page reads the key space as it is. Any other freezes the moment of
//! its first page. Start with `Store::page`.
use super::Store;
use super::event::{EtcdIndex, Event, ListItem, View};
use super::freeze::{FreezeToken, FrozenMoment};
use super::node::KeyTree;
use super::node_id::{NodeId, ROOT};
use super::snapshot::events_of;
use super::stats::{Operation, Stats};
use super::walk::TreeWalk;
use crate::core::cluster_time::ClusterTime;
use crate::core::command::KeyPath;
use crate::core::error::Error;

/// A page ends with the item that brings it to this many bytes or more.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// An estimate of what an item takes beside its key and value.
const ITEM_BYTES: usize = 128;

/// A listing in progress. It must be given back with `Store::end_listing`, unless `Store::page`
/// returned `Done`, `Failed` or `GivenUp`.
#[derive(Debug)]
pub struct Listing {
    path: KeyPath,
    /// Descendants, not children alone.
    recursive: bool,
    /// Begun with `get_all`: hidden nodes too, and frozen until `end`.
    is_whole: bool,
    /// The freeze also keeps the nodes already read, so that the listing can begin again.
    keeps_moment: bool,
    state: ListingState,
}

/// Where a listing stands.
#[derive(Debug)]
enum ListingState {
    /// Nothing is read. The path led to the node `id` when the etcd index was `index`.
    Found { id: NodeId, index: u64 },
    /// It has the freeze of this token, and has read the nodes before the position of the walk.
    Frozen(FreezeToken, TreeWalk),
    /// It has the freeze of this token, and has read nothing since it was begun again.
    BegunAgain(FreezeToken),
}

/// The outcome of `Store::page`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// There is more: ask again, in any later turn.
    More,
    /// All items are read. The listing holds no freeze any more, unless it is one of `get_all`.
    Done,
    /// Nothing is read: the node was removed before the first page.
    Failed(Error),
    /// The freeze was given up because it kept too much. The items read so far are all there are.
    GivenUp,
}

impl Store {
    /// Begins to read the node at a path and its children, or with `recursive` its descendants.
    /// Hidden nodes are left out. Counts as a get.
    ///
    /// # Errors
    ///
    /// 100 and 104 if the path leads to no node.
    pub fn get(&mut self, path: &KeyPath, recursive: bool) -> Result<Listing, Error> {
        let found = self.tree.find(path);
        self.stats.count(Operation::Get, found.is_ok());
        Ok(Listing {
            path: path.clone(),
            recursive,
            is_whole: false,
            keeps_moment: false,
            state: ListingState::Found {
                id: found?,
                index: self.index,
            },
        })
    }

    /// Begins to read all nodes, hidden ones too. The key space stays frozen until `end`, so that
    /// `history` is of the same moment. With `keeps_moment` the listing can begin again
    /// (`begin_again`), at the cost of keeping all that changes meanwhile. Not counted.
    pub fn get_all(&mut self, keeps_moment: bool) -> Listing {
        Listing {
            path: KeyPath::new("/"),
            recursive: true,
            is_whole: true,
            keeps_moment,
            state: ListingState::Found {
                id: ROOT,
                index: self.index,
            },
        }
    }

    /// Appends the next items, at most `items_max` and about 64 KiB, to `items`.
    pub fn page(
        &mut self,
        listing: &mut Listing,
        items_max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        let before = items.len();
        let page = self.next_page(listing, items_max, items);
        let listed: usize = items[before..]
            .iter()
            .map(|item| bytes_of(&item.view))
            .sum();
        self.listed_bytes = self.listed_bytes.wrapping_add(listed as u64);
        page
    }

    /// The bytes of all nodes that listings have read, by the estimate that bounds a page; wraps.
    /// The caller that asked for a page learns from it how much work that was.
    pub fn listed_bytes(&self) -> u64 {
        self.listed_bytes
    }

    fn next_page(
        &mut self,
        listing: &mut Listing,
        items_max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        match &mut listing.state {
            ListingState::Found { id, index } if *index == self.index => {
                let id = *id;
                self.first_page(listing, id, items_max, items)
            }
            ListingState::Found { .. } => self.find_first_page(listing, items_max, items),
            ListingState::Frozen(token, walk) => {
                let token = *token;
                let Some(moment) = self.freezer.get(token) else {
                    return Page::GivenUp;
                };
                let is_done = fill(walk, &self.tree, &self.time, Some(moment), items_max, items);
                if let Some(last) = items.last().filter(|_| !listing.keeps_moment) {
                    self.freezer.advance(token, &last.view.key);
                }
                self.end_page(listing, token, is_done)
            }
            ListingState::BegunAgain(token) => {
                let token = *token;
                self.first_page_again(listing, token, items_max, items)
            }
        }
    }

    /// Reads the first page of a listing that has begun again, as of its moment.
    fn first_page_again(
        &mut self,
        listing: &mut Listing,
        token: FreezeToken,
        items_max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        let Some(moment) = self.freezer.get(token) else {
            return Page::GivenUp;
        };
        let view = self.tree.node(ROOT).view(listing.path.shared());
        items.push(ListItem {
            depth: 0,
            view: view.shown(&self.time),
        });
        let mut walk = TreeWalk::below(ROOT, "/", &self.tree, true, true);
        let rest_max = items_max.saturating_sub(1);
        let time = &self.time;
        let is_done = fill(&mut walk, &self.tree, time, Some(moment), rest_max, items);
        listing.state = ListingState::Frozen(token, walk);
        self.end_page(listing, token, is_done)
    }

    /// The etcd index of the moment that a listing keeps; `None` if it keeps none, or its freeze
    /// was given up.
    pub fn kept_moment(&self, listing: &Listing) -> Option<EtcdIndex> {
        let token = listing.token().filter(|_| listing.keeps_moment)?;
        let moment = self.freezer.get(token)?;
        Some(EtcdIndex(moment.at()))
    }

    /// Reads the first page of a listing whose node has to be found again.
    fn find_first_page(
        &mut self,
        listing: &mut Listing,
        items_max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        match self.tree.find(&listing.path) {
            Ok(id) => self.first_page(listing, id, items_max, items),
            Err(error) => Page::Failed(error),
        }
    }

    /// Reads the first page, and freezes the key space if there are more.
    fn first_page(
        &mut self,
        listing: &mut Listing,
        id: NodeId,
        items_max: usize,
        items: &mut Vec<ListItem>,
    ) -> Page {
        let path = listing.path.as_str();
        let view = self.tree.node(id).view(listing.path.shared());
        let view = view.shown(&self.time);
        items.push(ListItem { depth: 0, view });
        if !self.tree.node(id).is_dir() {
            return Page::Done;
        }
        let mut walk = TreeWalk::below(id, path, &self.tree, listing.recursive, listing.is_whole);
        let rest_max = items_max.saturating_sub(1);
        let is_done = fill(&mut walk, &self.tree, &self.time, None, rest_max, items);
        if is_done && !listing.is_whole {
            return Page::Done;
        }
        let next_event = listing.is_whole.then_some(self.history.start());
        let last = items.last().expect("the node itself at least");
        let cursor = if listing.keeps_moment {
            ""
        } else {
            &last.view.key
        };
        let token = self.freezer.begin(self.index, path, cursor, next_event);
        listing.state = ListingState::Frozen(token, walk);
        self.end_page(listing, token, is_done)
    }

    fn end_page(&mut self, listing: &Listing, token: FreezeToken, is_done: bool) -> Page {
        if !is_done {
            return Page::More;
        }
        if !listing.is_whole {
            self.freezer.end(token);
        }
        Page::Done
    }

    /// The state beside the nodes, as of the same moment, for a `get_all` that is done: the events
    /// of the history, oldest first, and the etcd index; and the present counters. `None` if the
    /// freeze was given up.
    pub fn history(&self, listing: &Listing) -> Option<(Vec<Event>, EtcdIndex, Stats)> {
        let token = listing.token()?;
        let moment = self.freezer.get(token)?;
        let events = events_of(moment, &self.history, 0).cloned().collect();
        Some((events, EtcdIndex(moment.at()), self.stats()))
    }

    /// Takes a listing back, done or not.
    pub fn end_listing(&mut self, listing: Listing) {
        if let Some(token) = listing.token() {
            self.freezer.end(token);
        }
    }
}

impl Listing {
    /// The token of its freeze; `None` before the first page.
    fn token(&self) -> Option<FreezeToken> {
        match self.state {
            ListingState::Found { .. } => None,
            ListingState::Frozen(token, _) | ListingState::BegunAgain(token) => Some(token),
        }
    }

    /// The listing from its first page on, at its moment.
    ///
    /// # Panics
    ///
    /// If it keeps no moment.
    pub fn begin_again(mut self) -> Listing {
        let token = self.token().filter(|_| self.keeps_moment);
        self.state = ListingState::BegunAgain(token.expect("it keeps its moment"));
        self
    }
}

/// Appends items until a page is full. Returns whether none is left.
fn fill(
    walk: &mut TreeWalk,
    tree: &KeyTree,
    time: &ClusterTime,
    moment: Option<FrozenMoment>,
    items_max: usize,
    items: &mut Vec<ListItem>,
) -> bool {
    if items_max == 0 {
        return walk.is_done();
    }
    let mut room = items_max;
    let mut bytes = 0;
    walk.run(tree, moment, |visited| {
        let view = visited.view().shown(time);
        bytes += bytes_of(&view);
        room -= 1;
        items.push(ListItem {
            depth: visited.depth(),
            view,
        });
        room > 0 && bytes < PAGE_BYTES_MAX
    })
}

/// How much a node adds to a page.
fn bytes_of(view: &View) -> usize {
    let value_bytes = view.value.as_ref().map_or(0, |value| value.len());
    ITEM_BYTES + view.key.len() + value_bytes
}
