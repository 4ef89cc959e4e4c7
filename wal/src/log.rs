//! [`Wal`]: the log of one data directory.
//!
//! This file owns the order of the steps on the disk. `format` has the bytes, `scan` the recovery,
//! `staging` the records that wait for a batch, `upkeep` the work on files that records need not wait
//! for, `writer` the files themselves, `files` how a log is made and wiped.
//!
//! The rule that everything rests on: a batch is written only after the batch before it was synced.
//! That makes the start of a batch a durable mark.
//!
//! Start reading at [`Wal`], then [`Wal::open`], [`Wal::append`], [`Wal::start_sync`].
use std::collections::VecDeque;
use std::path::Path;

use crate::dir::{Hook, LogDir};
use crate::files::{LockedDir, check_segment_bytes, create, is_half_made, wipe_locked};
use crate::format::{BODY_MAX, HEADER, PAGE, SegmentHead, record_bytes};
use crate::fs::FileSystem;
use crate::job::{Job, Manner, Step};
use crate::os::Os;
use crate::scan::{ScannedLog, SegmentExtent};
use crate::segment;
use crate::spares::{self, LastPlacement, Placement, PlacementBasis, Spare};
use crate::staging::{self, Place, SealedBatch, Staging};
use crate::state::{self, StateFile};
use crate::upkeep::Upkeep;
use crate::writer::{Task, Writer};
use crate::{Error, OpenError, Options, Record, Recovered, SEGMENT_BYTES_MAX, Space};

/// The log of one data directory, locked for this process.
pub struct Wal<F: FileSystem = Os> {
    /// The files that jobs write. `None` while a task has them ([`Wal::hand_over`]).
    writer: Option<Writer<F>>,
    /// The size of the segments that are made, in bytes; never changes.
    segment_bytes: u64,
    /// The random number of the data directory; never changes.
    identity: u64,
    /// Where the next batch goes: after all jobs, ended or not.
    place: Place,
    /// The segment of `place`, and the highest index in it.
    newest: SegmentExtent,
    /// The full segments that were not released, oldest first. Their numbers rise by one and end
    /// below that of `newest`.
    full: VecDeque<SegmentExtent>,
    /// The spares, and the work on files that waits.
    upkeep: Upkeep,
    /// The caller's newest configuration but for `longer_configuration`, for the heads of new segments.
    configuration: Box<[u8]>,
    /// The caller's newest configuration, if its head is longer and records wait: these were placed
    /// beside shorter heads. Taken once none waits.
    longer_configuration: Option<Box<[u8]>>,
    /// The records that wait for a batch.
    staging: Staging,
    /// Their placement at the last append after which they did not fit into the segment; `None`
    /// before the first one. Only `LastPlacement::get` says whether it still holds.
    placed: Option<LastPlacement>,
    /// The last task had records. If both wait, the next one has the work on files.
    is_upkeep_next: bool,
    /// Empty: the memory of the last job's steps, which saves an allocation for each sync.
    steps: Vec<Step>,
    /// The mark of the last sync that ended: the records up to it are durable. `None` once
    /// `poll_sync` has reported it.
    sync_ended: Option<u64>,
    /// The first error that was final. Every later call returns it.
    failed: Option<Error>,
}

/// Opening on the file system of this machine.
impl Wal {
    /// Locks the directory, reads the log and removes a torn tail. Makes a new log if there is
    /// none.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Nothing on the disk was changed if the log is damaged.
    /// [`Error::Full`] if the disk has no room for a segment that is needed at once.
    pub fn open(options: Options) -> Result<(Wal, Recovered), OpenError> {
        Wal::open_with(options, None)
    }

    /// [`Wal::open`], with every system call shown to `hook`.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open_with(options: Options, hook: Option<Hook>) -> Result<(Wal, Recovered), OpenError> {
        Wal::open_on(Os, options, hook)
    }
}

/// Opening.
impl<F: FileSystem> Wal<F> {
    /// [`Wal::open`] on a file system, with every call shown to `hook`.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open_on(
        fs: F,
        options: Options,
        hook: Option<Hook>,
    ) -> Result<(Wal<F>, Recovered), OpenError> {
        Wal::open_in(LockedDir::new(fs, &options.dir, hook)?, &options, 0)
    }

    /// Opens the log in a directory that is locked already, for a caller that has a snapshot of all
    /// entries up to `covered`. Their bodies are checked like all others, and read as
    /// [`Body::Covered`](crate::Body::Covered).
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open_in(
        dir: LockedDir<F>,
        options: &Options,
        covered: u64,
    ) -> Result<(Wal<F>, Recovered), OpenError> {
        check_segment_bytes(options.segment_bytes)?;
        let (dir, names) = dir.into_parts()?;
        Wal::open_locked(dir, names, options, covered)
    }

    /// Wipes the log and makes a new one in its place, with the identity in `options`. The
    /// directory stays locked meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`]. The log must not be used any more then.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn start_over(&mut self, options: &Options) -> Result<Recovered, OpenError> {
        check_segment_bytes(options.segment_bytes)?;
        let writer = self.writer.take().expect("no task is under way");
        let Writer {
            mut dir,
            mut active,
            ..
        } = writer;
        let names = dir.list()?;
        wipe_locked(&mut dir, names)?;
        active.free(&mut dir)?;
        let names = dir.list()?;
        let (wal, recovered) = Wal::open_locked(dir, names, options, 0)?;
        *self = wal;
        Ok(recovered)
    }

    fn open_locked(
        mut dir: LogDir<F>,
        mut names: Vec<String>,
        options: &Options,
        covered: u64,
    ) -> Result<(Wal<F>, Recovered), OpenError> {
        let is_new = !names.iter().any(|n| n == state::STATE);
        if is_new {
            create(&mut dir, options, &names)?;
            names = dir.list()?;
        }
        for name in names.iter().filter(|n| is_half_made(n)) {
            dir.unlink(name)?;
        }
        let state = StateFile::open(&mut dir)?;
        // The segment of a new log has no records, so its head is all that must be read.
        let bytes_max = if is_new {
            PAGE as u64
        } else {
            SEGMENT_BYTES_MAX
        };
        let slot = state.slot();
        let mut scanner =
            segment::scan_segments(&mut dir, slot.identity, &names, bytes_max, covered)?;
        scanner.expect_newest(slot.segment);
        let found = refuse_damage(scanner.into_found(), &options.dir)?;
        let needs_torn_tail = found.tail.needs_torn_tail();
        let spares = segment::keep_spares(&mut dir, &names, options.segment_bytes)?;
        let upkeep = Upkeep::new(
            spares,
            segment::free_spare_number(&names),
            options.segment_bytes,
        );
        let (mut wal, mut recovered) = Wal::resume(dir, state, found, upkeep, options)?;
        if needs_torn_tail {
            wal.leave_torn_tail()?;
            recovered.end = (wal.place.sequence, wal.place.offset as u64);
        }
        wal.upkeep.keep_spare();
        wal.do_upkeep()?;
        recovered.is_new = is_new;
        if !is_new {
            let slot = wal.writer().state.slot();
            recovered.state = Some((slot.term, slot.vote));
        }
        wal.check_invariants();
        Ok((wal, recovered))
    }

    /// Goes on in another segment, whose head states where the last batch ends. The last batch is
    /// damaged, and so far only the headers in the torn tail show that it was durable. If they were
    /// overwritten, or torn by a crash, the next start would take the batch for a torn tail and
    /// lose its entries.
    fn leave_torn_tail(&mut self) -> Result<(), Error> {
        let head = self.head_bytes();
        let empty = self.upkeep.spares().placement(0, head);
        if empty.add_all(std::iter::once(0)).is_err() {
            self.make_one_spare(0)?;
        }
        let mut steps = Vec::new();
        self.rotate(&mut steps);
        self.run_in_place(Job {
            steps,
            ..Job::default()
        })
    }

    /// Goes on where the scan found the end of the log.
    fn resume(
        mut dir: LogDir<F>,
        mut state: StateFile<F>,
        found: ScannedLog,
        upkeep: Upkeep,
        options: &Options,
    ) -> Result<(Wal<F>, Recovered), OpenError> {
        let ScannedLog {
            log,
            extents,
            tail,
            configuration,
            ..
        } = found;
        let mut full = VecDeque::from(extents);
        let last = full.pop_back();
        let last = last.expect("a log without fatal damage has a segment");
        let active = segment::open_last(&mut dir, &tail, last)?;
        let identity = state.slot().identity;
        if last.sequence > state.slot().segment {
            state.save_segment(&mut dir, last.sequence)?;
        }
        let wal = Wal {
            segment_bytes: options.segment_bytes,
            identity,
            place: Place {
                identity,
                sequence: last.sequence,
                offset: active.end(),
                room: active.room(),
            },
            newest: last,
            writer: Some(Writer { dir, state, active }),
            full,
            upkeep,
            configuration: configuration.clone(),
            longer_configuration: None,
            staging: Staging::new(&log, &tail),
            placed: None,
            is_upkeep_next: false,
            steps: Vec::new(),
            sync_ended: None,
            failed: None,
        };
        let torn_bytes = (tail.dirty_end - tail.end) as u64;
        let recovered = Recovered {
            identity,
            entries: log.entries,
            next_index: log.next_index,
            installed: log.installed,
            commit: log.commit,
            configuration,
            end: (tail.sequence, tail.end as u64),
            closed: tail.closed && torn_bytes == 0,
            torn_bytes,
            damage: log.damaged_bodies.into_values().collect(),
            ..Recovered::default()
        };
        Ok((wal, recovered))
    }
}

/// Refuses a log with another format or fatal damage. Damaged bodies of entries are left to the
/// caller: it may get them from a peer.
fn refuse_damage(mut found: ScannedLog, dir: &Path) -> Result<ScannedLog, OpenError> {
    if let Some((name, version)) = found.version {
        return Err(OpenError::Version {
            file: dir.join(name).display().to_string(),
            found: version,
        });
    }
    if found.fatal.is_empty() {
        return Ok(found);
    }
    found.fatal.extend(found.log.damaged_bodies.into_values());
    Err(OpenError::Damaged {
        dir: dir.into(),
        damage: found.fatal,
    })
}

/// Appending and syncing.
impl<F: FileSystem> Wal<F> {
    /// Whether something waits for a job (records, a commit mark of its own, work on files), or
    /// [`Wal::poll_sync`] has something to report.
    pub fn wants_sync(&self) -> bool {
        self.staging.waits() || self.upkeep.waits() || self.sync_ended.is_some()
    }

    /// Whether a task has the files: no other job can start.
    pub fn has_task(&self) -> bool {
        self.writer.is_none()
    }

    /// How many records and commit marks of their own wait for a job.
    pub fn waiting(&self) -> u64 {
        self.staging.appended() - self.staging.sealed()
    }

    /// Whether the records that wait fit into the current segment. Their job then waits for the device
    /// at most once, for the sync of one batch.
    pub fn is_next_job_short(&self) -> bool {
        self.staging.bytes() + HEADER <= self.place.room
    }

    /// The caller knows that entries up to `commit` are committed; all of them were appended before.
    /// The next batch records it. If no records wait, the next sync writes a batch without records.
    /// The mark is left out if the segment has no room for it: a mark never begins a segment.
    ///
    /// Returns the number of the mark, as `append` does. [`Wal::poll_sync`] reports it even if the
    /// mark was left out.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn mark_commit(&mut self, commit: u64) -> Result<u64, Error> {
        self.run(|wal| Ok(wal.staging.push_mark(commit)))
    }

    /// Takes records for the next batch. Returns their mark: how many records and commit marks were
    /// appended since the log was opened. `commit` is the commit index that the caller knows now; the
    /// next batch records it.
    ///
    /// They wait in memory, so the caller bounds them. Records within [`Wal::free_bytes`] make no
    /// system call; for others the log makes the spare that they need, unless a task is under way.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: there is no room, and nothing was taken. [`Error::Io`]: final.
    ///
    /// # Panics
    ///
    /// If an entry leaves a gap, or a body is longer than [`BODY_MAX`].
    pub fn append(&mut self, records: &[Record], commit: u64) -> Result<u64, Error> {
        self.run(|wal| {
            wal.ensure_room(records)?;
            for record in records {
                wal.staging.push(record);
            }
            wal.staging.raise_commit(commit);
            Ok(wal.staging.appended())
        })
    }

    /// Makes spares until there are enough segments for what waits and for `records`.
    fn ensure_room(&mut self, records: &[Record]) -> Result<(), Error> {
        let bodies = records.iter().map(|r| staging::body_of(r).len());
        assert!(
            bodies.clone().all(|length| length <= BODY_MAX),
            "a body has at most {BODY_MAX} bytes"
        );
        let lengths = bodies.map(record_bytes);
        let bytes = self.staging.bytes() + lengths.clone().sum::<usize>();
        if bytes + HEADER <= self.place.room {
            return Ok(());
        }
        loop {
            let placed = self
                .placement()
                .and_then(|placed| placed.add_all(lengths.clone()));
            match placed {
                Ok(placed) => {
                    self.placed = Some(LastPlacement::new(self.placement_basis(), bytes, placed));
                    return Ok(());
                }
                Err(_) if self.has_task() => return Err(Error::Full),
                Err(length) => self.make_one_spare(length)?,
            }
        }
    }

    /// Where the records that wait go.
    ///
    /// # Errors
    ///
    /// No segment or spare has room for one of them: its length.
    fn placement(&self) -> Result<Placement, usize> {
        let (basis, bytes) = (self.placement_basis(), self.staging.bytes());
        let last = self.placed.as_ref();
        let place_all = || {
            let empty = self.upkeep.spares().placement(basis.room, basis.head);
            empty.add_all(self.staging.record_lengths())
        };
        if let Some(placement) = last.and_then(|last| last.get(basis, bytes)) {
            debug_assert_eq!(place_all().as_ref(), Ok(placement), "of the same records");
            return Ok(placement.clone());
        }
        place_all()
    }

    fn placement_basis(&self) -> PlacementBasis {
        PlacementBasis {
            room: self.place.room,
            head: self.head_bytes(),
            sealed: self.staging.sealed(),
            changes: self.upkeep.spares().changes(),
        }
    }

    /// The length of the first record that waits and that no segment or spare has room for.
    fn unplaced(&self) -> Option<usize> {
        if self.is_next_job_short() {
            return None;
        }
        self.placement().err()
    }

    /// Makes a spare for a record of `length` bytes, in place.
    fn make_one_spare(&mut self, length: usize) -> Result<(), Error> {
        let before = self.upkeep.spares().changes();
        self.make_spare_for(length);
        self.do_upkeep()?;
        // A spare that was there before may be long enough, and taken by the records before this one.
        let is_made = self.upkeep.spares().changes() > before;
        if is_made { Ok(()) } else { Err(Error::Full) }
    }

    /// Has a spare made for a record of `length` bytes.
    fn make_spare_for(&mut self, length: usize) {
        self.upkeep.make_spare(self.spare_bytes_for(length));
    }

    /// The length of a spare for a record of `length` bytes.
    fn spare_bytes_for(&self, length: usize) -> u64 {
        spares::segment_bytes_for(length, self.head_bytes(), self.segment_bytes)
    }

    /// The length of the head of the next segment, in bytes.
    fn head_bytes(&self) -> usize {
        SegmentHead::bytes_for(self.configuration.len())
    }

    /// Makes the records that wait durable, then does the work on files. Both run in place: it returns
    /// after the last sync. [`Wal::poll_sync`] then reports the mark. Until it has reported the last
    /// sync, records wait on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn start_sync(&mut self) -> Result<(), Error> {
        self.sync_records()?;
        self.run(Wal::do_upkeep)
    }

    /// [`Wal::start_sync`] without the work on files. Returns whether it waited for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn sync_records(&mut self) -> Result<bool, Error> {
        if self.sync_ended.is_some() {
            return Ok(false);
        }
        self.run(Wal::write_batches)
    }

    /// Makes a task of the next job. The caller runs it in another thread and gives it back with
    /// [`Wal::take_back`]. `None` if nothing waits, and while another task is under way.
    ///
    /// A task has either records or one step of the work on files. If both wait they take turns, so
    /// records wait for at most one step. Steps that are left wait for a later task:
    /// [`Wal::wants_sync`].
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: the disk has no room for a segment that records need. [`Error::Io`]: final.
    pub fn hand_over(&mut self) -> Result<Option<Task<F>>, Error> {
        if self.has_task() {
            return Ok(None);
        }
        self.run(|wal| {
            let unplaced = wal.unplaced();
            if let Some(length) = unplaced
                && !wal.upkeep.makes_spare()
            {
                if wal.upkeep.lacks_spare() {
                    return Err(Error::Full);
                }
                wal.make_spare_for(length);
            }
            let has_records = wal.staging.waits() && unplaced.is_none();
            if wal.upkeep.waits() && (wal.is_upkeep_next || !has_records) {
                wal.is_upkeep_next = false;
                let job = wal.compose_upkeep();
                return Ok(Some(wal.task(job)));
            }
            if !has_records {
                return Ok(None);
            }
            wal.is_upkeep_next = true;
            let job = wal.compose_job();
            Ok(Some(wal.task(job)))
        })
    }

    /// Hands over a job that makes term and vote durable.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn hand_over_state(&mut self, term: u64, vote: u64) -> Result<Task<F>, Error> {
        self.run(|wal| {
            let job = wal.compose_state(term, vote);
            Ok(wal.task(job))
        })
    }

    /// A task with the files.
    fn task(&mut self, job: Job) -> Task<F> {
        let writer = self.writer.take();
        Task::new(writer.expect("one job runs at a time"), job)
    }

    /// Takes a task back that has run.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: a system call of the task failed; final.
    ///
    /// # Panics
    ///
    /// If the task has not run, or is not of this log.
    pub fn take_back(&mut self, task: Task<F>) -> Result<(), Error> {
        assert!(self.has_task(), "a task is under way");
        let (writer, job, result) = task.into_parts();
        self.writer = Some(writer);
        self.run(|wal| {
            result?;
            wal.on_ended(job);
            Ok(())
        })
    }

    /// The mark up to which all records are durable, once after each sync that ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn poll_sync(&mut self) -> Result<Option<u64>, Error> {
        self.run(|wal| Ok(wal.sync_ended.take()))
    }

    /// Writes and syncs all that waits, in one job. Returns whether the job had a step: a commit mark
    /// of its own may be left out.
    fn write_batches(&mut self) -> Result<bool, Error> {
        if !self.staging.waits() {
            return Ok(false);
        }
        self.ensure_room(&[])?;
        let job = self.compose_job();
        let has_steps = !job.steps.is_empty();
        self.run_in_place(job)?;
        Ok(has_steps)
    }

    /// Does the work on files that waits.
    fn do_upkeep(&mut self) -> Result<(), Error> {
        while self.upkeep.waits() {
            let job = self.compose_upkeep();
            self.run_in_place(job)?;
        }
        Ok(())
    }

    /// Composes the job for all records that wait: as many batches as the segments require, and a
    /// commit mark of its own if one is wanted. Nothing waits then. There must be spares for all of
    /// it.
    fn compose_job(&mut self) -> Job {
        let mut steps = std::mem::take(&mut self.steps);
        while !self.staging.is_empty() {
            if self.staging.fitting(self.place.room) == 0 {
                self.rotate(&mut steps);
            }
            let SealedBatch { bytes, index_max } = self.staging.seal_batch(self.place);
            self.newest.index_max = self.newest.index_max.max(index_max);
            steps.push(self.append_step(bytes));
        }
        if self.staging.has_unsealed_commit() && self.place.room >= 2 * HEADER {
            let mark = self.staging.seal_mark(self.place).to_vec();
            steps.push(self.append_step(mark));
        }
        if let Some(longer) = self.longer_configuration.take() {
            self.configuration = longer;
        }
        Job {
            mark: Some(self.staging.finish_job()),
            steps,
            ..Job::default()
        }
    }

    /// Composes the job for the next step of the work on files.
    fn compose_upkeep(&mut self) -> Job {
        let mut job = Job {
            steps: std::mem::take(&mut self.steps),
            ..Job::default()
        };
        self.upkeep.compose(&mut job);
        job
    }

    /// Composes the job that makes term and vote durable.
    fn compose_state(&mut self, term: u64, vote: u64) -> Job {
        let mut steps = std::mem::take(&mut self.steps);
        steps.push(Step::State { term, vote });
        Job {
            steps,
            ..Job::default()
        }
    }

    /// Runs a job in place.
    fn run_in_place(&mut self, mut job: Job) -> Result<(), Error> {
        let writer = self.writer.as_mut().expect("one job runs at a time");
        writer.run(&mut job, Manner::InPlace)?;
        self.on_ended(job);
        Ok(())
    }

    /// A job has ended.
    fn on_ended(&mut self, mut job: Job) {
        self.upkeep.on_ended(&mut job);
        if job.mark.is_some() {
            self.sync_ended = job.mark;
            self.staging.reuse(job.buffer);
        }
        self.steps = job.steps;
    }

    /// The step that writes a batch. The next one goes after it.
    fn append_step(&mut self, bytes: Vec<u8>) -> Step {
        let Place {
            sequence, offset, ..
        } = self.place;
        self.place.offset += bytes.len();
        self.place.room -= bytes.len();
        Step::Append {
            sequence,
            offset,
            bytes,
        }
    }

    /// The step that goes on in a spare, which the next record fits into.
    fn rotate(&mut self, steps: &mut Vec<Step>) {
        let length = self.staging.record_lengths().next().unwrap_or(0);
        let spare = self.upkeep.take_spare(length, self.head_bytes());
        let spare = spare.expect("spares were made for all that waits");
        let head = self.next_head(&spare);
        self.place = Place {
            identity: self.identity,
            sequence: head.sequence,
            offset: head.records_at as usize,
            room: spare.bytes as usize - head.records_at as usize,
        };
        let newest = SegmentExtent {
            sequence: head.sequence,
            bytes: spare.bytes,
            index_max: 0,
        };
        let full = std::mem::replace(&mut self.newest, newest);
        self.full.push_back(full);
        steps.push(Step::Rotate {
            spare,
            head: Box::new(head),
        });
    }

    /// The head of the segment that a spare becomes.
    fn next_head(&self, spare: &Spare) -> SegmentHead {
        SegmentHead {
            records_at: self.head_bytes() as u32,
            segment_bytes: spare.bytes,
            identity: self.identity,
            sequence: self.place.sequence + 1,
            next_index: self.staging.sealed_next_index(),
            next_batch: self.staging.next_batch(),
            commit: self.staging.sealed_commit(),
            previous_end: self.place.offset as u32,
            previous_crc: self.staging.last_batch_crc(),
            configuration: self.configuration.clone(),
        }
    }

    /// The files that jobs write.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    fn writer(&mut self) -> &mut Writer<F> {
        self.writer.as_mut().expect("no task is under way")
    }

    /// Syncs what waits and writes the closing mark. The mark is left out if the segment has no
    /// room for it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the log may lack what waited.
    ///
    /// # Panics
    ///
    /// If a task is under way: the mark says that everything before it is durable.
    pub fn close(mut self) -> Result<(), Error> {
        self.run(|wal| {
            wal.write_batches()?;
            if wal.place.room < HEADER {
                return Ok(());
            }
            let mark = wal.staging.closing_mark(wal.place);
            wal.append_step(mark.to_vec());
            wal.writer().append(&mark, Manner::InPlace)
        })
    }
}

/// Term and vote, segments and spares.
impl<F: FileSystem> Wal<F> {
    /// Makes term and vote durable before it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final. Whether the old or the new value is durable is unknown.
    ///
    /// # Panics
    ///
    /// If the term falls, or a task is under way.
    pub fn save_state(&mut self, term: u64, vote: u64) -> Result<(), Error> {
        self.run(|wal| {
            let job = wal.compose_state(term, vote);
            wal.run_in_place(job)
        })
    }

    /// Keeps the configuration that the heads of new segments repeat. Records that wait keep the room
    /// that they have: a head that is longer by a page is that of segments after them.
    ///
    /// # Panics
    ///
    /// If it is longer than [`BODY_MAX`].
    pub fn set_configuration(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= BODY_MAX, "a head has a bound");
        self.longer_configuration = None;
        if SegmentHead::bytes_for(bytes.len()) > self.head_bytes() && !self.staging.is_empty() {
            self.longer_configuration = Some(bytes.into());
        } else {
            self.configuration = bytes.into();
        }
    }

    /// Entries up to `through` are not needed any more. A later job makes spares of the oldest
    /// segments that hold nothing else, or removes them.
    pub fn release(&mut self, through: u64) {
        while let Some(oldest) = self.full.front().copied()
            && oldest.index_max <= through
        {
            self.full.pop_front();
            self.upkeep.release(oldest);
        }
    }

    /// Whether a spare exists for the time when the current segment is full, or can be made, as far
    /// as is known.
    pub fn space(&self) -> Space {
        self.upkeep.space()
    }

    /// Whether the disk had no room for the last spare that was tried, of whatever length. A spare of
    /// the usual length may exist.
    pub fn lacks_room(&self) -> bool {
        self.upkeep.lacks_room()
    }

    /// How many bytes of records the log takes for certain, whatever the disk has room for: records
    /// of this length in all, each with its header and padding and with the record that ends its
    /// batch, in any number of batches.
    ///
    /// A record is never split, so the rest of a segment may stay unused. They fit nevertheless:
    /// the longest piece is left untouched until a record does not fit before it, and then it takes
    /// all that follow.
    pub fn free_bytes(&self) -> u64 {
        let (room, head) = (self.place.room, self.head_bytes());
        let waiting = self.staging.bytes();
        // This is asked several times a turn: no record is looked at if all that wait fit into the
        // segment, or if the last append has placed them and no spare has come or gone since.
        let free = if waiting + HEADER <= room {
            (room - waiting).max(self.upkeep.spares().longest(head))
        } else {
            self.placement().map_or(0, |placed| placed.longest())
        };
        free.saturating_sub(2 * HEADER) as u64
    }

    /// Has spares made until one of the usual length exists and the log takes `bytes` bytes for
    /// certain, as far as the disk has room. A later job makes them: call it repeatedly while either
    /// is missing.
    pub fn keep_room(&mut self, bytes: u64) {
        self.upkeep.keep_spare();
        let spare_bytes = self.spare_bytes_for(bytes as usize);
        if self.free_bytes() < bytes && !self.upkeep.makes_spare_of(spare_bytes) {
            self.upkeep.make_spare(spare_bytes);
        }
    }

    /// [`Wal::keep_room`] in place. Returns how many bytes the log takes then.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final. A full disk is no error here.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn make_room(&mut self, bytes: u64) -> Result<u64, Error> {
        self.run(|wal| {
            wal.keep_room(bytes);
            wal.do_upkeep()?;
            Ok(wal.free_bytes())
        })
    }

    /// Removes the spares, so that a full disk has room for files that are not the log's. The records
    /// that wait were promised the room of the spares, so they are written before.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn remove_spares(&mut self) -> Result<(), Error> {
        self.run(|wal| {
            wal.write_batches()?;
            wal.upkeep.on_full();
            wal.do_upkeep()?;
            for spare in wal.upkeep.take_spares() {
                wal.writer().dir.unlink(&spare.name)?;
            }
            Ok(())
        })
    }

    /// Runs one call, unless an earlier error was final, and remembers an error that is.
    fn run<T>(&mut self, call: impl FnOnce(&mut Wal<F>) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = call(self);
        if let Err(error @ Error::Io { .. }) = &result {
            self.failed = Some(error.clone());
        } else {
            self.check_invariants();
        }
        result
    }

    /// Checked after every call; takes constant time.
    fn check_invariants(&self) {
        self.staging.check_invariants();
        if let Some(writer) = &self.writer {
            writer.check_invariants();
            let written = (writer.active.sequence(), writer.active.end());
            let planned = (self.place.sequence, self.place.offset);
            assert_eq!(written, planned, "between jobs nothing is left to write");
        }
        assert!(
            self.full
                .back()
                .is_none_or(|last| last.sequence + 1 == self.newest.sequence),
            "full segments precede the newest one"
        );
        assert!(
            self.sync_ended
                .is_none_or(|mark| mark <= self.staging.sealed()),
            "only records in batches are durable"
        );
    }
}
