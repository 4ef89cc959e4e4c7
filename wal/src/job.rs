//! A job of the log: the system calls of one sync, as plain data.
//!
//! The log composes a job from the waiting records, and only then calls the file system. The bytes
//! travel with the job, and it names the place of each batch, so it needs nothing of the log while
//! it runs. One job runs at a time. Its completion is reported by number, and one that fails is
//! final.
//!
//! This version runs a job in place, in the call that composed it ([`crate::Wal::start_sync`]).
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
        /// The highest index in the headers of the records; 0 without records.
        index_max: u64,
    },
    /// A spare becomes the newest segment, and `state` gets its number.
    Rotate {
        /// The spare.
        spare: Spare,
        /// The head of the new segment.
        head: Box<SegmentHead>,
    },
}

/// An ordered list of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The mark of the last record that is durable once the job has ended. Its end is reported by
    /// this number.
    pub mark: u64,
    /// The steps, in order.
    pub steps: Vec<Step>,
}
