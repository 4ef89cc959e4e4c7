//! The deterministic ring: raft, the key space, and this machine's life around them.
//!
//! Inputs are calls, outputs are plain data; nothing here does I/O, reads a clock or starts a
//! thread. The core owns the formats that are stored (commands, snapshots, the views under `/_etcd`)
//! and imports neither `codec` nor `shell`. Start with `machine`; `seam` holds every value that
//! crosses to the shell and back.
pub mod allocator;
pub mod cluster_time;
pub mod command;
pub mod error;
pub mod escape;
pub mod fields;
pub mod histogram;
pub mod identity;
pub mod machine;
pub mod memory;
pub mod peers;
pub mod public_id;
pub mod raft;
pub mod random;
pub mod replica;
pub mod seam;
pub mod store;
pub mod timer;
pub mod varint;
