//! The ring that sees the operating system: sockets, files, clocks, signals, flags.
//!
//! It carries inputs into the core and outputs back out. Must not decide anything about keys or
//! raft. Start with `reactor`, whose `turn` is the event loop, `sockets`, which is under every
//! connection, and `disk`, the only user of files.
pub mod clock;
pub mod config;
pub mod disk;
pub mod logger;
pub mod reactor;

mod buffers;
mod clients;
mod conn;
mod connect;
mod deadlines;
mod gathering;
mod http_calls;
mod link;
mod link_queue;
mod links;
mod listener;
mod log_lines;
mod outgoing_call;
mod output;
mod resolver;
mod slots;
mod sockets;
#[cfg(feature = "tls")]
mod tls;
mod transport;
