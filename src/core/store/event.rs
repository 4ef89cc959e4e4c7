//! The values that the key space hands out: nodes as clients see them, and events.
//!
//! Plain data; `codec::api` renders it as JSON. Keys and values are shared: an event,
//! the history and the tree hold the same bytes.
use crate::core::cluster_time::ClusterTime;
use std::ops::Deref;
use std::sync::Arc;

/// The etcd index: the number of changes of the key space so far. Each change raises it by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcdIndex(pub u64);

/// The `action` of an event or of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A read; never the action of an event.
    Get,
    /// A node was created, or replaced a file.
    Set,
    /// A node was created where none was.
    Create,
    /// The value or the expiration of a node was changed in place.
    Update,
    /// A file was changed in place, because the conditions held.
    CompareAndSwap,
    /// A node was removed, with all its descendants.
    Delete,
    /// A file was removed, because the conditions held.
    CompareAndDelete,
    /// A node was removed, with all its descendants, because its expiration was due.
    Expire,
}

/// A node as clients see it, without its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The full path.
    pub key: Arc<str>,
    /// A file's value. `None` for a directory, and for the node of an event that removed it.
    pub value: Option<Arc<str>>,
    /// Whether it is a directory. False in the `node` of an `Expire` event, whatever expired.
    pub dir: bool,
    /// When it expires, in nanoseconds. `None`: never. On the cluster clock within the store; as it
    /// is shown, since the Unix epoch, in an event and in all that the store gives out.
    pub expires_ns: Option<u64>,
    /// The etcd index of the last change.
    pub modified: EtcdIndex,
    /// The etcd index of the creation.
    pub created: EtcdIndex,
}

/// A file's value, borrowed. It derefs to its text.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// A short value of the tree.
    Short(&'a str),
    /// A value that can be shared.
    Shared(&'a Arc<str>),
}

impl ValueRef<'_> {
    /// The value for an event. A short one is copied.
    pub fn to_shared(self) -> Arc<str> {
        match self {
            ValueRef::Short(value) => value.into(),
            ValueRef::Shared(value) => value.clone(),
        }
    }
}

impl Deref for ValueRef<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            ValueRef::Short(value) => value,
            ValueRef::Shared(value) => value,
        }
    }
}

/// A node as clients see it, borrowed from the key space or from a [`View`].
#[derive(Clone, Copy, Debug)]
pub struct ViewRef<'a> {
    /// As [`View::key`].
    pub key: &'a str,
    /// As [`View::value`].
    pub value: Option<ValueRef<'a>>,
    /// As [`View::dir`].
    pub dir: bool,
    /// As [`View::expires_ns`].
    pub expires_ns: Option<u64>,
    /// As [`View::modified`].
    pub modified: EtcdIndex,
    /// As [`View::created`].
    pub created: EtcdIndex,
}

/// One change of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The kind of change.
    pub action: Action,
    /// The node after the change. `node.modified` is the etcd index of the event.
    pub node: View,
    /// The node before the change. `None` if there was none.
    pub prev: Option<View>,
    /// The ttl that the change gave to the node, in seconds. `None`: the node never expires, or it is
    /// removed.
    pub ttl_s: Option<i64>,
}

impl Event {
    /// The etcd index to which the change raised the key space.
    pub fn index(&self) -> EtcdIndex {
        self.node.modified
    }

    /// Whether the change removed a directory, and its descendants with it.
    pub fn removes_directory(&self) -> bool {
        match self.action {
            Action::Delete | Action::Expire => self.prev.as_ref().is_some_and(|prev| prev.dir),
            Action::Get
            | Action::Set
            | Action::Create
            | Action::Update
            | Action::CompareAndSwap
            | Action::CompareAndDelete => false,
        }
    }

    /// An estimate of its memory in bytes. The history is cut by it, so it must be the same on
    /// every machine: it depends on the lengths of the strings only.
    pub fn weight(&self) -> usize {
        /// The fixed part of an event.
        const EVENT_BYTES: usize = 160;
        let prev_bytes = self.prev.as_ref().map_or(0, View::weight);
        EVENT_BYTES + self.node.weight() + prev_bytes
    }
}

impl View {
    /// This view, borrowed.
    pub fn borrowed(&self) -> ViewRef<'_> {
        ViewRef {
            key: &self.key,
            value: self.value.as_ref().map(ValueRef::Shared),
            dir: self.dir,
            expires_ns: self.expires_ns,
            modified: self.modified,
            created: self.created,
        }
    }

    /// This view with its expiration as it is shown.
    pub(super) fn shown(mut self, time: &ClusterTime) -> View {
        self.expires_ns = self.expires_ns.map(|at_ns| time.shown_ns(at_ns));
        self
    }

    /// The lengths of the strings, each with an allowance for the allocator.
    fn weight(&self) -> usize {
        const ALLOCATOR_BYTES: usize = 16;
        let value_bytes = self.value.as_ref().map_or(0, |v| v.len() + ALLOCATOR_BYTES);
        self.key.len() + ALLOCATOR_BYTES + value_bytes
    }
}

impl ViewRef<'_> {
    /// This view with its expiration as it is shown.
    pub(super) fn shown(mut self, time: &ClusterTime) -> Self {
        self.expires_ns = self.expires_ns.map(|at_ns| time.shown_ns(at_ns));
        self
    }
}

/// One node of a listing. Items come in path order, a directory before its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    /// 0 for the node that was asked for, 1 for its children, and so on.
    pub depth: u32,
    /// The node.
    pub view: View,
}
