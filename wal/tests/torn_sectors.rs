//! All 4,096 patterns of torn sectors: the power fails while a batch of twelve sectors is written, and
//! any of them may have reached the disk, in any order. The last one ends a page.
//!
//! The real log runs on the simulated file system. A start finds the log up to the last sync, and of
//! the batch all or nothing. A second start finds the same.
mod common;

use common::{IDENTITY, Rng, SEGMENT};
use std::path::Path;
use tern_support::sim_fs::SimFs;
use wal::{Body, Options, Record, Recovered};

type Wal = wal::Wal<SimFs>;

/// The sectors of the batch that is torn.
const SECTORS: usize = 12;
const SECTOR_BYTES: usize = 512;

fn open(fs: &SimFs) -> (Wal, Recovered) {
    let options = Options {
        dir: Path::new("/data").into(),
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    };
    wal::Wal::open_on(fs.clone(), options, None).expect("a torn tail is no damage")
}

fn entry(index: u64, body: &[u8]) -> Record<'_> {
    Record::Entry {
        term: 1,
        index,
        body,
    }
}

fn put(wal: &mut Wal, records: &[Record]) {
    wal.append(records, 0).expect("there is room");
    wal.start_sync().expect("no call fails");
    wal.poll_sync().expect("no call fails");
}

/// A log with two durable entries, and a batch of four on its way: it is written and not synced.
fn with_batch_on_its_way() -> SimFs {
    let fs = SimFs::with_sectors(Rng::new(1), SECTOR_BYTES);
    let (mut wal, _) = open(&fs);
    put(&mut wal, &[entry(1, &[1; 2_100]), entry(2, &[2; 90])]);
    fs.hold(true);
    let bodies = [[3; 1_350], [4; 1_350], [5; 1_350], [6; 1_350]];
    let batch: Vec<Record> = (3..).zip(&bodies).map(|(i, b)| entry(i, b)).collect();
    put(&mut wal, &batch);
    // All but the sync.
    fs.let_through(fs.made() - 1);
    drop(wal);
    fs
}

/// The index of each entry, and whether its body can be read.
fn found(recovered: &Recovered) -> Vec<(u64, bool)> {
    let entries = recovered.entries.iter();
    let is_good = |body: &Body| matches!(body, Body::Good(_));
    entries.map(|e| (e.index, is_good(&e.body))).collect()
}

#[test]
fn all_4096_patterns_of_torn_sectors() {
    let fs = with_batch_on_its_way();
    let before: Vec<(u64, bool)> = (1..=2).map(|index| (index, true)).collect();
    let whole: Vec<(u64, bool)> = (1..=6).map(|index| (index, true)).collect();
    let mut whole_count = 0;
    for pattern in 0..1_u32 << SECTORS {
        let mut sectors = 0;
        let left = fs.cut_power_keeping(|nth| {
            sectors += 1;
            pattern >> nth & 1 == 1
        });
        assert_eq!(sectors, SECTORS, "the batch has twelve sectors");
        let (wal, first) = open(&left);
        drop(wal);
        let first = found(&first);
        assert!(
            first == before || first == whole,
            "{pattern:012b}: {first:?}"
        );
        whole_count += u32::from(first == whole);
        let (_, second) = open(&left);
        assert_eq!(found(&second), first, "{pattern:012b}: a second start");
    }
    assert_eq!(
        whole_count, 1,
        "the whole batch is found if all of it is there"
    );
}
