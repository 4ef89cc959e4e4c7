//! Damage of every kind to a log of 64 KiB.
//!
//! What is read must be a prefix of the log with everything that is known to be durable, or the
//! damage must be reported. An entry that was never appended, a panic or a large allocation is a
//! failure.
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;

use common::{IDENTITY, Rng, SEGMENT, quick};
use wal::format::{HEADER, PAGE, RecordHeader, crc, record_bytes, seed};
use wal::scan::{ScannedLog, Scanner, SegmentBytes, SegmentFile, scan};
use wal::{Body, DamageKind, OpenError, Options, Record, Wal};

/// The length of a head without a configuration. The rest of its page means nothing.
const HEAD: usize = 80;

/// An allocator that records the largest allocation of each thread.
struct Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|l| l.set(l.get().max(layout.size())));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Batch {
    /// The ranges of its records and of the record that ends it, without padding.
    records: Vec<Range<usize>>,
    /// How many entries the log has up to the end of the batch.
    entries: usize,
}

/// A log in one segment, and what was written to it.
struct Log {
    bytes: Vec<u8>,
    batches: Vec<Batch>,
    entries: Vec<(u64, u64, Vec<u8>)>,
    end: usize,
}

fn options(dir: &std::path::Path) -> Options {
    Options {
        dir: dir.into(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    }
}

fn build(seed: u64, close: bool) -> Log {
    build_for(IDENTITY, seed, close)
}

/// Fills one segment with batches of one to six entries, from empty ones to longer than a page.
fn build_for(identity: u64, seed: u64, close: bool) -> Log {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        identity,
        ..options(dir.path())
    };
    let (mut wal, _) = Wal::open_with(options, quick()).expect("it opens");
    let mut rng = Rng::new(seed);
    let mut log = Log {
        bytes: Vec::new(),
        batches: Vec::new(),
        entries: Vec::new(),
        end: PAGE,
    };
    loop {
        let mut batch = Batch {
            records: Vec::new(),
            entries: 0,
        };
        let first = log.entries.len();
        let mut at = log.end;
        for index in (first + 1..).take(1 + rng.below(6) as usize) {
            let mut body = vec![0; [0, 5, 60, 400, 1500, 6000][rng.below(6) as usize]];
            rng.fill(&mut body);
            let end = at + record_bytes(body.len());
            if end + 2 * HEADER > SEGMENT as usize {
                break;
            }
            batch.records.push(at..at + HEADER + body.len());
            at = end;
            log.entries
                .push((1 + index as u64 / 20, index as u64, body));
        }
        if batch.records.is_empty() {
            break;
        }
        batch.records.push(at..at + HEADER);
        batch.entries = log.entries.len();
        log.end = at + HEADER;
        log.batches.push(batch);
        let entries = log.entries[first..].iter();
        let records = entries.map(|(term, index, body)| Record::Entry {
            term: *term,
            index: *index,
            body,
        });
        wal.append(&records.collect::<Vec<_>>(), first as u64)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    if close {
        wal.close().expect("it syncs");
        let records = std::iter::once(log.end..log.end + HEADER).collect();
        let entries = log.entries.len();
        log.batches.push(Batch { records, entries });
        log.end += HEADER;
    }
    log.bytes = std::fs::read(dir.path().join("0000000000000001.log")).expect("a file");
    log
}

/// A segment of which as little as possible is seen at once.
struct SmallPieces<'a>(&'a [u8]);

impl SegmentBytes for SmallPieces<'_> {
    type Error = std::convert::Infallible;

    fn length(&self) -> usize {
        self.0.len()
    }

    fn view(&mut self, at: usize, least: usize) -> Result<&[u8], Self::Error> {
        let rest = self.0.get(at..).unwrap_or(&[]);
        Ok(&rest[..rest.len().min(least + 5)])
    }
}

/// Scans the bytes in small pieces, without the bodies of entries up to `covered`.
fn scan_pieces(bytes: &[u8], covered: u64) -> ScannedLog {
    let mut scanner = Scanner::new(IDENTITY);
    scanner.cover(covered);
    let file = SegmentFile {
        name: "1.log",
        sequence: 1,
        length: bytes.len() as u64,
    };
    let Ok(()) = scanner.segment(file, &mut SmallPieces(bytes), None);
    scanner.into_found()
}

/// Reading in pieces finds the same log as reading at once. Bodies that are not needed are left out,
/// and nothing else.
#[test]
fn a_damaged_segment_is_read_in_pieces_like_a_whole_one() {
    let log = build(8, false);
    let mut rng = Rng::new(9);
    for round in 0..150 {
        let mut bytes = log.bytes.clone();
        for _ in 0..rng.below(4) {
            let at = rng.below(log.end as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        if round % 3 == 0 {
            bytes.truncate(rng.below(bytes.len() as u64) as usize);
        }
        let whole = log.scan(&bytes);
        assert_eq!(scan_pieces(&bytes, 0), whole, "round {round}");
        let covered = rng.below(log.entries.len() as u64);
        let mut expected = whole;
        for entry in &mut expected.log.entries {
            if entry.index <= covered && matches!(entry.body, Body::Good(_)) {
                entry.body = Body::Covered;
            }
        }
        assert_eq!(scan_pieces(&bytes, covered), expected, "round {round}");
    }
}

impl Log {
    fn scan(&self, bytes: &[u8]) -> ScannedLog {
        LARGEST.set(0);
        let found = scan(IDENTITY, &[("1.log", 1, bytes)]);
        let largest = LARGEST.get();
        assert!(largest <= bytes.len() + PAGE, "allocated {largest} bytes");
        found
    }

    /// How many entries `bytes` still prove to have been durable: those before the last batch of
    /// which a whole header is left.
    fn durable(&self, bytes: &[u8]) -> usize {
        let left = |r: &Range<usize>| {
            let header = r.start..r.start + HEADER;
            bytes.get(header.clone()) == Some(&self.bytes[header])
        };
        let last = self
            .batches
            .iter()
            .rposition(|b| b.records.iter().any(left));
        let before = last.and_then(|last| last.checked_sub(1));
        before.map_or(0, |before| self.batches[before].entries)
    }

    /// Reads a damaged copy and checks the verdict. Returns whether the damage was reported.
    fn check(&self, bytes: &[u8], what: &dyn std::fmt::Debug) -> bool {
        let found = self.scan(bytes);
        let lost = !found.fatal.is_empty();
        assert_eq!(found.version, None, "{what:?}");
        for entry in &found.log.entries {
            let want = self.entries.get(entry.index as usize - 1);
            let want = want
                .unwrap_or_else(|| panic!("{what:?}: entry {} was never appended", entry.index));
            assert_eq!((entry.term, entry.index), (want.0, want.1), "{what:?}");
            match &entry.body {
                Body::Good(body) => assert_eq!(**body, want.2, "{what:?}: entry {}", want.1),
                Body::Covered => panic!("no snapshot covers it"),
                Body::Faulty { len, seed, crc } => {
                    assert!(wal::body_matches(&want.2, *len, *seed, *crc), "{what:?}");
                    assert!(
                        found.log.damaged_bodies.contains_key(&entry.index),
                        "{what:?}"
                    );
                }
            }
        }
        if lost {
            return true;
        }
        let count = found.log.entries.len();
        assert!(
            count >= self.durable(bytes),
            "{what:?}: only {count} entries"
        );
        let whole = self.batches.iter().any(|b| b.entries == count) || count == 0;
        assert!(whole, "{what:?}: {count} entries are a part of a batch");
        let in_order = found.log.entries.iter().zip(1..).all(|(e, i)| e.index == i);
        assert!(in_order, "{what:?}");
        !found.log.damaged_bodies.is_empty()
    }
}

#[test]
fn an_undamaged_log_is_read_whole() {
    for close in [false, true] {
        let log = build(1, close);
        assert!(log.end > SEGMENT as usize - 9000 && log.entries.len() > 30);
        assert!(!log.check(&log.bytes, &"nothing"));
        let found = log.scan(&log.bytes);
        assert_eq!(found.log.entries.len(), log.entries.len());
        assert_eq!(found.tail.closed, close);
        assert_eq!((found.tail.end, found.tail.dirty_end), (log.end, log.end));
    }
}

/// The log without its content from `length` on; the file keeps its length.
fn zeroed_from(log: &Log, length: usize) -> Vec<u8> {
    let mut bytes = log.bytes.clone();
    bytes[length..].fill(0);
    bytes
}

#[test]
fn a_log_that_ends_at_any_byte_is_a_prefix() {
    for close in [false, true] {
        let log = build(2, close);
        for length in 0..log.end {
            let reported = log.check(&zeroed_from(&log, length), &length);
            // Damage with nothing behind it is a torn tail. But the head was synced before the file
            // had its name.
            assert_eq!(reported, length < HEAD, "{length}");
        }
    }
}

#[test]
fn a_segment_that_is_shorter_than_it_was_made_is_damage() {
    for close in [false, true] {
        let log = build(2, close);
        for length in 0..log.bytes.len() {
            let found = log.scan(&log.bytes[..length]);
            let kind = found.fatal.first().map(|damage| damage.kind);
            let expected = if length < HEAD {
                DamageKind::SegmentHead
            } else {
                DamageKind::ShortSegment
            };
            assert_eq!(kind, Some(expected), "{length}");
        }
    }
}

/// Flips each bit of a range of bytes. Returns how many flips were reported.
fn flip(log: &Log, range: Range<usize>) -> usize {
    let mut bytes = log.bytes.clone();
    let last = log.batches.last().expect("there are batches").records[0].start;
    let records = || log.batches.iter().flat_map(|b| &b.records);
    let mut named = 0;
    for at in range {
        // Only the last batch has no witness. Padding and the rest of the head's page mean nothing.
        let matters = records().any(|r| r.contains(&at));
        let want = if matters { at < last } else { at < HEAD };
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert_eq!(log.check(&bytes, &(at, bit)), want, "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
            named += usize::from(want);
        }
    }
    named
}

#[test]
fn every_bit_flipped() {
    let log = build(3, true);
    let middle = log.end / 2;
    let named = std::thread::scope(|scope| {
        let half = scope.spawn(|| flip(&log, 0..middle));
        flip(&log, middle..log.end) + half.join().expect("the other half passes")
    });
    assert!(named > 400_000, "only {named} flips were reported");
    let open = build(4, false);
    flip(&open, open.end - 8000..open.end);
}

#[test]
fn every_sector_zeroed_old_or_garbage() {
    let log = build(5, false);
    // What the disk held before this log was written.
    let earlier = build_for(IDENTITY + 1, 6, false).bytes;
    let mut rng = Rng::new(7);
    let mut named = 0;
    for size in [512, PAGE] {
        for first in 0..log.bytes.len() / size {
            for kind in 0..40 {
                let mut bytes = log.bytes.clone();
                // One sector, and then pairs of them.
                let second = rng.below((log.bytes.len() / size) as u64) as usize;
                let pair = [first, if kind < 10 { first } else { second }];
                for at in pair.map(|sector| sector * size..(sector + 1) * size) {
                    match kind % 10 {
                        0 => bytes[at].fill(0),
                        1 => bytes[at].fill(0xff),
                        2 => bytes[at.clone()].copy_from_slice(&earlier[at]),
                        3 => {
                            let from = rng.below(log.bytes.len() as u64 - size as u64) as usize;
                            bytes.copy_within(from..from + size, at.start);
                        }
                        _ => rng.fill(&mut bytes[at]),
                    }
                }
                named += usize::from(log.check(&bytes, &(size, pair, kind)));
            }
        }
    }
    assert!(named > 3000, "only {named} were reported");
}

#[test]
fn damage_before_another_segment_is_never_a_torn_tail() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = Wal::open_with(options(dir.path()), quick()).expect("it opens");
    for index in 1..=60 {
        let record = Record::Entry {
            term: 1,
            index,
            body: &[index as u8; 1500],
        };
        wal.append(&[record], 0).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    drop(wal);
    let read = |name| std::fs::read(dir.path().join(name)).expect("a file");
    let (first, second) = (read("0000000000000001.log"), read("0000000000000002.log"));
    let both = |first: &[u8]| scan(IDENTITY, &[("1", 1, first), ("2", 2, &second)]);
    let whole = both(&first);
    assert_eq!((whole.log.entries.len(), whole.fatal.len()), (60, 0));
    let end = scan(IDENTITY, &[("1", 1, &first)]).tail.end;
    for at in PAGE..end {
        let mut bytes = first.clone();
        bytes[at] ^= 1 << (at % 8);
        let found = both(&bytes);
        let padding = found.log == whole.log;
        assert!(
            padding || !found.fatal.is_empty() || !found.log.damaged_bodies.is_empty(),
            "{at}"
        );
    }
    for length in (0..end).step_by(7) {
        assert!(!both(&first[..length]).fatal.is_empty(), "{length}");
    }
    let missing = scan(IDENTITY, &[("1", 1, &first), ("3", 3, &second)]);
    assert_eq!(
        missing.fatal[0].kind,
        DamageKind::SegmentHead,
        "a segment under the name of another"
    );
    let gap = scan(IDENTITY, &[("0", 0, &first), ("2", 2, &second)]);
    assert!(
        gap.fatal
            .iter()
            .any(|f| f.kind == DamageKind::MissingSegment)
            || gap.fatal[0].kind == DamageKind::SegmentHead
    );
}

/// Writes a valid checksum over a header that is nonsense.
fn reseal(bytes: &mut [u8], at: usize) {
    let check = crc(seed(IDENTITY, 1, at as u32), &bytes[at..at + 28]);
    bytes[at + 28..at + 32].copy_from_slice(&check.to_le_bytes());
}

#[test]
fn nonsense_with_valid_checksums_does_not_panic() {
    let log = build(8, false);
    let mut rng = Rng::new(9);
    let starts: Vec<usize> = log
        .batches
        .iter()
        .flat_map(|b| &b.records)
        .map(|r| r.start)
        .collect();
    for _ in 0..20_000 {
        let mut bytes = log.bytes.clone();
        for _ in 0..1 + rng.below(4) {
            let at = starts[rng.below(starts.len() as u64) as usize];
            match rng.below(3) {
                0 => rng.fill(&mut bytes[at..at + 28]),
                1 => bytes[at + rng.below(28) as usize] = rng.next_u64() as u8,
                _ => {
                    let other = starts[rng.below(starts.len() as u64) as usize];
                    bytes.copy_within(other..other + 28, at);
                }
            }
            reseal(&mut bytes, at);
        }
        log.scan(&bytes);
    }
    for _ in 0..2000 {
        let mut bytes = vec![0; rng.below(3 * PAGE as u64) as usize];
        rng.fill(&mut bytes);
        log.scan(&bytes);
        wal::state::valid_slot(&bytes);
    }
}

#[test]
fn a_header_is_valid_only_in_its_segment_and_directory() {
    let log = build(10, false);
    let at = log.batches[0].records[0].start;
    let limit = SEGMENT as usize;
    assert!(RecordHeader::decode(&log.bytes[at..], IDENTITY, 1, at, limit).is_some());
    assert!(RecordHeader::decode(&log.bytes[at..], IDENTITY, 2, at, limit).is_none());
    assert!(RecordHeader::decode(&log.bytes[at..], IDENTITY + 1, 1, at, limit).is_none());
}

/// Opens a damaged copy as a log, appends to it, and reads it again.
fn append_to_damaged(log: &Log, bytes: &[u8], what: &dyn std::fmt::Debug) {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Wal::open_with(options(dir.path()), quick()).expect("it opens"));
    std::fs::write(dir.path().join("0000000000000001.log"), bytes).expect("it can");
    let (mut wal, found) = match Wal::open_with(options(dir.path()), quick()) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { damage, .. }) => {
            assert!(!damage.is_empty(), "{what:?}");
            return;
        }
        Err(other) => panic!("{what:?}: {other}"),
    };
    assert!(found.entries.len() >= log.durable(bytes), "{what:?}");
    let next = found.entries.len() as u64 + 1;
    for index in next..next + 3 {
        let record = Record::Entry {
            term: 9,
            index,
            body: b"new",
        };
        wal.append(&[record], 0).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    drop(wal);
    let (_, again) = Wal::open_with(options(dir.path()), quick()).expect("it opens");
    let (old, new) = again.entries.split_at(found.entries.len());
    assert_eq!(old, found.entries, "{what:?}");
    assert!(
        new.len() == 3 && new.iter().all(|e| e.term == 9),
        "{what:?}"
    );
    assert_eq!(
        (again.torn_bytes, again.damage),
        (0, found.damage),
        "{what:?}"
    );
}

#[test]
fn a_damaged_log_that_opens_can_be_appended_to() {
    let log = build(11, false);
    for length in (0..log.end).step_by(997) {
        append_to_damaged(&log, &zeroed_from(&log, length), &length);
    }
    let mut rng = Rng::new(12);
    let last = log.batches.last().expect("there are batches").records[0].start;
    for round in 0..60 {
        let mut bytes = log.bytes.clone();
        // Half of them in the last batch, where damage is a torn tail.
        let from = [PAGE, last][round % 2] as u64;
        let at = from + rng.below(log.end as u64 - from);
        bytes[at as usize] ^= 0x40;
        append_to_damaged(&log, &bytes, &at);
    }
}

#[test]
fn a_batch_with_another_number_or_checksum_is_not_read() {
    let log = build(14, false);
    let ends = |batch: &Batch| batch.records.last().expect("its end").start;
    let last = log.batches.len() - 1;
    for (batch, place) in [(3, 24), (3, 8), (last, 24), (last, 8)] {
        // Another checksum of the batch (24), or another number (8).
        let mut bytes = log.bytes.clone();
        let at = ends(&log.batches[batch]);
        bytes[at + place] ^= 1;
        reseal(&mut bytes, at);
        let found = log.scan(&bytes);
        let named = found
            .fatal
            .iter()
            .any(|f| f.kind == DamageKind::Batch && f.offset == at as u64);
        assert_eq!(named, batch != last);
        assert_eq!(found.log.entries.len() < log.entries.len(), batch == last);
    }
}

#[test]
fn a_removed_torn_tail_cannot_complete_a_later_batch() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0000000000000001.log");
    let read = || std::fs::read(&path).expect("a file");
    let open = || Wal::open_with(options(dir.path()), quick()).expect("it opens");
    let put = |wal: &mut Wal, bodies: &[(u64, u8)]| {
        let bodies = bodies
            .iter()
            .map(|(index, fill)| (*index, vec![*fill; 1000]));
        let bodies = bodies.collect::<Vec<_>>();
        let records = bodies.iter().map(|(index, body)| Record::Entry {
            term: 1,
            index: *index,
            body,
        });
        wal.append(&records.collect::<Vec<_>>(), 0)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    };
    let (mut wal, _) = open();
    put(&mut wal, &[(1, 1)]);
    put(&mut wal, &[(2, 2), (3, 3)]);
    drop(wal);
    // The power fails before the first record of the second batch is on the disk. The batch is
    // removed as a torn tail.
    let first = PAGE + record_bytes(1000) + HEADER;
    let first = first..first + record_bytes(1000);
    let mut torn = read();
    torn[first.clone()].fill(0);
    std::fs::write(&path, torn).expect("it can");
    let (mut wal, found) = open();
    assert_eq!(found.entries.len(), 1);
    assert!(found.torn_bytes > 0);
    let cut = read();
    // The same entry is appended again with another one behind it, and only the first record of
    // that batch reaches the disk. The removed records must not complete it.
    put(&mut wal, &[(2, 2), (3, 4)]);
    drop(wal);
    let mut torn = cut;
    torn[first.clone()].copy_from_slice(&read()[first]);
    std::fs::write(&path, torn).expect("it can");
    assert_eq!(open().1.entries.len(), 1);
}

#[test]
fn a_damaged_body_is_repaired_by_an_equal_body_only() {
    let log = build(13, false);
    let dir = tempfile::tempdir().expect("a directory");
    drop(Wal::open_with(options(dir.path()), quick()).expect("it opens"));
    let mut bytes = log.bytes.clone();
    let long = log
        .entries
        .iter()
        .position(|e| e.2.len() > 1000)
        .expect("one is long");
    let body = &log.entries[long].2;
    let at = bytes
        .windows(body.len())
        .position(|w| w == body)
        .expect("it is there");
    bytes[at + 500] ^= 1;
    let path = dir.path().join("0000000000000001.log");
    std::fs::write(&path, bytes).expect("it can");
    let (mut wal, found) = Wal::open_with(options(dir.path()), quick()).expect("it opens");
    let index = long as u64 + 1;
    assert_eq!(found.damage.len(), 1);
    assert_eq!(
        (found.damage[0].index, found.damage[0].offset),
        (Some(index), (at - HEADER) as u64)
    );
    let text = format!(
        "0000000000000001.log at offset {} (entry {index}): the body",
        at - HEADER
    );
    assert!(found.damage[0].to_string().starts_with(&text));
    let term = log.entries[long].0;
    for wrong in [&body[1..], body] {
        let body = wrong;
        wal.append(&[Record::Repair { term, index, body }], 0)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
        if wrong.len() < log.entries[long].2.len() {
            drop(wal);
            let (again, found) = Wal::open_with(options(dir.path()), quick()).expect("it opens");
            assert_eq!(
                found.damage.len(),
                1,
                "a shorter body does not repair the entry"
            );
            wal = again;
        }
    }
    drop(wal);
    let (_, found) = Wal::open_with(options(dir.path()), quick()).expect("it opens");
    assert!(found.damage.is_empty());
    assert_eq!(found.entries.len(), log.entries.len());
    assert_eq!(found.entries[long].body, Body::Good(body.as_slice().into()));
}
