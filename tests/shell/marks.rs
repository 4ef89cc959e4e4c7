//! A commit mark of its own on a simulated disk: it is reported as durable after it was written.
use super::damage::directories::{body, config_of};
use std::path::Path;
use tern::core::raft::{Entry, EntryBody, HardState, Index, Lsn, Persist, StateSeq, Term};
use tern::shell::config::Config;
use tern::shell::disk::{Disk, SyncReport};
use tern_support::rng::Rng;
use tern_support::sim_fs::SimFs;

const WORKS: &str = "the disk works";

/// An entry longer than the log lets wait: `append` writes and syncs it itself.
const LONG_BYTES: usize = wal::STAGED_BYTES_MAX + 1;

fn append(index: u64, body: Vec<u8>) -> Persist {
    Persist::Append {
        entries: vec![Entry {
            term: Term(1),
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
    let SyncReport { lsn, .. } = disk.poll_sync(0).expect(WORKS);
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
    disk.start_sync(0).expect(WORKS);
    assert_eq!(polled(&mut disk), Some(Lsn(1)));
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
    disk.start_sync(0).expect(WORKS);
    assert_eq!(polled(&mut disk), Some(Lsn(2)));
    assert!(!disk.has_work());
    assert_eq!(mark_after_cut(&fs, &config), Index(2));
}

#[test]
fn a_commit_mark_is_not_reported_with_a_batch_that_append_has_synced_before_it() {
    let config = config_of(Path::new("/data"));
    let fs = SimFs::new(Rng::new(5));
    let mut disk = opened(&fs, &config);
    hand_in(&mut disk, append(3, vec![3; LONG_BYTES]), 2);
    hand_in(&mut disk, Persist::Mark { commit: Index(2) }, 3);
    disk.start_sync(0).expect(WORKS);
    assert_eq!(polled(&mut disk), Some(Lsn(2)));
    assert!(disk.has_work());
    disk.start_sync(0).expect(WORKS);
    assert_eq!(polled(&mut disk), Some(Lsn(3)));
    assert_eq!(mark_after_cut(&fs, &config), Index(2));
}
