//! The memory that a request, a key, a connection and a watcher take.
//!
//! - A request: the allocations of the machine, and their bytes, from the client's socket and back to
//!   it, in the steady state of a machine that is alone.
//! - A key, a connection, a watcher: the bytes that stay allocated for each. The allocator adds 8 to
//!   23 to each allocation; they do not count here.
//!
//! The machine runs in a thread of this process, on real sockets and a real log. The allocator
//! counts that thread only, so the client in the test's own thread costs nothing.
//!
//! With the environment variable `TERN_ALLOCATIONS=1` and `--nocapture` the test also prints where
//! each allocation of one further request is made.
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tern::core::command::{Command, KeyPath};
use tern::core::machine::Machine;
use tern::core::store::{HistoryLimits, Restore, SnapshotStep, Store};
use tern::shell::clock::Clock;
use tern::shell::config::{self, Config, ProcessInputs, Start};
use tern::shell::disk::Disk;
use tern::shell::reactor::{BoundPort, Reactor};

/// The value that counts as large.
const LARGE_BYTES: usize = 1 << 20;
/// Requests whose mean cost is taken, after as many that are not counted. Few of them meet a timer
/// or a segment of the log that is full.
const SMALL_REQUESTS: u64 = 500;
/// The same for large ones.
const LARGE_REQUESTS: u64 = 20;

/// The bounds for one request.
const SMALL_PUT_ALLOCATIONS_MAX: f64 = 7.0;
const LARGE_PUT_BYTES_MAX: f64 = 5.0 * LARGE_BYTES as f64;
/// Nothing but what a timer does now and then.
const SMALL_GET_ALLOCATIONS_MAX: f64 = 0.05;

/// Keys that are set. Their number is no power of two, so that room to spare shows.
const KEYS: u64 = 100_000;
/// The length of their values.
const VALUE_BYTES: usize = 64;
/// The bound for one of these keys, its value included: the node (40) and the entry of the directory
/// (24), with some room to spare.
const KEY_BYTES_MAX: i64 = VALUE_BYTES as i64 + 70;

/// Connections, or watchers, of which the mean is taken.
const CONNECTIONS: usize = 1000;
/// The bounds for an idle connection, and for the watch of a key of its own on it.
const CONNECTION_BYTES_MAX: i64 = 650;
const WATCHER_BYTES_MAX: i64 = 350;

/// The system's allocator; counts for the threads that asked for it.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// The bytes that are allocated and not freed. Below 0 if a thread has freed bytes that it allocated before it
/// counted.
static HELD_BYTES: AtomicI64 = AtomicI64::new(0);
/// Whether `PLACES` gets each allocation.
static KEEPS_PLACES: AtomicBool = AtomicBool::new(false);
static PLACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

/// One test counts at a time: the counters are of the whole process.
static COUNTING: Mutex<()> = Mutex::new(());
/// The number of that test. The machine of an earlier test still runs, but does not count.
static COUNTED_TEST: AtomicU64 = AtomicU64::new(0);

fn begin_counting() -> MutexGuard<'static, ()> {
    // A test that failed holds nothing that another one needs.
    let guard = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    COUNTED_TEST.fetch_add(1, SeqCst);
    guard
}

thread_local! {
    /// The number of the test for which this thread counts; `None` while it does not.
    static COUNTS_FOR: Cell<Option<u64>> = const { Cell::new(None) };
}

fn is_counted() -> bool {
    COUNTS_FOR.get() == Some(COUNTED_TEST.load(SeqCst))
}

/// This thread counts for the present test from now on, or no more.
fn set_counted(is_counted: bool) {
    COUNTS_FOR.set(is_counted.then(|| COUNTED_TEST.load(SeqCst)));
}

fn count(bytes: usize) {
    if !is_counted() {
        return;
    }
    ALLOCATIONS.fetch_add(1, SeqCst);
    BYTES.fetch_add(bytes as u64, SeqCst);
    if KEEPS_PLACES.load(SeqCst) {
        // A backtrace allocates too.
        set_counted(false);
        let place = Backtrace::force_capture();
        PLACES.lock().expect("no panic").push((bytes, place));
        set_counted(true);
    }
}

fn hold(bytes: i64) {
    if is_counted() {
        HELD_BYTES.fetch_add(bytes, SeqCst);
    }
}

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        hold(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        hold(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// A buffer that grows counts with all of its new size: its bytes may be moved.
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        hold(bytes as i64 - layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        hold(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

/// The mean cost of one request.
#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: f64,
    bytes: f64,
}

/// A client with one connection.
struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the machine listens");
        stream.set_nodelay(true).expect("a socket");
        Client {
            stream,
            answer: vec![0; 4 * LARGE_BYTES],
        }
    }

    /// Sends a request and reads the whole answer.
    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("the machine reads");
        let mut length = 0;
        while !is_whole(&self.answer[..length]) {
            let rest = &mut self.answer[length..];
            let count = self.stream.read(rest).expect("an answer");
            assert!(count > 0, "the connection stays open");
            length += count;
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 20"));
    }

    /// Begins to stream the events of a key: the head of the answer shows that the machine watches.
    fn watch(&mut self, key: &str) {
        let head = format!("GET /v2/keys{key}?wait=true&stream=true HTTP/1.1\r\nHost: h\r\n\r\n");
        let stream = &mut self.stream;
        stream
            .write_all(head.as_bytes())
            .expect("the machine reads");
        let count = stream.read(&mut self.answer).expect("an answer");
        assert!(self.answer[..count].starts_with(b"HTTP/1.1 200"));
    }

    fn mean_cost(&mut self, name: &str, requests: u64, request: &[u8]) -> Cost {
        for _ in 0..requests {
            self.ask(request);
        }
        let allocations = ALLOCATIONS.load(SeqCst);
        let bytes = BYTES.load(SeqCst);
        for _ in 0..requests {
            self.ask(request);
        }
        let cost = Cost {
            allocations: (ALLOCATIONS.load(SeqCst) - allocations) as f64 / requests as f64,
            bytes: (BYTES.load(SeqCst) - bytes) as f64 / requests as f64,
        };
        println!("{name}: {cost:?}");
        if std::env::var_os("TERN_ALLOCATIONS").is_some() {
            KEEPS_PLACES.store(true, SeqCst);
            self.ask(request);
            KEEPS_PLACES.store(false, SeqCst);
            print_places();
        }
        cost
    }
}

/// Prints the frames of tern in which each allocation was made, the innermost first.
fn print_places() {
    for (bytes, place) in PLACES.lock().expect("no panic").drain(..) {
        println!("  {bytes} bytes");
        let text = place.to_string();
        let frames = text.lines().filter_map(|line| line.split_once(": "));
        for (_, frame) in frames {
            let crates = ["tern::", "<tern::", "wal::", "<wal::"];
            if crates.iter().any(|name| frame.starts_with(name)) {
                println!("    {frame}");
            }
        }
    }
}

/// Whether the head is there and as many bytes of the body as it announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head_len) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = std::str::from_utf8(&answer[..head_len]).expect("an ASCII head");
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let length = headers.find(|(name, _)| *name == "Content-Length");
    let (_, length) = length.expect("answers to these requests have a length");
    let length: usize = length.parse().expect("a number");
    answer.len() == head_len + 4 + length
}

fn put(value: &str) -> Vec<u8> {
    let body = format!("value={value}");
    let mut request = String::from("PUT /v2/keys/load/0000001 HTTP/1.1\r\nHost: h\r\n");
    request.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    request.into_bytes()
}

fn config(data_dir: &Path) -> Config {
    let data_dir = data_dir.to_str().expect("UTF-8");
    // Snapshots are no part of a request: they are counted by the bytes of the log.
    let args = ["-name", "one", "-data-dir", data_dir, "-snapshot=false"].map(String::from);
    match config::parse(&ProcessInputs::of_args(&args)) {
        Ok(Start::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// Runs a machine in this thread, for as long as the process runs. Counts from when it listens.
fn serve(data_dir: &Path, address: &Sender<SocketAddr>) {
    let config = config(data_dir);
    let ports = [(); 2].map(|()| BoundPort::new("127.0.0.1:0").expect("a free port"));
    let (disk, recovered) = Disk::open_to(&config, false).expect("an empty folder");
    let clock = Clock::new();
    let machine = Machine::recover(config.settings(), recovered, 1, clock.now());
    let reactor = Reactor::new(&config, ports, clock, disk, machine).expect("sockets");
    let [client, _] = reactor.addresses().expect("it listens");
    address.send(client).expect("the test waits");
    set_counted(true);
    reactor.run(|| {});
}

/// Starts a machine in a thread of its own. Returns its address.
fn start(folder: &Path) -> SocketAddr {
    let data_dir = folder.join("data");
    let (sender, address) = channel();
    std::thread::spawn(move || serve(&data_dir, &sender));
    address.recv().expect("it listens")
}

#[test]
fn a_request_allocates_little() {
    let _counting = begin_counting();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut client = Client::connect(start(folder.path()));

    let request = put("0123456789abcdef");
    let small_put = client.mean_cost("small PUT", SMALL_REQUESTS, &request);
    let request = b"GET /v2/keys/load/0000001 HTTP/1.1\r\nHost: h\r\n\r\n";
    let small_get = client.mean_cost("small GET", SMALL_REQUESTS, request);
    let request = put(&"x".repeat(LARGE_BYTES));
    let large_put = client.mean_cost("large PUT", LARGE_REQUESTS, &request);
    let request = b"GET /v2/keys/load/0000001 HTTP/1.1\r\nHost: h\r\n\r\n";
    client.mean_cost("large GET", LARGE_REQUESTS, request);

    assert!(small_put.allocations <= SMALL_PUT_ALLOCATIONS_MAX);
    assert!(small_get.allocations <= SMALL_GET_ALLOCATIONS_MAX);
    assert!(large_put.bytes <= LARGE_PUT_BYTES_MAX);
}

/// The bytes that `make` leaves allocated, for each of `count`, and its result.
fn held_bytes<T>(name: &str, count: i64, make: impl FnOnce() -> T) -> (i64, T) {
    let before = HELD_BYTES.load(SeqCst);
    let made = make();
    let bytes = (HELD_BYTES.load(SeqCst) - before) / count;
    println!("{name}: {bytes} bytes");
    (bytes, made)
}

/// Almost no history, so that only the keys count.
fn history_limits() -> HistoryLimits {
    HistoryLimits {
        events: 10,
        bytes: 10_000,
    }
}

/// A key space in which keys are set in this order.
fn key_space(keys: impl Iterator<Item = u64>) -> Store {
    let mut store = Store::new(history_limits());
    let value = "x".repeat(VALUE_BYTES);
    for key in keys {
        let command = Command::Set {
            path: KeyPath::new(&format!("/load/{key:07}")),
            value: Some(value.as_str().into()),
            lease: None,
        };
        store.apply(&command).expect("a set of a file");
    }
    store
}

/// The bytes of a snapshot, in slices.
fn snapshot(store: &mut Store) -> Vec<Vec<u8>> {
    let mut slices = Vec::new();
    store.snapshot_begin();
    loop {
        let mut slice = Vec::new();
        let step = store.snapshot_chunk(128 << 10, &mut slice);
        slices.push(slice);
        if step == SnapshotStep::Done {
            return slices;
        }
    }
}

fn restored(slices: &[Vec<u8>]) -> Store {
    let mut restore = Restore::new(history_limits());
    for slice in slices {
        restore.chunk(slice).expect("a good snapshot");
    }
    restore.finish().expect("a whole snapshot")
}

#[test]
fn a_key_takes_little_memory() {
    let _counting = begin_counting();
    let keys = KEYS as i64;
    set_counted(true);
    let (in_order, mut store) = held_bytes("a key, in order", keys, || key_space(0..KEYS));
    let (in_disorder, _) = held_bytes("a key, in disorder", keys, || {
        key_space((0..KEYS).map(|n| n * 7919 % KEYS))
    });
    let slices = snapshot(&mut store);
    let (after_restart, _) = held_bytes("a key, restored", keys, || restored(&slices));
    set_counted(false);

    assert!(store.nodes() as u64 > KEYS);
    for bytes in [in_order, in_disorder, after_restart] {
        assert!(
            bytes >= VALUE_BYTES as i64,
            "the values are counted: {bytes}"
        );
        assert!(bytes <= KEY_BYTES_MAX, "{bytes}");
    }
}

#[test]
fn a_connection_and_a_watcher_take_little_memory() {
    let _counting = begin_counting();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = start(folder.path());
    // The first requests allocate what stays for all.
    Client::connect(address).ask(&put("v"));
    let count = CONNECTIONS as i64;
    let (connection, mut clients) = held_bytes("a connection", count, || {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(address);
            client.ask(b"GET /v2/keys/load/0000001 HTTP/1.1\r\nHost: h\r\n\r\n");
            clients.push(client);
        }
        clients
    });
    let (watcher, ()) = held_bytes("a watcher", count, || {
        for (number, client) in clients.iter_mut().enumerate() {
            client.watch(&format!("/load/{number:07}"));
        }
    });

    assert!(connection > 0 && connection <= CONNECTION_BYTES_MAX);
    assert!(watcher > 0 && watcher <= WATCHER_BYTES_MAX);
}
