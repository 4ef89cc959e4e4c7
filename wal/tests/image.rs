//! Power cuts on real file systems: the image of a mounted file system is copied before a system
//! call, and the copy is mounted and opened as a log.
//!
//! The tests need root, loop devices and `mkfs`, and are skipped elsewhere. `TERN_CUTS=1000` cuts
//! more often.
mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::{IDENTITY, Rng, SEGMENT};
use tern_support::alone::alone;
use tern_support::skip::{Need, lacks};
use wal::dir::{Hook, SystemCall, Verdict};
use wal::{Body, Options, Record, Wal};

/// Power cuts in one run, unless `TERN_CUTS` says how many.
const CUTS: u64 = 20;

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {text}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

/// A mounted image, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: PathBuf, kind: &str) -> Mount {
        std::fs::create_dir_all(&at).expect("a folder");
        let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        run(
            "mount",
            &["-t", kind, "-o", options, text(image), text(&at)],
        );
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[text(&self.0)]);
    }
}

fn open(dir: PathBuf, hook: Option<Hook>) -> Result<(Wal, wal::Recovered), wal::OpenError> {
    let options = Options {
        dir,
        segment_bytes: SEGMENT,
        identity: IDENTITY,
    };
    Wal::open_with(options, hook)
}

/// Copies every byte that is not zero. It does not ask the file system for holes, which may be wrong
/// while the image is mounted.
fn copy_image(image: &Path, copy: &Path) {
    const PIECE: usize = 64 << 10;
    let bytes = std::fs::read(image).expect("the image");
    let file = std::fs::File::create(copy).expect("a file");
    file.set_len(bytes.len() as u64).expect("its length");
    for (number, piece) in bytes.chunks(PIECE).enumerate() {
        if piece.iter().any(|b| *b != 0) {
            file.write_all_at(piece, (number * PIECE) as u64)
                .expect("it can");
        }
    }
}

fn body(index: u64) -> Vec<u8> {
    let mut rng = Rng::new(index);
    let mut body = vec![0; 50 + rng.below(9000) as usize];
    rng.fill(&mut body);
    body
}

/// Whether a copy of the image holds everything that was acknowledged.
fn holds(copy: &Path, mount: PathBuf, kind: &str, released: u64, acked: u64) -> bool {
    let mount = Mount::new(copy, mount, kind);
    let (wal, found) = match open(mount.0.join("log"), None) {
        Ok(opened) => opened,
        Err(refused) => {
            println!("acknowledged {acked}: {refused}");
            return false;
        }
    };
    drop(wal);
    let good = |e: &wal::Entry| e.body == Body::Good(body(e.index).into());
    assert!(
        found.entries.iter().all(good),
        "an entry was never appended"
    );
    let last = found.entries.last().map_or(0, |e| e.index);
    let first = found.entries.first().map_or(0, |e| e.index);
    let whole = last >= acked && first <= released + 1;
    if !whole {
        println!(
            "entries {first} to {last}, released {released}, acknowledged {acked}, end {:?}",
            found.end
        );
    }
    whole
}

/// Appends to a log and cuts the power at random calls. Returns how many of the cuts lost something
/// acknowledged.
fn cuts(kind: &str, lie: bool) -> u64 {
    let count = std::env::var("TERN_CUTS").map_or(CUTS, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image");
    let bytes = if kind == "ext4" { "64M" } else { "320M" };
    run("truncate", &["-s", bytes, text(&image)]);
    run(&format!("mkfs.{kind}"), &["-q", text(&image)]);
    let mount = Mount::new(&image, dir.path().join("mounted"), kind);
    let acked = Arc::new(AtomicU64::new(0));
    let lost = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let hook: Hook = {
        let (acked, lost, done) = (acked.clone(), lost.clone(), done.clone());
        let (kind, copies) = (kind.to_string(), dir.path().to_path_buf());
        let (image, at) = (image.clone(), dir.path().join("after"));
        let mut rng = Rng::new(1);
        let cut = move || {
            let acked = acked.load(Relaxed);
            let released = released_at(acked);
            // Each copy has its own name: a loop device that still holds an older copy would be used
            // again, with its cache.
            let copy = copies.join(format!("copy-{}", done.load(Relaxed)));
            copy_image(&image, &copy);
            let whole = holds(&copy, at.clone(), &kind, released, acked);
            std::fs::remove_file(&copy).expect("it can");
            lost.fetch_add(u64::from(!whole), Relaxed);
            done.fetch_add(1, Relaxed);
        };
        let mut started = 0;
        Box::new(move |call: SystemCall| {
            started += 1;
            // The first calls make the directory.
            if started > 40 && rng.percent(10) {
                cut();
            }
            match call.name {
                "fdatasync" if lie => Verdict::Skip,
                _ => Verdict::Make,
            }
        })
    };
    let (mut wal, _) = open(mount.0.join("log"), Some(hook)).expect("it opens");
    for index in 1.. {
        let body = body(index);
        let record = Record::Entry {
            term: 1,
            index,
            body: &body,
        };
        wal.append(&[record], 0).expect("there is room");
        wal.start_sync().expect("it syncs");
        wal.poll_sync().expect("it synced");
        acked.store(index, Relaxed);
        wal.release(released_at(index));
        if done.load(Relaxed) >= count {
            break;
        }
    }
    lost.load(Relaxed)
}

/// The entries up to this one are not needed once those up to `acked` are acknowledged.
fn released_at(acked: u64) -> u64 {
    acked.saturating_sub(30)
}

/// Cuts the power with syncs, which may lose nothing, and without, which must, or the check is blind.
fn check(kind: &'static str) {
    if lacks(Need::Image(kind)) {
        return;
    }
    let _alone = alone();
    let honest = cuts(kind, false);
    let lying = cuts(kind, true);
    println!("{kind}: {honest} cuts lost something, {lying} without syncs");
    assert_eq!(honest, 0, "{kind}");
    assert!(lying > 0, "{kind}: the check notices no loss");
}

#[test]
fn power_cuts_on_ext4() {
    check("ext4");
}

#[test]
#[ignore = "needs mkfs.xfs: cargo test -p wal --test image -- --ignored xfs"]
fn power_cuts_on_xfs() {
    check("xfs");
}

#[test]
#[ignore = "needs mkfs.btrfs: cargo test -p wal --test image -- --ignored btrfs"]
fn power_cuts_on_btrfs() {
    check("btrfs");
}
