//! Spare files, and which of them the waiting records will use; pure.
//!
//! Most spares are as long as a segment. A record that does not fit into such a segment gets a
//! segment of its own size, and a caller that wants much room for certain gets one longer spare
//! instead of many short ones.
//!
//! Start reading at [`Placement::add`].
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
    /// How often a spare was added or taken.
    changes: u64,
}

/// Where records go: one after the other into the current segment, then into the spares that
/// `Spares::take` returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The room that is left in the segment of the last record, in bytes.
    left: usize,
    /// The rooms of the spares that are left, in bytes, the smallest first.
    rest: Vec<usize>,
}

impl Placement {
    /// Places one more record of this length.
    ///
    /// # Errors
    ///
    /// No spare has room: the length of the record.
    pub fn add(&mut self, length: usize) -> Result<(), usize> {
        if length + HEADER > self.left {
            let at = self.rest.iter().position(|room| *room >= length + HEADER);
            self.left = self.rest.remove(at.ok_or(length)?);
        }
        self.left -= length;
        Ok(())
    }

    /// Places further records.
    ///
    /// # Errors
    ///
    /// As `add`.
    pub fn add_all(mut self, lengths: impl Iterator<Item = usize>) -> Result<Placement, usize> {
        for length in lengths {
            self.add(length)?;
        }
        Ok(self)
    }

    /// The longest piece that is left, in bytes.
    pub fn longest(&self) -> usize {
        self.rest
            .last()
            .map_or(self.left, |room| self.left.max(*room))
    }
}

/// What the placement of the waiting records depends on, besides the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacementBasis {
    /// The free bytes in the current segment.
    pub room: usize,
    /// The length of the head of a segment.
    pub head: usize,
    /// How many records were put into batches.
    pub sealed: u64,
    /// `Spares::changes`.
    pub changes: u64,
}

/// The placement of the waiting records when one was appended last. To look at all of them again
/// would cost more with each that waits.
#[derive(Debug)]
pub struct LastPlacement {
    basis: PlacementBasis,
    /// The bytes of the records.
    bytes: usize,
    placement: Placement,
}

impl LastPlacement {
    /// The placement of records of `bytes` bytes.
    pub fn new(basis: PlacementBasis, bytes: usize, placement: Placement) -> LastPlacement {
        LastPlacement {
            basis,
            bytes,
            placement,
        }
    }

    /// The placement, if it is that of the `bytes` bytes which wait now.
    pub fn get(&self, basis: PlacementBasis, bytes: usize) -> Option<&Placement> {
        let is_current = self.basis == basis && self.bytes == bytes;
        is_current.then_some(&self.placement)
    }
}

impl Spares {
    /// These files, in any order.
    pub fn new(mut spares: Vec<Spare>) -> Spares {
        spares.sort_by_key(|spare| spare.bytes);
        Spares { spares, changes: 0 }
    }

    /// How often a spare was added or taken.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Adds a spare.
    pub fn add(&mut self, spare: Spare) {
        let at = self.spares.partition_point(|s| s.bytes <= spare.bytes);
        self.spares.insert(at, spare);
        self.changes += 1;
    }

    /// How many spares have this length.
    pub fn count(&self, bytes: u64) -> usize {
        self.spares.iter().filter(|s| s.bytes == bytes).count()
    }

    /// Takes all spares out.
    pub fn take_all(&mut self) -> Vec<Spare> {
        self.changes += 1;
        std::mem::take(&mut self.spares)
    }

    /// Takes the shortest spare whose segment, with a head of `head` bytes, has room for a record
    /// of `length` bytes and the record that ends its batch.
    pub fn take(&mut self, length: usize, head: usize) -> Option<Spare> {
        let fits = |spare: &Spare| room_of(spare, head) >= length + HEADER;
        let at = self.spares.iter().position(fits)?;
        self.changes += 1;
        Some(self.spares.remove(at))
    }

    /// The room in the longest spare, as a segment with a head of `head` bytes; 0 without one.
    pub fn longest(&self, head: usize) -> usize {
        self.spares.last().map_or(0, |spare| room_of(spare, head))
    }

    /// No records yet: `room` bytes are free in the current segment, and all spares, as segments with
    /// a head of `head` bytes.
    pub fn placement(&self, room: usize, head: usize) -> Placement {
        let rest = self.spares.iter().map(|spare| room_of(spare, head));
        Placement {
            left: room,
            rest: rest.collect(),
        }
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
        let empty = spares.placement(150, 0);
        let placed = empty.clone().add_all([100, 100, 200].into_iter());
        let placed = placed.expect("there is room");
        assert_eq!(
            (placed.left, &*placed.rest, placed.longest()),
            (100, &[900][..], 900)
        );
        assert_eq!(empty.add_all([1000].into_iter()), Err(1000));
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
