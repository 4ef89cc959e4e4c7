//! The key space: depth, size, refresh, conditions.
use tern_support::client::{Conn, form, request, until};
use tern_support::server::Server;

fn nested(levels: usize) -> String {
    format!("/v2/keys{}", "/d".repeat(levels))
}

/// Paths as deep as they may be, on a stack of 128 KiB: nothing recurses over them.
#[test]
fn a_thousand_levels() {
    let mut server = Server::prepare(&[]);
    server.before = Some("ulimit -s 128".into());
    server.run();
    let mut conn = Conn::open(server.client_port);
    let deepest = nested(1_024);
    assert_eq!(conn.ask("PUT", &deepest, "value=deep").status(), 201);
    assert_eq!(conn.ask("PUT", &nested(1_025), "value=deep").status(), 414);
    assert!(
        conn.ask("GET", &deepest, "")
            .text()
            .contains("\"value\":\"deep\"")
    );
    let listed = conn.ask("GET", "/v2/keys/d?recursive=true&sorted=true", "");
    assert_eq!(listed.status(), 200);
    assert_eq!(listed.text().matches("\"key\":").count(), 1_024);
    let open = listed.text().matches("\"nodes\":[").count();
    assert_eq!(open, 1_023);
    assert_eq!(listed.text().matches(']').count(), open);
    let mut watch = Conn::watch(server.client_port, &format!("{deepest}?wait=true"));
    let deleted = conn.ask("DELETE", "/v2/keys/d?recursive=true", "");
    assert_eq!(deleted.status(), 200);
    let event = watch.event().expect("a watcher below gets the event");
    assert_eq!(event["action"], "delete");
    assert_eq!(event["node"]["key"], "/d");
    assert_eq!(conn.ask("GET", "/v2/keys/d", "").status(), 404);
    assert_eq!(conn.ask("GET", "/v2/migration/snapshot", "").status(), 200);
}

/// A big directory is listed in pages while other requests are answered, and deleted in slices.
#[test]
fn a_directory_of_many_nodes() {
    const NODES: usize = 6_000;
    const WRITERS: usize = 30;
    let server = Server::start(&[]);
    // One request a connection is in flight: many connections share a sync.
    let mut writers: Vec<Conn> = (0..WRITERS)
        .map(|_| Conn::open(server.client_port))
        .collect();
    for (writer, conn) in writers.iter_mut().enumerate() {
        let mut batch = Vec::new();
        for number in (writer..NODES).step_by(WRITERS) {
            batch.extend(form("PUT", &format!("/v2/keys/big/{number:05}"), "value=v"));
        }
        conn.send(&batch);
    }
    for conn in &mut writers {
        for _ in 0..NODES / WRITERS {
            assert_eq!(conn.answer().status(), 201);
        }
    }
    let mut conn = Conn::open(server.client_port);
    let listed = conn.ask("GET", "/v2/keys/big?sorted=true", "").json();
    let nodes = listed["node"]["nodes"].as_array().expect("children");
    assert_eq!(nodes.len(), NODES);
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(node["key"], format!("/big/{number:05}"));
    }
    // Written to while it is being read: the listing shows the moment at which it began.
    let mut reader = Conn::open(server.client_port);
    reader.send(&request("GET", "/v2/keys/big?sorted=true", &[], b""));
    let head = reader.head().expect("a head");
    assert_eq!(
        conn.ask("PUT", "/v2/keys/big/99999", "value=late").status(),
        201
    );
    assert_eq!(conn.ask("DELETE", "/v2/keys/big/05999", "").status(), 200);
    let body = reader.body(&head, false).expect("it is whole");
    let listed: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let nodes = listed["node"]["nodes"].as_array().expect("children");
    assert_eq!(nodes.len(), NODES);
    assert_eq!(nodes[NODES - 1]["key"], "/big/05999");
    assert_eq!(
        conn.ask("DELETE", "/v2/keys/big?recursive=true", "")
            .status(),
        200
    );
    assert_eq!(conn.ask("GET", "/v2/keys/big", "").status(), 404);
    assert_eq!(
        conn.ask("PUT", "/v2/keys/big/again", "value=v").status(),
        201
    );
}

/// What is too long is refused, and nothing of it is stored.
#[test]
fn beyond_the_limits() {
    let server = Server::start(&[]);
    let ask = |bytes: &[u8]| {
        let mut conn = Conn::open(server.client_port);
        conn.send(bytes);
        conn.answer()
    };
    let index = || server.client("HEAD", "/v2/keys/", "").head.etcd_index();
    let before = index();
    let long_key = format!("/v2/keys/{}", "k".repeat(8 * 1024));
    assert_eq!(ask(&form("PUT", &long_key, "value=v")).status(), 414);
    let long_head = [("X-Long", "h".repeat(16 * 1024))];
    let long_head = [(long_head[0].0, long_head[0].1.as_str())];
    assert_eq!(
        ask(&request("GET", "/v2/keys/k", &long_head, b"")).status(),
        431
    );
    let many: Vec<(&str, &str)> = (0..101).map(|_| ("X-Many", "h")).collect();
    assert_eq!(ask(&request("GET", "/v2/keys/k", &many, b"")).status(), 431);
    let long_body = format!("value={}", "v".repeat(2 * 1024 * 1024));
    let mut head = form("PUT", "/v2/keys/k", &long_body);
    head.truncate(head.len() - long_body.len());
    assert_eq!(ask(&head).status(), 413);
    assert_eq!(index(), before);
    let largest = format!("value={}", "v".repeat(2 * 1024 * 1024 - 6));
    assert_eq!(ask(&form("PUT", "/v2/keys/k", &largest)).status(), 201);
    let longest_key = format!("/v2/keys/{}", "k".repeat(8 * 1024 - 1));
    assert_eq!(ask(&form("PUT", &longest_key, "value=v")).status(), 201);
    let stored = server.client("GET", "/v2/keys/k", "").json();
    let value = stored["node"]["value"].as_str().expect("a value");
    assert_eq!(value.len(), 2 * 1024 * 1024 - 6);
}

/// An event of the history has the ttl that its change gave, however long ago that was.
#[test]
fn the_ttl_of_an_event_stands_still() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    let made = conn.ask("PUT", "/v2/keys/lease", "value=v&ttl=1000").json();
    let index = &made["node"]["modifiedIndex"];
    until("a second of the ttl has passed", || {
        let node = conn.ask("GET", "/v2/keys/lease", "").json();
        (node["node"]["ttl"].as_i64() < Some(1_000)).then_some(())
    });
    let target = format!("/v2/keys/lease?wait=true&waitIndex={index}");
    assert_eq!(conn.ask("GET", &target, "").json(), made);
    // The event of a ttl that was over at once has it as it was given.
    let over = conn.ask("PUT", "/v2/keys/over", "value=v&ttl=-1").json();
    let index = &over["node"]["modifiedIndex"];
    let target = format!("/v2/keys/over?wait=true&waitIndex={index}");
    assert_eq!(conn.ask("GET", &target, "").json(), over);
    assert_eq!(over["node"]["ttl"], -1);
}

/// `refresh` renews the ttl, keeps the value and wakes no watcher.
#[test]
fn refresh() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.client_port);
    conn.ask("PUT", "/v2/keys/r", "value=kept&ttl=1000");
    let mut watch = Conn::watch(server.client_port, "/v2/keys/r?wait=true&stream=true");
    let refreshed = conn.ask("PUT", "/v2/keys/r", "refresh=true&prevExist=true&ttl=2000");
    assert_eq!(refreshed.status(), 200);
    let node = &refreshed.json()["node"];
    assert_eq!(node["value"], "kept");
    assert!(node["ttl"].as_i64().expect("a ttl") > 1_000);
    assert!(watch.is_quiet());
    let by_value = "refresh=true&prevExist=true&ttl=3000&prevValue=";
    assert_eq!(
        conn.ask("PUT", "/v2/keys/r", &format!("{by_value}other"))
            .status(),
        412
    );
    assert_eq!(
        conn.ask("PUT", "/v2/keys/r", &format!("{by_value}kept"))
            .status(),
        200
    );
    let stored = conn.ask("GET", "/v2/keys/r", "").json();
    assert_eq!(stored["node"]["value"], "kept");
    assert!(stored["node"]["ttl"].as_i64().expect("a ttl") > 2_000);
    conn.ask("PUT", "/v2/keys/r", "value=new");
    let event = watch.event().expect("the set");
    assert_eq!(event["action"], "set", "the refreshes woke no watcher");
    let error = |body: &str| server.client("PUT", "/v2/keys/r", body).json()["errorCode"].clone();
    assert_eq!(error("refresh=true&prevExist=true&ttl=5&value=x"), 211);
    assert_eq!(error("refresh=true&prevExist=true"), 212);
    assert_eq!(
        server
            .client("PUT", "/v2/keys/none", "refresh=true&prevExist=true&ttl=5")
            .status(),
        404
    );
}

/// `prevIndex=0` is no condition.
#[test]
fn previous_index_zero() {
    let server = Server::start(&[]);
    let created = server.client("PUT", "/v2/keys/z", "value=one&prevIndex=0");
    assert_eq!(created.status(), 201);
    assert_eq!(created.json()["action"], "set");
    let swapped = server.client("PUT", "/v2/keys/z", "value=two&prevIndex=0");
    assert_eq!(swapped.status(), 200);
    assert_eq!(swapped.json()["action"], "compareAndSwap");
    let missing = server.client("PUT", "/v2/keys/y", "value=one&prevIndex=0&prevExist=true");
    assert_eq!(missing.status(), 404);
    let missing = server.client("PUT", "/v2/keys/y", "value=one&prevIndex=0&prevValue=x");
    assert_eq!(missing.status(), 404);
}

/// The 2.x flavour: names of 20 digits, `/version` as JSON, each event of a stream on a line of its
/// own.
#[test]
fn compat_2() {
    let server = Server::start(&["-compat", "2"]);
    let created = server.client("POST", "/v2/keys/q", "value=v").json();
    let key = created["node"]["key"].as_str().expect("a key");
    let index = created["node"]["createdIndex"].as_u64().expect("an index");
    assert_eq!(key, format!("/q/{index:020}"));
    assert!(server.client("GET", "/version", "").json()["etcdserver"].is_string());
    let mut watch = Conn::watch(
        server.client_port,
        "/v2/keys/q?wait=true&stream=true&recursive=true",
    );
    server.client("POST", "/v2/keys/q", "value=w");
    let event = String::from_utf8(watch.chunk().expect("an event")).expect("text");
    assert!(
        event.ends_with("}\n") && event.lines().count() == 1,
        "a line of its own: {event:?}"
    );
}

/// An expired node is gone for every reader, and its expiry is an event like others.
#[test]
fn expiry() {
    let server = Server::start(&[]);
    let mut watch = Conn::watch(
        server.client_port,
        "/v2/keys/?wait=true&recursive=true&stream=true",
    );
    for number in 0..100 {
        server.client("PUT", &format!("/v2/keys/e/{number:03}"), "value=v&ttl=1");
    }
    // The first keys may expire before the last ones are set.
    let events: Vec<_> = (0..200).map(|_| watch.event().expect("an event")).collect();
    for action in ["set", "expire"] {
        let mut own = events.iter().filter(|event| event["action"] == action);
        for number in 0..100 {
            let event = own.next().expect("one for each key");
            let key = format!("/e/{number:03}");
            assert_eq!(event["node"]["key"], key, "in order of expiration");
            if action == "expire" {
                assert_eq!(event["prevNode"]["value"], "v");
            }
        }
    }
    let listed = server.client("GET", "/v2/keys/e", "").json();
    assert!(listed["node"]["nodes"].is_null());
    let stats = until("all is counted", || {
        let stats = server.client("GET", "/v2/stats/store", "").json();
        (stats["expireCount"] == 100).then_some(stats)
    });
    assert_eq!(stats["watchers"], 1);
}

/// `dir=true` does not turn an update of a file into one of a directory, nor the reverse.
#[test]
fn an_update_with_dir() {
    let server = Server::start(&[]);
    let put = |key: &str, form: &str| server.client("PUT", &format!("/v2/keys/{key}"), form);
    put("file", "value=one");
    put("folder", "dir=true");
    let updated = put("file", "dir=true&prevExist=true&value=two");
    assert_eq!(updated.status(), 200);
    assert_eq!(updated.json()["action"], "update");
    assert_eq!(updated.json()["node"]["value"], "two");
    let refused = put("folder", "dir=true&prevExist=true&value=two");
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.json()["errorCode"], 102);
    let renewed = put("folder", "dir=true&prevExist=true&ttl=100&value=");
    assert_eq!(renewed.status(), 200);
    let node = &renewed.json()["node"];
    assert_eq!(node["dir"], true);
    assert_eq!(node["ttl"], 100);
}
