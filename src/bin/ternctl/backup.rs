//! `backup`: the key space of a running cluster in a file.
//!
//! The document of one moment is downloaded to `FILE.INDEX.part`. After a broken connection, or in
//! a later run, the download goes on where it stopped: the server keeps the moment for a minute,
//! and any machine has it as long as nothing changes. The file gets its name once its checksum is
//! right. Start with [`backup`].
use crate::document;
use crate::failure::{ExitReason, Failure, file_failed};
use crate::http::{CtlRequest, SendFault, read_whole};
use crate::output::print_line;
use crate::progress;
use crate::session::{Session, failure_of};
use clap::Args;
use indicatif::ProgressBar;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tern::shell::clock;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// The pause before a broken download goes on, in milliseconds; twice as long each time.
const PAUSE_MS: u64 = 500;
const PAUSE_MS_MAX: u64 = 8_000;
/// How often a download that makes no progress is tried.
const ATTEMPTS_MAX: usize = 6;
/// How often a download begins anew.
const RESTARTS_MAX: u32 = 4;
/// How names of backups begin and end that `backup` chooses in a folder.
const NAME_START: &str = "tern-";
const NAME_END: &str = ".json";

#[derive(Debug, Args)]
#[command(after_help = "\
A backup holds all keys with their values, ttls and indexes, hidden keys and the cluster config. It
holds nothing by which a machine proves itself, so machines of the running cluster are not disturbed
by it. Whoever can read it reads all values: the file has mode 0600.

ternctl restore makes a new cluster of it; ternctl import loads it into a running one.")]
pub struct BackupArguments {
    /// The file to write, which must not exist; or a folder, in which the name is chosen by date
    target: PathBuf,
    /// In a folder: remove the oldest backups until so many are left
    #[arg(long, value_name = "NUMBER")]
    keep: Option<usize>,
    /// Check a backup that exists, and make none
    #[arg(long, conflicts_with = "keep")]
    check: bool,
}

/// A download under way.
struct Download<'a> {
    session: &'a Session,
    target: PathBuf,
    /// The target of a download that begins anew: in a folder, the name has its own date.
    anew: PathBuf,
    /// The unfinished file, locked, once a byte has arrived.
    file: Option<File>,
    /// The etcd index of the moment, once a server has named it.
    index: Option<u64>,
    /// How many bytes are on the disk.
    length: u64,
    /// How often it was begun anew.
    restarts: u32,
    bar: ProgressBar,
}

/// Why a part of a download ended.
enum PartEnd {
    Whole,
    /// The connection broke, or the endpoint cannot serve; with the cause.
    Broken(SendFault),
    /// No machine has the moment any more.
    MomentGone,
}

/// `ternctl backup`
///
/// # Errors
///
/// The file exists, no machine serves the document, or it did not arrive whole.
pub fn backup(session: &Session, arguments: &BackupArguments) -> Result<(), Failure> {
    let target = &arguments.target;
    if arguments.check {
        return check(target);
    }
    if target.as_os_str() == "-" {
        let text = "a backup needs a file or a folder: it gets its name once it is checked. ternctl \
                    export writes to stdout";
        return Err(Failure::bad_arguments(text));
    }
    if !target.is_dir() {
        if arguments.keep.is_some() {
            return Err(Failure::bad_arguments("--keep needs a folder"));
        }
        return make(session, target.clone(), target.clone());
    }
    let now = Duration::from_nanos(session.clock().now().wall_ns);
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + now).to_string();
    let date = date.replace([':', '-'], "");
    let dated = target.join(format!("{NAME_START}{date}{NAME_END}"));
    let left = parts_in(target)?.into_iter().map(|(name, _)| name);
    let newest = left.filter(|name| !name.exists()).max();
    make(session, newest.unwrap_or(dated.clone()), dated)?;
    for (_, part) in parts_in(target)? {
        fs::remove_file(&part).map_err(file_failed(part.display()))?;
    }
    match arguments.keep {
        None => Ok(()),
        Some(keep) => remove_older(target, keep.max(1)),
    }
}

/// `ternctl backup --check`
fn check(path: &Path) -> Result<(), Failure> {
    let text = fs::read(path).map_err(file_failed(path.display()))?;
    let document = document::KeyDocument::parse(path, &text)?;
    let how = if document.is_checked {
        "its checksum is right"
    } else {
        "it has no checksum, and is whole"
    };
    let (nodes, index) = (document.nodes.len(), document.index);
    print_line(&format!(
        "{}: {nodes} nodes at index {index}; {how}",
        path.display()
    ))
}

/// Downloads to `target`, or to `anew` once the moment of an unfinished file is gone.
fn make(session: &Session, target: PathBuf, anew: PathBuf) -> Result<(), Failure> {
    if target.exists() {
        let text = format!("{} exists: a backup overwrites nothing", target.display());
        return Err(Failure::bad_arguments(text));
    }
    let mut download = Download::new(session, target, anew);
    loop {
        download.run()?;
        let part = download.part();
        let text = fs::read(&part).map_err(file_failed(part.display()))?;
        if document::KeyDocument::parse(&part, &text).is_ok() {
            break;
        }
        // Put together of two documents that differ, or damaged on the way.
        download.begin_anew()?;
    }
    download.finish()?;
    print_line(&format!("{}", download.target.display()))
}

impl<'a> Download<'a> {
    /// Continues the unfinished file of an earlier run, if there is one.
    fn new(session: &'a Session, target: PathBuf, anew: PathBuf) -> Download<'a> {
        let left = find_part(&target);
        let length = left.as_ref().map_or(0, |(_, length)| *length);
        let bar = progress::bytes("backup");
        bar.set_position(length);
        Download {
            session,
            target,
            anew,
            file: None,
            index: left.map(|(index, _)| index),
            length,
            restarts: 0,
            bar,
        }
    }

    /// Where the unfinished file is.
    fn part(&self) -> PathBuf {
        part_of(&self.target, self.index.unwrap_or_default())
    }

    /// Downloads until the document is whole.
    fn run(&mut self) -> Result<(), Failure> {
        let urls = self.session.urls();
        let mut failed_attempts = 0;
        let mut pause_ms = PAUSE_MS;
        for base in urls.iter().cycle() {
            let before = self.length;
            let fault = match self.run_part(base)? {
                PartEnd::Whole => return Ok(()),
                PartEnd::MomentGone => {
                    self.bar
                        .println("the key space has changed: the download begins anew");
                    self.begin_anew()?;
                    continue;
                }
                PartEnd::Broken(fault) => fault,
            };
            if self.length > before {
                failed_attempts = 0;
                pause_ms = PAUSE_MS;
            }
            failed_attempts += 1;
            // Without a byte of it there is nothing that is worth waiting for.
            let patience = if self.length == 0 { 1 } else { ATTEMPTS_MAX };
            if failed_attempts >= patience.max(urls.len()) {
                return Err(self.broken_off(base, &fault));
            }
            clock::pause(pause_ms);
            pause_ms = (2 * pause_ms).min(PAUSE_MS_MAX);
        }
        unreachable!("there is an endpoint")
    }

    fn broken_off(&self, base: &str, fault: &SendFault) -> Failure {
        let rest = if self.length == 0 {
            String::new()
        } else {
            let part = self.part();
            format!(
                ". {} bytes are in {}: the same command goes on there",
                self.length,
                part.display()
            )
        };
        Failure::new(fault.reason(), format!("{base}: {}{rest}", fault.text()))
    }

    /// Sends one request, and appends the bytes of its response to the unfinished file.
    fn run_part(&mut self, base: &str) -> Result<PartEnd, Failure> {
        // A kept moment costs the server memory for all changes since. If they are too many, the
        // server gives the moment up. The next attempt then asks for a moment that is not kept.
        let keep = self.restarts.is_multiple_of(2);
        let offset = self.length;
        let mut target =
            format!("/v2/migration/snapshot?checksum=true&keep={keep}&offset={offset}");
        if let Some(index) = self.index {
            target.push_str(&format!("&index={index}"));
        }
        let response = match self.session.download(base, &CtlRequest::get(target)) {
            Ok(response) => response,
            Err(fault) => return Ok(PartEnd::Broken(fault)),
        };
        if !response.status().is_success() {
            let answer = match read_whole(response) {
                Ok(answer) => answer,
                Err(fault) => return Ok(PartEnd::Broken(fault)),
            };
            return match failure_of(&answer) {
                Some(failure) if self.index.is_none() => Err(failure),
                Some(failure) if failure.reason() == ExitReason::Refused => Ok(PartEnd::MomentGone),
                _ => Ok(PartEnd::Broken(SendFault::NoAnswer(answer.text()))),
            };
        }
        if self.index.is_none() {
            let header = response.headers().get("X-Etcd-Index");
            let index = header.and_then(|value| value.to_str().ok()?.parse().ok());
            // etcd 0.4 names no index, and cannot go on: the file is whole at once or not at all.
            self.index = Some(index.unwrap_or(0));
        }
        let part = self.part();
        let failed = || file_failed(part.display());
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_part(&part).map_err(failed())?,
        };
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    file.write_all(&piece[..count]).map_err(failed())?;
                    self.length += count as u64;
                    self.bar.set_position(self.length);
                }
                Err(error) => {
                    self.file = Some(file);
                    return Ok(PartEnd::Broken(SendFault::NoAnswer(error.to_string())));
                }
            }
        }
        file.sync_all().map_err(failed())?;
        self.file = Some(file);
        Ok(PartEnd::Whole)
    }

    /// Discards the unfinished file: the moment is gone, or the file is damaged.
    fn begin_anew(&mut self) -> Result<(), Failure> {
        // The file of an earlier run is no sign that the key space changes fast.
        self.restarts += u32::from(self.file.is_some());
        if self.restarts > RESTARTS_MAX {
            let text = "the key space changes so fast that a moment of it is lost before the download \
                        is whole: try again at a quieter time, or from a machine that is nearer";
            return Err(Failure::new(ExitReason::Unavailable, text));
        }
        let part = self.part();
        fs::remove_file(&part).map_err(file_failed(part.display()))?;
        self.target = self.anew.clone();
        self.file = None;
        self.index = None;
        self.length = 0;
        self.bar.set_position(0);
        Ok(())
    }

    /// Gives the file its name, durably.
    fn finish(&self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let folder = folder_of(&self.target);
        fs::rename(self.part(), &self.target)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(file_failed(self.target.display()))
    }
}

/// The folder of a file.
fn folder_of(target: &Path) -> &Path {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The unfinished file for a target at an index.
fn part_of(target: &Path, index: u64) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(format!(".{index}.part"));
    name.into()
}

/// The unfinished file of an earlier run: the index of its moment, and its length in bytes.
fn find_part(target: &Path) -> Option<(u64, u64)> {
    let start = format!("{}.", target.file_name()?.to_str()?);
    for entry in fs::read_dir(folder_of(target)).ok()?.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&start));
        let index = rest.and_then(|rest| rest.strip_suffix(".part")?.parse().ok());
        if let (Some(index), Ok(data)) = (index, entry.metadata()) {
            return Some((index, data.len()));
        }
    }
    None
}

/// Opens an unfinished file, and locks it: another ternctl leaves it alone as long as this one runs.
fn open_part(part: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o600).open(part)?;
    file.try_lock()?;
    Ok(file)
}

/// The unfinished files of a folder whose names `backup` has chosen, and that no ternctl writes now:
/// the backup that each would become, and its path.
fn parts_in(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let failed = || file_failed(folder.display());
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let part = entry.map_err(failed())?.path();
        let name = part.file_name().and_then(|name| name.to_str());
        let target = name.and_then(|name| {
            let (target, index) = name.strip_suffix(".part")?.rsplit_once('.')?;
            let is_backup = target.starts_with(NAME_START) && target.ends_with(NAME_END);
            (is_backup && index.parse::<u64>().is_ok()).then(|| folder.join(target))
        });
        if let Some(target) = target
            && open_part(&part).is_ok()
        {
            parts.push((target, part));
        }
    }
    Ok(parts)
}

/// Removes the oldest backups of a folder until `keep` are left. Their names sort by date.
fn remove_older(folder: &Path, keep: usize) -> Result<(), Failure> {
    let failed = || file_failed(folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let is_backup = |name: &str| name.starts_with(NAME_START) && name.ends_with(NAME_END);
        if name.to_str().is_some_and(is_backup) {
            names.push(name);
        }
    }
    names.sort();
    let surplus = names.len().saturating_sub(keep);
    for name in &names[..surplus] {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(file_failed(path.display()))?;
    }
    Ok(())
}
