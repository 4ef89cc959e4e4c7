//! tern: a replicated key-value store for the edge. One small binary, one event loop; the HTTP
//! interface of etcd 0.4 on a raft and a log that lose nothing.
//!
//! Below is the tour of the code; the README has the same. Paths are relative to `src`, except those
//! that begin with `wal` or `tests`.
//!
#![doc = include_str!("tour.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod codec;
pub mod core;
pub mod shell;

/// tern's own version, as `-version` prints it and as the `Server` header carries it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
