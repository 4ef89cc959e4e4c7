//! The file that tells who this machine is in its cluster: written whole, renamed into place,
//! synced.
//!
//! A machine that was let in has nothing but its id until the leader's first snapshot has come. A
//! founder has no such file: its snapshot names it. Start with `read`.
use super::dir;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// Its name in the data directory.
pub const FILE: &str = "membership";

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// The cluster has let the data directory of this number in as this member.
    Member { id: u64, incarnation: u64 },
}

/// What the data directory says; `None`: nothing. The error is a sentence for the user.
pub fn read(data_dir: &Path) -> Result<Option<Membership>, String> {
    let path = data_dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| {
        format!(
            "{} is damaged: {e}. Restore the directory from a backup, or start with -f to join anew",
            path.display()
        )
    })
}

/// Puts it in place, durably.
pub fn write(data_dir: &Path, membership: &Membership) -> io::Result<()> {
    dir::replace(data_dir, FILE, &serde_json::to_vec(membership)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_damage_is_said() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(read(dir.path()), Ok(None));
        let member = Membership::Member {
            id: 5,
            incarnation: u64::MAX,
        };
        write(dir.path(), &member).expect("room");
        assert_eq!(read(dir.path()), Ok(Some(member)));
        fs::write(dir.path().join(FILE), "{\"member\":{\"id\":5").expect("room");
        let text = read(dir.path()).expect_err("cut short");
        assert!(text.contains("damaged"), "{text}");
    }
}
