//! Recovery as a pure function: from the bytes of all segments to what the log holds.
//!
//! This file does no I/O. It allocates no more than the bytes that it is given, whatever a damaged
//! header claims. Recovery, the tests and the dump use it.
//!
//! # The verdict on damage
//!
//! The *mark* of a segment is the highest durable mark in any valid header in it, or the end that
//! the head of the next segment states for it, whichever is higher.
//!
//! - A batch that starts at or after the mark and is not whole is a *torn tail*: nothing shows
//!   that it was ever durable. The log ends before it, even if valid records follow.
//! - A file that is shorter than its head says is fatal damage, even if only zeros are missing: it
//!   was allocated and synced before the segment was put into use.
//! - Damage below the mark was once durable. A damaged entry body is reported and the entry stays,
//!   as [`Body::Faulty`]. Any other damage there is *fatal*: the log is not opened.
//!
//! Start reading at [`Scanner::segment`], then [`ResolvedLog`].
use std::collections::BTreeMap;

use crate::format::{
    BadSegmentHead, HEADER, RecordHeader, RecordKind, SegmentHead, crc, record_bytes, seed,
};
use crate::segment::log_name;
use crate::{Body, Damage, DamageKind, Entry, Installed};

/// A part of a segment after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentPiece {
    /// A valid header. The body after it may be damaged.
    Record {
        /// The offset of the header in the segment.
        at: usize,
        /// The header.
        header: RecordHeader,
    },
    /// Bytes without a valid header: zeros, damage, or what the file held before.
    NoRecord {
        /// The offset of the first byte in the segment.
        at: usize,
        /// How many bytes there are.
        bytes: usize,
    },
}

/// Iterates over the pieces of a segment. After bytes that are no record it searches for the next
/// valid header, at each multiple of 8 bytes.
pub struct RecordWalk<'a> {
    /// The segment from its start.
    bytes: &'a [u8],
    /// The random number of the data directory.
    identity: u64,
    /// The number of the segment.
    sequence: u64,
    /// Where the next piece starts; only rises.
    at: usize,
    /// The length that the segment was made with. `bytes` may be shorter; no record ends after it.
    limit: usize,
}

/// The size of a segment and the highest index in it: what its release depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    /// The number of the segment.
    pub sequence: u64,
    /// The length that its file was made with, in bytes.
    pub bytes: u64,
    /// The highest index in the headers of its records; 0 if it has none. The segment may be
    /// released once entries up to this index are not needed any more.
    pub index_max: u64,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    /// The number of the last segment.
    pub sequence: u64,
    /// The offset in it where its last whole batch ends. The next batch goes there.
    pub end: usize,
    /// The offset where the last record with a valid header ends; at least `end`. Recovery fills
    /// what lies between with zeros, so that it cannot complete a later batch.
    pub dirty_end: usize,
    /// The number of the next batch.
    pub next_batch: u64,
    /// The checksum of the last batch.
    pub last_batch_crc: u32,
    /// Whether the last batch is a closing mark.
    pub closed: bool,
}

/// The log that is left after each record of each whole batch was applied in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedLog {
    /// The entries, at consecutive indexes.
    pub entries: Vec<Entry>,
    /// The highest index that the next entry may have; `None` if any index may follow.
    pub next_index: Option<u64>,
    /// The last installed snapshot.
    pub installed: Option<Installed>,
    /// The highest commit index that was recorded.
    pub commit: u64,
    /// The damaged entries in `entries`, by index.
    pub damaged_bodies: BTreeMap<u64, Damage>,
}

/// What the segments of a log hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScannedLog {
    /// The result of applying all records.
    pub log: ResolvedLog,
    /// Damage because of which the log cannot be opened. If there is any, the other fields only
    /// serve to list more of it.
    pub fatal: Vec<Damage>,
    /// The first segment whose head has another format: its name and the number of the format.
    pub version: Option<(String, u32)>,
    /// The segments, oldest first.
    pub extents: Vec<SegmentExtent>,
    /// Where the log ends.
    pub tail: LogTail,
    /// The configuration in the head of the newest segment.
    pub configuration: Box<[u8]>,
}

/// Reads a log one segment at a time, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// The random number of the data directory.
    identity: u64,
    /// What the segments so far hold.
    found: ScannedLog,
}

/// The batch that is being read.
struct OpenBatch {
    /// The offset in the segment where the batch starts.
    start: usize,
    /// The checksum over the headers so far.
    crc: u32,
    /// The records so far.
    records: Vec<BatchRecord>,
    /// Whether records at its start are unreadable. Its checksum proves nothing then.
    is_partial: bool,
}

/// A record of the batch that is being read.
#[derive(Clone, Copy)]
struct BatchRecord {
    /// The offset of the header in the segment.
    at: usize,
    header: RecordHeader,
    /// Whether the body matches its checksum.
    has_good_body: bool,
}

/// The file of a segment.
#[derive(Clone, Copy)]
pub struct SegmentFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number of the segment, from its name.
    pub sequence: u64,
    /// Its content, or as much of it as may hold records.
    pub bytes: &'a [u8],
    /// Its length in bytes.
    pub length: u64,
}

/// The segment that is being read.
struct SegmentSource<'a> {
    /// The name of its file.
    name: &'a str,
    /// Its content.
    bytes: &'a [u8],
    /// Its head.
    head: &'a SegmentHead,
    /// Its mark: see the head of this file.
    mark: usize,
}

/// The highest index that an entry may have after a record of this kind and index. `next` is the
/// highest index that was allowed before the record. `None`: any index is allowed.
pub fn next_index_after(next: Option<u64>, kind: RecordKind, index: u64) -> Option<u64> {
    let after = Some(index.saturating_add(1));
    match kind {
        RecordKind::Entry | RecordKind::Installed => after,
        RecordKind::InstalledTail => next.max(after),
        RecordKind::Repair | RecordKind::Commit | RecordKind::Close => next,
    }
}

/// Reads a whole log: name, number and content of each file, oldest first.
pub fn scan(identity: u64, segments: &[(&str, u64, &[u8])]) -> ScannedLog {
    let mut scanner = Scanner::new(identity);
    for (i, (name, sequence, bytes)) in segments.iter().enumerate() {
        let next_head = match segments.get(i + 1) {
            Some((_, _, next)) => SegmentHead::decode(next).ok(),
            None => None,
        };
        let file = SegmentFile {
            name,
            sequence: *sequence,
            bytes,
            length: bytes.len() as u64,
        };
        scanner.segment(file, next_head.as_ref());
    }
    scanner.into_found()
}

impl<'a> RecordWalk<'a> {
    /// Starts after the head of the segment.
    pub fn new(bytes: &'a [u8], head: &SegmentHead) -> RecordWalk<'a> {
        RecordWalk {
            bytes,
            identity: head.identity,
            sequence: head.sequence,
            at: head.records_at as usize,
            limit: head.segment_bytes as usize,
        }
    }

    /// Skips words that cannot start a header. Most of what is searched is zeros, and this check is
    /// the cheapest.
    fn skip_to_candidate(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let skipped = rest
            .chunks_exact(8)
            .position(|word| RecordKind::decode(word[0]).is_some());
        self.at += skipped.unwrap_or(rest.len() / 8) * 8;
    }
}

impl Iterator for RecordWalk<'_> {
    type Item = SegmentPiece;

    fn next(&mut self) -> Option<SegmentPiece> {
        let from = self.at;
        loop {
            self.skip_to_candidate();
            if self.at + HEADER > self.bytes.len() {
                break;
            }
            let (at, limit) = (self.at, self.limit);
            match RecordHeader::decode(self.bytes, self.identity, self.sequence, at, limit) {
                None => self.at += 8,
                Some(header) if at == from => {
                    self.at += record_bytes(header.len as usize);
                    return Some(SegmentPiece::Record { at, header });
                }
                Some(_) => {
                    let bytes = at - from;
                    return Some(SegmentPiece::NoRecord { at: from, bytes });
                }
            }
        }
        self.at = self.bytes.len();
        let bytes = self.bytes.len().saturating_sub(from);
        (bytes > 0).then_some(SegmentPiece::NoRecord { at: from, bytes })
    }
}

/// The body of the record at `at`; `None` if it does not match its checksum or `bytes` ends before
/// it.
pub fn body<'a>(
    bytes: &'a [u8],
    identity: u64,
    sequence: u64,
    at: usize,
    header: &RecordHeader,
) -> Option<&'a [u8]> {
    let start = at + HEADER;
    let body = bytes.get(start..start + header.len as usize)?;
    (crc(seed(identity, sequence, at as u32), body) == header.crc).then_some(body)
}

impl OpenBatch {
    fn new(start: usize) -> OpenBatch {
        OpenBatch {
            start,
            crc: 0,
            records: Vec::new(),
            is_partial: false,
        }
    }

    /// Whether the record that ends the batch has its number and checksum.
    fn is_ended_by(&self, header: &RecordHeader, number: u64) -> bool {
        header.crc == self.crc && header.term == number
    }

    fn has_all_bodies(&self) -> bool {
        self.records.iter().all(|record| record.has_good_body)
    }
}

impl Scanner {
    /// Nothing is read yet. `identity` is the random number of the data directory.
    pub fn new(identity: u64) -> Scanner {
        Scanner {
            identity,
            ..Scanner::default()
        }
    }

    /// Reads the next segment. `next_head` is the head of the segment after it, which was put into
    /// use only after all of this segment had been synced.
    pub fn segment(&mut self, file: SegmentFile, next_head: Option<&SegmentHead>) {
        let SegmentFile {
            name,
            sequence,
            bytes,
            length,
        } = file;
        let head = match SegmentHead::decode(bytes) {
            Ok(head) if head.identity == self.identity && head.sequence == sequence => head,
            Err(BadSegmentHead::Version(found)) => {
                self.found.version.get_or_insert((name.into(), found));
                return;
            }
            Ok(_) | Err(BadSegmentHead::Unreadable) => {
                self.add_fatal(name, 0, None, DamageKind::SegmentHead);
                self.add_extent(sequence, length);
                return;
            }
        };
        self.follow_previous(&head);
        self.add_extent(sequence, head.segment_bytes);
        self.found.log.commit = self.found.log.commit.max(head.commit);
        self.found.configuration = head.configuration.clone();
        if length < head.segment_bytes {
            self.add_fatal(name, length as usize, None, DamageKind::ShortSegment);
        }
        let next_head =
            next_head.filter(|n| n.identity == head.identity && n.sequence == sequence + 1);
        self.read_records(name, bytes, &head, next_head);
        self.check_invariants();
    }

    /// Adds fatal damage if the newest segment that was read has a lower number than `sequence`:
    /// the end of the log is lost then. `sequence` is the highest number that was ever put into
    /// use, from `state`. Called after all segments were read.
    pub fn expect_newest(&mut self, sequence: u64) {
        let newest = self.found.extents.last();
        if newest.is_none_or(|newest| newest.sequence < sequence) {
            self.add_fatal(&log_name(sequence), 0, None, DamageKind::MissingSegment);
        }
    }

    /// What the segments hold.
    pub fn into_found(self) -> ScannedLog {
        self.found
    }

    /// Compares the head of a segment with the segment before it. The first segment states where
    /// the log begins.
    fn follow_previous(&mut self, head: &SegmentHead) {
        let Some(previous) = self.found.extents.last() else {
            self.found.log.next_index = head.next_index;
            self.found.tail.next_batch = head.next_batch;
            self.found.tail.last_batch_crc = head.previous_crc;
            return;
        };
        if previous.sequence + 1 != head.sequence {
            let missing = log_name(previous.sequence.wrapping_add(1));
            self.add_fatal(&missing, 0, None, DamageKind::MissingSegment);
            self.found.tail.next_batch = head.next_batch;
        }
    }

    fn add_extent(&mut self, sequence: u64, bytes: u64) {
        self.found.extents.push(SegmentExtent {
            sequence,
            bytes,
            index_max: 0,
        });
    }

    fn add_fatal(&mut self, name: &str, at: usize, index: Option<u64>, kind: DamageKind) {
        self.found.fatal.push(Damage {
            file: name.into(),
            offset: at as u64,
            index,
            kind,
        });
    }

    /// Reads the records of a segment twice: first to find its mark, then to apply its batches.
    fn read_records(
        &mut self,
        name: &str,
        bytes: &[u8],
        head: &SegmentHead,
        next_head: Option<&SegmentHead>,
    ) {
        let start = head.records_at as usize;
        let mut mark = next_head.map_or(0, |n| n.previous_end as usize);
        let mut dirty_end = start;
        for piece in RecordWalk::new(bytes, head) {
            if let SegmentPiece::Record { at, header } = piece {
                mark = mark.max(header.durable_mark as usize);
                dirty_end = at + record_bytes(header.len as usize);
            }
        }
        self.found.tail.sequence = head.sequence;
        self.found.tail.end = start;
        self.found.tail.dirty_end = dirty_end;
        let source = SegmentSource {
            name,
            bytes,
            head,
            mark,
        };
        let fatal_before = self.found.fatal.len();
        self.read_batches(&source);
        let tail = &mut self.found.tail;
        tail.dirty_end = tail.dirty_end.max(tail.end);
        // The comparisons below only make sense for batches without damage.
        if self.found.fatal.len() > fatal_before {
            return;
        }
        let tail = self.found.tail;
        if tail.end < mark {
            self.add_fatal(name, tail.end, None, DamageKind::RecordHeader);
            return;
        }
        if let Some(next) = next_head {
            let is_end_as_stated = next.previous_end as usize == tail.end
                && next.previous_crc == tail.last_batch_crc
                && next.next_batch == tail.next_batch;
            if !is_end_as_stated {
                self.add_fatal(name, tail.end, None, DamageKind::Batch);
            }
        }
    }

    /// Reads batches until the segment or the log ends.
    fn read_batches(&mut self, source: &SegmentSource) {
        let mut batch = OpenBatch::new(source.head.records_at as usize);
        // No valid header stands after `dirty_end`, so the search need not run there again.
        let end = self.found.tail.dirty_end.max(source.mark);
        let searched = &source.bytes[..source.bytes.len().min(end)];
        for piece in RecordWalk::new(searched, source.head) {
            match piece {
                SegmentPiece::NoRecord { at, .. } if at >= source.mark => return,
                SegmentPiece::NoRecord { at, .. } => {
                    self.add_fatal(source.name, at, None, DamageKind::RecordHeader);
                    batch.is_partial = true;
                }
                SegmentPiece::Record { at, header } => {
                    if !self.read_record(source, &mut batch, at, header) {
                        return;
                    }
                }
            }
        }
    }

    /// Adds a record to its batch, and the batch to the log once it ends. `false`: the batch is
    /// torn and the log ends before it.
    fn read_record(
        &mut self,
        source: &SegmentSource,
        batch: &mut OpenBatch,
        at: usize,
        header: RecordHeader,
    ) -> bool {
        let may_be_torn = batch.start >= source.mark;
        if header.durable_mark as usize != batch.start {
            if may_be_torn {
                return false;
            }
            if !batch.is_partial {
                self.add_fatal(source.name, at, None, DamageKind::Order);
            }
            *batch = OpenBatch::new(header.durable_mark as usize);
            batch.is_partial = true;
        }
        if !header.kind.ends_batch() {
            batch.crc = crc(batch.crc, &source.bytes[at..at + HEADER]);
            batch.records.push(BatchRecord {
                at,
                header,
                has_good_body: source.has_good_body(at, &header),
            });
            return true;
        }
        let is_ended = batch.is_ended_by(&header, self.found.tail.next_batch);
        if may_be_torn && !(is_ended && batch.has_all_bodies()) {
            return false;
        }
        if !is_ended && !batch.is_partial {
            self.add_fatal(source.name, at, None, DamageKind::Batch);
        }
        for record in std::mem::take(&mut batch.records) {
            let start = record.at + HEADER;
            let length = record.header.len as usize;
            let body = record
                .has_good_body
                .then(|| &source.bytes[start..start + length]);
            self.apply(source, record.at, &record.header, body);
        }
        self.found.log.commit = self.found.log.commit.max(header.index);
        let tail = &mut self.found.tail;
        tail.end = at + HEADER;
        tail.next_batch = header.term.wrapping_add(1);
        tail.last_batch_crc = header.crc;
        tail.closed = header.kind == RecordKind::Close;
        *batch = OpenBatch::new(tail.end);
        true
    }

    fn apply(
        &mut self,
        source: &SegmentSource,
        at: usize,
        header: &RecordHeader,
        body: Option<&[u8]>,
    ) {
        let extent = self.found.extents.last_mut();
        let extent = extent.expect("the extent of the segment was added");
        extent.index_max = extent.index_max.max(header.index);
        if let Err(kind) = self.found.log.apply(source, at, header, body) {
            self.add_fatal(source.name, at, Some(header.index), kind);
        }
    }

    /// Checks what follows from the code alone, whatever the bytes were.
    ///
    /// # Panics
    ///
    /// If a field contradicts another.
    pub fn check_invariants(&self) {
        let tail = &self.found.tail;
        assert!(
            tail.end <= tail.dirty_end,
            "a whole batch has valid headers"
        );
        let newest = self.found.extents.last();
        assert!(
            newest.is_none_or(|newest| newest.sequence >= tail.sequence),
            "the tail is in a segment that was read"
        );
        self.found.log.check_invariants();
    }
}

impl SegmentSource<'_> {
    fn has_good_body(&self, at: usize, header: &RecordHeader) -> bool {
        let (identity, sequence) = (self.head.identity, self.head.sequence);
        body(self.bytes, identity, sequence, at, header).is_some()
    }
}

impl ResolvedLog {
    /// Applies a record of a whole batch. `body` is `None` if it is damaged.
    ///
    /// # Errors
    ///
    /// The record cannot be applied, which is fatal damage of this kind.
    fn apply(
        &mut self,
        source: &SegmentSource,
        at: usize,
        header: &RecordHeader,
        body: Option<&[u8]>,
    ) -> Result<(), DamageKind> {
        let (term, index) = (header.term, header.index);
        match header.kind {
            RecordKind::Entry => {
                if self.next_index.is_some_and(|next| index > next) {
                    return Err(DamageKind::Order);
                }
                self.truncate_from(index);
                let body = match body {
                    Some(body) => Body::Good(body.into()),
                    None => self.add_damaged_body(source, at, header),
                };
                self.entries.push(Entry { term, index, body });
            }
            // The entry stays damaged if the body of its repair is damaged too.
            RecordKind::Repair => {
                if let Some(body) = body {
                    self.repair(term, index, body);
                }
            }
            RecordKind::Installed | RecordKind::InstalledTail => {
                let keep_tail = header.kind == RecordKind::InstalledTail;
                let head = body.ok_or(DamageKind::Body)?.into();
                let is_kept = |i: u64| keep_tail && i > index;
                self.entries.retain(|e| is_kept(e.index));
                self.damaged_bodies.retain(|i, _| is_kept(*i));
                self.installed = Some(Installed {
                    term,
                    index,
                    keep_tail,
                    head,
                });
            }
            RecordKind::Commit | RecordKind::Close => unreachable!("these end a batch"),
        }
        self.next_index = next_index_after(self.next_index, header.kind, index);
        Ok(())
    }

    fn add_damaged_body(
        &mut self,
        source: &SegmentSource,
        at: usize,
        header: &RecordHeader,
    ) -> Body {
        let damage = Damage {
            file: source.name.into(),
            offset: at as u64,
            index: Some(header.index),
            kind: DamageKind::Body,
        };
        self.damaged_bodies.insert(header.index, damage);
        Body::Faulty {
            len: header.len,
            seed: seed(source.head.identity, source.head.sequence, at as u32),
            crc: header.crc,
        }
    }

    /// Removes the entries from `index` on.
    fn truncate_from(&mut self, index: u64) {
        let first = self.entries.first().map_or(index, |e| e.index);
        self.entries.truncate(index.saturating_sub(first) as usize);
        self.damaged_bodies.split_off(&index);
    }

    /// Puts `body` in place of the damaged body of the entry, if it is the lost one.
    fn repair(&mut self, term: u64, index: u64, body: &[u8]) {
        let first = self.entries.first().map_or(0, |e| e.index);
        let at = index.checked_sub(first).map(|at| at as usize);
        let entry = at.and_then(|at| self.entries.get_mut(at));
        if let Some(entry) = entry
            && entry.term == term
            && let Body::Faulty { len, seed, crc } = entry.body
            && crate::body_matches(body, len, seed, crc)
        {
            entry.body = Body::Good(body.into());
            self.damaged_bodies.remove(&index);
        }
    }

    /// Part of [`Scanner::check_invariants`]; in debug builds it looks at each entry.
    fn check_invariants(&self) {
        assert!(
            self.damaged_bodies.len() <= self.entries.len(),
            "only an entry has a damaged body"
        );
        if cfg!(debug_assertions) {
            let faulty = |e: &&Entry| matches!(e.body, Body::Faulty { .. });
            assert!(
                self.entries
                    .iter()
                    .filter(faulty)
                    .map(|e| e.index)
                    .eq(self.damaged_bodies.keys().copied()),
                "each damaged body is reported"
            );
        }
    }
}
