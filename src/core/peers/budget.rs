//! Budgets of peers that are not members: the number of such peers with links, and their bytes.
//!
//! A member that lags behind does not know the members that joined meanwhile, and the leader may be
//! one of them. So messages of unknown peers are accepted. Their bytes count against a budget until
//! the log here, or the snapshot being received, grows by them. Must not decide anything about
//! members. Start with [`Peers::on_progress`].
use super::{HelloRefusal, Peer, Peers};
use crate::core::raft::PeerId;
use crate::core::timer::Now;

/// The most peers that are not members. Each costs two sockets at most.
pub(super) const STRANGERS_MAX: usize = 32;
/// The bytes that a peer that is not a member may send before the log here must have grown by what
/// such peers send. A leader that this machine does not know yet sends far less ahead of an answer.
pub(super) const STRANGER_BYTES_MAX: u64 = 64 << 20;
/// How long the hellos of a peer that has used up its bytes are refused, in microseconds.
pub(super) const BLOCK_US: u64 = 10_000_000;

impl Peer {
    /// Counts bytes of a peer that is not a member. Returns whether the peer has used up its
    /// budget: then its hellos are refused for a while.
    pub(super) fn has_spent_all(&mut self, now: Now, bytes: u64) -> bool {
        self.spent_bytes += bytes;
        if self.spent_bytes <= STRANGER_BYTES_MAX {
            return false;
        }
        self.spent_bytes = 0;
        self.blocked_until_us = now.mono_us + BLOCK_US;
        true
    }
}

impl Peers {
    /// Whether there is room for a link of this peer: members always have it.
    ///
    /// # Errors
    ///
    /// [`HelloRefusal::Busy`].
    pub(super) fn check_room(&mut self, now: Now, id: PeerId) -> Result<(), HelloRefusal> {
        match self.peers.get(&id) {
            Some(peer) if now.mono_us < peer.blocked_until_us => Err(HelloRefusal::Busy),
            Some(_) => Ok(()),
            None => {
                self.peers.retain(|_, peer| {
                    let has_link = peer.dialled.is_some() || peer.accepted.is_some();
                    let is_blocked = now.mono_us < peer.blocked_until_us;
                    peer.is_member || has_link || is_blocked || peer.leave_us.is_some()
                });
                let strangers = self.peers.values().filter(|p| !p.is_member);
                if strangers.count() < STRANGERS_MAX {
                    Ok(())
                } else {
                    Err(HelloRefusal::Busy)
                }
            }
        }
    }

    /// A message of this peer has made the log here grow, or the snapshot being received: the
    /// peer's bytes were of use, so its budget starts anew.
    pub fn on_progress(&mut self, from: PeerId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.spent_bytes = 0;
        }
    }

    /// The log here has room again, so all budgets start anew and no peer stays blocked. Without
    /// room no message could make the log grow, not even one of a leader that this machine does not
    /// know yet.
    pub fn on_room(&mut self) {
        for peer in self.peers.values_mut() {
            peer.spent_bytes = 0;
            peer.blocked_until_us = 0;
        }
    }
}
