//! What a caller sees: records, term and vote are read back; a full disk and damage are reported.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tern_support::rng::Rng;
use wal::dir::{Hook, SystemCall, Verdict};
use wal::{Body, DamageKind, Error, OpenError, Options, Record, Recovered, Space, Wal};

const SEGMENT: u64 = 64 << 10;
const ENOSPC: i32 = 28;

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        segment_bytes: SEGMENT,
        identity: 0x1234_5678_9abc_def0,
    }
}

fn open(dir: &Path) -> (Wal, Recovered) {
    Wal::open(options(dir)).expect("it opens")
}

fn entry(term: u64, index: u64, body: &[u8]) -> Record<'_> {
    Record::Entry { term, index, body }
}

fn put(wal: &mut Wal, records: &[Record], commit: u64) {
    let mark = wal.append(records, commit).expect("there is room");
    wal.start_sync().expect("it syncs");
    assert_eq!(wal.poll_sync(), Ok(Some(mark)));
    assert!(!wal.wants_sync());
}

fn good(body: &Body) -> &[u8] {
    match body {
        Body::Good(bytes) => bytes,
        Body::Covered | Body::Faulty { .. } => panic!("a whole body"),
    }
}

fn list(recovered: &Recovered) -> Vec<(u64, u64, &[u8])> {
    let entries = recovered.entries.iter();
    entries.map(|e| (e.term, e.index, good(&e.body))).collect()
}

#[test]
fn appended_records_are_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, recovered) = open(dir.path());
    assert!(recovered.is_new);
    assert_eq!(recovered.state, None);
    wal.save_state(3, 7).expect("it syncs");
    put(&mut wal, &[entry(3, 1, b"one"), entry(3, 2, b"")], 0);
    put(&mut wal, &[entry(3, 3, b"three")], 2);
    drop(wal);
    let (mut wal, recovered) = open(dir.path());
    assert!(!recovered.is_new && !recovered.closed && recovered.damage.is_empty());
    assert_eq!(recovered.state, Some((3, 7)));
    assert_eq!(recovered.commit, 2);
    let three: [(u64, u64, &[u8]); 3] = [(3, 1, b"one"), (3, 2, b""), (3, 3, b"three")];
    assert_eq!(list(&recovered), three);
    put(&mut wal, &[entry(4, 2, b"other")], 0);
    wal.close().expect("it syncs");
    let (_, recovered) = open(dir.path());
    assert!(recovered.closed);
    assert_eq!(recovered.commit, 2, "the highest recorded commit index");
    let two: [(u64, u64, &[u8]); 2] = [(3, 1, b"one"), (4, 2, b"other")];
    assert_eq!(list(&recovered), two);
}

#[test]
fn a_directory_is_locked_for_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path());
    let second = Wal::open(options(dir.path()));
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    assert!(matches!(
        wal::wipe(dir.path()),
        Err(OpenError::Locked { .. })
    ));
    drop(wal);
    open(dir.path());
}

#[test]
fn segments_rotate_and_are_released_into_spares() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    wal.set_configuration(b"three machines");
    let body = [7; 5000];
    for index in 1..=100 {
        put(&mut wal, &[entry(1, index, &body)], index - 1);
    }
    let count = |ending: &str| {
        let files = std::fs::read_dir(dir.path()).expect("a directory");
        let names = files.map(|f| f.expect("a file").file_name());
        names
            .filter(|n| n.to_string_lossy().ends_with(ending))
            .count()
    };
    assert_eq!((count(".log"), count(".spare")), (9, 1));
    wal.release(50);
    assert!(wal.wants_sync(), "a job has the released segments");
    wal.start_sync().expect("it syncs");
    assert_eq!((count(".log"), count(".spare")), (5, 2));
    for index in 101..=200 {
        put(&mut wal, &[entry(1, index, &body)], index - 1);
        wal.release(index - 10);
        wal.start_sync().expect("it syncs");
        assert!(count(".log") <= 5 && count(".spare") <= 2);
    }
    drop(wal);
    let (_, recovered) = open(dir.path());
    let entries = list(&recovered);
    assert_eq!(&*recovered.configuration, b"three machines");
    assert!(entries[0].1 <= 191 && entries[entries.len() - 1].1 == 200);
    assert!(entries.iter().all(|e| e.2 == body));
}

#[test]
fn an_installed_snapshot_removes_the_entries_before_it() {
    for keep_tail in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut wal, _) = open(dir.path());
        put(
            &mut wal,
            &[entry(1, 1, b"1"), entry(1, 2, b"2"), entry(1, 3, b"3")],
            0,
        );
        let (term, index, head) = (1, 2, b"head".as_slice());
        let installed = Record::Installed {
            term,
            index,
            keep_tail,
            head,
        };
        put(&mut wal, &[installed], 0);
        let after = 3 + u64::from(keep_tail);
        put(&mut wal, &[entry(2, after, b"after")], 0);
        drop(wal);
        let (_, recovered) = open(dir.path());
        let installed = recovered.installed.clone().expect("it was recorded");
        assert_eq!((installed.index, &*installed.head), (2, head));
        let kept = list(&recovered).iter().map(|e| e.1).collect::<Vec<_>>();
        assert_eq!(kept, if keep_tail { vec![3, 4] } else { vec![3] });
    }
}

#[test]
#[should_panic(expected = "entry 3 leaves a gap")]
fn an_entry_that_leaves_a_gap_panics() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    let _ = wal.append(&[entry(1, 1, b""), entry(1, 3, b"")], 0);
}

/// A hook that lets fallocate fail while `full` is set.
fn full_disk(full: Arc<AtomicBool>) -> Hook {
    Box::new(move |call: SystemCall| match call.name {
        "fallocate" if full.load(Relaxed) => Verdict::Fail(ENOSPC),
        _ => Verdict::Make,
    })
}

#[test]
fn a_full_disk_refuses_an_append_as_a_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let full = Arc::new(AtomicBool::new(false));
    let opened = Wal::open_with(options(dir.path()), Some(full_disk(full.clone())));
    let (mut wal, _) = opened.expect("it opens");
    full.store(true, Relaxed);
    let body = [1; 9000];
    let mut index = 0;
    let mut low_at = None;
    let refused = loop {
        index += 1;
        match wal.append(&[entry(1, index, &body)], 0) {
            Ok(mark) => {
                wal.start_sync().expect("it syncs");
                assert_eq!(wal.poll_sync(), Ok(Some(mark)));
            }
            Err(error) => break error,
        }
        if wal.space() == Space::Low {
            low_at.get_or_insert(index);
        }
    };
    assert_eq!(refused, Error::Full);
    assert_eq!(
        low_at,
        Some(7),
        "the space is low once the last spare is in use"
    );
    assert_eq!(
        index, 13,
        "the last spare is filled before an append is refused"
    );
    assert_eq!(wal.append(&[entry(1, 13, &body)], 0), Err(Error::Full));
    wal.save_state(2, 1).expect("a vote needs no room");
    put(&mut wal, &[entry(2, 13, b"small")], 0);
    wal.make_room(0).expect("a full disk is no failure");
    assert_eq!(wal.space(), Space::Low);
    let left = std::fs::read_dir(dir.path()).expect("a directory").count();
    assert_eq!(left, 3, "only state and two segments are left");
    full.store(false, Relaxed);
    wal.make_room(0).expect("no call fails");
    assert_eq!(wal.space(), Space::Ok);
    put(&mut wal, &[entry(2, 14, &body)], 0);
    drop(wal);
    assert_eq!(open(dir.path()).1.entries.len(), 14);
}

/// What fits into `free_bytes` is taken whatever the disk has room for, in any order and in any
/// number of batches.
#[test]
fn the_log_takes_what_it_says_it_takes() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let full = Arc::new(AtomicBool::new(false));
        let hook = full_disk(full.clone());
        let opened = Wal::open_with(options(dir.path()), Some(hook));
        let (mut wal, _) = opened.expect("an empty directory");
        wal.make_room(rng.below(300_000)).expect("no call fails");
        full.store(true, Relaxed);
        let mut free = wal.free_bytes();
        let mut index = 1;
        loop {
            let body = vec![7; rng.below(2 * SEGMENT) as usize >> rng.below(8)];
            let cost = (wal::format::record_bytes(body.len()) + wal::format::HEADER) as u64;
            if cost > free {
                break;
            }
            wal.append(&[entry(1, index, &body)], 0).expect("it fits");
            free -= cost;
            index += 1;
            assert!(wal.free_bytes() >= free, "seed {seed}: the promise is kept");
            if rng.percent(50) {
                wal.start_sync().expect("no call fails");
                wal.poll_sync().expect("no call fails");
                assert!(wal.free_bytes() >= free, "seed {seed}: after a sync, too");
            }
        }
        wal.start_sync().expect("what was taken fits");
    }
}

#[test]
fn records_that_wait_are_written_before_the_spares_are_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let full = Arc::new(AtomicBool::new(false));
    let opened = Wal::open_with(options(dir.path()), Some(full_disk(full.clone())));
    let (mut wal, _) = opened.expect("an empty directory");
    full.store(true, Relaxed);
    // The last of them goes to the spare.
    for index in 1..=10 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("it fits");
    }
    wal.remove_spares().expect("no call fails");
    wal.start_sync().expect("what was taken is written");
    wal.close().expect("what was taken is written");
    assert_eq!(open(dir.path()).1.entries.len(), 10);
}

/// The heads of segments grow while records wait that just fit, and the disk is full. The records keep
/// their room.
#[test]
fn records_that_just_fit_keep_their_room_when_heads_grow() {
    let dir = tempfile::tempdir().expect("a directory");
    let full = Arc::new(AtomicBool::new(false));
    let opened = Wal::open_with(options(dir.path()), Some(full_disk(full.clone())));
    let (mut wal, _) = opened.expect("an empty directory");
    full.store(true, Relaxed);
    for index in 1..=12 {
        wal.append(&[entry(1, index, &[7; 9000])], 0)
            .expect("it fits");
    }
    wal.set_configuration(&[1; 12_000]);
    wal.remove_spares().expect("what was taken is written");
    wal.close().expect("what was taken is written");
    assert_eq!(open(dir.path()).1.entries.len(), 12);
}

/// A commit mark of its own is a batch without records; it is written once, and never takes a
/// segment.
#[test]
fn a_commit_mark_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    put(&mut wal, &[entry(1, 1, b"a"), entry(1, 2, b"b")], 0);
    wal.mark_commit(1).expect("no call fails");
    assert!(wal.wants_sync());
    wal.start_sync().expect("it syncs");
    wal.mark_commit(1).expect("no call fails");
    wal.poll_sync().expect("no call fails");
    assert!(!wal.wants_sync(), "it is recorded");
    wal.start_sync().expect("it syncs");
    drop(wal);
    let (mut wal, recovered) = open(dir.path());
    assert_eq!((recovered.commit, recovered.entries.len()), (1, 2));
    let marked_end = recovered.end;
    put(&mut wal, &[entry(1, 3, b"c")], 0);
    drop(wal);
    let (mut wal, recovered) = open(dir.path());
    let batch = (wal::format::record_bytes(1) + wal::format::HEADER) as u64;
    assert_eq!(recovered.end, (1, marked_end.1 + batch), "one mark");
    // One batch that leaves less room than a mark needs.
    let head = wal::format::HEADER;
    let mut left = SEGMENT as usize - recovered.end.1 as usize - head;
    let body_max = 16_000;
    let mut index = 3;
    while left >= head {
        index += 1;
        let body = vec![0; (left - head).min(body_max)];
        wal.append(&[entry(1, index, &body)], 0).expect("room");
        left -= wal::format::record_bytes(body.len());
    }
    wal.start_sync().expect("it syncs");
    wal.poll_sync().expect("no call fails");
    let mark = wal.mark_commit(index).expect("no call fails");
    wal.start_sync().expect("it syncs");
    assert_eq!(wal.poll_sync(), Ok(Some(mark)), "it is left out");
    assert!(!wal.wants_sync());
    drop(wal);
    let (_, recovered) = open(dir.path());
    assert_eq!(
        (recovered.end.0, recovered.commit),
        (1, 1),
        "no segment is used"
    );
}

/// A job leaves the same bytes whether it runs in place or as a task.
#[test]
fn a_task_writes_what_a_job_in_place_writes() {
    let mut segments = Vec::new();
    for hands_over in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut wal, _) = open(dir.path());
        let mut index = 0;
        for (count, length) in [(1, 10), (5, 9000), (2, 100), (20, 5000)] {
            for _ in 0..count {
                index += 1;
                wal.append(&[entry(1, index, &vec![7; length])], index - 1)
                    .expect("there is room");
            }
            let waiting = wal.waiting();
            if !hands_over {
                wal.start_sync().expect("it syncs");
            }
            while hands_over && let Some(mut task) = wal.hand_over().expect("it can") {
                assert!(wal.has_task());
                assert!(wal.hand_over().expect("one at a time").is_none());
                std::thread::spawn(move || {
                    task.run();
                    task
                })
                .join()
                .map(|task| wal.take_back(task).expect("it syncs"))
                .expect("no call panics");
                if wal.waiting() == 0 && waiting > 0 {
                    break;
                }
            }
            assert_eq!(wal.poll_sync(), Ok(Some(index)));
        }
        wal.start_sync().expect("it syncs");
        wal.close().expect("it syncs");
        let newest = dir.path().join("0000000000000002.log");
        segments.push(std::fs::read(newest).expect("it rotated"));
    }
    assert!(segments[0] == segments[1], "byte for byte");
}

#[test]
#[should_panic(expected = "no task is under way")]
fn the_closing_mark_is_not_written_while_a_task_is_under_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    wal.append(&[entry(1, 1, b"one")], 0).expect("room");
    let _task = wal.hand_over().expect("it can").expect("a record waits");
    let _ = wal.close();
}

#[test]
#[should_panic(expected = "one job runs at a time")]
fn no_job_runs_in_place_while_a_task_is_under_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    wal.append(&[entry(1, 1, b"one")], 0).expect("room");
    let _task = wal.hand_over().expect("it can").expect("a record waits");
    wal.append(&[entry(1, 2, b"two")], 0).expect("room");
    let _ = wal.start_sync();
}

/// A body of any length up to the bound of the format is taken, whatever the size of segments. It is
/// read back, also with another setting, and its segment is released like others.
#[test]
fn a_record_longer_than_a_segment_gets_one_of_its_own_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    let long = vec![3; wal::format::BODY_MAX];
    let half = vec![4; SEGMENT as usize / 2];
    put(
        &mut wal,
        &[entry(1, 1, &half), entry(1, 2, &long), entry(1, 3, &half)],
        0,
    );
    put(&mut wal, &[entry(1, 4, &vec![5; SEGMENT as usize])], 0);
    wal.close().expect("it closes");
    let options = Options {
        segment_bytes: 4 * SEGMENT,
        ..options(dir.path())
    };
    let (mut wal, recovered) = Wal::open(options).expect("it opens");
    let found = list(&recovered);
    let lengths: Vec<usize> = found.iter().map(|(_, _, body)| body.len()).collect();
    assert_eq!(
        lengths,
        [half.len(), long.len(), half.len(), SEGMENT as usize]
    );
    assert_eq!(found[1].2, long);
    put(&mut wal, &[entry(1, 5, &vec![6; 8 * SEGMENT as usize])], 0);
    wal.release(4);
    wal.start_sync().expect("no call fails");
    drop(wal);
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.entries.len(), 1, "the long segments are gone");
}

/// A vote is saved after the records that need a new segment were appended, and before the job that
/// writes its number runs. Both slots of `state` have that vote afterwards.
#[test]
fn protocol_02_a_rotation_keeps_the_newest_vote() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    let body = vec![1; 12_000];
    for index in 1..=20 {
        wal.append(&[entry(index, index, &body)], 0)
            .expect("there is room");
        wal.save_state(index, index + 100).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it is synced");
        let file = std::fs::read(dir.path().join("state")).expect("the file");
        for slot in file.chunks(wal::format::PAGE) {
            let wal::state::SlotContent::Good(slot) = wal::state::StateSlot::decode(slot) else {
                panic!("both slots are whole");
            };
            assert_eq!((slot.term, slot.vote), (index, index + 100));
        }
    }
    assert!(
        dir.path().join("0000000000000003.log").exists(),
        "it rotated"
    );
}

#[test]
fn wiping_keeps_files_that_are_not_the_logs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    put(&mut wal, &[entry(1, 1, b"one")], 0);
    drop(wal);
    std::fs::write(dir.path().join("1-1.snapshot"), "keep").expect("a file");
    std::fs::write(dir.path().join("0001.log"), "keep").expect("a file");
    wal::wipe(dir.path()).expect("it can");
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("a directory").count(),
        2
    );
    assert!(open(dir.path()).1.is_new);
}

fn refused(dir: &Path) -> OpenError {
    match Wal::open(options(dir)) {
        Ok(_) => panic!("a damaged log was opened"),
        Err(error) => error,
    }
}

/// The file, offset and kind of the only damage.
fn only_damage(error: OpenError) -> (String, u64, DamageKind) {
    match error {
        OpenError::Damaged { mut damage, .. } if damage.len() == 1 => {
            let damage = damage.remove(0);
            (damage.file, damage.offset, damage.kind)
        }
        other => panic!("one damaged place was expected: {other:?}"),
    }
}

#[test]
fn a_log_that_cannot_be_read_is_refused_with_file_and_offset() {
    let dir = tempfile::tempdir().expect("a directory");
    let odd = Options {
        segment_bytes: 100_000,
        ..options(dir.path())
    };
    assert!(matches!(Wal::open(odd), Err(OpenError::Option(_))));
    drop(open(dir.path()));

    let state = dir.path().join("state");
    let good = std::fs::read(&state).expect("a file");
    std::fs::write(&state, vec![0; good.len()]).expect("it can");
    assert!(matches!(refused(dir.path()), OpenError::State { .. }));
    std::fs::write(&state, good).expect("it can");

    let name = "0000000000000001.log".to_string();
    let log = dir.path().join(&name);
    let mut bytes = std::fs::read(&log).expect("a file");
    std::fs::write(&log, &bytes[..bytes.len() - 1]).expect("it can");
    let damage = only_damage(refused(dir.path()));
    assert_eq!(
        damage,
        (name.clone(), SEGMENT - 1, DamageKind::ShortSegment)
    );

    bytes[20] ^= 1;
    std::fs::write(&log, bytes).expect("it can");
    let damage = only_damage(refused(dir.path()));
    assert_eq!(damage, (name.clone(), 0, DamageKind::SegmentHead));

    std::fs::remove_file(&log).expect("it can");
    let damage = only_damage(refused(dir.path()));
    assert_eq!(damage, (name, 0, DamageKind::MissingSegment));

    let below_a_file = dir.path().join("state").join("below");
    assert!(matches!(refused(&below_a_file), OpenError::Io(_)));
}

#[test]
fn term_and_vote_survive_damage_to_one_slot() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    for term in 1..6 {
        let (mut wal, _) = open(dir.path());
        wal.save_state(term, 1).expect("it syncs");
        wal.save_state(term, 2).expect("it syncs");
        drop(wal);
        let mut bytes = std::fs::read(&state).expect("a file");
        bytes[(term as usize % 2) * 4096 + 30] ^= 1;
        std::fs::write(&state, bytes).expect("it can");
        assert_eq!(open(dir.path()).1.state, Some((term, 2)));
    }
}

#[test]
fn a_log_with_records_and_without_state_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    drop(open(dir.path()));
    std::fs::remove_file(&state).expect("it can");
    assert!(open(dir.path()).1.is_new, "a log without records is new");
    let (mut wal, _) = open(dir.path());
    put(&mut wal, &[entry(1, 1, b"one")], 0);
    drop(wal);
    std::fs::remove_file(&state).expect("it can");
    let refused = Wal::open(options(dir.path()));
    assert!(matches!(refused, Err(OpenError::State { .. })));
    wal::wipe(dir.path()).expect("it can");
    assert!(open(dir.path()).1.is_new);
}

#[test]
fn missing_parents_of_the_directory_are_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = dir.path().join("a/b/c");
    assert!(open(&below).1.is_new);
    assert!(!open(&below).1.is_new);
}

#[test]
fn the_segment_size_may_change_from_start_to_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, _) = open(dir.path());
    put(&mut wal, &[entry(1, 1, &[1; 9000])], 0);
    drop(wal);
    let larger = Options {
        segment_bytes: 2 * SEGMENT,
        ..options(dir.path())
    };
    let (mut wal, _) = Wal::open(larger).expect("it opens");
    for index in 2..30 {
        put(&mut wal, &[entry(1, index, &[1; 20_000])], 0);
    }
    drop(wal);
    let (mut wal, recovered) = open(dir.path());
    assert_eq!(recovered.entries.len(), 29);
    for index in 30..60 {
        put(&mut wal, &[entry(1, index, &[1; 9000])], 0);
    }
    drop(wal);
    assert_eq!(open(dir.path()).1.entries.len(), 59);
}
