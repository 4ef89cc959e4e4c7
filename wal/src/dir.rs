//! The directory of a log: each call on it, with the error that the log reports for it.
//!
//! This file decides nothing: the meaning of a failure is up to its callers, which treat every
//! failure except a full disk as final. A test may install a [`Hook`], which sees each call before
//! it is made and may let it fail. Start reading at [`LogDir`].
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::fs::{Access, FileSystem, OpenFile};
use crate::os::{is_out_of_room, write_by_pages};

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

/// A [`Hook`]'s decision about a system call.
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

/// Sees every system call before it is made, in the thread that makes it.
pub type Hook = Box<dyn FnMut(SystemCall<'_>) -> Verdict + Send>;

/// The data directory and the calls on it.
pub struct LogDir<F: FileSystem> {
    fs: F,
    path: PathBuf,
    /// The directory, which carries the lock; `None` before [`LogDir::lock`].
    handle: Option<F::Folder>,
    /// `None` outside tests.
    hook: Option<Hook>,
}

impl<F: FileSystem> LogDir<F> {
    /// The log's directory at `path`, not opened yet. Makes no system call.
    pub fn new(fs: F, path: &Path, hook: Option<Hook>) -> LogDir<F> {
        LogDir {
            fs,
            path: path.into(),
            handle: None,
            hook,
        }
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows the call to the hook, then calls `make` with the path of its file. The flag tells
    /// `make` to skip the call.
    fn intercept<T>(
        &mut self,
        call: SystemCall,
        make: impl FnOnce(&F, &Path, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let skip = self.show(call)?;
        make(&self.fs, &self.path.join(call.file), skip)
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
            file: self.path.join(file).display().to_string(),
            text: error.to_string(),
        }
    }

    /// A call on one file whose failure is final.
    fn call<T>(
        &mut self,
        name: &'static str,
        file: &str,
        make: impl FnOnce(&F, &Path, bool) -> io::Result<T>,
    ) -> Result<T, Error> {
        let call = SystemCall { name, file, to: "" };
        self.intercept(call, make)
            .map_err(|e| self.error(name, file, e))
    }

    /// A call on an open file whose failure is final. The flag tells `make` to skip it. Makes no path
    /// unless it fails: writes and syncs are on the way of each request.
    fn file_call<T>(
        &mut self,
        name: &'static str,
        file: &str,
        make: impl FnOnce(bool) -> io::Result<T>,
    ) -> Result<T, Error> {
        let call = SystemCall { name, file, to: "" };
        self.show(call)
            .and_then(make)
            .map_err(|e| self.error(name, file, e))
    }

    /// Makes the directory durable if it does not exist, then opens and locks it. The lock is held
    /// until this value is dropped. `false`: another process holds the lock.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn lock(&mut self) -> Result<bool, Error> {
        if self.fs.kind(&self.path).is_none() {
            self.call("mkdir", "", |fs, path, _| fs.create_folder(path))?;
        }
        let handle = self.call("open", "", |fs, path, _| fs.open_folder(path))?;
        let locked = self.call("flock", "", |fs, _, _| fs.try_lock(&handle));
        self.handle = Some(handle);
        locked
    }

    /// The names in the directory, sorted.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn list(&mut self) -> Result<Vec<String>, Error> {
        self.call("readdir", "", |fs, path, _| fs.list(path))
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// A system call failed, or the name is not that of a regular file.
    pub fn open(&mut self, name: &str) -> Result<F::File, Error> {
        self.call("open", name, |fs, path, _| fs.open(path, Access::Write))
    }

    /// Makes a file of `bytes` bytes, all of them allocated. `None`: the disk has no room, and the
    /// file does not exist.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn create(&mut self, name: &str, bytes: u64) -> Result<Option<F::File>, Error> {
        let call = SystemCall {
            name: "creat",
            file: name,
            to: "",
        };
        let file = match self.intercept(call, |fs, path, _| fs.create(path)) {
            Ok(file) => file,
            // No room for the name.
            Err(e) if is_out_of_room(&e) => return Ok(None),
            Err(e) => return Err(self.error(call.name, name, e)),
        };
        if self.allocate(&file, name, bytes)? {
            return Ok(Some(file));
        }
        // On ext4 a fallocate that fails leaves a part of the file behind.
        self.unlink(name)?;
        Ok(None)
    }

    /// Allocates the first `bytes` bytes of a file, where they are not. `false`: the disk has no
    /// room. A write through the map of a sparse file would be a SIGBUS on a full disk.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn allocate(&mut self, file: &F::File, name: &str, bytes: u64) -> Result<bool, Error> {
        let call = SystemCall {
            name: "fallocate",
            file: name,
            to: "",
        };
        match self.intercept(call, |_, _, _| file.allocate(bytes)) {
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
    pub fn truncate(&mut self, file: &F::File, name: &str) -> Result<(), Error> {
        self.file_call("ftruncate", name, |_| file.truncate(0))
    }

    /// The length of a file in bytes.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn length(&mut self, file: &F::File, name: &str) -> Result<u64, Error> {
        self.file_call("fstat", name, |_| file.length())
    }

    /// Reads a file from the offset `at` until `into` is full or the file ends. Returns how many
    /// bytes were read.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn read(
        &mut self,
        file: &F::File,
        name: &str,
        into: &mut [u8],
        at: u64,
    ) -> Result<usize, Error> {
        self.file_call("pread", name, |_| file.read_at(into, at))
    }

    /// Writes `bytes` at the offset `at`: see [`write_by_pages`].
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn write(
        &mut self,
        file: &F::File,
        name: &str,
        bytes: &[u8],
        at: u64,
    ) -> Result<(), Error> {
        self.file_call("pwrite", name, |_| write_by_pages(file, bytes, at))
    }

    /// Maps the first `bytes` bytes of a file, all of which must be allocated.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn map(
        &mut self,
        file: &F::File,
        name: &str,
        bytes: u64,
    ) -> Result<<F::File as OpenFile>::Map, Error> {
        self.file_call("mmap", name, |_| file.map(bytes))
    }

    /// Drops the clean pages of a file from the page cache. A later read gets what the disk has,
    /// and a later write meets small folios (see [`write_by_pages`]).
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn drop_cache(&mut self, file: &F::File, name: &str) -> Result<(), Error> {
        self.file_call("fadvise", name, |skip| {
            if skip { Ok(()) } else { file.drop_cache() }
        })
    }

    /// Returns once everything that was written to a file is on the disk, also through a map.
    ///
    /// # Errors
    ///
    /// A system call failed. What of it is on the disk is unknown then, and stays so: a second sync
    /// reports success although data is lost.
    pub fn sync(&mut self, file: &F::File, name: &str) -> Result<(), Error> {
        self.file_call(
            "fdatasync",
            name,
            |skip| {
                if skip { Ok(()) } else { file.sync() }
            },
        )
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
    pub fn sync_names(&mut self) -> Result<(), Error> {
        let handle = self.handle.take().expect("the directory was opened");
        let synced = self.call("fsync", "", |fs, _, skip| {
            if skip {
                Ok(())
            } else {
                fs.sync_folder(&handle)
            }
        });
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
        let target = self.path.join(to);
        self.intercept(call, |fs, path, _| fs.rename(path, &target))
            .map_err(|e| self.error(call.name, file, e))
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn unlink(&mut self, name: &str) -> Result<(), Error> {
        self.call("unlink", name, |fs, path, _| fs.unlink(path))
    }
}
