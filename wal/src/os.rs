//! The real file system: each system call of the log and of the data directory, in one function.
//!
//! This file decides nothing: the meaning of a failure is up to its callers. Start reading at
//! [`Os`].
use std::fmt;
use std::fs::{self, DirBuilder, File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, IFlags, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::format::PAGE;
use crate::fs::{Access, FileSystem, OpenFile, PathKind};
use crate::map::SegmentMap;

/// The mode of a new folder: values may be secret.
const FOLDER_MODE: u32 = 0o700;
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
/// The mode of a new file.
const FILE_MODE: u32 = 0o600;

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl FileSystem for Os {
    type File = File;
    type Folder = File;

    fn kind(&self, path: &Path) -> Option<PathKind> {
        let kind = fs::metadata(path).ok()?.file_type();
        Some(if kind.is_file() {
            PathKind::File
        } else if kind.is_dir() {
            PathKind::Folder
        } else {
            PathKind::Other
        })
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let missing = path.ancestors().take_while(is_missing).count();
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)?;
        for parent in path.ancestors().skip(1).take(missing) {
            let is_current = parent.as_os_str().is_empty();
            let parent = if is_current { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn open_folder(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn try_lock(&self, folder: &File) -> io::Result<bool> {
        match folder.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        folder.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(access == Access::Write);
        open_regular(path, &mut options)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        open_regular(path, options.mode(FILE_MODE))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(e) => Err(e),
        };
        match result {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn random(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        // The system call needs no file: a directory with nothing but the binary has no /dev. It fills
        // so few bytes at once.
        rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl OpenFile for File {
    type Map = SegmentMap;

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        // A copy-on-write file system needs new space for each rewrite, so allocating guarantees
        // nothing there, unless this flag is set. Other file systems do not know the flag and do
        // not need it, so its failure is ignored.
        if let Ok(flags) = rustix::fs::ioctl_getflags(self) {
            let _ = rustix::fs::ioctl_setflags(self, flags | IFlags::NOCOW);
        }
        loop {
            match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::INTR) => {}
                // xfs wants room also where all bytes are allocated.
                Err(_) if self.metadata()?.blocks() * BLOCK_BYTES >= bytes => return Ok(()),
                other => return other.map_err(io::Error::from),
            }
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match FileExt::read_at(self, &mut into[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn map(&self, bytes: u64) -> io::Result<SegmentMap> {
        SegmentMap::new(self, bytes as usize)
    }

    fn drop_cache(&self) -> io::Result<()> {
        rustix::fs::fadvise(self, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes `bytes` at the offset `at`, in pieces that do not cross a page. A larger write puts large
/// folios into the page cache, and then each later sync of one byte in a folio writes all of it
/// (2 MiB for a record of 256 bytes).
///
/// # Errors
///
/// A system call failed.
pub fn write_by_pages(file: &impl OpenFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut from = 0;
    while from < bytes.len() {
        let offset = at + from as u64;
        let to = bytes.len().min(from + PAGE - offset as usize % PAGE);
        file.write_at(&bytes[from..to], offset)?;
        from = to;
    }
    Ok(())
}

/// Opens a regular file. A plain open of a FIFO would wait for its other end.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let opened = options
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    // Some wrong kinds cannot be opened at all: a folder for writing, a socket, a FIFO for writing
    // that is not read.
    let kind = match &opened {
        Ok(file) => file.metadata()?.file_type(),
        Err(_) => {
            let Ok(entry) = fs::symlink_metadata(path) else {
                return opened;
            };
            // A link to a missing file counts as a link and not as no file.
            fs::metadata(path).map_or(entry.file_type(), |metadata| metadata.file_type())
        }
    };
    if kind.is_file() {
        return opened.map_err(explain);
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        WrongKind(kind_of(kind)),
    ))
}

/// Adds the next step to the error of an `open`.
fn explain(error: io::Error) -> io::Error {
    if error.kind() != ErrorKind::PermissionDenied {
        return error;
    }
    let text = format!("{error}: the user that runs tern must be able to read and write it");
    io::Error::new(error.kind(), text)
}

/// The error for a path that is not a regular file. Holds its kind, such as `a FIFO`.
#[derive(Debug)]
struct WrongKind(&'static str);

impl fmt::Display for WrongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {}, not a file: move it away", self.0)
    }
}

impl std::error::Error for WrongKind {}

/// Whether the error says that a name is not that of a regular file.
pub fn is_wrong_kind(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<WrongKind>())
}

/// What a file that is not a regular file is, for messages: `a directory`, `a FIFO`.
fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_symlink() {
        "a link to a file that does not exist"
    } else {
        "a device"
    }
}

/// Whether the disk, the quota or the limit of the process for files has no room left.
pub fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
