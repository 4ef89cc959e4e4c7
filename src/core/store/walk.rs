//! Depth-first traversal of the tree in path order, a part at a time, as the tree is or as it was
//! when a freeze began.
//!
//! A traversal holds the numbers of the directories that it is in. Between two calls of `run` they
//! stay valid because no command was applied, or because a freeze keeps the nodes that are removed.
use super::event::{EtcdIndex, ValueRef, View};
use super::freeze::{FrozenMoment, SavedNode};
use super::node::{KeyTree, Node};
use super::node_id::NodeId;
use super::path::name_of;

/// A directory that a traversal is in.
#[derive(Debug)]
struct OpenDir {
    id: NodeId,
    /// The child visited last; empty before the first.
    last_child: Box<str>,
}

/// The state of a traversal.
#[derive(Debug)]
pub struct TreeWalk {
    /// Visit descendants, not children alone.
    recursive: bool,
    /// Visit names that start with `_`.
    hidden: bool,
    /// From the outermost in; empty when nothing is left.
    open: Vec<OpenDir>,
    /// The path of the innermost open directory; empty for the root.
    path: String,
}

/// A node that a traversal visits, as it is or as it was when the freeze began.
pub struct Visited<'a> {
    depth: u32,
    path: &'a str,
    node: &'a Node,
    /// The content of the node when the freeze began, if it was changed since.
    saved: Option<&'a SavedNode>,
}

impl Visited<'_> {
    /// 1 for the children of the node below which the traversal began.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The full path.
    pub fn path(&self) -> &str {
        self.path
    }

    /// The last segment of the path.
    pub fn name(&self) -> &str {
        name_of(self.path)
    }

    /// A file's value.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        match self.saved {
            Some(saved) => saved.value(),
            None => self.node.value(),
        }
    }

    /// When it expires, in nanoseconds of the cluster clock.
    pub fn expires_ns(&self) -> Option<u64> {
        match self.saved {
            Some(saved) => saved.expires_ns(),
            None => self.node.expires_ns(),
        }
    }

    /// The etcd index of the last change.
    pub fn modified(&self) -> u64 {
        match self.saved {
            Some(saved) => saved.modified(),
            None => self.node.modified(),
        }
    }

    /// The etcd index of the creation.
    pub fn created(&self) -> u64 {
        self.node.created()
    }

    /// The node as clients see it.
    pub fn view(&self) -> View {
        View {
            key: self.path.into(),
            value: self.value().map(ValueRef::to_shared),
            dir: self.node.is_dir(),
            expires_ns: self.expires_ns(),
            modified: EtcdIndex(self.modified()),
            created: EtcdIndex(self.created()),
        }
    }
}

impl TreeWalk {
    /// A traversal of the children of the node at `path`, or with `recursive` of all descendants.
    /// The node itself is not visited.
    pub fn below(
        id: NodeId,
        path: &str,
        tree: &KeyTree,
        recursive: bool,
        hidden: bool,
    ) -> TreeWalk {
        let mut open = Vec::new();
        if tree.node(id).is_dir() {
            open.push(OpenDir::new(id));
        }
        TreeWalk {
            recursive,
            hidden,
            open,
            path: path.strip_suffix('/').unwrap_or(path).into(),
        }
    }

    /// Whether nothing is left to visit.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Visits nodes until `visit` returns false or none is left. Returns whether none is left.
    pub fn run(
        &mut self,
        tree: &KeyTree,
        freeze: Option<FrozenMoment>,
        mut visit: impl FnMut(&Visited) -> bool,
    ) -> bool {
        while !self.open.is_empty() {
            if !self.run_innermost(tree, freeze, &mut visit) {
                return false;
            }
        }
        true
    }

    /// Visits the children of the innermost open directory until one is a directory to enter or
    /// `visit` returns false. Returns what `visit` returned last.
    fn run_innermost(
        &mut self,
        tree: &KeyTree,
        freeze: Option<FrozenMoment>,
        visit: &mut impl FnMut(&Visited) -> bool,
    ) -> bool {
        let depth = self.open.len() as u32;
        let dir = self.open.last_mut().expect("the caller checks");
        let last_child = std::mem::take(&mut dir.last_child);
        for (name, id) in children_after(dir.id, &last_child, tree, freeze) {
            if name.starts_with('_') && !self.hidden {
                continue;
            }
            let dir_len = self.path.len();
            self.path.push('/');
            self.path.push_str(name);
            let node = tree.node(id);
            let goes_on = visit(&Visited {
                depth,
                path: &self.path,
                node,
                saved: freeze.and_then(|freeze| freeze.saved(id)),
            });
            let enters = self.recursive && node.is_dir();
            if !enters {
                self.path.truncate(dir_len);
            }
            if enters || !goes_on {
                dir.last_child = name.into();
                if enters {
                    self.open.push(OpenDir::new(id));
                }
                return goes_on;
            }
        }
        self.close_innermost();
        true
    }

    fn close_innermost(&mut self) {
        self.open.pop();
        if let Some(parent) = self.open.last() {
            let name_len = parent.last_child.len();
            self.path.truncate(self.path.len() - name_len - 1);
        }
    }
}

impl OpenDir {
    fn new(id: NodeId) -> OpenDir {
        OpenDir {
            id,
            last_child: Box::default(),
        }
    }
}

/// The children of a directory after a name, in order: those it has, and those it had when the
/// freeze began.
fn children_after<'a>(
    dir: NodeId,
    after: &'a str,
    tree: &'a KeyTree,
    freeze: Option<FrozenMoment<'a>>,
) -> impl Iterator<Item = (&'a str, NodeId)> {
    let children = tree.node(dir).children();
    let children = children.expect("only directories are open");
    let mut present = children
        .after(after)
        .map(|child| (child.name(), child.id()))
        .filter(move |(_, id)| freeze.is_none_or(|freeze| freeze.includes(tree.node(*id))))
        .peekable();
    let mut removed = freeze
        .into_iter()
        .flat_map(move |freeze| freeze.removed_after(dir, after))
        .peekable();
    std::iter::from_fn(move || match (present.peek(), removed.peek()) {
        (Some((present_name, _)), Some((name, _))) if name < present_name => removed.next(),
        (Some(_), _) => present.next(),
        (None, _) => removed.next(),
    })
}
