//! The pool of all connections of one kind: clients, links to peers, or outgoing calls.
//!
//! It holds them in slots, with a deadline for each, and the ready list: the connections that have
//! something to do in this turn. A turn visits only the ready list, so an idle connection costs
//! nothing. A connection that a turn leaves unfinished waits in a queue, and a turn takes a bounded
//! number from its front. So the cost of a turn does not grow with the number of busy connections,
//! they are served in order, and one that has just received an event is visited at once, however
//! many others are busy.
//!
//! Must not know what a connection does. Start with `Pool::settle`.
use super::slots::{PoolKind, SlotId, Slots};
use crate::core::timer::{TimerHandle, TimerWheel};
use mio::Token;
use mio::event::Event;
use std::collections::VecDeque;

/// Most unfinished values that one turn goes on with.
pub const CARRIED_A_TURN_MAX: usize = 64;
/// Most timers that fire in one turn. A timer may cause an answer, a write and a close.
const TIMERS_A_TURN_MAX: usize = 32;

/// The verdict on a value at the end of a turn.
pub enum Settled {
    /// The value has ended. The owner must remove it.
    Ended,
    /// The value stays in the pool.
    Keep {
        /// When the value must be visited without any event, in microseconds of the monotonic
        /// clock.
        deadline_us: Option<u64>,
        /// The value has something to do in the next turn without any event.
        ready: bool,
    },
}

/// Where a value is listed. It is in one place at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// It has nothing to do.
    Nowhere,
    /// On the ready list: this turn visits it.
    Ready,
    /// In the queue of unfinished values.
    Waiting,
}

/// A value and its place in the turn.
struct Pooled<T> {
    value: T,

    listed: Listed,

    /// A bound of this turn has left the value out. Cleared at the end of the turn.
    is_deferred: bool,

    /// The timer for the deadline, and when it fires in microseconds of the monotonic clock.
    ///
    /// Invariant: it fires no later than the deadline. It may fire earlier, because a deadline that
    /// moves away keeps its timer, which is then set anew. That is cheaper than moving a timer with
    /// each request.
    timer: Option<(TimerHandle, u64)>,
}

/// All connections of one kind: `T` is `Conn`, `Link` or `OutgoingCall`.
pub struct Pool<T> {
    /// The kind that the tokens carry.
    kind: PoolKind,

    slots: Slots<Pooled<T>>,

    /// The ready list: the values that have something to do in this turn, each once. First those
    /// carried over from earlier turns, then the others, in the order in which they were listed.
    /// Ids of removed values are skipped.
    ready: Vec<SlotId>,

    /// How many values of `ready` were carried over; at most `CARRIED_A_TURN_MAX`.
    carried: usize,

    /// The values that earlier turns have left unfinished and that this turn does not visit, oldest
    /// first. Ids of removed values are skipped.
    waiting: VecDeque<SlotId>,

    /// At most one timer for each value, see `Pooled::timer`.
    timers: TimerWheel<SlotId>,

    /// The ids whose timers have fired and that `expire` has not visited, oldest last.
    due: Vec<SlotId>,
}

impl<T> Pool<T> {
    /// An empty pool, whose tokens carry `kind`.
    pub fn new(kind: PoolKind) -> Pool<T> {
        Pool {
            kind,
            slots: Slots::new(),
            ready: Vec::new(),
            carried: 0,
            waiting: VecDeque::new(),
            timers: TimerWheel::new(),
            due: Vec::new(),
        }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The token to register the socket in slot `id` with.
    pub fn token(&self, id: SlotId) -> Token {
        id.token(self.kind)
    }

    /// Adds the value that `make` builds, and lists it as ready.
    pub fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> SlotId {
        let id = self.slots.insert_with(|id| Pooled {
            value: make(id),
            listed: Listed::Ready,
            is_deferred: false,
            timer: None,
        });
        self.ready.push(id);
        id
    }

    /// The value; `None` once it was removed.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        self.slots.get_mut(id).map(|pooled| &mut pooled.value)
    }

    /// The id of the value in slot `index`, if there is one.
    pub fn id_at(&self, index: usize) -> Option<SlotId> {
        self.slots.id_at(index)
    }

    /// The value, which is listed from now on; `None` once it was removed. It is visited in this
    /// turn, unless it is unfinished: then its turn comes as before.
    pub fn wake(&mut self, id: SlotId) -> Option<&mut T> {
        let pooled = self.slots.get_mut(id)?;
        if pooled.listed == Listed::Nowhere {
            pooled.listed = Listed::Ready;
            self.ready.push(id);
        }
        Some(&mut pooled.value)
    }

    /// The value that an event belongs to, which is listed from now on, see `wake`.
    pub fn wake_for(&mut self, event: &Event) -> Option<&mut T> {
        self.wake(SlotId::from_token(event.token()))
    }

    /// Queues each value that `wanted` accepts behind the unfinished ones.
    pub fn wake_where(&mut self, mut wanted: impl FnMut(&mut T) -> bool) {
        for (id, pooled) in self.slots.iter_mut() {
            if pooled.listed == Listed::Nowhere && wanted(&mut pooled.value) {
                pooled.listed = Listed::Waiting;
                self.waiting.push_back(id);
            }
        }
    }

    /// Removes the value and its timer.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let pooled = self.slots.remove(id)?;
        if let Some((timer, _)) = pooled.timer {
            self.timers.cancel(timer);
        }
        Some(pooled.value)
    }

    /// Every value.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        let all = self.slots.iter_mut();
        all.map(|(id, pooled)| (id, &mut pooled.value))
    }

    // -- the turn

    /// The length of the ready list, for a loop over `ready_at`.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The value at this place of the ready list; `None` if it was removed.
    ///
    /// # Panics
    /// If `place` is not below `ready_len`.
    pub fn ready_at(&mut self, place: usize) -> Option<&mut T> {
        self.get_mut(self.ready[place])
    }

    /// Whether the value at this place of the ready list was carried over from an earlier turn.
    pub fn is_carried(&self, place: usize) -> bool {
        place < self.carried
    }

    /// A bound of this turn leaves out the value at this place of the ready list. If it was carried
    /// over, it keeps its place before the others; else it queues behind them.
    pub fn defer(&mut self, place: usize) {
        if let Some(pooled) = self.slots.get_mut(self.ready[place]) {
            pooled.is_deferred = true;
        }
    }

    /// Whether a value has something to do without any event.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.waiting.is_empty() || !self.due.is_empty()
    }

    /// When the next timer fires, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Lists values whose timers have fired, and calls `on_timer` with each. If many have fired, the
    /// next turns go on with the rest. The deadline of a value may still be ahead, see
    /// `Pooled::timer`.
    pub fn expire(&mut self, now_us: u64, mut on_timer: impl FnMut(&mut T)) {
        if self.due.is_empty() {
            self.timers.advance(now_us, &mut self.due);
            self.due.reverse();
            for id in &self.due {
                if let Some(pooled) = self.slots.get_mut(*id) {
                    pooled.timer = None;
                }
            }
        }
        for _ in 0..TIMERS_A_TURN_MAX {
            let Some(id) = self.due.pop() else {
                return;
            };
            if let Some(value) = self.wake(id) {
                on_timer(value);
            }
        }
    }

    /// Ends the turn: calls `settle` for each value on the ready list, sets its timer, and queues it
    /// if it is unfinished. Then lists the values that the next turn goes on with. Adds the values
    /// that have ended to `ended`; the owner must remove them before the next turn.
    pub fn settle(
        &mut self,
        ended: &mut Vec<SlotId>,
        mut settle: impl FnMut(SlotId, &mut T) -> Settled,
    ) {
        let mut deferred = Vec::new();
        for (place, id) in self.ready.drain(..).enumerate() {
            let Some(pooled) = self.slots.get_mut(id) else {
                continue;
            };
            let is_deferred = std::mem::take(&mut pooled.is_deferred) && place < self.carried;
            pooled.listed = Listed::Nowhere;
            match settle(id, &mut pooled.value) {
                Settled::Ended => ended.push(id),
                Settled::Keep { deadline_us, ready } => {
                    if let Some(deadline_us) = deadline_us {
                        set_timer(&mut self.timers, &mut pooled.timer, id, deadline_us);
                    }
                    if !ready {
                        continue;
                    }
                    pooled.listed = Listed::Waiting;
                    if is_deferred {
                        deferred.push(id);
                    } else {
                        self.waiting.push_back(id);
                    }
                }
            }
        }
        for id in deferred.into_iter().rev() {
            self.waiting.push_front(id);
        }
        self.carry_over();
    }

    /// Lists the oldest unfinished values as ready.
    fn carry_over(&mut self) {
        while self.ready.len() < CARRIED_A_TURN_MAX
            && let Some(id) = self.waiting.pop_front()
        {
            if let Some(pooled) = self.slots.get_mut(id) {
                pooled.listed = Listed::Ready;
                self.ready.push(id);
            }
        }
        self.carried = self.ready.len();
    }
}

/// Ensures that a timer fires at `deadline_us` or before.
fn set_timer(
    timers: &mut TimerWheel<SlotId>,
    timer: &mut Option<(TimerHandle, u64)>,
    id: SlotId,
    deadline_us: u64,
) {
    if let Some((handle, fires_us)) = *timer {
        if fires_us <= deadline_us {
            return;
        }
        timers.cancel(handle);
    }
    *timer = Some((timers.schedule(deadline_us, id), deadline_us));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(deadline_us: Option<u64>, ready: bool) -> Settled {
        Settled::Keep { deadline_us, ready }
    }

    /// Settles all and removes the values that have ended.
    fn settle_all(pool: &mut Pool<char>, mut each: impl FnMut(char) -> Settled) -> Vec<char> {
        let mut ended = Vec::new();
        pool.settle(&mut ended, |_, value| each(*value));
        ended.into_iter().filter_map(|id| pool.remove(id)).collect()
    }

    #[test]
    fn a_value_is_listed_once_until_it_is_settled() {
        let mut pool = Pool::new(PoolKind::Clients);
        let a = pool.insert_with(|_| 'a');
        let b = pool.insert_with(|_| 'b');
        assert!(pool.wake(a).is_some() && pool.wake(b).is_some());
        assert_eq!(pool.ready_len(), 2);
        let ended = settle_all(&mut pool, |value| keep(None, value == 'b'));
        assert!(ended.is_empty() && pool.ready_len() == 1);
        assert_eq!(pool.ready_at(0), Some(&mut 'b'));
        assert!(pool.wake(a).is_some());
        assert_eq!(settle_all(&mut pool, |_| Settled::Ended), ['b', 'a']);
        assert!(pool.len() == 0 && !pool.has_work());
        assert!(pool.wake(a).is_none());
    }

    #[test]
    fn a_timer_never_fires_after_the_deadline() {
        let mut pool = Pool::new(PoolKind::Links);
        let id = pool.insert_with(|_| 'a');
        for (deadline_us, fires_us) in [(500, 500), (900, 500), (300, 300), (400, 300)] {
            pool.wake(id);
            settle_all(&mut pool, |_| keep(Some(deadline_us), false));
            assert_eq!(pool.next_deadline(), Some(fires_us));
        }
        let mut fired = 0;
        pool.expire(299, |_| fired += 1);
        assert!(!pool.has_work());
        pool.expire(300, |_| fired += 1);
        assert!(pool.has_work() && fired == 1);
        settle_all(&mut pool, |_| keep(Some(400), false));
        assert_eq!(pool.next_deadline(), Some(400));
        assert_eq!(pool.remove(id), Some('a'));
        assert_eq!(pool.next_deadline(), None);
    }

    /// Settles all; every value stays unfinished.
    fn settle_unfinished(pool: &mut Pool<usize>) {
        pool.settle(&mut Vec::new(), |_, _| keep(None, true));
    }

    fn visited(pool: &mut Pool<usize>) -> Vec<usize> {
        let places = 0..pool.ready_len();
        places.filter_map(|p| pool.ready_at(p).copied()).collect()
    }

    #[test]
    fn a_turn_visits_a_bounded_number_of_unfinished_values_in_order() {
        let mut pool = Pool::new(PoolKind::Clients);
        let count = 10 * CARRIED_A_TURN_MAX;
        for number in 0..count {
            pool.insert_with(|_| number);
        }
        settle_unfinished(&mut pool);
        let mut seen = Vec::new();
        for _ in 0..10 {
            assert_eq!(pool.ready_len(), CARRIED_A_TURN_MAX);
            seen.extend(visited(&mut pool));
            settle_unfinished(&mut pool);
        }
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
        assert_eq!(visited(&mut pool)[0], 0, "the first one comes again");
    }

    #[test]
    fn a_value_with_an_event_is_visited_at_once_beside_many_unfinished_ones() {
        let mut pool = Pool::new(PoolKind::Clients);
        let quiet = pool.insert_with(|_| 9_999);
        pool.settle(&mut Vec::new(), |_, _| keep(None, false));
        for number in 0..1_000 {
            pool.insert_with(|_| number);
        }
        settle_unfinished(&mut pool);
        pool.wake(quiet);
        assert_eq!(pool.ready_at(CARRIED_A_TURN_MAX), Some(&mut 9_999));
        assert!(pool.is_carried(0) && !pool.is_carried(CARRIED_A_TURN_MAX));
    }

    #[test]
    fn a_value_that_a_bound_leaves_out_keeps_its_place() {
        let mut pool = Pool::new(PoolKind::Clients);
        for number in 0..100 {
            pool.insert_with(|_| number);
        }
        settle_unfinished(&mut pool);
        for place in 10..CARRIED_A_TURN_MAX {
            pool.defer(place);
        }
        settle_unfinished(&mut pool);
        assert_eq!(visited(&mut pool)[0], 10);
        assert_eq!(visited(&mut pool).last(), Some(&73));
    }

    #[test]
    fn a_turn_fires_a_bounded_number_of_timers() {
        let mut pool = Pool::new(PoolKind::Clients);
        let count = 3 * TIMERS_A_TURN_MAX;
        for number in 0..count {
            pool.insert_with(|_| number);
        }
        pool.settle(&mut Vec::new(), |_, _| keep(Some(100), false));
        let mut fired = Vec::new();
        for turn in 1..=3 {
            pool.expire(100, |number| fired.push(*number));
            assert_eq!(fired.len(), turn * TIMERS_A_TURN_MAX);
            assert!(pool.has_work());
            pool.settle(&mut Vec::new(), |_, _| keep(None, false));
        }
        assert!(!pool.has_work());
        fired.sort_unstable();
        assert_eq!(fired, (0..count).collect::<Vec<_>>());
    }
}
