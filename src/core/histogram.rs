//! A histogram of durations with fixed bounds, for `/metrics`. Counting allocates nothing. Start
//! with [`Histogram::add`].

/// How many bounds there are.
const BOUNDS: usize = 18;
/// 16 times the first bound, in microseconds. Each further bound is twice the one before: 62.5
/// microseconds, 125 microseconds, and so on to 8.192 seconds. The bounds of etcd's histograms are
/// among them.
const FIRST_BOUND_16: u64 = 1_000;

/// The numbers of durations between the bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// At each place, how many durations are at most the bound of the place and above the bound
    /// before. The last place counts the durations above all bounds.
    counts: [u64; BOUNDS + 1],
    /// The sum of all durations, in microseconds.
    sum_us: u64,
}

impl Histogram {
    /// Counts a duration, in microseconds.
    pub fn add(&mut self, us: u64) {
        self.add_many(us, 1);
    }

    /// Counts `count` equal durations, in microseconds.
    pub fn add_many(&mut self, us: u64, count: u64) {
        self.counts[place_of(us)] += count;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(count));
    }

    /// The bounds in seconds, each with how many durations are at most that long.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        let counts = self.counts[..BOUNDS].iter().enumerate();
        counts.map(move |(place, count)| {
            total += count;
            let bound_16 = FIRST_BOUND_16 << place;
            (bound_16 as f64 / 16e6, total)
        })
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all durations, in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }
}

/// The place of a duration among the counts.
fn place_of(us: u64) -> usize {
    let firsts = us.saturating_mul(16).saturating_sub(1) / FIRST_BOUND_16;
    let place = u64::BITS - firsts.leading_zeros();
    (place as usize).min(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_up_to_its_bound() {
        for (us, bound_s) in [
            (0, 62.5e-6),
            (62, 62.5e-6),
            (63, 125e-6),
            (125, 125e-6),
            (126, 250e-6),
            (500_000, 0.512),
            (8_192_000, 8.192),
        ] {
            let mut histogram = Histogram::default();
            histogram.add(us);
            let first = histogram.buckets().find(|(_, count)| *count == 1);
            assert_eq!(first, Some((bound_s, 1)), "{us}");
        }
        let mut histogram = Histogram::default();
        histogram.add_many(8_192_001, 2);
        histogram.add(u64::MAX);
        assert!(histogram.buckets().all(|(_, count)| count == 0));
        assert_eq!(histogram.count(), 3);
    }

    #[test]
    fn the_bounds_of_etcd_are_among_the_bounds() {
        let histogram = Histogram::default();
        let bounds: Vec<f64> = histogram.buckets().map(|(bound_s, _)| bound_s).collect();
        for etcd in [0.0005, 0.001, 0.064, 0.512, 2.048, 8.192] {
            assert!(bounds.contains(&etcd), "{etcd} in {bounds:?}");
        }
        assert!(bounds.is_sorted());
    }
}
