//! Power cuts between any two steps and again during recovery, system calls that fail, and disks
//! that skip syncs.
//!
//! What was acknowledged must be read back. What was not acknowledged may be read back, and nothing
//! else.
mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use common::{Disk, IDENTITY, Lie, Plan, Rng, SEGMENT};
use wal::{Body, Error, OpenError, Options, Record, Recovered, Wal};

type Image = BTreeMap<String, Vec<u8>>;
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
    state: (u64, u64),
    state_acked: (u64, u64),
    /// Makes all bodies different.
    serial: u64,
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
        if ![self.state, self.state_acked].contains(&state) {
            return Err(format!("term and vote {state:?}"));
        }
        if !(self.commit_acked..=self.commit).contains(&found.commit) {
            let (from, to) = (self.commit_acked, self.commit);
            return Err(format!("commit index {}, not {from} to {to}", found.commit));
        }
        let good = |e: &wal::Entry| match &e.body {
            Body::Good(body) => Some((e.term, e.index, body.to_vec())),
            Body::Faulty { .. } => None,
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
        (self.state, self.state_acked) = (state, state);
        (self.commit, self.commit_acked) = (found.commit, found.commit);
        Ok(())
    }

    /// One random call of the log.
    fn act(&mut self, wal: &mut Wal, rng: &mut Rng) -> Result<(), Error> {
        match rng.below(20) {
            0 => {
                self.state = (self.state.0 + 1, rng.below(5));
                wal.save_state(self.state.0, self.state.1)?;
                self.state_acked = self.state;
            }
            1 => wal.set_configuration(&vec![b'c'; rng.below(6000) as usize]),
            2 | 3 => {
                self.released = self.released.max(self.commit_acked.saturating_sub(8));
                wal.release(self.released)?;
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
            wal.start_sync()?;
            if let Some(mark) = wal.poll_sync()? {
                self.acked = self.before + mark as usize;
                self.commit_acked = self.commit;
            }
        }
        Ok(())
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
        Appended::Entry((self.state.0, index, body))
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
        self.records.extend(records.iter().cloned());
        self.commit = self.commit.max(self.next().saturating_sub(4));
        wal.append(&borrowed, self.commit)?;
        Ok(())
    }
}

fn open(disk: &Rc<RefCell<Disk>>) -> Result<(Wal, Recovered), OpenError> {
    let options = Options {
        dir: disk.borrow().path(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    };
    Wal::open_with(options, Disk::hook(disk))
}

/// How one run of a machine goes.
#[derive(Clone, Copy)]
struct How {
    plan: Plan,
    lie: Lie,
    /// How many calls it makes before it stops.
    steps: u64,
}

fn honest(plan: Plan, steps: u64) -> How {
    let lie = Lie::Nothing;
    How { plan, lie, steps }
}

/// Opens the log, makes calls and crashes. Returns what is on the disk then, and how many system
/// calls were made. `Err`: an acknowledged record was lost, or a record was never appended.
fn life(
    image: &Image,
    model: &mut Model,
    rng: &mut Rng,
    how: How,
) -> Result<(Image, usize), String> {
    let How { plan, lie, steps } = how;
    let disk = Disk::new(image, plan, lie);
    match open(&disk) {
        Ok((mut wal, found)) => {
            model.check(&found)?;
            model.opened = true;
            let mut done = Ok(());
            for _ in 0..steps {
                done = model.act(&mut wal, rng);
                if done.is_err() {
                    break;
                }
            }
            if done.is_ok() && rng.percent(20) {
                done = wal.close();
                if done.is_ok() {
                    (model.acked, model.commit_acked) = (model.records.len(), model.commit);
                }
            }
            match done {
                Err(Error::Io { .. }) if plan == Plan::Run => panic!("{done:?}"),
                Err(Error::Full) => panic!("the disk is never full here"),
                Ok(()) | Err(Error::Io { .. }) => {}
            }
        }
        Err(OpenError::Io(_)) if plan != Plan::Run => {}
        Err(other) => return Err(other.to_string()),
    }
    let disk = disk.borrow();
    Ok((disk.crash(rng), disk.calls))
}

/// Several lives with crashes at random moments.
fn lives(seed: u64, lie: Lie) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let (mut image, mut model) = (Image::new(), Model::default());
    for _ in 0..6 {
        let plan = match rng.percent(60) {
            true => Plan::StopAt(1 + rng.below(120) as usize),
            false => Plan::Run,
        };
        let steps = 1 + rng.below(60);
        image = life(&image, &mut model, &mut rng, How { plan, lie, steps })?.0;
    }
    let last = How {
        plan: Plan::Run,
        lie,
        steps: 1,
    };
    life(&image, &mut model, &mut rng, last).map(|_| ())
}

#[test]
fn crashes_at_random_moments_lose_nothing_acknowledged() {
    for seed in 0..250 {
        if let Err(what) = lives(seed, Lie::Nothing) {
            panic!("seed {seed}: {what}");
        }
    }
}

#[test]
fn skipped_syncs_are_noticed_by_the_checks() {
    for lie in [Lie::Files, Lie::Names] {
        let noticed = (0..60).filter(|seed| lives(*seed, lie).is_err()).count();
        assert!(noticed > 10, "{lie:?}: noticed in {noticed} of 60");
    }
}

#[test]
fn a_crash_before_every_call_and_before_every_call_of_the_recovery() {
    let mut calls = 0;
    for seed in 1..4 {
        let mut at = 1;
        loop {
            let (mut model, mut rng) = (Model::default(), Rng::new(seed));
            let plan = Plan::StopAt(at);
            let (image, made) = life(&Image::new(), &mut model, &mut rng, honest(plan, 80))
                .unwrap_or_else(|what| panic!("seed {seed}, call {at}: {what}"));
            recover_with_crash(&image, &model, seed, at);
            calls += 1;
            if made < at {
                break;
            }
            at += 1;
        }
    }
    assert!(calls > 300, "only {calls} places to crash at");
}

/// Recovers from `image` with a crash at some of the calls of the recovery, then recovers again and
/// goes on appending.
fn recover_with_crash(image: &Image, model: &Model, seed: u64, at: usize) {
    for turn in 0..4 {
        let (mut model, mut rng) = (model.clone(), Rng::new(seed + turn * 1000 + at as u64));
        let mut image = image.clone();
        let stop = 1 + (at as u64 * 4 + turn) % 32;
        for plan in [Plan::StopAt(stop as usize), Plan::Run, Plan::Run] {
            image = life(&image, &mut model, &mut rng, honest(plan, 4))
                .unwrap_or_else(|what| panic!("seed {seed}, calls {at}, {stop}: {what}"))
                .0;
        }
    }
}

#[test]
fn an_error_of_any_call_is_returned_and_loses_nothing_acknowledged() {
    const EIO: i32 = 5;
    for seed in 1..4 {
        let mut at = 1;
        loop {
            let (mut model, mut rng) = (Model::default(), Rng::new(seed));
            let first = life(&Image::new(), &mut model, &mut rng, honest(Plan::Run, 40));
            let (image, _) = first.expect("nothing failed");
            let plan = Plan::FailAt(at, EIO);
            let (image, made) = life(&image, &mut model, &mut rng, honest(plan, 40))
                .unwrap_or_else(|what| panic!("seed {seed}, call {at}: {what}"));
            life(&image, &mut model, &mut rng, honest(Plan::Run, 10))
                .unwrap_or_else(|what| panic!("seed {seed}, after call {at}: {what}"));
            if made < at {
                break;
            }
            at += 1;
        }
        assert!(at > 60, "only {at} calls");
    }
}

#[test]
fn after_a_final_error_every_call_returns_it() {
    let disk = Disk::new(&Image::new(), Plan::Run, Lie::Nothing);
    let (mut wal, _) = open(&disk).expect("it opens");
    let record = |index| Record::Entry {
        term: 1,
        index,
        body: b"body",
    };
    wal.append(&[record(1)], 0).expect("it is staged");
    disk.borrow_mut().plan(Plan::FailAt(1, 5));
    let error = wal.start_sync().expect_err("the sync failed");
    assert!(matches!(&error, Error::Io { call, .. } if *call == "fdatasync"));
    assert_eq!(wal.start_sync(), Err(error.clone()));
    assert_eq!(wal.poll_sync(), Err(error.clone()));
    assert_eq!(wal.append(&[record(2)], 0), Err(error.clone()));
    assert_eq!(wal.save_state(1, 1), Err(error.clone()));
    assert_eq!(wal.release(1), Err(error.clone()));
    assert_eq!(wal.close(), Err(error));
}

#[test]
fn a_crash_while_wiping_leaves_the_old_log_or_a_new_one() {
    for at in 1.. {
        let (mut model, mut rng) = (Model::default(), Rng::new(at));
        let first = life(&Image::new(), &mut model, &mut rng, honest(Plan::Run, 40));
        let disk = Disk::new(&first.expect("nothing failed").0, Plan::Run, Lie::Nothing);
        disk.borrow_mut().plan(Plan::StopAt(at as usize));
        let path = disk.borrow().path();
        let wiped = wal::wipe_with(&path, Disk::hook(&disk));
        let image = disk.borrow().crash(&mut rng);
        let disk = Disk::new(&image, Plan::Run, Lie::Nothing);
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
        let (mut model, mut rng) = (Model::default(), Rng::new(at));
        let first = life(&Image::new(), &mut model, &mut rng, honest(Plan::Run, 40));
        let disk = Disk::new(&first.expect("nothing failed").0, Plan::Run, Lie::Nothing);
        let (mut wal, _) = open(&disk).expect("it opens");
        disk.borrow_mut().plan(Plan::StopAt(at as usize));
        let path = disk.borrow().path();
        let options = Options {
            dir: path,
            segment_bytes: SEGMENT,
            identity: IDENTITY + 1,
        };
        let started = wal.start_over(&options);
        if let Ok(found) = &started {
            assert_eq!(
                (found.identity, found.entries.len(), found.state),
                (IDENTITY + 1, 0, None)
            );
            assert!(
                matches!(Wal::open(options), Err(OpenError::Locked { .. })),
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
        let image = disk.borrow().crash(&mut rng);
        let disk = Disk::new(&image, Plan::Run, Lie::Nothing);
        let (_, found) = open(&disk).expect("the log is the old one or a new one");
        match (started.is_ok(), found.identity == IDENTITY && !found.is_new) {
            (true, true) => panic!("the old log is still there"),
            (true, false) => return,
            (false, true) => model.check(&found).expect("nothing is lost"),
            (false, false) => assert!(found.entries.is_empty() && found.commit == 0),
        }
    }
}
