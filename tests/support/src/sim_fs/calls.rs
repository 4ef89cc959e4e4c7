//! The calls of a process to the simulated disk: its file system, open files and maps.
use super::{Call, Change, Disk, Fault, Inode, NameOp, Node, SimFs};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use wal::fs::{Access, FileMap, FileSystem, OpenFile, PathKind};

fn not_found() -> io::Error {
    ErrorKind::NotFound.into()
}

/// An open folder of [`SimFs`].
pub struct SimFolder {
    disk: Rc<RefCell<Disk>>,
    path: PathBuf,
    has_lock: Cell<bool>,
}

impl Drop for SimFolder {
    fn drop(&mut self) {
        if self.has_lock.get() {
            let path = &self.path;
            self.disk.borrow_mut().locked.retain(|p| p != path);
        }
    }
}

/// An open file of [`SimFs`], and its map.
#[derive(Debug)]
pub struct SimFile {
    disk: Rc<RefCell<Disk>>,
    number: usize,
}

impl FileSystem for SimFs {
    type File = SimFile;
    type Folder = SimFolder;

    fn kind(&self, path: &Path) -> Option<PathKind> {
        Some(match self.0.borrow().names.get(path)? {
            Node::Folder => PathKind::Folder,
            Node::File(_) => PathKind::File,
        })
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        let missing = path.ancestors().filter(|p| !disk.names.contains_key(*p));
        let mut missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        while let Some(folder) = missing.pop() {
            let op = NameOp::Link(folder, Node::Folder);
            let parent = op.folder().to_path_buf();
            disk.take(Call::Name(op));
            disk.take(Call::SyncFolder(parent));
        }
        Ok(())
    }

    fn open_folder(&self, path: &Path) -> io::Result<SimFolder> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        match disk.names.get(path) {
            Some(Node::Folder) => Ok(SimFolder {
                disk: self.0.clone(),
                path: path.into(),
                has_lock: Cell::new(false),
            }),
            Some(Node::File(_)) | None => Err(not_found()),
        }
    }

    fn try_lock(&self, folder: &SimFolder) -> io::Result<bool> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        if disk.locked.contains(&folder.path) {
            return Ok(false);
        }
        disk.locked.push(folder.path.clone());
        folder.has_lock.set(true);
        Ok(true)
    }

    fn sync_folder(&self, folder: &SimFolder) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        disk.take(Call::SyncFolder(folder.path.clone()));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        if disk.names.get(folder) != Some(&Node::Folder) {
            return Err(not_found());
        }
        let inside = disk.names.keys().filter(|p| p.parent() == Some(folder));
        let names = inside.filter_map(|p| p.file_name()?.to_str());
        Ok(names.map(String::from).collect())
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<SimFile> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        match disk.names.get(path) {
            Some(Node::File(number)) => Ok(self.file(*number)),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = self.0.borrow_mut();
        disk.call(true)?;
        if let Some(Node::File(number)) = disk.names.get(path).copied() {
            disk.take(Call::Change(number, Change::Length(0)));
            return Ok(self.file(number));
        }
        let number = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.take(Call::Name(NameOp::Link(path.into(), Node::File(number))));
        Ok(self.file(number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        if !disk.names.contains_key(from) {
            return Err(not_found());
        }
        assert_eq!(from.parent(), to.parent(), "a file stays in its folder");
        disk.take(Call::Name(NameOp::Rename(from.into(), to.into())));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        if !disk.names.contains_key(path) {
            return Err(not_found());
        }
        disk.take(Call::Name(NameOp::Unlink(path.into())));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        let below = disk.names.keys().rev().filter(|p| p.starts_with(path));
        let below: Vec<PathBuf> = below.cloned().collect();
        for path in below {
            disk.take(Call::Name(NameOp::Unlink(path)));
        }
        Ok(())
    }

    fn random(&self) -> io::Result<u64> {
        let mut disk = self.0.borrow_mut();
        disk.call(false)?;
        Ok(disk.rng.next_u64())
    }
}

impl SimFs {
    fn file(&self, number: usize) -> SimFile {
        SimFile {
            disk: self.0.clone(),
            number,
        }
    }
}

impl OpenFile for SimFile {
    type Map = SimFile;

    fn length(&self) -> io::Result<u64> {
        let mut disk = self.disk.borrow_mut();
        disk.call(false)?;
        Ok(disk.inodes[self.number].live.length())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        // No file has holes here: bytes that exist need no room.
        let length = disk.inodes[self.number].live.length();
        disk.call(bytes > length)?;
        disk.check_room(bytes.saturating_sub(length))?;
        disk.take(Call::Change(self.number, Change::Length(bytes.max(length))));
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.call(false)?;
        disk.take(Call::Change(self.number, Change::Length(bytes)));
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut disk = self.disk.borrow_mut();
        disk.call(false)?;
        Ok(disk.inodes[self.number].live.read(at, into))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        let length = disk.inodes[self.number].live.length();
        let more = (at + bytes.len() as u64).saturating_sub(length);
        disk.call(more > 0)?;
        disk.check_room(more)?;
        disk.take(Call::Change(self.number, Change::Write(at, bytes.into())));
        Ok(())
    }

    fn map(&self, bytes: u64) -> io::Result<SimFile> {
        let mut disk = self.disk.borrow_mut();
        disk.call(false)?;
        let length = disk.inodes[self.number].live.length();
        assert!(bytes <= length, "what is mapped is allocated");
        Ok(SimFile {
            disk: self.disk.clone(),
            number: self.number,
        })
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.borrow_mut().call(false)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.call(false)?;
        disk.take(Call::Sync(self.number));
        Ok(())
    }
}

impl FileMap for SimFile {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let mut disk = self.disk.borrow_mut();
        // A store to memory is no call and cannot fail, but the power may be gone.
        if matches!(disk.fault, Some((call, Fault::Cut)) if disk.calls >= call) {
            return;
        }
        let change = Change::Write(at as u64, bytes.into());
        disk.take(Call::Change(self.number, change));
    }

    fn on_synced(&mut self, _: usize) -> io::Result<()> {
        self.disk.borrow_mut().call(false)
    }
}
