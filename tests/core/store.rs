//! The key space against a simple model of it, under random commands, listings, snapshots and
//! watchers. Also: damaged snapshots, and very deep trees on a small stack.
use crate::model::Model;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tern::core::cluster_time::{Lease, Stamp, TIME_NS_MAX};
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::store::*;

const LIMITS: HistoryLimits = HistoryLimits {
    events: 10_000,
    bytes: 1 << 30,
};

#[derive(Clone, Debug)]
enum Act {
    Write(Command),
    Sync(u64),
    List {
        path: KeyPath,
        recursive: bool,
        all: bool,
    },
    Page {
        which: usize,
        max: usize,
    },
    End {
        which: usize,
    },
    Begin,
    Chunk {
        bytes: usize,
    },
    Abandon,
    Watch {
        path: KeyPath,
        recursive: bool,
        stream: bool,
        since: u64,
    },
    Backlog {
        which: u64,
    },
    Unwatch {
        which: u64,
    },
    Free,
}

fn path() -> impl Strategy<Value = KeyPath> {
    let name = prop_oneof![
        6 => Just("a"), 3 => Just("b"), 2 => Just("a-"), 1 => Just("_h"), 1 => Just("7")
    ];
    proptest::collection::vec(name, 0..4).prop_map(|names| KeyPath::new(&names.join("/")))
}

fn value() -> impl Strategy<Value = Option<Arc<str>>> {
    prop_oneof![1 => Just(None), 4 => "[xyz]{0,2}".prop_map(|v| Some(v.into()))]
}

fn prev_value() -> impl Strategy<Value = Option<Box<str>>> {
    value().prop_map(|value| value.as_deref().map(Box::from))
}

fn lease() -> impl Strategy<Value = Option<Lease>> {
    prop_oneof![2 => Just(None), 1 => (1..30i64).prop_map(until)]
}

fn write() -> impl Strategy<Value = Command> {
    let naming = prop_oneof![
        6 => Just(Naming::Given),
        1 => Just(Naming::InOrder),
        1 => Just(Naming::InOrderPadded)
    ];
    let condition = || (prev_value(), proptest::option::of(1..40u64));
    let node = || (path(), value(), lease());
    prop_oneof![
        6 => node().prop_map(|(path, value, lease)| Command::Set { path, value, lease }),
        2 => (node(), naming).prop_map(|((path, value, lease), naming)| Command::Create {
            path,
            value,
            lease,
            naming
        }),
        2 => (node(), any::<bool>()).prop_map(|((path, value, lease), refresh)| {
            Command::Update { path, value, lease, refresh }
        }),
        2 => (node(), condition(), any::<(bool, bool)>()).prop_map(
            |((path, value, lease), (prev_value, prev_index), (or_create, refresh))| {
                Command::CompareAndSwap {
                    path,
                    value,
                    lease,
                    prev_value,
                    prev_index,
                    or_create,
                    refresh,
                }
            }
        ),
        3 => (path(), any::<(bool, bool)>()).prop_map(|(path, (dir, recursive))| {
            Command::Delete { path, dir, recursive }
        }),
        1 => (path(), condition()).prop_map(|(path, (prev_value, prev_index))| {
            Command::CompareAndDelete { path, prev_value, prev_index }
        }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => write().prop_map(Act::Write),
        1 => (0..30u64).prop_map(Act::Sync),
        2 => (path(), any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
            |(path, recursive, all)| Act::List { path, recursive, all }
        ),
        6 => (0..4usize, 1..4usize).prop_map(|(which, max)| Act::Page { which, max }),
        1 => (0..4usize).prop_map(|which| Act::End { which }),
        1 => Just(Act::Begin),
        4 => (1..100usize).prop_map(|bytes| Act::Chunk { bytes }),
        5 => (0..20u8).prop_map(|n| if n == 0 { Act::Abandon } else { Act::Free }),
        3 => (path(), any::<bool>(), any::<bool>(), 0..40u64).prop_map(
            |(path, recursive, stream, since)| Act::Watch { path, recursive, stream, since }
        ),
        3 => (1..20u64).prop_map(|which| Act::Backlog { which }),
        1 => (1..20u64).prop_map(|which| Act::Unwatch { which }),
    ]
}

/// A listing, its items so far, and the items that it must have in the end, which its first page
/// decides.
struct Open {
    listing: Listing,
    path: KeyPath,
    recursive: bool,
    all: bool,
    given: Vec<ListItem>,
    expected: Option<(Vec<ListItem>, Vec<Event>)>,
}

struct Pair {
    store: Store,
    model: Model,
    open: Vec<Open>,
    /// The snapshot that is being written, and the hash of what it must become.
    snapshot: Option<(Vec<u8>, u64)>,
    /// For each stream that still reads the history: the events that it must get yet.
    behind: BTreeMap<u64, Vec<Event>>,
    watchers: u64,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            store: Store::new(LIMITS),
            model: Model::default(),
            open: Vec::new(),
            snapshot: None,
            behind: BTreeMap::new(),
            watchers: 0,
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write(command) => {
                let expected = self.model.apply(&command);
                let (before, growth) = (self.store.bytes(), self.store.growth(&command));
                let found = self.store.apply(&command);
                let after = self.store.bytes();
                if command.content().is_some() {
                    assert_eq!(growth.is_some(), found.is_ok(), "{command:?}");
                }
                assert_eq!(
                    growth.unwrap_or(0),
                    after.saturating_sub(before),
                    "{command:?}"
                );
                let most = growth_max(&command);
                assert!(most.is_none_or(|most| growth <= Some(most)), "{command:?}");
                let found = found.map_err(|e| (e.code, e.cause.into_string()));
                assert_eq!(found, expected, "{command:?}");
            }
            Act::Sync(now_ns) => {
                self.model.expire(now_ns);
                assert!(!self.store.expire(Stamp::new(now_ns, now_ns)));
            }
            Act::List {
                path,
                recursive,
                all,
            } => self.list(path, recursive, all),
            Act::Page { which, max } if which < self.open.len() => self.page(which, max),
            Act::End { which } if which < self.open.len() => {
                self.store.end_listing(self.open.remove(which).listing);
            }
            Act::Begin if self.snapshot.is_none() => {
                self.store.snapshot_begin();
                self.snapshot = Some((Vec::new(), self.store.state_hash()));
            }
            Act::Chunk { bytes } => self.chunk(bytes),
            Act::Abandon => {
                self.store.snapshot_abandon();
                self.snapshot = None;
            }
            Act::Watch {
                path,
                recursive,
                stream,
                since,
            } => {
                self.watch(&path, recursive, stream, since);
            }
            Act::Backlog { which } => self.backlog(which),
            Act::Unwatch { which } => {
                self.store.unwatch(WatcherId(which));
                self.model.unwatch(which);
                self.behind.remove(&which);
            }
            Act::Free => _ = self.store.free_some(),
            Act::Page { .. } | Act::End { .. } | Act::Begin => {}
        }
        self.compare();
    }

    fn list(&mut self, path: KeyPath, recursive: bool, all: bool) {
        let path = if all { KeyPath::new("/") } else { path };
        let recursive = recursive || all;
        let listing = match all {
            true => Ok(self.store.get_all(false)),
            false => self.store.get(&path, recursive),
        };
        let expected = self.model.list(&path, recursive, all);
        match listing {
            Ok(listing) => self.open.push(Open {
                listing,
                path,
                recursive,
                all,
                given: Vec::new(),
                expected: None,
            }),
            Err(error) => assert_eq!(Err((error.code, error.cause.into_string())), expected),
        }
    }

    fn page(&mut self, which: usize, max: usize) {
        let open = &mut self.open[which];
        let before = open.given.len();
        let page = self.store.page(&mut open.listing, max, &mut open.given);
        assert!(open.given.len() - before <= max);
        if matches!(page, Page::More | Page::Done) && open.expected.is_none() {
            let list = self.model.list(&open.path, open.recursive, open.all);
            let list = list.expect("it was listed");
            open.expected = Some((list, self.model.events.clone()));
        }
        match page {
            Page::More => {
                let (items, _) = open.expected.as_ref().expect("set above");
                assert_eq!(open.given[..], items[..open.given.len()]);
            }
            Page::Done => {
                let open = self.open.remove(which);
                let (items, events) = open.expected.expect("set above");
                assert_eq!(open.given, items);
                if open.all {
                    let (history, index, _) = self.store.history(&open.listing).expect("frozen");
                    assert!(history.iter().all(|e| e.index() <= index));
                    assert_eq!(history, events);
                    self.store.end_listing(open.listing);
                }
            }
            Page::Failed(error) => {
                let open = self.open.remove(which);
                assert!(open.given.is_empty());
                let expected = self.model.list(&open.path, open.recursive, open.all);
                assert_eq!(expected, Err((error.code, error.cause.into_string())));
            }
            Page::GivenUp => panic!("nothing here weighs that much"),
        }
    }

    fn chunk(&mut self, bytes: usize) {
        let Some((written, hash)) = &mut self.snapshot else {
            return;
        };
        match self.store.snapshot_chunk(bytes, written) {
            SnapshotStep::More => {}
            SnapshotStep::Done => {
                let again = restore(written).expect("a sound snapshot");
                assert_eq!(again.state_hash(), *hash);
                self.snapshot = None;
            }
            SnapshotStep::GivenUp => panic!("nothing here weighs that much"),
        }
    }

    fn watch(&mut self, path: &KeyPath, recursive: bool, stream: bool, since: u64) {
        self.watchers += 1;
        let id = self.watchers;
        let from = if since == 0 {
            self.model.index + 1
        } else {
            since
        };
        let past = self.model.watch(id, path, recursive, stream, from);
        let found = self
            .store
            .watch(WatcherId(id), path, recursive, stream, Some(since));
        match found.expect("nothing was cleared") {
            WatchReply::Waiting => assert!(past.is_empty()),
            WatchReply::Backlog(events) if stream => {
                assert_eq!(events[..], past[..events.len()]);
                self.behind.insert(id, past[events.len()..].to_vec());
            }
            WatchReply::Backlog(events) => assert_eq!(events[..], past[..1]),
            WatchReply::Cleared => panic!("not yet"),
        }
    }

    /// A stream reads on. Events for which the model has woken it since are at the end of its
    /// backlog.
    fn backlog(&mut self, id: u64) {
        if let Some(mut due) = self.behind.remove(&id) {
            match self.store.backlog(WatcherId(id)) {
                WatchReply::Waiting => assert!(due.is_empty()),
                WatchReply::Backlog(events) => {
                    // The history has events of hidden nodes, for which the model wakes no watcher.
                    for event in events {
                        if due.first() == Some(&event) {
                            due.remove(0);
                        } else {
                            assert!(event.node.key.contains("/_"));
                        }
                    }
                    self.behind.insert(id, due);
                }
                WatchReply::Cleared => panic!("nothing was cleared"),
            }
        }
    }

    fn compare(&mut self) {
        assert_eq!(self.store.index().0, self.model.index);
        assert_eq!(self.store.next_expiry_ns(), self.model.next_expiry_ns());
        let mut notifications = Vec::new();
        self.store.take_notifications(&mut notifications);
        let mut woken = std::mem::take(&mut self.model.woken);
        for (index, ids) in &mut woken {
            let event = self.model.events.iter().find(|e| e.index().0 == *index);
            let event = event.expect("it woke someone");
            ids.retain(|id| match self.behind.get_mut(id) {
                Some(due) => {
                    due.push(event.clone());
                    false
                }
                None => true,
            });
        }
        woken.retain(|(_, ids)| !ids.is_empty());
        let found = notifications.iter().map(|n| {
            let ids = n.watchers.iter().map(|(id, _)| id.0).collect();
            (n.event.index().0, ids)
        });
        assert_eq!(found.collect::<Vec<(u64, Vec<u64>)>>(), woken);
    }

    /// Ends everything that is open. Nothing may be kept after that.
    fn close(mut self) {
        for open in self.open.drain(..) {
            self.store.end_listing(open.listing);
        }
        self.store.snapshot_abandon();
        while self.store.free_some() {}
        assert_eq!(self.store.next_expiry_ns(), self.model.next_expiry_ns());
        let items = self
            .model
            .list(&KeyPath::new("/"), true, true)
            .expect("the root");
        assert_eq!(self.store.nodes(), items.len());
        let again = restore(&saved(&mut self.store)).expect("a sound snapshot");
        assert_eq!(again.state_hash(), self.store.state_hash());
        assert_eq!(again.next_expiry_ns(), self.store.next_expiry_ns());
    }
}

fn saved(store: &mut Store) -> Vec<u8> {
    store.snapshot_begin();
    let mut bytes = Vec::new();
    while store.snapshot_chunk(100, &mut bytes) == SnapshotStep::More {}
    bytes
}

fn restore(bytes: &[u8]) -> Result<Store, BadSnapshot> {
    let mut restore = Restore::new(LIMITS);
    for piece in bytes.chunks(13) {
        restore.chunk(piece)?;
    }
    restore.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_as_the_model_says(acts in proptest::collection::vec(act(), 1..150)) {
        let mut pair = Pair::new();
        for act in acts {
            pair.act(act);
        }
        pair.close();
    }
}

/// A lease of stamps with equal clocks, so that times are shown as the cluster clock has them.
fn until(at_ns: i64) -> Option<Lease> {
    Some(Lease::new(at_ns, Stamp::default()))
}

fn set(path: &str, value: Option<&str>, expires_ns: Option<u64>) -> Command {
    Command::Set {
        path: KeyPath::new(path),
        value: value.map(Arc::from),
        lease: expires_ns.and_then(|at_ns| until(at_ns as i64)),
    }
}

fn filled() -> Store {
    let mut store = Store::new(LIMITS);
    for i in 0..20 {
        let path = format!("/d{}/_e/k{i}", i % 3);
        store
            .apply(&set(&path, Some("value"), Some(1000 + i)))
            .expect("a fresh file");
    }
    store
}

#[test]
fn a_cut_snapshot_is_refused_and_damage_is_no_panic() {
    let bytes = saved(&mut filled());
    assert!(restore(&bytes).is_ok());
    for cut in 0..bytes.len() {
        assert!(restore(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // The file's checksum notices all damage. Here it must not end the process.
        if let Ok(mut store) = restore(&flipped) {
            store.expire(Stamp::new(TIME_NS_MAX, 0));
            while store.free_some() {}
        }
    }
    assert!(restore(&[&bytes[..], b"x"].concat()).is_err());
    assert!(restore(&[&bytes[..], &bytes[..]].concat()).is_err());
}

proptest! {
    /// Records that no writer made.
    #[test]
    fn a_made_up_snapshot_is_no_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut store = filled();
        store.snapshot_begin();
        let mut bytes = Vec::new();
        assert_eq!(store.snapshot_chunk(1 << 20, &mut bytes), SnapshotStep::Done);
        let at = 4 + at.index(bytes.len() - 4);
        bytes[at] = byte;
        if let Ok(mut store) = restore(&bytes) {
            store.expire(Stamp::new(TIME_NS_MAX, 0));
            while store.free_some() {}
        }
    }
}

/// All traversals of the tree run on a stack of 128 KiB over 40 branches of 1,024 levels.
#[test]
fn a_restore_takes_names_in_their_order_alone() {
    let restored = |nodes: &[(u32, &str)]| {
        let nodes = nodes.iter().map(|(depth, name)| PlainNode {
            depth: *depth,
            name,
            value: None,
            expires_ns: None,
            modified: 1,
            created: 1,
        });
        Restore::of_nodes(LIMITS, 1, "", nodes).is_ok()
    };
    assert!(restored(&[
        (1, "a"),
        (2, "x"),
        (2, "y"),
        (1, "b"),
        (2, "x")
    ]));
    assert!(!restored(&[(1, "b"), (1, "a")]));
    assert!(!restored(&[(1, "a"), (1, "a")]));
    assert!(!restored(&[(1, "a"), (2, "y"), (3, "z"), (2, "x")]));
    assert!(!restored(&[(1, "a"), (2, "y"), (2, "y")]));
}

#[test]
fn depth_costs_no_stack() {
    let work = || {
        let mut store = Store::new(LIMITS);
        let deep = "/d".repeat(1023);
        for i in 0..20 {
            for path in [format!("{deep}/{i}"), format!("/{i}{deep}")] {
                let write = set(&path, Some("v"), Some(i + 1));
                store.apply(&write).expect("a fresh file");
            }
        }
        let mut listing = store.get(&KeyPath::new("/"), true).expect("the root");
        let mut items = Vec::new();
        while store.page(&mut listing, 1000, &mut items) == Page::More {}
        assert_eq!(items.len(), store.nodes());
        assert_eq!(items.iter().map(|i| i.depth).max(), Some(1024));
        let watched = store.watch(WatcherId(1), &KeyPath::new("/"), true, true, None);
        assert_eq!(watched, Ok(WatchReply::Waiting));
        let again = restore(&saved(&mut store)).expect("a sound snapshot");
        assert_eq!(again.state_hash(), store.state_hash());
        drop(again);
        assert!(!store.expire(Stamp::new(5, 5)));
        let delete = Command::Delete {
            path: KeyPath::new("/d"),
            dir: true,
            recursive: true,
        };
        store.apply(&delete).expect("it is there");
        while store.free_some() {}
        let mut notifications = Vec::new();
        store.take_notifications(&mut notifications);
        assert_eq!(notifications.len(), 11);
        assert_eq!(store.next_expiry_ns(), Some(6));
        drop(store);
    };
    let thread = std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(work);
    thread
        .expect("a thread")
        .join()
        .expect("it did not overflow");
}

/// The work for an event does not grow with watchers that it does not concern.
#[test]
fn many_watchers_get_each_event_once() {
    let mut store = Store::new(LIMITS);
    let mut id = 0;
    for i in 0..10_000 {
        for path in ["/one".to_string(), format!("/many/{i}")] {
            id += 1;
            let watched = store.watch(WatcherId(id), &KeyPath::new(&path), false, i % 2 == 0, None);
            assert_eq!(watched, Ok(WatchReply::Waiting));
        }
    }
    assert_eq!(store.stats().watchers, 20_000);
    for path in ["/one", "/one", "/many/17", "/none"] {
        store.apply(&set(path, Some("v"), None)).expect("a file");
    }
    let mut notifications = Vec::new();
    store.take_notifications(&mut notifications);
    let counts: Vec<usize> = notifications.iter().map(|n| n.watchers.len()).collect();
    assert_eq!(counts, [10_000, 5_000, 1]);
    for id in 1..=id {
        store.unwatch(WatcherId(id));
    }
    assert_eq!(store.stats().watchers, 0);
}

#[test]
fn a_file_is_read_at_once_and_counted() {
    let mut store = filled();
    let file = store.get_file("/d1/_e/k1").expect("a file");
    assert_eq!(file.key, "/d1/_e/k1");
    assert_eq!(file.value.as_deref(), Some("value"));
    assert_eq!(file.expires_ns, Some(1001));
    assert_eq!(store.stats().gets_success, 1);
    for path in ["/", "/d1", "/d1/none", "/d1/_e/k1/below"] {
        assert!(store.get_file(path).is_none(), "{path}");
    }
    let stats = store.stats();
    assert_eq!((stats.gets_success, stats.gets_fail), (1, 0));
}
