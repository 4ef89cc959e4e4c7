//! `dist/doc/troubleshooting.md` quotes log lines. Each quotation stands in the sources, and each
//! warning and error of the sources is quoted.
use crate::{blocks, root, text_of};
use std::path::Path;

const DOCUMENT: &str = "dist/doc/troubleshooting.md";
/// Shorter pieces of a line say nothing about which line it is.
const PIECE_CHARS_MIN: usize = 10;
/// Lines that pass on a text that is quoted elsewhere, by their literals.
const PASSED_ON: &[&str] = &["{warning}", "{text}", "{e}"];

/// All program text below a folder, without unit tests.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let file = std::fs::read_to_string(&path).expect("source text");
            let code = file
                .split("\n#[cfg(test)]")
                .next()
                .expect("split gives one");
            text.push_str(code);
        }
    }
}

/// The text of the program, with literals that go on in the next line made whole.
fn program() -> String {
    let mut text = String::new();
    for folder in ["src", "wal/src"] {
        sources(&root().join(folder), &mut text);
    }
    let mut whole = String::with_capacity(text.len());
    let mut parts = text.split("\\\n");
    whole.push_str(parts.next().expect("split gives one"));
    for part in parts {
        whole.push_str(part.trim_start());
    }
    // A quotation mark within a literal.
    whole.replace("\\\"", "'")
}

/// The pieces of a text between its variable parts that tell it from others.
fn pieces(text: &str) -> Vec<&str> {
    let parts = text.split(['…', '{', '}']);
    let parts = parts.map(|part| part.trim_matches([' ', '.', ':', ',']));
    parts.filter(|part| part.len() >= PIECE_CHARS_MIN).collect()
}

/// The quoted lines: the headings in backquotes.
fn quoted(document: &str) -> Vec<&str> {
    let quotations = blocks::headings(document).filter_map(|heading| heading.strip_prefix('`'));
    quotations
        .map(|heading| heading.strip_suffix('`').expect("a whole quotation"))
        .collect()
}

#[test]
fn every_quoted_log_line_stands_in_the_sources() {
    let program = program();
    let document = text_of(DOCUMENT);
    let quoted = quoted(&document);
    assert!(quoted.len() > 40, "only {} lines are quoted", quoted.len());
    let mut bad = Vec::new();
    for line in quoted {
        let line = line.replace('"', "'");
        let pieces = pieces(&line);
        if pieces.is_empty() {
            bad.push(format!("{line}: too short"));
        }
        let missing = pieces.iter().filter(|piece| !program.contains(**piece));
        bad.extend(missing.map(|piece| format!("{line}: {piece}")));
    }
    assert!(bad.is_empty(), "not in the sources:\n{}", bad.join("\n"));
}

/// The literals of the log lines of level WARN and ERROR.
fn warnings(program: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for macro_name in ["log::warn!(", "log::error!("] {
        for part in program.split(macro_name).skip(1) {
            let part = part.trim_start();
            let literal = part
                .strip_prefix('"')
                .expect("a log line begins with a text");
            found.push(literal.split('"').next().expect("split gives one"));
        }
    }
    found
}

#[test]
fn every_warning_is_explained() {
    let program = program();
    let document = text_of(DOCUMENT);
    let warnings = warnings(&program);
    assert!(warnings.len() > 30, "only {} warnings", warnings.len());
    let mut bad = Vec::new();
    for warning in warnings {
        let is_explained = pieces(warning).iter().any(|piece| {
            let start = piece.chars().take(30).collect::<String>();
            document.contains(start.trim())
        });
        if !is_explained && !PASSED_ON.contains(&warning) {
            bad.push(warning);
        }
    }
    assert!(bad.is_empty(), "not in {DOCUMENT}:\n{}", bad.join("\n"));
}
