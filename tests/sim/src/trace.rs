//! The trace of a run: a hash over all that happened, and the last happenings in full for the
//! engineer who looks for a fault.
use std::collections::VecDeque;
use tern_support::rng::Hash;

/// How many happenings are kept.
const KEPT_MAX: usize = 120;

/// Something that happened, to a slot.
#[derive(Clone, Debug)]
pub struct Line {
    pub time_us: u64,
    pub slot: usize,
    pub what: &'static str,
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

pub struct Trace {
    pub hash: Hash,
    kept: VecDeque<Line>,
    /// Print everything as it happens.
    pub loud: bool,
    pub time_us: u64,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line {
            time_us,
            slot,
            what,
            a,
            b,
            c,
        } = self;
        let ms = *time_us as f64 / 1_000.0;
        write!(f, "{ms:>12.3} m{slot} {what:<18} {a} {b} {c}")
    }
}

impl Trace {
    pub fn new(loud: bool) -> Trace {
        Trace {
            hash: Hash::new(),
            kept: VecDeque::with_capacity(KEPT_MAX),
            loud,
            time_us: 0,
        }
    }

    pub fn note(&mut self, slot: usize, what: &'static str, a: u64, b: u64, c: u64) {
        for word in [self.time_us, slot as u64, what.len() as u64, a, b, c] {
            self.hash.add(word);
        }
        let line = Line {
            time_us: self.time_us,
            slot,
            what,
            a,
            b,
            c,
        };
        if self.loud {
            println!("{line}");
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    pub fn last(&self) -> impl Iterator<Item = &Line> {
        self.kept.iter()
    }
}
