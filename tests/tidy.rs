//! The rules of the house as tests: which ring may import what, that no files import each other in
//! a circle, how long a file and a function may be, where `unsafe` and clocks stand, how many crates
//! there are. Each rule says in its message what to do instead, and fails when it selects no file.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use tern_support::mutations;

/// Longest file, in lines of code, and longest function.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Longest opening comment.
const OPENING_LINES_MAX: usize = 80;
/// Run-time crates of the root package and of `wal`, without optional ones; a new one needs its
/// reason in `Cargo.toml` and a change here.
const CRATES_MAX: usize = 17;
/// Names that may stand for two types; each more is one that a reader has to tell apart.
const SHARED_NAMES_MAX: usize = 10;

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, without comments and without the unit tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(i, l)| (i + 1, l));
        lines
            .take_while(|(_, l)| !l.starts_with("#[cfg(test)]"))
            .map(|(i, l)| (i, l.split("//").next().expect("split gives one")))
            .filter(|(_, l)| !l.trim().is_empty())
    }

    fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(folder) || self.path == format!("{}.rs", folder.trim_end_matches('/'))
    }

    /// The path of its module: `core::raft::log` for `src/core/raft/log.rs`.
    fn module(&self) -> String {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        path.trim_end_matches(".rs").replace('/', "::")
    }
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// All sources below the folders `tops`.
fn sources(tops: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = tops.iter().map(|top| root().join(top)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source text");
                let path = path.strip_prefix(root()).expect("below the root");
                let path = path.to_str().expect("an ASCII name").to_string();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The files among `all` that `wanted` picks; fails when there are none, since a rule that checks
/// nothing passes for ever.
fn pick(all: &[Source], wanted: impl Fn(&Source) -> bool) -> Vec<&Source> {
    let picked: Vec<&Source> = all.iter().filter(|f| wanted(f)).collect();
    assert!(!picked.is_empty(), "the rule selects no file");
    picked
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `line` names `word`, not merely contains its letters.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn check(what: &str, bad: Vec<String>) {
    assert!(bad.is_empty(), "{what}:\n{}", bad.join("\n"));
}

/// Every place in `files` where one of `words` is named.
fn named(files: &[&Source], words: &[&str]) -> Vec<String> {
    let mut bad = Vec::new();
    for file in files {
        for (number, line) in file.code() {
            for word in words.iter().filter(|w| names(line, w)) {
                bad.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    bad
}

#[test]
fn each_ring_imports_only_the_rings_inside_it() {
    let all = sources(&["src"]);
    let rules: [(&str, &[&str]); 3] = [
        (
            "src/core/",
            &[
                "crate::codec",
                "crate::shell",
                "tern::codec",
                "tern::shell",
                "wal",
            ],
        ),
        ("src/codec/", &["crate::shell", "tern::shell", "wal"]),
        (
            "src/bin/ternctl/",
            &["tern::core::machine", "tern::core::raft", "wal", "mio"],
        ),
    ];
    for (folder, words) in rules {
        let ring = pick(&all, |f| f.is_below(folder));
        let what = format!("{folder} imports only rings inside it; move this outwards");
        check(&what, named(&ring, words));
    }
}

#[test]
fn the_core_and_the_codecs_see_no_os() {
    let all = sources(&["src"]);
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
        "Rc",
        "RefCell",
        "dyn",
        "async",
        "println",
        "rustix",
    ];
    let inner = pick(&all, |f| {
        f.is_below("src/core/") || f.is_below("src/codec/")
    });
    check(
        "the core and the codecs are pure; leave this to the shell",
        named(&inner, &words),
    );
}

#[test]
fn the_core_knows_neither_json_nor_http() {
    let all = sources(&["src"]);
    let core = pick(&all, |f| f.is_below("src/core/"));
    check(
        "the core knows neither JSON nor HTTP; leave this to the codecs",
        named(&core, &["serde_json", "httparse", "serde"]),
    );
}

#[test]
fn parts_of_the_core_know_only_what_is_below_them() {
    let all = sources(&["src"]);
    let rules: [(&str, &str, &[&str]); 4] = [
        (
            "src/core/raft/",
            "raft does not know the key space",
            &[
                "core::store",
                "core::replica",
                "core::machine",
                "core::seam",
            ],
        ),
        (
            "src/core/store/",
            "the key space does not know raft",
            &["core::raft", "core::replica", "core::machine", "core::seam"],
        ),
        (
            "src/core/replica/",
            "the replica does not know the machine",
            &["core::machine"],
        ),
        (
            "src/codec/api/",
            "the client interface does not know raft",
            &["core::raft", "codec::peer"],
        ),
    ];
    for (folder, what, words) in rules {
        let words: Vec<String> = words.iter().map(|w| format!("crate::{w}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        check(what, named(&pick(&all, |f| f.is_below(folder)), &words));
    }
    let others = pick(&all, |f| {
        !f.is_below("src/shell/disk/") && f.path != "src/shell.rs"
    });
    check(
        "only shell/disk knows the log's crate",
        named(&others, &["use wal"]),
    );
}

/// Where the modules of another crate of the package stand.
const OTHER_CRATES: [&str; 1] = ["bin::ternctl"];

/// The modules that a file imports by `use`, as paths below `src`.
fn imports(file: &Source, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code: String = file.code().map(|(_, l)| format!("{l} ")).collect();
    let module = file.module();
    let is_within = |root: &&&str| module.starts_with(&format!("{root}::"));
    let root = OTHER_CRATES.iter().find(is_within);
    for statement in code.split(';') {
        let Some((_, path)) = statement.split_once("use ") else {
            continue;
        };
        for path in expand(path.trim()) {
            let absolute = match path.split_once("::") {
                Some(("crate", rest)) => match root {
                    None => rest.to_string(),
                    Some(root) => format!("{root}::{rest}"),
                },
                Some(("self", rest)) => format!("{}::{rest}", file.module()),
                Some(("super", _)) => {
                    let mut at = file.module();
                    let mut rest = path.as_str();
                    while let Some(("super", behind)) = rest.split_once("::") {
                        at = at
                            .rsplit_once("::")
                            .map_or(String::new(), |(up, _)| up.into());
                        rest = behind;
                    }
                    format!("{at}::{rest}")
                }
                _ => format!("{}::{path}", file.module()),
            };
            // The longest prefix that is a file's module.
            let mut prefix = absolute.as_str();
            loop {
                if modules.contains(prefix) {
                    found.insert(prefix.to_string());
                    break;
                }
                match prefix.rsplit_once("::") {
                    Some((shorter, _)) => prefix = shorter,
                    None => break,
                }
            }
        }
    }
    found.remove(&file.module());
    found
}

/// `a::{b, c::{d}}` as `a::b`, `a::c::d`.
fn expand(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('{') else {
        let path = path.split(" as ").next().expect("split gives one");
        return vec![path.trim().trim_end_matches("::*").to_string()];
    };
    let inside = &rest[..rest.rfind('}').unwrap_or(rest.len())];
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (i, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[from..]);
    let parts = parts.iter().map(|p| p.trim()).filter(|p| !p.is_empty());
    parts.flat_map(|p| expand(&format!("{head}{p}"))).collect()
}

/// An import of a child's own parent is left out: a file `raft/log.rs` may extend what `raft.rs`
/// declares, as long as no two siblings, and no two modules elsewhere, need each other.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let all = sources(&["src"]);
    let modules: BTreeSet<String> = all.iter().map(Source::module).collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &all {
        let module = file.module();
        let to = imports(file, &modules).into_iter();
        let to = to.filter(|to| !module.starts_with(&format!("{to}::")));
        graph.insert(module.clone(), to.collect());
    }
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(edges > 100, "only {edges} imports were found");
    // What is left after all files that import nothing left are taken away is circles, and what
    // leads into them.
    loop {
        let free: Vec<String> = graph
            .iter()
            .filter(|(_, to)| to.iter().all(|t| !graph.contains_key(t)))
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            graph.remove(&module);
        }
    }
    let bad = graph.iter().map(|(module, to)| {
        let to: Vec<&str> = to
            .iter()
            .filter(|t| graph.contains_key(*t))
            .map(String::as_str)
            .collect();
        format!("{module} -> {}", to.join(", "))
    });
    check(
        "these import each other in a circle, or lead into one",
        bad.collect(),
    );
}

#[test]
fn clocks_are_read_in_one_place() {
    let all = sources(&["src", "wal/src"]);
    let others = pick(&all, |f| f.path != "src/shell/clock.rs");
    assert_eq!(others.len() + 1, all.len(), "src/shell/clock.rs is there");
    check(
        "only clock.rs reads clocks",
        named(
            &others,
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
fn unsafe_stands_in_three_files() {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    assert!(text.contains("#![forbid(unsafe_code)]"));
    let all = sources(&["src", "wal/src"]);
    let allowed = ["src/allocator.rs", "wal/src/map.rs", "wal/src/os.rs"];
    let others = pick(&all, |f| !allowed.contains(&f.path.as_str()));
    check(
        "unsafe belongs into src/allocator.rs, wal/src/map.rs or wal/src/os.rs",
        named(&others, &["unsafe"]),
    );
    for file in &all {
        let lines: Vec<&str> = file.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if !names(line, "unsafe") || line.trim().starts_with("//") {
                continue;
            }
            let reason = lines[i.saturating_sub(4)..i]
                .iter()
                .any(|l| l.contains("SAFETY"));
            assert!(
                reason,
                "{}:{}: unsafe without a SAFETY reason above it: {line}",
                file.path,
                i + 1
            );
        }
    }
}

#[test]
fn no_hash_map_is_iterated_in_the_core() {
    let all = sources(&["src"]);
    let mut bad = Vec::new();
    for file in pick(&all, |f| f.is_below("src/core/")) {
        let maps: Vec<&str> = file
            .code()
            .filter_map(|(_, l)| l.split_once(": HashMap<").or(l.split_once(": HashSet<")))
            .map(|(name, _)| {
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
                let forms = [format!("&self.{map} "), format!("&mut self.{map} ")];
                let looped = line.contains(" in ") && forms.iter().any(|m| line.contains(m));
                if walked || looped {
                    bad.push(format!("{}:{number}: {map}", file.path));
                }
            }
        }
    }
    check(
        "the order of a HashMap differs between processes; use a BTreeMap",
        bad,
    );
}

/// Every function of a file: its first line's number, its lines and its first line.
fn functions(file: &Source) -> Vec<(usize, usize, String)> {
    let mut found = Vec::new();
    let mut start: Option<(usize, usize, String)> = None;
    for (i, line) in file.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_code = !line.trim_start().starts_with("//") && !line.trim_end().ends_with(';');
        if start.is_none() && names(line, "fn") && is_code {
            start = Some((i, indent, line.trim().to_string()));
        }
        if let Some((from, at, name)) = &start
            && indent == *at
            && (line.trim() == "}" || (i == *from && line.trim_end().ends_with('}')))
        {
            found.push((from + 1, i - from + 1, name.clone()));
            start = None;
        }
    }
    found
}

#[test]
fn files_and_functions_are_short() {
    let all = sources(&["src", "wal", "tests", "benches"]);
    let mut bad = Vec::new();
    for file in pick(&all, |_| true) {
        let lines = file.code().count();
        if lines > FILE_LINES_MAX {
            bad.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                file.path
            ));
        }
        for (number, lines, name) in functions(file) {
            if lines > FUNCTION_LINES_MAX {
                bad.push(format!("{}:{number}: {lines} lines: {name}", file.path));
            }
        }
    }
    check("cut these up", bad);
}

#[test]
fn each_file_says_what_it_owns() {
    let all = sources(&["src", "wal", "tests", "benches"]);
    let bad = all.iter().filter_map(|file| {
        let opening = file
            .text
            .lines()
            .take_while(|l| l.starts_with("//!"))
            .count();
        let fits = (1..=OPENING_LINES_MAX).contains(&opening);
        (!fits).then(|| format!("{}: {opening} lines", file.path))
    });
    let what = format!("each file opens with a //! comment of at most {OPENING_LINES_MAX} lines");
    check(&what, bad.collect());
}

/// One word, one meaning: two types of one name make a reader look up which is meant.
#[test]
fn few_names_stand_for_two_types() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(&["src", "wal/src"]) {
        for (number, line) in file.code() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words
                .iter()
                .position(|w| ["struct", "enum", "type"].contains(w))
            else {
                continue;
            };
            // An associated type of an impl is not a name of ours.
            let is_item = words[..at].iter().all(|w| w.starts_with("pub"));
            let is_associated = words[at] == "type" && line.starts_with(' ');
            let Some(name) = words.get(at + 1).filter(|_| is_item && !is_associated) else {
                continue;
            };
            let name: String = name.chars().take_while(|c| is_word(*c)).collect();
            places
                .entry(name)
                .or_default()
                .push(format!("{}:{number}", file.path));
        }
    }
    assert!(places.len() > 100, "only {} types were found", places.len());
    places.retain(|_, places| places.len() > 1);
    for (name, places) in &places {
        println!("{name}: {}", places.join(", "));
    }
    assert!(
        places.len() <= SHARED_NAMES_MAX,
        "{} names stand for more than one type, at most {SHARED_NAMES_MAX}: {places:#?}",
        places.len()
    );
}

/// A file belongs to one module; code that several tests need stands in `tests/support`.
#[test]
fn no_file_is_included_by_its_path() {
    let all = sources(&["src", "wal", "tests", "benches"]);
    let bad = pick(&all, |_| true).into_iter().flat_map(|file| {
        let lines = file.code().filter(|(_, l)| l.trim().starts_with("#[path"));
        lines.map(|(number, _)| format!("{}:{number}", file.path))
    });
    check("no #[path] includes", bad.collect());
}

/// Whoever changes a text that a planted fault replaces changes the list of planted faults as well.
#[test]
fn planted_faults_are_found_in_the_text() {
    let all = mutations::load(&root()).unwrap_or_else(|why| panic!("{why}"));
    assert!(!all.is_empty(), "there are lists of planted faults");
    let errors = mutations::Text::planted(&root(), &all).err();
    check(mutations::FOLDER, errors.unwrap_or_default());
}

#[test]
fn run_time_crates_are_counted() {
    let mut crates = BTreeSet::new();
    for manifest in ["Cargo.toml", "wal/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let section = text.split("\n[").find(|s| s.starts_with("dependencies]"));
        let lines = section.expect("it has dependencies").lines().skip(1);
        for line in lines.filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            let name = line.split(['=', '.', ' ']).next().expect("split gives one");
            if name != "wal" && !line.contains("optional = true") {
                crates.insert(name.to_string());
            }
        }
    }
    let count = crates.len();
    assert!(
        count > 0 && count <= CRATES_MAX,
        "{count} crates, at most {CRATES_MAX}: {crates:?}"
    );
}

#[test]
fn the_text_speaks_of_tern_alone() {
    let mut all = sources(&["src", "wal", "tests", "benches"]);
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    all.push(Source {
        path: "README.md".into(),
        text: readme,
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
            .map(|(i, _)| format!("{}:{}", file.path, i + 1))
    });
    check("no paths of one machine", bad.collect());
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    assert_eq!(
        expand("a::{b, c::{d, self}}"),
        ["a::b", "a::c::d", "a::c::self"]
    );
    assert_eq!(expand("a::b as c"), ["a::b"]);
    assert_eq!(expand("super::x::*"), ["super::x"]);
    let file = Source {
        path: "src/core/raft/log.rs".into(),
        text: "use super::message::Entry;\nuse crate::core::{timer::Now, error};\n".into(),
    };
    let modules = ["core::raft::message", "core::timer", "core::error", "core"];
    let modules = modules.iter().map(|m| m.to_string()).collect();
    let found: Vec<String> = imports(&file, &modules).into_iter().collect();
    assert_eq!(found, ["core::error", "core::raft::message", "core::timer"]);
}

/// The tour names each step by file and function. What it names exists, and the README shows the
/// same tour as the front page of the documentation.
#[test]
fn the_tour_leads_through_code_that_exists() {
    let tour = fs::read_to_string(root().join("src/tour.md")).expect("the tour");
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    assert!(readme.contains(tour.trim()), "the README holds src/tour.md");
    let all = sources(&["src", "wal/src", "tests"]);
    let code: String = all.iter().map(|f| f.text.as_str()).collect();
    let mut steps = 0;
    let mut bad = Vec::new();
    for name in tour.split('`').skip(1).step_by(2) {
        if let Some(path) = name.strip_suffix(".rs") {
            let places = [format!("src/{path}.rs"), format!("{path}.rs")];
            if !all.iter().any(|f| places.contains(&f.path)) {
                bad.push(format!("{name} is no file"));
            }
        } else if let Some((owner, function)) = name.split_once("::") {
            steps += 1;
            let is_function = code.contains(&format!("fn {function}("))
                || code.contains(&format!("fn {function}<"));
            let is_variant = code.contains(&format!("    {function}("));
            if !names(&code, owner) || !(is_function || is_variant) {
                bad.push(format!("{name} does not exist"));
            }
        }
    }
    assert!(steps > 40, "only {steps} steps were found");
    check("the tour", bad);
}
