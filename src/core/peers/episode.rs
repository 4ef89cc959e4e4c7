//! Limits the log lines about one fault: one line an episode, then ever fewer.
//!
//! An episode ends when the fault did not occur for [`QUIET_US`]. Within it, the pause between two
//! lines doubles. Start with [`Episode::is_due`].

/// The back-off starts over after this time without the fault, in microseconds.
const QUIET_US: u64 = 30_000_000;
/// The pause after the first line of an episode, in microseconds.
const PAUSE_US_MIN: u64 = 10_000_000;
/// The longest pause, in microseconds: one hour.
const PAUSE_US_MAX: u64 = 3_600_000_000;

/// One fault: of one peer, of all strangers together, or of this machine.
#[derive(Clone, Debug, Default)]
pub struct Episode {
    /// When the fault occurred last, in microseconds of the monotonic clock.
    last_us: Option<u64>,
    /// The next line is due from then on.
    next_us: u64,
    /// The last pause; 0 before the first line of an episode.
    pause_us: u64,
    /// How many lines were suppressed since the last one.
    suppressed: u64,
}

impl Episode {
    /// The fault has occurred. Returns how many lines were suppressed since the last one, if a line
    /// is due.
    pub fn is_due(&mut self, now_us: u64) -> Option<u64> {
        let is_new = self.last_us.is_none_or(|last| now_us >= last + QUIET_US);
        if is_new {
            self.pause_us = 0;
            self.next_us = 0;
        }
        self.last_us = Some(now_us);
        if now_us < self.next_us {
            self.suppressed += 1;
            return None;
        }
        self.pause_us = (self.pause_us * 2).clamp(PAUSE_US_MIN, PAUSE_US_MAX);
        self.next_us = now_us + self.pause_us;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_each_second_is_logged_ever_less_often() {
        let mut episode = Episode::default();
        let mut lines = Vec::new();
        for second in 0..=150 {
            if let Some(suppressed) = episode.is_due(second * 1_000_000) {
                lines.push((second, suppressed));
            }
        }
        assert_eq!(lines, [(0, 0), (10, 9), (30, 19), (70, 39), (150, 79)]);
    }

    #[test]
    fn the_pauses_start_over_only_after_thirty_seconds_without_the_fault() {
        let mut episode = Episode::default();
        assert_eq!(episode.is_due(0), Some(0));
        assert_eq!(episode.is_due(9_000_000), None);
        // 29.9 s of quiet are still the same episode: the next pause is twice as long.
        assert_eq!(episode.is_due(38_900_000), Some(1));
        assert_eq!(episode.is_due(57_000_000), None);
        // 30 s later another one begins.
        assert_eq!(episode.is_due(87_000_000), Some(1));
        assert_eq!(episode.is_due(96_000_000), None);
        assert_eq!(episode.is_due(97_000_000), Some(1));
    }
}
