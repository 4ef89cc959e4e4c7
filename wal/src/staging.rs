//! Records that wait for a batch, and the sealing of a batch; pure.
//!
//! A record is encoded when it is appended, except for what depends on its offset: durable mark,
//! body checksum and header checksum. [`Staging::seal_batch`] completes as many records as fit into
//! the segment and adds the record that ends the batch.
//!
//! This file must not know files or syncs. [`Staging`] keeps several numbers twice: as they are
//! after the last append, and as they were after the last sealed batch (`sealed_…`). Start reading
//! at [`Staging`], then `push`, `seal_batch`.
use crate::Record;
use crate::format::{HEADER, RecordHeader, RecordKind, crc, record_bytes, seed};
use crate::scan::{LogTail, ResolvedLog, next_index_after};

/// The buffer keeps at most this much memory from one batch to the next, in bytes.
const BUFFER_BYTES_KEPT: usize = 256 << 10;

/// Where a batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The random number of the data directory.
    pub identity: u64,
    /// The number of the segment.
    pub sequence: u64,
    /// The offset in the segment where the batch starts.
    pub offset: usize,
    /// How many bytes are free from `offset` on.
    pub room: usize,
}

/// A batch that is ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Its records and the record that ends it.
    pub bytes: Vec<u8>,
    /// The highest index in the headers of its records.
    pub index_max: u64,
}

/// The records that were appended and are not in a batch yet.
pub struct Staging {
    /// The records, oldest first, each padded to a multiple of 8 bytes. The caller bounds them.
    bytes: Vec<u8>,
    /// Empty: the memory for the records after the next batch.
    kept: Vec<u8>,
    /// How many records, and commit marks of their own, were appended since the log was opened. The
    /// mark that `append` returns.
    appended: u64,
    /// How many of them do not wait any more: they are in the batches of a job, or the log had no
    /// room for the commit mark. Less than `appended` between jobs while `bytes` is not empty.
    sealed: u64,
    /// The highest index that the next appended entry may have; `None` if any index may follow.
    next_index: Option<u64>,
    /// `next_index` as it was after the last batch. The head of the next segment repeats it.
    sealed_next_index: Option<u64>,
    /// The highest commit index of all appends.
    commit: u64,
    /// The commit index of the last batch; at most `commit`.
    sealed_commit: u64,
    /// The number of the next batch.
    next_batch: u64,
    /// The checksum of the last batch. The head of the next segment repeats it.
    last_batch_crc: u32,
}

impl Staging {
    /// Continues at the end of the log that recovery found.
    pub fn new(log: &ResolvedLog, tail: &LogTail) -> Staging {
        Staging {
            bytes: Vec::new(),
            kept: Vec::new(),
            appended: 0,
            sealed: 0,
            next_index: log.next_index,
            sealed_next_index: log.next_index,
            commit: log.commit,
            sealed_commit: log.commit,
            next_batch: tail.next_batch,
            last_batch_crc: tail.last_batch_crc,
        }
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no record waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether a record or a commit mark of its own waits for a job.
    pub fn waits(&self) -> bool {
        self.sealed < self.appended
    }

    /// How many records and commit marks of their own were appended.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// How many of them do not wait for a job any more.
    pub fn sealed(&self) -> u64 {
        self.sealed
    }

    /// The highest index that the first entry after the last batch may have; `None` if any index
    /// may follow.
    pub fn sealed_next_index(&self) -> Option<u64> {
        self.sealed_next_index
    }

    /// The commit index of the last batch.
    pub fn sealed_commit(&self) -> u64 {
        self.sealed_commit
    }

    /// The number of the next batch.
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// The checksum of the last batch.
    pub fn last_batch_crc(&self) -> u32 {
        self.last_batch_crc
    }

    /// Adds a record.
    ///
    /// # Panics
    ///
    /// If an entry leaves a gap after the one before it.
    pub fn push(&mut self, record: &Record) {
        let (header, body) = parts_of(record);
        if let Some(next) = self.next_index
            && header.kind == RecordKind::Entry
        {
            assert!(
                header.index <= next,
                "entry {} leaves a gap: at most {next} may follow",
                header.index
            );
        }
        self.next_index = next_index_after(self.next_index, header.kind, header.index);
        // One reservation covers the record and the record that ends the batch. So the buffer does
        // not grow again and copy a large record.
        self.bytes.reserve(record_bytes(body.len()) + HEADER);
        self.bytes.extend_from_slice(&header.encode_unsealed());
        self.bytes.extend_from_slice(body);
        let padded = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(padded, 0);
        self.appended += 1;
    }

    /// The caller knows that entries up to `commit` are committed. The next batch records it.
    pub fn raise_commit(&mut self, commit: u64) {
        self.commit = self.commit.max(commit);
    }

    /// Takes a commit mark of its own, unless a batch records the commit index. Returns its mark, as
    /// `Wal::append` does.
    pub fn push_mark(&mut self, commit: u64) -> u64 {
        self.raise_commit(commit);
        if self.has_unsealed_commit() {
            self.appended += 1;
        }
        self.appended
    }

    /// How many of the waiting bytes fit into `room` bytes together with the record that ends a
    /// batch.
    pub fn fitting(&self, room: usize) -> usize {
        if self.bytes.len() + HEADER <= room {
            return self.bytes.len();
        }
        let mut fitting = 0;
        for length in self.record_lengths() {
            if fitting + length + HEADER > room {
                break;
            }
            fitting += length;
        }
        fitting
    }

    /// The lengths of the waiting records, in bytes with padding.
    pub fn record_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let header = self.bytes.get(at..at + HEADER)?;
            let header = RecordHeader::decode_unsealed(header).expect("this process encoded it");
            let length = record_bytes(header.len as usize);
            at += length;
            Some(length)
        })
    }

    /// Makes a batch of what waits, or of as many records as fit.
    ///
    /// # Panics
    ///
    /// If not even the first record fits.
    pub fn seal_batch(&mut self, place: Place) -> SealedBatch {
        let fitting = self.fitting(place.room);
        assert!(fitting > 0, "a record fits into a segment");
        let mut bytes = std::mem::take(&mut self.bytes);
        let rest = bytes.split_off(fitting);
        // The commit index came with the last append. If that append is not in this batch as a
        // whole, entries that the commit index covers may still wait, and this batch may hold older
        // entries at the same indexes. Recovery would take the older ones for committed.
        let commit = if rest.is_empty() {
            self.commit
        } else {
            self.sealed_commit
        };
        let batch = self.complete_batch(bytes, place, commit);
        self.bytes = if rest.is_empty() {
            std::mem::take(&mut self.kept)
        } else {
            rest
        };
        batch
    }

    /// Fills in what depends on the offsets, and ends the batch.
    fn complete_batch(&mut self, mut bytes: Vec<u8>, place: Place, commit: u64) -> SealedBatch {
        let mut batch_crc = 0;
        let mut index_max = 0;
        let mut at = 0;
        while at < bytes.len() {
            let header = RecordHeader::decode_unsealed(&bytes[at..]);
            let mut header = header.expect("this process encoded it");
            let seed = place.seed(at);
            let body = at + HEADER..at + HEADER + header.len as usize;
            header.durable_mark = place.offset as u32;
            header.crc = crc(seed, &bytes[body]);
            let encoded = header.encode(seed);
            bytes[at..at + HEADER].copy_from_slice(&encoded);
            batch_crc = crc(batch_crc, &encoded);
            index_max = index_max.max(header.index);
            self.sealed_next_index =
                next_index_after(self.sealed_next_index, header.kind, header.index);
            at += record_bytes(header.len as usize);
        }
        let end = self.end_batch(RecordKind::Commit, place, at, commit, batch_crc);
        bytes.extend_from_slice(&end);
        SealedBatch { bytes, index_max }
    }

    /// Whether the last batch does not record the highest commit index.
    pub fn has_unsealed_commit(&self) -> bool {
        self.sealed_commit < self.commit
    }

    /// A batch without records, which records the commit index. Nothing may wait.
    pub fn seal_mark(&mut self, place: Place) -> [u8; HEADER] {
        let commit = self.commit;
        self.end_batch(RecordKind::Commit, place, 0, commit, 0)
    }

    /// A job has all that waited. Returns the mark of the last of it.
    ///
    /// # Panics
    ///
    /// If records wait.
    pub fn finish_job(&mut self) -> u64 {
        assert!(self.is_empty(), "a job has all records");
        self.sealed = self.appended;
        self.sealed
    }

    /// The closing mark, which must follow a sync of everything before it.
    pub fn closing_mark(&mut self, place: Place) -> [u8; HEADER] {
        let commit = self.commit;
        self.end_batch(RecordKind::Close, place, 0, commit, 0)
    }

    /// The record that ends a batch, `length` bytes after the start of the batch.
    fn end_batch(
        &mut self,
        kind: RecordKind,
        place: Place,
        length: usize,
        commit: u64,
        batch_crc: u32,
    ) -> [u8; HEADER] {
        let header = RecordHeader {
            kind,
            len: 0,
            durable_mark: place.offset as u32,
            term: self.next_batch,
            index: commit,
            crc: batch_crc,
        };
        self.next_batch += 1;
        self.last_batch_crc = batch_crc;
        self.sealed_commit = commit;
        header.encode(place.seed(length))
    }

    /// Takes the memory of a batch back after it was written, to save allocations. A large buffer
    /// is freed: to shrink it would allocate and copy once more.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= BUFFER_BYTES_KEPT {
            buffer.clear();
            self.kept = buffer;
        }
    }

    /// Part of `Wal::check_invariants`.
    ///
    /// # Panics
    ///
    /// If a field contradicts another.
    pub fn check_invariants(&self) {
        assert!(
            self.sealed <= self.appended,
            "only appended records are sealed"
        );
        assert!(
            self.bytes.is_empty() || self.waits(),
            "the records that are not sealed wait"
        );
        assert!(self.bytes.len().is_multiple_of(8), "records are padded");
        assert!(
            self.sealed_commit <= self.commit,
            "the commit index rises from batch to batch"
        );
        if self.bytes.is_empty() {
            assert_eq!(
                self.sealed_next_index, self.next_index,
                "nothing waits after the last batch"
            );
        }
    }
}

impl Place {
    /// The seed of the record `length` bytes after the start of the batch.
    fn seed(&self, length: usize) -> u32 {
        seed(self.identity, self.sequence, (self.offset + length) as u32)
    }
}

/// The body of a record.
pub fn body_of<'a>(record: &Record<'a>) -> &'a [u8] {
    parts_of(record).1
}

/// The header of a record, except for what depends on its offset, and its body.
fn parts_of<'a>(record: &Record<'a>) -> (RecordHeader, &'a [u8]) {
    let (kind, term, index, body) = match *record {
        Record::Entry { term, index, body } => (RecordKind::Entry, term, index, body),
        Record::Repair { term, index, body } => (RecordKind::Repair, term, index, body),
        Record::Installed {
            term,
            index,
            keep_tail: true,
            head,
        } => (RecordKind::InstalledTail, term, index, head),
        Record::Installed {
            term,
            index,
            keep_tail: false,
            head,
        } => (RecordKind::Installed, term, index, head),
    };
    let header = RecordHeader {
        kind,
        len: body.len() as u32,
        durable_mark: 0,
        term,
        index,
        crc: 0,
    };
    (header, body)
}
