//! What a range of seeds came to, on one line that is kept.
use super::counts::Counts;
use std::fmt;

pub struct Ledger {
    from: u64,
    seeds: u64,
    pub total: Counts,
    /// Of each seed, in thousandths of an election timeout.
    converged: Vec<u64>,
    /// The same of the seeds with short lines and without the longest values.
    quick: Vec<u64>,
}

impl Ledger {
    pub fn new(from: u64) -> Ledger {
        Ledger {
            from,
            seeds: 0,
            total: Counts::default(),
            converged: Vec::new(),
            quick: Vec::new(),
        }
    }

    pub fn add(&mut self, counts: &Counts) {
        self.seeds += 1;
        self.total.add(counts);
        self.converged.push(counts.converged_milli);
        if counts.is_quick {
            self.quick.push(counts.converged_milli);
        }
    }
}

/// The time to convergence that so many thousandths of the seeds stay below, in election timeouts.
fn converged_at(all: &[u64], thousandths: usize) -> f64 {
    let mut all = all.to_vec();
    all.sort_unstable();
    let at = (all.len() * thousandths / 1_000).min(all.len().saturating_sub(1));
    all.get(at).map_or(0.0, |milli| *milli as f64 / 1_000.0)
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.total;
        write!(
            f,
            "seeds {}..{} events {} elections {} installs {} snapshots {} changes {} crashes {} losses {} repairs {} \
             commits {} longest {} answers {} raw {} reads {} watchers {} timeouts {} locks {} calls {} switches {} copies {} forced {} converged p50 {:.1} p99.9 {:.1} max {:.1}, \
             on short lines p99.9 {:.1} max {:.1}",
            self.from,
            self.from + self.seeds,
            t.events,
            t.elections,
            t.installs,
            t.snapshots,
            t.changes,
            t.crashes,
            t.losses,
            t.repairs,
            t.commits,
            t.longest,
            t.answers,
            t.raw,
            t.reads,
            t.watched,
            t.timed_out,
            t.locks,
            t.calls,
            t.switches,
            t.copies,
            t.forced,
            converged_at(&self.converged, 500),
            converged_at(&self.converged, 999),
            converged_at(&self.converged, 1_000),
            converged_at(&self.quick, 999),
            converged_at(&self.quick, 1_000),
        )
    }
}
