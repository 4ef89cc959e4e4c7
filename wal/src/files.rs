//! How the files of a log are made in a new directory, and how they are removed.
//!
//! `state` is made last and removed first: a directory without it is new, whatever else is in it.
//! Start reading at [`create`], then [`wipe`].
use std::path::Path;

use crate::dir::{Hook, LogDir};
use crate::format::{PAGE, SegmentHead};
use crate::fs::FileSystem;
use crate::os::Os;
use crate::segment;
use crate::state::{self, StateFile};
use crate::{Error, OpenError, Options, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// Removes the log from the directory `dir`: first `state`, then segments and spares. Files that
/// are not the log's stay.
///
/// # Errors
///
/// Another process has locked the directory, or a system call failed. The log is then either whole
/// or on its way out: the next `open` finds the old log or makes a new one.
pub fn wipe(dir: &Path) -> Result<(), OpenError> {
    wipe_with(Os, dir, None)
}

/// [`wipe`] on a file system, with every call shown to `hook`.
///
/// # Errors
///
/// As [`wipe`].
pub fn wipe_with<F: FileSystem>(fs: F, dir: &Path, hook: Option<Hook>) -> Result<(), OpenError> {
    LockedDir::new(fs, dir, hook)?.wipe()
}

/// The directory of a log, locked: no log can be opened in it until the value is dropped.
pub struct LockedDir<F: FileSystem>(LogDir<F>);

impl<F: FileSystem> LockedDir<F> {
    /// Locks the directory, with every call shown to `hook`.
    ///
    /// # Errors
    ///
    /// Another process has locked it, or a system call failed.
    pub fn new(fs: F, dir: &Path, hook: Option<Hook>) -> Result<LockedDir<F>, OpenError> {
        let mut locked = LogDir::new(fs, dir, hook);
        if !locked.lock()? {
            return Err(OpenError::Locked { dir: dir.into() });
        }
        Ok(LockedDir(locked))
    }

    /// The directory as the log uses it, with the names in it.
    pub(crate) fn into_parts(mut self) -> Result<(LogDir<F>, Vec<String>), Error> {
        let names = self.0.list()?;
        Ok((self.0, names))
    }

    /// Removes the log, as [`wipe`] does. The directory stays locked.
    ///
    /// # Errors
    ///
    /// As [`wipe`].
    pub fn wipe(&mut self) -> Result<(), OpenError> {
        let names = self.0.list()?;
        wipe_locked(&mut self.0, names)
    }
}

/// Removes the log from a locked directory.
///
/// # Errors
///
/// As [`wipe`].
pub(crate) fn wipe_locked<F: FileSystem>(
    dir: &mut LogDir<F>,
    mut names: Vec<String>,
) -> Result<(), OpenError> {
    if names.iter().any(|n| n == state::STATE) {
        // From here on the directory is new, whatever a crash leaves in it.
        dir.rename(state::STATE, state::WIPING)?;
        dir.sync_names()?;
        names.push(state::WIPING.into());
    }
    remove_files(dir, &names)
}

/// Removes the segments, spares and half-made files among `names`, and then the file that marks
/// that they may be removed.
fn remove_files<F: FileSystem>(dir: &mut LogDir<F>, names: &[String]) -> Result<(), OpenError> {
    let mut has_removed = false;
    for name in names {
        let is_segment = segment::log_number(name).is_some() || segment::is_spare(name);
        if is_segment || is_half_made(name) {
            dir.unlink(name)?;
            has_removed = true;
        }
    }
    if has_removed {
        dir.sync_names()?;
    }
    if names.iter().any(|n| n == state::WIPING) {
        dir.unlink(state::WIPING)?;
        dir.sync_names()?;
    }
    Ok(())
}

/// Whether a file of this name was not made whole.
pub(crate) fn is_half_made(name: &str) -> bool {
    name == segment::MAKING || name == state::MAKING
}

/// Refuses a size of segments that is out of bounds.
///
/// # Errors
///
/// It is.
pub(crate) fn check_segment_bytes(bytes: u64) -> Result<(), OpenError> {
    let is_in_bounds = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes);
    if is_in_bounds && bytes.is_multiple_of(PAGE as u64) {
        return Ok(());
    }
    Err(OpenError::Option(format!(
        "a log segment of {bytes} bytes: it must be a multiple of {PAGE} between \
         {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
    )))
}

/// Makes an empty log in a locked directory without `state`. If a segment there holds records,
/// `state` was lost and the directory is not new.
///
/// # Errors
///
/// It is not new, the disk is full, or a system call failed.
pub(crate) fn create<F: FileSystem>(
    dir: &mut LogDir<F>,
    options: &Options,
    names: &[String],
) -> Result<(), OpenError> {
    let is_being_wiped = names.iter().any(|n| n == state::WIPING);
    if !is_being_wiped && segment::has_records(dir, names)? {
        return Err(OpenError::State {
            dir: options.dir.clone(),
        });
    }
    remove_files(dir, names)?;
    let head = SegmentHead {
        records_at: PAGE as u32,
        segment_bytes: options.segment_bytes,
        identity: options.identity,
        sequence: 1,
        next_index: None,
        next_batch: 1,
        commit: 0,
        previous_end: 0,
        previous_crc: 0,
        configuration: Box::default(),
    };
    if dir.create(segment::MAKING, head.segment_bytes)?.is_none() {
        return Err(OpenError::Io(Error::Full));
    }
    segment::put_into_use(dir, segment::MAKING, &head)?;
    StateFile::create(dir, options.identity)
}
