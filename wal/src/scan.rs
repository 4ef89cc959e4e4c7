//! Recovery as a pure function: from the bytes of all segments to what the log holds.
//!
//! This file does no I/O: it reads segments in pieces (`walk`), and keeps no body that the caller
//! does not need. It allocates no more than the bytes that are there, whatever a damaged header
//! claims. Recovery, the tests and the dump use it.
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
use std::sync::Arc;

use crate::format::{
    BadSegmentHead, HEADER, PAGE, RecordHeader, RecordKind, SegmentHead, crc, record_bytes, seed,
};
use crate::segment::log_name;
use crate::walk::{RecordPlace, Walk};
pub use crate::walk::{RecordWalk, SegmentBytes, SegmentPiece};
use crate::{Body, Damage, DamageKind, Entry, Installed};

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
    /// Whether the last batch has a damaged body. In the newest segment, only the durable mark in
    /// the headers of the torn tail after it shows then that it is no torn tail itself.
    pub is_damaged: bool,
}

impl LogTail {
    /// Whether the torn tail is the only proof that the last batch was durable.
    pub fn needs_torn_tail(&self) -> bool {
        self.is_damaged && self.dirty_end > self.end
    }
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
    /// Bodies of entries up to this index are not kept.
    covered: u64,
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
struct BatchRecord {
    /// The offset of the header in the segment.
    at: usize,
    header: RecordHeader,
    body: ReadBody,
}

/// The body of a record, as it was read.
enum ReadBody {
    /// It matches its checksum.
    Good(Arc<[u8]>),
    /// It matches its checksum and was not kept.
    Covered,
    /// It does not match its checksum.
    Bad,
}

/// The file of a segment.
#[derive(Clone, Copy)]
pub struct SegmentFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number of the segment, from its name.
    pub sequence: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The segment that is being read.
struct SegmentSource<'a> {
    /// The name of its file.
    name: &'a str,
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
            length: bytes.len() as u64,
        };
        let mut bytes: &[u8] = bytes;
        let Ok(()) = scanner.segment(file, &mut bytes, next_head.as_ref());
    }
    scanner.into_found()
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
        let mut records = self.records.iter();
        !records.any(|record| matches!(record.body, ReadBody::Bad))
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

    /// The caller needs no body of an entry up to `index`. They are checked and not kept.
    pub fn cover(&mut self, index: u64) {
        self.covered = index;
    }

    /// Reads the next segment: `bytes` of its file. `next_head` is the head of the segment after it,
    /// which was put into use only after all of this segment had been synced.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read. The scan is of no use any more.
    pub fn segment<B: SegmentBytes>(
        &mut self,
        file: SegmentFile,
        bytes: &mut B,
        next_head: Option<&SegmentHead>,
    ) -> Result<(), B::Error> {
        let SegmentFile {
            name,
            sequence,
            length,
        } = file;
        let claimed = SegmentHead::claimed_bytes(bytes.view(0, PAGE)?);
        let head = match SegmentHead::decode(bytes.view(0, claimed.max(PAGE))?) {
            Ok(head) if head.identity == self.identity && head.sequence == sequence => head,
            Err(BadSegmentHead::Version(found)) => {
                self.found.version.get_or_insert((name.into(), found));
                return Ok(());
            }
            Ok(_) | Err(BadSegmentHead::Unreadable) => {
                self.add_fatal(name, 0, None, DamageKind::SegmentHead);
                self.add_extent(sequence, length);
                return Ok(());
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
        self.read_records(name, bytes, &head, next_head)?;
        self.check_invariants();
        Ok(())
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
    fn read_records<B: SegmentBytes>(
        &mut self,
        name: &str,
        bytes: &mut B,
        head: &SegmentHead,
        next_head: Option<&SegmentHead>,
    ) -> Result<(), B::Error> {
        let start = head.records_at as usize;
        let mut mark = next_head.map_or(0, |n| n.previous_end as usize);
        let mut dirty_end = start;
        let mut walk = Walk::new(head, bytes.length());
        while let Some(piece) = walk.next(bytes)? {
            if let SegmentPiece::Record { at, header } = piece {
                mark = mark.max(header.durable_mark as usize);
                dirty_end = at + record_bytes(header.len as usize);
            }
        }
        self.found.tail.sequence = head.sequence;
        self.found.tail.end = start;
        self.found.tail.dirty_end = dirty_end;
        // The head of this segment covers the last batch of the one before.
        self.found.tail.is_damaged = false;
        let source = SegmentSource { name, head, mark };
        let fatal_before = self.found.fatal.len();
        self.read_batches(&source, bytes)?;
        let tail = &mut self.found.tail;
        tail.dirty_end = tail.dirty_end.max(tail.end);
        // The comparisons below only make sense for batches without damage.
        if self.found.fatal.len() > fatal_before {
            return Ok(());
        }
        let tail = self.found.tail;
        if tail.end < mark {
            self.add_fatal(name, tail.end, None, DamageKind::RecordHeader);
            return Ok(());
        }
        if let Some(next) = next_head {
            let is_end_as_stated = next.previous_end as usize == tail.end
                && next.previous_crc == tail.last_batch_crc
                && next.next_batch == tail.next_batch;
            if !is_end_as_stated {
                self.add_fatal(name, tail.end, None, DamageKind::Batch);
            }
        }
        Ok(())
    }

    /// Reads batches until the segment or the log ends.
    fn read_batches<B: SegmentBytes>(
        &mut self,
        source: &SegmentSource,
        bytes: &mut B,
    ) -> Result<(), B::Error> {
        let mut batch = OpenBatch::new(source.head.records_at as usize);
        // No valid header stands after `dirty_end`, so the search need not run there again.
        let end = self.found.tail.dirty_end.max(source.mark);
        let mut walk = Walk::new(source.head, bytes.length().min(end));
        while let Some(piece) = walk.next(bytes)? {
            match piece {
                SegmentPiece::NoRecord { at, .. } if at >= source.mark => break,
                SegmentPiece::NoRecord { at, .. } => {
                    self.add_fatal(source.name, at, None, DamageKind::RecordHeader);
                    batch.is_partial = true;
                }
                SegmentPiece::Record { at, header } => {
                    if !self.read_record(source, bytes, &mut batch, at, header)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a record to its batch, and the batch to the log once it ends. `false`: the batch is
    /// torn and the log ends before it.
    fn read_record<B: SegmentBytes>(
        &mut self,
        source: &SegmentSource,
        bytes: &mut B,
        batch: &mut OpenBatch,
        at: usize,
        header: RecordHeader,
    ) -> Result<bool, B::Error> {
        let may_be_torn = batch.start >= source.mark;
        if header.durable_mark as usize != batch.start {
            if may_be_torn {
                return Ok(false);
            }
            if !batch.is_partial {
                self.add_fatal(source.name, at, None, DamageKind::Order);
            }
            *batch = OpenBatch::new(header.durable_mark as usize);
            batch.is_partial = true;
        }
        if !header.kind.ends_batch() {
            batch.crc = crc(batch.crc, &bytes.view(at, HEADER)?[..HEADER]);
            let body = self.read_body(source.place(at), bytes, &header)?;
            batch.records.push(BatchRecord { at, header, body });
            return Ok(true);
        }
        let is_ended = batch.is_ended_by(&header, self.found.tail.next_batch);
        let has_all_bodies = batch.has_all_bodies();
        if may_be_torn && !(is_ended && has_all_bodies) {
            return Ok(false);
        }
        if !is_ended && !batch.is_partial {
            self.add_fatal(source.name, at, None, DamageKind::Batch);
        }
        for record in std::mem::take(&mut batch.records) {
            self.apply(source, record);
        }
        self.found.log.commit = self.found.log.commit.max(header.index);
        let tail = &mut self.found.tail;
        tail.end = at + HEADER;
        tail.next_batch = header.term.wrapping_add(1);
        tail.last_batch_crc = header.crc;
        tail.closed = header.kind == RecordKind::Close;
        tail.is_damaged = !has_all_bodies;
        *batch = OpenBatch::new(tail.end);
        Ok(true)
    }

    /// Reads the body of a record. That of an entry that the caller does not need is not kept.
    fn read_body<B: SegmentBytes>(
        &self,
        place: RecordPlace,
        bytes: &mut B,
        header: &RecordHeader,
    ) -> Result<ReadBody, B::Error> {
        if header.kind == RecordKind::Entry && header.index <= self.covered {
            let is_good = place.has_good_body(bytes, header)?;
            return Ok(if is_good {
                ReadBody::Covered
            } else {
                ReadBody::Bad
            });
        }
        let body = place.body(bytes, header)?;
        Ok(body.map_or(ReadBody::Bad, ReadBody::Good))
    }

    fn apply(&mut self, source: &SegmentSource, record: BatchRecord) {
        let BatchRecord { at, header, body } = record;
        let extent = self.found.extents.last_mut();
        let extent = extent.expect("the extent of the segment was added");
        extent.index_max = extent.index_max.max(header.index);
        if let Err(kind) = self.found.log.apply(source, at, &header, body) {
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
    /// The place of the record at this offset.
    fn place(&self, at: usize) -> RecordPlace {
        RecordPlace {
            identity: self.head.identity,
            sequence: self.head.sequence,
            at,
        }
    }
}

impl ResolvedLog {
    /// Applies a record of a whole batch.
    ///
    /// # Errors
    ///
    /// The record cannot be applied, which is fatal damage of this kind.
    fn apply(
        &mut self,
        source: &SegmentSource,
        at: usize,
        header: &RecordHeader,
        body: ReadBody,
    ) -> Result<(), DamageKind> {
        let (term, index) = (header.term, header.index);
        match header.kind {
            RecordKind::Entry => {
                if self.next_index.is_some_and(|next| index > next) {
                    return Err(DamageKind::Order);
                }
                self.truncate_from(index);
                let body = match body {
                    ReadBody::Good(body) => Body::Good(body),
                    ReadBody::Covered => Body::Covered,
                    ReadBody::Bad => self.add_damaged_body(source, at, header),
                };
                self.entries.push(Entry { term, index, body });
            }
            // The entry stays damaged if the body of its repair is damaged too.
            RecordKind::Repair => {
                if let ReadBody::Good(body) = body {
                    self.repair(term, index, body);
                }
            }
            RecordKind::Installed | RecordKind::InstalledTail => {
                let keep_tail = header.kind == RecordKind::InstalledTail;
                let ReadBody::Good(head) = body else {
                    return Err(DamageKind::Body);
                };
                let is_kept = |i: u64| keep_tail && i > index;
                self.entries.retain(|e| is_kept(e.index));
                self.damaged_bodies.retain(|i, _| is_kept(*i));
                self.installed = Some(Installed {
                    term,
                    index,
                    keep_tail,
                    head: (*head).into(),
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
    fn repair(&mut self, term: u64, index: u64, body: Arc<[u8]>) {
        let first = self.entries.first().map_or(0, |e| e.index);
        let at = index.checked_sub(first).map(|at| at as usize);
        let entry = at.and_then(|at| self.entries.get_mut(at));
        if let Some(entry) = entry
            && entry.term == term
            && let Body::Faulty { len, seed, crc } = entry.body
            && crate::body_matches(&body, len, seed, crc)
        {
            entry.body = Body::Good(body);
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
