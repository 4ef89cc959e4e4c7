//! A job of the log: a list of steps on the disk, as plain data.
//!
//! The log composes a job of records, of work on files, or of a term and vote. The writer
//! (`crate::writer`) carries it out: in place, in the call that composed it, or as a [`crate::Task`]
//! that another thread runs. The job has the bytes of each batch and its place, so it needs nothing
//! of the log while it runs. One job runs at a time, and one that fails is final.
//!
//! Start reading at [`Job`].
use crate::format::SegmentHead;
use crate::spares::Spare;

/// One step of a job. A step is durable before the next one starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Term and vote are written to both slots of `state`.
    State {
        /// The current term.
        term: u64,
        /// The candidate that has the vote, by the caller's number.
        vote: u64,
    },
    /// A batch is written to the newest segment, and synced.
    Append {
        /// The number of the segment.
        sequence: u64,
        /// The offset in the segment where the batch starts.
        offset: usize,
        /// The records and the record that ends the batch.
        bytes: Vec<u8>,
    },
    /// A spare becomes the newest segment, and `state` gets its number.
    Rotate {
        /// The spare.
        spare: Spare,
        /// The head of the new segment.
        head: Box<SegmentHead>,
    },
    /// A spare is made. It is left out if the disk has no room.
    MakeSpare(Spare),
    /// A released segment becomes a spare.
    Recycle {
        /// The number of the segment.
        sequence: u64,
        /// The spare that it becomes.
        spare: Spare,
    },
    /// A released segment is removed.
    Remove {
        /// The number of the segment.
        sequence: u64,
    },
}

/// An ordered list of steps, and their results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The mark of the last record that is durable once the job has ended; `None` for a job without
    /// records.
    pub mark: Option<u64>,
    /// The steps, in order. Those that were made are removed.
    pub steps: Vec<Step>,
    /// The spares that its steps have made.
    pub made: Vec<Spare>,
    /// The spares that the disk had no room for.
    pub refused: Vec<Spare>,
    /// The memory of the last batch that was written.
    pub buffer: Vec<u8>,
}

impl Job {
    /// One of its steps has made a spare, or the disk had no room for it.
    pub fn on_spare(&mut self, spare: Spare, is_made: bool) {
        let list = if is_made {
            &mut self.made
        } else {
            &mut self.refused
        };
        list.push(spare);
    }
}

/// How a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// In the call that has composed it. A batch goes on in its page through the map of the segment.
    InPlace,
    /// In another thread, while the caller goes on. Batches are written by calls alone and not
    /// through the map: a store to a page under write-back would wait for the device.
    HandedOver,
}
