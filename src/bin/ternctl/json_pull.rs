//! Reads JSON piece by piece, in order. Unlike serde_json it has no bound for nesting: a key space
//! may be 1,024 directories deep, and nothing here recurses.
//!
//! The caller names the form that it expects next; any other text is a [`BadJson`]. Start with
//! [`JsonPull::begin_object`].

/// The text is no JSON, or not of the expected form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadJson {
    /// The byte at which reading stopped.
    at: usize,
    expected: &'static str,
}

impl BadJson {
    /// The fault for a user: the position, and the form that was expected there.
    pub fn text(&self) -> String {
        format!("byte {}: expected {}", self.at, self.expected)
    }
}

/// A position in a JSON text.
pub struct JsonPull<'a> {
    text: &'a [u8],
    /// The next byte to read.
    at: usize,
    /// For each open object and array, the innermost last: whether it has an element.
    open: Vec<bool>,
}

impl<'a> JsonPull<'a> {
    /// The start of a text.
    pub fn new(text: &'a [u8]) -> JsonPull<'a> {
        JsonPull {
            text,
            at: 0,
            open: Vec::new(),
        }
    }

    /// The fault that something is missing here.
    pub fn missing(&self, expected: &'static str) -> BadJson {
        self.bad(expected)
    }

    fn bad(&self, expected: &'static str) -> BadJson {
        BadJson {
            at: self.at,
            expected,
        }
    }

    /// The next byte that is no space, without taking it.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        let spaces = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.at += spaces;
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), BadJson> {
        if self.peek() != Some(byte) {
            return Err(self.bad(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Enters an object.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn begin_object(&mut self) -> Result<(), BadJson> {
        self.take(b'{', "an object")?;
        self.open.push(false);
        Ok(())
    }

    /// Enters an array.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn begin_array(&mut self) -> Result<(), BadJson> {
        self.take(b'[', "an array")?;
        self.open.push(false);
        Ok(())
    }

    /// The name of the next member of the innermost object; `None` at its end, which is left then.
    ///
    /// # Errors
    ///
    /// Neither follows.
    pub fn next_name(&mut self) -> Result<Option<String>, BadJson> {
        if !self.next_element(b'}', "a comma or the end of the object")? {
            return Ok(None);
        }
        let name = self.string()?;
        self.take(b':', "a colon")?;
        Ok(Some(name))
    }

    /// Whether the innermost array has a further item; at its end it is left.
    ///
    /// # Errors
    ///
    /// Neither follows.
    pub fn next_item(&mut self) -> Result<bool, BadJson> {
        self.next_element(b']', "a comma or the end of the array")
    }

    fn next_element(&mut self, end: u8, expected: &'static str) -> Result<bool, BadJson> {
        if self.peek() == Some(end) {
            self.at += 1;
            self.open.pop();
            return Ok(false);
        }
        let has_elements = self.open.last_mut().ok_or(BadJson {
            at: self.at,
            expected,
        })?;
        if std::mem::replace(has_elements, true) {
            self.take(b',', expected)?;
        }
        Ok(true)
    }

    /// A string.
    ///
    /// # Errors
    ///
    /// There is none, or it has a bad escape.
    pub fn string(&mut self) -> Result<String, BadJson> {
        let slice = self.string_slice()?;
        serde_json::from_slice(slice).map_err(|_| self.bad("a string of UTF-8 before"))
    }

    /// The bytes of a string with its quotes.
    fn string_slice(&mut self) -> Result<&'a [u8], BadJson> {
        if self.peek() != Some(b'"') {
            return Err(self.bad("a string"));
        }
        let start = self.at;
        let mut at = start + 1;
        loop {
            match self.text.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(self.bad("the end of the string")),
            }
        }
        self.at = at + 1;
        Ok(&self.text[start..self.at])
    }

    /// A number without a fraction.
    ///
    /// # Errors
    ///
    /// There is none, or it does not fit.
    pub fn integer(&mut self) -> Result<i64, BadJson> {
        let text = self.scalar();
        let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
        number.ok_or_else(|| self.bad("a whole number before"))
    }

    /// An index: a number that is not negative.
    ///
    /// # Errors
    ///
    /// There is none, or it does not fit.
    pub fn index(&mut self) -> Result<u64, BadJson> {
        let number = self.integer()?;
        u64::try_from(number).map_err(|_| self.bad("a number of at least 0 before"))
    }

    /// Takes `null`, if it is next. Returns whether it was.
    pub fn take_null(&mut self) -> bool {
        let is_null = self.peek() == Some(b'n') && self.text[self.at..].starts_with(b"null");
        if is_null {
            self.at += b"null".len();
        }
        is_null
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    ///
    /// Neither follows.
    pub fn boolean(&mut self) -> Result<bool, BadJson> {
        match self.scalar() {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(self.bad("true or false before")),
        }
    }

    /// The bytes of a number or a word.
    fn scalar(&mut self) -> &'a [u8] {
        self.peek();
        let rest = &self.text[self.at..];
        let is_part = |b: &&u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
        let length = rest.iter().take_while(is_part).count();
        self.at += length;
        &rest[..length]
    }

    /// Takes a value of any kind, with all that is in it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn skip(&mut self) -> Result<(), BadJson> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'{' | b'[') => {
                    self.at += 1;
                    depth += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    self.at += 1;
                    depth -= 1;
                }
                Some(b'"') => _ = self.string_slice()?,
                Some(b',' | b':') if depth > 0 => self.at += 1,
                Some(_) if !self.scalar().is_empty() => {}
                Some(_) | None => return Err(self.bad("a value")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Checks that nothing but spaces follows.
    ///
    /// # Errors
    ///
    /// Something follows.
    pub fn end(&mut self) -> Result<(), BadJson> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.bad("the end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_order() {
        let text = br#" {"a": [1, -2], "b\n\u00e9": "x\"\\", "skip": {"y":[{}, "}"]}, "n": null} "#;
        let mut pull = JsonPull::new(text);
        pull.begin_object().expect("an object");
        assert_eq!(pull.next_name(), Ok(Some("a".into())));
        pull.begin_array().expect("an array");
        assert_eq!(pull.next_item(), Ok(true));
        assert_eq!(pull.index(), Ok(1));
        assert_eq!(pull.next_item(), Ok(true));
        assert_eq!(pull.integer(), Ok(-2));
        assert_eq!(pull.next_item(), Ok(false));
        assert_eq!(pull.next_name(), Ok(Some("b\n\u{e9}".into())));
        assert_eq!(pull.string(), Ok("x\"\\".into()));
        assert_eq!(pull.next_name(), Ok(Some("skip".into())));
        pull.skip().expect("a value");
        assert_eq!(pull.next_name(), Ok(Some("n".into())));
        assert!(pull.take_null());
        assert_eq!(pull.next_name(), Ok(None));
        pull.end().expect("nothing follows");
    }

    #[test]
    fn every_cut_text_is_an_error_and_none_panics() {
        let text = br#"{"a":[1,{"b":"c\u0041"}],"d":null}"#;
        for length in 0..text.len() {
            let mut pull = JsonPull::new(&text[..length]);
            assert!(pull.skip().is_err(), "{length}");
        }
        JsonPull::new(text).skip().expect("the whole text");
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        JsonPull::new(deep.as_bytes()).skip().expect("a deep text");
    }
}
