//! The nodes of removed directories that are still to be freed, a bounded number a turn.
//!
//! Only entries of the index of expirations still refer to them. They are removed together.
use super::node::KeyTree;
use super::node_id::NodeId;
use super::ttl::{Ttl, due_of};
use crate::core::allocator::join_freed_blocks;

/// Most nodes that are freed at once: about a tenth of a millisecond. Half of what one command can
/// create, so that clients that create and remove in turn do not fill the memory.
const FREE_NODES_MAX: usize = 512;

/// After how many freed nodes their blocks are joined: about 0.4 ms. New nodes reuse blocks that are
/// not joined, at half the cost.
const JOINED_NODES: usize = 4096;

/// The nodes that are still to be freed.
#[derive(Default)]
pub struct Reclaim {
    /// A stack of removed nodes with their depths. The last one is freed next. A directory is freed
    /// after its children: they are taken out one by one, and a child that is a directory is
    /// pushed.
    pending: Vec<(NodeId, u32)>,
    /// How many nodes were freed since their blocks were joined last; less than `JOINED_NODES` between
    /// two calls.
    unjoined: usize,
}

impl Reclaim {
    /// Adds a node, with its descendants.
    pub fn add(&mut self, id: NodeId, depth: u32) {
        self.pending.push((id, depth));
    }

    /// Adds nodes, each with its descendants.
    pub fn add_all(&mut self, nodes: Vec<(NodeId, u32)>) {
        self.pending.extend(nodes);
    }

    /// Whether nothing is left to free.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Frees at most `FREE_NODES_MAX` nodes.
    pub fn free_some(&mut self, tree: &mut KeyTree, ttl: &mut Ttl) {
        let mut freed = 0;
        while freed < FREE_NODES_MAX
            && let Some((id, depth)) = self.pending.last().copied()
        {
            match tree.take_first_child(id) {
                Some(child) if tree.node(child).is_dir() => {
                    self.pending.push((child, depth + 1));
                }
                Some(child) => {
                    free(child, depth + 1, tree, ttl);
                    freed += 1;
                }
                None => {
                    self.pending.pop();
                    free(id, depth, tree, ttl);
                    freed += 1;
                }
            }
        }
        self.unjoined += freed;
        if self.unjoined >= JOINED_NODES {
            self.unjoined = 0;
            join_freed_blocks();
        }
    }
}

fn free(id: NodeId, depth: u32, tree: &mut KeyTree, ttl: &mut Ttl) {
    ttl.remove(due_of(tree.node(id), depth));
    tree.release(id);
}
