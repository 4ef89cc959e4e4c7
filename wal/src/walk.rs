//! The records of a segment, found one after the other in bytes that are read in pieces.
//!
//! A segment is never in memory as a whole: [`SegmentBytes`] shows a part of it at a time. This
//! file does no I/O and allocates no more than the bytes that are there, whatever a damaged header
//! claims. Start reading at [`RecordWalk`], then [`Walk::next`].
use std::convert::Infallible;
use std::sync::Arc;

use crate::format::{HEADER, RecordHeader, RecordKind, SegmentHead, crc, record_bytes, seed};

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
    /// Bytes without a valid header: zeros, damage, or older content of the file.
    NoRecord {
        /// The offset of the first byte in the segment.
        at: usize,
        /// How many bytes there are.
        bytes: usize,
    },
}

/// The bytes of a segment, or as many of them as may hold records.
pub trait SegmentBytes {
    /// Why they cannot be read.
    type Error;

    /// How many there are.
    fn length(&self) -> usize;

    /// Bytes from the offset `at` on: at least `least` of them unless the segment ends before.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    fn view(&mut self, at: usize, least: usize) -> Result<&[u8], Self::Error>;
}

/// A segment that is in memory.
impl SegmentBytes for &[u8] {
    type Error = Infallible;

    fn length(&self) -> usize {
        self.len()
    }

    fn view(&mut self, at: usize, _: usize) -> Result<&[u8], Infallible> {
        Ok(self.get(at..).unwrap_or(&[]))
    }
}

/// Where a walk over the pieces of a segment is.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The random number of the data directory.
    identity: u64,
    /// The number of the segment.
    sequence: u64,
    /// Where the next piece starts; only rises.
    at: usize,
    /// The length that the segment was made with. The bytes may be fewer; no record ends after it.
    limit: usize,
    /// The walk ends here; at most the length of the bytes.
    end: usize,
}

/// Iterates over the pieces of a segment that is in memory. After bytes that are no record it
/// searches for the next valid header, at each multiple of 8 bytes.
pub struct RecordWalk<'a> {
    /// The segment from its start.
    bytes: &'a [u8],
    walk: Walk,
}

impl Walk {
    /// Starts after the head of the segment; `end` bytes of it are walked over.
    pub fn new(head: &SegmentHead, end: usize) -> Walk {
        Walk {
            identity: head.identity,
            sequence: head.sequence,
            at: head.records_at as usize,
            limit: head.segment_bytes as usize,
            end,
        }
    }

    /// The next piece.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    pub fn next<B: SegmentBytes>(
        &mut self,
        bytes: &mut B,
    ) -> Result<Option<SegmentPiece>, B::Error> {
        let from = self.at;
        loop {
            self.skip_to_candidate(bytes)?;
            if self.at + HEADER > self.end {
                break;
            }
            let at = self.at;
            let here = bytes.view(at, HEADER)?;
            match RecordHeader::decode(here, self.identity, self.sequence, at, self.limit) {
                None => self.at += 8,
                Some(header) if at == from => {
                    self.at += record_bytes(header.len as usize);
                    return Ok(Some(SegmentPiece::Record { at, header }));
                }
                Some(_) => {
                    let bytes = at - from;
                    return Ok(Some(SegmentPiece::NoRecord { at: from, bytes }));
                }
            }
        }
        self.at = self.end;
        let bytes = self.end.saturating_sub(from);
        Ok((bytes > 0).then_some(SegmentPiece::NoRecord { at: from, bytes }))
    }

    /// Skips words that cannot start a header. Most of the searched bytes are zeros, and this check
    /// is the cheapest.
    fn skip_to_candidate<B: SegmentBytes>(&mut self, bytes: &mut B) -> Result<(), B::Error> {
        while self.at + 8 <= self.end {
            let left = self.end - self.at;
            let rest = bytes.view(self.at, 8)?;
            let rest = &rest[..rest.len().min(left)];
            let mut words = rest.chunks_exact(8);
            let skipped = words.position(|word| RecordKind::decode(word[0]).is_some());
            self.at += skipped.unwrap_or(rest.len() / 8) * 8;
            if skipped.is_some() || rest.len() < 8 {
                break;
            }
        }
        Ok(())
    }
}

impl<'a> RecordWalk<'a> {
    /// Starts after the head of the segment.
    pub fn new(bytes: &'a [u8], head: &SegmentHead) -> RecordWalk<'a> {
        RecordWalk {
            bytes,
            walk: Walk::new(head, bytes.len()),
        }
    }
}

impl Iterator for RecordWalk<'_> {
    type Item = SegmentPiece;

    fn next(&mut self) -> Option<SegmentPiece> {
        let Ok(piece) = self.walk.next(&mut self.bytes);
        piece
    }
}

/// The place of a record in a log, from which the checksum of its body starts.
#[derive(Clone, Copy)]
pub struct RecordPlace {
    /// The random number of the data directory.
    pub identity: u64,
    /// The number of the segment.
    pub sequence: u64,
    /// The offset of the header in the segment.
    pub at: usize,
}

impl RecordPlace {
    /// The value that the checksum of the body starts from.
    pub fn seed(self) -> u32 {
        seed(self.identity, self.sequence, self.at as u32)
    }

    /// The body of the record; `None` if it does not match its checksum or the bytes end before it.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    pub fn body<B: SegmentBytes>(
        self,
        bytes: &mut B,
        header: &RecordHeader,
    ) -> Result<Option<Arc<[u8]>>, B::Error> {
        let length = header.len as usize;
        let start = self.at + HEADER;
        if start + length > bytes.length() {
            return Ok(None);
        }
        // Allocated once and at its size: the core holds it for long.
        let mut body: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        let into = Arc::get_mut(&mut body).expect("it was just made");
        let mut filled = 0;
        while filled < length {
            let piece = bytes.view(start + filled, 1)?;
            let count = piece.len().min(length - filled);
            if count == 0 {
                return Ok(None);
            }
            into[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        Ok((crc(self.seed(), &body) == header.crc).then_some(body))
    }

    /// Whether the body of the record matches its checksum, without keeping it.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    pub fn has_good_body<B: SegmentBytes>(
        self,
        bytes: &mut B,
        header: &RecordHeader,
    ) -> Result<bool, B::Error> {
        let mut left = header.len as usize;
        let mut at = self.at + HEADER;
        let mut check = self.seed();
        while left > 0 {
            let piece = bytes.view(at, 1)?;
            let count = piece.len().min(left);
            if count == 0 {
                return Ok(false);
            }
            check = crc(check, &piece[..count]);
            at += count;
            left -= count;
        }
        Ok(check == header.crc)
    }
}
