//! Micro benches of the hot paths: `cargo bench --bench micro`, or with a filter behind `--`.
//! Each figure is per item; the log's benches stand in `wal/benches`.
use divan::{Bencher, black_box, counter::ItemsCount};
use tern::http::{Limits, Parser, Progress};
use tern::timer::TimerWheel;

fn main() {
    divan::main();
}

const PUT: &[u8] = b"PUT /v2/keys/load/0000001 HTTP/1.1\r\nHost: 127.0.0.1:4001\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 22\r\n\r\nvalue=0123456789abcdef";
const GET: &[u8] = b"GET /v2/keys/load/0000001?quorum=true HTTP/1.1\r\nHost: 127.0.0.1:4001\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

#[divan::bench(args = ["put", "get"])]
fn http_parse(bencher: Bencher, which: &str) {
    let request = if which == "put" { PUT } else { GET };
    let limits = Limits::default();
    let mut parser = Parser::new();
    bencher.bench_local(|| {
        let Progress::Request { consumed, .. } = parser.parse(black_box(request), &limits) else {
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
