//! tern: a replicated key-value store for the edge.
//!
//! Three rings: the shell sees the OS, the codecs turn bytes into values and back, the core is
//! deterministic and does no I/O. The modules stand in reading order; `machine::seam` holds every
//! value that crosses from the shell into the core and out again. The rules that hold everywhere
//! are tested in `tests/tidy.rs`.
#![forbid(unsafe_code)]

// -- core
pub mod command;
pub mod error;
pub mod escape;
pub mod machine;
pub mod raft;
pub mod replica;
pub mod store;
pub mod timer;
// -- codecs
pub mod api;
pub mod http;
// -- shell
pub mod clock;
pub mod config;
pub mod disk;
pub mod logger;
pub mod reactor;

/// tern's own version, as `-version` prints it and as the `Server` header carries it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
