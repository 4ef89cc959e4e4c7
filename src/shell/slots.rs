//! Numbered places for connections: token <-> (slot, generation).
//!
//! A socket that was dropped in this batch of events can still have an event in it, and its slot
//! can already hold the next connection. A slot's generation rises when it is emptied, so that such
//! an event finds nobody.
use mio::Token;

/// Where a value lives, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    index: u32,
    generation: u32,
}

/// Whose slots an id belongs to; two bits of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Link,
    Call,
}

/// Where a token has its kind; no slot has so high a number.
const KIND_SHIFT: u32 = 30;

impl Kind {
    /// Of an event.
    pub fn of(token: Token) -> Kind {
        match (token.0 as u32) >> KIND_SHIFT {
            0 => Kind::Client,
            1 => Kind::Link,
            _ => Kind::Call,
        }
    }
}

impl SlotId {
    /// The token to register a socket with.
    pub fn token(self, kind: Kind) -> Token {
        let low = (kind as usize) << KIND_SHIFT | self.index as usize;
        Token((self.generation as usize) << 32 | low)
    }

    /// Of an event.
    pub fn from_token(token: Token) -> SlotId {
        SlotId {
            index: token.0 as u32 & ((1 << KIND_SHIFT) - 1),
            generation: (token.0 >> 32) as u32,
        }
    }

    /// The slot's number, below the highest number of values that ever lived at once.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by slot; freed slots are used again.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// No slots.
    pub fn new() -> Slots<T> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts the value that `make` builds into a free slot; `make` is told where it will live.
    pub fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> SlotId {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    value: None,
                });
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        let id = SlotId {
            index,
            generation: slot.generation,
        };
        assert!(slot.value.is_none(), "a free slot is empty");
        slot.value = Some(make(id));
        id
    }

    /// The value, unless it is gone.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.value.as_mut()
    }

    /// Where the value in slot `index` lives, if there is one.
    pub fn at(&self, index: usize) -> Option<SlotId> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref().map(|_| SlotId {
            index: index as u32,
            generation: slot.generation,
        })
    }

    /// Takes the value out; from now on its id finds nobody.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        // Tokens from the top are the listeners' and the signals', see `reactor`.
        slot.generation = (slot.generation + 1) & (u32::MAX >> 1);
        self.free.push(id.index);
        Some(value)
    }

    /// Every value, by slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(i, slot)| {
            let id = SlotId {
                index: i as u32,
                generation: slot.generation,
            };
            slot.value.as_mut().map(|value| (id, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_used_again_is_not_found_by_its_old_id() {
        let mut slots = Slots::new();
        let a = slots.insert_with(|_| 'a');
        assert_eq!(slots.remove(a), Some('a'));
        let b = slots.insert_with(|_| 'b');
        assert_eq!(a.index(), b.index());
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.get_mut(b), Some(&mut 'b'));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn tokens_go_both_ways() {
        let mut slots = Slots::new();
        for round in 0..3 {
            let ids: Vec<SlotId> = (0..5).map(|n| slots.insert_with(|_| n)).collect();
            for (n, id) in ids.iter().enumerate() {
                for kind in [Kind::Client, Kind::Link, Kind::Call] {
                    assert_eq!(SlotId::from_token(id.token(kind)), *id, "round {round}");
                    assert_eq!(Kind::of(id.token(kind)), kind);
                }
                assert_eq!(slots.at(id.index()), Some(*id));
                assert_eq!(slots.get_mut(*id), Some(&mut n.clone()));
            }
            for id in ids {
                slots.remove(id);
            }
        }
        assert_eq!(slots.len(), 0);
        assert_eq!(slots.iter_mut().count(), 0);
    }
}
