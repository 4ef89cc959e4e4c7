//! A key space that was replaced or is of no use, while it is freed: a bounded number of nodes at a
//! time. To drop a million nodes at once would hold the loop for 100 ms.
//!
//! Start with [`Discarded::free_some`].
use super::Store;
use super::node_id::ROOT;

/// How many children of the root are taken out at a time.
const CHILDREN_TAKEN: usize = 1000;

/// A key space that nothing reads any more.
pub struct Discarded {
    store: Store,
}

impl Discarded {
    /// All of this key space is to be freed. Its watchers and listings must have ended.
    pub fn new(store: Store) -> Discarded {
        Discarded { store }
    }

    /// Frees a bounded number of nodes. Returns whether some are left; if not, drop the value.
    pub fn free_some(&mut self) -> bool {
        let Store {
            reclaim, tree, ttl, ..
        } = &mut self.store;
        if reclaim.is_empty() {
            for _ in 0..CHILDREN_TAKEN {
                let Some(child) = tree.take_first_child(ROOT) else {
                    break;
                };
                reclaim.add(child, 1);
            }
        }
        if reclaim.is_empty() {
            return false;
        }
        reclaim.free_some(tree, ttl);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::HistoryLimits;
    use super::super::node::Node;
    use super::*;

    #[test]
    fn all_nodes_are_freed_a_part_at_a_time() {
        let mut store = Store::new(HistoryLimits {
            events: 10,
            bytes: 1000,
        });
        let dir = store.tree.insert(ROOT, "dir", Node::new(None, None, 1));
        for n in 0..2500 {
            let node = Node::new(Some(&"v".into()), None, 2);
            store.tree.insert(dir, &n.to_string(), node);
        }
        let mut discarded = Discarded::new(store);
        let mut nodes = discarded.store.tree.len();
        while discarded.free_some() {
            let left = discarded.store.tree.len();
            assert!(left < nodes && nodes - left <= 1000, "{left} of {nodes}");
            nodes = left;
        }
        assert_eq!(nodes, 1, "the root stays");
    }
}
