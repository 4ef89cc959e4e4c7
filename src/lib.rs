//! tern: a replicated key-value store for the edge.
//!
//! Three rings: the shell sees the OS, the codecs turn bytes into values and back, the core is
//! deterministic and does no I/O. `core::seam` holds every value that crosses from the shell into
//! the core and out again. The rules that hold everywhere are tested in `tests/tidy.rs`.
#![forbid(unsafe_code)]

pub mod codec;
pub mod core;
pub mod shell;

/// tern's own version, as `-version` prints it and as the `Server` header carries it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
