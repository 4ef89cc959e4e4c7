//! The queue of what is to happen: ordered by time, and by order of entry where times are equal.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    items: Vec<Option<T>>,
    free: Vec<usize>,
    entered: u64,
}

impl<T> Queue<T> {
    pub fn new() -> Queue<T> {
        Queue {
            heap: BinaryHeap::new(),
            items: Vec::new(),
            free: Vec::new(),
            entered: 0,
        }
    }

    pub fn push(&mut self, time_us: u64, item: T) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() - 1
        });
        self.items[at] = Some(item);
        self.heap.push(Reverse((time_us, self.entered, at)));
        self.entered += 1;
    }

    pub fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((time_us, _, at)) = self.heap.pop()?;
        self.free.push(at);
        Some((time_us, self.items[at].take().expect("it was pushed")))
    }

    /// What comes next.
    pub fn peek(&self) -> Option<(u64, &T)> {
        let Reverse((time_us, _, at)) = self.heap.peek()?;
        Some((*time_us, self.items[*at].as_ref().expect("it was pushed")))
    }
}
