//! The ring that sees the operating system: sockets, files, clocks, signals, flags.
//!
//! It carries inputs into the core and outputs back out. Must not decide anything about keys or
//! raft. Start with `reactor`: its `turn` is the event loop.
//!
//! - The loop: `reactor` (the turn).
//! - Clients: `listener` (accepts), `clients` (all HTTP connections), `conn` (one), `deadlines` (its
//!   limits), `buffers` (its memory), `turn_budget` (the work of a turn for all of them).
//! - Peers: `links` (all links), `link` (one), `link_queue` (its output).
//! - Outgoing HTTP: `http_calls` (all calls), `outgoing_call` (one), `connect` (connections),
//!   `resolver` (host names).
//! - Under all three: `sockets` (one socket), `pool` (all of a kind), `slots` (slots and tokens),
//!   `transport` (plain or TLS), `tls` (certificates), `output` (the output of an HTTP connection).
//! - Files: `disk` (the only user of the data directory), `storage` (the disk as the loop uses it),
//!   `sync_manner` (which syncs the loop waits for), `gathering` (the wait before a slow sync).
//! - The process: `config` (flags), `clock` (time), `logger` and `log_lines` (the log),
//!   `service_manager` (reports to systemd), `process` (the figures of `/metrics`).
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
mod deep_writes;
mod deliveries;
mod descriptors;
mod dispatcher;
mod gathering;
mod http_calls;
mod link;
mod link_queue;
mod links;
mod listener;
mod log_lines;
mod meters;
mod outgoing_call;
mod output;
mod pool;
mod process;
mod proxied;
mod resolver;
mod service_manager;
mod slots;
mod sockets;
mod status_lines;
mod storage;
mod sync_manner;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod turn_budget;
mod turn_times;
