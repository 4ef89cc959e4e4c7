//! The clock values of a turn, and the timer wheel.
//!
//! [`TimerWheel`] is a hierarchical timing wheel (Varghese and Lauck, 1987). A tick is one
//! microsecond and a level has 64 slots, so eleven levels cover every `u64` deadline: no deadline
//! is rounded, and none is out of range. A timer stands at the level of the highest bit in which
//! its deadline differs from the wheel's time. When time enters a slot above the lowest level, its
//! timers move to lower levels (`cascade`); a slot of the lowest level fires.
//!
//! The wheel reads no clock: its time moves only by [`TimerWheel::advance`].
use std::num::NonZero;

/// The time of one turn. The shell reads it from the clocks once a turn; the simulator computes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time in microseconds from an arbitrary start; all deadlines are on this clock.
    pub mono_us: u64,
    /// Wall-clock time in nanoseconds since the Unix epoch; used for ttls and statistics only.
    pub wall_ns: u64,
}

/// The earliest of these deadlines; `None` if nothing is due.
pub fn earliest(deadlines: &[Option<u64>]) -> Option<u64> {
    let mut earliest: Option<u64> = None;
    for deadline in deadlines {
        earliest = match (earliest, *deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    earliest
}

/// Slots of a level. Each has one bit in the masks of its level.
const SLOTS: usize = 64;
/// Bits of a deadline that one level resolves.
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
/// Levels that cover all 64 bits of a deadline.
const LEVELS: usize = 64_usize.div_ceil(SLOT_BITS as usize);

/// A place in `TimerWheel::entries`. It holds the index plus one, so that `Option<Place>` takes four
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(NonZero<u32>);

impl Place {
    /// # Panics
    ///
    /// If `index` is 2^32 - 1 or more.
    fn new(index: usize) -> Place {
        let number = u32::try_from(index + 1).ok().and_then(NonZero::new);
        Place(number.expect("fewer timers than 2^32 - 1"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Identifies a timer until it fires or is cancelled. Afterwards the handle matches no timer, even
/// if the wheel reuses the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerHandle {
    place: Place,
    generation: u32,
}

/// A place in `TimerWheel::entries`: a scheduled timer, or free.
struct TimerEntry<T> {
    deadline_us: u64,
    /// Raised when the place is freed, so that handles of former timers no longer match.
    generation: u32,
    /// The slot whose list contains the timer, numbered over all levels: `level * SLOTS + bit`.
    slot: u16,
    /// The neighbour before it in the slot's list.
    prev: Option<Place>,
    /// The neighbour after it in the slot's list; for a free place, the next free place.
    next: Option<Place>,
    /// `None` for a free place.
    payload: Option<T>,
}

/// The timers of one slot in the order of scheduling, as a doubly linked list of places.
#[derive(Clone, Copy, Default)]
struct TimerList {
    /// `None` if the list is empty; then `tail` is `None` too.
    head: Option<Place>,
    tail: Option<Place>,
}

/// Timers, each with a payload. `schedule` and `cancel` take constant time.
pub struct TimerWheel<T> {
    /// The wheel's time in microseconds; never moves back. Every timer is linked relative to it.
    now_us: u64,
    /// A bit for each slot of a level whose list is not empty.
    occupied: [u64; LEVELS],
    /// A bit for each slot whose list may not be in the order of deadlines. Timers with one
    /// constant timeout keep their lists in order, and then the earliest one is found without a
    /// search. Cleared when the list becomes empty.
    unordered: [u64; LEVELS],
    /// The slots of all levels up to the highest one that was used.
    lists: Vec<TimerList>,
    entries: Vec<TimerEntry<T>>,
    /// The first free place.
    free: Option<Place>,
    /// How many timers are scheduled.
    len: usize,
    /// The earliest deadline, unless `is_stale`.
    earliest_us: Option<u64>,
    /// A timer with the earliest deadline was cancelled, so `earliest_us` may be too early.
    is_stale: bool,
    /// The deadlines and places of the slot that fires; empty between calls, kept for its memory.
    due: Vec<(u64, Place)>,
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        TimerWheel::new()
    }
}

impl<T> TimerWheel<T> {
    /// An empty wheel at time 0.
    pub fn new() -> TimerWheel<T> {
        TimerWheel {
            now_us: 0,
            occupied: [0; LEVELS],
            unordered: [0; LEVELS],
            lists: Vec::new(),
            entries: Vec::new(),
            free: None,
            len: 0,
            earliest_us: None,
            is_stale: false,
            due: Vec::new(),
        }
    }

    /// How many timers are scheduled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is scheduled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Schedules `payload` for the first `advance` to `deadline_us` (in microseconds) or later. A
    /// deadline in the past is allowed.
    ///
    /// # Panics
    ///
    /// With 2^32 - 1 timers.
    pub fn schedule(&mut self, deadline_us: u64, payload: T) -> TimerHandle {
        let place = self.take_place(deadline_us, payload);
        self.link(place);
        self.len += 1;
        if !self.is_stale && self.earliest_us.is_none_or(|at_us| deadline_us < at_us) {
            self.earliest_us = Some(deadline_us);
        }
        TimerHandle {
            place,
            generation: self.entries[place.index()].generation,
        }
    }

    /// The deadline of a timer, in microseconds; `None` if it has fired or was cancelled.
    pub fn deadline(&self, handle: TimerHandle) -> Option<u64> {
        let entry = self.entries.get(handle.place.index())?;
        let is_scheduled = entry.generation == handle.generation && entry.payload.is_some();
        is_scheduled.then_some(entry.deadline_us)
    }

    /// Cancels a timer and returns its payload; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, handle: TimerHandle) -> Option<T> {
        let deadline_us = self.deadline(handle)?;
        self.is_stale |= self.earliest_us == Some(deadline_us);
        self.unlink(handle.place);
        self.release(handle.place)
    }

    /// Cancels all timers.
    pub fn cancel_all(&mut self) {
        for index in 0..self.entries.len() {
            if self.entries[index].payload.is_some() {
                self.unlink(Place::new(index));
                self.release(Place::new(index));
            }
        }
        self.update_earliest();
    }

    /// Whether a timer is due at `now_us`, in microseconds.
    pub fn is_due(&mut self, now_us: u64) -> bool {
        if self.is_stale {
            self.update_earliest();
        }
        self.earliest_us.is_some_and(|at_us| at_us <= now_us)
    }

    /// Moves the wheel's time to `now_us`, in microseconds, and appends the payloads that are due
    /// to `out`: in the order of deadlines, and with equal deadlines in the order of scheduling. If
    /// `now_us` is earlier than the wheel's time, the time stays.
    pub fn advance(&mut self, now_us: u64, out: &mut Vec<T>) {
        let now_us = now_us.max(self.now_us);
        if !self.is_due(now_us) {
            return;
        }
        while let Some((level, slot, start_us)) = self.first_slot() {
            if start_us > now_us {
                break;
            }
            self.now_us = self.now_us.max(start_us);
            if level == 0 {
                self.fire(slot, out);
            } else {
                self.cascade(slot);
            }
        }
        self.now_us = now_us;
        self.update_earliest();
    }

    /// The earliest deadline in microseconds; `None` if no timer is scheduled.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.is_stale {
            self.find_earliest()
        } else {
            self.earliest_us
        }
    }

    /// Puts a timer into a free place, without linking it into a slot.
    fn take_place(&mut self, deadline_us: u64, payload: T) -> Place {
        let Some(place) = self.free else {
            let place = Place::new(self.entries.len());
            self.entries.push(TimerEntry {
                deadline_us,
                generation: 0,
                slot: 0,
                prev: None,
                next: None,
                payload: Some(payload),
            });
            return place;
        };
        let entry = &mut self.entries[place.index()];
        assert!(entry.payload.is_none(), "the free list holds free places");
        self.free = entry.next;
        entry.deadline_us = deadline_us;
        entry.payload = Some(payload);
        place
    }

    /// Frees the place of a timer that is linked in no slot.
    fn release(&mut self, place: Place) -> Option<T> {
        let free = self.free;
        let entry = &mut self.entries[place.index()];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        self.free = Some(place);
        self.len -= 1;
        entry.payload.take()
    }

    /// Appends a timer to the slot of its deadline, as seen from the wheel's time. An overdue timer
    /// goes to the slot of the present time.
    fn link(&mut self, place: Place) {
        let own_deadline_us = self.entries[place.index()].deadline_us;
        let deadline_us = own_deadline_us.max(self.now_us);
        let differs = deadline_us ^ self.now_us;
        let level = (differs.max(1).ilog2() / SLOT_BITS) as usize;
        let bit = (deadline_us >> (level as u32 * SLOT_BITS)) as usize % SLOTS;
        let slot = level * SLOTS + bit;
        if self.lists.len() <= slot {
            self.lists.resize((level + 1) * SLOTS, TimerList::default());
        }
        self.occupied[level] |= 1 << bit;
        let tail = self.lists[slot].tail;
        match tail {
            None => self.lists[slot].head = Some(place),
            Some(tail) => {
                let tail = &mut self.entries[tail.index()];
                tail.next = Some(place);
                if tail.deadline_us > own_deadline_us {
                    self.unordered[level] |= 1 << bit;
                }
            }
        }
        self.lists[slot].tail = Some(place);
        let entry = &mut self.entries[place.index()];
        entry.slot = slot as u16;
        entry.prev = tail;
        entry.next = None;
    }

    /// Takes a timer out of its slot's list.
    fn unlink(&mut self, place: Place) {
        let entry = &self.entries[place.index()];
        let slot = usize::from(entry.slot);
        let prev = entry.prev;
        let next = entry.next;
        match prev {
            None => self.lists[slot].head = next,
            Some(prev) => self.entries[prev.index()].next = next,
        }
        match next {
            None => self.lists[slot].tail = prev,
            Some(next) => self.entries[next.index()].prev = prev,
        }
        if self.lists[slot].head.is_none() {
            self.clear_bits(slot);
        }
    }

    /// Marks a slot as empty.
    fn clear_bits(&mut self, slot: usize) {
        let mask = !(1 << (slot % SLOTS));
        self.occupied[slot / SLOTS] &= mask;
        self.unordered[slot / SLOTS] &= mask;
    }

    /// The first slot in time that is not empty: its level, its number and the time at which it
    /// starts. It is at the lowest level that is not empty, because a deadline that differs from
    /// the wheel's time in a higher bit is later.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|mask| *mask != 0)?;
        let bit = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = u64::MAX.checked_shl(shift + SLOT_BITS).unwrap_or(0);
        let start_us = (self.now_us & above) | (u64::from(bit) << shift);
        Some((level, level * SLOTS + bit as usize, start_us))
    }

    /// Searches the first slot for the earliest deadline.
    fn find_earliest(&self) -> Option<u64> {
        let (level, slot, _) = self.first_slot()?;
        let head = self.lists[slot].head?;
        let mut earliest_us = self.entries[head.index()].deadline_us;
        let is_ordered = self.unordered[level] & (1 << (slot % SLOTS)) == 0;
        if is_ordered {
            return Some(earliest_us);
        }
        let mut at = Some(head);
        while let Some(place) = at {
            let entry = &self.entries[place.index()];
            earliest_us = earliest_us.min(entry.deadline_us);
            at = entry.next;
        }
        Some(earliest_us)
    }

    fn update_earliest(&mut self) {
        self.earliest_us = self.find_earliest();
        self.is_stale = false;
    }

    /// Empties a slot and returns the head of its list.
    fn take_list(&mut self, slot: usize) -> Option<Place> {
        let list = std::mem::take(&mut self.lists[slot]);
        self.clear_bits(slot);
        list.head
    }

    /// Time has entered a slot above the lowest level: moves its timers to lower levels, in their
    /// order.
    fn cascade(&mut self, slot: usize) {
        let mut at = self.take_list(slot);
        while let Some(place) = at {
            at = self.entries[place.index()].next;
            self.link(place);
        }
    }

    /// Fires a slot of the lowest level. Its timers are sorted, because overdue timers that joined
    /// the slot have earlier deadlines than the others.
    fn fire(&mut self, slot: usize, out: &mut Vec<T>) {
        let mut due = std::mem::take(&mut self.due);
        let mut at = self.take_list(slot);
        while let Some(place) = at {
            let entry = &self.entries[place.index()];
            due.push((entry.deadline_us, place));
            at = entry.next;
        }
        due.sort_by_key(|(deadline_us, _)| *deadline_us);
        for (_, place) in due.drain(..) {
            out.extend(self.release(place));
        }
        self.due = due;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0..100u64, 0..100_000u64, 0..10_000_000_000u64];
        let far = prop_oneof![8 => span.clone(), 1 => any::<u64>()];
        prop_oneof![
            4 => far.prop_map(Step::Schedule),
            2 => any::<usize>().prop_map(Step::Cancel),
            3 => span.prop_map(Step::Advance),
        ]
    }

    /// A wheel beside a sorted map of (deadline, order of scheduling).
    #[derive(Default)]
    struct Model {
        now_us: u64,
        wheel: TimerWheel<usize>,
        map: BTreeMap<(u64, usize), usize>,
        handles: Vec<(u64, usize, TimerHandle)>,
    }

    impl Model {
        fn schedule(&mut self, number: usize, after_us: u64) {
            // A third of the deadlines is up to 100 us in the past.
            let deadline_us = self.now_us.saturating_add(after_us);
            let deadline_us = deadline_us.saturating_sub(after_us % 3 * 50);
            let handle = self.wheel.schedule(deadline_us, number);
            self.handles.push((deadline_us, number, handle));
            self.map.insert((deadline_us, number), number);
        }

        fn cancel(&mut self, which: usize) -> Result<(), TestCaseError> {
            if self.handles.is_empty() {
                return Ok(());
            }
            let (deadline_us, number, handle) = self.handles[which % self.handles.len()];
            let expected = self.map.remove(&(deadline_us, number));
            prop_assert_eq!(self.wheel.cancel(handle), expected);
            Ok(())
        }

        fn advance(&mut self, by_us: u64) -> Result<(), TestCaseError> {
            self.now_us = self.now_us.saturating_add(by_us);
            let mut fired = Vec::new();
            self.wheel.advance(self.now_us, &mut fired);
            let later = self.map.split_off(&(self.now_us, usize::MAX));
            let due: Vec<usize> = self.map.values().copied().collect();
            self.map = later;
            prop_assert_eq!(fired, due);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_map(
            start_us in prop_oneof![Just(0), any::<u64>()],
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut model = Model { now_us: start_us, ..Model::default() };
            model.wheel.advance(start_us, &mut Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Schedule(after_us) => model.schedule(number, after_us),
                    Step::Cancel(which) => model.cancel(which)?,
                    Step::Advance(by_us) => model.advance(by_us)?,
                }
                let first_us = model.map.keys().next().map(|(deadline_us, _)| *deadline_us);
                prop_assert_eq!(model.wheel.next_deadline(), first_us);
                prop_assert_eq!(model.wheel.len(), model.map.len());
            }
        }
    }
}
