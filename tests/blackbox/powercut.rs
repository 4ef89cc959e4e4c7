//! Power cuts: the server runs on a file system in an image. The image is copied while the server
//! is stopped in the middle of writes, and the copy is mounted as a disk would be after a power
//! failure. It does not hold what the server had not synced.
//!
//! The same run with the server's syncs left out must lose writes, or the test proves nothing.
//! Needs root, for the mounts. `TERN_CUTS` sets the number of cuts, `TERN_CUT_FS` the file system:
//! ext4, xfs or btrfs.
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tern_support::alone::alone;
use tern_support::client::{Conn, until};
use tern_support::image::{Image, run, text};
use tern_support::server::{Server, Syncs};
use tern_support::skip::{Need, lacks};

/// The kind of file system whose power is cut.
fn file_system() -> &'static str {
    match std::env::var("TERN_CUT_FS").as_deref() {
        Err(_) | Ok("ext4") => "ext4",
        Ok("xfs") => "xfs",
        Ok("btrfs") => "btrfs",
        Ok(other) => panic!("TERN_CUT_FS={other}: ext4, xfs or btrfs"),
    }
}

/// A new image below `home`, with the file system under test.
fn image(home: &Path) -> Image {
    match file_system() {
        "xfs" => Image::create("xfs", home, 320),
        "btrfs" => Image::create("btrfs", home, 160),
        kind => Image::create(kind, home, 48),
    }
}

/// The last number acknowledged for each key.
type Acked = BTreeMap<String, u64>;

const WRITERS: usize = 4;
const KEYS_A_WRITER: u64 = 40;

/// Writes rising numbers to a few keys until `stop` is set.
fn write(port: u16, writer: usize, acked: &Mutex<Acked>, stop: &AtomicBool) {
    let mut conn = Conn::open(port);
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("/w{writer}/k{}", number % KEYS_A_WRITER);
        let body = format!("value={number:0200}");
        let answer = conn.ask("PUT", &format!("/v2/keys{key}"), &body);
        assert!(answer.status() < 300, "{}", answer.text());
        acked.lock().expect("no thread panics").insert(key, number);
    }
}

/// Ends the writers, also when a test fails in their midst.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A disk as it was when the power went, and what had been acknowledged by then.
struct Cut {
    copy: PathBuf,
    acked: Acked,
}

/// Stops the server in the middle of whatever it does, and copies its disk.
fn cut(server: &Server, image: &Image, acked: &Mutex<Acked>, number: usize) -> Cut {
    server.signal(Signal::STOP);
    until("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid()));
        let stat = stat.expect("it was started");
        let (_, state) = stat.rsplit_once(") ").expect("a state");
        (state.starts_with('T') || state.starts_with('t')).then_some(())
    });
    let acked = acked.lock().expect("no thread panics").clone();
    let copy = image.file().with_file_name(format!("copy{number}"));
    let args = ["--sparse=always", &text(image.file()), &text(&copy)];
    run("cp", &args);
    server.signal(Signal::CONT);
    Cut { copy, acked }
}

// Small segments and many snapshots: the cuts fall between the steps of both.
const ARGS: [&str; 3] = [
    "-max-request-bytes=65536",
    "-segment-bytes=524288",
    "-snapshot-count=300",
];

impl Cut {
    /// How many acknowledged writes the disk does not have; all when the server does not start on
    /// it.
    fn lost(self) -> usize {
        let disk = Image::mount(self.copy);
        let mut server = Server::prepare(&ARGS);
        if !server.try_run_on(&disk.data_dir()) {
            return self.acked.len();
        }
        let mut conn = Conn::open(server.client_port);
        let mut has = |key: &str, number: u64| {
            let answer = conn.ask("GET", &format!("/v2/keys{key}"), "");
            let value = answer.json()["node"]["value"].as_str().map(str::to_string);
            value.is_some_and(|value| value.parse::<u64>().expect("a number") >= number)
        };
        let missing = self
            .acked
            .iter()
            .filter(|(key, number)| !has(key, **number));
        let missing = missing.count();
        drop(server);
        std::fs::remove_file(disk.file()).expect("the copy");
        missing
    }
}

/// Runs a loaded server and cuts its power so many times.
fn batch(home: &Path, count: usize, syncs: Syncs) -> Vec<Cut> {
    let image = image(home);
    let mut server = Server::prepare(&ARGS);
    server.syncs = syncs;
    server.run_on(&image.data_dir());
    let (acked, stop) = (Mutex::new(Acked::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (port, acked, stop) = (server.client_port, &acked, &stop);
        let _stop = Stop(stop);
        for writer in 0..WRITERS {
            scope.spawn(move || write(port, writer, acked, stop));
        }
        let sum = || {
            acked
                .lock()
                .expect("no thread panics")
                .values()
                .sum::<u64>()
        };
        let next = |number: usize| {
            // A different number of writes each time.
            let enough = sum() + 1_000 + 7_919 * number as u64 % 5_000;
            until("more is written", || (sum() >= enough).then_some(()));
            cut(&server, &image, acked, number)
        };
        (1..=count).map(next).collect()
    })
}

/// Cuts the power so many times; hands back what was lost each time. The disk that was copied is
/// unmounted before its copies are mounted: some file systems confuse the two.
fn cuts(count: usize, syncs: Syncs) -> Vec<usize> {
    let mut losses = Vec::new();
    while losses.len() < count {
        let home = tempfile::tempdir().expect("a directory");
        let number = (count - losses.len()).min(10);
        let batch = batch(home.path(), number, syncs);
        losses.extend(batch.into_iter().map(Cut::lost));
    }
    losses
}

#[test]
fn nothing_acknowledged_is_lost() {
    if lacks(Need::Image(file_system())) {
        return;
    }
    let _alone = alone();
    let count = std::env::var("TERN_CUTS").map_or(20, |n| n.parse().expect("a number"));
    let losses = cuts(count, Syncs::Real);
    assert!(losses.iter().all(|lost| *lost == 0), "lost: {losses:?}");
}

#[test]
fn without_syncs_writes_are_lost() {
    if lacks(Need::Image(file_system())) || lacks(Need::Strace) {
        return;
    }
    let _alone = alone();
    let losses = cuts(3, Syncs::LeftOut);
    let some = losses.iter().any(|lost| *lost > 0);
    assert!(some, "nothing was lost: the test above is blind");
}
