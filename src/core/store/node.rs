//! The tree of the key space: an arena of nodes that refer to each other by number. Each directory
//! has the names of its children with their numbers, in order (`children`).
//!
//! The tree knows names and nodes. It knows no events, watchers or indexes over the tree: `edit`
//! keeps those in agreement with it. A node does not hold its own name or parent, which keeps it at
//! 40 bytes. Nothing here recurses: a path is followed segment by segment. Start with
//! `KeyTree::look_up`.
use super::children::Children;
use super::event::{EtcdIndex, ValueRef, View, ViewRef};
use super::node_id::{NodeId, ROOT};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use std::sync::Arc;

/// Nodes in a block. The arena grows by blocks, so that growing moves no node and at most one block
/// of memory is unused.
const BLOCK_NODES: usize = 1024;

/// A value from this length on, in bytes, is shared with the command and the events that carry it.
/// A shorter one is copied into the tree, where a shared one would take 16 bytes more: with small
/// values that is a seventh of the memory of a key.
const SHARED_VALUE_BYTES_MIN: usize = 1024;

/// The content of a node. A file stays a file, and a directory a directory.
#[derive(Debug)]
enum Content {
    /// A file with a short value.
    ShortFile(Box<str>),
    /// Boxed: most nodes are short files, and anything larger in place would make each of them
    /// larger.
    Other(Box<OtherContent>),
}

/// The content of a node that is no file with a short value.
#[derive(Debug)]
enum OtherContent {
    /// A file with a long value.
    LongFile(Arc<str>),
    Dir(Children),
}

impl Content {
    /// A file with a value that can be shared.
    fn file(value: &Arc<str>) -> Content {
        if value.len() < SHARED_VALUE_BYTES_MIN {
            return Content::ShortFile((&**value).into());
        }
        Content::Other(Box::new(OtherContent::LongFile(value.clone())))
    }

    /// A file with a copy of a value.
    fn copied_file(value: &str) -> Content {
        if value.len() < SHARED_VALUE_BYTES_MIN {
            return Content::ShortFile(value.into());
        }
        Content::file(&value.into())
    }

    /// Becomes a file with this value. A short value of the same length takes the memory of the former
    /// one.
    fn become_file(&mut self, value: &Arc<str>) {
        match self {
            Content::ShortFile(former) if former.len() == value.len() => {
                let mut text = String::from(std::mem::take(former));
                text.clear();
                text.push_str(value);
                *former = text.into();
            }
            _ => *self = Content::file(value),
        }
    }

    fn empty_dir() -> Content {
        Content::Other(Box::new(OtherContent::Dir(Children::default())))
    }
}

/// An expiration, or none, in eight bytes. `Option<u64>` takes sixteen.
#[derive(Clone, Copy, Debug)]
struct Expiry(u64);

impl Expiry {
    /// Stands for no expiration: as a time it would be in the year 2554.
    const NEVER: u64 = u64::MAX;

    fn new(expires_ns: Option<u64>) -> Expiry {
        Expiry(expires_ns.unwrap_or(Expiry::NEVER))
    }

    fn get(self) -> Option<u64> {
        (self.0 != Expiry::NEVER).then_some(self.0)
    }
}

/// A file or a directory.
#[derive(Debug)]
pub struct Node {
    content: Content,
    expires: Expiry,
    /// The etcd index of the last change. That of a directory stays at `created`.
    modified: u64,
    /// The etcd index of the command that created it.
    created: u64,
}

impl Node {
    /// A node created at etcd index `index`. Without a value it is a directory.
    pub fn new(value: Option<&Arc<str>>, expires_ns: Option<u64>, index: u64) -> Node {
        Node {
            content: value.map_or_else(Content::empty_dir, Content::file),
            expires: Expiry::new(expires_ns),
            modified: index,
            created: index,
        }
    }

    /// A node as a snapshot holds it. Without a value it is a directory.
    pub fn restored(
        value: Option<&str>,
        expires_ns: Option<u64>,
        modified: u64,
        created: u64,
    ) -> Node {
        Node {
            content: value.map_or_else(Content::empty_dir, Content::copied_file),
            expires: Expiry::new(expires_ns),
            modified,
            created,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.children().is_some()
    }

    /// A file's value.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        match &self.content {
            Content::ShortFile(value) => Some(ValueRef::Short(value)),
            Content::Other(other) => match &**other {
                OtherContent::LongFile(value) => Some(ValueRef::Shared(value)),
                OtherContent::Dir(_) => None,
            },
        }
    }

    /// A directory's children.
    pub fn children(&self) -> Option<&Children> {
        match &self.content {
            Content::ShortFile(_) => None,
            Content::Other(other) => match &**other {
                OtherContent::LongFile(_) => None,
                OtherContent::Dir(children) => Some(children),
            },
        }
    }

    /// When it expires, in nanoseconds of the cluster clock.
    pub fn expires_ns(&self) -> Option<u64> {
        self.expires.get()
    }

    /// The etcd index of the last change.
    pub fn modified(&self) -> u64 {
        self.modified
    }

    /// The etcd index of the command that created it.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// An estimate of the memory of the node without its name, in bytes.
    fn bytes(&self) -> u64 {
        NODE_BYTES + self.value().map_or(0, |value| value.len() as u64)
    }

    /// Replaces the expiration.
    pub fn set_expiry(&mut self, expires_ns: Option<u64>) {
        self.expires = Expiry::new(expires_ns);
    }

    /// Marks a file as changed at `index`, and replaces its value if there is a new one.
    ///
    /// A directory is left as it is: etcd 0.4 keeps the index of a directory that is updated, and
    /// clients compare it.
    pub fn modify_file(&mut self, value: Option<&Arc<str>>, index: u64) {
        if self.is_dir() {
            return;
        }
        self.modified = index;
        if let Some(value) = value {
            self.content.become_file(value);
        }
    }

    /// Becomes a file as `new` makes it.
    pub fn become_file(&mut self, value: &Arc<str>, expires_ns: Option<u64>, index: u64) {
        self.content.become_file(value);
        self.expires = Expiry::new(expires_ns);
        self.modified = index;
        self.created = index;
    }

    /// The node as clients see it, without copies.
    pub fn view_ref<'a>(&'a self, key: &'a str) -> ViewRef<'a> {
        ViewRef {
            key,
            value: self.value(),
            dir: self.is_dir(),
            expires_ns: self.expires_ns(),
            modified: EtcdIndex(self.modified),
            created: EtcdIndex(self.created),
        }
    }

    /// The node as clients see it.
    pub fn view(&self, key: &Arc<str>) -> View {
        self.view_with(key, self.value().map(ValueRef::to_shared))
    }

    /// The node as clients see it, with `value` as its value: an event shares it with the command
    /// that set it.
    pub fn view_with(&self, key: &Arc<str>, value: Option<Arc<str>>) -> View {
        View {
            key: key.clone(),
            value,
            dir: self.is_dir(),
            expires_ns: self.expires_ns(),
            modified: EtcdIndex(self.modified),
            created: EtcdIndex(self.created),
        }
    }
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// To the root.
    Root,
    /// To the node `id` in the directory `parent`.
    Node { parent: NodeId, id: NodeId },
    /// To no node. `dir` is the deepest directory that exists, and `path[start..end]` is the first
    /// name missing in it.
    Missing {
        dir: NodeId,
        start: usize,
        end: usize,
    },
    /// Through the file `path[..end]`, the node `id` in the directory `parent`.
    File {
        parent: NodeId,
        id: NodeId,
        end: usize,
    },
}

/// An estimate of the memory of a node besides its name and value, in bytes.
pub const NODE_BYTES: u64 = 96;

/// The arena.
pub struct KeyTree {
    /// All full but the last one, which is never empty.
    blocks: Vec<Vec<Node>>,
    /// Released places, the latest last.
    free: Vec<NodeId>,
    /// The memory of the nodes that a directory holds: `NODE_BYTES`, value and name of each.
    bytes: u64,
}

impl KeyTree {
    /// The root alone, created at etcd index 0.
    pub fn new() -> KeyTree {
        let mut tree = KeyTree {
            blocks: Vec::new(),
            free: Vec::new(),
            bytes: 0,
        };
        let root = tree.add(Node::new(None, None, 0));
        assert_eq!(root, ROOT);
        tree
    }

    /// Adds a node that no directory holds yet.
    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let is_full = self
            .blocks
            .last()
            .is_none_or(|block| block.len() == BLOCK_NODES);
        if is_full {
            self.blocks.push(Vec::with_capacity(BLOCK_NODES));
        }
        let before = (self.blocks.len() - 1) * BLOCK_NODES;
        let block = self.blocks.last_mut().expect("pushed above");
        block.push(node);
        let place = before + block.len() - 1;
        NodeId::new(place)
    }

    /// Releases a node that no directory holds.
    ///
    /// # Panics
    ///
    /// If it is the root or has children.
    pub fn release(&mut self, id: NodeId) {
        assert!(id != ROOT, "the root stays");
        let node = self.node_mut(id);
        let is_childless = node.children().is_none_or(Children::is_empty);
        assert!(is_childless, "children are released first");
        node.content = Content::ShortFile(Box::default());
        self.free.push(id);
    }

    /// The node in a place.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.blocks[id.place() / BLOCK_NODES][id.place() % BLOCK_NODES]
    }

    /// Replaces or changes the node in a place by `change`. A directory holds the node.
    pub fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) -> &Node {
        let node = self.node_mut(id);
        let before = node.bytes();
        change(node);
        let after = node.bytes();
        self.bytes = self.bytes - before + after;
        self.node(id)
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.blocks[id.place() / BLOCK_NODES][id.place() % BLOCK_NODES]
    }

    /// Takes the child of this name out of a directory.
    ///
    /// # Panics
    ///
    /// If `dir` is a file.
    pub fn take_child(&mut self, dir: NodeId, name: &str) -> Option<NodeId> {
        let child = self.children_mut(dir).remove(name)?;
        self.bytes -= self.node(child).bytes() + name.len() as u64;
        Some(child)
    }

    /// Takes the first child out of a directory. `None` without children, and for a file.
    pub fn take_first_child(&mut self, dir: NodeId) -> Option<NodeId> {
        if !self.node(dir).is_dir() {
            return None;
        }
        let child = self.children_mut(dir).pop_first()?;
        self.bytes -= self.node(child.id()).bytes() + child.name_bytes().len() as u64;
        Some(child.id())
    }

    /// # Panics
    ///
    /// If `dir` is a file.
    fn children_mut(&mut self, dir: NodeId) -> &mut Children {
        match &mut self.node_mut(dir).content {
            Content::ShortFile(_) => panic!("only directories have children"),
            Content::Other(other) => match &mut **other {
                OtherContent::LongFile(_) => panic!("only directories have children"),
                OtherContent::Dir(children) => children,
            },
        }
    }

    /// Adds a node to a directory.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn insert(&mut self, dir: NodeId, name: &str, node: Node) -> NodeId {
        self.bytes += node.bytes() + name.len() as u64;
        let id = self.add(node);
        self.children_mut(dir).insert(name, id);
        id
    }

    /// The memory of the nodes that a directory holds, in bytes: `NODE_BYTES`, value and name of
    /// each. Nodes of a removed directory count until they are taken out of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of nodes in use: the root, the nodes in the tree, and those that no directory
    /// holds and that are not released yet.
    pub fn len(&self) -> usize {
        let places: usize = self.blocks.iter().map(Vec::len).sum();
        places - self.free.len()
    }

    /// Follows a path from the root.
    pub fn look_up(&self, path: &KeyPath) -> Lookup {
        self.look_up_clean(path.as_str())
    }

    /// Follows a path, given as a text that is as clean as a `KeyPath`.
    pub fn look_up_clean(&self, path: &str) -> Lookup {
        let mut found = Lookup::Root;
        let mut parent = ROOT;
        let mut id = ROOT;
        let mut end = 0;
        // Not by `str::split`, which takes several times as long for short names.
        while end + 1 < path.len() {
            let Some(children) = self.node(id).children() else {
                return Lookup::File { parent, id, end };
            };
            let start = end + 1;
            let length = path[start..].bytes().position(|byte| byte == b'/');
            end = length.map_or(path.len(), |length| start + length);
            let Some(child) = children.get(&path[start..end]) else {
                let dir = id;
                return Lookup::Missing { dir, start, end };
            };
            parent = id;
            id = child;
            found = Lookup::Node { parent, id };
        }
        found
    }

    /// The node at a path.
    ///
    /// # Errors
    ///
    /// 100 with the shortest missing path; 104 with the file that the path leads through.
    pub fn find(&self, path: &KeyPath) -> Result<NodeId, Error> {
        match self.look_up(path) {
            Lookup::Root => Ok(ROOT),
            Lookup::Node { id, .. } => Ok(id),
            Lookup::Missing { end, .. } => {
                Err(Error::new(Code::KeyNotFound, &path.as_str()[..end]))
            }
            Lookup::File { end, .. } => Err(Error::new(Code::NotADirectory, &path.as_str()[..end])),
        }
    }

    /// The directory and the node at a path.
    ///
    /// # Errors
    ///
    /// Those of `find`, and 102 for the root: it has no directory.
    pub fn find_with_parent(&self, path: &KeyPath) -> Result<(NodeId, NodeId), Error> {
        match self.look_up(path) {
            Lookup::Node { parent, id } => Ok((parent, id)),
            Lookup::Root => Err(Error::new(Code::NotAFile, path.as_str())),
            Lookup::Missing { .. } | Lookup::File { .. } => {
                Err(self.find(path).expect_err("the path leads to no node"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        assert_eq!(size_of::<Node>(), 40);
    }

    #[test]
    fn released_places_are_reused() {
        let mut tree = KeyTree::new();
        let file = |index| Node::new(Some(&"v".into()), None, index);
        let mut ids = Vec::new();
        for index in 0..3000 {
            ids.push(tree.insert(ROOT, &format!("{index:04}"), file(index)));
        }
        assert_eq!(tree.len(), 3001);
        assert_eq!(tree.node(ids[2999]).created(), 2999);
        assert_eq!(tree.take_child(ROOT, "0007"), Some(ids[7]));
        assert_eq!(tree.len(), 3001);
        tree.release(ids[7]);
        assert_eq!(tree.len(), 3000);
        assert_eq!(tree.insert(ROOT, "d", Node::new(None, None, 1)), ids[7]);
        assert!(tree.node(ids[7]).is_dir());
    }

    #[test]
    fn a_node_counts_while_a_directory_holds_it() {
        let mut tree = KeyTree::new();
        let file = Node::new(Some(&"value".into()), None, 1);
        let dir = tree.insert(ROOT, "dir", Node::new(None, None, 1));
        assert_eq!(tree.bytes(), NODE_BYTES + 3);
        let id = tree.insert(dir, "name", file);
        assert_eq!(tree.bytes(), 2 * NODE_BYTES + 3 + 9);
        tree.change(id, |node| node.modify_file(Some(&"v".into()), 2));
        assert_eq!(tree.bytes(), 2 * NODE_BYTES + 3 + 5);
        assert_eq!(tree.take_child(ROOT, "dir"), Some(dir));
        assert_eq!(tree.bytes(), NODE_BYTES + 5);
        assert_eq!(tree.take_first_child(dir), Some(id));
        assert_eq!(tree.bytes(), 0);
        tree.release(id);
        assert_eq!(tree.bytes(), 0);
    }
}
