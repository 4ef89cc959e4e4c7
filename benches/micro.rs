//! Micro benchmarks of the hot paths: `cargo bench --bench micro`, with a filter after `--`. Each
//! figure is per item. The benchmarks of the log are in `wal/benches`.
use divan::{Bencher, black_box, counter::ItemsCount};
use tern::codec::api::{ApiSettings, Context, FileGet, Mode, Port, Rendition, Routed, route};
use tern::codec::http::{Date, Limits, Parsed, Parser};
use tern::core::command::{Command, KeyPath};
use tern::core::seam::{Answer, Delivery, Indexes, Outcome, Ticket};
use tern::core::store::{
    Action, EtcdIndex, Event, HistoryLimits, ListItem, Store, View, WatcherId,
};
use tern::core::timer::{Now, TimerWheel};

fn main() {
    divan::main();
}

const PUT: &[u8] = b"PUT /v2/keys/load/0000001 HTTP/1.1\r\nHost: 127.0.0.1:4001\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 22\r\n\r\nvalue=0123456789abcdef";
const GET: &[u8] = b"GET /v2/keys/load/0000001?quorum=true HTTP/1.1\r\nHost: 127.0.0.1:4001\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

const PLAIN_GET: &[u8] = b"GET /v2/keys/load/0000001 HTTP/1.1\r\nHost: 127.0.0.1:4001\r\n\r\n";

#[divan::bench(args = ["put", "get"])]
fn http_parse(bencher: Bencher, which: &str) {
    let request = if which == "put" { PUT } else { GET };
    let limits = Limits::default();
    let mut parser = Parser::new();
    bencher.bench_local(|| {
        let Parsed::Request { consumed, .. } = parser.parse(black_box(request), &limits) else {
            panic!("the request is whole");
        };
        parser.reset();
        consumed
    });
}

/// Schedules and cancels among as many timers as there are connections, then among a million.
#[divan::bench(args = [1_000, 1_000_000])]
fn timer_schedule_cancel(bencher: Bencher, waiting: u64) {
    let mut wheel = TimerWheel::new();
    for i in 0..waiting {
        wheel.schedule(1_000 + i * 37, i);
    }
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7919) % 75_000_000;
        let handle = wheel.schedule(1_000 + at, at);
        wheel.cancel(handle)
    });
}

/// Fires a million timers, ten thousand at a time.
#[divan::bench]
fn timer_fire(bencher: Bencher) {
    let mut wheel = TimerWheel::new();
    let (mut now, mut due) = (0, Vec::new());
    bencher.counter(ItemsCount::new(10_000u64)).bench_local(|| {
        for i in 0..10_000 {
            wheel.schedule(now + i * 91, i);
        }
        now += 1_000_000;
        due.clear();
        wheel.advance(now, &mut due);
        assert_eq!(due.len(), 10_000);
    });
}

fn view() -> View {
    View {
        key: "/load/0000001".into(),
        value: Some("0123456789abcdef".into()),
        dir: false,
        expires_ns: None,
        modified: EtcdIndex(1_234_567),
        created: EtcdIndex(1_234_567),
    }
}

fn event() -> Event {
    Event {
        action: Action::Set,
        node: view(),
        ttl_s: None,
        prev: Some(view()),
    }
}

fn settings() -> ApiSettings {
    ApiSettings {
        name: "node0".into(),
        client_url: "http://127.0.0.1:4001".into(),
        peer_url: "http://127.0.0.1:7001".into(),
        cors: Vec::new(),
        compat_2: false,
        forward: false,
        trace: false,
    }
}

fn context<'a>(settings: &'a ApiSettings, date: &'a Date) -> Context<'a> {
    Context {
        settings,
        date,
        now: Now::default(),
        shown_ns: 0,
        at: Indexes::default(),
        cluster_id: None,
        leader_url: None,
        mode: Mode::Member,
    }
}

/// From a parsed request to what the machine is asked, and from its answer to bytes.
#[divan::bench(args = ["put", "get"])]
fn api_route_and_render(bencher: Bencher, which: &str) {
    let (settings, date) = (settings(), Date::new(1_800_000_000_000_000_000));
    let (request, outcome) = if which == "put" {
        (PUT, Outcome::Event(event()))
    } else {
        let item = ListItem {
            depth: 0,
            view: view(),
        };
        let items = vec![item];
        (GET, Outcome::Page { items, last: true })
    };
    let answer = Answer {
        ticket: Ticket(1),
        at: Indexes::default(),
        outcome,
    };
    let mut parser = Parser::new();
    let Parsed::Request { request, .. } = parser.parse(request, &Limits::default()) else {
        panic!("the request is whole");
    };
    let context = context(&settings, &date);
    let mut out = Vec::new();
    bencher.bench_local(|| {
        let Routed::ToMachine { op, mut shape } =
            route(Port::Client, black_box(&request), &context)
        else {
            panic!("it asks the machine");
        };
        out.clear();
        shape.render(black_box(&answer), &context, &mut out);
        op
    });
}

/// A GET of a file that is answered at once: from the parsed request to bytes.
#[divan::bench]
fn api_file_get(bencher: Bencher) {
    let (settings, date) = (settings(), Date::new(1_800_000_000_000_000_000));
    let context = context(&settings, &date);
    let mut store = store();
    store.apply(&set(1)).expect("a set of a file");
    let mut parser = Parser::new();
    let Parsed::Request { request, .. } = parser.parse(PLAIN_GET, &Limits::default()) else {
        panic!("the request is whole");
    };
    let mut out = Vec::new();
    let mut values = Vec::new();
    bencher.bench_local(|| {
        let get = FileGet::new(Port::Client, black_box(&request), &context);
        let get = get.expect("it asks for one key");
        let file = store.get_file(get.key()).expect("it was set");
        out.clear();
        get.render(file, &context, &mut out, &mut values)
    });
}

/// An event's body, rendered once for all watchers.
#[divan::bench]
fn api_rendition(bencher: Bencher) {
    let (settings, date) = (settings(), Date::new(1_800_000_000_000_000_000));
    let context = context(&settings, &date);
    let delivery = Delivery {
        event: event(),
        etcd: EtcdIndex(1_234_567),
        tickets: Vec::new(),
    };
    bencher.bench_local(|| Rendition::new(black_box(&delivery), &context).bytes.len());
}

fn store() -> Store {
    Store::new(HistoryLimits {
        events: 1_000,
        bytes: 16 << 20,
    })
}

fn set(key: u64) -> Command {
    Command::Set {
        path: KeyPath::new(&format!("/load/{key:07}")),
        value: Some("x".repeat(64).into()),
        lease: None,
    }
}

/// Sets existing keys in turn, without watchers.
#[divan::bench(args = [1_000, 100_000])]
fn store_apply(bencher: Bencher, keys: u64) {
    let mut store = store();
    let commands: Vec<Command> = (0..keys).map(set).collect();
    for command in &commands {
        store.apply(command).expect("a set of a file");
    }
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7919) % commands.len();
        store
            .apply(black_box(&commands[at]))
            .expect("a set of a file")
    });
}

/// One set whose event reaches that many streaming watchers of its key.
#[divan::bench(args = [1, 1_000, 10_000])]
fn watch_fan_out(bencher: Bencher, watchers: u64) {
    let mut store = store();
    let command = set(1);
    store.apply(&command).expect("a set of a file");
    let path = KeyPath::new("/load/0000001");
    for id in 0..watchers {
        let registered = store.watch(WatcherId(id), &path, false, true, None);
        registered.expect("no index of the past");
    }
    let mut notifications = Vec::new();
    bencher.bench_local(|| {
        notifications.clear();
        store.apply(&command).expect("a set of a file");
        store.take_notifications(&mut notifications);
        assert_eq!(notifications[0].watchers.len() as u64, watchers);
    });
}
