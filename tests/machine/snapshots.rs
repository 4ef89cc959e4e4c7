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
    assert!(matches!(rig.effects.snapshot[0], SnapshotOut::Begin(_)));
    rig.machine.on_snapshot(rig.now, SnapshotIn::Failed);
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
