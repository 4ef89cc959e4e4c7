//! The progress of all peers of a leader (etcd-io/raft calls it `ProgressTracker`).
//!
//! Holds one [`Progress`] for each other member of the latest configuration, and for a removed peer
//! until it has left. Empty unless this member leads. Start reading at [`Tracker::refresh`].
use super::message::{Configuration, Index, PeerId};
use super::progress::Progress;

/// How long a removed peer is still sent entries after its removal is committed, in microseconds.
/// So it learns of its removal from its own log, if it is reachable; otherwise a notice of removal
/// tells it when it opens a link.
const FAREWELL_US: u64 = 2_000_000;

/// The peers of a leader.
#[derive(Default)]
pub struct Tracker {
    /// In order of id.
    peers: Vec<Progress>,
}

impl Tracker {
    /// The progress of a peer.
    pub fn get(&self, id: PeerId) -> Option<&Progress> {
        let at = self.position(id)?;
        Some(&self.peers[at])
    }

    /// The progress of a peer.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Progress> {
        let at = self.position(id)?;
        Some(&mut self.peers[at])
    }

    /// The place of a peer, for `at` and `at_mut`. Valid until the next `refresh`, `drop_left` or
    /// `clear`.
    pub fn position(&self, id: PeerId) -> Option<usize> {
        self.peers.binary_search_by_key(&id, Progress::id).ok()
    }

    /// The number of peers.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no peer: this member does not lead, or is the only one.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peer at a place below `len`.
    pub fn at(&self, at: usize) -> &Progress {
        &self.peers[at]
    }

    /// The peer at a place below `len`.
    pub fn at_mut(&mut self, at: usize) -> &mut Progress {
        &mut self.peers[at]
    }

    /// All peers, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &Progress> + Clone {
        self.peers.iter()
    }

    /// All peers, in order of id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Progress> {
        self.peers.iter_mut()
    }

    /// The peers that count for majorities.
    pub fn voters(&self) -> impl Iterator<Item = &Progress> {
        self.peers.iter().filter(|p| p.is_voter())
    }

    /// The slowest of what the peers tell of their syncs, in microseconds; 0 without peers.
    pub fn slowest_sync_us(&self) -> u32 {
        self.peers.iter().map(Progress::sync_us).max().unwrap_or(0)
    }

    /// The configuration of the entry at `index` is in force: new members are added with `next` as
    /// the entry to probe at, and absent ones are leaving.
    pub fn refresh(
        &mut self,
        index: Index,
        configuration: &Configuration,
        own_id: PeerId,
        next: Index,
        now_us: u64,
    ) {
        for peer in &mut self.peers {
            match configuration.get(peer.id()) {
                Some(member) => peer.set_voter(member.voter),
                None => peer.on_removal(index),
            }
        }
        for member in &configuration.members {
            let place = self.peers.binary_search_by_key(&member.id, Progress::id);
            if let Err(at) = place
                && member.id != own_id
            {
                let peer = Progress::new(member.id, member.voter, next, now_us);
                self.peers.insert(at, peer);
            }
        }
    }

    /// The commit index rose to `commit`.
    pub fn on_commit(&mut self, commit: Index, now_us: u64) {
        for peer in &mut self.peers {
            peer.on_commit(commit, now_us + FAREWELL_US);
        }
    }

    /// Drops the removed peers that have left.
    pub fn drop_left(&mut self, commit: Index, now_us: u64) {
        self.peers.retain(|p| !p.has_left(commit, now_us));
    }

    /// This member does not lead any more.
    pub fn clear(&mut self) {
        self.peers.clear();
    }

    /// Part of `Raft::check_invariants`. `last` is the last entry of the log.
    pub fn check_invariants(&self, last: Index) {
        for peer in &self.peers {
            peer.check_invariants(last);
        }
        if cfg!(debug_assertions) {
            assert!(self.peers.is_sorted_by_key(Progress::id), "sorted by id");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Member;
    use super::*;

    const OWN_ID: PeerId = PeerId(1);

    fn configuration(ids: &[u64]) -> Configuration {
        let mut members = Vec::new();
        for id in ids {
            members.push(Member {
                id: PeerId(*id),
                voter: true,
                ..Member::default()
            });
        }
        Configuration {
            members,
            ..Configuration::default()
        }
    }

    #[test]
    fn the_peers_follow_the_configuration() {
        let mut tracker = Tracker::default();
        tracker.refresh(Index(3), &configuration(&[1, 3]), OWN_ID, Index(4), 0);
        tracker.refresh(Index(4), &configuration(&[1, 2, 3]), OWN_ID, Index(5), 0);
        let ids: Vec<PeerId> = tracker.iter().map(Progress::id).collect();
        assert_eq!(ids, [PeerId(2), PeerId(3)]);
        tracker.refresh(Index(5), &configuration(&[1, 2]), OWN_ID, Index(6), 0);
        assert_eq!(tracker.voters().count(), 1);
        assert!(tracker.get(PeerId(3)).is_some_and(Progress::is_leaving));
        tracker.check_invariants(Index(5));
    }

    #[test]
    fn a_removed_peer_is_dropped_after_its_farewell() {
        let mut tracker = Tracker::default();
        tracker.refresh(Index(3), &configuration(&[1, 2]), OWN_ID, Index(4), 0);
        tracker.refresh(Index(4), &configuration(&[1]), OWN_ID, Index(5), 0);
        tracker.on_commit(Index(4), 10);
        tracker.drop_left(Index(4), 10);
        assert_eq!(tracker.len(), 1);
        tracker.drop_left(Index(4), 10 + FAREWELL_US);
        assert!(tracker.is_empty());
    }
}
