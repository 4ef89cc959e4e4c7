//! What membership commands do to the key space: the views below `/_etcd`.
use super::model::Model;
use std::collections::BTreeMap;
use tern::core::command::Command;
use tern::core::store::Action;

/// Name, then id, peer URL and client URL of each member.
#[derive(Clone, Debug, Default)]
pub struct Views {
    members: BTreeMap<Box<str>, (u64, Box<str>, Box<str>)>,
}

impl Views {
    /// Applies a command of the cluster; the others do nothing here.
    pub fn apply(&mut self, model: &mut Model, index: u64, command: &Command) {
        match command {
            // A machine that was added before it starts has no view.
            Command::Join {
                peer_url,
                client_url,
                ..
            } if peer_url == client_url => {}
            Command::Join {
                name,
                peer_url,
                client_url,
                replaces,
                ..
            } => {
                let known = self.members.get(name);
                let same = known.is_some_and(|k| k.1 == *peer_url && k.2 == *client_url);
                let id = known
                    .filter(|k| Some(k.0) != *replaces)
                    .map_or(index, |k| k.0);
                let action = if known.is_some() {
                    Action::Update
                } else {
                    Action::Create
                };
                self.members
                    .insert(name.clone(), (id, peer_url.clone(), client_url.clone()));
                if !same {
                    let value = format!("etcd={}&raft={}", escaped(client_url), escaped(peer_url));
                    model.set_view(action, &path(name), Some(&value));
                }
            }
            Command::Remove { id, .. } => {
                let name = self
                    .members
                    .iter()
                    .find(|(_, m)| m.0 == *id)
                    .map(|(n, _)| n.clone());
                if let Some(name) = name {
                    self.members.remove(&name);
                    model.set_view(Action::Delete, &path(&name), None);
                }
            }
            Command::SetConfig(config) => {
                let seconds = |ms: u64| ms as f64 / 1_000.0;
                let value = format!(
                    "{{\"activeSize\":{},\"removeDelay\":{},\"syncInterval\":{}}}",
                    config.active_size,
                    seconds(config.remove_delay_ms),
                    seconds(config.sync_interval_ms)
                );
                model.set_view(Action::Set, "/_etcd/config", Some(&value));
            }
            _ => {}
        }
    }
}

fn path(name: &str) -> String {
    format!("/_etcd/machines/{name}")
}

/// The simulator's URLs hold only two characters that are escaped.
fn escaped(url: &str) -> String {
    url.replace(':', "%3A").replace('/', "%2F")
}
