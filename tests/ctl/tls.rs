//! `tls`: its certificates on both ports of three machines, for ternctl and for curl; renewal.
use crate::run::{Ended, ended, ternctl};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tern_support::client::until;
use tern_support::fleet::CALM;
use tern_support::server::{free_port, tern};
use tern_support::skip::{Need, lacks};

/// `ternctl tls` in a folder.
fn tls(dir: &Path, args: &[&str]) -> Ended {
    let dir = dir.to_str().expect("UTF-8");
    ended(ternctl(&[&["tls"], args, &["--dir", dir]].concat()))
}

struct Machine {
    child: Child,
    client_port: u16,
    peer_port: u16,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a machine with its certificate on both ports; clients need one, too.
fn start(dir: &Path, name: &str, peers: &[u16]) -> Machine {
    let (client_port, peer_port) = (free_port(), free_port());
    let file = |name: String| dir.join(name).to_str().expect("UTF-8").to_string();
    let mut command = tern();
    command
        .args(["-name", name, "-data-dir", &file(format!("{name}.data"))])
        .args(["-addr", &format!("127.0.0.1:{client_port}")])
        .args(["-peer-addr", &format!("127.0.0.1:{peer_port}")])
        .args(["-max-retry-attempts=0", "-retry-interval=0.2", CALM]);
    for (port, folder) in [("", "clients"), ("peer-", "peers")] {
        command
            .arg(format!(
                "-{port}ca-file={}",
                file(format!("{folder}/ca.pem"))
            ))
            .arg(format!(
                "-{port}cert-file={}",
                file(format!("{folder}/{name}.pem"))
            ))
            .arg(format!(
                "-{port}key-file={}",
                file(format!("{folder}/{name}.key"))
            ));
    }
    if !peers.is_empty() {
        let peers: Vec<String> = peers.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        command.arg(format!("-peers={}", peers.join(",")));
    }
    command
        .stdin(Stdio::null())
        .stdout(fs::File::create(dir.join(format!("{name}.log"))).expect("room"))
        .stderr(Stdio::null());
    let child = command.spawn().expect("it starts");
    Machine {
        child,
        client_port,
        peer_port,
    }
}

/// ternctl with the certificate of a client, if any.
fn client(dir: &Path, machine: &Machine, with_certificate: bool, args: &[&str]) -> Ended {
    let mut command = ternctl(args);
    command
        .env(
            "TERNCTL_ENDPOINTS",
            format!("https://127.0.0.1:{}", machine.client_port),
        )
        .env("TERNCTL_CA_FILE", dir.join("clients/ca.pem"));
    if with_certificate {
        command
            .env("TERNCTL_CERT_FILE", dir.join("clients/admin.pem"))
            .env("TERNCTL_KEY_FILE", dir.join("clients/admin.key"));
    }
    ended(command)
}

/// An authority for each port, with a certificate for each machine: a client's makes no peer.
fn make_certificates(dir: &Path) {
    for folder in ["clients", "peers"] {
        tls(&dir.join(folder), &["ca"]).text();
        for name in ["n1", "n2", "n3"] {
            let machine = ["machine", name, "--host", "10.0.0.1,example.org"];
            tls(&dir.join(folder), &machine).text();
        }
    }
    let clients = &dir.join("clients");
    tls(clients, &["client", "admin"]).text();
    let mode = |name: &str| {
        let data = fs::metadata(clients.join(name)).expect("there");
        data.permissions().mode() & 0o777
    };
    assert_eq!(
        [mode("ca.key"), mode("n1.key"), mode("admin.key")],
        [0o600; 3]
    );
}

/// A machine that has joined listens to its clients.
fn listens(dir: &Path, server: &Machine) {
    until("it listens to clients", || {
        (client(dir, server, true, &["ls"]).code == Some(0)).then_some(())
    });
}

#[test]
fn three_machines_and_their_clients_use_the_certificates() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path();
    make_certificates(dir);
    let first = start(dir, "n1", &[]);
    let others = [
        start(dir, "n2", &[first.peer_port]),
        start(dir, "n3", &[first.peer_port]),
    ];
    until("all have joined", || {
        let list = client(dir, &first, true, &["member", "list"]);
        (list.stdout == "n1\nn2\nn3\n").then_some(())
    });
    others.iter().for_each(|server| listens(dir, server));
    client(dir, &others[0], true, &["set", "/a", "1"]).text();
    assert_eq!(
        client(dir, &others[1], true, &["get", "-q", "/a"]).text(),
        "1\n"
    );
    // The peer port wants a certificate of its own authority.
    let get = ["cluster", "config", "get"];
    client(dir, &first, true, &get).failed(3);
    let file = |name: &str| {
        dir.join("peers")
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_string()
    };
    let peers = [
        "--peer-ca-file",
        &file("ca.pem"),
        "--peer-cert-file",
        &file("n1.pem"),
        "--peer-key-file",
        &file("n1.key"),
    ];
    let config = client(dir, &first, true, &[&get[..], &peers[..]].concat()).text();
    assert!(config.contains("activeSize 9"), "{config}");
    // Without a certificate, and without the authority.
    let refused = client(dir, &first, false, &["get", "/a"]).failed(3);
    assert!(refused.contains("--cert-file"), "{refused}");
    let url = format!("https://127.0.0.1:{}", first.client_port);
    let unknown = ended(ternctl(&["-C", &url, "get", "/a"])).failed(3);
    assert!(unknown.contains("--ca-file"), "{unknown}");

    renew(dir, &first);
    let clients = &dir.join("clients");
    if lacks(Need::Program("curl")) {
        return;
    }
    let curl = Command::new("curl")
        .args([
            "-sSf",
            "--cacert",
            "ca.pem",
            "--cert",
            "admin.pem",
            "--key",
            "admin.key",
        ])
        .arg(format!("{url}/v2/keys/a"))
        .current_dir(clients)
        .output()
        .expect("curl starts");
    let said = String::from_utf8_lossy(&curl.stderr);
    assert!(curl.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&curl.stdout).contains("\"value\":\"1\""));
}

/// Renews the certificates of the clients' authority, and lets a machine read them again.
fn renew(home: &Path, machine: &Machine) {
    let dir = &home.join("clients");
    let pem = |name: &str| fs::read_to_string(dir.join(name)).expect("there");
    let before = ["ca.pem", "n1.pem", "admin.pem"].map(pem);
    assert_eq!(tls(dir, &["renew"]).text(), "nothing to renew\n");
    let word = |list: &str, number: usize| {
        let line = list.lines().find(|line| line.starts_with("n1.pem"));
        let mut words = line.expect("it is listed").split_whitespace();
        words.nth(number).expect("a word").to_string()
    };
    let hosts = |list: &str| word(list, 2);
    let days = |list: &str| word(list, 3).parse::<u32>().expect("a number");
    let list = tls(dir, &["list"]).text();
    assert!(list.contains("authority") && days(&list) >= 364, "{list}");
    let renewed = tls(dir, &["renew", "--within", "4000", "--days", "500"]).text();
    assert_eq!(renewed.lines().count(), 5, "{renewed}");
    let after = ["ca.pem", "n1.pem", "admin.pem"].map(pem);
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before, after);
    }
    let renewed = tls(dir, &["list"]).text();
    assert!(days(&renewed) >= 499, "{renewed}");
    assert_eq!(hosts(&renewed), hosts(&list));
    // A client with the new files, and a machine that has not read its own yet; then with it.
    client(home, machine, true, &["get", "/a"]).text();
    let pid = rustix::process::Pid::from_child(&machine.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it runs");
    let log = home.join("n1.log");
    until("the machine has read them", || {
        let log = fs::read_to_string(&log).expect("there");
        log.contains("again").then_some(())
    });
    client(home, machine, true, &["set", "/a", "1"]).text();
}

#[test]
fn certificates_are_not_replaced_by_accident() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let missing = tls(dir, &["client", "admin"]).failed(1);
    assert!(missing.contains("ternctl tls ca"), "{missing}");
    tls(dir, &["ca", "--name", "mine"]).text();
    tls(dir, &["ca"]).failed(1);
    tls(dir, &["client", "admin"]).text();
    tls(dir, &["client", "admin"]).failed(1);
    tls(dir, &["client", "../admin"]).failed(1);
    tls(dir, &["machine", "n1"]).failed(1);
    tls(dir, &["machine", "n1", "--host", "http://n1"]).failed(1);
    let short = tls(dir, &["client", "short", "--days", "1"]);
    short.text();
    assert_eq!(tls(dir, &["renew"]).text().lines().count(), 1);
    assert_eq!(tls(dir, &["renew"]).text(), "nothing to renew\n");
}

/// A key without its certificate would stop the next try.
#[test]
fn a_key_is_not_left_without_its_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("ca.pem"), "another authority").expect("it is written");
    tls(dir.path(), &["ca"]).failed(1);
    assert!(!path("ca.key").exists());
    fs::remove_file(path("ca.pem")).expect("it is there");
    tls(dir.path(), &["ca"]).text();
    fs::write(path("node1.pem"), "another one").expect("it is written");
    tls(dir.path(), &["machine", "node1"]).failed(1);
    assert!(!path("node1.key").exists());
}
