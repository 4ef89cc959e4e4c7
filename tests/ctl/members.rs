//! `member` and `cluster config`.
use crate::run::{ended, run, ternctl, url};
use serde_json::Value;
use tern_support::client::until;
use tern_support::fleet;

#[test]
fn members_are_listed_admitted_and_removed() {
    let mut servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    let follower = (leader + 1) % 3;
    let names = run(&servers[follower], &["member", "list"]).text();
    assert_eq!(names, "node1\nnode2\nnode3\n");
    let table = run(&servers[follower], &["-o", "table", "member", "list"]).text();
    assert_eq!(table.lines().count(), 4, "{table}");
    let marked = table.lines().find(|line| line.ends_with("yes"));
    assert!(
        marked.expect("a leader").starts_with(&servers[leader].name),
        "{table}"
    );

    let added = ["member", "add", "http://127.0.0.1:9"];
    let said = run(&servers[follower], &added).text();
    assert!(said.contains("-peers"), "{said}");
    let again = run(&servers[follower], &added).failed(4);
    assert!(again.contains("exists"), "{again}");
    let json = run(&servers[leader], &["-o", "json", "member", "list"]).text();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let members = json["members"].as_array().expect("a list");
    let new = members
        .iter()
        .find(|m| m["name"] == "")
        .expect("the new one");
    let id = new["id"].as_str().expect("an id");
    run(&servers[leader], &["member", "remove", id]).text();

    let unknown = run(&servers[leader], &["member", "remove", "node9"]).failed(4);
    assert!(unknown.contains("node1, node2, node3"), "{unknown}");
    // For good: it does not come back.
    let gone = servers.remove(follower);
    run(&servers[0], &["member", "remove", "--for-good", &gone.name]).text();
    gone.wait_for_log("for good");
    until("two are left", || {
        let names = run(&servers[0], &["member", "list"]).text();
        (names.lines().count() == 2).then_some(())
    });
}

#[test]
fn the_cluster_config_is_shown_and_changed() {
    let servers = fleet::cluster(3, &fleet::QUICK);
    let leader = fleet::leader_of(&servers);
    let follower = &servers[(leader + 1) % 3];
    let get = ["cluster", "config", "get"];
    let config = run(follower, &get).text();
    assert_eq!(config, "activeSize 9\nremoveDelay 2\nsyncInterval 1\n");
    let set = [
        "cluster",
        "config",
        "set",
        "--active-size",
        "5",
        "--remove-delay",
        "60",
    ];
    let config = run(follower, &set).text();
    assert_eq!(config, "activeSize 5\nremoveDelay 60\nsyncInterval 1\n");
    let json = run(follower, &["-o", "json", "cluster", "config", "get"]).text();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["activeSize"], 5);
    run(follower, &["cluster", "config", "set"]).failed(1);
    let raised = run(
        follower,
        &["cluster", "config", "set", "--active-size", "1"],
    );
    assert!(raised.stderr.contains("--active-size 1: the least is 3"));
    let config = raised.text();
    assert_eq!(config, "activeSize 3\nremoveDelay 60\nsyncInterval 1\n");
    let table = ["-o", "table", "cluster", "config", "get"];
    let all: Vec<String> = servers.iter().map(url).collect();
    let table = ended(ternctl(&[&["-C", &all.join(",")], &table[..]].concat())).text();
    assert_eq!(table.lines().count(), 4, "{table}");
}
