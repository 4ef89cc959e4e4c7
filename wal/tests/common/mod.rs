//! Shared by the tests: seeded random numbers, and a disk that loses what was not synced.
#![allow(dead_code)]
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

pub use tern_support::rng::Rng;
use wal::os::{Hook, SystemCall, Verdict};

/// The smallest segment; every test uses it.
pub const SEGMENT: u64 = 64 << 10;
/// The unit of writing of a disk, in bytes. A sector that is being written while the power fails may
/// be torn.
const SECTOR: usize = 512;
const EIO: i32 = 5;
/// The random number of the data directory.
pub const IDENTITY: u64 = 0x1234_5678_9abc_def0;

/// A hook that skips syncs, for tests without power cuts.
pub fn quick() -> Option<Hook> {
    Some(Box::new(|call: SystemCall| match call.name {
        "fdatasync" | "fsync" | "fadvise" => Verdict::Skip,
        _ => Verdict::Make,
    }))
}

/// Which syncs a disk skips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Nothing,
    Files,
    Names,
}

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Run,
    /// The power fails before this call: it and all later calls fail.
    StopAt(usize),
    /// This one call fails.
    FailAt(usize, i32),
}

enum NameOp {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

/// A directory of which only what was synced is certain to survive a crash.
pub struct Disk {
    pub dir: tempfile::TempDir,
    plan: Plan,
    lie: Lie,
    /// Calls seen so far.
    pub calls: usize,
    /// The names now, each with the number of its file.
    live: BTreeMap<String, usize>,
    /// The names on the disk.
    durable: BTreeMap<String, usize>,
    /// The changes to names since the last sync of the directory, in order.
    pending: Vec<NameOp>,
    /// The content that was synced, by the number of the file.
    synced: Vec<Vec<u8>>,
    /// The content of files that have no name any more, by number.
    gone: BTreeMap<usize, Vec<u8>>,
}

impl Disk {
    /// A disk that holds these files, all synced.
    pub fn new(image: &BTreeMap<String, Vec<u8>>, plan: Plan, lie: Lie) -> Rc<RefCell<Disk>> {
        let dir = tempfile::tempdir().expect("a directory");
        let mut live = BTreeMap::new();
        let mut synced = Vec::new();
        for (name, bytes) in image {
            fs::write(dir.path().join(name), bytes).expect("it can");
            live.insert(name.clone(), synced.len());
            synced.push(bytes.clone());
        }
        let durable = live.clone();
        Rc::new(RefCell::new(Disk {
            dir,
            plan,
            lie,
            calls: 0,
            live,
            durable,
            pending: Vec::new(),
            synced,
            gone: BTreeMap::new(),
        }))
    }

    /// The hook with which a log shows its system calls to this disk.
    pub fn hook(disk: &Rc<RefCell<Disk>>) -> Option<Hook> {
        let disk = disk.clone();
        Some(Box::new(move |call| disk.borrow_mut().on_call(call)))
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().into()
    }

    pub fn plan(&mut self, plan: Plan) {
        self.calls = 0;
        self.plan = plan;
    }

    fn on_call(&mut self, call: SystemCall) -> Verdict {
        self.calls += 1;
        match self.plan {
            Plan::StopAt(at) if self.calls >= at => return Verdict::Fail(EIO),
            Plan::FailAt(at, errno) if self.calls == at => return Verdict::Fail(errno),
            Plan::Run | Plan::StopAt(_) | Plan::FailAt(..) => {}
        }
        let name = call.file.to_string();
        match call.name {
            "creat" => {
                self.bury(&name);
                self.live.insert(name.clone(), self.synced.len());
                self.pending.push(NameOp::Link(name, self.synced.len()));
                self.synced.push(Vec::new());
            }
            "rename" => {
                self.bury(call.to);
                let number = self.live.remove(&name).expect("it is there");
                self.live.insert(call.to.into(), number);
                self.pending.push(NameOp::Rename(name, call.to.into()));
            }
            "unlink" => {
                self.bury(&name);
                self.live.remove(&name);
                self.pending.push(NameOp::Unlink(name));
            }
            "fdatasync" => {
                if self.lie != Lie::Files {
                    let number = self.live[&name];
                    self.synced[number] = self.read(&name);
                }
                return Verdict::Skip;
            }
            "fsync" => {
                if self.lie != Lie::Names {
                    self.durable = self.live.clone();
                    self.pending.clear();
                }
                return Verdict::Skip;
            }
            // The call would write back the page cache and slow the tests down.
            "fadvise" => return Verdict::Skip,
            _ => {}
        }
        Verdict::Make
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).expect("a file")
    }

    fn bury(&mut self, name: &str) {
        if let Some(&number) = self.live.get(name) {
            let bytes = self.read(name);
            self.gone.insert(number, bytes);
        }
    }

    /// What is on the disk if the power fails now: the first few of the changes to names, and any of
    /// the changed sectors.
    pub fn crash(&self, rng: &mut Rng) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.durable.clone();
        let kept = rng.below(self.pending.len() as u64 + 1) as usize;
        for op in &self.pending[..kept] {
            match op {
                NameOp::Link(name, number) => {
                    names.insert(name.clone(), *number);
                }
                NameOp::Rename(from, to) => {
                    let number = names.remove(from).expect("it is there");
                    names.insert(to.clone(), number);
                }
                NameOp::Unlink(name) => {
                    names.remove(name);
                }
            }
        }
        let now: BTreeMap<usize, &String> = self.live.iter().map(|(n, i)| (*i, n)).collect();
        let mut image = BTreeMap::new();
        for (name, number) in names {
            let written = match now.get(&number) {
                Some(name) => self.read(name),
                None => self.gone[&number].clone(),
            };
            image.insert(name, tear(&self.synced[number], &written, rng));
        }
        image
    }
}

/// `old` with some of the sectors in which `new` differs from it.
fn tear(old: &[u8], new: &[u8], rng: &mut Rng) -> Vec<u8> {
    let length = match rng.percent(50) {
        true => new.len(),
        false => old.len(),
    };
    // All of it, nothing of it, or a part.
    let kept = [0, 20, 50, 80, 100][rng.below(5) as usize];
    let mut out = old.to_vec();
    out.resize(length, 0);
    for (at, sector) in out.chunks_mut(SECTOR).enumerate() {
        let from = at * SECTOR;
        let Some(new) = new.get(from..from + sector.len()) else {
            continue;
        };
        if sector == new || !rng.percent(kept) {
            continue;
        }
        // Bytes that are equal in both stay: see the assumptions in the crate's README.
        let changed = |i: &usize| sector[*i] != new[*i];
        let first = (0..sector.len()).find(changed).expect("it changed");
        let last = (0..sector.len()).rfind(changed).expect("it changed");
        match rng.below(10) {
            0 => rng.fill(&mut sector[first..=last]),
            1 => sector[..(first + last) / 2].copy_from_slice(&new[..(first + last) / 2]),
            _ => sector.copy_from_slice(new),
        }
    }
    out
}
