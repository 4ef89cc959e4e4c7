//! The file `membership`: the id that the cluster gave this machine.
//!
//! After a machine was admitted, and until the leader's first snapshot arrives, its id stands only
//! in this file; and that of a removed member, until it has become a standby. A founder writes it
//! after its first snapshot, which contains its id. Start with [`read`].
use super::files::{self, DataDir};
use serde::{Deserialize, Serialize};
use std::io;
use wal::fs::FileSystem;

/// The name of the file in the data directory.
pub const FILE: &str = "membership";

/// The content of the file. An enum with one variant, because the stored JSON names the variant:
/// `{"member":{"id":5,"incarnation":7}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnMembership {
    /// The cluster has admitted a data directory as a member.
    Member {
        /// The id of the member.
        id: u64,
        /// The random number of the data directory. A file with another number is stale: the log
        /// was replaced after it was written.
        incarnation: u64,
    },
}

/// Reads the file; `None` if there is none.
///
/// # Errors
///
/// The file cannot be read or is damaged; with a sentence for the user.
pub fn read<F: FileSystem>(data_dir: &DataDir<F>) -> Result<Option<OwnMembership>, String> {
    let advice = ": restore the directory from a backup, or start it with -f to join anew";
    files::read_json(data_dir, FILE, advice)
}

/// Writes the file durably.
///
/// # Errors
///
/// A system call failed.
pub fn write<F: FileSystem>(data_dir: &DataDir<F>, membership: &OwnMembership) -> io::Result<()> {
    files::replace(data_dir, FILE, &serde_json::to_vec(membership)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wal::os::Os;

    #[test]
    fn membership_is_read_back_and_damage_is_reported() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = DataDir::new(Os, dir.path());
        assert_eq!(read(&data_dir), Ok(None));
        let member = OwnMembership::Member {
            id: 5,
            incarnation: u64::MAX,
        };
        write(&data_dir, &member).expect("room");
        assert_eq!(read(&data_dir), Ok(Some(member)));
        fs::write(dir.path().join(FILE), "{\"member\":{\"id\":5").expect("room");
        read(&data_dir).expect_err("cut short");
    }
}
