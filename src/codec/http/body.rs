//! Message bodies: their length as the headers give it (RFC 9112 section 6), and the decoding of
//! chunked ones.
//!
//! An ambiguous length is a fault, because two programs that frame a request differently let one
//! user's bytes become another's request (request smuggling, RFC 9112 section 11.2): two lengths, a
//! length beside `Transfer-Encoding`, signs, lists, a coding other than `chunked`.
//!
//! Start reading at [`BodyLength::of`] and [`Chunked::decode`].
use super::head::{HeadFault, HeadPlace, is_named};

/// Most bytes of chunk extensions in one body. They are skipped.
const EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of trailers in one body. They are skipped.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Most hexadecimal digits of a chunk's size: those of 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// How a message's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No header gives a length. A request then has no body; a response ends with its connection.
    Unspecified,
    /// `Content-Length`, in bytes.
    Fixed(u64),
    /// `Transfer-Encoding: chunked`
    Chunked,
}

/// The fault of a body or of its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// `Content-Length` is not one plain number (RFC 9110 section 8.6).
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` together (RFC 9112 section 6.3, rule 3).
    BothLengths,
    /// `Transfer-Encoding` is empty or names `chunked` twice (RFC 9112 section 6.1).
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// The size of a chunk is not 1 to 16 hexadecimal digits (RFC 9112 section 7.1).
    ChunkSize,
    /// No line break follows the data of a chunk.
    ChunkEnd,
    /// A control character in a chunk extension, or too many extensions (RFC 9112 section 7.1.1).
    Extensions,
    /// A malformed trailer (RFC 9112 section 7.1.2).
    Trailer,
    /// Too many bytes of trailers.
    TrailerTooLong,
    /// The body is longer than allowed.
    TooLarge,
}

impl BodyLength {
    /// Reads the framing headers of a message.
    ///
    /// # Errors
    ///
    /// If they do not give exactly one length, or name an unknown transfer coding.
    pub fn of(headers: &[httparse::Header]) -> Result<BodyLength, BodyFault> {
        let values = |name: &'static str| {
            let named = headers.iter().filter(move |h| is_named(h, name));
            named.map(|h| h.value)
        };
        let mut lengths = values("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(BodyFault::ContentLength);
        }
        let mut codings = values("transfer-encoding").peekable();
        if codings.peek().is_none() {
            return length.map_or(Ok(BodyLength::Unspecified), content_length);
        }
        if length.is_some() {
            return Err(BodyFault::BothLengths);
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
    let mut length = 0u64;
    for digit in value {
        // A number above 64 bits is well-formed; the caller refuses the body as too large.
        length = length.saturating_mul(10);
        length = length.saturating_add(u64::from(digit - b'0'));
    }
    Ok(BodyLength::Fixed(length))
}

/// The place of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPlace {
    /// In a chunk's size, after `digits` of its digits.
    Size { digits: u8 },
    /// In a chunk extension.
    Extension,
    /// After the CR of the size line.
    SizeLf,
    /// In a chunk's data.
    Data,
    /// Right after a chunk's data.
    DataCr,
    /// After the CR that follows a chunk's data.
    DataLf,
    /// In the trailers, which follow the last chunk.
    Trailer(HeadPlace),
    /// After the body.
    End,
}

/// A chunked body that is being decoded (RFC 9112 section 7.1). It allocates memory only for bytes
/// that arrived, never for a size that a chunk claims.
#[derive(Debug)]
pub struct Chunked {
    at: ChunkPlace,
    /// While the size of a chunk is read: its value so far. After that: how many bytes of the chunk
    /// have not arrived.
    left: u64,
    /// Extension bytes so far; at most `EXTENSION_BYTES_MAX`.
    extension_bytes: usize,
    /// Trailer bytes so far; at most `TRAILER_BYTES_MAX`.
    trailer_bytes: usize,
    /// The data so far; at most the `bytes_max` of `decode`.
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
    /// Takes the next piece of input. Returns how many of its bytes belong to the body; `is_whole`
    /// says whether the body ended with them.
    ///
    /// # Errors
    ///
    /// If the body is malformed, or longer than `bytes_max`. The decoder must not be used again.
    pub fn decode(&mut self, input: &[u8], bytes_max: u64) -> Result<usize, BodyFault> {
        let mut taken = 0;
        while taken < input.len() && !self.is_whole() {
            taken += self.decode_chunk(&input[taken..], bytes_max)?;
        }
        Ok(taken)
    }

    /// Like `decode`, but stops after the data of one chunk.
    ///
    /// # Errors
    ///
    /// As `decode`.
    pub fn decode_chunk(&mut self, input: &[u8], bytes_max: u64) -> Result<usize, BodyFault> {
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
                    return Ok(taken);
                }
            } else {
                self.at = self.step(input[taken], bytes_max)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Whether the last chunk and the trailers have arrived.
    pub fn is_whole(&self) -> bool {
        self.at == ChunkPlace::End
    }

    /// Whether the data of the present chunk is incomplete.
    pub fn is_inside_chunk(&self) -> bool {
        self.at == ChunkPlace::Data
    }

    /// The data so far.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Takes the data so far. It no longer counts for `bytes_max`.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// The data so far, without a copy.
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
            (ChunkPlace::Data | ChunkPlace::End, _) => unreachable!("handled by `decode`"),
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
