//! File operations for the whole data directory: replace a small file atomically, read one, sync a
//! folder.
//!
//! This file must not know the names of tern's files; the callers pass them.
//!
//! Values may be secret, so new files and folders are readable only by their owner, whatever the
//! umask is (`wal::os`). The modes of existing ones are left to the operator.
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use wal::fs::{Access, FileSystem, OpenFile};

/// The length of the last line of a small file, see [`check_line`].
const CHECK_BYTES: usize = 15;
/// No small file is longer, in bytes.
const SMALL_BYTES_MAX: u64 = 16 << 20;

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

/// Why a small file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unreadable {
    /// Its content is not that of [`replace`].
    Damaged,
    /// A system call failed, or the name is not that of a regular file; with a sentence that names
    /// the path.
    Failed(String),
}

/// Reads the content that [`replace`] has written; `None` if the file does not exist.
///
/// # Errors
///
/// The file cannot be read, or its content does not match its checksum.
fn read<F: FileSystem>(fs: &F, path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    let read = fs.open(path, Access::Read).and_then(|file| {
        let mut bytes = vec![0; file.length()?.min(SMALL_BYTES_MAX) as usize];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Ok(bytes)
    });
    let mut bytes = match read {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Unreadable::Failed(format!("{}: {e}", path.display()))),
    };
    let end = bytes.len().saturating_sub(CHECK_BYTES);
    if bytes[end..] != *check_line(&bytes[..end]).as_bytes() {
        return Err(Unreadable::Damaged);
    }
    bytes.truncate(end);
    Ok(Some(bytes))
}

/// Reads the JSON that [`replace`] has written to the file `name` of the directory; `None` if there
/// is none.
///
/// # Errors
///
/// The file cannot be read or is damaged; with a sentence for the user. It begins with the path; if
/// the file is damaged, `advice` ends it.
pub fn read_json<F: FileSystem, T: DeserializeOwned>(
    dir: &DataDir<F>,
    name: &str,
    advice: &str,
) -> Result<Option<T>, String> {
    let path = dir.join(name);
    let damaged = || format!("{} is damaged{advice}", path.display());
    match read(dir.fs(), &path) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| damaged()),
        Err(Unreadable::Damaged) => Err(damaged()),
        Err(Unreadable::Failed(text)) => Err(text),
    }
}

/// The last line of a small file: the CRC-32 of all bytes before it.
fn check_line(content: &[u8]) -> String {
    format!("crc32 {:08x}\n", crc32fast::hash(content))
}

/// Writes a small file durably: under a temporary name, which is then renamed. After a crash the
/// file has its old or its new content. Its last line is a checksum, so that [`read`] notices
/// damage.
///
/// # Errors
///
/// A system call failed. The file has its old or its new content.
pub fn replace<F: FileSystem>(dir: &DataDir<F>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut content = bytes.to_vec();
    content.push(b'\n');
    let check = check_line(&content);
    content.extend_from_slice(check.as_bytes());
    let temporary = dir.join(&format!("{name}.tmp"));
    let file = dir.fs().create(&temporary)?;
    file.write_at(&content, 0)?;
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
        let content = fs::read_to_string(folder.join("small")).expect("there");
        assert_eq!(content, format!("secret\n{}", check_line(b"secret\n")));
        assert_eq!(content.len(), "secret\n".len() + CHECK_BYTES);
        let read = read(&Os, &folder.join("small"));
        assert_eq!(read, Ok(Some(b"secret\n".to_vec())));
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
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).expect("made");
        for path in [&fifo, &socket, &folder, &link] {
            for access in [Access::Read, Access::Write] {
                assert!(is_wrong_kind(
                    &Os.open(path, access).expect_err("not opened")
                ));
            }
            assert!(is_wrong_kind(&Os.create(path).expect_err("not made")));
            read(&Os, path).expect_err("not read");
        }
        assert_eq!(read(&Os, &dir.path().join("missing")), Ok(None));
        let dead = dir.path().join("dead");
        std::os::unix::fs::symlink("nowhere", &dead).expect("made");
        read(&Os, &dead).expect_err("it is no missing file");
    }

    #[test]
    fn the_mode_of_a_folder_that_exists_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("own folder");
        Os.create_folder(dir.path()).expect("there");
        assert_eq!(mode(dir.path()), 0o750);
    }
}
