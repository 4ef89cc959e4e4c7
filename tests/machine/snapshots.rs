//! Snapshots: written in slices while writes go on, restored, released; given up when the disk has
//! no room.
use super::rig::*;
use tern::core::machine::*;

fn often() -> Settings {
    Settings {
        snapshot_count: 50,
        ..settings(1)
    }
}

#[test]
fn writes_go_on_while_a_snapshot_is_written() {
    let mut rig = Rig::serving(Settings {
        snapshot_count: 6_000,
        ..settings(1)
    });
    let value = "x".repeat(200);
    for n in 0..5_995 {
        rig.ask(set(&format!("/dir/{n:05}"), &value));
    }
    rig.settle();
    assert!(rig.snapshot_log.is_empty());
    for n in 0..20 {
        rig.ask(set("/during", &n.to_string()));
        rig.turn();
        rig.sync();
    }
    assert!(!rig.snapshot_log.contains(&"finish"), "it takes its time");
    rig.pass(SECOND_US);
    rig.settle();
    let chunks = rig.snapshot_log.iter().filter(|k| **k == "chunk").count();
    assert!(chunks > 5, "in slices: {chunks}");
    assert_eq!(rig.snapshot_log.last(), Some(&"finish"));
    let index = rig.disk.snapshots.last().expect("saved").0.index;
    let during = rig.value("/during");
    assert_eq!(during.as_deref(), Some("19"));
    let hash = rig.machine.store().expect("a member").state_hash();
    let mut rig = rig.restart();
    rig.settle();
    assert!(rig.machine.applied() > index);
    assert_eq!(rig.value("/during"), during);
    assert_eq!(rig.value("/dir/05994").as_deref(), Some(&*value));
    assert_eq!(rig.machine.store().expect("a member").state_hash(), hash);
}

#[test]
fn the_log_behind_the_older_snapshot_is_released() {
    let mut rig = Rig::serving(often());
    for n in 0..1_000 {
        rig.put("/foo", &n.to_string());
    }
    assert_eq!(rig.disk.snapshots.len(), 2);
    let older = rig.disk.snapshots[0].0.index;
    assert!(older.0 > 500);
    assert!(rig.disk.log.first() > older.0);
    let mut rig = rig.restart();
    rig.settle();
    assert_eq!(rig.value("/foo").as_deref(), Some("999"));
    // History travels with the snapshot.
    let ticket = rig.ask(watch("/foo", false, Some(500)));
    rig.settle();
    assert!(matches!(
        rig.answer(ticket),
        Outcome::Backlog { done: true, .. }
    ));
}

#[test]
fn a_snapshot_that_cannot_be_written_is_tried_again_later() {
    let mut rig = Rig::serving(often());
    for n in 0..47 {
        rig.ask(set("/foo", &n.to_string()));
    }
    rig.settle();
    rig.ask(set("/foo", "due"));
    rig.ask(set("/foo", "due"));
    rig.turn();
    rig.sync();
    rig.effects.clear();
    rig.machine.advance(rig.now, &mut rig.effects);
    let SnapshotOut::Begin(meta) = &rig.effects.snapshot[0] else {
        panic!("a snapshot is due");
    };
    let index = meta.index;
    rig.machine
        .on_snapshot(rig.now, SnapshotIn::Failed { index });
    let entries = rig.disk.log.records().count();
    rig.put("/foo", "soon after");
    assert!(rig.snapshot_log.is_empty());
    assert_eq!(rig.disk.log.records().count(), entries + 1);
    rig.now.mono_us += 61 * SECOND_US;
    rig.put("/foo", "later");
    assert_eq!(rig.snapshot_log.last(), Some(&"finish"));
}

#[test]
fn a_snapshot_of_nothing_new_is_not_taken() {
    let mut rig = Rig::serving(Settings {
        snapshots: false,
        ..often()
    });
    for n in 0..200 {
        rig.put("/foo", &n.to_string());
    }
    assert!(rig.snapshot_log.is_empty());
    rig.machine.on_space(rig.now, Space::Low);
    rig.settle();
    assert_eq!(rig.snapshot_log.last(), Some(&"finish"));
    let count = rig.snapshot_log.len();
    rig.pass(600 * SECOND_US);
    assert_eq!(rig.snapshot_log.len(), count);
}

/// The bytes of the slices that the machine hands out within `us` while the disk takes them and reports
/// nothing, and the last slices and the end of the snapshot.
fn encoded_within(rig: &mut Rig, us: u64) -> (u64, bool) {
    let (mut bytes, mut is_whole) = (0, false);
    let end_us = rig.now.mono_us + us;
    while rig.now.mono_us < end_us {
        rig.effects.clear();
        rig.machine.advance(rig.now, &mut rig.effects);
        for out in rig.effects.snapshot.drain(..) {
            match out {
                SnapshotOut::Chunk(chunk) => bytes += chunk.len() as u64,
                SnapshotOut::Finish => is_whole = true,
                _ => {}
            }
        }
        rig.now.mono_us += 1_000;
        rig.machine.on_time(rig.now);
    }
    (bytes, is_whole)
}

/// A disk that is slower than the pace of a snapshot holds it back, and the machine does not ask for
/// turns meanwhile.
#[test]
fn a_snapshot_waits_for_the_disk() {
    let mut rig = Rig::serving(Settings {
        snapshot_count: 3_000,
        ..settings(1)
    });
    let value = "x".repeat(1_000);
    for n in 0..2_995 {
        rig.ask(set(&format!("/dir/{n:05}"), &value));
    }
    rig.settle();
    assert!(rig.snapshot_log.is_empty());
    for n in 0..5 {
        rig.ask(set("/due", &n.to_string()));
    }
    rig.turn();
    rig.sync();
    let (waiting, is_whole) = encoded_within(&mut rig, 10 * SECOND_US);
    let bound = 1 << 20;
    assert!((bound..bound + 40_000).contains(&waiting), "{waiting}");
    assert!(!is_whole && !rig.machine.wants_turn());
    let mut all = waiting;
    for waiting_bytes in [bound, bound / 2, 0] {
        let written = SnapshotIn::Written { waiting_bytes };
        rig.machine.on_snapshot(rig.now, written);
        let (more, _) = encoded_within(&mut rig, SECOND_US);
        assert_eq!(more > 0, waiting_bytes < bound, "{waiting_bytes}");
        all += more;
    }
    assert!(all > 2 * bound, "{all}");
}

#[test]
fn a_failure_of_a_snapshot_that_was_given_up_is_not_that_of_the_next_one() {
    let mut rig = Rig::serving(often());
    for n in 0..49 {
        rig.ask(set("/foo", &n.to_string()));
    }
    rig.settle();
    rig.ask(set("/foo", "due"));
    rig.effects.clear();
    rig.turn();
    let index = tern::core::raft::Index(3);
    let late = SnapshotIn::Failed { index };
    rig.machine.on_snapshot(rig.now, late);
    rig.settle();
    assert_eq!(rig.snapshot_log.last(), Some(&"finish"));
    assert!(
        !rig.facts
            .iter()
            .any(|fact| matches!(fact, Fact::SnapshotAbandoned { .. }))
    );
}

/// A disk that writes a snapshot more slowly than the log grows: the owner is asked to wait for it
/// before a write is refused, and until the log is released.
#[test]
fn a_late_snapshot_is_waited_for_before_a_write_is_refused() {
    let memory = tern::core::memory::MemoryBounds::of(32 << 20);
    let mut rig = Rig::serving(Settings {
        memory,
        ..settings(1)
    });
    let value = "x".repeat(10_000);
    let mut writes = 0;
    let mut put = |rig: &mut Rig| {
        writes += 1;
        rig.put(&format!("/dir/{}", writes % 50), &value);
    };
    rig.snapshots_are_slow = true;
    while !rig.machine.is_snapshot_late() {
        put(&mut rig);
    }
    let turn_bytes = memory.uncommitted_bytes_max;
    for _ in 0..turn_bytes / 11_000 {
        put(&mut rig);
        assert!(rig.machine.is_snapshot_late());
    }
    rig.snapshots_are_slow = false;
    rig.settle();
    rig.pass(10 * SECOND_US);
    assert!(rig.snapshot_log.contains(&"finish"));
    put(&mut rig);
    assert!(!rig.machine.is_snapshot_late());
}
