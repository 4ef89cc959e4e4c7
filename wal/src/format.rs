//! The bytes of a segment: its head, the headers of records, and their checksums.
//!
//! Pure encoding and decoding; what a sequence of records means is `scan`'s business, where they
//! lie in files is `segment`'s. Everything is little-endian and records are aligned to 8 bytes. The
//! diagrams stand in `README.md`. Start reading at `Header`.
use crc32fast::Hasher;

/// The format that this version reads and writes.
pub const VERSION: u32 = 1;
/// The unit of writing: heads and slots are as long as a page, so that none shares one with a
/// record.
pub const PAGE: usize = 4096;
/// The length of a record's header; a commit record has nothing else.
pub const HEADER: usize = 32;
/// The longest body that the header's 24 bits can tell.
pub const BODY_MAX: usize = (1 << 24) - 1;
/// The fixed part of a segment's head; the configuration follows.
const HEAD_FIXED: usize = 80;
const HEAD_MAGIC: &[u8; 8] = b"tern log";

/// What a record is. 0 is none, so that zeros are never a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry: term, index, body.
    Entry = 1,
    /// The end of a batch: the batch's number in place of the term, the commit index, the batch's
    /// checksum.
    Commit = 2,
    /// A batch of nothing: the closing mark.
    Close = 3,
    /// The body of an entry whose own record is damaged.
    Repair = 4,
    /// A snapshot was put in place, and the entries behind it are gone.
    Installed = 5,
    /// A snapshot was put in place, and the entries behind it stay.
    InstalledTail = 6,
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// The length of the body in bytes, without its padding.
    pub len: u32,
    /// The durable mark: where the record's batch starts. Everything before it was synced when
    /// this was written.
    pub durable: u32,
    /// The entry's term; the batch's number in a commit record.
    pub term: u64,
    /// The entry's index; the commit index in a commit record.
    pub index: u64,
    /// The body's checksum; the batch's in a commit record.
    pub crc: u32,
}

/// The head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where records start.
    pub records_at: u32,
    /// The length of the file.
    pub segment_bytes: u64,
    /// The data directory's random number.
    pub identity: u64,
    /// The segment's number; the next one has the next.
    pub sequence: u64,
    /// The index that the first entry had to have when the segment was taken into use; 0: any.
    pub base: u64,
    /// The number of its first batch.
    pub batch: u64,
    /// The highest commit index recorded before; the segments that hold it may be released before
    /// this one has any.
    pub commit: u64,
    /// Where the last batch of the segment before ends; it was durable before this segment was
    /// used.
    pub previous_end: u32,
    /// The checksum of that batch.
    pub previous_crc: u32,
    /// The newest configuration, the caller's bytes.
    pub configuration: Box<[u8]>,
}

/// Why the first bytes of a file are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// A whole head of another format.
    Version(u32),
    Unreadable,
}

pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// crc32 started from `seed`. Two seeds give the same data two checksums, always.
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The seed of the checksums of a record: bytes of another data directory, of an earlier use of the
/// file or of another place in it do not pass.
pub fn seed(identity: u64, sequence: u64, offset: u32) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&identity.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..].copy_from_slice(&offset.to_le_bytes());
    crc(0, &bytes)
}

/// The length of a record with its padding.
pub fn record_bytes(body: usize) -> usize {
    HEADER + body.next_multiple_of(8)
}

impl Kind {
    /// The kind that a header starts with.
    pub fn decode(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Entry,
            2 => Kind::Commit,
            3 => Kind::Close,
            4 => Kind::Repair,
            5 => Kind::Installed,
            6 => Kind::InstalledTail,
            _ => return None,
        })
    }

    /// Whether it ends a batch (and has no body).
    pub fn ends_batch(self) -> bool {
        matches!(self, Kind::Commit | Kind::Close)
    }
}

impl Header {
    /// The header's bytes, with its checksum started from `seed`.
    pub fn encode(&self, seed: u32) -> [u8; HEADER] {
        let mut out = self.encode_unsealed();
        let check = crc(seed, &out[..28]);
        out[28..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// The same without its checksum, for what `peek` reads.
    pub fn encode_unsealed(&self) -> [u8; HEADER] {
        assert!(self.len as usize <= BODY_MAX, "the length fits 24 bits");
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&(self.len << 8 | self.kind as u32).to_le_bytes());
        out[4..8].copy_from_slice(&self.durable.to_le_bytes());
        out[8..16].copy_from_slice(&self.term.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.to_le_bytes());
        out[24..28].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// What `bytes` hold without their checksum being looked at; `None` if it cannot be a header.
    /// For records that this process has put together itself.
    pub fn peek(bytes: &[u8]) -> Option<Header> {
        let word = get_u32(bytes, 0);
        Some(Header {
            kind: Kind::decode(word as u8)?,
            len: word >> 8,
            durable: get_u32(bytes, 4),
            term: get_u64(bytes, 8),
            index: get_u64(bytes, 16),
            crc: get_u32(bytes, 24),
        })
    }

    /// The header at `offset`, if a whole one stands there whose record ends within `limit`. The
    /// cheap tests come first: a search for the next header asks this of every eighth byte.
    pub fn decode(
        bytes: &[u8],
        identity: u64,
        sequence: u64,
        offset: usize,
        limit: usize,
    ) -> Option<Header> {
        let here = bytes.get(offset..offset + HEADER)?;
        let header = Header::peek(here)?;
        let end = offset + record_bytes(header.len as usize);
        if header.durable as usize > offset
            || !header.durable.is_multiple_of(8)
            || end > limit
            || header.kind.ends_batch() && header.len != 0
        {
            return None;
        }
        let seed = seed(identity, sequence, offset as u32);
        (crc(seed, &here[..28]) == get_u32(here, 28)).then_some(header)
    }
}

impl Head {
    /// How long a head with this configuration is.
    pub fn bytes_for(configuration: usize) -> usize {
        (HEAD_FIXED + configuration).next_multiple_of(PAGE)
    }

    /// How long the head at the start of `bytes` says that it is; that may be wrong.
    pub fn claimed_bytes(bytes: &[u8]) -> usize {
        let fixed = bytes.get(..HEAD_FIXED);
        fixed.map_or(0, |f| Head::bytes_for(get_u32(f, 72) as usize))
    }

    /// The head's bytes, `records_at` of them.
    pub fn encode(&self) -> Vec<u8> {
        let length = Head::bytes_for(self.configuration.len());
        assert_eq!(length, self.records_at as usize, "records follow the head");
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(HEAD_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.records_at.to_le_bytes());
        for word in [
            self.segment_bytes,
            self.identity,
            self.sequence,
            self.base,
            self.batch,
            self.commit,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.previous_crc.to_le_bytes());
        out.extend_from_slice(&(self.configuration.len() as u32).to_le_bytes());
        let check = crc(crc(0, &out), &self.configuration);
        out.extend_from_slice(&check.to_le_bytes());
        assert_eq!(
            out.len(),
            HEAD_FIXED,
            "the fixed part is as long as it says"
        );
        out.extend_from_slice(&self.configuration);
        out.resize(length, 0);
        out
    }

    /// The head at the start of a segment.
    pub fn decode(bytes: &[u8]) -> Result<Head, BadHead> {
        let fixed = bytes.get(..HEAD_FIXED).ok_or(BadHead::Unreadable)?;
        let configuration = get_u32(fixed, 72) as usize;
        let configuration = bytes[HEAD_FIXED..]
            .get(..configuration)
            .ok_or(BadHead::Unreadable)?;
        let check = crc(crc(0, &fixed[..76]), configuration);
        if &fixed[..8] != HEAD_MAGIC || check != get_u32(fixed, 76) {
            return Err(BadHead::Unreadable);
        }
        if get_u32(fixed, 8) != VERSION {
            return Err(BadHead::Version(get_u32(fixed, 8)));
        }
        let head = Head {
            records_at: get_u32(fixed, 12),
            segment_bytes: get_u64(fixed, 16),
            identity: get_u64(fixed, 24),
            sequence: get_u64(fixed, 32),
            base: get_u64(fixed, 40),
            batch: get_u64(fixed, 48),
            commit: get_u64(fixed, 56),
            previous_end: get_u32(fixed, 64),
            previous_crc: get_u32(fixed, 68),
            configuration: configuration.into(),
        };
        let records_at = Head::bytes_for(configuration.len());
        let sound = records_at == head.records_at as usize
            && head.segment_bytes <= crate::SEGMENT_BYTES_MAX
            && head.segment_bytes >= head.records_at as u64;
        sound.then_some(head).ok_or(BadHead::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_passes_only_in_its_place() {
        let header = Header {
            kind: Kind::Entry,
            len: 5,
            durable: 4096,
            term: 3,
            index: 9,
            crc: 77,
        };
        let mut bytes = vec![0; 8192];
        bytes[4104..4136].copy_from_slice(&header.encode(seed(1, 2, 4104)));
        let decode =
            |identity, sequence, limit| Header::decode(&bytes, identity, sequence, 4104, limit);
        assert_eq!(decode(1, 2, 8192), Some(header));
        assert_eq!(decode(2, 2, 8192), None, "another directory");
        assert_eq!(decode(1, 1, 8192), None, "an earlier use of the file");
        assert_eq!(decode(1, 2, 4143), None, "longer than the segment");
        bytes.copy_within(4104..4136, 4112);
        assert_eq!(Header::decode(&bytes, 1, 2, 4112, 8192), None, "elsewhere");
        assert_eq!(Header::decode(&bytes, 1, 2, 8184, 8192), None, "no room");
    }

    #[test]
    fn every_flipped_bit_of_a_head_is_seen() {
        let head = Head {
            records_at: PAGE as u32,
            segment_bytes: 65536,
            identity: 7,
            sequence: 1,
            base: 1,
            batch: 1,
            commit: 0,
            previous_end: 0,
            previous_crc: 0,
            configuration: b"configuration".as_slice().into(),
        };
        let whole = head.encode();
        assert_eq!(Head::decode(&whole), Ok(head));
        for bit in 0..(HEAD_FIXED + 13) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&bytes), Err(BadHead::Unreadable), "bit {bit}");
        }
        let mut newer = whole;
        newer[8] = 2;
        let check = crc(crc(0, &newer[..76]), b"configuration");
        newer[76..80].copy_from_slice(&check.to_le_bytes());
        assert_eq!(Head::decode(&newer), Err(BadHead::Version(2)));
    }
}
