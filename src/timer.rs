//! The hierarchical timer wheel (Varghese and Lauck, 1987): schedule, cancel, advance, next_deadline; pure.
//! One stands in the machine, one in the reactor.

/// The time of one turn, read once by the shell (or made up by the simulator).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time in microseconds from an arbitrary start; timers run on it.
    pub mono_us: u64,
    /// Wall-clock time in nanoseconds since the Unix epoch; only ttls and statistics look at it.
    pub wall_ns: u64,
}
