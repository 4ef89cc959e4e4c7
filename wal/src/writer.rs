//! The files that jobs write: the directory with its lock, `state` and the newest segment.
//!
//! A job needs no other file, and only jobs write. So these files are one value. The log owns it
//! between jobs, and a job that is handed over takes it along ([`Task`]). Meanwhile the log has no
//! file: it cannot start another job, write the closing mark or store to the map.
//!
//! This file must not know the records that wait, nor choose the next job. Start reading at
//! [`Writer::run`], then [`Task`].
use crate::Error;
use crate::dir::LogDir;
use crate::format::SegmentHead;
use crate::fs::FileSystem;
use crate::job::{Job, Manner, Step};
use crate::segment::{self, ActiveSegment};
use crate::spares::Spare;
use crate::state::StateFile;

/// The files that jobs write.
pub struct Writer<F: FileSystem> {
    /// The data directory and its lock.
    pub(crate) dir: LogDir<F>,
    /// Term, vote and the number of `active`.
    pub(crate) state: StateFile<F>,
    /// The segment that batches are written to.
    pub(crate) active: ActiveSegment<F>,
}

impl<F: FileSystem> Writer<F> {
    /// Makes the steps of a job, in order.
    ///
    /// # Errors
    ///
    /// A system call failed. Which steps are durable is unknown then.
    pub fn run(&mut self, job: &mut Job, manner: Manner) -> Result<(), Error> {
        let mut steps = std::mem::take(&mut job.steps);
        for step in steps.drain(..) {
            self.make(step, job, manner)?;
        }
        // Without its content: the memory saves the next job an allocation.
        job.steps = steps;
        Ok(())
    }

    fn make(&mut self, step: Step, job: &mut Job, manner: Manner) -> Result<(), Error> {
        match step {
            Step::State { term, vote } => self.state.save(&mut self.dir, term, vote)?,
            Step::Append {
                sequence,
                offset,
                bytes,
            } => {
                let at = (self.active.sequence(), self.active.end());
                assert_eq!((sequence, offset), at, "a batch follows the last one");
                self.append(&bytes, manner)?;
                job.buffer = bytes;
            }
            Step::Rotate { spare, head } => self.rotate(&spare, &head)?,
            Step::MakeSpare(spare) => {
                let is_made = segment::make_spare(&mut self.dir, &spare)?;
                job.on_spare(spare, is_made);
            }
            Step::Recycle { sequence, spare } => {
                let is_made = segment::recycle(&mut self.dir, sequence, &spare)?;
                job.on_spare(spare, is_made);
            }
            Step::Remove { sequence } => segment::remove(&mut self.dir, sequence)?,
        }
        Ok(())
    }

    /// Writes a batch, or the closing mark, and syncs it.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn append(&mut self, bytes: &[u8], manner: Manner) -> Result<(), Error> {
        self.active.write_batch(&mut self.dir, bytes, manner)?;
        self.active.sync(&mut self.dir)
    }

    /// Goes on in a spare. The current segment must have been synced to its end.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn rotate(&mut self, spare: &Spare, head: &SegmentHead) -> Result<(), Error> {
        let fresh = segment::put_into_use(&mut self.dir, &spare.name, head)?;
        self.state.save_segment(&mut self.dir, head.sequence)?;
        self.active = fresh;
        Ok(())
    }

    /// Part of `Wal::check_invariants`.
    ///
    /// # Panics
    ///
    /// If a part contradicts another.
    pub fn check_invariants(&self) {
        self.active.check_invariants();
        assert_eq!(
            self.state.slot().segment,
            self.active.sequence(),
            "`state` names the newest segment"
        );
    }
}

/// A job that is handed over, with the files that it writes.
///
/// The log gives it to its caller (`Wal::hand_over`), a thread of the caller runs it, and the log
/// takes it back (`Wal::take_back`). If a task is dropped, its files are closed and the directory is
/// unlocked. The log can run no further job then.
pub struct Task<F: FileSystem> {
    writer: Writer<F>,
    job: Job,
    /// Whether the job is one batch; never changes.
    is_one_sync: bool,
    /// How it ended; `None` before it has run.
    result: Option<Result<(), Error>>,
}

impl<F: FileSystem> Task<F> {
    /// A task that has not run.
    pub(crate) fn new(writer: Writer<F>, job: Job) -> Task<F> {
        let is_one_sync = matches!(job.steps.as_slice(), [Step::Append { .. }]);
        Task {
            writer,
            job,
            is_one_sync,
            result: None,
        }
    }

    /// Makes the system calls of the job. They may block for as long as the device takes.
    pub fn run(&mut self) {
        self.result = Some(self.writer.run(&mut self.job, Manner::HandedOver));
    }

    /// Whether the job makes records or a commit mark durable.
    pub fn has_records(&self) -> bool {
        self.job.mark.is_some()
    }

    /// Whether the job has one call that waits for the device: the sync of a batch.
    pub fn is_one_sync(&self) -> bool {
        self.is_one_sync
    }

    /// The writer, the job, and how the job ended.
    ///
    /// # Panics
    ///
    /// If it has not run.
    pub(crate) fn into_parts(self) -> (Writer<F>, Job, Result<(), Error>) {
        let result = self.result.expect("a task runs before it is taken back");
        (self.writer, self.job, result)
    }
}
