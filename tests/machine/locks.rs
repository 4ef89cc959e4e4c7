//! The lock module: a queue of places in the key space, and requests that wait in it.
use super::cluster::cluster;
use super::forward::three;
use super::rig::*;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath};
use tern::core::error::Code;
use tern::core::machine::*;

const LOCK: &str = "/_etcd/mod/lock/l";

fn lock() -> KeyPath {
    KeyPath::new(LOCK)
}

/// A request for the lock, for a place that lasts `ttl_s` seconds.
fn acquire(value: &str, ttl_s: u64, timeout_s: Option<u64>) -> Op {
    Op::Lock(Box::new(LockRequest::Acquire {
        lock: lock(),
        value: value.into(),
        lease: (ttl_s > 0).then(|| Lease::of_seconds(ttl_s as i64)),
        wait: Lease::of_seconds(if ttl_s > 0 { ttl_s as i64 } else { 30 }),
        wait_us: if ttl_s > 0 { ttl_s } else { 30 } * SECOND_US,
        timeout_us: timeout_s.map(|seconds| seconds * SECOND_US),
    }))
}

fn release(place: LockPlace) -> Op {
    Op::Lock(Box::new(LockRequest::Release {
        lock: lock(),
        place,
    }))
}

fn renew(index: u64, ttl_s: i64) -> Op {
    Op::Lock(Box::new(LockRequest::Renew {
        lock: lock(),
        place: LockPlace::Index(index),
        lease: Some(Lease::of_seconds(ttl_s)),
    }))
}

fn show() -> Op {
    Op::Lock(Box::new(LockRequest::Show { lock: lock() }))
}

fn acquired(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Lock(LockOutcome::Acquired { index }) => *index,
        other => panic!("{other:?}"),
    }
}

/// The index of the holder.
fn holder(outcome: Outcome) -> Option<u64> {
    match outcome {
        Outcome::Lock(LockOutcome::Holder(holder)) => holder.map(|holder| holder.index),
        other => panic!("{other:?}"),
    }
}

/// The names of the places in the lock's directory.
fn places(rig: &mut Rig) -> Vec<String> {
    match rig.done(get(LOCK)) {
        Outcome::Page { items, last: true } => {
            let children = items[1..].iter();
            children
                .map(|item| item.view.key[LOCK.len() + 1..].to_string())
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn places_get_the_lock_in_the_order_of_their_indexes() {
    let mut rig = Rig::serving(settings(1));
    let first = acquired(&rig.done(acquire("", 20, None)));
    let waiters: Vec<Ticket> = (0..5).map(|_| rig.ask(acquire("", 20, None))).collect();
    rig.settle();
    assert_eq!(holder(rig.done(show())), Some(first));
    let mut last = first;
    for ticket in waiters {
        assert!(rig.take_answers(ticket).is_empty());
        let released = rig.done(release(LockPlace::Index(last)));
        assert_eq!(released, Outcome::Lock(LockOutcome::Released));
        rig.settle();
        let next = acquired(&rig.answer(ticket));
        assert!(next > last);
        assert_eq!(holder(rig.done(show())), Some(next));
        last = next;
    }
    rig.done(release(LockPlace::Index(last)));
    assert_eq!(holder(rig.done(show())), None);
}

/// A renewal wakes no other waiter, and no request polls: between two renewals nothing is written.
#[test]
fn a_waiter_outlives_its_ttl_and_writes_only_to_renew_its_place() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 1_000, None)));
    let waiter = rig.ask(acquire("", 30, None));
    rig.settle();
    let before = rig.machine.indexes().etcd.0;
    rig.pass(9 * SECOND_US);
    assert_eq!(rig.machine.indexes().etcd.0, before);
    rig.pass(100 * SECOND_US);
    let renewals = rig.machine.indexes().etcd.0 - before;
    assert_eq!(renewals, 10, "one in ten seconds");
    assert!(rig.take_answers(waiter).is_empty());
    rig.done(release(LockPlace::Index(held)));
    rig.settle();
    acquired(&rig.answer(waiter));
}

#[test]
fn the_lock_of_a_holder_that_renews_no_more_goes_to_the_next() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 10, None)));
    let waiter = rig.ask(acquire("", 10, None));
    rig.settle();
    rig.pass(8 * SECOND_US);
    let renewed = rig.done(renew(held, 10));
    assert_eq!(renewed, Outcome::Lock(LockOutcome::Renewed));
    rig.pass(8 * SECOND_US);
    assert!(
        rig.take_answers(waiter).is_empty(),
        "the holder has renewed"
    );
    rig.pass(3 * SECOND_US);
    let next = acquired(&rig.answer(waiter));
    assert_eq!(places(&mut rig), [next.to_string()]);
    // It has all of its ttl from now on.
    rig.pass(8 * SECOND_US);
    assert_eq!(holder(rig.done(show())), Some(next));
    rig.pass(3 * SECOND_US);
    assert_eq!(holder(rig.done(show())), None);
}

/// The ttl of a waiter ends with the waiting: the lock has none.
#[test]
fn a_waiter_that_gets_a_lock_without_a_ttl_keeps_it() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 0, None)));
    let waiter = rig.ask(acquire("", 0, None));
    rig.settle();
    rig.done(release(LockPlace::Index(held)));
    rig.settle();
    let next = acquired(&rig.answer(waiter));
    rig.pass(100 * SECOND_US);
    assert_eq!(holder(rig.done(show())), Some(next));
}

/// Whatever the conversation waits for when the client closes: its place goes.
#[test]
fn a_client_that_disconnects_leaves_no_place_behind() {
    for turns in 0..12 {
        let mut rig = Rig::serving(settings(1));
        let held = acquired(&rig.done(acquire("", 20, None)));
        let waiter = rig.ask(acquire("v", 20, None));
        for _ in 0..turns {
            rig.turn();
            rig.sync();
        }
        rig.again(waiter, Op::ClientClosed);
        rig.settle();
        assert_eq!(places(&mut rig), [held.to_string()], "after {turns} turns");
        assert!(rig.take_answers(waiter).is_empty());
    }
}

#[test]
fn a_waiter_in_the_middle_that_leaves_wakes_nobody() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 20, None)));
    let middle = rig.ask(acquire("", 20, None));
    let last = rig.ask(acquire("", 20, None));
    rig.settle();
    rig.again(middle, Op::ClientClosed);
    rig.settle();
    assert!(rig.take_answers(last).is_empty());
    rig.done(release(LockPlace::Index(held)));
    rig.settle();
    acquired(&rig.answer(last));
}

#[test]
fn a_request_waits_no_longer_than_it_says() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 60, None)));
    let none = rig.done(acquire("", 20, Some(0)));
    assert_eq!(none, Outcome::Lock(LockOutcome::NotAcquired));
    let patient = rig.ask(acquire("", 20, Some(15)));
    rig.settle();
    rig.pass(14 * SECOND_US);
    assert!(rig.take_answers(patient).is_empty());
    rig.pass(2 * SECOND_US);
    let outcome = rig.answer(patient);
    assert_eq!(outcome, Outcome::Lock(LockOutcome::TimedOut));
    assert_eq!(places(&mut rig), [held.to_string()]);
}

/// A lock without a ttl lasts until it is released. A place that waits for one has a ttl all the
/// same: its machine may die.
#[test]
fn a_lock_without_a_ttl_lasts_and_its_waiters_do_not() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 0, None)));
    rig.ask(acquire("", 0, None));
    rig.settle();
    rig.pass(100 * SECOND_US);
    assert_eq!(places(&mut rig).len(), 2, "the waiter renews its place");
    let mut rig = rig.restart();
    rig.pass(100 * SECOND_US);
    assert_eq!(places(&mut rig), [held.to_string()]);
}

#[test]
fn a_place_that_is_removed_while_it_waits_is_lost() {
    let mut rig = Rig::serving(settings(1));
    acquired(&rig.done(acquire("", 60, None)));
    let waiter = rig.ask(acquire("name", 30, None));
    rig.settle();
    rig.done(release(LockPlace::Value("name".into())));
    rig.pass(11 * SECOND_US);
    assert_eq!(rig.answer(waiter), Outcome::Lock(LockOutcome::Lost));
}

/// A client replaces the directory above the lock by a file: there is no place any more.
#[test]
fn a_lock_below_a_file_is_lost() {
    let mut rig = Rig::serving(settings(1));
    acquired(&rig.done(acquire("", 60, None)));
    let waiter = rig.ask(acquire("name", 30, None));
    rig.settle();
    let above = KeyPath::new("/_etcd/mod/lock");
    rig.ask(Op::Write(Command::Delete {
        path: above,
        dir: true,
        recursive: true,
    }));
    rig.ask(set("/_etcd/mod/lock", "a file"));
    rig.settle();
    rig.pass(11 * SECOND_US);
    assert_eq!(rig.answer(waiter), Outcome::Lock(LockOutcome::Lost));
}

/// A waiter whose place was removed learns of it when the place before it goes, too. It does not
/// wait for another one until its next renewal.
#[test]
fn a_waiter_without_a_place_is_told_when_it_looks_for_its_predecessor() {
    let mut rig = Rig::serving(settings(1));
    acquired(&rig.done(acquire("", 60, None)));
    rig.ask(acquire("middle", 30, None));
    rig.settle();
    let waiter = rig.ask(acquire("last", 30, None));
    rig.settle();
    for value in ["last", "middle"] {
        rig.done(release(LockPlace::Value(value.into())));
        rig.settle();
    }
    assert_eq!(rig.answer(waiter), Outcome::Lock(LockOutcome::Lost));
}

/// The connection of a waiter breaks, and the client asks again with the same value before the
/// machine notices.
#[test]
fn a_place_that_was_taken_over_stays() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("a", 60, None)));
    let again = acquired(&rig.done(acquire("a", 60, None)));
    assert_eq!(again, held, "the holder renews");
    let broken = rig.ask(acquire("b", 30, None));
    rig.settle();
    let waiter = rig.ask(acquire("b", 30, None));
    rig.settle();
    assert_eq!(places(&mut rig).len(), 2);
    rig.again(broken, Op::ClientClosed);
    rig.settle();
    assert_eq!(places(&mut rig).len(), 2);
    rig.done(release(LockPlace::Value("a".into())));
    rig.settle();
    acquired(&rig.answer(waiter));
}

#[test]
fn a_value_that_no_place_has_is_missing() {
    let mut rig = Rig::serving(settings(1));
    let missing = Outcome::Lock(LockOutcome::Missing);
    assert_eq!(rig.done(release(LockPlace::Value("x".into()))), missing);
    acquired(&rig.done(acquire("a", 60, None)));
    assert_eq!(rig.done(release(LockPlace::Value("x".into()))), missing);
    let gone = rig.done(release(LockPlace::Index(1)));
    assert!(matches!(gone, Outcome::Failed(error) if error.code == Code::KeyNotFound));
}

/// More waiters than one page of a listing holds.
#[test]
fn a_long_queue_is_read_in_pages() {
    let mut rig = Rig::serving(settings(1));
    let held = acquired(&rig.done(acquire("", 60, None)));
    let waiters: Vec<Ticket> = (0..1_500)
        .map(|_| rig.ask(acquire("", 600, None)))
        .collect();
    rig.settle();
    let last = rig.ask(acquire("", 600, Some(0)));
    rig.settle();
    assert_eq!(rig.answer(last), Outcome::Lock(LockOutcome::NotAcquired));
    rig.done(release(LockPlace::Index(held)));
    rig.settle();
    let next = acquired(&rig.answer(waiters[0]));
    assert_eq!(holder(rig.done(show())), Some(next));
    for ticket in &waiters[1..] {
        rig.again(*ticket, Op::ClientClosed);
    }
    rig.settle();
    assert!(rig.answers.is_empty());
    rig.done(release(LockPlace::Index(next)));
    assert_eq!(holder(rig.done(show())), None);
}

// -- several machines

#[test]
fn a_follower_redirects_and_shows_the_holder() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let held = acquired(&cluster.done(leader, acquire("", 20, None)));
    cluster.pass(SECOND_US);
    let mut ids = cluster.ids().into_iter();
    let follower = ids.find(|id| *id != leader).expect("a follower");
    let outcome = cluster.done(follower, acquire("", 20, None));
    assert!(matches!(outcome, Outcome::Redirect { .. }), "{outcome:?}");
    assert_eq!(holder(cluster.done(follower, show())), Some(held));
}

#[test]
fn clients_of_different_machines_contend_with_forwarding() {
    let (mut cluster, leader, one, two) = three();
    let mut held = acquired(&cluster.done(one, acquire("one", 60, None)));
    let second = cluster.at(two).ask(acquire("two", 20, None));
    cluster.settle();
    let third = cluster.at(leader).ask(acquire("three", 20, None));
    cluster.pass(30 * SECOND_US);
    assert_eq!(holder(cluster.done(leader, show())), Some(held));
    let waits = [(two, second), (leader, third)];
    for (at, ticket) in waits {
        let _ = cluster.done(two, release(LockPlace::Index(held)));
        cluster.pass(SECOND_US);
        let answers = cluster.at(at).take_answers(ticket);
        held = acquired(answers.last().expect("it holds the lock"));
    }
    assert_eq!(holder(cluster.done(one, show())), Some(held));
}

/// The leader dies while a client of a follower waits, and so does a client of the leader: the first
/// goes on to wait, the place of the second expires.
#[test]
fn waiters_survive_the_death_of_the_leader() {
    let (mut cluster, leader, follower, _) = three();
    let held = acquired(&cluster.done(follower, acquire("", 60, None)));
    cluster.at(leader).ask(acquire("", 20, None));
    cluster.settle();
    let waiter = cluster.at(follower).ask(acquire("", 20, None));
    cluster.settle();
    cluster.rigs.remove(&leader);
    cluster.pass(45 * SECOND_US);
    assert!(cluster.at(follower).take_answers(waiter).is_empty());
    assert_eq!(places(cluster.at(follower)).len(), 2);
    let _ = cluster.done(follower, release(LockPlace::Index(held)));
    cluster.pass(SECOND_US);
    acquired(&cluster.at(follower).answer(waiter));
}

/// A leader that loses the leadership keeps its waiters: their renewals go to the new leader, though
/// clients are not forwarded.
#[test]
fn waiters_stay_where_they_are_when_the_leadership_moves() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let held = acquired(&cluster.done(leader, acquire("", 100, None)));
    let waiter = cluster.at(leader).ask(acquire("", 20, None));
    cluster.settle();
    cluster.cut = vec![leader];
    cluster.pass(3 * SECOND_US);
    cluster.cut.clear();
    cluster.pass(60 * SECOND_US);
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert!(cluster.at(leader).take_answers(waiter).is_empty());
    let _ = cluster.done(next, release(LockPlace::Index(held)));
    cluster.pass(SECOND_US);
    acquired(&cluster.at(leader).answer(waiter));
}

#[test]
fn a_machine_that_stops_sends_its_waiters_to_the_leader() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    acquired(&cluster.done(leader, acquire("", 100, None)));
    let waiter = cluster.at(leader).ask(acquire("", 20, None));
    cluster.settle();
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    cluster.pass(2 * SECOND_US);
    let outcome = cluster.at(leader).answer(waiter);
    assert!(matches!(outcome, Outcome::Redirect { .. }), "{outcome:?}");
}
