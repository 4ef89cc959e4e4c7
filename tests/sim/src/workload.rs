//! What clients ask for: each wish both as a value for the core and as the bytes of an HTTP
//! request, and what the answer proves about it. The two forms must mean the same. Start at `Want`.
use super::locks::LockWant;
use super::params::Params;
use std::sync::Arc;
use tern::core::cluster_time::Lease;
use tern::core::command::{Command, KeyPath, Naming};
use tern::core::error::{Code, Error};
use tern::core::machine::{Op, Outcome, Query};
use tern::core::store::Event;
use tern_support::linear::{Act, Res, Value};
use tern_support::rng::Rng;

/// One thing that a client may want.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// An operation on a register; a swap or conditional delete names the old node by its index
    /// unless that is 0.
    Key {
        key: usize,
        act: Act,
        index: u64,
    },
    /// A plain read of a register, from whichever machine.
    Plain {
        key: usize,
    },
    List {
        path: &'static str,
        recursive: bool,
    },
    InOrder {
        value: u32,
    },
    Ttl {
        key: u64,
        seconds: u64,
    },
    Refresh {
        key: u64,
        seconds: u64,
    },
    MakeDir {
        key: u64,
    },
    /// A value of some size, deep down.
    SetBelow {
        key: u64,
        bytes: usize,
    },
    Hidden {
        key: u64,
    },
    RemoveDir {
        key: u64,
        recursive: bool,
    },
    Watch {
        path: &'static str,
        recursive: bool,
        stream: bool,
        since: Option<u64>,
        timeout_s: Option<u64>,
    },
    Lock(LockWant),
    Ask(Ask),
}

/// Questions whose answers are only looked at for their form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Leader,
    Machines,
    StatsSelf,
    StatsLeader,
    StatsStore,
    ConfigGet,
    MachineList,
}

const ASKS: [Ask; 7] = [
    Ask::Leader,
    Ask::Machines,
    Ask::StatsSelf,
    Ask::StatsLeader,
    Ask::StatsStore,
    Ask::ConfigGet,
    Ask::MachineList,
];

/// What watchers look at.
pub const WATCHED: [&str; 6] = ["/", "/r0", "/r1", "/q", "/d", "/d/1"];

pub fn register(key: usize) -> String {
    format!("/r{key}")
}

/// The register that a path names.
pub fn register_of(path: &str) -> Option<usize> {
    path.strip_prefix("/r")?.parse().ok()
}

pub fn value_text(value: Value) -> String {
    format!("v{value}")
}

pub fn value_of(text: &str) -> Option<Value> {
    text.strip_prefix('v')?.parse().ok()
}

impl Want {
    /// Draws the next wish of a client that has last seen `seen` (value and index) of each
    /// register. `fresh` is a value that was never written before.
    pub fn draw(rng: &mut Rng, p: &Params, seen: &[(Value, u64)], fresh: Value, etcd: u64) -> Want {
        let key = rng.index(p.keys);
        let (from, at) = seen[key];
        let index = if rng.chance(400_000) { at } else { 0 };
        let small = rng.below(4);
        let act = |act, index| Want::Key { key, act, index };
        match rng.below(104) {
            0..18 => act(Act::Get, 0),
            18..40 => act(Act::Set(fresh), 0),
            40..52 => act(Act::Swap { from, to: fresh }, index),
            52..57 => act(Act::Create(fresh), 0),
            57..61 => act(Act::Update(fresh), 0),
            61..64 => act(Act::Delete, 0),
            64..67 => act(Act::CompareDelete { from }, index),
            67..73 => Want::Plain { key },
            73..75 => Want::List {
                path: rng.pick::<&str>(&["/", "/q", "/d"]),
                recursive: rng.chance(500_000),
            },
            75..80 => Want::InOrder { value: fresh },
            80..84 => Want::Ttl {
                key: small,
                seconds: rng.range(1, 4),
            },
            84..86 => Want::Refresh {
                key: small,
                seconds: rng.range(1, 4),
            },
            86..87 => Want::MakeDir { key: small },
            87..90 => Want::SetBelow {
                key: small,
                bytes: p.draw_value_bytes(rng),
            },
            90..91 => Want::Hidden { key: small },
            91..93 => Want::RemoveDir {
                key: small,
                recursive: rng.chance(700_000),
            },
            93..98 => Want::Watch {
                path: rng.pick::<&str>(&WATCHED),
                recursive: rng.chance(600_000),
                stream: rng.chance(500_000),
                since: rng
                    .chance(400_000)
                    .then(|| (etcd + 3).saturating_sub(rng.below(30)).max(1)),
                timeout_s: rng.chance(500_000).then(|| rng.below(4)),
            },
            98..102 => Want::Lock(LockWant::draw(rng)),
            _ => Want::Ask(*rng.pick(&ASKS)),
        }
    }

    /// Whether its history is checked for linearizability.
    pub fn register_act(&self) -> Option<(usize, Act)> {
        match self {
            Want::Key { key, act, .. } => Some((*key, *act)),
            _ => None,
        }
    }

    /// The same as a value for the core.
    pub fn op(&self) -> Op {
        let path = |s: &str| KeyPath::new(s);
        let lease = |seconds: &u64| Some(Lease::of_seconds(*seconds as i64));
        let get = |p: &str, recursive, linearizable| Op::Get {
            path: path(p),
            recursive,
            linearizable,
        };
        let set = |p: String, value: Option<Arc<str>>, lease| {
            Op::Write(Command::Set {
                path: path(&p),
                value,
                lease,
            })
        };
        match self {
            Want::Key { key, act, index } => key_op(path(&register(*key)), *act, *index),
            Want::Plain { key } => get(&register(*key), false, false),
            Want::List { path, recursive } => get(path, *recursive, false),
            Want::InOrder { value } => Op::Write(Command::Create {
                path: path("/q"),
                value: Some(value_text(*value).into()),
                lease: None,
                naming: Naming::InOrder,
            }),
            Want::Ttl { key, seconds } => {
                set(format!("/t/{key}"), Some("x".into()), lease(seconds))
            }
            Want::Refresh { key, seconds } => Op::Write(Command::Update {
                path: path(&format!("/t/{key}")),
                value: None,
                lease: lease(seconds),
                refresh: true,
            }),
            Want::MakeDir { key } => set(format!("/d/{key}"), None, None),
            Want::SetBelow { key, bytes } => set(
                format!("/d/{key}/x/y"),
                Some(format!("deep{}", "x".repeat(*bytes)).into()),
                None,
            ),
            Want::Hidden { key } => set(format!("/d/_h/{key}"), Some("dark".into()), None),
            Want::RemoveDir { key, recursive } => Op::Write(Command::Delete {
                path: path(&format!("/d/{key}")),
                dir: !recursive,
                recursive: *recursive,
            }),
            Want::Watch {
                path: p,
                recursive,
                stream,
                since,
                timeout_s,
            } => Op::Watch {
                path: path(p),
                recursive: *recursive,
                stream: *stream,
                since: *since,
                on_leader: false,
                timeout_us: timeout_s.map(|seconds| seconds * 1_000_000),
            },
            Want::Lock(lock) => lock.op(),
            Want::Ask(ask) => ask.op(),
        }
    }

    /// Whether the request goes to the peer port.
    pub fn on_peer_port(&self) -> bool {
        matches!(self, Want::Ask(Ask::ConfigGet | Ask::MachineList))
    }

    /// Method, target and form of the same as a request.
    fn request(&self) -> (&'static str, String, Option<String>) {
        match self {
            Want::Key { key, act, index } => key_request(*key, *act, *index),
            Want::Plain { key } => ("GET", format!("/v2/keys/r{key}"), None),
            Want::List { path, recursive } => {
                ("GET", format!("/v2/keys{path}?recursive={recursive}"), None)
            }
            Want::InOrder { value } => {
                ("POST", "/v2/keys/q".into(), Some(format!("value=v{value}")))
            }
            Want::Ttl { key, seconds } => (
                "PUT",
                format!("/v2/keys/t/{key}?ttl={seconds}"),
                Some("value=x".into()),
            ),
            Want::Refresh { key, seconds } => (
                "PUT",
                format!("/v2/keys/t/{key}"),
                Some(format!("ttl={seconds}&refresh=true&prevExist=true")),
            ),
            Want::MakeDir { key } => ("PUT", format!("/v2/keys/d/{key}?dir=true"), None),
            Want::SetBelow { key, bytes } => (
                "PUT",
                format!("/v2/keys/d/{key}/x/y"),
                Some(format!("value=%64eep{}", "x".repeat(*bytes))),
            ),
            Want::Hidden { key } => (
                "PUT",
                format!("/v2/keys/d/_h/{key}"),
                Some("value=dark".into()),
            ),
            Want::RemoveDir { key, recursive } => {
                let how = if *recursive {
                    "recursive=true"
                } else {
                    "dir=true"
                };
                ("DELETE", format!("/v2/keys/d/{key}?{how}"), None)
            }
            Want::Watch {
                path,
                recursive,
                stream,
                since,
                timeout_s,
            } => {
                let since = since.map_or(String::new(), |s| format!("&waitIndex={s}"));
                let timeout = timeout_s.map_or(String::new(), |s| format!("&timeout={s}"));
                let how = format!("recursive={recursive}&stream={stream}{since}{timeout}");
                ("GET", format!("/v2/keys{path}?wait=true&{how}"), None)
            }
            Want::Lock(lock) => lock.request(),
            Want::Ask(ask) => ("GET", ask.target().into(), None),
        }
    }

    /// The same as the bytes of a request.
    pub fn raw(&self) -> Vec<u8> {
        let (method, target, form) = self.request();
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: tern\r\n");
        if let Some(form) = form {
            bytes += &format!(
                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                form.len()
            );
        } else {
            bytes += "\r\n";
        }
        bytes.into_bytes()
    }
}

impl Ask {
    fn op(self) -> Op {
        Op::Query(match self {
            Ask::Leader => Query::Leader,
            Ask::Machines => Query::Machines,
            Ask::StatsSelf => Query::StatsSelf,
            Ask::StatsLeader => Query::StatsLeader,
            Ask::StatsStore => Query::StatsStore,
            Ask::ConfigGet => Query::ConfigGet,
            Ask::MachineList => Query::MachineList,
        })
    }

    fn target(&self) -> &'static str {
        match self {
            Ask::Leader => "/v2/leader",
            Ask::Machines => "/v2/machines",
            Ask::StatsSelf => "/v2/stats/self",
            Ask::StatsLeader => "/v2/stats/leader",
            Ask::StatsStore => "/v2/stats/store",
            Ask::ConfigGet => "/v2/admin/config",
            Ask::MachineList => "/v2/admin/machines",
        }
    }
}

fn key_op(path: KeyPath, act: Act, index: u64) -> Op {
    let prev = |from: Value| {
        if index == 0 {
            (Some(value_text(from).into()), None)
        } else {
            (None, Some(index))
        }
    };
    let value = |v: Value| Some(value_text(v).into());
    Op::Write(match act {
        Act::Get => {
            return Op::Get {
                path,
                recursive: false,
                linearizable: true,
            };
        }
        Act::Set(v) => Command::Set {
            path,
            value: value(v),
            lease: None,
        },
        Act::Create(v) => Command::Create {
            path,
            value: value(v),
            lease: None,
            naming: Naming::Given,
        },
        Act::Update(v) => Command::Update {
            path,
            value: value(v),
            lease: None,
            refresh: false,
        },
        Act::Swap { from, to } => {
            let (prev_value, prev_index) = prev(from);
            Command::CompareAndSwap {
                path,
                value: value(to),
                lease: None,
                prev_value,
                prev_index,
                or_create: false,
                refresh: false,
            }
        }
        Act::Delete => Command::Delete {
            path,
            dir: false,
            recursive: false,
        },
        Act::CompareDelete { from } => {
            let (prev_value, prev_index) = prev(from);
            Command::CompareAndDelete {
                path,
                prev_value,
                prev_index,
            }
        }
    })
}

fn key_request(key: usize, act: Act, index: u64) -> (&'static str, String, Option<String>) {
    let target = format!("/v2/keys/r{key}");
    let prev = |from: Value| {
        if index == 0 {
            format!("prevValue=v{from}")
        } else {
            format!("prevIndex={index}")
        }
    };
    match act {
        Act::Get => ("GET", format!("{target}?quorum=true"), None),
        Act::Set(v) => ("PUT", target, Some(format!("value=v{v}"))),
        Act::Create(v) => ("PUT", target, Some(format!("value=v{v}&prevExist=false"))),
        Act::Update(v) => ("PUT", target, Some(format!("value=v{v}&prevExist=true"))),
        Act::Swap { from, to } => (
            "PUT",
            target,
            Some(format!("value=v{to}&prevExist=true&{}", prev(from))),
        ),
        Act::Delete => ("DELETE", target, None),
        Act::CompareDelete { from } => ("DELETE", format!("{target}?{}", prev(from)), None),
    }
}

/// What an answer proves about an operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// This was the result.
    Result(Res),
    /// It never happened and never will.
    Never,
    /// The outcome is unknown.
    Open,
    /// Ask another machine; it has not happened here.
    Elsewhere,
}

fn old_value(event: &Event) -> Option<Value> {
    value_of(event.prev.as_ref()?.value.as_deref()?)
}

/// Reads an answer to an operation on a register.
pub fn told(act: Act, outcome: &Outcome) -> Told {
    match outcome {
        Outcome::Event(event) => Told::Result(Res::Done(old_value(event))),
        Outcome::Page { items, .. } => {
            let value = items
                .first()
                .and_then(|i| value_of(i.view.value.as_deref()?));
            Told::Result(Res::Value(value))
        }
        Outcome::Redirect { .. } => Told::Elsewhere,
        Outcome::Failed(error) => failed(act, error),
        _ => Told::Open,
    }
}

fn failed(act: Act, error: &Error) -> Told {
    match error.code {
        Code::KeyNotFound if act == Act::Get => Told::Result(Res::Value(None)),
        Code::KeyNotFound => Told::Result(Res::Missing),
        Code::KeyExists => Told::Result(Res::Exists),
        Code::CompareFailed => Told::Result(Res::Differs),
        Code::RaftInternal if &*error.cause == "outcome unknown" => Told::Open,
        Code::RaftInternal | Code::LeaderElect | Code::StandbyInternal => Told::Never,
        _ => Told::Open,
    }
}

/// Whether an answer means that this machine cannot help.
pub fn failed_for_good(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(e) => matches!(
            e.code,
            Code::RaftInternal | Code::LeaderElect | Code::StandbyInternal
        ),
        _ => false,
    }
}
