//! A cluster of one: writes, reads, watchers, expiry, restart, a full disk, the end.
use super::rig::*;
use tern::core::command::{ClusterConfig, Command, KeyPath};
use tern::core::error::{Code, Error};
use tern::core::machine::*;
use tern::core::raft::Persist;

fn failed(code: Code, cause: &str) -> Outcome {
    Outcome::Failed(Error::new(code, cause))
}

#[test]
fn a_new_cluster_begins_with_its_join_and_its_config() {
    let mut rig = Rig::serving(settings(1));
    assert_eq!(rig.machine.indexes().etcd.0, 2);
    assert_eq!(
        rig.value("/_etcd/machines/node1").as_deref(),
        Some("etcd=http%3A%2F%2F127.0.0.1%3A4001&raft=http%3A%2F%2F127.0.0.1%3A7001")
    );
    assert_eq!(
        rig.value("/_etcd/config").as_deref(),
        Some(r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#)
    );
    assert_eq!(rig.put("/foo", "bar"), 3);
    let ticket = rig.ask(watch("/", false, Some(1)));
    rig.settle();
    match rig.answer(ticket) {
        Outcome::Backlog { events, done: true } => {
            assert_eq!(&*events[0].node.key, "/_etcd/machines/node1");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn founding_is_a_pure_function_and_starting_twice_is_harmless() {
    let (one, two) = (
        Machine::bootstrap(&settings(1), 77, 5),
        Machine::bootstrap(&settings(1), 77, 5),
    );
    assert_eq!((one.meta, one.chunks), (two.meta, two.chunks));
    let mut rig = Rig::found(settings(1));
    rig.turn();
    let mut rig = rig.restart();
    rig.turn();
    rig.sync();
    let mut rig = rig.restart();
    rig.settle();
    assert_eq!(rig.put("/foo", "bar"), 3);
}

#[test]
fn nothing_is_promised_before_the_sync_and_one_sync_serves_all() {
    let mut rig = Rig::serving(settings(1));
    let tickets: Vec<Ticket> = (0..10)
        .map(|n| rig.ask(set("/foo", &n.to_string())))
        .collect();
    for _ in 0..3 {
        rig.turn();
        assert!(rig.answers.is_empty());
    }
    assert_eq!(rig.pending.len(), 1, "one batch: {:?}", rig.pending);
    let Persist::Append { entries, .. } = &rig.pending[0] else {
        panic!("{:?}", rig.pending);
    };
    assert_eq!(entries.len(), 10);
    // A plain read sees what is applied.
    assert_eq!(rig.ask(get("/foo")).0, 11);
    rig.turn();
    assert_eq!(rig.told(Ticket(11)).len(), 1);
    rig.sync();
    rig.turn();
    let order: Vec<Ticket> = rig.answers.iter().map(|a| a.ticket).collect();
    assert_eq!(order, tickets);
    let indexes: Vec<u64> = rig.answers.iter().map(|a| a.at.etcd.0).collect();
    assert_eq!(indexes, (3..13).collect::<Vec<u64>>());
}

#[test]
fn a_write_that_fails_when_it_is_applied_says_why() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    let swap = Op::Write(Command::CompareAndSwap {
        path: KeyPath::new("/foo"),
        value: Some("new".into()),
        expires_ns: None,
        prev_value: Some("other".into()),
        prev_index: 0,
        or_create: false,
        refresh: false,
    });
    let outcome = rig.done(swap);
    assert_eq!(outcome, failed(Code::CompareFailed, "[other != bar]"));
    assert_eq!(rig.machine.indexes().etcd.0, 3);
}

#[test]
fn a_restart_brings_back_what_was_answered_and_no_older_state() {
    let mut rig = Rig::serving(settings(1));
    for n in 0..20 {
        rig.put("/foo", &n.to_string());
    }
    let lost = rig.ask(set("/foo", "never synced"));
    rig.turn();
    assert!(rig.told(lost).is_empty());
    let mut rig = rig.restart();
    // It waits for its own election: the last entries may have been answered.
    let ticket = rig.ask(get("/foo"));
    rig.turn();
    assert!(rig.told(ticket).is_empty());
    rig.settle();
    assert!(matches!(rig.answer(ticket), Outcome::Page { .. }));
    assert_eq!(rig.value("/foo").as_deref(), Some("19"));
    assert_eq!(rig.put("/foo", "on"), 23);
    assert_eq!(
        rig.done(Op::ConfigGet),
        Outcome::Config(ClusterConfig::default())
    );
}

#[test]
fn linearizable_reads_need_no_entry() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    let ticket = rig.ask(read("/foo", false, true));
    rig.turn();
    assert!(rig.pending.is_empty());
    assert!(matches!(rig.answer(ticket), Outcome::Page { .. }));
}

#[test]
fn watchers_are_told_once_in_order_and_freed() {
    let mut rig = Rig::serving(settings(1));
    let poll = rig.ask(watch("/dir", false, None));
    let stream = rig.ask(watch("/dir", true, None));
    let elsewhere = rig.ask(watch("/other", true, None));
    for ticket in [poll, stream, elsewhere] {
        rig.turn();
        assert_eq!(rig.answer(ticket), Outcome::Watching);
    }
    rig.put("/dir/a", "1");
    rig.put("/dir/b", "2");
    assert_eq!(rig.delivered(poll), [("/dir/a".to_string(), 3)]);
    let both = [("/dir/a".to_string(), 3), ("/dir/b".to_string(), 4)];
    assert_eq!(rig.delivered(stream), both);
    assert!(rig.delivered(elsewhere).is_empty());
    let ends = |t: &(Ticket, bool)| t.1 == (t.0 == poll);
    assert!(rig.events.iter().all(|d| d.tickets.iter().all(ends)));
    rig.again(stream, Op::ClientClosed);
    rig.again(elsewhere, Op::ClientClosed);
    match rig.done(Op::StatsStore) {
        Outcome::StatsStore(stats) => assert_eq!(stats.watchers, 0),
        other => panic!("{other:?}"),
    }
    rig.put("/dir/c", "3");
    assert_eq!(rig.delivered(stream), both);
}

#[test]
fn a_stream_catches_up_before_it_goes_live() {
    let mut rig = Rig::serving(settings(1));
    for n in 0..5 {
        rig.put("/dir/a", &n.to_string());
    }
    let mut rig = rig.restart();
    rig.settle();
    let stream = rig.ask(watch("/dir", true, Some(4)));
    let mut seen = Vec::new();
    loop {
        rig.settle();
        match rig.answer(stream) {
            Outcome::Backlog { events, done } => {
                assert!(!done);
                if events.is_empty() {
                    break;
                }
                seen.extend(events.iter().map(|e| e.node.modified.0));
            }
            other => panic!("{other:?}"),
        }
        if seen.len() == 4 {
            rig.put("/dir/b", "while catching up");
            assert!(rig.delivered(stream).is_empty());
        }
        rig.again(stream, Op::ContinueListing);
    }
    assert_eq!(seen, [4, 5, 6, 7, 8]);
    rig.put("/dir/c", "live");
    assert_eq!(rig.delivered(stream), [("/dir/c".to_string(), 9)]);
}

#[test]
fn expiry_goes_through_the_log_and_an_idle_machine_writes_nothing() {
    let mut rig = Rig::serving(settings(1));
    assert_eq!(rig.machine.next_deadline(), u64::MAX);
    let entries = rig.disk.entries.len();
    rig.pass(60 * SECOND_US);
    assert_eq!(rig.disk.entries.len(), entries);

    let due_ns = rig.now.wall_ns + 2_000_000_000;
    for path in ["/a", "/b", "/c"] {
        rig.done(set_until(path, due_ns));
    }
    rig.done(set_until("/later", due_ns + 100_000_000));
    let poll = rig.ask(watch("/a", false, None));
    let entries = rig.disk.entries.len();
    assert_eq!(rig.machine.next_deadline(), rig.now.mono_us + 2 * SECOND_US);
    rig.pass(2 * SECOND_US - 1);
    assert_eq!(rig.disk.entries.len(), entries);
    rig.pass(1);
    assert_eq!(
        rig.disk.entries.len(),
        entries + 1,
        "one sync for all that is due"
    );
    assert_eq!(rig.value("/a"), None);
    assert_eq!(rig.delivered(poll), [("/a".to_string(), 7)]);
    // Not before half a second has passed.
    rig.pass(SECOND_US / 2 - 1);
    assert!(rig.value("/later").is_some());
    rig.pass(1);
    assert_eq!(rig.value("/later"), None);
    assert_eq!(rig.disk.entries.len(), entries + 2);
    assert_eq!(rig.machine.next_deadline(), u64::MAX);
}

#[test]
fn much_that_expires_at_once_goes_in_a_row() {
    let mut rig = Rig::serving(settings(1));
    let due_ns = rig.now.wall_ns + 1_000_000_000;
    for n in 0..2_500 {
        rig.ask(set_until(&format!("/{n}"), due_ns));
    }
    rig.settle();
    let entries = rig.disk.entries.len();
    rig.pass(SECOND_US);
    assert_eq!(rig.disk.entries.len(), entries + 3, "a thousand each");
    match rig.done(Op::StatsStore) {
        Outcome::StatsStore(stats) => assert_eq!(stats.expire_count, 2_500),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_client_writes_only() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    rig.machine.on_space(rig.now, Space::Low);
    assert_eq!(
        rig.done(set("/foo", "x")),
        failed(Code::RaftInternal, "disk full")
    );
    assert_eq!(rig.value("/foo").as_deref(), Some("bar"));
    let config = rig.done(Op::ConfigPut {
        active_size: Some(5.0),
        remove_delay_s: None,
        sync_interval_s: None,
    });
    assert!(matches!(config, Outcome::Config(c) if c.active_size == 5));
    assert!(
        rig.snapshot_log.contains(&"finish"),
        "the log is what can be spared"
    );
    rig.machine.on_space(rig.now, Space::Ok);
    assert_eq!(rig.put("/foo", "again"), 5);
    assert_eq!(
        rig.facts
            .iter()
            .filter(|f| matches!(f, Fact::DiskLow | Fact::DiskOk))
            .count(),
        2
    );
}

#[test]
fn stopping_finishes_what_is_under_way() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    let poll = rig.ask(watch("/foo", false, None));
    let elsewhere = rig.ask(watch("/other", false, None));
    rig.turn();
    rig.machine.on_stop(rig.now);
    rig.turn();
    assert!(!rig.stopped);
    let late = rig.ask(set("/foo", "late"));
    rig.turn();
    assert_eq!(rig.answer(late), failed(Code::RaftInternal, ""));
    rig.settle();
    assert!(rig.stopped);
    assert!(matches!(rig.answer(write), Outcome::Event(_)));
    assert_eq!(rig.told(poll), [Outcome::Watching]);
    assert_eq!(rig.delivered(poll), [("/foo".to_string(), 3)]);
    assert_eq!(rig.told(elsewhere), [Outcome::Watching, Outcome::WatchEnd]);
}

#[test]
fn stopping_does_not_wait_for_a_disk_for_ever() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    rig.turn();
    rig.machine.on_stop(rig.now);
    rig.turn();
    assert!(!rig.stopped);
    rig.now.mono_us = rig.machine.next_deadline();
    rig.machine.on_time(rig.now);
    rig.turn();
    assert!(rig.stopped);
    assert_eq!(
        rig.answer(write),
        failed(Code::RaftInternal, "outcome unknown")
    );
}

#[test]
fn a_write_whose_fate_is_open_for_five_seconds_is_told_so() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    rig.turn();
    rig.now.mono_us += 5 * SECOND_US - 1;
    rig.machine.on_time(rig.now);
    rig.turn();
    assert!(rig.told(write).is_empty());
    assert_eq!(rig.machine.next_deadline(), rig.now.mono_us + 1);
    rig.now.mono_us += 1;
    rig.machine.on_time(rig.now);
    rig.turn();
    assert_eq!(
        rig.answer(write),
        failed(Code::RaftInternal, "outcome unknown")
    );
    // It was carried out all the same.
    rig.sync();
    rig.settle();
    assert_eq!(rig.value("/foo").as_deref(), Some("bar"));
    assert!(rig.told(write).is_empty());
}

#[test]
fn the_config_is_kept_within_its_bounds() {
    let mut rig = Rig::serving(settings(1));
    let mut put = |size, delay, interval| {
        let op = Op::ConfigPut {
            active_size: size,
            remove_delay_s: delay,
            sync_interval_s: interval,
        };
        match rig.done(op) {
            Outcome::Config(c) => (c.active_size, c.remove_delay_ms, c.sync_interval_ms),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(put(Some(5.0), None, None), (5, 1_800_000, 5_000));
    assert_eq!(put(Some(7.0), Some(5.5), Some(2.5)), (7, 5_500, 2_500));
    assert_eq!(put(Some(1.0), None, None), (3, 5_500, 2_500));
    assert_eq!(put(None, Some(0.5), None), (3, 2_000, 2_500));
    assert_eq!(put(None, None, Some(0.1)), (3, 2_000, 1_000));
    assert_eq!(put(Some(5.9), None, None), (5, 2_000, 1_000));
    assert_eq!(put(None, None, None), (5, 2_000, 1_000));
    assert_eq!(rig.machine.indexes().etcd.0, 9, "each raises it");
    let shown = r#"{"activeSize":5,"removeDelay":2,"syncInterval":1}"#;
    assert_eq!(rig.value("/_etcd/config").as_deref(), Some(shown));
    // Two at once both count.
    rig.ask(Op::ConfigPut {
        active_size: Some(4.0),
        remove_delay_s: None,
        sync_interval_s: None,
    });
    rig.ask(Op::ConfigPut {
        active_size: None,
        remove_delay_s: Some(3.0),
        sync_interval_s: None,
    });
    rig.settle();
    let mut rig = rig.restart();
    rig.settle();
    let config = ClusterConfig {
        active_size: 4,
        remove_delay_ms: 3_000,
        sync_interval_ms: 1_000,
    };
    assert_eq!(rig.done(Op::ConfigGet), Outcome::Config(config));
}

#[test]
fn a_client_that_writes_to_the_view_of_the_config_changes_the_view_only() {
    let theirs = r#"{"activeSize":30,"removeDelay":7,"syncInterval":9}"#;
    for text in [theirs, "junk"] {
        let mut rig = Rig::serving(Settings {
            snapshot_count: 20,
            ..settings(1)
        });
        rig.done(Op::ConfigPut {
            active_size: Some(4.0),
            remove_delay_s: None,
            sync_interval_s: None,
        });
        rig.put("/_etcd/config", text);
        let config = ClusterConfig {
            active_size: 4,
            ..ClusterConfig::default()
        };
        assert_eq!(rig.done(Op::ConfigGet), Outcome::Config(config));
        for n in 0..100 {
            rig.put("/foo", &n.to_string());
        }
        assert!(
            rig.disk.snapshots.len() == 2,
            "the log does not tell it any more"
        );
        let etcd = rig.machine.indexes().etcd;
        let mut rig = rig.restart();
        rig.settle();
        assert_eq!(rig.done(Op::ConfigGet), Outcome::Config(config));
        assert_eq!(rig.value("/_etcd/config").as_deref(), Some(text));
        assert_eq!(
            rig.machine.indexes().etcd,
            etcd,
            "no second config is proposed"
        );
    }
}

#[test]
fn the_cluster_is_told_as_it_is() {
    let mut rig = Rig::serving(settings(1));
    let info = MachineInfo {
        name: "node1".into(),
        state: Role::Leader,
        client_url: "http://127.0.0.1:4001".into(),
        peer_url: "http://127.0.0.1:7001".into(),
    };
    assert_eq!(
        rig.done(Op::MachineList),
        Outcome::MachineList(vec![info.clone()])
    );
    assert_eq!(
        rig.done(Op::MachineGet {
            name: "node1".into()
        }),
        Outcome::Machine(info)
    );
    let none = rig.done(Op::MachineGet {
        name: "none".into(),
    });
    assert_eq!(none, failed(Code::KeyNotFound, "none"));
    let client_urls = vec!["http://127.0.0.1:4001".into()];
    assert_eq!(rig.done(Op::Machines), Outcome::Machines { client_urls });
    let peer_url = "http://127.0.0.1:7001".into();
    assert_eq!(rig.done(Op::Leader), Outcome::Leader { peer_url });
    let remove = |name: &str| Op::MachineRemove { name: name.into() };
    assert_eq!(rig.done(remove("none")), failed(Code::KeyNotFound, "none"));
    let last = failed(Code::RaftInternal, "the last voter cannot be removed");
    assert_eq!(rig.done(remove("node1")), last);
    let stats = LeaderStats {
        leader: "node1".into(),
        followers: Vec::new(),
    };
    assert_eq!(rig.done(Op::StatsLeader), Outcome::StatsLeader(stats));
    match rig.done(Op::StatsSelf) {
        Outcome::StatsSelf(stats) => {
            assert_eq!((&*stats.leader, stats.state), ("node1", Role::Leader));
            assert_eq!(stats.start_ns, EPOCH_NS);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn joins_are_judged() {
    let mut rig = Rig::serving(settings(1));
    let other = settings(2);
    let taken = Settings {
        peer_url: settings(1).peer_url,
        ..other.clone()
    };
    let at = "http://127.0.0.1:4002";
    assert_eq!(
        rig.done(join(&taken, 8)),
        failed(Code::PeerAddressExists, at)
    );
    let nameless = Settings {
        name: "".into(),
        ..other.clone()
    };
    let refused = rig.done(join(&nameless, 8));
    assert!(matches!(refused, Outcome::Failed(e) if e.code == Code::InvalidForm));
    // The living machine's name from another data directory.
    let at = "http://127.0.0.1:4001";
    assert_eq!(
        rig.done(join(&settings(1), 8)),
        failed(Code::PeerAddressExists, at)
    );
    // Its own again: nothing moves.
    assert_eq!(
        rig.done(join(&settings(1), 77)),
        Outcome::Joined(tern::core::raft::Index(1))
    );
    assert_eq!(rig.machine.indexes().etcd.0, 2);
    let moved = Settings {
        client_url: "http://127.0.0.1:9".into(),
        ..settings(1)
    };
    assert_eq!(
        rig.done(join(&moved, 77)),
        Outcome::Joined(tern::core::raft::Index(1))
    );
    assert_eq!(rig.machine.indexes().etcd.0, 3);
    let shown = rig.value("/_etcd/machines/node1").expect("shown");
    assert!(shown.starts_with("etcd=http%3A%2F%2F127.0.0.1%3A9&"));
    // Members that were let in count, though they never came.
    for number in 2..=9 {
        assert!(matches!(
            rig.done(join(&settings(number), 8)),
            Outcome::Joined(_)
        ));
    }
    assert_eq!(
        rig.done(join(&settings(10), 8)),
        failed(Code::NoMorePeer, "")
    );
    assert!(matches!(
        rig.done(join(&settings(9), 8)),
        Outcome::Joined(_)
    ));
}

#[test]
fn a_speed_test_is_ten_thousand_sets() {
    let mut rig = Rig::serving(settings(1));
    assert_eq!(rig.done(Op::SpeedTest), Outcome::SpeedTest);
    assert_eq!(rig.machine.indexes().etcd.0, 10_002);
    assert_eq!(rig.value("/foo").as_deref(), Some("bar"));
}

#[test]
fn a_listing_comes_in_pages_of_one_moment() {
    let mut rig = Rig::serving(settings(1));
    for n in 0..2_500 {
        rig.ask(set(&format!("/dir/{n:04}"), "old"));
    }
    rig.settle();
    let list = rig.ask(read("/dir", true, false));
    rig.turn();
    rig.answers.retain(|a| a.ticket == list);
    let mut items = Vec::new();
    let mut pages = 0;
    loop {
        match rig.answer(list) {
            Outcome::Page { items: page, last } => {
                assert!(page.len() <= 1_000);
                items.extend(page);
                pages += 1;
                if last {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
        for n in [0, 1500, 2400] {
            rig.put(&format!("/dir/{n:04}"), "new");
        }
        rig.put("/dir/9999", "new");
        rig.again(list, Op::ContinueListing);
        rig.turn();
    }
    assert_eq!((items.len(), pages), (2_501, 3));
    assert!(
        items[1..]
            .iter()
            .all(|i| i.view.value.as_deref() == Some("old"))
    );
    // Two at once: the second waits for the first, which is given up when its client stalls.
    let first = rig.ask(read("/dir", true, false));
    let second = rig.ask(read("/dir", true, false));
    rig.settle();
    assert!(matches!(
        rig.answer(first),
        Outcome::Page { last: false, .. }
    ));
    assert!(rig.told(second).is_empty());
    rig.pass(60 * SECOND_US - 1);
    assert!(rig.told(second).is_empty());
    let third = rig.ask(read("/dir", true, false));
    rig.pass(1);
    assert!(matches!(rig.answer(first), Outcome::Failed(_)));
    assert!(matches!(rig.answer(second), Outcome::Failed(_)));
    assert!(matches!(
        rig.answer(third),
        Outcome::Page { last: false, .. }
    ));
}

#[test]
fn the_migration_document_is_of_one_moment() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    let ticket = rig.ask(Op::Migrate);
    rig.settle();
    let Outcome::Page { items, last: true } = rig.answer(ticket) else {
        panic!("one page");
    };
    let keys: Vec<&str> = items.iter().map(|i| &*i.view.key).collect();
    let machines = [
        "/_etcd",
        "/_etcd/config",
        "/_etcd/machines",
        "/_etcd/machines/node1",
    ];
    assert_eq!(keys, [&["/"], &machines[..], &["/foo"]].concat());
    rig.put("/foo", "later");
    rig.again(ticket, Op::ContinueListing);
    rig.settle();
    match rig.answer(ticket) {
        Outcome::Migrated(rest) => {
            assert_eq!((rest.etcd.0, rest.events.len()), (3, 3));
            assert_eq!((rest.raft.0, rest.capacity), (4, 1000));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_goes_away_leaves_nothing_behind() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    let read = rig.ask(read("/foo", false, true));
    rig.again(write, Op::ClientClosed);
    rig.again(read, Op::ClientClosed);
    rig.settle();
    assert!(rig.answers.is_empty());
    assert_eq!(rig.value("/foo").as_deref(), Some("bar"));
}

#[test]
fn stopping_before_it_serves_answers_nothing_from_what_it_has() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    let mut rig = rig.restart();
    let ticket = rig.ask(get("/foo"));
    rig.machine.on_stop(rig.now);
    rig.settle();
    assert!(rig.stopped);
    assert_eq!(rig.answer(ticket), failed(Code::RaftInternal, ""));
}
