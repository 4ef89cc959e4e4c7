//! `-max-store-bytes`: what would make the key space larger is refused, everything else goes on.
use super::cluster::cluster;
use super::rig::*;
use super::single::failed;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::error::Code;
use tern::core::machine::*;

const BYTES_MAX: u64 = 100_000;

fn bounded() -> Rig {
    let mut settings = settings(1);
    settings.store_bytes_max = Some(BYTES_MAX);
    Rig::serving(settings)
}

fn value(bytes: usize) -> String {
    "x".repeat(bytes)
}

pub fn delete(path: &str) -> Op {
    Op::Write(Command::Delete {
        path: KeyPath::new(path),
        dir: false,
        recursive: true,
    })
}

/// The reports about the room, in order.
fn reports(rig: &Rig) -> Vec<&'static str> {
    let facts = rig.facts.iter();
    let report = |fact: &Fact| match fact {
        Fact::StoreFull { .. } => Some("full"),
        Fact::StoreHasRoom => Some("room"),
        _ => None,
    };
    facts.filter_map(report).collect()
}

fn is_full(rig: &mut Rig, op: Op) -> bool {
    match rig.done(op) {
        Outcome::Event(_) => false,
        other => {
            assert_eq!(other, failed(Code::RaftInternal, "store full"));
            true
        }
    }
}

#[test]
fn a_full_store_refuses_what_makes_it_larger() {
    let mut rig = bounded();
    let mut count = 0;
    while !is_full(&mut rig, set(&format!("/dir/{count}"), &value(1_000))) {
        count += 1;
        assert!(count < 200, "it is never full");
    }
    assert!(count > 50, "{count}");
    assert!(is_full(&mut rig, set("/dir/more", &value(1_000))));
    assert_eq!(reports(&rig), ["full"], "one for all refusals");
    let bytes = rig.machine.store().expect("a member").bytes();
    assert!((BYTES_MAX - 1_200..=BYTES_MAX).contains(&bytes), "{bytes}");
    // A value that is no longer than the one before.
    assert!(!is_full(&mut rig, set("/dir/0", &value(1_000))));
    assert!(!is_full(&mut rig, set("/dir/0", &value(900))));
    assert!(is_full(&mut rig, set("/dir/1", &value(2_000))));
    // A deletion makes room.
    assert!(!is_full(&mut rig, delete("/dir/2")));
    assert!(!is_full(&mut rig, set("/other", &value(900))));
    assert!(!is_full(&mut rig, delete("/dir")));
    rig.settle();
    assert!(!is_full(&mut rig, set("/other", &value(50_000))));
    assert!(!is_full(&mut rig, delete("/other")));
    rig.settle();
    assert_eq!(reports(&rig), ["full", "room"]);
    let bytes = rig.machine.store().expect("a member").bytes();
    assert!(bytes < 1_500, "the key space is as at first: {bytes}");
}

/// Writes that are proposed at the same time count together.
#[test]
fn writes_under_way_count() {
    let mut rig = bounded();
    let tickets: Vec<Ticket> = (0..200)
        .map(|n| rig.ask(set(&format!("/{n}"), &value(1_000))))
        .collect();
    rig.settle();
    let mut written = 0;
    for ticket in tickets {
        written += usize::from(matches!(rig.answer(ticket), Outcome::Event(_)));
    }
    assert!((50..100).contains(&written), "{written}");
    assert!(rig.machine.store().expect("a member").bytes() <= BYTES_MAX);
}

/// What expires makes room.
#[test]
fn expiry_goes_on() {
    let mut rig = bounded();
    let lease = Op::Write(Command::Set {
        path: KeyPath::new("/lease"),
        value: Some(value(90_000).into()),
        lease: Some(Lease::of_seconds(5)),
    });
    assert!(!is_full(&mut rig, lease));
    assert!(is_full(&mut rig, set("/more", &value(50_000))));
    rig.pass(6 * SECOND_US);
    rig.settle();
    assert!(!is_full(&mut rig, set("/more", &value(50_000))));
}

fn update(path: &str, bytes: usize) -> Op {
    Op::Write(Command::Update {
        path: KeyPath::new(path),
        value: Some(value(bytes).into()),
        lease: None,
        refresh: false,
    })
}

/// A write that any key space would refuse is refused for its own reason.
#[test]
fn a_full_store_gives_the_reason_of_the_key_space() {
    let mut rig = bounded();
    let index = rig.put("/dir/key", &value(95_000));
    let compare = |prev_index| {
        Op::Write(Command::CompareAndSwap {
            path: KeyPath::new("/dir/key"),
            value: Some(value(99_990).into()),
            lease: None,
            prev_value: None,
            prev_index: Some(prev_index),
            or_create: false,
            refresh: false,
        })
    };
    let code_of = |outcome| match outcome {
        Outcome::Failed(error) => error.code,
        other => panic!("{other:?}"),
    };
    let long = 50_000;
    assert_eq!(code_of(rig.done(update("/none", long))), Code::KeyNotFound);
    assert_eq!(code_of(rig.done(update("/dir", long))), Code::NotAFile);
    assert_eq!(code_of(rig.done(set("/dir", &value(long)))), Code::NotAFile);
    assert_eq!(code_of(rig.done(compare(index + 1))), Code::CompareFailed);
    assert!(is_full(&mut rig, compare(index)));
    assert!(is_full(&mut rig, update("/dir/key", 99_990)));
}

/// A write that succeeds once a deletion before it is applied, both under way, is counted too.
#[test]
fn a_write_that_waits_for_a_deletion_counts() {
    for depends_on_parent in [false, true] {
        let mut rig = bounded();
        rig.put("/k", "file");
        rig.ask(delete("/k"));
        let path = if depends_on_parent { "/k/x/y" } else { "/k" };
        let create = |bytes| {
            Op::Write(Command::Create {
                path: KeyPath::new(path),
                value: Some(value(bytes).into()),
                lease: None,
                naming: Naming::Given,
            })
        };
        let first = rig.ask(create(60_000));
        let second = rig.ask(set("/other", &value(60_000)));
        rig.settle();
        assert!(matches!(rig.answer(first), Outcome::Event(_)));
        let full = failed(Code::RaftInternal, "store full");
        assert_eq!(rig.answer(second), full, "{path}");
        assert!(rig.machine.store().expect("a member").bytes() <= BYTES_MAX);
    }
}

/// A write that depends on one before it, both under way, is counted too.
#[test]
fn an_update_of_a_key_that_is_being_created_counts() {
    let mut rig = bounded();
    let mut tickets = Vec::new();
    for n in 0..4 {
        let path = format!("/{n}");
        tickets.push((rig.ask(set(&path, "short")), false));
        tickets.push((rig.ask(update(&path, 40_000)), n >= 2));
    }
    rig.settle();
    for (ticket, is_refused) in tickets {
        let outcome = rig.answer(ticket);
        let is_event = matches!(outcome, Outcome::Event(_));
        assert_eq!(is_event, !is_refused, "{outcome:?}");
    }
    assert!(rig.machine.store().expect("a member").bytes() <= BYTES_MAX);
}

/// A leader that is deposed and leads again does not count the writes that its log has lost.
#[test]
fn writes_that_were_truncated_do_not_count() {
    let mut settings = settings(1);
    settings.store_bytes_max = Some(BYTES_MAX);
    let mut cluster = cluster(3, settings);
    let first = cluster.leader();
    cluster.cut.push(first);
    for n in 0..80 {
        cluster.at(first).ask(set(&format!("/{n}"), &value(1_000)));
    }
    cluster.pass(2 * SECOND_US);
    // Its last entries are replaced, and it leads again when the others hear nothing.
    for _ in 0..20 {
        cluster.cut.clear();
        cluster.pass(2 * SECOND_US);
        let leader = cluster.leader();
        if leader == first {
            break;
        }
        cluster.cut.push(leader);
        cluster.pass(2 * SECOND_US);
    }
    assert_eq!(cluster.leader(), first, "it leads again");
    let outcome = cluster.done(first, set("/other", &value(60_000)));
    assert!(matches!(outcome, Outcome::Event(_)), "{outcome:?}");
}
