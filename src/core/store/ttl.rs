//! The index of expirations: the nodes that have one, in the order in which they are due.
//!
//! Descendants of a removed directory leave the index late, a portion a turn, when they are freed.
//! Until then their entries are stale, so `Store::first_due` compares the first entry with the
//! tree. The order is by expiration, then by creation, then by depth. Creation and depth together
//! identify a node, because one command creates at most one node at each depth.
use super::node::Node;
use std::collections::BTreeMap;

/// Names a node: expiration (nanoseconds of the cluster clock), etcd index of its creation, depth.
pub type Due = (u64, u64, u32);

/// The place of a node of this depth in the index; `None` if it never expires.
pub fn due_of(node: &Node, depth: u32) -> Option<Due> {
    Some((node.expires_ns()?, node.created(), depth))
}

/// The index.
#[derive(Default)]
pub struct Ttl {
    by_time: BTreeMap<Due, Box<str>>,
    /// The index may hold descendants of removed directories.
    is_stale: bool,
    /// `Store::purge_ttl` stopped at its bound, and the first entry may be such a descendant.
    is_blocked: bool,
}

impl Ttl {
    /// Adds a node; nothing to do if it never expires.
    pub fn add(&mut self, due: Option<Due>, path: &str) {
        if let Some(due) = due {
            let before = self.by_time.insert(due, path.into());
            assert!(
                before.is_none(),
                "one command creates at most one node at each depth"
            );
        }
    }

    /// Removes a node; nothing to do if it is not in the index.
    pub fn remove(&mut self, due: Option<Due>) {
        if let Some(due) = due {
            self.by_time.remove(&due);
        }
    }

    /// Whether a node is in the index.
    pub fn contains(&self, due: Due) -> bool {
        self.by_time.contains_key(&due)
    }

    /// Removes the first entry.
    pub fn drop_first(&mut self) {
        self.by_time.pop_first();
    }

    /// The first entry, with the path of its node.
    pub fn first(&self) -> Option<(Due, &str)> {
        let (due, path) = self.by_time.first_key_value()?;
        Some((*due, path))
    }

    /// Whether the index may hold descendants of removed directories.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// A directory was removed (true), or all nodes of removed directories are freed (false).
    pub fn set_stale(&mut self, is_stale: bool) {
        self.is_stale = is_stale;
    }

    /// Whether more entries at the front are to be purged.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether the last purge stopped at its bound.
    pub fn set_blocked(&mut self, is_blocked: bool) {
        self.is_blocked = is_blocked;
    }
}
