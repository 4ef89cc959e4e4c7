//! `import` and `export`: between terns, and from etcd.
use crate::run::{ended, run, run_with_input, ternctl, url};
use std::process::{Child, Command, Stdio};
use tern_support::client::{Conn, until};
use tern_support::recordings;
use tern_support::server::{Server, free_port};
use tern_support::skip::{Need, lacks};

/// A process that is killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An etcd 3.4 with the v2 interface, and its client port.
fn etcd(home: &std::path::Path) -> (Process, u16) {
    let (client, peer) = (free_port(), free_port());
    let mut command = Command::new("etcd");
    command
        .arg("--enable-v2")
        .arg("--data-dir")
        .arg(home)
        .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!(
            "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
        ))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process(command.spawn().expect("etcd starts"));
    until("etcd serves", || {
        let answer = Conn::try_open(client)?.try_ask("GET", "/health", "")?;
        answer.text().contains("true").then_some(())
    });
    (process, client)
}

/// Writes each kind of node through any server with the interface.
fn fill(url: &str) {
    let ternctl = |args: &[&str]| ended(ternctl(&[&["-C", url], args].concat())).text();
    ternctl(&["set", "/a/b", "one"]);
    ternctl(&["set", "/_hidden/x", "two"]);
    ternctl(&["set", "/ü ?/#", "\"\n"]);
    ternctl(&["set", "/lease", "me", "--ttl", "5000"]);
    ternctl(&["set", "/short", "x", "--ttl", "1"]);
    ternctl(&["mkdir", "/empty"]);
    ternctl(&["mkdir", "/dir", "--ttl", "5000"]);
    ternctl(&["mk", "/dir/file", ""]);
    ternctl(&["mk", "--in-order", "/queue", "first"]);
}

/// Checks that all of it has arrived.
fn check_filled(server: &Server) {
    let get = |key: &str| run(server, &["get", key]).text();
    assert_eq!(get("/a/b"), "one\n");
    assert_eq!(get("/_hidden/x"), "two\n");
    assert_eq!(get("/ü ?/#"), "\"\n\n");
    assert_eq!(get("/dir/file"), "\n");
    assert_eq!(run(server, &["ls", "/empty"]).text(), "");
    let ttl = |key: &str| {
        let answer = server.client("GET", &format!("/v2/keys{key}"), "").json();
        answer["node"]["ttl"].as_u64().expect("a ttl")
    };
    assert!((4_000..=5_000).contains(&ttl("/lease")));
    assert!((4_000..=5_000).contains(&ttl("/dir")));
    assert_eq!(run(server, &["ls", "/queue"]).text().lines().count(), 1);
    until("the short lease is over", || {
        (run(server, &["get", "/short"]).code == Some(4)).then_some(())
    });
    let machines = run(server, &["ls", "/_etcd/machines"]).text();
    assert_eq!(machines.lines().count(), 1, "{machines}");
}

#[test]
fn a_key_space_moves_from_etcd() {
    if lacks(Need::Program("etcd")) {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let (_etcd, port) = etcd(home.path());
    let from = format!("http://127.0.0.1:{port}");
    fill(&from);
    let server = Server::start(&[]);
    run(&server, &["import", &from, "--hidden", "/_hidden"]).text();
    check_filled(&server);
    // A hidden key that is not named does not arrive, and one that does not exist is told.
    let other = Server::start(&[]);
    run(&other, &["import", &from]).text();
    run(&other, &["get", "/_hidden/x"]).failed(4);
    run(&other, &["get", "/a/b"]).text();
    let missing = run(&server, &["import", &from, "--hidden", "/_none"]).failed(4);
    assert!(missing.contains("/_none"), "{missing}");
}

#[test]
fn a_key_space_moves_between_terns_and_through_files() {
    let source = Server::start(&[]);
    fill(&url(&source));
    let direct = Server::start(&[]);
    run(&direct, &["import", &url(&source)]).text();
    check_filled(&direct);

    let lines = run(&source, &["export"]).text();
    assert!(lines.contains(r#"{"key":"/a/b","value":"one"}"#), "{lines}");
    assert!(!lines.contains("/_etcd"), "{lines}");
    let piped = Server::start(&[]);
    run_with_input(&piped, &["import", "-"], &lines).text();
    check_filled(&piped);
    let part = run(&source, &["export", "/a"]).text();
    assert_eq!(part.lines().count(), 2, "{part}");
    let missing = run(&source, &["export", "/none"]).failed(4);
    assert!(missing.contains("/none"), "{missing}");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    let path = file.to_str().expect("UTF-8");
    run(&source, &["backup", path]).text();
    let loaded = Server::start(&[]);
    run(&loaded, &["import", path]).text();
    check_filled(&loaded);
    std::fs::write(&file, "{\"key\":\"/a\"}\nnonsense\n").expect("room");
    let said = run(&loaded, &["import", path]).failed(7);
    assert!(said.contains("line 2"), "{said}");
}

#[test]
fn keys_that_exist_are_replaced_only_on_demand() {
    let server = Server::start(&[]);
    run(&server, &["set", "/a", "mine"]).text();
    let lines = "{\"key\":\"/a\",\"value\":\"theirs\"}\n{\"key\":\"/d\"}\n{\"key\":\"/b\",\"value\":\"1\"}\n";
    let import = |option: &str| {
        let args: Vec<&str> = ["import", "-", option]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        run_with_input(&server, &args, lines)
    };
    let said = import("").failed(4);
    assert!(
        said.contains("/a exists") && said.contains("--overwrite"),
        "{said}"
    );
    assert!(import("--skip-existing").text().contains("skipped"));
    assert_eq!(run(&server, &["get", "/a"]).text(), "mine\n");
    assert_eq!(run(&server, &["get", "/b"]).text(), "1\n");
    import("--overwrite").text();
    assert_eq!(run(&server, &["get", "/a"]).text(), "theirs\n");
    assert_eq!(run(&server, &["ls", "/d"]).text(), "");
}

#[test]
fn a_deep_key_space_moves() {
    let source = Server::start(&[]);
    let key = format!("{}/leaf", "/d".repeat(500));
    run(&source, &["set", &key, "1"]).text();
    let target = Server::start(&[]);
    run(&target, &["import", &url(&source)]).text();
    assert_eq!(run(&target, &["get", &key]).text(), "1\n");
    let listed = run(&target, &["ls", "-r"]).text();
    assert_eq!(listed.lines().count(), 501);
}

/// The document that etcd 0.4.9 gave, of a cluster with one key.
#[test]
fn a_document_of_etcd_0_4_is_imported() {
    let steps = recordings::steps("endpoints");
    let step = steps.iter().find(|step| step.id == "endpoints/064");
    let document = &step.expect("it was recorded").expect.body;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("RAFTINDEX-migrate.snap");
    std::fs::write(&file, document).expect("room");
    let path = file.to_str().expect("UTF-8");
    let checked = ended(ternctl(&["backup", "--check", path])).text();
    assert!(checked.contains("no checksum"), "{checked}");
    let server = Server::start(&[]);
    run(&server, &["import", path]).text();
    let keys = run(&server, &["ls", "-r"]).text();
    let recorded: serde_json::Value = serde_json::from_str(document).expect("JSON");
    let children = recorded["Root"]["Children"]
        .as_object()
        .expect("a directory");
    let names = children.keys().filter(|name| !name.starts_with('_'));
    let expected: Vec<String> = names.map(|name| format!("/{name}")).collect();
    assert_eq!(keys.lines().collect::<Vec<_>>(), expected);
    assert!(!expected.is_empty(), "{document}");
    let machines = run(&server, &["ls", "/_etcd/machines"]).text();
    assert_eq!(machines, "/_etcd/machines/node1\n");
}
