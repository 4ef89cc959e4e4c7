//! How long entries take to be committed and to be applied, for `/metrics`. No decision depends on
//! it. Start with [`EntryTimes::on_turn`], which compares the positions in the log once a turn.
use crate::core::histogram::Histogram;
use crate::core::raft::Index;
use crate::core::timer::Now;
use std::collections::VecDeque;

/// The most turns that are remembered. Entries of further turns are not counted.
const TURNS_MAX: usize = 256;

/// When entries reached a stage: the last one of a turn, and the time of that turn.
struct Arrivals {
    /// Indexes and times ascend; at most `TURNS_MAX`. Times are in microseconds of the monotonic
    /// clock.
    turns: VecDeque<(Index, u64)>,
    /// The last entry that has left the stage.
    left: Index,
}

impl Arrivals {
    /// The entries up to `last` have left before, or are not counted.
    fn new(last: Index) -> Arrivals {
        Arrivals {
            turns: VecDeque::new(),
            left: last,
        }
    }

    /// The entries up to `last` have arrived.
    fn on_arrived(&mut self, now: Now, last: Index) {
        // A follower's log may have been truncated.
        while self.turns.back().is_some_and(|(index, _)| *index > last) {
            self.turns.pop_back();
        }
        let newest = self.turns.back().map_or(self.left, |(index, _)| *index);
        if last > newest && self.turns.len() < TURNS_MAX {
            self.turns.push_back((last, now.mono_us));
        }
    }

    /// The entries up to `last` have left. Counts how long each has been here.
    fn on_left(&mut self, now: Now, last: Index, durations: &mut Histogram) {
        while last > self.left
            && let Some((index, since_us)) = self.turns.front().copied()
        {
            let end = index.min(last);
            let us = now.mono_us.saturating_sub(since_us);
            durations.add_many(us, end.0.saturating_sub(self.left.0));
            self.left = end;
            if index <= last {
                self.turns.pop_front();
            }
        }
        self.left = self.left.max(last);
    }
}

/// The times of the entries of one member.
pub struct EntryTimes {
    appended: Arrivals,
    committed: Arrivals,
    /// From the append of an entry here until this member knows that it is committed.
    commit: Histogram,
    /// From then until the key space contains it.
    apply: Histogram,
}

impl EntryTimes {
    /// No entry is counted up to `last`, the end of the log, and none up to `committed` again.
    pub fn new(last: Index, committed: Index) -> EntryTimes {
        EntryTimes {
            appended: Arrivals::new(last),
            committed: Arrivals::new(committed),
            commit: Histogram::default(),
            apply: Histogram::default(),
        }
    }

    /// A snapshot has replaced the entries up to `last`.
    pub fn on_snapshot(&mut self, last: Index) {
        self.appended = Arrivals::new(last);
        self.committed = Arrivals::new(last);
    }

    /// The log ends at `last`, and is committed up to `committed`. To be called before the entries of
    /// a turn are applied.
    pub fn on_turn(&mut self, now: Now, last: Index, committed: Index) {
        self.appended.on_arrived(now, last);
        self.appended.on_left(now, committed, &mut self.commit);
        self.committed.on_arrived(now, committed);
    }

    /// The key space contains the entries up to `applied`.
    pub fn on_applied(&mut self, now: Now, applied: Index) {
        self.committed.on_left(now, applied, &mut self.apply);
    }

    /// How long entries took from append to commit.
    pub fn commit(&self) -> &Histogram {
        &self.commit
    }

    /// How long entries took from commit to application.
    pub fn apply(&self) -> &Histogram {
        &self.apply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now {
            mono_us,
            wall_ns: 0,
        }
    }

    fn at_most(histogram: &Histogram, s: f64) -> u64 {
        let mut buckets = histogram.buckets();
        buckets
            .find(|(bound_s, _)| *bound_s == s)
            .expect("a bound")
            .1
    }

    #[test]
    fn each_entry_is_counted_from_its_own_turn() {
        let mut times = EntryTimes::new(Index(10), Index(8));
        // The entries 9 and 10 are older than this process.
        times.on_turn(at(0), Index(12), Index(8));
        times.on_turn(at(1_000), Index(13), Index(12));
        times.on_applied(at(1_000), Index(9));
        assert_eq!(
            (at_most(times.commit(), 0.001), times.commit().count()),
            (2, 2)
        );
        assert_eq!(at_most(times.apply(), 62.5e-6), 1);
        times.on_turn(at(5_000), Index(13), Index(13));
        times.on_applied(at(5_000), Index(13));
        assert_eq!(
            (at_most(times.commit(), 0.004), times.commit().count()),
            (3, 3)
        );
        assert_eq!(
            (at_most(times.apply(), 62.5e-6), times.apply().count()),
            (2, 5)
        );
    }

    #[test]
    fn entries_that_are_truncated_or_in_a_snapshot_do_not_count() {
        let mut times = EntryTimes::new(Index(0), Index(0));
        times.on_turn(at(0), Index(5), Index(0));
        times.on_turn(at(10), Index(2), Index(0));
        times.on_turn(at(20), Index(4), Index(4));
        assert_eq!(times.commit().count(), 4);
        times.on_snapshot(Index(1_000));
        times.on_turn(at(30), Index(1_001), Index(1_001));
        assert_eq!(times.commit().count(), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut times = EntryTimes::new(Index(0), Index(0));
        for turn in 1..=10_000 {
            times.on_turn(at(turn), Index(turn), Index(0));
        }
        assert_eq!(times.appended.turns.len(), TURNS_MAX);
        times.on_turn(at(10_001), Index(10_000), Index(10_000));
        times.on_turn(at(10_002), Index(10_001), Index(10_001));
        assert_eq!(times.appended.turns.len(), 0);
    }
}
