//! Reading the tree in path order, a part at a time, as it is or as it was when a freeze began.
//!
//! A walk holds the numbers of the directories that it has open. Between two calls of `run` they
//! stay good either because nothing was written or because a freeze keeps what is taken out.
use super::event::{EtcdIndex, View};
use super::freeze::{Freeze, Old};
use super::node::{Node, NodeId, PERMANENT, Tree};
use std::ops::Bound::{Excluded, Unbounded};

/// A place in the tree: the state of a depth-first walk without recursion.
#[derive(Debug)]
pub struct Walk {
    recursive: bool,
    hidden: bool,
    /// The directories that are open, each with the name last read in it.
    open: Vec<(NodeId, Box<str>)>,
    /// The path of the innermost open directory, empty for the root.
    path: String,
}

/// A node that a walk has come to.
pub struct Found<'a> {
    /// 1 for the children of the node that the walk is below.
    pub depth: u32,
    pub path: &'a str,
    pub node: &'a Node,
    /// What it was at that moment, if it has been changed since.
    pub old: Option<&'a Old>,
}

impl Found<'_> {
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().expect("split gives one")
    }

    /// A file's value.
    pub fn value(&self) -> Option<&str> {
        match self.old {
            Some(old) => old.value.as_deref(),
            None => self.node.value(),
        }
    }

    pub fn expires_ns(&self) -> u64 {
        self.old.map_or(self.node.expires_ns, |old| old.expires_ns)
    }

    pub fn modified(&self) -> u64 {
        self.old.map_or(self.node.modified, |old| old.modified)
    }

    /// As clients are told of it.
    pub fn view(&self) -> View {
        View {
            key: self.path.into(),
            value: self.value().map(Box::from),
            dir: self.node.is_dir(),
            expires_ns: (self.expires_ns() != PERMANENT).then_some(self.expires_ns()),
            modified: EtcdIndex(self.modified()),
            created: EtcdIndex(self.node.created),
        }
    }
}

impl Walk {
    /// A walk over what is below the node at `path` (not that itself): its children, or with
    /// `recursive` all; names that start with `_` only with `hidden`.
    pub fn below(id: NodeId, path: &str, tree: &Tree, recursive: bool, hidden: bool) -> Walk {
        let open = tree.node(id).is_dir().then(|| (id, Box::default()));
        Walk {
            recursive,
            hidden,
            open: open.into_iter().collect(),
            path: path.strip_suffix('/').unwrap_or(path).into(),
        }
    }

    /// Nothing is left.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Visits nodes until `visit` says false or none is left; true: none is left.
    pub fn run(
        &mut self,
        tree: &Tree,
        freeze: Option<&Freeze>,
        mut visit: impl FnMut(&Found) -> bool,
    ) -> bool {
        while let Some((dir, last)) = self.open.last_mut() {
            let (dir, after) = (*dir, std::mem::take(last));
            let depth = self.open.len() as u32;
            let (mut went_on, mut below) = (true, None);
            for (name, id) in children_after(dir, &after, tree, freeze) {
                if name.starts_with('_') && !self.hidden {
                    continue;
                }
                let parent_len = self.path.len();
                self.path.push('/');
                self.path.push_str(name);
                let node = tree.node(id);
                went_on = visit(&Found {
                    depth,
                    path: &self.path,
                    node,
                    old: freeze.and_then(|f| f.old(id)),
                });
                if self.recursive && node.is_dir() {
                    below = Some(id);
                } else {
                    self.path.truncate(parent_len);
                }
                if !went_on || below.is_some() {
                    self.open.last_mut().expect("it is open").1 = name.into();
                    break;
                }
            }
            match below {
                Some(id) => self.open.push((id, Box::default())),
                None if went_on => self.close(),
                None => {}
            }
            if !went_on {
                return false;
            }
        }
        true
    }

    fn close(&mut self) {
        self.open.pop();
        if let Some((_, name)) = self.open.last() {
            self.path.truncate(self.path.len() - name.len() - 1);
        }
    }
}

/// A directory's children behind a name, in order.
fn children_after<'a>(
    dir: NodeId,
    after: &'a str,
    tree: &'a Tree,
    freeze: Option<&'a Freeze>,
) -> impl Iterator<Item = (&'a str, NodeId)> {
    let at = freeze.map_or(u64::MAX, |f| f.at);
    let behind = (Excluded(after), Unbounded);
    let children = tree
        .node(dir)
        .children()
        .expect("only directories are open");
    let mut live = children
        .range::<str, _>(behind)
        .filter(move |(_, id)| tree.node(**id).created <= at)
        .peekable();
    let removed = freeze.and_then(|f| f.removed_from(dir));
    let mut removed = removed
        .into_iter()
        .flat_map(move |children| children.range::<str, _>(behind))
        .peekable();
    std::iter::from_fn(move || {
        let (name, id) = match (live.peek(), removed.peek()) {
            (Some((live_name, _)), Some((name, _))) if name < live_name => removed.next()?,
            (Some(_), _) => live.next()?,
            (None, _) => removed.next()?,
        };
        Some((&**name, *id))
    })
}
