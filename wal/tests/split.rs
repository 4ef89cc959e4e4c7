//! A batch that is split at the end of a segment. The commit index of the last append must not be
//! written with the first part.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wal::dir::{Hook, SystemCall, Verdict};
use wal::{Options, Record, Recovered, Wal};

use tern_support::rng::Rng;
use tern_support::sim_fs::SimFs;

const BODY: [u8; 1000] = [b'a'; 1000];

fn entry(term: u64, index: u64) -> Record<'static> {
    Record::Entry {
        term,
        index,
        body: &BODY,
    }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Record<'static>> {
    indexes.map(|index| entry(term, index)).collect()
}

fn append_and_sync(wal: &mut Wal, records: &[Record], commit: u64) {
    wal.append(records, commit).unwrap();
    wal.start_sync().unwrap();
    wal.poll_sync().unwrap();
}

/// Entries `first` to `first + 5` of term 3 wait for a sync. Then entries of term 5, appended with a
/// commit index, replace them. The power fails after the first of the syncs that they need.
/// `filled` entries are in the segment before. Returns `first` and what was recovered.
fn crash_in_the_split(filled: u64) -> (u64, Recovered) {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        dir: dir.path().into(),
        segment_bytes: 64 << 10,
        identity: 7,
    };
    let syncs_left = Arc::new(AtomicU32::new(u32::MAX));
    let counted = syncs_left.clone();
    let hook: Hook = Box::new(
        move |call: SystemCall| match (call.name, counted.load(Relaxed)) {
            (_, u32::MAX) => Verdict::Make,
            (_, 0) => Verdict::Fail(5),
            ("fdatasync" | "fsync", n) => {
                counted.store(n - 1, Relaxed);
                Verdict::Make
            }
            _ => Verdict::Make,
        },
    );
    let (mut wal, _) = Wal::open_with(options(), Some(hook)).unwrap();
    wal.save_state(3, 0).unwrap();
    for index in 1..=filled {
        append_and_sync(&mut wal, &[entry(3, index)], index - 1);
    }
    let first = filled + 1;
    wal.append(&entries(3, first..first + 6), filled).unwrap();
    wal.save_state(5, 0).unwrap();
    wal.append(&entries(5, first..first + 8), first + 6)
        .unwrap();
    syncs_left.store(1, Relaxed);
    let _ = wal.start_sync();
    drop(wal);
    (first, Wal::open(options()).unwrap().1)
}

#[test]
fn protocol_03_the_first_part_of_a_split_batch_repeats_the_commit_index_before_it() {
    let mut was_split = 0;
    for filled in 40..58 {
        let (first, found) = crash_in_the_split(filled);
        let last = found.entries.last().unwrap().index;
        was_split += u32::from(last != first + 7);
        let committed = found.entries.iter().take_while(|e| e.index <= found.commit);
        for entry in committed.filter(|e| e.index >= first) {
            assert_eq!(
                entry.term, 5,
                "entry {} of term 3, which was replaced, is committed by {}",
                entry.index, found.commit
            );
        }
        assert!(
            found.commit >= first - 2,
            "the commit index of an earlier batch is kept: {}",
            found.commit
        );
    }
    assert!(was_split >= 8, "only {was_split} of the batches were split");
}

#[test]
fn protocol_03_the_last_part_of_a_split_batch_carries_the_commit_index() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        dir: dir.path().into(),
        segment_bytes: 64 << 10,
        identity: 7,
    };
    let (mut wal, _) = Wal::open(options()).unwrap();
    append_and_sync(&mut wal, &entries(3, 1..101), 99);
    drop(wal);
    let (_, found) = Wal::open(options()).unwrap();
    assert_eq!((found.commit, found.entries.len()), (99, 100));
}

/// Records that wait were promised room beside the configuration of then. A longer one comes on a full
/// disk.
#[test]
fn a_configuration_that_grows_takes_no_room_from_records_that_wait() {
    let fs = SimFs::new(Rng::new(5));
    let options = Options {
        dir: "/log".into(),
        segment_bytes: 64 << 10,
        identity: 7,
    };
    let (mut wal, _) = wal::Wal::open_on(fs.clone(), options.clone(), None).unwrap();
    wal.make_room(50_000).unwrap();
    fs.set_room(Some(0));
    let mut index = 0;
    while wal.free_bytes() > 1_100 {
        index += 1;
        wal.append(&[entry(1, index)], 0).unwrap();
    }
    let longer = [7; 5_000];
    wal.set_configuration(&longer);
    let mut tasks = 0;
    while let Some(mut task) = wal.hand_over().expect("the records have room") {
        task.run();
        tasks += 1;
        assert!(tasks < 100, "the records have room");
        wal.take_back(task).unwrap();
    }
    assert_eq!(wal.poll_sync(), Ok(Some(index)));
    // The next segment has it.
    fs.set_room(None);
    wal.make_room(50_000).unwrap();
    for index in index + 1..index + 60 {
        wal.append(&[entry(1, index)], 0).unwrap();
        wal.start_sync().unwrap();
    }
    drop(wal);
    let (_, found) = wal::Wal::open_on(fs, options, None).unwrap();
    assert_eq!(found.configuration[..], longer);
}
