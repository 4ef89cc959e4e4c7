//! Power cuts between any two steps and again during recovery, syncs that complete later, calls that
//! fail or find the disk full, and disks that skip syncs.
//!
//! What was acknowledged must be read back. What was not acknowledged may be read back, and nothing
//! else.
mod common;

use std::collections::VecDeque;
use std::path::Path;

use common::{IDENTITY, Rng, SEGMENT};
use tern_support::sim_fs::{Fault, Lie, SimFs};
use wal::{Body, Error, OpenError, Options, Record, Recovered};

type Wal = wal::Wal<SimFs>;
type Entry = (u64, u64, Vec<u8>);

#[derive(Clone, Debug)]
enum Appended {
    Entry(Entry),
    /// The index, whether the tail stays, and a number that no other record has.
    Installed(u64, bool, u64),
}

/// What a machine has appended to its log, and what the log has acknowledged.
#[derive(Clone, Default)]
struct Model {
    /// Whether the log was opened once.
    opened: bool,
    /// All records that were appended, acknowledged or not.
    records: Vec<Appended>,
    /// How many of `records` were acknowledged.
    acked: usize,
    /// How many of `records` were there when the log was opened.
    before: usize,
    released: u64,
    commit: u64,
    commit_acked: u64,
    /// Each term and vote that may be found: the acknowledged one, and those saved since.
    states: VecDeque<(u64, u64)>,
    /// The acknowledgements that count once so many calls have reached the disk, oldest first.
    running: VecDeque<(u64, Acknowledged)>,
    /// Makes all bodies different.
    serial: u64,
}

/// The acknowledgement at the end of a sync.
#[derive(Clone, Copy)]
enum Acknowledged {
    State((u64, u64)),
    /// How many records, and the commit index.
    Records(usize, u64),
}

/// The log that these records leave, oldest first.
fn resolve(records: &[Appended]) -> Vec<&Entry> {
    let mut log: Vec<&Entry> = Vec::new();
    for record in records {
        match record {
            Appended::Entry(entry) => {
                while log.last().is_some_and(|e| e.1 >= entry.1) {
                    log.pop();
                }
                log.push(entry);
            }
            Appended::Installed(index, tail, _) => log.retain(|e| *tail && e.1 > *index),
        }
    }
    log
}

impl Model {
    fn new() -> Model {
        Model {
            states: VecDeque::from([(0, 0)]),
            ..Model::default()
        }
    }

    fn next(&self) -> u64 {
        self.records.iter().fold(1, |next, record| match record {
            Appended::Entry(entry) => entry.1 + 1,
            Appended::Installed(index, false, _) => index + 1,
            Appended::Installed(index, true, _) => next.max(index + 1),
        })
    }

    /// Compares what was recovered with what was appended. From then on, what was recovered counts
    /// as acknowledged.
    fn check(&mut self, found: &Recovered) -> Result<(), String> {
        if found.is_new {
            self.before = 0;
            return match self.opened {
                true => Err("an opened log is new".into()),
                false => Ok(()),
            };
        }
        let state = found.state.expect("it is not new");
        if !self.states.contains(&state) {
            return Err(format!("term and vote {state:?}"));
        }
        if !(self.commit_acked..=self.commit).contains(&found.commit) {
            let (from, to) = (self.commit_acked, self.commit);
            return Err(format!("commit index {}, not {from} to {to}", found.commit));
        }
        let good = |e: &wal::Entry| match &e.body {
            Body::Good(body) => Some((e.term, e.index, body.to_vec())),
            Body::Covered | Body::Faulty { .. } => None,
        };
        let entries: Option<Vec<Entry>> = found.entries.iter().map(good).collect();
        let entries = entries.ok_or("a damaged entry")?;
        let released = self.released;
        let installed = |r: &Appended| match r {
            Appended::Installed(index, _, serial) => Some((*index, *serial)),
            Appended::Entry(_) => None,
        };
        let fits = |count: usize| {
            let last = self.records[..count].iter().rev().find_map(installed);
            let same = match &found.installed {
                Some(found) => last == Some((found.index, found.term)),
                None => last.is_none_or(|l| l.0 <= released),
            };
            if !same {
                return false;
            }
            let want = resolve(&self.records[..count]);
            let first = entries.first().map_or(u64::MAX, |e| e.1);
            let from = want.partition_point(|e| e.1 < first);
            want[from..].iter().copied().eq(&entries)
                && want[..from].iter().all(|e| e.1 <= released)
        };
        let counts = (self.acked..=self.records.len()).rev();
        let count = counts.into_iter().find(|count| fits(*count));
        let Some(count) = count else {
            let indexes = entries.iter().map(|e| e.1).collect::<Vec<_>>();
            return Err(format!(
                "entries {indexes:?} with {} acknowledged",
                self.acked
            ));
        };
        self.records.truncate(count);
        (self.acked, self.before) = (count, count);
        self.states = VecDeque::from([state]);
        self.running.clear();
        (self.commit, self.commit_acked) = (found.commit, found.commit);
        Ok(())
    }

    /// The calls made so far end with this acknowledgement. If the file system holds them up, it is
    /// given later.
    fn acknowledge(&mut self, fs: &SimFs, what: Acknowledged, is_late: bool, rng: &mut Rng) {
        self.running.push_back((fs.made(), what));
        if is_late && rng.percent(50) {
            return;
        }
        let count = if is_late {
            1 + rng.index(self.running.len())
        } else {
            self.running.len()
        };
        for (made, what) in self.running.drain(..count) {
            fs.let_through(made);
            match what {
                Acknowledged::State(state) => {
                    while self.states.front() != Some(&state) {
                        self.states.pop_front();
                    }
                }
                Acknowledged::Records(acked, commit) => {
                    (self.acked, self.commit_acked) = (acked, commit);
                }
            }
        }
    }

    /// One random call of the log.
    fn act(&mut self, wal: &mut Wal, fs: &SimFs, how: How, rng: &mut Rng) -> Result<(), Error> {
        match rng.below(20) {
            0 => {
                let state = (self.term() + 1, rng.below(5));
                self.states.push_back(state);
                wal.save_state(state.0, state.1)?;
                self.acknowledge(fs, Acknowledged::State(state), how.is_late, rng);
            }
            1 => wal.set_configuration(&vec![b'c'; rng.below(6000) as usize]),
            2 | 3 => {
                self.released = self.released.max(self.commit_acked.saturating_sub(8));
                wal.release(self.released);
            }
            4 => {
                let log = resolve(&self.records);
                let (first, last) = (log.first().map_or(0, |e| e.1), self.next() - 1);
                let tail = rng.percent(50) && !log.is_empty();
                let index = match tail {
                    true => first + rng.below(last - first + 1),
                    false => last + rng.below(4),
                };
                self.serial += 1;
                let installed = Appended::Installed(index, tail, self.serial);
                self.append(wal, vec![installed])?;
            }
            _ => {
                let back = match rng.percent(10) {
                    true => rng.below(4),
                    false => 0,
                };
                let from = (self.next() - back.min(self.next() - 1)).max(self.commit + 1);
                let from = from.min(self.next());
                let count = 1 + rng.below(6);
                let entries = (from..from + count).map(|index| self.entry(index, rng));
                let entries = entries.collect::<Vec<_>>();
                self.append(wal, entries)?;
            }
        }
        if rng.percent(80) {
            let commit = self.commit;
            self.sync(wal, rng)?;
            if let Some(mark) = wal.poll_sync()? {
                let records = self.before + mark as usize;
                let what = Acknowledged::Records(records, commit);
                self.acknowledge(fs, what, how.is_late, rng);
            }
        }
        Ok(())
    }

    /// Runs a job in place or as a task. An entry that is appended after the hand-over is not in it.
    fn sync(&mut self, wal: &mut Wal, rng: &mut Rng) -> Result<(), Error> {
        if rng.percent(50) {
            return wal.start_sync();
        }
        let Some(mut task) = wal.hand_over()? else {
            return Ok(());
        };
        if rng.percent(50) && wal.free_bytes() > 10_000 {
            let entry = self.entry(self.next(), rng);
            self.append(wal, vec![entry])?;
        }
        task.run();
        wal.take_back(task)
    }

    /// The term that was saved last.
    fn term(&self) -> u64 {
        self.states.back().map_or(0, |state| state.0)
    }

    fn entry(&mut self, index: u64, rng: &mut Rng) -> Appended {
        self.serial += 1;
        let length = match rng.below(10) {
            0 => 8 + rng.below(9000),
            1 | 2 => 8 + rng.below(1500),
            _ => 8 + rng.below(100),
        };
        let mut body = vec![0; length as usize];
        rng.fill(&mut body);
        body[..8].copy_from_slice(&self.serial.to_le_bytes());
        Appended::Entry((self.term(), index, body))
    }

    fn append(&mut self, wal: &mut Wal, records: Vec<Appended>) -> Result<(), Error> {
        let borrowed = records.iter().map(|r| match r {
            Appended::Entry((term, index, body)) => Record::Entry {
                term: *term,
                index: *index,
                body,
            },
            Appended::Installed(index, keep_tail, serial) => Record::Installed {
                term: *serial,
                index: *index,
                keep_tail: *keep_tail,
                head: b"head",
            },
        });
        let borrowed = borrowed.collect::<Vec<_>>();
        // Recorded first: a call that fails may have written them.
        let before = (self.records.len(), self.commit);
        self.records.extend(records.iter().cloned());
        self.commit = self.commit.max(self.next().saturating_sub(4));
        match wal.append(&borrowed, self.commit) {
            // Nothing was taken.
            Err(Error::Full) => {
                self.records.truncate(before.0);
                self.commit = before.1;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }
}

fn options() -> Options {
    Options {
        dir: "/data".into(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    }
}

fn open(fs: &SimFs) -> Result<(Wal, Recovered), OpenError> {
    wal::Wal::open_on(fs.clone(), options(), None)
}

/// An empty disk. Its seed decides the size of its sectors.
fn empty(seed: u64) -> SimFs {
    SimFs::new(Rng::new(seed))
}

/// How one run of a machine goes.
#[derive(Clone, Copy)]
struct How {
    /// The planned faults, each with its call, counted from 1.
    fault: Option<(u64, Fault)>,
    lie: Lie,
    /// Calls reach the disk later than they return.
    is_late: bool,
    /// How many calls it makes before it stops.
    steps: u64,
}

impl How {
    /// Whether the run may end with a final error. A full disk is none.
    fn may_stop(&self) -> bool {
        matches!(self.fault, Some((_, Fault::Cut | Fault::Fail)))
    }
}

fn honest(fault: Option<(u64, Fault)>, steps: u64) -> How {
    How {
        fault,
        lie: Lie::Nothing,
        is_late: false,
        steps,
    }
}

/// Opens the log, makes calls and crashes. Returns what is on the disk then, and how many system
/// calls were made. `Err`: an acknowledged record was lost, or a record was never appended.
fn life(
    before: &SimFs,
    model: &mut Model,
    rng: &mut Rng,
    how: How,
) -> Result<(SimFs, u64), String> {
    let fs = before.copy();
    fs.set_lie(how.lie);
    if let Some((at, fault)) = how.fault {
        fs.plan(at, fault);
    }
    match open(&fs) {
        Ok((mut wal, found)) => {
            model.check(&found)?;
            model.opened = true;
            fs.hold(how.is_late);
            let mut done = Ok(());
            for _ in 0..how.steps {
                done = model.act(&mut wal, &fs, how, rng);
                if done.is_err() {
                    break;
                }
            }
            if done.is_ok() && rng.percent(20) {
                done = wal.close();
                if done.is_ok() {
                    let what = Acknowledged::Records(model.records.len(), model.commit);
                    model.acknowledge(&fs, what, how.is_late, rng);
                }
            }
            match done {
                Err(Error::Io { .. }) if !how.may_stop() => panic!("{done:?}"),
                Err(Error::Full) => panic!("the log keeps within its promise"),
                Ok(()) | Err(Error::Io { .. }) => {}
            }
        }
        Err(OpenError::Io(_)) if how.fault.is_some() => {}
        Err(other) => return Err(other.to_string()),
    }
    Ok((fs.cut_power(rng), fs.calls()))
}

/// Several lives with crashes at random moments.
fn lives(seed: u64, lie: Lie, is_late: bool) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let (mut disk, mut model) = (empty(seed), Model::new());
    for _ in 0..6 {
        let fault = rng.percent(60).then(|| (1 + rng.below(120), Fault::Cut));
        let how = How {
            fault,
            lie,
            is_late,
            steps: 1 + rng.below(60),
        };
        disk = life(&disk, &mut model, &mut rng, how)?.0;
    }
    let last = How {
        lie,
        ..honest(None, 1)
    };
    life(&disk, &mut model, &mut rng, last).map(|_| ())
}

#[test]
fn crashes_at_random_moments_lose_nothing_acknowledged() {
    for seed in 0..250 {
        for is_late in [false, true] {
            if let Err(what) = lives(seed, Lie::Nothing, is_late) {
                panic!("seed {seed}, late {is_late}: {what}");
            }
        }
    }
}

#[test]
fn skipped_syncs_are_noticed_by_the_checks() {
    for lie in [Lie::Files, Lie::Names] {
        let noticed = (0..60)
            .filter(|seed| lives(*seed, lie, false).is_err())
            .count();
        assert!(noticed > 10, "{lie:?}: noticed in {noticed} of 60");
    }
}

#[test]
fn a_crash_before_every_call_and_before_every_call_of_the_recovery() {
    let mut calls = 0;
    for seed in 1..4 {
        let mut at = 1;
        loop {
            let (mut model, mut rng) = (Model::new(), Rng::new(seed));
            let how = How {
                is_late: at % 2 == 0,
                ..honest(Some((at, Fault::Cut)), 80)
            };
            let (disk, made) = life(&empty(seed), &mut model, &mut rng, how)
                .unwrap_or_else(|what| panic!("seed {seed}, call {at}: {what}"));
            recover_with_crash(&disk, &model, seed, at);
            calls += 1;
            if made < at {
                break;
            }
            at += 1;
        }
    }
    assert!(calls > 300, "only {calls} places to crash at");
}

/// Recovers from `disk` with a crash at some of the calls of the recovery, then recovers again and
/// goes on appending.
fn recover_with_crash(disk: &SimFs, model: &Model, seed: u64, at: u64) {
    for turn in 0..4 {
        let (mut model, mut rng) = (model.clone(), Rng::new(seed + turn * 1000 + at));
        let mut disk = disk.copy();
        let stop = 1 + (at * 4 + turn) % 32;
        for fault in [Some((stop, Fault::Cut)), None, None] {
            disk = life(&disk, &mut model, &mut rng, honest(fault, 4))
                .unwrap_or_else(|what| panic!("seed {seed}, calls {at}, {stop}: {what}"))
                .0;
        }
    }
}

/// Lets each call of a life fail in turn. Returns how many there were.
fn fail_each_call(seed: u64, fault: Fault) -> u64 {
    for at in 1.. {
        let (mut model, mut rng) = (Model::new(), Rng::new(seed));
        // Half of the faults strike a new directory.
        let mut disk = empty(seed);
        if at % 2 == 0 {
            let first = life(&disk, &mut model, &mut rng, honest(None, 40));
            disk = first.expect("nothing failed").0;
        }
        let how = honest(Some((at, fault)), 40);
        let (disk, made) = life(&disk, &mut model, &mut rng, how)
            .unwrap_or_else(|what| panic!("seed {seed}, {fault:?} at {at}: {what}"));
        life(&disk, &mut model, &mut rng, honest(None, 10))
            .unwrap_or_else(|what| panic!("seed {seed}, after {fault:?} at {at}: {what}"));
        if made < at {
            return at;
        }
    }
    unreachable!("a life has an end")
}

#[test]
fn an_error_of_any_call_is_returned_and_loses_nothing_acknowledged() {
    for seed in 1..4 {
        let calls = fail_each_call(seed, Fault::Fail);
        assert!(calls > 60, "only {calls} calls");
    }
}

#[test]
fn a_disk_that_is_full_at_any_call_loses_nothing_and_stops_nothing() {
    for seed in 1..4 {
        let calls = fail_each_call(seed, Fault::Full);
        assert!(calls > 60, "only {calls} calls");
    }
}

#[test]
fn protocol_07_after_a_final_error_every_call_returns_it() {
    let disk = empty(1);
    let (mut wal, _) = open(&disk).expect("it opens");
    let record = |index| Record::Entry {
        term: 1,
        index,
        body: b"body",
    };
    wal.append(&[record(1)], 0).expect("it is staged");
    // The first call writes the page.
    disk.plan(2, Fault::Fail);
    let error = wal.start_sync().expect_err("the sync failed");
    assert!(matches!(&error, Error::Io { call, .. } if *call == "fdatasync"));
    assert_eq!(wal.start_sync(), Err(error.clone()));
    assert_eq!(wal.poll_sync(), Err(error.clone()));
    assert_eq!(wal.append(&[record(2)], 0), Err(error.clone()));
    assert_eq!(wal.save_state(1, 1), Err(error.clone()));
    assert_eq!(wal.close(), Err(error));
}

#[test]
fn a_crash_while_wiping_leaves_the_old_log_or_a_new_one() {
    for at in 1.. {
        let (mut model, mut rng) = (Model::new(), Rng::new(at));
        let first = life(&empty(at), &mut model, &mut rng, honest(None, 40));
        let disk = first.expect("nothing failed").0;
        disk.plan(at, Fault::Cut);
        let wiped = wal::wipe_with(disk.clone(), Path::new("/data"), None);
        let disk = disk.cut_power(&mut rng);
        let (_, found) = open(&disk).expect("the log is the old one or a new one");
        match (wiped, found.is_new) {
            (Ok(()), true) => return,
            (Ok(()), false) => panic!("the old log is still there"),
            (Err(_), true) => {}
            (Err(_), false) => model.check(&found).expect("nothing is lost"),
        }
    }
}

/// A log that is replaced while it is open: after a crash it is the old one or the new one, never a
/// part of either.
#[test]
fn a_crash_while_starting_over_leaves_the_old_log_or_a_new_one() {
    for at in 1.. {
        let (mut model, mut rng) = (Model::new(), Rng::new(at));
        let first = life(&empty(at), &mut model, &mut rng, honest(None, 40));
        let disk = first.expect("nothing failed").0;
        let (mut wal, _) = open(&disk).expect("it opens");
        disk.plan(at, Fault::Cut);
        let options = Options {
            identity: IDENTITY + 1,
            ..options()
        };
        let started = wal.start_over(&options);
        disk.plan_nothing();
        if let Ok(found) = &started {
            assert_eq!(
                (found.identity, found.entries.len(), found.state),
                (IDENTITY + 1, 0, None)
            );
            assert!(
                matches!(open(&disk), Err(OpenError::Locked { .. })),
                "the directory stays locked"
            );
            wal.append(
                &[Record::Entry {
                    term: 1,
                    index: 7,
                    body: b"body",
                }],
                0,
            )
            .expect("it goes on");
        }
        drop(wal);
        let disk = disk.cut_power(&mut rng);
        let (_, found) = open(&disk).expect("the log is the old one or a new one");
        match (started.is_ok(), found.identity == IDENTITY && !found.is_new) {
            (true, true) => panic!("the old log is still there"),
            (true, false) => return,
            (false, true) => model.check(&found).expect("nothing is lost"),
            (false, false) => assert!(found.entries.is_empty() && found.commit == 0),
        }
    }
}
