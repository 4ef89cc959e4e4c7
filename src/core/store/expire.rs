//! Expiration: which node is due next, and the command that removes the nodes that are due.
use super::Store;
use super::event::Action;
use super::node::Lookup;
use super::node_id::NodeId;
use super::path::is_within;
use crate::core::cluster_time::Stamp;
use crate::core::command::KeyPath;

/// Most nodes that expire in one command, to bound its time. It must be the same on all machines.
const EXPIRE_NODES_MAX: usize = 1000;
/// Most entries of removed nodes that are dropped from the index of expirations at once.
const PURGE_ENTRIES_MAX: usize = 1000;

impl Store {
    /// When the next node expires, in nanoseconds of the cluster clock. `None` if no node does, and
    /// while the first entry of the index is a descendant of a removed directory: `free_some`
    /// removes such entries.
    pub fn next_expiry_ns(&self) -> Option<u64> {
        let (_, id) = self.first_due()?;
        self.tree.node(id).expires_ns()
    }

    /// Applies `Sync`: removes at most 1,000 of the nodes that are due at `stamp`, in order of
    /// expiration. Returns whether more are due.
    pub fn expire(&mut self, stamp: Stamp) -> bool {
        self.time.on_stamp(stamp);
        let now_ns = stamp.cluster_ns;
        let mut expired = 0;
        // The path from which the last stale entry was missing. Entries below it are stale too:
        // they went with the same directory.
        let mut missing: Option<String> = None;
        while let Some(((expires_ns, ..), path)) = self.ttl.first()
            && expires_ns <= now_ns
        {
            if missing.as_ref().is_some_and(|top| is_within(path, top)) {
                self.ttl.drop_first();
                continue;
            }
            let Some((parent, id)) = self.first_due() else {
                if let Lookup::Missing { end, .. } = self.tree.look_up(&KeyPath::new(path)) {
                    missing = Some(path[..end].into());
                }
                self.ttl.drop_first();
                continue;
            };
            if expired == EXPIRE_NODES_MAX {
                return true;
            }
            let prev = self.tree.node(id).view(&path.into());
            self.remove(Action::Expire, parent, id, prev);
            self.stats.count_expired();
            expired += 1;
        }
        self.purge_ttl();
        false
    }

    /// The first node in the index of expirations, as (its directory, the node). `None` if the
    /// index is empty, or if the node of its first entry was removed with a directory above it.
    fn first_due(&self) -> Option<(NodeId, NodeId)> {
        let ((expires_ns, created, _), path) = self.ttl.first()?;
        let Lookup::Node { parent, id } = self.tree.look_up(&KeyPath::new(path)) else {
            return None;
        };
        let node = self.tree.node(id);
        let is_same = node.expires_ns() == Some(expires_ns) && node.created() == created;
        is_same.then_some((parent, id))
    }

    /// Drops stale entries from the front of the index of expirations, a bounded number at once.
    pub(super) fn purge_ttl(&mut self) {
        self.ttl.set_blocked(false);
        if !self.ttl.is_stale() {
            return;
        }
        for _ in 0..PURGE_ENTRIES_MAX {
            if self.ttl.first().is_none() || self.first_due().is_some() {
                return;
            }
            self.ttl.drop_first();
        }
        self.ttl.set_blocked(true);
    }
}
