//! The memory map of the segment that is written, and the buffer for the pieces of segments that
//! are read.
//!
//! This file must not know what the bytes mean. It has the only writes through a map. Such a map is
//! safe because the file behind it is allocated from end to end, locked by this process, and never
//! shortened while it is mapped. Start reading at [`SegmentMap`].
#![allow(unsafe_code)]
use std::fs::File;
use std::io;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

use crate::format::PAGE;
use crate::fs::FileMap;

/// Synced pages leave the resident set in pieces of this many bytes. A smaller piece would cost a
/// system call more often, a larger one more memory.
const RELEASE_BYTES: usize = 256 << 10;

/// A shared, writable map of a segment.
pub struct SegmentMap {
    map: MmapMut,
    /// Pages before this offset have left the resident set. A multiple of the page size; only
    /// rises.
    released: usize,
}

/// The memory that pieces of segments are read into at start. It is an anonymous map of its own:
/// the allocator would keep memory of that size until the process ends.
#[derive(Default)]
pub struct ReadBuffer {
    /// `None` until the first use; grows to the largest piece.
    map: Option<MmapMut>,
}

impl ReadBuffer {
    /// `bytes` bytes to read into, with any content.
    ///
    /// # Panics
    ///
    /// If the system has no memory for them.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.map.as_ref().is_none_or(|m| m.len() < bytes) {
            let map = MmapMut::map_anon(bytes.max(PAGE)).expect("there is memory for a piece");
            self.map = Some(map);
        }
        &mut self.map.as_mut().expect("it was just made")[..bytes]
    }

    /// The bytes of the buffer.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl SegmentMap {
    /// Maps the first `bytes` bytes of `file`, all of which must be allocated.
    ///
    /// # Errors
    ///
    /// A system call failed.
    pub fn new(file: &File, bytes: usize) -> io::Result<SegmentMap> {
        // SAFETY: no other process writes to the file, because the data directory is locked, and
        // this process has one map of one segment at a time. The file is allocated up to `bytes`
        // and not truncated while it is mapped, so an access is a SIGBUS only if the disk fails,
        // and then the process must exit anyway.
        let map = unsafe { MmapOptions::new().len(bytes).map_mut(file)? };
        // Without this advice a page fault also reads the pages around it, as large folios (see
        // `write_by_pages`).
        map.advise(Advice::Random)?;
        Ok(SegmentMap { map, released: 0 })
    }
}

impl FileMap for SegmentMap {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.map[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Whole pages before `end` may leave the resident set; the page that contains `end` stays,
    /// because the next batch is written to it.
    fn on_synced(&mut self, end: usize) -> io::Result<()> {
        let from = self.released;
        let to = end / PAGE * PAGE;
        if to < from + RELEASE_BYTES {
            return Ok(());
        }
        self.released = to;
        // SAFETY: MADV_DONTNEED on a shared map of a file only drops the pages from this process;
        // a later access reads them from the page cache again, and `from..to` is not written any
        // more.
        unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from)
        }
    }
}
