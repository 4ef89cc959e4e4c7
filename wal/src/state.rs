//! Term and vote: the file `state` of two slots, each with its own checksum.
//!
//! A change goes to one slot, is synced, goes to the other, is synced; only then may a message rest
//! on it. So one good slot suffices, whichever it is. With none the machine must not start: it
//! might vote twice in a term. A directory without this file and without records is new. Start
//! reading at `Slot`, then `State::save`.
use std::fs::File;

use crate::format::{PAGE, VERSION, crc, get_u32, get_u64};
use crate::os::Os;
use crate::{Error, OpenError};

/// The file's name.
pub const STATE: &str = "state";
/// Its name until it is whole.
pub const MAKING: &str = "state.making";
/// The name of a file that was `state` while the directory is being wiped.
pub const WIPING: &str = "state.wiping";
const MAGIC: &[u8; 8] = b"tern vot";
/// The part of a slot that the checksum covers.
const FIXED: usize = 56;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub identity: u64,
    /// Rises with each change; the higher of two good slots counts.
    pub change: u64,
    pub term: u64,
    pub vote: u64,
    /// The number of the newest segment: if that file is not there, the end of the log is lost.
    pub segment: u64,
}

/// The open file and what it says.
pub struct State {
    file: File,
    slot: Slot,
}

/// What a slot's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Good(Slot),
    /// Whole, but of another format.
    Version(u32),
    Bad,
}

impl Slot {
    /// A slot of one page.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAGE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        for word in [
            self.identity,
            self.change,
            self.term,
            self.vote,
            self.segment,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(out.len(), FIXED, "the fixed part is as long as it says");
        out.extend_from_slice(&crc(0, &out).to_le_bytes());
        out.resize(PAGE, 0);
        out
    }

    /// What the slot at the start of `bytes` says.
    pub fn decode(bytes: &[u8]) -> Read {
        let Some(bytes) = bytes.get(..FIXED + 4) else {
            return Read::Bad;
        };
        if &bytes[..8] != MAGIC || crc(0, &bytes[..FIXED]) != get_u32(bytes, FIXED) {
            return Read::Bad;
        }
        if get_u64(bytes, 8) != u64::from(VERSION) {
            return Read::Version(get_u32(bytes, 8));
        }
        Read::Good(Slot {
            identity: get_u64(bytes, 16),
            change: get_u64(bytes, 24),
            term: get_u64(bytes, 32),
            vote: get_u64(bytes, 40),
            segment: get_u64(bytes, 48),
        })
    }
}

/// The slot that counts in a state file, or what is wrong with all of it.
pub fn decide(bytes: &[u8]) -> Read {
    let slots = [
        Slot::decode(bytes),
        Slot::decode(bytes.get(PAGE..).unwrap_or(&[])),
    ];
    match slots {
        [Read::Good(a), Read::Good(b)] => Read::Good(if a.change >= b.change { a } else { b }),
        [Read::Version(found), _] | [_, Read::Version(found)] => Read::Version(found),
        [Read::Good(slot), Read::Bad] | [Read::Bad, Read::Good(slot)] => Read::Good(slot),
        [Read::Bad, Read::Bad] => Read::Bad,
    }
}

impl State {
    /// Makes the file of a new directory; with it the directory is no longer new, so it comes last.
    pub fn create(os: &mut Os, identity: u64) -> Result<(), OpenError> {
        let slot = Slot {
            identity,
            change: 0,
            term: 0,
            vote: 0,
            segment: 1,
        };
        let made = os.create(MAKING, 2 * PAGE as u64)?;
        let file = made.ok_or(OpenError::Io(Error::Full))?;
        os.write(&file, MAKING, &slot.encode().repeat(2), 0)?;
        os.sync(&file, MAKING)?;
        os.rename(MAKING, STATE)?;
        Ok(os.sync_dir()?)
    }

    /// Reads the file from the disk. If the slots are not the same, the one that counts is put into
    /// both: a crash between the two writes of a change must not leave an old vote for the day
    /// on which the newer slot is damaged.
    pub fn open(os: &mut Os, dir: &std::path::Path) -> Result<State, OpenError> {
        let file = os.open(STATE)?;
        os.sync(&file, STATE)?;
        os.drop_cache(&file, STATE)?;
        let mut bytes = [0; 2 * PAGE];
        let length = os.read(&file, STATE, &mut bytes)?;
        let slot = match decide(&bytes[..length]) {
            Read::Good(slot) => slot,
            Read::Version(found) => {
                let file = dir.join(STATE).display().to_string();
                return Err(OpenError::Version { file, found });
            }
            Read::Bad => return Err(OpenError::State { dir: dir.into() }),
        };
        let mut state = State { file, slot };
        let good = slot.encode();
        // The bad one first: it is the one that can be lost.
        let bad = |at: usize| bytes[at..at + PAGE] != good;
        for at in [0, PAGE].into_iter().filter(|at| bad(*at)) {
            state.put(os, at)?;
        }
        Ok(state)
    }

    /// What the file says.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Makes a term and a vote durable in both slots.
    pub fn save(&mut self, os: &mut Os, term: u64, vote: u64) -> Result<(), Error> {
        assert!(term >= self.slot.term, "terms never go back");
        (self.slot.term, self.slot.vote) = (term, vote);
        self.put_both(os)
    }

    /// Makes the number of the newest segment durable in both slots.
    pub fn save_segment(&mut self, os: &mut Os, segment: u64) -> Result<(), Error> {
        assert!(segment > self.slot.segment, "segments are numbered upwards");
        self.slot.segment = segment;
        self.put_both(os)
    }

    fn put_both(&mut self, os: &mut Os) -> Result<(), Error> {
        self.slot.change += 1;
        self.put(os, 0)?;
        self.put(os, PAGE)
    }

    fn put(&mut self, os: &mut Os, at: usize) -> Result<(), Error> {
        os.write(&self.file, STATE, &self.slot.encode(), at as u64)?;
        os.sync(&self.file, STATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(change: u64, term: u64) -> Slot {
        Slot {
            identity: 9,
            change,
            term,
            vote: term + 10,
            segment: 1,
        }
    }

    #[test]
    fn one_good_slot_suffices_and_the_newer_counts() {
        let (old, new) = (slot(4, 1), slot(5, 2));
        for pair in [[old, new], [new, old]] {
            let file = [pair[0].encode(), pair[1].encode()].concat();
            assert_eq!(decide(&file), Read::Good(new));
            for bit in 0..(FIXED + 4) * 8 {
                for (damaged, other) in [(0, pair[1]), (PAGE, pair[0])] {
                    let mut bytes = file.clone();
                    bytes[damaged + bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(decide(&bytes), Read::Good(other), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn with_no_good_slot_nothing_is_guessed() {
        let file = [slot(4, 1).encode(), slot(5, 2).encode()].concat();
        assert_eq!(decide(&[]), Read::Bad);
        assert_eq!(decide(&file[..20]), Read::Bad);
        assert_eq!(decide(&file[..PAGE]), Read::Good(slot(4, 1)));
        assert_eq!(decide(&vec![0; 2 * PAGE]), Read::Bad);
    }
}
