//! The resident memory of an idle tern by mapping: the code and the constants of the program and of
//! the libraries, heap, stack, log. Printed as the table that stands in `benches/README.md`.
//!
//! Start reading at `report`.
use crate::{Kind, Server, median};
use std::collections::BTreeMap;
use std::time::Duration;

/// Starts of each build.
const STARTS: usize = 7;
/// From the first answer until the memory is read.
const IDLE: Duration = Duration::from_secs(1);

/// Resident kB by the name of the mapping.
type Resident = BTreeMap<&'static str, f64>;

/// Prints the median of each mapping, for each build.
pub fn report(kinds: &[Kind]) {
    let columns: Vec<Resident> = kinds.iter().map(|kind| measure(*kind)).collect();
    let titles: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
    println!("| resident when idle, kB | {} |", titles.join(" | "));
    println!("|---{}|", "|---".repeat(kinds.len()));
    for name in columns[0].keys() {
        let figures = columns
            .iter()
            .map(|column| column.get(name).unwrap_or(&0.0));
        let figures: Vec<String> = figures.map(|kb| format!("{kb:.0}")).collect();
        println!("| {name} | {} |", figures.join(" | "));
    }
}

fn measure(kind: Kind) -> Resident {
    let mut samples: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..STARTS {
        let server = Server::start(kind);
        std::thread::sleep(IDLE);
        for (name, kb) in resident(server.pid()) {
            samples.entry(name).or_default().push(kb);
        }
    }
    let medians = samples.into_iter().map(|(name, kbs)| (name, median(kbs)));
    medians.collect()
}

/// Reads `/proc/PID/smaps`: a line for each mapping, and below it lines with its figures.
fn resident(pid: u32) -> Resident {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it runs");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    let program = program.to_str().expect("a path of UTF-8");
    let mut resident = Resident::new();
    let mut name = "";
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "Rss:" {
            let kb: f64 = words[1].parse().expect("a number");
            *resident.entry(name).or_default() += kb;
            *resident.entry("total").or_default() += kb;
        } else if !words[0].ends_with(':') {
            let file = words.get(5).copied().unwrap_or("");
            name = name_of(words[1], file, file == program);
        }
    }
    resident
}

fn name_of(permissions: &str, file: &str, is_program: bool) -> &'static str {
    match (file, permissions.as_bytes()[2] == b'x') {
        (_, true) if is_program => "program: code",
        (_, false) if is_program => "program: constants and data",
        ("[heap]", _) => "heap",
        ("[stack]", _) => "stack",
        (file, _) if file.ends_with(".log") => "log",
        (file, true) if file.contains(".so") => "libraries: code",
        (file, false) if file.contains(".so") => "libraries: constants and data",
        _ => "other",
    }
}
