//! The HTTP codec: bytes of a connection to requests, responses to bytes; nothing here does I/O or
//! keeps time.
//!
//! Start with `request`: the incremental parser and the rules it enforces. `head` and `body` are
//! the framing both directions share, `response` writes answers, `client` is the other side for the
//! few calls tern makes itself, `upgrade` turns a connection into a link between peers, `url` takes
//! URLs apart, `form` decodes paths, queries and form bodies.
pub mod body;
pub mod client;
pub mod form;
pub mod head;
pub mod reject;
pub mod request;
pub mod response;
pub mod upgrade;
pub mod url;

pub use reject::Reject;
pub use request::{Limits, Method, Parser, Progress, Request, Stage, Version};
pub use response::{Body, Date, Framing, Reply, Response};
