//! Micro benches of the log: `cargo bench -p wal`. The directories are made in `$TMPDIR`, which
//! selects the disk.
use divan::{Bencher, counter::ItemsCount};
use wal::dir::{Hook, SystemCall, Verdict};
use wal::{Options, Record, Wal};

fn main() {
    divan::main();
}

/// A log in a directory of its own.
struct Log {
    wal: Wal,
    dir: tempfile::TempDir,
    index: u64,
}

impl Log {
    fn new(hook: Option<Hook>) -> Log {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            dir: dir.path().into(),
            segment_bytes: wal::SEGMENT_BYTES,
            identity: 1,
        };
        let (wal, _) = Wal::open_with(options, hook).expect("it opens");
        let index = 0;
        Log { wal, dir, index }
    }

    /// Appends a batch of entries of 100 bytes and makes it durable.
    fn put(&mut self, count: u64) {
        let body = [7; 100];
        let records = (1..=count).map(|i| Record::Entry {
            term: 1,
            index: self.index + i,
            body: &body,
        });
        let records = records.collect::<Vec<_>>();
        self.index += count;
        self.wal
            .append(&records, self.index)
            .expect("there is room");
        self.wal.start_sync().expect("it syncs");
        self.wal.poll_sync().expect("it synced");
        self.wal.release(self.index.saturating_sub(10_000));
    }
}

/// The cost of a batch without its sync.
#[divan::bench(args = [1, 16, 256])]
fn append_unsynced(bencher: Bencher, count: u64) {
    let hook: Hook = Box::new(|call: SystemCall| match call.name {
        "fdatasync" | "fsync" => Verdict::Skip,
        _ => Verdict::Make,
    });
    let mut log = Log::new(Some(hook));
    let items = ItemsCount::new(count);
    bencher.counter(items).bench_local(|| log.put(count));
}

#[divan::bench(args = [1, 16, 256])]
fn append_synced(bencher: Bencher, count: u64) {
    let mut log = Log::new(None);
    let items = ItemsCount::new(count);
    bencher.counter(items).bench_local(|| log.put(count));
}

/// Term and vote, written to both slots.
#[divan::bench]
fn save_state(bencher: Bencher) {
    let mut log = Log::new(None);
    let mut term = 0;
    bencher.bench_local(|| {
        term += 1;
        log.wal.save_state(term, 1).expect("it syncs");
    });
}

/// Recovery of a full segment from its bytes.
#[divan::bench]
fn scan_a_full_segment(bencher: Bencher) {
    let mut log = Log::new(None);
    for _ in 0..450 {
        log.put(256);
    }
    let bytes = std::fs::read(log.dir.path().join("0000000000000001.log")).expect("a file");
    let found = wal::scan::scan(1, &[("1", 1, &bytes)]);
    assert!(found.fatal.is_empty() && found.log.entries.len() > 100_000);
    bencher.bench_local(|| wal::scan::scan(1, &[("1", 1, &bytes)]).log.entries.len());
}
