//! The work on files: its tasks are short, take turns with records, and make the room that was asked
//! for.
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use wal::dir::{Hook, SystemCall, Verdict};
use wal::{Error, Options, Record, Recovered, Space, Wal};

const SEGMENT: u64 = 64 << 10;

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        segment_bytes: SEGMENT,
        identity: 7,
    }
}

fn open(dir: &Path) -> Wal {
    Wal::open(options(dir)).expect("it opens").0
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

/// Makes holes of all pages of zeros, as `cp` does.
fn copy_with_holes(path: &Path) {
    let bytes = std::fs::read(path).expect("it can be read");
    std::fs::remove_file(path).expect("it is a file");
    let file = std::fs::File::create(path).expect("a new file");
    file.set_len(bytes.len() as u64).expect("it is sparse");
    for (page, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at).expect("it is written");
        }
    }
}

/// The segments and the spares in a directory, and how many bytes each has on the disk.
fn allocated(dir: &Path) -> Vec<(PathBuf, u64)> {
    let files = std::fs::read_dir(dir).expect("a directory");
    let paths = files.map(|file| file.expect("an entry").path());
    let of_log = paths.filter(|path| path.extension().is_some());
    let sized = |path: PathBuf| {
        let data = path.metadata().expect("it exists");
        (path, data.blocks() * 512)
    };
    of_log.map(sized).collect()
}

/// A write to a hole would fail on a full disk, and one through the map would be a SIGBUS.
#[test]
fn the_holes_of_a_copied_log_are_allocated() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    for index in 1..=20 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    drop(wal);
    let files = allocated(dir.path());
    assert!(files.len() > 3, "{files:?}");
    for (path, _) in &files {
        copy_with_holes(path);
    }
    let sparse = allocated(dir.path());
    assert!(
        sparse.iter().any(|(_, bytes)| *bytes < SEGMENT),
        "{sparse:?}"
    );
    let mut wal = open(dir.path());
    wal.release(20);
    wal.start_sync().expect("it works");
    for (path, bytes) in allocated(dir.path()) {
        assert!(bytes >= SEGMENT, "{}: {bytes} bytes", path.display());
    }
}

/// Opens the log while no file can be allocated, until the flag is lowered.
fn open_on_full_disk(dir: &Path) -> (Wal, Recovered, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    let hook: Hook = Box::new(move |call: SystemCall| match call.name {
        "fallocate" if is_full.load(Relaxed) => Verdict::Fail(28),
        _ => Verdict::Make,
    });
    let (wal, recovered) = Wal::open_with(options(dir), Some(hook)).expect("it opens");
    (wal, recovered, full)
}

/// It stays closed to writes until there is room for another segment.
#[test]
fn a_copied_log_on_a_full_disk_refuses_records() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    wal.append(&[entry(1, 1, b"one")], 0).expect("it fits");
    wal.start_sync().expect("it syncs");
    drop(wal);
    let (mut wal, recovered, full) = open_on_full_disk(dir.path());
    assert_eq!(recovered.entries.len(), 1);
    assert_eq!((wal.free_bytes(), wal.space()), (0, Space::Low));
    let second = [entry(1, 2, b"two")];
    assert_eq!(wal.append(&second, 0), Err(Error::Full));
    wal.mark_commit(1).expect("it is left out");
    wal.save_state(2, 1).expect("a vote needs no room");
    full.store(false, Relaxed);
    wal.make_room(0).expect("no call fails");
    wal.append(&second, 0).expect("there is room");
    wal.close().expect("it syncs");
    let (_, recovered) = Wal::open(options(dir.path())).expect("it opens");
    assert_eq!(recovered.entries.len(), 2);
    assert!(recovered.closed);
}

/// The bytes of a torn write may have holes, too, so they stay. Nothing may be written behind them, and
/// none of their records may count later.
#[test]
fn a_torn_tail_stays_while_a_full_disk_has_no_room_for_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wal = open(dir.path());
    for (index, body) in [(1, b"one"), (2, b"two"), (3, b"six")] {
        wal.append(&[entry(1, index, body)], 0).expect("it fits");
    }
    wal.start_sync().expect("it syncs");
    wal.poll_sync().expect("it synced");
    wal.append(&[entry(1, 4, b"torn"), entry(1, 5, b"more")], 0)
        .expect("it fits");
    wal.start_sync().expect("it syncs");
    drop(wal);
    let segment = dir.path().join("0000000000000001.log");
    let bytes = std::fs::read(&segment).expect("it can be read");
    let at = bytes.windows(4).position(|four| four == b"torn");
    let file = std::fs::File::options().write(true).open(&segment);
    file.expect("it opens")
        .write_all_at(b"lost", at.expect("the body") as u64)
        .expect("it is written");
    for _ in 0..2 {
        let (mut wal, recovered, _) = open_on_full_disk(dir.path());
        assert_eq!(recovered.entries.len(), 3);
        assert!(recovered.torn_bytes > 0);
        assert_eq!(wal.append(&[entry(2, 4, b"new")], 0), Err(Error::Full));
        wal.close().expect("the mark is left out");
    }
    let (mut wal, _, full) = open_on_full_disk(dir.path());
    full.store(false, Relaxed);
    wal.make_room(0).expect("no call fails");
    wal.append(&[entry(2, 4, b"new")], 0).expect("room");
    wal.close().expect("it syncs");
    let (_, recovered) = Wal::open(options(dir.path())).expect("it opens");
    let terms: Vec<u64> = recovered.entries.iter().map(|e| e.term).collect();
    assert_eq!(terms, [1, 1, 1, 2]);
    assert_eq!(recovered.torn_bytes, 0);
}
