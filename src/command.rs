//! What is in the log: commands on the key space and on the cluster, and their encoding.
//!
//! A command is decided once, by the machine that proposes it (a ttl is already an absolute expiration), and then means
//! the same on every machine that applies it. The encoding is the log's and the wire's: it is versioned by its tag
//! byte, and a tag once given is never given another meaning.

/// A clean path in the key space: starts with `/`, no empty segment, no trailing slash; the root is `/`.
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

/// The cluster's own settings, as `/v2/admin/config` shows them; there in seconds, which may have a fraction.
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
    Given,
    /// The node is a child of the path, named by the new index.
    InOrder,
    /// The same, padded with zeros to 20 digits as 2.x does; in the command, so that all machines agree.
    InOrderPadded,
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
    /// Replace if the conditions hold; `prev_index: 0` is no condition. `value: None` (refresh only) keeps the value.
    /// With `or_create` a missing node is created instead (action `set`), without it that is error 100.
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
    /// Let everything expire that is due at `now_ns` (bounded: the store tells whether more is left).
    Sync { now_ns: u64 },
    /// A machine joins, or changes its addresses. `replaces` names the member (0: none) whose place it takes.
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

/// Bytes that are no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends a command's encoding to `out`: a tag byte, then its fields.
pub fn encode(_command: &Command, _out: &mut Vec<u8>) {
    todo!()
}

/// Reads a command that takes all of `data`.
pub fn decode(_data: &[u8]) -> Result<Command, Malformed> {
    todo!()
}

/// Whether encoded bytes are a Join, a Promote or a Remove; looks at the tag alone.
pub fn is_membership(_data: &[u8]) -> bool {
    todo!()
}
