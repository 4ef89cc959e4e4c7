//! Spare files, and which of them the waiting records will use; pure.
//!
//! Most spares are as long as a segment. A record that does not fit into such a segment gets a
//! segment of its own size, and a caller that wants much room for certain gets one longer spare
//! instead of many short ones.
//!
//! Start reading at [`Spares::place`].
use crate::format::{HEADER, PAGE};

/// A file that is ready to become a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Its name in the data directory.
    pub name: String,
    /// Its length in bytes; all of it is allocated.
    pub bytes: u64,
}

/// The spares of a log.
#[derive(Default)]
pub struct Spares {
    /// The shortest first.
    spares: Vec<Spare>,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The room that is left then in the segment of the last record, in bytes.
    pub left: usize,
    /// The room in the longest spare that is not used, in bytes; 0 without one.
    pub longest: usize,
}

impl Spares {
    /// These files, in any order.
    pub fn new(mut spares: Vec<Spare>) -> Spares {
        spares.sort_by_key(|spare| spare.bytes);
        Spares { spares }
    }

    /// Adds a spare.
    pub fn add(&mut self, spare: Spare) {
        let at = self.spares.partition_point(|s| s.bytes <= spare.bytes);
        self.spares.insert(at, spare);
    }

    /// How many spares have this length.
    pub fn count(&self, bytes: u64) -> usize {
        self.spares.iter().filter(|s| s.bytes == bytes).count()
    }

    /// Takes all spares out.
    pub fn take_all(&mut self) -> Vec<Spare> {
        std::mem::take(&mut self.spares)
    }

    /// Takes the shortest spare whose segment, with a head of `head` bytes, has room for a record
    /// of `length` bytes and the record that ends its batch.
    pub fn take(&mut self, length: usize, head: usize) -> Option<Spare> {
        let fits = |spare: &Spare| room_of(spare, head) >= length + HEADER;
        let at = self.spares.iter().position(fits)?;
        Some(self.spares.remove(at))
    }

    /// The room in the longest spare, as a segment with a head of `head` bytes; 0 without one.
    pub fn longest(&self, head: usize) -> usize {
        self.spares.last().map_or(0, |spare| room_of(spare, head))
    }

    /// Places records of these lengths as they will be written: one after the other into the
    /// current segment, where `room` bytes are free, then into the spares that `take` returns.
    ///
    /// # Errors
    ///
    /// No spare has room: the length of the record.
    pub fn place(
        &self,
        lengths: impl Iterator<Item = usize>,
        room: usize,
        head: usize,
    ) -> Result<Placement, usize> {
        let rooms = || self.spares.iter().map(|spare| room_of(spare, head));
        // The rooms of the spares that are left once one is used.
        let mut rest: Option<Vec<usize>> = None;
        let mut left = room;
        for length in lengths {
            if length + HEADER > left {
                let rest = rest.get_or_insert_with(|| rooms().collect());
                let at = rest.iter().position(|room| *room >= length + HEADER);
                left = rest.remove(at.ok_or(length)?);
            }
            left -= length;
        }
        let longest = match &rest {
            Some(rest) => rest.last().copied(),
            None => rooms().next_back(),
        };
        Ok(Placement {
            left,
            longest: longest.unwrap_or(0),
        })
    }
}

/// The room in a segment that a spare becomes, in bytes.
fn room_of(spare: &Spare, head: usize) -> usize {
    (spare.bytes as usize).saturating_sub(head)
}

/// The length of a segment for a record of `length` bytes: `segment_bytes`, or more if the record
/// does not fit with a head of `head` bytes. Each record has room for the end of its batch, and
/// each segment for a commit mark of its own and for the closing mark.
pub fn segment_bytes_for(length: usize, head: usize, segment_bytes: u64) -> u64 {
    let needed = (head + length + 4 * HEADER).next_multiple_of(PAGE) as u64;
    segment_bytes.max(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare(bytes: u64) -> Spare {
        Spare {
            name: bytes.to_string(),
            bytes,
        }
    }

    #[test]
    fn the_shortest_spare_with_room_is_taken() {
        let mut spares = Spares::new(vec![spare(900), spare(300), spare(300)]);
        let placed = spares.place([100, 100, 200].into_iter(), 150, 0);
        assert_eq!(
            placed,
            Ok(Placement {
                left: 100,
                longest: 900
            })
        );
        assert_eq!(spares.place([1000].into_iter(), 150, 0), Err(1000));
        assert_eq!(spares.take(400, 0), Some(spare(900)));
        assert_eq!(spares.take(268, 0), Some(spare(300)));
        assert_eq!(spares.take(269, 0), None);
    }

    #[test]
    fn a_long_record_gets_a_segment_of_its_own_size() {
        assert_eq!(segment_bytes_for(100, 4096, 65_536), 65_536);
        assert_eq!(segment_bytes_for(100_000, 4096, 65_536), 106_496);
    }
}
