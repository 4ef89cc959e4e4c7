//! The name of a node: a string of 24 bytes that holds a short name in place.
//!
//! Most names are short. A `Box<str>` for each would take 16 bytes and a separate allocation of 32,
//! which is a sixth of the memory of a key with a small value. Start with [`NodeName`].
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// The longest name that is held in place, in bytes. With it a name takes three words.
const INLINE_BYTES_MAX: usize = 22;

/// The name of a node. It compares like its text, byte by byte.
#[derive(Clone)]
pub struct NodeName(Form);

#[derive(Clone)]
enum Form {
    /// The first `len` of `bytes` are UTF-8; the others are 0.
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    /// A name of more than `INLINE_BYTES_MAX` bytes.
    Boxed(Box<str>),
}

impl NodeName {
    /// The name as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Form::Boxed(text) => text.as_bytes(),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Form::Inline { .. } => {
                std::str::from_utf8(self.as_bytes()).expect("it was made from a string")
            }
            Form::Boxed(text) => text,
        }
    }
}

impl From<&str> for NodeName {
    fn from(text: &str) -> NodeName {
        if text.len() > INLINE_BYTES_MAX {
            return NodeName(Form::Boxed(text.into()));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        NodeName(Form::Inline {
            len: text.len() as u8,
            bytes,
        })
    }
}

/// Maps look a name up by its bytes: comparing needs no check of the UTF-8.
impl Borrow<[u8]> for NodeName {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for NodeName {
    fn eq(&self, other: &NodeName) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for NodeName {}

impl Ord for NodeName {
    fn cmp(&self, other: &NodeName) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for NodeName {
    fn partial_cmp(&self, other: &NodeName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_three_words() {
        assert_eq!(size_of::<NodeName>(), 24);
    }

    #[test]
    fn names_of_any_length_keep_their_text_and_order() {
        let texts = [
            "",
            "a",
            "a\0",
            "aa",
            "name of 22 bytes ------",
            "name of 22 bytes ----",
            "b",
            "schlüssel",
            "zzzzzzzzzzzzzzzzzzzzzz",
            "zzzzzzzzzzzzzzzzzzzzzzz",
        ];
        for left in texts {
            assert_eq!(NodeName::from(left).as_str(), left);
            for right in texts {
                let order = NodeName::from(left).cmp(&NodeName::from(right));
                assert_eq!(order, left.cmp(right), "{left} and {right}");
            }
        }
    }
}
