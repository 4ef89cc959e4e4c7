//! The linearizability checker is itself checked: against histories whose verdict is known, and
//! against the crate `todc-utils` on random small histories.
use tern_support::linear::{Act, Call, Res, Value, Verdict, apply, check};
use tern_support::rng::Rng;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

const STEPS_MAX: u64 = 1_000_000;

fn call(act: Act, res: Res, called: u64, returned: u64) -> Call {
    Call {
        act,
        res,
        called,
        returned,
        hint: 0,
    }
}

fn verdict(calls: &[Call]) -> bool {
    match check(calls, STEPS_MAX) {
        Verdict::Linearizable => true,
        Verdict::Violation => false,
        Verdict::Open => panic!("a small history is decided"),
    }
}

const NEVER: u64 = u64::MAX;

fn read(value: Option<Value>, from: u64, to: u64) -> Call {
    call(Act::Get, Res::Value(value), from, to)
}

fn set(value: Value, prev: Option<Value>, from: u64, to: u64) -> Call {
    call(Act::Set(value), Res::Done(prev), from, to)
}

/// A write without an answer.
fn lost(value: Value, from: u64) -> Call {
    call(Act::Set(value), Res::Unknown, from, NEVER)
}

#[test]
fn good_histories_are_accepted() {
    use Act::*;
    use Res::{Differs, Done, Exists, Missing, Unknown};
    let good: &[&[Call]] = &[
        &[],
        &[read(None, 1, 2)],
        &[set(1, None, 1, 2), read(Some(1), 3, 4)],
        // Overlapping writes may take effect in either order.
        &[
            set(1, Some(2), 1, 6),
            set(2, None, 2, 5),
            read(Some(1), 7, 8),
        ],
        // A read beside a write may see it or not; a later one beside the same write too,
        // forwards.
        &[set(1, None, 1, 10), read(None, 2, 3), read(Some(1), 4, 5)],
        // A write without an answer is seen late.
        &[
            lost(1, 1),
            read(None, 2, 3),
            read(None, 4, 5),
            read(Some(1), 6, 7),
        ],
        // Or never.
        &[lost(1, 1), read(None, 2, 3)],
        // Or between two others, as a previous value shows.
        &[
            set(1, None, 1, 2),
            lost(2, 3),
            set(3, Some(2), 10, 11),
            read(Some(3), 12, 13),
        ],
        &[
            call(Create(1), Done(None), 1, 2),
            call(Create(2), Exists, 3, 4),
            call(Swap { from: 1, to: 3 }, Done(Some(1)), 5, 6),
            call(Swap { from: 1, to: 4 }, Differs, 7, 8),
            call(CompareDelete { from: 1 }, Differs, 9, 10),
            call(CompareDelete { from: 3 }, Done(Some(3)), 11, 12),
            call(Delete, Missing, 13, 14),
            call(Update(5), Missing, 15, 16),
        ],
        // A swap without an answer that found another value changes nothing.
        &[
            set(1, None, 1, 2),
            call(Swap { from: 9, to: 3 }, Unknown, 3, NEVER),
            read(Some(1), 4, 5),
        ],
    ];
    for (i, history) in good.iter().enumerate() {
        assert!(verdict(history), "good history {i}");
    }
}

#[test]
fn bad_histories_are_refused() {
    use Act::*;
    use Res::{Done, Missing, Unknown};
    let bad: &[&[Call]] = &[
        // Out of thin air.
        &[read(Some(1), 1, 2)],
        // A stale read.
        &[
            set(1, None, 1, 2),
            set(2, Some(1), 3, 4),
            read(Some(1), 5, 6),
        ],
        // A lost write.
        &[set(1, None, 1, 2), read(None, 3, 4)],
        // New then old, beside one write.
        &[set(1, None, 1, 10), read(Some(1), 2, 3), read(None, 4, 5)],
        // Two swaps from one value.
        &[
            set(1, None, 1, 2),
            call(Swap { from: 1, to: 2 }, Done(Some(1)), 3, 8),
            call(Swap { from: 1, to: 3 }, Done(Some(1)), 4, 9),
        ],
        // Two creations without a removal between.
        &[
            call(Create(1), Done(None), 1, 5),
            call(Create(2), Done(None), 2, 6),
        ],
        // A write without an answer cannot act before its call.
        &[read(Some(1), 1, 2), lost(1, 3)],
        // Nor twice.
        &[lost(1, 1), set(2, Some(1), 2, 3), set(3, Some(1), 4, 5)],
        // A failed delete beside nothing.
        &[set(1, None, 1, 2), call(Delete, Missing, 3, 4)],
        // The order of two readers differs.
        &[
            set(1, None, 1, 20),
            call(Set(2), Unknown, 2, NEVER),
            read(Some(1), 3, 4),
            read(Some(2), 5, 6),
            read(Some(1), 7, 8),
        ],
    ];
    for (i, history) in bad.iter().enumerate() {
        assert!(!verdict(history), "bad history {i}");
    }
}

/// Many writes without an answer do not make the search explode when the service's own order is
/// right.
#[test]
fn a_long_good_history_is_searched_in_one_pass() {
    let mut calls = Vec::new();
    let mut state = None;
    let mut time = 0;
    for i in 0..3_000u32 {
        time += 2;
        let open = i % 40 == 0;
        let res = if open { Res::Unknown } else { Res::Done(state) };
        let returned = if open { NEVER } else { time + 30 };
        calls.push(Call {
            act: Act::Set(i),
            res,
            called: time,
            returned,
            hint: u64::from(i),
        });
        state = Some(i);
    }
    assert_eq!(check(&calls, 10_000), Verdict::Linearizable);
}

#[derive(Clone, Copy, Debug)]
struct Done(Act, Res);

struct Register;

impl Specification for Register {
    type State = Option<Value>;
    type Operation = Done;
    fn init() -> Option<Value> {
        None
    }
    fn apply(operation: &Done, state: &Option<Value>) -> (bool, Option<Value>) {
        match apply(*state, operation.0, operation.1) {
            Some(after) => (true, after),
            None => (false, *state),
        }
    }
}

/// The other checker knows no open operations: each is left out, or returns at the end with any
/// result.
fn second_opinion(calls: &[Call]) -> bool {
    let open: Vec<usize> = (0..calls.len())
        .filter(|i| calls[*i].returned == NEVER)
        .collect();
    (0..1u32 << open.len()).any(|chosen| {
        let mut events = Vec::new();
        for (i, call) in calls.iter().enumerate() {
            let place = open.iter().position(|o| *o == i);
            if place.is_some_and(|p| chosen & (1 << p) == 0) {
                continue;
            }
            let done = Done(call.act, call.res);
            events.push((call.called, i, Action::Call(done)));
            let returned = place.map_or(call.returned, |p| NEVER - p as u64);
            events.push((returned, i, Action::Response(done)));
        }
        events.sort_by_key(|e| e.0);
        let actions: Vec<_> = events.into_iter().map(|(_, i, a)| (i, a)).collect();
        actions.is_empty()
            || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    })
}

fn random_history(rng: &mut Rng) -> Vec<Call> {
    let n = rng.range(1, 9) as usize;
    let mut times: Vec<u64> = (0..2 * n as u64).collect();
    for i in (1..times.len()).rev() {
        times.swap(i, rng.index(i + 1));
    }
    let mut calls: Vec<Call> = Vec::new();
    for i in 0..n {
        let (a, b) = (times[2 * i], times[2 * i + 1]);
        let (from, value) = (rng.below(n as u64) as Value, i as Value);
        let act = match rng.below(8) {
            0 | 1 => Act::Get,
            2 | 3 => Act::Set(value),
            4 => Act::Create(value),
            5 => Act::Swap { from, to: value },
            6 => Act::Delete,
            _ => Act::CompareDelete { from },
        };
        calls.push(call(act, Res::Unknown, a.min(b), a.max(b)));
    }
    // Results from a run in the order of some instant inside each; then some are spoilt.
    let mut order: Vec<(u64, usize)> = (0..n)
        .map(|i| (rng.range(calls[i].called, calls[i].returned), i))
        .collect();
    order.sort_unstable();
    let mut state = None;
    for (_, i) in order {
        let all = (0..n as Value).map(Some).chain([None]);
        let mut results: Vec<Res> = all
            .clone()
            .map(Res::Value)
            .chain(all.map(Res::Done))
            .collect();
        results.extend([Res::Exists, Res::Missing, Res::Differs]);
        let right = results
            .iter()
            .find(|r| apply(state, calls[i].act, **r).is_some());
        calls[i].res = *right.expect("each operation has a result");
        state = apply(state, calls[i].act, calls[i].res).expect("the result is right");
    }
    for call in &mut calls {
        if rng.chance(60_000) {
            call.res = match call.act {
                Act::Get => Res::Value(Some(rng.below(n as u64) as Value)),
                _ => Res::Done(Some(rng.below(n as u64) as Value)),
            };
        }
        if rng.chance(80_000) {
            (call.res, call.returned) = (Res::Unknown, NEVER);
        }
        call.hint = rng.below(4);
    }
    calls
}

#[test]
fn both_checkers_agree_on_random_histories() {
    let mut rng = Rng::new(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let calls = random_history(&mut rng);
        let ours = verdict(&calls);
        assert_eq!(ours, second_opinion(&calls), "{calls:#?}");
        if ours { good += 1 } else { bad += 1 }
    }
    assert!(
        good > 500 && bad > 500,
        "both verdicts occur: {good} good, {bad} bad"
    );
}
