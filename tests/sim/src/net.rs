//! The simulated network between machines: decides when a message arrives, twice, late, or never.
//!
//! Slots are places where a machine may stand; every ordered pair of slots is a way of its own, so
//! that partitions can be one-way. Time is in microseconds. Start at `route`.
use tern_support::rng::Rng;

/// How the network behaves in one seed.
#[derive(Clone, Debug)]
pub struct NetParams {
    /// In a million messages.
    pub drop_ppm: u64,
    pub duplicate_ppm: u64,
    /// Messages that take up to `late_us_max` more.
    pub late_ppm: u64,
    pub late_us_max: u64,
    pub delay_us_min: u64,
    pub delay_us_max: u64,
    /// How much longer each message takes: a long line.
    pub line_us: u64,
    /// Messages of one way keep their order, as on a TCP connection.
    pub ordered: bool,
}

impl NetParams {
    pub fn draw(rng: &mut Rng) -> NetParams {
        let delay_us_min = rng.range(20, 500);
        NetParams {
            drop_ppm: *rng.pick(&[0, 0, 1_000, 10_000, 50_000, 150_000]),
            duplicate_ppm: *rng.pick(&[0, 0, 1_000, 20_000, 100_000]),
            late_ppm: *rng.pick(&[0, 1_000, 20_000, 100_000]),
            late_us_max: *rng.pick(&[20_000, 100_000, 600_000]),
            delay_us_min,
            delay_us_max: delay_us_min + *rng.pick(&[100, 1_000, 5_000, 15_000]),
            line_us: 0,
            ordered: rng.chance(400_000),
        }
    }

    /// After the faults: nothing is lost, all arrives soon.
    pub fn healed(&self) -> NetParams {
        NetParams {
            drop_ppm: 0,
            duplicate_ppm: 0,
            late_ppm: 0,
            late_us_max: 0,
            delay_us_min: self.delay_us_min,
            delay_us_max: self.delay_us_max.min(self.delay_us_min + 2_000),
            line_us: self.line_us,
            ordered: self.ordered,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Way {
    cut: bool,
    /// Messages arrive no earlier than this.
    clogged_until_us: u64,
    /// A router refuses connections until then, in the name of the other machine.
    refused_until_us: u64,
    /// When the last one arrives, for ordered ways.
    last_us: u64,
}

/// The state of every way.
pub struct Net {
    pub params: NetParams,
    slots: usize,
    ways: Vec<Way>,
}

impl Net {
    pub fn new(params: NetParams, slots: usize) -> Net {
        Net {
            params,
            slots,
            ways: vec![Way::default(); slots * slots],
        }
    }

    fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.slots + to]
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.ways[from * self.slots + to].cut
    }

    /// When a message that leaves now arrives; no time: it is lost; two: it arrives twice.
    pub fn route(
        &mut self,
        rng: &mut Rng,
        now_us: u64,
        from: usize,
        to: usize,
    ) -> [Option<u64>; 2] {
        if self.is_cut(from, to) || rng.chance(self.params.drop_ppm) {
            return [None, None];
        }
        let first = self.arrival(rng, now_us, from, to);
        if !rng.chance(self.params.duplicate_ppm) {
            return [Some(first), None];
        }
        [Some(first), Some(self.arrival(rng, now_us, from, to))]
    }

    fn arrival(&mut self, rng: &mut Rng, now_us: u64, from: usize, to: usize) -> u64 {
        let p = &self.params;
        let mut at = now_us + p.line_us + rng.range(p.delay_us_min, p.delay_us_max);
        if rng.chance(p.late_ppm) {
            at += rng.below(p.late_us_max + 1);
        }
        let ordered = p.ordered;
        let way = self.way(from, to);
        at = at.max(way.clogged_until_us);
        if ordered {
            at = at.max(way.last_us);
            way.last_us = at;
        }
        at
    }

    /// Cuts a random part of the ways; the name of what was done.
    pub fn cut(&mut self, rng: &mut Rng, leader: Option<usize>) -> &'static str {
        let side: Vec<bool> = (0..self.slots).map(|_| rng.chance(500_000)).collect();
        let alone = leader.unwrap_or_else(|| rng.index(self.slots));
        let kind = rng.below(6);
        for from in 0..self.slots {
            for to in 0..self.slots {
                let cut = match kind {
                    0 => side[from] != side[to],
                    1 => side[from] && !side[to],
                    2 => (from == alone) != (to == alone),
                    3 => from == alone && to != alone,
                    4 => to == alone && from != alone,
                    _ => (from + 1) % self.slots != to && (to + 1) % self.slots != from,
                };
                self.way(from, to).cut = cut && from != to;
            }
        }
        [
            "halves",
            "one-way halves",
            "leader alone",
            "leader mute",
            "leader deaf",
            "ring",
        ][kind as usize]
    }

    /// Cuts some machines off from all others.
    pub fn cut_off(&mut self, is_off: impl Fn(usize) -> bool) {
        for from in 0..self.slots {
            for to in 0..self.slots {
                self.way(from, to).cut = is_off(from) != is_off(to);
            }
        }
    }

    /// Holds up everything on one way until then.
    pub fn clog(&mut self, from: usize, to: usize, until_us: u64) {
        self.way(from, to).clogged_until_us = until_us;
    }

    /// A router refuses connections on one way until then.
    pub fn refuse(&mut self, from: usize, to: usize, until_us: u64) {
        self.way(from, to).refused_until_us = until_us;
    }

    pub fn is_refused(&self, from: usize, to: usize, now_us: u64) -> bool {
        now_us < self.ways[from * self.slots + to].refused_until_us
    }

    /// Mends all cuts.
    pub fn mend(&mut self) {
        for way in &mut self.ways {
            way.cut = false;
        }
    }

    /// No faults any more.
    pub fn heal(&mut self) {
        self.params = self.params.healed();
        self.ways.fill(Way::default());
    }
}
