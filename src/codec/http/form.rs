//! The parameters of a request, from its query and its form body, and the limits of a key.
//!
//! Strict: a bad escape is an error, never a character; `;` is an ordinary character; the first of
//! several values wins. Start with `Form::parse`; percent encoding itself is in `crate::core::escape`.
use crate::core::escape::{self, BadEscape};
use std::borrow::Cow;

/// Parameters in one request; more is an error, so that a body of ampersands costs no memory.
pub const PARAMETERS_MAX: usize = 1_000;
/// How much longer than they were sent parameters may become by decoding, in bytes: what is not
/// text grows. It keeps what a request can put into the log within the request's own limit and a
/// little.
pub const GROWTH_BYTES_MAX: usize = 4 * 1024;
/// A key's decoded length in bytes; beyond it 414.
pub const KEY_BYTES_MAX: usize = 8 * 1024;
/// A key's segments; beyond it 414.
pub const KEY_SEGMENTS_MAX: usize = 1_024;

/// Why parameters cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// A `%` without two hex digits.
    BadEscape,
    /// More than `PARAMETERS_MAX` parameters.
    TooMany,
    /// Decoded they are longer than sent by more than `GROWTH_BYTES_MAX`: they are not text.
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

/// Hardly a request has more parameters.
const FEW: usize = 4;

/// The parameters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form<'a> {
    /// The first parameters, in their order, so that few of them take no memory of their own.
    few: [Option<Pair<'a>>; FEW],
    /// The parameters after those.
    more: Vec<Pair<'a>>,
    growth: usize,
}

impl<'a> Form<'a> {
    /// Decodes query and body (`b""` when it is not a form); the body's parameters come first, so
    /// they win.
    pub fn parse(query: &'a str, body: &'a [u8]) -> Result<Form<'a>, FormError> {
        let mut form = Form::default();
        form.add(body)?;
        form.add(query.as_bytes())?;
        Ok(form)
    }

    /// The first value of a parameter; a parameter without `=` has an empty one.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.few.iter().flatten().chain(&self.more);
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    fn add(&mut self, text: &'a [u8]) -> Result<(), FormError> {
        for pair in text.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            if FEW + self.more.len() == PARAMETERS_MAX {
                return Err(FormError::TooMany);
            }
            let equals = pair.iter().position(|b| *b == b'=');
            let (key, value) = match equals {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[pair.len()..]),
            };
            let decoded = (self.decode(key)?, self.decode(value)?);
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
        match self.growth {
            0..=GROWTH_BYTES_MAX => Ok(decoded),
            _ => Err(FormError::TooLarge),
        }
    }
}

/// Whether a decoded key keeps to the limits; one that does not is answered with 414.
pub fn key_fits(key: &str) -> bool {
    let segments = key.split('/').filter(|s| !s.is_empty());
    key.len() <= KEY_BYTES_MAX && segments.take(KEY_SEGMENTS_MAX + 1).count() <= KEY_SEGMENTS_MAX
}
