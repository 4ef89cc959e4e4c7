//! Shared by the tests: seeded random numbers, and the usual options of a log.
#![allow(dead_code)]
pub use tern_support::rng::Rng;
use wal::dir::{Hook, SystemCall, Verdict};

/// The smallest segment; every test uses it.
pub const SEGMENT: u64 = 64 << 10;
/// The random number of the data directory.
pub const IDENTITY: u64 = 0x1234_5678_9abc_def0;

/// A hook that skips syncs, for tests without power cuts.
pub fn quick() -> Option<Hook> {
    Some(Box::new(|call: SystemCall| match call.name {
        "fdatasync" | "fsync" | "fadvise" => Verdict::Skip,
        _ => Verdict::Make,
    }))
}
