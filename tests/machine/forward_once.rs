//! `-forward`: leaders that die, hand over or refuse with a request on its way. A write happens at
//! most once; a request that no leader has taken is held.
use super::cluster::cluster;
use super::forward::{deliver, outcomes, passed, sent, three, unknown};
use super::rig::*;
use tern::core::cluster_time::Lease;
use tern::core::command::{self, Command, KeyPath, Naming};
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::peers::ProcessChange;
use tern::core::raft::{Message, PeerId, Rpc};

fn add(value: &str) -> Op {
    Op::Write(Command::Create {
        path: KeyPath::new("/queue"),
        value: Some(value.into()),
        lease: None,
        naming: Naming::InOrder,
    })
}

/// How many jobs are in the queue at a machine.
fn jobs(cluster: &mut Cluster, id: PeerId) -> usize {
    match cluster.at(id).done(read("/queue", true, false)) {
        Outcome::Page { items, .. } => items.len() - 1,
        Outcome::Failed(error) if error.code == Code::KeyNotFound => 0,
        other => panic!("{other:?}"),
    }
}

/// Only the leader has appended the command. The next leader's commit shows that it did not happen.
#[test]
fn protocol_26_an_entry_that_another_leader_replaces_goes_to_the_next() {
    let (mut cluster, leader, follower, other) = three();
    let (ticket, _, message) = passed(&mut cluster, follower, add("once"));
    deliver(&mut cluster, follower, leader, message);
    // The entry itself never leaves the old leader.
    let old = cluster.rigs.remove(&leader).expect("the old leader");
    cluster.pass(2_000_000);
    assert!([follower, other].contains(&cluster.leader()));
    assert!(matches!(
        outcomes(&mut cluster, follower, ticket)[..],
        [Outcome::Event(_)]
    ));
    cluster.rigs.insert(leader, old.restart());
    cluster.pass(1_000_000);
    for id in [leader, follower, other] {
        assert_eq!(jobs(&mut cluster, id), 1);
    }
}

/// The leader's process is gone before the request comes: nothing is sent, and the next leader gets
/// it.
#[test]
fn protocol_26_what_comes_after_the_leaders_death_waits_for_the_next() {
    let (mut cluster, leader, follower, other) = three();
    cluster.rigs.remove(&leader);
    for id in [follower, other] {
        let rig = cluster.at(id);
        rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
    }
    let rig = cluster.at(follower);
    let (write, read) = (rig.ask(add("once")), rig.ask(read("/queue", true, true)));
    let sent = sent(&mut cluster, follower);
    let is_forward = |m: &Message| matches!(m.rpc, Rpc::Forward { .. });
    assert!(!sent.iter().any(|(_, m)| is_forward(m)), "{sent:?}");
    for (to, message) in sent {
        if to == other {
            deliver(&mut cluster, follower, other, message);
        }
    }
    cluster.pass(2_000_000);
    let rig = cluster.at(follower);
    assert!(matches!(rig.answer(write), Outcome::Event(_)));
    assert!(!matches!(rig.answer(read), Outcome::Failed(e) if e.code == Code::LeaderElect));
    assert_eq!(jobs(&mut cluster, other), 1);
}

/// The link breaks before or behind the request; the leader still leads. Its link opens again, and
/// both copies arrive, in any order.
#[test]
fn protocol_26_a_write_is_sent_again_to_the_same_leader_and_taken_once() {
    for arrivals in [[false, true], [true, true]] {
        let (mut cluster, leader, follower, _) = three();
        let (ticket, _, first) = passed(&mut cluster, follower, add("once"));
        let (question, _, _) = passed(&mut cluster, follower, read("/queue", true, true));
        if arrivals[0] {
            deliver(&mut cluster, follower, leader, first.clone());
        }
        let rig = cluster.at(follower);
        rig.machine.on_process(rig.now, leader, ProcessChange::Gone);
        assert_eq!(sent(&mut cluster, follower), []);
        let rig = cluster.at(follower);
        rig.machine.on_process(rig.now, leader, ProcessChange::Up);
        let again = sent(&mut cluster, follower);
        assert_eq!(again[0], (leader, first), "with its number");
        assert_eq!(again.len(), 2, "and the read: {again:?}");
        for (_, message) in again {
            deliver(&mut cluster, follower, leader, message);
        }
        cluster.pass(200_000);
        let rig = cluster.at(follower);
        assert!(matches!(rig.answer(ticket), Outcome::Event(_)));
        assert!(matches!(rig.answer(question), Outcome::Page { .. }));
        assert_eq!(jobs(&mut cluster, leader), 1);
    }
}

/// A late copy of a write that was refused as not taken is not taken either: the follower has sent
/// it again with another number.
#[test]
fn protocol_26_not_taken_is_remembered() {
    let (mut cluster, leader, follower, _) = three();
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    rig.settle();
    rig.sent.clear();
    let (ticket, _, message) = passed(&mut cluster, follower, add("once"));
    deliver(&mut cluster, follower, leader, message.clone());
    for (to, message) in sent(&mut cluster, leader) {
        deliver(&mut cluster, leader, to, message);
    }
    assert_eq!(sent(&mut cluster, follower), [], "not at once");
    // The handover comes to nothing; the same leader gets it again.
    cluster.pass(2_000_000);
    let leader = cluster.leader();
    deliver(&mut cluster, follower, leader, message);
    cluster.pass(500_000);
    assert!(matches!(
        cluster.at(follower).answer(ticket),
        Outcome::Event(_)
    ));
    assert_eq!(jobs(&mut cluster, leader), 1);
}

/// A leader that hands over keeps its own clients' writes for the next leader.
#[test]
fn protocol_26_a_leader_that_hands_over_holds_its_own_clients_writes() {
    let (mut cluster, leader, _, _) = three();
    let rig = cluster.at(leader);
    rig.machine.on_stop(rig.now);
    rig.settle();
    let ticket = rig.ask(add("once"));
    rig.settle();
    assert_eq!(rig.take_answers(ticket), []);
    cluster.pass(500_000);
    assert_ne!(cluster.leader(), leader);
    assert!(matches!(
        cluster.at(leader).answer(ticket),
        Outcome::Event(_)
    ));
    let next = cluster.leader();
    assert_eq!(jobs(&mut cluster, next), 1);
}

/// Three machines that write a snapshot after 20 entries, and the leader among them.
fn three_with_snapshots() -> (Cluster, PeerId) {
    let settings = Settings {
        forward: true,
        snapshot_count: 20,
        ..settings(1)
    };
    let cluster = cluster(3, settings);
    let leader = cluster.leader();
    (cluster, leader)
}

/// So many writes at the leader that it needs a snapshot for a follower that gets none of them.
fn write_many(cluster: &mut Cluster, leader: PeerId) {
    for number in 0..100 {
        cluster.done(leader, set(&format!("/{number}"), &"v".repeat(20)));
    }
}

/// The entry came to the follower within a snapshot: its event is not known here.
#[test]
fn protocol_27_what_a_snapshot_hides_is_unknown() {
    let (mut cluster, leader) = three_with_snapshots();
    let ids = cluster.ids();
    let others: Vec<PeerId> = ids.into_iter().filter(|id| *id != leader).collect();
    let (ticket, _, message) = passed(&mut cluster, others[0], add("hidden"));
    deliver(&mut cluster, others[0], leader, message);
    cluster.cut.push(others[0]);
    write_many(&mut cluster, leader);
    cluster.cut.clear();
    cluster.pass(2_000_000);
    assert!(cluster.at(others[0]).snapshot_log.contains(&"receive"));
    assert_eq!(outcomes(&mut cluster, others[0], ticket), unknown());
    assert_eq!(jobs(&mut cluster, others[0]), 1);
}

/// The leader's next heartbeat, or first append, arrives, and so does the answer. No chunk of a
/// snapshot does.
fn compare_logs(cluster: &mut Cluster, leader: PeerId, follower: PeerId) {
    cluster.at(leader).pass(100_000);
    for (from, to) in [(leader, follower), (follower, leader)] {
        for (receiver, message) in sent(cluster, from) {
            let is_append = matches!(
                message.rpc,
                Rpc::AppendEntries { .. } | Rpc::AppendReply { .. }
            );
            if receiver == to && is_append {
                deliver(cluster, from, to, message);
            }
        }
    }
}

/// A serving member is far behind when it hears of a new leader, which finds that out and sends a
/// snapshot. A write that comes before it, or meanwhile, is held: sent at once, it would be within
/// a later snapshot.
#[test]
fn protocol_27_a_write_at_a_member_that_is_far_behind_a_new_leader() {
    for comparisons in 0..3 {
        let (mut cluster, leader) = three_with_snapshots();
        let ids = cluster.ids();
        let behind = ids.into_iter().find(|id| *id != leader).expect("three");
        cluster.cut.push(behind);
        write_many(&mut cluster, leader);
        let old = cluster.rigs.remove(&leader).expect("it runs");
        cluster.rigs.insert(leader, old.restart());
        cluster.pass(2_000_000);
        let next = cluster.leader();
        for _ in 0..comparisons {
            compare_logs(&mut cluster, next, behind);
        }
        let ticket = cluster.at(behind).ask(add("once"));
        let mut sent = sent(&mut cluster, behind);
        sent.retain(|(_, message)| matches!(message.rpc, Rpc::Forward { .. }));
        assert_eq!(sent, [], "after {comparisons} comparisons");
        write_many(&mut cluster, next);
        cluster.cut.clear();
        cluster.pass(2_000_000);
        assert!(cluster.at(behind).snapshot_log.contains(&"receive"));
        let outcome = cluster.at(behind).answer(ticket);
        assert!(matches!(outcome, Outcome::Event(_)), "{outcome:?}");
        assert_eq!(jobs(&mut cluster, behind), 1);
    }
}

/// A machine starts again so far behind that the leader sends a snapshot. A write that comes before
/// is answered.
#[test]
fn protocol_27_a_write_at_a_machine_that_starts_far_behind() {
    let (mut cluster, leader) = three_with_snapshots();
    let ids = cluster.ids();
    let behind = ids.into_iter().find(|id| *id != leader).expect("three");
    let old = cluster.rigs.remove(&behind).expect("it runs");
    write_many(&mut cluster, leader);
    cluster.rigs.insert(behind, old.restart());
    let ticket = cluster.at(behind).ask(add("once"));
    cluster.pass(2_000_000);
    assert!(cluster.at(behind).snapshot_log.contains(&"receive"));
    let outcome = cluster.at(behind).answer(ticket);
    assert!(matches!(outcome, Outcome::Event(_)), "{outcome:?}");
    assert_eq!(jobs(&mut cluster, behind), 1);
}

/// A leader that steps down before it has confirmed a client's read asks the next leader.
#[test]
fn protocol_26_a_read_of_a_deposed_leader_goes_to_the_next() {
    let (mut cluster, leader, _, _) = three();
    cluster.cut.push(leader);
    let ticket = cluster.at(leader).ask(read("/queue", true, true));
    cluster.pass(2_000_000);
    cluster.cut.clear();
    cluster.pass(1_000_000);
    assert_ne!(cluster.leader(), leader);
    let outcome = cluster.at(leader).answer(ticket);
    assert!(
        matches!(&outcome, Outcome::Failed(e) if e.code == Code::KeyNotFound),
        "{outcome:?}"
    );
}

/// A leader is cut off with a write of its own client, which the next leader's entries replace. The
/// write goes to the next leader, whose clock its ttl follows.
#[test]
fn protocol_26_a_write_of_a_deposed_leader_goes_to_the_next() {
    let (mut cluster, leader, _, _) = three();
    cluster.cut.push(leader);
    let rig = cluster.at(leader);
    let write = rig.ask(add("once"));
    let mortal = rig.ask(Op::Write(Command::Set {
        path: KeyPath::new("/mortal"),
        value: Some("v".into()),
        lease: Some(Lease::of_seconds(3)),
    }));
    cluster.pass(2_000_000);
    assert_eq!(outcomes(&mut cluster, leader, write), []);
    cluster.cut.clear();
    cluster.pass(1_000_000);
    let next = cluster.leader();
    assert_ne!(next, leader);
    for ticket in [write, mortal] {
        let outcome = cluster.at(leader).answer(ticket);
        assert!(matches!(outcome, Outcome::Event(_)), "{outcome:?}");
    }
    cluster.pass(1_500_000);
    let has_mortal = |cluster: &mut Cluster| {
        let outcome = cluster.at(next).done(read("/mortal", false, false));
        !matches!(outcome, Outcome::Failed(_))
    };
    assert!(has_mortal(&mut cluster), "its time began anew");
    cluster.pass(2_000_000);
    assert!(!has_mortal(&mut cluster));
    for id in cluster.ids() {
        assert_eq!(jobs(&mut cluster, id), 1);
    }
}

/// A leader is deposed, and the next one has its entry: the own client's write is answered by it,
/// and not sent again.
#[test]
fn protocol_26_a_write_of_a_deposed_leader_that_the_next_keeps_is_answered() {
    let (mut cluster, leader, follower, other) = three();
    let ticket = cluster.at(leader).ask(add("once"));
    for (to, message) in sent(&mut cluster, leader) {
        deliver(&mut cluster, leader, to, message);
    }
    // The answers of the followers are lost.
    for id in [follower, other] {
        sent(&mut cluster, id);
    }
    cluster.cut.push(leader);
    cluster.pass(2_000_000);
    assert_eq!(outcomes(&mut cluster, leader, ticket), []);
    cluster.cut.clear();
    cluster.pass(1_000_000);
    assert_ne!(cluster.leader(), leader);
    let outcome = cluster.at(leader).answer(ticket);
    assert!(matches!(outcome, Outcome::Event(_)), "{outcome:?}");
    for id in [leader, follower, other] {
        assert_eq!(jobs(&mut cluster, id), 1);
    }
}

/// The next leader has the entry: the write is answered by it, and not sent again.
#[test]
fn protocol_26_an_entry_that_the_next_leader_keeps_is_answered() {
    let (mut cluster, leader, follower, other) = three();
    let (ticket, _, message) = passed(&mut cluster, follower, add("once"));
    deliver(&mut cluster, follower, leader, message);
    for (to, message) in sent(&mut cluster, leader) {
        deliver(&mut cluster, leader, to, message);
    }
    cluster.rigs.remove(&leader);
    assert_eq!(outcomes(&mut cluster, follower, ticket), []);
    cluster.pass(2_000_000);
    assert!([follower, other].contains(&cluster.leader()));
    assert!(matches!(
        cluster.at(follower).answer(ticket),
        Outcome::Event(_)
    ));
    assert_eq!(jobs(&mut cluster, other), 1);
}

/// As a faulty member sends it: another member's process and number with a command of its own.
fn forged(message: &Message, op: Op) -> Message {
    let (
        Rpc::Forward {
            process, number, ..
        },
        Op::Write(command),
    ) = (&message.rpc, op)
    else {
        panic!("a forwarded request, and a write");
    };
    let mut body = Vec::new();
    command::encode(&command, &mut body);
    Message {
        term: message.term,
        rpc: Rpc::Forward {
            process: *process,
            number: *number,
            command: Some(body.into()),
        },
    }
}

/// The numbers of a process stand in the log for all members to see. A faulty one is first to use the
/// next of them at the leader: its entry is no answer to a client of the process, and ends no process.
#[test]
fn an_entry_with_a_command_of_another_member_answers_no_client() {
    let lock = Op::Lock(Box::new(LockRequest::Acquire {
        lock: KeyPath::new("/lock"),
        value: "".into(),
        lease: None,
        wait: Lease::of_seconds(30),
        wait_us: 30 * SECOND_US,
        timeout_us: None,
    }));
    for op in [set("/a", "mine"), lock] {
        let (mut cluster, leader, follower, other) = three();
        let (ticket, _, message) = passed(&mut cluster, follower, op);
        let theirs = forged(&message, set("/foo", "theirs"));
        deliver(&mut cluster, other, leader, theirs);
        deliver(&mut cluster, follower, leader, message);
        cluster.pass(500_000);
        assert_eq!(outcomes(&mut cluster, follower, ticket), []);
        assert_eq!(
            cluster.at(follower).value("/foo").as_deref(),
            Some("theirs")
        );
        cluster.pass(5_000_000);
        assert_eq!(outcomes(&mut cluster, follower, ticket), unknown());
    }
}

/// A leader takes the numbers of a process from one member only, and none of its own process.
#[test]
fn a_leader_takes_no_request_with_the_process_of_another_member() {
    let (mut cluster, leader, follower, other) = three();
    let (ticket, _, message) = passed(&mut cluster, follower, set("/a", "1"));
    deliver(&mut cluster, follower, leader, message.clone());
    cluster.pass(200_000);
    assert!(matches!(
        outcomes(&mut cluster, follower, ticket)[..],
        [Outcome::Event(_)]
    ));
    let (ticket, _, message) = passed(&mut cluster, follower, set("/a", "2"));
    let theirs = forged(&message, set("/foo", "theirs"));
    deliver(&mut cluster, other, leader, theirs);
    deliver(&mut cluster, follower, leader, message);
    cluster.pass(200_000);
    assert!(matches!(
        outcomes(&mut cluster, follower, ticket)[..],
        [Outcome::Event(_)]
    ));
    assert_eq!(cluster.at(follower).value("/foo"), None);
}
