//! Full disks in a cluster of three: of one follower, of the leader, of all.
use std::path::{Path, PathBuf};
use std::time::Duration;
use tern_support::client::until;
use tern_support::fleet::{ask, follow, followed, leader_of, prepare, put, shows, votes};
use tern_support::namespace;
use tern_support::server::Server;

/// Three machines, each with a small disk of its own.
struct Disks {
    servers: Vec<Server>,
    /// The folder of each disk.
    disks: Vec<PathBuf>,
    /// Keeps the folders of the disks.
    _homes: Vec<tempfile::TempDir>,
}

impl Disks {
    fn start() -> Disks {
        let mut all = Disks {
            servers: Vec::new(),
            disks: Vec::new(),
            _homes: Vec::new(),
        };
        for number in 1..=3 {
            let home = tempfile::tempdir().expect("a folder");
            let disk = namespace::mount(home.path(), 80);
            let peers: Vec<u16> = all.servers.iter().map(|s| s.peer_port).collect();
            let small = [
                "-max-request-bytes=1048576",
                "-segment-bytes=8388608",
                "-snapshot-count=100",
            ];
            let mut server = prepare(number, &peers, &small);
            std::os::unix::fs::symlink(&disk, server.data_dir()).expect("nothing is there");
            server.run();
            all.servers.push(server);
            all.disks.push(disk);
            all._homes.push(home);
        }
        votes(&all.servers[0], 3);
        all
    }

    fn fill(&self, at: usize) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.filler(at)).expect("a file");
        let block = vec![1; 64 * 1024];
        while file.write_all(&block).is_ok() {}
    }

    fn empty(&self, at: usize) {
        std::fs::remove_file(self.filler(at)).expect("the filler");
    }

    fn filler(&self, at: usize) -> PathBuf {
        Path::new(&self.disks[at]).join("filler")
    }

    /// Writes until the cause is `disk full`. The values are long: while a voter is away that may have
    /// room, each takes until its client gives up.
    fn write_until_full(&self, via: usize) {
        let body = format!("value={}", "v".repeat(512 * 1024));
        let mut written = 0;
        until("writes are refused", || {
            let key = format!("/v2/keys/full/{}", written % 20);
            let answer = follow(self.servers[via].client_at(), "PUT", &key, &body)?;
            if answer.status() < 300 {
                written += 1;
                return None;
            }
            (answer.json()["cause"] == "disk full").then_some(())
        });
    }

    fn logs(&self, at: usize, text: &str) {
        self.servers[at].wait_for_log(text);
    }

    /// All processes run, and none has panicked.
    fn are_well(&self) {
        for server in self.servers.iter().filter(|server| server.is_started()) {
            assert!(!server.log().contains("panicked"), "{}", server.log());
            assert_eq!(server.client("GET", "/v2/keys/", "").status(), 200);
        }
    }
}

/// It costs the cluster nothing: the follower falls behind, gets no snapshot, votes, and catches up
/// once there is room.
#[test]
fn the_disk_of_a_follower_is_full() {
    if !namespace::enter() {
        return;
    }
    let mut all = Disks::start();
    let leader = leader_of(&all.servers);
    let full = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    all.fill(full);
    let value = "v".repeat(64 * 1024);
    for key in 0..600 {
        put(
            &all.servers[leader..=leader],
            &format!("k/{}", key % 100),
            &value,
        );
    }
    all.logs(full, "the disk of -data-dir is full");
    all.are_well();

    // With the leader gone the other one needs its vote.
    all.servers[leader].kill();
    let left = [&all.servers[full], &all.servers[other]];
    until("the one with room leads", || {
        let elected = tern_support::fleet::try_leader(&left)?;
        (elected == 1).then_some(())
    });
    all.write_until_full(other);
    all.empty(full);
    put(&all.servers[other..=other], "again", "1");
    shows(&all.servers[full], "again", "1");
    shows(&all.servers[full], "k/99", &value);
    all.are_well();
}

/// Another machine takes over.
#[test]
fn the_disk_of_the_leader_is_full() {
    if !namespace::enter() {
        return;
    }
    let all = Disks::start();
    let leader = leader_of(&all.servers);
    all.fill(leader);
    let value = "v".repeat(64 * 1024);
    for key in 0..400 {
        put(&all.servers, &format!("k/{}", key % 100), &value);
    }
    assert_ne!(leader_of(&all.servers), leader);
    all.logs(leader, "the disk of -data-dir is full");
    all.empty(leader);
    put(&all.servers, "again", "1");
    for server in &all.servers {
        shows(server, "again", "1");
    }
    all.are_well();
}

/// Writes are refused with the cause, reads go on, and writes resume when two have room.
#[test]
fn all_disks_are_full() {
    if !namespace::enter() {
        return;
    }
    let all = Disks::start();
    (0..3).for_each(|at| all.fill(at));
    all.write_until_full(0);
    // From now on each write through any of them has that cause, whichever leads.
    for round in 0..60 {
        let body = format!("value={}", "v".repeat(64 * 1024));
        let at = all.servers[round % 3].client_at();
        let answer = followed(at, "PUT", "/v2/keys/full/0", &body);
        assert_eq!(answer.json()["cause"], "disk full", "{}", answer.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let quorum = "/v2/keys/full/0?quorum=true";
    until("a linearizable read is answered", || {
        let answer = follow(all.servers[0].client_at(), "GET", quorum, "")?;
        (answer.status() == 200).then_some(())
    });
    all.are_well();
    all.empty(1);
    all.empty(2);
    put(&all.servers, "again", "1");
    all.empty(0);
    for server in &all.servers {
        shows(server, "again", "1");
    }
    all.are_well();
}

/// Copies a file as `cp` does: pages of zeros become holes.
fn make_holes(path: &Path) {
    use std::os::unix::fs::FileExt;
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

/// The segments of a copied directory have holes. A write there on a full disk ended the process at each
/// start.
#[test]
fn a_copied_directory_on_a_full_disk() {
    if !namespace::enter() {
        return;
    }
    let mut all = Disks::start();
    let (copied, other) = (0, 1);
    put(&all.servers, "before", "1");
    shows(&all.servers[copied], "before", "1");
    all.servers[copied].kill();
    for file in std::fs::read_dir(&all.disks[copied]).expect("a folder") {
        let path = file.expect("an entry").path();
        if path.extension().is_some() {
            make_holes(&path);
        }
    }
    all.fill(copied);
    all.servers[copied].run();
    all.logs(copied, "the disk of -data-dir is full");
    put(&all.servers[other..], "meanwhile", "1");
    until("it answers reads", || {
        let answer = ask(all.servers[copied].client_at(), "GET", "/v2/keys/", "")?;
        (answer.status() == 200).then_some(())
    });
    all.are_well();
    shows(&all.servers[copied], "before", "1");
    all.empty(copied);
    shows(&all.servers[copied], "meanwhile", "1");
    all.are_well();
}

/// Values that replace each other fill a small disk with the log and snapshots. An older snapshot gives way, and
/// the log is released.
#[test]
fn a_disk_that_only_tern_fills() {
    if !namespace::enter() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let disk = namespace::mount(home.path(), 44);
    let mut server = Server::prepare(&[
        "-segment-bytes=1048576",
        "-max-request-bytes=131072",
        "-watch-history-bytes=4194304",
        "-snapshot-bytes=8388608",
    ]);
    std::os::unix::fs::symlink(&disk, server.data_dir()).expect("nothing is there");
    server.run();
    let body = format!("value={}", "v".repeat(100_000));
    let mut written = 0;
    until("an older snapshot has given way, and writes go on", || {
        let key = format!("/v2/keys/{}", written % 50);
        let answer = ask(server.client_at(), "PUT", &key, &body)?;
        written += 1;
        let has_room = server.log().contains("removing the older snapshot");
        (has_room && written > 2_000 && answer.status() == 200).then_some(())
    });
}
