//! Rule 25: linearizable reads whose rounds overlap, with every message of them in the test's hands.
//!
//! Each test tries every order in which the heartbeats of the rounds can be answered.
use super::cluster::cluster;
use super::forward::{deliver, outcomes, sent};
use super::rig::*;
use tern::core::machine::*;
use tern::core::raft::{Message, PeerId};

/// A read and the heartbeats of its round that are not delivered.
struct PendingRead {
    ticket: Ticket,
    heartbeats: Vec<(PeerId, Message)>,
}

/// One heartbeat: the place of its read, and its receiver.
type Delivered = (usize, PeerId);

/// Starts a read on the leader.
fn start(cluster: &mut Cluster, leader: PeerId) -> PendingRead {
    let ticket = cluster.at(leader).ask(read("/a", false, true));
    let heartbeats = sent(cluster, leader);
    assert_eq!(heartbeats.len(), 2, "a round has a heartbeat for each peer");
    PendingRead { ticket, heartbeats }
}

/// Two reads with a write between them, each with a round of its own.
fn two_reads(cluster: &mut Cluster, leader: PeerId) -> Vec<PendingRead> {
    cluster.done(leader, set("/a", "one"));
    let first = start(cluster, leader);
    cluster.done(leader, set("/a", "two"));
    let second = start(cluster, leader);
    vec![first, second]
}

/// Delivers a heartbeat, and its reply.
fn answer(cluster: &mut Cluster, leader: PeerId, reads: &[PendingRead], (at, to): Delivered) {
    let heartbeats = reads[at].heartbeats.iter();
    let own = heartbeats.filter(|(id, _)| *id == to).cloned();
    for (_, heartbeat) in own {
        deliver(cluster, leader, to, heartbeat);
    }
    for (id, reply) in sent(cluster, to) {
        assert_eq!(id, leader);
        deliver(cluster, to, leader, reply);
    }
}

fn shown(outcomes: &[Outcome]) -> Option<&str> {
    match outcomes {
        [] => None,
        [Outcome::Page { items, .. }] => items[0].view.value.as_deref(),
        other => panic!("{other:?}"),
    }
}

/// All orders of all subsets.
fn orders(of: &[Delivered]) -> Vec<Vec<Delivered>> {
    let mut all = vec![Vec::new()];
    for (at, first) in of.iter().enumerate() {
        let mut rest = of.to_vec();
        rest.remove(at);
        for tail in orders(&rest) {
            let mut order = vec![*first];
            order.extend(tail);
            all.push(order);
        }
    }
    all
}

#[test]
fn protocol_25_a_round_is_confirmed_by_its_own_answers_and_by_later_ones() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let peers: Vec<PeerId> = cluster.ids().into_iter().filter(|i| *i != leader).collect();
    let all = [0, 1].map(|read| peers.iter().map(move |peer| (read, *peer)));
    let all: Vec<Delivered> = all.into_iter().flatten().collect();
    let orders = orders(&all);
    assert_eq!(orders.len(), 65);
    for order in orders {
        let reads = two_reads(&mut cluster, leader);
        let mut answered = [false, false];
        for delivered in &order {
            answer(&mut cluster, leader, &reads, *delivered);
            // One voter beside the leader is a majority of three.
            let newest = delivered.0;
            for (at, read) in reads.iter().enumerate() {
                let outcomes = outcomes(&mut cluster, leader, read.ticket);
                let becomes = at <= newest && !answered[at];
                let expected = becomes.then_some("two");
                assert_eq!(shown(&outcomes), expected, "read {at} in {order:?}");
                answered[at] |= becomes;
            }
        }
        // The next order starts without reads.
        cluster.pass(50_000);
        for (at, read) in reads.iter().enumerate() {
            let outcomes = outcomes(&mut cluster, leader, read.ticket);
            assert_eq!(shown(&outcomes).is_some(), !answered[at], "{order:?}");
        }
    }
}

#[test]
fn protocol_25_reads_of_one_turn_share_a_round_and_four_rounds_are_under_way() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    cluster.done(leader, set("/a", "one"));
    let mut tickets = Vec::new();
    let mut rounds = Vec::new();
    for _ in 0..4 {
        tickets.push(cluster.at(leader).ask(read("/a", false, true)));
        tickets.push(cluster.at(leader).ask(read("/a", false, true)));
        let heartbeats = sent(&mut cluster, leader);
        assert_eq!(heartbeats.len(), 2, "two reads of one turn share a round");
        rounds.push(heartbeats);
    }
    for _ in 0..2 {
        tickets.push(cluster.at(leader).ask(read("/a", false, true)));
        assert_eq!(sent(&mut cluster, leader), [], "no fifth round begins");
    }
    for round in rounds {
        for (to, heartbeat) in round {
            deliver(&mut cluster, leader, to, heartbeat);
        }
    }
    cluster.settle();
    for ticket in tickets {
        let outcomes = outcomes(&mut cluster, leader, ticket);
        assert_eq!(shown(&outcomes), Some("one"));
    }
}

#[test]
fn protocol_25_a_deposed_leader_answers_no_read_of_any_round() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    let reads = two_reads(&mut cluster, leader);
    cluster.cut.push(leader);
    cluster.pass(1_000_000);
    let others: Vec<PeerId> = cluster.ids().into_iter().filter(|i| *i != leader).collect();
    let next = others
        .iter()
        .find(|id| cluster.rigs[id].machine.role() == Role::Leader);
    let next = *next.expect("the others elect a leader");
    cluster.done(next, set("/a", "three"));
    // The replies to late heartbeats name the later term, and confirm nothing.
    for to in others {
        for at in 0..reads.len() {
            answer(&mut cluster, leader, &reads, (at, to));
        }
    }
    for read in reads {
        let outcomes = outcomes(&mut cluster, leader, read.ticket);
        assert!(
            matches!(outcomes[..], [Outcome::Failed(_)]),
            "a deposed leader shows a state: {outcomes:?}"
        );
    }
}
