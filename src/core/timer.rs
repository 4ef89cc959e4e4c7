//! The hierarchical timer wheel (Varghese and Lauck, 1987): schedule, cancel, advance,
//! next_deadline; pure.
//!
//! A tick is a microsecond and a level has 64 slots, so eleven levels hold every deadline a `u64`
//! can name: nothing is rounded and nothing is too far away. A timer stands at the level of the
//! highest bit in which its deadline differs from the wheel's time; when time enters its slot it
//! moves to a lower level, and fires from the lowest. One wheel stands in the machine, one in the
//! reactor. Start with `TimerWheel`.

/// The time of one turn, read once by the shell (or made up by the simulator).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time in microseconds from an arbitrary start; timers run on it.
    pub mono_us: u64,
    /// Wall-clock time in nanoseconds since the Unix epoch; only ttls and statistics look at it.
    pub wall_ns: u64,
}

/// Slots of a level: one bit each in the level's mask.
const SLOTS: usize = 64;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();
/// Levels that cover all 64 bits of a deadline.
const LEVELS: usize = 11;
/// No timer: the end of a list.
const NONE: u32 = u32::MAX;

/// Names a timer until it has fired or is cancelled; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerHandle {
    at: u32,
    generation: u32,
}

/// One timer, or a free place.
struct Timer<T> {
    deadline_us: u64,
    /// Raised when the place is freed, so that an old handle is told from a new one.
    generation: u32,
    /// The slot it is linked in, counted over all levels.
    slot: u16,
    prev: u32,
    /// The next in the slot, or the next free place.
    next: u32,
    /// `None`: a free place.
    payload: Option<T>,
}

/// A doubly linked list of timers, in the order in which they were scheduled.
#[derive(Clone, Copy)]
struct Slot {
    head: u32,
    tail: u32,
}

/// The wheel. Its time moves only by `advance`.
pub struct TimerWheel<T> {
    now_us: u64,
    /// One bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    slots: Vec<Slot>,
    timers: Vec<Timer<T>>,
    free: u32,
    len: usize,
    /// The earliest deadline, unless `stale`; `u64::MAX` when there is none.
    earliest_us: u64,
    /// The timer that was the earliest is gone.
    stale: bool,
    /// Those that fire from one slot, kept for its memory.
    due: Vec<(u64, u32)>,
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        TimerWheel::new()
    }
}

impl<T> TimerWheel<T> {
    /// An empty wheel at time 0.
    pub fn new() -> TimerWheel<T> {
        let empty = Slot {
            head: NONE,
            tail: NONE,
        };
        TimerWheel {
            now_us: 0,
            occupied: [0; LEVELS],
            slots: vec![empty; LEVELS * SLOTS],
            timers: Vec::new(),
            free: NONE,
            len: 0,
            earliest_us: u64::MAX,
            stale: false,
            due: Vec::new(),
        }
    }

    /// How many timers wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `payload` come out of the first `advance` to `deadline_us` or later. A deadline may be
    /// in the past.
    pub fn schedule(&mut self, deadline_us: u64, payload: T) -> TimerHandle {
        let at = self.take_place(deadline_us, payload);
        self.link(at);
        self.len += 1;
        self.earliest_us = self.earliest_us.min(deadline_us);
        TimerHandle {
            at,
            generation: self.timers[at as usize].generation,
        }
    }

    /// Takes a timer back; `None` when it has fired or was cancelled before. Takes the same time
    /// however many wait.
    pub fn cancel(&mut self, handle: TimerHandle) -> Option<T> {
        let timer = self.timers.get(handle.at as usize)?;
        if timer.generation != handle.generation || timer.payload.is_none() {
            return None;
        }
        self.stale |= timer.deadline_us == self.earliest_us;
        self.unlink(handle.at);
        self.release(handle.at)
    }

    /// Cancels all timers.
    pub fn cancel_all(&mut self) {
        for at in 0..self.timers.len() {
            if self.timers[at].payload.is_some() {
                self.unlink(at as u32);
                self.release(at as u32);
            }
        }
        self.find_earliest();
    }

    /// Moves the time on and appends what is due: in order of deadline, and as scheduled where
    /// deadlines are equal. Time does not go back: a smaller `now_us` than before moves
    /// nothing.
    pub fn advance(&mut self, now_us: u64, out: &mut Vec<T>) {
        let now_us = now_us.max(self.now_us);
        if self.next_deadline() > now_us {
            if self.stale {
                self.find_earliest();
            }
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
        self.find_earliest();
    }

    /// The earliest deadline, or `u64::MAX` when no timer waits.
    pub fn next_deadline(&self) -> u64 {
        if self.stale {
            self.earliest()
        } else {
            self.earliest_us
        }
    }

    fn take_place(&mut self, deadline_us: u64, payload: T) -> u32 {
        if self.free == NONE {
            let at = u32::try_from(self.timers.len()).expect("fewer timers than 2^32");
            assert!(at != NONE, "too many timers");
            self.timers.push(Timer {
                deadline_us,
                generation: 0,
                slot: 0,
                prev: NONE,
                next: NONE,
                payload: Some(payload),
            });
            return at;
        }
        let at = self.free;
        let timer = &mut self.timers[at as usize];
        assert!(
            timer.payload.is_none(),
            "a place in use was on the free list"
        );
        self.free = timer.next;
        timer.deadline_us = deadline_us;
        timer.payload = Some(payload);
        at
    }

    fn release(&mut self, at: u32) -> Option<T> {
        let free = self.free;
        let timer = &mut self.timers[at as usize];
        timer.generation = timer.generation.wrapping_add(1);
        timer.next = free;
        self.free = at;
        self.len -= 1;
        timer.payload.take()
    }

    /// Puts a timer at the end of the slot that its deadline belongs in as seen from the present
    /// time.
    fn link(&mut self, at: u32) {
        // What is overdue stands where what is due now stands.
        let deadline_us = self.timers[at as usize].deadline_us.max(self.now_us);
        let differs = deadline_us ^ self.now_us;
        let level = (differs.max(1).ilog2() / SLOT_BITS) as usize;
        let bit = (deadline_us >> (level as u32 * SLOT_BITS)) as usize % SLOTS;
        let slot = level * SLOTS + bit;
        self.occupied[level] |= 1 << bit;
        let tail = self.slots[slot].tail;
        let timer = &mut self.timers[at as usize];
        timer.slot = slot as u16;
        timer.prev = tail;
        timer.next = NONE;
        match tail {
            NONE => self.slots[slot].head = at,
            _ => self.timers[tail as usize].next = at,
        }
        self.slots[slot].tail = at;
    }

    fn unlink(&mut self, at: u32) {
        let Timer {
            slot, prev, next, ..
        } = self.timers[at as usize];
        let slot = slot as usize;
        match prev {
            NONE => self.slots[slot].head = next,
            _ => self.timers[prev as usize].next = next,
        }
        match next {
            NONE => self.slots[slot].tail = prev,
            _ => self.timers[next as usize].prev = prev,
        }
        if self.slots[slot].head == NONE {
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }

    /// The slot that comes first: its level, its number, and when it starts. The lowest level that
    /// is not empty has it, since what differs from the present time in a higher bit is later.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|mask| *mask != 0)?;
        let bit = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = u64::MAX.checked_shl(shift + SLOT_BITS).unwrap_or(0);
        let start_us = (self.now_us & above) | (u64::from(bit) << shift);
        Some((level, level * SLOTS + bit as usize, start_us))
    }

    fn earliest(&self) -> u64 {
        let Some((_, slot, _)) = self.first_slot() else {
            return u64::MAX;
        };
        let mut at = self.slots[slot].head;
        let mut earliest_us = u64::MAX;
        while at != NONE {
            let timer = &self.timers[at as usize];
            earliest_us = earliest_us.min(timer.deadline_us);
            at = timer.next;
        }
        earliest_us
    }

    fn find_earliest(&mut self) {
        self.earliest_us = self.earliest();
        self.stale = false;
    }

    fn take_list(&mut self, slot: usize) -> u32 {
        let head = self.slots[slot].head;
        self.slots[slot].head = NONE;
        self.slots[slot].tail = NONE;
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        head
    }

    /// Time has entered the slot: its timers move to lower levels, in their order.
    fn cascade(&mut self, slot: usize) {
        let mut at = self.take_list(slot);
        while at != NONE {
            let next = self.timers[at as usize].next;
            self.link(at);
            at = next;
        }
    }

    /// Hands out a slot of the lowest level; only where overdue timers joined it are there several
    /// deadlines.
    fn fire(&mut self, slot: usize, out: &mut Vec<T>) {
        let mut due = std::mem::take(&mut self.due);
        let mut at = self.take_list(slot);
        while at != NONE {
            let timer = &self.timers[at as usize];
            due.push((timer.deadline_us, at));
            at = timer.next;
        }
        due.sort_by_key(|(deadline_us, _)| *deadline_us);
        for (_, at) in due.drain(..) {
            out.extend(self.release(at));
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

    proptest! {
        /// The wheel does what a sorted map of (deadline, order of scheduling) does.
        #[test]
        fn agrees_with_a_sorted_map(start in prop_oneof![Just(0), any::<u64>()], steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = TimerWheel::new();
            let mut model = BTreeMap::new();
            let mut handles = Vec::new();
            let mut now = start;
            wheel.advance(now, &mut Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Schedule(after) => {
                        // Now and then in the past, too.
                        let deadline = now.saturating_add(after).saturating_sub(after % 3 * 50);
                        handles.push((deadline, number, wheel.schedule(deadline, number)));
                        model.insert((deadline, number), number);
                    }
                    Step::Cancel(which) if !handles.is_empty() => {
                        let (deadline, number, handle) = handles[which % handles.len()];
                        prop_assert_eq!(wheel.cancel(handle), model.remove(&(deadline, number)));
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(by) => {
                        now = now.saturating_add(by);
                        let mut fired = Vec::new();
                        wheel.advance(now, &mut fired);
                        let later = model.split_off(&(now, usize::MAX));
                        let due: Vec<usize> = model.into_values().collect();
                        model = later;
                        prop_assert_eq!(fired, due);
                    }
                }
                let first = model.keys().next().map_or(u64::MAX, |(deadline, _)| *deadline);
                prop_assert_eq!(wheel.next_deadline(), first);
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
