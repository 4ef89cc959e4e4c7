//! The HTTP codec: bytes of a connection to requests, responses to bytes; nothing here does I/O or
//! keeps time.
//!
//! Start with `request`: the incremental parser and the rules it enforces. `head` and `body` are
//! the framing both directions share, `response` writes answers, `client` is the other side for the
//! few calls tern makes itself, `upgrade` turns a connection into a link between peers, `url` takes
//! URLs apart, `form` decodes paths, queries and form bodies.
pub mod body;
pub mod call;
pub mod client;
pub mod form;
pub mod head;
pub mod message;
pub mod reject;
pub mod request;
pub mod response;
pub mod upgrade;
pub mod url;

pub use message::{Method, ResponseMode, Version};
pub use reject::Reject;
pub use request::{Limits, Parsed, Parser, Request, RequestStage};
pub use response::{Date, Framing, Response};
