//! The simulated file system keeps what was synced, may lose the rest, and fails where it is told to.
use std::io::ErrorKind;
use std::path::Path;
use tern_support::rng::Rng;
use tern_support::sim_fs::{Fault, Lie, SimFs};
use wal::fs::{Access, FileMap, FileSystem, OpenFile};

const FOLDER: &str = "/data";
const FILE: &str = "/data/file";
const OTHER: &str = "/data/other";

/// A file of three sectors with the byte 1, synced with its name.
fn with_file(seed: u64) -> SimFs {
    let fs = SimFs::new(Rng::new(seed));
    fs.create_folder(Path::new(FOLDER)).expect("made");
    let file = fs.create(Path::new(FILE)).expect("made");
    file.write_at(&[1; 3 * 4096], 0).expect("written");
    file.sync().expect("synced");
    sync_names(&fs);
    fs
}

fn sync_names(fs: &SimFs) {
    let folder = fs.open_folder(Path::new(FOLDER)).expect("there");
    fs.sync_folder(&folder).expect("synced");
}

/// What a hundred power cuts leave of a file.
fn after_cuts(fs: &SimFs, path: &str) -> Vec<Option<Vec<u8>>> {
    let mut rng = Rng::new(7);
    let cuts = (0..100).map(|_| fs.cut_power(&mut rng).read(Path::new(path)));
    cuts.collect()
}

#[test]
fn what_was_synced_stays_and_the_rest_is_kept_by_sectors() {
    let fs = with_file(1);
    let all = vec![1; 3 * 4096];
    assert!(
        after_cuts(&fs, FILE)
            .iter()
            .all(|c| c.as_ref() == Some(&all))
    );
    let file = fs.open(Path::new(FILE), Access::Write).expect("there");
    let mut map = file.map(3 * 4096).expect("mapped");
    map.write(0, &[2; 4096]);
    map.write(2 * 4096, &[2; 4096]);
    let mut seen = [false; 4];
    for content in after_cuts(&fs, FILE) {
        let content = content.expect("its name was synced");
        assert!(
            content[4096..2 * 4096].iter().all(|b| *b == 1),
            "not written"
        );
        let [first, last] = [0, 2 * 4096].map(|at| content[at..at + 4096] == [2; 4096]);
        seen[usize::from(first) + 2 * usize::from(last)] = true;
    }
    assert_eq!(seen, [true; 4], "sectors reach the disk in any order");
    file.sync().expect("synced");
    let is_new = |c: &Option<Vec<u8>>| c.as_ref().is_some_and(|c| c[0] == 2 && c[2 * 4096] == 2);
    assert!(after_cuts(&fs, FILE).iter().all(is_new));
}

#[test]
fn names_that_were_not_synced_may_be_lost() {
    let fs = with_file(2);
    fs.rename(Path::new(FILE), Path::new(OTHER))
        .expect("renamed");
    let mut rng = Rng::new(3);
    let mut seen = [false; 2];
    for _ in 0..100 {
        let left = fs.cut_power(&mut rng);
        let names = left.list(Path::new(FOLDER)).expect("a folder");
        assert_eq!(names.len(), 1, "one file with one name");
        seen[usize::from(names[0] == "other")] = true;
    }
    assert_eq!(seen, [true; 2]);
    sync_names(&fs);
    assert!(after_cuts(&fs, OTHER).iter().all(Option::is_some));
    fs.remove(Path::new(FOLDER)).expect("removed");
    let root = fs.open_folder(Path::new("/")).expect("there");
    fs.sync_folder(&root).expect("synced");
    fs.create_folder(Path::new(FOLDER)).expect("made");
    assert!(
        after_cuts(&fs, OTHER).iter().all(Option::is_none),
        "gone with its folder"
    );
}

#[test]
fn calls_that_are_held_reach_the_disk_in_order() {
    let fs = with_file(4);
    fs.hold(true);
    let file = fs.open(Path::new(FILE), Access::Write).expect("there");
    file.write_at(&[2; 512], 0).expect("written");
    file.sync().expect("it says so");
    let first = fs.made();
    file.write_at(&[3; 512], 0).expect("written");
    file.sync().expect("it says so");
    assert_eq!(
        fs.read(Path::new(FILE)).expect("there")[0],
        3,
        "the process sees it"
    );
    let is_old = |c: &Option<Vec<u8>>| c.as_ref().is_some_and(|c| c[0] == 1);
    assert!(after_cuts(&fs, FILE).iter().any(is_old));
    fs.let_through(first);
    assert!(!after_cuts(&fs, FILE).iter().any(is_old));
    fs.let_through(fs.made());
    assert!(fs.is_synced());
}

#[test]
fn calls_fail_as_planned_and_a_full_disk_takes_no_more() {
    let fs = with_file(5);
    let open = || fs.open(Path::new(FILE), Access::Read);
    fs.plan(2, Fault::Fail);
    open().expect("the first call");
    open().expect_err("the second call");
    open().expect("the third call");
    fs.plan(1, Fault::Cut);
    open().expect_err("the power is gone");
    open().expect_err("and stays away");
    fs.plan_nothing();
    fs.set_room(Some(100));
    let file = fs.open(Path::new(FILE), Access::Write).expect("there");
    let full = |result: std::io::Result<()>| result.expect_err("full").kind();
    assert_eq!(
        full(file.write_at(&[1; 200], 3 * 4096)),
        ErrorKind::StorageFull
    );
    file.write_at(&[1; 4096], 0).expect("it needs no room");
    assert_eq!(full(file.allocate(4 * 4096)), ErrorKind::StorageFull);
    fs.set_room(None);
    file.allocate(4 * 4096).expect("room");
}

#[test]
fn a_lie_loses_what_was_synced() {
    let fs = with_file(6);
    fs.set_lie(Lie::Files);
    let file = fs.open(Path::new(FILE), Access::Write).expect("there");
    file.write_at(&[2; 512], 0).expect("written");
    file.sync().expect("it says so");
    let is_old = |c: &Option<Vec<u8>>| c.as_ref().is_some_and(|c| c[0] == 1);
    assert!(after_cuts(&fs, FILE).iter().any(is_old));
}
