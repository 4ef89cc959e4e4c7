//! What expires when: an index over the live nodes that have an expiration.
//!
//! Nodes of a removed directory leave it late, a few a turn, when they are freed: who asks must
//! hold what comes first against the tree. Ordered by expiration, then by creation, then by depth;
//! the last two name a node wherever it stands in memory, because one command creates at most one
//! node a level.
use super::node::PERMANENT;
use std::collections::BTreeMap;

/// Names a node: expiration, index of its creation, depth below the root.
pub type Due = (u64, u64, u32);

/// The index.
#[derive(Default)]
pub struct Ttl {
    by_time: BTreeMap<Due, Box<str>>,
}

impl Ttl {
    /// Takes a node in, unless it stays for ever.
    pub fn add(&mut self, due: Due, path: &str) {
        if due.0 != PERMANENT {
            let before = self.by_time.insert(due, path.into());
            assert!(
                before.is_none(),
                "a level of a path is created once an index"
            );
        }
    }

    /// Lets a node go; no effect when it is not in.
    pub fn remove(&mut self, due: Due) {
        if due.0 != PERMANENT {
            self.by_time.remove(&due);
        }
    }

    pub fn contains(&self, due: Due) -> bool {
        self.by_time.contains_key(&due)
    }

    /// Lets the one go that comes first.
    pub fn drop_first(&mut self) {
        self.by_time.pop_first();
    }

    /// The one that comes first, and its path.
    pub fn first(&self) -> Option<(Due, &str)> {
        let (due, path) = self.by_time.first_key_value()?;
        Some((*due, path))
    }
}
