//! Answers of the key space as flat lists: a tree of any depth becomes nodes in path order.
//!
//! Start with [`KeyAnswer::parse`].
use crate::failure::{ExitReason, Failure};
use crate::json_pull::{BadJson, JsonPull};
use crate::json_tree::{ChildList, TreeNode, read_tree};

/// A node of the key space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRecord {
    /// The path; starts with `/`.
    pub key: String,
    /// A file's value.
    pub value: Option<String>,
    /// It is a directory.
    pub is_dir: bool,
    /// Seconds until it expires.
    pub ttl: Option<i64>,
    /// When it expires, as the server prints it.
    pub expiration: Option<String>,
    /// The etcd index of its last change.
    pub modified: u64,
    /// The etcd index of its creation.
    pub created: u64,
}

/// An answer or an event of the key space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyAnswer {
    /// The operation: `get`, `set`, `delete`, ….
    pub action: String,
    /// The node, and its descendants if they are listed, in the order of the answer.
    pub nodes: Vec<KeyRecord>,
    /// The node before a change.
    pub previous: Option<KeyRecord>,
}

impl KeyAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// The text is none.
    pub fn parse(text: &[u8]) -> Result<KeyAnswer, Failure> {
        KeyAnswer::read(text).map_err(|bad| {
            let text = format!("the answer is none of a key space: {}", bad.text());
            Failure::new(ExitReason::Unavailable, text)
        })
    }

    fn read(text: &[u8]) -> Result<KeyAnswer, BadJson> {
        let mut pull = JsonPull::new(text);
        let mut answer = KeyAnswer::default();
        pull.begin_object()?;
        while let Some(name) = pull.next_name()? {
            match name.as_str() {
                "action" => answer.action = pull.string()?,
                "node" => answer.nodes = read_tree(&mut pull)?,
                "prevNode" => answer.previous = read_tree(&mut pull)?.into_iter().next(),
                _ => pull.skip()?,
            }
        }
        pull.end()?;
        Ok(answer)
    }

    /// The node itself.
    ///
    /// # Errors
    ///
    /// The answer has none.
    pub fn node(&self) -> Result<&KeyRecord, Failure> {
        self.nodes.first().ok_or_else(|| {
            Failure::new(
                ExitReason::Unavailable,
                "the answer of the server names no node",
            )
        })
    }
}

impl TreeNode for KeyRecord {
    const CHILDREN_FIELD: &str = "nodes";
    const CHILDREN: ChildList = ChildList::Array;

    fn read_field(&mut self, name: &str, pull: &mut JsonPull) -> Result<(), BadJson> {
        match name {
            "key" => self.key = pull.string()?,
            "value" => self.value = Some(pull.string()?),
            "dir" => self.is_dir = pull.boolean()?,
            "ttl" => self.ttl = Some(pull.integer()?),
            "expiration" => self.expiration = Some(pull.string()?),
            "modifiedIndex" => self.modified = pull.index()?,
            "createdIndex" => self.created = pull.index()?,
            _ => pull.skip()?,
        }
        Ok(())
    }

    fn on_end(&mut self) {
        if self.key.is_empty() {
            // The root of etcd 2.x has no name.
            self.key.push('/');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_flat_and_in_its_order() {
        let text = br#"{"action":"get","node":{"key":"/","dir":true,"nodes":[
            {"key":"/a","dir":true,"nodes":[{"key":"/a/b","value":"1","ttl":5,
            "expiration":"x","modifiedIndex":4,"createdIndex":3}],"modifiedIndex":3,
            "createdIndex":3},{"key":"/c","value":"","modifiedIndex":5,"createdIndex":5}]}}"#;
        let answer = KeyAnswer::parse(text).expect("an answer");
        let keys: Vec<&str> = answer.nodes.iter().map(|n| n.key.as_str()).collect();
        assert_eq!(keys, ["/", "/a", "/a/b", "/c"]);
        assert_eq!(answer.nodes[1].modified, 3);
        assert_eq!((answer.nodes[2].ttl, answer.nodes[2].created), (Some(5), 3));
        assert_eq!(answer.nodes[3].value.as_deref(), Some(""));
    }

    #[test]
    fn depth_has_no_bound() {
        let depth = 1_000;
        let open = r#"{"key":"/x","dir":true,"nodes":["#.repeat(depth);
        let close = "]}".repeat(depth);
        let leaf = r#"{"key":"/y","value":"1"}"#;
        let text = format!(r#"{{"action":"get","node":{open}{leaf}{close}}}"#);
        let answer = KeyAnswer::parse(text.as_bytes()).expect("an answer");
        assert_eq!(answer.nodes.len(), depth + 1);
    }
}
