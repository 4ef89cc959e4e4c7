//! A segment in memory: the only place that writes through a map.
//!
//! It must not know what the bytes mean. The file behind a map is allocated from end to end, locked
//! by this process and never shortened while it is mapped, which is what makes the map safe. Start
//! reading at `Map`.
#![allow(unsafe_code)]
use std::fs::File;
use std::io;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

use crate::format::PAGE;

/// Pages are given back when this many bytes of them are behind the writer.
const GIVE_BACK: usize = 256 << 10;

/// A shared, writable map of a segment.
pub struct Map {
    map: MmapMut,
    /// Pages before this offset have been given back.
    given_back: usize,
}

/// Memory for a segment that is read at start. A map of its own, because a piece of that size from
/// the allocator makes it keep as much for the life of the process.
#[derive(Default)]
pub struct Buffer {
    map: Option<MmapMut>,
    filled: usize,
}

impl Buffer {
    /// Room for `bytes` bytes; what was in the buffer is gone.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        self.filled = 0;
        if self.map.as_ref().is_none_or(|m| m.len() < bytes) {
            let map = MmapMut::map_anon(bytes.max(PAGE)).expect("there is memory for a segment");
            // Only spares page faults, so a refusal does not matter.
            let _ = map.advise(Advice::HugePage);
            self.map = Some(map);
        }
        &mut self.map.as_mut().expect("it was just made")[..bytes]
    }

    /// As many bytes of the room hold something.
    pub fn fill(&mut self, bytes: usize) {
        self.filled = bytes;
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |m| &m[..self.filled])
    }
}

impl Map {
    /// Maps the first `bytes` bytes of `file`.
    pub fn new(file: &File, bytes: usize) -> io::Result<Map> {
        // SAFETY: nobody else writes to the file: the data directory is locked, and this process
        // has one map of one segment at a time. It is allocated up to `bytes` and not
        // truncated while mapped, so no access is a SIGBUS but for a failing disk, on which
        // the process cannot go on anyway.
        let map = unsafe { MmapOptions::new().len(bytes).map_mut(file)? };
        // Without this a fault reads the pages around it too, and those come as large folios (see
        // Os::write).
        map.advise(Advice::Random)?;
        Ok(Map { map, given_back: 0 })
    }

    /// A map of no file.
    pub fn nothing() -> Map {
        let map = MmapMut::map_anon(PAGE).expect("there is memory for a page");
        Map { map, given_back: 0 }
    }

    /// Puts bytes into the file; they are durable after a sync of it.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.map[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Tells that everything before `end` is synced. Whole pages of that leave the resident set in
    /// larger pieces; the page with `end` in it stays, because the next batch goes there.
    pub fn synced(&mut self, end: usize) -> io::Result<()> {
        let from = self.given_back;
        let to = end / PAGE * PAGE;
        if to < from + GIVE_BACK {
            return Ok(());
        }
        self.given_back = to;
        // SAFETY: MADV_DONTNEED on a shared map of a file only drops this process' view; a later
        // access reads the page cache again, and nothing in `from..to` is written any more.
        unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from)
        }
    }
}
