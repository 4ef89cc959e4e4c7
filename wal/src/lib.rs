//! The write-ahead log of one machine: term and vote, entries, batches that are durable once
//! synced.
//!
//! It knows (term, index) in the headers of its records and nothing else of consensus; what a body
//! or a configuration means is the caller's business. The format, every crash state and its
//! recovery stand in `README.md` beside this crate. Reading order: `format` (bytes and checksums),
//! `scan` (bytes to verdict, pure), `state` (the two slots), `segment` and `map` (files of
//! records), `os` (every system call), `log` (`Wal`: open, append, sync, rotate, release).
#![deny(unsafe_code)]

pub mod format;
mod log;
mod map;
pub mod os;
pub mod scan;
pub mod segment;
pub mod state;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use log::{Wal, wipe, wipe_with};

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; made if it is not there.
    pub dir: PathBuf,
    /// The size of the segments that are made from now on, in bytes: a multiple of 4096 between
    /// `SEGMENT_BYTES_MIN` and `SEGMENT_BYTES_MAX`. A record may fill a quarter of one.
    pub segment_bytes: u64,
    /// The random number that a new directory gets; one that is not new keeps its own.
    pub identity: u64,
}

/// The default size of a segment: 16 MiB.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// The smallest segment, 64 KiB.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment, 1 GiB.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// What may wait in memory for the next batch, in bytes: an `append` that goes beyond it writes and
/// syncs by itself.
pub const STAGED_BYTES_MAX: usize = 8 << 20;

/// The body of an entry that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// It is whole.
    Good(Arc<[u8]>),
    /// Its checksum does not match; a body of `len` bytes whose crc32, started from `seed`, is
    /// `crc` is the lost one (see `body_matches`).
    Faulty { len: u32, seed: u32, crc: u32 },
}

/// One entry as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub index: u64,
    pub body: Body,
}

/// One thing to append. A body is at most `Wal::body_bytes_max()` bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry; whatever the log held at its index and behind it is gone. Indexes are consecutive,
    /// but for the first entry in an empty log.
    Entry {
        term: u64,
        index: u64,
        body: &'a [u8],
    },
    /// The body of an entry that was read back as `Body::Faulty`, found elsewhere. Nothing behind
    /// it is touched.
    Repair {
        term: u64,
        index: u64,
        body: &'a [u8],
    },
    /// A snapshot of the log up to `index` has been put in place: entries at and before it are
    /// gone, those behind it stay only if `keep_tail`. `head` is the caller's (its
    /// configuration).
    Installed {
        term: u64,
        index: u64,
        keep_tail: bool,
        head: &'a [u8],
    },
}

/// The last `Record::Installed` of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub term: u64,
    pub index: u64,
    pub keep_tail: bool,
    pub head: Box<[u8]>,
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The body of an entry or of another record; the header is whole.
    Body,
    /// The header of a record: what stood there is unknown.
    Header,
    /// The batch's own checksum or number.
    Batch,
    /// The head of a segment.
    Head,
    /// The segment is not there, although later ones are, or although it was in use.
    Missing,
    /// The records do not follow each other.
    Order,
}

/// Damage below a durable mark: something that was synced is no longer readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file's name in the data directory.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The entry that it concerns, if that is known.
    pub index: Option<u64>,
    pub what: What,
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The data directory's random number.
    pub identity: u64,
    /// The directory held no log.
    pub is_new: bool,
    /// Term and vote; `None` in a new directory.
    pub state: Option<(u64, u64)>,
    /// The entries at consecutive indexes, each later record having replaced what it replaces.
    /// Some of the first may be older than the caller's snapshot.
    pub entries: Vec<Entry>,
    /// The last `Installed`, unless its segment has been released.
    pub installed: Option<Installed>,
    /// The highest commit index recorded.
    pub commit: u64,
    /// The configuration at the head of the newest segment.
    pub configuration: Box<[u8]>,
    /// The newest segment's number and the offset up to which it holds whole batches, all of them
    /// durable.
    pub end: (u64, u64),
    /// The log ends with a closing mark: the last process stopped in order.
    pub closed: bool,
    /// Bytes behind the last whole batch that were cut off as a torn tail (a batch that was never
    /// called durable).
    pub torn_bytes: u64,
    /// Entries in `entries` that are `Body::Faulty`. A lone machine must refuse to start with any;
    /// in a cluster they are repaired from peers. Damage that leaves less than the header of
    /// an entry is `OpenError::Damaged` instead.
    pub faults: Vec<Fault>,
}

/// Why a log was not opened. The text of each says which file and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it; it may end soon.
    Locked { dir: PathBuf },
    /// Written in a format that this version does not read.
    Version { file: String, found: u32 },
    /// An option is out of bounds.
    Option(String),
    /// Neither slot of `state` is readable, or the file is gone and the log is not: term and vote
    /// are lost, and must not be guessed.
    State { dir: PathBuf },
    /// Records are lost of which not even the headers are readable.
    Damaged { dir: PathBuf, faults: Vec<Fault> },
    /// A system call failed.
    Io(Error),
}

/// Why the log did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The records do not fit and there is no room for another segment. Nothing was changed; they
    /// can be tried again.
    Full,
    /// A system call failed. This is final: what was not yet synced may be lost, nothing may be
    /// acknowledged any more, and the process must end.
    Io {
        /// The call, as in `fdatasync`.
        call: &'static str,
        /// The file it was for.
        file: String,
        /// The system's text.
        text: String,
    },
}

/// Whether there is room for the segment after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Ok,
    /// Making a spare segment failed: what is left of the present one must serve what cannot be
    /// refused.
    Low,
}

/// Whether `body` is the one that a `Body::Faulty` was.
pub fn body_matches(body: &[u8], len: u32, seed: u32, crc: u32) -> bool {
    body.len() == len as usize && {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(body);
        hasher.finalize() == crc
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Body => "the body of a record does not match its checksum",
            What::Header => "the header of a record is unreadable",
            What::Batch => "a batch of records does not match its checksum or number",
            What::Head => "the head of the file is unreadable or not this log's",
            What::Missing => "the file is missing",
            What::Order => "the records do not follow each other",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.file, self.offset)?;
        if let Some(index) = self.index {
            write!(f, " (entry {index})")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked { dir } => {
                write!(
                    f,
                    "{}: another process uses this data directory",
                    dir.display()
                )
            }
            OpenError::Version { file, found } => write!(
                f,
                "{file} is written in format {found}, this version reads format 1: use the version that wrote it"
            ),
            OpenError::Option(text) => f.write_str(text),
            OpenError::State { dir } => write!(
                f,
                "{}/state: it is missing or both slots are unreadable, so term and vote are unknown and this machine must not vote: \
                 restore the directory from a backup, or remove the machine from the cluster and start it with -f",
                dir.display()
            ),
            OpenError::Damaged { dir, faults } => {
                write!(f, "{}: the log is damaged", dir.display())?;
                for fault in faults.iter().take(8) {
                    write!(f, "; {fault}")?;
                }
                write!(
                    f,
                    " ({} in all): restore the directory from a backup, or, if other machines hold its data, start it \
                     with -f to join anew",
                    faults.len()
                )
            }
            OpenError::Io(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Full => f.write_str("the disk is full: there is no room for another log file"),
            Error::Io { call, file, text } => write!(f, "{call} {file}: {text}"),
        }
    }
}

impl std::error::Error for OpenError {}
impl std::error::Error for Error {}

impl From<Error> for OpenError {
    fn from(error: Error) -> OpenError {
        OpenError::Io(error)
    }
}
