//! New addresses of members: a hello carries the URLs of its sender.
//!
//! A sender that advertises another address than the listed one may be the member that has moved,
//! or a copy of its data directory. The listed address decides: it is dialled all the time, and a
//! new address is believed only when no machine with this id answers there. What is believed is
//! proposed by the leader ([`Peers::new_addresses`]).
use super::{Hello, HelloRefusal, MISSING_US, Peer, Peers};
use crate::core::raft::PeerId;
use crate::core::timer::Now;

/// A member's URLs, or its incarnation, that the list does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAddress {
    /// The member.
    pub id: PeerId,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
    /// The number of its data directory.
    pub incarnation: u64,
}

impl Peer {
    /// Whether no machine with this id has answered at the listed address, and no link of it was
    /// heard, for [`MISSING_US`].
    fn is_missing(&self, now_us: u64) -> bool {
        let is_over = |since_us: u64| now_us >= since_us + MISSING_US;
        self.unanswered_since_us.is_some_and(is_over) && self.heard_us.is_none_or(is_over)
    }
}

impl Peers {
    /// Whether the sender of `hello` is heard under the address that it advertises. If that is not
    /// the listed one, the listed one is dialled first.
    pub(super) fn admit_address(&mut self, now: Now, hello: &Hello) -> Result<(), HelloRefusal> {
        let Some(peer) = self.peers.get_mut(&hello.from) else {
            return Ok(());
        };
        let is_listed = !peer.is_member || peer.peer_url == hello.peer_url;
        // A process that was admitted once has gone through this already.
        let is_known = peer.process == Some(hello.process);
        if is_listed || is_known || peer.is_missing(now.mono_us) {
            return Ok(());
        }
        if peer.dialled.is_none() && peer.unanswered_since_us.is_none() {
            peer.redial_us = Some(now.mono_us);
        }
        Err(HelloRefusal::AddressUnproved)
    }

    /// The addresses that a leader is to propose.
    pub fn new_addresses(&self) -> &[NewAddress] {
        &self.new_addresses
    }

    /// Whether another member is listed at `url` and answers there with its id. Two members that
    /// have exchanged their addresses do not.
    pub fn is_taken(&self, url: &str, id: PeerId) -> bool {
        let mut others = self.peers.iter().filter(|(other, _)| **other != id);
        others.any(|(_, peer)| peer.is_member && *peer.peer_url == *url && self.answers(peer))
    }

    /// Whether the member of this name answers at `url`.
    pub fn is_answering_at(&self, name: &str, url: &str) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.is_member && *peer.name == *name && self.answers_at(peer, url))
    }

    fn answers(&self, peer: &Peer) -> bool {
        self.answers_at(peer, &peer.peer_url)
    }

    fn answers_at(&self, peer: &Peer, url: &str) -> bool {
        let Some(link) = peer.dialled.and_then(|link| self.links.get(&link)) else {
            return false;
        };
        link.process().is_some() && link.dialled_url.as_deref() == Some(url)
    }

    pub(super) fn find_new_addresses(&self) -> Vec<NewAddress> {
        let mut found = Vec::new();
        for (id, peer) in &self.peers {
            if !peer.is_member {
                continue;
            }
            let Some(link) = self.route(*id).map(|link| &self.links[&link]) else {
                continue;
            };
            if link.process().is_none() {
                continue;
            }
            let (peer_url, client_url) = &link.advertised;
            let is_listed = *peer_url == peer.peer_url && *client_url == peer.client_url;
            let is_unbound = peer.incarnation == 0 && link.incarnation != 0;
            if (!is_listed || is_unbound) && !self.is_taken(peer_url, *id) {
                found.push(NewAddress {
                    id: *id,
                    peer_url: peer_url.clone(),
                    client_url: client_url.clone(),
                    incarnation: link.incarnation,
                });
            }
        }
        found
    }
}
