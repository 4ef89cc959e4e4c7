//! Percent encoding (RFC 3986 section 2.1), for HTTP and for the key space's view of the cluster.
//!
//! A malformed escape is an error, never a character. Each byte that is not UTF-8 becomes U+FFFD.
use std::borrow::Cow;

/// How many bytes are looked at without a branch between them.
const BLOCK_BYTES: usize = 64;

/// A `%` without two hexadecimal digits after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEscape;

/// Decodes `%XX`. With `plus_is_space` a `+` becomes a space, as in forms and queries; in a path it
/// is an ordinary character. Text without escapes is borrowed.
///
/// # Errors
///
/// If an escape is malformed.
pub fn decode(text: &[u8], plus_is_space: bool) -> Result<Cow<'_, str>, BadEscape> {
    let is_special = |byte| (byte == b'%') | (plus_is_space & (byte == b'+'));
    if !any_byte(text, is_special) {
        return Ok(to_text(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return Err(BadEscape);
                };
                bytes.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            b'+' if plus_is_space => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(bad) => Cow::Owned(to_text(bad.as_bytes()).into_owned()),
    })
}

/// Whether one of the bytes is such a byte. It looks at whole blocks without a branch for each byte,
/// so that the compiler can use vector instructions.
pub fn any_byte(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    let mut blocks = bytes.chunks(BLOCK_BYTES);
    blocks.any(|block| {
        block
            .iter()
            .fold(false, |found, byte| found | is_such(*byte))
    })
}

/// The place of the first such byte. It looks at whole blocks as `any_byte` does.
pub fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut start = 0;
    for block in bytes.chunks(BLOCK_BYTES) {
        if any_byte(block, |byte| byte == wanted) {
            let place = block.iter().position(|byte| *byte == wanted)?;
            return Some(start + place);
        }
        start += block.len();
    }
    None
}

fn hex(digit: u8) -> Result<u8, BadEscape> {
    let value = (digit as char).to_digit(16).ok_or(BadEscape)?;
    Ok(value as u8)
}

/// Each byte that is not part of a character becomes one U+FFFD, as in etcd 0.4. The standard library
/// would replace several bytes by one.
fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        text.push_str(part.valid());
        text.extend(part.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

/// Escapes a value for a form or a query. Letters, digits and `-_.~` stay, a space becomes `+`, and
/// every other byte `%XX`.
pub fn query(text: &str) -> String {
    escape(text, |byte| b"-_.~".contains(&byte), true)
}

/// Escapes the bytes of a query that a URL cannot hold; those of clients are not always escaped.
pub fn sent_query(text: &str) -> String {
    escape(text, |byte| byte.is_ascii_graphic() && byte != b'#', false)
}

/// Escapes a decoded path for a header or a request line. `/` stays.
pub fn path(text: &str) -> String {
    escape(text, |byte| b"-_.~$&+,/:;=@!*'()".contains(&byte), false)
}

fn escape(text: &str, stays: fn(u8) -> bool, plus_for_space: bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || stays(byte) {
            out.push(byte as char);
        } else if plus_for_space && byte == b' ' {
            out.push('+');
        } else {
            out.push('%');
            out.push(DIGITS[usize::from(byte >> 4)] as char);
            out.push(DIGITS[usize::from(byte & 15)] as char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_at_each_place() {
        for place in 0..3 * BLOCK_BYTES {
            let mut bytes = [b'v'; 3 * BLOCK_BYTES];
            assert_eq!(find_byte(&bytes[..place], b'&'), None);
            bytes[place] = b'&';
            *bytes.last_mut().expect("not empty") = b'&';
            assert_eq!(find_byte(&bytes, b'&'), Some(place));
        }
    }
}
