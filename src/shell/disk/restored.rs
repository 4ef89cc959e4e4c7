//! A data directory that is made from a backup (`ternctl restore`), for a new cluster.
//!
//! The directory is made beside its place, as `NAME.restoring`, and renamed once it is whole: a
//! crash leaves no directory that looks like that of a machine. The cluster's number and that of the
//! directory are drawn anew. Start with [`restore_nodes`].
use super::files::{self, DataDir};
use super::recovery;
use crate::core::store::{PlainNode, Restore};
use crate::shell::config::Config;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use wal::os::Os;

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
    let unfinished = unfinished_of(target);
    let removed = fs::remove_dir_all(&unfinished);
    removed
        .or_else(|e| (e.kind() == ErrorKind::NotFound).then_some(()).ok_or(e))
        .map_err(|e| format!("{}: cannot be removed: {e}", unfinished.display()))?;
    let config = Config {
        data_dir: unfinished.clone(),
        ..config.clone()
    };
    recovery::found_with(&DataDir::new(Os, &unfinished), &config, store)?;
    // Replaces an empty directory.
    let renamed = fs::rename(&unfinished, target);
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    renamed
        .and_then(|()| files::sync_folder(&Os, parent.unwrap_or(Path::new("."))))
        .map_err(|e| format!("{}: cannot be put in its place: {e}", target.display()))
}

/// Refuses a directory with something in it: a restore overwrites nothing.
fn refuse_content(target: &Path) -> Result<(), String> {
    let mut entries = match fs::read_dir(target) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| format!("{}: {e}", target.display()))?,
    };
    if entries.next().is_none() {
        return Ok(());
    }
    Err(format!(
        "{} is not empty: a restore overwrites nothing. Move it away, or name another directory",
        target.display()
    ))
}

/// The place of the directory until it is whole.
fn unfinished_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(".restoring");
    name.into()
}
