//! The disk of a machine that runs: the real disk code (`tern::shell::disk`, `wal`) over a
//! simulated file system, and a record of the promises that this code has made to the core.
//!
//! A job of the log runs in place, in the turn that starts it, or it is a task, which runs in a later
//! turn (`Params::handed_over_ppm`). Work on snapshot files is always a task. A power cut before that
//! turn finds any beginning of the calls of the task.
//!
//! `Disk::image` holds the state that was reported as durable. The checks look at it. After each
//! crash the real recovery reads the remains of the file system. They must hold the image and a
//! prefix of the operations under way (`Disk::crash`). The run goes on with the state that the real
//! recovery has found. Start at `Disk::append`, then `Disk::start_job`.
use super::image::{Image, RealDisk, Snapshot, place_of};
use std::collections::VecDeque;
use tern::core::machine::{SnapshotIn, SnapshotOut, Space, StandbyInfo};
use tern::core::raft::room::record_cost;
use tern::core::raft::{
    Configuration, Entry, HardState, Index, Lsn, PeerId, Persist, SnapshotMeta, StateSeq, Term,
};
use tern::shell::config::Config;
use tern::shell::disk::{DiskFailure, Manner, SnapshotTask, SyncReport};
use tern_support::durable::{DurableLog, body_hash};
use tern_support::rng::Rng;
use tern_support::sim_fs::{Lie, SimFs};
use wal::Task;
use wal::format::HEADER;

/// Lies of the disk: planted faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// Syncs of files report success and do nothing.
    pub no_sync: bool,
    /// Term and vote are not written.
    pub no_state: bool,
    /// Syncs of folders report success and do nothing.
    pub no_directory: bool,
    /// Of each write only the first sector is synced.
    pub short_batch: bool,
    /// A truncation is forgotten: old entries come back behind a shorter new end.
    pub stale_tail: bool,
    /// A repaired body is not written.
    pub no_repair: bool,
    /// A snapshot file keeps the content of the one before it.
    pub old_snapshot: bool,
    /// A commit mark of its own is not written.
    pub no_mark: bool,
    /// A power cut takes the last durable entry.
    pub tail_lost: bool,
    /// A power cut takes the newest term and vote: the ones before are found.
    pub state_lost: bool,
    /// A commit mark of its own says nothing.
    pub mark_empty: bool,
    /// A wiped directory keeps its number.
    pub incarnation_kept: bool,
}

impl Lies {
    /// Whether recovery is given something else than the disk holds.
    pub fn are_told_at_start(&self) -> bool {
        self.stale_tail || self.tail_lost || self.state_lost || self.incarnation_kept
    }

    fn of_the_file_system(&self) -> Lie {
        if self.no_sync {
            Lie::Files
        } else if self.no_directory {
            Lie::Names
        } else if self.short_batch {
            Lie::Short
        } else {
            Lie::Nothing
        }
    }
}

/// A report of durability: a term and vote, and the records up to a number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durable {
    pub state: Option<StateSeq>,
    pub lsn: Option<Lsn>,
}

pub struct Disk {
    pub image: Image,
    pub lies: Lies,
    real: RealDisk,
    /// Terms and votes, handed over and not yet reported as durable, oldest first.
    states: VecDeque<HardState>,
    /// The term and vote before the durable ones.
    former_state: (Term, Option<PeerId>),
    /// Handed over, not yet reported as durable.
    waiting: VecDeque<Persist>,
    /// The number of the last operation that was reported as durable, and of the last that was
    /// handed over.
    durable: u64,
    last: u64,
    /// The job that is handed over and has not run.
    task: Option<Task<SimFs>>,
    /// The task with snapshot files that has not run.
    snapshot_task: Option<SnapshotTask<SimFs>>,
    /// The snapshot that is being written here, and what its file is made of.
    writing: Option<SnapshotMeta>,
    chunks: Vec<Vec<u8>>,
    former_chunks: Vec<Vec<u8>>,
    /// The snapshots that were ordered to be made durable and were not reported as that.
    coming: Vec<SnapshotMeta>,
    /// The id that is being written.
    pending_id: Option<PeerId>,
    /// The log may be wiped, now or by the next start.
    is_wiping: bool,
    /// The process must end.
    failure: Option<DiskFailure>,
    reported_free_bytes: Option<u64>,
    /// The highest commit mark that rode on a durable batch. One of its own may be dropped: the log
    /// uses no other segment for it.
    ridden_mark: Index,
}

impl Disk {
    /// The disk that a recovery has opened.
    pub fn new(image: Image, real: RealDisk, lies: Lies) -> Disk {
        image.fs.set_lie(lies.of_the_file_system());
        Disk {
            ridden_mark: image.log.commit,
            image,
            lies,
            real,
            states: VecDeque::new(),
            former_state: (Term(0), None),
            waiting: VecDeque::new(),
            durable: 0,
            last: 0,
            task: None,
            snapshot_task: None,
            writing: None,
            chunks: Vec::new(),
            former_chunks: Vec::new(),
            coming: Vec::new(),
            pending_id: None,
            is_wiping: false,
            failure: None,
            reported_free_bytes: None,
        }
    }

    /// Whether a call has failed, so that the process must end.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes a failure.
    fn note<T>(&mut self, result: Result<T, DiskFailure>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Whether the log has said that it takes these records.
    pub fn has_room_for(&self, ops: &[Persist]) -> bool {
        ops.iter().map(record_cost).sum::<u64>() <= self.real.free_bytes()
    }

    /// Takes a batch over; `lsn` is the number of its last operation.
    pub fn append(&mut self, ops: &mut Vec<Persist>, lsn: Lsn) {
        self.last += ops.len() as u64;
        assert!(self.last == lsn.0, "operations are numbered without a gap");
        self.waiting.extend(ops.iter().cloned());
        if !ops.is_empty() {
            // The core has counted their cost: it is told what is free even if that is the same.
            self.reported_free_bytes = None;
        }
        let lies = self.lies;
        let is_forgotten = |op: &&mut Persist| match op {
            Persist::Repair(_) => lies.no_repair,
            Persist::Mark { .. } => lies.no_mark,
            _ => false,
        };
        for op in ops.iter_mut().filter(is_forgotten) {
            *op = Persist::Release { through: Index(0) };
        }
        let appended = self.real.append(ops, lsn);
        self.note(appended);
        ops.clear();
    }

    /// Takes a term and vote over.
    pub fn save_state(&mut self, state: HardState) {
        self.states.push_back(state);
        if !self.lies.no_state {
            self.real.save_state(state);
        }
    }

    /// The log should have room for this many bytes.
    pub fn want_room(&mut self, bytes: u64) {
        self.real.want_room(bytes);
    }

    pub fn keep_configuration(&mut self, cluster: u64, members: &Configuration) {
        self.real.keep_configuration(cluster, members);
    }

    /// How many bytes of records the log takes for certain.
    pub fn free_bytes(&self) -> u64 {
        self.real.free_bytes()
    }

    /// Whether the disk has room, if that has changed.
    pub fn poll_space(&mut self, now_us: u64) -> Option<Space> {
        if self.has_failed() {
            return None;
        }
        self.real.poll_space(now_us)
    }

    /// How many bytes the log takes, if that has changed.
    pub fn poll_room(&mut self) -> Option<u64> {
        let free = Some(self.real.free_bytes());
        if self.has_failed() || free == self.reported_free_bytes {
            return None;
        }
        self.reported_free_bytes = free;
        free
    }

    /// Whether the log takes less than usual, and the disk had no room for more.
    pub fn lacks_room(&self) -> bool {
        self.real.lacks_room()
    }

    /// When `poll_space` must be called again, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.real.next_deadline()
    }

    /// Whether something waits for a job.
    pub fn has_work(&self) -> bool {
        self.real.has_work() || (self.lies.no_state && !self.states.is_empty())
    }

    /// Starts a job if none is running. Returns a report of all that has become durable, and whether
    /// the job has left a task for `end_task`.
    pub fn start_job(&mut self, manner: Manner) -> (Durable, bool) {
        let had_task = self.has_task();
        if !had_task && !self.has_failed() && self.real.has_work() {
            let started = self.real.start_sync(manner);
            if let Some(started) = self.note(started) {
                self.task = started.task;
            }
        }
        (self.poll(), !had_task && self.has_task())
    }

    /// Whether a job is handed over and has not run.
    pub fn has_task(&self) -> bool {
        self.task.is_some()
    }

    /// The task runs, and has ended. Returns a report of all that has become durable.
    pub fn end_task(&mut self) -> Durable {
        let mut task = self.task.take().expect("a task is under way");
        task.run();
        let taken = self.real.take_back(task);
        self.note(taken);
        self.poll()
    }

    /// Notes what has become durable.
    fn poll(&mut self) -> Durable {
        if self.has_failed() {
            return Durable::default();
        }
        let polled = self.real.poll_sync();
        let SyncReport { state, lsn, .. } = self.note(polled).unwrap_or_default();
        let untrue = self.states.back().filter(|_| self.lies.no_state);
        let state = state.or(untrue.map(|state| state.seq));
        if let Some(seq) = state {
            self.on_state_durable(seq);
        }
        if let Some(lsn) = lsn {
            self.on_durable(lsn);
        }
        Durable { state, lsn }
    }

    fn on_state_durable(&mut self, seq: StateSeq) {
        while let Some(state) = self.states.front().copied()
            && state.seq <= seq
        {
            self.states.pop_front();
            if !self.lies.no_state {
                self.former_state = (self.image.log.term, self.image.log.vote);
                self.image.log.save_state(state);
            }
        }
    }

    fn on_durable(&mut self, lsn: Lsn) {
        while self.durable < lsn.0 {
            let op = self.waiting.pop_front().expect("what is not durable waits");
            self.durable += 1;
            self.write_one(op);
        }
    }

    fn write_one(&mut self, op: Persist) {
        if !self.lies.no_state {
            self.image.log.check_order(&op);
        }
        if let Persist::Append { commit, .. } = &op {
            self.ridden_mark = self.ridden_mark.max(*commit);
        }
        match op {
            Persist::Repair(_) if self.lies.no_repair => {}
            Persist::Mark { .. } if self.lies.no_mark => {}
            Persist::Append { entries, commit } if self.lies.stale_tail => {
                let from = entries.first().map_or(u64::MAX, |e| e.index.0);
                let end = from.saturating_add(entries.len() as u64);
                let old = (end..=self.image.log.last())
                    .filter_map(|index| self.image.log.get(index).cloned())
                    .collect();
                self.image.log.apply(Persist::Append { entries, commit });
                self.image.log.put_back(old);
            }
            op => {
                if let Persist::Installed { meta, .. } = &op {
                    self.image.use_snapshot(meta);
                }
                self.image.log.apply(op);
            }
        }
    }

    /// Takes an order about snapshot files for the next task. Returns the report if it is refused at
    /// once. After a failure nothing is carried out: the process ends.
    pub fn snapshot(&mut self, order: SnapshotOut) -> Option<SnapshotIn> {
        if self.failure.is_some() {
            return None;
        }
        match &order {
            SnapshotOut::Begin(meta) => {
                self.writing = Some(meta.clone());
                self.former_chunks = std::mem::take(&mut self.chunks);
            }
            SnapshotOut::Chunk(chunk) if self.lies.old_snapshot => {
                self.chunks.push(chunk.clone());
                if !self.former_chunks.is_empty() {
                    return None;
                }
            }
            SnapshotOut::Finish => {
                self.coming.extend(self.writing.take());
                for chunk in std::mem::take(&mut self.former_chunks) {
                    self.real.snapshot(SnapshotOut::Chunk(chunk));
                }
            }
            SnapshotOut::Abandon => self.writing = None,
            SnapshotOut::Receive { meta, done, .. } if *done => self.coming.push(meta.clone()),
            SnapshotOut::Chunk(_) | SnapshotOut::Read { .. } | SnapshotOut::Receive { .. } => {}
        }
        self.real.snapshot(order)
    }

    /// Starts a task with the orders about snapshot files that wait, unless one is under way.
    /// Returns whether it did: `end_snapshot_task` must follow.
    pub fn start_snapshot_task(&mut self) -> bool {
        if self.has_failed() || self.snapshot_task.is_some() {
            return false;
        }
        self.snapshot_task = self.real.start_snapshot_task();
        self.snapshot_task.is_some()
    }

    /// The task with snapshot files runs, and has ended, unless an order has waited for it before.
    /// Returns its reports.
    pub fn end_snapshot_task(&mut self) -> Vec<SnapshotIn> {
        self.finish_snapshot_task();
        if self.has_failed() {
            return Vec::new();
        }
        let reports = self.real.take_snapshot_reports();
        for report in &reports {
            self.on_report(report);
        }
        reports
    }

    fn on_report(&mut self, report: &SnapshotIn) {
        match report {
            SnapshotIn::Saved { index, .. } => {
                let meta = self.take_coming(|meta| meta.index == *index);
                self.image.keep(meta);
            }
            SnapshotIn::Installed { meta, .. } => {
                let meta = self.take_coming(|coming| coming == meta);
                let in_use = false;
                self.image.snapshots.push(Snapshot { meta, in_use });
            }
            _ => {}
        }
    }

    /// Takes one snapshot from those that come: a member may make and receive the same one.
    fn take_coming(&mut self, is_it: impl FnMut(&SnapshotMeta) -> bool) -> SnapshotMeta {
        let at = self.coming.iter().position(is_it);
        self.coming.remove(at.expect("it was begun here"))
    }

    fn finish_snapshot_task(&mut self) {
        if let Some(mut task) = self.snapshot_task.take() {
            task.run();
            let taken = self.real.take_back_snapshots(task);
            self.note(taken);
        }
    }

    /// As the reactor: some orders need the files at once. The results of the tasks are reported
    /// later.
    fn finish_tasks(&mut self) {
        if let Some(mut task) = self.task.take() {
            task.run();
            let taken = self.real.take_back(task);
            self.note(taken);
        }
        self.finish_snapshot_task();
    }

    /// The cluster has admitted this machine.
    pub fn keep_id(&mut self, id: PeerId) {
        self.finish_tasks();
        self.pending_id = Some(id);
        let kept = self.real.keep_id(id);
        if self.note(kept).is_some() {
            self.image.id = id;
            self.pending_id = None;
        }
    }

    pub fn keep_standby(&mut self, info: &StandbyInfo, abandons_log: bool) {
        self.finish_tasks();
        self.is_wiping |= abandons_log;
        let kept = self.real.keep_standby(info, abandons_log);
        if self.note(kept).is_some() {
            self.image.standby = Some(info.clone());
        }
    }

    /// Wipes the log. Returns the new number of the directory; `None`: the process must end.
    pub fn start_over(&mut self) -> Option<u64> {
        self.finish_tasks();
        self.is_wiping = true;
        let started = self.real.start_over();
        let incarnation = self.note(started)?;
        self.image.log = DurableLog::default();
        self.image.id = PeerId::NONE;
        self.image.snapshots.clear();
        self.image.incarnation = incarnation;
        self.states.clear();
        self.waiting.clear();
        self.durable = 0;
        self.last = 0;
        self.task = None;
        self.writing = None;
        self.coming.clear();
        self.reported_free_bytes = None;
        self.is_wiping = false;
        Some(incarnation)
    }

    /// A copy of the data directory, as it is on the disk at this moment.
    pub fn copy(&self, rng: &mut Rng, config: &Config) -> Option<Image> {
        let fs = self.image.fs.cut_power(rng);
        fs.set_room(None);
        Image::read(&fs, config).ok()
    }

    /// The process or the machine is gone: what the next start finds.
    ///
    /// # Errors
    /// The recovery refuses the disk, or finds what it must not.
    pub fn crash(mut self, rng: &mut Rng, config: &Config) -> Result<Image, String> {
        self.image.fs.hold(true);
        // The tasks run beside each other. In one of the two orders, any beginning of the calls of both
        // is found with nothing of those of the other, or with all of them.
        let is_log_first = self.snapshot_task.is_none() || rng.percent(50);
        if is_log_first && let Some(mut task) = self.task.take() {
            task.run();
        }
        if let Some(mut task) = self.snapshot_task.take() {
            task.run();
        }
        if let Some(mut task) = self.task.take() {
            task.run();
        }
        let fs = self.image.fs.cut_power(rng);
        fs.plan_nothing();
        let mut found = Image::read(&fs, config)?;
        if self.lies.are_told_at_start() {
            self.lie_at_start(&mut found);
        } else {
            self.check_found(&found)?;
        }
        Ok(found)
    }

    fn lie_at_start(&self, found: &mut Image) {
        if self.lies.stale_tail && found.base() == self.image.base() {
            found.log = self.image.log.clone();
        }
        if self.lies.tail_lost && !found.log.is_empty() {
            found.log.truncate(found.log.last());
        }
        if self.lies.state_lost && self.former_state.0 >= found.last_term() {
            (found.log.term, found.log.vote) = self.former_state;
        }
    }
}

/// What a recovery may find.
impl Disk {
    /// Compares what the recovery has found with what was durable and what was under way.
    fn check_found(&self, found: &Image) -> Result<(), String> {
        let is_wiped = found.id == PeerId::NONE && found.last() == 0;
        if self.is_wiping && is_wiped {
            return Ok(());
        }
        let expected = &self.image;
        let is_id = found.id == expected.id || Some(found.id) == self.pending_id;
        if !is_id || found.incarnation != expected.incarnation {
            return Err(format!(
                "id {:?} and number {:x} are found, not {:?} and {:x}",
                found.id, found.incarnation, expected.id, expected.incarnation
            ));
        }
        let state = (found.log.term, found.log.vote);
        let states = self.states.iter().map(|s| (s.term, s.vote));
        if state != (expected.log.term, expected.log.vote) && states.into_iter().all(|s| s != state)
        {
            return Err(format!(
                "term and vote {state:?} are found, not {:?}",
                (expected.log.term, expected.log.vote)
            ));
        }
        self.check_snapshot(found)?;
        self.check_entries(found)
    }

    /// The snapshot is the newest that was durable, or one that was under way.
    fn check_snapshot(&self, found: &Image) -> Result<(), String> {
        let expected = &self.image;
        let mut known: Vec<_> = expected
            .snapshots
            .iter()
            .map(|s| place_of(&s.meta))
            .collect();
        known.extend(self.coming.iter().map(place_of));
        let base = found.newest().map(|s| place_of(&s.meta));
        let is_known = base.is_none_or(|base| known.contains(&base));
        if is_known && found.base() >= expected.base() {
            return Ok(());
        }
        Err(format!(
            "the snapshot {base:?} is found, of {known:?}, in use up to {}",
            expected.base()
        ))
    }

    /// The entries after the snapshot are those that were durable, changed by a beginning of the
    /// records that were under way. The commit mark is not lower than the last that rode on a
    /// durable batch.
    fn check_entries(&self, found: &Image) -> Result<(), String> {
        let mut log = self.image.log.clone();
        let commit_min = self.ridden_mark.min(log.commit);
        let mut commit_max = log.commit;
        let mut under_way = VecDeque::new();
        for op in &self.waiting {
            match op {
                Persist::Append { entries, commit } => {
                    commit_max = commit_max.max(*commit);
                    let one = |entry: &Entry| Persist::Append {
                        entries: vec![entry.clone()],
                        commit: Index(0),
                    };
                    under_way.extend(entries.iter().map(one));
                }
                Persist::Mark { commit } => commit_max = commit_max.max(*commit),
                Persist::Installed { .. } | Persist::Repair(_) => under_way.push_back(op.clone()),
                Persist::Release { .. } => {}
            }
        }
        let base = found.newest().map(|s| s.meta.clone());
        let entries = found.entries();
        loop {
            if is_same(&expected_entries(&log, base.as_ref()), &entries) {
                break;
            }
            let Some(op) = under_way.pop_front() else {
                return Err(format!(
                    "entries {:?} are found after {}, not {:?} and {} records under way",
                    places_of(&entries),
                    found.base(),
                    places_of(&expected_entries(&self.image.log, base.as_ref())),
                    self.waiting.len()
                ));
            };
            log.apply(op);
        }
        // A recovery that goes on from a leader's snapshot records that it is committed.
        let commit = found.log.commit.0.max(found.base());
        // A mark of its own is left out at the end of a segment.
        let is_low = commit < commit_min.0 && found.tail_room() >= 2 * HEADER;
        if is_low || commit > commit_max.0.max(found.base()) {
            return Err(format!(
                "the commit mark {} is found, not {} to {}",
                found.log.commit.0, commit_min.0, commit_max.0
            ));
        }
        Ok(())
    }
}

/// The entries that recovery makes of a log after a snapshot. A log that neither contains the last
/// entry of the snapshot nor begins after it is dropped.
fn expected_entries(log: &DurableLog, base: Option<&SnapshotMeta>) -> Vec<Entry> {
    let Some(base) = base else {
        return log.entries_after(0);
    };
    let is_after = log.is_empty() || log.first() > base.index.0;
    let at_base = log.get(base.index.0).map(|r| r.entry.term);
    if is_after || at_base == Some(base.term) {
        return log.entries_after(base.index.0);
    }
    Vec::new()
}

/// Whether two lists hold the same entries. A damaged body is not compared.
fn is_same(expected: &[Entry], found: &[Entry]) -> bool {
    let body = |entry: &Entry| body_hash(&entry.body);
    expected.len() == found.len()
        && expected.iter().zip(found).all(|(e, f)| {
            let is_body_same = body(e) == body(f) || body(e).is_none();
            (e.index, e.term) == (f.index, f.term) && is_body_same
        })
}

fn places_of(entries: &[Entry]) -> Vec<(u64, u64)> {
    entries.iter().map(|e| (e.index.0, e.term.0)).collect()
}
