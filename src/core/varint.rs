//! Numbers and strings as bytes, for commands, messages and snapshots.
//!
//! A number is a varint of 1 to 10 bytes with seven bits each, the lowest first (LEB128). A string
//! is its length and its UTF-8. Bytes that are read may come from a damaged disk or a hostile peer:
//! each length is compared with the bytes that are left before anything is allocated.

/// The bytes are not what a `put_…` function appends.
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

/// How many bytes `put_number` appends; 1 to 10.
pub fn number_bytes(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Appends a string.
pub fn put_str(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a string that may be absent: 0, or its length plus one and then its UTF-8.
pub fn put_optional(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        None => out.push(0),
        Some(text) => {
            put_number(text.len() as u64 + 1, out);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Appends a time that may be absent: a flag, then 8 bytes in little endian. As a varint, a time in
/// nanoseconds would take 9.
pub fn put_time(time: Option<u64>, out: &mut Vec<u8>) {
    out.push(u8::from(time.is_some()));
    if let Some(time) = time {
        out.extend_from_slice(&time.to_le_bytes());
    }
}

/// Reads fields from the front of a slice.
///
/// Each method returns `Malformed` if the bytes that are left do not begin with such a field.
pub struct Unpack<'a> {
    rest: &'a [u8],
}

impl<'a> Unpack<'a> {
    /// Nothing of `bytes` is read yet.
    pub fn new(bytes: &'a [u8]) -> Unpack<'a> {
        Unpack { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next byte, which stays; `None` at the end.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number, in its shortest form only: each value has one encoding, so that equal states have
    /// equal bytes.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let is_too_large = shift == 63 && bits > 1;
            let is_longer_than_needed = shift > 0 && byte == 0;
            if is_too_large || is_longer_than_needed {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// What `put_str` appends.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        let length = self.number()?;
        self.text(length)
    }

    /// What `put_optional` appends.
    pub fn optional(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.number()? {
            0 => Ok(None),
            more => self.text(more - 1).map(Some),
        }
    }

    /// What `put_time` appends.
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
    fn numbers_have_one_encoding() {
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
        let longer_than_needed: [&[u8]; 3] = [&[0x80, 0], &[0xff; 10], &[0x81, 0x80, 0]];
        for bytes in longer_than_needed {
            assert_eq!(Unpack::new(bytes).number(), Err(Malformed));
        }
    }

    #[test]
    fn lengths_are_compared_with_what_is_left() {
        let mut bytes = Vec::new();
        put_number(u64::MAX, &mut bytes);
        bytes.extend_from_slice(b"abc");
        assert_eq!(Unpack::new(&bytes).str(), Err(Malformed));
        assert_eq!(Unpack::new(&bytes).optional(), Err(Malformed));
        assert_eq!(Unpack::new(&[2, 0xff, 0xfe]).str(), Err(Malformed));
    }
}
