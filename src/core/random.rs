//! Pseudo-random numbers for pauses, timeouts and choices among equals.
//!
//! Each is a function of a seed, so that a run can be repeated. Neither algorithm is fit for
//! secrets.

/// One step of splitmix64 (Steele, Lea and Flood, 2014): a number that looks independent of `seed`.
/// It is a bijection.
pub fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(SPLITMIX_STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The increment of splitmix64 for each number: 2^64 divided by the golden ratio.
pub const SPLITMIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The sequence of splitmix64, which visits each number.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix64 {
    /// Rises by `SPLITMIX_STEP` with each number.
    state: u64,
}

impl SplitMix64 {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64 { state: seed }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        let number = splitmix64(self.state);
        self.state = self.state.wrapping_add(SPLITMIX_STEP);
        number
    }
}

/// A sequence of xorshift64 (Marsaglia, 2003), which visits each number but 0.
#[derive(Clone, Copy, Debug)]
pub struct XorShift64 {
    /// Never 0: the sequence would stay there.
    state: u64,
}

impl XorShift64 {
    /// The sequence of this seed. Two seeds that differ only in the lowest bit may give the same
    /// one.
    pub fn new(seed: u64) -> XorShift64 {
        XorShift64 { state: seed | 1 }
    }

    /// The next number, 1 to 2^64 - 1.
    pub fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
