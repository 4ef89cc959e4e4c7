//! The changes of the tree from which all commands are made: create, replace, change in place,
//! remove.
//!
//! Each keeps three things in agreement: the tree, the index of expirations, and the freezes. The
//! freezer first saves the old state of a node that a reader has yet to read. The callers have
//! checked that the change is allowed, and raised the etcd index. No event is made here.
use super::Store;
use super::event::{EtcdIndex, ValueRef, View};
use super::node::{Lookup, Node};
use super::node_id::NodeId;
use super::path::{depth_of, name_of, name_start};
use super::ttl::due_of;
use crate::core::cluster_time::Lease;
use crate::core::command::KeyPath;
use std::sync::Arc;

/// The content that a command puts at a path.
pub(super) struct NewContent {
    /// A file's value. `None` makes a directory, or in a change keeps the value.
    pub(super) value: Option<Arc<str>>,
    /// In nanoseconds on the cluster clock. `None`: never.
    pub(super) expires_ns: Option<u64>,
    /// The ttl that leads to it, in seconds.
    pub(super) ttl_s: Option<i64>,
}

impl NewContent {
    pub(super) fn new(value: &Option<Arc<str>>, lease: Option<Lease>) -> NewContent {
        NewContent {
            value: value.clone(),
            expires_ns: lease.map(|lease| lease.deadline_ns()),
            ttl_s: lease.map(|lease| lease.ttl_s()),
        }
    }

    /// A value that never expires; `None` makes a directory.
    pub(super) fn permanent(value: Option<&str>) -> NewContent {
        NewContent {
            value: value.map(Arc::from),
            expires_ns: None,
            ttl_s: None,
        }
    }
}

impl Store {
    /// Puts a new node where `lookup` of `path` has led to, at the present etcd index. Missing
    /// directories are created; a node in the place is removed.
    ///
    /// # Panics
    ///
    /// If the path leads through a file or is the root.
    pub(super) fn create_at(&mut self, lookup: Lookup, path: &KeyPath, new: NewContent) -> View {
        let text = path.as_str();
        let (mut dir, start) = match lookup {
            Lookup::Node { parent, id } => {
                self.remove_from(parent, id, text);
                (parent, name_start(text))
            }
            Lookup::Missing { dir, start, .. } => (dir, start),
            Lookup::Root | Lookup::File { .. } => unreachable!("refused by the callers"),
        };
        let leaf = name_start(text);
        if start < leaf {
            for name in text[start..leaf - 1].split('/') {
                dir = self
                    .tree
                    .insert(dir, name, Node::new(None, None, self.index));
            }
        }
        let node = Node::new(new.value.as_ref(), new.expires_ns, self.index);
        self.ttl.add(due_of(&node, depth_of(text)), text);
        let view = node.view_with(path.shared(), new.value);
        self.tree.insert(dir, &text[leaf..], node);
        view
    }

    /// Puts a new file in the place of a file, as `create_at` does, without touching the directory.
    /// Only while nothing is frozen: a freeze may need the old file.
    pub(super) fn replace_file(
        &mut self,
        id: NodeId,
        path: &KeyPath,
        value: Arc<str>,
        expires_ns: Option<u64>,
    ) -> View {
        let text = path.as_str();
        let depth = depth_of(text);
        let old_due = due_of(self.tree.node(id), depth);
        let index = self.index;
        let node = self.tree.change(id, |node| {
            node.become_file(&value, expires_ns, index);
        });
        self.ttl.remove(old_due);
        self.ttl.add(due_of(node, depth), text);
        node.view_with(path.shared(), Some(value))
    }

    /// Changes a node in place: the value and the expiration of a file, the expiration alone of a
    /// directory. The view has the index of the change even for a directory.
    pub(super) fn change_in_place(&mut self, id: NodeId, path: &KeyPath, new: NewContent) -> View {
        let text = path.as_str();
        self.freezer.save(id, self.tree.node(id), text, self.index);
        let depth = depth_of(text);
        let old_due = due_of(self.tree.node(id), depth);
        let index = self.index;
        let node = self.tree.change(id, |node| {
            node.set_expiry(new.expires_ns);
            node.modify_file(new.value.as_ref(), index);
        });
        self.ttl.remove(old_due);
        self.ttl.add(due_of(node, depth), text);
        let value = new.value.filter(|_| !node.is_dir());
        let value = value.or_else(|| node.value().map(ValueRef::to_shared));
        let mut view = node.view_with(path.shared(), value);
        view.modified = EtcdIndex(self.index);
        view
    }

    /// Removes a node, with its descendants, from its directory. A node that a freeze keeps is
    /// freed after the freeze. Otherwise a node without children is freed at once, and a directory
    /// by `Reclaim`, a portion a turn.
    pub(super) fn remove_from(&mut self, parent: NodeId, id: NodeId, path: &str) {
        let depth = depth_of(path);
        let taken = self.tree.take_child(parent, name_of(path));
        assert_eq!(taken, Some(id), "the directory holds the node");
        let node = self.tree.node(id);
        self.ttl.remove(due_of(node, depth));
        let is_childless = node.children().is_none_or(|children| children.is_empty());
        let is_kept = self.freezer.keep(parent, id, node, path, self.index);
        if !is_childless {
            self.ttl.set_stale(true);
        }
        if is_kept {
            return;
        }
        if is_childless {
            self.tree.release(id);
        } else {
            self.reclaim.add(id, depth);
        }
    }
}
