//! A device with 32 MB of memory: it runs, starts again, and refuses what does not fit.
//!
//! The kernel counts the peaks (`VmHWM`), so a moment that a sample would miss counts too.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tern_support::alone::alone;
use tern_support::cgroup::{Cgroup, Limit};
use tern_support::client::{Conn, until};
use tern_support::image::Image;
use tern_support::server::{Server, Syncs};
use tern_support::skip::{Need, lacks};
use tern_support::usage::{disk_bytes, memory_bytes};

const DEVICE_BYTES: u64 = 32 << 20;
const DEVICE: &str = "-max-memory=33554432";
/// Connections that write at the same time; fewer if values are large.
const WRITERS: usize = 32;

/// The peak of its memory since it was started.
fn peak(server: &Server) -> u64 {
    memory_bytes(server.pid(), "VmHWM")
}

/// The memory that cannot be dropped and read again.
fn held(server: &Server) -> u64 {
    memory_bytes(server.pid(), "RssAnon")
}

/// Writes values of `bytes` to the keys `k/N` for each number, over many connections. Returns how
/// many were refused because the key space is full; no other refusal may occur.
fn write(server: &Server, numbers: std::ops::Range<usize>, keys: usize, bytes: usize) -> usize {
    let port = server.client_port;
    let refused = Mutex::new(0);
    let writers = if bytes > 10_000 { 8 } else { WRITERS };
    let body = format!("value={}", "v".repeat(bytes));
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (numbers, body, refused) = (numbers.clone(), &body, &refused);
            scope.spawn(move || {
                let mut conn = Conn::open(port);
                for number in numbers.skip(writer).step_by(writers) {
                    let target = format!("/v2/keys/k/{}?noValueOnSuccess=true", number % keys);
                    let answer = conn.ask("PUT", &target, body);
                    if answer.status() >= 300 {
                        assert_eq!(answer.json()["cause"], "store full", "{}", answer.text());
                        *refused.lock().expect("no thread panics") += 1;
                    }
                }
            });
        }
    });
    refused.into_inner().expect("no thread panics")
}

fn get(server: &Server, key: &str) -> u16 {
    server.client("GET", &format!("/v2/keys{key}"), "").status()
}

/// Kills it and starts it again; its peak then is at most 1.2 times `running`.
fn restart_within(server: &mut Server, data_dir: &Path, running: u64) {
    server.kill();
    server.run_on(data_dir);
    let restarted = peak(server);
    assert!(
        restarted * 10 <= running * 12,
        "a start takes {restarted} bytes, running took {running}"
    );
}

/// 60,000 keys run and start again. Then one key too many is refused, and a deletion makes room.
#[test]
fn a_device_is_filled_and_starts_again() {
    let _alone = alone();
    let mut server = Server::start(&[DEVICE]);
    let data_dir = server.data_dir();
    assert_eq!(write(&server, 0..60_000, 60_000, 200), 0);
    let running = peak(&server);
    assert!(
        held(&server) < DEVICE_BYTES - (4 << 20),
        "{}",
        held(&server)
    );
    restart_within(&mut server, &data_dir, running);
    assert_eq!(get(&server, "/k/59999"), 200);

    assert!(write(&server, 60_000..70_000, 70_000, 200) > 1_000);
    assert!(
        server.log().contains("the key space is full"),
        "{}",
        server.log()
    );
    let put = |server: &Server| {
        let body = format!("value={}", "v".repeat(200));
        server.client("PUT", "/v2/keys/more", &body).status()
    };
    assert_eq!(put(&server), 500);
    // No longer than the value before.
    assert_eq!(
        server.client("PUT", "/v2/keys/k/1", "value=1").status(),
        200
    );
    for key in 0..3 {
        let target = format!("/v2/keys/k/{key}");
        assert_eq!(server.client("DELETE", &target, "").status(), 200);
    }
    assert_eq!(put(&server), 201);
    let running = running.max(peak(&server));
    restart_within(&mut server, &data_dir, running);
    assert_eq!(get(&server, "/more"), 200);
    assert!(
        held(&server) < DEVICE_BYTES - (4 << 20),
        "{}",
        held(&server)
    );
    assert!(
        disk_bytes(&data_dir) < 60 << 20,
        "{}",
        disk_bytes(&data_dir)
    );
}

/// Clients write more at a time than may wait for a sync, and replace all values faster than the disk
/// takes snapshots of them. The writes take longer, and none is refused.
#[test]
fn writes_wait_for_room_in_the_log() {
    let _alone = alone();
    let server = Server::start(&[DEVICE]);
    assert_eq!(write(&server, 0..400, 20, 200_000), 0);
}

/// Values over few keys are written for long: neither memory nor disk grows.
#[test]
fn few_keys_do_not_grow() {
    let _alone = alone();
    for (bytes, keys, writes) in [
        (100_000, 10, 400),
        (10_000, 50, 3_000),
        (2_000, 100, 10_000),
    ] {
        let mut server = Server::start(&[DEVICE]);
        let data_dir = server.data_dir();
        assert_eq!(write(&server, 0..writes, keys, bytes), 0);
        let (first, first_disk) = (peak(&server), disk_bytes(&data_dir));
        assert_eq!(write(&server, 0..2 * writes, keys, bytes), 0);
        let running = peak(&server);
        assert!(
            running < first + (3 << 20),
            "{bytes}: {first}, then {running}"
        );
        let disk = disk_bytes(&data_dir);
        assert!(
            disk < first_disk + (6 << 20),
            "{bytes}: {first_disk}, then {disk}"
        );
        assert!(disk < 32 << 20, "{bytes}: {disk} on the disk");
        restart_within(&mut server, &data_dir, running);
    }
}

/// The kernel kills no process: the limit of the cgroup is the default of `-max-memory`.
#[test]
fn a_limit_of_the_kernel_is_kept() {
    if lacks(Need::Image("ext4")) || lacks(Need::MemoryLimit) {
        return;
    }
    let _alone = alone();
    let home = tempfile::tempdir().expect("a folder");
    let disk = Image::create("ext4", home.path(), 80);
    let group = Cgroup::new(&[Limit::Memory(DEVICE_BYTES)]).expect("it was made before");
    let mut server = Server::prepare(&[]);
    server.before = Some(group.join());
    server.run_on(&disk.data_dir());
    let log = server.log();
    assert!(
        log.contains("memory: at most 33554432 bytes (the limit in"),
        "{log}"
    );
    write(&server, 0..60_000, 60_000, 200);
    for _ in 0..2 {
        server.kill();
        server.run_on(&disk.data_dir());
        assert_eq!(get(&server, "/k/59999"), 200);
    }
    assert!(write(&server, 60_000..70_000, 70_000, 200) > 1_000);
    let delete = "/v2/keys/k?recursive=true";
    assert_eq!(server.client("DELETE", delete, "").status(), 200);
    // Deleted nodes are freed by and by.
    until("the key space has room", || {
        server
            .log()
            .contains("the key space has room again")
            .then_some(())
    });
    assert_eq!(write(&server, 0..400, 10, 100_000), 0);
    server.kill();
    server.run_on(&disk.data_dir());
    server.terminate();
}

/// On a disk whose syncs take 100 ms, a process that is killed again and again has lost no
/// acknowledged write.
#[test]
fn kills_on_a_slow_disk_lose_nothing() {
    let mut server = Server::prepare(&[DEVICE, "-snapshot-count=100"]);
    if lacks(Need::Strace) {
        return;
    }
    server.syncs = Syncs::Slow(100);
    let acked = Mutex::new(BTreeMap::new());
    for round in 0..4 {
        server.run();
        for (key, number) in acked.lock().expect("no thread panics").iter() {
            let answer = server.client("GET", &format!("/v2/keys/{key}"), "");
            let value = answer.json()["node"]["value"].as_str().map(str::to_string);
            let value = value.unwrap_or_else(|| panic!("{key} is lost"));
            let value: u64 = value.parse().expect("a number");
            assert!(value >= *number, "{key} is {value}, not {number}");
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (port, stop, acked) = (server.client_port, &stop, &acked);
                scope.spawn(move || write_numbers(port, round, writer, stop, acked));
            }
            std::thread::sleep(Duration::from_millis(1_500));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
    }
    let count = acked.lock().expect("no thread panics").len();
    assert!(count > WRITERS, "{count} keys were acknowledged");
}

/// Writes rising numbers to two keys until the server is gone.
fn write_numbers(
    port: u16,
    round: u64,
    writer: usize,
    stop: &AtomicBool,
    acked: &Mutex<BTreeMap<String, u64>>,
) {
    let Some(mut conn) = Conn::try_open(port) else {
        return;
    };
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (key, number) = (format!("w{writer}/{}", step % 2), round * 1_000_000 + step);
        let body = format!("value={number:0200}");
        let Some(answer) = conn.try_ask("PUT", &format!("/v2/keys/{key}"), &body) else {
            return;
        };
        if answer.status() < 300 {
            acked.lock().expect("no thread panics").insert(key, number);
        }
    }
}
