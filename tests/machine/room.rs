//! Full disks of several members: what is answered meanwhile, and what goes on once there is room.
use super::cluster::cluster;
use super::rig::*;
use super::single::failed;
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::raft::{PeerId, Rpc};

/// More than any log asks for.
const ENOUGH: u64 = 64 << 20;

/// The disk of one member is full, or has room again.
fn set_room(cluster: &mut Cluster, id: PeerId, bytes: u64) {
    let rig = cluster.at(id);
    let space = if bytes < 1 << 20 {
        Space::Low
    } else {
        Space::Ok
    };
    rig.machine.on_space(rig.now, space);
    rig.machine.on_room(bytes);
}

fn takes_a_write(cluster: &mut Cluster, leader: PeerId) {
    let written = cluster.done(leader, set("/foo", "x"));
    assert!(matches!(written, Outcome::Event(_)), "{written:?}");
}

/// A leader that was just elected reads nothing linearizably before it has committed an entry of
/// its term. While the disks of the followers are full it cannot. Reads then end with that reason,
/// and go on once there is room.
#[test]
fn a_read_does_not_wait_for_ever_for_the_first_commit_of_a_leader() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.done(ids[0], set("/foo", "bar"));
    cluster.pass(500_000);
    for id in &ids[1..] {
        set_room(&mut cluster, *id, 0);
    }
    // Only this one has the room to lead.
    let restarted = cluster.rigs.remove(&ids[0]).expect("it runs").restart();
    cluster.rigs.insert(ids[0], restarted);
    cluster.pass(5 * SECOND_US);
    assert_eq!(cluster.leader(), ids[0]);

    let ticket = cluster.at(ids[0]).ask(read("/foo", false, true));
    cluster.pass(4 * SECOND_US);
    assert!(cluster.at(ids[0]).take_answers(ticket).is_empty());
    cluster.pass(2 * SECOND_US);
    let full = |code| failed(code, "disk full");
    assert_eq!(cluster.at(ids[0]).answer(ticket), full(Code::LeaderElect));
    let write = set("/foo", "x");
    assert_eq!(cluster.done(ids[0], write), full(Code::RaftInternal));
    assert_eq!(cluster.at(ids[0]).value("/foo").as_deref(), Some("bar"));

    let waiting = cluster.at(ids[0]).ask(read("/foo", false, true));
    for id in &ids[1..] {
        set_room(&mut cluster, *id, ENOUGH);
    }
    cluster.pass(SECOND_US);
    let read = cluster.at(ids[0]).answer(waiting);
    assert!(matches!(read, Outcome::Page { .. }), "{read:?}");
    takes_a_write(&mut cluster, ids[0]);
}

/// All disks are full, that of the leader too. It still leads and reads.
#[test]
fn reads_go_on_while_all_disks_are_full() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.done(ids[0], set("/foo", "bar"));
    for id in &ids {
        set_room(&mut cluster, *id, 0);
    }
    cluster.pass(10 * SECOND_US);
    let leader = cluster.leader();
    let read = cluster.done(leader, read("/foo", false, true));
    assert!(matches!(read, Outcome::Page { .. }), "{read:?}");
    let full = failed(Code::RaftInternal, "disk full");
    assert_eq!(cluster.done(leader, set("/foo", "x")), full);
    for id in &ids {
        set_room(&mut cluster, *id, ENOUGH);
    }
    cluster.pass(SECOND_US);
    takes_a_write(&mut cluster, leader);
}

/// A voter that is not heard takes no entries: its last report of room counts for nothing
/// (PROTOCOL 5). The new leader beside a dead and a full voter refuses writes at once, and does not leave them
/// unanswered until its claims on the dead voter's room are used up.
#[test]
fn protocol_05_a_silent_voter_counts_as_one_without_room() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.done(ids[0], set("/foo", "bar"));
    cluster.pass(500_000);
    set_room(&mut cluster, ids[2], 0);
    cluster.rigs.remove(&ids[0]);
    cluster.pass(5 * SECOND_US);
    assert_eq!(cluster.leader(), ids[1]);
    let full = failed(Code::RaftInternal, "disk full");
    assert_eq!(cluster.done(ids[1], set("/foo", "x")), full);

    set_room(&mut cluster, ids[2], ENOUGH);
    cluster.pass(SECOND_US);
    takes_a_write(&mut cluster, ids[1]);
}

/// While the others are a majority with room, a silent voter costs nothing.
#[test]
fn a_silent_voter_beside_two_with_room_costs_nothing() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    set_room(&mut cluster, ids[2], 0);
    cluster.rigs.remove(&ids[2]);
    cluster.pass(5 * SECOND_US);
    takes_a_write(&mut cluster, ids[0]);
}

/// A leader with a full disk hands over, and its successor never hears of it. Each client that
/// writes makes it try again. Nodes expire all the same, and no client uses up the reserve.
#[test]
fn protocol_05_nodes_expire_while_a_full_leader_fails_to_hand_over() {
    let mut cluster = cluster(3, settings(1));
    let leader = cluster.leader();
    cluster.done(leader, set_for("/short", 1_000));
    set_room(&mut cluster, leader, 512 << 10);
    let mut told = 0;
    for n in 0..300 {
        let ticket = cluster.at(leader).ask(set("/foo", &n.to_string()));
        for rig in cluster.rigs.values_mut() {
            rig.now.mono_us += 7_000;
            rig.now.wall_ns += 7_000_000;
            rig.machine.on_time(rig.now);
        }
        loop {
            let rig = cluster.at(leader);
            rig.settle();
            let sent = rig.sent.len();
            rig.sent
                .retain(|(_, message)| !matches!(message.rpc, Rpc::TimeoutNow));
            told += sent - rig.sent.len();
            if !cluster.round() {
                break;
            }
        }
        let refused = cluster.at(leader).answer(ticket);
        assert_eq!(refused, failed(Code::RaftInternal, ""));
    }
    assert_eq!(cluster.leader(), leader);
    assert!(told >= 5, "{told} attempts");
    assert_eq!(cluster.at(leader).value("/short"), None);
}

/// Large values wait for one slow sync: 64 MiB of them in the log, and as many for their turn. Those
/// beyond are refused with the reason.
#[test]
fn large_values_that_come_together_wait_for_the_sync() {
    let mut rig = Rig::serving(settings(1));
    let value = "x".repeat(1 << 20);
    let mut tickets = Vec::new();
    for key in 0..150 {
        tickets.push(rig.ask(set(&format!("/{key}"), &value)));
        rig.turn();
    }
    rig.settle();
    let outcomes: Vec<_> = tickets.into_iter().map(|t| rig.answer(t)).collect();
    let taken = outcomes.iter().filter(|o| matches!(o, Outcome::Event(_)));
    assert!((120..140).contains(&taken.count()), "128 MiB are taken");
    let busy = failed(Code::RaftInternal, "too many writes wait to be committed");
    assert_eq!(outcomes.last(), Some(&busy));
    assert!(matches!(rig.done(set("/more", "x")), Outcome::Event(_)));
}

/// The disk has room, and the next segment of the log is being made.
fn without_segment() -> Rig {
    let mut rig = Rig::serving(settings(1));
    rig.machine.on_space(rig.now, Space::Ok);
    rig.machine.on_room(100_000);
    rig
}

const NO_SEGMENT: &str = "the log has no room for so long a value now";

#[test]
fn a_write_waits_for_the_next_segment_of_the_log() {
    let mut rig = without_segment();
    let tickets = ["/a", "/b"].map(|path| rig.ask(set(path, "x")));
    rig.pass(SECOND_US);
    for ticket in tickets {
        assert!(rig.take_answers(ticket).is_empty());
    }
    rig.machine.on_room(ENOUGH);
    rig.settle();
    for ticket in tickets {
        assert!(matches!(rig.answer(ticket), Outcome::Event(_)));
    }
}

#[test]
fn a_write_that_got_no_segment_is_told_the_cause() {
    let mut rig = without_segment();
    let ticket = rig.ask(set("/a", "x"));
    rig.pass(6 * SECOND_US);
    assert_eq!(rig.answer(ticket), failed(Code::RaftInternal, NO_SEGMENT));
    assert_eq!(rig.value("/a"), None);
}

/// Each turn tries the oldest one, and it stays the oldest.
#[test]
fn writes_that_wait_keep_their_order() {
    let mut rig = without_segment();
    let tickets = ["/a", "/b", "/c"].map(|path| rig.ask(set(path, "x")));
    for _ in 0..4 {
        rig.turn();
    }
    rig.machine.on_room(ENOUGH);
    rig.settle();
    let indexes = tickets.map(|ticket| match rig.answer(ticket) {
        Outcome::Event(event) => event.node.modified.0,
        other => panic!("{other:?}"),
    });
    assert_eq!([indexes[0] + 1, indexes[0] + 2], [indexes[1], indexes[2]]);
}

/// Room comes in the turn in which the write is given up: it is not begun any more.
#[test]
fn a_write_that_is_due_is_not_begun() {
    let mut rig = without_segment();
    let ticket = rig.ask(set("/a", "x"));
    rig.turn();
    rig.now.mono_us += 6 * SECOND_US;
    rig.machine.on_room(ENOUGH);
    rig.settle();
    assert_eq!(rig.answer(ticket), failed(Code::RaftInternal, NO_SEGMENT));
    assert_eq!(rig.value("/a"), None);
}

/// Nor does it hold up other writes.
#[test]
fn a_value_longer_than_any_entry_is_refused_at_once() {
    let mut rig = Rig::serving(settings(1));
    let refused = rig.done(set("/a", &"x".repeat(17 << 20)));
    let cause = "the value is too long for an entry of the log";
    assert_eq!(refused, failed(Code::RaftInternal, cause));
    assert!(matches!(rig.done(set("/b", "x")), Outcome::Event(_)));
}

/// A log that fills its memory holds up the writes of the leader, and of no other member.
#[test]
fn a_follower_with_a_full_log_redirects() {
    let mut settings = settings(1);
    settings.memory.log_bytes_max = 50_000;
    let mut cluster = cluster(3, settings);
    let ids = cluster.ids();
    let value = "x".repeat(10_000);
    let held = (0..20).any(|n| {
        let ticket = cluster.at(ids[0]).ask(set(&format!("/{n}"), &value));
        cluster.settle();
        cluster.at(ids[0]).take_answers(ticket).is_empty()
    });
    assert!(held);
    let outcome = cluster.done(ids[1], set("/a", &value));
    assert!(matches!(outcome, Outcome::Redirect { .. }), "{outcome:?}");
}

/// No segment can be made: now the disk is full, for the writes that wait, too. A disk that has some
/// room, but never enough, is full as well.
#[test]
fn writes_that_wait_for_a_segment_of_a_full_disk_are_refused() {
    let is_low = |rig: &mut Rig| rig.machine.on_space(rig.now, Space::Low);
    let is_too_small = |rig: &mut Rig| rig.machine.on_log_growth(false);
    for fill in [is_low, is_too_small] as [fn(&mut Rig); 2] {
        let mut rig = without_segment();
        let ticket = rig.ask(set("/a", "x"));
        rig.settle();
        fill(&mut rig);
        rig.settle();
        let full = failed(Code::RaftInternal, "disk full");
        assert_eq!(rig.answer(ticket), full);
        assert_eq!(rig.done(set("/b", "x")), full);
    }
}

/// While a disk is nearly full its log waits for a snapshot to be released, and does not grow: the
/// pace of the snapshot does not wait for the log's growth.
#[test]
fn a_snapshot_that_writes_wait_for_is_not_paced() {
    let mut rig = Rig::serving(settings(1));
    let value = "x".repeat(100_000);
    for key in 0..40 {
        rig.put(&format!("/{key}"), &value);
    }
    let before = rig.disk.snapshots.len();
    rig.machine.on_space(rig.now, Space::Low);
    rig.settle();
    assert!(rig.disk.snapshots.len() > before, "at once");
}
