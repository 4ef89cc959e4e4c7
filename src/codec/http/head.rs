//! The scan for the end of a message head.
//!
//! It runs before httparse and refuses heads that two programs may read differently. For example,
//! httparse takes a bare line feed for the end of a line, and other programs do not. Each byte is
//! scanned once. The trailers of chunked bodies pass the same state machine, [`HeadPlace`].
//!
//! Start reading at [`Scan::head`].

/// Most headers in one head.
pub const HEADERS_MAX: usize = 100;
/// How many bytes of text are looked at at once: as many as a register holds.
const CHUNK: usize = 8;

/// The fault of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// A line feed without a carriage return before it (RFC 9112 section 2.2).
    BareLf,
    /// A carriage return without a line feed after it (RFC 9112 section 2.2).
    BareCr,
    /// A control character in a value or in the first line (RFC 9110 section 5.5).
    Control,
    /// A header that continues on a second line (RFC 9112 section 5.2).
    Folded,
    /// A header name that is not a token, or is followed by a space (RFC 9112 section 5.1).
    Name,
    /// The head is longer than allowed.
    TooLong,
}

/// The place of the next byte in a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadPlace {
    /// Before the first line. Empty lines are skipped there: old clients send one after a body (RFC
    /// 9112 section 2.2).
    #[default]
    Before,
    /// After the CR of an empty line before the first line.
    BeforeLf,
    /// In the request or status line, or in a header's value.
    Text,
    /// After the CR of a line.
    LineLf,
    /// At the start of a header, or of the empty line.
    Start,
    /// In a header's name.
    Name,
    /// After the CR of the empty line.
    EndLf,
    /// After the head.
    End,
}

impl HeadPlace {
    /// The place after this byte.
    ///
    /// # Errors
    ///
    /// If the byte may not stand at this place.
    ///
    /// # Panics
    ///
    /// At `End`.
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
            (HeadPlace::Before | HeadPlace::Text, _) if is_text(byte) => Ok(HeadPlace::Text),
            (HeadPlace::Before | HeadPlace::Text, _) => Err(HeadFault::Control),
            (HeadPlace::End, _) => unreachable!("the head has ended"),
        }
    }

    /// How many of the first bytes leave the place as it is. A head is mostly such bytes, and `step`
    /// takes several times as long for each of them.
    fn run(self, bytes: &[u8]) -> usize {
        match self {
            HeadPlace::Text => run_of_text(bytes),
            HeadPlace::Name => {
                let is_other = |byte: &u8| !IS_TOKEN[usize::from(*byte)];
                bytes.iter().position(is_other).unwrap_or(bytes.len())
            }
            HeadPlace::Before
            | HeadPlace::BeforeLf
            | HeadPlace::LineLf
            | HeadPlace::Start
            | HeadPlace::EndLf
            | HeadPlace::End => 0,
        }
    }
}

/// How many bytes are text, from the front. Looks at several bytes at once as long as all are text.
fn run_of_text(bytes: &[u8]) -> usize {
    let chunks = bytes.chunks_exact(CHUNK);
    let is_whole = |chunk: &&[u8]| chunk.iter().fold(true, |all, byte| all & is_text(*byte));
    let whole = CHUNK * chunks.take_while(is_whole).count();
    let rest = bytes[whole..].iter().position(|byte| !is_text(*byte));
    rest.map_or(bytes.len(), |rest| whole + rest)
}

/// Whether a byte may stand in the first line or in a header's value (RFC 9110 section 5.5).
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// `is_token` of each byte.
static IS_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_token(byte as u8);
        byte += 1;
    }
    table
};

/// Whether a byte may stand in a method or a header's name (RFC 9110 section 5.6.2).
const fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.'
            | b'^'..=b'`' | b'|' | b'~'
    )
}

/// Whether a header has this name. Most have a name of another length: comparing that first calls no
/// function.
pub fn is_named(header: &httparse::Header, name: &str) -> bool {
    header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name)
}

/// The scan of an input for a whole head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    place: HeadPlace,
    /// How many bytes of the input were scanned; only rises.
    at: usize,
    /// Where the first line starts: after the empty lines before it, which do not count to the
    /// length of the head. At most `at`.
    first: usize,
}

impl Scan {
    /// The range of the head in `input`, the empty line included; `None` if it is not whole yet.
    /// `input` is all input so far, at each call.
    ///
    /// # Errors
    ///
    /// If the head is longer than `bytes_max` or malformed.
    pub fn head(
        &mut self,
        input: &[u8],
        bytes_max: usize,
    ) -> Result<Option<std::ops::Range<usize>>, HeadFault> {
        loop {
            let rest = &input[self.at..input.len().min(self.first + bytes_max)];
            let run = self.place.run(rest);
            self.at += run;
            let Some(byte) = rest.get(run) else {
                break;
            };
            self.place = self.place.step(*byte)?;
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
        if self.at - self.first >= bytes_max {
            return Err(HeadFault::TooLong);
        }
        Ok(None)
    }

    /// Forgets the empty lines before the first line, and returns their length. The caller drops
    /// them from the front of the input.
    #[must_use]
    pub fn take_empty_lines(&mut self) -> usize {
        let taken = std::mem::take(&mut self.first);
        self.at -= taken;
        taken
    }

    /// Whether a byte has arrived that `take_empty_lines` has not taken.
    pub fn has_begun(&self) -> bool {
        self.at > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_ends_the_text_at_each_place() {
        for at in 0..5 * CHUNK {
            let mut bytes = [b'v'; 5 * CHUNK];
            assert_eq!(run_of_text(&bytes[..at]), at);
            bytes[at] = 1;
            assert_eq!(run_of_text(&bytes), at);
        }
    }
}
