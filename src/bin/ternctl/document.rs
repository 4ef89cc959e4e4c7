//! The migration document (`/v2/migration/snapshot`), which is also the format of backups: checks
//! it and reads it.
//!
//! A document of tern ends with its checksum. A document of etcd 0.4 has none: it is only checked
//! to be complete. Start with [`KeyDocument::parse`].
use crate::failure::{ExitReason, Failure};
use crate::json_pull::{BadJson, JsonPull};
use crate::json_tree::{ChildList, TreeNode, read_tree};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// The last field of a document, up to the eight digits of its checksum.
const CHECKSUM_FIELD: &[u8] = b",\"Checksum\":\"crc32:";
/// The bytes after the digits of the checksum, the last ones of a document.
const DOCUMENT_END: &[u8] = b"\"}";
/// The digits of a checksum.
const DIGITS: usize = 8;
/// The expiration of a node that does not expire, in Go's words.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A node of the key space, hidden ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentNode {
    /// The path; starts with `/`.
    pub path: String,
    /// A file's value; `None`: a directory.
    pub value: Option<String>,
    /// When it expires, in nanoseconds of Unix time.
    pub expires_ns: Option<u64>,
    /// The etcd index of its last change.
    pub modified: u64,
    /// The etcd index of its creation.
    pub created: u64,
    is_dir: bool,
}

/// A key space of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyDocument {
    /// All nodes but the root, each after its directory.
    pub nodes: Vec<DocumentNode>,
    /// The etcd index of the moment.
    pub index: u64,
    /// It carries its checksum, and that is right.
    pub is_checked: bool,
}

impl KeyDocument {
    /// Checks and reads a document.
    ///
    /// # Errors
    ///
    /// It is damaged, cut short or no such document.
    pub fn parse(path: &Path, text: &[u8]) -> Result<KeyDocument, Failure> {
        let damaged = |why: String| {
            let text = format!("{}: {why}. Use another backup", path.display());
            Failure::new(ExitReason::DamagedData, text)
        };
        let is_checked = check(text).map_err(damaged)?;
        let document = KeyDocument::read(text)
            .map_err(|bad| damaged(format!("it is no backup, or cut short: {}", bad.text())))?;
        if document.is_checked && !is_checked {
            return Err(damaged("its checksum is damaged".to_string()));
        }
        Ok(document)
    }

    fn read(text: &[u8]) -> Result<KeyDocument, BadJson> {
        let mut document = KeyDocument::default();
        let mut pull = JsonPull::new(text);
        let mut has_index = false;
        pull.begin_object()?;
        while let Some(name) = pull.next_name()? {
            match name.as_str() {
                "Root" => {
                    let nodes: Vec<DocumentNode> = read_tree(&mut pull)?;
                    document.nodes = nodes.into_iter().skip(1).collect();
                }
                "CurrentIndex" => {
                    document.index = pull.index()?;
                    has_index = true;
                }
                "Checksum" => {
                    document.is_checked = true;
                    pull.skip()?;
                }
                "WatcherHub" | "Stats" | "CurrentVersion" => pull.skip()?,
                _ => return Err(pull.missing("a field of a backup before")),
            }
        }
        pull.end()?;
        if !has_index {
            return Err(pull.missing("the field CurrentIndex"));
        }
        Ok(document)
    }
}

/// Checks the checksum. Returns whether there is one.
///
/// # Errors
///
/// It is wrong; with the fault.
pub fn check(text: &[u8]) -> Result<bool, String> {
    let length = CHECKSUM_FIELD.len() + DIGITS + DOCUMENT_END.len();
    let Some(at) = text.len().checked_sub(length) else {
        return Ok(false);
    };
    let (content, field) = text.split_at(at);
    let digits = field.strip_prefix(CHECKSUM_FIELD);
    let digits = digits.and_then(|rest| rest.strip_suffix(DOCUMENT_END));
    let Some(digits) = digits else {
        return Ok(false);
    };
    let actual = format!("{:08x}", crc32fast::hash(content));
    if digits == actual.as_bytes() {
        return Ok(true);
    }
    Err("its content does not match its checksum: it is damaged".to_string())
}

impl TreeNode for DocumentNode {
    const CHILDREN_FIELD: &str = "Children";
    const CHILDREN: ChildList = ChildList::Object;

    fn read_field(&mut self, name: &str, pull: &mut JsonPull) -> Result<(), BadJson> {
        match name {
            "Path" => self.path = pull.string()?,
            "CreatedIndex" => self.created = pull.index()?,
            "ModifiedIndex" => self.modified = pull.index()?,
            "ExpireTime" => {
                let text = pull.string()?;
                let parsed = (text != NEVER).then(|| expiration_ns(&text));
                self.expires_ns = match parsed {
                    None => None,
                    Some(Some(ns)) => Some(ns),
                    Some(None) => return Err(pull.missing("a time of RFC 3339 before")),
                };
            }
            "Value" => self.value = Some(pull.string()?),
            _ => pull.skip()?,
        }
        Ok(())
    }

    fn on_children(&mut self) {
        self.is_dir = true;
    }

    fn on_end(&mut self) {
        if self.is_dir {
            self.value = None;
        }
    }
}

/// A time of RFC 3339, with any offset, in nanoseconds of Unix time. etcd 0.4 prints local time.
pub fn expiration_ns(text: &str) -> Option<u64> {
    let (date_time, offset_s) = match text.strip_suffix('Z') {
        Some(date_time) => (date_time, 0),
        None => {
            let at = text.len().checked_sub("+00:00".len())?;
            let (date_time, offset) = text.split_at_checked(at)?;
            (date_time, offset_seconds(offset)?)
        }
    };
    let time = humantime::parse_rfc3339(&format!("{date_time}Z")).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let shift = Duration::from_secs(u64::from(i32::unsigned_abs(offset_s)));
    let since = if offset_s < 0 {
        since.checked_add(shift)?
    } else {
        since.checked_sub(shift)?
    };
    u64::try_from(since.as_nanos()).ok()
}

/// `+02:00` in seconds.
fn offset_seconds(text: &str) -> Option<i32> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    match text.as_bytes()[0] {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = concat!(
        r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"#,
        r#""ExpireTime":"0001-01-01T00:00:00Z","ACL":"","Value":"","Children":{"a":{"Path":"/a","#,
        r#""CreatedIndex":3,"ModifiedIndex":3,"ExpireTime":"2030-01-01T02:00:00.5+02:00","ACL":"","#,
        r#""Value":"","Children":{"b":{"Path":"/a/b","CreatedIndex":4,"ModifiedIndex":5,"#,
        r#""ExpireTime":"0001-01-01T00:00:00Z","ACL":"","Value":"1","Children":null}}}}},"#,
        r#""WatcherHub":{"x":[null,{}]},"CurrentIndex":5,"Stats":{},"CurrentVersion":2"#
    );

    fn checked() -> String {
        let checksum = crc32fast::hash(TEXT.as_bytes());
        format!("{TEXT},\"Checksum\":\"crc32:{checksum:08x}\"}}")
    }

    #[test]
    fn a_document_is_read_with_and_without_a_checksum() {
        for (text, is_checked) in [(format!("{TEXT}}}"), false), (checked(), true)] {
            let document = KeyDocument::parse(Path::new("x"), text.as_bytes()).expect("a document");
            assert_eq!((document.index, document.is_checked), (5, is_checked));
            let [a, b] = &document.nodes[..] else {
                panic!("{document:?}");
            };
            assert_eq!((a.path.as_str(), &a.value), ("/a", &None));
            assert_eq!(a.expires_ns, Some(1_893_456_000_500_000_000));
            assert_eq!((b.path.as_str(), b.value.as_deref()), ("/a/b", Some("1")));
            assert_eq!((b.created, b.modified, b.expires_ns), (4, 5, None));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let text = checked();
        let path = Path::new("x");
        for length in 0..text.len() {
            let cut = KeyDocument::parse(path, &text.as_bytes()[..length]);
            assert!(cut.is_err(), "{length}");
        }
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(KeyDocument::parse(path, &damaged).is_err(), "{bit}");
        }
    }
}
