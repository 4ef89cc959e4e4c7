//! The key space as bytes, written a slice at a time from a frozen key space, and read back.
//!
//! The bytes are chunks: length (4 bytes, little endian), CRC-32 of what follows (4 bytes), then
//! whole records. A record is a tag byte and fields as `command::pack` writes them:
//! - head: format version, etcd index, start of the history, the counters of writes, the owner's
//!   note;
//! - event, oldest first: action, node, whether there is a previous node, that;
//! - node, in path order without the root: depth, name, value (none: a directory), expiration, both
//!   indexes;
//! - end: how many events and nodes came before.
//!
//! Flat, so that depth costs no stack. `state_hash` runs over the same records. Start with
//! `snapshot_chunk`.
use super::event::{Action, Event, View};
use super::fault::Fault;
use super::freeze::Freeze;
use super::node::{PERMANENT, ROOT};
use super::walk::{Found, Walk};
use super::{EtcdIndex, Step, Store};
use crate::core::varint::{Malformed, Unpack, put_number, put_optional, put_str, put_time};

pub(super) const VERSION: u64 = 2;
pub(super) const HEAD: u8 = 1;
pub(super) const EVENT: u8 = 2;
pub(super) const NODE: u8 = 3;
pub(super) const END: u8 = 4;
/// Length and checksum.
pub(super) const FRAME_BYTES: usize = 8;

/// A snapshot that is being written.
pub(super) struct Writer {
    token: u64,
    stage: Stage,
    events: u64,
    nodes: u64,
}

enum Stage {
    /// The head is ready.
    Head(Vec<u8>),
    /// Events from this index on are next.
    Events(u64),
    Nodes(Walk),
}

impl Store {
    /// Begins a snapshot of this very moment. False: something else has the key space frozen; ask
    /// again in a later turn (the snapshot is next in line).
    pub fn snapshot_begin(&mut self) -> bool {
        assert!(self.snapshot.is_none(), "one snapshot at a time");
        self.freezer.snapshot_waits = self.freezer.freeze.is_some();
        if self.freezer.snapshot_waits {
            return false;
        }
        let token = self.freezer.token();
        let from = self.history.start();
        self.freezer.freeze = Some(Freeze::new(token, self.index, "/", Some(from)));
        let mut head = Vec::new();
        self.put_head(&mut head);
        self.snapshot = Some(Writer {
            token,
            stage: Stage::Head(head),
            events: 0,
            nodes: 0,
        });
        true
    }

    /// Appends about `bytes` more of the snapshot (at most one node or event more) to `out`.
    pub fn snapshot_chunk(&mut self, bytes: usize, out: &mut Vec<u8>) -> Step {
        let events_wanted = !self.has(Fault::HistoryForgotten);
        let writer = self.snapshot.as_mut().expect("a snapshot was begun");
        let freeze = self.freezer.freeze.as_mut();
        let Some(freeze) = freeze.filter(|freeze| freeze.token == writer.token) else {
            self.snapshot = None;
            return Step::GivenUp;
        };
        let mut records = Vec::new();
        let mut done = false;
        while !done && records.len() < bytes.max(1) {
            match &mut writer.stage {
                Stage::Head(head) => {
                    records.append(head);
                    writer.stage = Stage::Events(self.history.start());
                }
                Stage::Events(next) => {
                    let at = freeze.at;
                    let kept = self.history.since(*next).take_while(|e| e.index().0 <= at);
                    let mut ended = true;
                    for event in freeze.events().chain(kept).filter(|_| events_wanted) {
                        if records.len() >= bytes {
                            ended = false;
                            break;
                        }
                        put_event(event, &mut records);
                        *next = event.index().0 + 1;
                        writer.events += 1;
                    }
                    let past = if ended { u64::MAX } else { *next };
                    freeze.advance_events(past);
                    if ended {
                        writer.stage = Stage::Nodes(Walk::below(ROOT, "/", &self.tree, true, true));
                    }
                }
                Stage::Nodes(walk) => {
                    let mut last = String::new();
                    done = walk.run(&self.tree, Some(freeze), |found| {
                        put_node(found, &mut records);
                        writer.nodes += 1;
                        let go_on = records.len() < bytes;
                        if !go_on {
                            last.push_str(found.path);
                        }
                        go_on
                    });
                    freeze.advance(&last);
                }
            }
        }
        if done {
            put_end(writer.events, writer.nodes, &mut records);
            self.snapshot_abandon();
        }
        put_frame(&records, out);
        if done { Step::Done } else { Step::More }
    }

    /// Gives the snapshot up; no effect when there is none.
    pub fn snapshot_abandon(&mut self) {
        self.freezer.snapshot_waits = false;
        if let Some(writer) = self.snapshot.take()
            && self
                .freezer
                .freeze
                .as_ref()
                .is_some_and(|f| f.token == writer.token)
        {
            self.thaw();
        }
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.push(HEAD);
        for number in [VERSION, self.index, self.history.start()] {
            put_number(number, out);
        }
        for counter in self.stats.clone().replicated() {
            put_number(*counter, out);
        }
        put_str(&self.note, out);
    }

    /// A number that is equal on all machines at equal applied index: the nodes, the history, the
    /// index, the counters of writes, the note. Walks over everything.
    pub fn state_hash(&self) -> u64 {
        let mut hash = Hash::default();
        let mut record = Vec::new();
        self.put_head(&mut record);
        hash.take(&mut record);
        for event in self.history.since(0) {
            put_event(event, &mut record);
            hash.take(&mut record);
        }
        Walk::below(ROOT, "/", &self.tree, true, true).run(&self.tree, None, |found| {
            put_node(found, &mut record);
            hash.take(&mut record);
            true
        });
        hash.0
    }
}

/// A fast hash of good spread over words of eight bytes (multiply and rotate); not for hostile
/// input.
#[derive(Default)]
struct Hash(u64);

impl Hash {
    /// Takes a record in, and clears it.
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
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

fn put_frame(records: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(records.len()).expect("a slice and one record stay below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(records).to_le_bytes());
    out.extend_from_slice(records);
}

fn put_end(events: u64, nodes: u64, out: &mut Vec<u8>) {
    out.push(END);
    put_number(events, out);
    put_number(nodes, out);
}

fn put_node(found: &Found, out: &mut Vec<u8>) {
    out.push(NODE);
    put_number(u64::from(found.depth), out);
    put_str(found.name(), out);
    put_optional(found.value(), out);
    let expires_ns = found.expires_ns();
    put_time((expires_ns != PERMANENT).then_some(expires_ns), out);
    put_number(found.modified(), out);
    put_number(found.node.created, out);
}

fn put_event(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(&[EVENT, action_byte(event.action)]);
    put_view(&event.node, out);
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

/// Reads an event behind its tag.
pub(super) fn take_event(from: &mut Unpack) -> Result<Event, Malformed> {
    Ok(Event {
        action: take_action(from)?,
        node: take_view(from)?,
        prev: match from.flag()? {
            true => Some(take_view(from)?),
            false => None,
        },
    })
}

fn take_view(from: &mut Unpack) -> Result<View, Malformed> {
    Ok(View {
        key: from.str()?.into(),
        dir: from.flag()?,
        value: from.optional()?.map(Box::from),
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
