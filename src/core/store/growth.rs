//! How much larger a command makes the key space, judged before it is proposed.
//!
//! Each command is followed here as `write` follows it, without a change. Start with
//! `Store::growth`.
use super::Store;
use super::node::{Lookup, NODE_BYTES};
use super::node_id::NodeId;
use super::path::depth_of;
use super::write::Conditions;
use crate::core::command::{Command, KeyPath};

/// The longest name that a create in order gives: the digits of a `u64`.
const ORDERED_NAME_BYTES_MAX: u64 = 20;

impl Store {
    /// By how many bytes `bytes` would grow if the command were applied now; 0 if it only removes,
    /// or replaces a value by one that is no longer. `None` if it would be refused now.
    pub fn growth(&self, command: &Command) -> Option<u64> {
        match command {
            Command::Set { path, value, .. } => self.growth_of_set(path, value.as_deref()),
            Command::Create {
                path,
                value,
                naming,
                ..
            } => {
                let path = self.created_path(path, *naming);
                match self.tree.look_up(&path) {
                    Lookup::Missing { start, .. } => {
                        Some(growth_of_new(&path, start, value.as_deref()))
                    }
                    Lookup::Node { .. } | Lookup::Root | Lookup::File { .. } => None,
                }
            }
            Command::Update { path, value, .. } => match self.tree.look_up(path) {
                Lookup::Node { id, .. } => self.growth_of_change(id, value.as_deref()),
                Lookup::Missing { .. } | Lookup::Root | Lookup::File { .. } => None,
            },
            Command::CompareAndSwap { .. } => self.growth_of_swap(command),
            _ => Some(0),
        }
    }

    fn growth_of_set(&self, path: &KeyPath, value: Option<&str>) -> Option<u64> {
        match self.tree.look_up(path) {
            Lookup::Missing { start, .. } => Some(growth_of_new(path, start, value)),
            Lookup::Node { id, .. } => {
                let old = self.tree.node(id).value()?;
                let new_bytes = value.map_or(0, str::len);
                Some(new_bytes.saturating_sub(old.len()) as u64)
            }
            Lookup::Root | Lookup::File { .. } => None,
        }
    }

    fn growth_of_swap(&self, command: &Command) -> Option<u64> {
        let Command::CompareAndSwap {
            path,
            value,
            prev_value,
            prev_index,
            or_create,
            ..
        } = command
        else {
            unreachable!("the caller has matched the command");
        };
        match self.tree.look_up(path) {
            Lookup::Node { id, .. } => {
                let file = self.tree.node(id);
                let conditions = Conditions::new(prev_value, *prev_index);
                if !conditions.unmet(file, &file.value()?).is_empty() {
                    return None;
                }
                self.growth_of_change(id, value.as_deref())
            }
            Lookup::Missing { start, .. } if *or_create => {
                Some(growth_of_new(path, start, value.as_deref()))
            }
            Lookup::Missing { .. } | Lookup::Root | Lookup::File { .. } => None,
        }
    }

    /// The growth by a change in place. A directory takes no value but an empty one, and a file
    /// without a new value keeps its own.
    fn growth_of_change(&self, id: NodeId, value: Option<&str>) -> Option<u64> {
        let new_bytes = value.map_or(0, str::len);
        match self.tree.node(id).value() {
            Some(old) => Some(new_bytes.saturating_sub(old.len()) as u64),
            None => (new_bytes == 0).then_some(0),
        }
    }
}

/// By how many bytes a command that writes new content makes a key space larger at most: as if all
/// nodes of its path were new. `None` for other commands.
pub fn growth_max(command: &Command) -> Option<u64> {
    let (path, value) = command.content()?;
    // One node more, which a create in order names.
    let nodes = u64::from(depth_of(path.as_str())) + 1;
    let name_bytes = path.as_str().len() as u64 + ORDERED_NAME_BYTES_MAX;
    let value_bytes = value.map_or(0, str::len) as u64;
    Some(nodes * NODE_BYTES + name_bytes + value_bytes)
}

/// The size of a new node at `path`, and of the directories that are missing: their names begin at
/// `start`.
fn growth_of_new(path: &KeyPath, start: usize, value: Option<&str>) -> u64 {
    let names = path.as_str()[start..].split('/');
    let nodes = names.map(|name| NODE_BYTES + name.len() as u64);
    nodes.sum::<u64>() + value.map_or(0, str::len) as u64
}
