//! Five machines under full write load for many minutes, one of them stopped and continued again
//! and again: how the term rises, whether memory stays, whether all hold the same in the end.
//!
//! Start reading at `report`.
use crate::cluster::{Cluster, Seen, ask, until, write_on};
use crate::driver::{get_request, put_request};
use crate::{Kind, proc};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MACHINES: usize = 5;
const WRITERS: usize = 32;
/// Each writer's own, of 1 KiB.
const KEYS: usize = 100;
/// From one stop to the next; a machine is stopped for half of it.
const PERIOD: Duration = Duration::from_secs(20);

/// The term in the answers of the leader.
fn term(cluster: &Cluster) -> u64 {
    let request = get_request("/", "");
    until("the leader answers", || {
        let answer = ask(cluster.members[cluster.leader()].client, &request)?;
        answer.head.header("X-Raft-Term")?.parse().ok()
    })
}

/// Resident memory of all, in MB.
fn resident(cluster: &Cluster) -> f64 {
    let all = cluster.pids();
    all.iter()
        .map(|p| proc::resident_bytes(*p).expect("it runs") as f64 / 1e6)
        .sum()
}

/// What was seen while the load went on.
struct Course {
    leader_stops: u64,
    /// Of each minute, the mean of the resident memory, in MB.
    minutes: Vec<f64>,
}

/// Stops one machine after the other for half a period each, until it is time to end.
fn disturb(cluster: &Cluster, minutes: usize) -> Course {
    let start = Instant::now();
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); minutes];
    let mut watch = |until: Instant| {
        while Instant::now() < until {
            let minute = start.elapsed().as_secs() as usize / 60;
            if let Some(samples) = samples.get_mut(minute) {
                samples.push(resident(cluster));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    };
    let mut leader_stops = 0;
    let periods = minutes as u32 * 60 / PERIOD.as_secs() as u32;
    for period in 0..periods {
        let machine = period as usize % MACHINES;
        leader_stops += u64::from(cluster.leader() == machine);
        cluster.signal(machine, Signal::STOP);
        watch(start + PERIOD * period + PERIOD / 2);
        cluster.signal(machine, Signal::CONT);
        watch(start + PERIOD * (period + 1));
    }
    let mean = |samples: &Vec<f64>| samples.iter().sum::<f64>() / samples.len().max(1) as f64;
    Course {
        leader_stops,
        minutes: samples.iter().map(mean).collect(),
    }
}

/// Runs it and prints what came of it; panics when something is not as it must be.
pub fn report(minutes: usize) {
    let args = [
        "-peer-election-timeout",
        "1000",
        "-peer-heartbeat-interval",
        "200",
    ];
    let cluster = Cluster::start_with(Kind::Tern, MACHINES, &args);
    let all: Vec<SocketAddr> = cluster.members.iter().map(|m| m.client).collect();
    let (first, begun) = (term(&cluster), Instant::now());
    let done = AtomicBool::new(false);
    let (course, seen) = std::thread::scope(|scope| {
        let writer = |w: usize| {
            let (all, done) = (&all, &done);
            let requests: Vec<_> = (0..KEYS)
                .map(|k| put_request(&format!("/soak/{w}/{k}"), 1024))
                .collect();
            scope.spawn(move || write_on(all, w % MACHINES, &requests, done))
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        let course = disturb(&cluster, minutes);
        done.store(true, Ordering::Relaxed);
        let seen: Vec<Seen> = writers
            .into_iter()
            .map(|w| w.join().expect("it writes"))
            .collect();
        (course, seen)
    });
    let seconds = begun.elapsed().as_secs_f64();
    cluster.settle();
    let last = term(&cluster);
    let listing = |address: &SocketAddr| {
        let request = get_request("/soak", "?recursive=true&sorted=true");
        until("a machine lists all keys", || {
            ask(*address, &request).filter(|a| a.status() == 200)
        })
        .body
    };
    let lists: Vec<Vec<u8>> = all.iter().map(listing).collect();
    let equal = lists.iter().all(|l| *l == lists[0]);
    let writes: usize = seen.iter().map(|s| s.acknowledged.len()).sum();
    println!(
        "- {minutes} minutes, {writes} writes acknowledged, {:.0} a second",
        writes as f64 / seconds
    );
    println!(
        "- the term rose from {first} to {last}; the leader was stopped {} times",
        course.leader_stops
    );
    println!(
        "- resident memory of all {MACHINES}, MB, minute by minute: {:.1?}",
        course.minutes
    );
    if let (Some(third), Some(end)) = (course.minutes.get(2), course.minutes.last()) {
        println!(
            "- the last minute's is {:.2} times the third's",
            end / third
        );
        assert!(*end <= third * 1.1, "memory stays");
    }
    println!(
        "- all hold the same, {} bytes of listing: {equal}",
        lists[0].len()
    );
    assert!(equal, "all machines are equal");
    assert!(
        last <= first + course.leader_stops + 2,
        "no machine campaigns without a reason"
    );
}
