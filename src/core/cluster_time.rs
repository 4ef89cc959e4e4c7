//! Times on the cluster clock, and how they are shown.
//!
//! The cluster has a clock of its own: nanoseconds on the scale of Unix time that move with elapsed
//! time only. `raft::clock` reads it. Ttls are kept in it, so that no wall clock ends or prolongs
//! one. The values here are its traces in the log:
//! - a [`Lease`] is a ttl with the [`Stamp`] that the leader gave it;
//! - [`ClusterTime`] is the sum of all stamps that were applied: the latest time, and by how
//!   much the wall clocks are off from it. Wall clocks only serve to print expirations.
//!
//! Start with [`ClusterTime::on_stamp`].
use super::fields::Codec;
use super::varint::{Malformed, Unpack, number_bytes, put_number};

/// The latest time that is accepted on either clock, in nanoseconds since the Unix epoch: the year
/// 2116. Sums with the longest ttl do not overflow.
pub const TIME_NS_MAX: u64 = 1 << 62;

/// The longest ttl, in seconds, and the longest time since one ended: 100 years. Clients of 0.4
/// cannot read much later expirations.
pub const TTL_S_MAX: i64 = 36_525 * 86_400;

/// The shown time follows the leader's wall clock only if it is off by more than this, in
/// nanoseconds: an expiration that is shown twice does not flicker.
const SHOWN_DRIFT_NS_MAX: u64 = 2_000_000_000;

const NS_PER_S: i64 = 1_000_000_000;

/// A moment, as the leader read its clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The cluster clock, in nanoseconds; at most [`TIME_NS_MAX`].
    pub cluster_ns: u64,
    /// The leader's wall clock, in nanoseconds since the Unix epoch; at most [`TIME_NS_MAX`].
    pub wall_ns: u64,
}

impl Stamp {
    /// The moment at which the clocks show these times; later ones count as [`TIME_NS_MAX`].
    pub fn new(cluster_ns: u64, wall_ns: u64) -> Stamp {
        Stamp {
            cluster_ns: cluster_ns.min(TIME_NS_MAX),
            wall_ns: wall_ns.min(TIME_NS_MAX),
        }
    }

    /// Whether both times are within their bounds.
    pub fn is_sound(&self) -> bool {
        self.cluster_ns <= TIME_NS_MAX && self.wall_ns <= TIME_NS_MAX
    }

    /// By how much the wall clock is ahead of the cluster clock, in nanoseconds.
    fn offset_ns(&self) -> i64 {
        self.wall_ns as i64 - self.cluster_ns as i64
    }
}

/// The ttl that a command gives to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The ttl in nanoseconds. One of 0 or less is over at once.
    ttl_ns: i64,
    /// When the leader took the request. `None` until then: no such lease is in the log.
    stamp: Option<Stamp>,
}

impl Lease {
    /// The lease that a client asks for, in seconds. A longer one than [`TTL_S_MAX`] counts as
    /// that.
    pub fn of_seconds(ttl_s: i64) -> Lease {
        Lease {
            ttl_ns: ttl_s.clamp(-TTL_S_MAX, TTL_S_MAX) * NS_PER_S,
            stamp: None,
        }
    }

    /// A lease of `ttl_ns` nanoseconds that was taken at `stamp`.
    pub fn new(ttl_ns: i64, stamp: Stamp) -> Lease {
        Lease {
            ttl_ns,
            stamp: Some(stamp),
        }
    }

    /// The leader takes the request at `stamp`.
    pub fn take(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
    }

    /// The leader that took the request has not committed it: the next one will take it anew.
    pub fn give_back(&mut self) {
        self.stamp = None;
    }

    /// When the leader took it.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// When it ends, on the cluster clock in nanoseconds. It counts from 0 until it is taken.
    pub fn deadline_ns(&self) -> u64 {
        let from_ns = self.stamp.map_or(0, |stamp| stamp.cluster_ns);
        from_ns.saturating_add_signed(self.ttl_ns)
    }

    /// The ttl in seconds, rounded up.
    pub fn ttl_s(&self) -> i64 {
        self.ttl_ns.div_euclid(NS_PER_S) + i64::from(self.ttl_ns.rem_euclid(NS_PER_S) > 0)
    }

    /// Whether a correct leader can have put it into the log.
    pub fn is_sound(&self) -> bool {
        let ttl_ns_max = TTL_S_MAX * NS_PER_S;
        (-ttl_ns_max..=ttl_ns_max).contains(&self.ttl_ns)
            && self.stamp.is_some_and(|stamp| stamp.is_sound())
    }
}

/// The time as a member knows it from the entries that it has applied. Equal on all members at
/// equal applied index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterTime {
    /// The latest stamp; `None` before the first.
    last: Option<Stamp>,
    /// The difference between a time as it is shown and on the cluster clock, in nanoseconds.
    offset_ns: i64,
}

impl ClusterTime {
    /// As a snapshot holds it.
    pub fn new(last: Option<Stamp>, offset_ns: i64) -> ClusterTime {
        ClusterTime { last, offset_ns }
    }

    /// A stamp is applied.
    pub fn on_stamp(&mut self, stamp: Stamp) {
        if self.is_off(stamp) {
            self.offset_ns = stamp.offset_ns();
        }
        if self
            .last
            .is_none_or(|last| last.cluster_ns <= stamp.cluster_ns)
        {
            self.last = Some(stamp);
        }
    }

    /// Whether `stamp` changes how times are shown.
    pub fn is_off(&self, stamp: Stamp) -> bool {
        stamp.offset_ns().abs_diff(self.offset_ns) > SHOWN_DRIFT_NS_MAX
    }

    /// The latest stamp.
    pub fn last(&self) -> Option<Stamp> {
        self.last
    }

    /// By how much shown times are ahead of the cluster clock, in nanoseconds.
    pub fn offset_ns(&self) -> i64 {
        self.offset_ns
    }

    /// A time on the cluster clock as it is shown, in nanoseconds since the Unix epoch.
    pub fn shown_ns(&self, cluster_ns: u64) -> u64 {
        cluster_ns.saturating_add_signed(self.offset_ns)
    }
}

/// Two numbers of 8 bytes in little endian: as varints they would take 9.
impl Codec<Stamp> for Stamp {
    fn put(value: &Stamp, out: &mut Vec<u8>) {
        out.extend_from_slice(&value.cluster_ns.to_le_bytes());
        out.extend_from_slice(&value.wall_ns.to_le_bytes());
    }

    fn size(_: &Stamp) -> usize {
        16
    }

    fn take(from: &mut Unpack) -> Result<Stamp, Malformed> {
        let mut number = || -> Result<u64, Malformed> {
            let bytes = from.bytes(8)?.try_into().expect("eight were taken");
            Ok(u64::from_le_bytes(bytes))
        };
        Ok(Stamp {
            cluster_ns: number()?,
            wall_ns: number()?,
        })
    }
}

/// A lease that may be absent: a byte that is 0 for none, 1 for one without a stamp, 2 for one with
/// a stamp; then the ttl as [`put_signed`] writes it, and the stamp.
pub struct OptionalLease;

impl Codec<Option<Lease>> for OptionalLease {
    fn put(value: &Option<Lease>, out: &mut Vec<u8>) {
        let Some(lease) = value else {
            return out.push(0);
        };
        out.push(1 + u8::from(lease.stamp.is_some()));
        put_signed(lease.ttl_ns, out);
        if let Some(stamp) = &lease.stamp {
            Stamp::put(stamp, out);
        }
    }

    fn size(value: &Option<Lease>) -> usize {
        let Some(lease) = value else {
            return 1;
        };
        let stamp = lease.stamp.as_ref().map_or(0, Stamp::size);
        1 + number_bytes(zigzag(lease.ttl_ns)) + stamp
    }

    fn take(from: &mut Unpack) -> Result<Option<Lease>, Malformed> {
        let has_stamp = match from.byte()? {
            0 => return Ok(None),
            1 => false,
            2 => true,
            _ => return Err(Malformed),
        };
        let ttl_ns = take_signed(from)?;
        let stamp = if has_stamp {
            Some(Stamp::take(from)?)
        } else {
            None
        };
        Ok(Some(Lease { ttl_ns, stamp }))
    }
}

/// Appends a number with a sign: a varint in which small numbers of either sign are short.
pub fn put_signed(number: i64, out: &mut Vec<u8>) {
    put_number(zigzag(number), out);
}

/// Reads what `put_signed` appends.
///
/// # Errors
///
/// If the bytes are no such number.
pub fn take_signed(from: &mut Unpack) -> Result<i64, Malformed> {
    let number = from.number()?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

/// 0, -1, 1, -2, … become 0, 1, 2, 3, ….
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back() {
        let stamp = Stamp::new(7, u64::MAX);
        let taken = |ttl_ns| Some(Lease::new(ttl_ns, stamp));
        for lease in [
            None,
            Some(Lease::of_seconds(-1)),
            Some(Lease::of_seconds(i64::MAX)),
            taken(0),
            taken(i64::MIN),
            taken(i64::MAX),
        ] {
            let mut bytes = Vec::new();
            OptionalLease::put(&lease, &mut bytes);
            assert_eq!(bytes.len(), OptionalLease::size(&lease));
            assert_eq!(OptionalLease::take(&mut Unpack::new(&bytes)), Ok(lease));
        }
    }

    #[test]
    fn a_deadline_stays_in_range() {
        let late = Stamp::new(u64::MAX, 0);
        let lease = Lease::of_seconds(i64::MAX);
        let longest = Lease::new(lease.ttl_ns, late);
        assert!(longest.is_sound() && longest.deadline_ns() < u64::MAX);
        assert_eq!(Lease::new(-1, Stamp::new(0, 0)).deadline_ns(), 0);
        assert!(!lease.is_sound(), "no leader has taken it");
    }

    #[test]
    fn the_shown_time_follows_a_wall_clock_that_is_far_off() {
        let mut time = ClusterTime::default();
        time.on_stamp(Stamp::new(100, 1_000_000_100));
        assert_eq!(time.shown_ns(5), 5, "off by a second");
        time.on_stamp(Stamp::new(200, 3_000_000_200));
        assert_eq!(time.shown_ns(5), 3_000_000_005);
        time.on_stamp(Stamp::new(150, 2_500_000_000));
        assert_eq!(time.last().map(|last| last.cluster_ns), Some(200));
    }
}
