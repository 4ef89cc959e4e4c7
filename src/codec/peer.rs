//! The protocol between members: a link is opened by a hello, and then carries messages in frames.
//!
//! `hello` opens a link, `wire` encodes and decodes messages, `frame` cuts them into pieces with
//! checksums.
pub mod frame;
pub mod hello;
pub mod wire;
