//! The children of a directory in the order of their names: sorted chunks of at most 128 entries.
//!
//! A `BTreeMap` from name to number would take twice the memory: its nodes have room for eleven
//! entries, and are half full when names were added in order. A chunk has little more room than it
//! uses. A directory of few children is one chunk, without any map. Chunks are not joined when
//! children are removed; an empty one is dropped. Start with [`Children::get`].
use super::child::{Child, prefix_of};
use super::node_id::NodeId;
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// Most entries of a chunk. An entry is added by moving the ones after it: at most 3 KiB.
const CHUNK_ENTRIES_MAX: usize = 128;

/// With this many chunks a further one at the end gets all of its room at once: names in order fill
/// it without a copy each time that it grows. Of a smaller directory it would be too large a part.
const FULL_ROOM_CHUNKS_MIN: usize = 8;

/// Entries in the order of their names.
#[derive(Debug, Default)]
struct EntryChunk {
    entries: Vec<Child>,
}

/// The children of a directory.
#[derive(Debug, Default)]
pub struct Children {
    /// The chunk of the smallest names; empty only if there are no children.
    first: EntryChunk,
    /// The other chunks, none of them empty. The key of a chunk is the entry that was the first one when
    /// the chunk was made: its name is at most the smallest one of the chunk, and greater than all of the
    /// chunk before. A search compares names that are beside each other, not each in a place of its own.
    rest: BTreeMap<Child, EntryChunk>,
}

impl Children {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.entries.is_empty()
    }

    /// The child of a name.
    pub fn get(&self, name: &str) -> Option<NodeId> {
        let chunk = match self.rest.range::<[u8], _>(up_to(name)).next_back() {
            Some((_, chunk)) => chunk,
            None => &self.first,
        };
        let at = chunk.search(name).ok()?;
        Some(chunk.entries[at].id())
    }

    /// The child of the greatest name.
    fn last(&self) -> Option<&Child> {
        let last = self.rest.last_key_value();
        let chunk = last.map_or(&self.first, |(_, chunk)| chunk);
        chunk.entries.last()
    }

    /// The children after a name, in order; all of them after the empty name.
    pub fn after<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Child> + use<'a> {
        let (chunk, rest) = match self.rest.range::<[u8], _>(up_to(name)).next_back() {
            Some((key, chunk)) => (
                chunk,
                self.rest
                    .range::<[u8], _>((Excluded(key.name_bytes()), Unbounded)),
            ),
            None => (&self.first, self.rest.range::<[u8], _>(..)),
        };
        let start = match chunk.search(name) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        let entries = chunk.entries[start..].iter();
        entries.chain(rest.flat_map(|(_, chunk)| &chunk.entries))
    }

    /// Adds a child.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn insert(&mut self, name: &str, id: NodeId) {
        if self
            .last()
            .is_none_or(|last| last.name_bytes() < name.as_bytes())
        {
            return self.push(Child::new(name, id));
        }
        let chunk = match self.rest.range_mut::<[u8], _>(up_to(name)).next_back() {
            Some((_, chunk)) => chunk,
            None => &mut self.first,
        };
        let at = chunk.search(name).expect_err("the name is free");
        chunk.insert(at, Child::new(name, id));
        if chunk.entries.len() > CHUNK_ENTRIES_MAX {
            let upper = chunk.split();
            let key = upper.entries[0].clone();
            self.rest.insert(key, upper);
        }
    }

    /// Adds a child whose name is the greatest. Names that come in order, as those of a snapshot do,
    /// fill chunk after chunk without a search.
    fn push(&mut self, child: Child) {
        let last = match self.rest.last_entry() {
            Some(entry) => entry.into_mut(),
            None => &mut self.first,
        };
        if last.entries.len() < CHUNK_ENTRIES_MAX {
            return last.insert(last.entries.len(), child);
        }
        let key = child.clone();
        let mut chunk = EntryChunk::default();
        if self.rest.len() >= FULL_ROOM_CHUNKS_MIN {
            chunk.entries.reserve_exact(CHUNK_ENTRIES_MAX);
        }
        chunk.insert(0, child);
        self.rest.insert(key, chunk);
    }

    /// Removes the child of a name.
    pub fn remove(&mut self, name: &str) -> Option<NodeId> {
        let Some((key, chunk)) = self.rest.range_mut::<[u8], _>(up_to(name)).next_back() else {
            let at = self.first.search(name).ok()?;
            return Some(self.remove_from_first(at).id());
        };
        let at = chunk.search(name).ok()?;
        let child = chunk.remove(at);
        if chunk.entries.is_empty() {
            let key = key.clone();
            self.rest.remove(&key);
        }
        Some(child.id())
    }

    /// Removes the child of the smallest name.
    pub fn pop_first(&mut self) -> Option<Child> {
        if self.is_empty() {
            return None;
        }
        Some(self.remove_from_first(0))
    }

    fn remove_from_first(&mut self, at: usize) -> Child {
        let child = self.first.remove(at);
        if self.first.entries.is_empty()
            && let Some((_, next)) = self.rest.pop_first()
        {
            self.first = next;
        }
        child
    }
}

impl EntryChunk {
    /// The place of a name, or the place at which it is to be added.
    fn search(&self, name: &str) -> Result<usize, usize> {
        let prefix = prefix_of(name);
        self.entries
            .binary_search_by(|child| child.compare_name(prefix, name))
    }

    /// The room for further entries that a chunk is given.
    fn spare(&self) -> usize {
        1 + self.entries.len() / 8
    }

    fn insert(&mut self, at: usize, child: Child) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.spare());
        }
        self.entries.insert(at, child);
    }

    fn remove(&mut self, at: usize) -> Child {
        let child = self.entries.remove(at);
        if self.entries.capacity() > 2 * (self.entries.len() + self.spare()) {
            self.entries.shrink_to(self.entries.len() + self.spare());
        }
        child
    }

    /// Takes the upper half out.
    fn split(&mut self) -> EntryChunk {
        let upper = EntryChunk {
            entries: self.entries.split_off(self.entries.len() / 2),
        };
        self.entries.shrink_to_fit();
        upper
    }
}

/// The keys of `Children::rest` whose chunks begin at or before a name.
fn up_to(name: &str) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Unbounded, Included(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks(children: &Children) -> impl Iterator<Item = &EntryChunk> {
        [&children.first].into_iter().chain(children.rest.values())
    }

    fn check(children: &Children, model: &BTreeMap<String, NodeId>) {
        let found: Vec<_> = children.after("").map(|c| (c.name(), c.id())).collect();
        let expected: Vec<_> = model.iter().map(|(name, id)| (&**name, *id)).collect();
        assert_eq!(found, expected);
        let last = model.last_key_value().map(|(name, _)| &**name);
        assert_eq!(children.last().map(Child::name), last);
        assert_eq!(children.is_empty(), model.is_empty());
        assert!(
            children
                .rest
                .values()
                .all(|chunk| !chunk.entries.is_empty())
        );
        let len_max = chunks(children).map(|chunk| chunk.entries.len()).max();
        assert!(len_max <= Some(CHUNK_ENTRIES_MAX));
    }

    proptest! {
        #[test]
        fn children_are_a_map(steps in prop::collection::vec((0..10_u8, 0..600_u32), 1..3000)) {
            let id = NodeId::new(1);
            let mut children = Children::default();
            let mut model = BTreeMap::new();
            for (kind, number) in steps {
                let name = format!("{number:b}");
                match kind {
                    0 => {
                        let first = children.pop_first().map(|child| child.name().to_string());
                        prop_assert_eq!(first, model.pop_first().map(|(name, _)| name));
                    }
                    1..4 => prop_assert_eq!(children.remove(&name), model.remove(&name)),
                    _ if model.contains_key(&name) => {
                        prop_assert_eq!(children.get(&name), Some(id));
                        let after = children.after(&name).next().map(Child::name);
                        let range = (Excluded(name), Unbounded);
                        let expected = model.range::<String, _>(range).next();
                        prop_assert_eq!(after, expected.map(|(name, _)| &**name));
                    }
                    _ => {
                        prop_assert_eq!(children.get(&name), None);
                        children.insert(&name, id);
                        model.insert(name, id);
                    }
                }
            }
            check(&children, &model);
        }
    }

    #[test]
    fn a_child_is_found_under_its_own_number() {
        let mut children = Children::default();
        // In any order: 7 and 1000 have no common divisor.
        for n in (0..1000).map(|n| n * 7 % 1000) {
            children.insert(&n.to_string(), NodeId::new(n));
        }
        for n in 0..1000 {
            assert_eq!(children.get(&n.to_string()), Some(NodeId::new(n)));
        }
        for n in (0..1000).filter(|n| n % 10 > 0) {
            assert_eq!(children.remove(&n.to_string()), Some(NodeId::new(n)));
        }
        assert_eq!(children.after("").count(), 100);
    }

    #[test]
    fn entries_have_little_room_to_spare() {
        let id = NodeId::new(1);
        for step in [1, 7919] {
            let mut children = Children::default();
            for n in (0..10_000).map(|n| n * step % 10_000) {
                children.insert(&format!("{n:05}"), id);
            }
            let capacity = |chunk: &EntryChunk| chunk.entries.capacity();
            let room: usize = chunks(&children).map(capacity).sum();
            assert!(room <= 11_000, "{room}");
            let count = chunks(&children).count();
            assert!(count <= 2 * 10_000 / CHUNK_ENTRIES_MAX, "{count}");
        }
    }

    #[test]
    fn the_room_of_removed_entries_is_given_back() {
        let id = NodeId::new(1);
        let mut children = Children::default();
        for n in 0..CHUNK_ENTRIES_MAX {
            children.insert(&n.to_string(), id);
        }
        for n in 1..CHUNK_ENTRIES_MAX {
            children.remove(&n.to_string());
        }
        assert!(children.first.entries.capacity() <= 4);
    }
}
