//! What the C library does with many freed blocks. Start with [`join_freed_blocks`].

/// The length of an allocation at which the C library sorts and joins the blocks that were freed
/// before.
const JOINING_BYTES: usize = 2048;

/// Call it after each few thousand blocks that were freed.
///
/// The C library only gathers freed blocks. It joins those of up to 128 bytes, and sorts up to 10,000
/// others, at the next large allocation: after a million keys that would hold the loop for 50 ms, and
/// after a log of 10,000 entries, whose blocks are out of the processor's caches then, for 25 ms. So
/// such an allocation follows each portion, or some.
pub fn join_freed_blocks() {
    std::hint::black_box(Vec::<u8>::with_capacity(JOINING_BYTES));
}
