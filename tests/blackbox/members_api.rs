//! `/v2/members` and `/health`: machines that are added before they start, moved and removed by
//! their public ids, on one machine and through a follower.
use serde_json::{Value, json};
use tern_support::client::{Conn, request, until};
use tern_support::fleet::{cluster, leader_of};
use tern_support::server::{Server, free_port};

fn members(server: &Server) -> Vec<Value> {
    let answer = server.client("GET", "/v2/members", "");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let members = answer.json()["members"].as_array().expect("a list").clone();
    assert!(answer.head.header("X-Etcd-Cluster-Id").is_some());
    members
}

fn member_of(server: &Server, peer_url: &str) -> Option<Value> {
    let all = members(server);
    all.into_iter().find(|m| m["peerURLs"][0] == peer_url)
}

/// A change of members; the answer's status and body.
fn change(server: &Server, method: &str, target: &str, peer_url: &str) -> (u16, Value) {
    let body = json!({"peerURLs": [peer_url]}).to_string();
    let headers = [("Content-Type", "application/json")];
    let mut conn = Conn::open(server.client_at());
    conn.send(&request(method, target, &headers, body.as_bytes()));
    let answer = conn.answer();
    let body = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status(), body)
}

fn delete(server: &Server, id: &Value) -> u16 {
    let target = format!("/v2/members/{}", id.as_str().expect("an id"));
    server.client("DELETE", &target, "").status()
}

/// The id that the administrator was told stays the machine's id.
#[test]
fn a_machine_is_added_before_it_starts() {
    let first = Server::start(&[]);
    let before = members(&first);
    assert_eq!(before.len(), 1);
    let at = format!("127.0.0.1:{}", first.peer_port);
    let mut second = Server::prepare_as("node2", &["-peers", &at]);
    let url = format!("http://127.0.0.1:{}", second.peer_port);
    let (status, added) = change(&first, "POST", "/v2/members", &url);
    assert_eq!(status, 201, "{added}");
    let waiting = json!({"id": added["id"], "name": "", "peerURLs": [url], "clientURLs": []});
    assert_eq!(added, waiting);
    assert_eq!(member_of(&first, &url), Some(waiting));
    let (status, again) = change(&first, "POST", "/v2/members", &url);
    assert_eq!(status, 409, "{again}");
    // A member that has not started takes away no majority, and clients are not sent to it.
    assert_eq!(first.client("PUT", "/v2/keys/a", "value=1").status(), 201);
    let machines = first.client("GET", "/v2/machines", "");
    assert_eq!(
        machines.text(),
        format!("http://127.0.0.1:{}", first.client_port)
    );
    second.run();
    let started = until("the second has its name", || {
        let member = member_of(&first, &url)?;
        (member["name"] == "node2").then_some(member)
    });
    assert_eq!(started["id"], added["id"]);
    assert_eq!(members(&first).len(), 2);
    until("the second knows itself by that id", || {
        (member_of(&second, &url)?["id"] == added["id"]).then_some(())
    });
    until("the second votes and may go again", || {
        (delete(&first, &added["id"]) == 204).then_some(())
    });
    assert_eq!(delete(&first, &added["id"]), 410);
    assert_eq!(members(&first), before);
}

#[test]
fn a_machine_that_never_starts_is_moved_and_removed() {
    let server = Server::start(&[]);
    let [one, two] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
    let (_, added) = change(&server, "POST", "/v2/members", &one);
    let target = format!("/v2/members/{}", added["id"].as_str().expect("an id"));
    let own = format!("http://127.0.0.1:{}", server.peer_port);
    assert_eq!(change(&server, "PUT", &target, &own).0, 409);
    assert_eq!(change(&server, "PUT", &target, &two).0, 204);
    assert_eq!(member_of(&server, &two).expect("moved")["id"], added["id"]);
    assert_eq!(member_of(&server, &one), None);
    assert_eq!(delete(&server, &added["id"]), 204);
    assert_eq!(change(&server, "PUT", &target, &one).0, 410);
    assert_eq!(
        change(&server, "PUT", "/v2/members/1234567890abcdef", &one).0,
        404
    );
}

/// Host and port stand for the name of a machine that has not started, and a name is shorter than a
/// host may be.
#[test]
fn writes_go_on_after_a_machine_with_a_long_host_was_added() {
    let servers = cluster(2, &[]);
    let leader = &servers[leader_of(&servers)];
    let url = format!("http://{}:7001", "h".repeat(130));
    let (status, added) = change(leader, "POST", "/v2/members", &url);
    assert_eq!(status, 201, "{added}");
    assert_eq!(leader.client("PUT", "/v2/keys/a", "value=1").status(), 201);
    let bad = "http://h%:7001";
    let (status, refused) = change(leader, "POST", "/v2/members", bad);
    assert_eq!(status, 400, "{refused}");
    assert_eq!(leader.client("PUT", "/v2/keys/a", "value=2").status(), 200);
}

/// With `-forward` a follower passes changes of members on to the leader.
#[test]
fn members_are_changed_through_a_follower() {
    let servers = cluster(3, &["-forward"]);
    let leader = leader_of(&servers);
    let follower = &servers[(leader + 1) % 3];
    let url = format!("http://127.0.0.1:{}", free_port());
    let (status, added) = change(follower, "POST", "/v2/members", &url);
    assert_eq!(status, 201, "{added}");
    assert!(member_of(&servers[leader], &url).is_some());
    let lead = follower.client("GET", "/v2/members/leader", "");
    assert_eq!(lead.json()["name"], servers[leader].name);
    assert_eq!(delete(follower, &added["id"]), 204);
    assert_eq!(member_of(&servers[leader], &url), None);
}

#[test]
fn health_follows_the_majority() {
    let mut servers = cluster(3, &[]);
    let health = |server: &Server| server.client("GET", "/health", "");
    for server in &servers {
        until("all are well", || {
            (health(server).status() == 200).then_some(())
        });
        assert_eq!(health(server).text(), r#"{"health":"true"}"#);
    }
    let last = servers.pop().expect("three");
    drop(servers);
    let ill = until("alone it is not", || {
        let answer = health(&last);
        (answer.status() == 503).then_some(answer)
    });
    assert_eq!(ill.json()["health"], "false");
    assert!(ill.json()["reason"].is_string());
}
