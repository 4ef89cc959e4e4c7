//! All refusals of malformed requests, with status and text.
//!
//! Where 0.4 has a text, it is kept (`400 Bad Request`, the missing Host).
use super::body::BodyFault;
use super::head::HeadFault;

/// The refusal of a request. The connection closes after it, because the next bytes need not be the
/// start of a request (RFC 9112 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status, 4xx or 5xx.
    pub status: u16,
    /// The body of the response.
    pub text: &'static str,
}

impl Reject {
    /// The head did not arrive in time.
    pub const HEAD_TIMEOUT: Reject = Reject {
        status: 408,
        text: "408 Request Timeout: the head did not arrive in time",
    };
    /// The preface of HTTP/2 (RFC 9113 section 3.4): clients of etcd's v3 interface send it.
    pub const HTTP_2: Reject = Reject {
        status: 505,
        text: "505 HTTP Version Not Supported: tern speaks HTTP/1.1 and the v2 interface of etcd, \
               not v3; set ETCDCTL_API=2",
    };
    /// The body did not arrive in time, or too slowly.
    pub const BODY_TIMEOUT: Reject = Reject {
        status: 408,
        text: "408 Request Timeout: the body did not arrive in time",
    };
    /// Other requests need the memory that the unfinished body takes.
    pub const NO_ROOM: Reject = Reject {
        status: 503,
        text: "503 Service Unavailable: too many unfinished requests, and this one has waited long",
    };
}

macro_rules! rejects {
    ($($name:ident = $status:literal $text:literal;)*) => {
        $(pub(super) const $name: Reject = Reject { status: $status, text: concat!($status, " ", $text) };)*
    };
}

rejects! {
    BAD_REQUEST = 400 "Bad Request";
    NO_HOST = 400 "Bad Request: missing required Host header";
    TWO_HOSTS = 400 "Bad Request: more than one Host header";
    BAD_HOST = 400 "Bad Request: malformed Host header";
    CHUNKED_IN_1_0 = 400 "Bad Request: Transfer-Encoding in HTTP/1.0";
    BARE_LF = 400 "Bad Request: bare line feed";
    BARE_CR = 400 "Bad Request: bare carriage return";
    CONTROL = 400 "Bad Request: control character";
    FOLDED = 400 "Bad Request: folded header";
    NAME = 400 "Bad Request: malformed header name";
    CONTENT_LENGTH = 400 "Bad Request: malformed Content-Length";
    BOTH_LENGTHS = 400 "Bad Request: both Content-Length and Transfer-Encoding";
    TRANSFER_ENCODING = 400 "Bad Request: malformed Transfer-Encoding";
    CHUNK_SIZE = 400 "Bad Request: malformed chunk size";
    CHUNK_END = 400 "Bad Request: chunk does not end where its size says";
    EXTENSIONS = 400 "Bad Request: malformed or too many chunk extensions";
    TRAILER = 400 "Bad Request: malformed trailer";
    TOO_LARGE = 413 "Request Entity Too Large: -max-request-bytes bounds the bodies of clients";
    EXPECTATION = 417 "Expectation Failed";
    HEAD_TOO_LONG = 431 "Request Header Fields Too Large";
    TOO_MANY_HEADERS = 431 "Request Header Fields Too Large: too many headers";
    TRAILER_TOO_LONG = 431 "Request Header Fields Too Large: trailers";
    CODING = 501 "Not Implemented: unknown Transfer-Encoding";
    VERSION = 505 "HTTP Version Not Supported";
}

impl From<HeadFault> for Reject {
    fn from(fault: HeadFault) -> Reject {
        match fault {
            HeadFault::BareLf => BARE_LF,
            HeadFault::BareCr => BARE_CR,
            HeadFault::Control => CONTROL,
            HeadFault::Folded => FOLDED,
            HeadFault::Name => NAME,
            HeadFault::TooLong => HEAD_TOO_LONG,
        }
    }
}

impl From<BodyFault> for Reject {
    fn from(fault: BodyFault) -> Reject {
        match fault {
            BodyFault::ContentLength => CONTENT_LENGTH,
            BodyFault::BothLengths => BOTH_LENGTHS,
            BodyFault::TransferEncoding => TRANSFER_ENCODING,
            BodyFault::UnknownCoding => CODING,
            BodyFault::ChunkSize => CHUNK_SIZE,
            BodyFault::ChunkEnd => CHUNK_END,
            BodyFault::Extensions => EXTENSIONS,
            BodyFault::Trailer => TRAILER,
            BodyFault::TrailerTooLong => TRAILER_TOO_LONG,
            BodyFault::TooLarge => TOO_LARGE,
        }
    }
}
