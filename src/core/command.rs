//! The commands of the log, on the key space and on the cluster, and their encoding.
//!
//! A command is decided once, by the machine that proposes it: a ttl is stamped with the time at
//! which the leader took it, for example. It then has the same effect on each machine that applies it.
//!
//! The encoding stands in the table of fields below. It is stored in the log and sent between
//! members. A tag that was once given is never given another meaning.
use super::cluster_time::{Lease, OptionalLease, Stamp};
use super::fields::{Codec, Flag, Number, OptionalNumber, OptionalText, Tagged, Text, fields};
use super::identity;
pub use super::varint::Malformed;
use super::varint::{Unpack, number_bytes, put_str};
use std::sync::Arc;

/// A clean path in the key space. It starts with `/` and has no empty segment and no trailing
/// slash. The root is `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Arc<str>);

impl KeyPath {
    /// Drops empty segments and a trailing slash: `a//b/` becomes `/a/b`.
    pub fn new(raw: &str) -> KeyPath {
        if KeyPath::is_clean(raw) {
            return KeyPath(raw.into());
        }
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

    /// Whether `KeyPath::new` would leave a path as it is.
    pub fn is_clean(raw: &str) -> bool {
        let has_empty_segment = raw.as_bytes().windows(2).any(|pair| pair == b"//");
        raw == "/" || raw.starts_with('/') && !raw.ends_with('/') && !has_empty_segment
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as shared text.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// The segments from the top; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }
}

/// The settings that all machines of a cluster share. `/v2/admin/config` shows the times in
/// seconds, with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Most members of the cluster; at least 3.
    pub active_size: u32,
    /// Milliseconds of silence after which the leader removes a member; at least 2,000.
    pub remove_delay_ms: u64,
    /// Milliseconds between two fetches of the list of machines by a standby; at least 1,000.
    pub sync_interval_ms: u64,
}

impl ClusterConfig {
    /// The least `active_size`.
    pub const ACTIVE_SIZE_MIN: u32 = 3;
    /// The least `remove_delay_ms`.
    pub const REMOVE_DELAY_MS_MIN: u64 = 2_000;
    /// The least `sync_interval_ms`.
    pub const SYNC_INTERVAL_MS_MIN: u64 = 1_000;
    /// The longest time in the config, in milliseconds: a hundred years. The bound keeps sums of
    /// times from overflowing.
    pub const MS_MAX: u64 = 100 * 365 * 86_400_000;

    /// This config with all fields brought within their bounds.
    pub fn clamped(self) -> ClusterConfig {
        let max = ClusterConfig::MS_MAX;
        let delay_ms = self.remove_delay_ms;
        let interval_ms = self.sync_interval_ms;
        ClusterConfig {
            active_size: self.active_size.max(ClusterConfig::ACTIVE_SIZE_MIN),
            remove_delay_ms: delay_ms.clamp(ClusterConfig::REMOVE_DELAY_MS_MIN, max),
            sync_interval_ms: interval_ms.clamp(ClusterConfig::SYNC_INTERVAL_MS_MIN, max),
        }
    }
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
    /// The JSON object of `/v2/admin/config` and of the key `/_etcd/config`.
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

/// How a created node gets its name. Part of the command, so that all machines agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The name is the last segment of the path.
    Given = 0,
    /// The node is a child of the path, and its name is the new index.
    InOrder = 1,
    /// As `InOrder`, padded with zeros to 20 digits as in 2.x.
    InOrderPadded = 2,
}

/// A command of the log.
///
/// `path` is the node that the command is about. `value` is the content of a file. `lease` is the
/// ttl of the node, stamped by the leader; `None` is permanent. `prev_value` and `prev_index` are
/// conditions on the present node; `None` is no condition. No index and no id is 0: the encoding
/// has 0 for `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are explained above, their order in the table below"
)]
pub enum Command {
    /// The first entry of a new leader. Changes nothing.
    Nop,
    /// Creates or replaces a node. `value: None` makes a directory.
    Set {
        path: KeyPath,
        value: Option<Arc<str>>,
        lease: Option<Lease>,
    },
    /// Creates a node: `path` itself, or a child of it that is named in order. `value: None` makes
    /// a directory.
    Create {
        path: KeyPath,
        value: Option<Arc<str>>,
        lease: Option<Lease>,
        naming: Naming,
    },
    /// Changes a node in place. `value: None` keeps the value. With `refresh` no watcher is woken.
    Update {
        path: KeyPath,
        value: Option<Arc<str>>,
        lease: Option<Lease>,
        refresh: bool,
    },
    /// Changes a file if the conditions hold. `value: None`, with `refresh` only, keeps the value.
    /// With `or_create` a missing node is created (action `set`) instead of being error 100.
    CompareAndSwap {
        path: KeyPath,
        value: Option<Arc<str>>,
        lease: Option<Lease>,
        prev_value: Option<Box<str>>,
        prev_index: Option<u64>,
        or_create: bool,
        refresh: bool,
    },
    /// Removes a file; with `dir` an empty directory, with `recursive` any directory.
    Delete {
        path: KeyPath,
        dir: bool,
        recursive: bool,
    },
    /// Removes a file if the conditions hold.
    CompareAndDelete {
        path: KeyPath,
        prev_value: Option<Box<str>>,
        prev_index: Option<u64>,
    },
    /// Expires nodes that are due at the stamp. The store bounds their number and tells whether
    /// more are due. Times are shown by the wall clock of the stamp from now on.
    Sync { stamp: Stamp },
    /// A machine joins, or a member changes its addresses. `incarnation` is the random number of
    /// its data directory, 0 if unknown. `replaces` is the id of the member in whose place it
    /// joins.
    Join {
        name: Box<str>,
        peer_url: Box<str>,
        client_url: Box<str>,
        incarnation: u64,
        replaces: Option<u64>,
    },
    /// A learner becomes a voter.
    Promote { id: u64 },
    /// A member leaves. With `for_good` its machine is not admitted again with the same data
    /// directory.
    Remove { id: u64, for_good: bool },
    /// The cluster config changes.
    SetConfig(ClusterConfig),
}

impl Command {
    /// The path and the new value that it writes; no value: a directory. `None` if it writes no new
    /// content.
    pub fn content(&self) -> Option<(&KeyPath, Option<&str>)> {
        match self {
            Command::Set { path, value, .. } | Command::Create { path, value, .. } => {
                Some((path, value.as_deref()))
            }
            Command::Update { path, value, .. } | Command::CompareAndSwap { path, value, .. } => {
                Some((path, Some(value.as_deref()?)))
            }
            Command::Nop
            | Command::Delete { .. }
            | Command::CompareAndDelete { .. }
            | Command::Sync { .. }
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => None,
        }
    }

    /// The path of a write to the key space.
    pub fn path(&self) -> Option<&KeyPath> {
        match self {
            Command::Set { path, .. }
            | Command::Create { path, .. }
            | Command::Update { path, .. }
            | Command::CompareAndSwap { path, .. }
            | Command::Delete { path, .. }
            | Command::CompareAndDelete { path, .. } => Some(path),
            Command::Nop
            | Command::Sync { .. }
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => None,
        }
    }

    /// The lease of the node that it writes.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Command::Set { lease, .. }
            | Command::Create { lease, .. }
            | Command::Update { lease, .. }
            | Command::CompareAndSwap { lease, .. } => lease.as_ref(),
            _ => None,
        }
    }

    /// The lease of the node that it writes, to be taken by the leader.
    pub fn lease_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Command::Set { lease, .. }
            | Command::Create { lease, .. }
            | Command::Update { lease, .. }
            | Command::CompareAndSwap { lease, .. } => lease.as_mut(),
            _ => None,
        }
    }

    /// When the leader took the command, if that is part of it.
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Command::Sync { stamp } => Some(*stamp),
            _ => self.lease()?.stamp(),
        }
    }

    /// Whether a leader that takes this command appends `taken`: the two differ in the stamp of the
    /// lease alone.
    pub fn is_taken_as(&self, taken: &Command) -> bool {
        let mut asked = self.clone();
        if let (Some(lease), Some(stamp)) = (asked.lease_mut(), taken.stamp()) {
            lease.take(stamp);
        }
        asked == *taken
    }

    /// Whether a correct machine can have proposed it. A machine applies no other command: its
    /// effects on the cluster could not be undone.
    pub fn is_sound(&self) -> bool {
        match self {
            Command::Join {
                name,
                peer_url,
                client_url,
                ..
            } => {
                identity::is_name(name)
                    && identity::is_url(peer_url)
                    && identity::is_url(client_url)
            }
            Command::Promote { id } | Command::Remove { id, .. } => *id != 0,
            Command::SetConfig(config) => *config == config.clamped(),
            Command::Sync { stamp } => stamp.is_sound(),
            _ => self.lease().is_none_or(Lease::is_sound),
        }
    }

    /// Whether it is a client's command, on the key space.
    pub fn is_write(&self) -> bool {
        match self {
            Command::Set { .. }
            | Command::Create { .. }
            | Command::Update { .. }
            | Command::CompareAndSwap { .. }
            | Command::Delete { .. }
            | Command::CompareAndDelete { .. } => true,
            Command::Nop
            | Command::Sync { .. }
            | Command::Join { .. }
            | Command::Promote { .. }
            | Command::Remove { .. }
            | Command::SetConfig(_) => false,
        }
    }
}

fields! {
    Command {
        NOP = 1: Nop {};
        SET = 2: Set { path, value, lease } =>
            lease: OptionalLease, path: KeyPath, value: OptionalText;
        CREATE = 3: Create { path, value, lease, naming } =>
            naming: Naming, lease: OptionalLease, path: KeyPath, value: OptionalText;
        UPDATE = 4: Update { path, value, lease, refresh } =>
            refresh: Flag, lease: OptionalLease, path: KeyPath, value: OptionalText;
        COMPARE_AND_SWAP = 5: CompareAndSwap {
            path, value, lease, prev_value, prev_index, or_create, refresh
        } =>
            or_create: Flag, refresh: Flag, prev_index: OptionalNumber, prev_value: OptionalText,
            lease: OptionalLease, path: KeyPath, value: OptionalText;
        DELETE = 6: Delete { path, dir, recursive } =>
            dir: Flag, recursive: Flag, path: KeyPath;
        COMPARE_AND_DELETE = 7: CompareAndDelete { path, prev_value, prev_index } =>
            prev_index: OptionalNumber, prev_value: OptionalText, path: KeyPath;
        SYNC = 8: Sync { stamp } => stamp: Stamp;
        JOIN = 9: Join { name, peer_url, client_url, incarnation, replaces } =>
            incarnation: Number, replaces: OptionalNumber, name: Text, peer_url: Text, client_url: Text;
        PROMOTE = 10: Promote { id } => id: Number;
        REMOVE = 11: Remove { id, for_good } => id: Number, for_good: Flag;
        SET_CONFIG = 12: SetConfig(config) => config: ClusterConfig;
    }
}

/// Appends a command to `out`: its tag, then the fields of its row in the table.
pub fn encode(command: &Command, out: &mut Vec<u8>) {
    Tagged::put(command, out);
}

/// How many bytes `encode` appends.
pub fn encoded_len(command: &Command) -> usize {
    Tagged::size(command)
}

/// Reads a command that takes all of `data`. Its origin, if it has one, is skipped: it has no effect
/// on the key space.
///
/// # Errors
///
/// If `data` is not what `encode` or `encode_forwarded` appends for some command.
pub fn decode(data: &[u8]) -> Result<Command, Malformed> {
    let mut from = Unpack::new(data);
    let origin = take_origin(&mut from)?;
    let command: Command = Tagged::take(&mut from)?;
    // Membership is recognised by the first byte, see `is_membership`.
    let is_fit = origin.is_none() || command.is_write();
    match from.left() {
        0 if is_fit => Ok(command),
        _ => Err(Malformed),
    }
}

/// Whether `decode` would return a Set without a time to live, the most frequent command. Allocates
/// nothing: a follower asks this of each entry before it takes it, and decodes it when it is
/// committed.
pub fn is_lasting_set(data: &[u8]) -> bool {
    is_lasting_set_at(&mut Unpack::new(data)).unwrap_or(false)
}

fn is_lasting_set_at(from: &mut Unpack) -> Result<bool, Malformed> {
    take_origin(from)?;
    let is_lasting = from.byte()? == SET && OptionalLease::take(from)?.is_none();
    let is_sound = is_lasting && KeyPath::is_clean(from.str()?);
    from.optional()?;
    Ok(is_sound && from.left() == 0)
}

/// The request of a client that a follower has forwarded. The log entry of its command names it, so
/// that the follower learns the outcome of the request when it applies the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The random number of the follower's process.
    pub process: u64,
    /// Rises by one with each request of that process.
    pub number: u64,
}

/// The tag of an origin, which stands before the tag of a write.
const FORWARDED: u8 = 13;

/// Appends an origin and the write that came from it to `out`.
pub fn encode_forwarded(origin: Origin, write: &Command, out: &mut Vec<u8>) {
    out.push(FORWARDED);
    Number::put(&origin.process, out);
    Number::put(&origin.number, out);
    encode(write, out);
}

/// The origin of an encoded command; `None` if no follower has forwarded it.
pub fn origin(data: &[u8]) -> Option<Origin> {
    take_origin(&mut Unpack::new(data)).ok()?
}

fn take_origin(from: &mut Unpack) -> Result<Option<Origin>, Malformed> {
    if from.peek() != Some(FORWARDED) {
        return Ok(None);
    }
    from.byte()?;
    Ok(Some(Origin {
        process: Number::take(from)?,
        number: Number::take(from)?,
    }))
}

/// Whether encoded bytes are a Join, a Promote or a Remove. Looks at the tag alone.
pub fn is_membership(data: &[u8]) -> bool {
    matches!(data.first(), Some(&(JOIN | PROMOTE | REMOVE)))
}

/// A path is a string, and only a clean one is read: each path has one encoding.
impl Codec<KeyPath> for KeyPath {
    fn put(value: &KeyPath, out: &mut Vec<u8>) {
        put_str(value.as_str(), out);
    }

    fn size(value: &KeyPath) -> usize {
        number_bytes(value.0.len() as u64) + value.0.len()
    }

    fn take(from: &mut Unpack) -> Result<KeyPath, Malformed> {
        let text = from.str()?;
        if !KeyPath::is_clean(text) {
            return Err(Malformed);
        }
        Ok(KeyPath(text.into()))
    }
}

impl Codec<Naming> for Naming {
    fn put(value: &Naming, out: &mut Vec<u8>) {
        out.push(*value as u8);
    }

    fn size(_: &Naming) -> usize {
        1
    }

    fn take(from: &mut Unpack) -> Result<Naming, Malformed> {
        match from.byte()? {
            0 => Ok(Naming::Given),
            1 => Ok(Naming::InOrder),
            2 => Ok(Naming::InOrderPadded),
            _ => Err(Malformed),
        }
    }
}

impl Codec<ClusterConfig> for ClusterConfig {
    fn put(value: &ClusterConfig, out: &mut Vec<u8>) {
        Number::put(&value.active_size, out);
        Number::put(&value.remove_delay_ms, out);
        Number::put(&value.sync_interval_ms, out);
    }

    fn size(value: &ClusterConfig) -> usize {
        let delays = Number::size(&value.remove_delay_ms) + Number::size(&value.sync_interval_ms);
        Number::size(&value.active_size) + delays
    }

    fn take(from: &mut Unpack) -> Result<ClusterConfig, Malformed> {
        Ok(ClusterConfig {
            active_size: Number::take(from)?,
            remove_delay_ms: Number::take(from)?,
            sync_interval_ms: Number::take(from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the bytes, a Set is found only where `decode` finds it.
    #[test]
    fn a_set_is_recognised_without_its_text() {
        let set = Command::Set {
            path: KeyPath::new("/a/b"),
            value: Some("v\u{e9}".into()),
            lease: None,
        };
        let mut forwarded = Vec::new();
        let origin = Origin {
            process: 1,
            number: 300,
        };
        encode_forwarded(origin, &set, &mut forwarded);
        let mut plain = Vec::new();
        encode(&set, &mut plain);
        assert!(is_lasting_set(&plain) && is_lasting_set(&forwarded));
        for good in [plain, forwarded] {
            for end in 0..good.len() {
                assert!(!is_lasting_set(&good[..end]));
            }
            assert!(!is_lasting_set(&[good.as_slice(), &[0]].concat()));
            for at in 0..good.len() {
                for byte in 0..=u8::MAX {
                    let mut other = good.clone();
                    other[at] = byte;
                    let decoded = decode(&other);
                    let is_set = matches!(decoded, Ok(Command::Set { lease: None, .. }));
                    assert_eq!(is_lasting_set(&other), is_set, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (raw, clean) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("a", "/a"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("a//b/", "/a/b"),
            ("/a/b", "/a/b"),
        ] {
            assert_eq!(KeyPath::new(raw).as_str(), clean, "{raw:?}");
        }
    }
}
