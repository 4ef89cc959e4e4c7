//! `Wal`: one data directory's log, opened, appended to, synced in batches, rotated, released.
//!
//! It owns the order of the steps on the disk; the bytes are `format`'s, the verdict on what is
//! found is `scan`'s. It must never put a batch into the map before the one before it is synced:
//! that is what makes a batch's start a durable mark. Start reading at `Wal`, then `open_with`,
//! `append`, `start_sync`.
use std::collections::VecDeque;
use std::path::Path;

use crate::format::{BODY_MAX, HEADER, Head, Header, Kind, PAGE, crc, record_bytes, seed};
use crate::os::{Hook, Os};
use crate::scan::{Extent, Scanner, follow};
use crate::segment::{self, Active, SPARES_MAX};
use crate::state::{self, State};
use crate::{
    Error, OpenError, Options, Record, Recovered, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    STAGED_BYTES_MAX, Space,
};

/// As much memory for what waits is kept from batch to batch, in bytes.
const STAGED_BYTES_KEPT: usize = 256 << 10;

/// The log of one data directory, locked for this process.
pub struct Wal {
    os: Os,
    segment_bytes: u64,
    identity: u64,
    state: State,
    active: Active,
    /// Older segments that have not been released, oldest first.
    old: VecDeque<Extent>,
    /// Names of spares, all of `segment_bytes`.
    spares: Vec<String>,
    /// What the heads of new segments repeat.
    configuration: Box<[u8]>,
    /// Records that no batch holds yet, encoded but for what depends on their place. At most
    /// `STAGED_BYTES_MAX` and one append stay here.
    staged: Vec<u8>,
    /// The records appended, and those of them that are in batches.
    appended: u64,
    placed: u64,
    /// The index that the next entry may have at most, behind what is appended and behind what is
    /// in batches; 0: any.
    next: u64,
    next_placed: u64,
    /// The number of the next batch and the checksum of the last.
    batch: u64,
    batch_crc: u32,
    commit: u64,
    commit_placed: u64,
    /// A sync has ended and nobody has asked yet.
    ended: Option<u64>,
    /// The first error that was final.
    failed: Option<Error>,
}

/// Removes a log from `dir`: first `state`, then segments and spares; nothing that is not this
/// crate's. The directory must not be open.
pub fn wipe(dir: &Path) -> Result<(), OpenError> {
    wipe_with(dir, None)
}

/// `wipe` with every system call shown to `hook`.
pub fn wipe_with(dir: &Path, hook: Option<Hook>) -> Result<(), OpenError> {
    let (mut os, names) = enter(dir, hook)?;
    wipe_in(&mut os, names)
}

fn wipe_in(os: &mut Os, mut names: Vec<String>) -> Result<(), OpenError> {
    if names.iter().any(|n| n == state::STATE) {
        // From here on the directory is new, whatever else a crash leaves in it.
        os.rename(state::STATE, state::WIPING)?;
        os.sync_dir()?;
        names.push(state::WIPING.into());
    }
    clear(os, &names)
}

/// The locked directory and what is in it.
fn enter(dir: &Path, hook: Option<Hook>) -> Result<(Os, Vec<String>), OpenError> {
    let mut os = Os::new(dir, hook);
    if !os.enter()? {
        return Err(OpenError::Locked { dir: dir.into() });
    }
    let names = os.list()?;
    Ok((os, names))
}

/// Removes the segments, spares and half-made files among `names`, and then the mark that says that
/// they may go.
fn clear(os: &mut Os, names: &[String]) -> Result<(), OpenError> {
    let log = |n: &str| segment::log_number(n).is_some() || segment::is_spare(n);
    let mut any = false;
    for name in names.iter().filter(|n| log(n) || is_half_made(n)) {
        os.unlink(name)?;
        any = true;
    }
    if any {
        os.sync_dir()?;
    }
    if names.iter().any(|n| n == state::WIPING) {
        os.unlink(state::WIPING)?;
        os.sync_dir()?;
    }
    Ok(())
}

fn is_half_made(name: &str) -> bool {
    name == segment::MAKING || name == state::MAKING
}

fn check(bytes: u64) -> Result<(), OpenError> {
    let fits = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes);
    match fits && bytes.is_multiple_of(PAGE as u64) {
        true => Ok(()),
        false => Err(OpenError::Option(format!(
            "a log segment of {bytes} bytes: it must be a multiple of {PAGE} between {SEGMENT_BYTES_MIN} and \
             {SEGMENT_BYTES_MAX}"
        ))),
    }
}

/// Makes an empty log in a directory without `state`. Whatever else of ours is there must never
/// have been used, or be about to be wiped; otherwise it is `state` that was lost.
fn create(os: &mut Os, options: &Options, names: &[String]) -> Result<(), OpenError> {
    if !names.iter().any(|n| n == state::WIPING) && segment::any_used(os, names)? {
        let dir = options.dir.clone();
        return Err(OpenError::State { dir });
    }
    clear(os, names)?;
    let head = Head {
        records_at: PAGE as u32,
        segment_bytes: options.segment_bytes,
        identity: options.identity,
        sequence: 1,
        base: 0,
        batch: 1,
        commit: 0,
        previous_end: 0,
        previous_crc: 0,
        configuration: Box::default(),
    };
    if os.create(segment::MAKING, head.segment_bytes)?.is_none() {
        return Err(OpenError::Io(Error::Full));
    }
    segment::take(os, segment::MAKING, &head)?;
    State::create(os, options.identity)
}

// -- opening
impl Wal {
    /// Locks the directory, reads what is there, cuts a torn tail off; makes it if it is new.
    pub fn open(options: Options) -> Result<(Wal, Recovered), OpenError> {
        Wal::open_with(options, None)
    }

    /// `open` with every system call shown to `hook`, for tests that cut the power.
    pub fn open_with(options: Options, hook: Option<Hook>) -> Result<(Wal, Recovered), OpenError> {
        check(options.segment_bytes)?;
        let (os, names) = enter(&options.dir, hook)?;
        Wal::open_in(os, names, &options)
    }

    /// Wipes the log that is open and begins a new one, with a number of its own; the lock is kept.
    /// After an error this log is of no use any more.
    pub fn start_over(&mut self, options: &Options) -> Result<Recovered, OpenError> {
        check(options.segment_bytes)?;
        let unlocked = Os::new(&options.dir, None);
        let mut os = std::mem::replace(&mut self.os, unlocked);
        let names = os.list()?;
        wipe_in(&mut os, names)?;
        self.active.empty(&mut os)?;
        let names = os.list()?;
        let (wal, recovered) = Wal::open_in(os, names, options)?;
        *self = wal;
        Ok(recovered)
    }

    fn open_in(
        mut os: Os,
        mut names: Vec<String>,
        options: &Options,
    ) -> Result<(Wal, Recovered), OpenError> {
        let is_new = !names.iter().any(|n| n == state::STATE);
        if is_new {
            create(&mut os, options, &names)?;
            names = os.list()?;
        }
        for name in names.iter().filter(|n| is_half_made(n)) {
            os.unlink(name)?;
        }
        let state = State::open(&mut os, &options.dir)?;
        // The segment of a new directory has no records; its bytes need not be read to know that.
        let bytes_max = if is_new {
            PAGE as u64
        } else {
            SEGMENT_BYTES_MAX
        };
        let mut scanner = segment::read(&mut os, state.slot().identity, &names, bytes_max)?;
        scanner.expect_newest(state.slot().segment);
        let scanner = refuse_damage(scanner, &options.dir)?;
        let spares = segment::usable_spares(&mut os, &names, options.segment_bytes)?;
        let (mut wal, mut recovered) = Wal::resume(os, state, scanner, options.segment_bytes)?;
        if wal.active.sequence > wal.state.slot().segment {
            wal.state.save_segment(&mut wal.os, wal.active.sequence)?;
        }
        wal.spares = spares;
        wal.keep_spare()?;
        recovered.is_new = is_new;
        recovered.state = (!is_new).then(|| (wal.state.slot().term, wal.state.slot().vote));
        Ok((wal, recovered))
    }

    /// Goes on where the scan has found the end.
    fn resume(
        mut os: Os,
        state: State,
        scanner: Scanner,
        segment_bytes: u64,
    ) -> Result<(Wal, Recovered), OpenError> {
        let Scanner { log, tail, .. } = scanner;
        let mut old = VecDeque::from(scanner.extents);
        let last = old.pop_back().expect("a log without damage has a file");
        let active = segment::cut(&mut os, &tail, last)?;
        let identity = state.slot().identity;
        let wal = Wal {
            os,
            segment_bytes,
            identity,
            state,
            active,
            old,
            spares: Vec::new(),
            configuration: scanner.configuration.clone(),
            staged: Vec::new(),
            appended: 0,
            placed: 0,
            next: log.next,
            next_placed: log.next,
            batch: tail.batch,
            batch_crc: tail.crc,
            commit: log.commit,
            commit_placed: log.commit,
            ended: None,
            failed: None,
        };
        let torn_bytes = (tail.dirty - tail.end) as u64;
        let recovered = Recovered {
            identity,
            entries: log.entries,
            installed: log.installed,
            commit: log.commit,
            configuration: scanner.configuration,
            end: (tail.sequence, tail.end as u64),
            closed: tail.closed && torn_bytes == 0,
            torn_bytes,
            faults: log.faults.into_values().collect(),
            ..Recovered::default()
        };
        Ok((wal, recovered))
    }
}

/// Damaged bodies are the caller's to judge; with less than headers nobody can go on.
fn refuse_damage(mut scanner: Scanner, dir: &Path) -> Result<Scanner, OpenError> {
    if let Some((name, found)) = scanner.version {
        let file = dir.join(name).display().to_string();
        return Err(OpenError::Version { file, found });
    }
    if scanner.lost.is_empty() {
        return Ok(scanner);
    }
    scanner.lost.extend(scanner.log.faults.into_values());
    let (dir, faults) = (dir.into(), scanner.lost);
    Err(OpenError::Damaged { dir, faults })
}

// -- appending
impl Record<'_> {
    /// The header but for what depends on the place, and the body.
    fn parts(&self) -> (Header, &[u8]) {
        let (kind, term, index, body) = match *self {
            Record::Entry { term, index, body } => (Kind::Entry, term, index, body),
            Record::Repair { term, index, body } => (Kind::Repair, term, index, body),
            Record::Installed {
                term,
                index,
                keep_tail,
                head,
            } => {
                let kinds = [Kind::Installed, Kind::InstalledTail];
                (kinds[usize::from(keep_tail)], term, index, head)
            }
        };
        let header = Header {
            kind,
            len: body.len() as u32,
            durable: 0,
            term,
            index,
            crc: 0,
        };
        (header, body)
    }
}

impl Wal {
    /// The longest body, in bytes: a quarter of a segment.
    pub fn body_bytes_max(&self) -> usize {
        BODY_MAX.min(self.segment_bytes as usize / 4 - HEADER)
    }

    /// Whether records wait that no batch holds yet.
    pub fn wants_sync(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Takes records for the next batch and returns their mark: the number of records appended so
    /// far. `commit` is the commit index known now; it is recorded with the next batch. On
    /// `Error::Full` nothing was taken. Panics on an entry that leaves a gap and on a body that
    /// is too long.
    pub fn append(&mut self, records: &[Record], commit: u64) -> Result<u64, Error> {
        self.guard(|wal| {
            wal.ensure_room(records)?;
            for record in records {
                wal.stage(record);
            }
            wal.commit = wal.commit.max(commit);
            if wal.staged.len() > STAGED_BYTES_MAX {
                wal.write_all()?;
            }
            Ok(wal.appended)
        })
    }

    fn stage(&mut self, record: &Record) {
        let (header, body) = record.parts();
        assert!(body.len() <= self.body_bytes_max(), "the body fits");
        if header.kind == Kind::Entry {
            let gap = self.next != 0 && header.index > self.next;
            assert!(!gap, "entry {} behind {}", header.index, self.next);
        }
        self.next = follow(self.next, header.kind, header.index);
        self.staged.extend_from_slice(&header.encode_unsealed());
        self.staged.extend_from_slice(body);
        let padded = self.staged.len().next_multiple_of(8);
        self.staged.resize(padded, 0);
        self.appended += 1;
    }

    /// Sees to it that what waits and `records` can be written: makes spares if they need more
    /// segments than there are.
    fn ensure_room(&mut self, records: &[Record]) -> Result<(), Error> {
        let new = records.iter().map(|r| record_bytes(r.parts().1.len()));
        let room = self.active.bytes as usize - self.active.end;
        if self.staged.len() + new.clone().sum::<usize>() + HEADER <= room {
            return Ok(());
        }
        let waiting = staged(&self.staged).map(|(at, end, _)| end - at);
        let fresh = self.segment_bytes as usize - Head::bytes_for(self.configuration.len());
        let (mut left, mut segments) = (room, 0);
        for bytes in waiting.chain(new) {
            if bytes + HEADER > left {
                segments += 1;
                left = fresh;
            }
            left -= bytes;
        }
        while self.spares.len() < segments {
            if !self.make_one()? {
                return Err(Error::Full);
            }
        }
        Ok(())
    }

    /// Starts to make what waits durable; does nothing while a sync runs or has ended unasked. This
    /// one blocks until it is done, and `poll_sync` tells the end at once; callers must assume
    /// neither.
    pub fn start_sync(&mut self) -> Result<(), Error> {
        match self.ended {
            Some(_) => Ok(()),
            None => self.guard(Wal::write_all),
        }
    }

    /// The mark up to which everything is durable, once when a sync has ended.
    pub fn poll_sync(&mut self) -> Result<Option<u64>, Error> {
        self.guard(|wal| Ok(wal.ended.take()))
    }

    fn write_all(&mut self) -> Result<(), Error> {
        while !self.staged.is_empty() {
            self.place_batch()?;
            self.os.sync(&self.active.file, &self.active.name)?;
            self.finish_batch()?;
        }
        Ok(())
    }

    /// Puts what waits, or as much of it as the segment holds, into the map as one batch.
    /// Everything before is synced.
    fn place_batch(&mut self) -> Result<(), Error> {
        if self.fitting() == 0 {
            self.rotate()?;
        }
        let taken = self.fitting();
        assert!(taken > 0, "a record fits a segment");
        let mut bytes = std::mem::take(&mut self.staged);
        let rest = bytes.split_off(taken);
        // The commit index was told with the last append. If that is not in this batch as a whole,
        // entries it speaks of may still wait, and older ones at the same indexes, which
        // they replace, may be in this batch: recovery would take those for committed.
        let commit = if rest.is_empty() {
            self.commit
        } else {
            self.commit_placed
        };
        self.seal(&mut bytes, commit);
        self.active.map.write(self.active.end, &bytes);
        self.active.end += bytes.len();
        bytes.clear();
        bytes.shrink_to(STAGED_BYTES_KEPT);
        bytes.extend_from_slice(&rest);
        self.staged = bytes;
        Ok(())
    }

    /// How many of the bytes that wait fit into the segment together with the record that ends a
    /// batch.
    fn fitting(&self) -> usize {
        let room = self.active.bytes as usize - self.active.end;
        if self.staged.len() + HEADER <= room {
            return self.staged.len();
        }
        let ends = staged(&self.staged).map(|(_, end, _)| end);
        ends.take_while(|end| end + HEADER <= room)
            .last()
            .unwrap_or(0)
    }

    /// Completes the records of a batch for the place where they go, and adds the record that ends
    /// it.
    fn seal(&mut self, bytes: &mut Vec<u8>, commit: u64) {
        let start = self.active.end;
        let mut check = 0;
        let mut at = 0;
        while at < bytes.len() {
            let mut header = Header::peek(&bytes[at..]).expect("this process put it there");
            let seed = self.seed(start + at);
            let body = at + HEADER..at + HEADER + header.len as usize;
            header.durable = start as u32;
            header.crc = crc(seed, &bytes[body]);
            let encoded = header.encode(seed);
            bytes[at..at + HEADER].copy_from_slice(&encoded);
            check = crc(check, &encoded);
            self.next_placed = follow(self.next_placed, header.kind, header.index);
            self.active.index_max = self.active.index_max.max(header.index);
            self.placed += 1;
            at += record_bytes(header.len as usize);
        }
        let end = self.end_record(Kind::Commit, start as u32, start + at, commit, check);
        bytes.extend_from_slice(&end);
    }

    fn seed(&self, offset: usize) -> u32 {
        seed(self.identity, self.active.sequence, offset as u32)
    }

    fn end_record(
        &mut self,
        kind: Kind,
        start: u32,
        at: usize,
        commit: u64,
        crc: u32,
    ) -> [u8; HEADER] {
        let header = Header {
            kind,
            len: 0,
            durable: start,
            term: self.batch,
            index: commit,
            crc,
        };
        self.batch += 1;
        self.batch_crc = crc;
        self.commit_placed = commit;
        header.encode(self.seed(at))
    }

    /// The sync of the batch has ended well.
    fn finish_batch(&mut self) -> Result<(), Error> {
        let Active { map, name, end, .. } = &mut self.active;
        map.synced(*end).map_err(|error| Error::Io {
            call: "madvise",
            file: name.clone(),
            text: error.to_string(),
        })?;
        self.ended = Some(self.placed);
        Ok(())
    }

    /// Goes on in a spare. The present segment is synced to its end.
    fn rotate(&mut self) -> Result<(), Error> {
        self.keep_spare()?;
        let spare = self.spares.pop().ok_or(Error::Full)?;
        let head = Head {
            records_at: Head::bytes_for(self.configuration.len()) as u32,
            segment_bytes: self.segment_bytes,
            identity: self.identity,
            sequence: self.active.sequence + 1,
            base: self.next_placed,
            batch: self.batch,
            commit: self.commit_placed,
            previous_end: self.active.end as u32,
            previous_crc: self.batch_crc,
            configuration: self.configuration.clone(),
        };
        let active = segment::take(&mut self.os, &spare, &head)?;
        self.state.save_segment(&mut self.os, head.sequence)?;
        let full = std::mem::replace(&mut self.active, active);
        self.old.push_back(Extent {
            sequence: full.sequence,
            bytes: full.bytes,
            index_max: full.index_max,
        });
        drop(full.map);
        self.os.drop_cache(&full.file, &full.name)?;
        self.keep_spare()
    }
}

/// The records of `bytes` that wait: where each starts and ends, and its header.
fn staged(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, Header)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = Header::peek(bytes.get(at..at + HEADER)?).expect("this process put it there");
        let start = at;
        at += record_bytes(header.len as usize);
        Some((start, at, header))
    })
}

// -- the rest
impl Wal {
    /// Does something unless an error was final before, and remembers one that is.
    fn guard<T>(&mut self, act: impl FnOnce(&mut Wal) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let done = act(self);
        if let Err(error @ Error::Io { .. }) = &done {
            self.failed = Some(error.clone());
        }
        done
    }

    /// Writes and syncs term and vote, to one slot and then to the other. Panics if the term goes
    /// back.
    pub fn save_state(&mut self, term: u64, vote: u64) -> Result<(), Error> {
        self.guard(|wal| wal.state.save(&mut wal.os, term, vote))
    }

    /// Keeps the configuration that the heads of new segments repeat; at most `body_bytes_max`
    /// bytes.
    pub fn set_configuration(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.body_bytes_max(), "a head fits");
        self.configuration = bytes.into();
    }

    /// Entries up to `through` are not needed any more: the oldest segments that hold nothing else
    /// become spares.
    pub fn release(&mut self, through: u64) -> Result<(), Error> {
        self.guard(|wal| {
            while let Some(oldest) = wal.old.front().copied()
                && oldest.index_max <= through
            {
                if wal.spares.len() < SPARES_MAX && oldest.bytes == wal.segment_bytes {
                    let spare = segment::free_spare_name(&wal.spares);
                    segment::recycle(&mut wal.os, oldest.sequence, &spare)?;
                    wal.spares.push(spare);
                } else {
                    segment::discard(&mut wal.os, oldest.sequence)?;
                }
                wal.old.pop_front();
            }
            Ok(())
        })
    }

    /// Whether there is a segment to go on in when the present one is full.
    pub fn space(&self) -> Space {
        match self.spares.is_empty() {
            true => Space::Low,
            false => Space::Ok,
        }
    }

    /// Tries to make a spare segment if there is none; to be asked again and again while the space
    /// is low.
    pub fn make_spare(&mut self) -> Result<Space, Error> {
        self.guard(|wal| {
            wal.keep_spare()?;
            Ok(wal.space())
        })
    }

    /// Gives the room of the spares back, to what has to be written beside the log on a full disk.
    pub fn give_up_spares(&mut self) -> Result<(), Error> {
        self.guard(|wal| {
            let mut spares = wal.spares.drain(..);
            spares.try_for_each(|name| wal.os.unlink(&name))
        })
    }

    fn keep_spare(&mut self) -> Result<(), Error> {
        if self.spares.is_empty() {
            self.make_one()?;
        }
        Ok(())
    }

    /// Makes a spare; false: the disk has no room.
    fn make_one(&mut self) -> Result<bool, Error> {
        let name = segment::free_spare_name(&self.spares);
        let made = segment::make_spare(&mut self.os, &name, self.segment_bytes)?;
        if made {
            self.spares.push(name);
        }
        Ok(made)
    }

    /// Syncs what waits and writes the closing mark, if the segment has room for it.
    pub fn close(mut self) -> Result<(), Error> {
        self.guard(|wal| {
            wal.write_all()?;
            let at = wal.active.end;
            if at + HEADER > wal.active.bytes as usize {
                return Ok(());
            }
            let mark = wal.end_record(Kind::Close, at as u32, at, wal.commit, 0);
            wal.active.map.write(at, &mark);
            wal.os.sync(&wal.active.file, &wal.active.name)
        })
    }
}
