//! This machine: finding the cluster, peer mode, standby mode, switching between them.
//!
//! `Machine` is the core as one value. The shell gives it inputs (`on_…`), asks for one batch of outputs (`advance`)
//! and carries them out; `seam` holds the types of both directions.
pub mod seam;

pub use seam::*;

use crate::raft::{Configuration, Lsn, Message, PeerId};
use crate::timer::Now;

/// The core of one machine.
pub struct Machine {}

impl Machine {
    /// The first state of a new cluster whose only member is this machine.
    pub fn bootstrap(_settings: &Settings, _incarnation: u64, _seed: u64) -> Founding {
        todo!()
    }

    /// Takes up what the disk holds. With an `id` and no snapshot this is a member that was just let in.
    pub fn recover(_settings: Settings, _recovered: Recovered, _seed: u64, _now: Now) -> Machine {
        todo!()
    }

    // -- inputs

    /// A client or an admin asks; or says `More` or `Gone` of an earlier ticket.
    pub fn on_request(&mut self, _now: Now, _ticket: Ticket, _op: Op) {
        todo!()
    }

    /// A raft message came in over the link to `from`.
    pub fn on_message(&mut self, _now: Now, _from: PeerId, _message: Message) {
        todo!()
    }

    /// A link to a member opened, or its process is gone.
    pub fn on_link(&mut self, _now: Now, _peer: PeerId, _state: LinkState) {
        todo!()
    }

    /// Everything up to this Lsn is durable.
    pub fn on_synced(&mut self, _now: Now, _lsn: Lsn) {
        todo!()
    }

    /// What became of something in `Effects::snapshot`.
    pub fn on_snapshot(&mut self, _now: Now, _input: SnapshotIn) {
        todo!()
    }

    /// The disk is filling up, or has room again.
    pub fn on_space(&mut self, _now: Now, _space: Space) {
        todo!()
    }

    /// Time has passed: at `next_deadline` at the latest.
    pub fn on_time(&mut self, _now: Now) {
        todo!()
    }

    /// Hand over and finish; `Effects::stopped` says when that is done.
    pub fn on_stop(&mut self, _now: Now) {
        todo!()
    }

    // -- outputs

    /// Applies what is committed, does a slice of what is long, and appends to `effects` what there is to do.
    pub fn advance(&mut self, _now: Now, _effects: &mut Effects) {
        todo!()
    }

    /// There is sliced work left: advance again without waiting.
    pub fn wants_turn(&self) -> bool {
        todo!()
    }

    /// When `on_time` has something to do, in `mono_us`; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        todo!()
    }

    // -- what it is

    /// This machine's id in its cluster.
    pub fn id(&self) -> PeerId {
        todo!()
    }

    /// What it is in its cluster now.
    pub fn role(&self) -> Role {
        todo!()
    }

    /// The present indexes.
    pub fn indexes(&self) -> Indexes {
        todo!()
    }

    /// The cluster's random identity; 0 before it is known.
    pub fn cluster(&self) -> u64 {
        todo!()
    }

    /// The latest configuration in the log: whom to link to.
    pub fn configuration(&self) -> &Configuration {
        todo!()
    }
}
