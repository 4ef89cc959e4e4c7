//! The rules of the house as tests: which ring may name what, how long a file and a function may
//! be, where `unsafe` and clocks stand, how many crates there are. Each rule says in its message
//! what to do instead.
use std::fs;
use std::path::{Path, PathBuf};

const CORE: [&str; 8] = [
    "command", "error", "escape", "machine", "raft", "replica", "store", "timer",
];
const CODECS: [&str; 3] = ["api", "escape", "http"];
/// Longest file, in lines of code, and longest function.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 90;
/// Run-time crates of the root package and of `wal`; a new one needs its reason in `Cargo.toml` and
/// a change here.
const CRATES_MAX: usize = 16;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `raft` for `src/raft.rs` and `src/raft/log.rs`.
    fn module(&self) -> String {
        let mut parts = self
            .path
            .components()
            .skip_while(|c| c.as_os_str() != "src")
            .skip(1);
        let first = parts
            .next()
            .expect("a file below src")
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        first.trim_end_matches(".rs").to_string()
    }

    /// Lines with their numbers, without comments and without the unit tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(i, l)| (i + 1, l));
        lines
            .take_while(|(_, l)| !l.starts_with("#[cfg(test)]"))
            .map(|(i, l)| (i, l.split("//").next().expect("split gives one")))
            .filter(|(_, l)| !l.trim().is_empty())
    }

    fn is_in(&self, modules: &[&str]) -> bool {
        modules.contains(&self.module().as_str())
    }
}

fn sources(top: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(top)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source text");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no sources below {top}");
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `line` names `word`, not merely contains its letters.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (
            line[..at].chars().next_back(),
            line[at + word.len()..].chars().next(),
        );
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn check(what: &str, bad: Vec<String>) {
    assert!(bad.is_empty(), "{what}:\n{}", bad.join("\n"));
}

/// Every place in `files` where one of `words` is named.
fn named<'a>(files: impl Iterator<Item = &'a Source>, words: &[&str]) -> Vec<String> {
    let mut bad = Vec::new();
    for file in files {
        for (number, line) in file.code() {
            for word in words.iter().filter(|w| names(line, w)) {
                bad.push(format!("{}:{number}: {word}", file.path.display()));
            }
        }
    }
    bad
}

#[test]
fn the_core_and_the_codecs_see_no_os() {
    let words = [
        "mio",
        "std::net",
        "std::fs",
        "std::io",
        "Instant",
        "SystemTime",
        "std::env",
        "thread",
        "Mutex",
        "Arc",
        "Rc",
        "RefCell",
        "dyn",
        "async",
        "println",
        "rustix",
    ];
    let all = sources("src");
    let inner = all.iter().filter(|f| f.is_in(&CORE) || f.is_in(&CODECS));
    check(
        "the core and the codecs are pure; leave this to the shell",
        named(inner, &words),
    );
}

#[test]
fn modules_know_only_whom_they_should() {
    let all = sources("src");
    let of = |module: &'static str| all.iter().filter(move |f| f.module() == module);
    check(
        "raft does not know the key space",
        named(
            of("raft"),
            &[
                "crate::store",
                "crate::replica",
                "crate::machine",
                "crate::api",
            ],
        ),
    );
    check(
        "the key space does not know raft",
        named(
            of("store"),
            &[
                "crate::raft",
                "crate::replica",
                "crate::machine",
                "crate::api",
            ],
        ),
    );
    check(
        "the interface does not know raft",
        named(of("api"), &["crate::raft"]),
    );
    let inner = all.iter().filter(|f| f.is_in(&CORE));
    check(
        "the core does not know codecs of clients or the shell",
        named(
            inner,
            &[
                "crate::reactor",
                "crate::disk",
                "crate::config",
                "crate::api",
                "wal",
            ],
        ),
    );
    let others = all.iter().filter(|f| !f.is_in(&["reactor", "main", "lib"]));
    check(
        "nothing names the reactor but main",
        named(others, &["reactor"]),
    );
    let others = all
        .iter()
        .filter(|f| !f.is_in(&["disk", "main", "lib", "reactor"]));
    check(
        "only disk.rs knows the log's crate",
        named(others, &["use wal"]),
    );
}

#[test]
fn clocks_are_read_in_one_place() {
    let mut all = sources("src");
    all.extend(sources("wal/src"));
    let others = all.iter().filter(|f| !f.path.ends_with("src/clock.rs"));
    check(
        "only clock.rs reads clocks",
        named(
            others,
            &[
                "Instant::now",
                "SystemTime::now",
                "elapsed",
                "clock_gettime",
            ],
        ),
    );
}

#[test]
fn unsafe_stands_in_two_files() {
    let root = fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    assert!(root.contains("#![forbid(unsafe_code)]"));
    let all = sources("wal/src");
    let others = all
        .iter()
        .filter(|f| !f.path.ends_with("map.rs") && !f.path.ends_with("os.rs"));
    check(
        "unsafe belongs into wal/src/map.rs or wal/src/os.rs",
        named(others, &["unsafe"]),
    );
    for file in &all {
        let lines: Vec<&str> = file.text.lines().collect();
        for (i, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, l)| names(l, "unsafe") && !l.trim().starts_with("//"))
        {
            let reason = lines[i.saturating_sub(4)..i]
                .iter()
                .any(|l| l.contains("SAFETY"));
            assert!(
                reason,
                "{}:{}: unsafe without a SAFETY reason above it: {line}",
                file.path.display(),
                i + 1
            );
        }
    }
}

#[test]
fn no_hash_map_is_iterated_in_the_core() {
    let all = sources("src");
    let mut bad = Vec::new();
    for file in all.iter().filter(|f| f.is_in(&CORE)) {
        let maps: Vec<&str> = file
            .code()
            .filter_map(|(_, l)| {
                l.split_once(": HashMap<")
                    .or(l.split_once(": HashSet<"))
                    .map(|(name, _)| name)
            })
            .map(|name| {
                name.rsplit(|c| !is_word(c))
                    .next()
                    .expect("split gives one")
            })
            .collect();
        for (number, line) in file.code() {
            for map in &maps {
                let walks = [
                    ".iter",
                    ".keys",
                    ".values",
                    ".drain",
                    ".retain",
                    ".into_iter",
                ];
                let walked = walks.iter().any(|w| line.contains(&format!("{map}{w}")));
                let looped = line.contains(" in ")
                    && [format!("&self.{map} "), format!("&mut self.{map} ")]
                        .iter()
                        .any(|m| line.contains(m));
                if walked || looped {
                    bad.push(format!("{}:{number}: {map}", file.path.display()));
                }
            }
        }
    }
    check(
        "the order of a HashMap differs between processes; use a BTreeMap",
        bad,
    );
}

#[test]
fn files_and_functions_are_short() {
    let mut all = sources("src");
    all.extend(sources("wal/src"));
    let mut bad = Vec::new();
    for file in &all {
        let lines = file.code().count();
        if lines > FILE_LINES_MAX {
            bad.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                file.path.display()
            ));
        }
        let mut start: Option<(usize, usize, String)> = None;
        for (i, line) in file.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if start.is_none()
                && names(line, "fn")
                && !line.trim_start().starts_with("//")
                && !line.trim_end().ends_with(';')
            {
                start = Some((i, indent, line.trim().to_string()));
            }
            if let Some((from, at, name)) = &start
                && indent == *at
                && (line.trim() == "}" || (i == *from && line.trim_end().ends_with('}')))
            {
                if i - from + 1 > FUNCTION_LINES_MAX {
                    bad.push(format!(
                        "{}:{}: {} lines: {name}",
                        file.path.display(),
                        from + 1,
                        i - from + 1
                    ));
                }
                start = None;
            }
        }
    }
    check("cut these up", bad);
}

#[test]
fn each_file_says_what_it_owns() {
    let mut all = sources("src");
    all.extend(sources("wal/src"));
    let bad = all.iter().filter_map(|file| {
        let head = file
            .text
            .lines()
            .take_while(|l| l.starts_with("//!"))
            .count();
        (!(1..=80).contains(&head)).then(|| format!("{}: {head} lines", file.path.display()))
    });
    check(
        "each file opens with a //! comment of at most 80 lines",
        bad.collect(),
    );
}

#[test]
fn run_time_crates_are_counted() {
    let mut crates = std::collections::BTreeSet::new();
    for manifest in ["Cargo.toml", "wal/Cargo.toml"] {
        let text = fs::read_to_string(manifest).expect("a manifest");
        let section = text
            .split("\n[")
            .find(|s| s.starts_with("dependencies]"))
            .expect("it has dependencies");
        for line in section
            .lines()
            .skip(1)
            .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        {
            let name = line.split(['=', '.', ' ']).next().expect("split gives one");
            if name != "wal" {
                crates.insert(name.to_string());
            }
        }
    }
    assert!(
        crates.len() <= CRATES_MAX,
        "{} run-time crates, at most {CRATES_MAX}: {crates:?}",
        crates.len()
    );
}

#[test]
fn the_text_speaks_of_tern_alone() {
    let mut all = sources("src");
    for top in ["wal", "tests", "benches"] {
        all.extend(sources(top));
    }
    let readme = Path::new("README.md");
    all.push(Source {
        path: readme.into(),
        text: fs::read_to_string(readme).expect("the README"),
    });
    let words = [
        concat!("../", "shared"),
        concat!("/wor", "k/"),
        concat!("/roo", "t/"),
    ];
    let bad = all.iter().flat_map(|file| {
        let lines = file.text.lines().enumerate();
        lines
            .filter(|(_, l)| words.iter().any(|w| l.contains(w)))
            .map(|(i, _)| format!("{}:{}", file.path.display(), i + 1))
    });
    check("no paths of one machine", bad.collect());
}
