//! The codecs: pure functions between bytes and the values of the core.
//!
//! Nothing here does I/O or keeps time. A codec imports `core` and never `shell`.
//!
//! - `http`: HTTP/1.1 requests and responses.
//! - `api`: the HTTP interface, from requests to operations and from answers to bytes.
//! - `cluster_api`, `discovery`: what machines ask each other, and a discovery service, over HTTP.
//! - `cluster_status`: the document of `/v2/cluster`.
//! - `peer`: the links between members.
//!
//! Start reading at `http::request`, `api` and `peer::wire`.
pub mod api;
pub mod cluster_api;
pub mod cluster_status;
mod discovery;
pub mod http;
pub mod peer;
