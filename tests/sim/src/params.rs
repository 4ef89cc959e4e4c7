//! Everything that one seed decides: sizes, times, rates, which faults occur. Printed with a
//! violation, drawn in one place, so that a seed means the same run for ever as long as this file
//! does not change.
use super::net::NetParams;
use tern::core::memory::MemoryBounds;
use tern::core::raft::room::{BODY_BYTES_MAX, RECORD_EXTRA_BYTES};
use tern_support::rng::Rng;
use wal::SEGMENT_BYTES_MIN;

/// The longest body of a request that settings may allow.
pub const REQUEST_BYTES_MAX: u64 = BODY_BYTES_MAX - RECORD_EXTRA_BYTES;
/// What stands in such a body beside the value (`Want::SetBelow`).
const FORM_BYTES: usize = "value=%64eep".len();

/// What can be done to a cluster; each seed uses a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    Crash,
    CrashAll,
    Stop,
    Pause,
    Cut,
    Mend,
    Clog,
    /// Links close while the machines at both ends run.
    Break,
    SlowDisk,
    FullDisk,
    ClockStep,
    Damage,
    /// A power cut, an error or lack of room at one of the next calls of the disk.
    DiskFault,
    LoseData,
    OldCopy,
    Join,
    Remove,
    SetConfig,
    /// Started with another peer address.
    Move,
    /// All were down, and come back with other addresses, each with a list of them.
    MoveAll,
    /// Two exchange their addresses.
    Swap,
}

const BLOWS: [(Blow, u64); 21] = [
    (Blow::Crash, 10),
    (Blow::CrashAll, 1),
    (Blow::Stop, 3),
    (Blow::Pause, 6),
    (Blow::Cut, 8),
    (Blow::Mend, 8),
    (Blow::Clog, 4),
    (Blow::Break, 6),
    (Blow::SlowDisk, 3),
    (Blow::FullDisk, 2),
    (Blow::ClockStep, 2),
    (Blow::Damage, 4),
    (Blow::DiskFault, 6),
    (Blow::LoseData, 3),
    (Blow::OldCopy, 2),
    (Blow::Join, 4),
    (Blow::Remove, 4),
    (Blow::SetConfig, 5),
    (Blow::Move, 2),
    (Blow::MoveAll, 1),
    (Blow::Swap, 2),
];

/// The command line of one machine. Machines of a seed may differ in it, and a restart may change
/// it.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_count: u64,
    pub segment_bytes: u64,
    /// The longest body of a request that its client port takes.
    pub request_bytes_max: u64,
}

#[derive(Clone, Debug)]
pub struct Params {
    pub machines: usize,
    /// Places for machines that join later.
    pub spare: usize,
    /// The longest heartbeat interval and election timeout of any machine.
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_count: u64,
    /// The settings of the machines differ.
    pub is_unequal: bool,
    pub history_events: usize,
    /// The bounds of memory; in a third of the seeds so small that the log meets them.
    pub memory: MemoryBounds,
    pub active_size: u32,
    pub remove_delay_ms: u64,
    pub sync_interval_ms: u64,
    /// How often a machine without a log looks for the cluster (0: for ever), and how long it
    /// pauses in between.
    pub attempts_max: u32,
    pub pause_ms: u64,
    /// Calls between machines are given up after this time at the latest.
    pub call_ms: u64,
    pub net: NetParams,
    pub sync_us_min: u64,
    pub sync_us_max: u64,
    /// Syncs that take up to `slow_us_max`, in a million.
    pub slow_ppm: u64,
    pub slow_us_max: u64,
    pub clients: usize,
    pub think_us_max: u64,
    pub client_timeout_us: u64,
    pub keys: usize,
    pub raw_ppm: u64,
    /// Some values are as large as this: a snapshot then takes several slices and pieces, a batch is
    /// split, a record needs a segment of its own. 0: all are small.
    pub value_bytes_max: usize,
    /// How many of these values in a million are the longest that settings may allow, or up to 64
    /// bytes shorter.
    pub longest_ppm: u64,
    /// Messages that arrive within this time are taken in one turn.
    pub batch_us: u64,
    pub blow_us_mean: u64,
    pub down_us_max: u64,
    pub blows: Vec<(Blow, u64)>,
    /// Followers pass on what only the leader can do.
    pub forward: bool,
    /// An operator adds machines that never start, under odd URLs.
    pub adds_odd_members: bool,
    /// All machines were started with one list and `-bootstrap`.
    pub bootstrap: bool,
    /// How many jobs of the log in a million are handed over, and end in a later turn. The others run
    /// in place. Unless it is 0, reports about snapshots come in a later turn too.
    pub handed_over_ppm: u64,
    /// Power cuts, errors and lack of room at any call of a recovery, in a million.
    pub fault_at_start_ppm: u64,
}

/// Three seeds of four have small values alone; one of fourteen has large ones.
fn draw_value_bytes_max(rng: &mut Rng) -> usize {
    match rng.below(100) {
        0..74 => 0,
        74..86 => 20_000,
        86..93 => 200_000,
        _ => 1_000_000,
    }
}

/// One seed of a hundred has some values of the largest length. Each of these is copied to
/// all machines, watchers and disks, so such a seed takes a few seconds.
fn draw_longest_ppm(rng: &mut Rng) -> u64 {
    if rng.chance(10_000) { 100_000 } else { 0 }
}

/// The history stays as it is: the watchers' model knows how many events it has.
fn draw_memory(rng: &mut Rng) -> MemoryBounds {
    let large = MemoryBounds::default();
    if !rng.chance(330_000) {
        return large;
    }
    let due_bytes = rng.range(2_000, 20_000);
    MemoryBounds {
        due_bytes_min: due_bytes,
        due_bytes_max: due_bytes * rng.range(1, 3),
        log_bytes_max: due_bytes * rng.range(4, 6),
        log_bytes_kept: due_bytes / rng.range(1, 10),
        lone_log_bytes: due_bytes / 8,
        uncommitted_bytes_max: rng.range(2_000, 20_000) as usize,
        in_flight_bytes_max: rng.range(1_000, 5_000) as usize,
        copies_bytes: rng.range(2_000, 100_000) as usize,
        ..large
    }
}

impl Params {
    pub fn draw(rng: &mut Rng) -> Params {
        let machines = *rng.pick(&[3, 3, 5]);
        let heartbeat_ms = rng.range(10, 60);
        let election_ms = heartbeat_ms * rng.range(4, 8);
        let sync_us_min = rng.range(50, 500);
        let mut blows = BLOWS.to_vec();
        // Each kind of fault is left out in a third of the seeds, so that the others get room.
        blows.retain(|_| !rng.chance(330_000));
        // One that moves can be lost to machines that know no other: not where the cluster may
        // shrink to it.
        let remove_delay_ms = *rng.pick(&[2_000, 5_000, 1_800_000]);
        let shrinks = remove_delay_ms < 1_000_000 || blows.iter().any(|b| b.0 == Blow::Remove);
        blows.retain(|b| b.0 != Blow::Move || !shrinks);
        let mut params = Params {
            machines,
            spare: 3,
            heartbeat_ms,
            election_ms,
            snapshot_count: rng.range(50, 100),
            is_unequal: rng.chance(500_000),
            history_events: *rng.pick(&[10, 100, 1_000]),
            // Of its own, so that the other draws of a seed stay as they are.
            memory: draw_memory(&mut Rng::new(sync_us_min << 20 | election_ms)),
            active_size: (machines as u32).max(*rng.pick(&[3, 5, 9])),
            remove_delay_ms,
            sync_interval_ms: *rng.pick(&[1_000, 1_000, 2_000]),
            attempts_max: *rng.pick(&[0, 3]),
            pause_ms: election_ms * rng.range(1, 2),
            call_ms: election_ms * rng.range(2, 5),
            net: NetParams::draw(rng),
            sync_us_min,
            sync_us_max: sync_us_min + *rng.pick(&[100, 2_000, 10_000]),
            slow_ppm: *rng.pick(&[0, 1_000, 20_000]),
            slow_us_max: election_ms * 1_000 * rng.range(1, 3),
            clients: rng.range(3, 8) as usize,
            think_us_max: *rng.pick(&[2_000, 10_000, 40_000]),
            client_timeout_us: election_ms * 1_000 * rng.range(3, 20),
            keys: rng.range(2, 6) as usize,
            raw_ppm: 500_000,
            value_bytes_max: draw_value_bytes_max(rng),
            longest_ppm: draw_longest_ppm(&mut Rng::new(election_ms << 20 | sync_us_min)),
            batch_us: *rng.pick(&[0, 0, 200, 1_000]),
            blow_us_mean: election_ms * rng.range(500, 4_000),
            down_us_max: election_ms * 1_000 * rng.range(1, 8),
            blows,
            // Of its own, as the memory is.
            adds_odd_members: Rng::new(sync_us_min << 24 | election_ms).chance(100_000),
            forward: rng.chance(330_000),
            bootstrap: rng.chance(330_000),
            handed_over_ppm: *rng.pick(&[0, 500_000, 1_000_000]),
            fault_at_start_ppm: *rng.pick(&[0, 100_000, 300_000]),
        };
        // Drawn last, so that a seed means the same otherwise.
        params.lengthen_lines(*rng.pick(&[0, 0, 0, 0, 10_000, 50_000, 150_000]));
        params
    }

    /// Each message takes so much longer, in microseconds. Calls and clients wait for it.
    fn lengthen_lines(&mut self, delay_us: u64) {
        self.net.line_us = delay_us;
        self.call_ms += 6 * delay_us / 1_000;
        self.client_timeout_us += 6 * delay_us;
    }

    /// By how much machines may lengthen their timeouts because of round trips (PROTOCOL 23), in
    /// microseconds: three times the longest one that can be drawn, at most 3 s. A ping, like a hello,
    /// is sent again when it is lost.
    pub fn line_allowance_us(&self) -> u64 {
        let net = &self.net;
        let mut way_us = net.line_us + net.delay_us_max + self.batch_us;
        if net.late_ppm > 0 {
            way_us += net.late_us_max;
        }
        if net.drop_ppm > 0 {
            way_us += 600 * self.election_ms;
        }
        if self.blows.iter().any(|(blow, _)| *blow == Blow::Clog) {
            way_us += self.down_us_max;
        }
        3 * (2 * way_us).min(1_000_000)
    }

    /// The settings of one machine.
    pub fn draw_tuning(&self, rng: &mut Rng) -> Tuning {
        let common = Tuning {
            heartbeat_ms: self.heartbeat_ms,
            election_ms: self.election_ms,
            snapshot_count: self.snapshot_count,
            segment_bytes: SEGMENT_BYTES_MIN,
            request_bytes_max: REQUEST_BYTES_MAX,
        };
        if !self.is_unequal {
            return common;
        }
        Tuning {
            heartbeat_ms: rng.range(common.heartbeat_ms.div_ceil(2), common.heartbeat_ms),
            election_ms: rng.range(2 * common.heartbeat_ms, common.election_ms),
            snapshot_count: *rng.pick(&[20, 50, 100, 300]),
            segment_bytes: common.segment_bytes * *rng.pick(&[1, 1, 2, 8]),
            request_bytes_max: *rng.pick(&[1_024, 65_536, common.request_bytes_max]),
        }
    }

    /// The pieces of a snapshot are at least this long, unless the disk reads less. A snapshot of long
    /// values would otherwise travel for minutes.
    pub fn piece_bytes_min(&self) -> usize {
        match self.longest_ppm {
            0 => 4 * self.value_bytes_max.min(100_000),
            _ => 400_000,
        }
    }

    /// The length of the next value; most are short.
    pub fn draw_value_bytes(&self, rng: &mut Rng) -> usize {
        if self.longest_ppm > 0 && rng.chance(self.longest_ppm) {
            return REQUEST_BYTES_MAX as usize - FORM_BYTES - rng.index(65);
        }
        let longest = self.value_bytes_max;
        match rng.below(16) {
            0 => longest - rng.index(longest.min(64) + 1),
            1..6 => rng.index(longest / 16 + 1),
            6..9 => rng.index(longest.min(20_000) + 1),
            _ => rng.index(longest.min(100) + 1),
        }
    }

    /// One of the faults of this seed, by weight.
    pub fn pick_blow(&self, rng: &mut Rng) -> Option<Blow> {
        let total: u64 = self.blows.iter().map(|b| b.1).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.below(total);
        for (blow, weight) in &self.blows {
            if at < *weight {
                return Some(*blow);
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }
}
