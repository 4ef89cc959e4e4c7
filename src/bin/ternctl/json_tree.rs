//! Reads a tree of nodes in JSON as a flat list, each node after its directory. A tree may be 1,024
//! directories deep, so nothing here recurses.
//!
//! The two formats have different fields: each is a [`TreeNode`]. Start with [`read_tree`].
use crate::json_pull::{BadJson, JsonPull};

/// How the children of a node are written.
pub enum ChildList {
    /// As an array of nodes.
    Array,
    /// As an object whose values are nodes.
    Object,
}

/// A kind of node.
pub trait TreeNode: Default {
    /// The field that holds the children. It may be `null`.
    const CHILDREN_FIELD: &str;
    /// How it holds them.
    const CHILDREN: ChildList;

    /// Reads the value of a field other than that of the children.
    ///
    /// # Errors
    ///
    /// The value has another form.
    fn read_field(&mut self, name: &str, pull: &mut JsonPull) -> Result<(), BadJson>;

    /// The node has a list of children, which may be empty.
    fn on_children(&mut self) {}

    /// All fields have been read.
    fn on_end(&mut self) {}
}

/// Reads a node with its descendants.
///
/// # Errors
///
/// The text is no such tree.
pub fn read_tree<N: TreeNode>(pull: &mut JsonPull) -> Result<Vec<N>, BadJson> {
    let mut nodes = vec![N::default()];
    // The indexes in `nodes` of the nodes whose end has not been read, innermost last.
    let mut open = vec![0];
    pull.begin_object()?;
    while let Some(&place) = open.last() {
        match pull.next_name()? {
            None => {
                open.pop();
                nodes[place].on_end();
                if !open.is_empty() {
                    begin_child(pull, &mut nodes, &mut open)?;
                }
            }
            Some(name) if name != N::CHILDREN_FIELD => nodes[place].read_field(&name, pull)?,
            Some(_) if pull.take_null() => {}
            Some(_) => {
                nodes[place].on_children();
                match N::CHILDREN {
                    ChildList::Array => pull.begin_array()?,
                    ChildList::Object => pull.begin_object()?,
                }
                begin_child(pull, &mut nodes, &mut open)?;
            }
        }
    }
    Ok(nodes)
}

/// Enters the next child of the node whose children were entered last, if it has one.
fn begin_child<N: TreeNode>(
    pull: &mut JsonPull,
    nodes: &mut Vec<N>,
    open: &mut Vec<usize>,
) -> Result<(), BadJson> {
    let has_child = match N::CHILDREN {
        ChildList::Array => pull.next_item()?,
        ChildList::Object => pull.next_name()?.is_some(),
    };
    if has_child {
        pull.begin_object()?;
        open.push(nodes.len());
        nodes.push(N::default());
    }
    Ok(())
}
