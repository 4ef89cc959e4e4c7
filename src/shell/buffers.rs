//! Spare buffers for connections, and the budget over the buffers of all clients.
//!
//! An idle connection holds no buffer: it takes one from `Buffers` when bytes arrive and gives it
//! back when they are consumed. `Budget` only counts. `Clients` decides which connection pauses or
//! is closed. Neither knows what a buffer contains.
use super::output::SharedTotal;
use crate::core::peers::Episode;
use crate::core::timer::Now;

/// The capacity of a new buffer, in bytes. A large request makes its buffer grow.
pub const BUFFER_BYTES: usize = 8 * 1024;
/// A buffer with a larger capacity is freed instead of kept.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// The number of spare buffers kept; together at most 2 MiB.
const KEPT_MAX: usize = 64;

/// Spare buffers.
#[derive(Default)]
pub struct Buffers {
    /// Empty buffers; each with a capacity of `BUFFER_BYTES` to `KEPT_BYTES_MAX`, at most
    /// `KEPT_MAX` of them.
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// An empty buffer with a capacity of at least `BUFFER_BYTES`.
    pub fn take(&mut self) -> Vec<u8> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back. Its content is dropped.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let fits = (BUFFER_BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.spare.len() < KEPT_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// The bytes that all client connections hold.
pub struct Budget {
    /// The budget: the bytes that the buffers of all clients together may hold. Above it, the clients
    /// that hold the most for the longest are closed. Never changes.
    bytes_max: usize,
    /// Bytes that belong to one connection each: the sum of `Conn::held_bytes` as last counted.
    own: usize,
    /// Bytes of events that several watchers share, each event counted once.
    shared: SharedTotal,
    /// Limits the log lines about an excess over the budget.
    over: Episode,
}

impl Budget {
    /// No connection holds anything; together they may hold `bytes_max`.
    pub fn new(bytes_max: usize) -> Budget {
        Budget {
            bytes_max,
            own: 0,
            shared: SharedTotal::default(),
            over: Episode::default(),
        }
    }

    /// Logs that the connections exceed the budget, unless [`Episode`] suppresses the line.
    pub fn log_once(&mut self, now: Now) {
        let Some(suppressed) = self.over.is_due(now.mono_us) else {
            return;
        };
        log::warn!(
            "client connections hold {} bytes, more than the {} that they may (-max-client-bytes): \
             closing those that hold the most for the longest ({suppressed} times more since the last \
             line)",
            self.bytes(),
            self.bytes_max
        );
    }

    /// A connection that was counted with `before` bytes now holds `after`.
    ///
    /// # Panics
    /// If fewer than `before` bytes are counted in all.
    pub fn change(&mut self, before: usize, after: usize) {
        assert!(self.own >= before, "a connection is counted once");
        self.own = self.own - before + after;
    }

    /// The counter of shared bytes, which `SharedBytes::new` needs.
    pub fn shared(&self) -> &SharedTotal {
        &self.shared
    }

    /// Whether the connections hold more than they may.
    pub fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Whether reading may resume.
    pub fn has_room(&self) -> bool {
        self.excess() == 0
    }

    /// The bytes to free before reading may resume. The gap to the budget keeps the state from
    /// changing every turn. It is freed at once, so it is small: returning memory takes time.
    pub fn excess(&self) -> usize {
        self.bytes().saturating_sub(self.bytes_max / 16 * 15)
    }

    /// The bytes that the connections hold now.
    pub fn bytes(&self) -> usize {
        self.own + self.shared.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_large_ones_are_freed() {
        let mut buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"left over");
        buffers.give(buffer);
        assert!(buffers.take().is_empty());
        buffers.give(Vec::with_capacity(KEPT_BYTES_MAX * 2));
        buffers.give(Vec::new());
        assert!(buffers.spare.is_empty());
        for _ in 0..KEPT_MAX * 2 {
            buffers.give(Vec::with_capacity(BUFFER_BYTES));
        }
        assert_eq!(buffers.spare.len(), KEPT_MAX);
    }
}
