//! A model of the key space, as simple as possible: one flat map of all nodes. Each question is
//! answered by a pass over all of them.
use std::collections::BTreeMap;
use std::sync::Arc;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::error::Code;
use tern::core::store::{Action, EtcdIndex, Event, ListItem, View};

type Names = Vec<String>;

#[derive(Clone)]
struct Node {
    /// `None`: a directory.
    value: Option<String>,
    expires_ns: Option<u64>,
    modified: u64,
    created: u64,
}

struct Waiting {
    id: u64,
    path: Names,
    recursive: bool,
    stream: bool,
    since: u64,
}

/// The model.
#[derive(Default)]
pub struct Model {
    pub index: u64,
    /// The ttl of the command that is applied, in seconds.
    given_ttl_s: Option<i64>,
    nodes: BTreeMap<Names, Node>,
    waiting: Vec<Waiting>,
    /// All events, without those of refreshes.
    pub events: Vec<Event>,
    /// The watchers that were woken, each with its event.
    pub woken: Vec<(u64, Vec<u64>)>,
}

type Fails = (Code, String);

/// The tests' stamps have equal clocks, so times are shown as the cluster clock has them.
fn until(lease: Option<Lease>) -> Option<u64> {
    lease.map(|lease| lease.deadline_ns())
}

impl Model {
    pub fn apply(&mut self, command: &Command) -> Result<Event, Fails> {
        self.given_ttl_s = command.lease().map(Lease::ttl_s);
        match command.clone() {
            Command::Set { path, value, lease } => {
                self.put(Action::Set, names(&path), value, until(lease))
            }
            Command::Create {
                path,
                value,
                lease,
                naming,
            } => {
                let mut at = names(&path);
                match naming {
                    Naming::Given => {}
                    Naming::InOrder => at.push((self.index + 1).to_string()),
                    Naming::InOrderPadded => at.push(format!("{:020}", self.index + 1)),
                }
                self.put(Action::Create, at, value, until(lease))
            }
            Command::Update {
                path,
                value,
                lease,
                refresh,
            } => {
                let at = names(&path);
                root_stays(&at)?;
                let node = self.find(&at)?;
                if node.value.is_none() && value.as_ref().is_some_and(|v| !v.is_empty()) {
                    return Err((Code::NotAFile, text(&at)));
                }
                Ok(self.change(Action::Update, at, value, until(lease), refresh))
            }
            Command::CompareAndSwap { .. } => self.compare_and_swap(command),
            Command::Delete {
                path,
                dir,
                recursive,
            } => {
                let at = names(&path);
                root_stays(&at)?;
                let node = self.find(&at)?;
                let empty = self.below(&at).is_empty();
                match node.value {
                    None if !dir && !recursive => Err((Code::NotAFile, text(&at))),
                    None if !recursive && !empty => Err((Code::DirectoryNotEmpty, text(&at))),
                    _ => Ok(self.remove(Action::Delete, &at)),
                }
            }
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            } => {
                let at = names(&path);
                self.compare(&at, prev_value.as_deref(), prev_index)?;
                Ok(self.remove(Action::CompareAndDelete, &at))
            }
            other => panic!("not for the key space: {other:?}"),
        }
    }

    fn compare_and_swap(&mut self, command: &Command) -> Result<Event, Fails> {
        let Command::CompareAndSwap {
            path,
            value,
            lease,
            prev_value,
            prev_index,
            or_create,
            refresh,
        } = command.clone()
        else {
            unreachable!("chosen by its kind");
        };
        let at = names(&path);
        root_stays(&at)?;
        match self.compare(&at, prev_value.as_deref(), prev_index) {
            Err((Code::KeyNotFound, _)) if or_create => {
                self.put(Action::Set, at, value, until(lease))
            }
            Err(fails) => Err(fails),
            Ok(()) => Ok(self.change(Action::CompareAndSwap, at, value, until(lease), refresh)),
        }
    }

    fn compare(&self, at: &Names, value: Option<&str>, index: Option<u64>) -> Result<(), Fails> {
        let node = match at.is_empty() {
            true => return Err((Code::NotAFile, "/".into())),
            false => self.find(at)?,
        };
        let Some(have) = &node.value else {
            return Err((Code::NotAFile, text(at)));
        };
        let mut wrong = Vec::new();
        if let Some(value) = value.filter(|v| v != have) {
            wrong.push(format!("[{value} != {have}]"));
        }
        if let Some(index) = index.filter(|index| *index != node.modified) {
            wrong.push(format!("[{index} != {}]", node.modified));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err((Code::CompareFailed, wrong.join(" "))),
        }
    }

    fn find(&self, at: &Names) -> Result<Node, Fails> {
        for end in 1..=at.len() {
            match self.nodes.get(&at[..end]) {
                None => return Err((Code::KeyNotFound, text(&at[..end]))),
                Some(node) if end < at.len() && node.value.is_some() => {
                    return Err((Code::NotADirectory, text(&at[..end])));
                }
                Some(node) if end == at.len() => return Ok(node.clone()),
                Some(_) => {}
            }
        }
        Ok(Node {
            value: None,
            expires_ns: None,
            modified: 0,
            created: 0,
        })
    }

    fn put(
        &mut self,
        action: Action,
        at: Names,
        value: Option<Arc<str>>,
        expires_ns: Option<u64>,
    ) -> Result<Event, Fails> {
        let there = match self.find(&at) {
            Err((Code::KeyNotFound, _)) => None,
            found => Some(found?),
        };
        root_stays(&at)?;
        match &there {
            Some(_) if action == Action::Create => return Err((Code::KeyExists, text(&at))),
            Some(node) if node.value.is_none() => return Err((Code::NotAFile, text(&at))),
            _ => {}
        }
        let prev = there.map(|node| view(&at, &node));
        self.index += 1;
        let index = self.index;
        let new = |value, expires_ns| Node {
            value,
            expires_ns,
            modified: index,
            created: index,
        };
        for end in 1..at.len() {
            let parent = self.nodes.entry(at[..end].to_vec());
            parent.or_insert_with(|| new(None, None));
        }
        let node = new(value.as_deref().map(String::from), expires_ns);
        let after = view(&at, &node);
        self.nodes.insert(at, node);
        Ok(self.publish(action, after, prev, true))
    }

    fn change(
        &mut self,
        action: Action,
        at: Names,
        value: Option<Arc<str>>,
        expires_ns: Option<u64>,
        refresh: bool,
    ) -> Event {
        self.index += 1;
        let node = self.nodes.get_mut(&at).expect("found before");
        let prev = view(&at, node);
        node.expires_ns = expires_ns;
        if let Some(old) = &mut node.value {
            node.modified = self.index;
            if let Some(value) = value {
                *old = value.to_string();
            }
        }
        let mut after = view(&at, node);
        after.modified = EtcdIndex(self.index);
        self.publish(action, after, Some(prev), !refresh)
    }

    fn remove(&mut self, action: Action, at: &Names) -> Event {
        self.index += 1;
        let prev = view(at, &self.nodes[at]);
        self.nodes.retain(|names, _| !names.starts_with(at));
        let after = View {
            value: None,
            dir: prev.dir && action != Action::Expire,
            expires_ns: None,
            modified: EtcdIndex(self.index),
            ..prev.clone()
        };
        self.publish(action, after, Some(prev), true)
    }

    pub fn expire(&mut self, now_ns: u64) {
        loop {
            let due = self
                .nodes
                .iter()
                .filter(|(_, n)| n.expires_ns.is_some_and(|e| e <= now_ns));
            let first = due.min_by_key(|(names, n)| (n.expires_ns, n.created, names.len()));
            match first.map(|(names, _)| names.clone()) {
                Some(names) => _ = self.remove(Action::Expire, &names),
                None => return,
            }
        }
    }

    pub fn next_expiry_ns(&self) -> Option<u64> {
        self.nodes.values().filter_map(|n| n.expires_ns).min()
    }

    fn publish(
        &mut self,
        action: Action,
        node: View,
        prev: Option<View>,
        is_public: bool,
    ) -> Event {
        let ttl_s = node.expires_ns.and(self.given_ttl_s);
        let event = Event {
            action,
            node,
            ttl_s,
            prev,
        };
        if is_public {
            let key = names(&KeyPath::new(&event.node.key));
            let removes = event.removes_directory();
            let reached = |w: &Waiting| {
                let hidden = |rest: &[String]| rest.iter().any(|name| name.starts_with('_'));
                let from_above =
                    w.recursive && key.starts_with(&w.path) && !hidden(&key[w.path.len()..]);
                let from_below = removes && w.path.starts_with(&key);
                self.index >= w.since && (w.path == key || from_above || from_below)
            };
            let mut ids: Vec<u64> = self
                .waiting
                .iter()
                .filter(|w| reached(w))
                .map(|w| w.id)
                .collect();
            ids.sort();
            self.waiting.retain(|w| w.stream || !ids.contains(&w.id));
            if !ids.is_empty() {
                self.woken.push((self.index, ids));
            }
            self.events.push(event.clone());
        }
        event
    }

    /// The events from the index `since` on that a watcher gets from the history. If there is none,
    /// or it is a stream, it waits for further ones.
    pub fn watch(
        &mut self,
        id: u64,
        path: &KeyPath,
        recursive: bool,
        stream: bool,
        since: u64,
    ) -> Vec<Event> {
        let path = names(path);
        let past = self.events.iter().filter(|e| {
            let key = names(&KeyPath::new(&e.node.key));
            e.index().0 >= since
                && (key == path
                    || recursive && key.starts_with(&path)
                    || e.removes_directory() && path.starts_with(&key))
        });
        let past: Vec<Event> = past.cloned().collect();
        if past.is_empty() || stream {
            self.waiting.push(Waiting {
                id,
                path,
                recursive,
                stream,
                since: since.max(self.index + 1),
            });
        }
        past
    }

    pub fn unwatch(&mut self, id: u64) {
        self.waiting.retain(|w| w.id != id);
    }

    fn below(&self, at: &Names) -> Vec<(&Names, &Node)> {
        let all = self.nodes.iter();
        all.filter(|(names, _)| names.len() > at.len() && names.starts_with(at))
            .collect()
    }

    /// A node and its descendants, in the order of listings.
    pub fn list(&self, path: &KeyPath, recursive: bool, all: bool) -> Result<Vec<ListItem>, Fails> {
        let at = names(path);
        let top = self.find(&at)?;
        let mut items = vec![ListItem {
            depth: 0,
            view: view(&at, &top),
        }];
        for (names, node) in self.below(&at) {
            let below = &names[at.len()..];
            let hidden = below.iter().any(|name| name.starts_with('_'));
            if (all || !hidden) && (recursive || below.len() == 1) {
                items.push(ListItem {
                    depth: below.len() as u32,
                    view: view(names, node),
                });
            }
        }
        Ok(items)
    }
}

fn root_stays(at: &Names) -> Result<(), Fails> {
    match at.is_empty() {
        true => Err((Code::RootReadOnly, "/".into())),
        false => Ok(()),
    }
}

fn names(path: &KeyPath) -> Names {
    path.segments().map(String::from).collect()
}

fn text(names: &[String]) -> String {
    format!("/{}", names.join("/"))
}

fn view(names: &[String], node: &Node) -> View {
    View {
        key: text(names).into(),
        value: node.value.as_deref().map(Arc::from),
        dir: node.value.is_none(),
        expires_ns: node.expires_ns,
        modified: EtcdIndex(node.modified),
        created: EtcdIndex(node.created),
    }
}
