//! Members that are told that they have lost their place (PROTOCOL rule 13: nothing is wiped by one
//! message).
use super::cluster::{assert_equal, cluster};
use super::rig::*;
use tern::core::command::{self, Command};
use tern::core::machine::*;
use tern::core::raft::{Entry, EntryBody, Index, Message, PeerId, Rpc, Term};

fn deliver(cluster: &mut Cluster, from: PeerId, to: PeerId, message: Message) {
    let rig = cluster.at(to);
    rig.machine.on_message(rig.now, from, message);
    cluster.settle();
}

fn notice(cluster: &mut Cluster, id: PeerId) -> Message {
    let cluster = cluster.at(id).machine.cluster();
    Message {
        term: Term::REMOVED,
        rpc: Rpc::Removed { cluster, id },
    }
}

fn append(
    term: Term,
    prev: (Index, Term),
    commit: Index,
    acked: Index,
    entries: Vec<Entry>,
) -> Message {
    Message {
        term,
        rpc: Rpc::AppendEntries {
            prev_index: prev.0,
            prev_term: prev.1,
            commit,
            acked,
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

/// How the survey of a member ended, if one did.
fn kept(rig: &Rig) -> Option<bool> {
    rig.facts.iter().find_map(|fact| match fact {
        Fact::PlaceKept { is_listed } => Some(*is_listed),
        _ => None,
    })
}

#[test]
fn protocol_13_a_notice_wipes_nothing_while_the_leader_lists_the_member() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let lie = notice(&mut cluster, ids[2]);
    deliver(&mut cluster, ids[1], ids[2], lie.clone());
    let rig = cluster.at(ids[2]);
    assert_eq!(kept(rig), Some(true));
    assert!(!rig.removed && rig.machine.is_serving());
    let doubts = |rig: &Rig| {
        rig.facts
            .iter()
            .filter(|f| matches!(f, Fact::PlaceDoubted(_)))
            .count()
    };
    assert_eq!(doubts(rig), 1);
    // Repeated, it costs one survey now and then, and no line.
    for _ in 0..20 {
        deliver(&mut cluster, ids[1], ids[2], lie.clone());
    }
    assert_eq!(cluster.at(ids[2]).called.len(), 1);
    cluster.pass(SECOND_US);
    deliver(&mut cluster, ids[1], ids[2], lie);
    assert_eq!(cluster.at(ids[2]).called.len(), 2);
    assert_eq!(doubts(cluster.at(ids[2])), 1);
    // The liar is gone: the two elect a leader.
    cluster.rigs.remove(&ids[0]);
    cluster.pass(2 * SECOND_US);
    let leader = cluster.leader();
    assert!(matches!(
        cluster.done(leader, set("/a", "1")),
        Outcome::Event(_)
    ));
}

#[test]
fn protocol_13_a_notice_that_nobody_confirms_wipes_nothing() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.cut = ids[..2].to_vec();
    let lie = notice(&mut cluster, ids[2]);
    deliver(&mut cluster, ids[1], ids[2], lie);
    assert_eq!(kept(cluster.at(ids[2])), Some(false));
    assert!(!cluster.at(ids[2]).removed);
    cluster.cut.clear();
    cluster.pass(SECOND_US);
    assert!(cluster.at(ids[2]).machine.is_serving());
}

/// The member was cut off while it was removed. The peer that tells it does not lead.
#[test]
fn protocol_13_a_notice_that_is_confirmed() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    cluster.cut = vec![ids[2]];
    let remove = Op::MachineRemove {
        name: settings(3).name,
        for_good: false,
    };
    assert_eq!(cluster.done(ids[0], remove), Outcome::Removed);
    cluster.pass(3 * SECOND_US);
    cluster.cut.clear();
    let told = notice(&mut cluster, ids[2]);
    deliver(&mut cluster, ids[1], ids[2], told);
    let rig = cluster.at(ids[2]);
    assert!(rig.removed && rig.facts.contains(&Fact::Removed));
    assert_eq!(rig.machine.role(), Role::Standby);
}

/// The leader itself counts too much, once. Its next append shows that.
#[test]
fn protocol_13_a_lost_tail_that_the_leader_does_not_confirm() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let raft = cluster.at(ids[2]).machine.raft().expect("a member");
    let (term, past) = (raft.term(), Index(raft.last_index().0 + 5));
    let lie = append(term, (Index(0), Term::NONE), Index(0), past, Vec::new());
    deliver(&mut cluster, ids[0], ids[2], lie);
    let rig = cluster.at(ids[2]);
    assert!(rig.facts.iter().any(|f| matches!(
        f,
        Fact::PlaceDoubted(doubt) if !doubt.is_removal
    )));
    assert_eq!(kept(rig), Some(true));
    assert!(!rig.removed);
    cluster.pass(SECOND_US);
    assert!(matches!(
        cluster.done(ids[0], set("/a", "1")),
        Outcome::Event(_)
    ));
    assert_equal(&cluster);
}

/// A faulty leader commits the removal of a member, in that member's log alone.
#[test]
fn protocol_13_a_removal_in_the_own_log_alone_wipes_nothing() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let raft = cluster.at(ids[2]).machine.raft().expect("a member");
    let last = raft.last_index();
    let term = raft.term();
    let mut body = Vec::new();
    command::encode(
        &Command::Remove {
            id: ids[2].0,
            for_good: false,
        },
        &mut body,
    );
    let entry = Entry {
        term,
        index: last.next(),
        body: EntryBody::Good(body.into()),
    };
    let last_term = raft.entry(last).expect("in memory").term;
    let lie = append(term, (last, last_term), last.next(), Index(0), vec![entry]);
    deliver(&mut cluster, ids[0], ids[2], lie);
    cluster.pass(5 * SECOND_US);
    let rig = cluster.at(ids[2]);
    assert!(!rig.removed, "its data is kept");
    assert_eq!(kept(rig), Some(true));
    assert_eq!(rig.machine.role(), Role::Standby, "it takes part no more");
    let ticket = rig.ask(get("/a"));
    rig.settle();
    assert!(matches!(rig.answer(ticket), Outcome::Redirect { .. }));
    let asked = rig.called.len();
    assert!((2..=20).contains(&asked), "asked {asked} times");
    // Stopped and started again, it asks on.
    rig.machine.on_stop(rig.now);
    rig.settle();
    assert!(rig.stopped && !rig.removed);
    let rig = cluster.rigs.remove(&ids[2]).expect("the third").restart();
    cluster.rigs.insert(ids[2], rig);
    cluster.pass(SECOND_US);
    assert!(!cluster.at(ids[2]).removed);
    // The removal becomes true.
    let remove = Op::MachineRemove {
        name: settings(3).name,
        for_good: false,
    };
    assert_eq!(cluster.done(ids[0], remove), Outcome::Removed);
    cluster.pass(SECOND_US);
    assert!(cluster.at(ids[2]).removed);
}

/// A member that is removed learns of it from its log, and asks at once.
#[test]
fn protocol_13_a_removed_member_is_wiped_within_a_second() {
    let mut cluster = cluster(3, settings(1));
    let ids = cluster.ids();
    let remove = |number: u16| Op::MachineRemove {
        name: settings(number).name,
        for_good: false,
    };
    assert_eq!(cluster.done(ids[0], remove(3)), Outcome::Removed);
    cluster.pass(SECOND_US / 10);
    assert!(cluster.at(ids[2]).removed);
    // The leader removes itself: the others apply that with the next leader's first entry.
    cluster.done(ids[0], remove(1));
    cluster.pass(SECOND_US);
    assert!(cluster.at(ids[0]).removed);
}
