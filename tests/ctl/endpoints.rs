//! The sources of the endpoints and their order, retries and redirects, and every exit code.
use crate::run::{ended, run, ternctl, url};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use tern_support::fleet;
use tern_support::server::{Server, free_port};

/// A URL at which nothing listens.
fn dead_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn with_env(args: &[&str], name: &str, value: &str) -> Command {
    let mut command = ternctl(args);
    command.env(name, value);
    command
}

#[test]
fn endpoints_come_from_flag_variables_and_file_in_this_order() {
    let server = Server::start(&[]);
    let (live, dead) = (url(&server), dead_url());
    run(&server, &["set", "/a", "1"]).text();
    let get = ["get", "/a"];
    ended(ternctl(&["-C", &live, "get", "/a"])).text();
    ended(with_env(&get, "TERNCTL_ENDPOINTS", &live)).text();
    ended(with_env(&get, "ETCDCTL_ENDPOINTS", &live)).text();
    let file = server.home.path().join("ternctl.conf");
    std::fs::write(&file, format!("endpoints = [\"{live}\"]\n")).expect("room");
    let path = file.to_str().expect("UTF-8");
    ended(ternctl(&["--config", path, "get", "/a"])).text();
    // The earlier source wins: the flag, then TERNCTL_ENDPOINTS, ETCDCTL_ENDPOINTS, and the file.
    ended(with_env(
        &["-C", &live, "get", "/a"],
        "TERNCTL_ENDPOINTS",
        &dead,
    ))
    .text();
    let mut both = with_env(&get, "TERNCTL_ENDPOINTS", &live);
    both.env("ETCDCTL_ENDPOINTS", &dead);
    ended(both).text();
    let variable = with_env(&["--config", path, "get", "/a"], "ETCDCTL_ENDPOINTS", &dead);
    ended(variable).failed(2);
    std::fs::write(&file, "endpoint = 5\n").expect("room");
    let wrong = ended(ternctl(&["--config", path, "get", "/a"])).failed(1);
    assert!(
        wrong.contains("ternctl.conf") && wrong.contains("endpoint"),
        "{wrong}"
    );
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let server = Server::start(&[]);
    let live = url(&server);
    run(&server, &["set", "/a", "1"]).text();
    for name in ["CA_FILE", "CERT_FILE", "KEY_FILE", "CONFIG"] {
        let get = ["-C", &live, "get", "/a"];
        ended(with_env(&get, &format!("TERNCTL_{name}"), "")).text();
    }
    let mut next = with_env(&["get", "/a"], "TERNCTL_ENDPOINTS", "");
    next.env("ETCDCTL_ENDPOINTS", &live);
    ended(next).text();
    // The setting of the file stands: it names a certificate that is not there.
    let file = server.home.path().join("ternctl.conf");
    std::fs::write(&file, "ca_file = \"/nowhere/ca.pem\"\n").expect("room");
    let path = file.to_str().expect("UTF-8");
    let https = live.replace("http:", "https:");
    let get = ["--config", path, "-C", &https, "get", "/a"];
    for name in ["TERNCTL_CA_FILE", "ETCDCTL_CA_FILE"] {
        let said = ended(with_env(&get, name, "")).failed(1);
        assert!(said.contains("/nowhere/ca.pem"), "{name}: {said}");
    }
}

#[test]
fn endpoints_are_tried_in_order_and_redirects_followed() {
    let servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    let follower = &servers[(leader + 1) % 3];
    let urls = format!("{},{}", dead_url(), url(follower));
    ended(ternctl(&["-C", &urls, "set", "/a", "1"])).text();
    let got = ended(ternctl(&["-C", &urls, "get", "/a", "--quorum"])).text();
    assert_eq!(got, "1\n");
}

#[test]
fn a_write_waits_for_the_next_leader() {
    let mut servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    servers[leader].kill();
    servers.remove(leader);
    let urls: Vec<String> = servers.iter().map(url).collect();
    let set = ["-C", &urls.join(","), "--timeout", "60", "set", "/a", "1"];
    ended(ternctl(&set)).text();
}

/// The entry of a write was replaced by one of the next leader: it has not happened.
#[test]
fn a_write_that_was_not_committed_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let answers = [
        (
            500,
            r#"{"errorCode":300,"message":"Raft Internal Error","cause":"not committed"}"#,
        ),
        (
            201,
            r#"{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":3,"createdIndex":3}}"#,
        ),
    ];
    let serving = std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().expect("ternctl connects");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).expect("a request");
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream
                .write_all((head + body).as_bytes())
                .expect("ternctl reads");
        }
    });
    let set = ["-C", &url, "--timeout", "60", "set", "/a", "1"];
    assert_eq!(ended(ternctl(&set)).text(), "1\n");
    serving.join().expect("both requests came");
}

#[test]
fn each_exit_code_has_its_cause() {
    let server = Server::start(&[]);
    run(&server, &["set", "/a/b", "1"]).text();
    // 1: arguments.
    ended(ternctl(&["frobnicate"])).failed(1);
    ended(ternctl(&["get"])).failed(1);
    ended(ternctl(&["-C", "ftp://n1:1", "get", "/a"])).failed(1);
    ended(ternctl(&["--cert-file", "x", "get", "/a"])).failed(1);
    // 2: nothing listens.
    let (first, second) = (dead_url(), dead_url());
    let text = ended(ternctl(&["-C", &format!("{first},{second}"), "get", "/a"])).failed(2);
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    assert!(text.contains("--endpoints"), "{text}");
    // 3: no TLS there.
    let https = url(&server).replace("http:", "https:");
    let no_tls = ended(ternctl(&["-C", &https, "get", "/a"])).failed(3);
    assert!(no_tls.contains("speaks no TLS"), "{no_tls}");
    // 4: refused.
    let peer_port = format!("http://{}", server.peer_at());
    let not_there = ended(ternctl(&["-C", &peer_port, "get", "/a"])).failed(4);
    assert!(not_there.contains("the client port"), "{not_there}");
    assert!(run(&server, &["get", "/none"]).failed(4).contains("/none"));
    assert!(
        run(&server, &["get", "/a"])
            .failed(4)
            .contains("ternctl ls /a")
    );
    assert!(
        run(&server, &["mk", "/a/b", "2"])
            .failed(4)
            .contains("set replaces")
    );
    assert!(
        run(&server, &["rmdir", "/a"])
            .failed(4)
            .contains("rm --recursive")
    );
    run(&server, &["watch", "/a", "--after-index", "x"]).failed(1);
    // 0: help and version.
    assert!(ended(ternctl(&["--help"])).text().contains("Exit codes:"));
    assert!(
        ended(ternctl(&["--version"]))
            .text()
            .starts_with("ternctl ")
    );
}

#[test]
fn without_a_majority_a_write_is_unavailable() {
    let mut servers = fleet::cluster(3, &fleet::QUICK);
    servers[1].kill();
    servers[2].kill();
    let set = ["--timeout", "2", "set", "/a", "1"];
    let ended = run(&servers[0], &set);
    assert!([Some(5), Some(6)].contains(&ended.code), "{ended:?}");
    let again = run(&servers[0], &set).failed(5);
    assert!(again.contains("cluster status"), "{again}");
}

#[test]
fn a_write_without_an_answer_has_an_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let swallow = std::thread::spawn(move || {
        // Takes the request of each of the two commands, and hangs up.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = [0; 1024];
            let count = std::io::Read::read(&mut stream, &mut bytes).expect("a request");
            assert!(count > 0);
        }
    });
    let server = Server::start(&[]);
    run(&server, &["set", "/a", "1"]).text();
    let urls = format!("http://{address},{}", url(&server));
    // A read is asked of the next one.
    ended(ternctl(&["-C", &urls, "get", "/a"])).text();
    let text = ended(ternctl(&["-C", &urls, "set", "/a", "2"])).failed(6);
    assert!(text.contains("may have been carried out"), "{text}");
    assert_eq!(run(&server, &["get", "/a"]).text(), "1\n");
    swallow.join().expect("two clients came");
}

#[test]
fn completion_and_manual_pages_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ended(ternctl(&["completion", shell])).text();
        assert!(script.contains("exec-watch"), "{shell}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    ended(ternctl(&["man", path])).text();
    let page = std::fs::read_to_string(dir.path().join("ternctl.1")).expect("a page");
    assert!(
        page.contains("Exit codes") && page.contains("exec\\-watch"),
        "{page}"
    );
    assert!(dir.path().join("ternctl-set.1").exists());
}
