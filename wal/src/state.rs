//! The file `state`: term, vote and the number of the newest segment, in two slots.
//!
//! # Rules
//!
//! - A change is written to the first slot, synced, written to the second slot and synced. A
//!   message may rest on it only after that. So at any time one slot is whole, and it has the old
//!   or the new value.
//! - Of two readable slots the one with the higher change number is valid.
//! - If no slot is readable, the log is not opened: the machine could vote twice in a term.
//! - A directory without this file is new, unless a segment in it holds records.
//!
//! Start reading at [`StateSlot`], then [`StateFile::save`].
use crate::dir::LogDir;
use crate::format::{PAGE, VERSION, crc, get_u32, get_u64};
use crate::fs::FileSystem;
use crate::{Error, OpenError};

/// The name of the file.
pub const STATE: &str = "state";
/// Its name until it is written whole.
pub const MAKING: &str = "state.making";
/// Its name while the directory is being wiped. It marks that everything else may be removed.
pub const WIPING: &str = "state.wiping";
const MAGIC: &[u8; 8] = b"tern vot";
/// The length of the part of a slot that its checksum covers, in bytes.
const FIXED: usize = 56;
/// The offsets of the two slots.
const SLOTS: [usize; 2] = [0, PAGE];

/// The content of one readable slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlot {
    /// The random number of the data directory; never changes.
    pub identity: u64,
    /// Rises by one with each change.
    pub change: u64,
    /// The current term; never falls.
    pub term: u64,
    /// The candidate that got this machine's vote in `term`, by the caller's number. 0 in a new
    /// directory.
    pub vote: u64,
    /// The number of the newest segment that was put into use. If that file is missing, the end of
    /// the log is lost.
    pub segment: u64,
}

/// The result of decoding a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotContent {
    /// The slot is whole.
    Good(StateSlot),
    /// The slot is whole and has a format of this number.
    Version(u32),
    /// The slot is damaged or missing.
    Bad,
}

/// The open file.
pub struct StateFile<F: FileSystem> {
    file: F::File,
    /// The last change, which both slots hold.
    slot: StateSlot,
}

impl StateSlot {
    /// The bytes of the slot, one page.
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
        assert_eq!(out.len(), FIXED, "the fixed part has its length");
        out.extend_from_slice(&crc(0, &out).to_le_bytes());
        out.resize(PAGE, 0);
        out
    }

    /// Decodes the slot at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> SlotContent {
        let Some(bytes) = bytes.get(..FIXED + 4) else {
            return SlotContent::Bad;
        };
        if &bytes[..8] != MAGIC || crc(0, &bytes[..FIXED]) != get_u32(bytes, FIXED) {
            return SlotContent::Bad;
        }
        if get_u64(bytes, 8) != u64::from(VERSION) {
            return SlotContent::Version(get_u32(bytes, 8));
        }
        SlotContent::Good(StateSlot {
            identity: get_u64(bytes, 16),
            change: get_u64(bytes, 24),
            term: get_u64(bytes, 32),
            vote: get_u64(bytes, 40),
            segment: get_u64(bytes, 48),
        })
    }
}

/// The valid slot of the file with this content. If either slot has another format, the file counts
/// as one of that format: the slot that this version can read may be the older one.
pub fn valid_slot(bytes: &[u8]) -> SlotContent {
    let slots = SLOTS.map(|at| StateSlot::decode(bytes.get(at..).unwrap_or(&[])));
    match slots {
        [SlotContent::Good(a), SlotContent::Good(b)] => {
            SlotContent::Good(if a.change >= b.change { a } else { b })
        }
        [SlotContent::Version(found), _] | [_, SlotContent::Version(found)] => {
            SlotContent::Version(found)
        }
        [SlotContent::Good(slot), SlotContent::Bad]
        | [SlotContent::Bad, SlotContent::Good(slot)] => SlotContent::Good(slot),
        [SlotContent::Bad, SlotContent::Bad] => SlotContent::Bad,
    }
}

impl<F: FileSystem> StateFile<F> {
    /// Makes the file durable in a new directory. From then on the directory is not new any more,
    /// so this is the last step of making one.
    ///
    /// # Errors
    ///
    /// The disk is full, or a system call failed.
    pub fn create(dir: &mut LogDir<F>, identity: u64) -> Result<(), OpenError> {
        let slot = StateSlot {
            identity,
            change: 0,
            term: 0,
            vote: 0,
            segment: 1,
        };
        let made = dir.create(MAKING, (SLOTS.len() * PAGE) as u64)?;
        let file = made.ok_or(OpenError::Io(Error::Full))?;
        dir.write(&file, MAKING, &slot.encode().repeat(SLOTS.len()), 0)?;
        dir.sync(&file, MAKING)?;
        dir.rename(MAKING, STATE)?;
        Ok(dir.sync_names()?)
    }

    /// Opens the file and reads it from the disk. If the slots differ, the valid one is written to
    /// both: otherwise the old vote would become valid again once the newer slot is damaged.
    ///
    /// # Errors
    ///
    /// No slot is readable, the file has another format, or a system call failed.
    pub fn open(dir: &mut LogDir<F>) -> Result<StateFile<F>, OpenError> {
        let file = dir.open(STATE)?;
        dir.sync(&file, STATE)?;
        dir.drop_cache(&file, STATE)?;
        let mut bytes = [0; SLOTS.len() * PAGE];
        let length = dir.read(&file, STATE, &mut bytes, 0)?;
        let slot = match valid_slot(&bytes[..length]) {
            SlotContent::Good(slot) => slot,
            SlotContent::Version(found) => {
                let file = dir.path().join(STATE).display().to_string();
                return Err(OpenError::Version { file, found });
            }
            SlotContent::Bad => {
                return Err(OpenError::State {
                    dir: dir.path().into(),
                });
            }
        };
        let state = StateFile { file, slot };
        let valid = slot.encode();
        for at in SLOTS {
            if bytes[at..at + PAGE] != valid {
                state.write_slot(dir, at)?;
            }
        }
        Ok(state)
    }

    /// The last change.
    pub fn slot(&self) -> StateSlot {
        self.slot
    }

    /// Makes term and vote durable.
    ///
    /// # Errors
    ///
    /// A system call failed. Which value is durable is unknown then.
    ///
    /// # Panics
    ///
    /// If the term falls.
    pub fn save(&mut self, dir: &mut LogDir<F>, term: u64, vote: u64) -> Result<(), Error> {
        assert!(term >= self.slot.term, "a term never falls");
        self.slot.term = term;
        self.slot.vote = vote;
        self.write_both(dir)
    }

    /// Makes the number of the newest segment durable.
    ///
    /// # Errors
    ///
    /// A system call failed. Which value is durable is unknown then.
    ///
    /// # Panics
    ///
    /// If the number does not rise.
    pub fn save_segment(&mut self, dir: &mut LogDir<F>, segment: u64) -> Result<(), Error> {
        assert!(segment > self.slot.segment, "segment numbers rise");
        self.slot.segment = segment;
        self.write_both(dir)
    }

    fn write_both(&mut self, dir: &mut LogDir<F>) -> Result<(), Error> {
        self.slot.change += 1;
        for at in SLOTS {
            self.write_slot(dir, at)?;
        }
        Ok(())
    }

    fn write_slot(&self, dir: &mut LogDir<F>, at: usize) -> Result<(), Error> {
        dir.write(&self.file, STATE, &self.slot.encode(), at as u64)?;
        dir.sync(&self.file, STATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(change: u64, term: u64) -> StateSlot {
        StateSlot {
            identity: 9,
            change,
            term,
            vote: term + 10,
            segment: 1,
        }
    }

    #[test]
    fn one_whole_slot_suffices_and_the_newer_is_valid() {
        let (old, new) = (slot(4, 1), slot(5, 2));
        for pair in [[old, new], [new, old]] {
            let file = [pair[0].encode(), pair[1].encode()].concat();
            assert_eq!(valid_slot(&file), SlotContent::Good(new));
            for bit in 0..(FIXED + 4) * 8 {
                for (damaged, other) in [(0, pair[1]), (PAGE, pair[0])] {
                    let mut bytes = file.clone();
                    bytes[damaged + bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(valid_slot(&bytes), SlotContent::Good(other), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn without_a_whole_slot_the_state_is_bad() {
        let file = [slot(4, 1).encode(), slot(5, 2).encode()].concat();
        assert_eq!(valid_slot(&[]), SlotContent::Bad);
        assert_eq!(valid_slot(&file[..20]), SlotContent::Bad);
        assert_eq!(valid_slot(&file[..PAGE]), SlotContent::Good(slot(4, 1)));
        assert_eq!(valid_slot(&vec![0; 2 * PAGE]), SlotContent::Bad);
    }
}
