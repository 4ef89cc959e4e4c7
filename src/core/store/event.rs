//! What the key space tells of itself: nodes as clients see them, and the events that change them.
//!
//! Plain values; how they read as JSON is the interface's business.

/// The etcd index: raised by one with every change of the key space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcdIndex(pub u64);

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Set,
    Create,
    Update,
    CompareAndSwap,
    Delete,
    CompareAndDelete,
    Expire,
}

/// A node as it is told to a client: no children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its full path.
    pub key: Box<str>,
    /// A file's value; a removed file's view has none.
    pub value: Option<Box<str>>,
    /// A directory. False in the `node` of an `expire` event, whatever it was.
    pub dir: bool,
    /// When it expires, in nanoseconds since the Unix epoch.
    pub expires_ns: Option<u64>,
    /// The etcd index of its last change.
    pub modified: EtcdIndex,
    /// The etcd index of its creation.
    pub created: EtcdIndex,
}

/// One change of the key space, as clients and watchers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// The node after it.
    pub node: View,
    /// The node before it.
    pub prev: Option<View>,
}

impl Event {
    /// The etcd index that it raised the key space to.
    pub fn index(&self) -> EtcdIndex {
        self.node.modified
    }

    /// Whether it took away a directory and with it all that was below.
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

    /// About how many bytes of memory it takes; the same on every kind of machine, because the
    /// history is cut by it.
    pub fn weight(&self) -> usize {
        const EVENT_BYTES: usize = 160;
        let prev = self.prev.as_ref().map_or(0, View::heap_bytes);
        EVENT_BYTES + self.node.heap_bytes() + prev
    }
}

impl View {
    /// Its strings, each with what the allocator adds.
    fn heap_bytes(&self) -> usize {
        const ALLOCATOR_BYTES: usize = 16;
        let value = self.value.as_ref().map_or(0, |v| v.len() + ALLOCATOR_BYTES);
        self.key.len() + ALLOCATOR_BYTES + value
    }
}

/// One node of a listing; items come in path order, a parent before its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    /// 0 for the node asked for, 1 for its children, and so on.
    pub depth: u32,
    /// The node.
    pub view: View,
}
