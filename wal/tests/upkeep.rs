//! The work on files: its tasks are short, take turns with records, and make the room that was asked
//! for.
use std::path::Path;

use wal::{Options, Record, Wal};

const SEGMENT: u64 = 64 << 10;

fn open(dir: &Path) -> Wal {
    let options = Options {
        dir: dir.into(),
        segment_bytes: SEGMENT,
        identity: 7,
    };
    Wal::open(options).expect("it opens").0
}

fn entry(term: u64, index: u64, body: &[u8]) -> Record<'_> {
    Record::Entry { term, index, body }
}

/// Records and the work on files take turns, so that neither waits for more than one job.
#[test]
fn records_and_the_work_on_files_take_turns() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    for index in 1..=30 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    let mut has_records = Vec::new();
    for index in 31..=34 {
        wal.append(&[entry(1, index, b"small")], 0)
            .expect("there is room");
        wal.release(index / 2);
        let mut task = wal.hand_over().expect("it can").expect("both wait");
        has_records.push(task.has_records());
        task.run();
        wal.take_back(task).expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    assert_eq!(has_records[..3], [true, false, true], "{has_records:?}");
}

/// A snapshot may release hundreds of segments, and the records that come wait for the task that is
/// under way.
#[test]
fn a_task_recycles_or_removes_one_segment() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    for index in 1..=60 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    let segments = || {
        let files = std::fs::read_dir(dir.path()).expect("a directory");
        let names = files.map(|file| file.expect("an entry").file_name());
        names
            .filter(|n| n.as_encoded_bytes().ends_with(b".log"))
            .count()
    };
    let before = segments();
    assert!(before > 5, "{before} segments");
    wal.release(60);
    let mut left = before;
    while let Some(mut task) = wal.hand_over().expect("it can") {
        task.run();
        wal.take_back(task).expect("it works");
        assert!(segments() + 1 >= left, "{} segments of {left}", segments());
        left = segments();
    }
    assert_eq!(left, 1, "all others were released");
    assert!(!wal.wants_sync());
}

/// The caller asks again only after a while, and refuses records until then.
#[test]
fn a_wish_for_much_room_is_not_dropped_while_a_usual_spare_is_coming() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    // The last of them takes the spare, so another one is coming.
    for index in 1..=7 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("it fits");
    }
    wal.sync_records().expect("it syncs");
    wal.poll_sync().expect("it synced");
    let wanted = 3 * SEGMENT;
    wal.keep_room(wanted);
    wal.keep_room(wanted);
    let mut tasks = 0;
    while let Some(mut task) = wal.hand_over().expect("it can") {
        task.run();
        wal.take_back(task).expect("it works");
        tasks += 1;
    }
    assert!(wal.free_bytes() >= wanted, "{} bytes", wal.free_bytes());
    assert_eq!(tasks, 2, "a usual spare, and a long one");
}
