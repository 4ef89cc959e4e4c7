//! `backup` and `restore`: the round trip, broken downloads, damaged files, files that must not be
//! overwritten.
use crate::cutter::{Cut, Cutter};
use crate::run::{Ended, ended, run, started, ternctl};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use tern_support::client::until;
use tern_support::fleet;
use tern_support::server::Server;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn backup(server: &Server, target: &Path) -> Ended {
    run(server, &["backup", text(target)])
}

/// Restores a backup into the data directory of a machine that does not run.
fn restore(backup: &Path, server: &Server) -> Ended {
    let addr = server.client_at().to_string();
    let peer_addr = server.peer_at().to_string();
    ended(ternctl(&[
        "restore",
        text(backup),
        "--data-dir",
        text(&server.data_dir()),
        "--name",
        &server.name,
        "--addr",
        &addr,
        "--peer-addr",
        &peer_addr,
    ]))
}

fn cluster_id(server: &Server) -> String {
    let answer = server.client("GET", "/v2/keys/", "");
    let id = answer.head.header("X-Etcd-Cluster-Id");
    id.expect("an id").to_string()
}

/// Writes one of each kind of node.
fn fill(server: &Server) {
    for (key, value) in [("/a/b", "one"), ("/_hidden/x", "two"), ("/ü ?/#", "\"\n")] {
        run(server, &["set", key, value]).text();
    }
    run(server, &["update", "/a/b", "three"]).text();
    run(server, &["set", "/lease", "me", "--ttl", "5000"]).text();
    run(server, &["mkdir", "/empty"]).text();
    run(server, &["mkdir", "/dir", "--ttl", "5000"]).text();
    run(server, &["mk", "/dir/file", ""]).text();
}

/// All nodes, hidden ones included, without their ttls: a ttl counts down between two listings.
fn nodes(server: &Server) -> Vec<serde_json::Value> {
    let mut open = Vec::new();
    for path in ["/", "/_hidden"] {
        let target = format!("/v2/keys{path}?recursive=true&sorted=true");
        let mut answer = server.client("GET", &target, "").json();
        open.push(answer["node"].take());
    }
    let mut all = Vec::new();
    while let Some(mut node) = open.pop() {
        if let Some(children) = node["nodes"].as_array_mut() {
            open.append(children);
        }
        let fields = node.as_object_mut().expect("a node");
        fields.remove("ttl");
        fields.remove("nodes");
        all.push(node);
    }
    all
}

#[test]
fn a_backup_becomes_a_new_cluster() {
    let servers = fleet::cluster(3, &[]);
    let leader = fleet::leader_of(&servers);
    fill(&servers[leader]);
    let set = ["cluster", "config", "set", "--active-size", "4"];
    run(&servers[leader], &set).text();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&servers[leader], &file).text();
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    let checked = ended(ternctl(&["backup", "--check", text(&file)])).text();
    assert!(checked.contains("checksum is right"), "{checked}");

    // The lost cluster runs on meanwhile, and is not disturbed.
    let mut restored = Server::prepare_as("restored", &[]);
    restore(&file, &restored).text();
    restored.run();
    assert_eq!(nodes(&restored), nodes(&servers[leader]));
    assert_ne!(cluster_id(&restored), cluster_id(&servers[leader]));
    let config = run(&restored, &["cluster", "config", "get"]).text();
    assert!(config.starts_with("activeSize 4\n"), "{config}");
    assert_eq!(run(&restored, &["member", "list"]).text(), "restored\n");
    let machines = run(&restored, &["ls", "/_etcd/machines"]).text();
    assert_eq!(machines, "/_etcd/machines/restored\n");
    // The indexes start above the backup's. A watch of an index of the lost part gets error 401.
    let made = restored.client("PUT", "/v2/keys/new", "value=1").json();
    assert!(
        made["node"]["modifiedIndex"].as_u64() > Some(1_000_000),
        "{made}"
    );
    let past = restored.client("GET", "/v2/keys/a?wait=true&waitIndex=100", "");
    assert_eq!(past.json()["errorCode"], 401);
    // Another machine joins; a restart finds all.
    let mut second = fleet::prepare(2, &[restored.peer_port], &[]);
    second.run();
    fleet::shows(&second, "a/b", "three");
    second.terminate();
    restored.kill();
    restored.run();
}

#[test]
fn a_restored_machine_may_have_other_addresses() {
    let server = Server::start(&[]);
    fill(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&server, &file).text();
    let mut restored = Server::prepare(&[]);
    let data_dir = restored.data_dir();
    let args = [
        "restore",
        text(&file),
        "--name",
        "node1",
        "--data-dir",
        text(&data_dir),
    ];
    let said = ended(ternctl(&args)).text();
    assert!(said.contains("tern -name node1"), "{said}");
    restored.run();
    assert_eq!(nodes(&restored), nodes(&server));
}

/// The place of a data directory may be a mount point, which cannot be renamed; so nothing is.
#[test]
fn a_directory_that_exists_is_filled_however_it_is_named() {
    let server = Server::start(&[]);
    fill(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&server, &file).text();
    let mut restored = Server::prepare(&[]);
    let place = restored.data_dir();
    for data_dir in ["../data/", "../data/.", "../data", "../new/", "."] {
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).expect("a folder");
        fs::create_dir(place.join("lost+found")).expect("a folder");
        fs::create_dir(place.join(".restoring")).expect("a folder");
        let args = ["restore", text(&file), "--name", "node1", "--data-dir"];
        let mut command = ternctl(&[&args[..], &[data_dir]].concat());
        command.current_dir(&place);
        ended(command).text();
        let made = place.join(data_dir);
        assert!(made.join("state").exists(), "{data_dir}");
        assert!(!made.join(".restoring").exists(), "{data_dir}");
    }
    restored.run();
    assert_eq!(nodes(&restored), nodes(&server));
}

#[test]
fn an_index_that_is_too_large_is_refused() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&server, &file).text();
    let data_dir = dir.path().join("data");
    let most = u64::MAX.to_string();
    let said = ended(ternctl(&[
        "restore",
        text(&file),
        "--data-dir",
        text(&data_dir),
        "--name",
        "node1",
        "--raise-index",
        &most,
    ]));
    assert!(said.failed(1).contains("--raise-index"));
    assert!(!data_dir.exists());
}

/// In a folder the name has the second in it: the next run has another one.
#[test]
fn a_broken_download_to_a_folder_goes_on_there_and_leaves_nothing() {
    let (server, cutter, dir) = stuck_download();
    for name in ["tern-20200101T000000Z.json.7.part", "mine.json.7.part"] {
        fs::write(dir.path().join(name), "{").expect("it is written");
    }
    let args = ["-C", &cutter.url(), "backup", text(dir.path())];
    let names = || {
        let entries = fs::read_dir(dir.path()).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    // The moment of the old one is gone, so the download has a name of its own.
    let child = started(ternctl(&args));
    until("much of it arrived", || {
        let path = dir.path().join(names().pop()?);
        (path.metadata().ok()?.len() > 7 << 20).then_some(())
    });
    let part = names().pop().expect("a part");
    assert_ne!(part, "tern-20200101T000000Z.json.7.part");
    kill(child);
    run(&server, &["set", "/later", "1"]).text();
    let made = ended(ternctl(&args)).text();
    assert_went_on(&cutter, Path::new(made.trim()));
    let (backup, _) = part.split_once(".json.").expect("the name of a part");
    assert_eq!(names(), ["mine.json.7.part", &format!("{backup}.json")]);
}

/// A large machine whose first download stops after 8 MiB, and the folder that it goes to.
fn stuck_download() -> (Server, Cutter, tempfile::TempDir) {
    let server = large();
    let cutter = Cutter::start(server.client_at(), &[Cut::Stuck(8 << 20)]);
    let dir = tempfile::tempdir().expect("a directory");
    (server, cutter, dir)
}

fn kill(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("a child");
}

/// All connections together carried the file, and less than a mebibyte twice.
fn assert_went_on(cutter: &Cutter, file: &Path) {
    let passed: usize = cutter.passed().iter().sum();
    let length = fs::metadata(file).expect("there").len() as usize;
    assert!(passed < length + (1 << 20), "{passed} bytes for {length}");
}

/// A machine with so much data that an answer does not fit into the buffers of a connection.
fn large() -> Server {
    let server = Server::start(&[]);
    let value = "x".repeat(1 << 20);
    for n in 0..12 {
        let body = format!("value={n}{value}");
        let answer = server.client("PUT", &format!("/v2/keys/large{n}"), &body);
        assert_eq!(answer.status(), 201);
    }
    server
}

#[test]
fn a_broken_download_goes_on_at_the_same_moment() {
    let server = large();
    run(&server, &["set", "/moment", "before"]).text();
    let cuts = [Cut::After(3 << 20), Cut::After(200), Cut::After(5 << 20)];
    let cutter = Cutter::start(server.client_at(), &cuts);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    let child = started(ternctl(&["-C", &cutter.url(), "backup", text(&file)]));
    // Changes the key space while the connection is broken.
    until("the first connection broke", || {
        (cutter.passed().len() > 1).then_some(())
    });
    run(&server, &["set", "/moment", "after"]).text();
    run(&server, &["rm", "/large11"]).text();
    let ended = Ended::from(child.wait_with_output().expect("it ends"));
    assert!(!ended.stderr.contains("begins anew"), "{}", ended.stderr);
    ended.text();
    assert_went_on(&cutter, &file);
    let text = fs::read_to_string(&file).expect("there");
    assert!(text.contains("\"Value\":\"before\"") && text.contains("/large11"));
    assert!(!text.contains("\"Value\":\"after\""));
}

#[test]
fn a_killed_backup_goes_on_where_it_stopped() {
    let (server, cutter, dir) = stuck_download();
    let file = dir.path().join("backup.json");
    let args = ["-C", &cutter.url(), "backup", text(&file)];
    let child = started(ternctl(&args));
    let part = || {
        let mut entries = fs::read_dir(dir.path()).expect("a folder");
        let entry = entries.next()?.expect("an entry");
        let data = entry.metadata().expect("there");
        Some((data.len(), data.permissions().mode() & 0o777))
    };
    until("much of it arrived", || {
        part().filter(|(length, _)| *length > 7 << 20)
    });
    kill(child);
    assert_eq!(part().expect("a part").1, 0o600);
    assert!(!file.exists());
    run(&server, &["set", "/later", "1"]).text();
    ended(ternctl(&args)).text();
    assert_went_on(&cutter, &file);
    ended(ternctl(&["backup", "--check", text(&file)])).text();
    assert!(!fs::read_to_string(&file).expect("there").contains("/later"));
}

#[test]
fn a_moment_that_is_gone_means_to_begin_anew() {
    let (mut server, cutter, dir) = stuck_download();
    let file = dir.path().join("backup.json");
    let args = ["-C", &cutter.url(), "backup", text(&file)];
    let child = started(ternctl(&args));
    until("much of it arrived", || {
        let passed = cutter.passed();
        (passed.first() >= Some(&(7 << 20))).then_some(())
    });
    kill(child);
    server.kill();
    server.run();
    run(&server, &["set", "/later", "1"]).text();
    ended(ternctl(&args)).text();
    assert!(fs::read_to_string(&file).expect("there").contains("/later"));
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

#[test]
fn a_damaged_backup_is_refused() {
    let server = Server::start(&[]);
    fill(&server);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&server, &file).text();
    let good = fs::read(&file).expect("there");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let damaged = dir.path().join("damaged.json");
    for bytes in [
        &flipped[..],
        &good[..good.len() - 1],
        &good[..20],
        b"",
        b"{}",
    ] {
        fs::write(&damaged, bytes).expect("room");
        let said = ended(ternctl(&["backup", "--check", text(&damaged)])).failed(7);
        assert!(said.contains("damaged.json"), "{said}");
        let restored = Server::prepare(&[]);
        restore(&damaged, &restored).failed(7);
        assert!(!restored.data_dir().exists());
    }
}

#[test]
fn nothing_is_overwritten() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    backup(&server, &file).text();
    let said = backup(&server, &file).failed(1);
    assert!(said.contains("exists"), "{said}");
    let other = Server::prepare(&[]);
    restore(&file, &other).text();
    let said = restore(&file, &other).failed(1);
    assert!(said.contains("not empty"), "{said}");
    let running = restore(&file, &server).failed(1);
    assert!(running.contains("not empty"), "{running}");
    let dead = ended(ternctl(&["-C", "http://127.0.0.1:9", "backup", "x.json"]));
    dead.failed(2);
}

#[test]
fn a_folder_keeps_the_newest_backups() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    for n in 1..=3 {
        fs::write(dir.path().join(format!("tern-2000010{n}T000000Z.json")), "").expect("room");
    }
    fs::write(dir.path().join("notes.txt"), "mine").expect("room");
    let made = run(&server, &["backup", text(dir.path()), "--keep", "2"]).text();
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    assert_eq!(names[..2], ["notes.txt", "tern-20000103T000000Z.json"]);
    assert!(made.contains(&names[2]), "{made} {names:?}");
    assert_eq!(names.len(), 3);
    let file = dir.path().join("one.json");
    run(&server, &["backup", text(&file), "--keep", "2"]).failed(1);
}
