//! The log in memory is bounded by bytes, and by the live data.
use super::rig::*;
use super::single::failed;
use super::store_full::delete;
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::memory::MemoryBounds;
use tern::core::raft::Index;

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
/// refused, and deletions are not.
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
    assert!(logged(&rig) > bounds.log_bytes_max, "{}", logged(&rig));
    assert!(logged(&rig) < bounds.log_bytes_max + 200_000);
    let index = rig.machine.applied();
    assert!(matches!(rig.done(delete("/k/1")), Outcome::Event(_)));
    assert!(rig.machine.applied() > index && index > Index(0));

    rig.snapshots_fail = false;
    rig.pass(61 * SECOND_US);
    rig.settle();
    assert!(matches!(rig.done(set("/k/1", &value)), Outcome::Event(_)));
    assert!(logged(&rig) < bounds.due_bytes_max, "{}", logged(&rig));
}
