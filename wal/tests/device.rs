//! How much reaches the device for each sync of a small batch. It counts the sectors of a whole device, so it is run by
//! hand on a quiet one, such as a file system in a loop device mounted at `$WAL_DIR`:
//! `WAL_DEVICE=loop0 WAL_DIR=/mnt cargo test -p wal --test device -- --ignored --nocapture`.
use std::path::Path;

use wal::{Options, Record, Wal};

/// Sectors of 512 bytes written to the device so far.
fn sectors(device: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/sys/block/{device}/stat")).expect("its stat");
    let field = stat.split_whitespace().nth(6).expect("sectors written");
    field.parse().expect("a number")
}

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        segment_bytes: wal::SEGMENT_BYTES,
        identity: 1,
    }
}

/// Appends and syncs `count` bodies one by one; bytes to the device for each of them.
fn run(wal: &mut Wal, device: &str, first: u64, count: u64, body: &[u8]) -> f64 {
    let before = sectors(device);
    for index in first..first + count {
        let record = Record::Entry {
            term: 1,
            index,
            body,
        };
        wal.append(&[record], index - 1).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
    }
    (sectors(device) - before) as f64 * 512.0 / count as f64
}

#[test]
#[ignore = "counts what everybody writes to the disk; see the top of the file"]
fn bytes_to_the_device_for_each_sync() {
    let device = std::env::var("WAL_DEVICE").expect("WAL_DEVICE names the block device");
    let dir = tempfile::tempdir_in(std::env::var("WAL_DIR").expect("WAL_DIR is on it"))
        .expect("a directory");
    let before = sectors(&device);
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("others write {} KiB/s", (sectors(&device) - before) / 4);
    let mut next = 1;
    let mut line = |wal: &mut Wal, what: &str, count: u64, bytes: usize| {
        let each = run(wal, &device, next, count, &vec![7; bytes]);
        next += count;
        println!(
            "{what}: {:.2} KiB a sync, {:.2} a byte",
            each / 1024.0,
            each / bytes as f64
        );
    };
    let (mut wal, _) = Wal::open(options(dir.path())).expect("it opens");
    line(&mut wal, "256 bytes, new segment", 3000, 256);
    drop(wal);
    let (mut wal, _) = Wal::open(options(dir.path())).expect("it opens");
    line(&mut wal, "256 bytes, after a restart", 3000, 256);
    line(&mut wal, "64 KiB", 400, 64 << 10);
    wal.release(6000).expect("it syncs");
    line(&mut wal, "64 KiB, into recycled segments", 400, 64 << 10);
    line(&mut wal, "256 bytes, recycled segment", 3000, 256);
    drop(wal);
    let (mut wal, _) = Wal::open(options(dir.path())).expect("it opens");
    line(
        &mut wal,
        "256 bytes, recycled segment after a restart",
        3000,
        256,
    );
}
