//! Message heads: the scan that finds a head's end and refuses what no head may hold, before any
//! parser sees it.
//!
//! httparse takes a bare line feed for the end of a line, and so do some programs but not others;
//! whatever is read in two ways is refused here: bare CR and LF, control characters, folded lines,
//! a name that is not a token or that a space follows. The scan goes byte by byte and remembers
//! where it is, so no byte is looked at twice. Trailers of chunked bodies go through the same
//! machine.

/// Headers in one head.
pub const HEADERS_MAX: usize = 100;

/// What no head may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    BareLf,
    BareCr,
    Control,
    Folded,
    Name,
    TooLong,
}

/// Where in a head the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadPlace {
    /// Before the first line; empty lines may come, since clients of old send one after a body.
    #[default]
    Before,
    BeforeLf,
    /// In the request or status line, or in a header's value.
    Text,
    LineLf,
    /// At the start of a header.
    Start,
    /// In a header's name.
    Name,
    /// After the CR of the empty line.
    EndLf,
    End,
}

impl HeadPlace {
    /// One byte further.
    pub fn step(self, byte: u8) -> Result<HeadPlace, HeadFault> {
        match (self, byte) {
            (HeadPlace::BeforeLf, b'\n') => Ok(HeadPlace::Before),
            (HeadPlace::LineLf, b'\n') => Ok(HeadPlace::Start),
            (HeadPlace::EndLf, b'\n') => Ok(HeadPlace::End),
            (HeadPlace::BeforeLf | HeadPlace::LineLf | HeadPlace::EndLf, _) => {
                Err(HeadFault::BareCr)
            }
            (_, b'\n') => Err(HeadFault::BareLf),
            (HeadPlace::Before, b'\r') => Ok(HeadPlace::BeforeLf),
            (HeadPlace::Text, b'\r') => Ok(HeadPlace::LineLf),
            (HeadPlace::Start, b'\r') => Ok(HeadPlace::EndLf),
            (HeadPlace::Start, b' ' | b'\t') => Err(HeadFault::Folded),
            (HeadPlace::Name, b':') => Ok(HeadPlace::Text),
            (HeadPlace::Start | HeadPlace::Name, _) if is_token(byte) => Ok(HeadPlace::Name),
            (HeadPlace::Start | HeadPlace::Name, _) => Err(HeadFault::Name),
            (HeadPlace::Before | HeadPlace::Text, b'\t' | b' '..=b'~' | 0x80..) => {
                Ok(HeadPlace::Text)
            }
            (HeadPlace::Before | HeadPlace::Text, _) => Err(HeadFault::Control),
            (HeadPlace::End, _) => unreachable!("nobody steps on behind the end"),
        }
    }
}

/// Whether a byte may stand in a method or a header's name (RFC 9110, 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A scan of the input for a whole head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    place: HeadPlace,
    /// How far the input has been looked at.
    at: usize,
    /// Where the first line starts.
    first: usize,
}

impl Scan {
    /// The range of the head, with its empty line; `None`: not whole yet. The input is all of it
    /// each time.
    pub fn head(
        &mut self,
        input: &[u8],
        bytes_max: usize,
    ) -> Result<Option<std::ops::Range<usize>>, HeadFault> {
        while self.at < input.len().min(bytes_max) {
            self.place = self.place.step(input[self.at])?;
            self.at += 1;
            match self.place {
                HeadPlace::Before => self.first = self.at,
                HeadPlace::End => return Ok(Some(self.first..self.at)),
                HeadPlace::BeforeLf
                | HeadPlace::Text
                | HeadPlace::LineLf
                | HeadPlace::Start
                | HeadPlace::Name
                | HeadPlace::EndLf => {}
            }
        }
        if self.at >= bytes_max {
            return Err(HeadFault::TooLong);
        }
        Ok(None)
    }

    /// Whether a byte has come.
    pub fn has_begun(&self) -> bool {
        self.at > 0
    }
}
