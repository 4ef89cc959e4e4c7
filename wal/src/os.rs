//! Every system call of the log, each in one function.
//!
//! This file decides nothing: what a failure means is up to its callers, which treat every failure
//! except a full disk as final. A test may install a [`Hook`], which sees each call before it is
//! made and may let it fail. Start reading at [`Os`].
use std::fs::{self, DirBuilder, File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, IFlags};
use rustix::io::Errno;

use crate::Error;
use crate::format::PAGE;
use crate::map::SegmentMap;

/// The mode of the data directory: bodies may be secret.
const DIR_MODE: u32 = 0o700;
/// The mode of each file.
const FILE_MODE: u32 = 0o600;

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct SystemCall<'a> {
    /// The name of the call. `creat` makes a file, `fdatasync` syncs a file and `fsync` syncs the
    /// directory.
    pub name: &'static str,
    /// The name of the file in the data directory; empty for the directory itself.
    pub file: &'a str,
    /// The new name, in a `rename`; otherwise empty.
    pub to: &'a str,
}

/// What a [`Hook`] wants to happen to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call is made.
    Make,
    /// The call is not made and success is reported. Only `fdatasync`, `fsync` and `fadvise` heed
    /// it; any other call is made.
    Skip,
    /// The call is not made and this error number is reported.
    Fail(i32),
}

/// Sees every system call before it is made.
pub type Hook = Box<dyn FnMut(SystemCall<'_>) -> Verdict>;

/// The data directory and the system calls on it.
pub struct Os {
    dir: PathBuf,
    /// The directory, which carries the lock; `None` before [`Os::open_dir`].
    handle: Option<File>,
    /// `None` outside tests.
    hook: Option<Hook>,
}

impl Os {
    /// Makes no system call.
    pub fn new(dir: &Path, hook: Option<Hook>) -> Os {
        Os {
            dir: dir.into(),
            handle: None,
            hook,
        }
    }

    /// Shows the call to the hook, then calls `make` with the path of its file. The flag tells
    /// `make` to skip the call.
    fn intercept<T>(
        &mut self,
        call: SystemCall,
        make: impl FnOnce(&Path, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let skip = self.show(call)?;
        make(&self.dir.join(call.file), skip)
    }

    /// Shows the call to the hook. The flag tells to skip the call.
    fn show(&mut self, call: SystemCall) -> io::Result<bool> {
        let verdict = match &mut self.hook {
            Some(hook) => hook(call),
            None => Verdict::Make,
        };
        match verdict {
            Verdict::Make => Ok(false),
            Verdict::Skip => Ok(true),
            Verdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn error(&self, call: &'static str, file: &str, error: io::Error) -> Error {
        Error::Io {
            call,
            file: self.dir.join(file).display().to_string(),
            text: error.to_string(),
        }
    }

    /// A call on one file whose failure is final.
    fn call<T>(
        &mut self,
        name: &'static str,
        file: &str,
        make: impl FnOnce(&Path, bool) -> io::Result<T>,
    ) -> Result<T, Error> {
        let call = SystemCall { name, file, to: "" };
        self.intercept(call, make)
            .map_err(|e| self.error(name, file, e))
    }

    /// Makes the directory durable if it does not exist, then opens and locks it. The lock is held
    /// until this value is dropped. `false`: another process holds the lock.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn open_dir(&mut self) -> Result<bool, Error> {
        let missing = self
            .dir
            .ancestors()
            .take_while(|d| !d.exists() && !d.as_os_str().is_empty())
            .count();
        if missing > 0 {
            self.call("mkdir", "", |dir, _| make_dirs(dir, missing))?;
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

    /// The names in the directory, sorted. Names that are not UTF-8 are left out: none of them is
    /// the log's.
    ///
    /// # Errors
    ///
    /// A system call failed.
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
    ///
    /// # Errors
    ///
    /// A system call failed, or the name is not that of a regular file.
    pub fn open(&mut self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        self.call("open", name, |path, _| {
            let file = options.read(true).write(true).open(path)?;
            refuse_wrong_kind(file)
        })
    }

    /// Makes a file of `bytes` bytes, all of them allocated. `None`: the disk has no room, and the
    /// file does not exist.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn create(&mut self, name: &str, bytes: u64) -> Result<Option<File>, Error> {
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE);
        let file = self.call("creat", name, |path, _| {
            refuse_wrong_kind(options.open(path)?)
        })?;
        // A copy-on-write file system needs new space for each rewrite, so allocating guarantees
        // nothing there, unless this flag is set. Other file systems do not know the flag and do
        // not need it, so its failure is ignored.
        if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
            let _ = rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW);
        }
        if self.allocate(&file, name, bytes)? {
            return Ok(Some(file));
        }
        // On ext4 a fallocate that fails leaves a part of the file behind.
        self.unlink(name)?;
        Ok(None)
    }

    /// Allocates the first `bytes` bytes of a file. `false`: the disk has no room. A write through
    /// the map of a sparse file would be a SIGBUS on a full disk.
    ///
    /// # Errors
    ///
    /// A system call failed for another reason.
    pub fn allocate(&mut self, file: &File, name: &str, bytes: u64) -> Result<bool, Error> {
        let call = SystemCall {
            name: "fallocate",
            file: name,
            to: "",
        };
        let allocated = self.intercept(call, |_, _| {
            loop {
                match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
                    Err(Errno::INTR) => {}
                    other => return other.map_err(io::Error::from),
                }
            }
        });
        match allocated {
            Ok(()) => Ok(true),
            Err(e) if is_out_of_room(&e) => Ok(false),
            Err(e) => Err(self.error(call.name, name, e)),
        }
    }

    /// Removes the content of a file, which must not be mapped.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn truncate(&mut self, file: &File, name: &str) -> Result<(), Error> {
        self.call("ftruncate", name, |_, _| file.set_len(0))
    }

    /// The length of a file in bytes.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn length(&mut self, file: &File, name: &str) -> Result<u64, Error> {
        self.call("fstat", name, |_, _| Ok(file.metadata()?.len()))
    }

    /// Reads from the start of a file until `into` is full or the file ends. Returns how many bytes
    /// were read.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn read(&mut self, file: &File, name: &str, into: &mut [u8]) -> Result<usize, Error> {
        self.call("pread", name, |_, _| {
            let mut filled = 0;
            while filled < into.len() {
                match file.read_at(&mut into[filled..], filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// Writes `bytes` at the offset `at`, in pieces that do not cross a page. A larger write puts
    /// large folios into the page cache, and then each later sync of one byte in a folio writes all
    /// of it (2 MiB for a record of 256 bytes).
    ///
    /// # Errors
    ///
    /// A system call failed.
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

    /// Maps the first `bytes` bytes of a file, all of which must be allocated.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn map(&mut self, file: &File, name: &str, bytes: u64) -> Result<SegmentMap, Error> {
        self.call("mmap", name, |_, _| SegmentMap::new(file, bytes as usize))
    }

    /// Drops the clean pages of a file from the page cache. A later read gets what the disk has,
    /// and a later write meets small folios (see [`Os::write`]).
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn drop_cache(&mut self, file: &File, name: &str) -> Result<(), Error> {
        self.call("fadvise", name, |_, skip| {
            if !skip {
                rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
            }
            Ok(())
        })
    }

    /// Returns once everything that was written to a file is on the disk, also through a map.
    ///
    /// # Errors
    ///
    /// A system call failed. What of it is on the disk is unknown then, and stays so: a second sync
    /// reports success although data is lost.
    pub fn sync(&mut self, file: &File, name: &str) -> Result<(), Error> {
        // Not `call`, which makes the path of the file: a sync is on the way of each write.
        let call = SystemCall {
            name: "fdatasync",
            file: name,
            to: "",
        };
        let synced = match self.show(call) {
            Ok(true) => Ok(()),
            Ok(false) => file.sync_data(),
            Err(error) => Err(error),
        };
        synced.map_err(|error| self.error(call.name, name, error))
    }

    /// Returns once the names in the directory are on the disk.
    ///
    /// # Errors
    ///
    /// A system call failed.
    ///
    /// # Panics
    ///
    /// If the directory was not opened.
    pub fn sync_dir(&mut self) -> Result<(), Error> {
        let handle = self.handle.take().expect("the directory was opened");
        let synced = self.call(
            "fsync",
            "",
            |_, skip| {
                if skip { Ok(()) } else { handle.sync_all() }
            },
        );
        self.handle = Some(handle);
        synced
    }

    /// Renames a file. A file that had the new name is replaced.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn rename(&mut self, file: &str, to: &str) -> Result<(), Error> {
        let call = SystemCall {
            name: "rename",
            file,
            to,
        };
        let target = self.dir.join(to);
        self.intercept(call, |path, _| fs::rename(path, target))
            .map_err(|e| self.error(call.name, file, e))
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn unlink(&mut self, name: &str) -> Result<(), Error> {
        self.call("unlink", name, |path, _| fs::remove_file(path))
    }
}

/// Refuses what is not a regular file. Opening a FIFO for reading and writing does not wait.
fn refuse_wrong_kind(file: File) -> io::Result<File> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(io::Error::other(format!(
        "it is {}, not a file: move it away",
        kind_of(kind)
    )))
}

/// What a file that is not a regular file is, for messages: `a directory`, `a FIFO`.
pub fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Makes `dir` and those of its parents that do not exist, `missing` directories in all, and syncs
/// the directory above each.
fn make_dirs(dir: &Path, missing: usize) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIR_MODE).create(dir)?;
    for parent in dir.ancestors().skip(1).take(missing) {
        let is_current = parent.as_os_str().is_empty();
        let parent = if is_current { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Whether the disk, the quota or the limit of the process for files has no room left.
fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
