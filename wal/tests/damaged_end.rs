//! The last durable batch has a damaged body, and the batch after it is torn. Only the durable mark
//! in the headers of the torn batch shows that the damaged one was durable. Later starts must find
//! the same entries as the first, wherever one of them is cut off.
mod common;

use common::{IDENTITY, Rng, SEGMENT};
use std::path::Path;
use tern_support::sim_fs::{Fault, SimFs};
use wal::format::{HEADER, RecordKind, SegmentHead};
use wal::fs::FileSystem;
use wal::scan::{RecordWalk, SegmentPiece};
use wal::{Body, Error, OpenError, Options, Record, Recovered};

type Wal = wal::Wal<SimFs>;

const FIRST_SEGMENT: &str = "/data/0000000000000001.log";
const SPARE: &str = "/data/0000000000000001.spare";
const SECTOR_BYTES: usize = 512;

/// The entries that each start must find: the index of each entry, and whether its body can be read.
const DURABLE: [(u64, bool); 2] = [(1, true), (2, false)];

fn open(fs: &SimFs) -> Result<(Wal, Recovered), OpenError> {
    let options = Options {
        dir: Path::new("/data").into(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    };
    wal::Wal::open_on(fs.clone(), options, None)
}

fn put(wal: &mut Wal, index: u64, bytes: usize, commit: u64) -> Result<(), Error> {
    let body = vec![index as u8; bytes];
    let entry = Record::Entry {
        term: 1,
        index,
        body: &body,
    };
    wal.append(&[entry], commit)?;
    wal.start_sync()?;
    wal.poll_sync().map(drop)
}

/// The offset of the body of entry 2.
fn body_of_entry_2(fs: &SimFs) -> u64 {
    let bytes = fs.read(Path::new(FIRST_SEGMENT)).expect("the segment");
    let head = SegmentHead::decode(&bytes).expect("a head");
    let at = RecordWalk::new(&bytes, &head).find_map(|piece| match piece {
        SegmentPiece::Record { at, header } => {
            (header.kind == RecordKind::Entry && header.index == 2).then_some(at)
        }
        SegmentPiece::NoRecord { .. } => None,
    });
    (at.expect("entry 2 is durable") + HEADER) as u64
}

/// Two durable batches of one entry each, the second with a damaged body, and behind them the first
/// sectors of a batch that is torn.
fn damaged_before_a_torn_tail() -> SimFs {
    let fs = SimFs::with_sectors(Rng::new(1), SECTOR_BYTES);
    let (mut wal, _) = open(&fs).expect("it opens");
    put(&mut wal, 1, 90, 0).expect("no call fails");
    put(&mut wal, 2, 90, 1).expect("no call fails");
    fs.hold(true);
    put(&mut wal, 3, 4 * SECTOR_BYTES, 2).expect("no call fails");
    // All but the sync.
    fs.let_through(fs.made() - 1);
    drop(wal);
    let left = fs.cut_power_keeping(|nth| nth < 2);
    left.flip(Path::new(FIRST_SEGMENT), body_of_entry_2(&left), 3);
    left
}

fn found(recovered: &Recovered) -> Vec<(u64, bool)> {
    let entries = recovered.entries.iter();
    let is_good = |body: &Body| matches!(body, Body::Good(_));
    entries.map(|e| (e.index, is_good(&e.body))).collect()
}

fn check_start(fs: &SimFs, what: &str) {
    let (_, recovered) = open(fs).expect(what);
    assert_eq!(found(&recovered), DURABLE, "{what}");
}

#[test]
fn a_second_start_finds_the_same() {
    let fs = damaged_before_a_torn_tail();
    let (wal, first) = open(&fs).expect("a damaged body is no reason to refuse");
    drop(wal);
    assert_eq!(found(&first), DURABLE);
    assert!(first.torn_bytes > 0, "there is a torn tail");
    for start in 2..5 {
        let (_, again) = open(&fs).expect("it opens again");
        assert_eq!(found(&again), DURABLE, "start {start}");
        assert_eq!((again.torn_bytes, again.commit), (0, first.commit));
    }
}

/// The first start ends at any of its calls.
#[test]
fn a_start_that_is_cut_off_or_fails_loses_nothing() {
    let disk = damaged_before_a_torn_tail();
    for fault in [Fault::Cut, Fault::Fail] {
        for at in 1.. {
            let fs = disk.copy();
            fs.plan(at, fault);
            let is_opened = open(&fs).is_ok();
            for seed in 0..20 {
                let left = fs.cut_power(&mut Rng::new(seed));
                check_start(&left, &format!("{fault:?} at call {at}, {seed}"));
            }
            if is_opened {
                break;
            }
        }
    }
}

/// The first start succeeds, and the power fails at any call of the next batch.
#[test]
fn a_torn_batch_after_the_start_does_not_take_the_damaged_one_along() {
    let disk = damaged_before_a_torn_tail();
    for at in 1.. {
        let fs = disk.copy();
        let (mut wal, _) = open(&fs).expect("it opens");
        fs.plan(at, Fault::Cut);
        let is_put = put(&mut wal, 3, 3 * SECTOR_BYTES, 2).is_ok();
        drop(wal);
        for seed in 0..50 {
            let left = fs.cut_power(&mut Rng::new(seed));
            let (_, recovered) = open(&left).expect("it opens");
            let entries = found(&recovered);
            assert_eq!(entries[..2], DURABLE, "call {at}, {seed}");
            assert!(!is_put || entries[2..] == [(3, true)], "call {at}, {seed}");
        }
        if is_put {
            break;
        }
    }
}

/// Without room for another segment the log does not open, and nothing is lost meanwhile.
#[test]
fn a_full_disk_refuses_and_keeps_all() {
    let fs = damaged_before_a_torn_tail();
    fs.unlink(Path::new(SPARE)).expect("the only spare");
    fs.set_room(Some(0));
    for _ in 0..3 {
        match open(&fs) {
            Err(OpenError::Io(Error::Full)) => {}
            Err(other) => panic!("another error: {other}"),
            Ok(_) => panic!("it opens without room"),
        }
    }
    fs.set_room(None);
    check_start(&fs, "with room again");
    check_start(&fs, "once more");
}
