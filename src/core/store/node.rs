//! The tree: an arena of nodes that name each other by number, each directory an ordered map of its
//! children.
//!
//! It knows names and nodes, no events, watchers or expirations. A node does not know its own name
//! or parent, which keeps it at 40 bytes. Nothing here recurses: a path is walked segment by
//! segment. Start with `look_up`.
use super::event::{EtcdIndex, View};
use crate::core::command::KeyPath;
use crate::core::error::{Code, Error};
use std::collections::BTreeMap;

/// A node's place in the arena; given again once the node is freed.
pub type NodeId = u32;
/// The root, always there.
pub const ROOT: NodeId = 0;
/// `Node::expires_ns` of a node that stays.
pub const PERMANENT: u64 = u64::MAX;
/// Nodes are kept in blocks of this many, so that growing moves none and leaves no half of the
/// memory unused.
const BLOCK: usize = 1024;

/// A directory's children in order of their names.
pub type Children = BTreeMap<Box<str>, NodeId>;

/// What a node holds.
#[derive(Debug)]
pub enum Body {
    File(Box<str>),
    /// Boxed: most nodes are files, and shall not pay for the map.
    Dir(Box<Children>),
}

/// One node.
#[derive(Debug)]
pub struct Node {
    pub body: Body,
    /// Nanoseconds since the Unix epoch, or `PERMANENT`.
    pub expires_ns: u64,
    pub modified: u64,
    pub created: u64,
}

impl Node {
    /// A new node; `None` makes a directory.
    pub fn new(value: Option<&str>, expires_ns: Option<u64>, index: u64) -> Node {
        Node {
            body: match value {
                Some(value) => Body::File(value.into()),
                None => Body::Dir(Box::default()),
            },
            expires_ns: expires_ns.unwrap_or(PERMANENT),
            modified: index,
            created: index,
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    /// A file's value.
    pub fn value(&self) -> Option<&str> {
        match &self.body {
            Body::File(value) => Some(value),
            Body::Dir(_) => None,
        }
    }

    /// A directory's children.
    pub fn children(&self) -> Option<&Children> {
        match &self.body {
            Body::File(_) => None,
            Body::Dir(children) => Some(children),
        }
    }

    /// As clients are told of it.
    pub fn view(&self, key: &str) -> View {
        View {
            key: key.into(),
            value: self.value().map(Box::from),
            dir: self.is_dir(),
            expires_ns: (self.expires_ns != PERMANENT).then_some(self.expires_ns),
            modified: EtcdIndex(self.modified),
            created: EtcdIndex(self.created),
        }
    }
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a node; `parent` is meaningless for the root.
    Node { parent: NodeId, id: NodeId },
    /// To nothing: `dir` is the deepest directory there is, the first missing name is
    /// `path[start..end]`.
    Missing {
        dir: NodeId,
        start: usize,
        end: usize,
    },
    /// Through the file `path[..end]`.
    File { parent: NodeId, end: usize },
}

/// The arena.
pub struct Tree {
    blocks: Vec<Vec<Node>>,
    free: Vec<NodeId>,
}

impl Tree {
    /// The root alone, created at index 0.
    pub fn new() -> Tree {
        let mut tree = Tree {
            blocks: Vec::new(),
            free: Vec::new(),
        };
        let root = tree.add(Node::new(None, None, 0));
        assert_eq!(root, ROOT);
        tree
    }

    /// Takes a node in; it belongs to no directory yet.
    pub fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let full = (self.blocks.len() - 1) * BLOCK;
        let block = self.blocks.last_mut().expect("one was made");
        block.push(node);
        NodeId::try_from(full + block.len() - 1).expect("memory ends before node numbers do")
    }

    /// Frees one node that no directory holds; its children, if any, must have been taken.
    pub fn release(&mut self, id: NodeId) {
        assert!(id != ROOT, "the root stays");
        let node = self.node_mut(id);
        assert!(
            node.children().is_none_or(BTreeMap::is_empty),
            "a childless node"
        );
        node.body = Body::File(Box::default());
        self.free.push(id);
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.blocks[id as usize / BLOCK][id as usize % BLOCK]
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.blocks[id as usize / BLOCK][id as usize % BLOCK]
    }

    /// A directory's children, to change them.
    pub fn children_mut(&mut self, dir: NodeId) -> &mut Children {
        match &mut self.node_mut(dir).body {
            Body::Dir(children) => children,
            Body::File(_) => panic!("only directories have children"),
        }
    }

    /// How many nodes are in use, detached ones and the root among them.
    pub fn len(&self) -> usize {
        let slots: usize = self.blocks.iter().map(Vec::len).sum();
        slots - self.free.len()
    }

    /// Walks a path from the root.
    pub fn look_up(&self, path: &KeyPath) -> Place {
        let text = path.as_str();
        let (mut parent, mut id, mut end) = (ROOT, ROOT, 0);
        for name in path.segments() {
            let Some(children) = self.node(id).children() else {
                return Place::File { parent, end };
            };
            let start = end + 1;
            end = start + name.len();
            debug_assert_eq!(&text[start..end], name);
            match children.get(name) {
                Some(child) => (parent, id) = (id, *child),
                None => {
                    return Place::Missing {
                        dir: id,
                        start,
                        end,
                    };
                }
            }
        }
        Place::Node { parent, id }
    }

    /// The node at a path: error 100 with the shallowest missing path, 104 with the file that is in
    /// the way.
    pub fn find(&self, path: &KeyPath) -> Result<NodeId, Error> {
        self.locate(path).map(|(_, id)| id)
    }

    /// The same, with its directory (for the root that is meaningless).
    pub fn locate(&self, path: &KeyPath) -> Result<(NodeId, NodeId), Error> {
        match self.look_up(path) {
            Place::Node { parent, id } => Ok((parent, id)),
            Place::Missing { end, .. } => Err(Error::new(Code::KeyNotFound, &path.as_str()[..end])),
            Place::File { end, .. } => Err(Error::new(Code::NotADirectory, &path.as_str()[..end])),
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
    fn freed_places_are_used_again() {
        let mut tree = Tree::new();
        let ids: Vec<NodeId> = (0..3000)
            .map(|i| tree.add(Node::new(Some("v"), None, i)))
            .collect();
        assert_eq!(tree.len(), 3001);
        assert_eq!(tree.node(ids[2999]).created, 2999);
        tree.release(ids[7]);
        assert_eq!(tree.len(), 3000);
        assert_eq!(tree.add(Node::new(None, None, 1)), ids[7]);
        assert!(tree.node(ids[7]).is_dir());
    }
}
