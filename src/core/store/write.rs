//! The commands on the key space, one function each: check, then change, then tell.
//!
//! Nothing is changed before all checks have passed, so an error leaves the key space, and its
//! index, as they were. Each change makes one event. Start with `Store::carry_out`.
use super::event::{Action, EtcdIndex, Event, View};
use super::fault::Fault;
use super::freeze::{Freeze, depth_of};
use super::history::is_within;
use super::node::{Body, Node, NodeId, PERMANENT, Place};
use super::stats::Counted;
use super::{Notice, Store};
use crate::core::command::{Command, KeyPath, Naming};
use crate::core::error::{Code, Error};

/// At most this many nodes expire in one command.
const EXPIRE_MAX: usize = 1000;
/// At most this many entries of removed nodes are dropped from the ttl index at once.
const PURGE_MAX: usize = 1000;

/// What a compare-and-swap or a compare-and-delete asks for; an index of 0 is no condition.
#[derive(Clone, Copy)]
struct Condition<'a> {
    value: Option<&'a str>,
    index: u64,
}

/// What to put at a path.
#[derive(Clone, Copy)]
struct Content<'a> {
    value: Option<&'a str>,
    expires_ns: Option<u64>,
}

impl Store {
    /// Dispatches a command and says as what it counts.
    pub(super) fn carry_out(&mut self, command: &Command) -> (Counted, Result<Event, Error>) {
        match command {
            Command::Set {
                path,
                value,
                expires_ns,
            } => {
                let content = content(value, *expires_ns);
                (Counted::Set, self.put(Action::Set, path, content))
            }
            Command::Create {
                path,
                value,
                expires_ns,
                naming,
            } => {
                let path = self.named(path, *naming);
                let content = content(value, *expires_ns);
                (Counted::Create, self.put(Action::Create, &path, content))
            }
            Command::Update {
                path,
                value,
                expires_ns,
                refresh,
            } => {
                let content = content(value, *expires_ns);
                (Counted::Update, self.update(path, content, *refresh))
            }
            Command::CompareAndSwap { .. } => self.compare_and_swap(command),
            Command::Delete {
                path,
                dir,
                recursive,
            } => (Counted::Delete, self.delete(path, *dir, *recursive)),
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            } => {
                let condition = Condition {
                    value: prev_value.as_deref(),
                    index: *prev_index,
                };
                let outcome = self.compare_and_delete(path, condition);
                (Counted::CompareAndDelete, outcome)
            }
            Command::Nop
            | Command::Sync { .. }
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => panic!("not a command on the key space: {command:?}"),
        }
    }

    /// Where a created node goes.
    fn named(&self, path: &KeyPath, naming: Naming) -> KeyPath {
        let next = self.index + 1;
        match naming {
            Naming::Given => path.clone(),
            Naming::InOrder => KeyPath::new(&format!("{}/{next}", path.as_str())),
            Naming::InOrderPadded => KeyPath::new(&format!("{}/{next:020}", path.as_str())),
        }
    }

    /// `Set` puts a new node in the place of a file; `Create` wants the place empty. Missing
    /// parents are made.
    fn put(&mut self, action: Action, path: &KeyPath, content: Content) -> Result<Event, Error> {
        let place = self.tree.look_up(path);
        if let Place::File { end, .. } = place {
            return Err(Error::new(Code::NotADirectory, &path.as_str()[..end]));
        }
        check_not_root(path)?;
        let mut prev = None;
        if let Place::Node { id, .. } = place {
            let there = self.tree.node(id);
            match action {
                Action::Create if self.has(Fault::CreateReplaces) && !there.is_dir() => {}
                Action::Set if !there.is_dir() => prev = Some(there.view(path.as_str())),
                Action::Set => return Err(Error::new(Code::NotAFile, path.as_str())),
                _ => return Err(Error::new(Code::KeyExists, path.as_str())),
            }
        }
        self.index += 1;
        let node = match place {
            Place::Node { id, .. } if content.value.is_some() && self.freezer.freeze.is_none() => {
                self.renew(id, path, content)
            }
            _ => self.place(place, path, content),
        };
        Ok(self.tell(action, node, prev))
    }

    /// A new file in the place of a file: the same as `place`, without touching the directory. Not
    /// while frozen: the old one may be wanted.
    fn renew(&mut self, id: NodeId, path: &KeyPath, content: Content) -> View {
        let (text, depth) = (path.as_str(), depth_of(path.as_str()));
        let node = self.tree.node_mut(id);
        let before = (node.expires_ns, node.created, depth);
        *node = Node::new(content.value, content.expires_ns, self.index);
        self.ttl.remove(before);
        self.ttl.add((node.expires_ns, node.created, depth), text);
        node.view(text)
    }

    /// Puts a new node at a place, at the present index: missing directories are made, a node that
    /// is there goes.
    fn place(&mut self, place: Place, path: &KeyPath, content: Content) -> View {
        let text = path.as_str();
        let (mut dir, start) = match place {
            Place::Node { parent, id } => {
                self.take_out(parent, id, text);
                (parent, name_start(text))
            }
            Place::Missing { dir, start, .. } => (dir, start),
            Place::File { .. } => unreachable!("checked before"),
        };
        let leaf = name_start(text);
        if start < leaf {
            for name in text[start..leaf - 1].split('/') {
                dir = self.add(dir, name, Node::new(None, None, self.index));
            }
        }
        let node = Node::new(content.value, content.expires_ns, self.index);
        self.ttl
            .add((node.expires_ns, node.created, depth_of(text)), text);
        let view = node.view(text);
        self.add(dir, &text[leaf..], node);
        view
    }

    fn add(&mut self, dir: NodeId, name: &str, node: Node) -> NodeId {
        let id = self.tree.add(node);
        let before = self.tree.children_mut(dir).insert(name.into(), id);
        assert!(before.is_none(), "the name was free");
        id
    }

    /// Takes a node, with all below it, out of the tree: freed at once if it is a file, else bit by
    /// bit, or kept while the key space is frozen.
    fn take_out(&mut self, parent: NodeId, id: NodeId, path: &str) {
        let depth = depth_of(path);
        let taken = self
            .tree
            .children_mut(parent)
            .remove(&path[name_start(path)..]);
        assert_eq!(taken, Some(id), "it stood there");
        let node = self.tree.node(id);
        self.ttl.remove((node.expires_ns, node.created, depth));
        let childless = node.children().is_none_or(|c| c.is_empty());
        let keep = |freeze: &mut Freeze| freeze.keep(parent, id, node, path);
        let kept = self.freezer.freeze.as_mut().is_some_and(keep);
        match childless {
            true if kept => {}
            true => self.tree.release(id),
            false => {
                if !kept {
                    self.freeing.push((id, depth));
                }
                self.ttl_is_stale = true;
            }
        }
    }

    /// Changes a node in place: a file's value and expiration, of a directory only the expiration.
    fn change(&mut self, id: NodeId, path: &str, content: Content) -> View {
        let unsaved = self.has(Fault::SnapshotOfLater);
        if let Some(freeze) = &mut self.freezer.freeze
            && !unsaved
        {
            freeze.save(id, self.tree.node(id), path);
        }
        let (index, depth) = (self.index, depth_of(path));
        let node = self.tree.node_mut(id);
        let before = (node.expires_ns, node.created, depth);
        node.expires_ns = content.expires_ns.unwrap_or(PERMANENT);
        if let Body::File(value) = &mut node.body {
            // A directory's own index stays: that is how 0.4 does it, and clients compare it.
            node.modified = index;
            if let Some(new) = content.value {
                *value = new.into();
            }
        }
        self.ttl.remove(before);
        self.ttl.add((node.expires_ns, node.created, depth), path);
        let mut view = node.view(path);
        view.modified = EtcdIndex(index);
        view
    }

    fn update(&mut self, path: &KeyPath, content: Content, refresh: bool) -> Result<Event, Error> {
        check_not_root(path)?;
        let id = self.tree.find(path)?;
        let node = self.tree.node(id);
        if node.is_dir() && content.value.is_some_and(|v| !v.is_empty()) {
            return Err(Error::new(Code::NotAFile, path.as_str()));
        }
        let prev = node.view(path.as_str());
        self.index += 1;
        let view = self.change(id, path.as_str(), content);
        Ok(self.tell_or_not(Action::Update, view, Some(prev), !refresh))
    }

    fn compare_and_swap(&mut self, command: &Command) -> (Counted, Result<Event, Error>) {
        let Command::CompareAndSwap {
            path,
            value,
            expires_ns,
            prev_value,
            prev_index,
            or_create,
            refresh,
        } = command
        else {
            unreachable!("chosen by its kind");
        };
        let content = content(value, *expires_ns);
        if *or_create && let Place::Missing { .. } = self.tree.look_up(path) {
            return (Counted::Set, self.put(Action::Set, path, content));
        }
        let condition = Condition {
            value: prev_value.as_deref(),
            index: *prev_index,
        };
        let swapped = check_not_root(path)
            .and_then(|()| self.compared_file(path, condition))
            .map(|(_, id, prev)| {
                self.index += 1;
                let view = self.change(id, path.as_str(), content);
                self.tell_or_not(Action::CompareAndSwap, view, Some(prev), !refresh)
            });
        (Counted::CompareAndSwap, swapped)
    }

    /// The file at a path if the condition holds: its directory, itself, its view.
    fn compared_file(
        &self,
        path: &KeyPath,
        condition: Condition,
    ) -> Result<(NodeId, NodeId, View), Error> {
        let (parent, id) = self.tree.locate(path)?;
        let node = self.tree.node(id);
        let Some(value) = node.value() else {
            return Err(Error::new(Code::NotAFile, path.as_str()));
        };
        let mut causes = Vec::new();
        if let Some(wanted) = condition.value.filter(|wanted| *wanted != value) {
            causes.push(format!("[{wanted} != {value}]"));
        }
        if condition.index != 0 && condition.index != node.modified {
            causes.push(format!("[{} != {}]", condition.index, node.modified));
        }
        if !causes.is_empty() && !self.has(Fault::CompareIgnored) {
            return Err(Error::new(Code::CompareFailed, causes.join(" ")));
        }
        Ok((parent, id, node.view(path.as_str())))
    }

    fn delete(&mut self, path: &KeyPath, dir: bool, recursive: bool) -> Result<Event, Error> {
        check_not_root(path)?;
        let (parent, id) = self.tree.locate(path)?;
        let node = self.tree.node(id);
        if let Some(children) = node.children() {
            if !dir && !recursive {
                return Err(Error::new(Code::NotAFile, path.as_str()));
            }
            if !recursive && !children.is_empty() {
                return Err(Error::new(Code::DirectoryNotEmpty, path.as_str()));
            }
        }
        let prev = node.view(path.as_str());
        Ok(self.remove(Action::Delete, parent, id, prev))
    }

    fn compare_and_delete(&mut self, path: &KeyPath, condition: Condition) -> Result<Event, Error> {
        let (parent, id, prev) = self.compared_file(path, condition)?;
        Ok(self.remove(Action::CompareAndDelete, parent, id, prev))
    }

    /// Removes a node and tells it.
    fn remove(&mut self, action: Action, parent: NodeId, id: NodeId, prev: View) -> Event {
        self.index += 1;
        self.take_out(parent, id, &prev.key);
        let node = View {
            key: prev.key.clone(),
            value: None,
            // 0.4 leaves it out when a directory expires.
            dir: prev.dir && action != Action::Expire,
            expires_ns: None,
            modified: EtcdIndex(self.index),
            created: prev.created,
        };
        self.tell(action, node, Some(prev))
    }

    /// Applies `Sync`: lets at most 1,000 nodes expire, in order of expiration; true when more is
    /// due.
    pub fn expire(&mut self, now_ns: u64) -> bool {
        let mut expired = 0;
        // Where the last removed node was missing from: its neighbours went with the same
        // directory.
        let mut gone: Option<String> = None;
        while let Some(((expires_ns, ..), path)) = self.ttl.first()
            && expires_ns <= now_ns
        {
            if gone.as_ref().is_some_and(|gone| is_within(path, gone)) {
                self.ttl.drop_first();
                continue;
            }
            let Some((parent, id)) = self.first_due() else {
                if let Place::Missing { end, .. } = self.tree.look_up(&KeyPath::new(path)) {
                    gone = Some(path[..end].into());
                }
                self.ttl.drop_first();
                continue;
            };
            if expired == EXPIRE_MAX {
                return true;
            }
            let prev = self.tree.node(id).view(path);
            self.remove(Action::Expire, parent, id, prev);
            self.stats.expire_count += 1;
            expired += 1;
        }
        self.purge_ttl();
        false
    }

    /// The node that the ttl index names first, and its directory; `None` when it has been removed
    /// with a directory above it.
    pub(super) fn first_due(&self) -> Option<(NodeId, NodeId)> {
        let ((expires_ns, created, _), path) = self.ttl.first()?;
        let Place::Node { parent, id } = self.tree.look_up(&KeyPath::new(path)) else {
            return None;
        };
        let node = self.tree.node(id);
        let is_it = (node.expires_ns, node.created) == (expires_ns, created);
        is_it.then_some((parent, id))
    }

    /// Drops entries of removed nodes that stand first in the ttl index, but not too many at once.
    pub(super) fn purge_ttl(&mut self) {
        self.ttl_is_blocked = false;
        if !self.ttl_is_stale {
            return;
        }
        for _ in 0..PURGE_MAX {
            if self.ttl.first().is_none() || self.first_due().is_some() {
                return;
            }
            self.ttl.drop_first();
        }
        self.ttl_is_blocked = true;
    }

    /// Sets `path` as a view of the cluster (`/_etcd/…`), with its event; parents are made, and
    /// what a client has put in the way gives way. `action` is `Create`, `Set` or `Update` with
    /// a value, or `Delete` without.
    pub fn set_view(&mut self, action: Action, path: &KeyPath, value: Option<&str>) -> Event {
        let counted = match action {
            Action::Create => Counted::Create,
            Action::Set => Counted::Set,
            Action::Update => Counted::Update,
            Action::Delete => Counted::Delete,
            Action::Get | Action::CompareAndSwap | Action::CompareAndDelete | Action::Expire => {
                panic!("no action of a view: {action:?}")
            }
        };
        assert!(path.as_str() != "/", "the root is no view");
        assert_eq!(
            value.is_none(),
            action == Action::Delete,
            "a value unless it goes"
        );
        self.stats.count(counted, true);
        self.clear_way(path);
        match self.tree.look_up(path) {
            Place::Node { id, parent } => {
                let prev = self.tree.node(id).view(path.as_str());
                self.set_present_view(action, parent, id, prev, value)
            }
            place @ Place::Missing { .. } => {
                self.index += 1;
                let node = match value {
                    Some(_) => self.place(
                        place,
                        path,
                        Content {
                            value,
                            expires_ns: None,
                        },
                    ),
                    None => View {
                        value: None,
                        ..Node::new(Some(""), None, self.index).view(path.as_str())
                    },
                };
                self.tell(action, node, None)
            }
            Place::File { .. } => unreachable!("the way was cleared"),
        }
    }

    fn set_present_view(
        &mut self,
        action: Action,
        parent: NodeId,
        id: NodeId,
        prev: View,
        value: Option<&str>,
    ) -> Event {
        let content = Content {
            value,
            expires_ns: None,
        };
        if action == Action::Delete {
            return self.remove(action, parent, id, prev);
        }
        self.index += 1;
        let node = if action == Action::Update && !prev.dir {
            self.change(id, &prev.key, content)
        } else {
            let path = KeyPath::new(&prev.key);
            self.place(Place::Node { parent, id }, &path, content)
        };
        self.tell(action, node, Some(prev))
    }

    /// Takes a file that stands where a directory is needed out, without an event: the view above
    /// all.
    fn clear_way(&mut self, path: &KeyPath) {
        if let Place::File { parent, end } = self.tree.look_up(path) {
            let file = &path.as_str()[..end];
            let Ok(id) = self.tree.find(&KeyPath::new(file)) else {
                unreachable!("it is in the way");
            };
            self.take_out(parent, id, file);
        }
    }

    fn tell(&mut self, action: Action, node: View, prev: Option<View>) -> Event {
        self.tell_or_not(action, node, prev, true)
    }

    /// Makes the event; unless it is a mere refresh, the history keeps it and the watchers it
    /// reaches are noted.
    fn tell_or_not(&mut self, action: Action, node: View, prev: Option<View>, tell: bool) -> Event {
        assert_eq!(
            node.modified.0, self.index,
            "an event is of the present index"
        );
        let event = Event { action, node, prev };
        if tell {
            let mut watchers = self.watchers.reached(&event);
            if self.has(Fault::EventLost) {
                watchers.pop();
            }
            if !watchers.is_empty() {
                let event = event.clone();
                self.notices.push(Notice { event, watchers });
            }
            if self.has(Fault::EventTwice) {
                self.notices.extend(self.notices.last().cloned());
            }
            let freeze = &mut self.freezer.freeze;
            self.history.push(event.clone(), |evicted| {
                if let Some(freeze) = freeze {
                    freeze.keep_event(evicted);
                }
            });
        }
        if self
            .freezer
            .freeze
            .as_ref()
            .is_some_and(|f| f.is_too_much())
        {
            self.thaw();
        }
        self.purge_ttl();
        event
    }
}

fn content(value: &Option<Box<str>>, expires_ns: Option<u64>) -> Content<'_> {
    Content {
        value: value.as_deref(),
        expires_ns,
    }
}

fn check_not_root(path: &KeyPath) -> Result<(), Error> {
    match path.as_str() {
        "/" => Err(Error::new(Code::RootReadOnly, "/")),
        _ => Ok(()),
    }
}

/// Where the last name of a path other than the root begins.
fn name_start(path: &str) -> usize {
    path.rfind('/').map_or(0, |slash| slash + 1)
}
