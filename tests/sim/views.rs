//! What membership commands do to the key space: the views below `/_etcd`.
use super::model::Model;
use std::collections::BTreeMap;
use tern::command::Command;
use tern::store::Action;

/// Name, then id, peer URL and client URL of each member.
#[derive(Clone, Debug, Default)]
pub struct Views {
    members: BTreeMap<Box<str>, (u64, Box<str>, Box<str>)>,
}

impl Views {
    /// Applies a command of the cluster; the others do nothing here.
    pub fn apply(&mut self, model: &mut Model, index: u64, command: &Command) {
        match command {
            Command::Join {
                name,
                peer_url,
                client_url,
                ..
            } => {
                let known = self.members.get(name);
                let same = known.is_some_and(|k| k.1 == *peer_url && k.2 == *client_url);
                let id = known.map_or(index, |k| k.0);
                let action = if known.is_some() { Action::Update } else { Action::Create };
                if !same {
                    self.members.insert(name.clone(), (id, peer_url.clone(), client_url.clone()));
                    model.set_view(action, &path(name), Some("x"));
                }
            }
            Command::Remove { id } => {
                let name = self.members.iter().find(|(_, m)| m.0 == *id).map(|(n, _)| n.clone());
                if let Some(name) = name {
                    self.members.remove(&name);
                    model.set_view(Action::Delete, &path(&name), None);
                }
            }
            Command::SetConfig(_) => model.set_view(Action::Set, "/_etcd/config", Some("x")),
            _ => {}
        }
    }
}

fn path(name: &str) -> String {
    format!("/_etcd/machines/{name}")
}
