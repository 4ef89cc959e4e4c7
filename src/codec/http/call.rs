//! An HTTP call that tern makes to another machine, and its outcome, as plain data. `client`
//! encodes the request and parses the response. The shell resolves the host, connects and follows
//! redirects.
use super::Method;
use super::client;
use super::url::Url;

/// A request to another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// GET, PUT, POST or DELETE.
    pub method: Method,
    /// `http://host:port/path?query`, escaped.
    pub url: Box<str>,
    /// Header `Content-Type`; empty: the header is not sent.
    pub content_type: &'static str,
    /// One more header, with its value.
    pub header: Option<(&'static str, Box<str>)>,
    /// Empty: no body is sent.
    pub body: Box<[u8]>,
    /// The longest time that the whole call may take, redirects included, in milliseconds.
    pub timeout_ms: u64,
}

impl HttpCall {
    /// A request without a body.
    pub fn get(url: String, timeout_ms: u64) -> HttpCall {
        HttpCall {
            method: Method::Get,
            url: url.into(),
            content_type: "",
            header: None,
            body: Box::default(),
            timeout_ms,
        }
    }

    /// A PUT with a body.
    pub fn put(url: String, content_type: &'static str, body: String, timeout_ms: u64) -> HttpCall {
        HttpCall {
            method: Method::Put,
            url: url.into(),
            content_type,
            header: None,
            body: body.into_bytes().into(),
            timeout_ms,
        }
    }

    /// The request as bytes, for the machine at `url`: the call's own URL, or where a redirect
    /// leads, which keeps method and body.
    ///
    /// # Panics
    ///
    /// If the method is not one that tern sends.
    pub fn encode(&self, url: &Url) -> Vec<u8> {
        let request = client::CallRequest {
            method: method_name(self.method),
            host: url.authority,
            target: &url.path(),
            content_type: self.content_type,
            header: self.header.as_ref().map(|(name, value)| (*name, &**value)),
            body: &self.body,
        };
        request.encode()
    }
}

/// The outcome of an [`HttpCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpReply {
    /// A whole response that is not a redirect.
    Answered {
        /// The status, 200 to 599.
        status: u16,
        /// Header `Server`; empty without one.
        server: Box<str>,
        /// The body, without its framing.
        body: Box<[u8]>,
    },
    /// The host was not reached, no response came in time, or the response was not HTTP.
    Failed {
        /// The URL and the reason.
        why: Box<str>,
    },
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Put => "PUT",
        Method::Post => "POST",
        Method::Delete => "DELETE",
        Method::Head | Method::Options | Method::Other => {
            unreachable!("tern sends no request with this method")
        }
    }
}
