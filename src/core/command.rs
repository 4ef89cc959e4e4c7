//! What is in the log: commands on the key space and on the cluster, and their encoding.
//!
//! A command is decided once, by the machine that proposes it (a ttl is already an absolute
//! expiration), and then means the same on every machine that applies it. The encoding is the log's
//! and the wire's: it is versioned by its tag byte, and a tag once given is never given another
//! meaning.

pub use super::varint::Malformed;
use super::varint::{Unpack, put_number, put_optional, put_str, put_time};

/// A clean path in the key space: starts with `/`, no empty segment, no trailing slash; the root is
/// `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Box<str>);

impl KeyPath {
    /// Drops empty segments and a trailing slash: `a//b/` becomes `/a/b`.
    pub fn new(raw: &str) -> KeyPath {
        let mut clean = String::with_capacity(raw.len() + 1);
        for segment in raw.split('/').filter(|s| !s.is_empty()) {
            clean.push('/');
            clean.push_str(segment);
        }
        if clean.is_empty() {
            clean.push('/');
        }
        KeyPath(clean.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments from the top; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }
}

/// The cluster's own settings, as `/v2/admin/config` shows them; there in seconds, which may have a
/// fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How many peers the cluster keeps; at least 3.
    pub active_size: u32,
    /// After how many milliseconds of silence a peer is removed; at least 2,000.
    pub remove_delay_ms: u64,
    /// How often a standby fetches the list of machines, in milliseconds; at least 1,000.
    pub sync_interval_ms: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            active_size: 9,
            remove_delay_ms: 1_800_000,
            sync_interval_ms: 5_000,
        }
    }
}

impl ClusterConfig {
    /// As the interface and the view `/_etcd/config` show it.
    pub fn to_json(&self) -> String {
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        format!(
            "{{\"activeSize\":{},\"removeDelay\":{},\"syncInterval\":{}}}",
            self.active_size,
            seconds(self.remove_delay_ms),
            seconds(self.sync_interval_ms)
        )
    }
}

/// How a created node comes by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It is the path's last segment.
    Given = 0,
    /// The node is a child of the path, named by the new index.
    InOrder = 1,
    /// The same, padded with zeros to 20 digits as 2.x does; in the command, so that all machines
    /// agree.
    InOrderPadded = 2,
}

/// One command of the log. Expirations are nanoseconds since the Unix epoch; `None` is permanent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new leader's first entry; changes nothing.
    Nop,
    /// Create or replace. `value: None` makes a directory.
    Set {
        path: KeyPath,
        value: Option<Box<str>>,
        expires_ns: Option<u64>,
    },
    /// Create; when named in order a child of `path`. `value: None` makes a directory.
    Create {
        path: KeyPath,
        value: Option<Box<str>>,
        expires_ns: Option<u64>,
        naming: Naming,
    },
    /// Change in place; `value: None` keeps the value, `refresh` wakes no watcher.
    Update {
        path: KeyPath,
        value: Option<Box<str>>,
        expires_ns: Option<u64>,
        refresh: bool,
    },
    /// Replace if the conditions hold; `prev_index: 0` is no condition. `value: None` (refresh
    /// only) keeps the value. With `or_create` a missing node is created instead (action
    /// `set`), without it that is error 100.
    CompareAndSwap {
        path: KeyPath,
        value: Option<Box<str>>,
        expires_ns: Option<u64>,
        prev_value: Option<Box<str>>,
        prev_index: u64,
        or_create: bool,
        refresh: bool,
    },
    /// Remove a file, or a directory with `dir` (empty) or `recursive`.
    Delete {
        path: KeyPath,
        dir: bool,
        recursive: bool,
    },
    /// Remove a file if the conditions hold; `prev_index: 0` is no condition.
    CompareAndDelete {
        path: KeyPath,
        prev_value: Option<Box<str>>,
        prev_index: u64,
    },
    /// Let everything expire that is due at `now_ns` (bounded: the store tells whether more is
    /// left).
    Sync { now_ns: u64 },
    /// A machine joins, or changes its addresses. `replaces` names the member (0: none) whose place
    /// it takes.
    Join {
        name: Box<str>,
        peer_url: Box<str>,
        client_url: Box<str>,
        incarnation: u64,
        replaces: u64,
    },
    /// A learner becomes a voter.
    Promote { id: u64 },
    /// A member leaves.
    Remove { id: u64 },
    /// The cluster config changes.
    SetConfig(ClusterConfig),
}

impl Command {
    /// When what it writes expires, to be changed.
    pub fn expires_mut(&mut self) -> Option<&mut u64> {
        match self {
            Command::Set { expires_ns, .. }
            | Command::Create { expires_ns, .. }
            | Command::Update { expires_ns, .. }
            | Command::CompareAndSwap { expires_ns, .. } => expires_ns.as_mut(),
            _ => None,
        }
    }

    /// Whether it is a client's, on the key space.
    pub fn is_write(&self) -> bool {
        use Command::{CompareAndDelete, CompareAndSwap, Create, Delete, Set, Update};
        let changes = matches!(
            self,
            Set { .. } | Create { .. } | Update { .. } | CompareAndSwap { .. }
        );
        changes || matches!(self, Delete { .. } | CompareAndDelete { .. })
    }
}

const NOP: u8 = 1;
const SET: u8 = 2;
const CREATE: u8 = 3;
const UPDATE: u8 = 4;
const COMPARE_AND_SWAP: u8 = 5;
const DELETE: u8 = 6;
const COMPARE_AND_DELETE: u8 = 7;
const SYNC: u8 = 8;
const JOIN: u8 = 9;
const PROMOTE: u8 = 10;
const REMOVE: u8 = 11;
const SET_CONFIG: u8 = 12;

/// Appends a command's encoding to `out`: a tag byte, then its fields as `pack` writes them, flags
/// first, values last.
pub fn encode(command: &Command, out: &mut Vec<u8>) {
    match command {
        Command::Nop => out.push(NOP),
        Command::Set {
            path,
            value,
            expires_ns,
        } => {
            out.push(SET);
            put_node(path, value, *expires_ns, out);
        }
        Command::Create {
            path,
            value,
            expires_ns,
            naming,
        } => {
            out.extend_from_slice(&[CREATE, *naming as u8]);
            put_node(path, value, *expires_ns, out);
        }
        Command::Update {
            path,
            value,
            expires_ns,
            refresh,
        } => {
            out.extend_from_slice(&[UPDATE, u8::from(*refresh)]);
            put_node(path, value, *expires_ns, out);
        }
        Command::CompareAndSwap { .. } => put_compare_and_swap(command, out),
        Command::Delete {
            path,
            dir,
            recursive,
        } => {
            out.extend_from_slice(&[DELETE, u8::from(*dir), u8::from(*recursive)]);
            put_str(path.as_str(), out);
        }
        Command::CompareAndDelete {
            path,
            prev_value,
            prev_index,
        } => {
            out.push(COMPARE_AND_DELETE);
            put_number(*prev_index, out);
            put_optional(prev_value.as_deref(), out);
            put_str(path.as_str(), out);
        }
        Command::Sync { now_ns } => put_numbers(SYNC, &[*now_ns], out),
        Command::Join {
            name,
            peer_url,
            client_url,
            incarnation,
            replaces,
        } => {
            put_numbers(JOIN, &[*incarnation, *replaces], out);
            put_str(name, out);
            put_str(peer_url, out);
            put_str(client_url, out);
        }
        Command::Promote { id } => put_numbers(PROMOTE, &[*id], out),
        Command::Remove { id } => put_numbers(REMOVE, &[*id], out),
        Command::SetConfig(config) => {
            let size = u64::from(config.active_size);
            let fields = [size, config.remove_delay_ms, config.sync_interval_ms];
            put_numbers(SET_CONFIG, &fields, out);
        }
    }
}

fn put_compare_and_swap(command: &Command, out: &mut Vec<u8>) {
    let Command::CompareAndSwap {
        path,
        value,
        expires_ns,
        prev_value,
        prev_index,
        or_create,
        refresh,
    } = command
    else {
        unreachable!("chosen by its tag");
    };
    let flags = [u8::from(*or_create), u8::from(*refresh)];
    out.extend_from_slice(&[COMPARE_AND_SWAP, flags[0], flags[1]]);
    put_number(*prev_index, out);
    put_optional(prev_value.as_deref(), out);
    put_node(path, value, *expires_ns, out);
}

fn put_numbers(tag: u8, numbers: &[u64], out: &mut Vec<u8>) {
    out.push(tag);
    for number in numbers {
        put_number(*number, out);
    }
}

fn put_node(path: &KeyPath, value: &Option<Box<str>>, expires_ns: Option<u64>, out: &mut Vec<u8>) {
    put_time(expires_ns, out);
    put_str(path.as_str(), out);
    put_optional(value.as_deref(), out);
}

/// Reads a command that takes all of `data`.
pub fn decode(data: &[u8]) -> Result<Command, Malformed> {
    let mut from = Unpack::new(data);
    let command = match from.byte()? {
        NOP => Command::Nop,
        SET => {
            let (path, value, expires_ns) = take_node(&mut from)?;
            Command::Set {
                path,
                value,
                expires_ns,
            }
        }
        CREATE => {
            let naming = take_naming(&mut from)?;
            let (path, value, expires_ns) = take_node(&mut from)?;
            Command::Create {
                path,
                value,
                expires_ns,
                naming,
            }
        }
        UPDATE => {
            let refresh = from.flag()?;
            let (path, value, expires_ns) = take_node(&mut from)?;
            Command::Update {
                path,
                value,
                expires_ns,
                refresh,
            }
        }
        COMPARE_AND_SWAP => take_compare_and_swap(&mut from)?,
        DELETE => {
            let (dir, recursive) = (from.flag()?, from.flag()?);
            Command::Delete {
                path: take_path(&mut from)?,
                dir,
                recursive,
            }
        }
        COMPARE_AND_DELETE => {
            let (prev_index, prev_value) = (from.number()?, from.optional()?.map(Box::from));
            Command::CompareAndDelete {
                path: take_path(&mut from)?,
                prev_value,
                prev_index,
            }
        }
        SYNC => Command::Sync {
            now_ns: from.number()?,
        },
        JOIN => take_join(&mut from)?,
        PROMOTE => Command::Promote { id: from.number()? },
        REMOVE => Command::Remove { id: from.number()? },
        SET_CONFIG => Command::SetConfig(ClusterConfig {
            active_size: u32::try_from(from.number()?).map_err(|_| Malformed)?,
            remove_delay_ms: from.number()?,
            sync_interval_ms: from.number()?,
        }),
        _ => return Err(Malformed),
    };
    match from.left() {
        0 => Ok(command),
        _ => Err(Malformed),
    }
}

fn take_path(from: &mut Unpack) -> Result<KeyPath, Malformed> {
    let text = from.str()?;
    let path = KeyPath::new(text);
    match path.as_str() == text {
        true => Ok(path),
        false => Err(Malformed),
    }
}

type NodeFields = (KeyPath, Option<Box<str>>, Option<u64>);

fn take_node(from: &mut Unpack) -> Result<NodeFields, Malformed> {
    let expires_ns = from.time()?;
    let path = take_path(from)?;
    Ok((path, from.optional()?.map(Box::from), expires_ns))
}

fn take_naming(from: &mut Unpack) -> Result<Naming, Malformed> {
    match from.byte()? {
        0 => Ok(Naming::Given),
        1 => Ok(Naming::InOrder),
        2 => Ok(Naming::InOrderPadded),
        _ => Err(Malformed),
    }
}

fn take_compare_and_swap(from: &mut Unpack) -> Result<Command, Malformed> {
    let (or_create, refresh) = (from.flag()?, from.flag()?);
    let (prev_index, prev_value) = (from.number()?, from.optional()?.map(Box::from));
    let (path, value, expires_ns) = take_node(from)?;
    Ok(Command::CompareAndSwap {
        path,
        value,
        expires_ns,
        prev_value,
        prev_index,
        or_create,
        refresh,
    })
}

fn take_join(from: &mut Unpack) -> Result<Command, Malformed> {
    let (incarnation, replaces) = (from.number()?, from.number()?);
    Ok(Command::Join {
        name: from.str()?.into(),
        peer_url: from.str()?.into(),
        client_url: from.str()?.into(),
        incarnation,
        replaces,
    })
}

/// Whether encoded bytes are a Join, a Promote or a Remove; looks at the tag alone.
pub fn is_membership(data: &[u8]) -> bool {
    matches!(data.first(), Some(&(JOIN | PROMOTE | REMOVE)))
}
