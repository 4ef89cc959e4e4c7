//! Numbered slots for connections, and the poll tokens that identify them.
//!
//! A batch of events may contain an event of a socket that was dropped earlier in the same turn,
//! and the slot may already hold the next connection. So each slot counts generations. The
//! generation rises when the slot is emptied, and the late event matches no value. Start with
//! [`Slots::insert_with`].
use mio::Token;

/// Identifies a value in its slot. After the value is removed the id matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    index: u32,
    generation: u32,
}

/// The pool that a token's slot belongs to; two bits of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Client and admin connections.
    Clients,
    /// Links to peers.
    Links,
    /// Outgoing HTTP calls.
    Calls,
}

/// The bits of a slot number in a token. Slot numbers fit, because the number of descriptors does:
/// on a machine of 32 bits a process has no memory for 262,144 connections.
const INDEX_BITS: u32 = if usize::BITS >= 64 { 30 } else { 18 };
/// The position of the generation's bits in a token, above the slot number and the pool.
const GENERATION_SHIFT: u32 = INDEX_BITS + 2;
/// Generations have the bits that are left, but one: 31 or 11. The reactor's own tokens (signals,
/// listeners) start from the top, so no slot has one of them.
const GENERATION_MASK: u32 = (usize::MAX >> GENERATION_SHIFT >> 1) as u32;

impl PoolKind {
    /// The pool that an event's token belongs to.
    pub fn of(token: Token) -> PoolKind {
        match (token.0 >> INDEX_BITS) & 3 {
            0 => PoolKind::Clients,
            1 => PoolKind::Links,
            _ => PoolKind::Calls,
        }
    }
}

impl SlotId {
    /// The token to register a socket with.
    pub fn token(self, kind: PoolKind) -> Token {
        let low = (kind as usize) << INDEX_BITS | self.index as usize;
        Token((self.generation as usize) << GENERATION_SHIFT | low)
    }

    /// The slot that an event's token names.
    pub fn from_token(token: Token) -> SlotId {
        SlotId {
            index: (token.0 & ((1 << INDEX_BITS) - 1)) as u32,
            generation: (token.0 >> GENERATION_SHIFT) as u32,
        }
    }

    /// The slot's number. It is less than the most values that were in the slots at one time.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

struct SlotEntry<T> {
    /// Rises when the value is removed.
    generation: u32,
    value: Option<T>,
}

/// Values in numbered slots. A freed slot is reused.
pub struct Slots<T> {
    slots: Vec<SlotEntry<T>>,
    /// Numbers of the empty slots; the last one is used next.
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

    /// The number of values.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts the value that `make` builds into a free slot. `make` gets the slot's id.
    pub fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> SlotId {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(SlotEntry {
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

    /// The value; `None` once it was removed.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.value.as_mut()
    }

    /// The id of the value in slot `index`, if there is one.
    pub fn id_at(&self, index: usize) -> Option<SlotId> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref().map(|_| SlotId {
            index: index as u32,
            generation: slot.generation,
        })
    }

    /// Removes the value. From now on its id matches nothing.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(value)
    }

    /// Every value, in the order of the slots.
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
    fn a_reused_slot_does_not_match_the_former_id() {
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
    fn a_token_holds_pool_slot_and_generation() {
        let mut slots = Slots::new();
        for round in 0..3 {
            let ids: Vec<SlotId> = (0..5).map(|n| slots.insert_with(|_| n)).collect();
            for (n, id) in ids.iter().enumerate() {
                for kind in [PoolKind::Clients, PoolKind::Links, PoolKind::Calls] {
                    assert_eq!(SlotId::from_token(id.token(kind)), *id, "round {round}");
                    assert_eq!(PoolKind::of(id.token(kind)), kind);
                }
                assert_eq!(slots.id_at(id.index()), Some(*id));
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
