//! The nodes under `/_etcd`, which show the cluster's machines and configuration.
//!
//! They are written when an entry about members or the config is applied. The write cannot fail: a
//! file that a client has put at a directory of the path is removed without an event.
use super::Store;
use super::edit::NewContent;
use super::event::{Action, EtcdIndex, Event, View};
use super::node::Lookup;
use super::node_id::NodeId;
use super::stats::Operation;
use crate::core::command::KeyPath;

impl Store {
    /// Writes or removes a node of the cluster view and publishes the event. Missing directories
    /// are created. The removal of a missing node makes an event too.
    ///
    /// # Panics
    ///
    /// If `action` is none of `Create`, `Set` and `Update` with a value and `Delete` without, or
    /// `path` is the root.
    pub fn set_view(&mut self, action: Action, path: &KeyPath, value: Option<&str>) -> Event {
        let operation = match action {
            Action::Create => Operation::Create,
            Action::Set => Operation::Set,
            Action::Update => Operation::Update,
            Action::Delete => Operation::Delete,
            Action::Get | Action::CompareAndSwap | Action::CompareAndDelete | Action::Expire => {
                panic!("no action of the cluster view: {action:?}")
            }
        };
        let is_delete = action == Action::Delete;
        assert_eq!(value.is_none(), is_delete, "a value unless it is removed");
        self.stats.count(operation, true);
        self.clear_way(path);
        match self.tree.look_up(path) {
            Lookup::Node { id, parent } if is_delete => {
                let prev = self.tree.node(id).view(path.shared());
                self.remove(action, parent, id, prev)
            }
            Lookup::Node { id, parent } => self.set_present_view(action, parent, id, path, value),
            lookup @ Lookup::Missing { .. } => {
                self.raise_index();
                let node = if is_delete {
                    self.missing_view(path)
                } else {
                    self.create_at(lookup, path, NewContent::permanent(value))
                };
                self.publish(action, node, None, None)
            }
            Lookup::Root => panic!("the root is no cluster view"),
            Lookup::File { .. } => unreachable!("the way is clear"),
        }
    }

    fn set_present_view(
        &mut self,
        action: Action,
        parent: NodeId,
        id: NodeId,
        path: &KeyPath,
        value: Option<&str>,
    ) -> Event {
        let prev = self.tree.node(id).view(path.shared());
        let new = NewContent::permanent(value);
        self.raise_index();
        let node = if action == Action::Update && !prev.dir {
            self.change_in_place(id, path, new)
        } else {
            self.create_at(Lookup::Node { parent, id }, path, new)
        };
        self.publish(action, node, None, Some(prev))
    }

    /// The node of the event for the removal of a missing node.
    fn missing_view(&self, path: &KeyPath) -> View {
        View {
            key: path.shared().clone(),
            value: None,
            dir: false,
            expires_ns: None,
            modified: EtcdIndex(self.index),
            created: EtcdIndex(self.index),
        }
    }

    /// Removes a file that stands where a directory is needed, without an event.
    fn clear_way(&mut self, path: &KeyPath) {
        if let Lookup::File { parent, id, end } = self.tree.look_up(path) {
            self.remove_from(parent, id, &path.as_str()[..end]);
        }
    }
}
