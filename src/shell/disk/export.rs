//! The file of an export, `RAFT-migrate.snap`: the key space in etcd's snapshot format.
//!
//! It is written in pieces under a temporary name and renamed once it is whole. Start with
//! [`Export::new`].
use super::files::{self, DataDir};
use std::io;
use wal::fs::{FileSystem, OpenFile};
use wal::os::Os;

/// The name of the file until it is whole.
const TEMPORARY: &str = "migrate.tmp";
/// How the name of a whole export ends.
pub const SUFFIX: &str = "-migrate.snap";

/// An export that is being written.
pub struct Export<F: FileSystem = Os> {
    file: F::File,
    /// Bytes written so far.
    length: u64,
    /// Bytes written since the last sync; at most [`files::UNSYNCED_BYTES_MAX`] and one piece.
    unsynced: usize,
    data_dir: DataDir<F>,
}

impl<F: FileSystem> Export<F> {
    /// Makes the file. Only its owner may read it. An unfinished export is overwritten.
    ///
    /// # Errors
    ///
    /// A system call failed; with its text.
    pub fn new(data_dir: &DataDir<F>) -> Result<Export<F>, String> {
        let file = data_dir.fs().create(&data_dir.join(TEMPORARY));
        Ok(Export {
            file: file.map_err(|e| e.to_string())?,
            length: 0,
            unsynced: 0,
            data_dir: data_dir.clone(),
        })
    }

    /// Appends a piece.
    ///
    /// # Errors
    ///
    /// A system call failed; with its text. The export is given up.
    pub fn append(mut self, bytes: &[u8]) -> Result<Export<F>, String> {
        self.write(bytes).map_err(|e| e.to_string())?;
        Ok(self)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len();
        if self.unsynced >= files::UNSYNCED_BYTES_MAX {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Gives the file its name, durably. `raft` is the raft index of its content.
    ///
    /// # Errors
    ///
    /// A system call failed; with its text.
    pub fn finish(self, raft: u64) -> Result<(), String> {
        self.rename(raft).map_err(|e| e.to_string())
    }

    fn rename(&self, raft: u64) -> io::Result<()> {
        self.file.sync()?;
        let name = format!("{raft}{SUFFIX}");
        let (fs, dir) = (self.data_dir.fs(), &self.data_dir);
        fs.rename(&dir.join(TEMPORARY), &dir.join(&name))?;
        files::sync_folder(fs, dir.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_appears_whole_and_only_its_owner_may_read_it() {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let export = Export::new(&DataDir::new(Os, dir.path())).expect("made");
        let export = export.append(b"one ").expect("room");
        let export = export.append(b"two").expect("room");
        export.finish(12).expect("room");
        let path = dir.path().join("12-migrate.snap");
        assert_eq!(fs::read(&path).expect("there"), b"one two");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
