//! The bytes of a segment: its head, the headers of its records, and their checksums.
//!
//! This file encodes and decodes; it does no I/O. What a sequence of records means is decided in
//! `scan`, which files they stand in is decided in `segment`. Numbers are little-endian and records
//! are aligned to 8 bytes. README.md shows the layouts. Start reading at [`RecordHeader`].
use crc32fast::Hasher;

/// The number of the format that this version reads and writes.
pub const VERSION: u32 = 1;
/// The unit of writing, in bytes. A segment head and a slot of `state` fill whole pages, so that a
/// torn write of a record cannot damage them.
pub const PAGE: usize = 4096;
/// The length of a record header in bytes. The record that ends a batch consists of it alone.
pub const HEADER: usize = 32;
/// The longest body in bytes: the header has 24 bits for the length.
pub const BODY_MAX: usize = (1 << 24) - 1;
/// The length of a segment head without its configuration, in bytes.
const HEAD_FIXED: usize = 80;
const HEAD_MAGIC: &[u8; 8] = b"tern log";

/// What a record is. No kind is 0, so that zeros are never a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// An entry with term, index and body.
    Entry = 1,
    /// The end of a batch. Instead of a term it has the number of the batch, instead of an index
    /// the commit index, and instead of a body checksum the checksum of the batch.
    Commit = 2,
    /// The closing mark: the end of a batch without records.
    Close = 3,
    /// The body of an entry whose own record is damaged.
    Repair = 4,
    /// A snapshot was installed and all entries were removed.
    Installed = 5,
    /// A snapshot was installed and the entries after it stayed.
    InstalledTail = 6,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// The length of the body in bytes, without padding; at most [`BODY_MAX`]. 0 in a record that
    /// ends a batch.
    pub len: u32,
    /// The durable mark: the offset in the segment where the batch of this record starts. All
    /// records before it had been synced when this header was written. A multiple of 8, at most the
    /// offset of the header itself.
    pub durable_mark: u32,
    /// The term of the entry, or the number of the batch that the record ends.
    pub term: u64,
    /// The index of the entry, or the commit index in a record that ends a batch.
    pub index: u64,
    /// The checksum of the body, or of the batch's headers in a record that ends a batch.
    pub crc: u32,
}

/// The head of a segment. It is written once, before the segment holds any record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The offset of the first record, in bytes: the length of the head in whole pages.
    pub records_at: u32,
    /// The length that the file was made with, in bytes; at most [`crate::SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// The random number of the data directory.
    pub identity: u64,
    /// The number of the segment, one above that of the segment before.
    pub sequence: u64,
    /// The highest index that the first entry may have; `None` if any index may follow.
    pub next_index: Option<u64>,
    /// The number of the first batch.
    pub next_batch: u64,
    /// The highest commit index in the segments before. It is repeated because they may be released
    /// before this segment holds one.
    pub commit: u64,
    /// The offset in the segment before where its last batch ends; 0 in the first segment. That
    /// batch was durable before this segment was put into use, so this is a durable mark for it.
    pub previous_end: u32,
    /// The checksum of that batch.
    pub previous_crc: u32,
    /// The caller's newest configuration.
    pub configuration: Box<[u8]>,
}

/// Why bytes are not the head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSegmentHead {
    /// The head is whole and has a format of this number.
    Version(u32),
    /// The head is damaged or missing.
    Unreadable,
}

/// The little-endian number of 4 bytes at the offset `at`.
///
/// # Panics
///
/// If `bytes` ends before it.
pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian number of 8 bytes at the offset `at`.
///
/// # Panics
///
/// If `bytes` ends before it.
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The CRC-32 (IEEE) of `bytes`, started from `seed`. Two seeds never give the same bytes the same
/// checksum.
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The seed for the checksums of the record at `offset`. With it, a record of another directory, of
/// an earlier use of the same file or of another place in it does not pass as valid.
pub fn seed(identity: u64, sequence: u64, offset: u32) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&identity.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..].copy_from_slice(&offset.to_le_bytes());
    crc(0, &bytes)
}

/// The length of a record with a body of `body` bytes: header, body and padding.
pub fn record_bytes(body: usize) -> usize {
    HEADER + body.next_multiple_of(8)
}

impl RecordKind {
    /// The kind that the first byte of a header encodes; `None` if it encodes none.
    pub fn decode(byte: u8) -> Option<RecordKind> {
        Some(match byte {
            1 => RecordKind::Entry,
            2 => RecordKind::Commit,
            3 => RecordKind::Close,
            4 => RecordKind::Repair,
            5 => RecordKind::Installed,
            6 => RecordKind::InstalledTail,
            _ => return None,
        })
    }

    /// Whether a record of this kind ends a batch. It has no body then.
    pub fn ends_batch(self) -> bool {
        matches!(self, RecordKind::Commit | RecordKind::Close)
    }
}

impl RecordHeader {
    /// The bytes of the header, with its checksum started from `seed`.
    ///
    /// # Panics
    ///
    /// As [`RecordHeader::check_invariants`].
    pub fn encode(&self, seed: u32) -> [u8; HEADER] {
        let mut out = self.encode_unsealed();
        let check = crc(seed, &out[..28]);
        out[28..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// The bytes of the header without its checksum. Only [`RecordHeader::decode_unsealed`] reads
    /// them.
    ///
    /// # Panics
    ///
    /// As [`RecordHeader::check_invariants`].
    pub fn encode_unsealed(&self) -> [u8; HEADER] {
        self.check_invariants();
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&(self.len << 8 | self.kind as u32).to_le_bytes());
        out[4..8].copy_from_slice(&self.durable_mark.to_le_bytes());
        out[8..16].copy_from_slice(&self.term.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.to_le_bytes());
        out[24..28].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// Decodes a header without verifying its checksum; `None` if no kind starts with its first
    /// byte. For records that this process encoded itself.
    ///
    /// # Panics
    ///
    /// If `bytes` is shorter than a header.
    pub fn decode_unsealed(bytes: &[u8]) -> Option<RecordHeader> {
        let word = get_u32(bytes, 0);
        Some(RecordHeader {
            kind: RecordKind::decode(word as u8)?,
            len: word >> 8,
            durable_mark: get_u32(bytes, 4),
            term: get_u64(bytes, 8),
            index: get_u64(bytes, 16),
            crc: get_u32(bytes, 24),
        })
    }

    /// Decodes the header at the start of `bytes`, which stand at `offset` in the segment; `None` if
    /// they are no valid header or its record ends after `limit`. The cheap checks come first,
    /// because the search after damage calls this for every eighth byte.
    pub fn decode(
        bytes: &[u8],
        identity: u64,
        sequence: u64,
        offset: usize,
        limit: usize,
    ) -> Option<RecordHeader> {
        let here = bytes.get(..HEADER)?;
        let header = RecordHeader::decode_unsealed(here)?;
        let end = offset + record_bytes(header.len as usize);
        let is_mark_sound =
            header.durable_mark as usize <= offset && header.durable_mark.is_multiple_of(8);
        let is_body_allowed = header.len == 0 || !header.kind.ends_batch();
        if !is_mark_sound || end > limit || !is_body_allowed {
            return None;
        }
        let seed = seed(identity, sequence, offset as u32);
        (crc(seed, &here[..28]) == get_u32(here, 28)).then_some(header)
    }

    /// Checks a header that is to be written.
    ///
    /// # Panics
    ///
    /// If a field is out of bounds.
    pub fn check_invariants(&self) {
        assert!(self.len as usize <= BODY_MAX, "the length fits 24 bits");
        assert!(
            self.durable_mark.is_multiple_of(8),
            "a batch starts at a multiple of 8"
        );
        assert!(
            self.len == 0 || !self.kind.ends_batch(),
            "the end of a batch has no body"
        );
    }
}

impl SegmentHead {
    /// The length of a head with a configuration of `configuration` bytes, in whole pages.
    pub fn bytes_for(configuration: usize) -> usize {
        (HEAD_FIXED + configuration).next_multiple_of(PAGE)
    }

    /// The length that the head at the start of `bytes` claims; 0 if `bytes` is too short to say.
    /// The value is not verified.
    pub fn claimed_bytes(bytes: &[u8]) -> usize {
        match bytes.get(..HEAD_FIXED) {
            Some(fixed) => SegmentHead::bytes_for(get_u32(fixed, 72) as usize),
            None => 0,
        }
    }

    /// The bytes of the head, `records_at` of them.
    ///
    /// # Panics
    ///
    /// As [`SegmentHead::check_invariants`].
    pub fn encode(&self) -> Vec<u8> {
        self.check_invariants();
        let length = self.records_at as usize;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(HEAD_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.records_at.to_le_bytes());
        for word in [
            self.segment_bytes,
            self.identity,
            self.sequence,
            self.next_index.unwrap_or(0),
            self.next_batch,
            self.commit,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.previous_crc.to_le_bytes());
        out.extend_from_slice(&(self.configuration.len() as u32).to_le_bytes());
        let check = crc(crc(0, &out), &self.configuration);
        out.extend_from_slice(&check.to_le_bytes());
        assert_eq!(out.len(), HEAD_FIXED, "the fixed part has its length");
        out.extend_from_slice(&self.configuration);
        out.resize(length, 0);
        out
    }

    /// Decodes the head at the start of a segment.
    ///
    /// # Errors
    ///
    /// The bytes are no head, or a head of another format.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHead, BadSegmentHead> {
        let fixed = bytes.get(..HEAD_FIXED).ok_or(BadSegmentHead::Unreadable)?;
        let length = get_u32(fixed, 72) as usize;
        let configuration = bytes[HEAD_FIXED..]
            .get(..length)
            .ok_or(BadSegmentHead::Unreadable)?;
        let check = crc(crc(0, &fixed[..76]), configuration);
        if &fixed[..8] != HEAD_MAGIC || check != get_u32(fixed, 76) {
            return Err(BadSegmentHead::Unreadable);
        }
        let version = get_u32(fixed, 8);
        if version != VERSION {
            return Err(BadSegmentHead::Version(version));
        }
        let next_index = get_u64(fixed, 40);
        let head = SegmentHead {
            records_at: get_u32(fixed, 12),
            segment_bytes: get_u64(fixed, 16),
            identity: get_u64(fixed, 24),
            sequence: get_u64(fixed, 32),
            next_index: (next_index != 0).then_some(next_index),
            next_batch: get_u64(fixed, 48),
            commit: get_u64(fixed, 56),
            previous_end: get_u32(fixed, 64),
            previous_crc: get_u32(fixed, 68),
            configuration: configuration.into(),
        };
        head.is_sound()
            .then_some(head)
            .ok_or(BadSegmentHead::Unreadable)
    }

    /// Whether the lengths in the head agree with each other.
    fn is_sound(&self) -> bool {
        self.records_at as usize == SegmentHead::bytes_for(self.configuration.len())
            && self.segment_bytes <= crate::SEGMENT_BYTES_MAX
            && self.segment_bytes >= u64::from(self.records_at)
    }

    /// Checks a head that is to be written.
    ///
    /// # Panics
    ///
    /// If its lengths do not agree with each other.
    pub fn check_invariants(&self) {
        assert!(self.is_sound(), "the lengths agree: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_valid_only_at_its_own_offset() {
        let header = RecordHeader {
            kind: RecordKind::Entry,
            len: 5,
            durable_mark: 4096,
            term: 3,
            index: 9,
            crc: 77,
        };
        let mut bytes = vec![0; 8192];
        bytes[4104..4136].copy_from_slice(&header.encode(seed(1, 2, 4104)));
        let decode = |identity, sequence, limit| {
            RecordHeader::decode(&bytes[4104..], identity, sequence, 4104, limit)
        };
        assert_eq!(decode(1, 2, 8192), Some(header));
        assert_eq!(decode(2, 2, 8192), None, "another directory");
        assert_eq!(decode(1, 1, 8192), None, "an earlier use of the file");
        assert_eq!(decode(1, 2, 4143), None, "longer than the segment");
        bytes.copy_within(4104..4136, 4112);
        assert_eq!(
            RecordHeader::decode(&bytes[4112..], 1, 2, 4112, 8192),
            None,
            "elsewhere"
        );
        assert_eq!(
            RecordHeader::decode(&bytes[8184..], 1, 2, 8184, 8192),
            None,
            "no room"
        );
    }

    #[test]
    fn a_head_with_any_flipped_bit_is_unreadable() {
        let head = SegmentHead {
            records_at: PAGE as u32,
            segment_bytes: 65536,
            identity: 7,
            sequence: 1,
            next_index: Some(1),
            next_batch: 1,
            commit: 0,
            previous_end: 0,
            previous_crc: 0,
            configuration: b"configuration".as_slice().into(),
        };
        let whole = head.encode();
        assert_eq!(SegmentHead::decode(&whole), Ok(head));
        for bit in 0..(HEAD_FIXED + 13) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHead::decode(&bytes),
                Err(BadSegmentHead::Unreadable),
                "bit {bit}"
            );
        }
        let mut newer = whole;
        newer[8] = 2;
        let check = crc(crc(0, &newer[..76]), b"configuration");
        newer[76..80].copy_from_slice(&check.to_le_bytes());
        assert_eq!(SegmentHead::decode(&newer), Err(BadSegmentHead::Version(2)));
    }
}
