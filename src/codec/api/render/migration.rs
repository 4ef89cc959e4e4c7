//! The migration document on its way: rendered from its beginning, sent from an offset on.
//!
//! On request its last field, `Checksum`, is the CRC-32 of all bytes before that field, so a copy of
//! the document can be checked wherever it is. etcd's document does not have it. A download that
//! broke off goes on at an offset: the document of one moment has the same bytes each time, so the
//! bytes before the offset are rendered for the checksum and not sent. Start with
//! [`MigrationDocument::items`].
use super::json::{self, raw};
use super::tree::{NodeTree, migration_rest};
use crate::core::seam::Migrated;
use crate::core::store::ListItem;

/// A migration document of which a part is rendered.
#[derive(Debug)]
pub struct MigrationDocument {
    tree: NodeTree,
    /// How many of the next bytes are not sent.
    unsent: u64,
    /// The checksum of all bytes rendered so far; `None` if the document ends without it.
    checksum: Option<crc32fast::Hasher>,
}

impl MigrationDocument {
    /// The document, of which the first `offset` bytes are not sent. It ends with its checksum if
    /// `has_checksum`.
    pub fn new(offset: u64, has_checksum: bool) -> MigrationDocument {
        MigrationDocument {
            tree: NodeTree::migration(),
            unsent: offset,
            checksum: has_checksum.then(crc32fast::Hasher::new),
        }
    }

    /// Appends the next nodes; with `last` also the end of the key space.
    pub fn items(&mut self, items: &[ListItem], last: bool, now_ns: u64, out: &mut Vec<u8>) {
        let start = out.len();
        for item in items {
            self.tree.item(item, now_ns, out);
        }
        if last {
            self.tree.end(out);
        }
        self.count(&out[start..]);
        self.leave_out(start, out);
    }

    /// Appends the history and the end.
    pub fn rest(&mut self, rest: &Migrated, now_ns: u64, out: &mut Vec<u8>) {
        let start = out.len();
        migration_rest(rest, now_ns, out);
        self.count(&out[start..]);
        if let Some(checksum) = self.checksum.take() {
            raw(",\"Checksum\":", out);
            json::string(&format!("crc32:{:08x}", checksum.finalize()), out);
        }
        raw("}", out);
        self.leave_out(start, out);
    }

    fn count(&mut self, rendered: &[u8]) {
        if let Some(checksum) = &mut self.checksum {
            checksum.update(rendered);
        }
    }

    /// Removes the bytes before the offset from the bytes rendered since `start`.
    fn leave_out(&mut self, start: usize, out: &mut Vec<u8>) {
        let rendered = out.len() - start;
        let count = usize::try_from(self.unsent).map_or(rendered, |unsent| unsent.min(rendered));
        out.drain(start..start + count);
        self.unsent -= count as u64;
    }
}
