//! File operations for the whole data directory: create and open with the right mode, replace a
//! small file atomically, sync a folder, remove, recognize a full disk.
//!
//! This file must not know the names of tern's files; the callers pass them.
//!
//! Values may be secret, so new files and folders are readable only by their owner, whatever the
//! umask is. The modes of existing ones are left to the operator.
use rustix::fs::OFlags;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The mode of a new file.
const FILE_MODE: u32 = 0o600;
/// The mode of a new folder.
const FOLDER_MODE: u32 = 0o700;

/// A long file is synced after this many bytes. Otherwise its dirty pages would pile up, and a log
/// sync would have to wait for all of them.
pub const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// Makes a file, or empties one that exists, and opens it for reading and writing.
///
/// # Errors
///
/// A system call failed, or something else than a regular file has the name.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    open_regular(path, options.mode(FILE_MODE))
}

/// Opens a file for reading.
///
/// # Errors
///
/// A system call failed, or the name is not that of a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_regular(path, File::options().read(true))
}

/// Reads a whole file; `None` if it does not exist.
///
/// # Errors
///
/// A system call failed, or the name is not that of a regular file. The text names the path.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    let result = open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    match result {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Whether the error says that a name is not that of a regular file.
pub fn is_wrong_kind(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<WrongKind>())
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
        Err(e) if e.kind() == ErrorKind::NotFound => return opened,
        Err(_) => match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(_) => return opened,
        },
    };
    if kind.is_file() {
        return opened;
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        WrongKind(wal::os::kind_of(kind)),
    ))
}

/// The error for a path that is not a regular file. Holds what it is, such as `a FIFO`.
#[derive(Debug)]
struct WrongKind(&'static str);

impl fmt::Display for WrongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {}, not a file: move it away", self.0)
    }
}

impl std::error::Error for WrongKind {}

/// Makes a folder durably, with those of its parents that do not exist.
///
/// # Errors
///
/// A system call failed.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing = path.ancestors().take_while(is_missing).count();
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)?;
    for parent in path.ancestors().skip(1).take(missing) {
        let is_current = parent.as_os_str().is_empty();
        sync_folder(if is_current { Path::new(".") } else { parent })?;
    }
    Ok(())
}

/// Writes a small file durably: under a temporary name, which is then renamed. After a crash the
/// file has its old or its new content.
///
/// # Errors
///
/// A system call failed. The file has its old or its new content.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.tmp"));
    let mut file = create(&temporary)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name))?;
    sync_folder(folder)
}

/// Makes the renames and removals in a folder durable.
///
/// # Errors
///
/// A system call failed.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file, or a folder with all that is in it. It need not exist.
///
/// # Errors
///
/// A system call failed.
pub fn remove(path: &Path) -> io::Result<()> {
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

/// Whether the error says that the disk or the quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        let metadata = fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_new_files_and_folders() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("a/b");
        create_folder(&folder).expect("made");
        create_folder(&folder).expect("it may exist");
        replace(&folder, "small", b"secret").expect("room");
        assert_eq!(fs::read(folder.join("small")).expect("there"), b"secret\n");
        assert_eq!(mode(&folder.join("small")), 0o600);
        assert_eq!((mode(&folder), mode(&dir.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn a_name_of_the_wrong_kind_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).expect("made");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("made");
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).expect("made");
        for path in [&fifo, &socket, &folder] {
            assert!(is_wrong_kind(&open(path).expect_err("not opened")));
            assert!(is_wrong_kind(&create(path).expect_err("not made")));
            read(path).expect_err("not read");
        }
        assert_eq!(read(&dir.path().join("missing")), Ok(None));
    }

    #[test]
    fn the_mode_of_a_folder_that_exists_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("own folder");
        create_folder(dir.path()).expect("there");
        assert_eq!(mode(dir.path()), 0o750);
    }
}
