//! The work on files that records need not wait for: making spares, and recycling or removing
//! released segments; pure.
//!
//! The steps wait here for a job. A spare counts only once its job has ended, so that records are
//! promised no room that the disk does not have.
//!
//! This file must not make a system call. Start reading at [`Upkeep`].
use std::collections::VecDeque;

use crate::Space;
use crate::job::{Job, Step};
use crate::scan::SegmentExtent;
use crate::segment::{self, SPARES_MAX};
use crate::spares::{Spare, Spares};

/// The spares, and the work that waits.
pub struct Upkeep {
    /// The spares that exist: usually one of `segment_bytes` bytes; none if the disk had no room for
    /// one, or after [`Upkeep::take_spares`].
    spares: Spares,
    /// The spares that a waiting step or the running job makes.
    coming: Vec<Spare>,
    /// The work that waits, oldest first.
    steps: VecDeque<Step>,
    /// The number in the name of the next spare. Above that of any spare, so that a job never makes
    /// a file of a name that is in use.
    next_number: u64,
    /// The length of a spare for usual records, in bytes; never changes.
    segment_bytes: u64,
    /// The disk had no room for the last spare that was tried, or `on_full` was called since.
    lacks_room: bool,
}

impl Upkeep {
    /// A log with these spares and no work. `next_number` is above the numbers in their names.
    pub fn new(spares: Spares, next_number: u64, segment_bytes: u64) -> Upkeep {
        Upkeep {
            spares,
            coming: Vec::new(),
            steps: VecDeque::new(),
            next_number,
            segment_bytes,
            lacks_room: false,
        }
    }

    /// The spares that exist.
    pub fn spares(&self) -> &Spares {
        &self.spares
    }

    /// Takes the shortest spare for a record: see [`Spares::take`]. Another one is made if none of
    /// the usual length is left.
    pub fn take_spare(&mut self, length: usize, head: usize) -> Option<Spare> {
        let spare = self.spares.take(length, head);
        self.keep_spare();
        spare
    }

    /// Whether work waits.
    pub fn waits(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Whether a waiting step or the running job makes a spare.
    pub fn makes_spare(&self) -> bool {
        !self.coming.is_empty()
    }

    /// Whether a waiting step or the running job makes a spare of at least `bytes` bytes.
    pub fn makes_spare_of(&self, bytes: u64) -> bool {
        self.coming.iter().any(|spare| spare.bytes >= bytes)
    }

    /// Whether the log has no spare for usual records because the disk had no room for one.
    pub fn lacks_spare(&self) -> bool {
        self.lacks_room && self.spares.count(self.segment_bytes) == 0
    }

    /// See [`crate::Wal::space`].
    pub fn space(&self) -> Space {
        if self.lacks_spare() {
            Space::Low
        } else {
            Space::Ok
        }
    }

    /// Whether the disk had no room for the last spare that was tried.
    pub fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    /// Has a spare made if none of the usual length exists or is coming.
    pub fn keep_spare(&mut self) {
        if self.count() == 0 {
            self.make_spare(self.segment_bytes);
        }
    }

    /// Has a spare of `bytes` bytes made.
    pub fn make_spare(&mut self, bytes: u64) {
        let spare = self.name_spare(bytes);
        self.steps.push_back(Step::MakeSpare(spare));
    }

    /// A segment was released: it becomes a spare, or is removed if enough exist.
    pub fn release(&mut self, segment: SegmentExtent) {
        let sequence = segment.sequence;
        let is_wanted = segment.bytes == self.segment_bytes && self.count() < SPARES_MAX;
        let step = if is_wanted {
            let spare = self.name_spare(segment.bytes);
            Step::Recycle { sequence, spare }
        } else {
            Step::Remove { sequence }
        };
        self.steps.push_back(step);
    }

    /// Puts the oldest step that waits into a job. One step waits for the device a few times; a
    /// snapshot may release hundreds of segments, and records wait for the job.
    pub fn compose(&mut self, job: &mut Job) {
        job.steps.extend(self.steps.pop_front());
    }

    /// A job has ended.
    pub fn on_ended(&mut self, job: &mut Job) {
        for spare in job.made.drain(..) {
            self.coming.retain(|coming| *coming != spare);
            self.spares.add(spare);
            self.lacks_room = false;
        }
        for spare in job.refused.drain(..) {
            self.coming.retain(|coming| *coming != spare);
            self.lacks_room = true;
        }
    }

    /// The disk is full: no spare is made until the caller asks again. The steps that wait are
    /// dropped, except for those that give room back.
    pub fn on_full(&mut self) {
        self.steps
            .retain(|step| !matches!(step, Step::MakeSpare(_)));
        self.coming.clear();
        for step in &mut self.steps {
            if let Step::Recycle { sequence, .. } = step {
                *step = Step::Remove {
                    sequence: *sequence,
                };
            }
        }
        self.lacks_room = true;
    }

    /// Takes all spares out, to remove them.
    pub fn take_spares(&mut self) -> Vec<Spare> {
        self.spares.take_all()
    }

    /// How many spares of the usual length exist or are coming.
    fn count(&self) -> usize {
        let coming = self.coming.iter();
        let coming = coming.filter(|spare| spare.bytes == self.segment_bytes);
        self.spares.count(self.segment_bytes) + coming.count()
    }

    fn name_spare(&mut self, bytes: u64) -> Spare {
        let name = segment::spare_name(self.next_number);
        self.next_number += 1;
        let spare = Spare { name, bytes };
        self.coming.push(spare.clone());
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 65_536;

    fn upkeep() -> Upkeep {
        Upkeep::new(Spares::default(), 1, SEGMENT)
    }

    fn job_of(upkeep: &mut Upkeep) -> Job {
        let mut job = Job::default();
        upkeep.compose(&mut job);
        job
    }

    /// The steps of all jobs, in order. A job has one step.
    fn steps_of(upkeep: &mut Upkeep) -> Vec<Step> {
        let mut steps = Vec::new();
        while upkeep.waits() {
            let job = job_of(upkeep);
            assert_eq!(job.steps.len(), 1);
            steps.extend(job.steps);
        }
        steps
    }

    fn segment(sequence: u64) -> SegmentExtent {
        SegmentExtent {
            sequence,
            bytes: SEGMENT,
            index_max: 9,
        }
    }

    #[test]
    fn a_spare_counts_once_its_job_has_ended() {
        let mut upkeep = upkeep();
        upkeep.keep_spare();
        upkeep.keep_spare();
        let mut job = job_of(&mut upkeep);
        upkeep.keep_spare();
        assert!(!upkeep.waits(), "one is coming");
        assert_eq!(upkeep.spares().count(SEGMENT), 0);
        let Some(Step::MakeSpare(spare)) = job.steps.pop() else {
            panic!("a spare is made");
        };
        job.made.push(spare.clone());
        upkeep.on_ended(&mut job);
        assert!(!upkeep.makes_spare());
        assert_eq!(upkeep.take_spare(100, 4096), Some(spare.clone()));
        let mut job = job_of(&mut upkeep);
        assert!(
            matches!(job.steps.pop(), Some(Step::MakeSpare(next)) if next.name != spare.name),
            "the next one has a name of its own"
        );
    }

    #[test]
    fn the_space_is_low_after_a_refusal_and_until_a_spare_is_made() {
        let mut upkeep = upkeep();
        upkeep.keep_spare();
        assert!(!upkeep.lacks_spare(), "it was not tried");
        for is_made in [false, true] {
            upkeep.keep_spare();
            let mut job = job_of(&mut upkeep);
            assert!(is_made == upkeep.lacks_spare(), "as after the last one");
            if let Some(Step::MakeSpare(spare)) = job.steps.pop() {
                let list = if is_made {
                    &mut job.made
                } else {
                    &mut job.refused
                };
                list.push(spare);
            }
            upkeep.on_ended(&mut job);
            assert_eq!(upkeep.lacks_spare(), !is_made);
        }
    }

    #[test]
    fn released_segments_become_spares_until_there_are_enough() {
        let mut upkeep = upkeep();
        for sequence in 1..=4 {
            upkeep.release(segment(sequence));
        }
        let is_removed = |step: &Step| matches!(step, Step::Remove { .. });
        let steps = steps_of(&mut upkeep);
        let removed = steps.iter().filter(|s| is_removed(s)).count();
        assert_eq!((steps.len(), removed), (4, 4 - SPARES_MAX));
        let mut full = Upkeep::new(Spares::default(), 1, SEGMENT);
        full.keep_spare();
        full.release(segment(5));
        full.on_full();
        let steps = steps_of(&mut full);
        assert_eq!(steps, [Step::Remove { sequence: 5 }]);
        assert!(full.lacks_spare() && !full.makes_spare());
    }
}
