//! The files of the log: their names, and how a file becomes a spare, a segment and a spare again.
//!
//! A file has the name of a segment only while its head is whole and on the disk. The content of
//! any other file means nothing. Each step is durable before the next one starts, so a crash leaves
//! one of the states that README.md lists. Start reading at [`ActiveSegment`], then
//! [`put_into_use`].
use crate::Error;
use crate::SEGMENT_BYTES_MAX;
use crate::dir::LogDir;
use crate::format::{PAGE, SegmentHead};
use crate::fs::{FileMap, FileSystem, OpenFile};
use crate::job::Manner;
use crate::map::ReadBuffer;
use crate::scan::{LogTail, Scanner, SegmentExtent, SegmentFile};
use crate::spares::{Spare, Spares};
use crate::walk::SegmentBytes;

/// How many released segments are kept as spares. One serves the next rotation, the other saves the
/// allocation of the spare after it; each costs the disk a segment.
pub const SPARES_MAX: usize = 2;
/// The name of a spare until it is made.
pub const MAKING: &str = "spare.making";
const LOG_SUFFIX: &str = ".log";
const SPARE_SUFFIX: &str = ".spare";

/// The segment that batches are written to.
pub struct ActiveSegment<F: FileSystem> {
    file: F::File,
    name: String,
    /// The whole file. `None` once its room was freed.
    map: Option<<F::File as OpenFile>::Map>,
    /// The number of the segment.
    sequence: u64,
    /// The length of the file in bytes; all of it is allocated. Less if the disk had no room for the
    /// holes of a copied file: up to `end`.
    bytes: u64,
    /// The offset where the next batch goes; only rises. A multiple of 8, at most `bytes`.
    end: usize,
}

impl<F: FileSystem> ActiveSegment<F> {
    /// The number of the segment.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The offset where the next batch goes.
    pub fn end(&self) -> usize {
        self.end
    }

    /// How many bytes are free.
    pub fn room(&self) -> usize {
        self.bytes as usize - self.end
    }

    /// Writes a batch, or the closing mark. Everything written before must have been synced: the
    /// durable mark in the headers says so.
    ///
    /// # Errors
    ///
    /// A system call failed.
    ///
    /// # Panics
    ///
    /// If it does not fit.
    pub fn write_batch(
        &mut self,
        dir: &mut LogDir<F>,
        bytes: &[u8],
        manner: Manner,
    ) -> Result<(), Error> {
        assert!(bytes.len() <= self.room(), "a batch fits into its segment");
        let page_room = self.end.next_multiple_of(PAGE) - self.end;
        let (first, rest) = bytes.split_at(page_room.min(bytes.len()));
        match manner {
            Manner::InPlace => {
                let map = self.map.as_mut();
                map.expect("a segment that is written is mapped")
                    .write(self.end, first);
            }
            Manner::HandedOver => dir.write(&self.file, &self.name, first, self.end as u64)?,
        }
        self.write_pages(dir, rest, self.end + first.len())?;
        self.end += bytes.len();
        Ok(())
    }

    /// Writes the pages that a batch begins, each of them whole and by a call: zeros follow the end
    /// of the batch. A page that is written in part, or through the map, is read from the disk
    /// first if the page cache does not have it.
    fn write_pages(&self, dir: &mut LogDir<F>, bytes: &[u8], at: usize) -> Result<(), Error> {
        let (pages, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
        dir.write(&self.file, &self.name, pages, at as u64)?;
        if rest.is_empty() {
            return Ok(());
        }
        let mut page = [0; PAGE];
        page[..rest.len()].copy_from_slice(rest);
        dir.write(&self.file, &self.name, &page, (at + pages.len()) as u64)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn sync(&mut self, dir: &mut LogDir<F>) -> Result<(), Error> {
        dir.sync(&self.file, &self.name)?;
        let Some(map) = &mut self.map else {
            return Ok(());
        };
        map.on_synced(self.end).map_err(|error| Error::Io {
            call: "madvise",
            file: self.name.clone(),
            text: error.to_string(),
        })
    }

    /// Frees the room of a segment whose file was unlinked. The file system would keep it until the
    /// file is closed.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn free(&mut self, dir: &mut LogDir<F>) -> Result<(), Error> {
        // A map must never be longer than its file.
        self.map = None;
        dir.truncate(&self.file, &self.name)
    }

    /// Part of `Wal::check_invariants`.
    ///
    /// # Panics
    ///
    /// If a field contradicts another.
    pub fn check_invariants(&self) {
        assert!(self.end as u64 <= self.bytes, "the segment has its length");
        assert!(self.end >= PAGE, "records follow the head");
        assert!(self.end.is_multiple_of(8), "records are padded");
    }
}

/// The name of the segment with this number.
pub fn log_name(sequence: u64) -> String {
    format!("{sequence:016x}{LOG_SUFFIX}")
}

/// The name of a spare. Its number only makes the name unique.
pub fn spare_name(number: u64) -> String {
    format!("{number:016x}{SPARE_SUFFIX}")
}

/// The number in a file name with this suffix; `None` if the name has another form.
fn number(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != 16 || !digits.bytes().all(is_digit) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// The number of a segment; `None` if `name` is not the name of a segment.
pub fn log_number(name: &str) -> Option<u64> {
    number(name, LOG_SUFFIX)
}

/// Whether `name` is the name of a spare.
pub fn is_spare(name: &str) -> bool {
    number(name, SPARE_SUFFIX).is_some()
}

/// A number for the name of a spare that is above those of `names`.
pub fn free_spare_number(names: &[String]) -> u64 {
    let numbers = names.iter().filter_map(|name| number(name, SPARE_SUFFIX));
    numbers.max().map_or(1, |n| n.wrapping_add(1))
}

/// Makes a spare. `false`: the disk has no room, and no file is left.
///
/// # Errors
///
/// A system call failed.
pub fn make_spare<F: FileSystem>(dir: &mut LogDir<F>, spare: &Spare) -> Result<bool, Error> {
    let Some(file) = dir.create(MAKING, spare.bytes)? else {
        return Ok(false);
    };
    dir.sync(&file, MAKING)?;
    dir.rename(MAKING, &spare.name)?;
    dir.sync_names()?;
    Ok(true)
}

/// Makes a segment of a spare, or of the half-made first file of a new log. The head is on the disk
/// before the file gets the name of a segment, and the name before a record is written.
///
/// # Errors
///
/// A system call failed.
pub fn put_into_use<F: FileSystem>(
    dir: &mut LogDir<F>,
    spare: &str,
    head: &SegmentHead,
) -> Result<ActiveSegment<F>, Error> {
    let file = dir.open(spare)?;
    dir.write(&file, spare, &head.encode(), 0)?;
    dir.sync(&file, spare)?;
    let name = log_name(head.sequence);
    dir.rename(spare, &name)?;
    dir.sync_names()?;
    let map = dir.map(&file, &name, head.segment_bytes)?;
    Ok(ActiveSegment {
        file,
        name,
        map: Some(map),
        sequence: head.sequence,
        bytes: head.segment_bytes,
        end: head.records_at as usize,
    })
}

/// Makes a spare of a segment that was released. It is renamed first: from then on its content
/// means nothing. Its pages stay in the page cache, in small folios (see `write_by_pages`): writing
/// to one that is there takes less time. `false`: the disk has no room for the holes of a copied
/// segment, and no file is left.
///
/// # Errors
///
/// A system call failed.
pub fn recycle<F: FileSystem>(
    dir: &mut LogDir<F>,
    sequence: u64,
    spare: &Spare,
) -> Result<bool, Error> {
    let name = &spare.name;
    dir.rename(&log_name(sequence), name)?;
    dir.sync_names()?;
    let file = dir.open(name)?;
    if !dir.allocate(&file, name, spare.bytes)? {
        dir.unlink(name)?;
        return Ok(false);
    }
    dir.write(&file, name, &[0; PAGE], 0)?;
    dir.sync(&file, name)?;
    Ok(true)
}

/// Removes a segment that was released.
///
/// # Errors
///
/// A system call failed.
pub fn remove<F: FileSystem>(dir: &mut LogDir<F>, sequence: u64) -> Result<(), Error> {
    dir.unlink(&log_name(sequence))?;
    dir.sync_names()
}

/// Whether a segment among `names` holds, or held, more than a head. `state` is made before the
/// first record, so such a segment shows that a missing `state` was lost.
///
/// # Errors
///
/// A system call failed.
pub fn has_records<F: FileSystem>(dir: &mut LogDir<F>, names: &[String]) -> Result<bool, Error> {
    for name in names {
        let Some(sequence) = log_number(name) else {
            continue;
        };
        let file = dir.open(name)?;
        let mut bytes = [0; 2 * PAGE];
        let length = dir.read(&file, name, &mut bytes, 0)?;
        let has_content = bytes[PAGE.min(length)..].iter().any(|b| *b != 0);
        if has_content || sequence != 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of a segment that are read at once, unless a head is longer.
const PIECE_BYTES: usize = 256 << 10;

/// A segment that is read in pieces into a buffer that serves one segment after the other.
struct SegmentReader<'a, F: FileSystem> {
    dir: &'a mut LogDir<F>,
    file: F::File,
    name: &'a str,
    /// The length of the file in bytes.
    length: u64,
    /// How many of its bytes are read at all.
    end: usize,
    buffer: &'a mut ReadBuffer,
    /// The offset in the segment of the first byte in the buffer.
    start: usize,
    /// How many bytes in the buffer are of this segment.
    filled: usize,
}

/// Scans the first `bytes_max` bytes of each segment among `names`, which are sorted. The segments
/// are read from the disk and not from the page cache. Bodies of entries up to `covered` are not
/// kept.
///
/// # Errors
///
/// A system call failed.
pub fn scan_segments<F: FileSystem>(
    dir: &mut LogDir<F>,
    identity: u64,
    names: &[String],
    bytes_max: u64,
    covered: u64,
) -> Result<Scanner, Error> {
    let mut segments = Vec::new();
    for name in names {
        segments.extend(log_number(name).map(|sequence| (name.as_str(), sequence)));
    }
    let mut scanner = Scanner::new(identity);
    scanner.cover(covered);
    let mut buffer = ReadBuffer::default();
    for (i, (name, sequence)) in segments.iter().enumerate() {
        let next_head = match segments.get(i + 1) {
            Some((next, _)) => {
                SegmentReader::open(dir, next, SEGMENT_BYTES_MAX, &mut buffer)?.read_head()?
            }
            None => None,
        };
        let mut reader = SegmentReader::open(dir, name, bytes_max, &mut buffer)?;
        let segment = SegmentFile {
            name,
            sequence: *sequence,
            length: reader.length,
        };
        scanner.segment(segment, &mut reader, next_head.as_ref())?;
        reader.close()?;
    }
    Ok(scanner)
}

impl<'a, F: FileSystem> SegmentReader<'a, F> {
    /// Opens a segment, of which the first `bytes_max` bytes are read. The bytes are dropped from
    /// the page cache first: after a failed sync a page there may differ from the disk.
    fn open(
        dir: &'a mut LogDir<F>,
        name: &'a str,
        bytes_max: u64,
        buffer: &'a mut ReadBuffer,
    ) -> Result<SegmentReader<'a, F>, Error> {
        let file = dir.open(name)?;
        dir.sync(&file, name)?;
        dir.drop_cache(&file, name)?;
        let length = dir.length(&file, name)?;
        Ok(SegmentReader {
            dir,
            file,
            name,
            length,
            end: length.min(bytes_max) as usize,
            buffer,
            start: 0,
            filled: 0,
        })
    }

    /// The head of the segment; `None` if it is unreadable.
    fn read_head(mut self) -> Result<Option<SegmentHead>, Error> {
        let claimed = SegmentHead::claimed_bytes(self.view(0, PAGE)?);
        Ok(SegmentHead::decode(self.view(0, claimed.max(PAGE))?).ok())
    }

    /// Drops the segment from the page cache: reading has put large folios there (see
    /// `write_by_pages`).
    fn close(self) -> Result<(), Error> {
        self.dir.drop_cache(&self.file, self.name)
    }
}

impl<F: FileSystem> SegmentBytes for SegmentReader<'_, F> {
    type Error = Error;

    fn length(&self) -> usize {
        self.end
    }

    fn view(&mut self, at: usize, least: usize) -> Result<&[u8], Error> {
        let wanted = least.min(self.end.saturating_sub(at));
        let is_here = at >= self.start && at + wanted <= self.start + self.filled;
        if !is_here {
            let bytes = wanted.max(PIECE_BYTES.min(self.end.saturating_sub(at)));
            let room = self.buffer.room(bytes);
            self.filled = self.dir.read(&self.file, self.name, room, at as u64)?;
            self.start = at;
        }
        let from = at.saturating_sub(self.start).min(self.filled);
        Ok(&self.buffer.bytes()[from..self.filled])
    }
}

/// Removes the torn tail of the last segment durably, and maps the segment. It is enough to
/// overwrite the valid headers: no other bytes can pass for a record later. A torn tail that is
/// needed as a proof stays: the caller must go on in another segment.
///
/// A copy of the directory may have holes where zeros were. If the disk has no room for them, the
/// segment counts as full and nothing is written to it. A torn tail then stays behind the end, which
/// the next segment states in its head.
///
/// # Errors
///
/// A system call failed.
pub fn open_last<F: FileSystem>(
    dir: &mut LogDir<F>,
    tail: &LogTail,
    last: SegmentExtent,
) -> Result<ActiveSegment<F>, Error> {
    let name = log_name(last.sequence);
    let file = dir.open(&name)?;
    let is_allocated = dir.allocate(&file, &name, last.bytes)?;
    if is_allocated && tail.dirty_end > tail.end && !tail.needs_torn_tail() {
        let zeros = vec![0; PIECE_BYTES.min(tail.dirty_end - tail.end)];
        let mut at = tail.end;
        while at < tail.dirty_end {
            let piece = &zeros[..zeros.len().min(tail.dirty_end - at)];
            dir.write(&file, &name, piece, at as u64)?;
            at += piece.len();
        }
        dir.sync(&file, &name)?;
        dir.drop_cache(&file, &name)?;
    }
    let map = dir.map(&file, &name, last.bytes)?;
    Ok(ActiveSegment {
        file,
        name,
        map: Some(map),
        sequence: last.sequence,
        bytes: if is_allocated {
            last.bytes
        } else {
            tail.end as u64
        },
        end: tail.end,
    })
}

/// The spares among `names` that have `bytes` bytes, at most [`SPARES_MAX`]. The others, longer ones
/// included, are removed, and a copied one if the disk has no room for its holes. Another process may
/// have read them, in large folios: they are dropped from the page cache.
///
/// # Errors
///
/// A system call failed.
pub fn keep_spares<F: FileSystem>(
    dir: &mut LogDir<F>,
    names: &[String],
    bytes: u64,
) -> Result<Spares, Error> {
    let mut spares = Vec::new();
    for name in names.iter().filter(|n| is_spare(n)) {
        let file = dir.open(name)?;
        let is_wanted = dir.length(&file, name)? == bytes && spares.len() < SPARES_MAX;
        if is_wanted && dir.allocate(&file, name, bytes)? {
            dir.drop_cache(&file, name)?;
            let name = name.clone();
            spares.push(Spare { name, bytes });
        } else {
            dir.unlink(name)?;
        }
    }
    Ok(Spares::new(spares))
}
