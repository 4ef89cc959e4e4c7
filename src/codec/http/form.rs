//! The parameters of a request, from its query and its form body, and the limits of a key.
//!
//! A malformed escape is an error, never a character. `;` is an ordinary character. The first of
//! several values counts. Percent encoding itself is in `core::escape`.
//!
//! Start reading at [`Form::parse`].
use crate::core::escape::{self, BadEscape};
use std::borrow::Cow;

/// Most parameters of one request, so that a body of ampersands costs little memory.
pub const PARAMETERS_MAX: usize = 1_000;
/// Most bytes by which decoding may lengthen all parameters together. Each byte that is not UTF-8
/// becomes three. The bound keeps the record of a request in the log about as short as the request.
pub const GROWTH_BYTES_MAX: usize = 4 * 1024;
/// Longest decoded key in bytes. A longer one is refused with 414.
pub const KEY_BYTES_MAX: usize = 8 * 1024;
/// Most segments of a key. One with more is refused with 414.
pub const KEY_SEGMENTS_MAX: usize = 1_024;

/// The fault of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// A `%` without two hex digits.
    BadEscape,
    /// More than `PARAMETERS_MAX` parameters.
    TooMany,
    /// Decoding lengthens the parameters by more than `GROWTH_BYTES_MAX`: they are not UTF-8.
    /// Answered with 413.
    TooLarge,
}

impl From<BadEscape> for FormError {
    fn from(_: BadEscape) -> FormError {
        FormError::BadEscape
    }
}

/// A parameter's name and value, decoded.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// How many parameters are stored without an allocation. Few requests have more.
const FEW: usize = 4;

/// The parameters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form<'a> {
    /// The first parameters, decoded: those of the body before those of the query. Stored inline,
    /// so that a request with few parameters needs no allocation for them.
    few: [Option<Pair<'a>>; FEW],
    /// The parameters after `few`.
    more: Vec<Pair<'a>>,
    /// Bytes that decoding has added; at most `GROWTH_BYTES_MAX`.
    growth: usize,
}

impl<'a> Form<'a> {
    /// Decodes query and body (`b""` if it is not a form). The parameters of the body come first.
    ///
    /// # Errors
    ///
    /// If an escape is malformed or a bound is exceeded.
    pub fn parse(query: &'a str, body: &'a [u8]) -> Result<Form<'a>, FormError> {
        let mut form = Form::default();
        form.add(body)?;
        form.add(query.as_bytes())?;
        Ok(form)
    }

    /// The first value of a parameter. A parameter without `=` has an empty value.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.few.iter().flatten().chain(&self.more);
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    fn add(&mut self, text: &'a [u8]) -> Result<(), FormError> {
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (pair, after) = cut(text, b'&');
            rest = after;
            if pair.is_empty() {
                continue;
            }
            if FEW + self.more.len() == PARAMETERS_MAX {
                return Err(FormError::TooMany);
            }
            let (key, value) = cut(pair, b'=');
            let decoded = (self.decode(key)?, self.decode(value.unwrap_or_default())?);
            match self.few.iter_mut().find(|pair| pair.is_none()) {
                Some(free) => *free = Some(decoded),
                None => self.more.push(decoded),
            }
        }
        Ok(())
    }

    fn decode(&mut self, text: &'a [u8]) -> Result<Cow<'a, str>, FormError> {
        let decoded = escape::decode(text, true)?;
        self.growth += decoded.len().saturating_sub(text.len());
        if self.growth > GROWTH_BYTES_MAX {
            return Err(FormError::TooLarge);
        }
        Ok(decoded)
    }
}

/// The text before the first such byte, and the text after it; `None` if there is no such byte.
fn cut(text: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match escape::find_byte(text, byte) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Whether a decoded key is within the limits.
pub fn key_fits(key: &str) -> bool {
    let segments = key.as_bytes().split(|byte| *byte == b'/');
    let segments = segments.filter(|segment| !segment.is_empty());
    key.len() <= KEY_BYTES_MAX && segments.take(KEY_SEGMENTS_MAX + 1).count() <= KEY_SEGMENTS_MAX
}
