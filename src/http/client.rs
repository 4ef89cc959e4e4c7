//! The other side: requests that tern sends and the responses to them.
use super::request::Reject;

/// A request that tern sends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// `GET`, `PUT` …
    pub method: &'a str,
    /// `host:port`.
    pub host: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    /// Not sent when empty.
    pub content_type: &'a str,
    pub body: &'a [u8],
}

/// A whole response to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallResponse {
    pub status: u16,
    /// Header `Location`.
    pub location: Option<String>,
    /// Header `Server`.
    pub server: Option<String>,
    pub body: Vec<u8>,
}

/// The state of one call's response.
#[derive(Debug, Default)]
pub struct ResponseParser {
    head: Vec<u8>,
}

impl ResponseParser {
    /// Takes all that has come so far since the call was sent; `end`: the other side has closed. `None`: not whole yet.
    pub fn parse(&mut self, input: &[u8], end: bool) -> Result<Option<CallResponse>, Reject> {
        let _ = (input, end, &self.head);
        unimplemented!("lands next")
    }
}
