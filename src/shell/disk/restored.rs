//! A data directory that is made from a backup (`ternctl restore`), for a new cluster.
//!
//! It is made in the folder `.restoring` of its place, and moved up once it is whole: a crash leaves
//! no directory that looks like that of a machine. The place may be a mount point, which cannot be
//! renamed. The cluster's number and that of the directory are drawn anew. Start with
//! [`restore_nodes`].
use super::files::{self, DataDir};
use super::recovery;
use crate::core::store::{PlainNode, Restore};
use crate::shell::config::Config;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use wal::os::Os;

/// The folder of a directory that is not whole yet.
const UNFINISHED: &str = ".restoring";

/// Makes the data directory of `config` that of a new cluster with these nodes, in path order, at
/// the etcd index `index`. `note` is the cluster config as its view shows it; empty for the default.
///
/// # Errors
///
/// The directory holds something, the nodes contradict each other, or a system call failed; with a
/// sentence for the user.
pub fn restore_nodes<'a>(
    config: &Config,
    index: u64,
    note: &str,
    nodes: impl Iterator<Item = PlainNode<'a>>,
) -> Result<(), String> {
    let target = &config.data_dir;
    refuse_content(target)?;
    let store = Restore::of_nodes(recovery::history_limits(config), index, note, nodes)
        .map_err(|bad| format!("the backup contradicts itself: {}", bad.0))?;
    let unfinished = target.join(UNFINISHED);
    let removed = fs::remove_dir_all(&unfinished);
    removed
        .or_else(|e| (e.kind() == ErrorKind::NotFound).then_some(()).ok_or(e))
        .map_err(|e| format!("{}: cannot be removed: {e}", unfinished.display()))?;
    let config = Config {
        data_dir: unfinished.clone(),
        ..config.clone()
    };
    recovery::found_with(&DataDir::new(Os, &unfinished), &config, store)?;
    move_up(&unfinished, target)
        .map_err(|e| format!("{}: cannot be put in its place: {e}", target.display()))
}

/// Refuses a directory with something in it: a restore overwrites nothing.
fn refuse_content(target: &Path) -> Result<(), String> {
    let entries = match fs::read_dir(target) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| format!("{}: {e}", target.display()))?,
    };
    // A new file system is not quite empty.
    let is_content = |name: OsString| name != UNFINISHED && name != "lost+found";
    let mut names = entries.map(|entry| entry.map_or(OsString::new(), |e| e.file_name()));
    if !names.any(is_content) {
        return Ok(());
    }
    Err(format!(
        "{} is not empty: a restore overwrites nothing. Move it away, or name another directory",
        target.display()
    ))
}

/// Moves the whole directory to its place, `state` last: without it there is no log.
fn move_up(unfinished: &Path, target: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(unfinished)? {
        names.push(entry?.file_name());
    }
    names.sort_by_key(|name| name == "state");
    for name in names {
        files::sync_folder(&Os, target)?;
        fs::rename(unfinished.join(&name), target.join(&name))?;
    }
    fs::remove_dir(unfinished)?;
    files::sync_folder(&Os, target)
}
