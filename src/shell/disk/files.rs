//! Files in the data directory that are written as a whole, and what they need: directory syncs,
//! removal, the question whether the disk is full.
//!
//! This file knows no file of tern by name. Each caller names its own.
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// A long file is synced after this many bytes. Otherwise its dirty pages would pile up, and a log
/// sync would have to wait for all of them.
pub const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// Writes a small file durably: under a temporary name, which is then renamed. After a crash the
/// file has its old or its new content.
///
/// # Errors
///
/// A system call failed. The file has its old or its new content.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
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
