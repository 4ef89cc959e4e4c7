//! Machines that were removed for good (PROTOCOL rule 15): the cluster does not admit them again,
//! and they do not ask.
use super::cluster::cluster;
use super::rig::*;
use super::seeker::{LIST, PEERS, SIZE, Seeker};
use super::stand::*;
use tern::codec::http::Method;
use tern::core::error::{Code, Error};
use tern::core::machine::*;
use tern::core::raft::{BARRED_MAX, PeerId};

/// The answer to `/join` of a machine that was removed for good.
const BARRED: &str = r#"{"errorCode":111,"message":"x","cause":"y","index":5}"#;

fn remove(number: u16, for_good: bool) -> Op {
    Op::MachineRemove {
        name: settings(number).name,
        for_good,
    }
}

fn joined(outcome: &Outcome) -> PeerId {
    match outcome {
        Outcome::Joined(index) => PeerId(index.0),
        other => panic!("{other:?}"),
    }
}

fn is_barred(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Failed(Error {
            code: Code::RemovedForGood,
            ..
        })
    )
}

/// A request to join that names a former place.
fn join_after(place: Option<FormerPlace>, incarnation: u64) -> Op {
    match join(&settings(3), incarnation) {
        Op::Join(join) => Op::Join(Join {
            former: place,
            ..join
        }),
        other => panic!("{other:?}"),
    }
}

/// The data directory of a removed machine can be restored from a copy: from before it was admitted
/// (its number tells), from its membership (the id tells), or wiped since (the former id tells).
#[test]
fn protocol_15_a_machine_is_known_by_its_number_and_by_its_former_id() {
    let mut rig = Rig::serving(settings(1));
    let id = joined(&rig.done(join(&settings(3), 77)));
    assert_eq!(rig.done(remove(3, true)), Outcome::Removed);
    let cluster = rig.machine.cluster();
    let place = FormerPlace::new(cluster, id.0);
    for _ in 0..2 {
        let refused = rig.done(join(&settings(3), 77));
        let Outcome::Failed(error) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.code, Code::RemovedForGood);
        assert!(error.cause.contains("empty data directory"), "{error:?}");
        assert!(is_barred(&rig.done(join_after(place, 78))));
        let unknown = FormerPlace::new(0, id.0);
        assert!(is_barred(&rig.done(join_after(unknown, 78))));
        let question = Op::Query(Query::MachinesOf(MemberPlace::new(cluster, id.0, None)));
        let told = rig.done(question);
        assert!(
            matches!(&told, Outcome::Failed(error) if &*error.cause == "that member was removed for good"),
            "{told:?}"
        );
        // The list is in the log, and in the snapshot.
        rig = rig.restart();
        rig.settle();
    }
    let elsewhere = FormerPlace::new(cluster + 1, id.0);
    joined(&rig.done(join_after(elsewhere, 78)));
    assert_eq!(rig.done(remove(3, false)), Outcome::Removed);
    joined(&rig.done(join(&settings(3), 79)));
}

/// Without `for_good` a machine comes back as before.
#[test]
fn protocol_15_a_removal_that_is_not_for_good_bars_nothing() {
    let mut rig = Rig::serving(settings(1));
    let id = joined(&rig.done(join(&settings(3), 77)));
    assert_eq!(rig.done(remove(3, false)), Outcome::Removed);
    let place = FormerPlace::new(rig.machine.cluster(), id.0);
    joined(&rig.done(join_after(place, 77)));
}

#[test]
fn protocol_15_the_oldest_of_65_is_dropped() {
    let mut rig = Rig::serving(settings(1));
    for round in 0..=BARRED_MAX as u64 {
        joined(&rig.done(join(&settings(3), 100 + round)));
        assert_eq!(rig.done(remove(3, true)), Outcome::Removed);
        rig.pass(SECOND_US);
    }
    assert!(is_barred(&rig.done(join(&settings(3), 101))));
    joined(&rig.done(join(&settings(3), 100)));
}

/// The member learns from the answer that confirms its removal that it is for good.
#[test]
fn protocol_15_a_member_that_is_removed_for_good_never_asks_to_join() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    assert_eq!(cluster.done(ids[0], remove(3, true)), Outcome::Removed);
    cluster.pass(SECOND_US);
    let rig = cluster.at(ids[2]);
    assert!(rig.removed && rig.facts.contains(&Fact::Barred));
    assert!(!rig.facts.contains(&Fact::Removed));
    for serves in [true, false] {
        let stand = Stand::removed_because(serves, "that member was removed for good");
        let info = stand.saved.last().expect("saved").clone();
        assert!(info.running && info.is_barred && info.former.is_some());
        never_asks(stand);
    }
}

/// Fetches go on, for the leader's address, and none of them ends with a join.
fn never_asks(mut stand: Stand) {
    for _ in 0..5 {
        let mut called = stand.next_calls();
        while let Some(call) = called.pop() {
            assert!(!call.url.ends_with("/join") && !call.url.ends_with("/version"));
            match call.url.ends_with("/config") {
                true => stand.answer(&call, SIZE_5S),
                false => stand.answer(&call, &list(&["a", "node3"])),
            }
            called.extend(stand.turn());
        }
    }
    assert!(matches!(stand.redirect(), Outcome::Redirect { .. }));
}

/// A standby whose former membership was removed for good is refused once, and remembers it.
#[test]
fn protocol_15_a_standby_that_is_refused_for_good_keeps_that_over_restarts() {
    let mut stand = Stand::again(&["a"]);
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    stand.rests();
    stand.fetch("a", &list(&["a"]), SIZE_5S);
    let call = stand.asks("a");
    stand.tell(&call, 403, "tern/0.1.0", BARRED.as_bytes());
    stand.rests();
    assert!(stand.facts.contains(&Fact::Barred));
    let info = stand.saved.last().expect("it is saved").clone();
    assert!(info.running && info.is_barred);
    never_asks(stand);
    let again = Stand::of_info(info);
    never_asks(again);
}

/// An answer that no machine of the cluster gives to that question.
#[test]
fn protocol_15_only_the_refusal_of_a_join_bars_a_standby() {
    let mut stand = Stand::again(&["a"]);
    let call = stand.next(Method::Get, "http://a:7001/v2/admin/machines");
    stand.tell(&call, 403, "tern/0.1.0", BARRED.as_bytes());
    stand.turn();
    assert!(!stand.facts.contains(&Fact::Barred));
    assert!(stand.saved.iter().all(|info| !info.is_barred));
}

/// The directory is a copy from before the machine was admitted: it has the number of the member that
/// was removed, and no id.
#[test]
fn protocol_15_a_new_machine_that_is_refused_for_good_stands_by() {
    let mut seeker = Seeker::new(&PEERS, 3);
    let id = seeker.reach_the_join();
    seeker.respond(id, 403, "tern/0.1.0", BARRED.as_bytes());
    seeker.gets("http://a:7001/v2/admin/machines");
    let info = seeker.ordered.standby.take().expect("it is saved");
    assert!(info.running && info.is_barred);
    assert!(seeker.effects.facts.contains(&Fact::Barred));
    let call = seeker.asked.last().expect("the list").id;
    seeker.answer(call, 200, LIST);
    let call = seeker.gets("http://a:7001/v2/admin/config");
    seeker.answer(call, 200, SIZE);
    seeker.now.mono_us += 60 * SECOND_US;
    seeker.gets("http://a:7001/v2/admin/machines");
}

/// A leader that is cut off has the removal in its log, and it is never committed. A machine that it
/// refused would wait for ever as a standby, though it is a member.
#[test]
fn protocol_15_a_removal_that_is_not_committed_bars_nothing() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.cut = ids[1..].to_vec();
    let rig = cluster.at(ids[0]);
    let removal = rig.ask(remove(3, true));
    rig.settle();
    let place = FormerPlace::new(rig.machine.cluster(), ids[2].0);
    let asked = rig.ask(join_after(place, 99));
    rig.settle();
    assert!(rig.take_answers(asked).is_empty() && rig.take_answers(removal).is_empty());
    cluster.pass(2 * SECOND_US);
    cluster.cut.clear();
    cluster.pass(2 * SECOND_US);
    let rig = cluster.at(ids[0]);
    let outcome = rig.answer(asked);
    assert!(!is_barred(&outcome), "{outcome:?}");
    let leader = cluster.leader();
    assert_eq!(joined(&cluster.done(leader, join(&settings(3), 3))), ids[2]);
}
