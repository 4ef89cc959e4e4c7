//! How many bytes reach the device for each sync of a small batch, and a file system that is really
//! full.
//!
//! The first test counts the sectors written to a whole device, so it is run by hand on an idle one,
//! such as a file system in a loop device mounted at `$WAL_DIR`: `WAL_DEVICE=loop0 WAL_DIR=/mnt
//! cargo test -p wal --test device -- --ignored --nocapture`.
use std::path::Path;

use tern_support::namespace;
use wal::{Error, Options, Record, Space, Wal};

/// Room for the segments that a log makes at its start, and for some that it makes later.
const DISK_MIB: u32 = 256;

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

/// Appends and syncs `count` bodies one by one. Returns the bytes to the device for each.
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
#[ignore = "counts what every process writes to a device: run by hand, see the head of the file"]
fn bytes_to_the_device_for_each_sync() {
    let device = std::env::var("WAL_DEVICE").expect("WAL_DEVICE names the block device");
    let dir = tempfile::tempdir_in(std::env::var("WAL_DIR").expect("WAL_DIR is on it"))
        .expect("a directory");
    let before = sectors(&device);
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!(
        "other processes write {} KiB/s",
        (sectors(&device) - before) / 4
    );
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
    wal.release(6000);
    wal.start_sync().expect("it syncs");
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

/// The free room of the file system of `dir`, in bytes.
fn room(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).expect("its numbers");
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_disk_that_is_really_full() {
    if !namespace::enter() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let dir = namespace::mount(home.path(), DISK_MIB);
    let (mut wal, _) = Wal::open(options(&dir)).expect("it opens");
    let ballast = dir.join("ballast");
    let file = std::fs::File::create(&ballast).expect("a file");
    let flags = rustix::fs::FallocateFlags::empty();
    while let bytes @ 1_000_000.. = room(&dir) {
        let from = file.metadata().expect("its length").len();
        if rustix::fs::fallocate(&file, flags, from, bytes / 2).is_err() {
            break;
        }
    }
    let body = vec![7; 200_000];
    let mut index = 0;
    let mut low = false;
    let refused = loop {
        index += 1;
        let record = Record::Entry {
            term: 1,
            index,
            body: &body,
        };
        match wal.append(&[record], 0) {
            Ok(_) => wal.start_sync().expect("it syncs"),
            Err(error) => break error,
        }
        wal.poll_sync().expect("it synced");
        low |= wal.space() == Space::Low;
    };
    assert!(low && refused == Error::Full, "{refused}");
    println!("full at entry {index}");
    wal.save_state(2, 1).expect("a vote needs no room");
    wal.make_room(0).expect("a full disk is no failure");
    assert_eq!(wal.space(), Space::Low);
    std::fs::remove_file(&ballast).expect("it can");
    drop(file);
    wal.make_room(0).expect("no call fails");
    assert_eq!(wal.space(), Space::Ok);
    wal.close().expect("it syncs");
    let (_, found) = Wal::open(options(&dir)).expect("it opens");
    assert_eq!(found.entries.len() as u64, index - 1);
}
