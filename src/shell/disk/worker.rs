//! The threads of the calls that may block on a device, so that the loop need not wait for it.
//!
//! One runs the tasks of the log, another one those with snapshot files, and a third one, which
//! starts with the first export, writes exports. A task has all that its system calls need. A thread
//! runs it, gives it back and wakes the poll. It owns nothing between tasks. The disk
//! ([`super::Disk`]) chooses the next task and interprets the end of one. Start with
//! [`Worker::start`].
use super::{Export, SnapshotTask};
use crate::shell::clock::Clock;
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;
use wal::Task;
use wal::os::Os;

/// The stack of each thread, in bytes. System calls need little; the default is 2 MiB.
const STACK_BYTES: usize = 256 * 1024;

/// System calls that may block.
pub trait Run: Send + 'static {
    /// Makes them.
    fn run(&mut self);
}

impl Run for Task<Os> {
    fn run(&mut self) {
        Task::run(self);
    }
}

impl Run for SnapshotTask<Os> {
    fn run(&mut self) {
        SnapshotTask::run(self);
    }
}

impl Run for Box<Export<Os>> {
    fn run(&mut self) {
        Export::run(self);
    }
}

/// A task that has run.
pub struct EndedTask<T> {
    /// The task.
    pub task: T,
    /// How long its system calls took, in microseconds. The waking of the thread is not in it.
    pub took_us: u64,
}

/// A thread for one kind of task, as the loop sees it.
pub struct Worker<T> {
    tasks: Sender<T>,
    ended: Receiver<EndedTask<T>>,
}

impl<T: Run> Worker<T> {
    /// Starts the thread of this name. It wakes the poll of `waker` after each task, and ends with
    /// this value.
    ///
    /// # Errors
    ///
    /// The system has no thread.
    pub fn new(name: &str, waker: Arc<Waker>) -> io::Result<Worker<T>> {
        let (tasks, incoming) = channel();
        let (outgoing, ended) = channel();
        let thread = thread::Builder::new()
            .name(name.into())
            .stack_size(STACK_BYTES);
        thread.spawn(move || run_tasks(&incoming, &outgoing, &waker))?;
        Ok(Worker { tasks, ended })
    }

    /// A worker without a thread: the test takes the tasks and gives them back.
    #[cfg(test)]
    pub fn by_hand() -> (Worker<T>, Receiver<T>, Sender<EndedTask<T>>) {
        let (tasks, incoming) = channel();
        let (outgoing, ended) = channel();
        (Worker { tasks, ended }, incoming, outgoing)
    }

    /// Hands a task over.
    pub fn start(&mut self, task: T) {
        self.tasks.send(task).expect(RUNS);
    }

    /// The next task that has run.
    pub fn take_ended(&mut self) -> Option<EndedTask<T>> {
        match self.ended.try_recv() {
            Ok(ended) => Some(ended),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("{RUNS}"),
        }
    }

    /// Blocks until a task that was handed over has run. `shell/storage.rs` lists the cases in which
    /// the loop may wait.
    pub fn wait(&mut self) -> EndedTask<T> {
        self.ended.recv().expect(RUNS)
    }

    /// The same, for at most `time`. `None`: no task has run by then.
    pub fn wait_for(&mut self, time: Duration) -> Option<EndedTask<T>> {
        match self.ended.recv_timeout(time) {
            Ok(ended) => Some(ended),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("{RUNS}"),
        }
    }
}

/// The thread of the log's tasks.
pub type LogWorker = Worker<Task<Os>>;

/// The thread of the tasks with snapshot files.
pub type SnapshotWorker = Worker<SnapshotTask<Os>>;

/// The thread of exports.
pub type ExportWorker = Worker<Box<Export<Os>>>;

/// The thread ends with the loop, and a panic in it ends the process (`panic = "abort"`).
const RUNS: &str = "a disk thread runs as long as the loop";

fn run_tasks<T: Run>(tasks: &Receiver<T>, ended: &Sender<EndedTask<T>>, waker: &Waker) {
    let clock = Clock::new();
    while let Ok(mut task) = tasks.recv() {
        let since_us = clock.now().mono_us;
        task.run();
        let took_us = clock.now().mono_us - since_us;
        // Both fail only once the loop has ended.
        if ended.send(EndedTask { task, took_us }).is_err() {
            return;
        }
        let _ = waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use wal::{Options, Record, Wal};

    #[test]
    fn the_end_of_a_task_wakes_the_poll() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = || Options {
            dir: dir.path().into(),
            segment_bytes: wal::SEGMENT_BYTES_MIN,
            identity: 7,
        };
        let (mut wal, _) = Wal::open(options()).expect("an empty directory");
        let mut poll = Poll::new().expect("a poll");
        let waker = Waker::new(poll.registry(), Token(3)).expect("a waker");
        let mut worker = Worker::new("disk", Arc::new(waker)).expect("a thread");
        let record = Record::Entry {
            term: 1,
            index: 1,
            body: b"one",
        };
        wal.append(&[record], 0).expect("room");
        assert!(worker.take_ended().is_none());
        worker.start(wal.hand_over().expect("it can").expect("a record waits"));
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, None).expect("it is woken");
        assert_eq!(events.iter().next().map(|e| e.token()), Some(Token(3)));
        let ended = worker.take_ended().expect("it has run");
        wal.take_back(ended.task).expect("it is synced");
        assert_eq!(wal.poll_sync(), Ok(Some(1)));
        wal.append(&[record], 0).expect("room");
        worker.start(wal.hand_over().expect("it can").expect("a record waits"));
        wal.take_back(worker.wait().task).expect("it is synced");
        wal.close().expect("no task is under way");
        let (_, found) = Wal::open(options()).expect("it is whole");
        assert_eq!(found.entries.len(), 1);
    }
}
