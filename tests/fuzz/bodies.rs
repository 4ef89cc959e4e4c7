//! Bodies of entries: commands of each kind with usual and with extreme fields, and garbage.
use tern::core::cluster_time::{Lease, Stamp, TIME_NS_MAX};
use tern::core::command::{self, ClusterConfig, Command, KeyPath, Naming};
use tern_support::rng::Rng;

/// Deepest path.
const DEPTH_MAX: u64 = 300;

/// Names as a faulty peer may send them.
const NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "node1",
    "node2",
    "node3",
    "a/b",
    "/",
    "a b",
    "\0",
    "\u{202e}x",
    "é",
    "x",
];
/// The same for URLs.
const URLS: &[&str] = &[
    "",
    "http://",
    "http://h",
    "http://h:1",
    "http://127.0.0.1:7002",
    "http://h:99999",
    "ftp://h:1",
    "http://h:1/path",
    "http://u@h:1",
    "not a url",
    "\0\n\r",
    "http://h:1\r\nX: y",
];

/// A body for an entry that would stand at `index`, in a cluster of the members `ids`.
pub fn body(rng: &mut Rng, ids: &[u64], index: u64, wall_ns: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match rng.below(20) {
        0..=8 => command::encode(&usual(rng), &mut bytes),
        9..=17 => command::encode(&extreme(rng, ids, index, wall_ns), &mut bytes),
        18 => {
            command::encode(&extreme(rng, ids, index, wall_ns), &mut bytes);
            mutate(rng, &mut bytes);
        }
        _ => {
            bytes = vec![0; rng.index(40)];
            rng.fill(&mut bytes);
        }
    }
    bytes
}

/// Changes a few bytes: flips, cuts, repeats.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.index(bytes.len());
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next_u64() as u8,
            2 => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, *rng.pick(&[0, 1, 0x80, 0xff])),
            _ => {
                let end = (at + 1 + rng.index(8)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

/// What a client's write leads to.
fn usual(rng: &mut Rng) -> Command {
    let path = KeyPath::new(&format!("/dir{}/k{}", rng.below(3), rng.below(5)));
    match rng.below(4) {
        0 => Command::Nop,
        1 => Command::Delete {
            path,
            dir: false,
            recursive: true,
        },
        _ => Command::Set {
            path,
            value: Some("value".into()),
            lease: None,
        },
    }
}

fn path(rng: &mut Rng) -> KeyPath {
    let text = match rng.below(12) {
        0 => "/".to_string(),
        1 => "/_etcd".to_string(),
        2 => "/_etcd/config".to_string(),
        3 => "/_etcd/machines".to_string(),
        4 => format!("/_etcd/machines/node{}", rng.range(1, 3)),
        5 => "/d".repeat(rng.range(1, DEPTH_MAX) as usize),
        6 => format!("/_etcd/machines/node{}/x", rng.range(1, 3)),
        7 => "/\u{0}/\u{7f}é".to_string(),
        8 => format!("/dir{}", rng.below(3)),
        9 => "/../.".to_string(),
        _ => format!("/dir{}/k{}", rng.below(3), rng.below(5)),
    };
    KeyPath::new(&text)
}

fn value(rng: &mut Rng) -> Option<String> {
    match rng.below(8) {
        0 | 1 => None,
        2 => Some(String::new()),
        3 => Some("x".repeat(rng.index(20_000))),
        4 => Some("\0\"\\\n".into()),
        _ => Some("v".into()),
    }
}

fn time_ns(rng: &mut Rng, wall_ns: u64) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => TIME_NS_MAX,
        2 => TIME_NS_MAX - 1,
        3..=6 => wall_ns.saturating_add(rng.below(1_000_000_000)),
        _ => rng.next_u64() >> rng.below(64),
    }
}

fn stamp(rng: &mut Rng, wall_ns: u64) -> Stamp {
    Stamp {
        cluster_ns: time_ns(rng, wall_ns),
        wall_ns: time_ns(rng, wall_ns),
    }
}

fn lease(rng: &mut Rng, wall_ns: u64) -> Option<Lease> {
    let ttl_ns = match rng.below(8) {
        0..=2 => return None,
        3 => i64::MIN,
        4 => i64::MAX,
        5 => rng.below(1_000_000_000) as i64,
        _ => (rng.next_u64() >> rng.below(64)) as i64,
    };
    Some(Lease::new(ttl_ns, stamp(rng, wall_ns)))
}

fn number(rng: &mut Rng, ids: &[u64], index: u64) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => index,
        4 => index.saturating_add(1),
        5 => rng.next_u64() >> rng.below(64),
        _ => *rng.pick(ids),
    }
}

fn milliseconds(rng: &mut Rng) -> u64 {
    *rng.pick(&[0, 1, 999, 5_000, 1 << 41, 1 << 60, u64::MAX])
}

fn extreme(rng: &mut Rng, ids: &[u64], index: u64, wall_ns: u64) -> Command {
    match rng.below(14) {
        0..=6 => extreme_write(rng, wall_ns),
        7 => Command::Sync {
            stamp: stamp(rng, wall_ns),
        },
        8..=10 => join(rng, ids, index),
        11 => Command::Promote {
            id: number(rng, ids, index),
        },
        12 => Command::Remove {
            id: number(rng, ids, index),
            for_good: rng.chance(500_000),
        },
        _ => Command::SetConfig(ClusterConfig {
            active_size: *rng.pick(&[0, 1, 3, 9, u32::MAX]),
            remove_delay_ms: milliseconds(rng),
            sync_interval_ms: milliseconds(rng),
        }),
    }
}

fn join(rng: &mut Rng, ids: &[u64], index: u64) -> Command {
    let name = match rng.below(5) {
        0 => "n".repeat(rng.range(127, 300) as usize),
        _ => rng.pick(NAMES).to_string(),
    };
    let replaces = Some(number(rng, ids, index)).filter(|id| *id > 0 && rng.percent(30));
    Command::Join {
        name: name.into(),
        peer_url: (*rng.pick(URLS)).into(),
        client_url: (*rng.pick(URLS)).into(),
        incarnation: *rng.pick(&[0, 1, 77, u64::MAX]),
        replaces,
    }
}

fn extreme_write(rng: &mut Rng, wall_ns: u64) -> Command {
    let path = path(rng);
    let value = value(rng).map(|text| text.as_str().into());
    let lease = lease(rng, wall_ns);
    let prev_value = rng.percent(40).then(|| "v".into());
    let prev_index = Some(rng.below(100)).filter(|index| *index > 60);
    match rng.below(6) {
        0 => Command::Set { path, value, lease },
        1 => Command::Create {
            path,
            value,
            lease,
            naming: *rng.pick(&[Naming::Given, Naming::InOrder, Naming::InOrderPadded]),
        },
        2 => Command::Update {
            path,
            value,
            lease,
            refresh: rng.percent(50),
        },
        3 => Command::CompareAndSwap {
            path,
            value,
            lease,
            prev_value,
            prev_index,
            or_create: rng.percent(50),
            refresh: rng.percent(50),
        },
        4 => Command::Delete {
            path,
            dir: rng.percent(50),
            recursive: rng.percent(50),
        },
        _ => Command::CompareAndDelete {
            path,
            prev_value,
            prev_index,
        },
    }
}
