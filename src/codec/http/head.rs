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
pub enum Fault {
    BareLf,
    BareCr,
    Control,
    Folded,
    Name,
    TooLong,
}

/// Where in a head the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
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

impl Place {
    /// One byte further.
    pub fn step(self, byte: u8) -> Result<Place, Fault> {
        match (self, byte) {
            (Place::BeforeLf, b'\n') => Ok(Place::Before),
            (Place::LineLf, b'\n') => Ok(Place::Start),
            (Place::EndLf, b'\n') => Ok(Place::End),
            (Place::BeforeLf | Place::LineLf | Place::EndLf, _) => Err(Fault::BareCr),
            (_, b'\n') => Err(Fault::BareLf),
            (Place::Before, b'\r') => Ok(Place::BeforeLf),
            (Place::Text, b'\r') => Ok(Place::LineLf),
            (Place::Start, b'\r') => Ok(Place::EndLf),
            (Place::Start, b' ' | b'\t') => Err(Fault::Folded),
            (Place::Name, b':') => Ok(Place::Text),
            (Place::Start | Place::Name, _) if is_token(byte) => Ok(Place::Name),
            (Place::Start | Place::Name, _) => Err(Fault::Name),
            (Place::Before | Place::Text, b'\t' | b' '..=b'~' | 0x80..) => Ok(Place::Text),
            (Place::Before | Place::Text, _) => Err(Fault::Control),
            (Place::End, _) => unreachable!("nobody steps on behind the end"),
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
    place: Place,
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
    ) -> Result<Option<std::ops::Range<usize>>, Fault> {
        while self.at < input.len().min(bytes_max) {
            self.place = self.place.step(input[self.at])?;
            self.at += 1;
            match self.place {
                Place::Before => self.first = self.at,
                Place::End => return Ok(Some(self.first..self.at)),
                Place::BeforeLf
                | Place::Text
                | Place::LineLf
                | Place::Start
                | Place::Name
                | Place::EndLf => {}
            }
        }
        if self.at >= bytes_max {
            return Err(Fault::TooLong);
        }
        Ok(None)
    }

    /// Whether a byte has come.
    pub fn has_begun(&self) -> bool {
        self.at > 0
    }
}
