//! The log in memory is bounded by bytes, and by the live data.
use super::cluster::{assert_equal, cluster};
use super::rig::*;
use super::single::failed;
use super::store_full::delete;
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::memory::MemoryBounds;
use tern::core::raft::{Index, PeerId};

fn device() -> Settings {
    let mut settings = settings(1);
    settings.memory = MemoryBounds::of(32 << 20);
    settings
}

fn logged(rig: &Rig) -> u64 {
    rig.machine.raft().expect("a member").log_memory_bytes()
}

/// 100 kB values over ten keys: a snapshot comes long before `snapshot_count` entries.
#[test]
fn large_values_over_few_keys_do_not_fill_the_memory() {
    let mut rig = Rig::serving(device());
    let value = "x".repeat(100_000);
    let mut most = 0;
    for n in 0..200 {
        rig.put(&format!("/k/{}", n % 10), &value);
        most = most.max(logged(&rig));
    }
    assert!(most < 4 << 20, "{most}");
    assert!(rig.disk.snapshots.len() == 2, "several were written");
}

/// While the disk has no room for snapshots, the log in memory grows to its bound. Then values are
/// refused, and deletions are not. It takes values again seconds after there is room.
#[test]
fn a_log_that_no_snapshot_releases_takes_no_more_values() {
    let mut rig = Rig::serving(device());
    rig.snapshots_fail = true;
    let value = "x".repeat(100_000);
    let mut written = 0;
    let refusal = loop {
        match rig.done(set(&format!("/k/{}", written % 10), &value)) {
            Outcome::Event(_) => written += 1,
            refusal => break refusal,
        }
        assert!(written < 200, "it is never refused");
    };
    assert_eq!(refusal, failed(Code::RaftInternal, "disk full"));
    let bounds = MemoryBounds::of(32 << 20);
    // A restart would read all of it. Memory need not hold it.
    assert!(written * 100_000 > bounds.log_bytes_max - 100_000);
    assert!(written * 100_000 < bounds.log_bytes_max + 100_000);
    assert!(logged(&rig) < 2 * bounds.lone_log_bytes + 200_000);
    let index = rig.machine.applied();
    assert!(matches!(rig.done(delete("/k/1")), Outcome::Event(_)));
    assert!(rig.machine.applied() > index && index > Index(0));

    rig.snapshots_fail = false;
    rig.pass(6 * SECOND_US);
    rig.settle();
    rig.pass(SECOND_US);
    assert!(matches!(rig.done(set("/k/1", &value)), Outcome::Event(_)));
    assert!(logged(&rig) < bounds.due_bytes_max, "{}", logged(&rig));
}

/// `-snapshot=false`: only a full log makes a snapshot due. The first one fails, and the next one is due
/// all the same, though the log has not grown since.
#[test]
fn a_failed_snapshot_of_a_full_log_is_written_again() {
    let mut settings = device();
    settings.snapshots = false;
    let mut rig = Rig::serving(settings);
    rig.snapshots_fail = true;
    let value = "x".repeat(100_000);
    let mut written = 0;
    while let Outcome::Event(_) = rig.done(set("/k", &value)) {
        written += 1;
        assert!(written < 200, "it is never refused");
    }
    rig.snapshots_fail = false;
    rig.pass(61 * SECOND_US);
    rig.pass(SECOND_US);
    assert!(matches!(rig.done(set("/k", &value)), Outcome::Event(_)));
}

/// A lone machine holds few of the entries that it has applied. A machine that joins it needs them: it
/// gets a snapshot that becomes due for it.
#[test]
fn a_lone_machine_holds_no_long_log() {
    let mut settings = settings(1);
    settings.memory.lone_log_bytes = 10_000;
    let mut cluster = cluster(1, settings);
    let founder = cluster.leader();
    let leader = cluster.at(founder);
    let first = leader.disk.snapshots[0].0.index;
    for n in 0..300 {
        leader.put(&format!("/dir/{n}"), &"v".repeat(500));
        assert!(logged(leader) < 22_000, "{}", logged(leader));
    }
    assert!(logged(leader) >= 9_000, "{}", logged(leader));
    let newest = leader.disk.snapshots.last().map(|(meta, _)| meta.index);
    assert_eq!(newest, Some(first), "none was due");
    let id = cluster.join(2, 2);
    let mut passed = 0;
    while cluster.at(id).disk.snapshots.is_empty() {
        cluster.pass(SECOND_US);
        passed += 1;
        assert!(passed < 100, "it gets no snapshot");
    }
    let last = cluster.at(founder).disk.snapshots.last();
    assert!(last.is_some_and(|(meta, _)| meta.index > first));
    // The newcomer may need all that follows.
    for n in 0..300 {
        cluster.done(founder, set(&format!("/dir/{n}"), &"w".repeat(500)));
    }
    assert!(logged(cluster.at(founder)) > 150_000);
    cluster.pass(5 * SECOND_US);
    assert_equal(&cluster);
}

/// The disk has no room for the snapshot that a machine needs that joins. It waits for seconds only once
/// there is room.
#[test]
fn a_snapshot_that_a_peer_needs_is_tried_again_soon() {
    let mut settings = settings(1);
    settings.memory.lone_log_bytes = 10_000;
    let mut cluster = cluster(1, settings);
    let founder = cluster.leader();
    let leader = cluster.at(founder);
    for n in 0..300 {
        leader.put(&format!("/dir/{n}"), &"v".repeat(500));
    }
    leader.snapshots_fail = true;
    let id = cluster.join(2, 2);
    cluster.pass(SECOND_US);
    assert!(cluster.at(founder).snapshot_log.contains(&"fail"));
    cluster.at(founder).snapshots_fail = false;
    let index = cluster.at(founder).disk.snapshots[0].0.index;
    cluster.pass(6 * SECOND_US);
    let newest = cluster.at(founder).disk.snapshots.last();
    assert!(newest.is_some_and(|(meta, _)| meta.index > index));
    let mut rounds = 0;
    while cluster.at(id).disk.snapshots.is_empty() {
        cluster.round();
        rounds += 1;
        assert!(rounds < 10_000, "it gets no snapshot");
    }
}

/// A snapshot is saved after memory has released the entry that it ends with.
#[test]
fn a_lone_machine_saves_a_snapshot_beside_writes() {
    let mut settings = settings(1);
    settings.memory.lone_log_bytes = 1_000;
    settings.snapshot_count = 100;
    let mut rig = Rig::serving(settings);
    let value = "x".repeat(10_000);
    for n in 0..1_000 {
        rig.ask(set(&format!("/k/{}", n % 100), &value));
        rig.turn();
        rig.sync();
    }
    rig.settle();
    assert!(rig.disk.snapshots.len() == 2, "several were written");
    let index = rig.machine.applied();
    let mut rig = rig.restart();
    rig.settle();
    assert!(rig.machine.applied() > index);
    assert_eq!(rig.value("/k/99"), Some(value));
}

/// The copies for a snapshot may take much less than the log. It is written all the same while
/// clients change the nodes that it reads last.
#[test]
fn a_snapshot_ends_before_its_copies_take_too_much() {
    let mut settings = settings(1);
    settings.memory.copies_bytes = 512 << 10;
    settings.history_events = 10;
    let mut rig = Rig::serving(settings);
    let value = "x".repeat(10_000);
    let saved = |rig: &Rig| {
        let is_saved = |fact: &&Fact| matches!(fact, Fact::SnapshotSaved { .. });
        rig.facts.iter().filter(is_saved).count()
    };
    let keys = 2_000;
    for n in 0..keys {
        rig.put(&format!("/k/{n:04}"), &value);
    }
    let is_abandoned = |fact: &Fact| matches!(fact, Fact::SnapshotAbandoned { .. });
    let mut n = 0;
    while saved(&rig) < 2 {
        n += 1;
        rig.ask(set(&format!("/k/{:04}", keys - 1 - n % keys), &value));
        rig.turn();
        rig.sync();
        assert!(!rig.facts.iter().any(is_abandoned), "after {n} writes");
        assert!(n < 10 * keys, "no snapshot is saved");
    }
}

/// Clients fill the bound on uncommitted bytes. A node that is due is expired with the next commit
/// all the same.
#[test]
fn a_node_expires_beside_clients_that_fill_the_queue_of_the_disk() {
    let mut rig = Rig::serving(device());
    rig.done(set_for("/short", 1_000));
    let value = "x".repeat(100_000);
    let mut taken = 0;
    loop {
        let ticket = rig.ask(set(&format!("/k/{}", taken % 5), &value));
        rig.turn();
        if !rig.take_answers(ticket).is_empty() {
            break;
        }
        taken += 1;
        assert!(taken < 200, "it is never refused");
    }
    rig.now.mono_us += 2 * SECOND_US;
    rig.now.wall_ns += 2_000_000_000;
    rig.machine.on_time(rig.now);
    rig.settle();
    assert_eq!(rig.value("/short"), None);
}

/// A founder that has written a snapshot, in a log of 100 kB.
fn founder_with_snapshot() -> (Cluster, PeerId) {
    let mut settings = device();
    settings.snapshot_count = 20;
    settings.memory.log_bytes_max = 100_000;
    settings.memory.log_bytes_kept = 20_000;
    settings.memory.due_bytes_min = 30_000;
    settings.memory.uncommitted_bytes_max = 20_000;
    let mut cluster = cluster(1, settings);
    let founder = cluster.leader();
    for n in 0..100 {
        cluster.done(founder, set(&format!("/dir/{n}"), &"v".repeat(1_000)));
    }
    assert!(!cluster.at(founder).disk.snapshots.is_empty());
    (cluster, founder)
}

/// A newcomer joins, and gets nothing yet.
fn let_in(cluster: &mut Cluster, founder: PeerId) -> PeerId {
    let leader = cluster.at(founder);
    let newcomer = Settings {
        memory: leader.settings.memory,
        ..super::rig::settings(2)
    };
    let Outcome::Joined(id) = leader.done(join(&newcomer, 2)) else {
        panic!("it is let in");
    };
    let id = PeerId(id.0);
    let newcomer = Rig::let_in(newcomer, id, leader.now);
    cluster.rigs.insert(id, newcomer);
    id
}

/// The newcomer gets the first chunks of the snapshot.
fn begin_transfer(cluster: &mut Cluster, newcomer: PeerId) {
    for _ in 0..10 {
        cluster.round();
    }
    assert!(cluster.at(newcomer).snapshot_log.contains(&"receive"));
    assert!(cluster.at(newcomer).disk.snapshots.is_empty());
}

const VALUE_BYTES: usize = 10_000;

/// Writes values until one is held; its ticket.
fn fill_log(leader: &mut Rig) -> Ticket {
    let value = "x".repeat(VALUE_BYTES);
    loop {
        let ticket = leader.ask(set("/k", &value));
        leader.settle();
        if leader.take_answers(ticket).is_empty() {
            return ticket;
        }
        assert!(logged(leader) < 200_000, "it is never held");
    }
}

/// The log fills its memory behind a snapshot that a newcomer takes no further. Values wait, and nodes
/// expire (simulator seed 5517 of 9daf6f5). Once the newcomer is silent, the log is released, and the
/// values are taken: nothing else would end the wait, as a log that does not grow gets no snapshot.
#[test]
fn a_snapshot_that_is_sent_keeps_the_log_no_longer_than_its_receiver_is_heard() {
    let (mut cluster, founder) = founder_with_snapshot();
    cluster.at(founder).done(set_for("/short", 1_000));
    let newcomer = let_in(&mut cluster, founder);
    begin_transfer(&mut cluster, newcomer);

    // From now on nothing reaches the newcomer.
    let leader = cluster.at(founder);
    let held = fill_log(leader);
    leader.pass(2 * SECOND_US);
    assert_eq!(leader.value("/short"), None);
    leader.pass(2 * SECOND_US);
    assert!(matches!(leader.answer(held), Outcome::Event(_)));
    assert!(logged(leader) < 100_000, "{} bytes", logged(leader));
}

/// Values wait for a full log. A deletion that waited behind them for the commit of other deletions is
/// carried out before them.
#[test]
fn a_held_deletion_does_not_wait_for_values() {
    let (mut cluster, founder) = founder_with_snapshot();
    let newcomer = let_in(&mut cluster, founder);
    begin_transfer(&mut cluster, newcomer);
    let leader = cluster.at(founder);
    let value = fill_log(leader);
    // More deletions than may be uncommitted.
    let path = |n| format!("/{n}{}", "k".repeat(10_000));
    let deletions: Vec<Ticket> = (0..4).map(|n| leader.ask(delete(&path(n)))).collect();
    leader.settle();
    for deletion in deletions {
        let outcome = leader.answer(deletion);
        assert!(matches!(outcome, Outcome::Failed(e) if e.code == Code::KeyNotFound));
    }
    assert_eq!(leader.take_answers(value), []);
}

/// The disk of a newcomer hangs, and its heartbeats go on. The values of the cluster wait for it for
/// seconds only. When its disk works again, it gets a newer snapshot and what follows.
#[test]
fn a_snapshot_that_gets_no_further_keeps_the_log_for_seconds() {
    let (mut cluster, founder) = founder_with_snapshot();
    let newcomer = let_in(&mut cluster, founder);
    begin_transfer(&mut cluster, newcomer);
    cluster.at(newcomer).snapshots_are_slow = true;
    fill_log(cluster.at(founder));
    cluster.pass(32 * SECOND_US);
    for n in 0..100 {
        let value = "x".repeat(VALUE_BYTES);
        let outcome = cluster.done(founder, set("/k", &value));
        assert!(matches!(outcome, Outcome::Event(_)), "{n}: {outcome:?}");
    }
    assert!(logged(cluster.at(founder)) < 110_000);
    cluster.at(newcomer).snapshots_are_slow = false;
    cluster.done(founder, set("/last", "v"));
    let mut rounds = 0;
    while cluster.at(newcomer).disk.snapshots.is_empty() {
        cluster.round();
        rounds += 1;
        assert!(rounds < 100_000, "it gets no other snapshot");
    }
    cluster.pass(5 * SECOND_US);
    assert_eq!(cluster.at(newcomer).value("/last").as_deref(), Some("v"));
    assert_equal(&cluster);
}

/// Writes that are held fill each gap that a commit leaves. A join and a change of the config do not
/// wait behind them: they are short and few.
#[test]
fn changes_of_the_cluster_are_not_kept_off_by_writes() {
    let mut settings = device();
    settings.memory.uncommitted_bytes_max = 50_000;
    let mut cluster = cluster(2, settings);
    let id = cluster.leader();
    let leader = cluster.at(id);
    let value = "x".repeat(20_000);
    let mut ask = || leader.ask(set("/k", &value));
    let writes: Vec<Ticket> = (0..20).map(|_| ask()).collect();
    let config = Op::ConfigPut {
        active_size: Some(5.0),
        remove_delay_s: None,
        sync_interval_s: None,
    };
    let config = leader.ask(config);
    let join = leader.ask(join(&super::rig::settings(3), 3));
    leader.turn();
    let members = leader.machine.configuration();
    assert!(members.by_name("node3").is_some(), "it is appended");
    cluster.settle();
    let leader = cluster.at(id);
    assert!(matches!(leader.answer(config), Outcome::Config(_)));
    assert!(matches!(leader.answer(join), Outcome::Joined(_)));
    for write in writes {
        assert!(matches!(leader.answer(write), Outcome::Event(_)));
    }
}
