//! Every file of real data directories damaged in every way: cut, flipped, zeroed, replaced by
//! another kind of file, removed. A start on such a directory finds all that was acknowledged, or
//! is refused with a sentence; what cannot be told from a crash is listed with its reason.
pub mod directories;

use directories::{Directory, KINDS, Kind, body, config_of, standby_info, temporary};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use tern::core::machine::{Machine, Recovered};
use tern::core::raft::{EntryBody, Index, Term};
use tern::core::timer::Now;
use tern::shell::disk::Disk;
use tern_support::rng::Rng;
use tern_support::sim_fs::{Fault, SimFs};

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// Only so many bytes are left.
    Cut(usize),
    /// The byte at this offset has other bits.
    Flip(usize),
    /// The sector of 512 bytes with this number is zeros.
    Zero(usize),
    Fifo,
    Folder,
    /// A link to a name that does not exist.
    DeadLink,
    Socket,
    Device,
    Removed,
}

const SECTOR: usize = 512;
const PAGE: usize = 4096;

impl Damage {
    /// All that is done to a file with this content. The end of a file of the log is that of its
    /// content: zeros follow.
    fn all(content: &[u8]) -> Vec<Damage> {
        let length = content.len();
        let last = content.iter().rposition(|b| *b != 0).unwrap_or(0);
        let mut all = vec![
            Damage::Fifo,
            Damage::Folder,
            Damage::DeadLink,
            Damage::Socket,
            Damage::Device,
            Damage::Removed,
        ];
        let mut cuts = vec![
            0,
            1,
            length / 2,
            length - 1,
            last,
            PAGE,
            length - PAGE.min(length),
        ];
        cuts.retain(|to| *to < length);
        let mut flips = vec![
            0,
            9,
            20,
            60,
            PAGE,
            PAGE + 9,
            last / 2,
            last - last % 8,
            last,
        ];
        flips.retain(|at| *at < length);
        let end = last / SECTOR;
        let mut zeroed = vec![0, PAGE / SECTOR, end / 2, end.saturating_sub(1), end];
        for list in [&mut cuts, &mut flips, &mut zeroed] {
            list.sort();
            list.dedup();
        }
        all.extend(cuts.into_iter().map(Damage::Cut));
        all.extend(flips.into_iter().map(Damage::Flip));
        let is_changed = |number: &usize| {
            let sector = content.chunks(SECTOR).nth(*number);
            sector.is_some_and(|bytes| bytes.iter().any(|b| *b != 0))
        };
        all.extend(zeroed.into_iter().filter(is_changed).map(Damage::Zero));
        all
    }

    /// Damages the file at `path`.
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).expect("a file");
        match self {
            Damage::Cut(to) => bytes.truncate(to),
            Damage::Flip(at) => bytes[at] ^= 0x11,
            Damage::Zero(number) => {
                let end = bytes.len().min((number + 1) * SECTOR);
                bytes[number * SECTOR..end].fill(0);
            }
            _ => {
                fs::remove_file(path).expect("removed");
                self.put_in_place(path);
                return;
            }
        }
        fs::write(path, bytes).expect("room");
    }

    /// Makes something else than a file.
    fn put_in_place(self, path: &Path) {
        match self {
            Damage::Fifo => {
                rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("made")
            }
            Damage::Folder => fs::create_dir(path).expect("made"),
            Damage::DeadLink => symlink(path.with_extension("nowhere"), path).expect("made"),
            Damage::Socket => drop(UnixListener::bind(path).expect("made")),
            Damage::Device => symlink("/dev/zero", path).expect("made"),
            _ => assert_eq!(self, Damage::Removed),
        }
    }
}

/// How a start on a damaged directory ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// Everything is there; peers supply the bodies of damaged entries.
    Repairable,
    /// It was refused with this sentence.
    Refused(String),
    /// It has started without something that was acknowledged.
    Lost(String),
}

fn start(directory: &Directory, data_dir: &Path) -> Outcome {
    let config = config_of(data_dir);
    let (mut disk, found) = match Disk::open_to(&config, directory.kind.joins()) {
        Ok(opened) => opened,
        Err(text) => return Outcome::Refused(text),
    };
    let standby = disk.take_standby();
    let is_standby = directory.kind == Kind::Standby;
    if is_standby != standby.is_some() {
        return Outcome::Lost("the mode".into());
    }
    assert!(
        standby.is_none_or(|info| info == standby_info()),
        "its content"
    );
    if (found.term, found.incarnation) != (Term(directory.term), directory.incarnation) {
        return Outcome::Lost("the term".into());
    }
    if found.id != directory.id {
        return Outcome::Lost("the id".into());
    }
    let outcome = check_entries(directory, &found);
    if found.id.is_some() {
        let now = Now {
            mono_us: 0,
            wall_ns: 0,
        };
        drop(Machine::recover(config.settings(), found, 1, now));
    }
    outcome
}

fn check_entries(directory: &Directory, found: &Recovered) -> Outcome {
    let mut next = match &found.snapshot {
        Some((meta, _)) => meta.index,
        None => Index(0),
    };
    let mut is_whole = true;
    for entry in &found.entries {
        next = next.next();
        assert_eq!(entry.index, next, "entries follow each other");
        match &entry.body {
            EntryBody::Good(bytes) => assert_eq!(**bytes, body(next.0), "no invention"),
            EntryBody::Faulty { .. } => is_whole = false,
        }
    }
    if next.0 != directory.last {
        return Outcome::Lost(format!("entries after {}", next.0));
    }
    if is_whole {
        return Outcome::Whole;
    }
    assert!(directory.kind.has_peers(), "a machine alone must refuse");
    Outcome::Repairable
}

// Why a loss cannot be told from something that is no damage; see "The verdict on damage" in
// wal/README.md.
const LAST_BATCH: &str = "the last batch of a killed process looks like a torn tail";
const CLOSING_SECTOR: &str = "the sector with the closing mark holds the last batch too";
const NO_STANDBY_INFO: &str = "without standby_info the directory is that of a new machine";
const NO_MEMBERSHIP: &str = "without membership the machine has not been admitted; it asks again";
const NO_STATE: &str = "a log without records and without state is a new one";

/// All of them. Each occurs.
const REASONS: [&str; 5] = [
    LAST_BATCH,
    CLOSING_SECTOR,
    NO_STANDBY_INFO,
    NO_MEMBERSHIP,
    NO_STATE,
];

/// The reason for a loss that is allowed; `None` if there is none.
fn reason(kind: Kind, name: &str, damage: Damage, content: &[u8]) -> Option<&'static str> {
    let end = content.iter().rposition(|b| *b != 0).unwrap_or(0);
    let is_killed = matches!(kind, Kind::Founder | Kind::Snapshots | Kind::Member);
    let is_near_end = match damage {
        // A batch of one entry, and its end.
        Damage::Flip(at) => at + 2_200 > end,
        Damage::Zero(number) => (number + 1) * SECTOR + 2_200 > end,
        _ => false,
    };
    match (kind, name, damage) {
        (Kind::Standby, "standby_info", Damage::Removed) => Some(NO_STANDBY_INFO),
        (Kind::Admitted, "membership", Damage::Removed) => Some(NO_MEMBERSHIP),
        (Kind::Admitted | Kind::Standby, "state", Damage::Removed) => Some(NO_STATE),
        (_, name, _) if !name.ends_with(".log") || !is_near_end => None,
        (_, _, Damage::Zero(_)) if !is_killed => Some(CLOSING_SECTOR),
        _ => is_killed.then_some(LAST_BATCH),
    }
}

/// The next steps that a refusal may name.
const STEPS: [&str; 5] = [
    "estore the directory from a backup",
    "move it away",
    "use the version that wrote it",
    "start it with -f",
    "Remove it",
];

/// What is missing in the sentence of a refusal.
fn missing_in(text: &str, name: &str) -> Option<String> {
    if !text.contains(name) {
        return Some(format!("the file is not named: {text}"));
    }
    let has_step = STEPS.iter().any(|step| text.contains(step));
    (!has_step).then(|| format!("no next step: {text}"))
}

/// Damages one file of a copy of `directory`, starts on it, and returns what the outcome is called:
/// for a loss that is allowed, its reason.
///
/// # Errors
///
/// A loss without a reason, or a sentence that lacks something.
fn try_damage(
    directory: &Directory,
    data_dir: &Path,
    file: &Path,
    damage: Damage,
) -> Result<&'static str, String> {
    directory.copy(data_dir);
    let path = data_dir.join(file);
    let content = fs::read(&path).expect("a file");
    damage.apply(&path);
    let name = file.file_name().expect("a name").to_string_lossy();
    match start(directory, data_dir) {
        Outcome::Whole => Ok("whole"),
        Outcome::Repairable => Ok("repairable"),
        Outcome::Lost(what) => {
            let reason = reason(directory.kind, &name, damage, &content);
            reason.ok_or(format!("{what} lost"))
        }
        Outcome::Refused(text) => {
            // Of a file that is missing, only the place may be known.
            let folder = path.parent().expect("a folder").display().to_string();
            let named = if damage == Damage::Removed {
                &folder
            } else {
                &*name
            };
            match missing_in(&text, named) {
                None => Ok("refused"),
                Some(missing) => Err(missing),
            }
        }
    }
}

#[test]
fn every_file_damaged_in_every_way() {
    let mut cases = 0;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    for kind in KINDS {
        let directory = Directory::new(kind);
        for file in directory.files() {
            let home = temporary();
            let whole = home.path().join("whole");
            directory.copy(&whole);
            let content = fs::read(whole.join(&file)).expect("a file");
            for damage in Damage::all(&content) {
                let data_dir = home.path().join("damaged");
                match try_damage(&directory, &data_dir, &file, damage) {
                    Ok(label) => *counts.entry(label).or_default() += 1,
                    Err(text) => {
                        bad.push(format!("{kind:?}, {} {damage:?}: {text}", file.display()));
                    }
                }
                cases += 1;
                fs::remove_dir_all(data_dir).expect("removed");
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(cases >= 720, "{cases} cases");
    for label in REASONS.iter().chain(&["whole", "repairable", "refused"]) {
        assert!(counts.contains_key(label), "no case: {label}");
    }
}

/// Each call of a start fails once. One of them is that which tries the folder for snapshots.
#[test]
fn a_snapshot_folder_that_cannot_be_written_is_named_at_the_start() {
    let config = config_of(Path::new("/data"));
    let refusals = (1..20).filter_map(|at| {
        let fs = SimFs::new(Rng::new(5));
        fs.plan(at, Fault::Fail);
        Disk::open_on(fs, &config, false).err()
    });
    let text = "cannot write to the folder /data/snapshot: ";
    assert_eq!(refusals.filter(|refusal| refusal.contains(text)).count(), 2);
}
