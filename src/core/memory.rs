//! The bounds of the memory of one machine, derived from one figure: `-max-memory`.
//!
//! Pure arithmetic; the shell finds the figure and may replace single bounds by settings of their
//! own. The shares of the figure:
//!
//! | share | holds |
//! |---|---|
//! | 18/32 | the key space |
//! | 6/32 | the log in memory, with a copy of what waits for a sync; a snapshot begins after 2/32 |
//! | 3/32 | input and output of all clients |
//! | 2/32 | copies for snapshots and listings under way |
//! | 1/32 | the history |
//!
//! The rest is for the program itself, links, and the waste of the allocator. A bound that is not
//! scarce on a large machine has a ceiling, so that memory is not used because it is there.
//! Start with [`MemoryBounds::of`].

/// The shares are fractions of this.
const WHOLE: u64 = 32;
/// A figure below this is raised to it: the program and its buffers take 6 MiB.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// The key space by default, in shares.
const STORE_SHARES: u64 = 18;
/// The most bytes of events that are kept, however much memory there is.
const HISTORY_BYTES_MAX: u64 = 16 << 20;
/// The most bytes that are kept for snapshots and listings, however much memory there is: as many as
/// of the log make a snapshot due. No more are needed, unless the log grows by more while a
/// snapshot is written.
const COPIES_BYTES_MAX: u64 = LOG_BYTES_MAX / 3;
/// The most bytes that the clients hold, however much memory there is.
const CLIENT_BYTES_MAX: u64 = 64 << 20;
/// The longest body of a request, however much memory there is. `-max-request-bytes` allows more.
const REQUEST_BYTES_MAX: u64 = 2 << 20;
/// The largest segment of the log, however much memory and disk there is.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// The smallest segment of the log that is derived.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// A disk has room for this many segments: log, spares, and three snapshots.
const SEGMENTS_PER_DISK: u64 = 64;
/// A snapshot is due at the latest when the log since the last one takes this part of the disk. The log
/// reaches back to the older of two snapshots.
const DUE_PER_DISK: u64 = 16;
/// The events take at most this part of the disk. Each of three snapshots holds them.
const HISTORY_PER_DISK: u64 = 32;
/// A snapshot is due after this many bytes of log, even if the key space is smaller.
const DUE_BYTES_MIN: u64 = 4 << 20;
/// A snapshot is due after this many bytes of log, unless the key space is larger.
const DUE_BYTES_MAX: u64 = 64 << 20;
/// A snapshot is due once the log is this many times as large as the key space.
const DUE_RATIO: u64 = 4;
/// The most bytes of log in memory, however much memory there is. Of these a third makes a snapshot
/// due: clients are refused nothing while it is written.
const LOG_BYTES_MAX: u64 = 768 << 20;
/// The most bytes of log that a lone machine keeps in memory for a machine that may join it, however
/// much memory there is.
const LONE_LOG_BYTES_MAX: u64 = 1 << 20;
/// The most bytes of entries that are not committed, however much memory there is.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// The most bytes of entries on the way to a peer, however much memory there is.
const IN_FLIGHT_BYTES_MAX: u64 = 4 << 20;
/// How many bytes of a snapshot are due, at least, for each byte by which the log grows.
const WRITTEN_PER_LOG_BYTE: u64 = 4;

/// The bounds, in bytes; the same as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Events that are kept for watches that start in the past.
    pub history_bytes: usize,
    /// Copies of nodes for the snapshot and the listings under way.
    pub copies_bytes: usize,
    /// A snapshot is due after this many bytes of log, even if the key space is smaller.
    pub due_bytes_min: u64,
    /// A snapshot is due after this many bytes of log, even if the key space is larger.
    pub due_bytes_max: u64,
    /// With more bytes of log in memory, clients' values are held, and refused after five seconds.
    pub log_bytes_max: u64,
    /// A log of more bytes keeps no entries for followers that a snapshot on the disk covers.
    pub log_bytes_kept: u64,
    /// A lone machine keeps so many bytes of applied entries, whatever a snapshot covers; twice as many
    /// until it releases some.
    pub lone_log_bytes: u64,
    /// With more bytes of entries that are not committed, a leader takes no further ones. With more
    /// bytes of records that wait for a sync of its own disk, no member does: the disk holds a copy
    /// of these records, as they will be written.
    pub uncommitted_bytes_max: usize,
    /// A leader that does not take writes now holds at most so many bytes of them, and refuses more.
    /// So does a member that forwards and has no leader; its bound is 4 MiB if that is more. They are
    /// in none of the shares: they are held for seconds, and while they are, their clients send
    /// nothing else.
    pub held_bytes_max: usize,
    /// With more bytes of entries on the way to a peer, no further ones are sent to it.
    pub in_flight_bytes_max: usize,
}

/// The bounds of a machine whose memory is not scarce.
impl Default for MemoryBounds {
    fn default() -> MemoryBounds {
        MemoryBounds::of(u64::MAX)
    }
}

/// So many shares of `memory_bytes`, at most `bytes_max`.
fn shares(memory_bytes: u64, count: u64, bytes_max: u64) -> u64 {
    let bytes = memory_bytes.max(MEMORY_BYTES_MIN) / WHOLE;
    bytes.saturating_mul(count).min(bytes_max)
}

impl MemoryBounds {
    /// The bounds for a process that may use `memory_bytes`.
    pub fn of(memory_bytes: u64) -> MemoryBounds {
        let share = |count, bytes_max| shares(memory_bytes, count, bytes_max);
        MemoryBounds {
            history_bytes: share(1, HISTORY_BYTES_MAX) as usize,
            copies_bytes: share(2, COPIES_BYTES_MAX) as usize,
            due_bytes_min: share(1, DUE_BYTES_MIN),
            due_bytes_max: share(2, LOG_BYTES_MAX / 3),
            log_bytes_max: share(6, LOG_BYTES_MAX),
            log_bytes_kept: share(1, LOG_BYTES_MAX / 3) / 2,
            lone_log_bytes: share(1, 2 * LONE_LOG_BYTES_MAX) / 2,
            uncommitted_bytes_max: (share(5, 4 * UNCOMMITTED_BYTES_MAX) / 4) as usize,
            held_bytes_max: share(2, UNCOMMITTED_BYTES_MAX) as usize,
            in_flight_bytes_max: (share(1, 2 * IN_FLIGHT_BYTES_MAX) / 2) as usize,
        }
    }

    /// These bounds on a disk of `disk_bytes`: if the log and the snapshots filled it before the next one
    /// is whole, nothing could be released.
    pub fn on_disk(self, disk_bytes: u64) -> MemoryBounds {
        let due_bytes = (disk_bytes / DUE_PER_DISK).max(SEGMENT_BYTES_MIN);
        let history_bytes = (disk_bytes / HISTORY_PER_DISK).max(SEGMENT_BYTES_MIN) as usize;
        MemoryBounds {
            history_bytes: self.history_bytes.min(history_bytes),
            due_bytes_min: self.due_bytes_min.min(due_bytes),
            due_bytes_max: self.due_bytes_max.min(due_bytes),
            ..self
        }
    }

    /// These bounds, with a snapshot after `bytes` of log whatever the size of the key space.
    pub fn with_snapshot_after(self, bytes: u64) -> MemoryBounds {
        MemoryBounds {
            due_bytes_min: bytes,
            due_bytes_max: bytes,
            log_bytes_max: self.log_bytes_max.max(bytes.saturating_mul(3)),
            ..self
        }
    }

    /// A snapshot is due after this many bytes of log, with `live_bytes` in the key space and
    /// `last_bytes` in the last snapshot, which also holds the history. The log in memory grows to a
    /// few times the live data; and a byte of the log costs at most one byte of snapshots, as long as
    /// the memory allows.
    pub fn due_bytes(&self, live_bytes: u64, last_bytes: u64) -> u64 {
        let scaled = live_bytes.saturating_mul(DUE_RATIO);
        let scaled = scaled.clamp(self.due_bytes_min, DUE_BYTES_MAX.max(self.due_bytes_min));
        scaled
            .max(live_bytes)
            .max(last_bytes)
            .min(self.due_bytes_max)
    }

    /// After `snapshot_count` entries a snapshot is due, if the log has this many bytes: a snapshot
    /// of much live data is not written for a few short entries.
    pub fn due_bytes_by_count(&self, last_bytes: u64) -> u64 {
        last_bytes.min(self.due_bytes_max)
    }

    /// How many bytes of a snapshot of `live_bytes` are due when the log has grown by `log_bytes`
    /// since it began, and `copied_bytes` are kept for it. The largest of
    /// - `WRITTEN_PER_LOG_BYTE` times the growth;
    /// - a share that makes it whole when the growth is half of `due_bytes_max`;
    /// - a share that makes it whole when the copies are half of `copies_bytes`.
    pub fn snapshot_bytes_due(&self, live_bytes: u64, log_bytes: u64, copied_bytes: u64) -> u64 {
        let share_of_live = |bytes: u64, bytes_max: u64| {
            let share = u128::from(live_bytes) * u128::from(2 * bytes);
            (share / u128::from(bytes_max.max(1))) as u64
        };
        let by_growth = share_of_live(log_bytes, self.due_bytes_max);
        let by_copies = share_of_live(copied_bytes, self.copies_bytes as u64);
        by_growth
            .max(by_copies)
            .max(log_bytes.saturating_mul(WRITTEN_PER_LOG_BYTE))
    }
}

/// The bound of the key space of a process that may use `memory_bytes`.
pub fn store_bytes(memory_bytes: u64) -> u64 {
    shares(memory_bytes, STORE_SHARES, u64::MAX)
}

/// The bound of all clients of a process that may use `memory_bytes` together.
pub fn client_bytes(memory_bytes: u64) -> u64 {
    shares(memory_bytes, 3, CLIENT_BYTES_MAX)
}

/// The longest body of a request to a process that may use `memory_bytes`. On its way a body is
/// held about eight times: in buffers, as value, as entry, and in the answer beside the former
/// value.
pub fn request_bytes(memory_bytes: u64) -> u64 {
    shares(memory_bytes, 1, 2 * REQUEST_BYTES_MAX) / 2
}

/// The bound of the messages that have not arrived whole, over all links of a process that may use
/// `memory_bytes` and takes requests of `request_bytes`. A longer message would not fit: it is held
/// as it arrives, as entry and in the copy for the disk, beside the next one. There is room in any
/// case for the longest request that this machine takes, and for that of a large machine.
pub fn message_bytes(memory_bytes: u64, request_bytes: u64) -> u64 {
    shares(memory_bytes, WHOLE / 4, u64::MAX).max(request_bytes + 2 * REQUEST_BYTES_MAX)
}

/// The size of a segment of the log for a process that may use `memory_bytes`, on a disk of
/// `disk_bytes`: a power of two. Small segments are released sooner. A record that does not fit gets
/// a segment of its own size, so none is too small.
pub fn segment_bytes(memory_bytes: u64, disk_bytes: Option<u64>) -> u64 {
    let by_disk = disk_bytes.map_or(SEGMENT_BYTES_MAX, |bytes| bytes / SEGMENTS_PER_DISK);
    let by_memory = shares(memory_bytes, 1, SEGMENT_BYTES_MAX);
    let bytes = by_disk.min(by_memory).max(SEGMENT_BYTES_MIN);
    1 << bytes.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The sum of all that may be held at once leaves room for the program.
    #[test]
    fn the_shares_fit_into_the_memory() {
        for memory in [16 * MIB, 32 * MIB, 100 * MIB, 1 << 30, 1 << 40] {
            let bounds = MemoryBounds::of(memory);
            // Kept, since the last snapshot, since the one under way began, not committed; and a
            // copy of the records that are not durable.
            let log = bounds.log_bytes_kept
                + bounds.due_bytes_max
                + bounds.due_bytes_max / 2
                + 2 * bounds.uncommitted_bytes_max as u64;
            assert!(log <= bounds.log_bytes_max, "{log} of {memory}");
            let held = store_bytes(memory)
                + client_bytes(memory)
                + bounds.history_bytes as u64
                + bounds.copies_bytes as u64
                + bounds.log_bytes_max;
            assert!(held <= memory - memory / 16, "{held} of {memory}");
        }
    }

    #[test]
    fn a_device_of_32_mib() {
        let bounds = MemoryBounds::of(32 * MIB);
        assert_eq!(store_bytes(32 * MIB), 18 * MIB);
        assert_eq!(client_bytes(32 * MIB), 3 * MIB);
        assert_eq!(request_bytes(32 * MIB), MIB / 2);
        assert_eq!(segment_bytes(32 * MIB, Some(64 * MIB)), MIB);
        assert_eq!(message_bytes(32 * MIB, MIB / 2), 8 * MIB);
        assert_eq!(message_bytes(32 * MIB, 10 * MIB), 14 * MIB);
        assert_eq!(bounds.history_bytes as u64, MIB);
        // The log is bounded whatever is live, and longer than the live data while that is little.
        assert_eq!(bounds.due_bytes(0, 0), MIB);
        assert_eq!(bounds.due_bytes(MIB / 3, 0), 4 * (MIB / 3));
        assert_eq!(bounds.due_bytes(MIB, 0), 2 * MIB);
        assert_eq!(bounds.due_bytes(18 * MIB, 0), 2 * MIB);
        assert_eq!(bounds.due_bytes_by_count(1000), 1000);
        assert_eq!(bounds.due_bytes_by_count(18 * MIB), 2 * MIB);
        assert_eq!(bounds.snapshot_bytes_due(18 * MIB, MIB, 0), 18 * MIB);
        assert_eq!(bounds.snapshot_bytes_due(18 * MIB, 0, MIB), 18 * MIB);
        assert_eq!(bounds.snapshot_bytes_due(18 * MIB, 1000, MIB / 2), 9 * MIB);
        assert_eq!(bounds.snapshot_bytes_due(MIB, MIB, 0), 4 * MIB);
    }

    /// 5 MiB of live data, three snapshots of them with the events, and the log for three.
    #[test]
    fn the_log_and_its_snapshots_fit_on_a_small_disk() {
        for disk in [40 * MIB, 64 * MIB, 128 * MIB] {
            let bounds = MemoryBounds::default().on_disk(disk);
            let snapshot = 5 * MIB + bounds.history_bytes as u64;
            let log = bounds.due_bytes(5 * MIB, snapshot);
            assert!(
                3 * (snapshot + log) < disk,
                "{snapshot} and {log} of {disk}"
            );
        }
        let bounds = MemoryBounds::default();
        assert_eq!(bounds.on_disk(100 << 30), bounds);
    }

    #[test]
    fn a_large_machine_uses_no_memory_because_it_is_there() {
        let bounds = MemoryBounds::default();
        assert_eq!(bounds, MemoryBounds::of(64 << 30));
        assert_eq!(bounds.due_bytes(0, 0), 4 * MIB);
        assert_eq!(bounds.due_bytes(10 * MIB, 0), 40 * MIB);
        assert_eq!(bounds.due_bytes(40 * MIB, 0), 64 * MIB);
        assert_eq!(bounds.due_bytes(100 * MIB, 0), 100 * MIB);
        assert_eq!(bounds.due_bytes(1000 * MIB, 0), 256 * MIB);
        assert_eq!(bounds.snapshot_bytes_due(32 * MIB, 1000, 0), 4000);
        assert_eq!(bounds.snapshot_bytes_due(800 * MIB, MIB, 0), 25 * MIB / 4);
        assert_eq!(
            bounds.snapshot_bytes_due(800 * MIB, MIB, 16 * MIB),
            100 * MIB
        );
        // The last snapshot is history for the most part.
        assert_eq!(bounds.due_bytes(MIB, 17 * MIB), 17 * MIB);
        assert_eq!(segment_bytes(8 << 30, None), 16 * MIB);
        assert_eq!(segment_bytes(8 << 30, Some(64 * MIB)), MIB);
        assert_eq!(request_bytes(8 << 30), 2 * MIB);
    }

    #[test]
    fn a_figure_that_is_too_small_is_raised() {
        assert_eq!(MemoryBounds::of(0), MemoryBounds::of(MEMORY_BYTES_MIN));
        assert_eq!(segment_bytes(0, Some(0)), MIB);
    }
}
