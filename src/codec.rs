//! The ring of codecs: pure functions between bytes and the values of the core.
//!
//! Nothing here does I/O or keeps time. A codec imports `core` and never `shell`. Start with
//! `http::request` for what clients send, `api` for what it means, `peer::wire` for what members
//! send to each other.
pub mod api;
pub mod cluster_api;
mod discovery;
pub mod http;
pub mod peer;
