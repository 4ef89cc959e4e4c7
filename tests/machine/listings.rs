//! Listings and the migration document come in pages, all of one moment.
use super::rig::*;
use tern::core::machine::*;

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
                assert!(page.len() <= 500);
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
    assert_eq!((items.len(), pages), (2_501, 6), "64 KiB a page");
    assert!(
        items[1..]
            .iter()
            .all(|i| i.view.value.as_deref() == Some("old"))
    );
}

#[test]
fn a_listing_whose_client_stalls_holds_no_other() {
    let mut rig = Rig::serving(settings(1));
    // Three pages.
    for n in 0..1_300 {
        rig.ask(set(&format!("/dir/{n:04}"), "old"));
    }
    rig.settle();
    rig.answers.clear();
    let first = rig.ask(read("/dir", true, false));
    let second = rig.ask(read("/dir", true, false));
    rig.settle();
    assert!(matches!(
        rig.answer(first),
        Outcome::Page { last: false, .. }
    ));
    assert!(matches!(
        rig.answer(second),
        Outcome::Page { last: false, .. }
    ));
    // The second client reads on, each page late; the first one does not.
    rig.pass(60 * SECOND_US - 1);
    rig.again(second, Op::ContinueListing);
    rig.pass(1);
    assert!(matches!(rig.answer(first), Outcome::Failed(_)));
    assert!(matches!(
        rig.answer(second),
        Outcome::Page { last: false, .. }
    ));
    rig.pass(60 * SECOND_US - 2);
    rig.again(second, Op::ContinueListing);
    rig.settle();
    assert!(matches!(
        rig.answer(second),
        Outcome::Page { last: true, .. }
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
