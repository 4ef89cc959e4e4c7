//! From the bytes of segments to what the log holds: one pure function, used by recovery, by tests
//! and by the dump.
//!
//! It touches no file and allocates no more than the bytes that it is given. The verdict on damage:
//! below the highest durable mark that any valid record (or the head of the next segment) tells it
//! is corruption, and is named; above it is a torn tail, and ends the log. Start reading at
//! `Scanner::segment`, then `Resolved::apply`.
use std::collections::BTreeMap;

use crate::format::{BadHead, HEADER, Head, Header, Kind, crc, record_bytes, seed};
use crate::segment::log_name;
use crate::{Body, Entry, Fault, Installed, What};

/// One piece of a segment behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole header stands at `at`; its body may be damaged.
    Record { at: usize, header: Header },
    /// No header stands at `at` or in the `bytes` behind it.
    Junk { at: usize, bytes: usize },
}

/// The records of a segment in order, with a search for the next header behind damage.
pub struct Walk<'a> {
    bytes: &'a [u8],
    identity: u64,
    sequence: u64,
    at: usize,
    limit: usize,
}

/// What one segment holds, for releasing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub sequence: u64,
    /// The length of its file.
    pub bytes: u64,
    /// The highest index that a record in it concerns.
    pub index_max: u64,
}

/// Where the log ends and goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last segment.
    pub sequence: u64,
    /// Where its last whole batch ends.
    pub end: usize,
    /// Where the last valid header's record behind that ends; what lies between is to be zeroed.
    pub dirty: usize,
    /// The number of the next batch.
    pub batch: u64,
    /// The checksum of the last one.
    pub crc: u32,
    /// The last batch is a closing mark.
    pub closed: bool,
}

/// What the records, each applied in turn, leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub entries: Vec<Entry>,
    /// The index that the next entry may have at most; 0: any.
    pub next: u64,
    pub installed: Option<Installed>,
    /// The highest commit index recorded.
    pub commit: u64,
    /// Those of `entries` that are damaged.
    pub faults: BTreeMap<u64, Fault>,
}

/// What has been read of a log, a segment at a time, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    identity: u64,
    pub log: Resolved,
    /// Damage that leaves not even a header. With any of it the rest is only good for listing
    /// more.
    pub lost: Vec<Fault>,
    /// A head is whole but of another format.
    pub version: Option<(String, u32)>,
    pub extents: Vec<Extent>,
    pub tail: Tail,
    pub configuration: Box<[u8]>,
}

/// The records of the batch that is being read.
struct Batch {
    start: usize,
    crc: u32,
    /// Each with whether its body matches.
    records: Vec<(usize, Header, bool)>,
    /// Its first records are lost, so its checksum proves nothing.
    partial: bool,
}

/// A segment that is being read.
struct Source<'a> {
    name: &'a str,
    bytes: &'a [u8],
    head: &'a Head,
    /// The highest durable mark.
    mark: usize,
}

/// The index that the entry behind a record may have at most, after one that could have at most
/// `next`.
pub fn follow(next: u64, kind: Kind, index: u64) -> u64 {
    match kind {
        Kind::Entry | Kind::Installed => index.saturating_add(1),
        Kind::InstalledTail => next.max(index.saturating_add(1)),
        Kind::Repair | Kind::Commit | Kind::Close => next,
    }
}

/// Reads a whole log: the name, the number and the bytes of each segment, oldest first.
pub fn scan(identity: u64, segments: &[(&str, u64, &[u8])]) -> Scanner {
    let mut scanner = Scanner::new(identity);
    for (i, (name, sequence, bytes)) in segments.iter().enumerate() {
        let next = segments.get(i + 1).and_then(|n| Head::decode(n.2).ok());
        scanner.segment(name, *sequence, bytes, next.as_ref());
    }
    scanner
}

impl<'a> Walk<'a> {
    /// From the end of the head on.
    pub fn new(bytes: &'a [u8], head: &Head) -> Walk<'a> {
        Walk {
            bytes,
            identity: head.identity,
            sequence: head.sequence,
            at: head.records_at as usize,
            limit: head.segment_bytes as usize,
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let from = self.at;
        loop {
            // Most of what is searched is zeros: nothing is decoded for them.
            let rest = self.bytes.get(self.at..).unwrap_or(&[]);
            let skip = rest
                .chunks_exact(8)
                .position(|word| Kind::decode(word[0]).is_some());
            self.at += skip.unwrap_or(rest.len() / 8) * 8;
            if self.at + HEADER > self.bytes.len() {
                break;
            }
            let (at, limit) = (self.at, self.limit);
            match Header::decode(self.bytes, self.identity, self.sequence, at, limit) {
                None => self.at += 8,
                Some(header) if at == from => {
                    self.at += record_bytes(header.len as usize);
                    return Some(Item::Record { at, header });
                }
                Some(_) => {
                    let bytes = at - from;
                    return Some(Item::Junk { at: from, bytes });
                }
            }
        }
        self.at = self.bytes.len();
        let bytes = self.bytes.len().saturating_sub(from);
        (bytes > 0).then_some(Item::Junk { at: from, bytes })
    }
}

/// The body of a record, if it is all there and matches its checksum.
pub fn body<'a>(
    bytes: &'a [u8],
    identity: u64,
    sequence: u64,
    at: usize,
    header: &Header,
) -> Option<&'a [u8]> {
    let start = at + HEADER;
    let body = bytes.get(start..start + header.len as usize)?;
    (crc(seed(identity, sequence, at as u32), body) == header.crc).then_some(body)
}

impl Batch {
    fn new(start: usize) -> Batch {
        Batch {
            start,
            crc: 0,
            records: Vec::new(),
            partial: false,
        }
    }
}

impl Scanner {
    /// Nothing read yet, of the log of the directory with this random number.
    pub fn new(identity: u64) -> Scanner {
        Scanner {
            identity,
            ..Scanner::default()
        }
    }

    /// Reads the next segment. `next` is the head of the one behind it: that one was taken into use
    /// only after all of this one was synced.
    pub fn segment(&mut self, name: &str, sequence: u64, bytes: &[u8], next: Option<&Head>) {
        let head = match Head::decode(bytes) {
            Ok(head) if head.identity == self.identity && head.sequence == sequence => head,
            Err(BadHead::Version(found)) => {
                self.version.get_or_insert((name.into(), found));
                return;
            }
            Ok(_) | Err(BadHead::Unreadable) => {
                self.lose(name, 0, None, What::Head);
                self.note(sequence, bytes.len() as u64);
                return;
            }
        };
        match self.extents.last() {
            None => {
                self.log.next = head.base;
                (self.tail.batch, self.tail.crc) = (head.batch, head.previous_crc);
            }
            Some(last) if last.sequence + 1 != sequence => {
                let missing = log_name(last.sequence.wrapping_add(1));
                self.lose(&missing, 0, None, What::Missing);
                self.tail.batch = head.batch;
            }
            Some(_) => {}
        }
        self.note(sequence, head.segment_bytes);
        self.log.commit = self.log.commit.max(head.commit);
        let next = next.filter(|n| n.identity == head.identity && n.sequence == sequence + 1);
        self.configuration = head.configuration.clone();
        self.records(name, bytes, &head, next);
    }

    /// Tells the number of the newest segment that was ever in use, after all were read.
    pub fn expect_newest(&mut self, sequence: u64) {
        if self
            .extents
            .last()
            .is_none_or(|last| last.sequence < sequence)
        {
            self.lose(&log_name(sequence), 0, None, What::Missing);
        }
    }

    fn note(&mut self, sequence: u64, bytes: u64) {
        self.extents.push(Extent {
            sequence,
            bytes,
            index_max: 0,
        });
    }

    fn lose(&mut self, name: &str, at: usize, index: Option<u64>, what: What) {
        self.lost.push(Fault {
            file: name.into(),
            offset: at as u64,
            index,
            what,
        });
    }

    fn records(&mut self, name: &str, bytes: &[u8], head: &Head, next: Option<&Head>) {
        let start = head.records_at as usize;
        self.tail.sequence = head.sequence;
        (self.tail.end, self.tail.dirty) = (start, start);
        let mut mark = next.map_or(0, |n| n.previous_end as usize);
        for item in Walk::new(bytes, head) {
            if let Item::Record { at, header } = item {
                mark = mark.max(header.durable as usize);
                self.tail.dirty = at + record_bytes(header.len as usize);
            }
        }
        let source = Source {
            name,
            bytes,
            head,
            mark,
        };
        let lost = self.lost.len();
        self.batches(&source);
        if self.lost.len() == lost && self.tail.end < mark {
            self.lose(name, self.tail.end, None, What::Header);
        }
        if self.lost.len() == lost
            && let Some(next) = next
            && (next.previous_end as usize, next.previous_crc, next.batch)
                != (self.tail.end, self.tail.crc, self.tail.batch)
        {
            self.lose(name, self.tail.end, None, What::Batch);
        }
        self.tail.dirty = self.tail.dirty.max(self.tail.end);
    }

    fn batches(&mut self, source: &Source) {
        let mut batch = Batch::new(source.head.records_at as usize);
        // No header stands behind that, so nothing is to be searched for there again.
        let end = self.tail.dirty.max(source.mark);
        let some = &source.bytes[..source.bytes.len().min(end)];
        for item in Walk::new(some, source.head) {
            match item {
                Item::Junk { at, .. } if at >= source.mark => return,
                Item::Junk { at, .. } => {
                    self.lose(source.name, at, None, What::Header);
                    batch.partial = true;
                }
                Item::Record { at, header } => {
                    if !self.record(source, &mut batch, at, header) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes one record into its batch, and the batch into the log when it ends; false: the log
    /// ends before this batch.
    fn record(&mut self, source: &Source, batch: &mut Batch, at: usize, header: Header) -> bool {
        let torn = batch.start >= source.mark;
        if header.durable as usize != batch.start {
            if torn {
                return false;
            }
            if !batch.partial {
                self.lose(source.name, at, None, What::Order);
            }
            *batch = Batch::new(header.durable as usize);
            batch.partial = true;
        }
        if !header.kind.ends_batch() {
            let good = source.is_good(at, &header);
            batch.crc = crc(batch.crc, &source.bytes[at..at + HEADER]);
            batch.records.push((at, header, good));
            return true;
        }
        let ends = header.crc == batch.crc && header.term == self.tail.batch;
        if torn && !(ends && batch.records.iter().all(|r| r.2)) {
            return false;
        }
        if !ends && !batch.partial {
            self.lose(source.name, at, None, What::Batch);
        }
        for (at, header, good) in std::mem::take(&mut batch.records) {
            let body = good.then(|| &source.bytes[at + HEADER..][..header.len as usize]);
            self.apply(source, at, &header, body);
        }
        self.log.commit = self.log.commit.max(header.index);
        self.tail.end = at + HEADER;
        self.tail.batch = header.term.wrapping_add(1);
        self.tail.crc = header.crc;
        self.tail.closed = header.kind == Kind::Close;
        *batch = Batch::new(self.tail.end);
        true
    }

    fn apply(&mut self, source: &Source, at: usize, header: &Header, body: Option<&[u8]>) {
        let last = self.extents.last_mut().expect("the segment was noted");
        last.index_max = last.index_max.max(header.index);
        if let Err(what) = self.log.apply(source, at, header, body) {
            self.lose(source.name, at, Some(header.index), what);
        }
    }
}

impl Source<'_> {
    fn is_good(&self, at: usize, header: &Header) -> bool {
        let (identity, sequence) = (self.head.identity, self.head.sequence);
        body(self.bytes, identity, sequence, at, header).is_some()
    }
}

impl Resolved {
    /// Applies one record of a whole batch; `body` is `None` if it is damaged.
    fn apply(
        &mut self,
        source: &Source,
        at: usize,
        header: &Header,
        body: Option<&[u8]>,
    ) -> Result<(), What> {
        let (term, index) = (header.term, header.index);
        match header.kind {
            Kind::Entry => {
                if self.next != 0 && index > self.next {
                    return Err(What::Order);
                }
                self.cut(index);
                let body = match body {
                    Some(body) => Body::Good(body.into()),
                    None => self.damaged(source, at, header),
                };
                self.entries.push(Entry { term, index, body });
            }
            Kind::Repair => {
                if let Some(body) = body {
                    self.repair(term, index, body);
                }
            }
            Kind::Installed | Kind::InstalledTail => {
                let keep_tail = header.kind == Kind::InstalledTail;
                let head = body.ok_or(What::Body)?.into();
                let keep = |i: u64| keep_tail && i > index;
                self.entries.retain(|e| keep(e.index));
                self.faults.retain(|i, _| keep(*i));
                self.installed = Some(Installed {
                    term,
                    index,
                    keep_tail,
                    head,
                });
            }
            Kind::Commit | Kind::Close => unreachable!("they are not in a batch"),
        }
        self.next = follow(self.next, header.kind, index);
        Ok(())
    }

    fn damaged(&mut self, source: &Source, at: usize, header: &Header) -> Body {
        let fault = Fault {
            file: source.name.into(),
            offset: at as u64,
            index: Some(header.index),
            what: What::Body,
        };
        self.faults.insert(header.index, fault);
        let seed = seed(source.head.identity, source.head.sequence, at as u32);
        let (len, crc) = (header.len, header.crc);
        Body::Faulty { len, seed, crc }
    }

    /// Drops the entries at and behind `index`; all of them if it lies before the first.
    fn cut(&mut self, index: u64) {
        let first = self.entries.first().map_or(index, |e| e.index);
        self.entries.truncate(index.saturating_sub(first) as usize);
        self.faults.split_off(&index);
    }

    /// Puts a body back if the entry there is that one and it is damaged.
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
            self.faults.remove(&index);
        }
    }
}
