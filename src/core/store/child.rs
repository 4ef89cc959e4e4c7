//! An entry of a directory: the name and the number of a child, in 24 bytes.
//!
//! Most names are short and are held in place. A `Box<str>` for each would take a separate
//! allocation of 32 bytes, which is a fifth of the memory of a key with a small value. Start with
//! [`Child`].
use super::node_id::NodeId;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// The longest name that is held in place, in bytes. With it an entry takes three words.
const INLINE_BYTES_MAX: usize = 18;

/// The name and the number of a child. The order is that of the names.
#[derive(Clone)]
pub struct Child(ChildForm);

#[derive(Clone)]
enum ChildForm {
    /// The first `len` of `bytes` are UTF-8; the others are 0.
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
        id: NodeId,
    },
    /// A name of more than `INLINE_BYTES_MAX` bytes.
    Boxed { name: Box<str>, id: NodeId },
}

impl Child {
    /// An entry.
    pub fn new(name: &str, id: NodeId) -> Child {
        if name.len() > INLINE_BYTES_MAX {
            let name = name.into();
            return Child(ChildForm::Boxed { name, id });
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let len = name.len() as u8;
        Child(ChildForm::Inline { len, bytes, id })
    }

    /// The number of the child.
    pub fn id(&self) -> NodeId {
        match &self.0 {
            ChildForm::Inline { id, .. } | ChildForm::Boxed { id, .. } => *id,
        }
    }

    /// Compares its name with `name`, whose `prefix_of` is `prefix`. The prefixes decide nearly
    /// always.
    pub fn compare_name(&self, prefix: u128, name: &str) -> Ordering {
        let own_prefix = match &self.0 {
            ChildForm::Inline { bytes, .. } => first_bytes(bytes),
            ChildForm::Boxed { name, .. } => prefix_of(name),
        };
        let by_prefix = own_prefix.cmp(&prefix);
        by_prefix.then_with(|| self.name_bytes().cmp(name.as_bytes()))
    }

    /// The name as bytes: comparing needs no check of the UTF-8.
    pub fn name_bytes(&self) -> &[u8] {
        match &self.0 {
            ChildForm::Inline { len, bytes, .. } => &bytes[..usize::from(*len)],
            ChildForm::Boxed { name, .. } => name.as_bytes(),
        }
    }

    /// The name as text.
    pub fn name(&self) -> &str {
        match &self.0 {
            ChildForm::Inline { .. } => {
                std::str::from_utf8(self.name_bytes()).expect("it was made from a string")
            }
            ChildForm::Boxed { name, .. } => name,
        }
    }
}

/// The first 16 bytes of a name as a number, with zeros after a shorter one. Names with different
/// prefixes have the order of their prefixes.
pub fn prefix_of(name: &str) -> u128 {
    let mut bytes = [0; INLINE_BYTES_MAX];
    let len = name.len().min(INLINE_BYTES_MAX);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    first_bytes(&bytes)
}

fn first_bytes(bytes: &[u8; INLINE_BYTES_MAX]) -> u128 {
    let first = bytes.first_chunk().expect("16 is less than 18");
    u128::from_be_bytes(*first)
}

impl PartialEq for Child {
    fn eq(&self, other: &Child) -> bool {
        self.name_bytes() == other.name_bytes()
    }
}

impl Eq for Child {}

impl PartialOrd for Child {
    fn partial_cmp(&self, other: &Child) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Child {
    fn cmp(&self, other: &Child) -> Ordering {
        self.name_bytes().cmp(other.name_bytes())
    }
}

/// A map with entries as keys is searched by name.
impl Borrow<[u8]> for Child {
    fn borrow(&self) -> &[u8] {
        self.name_bytes()
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.name(), self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::super::node_id::ROOT;
    use super::*;

    #[test]
    fn an_entry_takes_three_words() {
        assert_eq!(size_of::<Child>(), 24);
    }

    #[test]
    fn names_of_any_length_keep_their_text_and_order() {
        let texts = [
            "",
            "a",
            "a\0",
            "a\0\0",
            "a\0b",
            "schlüssel",
            "16 bytes -------",
            "17 bytes -------+",
            "18 bytes ---------",
            "19 bytes ----------",
            "19 bytes ---------+",
            "19 bytes ---------",
        ];
        for left in texts {
            let child = Child::new(left, ROOT);
            assert_eq!(child.name(), left);
            assert_eq!(child.name_bytes(), left.as_bytes());
            assert_eq!(child.id(), ROOT);
            for right in texts {
                let order = child.compare_name(prefix_of(right), right);
                assert_eq!(order, left.cmp(right), "{left} and {right}");
            }
        }
    }
}
