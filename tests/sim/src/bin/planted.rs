//! Plants faults and shows what catches each:
//!
//! ```text
//! cargo run --profile sim -p tern-sim --bin planted                   # all of both kinds
//! cargo run --profile sim -p tern-sim --bin planted -- --quick        # mutations, a few seconds each
//! cargo run --profile sim -p tern-sim --bin planted -- --only A,B     # mutations by name
//! ```
//!
//! A mutation changes the text of the program (`tern_support::mutations` says how it is written). All
//! of them are applied to one copy of the sources, `mutations/tree` in cargo's output folder; the
//! copy is built once, and each process plants one by its name. Without `--quick` the rows of the
//! table in `tests/sim/README.md` are rewritten. Exit code 1: a text is not found exactly once, or a fault was
//! missed. Start at `main`.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tern_sim::Plant;
use tern_sim::faults::{catalogue, hunt};
use tern_sim::run::Options;
use tern_support::mutations::{Catcher, LIMIT_S, Mutation, Text, load};

/// So many faults may be caught by an assertion of the core alone.
const PANIC_ALONE_MAX: usize = 5;

/// A test that takes longer hangs: the fault is caught.
const TEST_S_MAX: u64 = 300;

/// The simulator looks at its limit between two seeds. A seed that never ends is caught too.
const SEED_S_MAX: u64 = 120;

#[derive(Default)]
struct Args {
    /// Leave out what takes longer than [`LIMIT_S`].
    quick: bool,
    /// The names of the mutations to plant; empty: all.
    only: Vec<String>,
}

fn parse() -> Args {
    let mut parsed = Args::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match &*arg {
            "--quick" => parsed.quick = true,
            "--only" => {
                let names = args.next().expect("--only NAME,NAME");
                parsed.only = names.split(',').map(String::from).collect();
            }
            other => panic!("{other} is not known; see the head of tests/sim/src/bin/planted.rs"),
        }
    }
    parsed
}

/// What became of one fault.
struct Verdict {
    name: String,
    meaning: String,
    kind: &'static str,
    by: Vec<String>,
    seed: String,
    took: Duration,
    missed: Vec<String>,
}

impl Verdict {
    fn row(&self) -> String {
        let by = match self.by.is_empty() {
            true => "nothing".to_string(),
            false => self.by.join(", "),
        };
        let took = self.took.as_secs_f64();
        let (name, meaning, kind, seed) = (&self.name, &self.meaning, self.kind, &self.seed);
        format!("| {name} | {meaning} | {kind} | {by} | {seed} | {took:.1} s |")
    }
}

/// The copy of the sources, and how it is built.
struct Mutants {
    tree: PathBuf,
    build: PathBuf,
}

impl Mutants {
    /// Brings the copy up to date; only files that differ are written, so that cargo builds no more
    /// than it must.
    fn refresh(root: &Path, text: &Text) -> Mutants {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        let folder = root.join(target).join("mutations");
        let mutants = Mutants {
            tree: folder.join("tree"),
            build: folder.join("build"),
        };
        let files = files_below(root);
        for path in files_below(&mutants.tree) {
            if !files.contains(&path) {
                std::fs::remove_file(mutants.tree.join(path)).expect("an old file goes");
            }
        }
        for path in files {
            let new = match path.to_str().and_then(|name| text.get(name)) {
                Some(text) => text.into(),
                None => std::fs::read(root.join(&path)).expect("a file of the workspace"),
            };
            let copy = mutants.tree.join(&path);
            if std::fs::read(&copy).is_ok_and(|old| old == new) {
                continue;
            }
            std::fs::create_dir_all(copy.parent().expect("it has a folder")).expect("a folder");
            std::fs::write(copy, new).expect("the copy can be written");
        }
        mutants
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(args).current_dir(&self.tree);
        command.env("CARGO_TARGET_DIR", &self.build);
        command
    }

    fn build(&self, chosen: &[Mutation]) {
        let simulator = [
            "build",
            "--locked",
            "--profile",
            "sim",
            "-p",
            "tern-sim",
            "--bin",
        ];
        let mut builds = vec![[&simulator[..], &["tern-sim"]].concat()];
        let mut targets: Vec<&str> = chosen.iter().flat_map(Mutation::targets).collect();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            builds.push([&["test", "--locked", "--no-run"], &test_args(target)[..]].concat());
        }
        for args in builds {
            let built = self.cargo(&args).status().expect("cargo runs");
            assert!(
                built.success(),
                "the copy with all mutations does not build: {args:?}"
            );
        }
    }

    /// Whether a test fails, or hangs.
    fn fails(&self, fault: &str, target: &str, filter: &str) -> bool {
        let args = [
            &["test", "--locked", "-q"],
            &test_args(target)[..],
            &[filter],
        ]
        .concat();
        let mut command = limited(TEST_S_MAX, &self.cargo(&args));
        command.env("TERN_PLANTED", fault);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        !command.status().expect("a test runs").success()
    }

    /// The check that stopped the simulator, the seed and the seconds.
    fn simulate(&self, fault: &str, limit_s: u64) -> Option<(String, String)> {
        let mut command = Command::new(self.build.join("sim/tern-sim"));
        let limit = limit_s.to_string();
        command.args(["--hunt", fault, "--seeds", "0..100000", "--limit", &limit]);
        let mut command = limited(limit_s * 4 + SEED_S_MAX, &command);
        command.env("TERN_PLANTED", fault).stderr(Stdio::null());
        let output = command.output().expect("the simulator runs");
        if output.status.code() == Some(124) {
            return Some(("a seed that does not end".into(), String::new()));
        }
        let row = String::from_utf8(output.stdout).expect("it prints text");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let is_caught = output.status.success() && cells.len() > 3;
        is_caught.then(|| (cells[2].into(), cells[3].into()))
    }

    /// Without a fault the copy is as good as the original.
    fn check_unplanted(&self, chosen: &[Mutation]) {
        let found = self.simulate("", 5);
        assert!(found.is_none(), "fails without a fault: {found:?}");
        let mut tests: Vec<&Catcher> = chosen.iter().flat_map(|m| &m.catchers).collect();
        tests.sort_by_key(|c| format!("{c:?}"));
        tests.dedup();
        for catcher in tests {
            if let Catcher::Test(target, filter) = catcher {
                let fails = self.fails("", target, filter);
                assert!(!fails, "fails without a fault: {catcher:?}");
            }
        }
    }

    fn judge(&self, mutation: &Mutation, limit_s: u64) -> Verdict {
        let start = Instant::now();
        let mut verdict = Verdict {
            name: mutation.name.clone(),
            meaning: mutation.meaning.clone(),
            kind: "text",
            by: Vec::new(),
            seed: String::new(),
            took: Duration::ZERO,
            missed: Vec::new(),
        };
        for catcher in &mutation.catchers {
            match catcher {
                Catcher::Simulator(needs_s) if *needs_s > limit_s => {}
                Catcher::Simulator(needs_s) => match self.simulate(&mutation.name, *needs_s) {
                    Some((check, seed)) => {
                        verdict.by.push(check);
                        verdict.seed = seed;
                    }
                    None => verdict.missed.push(format!("the simulator in {needs_s} s")),
                },
                Catcher::Test(target, filter) => match self.fails(&mutation.name, target, filter) {
                    true => verdict.by.push(format!("{target} {filter}")),
                    false => verdict.missed.push(format!("{target} {filter}")),
                },
            }
        }
        verdict.took = start.elapsed();
        verdict
    }

    /// Judges several at a time: one for each processor.
    fn judge_all(&self, chosen: &[Mutation], limit_s: u64) -> Vec<Verdict> {
        let next = AtomicUsize::new(0);
        let verdicts = Mutex::new(Vec::new());
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(mutation) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let verdict = self.judge(mutation, limit_s);
                        println!("{}", verdict.row());
                        verdicts.lock().expect("no judge panics").push(verdict);
                    }
                });
            }
        });
        let mut verdicts = verdicts.into_inner().expect("no judge panics");
        verdicts.sort_by_key(|v| chosen.iter().position(|m| m.name == v.name));
        verdicts
    }
}

/// The arguments of cargo for a test target (`Catcher::Test`).
fn test_args(target: &str) -> Vec<&str> {
    match target.split_once('/') {
        Some((package, test)) => vec!["-p", package, "--test", test],
        None if target == "lib" => vec!["--lib"],
        None => vec!["--test", target],
    }
}

/// The command, ended after a time.
fn limited(seconds: u64, command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(seconds.to_string());
    limited.arg(command.get_program()).args(command.get_args());
    limited.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}

/// All files of the workspace but hidden ones and cargo's output, relative to `root`.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&folder)) else {
            continue;
        };
        for entry in entries.map(|e| e.expect("an entry")) {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') || name == "target" {
                continue;
            }
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(folder.join(name)),
                false => files.push(folder.join(name)),
            }
        }
    }
    files
}

/// The faults that the simulated network, disk and shell play.
fn judge_tampering() -> Vec<Verdict> {
    let options = Options {
        events: 20_000,
        plant: Plant::default(),
        loud: false,
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut verdicts = Vec::new();
    for fault in catalogue() {
        let limit = Duration::from_secs(100);
        let found = hunt(fault.name, fault.plant, &options, 0..100_000, limit);
        let (by, seed) = match found.by {
            Some((check, seed, _)) => (vec![check.to_string()], seed.to_string()),
            None => (Vec::new(), String::new()),
        };
        let missed = if by.is_empty() {
            vec!["the simulator".to_string()]
        } else {
            Vec::new()
        };
        let verdict = Verdict {
            name: fault.name.into(),
            meaning: fault.meaning.into(),
            kind: "tampering",
            by,
            seed,
            took: found.took,
            missed,
        };
        println!("{}", verdict.row());
        verdicts.push(verdict);
    }
    std::panic::set_hook(hook);
    verdicts
}

/// Rewrites the table, from its head to the next empty line. Faults that were not planted now keep
/// their rows; `names` are all faults, in the order of the rows.
fn write_table(root: &Path, names: &[String], verdicts: &[Verdict]) {
    const HEAD: &str = "| fault | what goes wrong | kind | caught by | seed | took |\n";
    let path = root.join("tests/sim/README.md");
    let text = std::fs::read_to_string(&path).expect("the README");
    let start = text.find(HEAD).expect("the head of the table") + HEAD.len();
    let end = start + text[start..].find("\n\n").expect("an empty line follows");
    let row = |name: &String| {
        let new = verdicts.iter().find(|verdict| verdict.name == *name);
        let is_old = |row: &&str| row.starts_with(&format!("| {name} |"));
        let old = text[start..end].lines().find(is_old);
        new.map(Verdict::row).or(old.map(String::from))
    };
    let rows: Vec<String> = names.iter().filter_map(row).collect();
    let table = format!("|---|---|---|---|---|---|\n{}", rows.join("\n"));
    let text = format!("{}{table}{}", &text[..start], &text[end..]);
    std::fs::write(path, text).expect("the README can be written");
}

fn main() {
    if cfg!(panic = "abort") {
        panic!("use --profile sim: a panic would end the hunt");
    }
    let args = parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().expect("the folder of the workspace");
    let all = load(&root).unwrap_or_else(|why| panic!("{why}"));
    let text = Text::planted(&root, &all).unwrap_or_else(|errors| {
        println!("{}", errors.join("\n"));
        std::process::exit(1);
    });
    let is_all = !args.quick && args.only.is_empty();
    let limit_s = if args.quick { LIMIT_S } else { u64::MAX };
    let is_in_time = |c: &Catcher| !matches!(c, Catcher::Simulator(needs_s) if *needs_s > limit_s);
    let is_named = |m: &Mutation| args.only.is_empty() || args.only.contains(&m.name);
    let tampering = catalogue().into_iter().map(|fault| fault.name.to_string());
    let names: Vec<String> = tampering
        .chain(all.iter().map(|m| m.name.clone()))
        .collect();
    let is_chosen = |m: &Mutation| is_named(m) && m.catchers.iter().any(is_in_time);
    let chosen: Vec<Mutation> = all.into_iter().filter(is_chosen).collect();
    assert!(!chosen.is_empty(), "no such mutation");
    let mutants = Mutants::refresh(&root, &text);
    mutants.build(&chosen);
    mutants.check_unplanted(&chosen);
    let mut verdicts = mutants.judge_all(&chosen, limit_s);
    if is_all {
        verdicts.splice(0..0, judge_tampering());
    }
    if !args.quick {
        write_table(&root, &names, &verdicts);
    }
    let panics = verdicts.iter().filter(|v| v.by == ["panic"]).count();
    // Seeds shift with each change of the program: in a short hunt one catcher is enough.
    let is_missed = |v: &&Verdict| !v.missed.is_empty() && (!args.quick || v.by.is_empty());
    let missed: Vec<_> = verdicts.iter().filter(is_missed).collect();
    for verdict in &missed {
        println!(
            "{} was missed by {}",
            verdict.name,
            verdict.missed.join(", ")
        );
    }
    let count = verdicts.len();
    println!(
        "{count} faults, {} missed, {panics} caught by a panic alone",
        missed.len()
    );
    if !missed.is_empty() || panics > PANIC_ALONE_MAX {
        std::process::exit(1);
    }
}
