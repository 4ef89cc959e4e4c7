//! The standbys that have fetched the list of members from this machine lately, for operators. No
//! decision depends on them: any client can claim to be a standby. Start with
//! [`Standbys::on_fetch`].
use crate::core::seam::{StandbyStatus, StandbyVisitor};
use crate::core::timer::Now;

/// Most standbys that are remembered. A further one is not, until another is forgotten.
const STANDBYS_MAX: usize = 64;
/// A standby is forgotten after this many sync intervals without a fetch.
const INTERVALS: u64 = 3;

/// One standby.
struct Sighting {
    standby: StandbyVisitor,
    /// When it fetched the list last, in microseconds of the monotonic clock.
    fetched_us: u64,
}

/// The standbys, sorted by name; at most `STANDBYS_MAX`.
#[derive(Default)]
pub struct Standbys(Vec<Sighting>);

impl Standbys {
    /// A standby fetches the list. Standbys do so once in `interval_ms`.
    pub fn on_fetch(&mut self, now: Now, standby: StandbyVisitor, interval_ms: u64) {
        self.0
            .retain(|known| since_ms(now, known) <= INTERVALS * interval_ms);
        let fetched_us = now.mono_us;
        let seen = Sighting {
            standby,
            fetched_us,
        };
        let name = &seen.standby.name;
        match self
            .0
            .binary_search_by(|known| known.standby.name.cmp(name))
        {
            Ok(place) => self.0[place] = seen,
            Err(place) if self.0.len() < STANDBYS_MAX => self.0.insert(place, seen),
            Err(_) => {}
        }
    }

    /// The standbys that have fetched the list within the last intervals.
    pub fn recent(&self, now: Now, interval_ms: u64) -> Vec<StandbyStatus> {
        let all = self.0.iter().map(|known| StandbyStatus {
            standby: known.standby.clone(),
            since_ms: since_ms(now, known),
        });
        all.filter(|status| status.since_ms <= INTERVALS * interval_ms)
            .collect()
    }
}

fn since_ms(now: Now, known: &Sighting) -> u64 {
    now.mono_us.saturating_sub(known.fetched_us) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now {
            mono_us: ms * 1_000,
            wall_ns: 0,
        }
    }

    fn visitor(name: &str) -> StandbyVisitor {
        StandbyVisitor {
            name: name.into(),
            client_url: None,
        }
    }

    fn names(standbys: &Standbys, ms: u64) -> Vec<Box<str>> {
        let recent = standbys.recent(at(ms), 1_000).into_iter();
        recent.map(|status| status.standby.name).collect()
    }

    #[test]
    fn a_standby_is_shown_for_three_intervals() {
        let mut standbys = Standbys::default();
        standbys.on_fetch(at(0), visitor("b"), 1_000);
        standbys.on_fetch(at(1_000), visitor("a"), 1_000);
        standbys.on_fetch(at(2_000), visitor("b"), 1_000);
        assert_eq!(names(&standbys, 4_000), ["a".into(), "b".into()]);
        assert_eq!(names(&standbys, 4_001), ["b".into()]);
        assert_eq!(standbys.recent(at(2_500), 1_000)[1].since_ms, 500);
        assert!(names(&standbys, 5_001).is_empty());
    }

    #[test]
    fn a_stranger_with_many_names_takes_no_place_of_a_known_standby() {
        let mut standbys = Standbys::default();
        standbys.on_fetch(at(0), visitor("real"), 1_000);
        for number in 0..1_000 {
            standbys.on_fetch(at(1), visitor(&format!("forged-{number}")), 1_000);
        }
        assert_eq!(standbys.0.len(), STANDBYS_MAX);
        standbys.on_fetch(at(3_001), visitor("real"), 1_000);
        standbys.on_fetch(at(3_002), visitor("late"), 1_000);
        assert_eq!(names(&standbys, 3_002), ["late".into(), "real".into()]);
    }
}
