//! The commands' encoding: there and back, every cut, every flip.
use proptest::prelude::*;
use std::sync::Arc;
use tern::core::cluster_time::{Lease, Stamp};
use tern::core::command::{ClusterConfig, Command, KeyPath, Naming};
use tern::core::command::{decode, encode, encoded_len, is_membership};

fn text() -> impl Strategy<Value = Box<str>> {
    "\\PC{0,12}".prop_map(Box::from)
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<(u64, u64)>().prop_map(|(cluster_ns, wall_ns)| Stamp::new(cluster_ns, wall_ns))
}

fn lease() -> impl Strategy<Value = Lease> {
    prop_oneof![
        any::<i64>().prop_map(Lease::of_seconds),
        (any::<i64>(), stamp()).prop_map(|(ttl_ns, stamp)| Lease::new(ttl_ns, stamp)),
    ]
}

fn key_command() -> impl Strategy<Value = Command> {
    let node = || {
        (
            "[a-c/_é]{0,12}".prop_map(|p| KeyPath::new(&p)),
            proptest::option::of(text().prop_map(Arc::from)),
            proptest::option::of(lease()),
        )
    };
    let naming = prop_oneof![
        Just(Naming::Given),
        Just(Naming::InOrder),
        Just(Naming::InOrderPadded)
    ];
    let condition = || (proptest::option::of(text()), number());
    prop_oneof![
        node().prop_map(|(path, value, lease)| Command::Set { path, value, lease }),
        (node(), naming).prop_map(|((path, value, lease), naming)| Command::Create {
            path,
            value,
            lease,
            naming
        }),
        (node(), any::<bool>()).prop_map(|((path, value, lease), refresh)| Command::Update {
            path,
            value,
            lease,
            refresh
        }),
        (node(), condition(), any::<(bool, bool)>()).prop_map(
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
        (node(), any::<(bool, bool)>()).prop_map(|((path, ..), (dir, recursive))| {
            Command::Delete {
                path,
                dir,
                recursive,
            }
        }),
        (node(), condition()).prop_map(|((path, ..), (prev_value, prev_index))| {
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            }
        }),
    ]
}

fn cluster_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Nop),
        stamp().prop_map(|stamp| Command::Sync { stamp }),
        ([text(), text(), text()], any::<u64>(), number()).prop_map(
            |([name, peer_url, client_url], incarnation, replaces)| Command::Join {
                name,
                peer_url,
                client_url,
                incarnation,
                replaces
            }
        ),
        any::<u64>().prop_map(|id| Command::Promote { id }),
        (any::<u64>(), any::<bool>()).prop_map(|(id, for_good)| Command::Remove { id, for_good }),
        any::<(u32, u64, u64)>().prop_map(|(active_size, remove_delay_ms, sync_interval_ms)| {
            Command::SetConfig(ClusterConfig {
                active_size,
                remove_delay_ms,
                sync_interval_ms,
            })
        }),
    ]
}

/// A number from 1 on, or none.
fn number() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(1..=u64::MAX)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![2 => key_command(), 1 => cluster_command()]
}

proptest! {
    #[test]
    fn there_and_back(command in command()) {
        let mut bytes = vec![0xaa];
        encode(&command, &mut bytes);
        let bytes = &bytes[1..];
        let membership = matches!(
            command,
            Command::Join { .. } | Command::Promote { .. } | Command::Remove { .. }
        );
        prop_assert_eq!(is_membership(bytes), membership);
        prop_assert_eq!(decode(bytes), Ok(command));
        for cut in 0..bytes.len() {
            prop_assert!(decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
        let longer = [bytes, &[0]].concat();
        prop_assert!(decode(&longer).is_err());
    }

    #[test]
    fn what_decodes_has_no_second_encoding(command in command(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = Vec::new();
        encode(&command, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = decode(&bytes) {
            let mut again = Vec::new();
            encode(&other, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn noise_is_no_command_or_one_in_its_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(command) = decode(&bytes) {
            let mut again = Vec::new();
            encode(&command, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}

/// One command of each kind on the key space, with its bytes in hexadecimal.
fn samples() -> Vec<(Command, &'static str)> {
    let path = || KeyPath::new("/a/b");
    let value = || Some("v".into());
    vec![
        (Command::Nop, "01"),
        (
            Command::Set {
                path: path(),
                value: value(),
                lease: Some(Lease::of_seconds(1)),
            },
            "020180a8d6b907042f612f620276",
        ),
        (
            Command::Create {
                path: path(),
                value: None,
                lease: None,
                naming: Naming::InOrderPadded,
            },
            "030200042f612f6200",
        ),
        (
            Command::Update {
                path: path(),
                value: value(),
                lease: None,
                refresh: true,
            },
            "040100042f612f620276",
        ),
        (
            Command::CompareAndSwap {
                path: path(),
                value: value(),
                lease: Some(Lease::new(-1, Stamp::new(1, 2))),
                prev_value: Some("".into()),
                prev_index: Some(300),
                or_create: true,
                refresh: false,
            },
            "050100ac0201020101000000000000000200000000000000042f612f620276",
        ),
        (
            Command::Delete {
                path: path(),
                dir: true,
                recursive: false,
            },
            "060100042f612f62",
        ),
        (
            Command::CompareAndDelete {
                path: path(),
                prev_value: None,
                prev_index: Some(300),
            },
            "07ac0200042f612f62",
        ),
    ]
}

/// One command of each kind on the cluster, with its bytes in hexadecimal.
fn cluster_samples() -> Vec<(Command, &'static str)> {
    let config = ClusterConfig {
        active_size: 9,
        remove_delay_ms: 1_800_000,
        sync_interval_ms: 5_000,
    };
    vec![
        (
            Command::Sync {
                stamp: Stamp::new(300, 1),
            },
            "082c010000000000000100000000000000",
        ),
        (
            Command::Join {
                name: "n".into(),
                peer_url: "p".into(),
                client_url: "c".into(),
                incarnation: u64::MAX,
                replaces: Some(1),
            },
            "09ffffffffffffffffff0101016e01700163",
        ),
        (Command::Promote { id: 300 }, "0aac02"),
        (
            Command::Remove {
                id: 300,
                for_good: false,
            },
            "0bac0200",
        ),
        (
            Command::Remove {
                id: 300,
                for_good: true,
            },
            "0bac0201",
        ),
        (Command::SetConfig(config), "0c09c0ee6d8827"),
    ]
}

/// The bytes on disk: a change here is a change of the log's format.
#[test]
fn bytes_of_each_command_stay() {
    for (command, expected) in samples().into_iter().chain(cluster_samples()) {
        let mut bytes = Vec::new();
        encode(&command, &mut bytes);
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hexadecimal, expected, "{command:?}");
        assert_eq!(encoded_len(&command), bytes.len(), "{command:?}");
    }
}

#[test]
fn no_bytes_are_no_command() {
    assert!(!is_membership(b""));
    assert!(decode(b"").is_err());
}
