//! A cluster of one: writes, reads, watchers, expiry, restart, a full disk, the end.
use super::rig::*;
use tern::core::command::{ClusterConfig, Command, KeyPath};
use tern::core::error::{Code, Error};
use tern::core::machine::*;
use tern::core::raft::Persist;

pub fn failed(code: Code, cause: &str) -> Outcome {
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
    assert_eq!(rig.take_answers(Ticket(11)).len(), 1);
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
        lease: None,
        prev_value: Some("other".into()),
        prev_index: None,
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
    assert!(rig.take_answers(lost).is_empty());
    let mut rig = rig.restart();
    // It waits for its own election: the last entries may have been answered.
    let ticket = rig.ask(get("/foo"));
    rig.turn();
    assert!(rig.take_answers(ticket).is_empty());
    rig.settle();
    assert!(matches!(rig.answer(ticket), Outcome::Page { .. }));
    assert_eq!(rig.value("/foo").as_deref(), Some("19"));
    assert_eq!(rig.put("/foo", "on"), 23);
    assert_eq!(
        rig.done(Op::Query(Query::ConfigGet)),
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
fn watchers_get_events_once_in_order_and_are_freed() {
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
    match rig.done(Op::Query(Query::StatsStore)) {
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
    assert_eq!(next_deadline(&rig.machine), u64::MAX);
    let entries = rig.disk.log.records().count();
    rig.pass(60 * SECOND_US);
    assert_eq!(rig.disk.log.records().count(), entries);

    for path in ["/a", "/b", "/c"] {
        rig.done(set_for(path, 2_000));
    }
    rig.done(set_for("/later", 2_100));
    let poll = rig.ask(watch("/a", false, None));
    let entries = rig.disk.log.records().count();
    assert_eq!(next_deadline(&rig.machine), rig.now.mono_us + 2 * SECOND_US);
    rig.pass(2 * SECOND_US - 1);
    assert_eq!(rig.disk.log.records().count(), entries);
    rig.pass(1);
    assert_eq!(
        rig.disk.log.records().count(),
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
    assert_eq!(rig.disk.log.records().count(), entries + 2);
    assert_eq!(next_deadline(&rig.machine), u64::MAX);
}

#[test]
fn keys_that_expire_together_go_a_thousand_at_a_time() {
    let mut rig = Rig::serving(settings(1));
    for n in 0..2_500 {
        rig.ask(set_for(&format!("/{n}"), 1_000));
    }
    rig.settle();
    let entries = rig.disk.log.records().count();
    rig.pass(SECOND_US);
    assert_eq!(
        rig.disk.log.records().count(),
        entries + 3,
        "a thousand each"
    );
    match rig.done(Op::Query(Query::StatsStore)) {
        Outcome::StatsStore(stats) => assert_eq!(stats.expire_count, 2_500),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_client_writes_only() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    rig.machine.on_space(rig.now, Space::Low);
    // The rest of a segment: clients' entries leave 1 MiB of it to those that keep the cluster
    // going.
    rig.machine.on_room((1 << 20) - 1);
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
    rig.machine.on_room(16 << 20);
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
    assert_eq!(rig.take_answers(poll), [Outcome::Watching]);
    assert_eq!(rig.delivered(poll), [("/foo".to_string(), 3)]);
    assert_eq!(
        rig.take_answers(elsewhere),
        [Outcome::Watching, Outcome::WatchEnd]
    );
}

#[test]
fn stopping_does_not_wait_for_a_disk_for_ever() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    rig.turn();
    rig.machine.on_stop(rig.now);
    rig.turn();
    assert!(!rig.stopped);
    rig.now.mono_us = next_deadline(&rig.machine);
    rig.machine.on_time(rig.now);
    rig.turn();
    assert!(rig.stopped);
    assert_eq!(
        rig.answer(write),
        failed(Code::RaftInternal, "outcome unknown")
    );
}

#[test]
fn a_write_undecided_for_five_seconds_has_an_unknown_outcome() {
    let mut rig = Rig::serving(settings(1));
    let write = rig.ask(set("/foo", "bar"));
    rig.turn();
    rig.now.mono_us += 5 * SECOND_US - 1;
    rig.machine.on_time(rig.now);
    rig.turn();
    assert!(rig.take_answers(write).is_empty());
    assert_eq!(next_deadline(&rig.machine), rig.now.mono_us + 1);
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
    assert!(rig.take_answers(write).is_empty());
}

#[test]
fn a_speed_test_is_ten_thousand_sets() {
    let mut rig = Rig::serving(settings(1));
    assert_eq!(rig.done(Op::SpeedTest), Outcome::SpeedTest);
    assert_eq!(rig.machine.indexes().etcd.0, 10_002);
    assert_eq!(rig.value("/foo").as_deref(), Some("bar"));
}

/// A watch of /foo for at most two seconds.
fn watch_for_two_seconds(is_stream: bool) -> Op {
    let mut op = watch("/foo", is_stream, None);
    if let Op::Watch { timeout_us, .. } = &mut op {
        *timeout_us = Some(2 * SECOND_US);
    }
    op
}

#[test]
fn a_watcher_waits_as_long_as_it_says() {
    let mut rig = Rig::serving(settings(1));
    for stream in [false, true] {
        let late = rig.ask(watch_for_two_seconds(stream));
        let served = rig.ask(watch_for_two_seconds(stream));
        rig.settle();
        assert_eq!(rig.take_answers(late), [Outcome::Watching]);
        rig.pass(1_900_000);
        assert!(rig.take_answers(late).is_empty());
        rig.again(late, Op::ClientClosed);
        rig.put("/foo", "bar");
        assert_eq!(rig.delivered(served).len(), 1);
        rig.pass(200_000);
        assert!(rig.take_answers(late).is_empty(), "its client had gone");
        let ended = rig.take_answers(served).contains(&Outcome::WatchTimedOut);
        assert_eq!(ended, stream, "a long poll has ended with its event");
    }
    let last = rig.ask(watch_for_two_seconds(false));
    rig.pass(2_000_000);
    let answers = rig.take_answers(last);
    assert_eq!(answers, [Outcome::Watching, Outcome::WatchTimedOut]);
}

#[test]
fn an_event_of_the_turn_in_which_a_watch_is_due_is_delivered() {
    for stream in [false, true] {
        let mut rig = Rig::serving(settings(1));
        let watcher = rig.ask(watch_for_two_seconds(stream));
        rig.ask(set("/foo", "bar"));
        rig.turn();
        assert_eq!(rig.answer(watcher), Outcome::Watching);
        // The sync takes so long that the write is applied in the turn in which the watch ends.
        rig.sleep(2 * SECOND_US);
        rig.sync();
        rig.turn();
        assert_eq!(rig.delivered(watcher).len(), 1);
        let ended = rig.take_answers(watcher).contains(&Outcome::WatchTimedOut);
        assert_eq!(ended, stream, "a long poll has ended with its event");
    }
}

#[test]
fn a_read_that_is_ready_when_it_is_due_is_served_to_its_end() {
    let mut rig = Rig::serving(settings(1));
    // One advance applies more than half of them, and a listing of all takes several pages.
    for n in 0..400 {
        rig.ask(set(&format!("/many/{n}"), &"x".repeat(100)));
    }
    rig.turn();
    rig.sync();
    let reader = rig.ask(read("/many", true, true));
    rig.turn();
    assert_eq!(rig.take_answers(reader), [], "its index is not applied");
    rig.sleep(5 * SECOND_US);
    rig.turn();
    let first = rig.answer(reader);
    assert!(
        matches!(first, Outcome::Page { last: false, .. }),
        "{first:?}"
    );
    rig.again(reader, Op::ContinueListing);
    rig.turn();
    let second = rig.answer(reader);
    assert!(matches!(second, Outcome::Page { .. }), "{second:?}");
}

#[test]
fn a_client_that_disconnects_leaves_nothing_behind() {
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
