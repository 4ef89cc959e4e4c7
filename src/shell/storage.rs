//! The disk as the loop uses it: when a sync of the log starts, in which manner, and the reports to
//! the machine.
//!
//! The loop never waits for a slow sync of the log. A short one runs in place. A longer one is a task
//! for a thread; its end wakes the poll and is reported in a later turn. Work on snapshot files is
//! always a task, for a second thread: it is seldom short, and no client waits for it. The loop does
//! wait for the device
//! - in three orders (`keep_id`, `keep_standby`, `start_over`), which first wait for the tasks.
//!   They come when the machine is admitted, becomes a standby or joins again: a few times in its
//!   life, and while it does not lead. Each must be durable before the next order, and before what
//!   follows from it leaves. In one call that holds by itself; with a task that ends in a later turn,
//!   all outputs of the machine would have to wait for it,
//! - for snapshot files, at most `SNAPSHOT_WAIT_US_MAX` a turn, while the log is about to fill its
//!   memory, or the copies for the snapshot theirs: it would have to begin anew,
//! - in `close`.
//!
//! Must not decide anything about raft. Start with [`Storage::take_outputs`], then
//! [`Storage::start_sync`] and [`Storage::complete_sync`].
use super::gathering::Gathering;
use super::sync_manner::SyncManner;
use crate::core::machine::{Machine, Outputs, StandbyInfo, Ticket};
use crate::core::raft::{Configuration, PeerId};
use crate::core::timer::{Now, earliest};
use crate::shell::clock::Clock;
use crate::shell::disk::worker::{ExportWorker, LogWorker, SnapshotWorker};
use crate::shell::disk::{Disk, Export, SyncReport, or_exit};
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The loop waits for the snapshot files at most this long in a turn, in microseconds, and no longer
/// than a heartbeat interval: a leader sends heartbeats in each turn.
const SNAPSHOT_WAIT_US_MAX: u64 = 50_000;

/// The time of a sync, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct SyncTime {
    /// From its start to its end: what the manner and the wait of the next one depend on.
    took_us: u64,
    /// From the start of the turn that started it to its report. Peers got no answer to what they
    /// sent meanwhile, so the patience with peers depends on this.
    held_up_us: u64,
}

/// The disk, the threads of its tasks, and the rules of its syncs.
pub struct Storage {
    disk: Disk,
    worker: LogWorker,
    snapshot_worker: SnapshotWorker,
    /// The thread of exports; `None` before the first one.
    export_worker: Option<ExportWorker>,
    /// Each export shares it: one that exists is one that is being written.
    export_is_alive: Arc<()>,
    /// The request for an export that has begun. `None` once its end was reported: then it has left
    /// no unfinished file.
    unfinished_export: Option<Ticket>,
    waker: Arc<Waker>,
    /// In which manner a sync runs.
    manner: SyncManner,
    /// The wait for further requests before the sync after a slow one.
    gathering: Gathering,
    /// When the turn began that handed the last task over, in microseconds of the monotonic clock.
    task_since_us: u64,
    /// The longest wait for the snapshot files in a turn; never changes.
    snapshot_wait: Duration,
    /// How long the last sync took, in microseconds, until `take_sync_us`.
    sync_us: Option<u64>,
    /// How many bytes the log takes, by the last report to the machine. `None` once the machine has
    /// handed out records since: it subtracts the most that they may take, so it needs a new report
    /// even if the number is the same.
    reported_free_bytes: Option<u64>,
}

impl Storage {
    /// Starts the threads, which wake the poll of `waker`. `heartbeat_ms` is the time between two
    /// heartbeats of a leader.
    ///
    /// # Errors
    ///
    /// The system has no thread; with a sentence for the user.
    pub fn new(disk: Disk, waker: Arc<Waker>, heartbeat_ms: u64) -> Result<Storage, String> {
        let snapshot_wait_us = SNAPSHOT_WAIT_US_MAX.min(heartbeat_ms.saturating_mul(1_000));
        Ok(Storage {
            disk,
            worker: LogWorker::new("disk", waker.clone()).map_err(no_thread)?,
            snapshot_worker: SnapshotWorker::new("snapshots", waker.clone()).map_err(no_thread)?,
            export_worker: None,
            export_is_alive: Arc::default(),
            unfinished_export: None,
            waker,
            manner: SyncManner::default(),
            gathering: Gathering::default(),
            task_since_us: 0,
            snapshot_wait: Duration::from_micros(snapshot_wait_us),
            sync_us: None,
            reported_free_bytes: None,
        })
    }

    /// Begins an export. One is written at a time: each has the same file until it is whole.
    ///
    /// # Errors
    ///
    /// Another one is being written, or the system has no thread; with a sentence for the client.
    pub fn begin_export(&mut self, ticket: Ticket) -> Result<Box<Export>, String> {
        if self.is_exporting() || self.unfinished_export.is_some() {
            return Err("another export is being written, try again later".into());
        }
        if self.export_worker.is_none() {
            let worker = ExportWorker::new("exports", self.waker.clone());
            self.export_worker = Some(worker.map_err(no_thread)?);
        }
        let export = self.disk.export(ticket, self.export_is_alive.clone());
        self.unfinished_export = Some(ticket);
        Ok(Box::new(export))
    }

    fn is_exporting(&self) -> bool {
        Arc::strong_count(&self.export_is_alive) > 1
    }

    /// Hands the next piece of an export over.
    ///
    /// # Panics
    ///
    /// If the export is none of `begin_export`.
    pub fn write_export(&mut self, export: Box<Export>) {
        let worker = self.export_worker.as_mut();
        worker.expect("an export was begun").start(export);
    }

    /// The export whose piece is written, or which has failed. If the export was dropped because its
    /// client has left, its file is removed.
    pub fn take_export(&mut self) -> Option<Box<Export>> {
        if !self.is_exporting() {
            self.remove_dropped_export();
            return None;
        }
        let export = self.export_worker.as_mut()?.take_ended()?.task;
        if export.result() != Ok(false) {
            self.unfinished_export = None;
        }
        Some(export)
    }

    fn remove_dropped_export(&mut self) {
        if let Some(ticket) = self.unfinished_export {
            let is_alive = self.export_is_alive.clone();
            self.write_export(Box::new(self.disk.remove_export(ticket, is_alive)));
        }
    }

    /// Whether an export was dropped before it was finished.
    fn has_dropped_export(&self) -> bool {
        self.unfinished_export.is_some() && !self.is_exporting()
    }

    /// Takes what must become durable, and the orders about snapshots. Returns whether the machine
    /// got a report.
    pub fn take_outputs(&mut self, outputs: &mut Outputs, machine: &mut Machine, now: Now) -> bool {
        if let Some(state) = outputs.state.take() {
            self.disk.save_state(state);
        }
        if !outputs.persist.is_empty() {
            self.reported_free_bytes = None;
        }
        or_exit(self.disk.append(&mut outputs.persist, outputs.lsn));
        if let Some(bytes) = outputs.wanted_room_bytes.take() {
            self.disk.want_room(bytes);
        }
        let mut has_reported = false;
        for out in outputs.snapshot.drain(..) {
            if let Some(refused) = self.disk.snapshot(out) {
                machine.on_snapshot(now, refused);
                has_reported = true;
            }
        }
        self.start_snapshot_task();
        has_reported
    }

    /// Hands over what waits for the snapshot files, unless a task is under way.
    fn start_snapshot_task(&mut self) {
        if let Some(task) = self.disk.start_snapshot_task() {
            self.snapshot_worker.start(task);
        }
    }

    /// Takes back the task with snapshot files if it has ended, reports its results to the machine,
    /// and starts the next one.
    pub fn complete_snapshots(&mut self, machine: &mut Machine, now: Now) {
        if self.disk.has_snapshot_task()
            && let Some(ended) = self.snapshot_worker.take_ended()
        {
            or_exit(self.disk.take_back_snapshots(ended.task));
        }
        if self.disk.has_snapshot_work() {
            for report in self.disk.take_snapshot_reports() {
                machine.on_snapshot(now, report);
            }
            self.start_snapshot_task();
        }
    }

    /// Takes back the log's task if it has ended, and reports to the machine the records that are
    /// durable since.
    pub fn complete_sync(&mut self, machine: &mut Machine, now: Now) {
        let mut time = SyncTime::default();
        if self.disk.has_task()
            && let Some(ended) = self.worker.take_ended()
        {
            if ended.task.is_one_sync() {
                self.manner.on_sync(ended.took_us, now.mono_us);
            }
            // Releases may be reported with the end of a task that only worked on files.
            if self.disk.is_sync(&ended.task) {
                time = SyncTime {
                    took_us: ended.took_us,
                    held_up_us: now.mono_us - self.task_since_us,
                };
            }
            or_exit(self.disk.take_back(ended.task));
        }
        self.report(machine, now, time);
    }

    /// Starts one sync for all that was taken since the last one, in place or in the thread. If it
    /// is over when it returns, it is reported at once. Returns the time then.
    ///
    /// Before that it waits for the task with snapshot files if records wait and the machine asks for
    /// that. The messages of this turn have left. The wait is part of the time that is reported with
    /// the sync of the records, or with the one that is under way.
    pub fn start_sync(&mut self, machine: &mut Machine, clock: &Clock, turn: Now) -> Now {
        let mut now = turn;
        let is_gathering = self.gathering.is_waiting(self.disk.appended(), now.mono_us);
        if is_gathering && !self.disk.has_unwritten_state() {
            return now;
        }
        if self.disk.has_waiting_records() && machine.is_snapshot_late() {
            self.wait_for_late_snapshot();
            now = clock.now();
            self.complete_snapshots(machine, now);
        }
        if self.disk.has_task() {
            return now;
        }
        // The turn has worked since it read the clock.
        let since_us = clock.now().mono_us;
        let started = or_exit(self.disk.start_sync(self.manner.at(since_us)));
        let mut time = SyncTime::default();
        if started.syncs > 0 {
            now = clock.now();
            time = SyncTime {
                took_us: now.mono_us - since_us,
                held_up_us: now.mono_us - turn.mono_us,
            };
        }
        if let Some(each_us) = time.took_us.checked_div(started.syncs) {
            self.manner.on_sync(each_us, now.mono_us);
        }
        self.report(machine, now, time);
        if let Some(task) = started.task {
            self.task_since_us = turn.mono_us;
            self.worker.start(task);
        }
        now
    }

    /// How long the sync took that has ended since the last call, in microseconds; `None` if none has.
    pub fn take_sync_us(&mut self) -> Option<u64> {
        self.sync_us.take()
    }

    /// Reports to the machine the records that are durable now, and a change of the disk's room.
    /// `time` is that of the sync that has ended; zeros without one: some records become durable
    /// without a sync.
    fn report(&mut self, machine: &mut Machine, now: Now, time: SyncTime) {
        let report = or_exit(self.disk.poll_sync());
        if report != SyncReport::default() {
            self.gathering.on_sync(time.took_us, report.records);
            self.sync_us = (time.took_us > 0).then_some(time.took_us);
            let held_up_us = time.held_up_us;
            if let Some(seq) = report.state {
                machine.on_state_synced(now, seq, held_up_us);
            }
            if let Some(lsn) = report.lsn {
                // One sync counts once.
                let is_counted = report.state.is_some();
                machine.on_synced(now, lsn, if is_counted { 0 } else { held_up_us });
            }
        }
        if let Some(space) = self.disk.poll_space(now.mono_us) {
            machine.on_space(now, space);
        }
        self.report_room(machine);
    }

    /// Reports to the machine how many bytes the log takes, if that has changed.
    pub fn report_room(&mut self, machine: &mut Machine) {
        let free_bytes = self.disk.free_bytes();
        if self.reported_free_bytes != Some(free_bytes) {
            self.reported_free_bytes = Some(free_bytes);
            machine.on_room(free_bytes);
        }
        machine.on_log_growth(!self.disk.lacks_room());
    }

    /// The turn has sent `answers` answers. The next sync may wait for the next requests of these
    /// clients, from now on: the time is returned.
    pub fn on_answers(&mut self, answers: usize, clock: &Clock, turn: Now) -> Now {
        if !self.gathering.is_due() {
            return turn;
        }
        let now = clock.now();
        let appended = self.disk.appended();
        self.gathering.on_answers(answers, appended, now.mono_us);
        now
    }

    /// Whether the next turn has something to do here at once.
    pub fn has_work(&self, now_us: u64) -> bool {
        let is_waiting = self.gathering.is_waiting(self.disk.appended(), now_us);
        let may_sync = !is_waiting || self.disk.has_unwritten_state();
        (may_sync && self.disk.has_work())
            || self.disk.has_snapshot_work()
            || self.has_dropped_export()
    }

    /// When the next turn must come, in microseconds of the monotonic clock; `None` if nothing is
    /// due.
    pub fn next_deadline(&self, now_us: u64) -> Option<u64> {
        let gathered_us = self.gathering.deadline(self.disk.appended(), now_us);
        earliest(&[gathered_us, self.disk.next_deadline()])
    }

    /// The configuration has changed.
    pub fn keep_configuration(&mut self, cluster: u64, configuration: &Configuration) {
        self.disk.keep_configuration(cluster, configuration);
    }

    /// See [`Disk::keep_id`]. Waits for the device.
    pub fn keep_id(&mut self, id: PeerId) {
        self.finish_tasks();
        or_exit(self.disk.keep_id(id));
    }

    /// See [`Disk::keep_standby`]. Waits for the device.
    pub fn keep_standby(&mut self, info: &StandbyInfo, abandons_log: bool) {
        self.finish_tasks();
        or_exit(self.disk.keep_standby(info, abandons_log));
    }

    /// See [`Disk::start_over`]. Waits for the device.
    pub fn start_over(&mut self) -> u64 {
        self.finish_tasks();
        or_exit(self.disk.start_over())
    }

    /// Syncs the appended records and closes the log, at the end of the loop. Waits for the device.
    pub fn close(mut self) {
        self.finish_tasks();
        or_exit(self.disk.close());
    }

    /// Waits until the tasks have ended, and takes them back. Their results are reported later.
    fn finish_tasks(&mut self) {
        if self.disk.has_task() {
            let ended = self.worker.wait();
            or_exit(self.disk.take_back(ended.task));
        }
        if self.disk.has_snapshot_task() {
            let ended = self.snapshot_worker.wait();
            or_exit(self.disk.take_back_snapshots(ended.task));
        }
    }

    /// Waits for the task with snapshot files, at most `snapshot_wait`, and takes it back.
    fn wait_for_late_snapshot(&mut self) {
        if self.disk.has_snapshot_task()
            && let Some(ended) = self.snapshot_worker.wait_for(self.snapshot_wait)
        {
            or_exit(self.disk.take_back_snapshots(ended.task));
        }
    }
}

fn no_thread(error: io::Error) -> String {
    format!("no thread for the disk: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::{Command, KeyPath};
    use crate::core::machine::Op;
    use crate::shell::config::{self, Config, ProcessInputs, Start};
    use crate::shell::disk::SnapshotTask;
    use crate::shell::disk::worker::EndedTask;
    use mio::{Poll, Token};
    use std::path::Path;
    use std::sync::mpsc::{Receiver, Sender};
    use wal::os::Os;

    /// A machine of its own cluster, with 32 MB of memory, and its storage. No task with snapshot files
    /// ends: their device hangs.
    struct Rig {
        machine: Machine,
        storage: Storage,
        clock: Clock,
        outputs: Outputs,
        /// The thread of the snapshot files has these ends of the channels, and does not use them.
        _snapshots: (
            Receiver<SnapshotTask<Os>>,
            Sender<EndedTask<SnapshotTask<Os>>>,
        ),
        requests: u64,
    }

    fn config_of(data_dir: &Path) -> Config {
        let args = [
            "-name=a".to_string(),
            format!("-data-dir={}", data_dir.display()),
            format!("-max-memory={}", 32 << 20),
        ];
        match config::parse(&ProcessInputs::of_args(&args)) {
            Ok(Start::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    impl Rig {
        fn new(data_dir: &Path) -> Rig {
            let config = config_of(data_dir);
            let (disk, recovered) = Disk::open(&config).expect("an empty directory");
            let clock = Clock::new();
            let machine = Machine::recover(config.settings(), recovered, 7, clock.now());
            let poll = Poll::new().expect("a poll");
            let waker = Waker::new(poll.registry(), Token(1)).expect("a waker");
            let mut storage = Storage::new(disk, Arc::new(waker), 50).expect("threads");
            let (worker, tasks, ended) = SnapshotWorker::by_hand();
            storage.snapshot_worker = worker;
            Rig {
                machine,
                storage,
                clock,
                outputs: Outputs::default(),
                _snapshots: (tasks, ended),
                requests: 0,
            }
        }

        fn advance(&mut self, now: Now) {
            self.machine.advance(now, &mut self.outputs);
            self.storage
                .take_outputs(&mut self.outputs, &mut self.machine, now);
            self.outputs.clear();
            self.storage.report_room(&mut self.machine);
        }

        fn put(&mut self, now: Now) {
            self.requests += 1;
            let command = Command::Set {
                path: KeyPath::new(&format!("/key{}", self.requests % 50)),
                value: Some("x".repeat(20_000).into()),
                lease: None,
            };
            self.machine
                .on_request(now, Ticket(self.requests), Op::Write(command));
        }

        /// Writes until the snapshot, whose first task does not end, is late.
        fn write_until_late(&mut self) {
            while !self.machine.is_snapshot_late() {
                assert!(self.requests < 5_000, "no snapshot is late");
                let turn = self.turn_of_write();
                self.sync(turn);
                self.finish_sync();
            }
            assert!(self.storage.disk.has_snapshot_task());
        }

        /// A turn up to the start of the sync, with a write if the machine takes one. Returns its time.
        fn turn_of_write(&mut self) -> Now {
            let now = self.clock.now();
            self.storage.complete_sync(&mut self.machine, now);
            self.storage.complete_snapshots(&mut self.machine, now);
            self.machine.on_time(now);
            if self.machine.is_serving() {
                self.put(now);
            }
            self.advance(now);
            now
        }

        /// The rest of the turn, which answers nothing. Returns the time after the start of the sync.
        fn sync(&mut self, turn: Now) -> Now {
            let now = self
                .storage
                .start_sync(&mut self.machine, &self.clock, turn);
            self.storage.on_answers(0, &self.clock, now)
        }

        /// Waits for the end of a sync that was handed over.
        fn finish_sync(&mut self) {
            if self.storage.disk.has_task() {
                let ended = self.storage.worker.wait();
                or_exit(self.storage.disk.take_back(ended.task));
            }
        }
    }

    /// A device that hangs holds a turn up for a bounded time, and the time is part of the sync's.
    #[test]
    fn a_late_snapshot_is_waited_for_briefly_and_the_wait_is_reported() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut rig = Rig::new(dir.path());
        rig.write_until_late();
        rig.storage.manner.on_sync(60_000, rig.clock.now().mono_us);
        for _ in 0..3 {
            let turn = rig.turn_of_write();
            let now = rig.sync(turn);
            assert!(now.mono_us - turn.mono_us >= SNAPSHOT_WAIT_US_MAX);
            assert!(rig.storage.disk.has_snapshot_task(), "it has not run");
            assert!(rig.storage.disk.has_task(), "the records are handed over");
            assert_eq!(rig.storage.task_since_us, turn.mono_us);
            rig.finish_sync();
        }
        // A turn without records does not wait.
        let turn = rig.clock.now();
        rig.storage.complete_sync(&mut rig.machine, turn);
        assert!(!rig.storage.disk.has_waiting_records());
        assert_eq!(rig.sync(turn), turn);
    }

    /// An export whose client leaves is dropped; the thread removes its file, and then another one may
    /// begin.
    #[test]
    fn the_file_of_a_dropped_export_is_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut storage = Rig::new(dir.path()).storage;
        let mut export = storage.begin_export(Ticket(1)).expect("the first one");
        export.set_piece(b"one ".to_vec(), None);
        storage.write_export(export);
        let worker = storage.export_worker.as_mut().expect("it has begun");
        let ended = worker.wait();
        assert_eq!(ended.task.result(), Ok(false));
        drop(ended);
        let unfinished = dir.path().join("migrate.tmp");
        assert!(unfinished.exists() && storage.has_work(0));
        assert!(storage.take_export().is_none());
        assert!(storage.is_exporting(), "it is being removed");
        assert!(storage.begin_export(Ticket(2)).is_err());
        let removal = loop {
            if let Some(removal) = storage.take_export() {
                break removal;
            }
        };
        drop(removal);
        assert!(!unfinished.exists() && !storage.has_dropped_export());
        storage.begin_export(Ticket(2)).expect("the next one");
    }
}
