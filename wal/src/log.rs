//! [`Wal`]: the log of one data directory.
//!
//! This file owns the order of the steps on the disk. `format` has the bytes, `scan` the verdict on
//! what is found, `staging` the records that wait for a batch.
//!
//! The rule that everything rests on: a batch is written only after the batch before it was synced.
//! That makes the start of a batch a durable mark.
//!
//! Start reading at [`Wal`], then [`Wal::open`], [`Wal::append`], [`Wal::start_sync`].
use std::collections::VecDeque;
use std::path::Path;

use crate::dir::{Hook, LogDir};
use crate::format::{BODY_MAX, HEADER, PAGE, SegmentHead, record_bytes};
use crate::fs::FileSystem;
use crate::job::{Job, Step};
use crate::os::Os;
use crate::scan::{ScannedLog, SegmentExtent};
use crate::segment::{self, ActiveSegment, SPARES_MAX};
use crate::spares::{self, Spare, Spares};
use crate::staging::{self, Place, SealedBatch, Staging};
use crate::state::{self, StateFile};
use crate::{
    Error, OpenError, Options, Record, Recovered, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    STAGED_BYTES_MAX, Space,
};

/// The log of one data directory, locked for this process.
pub struct Wal<F: FileSystem = Os> {
    /// The data directory and its lock.
    dir: LogDir<F>,
    /// The size of the segments that are made, in bytes; never changes.
    segment_bytes: u64,
    /// The random number of the data directory; never changes.
    identity: u64,
    /// Term, vote and the number of `active`.
    state: StateFile<F>,
    /// The segment that batches are written to.
    active: ActiveSegment<F>,
    /// The full segments that were not released, oldest first. Their numbers rise by one and end
    /// below that of `active`.
    full: VecDeque<SegmentExtent>,
    /// The spares: usually one of `segment_bytes` bytes; none if the disk had no room for one, or
    /// after [`Wal::remove_spares`]. Longer ones after [`Wal::make_room`].
    spares: Spares,
    /// The caller's newest configuration, for the heads of new segments.
    configuration: Box<[u8]>,
    /// The records that wait for a batch.
    staging: Staging,
    /// Empty: the memory of the last job's steps, which saves an allocation for each sync.
    steps: Vec<Step>,
    /// The mark up to which everything was durable when a sync ended that `poll_sync` has not
    /// reported yet.
    sync_ended: Option<u64>,
    /// The first error that was final. Every later call returns it.
    failed: Option<Error>,
}

/// Removes the log from the directory `dir`: first `state`, then segments and spares. Files that
/// are not the log's stay.
///
/// # Errors
///
/// Another process has locked the directory, or a system call failed. The log is then either whole
/// or on its way out: the next `open` finds the old log or makes a new one.
pub fn wipe(dir: &Path) -> Result<(), OpenError> {
    wipe_with(Os, dir, None)
}

/// [`wipe`] on a file system, with every call shown to `hook`.
///
/// # Errors
///
/// As [`wipe`].
pub fn wipe_with<F: FileSystem>(fs: F, dir: &Path, hook: Option<Hook>) -> Result<(), OpenError> {
    let (mut dir, names) = lock_and_list(fs, dir, hook)?;
    wipe_locked(&mut dir, names)
}

/// Removes the log from a locked directory.
fn wipe_locked<F: FileSystem>(
    dir: &mut LogDir<F>,
    mut names: Vec<String>,
) -> Result<(), OpenError> {
    if names.iter().any(|n| n == state::STATE) {
        // From here on the directory is new, whatever a crash leaves in it.
        dir.rename(state::STATE, state::WIPING)?;
        dir.sync_names()?;
        names.push(state::WIPING.into());
    }
    remove_files(dir, &names)
}

/// Locks the directory and lists its names.
fn lock_and_list<F: FileSystem>(
    fs: F,
    path: &Path,
    hook: Option<Hook>,
) -> Result<(LogDir<F>, Vec<String>), OpenError> {
    let mut dir = LogDir::new(fs, path, hook);
    if !dir.lock()? {
        return Err(OpenError::Locked { dir: path.into() });
    }
    let names = dir.list()?;
    Ok((dir, names))
}

/// Removes the segments, spares and half-made files among `names`, and then the file that marks
/// that they may be removed.
fn remove_files<F: FileSystem>(dir: &mut LogDir<F>, names: &[String]) -> Result<(), OpenError> {
    let mut has_removed = false;
    for name in names {
        let is_segment = segment::log_number(name).is_some() || segment::is_spare(name);
        if is_segment || is_half_made(name) {
            dir.unlink(name)?;
            has_removed = true;
        }
    }
    if has_removed {
        dir.sync_names()?;
    }
    if names.iter().any(|n| n == state::WIPING) {
        dir.unlink(state::WIPING)?;
        dir.sync_names()?;
    }
    Ok(())
}

fn is_half_made(name: &str) -> bool {
    name == segment::MAKING || name == state::MAKING
}

/// Refuses a size of segments that is out of bounds.
fn check_segment_bytes(bytes: u64) -> Result<(), OpenError> {
    let is_in_bounds = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes);
    if is_in_bounds && bytes.is_multiple_of(PAGE as u64) {
        return Ok(());
    }
    Err(OpenError::Option(format!(
        "a log segment of {bytes} bytes: it must be a multiple of {PAGE} between \
         {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
    )))
}

/// Makes an empty log in a locked directory without `state`. If a segment there holds records,
/// `state` was lost and the directory is not new.
fn create<F: FileSystem>(
    dir: &mut LogDir<F>,
    options: &Options,
    names: &[String],
) -> Result<(), OpenError> {
    let is_being_wiped = names.iter().any(|n| n == state::WIPING);
    if !is_being_wiped && segment::has_records(dir, names)? {
        return Err(OpenError::State {
            dir: options.dir.clone(),
        });
    }
    remove_files(dir, names)?;
    let head = SegmentHead {
        records_at: PAGE as u32,
        segment_bytes: options.segment_bytes,
        identity: options.identity,
        sequence: 1,
        next_index: None,
        next_batch: 1,
        commit: 0,
        previous_end: 0,
        previous_crc: 0,
        configuration: Box::default(),
    };
    if dir.create(segment::MAKING, head.segment_bytes)?.is_none() {
        return Err(OpenError::Io(Error::Full));
    }
    segment::put_into_use(dir, segment::MAKING, &head)?;
    StateFile::create(dir, options.identity)
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
        Wal::open_covered(fs, options, hook, 0)
    }

    /// [`Wal::open_on`] for a caller that has a snapshot of all entries up to `covered`. Their
    /// bodies are checked like all others, and read as [`Body::Covered`](crate::Body::Covered).
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open_covered(
        fs: F,
        options: Options,
        hook: Option<Hook>,
        covered: u64,
    ) -> Result<(Wal<F>, Recovered), OpenError> {
        check_segment_bytes(options.segment_bytes)?;
        let (dir, names) = lock_and_list(fs, &options.dir, hook)?;
        Wal::open_locked(dir, names, &options, covered)
    }

    /// Wipes the log and makes a new one in its place, with the identity in `options`. The
    /// directory stays locked meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`]. The log must not be used any more then.
    pub fn start_over(&mut self, options: &Options) -> Result<Recovered, OpenError> {
        check_segment_bytes(options.segment_bytes)?;
        let unlocked = self.dir.unlocked();
        let mut dir = std::mem::replace(&mut self.dir, unlocked);
        let names = dir.list()?;
        wipe_locked(&mut dir, names)?;
        self.active.free(&mut dir)?;
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
        let (mut wal, mut recovered) = Wal::resume(dir, state, found, options.segment_bytes)?;
        let newest = wal.active.sequence();
        if newest > wal.state.slot().segment {
            wal.state.save_segment(&mut wal.dir, newest)?;
        }
        wal.spares = spares;
        if needs_torn_tail {
            wal.leave_torn_tail()?;
            recovered.end = (wal.active.sequence(), wal.active.end() as u64);
        }
        wal.keep_spare()?;
        recovered.is_new = is_new;
        if !is_new {
            let slot = wal.state.slot();
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
        let placed = self.spares.place(std::iter::once(0), 0, head);
        if placed.is_err() {
            let bytes = spares::segment_bytes_for(0, head, self.segment_bytes);
            if !self.make_one_spare(bytes)? {
                return Err(Error::Full);
            }
        }
        let end = self.place();
        let (spare, head) = self.next_segment(&end);
        self.rotate(&spare, &head)
    }

    /// Goes on where the scan found the end of the log.
    fn resume(
        mut dir: LogDir<F>,
        state: StateFile<F>,
        found: ScannedLog,
        segment_bytes: u64,
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
        let wal = Wal {
            dir,
            segment_bytes,
            identity,
            state,
            active,
            full,
            spares: Spares::default(),
            configuration: configuration.clone(),
            staging: Staging::new(&log, &tail),
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

/// The step that writes a batch at a place, which then moves on to the end of the batch.
fn append_at(place: &mut Place, bytes: Vec<u8>, index_max: u64) -> Step {
    let offset = place.offset;
    place.offset += bytes.len();
    place.room -= bytes.len();
    Step::Append {
        sequence: place.sequence,
        offset,
        bytes,
        index_max,
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
    /// Whether records, or a commit mark of its own, wait for a batch, or a sync has ended that
    /// [`Wal::poll_sync`] has not reported: [`Wal::append`] writes and syncs a large batch itself.
    pub fn wants_sync(&self) -> bool {
        self.staging.waits() || self.sync_ended.is_some()
    }

    /// The caller knows that entries up to `commit` are committed, all of them appended before. The
    /// next batch records it, and if no records wait, the next sync writes a batch without records
    /// for it. Not if the segment has no room: another one is never used for a mark. Returns its
    /// number as `append` does, which [`Wal::poll_sync`] reports also if it was not written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn mark_commit(&mut self, commit: u64) -> Result<u64, Error> {
        self.run(|wal| Ok(wal.staging.push_mark(commit)))
    }

    /// Takes records for the next batch. Returns their mark: how many records and commit marks were
    /// appended since the log was opened. `commit` is the commit index that the caller knows now; the next batch
    /// records it.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]: the disk has no room, and nothing was taken. [`Error::Io`]: final.
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
            if wal.staging.bytes() > STAGED_BYTES_MAX {
                wal.write_batches()?;
            }
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
        let room = self.active.room();
        if self.staging.bytes() + lengths.clone().sum::<usize>() + HEADER <= room {
            return Ok(());
        }
        let head = self.head_bytes();
        loop {
            let all = self.staging.record_lengths().chain(lengths.clone());
            let Err(length) = self.spares.place(all, room, head) else {
                return Ok(());
            };
            let bytes = spares::segment_bytes_for(length, head, self.segment_bytes);
            if !self.make_one_spare(bytes)? {
                return Err(Error::Full);
            }
        }
    }

    /// The length of the head of the next segment, in bytes.
    fn head_bytes(&self) -> usize {
        SegmentHead::bytes_for(self.configuration.len())
    }

    /// Starts to make durable what waits. Does nothing while a sync is running or has ended and
    /// was not reported by [`Wal::poll_sync`].
    ///
    /// This version returns only after the sync, and `poll_sync` reports its end at once. Callers
    /// must not rely on either.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn start_sync(&mut self) -> Result<(), Error> {
        if self.sync_ended.is_some() {
            return Ok(());
        }
        self.run(Wal::write_batches)
    }

    /// The mark up to which all records are durable, once after each sync that ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn poll_sync(&mut self) -> Result<Option<u64>, Error> {
        self.run(|wal| Ok(wal.sync_ended.take()))
    }

    /// Writes and syncs all that waits, in one job.
    fn write_batches(&mut self) -> Result<(), Error> {
        if !self.staging.waits() {
            return Ok(());
        }
        self.ensure_room(&[])?;
        let job = self.compose_job();
        let mark = job.mark;
        let has_rotation = job.steps.iter().any(|s| matches!(s, Step::Rotate { .. }));
        self.run_job(job)?;
        self.sync_ended = Some(mark);
        // Not between the steps: the name of a new spare may be that of one in the job.
        if has_rotation {
            self.keep_spare()?;
        }
        Ok(())
    }

    /// Composes the job for all that waits: as many batches as the segments require, and a commit
    /// mark of its own if one is wanted. Nothing waits then. There must be spares for all of it.
    fn compose_job(&mut self) -> Job {
        let mut steps = std::mem::take(&mut self.steps);
        let mut place = self.place();
        while !self.staging.is_empty() {
            if self.staging.fitting(place.room) == 0 {
                let (spare, head) = self.next_segment(&place);
                place = Place {
                    sequence: head.sequence,
                    offset: head.records_at as usize,
                    room: spare.bytes as usize - head.records_at as usize,
                    ..place
                };
                let head = Box::new(head);
                steps.push(Step::Rotate { spare, head });
            }
            let SealedBatch { bytes, index_max } = self.staging.seal_batch(place);
            steps.push(append_at(&mut place, bytes, index_max));
        }
        if self.staging.has_unsealed_commit() && place.room >= 2 * HEADER {
            let mark = self.staging.seal_mark(place).to_vec();
            steps.push(append_at(&mut place, mark, 0));
        }
        let mark = self.staging.finish_job();
        Job { mark, steps }
    }

    /// Runs a job in place.
    fn run_job(&mut self, mut job: Job) -> Result<(), Error> {
        for step in job.steps.drain(..) {
            match step {
                Step::State { term, vote } => self.state.save(&mut self.dir, term, vote)?,
                Step::Rotate { spare, head } => self.rotate(&spare, &head)?,
                Step::Append {
                    sequence,
                    offset,
                    bytes,
                    index_max,
                } => {
                    let at = (self.active.sequence(), self.active.end());
                    assert_eq!((sequence, offset), at, "a batch follows the last one");
                    self.active.write_batch(&bytes, index_max);
                    self.staging.reuse(bytes);
                    self.active.sync(&mut self.dir)?;
                }
            }
        }
        self.steps = job.steps;
        Ok(())
    }

    /// Where the next batch goes.
    fn place(&self) -> Place {
        Place {
            identity: self.identity,
            sequence: self.active.sequence(),
            offset: self.active.end(),
            room: self.active.room(),
        }
    }

    /// The spare that the next record goes to, and its head as a segment. The batches before it end
    /// at `end`.
    fn next_segment(&mut self, end: &Place) -> (Spare, SegmentHead) {
        let length = self.staging.record_lengths().next().unwrap_or(0);
        let spare = self.spares.take(length, self.head_bytes());
        let spare = spare.expect("spares were made for all that waits");
        let head = SegmentHead {
            records_at: self.head_bytes() as u32,
            segment_bytes: spare.bytes,
            identity: self.identity,
            sequence: end.sequence + 1,
            next_index: self.staging.sealed_next_index(),
            next_batch: self.staging.next_batch(),
            commit: self.staging.sealed_commit(),
            previous_end: end.offset as u32,
            previous_crc: self.staging.last_batch_crc(),
            configuration: self.configuration.clone(),
        };
        (spare, head)
    }

    /// Goes on in a spare. The current segment must have been synced to its end.
    fn rotate(&mut self, spare: &Spare, head: &SegmentHead) -> Result<(), Error> {
        let fresh = segment::put_into_use(&mut self.dir, &spare.name, head)?;
        self.state.save_segment(&mut self.dir, head.sequence)?;
        let full = std::mem::replace(&mut self.active, fresh);
        self.full.push_back(full.retire(&mut self.dir)?);
        Ok(())
    }

    /// Syncs what waits and writes the closing mark. The mark is left out if the segment has no
    /// room for it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the log may lack what waited.
    pub fn close(mut self) -> Result<(), Error> {
        self.run(|wal| {
            wal.write_batches()?;
            if wal.active.room() < HEADER {
                return Ok(());
            }
            let place = wal.place();
            let mark = wal.staging.closing_mark(place);
            wal.active.write_batch(&mark, 0);
            wal.active.sync(&mut wal.dir)
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
    /// If the term falls.
    pub fn save_state(&mut self, term: u64, vote: u64) -> Result<(), Error> {
        self.run(|wal| {
            let mut steps = std::mem::take(&mut wal.steps);
            steps.push(Step::State { term, vote });
            wal.run_job(Job {
                mark: wal.staging.sealed(),
                steps,
            })
        })
    }

    /// Keeps the configuration that the heads of new segments repeat.
    ///
    /// # Panics
    ///
    /// If it is longer than [`BODY_MAX`].
    pub fn set_configuration(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= BODY_MAX, "a head has a bound");
        self.configuration = bytes.into();
    }

    /// Entries up to `through` are not needed any more. The oldest segments that hold nothing else
    /// become spares or are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn release(&mut self, through: u64) -> Result<(), Error> {
        self.run(|wal| {
            while let Some(oldest) = wal.full.front().copied()
                && oldest.index_max <= through
            {
                let is_wanted = wal.spares.count(wal.segment_bytes) < SPARES_MAX;
                if is_wanted && oldest.bytes == wal.segment_bytes {
                    let name = segment::free_spare_name(&wal.spares.names());
                    segment::recycle(&mut wal.dir, oldest.sequence, &name)?;
                    let bytes = oldest.bytes;
                    wal.spares.add(Spare { name, bytes });
                } else {
                    segment::remove(&mut wal.dir, oldest.sequence)?;
                }
                wal.full.pop_front();
            }
            Ok(())
        })
    }

    /// Whether a spare exists for the time when the current segment is full.
    pub fn space(&self) -> Space {
        if self.spares.count(self.segment_bytes) == 0 {
            Space::Low
        } else {
            Space::Ok
        }
    }

    /// Tries to make a spare if there is none. Call it repeatedly while the space is low.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final. A full disk is no error here.
    pub fn make_spare(&mut self) -> Result<Space, Error> {
        self.run(|wal| {
            wal.keep_spare()?;
            Ok(wal.space())
        })
    }

    /// How many bytes of records the log takes for certain, whatever the disk has room for: records
    /// of this length in all, each with its header and padding and with the record that ends its
    /// batch, in any number of batches.
    ///
    /// A record is never split, so the rest of a segment may stay unused. They fit nevertheless:
    /// the longest piece is left untouched until a record does not fit before it, and then it takes
    /// all that follow.
    pub fn free_bytes(&self) -> u64 {
        let (room, head) = (self.active.room(), self.head_bytes());
        let waiting = self.staging.bytes();
        // Mostly all that waits fits into the segment. Then no record is looked at: this is asked
        // several times a turn.
        let free = if waiting + HEADER <= room {
            (room - waiting).max(self.spares.longest(head))
        } else {
            let lengths = self.staging.record_lengths();
            let placed = self.spares.place(lengths, room, head);
            placed.map_or(0, |placed| placed.left.max(placed.longest))
        };
        free.saturating_sub(2 * HEADER) as u64
    }

    /// Makes spares until the log takes `bytes` bytes for certain, as far as the disk has room.
    /// Returns what it takes then.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final. A full disk is no error here.
    pub fn make_room(&mut self, bytes: u64) -> Result<u64, Error> {
        self.run(|wal| {
            if wal.free_bytes() < bytes {
                let length = bytes as usize;
                let head = wal.head_bytes();
                let bytes = spares::segment_bytes_for(length, head, wal.segment_bytes);
                wal.make_one_spare(bytes)?;
            }
            Ok(wal.free_bytes())
        })
    }

    /// Removes the spares, so that a full disk has room for files that are not the log's. The records
    /// that wait were promised the room of the spares, so they are written before.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: final.
    pub fn remove_spares(&mut self) -> Result<(), Error> {
        self.run(|wal| {
            wal.write_batches()?;
            for spare in wal.spares.take_all() {
                wal.dir.unlink(&spare.name)?;
            }
            Ok(())
        })
    }

    /// Tries to make a spare if there is none.
    fn keep_spare(&mut self) -> Result<(), Error> {
        if self.spares.count(self.segment_bytes) == 0 {
            self.make_one_spare(self.segment_bytes)?;
        }
        Ok(())
    }

    /// Makes a spare. `false`: the disk has no room.
    fn make_one_spare(&mut self, bytes: u64) -> Result<bool, Error> {
        let name = segment::free_spare_name(&self.spares.names());
        let is_made = segment::make_spare(&mut self.dir, &name, bytes)?;
        if is_made {
            self.spares.add(Spare { name, bytes });
        }
        Ok(is_made)
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
        self.active.check_invariants();
        self.staging.check_invariants();
        assert_eq!(
            self.state.slot().segment,
            self.active.sequence(),
            "`state` names the newest segment"
        );
        assert!(
            self.full
                .back()
                .is_none_or(|newest| newest.sequence + 1 == self.active.sequence()),
            "full segments precede the active one"
        );
        assert!(
            self.sync_ended
                .is_none_or(|mark| mark <= self.staging.sealed()),
            "only records in batches are durable"
        );
    }
}
