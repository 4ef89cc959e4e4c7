//! Links of a member: hellos and events of links, driven by hand.
use super::cluster::cluster;
use super::rig::*;
use tern::core::command::{self, Command};
use tern::core::peers::{Hello, HelloRefusal, LinkEvent};
use tern::core::raft::{Entry, EntryBody, Index, Message, PeerId, Rpc};

/// A member whose join has not arrived here.
const UNKNOWN: PeerId = PeerId(1_000_000);

/// What a link brings in one step, in bytes: less than the whole budget.
const STEP_BYTES: u64 = 40 << 20;

fn hello(rig: &Rig, from: PeerId) -> Hello {
    Hello {
        from,
        to: rig.machine.id(),
        process: 9,
        incarnation: 99,
        cluster: Some(rig.machine.cluster()),
        name: "unknown".into(),
        peer_url: "http://10.0.0.9:7001".into(),
        client_url: "http://10.0.0.9:4001".into(),
        ..Hello::default()
    }
}

/// An append of the unknown leader behind the last entry of the log, with so many entries.
fn append(rig: &Rig, entries: u64) -> Message {
    let raft = rig.machine.raft().expect("a member");
    let last = raft.last_index();
    let term = raft.term().next();
    let mut body = Vec::new();
    command::encode(&Command::Nop, &mut body);
    let entry = |index: u64| Entry {
        term,
        index: Index(index),
        body: EntryBody::Good(body.clone().into()),
    };
    let entries: Vec<Entry> = (1..=entries).map(|n| entry(last.0 + n)).collect();
    Message {
        term,
        rpc: Rpc::AppendEntries {
            prev_index: last,
            prev_term: raft.progress().1,
            commit: raft.committed(),
            acked: Index(0),
            round: None,
            sync_us: 0,
            round_trip_us: 0,
            pause_us: 0,
            clock_ns: 0,
            held_bytes: None,
            entries,
        },
    }
}

/// A follower that lags behind does not know its leader: only the leader can make itself known. What
/// it sends is counted until it makes the log grow; what another peer sends refunds nothing.
#[test]
fn protocol_11_what_an_unknown_member_sends_is_refunded_by_its_own_progress() {
    let mut cluster = cluster(3, settings(1));
    let id = *cluster.rigs.keys().last().expect("a member");
    let mut rig = cluster.rigs.remove(&id).expect("a member").restart();
    rig.turn();
    let hello = hello(&rig, UNKNOWN);
    let admitted = rig.machine.on_hello(rig.now, &hello, "10.0.0.9");
    let (link, _) = admitted.expect("it knows the number of the cluster");
    let heard = |rig: &mut Rig| {
        let event = LinkEvent::Heard(STEP_BYTES);
        rig.machine.on_link(rig.now, link, event);
    };
    for _ in 0..10 {
        heard(&mut rig);
        assert_eq!(rig.machine.peer_of(link), Some(UNKNOWN));
        let message = append(&rig, 1);
        rig.machine.on_message(rig.now, UNKNOWN, message);
        rig.settle();
    }
    // From now on it repeats itself, while the log grows by what the listed leader sends.
    heard(&mut rig);
    let listed = *cluster.rigs.keys().next().expect("a member");
    let message = append(&rig, 1);
    rig.machine.on_message(rig.now, listed, message);
    rig.settle();
    assert_eq!(rig.machine.peer_of(link), Some(UNKNOWN));
    heard(&mut rig);
    assert_eq!(rig.machine.peer_of(link), None, "it has used its bytes up");
    let again = rig.machine.on_hello(rig.now, &hello, "10.0.0.9");
    assert_eq!(again.map(|_| ()), Err(HelloRefusal::Busy));
}

/// A member without room takes nothing. Once there is room, the bytes that led nowhere meanwhile do
/// not keep out a leader that this member does not know yet.
#[test]
fn protocol_11_what_came_without_room_is_forgiven() {
    let mut cluster = cluster(3, settings(1));
    let id = *cluster.rigs.keys().last().expect("a member");
    let mut rig = cluster.rigs.remove(&id).expect("a member").restart();
    rig.turn();
    rig.machine.on_room(0);
    let hello = hello(&rig, UNKNOWN);
    let admitted = rig.machine.on_hello(rig.now, &hello, "10.0.0.9");
    let (link, _) = admitted.expect("it knows the number of the cluster");
    for _ in 0..100 {
        let event = LinkEvent::Heard(STEP_BYTES);
        rig.machine.on_link(rig.now, link, event);
    }
    let refused = rig.machine.on_hello(rig.now, &hello, "10.0.0.9");
    assert_eq!(refused.map(|_| ()), Err(HelloRefusal::Busy));
    rig.machine.on_room(64 << 20);
    let admitted = rig.machine.on_hello(rig.now, &hello, "10.0.0.9");
    assert_eq!(admitted.map(|_| ()), Ok(()));
}
