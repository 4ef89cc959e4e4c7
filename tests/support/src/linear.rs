//! Is a history of one key linearizable? Wing and Gong's search (1993) with Lowe's memory of states
//! already seen (2017), on the linked list of calls and returns of Horn and Kroening (2015).
//!
//! A key is a register that holds a value or nothing; values are unique, so a result shows which
//! write it saw. An operation without a known result may have taken place at any time after its
//! call, or never. `hint` is where the service itself says the operation belongs: it only orders
//! what is tried first, so that a good history is searched in one pass; the verdict does not rest
//! on it. Start at `check`.
use crate::rng::{Hash, Rng};
use std::collections::HashSet;

/// A value of the register; unique in a history.
pub type Value = u32;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Get,
    Set(Value),
    Create(Value),
    Update(Value),
    Swap { from: Value, to: Value },
    Delete,
    CompareDelete { from: Value },
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Res {
    /// No answer, or one that leaves it open.
    Unknown,
    /// The value read.
    Value(Option<Value>),
    /// Done; what the key held before.
    Done(Option<Value>),
    /// There is something where nothing was wanted.
    Exists,
    /// There is nothing where something was wanted.
    Missing,
    /// There is something else.
    Differs,
}

/// One operation of a history. Times are steps of the simulation: a call and a return never share
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub act: Act,
    pub res: Res,
    pub called: u64,
    /// `u64::MAX` when it never returned.
    pub returned: u64,
    pub hint: u64,
}

/// What a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violation,
    /// The search was given up.
    Open,
}

/// The sequential register: the state after `act`, if `res` is what it answers.
pub fn apply(state: Option<Value>, act: Act, res: Res) -> Option<Option<Value>> {
    let (answer, after) = match (act, state) {
        (Act::Get, _) => (Res::Value(state), state),
        (Act::Set(v), _) => (Res::Done(state), Some(v)),
        (Act::Create(v), None) => (Res::Done(None), Some(v)),
        (Act::Create(_), Some(_)) => (Res::Exists, state),
        (Act::Update(v), Some(_)) => (Res::Done(state), Some(v)),
        (Act::Swap { from, to }, Some(v)) if v == from => (Res::Done(state), Some(to)),
        (Act::Delete, Some(_)) => (Res::Done(state), None),
        (Act::CompareDelete { from }, Some(v)) if v == from => (Res::Done(state), None),
        (Act::Swap { .. } | Act::CompareDelete { .. }, Some(_)) => (Res::Differs, state),
        (Act::Update(_) | Act::Swap { .. } | Act::Delete | Act::CompareDelete { .. }, None) => {
            (Res::Missing, state)
        }
    };
    (res == Res::Unknown || res == answer).then_some(after)
}

const END: usize = usize::MAX;

/// Calls and returns in order of time, as a doubly linked list of positions; `op * 2` is a call,
/// `op * 2 + 1` its return. Position 0 is the head.
struct List {
    next: Vec<usize>,
    prev: Vec<usize>,
    /// Which event stands at a position.
    event: Vec<usize>,
    call_at: Vec<usize>,
    return_at: Vec<usize>,
}

impl List {
    fn new(calls: &[Call]) -> List {
        let mut events: Vec<(u64, usize)> = Vec::with_capacity(calls.len() * 2);
        for (i, call) in calls.iter().enumerate() {
            assert!(
                call.called < call.returned,
                "a call comes before its return"
            );
            events.push((call.called, i * 2));
            if call.returned != u64::MAX && call.res != Res::Unknown {
                events.push((call.returned, i * 2 + 1));
            }
        }
        events.sort_unstable();
        let n = events.len() + 1;
        let mut list = List {
            next: (1..n).chain([END]).collect(),
            prev: [END].into_iter().chain(0..n - 1).collect(),
            event: [END]
                .into_iter()
                .chain(events.iter().map(|e| e.1))
                .collect(),
            call_at: vec![END; calls.len()],
            return_at: vec![END; calls.len()],
        };
        for position in 1..n {
            let event = list.event[position];
            if event.is_multiple_of(2) {
                list.call_at[event / 2] = position;
            } else {
                list.return_at[event / 2] = position;
            }
        }
        list
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.prev[at], self.next[at]);
        self.next[before] = after;
        if after != END {
            self.prev[after] = before;
        }
    }

    fn relink(&mut self, at: usize) {
        let (before, after) = (self.prev[at], self.next[at]);
        self.next[before] = at;
        if after != END {
            self.prev[after] = at;
        }
    }

    fn lift(&mut self, op: usize) {
        self.unlink(self.call_at[op]);
        if self.return_at[op] != END {
            self.unlink(self.return_at[op]);
        }
    }

    fn unlift(&mut self, op: usize) {
        if self.return_at[op] != END {
            self.relink(self.return_at[op]);
        }
        self.relink(self.call_at[op]);
    }

    /// The operations that may come first: called before anything that is left has returned. False
    /// when no return is left.
    fn candidates(&self, out: &mut Vec<usize>) -> bool {
        out.clear();
        let mut at = self.next[0];
        while at != END {
            let event = self.event[at];
            if event % 2 == 1 {
                return true;
            }
            out.push(event / 2);
            at = self.next[at];
        }
        false
    }
}

struct Frame {
    op: usize,
    state: Option<Value>,
    candidates: Vec<usize>,
    tried: usize,
}

/// The verdict on the history of one key that starts empty, after at most `steps_max` steps of
/// search.
pub fn check(calls: &[Call], steps_max: u64) -> Verdict {
    let mut list = List::new(calls);
    // The set of operations done, hashed: one random word each, xored, so that it is kept up in one
    // step.
    let mut words = Rng::new(0x11ea);
    let words: Vec<(u64, u64)> = calls
        .iter()
        .map(|_| (words.next_u64(), words.next_u64()))
        .collect();
    let mut seen: HashSet<(u64, u64, Option<Value>)> = HashSet::new();
    let (mut done, mut state) = ((0u64, 0u64), None);
    let mut stack: Vec<Frame> = Vec::new();
    let mut candidates = Vec::new();
    let mut tried = 0;
    if !list.candidates(&mut candidates) {
        return Verdict::Linearizable;
    }
    candidates.sort_by_key(|op| calls[*op].hint);
    for _ in 0..steps_max {
        let Some(&op) = candidates.get(tried) else {
            let Some(frame) = stack.pop() else {
                return Verdict::Violation;
            };
            list.unlift(frame.op);
            done = (done.0 ^ words[frame.op].0, done.1 ^ words[frame.op].1);
            (state, candidates, tried) = (frame.state, frame.candidates, frame.tried);
            continue;
        };
        tried += 1;
        let Some(after) = apply(state, calls[op].act, calls[op].res) else {
            continue;
        };
        if calls[op].res == Res::Unknown && after == state {
            // As good as never.
            continue;
        }
        let done_after = (done.0 ^ words[op].0, done.1 ^ words[op].1);
        if !seen.insert((done_after.0, done_after.1, after)) {
            continue;
        }
        list.lift(op);
        stack.push(Frame {
            op,
            state,
            candidates: std::mem::take(&mut candidates),
            tried,
        });
        (done, state, tried) = (done_after, after, 0);
        if !list.candidates(&mut candidates) {
            return Verdict::Linearizable;
        }
        candidates.sort_by_key(|op| calls[*op].hint);
    }
    Verdict::Open
}

/// The hash of a history, for the trace.
pub fn hash(calls: &[Call]) -> u64 {
    let mut hash = Hash::new();
    for call in calls {
        hash.add(call.called);
        hash.add(call.returned);
    }
    hash.0
}

/// The shortest beginning of a history that is already a violation, as text.
pub fn smallest(calls: &[Call]) -> String {
    let mut sorted = calls.to_vec();
    sorted.sort_by_key(|c| c.returned.min(c.called.saturating_add(1 << 40)));
    let until = |n: usize| {
        let end = sorted[..n]
            .iter()
            .map(|c| c.returned)
            .filter(|r| *r != u64::MAX)
            .max()
            .unwrap_or(0);
        let cut = calls
            .iter()
            .filter(|c| c.called <= end)
            .map(|c| match c.returned <= end {
                true => *c,
                false => Call {
                    res: Res::Unknown,
                    returned: u64::MAX,
                    ..*c
                },
            });
        cut.collect::<Vec<Call>>()
    };
    let (mut low, mut high) = (0, sorted.len());
    while low + 1 < high {
        let middle = (low + high) / 2;
        if check(&until(middle), 300_000) == Verdict::Violation {
            high = middle;
        } else {
            low = middle;
        }
    }
    let shown = until(high);
    let from = shown.len().saturating_sub(12);
    shown[from..]
        .iter()
        .map(|c| {
            format!(
                "\n  {:?} -> {:?} [{}, {}] hint {}",
                c.act, c.res, c.called, c.returned, c.hint
            )
        })
        .collect()
}
