//! Bodies: what the headers say of their length, and chunked ones decoded as they come.
//!
//! A length that is not beyond doubt is a fault: two of them, one beside `Transfer-Encoding`,
//! signs, lists, a coding other than `chunked`. Start with `BodyLength::of` and `Chunked::decode`.
use super::head::{HeadFault, HeadPlace};

/// Chunk extensions of one body, in bytes; nobody here reads them.
const EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Trailers of one body, in bytes; nobody here reads them.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Hex digits of a chunk's size: as many as fit into 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No header speaks of a body.
    Unsaid,
    Fixed(u64),
    Chunked,
}

/// What is wrong with a body or its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// `Content-Length` is not one plain number.
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` together.
    Both,
    /// `Transfer-Encoding` names `chunked` twice, or nothing.
    TransferEncoding,
    /// A coding that nobody here knows.
    UnknownCoding,
    ChunkSize,
    /// A chunk's data does not end where its size says.
    ChunkEnd,
    Extensions,
    Trailer,
    TrailerTooLong,
    TooLarge,
}

impl BodyLength {
    /// Reads the framing headers of a message.
    pub fn of(headers: &[httparse::Header]) -> Result<BodyLength, BodyFault> {
        let values = |name: &'static str| {
            let named = headers
                .iter()
                .filter(move |h| h.name.eq_ignore_ascii_case(name));
            named.map(|h| h.value)
        };
        let mut lengths = values("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(BodyFault::ContentLength);
        }
        let mut codings = values("transfer-encoding").peekable();
        if codings.peek().is_none() {
            return length.map_or(Ok(BodyLength::Unsaid), content_length);
        }
        if length.is_some() {
            return Err(BodyFault::Both);
        }
        let mut chunked = 0;
        for coding in codings.flat_map(|v| v.split(|b| *b == b',')) {
            match coding.trim_ascii() {
                b"" => return Err(BodyFault::TransferEncoding),
                coding if coding.eq_ignore_ascii_case(b"chunked") => chunked += 1,
                _ => return Err(BodyFault::UnknownCoding),
            }
        }
        match chunked {
            1 => Ok(BodyLength::Chunked),
            _ => Err(BodyFault::TransferEncoding),
        }
    }
}

fn content_length(value: &[u8]) -> Result<BodyLength, BodyFault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BodyFault::ContentLength);
    }
    // Digits beyond 64 bits are a length all the same, only none that anybody accepts.
    let length = value.iter().try_fold(0u64, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    Ok(BodyLength::Fixed(length.unwrap_or(u64::MAX)))
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPlace {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer(HeadPlace),
    End,
}

/// A chunked body that is being decoded; holds no more than has come.
#[derive(Debug)]
pub struct Chunked {
    at: ChunkPlace,
    /// Of the present chunk: its size while it is being read, then what is left of it.
    left: u64,
    extension_bytes: usize,
    trailer_bytes: usize,
    body: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Chunked {
        Chunked {
            at: ChunkPlace::Size { digits: 0 },
            left: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            body: Vec::new(),
        }
    }
}

impl Chunked {
    /// Takes the next piece of input; returns how much of it belongs to the body. `is_whole` tells
    /// whether it ended.
    pub fn decode(&mut self, input: &[u8], bytes_max: u64) -> Result<usize, BodyFault> {
        let mut taken = 0;
        while taken < input.len() && self.at != ChunkPlace::End {
            if self.at == ChunkPlace::Data {
                let piece = &input[taken..];
                let here = usize::try_from(self.left).map_or(piece.len(), |l| l.min(piece.len()));
                self.body.extend_from_slice(&piece[..here]);
                self.left -= here as u64;
                taken += here;
                if self.left == 0 {
                    self.at = ChunkPlace::DataCr;
                }
            } else {
                self.at = self.step(input[taken], bytes_max)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Whether the last chunk and its trailers have come.
    pub fn is_whole(&self) -> bool {
        self.at == ChunkPlace::End
    }

    /// What has been decoded.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// What has been decoded, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.body
    }

    fn step(&mut self, byte: u8, bytes_max: u64) -> Result<ChunkPlace, BodyFault> {
        match (self.at, byte) {
            (ChunkPlace::Size { digits }, b';') if digits > 0 => self.extension(),
            (ChunkPlace::Size { digits }, b'\r') if digits > 0 => Ok(ChunkPlace::SizeLf),
            (ChunkPlace::Size { digits }, _) => self.size_digit(byte, digits),
            (ChunkPlace::Extension, b'\r') => Ok(ChunkPlace::SizeLf),
            (ChunkPlace::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(),
            (ChunkPlace::Extension, _) => Err(BodyFault::Extensions),
            (ChunkPlace::SizeLf, b'\n') => self.begin_chunk(bytes_max),
            (ChunkPlace::SizeLf, _) => Err(BodyFault::ChunkSize),
            (ChunkPlace::DataCr, b'\r') => Ok(ChunkPlace::DataLf),
            (ChunkPlace::DataLf, b'\n') => Ok(ChunkPlace::Size { digits: 0 }),
            (ChunkPlace::DataCr | ChunkPlace::DataLf, _) => Err(BodyFault::ChunkEnd),
            (ChunkPlace::Trailer(place), _) => self.trailer(place, byte),
            (ChunkPlace::Data | ChunkPlace::End, _) => unreachable!("decode deals with these"),
        }
    }

    fn size_digit(&mut self, byte: u8, digits: u8) -> Result<ChunkPlace, BodyFault> {
        let digit = (byte as char).to_digit(16).ok_or(BodyFault::ChunkSize)?;
        if digits == SIZE_DIGITS_MAX {
            return Err(BodyFault::ChunkSize);
        }
        // Sixteen digits are 64 bits: the shift loses nothing.
        self.left = self.left << 4 | u64::from(digit);
        Ok(ChunkPlace::Size { digits: digits + 1 })
    }

    fn extension(&mut self) -> Result<ChunkPlace, BodyFault> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(BodyFault::Extensions);
        }
        Ok(ChunkPlace::Extension)
    }

    fn begin_chunk(&mut self, bytes_max: u64) -> Result<ChunkPlace, BodyFault> {
        if self.left == 0 {
            return Ok(ChunkPlace::Trailer(HeadPlace::Start));
        }
        match (self.body.len() as u64).checked_add(self.left) {
            Some(sum) if sum <= bytes_max => Ok(ChunkPlace::Data),
            _ => Err(BodyFault::TooLarge),
        }
    }

    fn trailer(&mut self, place: HeadPlace, byte: u8) -> Result<ChunkPlace, BodyFault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(BodyFault::TrailerTooLong);
        }
        match place.step(byte) {
            Ok(HeadPlace::End) => Ok(ChunkPlace::End),
            Ok(place) => Ok(ChunkPlace::Trailer(place)),
            Err(
                HeadFault::BareLf
                | HeadFault::BareCr
                | HeadFault::Control
                | HeadFault::Folded
                | HeadFault::Name
                | HeadFault::TooLong,
            ) => Err(BodyFault::Trailer),
        }
    }
}
