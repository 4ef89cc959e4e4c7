//! Watchers of every machine while the cluster is disturbed: each sees all events once and in
//! order, however often it has to come back, and no two are told different things of one index.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tern_support::client::{Conn, request};
use tern_support::fleet::ask;

/// How long a stream may be silent before it is asked for anew.
const PATIENCE: Duration = Duration::from_millis(900);

/// The events of one watcher.
#[derive(Default)]
pub struct Told {
    pub events: BTreeMap<u64, String>,
    /// What the machine had forgotten (401): from, to; both are left out.
    gaps: Vec<(u64, u64)>,
    first: u64,
}

/// Follows all that happens below `/h` from `first` on until it has seen `last`, which is set when
/// it is known.
pub fn observe(at: SocketAddr, first: u64, last: &AtomicU64) -> Told {
    let mut told = Told {
        first,
        ..Told::default()
    };
    let mut next = first;
    while next <= last.load(Ordering::Relaxed) {
        let target = format!("/v2/keys/h?wait=true&recursive=true&stream=true&waitIndex={next}");
        let head = Conn::impatient(at, PATIENCE).and_then(|mut conn| {
            let sent = conn.try_send(&request("GET", &target, &[], b""));
            let head = if sent { conn.head() } else { None };
            head.map(|head| (conn, head))
        });
        match head {
            Some((mut conn, head)) if head.status == 200 => {
                while next <= last.load(Ordering::Relaxed) {
                    let Some(event) = conn.event() else {
                        break;
                    };
                    let index = event["node"]["modifiedIndex"].as_u64().expect("an index");
                    assert!(
                        index >= next,
                        "{at}: {index} was told after {next} was asked for"
                    );
                    told.events.insert(index, event.to_string());
                    next = index + 1;
                }
            }
            Some((mut conn, head)) if head.status == 400 => {
                let body = conn.body(&head, false).unwrap_or_default();
                let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                // Forgotten; anything else is a standby that knows no leader.
                if let (Some(401), Some(index)) =
                    (json["errorCode"].as_u64(), json["index"].as_u64())
                {
                    told.gaps.push((next, index));
                    next = next.max(index + 1);
                }
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    told
}

/// The index that a machine is at: where observers begin.
pub fn index(at: SocketAddr) -> u64 {
    let answer = ask(at, "GET", "/v2/keys/", "").expect("it serves");
    answer.head.etcd_index()
}

/// One sequence of events, of which no watcher missed a part. Hands back how many events it has.
pub fn check(all: &[Told]) -> usize {
    let mut story: BTreeMap<u64, &String> = BTreeMap::new();
    for told in all {
        for (index, event) in &told.events {
            let known = story.entry(*index).or_insert(event);
            assert_eq!(*known, event, "two events of index {index}");
        }
    }
    for (number, told) in all.iter().enumerate() {
        let until = told.events.keys().next_back().copied().unwrap_or(0);
        for (index, event) in story.range(told.first..=until) {
            let forgotten = told
                .gaps
                .iter()
                .any(|(from, to)| (from..=to).contains(&index));
            assert!(
                forgotten || told.events.contains_key(index),
                "watcher {number} has missed {event}"
            );
        }
    }
    story.len()
}
