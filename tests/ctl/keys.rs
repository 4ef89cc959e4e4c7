//! The commands for keys and directories.
use crate::run::{run, run_with_input};
use serde_json::Value;
use tern_support::server::Server;

#[test]
fn keys_are_written_read_listed_and_removed() {
    let server = Server::start(&[]);
    let text = |args: &[&str]| run(&server, args).text();
    assert_eq!(text(&["set", "/a/b", "one"]), "one\n");
    assert_eq!(text(&["get", "/a/b"]), "one\n");
    assert_eq!(text(&["get", "a/b", "--quorum"]), "one\n");
    assert_eq!(text(&["update", "/a/b", "two"]), "two\n");
    assert_eq!(text(&["mk", "/a/c", "-5"]), "-5\n");
    assert_eq!(text(&["mkdir", "/a/d"]), "");
    assert_eq!(text(&["set", "/a/d/e", ""]), "\n");
    assert_eq!(text(&["ls"]), "/a\n");
    assert_eq!(text(&["ls", "/a", "-p"]), "/a/b\n/a/c\n/a/d/\n");
    assert_eq!(text(&["ls", "/a/b"]), "/a/b\n");
    assert_eq!(
        text(&["ls", "-r", "-p"]),
        "/a/\n/a/b\n/a/c\n/a/d/\n/a/d/e\n"
    );
    assert_eq!(text(&["rm", "/a/d/e"]), "");
    assert_eq!(text(&["rmdir", "/a/d"]), "");
    assert_eq!(text(&["rm", "-r", "/a"]), "");
    assert_eq!(text(&["ls", "/"]), "");
}

#[test]
fn any_key_and_any_value_arrive_as_they_are() {
    let server = Server::start(&[]);
    for (key, value) in [
        ("/sp ace/%41/ü?#&=+;", "a=b&c=d;e+f%41\n\t\"ü\""),
        ("/-dash", "--ttl"),
        ("/empty", ""),
    ] {
        run(&server, &["set", "--", key, value]).text();
        let got = run(&server, &["get", "--", key]).text();
        assert_eq!(got, format!("{value}\n"));
    }
    let long = "x".repeat(1 << 20);
    run_with_input(&server, &["set", "/long"], &long).text();
    assert_eq!(run(&server, &["get", "/long"]).text(), format!("{long}\n"));
    run_with_input(&server, &["set", "/stdin", "-"], "two\nlines\n").text();
    let got = run(&server, &["get", "/stdin"]).text();
    assert_eq!(got, "two\nlines\n\n");
}

#[test]
fn a_key_has_no_empty_segments_and_no_dots() {
    let server = Server::start(&[]);
    run(&server, &["set", "//a//b/", "one"]).text();
    assert_eq!(run(&server, &["get", "/a/b"]).text(), "one\n");
    for key in ["/a/../b", "/a/.", "..", "/.."] {
        let refused = run(&server, &["set", key, "two"]).failed(1);
        assert!(refused.contains("cannot be part of a key"), "{refused}");
    }
    assert_eq!(run(&server, &["ls", "-r"]).text(), "/a\n/a/b\n");
    run(&server, &["set", "/a/...", "dots are a name"]).text();
}

#[test]
fn conditions_and_ttls_are_passed_on() {
    let server = Server::start(&[]);
    let json = |args: &[&str]| -> Value {
        let text = run(&server, args).text();
        serde_json::from_str(&text).expect("JSON")
    };
    let made = json(&["-o", "json", "mk", "/a", "1", "--ttl", "1000"]);
    assert_eq!(made["action"], "create");
    assert!(made["node"]["ttl"].as_i64() > Some(900), "{made}");
    let index = made["node"]["modifiedIndex"].as_u64().expect("an index");
    let refused = run(&server, &["set", "/a", "2", "--swap-with-value", "3"]);
    assert!(refused.failed(4).contains("Compare failed"));
    let swapped = json(&[
        "-o",
        "json",
        "set",
        "/a",
        "2",
        "--swap-with-index",
        &index.to_string(),
    ]);
    assert_eq!(swapped["action"], "compareAndSwap");
    assert!(swapped["node"]["ttl"].is_null(), "{swapped}");
    run(&server, &["rm", "/a", "--with-value", "9"]).failed(4);
    run(&server, &["rm", "/a", "--with-value", "2"]).text();
    let first = run(&server, &["mk", "--in-order", "/queue", "x"]).text();
    let second = run(&server, &["mk", "--in-order", "/queue", "y"]).text();
    assert!(
        first.starts_with("/queue/") && second > first,
        "{first}{second}"
    );
    let dir = json(&["-o", "json", "mkdir", "/t", "--ttl", "1000"]);
    assert_eq!(dir["node"]["dir"], true);
    assert!(dir["node"]["ttl"].is_i64(), "{dir}");
}

#[test]
fn tables_have_titles_and_hold_forged_lines_together() {
    let server = Server::start(&[]);
    run(&server, &["set", "/a", "1"]).text();
    run(&server, &["set", "/b", "2\nforged  row"]).text();
    run(&server, &["mkdir", "/dir"]).text();
    let table = run(&server, &["-o", "table", "ls"]).text();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("KEY   VALUE"), "{table}");
    assert!(lines[2].contains("2\\nforged  row"), "{table}");
    assert!(lines[3].contains("(directory)"), "{table}");
    let one = run(&server, &["-o", "table", "get", "/a"]).text();
    assert_eq!(one.lines().count(), 2, "{one}");
}
