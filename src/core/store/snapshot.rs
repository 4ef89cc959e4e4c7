//! The format of a snapshot, and how it is written: a slice at a time from a frozen key space.
//!
//! The bytes are chunks: length (4 bytes, little endian), then whole records. There are no
//! checksums here: the snapshot file has them. A record is a tag byte and fields as `varint` writes
//! them:
//! - head: version of the format, etcd index, start of the history, the time (latest stamp, how
//!   far shown times are ahead), the counters of writes, the note;
//! - event, oldest first: action, node, the ttl that the change gave (or none), the previous node (or
//!   none);
//! - node, in path order without the root: depth, name, value (none: a directory), expiration,
//!   index of the last change, index of the creation;
//! - end: the number of events and of nodes before it.
//!
//! Nodes are not nested, so that depth costs no stack. `state_hash` runs over the same records.
//! Start with `SnapshotWriter::write`; `restore` reads the bytes back.
use super::event::{Action, EtcdIndex, Event, View};
use super::freeze::{FreezeToken, Freezer, FrozenMoment};
use super::history::History;
use super::node::KeyTree;
use super::node_id::ROOT;
use super::walk::{TreeWalk, Visited};
use crate::core::cluster_time::{ClusterTime, Stamp, put_signed, take_signed};
use crate::core::fields::Codec;
use crate::core::random::SPLITMIX_STEP;
use crate::core::varint::{Malformed, Unpack, put_number, put_optional, put_str, put_time};
use std::sync::Arc;

/// The version of the format.
pub(super) const VERSION: u64 = 5;
/// The tags of the records.
pub(super) const HEAD: u8 = 1;
pub(super) const EVENT: u8 = 2;
pub(super) const NODE: u8 = 3;
pub(super) const END: u8 = 4;
/// The length before the records of a chunk.
pub(super) const LENGTH_BYTES: usize = 4;

/// The outcome of `Store::snapshot_chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// More chunks follow.
    More,
    /// The snapshot is complete.
    Done,
    /// The freeze was given up because it kept too much. Begin anew.
    GivenUp,
}

/// A snapshot that is being written.
pub(super) struct SnapshotWriter {
    /// The token of the freeze that it reads.
    token: FreezeToken,
    stage: WriterStage,
    /// Event records written so far.
    events: u64,
    /// Node records written so far.
    nodes: u64,
}

/// The records that are written next.
enum WriterStage {
    /// The head, encoded when the snapshot began.
    Head(Vec<u8>),
    /// The events from this index on.
    Events(u64),
    /// The nodes from this position on.
    Nodes(TreeWalk),
}

impl SnapshotWriter {
    /// A snapshot of the freeze of this token, with its encoded head.
    pub(super) fn new(token: FreezeToken, head: Vec<u8>) -> SnapshotWriter {
        SnapshotWriter {
            token,
            stage: WriterStage::Head(head),
            events: 0,
            nodes: 0,
        }
    }

    /// The token of the freeze that it reads.
    pub(super) fn token(&self) -> FreezeToken {
        self.token
    }

    /// Appends a chunk of about `bytes` to `out`; its last record may exceed that. The records are
    /// encoded in place: one may be some MiB long. Returns whether it was the last chunk.
    ///
    /// # Panics
    ///
    /// If the freeze has ended.
    pub(super) fn write(
        &mut self,
        tree: &KeyTree,
        history: &History,
        freezer: &mut Freezer,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        let end = start + LENGTH_BYTES + bytes.max(1);
        let mut is_done = false;
        while !is_done && out.len() < end {
            match &mut self.stage {
                WriterStage::Head(head) => {
                    out.append(head);
                    self.stage = WriterStage::Events(0);
                }
                WriterStage::Events(_) => {
                    if self.write_events(history, freezer, end, out) {
                        let walk = TreeWalk::below(ROOT, "/", tree, true, true);
                        self.stage = WriterStage::Nodes(walk);
                    }
                }
                WriterStage::Nodes(_) => {
                    is_done = self.write_nodes(tree, freezer, end, out);
                }
            }
        }
        if is_done {
            put_end(self.events, self.nodes, out);
        }
        set_chunk_length(start, out);
        is_done
    }

    /// Appends event records until `out` has the length `end`. Returns whether none is left.
    fn write_events(
        &mut self,
        history: &History,
        freezer: &mut Freezer,
        end: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let WriterStage::Events(next) = &mut self.stage else {
            unreachable!("the caller has matched the stage");
        };
        let moment = freezer.get(self.token).expect("the freeze is there");
        let mut is_done = true;
        for event in events_of(moment, history, *next) {
            if out.len() >= end {
                is_done = false;
                break;
            }
            put_event(event, out);
            *next = event.index().0 + 1;
            self.events += 1;
        }
        let next = (!is_done).then_some(*next);
        freezer.advance_events(self.token, next);
        is_done
    }

    /// Appends node records until `out` has the length `end`. Returns whether none is left.
    fn write_nodes(
        &mut self,
        tree: &KeyTree,
        freezer: &mut Freezer,
        end: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let WriterStage::Nodes(walk) = &mut self.stage else {
            unreachable!("the caller has matched the stage");
        };
        let nodes = &mut self.nodes;
        let mut last = String::new();
        let is_done = walk.run(tree, freezer.get(self.token), |visited| {
            put_node(visited, out);
            *nodes += 1;
            let goes_on = out.len() < end;
            if !goes_on {
                last.push_str(visited.path());
            }
            goes_on
        });
        freezer.advance(self.token, &last);
        is_done
    }
}

/// The events of the history as of a moment, oldest first, from the etcd index `next` on.
pub(super) fn events_of<'a>(
    moment: FrozenMoment<'a>,
    history: &'a History,
    next: u64,
) -> impl Iterator<Item = &'a Event> {
    let kept = history.since(next);
    let kept = kept.take_while(move |event| event.index().0 <= moment.at());
    moment.evicted_events(next).chain(kept)
}

/// A hash over the records of a key space.
///
/// Each word of eight bytes is mixed in by a rotation and a multiplication. Fast and of good
/// spread, but not safe against input that an attacker chooses.
#[derive(Default)]
pub(super) struct RecordHash(u64);

impl RecordHash {
    /// Adds a record, and clears it.
    fn take(&mut self, record: &mut Vec<u8>) {
        self.mix(record.len() as u64);
        for word in record.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.mix(u64::from_le_bytes(bytes));
        }
        record.clear();
    }

    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(SPLITMIX_STEP);
        self.0 ^= self.0 >> 32;
    }
}

/// The hash of the records of a snapshot: its encoded head, all events, all nodes.
pub(super) fn hash_records(mut head: Vec<u8>, history: &History, tree: &KeyTree) -> u64 {
    let mut hash = RecordHash::default();
    hash.take(&mut head);
    let mut record = head;
    for event in history.since(0) {
        put_event(event, &mut record);
        hash.take(&mut record);
    }
    TreeWalk::below(ROOT, "/", tree, true, true).run(tree, None, |visited| {
        put_node(visited, &mut record);
        hash.take(&mut record);
        true
    });
    hash.0
}

/// The head record.
pub(super) fn encode_head(
    index: u64,
    history_start: u64,
    time: &ClusterTime,
    counters: &[u64],
    note: &str,
) -> Vec<u8> {
    let mut head = vec![HEAD];
    for number in [VERSION, index, history_start] {
        put_number(number, &mut head);
    }
    put_cluster_time(time, &mut head);
    for counter in counters {
        put_number(*counter, &mut head);
    }
    put_str(note, &mut head);
    head
}

fn put_cluster_time(time: &ClusterTime, out: &mut Vec<u8>) {
    out.push(u8::from(time.last().is_some()));
    if let Some(last) = time.last() {
        Stamp::put(&last, out);
    }
    put_signed(time.offset_ns(), out);
}

/// Decodes the time in a head record.
pub(super) fn take_cluster_time(from: &mut Unpack) -> Result<ClusterTime, Malformed> {
    let last = if from.flag()? {
        Some(Stamp::take(from)?)
    } else {
        None
    };
    if last.is_some_and(|last| !last.is_sound()) {
        return Err(Malformed);
    }
    Ok(ClusterTime::new(last, take_signed(from)?))
}

/// Sets the length before the records of the chunk at `start`, the last one in `out`.
fn set_chunk_length(start: usize, out: &mut [u8]) {
    let (length, records) = out[start..].split_at_mut(LENGTH_BYTES);
    let bytes = u32::try_from(records.len()).expect("a slice and one record stay below 4 GiB");
    length.copy_from_slice(&bytes.to_le_bytes());
}

/// The end record.
pub(super) fn put_end(events: u64, nodes: u64, out: &mut Vec<u8>) {
    out.push(END);
    put_number(events, out);
    put_number(nodes, out);
}

fn put_node(visited: &Visited, out: &mut Vec<u8>) {
    let value = visited.value();
    put_plain_node(
        &PlainNode {
            depth: visited.depth(),
            name: visited.name(),
            value: value.as_deref(),
            expires_ns: visited.expires_ns(),
            modified: visited.modified(),
            created: visited.created(),
        },
        out,
    );
}

/// A node apart from any tree.
#[derive(Clone, Copy, Debug)]
pub struct PlainNode<'a> {
    /// How many directories it is below the root; at least 1.
    pub depth: u32,
    /// The last segment of its path.
    pub name: &'a str,
    /// A file's value; `None`: a directory.
    pub value: Option<&'a str>,
    /// When it expires, in nanoseconds of the cluster clock.
    pub expires_ns: Option<u64>,
    /// The etcd index of its last change.
    pub modified: u64,
    /// The etcd index of its creation.
    pub created: u64,
}

/// The node record.
pub(super) fn put_plain_node(node: &PlainNode, out: &mut Vec<u8>) {
    out.push(NODE);
    put_number(u64::from(node.depth), out);
    put_str(node.name, out);
    put_optional(node.value, out);
    put_time(node.expires_ns, out);
    put_number(node.modified, out);
    put_number(node.created, out);
}

fn put_event(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(&[EVENT, action_byte(event.action)]);
    put_view(&event.node, out);
    out.push(u8::from(event.ttl_s.is_some()));
    if let Some(ttl_s) = event.ttl_s {
        put_signed(ttl_s, out);
    }
    out.push(u8::from(event.prev.is_some()));
    if let Some(prev) = &event.prev {
        put_view(prev, out);
    }
}

fn put_view(view: &View, out: &mut Vec<u8>) {
    put_str(&view.key, out);
    out.push(u8::from(view.dir));
    put_optional(view.value.as_deref(), out);
    put_time(view.expires_ns, out);
    put_number(view.modified.0, out);
    put_number(view.created.0, out);
}

/// Decodes an event record after its tag.
pub(super) fn take_event(from: &mut Unpack) -> Result<Event, Malformed> {
    let action = take_action(from)?;
    let node = take_view(from)?;
    let ttl_s = if from.flag()? {
        Some(take_signed(from)?)
    } else {
        None
    };
    let has_prev = from.flag()?;
    let prev = if has_prev {
        Some(take_view(from)?)
    } else {
        None
    };
    Ok(Event {
        action,
        node,
        ttl_s,
        prev,
    })
}

fn take_view(from: &mut Unpack) -> Result<View, Malformed> {
    Ok(View {
        key: from.str()?.into(),
        dir: from.flag()?,
        value: from.optional()?.map(Arc::from),
        expires_ns: from.time()?,
        modified: EtcdIndex(from.number()?),
        created: EtcdIndex(from.number()?),
    })
}

fn action_byte(action: Action) -> u8 {
    match action {
        Action::Get => 0,
        Action::Set => 1,
        Action::Create => 2,
        Action::Update => 3,
        Action::CompareAndSwap => 4,
        Action::Delete => 5,
        Action::CompareAndDelete => 6,
        Action::Expire => 7,
    }
}

fn take_action(from: &mut Unpack) -> Result<Action, Malformed> {
    Ok(match from.byte()? {
        1 => Action::Set,
        2 => Action::Create,
        3 => Action::Update,
        4 => Action::CompareAndSwap,
        5 => Action::Delete,
        6 => Action::CompareAndDelete,
        7 => Action::Expire,
        _ => return Err(Malformed),
    })
}
