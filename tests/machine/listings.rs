//! Listings and the migration document come in pages, all of one moment.
use super::rig::*;
use tern::core::error::Code;
use tern::core::machine::*;
use tern::core::store::{EtcdIndex, Event, ListItem, View};

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

const MIGRATE: Op = Op::Migrate {
    moment: None,
    keeps_moment: false,
};
const KEEPING: Op = Op::Migrate {
    moment: None,
    keeps_moment: true,
};

#[test]
fn the_migration_document_is_of_one_moment() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/foo", "bar");
    let ticket = rig.ask(MIGRATE);
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

/// The pages of a migration document from its first answer on, and its end.
fn whole_document(rig: &mut Rig, ticket: Ticket) -> (Vec<ListItem>, Box<Migrated>) {
    let mut all = Vec::new();
    loop {
        rig.settle();
        match rig.answer(ticket) {
            Outcome::Page { items, .. } => all.extend(items),
            Outcome::Migrated(rest) => return (all, rest),
            other => panic!("{other:?}"),
        }
        rig.again(ticket, Op::ContinueListing);
    }
}

/// The parts of a document that a second export of a kept moment repeats: nodes, index and events.
fn shown(document: &(Vec<ListItem>, Box<Migrated>)) -> (Vec<View>, EtcdIndex, Vec<Event>) {
    let (items, rest) = document;
    let views = items.iter().map(|item| item.view.clone());
    (views.collect(), rest.etcd, rest.events.clone())
}

#[test]
fn a_moment_that_is_kept_is_exported_again_as_it_was() {
    let mut rig = Rig::serving(settings(1));
    for n in 0..1_200 {
        rig.put(&format!("/a{n:04}"), "before");
    }
    let ticket = rig.ask(KEEPING);
    let first = whole_document(&mut rig, ticket);
    let moment = first.1.etcd;
    // Changed, removed, made; read and unread by a second export that breaks off.
    rig.put("/a0000", "after");
    rig.put("/a1199", "after");
    rig.put("/b", "new");
    let again = Op::Migrate {
        moment: Some(moment),
        keeps_moment: true,
    };
    let broken = rig.ask(again.clone());
    rig.settle();
    assert!(matches!(
        rig.answer(broken),
        Outcome::Page { last: false, .. }
    ));
    rig.again(broken, Op::ClientClosed);
    rig.settle();
    rig.put("/a0001", "after");
    let third = rig.ask(again.clone());
    rig.settle();
    assert!(matches!(
        rig.answer(third),
        Outcome::Page { last: false, .. }
    ));
    // The connection of the third is broken, and the server does not know: the fourth takes over.
    let fourth = rig.ask(again);
    rig.settle();
    assert!(matches!(rig.answer(third), Outcome::Failed(_)));
    let last = whole_document(&mut rig, fourth);
    assert_eq!(shown(&first), shown(&last));
}

#[test]
fn a_moment_that_is_not_kept_is_refused() {
    let mut rig = Rig::serving(settings(1));
    rig.put("/a", "1");
    let ask = |rig: &mut Rig, moment: u64| {
        let ticket = rig.ask(Op::Migrate {
            moment: Some(EtcdIndex(moment)),
            keeps_moment: true,
        });
        rig.settle();
        ticket
    };
    // The present needs not be kept.
    let present = ask(&mut rig, 3);
    whole_document(&mut rig, present);
    rig.put("/a", "2");
    // Kept for a while, and no longer.
    let kept = ask(&mut rig, 3);
    whole_document(&mut rig, kept);
    rig.pass(61_000_000);
    let late = ask(&mut rig, 3);
    let Outcome::Failed(error) = rig.answer(late) else {
        panic!("it is not kept any more");
    };
    assert_eq!(error.code, Code::EventIndexCleared);
    let unknown = ask(&mut rig, 2);
    assert!(matches!(rig.answer(unknown), Outcome::Failed(_)));
}
