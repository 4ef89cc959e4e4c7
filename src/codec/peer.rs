//! The protocol between members: a hello, then messages in frames.
//!
//! `hello` opens a link, `wire` turns one message into bytes and back, `frame` cuts and checks them.
pub mod frame;
pub mod hello;
pub mod wire;
