//! The links of this machine: the way between `Machine` and `peers`, which decides about links.
//!
//! Hands events of links to `peers`. Hands its conclusions (a process came or went, a report, a
//! copied data directory) to the member. Start with [`Machine::on_hello`] and
//! [`Machine::follow_place`].
use super::{Common, Machine, MachineMode};
use crate::core::peers::{
    Hello, HelloRefusal, Introduced, LinkEvent, LinkId, Peers, ProcessChange,
};
use crate::core::raft::{PeerId, Rpc};
use crate::core::random::splitmix64;
use crate::core::seam::{Fact, Order, Outputs, Settings};
use crate::core::timer::Now;

/// Mixed into the seed, so that process numbers differ from other numbers drawn from that seed.
const PROCESS_SEED: u64 = 0x70_726f_6365_7373;

/// The links of a process that is not a member yet.
pub(super) fn peers(settings: &Settings, incarnation: u64, seed: u64) -> Peers {
    let process = splitmix64(seed ^ splitmix64(incarnation ^ PROCESS_SEED)).max(1);
    let me = Introduced {
        id: None,
        cluster: None,
        incarnation,
        process,
        name: settings.name.clone(),
        peer_url: settings.peer_url.clone(),
        client_url: settings.client_url.clone(),
    };
    Peers::new(me, settings.election_ms)
}

impl Common {
    /// Adds the peer URLs of `-peers` and `-peers-file` to the addresses that are dialled: members
    /// may have moved there. The finder adds those of `-discovery`.
    pub(super) fn add_addresses(&mut self, now: Now) {
        let urls = self.search.peers.iter().map(|url| &**url);
        self.peers.add_addresses(now, urls);
    }
}

impl Machine {
    // -- inputs

    /// A hello has arrived on the peer port, from the address `source`. Returns the new link, and
    /// the hello to answer with.
    ///
    /// # Errors
    ///
    /// Why the link is refused.
    pub fn on_hello(
        &mut self,
        now: Now,
        hello: &Hello,
        source: &str,
    ) -> Result<(LinkId, Hello), HelloRefusal> {
        let result = self.common.peers.on_hello(now, hello, source);
        self.pass_link_changes(now);
        self.maybe_end_superseded(now);
        result
    }

    /// An event of the link `link`. A peer may send thousands of pings in a turn, and
    /// `maybe_end_superseded` takes a step for each peer. So only a refusal calls it at once.
    pub fn on_link(&mut self, now: Now, link: LinkId, event: LinkEvent) {
        let is_refusal = matches!(event, LinkEvent::Refused(_));
        self.common.peers.on_event(now, link, event);
        self.pass_link_changes(now);
        if is_refusal {
            self.maybe_end_superseded(now);
        }
    }

    /// A process of a member came or went.
    pub fn on_process(&mut self, now: Now, peer: PeerId, change: ProcessChange) {
        if let MachineMode::Member(member) = &mut self.mode {
            member.on_link(now, peer, change);
        }
        self.check_invariants();
    }

    pub(super) fn on_link_time(&mut self, now: Now) {
        self.common.peers.on_time(now);
        self.pass_link_changes(now);
        self.maybe_end_superseded(now);
    }

    /// Hands the changes and reports of `peers` on: processes that came or went to the member,
    /// reports to the log.
    pub(super) fn pass_link_changes(&mut self, now: Now) {
        for (peer, change) in self.common.peers.take_changes() {
            self.on_process(now, peer, change);
        }
        for report in self.common.peers.take_reports() {
            self.report(Fact::Link(report));
        }
    }

    /// Ends this process if another one has taken its place.
    pub(super) fn maybe_end_superseded(&mut self, now: Now) {
        if let Some(url) = self.common.peers.superseded_by(now) {
            let text = format!(
                "a majority of the voters is connected to another process of this member, at {url}. \
                 Its data directory is a copy of this one, or the other way round: stop one of the \
                 two. To run both, give this one an empty data directory and another -name"
            );
            let order = Order::Fail(text.into());
            match &mut self.mode {
                MachineMode::Member(member) => member.order(order),
                MachineMode::Outside(_) => self.out.orders.push(order),
            }
        }
    }

    // -- outputs

    /// Called after each `advance`: `peers` learns this machine's id, the members, and from the
    /// outputs which notices leave.
    pub(super) fn follow_place(&mut self, now: Now, outputs: &mut Outputs) {
        let peers = &mut self.common.peers;
        let raft = match &mut self.mode {
            MachineMode::Member(member) if member.is_running() => {
                for (peer, violation) in member.replica.take_violations() {
                    peers.on_violation(now, peer, violation);
                }
                Some(member.replica.raft())
            }
            MachineMode::Member(_) | MachineMode::Outside(_) => None,
        };
        for (to, message) in &outputs.send {
            if matches!(message.rpc, Rpc::Removed { .. }) {
                peers.on_notice(*to);
            }
            peers.on_message_sent(now, *to);
        }
        let id = raft.map(|raft| raft.id());
        let cluster = raft.map(|raft| raft.snapshot().cluster).filter(|c| *c != 0);
        let has_moved = peers.follow(id, cluster, self.common.incarnation);
        if let Some(raft) = raft {
            if has_moved || outputs.orders.contains(&Order::FollowMembers) {
                peers.on_members(now, raft.configuration());
            }
            peers.on_leader(now, raft.leader());
        }
        peers.take_orders(&mut outputs.links);
    }

    // -- questions

    /// See [`Peers::refusal_of`].
    pub fn refusal_of(&self, id: PeerId) -> Option<&'static str> {
        self.common.peers.refusal_of(id)
    }

    /// See [`Peers::is_refused_by`].
    pub fn is_refused_by(&self, id: PeerId) -> bool {
        self.common.peers.is_refused_by(id)
    }

    /// The link that carries messages to a peer; `None`: there is none, and messages are dropped.
    pub fn route(&self, to: PeerId) -> Option<LinkId> {
        self.common.peers.route(to)
    }

    /// The peer at the other end of a link; `None`: messages of the link are dropped.
    pub fn peer_of(&self, link: LinkId) -> Option<PeerId> {
        self.common.peers.peer_of(link)
    }
}
