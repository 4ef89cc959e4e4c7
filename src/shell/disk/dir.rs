//! The data directory as a whole: creates it, refuses a directory of etcd, wipes it.
//!
//! This file knows the names of all files that tern keeps in the directory, and never reads them.
//! Errors are sentences for the user: what is wrong, where, and what to do.
use super::files::{self, DataDir};
use super::{export, forced, membership, snapfile, standby};
use std::io;
use std::path::Path;
use wal::LockedDir;
use wal::fs::{FileSystem, PathKind};
use wal::os::is_out_of_room;

/// Files in a data directory of etcd 0.4.
const ETCD_FILES: [&str; 2] = ["log", "conf"];
/// Folders in a data directory of etcd 2.0 and later.
const ETCD_FOLDERS: [&str; 2] = ["member", "proxy"];

/// A file that is made and removed at once. If a crash leaves it, the next start removes it as an
/// unfinished snapshot.
const PROBE: &str = "probe.tmp";

/// Makes the directory with its parents, and the folder for snapshots in it, durably.
///
/// # Errors
///
/// A system call failed.
pub fn create<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    let snapshots = snapfile::folder(data_dir);
    data_dir.fs().create_folder(&snapshots).map_err(|e| {
        format!(
            "cannot make the folder {}: {e}. The user that runs tern must be able to write there; or choose another -data-dir",
            snapshots.display()
        )
    })
}

/// Refuses a folder for snapshots in which no file can be made: the first snapshot would end the
/// process, perhaps weeks later. A full disk is no reason; it may have room by then.
///
/// # Errors
///
/// No file can be made there.
pub fn refuse_unwritable<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    let folder = snapfile::folder(data_dir);
    let probe = folder.join(PROBE);
    let fs = data_dir.fs();
    match fs.create(&probe).and_then(|_| fs.unlink(&probe)) {
        Err(e) if !is_out_of_room(&e) => Err(format!(
            "cannot write to the folder {}: {e}. The user that runs tern must be able to write there; or choose another -data-dir",
            folder.display()
        )),
        _ => Ok(()),
    }
}

/// Refuses a directory that etcd has written.
///
/// # Errors
///
/// The directory has a file or folder of etcd's.
pub fn refuse_foreign<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    let is = |name: &str, kind| data_dir.fs().kind(&data_dir.join(name)) == Some(kind);
    let file = ETCD_FILES.iter().find(|n| is(n, PathKind::File));
    let folder = ETCD_FOLDERS.iter().find(|n| is(n, PathKind::Folder));
    let Some(name) = file.or(folder) else {
        return Ok(());
    };
    Err(format!(
        "{} holds the data of etcd itself ({name}), which tern does not read. To move it: start that \
         etcd once more, read its keys (curl 'http://127.0.0.1:4001/v2/keys/?recursive=true'), start \
         tern with another -data-dir on other ports, and set them there. To throw the old data away: \
         -f",
        data_dir.display()
    ))
}

/// Removes everything of tern and etcd for `-f`: the log, snapshots, exports, `membership`,
/// `standby_info`, and etcd's own files. All of it under the lock of the log: another process may run
/// on the directory.
///
/// The log with `state` is removed before all files but `new_cluster`. A crash after that leaves a
/// new directory with stale files, never a machine that has forgotten its vote.
///
/// # Errors
///
/// Another process has locked the directory, or a file cannot be removed.
pub fn wipe<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    let failed = |path: &Path, e: io::Error| format!("-f: cannot remove {}: {e}", path.display());
    let no_log = |e: wal::OpenError| format!("-f: cannot remove the log: {e}");
    let fs = data_dir.fs();
    let mut locked = LockedDir::new(fs.clone(), data_dir.path(), None).map_err(no_log)?;
    // `new_cluster` goes first: it may tell the next start to replace the log.
    let forced = data_dir.join(forced::FILE);
    let removed = fs.remove(&forced);
    removed
        .and_then(|()| files::sync_folder(fs, data_dir.path()))
        .map_err(|e| failed(&forced, e))?;
    locked.wipe().map_err(no_log)?;
    let names = fs.list(data_dir.path());
    for name in names.map_err(|e| failed(data_dir.path(), e))? {
        if is_wiped(&name) {
            let path = data_dir.join(&name);
            fs.remove(&path).map_err(|e| failed(&path, e))?;
        }
    }
    Ok(())
}

/// Whether `-f` removes the file or folder of this name. The files of the log are removed by
/// `LockedDir::wipe`, all others stay.
fn is_wiped(name: &str) -> bool {
    let known = [snapfile::FOLDER, standby::FILE, membership::FILE];
    known.contains(&name)
        || ETCD_FILES.contains(&name)
        || ETCD_FOLDERS.contains(&name)
        || name.ends_with(export::SUFFIX)
        || name.ends_with(".tmp")
}

/// Removes `membership`, `new_cluster` and the snapshots durably, for a machine that joins again
/// with a new log. `standby_info` stays.
///
/// # Errors
///
/// A file cannot be removed, or a system call failed.
pub fn wipe_besides_log<F: FileSystem>(data_dir: &DataDir<F>) -> Result<(), String> {
    for path in [
        data_dir.join(membership::FILE),
        data_dir.join(forced::FILE),
        snapfile::folder(data_dir),
    ] {
        let removed = data_dir.fs().remove(&path);
        removed.map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    }
    create(data_dir)?;
    // If a crash brought an old file back, it would not belong to the new log.
    files::sync_folder(data_dir.fs(), data_dir.path())
        .map_err(|e| format!("{}: {e}", data_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wal::os::Os;

    #[test]
    fn a_directory_of_etcd_is_refused_and_wiped_only_on_demand() {
        for (name, is_dir) in [("log", false), ("conf", false), ("member", true)] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let data_dir = DataDir::new(Os, dir.path());
            create(&data_dir).expect("made");
            let path = dir.path().join(name);
            if is_dir {
                fs::create_dir(&path).expect("made");
            } else {
                fs::write(&path, "x").expect("made");
            }
            fs::write(dir.path().join("notes.txt"), "mine").expect("made");
            let text = refuse_foreign(&data_dir).expect_err("etcd's");
            assert!(text.contains(&format!("({name})")), "{text}");
            wipe(&data_dir).expect("wiped");
            refuse_foreign(&data_dir).expect("clean");
            assert!(dir.path().join("notes.txt").exists());
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_directory_in_use_is_not_wiped() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = DataDir::new(Os, dir.path());
        let options = wal::Options {
            dir: dir.path().into(),
            segment_bytes: wal::SEGMENT_BYTES_MIN,
            identity: 7,
        };
        let running = wal::Wal::open(options).expect("an empty directory");
        for name in [forced::FILE, membership::FILE] {
            fs::write(data_dir.join(name), "x").expect("made");
        }
        let text = wipe(&data_dir).expect_err("it is locked");
        assert!(text.contains("another process"), "{text}");
        assert!(data_dir.join(forced::FILE).exists());
        drop(running);
        wipe(&data_dir).expect("wiped");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
