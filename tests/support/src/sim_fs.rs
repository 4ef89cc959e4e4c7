//! A simulated file system: the disk under the real `wal` and the real data directory.
//!
//! It has two sides. The *live* side is what the process sees. The *disk* side is what a power cut
//! leaves: the synced content of each file, any of the sectors written since, the synced names, and
//! a beginning of the changes to names since. The assumptions are those of `wal/README.md`.
//!
//! Calls reach the disk side at once. While [`SimFs::hold`] is on they are only noted, in order,
//! and reach it with [`SimFs::let_through`]: the process goes on as after a sync, and a power cut
//! in between finds any beginning of the calls made. So a sync may complete later than it returns,
//! as it does for a caller that hands it over to a thread and is told of its end.
//!
//! Start at [`SimFs::new`], then `Disk::take` and [`SimFs::cut_power`].
use crate::rng::Rng;
use crate::sim_fs::content::Content;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

mod calls;
mod content;

pub use calls::{SimFile, SimFolder};

/// Error numbers of Linux.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What happens at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power fails before it: it and all later calls fail.
    Cut,
    /// It fails.
    Fail,
    /// It finds no room, if it is one that needs room. Otherwise the next such call does.
    Full,
}

/// Which syncs report success and do nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    Nothing,
    Files,
    Names,
    /// A sync of a file keeps the first sector of each write.
    Short,
}

/// A node of the tree of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    /// A file, by its number.
    File(usize),
}

/// A change to the names in a folder.
#[derive(Clone, Debug)]
enum NameOp {
    Link(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl NameOp {
    fn folder(&self) -> &Path {
        let (NameOp::Link(path, _) | NameOp::Rename(path, _) | NameOp::Unlink(path)) = self;
        path.parent().expect("a name stands in a folder")
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameOp::Link(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameOp::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            NameOp::Unlink(path) => {
                // A folder that is gone takes what was in it along.
                if names.remove(path) == Some(Node::Folder) {
                    names.retain(|other, _| !other.starts_with(path));
                }
            }
        }
    }
}

/// A change to the content of a file.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Box<[u8]>),
    Length(u64),
}

/// A call that reaches the disk side.
#[derive(Clone, Debug)]
enum Call {
    Change(usize, Change),
    Sync(usize),
    Name(NameOp),
    SyncFolder(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Content,
    synced: Content,
    /// The changes since the last sync, oldest first.
    unsynced: Vec<Change>,
}

/// Both sides.
#[derive(Clone, Debug)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, Node>,
    synced_names: BTreeMap<PathBuf, Node>,
    /// The changes to names since the last sync of their folders, oldest first.
    unsynced_names: Vec<NameOp>,
    locked: Vec<PathBuf>,
    /// The calls since the oldest one that has not reached the disk side.
    held: VecDeque<Call>,
    /// How many calls were made before the first one in `held`.
    passed: u64,
    is_holding: bool,
    /// How many bytes files may have in all; `None`: any number.
    capacity: Option<u64>,
    /// Calls made so far.
    calls: u64,
    /// What happens at the call of this number.
    fault: Option<(u64, Fault)>,
    lie: Lie,
    /// The unit of writing in bytes. A sector that is written while the power fails may be torn.
    sector: usize,
    /// For the random bits that the process asks for.
    rng: Rng,
}

/// The file system of one machine. Clones share it; [`SimFs::copy`] does not.
#[derive(Clone, Debug)]
pub struct SimFs(Rc<RefCell<Disk>>);

impl SimFs {
    /// An empty disk that writes in sectors of 512 bytes or of 4 KiB.
    pub fn new(mut rng: Rng) -> SimFs {
        let sector = *rng.pick(&[512, 4096]);
        SimFs::with_sectors(rng, sector)
    }

    /// An empty disk that writes in sectors of so many bytes.
    pub fn with_sectors(rng: Rng, sector: usize) -> SimFs {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Folder)]);
        SimFs::of(Disk {
            inodes: Vec::new(),
            names: root.clone(),
            synced_names: root,
            unsynced_names: Vec::new(),
            locked: Vec::new(),
            held: VecDeque::new(),
            passed: 0,
            is_holding: false,
            capacity: None,
            calls: 0,
            fault: None,
            lie: Lie::Nothing,
            sector,
            rng,
        })
    }

    fn of(disk: Disk) -> SimFs {
        SimFs(Rc::new(RefCell::new(disk)))
    }

    /// Another disk with the same content.
    pub fn copy(&self) -> SimFs {
        SimFs::of(self.0.borrow().clone())
    }

    /// Sets what happens at the `at`-th call from now, counted from 1.
    pub fn plan(&self, at: u64, fault: Fault) {
        let mut disk = self.0.borrow_mut();
        disk.fault = Some((disk.calls + at, fault));
    }

    /// Nothing happens to the calls from now on.
    pub fn plan_nothing(&self) {
        self.0.borrow_mut().fault = None;
    }

    pub fn set_lie(&self, lie: Lie) {
        self.0.borrow_mut().lie = lie;
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// From now on there is room for this many bytes beside those that files have; `None`: for any
    /// number.
    pub fn set_room(&self, bytes: Option<u64>) {
        let mut disk = self.0.borrow_mut();
        disk.capacity = bytes.map(|bytes| disk.used() + bytes);
    }

    /// Whether calls reach the disk side only with [`SimFs::let_through`].
    pub fn hold(&self, is_holding: bool) {
        self.0.borrow_mut().is_holding = is_holding;
    }

    /// How many calls that change something were made.
    pub fn made(&self) -> u64 {
        let disk = self.0.borrow();
        disk.passed + disk.held.len() as u64
    }

    /// The first `made` of the calls that change something have reached the disk side.
    pub fn let_through(&self, made: u64) {
        self.0.borrow_mut().let_through(made);
    }

    /// The power fails. Returns the disk that is left, as a restart finds it.
    pub fn cut_power(&self, rng: &mut Rng) -> SimFs {
        let mut disk = self.0.borrow().clone();
        let made = disk.passed + rng.below(disk.held.len() as u64 + 1);
        disk.let_through(made);
        disk.held.clear();
        disk.tear(rng);
        disk.locked.clear();
        disk.fault = None;
        disk.calls = 0;
        disk.is_holding = false;
        SimFs::of(disk)
    }

    /// The power fails after all calls that were let through. `keeps` chooses among the sectors
    /// written since the last sync, counted through all files in the order of their names; a chosen
    /// sector is left whole. Returns the disk that is left.
    pub fn cut_power_keeping(&self, mut keeps: impl FnMut(usize) -> bool) -> SimFs {
        let mut disk = self.0.borrow().clone();
        disk.held.clear();
        let mut count = 0;
        let sector = disk.sector;
        for node in disk.names.values() {
            let Node::File(number) = node else {
                continue;
            };
            let inode = &mut disk.inodes[*number];
            let changes = std::mem::take(&mut inode.unsynced);
            let (newest, written) = inode.written(&changes, sector);
            for place in written {
                if keeps(count) {
                    inode.keep_sector(place * sector as u64, sector, &newest);
                }
                count += 1;
            }
            inode.live = inode.synced.clone();
        }
        disk.locked.clear();
        disk.is_holding = false;
        SimFs::of(disk)
    }

    /// Whether nothing was written that a power cut may lose.
    pub fn is_synced(&self) -> bool {
        let disk = self.0.borrow();
        let is_synced = |node: &Node| match node {
            Node::Folder => true,
            Node::File(number) => disk.inodes[*number].unsynced.is_empty(),
        };
        disk.held.is_empty() && disk.unsynced_names.is_empty() && disk.names.values().all(is_synced)
    }

    /// The content of a file, as the process sees it; `None` if there is none.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.0.borrow();
        let Node::File(number) = disk.names.get(path)? else {
            return None;
        };
        let live = &disk.inodes[*number].live;
        let mut bytes = vec![0; live.length() as usize];
        live.read(0, &mut bytes);
        Some(bytes)
    }

    /// Turns a bit of a file over, on both sides.
    ///
    /// # Panics
    /// When the file does not exist or is shorter.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) {
        let mut disk = self.0.borrow_mut();
        let Some(Node::File(number)) = disk.names.get(path).copied() else {
            panic!("{} is a file", path.display());
        };
        let inode = &mut disk.inodes[number];
        for content in [&mut inode.live, &mut inode.synced] {
            let mut byte = [0];
            assert_eq!(content.read(offset, &mut byte), 1, "the file is longer");
            content.write(offset, &[byte[0] ^ (1 << bit)]);
        }
    }
}

impl Disk {
    /// Counts a call, and lets it fail if that is planned. `needs_room`: it may find the disk full.
    fn call(&mut self, needs_room: bool) -> io::Result<()> {
        self.calls += 1;
        let Some((at, fault)) = self.fault else {
            return Ok(());
        };
        if self.calls < at {
            return Ok(());
        }
        let errno = match fault {
            Fault::Cut => EIO,
            Fault::Fail => {
                self.fault = None;
                EIO
            }
            Fault::Full if needs_room => {
                self.fault = None;
                ENOSPC
            }
            Fault::Full => return Ok(()),
        };
        Err(io::Error::from_raw_os_error(errno))
    }

    /// The bytes of all files.
    fn used(&self) -> u64 {
        let bytes = |node: &Node| match node {
            Node::Folder => 0,
            Node::File(number) => self.inodes[*number].live.length(),
        };
        self.names.values().map(bytes).sum()
    }

    /// Refuses a call that needs `more` bytes on a full disk.
    fn check_room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            _ => Ok(()),
        }
    }

    /// Changes the live side, and sooner or later the disk side.
    fn take(&mut self, call: Call) {
        match &call {
            Call::Change(number, change) => change.apply(&mut self.inodes[*number].live),
            Call::Name(op) => op.apply(&mut self.names),
            Call::Sync(_) | Call::SyncFolder(_) => {}
        }
        if self.is_holding || !self.held.is_empty() {
            self.held.push_back(call);
        } else {
            self.passed += 1;
            self.reach(call);
        }
    }

    fn let_through(&mut self, made: u64) {
        while self.passed < made
            && let Some(call) = self.held.pop_front()
        {
            self.passed += 1;
            self.reach(call);
        }
    }

    /// A call reaches the disk side.
    fn reach(&mut self, call: Call) {
        match call {
            Call::Change(number, change) => self.inodes[number].unsynced.push(change),
            Call::Sync(number) if self.lie != Lie::Files => {
                let bytes_max = match self.lie {
                    Lie::Short => self.sector,
                    Lie::Nothing | Lie::Files | Lie::Names => usize::MAX,
                };
                self.inodes[number].sync(bytes_max);
            }
            Call::Name(op) => self.unsynced_names.push(op),
            Call::SyncFolder(folder) if self.lie != Lie::Names => {
                let ops = std::mem::take(&mut self.unsynced_names);
                for op in ops {
                    if op.folder() == folder {
                        op.apply(&mut self.synced_names);
                        if let NameOp::Unlink(path) = &op {
                            self.unsynced_names.retain(|op| op.folder() != path);
                        }
                    } else {
                        self.unsynced_names.push(op);
                    }
                }
            }
            Call::Sync(_) | Call::SyncFolder(_) => {}
        }
    }

    /// What is left on the disk side becomes the only side. Of the names, a beginning of the
    /// changes to each folder stays; of the files, any of the changed sectors.
    fn tear(&mut self, rng: &mut Rng) {
        let ops = std::mem::take(&mut self.unsynced_names);
        let mut ended: Vec<PathBuf> = Vec::new();
        for op in ops {
            if ended.iter().any(|folder| folder == op.folder()) {
                continue;
            }
            if rng.percent(30) {
                ended.push(op.folder().into());
                continue;
            }
            op.apply(&mut self.synced_names);
        }
        self.names = self.synced_names.clone();
        let mut kept = Vec::new();
        let (names, inodes) = (&mut self.names, &mut self.inodes);
        for node in names.values_mut() {
            let Node::File(number) = node else {
                continue;
            };
            let mut inode = std::mem::take(&mut inodes[*number]);
            inode.tear(self.sector, rng);
            *node = Node::File(kept.len());
            kept.push(inode);
        }
        self.inodes = kept;
        self.synced_names = self.names.clone();
    }
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write(at, bytes) => content.write(*at, bytes),
            Change::Length(bytes) => content.set_length(*bytes),
        }
    }
}

impl Inode {
    /// Makes the changes durable, of each write at most the first `bytes_max` bytes.
    fn sync(&mut self, bytes_max: usize) {
        for change in self.unsynced.drain(..) {
            match &change {
                Change::Write(at, bytes) if bytes.len() > bytes_max => {
                    self.synced.write(*at, &bytes[..bytes_max]);
                }
                Change::Write(..) | Change::Length(_) => change.apply(&mut self.synced),
            }
        }
    }

    /// The power fails: of each sector that was written, the old or a newer version is left, or a
    /// mixture, or garbage where they differ.
    fn tear(&mut self, sector: usize, rng: &mut Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        if !changes.is_empty() {
            // All of it, nothing of it, or a part.
            let kept = [0, 20, 50, 80, 100][rng.index(5)];
            let (newest, written) = self.written(&changes, sector);
            if rng.percent(50) {
                self.synced.set_length(newest.length());
            }
            for number in written {
                if rng.percent(kept) {
                    self.tear_sector(number * sector as u64, sector, &newest, rng);
                }
            }
        }
        self.live = self.synced.clone();
    }

    /// The content after `changes`, and the numbers of the sectors that they have written.
    fn written(&self, changes: &[Change], sector: usize) -> (Content, Vec<u64>) {
        let mut newest = self.synced.clone();
        let mut written = Vec::new();
        for change in changes {
            change.apply(&mut newest);
            if let Change::Write(at, bytes) = change {
                let end = at + bytes.len() as u64;
                written.extend(*at / sector as u64..end.div_ceil(sector as u64));
            }
        }
        written.sort_unstable();
        written.dedup();
        (newest, written)
    }

    /// The newest version of a sector has reached the disk.
    fn keep_sector(&mut self, at: u64, sector: usize, newest: &Content) {
        let mut new = vec![0; sector];
        let length = newest.read(at, &mut new);
        self.synced.write(at, &new[..length]);
    }

    fn tear_sector(&mut self, at: u64, sector: usize, newest: &Content, rng: &mut Rng) {
        let mut old = vec![0; sector];
        let length = self.synced.read(at, &mut old);
        let mut new = vec![0; length];
        newest.read(at, &mut new);
        old.truncate(length);
        // Bytes that are equal in both stay: see the assumptions in the README of `wal`.
        let is_changed = |i: &usize| old[*i] != new[*i];
        let (Some(first), Some(last)) =
            ((0..length).find(is_changed), (0..length).rfind(is_changed))
        else {
            return;
        };
        match rng.below(10) {
            0 => {
                rng.fill(&mut old[first..=last]);
                self.synced.write(at, &old);
            }
            1 => self.synced.write(at, &new[..(first + last) / 2]),
            _ => self.synced.write(at, &new),
        }
    }
}
