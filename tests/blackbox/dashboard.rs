//! The dashboard: the page as it is sent, and as a browser shows it in a healthy cluster, with a dead
//! peer, and without a leader. `tests/dashboard/check.mjs` drives the browser.
use std::process::Command;
use tern_support::alone::alone;
use tern_support::client::{Conn, request, until};
use tern_support::fleet;
use tern_support::server::Server;
use tern_support::skip::{Need, lacks};

#[test]
fn the_page_is_read_without_scripts_and_lets_nothing_in() {
    let server = Server::start(&[]);
    let page = server.client("GET", "/mod/dashboard/", "");
    assert_eq!(page.status(), 200);
    let policy = page.head.header("Content-Security-Policy");
    let policy = policy.expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = page.text();
    for part in [
        ">node1<",
        ">voter<",
        ">leads<",
        "node1 leads 1 machine<",
        "1800 s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("<script>") && !text.contains(" style="),
        "{text}"
    );
    let mut bytes = text.len();
    for (file, media_type) in [("page.css", "text/css"), ("page.js", "text/javascript")] {
        let answer = server.client("GET", &format!("/mod/dashboard/{file}"), "");
        assert_eq!(answer.status(), 200);
        let given = answer.head.header("Content-Type").expect("a type");
        assert!(given.starts_with(media_type), "{given}");
        bytes += answer.body.len();
    }
    assert!(bytes <= 60_000, "{bytes} bytes");
    assert_eq!(
        server.client("GET", "/mod/dashboard/other", "").status(),
        404
    );
    let head = server.client("HEAD", "/mod/dashboard/", "");
    assert_eq!((head.status(), head.body.len()), (200, 0));
}

/// A name that a stranger claims is shown as text.
#[test]
fn a_forged_name_is_shown_as_text() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.peer_at());
    let head = [("X-Tern-Standby", "<script>alert(1)<\\script>")];
    conn.send(&request("GET", "/v2/admin/machines", &head, b""));
    assert_eq!(conn.answer().status(), 200);
    let page = server.client("GET", "/mod/dashboard/", "");
    assert!(
        page.text().contains("&lt;script&gt;alert(1)"),
        "{}",
        page.text()
    );
    assert!(!page.text().contains("<script>alert"));
}

/// Looks at the page of a machine in a browser.
fn look(server: &Server, state: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dashboard/check.mjs");
    let url = format!("http://{}/mod/dashboard/", server.client_at());
    let output = Command::new("node").args([script, &url, state]).output();
    let output = output.expect("node runs");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{state}: {complaints}");
}

#[test]
fn a_browser_shows_the_three_states() {
    if lacks(Need::Program("chromium")) || lacks(Need::Program("node")) {
        return;
    }
    let _alone = alone();
    let mut servers = fleet::cluster(3, &[]);
    look(&servers[0], "healthy");
    servers[2].kill();
    until("the leader misses the dead one", || {
        let page = servers[0].client("GET", "/mod/dashboard/", "");
        page.text().contains("need attention").then_some(())
    });
    look(&servers[0], "dead");
    servers[0].kill();
    until("there is no leader", || {
        let page = servers[1].client("GET", "/mod/dashboard/", "");
        page.text().contains("Not healthy: no leader").then_some(())
    });
    look(&servers[1], "leaderless");
}
