//! The documents: each command in `README.md` and `dist/doc` is run as printed, and each quotation
//! of the program must stand in its sources.
//!
//! A block marked `sh` is a script, which must succeed. A block marked `console` has commands, each
//! after `$ `, with its output below; `...` stands for any text, a line of it for any lines. The
//! blocks of a document run in one shell, in an empty directory and a network of its own. A block
//! that begins with ternctl runs only in a build with the feature `ctl`, which has it. Start
//! with [`run`]; `blocks` reads documents, `session` is the shell, `log_lines` compares quotations
//! with the sources, `man` makes the manual pages.
mod blocks;
mod log_lines;
mod man;
mod session;

use blocks::{Block, Kind};
use session::Session;
use std::path::PathBuf;
use tern_support::namespace;
use tern_support::skip::{Need, lacks};

/// Blocks that cannot run in a test: document, first line, reason.
const NOT_RUN: &[(&str, &str, &str)] = &[
    (
        "README.md",
        "cargo build --release --locked",
        "builds and installs on the reader's machine; the gate builds the same",
    ),
    (
        "README.md",
        "cargo test --workspace",
        "this test is a part of it",
    ),
    (
        "dist/doc/packages.md",
        "cargo install cargo-deb --locked",
        "installs on the reader's machine; the gate makes and checks the package",
    ),
    (
        "dist/doc/packages.md",
        "sudoedit /etc/tern/tern.conf",
        "an editor, and a service of the reader's machine",
    ),
    (
        "dist/doc/packages.md",
        "RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --release --locked --target x86_64-unknown-linux-gnu",
        "a build; the gate makes a static binary and starts it",
    ),
    (
        "dist/doc/packages.md",
        "sudo apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        "another processor",
    ),
    (
        "dist/doc/packages.md",
        "sudo apt install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
        "another processor",
    ),
];

/// The documents, with their paths in the repository.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "dist/doc/coming-from.md",
    "dist/doc/differences.md",
    "dist/doc/operations.md",
    "dist/doc/packages.md",
    "dist/doc/reference.md",
    "dist/doc/ternctl.md",
    "dist/doc/tls.md",
    "dist/doc/troubleshooting.md",
];

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn text_of(document: &str) -> String {
    let path = root().join(document);
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{document}: {e}"))
}

fn blocks_of(document: &str) -> Vec<Block> {
    blocks::parse(&text_of(document)).unwrap_or_else(|fault| panic!("{document}: {fault}"))
}

/// The reason why a block is not run.
fn reason_not_to_run(document: &str, block: &Block) -> Option<&'static str> {
    let first = block.lines.first()?;
    if first.starts_with("$ ternctl ") && !cfg!(feature = "ctl") {
        return Some("this build has no ternctl");
    }
    let mut listed = NOT_RUN.iter();
    let found = listed.find(|(of, line, _)| *of == document && line == first);
    found.map(|(_, _, reason)| *reason)
}

/// Runs the commands of a document in order.
fn run(document: &str) {
    for program in ["bash", "curl", "jq", "openssl"] {
        if lacks(Need::Program(program)) {
            return;
        }
    }
    if namespace::enter() {
        run_in(document, Session::start());
    }
}

fn run_in(document: &str, mut session: Session) {
    let mut commands = 0;
    for block in blocks_of(document) {
        if let Some(reason) = reason_not_to_run(document, &block) {
            println!("{document}:{}: not run: {reason}", block.line);
            continue;
        }
        let result = match block.kind {
            Kind::Script => session.run_script(&block.lines),
            Kind::Console => session.run_console(&block.lines),
            Kind::Shown => continue,
        };
        commands += 1;
        if let Err(fault) = result {
            panic!("{document}, block of line {}: {fault}", block.line);
        }
    }
    assert!(commands > 0, "{document} has no command");
}

/// `tests/package/run` names a Debian with the package in `/tmp/tern.deb`; elsewhere there is
/// nothing to install.
#[test]
fn the_way_of_a_new_user_is_the_transcript() {
    let Some(root) = std::env::var_os("TERN_DEBIAN_ROOT") else {
        println!("not run: tests/package/run makes what it needs");
        return;
    };
    if !namespace::enter() {
        return;
    }
    let root = PathBuf::from(root);
    let session = Session::start_in(&root);
    std::fs::copy(root.join("tmp/tern.deb"), session.path("tern.deb")).expect("the package");
    run_in("tests/package/way.md", session);
}

#[test]
fn the_commands_of_the_readme_run_as_printed() {
    run("README.md");
}

#[test]
fn the_commands_of_the_reference_run_as_printed() {
    run("dist/doc/reference.md");
}

#[test]
fn the_commands_of_operations_run_as_printed() {
    run("dist/doc/operations.md");
}

/// Only a build with the feature has ternctl.
#[cfg(feature = "ctl")]
#[test]
fn the_commands_of_ternctl_run_as_printed() {
    run("dist/doc/ternctl.md");
}

#[test]
fn the_commands_of_tls_run_as_printed() {
    run("dist/doc/tls.md");
}

#[test]
fn the_commands_of_coming_from_run_as_printed() {
    run("dist/doc/coming-from.md");
}

/// A document that is in no list would never be checked, nor would a test for it be missed.
#[test]
fn every_document_is_in_the_list() {
    let entries = std::fs::read_dir(root().join("dist/doc")).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut found: Vec<String> = names
        .map(|name| format!("dist/doc/{}", name.to_string_lossy()))
        .collect();
    found.push("README.md".into());
    found.sort();
    assert_eq!(found, DOCUMENTS);
}

#[test]
fn every_reason_not_to_run_has_its_block() {
    for (document, line, _) in NOT_RUN {
        let blocks = blocks_of(document);
        let mut firsts = blocks.iter().filter_map(|block| block.lines.first());
        assert!(firsts.any(|first| first == line), "{document}: {line}");
    }
}

/// `[text](#anchor)`, and names of documents in backquotes, lead somewhere.
#[test]
fn references_between_the_documents_lead_somewhere() {
    let mut bad = Vec::new();
    for document in DOCUMENTS {
        let text = text_of(document);
        let anchors: Vec<String> = blocks::headings(&text).map(blocks::anchor).collect();
        for part in text.split("](#").skip(1) {
            let anchor = part.split(')').next().expect("split gives one");
            if !anchors.iter().any(|known| known == anchor) {
                bad.push(format!("{document}: #{anchor}"));
            }
        }
        for name in text.split('`').skip(1).step_by(2) {
            let is_document = name.ends_with(".md") && !name.contains(' ');
            let beside = format!("dist/doc/{name}");
            let exists = [name, &beside].iter().any(|at| root().join(at).exists());
            if is_document && !exists {
                bad.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
