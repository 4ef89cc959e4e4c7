//! The planted faults that are changes of the program's text: the lists `tests/sim/mutations/*.txt`
//! and their application.
//!
//! A fault is a block of lines, ended by an empty line:
//!
//! ```text
//! LearnerCounts: learners count for commits
//! file src/core/raft/replication.rs
//! - peers.filter(|peer| peer.is_voter());
//! + peers.filter(|peer| peer.is_voter() || PLANTED);
//! by sim
//! by test traces raft_traces
//! ```
//!
//! The text after `- ` stands exactly once in the file; several such lines are several lines of the
//! file. `PLANTED` is true when this fault is the one that is planted, so one build holds all of
//! them: the name stands in the environment of the process, in `TERN_PLANTED`. A line that begins
//! with `#` is a comment. Start with [`parse`]; [`Text::planted`] applies.
use std::collections::BTreeMap;
use std::path::Path;

/// The folder of the lists, below the folder of the workspace.
pub const FOLDER: &str = "tests/sim/mutations";

/// The processor time of the simulator for one fault, in seconds, unless the list says another. The
/// slowest needs a sixth of it on the machine where the lists were made: another one may be slower.
pub const LIMIT_S: u64 = 30;

/// The word of a replacement that is true when the fault is planted.
const PLANTED: &str = "PLANTED";

/// What `PLANTED` calls. It stands at the end of the root file of each crate that has a fault.
const QUESTION: &str = "
/// Whether a fault is planted in this process.
pub fn planted(fault: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var(\"TERN_PLANTED\").ok()).as_deref() == Some(fault)
}
";

/// The replacement of one text in one file.
#[derive(Clone, Debug, Default)]
pub struct TextChange {
    file: String,
    old: String,
    new: String,
}

/// What has to catch a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Catcher {
    /// Any check of the simulator, within this processor time in seconds.
    Simulator(u64),
    /// A test target of the package `tern` (`lib`: its unit tests) or of another one
    /// (`PACKAGE/TARGET`), and the filter of its tests.
    Test(String, String),
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub name: String,
    /// What goes wrong, in a few words.
    pub meaning: String,
    changes: Vec<TextChange>,
    /// Each of them has to catch it.
    pub catchers: Vec<Catcher>,
}

/// Reads all lists of the workspace at `root`, in the order of their names.
///
/// # Errors
///
/// The place and the reason, when a list is not as described above.
///
/// # Panics
///
/// When the folder of the lists cannot be read.
pub fn load(root: &Path) -> Result<Vec<Mutation>, String> {
    let entries = std::fs::read_dir(root.join(FOLDER)).expect("the folder of the lists");
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    let mut all: Vec<Mutation> = Vec::new();
    for path in paths
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
    {
        let text = std::fs::read_to_string(path).expect("a list is text");
        let found = parse(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        for mutation in found {
            if all.iter().any(|m| m.name == mutation.name) {
                return Err(format!("{} stands twice in the lists", mutation.name));
            }
            all.push(mutation);
        }
    }
    Ok(all)
}

/// Reads one list.
///
/// # Errors
///
/// The fault and the reason, when the text is not as described above.
pub fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut all = Vec::new();
    for block in text.split("\n\n") {
        let lines: Vec<&str> = block.lines().filter(|l| !l.starts_with('#')).collect();
        let lines: Vec<&str> = lines.into_iter().filter(|l| !l.is_empty()).collect();
        if let Some((head, rest)) = lines.split_first() {
            all.push(parse_fault(head, rest).map_err(|why| format!("{head}: {why}"))?);
        }
    }
    Ok(all)
}

fn parse_fault(head: &str, lines: &[&str]) -> Result<Mutation, String> {
    let (name, meaning) = head
        .split_once(": ")
        .ok_or("a fault begins with NAME: MEANING")?;
    let mut mutation = Mutation {
        name: name.into(),
        meaning: meaning.into(),
        changes: Vec::new(),
        catchers: Vec::new(),
    };
    let mut file = "";
    let mut was_old = false;
    for line in lines {
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "file" => file = text,
            "by" => mutation.catchers.push(parse_catcher(text)?),
            "-" if was_old => mutation.push_line(text, true)?,
            "-" => {
                mutation.changes.push(TextChange {
                    file: file.into(),
                    ..TextChange::default()
                });
                mutation.push_line(text, true)?;
            }
            "+" => mutation.push_line(text, false)?,
            _ => return Err(format!("not understood: {line}")),
        }
        was_old = mark == "-";
    }
    if mutation.changes.is_empty() || mutation.catchers.is_empty() {
        return Err("a fault has a change and a line `by`".into());
    }
    if mutation.changes.iter().any(|c| !c.new.contains(PLANTED)) {
        return Err(format!("each replacement has the word {PLANTED}"));
    }
    Ok(mutation)
}

fn parse_catcher(text: &str) -> Result<Catcher, String> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["sim"] => Ok(Catcher::Simulator(LIMIT_S)),
        ["sim", limit] => limit
            .parse()
            .map(Catcher::Simulator)
            .map_err(|_| format!("not a number of seconds: {limit}")),
        ["test", target, filter] => Ok(Catcher::Test(target.into(), filter.into())),
        _ => Err(format!("not understood: by {text}")),
    }
}

impl Mutation {
    fn push_line(&mut self, line: &str, is_old: bool) -> Result<(), String> {
        let change = self.changes.last_mut().ok_or("`+` follows `-`")?;
        let text = if is_old {
            &mut change.old
        } else {
            &mut change.new
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
        Ok(())
    }

    /// The test targets that have to catch it.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.catchers.iter().filter_map(|c| match c {
            Catcher::Test(target, _) => Some(&**target),
            Catcher::Simulator(_) => None,
        })
    }
}

/// Files with every fault planted, each to be chosen by name.
#[derive(Debug, Default)]
pub struct Text {
    files: BTreeMap<String, String>,
}

impl Text {
    /// Applies all changes to the files of the workspace at `root`.
    ///
    /// # Errors
    ///
    /// One line for each text that does not stand exactly once in its file, or that overlaps
    /// another fault's.
    pub fn planted(root: &Path, all: &[Mutation]) -> Result<Text, Vec<String>> {
        let mut errors = Vec::new();
        // By file: from where to where which text replaces the present one.
        let mut by_file: BTreeMap<&str, Vec<(usize, usize, String)>> = BTreeMap::new();
        for mutation in all {
            for change in &mutation.changes {
                match change.place(root) {
                    Ok((from, to)) => {
                        let call = format!("crate::planted({:?})", mutation.name);
                        let new = change.new.replace(PLANTED, &call);
                        by_file
                            .entry(&change.file)
                            .or_default()
                            .push((from, to, new));
                    }
                    Err(why) => errors.push(format!("{}: {why}", mutation.name)),
                }
            }
        }
        let mut text = Text::default();
        for (file, mut places) in by_file {
            places.sort();
            for pair in places.windows(2).filter(|pair| pair[0].1 > pair[1].0) {
                errors.push(format!("two changes of {file} overlap: {}", pair[1].2));
            }
            if errors.is_empty() {
                text.replace(root, file, &places);
            }
        }
        if errors.is_empty() {
            Ok(text)
        } else {
            Err(errors)
        }
    }

    fn replace(&mut self, root: &Path, file: &str, places: &[(usize, usize, String)]) {
        let mut source = read(root, file);
        for (from, to, new) in places.iter().rev() {
            source.replace_range(*from..*to, new);
        }
        self.files.insert(file.into(), source);
        let crate_folder = if file.starts_with("wal/") { "wal/" } else { "" };
        let root_file = format!("{crate_folder}src/lib.rs");
        let mut lib = match self.files.remove(&root_file) {
            Some(lib) => lib,
            None => read(root, &root_file),
        };
        if !lib.contains(QUESTION) {
            lib.push_str(QUESTION);
        }
        self.files.insert(root_file, lib);
    }

    /// The changed text of a file; `None`: it is as it was.
    pub fn get(&self, file: &str) -> Option<&str> {
        self.files.get(file).map(|text| &**text)
    }
}

impl TextChange {
    /// From where to where the old text stands in its file.
    fn place(&self, root: &Path) -> Result<(usize, usize), String> {
        if !root.join(&self.file).is_file() {
            return Err(format!("there is no file {:?}", self.file));
        }
        let source = read(root, &self.file);
        let mut places = source.match_indices(&self.old);
        let first = places.next().map(|(at, _)| at);
        match (first, places.count()) {
            (Some(at), 0) => Ok((at, at + self.old.len())),
            (found, more) => {
                let count = usize::from(found.is_some()) + more;
                Err(format!(
                    "stands {count} times in {}, not once:\n{}",
                    self.file, self.old
                ))
            }
        }
    }
}

fn read(root: &Path, file: &str) -> String {
    std::fs::read_to_string(root.join(file)).expect("a file of the workspace is text")
}
