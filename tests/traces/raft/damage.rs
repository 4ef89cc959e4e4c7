//! A trace that no script holds: every pattern of damage.
use super::*;

/// Three members with four entries each, every pattern of good and damaged ones: where an intact
/// copy of each entry is left, all members recover; where an entry is lost, no member leads and
/// nothing is invented.
#[test]
fn every_pattern_of_damage() {
    let (mut recovered, mut refused) = (0, 0);
    for pattern in 0..1_u32 << 12 {
        let mut world = World::default();
        for id in 1..=3_u32 {
            let bad = (0..4).filter(|i| pattern >> (4 * (id - 1) + i) & 1 == 1);
            let list: Vec<String> = bad.map(|i| (i + 4).to_string()).collect();
            let line = format!(
                "node {id} 3 log=2,2,2,2 commit=7 damaged={}",
                list.join(",")
            );
            world.command(&line);
        }
        for _ in 0..20 {
            world.command("run 50");
            world.trace.clear();
            if world.nodes.values().all(|n| n.applied >= Index(8)) {
                break;
            }
        }
        let lost = (0..4).any(|i| (0..3).all(|id| pattern >> (4 * id + i) & 1 == 1));
        let leads = |n: &Node| {
            n.raft
                .as_ref()
                .is_some_and(|r| r.role() == RaftRole::Leader)
        };
        let led = world.nodes.values().any(leads);
        assert_eq!(led, !lost, "pattern {pattern:012b}");
        let whole = world.nodes.values().all(|n| n.applied >= Index(8));
        assert_eq!(whole, !lost, "pattern {pattern:012b}");
        if lost { refused += 1 } else { recovered += 1 }
    }
    assert_eq!((recovered, refused), (2401, 1695));
}
