//! Restores a key space from the bytes of a snapshot.
//!
//! The bytes may be damaged or made up. Each field is checked, and nothing larger than the bytes
//! that arrived is allocated for them. Start with `Restore::chunk`.
use super::Store;
use super::history::HistoryLimits;
use super::node::Node;
use super::node_id::{NodeId, ROOT};
use super::snapshot::{
    END, EVENT, HEAD, LENGTH_BYTES, NODE, PlainNode, VERSION, encode_head, put_end, put_plain_node,
    take_cluster_time, take_event,
};
use super::stats::{REPLICATED, Stats};
use super::ttl::due_of;
use crate::core::cluster_time::ClusterTime;
use crate::core::varint::{Malformed, Unpack};

/// Longest chunk that is accepted, in bytes. The longest one that a writer makes has a slice, then
/// one event with the largest value and the largest previous value; the rest is a margin.
const CHUNK_BYTES_MAX: usize = 256 << 20;

/// Largest etcd index that is accepted. A made-up index must not overflow with later changes.
const INDEX_MAX: u64 = u64::MAX / 2;

/// The bytes are no snapshot, or a damaged one. The text says where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot(pub String);

/// A key space that is being read from the bytes of a snapshot.
pub struct Restore {
    store: Store,
    /// The first bytes of a chunk that has not arrived as a whole.
    partial: Vec<u8>,
    /// Bytes of whole chunks read so far.
    offset: u64,
    stage: RestoreStage,
    /// Event records read so far.
    events: u64,
    /// Node records read so far.
    nodes: u64,
    /// The directories on the way to the last node, from the root down, each with the length of its
    /// prefix of `path`. Never empty.
    open: Vec<(NodeId, usize)>,
    /// The path of the last node. Its names are those of the last child of each directory that is
    /// open, too.
    path: String,
}

/// The records that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestoreStage {
    /// The head.
    Head,
    /// Events, nodes or the end.
    Events,
    /// Nodes or the end.
    Nodes,
    /// None.
    Ended,
}

impl Restore {
    /// Nothing is read yet.
    pub fn new(limits: HistoryLimits) -> Restore {
        Restore {
            store: Store::new(limits),
            partial: Vec::new(),
            offset: 0,
            stage: RestoreStage::Head,
            events: 0,
            nodes: 0,
            open: vec![(ROOT, 0)],
            path: String::new(),
        }
    }

    /// A key space of these nodes, in path order and without the root, at the etcd index `index`.
    /// It has no history, and its note is `note`.
    ///
    /// # Errors
    ///
    /// The nodes are not in path order, or an index of theirs is larger than `index`.
    pub fn of_nodes<'a>(
        limits: HistoryLimits,
        index: u64,
        note: &str,
        nodes: impl Iterator<Item = PlainNode<'a>>,
    ) -> Result<Store, BadSnapshot> {
        let mut restore = Restore::new(limits);
        let time = ClusterTime::default();
        let mut records = encode_head(index, index + 1, &time, &[0; REPLICATED], note);
        let mut count = 0;
        for node in nodes {
            put_plain_node(&node, &mut records);
            restore.take_records(&records)?;
            restore.offset += records.len() as u64;
            records.clear();
            count += 1;
        }
        put_end(0, count, &mut records);
        restore.take_records(&records)?;
        restore.finish()
    }

    /// Reads the next bytes, which may begin and end anywhere in a chunk.
    ///
    /// # Errors
    ///
    /// The chunk or one of its records is malformed. The restore is of no use any more.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), BadSnapshot> {
        let mut partial = std::mem::take(&mut self.partial);
        let rest = if partial.is_empty() {
            self.take_chunks(bytes)?
        } else {
            partial.extend_from_slice(bytes);
            self.take_chunks(&partial)?
        };
        self.partial = rest.to_vec();
        Ok(())
    }

    /// Reads the chunks at the front of `bytes` that are whole. Returns what follows them.
    fn take_chunks<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], BadSnapshot> {
        let mut rest = bytes;
        while let Some((length, behind)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > CHUNK_BYTES_MAX {
                return Err(self.bad("a chunk is too long"));
            }
            let Some((records, next)) = behind.split_at_checked(length) else {
                break;
            };
            self.take_records(records)?;
            self.offset += (LENGTH_BYTES + length) as u64;
            rest = next;
        }
        Ok(rest)
    }

    /// The key space.
    ///
    /// # Errors
    ///
    /// The snapshot is not whole, or bytes follow its end.
    pub fn finish(self) -> Result<Store, BadSnapshot> {
        if self.stage != RestoreStage::Ended || !self.partial.is_empty() {
            return Err(self.bad("it ends too early, or bytes follow its end"));
        }
        Ok(self.store)
    }

    /// Gives up the restore. Returns the key space read so far, to be discarded.
    pub fn abandon(self) -> Store {
        self.store
    }

    fn bad(&self, what: &str) -> BadSnapshot {
        BadSnapshot(format!("snapshot, chunk at byte {}: {what}", self.offset))
    }

    fn take_records(&mut self, records: &[u8]) -> Result<(), BadSnapshot> {
        let mut from = Unpack::new(records);
        while from.left() > 0 {
            let at = records.len() - from.left();
            self.take_record(&mut from)
                .map_err(|Malformed| self.bad(&format!("malformed record at byte {at} of it")))?;
        }
        Ok(())
    }

    fn take_record(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        match (from.byte()?, self.stage) {
            (HEAD, RestoreStage::Head) => {
                self.stage = RestoreStage::Events;
                self.take_head(from)
            }
            (EVENT, RestoreStage::Events) => self.take_event(from),
            (NODE, RestoreStage::Events | RestoreStage::Nodes) => {
                self.stage = RestoreStage::Nodes;
                self.take_node(from)
            }
            (END, RestoreStage::Events | RestoreStage::Nodes) => {
                self.stage = RestoreStage::Ended;
                let events = from.number()?;
                let nodes = from.number()?;
                check(events == self.events && nodes == self.nodes)
            }
            _ => Err(Malformed),
        }
    }

    fn take_head(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        check(from.number()? == VERSION)?;
        let index = from.number()?;
        let history_start = from.number()?;
        check(index <= INDEX_MAX && history_start <= index + 1)?;
        let time = take_cluster_time(from)?;
        let mut counters = [0; REPLICATED];
        for counter in &mut counters {
            *counter = from.number()?;
        }
        let stats = Stats::from_replicated(counters);
        let note = from.str()?;
        self.store
            .restore_head(index, history_start, time, stats, note);
        Ok(())
    }

    fn take_event(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        let event = take_event(from)?;
        let index = self.store.index;
        let history = &mut self.store.history;
        let expected = history.last().map_or(history.start(), |last| last + 1);
        check((expected..=index).contains(&event.index().0))?;
        history.push(event, drop);
        self.events += 1;
        Ok(())
    }

    fn take_node(&mut self, from: &mut Unpack) -> Result<(), Malformed> {
        let depth = from.number()?;
        check((1..=self.open.len() as u64).contains(&depth))?;
        self.open.truncate(depth as usize);
        let (dir, dir_path_len) = *self.open.last().expect("the root stays open");
        let name = from.str()?;
        let value = from.optional()?;
        let expires_ns = from.time()?;
        let modified = from.number()?;
        let created = from.number()?;
        check(!name.is_empty() && !name.contains('/'))?;
        check(created <= modified && modified <= self.store.index)?;
        let sibling = self.path[dir_path_len..].split('/').nth(1);
        check(sibling.is_none_or(|sibling| sibling < name))?;
        self.path.truncate(dir_path_len);
        self.path.push('/');
        self.path.push_str(name);
        let node = Node::restored(value, expires_ns, modified, created);
        let due = due_of(&node, depth as u32);
        check(due.is_none_or(|due| !self.store.ttl.contains(due)))?;
        self.store.ttl.add(due, &self.path);
        let is_dir = node.is_dir();
        let id = self.store.tree.insert(dir, name, node);
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
