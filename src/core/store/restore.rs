//! A snapshot's bytes back to a key space. The bytes may be damaged or made up: all that is wrong
//! with them is told, and nothing larger than they are is allocated for them. Start with
//! `Restore::chunk`.
use super::node::{Node, NodeId, PERMANENT, ROOT};
use super::snapshot::{END, EVENT, FRAME_BYTES, HEAD, NODE, VERSION, take_event};
use super::{HistoryLimits, Store};
use crate::core::varint::{Malformed, Unpack};

/// No writer makes chunks longer than this: the largest value and its predecessor, and room.
const CHUNK_BYTES_MAX: usize = 256 << 20;

/// Bytes that are no snapshot, or a damaged one; the text says where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot(pub String);

/// A key space that is being read back from a snapshot's bytes.
pub struct Restore {
    store: Store,
    /// What came of a chunk that is not whole yet.
    partial: Vec<u8>,
    /// How many bytes of whole chunks have been read.
    offset: u64,
    stage: Stage,
    events: u64,
    nodes: u64,
    /// The open directories, from the root down, and the length of `path` in each.
    open: Vec<(NodeId, usize)>,
    path: String,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Head,
    Events,
    Nodes,
    Ended,
}

impl Restore {
    /// Starts with nothing.
    pub fn new(limits: HistoryLimits) -> Restore {
        Restore {
            store: Store::new(limits),
            partial: Vec::new(),
            offset: 0,
            stage: Stage::Head,
            events: 0,
            nodes: 0,
            open: vec![(ROOT, 0)],
            path: String::new(),
        }
    }

    /// Takes the next bytes, however they are cut.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), BadSnapshot> {
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let mut rest = &partial[..];
        while let Some((head, behind)) = rest.split_at_checked(FRAME_BYTES) {
            let word =
                |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
            let (length, crc) = (word(0) as usize, word(4));
            if length > CHUNK_BYTES_MAX {
                return Err(self.bad("a chunk is too long"));
            }
            let Some((records, next)) = behind.split_at_checked(length) else {
                break;
            };
            if crc32fast::hash(records) != crc {
                return Err(self.bad("a chunk does not match its checksum"));
            }
            self.take_records(records)?;
            self.offset += (FRAME_BYTES + length) as u64;
            rest = next;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    /// The key space, if the snapshot was whole.
    pub fn finish(self) -> Result<Store, BadSnapshot> {
        if self.stage != Stage::Ended || !self.partial.is_empty() {
            return Err(self.bad("it ends too early, or goes on behind its end"));
        }
        Ok(self.store)
    }

    fn bad(&self, what: &str) -> BadSnapshot {
        BadSnapshot(format!("snapshot, chunk at byte {}: {what}", self.offset))
    }

    fn take_records(&mut self, records: &[u8]) -> Result<(), BadSnapshot> {
        let mut from = Unpack::new(records);
        while from.left() > 0 {
            let at = records.len() - from.left();
            self.take_record(&mut from)
                .map_err(|Malformed| self.bad(&format!("no record of its kind at {at}")))?;
        }
        Ok(())
    }

    fn take_record(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        match (from.byte()?, self.stage) {
            (HEAD, Stage::Head) => {
                self.stage = Stage::Events;
                self.take_head(from)
            }
            (EVENT, Stage::Events) => self.take_event(from),
            (NODE, Stage::Events | Stage::Nodes) => {
                self.stage = Stage::Nodes;
                self.take_node(from)
            }
            (END, Stage::Events | Stage::Nodes) => {
                self.stage = Stage::Ended;
                let counted = (from.number()?, from.number()?);
                check(counted == (self.events, self.nodes))
            }
            _ => Err(Malformed),
        }
    }

    fn take_head(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        check(from.number()? == VERSION)?;
        self.store.index = from.number()?;
        let start = from.number()?;
        check(start <= self.store.index + 1)?;
        self.store.history.start_at(start);
        for counter in self.store.stats.replicated() {
            *counter = from.number()?;
        }
        self.store.note = from.str()?.into();
        Ok(())
    }

    fn take_event(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        let event = take_event(from)?;
        let history = &mut self.store.history;
        let expected = history.last().map_or(history.start(), |last| last + 1);
        check((expected..=self.store.index).contains(&event.index().0))?;
        history.push(event, drop);
        self.events += 1;
        Ok(())
    }

    fn take_node(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        let depth = from.number()?;
        check((1..=self.open.len() as u64).contains(&depth))?;
        self.open.truncate(depth as usize);
        let (dir, path_len) = *self.open.last().expect("the root stays open");
        let name = from.str()?;
        let mut node = Node::new(from.optional()?, from.time()?, 0);
        (node.modified, node.created) = (from.number()?, from.number()?);
        check(!name.is_empty() && !name.contains('/'))?;
        check(node.created <= node.modified && node.modified <= self.store.index)?;
        let siblings = self.store.tree.children_mut(dir);
        check(
            siblings
                .last_key_value()
                .is_none_or(|(last, _)| **last < *name),
        )?;
        self.path.truncate(path_len);
        self.path.push('/');
        self.path.push_str(name);
        let due = (node.expires_ns, node.created, depth as u32);
        check(due.0 == PERMANENT || !self.store.ttl.contains(due))?;
        self.store.ttl.add(due, &self.path);
        let is_dir = node.is_dir();
        let id = self.store.tree.add(node);
        self.store.tree.children_mut(dir).insert(name.into(), id);
        if is_dir {
            self.open.push((id, self.path.len()));
        }
        self.nodes += 1;
        Ok(())
    }
}

fn check(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}
