//! The data directory of a running machine: the log, snapshots, exports, `membership` and
//! `standby_info`. After the start the rest of tern only reads files: certificates at the first
//! connection to another machine and at SIGHUP (`tls`), and `/proc` for `/metrics` (`process`). Log
//! lines go to stdout, which may be a file (`logger`).
//!
//! A failed sync or read never reaches the core: it is returned as a [`DiskFailure`] and must end
//! the process. After a failed sync, unsynced data may be lost even if a later sync succeeds, so the
//! value must not be used any more. A full disk is no such failure: the core keeps within the room
//! that was reported to it ([`Disk::free_bytes`]), so nothing waits here for room.
//!
//! A sync runs in place, or as a [`Task`] that the caller runs in another thread and gives back. The
//! caller chooses ([`Manner`]): this file has neither threads nor clocks. So the simulator runs the
//! same code, with tasks that end in any later turn. Work on snapshot files is always a task, of
//! another kind ([`SnapshotTask`]).
//!
//! Start with [`Disk::open`] (in `recovery`), then [`Disk::append`], [`Disk::start_sync`],
//! [`Disk::take_back`], [`Disk::poll_sync`], and [`Disk::snapshot`] for snapshot files.
mod dir;
mod export;
mod files;
mod forced;
mod membership;
mod recovery;
mod restored;
mod snapfile;
mod snapshot_files;
mod snapshots;
mod standby;
pub mod worker;

pub use export::Export;
use files::DataDir;
use membership::OwnMembership;
pub use restored::restore_nodes;
pub use snapshot_files::SnapshotTask;

use crate::core::machine::{SnapshotIn, SnapshotOut, Space, StandbyInfo, Ticket};
use crate::core::raft::room::{BODY_BYTES_MAX, CLIENT_RESERVE_BYTES, RECORD_EXTRA_BYTES};
use crate::core::raft::snapshot_head::encode_meta;
use crate::core::raft::{
    Configuration, EntryBody, HardState, Lsn, PeerId, Persist, SnapshotMeta, StateSeq,
};
use crate::shell::config::Config;
use crate::shell::logger;
use snapshots::Snapshots;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use wal::fs::FileSystem;
pub use wal::job::Manner;
use wal::os::{Os, is_out_of_room};
use wal::{Record, Task, Wal};

/// How many syncs make a term and vote durable: one for each slot of the file.
const STATE_SYNCS: u64 = 2;

/// How often a full disk is checked for room, in microseconds.
const ROOM_CHECK_US: u64 = 500_000;

/// For how long room beyond the usual one is asked for in vain, in microseconds. Each attempt takes
/// what a full disk has left and gives it back. The core asks again with each entry that needs it.
const WANTED_ROOM_US: u64 = 10_000_000;

/// The log should take at least this many bytes for certain, with any settings.
const ROOM_BYTES_MIN: u64 = 2 * CLIENT_RESERVE_BYTES;

/// The most bytes that the log should take for certain for the clients' records of a turn. One spare
/// segment of the default size is more.
const TURN_BYTES_MAX: u64 = 4 << 20;

/// The same bound in segments: small segments are for a small disk, and more would take much of it.
const TURN_SEGMENTS_MAX: u64 = 4;

/// How many bytes the log should take for certain: the reserve of the core, and the records that
/// clients may bring in a turn. Records that do not fit then are refused as on a full disk, even if
/// the disk has room.
fn room_bytes_of(config: &Config) -> u64 {
    let turn_bytes = (config.client_bytes_max as u64).min(TURN_BYTES_MAX);
    let turn_bytes = turn_bytes.min(TURN_SEGMENTS_MAX * config.segment_bytes);
    ROOM_BYTES_MIN.max(CLIENT_RESERVE_BYTES + turn_bytes)
}

// The core counts a record as at least as long as the log makes it, and knows the longest one.
const _: () = assert!(2 * wal::format::HEADER + 7 <= RECORD_EXTRA_BYTES as usize);
const _: () = assert!(wal::format::BODY_MAX as u64 == BODY_BYTES_MAX);

/// The data directory of a running machine.
pub struct Disk<F: FileSystem = Os> {
    data_dir: DataDir<F>,
    wal: Wal<F>,
    /// The size of new log segments, in bytes; never changes.
    segment_bytes: u64,
    /// The random number of the log. Changes when the log is replaced.
    incarnation: u64,
    /// The content of `standby_info` at start. `None` if this machine was no standby, and after
    /// `take_standby`.
    standby: Option<StandbyInfo>,
    /// The peer URLs in `standby_info` at start; empty after `take_peers`.
    peers: Vec<Box<str>>,
    snapshots: Snapshots<F>,
    /// The numbers of the clusters that this machine has left by going on alone.
    former_clusters: Vec<u64>,
    /// The term and vote that the core handed in last and that are not written.
    unwritten_state: Option<HardState>,
    /// The term and vote that the task under way makes durable.
    task_state: Option<StateSeq>,
    /// The term and vote that became durable last. `None` once [`Disk::poll_sync`] has reported it.
    unreported_state: Option<StateSeq>,
    /// For each call of `append`: the mark of the log that covers it, and the number of the call.
    /// Oldest first; neither falls. Removed once the mark is durable.
    unsynced: VecDeque<(u64, Lsn)>,
    /// The mark of the last record, or commit mark, that the log has accepted.
    appended_mark: u64,
    /// The mark up to which all records are durable; at most `appended_mark`.
    durable_mark: u64,
    /// The number of the last call of `append`; only rises, except when the log is replaced.
    lsn: Lsn,
    /// The last report of `poll_space`.
    space: Space,
    /// The log should take this many bytes for certain; at least `room_bytes`.
    wanted_bytes: u64,
    /// Until when `wanted_bytes` beyond `room_bytes` are asked for, in microseconds of the monotonic
    /// clock. `None` without them, and before the first attempt since the core asked.
    wanted_until_us: Option<u64>,
    /// The log should always take this many bytes for certain; never changes.
    room_bytes: u64,
    /// When to ask for missing room again, in microseconds of the monotonic clock. `None`: the next
    /// `poll_space` asks if room is missing.
    next_room_check_us: Option<u64>,
}

/// A call on the data directory failed for another reason than want of room; with its text. The
/// process must exit: the durable state is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure(String);

impl fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DiskFailure {}

impl From<wal::Error> for DiskFailure {
    fn from(error: wal::Error) -> DiskFailure {
        DiskFailure(error.to_string())
    }
}

impl From<wal::OpenError> for DiskFailure {
    fn from(error: wal::OpenError) -> DiskFailure {
        DiskFailure(error.to_string())
    }
}

impl From<io::Error> for DiskFailure {
    fn from(error: io::Error) -> DiskFailure {
        DiskFailure(error.to_string())
    }
}

impl From<String> for DiskFailure {
    fn from(text: String) -> DiskFailure {
        DiskFailure(text)
    }
}

/// The result of [`Disk::start_sync`].
pub struct StartedSync<F: FileSystem> {
    /// How many syncs were made in place. [`Disk::poll_sync`] reports their records as durable.
    pub syncs: u64,
    /// The caller must run it and give it to [`Disk::take_back`].
    pub task: Option<Task<F>>,
}

/// The state and the records that have become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// This term and vote, or a later one.
    pub state: Option<StateSeq>,
    /// All records of the log up to this number.
    pub lsn: Option<Lsn>,
    /// How many records and commit marks became durable.
    pub records: u64,
}

impl<F: FileSystem> Disk<F> {
    /// Takes a term and vote that must become durable; it replaces one that is not written yet.
    /// [`Disk::poll_sync`] returns its number once it is durable.
    pub fn save_state(&mut self, state: HardState) {
        self.unwritten_state = Some(state);
    }

    /// Takes records of the log that must become durable, in order, and empties `persist`. `lsn` is
    /// the number of this call; [`Disk::poll_sync`] returns it once everything up to it is durable.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    ///
    /// # Panics
    ///
    /// If `persist` is not empty and `lsn` does not rise.
    pub fn append(&mut self, persist: &mut Vec<Persist>, lsn: Lsn) -> Result<(), DiskFailure> {
        if persist.is_empty() {
            return Ok(());
        }
        assert!(lsn > self.lsn, "numbers rise");
        self.lsn = lsn;
        let mut rest = persist.as_slice();
        while let Some(first) = rest.first() {
            let taken = match first {
                Persist::Release { through } => {
                    self.wal.release(through.0);
                    1
                }
                Persist::Mark { commit } => {
                    self.appended_mark = self.wal.mark_commit(commit.0)?;
                    1
                }
                Persist::Append { .. } | Persist::Repair(_) | Persist::Installed { .. } => {
                    self.append_records(rest)?
                }
            };
            rest = &rest[taken..];
        }
        persist.clear();
        self.unsynced.push_back((self.appended_mark, lsn));
        Ok(())
    }

    /// Appends the records at the front of `persist` in one call. Returns how many they were.
    ///
    /// # Panics
    ///
    /// If they do not fit: the core takes no entry without room for it.
    fn append_records(&mut self, persist: &[Persist]) -> Result<usize, DiskFailure> {
        let mut heads = Vec::new();
        for persist in persist {
            if let Persist::Installed { meta, .. } = persist {
                let mut head = Vec::new();
                encode_meta(meta, &mut head);
                heads.push(head);
            }
        }
        let mut heads = heads.iter();
        let mut records = Vec::new();
        let mut commit_max = 0;
        let mut count = 0;
        for persist in persist {
            match persist {
                Persist::Append { entries, commit } => {
                    commit_max = commit.0.max(commit_max);
                    records.extend(entries.iter().map(|entry| Record::Entry {
                        term: entry.term.0,
                        index: entry.index.0,
                        body: good_body(&entry.body),
                    }));
                }
                Persist::Repair(entry) => {
                    log::info!("log entry {}: repaired from a peer", entry.index.0);
                    records.push(Record::Repair {
                        term: entry.term.0,
                        index: entry.index.0,
                        body: good_body(&entry.body),
                    });
                }
                Persist::Installed { meta, keep_tail } => records.push(Record::Installed {
                    term: meta.term.0,
                    index: meta.index.0,
                    keep_tail: *keep_tail,
                    head: heads.next().expect("one for each snapshot"),
                }),
                Persist::Mark { .. } | Persist::Release { .. } => break,
            }
            count += 1;
        }
        self.appended_mark = match self.wal.append(&records, commit_max) {
            Ok(mark) => mark,
            Err(wal::Error::Full) => panic!("the core keeps within the room that it was told"),
            Err(e @ wal::Error::Io { .. }) => return Err(e.into()),
        };
        Ok(count)
    }

    /// Starts the sync of the records and the term handed in, unless a task is under way or nothing waits.
    /// - In place, a term and vote, and records that need one sync, are durable when this returns.
    /// - Records that need more than one sync, and the work on files, are a task in either manner.
    ///
    /// Term and vote are always first: entries of a term are written only after that term is durable,
    /// and the log writes the number of a new segment to the same file.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    pub fn start_sync(&mut self, manner: Manner) -> Result<StartedSync<F>, DiskFailure> {
        let mut started = StartedSync {
            syncs: 0,
            task: None,
        };
        if self.wal.has_task() {
            return Ok(started);
        }
        if manner == Manner::InPlace {
            started.syncs += self.write_state()?;
        } else if let Some(state) = self.unwritten_state.take() {
            self.task_state = Some(state.seq);
            started.task = Some(self.wal.hand_over_state(state.term.0, vote_of(state))?);
            return Ok(started);
        }
        let is_short = self.wal.waiting() > 0 && self.wal.is_next_job_short();
        if manner == Manner::InPlace && is_short && self.wal.sync_records()? {
            started.syncs += 1;
        }
        started.task = self.wal.hand_over()?;
        Ok(started)
    }

    /// Makes the term and vote that wait durable, in place. Returns how many syncs that took.
    ///
    /// # Panics
    ///
    /// If a task is under way.
    fn write_state(&mut self) -> Result<u64, DiskFailure> {
        let Some(state) = self.unwritten_state.take() else {
            return Ok(0);
        };
        self.wal.save_state(state.term.0, vote_of(state))?;
        self.unreported_state = Some(state.seq);
        Ok(STATE_SYNCS)
    }

    /// Whether a task is under way.
    pub fn has_task(&self) -> bool {
        self.wal.has_task()
    }

    /// Whether the task under way makes records or a term and vote durable, and does not only work on
    /// files.
    pub fn is_sync(&self, task: &Task<F>) -> bool {
        task.has_records() || self.task_state.is_some()
    }

    /// Takes back a task that has run. [`Disk::poll_sync`] then reports its records as durable.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    pub fn take_back(&mut self, task: Task<F>) -> Result<(), DiskFailure> {
        self.wal.take_back(task)?;
        if let Some(seq) = self.task_state.take() {
            self.unreported_state = Some(seq);
        }
        Ok(())
    }

    /// The state and the records that have become durable since the last call.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    pub fn poll_sync(&mut self) -> Result<SyncReport, DiskFailure> {
        self.snapshots.free_some();
        let mut records = 0;
        if let Some(mark) = self.wal.poll_sync()? {
            records = mark - self.durable_mark;
            self.durable_mark = mark;
        }
        let mut lsn = None;
        while let Some((mark, number)) = self.unsynced.front()
            && *mark <= self.durable_mark
        {
            lsn = Some(*number);
            self.unsynced.pop_front();
        }
        let state = self.unreported_state.take();
        Ok(SyncReport {
            state,
            lsn,
            records,
        })
    }

    /// How many records and commit marks were appended since the start.
    pub fn appended(&self) -> u64 {
        self.appended_mark
    }

    /// Whether records wait for a sync that has not started.
    pub fn has_waiting_records(&self) -> bool {
        self.wal.waiting() > 0
    }

    /// Whether a term and vote wait for a sync.
    pub fn has_unwritten_state(&self) -> bool {
        self.unwritten_state.is_some()
    }

    /// How many bytes of records the log takes for certain, whatever happens to the disk.
    pub fn free_bytes(&self) -> u64 {
        self.wal.free_bytes()
    }

    /// Whether the log takes less than usual, and the disk had no room for more.
    pub fn lacks_room(&self) -> bool {
        self.wal.lacks_room() && self.wal.free_bytes() < self.room_bytes
    }

    /// The log should take this many bytes for certain. [`Disk::poll_space`] makes the room if the
    /// disk has it within `WANTED_ROOM_US`.
    pub fn want_room(&mut self, bytes: u64) {
        if bytes > self.wanted_bytes {
            self.wanted_bytes = bytes;
            self.next_room_check_us = None;
        }
        if bytes >= self.wanted_bytes {
            self.wanted_until_us = None;
        }
    }

    /// Whether the disk has room, if that has changed since the last call. If the log takes less than
    /// it should, asks for spares, at most every `ROOM_CHECK_US` while they cannot be made;
    /// [`Disk::start_sync`] starts that work.
    pub fn poll_space(&mut self, now_us: u64) -> Option<Space> {
        let is_check_due = self.next_room_check_us.is_none_or(|due| now_us >= due);
        if is_check_due {
            self.wal.keep_room(self.wanted_bytes);
        }
        let is_full = self.wal.space() == wal::Space::Low;
        if !is_full && self.wal.free_bytes() >= self.wanted_bytes {
            self.want_usual_room();
            self.next_room_check_us = None;
        } else if is_check_due {
            self.next_room_check_us = Some(now_us + ROOM_CHECK_US);
            let until_us = self.wanted_until_us.get_or_insert(now_us + WANTED_ROOM_US);
            if now_us >= *until_us {
                self.want_usual_room();
            }
        }
        let space = if is_full { Space::Low } else { Space::Ok };
        let is_changed = space != self.space;
        self.space = space;
        is_changed.then_some(space)
    }

    fn want_usual_room(&mut self) {
        self.wanted_bytes = self.room_bytes;
        self.wanted_until_us = None;
    }

    /// When [`Disk::poll_space`] must be called again, in microseconds of the monotonic clock;
    /// `None` if nothing is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_room_check_us
    }

    /// Whether [`Disk::start_sync`] or [`Disk::poll_sync`] would do something.
    pub fn has_work(&self) -> bool {
        let is_durable = |(mark, _): &(u64, Lsn)| *mark <= self.durable_mark;
        if self.unreported_state.is_some() || self.unsynced.front().is_some_and(is_durable) {
            return true;
        }
        !self.wal.has_task() && (self.unwritten_state.is_some() || self.wal.wants_sync())
    }

    /// The configuration has changed. The head of each new log segment repeats the newest one.
    pub fn keep_configuration(&mut self, cluster: u64, configuration: &Configuration) {
        let meta = SnapshotMeta {
            cluster,
            configuration: configuration.clone(),
            ..SnapshotMeta::default()
        };
        let mut bytes = Vec::new();
        encode_meta(&meta, &mut bytes);
        self.wal.set_configuration(&bytes);
    }

    /// Takes an order of the core about snapshot files, for the next [`Disk::start_snapshot_task`].
    /// Returns the report to the core if the order is refused at once.
    pub fn snapshot(&mut self, order: SnapshotOut) -> Option<SnapshotIn> {
        self.snapshots.take_order(order)
    }

    /// Makes a task of the orders about snapshot files that wait. `None` if none does, and while
    /// another such task is under way. It may run beside the tasks of the log.
    pub fn start_snapshot_task(&mut self) -> Option<SnapshotTask<F>> {
        self.snapshots.start_task()
    }

    /// Takes back a task that has run. [`Disk::take_snapshot_reports`] then has its reports.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    pub fn take_back_snapshots(&mut self, task: SnapshotTask<F>) -> Result<(), DiskFailure> {
        self.snapshots.take_back(task)
    }

    /// The reports to the core of the tasks that were taken back, in order, each once.
    pub fn take_snapshot_reports(&mut self) -> Vec<SnapshotIn> {
        self.snapshots.take_reports()
    }

    /// Whether a task with snapshot files is under way.
    pub fn has_snapshot_task(&self) -> bool {
        self.snapshots.has_task()
    }

    /// Whether [`Disk::start_snapshot_task`] or [`Disk::take_snapshot_reports`] has something to do.
    pub fn has_snapshot_work(&self) -> bool {
        self.snapshots.has_work()
    }

    /// An export to the data directory. It shares `is_alive`.
    pub fn export(&self, ticket: Ticket, is_alive: Arc<()>) -> Export<F> {
        Export::new(&self.data_dir, ticket, is_alive)
    }

    /// The removal of what an export that was dropped may have left. It shares `is_alive`.
    pub fn remove_export(&self, ticket: Ticket, is_alive: Arc<()>) -> Export<F> {
        Export::removal(&self.data_dir, ticket, is_alive)
    }

    /// Makes durable that the cluster has admitted this machine as the member `id`.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    ///
    /// # Panics
    ///
    /// If a task is under way and the disk is full.
    pub fn keep_id(&mut self, id: PeerId) -> Result<(), DiskFailure> {
        let member = OwnMembership::Member {
            id: id.0,
            incarnation: self.incarnation,
        };
        self.write_or_make_room(|data_dir| membership::write(data_dir, &member))
    }

    /// Writes `standby_info` durably. With `abandons_log`, the file also says that the log and the
    /// snapshots must be deleted, so that the next start does it if the process ends before
    /// [`Disk::start_over`].
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    ///
    /// # Panics
    ///
    /// If a task is under way and the disk is full.
    pub fn keep_standby(
        &mut self,
        info: &StandbyInfo,
        abandons_log: bool,
    ) -> Result<(), DiskFailure> {
        if abandons_log {
            let abandoned = Some(self.incarnation);
            return self.write_or_make_room(|data_dir| standby::write(data_dir, info, abandoned));
        }
        match standby::write(&self.data_dir, info, None) {
            // The old file still says that this machine is a standby. If it was admitted since,
            // `membership` is newer.
            Err(e) if is_out_of_room(&e) => {
                log::warn!("no room for {}: {e}. The older one stays", standby::FILE);
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Writes a small file that must not wait. On a full disk, older snapshots and spare segments
    /// are removed for it. The log and the newest snapshot stay: if the process ends before the
    /// file is written, the machine must start with its vote.
    fn write_or_make_room(
        &mut self,
        write: impl Fn(&DataDir<F>) -> io::Result<()>,
    ) -> Result<(), DiskFailure> {
        match write(&self.data_dir) {
            Err(e) if is_out_of_room(&e) => {
                log::warn!("{e}: removing older snapshots and spare log segments");
                self.snapshots.keep_newest_only()?;
                // The records that wait are written before the spares are removed, and the term of
                // these records before them.
                self.write_state()?;
                self.wal.remove_spares()?;
                Ok(write(&self.data_dir)?)
            }
            result => Ok(result?),
        }
    }

    /// Takes the content of `standby_info` at start; `None` if this machine was no standby.
    pub fn take_standby(&mut self) -> Option<StandbyInfo> {
        self.standby.take()
    }

    /// Takes the peer URLs that this machine knew when it was last a standby. A machine that was
    /// admitted and has not received anything since knows no others.
    pub fn take_peers(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.peers)
    }

    /// The numbers of the clusters that this machine has left by going on alone
    /// (`-force-new-cluster`), oldest first.
    pub fn former_clusters(&self) -> &[u64] {
        &self.former_clusters
    }

    /// Wipes the log and the snapshots and starts a new log. Returns its random number. Call
    /// [`Disk::keep_standby`] with `abandons_log` first: then a crash on the way is recovered at
    /// the next start.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn start_over(&mut self) -> Result<u64, DiskFailure> {
        let limits = self.snapshots.limits();
        self.snapshots = Snapshots::new(&self.data_dir, limits, Vec::new());
        let identity = random_of(self.data_dir.fs())?;
        let options = wal::Options {
            dir: self.data_dir.path().into(),
            segment_bytes: self.segment_bytes,
            identity,
        };
        self.incarnation = self.wal.start_over(&options)?.identity;
        dir::wipe_besides_log(&self.data_dir)?;
        self.former_clusters.clear();
        self.unwritten_state = None;
        self.task_state = None;
        self.unreported_state = None;
        self.unsynced.clear();
        self.appended_mark = 0;
        self.durable_mark = 0;
        self.lsn = Lsn(0);
        self.space = Space::Ok;
        self.want_usual_room();
        self.next_room_check_us = None;
        Ok(self.incarnation)
    }

    /// Syncs the appended records and closes the log.
    ///
    /// # Errors
    ///
    /// See [`DiskFailure`].
    ///
    /// # Panics
    ///
    /// If a task is under way.
    pub fn close(mut self) -> Result<(), DiskFailure> {
        self.write_state()?;
        Ok(self.wal.close()?)
    }
}

/// The vote as the log stores it: 0 for none.
fn vote_of(state: HardState) -> u64 {
    state.vote.map_or(0, |id| id.0)
}

/// The body of an entry that is to be appended.
///
/// # Panics
///
/// If the body is damaged. The core appends an entry only once it is repaired.
fn good_body(body: &EntryBody) -> &[u8] {
    match body {
        EntryBody::Good(bytes) => bytes,
        EntryBody::Faulty { .. } => panic!("only whole entries are appended"),
    }
}

/// Ends the process after a [`DiskFailure`].
pub fn or_exit<T>(result: Result<T, DiskFailure>) -> T {
    result.unwrap_or_else(|failure| {
        log::error!("{failure}: nothing more can be acknowledged, tern exits");
        logger::finish();
        std::process::exit(1)
    })
}

/// Random bits of the operating system.
///
/// # Errors
///
/// A system call failed; with a sentence for the user.
pub fn random() -> Result<u64, String> {
    random_of(&Os)
}

fn random_of<F: FileSystem>(fs: &F) -> Result<u64, String> {
    fs.random()
        .map_err(|e| format!("the system gives no random numbers: {e}"))
}
