//! Requests that are held: for the next leader (`-forward`), or until this one takes writes. They
//! keep their order, and none is lost.
use super::cluster::cluster;
use super::forward::{outcomes, three};
use super::rig::*;
use tern::core::machine::*;
use tern::core::peers::ProcessChange;
use tern::core::raft::PeerId;

/// More requests than a leader's replay window is wide.
const MANY: usize = 100;
const MIB: usize = 1 << 20;

/// Asks for so many writes.
fn ask_writes(rig: &mut Rig, count: usize) -> Vec<Ticket> {
    (0..count)
        .map(|n| rig.ask(set(&format!("/{n}"), "v")))
        .collect()
}

/// All of these writes have happened.
fn assert_written(cluster: &mut Cluster, id: PeerId, tickets: &[Ticket]) {
    for (n, ticket) in tickets.iter().enumerate() {
        let outcome = cluster.at(id).answer(*ticket);
        assert!(
            matches!(outcome, Outcome::Event(_)),
            "request {n}: {outcome:?}"
        );
    }
}

/// The index at which a write was applied.
fn written_at(rig: &mut Rig, ticket: Ticket) -> u64 {
    match rig.answer(ticket) {
        Outcome::Event(event) => event.node.modified.0,
        other => panic!("{other:?}"),
    }
}

/// The link to the leader opens, and a client's request comes in the same turn: it does not reach
/// the leader before those that are held, which would lie below the leader's replay window.
#[test]
fn a_new_request_does_not_overtake_held_ones() {
    let (mut cluster, leader, follower, _) = three();
    let rig = cluster.at(follower);
    rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
    let mut tickets = ask_writes(rig, MANY);
    rig.settle();
    rig.machine.on_process(rig.now, leader, ProcessChange::Up);
    tickets.extend(ask_writes(rig, 1));
    cluster.settle();
    assert_written(&mut cluster, follower, &tickets);
}

/// A leader is cut off with writes that it has proposed, and holds further ones. When it hears of
/// the next leader's entries, all of them go there.
#[test]
fn replaced_writes_do_not_overtake_held_ones() {
    let (mut cluster, leader, _, _) = three();
    cluster.cut.push(leader);
    let mut tickets = ask_writes(cluster.at(leader), MANY);
    cluster.pass(2 * SECOND_US);
    tickets.extend(ask_writes(cluster.at(leader), MANY));
    cluster.cut.clear();
    cluster.pass(SECOND_US);
    assert_ne!(cluster.leader(), leader);
    assert_written(&mut cluster, leader, &tickets);
}

/// Long writes are held while as many bytes as may are on their way. Reads pass them, and they are
/// taken all the same.
#[test]
fn reads_that_pass_a_held_write_do_not_make_the_leader_drop_it() {
    let (mut cluster, _, follower, _) = three();
    let rig = cluster.at(follower);
    let long = "x".repeat(3 * MIB);
    let writes = [rig.ask(set("/a", &long)), rig.ask(set("/b", &long))];
    rig.settle();
    let reads: Vec<Ticket> = (0..MANY).map(|_| rig.ask(read("/", false, true))).collect();
    rig.settle();
    assert_eq!(rig.sent.len(), 1 + MANY, "the second write is held");
    cluster.pass(SECOND_US);
    assert_written(&mut cluster, follower, &writes);
    for ticket in reads {
        let outcome = cluster.at(follower).answer(ticket);
        assert!(matches!(outcome, Outcome::Page { .. }), "{outcome:?}");
    }
}

/// A leader holds writes because too many are not committed. One that comes in the turn of the next
/// commit is appended after them.
#[test]
fn a_new_write_is_appended_after_the_held_ones() {
    let mut settings = settings(1);
    settings.memory.uncommitted_bytes_max = 100_000;
    let mut rig = Rig::serving(settings);
    let value = "x".repeat(10_000);
    let held: Vec<Ticket> = (0..15).map(|_| rig.ask(set("/a", &value))).collect();
    rig.turn();
    rig.sync();
    let late = rig.ask(set("/a", &value));
    rig.settle();
    let late_at = written_at(&mut rig, late);
    for ticket in held {
        assert!(written_at(&mut rig, ticket) < late_at);
    }
}

/// Three machines that forward and take few writes at a time; a leader of them holds more bytes than
/// a follower sends at a time.
fn three_with_held_bytes() -> (Cluster, PeerId, Vec<Ticket>) {
    let mut settings = Settings {
        forward: true,
        ..settings(1)
    };
    settings.memory.uncommitted_bytes_max = MIB;
    let mut cluster = cluster(3, settings);
    let leader = cluster.leader();
    cluster.cut.push(leader);
    let value = "x".repeat(MIB);
    let rig = cluster.at(leader);
    let tickets = (0..8).map(|_| rig.ask(set("/a", &value))).collect();
    rig.settle();
    (cluster, leader, tickets)
}

#[test]
fn a_leader_that_hands_over_with_many_held_bytes_takes_further_requests() {
    let (mut cluster, leader, mut tickets) = three_with_held_bytes();
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    rig.settle();
    tickets.push(rig.ask(set("/b", "v")));
    rig.settle();
    cluster.cut.clear();
    cluster.pass(3 * SECOND_US);
    assert_ne!(cluster.leader(), leader);
    assert_written(&mut cluster, leader, &tickets);
}

#[test]
fn a_deposed_leader_with_many_held_bytes_takes_further_requests() {
    let (mut cluster, leader, mut tickets) = three_with_held_bytes();
    cluster.pass(SECOND_US);
    let rig = cluster.at(leader);
    assert_ne!(rig.machine.role(), Role::Leader);
    tickets.push(rig.ask(set("/b", "v")));
    let read = rig.ask(read("/", false, true));
    assert_eq!(outcomes(&mut cluster, leader, read), []);
    cluster.cut.clear();
    cluster.pass(3 * SECOND_US);
    assert_written(&mut cluster, leader, &tickets);
    let outcome = cluster.at(leader).answer(read);
    assert!(matches!(outcome, Outcome::Page { .. }), "{outcome:?}");
}
