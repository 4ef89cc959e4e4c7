//! The file `new_cluster`: this machine went on alone after the permanent loss of a majority
//! (`-force-new-cluster`), and from which clusters.
//!
//! Writing the file is the one step that ends the old cluster on this disk:
//!
//! | step | after a crash |
//! |---|---|
//! | write the first snapshot of the new cluster as `snapshot/INDEX.forced`, sync | the old cluster; nothing reads a file of that name |
//! | write `new_cluster`, not finished, sync (`begin`) | the new cluster: each start does the steps below again |
//! | replace the log by an empty one with the new number (`finish`) | the same |
//! | rename the snapshot to `INDEX.snap`; remove the older ones, `membership` and `standby_info` | the same |
//! | write `new_cluster`, finished | the new cluster |
//!
//! The file stays: a machine that dials with the number of a former cluster is told that this one
//! went on. Start with [`Disk::force_new_cluster`].
use super::files::{self, DataDir};
use super::snapfile::{self, SnapshotFileWriter};
use super::{Disk, membership, random_of, standby};
use crate::core::machine::{Founding, Machine};
use crate::core::raft::Index;
use crate::core::timer::Now;
use crate::shell::config::Config;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use wal::fs::FileSystem;
use wal::os::Os;
use wal::{Options, Wal};

/// The name of the file in the data directory.
pub const FILE: &str = "new_cluster";

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ForcedCluster {
    /// The numbers of the clusters that this machine has left, oldest first.
    former: Vec<u64>,
    /// The number of the data directory in the new cluster.
    incarnation: u64,
    /// The term that the new cluster begins with.
    term: u64,
    /// The index of its first snapshot.
    index: u64,
    /// The log and the snapshots are those of the new cluster. `false`: the next start makes them.
    finished: bool,
}

impl Disk {
    /// Makes the data directory that of a new cluster, whose only member is this machine. The next
    /// [`Disk::open`] finds it.
    ///
    /// # Errors
    ///
    /// The directory cannot be used; with a sentence for the user. It is that of the old cluster, or
    /// of the new one.
    pub fn force_new_cluster(config: &Config, now: Now) -> Result<(), String> {
        Disk::force_new_cluster_on(Os, config, now)
    }
}

impl<F: FileSystem> Disk<F> {
    /// [`Disk::force_new_cluster`] on a file system.
    ///
    /// # Errors
    ///
    /// As [`Disk::force_new_cluster`].
    ///
    /// # Panics
    ///
    /// If the directory is not that of a member with data.
    pub fn force_new_cluster_on(fs: F, config: &Config, now: Now) -> Result<(), String> {
        // The directory stays locked until the end.
        let (disk, recovered) = Disk::open_on(fs, config, true)?;
        let snapshot = recovered.snapshot.as_ref();
        let (meta, _) = snapshot.expect("a member with data");
        let mut former = disk.former_clusters.clone();
        former.push(meta.cluster);
        let fs = disk.data_dir.fs();
        let (incarnation, seed) = (random_of(fs)?, random_of(fs)?);
        let settings = config.settings();
        let founding = Machine::go_on_alone(settings, recovered, incarnation, seed, now)?;
        begin(&disk.data_dir, &founding, former).map_err(|e| {
            format!(
                "{}: cannot begin the new cluster: {e}",
                disk.data_dir.display()
            )
        })
    }
}

/// Reads the file; `None` if there is none.
///
/// # Errors
///
/// The file cannot be read or is damaged; with a sentence for the user.
fn read<F: FileSystem>(data_dir: &DataDir<F>) -> Result<Option<ForcedCluster>, String> {
    let advice = ": restore the directory from a backup, or start it with -f to throw all away";
    files::read_json(data_dir, FILE, advice)
}

fn write<F: FileSystem>(data_dir: &DataDir<F>, forced: &ForcedCluster) -> io::Result<()> {
    files::replace(data_dir, FILE, &serde_json::to_vec(forced)?)
}

/// The path of the first snapshot of the new cluster until the log is replaced.
fn snapshot_path<F: FileSystem>(data_dir: &DataDir<F>, index: u64) -> PathBuf {
    snapfile::folder(data_dir).join(format!("{index:020}.forced"))
}

/// Ends the old cluster on this disk. `former` are the clusters that this machine has left, the
/// present one last.
fn begin<F: FileSystem>(
    data_dir: &DataDir<F>,
    founding: &Founding,
    former: Vec<u64>,
) -> io::Result<()> {
    let meta = &founding.meta;
    let mut writer = SnapshotFileWriter::new(data_dir, meta, 0)?;
    for chunk in &founding.chunks {
        writer.append(chunk)?;
    }
    writer.finish_as(&snapshot_path(data_dir, meta.index.0))?;
    let own = meta.configuration.get(founding.id);
    let forced = ForcedCluster {
        former,
        incarnation: own.expect("the only member").incarnation,
        term: founding.term.0,
        index: meta.index.0,
        finished: false,
    };
    write(data_dir, &forced)
}

/// Reads the file, and does the steps that are left. Returns the clusters that this machine has
/// left, none if it never went on alone; and whether steps were left: the snapshot is another one then.
///
/// # Errors
///
/// A file cannot be read or written; with a sentence for the user.
pub fn complete<F: FileSystem>(
    data_dir: &DataDir<F>,
    config: &Config,
    wal: &mut Wal<F>,
    log: &mut wal::Recovered,
) -> Result<(Vec<u64>, bool), String> {
    let Some(forced) = read(data_dir)? else {
        return Ok((Vec::new(), false));
    };
    if !forced.finished {
        *log = finish(data_dir, config.segment_bytes, wal, &forced)?;
    }
    Ok((forced.former, !forced.finished))
}

/// Replaces the log, and everything besides it, by the beginning of the new cluster. Returns the
/// new log.
///
/// # Errors
///
/// A file cannot be written; with a sentence for the user. The next start does it again.
fn finish<F: FileSystem>(
    data_dir: &DataDir<F>,
    segment_bytes: u64,
    wal: &mut Wal<F>,
    forced: &ForcedCluster,
) -> Result<wal::Recovered, String> {
    let options = Options {
        dir: data_dir.path().into(),
        segment_bytes,
        identity: forced.incarnation,
    };
    let mut log = wal.start_over(&options).map_err(|e| e.to_string())?;
    wal.save_state(forced.term, 0).map_err(|e| e.to_string())?;
    replace_files(data_dir, forced).map_err(|e| {
        format!(
            "{}: cannot begin the new cluster: {e}. Start again, or restore the directory from a \
             backup",
            data_dir.display()
        )
    })?;
    log.state = Some((forced.term, 0));
    log.is_new = false;
    Ok(log)
}

fn replace_files<F: FileSystem>(data_dir: &DataDir<F>, forced: &ForcedCluster) -> io::Result<()> {
    let fs = data_dir.fs();
    let made = snapshot_path(data_dir, forced.index);
    // An earlier start that was interrupted may have renamed it.
    if fs.kind(&made).is_some() {
        fs.rename(&made, &snapfile::file_of(data_dir, Index(forced.index)))?;
    }
    files::sync_folder(fs, &snapfile::folder(data_dir))?;
    let kept = snapfile::prune(data_dir, 1)?;
    if kept != [Index(forced.index)] {
        return Err(io::Error::other(format!("{} is missing", made.display())));
    }
    fs.remove(&data_dir.join(membership::FILE))?;
    fs.remove(&data_dir.join(standby::FILE))?;
    files::sync_folder(fs, data_dir.path())?;
    let finished = true;
    write(
        data_dir,
        &ForcedCluster {
            finished,
            ..forced.clone()
        },
    )
}
