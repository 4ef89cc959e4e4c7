//! The file system as the log and the data directory of tern use it: every call that they make on
//! it, and nothing else.
//!
//! [`crate::os::Os`] is the real one. A test has one of its own, which keeps synced writes, loses
//! others, and fails where it is told to. The type is a parameter of each user, so a
//! program with the real one pays nothing for the choice.
//!
//! Start reading at [`FileSystem`], then [`OpenFile`].
use std::io;
use std::path::Path;

/// The purpose for which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    Write,
}

/// The kind of file that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Something else, such as a FIFO.
    Other,
}

/// Folders, names and files. A name is a path; two values that are clones see the same files.
pub trait FileSystem: Clone {
    /// A regular file that was opened or made.
    type File: OpenFile;
    /// A folder that was opened.
    type Folder;

    /// The kind of file that the path names; `None` if it names nothing.
    fn kind(&self, path: &Path) -> Option<PathKind>;

    /// Makes a folder durably, with those of its parents that do not exist. Only its owner may read
    /// it. A folder that exists stays as it is.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn open_folder(&self, path: &Path) -> io::Result<Self::Folder>;

    /// Locks a folder until its value is dropped. `false`: another value holds the lock, here or in
    /// another process.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn try_lock(&self, folder: &Self::Folder) -> io::Result<bool>;

    /// Returns once the names in a folder are on the disk.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn sync_folder(&self, folder: &Self::Folder) -> io::Result<()>;

    /// The names in a folder, sorted. Names that are not UTF-8 are left out: tern makes none.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// A system call failed, or the name is not that of a regular file
    /// ([`crate::os::is_wrong_kind`]).
    fn open(&self, path: &Path, access: Access) -> io::Result<Self::File>;

    /// Makes a file, or empties one that exists, and opens it for reading and writing. Only its
    /// owner may read it.
    ///
    /// # Errors
    ///
    /// A system call failed, or something else than a regular file has the name.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Renames a file. A file that had the new name is replaced.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Removes a file, or a folder with all that is in it. It need not exist.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Random bits.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn random(&self) -> io::Result<u64>;
}

/// A regular file that was opened or made.
pub trait OpenFile {
    /// The file in memory.
    type Map: FileMap;

    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn length(&self) -> io::Result<u64>;

    /// Reserves room on the disk for the first `bytes` bytes of an empty file, which get the value
    /// zero. No later write to them needs room.
    ///
    /// # Errors
    ///
    /// The disk has no room ([`crate::os::is_out_of_room`]), and a part of the file may be left; or
    /// a system call failed.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Removes the content from the offset `bytes` on. The file must not be mapped.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Reads at the offset `at` until `into` is full or the file ends. Returns how many bytes were
    /// read.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at the offset `at`.
    ///
    /// # Errors
    ///
    /// The disk has no room ([`crate::os::is_out_of_room`]), and a part may be written; or a system
    /// call failed.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Maps the first `bytes` bytes, all of which must be allocated.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn map(&self, bytes: u64) -> io::Result<Self::Map>;

    /// Drops the clean pages of the file from the page cache: a later read gets what the disk has.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn drop_cache(&self) -> io::Result<()>;

    /// Returns once everything that was written to the file is on the disk, also through a map.
    ///
    /// # Errors
    ///
    /// A system call failed. What of it is on the disk is unknown then, and stays so: a second sync
    /// reports success although data is lost.
    fn sync(&self) -> io::Result<()>;
}

/// A shared, writable map of a file.
pub trait FileMap {
    /// Writes `bytes` at the offset `at`. They are durable after the next sync of the file.
    ///
    /// # Panics
    ///
    /// If they do not fit into the map.
    fn write(&mut self, at: usize, bytes: &[u8]);

    /// Everything before `end` has been synced and is not written any more. Its pages may leave the
    /// memory of the process.
    ///
    /// # Errors
    ///
    /// A system call failed.
    fn on_synced(&mut self, end: usize) -> io::Result<()>;
}
