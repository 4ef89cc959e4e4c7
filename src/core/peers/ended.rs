//! The end of a member's process, as far as links and dials prove it.
//!
//! A closed link proves little: a router may have closed it. The process has ended if
//! - its machine refuses a dial while no link to the member is open: the kernel of that machine
//!   runs, and nothing listens there; or
//! - another process of the member has opened a link: two are never heard side by side.
//!
//! So the leader is dialled again as soon as one of its links closes. A leader whose process was
//! killed is known to be gone after one round trip, and raft needs no election timeout (PROTOCOL
//! 24).
//!
//! Start with [`Peers::on_closed`].
use super::{LinkId, Peers, ProcessChange};
use crate::core::raft::PeerId;
use crate::core::timer::Now;

/// The least time between two dials of a leader whose links close, in microseconds.
const REDIAL_US: u64 = 10_000;

impl Peers {
    /// A link has ended at the other side, or could not be made.
    pub(super) fn on_closed(&mut self, now: Now, id: LinkId, why: &str) {
        let peer = self.peer_of(id);
        self.remove_link(now, id, why);
        if let Some(leader) = peer.filter(|peer| self.leader == Some(*peer)) {
            self.redial_soon(now, leader);
        }
    }

    /// Dials a member without a dialled link as soon as the last dial is `REDIAL_US` ago.
    fn redial_soon(&mut self, now: Now, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let earliest_us = peer.dialled_us.map_or(0, |at_us| at_us + REDIAL_US);
        let at_us = now.mono_us.max(earliest_us);
        if let Some(redial_us) = &mut peer.redial_us {
            *redial_us = at_us.min(*redial_us);
        }
    }

    /// Nothing listens at the address of a dial.
    pub(super) fn on_not_listening(&mut self, now: Now, id: LinkId) {
        let asked = self.links[&id].peer;
        self.remove_link(now, id, "connection refused");
        if let Some(asked) = asked.filter(|asked| !self.has_open_link(*asked)) {
            self.changes.push((asked, ProcessChange::Ended));
        }
    }

    /// A link to the peer has ended, and messages may be lost with it. If another one is open, its
    /// process is up nevertheless.
    pub(super) fn report_gone(&mut self, id: PeerId) {
        self.changes.push((id, ProcessChange::Gone));
        if self.has_open_link(id) {
            self.changes.push((id, ProcessChange::Up));
        }
    }

    /// Whether a link to the peer is open.
    fn has_open_link(&self, id: PeerId) -> bool {
        self.links
            .values()
            .any(|link| link.peer == Some(id) && link.process().is_some())
    }
}

#[cfg(test)]
mod tests;
