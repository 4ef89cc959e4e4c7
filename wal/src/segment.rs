//! The files of the log: their names, how a spare is made, taken into use, and how a segment becomes a spare again.
//!
//! A file is `N.log` only while its head is whole and on the disk; anything else is a spare or half made, and its
//! content means nothing. Each step is durable before the next one starts, so a crash leaves one of the states that
//! `README.md` lists. Start reading at `take`.
use std::fs::File;

use crate::Error;
use crate::format::{Head, PAGE};
use crate::map::Map;
use crate::os::Os;

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

/// Takes a spare into use: its head is on the disk before it gets the name of a segment, and the name before any
/// record goes into it.
pub fn take(os: &mut Os, spare: &str, head: &Head) -> Result<Active, Error> {
    let file = os.open_file(spare)?;
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

/// Makes a spare of a segment that is not needed any more. The name goes first: from then on its content means nothing.
pub fn recycle(os: &mut Os, sequence: u64, spare: &str) -> Result<(), Error> {
    os.rename(&log_name(sequence), spare)?;
    os.sync_dir()?;
    let file = os.open_file(spare)?;
    os.write(&file, spare, &[0; PAGE], 0)?;
    os.sync(&file, spare)?;
    os.drop_cache(&file, spare)
}

/// Removes a segment that is not needed any more.
pub fn discard(os: &mut Os, sequence: u64) -> Result<(), Error> {
    os.unlink(&log_name(sequence))?;
    os.sync_dir()
}
