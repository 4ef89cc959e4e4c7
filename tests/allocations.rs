//! What one request costs in memory: the allocations of the machine, and their bytes, from the
//! client's socket and back to it, in the steady state of a machine that is alone.
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
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use tern::core::machine::Machine;
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
const SMALL_PUT_ALLOCATIONS_MAX: f64 = 8.0;
const LARGE_PUT_BYTES_MAX: f64 = 5.0 * LARGE_BYTES as f64;
/// Nothing but what a timer does now and then.
const SMALL_GET_ALLOCATIONS_MAX: f64 = 0.05;

/// The system's allocator; counts for the threads that asked for it.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Whether `PLACES` gets each allocation.
static KEEPS_PLACES: AtomicBool = AtomicBool::new(false);
static PLACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: usize) {
    if !IS_COUNTED.get() {
        return;
    }
    ALLOCATIONS.fetch_add(1, SeqCst);
    BYTES.fetch_add(bytes as u64, SeqCst);
    if KEEPS_PLACES.load(SeqCst) {
        // A backtrace allocates too.
        IS_COUNTED.set(false);
        let place = Backtrace::force_capture();
        PLACES.lock().expect("no panic").push((bytes, place));
        IS_COUNTED.set(true);
    }
}

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// A buffer that grows counts with all of its new size: its bytes may be moved.
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
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
    IS_COUNTED.set(true);
    reactor.run();
}

#[test]
fn a_request_allocates_little() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    let (sender, address) = channel();
    std::thread::spawn(move || serve(&data_dir, &sender));
    let mut client = Client::connect(address.recv().expect("it listens"));

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
