//! The file of an export, `RAFT-migrate.snap`: the key space in etcd's snapshot format.
//!
//! It is written in pieces under a temporary name, and renamed once it is whole and durable. The
//! loop hands each piece over to a thread ([`Export::run`]), because the device may take long. So is
//! the removal of a file that is not finished ([`Export::removal`]): its client has left.
//! Start with [`Export::set_piece`].
use super::files::{self, DataDir};
use crate::core::machine::Ticket;
use std::io;
use std::sync::Arc;
use wal::fs::{FileSystem, OpenFile};
use wal::os::Os;

/// The name of the file until it is whole.
const TEMPORARY: &str = "migrate.tmp";
/// How the name of a whole export ends.
pub const SUFFIX: &str = "-migrate.snap";

/// The next step of an export.
enum ExportStep {
    /// A piece is written.
    Write {
        /// The piece.
        bytes: Vec<u8>,
        /// Of the last piece: the raft index of the content, for the name.
        raft: Option<u64>,
    },
    /// The file of an export that was given up is removed.
    Remove,
}

/// An export that is being written.
pub struct Export<F: FileSystem = Os> {
    /// The request for it.
    ticket: Ticket,
    data_dir: DataDir<F>,
    /// `None` before the first piece.
    file: Option<F::File>,
    /// Bytes written so far.
    length: u64,
    /// Bytes written since the last sync; less than [`files::UNSYNCED_BYTES_MAX`] between pieces.
    unsynced: usize,
    /// The next step; `None` once it is made.
    step: Option<ExportStep>,
    /// Whether the file has its name; or why the export failed.
    result: Result<bool, String>,
    /// Shared with the loop, which so knows that the export exists.
    _is_alive: Arc<()>,
}

impl<F: FileSystem> Export<F> {
    /// An export without content; makes no system call.
    pub fn new(data_dir: &DataDir<F>, ticket: Ticket, is_alive: Arc<()>) -> Export<F> {
        Export {
            ticket,
            data_dir: data_dir.clone(),
            file: None,
            length: 0,
            unsynced: 0,
            step: None,
            result: Ok(false),
            _is_alive: is_alive,
        }
    }

    /// The removal of the file that another export, which was given up, may have left.
    pub fn removal(data_dir: &DataDir<F>, ticket: Ticket, is_alive: Arc<()>) -> Export<F> {
        Export {
            step: Some(ExportStep::Remove),
            ..Export::new(data_dir, ticket, is_alive)
        }
    }

    /// The request for it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The piece that `run` is to write. `raft` is the raft index of the whole content, with the
    /// last piece.
    pub fn set_piece(&mut self, bytes: Vec<u8>, raft: Option<u64>) {
        self.step = Some(ExportStep::Write { bytes, raft });
    }

    /// Makes the step. The first piece makes the file, which only its owner may read, and overwrites
    /// an unfinished export. The last one gives the file its name, durably. After a failure there is
    /// no file: a full disk gets its room back.
    pub fn run(&mut self) {
        let made = match self.step.take() {
            Some(ExportStep::Write { bytes, raft }) => self.write(&bytes, raft),
            Some(ExportStep::Remove) => Err(io::Error::other("it was given up")),
            None => Ok(false),
        };
        self.result = made.map_err(|e| e.to_string());
        if self.result.is_err() {
            self.file = None;
            if let Err(e) = remove_unfinished(&self.data_dir) {
                log::warn!("an unfinished export stays until the next start: {e}");
            }
        }
    }

    /// Whether the file has its name: then it is whole and durable.
    ///
    /// # Errors
    ///
    /// A system call failed; with its text. The export is given up.
    pub fn result(&self) -> Result<bool, &str> {
        self.result.as_ref().copied().map_err(String::as_str)
    }

    fn write(&mut self, bytes: &[u8], raft: Option<u64>) -> io::Result<bool> {
        let (fs, dir) = (self.data_dir.fs(), &self.data_dir);
        let file = match self.file.take() {
            Some(file) => file,
            None => fs.create(&dir.join(TEMPORARY))?,
        };
        file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len();
        if raft.is_some() || self.unsynced >= files::UNSYNCED_BYTES_MAX {
            file.sync()?;
            self.unsynced = 0;
        }
        let Some(raft) = raft else {
            self.file = Some(file);
            return Ok(false);
        };
        fs.rename(&dir.join(TEMPORARY), &dir.join(&format!("{raft}{SUFFIX}")))?;
        files::sync_folder(fs, dir.path())?;
        Ok(true)
    }
}

/// Removes the file of an export that was not finished, if there is one.
///
/// # Errors
///
/// The file cannot be removed; with a sentence for the user.
pub fn remove_unfinished<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    let path = data_dir.join(TEMPORARY);
    let removed = data_dir.fs().remove(&path);
    removed.map_err(|e| format!("cannot remove {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_appears_whole_and_only_its_owner_may_read_it() {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = DataDir::new(Os, dir.path());
        let mut export = Export::new(&data_dir, Ticket(1), Arc::default());
        for (text, raft) in [("one ", None), ("two", Some(12))] {
            export.set_piece(text.into(), raft);
            export.run();
            assert_eq!(export.result(), Ok(raft.is_some()));
        }
        let path = dir.path().join("12-migrate.snap");
        assert_eq!(fs::read(&path).expect("there"), b"one two");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
