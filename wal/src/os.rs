//! Every system call of the log, each in one place, each of them a step that a test can fail or
//! stop at.
//!
//! It must not decide anything: what a failure means is for its callers, which treat all but a full
//! disk as final. A hook sees each call before it is made; without one the calls are just made.
//! Start reading at `Os`.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, IFlags};
use rustix::io::Errno;

use crate::Error;
use crate::format::PAGE;
use crate::map::Map;

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its name, as in `fdatasync`; `creat` makes a file, `fsync` is the directory's sync.
    pub name: &'static str,
    /// The file in the data directory; empty when it is the directory itself.
    pub file: &'a str,
    /// The new name, for `rename`.
    pub to: &'a str,
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Make,
    /// Report success without making it; only for `fdatasync`, `fsync` and `fadvise`.
    Skip,
    /// Report this error without making it.
    Fail(i32),
}

/// Sees every system call before it is made.
pub type Hook = Box<dyn FnMut(Call<'_>) -> Verdict>;

/// The data directory and the calls on it.
pub struct Os {
    dir: PathBuf,
    handle: Option<File>,
    hook: Option<Hook>,
}

impl Os {
    /// Makes no call yet: `enter` does.
    pub fn new(dir: &Path, hook: Option<Hook>) -> Os {
        Os {
            dir: dir.into(),
            handle: None,
            hook,
        }
    }

    /// Asks the hook, then makes the call; `make` is told to do nothing when it is to be skipped.
    fn ask<T>(
        &mut self,
        call: Call,
        make: impl FnOnce(&Path, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let verdict = self.hook.as_mut().map_or(Verdict::Make, |hook| hook(call));
        match verdict {
            Verdict::Make => make(&self.dir.join(call.file), false),
            Verdict::Skip => make(&self.dir.join(call.file), true),
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn error(&self, call: &'static str, file: &str, error: io::Error) -> Error {
        let (file, text) = (self.dir.join(file).display().to_string(), error.to_string());
        Error::Io { call, file, text }
    }

    fn call<T>(
        &mut self,
        name: &'static str,
        file: &str,
        make: impl FnOnce(&Path, bool) -> io::Result<T>,
    ) -> Result<T, Error> {
        let made = self.ask(Call { name, file, to: "" }, make);
        made.map_err(|e| self.error(name, file, e))
    }

    /// Makes the directory if it is not there (durably) and locks it for as long as this value
    /// lives; false: another process has it.
    pub fn enter(&mut self) -> Result<bool, Error> {
        let missing = self
            .dir
            .ancestors()
            .take_while(|d| !d.exists() && !d.as_os_str().is_empty());
        let missing = missing.count();
        if missing > 0 {
            self.call("mkdir", "", |dir, _| {
                let mut made = DirBuilder::new();
                made.recursive(true).mode(0o700).create(dir)?;
                dir.ancestors()
                    .skip(1)
                    .take(missing)
                    .try_for_each(|parent| match parent.as_os_str().is_empty() {
                        true => File::open(".")?.sync_all(),
                        false => File::open(parent)?.sync_all(),
                    })
            })?;
        }
        let handle = self.call("open", "", |dir, _| File::open(dir))?;
        let locked = self.call("flock", "", |_, _| match handle.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        });
        self.handle = Some(handle);
        locked
    }

    /// The names in the directory, sorted.
    pub fn list(&mut self) -> Result<Vec<String>, Error> {
        self.call("readdir", "", |dir, _| {
            let mut names = Vec::new();
            for entry in fs::read_dir(dir)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        })
    }

    /// Opens a file for reading and writing.
    pub fn open(&mut self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        self.call("open", name, |p, _| options.read(true).write(true).open(p))
    }

    /// A new file of `bytes` bytes, all of them allocated; `None` if the disk has no room for it,
    /// and then no file.
    pub fn create(&mut self, name: &str, bytes: u64) -> Result<Option<File>, Error> {
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        let file = self.call("creat", name, |path, _| options.open(path))?;
        // On a file system that copies what is rewritten, allocated space promises nothing, unless
        // it is told not to; the others do not know the flag, and need none.
        if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
            let _ = rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW);
        }
        if self.allocate(&file, name, bytes)? {
            return Ok(Some(file));
        }
        // A fallocate that failed leaves a part of the file behind on ext4.
        self.unlink(name)?;
        Ok(None)
    }

    /// Allocates a file up to `bytes`; false if the disk has no room. A sparse file instead would
    /// be a SIGBUS when the disk is full.
    pub fn allocate(&mut self, file: &File, name: &str, bytes: u64) -> Result<bool, Error> {
        let (call, to) = ("fallocate", "");
        let allocated = self.ask(
            Call {
                name: call,
                file: name,
                to,
            },
            |_, _| {
                loop {
                    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
                        Err(Errno::INTR) => {}
                        other => return other.map_err(io::Error::from),
                    }
                }
            },
        );
        use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match allocated {
            Ok(()) => Ok(true),
            Err(e) if [StorageFull, QuotaExceeded, FileTooLarge].contains(&e.kind()) => Ok(false),
            Err(e) => Err(self.error(call, name, e)),
        }
    }

    /// Takes all bytes from a file, which must not be mapped.
    pub fn truncate(&mut self, file: &File, name: &str) -> Result<(), Error> {
        self.call("ftruncate", name, |_, _| file.set_len(0))
    }

    /// A file's length in bytes.
    pub fn length(&mut self, file: &File, name: &str) -> Result<u64, Error> {
        self.call("fstat", name, |_, _| Ok(file.metadata()?.len()))
    }

    /// Fills `into` from the start of a file; the number of bytes that were there.
    pub fn read(&mut self, file: &File, name: &str, into: &mut [u8]) -> Result<usize, Error> {
        self.call("pread", name, |_, _| {
            let mut filled = 0;
            while filled < into.len() {
                match file.read_at(&mut into[filled..], filled as u64) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// Writes in pieces of a page, each on a page's boundary: what is written in large pieces sits
    /// in the page cache in large folios, and then every later sync of a byte in one writes all
    /// of it (2 MiB for a record of 256 bytes).
    pub fn write(&mut self, file: &File, name: &str, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.call("pwrite", name, |_, _| {
            let mut from = 0;
            while from < bytes.len() {
                let offset = at + from as u64;
                let to = bytes.len().min(from + PAGE - offset as usize % PAGE);
                file.write_all_at(&bytes[from..to], offset)?;
                from = to;
            }
            Ok(())
        })
    }

    /// Maps `bytes` bytes of a file, which must all be allocated.
    pub fn map(&mut self, file: &File, name: &str, bytes: u64) -> Result<Map, Error> {
        self.call("mmap", name, |_, _| Map::new(file, bytes as usize))
    }

    /// Gives the clean pages of a file back, so that a later read shows what the disk has and the
    /// next write meets small folios.
    pub fn drop_cache(&mut self, file: &File, name: &str) -> Result<(), Error> {
        self.call("fadvise", name, |_, skip| match skip {
            true => Ok(()),
            false => Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?),
        })
    }

    /// Waits until all of a file is on the disk, what was written through a map included.
    pub fn sync(&mut self, file: &File, name: &str) -> Result<(), Error> {
        self.call("fdatasync", name, |_, skip| match skip {
            true => Ok(()),
            false => file.sync_data(),
        })
    }

    /// Waits until the names in the directory are on the disk.
    pub fn sync_dir(&mut self) -> Result<(), Error> {
        let handle = self.handle.take().expect("the directory was entered");
        let synced = self.call("fsync", "", |_, skip| match skip {
            true => Ok(()),
            false => handle.sync_all(),
        });
        self.handle = Some(handle);
        synced
    }

    /// Gives a file another name, in place of whatever had that.
    pub fn rename(&mut self, file: &str, to: &str) -> Result<(), Error> {
        let (name, target) = ("rename", self.dir.join(to));
        let made = self.ask(Call { name, file, to }, |path, _| fs::rename(path, target));
        made.map_err(|e| self.error(name, file, e))
    }

    /// Removes a file.
    pub fn unlink(&mut self, name: &str) -> Result<(), Error> {
        self.call("unlink", name, |path, _| fs::remove_file(path))
    }
}
