//! Numbers and strings to bytes and back, for the log's commands and for snapshots.
//!
//! A number is a varint of 1 to 10 bytes, seven bits each, the lowest first; a string is its length
//! and its UTF-8. What is read was written by someone else: nothing is allocated before its length
//! has been held against what is there.

/// Bytes that do not say what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends a number.
pub fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The bytes that `put_number` appends.
pub fn number_bytes(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Appends a string.
pub fn put_str(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a string that may be missing: nothing is 0, a string one more than its length, then its
/// bytes.
pub fn put_optional(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        None => out.push(0),
        Some(text) => {
            put_number(text.len() as u64 + 1, out);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Appends a time that may be missing: a byte that says so, then eight of it (as a varint it would
/// mostly take nine).
pub fn put_time(time: Option<u64>, out: &mut Vec<u8>) {
    out.push(u8::from(time.is_some()));
    if let Some(time) = time {
        out.extend_from_slice(&time.to_le_bytes());
    }
}

/// Reads from the front of some bytes.
pub struct Unpack<'a> {
    rest: &'a [u8],
}

impl<'a> Unpack<'a> {
    pub fn new(bytes: &'a [u8]) -> Unpack<'a> {
        Unpack { rest: bytes }
    }

    /// How many bytes have not been read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number in its shortest form: every value has one encoding only, so that equal states have
    /// equal bytes.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        let length = self.number()?;
        self.text(length)
    }

    pub fn optional(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            more => self.text(more - 1).map(Some),
        }
    }

    pub fn time(&mut self) -> Result<Option<u64>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => {
                let bytes = self.bytes(8)?.try_into().expect("eight were taken");
                Ok(Some(u64::from_le_bytes(bytes)))
            }
            _ => Err(Malformed),
        }
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn text(&mut self, length: u64) -> Result<&'a str, Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_form() {
        for number in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(number, &mut bytes);
            assert!(bytes.len() <= 10);
            let mut unpack = Unpack::new(&bytes);
            assert_eq!(unpack.number(), Ok(number));
            assert_eq!(unpack.left(), 0);
            bytes.pop();
            assert_eq!(Unpack::new(&bytes).number(), Err(Malformed));
        }
        let longer_than_need_be: [&[u8]; 3] = [&[0x80, 0], &[0xff; 10], &[0x81, 0x80, 0]];
        for bytes in longer_than_need_be {
            assert_eq!(Unpack::new(bytes).number(), Err(Malformed));
        }
    }

    #[test]
    fn a_length_is_held_against_what_is_there() {
        let mut bytes = Vec::new();
        put_number(u64::MAX, &mut bytes);
        bytes.extend_from_slice(b"abc");
        assert_eq!(Unpack::new(&bytes).str(), Err(Malformed));
        assert_eq!(Unpack::new(&bytes).optional(), Err(Malformed));
        assert_eq!(Unpack::new(&[2, 0xff, 0xfe]).str(), Err(Malformed));
    }
}
