//! The commands on the key space, one function each: check, change, publish.
//!
//! Nothing is changed before all checks have passed, so an error leaves the key space and its etcd
//! index as they were. Each change makes one event. Start with `Store::dispatch`.
use super::Store;
use super::edit::NewContent;
use super::event::{Action, EtcdIndex, Event, View};
use super::node::{Lookup, Node};
use super::node_id::NodeId;
use super::stats::Operation;
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::{Code, Error};

/// The conditions of a compare-and-swap or a compare-and-delete; both must hold.
#[derive(Clone, Copy)]
pub(super) struct Conditions<'a> {
    /// The value that the file must have.
    value: Option<&'a str>,
    /// The etcd index that its last change must have.
    index: Option<u64>,
}

impl<'a> Conditions<'a> {
    /// The conditions of a command.
    pub(super) fn new(prev_value: &'a Option<Box<str>>, prev_index: Option<u64>) -> Conditions<'a> {
        Conditions {
            value: prev_value.as_deref(),
            index: prev_index,
        }
    }

    /// The conditions that a file with this value does not meet, as the client reads them.
    pub(super) fn unmet(&self, file: &Node, value: &str) -> Vec<String> {
        let mut unmet = Vec::new();
        if let Some(wanted) = self.value.filter(|wanted| *wanted != value) {
            unmet.push(format!("[{wanted} != {value}]"));
        }
        let modified = file.modified();
        if let Some(wanted) = self.index.filter(|wanted| *wanted != modified) {
            unmet.push(format!("[{wanted} != {modified}]"));
        }
        unmet
    }
}

impl Store {
    /// Carries out a command. Returns the operation as which it is counted, and its outcome.
    ///
    /// # Panics
    ///
    /// If it is not a command on the key space.
    pub(super) fn dispatch(&mut self, command: &Command) -> (Operation, Result<Event, Error>) {
        match command {
            Command::Set { path, value, lease } => {
                let new = NewContent::new(value, *lease);
                (Operation::Set, self.set(path, new))
            }
            Command::Create {
                path,
                value,
                lease,
                naming,
            } => {
                let path = self.created_path(path, *naming);
                let new = NewContent::new(value, *lease);
                (Operation::Create, self.create(&path, new))
            }
            Command::Update {
                path,
                value,
                lease,
                refresh,
            } => {
                let new = NewContent::new(value, *lease);
                (Operation::Update, self.update(path, new, *refresh))
            }
            Command::CompareAndSwap { .. } => self.dispatch_swap(command),
            Command::Delete {
                path,
                dir,
                recursive,
            } => (Operation::Delete, self.delete(path, *dir, *recursive)),
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            } => {
                let conditions = Conditions::new(prev_value, *prev_index);
                let outcome = self.compare_and_delete(path, conditions);
                (Operation::CompareAndDelete, outcome)
            }
            Command::Nop
            | Command::Sync { .. }
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => panic!("not a command on the key space: {command:?}"),
        }
    }

    /// A compare-and-swap that may create counts as a set if the node is missing.
    fn dispatch_swap(&mut self, command: &Command) -> (Operation, Result<Event, Error>) {
        let Command::CompareAndSwap {
            path,
            value,
            lease,
            prev_value,
            prev_index,
            or_create,
            refresh,
        } = command
        else {
            unreachable!("the caller has matched the command");
        };
        let new = NewContent::new(value, *lease);
        if *or_create && let Lookup::Missing { .. } = self.tree.look_up(path) {
            return (Operation::Set, self.set(path, new));
        }
        let conditions = Conditions::new(prev_value, *prev_index);
        let outcome = self.compare_and_swap(path, new, conditions, *refresh);
        (Operation::CompareAndSwap, outcome)
    }

    /// The path of the node that a create makes.
    pub(super) fn created_path(&self, path: &KeyPath, naming: Naming) -> KeyPath {
        let next = self.index + 1;
        match naming {
            Naming::Given => path.clone(),
            Naming::InOrder => KeyPath::new(&format!("{}/{next}", path.as_str())),
            Naming::InOrderPadded => KeyPath::new(&format!("{}/{next:020}", path.as_str())),
        }
    }

    /// Creates a node, or replaces a file with a new node.
    fn set(&mut self, path: &KeyPath, new: NewContent) -> Result<Event, Error> {
        let lookup = self.look_up_writable(path)?;
        let mut prev = None;
        if let Lookup::Node { id, .. } = lookup {
            let present = self.tree.node(id);
            if present.is_dir() {
                return Err(Error::new(Code::NotAFile, path.as_str()));
            }
            prev = Some(present.view(path.shared()));
        }
        self.raise_index();
        let ttl_s = new.ttl_s;
        let node = match (lookup, new.value) {
            (Lookup::Node { id, .. }, Some(value)) if self.freezer.is_idle() => {
                self.replace_file(id, path, value, new.expires_ns)
            }
            (lookup, value) => self.create_at(lookup, path, NewContent { value, ..new }),
        };
        Ok(self.publish(Action::Set, node, ttl_s, prev))
    }

    /// Creates a node where none is.
    fn create(&mut self, path: &KeyPath, new: NewContent) -> Result<Event, Error> {
        let lookup = self.look_up_writable(path)?;
        if let Lookup::Node { .. } = lookup {
            return Err(Error::new(Code::KeyExists, path.as_str()));
        }
        self.raise_index();
        let ttl_s = new.ttl_s;
        let node = self.create_at(lookup, path, new);
        Ok(self.publish(Action::Create, node, ttl_s, None))
    }

    /// Follows a path at which a node is to be put: it leads through no file and is not the root.
    fn look_up_writable(&self, path: &KeyPath) -> Result<Lookup, Error> {
        let lookup = self.tree.look_up(path);
        if let Lookup::File { end, .. } = lookup {
            return Err(Error::new(Code::NotADirectory, &path.as_str()[..end]));
        }
        check_not_root(path)?;
        Ok(lookup)
    }

    fn update(&mut self, path: &KeyPath, new: NewContent, refresh: bool) -> Result<Event, Error> {
        check_not_root(path)?;
        let id = self.tree.find(path)?;
        let node = self.tree.node(id);
        let has_value = new.value.as_ref().is_some_and(|value| !value.is_empty());
        if node.is_dir() && has_value {
            return Err(Error::new(Code::NotAFile, path.as_str()));
        }
        let prev = node.view(path.shared());
        self.raise_index();
        let ttl_s = new.ttl_s;
        let node = self.change_in_place(id, path, new);
        Ok(self.publish_change(Action::Update, node, ttl_s, prev, refresh))
    }

    fn compare_and_swap(
        &mut self,
        path: &KeyPath,
        new: NewContent,
        conditions: Conditions,
        refresh: bool,
    ) -> Result<Event, Error> {
        check_not_root(path)?;
        let (_, id, prev) = self.compare_file(path, conditions)?;
        self.raise_index();
        let ttl_s = new.ttl_s;
        let node = self.change_in_place(id, path, new);
        Ok(self.publish_change(Action::CompareAndSwap, node, ttl_s, prev, refresh))
    }

    fn delete(&mut self, path: &KeyPath, dir: bool, recursive: bool) -> Result<Event, Error> {
        check_not_root(path)?;
        let (parent, id) = self.tree.find_with_parent(path)?;
        let node = self.tree.node(id);
        if let Some(children) = node.children() {
            if !dir && !recursive {
                return Err(Error::new(Code::NotAFile, path.as_str()));
            }
            if !recursive && !children.is_empty() {
                return Err(Error::new(Code::DirectoryNotEmpty, path.as_str()));
            }
        }
        let prev = node.view(path.shared());
        Ok(self.remove(Action::Delete, parent, id, prev))
    }

    fn compare_and_delete(
        &mut self,
        path: &KeyPath,
        conditions: Conditions,
    ) -> Result<Event, Error> {
        let (parent, id, prev) = self.compare_file(path, conditions)?;
        Ok(self.remove(Action::CompareAndDelete, parent, id, prev))
    }

    /// The directory, the number and the view of the file at a path, if the conditions hold.
    ///
    /// # Errors
    ///
    /// 100, 102, 104 if there is no file at the path; 101 with each condition that does not hold.
    fn compare_file(
        &self,
        path: &KeyPath,
        conditions: Conditions,
    ) -> Result<(NodeId, NodeId, View), Error> {
        let (parent, id) = self.tree.find_with_parent(path)?;
        let node = self.tree.node(id);
        let Some(value) = node.value() else {
            return Err(Error::new(Code::NotAFile, path.as_str()));
        };
        let causes = conditions.unmet(node, &value);
        if !causes.is_empty() {
            return Err(Error::new(Code::CompareFailed, causes.join(" ")));
        }
        Ok((parent, id, node.view(path.shared())))
    }

    /// Removes a node, with its descendants, and publishes the event.
    pub(super) fn remove(
        &mut self,
        action: Action,
        parent: NodeId,
        id: NodeId,
        prev: View,
    ) -> Event {
        self.raise_index();
        self.remove_from(parent, id, &prev.key);
        let node = View {
            key: prev.key.clone(),
            value: None,
            // etcd 0.4 omits `dir` when a directory expires.
            dir: prev.dir && action != Action::Expire,
            expires_ns: None,
            modified: EtcdIndex(self.index),
            created: prev.created,
        };
        self.publish(action, node, None, Some(prev))
    }
}

fn check_not_root(path: &KeyPath) -> Result<(), Error> {
    if path.as_str() == "/" {
        return Err(Error::new(Code::RootReadOnly, "/"));
    }
    Ok(())
}
