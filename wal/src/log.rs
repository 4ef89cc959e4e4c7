//! (being written: the signatures that the shell codes against)
use std::path::Path;

use crate::{Error, OpenError, Options, Record, Recovered, Space};

/// The log of one data directory, locked for this process.
pub struct Wal {}

/// Removes a log from `dir`: first `state`, then segments and spares; nothing that is not this crate's. The directory
/// must not be open.
pub fn wipe(_dir: &Path) -> Result<(), OpenError> {
    unimplemented!()
}

impl Wal {
    /// Locks the directory, reads what is there, cuts a torn tail off; makes it if it is new.
    pub fn open(_options: Options) -> Result<(Wal, Recovered), OpenError> {
        unimplemented!()
    }

    /// The longest body, in bytes.
    pub fn body_bytes_max(&self) -> usize {
        unimplemented!()
    }

    /// Takes records for the next batch and returns their mark: the number of records appended so far. `commit` is the
    /// commit index known now. On `Error::Full` nothing was taken.
    pub fn append(&mut self, _records: &[Record], _commit: u64) -> Result<u64, Error> {
        unimplemented!()
    }

    /// Whether records wait that no running sync covers.
    pub fn wants_sync(&self) -> bool {
        unimplemented!()
    }

    /// Puts what waits into the file as one batch and starts to sync it; does nothing while a sync is running.
    pub fn start_sync(&mut self) -> Result<(), Error> {
        unimplemented!()
    }

    /// The mark up to which all is durable, once when a sync has ended.
    pub fn poll_sync(&mut self) -> Result<Option<u64>, Error> {
        unimplemented!()
    }

    /// Writes and syncs term and vote, to one slot and then to the other.
    pub fn save_state(&mut self, _term: u64, _vote: u64) -> Result<(), Error> {
        unimplemented!()
    }

    /// Keeps the configuration that the heads of new segments repeat; at most a quarter of a segment.
    pub fn set_configuration(&mut self, _bytes: &[u8]) {
        unimplemented!()
    }

    /// Entries up to `through` are not needed any more: segments that hold nothing else become spares.
    pub fn release(&mut self, _through: u64) -> Result<(), Error> {
        unimplemented!()
    }

    /// Whether there is room for the next segment.
    pub fn space(&self) -> Space {
        unimplemented!()
    }

    /// Tries to make a spare segment if there is none.
    pub fn make_spare(&mut self) -> Result<Space, Error> {
        unimplemented!()
    }

    /// Syncs what waits and writes the closing mark.
    pub fn close(self) -> Result<(), Error> {
        unimplemented!()
    }
}
