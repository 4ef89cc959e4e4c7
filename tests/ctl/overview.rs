//! `cluster status`, `top`, progress bars and `bench`, also on a pseudo terminal.
use crate::run::{at, ended, run, ternctl, url};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use tern_support::client::until;
use tern_support::fleet;
use tern_support::server::Server;

#[test]
fn the_status_tells_health_by_its_exit_code() {
    let mut servers = fleet::cluster(3, &["-cluster-remove-delay=1000"]);
    let leader = fleet::leader_of(&servers);
    let status = ["cluster", "status"];
    let text = until("all are heard", || {
        let ended = run(&servers[(leader + 1) % 3], &status);
        (ended.code == Some(0)).then_some(ended.stdout)
    });
    assert!(text.contains(": healthy, leader"), "{text}");
    for server in &servers {
        assert!(text.contains(&server.name), "{text}");
    }
    let json = run(&servers[0], &["-o", "json", "cluster", "status"]).text();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["cluster"]["members"].as_array().map(Vec::len), Some(3));

    // One is dead: degraded. Two: no leader.
    let dead = servers.remove((leader + 1) % 3);
    let name = dead.name.clone();
    drop(dead);
    let said = until("its silence is noticed", || {
        let ended = run(&servers[0], &status);
        (ended.code == Some(5)).then_some(ended.stderr)
    });
    assert!(said.contains("degraded") && said.contains(&name), "{said}");
    drop(servers.pop());
    let said = until("there is no leader", || {
        let ended = run(&servers[0], &status);
        let text = ended.stderr;
        (ended.code == Some(5) && text.contains("no leader")).then_some(text)
    });
    assert!(said.contains(&servers[0].name), "{said}");
    ended(ternctl(&["-C", "http://127.0.0.1:9", "cluster", "status"])).failed(2);
}

#[test]
fn top_prints_rounds_where_there_is_no_terminal() {
    let servers = fleet::cluster(3, &fleet::QUICK);
    run(&servers[0], &["set", "/a", "1"]).text();
    let text = run(&servers[0], &["top", "-n", "2", "-d", "0.5"]).text();
    assert_eq!(text.matches("NAME ").count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    for server in &servers {
        assert_eq!(
            text.matches(&format!("\n{} ", server.name)).count(),
            2,
            "{text}"
        );
    }
    ended(ternctl(&["-C", "http://127.0.0.1:9", "top"])).failed(2);
}

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    keys: File,
    /// The program's output so far.
    screen: Arc<Mutex<String>>,
}

impl OnTerminal {
    fn start(mut command: Command) -> OnTerminal {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).expect("granted");
        unlockpt(&controller).expect("unlocked");
        let size = Winsize {
            ws_row: 30,
            ws_col: 200,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&controller, size).expect("a size");
        let name = ptsname(&controller, Vec::new()).expect("a name");
        let path = name.to_str().expect("UTF-8").to_string();
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .expect("it is there")
        };
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().expect("it starts");
        drop(command);
        let keys = File::from(controller);
        let screen = Arc::new(Mutex::new(String::new()));
        let mut output = keys.try_clone().expect("a handle");
        let seen = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error once the program has closed its end.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                seen.lock()
                    .expect("no thread panics with it")
                    .push_str(&text);
            }
        });
        OnTerminal {
            child,
            keys,
            screen,
        }
    }

    fn text(&self) -> String {
        self.screen
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    fn wait_for(&self, text: &str) {
        until(&format!("the screen shows {text:?}"), || {
            self.text().contains(text).then_some(())
        });
    }

    fn ended(&mut self) -> Option<i32> {
        let status = until("it has ended", || self.child.try_wait().expect("a child"));
        status.code()
    }
}

#[test]
fn top_draws_on_a_terminal_and_gives_it_back() {
    let server = Server::start(&[]);
    for end in ["q", "\u{3}"] {
        let mut top = OnTerminal::start(at(&server, &["top", "-d", "0.3"]));
        top.wait_for("\u{1b}[?1049h");
        top.wait_for("node1");
        // A second round has rates.
        until("a second round is drawn", || {
            (top.text().matches("REQ/S").count() > 1).then_some(())
        });
        if end == "q" {
            top.keys.write_all(end.as_bytes()).expect("it listens");
        } else {
            // The test's session has no control terminal, which would make a signal of Ctrl-C.
            let pid = rustix::process::Pid::from_child(&top.child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        }
        assert_eq!(top.ended(), Some(0));
        top.wait_for("\u{1b}[?1049l");
        let after = top.text();
        let (_, last) = after.rsplit_once("\u{1b}[?1049l").expect("seen above");
        assert!(last.is_empty() || last.contains("node1"), "{last}");
    }
}

#[test]
fn progress_shows_on_a_terminal_and_nowhere_else() {
    let server = Server::start(&[]);
    let value = "x".repeat(1 << 20);
    for n in 0..10 {
        server.client(
            "PUT",
            &format!("/v2/keys/large{n}"),
            &format!("value={value}"),
        );
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup.json");
    let path = file.to_str().expect("UTF-8");
    let mut backup = OnTerminal::start(at(&server, &["backup", path]));
    assert_eq!(backup.ended(), Some(0));
    backup.wait_for("backup.json");
    assert!(backup.text().contains("MiB"), "{:?}", backup.text());
    let target = Server::start(&[]);
    let mut import = OnTerminal::start(at(&target, &["import", &url(&server)]));
    assert_eq!(import.ended(), Some(0));
    import.wait_for("10 nodes imported");
    assert!(import.text().contains("of 10"), "{:?}", import.text());
    let quiet = run(&server, &["import", path, "--overwrite"]);
    assert_eq!(quiet.stderr, "");
    quiet.text();
}

#[test]
fn a_bench_measures_and_leaves_nothing_behind() {
    let servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    let follower = &servers[(leader + 1) % 3];
    for mode in ["put", "get", "quorum"] {
        let args = ["-o", "json", "bench", "--mode", mode, "-s", "1", "-c", "4"];
        let json = run(follower, &args).text();
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(json["requests"].as_f64() > Some(0.0), "{json}");
        assert!(json["median, ms"].as_f64() > Some(0.0), "{json}");
    }
    let table = run(follower, &["bench", "-s", "1"]).text();
    assert!(table.contains("requests a second"), "{table}");
    assert_eq!(run(&servers[leader], &["ls", "-q"]).text(), "");
}
