//! HTTP/1.1 and 1.0 (RFC 9110 and 9112) as bytes; nothing here does I/O or keeps time.
//!
//! - `request`: the incremental parser of requests, and the rules that it enforces; start here.
//! - `head`, `body`: the framing of requests and responses.
//! - `reject`: the refusals of malformed requests.
//! - `response`: responses to bytes.
//! - `message`: what requests and responses share.
//! - `call`, `client`: requests that tern sends, and the parser of their responses.
//! - `upgrade`: the request that turns a connection into a link between peers.
//! - `url`, `form`: URLs and parameters.
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
