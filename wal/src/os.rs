//! Every system call of the log, each in one place, each of them a step that a test can fail or stop at.
//!
//! It must not decide anything: what a failure means is for its callers, which treat all but a full disk as final.
//! A hook sees each call before it is made; without one the calls are just made. Start reading at `Os`.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use crate::Error;
use crate::map::Map;

/// A kind of system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    MakeDir,
    OpenDir,
    Lock,
    List,
    Open,
    Create,
    Allocate,
    Length,
    Read,
    Write,
    Map,
    Advise,
    Sync,
    SyncDir,
    Rename,
    Unlink,
}

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub op: Op,
    /// The file in the data directory; empty when it is the directory itself.
    pub file: &'a str,
    /// The new name, for `Rename`.
    pub to: &'a str,
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Make,
    /// Only for `Sync`, `SyncDir` and `Advise`: report success without making it.
    Skip,
    /// Report this error without making it.
    Fail(i32),
}

/// Sees every system call before it is made.
pub type Hook = Box<dyn FnMut(Call<'_>) -> Verdict>;

/// The data directory and the calls on it.
pub struct Os {
    dir: PathBuf,
    handle: File,
    hook: Option<Hook>,
}

impl Op {
    /// The call's name in error texts.
    fn name(self) -> &'static str {
        match self {
            Op::MakeDir => "mkdir",
            Op::OpenDir | Op::Open | Op::Create => "open",
            Op::Lock => "flock",
            Op::List => "readdir",
            Op::Allocate => "fallocate",
            Op::Length => "fstat",
            Op::Read => "pread",
            Op::Write => "pwrite",
            Op::Map => "mmap",
            Op::Advise => "fadvise",
            Op::Sync | Op::SyncDir => "fdatasync",
            Op::Rename => "rename",
            Op::Unlink => "unlink",
        }
    }
}

/// Makes the call unless a test says otherwise, and makes an error a value with its place.
fn step<T>(
    verdict: Verdict,
    dir: &Path,
    call: Call,
    make: impl FnOnce() -> io::Result<T>,
) -> Result<T, (Error, io::ErrorKind)> {
    let made = match verdict {
        Verdict::Make | Verdict::Skip => make(),
        Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
    };
    made.map_err(|error| {
        let file = dir.join(call.file).display().to_string();
        let (call, text) = (call.op.name(), error.to_string());
        (Error::Io { call, file, text }, error.kind())
    })
}

fn ask(hook: &mut Option<Hook>, call: Call) -> Verdict {
    hook.as_mut().map_or(Verdict::Make, |hook| hook(call))
}

fn retry(mut make: impl FnMut() -> Result<(), Errno>) -> io::Result<()> {
    loop {
        match make() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

impl Os {
    /// The directory, made (and made durable) if it is not there.
    pub fn open(dir: &Path, mut hook: Option<Hook>) -> Result<Os, Error> {
        let (file, to) = ("", "");
        if !dir.is_dir() {
            let op = Op::MakeDir;
            let call = Call { op, file, to };
            step(ask(&mut hook, call), dir, call, || {
                fs::create_dir_all(dir)?;
                let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
            })
            .map_err(|e| e.0)?;
        }
        let op = Op::OpenDir;
        let call = Call { op, file, to };
        let opened = step(ask(&mut hook, call), dir, call, || File::open(dir));
        let handle = opened.map_err(|e| e.0)?;
        Ok(Os {
            dir: dir.into(),
            handle,
            hook,
        })
    }

    fn call<T>(
        &mut self,
        op: Op,
        file: &str,
        make: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, Error> {
        let path = self.dir.join(file);
        let call = Call { op, file, to: "" };
        let verdict = ask(&mut self.hook, call);
        step(verdict, &self.dir, call, || make(&path)).map_err(|e| e.0)
    }

    /// The exclusive lock of the directory, held as long as this value lives; false: another process has it.
    pub fn lock(&mut self) -> Result<bool, Error> {
        let handle = self.handle.try_clone();
        self.call(Op::Lock, "", |_| match handle?.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        })
    }

    /// The names in the directory, sorted.
    pub fn list(&mut self) -> Result<Vec<String>, Error> {
        self.call(Op::List, "", |dir| {
            let mut names = Vec::new();
            for entry in fs::read_dir(dir)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        })
    }

    /// Opens a file for reading and writing.
    pub fn open_file(&mut self, name: &str) -> Result<File, Error> {
        self.call(Op::Open, name, |path| {
            OpenOptions::new().read(true).write(true).open(path)
        })
    }

    /// A new file of `bytes` bytes, all of them allocated; `None` if the disk has no room for it, and then no file.
    pub fn create(&mut self, name: &str, bytes: u64) -> Result<Option<File>, Error> {
        let file = self.call(Op::Create, name, |path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            options.open(path)
        })?;
        if self.allocate(&file, name, bytes)? {
            return Ok(Some(file));
        }
        // A fallocate that failed leaves a part of the file behind on ext4.
        self.unlink(name)?;
        Ok(None)
    }

    /// Allocates a file up to `bytes`; false if the disk has no room. A sparse file instead would be a SIGBUS when the
    /// disk is full.
    pub fn allocate(&mut self, file: &File, name: &str, bytes: u64) -> Result<bool, Error> {
        let (op, to) = (Op::Allocate, "");
        let call = Call { op, file: name, to };
        let verdict = ask(&mut self.hook, call);
        let allocated = step(verdict, &self.dir, call, || {
            retry(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes))
        });
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match allocated {
            Ok(()) => Ok(true),
            Err((_, StorageFull | QuotaExceeded | FileTooLarge)) => Ok(false),
            Err((error, _)) => Err(error),
        }
    }

    /// A file's length in bytes.
    pub fn length(&mut self, file: &File, name: &str) -> Result<u64, Error> {
        self.call(Op::Length, name, |_| Ok(file.metadata()?.len()))
    }

    /// Fills `into` from the start of a file; the number of bytes that were there.
    pub fn read(&mut self, file: &File, name: &str, into: &mut [u8]) -> Result<usize, Error> {
        self.call(Op::Read, name, |_| {
            let mut filled = 0;
            while filled < into.len() {
                match file.read_at(&mut into[filled..], filled as u64) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// Writes in pieces of a page, each on a page's boundary: what is written in large pieces sits in the page cache in
    /// large folios, and then every later sync of a byte in one writes all of it (2 MiB for a record of 256 bytes).
    pub fn write(&mut self, file: &File, name: &str, bytes: &[u8], at: u64) -> Result<(), Error> {
        const PAGE: usize = crate::format::PAGE;
        self.call(Op::Write, name, |_| {
            let mut from = 0;
            while from < bytes.len() {
                let offset = at + from as u64;
                let piece = PAGE - (offset % PAGE as u64) as usize;
                let to = bytes.len().min(from + piece);
                file.write_all_at(&bytes[from..to], offset)?;
                from = to;
            }
            Ok(())
        })
    }

    /// Maps `bytes` bytes of a file, which must all be allocated.
    pub fn map(&mut self, file: &File, name: &str, bytes: u64) -> Result<Map, Error> {
        self.call(Op::Map, name, |_| Map::new(file, bytes as usize))
    }

    /// Gives the clean pages of a file back, so that a later read shows what the disk has and the next write meets
    /// small folios.
    pub fn drop_cache(&mut self, file: &File, name: &str) -> Result<(), Error> {
        let (op, to) = (Op::Advise, "");
        self.may_skip(Call { op, file: name, to }, |_| {
            rustix::fs::fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)
        })
    }

    /// Waits until all of a file is on the disk, what was written through a map included.
    pub fn sync(&mut self, file: &File, name: &str) -> Result<(), Error> {
        let (op, to) = (Op::Sync, "");
        self.may_skip(Call { op, file: name, to }, |_| file.sync_data())
    }

    /// Waits until the names in the directory are on the disk.
    pub fn sync_dir(&mut self) -> Result<(), Error> {
        let (op, file, to) = (Op::SyncDir, "", "");
        self.may_skip(Call { op, file, to }, |handle| handle.sync_all())
    }

    fn may_skip(
        &mut self,
        call: Call,
        make: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let verdict = ask(&mut self.hook, call);
        let made = step(verdict, &self.dir, call, || match verdict {
            Verdict::Skip => Ok(()),
            Verdict::Make | Verdict::Fail(_) => make(&self.handle),
        });
        made.map_err(|e| e.0)
    }

    /// Gives a file another name, in place of whatever had that.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Error> {
        let (op, file) = (Op::Rename, from);
        let paths = (self.dir.join(from), self.dir.join(to));
        let call = Call { op, file, to };
        let verdict = ask(&mut self.hook, call);
        let made = step(verdict, &self.dir, call, || fs::rename(&paths.0, &paths.1));
        made.map_err(|e| e.0)
    }

    /// Removes a file.
    pub fn unlink(&mut self, name: &str) -> Result<(), Error> {
        self.call(Op::Unlink, name, |path| fs::remove_file(path))
    }
}
