//! The small sequential model of the key space: what each committed command means, written for
//! clearness alone.
//!
//! Nodes stand in one sorted map by path. Every change is an event with its etcd index; the list of
//! all events is what answers and watchers are checked against. Nothing is shared with
//! `tern::core::store` but the types of events and errors. Start at `Model::apply`.
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::error::Code;
use tern::core::store::{Action, EtcdIndex, Event, View};

#[derive(Clone, Debug)]
struct Node {
    /// A directory has none.
    value: Option<Arc<str>>,
    /// On the cluster clock.
    expires_ns: Option<u64>,
    modified: u64,
    created: u64,
}

/// An event and whether watchers are spared it.
#[derive(Clone, Debug)]
pub struct Told {
    pub event: Event,
    pub silent: bool,
}

#[derive(Default)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
    /// The event at etcd index `i` stands at `i - 1`.
    pub events: Vec<Told>,
    /// By path: the etcd index of each change and the node from then on.
    past: BTreeMap<String, Vec<(u64, Option<View>)>>,
    /// By how much a time is shown later than the cluster clock has it. Follows the leader's wall
    /// clock in steps of more than two seconds.
    shown_later_ns: i64,
    /// The ttl of the command that is applied, in seconds.
    given_ttl_s: Option<i64>,
}

type Answer = Result<Event, Code>;

fn until(lease: Option<Lease>) -> Option<u64> {
    lease.map(|lease| lease.deadline_ns())
}

fn parent(path: &str) -> &str {
    &path[..path.rfind('/').expect("a path starts with /")]
}

impl Model {
    pub fn index(&self) -> u64 {
        self.events.len() as u64
    }

    /// The event with this etcd index.
    pub fn event(&self, index: u64) -> Option<&Told> {
        self.events.get(index.checked_sub(1)? as usize)
    }

    fn view(&self, path: &str, node: &Node) -> View {
        View {
            key: path.into(),
            value: node.value.clone(),
            dir: node.value.is_none(),
            expires_ns: node
                .expires_ns
                .map(|at_ns| at_ns.saturating_add_signed(self.shown_later_ns)),
            modified: EtcdIndex(node.modified),
            created: EtcdIndex(node.created),
        }
    }

    fn tell(&mut self, action: Action, node: View, prev: Option<View>, silent: bool) -> Event {
        let ttl_s = node.expires_ns.and(self.given_ttl_s);
        let event = Event {
            action,
            node,
            ttl_s,
            prev,
        };
        let ends = matches!(
            action,
            Action::Delete | Action::Expire | Action::CompareAndDelete
        );
        let after = (!ends).then(|| event.node.clone());
        self.past
            .entry(event.node.key.to_string())
            .or_default()
            .push((event.node.modified.0, after));
        self.events.push(Told {
            event: event.clone(),
            silent,
        });
        event
    }

    /// The directories above `path` that have to be made; an error when a file stands in the way.
    fn missing_parents(&self, path: &str) -> Result<Vec<String>, Code> {
        let mut missing = Vec::new();
        let mut at = parent(path);
        while !at.is_empty() {
            match self.nodes.get(at) {
                Some(n) if n.value.is_some() => return Err(Code::NotADirectory),
                Some(_) => break,
                None => missing.push(at.to_string()),
            }
            at = parent(at);
        }
        Ok(missing)
    }

    /// Puts a new node in place, and the directories above it.
    fn put(
        &mut self,
        action: Action,
        path: &str,
        value: Option<Arc<str>>,
        expires_ns: Option<u64>,
    ) -> Answer {
        let next = self.index() + 1;
        let fresh = |value, expires_ns| Node {
            value,
            expires_ns,
            modified: next,
            created: next,
        };
        for dir in self.missing_parents(path)? {
            self.nodes.insert(dir, fresh(None, None));
        }
        let prev = self.nodes.get(path).map(|n| self.view(path, n));
        let node = fresh(value, expires_ns);
        let view = self.view(path, &node);
        self.nodes.insert(path.to_string(), node);
        Ok(self.tell(action, view, prev, false))
    }

    fn set(&mut self, path: &str, value: Option<Arc<str>>, expires_ns: Option<u64>) -> Answer {
        if path == "/" {
            return Err(Code::RootReadOnly);
        }
        if self.nodes.get(path).is_some_and(|n| n.value.is_none()) {
            return Err(Code::NotAFile);
        }
        self.put(Action::Set, path, value, expires_ns)
    }

    fn create(
        &mut self,
        path: &str,
        value: Option<Arc<str>>,
        expires_ns: Option<u64>,
        naming: Naming,
    ) -> Answer {
        let base = if path == "/" { "" } else { path };
        let next = self.index() + 1;
        let full = match naming {
            Naming::Given => path.to_string(),
            Naming::InOrder => format!("{base}/{next}"),
            Naming::InOrderPadded => format!("{base}/{next:020}"),
        };
        if full == "/" {
            return Err(Code::RootReadOnly);
        }
        if self.nodes.contains_key(&full) {
            return Err(Code::KeyExists);
        }
        self.put(Action::Create, &full, value, expires_ns)
    }

    /// An existing node that may be changed.
    fn find(&self, path: &str) -> Result<Node, Code> {
        if path == "/" {
            return Err(Code::RootReadOnly);
        }
        if let Some(node) = self.nodes.get(path) {
            return Ok(node.clone());
        }
        // The deepest thing there is may be a file.
        let mut at = parent(path);
        while !at.is_empty() {
            match self.nodes.get(at) {
                Some(n) if n.value.is_some() => return Err(Code::NotADirectory),
                Some(_) => break,
                None => at = parent(at),
            }
        }
        Err(Code::KeyNotFound)
    }

    fn update(
        &mut self,
        path: &str,
        value: Option<Arc<str>>,
        expires_ns: Option<u64>,
        refresh: bool,
    ) -> Answer {
        let old = self.find(path)?;
        let dir = old.value.is_none();
        if dir && value.is_some() {
            return Err(Code::NotAFile);
        }
        let next = self.index() + 1;
        let prev = self.view(path, &old);
        let node = Node {
            value: if dir { None } else { value.or(old.value) },
            expires_ns,
            modified: if dir { old.modified } else { next },
            created: old.created,
        };
        let mut view = self.view(path, &node);
        view.modified = EtcdIndex(next);
        self.nodes.insert(path.to_string(), node);
        Ok(self.tell(Action::Update, view, Some(prev), refresh))
    }

    fn compare(node: &Node, value: &Option<Box<str>>, index: Option<u64>) -> Result<(), Code> {
        let wrong_value = value
            .as_ref()
            .is_some_and(|v| Some(&**v) != node.value.as_deref());
        let wrong_index = index.is_some_and(|index| index != node.modified);
        if wrong_value || wrong_index {
            return Err(Code::CompareFailed);
        }
        Ok(())
    }

    fn swap(
        &mut self,
        path: &str,
        new: (Option<Arc<str>>, Option<u64>, bool),
        want: (&Option<Box<str>>, Option<u64>),
    ) -> Answer {
        let old = self.find(path)?;
        if old.value.is_none() {
            return Err(Code::NotAFile);
        }
        Model::compare(&old, want.0, want.1)?;
        let prev = self.view(path, &old);
        let (value, expires_ns, refresh) = new;
        let node = Node {
            value: value.or(old.value),
            expires_ns,
            modified: self.index() + 1,
            created: old.created,
        };
        let view = self.view(path, &node);
        self.nodes.insert(path.to_string(), node);
        Ok(self.tell(Action::CompareAndSwap, view, Some(prev), refresh))
    }

    fn below(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let from = Bound::Included(prefix.clone());
        let range = self.nodes.range((from, Bound::Unbounded));
        range
            .map(|(p, _)| p.clone())
            .take_while(|p| p.starts_with(&prefix))
            .collect()
    }

    fn remove(&mut self, action: Action, path: &str) -> Event {
        let old = self.nodes.remove(path).expect("what is removed exists");
        for child in self.below(path) {
            self.nodes.remove(&child);
        }
        let prev = self.view(path, &old);
        let view = View {
            value: None,
            expires_ns: None,
            modified: EtcdIndex(self.index() + 1),
            ..prev.clone()
        };
        self.tell(action, view, Some(prev), false)
    }

    fn delete(&mut self, path: &str, dir: bool, recursive: bool) -> Answer {
        let node = self.find(path)?;
        if node.value.is_none() {
            if !dir && !recursive {
                return Err(Code::NotAFile);
            }
            if !recursive && !self.below(path).is_empty() {
                return Err(Code::DirectoryNotEmpty);
            }
        }
        Ok(self.remove(Action::Delete, path))
    }

    fn compare_delete(
        &mut self,
        path: &str,
        value: &Option<Box<str>>,
        index: Option<u64>,
    ) -> Answer {
        let node = self.find(path)?;
        if node.value.is_none() {
            return Err(Code::NotAFile);
        }
        Model::compare(&node, value, index)?;
        Ok(self.remove(Action::CompareAndDelete, path))
    }

    fn expire(&mut self, now_ns: u64) {
        for _ in 0..1_000 {
            let due = self
                .nodes
                .iter()
                .filter_map(|(p, n)| Some((n.expires_ns?, n.created, p.matches('/').count(), p)));
            let Some((.., path)) = due.filter(|(e, ..)| *e <= now_ns).min() else {
                return;
            };
            let path = path.clone();
            self.remove(Action::Expire, &path);
        }
    }

    /// What a command on the key space answers; `None` for one that answers nothing.
    pub fn apply(&mut self, command: &Command) -> Option<Answer> {
        self.given_ttl_s = command.lease().map(Lease::ttl_s);
        if let Some(stamp) = command.stamp() {
            let later_ns = stamp.wall_ns as i64 - stamp.cluster_ns as i64;
            if later_ns.abs_diff(self.shown_later_ns) > 2_000_000_000 {
                self.shown_later_ns = later_ns;
            }
        }
        Some(match command {
            Command::Set { path, value, lease } => {
                self.set(path.as_str(), value.clone(), until(*lease))
            }
            Command::Create {
                path,
                value,
                lease,
                naming,
            } => self.create(path.as_str(), value.clone(), until(*lease), *naming),
            Command::Update {
                path,
                value,
                lease,
                refresh,
            } => self.update(path.as_str(), value.clone(), until(*lease), *refresh),
            Command::CompareAndSwap {
                path,
                value,
                lease,
                or_create,
                ..
            } if *or_create && matches!(self.find(path.as_str()), Err(Code::KeyNotFound)) => {
                self.set(path.as_str(), value.clone(), until(*lease))
            }
            Command::CompareAndSwap {
                path,
                value,
                lease,
                prev_value,
                prev_index,
                refresh,
                ..
            } => {
                let new = (value.clone(), until(*lease), *refresh);
                self.swap(path.as_str(), new, (prev_value, *prev_index))
            }
            Command::Delete {
                path,
                dir,
                recursive,
            } => self.delete(path.as_str(), *dir, *recursive),
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            } => self.compare_delete(path.as_str(), prev_value, *prev_index),
            Command::Sync { stamp } => {
                self.expire(stamp.cluster_ns);
                return None;
            }
            Command::Nop
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => return None,
        })
    }

    /// A view of the cluster below `/_etcd` is written, or removed when there is no value.
    pub fn set_view(&mut self, action: Action, path: &str, value: Option<&str>) {
        match value {
            Some(value) if action == Action::Update => {
                let _ = self.update(path, Some(value.into()), None, false);
            }
            Some(value) => {
                let _ = self.put(action, path, Some(value.into()), None);
            }
            None => {
                if self.nodes.contains_key(path) {
                    self.remove(action, path);
                }
            }
        }
    }

    /// A file as it was at an etcd index; it must not be below a directory that was removed.
    pub fn view_at(&self, path: &str, etcd: u64) -> Option<View> {
        let past = self.past.get(path)?;
        let behind = past.partition_point(|(at, _)| *at <= etcd);
        past[behind.checked_sub(1)?].1.clone()
    }

    /// The names of the files in a directory at an etcd index, as `view_at`.
    pub fn names_at(&self, directory: &str, etcd: u64) -> Vec<&str> {
        let prefix = format!("{directory}/");
        let below = self.past.range(prefix.clone()..);
        let below = below.take_while(|(path, _)| path.starts_with(&prefix));
        let present = below.filter(|(path, _)| self.view_at(path, etcd).is_some());
        present.map(|(path, _)| &path[prefix.len()..]).collect()
    }
}

/// Whether an event reaches a watcher of `path`; the history has events of hidden nodes too.
pub fn reaches(told: &Told, path: &KeyPath, recursive: bool, past: bool) -> bool {
    let (at, watched) = (&*told.event.node.key, path.as_str());
    if told.silent {
        return false;
    }
    if at == watched {
        return true;
    }
    let below = |outer: &str, inner: &str| -> Option<usize> {
        let outer = if outer == "/" { "" } else { outer };
        let rest = inner.strip_prefix(outer)?;
        rest.starts_with('/').then_some(outer.len())
    };
    if recursive && let Some(cut) = below(watched, at) {
        return past || !at[cut..].contains("/_");
    }
    // The end of a directory wakes the watchers below it.
    let ends = matches!(
        told.event.action,
        Action::Delete | Action::Expire | Action::CompareAndDelete
    );
    ends && told.event.node.dir && below(at, watched).is_some()
}
