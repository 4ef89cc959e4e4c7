//! One process that is removed and let in again, many times, with clients of every kind: each is
//! answered, redirected or ended cleanly, and nothing stays behind.
//!
//! `TERN_SWITCHES` sets how often it changes its mode: 10 times without it, 200 for the figure that
//! counts. What it found is one line (`ledger:`).
use std::time::{Duration, Instant};
use tern_support::alone::alone;
use tern_support::client::{Conn, until};
use tern_support::fleet::{cluster, followed, has, leader_of, listed, put, term};
use tern_support::server::Server;

/// Memory may grow by so much after the first switches have made their one-time allocations.
const GROWTH_KIB_MAX: u64 = 512;
const WARM_SWITCHES: usize = 20;

fn descriptors(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.pid());
    std::fs::read_dir(folder).expect("a process").count()
}

/// The same, once it has not changed for a second: all links are open and all that was closed is
/// gone.
fn steady_descriptors(server: &Server) -> usize {
    let (mut last, mut times) = (descriptors(server), 0);
    until("the number of descriptors stays the same", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = descriptors(server);
        times = if now == last { times + 1 } else { 0 };
        last = now;
        (times >= 20).then_some(now)
    })
}

/// Anonymous resident memory.
fn anonymous_kib(server: &Server) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = status
        .lines()
        .find(|l| l.starts_with("RssAnon:"))
        .expect("a figure");
    let number = line.split_whitespace().nth(1).expect("a figure");
    number.parse().expect("a number")
}

/// Removes `node3` and waits until it is back; clients are at it all the time.
fn switch_twice(servers: &[Server], round: usize) {
    let (leads, moves) = (&servers[0], &servers[2]);
    let mut stream = Conn::watch(moves.client_port, "/v2/keys/w?wait=true&stream=true");
    let mut poll = Conn::watch(moves.client_port, "/v2/keys/w?wait=true");
    let mut kept = Conn::open(moves.client_port);
    assert_eq!(kept.ask("GET", "/v2/keys/w", "").status(), 200);
    let mut peer = Conn::open(moves.peer_port);
    assert_eq!(peer.ask("GET", "/name", "").text(), "node3");
    let removed = leads.peer("DELETE", "/v2/admin/machines/node3", "");
    assert_eq!(removed.status(), 200, "{}", removed.text());
    // Watchers end without an event, and may ask again.
    assert!(stream.event().is_none() && poll.event().is_none());
    until("it is a standby", || {
        (peer.ask("GET", "/name", "").status() == 404).then_some(())
    });
    for (method, target, body) in [
        ("GET", "/v2/keys/w", ""),
        ("PUT", "/v2/keys/w", "value=x"),
        ("GET", "/none", ""),
    ] {
        let answer = kept.ask(method, target, body);
        // It may have been let in again meanwhile, or know no leader for a moment.
        assert!(
            matches!(answer.status(), 307 | 200 | 404 | 500),
            "{method} {target}: {}",
            answer.text()
        );
    }
    let link = tern_support::client::request("GET", "/raft", &[("Upgrade", "tern-raft/1")], b"");
    let mut visitor = Conn::open(moves.peer_port);
    visitor.send(&link);
    let status = visitor.answer().status();
    assert!(matches!(status, 404 | 400), "{status}");
    until("it is back", || {
        let answer = peer.ask("GET", "/name", "");
        (answer.status() == 200).then_some(())
    });
    let value = round.to_string();
    put(&servers[..2], "w", &value);
    until("it has what was written meanwhile", || {
        has(moves, "w", &value).then_some(())
    });
    assert_eq!(listed(leads).len(), 3);
}

#[test]
fn a_machine_that_changes_its_mode_many_times() {
    let _alone = alone();
    let wanted = std::env::var("TERN_SWITCHES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    // What the cluster itself holds stays small: log and history would grow with the rounds.
    let servers = cluster(
        3,
        &[
            "-cluster-sync-interval=1",
            "-snapshot-count=20",
            "-watch-history=20",
        ],
    );
    put(&servers, "w", "first");
    assert_eq!(leader_of(&servers), 0);
    until("it follows", || {
        has(&servers[2], "w", "first").then_some(())
    });
    let (first_term, before) = (term(&servers[0]), steady_descriptors(&servers[2]));
    let (mut warm_kib, start, mut switches) = (0, Instant::now(), 0);
    while switches < wanted {
        switch_twice(&servers, switches);
        switches += 2;
        if switches == WARM_SWITCHES.min(wanted / 2 * 2) {
            warm_kib = anonymous_kib(&servers[2]);
        }
    }
    assert_eq!(steady_descriptors(&servers[2]), before);
    let grown_kib = anonymous_kib(&servers[2]).saturating_sub(warm_kib);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "ledger: {switches} switches in {seconds:.0} s, {before} descriptors, {warm_kib} KiB and {grown_kib} KiB more"
    );
    assert!(
        grown_kib <= GROWTH_KIB_MAX,
        "{grown_kib} KiB more than after {WARM_SWITCHES} switches"
    );
    assert_eq!(term(&servers[0]), first_term, "no machine campaigned");
    let answer = followed(servers[2].client_port, "PUT", "/v2/keys/w", "value=last");
    assert_eq!(answer.status(), 200);
}
