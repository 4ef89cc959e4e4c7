//! Syncs of the log on a simulated disk, in place and handed over: a record that is reported as
//! durable was written before, a commit mark of its own too.
use super::damage::directories::{body, config_of, sync};
use std::path::Path;
use tern::core::raft::{Entry, EntryBody, HardState, Index, Lsn, PeerId, Persist, StateSeq, Term};
use tern::shell::config::Config;
use tern::shell::disk::{Disk, DiskFailure, Manner, SyncReport};
use tern_support::rng::Rng;
use tern_support::sim_fs::{Fault, SimFs};

const WORKS: &str = "the disk works";

fn append(index: u64, body: Vec<u8>) -> Persist {
    append_of(1, index, body)
}

fn append_of(term: u64, index: u64, body: Vec<u8>) -> Persist {
    Persist::Append {
        entries: vec![Entry {
            term: Term(term),
            index: Index(index),
            body: EntryBody::Good(body.into()),
        }],
        commit: Index(0),
    }
}

fn hand_in(disk: &mut Disk<SimFs>, persist: Persist, lsn: u64) {
    disk.append(&mut vec![persist], Lsn(lsn)).expect(WORKS);
}

fn polled(disk: &mut Disk<SimFs>) -> Option<Lsn> {
    let SyncReport { lsn, .. } = disk.poll_sync().expect(WORKS);
    lsn
}

/// A disk with the entry 2, durable as number 1.
fn opened(fs: &SimFs, config: &Config) -> Disk<SimFs> {
    let (mut disk, _) = Disk::open_on(fs.clone(), config, false).expect("a new directory");
    disk.save_state(HardState {
        seq: StateSeq(1),
        term: Term(1),
        vote: None,
    });
    hand_in(&mut disk, append(2, body(2)), 1);
    assert_eq!(sync(&mut disk).lsn, Some(Lsn(1)));
    disk
}

/// The commit mark that a start finds after the power failed.
fn mark_after_cut(fs: &SimFs, config: &Config) -> Index {
    let fs = fs.cut_power(&mut Rng::new(7));
    let (_, found) = Disk::open_on(fs, config, true).expect("the disk is whole");
    found.commit
}

#[test]
fn a_commit_mark_is_reported_once_it_is_written() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    hand_in(&mut disk, Persist::Mark { commit: Index(2) }, 2);
    assert_eq!(polled(&mut disk), None, "no sync has written it");
    assert!(disk.has_work());
    assert_eq!(sync(&mut disk).lsn, Some(Lsn(2)));
    assert!(!disk.has_work());
    assert_eq!(mark_after_cut(&fs, &config), Index(2));
}

#[test]
fn a_commit_mark_is_not_reported_with_the_task_that_was_under_way() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    hand_in(&mut disk, append(3, vec![3; 100]), 2);
    let started = disk.start_sync(Manner::HandedOver).expect(WORKS);
    let mut task = started.task.expect("an entry waits");
    hand_in(&mut disk, Persist::Mark { commit: Index(2) }, 3);
    let other = disk.start_sync(Manner::InPlace).expect(WORKS);
    assert!(
        other.syncs == 0 && other.task.is_none(),
        "one job at a time"
    );
    assert_eq!(polled(&mut disk), None);
    task.run();
    assert_eq!(polled(&mut disk), None, "the task was not taken back");
    disk.take_back(task).expect(WORKS);
    assert_eq!(polled(&mut disk), Some(Lsn(2)));
    assert!(disk.has_work());
    assert_eq!(sync(&mut disk).lsn, Some(Lsn(3)));
    assert_eq!(mark_after_cut(&fs, &config), Index(2));
}

/// Term and vote have a job of their own, before the records that wait.
#[test]
fn protocol_02_a_task_with_records_follows_that_of_their_term() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    hand_in(&mut disk, append(3, vec![3; 100]), 2);
    disk.save_state(HardState {
        seq: StateSeq(2),
        term: Term(2),
        vote: None,
    });
    let mut reports = Vec::new();
    while let Some(mut task) = disk.start_sync(Manner::HandedOver).expect(WORKS).task {
        task.run();
        disk.take_back(task).expect(WORKS);
        let SyncReport { state, lsn, .. } = disk.poll_sync().expect(WORKS);
        reports.push((state, lsn));
    }
    let expected = [(Some(StateSeq(2)), None), (None, Some(Lsn(2)))];
    assert_eq!(reports, expected);
}

/// The disk is full when the order comes. The spares are removed for it, and the records that wait are
/// written before that.
#[test]
fn protocol_02_an_order_that_makes_room_writes_the_term_before_its_records() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    while disk.has_work() {
        sync(&mut disk);
    }
    disk.save_state(HardState {
        seq: StateSeq(2),
        term: Term(2),
        vote: Some(PeerId(9)),
    });
    hand_in(&mut disk, append_of(2, 3, vec![3; 100]), 2);
    fs.set_room(Some(0));
    disk.keep_id(PeerId(7)).expect("the spares gave room");
    let recovered = Disk::open_on(fs.cut_power(&mut Rng::new(7)), &config, true);
    let (_, found) = recovered.expect("the disk is whole");
    let last = found.entries.last().map(|entry| (entry.index, entry.term));
    assert_eq!(last, Some((Index(3), Term(2))), "the record was written");
    assert_eq!((found.term, found.vote), (Term(2), Some(PeerId(9))));
    let SyncReport { state, lsn, .. } = disk.poll_sync().expect(WORKS);
    assert_eq!((state, lsn), (Some(StateSeq(2)), Some(Lsn(2))));
}

/// The duration of a task that only works on files is not that of a sync.
#[test]
fn a_task_is_a_sync_unless_it_only_works_on_files() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    while disk.has_work() {
        sync(&mut disk);
    }
    hand_in(&mut disk, append(3, vec![3; 100]), 2);
    disk.save_state(HardState {
        seq: StateSeq(2),
        term: Term(2),
        vote: None,
    });
    disk.want_room(disk.free_bytes() + 1);
    disk.poll_space(0);
    let mut are_syncs = Vec::new();
    while let Some(mut task) = disk.start_sync(Manner::HandedOver).expect(WORKS).task {
        task.run();
        are_syncs.push(disk.is_sync(&task));
        disk.take_back(task).expect(WORKS);
        disk.poll_sync().expect(WORKS);
    }
    assert_eq!(are_syncs, [true, true, false], "term, records, a spare");
}

/// Runs one job of the log, in either manner, and returns the report of durability.
fn run_job(disk: &mut Disk<SimFs>, manner: Manner) -> Result<SyncReport, DiskFailure> {
    let started = disk.start_sync(manner)?;
    if let Some(mut task) = started.task {
        task.run();
        disk.take_back(task)?;
    }
    disk.poll_sync()
}

/// An entry that is longer than the disk has room for is not asked for again.
#[test]
fn room_that_the_disk_does_not_have_is_not_wanted_for_ever() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    while disk.has_work() {
        sync(&mut disk);
    }
    fs.set_room(Some(0));
    disk.want_room(disk.free_bytes() + (1 << 20));
    let mut last_attempt_s = 0;
    for halves in 1..120 {
        assert_eq!(disk.poll_space(halves * 500_000), None, "it has a spare");
        let before = fs.calls();
        run_job(&mut disk, Manner::HandedOver).expect("a full disk is no failure");
        if fs.calls() > before {
            last_attempt_s = halves / 2;
        }
    }
    assert!((9..12).contains(&last_attempt_s), "{last_attempt_s} s");
    assert_eq!(disk.next_deadline(), None);
    let wanted = disk.free_bytes() + (1 << 20);
    fs.set_room(None);
    disk.want_room(wanted);
    disk.poll_space(60_000_000);
    run_job(&mut disk, Manner::HandedOver).expect(WORKS);
    assert!(
        disk.free_bytes() >= wanted,
        "it is made once it is asked for"
    );
}

/// The disk works again after the call that has failed. Its bytes on the disk are unknown all
/// the same.
#[test]
fn protocol_07_a_job_that_fails_is_final_in_either_manner() {
    let config = config_of(Path::new("/data"));
    for manner in [Manner::InPlace, Manner::HandedOver] {
        let mut failed = 0;
        loop {
            let fs = SimFs::new(Rng::new(5));
            let mut disk = opened(&fs, &config);
            hand_in(&mut disk, append(3, vec![3; 100]), 2);
            fs.plan(failed + 1, Fault::Fail);
            if let Ok(report) = run_job(&mut disk, manner) {
                assert_eq!(report.lsn, Some(Lsn(2)), "no call has failed");
                break;
            }
            failed += 1;
            assert!(disk.poll_sync().is_err(), "nothing is reported");
            assert!(run_job(&mut disk, manner).is_err(), "no further job runs");
        }
        assert!(failed > 0, "a job has a call that can fail");
    }
}
