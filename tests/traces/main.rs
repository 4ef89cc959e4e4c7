//! Runs the traces: `AREA/*.txt`, one command a line, its outcome beneath, indented.
//!
//! `UPDATE=1` rewrites the outcomes, `ONLY=text` runs the files that have it in their names. Each
//! area has its own interpreter, `AREA.rs`, whose `run` returns the script with the present
//! outcomes.
use std::fs;
use std::path::{Path, PathBuf};

mod http;
mod http_mutations;
mod raft;
mod store;
mod timer;

#[test]
fn http_traces() {
    check("http", http::run);
}

#[test]
fn raft_traces() {
    check("raft", raft::run);
}

#[test]
fn store_traces() {
    check("store", store::run);
}

#[test]
fn timer_traces() {
    check("timer", timer::run);
}

/// Runs every script of an area; fails with the first line that differs in each.
fn check(area: &str, run: fn(&str) -> String) {
    let only = std::env::var("ONLY").unwrap_or_default();
    let update = std::env::var_os("UPDATE").is_some();
    let mut differences = Vec::new();
    for path in scripts(area) {
        if !path.to_string_lossy().contains(&only) {
            continue;
        }
        println!("{}", path.display());
        let script = fs::read_to_string(&path).expect("a script is text");
        let told = run(&script);
        if told == script {
            continue;
        }
        if update {
            fs::write(&path, &told).expect("the script can be written");
        } else {
            differences.push(difference(&path, &script, &told));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn scripts(area: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/traces")
        .join(area);
    let entries = fs::read_dir(&folder).expect("the area has scripts");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "{}: no scripts", folder.display());
    paths
}

/// The first line that differs, with the command it belongs to.
fn difference(path: &Path, script: &str, told: &str) -> String {
    let (mut expected, mut found) = (script.lines(), told.lines());
    let mut command = "";
    for number in 1.. {
        let (was, is) = (expected.next(), found.next());
        if was != is {
            let show = |line: Option<&str>| line.unwrap_or("(the end)").trim().to_string();
            let place = format!("{}:{number}: {command}", path.display());
            return format!("{place}\n  expected {}\n  found    {}", show(was), show(is));
        }
        let Some(line) = was else {
            break;
        };
        if !line.starts_with(' ') {
            command = line;
        }
    }
    format!("{}: differs in its line ends", path.display())
}
