//! The files of the log: their names, how a spare is made, taken into use, and how a segment
//! becomes a spare again.
//!
//! A file is `N.log` only while its head is whole and on the disk; anything else is a spare or half
//! made, and its content means nothing. Each step is durable before the next one starts, so a crash
//! leaves one of the states that `README.md` lists. Start reading at `take`.
use std::fs::File;

use crate::Error;
use crate::format::{Head, PAGE};
use crate::map::{Buffer, Map};
use crate::os::Os;
use crate::scan::{Extent, Scanner, Tail};

/// As many released segments are kept as spares; more are removed.
pub const SPARES_MAX: usize = 2;
/// A spare's name until it is whole.
pub const MAKING: &str = "spare.making";
const LOG: &str = ".log";
const SPARE: &str = ".spare";

/// The segment that is written.
pub struct Active {
    pub file: File,
    pub name: String,
    pub map: Map,
    pub sequence: u64,
    /// The length of the file.
    pub bytes: u64,
    /// Where the next batch starts.
    pub end: usize,
    /// The highest index that a record in it concerns.
    pub index_max: u64,
}

impl Active {
    /// Gives back the room of a segment that has been unlinked, and would keep it as long as it is
    /// open.
    pub fn empty(&mut self, os: &mut Os) -> Result<(), Error> {
        // A map must never be longer than its file.
        self.map = Map::nothing();
        os.truncate(&self.file, &self.name)
    }
}

/// The name of a segment.
pub fn log_name(sequence: u64) -> String {
    format!("{sequence:016x}{LOG}")
}

/// The name of a spare; the number only makes it unique.
fn spare_name(number: u64) -> String {
    format!("{number:016x}{SPARE}")
}

fn number(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (digits.len() == 16 && digits.bytes().all(lower))
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The number of a segment, if `name` is one's.
pub fn log_number(name: &str) -> Option<u64> {
    number(name, LOG)
}

/// Whether `name` is a spare's.
pub fn is_spare(name: &str) -> bool {
    number(name, SPARE).is_some()
}

/// A name that none of these spares has.
pub fn free_spare_name(spares: &[String]) -> String {
    let numbers = spares.iter().filter_map(|name| number(name, SPARE));
    spare_name(numbers.max().map_or(1, |n| n.wrapping_add(1)))
}

/// Makes a spare of `bytes` bytes; false: the disk has no room, and nothing is left behind.
pub fn make_spare(os: &mut Os, name: &str, bytes: u64) -> Result<bool, Error> {
    let Some(file) = os.create(MAKING, bytes)? else {
        return Ok(false);
    };
    os.sync(&file, MAKING)?;
    os.rename(MAKING, name)?;
    os.sync_dir()?;
    Ok(true)
}

/// Takes a spare (or a first file that is half made) into use: its head is on the disk before it
/// gets the name of a segment, and the name before any record goes into it.
pub fn take(os: &mut Os, spare: &str, head: &Head) -> Result<Active, Error> {
    let file = os.open(spare)?;
    os.write(&file, spare, &head.encode(), 0)?;
    os.sync(&file, spare)?;
    let name = log_name(head.sequence);
    os.rename(spare, &name)?;
    os.sync_dir()?;
    os.drop_cache(&file, &name)?;
    let map = os.map(&file, &name, head.segment_bytes)?;
    Ok(Active {
        file,
        name,
        map,
        sequence: head.sequence,
        bytes: head.segment_bytes,
        end: head.records_at as usize,
        index_max: 0,
    })
}

/// Makes a spare of a segment that is not needed any more. The name goes first: from then on its
/// content means nothing.
pub fn recycle(os: &mut Os, sequence: u64, spare: &str) -> Result<(), Error> {
    os.rename(&log_name(sequence), spare)?;
    os.sync_dir()?;
    let file = os.open(spare)?;
    os.write(&file, spare, &[0; PAGE], 0)?;
    os.sync(&file, spare)?;
    os.drop_cache(&file, spare)
}

/// Removes a segment that is not needed any more.
pub fn discard(os: &mut Os, sequence: u64) -> Result<(), Error> {
    os.unlink(&log_name(sequence))?;
    os.sync_dir()
}

/// The segments of a directory, read one at a time into one buffer.
struct Reader<'a> {
    os: &'a mut Os,
    buffer: Buffer,
}

/// Whether any of the segments among `names` holds more than a head. A new directory has its
/// `state` before its first record.
pub fn any_used(os: &mut Os, names: &[String]) -> Result<bool, Error> {
    for name in names.iter().filter(|n| log_number(n).is_some()) {
        let file = os.open(name)?;
        let mut bytes = [0; 2 * PAGE];
        let length = os.read(&file, name, &mut bytes)?;
        if bytes[PAGE.min(length)..].iter().any(|b| *b != 0) || log_number(name) != Some(1) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads all segments among `names`, or the first `bytes_max` of each, from the disk and not from
/// the page cache.
pub fn read(
    os: &mut Os,
    identity: u64,
    names: &[String],
    bytes_max: u64,
) -> Result<Scanner, Error> {
    let numbered = |n: &String| log_number(n).map(|number| (n.clone(), number));
    let segments: Vec<(String, u64)> = names.iter().filter_map(numbered).collect();
    let mut scanner = Scanner::new(identity);
    let buffer = Buffer::default();
    let mut reader = Reader { os, buffer };
    for (i, (name, sequence)) in segments.iter().enumerate() {
        let head = match segments.get(i + 1) {
            Some((next, _)) => reader.head(next)?,
            None => None,
        };
        let file = reader.open(name, bytes_max)?;
        scanner.segment(name, *sequence, reader.buffer.bytes(), head.as_ref());
        // What was read sits in the cache in large folios: see Os::write.
        reader.os.drop_cache(&file, name)?;
    }
    Ok(scanner)
}

impl Reader<'_> {
    /// Fills the buffer from a segment, which is first taken out of the page cache: a page there
    /// may differ from the disk after a failed sync.
    fn open(&mut self, name: &str, bytes_max: u64) -> Result<File, Error> {
        let file = self.os.open(name)?;
        self.os.sync(&file, name)?;
        self.os.drop_cache(&file, name)?;
        let length = self.os.length(&file, name)?.min(bytes_max);
        let room = self.buffer.room(length as usize);
        let filled = self.os.read(&file, name, room)?;
        self.buffer.fill(filled);
        Ok(file)
    }

    /// The head of a segment, if it is readable.
    fn head(&mut self, name: &str) -> Result<Option<Head>, Error> {
        self.open(name, PAGE as u64)?;
        let claimed = Head::claimed_bytes(self.buffer.bytes());
        if claimed > PAGE {
            self.open(name, claimed as u64)?;
        }
        Ok(Head::decode(self.buffer.bytes()).ok())
    }
}

/// Cuts the torn tail off the last segment, makes that durable, and maps the segment. Only valid
/// headers need to be overwritten: nothing else can ever pass for a record.
pub fn cut(os: &mut Os, tail: &Tail, last: Extent) -> Result<Active, Error> {
    let name = log_name(last.sequence);
    let file = os.open(&name)?;
    let short = os.length(&file, &name)? < last.bytes;
    if short && !os.allocate(&file, &name, last.bytes)? {
        return Err(Error::Full);
    }
    let zeros = vec![0; tail.dirty - tail.end];
    if !zeros.is_empty() {
        os.write(&file, &name, &zeros, tail.end as u64)?;
    }
    if short || !zeros.is_empty() {
        os.sync(&file, &name)?;
        os.drop_cache(&file, &name)?;
    }
    let map = os.map(&file, &name, last.bytes)?;
    Ok(Active {
        file,
        name,
        map,
        sequence: last.sequence,
        bytes: last.bytes,
        end: tail.end,
        index_max: last.index_max,
    })
}

/// The spares that are as long as segments are now; others, and more than are kept, are removed.
pub fn usable_spares(os: &mut Os, names: &[String], bytes: u64) -> Result<Vec<String>, Error> {
    let mut spares = Vec::new();
    for name in names.iter().filter(|n| is_spare(n)) {
        let file = os.open(name)?;
        if os.length(&file, name)? == bytes && spares.len() < SPARES_MAX {
            spares.push(name.clone());
        } else {
            os.unlink(name)?;
        }
    }
    Ok(spares)
}
