//! The common parts of requests and responses: method, protocol version, and the choices of a
//! request about the framing of its response.

/// A request's method (RFC 9110 section 9). tern has no route for `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Any other token.
    Other,
}

impl Method {
    /// The method's name; empty for `Other`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other => "",
        }
    }

    /// Methods are case-sensitive (RFC 9110 section 9.1): `get` is `Other`.
    pub fn parse(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        }
    }
}

/// The protocol version of a message (RFC 9112 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// The choices of a request about the framing of its response. The connection keeps it while the
/// request is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMode {
    /// The request's version. HTTP/1.0 knows no chunks.
    pub version: Version,
    /// Whether the client lets the connection stay open after the response (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// The request was a HEAD: the response has the head of a GET and no body (RFC 9110 section
    /// 9.3.2).
    pub head_only: bool,
}

impl ResponseMode {
    /// For the response to input that is not a request: the connection closes after it.
    pub const CLOSE: ResponseMode = ResponseMode {
        version: Version::Http11,
        keep_alive: false,
        head_only: false,
    };
}
