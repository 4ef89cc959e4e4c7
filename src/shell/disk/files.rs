//! File operations for the whole data directory: replace a small file atomically, read one, sync a
//! folder, recognize a full disk.
//!
//! This file must not know the names of tern's files; the callers pass them.
//!
//! Values may be secret, so new files and folders are readable only by their owner, whatever the
//! umask is (`wal::os`). The modes of existing ones are left to the operator.
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};

/// A long file is synced after this many bytes. Otherwise its dirty pages would pile up, and a log
/// sync would have to wait for all of them.
pub const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// A data directory: where it is, and on which file system.
#[derive(Clone, Debug)]
pub struct DataDir<F: FileSystem> {
    fs: F,
    path: PathBuf,
}

impl<F: FileSystem> DataDir<F> {
    /// Makes no system call.
    pub fn new(fs: F, path: &Path) -> DataDir<F> {
        DataDir {
            fs,
            path: path.into(),
        }
    }

    /// The file system.
    pub fn fs(&self) -> &F {
        &self.fs
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of the directory, for messages.
    pub fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

/// Reads a whole file; `None` if it does not exist.
///
/// # Errors
///
/// A system call failed, or the name is not that of a regular file. The text names the path.
pub fn read<F: FileSystem>(fs: &F, path: &Path) -> Result<Option<Vec<u8>>, String> {
    let read = fs.open(path, Access::Read).and_then(|file| {
        let mut bytes = vec![0; file.length()? as usize];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Ok(bytes)
    });
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Writes a small file durably: under a temporary name, which is then renamed. After a crash the
/// file has its old or its new content.
///
/// # Errors
///
/// A system call failed. The file has its old or its new content.
pub fn replace<F: FileSystem>(dir: &DataDir<F>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(&format!("{name}.tmp"));
    let file = dir.fs().create(&temporary)?;
    file.write_at(&[bytes, b"\n"].concat(), 0)?;
    file.sync()?;
    dir.fs().rename(&temporary, &dir.join(name))?;
    sync_folder(dir.fs(), dir.path())
}

/// Makes the renames and removals in a folder durable.
///
/// # Errors
///
/// A system call failed.
pub fn sync_folder<F: FileSystem>(fs: &F, path: &Path) -> io::Result<()> {
    let folder = fs.open_folder(path)?;
    fs.sync_folder(&folder)
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use wal::os::{Os, is_wrong_kind};

    fn mode(path: &Path) -> u32 {
        let metadata = fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_new_files_and_folders() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("a/b");
        Os.create_folder(&folder).expect("made");
        Os.create_folder(&folder).expect("it may exist");
        replace(&DataDir::new(Os, &folder), "small", b"secret").expect("room");
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
            for access in [Access::Read, Access::Write] {
                assert!(is_wrong_kind(
                    &Os.open(path, access).expect_err("not opened")
                ));
            }
            assert!(is_wrong_kind(&Os.create(path).expect_err("not made")));
            read(&Os, path).expect_err("not read");
        }
        assert_eq!(read(&Os, &dir.path().join("missing")), Ok(None));
    }

    #[test]
    fn the_mode_of_a_folder_that_exists_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("own folder");
        Os.create_folder(dir.path()).expect("there");
        assert_eq!(mode(dir.path()), 0o750);
    }
}
