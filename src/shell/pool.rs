//! Buffers that idle connections do not hold, and the one budget over those that busy ones do.
//!
//! Must not know what is in a buffer. `Budget` counts bytes; the reactor decides who has to wait or
//! to go.
use super::out::SharedTotal;

/// The size of a buffer when it is first used; grows with a large request.
pub const BUFFER_BYTES: usize = 8 * 1024;
/// A buffer that has grown beyond this is freed rather than kept.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// At most so many buffers are kept for the next one who needs one.
const KEPT_MAX: usize = 64;
/// All buffers of all connections together. Above it connections that already hold something are
/// not read from, and those who leave most unread are closed.
pub const BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// Spare buffers.
#[derive(Default)]
pub struct Pool {
    spare: Vec<Vec<u8>>,
}

impl Pool {
    /// An empty buffer.
    pub fn take(&mut self) -> Vec<u8> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let fits = (BUFFER_BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.spare.len() < KEPT_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// How much all connections hold.
#[derive(Default)]
pub struct Budget {
    own: usize,
    /// Events that several connections share, counted once.
    pub shared: SharedTotal,
}

impl Budget {
    /// A connection that held `before` bytes now holds `after`.
    pub fn change(&mut self, before: usize, after: usize) {
        assert!(self.own >= before, "what was counted is still counted");
        self.own = self.own - before + after;
    }

    /// Whether connections hold more than they may.
    pub fn is_over(&self) -> bool {
        self.bytes() > BUDGET_BYTES
    }

    /// Whether there is room again.
    pub fn has_room(&self) -> bool {
        self.excess() == 0
    }

    /// So many bytes too many to have room again: somewhat below the budget, so that it does not
    /// change with each turn.
    pub fn excess(&self) -> usize {
        self.bytes().saturating_sub(BUDGET_BYTES / 4 * 3)
    }

    /// What connections hold now.
    pub fn bytes(&self) -> usize {
        self.own + self.shared.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_large_ones_are_freed() {
        let mut pool = Pool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"left over");
        pool.give(buffer);
        assert!(pool.take().is_empty());
        pool.give(Vec::with_capacity(KEPT_BYTES_MAX * 2));
        pool.give(Vec::new());
        assert!(pool.spare.is_empty());
        for _ in 0..KEPT_MAX * 2 {
            pool.give(Vec::with_capacity(BUFFER_BYTES));
        }
        assert_eq!(pool.spare.len(), KEPT_MAX);
    }
}
