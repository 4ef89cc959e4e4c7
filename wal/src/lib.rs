//! The write-ahead log of one machine: its term and vote, its log entries, and the batches in which
//! they become durable.
//!
//! The crate must not know what a body, a snapshot head or a configuration means. Of consensus it
//! knows only four numbers: term, vote, index and commit index.
//!
//! `README.md` beside this crate is the authority for the format and lists every crash state with
//! its recovery. Read the modules in this order:
//!
//! | module | owns |
//! |---|---|
//! | [`mod@format`] | segment heads, record headers and checksums: bytes to values and back |
//! | [`walk`] | the records in the bytes of a segment, read in pieces; pure |
//! | [`scan`] | the verdict on what a disk holds; pure |
//! | [`state`] | the file of term and vote |
//! | `staging` | records that wait for a batch; pure |
//! | [`spares`] | spare files, and which of them waiting records will use; pure |
//! | [`segment`], `map` | the files of records and the map that is written |
//! | [`dir`] | the directory: its lock, and the error of each call |
//! | [`mod@fs`], [`os`] | the file system as the log sees it, and the real one: every system call |
//! | [`job`] | a list of steps on the disk, as plain data |
//! | `writer` | the files that jobs write, and [`Task`]: a job that another thread runs |
//! | `files` | how a log is made and wiped |
//! | `upkeep` | spares that are to be made, and released segments; pure |
//! | `log` | [`Wal`]: open, append, sync, rotate, release |
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod dir;
mod files;
pub mod format;
pub mod fs;
pub mod job;
mod log;
mod map;
pub mod os;
pub mod scan;
pub mod segment;
pub mod spares;
mod staging;
pub mod state;
mod upkeep;
pub mod walk;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use files::{LockedDir, wipe, wipe_with};
pub use log::Wal;
pub use writer::Task;

/// The default size of a segment: 16 MiB.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// The smallest segment: 64 KiB. The tests use it, to rotate often.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment: 1 GiB. Offsets in record headers have 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// A segment should hold at least this many of the caller's longest records. A record is never split
/// between segments, so longer records waste more at the end of each segment. The log takes any
/// body up to [`format::BODY_MAX`], whatever the size of its segments.
pub const RECORDS_PER_SEGMENT_MIN: usize = 4;

/// How to open a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory. It is made, with its parents, if it does not exist.
    pub dir: PathBuf,
    /// The size of segments that are made from now on, in bytes: a multiple of 4096 from
    /// [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. A record that does not fit gets a segment of
    /// its own size. Segments that exist keep their size.
    pub segment_bytes: u64,
    /// The random number for a new directory. An existing directory keeps the number it has.
    pub identity: u64,
}

/// The body of an entry, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The body matches its checksum.
    Good(Arc<[u8]>),
    /// The body matches its checksum. It was not kept, because a snapshot covers the entry
    /// ([`Wal::open_in`]).
    Covered,
    /// The body does not match its checksum and is lost. [`body_matches`] tells whether bytes from
    /// elsewhere, such as from a peer, are the lost body.
    Faulty {
        /// The length of the lost body in bytes.
        len: u32,
        /// The value that the checksum was started from.
        seed: u32,
        /// The CRC-32 of the lost body.
        crc: u32,
    },
}

/// An entry, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader made the entry.
    pub term: u64,
    /// The position of the entry in the log.
    pub index: u64,
    /// What the entry holds.
    pub body: Body,
}

/// A record to append. Its body has at most [`format::BODY_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry. It replaces the entry at its index and removes every later one. Its index is at
    /// most one above the last; the first entry of an empty log may have any index.
    Entry {
        /// The term in which a leader made the entry.
        term: u64,
        /// The position of the entry in the log.
        index: u64,
        /// What the entry holds.
        body: &'a [u8],
    },
    /// The body of an entry that was read as [`Body::Faulty`], obtained elsewhere. Later entries
    /// stay.
    Repair {
        /// The term of the damaged entry.
        term: u64,
        /// The index of the damaged entry.
        index: u64,
        /// The body. Recovery ignores a body that is not the lost one.
        body: &'a [u8],
    },
    /// A snapshot was installed. Entries up to `index` are removed.
    Installed {
        /// The term of the last entry that the snapshot covers.
        term: u64,
        /// The index of the last entry that the snapshot covers.
        index: u64,
        /// Whether entries after `index` stay. If not, they are removed too.
        keep_tail: bool,
        /// The caller's description of the snapshot.
        head: &'a [u8],
    },
}

/// The last [`Record::Installed`] of a log, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The term of the last entry that the snapshot covers.
    pub term: u64,
    /// The index of the last entry that the snapshot covers.
    pub index: u64,
    /// Whether entries after `index` stayed.
    pub keep_tail: bool,
    /// The caller's description of the snapshot.
    pub head: Box<[u8]>,
}

/// Which part of the log is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The body of a record. Its header is intact.
    Body,
    /// The header of a record. What the record held is unknown.
    RecordHeader,
    /// The number of a batch, or the checksum over its headers.
    Batch,
    /// The head of a segment.
    SegmentHead,
    /// A segment does not exist, although a later one does or `state` names it.
    MissingSegment,
    /// A record does not continue the one before it.
    Order,
    /// A segment is shorter than it was made. All of it was allocated and synced before it got its
    /// name, so no crash explains this.
    ShortSegment,
}

/// Damage below a durable mark: something that was synced cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The name of the file in the data directory.
    pub file: String,
    /// Where the damage is in the file, in bytes from its start.
    pub offset: u64,
    /// The entry that is damaged; `None` if that is unknown.
    pub index: Option<u64>,
    /// Which part of the log is damaged.
    pub kind: DamageKind,
}

/// The content of a log when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The random number of the data directory.
    pub identity: u64,
    /// Whether the directory held no log and a new one was made.
    pub is_new: bool,
    /// Term and vote, as the caller saved them last; `None` in a new directory.
    pub state: Option<(u64, u64)>,
    /// The entries, at consecutive indexes; replaced ones are left out. The first may be older than
    /// the caller's snapshot, because segments are released as a whole.
    pub entries: Vec<Entry>,
    /// The highest index that the next entry may have; `None` if any index may follow.
    pub next_index: Option<u64>,
    /// The last `Installed`; `None` if there was none or its segment has been released.
    pub installed: Option<Installed>,
    /// The highest commit index that was recorded.
    pub commit: u64,
    /// The configuration in the head of the newest segment.
    pub configuration: Box<[u8]>,
    /// The number of the newest segment, and the offset where its last whole batch ends. Everything
    /// before that offset is durable.
    pub end: (u64, u64),
    /// Whether the last process closed the log: it ends with a closing mark.
    pub closed: bool,
    /// Bytes after the last whole batch that were dropped as a torn tail. They belonged to a batch
    /// that was never acknowledged.
    pub torn_bytes: u64,
    /// One item for each [`Body::Faulty`] in `entries`. A machine that is the only member must
    /// refuse to start; in a cluster, peers supply the bodies. All other damage is
    /// [`OpenError::Damaged`].
    pub damage: Vec<Damage>,
}

/// Why a log was not opened. The text names the file and the next step.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has locked the directory. It may be about to exit.
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// A file has a format that this version does not read.
    Version {
        /// The path of the file.
        file: String,
        /// The number of its format.
        found: u32,
    },
    /// A value in [`Options`] is out of bounds; with the text for the user.
    Option(String),
    /// Term and vote are lost: both slots of `state` are unreadable, or the file does not exist and
    /// the log has records.
    State {
        /// The data directory.
        dir: PathBuf,
    },
    /// The log is damaged and not even the headers of all records are known.
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What is damaged; at least one item.
        damage: Vec<Damage>,
    },
    /// A system call failed.
    Io(Error),
}

/// Why the log did not carry out a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The disk has no room for the segment that is needed. Nothing was changed; the call may be
    /// repeated later.
    Full,
    /// A system call failed. The error is final: every later call returns it, nothing more is
    /// acknowledged, and the process must exit. See README, "Errors".
    Io {
        /// The name of the system call, such as `fdatasync`.
        call: &'static str,
        /// The path of the file.
        file: String,
        /// The error text of the operating system.
        text: String,
    },
}

/// Whether the log can go on when the current segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// A spare segment exists.
    Ok,
    /// No spare segment exists and the disk had no room for one. The rest of the current segment
    /// should serve what cannot be refused.
    Low,
}

/// Whether `body` is the body that was lost as [`Body::Faulty`] with these values.
pub fn body_matches(body: &[u8], len: u32, seed: u32, crc: u32) -> bool {
    body.len() == len as usize && format::crc(seed, body) == crc
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DamageKind::Body => "the body of a record does not match its checksum",
            DamageKind::RecordHeader => "the header of a record is unreadable",
            DamageKind::Batch => "a batch of records does not match its checksum or number",
            DamageKind::SegmentHead => "the head of the file is unreadable or not this log's",
            DamageKind::MissingSegment => "the file is missing",
            DamageKind::Order => "the records do not follow each other",
            DamageKind::ShortSegment => "the file is shorter than it was made",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.file, self.offset)?;
        if let Some(index) = self.index {
            write!(f, " (entry {index})")?;
        }
        write!(f, ": {}", self.kind)
    }
}

/// Most damaged places that the text of an error lists.
const DAMAGE_LISTED_MAX: usize = 8;

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked { dir } => write!(
                f,
                "{}: another process uses this data directory: stop it, or choose another directory",
                dir.display()
            ),
            OpenError::Version { file, found } => write!(
                f,
                "{file} has format {found}, this version reads format {}: use the version that \
                 wrote it",
                format::VERSION
            ),
            OpenError::Option(text) => f.write_str(text),
            OpenError::State { dir } => write!(
                f,
                "{}/state: the file is missing or both of its slots are unreadable. Term and vote \
                 are unknown, so this machine must not vote: restore the directory from a backup, \
                 or remove the machine from the cluster and start it with -f",
                dir.display()
            ),
            OpenError::Damaged { dir, damage } => {
                write!(f, "{}: the log is damaged", dir.display())?;
                for place in damage.iter().take(DAMAGE_LISTED_MAX) {
                    write!(f, "; {place}")?;
                }
                write!(
                    f,
                    " ({} in all): restore the directory from a backup, or, if other machines hold \
                     its data, start it with -f to join anew",
                    damage.len()
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
