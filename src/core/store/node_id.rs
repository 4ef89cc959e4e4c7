//! The number of a node: its place in the arena of `node`.

/// The place of a node in the arena. It is reused once the node is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

/// The root; it always exists.
pub const ROOT: NodeId = NodeId(0);

impl NodeId {
    /// The node in this place.
    ///
    /// # Panics
    ///
    /// If `place` is 2^32 or more.
    pub fn new(place: usize) -> NodeId {
        NodeId(u32::try_from(place).expect("memory ends before node numbers do"))
    }

    /// The place.
    pub fn place(self) -> usize {
        self.0 as usize
    }
}
