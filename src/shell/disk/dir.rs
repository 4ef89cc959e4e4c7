//! The data directory: making it, telling tern's own from others, wiping it, and files that are put
//! in place whole.
//!
//! Must not read the log or snapshots. Errors are sentences for the user: what is wrong, where, and
//! what to do.
use super::{membership, snapfile, standby};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Names in a data directory of etcd 0.4 (files) and of 2.x and later (folders).
const ETCD_FILES: [&str; 2] = ["log", "conf"];
const ETCD_FOLDERS: [&str; 2] = ["member", "proxy"];
/// Makes the directory with its parents and the folder for snapshots in it.
pub fn create(data_dir: &Path) -> Result<(), String> {
    let snapshots = snapfile::folder(data_dir);
    fs::create_dir_all(&snapshots).map_err(|e| {
        format!(
            "cannot make the data directory {}: {e}. -data-dir names another place",
            data_dir.display()
        )
    })
}

/// Refuses a directory that etcd has written.
pub fn refuse_foreign(data_dir: &Path) -> Result<(), String> {
    let file = ETCD_FILES.iter().find(|n| data_dir.join(n).is_file());
    let folder = ETCD_FOLDERS.iter().find(|n| data_dir.join(n).is_dir());
    let Some(name) = file.or(folder) else {
        return Ok(());
    };
    Err(format!(
        "{} holds the data of etcd itself ({name}), which tern does not read. To move it: start that etcd once more, \
         read its keys (curl 'http://127.0.0.1:4001/v2/keys/?recursive=true'), start tern with another -data-dir on \
         other ports, and set them there. To throw the old data away: -f",
        data_dir.display()
    ))
}

/// `-f`: removes log, snapshots and standby_info, and etcd's own files. The log with `state` goes
/// first: what is left behind by a crash in between is a new directory with stale files, never a
/// machine that forgot its vote.
pub fn wipe(data_dir: &Path) -> Result<(), String> {
    let said = |path: &Path, e: io::Error| format!("-f: cannot remove {}: {e}", path.display());
    wal::wipe(data_dir).map_err(|e| format!("-f: cannot remove the log: {e}"))?;
    let entries = fs::read_dir(data_dir).map_err(|e| said(data_dir, e))?;
    for entry in entries {
        let path = entry.map_err(|e| said(data_dir, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_ours(&name) {
            remove(&path).map_err(|e| said(&path, e))?;
        }
    }
    Ok(())
}

/// What a machine throws away behind its log that is to join anew: who it was, and its snapshots.
pub fn wipe_rest(data_dir: &Path) -> Result<(), String> {
    let membership = data_dir.join(membership::FILE);
    remove(&membership).map_err(|e| format!("cannot remove {}: {e}", membership.display()))?;
    let snapshots = snapfile::folder(data_dir);
    remove(&snapshots).map_err(|e| format!("cannot remove {}: {e}", snapshots.display()))?;
    create(data_dir)?;
    // What came back after a crash would not go with the new log.
    snapfile::sync_folder(data_dir).map_err(|e| format!("{}: {e}", data_dir.display()))
}

/// Whether `-f` takes it away: nothing else in the directory is touched.
fn is_ours(name: &str) -> bool {
    let known = ["snapshot", standby::FILE, membership::FILE];
    known.contains(&name)
        || ETCD_FILES.contains(&name)
        || ETCD_FOLDERS.contains(&name)
        || name.ends_with("-migrate.snap")
        || name.ends_with(".tmp")
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(is) if is.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts a small file in place, durably.
pub fn replace(data_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = data_dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, data_dir.join(name))?;
    snapfile::sync_folder(data_dir)
}

/// A file that is written under a temporary name and then put in place, durably.
pub struct Export {
    file: File,
    unsynced: usize,
    folder: PathBuf,
    temporary: PathBuf,
}

impl Export {
    /// Starts the file; only its owner may read it.
    pub fn new(folder: &Path) -> Result<Export, String> {
        let temporary = folder.join("migrate.tmp");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&temporary).map_err(|e| e.to_string())?;
        Ok(Export {
            file,
            unsynced: 0,
            folder: folder.to_path_buf(),
            temporary,
        })
    }

    /// Appends to it.
    pub fn append(mut self, bytes: &[u8]) -> Result<Export, String> {
        self.file.write_all(bytes).map_err(|e| e.to_string())?;
        self.unsynced += bytes.len();
        if self.unsynced >= snapfile::SYNC_BYTES {
            self.file.sync_data().map_err(|e| e.to_string())?;
            self.unsynced = 0;
        }
        Ok(self)
    }

    /// Gives it its name, which tells the raft index of its content.
    pub fn finish(self, raft: u64) -> Result<(), String> {
        let place = self.folder.join(format!("{raft}-migrate.snap"));
        let mut result = self.file.sync_all();
        result = result.and_then(|()| fs::rename(&self.temporary, place));
        result = result.and_then(|()| snapfile::sync_folder(&self.folder));
        result.map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_etcd_is_refused_and_wiped_only_on_demand() {
        for (name, is_dir) in [("log", false), ("conf", false), ("member", true)] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            create(dir.path()).expect("made");
            let path = dir.path().join(name);
            match is_dir {
                true => fs::create_dir(&path).expect("made"),
                false => fs::write(&path, "x").expect("made"),
            }
            fs::write(dir.path().join("notes.txt"), "mine").expect("made");
            let text = refuse_foreign(dir.path()).expect_err("etcd's");
            assert!(text.contains("To move it"), "{text}");
            wipe(dir.path()).expect("wiped");
            refuse_foreign(dir.path()).expect("clean");
            assert!(dir.path().join("notes.txt").exists());
            assert!(!path.exists());
        }
    }

    #[test]
    fn an_export_is_for_its_owner_and_appears_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let export = Export::new(dir.path()).expect("made");
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
