//! How long the turns of the loop take.
//!
//! A long turn delays every client and every peer, so no work may hold the loop for more than 10 ms.
//! The processor time of the thread is measured: it is the work of the turn whatever else the machine
//! does, and leaves out the waits in the poll and for a sync. With `-v` the times of the phases are
//! measured too, at a system call a phase. Start with `TurnTimes::end`.

/// A turn that takes longer is logged, in microseconds.
const LONG_US: u64 = 10_000;

/// The phases of a turn in their order, each with the processor time that it took in microseconds.
type PhaseTimes = Vec<(&'static str, u64)>;

/// The longest turn.
#[derive(Default)]
pub struct TurnTimes {
    /// The processor time of the thread at the end of the last turn, in microseconds; `None` before
    /// the first.
    last_us: Option<u64>,

    /// The longest turn since the last `take_longest`.
    longest: Turn,

    /// The phases of the present turn that have ended.
    phases: PhaseTimes,

    /// The processor time of the thread at the end of the last phase, in microseconds.
    phase_us: u64,
}

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    us: u64,
    phases: PhaseTimes,
}

impl Turn {
    /// The phases that took longest, with their microseconds, for the log: `, of it flush 310, decode
    /// 22`. Empty if no phases are known.
    pub fn text_of_phases(&self) -> String {
        let mut phases = self.phases.clone();
        phases.sort_by_key(|(_, us)| std::cmp::Reverse(*us));
        phases.retain(|(_, us)| *us > 0);
        if phases.is_empty() {
            return String::new();
        }
        let longest = phases.iter().take(4);
        let texts: Vec<String> = longest.map(|(name, us)| format!("{name} {us}")).collect();
        format!(", of it {}", texts.join(", "))
    }

    /// Its length in microseconds.
    pub fn us(&self) -> u64 {
        self.us
    }
}

impl TurnTimes {
    /// A phase of the present turn has ended. The thread has used `cpu_us` of processor time since
    /// its start.
    pub fn end_phase(&mut self, name: &'static str, cpu_us: u64) {
        self.phases
            .push((name, cpu_us.saturating_sub(self.phase_us)));
        self.phase_us = cpu_us;
    }

    /// A turn has ended. The thread has used `cpu_us` of processor time since its start. Returns how
    /// long the turn took, in microseconds; `None` for the first one.
    pub fn end(&mut self, cpu_us: u64) -> Option<u64> {
        self.phase_us = cpu_us;
        let last_us = self.last_us.replace(cpu_us)?;
        let us = cpu_us.saturating_sub(last_us);
        let phases = std::mem::take(&mut self.phases);
        self.on_turn(Turn { us, phases });
        Some(us)
    }

    fn on_turn(&mut self, mut turn: Turn) {
        if turn.us > LONG_US {
            let phases = turn.text_of_phases();
            log::debug!("a turn of the loop took {} ms{phases}", turn.us / 1_000);
        }
        if turn.us > self.longest.us {
            std::mem::swap(&mut self.longest, &mut turn);
        }
        // The memory of its phases serves the next turn.
        self.phases = turn.phases;
        self.phases.clear();
    }

    /// The longest turn since the last call.
    pub fn take_longest(&mut self) -> Turn {
        std::mem::take(&mut self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_kept_until_it_is_taken() {
        let mut times = TurnTimes::default();
        times.end(500);
        times.end(540);
        times.end(590);
        times.end(591);
        assert_eq!(times.take_longest().us(), 50);
        assert_eq!(times.take_longest(), Turn::default());
    }

    #[test]
    fn the_phases_of_the_longest_turn_are_told_longest_first() {
        let mut times = TurnTimes::default();
        times.end(100);
        for (name, us) in [("poll", 100), ("fill", 105), ("flush", 125)] {
            times.end_phase(name, us);
        }
        times.end(125);
        times.end_phase("poll", 130);
        times.end(131);
        let longest = times.take_longest();
        assert_eq!(longest.text_of_phases(), ", of it flush 20, fill 5");
        assert_eq!(longest.us(), 25);
    }
}
