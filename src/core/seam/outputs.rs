//! Outputs: what one `Machine::advance` leaves for the shell. Start with [`Outputs`].
use super::{Answer, Call, Delivery, Fact, SnapshotOut, StandbyInfo};
use crate::core::peers::LinkOrder;
use crate::core::raft::{HardState, Lsn, Message, PeerId, Persist};

/// One batch of outputs. The shell owns it and reuses its memory.
///
/// The shell carries out `orders` last, and each vector from front to back. Between the vectors the
/// order is free, except that `answers` precede `events`.
#[derive(Default)]
pub struct Outputs {
    /// The newest term and vote, if they have changed. `Machine::on_state_synced` with its number
    /// says that it is durable. The shell must make it durable before it writes a record of
    /// `persist` of that term.
    pub state: Option<HardState>,
    /// Records for the log on the disk.
    pub persist: Vec<Persist>,
    /// The number of the last record of `persist`, or of an earlier batch if that is empty.
    /// `Machine::on_synced` with it says that all records up to it are durable.
    pub lsn: Lsn,
    /// The log should be sure to have room for this many bytes of records. The shell makes room if
    /// the disk allows it, and reports by `Machine::on_room`.
    pub wanted_room_bytes: Option<u64>,
    /// Messages for the links. They may leave before `state` and `persist` are synced: the core
    /// withholds those that may not.
    pub send: Vec<(PeerId, Message)>,
    /// Changes of links, to be carried out after `send`.
    pub links: Vec<LinkOrder>,
    /// Answers for the connections.
    pub answers: Vec<Answer>,
    /// Events for watchers. The head of a watcher's answer is among the answers of this batch or
    /// of an earlier one.
    pub events: Vec<Delivery>,
    /// Work on snapshot files.
    pub snapshot: Vec<SnapshotOut>,
    /// Calls to make over HTTP.
    pub calls: Vec<Call>,
    /// Log lines.
    pub facts: Vec<Fact>,
    /// Rare outputs, about this machine's own place and files.
    pub orders: Vec<Order>,
}

/// A rare output. Each is carried out completely before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The cluster has admitted this machine under this id: make the id durable.
    KeepId(PeerId),
    /// Make this durable in the file `standby_info`.
    KeepStandbyInfo {
        /// The new content.
        info: StandbyInfo,
        /// The file also says that the log is given up. A [`Order::Wipe`] follows; if the process
        /// dies before it is carried out, the next start wipes the log.
        gives_up_log: bool,
    },
    /// The members or their addresses have changed: make those of `Machine::configuration`
    /// durable.
    FollowMembers,
    /// Delete log and snapshots, give the data directory a new number, and call
    /// `Machine::on_wiped` with it. `state`, `persist` and `snapshot` of this batch need not be
    /// carried out.
    Wipe,
    /// This machine is the first of its cluster: bootstrap it, and start again as its only member.
    Found,
    /// The cluster is lost: begin a new one with this machine's data (`Machine::go_on_alone`),
    /// and start again as its only member.
    ForceNewCluster,
    /// End the process with exit code 1 and this text, which says why and what to do.
    Fail(Box<str>),
    /// The machine has finished after `Machine::on_stop`: the process may end.
    Stop,
}

impl Outputs {
    /// Whether this batch ends with the deletion of log and snapshots.
    pub fn wipes(&self) -> bool {
        self.orders.contains(&Order::Wipe)
    }

    /// Moves everything to the end of `other`, whose `lsn` becomes the one of `self`.
    pub fn move_to(&mut self, other: &mut Outputs) {
        other.state = self.state.take().or(other.state);
        hand_on(&mut self.persist, &mut other.persist);
        other.lsn = self.lsn;
        let wanted_bytes = self.wanted_room_bytes.take();
        other.wanted_room_bytes = other.wanted_room_bytes.max(wanted_bytes);
        hand_on(&mut self.send, &mut other.send);
        hand_on(&mut self.links, &mut other.links);
        hand_on(&mut self.answers, &mut other.answers);
        hand_on(&mut self.events, &mut other.events);
        hand_on(&mut self.snapshot, &mut other.snapshot);
        hand_on(&mut self.calls, &mut other.calls);
        hand_on(&mut self.facts, &mut other.facts);
        hand_on(&mut self.orders, &mut other.orders);
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.state = None;
        self.wanted_room_bytes = None;
        self.persist.clear();
        self.send.clear();
        self.links.clear();
        self.answers.clear();
        self.events.clear();
        self.snapshot.clear();
        self.calls.clear();
        self.facts.clear();
        self.orders.clear();
    }
}

/// Moves the values of `from` to the end of `to`. Mostly one of the two is empty: then no value is
/// copied.
fn hand_on<T>(from: &mut Vec<T>, to: &mut Vec<T>) {
    if to.is_empty() {
        std::mem::swap(from, to);
    } else if !from.is_empty() {
        to.append(from);
    }
}
