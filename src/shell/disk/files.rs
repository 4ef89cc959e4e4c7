//! What all files in the data directory need: modes, files that are written as a whole, directory
//! syncs, removal, the question whether the disk is full.
//!
//! This file knows no file of tern by name. Each caller names its own.
//!
//! Values may be secret, so only the owner may read what is made here, whatever the umask is. The
//! modes of files and folders that exist are left to the operator.
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
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
/// A system call failed.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.mode(FILE_MODE).open(path)
}

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
    fn the_mode_of_a_folder_that_exists_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("own folder");
        create_folder(dir.path()).expect("there");
        assert_eq!(mode(dir.path()), 0o750);
    }
}
